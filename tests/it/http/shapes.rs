//! Messages as chat-completion APIs and their SDKs write them: they go in as they are, and nothing of them is lost.

use reqwest::Method;
use serde_json::{Value, json};

use super::Server;

async fn stored(server: &Server, message: Value) -> Value {
    let answer = server.post("/sessions/s/messages", json!({ "messages": [&message] })).await;
    assert_eq!(answer.status, 201, "{message}: {}", answer.body);
    let read =
        server.get(&format!("/sessions/s/messages/{}", answer.body["messages"][0]["id"].as_str().unwrap())).await;
    assert_eq!(read.body["message"], answer.body["messages"][0], "it is answered as it is read");
    read.body["message"].clone()
}

#[tokio::test]
async fn messages_go_in_as_sdks_write_them() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let calls = json!([{ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } }]);
    let message = stored(&server, json!({ "role": "assistant", "content": null, "tool_calls": calls })).await;
    assert_eq!((&message["content"], &message["tool_calls"]), (&json!(""), &calls));
    let dumped = json!({
        "role": "assistant", "content": "hi", "refusal": null, "annotations": [], "audio": null, "function_call": null,
        "tool_calls": null, "parts": null, "metadata": null, "id": null, "reasoning": null, "extra": null,
    });
    let message = stored(&server, dumped).await;
    assert_eq!((&message["content"], &message["extra"]), (&json!("hi"), &json!({ "annotations": [] })));
    assert_eq!(message.get("tool_calls"), None);
    let named = json!({ "role": "user", "content": "hi", "name": "ann", "extra": { "team": "core" } });
    assert_eq!(stored(&server, named).await["extra"], json!({ "name": "ann", "team": "core" }));
    let refusal = json!({ "role": "assistant", "content": null, "refusal": "I can't." });
    assert_eq!(stored(&server, refusal).await["extra"], json!({ "refusal": "I can't." }));
    assert_eq!(stored(&server, json!({ "role": "developer", "content": "be brief" })).await["role"], "developer");
    assert_eq!(server.get("/sessions/s/messages?role=developer").await.body["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn content_may_be_parts_of_any_type() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let parts = json!([
        { "type": "text", "text": "look at the heron" },
        { "type": "image_url", "image_url": { "url": "https://e.x/a.png", "detail": "low" } },
        { "type": "image_url", "image_url": { "format": "image/png", "url": "https://e.x/b.png" } },
        { "type": "text", "text": "and listen", "cache_control": { "type": "ephemeral" } },
        { "type": "input_audio", "input_audio": { "data": "aGk=", "format": "wav" } },
        { "type": "file", "file": { "file_id": "f1" } },
    ]);
    let message = stored(&server, json!({ "role": "user", "content": parts })).await;
    assert_eq!((&message["content"], &message["parts"]), (&json!("look at the heron\nand listen"), &parts));
    let found = server.get("/search?q=heron+listen").await;
    assert_eq!(found.body["hits"][0]["message"]["id"], message["id"], "{}", found.body);
    let tool = json!({ "role": "tool", "tool_call_id": "c", "content": [{ "type": "text", "text": "42" }] });
    assert_eq!(stored(&server, tool).await["content"], "42");
    for (bad, param) in [
        (json!({ "role": "user", "content": [{ "text": "a" }] }), "messages[0].content[0].type"),
        (json!({ "role": "user", "content": [{ "type": "text" }] }), "messages[0].content[0].text"),
        (
            json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }),
            "messages[0].content[0].image_url.url",
        ),
        (json!({ "role": "user", "content": [7] }), "messages[0].content[0]"),
        (json!({ "role": "user", "content": {} }), "messages[0].content"),
        (json!({ "role": "user", "content": [], "parts": [] }), "messages[0]"),
        (json!({ "role": "user", "content": "a", "seq": 7 }), "messages[0].seq"),
        (
            json!({ "role": "assistant", "tool_calls": [{ "id": "c", "function": { "name": "f" } }] }),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({ "role": "user", "content": "a", "created_at": "yesterday" }), "messages[0].created_at"),
    ] {
        let answer = server.post("/sessions/s/messages", json!({ "messages": [&bad] })).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["param"].as_str()),
            (400, Some(param)),
            "{bad}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_message_that_holds_nothing_is_refused() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for nothing in [
        json!({ "role": "user" }),
        json!({ "role": "assistant", "content": null }),
        json!({ "role": "assistant", "content": "", "tool_calls": [], "refusal": null, "annotations": [] }),
        json!({ "role": "user", "content": [], "name": "ann" }),
    ] {
        let answer = server.post("/sessions/s/messages", json!({ "messages": [&nothing] })).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["param"].as_str()),
            (400, Some("messages[0].content")),
            "{nothing}"
        );
    }
    stored(&server, json!({ "role": "tool", "tool_call_id": "c", "content": "" })).await;
    stored(&server, json!({ "role": "assistant", "audio": { "id": "a1" } })).await;
}

