//! The worktree of a session's tree over HTTP.

use std::fs;

use culm::storage::Storage;
use serde_json::{Value, json};

use super::{Answer, Server, family::Family};
use crate::{
    support::{run, until},
    worktree::{Yard, blob, commit, repository, said, write},
};

async fn attach(server: &Server, session: &str, yard: &Yard) -> Answer {
    server.put(&format!("/sessions/{session}/worktree"), json!({ "repository": yard.repo() })).await
}

fn path(answer: &Answer) -> std::path::PathBuf {
    answer.body["worktree"]["path"].as_str().unwrap().into()
}

/// The worktrees that a repository knows, its main working tree among them.
fn known(yard: &Yard) -> usize {
    said(&yard.repo(), &["worktree", "list", "--porcelain"]).matches("worktree ").count()
}

#[tokio::test]
async fn a_tree_has_one_worktree_which_any_of_its_sessions_shows() {
    let (family, yard) = (Family::start().await, Yard::new());
    let server = &family.server;
    family.child("child", false).await;
    assert_eq!(server.get("/sessions/parent/worktree").await.code(), (404, "worktree_not_found"));
    let attached = attach(server, "child", &yard).await;
    assert_eq!(attached.status, 201);
    let shown = &attached.body["worktree"];
    assert_eq!((&shown["session_id"], &shown["state"]), (&json!("parent"), &json!("attached")));
    assert_eq!(path(&attached), server.folder.path().join("worktrees/parent").canonicalize().unwrap());
    for session in ["parent", "child"] {
        let read = server.get(&format!("/sessions/{session}/worktree")).await;
        assert_eq!((read.status.as_u16(), &read.body), (200, &attached.body));
    }
    let again = attach(server, "parent", &yard).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &attached.body), "the same request, sent twice");
    let body = json!({ "repository": yard.repo(), "branch": "other" });
    let other = server.put("/sessions/parent/worktree", body).await;
    assert_eq!(other.code(), (409, "worktree_exists"));
    assert_eq!((&other.body["session_id"], &other.body["path"]), (&json!("parent"), &shown["path"]));
    assert_eq!(known(&yard), 2);
}

#[tokio::test]
async fn one_worktree_has_one_tree() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("a", &[]).await;
    server.session("b", &[]).await;
    let place = yard.path("mine");
    said(&yard.repo(), &["worktree", "add", "-q", "-b", "mine", place.to_str().unwrap()]);
    assert_eq!(server.put("/sessions/a/worktree", json!({ "adopt": place })).await.status, 201);
    std::os::unix::fs::symlink(&place, yard.path("link")).unwrap();
    for place in [&place, &yard.path("link")] {
        let answer = server.put("/sessions/b/worktree", json!({ "adopt": place })).await;
        assert_eq!((answer.code(), &answer.body["session_id"]), ((409, "worktree_exists"), &json!("a")));
    }
    // Under another path it is the same to the repository.
    fs::rename(&place, yard.path("moved")).unwrap();
    let answer = server.put("/sessions/b/worktree", json!({ "adopt": yard.path("moved") })).await;
    assert_eq!(answer.code(), (409, "worktree_exists"));
    fs::rename(yard.path("moved"), &place).unwrap();
    assert!(said(&yard.repo(), &["worktree", "list", "--porcelain"]).contains("locked culm: session a"));
    let detached = server.delete("/sessions/a/worktree").await;
    assert_eq!((detached.status.as_u16(), &detached.body["removed"]), (200, &json!(true)));
    assert!(!place.exists());
    said(&yard.repo(), &["rev-parse", "--verify", "mine"]);
}

#[tokio::test]
async fn work_at_risk_stays_unless_it_is_discarded() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    let top = path(&attach(&server, "s", &yard).await);
    write(&top.join("new"), b"new\n");
    write(&top.join("file"), b"edited\n");
    let refused = server.delete("/sessions/s/worktree").await;
    assert_eq!(refused.code(), (409, "work_at_risk"));
    assert_eq!(refused.body["checks"], json!(["uncommitted", "untracked"]));
    let found =
        json!({ "uncommitted": { "count": 1, "first": ["file"] }, "untracked": { "count": 1, "first": ["new"] } });
    assert_eq!(refused.body["at_risk"], found);
    let shown = server.get("/sessions/s/worktree").await;
    assert_eq!(shown.body["worktree"]["state"], "attached");
    assert_eq!(shown.body["worktree"]["rescue_ref"], Value::Null);
    let detached = server.delete("/sessions/s/worktree?discard=true").await;
    assert_eq!(detached.status, 200);
    let name = detached.body["rescue_ref"].as_str().unwrap();
    assert!(name.starts_with("refs/rescue/s/2"), "{name}");
    assert_eq!(detached.body["worktree"]["state"], "removed");
    assert_eq!(blob(&yard.repo(), name, "new").as_deref(), Some("new\n"));
    assert!(!top.exists());
    assert_eq!(server.delete("/sessions/s/worktree").await.code(), (404, "worktree_not_found"));
    assert_eq!(attach(&server, "s", &yard).await.status, 201, "and another one can be attached");
}

