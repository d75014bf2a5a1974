//! Events over HTTP: a snapshot, the log, deltas between; coming back without loss, and being told of one.

use std::time::Duration;

use culm::{model::NewSession, storage::Storage};
use reqwest::Method;
use serde_json::{Value, json};

use super::Server;
use crate::{
    scripted::{Quick, polite, soon},
    support::{id, new, number, run},
};

/// What a client hears.
pub(super) struct Stream {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Heard {
    pub(super) id: Option<i64>,
    pub(super) event: String,
    pub(super) data: Value,
}

impl Stream {
    pub(super) async fn open(server: &Server, path: &str, after: Option<i64>) -> Self {
        let request = server.request(Method::GET, path);
        let request = after.into_iter().fold(request, |request, after| request.header("last-event-id", after));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: Vec::new() }
    }

    /// The next event; none when the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\n\n") {
                let frame = self.buffer.drain(..end + 2).collect();
                let frame = String::from_utf8(frame).unwrap();
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let Some(event) = field("event: ") else { continue };
                let data: Value = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                let id = field("id: ").map(|id| id.parse().unwrap());
                assert_eq!((&data["event"], data["at"].is_string()), (&json!(event), true), "{data}");
                if event != "snapshot" {
                    assert_eq!(data["event_id"].as_i64(), id, "{data}");
                }
                return Some(Heard { id, event, data });
            }
            let chunk = soon(self.response.chunk()).await.unwrap()?;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    pub(super) async fn heard(&mut self) -> Heard {
        self.next().await.expect("the stream has ended")
    }

    /// Everything until an event of this name.
    pub(super) async fn until(&mut self, name: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.heard().await);
            if heard.last().unwrap().event == name {
                return heard;
            }
        }
    }
}

pub(super) fn names(heard: &[Heard]) -> Vec<&str> {
    heard.iter().map(|heard| heard.event.as_str()).collect()
}

