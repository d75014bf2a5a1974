//! Many clients that start, cancel, delete, clear, append, and do the same with children, at random: whatever the order,
//! every run ends, no session stays busy, and no executor is asked by a run that was to stop before it began.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use culm::{
    executor::{Error, Event, Executor, Outcome, Turn},
    model::{AgentSession, RunFilter, RunId, RunStatus, SessionId},
    repository::SessionRepository,
    runs,
    storage::Storage,
};
use reqwest::Method;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Server,
    client::{Setup, executors, options},
};
use crate::{
    executor::Demo,
    scripted::{Quick, soon},
    support::{assert_sound, number},
};

/// Numbers that are as good as random, and the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What is seen of an executor.
#[derive(Default)]
struct Seen {
    repository: OnceLock<SessionRepository>,
    live: Mutex<BTreeMap<SessionId, RunId>>,
    asked: Mutex<BTreeSet<RunId>>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// An executor that is watched.
struct Watched<E> {
    executor: E,
    seen: Arc<Seen>,
}

/// A turn that is under way, until it is dropped.
struct Live<'a>(&'a Seen, SessionId);

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.live.lock().unwrap().remove(&self.1);
    }
}

#[async_trait]
impl<E: Executor> Executor for Watched<E> {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        let (seen, run) = (&*self.seen, turn.run_id.clone());
        if let Some(before) = seen.live.lock().unwrap().insert(turn.session_id.clone(), run.clone()) {
            seen.wrong(format!("{before} and {run} at once in {}", turn.session_id));
        }
        let _live = Live(seen, turn.session_id.clone());
        if !seen.asked.lock().unwrap().insert(run.clone()) {
            seen.wrong(format!("{run} was carried out twice"));
        }
        // Its row may be gone by now, but not have ended without a beginning.
        match seen.repository.get().unwrap().run(&run).await {
            Ok(Some(row)) if row.started_at.is_none() => seen.wrong(format!("{row:?} was asked")),
            _ => {}
        }
        self.executor.run(turn, events, cancel).await
    }

    async fn dispose(&self, backend: &AgentSession, purge: bool) -> Result<(), Error> {
        self.executor.dispose(backend, purge).await
    }

    async fn probe(&self) -> Result<String, Error> {
        self.executor.probe().await
    }

    async fn shut_down(&self) {
        self.executor.shut_down().await;
    }
}

/// What clients say: something that ends, and something that does not.
#[derive(Clone, Copy)]
struct Words {
    short: &'static str,
    endless: &'static str,
}

/// A session has a name and, as ids are not used twice, a generation.
async fn play(server: &Server, client: u64, rounds: u64, words: Words) {
    let mut dice = Dice(client + 1);
    for round in 0..rounds {
        let session = format!("s{}-{}", dice.throw(3), round / 6.max(rounds / 8));
        let child = format!("{session}-{}", dice.throw(2));
        let path = |rest: &str| format!("/sessions/{session}{rest}");
        let child_path = |rest: &str| format!("/sessions/{session}/children/{child}{rest}");
        server.post("/sessions", json!({ "id": session })).await;
        let text = if dice.throw(4) == 0 { words.endless } else { words.short };
        let answer: Answer = match dice.throw(11) {
            0 => server.post(&path("/messages"), json!({ "messages": [{ "role": "user", "content": text }] })).await,
            1 => server.cancel(&session, None).await,
            2 if dice.throw(3) == 0 => server.send(server.request(Method::DELETE, &path(""))).await,
            3 => server.send(server.request(Method::POST, &path("/clear"))).await,
            4 => server.post(&path("/runs"), json!({ "message": text, "on_busy": "interrupt" })).await,
            5 | 6 => {
                let mut task = super::family::task(&child);
                task["prompt"] = json!(text);
                server.post(&path("/children"), task).await
            }
            7 => {
                let body =
                    json!({ "message": text, "interrupt_running": dice.throw(2) == 0, "auto_run": dice.throw(4) > 0 });
                server.post(&child_path("/messages"), body).await
            }
            8 => match dice.throw(3) {
                0 => server.delete(&child_path("")).await,
                1 => server.post(&child_path("/cancel"), json!({})).await,
                _ => server.post(&child_path("/run"), json!({ "reset_to_last_user": false })).await,
            },
            _ => server.post(&path("/runs"), json!({ "message": text })).await,
        };
        assert!(matches!(answer.status.as_u16(), 200..=202 | 404 | 409 | 410), "{answer:?}");
    }
}

