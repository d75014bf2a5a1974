//! Questions: asked by a run, answered by a client, before and after a restart.

use culm::{
    model::{EventScope, Role},
    storage::Storage,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Server,
    client::{executors, options},
};
use crate::{
    scripted::{Live, polite, soon},
    support::calls,
};

/// A question as it stands, once it is stored.
async fn question(server: &Server) -> Value {
    soon(async {
        loop {
            let question = server.get("/sessions/a/question").await.body;
            if question["has_pending_question"] == true {
                return question;
            }
        }
    })
    .await
}

async fn asks(live: &Live, options: &[&str]) -> tokio::sync::oneshot::Receiver<culm::model::Message> {
    live.send(culm::executor::Event::Message(calls("I ask", &["call"]))).await;
    live.ask("call", options).await
}

async fn answer(server: &Server, response: &str) -> super::Answer {
    server.post("/sessions/a/question/answer", json!({ "response": response })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_to_the_run_that_asked() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    assert_eq!(server.get("/sessions/a/question").await.body, json!({ "has_pending_question": false }));
    assert_eq!(answer(&server, "red").await.status, 409);
    let run = server.run("a").await;
    let live = turns.next().await;
    let answered = asks(&live, &["red", "blue"]).await;
    let asked = question(&server).await;
    assert_eq!((&asked["question"], &asked["options"]), (&json!("which?"), &json!(["red", "blue"])));
    assert_eq!((&asked["tool_call_id"], &asked["tool_name"]), (&json!("call"), &json!("ask")));
    assert_eq!(server.summary("a").await["has_pending_question"], true);
    let wrong = answer(&server, "green").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.to_string().contains("red") && wrong.body.to_string().contains("blue"), "{wrong:?}");
    assert_eq!(answer(&server, " ").await.body["param"], "response");
    // One that was shown before, and is pending no more.
    let other = json!({ "response": "blue", "tool_call_id": "another" });
    assert_eq!(server.post("/sessions/a/question/answer", other).await.code(), (409, "no_pending_question"));
    let right = json!({ "response": "blue", "tool_call_id": "call" });
    let right = server.post("/sessions/a/question/answer", right).await;
    assert_eq!((right.status.as_u16(), &right.body["run"]["id"]), (200, &json!(run)));
    let message = soon(answered).await.unwrap();
    assert_eq!((message.role, message.content.as_str()), (Role::Tool, "blue"));
    live.say("blue it is").await;
    live.complete();
    assert_eq!(server.ended(&run).await["status"], "completed");
    let messages = server.messages("a").await;
    assert_eq!((&messages[2]["role"], &messages[2]["content"]), (&json!("tool"), &json!("blue")));
    assert_eq!((&messages[2]["tool_call_id"], &messages[2]["run_id"]), (&json!("call"), &json!(run)));
    assert_eq!(messages[3]["content"], "blue it is");
    assert_eq!(answer(&server, "blue").await.status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_goes_with_the_run_that_asked() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.run("a").await;
    let live = turns.next().await;
    let answered = asks(&live, &[]).await;
    question(&server).await;
    server.cancel("a", None).await;
    assert!(soon(answered).await.is_err());
    assert_eq!(server.get("/sessions/a/question").await.body["has_pending_question"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_outlives_the_server_and_its_answer_starts_the_next_run() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    let run = server.run("a").await;
    let live = turns.next().await;
    let _answered = asks(&live, &["red", "blue"]).await;
    question(&server).await;
    let server = server.restart().await;
    assert_eq!(server.get(&format!("/runs/{run}")).await.body["run"]["status"], "interrupted");
    let before = server.messages("a").await;
    // Nothing could go on with it.
    assert_eq!(answer(&server, "red").await.code(), (503, "executor_unavailable"));
    assert_eq!(server.messages("a").await, before);
    let (executor, mut turns) = polite();
    let server = server.restart_on(executors(executor), options()).await;
    question(&server).await;
    assert_eq!(answer(&server, "green").await.status, 400);
    turns.none();
    let answered = answer(&server, "red").await;
    assert_eq!(answered.status, 200);
    assert_ne!(answered.body["run"]["id"], json!(run));
    let live = turns.next().await;
    assert_eq!(json!(live.run()), answered.body["run"]["id"]);
    let last = live.turn.messages.last().unwrap();
    assert_eq!((last.role, last.content.as_str(), last.tool_call_id.as_deref()), (Role::Tool, "red", Some("call")));
    live.complete();
    assert_eq!(server.ended(answered.body["run"]["id"].as_str().unwrap()).await["status"], "completed");
    let clear = server.send(server.request(Method::POST, "/sessions/a/clear")).await;
    assert_eq!(clear.status, 200);
}

/// A cut takes away what asked, in whichever way it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_goes_with_the_message_that_asked() {
    for (mut cut, gone) in [
        (json!({ "mode": "after_last_user" }), true),
        (json!({ "mode": "error_retry" }), true),
        (json!({ "mode": "after", "message_id": null }), false),
    ] {
        let (executor, mut turns) = polite();
        let server = Server::scripted(executor).await;
        server.session("a", &["hi"]).await;
        server.run("a").await;
        let live = turns.next().await;
        let _answered = asks(&live, &["red", "blue"]).await;
        question(&server).await;
        let server = server.restart().await;
        question(&server).await;
        if !gone {
            cut["message_id"] = server.messages("a").await[1]["id"].take();
        }
        let answer = server.post("/sessions/a/messages/truncate", cut).await;
        assert_eq!((answer.status, answer.headers.contains_key("etag")), (reqwest::StatusCode::OK, true));
        let session = server.summary("a").await;
        assert_eq!(answer.headers["etag"], format!("\"{}\"", session["version"]));
        assert_eq!(session["has_pending_question"], !gone);
        let scope = EventScope::Session("a".parse().unwrap());
        let log = server.repository.events(&scope, 0, 100).await.unwrap().events;
        let withdrawn = log.iter().filter(|event| event.data.fields().contains_key("withdrawn")).count();
        assert_eq!(withdrawn, usize::from(gone));
    }
}