/// The text of the answer: a reader may round what it reads.
async fn text_of(server: &Server, id: &str) -> String {
    let request = server.request(Method::GET, &format!("/sessions/s/messages/{id}"));
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn json_of_others_comes_back_as_it_was_or_is_refused() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let append = |fields: String| {
        let body = format!(r#"{{"messages":[{{"role":"assistant","content":"x",{fields}}}]}}"#);
        let request = server.request(Method::POST, "/sessions/s/messages").header("content-type", "application/json");
        server.send(request.body(body))
    };
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let opaque = format!(r#"{{"z":18446744073709551617,"a":-0.10,"deep":{}}}"#, nested(100));
    let call = format!(
        r#"{{"id":"c","type":"function","function":{{"name":"f","arguments":"{{}}"}},"extra_content":{opaque}}}"#
    );
    let answer =
        append(format!(r#""id":"m","metadata":{opaque},"annotations":[{opaque}],"tool_calls":[{call}]"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let text = text_of(&server, "m").await;
    assert_eq!(text.matches(&opaque).count(), 3, "{text}");
    assert!(text.contains(&call), "{text}");
    for (fields, param) in [
        (format!(r#""annotations":{}"#, nested(121)), "messages[0].annotations"),
        (r#""audio":{"volume":1e999}"#.into(), "messages[0].audio"),
        (
            r#""tool_calls":[{"id":"c","function":{"name":"f","arguments":""},"x":1e999}]"#.into(),
            "messages[0].tool_calls[0].x",
        ),
    ] {
        let answer = append(fields).await;
        let at = answer.body["param"].as_str().unwrap_or_default();
        assert!(answer.status == 400 && at.starts_with(param), "{param}: {}", answer.body);
    }
    let custom = r#"{"id":"c","type":"custom","custom":{"name":"shell","input":"ls"}}"#;
    assert_eq!(append(format!(r#""id":"n","tool_calls":[{custom}]"#)).await.status, 201);
    let message = server.get("/sessions/s/messages/n").await.body["message"]["tool_calls"][0].clone();
    assert_eq!((&message["custom"]["input"], &message["function"]["name"]), (&json!("ls"), &json!("shell")));
}

#[tokio::test]
async fn a_message_keeps_the_time_that_it_comes_with_but_none_that_is_yet_to_come() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for (given, kept) in [
        (json!("2024-05-01T12:00:00+02:00"), "2024-05-01T10:00:00.000000Z"),
        (json!(1_714_557_600), "2024-05-01T10:00:00.000000Z"),
        (json!(1_714_557_600.5), "2024-05-01T10:00:00.500000Z"),
    ] {
        assert_eq!(
            stored(&server, json!({ "role": "user", "content": "a", "created_at": given })).await["created_at"],
            kept
        );
    }
    let later = stored(&server, json!({ "role": "user", "content": "a", "created_at": "9999-01-01T00:00:00Z" })).await;
    assert_eq!(later["created_at"], later["updated_at"]);
}

/// The same message again is answered; with other fields it is another one.
#[tokio::test]
async fn further_fields_are_part_of_what_a_message_says() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let named = |name: &str| json!({ "messages": [{ "id": "m", "role": "user", "content": "a", "name": name }] });
    for _ in 0..2 {
        assert_eq!(server.post("/sessions/s/messages", named("ann")).await.body["last_seq"], 1);
    }
    assert_eq!(server.post("/sessions/s/messages", named("bob")).await.code(), (409, "message_exists"));
}
