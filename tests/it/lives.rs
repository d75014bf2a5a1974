//! Lives of a server, as a process, with agents and worktrees: anything is called in any order and at the same time, agents
//! crash, and the server is killed in the midst of it. Whenever all is quiet, no process and no worktree is there that
//! nobody knows of, nothing is known that is not there, and no work was lost.
//!
//! `CULM_CASES=200 CULM_SEED=1 cargo nextest run --no-capture -E 'test(lives::)'` lives 200 of them, with the seeds 1 to 200.

mod work;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use self::work::{Ledger, Work, work};
use crate::{
    cli::{Serving, culm},
    support::{assert_sound, client, number, run, shell, until},
    worktree::{Yard, said},
};

const CULM: &str = env!("CARGO_BIN_EXE_culm");
/// Lives, unless CULM_CASES says how many; the seed of the first, unless CULM_SEED does; and steps of each.
const CASES: u64 = 2;
const SEED: u64 = 1;
const STEPS: usize = 8;
/// How long it may take until all is quiet.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    Attach,
    AttachDetached,
    Run,
    Linger,
    Spawn,
    Crash,
    Close,
    CloseByForce,
    Archive,
    Reopen,
    Delete,
    DeleteAll,
    Remove,
    RemoveAll,
    Cancel,
    Preview,
}

impl Op {
    /// Whether work may be removed by it.
    fn gives_up(self) -> bool {
        matches!(self, Self::CloseByForce | Self::DeleteAll | Self::RemoveAll)
    }
}

#[derive(Debug, Clone)]
struct Step {
    works: Vec<(Work, usize)>,
    /// At the same time, each on one of the sessions.
    ops: Vec<(Op, usize)>,
    /// The server is killed after so many other calls.
    kill: Option<usize>,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Attach),
        1 => Just(Op::AttachDetached),
        3 => Just(Op::Run),
        2 => Just(Op::Linger),
        1 => Just(Op::Spawn),
        1 => Just(Op::Crash),
        3 => Just(Op::Close),
        1 => Just(Op::CloseByForce),
        1 => Just(Op::Archive),
        1 => Just(Op::Reopen),
        1 => Just(Op::Delete),
        1 => Just(Op::DeleteAll),
        1 => Just(Op::Remove),
        1 => Just(Op::RemoveAll),
        1 => Just(Op::Cancel),
        1 => Just(Op::Preview),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (works, ops) =
        (prop::collection::vec((work(), 0usize..1000), 0..3), prop::collection::vec((op(), 0usize..1000), 1..6));
    let kill = prop_oneof![3 => Just(None), 1 => (0usize..60).prop_map(Some)];
    (works, ops, kill).prop_map(|(works, ops, kill)| Step { works, ops, kill })
}

/// Calls a server that may be killed meanwhile: then there is no answer.
#[derive(Clone)]
struct Caller {
    client: Client,
    url: String,
    token: String,
}

impl Caller {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
        let request = self.client.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    async fn act(&self, op: Op, session: &str, repository: &Path) {
        let (method, rest, body) = match op {
            Op::Attach => (Method::PUT, "/worktree", Some(json!({ "repository": repository }))),
            Op::AttachDetached => {
                (Method::PUT, "/worktree", Some(json!({ "repository": repository, "commit": "HEAD" })))
            }
            Op::Run => return self.run(session, "hi").await,
            Op::Spawn => return self.run(session, "/spawn 1000").await,
            Op::Crash => return self.run(session, "/crash").await,
            Op::Linger => (Method::POST, "/runs", Some(json!({ "message": "/slow 5ms\n/endless" }))),
            Op::Close => (Method::POST, "/close", None),
            Op::CloseByForce => (Method::POST, "/close?force=true", None),
            Op::Archive => (Method::POST, "/archive", None),
            Op::Reopen => (Method::POST, "/reopen", None),
            Op::Cancel => (Method::POST, "/cancel", None),
            Op::Preview => (Method::GET, "/close", None),
            Op::Delete => (Method::DELETE, "", None),
            Op::DeleteAll => (Method::DELETE, "?discard_worktree=true", None),
            Op::Remove => (Method::DELETE, "/worktree", None),
            Op::RemoveAll => (Method::DELETE, "/worktree?discard=true", None),
        };
        let answer = self.call(method, &format!("/sessions/{session}{rest}"), body).await;
        assert_expected(answer.as_ref(), &format!("{op:?} {session}"));
    }

