//! A session with all its messages: into structs through the library, and in pages over HTTP.

use std::rc::Rc;

use bench_protocol::Job;

use super::histories;
use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, median, ratios},
    http::{self, Address},
};

const SIZES: [usize; 3] = [100, 1000, 5000];
const LONGEST: usize = 2;
const PAGE: usize = 1000;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let (data, plan) = histories(bench);
    let (ours, bare) = (bench.copy(data, &plan, "culm")?, bench.copy(data, &plan, "sqlite")?);
    let server = bench.serve(data, &plan)?;
    let (mut culm, mut sqlite) = (vec![Vec::new(); SIZES.len()], vec![Vec::new(); SIZES.len()]);
    let mut pages = vec![Vec::new(); SIZES[LONGEST] / PAGE];
    for _ in 0..bench.repeats * 3 {
        for (place, size) in SIZES.iter().enumerate() {
            let load = Job::Load { session: format!("n{size}") };
            // Opened again: what SQLite keeps of the file is a connection's own.
            bench.culm.open(&ours)?;
            culm[place].extend(bench.culm.ask(&load)?.micros);
            bench.sqlite.open(&bare)?;
            sqlite[place].extend(bench.sqlite.ask(&load)?.micros);
        }
        for (place, page) in pages.iter_mut().enumerate() {
            page.push(read_page(&server.address, place)?);
        }
    }
    bench.culm.close()?;
    bench.sqlite.close()?;
    for (place, size) in SIZES.iter().enumerate() {
        bench.add_sized("transcript.culm", *size, Unit::Microseconds, &culm[place]);
        bench.add_sized("transcript.sqlite", *size, Unit::Microseconds, &sqlite[place]);
    }
    bench.add_values("transcript.over_sqlite", Unit::Times, &ratios(&culm[LONGEST], &sqlite[LONGEST]));
    let slowest = pages.iter().max_by(|a, b| median(a).total_cmp(&median(b))).ok_or("no pages")?;
    let share: Vec<f64> = culm[LONGEST].iter().map(|load| load / pages.len() as f64).collect();
    bench.add_values("transcript.page", Unit::Microseconds, slowest);
    bench.add_values("transcript.page_over_share", Unit::Times, &ratios(slowest, &share));
    Ok(())
}

fn read_page(server: &Address, place: usize) -> Outcome<f64> {
    let (session, after) = (SIZES[LONGEST], place * PAGE);
    let target = format!("/api/v1/sessions/n{session}/messages?after={after}&limit={PAGE}");
    let request: Rc<[u8]> = server.get(&target).into();
    let took = http::load(server, vec![vec![request]])?;
    took.micros.first().copied().ok_or_else(|| "no answer".into())
}
