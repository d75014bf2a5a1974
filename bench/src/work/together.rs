//! Appends of many clients at once: through the library, over HTTP, and by bare SQLite in its best shape.

use std::rc::Rc;

use bench_protocol::{Job, Texts, Took};

use super::{CLIENTS, histories};
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, median, percentile, ratios},
    http::{self, Address},
    peer::Peer,
};

/// The number of the first text.
const FIRST: u64 = 1 << 33;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let (data, plan) = histories(bench);
    let (ours, bare) = (bench.copy(data, &plan, "culm")?, bench.copy(data, &plan, "sqlite")?);
    let server = bench.serve(data, &plan)?;
    bench.culm.open(&ours)?;
    bench.sqlite.open(&bare)?;
    bench.sqlite.ask(&Job::Unhook {})?;
    for clients in [1, 8, CLIENTS] {
        at_once(bench, clients, &server.address)?;
    }
    bench.culm.close()?;
    bench.sqlite.close()
}

fn at_once(bench: &mut Bench, clients: usize, server: &Address) -> Outcome<()> {
    let count = match clients {
        CLIENTS => bench.sized(12_800, 3200),
        _ => bench.sized(1600, 400),
    };
    let warm = count / 8;
    append(&mut bench.culm, clients, warm)?;
    append(&mut bench.sqlite, clients, warm)?;
    over_http(server, &bench.texts, clients, warm, 0)?;
    let (mut culm, mut sqlite, mut http) = (Vec::new(), Vec::new(), Vec::new());
    let mut waits = Vec::new();
    for repeat in 0..bench.repeats {
        culm.push(rate(&append(&mut bench.culm, clients, count)?));
        sqlite.push(rate(&append(&mut bench.sqlite, clients, count)?));
        let took = over_http(server, &bench.texts, clients, count, repeat as u64 + 1)?;
        http.push(rate(&took));
        waits.push((median(&took.micros), percentile(&took.micros, 0.99)));
    }
    bench.add_sized("together.culm_clients", clients, Unit::PerSecond, &culm);
    bench.add_sized("together.sqlite_clients", clients, Unit::PerSecond, &sqlite);
    bench.add_sized("together.http_clients", clients, Unit::PerSecond, &http);
    if clients == CLIENTS {
        let (p50, p99): (Vec<f64>, Vec<f64>) = waits.into_iter().unzip();
        bench.add_values("together.share_of_sqlite", Unit::Times, &ratios(&culm, &sqlite));
        bench.add_values("together.http_share_of_sqlite", Unit::Times, &ratios(&http, &sqlite));
        bench.add_values("together.http_p50", Unit::Microseconds, &p50);
        bench.add_values("together.http_p99", Unit::Microseconds, &p99);
        bench.add_values("together.http_p99_over_p50", Unit::Times, &ratios(&p99, &p50));
    }
    Ok(())
}

fn append(peer: &mut Peer, clients: usize, count: usize) -> Outcome<Took> {
    peer.ask(&Job::AppendTogether { prefix: "client".into(), clients, count })
}

fn over_http(server: &Address, texts: &Texts, clients: usize, count: usize, pass: u64) -> Outcome<Took> {
    let each = count / clients;
    let request = |client: usize, place: usize| -> Rc<[u8]> {
        let text = texts.of_a_kib(FIRST + (pass << 24) + (client * each + place) as u64);
        post_message(server, &format!("client{client}"), &text).into()
    };
    let requests = (0..clients).map(|client| (0..each).map(|place| request(client, place)).collect());
    http::load(server, requests.collect())
}

/// Appends a message whose text is words.
pub(super) fn post_message(server: &Address, session: &str, text: &str) -> Vec<u8> {
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    server.post(&format!("/api/v1/sessions/{session}/messages"), &body)
}

pub(super) fn rate(took: &Took) -> f64 {
    took.micros.len() as f64 / took.seconds
}
