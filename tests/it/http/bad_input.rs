//! Whatever is sent: a refusal that names the field, and nothing has changed.

use reqwest::Method;
use serde_json::{Value, json};

use super::Server;

/// More than a message may have, and less than a body.
const LONG: usize = 5 << 20;

/// Where a body goes, a body that is accepted there, and its fields.
const BODIES: [(&str, &str, &[&str]); 9] = [
    (
        "POST",
        "/sessions",
        &[
            "title",
            "model",
            "workspace",
            "pinned",
            "metadata",
            "token_budget",
            "task_list",
            "id",
            "reasoning_effort",
            "model_ref",
            "provider",
        ],
    ),
    (
        "PATCH",
        "/sessions/s",
        &["title", "pinned", "model", "metadata", "token_budget", "clear_reasoning_effort", "workspace"],
    ),
    ("POST", "/sessions/s/messages", &["messages", "expected_last_seq"]),
    ("PATCH", "/sessions/s/messages/m", &["content"]),
    ("POST", "/sessions/s/messages/truncate", &["mode"]),
    ("POST", "/sessions/cleanup", &["mode", "keep_pinned", "keep_archived", "inactive_before", "dry_run"]),
    ("POST", "/sessions/s/usage", &["record"]),
    (
        "POST",
        "/sessions/s/messages",
        &[
            "messages[0].role",
            "messages[0].content",
            "messages[0].parts",
            "messages[0].tool_calls",
            "messages[0].tool_success",
            "messages[0].phase",
        ],
    ),
    ("POST", "/sessions", &["model_ref.provider", "metadata.key"]),
];

/// A body in which this field has this value, written as JSON.
fn body(field: &str, value: &str) -> String {
    if let Some(inner) = field.strip_prefix("messages[0].") {
        let role = if inner == "role" { String::new() } else { "\"role\":\"user\",".into() };
        return format!("{{\"messages\":[{{{role}\"{inner}\":{value}}}]}}");
    }
    match field.split_once('.') {
        Some((outer, inner)) => format!("{{\"{outer}\":{{\"{inner}\":{value}}}}}"),
        None => format!("{{\"{field}\":{value}}}"),
    }
}

async fn refused(server: &Server, method: &str, path: &str, body: String) {
    let shown: String = body.chars().take(120).collect();
    let request = server.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
    let answer = server.send(request.header("content-type", "application/json").body(body)).await;
    assert!(answer.status.is_client_error(), "{method} {path} {shown}: {answer:?}");
    if answer.status == 400 || answer.status == 422 {
        assert!(answer.body["param"].is_string(), "{method} {path} {shown}: no field is named: {answer:?}");
    }
}

async fn state(server: &Server) -> Vec<Value> {
    let mut state = Vec::new();
    for path in ["/sessions?kind=all", "/sessions/s", "/sessions/s/messages", "/sessions/s/usage"] {
        state.push(server.get(path).await.body);
    }
    state
}

#[tokio::test]
async fn no_value_of_a_wrong_kind_is_taken_by_any_field() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let before = state(&server).await;
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let long = format!("\"{}\"", "x".repeat(LONG));
    for (method, path, fields) in BODIES {
        for field in fields {
            for value in ["12.5", "[[]]", "1e400", "\"\\ud800\"", "\"a\\u0000b\"", &deep] {
                refused(&server, method, path, body(field, value)).await;
            }
            let doubled = body(field, "null").replacen('{', &format!("{{\"{}\":1,\"{}\":1,", "twice", "twice"), 1);
            refused(&server, method, path, doubled).await;
        }
        // One field each: megabytes are read slowly by a build for tests.
        refused(&server, method, path, body(fields[0], &long)).await;
        for text in ["", "{", "[]", "null", "\"x\"", "{\"no_such_field\":1}", "{} {}", "\u{0}"] {
            refused(&server, method, path, text.into()).await;
        }
    }
    for (field, value) in [
        ("title", "\"a\\nb\""),
        ("title", "\"\\u001b[2J\""),
        ("metadata", "{\"a\\u0007\":\"b\"}"),
        ("model", "\"a\\tb\""),
    ] {
        refused(&server, "POST", "/sessions", body(field, value)).await;
        refused(&server, "PATCH", "/sessions/s", body(field, value)).await;
    }
    assert_eq!(state(&server).await, before);
}

