//! What a model says: text, reasoning, calls, usage, questions.

use culm::{executor::Outcome, model::Role};
use serde_json::json;

use super::*;

#[tokio::test]
async fn text_comes_in_fragments_and_then_whole() {
    let (outcome, told) = Demo::start().await.says("hello there\nyou").await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    let wanted = [
        "text hello ",
        "text there\n",
        "text you",
        "message [final_answer] hello there\nyou",
        r#"usage {"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}"#,
    ];
    assert_eq!(told, wanted);
}

#[tokio::test]
async fn reasoning_is_kept_apart() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/reasoning let me think\nyes");
    let mut fragments = String::new();
    let message = running.until(|event| match event {
        Event::ReasoningDelta(text) => {
            fragments.push_str(&text);
            None
        }
        Event::Message(message) => Some(message),
        _ => None,
    });
    let message = message.await;
    assert_eq!((fragments.as_str(), message.content.as_str()), ("let me think", "yes"));
    assert_eq!(message.reasoning.as_deref(), Some("let me think"));
    assert!(message.id.is_some() && message.metadata.is_none());
}

#[tokio::test]
async fn calls_of_tools_end_the_run_and_their_results_begin_the_next() {
    let demo = Demo::start().await;
    let said = NewMessage::text(Role::User, "Let me see.\n/tool read {\"path\": \"a\"}\n/tool list\nDone.");
    let mut first = Running::start(demo.executor(), &said.content);
    let calling = first.until(|event| if let Event::Message(message) = event { Some(message) } else { None }).await;
    assert_eq!(first.run.await.unwrap().unwrap(), Outcome::Completed);
    assert_eq!((calling.content.as_str(), calling.phase.as_deref()), ("Let me see.", Some("commentary")));
    let calls = calling.tool_calls.clone().unwrap();
    let written: Vec<_> = calls.iter().map(|call| (&*call.function.name, &*call.function.arguments)).collect();
    assert_eq!(written, [("read", "{\"path\": \"a\"}"), ("list", "{}")]);
    let result = |call: &culm::model::ToolCall| NewMessage {
        tool_call_id: Some(call.id.clone()),
        ..NewMessage::text(Role::Tool, "result")
    };
    let next = turn([vec![said, calling], calls.iter().map(result).collect()].concat());
    let (outcome, told) = finish(&demo.executor(), next).await;
    assert_eq!((outcome.unwrap(), &*told[1]), (Outcome::Completed, "message [final_answer] Done."));
}

#[tokio::test]
async fn a_question_is_asked_and_its_answer_goes_back_to_the_model() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "Hm.\n/ask Which color? | red | blue");
    let asking = running.until(|event| if let Event::Message(message) = event { Some(message) } else { None }).await;
    let question = running.until_question().await;
    assert_eq!(Some(&question.tool_call_id), asking.tool_calls.unwrap().first().map(|call| &call.id));
    assert_eq!((&*question.question, &*question.tool_name), ("Which color?", "ask_user"));
    assert_eq!((question.options, question.allow_custom), (vec!["red".into(), "blue".into()], true));
    assert_eq!(demo.stats("open=0").await, (1, 0), "no connection is held while the user thinks");
    let answer = NewMessage { tool_call_id: Some(question.tool_call_id), ..NewMessage::text(Role::Tool, "red") };
    question.answer.send(stored(2, answer)).unwrap();
    let last = running.until(|event| if let Event::Message(message) = event { Some(message) } else { None }).await;
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Completed);
    assert_eq!((&*last.content, demo.stats("").await.0), ("red", 2));
}

fn usage(event: Event) -> Option<culm::model::JsonObject> {
    if let Event::Usage(usage) = event { Some(usage) } else { None }
}

#[tokio::test]
async fn usage_is_added_up_over_the_requests_of_a_run() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/usage 10 5\n/ask One?\n/usage 20 7\n/slow 0ms\ndone");
    let question = running.until_question().await;
    let answer = NewMessage { tool_call_id: Some(question.tool_call_id), ..NewMessage::text(Role::Tool, "yes") };
    question.answer.send(stored(2, answer)).unwrap();
    let usage = running.until(usage).await;
    assert_eq!(usage["total_tokens"], 42);
}

