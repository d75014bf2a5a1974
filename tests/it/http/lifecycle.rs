//! Closing, archiving, opening again, and what a delete does outside of the database.

use std::{sync::Arc, time::Duration};

use culm::{
    executor::Executor,
    model::{Limits, NewSession},
    runs::{self, Executors},
    storage::Storage,
};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Barrier;

use super::{Answer, Server, client::options};
use crate::{
    support::{id, new, number, run, until},
    warm::{Ending, Warm, next},
};

/// A server whose executor keeps things warm.
pub(super) struct Kept {
    pub(super) server: Server,
    pub(super) warm: Warm,
}

fn executors(warm: &Warm) -> Executors {
    let executor: Arc<dyn Executor> = Arc::new(warm.clone());
    Executors::from([("scripted".to_owned(), executor)])
}

impl Kept {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options()).await
    }

    pub(super) async fn start_in(folder: TempDir, options: runs::Options) -> Self {
        let warm = Warm::new();
        let executors = executors(&warm);
        let server = Server::start_on_with(folder, Limits::default(), executors, options, |rows| warm.write_to(rows));
        Self { server: server.await, warm }
    }

    /// Stops, and starts again on the same database: what was warm is gone with the first server.
    pub(super) async fn restart(self) -> Self {
        Self::start_in(self.server.stop().await, options()).await
    }

    /// A root over these, each of which ran once and is warm.
    pub(super) async fn tree(&self, root: &str, below: &[&str]) {
        self.server.session(root, &["hi"]).await;
        for name in below {
            let child = NewSession { parent: Some(id(root)), ..new(name) };
            self.server.repository.create_session(child, None).await.unwrap();
        }
        for name in below.iter().chain([&root]) {
            self.ran(name).await;
        }
    }

    /// Runs a session to its end.
    pub(super) async fn ran(&self, session: &str) {
        let run = self.server.run(session).await;
        assert_eq!(self.server.ended(&run).await["status"], "completed");
    }

    /// Starts a run that goes on until it is cancelled.
    pub(super) async fn linger(&self, session: &str) -> String {
        let answer = self.server.post(&format!("/sessions/{session}/runs"), json!({ "message": "linger" })).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let run = answer.body["run"]["id"].as_str().unwrap().to_owned();
        let at_work = format!(
            "select count(*) from runs r join agent_sessions a using (session_key)
             where r.id = '{run}' and r.status = 'running' and a.status = 'warm' and a.used_at >= r.started_at"
        );
        until(&mut self.server.shell().await, &at_work, 1).await;
        run
    }

    pub(super) async fn act(&self, session: &str, how: &str) -> Answer {
        self.server.send(self.server.request(Method::POST, &format!("/sessions/{session}/{how}"))).await
    }

    /// How many rows say that something is warm, dormant or closed.
    pub(super) async fn rows(&self, status: &str) -> i64 {
        let mut shell = self.server.shell().await;
        number(&mut shell, &format!("select count(*) from agent_sessions where status = '{status}'")).await
    }

    pub(super) async fn jobs(&self) -> i64 {
        number(&mut self.server.shell().await, "select count(*) from teardown_jobs").await
    }

    /// The reaper need not wait any longer: all jobs are due now. Waits until none is left.
    async fn reaped(&self) {
        let mut shell = self.server.shell().await;
        run(&mut shell, "update teardown_jobs set next_at = 1").await;
        until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    }
}

fn result<'a>(answer: &'a Answer, session: &str) -> &'a Value {
    let results = answer.body["results"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    results.iter().find(|result| result["session_id"] == session).unwrap_or_else(|| panic!("{answer:?}"))
}

