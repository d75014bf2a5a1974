//! What a delete does outside of the database: at once, and if that fails again, also after a crash.

use std::process::Stdio;

use culm::{
    executor::process,
    model::{AgentSession, BackendState, DeleteOptions, Process},
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage},
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{Server, client::options, lifecycle::Kept};
use crate::{
    scripted::soon,
    support::{create, id, number, run, until},
    warm::Ending,
};

async fn delete(kept: &Kept, session: &str) -> Value {
    let request = kept.server.request(Method::DELETE, &format!("/sessions/{session}"));
    let answer = kept.server.send(request.header("Prefer", "return=representation")).await;
    assert_eq!(answer.status, 200);
    answer.body
}

fn purged(names: &[&str]) -> Vec<(String, bool)> {
    names.iter().map(|name| ((*name).to_owned(), true)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_ends_and_purges_whatever_a_tree_had() {
    let kept = Kept::start().await;
    kept.tree("r", &["a", "b", "never"]).await;
    kept.act("a", "close").await;
    let lingering = kept.linger("b").await;
    let before = kept.warm.dispositions().len();
    let receipt = delete(&kept, "r").await;
    assert_eq!(receipt["cancelled_run_ids"], json!([lingering]));
    assert_eq!((&receipt["still_stopping"], &receipt["unfinished"]), (&json!([]), &json!([])));
    let mut names: Vec<_> = kept.warm.dispositions()[before..].to_vec();
    names.sort_by(|one, other| one.0.session_id.cmp(&other.0.session_id));
    for (backend, purge) in &names {
        assert!(purge);
        assert_eq!(backend.agent_session_id, Some(format!("of {}", backend.session_id)), "what names it is not lost");
    }
    assert_eq!(names.iter().map(|(of, _)| of.session_id.as_str()).collect::<Vec<_>>(), ["a", "b", "never", "r"]);
    assert_eq!((kept.warm.warm().len(), kept.jobs().await), (0, 0));
    assert_eq!(number(&mut kept.server.shell().await, "select count(*) from agent_sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_and_a_deleted_child_end_what_they_had() {
    let kept = Kept::start().await;
    kept.tree("r", &["a", "b"]).await;
    kept.tree("pinned", &[]).await;
    kept.server.patch("/sessions/pinned", json!({ "pinned": true })).await;
    assert_eq!(kept.server.delete("/sessions/r/children/a").await.status, 200);
    assert_eq!(kept.warm.disposed(), purged(&["a"]));
    let cleanup = json!({ "mode": "all", "keep_pinned": true, "dry_run": true });
    let told = kept.server.post("/sessions/cleanup", cleanup).await;
    assert_eq!((told.body["deleted_count"].as_i64(), kept.warm.warm().len()), (Some(2), 3));
    let receipt = kept.server.post("/sessions/cleanup", json!({ "mode": "all", "keep_pinned": true })).await;
    assert_eq!((&receipt.body["unfinished"], &receipt.body["retained_worktrees"]), (&json!([]), &json!([])));
    assert_eq!(kept.warm.disposed(), purged(&["a", "b", "r"]));
    assert_eq!(kept.warm.warm().into_values().collect::<Vec<_>>(), [id("pinned")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_delete_cannot_end_is_said_and_tried_again() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    kept.warm.ends(Ending::Fails);
    let receipt = delete(&kept, "r").await;
    assert_eq!(receipt["deleted"]["sessions"], 2);
    let unfinished =
        |name: &str| json!({ "session_id": name, "kind": "backend", "name": "scripted", "error": "it does not end" });
    let mut said: Vec<Value> = receipt["unfinished"].as_array().unwrap().clone();
    said.sort_by_key(ToString::to_string);
    assert_eq!(said, [unfinished("a"), unfinished("r")]);
    let mut shell = kept.server.shell().await;
    let failed =
        "select count(*) from v_teardown where last_error = 'it does not end' and attempts = 1 and what = 'scripted'";
    assert_eq!(number(&mut shell, failed).await, 2);
    assert_eq!(number(&mut shell, "select count(*) from agent_sessions").await, 0);
    // The reaper fails as well, until it does not.
    run(&mut shell, "update teardown_jobs set next_at = 1").await;
    until(&mut shell, "select count(*) from teardown_jobs where attempts = 2 and next_at > 1", 2).await;
    assert_eq!(kept.warm.warm().len(), 2);
    kept.warm.ends(Ending::Works);
    run(&mut shell, "update teardown_jobs set next_at = 1").await;
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    assert_eq!((kept.warm.warm().len(), kept.warm.disposed()), (0, purged(&["a", "r"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_done_at_the_next_start() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    kept.warm.ends(Ending::Panics);
    assert_eq!(delete(&kept, "r").await["unfinished"].as_array().unwrap().len(), 2);
    let mut shell = kept.server.shell().await;
    run(&mut shell, "update teardown_jobs set next_at = 9000000000000000").await;
    drop(shell);
    let kept = kept.restart().await;
    until(&mut kept.server.shell().await, "select count(*) from teardown_jobs", 0).await;
    assert_eq!(kept.warm.disposed(), purged(&["a", "r"]));
}

/// The server is killed between the commit of a delete and what follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_and_not_carried_out_is_done_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(&Options::new(folder.path().join("culm.db"))).await.unwrap();
    create(&storage, "r").await;
    storage.agent_session(&id("r"), "scripted", "acp").await.unwrap();
    storage.agent_session(&id("r"), "no longer configured", "acp").await.unwrap();
    let receipt = storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    assert_eq!(receipt.teardowns.len(), 2);
    let copy = tempfile::tempdir().unwrap();
    for ending in ["", "-wal"] {
        let name = format!("culm.db{ending}");
        std::fs::copy(folder.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let kept = Kept::start_in(copy, options()).await;
    until(&mut kept.server.shell().await, "select count(*) from teardown_jobs", 0).await;
    assert_eq!(kept.warm.disposed(), purged(&["r"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_in_a_shell_is_ended_soon() {
    let kept = Kept::start().await;
    kept.tree("r", &["a", "b"]).await;
    let mut shell = kept.server.shell().await;
    run(&mut shell, "delete from sessions where id = 'a'").await;
    run(&mut shell, "delete from agent_sessions where session_key = (select session_key from sessions where id = 'b')")
        .await;
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    assert_eq!(kept.warm.disposed(), purged(&["a", "b"]));
    run(&mut shell, "delete from sessions where id = 'r'").await;
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    assert_eq!(kept.warm.disposed(), purged(&["a", "b", "r"]));
    assert!(kept.warm.warm().is_empty());
}

/// A job that nobody understands is left for people to see, and holds up no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_not_understood_stays() {
    let kept = Kept::start().await;
    kept.tree("r", &[]).await;
    let mut shell = kept.server.shell().await;
    run(&mut shell, "insert into teardown_jobs (kind, payload, next_at, created_at) values ('backend', '{}', 1, 1)")
        .await;
    run(&mut shell, "delete from sessions where id = 'r'").await;
    until(&mut shell, "select count(*) from teardown_jobs", 1).await;
    assert_eq!(kept.warm.disposed(), purged(&["r"]));
    assert_eq!(number(&mut shell, "select count(*) from teardown_jobs where payload = '{}'").await, 1);
}

/// A process that another server has left: one that leads a group, and does nothing.
fn left_behind() -> (Child, Process) {
    started(Command::new("cat").process_group(0))
}

pub(super) fn started(command: &mut Command) -> (Child, Process) {
    let child = command.stdin(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    (child, Process { pid, started })
}

async fn warm_row(storage: &dyn Storage, session: &str, process: Process) -> AgentSession {
    create(storage, session).await;
    let made = storage.agent_session(&id(session), "no longer configured", "acp").await.unwrap();
    let state = BackendState::Warm { process: Some(process), agent_session_id: None };
    storage.update_agent_session(&made.id, state).await.unwrap();
    AgentSession { process: Some(process), ..made }
}

/// What is warm in the database of a server that is gone is ended, if it is still what it was, before runs are taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_server_left_warm_is_ended_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(&Options::new(folder.path().join("culm.db"))).await.unwrap();
    let ((mut left, process), (mut other, same_number)) = (left_behind(), left_behind());
    warm_row(&storage, "left", process).await;
    warm_row(&storage, "another", Process { started: same_number.started + 1, ..same_number }).await;
    let (mut deleted, process) = left_behind();
    warm_row(&storage, "deleted", process).await;
    storage.delete_session(&id("deleted"), DeleteOptions::default()).await.unwrap();
    storage.close().await;
    drop(storage);
    let server = Server::start_in(folder).await;
    let mut shell = server.shell().await;
    assert_eq!(
        number(&mut shell, "select count(*) from agent_sessions where status = 'dormant' and pid is null").await,
        2
    );
    assert!(!soon(left.wait()).await.unwrap().success());
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    assert!(!soon(deleted.wait()).await.unwrap().success());
    assert!(other.try_wait().unwrap().is_none(), "another process of the same number");
}

/// A process that leads no group cannot be ended as a backend is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_ended_at_start_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(&Options::new(folder.path().join("culm.db"))).await.unwrap();
    let (mut left, process) = started(&mut Command::new("cat"));
    warm_row(&storage, "left", process).await;
    storage.close().await;
    drop(storage);
    let server = Server::start_in(folder).await;
    let mut shell = server.shell().await;
    let warm = "select count(*) from agent_sessions where status = 'warm'";
    let job = "select count(*) from v_teardown where session_id = 'left' and last_error like '%cannot be ended%'";
    assert_eq!((number(&mut shell, warm).await, number(&mut shell, job).await), (1, 1));
    left.kill().await.unwrap();
    run(&mut shell, "update teardown_jobs set next_at = 1").await;
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    let dormant = "select count(*) from agent_sessions where status = 'dormant' and pid is null";
    assert_eq!(number(&mut shell, dormant).await, 1);
}

#[tokio::test]
async fn ending_what_is_gone_is_done() {
    let database = crate::support::sqlite().await;
    let (mut child, process) = left_behind();
    let backend = warm_row(database.storage(), "a", process).await;
    process::reap(&AgentSession { process: None, ..backend.clone() }).await.unwrap();
    assert!(child.try_wait().unwrap().is_none());
    // To wait closes its input, and it would end by itself.
    let _input = child.stdin.take();
    let (reaped, ended) = tokio::join!(process::reap(&backend), child.wait());
    reaped.unwrap();
    assert!(!ended.unwrap().success());
    process::reap(&backend).await.unwrap();
}
