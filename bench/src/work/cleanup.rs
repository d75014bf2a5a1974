//! A cleanup of the sessions that hold nothing: half of all.

use bench_protocol::{Job, Plan};

use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, ratios},
};

const REPEATS: usize = 5;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let sizes = bench.sized(&[100, 1000, 10_000][..], &[100, 1000]);
    for empty in sizes {
        let is_last = Some(empty) == sizes.last();
        of_size(bench, *empty, is_last)?;
    }
    Ok(())
}

fn of_size(bench: &mut Bench, empty: usize, is_last: bool) -> Outcome<()> {
    let data = format!("empty-{empty}");
    let plan = Plan { roots: empty, empty, words: Some(20), ..Plan::default() };
    let (mut culm, mut by_sets, mut by_triggers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let (ours, bare) = (bench.copy(&data, &plan, "culm")?, bench.copy(&data, &plan, "sqlite")?);
        let triggered = bench.copy(&data, &plan, "plain")?;
        bench.culm.open(&ours)?;
        culm.extend(bench.culm.ask(&Job::CleanUp {})?.micros);
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
        bench.add_values("cleanup.over_sqlite", Unit::Times, &ratios(&culm, &by_sets));
        bench.add_values("cleanup.over_sqlite_triggers", Unit::Times, &ratios(&culm, &by_triggers));
    }
    bench.forget(&data)
}
