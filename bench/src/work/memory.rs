//! The most memory that the server takes for the largest requests and answers: one of each kind alone, and as many at
//! once as fill its budget of bytes in flight, and more.

use std::rc::Rc;

use bench_protocol::Plan;
use tokio::task::LocalSet;

use super::together::post_message;
use crate::{
    Outcome,
    bench::Bench,
    figures::Unit,
    http::{self, Address, Client},
    server::{Server, memory},
};

const MIB: usize = 1 << 20;
/// The server's defaults: the largest body and message, the bytes of a page, the bytes in flight.
const BODY: usize = 16 * MIB;
const MESSAGE: usize = 4 * MIB;
const PAGE: usize = 8 * MIB;
const IN_FLIGHT: usize = 256 * MIB;
/// Clients at once.
const CLIENTS: usize = 32;
/// The bound for all of them together: this many times the bytes in flight, and the server itself.
const TIMES: usize = 4;
const ITSELF: usize = 64 * MIB;

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let text = "word and ".repeat(MESSAGE / 9 - 100);
    let kinds = [
        ("text", format!(r#"{{"role":"user","content":"{text}"}}"#)),
        ("parts", format!(r#"{{"role":"user","content":"","parts":[{{"type":"text","text":"{text}"}}]}}"#)),
        ("tool_calls", tool_call(&text)),
        ("metadata", format!(r#"{{"role":"user","content":"","metadata":{}}}"#, many_small_values())),
    ];
    let (mut one, mut most) = (Vec::new(), Vec::new());
    for (kind, message) in &kinds {
        let of_one = [message.as_str()];
        let whole = vec![message.as_str(); BODY / MESSAGE];
        one.push(alone(bench, &format!("one_body_of_{kind}"), &whole)?);
        alone(bench, &format!("one_message_of_{kind}"), &of_one)?;
        most.push(together(bench, &format!("{CLIENTS}_bodies_of_{kind}"), |address| append(address, &whole))?);
    }
    one.push(page_alone(bench, &text)?);
    most.push(together(bench, &format!("{CLIENTS}_pages"), page)?);
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    bench.add_values("memory.one_over_bytes", Unit::Times, &[largest(&one)]);
    let bound = (TIMES * IN_FLIGHT.min(CLIENTS * PAGE) + ITSELF) as f64 / MIB as f64;
    bench.add_values("memory.many_over_bound", Unit::Times, &[largest(&most) / bound]);
    bench.forget("memory")
}

fn tool_call(text: &str) -> String {
    let call = format!(r#"{{"id":"c","type":"function","function":{{"name":"write","arguments":"{text}"}}}}"#);
    format!(r#"{{"role":"assistant","content":"","tool_calls":[{call}]}}"#)
}

/// Metadata of many small values: parsed into a tree, it would take many times its bytes.
fn many_small_values() -> String {
    let value = r#"[1,2,{"a":[]}]"#;
    format!(r#"{{"a":[{}]}}"#, vec![value; (MESSAGE - 1000) / (value.len() + 1)].join(","))
}

fn append(address: &Address, messages: &[&str]) -> Vec<u8> {
    address.post("/api/v1/sessions/root-0/messages", &format!(r#"{{"messages":[{}]}}"#, messages.join(",")))
}

fn page(address: &Address) -> Vec<u8> {
    address.get("/api/v1/sessions/full/messages?limit=1000")
}

fn serve(bench: &mut Bench) -> Outcome<Server> {
    let plan = Plan { roots: 10, histories: vec![("full".into(), 10)], ..Plan::default() };
    let server = bench.serve("memory", &plan)?;
    // Connections and statements are made with the first request.
    let small = post_message(&server.address, "root-0", "hello");
    http::once(&server.address, &small)?;
    Ok(server)
}

/// How many times its bytes one request takes.
fn alone(bench: &mut Bench, name: &str, messages: &[&str]) -> Outcome<f64> {
    let server = serve(bench)?;
    let request = append(&server.address, messages);
    let before = now(&server, "VmRSS")?;
    http::once(&server.address, &request)?;
    let times = (now(&server, "VmHWM")? - before) / (request.len() as f64 / MIB as f64);
    bench.add_values(&format!("memory.{name}_over_bytes"), Unit::Times, &[times]);
    Ok(times)
}

fn fill(address: &Address, text: &str) -> Outcome<()> {
    // A little more than two of them are a page.
    let message = post_message(address, "full", &text[..text.len() - text.len() / 16]);
    for _ in 0..4 {
        http::once(address, &message)?;
    }
    Ok(())
}

fn page_alone(bench: &mut Bench, text: &str) -> Outcome<f64> {
    let db = {
        let server = serve(bench)?;
        fill(&server.address, text)?;
        bench.place("memory-server.db")
    };
    let server = Server::culm(&bench.programs.server, &db)?;
    http::once(&server.address, &server.address.get("/api/v1/sessions/root-0/messages"))?;
    let before = now(&server, "VmRSS")?;
    http::once(&server.address, &page(&server.address))?;
    let times = (now(&server, "VmHWM")? - before) / (PAGE as f64 / MIB as f64);
    bench.add_values("memory.one_page_over_bytes", Unit::Times, &[times]);
    Ok(times)
}

/// The most memory, in MiB, that the server has while all clients ask at once. Who is told that it has no room for more
/// is content.
fn together(bench: &mut Bench, name: &str, request: impl Fn(&Address) -> Vec<u8>) -> Outcome<f64> {
    let server = serve(bench)?;
    fill(&server.address, &"word and ".repeat(MESSAGE / 9 - 100))?;
    let request: Rc<[u8]> = request(&server.address).into();
    let (runtime, local) = (http::runtime()?, LocalSet::new());
    let answered = local.block_on(&runtime, async {
        let ask = async |address: Address, request: Rc<[u8]>| -> Outcome<u16> {
            Ok(Client::connect(&address).await?.ask(&request).await?.0)
        };
        let tasks: Vec<_> =
            (0..CLIENTS).map(|_| tokio::task::spawn_local(ask(server.address.clone(), request.clone()))).collect();
        let mut answered = 0;
        for task in tasks {
            match task.await?? {
                200 | 201 => answered += 1,
                503 => {}
                status => return Err(format!("{name}: {status}").into()),
            }
        }
        Outcome::Ok(answered)
    })?;
    if answered == 0 {
        return Err(format!("{name}: nobody was answered").into());
    }
    let most = now(&server, "VmHWM")?;
    bench.add_values(&format!("memory.{name}"), Unit::Mebibytes, &[most]);
    Ok(most)
}

fn now(server: &Server, what: &str) -> Outcome<f64> {
    memory(server.id(), what).ok_or_else(|| "no memory of a process".into())
}
