//! The edges of HTTP that proxies, browsers and old clients meet.

use culm::model::Limits;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Server, client::TOKEN};

/// The status of a request that a client library would not send.
async fn status_of(server: &Server, target: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let host = format!("host: {}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n", server.address);
    stream.write_all(format!("GET {target} HTTP/1.1\r\n{host}{headers}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_another_site_or_for_another_server_is_sent_is_forbidden() {
    let server = Server::start().await;
    let (own, path) = (server.address.clone(), "/api/v1/sessions");
    for (target, headers, status) in [
        (path.to_owned(), String::new(), 200),
        (path.to_owned(), format!("origin: http://{own}\r\n"), 200),
        (path.to_owned(), format!("origin: http://{own}\r\norigin: http://evil.example\r\n"), 403),
        (path.to_owned(), format!("origin: http://{own}\r\norigin: http://{own}\r\n"), 403),
        (format!("http://{own}{path}"), String::new(), 200),
        (format!("http://evil.example{path}"), String::new(), 403),
        (format!("http://user@{own}{path}"), String::new(), 403),
        (path.to_owned(), "sec-fetch-site: cross-site\r\n".into(), 403),
        (path.to_owned(), "sec-fetch-site: same-origin\r\nsec-fetch-site: cross-site\r\n".into(), 403),
        (path.to_owned(), "sec-fetch-site: same-origin\r\n".into(), 200),
        (path.to_owned(), "sec-fetch-site: none\r\n".into(), 200),
        ("/docs".into(), "sec-fetch-site: cross-site\r\n".into(), 403),
        // Somebody clicks on a link.
        (
            "/docs".into(),
            "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n".into(),
            200,
        ),
        (
            path.into(),
            "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n".into(),
            403,
        ),
    ] {
        assert_eq!(status_of(&server, &target, &headers).await, status, "{target} {headers}");
    }
}

#[tokio::test]
async fn a_weak_tag_counts_as_its_strong_twin() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for (tag, status) in
        [("W/\"1\"", 200), ("W/\"1\"", 412), ("W/\"7\", W/\"2\"", 200), ("W/\"other\"", 412), ("W/3", 200)]
    {
        let change = server.request(Method::PATCH, "/sessions/s").header("if-match", tag);
        let answer = server.send(change.json(&json!({ "title": format!("after {tag} {status}") }))).await;
        assert_eq!(answer.status, status, "{tag}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_by_its_header() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for (encoding, status) in [("gzip", 415), ("br", 415), ("no-such", 415), ("gzip, identity", 415), ("identity", 201)]
    {
        let create = server.request(Method::POST, "/sessions").header("content-encoding", encoding).json(&json!({}));
        assert_eq!(server.send(create).await.status, status, "{encoding}");
        let upload = server.request(Method::POST, "/sessions/s/attachments").header("content-encoding", encoding);
        let upload = upload.header("content-type", "text/plain").body("hello");
        assert_eq!(server.send(upload).await.status, status, "{encoding}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_too_large_wherever_it_comes_in() {
    let limits = Limits { message: 1000, ..Limits::default() };
    let server = Server::start_with(tempfile::tempdir().unwrap(), limits).await;
    server.session("s", &[]).await;
    let long = "x".repeat(1001);
    let child = json!({ "title": "t", "responsibility": "r", "prompt": long, "subagent_type": "a", "auto_run": false });
    for (path, body, param) in [
        ("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": long }] }), "messages[0].content"),
        (
            "/sessions/s/messages",
            json!({ "messages": [{ "role": "user", "content": "x", "audio": long }] }),
            "messages[0].content",
        ),
        (
            "/sessions/s/messages",
            json!({ "messages": [{ "role": "user", "content": "x", "metadata": long }] }),
            "messages[0].content",
        ),
        ("/sessions/s/runs", json!({ "message": long }), "message"),
        ("/sessions", json!({ "system_prompt": long }), "system_prompt"),
        ("/sessions/s/children", child, "prompt"),
        ("/chat", json!({ "message": long, "model": "m" }), "message"),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(answer.code(), (413, "payload_too_large"), "{path}: {}", answer.body);
        assert_eq!((&answer.body["param"], &answer.body["limit"]), (&json!(param), &json!(1000)), "{path}");
    }
}

#[tokio::test]
async fn an_empty_last_event_id_is_none() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for (path, header, first) in [
        ("/sessions/s/events", Some(""), "event: snapshot"),
        ("/sessions/s/events", Some("  "), "event: snapshot"),
        ("/sessions/s/events?after=", None, "event: snapshot"),
        ("/sessions/s/events?lastEventId=0", None, "event: session.created"),
        ("/events?lastEventId=", None, "event: snapshot"),
    ] {
        let request = server.request(Method::GET, path);
        let request = header.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        let mut answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-cache, no-transform");
        let chunk = answer.chunk().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&chunk).contains(first), "{path} {header:?}: {chunk:?}");
    }
    for path in ["/events?after=x", "/events?lastEventId=99999999999999999999"] {
        assert_eq!(server.get(path).await.code(), (400, "invalid_request"), "{path}");
    }
}

/// Of the original's call that stores several things.
#[tokio::test]
async fn a_chat_that_is_refused_has_stored_nothing() {
    let server = Server::start().await;
    let metadata = json!({ "id": "s", "metadata": { "full": "x".repeat(60_000) } });
    assert_eq!(server.post("/sessions", metadata).await.status, 201);
    let chat = json!({ "session_id": "s", "message": "hello", "model": "m", "enhance_prompt": "y".repeat(10_000) });
    assert_eq!(server.post("/chat", chat).await.code(), (400, "invalid_request"));
    let session = server.get("/sessions/s").await.body["session"].clone();
    assert_eq!((&session["message_count"], session.get("model")), (&json!(0), None), "{session}");
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    for path in
        ["/sessions", "/sessions/s", "/sessions/s/messages", "/sessions/none", "/search?q=hello", "/health", "/runs"]
    {
        let (head, get) = (server.send(server.request(Method::HEAD, path)).await, server.get(path).await);
        assert_eq!((head.status, head.headers.get("etag")), (get.status, get.headers.get("etag")), "{path}");
    }
}
