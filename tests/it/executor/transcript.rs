//! What a model is sent: the session's history in the words of the API. The demo model shows what it got.

use culm::model::{ImageUrl, MessagePart, ReasoningEffort, ToolCall};
use serde_json::json;

use super::*;
use crate::support::{attach, create, repository};

/// The request that the demo model got for a history; its last message tells it to show that.
async fn shown(demo: &Demo, turn: Turn) -> Value {
    request_of(&demo.executor(), turn).await
}

async fn request_of(executor: &OpenAi, turn: Turn) -> Value {
    let (outcome, told) = finish(executor, turn).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    let message = told.iter().find_map(|line| line.strip_prefix("message [final_answer] ")).unwrap();
    serde_json::from_str(message.lines().next().unwrap()).unwrap()
}

fn show() -> NewMessage {
    NewMessage::text(Role::User, "/slow 0ms\n/show")
}

fn assistant(text: &str, calls: &[&str]) -> NewMessage {
    let call = |id: &&str| ToolCall::new(*id, "read", "{}");
    let calls = calls.iter().map(call).collect::<Vec<_>>();
    NewMessage { tool_calls: (!calls.is_empty()).then_some(calls), ..NewMessage::text(Role::Assistant, text) }
}

fn result(text: &str, call: &str) -> NewMessage {
    NewMessage { tool_call_id: Some(call.into()), ..NewMessage::text(Role::Tool, text) }
}

#[tokio::test]
async fn roles_calls_and_results_are_written_as_the_api_wants_them() {
    let demo = Demo::start().await;
    let history = vec![
        NewMessage::text(Role::System, "be kind"),
        NewMessage::text(Role::Developer, "be brief"),
        NewMessage::text(Role::User, "hello"),
        assistant("", &["a", "b", "c"]),
        result("of b", "b"),
        result("of a", "a"),
        result("of nothing", "x"),
        assistant("", &[]),
        assistant("well", &[]),
        show(),
    ];
    let mut turn = turn(history);
    (turn.model, turn.reasoning_effort) = (Some("other".into()), Some(ReasoningEffort::Max));
    let request = shown(&demo, turn).await;
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "read", "arguments": "{}" } });
    let interrupted = "The call was interrupted: it has no result.";
    let wanted = json!([
        { "role": "system", "content": "be kind" },
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": "hello" },
        { "role": "assistant", "content": null, "tool_calls": [call("a"), call("b"), call("c")] },
        { "role": "tool", "tool_call_id": "a", "content": "of a" },
        { "role": "tool", "tool_call_id": "b", "content": "of b" },
        { "role": "tool", "tool_call_id": "c", "content": interrupted },
        { "role": "assistant", "content": "well" },
        { "role": "user", "content": "/slow 0ms\n/show" },
    ]);
    assert_eq!(request["messages"], wanted);
    assert_eq!((&request["model"], &request["reasoning_effort"]), (&json!("other"), &json!("xhigh")));
    assert_eq!(request["stream_options"], json!({ "include_usage": true }));
    assert_eq!(request["tools"][0]["function"]["name"], "ask_user");
}

/// Vendors that want it want it on each of the model's messages; for others it is an unknown field.
#[tokio::test]
async fn what_the_model_thought_is_sent_back_only_where_that_is_wanted() {
    let demo = Demo::start().await;
    let thought = |text: &str, message| NewMessage { reasoning: Some(text.into()), ..message };
    let history = || {
        let called = thought("I need to look", assistant("", &["a"]));
        turn(vec![called, result("of a", "a"), assistant("no thought", &[]), thought("hm", assistant("", &[])), show()])
    };
    let reasoning = |request: &Value| -> Vec<Value> {
        let messages = request["messages"].as_array().unwrap().iter();
        messages.map(|message| message.get("reasoning_content").cloned().unwrap_or_default()).collect()
    };
    let executor = executor(&format!("http://{}/v1", demo.address), "send_reasoning = true");
    let request = request_of(&executor, history()).await;
    assert_eq!(reasoning(&request), [json!("I need to look"), Value::Null, json!(""), Value::Null]);
    let request = shown(&demo, history()).await;
    assert_eq!(reasoning(&request), [Value::Null, Value::Null, Value::Null, Value::Null]);
}

