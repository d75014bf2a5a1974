//! What another process does to rows whose work this server does: it stops, whoever removed the row, and how.

use culm::{executor::Event, model::NewSession, storage::Storage};
use serde_json::json;

use super::Server;
use crate::{
    scripted::{polite, soon},
    support::{id, new, number, run},
};

/// A run in each of these sessions, in one tree: the first is the root.
async fn running(server: &Server, turns: &mut crate::scripted::Turns, names: &[&str]) -> Vec<crate::scripted::Live> {
    let mut live = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let parent = (place > 0).then(|| id(names[0]));
        server.repository.create_session(NewSession { parent, ..new(name) }, None).await.unwrap();
        assert_eq!(
            server.post(&format!("/sessions/{name}/runs"), json!({ "id": name, "message": "hi" })).await.status,
            202
        );
        live.push(turns.next().await);
    }
    live
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_in_a_shell_stops_what_runs_in_the_tree() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let live = running(&server, &mut turns, &["root", "child"]).await;
    run(&mut server.shell().await, "delete from sessions where id = 'root'").await;
    for live in &live {
        // Nothing more is said by the model: only the row that is gone tells that this is to stop.
        soon(live.cancel.cancelled()).await;
        soon(live.events.closed()).await;
    }
    // Their places are free, and nobody else is stopped.
    let other = running(&server, &mut turns, &["other"]).await;
    other[0].send(Event::TextDelta("still here".into())).await;
    assert!(!other[0].cancel.is_cancelled());
    assert_eq!(server.get("/runs/root").await.code(), (404, "run_not_found"));
    assert_eq!(number(&mut server.shell().await, "select count(*) from runs").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_row_is_deleted_or_ended_in_a_shell_stops() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let ends = [
        ("deleted", "delete from runs where id = 'deleted'"),
        ("ended", "update runs set status = 'cancelled', finished_at = 1 where id = 'ended'"),
    ];
    for (name, end) in ends {
        let live = running(&server, &mut turns, &[name]).await;
        run(&mut server.shell().await, end).await;
        soon(live[0].cancel.cancelled()).await;
        soon(live[0].events.closed()).await;
        // Its place is free: the session takes another.
        assert_eq!(server.post(&format!("/sessions/{name}/runs"), json!({})).await.status, 202);
        turns.next().await.complete();
    }
    assert_eq!(server.get("/runs/ended").await.body["run"]["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_run_hears_that_its_row_is_gone() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let _live = running(&server, &mut turns, &["a"]).await;
    let deleting = async { run(&mut server.shell().await, "delete from runs where id = 'a'").await };
    // Before the bound of the wait, which is as long as the test's patience, and begins later.
    let (waited, ()) = soon(async { tokio::join!(server.get("/runs/a?wait=60"), deleting) }).await;
    assert_eq!(waited.code(), (404, "run_not_found"));
}
