//! A server with agents, as a process: what is left of them when it is killed, when it ends, and when it comes back.

use culm::model::BackendId;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::{
    cli::{Serving, culm},
    support::{number, shell, until},
    worktree::Yard,
};

const CULM: &str = env!("CARGO_BIN_EXE_culm");

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(more: &str) -> Self {
        Self::of("acp", "demo-agent", more)
    }

    /// With agents of this kind.
    fn of(kind: &str, agent: &str, more: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let config =
            format!("[executors.demo]\nkind = '{kind}'\ncommand = ['{CULM}', '{agent}', '--stubborn']\n{more}");
        std::fs::write(place.config(), config).unwrap();
        place
    }

    fn db(&self) -> std::path::PathBuf {
        self.folder.path().join("culm.db")
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("culm.toml")
    }

    fn serve(&self) -> Serving {
        let config = self.config();
        Serving::start(&mut culm(&self.db(), &["--config", config.to_str().unwrap()]), &self.db())
    }

    /// The processes of all backends that the database knows.
    async fn processes(&self) -> usize {
        self.pids().await.len()
    }

    async fn pids(&self) -> Vec<i32> {
        let mut shell = shell(&self.db()).await;
        let ids: Vec<String> = sqlx::query_scalar("select id from agent_sessions").fetch_all(&mut shell).await.unwrap();
        ids.iter().flat_map(|id| crate::executor::marked(&id.parse::<BackendId>().unwrap())).collect()
    }

    /// The processes of the server that all backends share.
    fn servers(&self) -> usize {
        crate::executor::servers(&self.folder.path().join("culm.db.agents"), "demo").len()
    }

    async fn warm(&self) -> i64 {
        number(&mut shell(&self.db()).await, "select count(*) from agent_sessions where status = 'warm'").await
    }
}

async fn run(server: &Serving, id: &str, message: &str) -> Value {
    let (status, _) = server.post("/sessions/s/runs", json!({ "id": id, "message": message })).await;
    assert_eq!(status, 202);
    server.get(&format!("/runs/{id}?wait=20")).await.1["run"]["status"].clone()
}

