//! Attachments over HTTP, with a hostile eye on headers.

use culm::model::Limits;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Answer, Server, client::TOKEN};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and then what is in it";

/// A server with a session `s`, where an attachment has 1000 bytes at most.
async fn server() -> Server {
    let limits = Limits { attachment: 1000, ..Limits::default() };
    let server = Server::start_with(tempfile::tempdir().unwrap(), limits).await;
    server.session("s", &[]).await;
    server
}

async fn upload(server: &Server, mime_type: &str, headers: &[(&str, &str)], bytes: &[u8]) -> Answer {
    let request = server.request(Method::POST, "/sessions/s/attachments").header("content-type", mime_type);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    server.send(request.body(bytes.to_vec())).await
}

/// The id of an attachment that was taken.
async fn stored(server: &Server, mime_type: &str, bytes: &[u8]) -> String {
    let answer = upload(server, mime_type, &[], bytes).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["attachment"]["id"].as_str().unwrap().into()
}

async fn download(server: &Server, id: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.request(Method::GET, &format!("/sessions/s/attachments/{id}"));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn raw_bytes_come_back_as_they_were() {
    let server = server().await;
    let disposition = ("content-disposition", "attachment; filename=\"x\"; filename*=UTF-8''na%C3%AFve%20a.png");
    let answer = upload(&server, "image/png", &[disposition], PNG).await;
    let attachment = &answer.body["attachment"];
    let id = attachment["id"].as_str().unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(attachment["url"], format!("attachment://s/{id}"));
    assert_eq!((&attachment["size"], &attachment["filename"]), (&json!(PNG.len()), &json!("naïve a.png")));
    let response = download(&server, id, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "image/png");
    assert_eq!(header(&response, "content-length"), PNG.len().to_string());
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert_eq!(header(&response, "etag"), format!("\"{}\"", attachment["sha256"].as_str().unwrap()));
    let disposition = header(&response, "content-disposition");
    assert_eq!(disposition, "inline; filename=\"na_ve_a.png\"; filename*=UTF-8''na%C3%AFve%20a.png");
    assert_eq!(response.bytes().await.unwrap(), PNG);
    assert_eq!(server.get("/sessions/s").await.body["session"]["attachment_bytes"], PNG.len());
}

#[tokio::test]
async fn json_holds_base64_or_a_data_url() {
    let server = server().await;
    let cases = [
        (json!({ "data": "aGVsbG8=" }), "application/octet-stream"),
        (json!({ "data": "aGVs\nbG8", "mime_type": "text/plain", "filename": "a.txt" }), "text/plain"),
        (json!({ "data": "data:text/html;base64,aGVsbG8=" }), "text/html"),
        (json!({ "data": "data:text/html,hel%6Co", "mime_type": "image/png" }), "image/png"),
    ];
    for (body, mime_type) in cases {
        let answer = server.post("/sessions/s/attachments", body).await;
        let attachment = &answer.body["attachment"];
        assert_eq!((answer.status.as_u16(), attachment["mime_type"].as_str()), (201, Some(mime_type)));
        let response = download(&server, attachment["id"].as_str().unwrap(), &[]).await;
        assert_eq!(response.bytes().await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_json_file_goes_raw() {
    let server = server().await;
    let request = server.request(Method::POST, "/sessions/s/attachments?raw=true").json(&json!({ "any": "thing" }));
    let answer = server.send(request).await;
    let response = download(&server, answer.body["attachment"]["id"].as_str().unwrap(), &[]).await;
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(response.text().await.unwrap(), r#"{"any":"thing"}"#);
}

/// Whatever a client says of its bytes: nothing may run, nothing may be guessed, only true images are shown.
#[tokio::test]
async fn no_stored_byte_runs_in_a_browser() {
    let server = server().await;
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>".as_slice();
    let html = b"<!doctype html><script>alert(1)</script>".as_slice();
    let pdf = b"%PDF-1.7 and a script".as_slice();
    let files = [
        ("image/svg+xml", svg, false),
        ("image/png", svg, false),
        ("text/html", html, false),
        ("image/png", html, false),
        ("text/html", PNG, false),
        ("application/pdf", pdf, false),
        ("application/xhtml+xml", html, false),
        ("text/plain", html, false),
        ("image/gif", PNG, false),
        ("image/png", PNG, true),
        ("image/gif", b"GIF89a", true),
    ];
    for (mime_type, bytes, shown) in files {
        let id = stored(&server, mime_type, bytes).await;
        for range in [None, Some(("range", "bytes=0-0"))] {
            let response = download(&server, &id, range.as_slice()).await;
            assert_eq!(header(&response, "x-content-type-options"), "nosniff");
            assert_eq!(
                header(&response, "content-security-policy"),
                "default-src 'none'; sandbox; frame-ancestors 'none'"
            );
            assert_eq!(header(&response, "cross-origin-resource-policy"), "same-origin");
            let disposition = if shown { "inline" } else { "attachment" };
            assert_eq!(header(&response, "content-disposition"), disposition, "{mime_type} {bytes:?}");
        }
    }
}

#[tokio::test]
async fn parts_are_sent_as_ranges_ask_for_them() {
    let server = server().await;
    let bytes: Vec<u8> = (0..=255).collect();
    let id = stored(&server, "application/x-test", &bytes).await;
    let parts = [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=250-", 250, 255),
        ("bytes=-6", 250, 255),
        ("bytes=200-9999", 200, 255),
    ];
    for (range, first, last) in parts {
        let response = download(&server, &id, &[("range", range)]).await;
        assert_eq!(response.status(), 206, "{range}");
        assert_eq!(header(&response, "content-range"), format!("bytes {first}-{last}/256"));
        assert_eq!(header(&response, "content-length"), (last - first + 1).to_string());
        assert_eq!(response.bytes().await.unwrap(), bytes[first..=last]);
    }
    for range in ["bytes=256-", "bytes=300-400"] {
        let answer = download(&server, &id, &[("range", range)]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-range")), (416, "bytes */256"), "{range}");
    }
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=9-1", "bytes=a-b"] {
        let response = download(&server, &id, &[("range", range)]).await;
        assert!(matches!(response.status().as_u16(), 200 | 416), "{range}");
    }
}

#[tokio::test]
async fn conditions_save_the_bytes() {
    let server = server().await;
    let id = stored(&server, "image/png", PNG).await;
    let etag = header(&download(&server, &id, &[]).await, "etag").to_owned();
    for known in [etag.clone(), "*".into(), format!("\"other\", W/{etag}")] {
        let response = download(&server, &id, &[("if-none-match", &known)]).await;
        assert_eq!((response.status().as_u16(), header(&response, "etag")), (304, etag.as_str()));
        assert!(response.bytes().await.unwrap().is_empty());
    }
    assert_eq!(download(&server, &id, &[("if-none-match", "\"other\"")]).await.status(), 200);
    let of_this = download(&server, &id, &[("range", "bytes=0-1"), ("if-range", &etag)]).await;
    let of_another = download(&server, &id, &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
    assert_eq!((of_this.status().as_u16(), of_another.status().as_u16()), (206, 200));
    let head = server.request(Method::HEAD, &format!("/sessions/s/attachments/{id}")).send().await.unwrap();
    assert_eq!((header(&head, "content-length"), header(&head, "etag")), (&*PNG.len().to_string(), &*etag));
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn attachments_belong_to_one_session() {
    let server = server().await;
    let id = stored(&server, "image/png", PNG).await;
    server.session("other", &[]).await;
    let elsewhere = format!("/sessions/other/attachments/{id}");
    assert_eq!(server.get(&elsewhere).await.code(), (404, "attachment_not_found"));
    assert_eq!(server.delete(&elsewhere).await.code(), (404, "attachment_not_found"));
    assert_eq!(server.get(&format!("/sessions/nobody/attachments/{id}")).await.code(), (404, "session_not_found"));
    assert_eq!(server.get("/sessions/nobody/attachments").await.code(), (404, "session_not_found"));
    let listed = server.get("/sessions/s/attachments").await;
    assert_eq!(listed.body["attachments"][0]["id"], id.as_str());
    let here = format!("/sessions/s/attachments/{id}");
    assert_eq!(server.delete(&here).await.status, 200);
    assert_eq!(server.delete(&here).await.code(), (404, "attachment_not_found"));
    assert_eq!(server.get(&here).await.code(), (404, "attachment_not_found"));
    assert_eq!(server.delete("/sessions/s").await.status, 200);
    assert_eq!(upload(&server, "image/png", &[], PNG).await.code(), (410, "session_deleted"));
}

async fn is_empty(server: &Server) {
    let listed = server.get("/sessions/s/attachments").await;
    assert_eq!(listed.body["attachments"], json!([]));
    assert_eq!(server.get("/sessions/s").await.body["session"]["attachment_bytes"], 0);
}

#[tokio::test]
async fn what_is_no_attachment_is_refused_and_leaves_nothing() {
    let server = server().await;
    for form in ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "no type"] {
        assert_eq!(upload(&server, form, &[], b"x").await.code(), (415, "unsupported_media_type"), "{form}");
    }
    let packed = upload(&server, "image/png", &[("content-encoding", "gzip")], PNG).await;
    assert_eq!(packed.code(), (415, "unsupported_media_type"));
    for disposition in ["attachment; filename", "attachment; filename=\"\"", "attachment; filename*=UTF-8''a%0Ab"] {
        let answer = upload(&server, "image/png", &[("content-disposition", disposition)], PNG).await;
        assert_eq!(answer.body["param"], "Content-Disposition", "{disposition}");
    }
    assert_eq!(upload(&server, "image/png", &[], b"").await.code(), (400, "invalid_request"));
    assert_eq!(upload(&server, "image/png", &[], &[0; 1001]).await.code(), (413, "payload_too_large"));
    let bodies = [
        (json!({ "data": "not base64!" }), (422, "invalid_content")),
        (json!({ "data": "data:image/png;base64,!" }), (422, "invalid_content")),
        (json!({ "data": "" }), (400, "invalid_request")),
        (json!({ "data": "A".repeat(1400) }), (413, "payload_too_large")),
        (json!({ "data": "aGk=", "mime_type": "no type" }), (400, "invalid_request")),
        (json!({ "data": "aGk=", "filename": "a\nb" }), (400, "invalid_request")),
        (json!({ "data": "aGk=", "unknown": 1 }), (400, "invalid_request")),
        (json!({}), (400, "invalid_request")),
    ];
    for (body, code) in bodies {
        assert_eq!(server.post("/sessions/s/attachments", body.clone()).await.code(), code, "{body}");
    }
    is_empty(&server).await;
}

/// Sends a head and a body as they are; what comes back, if anything does. A client that leaves sends no more.
async fn sent(server: &Server, framing: &str, body: &[u8], leaves: bool) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST /api/v1/sessions/s/attachments HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: image/png\r\nConnection: close\r\n{framing}\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    if leaves {
        stream.shutdown().await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap_or_default();
    answer
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_lies_about_its_length_leaves_nothing() {
    let server = server().await;
    for framing in ["Content-Length: 500", "Transfer-Encoding: chunked"] {
        let answer = sent(&server, framing, b"5\r\nhello\r\n", true).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let too_much = format!("{:x}\r\n{}\r\n0\r\n\r\n", 1001, "x".repeat(1001));
    let answer = sent(&server, "Transfer-Encoding: chunked", too_much.as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = sent(&server, "Content-Length: 5", b"hello and more", false).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "what is sent beyond the length is no part of it: {answer}");
    let listed = server.get("/sessions/s/attachments").await;
    assert_eq!(listed.body["attachments"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed.body["attachments"][0]["size"], 5);
}
