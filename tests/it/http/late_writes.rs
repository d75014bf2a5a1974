//! The end of a tree: a parent is deleted while it and its child stream. Nothing of it is left, its provider answers
//! nobody any more, and whatever is written to it afterwards brings nothing back.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{
    client::{Setup, TOKEN, executors},
    events::Stream,
    family::task,
};
use crate::{
    executor::Demo,
    support::{assert_sound, client, number},
};

/// Every write that a client can send to a session, and its body.
fn writes(session: &str, round: usize) -> Vec<(&'static str, String, Value)> {
    let path = |rest: &str| format!("/sessions/{session}{rest}");
    let message = json!({ "role": "user", "content": "late" });
    let mut child = task(&format!("late-{session}-{round}"));
    child["auto_run"] = json!(round.is_multiple_of(2));
    vec![
        ("POST", "/sessions".into(), json!({ "id": session })),
        ("PATCH", path(""), json!({ "title": "late" })),
        ("POST", path("/messages"), json!({ "messages": [message, message] })),
        ("PATCH", path("/messages/m"), json!({ "content": "late" })),
        ("DELETE", path("/messages/m"), Value::Null),
        ("POST", path("/messages/truncate"), json!({ "mode": "error_retry" })),
        ("POST", path("/clear"), Value::Null),
        ("POST", path("/usage"), json!({ "record": { "late": 1 } })),
        ("POST", path("/attachments"), json!({ "data": "bGF0ZQ==" })),
        ("POST", path("/runs"), json!({ "message": "late", "on_busy": "interrupt" })),
        ("POST", path("/cancel"), json!({})),
        ("POST", path("/question/answer"), json!({ "response": "late" })),
        ("POST", path("/children"), child),
        ("PATCH", "/sessions/parent/children/child".into(), json!({ "prompt": "late" })),
        ("POST", "/sessions/parent/children/child/run".into(), json!({})),
        (
            "POST",
            "/sessions/parent/children/child/messages".into(),
            json!({ "message": "late", "interrupt_running": true }),
        ),
        ("POST", "/chat".into(), json!({ "session_id": session, "message": "late", "model": "m" })),
        ("POST", format!("/execute/{session}"), json!({})),
        ("POST", format!("/respond/{session}"), json!({ "response": "late" })),
        ("DELETE", path(""), Value::Null),
    ]
}

/// Rows of each table that holds something of a session.
async fn rows(shell: &mut SqliteConnection) -> Vec<i64> {
    let mut rows = Vec::new();
    for of in ["sessions", "messages", "runs", "attachments", "usage_records", "tombstones", "events", "event_gaps"] {
        rows.push(number(shell, &format!("select count(*) from {of}")).await);
    }
    rows
}

async fn nothing_comes_back(late: usize) {
    let demo = Demo::start().await;
    let server = Arc::new(Setup::new(executors(demo.executor())).start().await);
    let endless = "/slow 1ms\n/endless";
    server.session("parent", &[]).await;
    server.post("/sessions/parent/runs", json!({ "message": endless })).await;
    let mut body = task("child");
    body["prompt"] = json!(endless);
    assert_eq!(server.post("/sessions/parent/children", body).await.status, 201);
    let mut stream = Stream::open(&server, "/sessions/parent/events?tree=true", None).await;
    let (mut of_parent, mut of_child) = (false, false);
    while !of_parent || !of_child {
        let delta = stream.until("message.delta").await.pop().unwrap().data;
        (of_parent, of_child) =
            (of_parent || delta["session_id"] == "parent", of_child || delta["session_id"] == "child");
    }
    assert_eq!(demo.stats("open=2").await.1, 2);
    let delete = server.request(reqwest::Method::DELETE, "/sessions/parent").header("prefer", "return=representation");
    let receipt = server.send(delete).await.body;
    assert_eq!(receipt["deleted_session_ids"], json!(["child", "parent"]));
    assert_eq!((receipt["cancelled_run_ids"].as_array().unwrap().len(), &receipt["still_stopping"]), (2, &json!([])));
    assert_eq!(demo.stats("open=0").await, (2, 0), "the provider still answers");
    while stream.next().await.is_some() {}
    let mut shell = server.shell().await;
    let left = rows(&mut shell).await;
    assert_eq!(left, [0, 0, 0, 0, 0, 2, 2, 0]);
    let each = late.div_ceil(2 * writes("parent", 0).len());
    let clients = ["parent", "child"].map(|session| {
        let server = server.clone();
        tokio::spawn(async move {
            let client = client();
            for round in 0..each {
                for (method, path, body) in writes(session, round) {
                    let request = client.request(method.parse().unwrap(), server.url(&path)).bearer_auth(TOKEN);
                    let request = if body.is_null() { request } else { request.json(&body) };
                    let status = request.send().await.unwrap().status().as_u16();
                    assert!(matches!(status, 404 | 410), "{method} {path}: {status}");
                }
            }
        })
    });
    for client in clients {
        client.await.unwrap();
    }
    println!("{} late writes", each * 2 * writes("parent", 0).len());
    assert_eq!(rows(&mut shell).await, left);
    assert_eq!(demo.stats("open=0").await, (2, 0), "the provider was asked again");
    assert_sound(&mut shell).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_is_deleted_while_it_streams_leaves_nothing_and_nothing_brings_it_back() {
    nothing_comes_back(400).await;
}

/// `cargo test --release --test it -- --ignored --nocapture ten_thousand_late_writes`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn ten_thousand_late_writes_bring_nothing_back() {
    nothing_comes_back(10_000).await;
}