    /// Runs to the end, whatever that is.
    async fn run(&self, session: &str, message: &str) {
        let path = format!("/sessions/{session}/runs");
        let asked = self.call(Method::POST, &path, Some(json!({ "message": message }))).await;
        assert_expected(asked.as_ref(), &format!("{message} {session}"));
        let Some(run) = asked.and_then(|(_, answer)| Some(answer["run"]["id"].as_str()?.to_owned())) else { return };
        let ended = self.call(Method::GET, &format!("/runs/{run}?wait=20"), None).await;
        assert_expected(ended.as_ref(), &format!("{message} {session}"));
    }
}

/// What a client may be answered while others do as they please, and the server may be gone.
fn assert_expected(answer: Option<&(u16, Value)>, to: &str) {
    let expected = |(status, _): &(u16, Value)| matches!(status, 200..=202 | 404 | 409 | 410);
    assert!(answer.is_none_or(expected), "{to}: {answer:?}");
}

struct Life {
    folder: tempfile::TempDir,
    yard: Yard,
    ledger: Ledger,
    client: Client,
    server: Serving,
    /// The sessions, by name: a root over one child each.
    names: Vec<String>,
    made: usize,
}

fn serve(folder: &Path) -> Serving {
    let config = folder.join("culm.toml");
    let executor = format!("[executors.demo]\nkind = 'acp'\ncommand = ['{CULM}', 'demo-agent']\nmax_warm = 2\n");
    std::fs::write(&config, executor).unwrap();
    let db = folder.join("culm.db");
    Serving::start(&mut culm(&db, &["--config", config.to_str().unwrap()]), &db)
}

fn root_of(session: &str) -> &str {
    session.split('-').next().unwrap()
}

async fn texts(shell: &mut SqliteConnection, sql: &'static str) -> BTreeSet<String> {
    sqlx::query(sql).fetch_all(shell).await.unwrap().into_iter().map(|row| row.get(0)).collect()
}

impl Life {
    fn begin() -> Self {
        let (folder, yard) = (tempfile::tempdir().unwrap(), Yard::new());
        let (ledger, server) = (Ledger::new(yard.repo()), serve(folder.path()));
        Self { folder, yard, ledger, client: client(), server, names: Vec::new(), made: 0 }
    }

    async fn shell(&self) -> SqliteConnection {
        shell(&self.folder.path().join("culm.db")).await
    }

    fn caller(&self) -> Caller {
        Caller { client: self.client.clone(), url: self.server.url.clone(), token: self.server.token.clone() }
    }

    /// Where a tree's worktree is, if it has one.
    fn worktree_of(&self, session: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("worktrees").join(root_of(session))
    }

    /// Makes place for new trees where some were deleted.
    async fn tend(&mut self) {
        let there = texts(&mut self.shell().await, "select id from live_sessions").await;
        self.names.retain(|name| there.contains(name));
        let caller = self.caller();
        while self.names.iter().filter(|name| !name.contains('-')).count() < 3 {
            self.made += 1;
            let (root, child) = (format!("r{}", self.made), format!("r{}-1", self.made));
            let made = caller.call(Method::POST, "/sessions", Some(json!({ "id": root }))).await.unwrap();
            assert_eq!(made.0, 201, "{made:?}");
            let below = json!({ "id": child, "title": "below", "responsibility": "work", "prompt": "hi",
                                "subagent_type": "worker", "auto_run": false });
            let made = caller.call(Method::POST, &format!("/sessions/{root}/children"), Some(below)).await.unwrap();
            assert_eq!(made.0, 201, "{made:?}");
            self.names.extend([root, child]);
        }
    }

    async fn take(&mut self, step: &Step) {
        self.tend().await;
        for (work, n) in &step.works {
            let top = self.worktree_of(&self.names[n % self.names.len()]);
            if top.exists() {
                self.ledger.work(&top, *work);
            }
        }
        let (caller, repository) = (self.caller(), self.yard.repo());
        let mut calls = Vec::new();
        for (op, n) in &step.ops {
            let session = self.names[n % self.names.len()].clone();
            if op.gives_up() {
                self.ledger.give_up(&self.worktree_of(&session));
            }
            let (caller, repository) = (caller.clone(), repository.clone());
            calls.push(async move { caller.act(*op, &session, &repository).await });
        }
        let killing = async {
            let Some(after) = step.kill else { return };
            for _ in 0..after {
                caller.call(Method::GET, "/health", None).await;
            }
            self.server.signal("KILL");
        };
        tokio::join!(futures_util::future::join_all(calls), killing);
        if step.kill.is_some() {
            self.server = serve(self.folder.path());
        }
    }