#[tokio::test]
async fn a_question_beside_other_calls_is_answered_before_the_client_brings_their_results() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/tool read\n/ask Really?");
    let question = running.until_question().await;
    question.answer.send(stored(2, NewMessage::text(Role::Tool, "yes"))).unwrap();
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Completed);
    assert_eq!(demo.stats("").await.0, 1, "the model waits for the other result");
}

#[tokio::test]
async fn a_question_that_will_have_no_answer_ends_the_run() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/ask Really?");
    drop(running.until_question().await);
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
}

#[tokio::test]
async fn without_the_tool_a_call_of_it_is_any_call() {
    let demo = Demo::start().await;
    let executor = executor(&format!("http://{}/v1", demo.address), "ask_user = false");
    let (outcome, told) = finish(&executor, turn(vec![NewMessage::text(Role::User, "/ask Really?")])).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert!(told[0].starts_with("message [commentary]  ask_user"), "{told:?}");
    let (_, told) = finish(&executor, turn(vec![NewMessage::text(Role::User, "/show")])).await;
    assert!(!told.concat().contains("\"tools\""), "{told:?}");
}

#[tokio::test]
async fn there_is_nothing_to_answer_after_an_answer() {
    let demo = Demo::start().await;
    let user = || NewMessage::text(Role::User, "hello");
    for messages in [
        vec![],
        vec![NewMessage::text(Role::System, "be kind")],
        vec![user(), NewMessage::text(Role::Assistant, "hello")],
    ] {
        let (outcome, told) = finish(&demo.executor(), turn(messages)).await;
        assert_eq!((outcome.unwrap(), told.len()), (Outcome::Skipped, 0));
    }
    assert_eq!(demo.stats("").await, (0, 0));
}

#[tokio::test]
async fn what_vendors_send_besides_is_understood() {
    let delta = |delta: Value| json!({ "choices": [{ "delta": delta }] }).to_string();
    let end = r#"{"choices":[{"delta":{},"finish_reason":"stop","index":0}],"usage":null}"#;
    let message = json!({ "choices": [{ "message": { "content": "hi" }, "finish_reason": "stop" }] }).to_string();
    let cases = [
        // Reasoning under its other name, and both names at once.
        (
            stream(&[&delta(json!({ "reasoning": "hm" })), &delta(json!({ "content": "hi" })), end]),
            "reasoning hm|text hi",
        ),
        (stream(&[&delta(json!({ "reasoning": "hm", "reasoning_content": "hm" })), end]), "reasoning hm"),
        // Text in parts.
        (stream(&[&delta(json!({ "content": [{ "type": "text", "text": "hi" }] })), end, "[DONE]"]), "text hi"),
        // The end without a reason, the whole after its fragments, comments, a count in each event.
        (stream(&[&delta(json!({ "content": "hi", "role": null })), "[DONE]"]), "text hi"),
        (stream(&[&delta(json!({ "content": "hi" })), &message, "[DONE]"]), "text hi"),
        (stream(&[&delta(json!({ "content": "hi" })), end]).replace("data", ": wait\r\n\r\ndata"), "text hi"),
        // No stream at all.
        (format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{message}"), "text hi"),
        // What no message can hold.
        (stream(&[&delta(json!({ "content": "a\0b" })), end]), "text a\u{fffd}b"),
    ];
    for (answer, wanted) in cases {
        let (url, _requests) = provider(vec![answer.clone()]).await;
        let (outcome, told) = finish(&executor(&url, ""), turn(vec![NewMessage::text(Role::User, "hello")])).await;
        assert_eq!(outcome.unwrap(), Outcome::Completed, "{answer}");
        assert_eq!(told[..told.len() - 1].join("|"), wanted, "{answer}");
    }
}

#[tokio::test]
async fn a_reply_that_was_cut_off_by_a_limit_says_so() {
    let said = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"length"}]}"#;
    let (url, _requests) = provider(vec![stream(&[said])]).await;
    let mut running = Running::start(executor(&url, ""), "hello");
    let message = running.until(|event| if let Event::Message(message) = event { Some(message) } else { None }).await;
    assert_eq!(message.metadata, Some(json!({ "finish_reason": "length" }).into()));
    let (url, _requests) = provider(vec![stream(&[r#"{"choices":[{"finish_reason":"length"}]}"#])]).await;
    let (outcome, _) = finish(&executor(&url, ""), turn(vec![NewMessage::text(Role::User, "hello")])).await;
    assert!(outcome.unwrap_err().to_string().contains("'length'"));
}