#[tokio::test]
async fn a_worktree_that_git_cannot_judge_is_at_risk_and_in_nobodys_way_once_it_is_discarded() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    for own in [false, true] {
        let top = path(&attach(&server, "s", &yard).await);
        write(&top.join("precious"), b"work\n");
        fs::remove_file(top.join(".git")).unwrap();
        if own {
            repository(&top);
        }
        assert_eq!(server.get("/sessions/s/close").await.body["results"][0]["worktree_at_risk"], true);
        let refused = server.delete("/sessions/s/worktree").await;
        assert_eq!(refused.code(), (409, "work_at_risk"));
        assert_eq!(refused.body["at_risk"]["unreadable"], "it does not lead to its repository any more");
        assert_eq!(fs::read(top.join("precious")).unwrap(), b"work\n");
        let detached = server.delete("/sessions/s/worktree?discard=true").await;
        assert_eq!((detached.status.as_u16(), &detached.body["removed"]), (200, &json!(true)));
        assert!(!top.exists());
        match detached.body["set_aside"].as_str() {
            Some(aside) => assert!(own && std::path::Path::new(aside).join("precious").exists()),
            None => {
                let name = detached.body["rescue_ref"].as_str().unwrap();
                assert_eq!((own, blob(&yard.repo(), name, "precious").as_deref()), (false, Some("work\n")));
            }
        }
    }
    // And by a close that is forced.
    let top = path(&attach(&server, "s", &yard).await);
    write(&top.join("precious"), b"work\n");
    fs::remove_file(top.join(".git")).unwrap();
    repository(&top);
    let closed = server.post("/sessions/s/close?force=true", json!({})).await;
    let result = &closed.body["results"][0];
    assert_eq!(result["worktree_removed"], true, "{closed:?}");
    assert!(std::path::Path::new(result["set_aside"].as_str().unwrap()).join("precious").exists());
}

#[tokio::test]
async fn a_worktree_is_not_removed_while_anything_runs_in_its_tree() {
    let (family, yard) = (Family::start().await, Yard::new());
    let server = &family.server;
    assert_eq!(attach(server, "parent", &yard).await.status, 201);
    family.child("child", true).await;
    let begun = family.begun().await;
    for query in ["", "?discard=true"] {
        let refused = server.delete(&format!("/sessions/parent/worktree{query}")).await;
        assert_eq!((refused.code(), &refused.body["session_id"]), ((409, "session_busy"), &json!("child")));
    }
    family.finish(begun, "done").await;
    assert_eq!(server.delete("/sessions/parent/worktree").await.status, 200);
}

#[tokio::test]
async fn the_main_working_tree_is_let_go_and_stays() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    let attached = server.put("/sessions/s/worktree", json!({ "adopt": yard.repo() })).await;
    assert_eq!((attached.status.as_u16(), &attached.body["worktree"]["main"]), (201, &json!(true)));
    write(&yard.repo().join("new"), b"new\n");
    let detached = server.delete("/sessions/s/worktree?discard=true").await;
    assert_eq!((detached.status.as_u16(), &detached.body["removed"]), (200, &json!(false)));
    assert_eq!(detached.body["worktree"]["state"], "detached");
    assert!(detached.body["left"].as_str().unwrap().contains("never removed"));
    assert!(yard.repo().join("new").exists());
}

#[tokio::test]
async fn what_cannot_be_attached_is_refused_by_the_name_of_its_field() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    let repo = yard.repo();
    for (body, param) in [
        (json!({}), "repository"),
        (json!({ "repository": repo, "adopt": repo }), "repository"),
        (json!({ "repository": "relative" }), "repository"),
        (json!({ "repository": "/no/where" }), "repository"),
        (json!({ "repository": repo, "branch": "-f" }), "branch"),
        (json!({ "repository": repo, "branch": "" }), "branch"),
        (json!({ "repository": repo, "commit": "a\nb" }), "commit"),
        (json!({ "repository": repo, "commit": "nothing" }), "commit"),
        (json!({ "repository": repo, "path": "/dev/null" }), "path"),
        (json!({ "repository": repo, "path": "/x\u{0}y" }), "path"),
        (json!({ "adopt": "/", "branch": "x" }), "branch"),
        (json!({ "adopt": "/", "path": "/x" }), "path"),
        (json!({ "adopt": "file:///" }), "adopt"),
        (json!({ "repository": repo, "force": true }), "force"),
    ] {
        let answer = server.put("/sessions/s/worktree", body.clone()).await;
        assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!(param)), "{body}");
    }
    let body = json!({ "repository": repo, "branch": "main" });
    let busy = server.put("/sessions/s/worktree", body).await;
    assert_eq!((busy.code(), &busy.body["branch"]), ((409, "branch_in_use"), &json!("main")));
    assert_eq!(server.delete("/sessions/s/worktree?force=true").await.code(), (400, "invalid_request"));
    for (session, status, code) in [("absent", 404, "session_not_found"), ("gone", 410, "session_deleted")] {
        if session == "gone" {
            server.session("gone", &[]).await;
            assert_eq!(server.delete("/sessions/gone").await.status, 200);
        }
        assert_eq!(attach(&server, session, &yard).await.code(), (status, code));
        let read = server.get(&format!("/sessions/{session}/worktree")).await;
        assert_eq!(read.code(), (404, "session_not_found"));
        assert_eq!(server.delete(&format!("/sessions/{session}/worktree")).await.code(), (404, "session_not_found"));
    }
    assert_eq!(known(&yard), 1);
}

