//! Who is let in, and what heads are taken.

use culm::storage::Storage;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Server, client::TOKEN};
use crate::support::client;

#[tokio::test]
async fn every_call_that_holds_data_asks_for_the_token() {
    let server = Server::start().await;
    let client = client();
    for path in ["/sessions", "/sessions/s", "/nothing/here"] {
        for token in [None, Some("wrong"), Some("")] {
            let request = client.request(Method::GET, server.url(path));
            let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
            assert_eq!(server.send(request).await.code(), (401, "unauthorized"));
        }
    }
    for path in ["/health", "/ready", "/docs", "/api/v1/openapi.json"] {
        let answer = client.get(format!("http://{}{path}", server.address)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let document = client.get(format!("http://{}/api/v1/openapi.json", server.address)).send().await.unwrap();
    let document: serde_json::Value = document.json().await.unwrap();
    for (path, security) in [("/health", json!([{}])), ("/ready", json!([{}])), ("/api/v1/sessions", json!(null))] {
        assert_eq!(document["paths"][path]["get"]["security"], security, "{path}");
    }
    let headers = document["paths"]["/api/v1/sessions"]["post"]["parameters"].to_string();
    assert!(headers.contains("Idempotency-Key"), "{headers}");
}

#[tokio::test]
async fn a_server_that_cannot_write_lives_and_is_not_ready() {
    let server = Server::start().await;
    assert_eq!(server.get("/ready").await.status, 200);
    server.repository.close().await;
    assert_eq!(server.get("/ready").await.code(), (503, "storage_busy"));
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn another_host_or_origin_is_forbidden() {
    let server = Server::start().await;
    let port = server.address.rsplit(':').next().unwrap();
    let evil = [
        ("host", "evil.example".to_owned()),
        ("host", format!("127.0.0.1.evil.example:{port}")),
        ("origin", "null".into()),
        ("origin", "http://localhost:1".into()),
        ("origin", format!("http://{}.evil.example", server.address)),
    ];
    for (name, value) in evil {
        let answer = server.send(server.request(Method::GET, "/sessions").header(name, value.clone())).await;
        assert_eq!(answer.code(), (403, "forbidden"), "{name}: {value}");
    }
    let own = server.request(Method::GET, "/sessions").header("origin", format!("http://{}", server.address));
    assert_eq!(server.send(own).await.status, 200);
}

#[tokio::test]
async fn a_browser_is_led_to_the_documentation_which_loads_nothing_from_elsewhere() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let root = client.get(format!("http://{}/", server.address)).send().await.unwrap();
    assert_eq!((root.status().as_u16(), root.headers()["location"].to_str().unwrap()), (307, "/docs"));
    let icon = client.get(format!("http://{}/favicon.ico", server.address)).send().await.unwrap();
    assert_eq!(icon.status(), 204);
    let page = client.get(format!("http://{}/docs", server.address)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("hideDownloadButton: true"), "the button over what a link leads to");
    assert!(page.contains("withDefaultFonts: false") && !page.contains("fonts.scalar.com"));
    assert!(!page.contains(".introduction-card > :first-child:before"), "the picture over the box of servers");
}

#[test]
fn a_name_without_a_port_is_allowed_at_every_port() {
    let access = culm::http::Access::new(None, ["culm.example".to_owned(), "other.example:8080".to_owned()]);
    for host in ["culm.example", "culm.example:9562", "CULM.example:443", "other.example:8080"] {
        assert!(access.allows_host(host), "{host}");
    }
    for host in ["culm.example.evil:9562", "other.example", "other.example:1", "culm.example:x", ""] {
        assert!(!access.allows_host(host), "{host}");
    }
}

/// Sends bytes as they are, and reads what comes until the server closes.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn two_hosts_no_host_and_too_many_headers_are_refused() {
    let server = Server::start().await;
    let head = |lines: &str| {
        format!("GET /api/v1/sessions HTTP/1.1\r\n{lines}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n")
    };
    let host = format!("Host: {}\r\n", server.address);
    assert!(raw(&server, head(&host).as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert!(raw(&server, head("").as_bytes()).await.starts_with("HTTP/1.1 4"));
    assert!(raw(&server, head(&format!("{host}Host: evil\r\n")).as_bytes()).await.starts_with("HTTP/1.1 403"));
    let many: String = (0..120).map(|place| format!("X-{place}: 1\r\n")).collect();
    assert!(raw(&server, head(&format!("{host}{many}")).as_bytes()).await.starts_with("HTTP/1.1 431"));
    let large = format!("{host}X-Large: {}\r\n", "x".repeat(200 << 10));
    let answer = raw(&server, head(&large).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn a_request_id_is_taken_or_made() {
    let server = Server::start().await;
    let brought = server.send(server.request(Method::GET, "/sessions").header("x-request-id", "mine-1")).await;
    assert_eq!(brought.headers["x-request-id"], "mine-1");
    let unfit = server.send(server.request(Method::GET, "/sessions").header("x-request-id", "a b")).await;
    assert_ne!(unfit.headers["x-request-id"], "a b");
}
