//! One message after the other, one client, through the library: against bare SQLite, against the replaced store, and
//! that it is the same whatever is stored already.

use bench_protocol::Job;

use super::{histories, numbers_of_sessions, sessions};
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, median, ratios},
    home::{Home, LONG},
    peer::Peer,
};

/// Messages before those that are measured.
const WARM: usize = 20;

/// Turns for each repeat: from one to the next the machine changes more than what is asked.
pub(super) const TURNS: usize = 3;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let by_messages = to_long_sessions(bench)?;
    among_many_sessions(bench)?;
    against_the_replaced_store(bench, &by_messages)
}

/// Appends to a session, and gives the median.
fn append(peer: &mut Peer, session: &str, count: usize) -> Outcome<f64> {
    peer.ask(&Job::Append { session: session.into(), count: WARM })?;
    Ok(median(&peer.ask(&Job::Append { session: session.into(), count })?.micros))
}

/// Gives Culm's medians with a session of 1000 messages.
fn to_long_sessions(bench: &mut Bench) -> Outcome<Vec<f64>> {
    let (data, plan) = histories(bench);
    let (ours, bare) = (bench.copy(data, &plan, "culm")?, bench.copy(data, &plan, "sqlite")?);
    bench.culm.open(&ours)?;
    bench.sqlite.open(&bare)?;
    let (count, sizes) =
        (bench.sized(200, 100), bench.sized(&[10, 100, 1000, 10_000, 100_000][..], &[10, 100, 1000, 5000]));
    let (mut culm, mut sqlite) = (vec![Vec::new(); sizes.len()], vec![Vec::new(); sizes.len()]);
    for repeat in 0..bench.repeats * TURNS {
        for (place, size) in sizes.iter().enumerate() {
            let session = if *size == 10 { format!("n10-{repeat}") } else { format!("n{size}") };
            culm[place].push(append(&mut bench.culm, &session, count)?);
            sqlite[place].push(append(&mut bench.sqlite, &session, count)?);
        }
    }
    bench.culm.close()?;
    bench.sqlite.close()?;
    for (place, size) in sizes.iter().enumerate() {
        bench.add_sized("append.culm_messages", *size, Unit::Microseconds, &culm[place]);
        bench.add_sized("append.sqlite_messages", *size, Unit::Microseconds, &sqlite[place]);
    }
    let (first, last, thousand) = (&culm[0], &culm[sizes.len() - 1], 2);
    bench.add_values("append.over_sqlite", Unit::Times, &ratios(&culm[thousand], &sqlite[thousand]));
    bench.add_values("append.growth_with_messages", Unit::Times, &ratios(last, first));
    Ok(culm.swap_remove(thousand))
}

fn among_many_sessions(bench: &mut Bench) -> Outcome<()> {
    let numbers = numbers_of_sessions(bench);
    let (count, mut culm) = (bench.sized(200, 100), vec![Vec::new(); numbers.len()]);
    let copies: Vec<_> = numbers
        .iter()
        .map(|number| {
            let (data, plan) = sessions(*number);
            bench.copy(&data, &plan, "culm")
        })
        .collect::<Outcome<_>>()?;
    for _ in 0..bench.repeats * TURNS {
        for (place, copy) in copies.iter().enumerate() {
            bench.culm.open(copy)?;
            culm[place].push(append(&mut bench.culm, "n10", count)?);
        }
    }
    bench.culm.close()?;
    for (place, number) in numbers.iter().enumerate() {
        bench.add_sized("append.culm_sessions", *number, Unit::Microseconds, &culm[place]);
    }
    bench.add_values("append.growth_with_sessions", Unit::Times, &ratios(&culm[numbers.len() - 1], &culm[0]));
    Ok(())
}

/// To a session of 1000 messages among 10 000 sessions.
fn against_the_replaced_store(bench: &mut Bench, culm: &[f64]) -> Outcome<()> {
    let Some(program) = bench.programs.bamboo.clone() else { return Ok(()) };
    let home = bench.place("append-home");
    Home { sessions: bench.sized(10_000, 500), messages: 2, long: Some(1000) }.write(&home, &bench.texts)?;
    let mut bamboo = Peer::start(&program)?;
    bamboo.open(&home)?;
    let mut medians = Vec::new();
    for _ in 0..bench.repeats {
        let took = bamboo.ask(&Job::Append { session: LONG.into(), count: bench.sized(5, 3) })?;
        medians.push(median(&took.micros));
    }
    bench.add_values("append.bamboo", Unit::Microseconds, &medians);
    bench.add_values("append.bamboo_over_culm", Unit::Times, &ratios(&medians, culm));
    Ok(std::fs::remove_dir_all(home)?)
}