#[tokio::test]
async fn ids_that_a_path_would_follow_are_refused_everywhere() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let before = state(&server).await;
    for id in [
        ".",
        "..",
        "a/b",
        "a\\\\b",
        "a..b",
        " a",
        "a ",
        "",
        "cleanup",
        "truncate",
        "search",
        "count",
        "a\\u0000b",
        "a\\nb",
    ] {
        refused(&server, "POST", "/sessions", format!("{{\"id\":\"{id}\"}}")).await;
        refused(
            &server,
            "POST",
            "/sessions/s/messages",
            format!("{{\"messages\":[{{\"id\":\"{id}\",\"role\":\"user\"}}]}}"),
        )
        .await;
    }
    for id in ["%2e%2e%2f", "a%2fb", "%00", "a%0ab", "%20a", "a%5cb", "a..b", "%ff", &"x".repeat(129)] {
        for path in
            [format!("/sessions/{id}"), format!("/sessions/{id}/messages"), format!("/sessions/s/messages/{id}")]
        {
            let answer = server.get(&path).await;
            assert_eq!((answer.code(), answer.body["param"].is_string()), ((400, "invalid_request"), true), "{path}");
        }
    }
    assert_eq!(server.get("/sessions/cleanup").await.code(), (405, "method_not_allowed"));
    assert_eq!(state(&server).await, before);
}

#[tokio::test]
async fn no_parameter_of_a_query_takes_what_it_does_not_know() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let lists = [
        (
            "/sessions",
            vec![
                "kind",
                "pinned",
                "archived",
                "running",
                "created_after",
                "created_before",
                "active_after",
                "active_before",
                "order",
                "limit",
                "cursor",
                "parent",
                "root",
            ],
        ),
        ("/sessions/s/messages", vec!["after", "before", "around", "limit", "order", "role"]),
        ("/sessions/s/usage", vec!["limit", "cursor"]),
    ];
    for (path, parameters) in lists {
        for parameter in parameters {
            let no_id = ["%00", "a%0ab", "..", "%ff", "a%2fb"];
            // These are ids that no session has.
            let no_word: &[&str] = if matches!(parameter, "parent" | "root") {
                &[]
            } else {
                &["1e400", "-", "99999999999999999999", "%5B%5D"]
            };
            for value in no_id.iter().chain(no_word) {
                let answer = server.get(&format!("{path}?{parameter}={value}")).await;
                assert_eq!(answer.status, 400, "{path}?{parameter}={value}: {answer:?}");
            }
            let twice = server.get(&format!("{path}?{parameter}=1&{parameter}=1")).await;
            assert_eq!((twice.status.as_u16(), &twice.body["param"]), (400, &Value::from(parameter)));
        }
        let unknown = server.get(&format!("{path}?no_such=1")).await;
        assert_eq!((unknown.status.as_u16(), &unknown.body["param"]), (400, &Value::from("no_such")));
    }
    for limit in ["0", "-1", "201"] {
        assert_eq!(server.get(&format!("/sessions?limit={limit}")).await.body["param"], "limit");
    }
    let unknown = server.delete("/sessions/s?force=maybe").await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["param"]), (400, &Value::from("force")));
}

#[tokio::test]
async fn a_time_before_1970_or_after_9999_is_refused() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let before = state(&server).await;
    for time in ["1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "10000-01-01T00:00:00Z"] {
        for parameter in ["created_after", "created_before", "active_after", "active_before"] {
            let answer = server.get(&format!("/sessions?{parameter}={time}")).await;
            assert_eq!((answer.code(), answer.body["param"].as_str()), ((400, "invalid_request"), Some(parameter)));
        }
        for parameter in ["after", "before"] {
            let answer = server.get(&format!("/search?q=hello&{parameter}={time}")).await;
            assert_eq!((answer.code(), answer.body["param"].as_str()), ((400, "invalid_request"), Some(parameter)));
        }
        let answer = server.post("/sessions/cleanup", json!({ "mode": "all", "inactive_before": time })).await;
        assert_eq!((answer.status.as_u16(), &answer.body["param"]), (400, &json!("inactive_before")));
    }
    assert_eq!(state(&server).await, before);
}

