//! What the search index costs a message, against the cheapest layout of FTS5.

use bench_protocol::{Job, Layout};

use crate::{
    Outcome,
    bench::{Bench, remove},
    figures::{Unit, ratios},
};

const REPEATS: usize = 3;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let (mut culm, mut cheapest) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        culm.push(each(bench, Layout::Culm)?);
        cheapest.push(each(bench, Layout::Cheapest)?);
    }
    bench.add_values("index.culm", Unit::Microseconds, &culm);
    bench.add_values("index.cheapest", Unit::Microseconds, &cheapest);
    bench.add_values("index.over_cheapest", Unit::Times, &ratios(&culm, &cheapest));
    Ok(())
}

/// Microseconds a message, in all: merges come now and then, and are long.
fn each(bench: &mut Bench, layout: Layout) -> Outcome<f64> {
    let (path, count) = (bench.place("index.db"), bench.sized(20_000, 2000));
    let job = Job::Index { path: path.display().to_string(), layout, count };
    let took = bench.sqlite.ask(&job)?;
    remove(&path)?;
    Ok(took.seconds * 1e6 / count as f64)
}