#[tokio::test]
async fn a_summary_stands_for_what_is_compressed() {
    let demo = Demo::start().await;
    let history = vec![
        NewMessage::text(Role::System, "be kind"),
        assistant("long ago", &["a"]),
        result("of a call that is left out", "a"),
        show(),
    ];
    let mut turn = turn(history);
    turn.messages[1].compressed = true;
    turn.summary = Some("They met.".into());
    let request = shown(&demo, turn).await;
    assert!(request.get("reasoning_effort").is_none());
    let said: Vec<_> = request["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["be kind", "They met.", "/slow 0ms\n/show"]);
}

#[tokio::test]
async fn an_id_that_a_vendor_uses_again_is_that_of_the_last_call() {
    let demo = Demo::start().await;
    let history = vec![
        assistant("", &["call_0"]),
        result("first", "call_0"),
        assistant("", &["call_0"]),
        result("second", "call_0"),
        show(),
    ];
    let request = shown(&demo, turn(history)).await;
    assert_eq!(
        (&request["messages"][1]["content"], &request["messages"][3]["content"]),
        (&json!("first"), &json!("second"))
    );
}

/// Attachments, and one of more than 20 MiB.
struct WithLarge(Arc<dyn AttachmentReader>);

#[async_trait]
impl AttachmentReader for WithLarge {
    async fn read_attachment(
        &self,
        session: &SessionId,
        id: &AttachmentId,
        limit: usize,
    ) -> io::Result<Option<(Bytes, String)>> {
        match id.as_str() == "large" && limit <= 20 << 20 {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => self.0.read_attachment(session, id, limit).await,
        }
    }
}

#[tokio::test]
async fn images_are_sent_whole_and_what_is_missing_is_said() {
    let demo = Demo::start().await;
    let cached = repository().await;
    create(cached.storage(), "a").await;
    let png = b"\x89PNG\r\n\x1a\nand so on".to_vec();
    attach(cached.storage(), "a", "picture", png).await;
    let image = |url: &str| MessagePart::ImageUrl { image_url: ImageUrl { url: url.into(), detail: None } };
    let urls = [
        "attachment://a/picture",
        "bamboo-attachment://a/picture",
        "attachment://a/missing",
        "attachment://a/large",
        "https://example.org/i.png",
        "data:image/png;base64,AA==",
        "file:///etc/passwd",
    ];
    let message = NewMessage { parts: Some(urls.iter().map(|url| image(url)).collect()), ..show() };
    let executor = with(
        &format!("http://{}/v1", demo.address),
        "",
        Arc::new(WithLarge(cached.shared_reader())),
        Limits::default(),
    );
    let request = request_of(&executor, turn(vec![message])).await;
    let parts = request["messages"][0]["content"].as_array().unwrap();
    let parts: Vec<_> = parts.iter().map(|p| p["text"].as_str().or(p["image_url"]["url"].as_str()).unwrap()).collect();
    let data = "data:image/png;base64,iVBORw0KGgphbmQgc28gb24=";
    let wanted = [
        "/slow 0ms\n/show",
        data,
        data,
        "[The image attachment://a/missing cannot be shown: it is not there any more.]",
        "[The image attachment://a/large cannot be shown: it is too large.]",
        urls[4],
        urls[5],
        "[The image file:///etc/passwd cannot be shown: its address is of no known kind.]",
    ];
    assert_eq!(parts, wanted);
}

/// Only a user's message can have images: those of others follow them.
#[tokio::test]
async fn text_and_images_in_parts_reach_the_model_whoever_said_them() {
    let demo = Demo::start().await;
    let text = |text: &str| MessagePart::Text { text: text.into() };
    let image = |url: &str| MessagePart::ImageUrl { image_url: ImageUrl { url: url.into(), detail: None } };
    let parts = |parts: Vec<MessagePart>, message: NewMessage| NewMessage { parts: Some(parts), ..message };
    let history = vec![
        parts(vec![text("be kind")], NewMessage::text(Role::System, "")),
        parts(vec![text("earlier"), image("https://example.org/a.png")], assistant("", &["a", "b"])),
        parts(vec![text("of a"), image("https://example.org/b.png")], result("", "a")),
        parts(vec![image("attachment://a/missing")], result("of b", "b")),
        parts(vec![text("more")], NewMessage::text(Role::User, "apart")),
        parts(vec![text("two"), text("words")], assistant("two words", &[])),
        show(),
    ];
    let request = shown(&demo, turn(history)).await;
    let said = request["messages"].as_array().unwrap();
    let gone = "of b\n[The image attachment://a/missing cannot be shown: it is not there any more.]";
    assert_eq!(said[0]["content"], "be kind");
    assert_eq!(said[1]["content"], "earlier\n[An image: it follows.]");
    assert_eq!(said[2]["content"], "of a\n[An image: it follows.]");
    assert_eq!((&said[3]["tool_call_id"], &said[3]["content"]), (&json!("b"), &json!(gone)));
    let pictures = json!([
        { "type": "text", "text": "What the assistant showed:" },
        { "type": "image_url", "image_url": { "url": "https://example.org/a.png" } },
        { "type": "text", "text": "What the result of read shows:" },
        { "type": "image_url", "image_url": { "url": "https://example.org/b.png" } },
    ]);
    assert_eq!((&said[4]["role"], &said[4]["content"]), (&json!("user"), &pictures));
    assert_eq!(said[5]["content"][0]["text"], "apart");
    assert_eq!(said[5]["content"][1]["text"], "more");
    assert_eq!(said[6]["content"], "two\nwords");
}

#[tokio::test]
async fn a_call_with_broken_arguments_does_not_spoil_the_history() {
    let demo = Demo::start().await;
    let mut broken = assistant("", &["a", "b"]);
    let calls = broken.tool_calls.as_mut().unwrap();
    calls[0].function.arguments = "{\"path\": \"x".into();
    calls[1].function.arguments = " ".into();
    let request = shown(&demo, turn(vec![broken, result("done", "b"), show()])).await;
    let calls = request["messages"][0]["tool_calls"].as_array().unwrap();
    assert!(calls.iter().all(|call| call["function"]["arguments"] == "{}"), "{calls:?}");
    let words = request["messages"][1]["content"].as_str().unwrap();
    assert!(words.contains("cut off") && words.ends_with("{\"path\": \"x"), "{words}");
    assert_eq!(request["messages"][2]["content"], "done");
}

/// What one vendor cannot do without is what another refuses.
#[tokio::test]
async fn fields_of_a_vendor_go_back_to_it_and_to_no_other() {
    let demo = Demo::start().await;
    let own = |from: Option<&str>| {
        let mut said = assistant("hm", &["a"]);
        said.tool_calls.as_mut().unwrap()[0].extra.insert("sig", &"s");
        let extra = json!({ "reasoning_details": [1], "annotations": [2], "unknown": 3, "provider": from });
        said.extra = extra.as_object().unwrap().into();
        turn(vec![said, result("of a", "a"), show()])
    };
    let fields = |request: &Value| {
        let said = &request["messages"][0];
        let names = ["reasoning_details", "annotations", "unknown"].map(|name| said.get(name).is_some());
        (names, said["tool_calls"][0].get("sig").is_some())
    };
    let here = format!("http://{}", demo.address);
    assert_eq!(fields(&shown(&demo, own(Some(&here))).await), ([true, false, true], true));
    assert_eq!(fields(&shown(&demo, own(Some("https://elsewhere"))).await), ([false; 3], false));
    assert_eq!(fields(&shown(&demo, own(None)).await), ([true, false, false], true));
}
