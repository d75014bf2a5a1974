//! A client that leaves and comes back, again and again, while eight runs at a time are followed: it hears each durable
//! event once and in order, or is told that it did not.

use std::{sync::Arc, time::Duration};

use culm::{
    model::EventScope,
    runs,
    storage::{Storage, sqlite::LogBounds},
};
use serde_json::json;

use super::{
    Server,
    at_random::Dice,
    client::{Setup, executors, options},
    events::Stream,
};
use crate::{executor::Demo, support::until};

const SESSIONS: usize = 8;
const STOP: &str = "enough";

async fn start(demo: &Demo, log: LogBounds) -> Arc<Server> {
    let options = runs::Options { max_concurrent: SESSIONS, ..options() };
    let server = Setup { options, log, ..Setup::new(executors(demo.executor())) }.start().await;
    for session in 0..SESSIONS {
        server.session(&session.to_string(), &[]).await;
    }
    Arc::new(server)
}

/// Carries out runs in all sessions, one after the other in each, until there are as many events. None of them speaks to
/// the checking client: that takes longer than the run.
async fn work(server: Arc<Server>, events: i64) {
    let sessions = (0..SESSIONS).map(|session| {
        let server = server.clone();
        tokio::spawn(async move {
            let client = crate::support::client();
            let url = |path: &str| server.url(path);
            while *server.repository.last_event().borrow() < events {
                let body = json!({ "message": "/slow 0ms\nsay it back" });
                let run = client
                    .post(url(&format!("/sessions/{session}/runs")))
                    .bearer_auth(super::client::TOKEN)
                    .json(&body);
                let run: serde_json::Value = run.send().await.unwrap().json().await.unwrap();
                let path = format!("/runs/{}?wait=20", run["run"]["id"].as_str().unwrap());
                let run = client.get(url(&path)).bearer_auth(super::client::TOKEN).send().await.unwrap();
                assert_eq!(run.json::<serde_json::Value>().await.unwrap()["run"]["status"], "completed");
            }
        })
    });
    for session in futures_util::future::join_all(sessions).await {
        session.unwrap();
    }
}

/// All numbers of the log after this one.
async fn log(server: &Server, after: i64) -> Vec<i64> {
    let page = server.repository.events(&EventScope::All, after, i64::from(i32::MAX)).await.unwrap();
    page.events.into_iter().map(|event| event.event_id).collect()
}

/// Reads as much as it likes and comes back, up to a last event that tells it to stop. Where it began, what it heard, and
/// how often it left.
async fn follow(server: &Server) -> (i64, Vec<i64>, usize) {
    let (mut dice, mut left) = (Dice(7), 0);
    let mut stream = Stream::open(server, "/events", None).await;
    let first = stream.heard().await.id.unwrap();
    let mut heard = vec![first];
    loop {
        for _ in 0..dice.throw(30) {
            let event = stream.heard().await;
            heard.extend(event.id);
            if event.data["title"] == STOP {
                heard.remove(0);
                return (first, heard, left);
            }
        }
        stream = Stream::open(server, "/events", heard.last().copied()).await;
        left += 1;
    }
}

async fn hears_each_event_once(times: usize, events: i64) {
    let demo = Demo::start().await;
    let server = start(&demo, LogBounds::default()).await;
    let working = async {
        work(server.clone(), events).await;
        assert_eq!(server.patch("/sessions/0", json!({ "title": STOP })).await.status, 200);
    };
    let ((first, heard, left), ()) = tokio::join!(follow(&server), working);
    assert_eq!(heard, log(&server, first).await);
    println!("{} durable events, heard over {left} connections", heard.len());
    assert!(left >= times, "{left} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_often_hears_each_event_once_and_in_order() {
    hears_each_event_once(25, 600).await;
}

/// `cargo test --release --test it -- --ignored --nocapture a_client_that_leaves_a_thousand_times`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn a_client_that_leaves_a_thousand_times_hears_each_of_20_000_events_once_and_in_order() {
    hears_each_event_once(1000, 20_000).await;
}

/// The log is cut while it works: who comes back too late is told so, is shown the state, and goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_too_late_is_told_and_goes_on_from_a_snapshot() {
    const KEPT: i64 = 60;
    let demo = Demo::start().await;
    let log_of = LogBounds { events: KEPT, every: Duration::from_millis(1), ..LogBounds::default() };
    let server = start(&demo, log_of).await;
    let mut shell = server.shell().await;
    for round in 1..4 {
        let last = *server.repository.last_event().borrow();
        work(server.clone(), last + 5 * KEPT).await;
        until(&mut shell, &format!("select count(*) <= {KEPT} from events"), 1).await;
        for path in ["/events", "/sessions/0/events", "/sessions/1/events?tree=true"] {
            let mut late = Stream::open(&server, path, Some(last)).await;
            assert_eq!(late.heard().await.event, "reset", "{path} in round {round}");
            let snapshot = late.heard().await;
            let now = *server.repository.last_event().borrow();
            assert_eq!((snapshot.event.as_str(), snapshot.id), ("snapshot", Some(now)), "{path} in round {round}");
        }
    }
}