    /// Stops what runs, and waits until nothing is left to do.
    async fn rest(&self) {
        let (caller, mut shell) = (self.caller(), self.shell().await);
        for session in texts(&mut shell, "select id from live_sessions").await {
            caller.call(Method::POST, &format!("/sessions/{session}/cancel"), None).await.unwrap();
        }
        let busy = "select (select count(*) from runs where status in ('pending', 'running'))
            + (select count(*) from worktrees where state in ('creating', 'removing'))
            + (select count(*) from teardown_jobs)";
        let resting = async {
            while number(&mut shell, busy).await > 0 {
                run(&mut shell, "update teardown_jobs set next_at = 1 where last_error is not null").await;
            }
        };
        if tokio::time::timeout(PATIENCE, resting).await.is_err() {
            let mut shell = self.shell().await;
            let jobs = texts(&mut shell, "select kind || payload || coalesce(last_error, '') from teardown_jobs").await;
            let rows = texts(&mut shell, "select state || ' ' || path from worktrees").await;
            panic!("it does not come to rest: {jobs:?} {rows:?}");
        }
    }

    /// The backends of which there are processes: all that any of them started carry its name.
    fn alive(&self) -> BTreeSet<String> {
        let homes = format!("HOME={}", self.folder.path().join("culm.db.agents").display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
        let backend = |environment: Vec<u8>| {
            let text = String::from_utf8_lossy(&environment).into_owned();
            let ours = text.split('\0').any(|variable| variable.starts_with(&homes));
            ours.then(|| {
                text.split('\0').find_map(|variable| variable.strip_prefix("CULM_BACKEND=")).map(str::to_owned)
            })?
        };
        environments.filter_map(backend).collect()
    }

    /// What is warm has a process, and nothing else has one.
    async fn assert_processes(&self) {
        let mut shell = self.shell().await;
        let warm = "select id from agent_sessions where status = 'warm'";
        let same = async { while self.alive() != texts(&mut shell, warm).await {} };
        if tokio::time::timeout(PATIENCE, same).await.is_err() {
            panic!("alive: {:?}, warm: {:?}", self.alive(), texts(&mut self.shell().await, warm).await);
        }
        let closed = "select count(*) from agent_sessions join sessions using (session_key)
                      where sessions.closed_at is not null and status = 'warm'";
        assert_eq!(number(&mut shell, closed).await, 0, "closed, and warm");
    }

    /// Each worktree on disk is a tree's or holds work, git knows the same ones, and each that a tree has is there.
    async fn assert_worktrees(&self) {
        let rows = "select path from worktrees where state in ('attached', 'retained')";
        let rows: BTreeSet<PathBuf> =
            texts(&mut self.shell().await, rows).await.into_iter().map(PathBuf::from).collect();
        let disk = std::fs::read_dir(self.worktree_of("r").parent().unwrap());
        let disk: BTreeSet<PathBuf> = disk.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        let listed = said(&self.yard.repo(), &["worktree", "list", "--porcelain"]);
        let listed = listed.lines().filter_map(|line| line.strip_prefix("worktree ")).map(PathBuf::from);
        let main = self.yard.repo().canonicalize().unwrap();
        let listed: BTreeSet<PathBuf> = listed.filter(|place| *place != main).collect();
        assert_eq!(disk, listed, "on disk, and known to git");
        let lost: Vec<_> = rows.difference(&disk).collect();
        assert!(lost.is_empty(), "on record, and not there: {lost:?}");
        let orphans: Vec<_> = disk.difference(&rows).filter(|place| !self.ledger.is_at(place)).collect();
        assert!(orphans.is_empty(), "there, and nobody's: {orphans:?}");
    }

    async fn assert_sound(&mut self) {
        self.rest().await;
        self.assert_processes().await;
        self.ledger.assert_nothing_is_lost();
        self.assert_worktrees().await;
    }

    /// Everything is deleted, and the server ends.
    async fn end(mut self) {
        let caller = self.caller();
        for name in self.names.clone() {
            self.ledger.give_up(&self.worktree_of(&name));
            caller.act(Op::DeleteAll, &name, &self.yard.repo()).await;
        }
        self.assert_sound().await;
        assert_eq!(self.alive(), BTreeSet::new());
        let mut shell = self.shell().await;
        until(&mut shell, "select count(*) from agent_sessions", 0).await;
        assert_sound(&mut shell).await;
        drop(shell);
        assert_eq!(self.server.signal("TERM"), 0);
    }
}

async fn live(seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let steps = prop::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
    let mut life = Life::begin();
    for (at, step) in steps.iter().enumerate() {
        println!("seed {seed}, step {at}: {step:?}");
        life.take(step).await;
        life.assert_sound().await;
    }
    life.end().await;
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_left_behind() {
    let first = variable("CULM_SEED").unwrap_or(SEED);
    for seed in first..first + variable("CULM_CASES").unwrap_or(CASES) {
        live(seed).await;
    }
}