#[tokio::test]
async fn what_is_no_json_and_what_is_too_large_is_told_apart() {
    let server = Server::start().await;
    let form = server.request(Method::POST, "/sessions").header("content-type", "text/plain").body("{}");
    assert_eq!(server.send(form).await.code(), (415, "unsupported_media_type"));
    let large = server.request(Method::POST, "/sessions").header("content-type", "application/json");
    let answer = server.send(large.body(vec![b' '; (16 << 20) + 1])).await;
    assert_eq!((answer.code(), &answer.body["limit"]), ((413, "payload_too_large"), &Value::from(16 << 20)));
    for key in ["", "a b", "é", &"k".repeat(256)] {
        let keyed =
            server.request(Method::POST, "/sessions").header("idempotency-key", key.as_bytes()).json(&json!({}));
        assert_eq!(server.send(keyed).await.body["param"], "Idempotency-Key", "{key}");
    }
    for tags in ["x", "\"1\", 2 3", "\"1\", *", "\"1\",", ""] {
        let matched = server.request(Method::DELETE, "/sessions/s").header("if-match", tags);
        assert_eq!(server.send(matched).await.body["param"], "If-Match", "{tags}");
    }
    let missing = server.send(server.request(Method::POST, "/sessions")).await;
    assert_eq!((missing.code(), missing.body["param"].as_str()), ((400, "invalid_request"), Some("")));
}

#[tokio::test]
async fn a_call_without_parameters_takes_none() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let before = state(&server).await;
    let calls = [
        ("POST", "/sessions", "{}"),
        ("POST", "/sessions/cleanup", "{\"mode\":\"all\"}"),
        ("GET", "/sessions/s", ""),
        ("PATCH", "/sessions/s", "{\"title\":\"x\"}"),
        ("POST", "/sessions/s/clear", ""),
        ("GET", "/sessions/s/tree", ""),
        ("POST", "/sessions/s/usage", "{\"record\":{}}"),
        ("POST", "/sessions/s/messages", "{\"messages\":[{\"role\":\"user\"}]}"),
        ("POST", "/sessions/s/messages/truncate", "{\"mode\":\"after_last_user\"}"),
        ("GET", "/sessions/s/messages/m", ""),
        ("PATCH", "/sessions/s/messages/m", "{\"content\":\"x\"}"),
        ("DELETE", "/sessions/s/messages/m", ""),
    ];
    for (method, path, body) in calls {
        let request = server.request(method.parse().unwrap(), &format!("{path}?no_such=1"));
        let answer = server.send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(
            (answer.code(), answer.body["param"].as_str()),
            ((400, "invalid_request"), Some("no_such")),
            "{path}"
        );
    }
    assert_eq!(state(&server).await, before);
}

#[tokio::test]
async fn a_refusal_is_short_and_names_the_place() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let long = "x".repeat(100_000);
    for body in [format!("{{\"{long}\":1}}"), format!("{{\"reasoning_effort\":\"{long}\"}}")] {
        let request = server.request(Method::POST, "/sessions").header("content-type", "application/json");
        let answer = server.send(request.body(body)).await;
        assert!(answer.status == 400 && answer.body.to_string().len() < 4000, "{answer:?}");
    }
    assert_eq!(server.get("/sessions/a..b/messages/m").await.body["param"], "id");
    assert_eq!(server.get("/sessions/s/messages/a..b").await.body["param"], "message_id");
}

#[tokio::test]
async fn limits_hold_for_the_whole_of_a_message_and_of_a_sessions_metadata() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let third = "x".repeat(1_500_000);
    let message = json!({ "role": "user", "content": third, "reasoning": third, "metadata": third });
    let answer = server.post("/sessions/s/messages", json!({ "messages": [message] })).await;
    assert_eq!((answer.status.as_u16(), &answer.body["param"]), (413, &Value::from("messages[0].content")));
    let part = |key: &str| json!({ "metadata": { key: "x".repeat(40_000) } });
    assert_eq!(server.patch("/sessions/s", part("a")).await.status, 200);
    let more = server.patch("/sessions/s", part("b")).await;
    assert_eq!((more.status.as_u16(), &more.body["param"]), (400, &Value::from("metadata")));
    let exchanged = json!({ "metadata": { "a": null, "b": "x".repeat(40_000) } });
    assert_eq!(server.patch("/sessions/s", exchanged).await.status, 200);
}
