//! Deleting a root with all below it: through the library against bare SQLite, and over HTTP with others reading and
//! writing meanwhile.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use bench_protocol::{Job, Plan};
use tokio::task::LocalSet;

use super::together::post_message;
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, percentile, ratios},
    http::{self, Address, Client},
};

/// Trees of each size: one is deleted each time.
const TREES: usize = 3;
/// Messages of a child.
const MESSAGES: usize = 20;
/// What others do between two reads.
const PAUSE: Duration = Duration::from_millis(1);

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
        let (mut culm, mut by_sets, mut by_triggers) = (Vec::new(), Vec::new(), Vec::new());
        for tree in 0..TREES {
            let job = delete(*size, tree);
            culm.extend(bench.culm.ask(&job)?.micros);
            bench.sqlite.open(&bare)?;
            bench.sqlite.ask(&Job::Unhook {})?;
            by_sets.extend(bench.sqlite.ask(&job)?.micros);
            bench.sqlite.open(&triggered)?;
            by_triggers.extend(bench.sqlite.ask(&job)?.micros);
        }
        bench.add_sized("delete.culm_children", *size, Unit::Microseconds, &culm);
        bench.add_sized("delete.sqlite_children", *size, Unit::Microseconds, &by_sets);
        bench.add_sized("delete.sqlite_triggers_children", *size, Unit::Microseconds, &by_triggers);
        if Some(size) == children.last() {
            bench.add_values("delete.over_sqlite", Unit::Times, &ratios(&culm, &by_sets));
            bench.add_values("delete.over_sqlite_triggers", Unit::Times, &ratios(&culm, &by_triggers));
        }
    }
    bench.culm.close()?;
    bench.sqlite.close()
}

fn beside_others(bench: &mut Bench, children: &[usize]) -> Outcome<()> {
    let server = bench.serve("trees", &plan(children))?;
    let size = children[children.len() - 1];
    let word = bench.texts.word(5000).to_owned();
    let (mut deletes, mut reads, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    for tree in 0..TREES {
        let root = format!("t{size}-{tree}");
        let text = bench.texts.of_a_kib(1 << 35);
        let seen = LocalSet::new().block_on(&http::runtime()?, beside(&server.address, &root, &word, &text))?;
        deletes.push(seen.delete / 1e3);
        reads.push(seen.longest_read / 1e3);
        beyond.push((seen.longest_write - seen.delete).max(0.0) / 1e3);
    }
    bench.add_values("delete.http", Unit::Milliseconds, &deletes);
    bench.add_values("delete.longest_read", Unit::Milliseconds, &reads);
    bench.add_values("delete.longest_write_beyond", Unit::Milliseconds, &beyond);
    Ok(())
}

/// In microseconds.
struct Seen {
    delete: f64,
    longest_read: f64,
    longest_write: f64,
}

/// Deletes a root while two read and one writes, until all that they had begun has ended.
async fn beside(server: &Address, root: &str, word: &str, text: &str) -> Outcome<Seen> {
    let done = Rc::new(Cell::new(false));
    let targets = [
        "/api/v1/sessions?limit=50",
        "/api/v1/sessions/n100",
        "/api/v1/sessions/n100/messages?before=60",
        &format!("/api/v1/search?q={word}"),
    ];
    let reads: Vec<Rc<[u8]>> = targets.iter().map(|target| server.get(target).into()).collect();
    let write: Rc<[u8]> = post_message(server, "other", text).into();
    let others = [reads.clone(), reads, vec![write]].map(|requests| {
        let (address, done) = (server.clone(), done.clone());
        tokio::task::spawn_local(again_and_again(address, requests, done))
    });
    let mut client = Client::connect(server).await?;
    // The others have connected, and what they ask for was asked for before.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let delete = server.request("DELETE", &format!("/api/v1/sessions/{root}?force=true"), &[], &[]);
    let begun = Instant::now();
    client.succeed(&delete).await?;
    let took = begun.elapsed().as_secs_f64() * 1e6;
    done.set(true);
    let mut longest = Vec::new();
    for other in others {
        let samples = other.await??;
        let beside = samples.into_iter().filter(|(at, took)| *at + Duration::from_secs_f64(took / 1e6) >= begun);
        longest.push(percentile(&beside.map(|(_, took)| took).collect::<Vec<_>>(), 1.0));
    }
    Ok(Seen { delete: took, longest_read: longest[0].max(longest[1]), longest_write: longest[2] })
}

/// When each request began, and how many microseconds it took.
async fn again_and_again(
    address: Address,
    requests: Vec<Rc<[u8]>>,
    done: Rc<Cell<bool>>,
) -> Outcome<Vec<(Instant, f64)>> {
    let (mut client, mut samples) = (Client::connect(&address).await?, Vec::new());
    for request in requests.iter().cycle() {
        if done.get() {
            break;
        }
        let begun = Instant::now();
        client.succeed(request).await?;
        samples.push((begun, begun.elapsed().as_secs_f64() * 1e6));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}
