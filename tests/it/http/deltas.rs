//! Messages that are being written: told in order, and shown to who comes in the middle, without a gap and without
//! doubling.

use std::sync::Arc;

use culm::executor::Event;
use serde_json::{Value, json};

use super::{
    Server,
    events::{Heard, Stream, child, names},
};
use crate::scripted::{Quick, polite};

/// What a client that came in the middle makes of what it hears, up to a message that is whole: its text as it was
/// shown and told, and as it was stored.
async fn gathered(stream: &mut Stream, snapshot: &Value, field: &str) -> (String, String) {
    let writing = &snapshot["writing"][0];
    let shown = if field == "content" { &writing["text"] } else { &writing["reasoning"] };
    let (mut text, mut id) = (shown.as_str().unwrap_or_default().to_owned(), writing["message_id"].clone());
    loop {
        let Heard { event, data, .. } = stream.heard().await;
        match (event.as_str(), field) {
            ("message.delta", "content") | ("reasoning.delta", "reasoning") => {
                assert_eq!(data["offset"], text.len(), "a gap, or told twice: {data}");
                text.push_str(data["text"].as_str().unwrap());
                id = data["message_id"].clone();
            }
            ("message.appended", _) if data["message"]["role"] == "assistant" => {
                assert_eq!(data["message"]["id"], id);
                return (text, data["message"][field].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_in_the_middle_is_shown_what_was_written_so_far() {
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    child(&server, "a", "b").await;
    let run = server.run("b").await;
    let live = turns.next().await;
    let mut first = Stream::open(&server, "/sessions/b/events", None).await;
    assert_eq!(first.heard().await.data["writing"], Value::Null, "nothing was written");
    live.send(Event::ReasoningDelta("hm".into())).await;
    live.delta("one ").await;
    let told = [first.until("reasoning.delta").await, first.until("message.delta").await];
    let id = &told[1].last().unwrap().data["message_id"];
    let writing = json!([{ "session_id": "b", "run_id": run, "message_id": id, "offset": 0, "text": "one ",
        "reasoning_offset": 0, "reasoning": "hm" }]);
    let mut late = Vec::new();
    for path in ["/sessions/b/events", "/sessions/a/events?tree=true"] {
        let mut stream = Stream::open(&server, path, None).await;
        assert_eq!(stream.heard().await.data["writing"], writing, "{path}");
        late.push(stream);
    }
    for path in ["/sessions/a/events", "/events"] {
        let snapshot = Stream::open(&server, path, None).await.heard().await;
        assert_eq!(snapshot.data["writing"], Value::Null, "{path}");
    }
    live.delta("two").await;
    for stream in &mut late {
        let delta = stream.heard().await.data;
        assert_eq!((&delta["offset"], &delta["text"], &delta["message_id"]), (&json!(4), &json!("two"), id));
    }
    live.say("one two").await;
    for stream in &mut late {
        assert_eq!(stream.heard().await.data["message"]["id"], *id);
    }
    // The next one begins from nothing, and ends with its run.
    let mut stream = Stream::open(&server, "/sessions/b/events", None).await;
    assert_eq!(stream.heard().await.data["writing"], Value::Null);
    live.delta("three").await;
    first.until("message.delta").await;
    first.until("message.delta").await;
    server.cancel("b", None).await;
    let snapshot = Stream::open(&server, "/sessions/b/events", None).await.heard().await;
    assert_eq!(snapshot.data["writing"], Value::Null);
    assert_eq!(server.messages("b").await[1]["content"], "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_a_client_comes_it_has_the_whole_text_once() {
    const CLIENTS: usize = 40;
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.run("a").await;
    let live = turns.next().await;
    let (mut whole, mut clients) = (String::new(), Vec::new());
    let mut first = Stream::open(&server, "/sessions/a/events", None).await;
    for place in 0..CLIENTS {
        let word = format!("wörd {place}, ");
        live.send(Event::ReasoningDelta(word.clone())).await;
        live.delta(&word).await;
        whole.push_str(&word);
        // So that it is told in many parts.
        if place % 4 == 0 {
            let mut told = 0;
            while told < whole.len() {
                let delta = first.until("message.delta").await.pop().unwrap().data;
                told = delta["offset"].as_u64().unwrap() as usize + delta["text"].as_str().unwrap().len();
            }
        }
        let mut stream = Stream::open(&server, "/sessions/a/events", None).await;
        clients.push((stream.heard().await.data, stream));
    }
    let shown: std::collections::HashSet<String> = clients.iter().map(|(snapshot, _)| snapshot.to_string()).collect();
    assert!(shown.len() > CLIENTS / 8, "all came at the same moment");
    let message = culm::model::NewMessage {
        reasoning: Some(whole.clone()),
        ..culm::model::NewMessage::text(culm::model::Role::Assistant, &whole)
    };
    live.send(Event::Message(message)).await;
    for (place, (snapshot, mut stream)) in clients.into_iter().enumerate() {
        let field = if place % 2 == 0 { "content" } else { "reasoning" };
        let (text, stored) = gathered(&mut stream, &snapshot, field).await;
        assert_eq!((&text, &stored), (&whole, &whole), "client {place}");
    }
}

/// A long text costs who comes late no more than a part of it, and who follows hears it in small pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_shows_its_end() {
    const LONG: usize = 1 << 20;
    let (executor, mut turns) = polite();
    let server = Server::scripted(executor).await;
    server.session("a", &["hi"]).await;
    server.run("a").await;
    let live = turns.next().await;
    let mut stream = Stream::open(&server, "/sessions/a/events", None).await;
    stream.heard().await;
    live.delta(&"ä".repeat(LONG / 2)).await;
    let mut told = 0;
    while told < LONG {
        let delta = stream.until("message.delta").await.pop().unwrap().data;
        let text = delta["text"].as_str().unwrap();
        assert!(delta["offset"] == told && text.len() <= 16 << 10, "{} bytes at {}", text.len(), delta["offset"]);
        told += text.len();
    }
    let snapshot = Stream::open(&server, "/sessions/a/events", None).await.heard().await.data;
    let writing = &snapshot["writing"][0];
    let (offset, text) = (writing["offset"].as_u64().unwrap(), writing["text"].as_str().unwrap());
    assert_eq!(offset as usize + text.len(), LONG);
    assert!(snapshot.to_string().len() < 300 << 10, "{}", snapshot.to_string().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_is_told_between_the_start_of_its_run_and_its_message() {
    let server = Arc::new(Server::scripted(Quick).await);
    let mut stream = Stream::open(&server, "/events", None).await;
    stream.heard().await;
    let sessions = ["a", "b", "c", "d"];
    let working = sessions.map(|session| {
        let server = server.clone();
        tokio::spawn(async move {
            server.session(session, &["hi"]).await;
            for _ in 0..20 {
                let run = server.run(session).await;
                server.ended(&run).await;
            }
        })
    });
    let mut heard = Vec::new();
    for _ in 0..sessions.len() * 20 {
        heard.extend(stream.until("run.finished").await);
    }
    for worker in working {
        worker.await.unwrap();
    }
    for session in sessions {
        let mut told: Vec<Heard> = Vec::new();
        heard.retain_mut(|heard| {
            let of_a_run = heard.data["run_id"].is_string() || heard.data["message"]["run_id"].is_string();
            let own = heard.data["session_id"] == session && of_a_run;
            if own {
                let Heard { id, event, data } = heard;
                told.push(Heard { id: *id, event: event.clone(), data: data.take() });
            }
            !own
        });
        told.retain(|heard| heard.event != "session.updated");
        // One that fell behind may have missed a delta, and hears none at another place.
        let order = ["run.started", "message.delta", "message.appended", "run.finished"];
        let place = |event: &str| order.iter().position(|name| *name == event).unwrap();
        let places: Vec<usize> = names(&told).into_iter().map(place).collect();
        assert_eq!(places.iter().filter(|place| **place != 1).count(), 60, "{session}: {places:?}");
        assert!(places.windows(2).all(|two| (two[1] + 4 - two[0]) % 4 == 1 || two == [0, 2]), "{session}: {places:?}");
    }
}
