//! Stopping: cancel, interrupt, delete and cleanup while runs are pending or running.

use culm::{executor::Event, model::NewSession, storage::Storage};
use reqwest::Method;
use serde_json::{Value, json};

use super::Server;
use crate::{
    scripted::{polite, soon, stubborn},
    support::{id, new},
};

async fn child(server: &Server, parent: &str, name: &str) {
    let child = NewSession { parent: Some(id(parent)), ..new(name) };
    server.repository.create_session(child, None).await.unwrap();
}

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<_> = value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn sorted<const N: usize>(mut names: [String; N]) -> [String; N] {
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_has_stopped_and_left_its_partial_text() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    live.say("whole").await;
    live.send(Event::ReasoningDelta("hm".into())).await;
    live.delta("half ").await;
    live.delta("a word").await;
    let path = format!("/runs/{run}/cancel");
    let cancelled = server.send(server.request(Method::POST, &path)).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.body["run"]["status"]), (200, &json!("cancelled")));
    assert!(live.cancel.is_cancelled());
    soon(live.events.closed()).await;
    let messages = server.messages("a").await;
    assert_eq!((&messages[1]["content"], &messages[2]["content"]), (&json!("whole"), &json!("half a word")));
    assert_eq!((&messages[2]["reasoning"], &messages[2]["run_id"]), (&json!("hm"), &json!(run)));
    assert_eq!(messages[2]["metadata"]["partial"], true);
    let session = server.summary("a").await;
    assert_eq!((&session["is_running"], &session["last_run_status"]), (&json!(false), &json!("cancelled")));
    let again = server.send(server.request(Method::POST, &path)).await;
    assert_eq!(again.body, cancelled.body);
    assert_eq!(server.send(server.request(Method::POST, "/runs/nobody/cancel")).await.code(), (404, "run_not_found"));
    server.run("a").await;
    turns.next().await.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_does_not_listen_is_left_after_the_grace_period() {
    let (executor, mut turns) = stubborn();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    live.delta("half").await;
    let cancelled = soon(server.cancel("a", None)).await;
    assert_eq!(names(&cancelled.body["cancelled_run_ids"]), [&*run]);
    assert_eq!(server.ended(&run).await["status"], "cancelled");
    soon(live.events.closed()).await;
    assert_eq!(server.messages("a").await[1]["content"], "half");
    server.run("a").await;
    turns.next().await.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_cancelled_while_it_waits_never_begins() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let mut runs = Vec::new();
    for session in ["a", "b", "c", "d"] {
        server.session(session, &["hi"]).await;
        runs.push(server.run(session).await);
    }
    let (first, second) = (turns.next().await, turns.next().await);
    let path = format!("/runs/{}/cancel", runs[2]);
    let cancelled = server.send(server.request(Method::POST, &path)).await.body["run"].take();
    assert_eq!((&cancelled["status"], &cancelled["started_at"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(server.summary("c").await["last_run_status"], "cancelled");
    first.complete();
    assert_eq!(turns.next().await.run(), runs[3]);
    second.complete();
    turns.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupting_start_stops_what_runs_and_goes_on() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let first = server.run("a").await;
    turns.next().await.delta("half").await;
    let body = json!({ "on_busy": "interrupt", "message": "no, this" });
    let second = server.post("/sessions/a/runs", body).await;
    assert_eq!(second.status, 202);
    assert_eq!(server.ended(&first).await["status"], "cancelled");
    let live = turns.next().await;
    assert_eq!(json!(live.run()), second.body["run"]["id"]);
    let texts: Vec<_> = live.turn.messages.iter().map(|message| message.content.as_str()).collect();
    assert_eq!(texts, ["hi", "half", "no, this"]);
    live.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_cancelled_with_or_without_what_is_below() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    child(&server, "a", "b").await;
    child(&server, "b", "c").await;
    let [a, b, c] = [server.run("a").await, server.run("b").await, server.run("c").await];
    let _live = (turns.next().await, turns.next().await);
    let alone = server.cancel("a", Some(json!({ "recursive": false }))).await;
    assert_eq!(names(&alone.body["cancelled_run_ids"]), [&*a]);
    assert_eq!(turns.next().await.run(), c);
    let all = server.cancel("a", None).await;
    assert_eq!(names(&all.body["cancelled_run_ids"]), sorted([b, c]));
    assert!(names(&server.cancel("a", Some(json!({}))).await.body["cancelled_run_ids"]).is_empty());
    assert_eq!(server.cancel("nobody", None).await.status, 404);
}

/// What an executor says after its session was deleted brings nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_stops_what_ran_and_late_words_bring_nothing_back() {
    let (executor, mut turns) = stubborn();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    child(&server, "a", "b").await;
    child(&server, "a", "c").await;
    let runs = [server.run("a").await, server.run("b").await, server.run("c").await];
    let (one, two) = (turns.next().await, turns.next().await);
    let late = |live: crate::scripted::Live| async move {
        live.cancel.cancelled().await;
        let mut sent = 0;
        while sent < 10_000
            && live
                .events
                .send(Event::Message(culm::model::NewMessage::text(culm::model::Role::Assistant, "late")))
                .await
                .is_ok()
        {
            sent += 1;
        }
    };
    let delete = server.request(Method::DELETE, "/sessions/a").header("prefer", "return=representation");
    let (receipt, ..) = soon(async { tokio::join!(server.send(delete), late(one), late(two)) }).await;
    assert_eq!(names(&receipt.body["cancelled_run_ids"]), sorted(runs.clone()));
    assert_eq!((&receipt.body["still_stopping"], &receipt.body["deleted"]["runs"]), (&json!([]), &json!(3)));
    turns.none();
    for run in runs {
        assert_eq!(server.get(&format!("/runs/{run}")).await.code(), (404, "run_not_found"));
    }
    for session in ["a", "b", "c"] {
        assert_eq!(server.get(&format!("/sessions/{session}")).await.status, 404);
    }
    assert_eq!(server.get("/sessions?kind=all").await.body["sessions"], json!([]));
    // Its places are free again.
    server.session("d", &["hi"]).await;
    server.run("d").await;
    turns.next().await.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_stops_what_ran() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.session("empty", &[]).await;
    let runs = [server.run("a").await, server.run("empty").await];
    let live = [turns.next().await, turns.next().await];
    let empty = server.post("/sessions/cleanup", json!({ "mode": "empty" })).await;
    assert_eq!(empty.body["deleted_count"], 0, "a session that runs is not empty");
    let dry = server.post("/sessions/cleanup", json!({ "mode": "all", "dry_run": true })).await;
    assert!(!live[0].cancel.is_cancelled() && !live[1].cancel.is_cancelled(), "{dry:?}");
    let receipt = server.post("/sessions/cleanup", json!({ "mode": "all" })).await;
    assert_eq!(names(&receipt.body["cancelled_run_ids"]), sorted(runs));
    for live in live {
        soon(live.events.closed()).await;
        assert!(live.cancel.is_cancelled());
    }
    assert_eq!(server.get("/runs").await.body["runs"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_interrupt_at_once_each_has_its_turn() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.run("a").await;
    let _first = turns.next().await;
    let start = |n: usize| {
        let body = json!({ "on_busy": "interrupt", "message": format!("number {n}") });
        server.post("/sessions/a/runs", body)
    };
    let answers = soon(futures_util::future::join_all((0..10).map(start))).await;
    let mut runs: Vec<_> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 202, "{answer:?}");
            answer.body["run"]["id"].as_str().unwrap().to_owned()
        })
        .collect();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), 10);
    let mut left = 0;
    for run in &runs {
        let status = server.get(&format!("/runs/{run}")).await.body["run"]["status"].take();
        left += usize::from(status != "cancelled");
    }
    assert_eq!(left, 1, "one is left, the last");
    let messages = server.messages("a").await;
    assert_eq!(messages.iter().filter(|message| message["role"] == "user").count(), 11, "and no message is lost");
}

/// A run that comes to its own end while it is cancelled was not ended by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_lists_what_it_ended() {
    let (executor, mut turns) = stubborn();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    let completing = async {
        live.cancel.cancelled().await;
        live.complete();
    };
    let (cancelled, ()) = soon(async { tokio::join!(server.cancel("a", None), completing) }).await;
    // On a machine that is busy, the grace period may be over first.
    let is_cancelled = server.ended(&run).await["status"] == "cancelled";
    assert_eq!(names(&cancelled.body["cancelled_run_ids"]), if is_cancelled { vec![run] } else { vec![] });
}
