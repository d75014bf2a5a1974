//! Runs over HTTP: asked for, carried out, listed, refused.

use culm::executor::Error;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Server, client::executors};
use crate::scripted::{Broken, Live, polite};

impl Server {
    /// Starts a run; its id.
    pub(super) async fn run(&self, session: &str) -> String {
        let answer = self.post(&format!("/sessions/{session}/runs"), json!({})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["run"]["id"].as_str().unwrap().to_owned()
    }

    /// A run once it has ended.
    pub(super) async fn ended(&self, run: &str) -> Value {
        let run = self.get(&format!("/runs/{run}?wait=10")).await.body["run"].take();
        assert!(run["finished_at"].is_string(), "{run} has not ended");
        run
    }

    pub(super) async fn summary(&self, session: &str) -> Value {
        self.get(&format!("/sessions/{session}")).await.body["session"].take()
    }

    pub(super) async fn messages(&self, session: &str) -> Vec<Value> {
        let page = self.get(&format!("/sessions/{session}/messages")).await;
        page.body["messages"].as_array().unwrap().clone()
    }

    pub(super) async fn cancel(&self, session: &str, body: Option<Value>) -> Answer {
        let request = self.request(Method::POST, &format!("/sessions/{session}/cancel"));
        self.send(body.into_iter().fold(request, |request, body| request.json(&body))).await
    }
}

fn ids(answer: &Answer) -> Vec<String> {
    let runs = answer.body["runs"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    runs.iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

async fn assert_busy(server: &Server, session: &str, message: &Value) {
    let path = |rest: &str| format!("/sessions/{session}{rest}");
    let one = path(&format!("/messages/{}", message["id"].as_str().unwrap()));
    let answers = [
        server.post(&path("/runs"), json!({})).await,
        server.post(&path("/messages"), json!({ "messages": [{ "role": "user", "content": "x" }] })).await,
        server.patch(&one, json!({ "content": "x" })).await,
        server.delete(&one).await,
        server.post(&path("/messages/truncate"), json!({ "mode": "after_last_user" })).await,
        server.send(server.request(Method::POST, &path("/clear"))).await,
    ];
    for answer in answers {
        assert_eq!(answer.code(), (409, "session_busy"), "{answer:?}");
    }
    assert_eq!(server.patch(&path(""), json!({ "title": "renamed", "pinned": true })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_carried_out_and_its_session_follows() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &[]).await;
    let body = json!({ "id": "r1", "model": "m", "message": "hello" });
    let started = server.post("/sessions/a/runs", body).await;
    assert_eq!(started.status, 202);
    assert_eq!(started.body["run"]["executor"], "scripted");
    let live = turns.next().await;
    assert_eq!((live.run().as_str(), live.turn.model.as_deref()), ("r1", Some("m")));
    assert_eq!(live.turn.messages.last().unwrap().content, "hello");
    assert_eq!(server.get("/runs/r1").await.body["run"]["status"], "running");
    let session = server.summary("a").await;
    assert_eq!((&session["is_running"], &session["last_run_status"]), (&json!(true), &json!("running")));
    live.delta("he").await;
    live.say("hey").await;
    live.send(culm::executor::Event::Usage(serde_json::from_value(json!({ "total_tokens": 7 })).unwrap())).await;
    live.complete();
    let run = server.ended("r1").await;
    assert_eq!((&run["status"], &run["usage"]["total_tokens"]), (&json!("completed"), &json!(7)));
    assert_eq!((&run["first_seq"], &run["last_seq"]), (&json!(2), &json!(2)));
    let session = server.summary("a").await;
    assert_eq!((&session["is_running"], &session["last_run_status"]), (&json!(false), &json!("completed")));
    assert_eq!(session["token_usage"]["total_tokens"], 7);
    let log = server.get("/sessions/a/usage").await.body["usage"].take();
    let record = json!({ "total_tokens": 7, "run_id": "r1", "executor": "scripted", "model": "m" });
    assert_eq!((log.as_array().unwrap().len(), &log[0]["record"]), (1, &record));
    let messages = server.messages("a").await;
    assert_eq!((&messages[1]["content"], &messages[1]["run_id"]), (&json!("hey"), &json!("r1")));
    assert_eq!(messages[0]["run_id"], Value::Null);
    assert_eq!(messages.len(), 2);
}

/// The table of the design: what a session refuses, and what it does not, while a run is pending or running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_stay_as_they_are_while_a_run_is_pending_or_running() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    for session in ["a", "b", "c"] {
        server.session(session, &["hi"]).await;
        let said = json!({ "messages": [{ "role": "assistant", "content": "ho" }] });
        server.post(&format!("/sessions/{session}/messages"), said).await;
        server.run(session).await;
    }
    let _running = (turns.next().await, turns.next().await);
    turns.none();
    let (running, pending) = (server.summary("a").await, server.summary("c").await);
    assert_eq!((&running["is_running"], &pending["is_running"]), (&json!(true), &json!(false)));
    assert_eq!(pending["last_run_status"], "pending");
    for session in ["a", "c"] {
        let before = server.messages(session).await;
        assert_busy(&server, session, &before[1]).await;
        assert_eq!(server.messages(session).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_beyond_the_bound_wait_in_order() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let mut runs = Vec::new();
    for session in ["a", "b", "c", "d"] {
        server.session(session, &["hi"]).await;
        runs.push(server.run(session).await);
    }
    let (first, second) = (turns.next().await, turns.next().await);
    let mut both = [first.run(), second.run()];
    both.sort();
    let mut asked = [runs[0].clone(), runs[1].clone()];
    asked.sort();
    assert_eq!(both, asked);
    turns.none();
    assert_eq!(server.get(&format!("/runs/{}", runs[2])).await.body["run"]["status"], "pending");
    second.complete();
    let third = turns.next().await;
    assert_eq!(third.run(), runs[2]);
    turns.none();
    first.complete();
    assert_eq!(turns.next().await.run(), runs[3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executors_error_is_the_runs_and_the_sessions() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    live.delta("half a").await;
    live.end(Err(Error::Failed("the provider is on fire".into())));
    let run = server.ended(&run).await;
    assert_eq!((&run["status"], &run["error"]), (&json!("error"), &json!("the provider is on fire")));
    let session = server.summary("a").await;
    assert_eq!(session["last_run_status"], "error");
    assert_eq!(session["last_run_error"], "the provider is on fire");
    let partial = server.messages("a").await.pop().unwrap();
    assert_eq!((&partial["content"], &partial["metadata"]["partial"]), (&json!("half a"), &json!(true)));
    server.run("a").await;
    turns.next().await.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_also_when_its_executor_panics() {
    let server = Server::scripted(Broken).await;
    server.session("a", &["hi"]).await;
    for _ in 0..3 {
        let run = server.run("a").await;
        assert_eq!(server.ended(&run).await["status"], "error");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_to_an_executor_that_is_there() {
    let nobody = Server::start().await;
    nobody.session("a", &["hi"]).await;
    let before = nobody.summary("a").await;
    assert_eq!(nobody.post("/sessions/a/runs", json!({})).await.code(), (503, "executor_unavailable"));
    assert_eq!(nobody.summary("a").await["last_run_status"], Value::Null);
    assert_eq!(nobody.summary("a").await["version"], before["version"]);
    // That there is no such session is said before that nothing could run in it.
    nobody.session("gone", &["hi"]).await;
    nobody.delete("/sessions/gone").await;
    for (session, code) in [("gone", (410, "session_deleted")), ("nobody", (404, "session_not_found"))] {
        for body in [json!({}), json!({ "executor": "nobody" }), json!({ "on_busy": "interrupt" })] {
            assert_eq!(nobody.post(&format!("/sessions/{session}/runs"), body).await.code(), code);
        }
        let answer = json!({ "response": "yes" });
        assert_eq!(nobody.post(&format!("/sessions/{session}/question/answer"), answer).await.code(), code);
    }
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let unknown = server.post("/sessions/a/runs", json!({ "executor": "nobody" })).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["param"]), (400, &json!("executor")));
    assert_eq!(server.post("/sessions/nobody/runs", json!({})).await.status, 404);
    turns.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_asked_for_once_however_often_it_is_sent() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.session("b", &["hi"]).await;
    let send = |session: &str| {
        let request = server.request(Method::POST, &format!("/sessions/{session}/runs"));
        request.header("idempotency-key", "k").json(&json!({ "id": "r", "message": "go" }))
    };
    let first = server.send(send("a")).await;
    let live = turns.next().await;
    let again = server.send(send("a")).await;
    assert_eq!((first.status, again.status), (reqwest::StatusCode::ACCEPTED, reqwest::StatusCode::ACCEPTED));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.body["run"]["id"], "r");
    live.complete();
    server.ended("r").await;
    assert_eq!(server.send(send("a")).await.body["run"]["status"], "completed");
    assert_eq!(server.messages("a").await.len(), 2);
    let taken = server.post("/sessions/b/runs", json!({ "id": "r", "message": "go" })).await;
    assert_eq!(taken.code(), (409, "run_exists"));
    assert_eq!(server.messages("b").await.len(), 1);
    turns.none();
}

/// What a client does that was told 409: it waits, and sends the same again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_while_a_session_was_busy_succeeds_under_the_same_key() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    let send = |path: &str, body: Value| {
        let request = server.request(Method::POST, path).header("idempotency-key", "k").json(&body);
        server.send(request)
    };
    let message = json!({ "messages": [{ "role": "user", "content": "later" }] });
    let (append, start) = ("/sessions/a/messages", "/sessions/a/runs");
    for _ in 0..2 {
        assert_eq!(send(append, message.clone()).await.code(), (409, "session_busy"));
        assert_eq!(send(start, json!({ "id": "next" })).await.code(), (409, "session_busy"));
        assert_eq!(send("/sessions/late/messages", message.clone()).await.code(), (404, "session_not_found"));
        // What waiting cannot change is kept.
        let refused = send("/sessions", json!({ "title": 1 })).await;
        assert_eq!(refused.status, 400);
    }
    live.complete();
    server.ended(&run).await;
    assert_eq!(send(append, message.clone()).await.status, 201);
    assert_eq!(send(start, json!({ "id": "next" })).await.status, 202);
    turns.next().await.complete();
    server.session("late", &[]).await;
    assert_eq!(send("/sessions/late/messages", message.clone()).await.status, 201);
    // And once only.
    assert_eq!(send("/sessions/late/messages", message).await.headers["idempotency-replayed"], "true");
    assert_eq!(server.messages("late").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_listed_newest_first_page_by_page() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    for session in ["a", "b"] {
        server.session(session, &["hi"]).await;
    }
    let mut runs = Vec::new();
    for session in ["a", "b", "a", "b", "a"] {
        runs.push(server.run(session).await);
        turns.next().await.complete();
        server.ended(runs.last().unwrap()).await;
    }
    let running = server.run("b").await;
    let live: Live = turns.next().await;
    assert_eq!(ids(&server.get("/sessions/a/runs").await), [&*runs[4], &*runs[2], &*runs[0]]);
    assert_eq!(ids(&server.get("/runs?status=running").await), [&*running]);
    assert!(ids(&server.get("/runs?executor=nobody").await).is_empty());
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/runs?executor=scripted&status=completed&limit=2{cursor}")).await;
        seen.extend(ids(&page));
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    runs.reverse();
    assert_eq!(seen, runs);
    for (path, status) in [("/runs?status=nonsense", 400), ("/sessions/no/runs", 404), ("/runs/no", 404)] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }
    assert_eq!(server.get(&format!("/runs/{running}?wait=61")).await.body["param"], "wait");
    let (waited, ()) = tokio::join!(server.ended(&running), async { live.complete() });
    assert_eq!(waited["status"], "completed");
}

/// What waited when the server stopped starts with the next one, in order, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_runs_outlive_the_server_and_running_ones_are_interrupted() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let mut runs = Vec::new();
    for session in ["a", "b", "c", "d", "e"] {
        server.session(session, &["hi"]).await;
        runs.push(server.run(session).await);
    }
    let _first = (turns.next().await, turns.next().await);
    let (executor, mut later) = polite();
    let options = culm::runs::Options { max_concurrent: 1, ..super::client::options() };
    let server = server.restart_on(executors(executor), options).await;
    turns.none();
    for (run, session) in runs[..2].iter().zip(["a", "b"]) {
        assert_eq!(server.get(&format!("/runs/{run}")).await.body["run"]["status"], "interrupted");
        assert_eq!(server.summary(session).await["is_running"], false);
    }
    let again = server.run("a").await;
    for run in runs[2..].iter().chain([&again]) {
        let live = later.next().await;
        assert_eq!(live.run(), *run);
        later.none();
        live.complete();
        assert_eq!(server.ended(run).await["status"], "completed");
    }
    later.none();
}
