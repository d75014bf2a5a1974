//! The calls that stay from the API before this one: the same requests, the same statuses, the same fields.

use culm::{
    executor::Event,
    import::{Options as Import, bamboo},
    model::EventScope,
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage},
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Answer, Server,
    client::{Setup, executors},
};
use crate::{
    scripted::{Live, Quick, Turns, polite, soon, stubborn},
    support::{assert_sound, calls, until},
};

pub(super) async fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    let request = server.request(method.parse().unwrap(), path);
    server.send(if body.is_null() { request } else { request.json(body) }).await
}

pub(super) async fn chat(server: &Server, session: &str, text: &str) -> Answer {
    server.post("/chat", json!({ "session_id": session, "message": text, "model": "m" })).await
}

pub(super) async fn execute(server: &Server, session: &str) -> Value {
    let answer = server.post(&format!("/execute/{session}"), json!({})).await;
    assert!(matches!(answer.status.as_u16(), 200 | 202), "{answer:?}");
    assert_eq!(answer.status == 202, answer.body["status"] == "started");
    answer.body
}

/// Sessions in each state that a call may meet.
async fn states() -> (Server, Turns, [Live; 2]) {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    for session in ["idle", "busy", "asks", "gone", "bare"] {
        server.session(session, if session == "bare" { &[] } else { &["hi"] }).await;
    }
    let said = json!({ "messages": [{ "role": "assistant", "content": "ho" }] });
    server.post("/sessions/idle/messages", said).await;
    server.run("busy").await;
    let busy = turns.next().await;
    server.run("asks").await;
    let asks = turns.next().await;
    asks.send(Event::Message(calls("I ask", &["call"]))).await;
    asks.ask("call", &["A", "B"]).await;
    soon(async { while server.get("/sessions/asks/question").await.body["has_pending_question"] == false {} }).await;
    assert_eq!(server.delete("/sessions/gone").await.status, 200);
    (server, turns, [busy, asks])
}

