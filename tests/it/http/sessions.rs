//! Sessions over HTTP: what a client of the API sees of them.

use culm::{
    model::{NewMessage, NewSession, Role, Timestamp},
    storage::Storage,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::Server;

fn ids(body: &Value) -> Vec<&str> {
    body["sessions"].as_array().unwrap().iter().map(|session| session["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_session_is_created_read_changed_and_deleted() {
    let server = Server::start().await;
    let created = server
        .post("/sessions", json!({ "id": "a b", "title": " Fix it ", "system_prompt": "Be brief.", "metadata": { "k": "v", "w": "x" } }))
        .await;
    assert_eq!(created.status, 201);
    assert_eq!(created.headers["location"], "/api/v1/sessions/a%20b");
    let read = server.get("/sessions/a%20b").await;
    assert_eq!((&read.body, &read.headers["etag"]), (&created.body, &created.headers["etag"]));
    assert_eq!((&read.body["session"]["title"], &read.body["session"]["message_count"]), (&json!("Fix it"), &json!(1)));
    let etag = read.headers["etag"].clone();
    let same = server.send(server.request(Method::GET, "/sessions/a%20b").header("if-none-match", &etag)).await;
    assert_eq!(same.status, 304);

    let change = json!({ "pinned": true, "metadata": { "k": null, "n": "1" } });
    let patched =
        server.send(server.request(Method::PATCH, "/sessions/a%20b").header("if-match", &etag).json(&change)).await;
    assert_eq!(patched.status, 200);
    assert_eq!(patched.body["session"]["metadata"], json!({ "w": "x", "n": "1" }));
    let stale =
        server.send(server.request(Method::PATCH, "/sessions/a%20b").header("if-match", &etag).json(&change)).await;
    assert_eq!(stale.code(), (412, "version_conflict"));
    assert_eq!(stale.body["version"], patched.body["session"]["version"]);
    let version = patched.body["session"]["version"].as_i64().unwrap();
    let any_of = async |tags: String| {
        let rename = server.request(Method::PATCH, "/sessions/a%20b").header("if-match", tags).json(&json!({}));
        server.send(rename).await.status.as_u16()
    };
    assert_eq!(any_of(format!("\"x\", \"{}\",\"{version}\"", version - 1)).await, 200);
    assert_eq!(any_of(format!("\"x\", \"{}\"", version - 1)).await, 412);
    let nothing = server.patch("/sessions/a%20b", json!({})).await;
    assert_eq!(nothing.body, patched.body);

    assert_eq!(server.delete("/sessions/a%20b?force=false").await.code(), (409, "session_pinned"));
    let delete = server.request(Method::DELETE, "/sessions/a%20b").header("prefer", "return=representation");
    let receipt = server.send(delete).await;
    assert_eq!(receipt.body["deleted"], json!({ "sessions": 1, "messages": 1, "attachments": 0, "runs": 0 }));
    assert_eq!(receipt.headers["preference-applied"], "return=representation");
    assert_eq!(server.get("/sessions/a%20b").await.code(), (404, "session_not_found"));
    assert_eq!(server.delete("/sessions/a%20b").await.code(), (404, "session_not_found"));
}

/// Also over a restart: nothing brings a deleted id back.
#[tokio::test]
async fn a_deleted_tree_stays_deleted() {
    let server = Server::start().await;
    server.session("root", &["a", "b"]).await;
    let child = NewSession {
        id: Some("child".parse().unwrap()),
        parent: Some("root".parse().unwrap()),
        ..NewSession::default()
    };
    server.repository.create_session(child, None).await.unwrap();
    let mut late = server.repository.load(&"child".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(server.get("/sessions/root/tree").await.body["root"]["children"][0]["id"], "child");
    assert_eq!(server.get("/sessions/child").await.status, 200);
    let minimal = server.request(Method::DELETE, "/sessions/root").header("prefer", "wait=5, return=minimal");
    let minimal = server.send(minimal).await;
    assert_eq!((minimal.status.as_u16(), &minimal.body), (204, &Value::Null));
    assert_eq!(minimal.headers["preference-applied"], "return=minimal");
    late.messages.push(NewMessage::text(Role::User, "late").into_message(1, Timestamp::now()));
    assert!(server.repository.save(&mut late).await.is_err());

    let server = server.restart().await;
    for id in ["root", "child"] {
        let append = json!({ "messages": [{ "role": "user", "content": "late" }] });
        assert_eq!(server.post(&format!("/sessions/{id}/messages"), append).await.code(), (410, "session_deleted"));
        assert_eq!(server.post("/sessions", json!({ "id": id })).await.code(), (410, "session_deleted"));
        assert_eq!(
            server.patch(&format!("/sessions/{id}"), json!({ "title": "x" })).await.code(),
            (410, "session_deleted")
        );
        assert_eq!(server.get(&format!("/sessions/{id}")).await.code(), (404, "session_not_found"));
    }
    assert_eq!(ids(&server.get("/sessions?kind=all&archived=all").await.body), Vec::<&str>::new());
}

#[tokio::test]
async fn lists_are_paged_by_a_cursor_that_holds_its_filters() {
    let server = Server::start().await;
    for place in 0..5 {
        server
            .post("/sessions", json!({ "id": format!("s{place}"), "title": format!("Fix {place}"), "model": "m" }))
            .await;
    }
    let first = server.get("/sessions?model=m&limit=2&order=created").await;
    assert_eq!(ids(&first.body), ["s4", "s3"]);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    // A newer one does not shift the pages.
    server.post("/sessions", json!({ "id": "new", "model": "m" })).await;
    let second = server.get(&format!("/sessions?limit=2&cursor={cursor}")).await;
    assert_eq!(ids(&second.body), ["s2", "s1"]);
    let other = server.get(&format!("/sessions?model=other&cursor={cursor}")).await;
    assert_eq!(other.code(), (400, "invalid_cursor"));
    let damaged = server.get(&format!("/sessions?cursor={}", &cursor[1..])).await;
    assert_eq!(damaged.code(), (400, "invalid_cursor"));
    let last = server.get(&format!("/sessions?limit=2&cursor={}", second.body["next_cursor"].as_str().unwrap())).await;
    assert_eq!((ids(&last.body), &last.body["next_cursor"]), (vec!["s0"], &Value::Null));
    assert_eq!(ids(&server.get("/sessions?q=fix%203").await.body), ["s3"]);
    let unfiltered = server.get("/sessions?limit=1").await.body["next_cursor"].as_str().unwrap().to_owned();
    let elsewhere = server.get(&format!("/sessions/s1/usage?cursor={unfiltered}")).await;
    assert_eq!(elsewhere.code(), (400, "invalid_cursor"));
}

#[tokio::test]
async fn a_key_makes_a_creation_happen_once() {
    let server = Server::start().await;
    let create = |body: Value| server.request(Method::POST, "/sessions").header("idempotency-key", "k1").json(&body);
    let first = server.send(create(json!({ "title": "once" }))).await;
    let server_side = server
        .patch(&format!("/sessions/{}", first.body["session"]["id"].as_str().unwrap()), json!({ "title": "later" }))
        .await;
    let again = server.send(create(json!({ "title": "once" }))).await;
    assert_eq!((again.status.as_u16(), &again.headers["idempotency-replayed"]), (201, &"true".parse().unwrap()));
    assert_eq!(again.body, server_side.body);
    assert_eq!(server.send(create(json!({ "title": "other" }))).await.code(), (422, "idempotency_key_reused"));

    let server = server.restart().await;
    let create =
        |key: &str, body: Value| server.request(Method::POST, "/sessions").header("idempotency-key", key).json(&body);
    assert_eq!(server.send(create("k1", json!({ "title": "once" }))).await.body, server_side.body);
    assert_eq!(ids(&server.get("/sessions").await.body).len(), 1);
    let id = first.body["session"]["id"].as_str().unwrap();
    server.delete(&format!("/sessions/{id}")).await;
    assert_eq!(server.send(create("k1", json!({ "title": "once" }))).await.code(), (410, "session_deleted"));

    // A refusal is kept too; and a session with its own id and the same content needs no key.
    server.session("taken", &[]).await;
    let refused = server.send(create("k2", json!({ "id": "taken", "title": "other" }))).await;
    assert_eq!(refused.code(), (409, "session_exists"));
    server.delete("/sessions/taken").await;
    assert_eq!(
        server.send(create("k2", json!({ "id": "taken", "title": "other" }))).await.code(),
        (409, "session_exists")
    );
    for _ in 0..2 {
        assert_eq!(server.post("/sessions", json!({ "id": "mine", "title": "same" })).await.status, 201);
    }
    assert_eq!(
        server.post("/sessions", json!({ "id": "mine", "title": "another" })).await.code(),
        (409, "session_exists")
    );
    // With a key all the same, the key is taken.
    assert_eq!(server.send(create("k3", json!({ "id": "mine", "title": "same" }))).await.status, 201);
    assert_eq!(server.send(create("k3", json!({ "id": "mine2" }))).await.code(), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn a_tag_that_no_version_had_matches_none() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    let patch = |tag: &'static str| {
        let request = server.request(Method::PATCH, "/sessions/s").header("if-match", tag);
        server.send(request.json(&json!({ "title": tag })))
    };
    assert_eq!(patch("\"of another server\"").await.code(), (412, "version_conflict"));
    assert_eq!(patch("*").await.status, 200);
    let prefer = server.request(Method::DELETE, "/sessions/s?discard_worktree=true");
    let receipt = server.send(prefer.header("prefer", "respond-async, return=representation; wait=1")).await;
    assert_eq!(receipt.body["deleted"]["sessions"], 1);
}

#[tokio::test]
async fn a_title_changed_while_an_older_copy_is_saved_survives_and_so_do_messages() {
    let server = Server::start().await;
    server.session("s", &["one"]).await;
    let mut held = server.repository.load(&"s".parse().unwrap()).await.unwrap().unwrap();
    server.patch("/sessions/s", json!({ "title": "theirs" })).await;
    server.post("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": "between" }] })).await;
    held.session.title = "mine".into();
    held.session.model = Some("m".into());
    held.messages.push(NewMessage::text(Role::Assistant, "late").into_message(0, Timestamp::now()));
    server.repository.save(&mut held).await.unwrap();
    let session = server.get("/sessions/s").await.body["session"].clone();
    assert_eq!((&session["title"], &session["model"]), (&json!("theirs"), &json!("m")));
    let messages = server.get("/sessions/s/messages").await.body["messages"].clone();
    let texts: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(texts, ["one", "between", "late"]);
}