/// What a call says it did with a session.
fn done(answer: &Answer, session: &str) -> (bool, bool, Value, i64) {
    let result = result(answer, session);
    let (closed, archived) = (result["closed_at"].is_string(), result["archived_at"].is_string());
    (closed, archived, result["disposed"].clone(), result["backends_closed"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_ends_what_is_warm_and_is_idempotent() {
    let kept = Kept::start().await;
    kept.tree("r", &["a", "b"]).await;
    kept.tree("other", &[]).await;
    let before = kept.server.get("/sessions/r/close").await;
    assert_eq!(kept.server.summary("r").await.get("closed_at"), None, "a preview changes nothing");
    let closed = kept.act("r", "close").await;
    assert_eq!(
        (closed.status.as_u16(), &closed.body["ok"], &closed.body["session_id"]),
        (200, &json!(true), &json!("r"))
    );
    assert_eq!(closed.body["results"].as_array().unwrap().len(), 3);
    for session in ["r", "a", "b"] {
        assert_eq!(done(&closed, session), (true, false, json!(["scripted"]), 1));
        assert_eq!(done(&before, session), (false, false, json!(["scripted"]), 1));
        assert!(kept.server.summary(session).await["closed_at"].is_string());
    }
    assert_eq!(kept.warm.warm().into_values().collect::<Vec<_>>(), [id("other")]);
    assert_eq!(kept.warm.disposed(), ["a", "b", "r"].map(|name| (name.to_owned(), false)));
    assert_eq!((kept.rows("closed").await, kept.rows("warm").await), (3, 1));
    let version = kept.server.summary("r").await["version"].clone();
    let again = kept.act("r", "close").await;
    assert_eq!((again.status.as_u16(), &again.body["ok"]), (200, &json!(true)));
    assert_eq!(done(&again, "a"), (true, false, json!([]), 0));
    assert_eq!(kept.server.summary("r").await["version"], version);
    // A run takes it up again, with what its agent knew.
    kept.ran("r").await;
    assert_eq!(kept.server.summary("r").await.get("closed_at"), None);
    assert_eq!(kept.warm.warm().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_is_closed_alone_and_a_child_with_what_is_below() {
    let kept = Kept::start().await;
    kept.tree("r", &["a", "b"]).await;
    let closed = kept.act("a", "close?force=true").await;
    assert_eq!(closed.body["results"].as_array().unwrap().len(), 1);
    assert_eq!(done(&closed, "a"), (true, false, json!(["scripted"]), 1));
    assert_eq!(kept.warm.disposed(), [("a".to_owned(), false)]);
    assert_eq!(kept.server.summary("r").await.get("closed_at"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archived_sessions_leave_the_list_until_they_are_taken_back() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    let listed = async |query: &str| {
        let page = kept.server.get(&format!("/sessions?kind=all{query}")).await;
        let ids = page.body["sessions"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned());
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        ids
    };
    let archived = kept.act("r", "archive").await;
    assert_eq!(done(&archived, "a"), (true, true, json!(["scripted"]), 1));
    assert!(kept.warm.warm().is_empty());
    assert!(listed("").await.is_empty());
    assert_eq!(listed("&archived=true").await, ["a", "r"]);
    let back = kept.act("r", "unarchive").await;
    assert_eq!(done(&back, "a"), (true, false, json!([]), 0));
    assert_eq!(listed("").await, ["a", "r"]);
    let open = kept.act("r", "reopen").await;
    assert_eq!((done(&open, "r"), done(&open, "a")), ((false, false, json!([]), 0), (false, false, json!([]), 0)));
    let events =
        kept.server.repository.events(&culm::model::EventScope::Session(id("a")), 0, 100).await.unwrap().events;
    let told =
        events.iter().map(|event| json!(event)).filter(|event| event.get("closed").or(event.get("archived")).is_some());
    let told: Vec<_> =
        told.map(|event| (event["event"].clone(), event["closed"].clone(), event["archived"].clone())).collect();
    let (closed, archived) = (json!("session.closed"), json!("session.archived"));
    assert_eq!(
        told,
        [
            (closed.clone(), json!(true), Value::Null),
            (archived.clone(), Value::Null, json!(true)),
            (archived, Value::Null, json!(false)),
            (closed, json!(false), Value::Null)
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_not_closed() {
    let kept = Kept::start().await;
    kept.tree("gone", &[]).await;
    kept.server.delete("/sessions/gone").await;
    for how in ["close", "archive", "unarchive", "reopen"] {
        assert_eq!(kept.act("nobody", how).await.code(), (404, "session_not_found"));
        assert_eq!(kept.act("gone", how).await.code(), (410, "session_deleted"));
        assert_eq!(kept.act("gone", &format!("{how}?by=hand")).await.code(), (400, "invalid_request"));
    }
    for session in ["gone", "nobody"] {
        let preview = kept.server.get(&format!("/sessions/{session}/close")).await;
        assert_eq!(preview.code(), (404, "session_not_found"));
    }
}

/// Each disposal waits here until all of them have begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_warm_sessions_are_ended_at_the_same_time() {
    let kept = Kept::start().await;
    let names: Vec<String> = (0..19).map(|n| format!("c{n:02}")).collect();
    kept.tree("r", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    kept.warm.ends(Ending::Together(Arc::new(Barrier::new(20))));
    let closed = kept.act("r", "close").await;
    assert_eq!((closed.status.as_u16(), &closed.body["ok"]), (200, &json!(true)), "{closed:?}");
    assert_eq!(kept.warm.disposed().len(), 20);
    kept.act("r", "reopen").await;
    join_all(names.iter().map(|name| kept.ran(name))).await;
    kept.ran("r").await;
    kept.warm.ends(Ending::Together(Arc::new(Barrier::new(20))));
    assert_eq!(kept.server.delete("/sessions/r").await.status, 200);
    assert_eq!((kept.warm.warm().len(), kept.jobs().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_ended_is_said_and_is_tried_again() {
    for (ending, why) in [
        (Ending::Fails, "scripted was not ended: it does not end"),
        (Ending::Hangs, "scripted was not ended: it has not ended in time"),
        (Ending::Panics, "scripted was not ended: the executor broke down"),
    ] {
        // Longer than what works takes, however busy the machine is.
        let bounded = runs::Options { dispose: Duration::from_secs(2), ..options() };
        let kept = Kept::start_in(tempfile::tempdir().unwrap(), bounded).await;
        kept.tree("r", &["a"]).await;
        kept.act("a", "close").await;
        kept.warm.ends(ending);
        let closed = kept.act("r", "close").await;
        assert_eq!((closed.status.as_u16(), &closed.body["ok"]), (200, &json!(false)), "{closed:?}");
        assert_eq!(done(&closed, "r"), (true, false, json!([]), 0));
        assert_eq!(result(&closed, "r")["error"], why);
        assert_eq!((done(&closed, "a"), result(&closed, "a").get("error")), ((true, false, json!([]), 0), None));
        // It is warm, and its row says so, until the reaper has ended it.
        assert_eq!((kept.warm.warm().len(), kept.rows("warm").await, kept.jobs().await), (1, 1, 1));
        kept.warm.ends(Ending::Works);
        kept.reaped().await;
        assert_eq!((kept.warm.warm().len(), kept.rows("warm").await, kept.rows("closed").await), (0, 0, 2));
    }
}

/// A job of a close is void once the session is in use again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_opened_again_is_not_ended_by_an_earlier_close() {
    let kept = Kept::start().await;
    kept.tree("r", &[]).await;
    kept.warm.ends(Ending::Fails);
    kept.act("r", "close").await;
    kept.warm.ends(Ending::Works);
    kept.act("r", "reopen").await;
    kept.reaped().await;
    assert_eq!((kept.warm.warm().len(), kept.rows("warm").await), (1, 1));
    kept.warm.ends(Ending::Fails);
    kept.act("r", "close").await;
    kept.ran("r").await;
    kept.warm.ends(Ending::Works);
    kept.reaped().await;
    assert_eq!((kept.warm.warm().len(), kept.rows("warm").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_stopped_before_it_is_closed() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    let lingering = kept.linger("a").await;
    let closed = kept.act("r", "close").await;
    assert_eq!(closed.body["ok"], true, "{closed:?}");
    assert_eq!(kept.server.ended(&lingering).await["status"], "cancelled");
    assert_eq!((kept.warm.warm().len(), kept.rows("closed").await), (0, 2));
}

/// While a close ends things, others go on: whatever they do, what is closed is cold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_begins_again_when_a_run_comes_between() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    let mut held = kept.warm.holds();
    let meanwhile = async {
        let go = [next(&mut held).await, next(&mut held).await];
        // One that is over by then, and one that is not.
        kept.ran("a").await;
        let lingering = kept.linger("r").await;
        kept.warm.ends(Ending::Works);
        go.into_iter().for_each(|go| go.send(()).unwrap());
        lingering
    };
    let (closed, lingering) = tokio::join!(kept.act("r", "close"), meanwhile);
    assert_eq!(closed.body["ok"], true, "{closed:?}");
    assert_eq!(done(&closed, "a"), (true, false, json!(["scripted"]), 1));
    assert_eq!(kept.server.ended(&lingering).await["status"], "cancelled");
    assert_eq!((kept.warm.warm().len(), kept.rows("closed").await, kept.rows("warm").await), (0, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_used_again_and_again_stays_open_and_the_others_are_closed() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    let mut held = kept.warm.holds();
    let insisting = async {
        let first = [next(&mut held).await, next(&mut held).await];
        kept.linger("a").await;
        first.into_iter().for_each(|go| go.send(()).unwrap());
        for _ in 0..2 {
            let go = next(&mut held).await;
            kept.linger("a").await;
            go.send(()).unwrap();
        }
    };
    let (closed, ()) = tokio::join!(kept.act("r", "close"), insisting);
    assert_eq!((closed.status.as_u16(), &closed.body["ok"]), (200, &json!(false)));
    assert_eq!(done(&closed, "r"), (true, false, json!(["scripted"]), 1));
    assert_eq!((done(&closed, "a").0, done(&closed, "a").3), (false, 0));
    assert!(result(&closed, "a")["error"].as_str().unwrap().starts_with("it stays open"));
    assert_eq!(kept.server.summary("a").await["is_running"], true);
    kept.warm.ends(Ending::Works);
    kept.act("r", "close").await;
    assert_eq!((kept.warm.warm().len(), kept.rows("closed").await), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_and_created_during_a_close_is_closed_with_it_or_opens_it() {
    let kept = Kept::start().await;
    kept.tree("r", &[]).await;
    let mut held = kept.warm.holds();
    let meanwhile = async {
        let go = next(&mut held).await;
        let child = NewSession { parent: Some(id("r")), ..new("late") };
        kept.server.repository.create_session(child, None).await.unwrap();
        kept.ran("late").await;
        kept.warm.ends(Ending::Works);
        let said = json!({ "messages": [{ "role": "user", "content": "more" }] });
        assert_eq!(kept.server.post("/sessions/r/messages", said).await.status, 201);
        go.send(()).unwrap();
    };
    let (closed, ()) = tokio::join!(kept.act("r", "close"), meanwhile);
    assert_eq!((done(&closed, "r").0, done(&closed, "late")), (true, (true, false, json!(["scripted"]), 1)));
    assert!(kept.warm.warm().is_empty());
    let said = json!({ "messages": [{ "role": "user", "content": "and more" }] });
    assert_eq!(kept.server.post("/sessions/r/messages", said).await.status, 201);
    assert_eq!(kept.server.summary("r").await.get("closed_at"), None);
    assert!(kept.server.summary("late").await["closed_at"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_during_a_close_wins() {
    let kept = Kept::start().await;
    kept.tree("r", &["a"]).await;
    let mut held = kept.warm.holds();
    let meanwhile = async {
        let go = [next(&mut held).await, next(&mut held).await];
        kept.warm.ends(Ending::Works);
        assert_eq!(kept.server.delete("/sessions/r").await.status, 200);
        go.into_iter().for_each(|go| go.send(()).unwrap());
    };
    let (closed, ()) = tokio::join!(kept.act("r", "close"), meanwhile);
    assert_eq!(closed.code(), (410, "session_deleted"));
    assert_eq!((kept.warm.warm().len(), kept.jobs().await), (0, 0));
    assert_eq!(kept.warm.disposed().iter().filter(|(_, purge)| *purge).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_does_not_stop_a_close() {
    let kept = Kept::start().await;
    kept.tree("r", &[]).await;
    let mut held = kept.warm.holds();
    let go = tokio::select! {
        answer = kept.act("r", "close") => panic!("{answer:?}"),
        go = next(&mut held) => go,
    };
    go.send(()).unwrap();
    let mut shell = kept.server.shell().await;
    until(&mut shell, "select count(*) from sessions where closed_at is not null", 1).await;
    assert_eq!(kept.rows("closed").await, 1);
}
