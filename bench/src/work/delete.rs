//! Deleting a root with all below it: through the library against bare SQLite, which removes all of it at once, and over
//! HTTP with others reading and writing meanwhile and beside the purge.

use std::{rc::Rc, time::Instant};

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

/// Trees of each size: one is deleted each time.
const TREES: usize = 3;
/// Messages of a child.
const MESSAGES: usize = 20;

fn plan(children: &[usize]) -> Plan {
    let trees =
        children.iter().flat_map(|size| (0..TREES).map(move |tree| (format!("t{size}-{tree}"), *size, MESSAGES)));
    let histories = vec![("n100".into(), 100), ("other".into(), 10)];
    Plan { roots: 1000, histories, trees: trees.collect(), ..Plan::default() }
}

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let children = bench.sized(&[10, 100, 1000][..], &[10, 100]);
    through_libraries(bench, children)?;
    beside_others(bench, children)?;
    bench.forget("trees")
}

fn through_libraries(bench: &mut Bench, children: &[usize]) -> Outcome<()> {
    let plan = plan(children);
    let (ours, bare) = (bench.copy("trees", &plan, "culm")?, bench.copy("trees", &plan, "sqlite")?);
    let triggered = bench.copy("trees", &plan, "plain")?;
    bench.culm.open(&ours)?;
    let delete = |size: usize, tree: usize| Job::Delete { session: format!("t{size}-{tree}") };
    for size in children {
        let is_last = Some(size) == children.last();
        let (mut culm, mut whole, mut by_sets, mut by_triggers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for tree in 0..TREES {
            let job = delete(*size, tree);
            let begun = Instant::now();
            culm.extend(bench.culm.ask(&job)?.micros);
            if is_last {
                // Marked, purged, and its space given back: what bare SQLite does at once, and more.
                purged(&ours)?;
                whole.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            bench.sqlite.open(&bare)?;
            bench.sqlite.ask(&Job::Unhook {})?;
            by_sets.extend(bench.sqlite.ask(&job)?.micros);
            bench.sqlite.open(&triggered)?;
            by_triggers.extend(bench.sqlite.ask(&job)?.micros);
        }
        bench.add_sized("delete.culm_children", *size, Unit::Microseconds, &culm);
        bench.add_sized("delete.sqlite_children", *size, Unit::Microseconds, &by_sets);
        bench.add_sized("delete.sqlite_triggers_children", *size, Unit::Microseconds, &by_triggers);
        if is_last {
            bench.add_values(
                "delete.mark",
                Unit::Milliseconds,
                &culm.iter().map(|took| took / 1e3).collect::<Vec<_>>(),
            );
            bench.add_values("delete.over_sqlite", Unit::Times, &ratios(&whole, &by_sets));
            bench.add_values("delete.over_sqlite_triggers", Unit::Times, &ratios(&whole, &by_triggers));
        }
    }
    bench.culm.close()?;
    bench.sqlite.close()
}

fn beside_others(bench: &mut Bench, children: &[usize]) -> Outcome<()> {
    let server = bench.serve("trees", &plan(children))?;
    let address = &server.address;
    let size = children[children.len() - 1];
    let word = bench.texts.word(5000).to_owned();
    let targets = [
        "/api/v1/sessions?limit=50",
        "/api/v1/sessions/n100",
        "/api/v1/sessions/n100/messages?before=60",
        &format!("/api/v1/search?q={word}"),
    ];
    let reads: Vec<Rc<[u8]>> = targets.iter().map(|target| address.get(target).into()).collect();
    let (mut deletes, mut reading, mut writing) = (Vec::new(), Vec::new(), Vec::new());
    for tree in 0..TREES {
        let delete = format!("/api/v1/sessions/t{size}-{tree}?force=true");
        let delete = address.request("DELETE", &delete, &[], &[]);
        let write = post_message(address, "other", &bench.texts.of_a_kib(1 << 35));
        let others = beside(address, &delete, vec![reads.clone(), reads.clone()], vec![write.into()]);
        let seen = LocalSet::new().block_on(&http::runtime()?, others)?;
        deletes.push(seen.took / 1e3);
        reading.push(seen.longest_read / 1e3);
        writing.push(seen.write_over_bound());
    }
    let free = purged(&bench.place("trees-server.db"))?;
    bench.add_values("delete.http", Unit::Milliseconds, &deletes);
    bench.add_values("delete.longest_read", Unit::Milliseconds, &reading);
    bench.add_values("delete.longest_write_over_bound", Unit::Times, &writing);
    bench.add_values("delete.free_pages", Unit::Times, &[free]);
    Ok(())
}
