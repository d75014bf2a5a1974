//! Runs, closes, deletes and restarts in any order and at the same time, over three trees: whenever all is quiet, what is
//! warm has a row that says so, or a job that will end it, and nothing else says that something is warm. No worktree is
//! on disk that nobody knows of, but for work that would have been lost; and that is never removed.

use std::{collections::BTreeSet, path::PathBuf, sync::Mutex};

use culm::{model::NewSession, storage::Storage};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reqwest::Method;
use serde_json::json;
use sqlx::Row;

use super::lifecycle::Kept;
use crate::{
    scripted::PATIENCE,
    support::{assert_sound, id, new, run, until},
    warm::Ending,
    worktree::Yard,
};

/// Sequences that are tried, unless CULM_CASES says how many, and steps of each.
const CASES: usize = 4;
const STEPS: usize = 15;

/// What the database says is warm, and what it says is left to end of what was deleted.
const ROWS: &str = "select id from agent_sessions where status = 'warm'";
const JOBS: &str = "select payload ->> 'id' from teardown_jobs where payload ->> 'purge'";

#[derive(Debug, Clone, Copy)]
enum Op {
    Run,
    Linger,
    Append,
    Child,
    Close,
    Archive,
    Unarchive,
    Reopen,
    Delete,
    Cancel,
    Attach,
    Work,
}

#[derive(Debug, Clone)]
enum Step {
    /// At the same time, each on one of the sessions.
    These(Vec<(Op, usize)>),
    /// What is warm can be ended from now on, or cannot.
    Ends(bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        4 => Just(Op::Run),
        2 => Just(Op::Linger),
        1 => Just(Op::Append),
        1 => Just(Op::Child),
        3 => Just(Op::Close),
        1 => Just(Op::Archive),
        1 => Just(Op::Unarchive),
        1 => Just(Op::Reopen),
        1 => Just(Op::Delete),
        1 => Just(Op::Cancel),
        2 => Just(Op::Attach),
        1 => Just(Op::Work),
    ];
    prop_oneof![
        8 => prop::collection::vec((op, 0usize..1000), 1..5).prop_map(Step::These),
        1 => any::<bool>().prop_map(Step::Ends),
        1 => Just(Step::Restart),
    ]
}

/// The trees' sessions, by name. One that was deleted makes place for a new root.
struct Trees {
    names: Vec<String>,
    made: usize,
    yard: Yard,
    worked: Worked,
}

/// Files that git does not know of, left in worktrees.
type Worked = Mutex<BTreeSet<PathBuf>>;

impl Trees {
    async fn plant(&mut self, kept: &Kept) {
        self.made += 1;
        let root = format!("r{}", self.made);
        kept.server.session(&root, &["hi"]).await;
        self.names.push(root.clone());
        for n in 0..2 {
            self.child(kept, &root, &format!("{root}-{n}")).await;
        }
    }

    async fn child(&mut self, kept: &Kept, parent: &str, name: &str) {
        let child = NewSession { parent: Some(id(parent)), ..new(name) };
        if kept.server.repository.create_session(child, None).await.is_ok() {
            self.names.push(name.to_owned());
        }
    }

    /// The roots that are still there, and what is below them.
    async fn tend(&mut self, kept: &Kept) {
        let mut there = Vec::new();
        for name in &self.names {
            if kept.server.repository.session(&id(name)).await.unwrap().is_some() {
                there.push(name.clone());
            }
        }
        self.names = there;
        while self.names.iter().filter(|name| !name.contains('-')).count() < 3 {
            self.plant(kept).await;
        }
    }
}

/// What a client may be answered while others do as they please.
async fn act(kept: &Kept, yard: &Yard, worked: &Worked, op: Op, session: &str, n: usize) {
    let path = |rest: &str| format!("/sessions/{session}{rest}");
    let post = async |rest: &str, body| kept.server.post(&path(rest), body).await;
    let bare = async |method, rest: &str| kept.server.send(kept.server.request(method, &path(rest))).await;
    let answer = match op {
        Op::Run => post("/runs", json!({})).await,
        Op::Linger => post("/runs", json!({ "message": "linger" })).await,
        Op::Append => post("/messages", json!({ "messages": [{ "role": "user", "content": "hi" }] })).await,
        Op::Child => {
            let child = NewSession { parent: Some(id(session)), ..new(&format!("{session}-x{n}")) };
            drop(kept.server.repository.create_session(child, None).await);
            return;
        }
        Op::Close => bare(Method::POST, "/close").await,
        Op::Archive => bare(Method::POST, "/archive").await,
        Op::Unarchive => bare(Method::POST, "/unarchive").await,
        Op::Reopen => bare(Method::POST, "/reopen").await,
        Op::Delete => bare(Method::DELETE, "").await,
        Op::Cancel => bare(Method::POST, "/cancel").await,
        Op::Attach => kept.server.put(&path("/worktree"), json!({ "repository": yard.repo() })).await,
        Op::Work => {
            let worktree = kept.server.get(&path("/worktree")).await;
            if let Some(place) = worktree.body["worktree"]["path"].as_str() {
                // It may be gone at this moment, or being made: who worked there knows.
                let place = PathBuf::from(place).join(format!("work-{n}"));
                if place.with_file_name("file").exists() && std::fs::write(&place, b"of hours").is_ok() {
                    worked.lock().unwrap().insert(place);
                }
            }
            return;
        }
    };
    assert!(matches!(answer.status.as_u16(), 200..=202 | 404 | 409 | 410), "{op:?} {session}: {answer:?}");
}

