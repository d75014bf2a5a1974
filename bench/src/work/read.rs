//! What is read often, over HTTP, against answers of that size that are ready: a session, and the last page of 100
//! messages.

use super::histories;
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, ratios},
    http::{self, Address},
    server::Server,
};

const CLIENTS: usize = 8;
/// How often the two servers take turns in a repeat: what the machine does meanwhile meets both.
const TURNS: usize = 10;
const SESSION: &str = "/api/v1/sessions/n1000";
const PAGE: &str = "/api/v1/sessions/n1000/messages?order=desc&limit=100";

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let (data, plan) = histories(bench);
    let server = bench.serve(data, &plan)?;
    let size = |target| Outcome::Ok(http::once(&server.address, &server.address.get(target))?.len());
    let fixed = Server::fixed(&bench.programs.fixed, &bench.place(""), &[size(SESSION)?, size(PAGE)?])?;
    compare(bench, &server, SESSION, &fixed, "/0", "session")?;
    compare(bench, &server, PAGE, &fixed, "/1", "page")
}

fn compare(bench: &mut Bench, server: &Server, target: &str, fixed: &Server, ready: &str, what: &str) -> Outcome<()> {
    let count = if what == "session" { bench.sized(60_000, 16_000) } else { bench.sized(12_000, 3200) };
    let (ask, ready) = (server.address.get(target), fixed.address.get(ready));
    http::load_same(&server.address, CLIENTS, count / 4, &ask)?;
    http::load_same(&fixed.address, CLIENTS, count / 4, &ready)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.repeats {
        let rates = in_turns(count, [(&server.address, &ask), (&fixed.address, &ready)])?;
        ours.push(rates[0]);
        theirs.push(rates[1]);
    }
    bench.add_values(&format!("read.{what}"), Unit::PerSecond, &ours);
    bench.add_values(&format!("read.{what}_static"), Unit::PerSecond, &theirs);
    bench.add_values(&format!("read.{what}_share_of_static"), Unit::Times, &ratios(&ours, &theirs));
    Ok(())
}

/// Answers a second of each server, with so many requests in all.
fn in_turns(count: usize, servers: [(&Address, &Vec<u8>); 2]) -> Outcome<[f64; 2]> {
    let mut seconds = [0.0; 2];
    for _ in 0..TURNS {
        for (seconds, (address, request)) in seconds.iter_mut().zip(servers) {
            *seconds += http::load_same(address, CLIENTS, count / TURNS, request)?.seconds;
        }
    }
    Ok(seconds.map(|seconds| count as f64 / seconds))
}
