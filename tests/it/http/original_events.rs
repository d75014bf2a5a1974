//! The events of a session as clients of the original know them.

use culm::{
    executor::Event,
    model::{NewMessage, Role, ToolCall},
};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Server,
    original::{ask, chat, execute},
};
use crate::scripted::{polite, soon};

/// What comes on a stream of bare frames, until one of this type or its end.
async fn heard(server: &Server, session: &str) -> impl futures_util::Stream<Item = Value> + Unpin + use<> {
    let response = server.request(Method::GET, &format!("/events/{session}")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let frames = futures_util::stream::unfold((response, String::new()), |(mut response, mut buffer)| async move {
        loop {
            if let Some((frame, rest)) = buffer.split_once("\n\n") {
                let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("not bare: {frame}"));
                let (value, rest) = (serde_json::from_str(data).unwrap(), rest.to_owned());
                return Some((value, (response, rest)));
            }
            let chunk = soon(response.chunk()).await.unwrap()?;
            buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    });
    Box::pin(frames)
}

fn call(id: &str) -> ToolCall {
    ToolCall::new(id, "read", "{\"path\":\"a\"}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_have_the_names_and_fields_that_they_had() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("s", &["hi"]).await;
    let mut stream = heard(&server, "s").await;
    execute(&server, "s").await;
    let live = turns.next().await;
    live.send(Event::ReasoningDelta("hm".into())).await;
    assert_eq!(stream.next().await.unwrap(), json!({ "type": "reasoning_token", "content": "hm" }));
    live.delta("he").await;
    assert_eq!(stream.next().await.unwrap(), json!({ "type": "token", "content": "he" }));
    let calls = NewMessage { tool_calls: Some(vec![call("c")]), ..NewMessage::text(Role::Assistant, "he") };
    live.send(Event::Message(calls)).await;
    live.send(Event::ToolProgress { tool_call_id: "c".into(), text: "half".into() }).await;
    let result = NewMessage { tool_call_id: Some("c".into()), ..NewMessage::text(Role::Tool, "text") };
    live.send(Event::Message(result)).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(stream.next().await.unwrap());
    }
    for wanted in [
        json!({ "type": "tool_start", "tool_call_id": "c", "tool_name": "read", "arguments": { "path": "a" } }),
        json!({ "type": "tool_token", "tool_call_id": "c", "content": "half" }),
        json!({ "type": "tool_complete", "tool_call_id": "c", "result": { "success": true, "result": "text" } }),
    ] {
        assert!(told.contains(&wanted), "{wanted} is not in {told:?}");
    }
    let answered = live.ask("c", &["A"]).await;
    let asked = stream.next().await.unwrap();
    assert_eq!(asked, json!({ "type": "need_clarification", "question": "which?", "options": ["A"] }));
    server.post("/respond/s", json!({ "response": "A" })).await;
    soon(answered).await.unwrap();
    assert_eq!(stream.next().await.unwrap()["type"], "tool_complete");
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cached": 1 });
    live.send(Event::Usage(serde_json::from_value(usage).unwrap())).await;
    live.say("done").await;
    live.complete();
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7 });
    assert_eq!(stream.next().await.unwrap(), json!({ "type": "complete", "usage": usage }));
    // It stays open for the next one.
    chat(&server, "s", "again").await;
    execute(&server, "s").await;
    let live = turns.next().await;
    ask(&server, "POST", "/stop/s", &Value::Null).await;
    drop(live);
    let cancelled = json!({ "type": "error", "message": "Agent execution cancelled by user" });
    assert_eq!(stream.next().await.unwrap(), cancelled);
    server.delete("/sessions/s").await;
    assert_eq!(stream.next().await.unwrap(), json!({ "type": "session_deleted", "session_id": "s" }));
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_happens_the_last_word_is_told_and_the_stream_ends() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("s", &[]).await;
    let zero = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
    let complete = json!({ "type": "complete", "usage": zero });
    assert_eq!(heard(&server, "s").await.collect::<Vec<_>>().await, [complete]);
    for (how, message) in [
        (Err(culm::executor::Error::Failed("boom".into())), "boom"),
        (Ok(culm::executor::Outcome::Cancelled), "the executor stopped without being told to"),
    ] {
        chat(&server, "s", "hi").await;
        execute(&server, "s").await;
        let live = turns.next().await;
        live.say("half").await;
        let run = live.run();
        live.end(how);
        server.ended(&run).await;
        let error = json!({ "type": "error", "message": message });
        assert_eq!(heard(&server, "s").await.collect::<Vec<_>>().await, [error]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_hears_what_its_children_do() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("p", &["hi"]).await;
    let mut stream = heard(&server, "p").await;
    let child = json!({ "id": "c", "title": "t", "responsibility": "r", "prompt": "p", "subagent_type": "s" });
    server.post("/sessions/p/children", child).await;
    let live = turns.next().await;
    live.delta("deep").await;
    let mut told = vec![stream.next().await.unwrap(), stream.next().await.unwrap()];
    live.complete();
    told.extend([stream.next().await.unwrap(), stream.next().await.unwrap()]);
    let started = json!({ "type": "sub_session_started", "parent_session_id": "p", "child_session_id": "c" });
    let token = json!({ "type": "token", "content": "deep" });
    let event =
        json!({ "type": "sub_session_event", "parent_session_id": "p", "child_session_id": "c", "event": token });
    assert!(told.contains(&started) && told.contains(&event), "{told:?}");
    let ended = told.iter().find(|event| event["type"] == "sub_session_completed").unwrap();
    assert_eq!((&ended["status"], &ended["child_session_id"]), (&json!("completed"), &json!("c")));
}