/// The original's calls, one after the other: what they are answered, and the fields of the answer with their values
/// where those are fixed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "it is one table")]
async fn the_same_requests_get_the_same_statuses_and_the_same_fields() {
    let (server, _turns, _live) = states().await;
    let any = Value::Null;
    let sync = || {
        json!({ "session_id": any, "status": any, "events_url": any, "sync": {
            "need_sync": false, "server_message_count": any, "has_pending_question": any, "has_pending_user_message": any } })
    };
    let table = [
        ("GET", "/respond/idle/pending", any.clone(), 200, json!({ "has_pending_question": false })),
        (
            "GET",
            "/respond/asks/pending",
            any.clone(),
            200,
            json!({ "has_pending_question": true, "question": "which?", "options": ["A", "B"], "allow_custom": false,
                "tool_call_id": "call" }),
        ),
        ("GET", "/respond/nobody/pending", any.clone(), 404, json!({ "error": "Session not found" })),
        (
            "POST",
            "/respond/idle",
            json!({ "response": "A" }),
            400,
            json!({ "error": "No pending question waiting for response" }),
        ),
        ("POST", "/respond/nobody", json!({ "response": "A" }), 404, json!({ "error": "Session not found" })),
        ("POST", "/respond/gone", json!({ "response": "A" }), 404, json!({ "error": "Session not found" })),
        (
            "POST",
            "/respond/asks",
            json!({ "response": "C" }),
            400,
            json!({ "error": "Invalid response", "message": "Response must be one of: A, B" }),
        ),
        (
            "POST",
            "/respond/asks",
            json!({ "response": "A", "model": "m", "reasoning_effort": "high" }),
            200,
            json!({ "success": true, "message": "Response recorded. Agent loop will continue.", "response": "A",
                "auto_resume_status": "already_running" }),
        ),
        (
            "GET",
            "/history/idle",
            any.clone(),
            200,
            json!({ "session_id": "idle", "messages": any, "compression_events": [] }),
        ),
        ("GET", "/history/nobody", any.clone(), 404, json!({ "error": "Session not found", "session_id": "nobody" })),
        ("GET", "/history/gone", any.clone(), 404, json!({ "error": "Session not found" })),
        (
            "POST",
            "/execute/busy",
            json!({}),
            200,
            json!({ "status": "already_running", "events_url": "/api/v1/events/busy" }),
        ),
        ("POST", "/execute/idle", json!({ "skill_mode": "code" }), 200, sync()),
        ("POST", "/execute/idle", json!({}), 200, json!({ "status": "completed" })),
        ("POST", "/execute/nobody", json!({}), 404, json!({ "error": "Session not found" })),
        ("POST", "/execute/x..y", json!({}), 400, json!({ "error": any })),
        ("POST", "/execute/gone", json!({}), 404, json!({ "error": "Session not found" })),
        (
            "POST",
            "/sessions/busy/messages/truncate",
            json!({ "mode": "after_last_user" }),
            409,
            json!({ "error": "Session is currently running", "session_id": "busy" }),
        ),
        ("POST", "/stop/busy", any.clone(), 200, json!({ "success": true, "message": "Agent execution stopped" })),
        (
            "POST",
            "/stop/busy",
            any.clone(),
            404,
            json!({ "success": false, "message": "No active agent execution found" }),
        ),
        (
            "POST",
            "/stop/nobody",
            any.clone(),
            404,
            json!({ "success": false, "message": "No active agent execution found" }),
        ),
        (
            "POST",
            "/stop/gone",
            any.clone(),
            404,
            json!({ "success": false, "message": "No active agent execution found" }),
        ),
        ("POST", "/stop/asks", any.clone(), 200, json!({ "success": true })),
        (
            "POST",
            "/sessions/idle/messages/truncate",
            json!({ "mode": "error_retry" }),
            200,
            json!({ "success": true, "session_id": "idle", "messages_removed": 0, "message_count": 2 }),
        ),
        (
            "POST",
            "/sessions/idle/messages/truncate",
            json!({ "mode": "after_last_user" }),
            200,
            json!({ "success": true, "session_id": "idle", "messages_removed": 1, "message_count": 1 }),
        ),
        ("POST", "/execute/idle", json!({}), 202, sync()),
        (
            "POST",
            "/sessions/bare/messages/truncate",
            json!({ "mode": "after_last_user" }),
            400,
            json!({ "error": any }),
        ),
        (
            "POST",
            "/sessions/nobody/messages/truncate",
            json!({ "mode": "error_retry" }),
            404,
            json!({ "error": "Session not found" }),
        ),
        (
            "POST",
            "/sessions/cleanup",
            json!({ "mode": "old" }),
            400,
            json!({ "error": "Invalid cleanup mode", "mode": "old" }),
        ),
        (
            "POST",
            "/sessions/cleanup",
            json!({ "mode": " EMPTY " }),
            200,
            json!({ "deleted_count": 1, "deleted_session_ids": ["bare"] }),
        ),
        ("DELETE", "/sessions/asks", any.clone(), 200, any.clone()),
        ("DELETE", "/sessions/asks", any.clone(), 404, json!({ "error": "Session not found" })),
        (
            "POST",
            "/sessions/cleanup",
            json!({ "mode": "all", "keep_pinned": true }),
            200,
            json!({ "deleted_count": 2, "deleted_session_ids": ["busy", "idle"] }),
        ),
        ("GET", "/events/idle", any.clone(), 404, json!({ "error": "Session not found", "session_id": "idle" })),
    ];
    for (method, path, body, status, fields) in table {
        let answer = ask(&server, method, path, &body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert_has(&answer.body, &fields, &format!("{method} {path} {body}"));
    }
}

/// Each field is there, with its value unless that is null.
fn assert_has(body: &Value, fields: &Value, what: &str) {
    for (name, value) in fields.as_object().into_iter().flatten() {
        assert!(body.get(name).is_some(), "{what}: no {name} in {body}");
        match value {
            Value::Null => {}
            Value::Object(_) => assert_has(&body[name], value, what),
            value => assert_eq!(&body[name], value, "{what}: {name}"),
        }
    }
}

#[tokio::test]
async fn a_message_is_stored_with_the_session_and_the_images_that_it_needs() {
    let server = Server::start().await;
    let body = json!({
        "message": "look", "model": " m ", "session_id": "s", "system_prompt": "Be brief.", "workspace_path": "/work",
        "enhance_prompt": "more", "selected_skill_ids": ["pdf"], "provider": "here", "some_newer_field": 1,
        "images": [{ "base64": "data:image/gif;base64,R0lGODlh", "name": "a.gif", "size": 6, "type": "image/gif" }],
    });
    let stored = server.post("/chat", body.clone()).await;
    let wanted = json!({ "session_id": "s", "stream_url": "/api/v1/events/s", "status": "streaming" });
    assert_eq!((stored.status.as_u16(), stored.body), (201, wanted));
    let session = server.summary("s").await;
    let metadata = json!({ "enhance_prompt": "more", "selected_skill_ids": "[\"pdf\"]" });
    assert_eq!((&session["model"], &session["provider"]), (&json!("m"), &json!("here")));
    assert_eq!((&session["workspace"], &session["metadata"]), (&json!("/work"), &metadata));
    assert_eq!(session["last_run_status"], Value::Null, "a run was started");
    let history = server.get("/history/s").await.body["messages"].take();
    assert_eq!((&history[0]["role"], &history[0]["content"]), (&json!("system"), &json!("Be brief.")));
    assert_eq!(history[1]["content_parts"][0], json!({ "type": "text", "text": "look" }));
    let url = history[1]["content_parts"][1]["image_url"]["url"].as_str().unwrap();
    let path = url.replacen("attachment://s/", "/sessions/s/attachments/", 1);
    let image = server.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(image.headers()["content-type"], "image/gif");
    assert_eq!(image.bytes().await.unwrap(), b"GIF89a"[..]);
    // The same prompt is there already; another one is put before the message. What is not said again is forgotten.
    chat(&server, "s", "on").await;
    let again = json!({ "message": "and", "model": "m2", "session_id": "s", "system_prompt": "Be brief." });
    server.post("/chat", again).await;
    let other = json!({ "message": "so", "model": "m2", "session_id": "s", "system_prompt": "Be long." });
    server.post("/chat", other).await;
    let texts: Vec<Value> = server.messages("s").await.iter().map(|message| message["content"].clone()).collect();
    assert_eq!(texts, ["Be brief.", "look", "on", "and", "Be long.", "so"]);
    let session = server.summary("s").await;
    assert_eq!((&session["model"], &session["metadata"]), (&json!("m2"), &json!({})));
    let made = server.post("/chat", json!({ "message": "", "model": "m" })).await;
    assert_eq!(server.summary(made.body["session_id"].as_str().unwrap()).await["message_count"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_stored_leaves_nothing() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    let bad = [
        (json!({ "message": "hi", "model": " " }), "model"),
        (json!({ "message": "hi" }), "model"),
        (json!({ "message": "hi", "model": "m", "session_id": "." }), "session_id"),
        (json!({ "message": "hi", "model": "m", "session_id": "x..y" }), "session_id"),
        (
            json!({ "message": "hi", "model": "m", "session_id": "s", "images": [{ "base64": "no base64!" }] }),
            "images[0]",
        ),
    ];
    for (body, param) in bad {
        let answer = server.post("/chat", body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["param"]), (400, &json!(param)));
    }
    assert_eq!(server.get("/sessions").await.body["sessions"], json!([]));
    server.session("s", &["hi"]).await;
    server.run("s").await;
    let _live = turns.next().await;
    let before = server.summary("s").await;
    let image = json!([{ "base64": "R0lGODlh" }]);
    let busy = server.post("/chat", json!({ "message": "hi", "model": "m", "session_id": "s", "images": image })).await;
    assert_eq!(busy.code(), (409, "session_busy"));
    assert_eq!(server.get("/sessions/s/attachments").await.body["attachments"], json!([]));
    let after = server.summary("s").await;
    assert_eq!((&after["model"], &after["last_seq"]), (&before["model"], &before["last_seq"]));
    server.delete("/sessions/s").await;
    assert_eq!(chat(&server, "s", "hi").await.code(), (410, "session_deleted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_run_when_there_is_something_to_answer_and_the_client_has_seen_it() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    chat(&server, "s", "hi").await;
    let message = server.messages("s").await[0]["id"].clone();
    let client = |count: i64, id: &Value, asks: bool| json!({ "client_sync": { "client_message_count": count, "client_last_message_id": id, "client_has_pending_question": asks } });
    for (sync, reason) in [
        (client(2, &json!("other"), true), "pending_question_mismatch"),
        (client(2, &json!("other"), false), "message_count_mismatch"),
        (client(1, &json!("other"), false), "last_message_id_mismatch"),
    ] {
        let answer = server.post("/execute/s", sync).await;
        assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!("completed")));
        let sync = &answer.body["sync"];
        assert_eq!((&sync["need_sync"], &sync["reason"]), (&json!(true), &json!(reason)));
        assert_eq!((&sync["server_message_count"], &sync["server_last_message_id"]), (&json!(1), &message));
    }
    turns.none();
    let mut seen = client(1, &message, false);
    seen["model"] = json!("not the session's");
    seen["reasoning_effort"] = json!("low");
    let started = server.post("/execute/s", seen.clone()).await;
    assert_eq!((started.status.as_u16(), &started.body["status"]), (202, &json!("started")));
    let live = turns.next().await;
    assert_eq!(live.turn.model.as_deref(), Some("m"));
    assert_eq!(live.turn.reasoning_effort, Some(culm::model::ReasoningEffort::Low));
    assert_eq!(execute(&server, "s").await["status"], "already_running");
    assert_eq!(server.post("/execute/s", seen).await.body["status"], "already_running");
    live.say("ho").await;
    let run = live.run();
    live.complete();
    server.ended(&run).await;
    let nothing = execute(&server, "s").await;
    assert_eq!(
        (&nothing["status"], &nothing["sync"]["has_pending_user_message"]),
        (&json!("completed"), &json!(false))
    );
    // A session without a model takes the one that is named.
    server.session("t", &["hi"]).await;
    server.post("/execute/t", json!({ "model": "named" })).await;
    assert_eq!(turns.next().await.turn.model.as_deref(), Some("named"));
    let nobody = Server::start().await;
    nobody.session("s", &["hi"]).await;
    assert_eq!(nobody.post("/execute/s", json!({})).await.code(), (503, "executor_unavailable"));
}

/// A stop is answered when the run has stopped: another one that is asked for before does not start beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_being_stopped_still_runs() {
    let (executor, mut turns) = stubborn();
    let server = Server::scripted(executor).await;
    server.session("s", &["hi"]).await;
    execute(&server, "s").await;
    let live = turns.next().await;
    let (stopped, ()) = tokio::join!(ask(&server, "POST", "/stop/s", &Value::Null), async {
        live.cancel.cancelled().await;
        assert_eq!(execute(&server, "s").await["status"], "already_running");
        turns.none();
        live.delta("late").await;
    });
    assert_eq!(stopped.status, 200);
    soon(live.events.closed()).await;
    assert_eq!(server.messages("s").await[1]["content"], "late");
    chat(&server, "s", "again").await;
    assert_eq!(execute(&server, "s").await["status"], "started");
    turns.next().await.complete();
}

#[tokio::test]
async fn a_long_history_shows_its_newest_part_and_says_so() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for page in 0..3 {
        let message = |n: i64| json!({ "role": "user", "content": format!("{}", page * 1000 + n) });
        let messages: Vec<Value> = (0..1000).map(message).collect();
        assert_eq!(server.post("/sessions/s/messages", json!({ "messages": messages })).await.status, 201);
    }
    let history = server.get("/history/s").await.body;
    assert_eq!((&history["truncated"], &history["total_message_count"]), (&json!(true), &json!(3000)));
    let messages = history["messages"].as_array().unwrap();
    assert_eq!(
        (messages.len(), &messages[0]["content"], &messages[1999]["content"]),
        (2000, &json!("1000"), &json!("2999"))
    );
}

