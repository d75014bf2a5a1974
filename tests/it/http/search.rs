//! Search over HTTP: parameters, cursors, the shape of a hit, and whatever a person can type.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Server};

async fn search(server: &Server, parameters: &[(&str, &str)]) -> Answer {
    server.send(server.request(Method::GET, "/search").query(parameters)).await
}

fn messages(answer: &Answer) -> Vec<&str> {
    let hits = answer.body["hits"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    hits.iter().map(|hit| hit["snippet"]["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_hit_shows_its_session_its_message_and_its_place() {
    let server = Server::start().await;
    server.post("/sessions", json!({ "id": "s", "title": "Talk", "pinned": true })).await;
    server
        .post(
            "/sessions/s/messages",
            json!({ "messages": [{ "id": "m", "role": "user", "content": "修复数据库 now" }] }),
        )
        .await;
    let answer = search(&server, &[("q", "数据")]).await;
    let message = server.get("/sessions/s/messages/m").await.body["message"].clone();
    let session = server.get("/sessions/s").await.body["session"].clone();
    let wanted = json!({ "hits": [{
        "type": "message",
        "session": { "id": "s", "title": "Talk", "kind": "root", "root_session_id": "s", "pinned": true, "updated_at": session["updated_at"] },
        "message": { "id": "m", "seq": 1, "role": "user", "created_at": message["created_at"] },
        "snippet": { "text": "修复数据库 now", "ranges": [[2, 4]] },
        "score": answer.body["hits"][0]["score"],
    }], "bounded": false, "relaxed": false, "next_cursor": null });
    assert_eq!(answer.body, wanted);
    let around = server.get("/sessions/s/messages?around=1").await;
    assert_eq!(around.body["messages"][0]["id"], "m");
    let title = search(&server, &[("q", "talk")]).await;
    assert_eq!((&title.body["hits"][0]["type"], title.body["hits"][0].get("message")), (&json!("session"), None));
}

#[tokio::test]
async fn each_parameter_is_taken_and_no_other() {
    let server = Server::start().await;
    server.session("s", &["a word"]).await;
    for (name, value) in [
        ("session", "s"),
        ("root", "s"),
        ("role", "user"),
        ("kind", "root"),
        ("kind", "all"),
        ("pinned", "false"),
        ("archived", "false"),
        ("archived", "all"),
        ("after", "2020-01-01T00:00:00Z"),
        ("before", "2100-01-01T00:00:00Z"),
        ("in", "reasoning"),
        ("in", "tools"),
        ("in", "reasoning,tools"),
        ("order", "relevance"),
        ("order", "newest"),
        ("group", "session"),
        ("limit", "1"),
    ] {
        let answer = search(&server, &[("q", "word"), (name, value)]).await;
        assert_eq!((answer.status.as_u16(), messages(&answer)), (200, vec!["a word"]), "{name}={value}");
    }
    for (name, value) in [
        ("session", "a/b"),
        ("role", "nobody"),
        ("kind", "tree"),
        ("pinned", "maybe"),
        ("archived", "x"),
        ("after", "yesterday"),
        ("in", "content"),
        ("order", "oldest"),
        ("group", "tree"),
        ("limit", "0"),
        ("limit", "201"),
        ("query", "word"),
        ("offset", "1"),
    ] {
        let answer = search(&server, &[("q", "word"), (name, value)]).await;
        assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!(name)), "{name}={value}");
    }
    let twice = search(&server, &[("q", "word"), ("q", "other")]).await;
    assert_eq!((twice.code(), &twice.body["param"]), ((400, "invalid_request"), &json!("q")));
}

#[tokio::test]
async fn only_a_blank_query_and_one_of_too_many_terms_are_refused() {
    let server = Server::start().await;
    server.session("s", &["a word"]).await;
    let words = |count: usize| vec!["word"; count].join(" ");
    for q in ["", " ", "\t\n", "\u{3000}", &words(33)] {
        let answer = search(&server, &[("q", q)]).await;
        assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!("q")), "{q:?}");
    }
    assert_eq!(search(&server, &[("order", "newest")]).await.body["param"], "q");
    for q in ["-word", "***", "\"", "-", "\u{0}", "🎉", "->"] {
        let answer = search(&server, &[("q", q)]).await;
        assert_eq!((answer.status.as_u16(), &answer.body["hits"]), (200, &json!([])), "{q:?}");
    }
    for q in [&words(32), &format!("{} ++ -- !!", words(32)), "word\tword\n", "word\u{0}"] {
        assert_eq!(messages(&search(&server, &[("q", q)]).await), ["a word"], "{q:?}");
    }
}

