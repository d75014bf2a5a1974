//! An attachment in and out over HTTP, against a plain file through a server of the same kind; and what bare SQLite
//! takes for it, without a server.

use bench_protocol::{Job, Plan, Random};

use crate::{
    Outcome,
    bench::Bench,
    figures::{Unit, median, ratios},
    http::{self, Address},
    server::Server,
};

const MIB: usize = 1 << 20;
/// How often the two servers take turns in a repeat: what the machine does meanwhile, copies of Culm's log among it, meets
/// both.
const TURNS: usize = 9;
/// The size that has a budget.
const USUAL: usize = 10;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let plan = Plan { roots: 10, ..Plan::default() };
    let server = bench.serve("attachments", &plan)?;
    let fixed = Server::fixed(&bench.programs.fixed, &bench.place(""), &[])?;
    let db = bench.copy("attachments", &plan, "sqlite")?;
    bench.sqlite.open(&db)?;
    for size in bench.sized(&[1, 4, 10][..], &[1, 10]) {
        of_size(bench, *size, &server.address, &fixed.address)?;
        of_sqlite(bench, *size)?;
    }
    bench.sqlite.close()
}

fn of_sqlite(bench: &mut Bench, size: usize) -> Outcome<()> {
    let store = Job::Attach { session: "root-1".into(), bytes: size * MIB, count: 3 };
    let jobs = [("sqlite_in", store), ("sqlite_out", Job::ReadAttachment { count: 3 })];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..bench.repeats {
        for (values, (_, job)) in times.iter_mut().zip(&jobs) {
            values.push(median(&bench.sqlite.ask(job)?.micros) / 1e3);
        }
    }
    for (values, (name, _)) in times.iter().zip(&jobs) {
        bench.add_sized(&format!("attachment.{name}_mib"), size, Unit::Milliseconds, values);
    }
    Ok(())
}

fn of_size(bench: &mut Bench, size: usize, server: &Address, fixed: &Address) -> Outcome<()> {
    let bytes = noise(size * MIB);
    let kind = [("content-type", "application/octet-stream")];
    let store = server.request("POST", "/api/v1/sessions/root-1/attachments", &kind, &bytes);
    let store_file = fixed.request("PUT", "/file", &kind, &bytes);
    let read_file = fixed.get("/file");
    // Each once before; what the last upload brought is read.
    let read = server.get(&download(&http::once(server, &store)?)?);
    http::once(fixed, &store_file)?;
    let (mut times, names) = (vec![Vec::new(); 4], ["in", "file_in", "out", "file_out"]);
    let requests = [(server, &store), (fixed, &store_file), (server, &read), (fixed, &read_file)];
    for _ in 0..bench.repeats {
        let mut turns = vec![Vec::new(); 4];
        for _ in 0..bench.sized(TURNS, 3) {
            for (turns, (address, request)) in turns.iter_mut().zip(requests) {
                turns.extend(http::load_same(address, 1, 1, request)?.micros);
            }
        }
        for (times, turns) in times.iter_mut().zip(&turns) {
            times.push(median(turns) / 1e3);
        }
    }
    for (name, values) in names.iter().zip(&times) {
        bench.add_sized(&format!("attachment.{name}_mib"), size, Unit::Milliseconds, values);
    }
    if size == USUAL {
        bench.add_values("attachment.in_share_of_file", Unit::Times, &ratios(&times[1], &times[0]));
        bench.add_values("attachment.out_share_of_file", Unit::Times, &ratios(&times[3], &times[2]));
    }
    Ok(())
}

/// Where the attachment is that this answer tells of.
fn download(answer: &[u8]) -> Outcome<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    let url = answer["attachment"]["url"].as_str().ok_or("no url")?;
    let (session, id) = url.trim_start_matches("attachment://").split_once('/').ok_or("an url of another form")?;
    Ok(format!("/api/v1/sessions/{session}/attachments/{id}"))
}

/// Bytes that nothing can be known of.
fn noise(size: usize) -> Vec<u8> {
    let mut random = Random::new(1);
    std::iter::repeat_with(|| random.number().to_le_bytes()).flatten().take(size).collect()
}
