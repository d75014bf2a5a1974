//! How long a server takes to start on a large database, and what memory it has then.

use std::time::{Duration, Instant};

use super::search;
use crate::{
    Outcome,
    bench::Bench,
    figures::Unit,
    http,
    server::{Server, memory},
};

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let (data, plan) = search::large(bench);
    let db = bench.copy(data, &plan, "culm")?;
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..bench.repeats {
        let (took, size) = start(bench, &db)?;
        times.push(took);
        sizes.push(size);
    }
    bench.add_values("start.serving", Unit::Milliseconds, &times);
    bench.add_values("start.memory", Unit::Mebibytes, &sizes);
    bench.forget(data)
}

/// Milliseconds from the start of the program until a list was answered, and its memory then.
fn start(bench: &mut Bench, db: &std::path::Path) -> Outcome<(f64, f64)> {
    // Closed as it should be: after a kill, a check would run beside.
    bench.culm.open(db)?;
    bench.culm.close()?;
    let server = Server::culm(&bench.programs.server, db)?;
    let listening = Instant::now();
    http::once(&server.address, &server.address.get("/api/v1/sessions?limit=50"))?;
    let took = server.started_in + listening.elapsed();
    std::thread::sleep(Duration::from_millis(300));
    Ok((took.as_secs_f64() * 1e3, memory(server.id(), "VmRSS").ok_or("no memory is told")?))
}
