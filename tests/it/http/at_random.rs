//! Many clients that start, cancel, delete, clear and append at random: whatever the order, every run ends, and no
//! session stays busy.

use std::sync::Arc;

use reqwest::Method;
use serde_json::json;

use super::Server;
use crate::{
    scripted::Quick,
    support::{assert_sound, number},
};

const CLIENTS: u64 = 8;
const ROUNDS: u64 = 25;

/// Numbers that are as good as random, and the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A session has a name and, as ids are not used twice, a generation.
async fn play(server: &Server, client: u64) {
    let mut dice = Dice(client + 1);
    for round in 0..ROUNDS {
        let session = format!("s{}-{}", dice.throw(3), round / 6);
        let path = |rest: &str| format!("/sessions/{session}{rest}");
        server.post("/sessions", json!({ "id": session })).await;
        let text = if dice.throw(3) == 0 { "linger" } else { "hi" };
        let answer = match dice.throw(7) {
            0 => server.post(&path("/messages"), json!({ "messages": [{ "role": "user", "content": text }] })).await,
            1 => server.cancel(&session, None).await,
            2 if dice.throw(3) == 0 => server.send(server.request(Method::DELETE, &path(""))).await,
            3 => server.send(server.request(Method::POST, &path("/clear"))).await,
            4 => server.post(&path("/runs"), json!({ "message": text, "on_busy": "interrupt" })).await,
            _ => server.post(&path("/runs"), json!({ "message": text })).await,
        };
        assert!(matches!(answer.status.as_u16(), 200..=202 | 404 | 409 | 410), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_order_every_run_ends_and_no_session_stays_busy() {
    let server = Arc::new(Server::scripted(Quick).await);
    let mut shell = server.shell().await;
    let playing: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let server = server.clone();
            tokio::spawn(async move { play(&server, client).await })
        })
        .collect();
    while playing.iter().any(|client| !client.is_finished()) {
        let twice = "select count(*) from (select session_key from runs where status in ('pending', 'running')
            group by session_key having count(*) > 1)";
        assert_eq!(number(&mut shell, twice).await, 0, "two runs at once in a session");
        tokio::task::yield_now().await;
    }
    for client in playing {
        client.await.unwrap();
    }
    let sessions = server.get("/sessions?kind=all").await.body["sessions"].take();
    for session in sessions.as_array().unwrap() {
        server.cancel(session["id"].as_str().unwrap(), None).await;
    }
    let left = "select count(*) from runs where status in ('pending', 'running')";
    assert_eq!(number(&mut shell, left).await, 0, "runs that have not ended");
    // A clear forgets how the last one ended.
    let differ = "select count(*) from sessions s
        where s.last_run_status is not null and s.last_run_status is not (
        select r.status from runs r where r.session_key = s.session_key order by r.run_key desc limit 1)";
    assert_eq!(number(&mut shell, differ).await, 0, "sessions that do not follow their runs");
    let never_asked = "select count(*) from messages m join runs r on r.id = m.run_id where r.started_at is null";
    assert_eq!(number(&mut shell, never_asked).await, 0, "runs that spoke and never began");
    assert_sound(&mut shell).await;
    // There is room for new ones.
    server.session("after", &["hi"]).await;
    let run = server.run("after").await;
    assert_eq!(server.ended(&run).await["status"], "completed");
}
