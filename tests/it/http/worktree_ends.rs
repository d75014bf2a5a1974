//! What becomes of a tree's worktree when its sessions are closed or deleted. On a real repository.

use std::path::{Path, PathBuf};

use culm::{
    model::{DeleteOptions, Limits},
    runs::Executors,
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage},
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use tokio::process::Command;

use super::{Answer, Server, client::options, lifecycle::Kept, teardown::started};
use crate::{
    support::{run, until},
    warm::Ending,
    worktree::{Yard, blob, git, said, write},
};

/// A server, a repository, and a tree `r` over `a` that works in a worktree.
struct Site {
    kept: Kept,
    yard: Yard,
    worktree: PathBuf,
}

impl Site {
    async fn start() -> Self {
        let (kept, yard) = (Kept::start().await, Yard::new());
        kept.tree("r", &["a"]).await;
        let worktree = attach(&kept.server, &yard).await;
        Self { kept, yard, worktree }
    }

    /// Leaves work that git does not know of.
    fn work(&self) {
        write(&self.worktree.join("work"), b"of hours");
    }

    fn worked(&self, rescue_ref: &Value) -> Option<String> {
        blob(&self.yard.repo(), rescue_ref.as_str().unwrap(), "work")
    }

    async fn state(&self) -> Value {
        self.kept.server.get("/sessions/a/worktree").await.body["worktree"]["state"].clone()
    }

    async fn remove(&self, discard: bool) -> Answer {
        let path = format!("/sessions/r/worktree?discard={discard}");
        self.kept.server.send(self.kept.server.request(Method::DELETE, &path)).await
    }

    async fn delete(&self, query: &str) -> Value {
        let request = self.kept.server.request(Method::DELETE, &format!("/sessions/r{query}"));
        let answer = self.kept.server.send(request.header("Prefer", "return=representation")).await;
        assert_eq!(answer.status, 200);
        answer.body
    }

    async fn reaped(&self) {
        let mut shell = self.kept.server.shell().await;
        run(&mut shell, "update teardown_jobs set next_at = 1").await;
        until(&mut shell, "select count(*) from teardown_jobs", 0).await;
    }
}

async fn attach(server: &Server, yard: &Yard) -> PathBuf {
    let attached = server.put("/sessions/r/worktree", json!({ "repository": yard.repo() })).await;
    assert_eq!(attached.status, 201, "{attached:?}");
    PathBuf::from(attached.body["worktree"]["path"].as_str().unwrap())
}