async fn ids(kept: &Kept, sql: &str) -> BTreeSet<String> {
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut kept.server.shell().await).await.unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

fn warm(kept: &Kept) -> BTreeSet<String> {
    kept.warm.warm().keys().map(ToString::to_string).collect()
}

/// Stops what runs, and compares what is warm with what the database says of it.
async fn assert_known(kept: &Kept, step: &Step) {
    let quiet = "select count(*) from runs where status in ('pending', 'running')";
    for session in ids(kept, "select id from live_sessions where parent_key is null").await {
        assert_eq!(kept.server.cancel(&session, None).await.status, 200);
    }
    until(&mut kept.server.shell().await, quiet, 0).await;
    // The reaper is never quiet: what it changes shows soon.
    let same = async {
        loop {
            let (warm, rows, jobs) = (warm(kept), ids(kept, ROWS).await, ids(kept, JOBS).await);
            // A job may be of what was cold already.
            if rows.is_subset(&warm) && warm.is_subset(&rows.union(&jobs).cloned().collect()) {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, same).await.is_err() {
        let (rows, jobs) = (ids(kept, ROWS).await, ids(kept, JOBS).await);
        panic!(
            "after {step:?} these are warm: {:?}, these are said to be: {rows:?}, of these are jobs: {jobs:?}",
            warm(kept)
        );
    }
    let closed = "select a.id from agent_sessions a join sessions s using (session_key)
                  where s.closed_at is not null and a.status = 'warm'
                    and not exists (select 1 from teardown_jobs where payload ->> 'id' = a.id)";
    assert_eq!(ids(kept, closed).await, BTreeSet::new(), "closed, warm, and nobody is to end it: {step:?}");
}

/// Each worktree on disk is one that the database knows, or holds work; and all work is there.
async fn assert_no_work_is_lost(kept: &Kept, trees: &Trees) {
    let known = "select path from worktrees where state in ('creating', 'attached', 'removing', 'retained')";
    let known = ids(kept, known).await;
    let worked = trees.worked.lock().unwrap().clone();
    for file in &worked {
        assert!(file.exists(), "{file:?} is lost");
    }
    let Ok(folder) = std::fs::read_dir(kept.server.folder.path().join("worktrees")) else { return };
    for place in folder.map(|entry| entry.unwrap().path().canonicalize().unwrap()) {
        let holds_work = worked.iter().any(|file| file.starts_with(&place));
        assert!(holds_work || known.contains(place.to_str().unwrap()), "{place:?} is nobody's");
    }
}

async fn live(mut kept: Kept, trees: &mut Trees, steps: &[Step]) -> Kept {
    for step in steps {
        trees.tend(&kept).await;
        match step {
            Step::Ends(works) => kept.warm.ends(if *works { Ending::Works } else { Ending::Fails }),
            Step::Restart => {
                kept = kept.restart().await;
                // What was left to end went with the process.
                until(&mut kept.server.shell().await, "select count(*) from teardown_jobs", 0).await;
            }
            Step::These(ops) => {
                let each = ops.iter().map(|(op, n)| {
                    let name = &trees.names[n % trees.names.len()];
                    act(&kept, &trees.yard, &trees.worked, *op, name, *n)
                });
                futures_util::future::join_all(each).await;
            }
        }
        assert_known(&kept, step).await;
    }
    kept.warm.ends(Ending::Works);
    let mut shell = kept.server.shell().await;
    run(&mut shell, "update teardown_jobs set next_at = 1").await;
    until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    assert_known(&kept, &Step::Ends(true)).await;
    let roots: Vec<String> = trees.names.iter().filter(|name| !name.contains('-')).cloned().collect();
    for root in roots {
        kept.act(&root, "close").await;
    }
    assert!(kept.warm.warm().is_empty());
    assert_no_work_is_lost(&kept, trees).await;
    assert_sound(&mut shell).await;
    kept
}

#[test]
fn in_any_order_nothing_is_warm_that_nobody_knows_of() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut kept = Some(runtime.block_on(Kept::start()));
    let mut trees = Trees { names: Vec::new(), made: 0, yard: Yard::new(), worked: Worked::default() };
    let mut runner = TestRunner::default();
    let cases = std::env::var("CULM_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    for _ in 0..cases {
        let steps = prop::collection::vec(step(), STEPS).new_tree(&mut runner).unwrap().current();
        kept = Some(runtime.block_on(live(kept.take().unwrap(), &mut trees, &steps)));
    }
}