#[tokio::test]
async fn what_was_imported_is_shown_under_the_names_that_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboo-home/2026.6.18");
    let storage = SqliteStorage::open(&Options::new(folder.path().join("culm.db"))).await.unwrap();
    let options = Import { dry_run: false };
    bamboo::import(home.as_ref(), Some(&storage), options, &mut |_, _| {}).await.unwrap();
    storage.close().await;
    let server = Server::start_in(folder).await;
    let history = server.get("/history/root-7f3a").await.body;
    assert_eq!(history["compression_events"][0]["messages_compressed"], 2);
    let messages = history["messages"].as_array().unwrap();
    assert_eq!(messages[1]["image_ocr"][0]["lines"][0]["text"], "AssertionError");
    assert!(messages[1]["content_parts"][1]["image_url"]["url"].is_string());
    assert_eq!((&messages[2]["phase"], &messages[2]["compressed"]), (&json!("commentary"), &json!(true)));
    assert_eq!(messages[7]["never_compress"], true);
    let pending = server.get("/respond/root-7f3a/pending").await.body;
    assert_eq!((&pending["question"], &pending["options"][0]), (&json!("Commit the fix?"), &json!("OK")));
}

#[tokio::test]
async fn a_server_lives_as_it_lived() {
    let server = Server::start().await;
    let answer = server.request(Method::GET, "/api/v1/health").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "OK".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_deletes_everything_and_is_there_for_development_alone() {
    let guarded = Server::start().await;
    guarded.session("s", &["hi"]).await;
    assert_eq!(ask(&guarded, "POST", "/dev/reset", &Value::Null).await.code(), (404, "not_found"));
    assert_eq!(guarded.messages("s").await.len(), 1);
    let server = Setup { dev: true, ..Setup::new(executors(Quick)) }.start().await;
    server.session("s", &["needle", "linger"]).await;
    server.patch("/sessions/s", json!({ "pinned": true })).await;
    server.run("s").await;
    server.session("t", &["hi"]).await;
    let reset = ask(&server, "POST", "/dev/reset", &Value::Null).await;
    assert_eq!((reset.status.as_u16(), reset.body), (200, json!({ "success": true })));
    let mut shell = server.shell().await;
    for table in ["sessions", "messages", "runs"] {
        until(&mut shell, &format!("select count(*) from {table}"), 0).await;
    }
    assert_sound(&mut shell).await;
    assert_eq!(server.get("/search?q=needle").await.body["hits"], json!([]));
    assert_eq!(server.post("/sessions", json!({ "id": "s" })).await.code(), (410, "session_deleted"));
    let log = server.repository.events(&EventScope::All, 0, 1000).await.unwrap().events;
    assert_eq!(log.len(), 2, "the word of each deletion alone: {log:?}");
    server.session("u", &["hi"]).await;
    let run = server.run("u").await;
    assert_eq!(server.ended(&run).await["status"], "completed");
    assert_eq!(server.document["components"]["schemas"]["DoneBody"]["examples"][0], json!({ "success": true }));
}