/// What is said of the worktree: whether it was removed, and whether work is at risk.
fn fate(answer: &Answer) -> (bool, bool) {
    let results = answer.body["results"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    assert!(
        results[1..].iter().all(|result| result["worktree_removed"] == false && result["worktree_at_risk"] == false)
    );
    (results[0]["worktree_removed"] == true, results[0]["worktree_at_risk"] == true)
}

fn is_known(yard: &Yard, worktree: &Path) -> bool {
    said(&yard.repo(), &["worktree", "list", "--porcelain"]).contains(worktree.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_goes_with_the_last_session_that_is_closed() {
    let site = Site::start().await;
    let kept = &site.kept;
    let preview = kept.server.get("/sessions/a/close").await;
    assert_eq!(fate(&preview), (false, false));
    assert_eq!(fate(&kept.act("a", "close").await), (false, false));
    assert!(site.worktree.join("file").exists());
    let preview = kept.server.get("/sessions/r/close").await;
    assert_eq!(fate(&preview), (true, false), "{preview:?}");
    assert!(site.worktree.join("file").exists());
    let closed = kept.act("r", "archive").await;
    assert_eq!((fate(&closed), &closed.body["ok"]), ((true, false), &json!(true)), "{closed:?}");
    assert!(!site.worktree.exists() && !is_known(&site.yard, &site.worktree));
    assert_eq!(kept.server.get("/sessions/r/worktree").await.code(), (404, "worktree_not_found"));
    assert_eq!(fate(&kept.act("r", "close").await), (false, false));
    assert_eq!(kept.jobs().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_at_risk_stays_until_it_is_forced() {
    let site = Site::start().await;
    site.work();
    let kept = &site.kept;
    let preview = kept.server.get("/sessions/r/close").await;
    assert_eq!(
        (fate(&preview), preview.body["results"][0]["at_risk"]["untracked"]["count"].as_i64()),
        ((false, true), Some(1))
    );
    assert_eq!(fate(&kept.server.get("/sessions/r/close?force=true").await), (true, false));
    for _ in 0..2 {
        let closed = kept.act("r", "close").await;
        assert_eq!((fate(&closed), &closed.body["ok"]), ((false, true), &json!(true)), "{closed:?}");
        assert_eq!(closed.body["results"][0]["at_risk"]["untracked"]["first"], json!(["work"]));
        assert!(closed.body["results"][0]["closed_at"].is_string());
        assert_eq!(site.state().await, "retained");
    }
    kept.ran("a").await;
    assert_eq!(site.state().await, "attached");
    assert_eq!(fate(&kept.act("r", "reopen").await), (false, false));
    let forced = kept.act("r", "close?force=true").await;
    assert_eq!(fate(&forced), (true, false));
    assert_eq!(site.worked(&forced.body["results"][0]["rescue_ref"]).as_deref(), Some("of hours"));
    assert!(!site.worktree.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_removes_what_nothing_is_lost_with_and_names_the_rest() {
    let site = Site::start().await;
    let receipt = site.delete("").await;
    assert_eq!((&receipt["retained_worktrees"], &receipt["unfinished"]), (&json!([]), &json!([])));
    assert!(!site.worktree.exists() && !is_known(&site.yard, &site.worktree));
    let site = Site::start().await;
    site.work();
    let receipt = site.delete("?discard_worktree=false").await;
    assert_eq!((&receipt["retained_worktrees"], &receipt["unfinished"]), (&json!([&site.worktree]), &json!([])));
    assert!(site.worktree.join("work").exists());
    // It is its owner's to remove now.
    said(&site.yard.repo(), &["worktree", "remove", "--force", site.worktree.to_str().unwrap()]);
    let site = Site::start().await;
    site.work();
    let receipt = site.delete("?discard_worktree=true").await;
    assert_eq!((&receipt["retained_worktrees"], &receipt["unfinished"]), (&json!([]), &json!([])));
    assert!(!site.worktree.exists());
    let rescued = said(&site.yard.repo(), &["for-each-ref", "--format=%(refname)", "refs/rescue/r"]);
    assert_eq!(site.worked(&json!(rescued)).as_deref(), Some("of hours"));
    assert_eq!(site.kept.jobs().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_and_a_shell_treat_worktrees_as_a_delete_does() {
    let site = Site::start().await;
    site.work();
    let receipt = site.kept.server.post("/sessions/cleanup", json!({ "mode": "all" })).await;
    assert_eq!(receipt.body["retained_worktrees"], json!([&site.worktree]));
    assert!(site.worktree.join("work").exists());
    for work in [false, true] {
        let site = Site::start().await;
        if work {
            site.work();
        }
        run(&mut site.kept.server.shell().await, "delete from sessions where id = 'r'").await;
        site.reaped().await;
        assert_eq!((site.worktree.exists(), site.kept.warm.warm().len()), (work, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checkout_of_a_person_is_let_go_and_stays() {
    for delete in [false, true] {
        let site = Kept::start().await;
        let yard = Yard::new();
        site.tree("r", &[]).await;
        let attached = site.server.put("/sessions/r/worktree", json!({ "adopt": yard.repo() })).await;
        assert_eq!((attached.status.as_u16(), &attached.body["worktree"]["main"]), (201, &json!(true)));
        if delete {
            let request = site.server.request(Method::DELETE, "/sessions/r?discard_worktree=true");
            let receipt = site.server.send(request.header("Prefer", "return=representation")).await;
            assert_eq!(receipt.body["retained_worktrees"], json!([yard.repo()]));
        } else {
            assert_eq!(fate(&site.server.get("/sessions/r/close").await), (false, false));
            assert_eq!(fate(&site.act("r", "close?force=true").await), (false, false));
        }
        assert!(yard.repo().join("file").exists());
        assert_eq!(site.jobs().await, 0);
    }
}

/// What works in a worktree is ended before it: while that fails, it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_waits_for_what_works_in_it() {
    let site = Site::start().await;
    site.kept.warm.ends(Ending::Fails);
    let closed = site.kept.act("r", "close").await;
    assert_eq!((fate(&closed), &closed.body["ok"]), ((false, false), &json!(false)));
    let error = closed.body["results"][0]["error"].as_str().unwrap();
    assert!(error.ends_with("the worktree was not removed: what works in it has not ended"), "{error}");
    assert_eq!((site.kept.jobs().await, site.worktree.exists()), (3, true));
    site.kept.warm.ends(Ending::Works);
    site.reaped().await;
    assert!(!site.worktree.exists());

    let site = Site::start().await;
    site.kept.warm.ends(Ending::Fails);
    let receipt = site.delete("").await;
    let mut left: Vec<_> = receipt["unfinished"].as_array().unwrap().iter().map(|left| left["kind"].clone()).collect();
    left.sort_by_key(ToString::to_string);
    assert_eq!((left, site.worktree.exists()), (vec![json!("backend"), json!("backend"), json!("worktree")], true));
    site.kept.warm.ends(Ending::Works);
    site.reaped().await;
    assert!(!site.worktree.exists());
}

/// A close that could not remove the worktree is void once a session is open again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_that_is_worked_in_again_stays() {
    let site = Site::start().await;
    site.kept.warm.ends(Ending::Fails);
    site.kept.act("r", "close").await;
    site.kept.warm.ends(Ending::Works);
    site.kept.act("a", "reopen").await;
    site.reaped().await;
    assert!(site.worktree.exists());
    assert_eq!(site.state().await, "attached");
}

/// What else works in a worktree stands against a close, whatever is warm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_disregards_what_the_close_will_end_and_nothing_else() {
    let site = Site::start().await;
    let here = |command: &mut Command| started(command.current_dir(&site.worktree));
    let (_own, process) = here(Command::new("cat").process_group(0));
    let pid = format!(
        "update agent_sessions set pid = {}, pid_started = {} where session_key = (select session_key from sessions where id = 'a')",
        process.pid, process.started
    );
    run(&mut site.kept.server.shell().await, &pid).await;
    assert_eq!(fate(&site.kept.server.get("/sessions/r/close").await), (true, false));
    let (_foreign, process) = here(&mut Command::new("cat"));
    let preview = site.kept.server.get("/sessions/r/close").await;
    let found = &preview.body["results"][0]["at_risk"]["processes"];
    assert_eq!(
        (fate(&preview), found),
        ((false, true), &json!({ "count": 1, "first": [format!("{} cat", process.pid)] }))
    );
}

/// Of two that remove it at once, one keeps what is at risk: there is a record of it as long as it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_remove_it_at_once_agree() {
    for round in 0..2 {
        let site = Site::start().await;
        site.work();
        let (close, delete) = (site.kept.act("r", "close?force=true"), site.remove(round % 2 == 0));
        let (closed, removed, again) = tokio::join!(close, delete, site.remove(false));
        let there = site.worktree.exists();
        let known = site.kept.server.get("/sessions/a/worktree").await.status == 200;
        assert_eq!(there, known, "{closed:?} {removed:?} {again:?}");
        assert_eq!(is_known(&site.yard, &site.worktree), there);
        let rescued = said(&site.yard.repo(), &["for-each-ref", "--format=%(refname)", "refs/rescue/r"]);
        assert!(there || site.worked(&json!(rescued)).is_some());
    }
}

/// A removal that cannot go on is gone on with later; a run does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_fails_half_way_is_tried_again_and_runs_say_so() {
    let site = Site::start().await;
    // What is no directory of git's own is not removed as one.
    let known = site.yard.repo().join(".git/worktrees");
    std::fs::rename(known.join("r"), known.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", known.join("r")).unwrap();
    let removed = site.remove(true).await;
    assert_eq!(removed.code(), (500, "git_failed"), "{removed:?}");
    assert_eq!((site.state().await, site.kept.jobs().await), (json!("removing"), 1));
    let server = &site.kept.server;
    let failed = server.ended(&server.run("a").await).await;
    assert_eq!(failed["status"], "error");
    assert!(failed["error"].as_str().unwrap().contains("half removed"), "{failed}");
    std::fs::remove_file(known.join("r")).unwrap();
    std::fs::rename(known.join("elsewhere"), known.join("r")).unwrap();
    site.reaped().await;
    assert_eq!(server.get("/sessions/a/worktree").await.code(), (404, "worktree_not_found"));
    assert!(!site.worktree.exists() && !is_known(&site.yard, &site.worktree));
    site.kept.ran("a").await;
}

/// What a forced close could not remove is not removed by force after it was worked in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_close_is_void_once_the_tree_is_open_again() {
    let site = Site::start().await;
    site.kept.warm.ends(Ending::Fails);
    site.kept.act("r", "close?force=true").await;
    site.kept.warm.ends(Ending::Works);
    site.kept.act("r", "reopen").await;
    site.work();
    assert_eq!(fate(&site.kept.act("r", "close").await), (false, true));
    site.reaped().await;
    assert!(site.worktree.join("work").exists());
    assert_eq!(site.state().await, "retained");
}

/// The server is killed between the commit of a delete and what follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_only_committed_is_done_at_the_next_start() {
    let yard = Yard::new();
    let server = Server::start().await;
    server.session("r", &[]).await;
    let worktree = attach(&server, &yard).await;
    let folder = server.stop().await;
    let storage = SqliteStorage::open(&Options::new(folder.path().join("culm.db"))).await.unwrap();
    storage.delete_session(&crate::support::id("r"), DeleteOptions::default()).await.unwrap();
    storage.close().await;
    drop(storage);
    assert!(worktree.exists());
    let server = Server::start_on(folder, Limits::default(), Executors::new(), options()).await;
    until(&mut server.shell().await, "select count(*) from teardown_jobs", 0).await;
    assert!(!worktree.exists());
    assert!(git(&yard.repo(), &["fsck"]).status.success());
}