/// The runs that the database says are under way.
async fn running(server: &Server) -> BTreeSet<RunId> {
    let filter = RunFilter { status: Some(RunStatus::Running), ..RunFilter::default() };
    let page = server.repository.runs(&filter, None, 1000).await.unwrap();
    page.items.into_iter().map(|run| run.id).collect()
}

/// Has clients play, and looks at what becomes of it. How many runs were carried out.
async fn everything_ends<E: Executor + 'static>(executor: E, words: Words, clients: u64, rounds: u64) -> usize {
    let seen = Arc::new(Seen::default());
    // Room for some that linger, and not for all.
    let options = runs::Options { max_concurrent: clients as usize, ..options() };
    let server = Setup { options, ..Setup::new(executors(Watched { executor, seen: seen.clone() })) }.start().await;
    assert!(seen.repository.set(server.repository.clone()).is_ok());
    let server = Arc::new(server);
    let mut shell = server.shell().await;
    let playing: Vec<_> = (0..clients)
        .map(|client| {
            let server = server.clone();
            tokio::spawn(async move { play(&server, client, rounds, words).await })
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
    // Whatever is said to be under way is, once it has come to rest: what is left lingers. A short run may begin and end
    // between two looks, so all of them must agree.
    let live = || seen.live.lock().unwrap().values().cloned().collect::<BTreeSet<_>>();
    let agree = async || {
        let said = running(&server).await;
        let sessions = server.repository.sessions(&crate::support::everything(), None, 10_000).await.unwrap().items;
        let live = seen.live.lock().unwrap();
        let is_true = sessions.iter().all(|session| session.is_running == live.contains_key(&session.id));
        is_true && said == live.values().cloned().collect()
    };
    soon(async { while !agree().await {} }).await;
    let sessions = server.repository.sessions(&crate::support::everything(), None, 10_000).await.unwrap().items;
    for session in sessions {
        server.cancel(session.id.as_str(), None).await;
    }
    assert_eq!((running(&server).await, live()), Default::default(), "runs that have not stopped");
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new());
    let left = "select count(*) from runs where status in ('pending', 'running')";
    assert_eq!(number(&mut shell, left).await, 0, "runs that have not ended");
    // A clear forgets how the last one ended, and a child may wait for a run that nobody asked for yet.
    let differ = "select count(*) from live_sessions s
        where s.last_run_status is not null and s.last_run_status <> 'pending' and s.last_run_status is not (
        select r.status from runs r where r.session_key = s.session_key order by r.run_key desc limit 1)";
    assert_eq!(number(&mut shell, differ).await, 0, "sessions that do not follow their runs");
    let never_asked = "select count(*) from messages m join runs r on r.id = m.run_id where r.started_at is null";
    assert_eq!(number(&mut shell, never_asked).await, 0, "runs that spoke and never began");
    assert_sound(&mut shell).await;
    // There is room for new ones.
    server.session("after", &[words.short]).await;
    let run = server.run("after").await;
    assert_eq!(server.ended(&run).await["status"], "completed");
    seen.asked.lock().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_order_every_run_ends_and_no_session_stays_busy() {
    let words = Words { short: "hi", endless: "linger" };
    assert!(everything_ends(Quick, words, 8, 25).await > 10);
}

/// The same with a provider: `cargo test --release --test it -- --ignored --nocapture sixteen_clients`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn sixteen_clients_play_two_hundred_rounds_and_every_run_ends() {
    let demo = Demo::start().await;
    let words = Words { short: "/slow 0ms\nhi", endless: "/slow 1ms\n/endless" };
    let asked = everything_ends(demo.executor(), words, 16, 200).await;
    // No more requests than runs that began, and nobody is answered any more.
    let (requests, open) = demo.stats("open=0").await;
    println!("{asked} runs were carried out, with {requests} requests");
    assert!(requests <= asked as u64 && open == 0, "{requests} requests of {asked} runs, {open} open");
}