async fn last(server: &Serving) -> String {
    let (_, page) = server.get("/sessions/s/messages?order=desc&limit=1").await;
    page["messages"][0]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_killed_server_leaves_no_process_and_the_next_one_goes_on() {
    let place = Place::new("");
    goes_on_after_a_kill(&place, async || place.processes().await).await;
}

/// `left` counts what runs for the server: an agent, and what it started, in a group of three.
async fn goes_on_after_a_kill(place: &Place, left: impl AsyncFn() -> usize) {
    let mut server = place.serve();
    assert_eq!(server.post("/sessions", json!({ "id": "s" })).await.0, 201);
    assert_eq!(run(&server, "one", "/spawn 1000").await, "completed");
    assert_eq!((left().await, place.warm().await), (3, 1));
    server.signal("KILL");
    // Whoever led the group ends it, though nobody is there to ask for that.
    while left().await > 0 {
        tokio::task::yield_now().await;
    }
    let mut server = place.serve();
    assert_eq!(place.warm().await, 0);
    assert_eq!(run(&server, "two", "/memory").await, "completed");
    assert_eq!(last(&server).await, r#"["/spawn 1000", "/memory"]"#);
    assert_eq!(server.signal("TERM"), 0);
    assert_eq!((left().await, place.warm().await), (0, 0));
}

#[tokio::test]
async fn an_agent_that_was_killed_in_the_midst_of_a_turn_is_told_everything() {
    let place = Place::new("");
    let mut server = place.serve();
    server.post("/sessions", json!({ "id": "s" })).await;
    assert_eq!(run(&server, "one", "hello").await, "completed");
    server.post("/sessions/s/runs", json!({ "id": "two", "message": "and then" })).await;
    server.get("/runs/two?wait=20").await;
    server.post("/sessions/s/runs", json!({ "id": "three", "message": "/tool look at it\n/silent" })).await;
    while last(&server).await != "at it" {
        tokio::task::yield_now().await;
    }
    server.signal("KILL");
    let server = place.serve();
    assert_eq!(run(&server, "four", "/memory").await, "completed");
    let told = last(&server).await;
    assert!(told.starts_with("[\"What follows was said before"), "{told}");
    for said in ["[user] hello", "[you] hello", "[user] and then", "[result of a call] at it", "/memory\"]"] {
        assert_eq!(told.matches(said).count(), 1, "{said} in {told}");
    }
}

#[tokio::test]
async fn the_home_of_an_agent_that_is_not_configured_any_more_goes_with_its_session() {
    let place = Place::new("");
    let homes = place.folder.path().join("culm.db.agents");
    let mut server = place.serve();
    server.post("/sessions", json!({ "id": "s" })).await;
    assert_eq!(run(&server, "one", "hello").await, "completed");
    assert_eq!(std::fs::read_dir(&homes).unwrap().count(), 1);
    assert_eq!(server.signal("TERM"), 0);
    std::fs::write(place.config(), "").unwrap();
    let server = place.serve();
    assert_eq!(server.post("/sessions/cleanup", json!({ "mode": "all" })).await.0, 200);
    assert_eq!(std::fs::read_dir(&homes).unwrap().count(), 0);
}

#[tokio::test]
async fn a_killed_server_leaves_no_server_of_agents_and_the_next_one_goes_on() {
    let place = Place::of("opencode", "demo-opencode", "");
    goes_on_after_a_kill(&place, async || place.servers()).await;
}

#[tokio::test]
async fn a_permission_that_was_asked_for_before_a_kill_is_answered_after_it() {
    for place in [Place::new(""), Place::of("opencode", "demo-opencode", "")] {
        answered_after_a_kill(&place).await;
    }
}

async fn answered_after_a_kill(place: &Place) {
    let mut server = place.serve();
    server.post("/sessions", json!({ "id": "s" })).await;
    server.post("/sessions/s/runs", json!({ "id": "asks", "message": "/permit touch it" })).await;
    while server.get("/sessions/s/question").await.1["has_pending_question"] == false {
        tokio::task::yield_now().await;
    }
    server.signal("KILL");
    let server = place.serve();
    assert_eq!(server.get("/runs/asks").await.1["run"]["status"], "interrupted");
    let (status, answered) = server.post("/sessions/s/question/answer", json!({ "response": "Allow" })).await;
    assert_eq!(status, 200);
    let next = answered["run"]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/runs/{next}?wait=20")).await.1["run"]["status"], "completed");
    assert!(last(&server).await.contains("Allow"), "the agent is told the answer");
}

#[tokio::test]
async fn an_agent_that_ends_while_it_idles_is_warm_no_more() {
    let place = Place::new("");
    let server = place.serve();
    server.post("/sessions", json!({ "id": "s" })).await;
    assert_eq!(run(&server, "one", "hello").await, "completed");
    assert_eq!(place.warm().await, 1);
    for pid in place.pids().await {
        let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    until(&mut shell(&place.db()).await, "select count(*) from agent_sessions where status = 'warm'", 0).await;
    assert_eq!(run(&server, "two", "/memory").await, "completed");
    assert_eq!(last(&server).await, r#"["hello", "/memory"]"#);
}

/// An agent works in the worktree of its tree as long as there is one, and is in nobody's way when it goes.
#[tokio::test]
async fn an_agent_works_in_the_worktree_of_its_tree() {
    let (place, yard) = (Place::new(""), Yard::new());
    let server = place.serve();
    server.post("/sessions", json!({ "id": "s" })).await;
    assert_eq!(run(&server, "before", "/where").await, "completed");
    let elsewhere = last(&server).await;
    let (status, attached) = server.put("/sessions/s/worktree", json!({ "repository": yard.repo() })).await;
    assert_eq!(status, 201);
    let path = attached["worktree"]["path"].as_str().unwrap();
    assert_eq!(run(&server, "within", "/where").await, "completed");
    assert!(last(&server).await.starts_with(&format!("{path} ")));
    let preview = server.get("/sessions/s/close").await.1;
    assert_eq!(preview["results"][0]["worktree_removed"], true, "{preview}");
    let (status, removed) = server.delete("/sessions/s/worktree").await;
    assert_eq!((status, &removed["removed"]), (200, &json!(true)), "{removed}");
    assert_eq!(place.warm().await, 0);
    assert_eq!(run(&server, "after", "/where").await, "completed");
    assert_eq!(last(&server).await, elsewhere);
}

/// A git that never ends, and has started something that does not end either; it writes both numbers down.
fn hanging_git(place: &Place) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let (dir, pids) = (place.folder.path().join("bin"), place.folder.path().join("pids"));
    std::fs::create_dir(&dir).unwrap();
    let script =
        format!("#!/bin/sh\ntail -f /dev/null &\necho $$ $! > '{0}.new'\nmv '{0}.new' '{0}'\nwait\n", pids.display());
    std::fs::write(dir.join("git"), script).unwrap();
    std::fs::set_permissions(dir.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// However the server ends while git hangs, it ends soon, git ends with it, and nothing is left beside.
#[tokio::test]
async fn a_git_that_hangs_ends_with_the_server() {
    for signal in ["TERM", "KILL"] {
        let (place, yard) = (Place::new(""), Yard::new());
        let (bin, pids, temporary) =
            (hanging_git(&place), place.folder.path().join("pids"), tempfile::tempdir().unwrap());
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = culm(&place.db(), &["--grace-seconds", "1"]);
        let mut server = Serving::start(command.env("PATH", path).env("TMPDIR", temporary.path()), &place.db());
        assert_eq!(server.post("/sessions", json!({ "id": "s" })).await.0, 201);
        let attach = crate::support::client()
            .put(format!("{}/api/v1/sessions/s/worktree", server.url))
            .bearer_auth(&server.token)
            .json(&json!({ "repository": yard.repo() }));
        let attaching = culm::tasks::owned(attach.send());
        crate::scripted::soon(async {
            while !pids.exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let code = server.signal(signal);
        assert_eq!(code, if signal == "TERM" { 0 } else { -1 });
        drop(attaching);
        let pids = std::fs::read_to_string(pids).unwrap();
        let is_there = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
        };
        crate::scripted::soon(async {
            while pids.split_whitespace().any(is_there) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let left = || std::fs::read_dir(temporary.path()).unwrap().count();
        if signal == "TERM" {
            assert_eq!(left(), 0);
        }
        let _next = Serving::start(culm(&place.db(), &[]).env("TMPDIR", temporary.path()), &place.db());
        assert_eq!(left(), 0, "the next start sweeps");
    }
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_said_at_start() {
    let place = Place::new("[executors.gone]\nkind = 'acp'\ncommand = ['no-such-agent']\n");
    let config = place.config();
    let _server = Serving::logging(&mut culm(&place.db(), &["--config", config.to_str().unwrap()]), &place.db());
    let log = crate::cli::logged(&place.db(), "executors.gone: the command 'no-such-agent' is not there").await;
    assert!(!log.contains("executors.demo:"), "{log}");
}

#[tokio::test]
async fn agents_are_listed_and_tried() {
    let shared = format!("[executors.shared]\nkind = 'opencode'\ncommand = ['{CULM}', 'demo-opencode']\n");
    let place = Place::new(&format!("[executors.gone]\nkind = 'acp'\ncommand = ['no-such-agent']\n{shared}"));
    let (config, version) = (place.config(), env!("CARGO_PKG_VERSION"));
    let agents = |more: &[&str]| {
        let arguments = [&["agents", "--config", config.to_str().unwrap()], more].concat();
        let output = culm(&place.db(), &arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, lines) = agents(&[]);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!((code, lines.len()), (1, 3), "{lines:#?}");
    assert_eq!(lines[0], format!("demo (acp, {CULM}): culm-demo-agent {version}, goes on after a restart"));
    assert!(lines[1].starts_with("gone (acp, no-such-agent): FAILS: the agent is gone"), "{lines:#?}");
    assert!(lines[1].contains("No such file or directory"));
    assert_eq!(lines[2], format!("shared (opencode, {CULM}): opencode demo, one server for all sessions"));
    let (_, lines) = agents(&["--check"]);
    assert_eq!(lines.matches("answers: Say hello in one short sentence").count(), 2, "{lines}");
    assert!(!place.db().exists(), "no database is made for it");
}