pub(super) async fn child(server: &Server, parent: &str, name: &str) {
    let child = NewSession { parent: Some(id(parent)), ..new(name) };
    server.repository.create_session(child, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_followed_from_a_snapshot_to_its_end() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let mut stream = Stream::open(&server, "/sessions/a/events", None).await;
    let snapshot = stream.heard().await;
    assert_eq!((snapshot.event.as_str(), snapshot.id.is_some()), ("snapshot", true));
    assert_eq!((&snapshot.data["session_id"], &snapshot.data["session"]["last_seq"]), (&json!("a"), &json!(1)));
    server.session("other", &["not told of"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    live.delta("he").await;
    let mut heard = stream.until("message.delta").await;
    live.say("hey").await;
    live.complete();
    heard.extend(stream.until("run.finished").await);
    // A delta comes after what was committed before it, and before what it is a part of.
    let order = ["session.updated", "run.started", "message.delta", "message.appended", "run.finished"];
    assert_eq!(names(&heard), order);
    let delta = heard.remove(2);
    let ids: Vec<_> = heard.iter().filter_map(|heard| heard.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b) && ids[0] > snapshot.id.unwrap(), "{ids:?}");
    let (said, end) = (&heard[2], &heard[3]);
    assert_eq!((delta.id, &delta.data["text"], &delta.data["offset"]), (None, &json!("he"), &json!(0)));
    assert_eq!(said.data["message"]["content"], "hey");
    assert_eq!(said.data["message"]["id"], delta.data["message_id"]);
    assert_eq!((&end.data["run_id"], &end.data["status"]), (&json!(run), &json!("completed")));
    assert!(heard.iter().all(|heard| heard.data["session_id"] == "a" && heard.data["root_session_id"] == "a"));
    // Who comes back goes on where it was, by the header or the query; the header is the newer.
    let mut back = Stream::open(&server, "/sessions/a/events?after=0", heard[1].id).await;
    let again = back.until("run.finished").await;
    assert_eq!(names(&again), ["message.appended", "run.finished"]);
    let path = format!("/sessions/a/events?after={}", ids[0]);
    let mut back = Stream::open(&server, &path, None).await;
    assert_eq!(names(&back.until("run.finished").await), ["run.started", "message.appended", "run.finished"]);
    // And hears what comes then.
    server.patch("/sessions/a", json!({ "title": "new" })).await;
    assert_eq!(back.heard().await.event, "session.updated");
}

/// However often it leaves, and wherever: each durable event once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reconnects_loses_nothing_and_repeats_nothing() {
    const ROUNDS: usize = 15;
    let server = std::sync::Arc::new(Server::scripted(Quick).await);
    let sessions = ["a", "b", "c", "d"];
    for session in sessions {
        server.session(session, &["hi"]).await;
    }
    let mut stream = Stream::open(&server, "/events", None).await;
    let first = stream.heard().await.id.unwrap();
    let working: Vec<_> = sessions
        .map(|session| {
            let server = server.clone();
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let run = server.run(session).await;
                    server.ended(&run).await;
                }
            })
        })
        .into();
    let (mut seen, mut finished, mut leave) = (vec![first], 0, 1);
    while finished < sessions.len() * ROUNDS {
        for _ in 0..leave {
            let heard = stream.heard().await;
            finished += usize::from(heard.event == "run.finished");
            seen.extend(heard.id);
            if finished == sessions.len() * ROUNDS {
                break;
            }
        }
        leave = (leave * 7 + 3) % 11;
        stream = Stream::open(&server, "/events", seen.last().copied()).await;
    }
    for worker in working {
        worker.await.unwrap();
    }
    let log = server.repository.events(&culm::model::EventScope::All, first, 100_000).await.unwrap().events;
    let log: Vec<_> = log.iter().map(|event| event.event_id).collect();
    assert_eq!(seen[1..], log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_cut_is_told_of_and_a_snapshot_follows() {
    let server = Server::start().await;
    server.session("a", &["1", "2", "3"]).await;
    server.session("b", &["1"]).await;
    let mut shell = server.shell().await;
    let root = number(&mut shell, "select root_key from sessions where id = 'a'").await;
    let cut = number(&mut shell, &format!("select max(event_id) - 1 from events where root_key = {root}")).await;
    let last = number(&mut shell, "select max(event_id) from events").await;
    run(&mut shell, &format!("delete from events where root_key = {root} and event_id <= {cut}")).await;
    run(&mut shell, &format!("insert into event_gaps (root_key, through) values ({root}, {cut})")).await;
    let mut stream = Stream::open(&server, "/sessions/a/events", Some(cut - 1)).await;
    let (reset, snapshot) = (stream.heard().await, stream.heard().await);
    assert_eq!((reset.event.as_str(), reset.id), ("reset", None));
    assert_eq!((snapshot.event.as_str(), snapshot.id), ("snapshot", Some(last)));
    assert_eq!(snapshot.data["session"]["last_seq"], 3);
    server.patch("/sessions/a", json!({ "title": "new" })).await;
    let next = stream.heard().await;
    assert_eq!((next.event.as_str(), next.id > snapshot.id), ("session.updated", true));
    // What was not cut is there without a word, and another tree's log is whole.
    let mut stream = Stream::open(&server, "/sessions/a/events", Some(cut)).await;
    assert_eq!(stream.heard().await.event, "message.appended");
    let mut stream = Stream::open(&server, "/sessions/b/events", Some(0)).await;
    assert_eq!(stream.heard().await.event, "session.created");
    for (path, after) in [("/events", cut - 1), ("/sessions/b/events", last + 1000)] {
        let mut stream = Stream::open(&server, path, Some(after)).await;
        assert_eq!([stream.heard().await.event, stream.heard().await.event], ["reset", "snapshot"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_is_followed_with_everything_below() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    child(&server, "a", "b").await;
    child(&server, "b", "c").await;
    let mut tree = Stream::open(&server, "/sessions/a/events?tree=true", None).await;
    let mut lower = Stream::open(&server, "/sessions/b/events?tree=true", None).await;
    let mut alone = Stream::open(&server, "/sessions/b/events", None).await;
    let snapshot = tree.heard().await.data;
    assert_eq!(snapshot["tree"]["children"][0]["children"][0]["id"], "c", "{snapshot}");
    assert_eq!((lower.heard().await.event, alone.heard().await.event), ("snapshot".into(), "snapshot".into()));
    server.run("c").await;
    let live = turns.next().await;
    live.delta("deep").await;
    for stream in [&mut tree, &mut lower] {
        let heard = [stream.heard().await, stream.heard().await, stream.heard().await, stream.heard().await];
        assert_eq!(names(&heard), ["session.updated", "run.started", "child.started", "message.delta"]);
        let delta = &heard[3].data;
        assert_eq!((&delta["session_id"], &delta["root_session_id"]), (&json!("c"), &json!("a")));
    }
    live.complete();
    let told = [alone.heard().await, alone.heard().await];
    assert_eq!(names(&told), ["child.started", "child.finished"]);
    assert_eq!((&told[1].data["session_id"], &told[1].data["child_session_id"]), (&json!("b"), &json!("c")));
    // What happens above or beside is not told below.
    server.patch("/sessions/a", json!({ "title": "above" })).await;
    server.patch("/sessions/b", json!({ "title": "own" })).await;
    let heard = lower.until("session.updated").await;
    assert_eq!(heard.last().unwrap().data["session_id"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_word_that_its_session_was_deleted() {
    let server = Server::start().await;
    for session in ["a", "b"] {
        server.session(session, &["hi"]).await;
    }
    child(&server, "a", "c").await;
    let mut open = [
        Stream::open(&server, "/sessions/a/events", None).await,
        Stream::open(&server, "/sessions/a/events?tree=true", None).await,
        Stream::open(&server, "/sessions/c/events", None).await,
    ];
    let mut seen = 0;
    for stream in &mut open {
        seen = stream.heard().await.id.unwrap();
    }
    assert_eq!(server.delete("/sessions/a").await.status, 200);
    let mut deleted = 0;
    for (stream, session) in open.iter_mut().zip(["a", "a", "c"]) {
        let last = stream.until("session.deleted").await;
        let own = match last.last().unwrap().data["session_id"] == session {
            true => last,
            false => stream.until("session.deleted").await,
        };
        let last = own.last().unwrap();
        assert_eq!((&last.data["session_id"], &last.data["root_session_id"]), (&json!(session), &json!("a")));
        assert!(stream.next().await.is_none());
        deleted = deleted.max(last.id.unwrap());
    }
    for after in [0, seen] {
        let mut back = Stream::open(&server, "/sessions/a/events?tree=true", Some(after)).await;
        back.until("session.deleted").await;
        let mut own = Stream::open(&server, "/sessions/a/events", Some(after)).await;
        assert_eq!(names(&own.until("session.deleted").await), ["session.deleted"]);
        assert!(own.next().await.is_none());
    }
    let heard_it =
        server.send(server.request(Method::GET, "/sessions/a/events").header("last-event-id", deleted)).await;
    assert_eq!(heard_it.code(), (404, "session_not_found"));
    assert_eq!(server.get("/sessions/a/events").await.code(), (404, "session_not_found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_place_in_the_log_is_refused() {
    let server = Server::start().await;
    server.session("a", &[]).await;
    assert_eq!(server.get("/sessions/nobody/events").await.code(), (404, "session_not_found"));
    for path in ["/events", "/sessions/a/events"] {
        let bad = server.send(server.request(Method::GET, path).header("last-event-id", "soon")).await;
        assert_eq!((bad.status.as_u16(), &bad.body["param"]), (400, &json!("Last-Event-ID")));
        assert_eq!(server.get(&format!("{path}?after=soon")).await.status, 400);
        assert_eq!(server.get(&format!("{path}?befor=1")).await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_ends_its_streams_at_once() {
    let server = Server::start().await;
    server.session("a", &["hi"]).await;
    let mut streams = Vec::new();
    for path in ["/events", "/sessions/a/events", "/sessions/a/events?tree=true"] {
        let mut stream = Stream::open(&server, path, None).await;
        let seen = stream.heard().await.id;
        streams.push((path, stream, seen));
    }
    let server =
        tokio::time::timeout(Duration::from_secs(5), server.restart()).await.expect("it waited for its streams");
    server.patch("/sessions/a", json!({ "title": "after" })).await;
    for (path, mut stream, seen) in streams {
        assert!(stream.next().await.is_none(), "{path}");
        let mut back = Stream::open(&server, path, seen).await;
        assert_eq!(back.heard().await.data["title"], "after", "{path}");
    }
}

#[tokio::test]
async fn json_with_lines_is_told_in_one() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let mut stream = Stream::open(&server, "/sessions/s/events", None).await;
    stream.heard().await;
    let body = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"metadata\":{\r\n \"a\":\n1}}]}";
    let request = server.request(Method::POST, "/sessions/s/messages").header("content-type", "application/json");
    assert_eq!(server.send(request.body(body)).await.status, 201);
    assert_eq!(stream.heard().await.data["message"]["metadata"], json!({ "a": 1 }));
}