#[tokio::test]
async fn a_server_that_starts_ends_what_the_last_one_began() {
    let (server, yard) = (Server::start().await, Yard::new());
    for session in ["made", "removed", "risky", "forced", "adopted"] {
        server.session(session, &[]).await;
    }
    let tops = ["made", "removed", "risky", "forced"].map(|session| (session, &server, &yard));
    let tops = futures_util::future::join_all(tops.map(|(session, server, yard)| attach(server, session, yard))).await;
    let tops: Vec<_> = tops.iter().map(path).collect();
    write(&tops[2].join("new"), b"new\n");
    write(&tops[3].join("new"), b"new\n");
    assert_eq!(server.put("/sessions/adopted/worktree", json!({ "adopt": yard.repo() })).await.status, 201);
    // What a server has written down when it is killed.
    let state = |session: &str, set: &str| {
        format!(
            "update worktrees set {set} where root_key = (select session_key from sessions where id = '{session}');"
        )
    };
    let removing =
        |discard| format!("state = 'removing', discard = {discard}, rescue_ref = 'refs/rescue/x/then-' || root_key");
    let killed = [
        state("made", "state = 'creating', git_dir = null"),
        state("removed", &removing(0)),
        state("risky", &removing(0)),
        state("forced", &removing(1)),
        state("adopted", "state = 'creating'"),
    ];
    let mut shell = server.shell().await;
    run(&mut shell, &killed.concat()).await;
    drop(shell);
    let server = server.restart().await;
    let unfinished = "select count(*) from worktrees where state in ('creating', 'removing')";
    until(&mut server.shell().await, unfinished, 0).await;
    let there = tops.iter().map(|top| top.exists()).collect::<Vec<_>>();
    assert_eq!(there, [false, false, true, false]);
    assert_eq!(server.get("/sessions/risky/worktree").await.body["worktree"]["state"], "attached");
    for session in ["made", "removed", "forced", "adopted"] {
        let answer = server.get(&format!("/sessions/{session}/worktree")).await;
        assert_eq!(answer.code(), (404, "worktree_not_found"), "{session}");
    }
    assert!(yard.repo().join("file").exists());
    let names = said(&yard.repo(), &["for-each-ref", "--format=%(refname)", "refs/rescue/x"]);
    assert!(names.lines().any(|name| blob(&yard.repo(), name, "new").is_some()), "{names}");
    assert!(server.repository.unfinished_worktrees().await.unwrap().is_empty());
    assert_eq!(known(&yard), 2);
}

#[tokio::test]
async fn a_tree_that_is_deleted_while_its_worktree_is_made_has_none() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    let (attached, deleted) = tokio::join!(attach(&server, "s", &yard), server.delete("/sessions/s"));
    assert_eq!(deleted.status, 200);
    // Whether it was there before the deletion, or was not made any more.
    assert!(matches!(attached.status.as_u16(), 201 | 404 | 410), "{attached:?}");
    until(&mut server.shell().await, "select count(*) from teardown_jobs", 0).await;
    assert_eq!(known(&yard), 1);
}

#[tokio::test]
async fn a_squashed_branch_is_kept_and_said() {
    let (server, yard) = (Server::start().await, Yard::new());
    server.session("s", &[]).await;
    let top = path(&attach(&server, "s", &yard).await);
    write(&top.join("work"), b"work\n");
    commit(&top, "work");
    said(&yard.repo(), &["merge", "-q", "--squash", "culm/s"]);
    commit(&yard.repo(), "squashed");
    let detached = server.delete("/sessions/s/worktree").await;
    assert_eq!((&detached.body["removed"], &detached.body["branch_deleted"]), (&json!(true), &json!(false)));
}
