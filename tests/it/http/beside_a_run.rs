//! What happens beside a run: a start or an end that cannot be written, a stop that takes its time, a change of the
//! session's settings, the words of a parent's children. Whatever it is, a session is busy as long as something works in
//! it, and no longer.

use std::sync::Arc;

use culm::{
    executor::Event,
    model::{EventKind, EventScope, NewMessage, Role},
    storage::Storage,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{Server, family::Family};
use crate::{
    scripted::{Quick, polite, soon, stubborn},
    support::{run, until},
};

/// Has the database refuse a change, as a failing disk would.
async fn refuse(shell: &mut SqliteConnection, change: &str) {
    let trigger = format!("create trigger refused before {change} begin select raise(fail, 'as the test has it'); end");
    run(shell, &trigger).await;
}

async fn assert_runs(server: &Server, session: &str) {
    let run = server.run(session).await;
    assert_eq!(server.ended(&run).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_be_written_leaves_no_session_busy() {
    let server = Server::scripted(Quick).await;
    server.session("a", &["hi"]).await;
    let mut shell = server.shell().await;
    refuse(&mut shell, "insert on runs").await;
    for _ in 0..3 {
        let start = server.post("/sessions/a/runs", json!({ "message": "never stored" })).await;
        assert_eq!(start.code(), (500, "internal"));
        assert_eq!(server.post("/execute/a", json!({})).await.status, 500);
    }
    let session = server.summary("a").await;
    assert_eq!((&session["is_running"], &session["last_run_status"]), (&json!(false), &Value::Null));
    assert_eq!(server.messages("a").await.len(), 1);
    run(&mut shell, "drop trigger refused").await;
    assert_runs(&server, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_could_not_be_taken_is_taken_when_it_can_be() {
    let server = Server::scripted(Quick).await;
    server.session("a", &["hi"]).await;
    let mut shell = server.shell().await;
    refuse(&mut shell, "update of status on runs when new.status = 'running'").await;
    let asked = server.run("a").await;
    assert_eq!(server.get(&format!("/runs/{asked}")).await.body["run"]["status"], "pending");
    run(&mut shell, "drop trigger refused").await;
    assert_eq!(server.ended(&asked).await["status"], "completed");
    assert_runs(&server, "a").await;
}

/// The last write of a run is its end: until that is there, nothing else changes its messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_busy_until_the_end_of_its_run_is_written_and_no_longer() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let mut shell = server.shell().await;
    refuse(&mut shell, "update of status on runs when new.status = 'error'").await;
    let asked = server.run("a").await;
    let live = turns.next().await;
    live.delta("half").await;
    let events = live.events.clone();
    live.end(Err(culm::executor::Error::Failed("boom".into())));
    soon(events.closed()).await;
    let more = json!({ "messages": [{ "role": "user", "content": "more" }] });
    assert_eq!(server.post("/sessions/a/messages", more.clone()).await.code(), (409, "session_busy"));
    assert_eq!(server.post("/sessions/a/runs", json!({})).await.code(), (409, "session_busy"));
    let cut = json!({ "mode": "after_last_user" });
    assert_eq!(server.post("/sessions/a/messages/truncate", cut).await.code(), (409, "session_busy"));
    run(&mut shell, "drop trigger refused").await;
    assert_eq!(server.ended(&asked).await["error"], "boom");
    assert_eq!(server.post("/sessions/a/messages", more).await.status, 201);
    let texts: Vec<Value> = server.messages("a").await.iter().map(|message| message["content"].clone()).collect();
    assert_eq!(texts, ["hi", "half", "more"]);
}

/// An interrupted run writes as long as it may, and never beside the next one nor after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_run_writes_late_is_before_the_next_run_or_nowhere() {
    let (executor, mut turns) = stubborn();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let first = server.run("a").await;
    let live = turns.next().await;
    let late = async {
        live.cancel.cancelled().await;
        let mut taken = 0;
        // Until it is left, at the end of its grace period.
        while live.events.send(Event::Message(NewMessage::text(Role::Assistant, "late"))).await.is_ok() {
            taken += 1;
        }
        taken
    };
    let body = json!({ "on_busy": "interrupt", "message": "no, this" });
    let (second, taken) = soon(async { tokio::join!(server.post("/sessions/a/runs", body), late) }).await;
    assert_eq!((second.status.as_u16(), taken > 0), (202, true));
    let next = turns.next().await;
    let seen: Vec<String> = next.turn.messages.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(next.turn.messages.last().unwrap().content, "no, this");
    next.say("this").await;
    let run = next.run();
    next.complete();
    server.ended(&run).await;
    let path = "/sessions/a/messages?limit=1000";
    let messages = server.get(path).await.body["messages"].as_array().unwrap().clone();
    let of_first: Vec<usize> = (0..messages.len()).filter(|place| messages[*place]["run_id"] == json!(first)).collect();
    let asked = messages.iter().position(|message| message["content"] == "no, this").unwrap();
    assert!(!of_first.is_empty() && of_first.iter().all(|place| *place < asked), "{of_first:?} and {asked}");
    // The next one began with all of it before its eyes.
    let before: Vec<&str> = messages[..=asked].iter().map(|message| message["id"].as_str().unwrap()).collect();
    let shown: Vec<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(before, shown);
    assert_eq!(messages.len(), asked + 2);
}

/// What is changed while a run goes on stays changed: the run does not write back what it began with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_changed_during_a_run_are_those_after_it() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.post("/sessions", json!({ "id": "a", "title": "old", "model": "old", "metadata": { "old": "1" } })).await;
    server.post("/sessions/a/messages", json!({ "messages": [{ "role": "user", "content": "hi" }] })).await;
    for cancelled in [false, true] {
        let asked = server.run("a").await;
        let live = turns.next().await;
        let change = json!({
            "title": format!("new, {cancelled}"), "pinned": !cancelled, "model": format!("new, {cancelled}"), "workspace": "/new",
            "reasoning_effort": "max", "metadata": { "old": null, "new": cancelled.to_string() },
            "task_list": { "new": cancelled }, "token_budget": { "new": cancelled },
        });
        assert_eq!(server.patch("/sessions/a", change.clone()).await.status, 200);
        live.say("ho").await;
        live.send(Event::Usage(serde_json::from_value(json!({ "total_tokens": 7 })).unwrap())).await;
        live.delta("half").await;
        match cancelled {
            true => assert_eq!(server.cancel("a", None).await.status, 200),
            false => live.complete(),
        }
        server.ended(&asked).await;
        let session = server.summary("a").await;
        for (field, value) in change.as_object().unwrap() {
            let value = if field == "metadata" { json!({ "new": cancelled.to_string() }) } else { value.clone() };
            assert_eq!(session[field], value, "{field}");
        }
    }
}

/// A child's run begins once and ends once for its parent, in this order; a start that is refused says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_hears_of_each_run_of_a_child_once_and_in_order() {
    const RUNS: usize = 20;
    let server = Arc::new(Server::scripted(Quick).await);
    server.session("parent", &[]).await;
    let child = json!({ "id": "child", "title": "t", "responsibility": "r", "prompt": "p", "subagent_type": "s" });
    assert_eq!(server.post("/sessions/parent/children", child).await.status, 201);
    // Two clients ask for the same runs: one of them is refused, or told that it is running.
    let clients = [(), ()].map(|()| {
        let server = server.clone();
        tokio::spawn(async move {
            for _ in 0..RUNS {
                let path = "/sessions/parent/children/child/run";
                assert_eq!(server.send(server.request(Method::POST, path)).await.status, 202);
                server.post("/sessions/child/runs", json!({})).await;
            }
        })
    });
    for client in clients {
        client.await.unwrap();
    }
    let mut shell = server.shell().await;
    until(&mut shell, "select count(*) from runs where finished_at is null", 0).await;
    let runs = server.get("/sessions/child/runs?limit=200").await.body["runs"].as_array().unwrap().clone();
    let asked: Vec<&Value> = runs.iter().rev().map(|run| &run["id"]).collect();
    let scope = EventScope::Session("parent".parse().unwrap());
    let log = server.repository.events(&scope, 0, 1000).await.unwrap().events;
    let told: Vec<Value> =
        log.iter().map(|event| json!(event)).filter(|event| event["child_session_id"] == "child").collect();
    let pairs: Vec<_> = told.chunks(2).collect();
    assert_eq!(pairs.len(), asked.len());
    for (pair, run) in pairs.iter().zip(asked) {
        let names: Vec<&Value> = pair.iter().map(|event| &event["event"]).collect();
        assert_eq!(names, ["child.started", "child.finished"], "{pair:?}");
        assert!(pair.iter().all(|event| event["run_id"] == *run), "{pair:?} of {run}");
        assert_eq!(pair[1]["status"], "completed");
    }
}

/// Who is refused has not touched what runs.
#[tokio::test]
async fn a_child_that_runs_is_as_it_was_for_who_is_refused() {
    let family = Family::start().await;
    family.child("child", true).await;
    let run = family.begun().await;
    let (shown, told) = (family.show("child").await, family.events("parent").await);
    assert_eq!(family.server.post("/sessions/child/runs", json!({})).await.code(), (409, "session_busy"));
    assert_eq!(family.post("child/messages", json!({ "message": "more" })).await.code(), (409, "session_busy"));
    assert_eq!(family.post("child/run", json!({})).await.body["status"], "already_running");
    assert_eq!((family.show("child").await, family.events("parent").await), (shown, told));
    family.finish(run, "done").await;
}

/// Nobody else will say it: the run is gone with its session.
#[tokio::test]
async fn a_parent_hears_once_that_a_child_which_was_deleted_has_ended() {
    let family = Family::start().await;
    for (child, path) in [("a", "/sessions/parent/children/a"), ("b", "/sessions/b")] {
        family.child(child, true).await;
        let run = family.begun().await;
        assert_eq!(family.server.delete(path).await.status, 200);
        assert!(run.answer.is_closed());
    }
    family.child("c", true).await;
    let _run = family.begun().await;
    family.child("idle", false).await;
    let all = json!({ "mode": "children" });
    assert_eq!(family.server.post("/sessions/cleanup", all).await.body["deleted_count"], 2);
    let told = family.events("parent").await;
    let told: Vec<&str> = told.iter().map(String::as_str).filter(|event| event.starts_with("child.")).collect();
    assert_eq!(told, ["child.started", "child.finished"].repeat(3));
    let scope = EventScope::Session("parent".parse().unwrap());
    let log = family.server.repository.events(&scope, 0, 1000).await.unwrap().events;
    let last = json!(log.iter().rfind(|event| event.event == EventKind::ChildFinished).unwrap());
    assert_eq!((&last["child_session_id"], &last["status"]), (&json!("c"), &json!("cancelled")));
}
