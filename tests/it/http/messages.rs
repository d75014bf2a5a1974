//! Messages over HTTP: append, page, edit, cut.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Server};

fn seqs(answer: &Answer) -> Vec<i64> {
    answer.body["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect()
}

fn more(answer: &Answer) -> (bool, bool) {
    (answer.body["has_more_before"].as_bool().unwrap(), answer.body["has_more_after"].as_bool().unwrap())
}

#[tokio::test]
async fn appends_of_twenty_clients_all_survive() {
    let server = std::sync::Arc::new(Server::start().await);
    server.session("s", &[]).await;
    let clients: Vec<_> = (0..20)
        .map(|client| {
            let server = server.clone();
            tokio::spawn(async move {
                for place in 0..20 {
                    let body = json!({ "messages": [{ "role": "user", "content": format!("{client} {place}") }] });
                    assert_eq!(server.post("/sessions/s/messages", body).await.status, 201);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let all = server.get("/sessions/s/messages?limit=1000").await;
    let texts: HashSet<_> =
        all.body["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!((texts.len(), seqs(&all)), (400, (1..=400).collect()));
    assert_eq!(server.get("/sessions/s").await.body["session"]["message_count"], 400);
}

#[tokio::test]
async fn a_history_is_paged_forwards_backwards_and_around() {
    let server = Server::start().await;
    let texts: Vec<String> = (1..=300).map(|place| place.to_string()).collect();
    server.session("s", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let get = async |query: &str| server.get(&format!("/sessions/s/messages{query}")).await;
    let first = get("").await;
    assert_eq!((seqs(&first), more(&first)), ((1..=50).collect(), (false, true)));
    let last = get("?order=desc&limit=3").await;
    assert_eq!((seqs(&last), more(&last)), (vec![300, 299, 298], (true, false)));
    let after = get("?after=298").await;
    assert_eq!((seqs(&after), more(&after)), (vec![299, 300], (true, false)));
    let before = get("?before=3&limit=10").await;
    assert_eq!((seqs(&before), more(&before)), (vec![1, 2], (false, true)));
    let around = get("?around=150&limit=4").await;
    assert_eq!((seqs(&around), more(&around)), (vec![148, 149, 150, 151], (true, true)));
    let end = get("?after=300").await;
    assert_eq!((seqs(&end), more(&end)), (vec![], (true, false)));
    assert_eq!(seqs(&get("?role=system").await), Vec::<i64>::new());
    assert_eq!(get("?after=1&before=2").await.body["param"], "before");
}

/// What the cache shows and what storage shows is the same, whatever the window, before and after changes.
#[tokio::test]
async fn newest_messages_are_those_of_the_last_acknowledged_change() {
    let server = Server::start().await;
    let texts: Vec<String> = (1..=250).map(|place| place.to_string()).collect();
    server.session("s", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for round in 0..3 {
        for query in
            ["order=desc&limit=1000", "order=desc&limit=7", "after=10&limit=5", "after=100&limit=1000", "after=249"]
        {
            let cached = server.get(&format!("/sessions/s/messages?{query}")).await;
            let again = server.get(&format!("/sessions/s/messages?{query}")).await;
            // A filter by role is never answered from the cache.
            let stored = server.get(&format!("/sessions/s/messages?{query}&role=user")).await;
            assert_eq!((&cached.body, &again.body), (&stored.body, &stored.body), "{query} in round {round}");
        }
        server.post("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": "more" }] })).await;
        let newest = server.get("/sessions/s/messages?order=desc&limit=1").await;
        let id = newest.body["messages"][0]["id"].as_str().unwrap();
        assert_eq!(server.delete(&format!("/sessions/s/messages/{id}")).await.body["message_count"], 250);
    }
}

/// The newest messages are kept up to a number of bytes: what lies beyond comes from storage.
#[tokio::test]
async fn large_messages_are_shown_whether_or_not_they_are_kept() {
    let server = Server::start().await;
    let texts: Vec<String> = (1..=4).map(|n| n.to_string().repeat(if n == 4 { 10 } else { 400_000 })).collect();
    server.session("s", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (query, places, beyond) in [
        ("order=desc&limit=1", vec![4], (true, false)),
        ("order=desc&limit=2", vec![4, 3], (true, false)),
        ("order=desc&limit=3", vec![4, 3, 2], (true, false)),
        ("order=desc&limit=9", vec![4, 3, 2, 1], (false, false)),
        ("after=1", vec![2, 3, 4], (true, false)),
        ("after=2&limit=1", vec![3], (true, true)),
        ("after=3", vec![4], (true, false)),
    ] {
        let shown = server.get(&format!("/sessions/s/messages?{query}")).await;
        assert_eq!((seqs(&shown), more(&shown)), (places, beyond), "{query}");
    }
}

#[tokio::test]
async fn a_message_is_read_edited_and_deleted_by_its_id() {
    let server = Server::start().await;
    server.session("s", &["question"]).await;
    let call = json!([{ "id": "c1", "type": "function", "function": { "name": "Read", "arguments": "{}" } }]);
    let append = json!({ "messages": [{ "id": "m1", "role": "assistant", "content": "answer" },
        { "id": "m2", "role": "assistant", "tool_calls": call }] });
    let first = server.post("/sessions/s/messages", append.clone()).await;
    assert_eq!(first.body["last_seq"], 3);
    assert_eq!(server.post("/sessions/s/messages", append).await.body, first.body);
    let other = json!({ "messages": [{ "role": "user", "content": "new" }, { "id": "m1", "role": "assistant", "content": "other" }] });
    assert_eq!(server.post("/sessions/s/messages", other).await.code(), (409, "message_exists"));
    let etag = server.get("/sessions/s").await.headers["etag"].clone();
    let edited = server.patch("/sessions/s/messages/m1", json!({ "content": "better" })).await;
    assert_eq!(edited.body, json!({ "success": true, "session_id": "s", "message_id": "m1", "message_count": 3 }));
    let stale = server.send(server.request(Method::DELETE, "/sessions/s/messages/m1").header("if-match", etag)).await;
    assert_eq!(stale.code(), (412, "version_conflict"));
    assert_eq!(
        server.patch("/sessions/s/messages/m2", json!({ "content": "x" })).await.code(),
        (400, "invalid_request")
    );
    assert_eq!(server.get("/sessions/s/messages/m1").await.body["message"]["content"], "better");
    assert_eq!(server.delete("/sessions/s/messages/m1").await.body["message_count"], 2);
    assert_eq!(server.get("/sessions/s/messages/m1").await.code(), (404, "message_not_found"));
    assert_eq!(server.get("/sessions/none/messages/m1").await.code(), (404, "session_not_found"));
}

#[tokio::test]
async fn an_append_can_expect_the_last_seq_and_be_sent_twice_under_a_key() {
    let server = Server::start().await;
    server.session("s", &["one"]).await;
    let body = json!({ "messages": [{ "role": "user", "content": "two" }], "expected_last_seq": 1 });
    let send = || server.request(Method::POST, "/sessions/s/messages").header("idempotency-key", "k").json(&body);
    let first = server.send(send()).await;
    let again = server.send(send()).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body));
    let late = server.post("/sessions/s/messages", body.clone()).await;
    assert_eq!((late.code(), &late.body["last_seq"]), ((412, "version_conflict"), &json!(2)));
}

#[tokio::test]
async fn a_history_is_cut_after_the_last_user_message_after_any_and_where_calls_have_no_answer() {
    let server = Server::start().await;
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "Read", "arguments": "{}" } });
    let messages = json!({ "messages": [
        { "id": "u1", "role": "user", "content": "go" },
        { "id": "a1", "role": "assistant", "content": "both", "tool_calls": [call("answered"), call("open")] },
        { "id": "t1", "role": "tool", "content": "done", "tool_call_id": "answered" },
        { "id": "a2", "role": "assistant", "tool_calls": [call("never")] },
        { "id": "t2", "role": "tool", "content": "lost", "tool_call_id": "unknown" },
    ]});
    server.session("s", &[]).await;
    server.post("/sessions/s/messages", messages).await;
    let retried = server.post("/sessions/s/messages/truncate", json!({ "mode": "error_retry" })).await;
    assert_eq!((&retried.body["messages_removed"], &retried.body["message_count"]), (&json!(2), &json!(3)));
    let calls = server.get("/sessions/s/messages/a1").await.body["message"]["tool_calls"].clone();
    assert_eq!(calls, json!([call("answered")]));
    let after = server.post("/sessions/s/messages/truncate", json!({ "mode": "after", "message_id": "a1" })).await;
    assert_eq!(after.body["messages_removed"], 1);
    let last = server.post("/sessions/s/messages/truncate", json!({ "mode": "after_last_user" })).await;
    assert_eq!(last.body, json!({ "success": true, "session_id": "s", "messages_removed": 1, "message_count": 1 }));
    let etag = server.get("/sessions/s").await.headers["etag"].clone();
    let nothing = server.post("/sessions/s/messages/truncate", json!({ "mode": "after_last_user" })).await;
    assert_eq!((&nothing.body["messages_removed"], &nothing.headers["etag"]), (&json!(0), &etag));
    server.session("empty", &[]).await;
    let none: Value = json!({ "mode": "after_last_user" });
    assert_eq!(server.post("/sessions/empty/messages/truncate", none).await.code(), (400, "invalid_request"));
}

#[tokio::test]
async fn json_that_nobody_looks_into_is_shown_as_it_was_sent() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let sent = r#"{"b": 18446744073709551617, "a": [1.50 , "\u00e4"]}"#;
    let body = format!(r#"{{"messages":[{{"id":"m","role":"user","content":"x","metadata":{sent}}}]}}"#);
    for round in 1..=2 {
        let request = server.request(Method::POST, "/sessions/s/messages").header("content-type", "application/json");
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 201, "the same id and content, round {round}");
        assert!(response.text().await.unwrap().contains(sent));
    }
    let turned = body.replace(sent, r#"{"a":[15e-1,"ä"],"b":18446744073709551617}"#);
    let other = body.replace(sent, r#"{"a":[1.5,"ä"],"b":18446744073709551618}"#);
    for (body, status) in [(turned, 201), (other, 409)] {
        let request = server.request(Method::POST, "/sessions/s/messages").header("content-type", "application/json");
        assert_eq!(server.send(request.body(body)).await.status, status);
    }
    for path in ["/sessions/s/messages", "/sessions/s/messages/m", "/sessions/s/messages?order=desc"] {
        let shown = server.request(Method::GET, path).send().await.unwrap().text().await.unwrap();
        assert!(shown.contains(sent), "{path}: {shown}");
    }
}