#[tokio::test]
async fn a_cursor_holds_its_query_and_is_for_no_other() {
    let server = Server::start().await;
    server.session("s", &["word 1", "word 2", "word 3", "word 4", "word 5"]).await;
    for order in ["newest", "relevance"] {
        let first = search(&server, &[("q", "word"), ("order", order), ("limit", "2")]).await;
        assert_eq!(messages(&first), ["word 5", "word 4"]);
        let cursor = first.body["next_cursor"].as_str().unwrap();
        server
            .post(
                "/sessions/s/messages",
                json!({ "messages": [{ "role": "user", "content": format!("word {order}") }] }),
            )
            .await;
        let second = search(&server, &[("limit", "2"), ("cursor", cursor)]).await;
        assert_eq!(messages(&second), ["word 3", "word 2"]);
        let other = search(&server, &[("q", "other"), ("cursor", cursor)]).await;
        assert_eq!(other.code(), (400, "invalid_cursor"));
        let damaged = search(&server, &[("cursor", &cursor[1..])]).await;
        assert_eq!(damaged.code(), (400, "invalid_cursor"));
        let list = server.get("/sessions?limit=1").await;
        if let Some(foreign) = list.body["next_cursor"].as_str() {
            assert_eq!(search(&server, &[("cursor", foreign)]).await.code(), (400, "invalid_cursor"));
        }
        let last = search(&server, &[("cursor", second.body["next_cursor"].as_str().unwrap())]).await;
        assert_eq!((messages(&last), &last.body["next_cursor"]), (vec!["word 1"], &Value::Null));
        for hit in server.get("/sessions/s/messages?after=5").await.body["messages"].as_array().unwrap() {
            server.delete(&format!("/sessions/s/messages/{}", hit["id"].as_str().unwrap())).await;
        }
    }
}

/// What a keyboard gives, and what FTS5 takes for its own.
fn typed() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let piece = prop_oneof![
        4 => "[ -~]{1,8}",
        2 => prop::sample::select(vec!["\"", "*", "-", "^", ":", "{content}", "AND", "OR", "NOT", "NEAR(", ")", "(", "+", "'", ";", "\\", "%", "''"]).prop_map(String::from),
        2 => prop::sample::select(vec!["word", "数据", "データ", "데이터", "🎉", "e\u{301}", "ß", "\u{200b}", "\u{e000}", "\t", "\u{202e}", "w*", "wo*"]).prop_map(String::from),
        1 => "\\PC{1,6}",
    ];
    (prop::collection::vec(piece, 1..12), prop::sample::select(vec!["", " "]))
        .prop_map(|(pieces, between)| pieces.join(between))
}

#[tokio::test]
async fn whatever_is_typed_is_no_error() {
    use proptest::{
        strategy::{Strategy, ValueTree},
        test_runner::TestRunner,
    };
    let server = Server::start().await;
    server.session("s", &["a word AND 数据 of 'quotes' \"NEAR\" (this)", "データ 🎉"]).await;
    let (mut runner, typed) = (TestRunner::deterministic(), typed());
    for round in 0..600 {
        let q = typed.new_tree(&mut runner).unwrap().current();
        let order = if round % 2 == 0 { "newest" } else { "relevance" };
        let answer = search(&server, &[("q", &q), ("order", order)]).await;
        match answer.status.as_u16() {
            200 => {}
            // A character that stands for what was no UTF-8 is refused in every parameter.
            400 => assert!(
                q.trim().is_empty() || q.contains('\u{fffd}') || q.split_whitespace().count() > 32,
                "{q:?}: {answer:?}"
            ),
            _ => panic!("{q:?}: {answer:?}"),
        }
    }
}
