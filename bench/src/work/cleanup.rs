//! A cleanup of the sessions that hold nothing: half of all; and one of many beside eight writers.

use std::time::Instant;

use bench_protocol::{Job, Plan};
use tokio::task::LocalSet;

use super::{
    beside::{beside, purged},
    together::post_message,
};
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, ratios},
    http,
};

const REPEATS: usize = 5;
/// Clients that append meanwhile.
const WRITERS: usize = 8;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let sizes = bench.sized(&[100, 1000, 10_000][..], &[100, 1000]);
    for empty in sizes {
        let is_last = Some(empty) == sizes.last();
        of_size(bench, *empty, is_last)?;
    }
    beside_writers(bench)
}

/// As many as were once seen to stall everybody for two minutes.
fn beside_writers(bench: &mut Bench) -> Outcome<()> {
    let empty = bench.sized(44_000, 2_000);
    let histories = (0..WRITERS).map(|writer| (format!("writer{writer}"), 10)).collect();
    let plan = Plan { roots: 2 * empty, empty, histories, words: Some(20), ..Plan::default() };
    let server = bench.serve("cleanup-beside", &plan)?;
    let address = &server.address;
    let text = bench.texts.of_a_kib(1 << 36);
    let writers = (0..WRITERS).map(|writer| post_message(address, &format!("writer{writer}"), &text).into()).collect();
    let request = address.post("/api/v1/sessions/cleanup", r#"{"mode":"empty"}"#);
    let seen = LocalSet::new().block_on(&http::runtime()?, beside(address, &request, Vec::new(), writers))?;
    let free = purged(&bench.place("cleanup-beside-server.db"))?;
    bench.add_values("cleanup.http", Unit::Milliseconds, &[seen.took / 1e3]);
    bench.add_values("cleanup.longest_write_over_bound", Unit::Times, &[seen.write_over_bound()]);
    bench.add_values("cleanup.free_pages", Unit::Times, &[free]);
    drop(server);
    bench.forget("cleanup-beside")
}

fn of_size(bench: &mut Bench, empty: usize, is_last: bool) -> Outcome<()> {
    let data = format!("empty-{empty}");
    let plan = Plan { roots: empty, empty, words: Some(20), ..Plan::default() };
    let (mut culm, mut whole, mut by_sets, mut by_triggers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let (ours, bare) = (bench.copy(&data, &plan, "culm")?, bench.copy(&data, &plan, "sqlite")?);
        let triggered = bench.copy(&data, &plan, "plain")?;
        bench.culm.open(&ours)?;
        let begun = Instant::now();
        culm.extend(bench.culm.ask(&Job::CleanUp {})?.micros);
        if is_last {
            purged(&ours)?;
            whole.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        bench.culm.close()?;
        bench.sqlite.open(&bare)?;
        bench.sqlite.ask(&Job::Unhook {})?;
        by_sets.extend(bench.sqlite.ask(&Job::CleanUp {})?.micros);
        bench.sqlite.open(&triggered)?;
        by_triggers.extend(bench.sqlite.ask(&Job::CleanUp {})?.micros);
        bench.sqlite.close()?;
    }
    bench.add_sized("cleanup.culm_sessions", empty, Unit::Microseconds, &culm);
    bench.add_sized("cleanup.sqlite_sessions", empty, Unit::Microseconds, &by_sets);
    bench.add_sized("cleanup.sqlite_triggers_sessions", empty, Unit::Microseconds, &by_triggers);
    if is_last {
        bench.add_values("cleanup.over_sqlite", Unit::Times, &ratios(&whole, &by_sets));
        bench.add_values("cleanup.over_sqlite_triggers", Unit::Times, &ratios(&whole, &by_triggers));
    }
    bench.forget(&data)
}