#[tokio::test]
async fn clear_and_cleanup_say_what_they_did() {
    let server = Server::start().await;
    server.post("/sessions", json!({ "id": "s", "system_prompt": "p", "task_list": { "items": [] } })).await;
    server.post("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": "x" }] })).await;
    let cleared = server.post("/sessions/s/clear", json!({})).await;
    assert_eq!(
        cleared.body,
        json!({ "success": true, "session_id": "s", "messages_removed": 1, "attachments_removed": 0 })
    );
    assert_eq!(server.get("/sessions/s").await.body["session"].get("task_list"), None);
    server.session("full", &["x"]).await;
    let dry = server.post("/sessions/cleanup", json!({ "mode": "empty", "dry_run": true })).await;
    assert_eq!((&dry.body["deleted_session_ids"], &dry.body["dry_run"]), (&json!(["s"]), &json!(true)));
    let done = server.post("/sessions/cleanup", json!({ "mode": "empty" })).await;
    assert_eq!((&done.body["deleted_count"], &done.body["deleted_session_ids"]), (&json!(1), &json!(["s"])));
    assert_eq!(ids(&server.get("/sessions").await.body), ["full"]);
}

#[tokio::test]
async fn the_usage_log_keeps_what_it_was_given() {
    let server = Server::start().await;
    server.session("s", &[]).await;
    for tokens in 1..4 {
        assert_eq!(server.post("/sessions/s/usage", json!({ "record": { "tokens": tokens } })).await.status, 201);
    }
    let page = server.get("/sessions/s/usage?limit=2").await;
    let next = server.get(&format!("/sessions/s/usage?cursor={}", page.body["next_cursor"].as_str().unwrap())).await;
    assert_eq!(page.body["usage"][1]["record"], json!({ "tokens": 2 }));
    assert_eq!((next.body["usage"].as_array().unwrap().len(), &next.body["next_cursor"]), (1, &Value::Null));
}
