//! The server as a process of its own: what its subscribers cost, and what is left of its runs when it is killed.

use std::{path::Path, time::Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

use crate::{
    cli::{Serving, culm, scratch, shell},
    executor::Demo,
    support::client,
};

/// A server with the demo model as its executor.
fn serve(db: &Path, demo: &Demo, more: &[&str]) -> Serving {
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    let config = db.with_file_name("culm.toml");
    let executor =
        format!("[executors.demo]\nkind = 'openai'\nbase_url = 'http://{}/v1'\nmodel = 'demo'\n", demo.address);
    std::fs::write(&config, executor).unwrap();
    Serving::start(culm(db, more).arg("--config").arg(config), db)
}

/// The memory of a process that is its own, in bytes.
fn memory(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() << 10
}

/// The connections that a process has open, and some files.
fn open_files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// A subscriber that has asked for events, and reads none. The system takes little for it.
async fn subscribe(serving: &Serving, path: &str) -> TcpStream {
    let host = serving.url.trim_start_matches("http://");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(host.parse().unwrap()).await.unwrap();
    let token = &serving.token;
    let head = format!("GET /api/v1{path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Appends messages that events show whole; none of the calls makes a client of its own.
async fn publish(serving: &Serving, session: &str, messages: usize) {
    let (client, url) = (client(), format!("{}/api/v1/sessions/{session}/messages", serving.url));
    let text = "x".repeat(60 << 10);
    for _ in 0..messages {
        let body = json!({ "messages": [{ "role": "user", "content": text }] });
        let answer = client.post(&url).bearer_auth(&serving.token).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }
}

/// How much memory each of these costs at most that follow and never read, in bytes, while so many times 20 messages are
/// published. As long as they are there: who takes nothing for half a minute is given up.
async fn cost_of_not_reading(subscribers: usize, rounds: usize) -> usize {
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let serving = serve(&db, &demo, &["--cache-bytes", "1000000"]);
    for session in ["s", "deltas"] {
        serving.post("/sessions", json!({ "id": session })).await;
    }
    let endless = json!({ "message": "/slow 1ms\n/endless" });
    assert_eq!(serving.post("/sessions/deltas/runs", endless).await.0, 202);
    // What publishing itself takes is taken before.
    publish(&serving, "s", 20 * rounds.min(3)).await;
    let before = memory(serving.id());
    // From now on, from the beginning, and of more than one session.
    let paths = ["/events", "/events?after=0", "/sessions/s/events", "/sessions/s/events?tree=true&after=0"];
    let mut silent = Vec::new();
    for path in paths.iter().cycle().take(subscribers) {
        silent.push(subscribe(&serving, path).await);
    }
    let (mut most, mut published) = (0, 0);
    for _ in 0..rounds {
        publish(&serving, "s", 20).await;
        if open_files(serving.id()) < subscribers {
            break;
        }
        (most, published) = (most.max(memory(serving.id())), published + 20);
    }
    let each = most.saturating_sub(before) / subscribers;
    println!(
        "{subscribers} that never read, {published} messages of 60 KiB: {} KiB before, {} KiB at most, {} KiB each",
        before >> 10,
        most >> 10,
        each >> 10
    );
    assert!(published >= 20, "they were given up at once");
    each
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_never_reads_costs_less_than_a_mebibyte() {
    assert!(cost_of_not_reading(60, 1).await < 1 << 20);
}

/// `cargo test --release --test it -- --ignored --nocapture four_hundred_subscribers`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and takes a while"]
async fn four_hundred_subscribers_that_never_read_cost_less_than_a_mebibyte_each() {
    assert!(cost_of_not_reading(400, 20).await < 1 << 20);
}

/// Subscribers that wait: what each costs, and that all hear of a change.
async fn cost_of_waiting(subscribers: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let serving = serve(&db, &demo, &["--cache-bytes", "1000000"]);
    serving.post("/sessions", json!({ "id": "s", "title": "old" })).await;
    let before = memory(serving.id());
    let mut waiting = Vec::new();
    for _ in 0..subscribers {
        let mut lines = BufReader::new(subscribe(&serving, "/sessions/s/events").await).lines();
        while !lines.next_line().await.unwrap().unwrap().starts_with("event: snapshot") {}
        waiting.push(lines);
    }
    let after = memory(serving.id());
    let start = Instant::now();
    let rename = client().patch(format!("{}/api/v1/sessions/s", serving.url)).bearer_auth(&serving.token);
    assert_eq!(rename.json(&json!({ "title": "new" })).send().await.unwrap().status(), 200);
    join_all(waiting.iter_mut().map(|lines| async move {
        while !lines.next_line().await.unwrap().unwrap().starts_with("event: session.updated") {}
    }))
    .await;
    let each = after.saturating_sub(before) / subscribers;
    println!("{subscribers} that wait: {} KiB each; all heard after {:?}", each >> 10, start.elapsed());
    each
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_wait_cost_little_and_all_hear_of_a_change() {
    assert!(cost_of_waiting(200).await < 100 << 10);
}

/// `cargo test --release --test it -- --ignored --nocapture five_thousand_subscribers`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and needs 5000 open files"]
async fn five_thousand_subscribers_that_wait_cost_less_than_forty_kibibytes_each() {
    assert!(cost_of_waiting(5000).await < 40 << 10);
}

async fn status(serving: &Serving, run: &str) -> Value {
    serving.get(&format!("/runs/{run}?wait=20")).await.1["run"]["status"].take()
}

/// Kills a server with so many runs under way and so many that wait, and starts it again.
async fn killed_with(active: usize, waiting: usize) {
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let at_once = active.to_string();
    let limits = ["--max-concurrent-runs", at_once.as_str()];
    let mut serving = serve(&db, &demo, &limits);
    let ask = async |serving: &Serving, session: usize, run: String, text: &str| {
        serving.post("/sessions", json!({ "id": session.to_string() })).await;
        let run = json!({ "id": run, "message": text });
        assert_eq!(serving.post(&format!("/sessions/{session}/runs"), run).await.0, 202);
    };
    for session in 0..active + waiting {
        let text = if session < active { "/slow 1ms\n/endless" } else { "/slow 0ms\nhi" };
        ask(&serving, session, format!("first-{session}"), text).await;
    }
    assert_eq!(demo.stats(&format!("requests={active}&open={active}")).await, (active as u64, active as u64));
    serving.signal("KILL");
    let serving = serve(&db, &demo, &limits);
    for session in 0..active {
        assert_eq!(status(&serving, &format!("first-{session}")).await, "interrupted");
        ask(&serving, session, format!("second-{session}"), "/slow 0ms\nagain").await;
    }
    for session in 0..active + waiting {
        let run = if session < active { format!("second-{session}") } else { format!("first-{session}") };
        assert_eq!(status(&serving, &run).await, "completed", "{run}");
    }
    let (requests, open) = demo.stats("open=0").await;
    assert_eq!((requests as usize, open), (2 * active + waiting, 0), "a run was carried out twice");
    let began = "select group_concat(id, ' ') from (select data ->> 'run_id' as id from events
        where kind = 'run.started' and id not like 'second-%' order by event_id)";
    let wanted: Vec<String> = (0..active + waiting).map(|session| format!("first-{session}")).collect();
    assert_eq!(shell(&db, began), wanted.join(" "), "not in order");
    println!("{active} runs were interrupted, {waiting} began after that in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_a_server_that_is_killed_are_interrupted_and_those_that_wait_begin_in_order() {
    killed_with(4, 4).await;
}

/// `cargo test --release --test it -- --ignored --nocapture fifty_runs`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while"]
async fn fifty_runs_of_a_server_that_is_killed_are_interrupted_and_those_that_wait_begin_in_order() {
    killed_with(50, 20).await;
}
