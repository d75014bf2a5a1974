//! The newest 50 sessions, however many there are: through the library, by bare SQLite, and over HTTP against an answer
//! of that size that is ready.

use bench_protocol::Job;

use super::{numbers_of_sessions, sessions, together::rate};
use crate::{
    Outcome,
    bench::Bench,
    cores,
    figures::{Unit, median, ratios},
    http,
    server::Server,
};

const LIST: &str = "/api/v1/sessions?limit=50";

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    for number in numbers_of_sessions(bench) {
        through_libraries(bench, *number)?;
    }
    over_http(bench)
}

fn through_libraries(bench: &mut Bench, number: usize) -> Outcome<()> {
    let (data, plan) = sessions(number);
    let (ours, bare) = (bench.copy(&data, &plan, "culm")?, bench.copy(&data, &plan, "sqlite")?);
    bench.culm.open(&ours)?;
    bench.sqlite.open(&bare)?;
    let list = Job::List { limit: 50, count: bench.sized(500, 100) };
    let (mut culm, mut sqlite) = (Vec::new(), Vec::new());
    for _ in 0..bench.repeats {
        culm.push(median(&bench.culm.ask(&list)?.micros));
        sqlite.push(median(&bench.sqlite.ask(&list)?.micros));
    }
    bench.add_sized("list.culm_sessions", number, Unit::Microseconds, &culm);
    bench.add_sized("list.sqlite_sessions", number, Unit::Microseconds, &sqlite);
    Ok(())
}

fn over_http(bench: &mut Bench) -> Outcome<()> {
    let numbers = numbers_of_sessions(bench);
    let (data, plan) = sessions(numbers[numbers.len() - 1]);
    let server = bench.serve(&data, &plan)?;
    let list = server.address.get(LIST);
    let size = http::once(&server.address, &list)?.len();
    let fixed = Server::fixed(&bench.programs.fixed, &bench.place(""), &[size])?;
    let ready = fixed.address.get("/0");
    let (count, many) = (bench.sized(1000, 200), bench.sized(16_000, 3200));
    of_one_client(&server, count, &list)?;
    of_one_client(&fixed, count, &ready)?;
    let (mut ours, mut theirs, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.repeats {
        ours.push(of_one_client(&server, count, &list)?);
        theirs.push(of_one_client(&fixed, count, &ready)?);
        rates.push(rate(&http::load_same(&server.address, 8, many, &list)?));
    }
    bench.add_values("list.http", Unit::Microseconds, &ours);
    bench.add_values("list.http_static", Unit::Microseconds, &theirs);
    bench.add_values("list.http_over_static", Unit::Times, &ratios(&ours, &theirs));
    bench.add_values("list.http_per_second", Unit::PerSecond, &rates);
    Ok(())
}

fn of_one_client(server: &Server, count: usize, request: &[u8]) -> Outcome<f64> {
    cores::with_on_one(server.id(), || Ok(median(&http::load_same(&server.address, 1, count, request)?.micros)))
}
