//! More than the server takes: bytes in flight, connections, work that takes long.

use std::time::Duration;

use culm::model::Limits;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use super::{Server, client::TOKEN};
use crate::scripted::soon;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(&server.address).await.unwrap()
}

/// Sends the beginning of a request that says it is this long.
async fn begin(server: &Server, method: &str, path: &str, length: usize) -> TcpStream {
    let mut stream = connect(server).await;
    let head = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{{",
        server.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn bytes_that_do_not_fit_are_refused_and_fit_again_when_others_are_done() {
    let limits = Limits { in_flight: 12 << 20, ..Limits::default() };
    let server = Server::start_with(tempfile::tempdir().unwrap(), limits).await;
    server.session("s", &["hello"]).await;
    let slow = begin(&server, "POST", "/sessions/s/messages", 10 << 20).await;
    // When it is read, its bytes are reserved: as soon as a page finds no room.
    let refused = soon(async {
        loop {
            let answer = server.get("/sessions/s/messages").await;
            if answer.status != 200 {
                return answer;
            }
        }
    });
    let refused = refused.await;
    assert_eq!((refused.code(), refused.headers["retry-after"].to_str().unwrap()), ((503, "overloaded"), "1"));
    let long = json!({ "messages": [{ "role": "user", "content": "x".repeat(4 << 20) }] });
    let refused = server.post("/sessions/s/messages", long).await;
    assert_eq!(refused.code(), (503, "overloaded"), "a client that still sends reads why");
    let answer = server.post("/sessions", json!({ "id": "small" })).await;
    assert_eq!(answer.status, 201, "what is small finds room: {answer:?}");
    assert_eq!(server.get("/health").await.status, 200, "what takes nothing needs none");
    drop(slow);
    let answered = soon(async { while server.get("/sessions/s/messages").await.status != 200 {} });
    answered.await;
    // More than all there is: alone, it is taken.
    let tight = Server::start_with(tempfile::tempdir().unwrap(), Limits { in_flight: 1 << 10, ..limits }).await;
    tight.session("s", &["hello"]).await;
    assert_eq!(tight.get("/sessions/s/messages").await.body["messages"][0]["content"], "hello");
}

#[tokio::test]
async fn pages_end_at_eight_mebibytes_and_say_so() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let text = "x".repeat(3 << 20);
    for _ in 0..4 {
        let body = json!({ "messages": [{ "role": "user", "content": text }] });
        assert_eq!(server.post("/sessions/s/messages", body).await.status, 201);
        let tasks = json!({ "task_list": { "items": [text] } });
        assert_eq!(server.post("/sessions", tasks).await.status, 201);
    }
    let page = server.get("/sessions/s/messages?limit=1000").await.body;
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["has_more_after"]), (2, &json!(true)));
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let list = server.get(&format!("/sessions?limit=100{cursor}")).await.body;
        seen.push(list["sessions"].as_array().unwrap().len());
        match list["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((seen.iter().sum::<usize>(), seen.iter().max()), (5, Some(&3)), "{seen:?}");
}

#[tokio::test]
async fn polls_without_a_token_lock_no_user_out() {
    let server = Server::start().await;
    let poll = async || {
        let mut stream = connect(&server).await;
        let request = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    };
    let mut user = connect(&server).await;
    let request =
        format!("GET /api/v1/sessions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\n\r\n", server.address);
    let mut ask = async || {
        user.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = user.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "the connection of a user stays");
    };
    ask().await;
    let mut polls = Vec::new();
    for _ in 0..300 {
        polls.push(poll().await);
    }
    ask().await;
    assert_eq!(server.get("/sessions").await.status, 200, "a new connection finds room, too");
    // The first have given way: their connections are at an end.
    for stream in &mut polls[..40] {
        soon(stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
}

/// Holds the one thread that may block, until the sender is dropped.
async fn hold_the_pool() -> oneshot::Sender<()> {
    let ((release, released), (say, held)) = (oneshot::channel::<()>(), oneshot::channel());
    std::mem::drop(tokio::task::spawn_blocking(move || {
        let _ = say.send(());
        let _ = released.blocking_recv();
    }));
    held.await.unwrap();
    release
}

#[test]
fn small_requests_are_answered_beside_all_that_takes_long() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(beside_what_takes_long());
}

async fn beside_what_takes_long() {
    let server = Server::start().await;
    server.session("s", &["hello"]).await;
    let long = "x".repeat(1 << 20);
    let message = |id: &str| json!({ "messages": [{ "id": id, "role": "user", "content": long }] });
    assert_eq!(server.post("/sessions/s/messages", message("m")).await.status, 201);
    let post = |path: &str, body: Value| server.request(Method::POST, path).json(&body);
    let image = json!({ "data": "QUJD".repeat(200 << 10), "mime_type": "image/png" });
    let works = [
        ("a body is read", post("/sessions/s/messages", message("n"))),
        ("a body is hashed", post("/sessions/s/messages", message("o")).header("idempotency-key", "k")),
        ("a message is written", server.request(Method::GET, "/sessions/s/messages/m")),
        ("a page is written", server.request(Method::GET, "/sessions/s/messages?before=9")),
        ("base64 is read", post("/sessions/s/attachments", image)),
        ("an upload is hashed", server.request(Method::POST, "/sessions/s/attachments").body(long.clone())),
    ];
    for (what, request) in works {
        let release = hold_the_pool().await;
        let mut work = std::pin::pin!(server.send(request));
        for _ in 0..20 {
            let small = server.get("/sessions/s");
            tokio::select! {
                biased;
                answer = &mut work => panic!("{what} on a worker: {:?}", answer.status),
                answer = small => assert_eq!(answer.status, 200),
            }
        }
        drop(release);
        let answer = tokio::time::timeout(Duration::from_secs(60), work).await.unwrap();
        assert!(answer.status.is_success(), "{what}: {:?}", answer.status);
    }
}
