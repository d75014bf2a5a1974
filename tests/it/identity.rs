//! The database is a file, not a name: links, files that vanish or are replaced, backups that are put back, and what
//! clients hold from before.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::{
    cli::{Serving, culm, scratch, shell},
    executor::Demo,
    support::client,
};

fn serve(db: &Path) -> Serving {
    Serving::start(&mut culm(db, &[]), db)
}

/// The exit code and the words of a start that is refused.
fn refused(db: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = culm(db, arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

const START: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

fn beside(db: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", db.display()))
}

async fn say(server: &Serving, text: &str) -> u16 {
    let message = json!({ "messages": [{ "role": "user", "content": text }] });
    server.post("/sessions/s/messages", message).await.0
}

/// A database that was closed, with a session of so many messages.
async fn closed_with(messages: usize) -> (tempfile::TempDir, PathBuf) {
    let (folder, db) = scratch();
    let mut server = serve(&db);
    server.post("/sessions", json!({ "id": "s" })).await;
    for n in 0..messages {
        assert_eq!(say(&server, &n.to_string()).await, 201);
    }
    assert_eq!(server.signal("TERM"), 0);
    (folder, db)
}

/// Asks whether it is ready until it is not, and gives the reason.
async fn until_not_ready(server: &Serving) -> String {
    let asking = async {
        loop {
            let answer = client().get(format!("{}/ready", server.url)).send().await.unwrap();
            if answer.status() == 503 {
                return answer.json::<Value>().await.unwrap()["detail"].as_str().unwrap().to_owned();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it stays ready")
}

#[tokio::test]
async fn a_database_is_locked_under_every_name_that_it_has() {
    let (folder, db) = scratch();
    let server = serve(&db);
    let link = folder.path().join("link.db");
    symlink(&db, &link).unwrap();
    symlink(db.parent().unwrap(), folder.path().join("folder")).unwrap();
    for name in [link.clone(), folder.path().join("folder/culm.db"), db.parent().unwrap().join("../data/./culm.db")] {
        let (code, said) = refused(&name, &START);
        assert_eq!((code, said.contains("another culm")), (7, true), "{name:?}: {said}");
    }
    assert_eq!((beside(&link, ".lock").exists(), beside(&link, ".token").exists()), (false, false));
    let token = culm(&link, &["token"]).output().unwrap();
    assert_eq!(String::from_utf8(token.stdout).unwrap().trim(), server.token);
    drop(server);
    let hard = folder.path().join("hard.db");
    std::fs::hard_link(&db, &hard).unwrap();
    for name in [&hard, &db] {
        let (code, said) = refused(name, &START);
        assert_eq!((code, said.contains("several names")), (11, true), "{said}");
    }
    std::fs::remove_file(&db).unwrap();
    let (code, said) = refused(&link, &START);
    assert_eq!((code, said.contains("is missing")), (11, true), "{said}");
    assert!(!db.exists());
}

#[tokio::test]
async fn a_database_that_is_missing_is_not_made_anew_unless_that_is_meant() {
    let (_folder, db) = closed_with(1).await;
    let mut server = serve(&db);
    assert_eq!(say(&server, "in the log").await, 201);
    server.signal("KILL");
    let (away, log) = (db.with_file_name("away.db"), beside(&db, "-wal"));
    std::fs::rename(&db, &away).unwrap();
    let before = std::fs::read(&log).unwrap();
    for command in [&START[..], &["reindex"]] {
        let (code, said) = refused(&db, command);
        assert_eq!((code, said.contains("was made here before"), db.exists()), (11, true, false), "{said}");
    }
    // Also without the lock file: the log shows that there was one.
    let lock = std::fs::read(beside(&db, ".lock")).unwrap();
    std::fs::remove_file(beside(&db, ".lock")).unwrap();
    let (code, said) = refused(&db, &START);
    assert_eq!((code, said.contains("without its database"), db.exists()), (11, true, false), "{said}");
    std::fs::write(beside(&db, ".lock"), lock).unwrap();
    assert!(std::fs::read(&log).unwrap() == before, "the log was touched");
    std::fs::rename(&away, &db).unwrap();
    let mut server = serve(&db);
    assert_eq!(server.get("/sessions/s").await.1["session"]["message_count"], 2);
    server.signal("KILL");
    std::fs::remove_file(&db).unwrap();
    let mut server = Serving::start(&mut culm(&db, &["serve", "--create"]), &db);
    assert_eq!(server.get("/sessions/s").await.0, 404);
    assert_eq!(server.signal("TERM"), 0);
    let names = std::fs::read_dir(db.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name());
    let aside = names.filter(|name| name.to_string_lossy().contains("-wal.")).count();
    assert_eq!(aside, 1, "the old log is moved aside");
}

#[tokio::test]
async fn a_file_that_is_moved_deleted_or_replaced_while_it_is_served_ends_all_writing() {
    for what in ["moved", "deleted", "replaced", "log deleted", "index deleted", "lock deleted"] {
        let (_folder, db) = closed_with(1).await;
        let copy = db.with_file_name("copy.db");
        std::fs::copy(&db, &copy).unwrap();
        let mut server = serve(&db);
        assert_eq!(say(&server, "two").await, 201);
        match what {
            "moved" => std::fs::rename(&db, db.with_file_name("away.db")).unwrap(),
            "deleted" => std::fs::remove_file(&db).unwrap(),
            "replaced" => std::fs::rename(&copy, &db).unwrap(),
            "log deleted" => std::fs::remove_file(beside(&db, "-wal")).unwrap(),
            "index deleted" => std::fs::remove_file(beside(&db, "-shm")).unwrap(),
            _ => std::fs::remove_file(beside(&db, ".lock")).unwrap(),
        }
        let reason = until_not_ready(&server).await;
        assert!(reason.contains("while") && reason.contains("served"), "{what}: {reason}");
        assert_eq!(say(&server, "three").await, 503, "{what}");
        assert_eq!(server.get("/sessions/s").await.1["session"]["message_count"], 2, "{what}: reads go on");
        let left = (db.exists(), beside(&db, "-wal").exists());
        assert_eq!(server.signal("TERM"), 11, "{what}");
        assert_eq!((db.exists(), beside(&db, "-wal").exists()), left, "{what}: nothing is made or removed");
        if what == "moved" {
            std::fs::rename(db.with_file_name("away.db"), &db).unwrap();
            assert_eq!(serve(&db).get("/sessions/s").await.1["session"]["message_count"], 2);
        }
    }
}

#[tokio::test]
async fn a_backup_beside_the_log_of_a_later_start_is_refused() {
    let (_folder, db) = closed_with(1).await;
    let (copied, vacuumed) = (db.with_file_name("copied.db"), db.with_file_name("vacuumed.db"));
    std::fs::copy(&db, &copied).unwrap();
    shell(&db, &format!("vacuum into '{}'", vacuumed.display()));
    let mut server = serve(&db);
    assert_eq!(say(&server, "two").await, 201);
    server.signal("KILL");
    let original = db.with_file_name("original.db");
    std::fs::rename(&db, &original).unwrap();
    for copy in [copied, vacuumed] {
        std::fs::copy(&copy, &db).unwrap();
        let (before, log) = (std::fs::read(&db).unwrap(), std::fs::read(beside(&db, "-wal")).unwrap());
        for command in [&START[..], &["reindex"]] {
            let (code, said) = refused(&db, command);
            assert_eq!((code, said.contains("is that of the other one")), (11, true), "{copy:?}: {said}");
        }
        assert_eq!((std::fs::read(&db).unwrap(), std::fs::read(beside(&db, "-wal")).unwrap()), (before, log));
    }
    std::fs::rename(&original, &db).unwrap();
    let server = serve(&db);
    assert_eq!(server.get("/sessions/s").await.1["session"]["message_count"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_file_was_moved_ends_when_it_is_told_to_beside_a_run_too() {
    let demo = Demo::start().await;
    let (_folder, db) = closed_with(1).await;
    let config = db.with_file_name("culm.toml");
    let executor =
        format!("[executors.demo]\nkind = 'openai'\nbase_url = 'http://{}/v1'\nmodel = 'demo'\n", demo.address);
    std::fs::write(&config, executor).unwrap();
    let mut server = Serving::start(culm(&db, &[]).arg("--config").arg(config), &db);
    let endless = json!({ "message": "/slow 1ms\n/endless" });
    assert_eq!(server.post("/sessions/s/runs", endless).await.0, 202);
    demo.stats("requests=1").await;
    std::fs::rename(&db, db.with_file_name("away.db")).unwrap();
    until_not_ready(&server).await;
    assert_eq!(server.signal("TERM"), 11);
}

#[tokio::test]
async fn a_folder_that_is_moved_whole_starts_in_the_same_epoch() {
    let (folder, db) = closed_with(1).await;
    let mut server = serve(&db);
    assert_eq!(say(&server, "two").await, 201);
    server.signal("KILL");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for file in std::fs::read_dir(db.parent().unwrap()).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), elsewhere.join(file.file_name())).unwrap();
        }
    }
    let server = serve(&elsewhere.join("culm.db"));
    assert_eq!(server.get("/sessions/s").await.1["session"]["message_count"], 2);
    assert_eq!(tag(&server).await, "\"3\"");
}

async fn ask(server: &Serving, path: &str) -> (u16, HeaderMap, Value) {
    let request = client().get(format!("{}/api/v1{path}", server.url)).bearer_auth(&server.token);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.headers().clone(), answer.json().await.unwrap())
}

async fn tag(server: &Serving) -> String {
    ask(server, "/sessions/s").await.1["etag"].to_str().unwrap().to_owned()
}

/// The first frames of a stream, up to and with a snapshot.
async fn frames(server: &Serving, last: &str) -> String {
    let request = client().get(format!("{}/api/v1/sessions/s/events", server.url)).bearer_auth(&server.token);
    let mut answer = request.header("last-event-id", last).send().await.unwrap();
    let reading = async {
        let mut text = String::new();
        while !text.contains("event: snapshot\ndata: ") {
            text += &String::from_utf8_lossy(&answer.chunk().await.unwrap().expect("it ends"));
        }
        text
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("no snapshot")
}

async fn rename(server: &Serving, tag: &str) -> u16 {
    let request = client().patch(format!("{}/api/v1/sessions/s", server.url)).bearer_auth(&server.token);
    request.header("if-match", tag).json(&json!({ "title": "new" })).send().await.unwrap().status().as_u16()
}

/// How a backup is put back: that of an earlier start, of the same one after a clean stop, and after a kill.
#[tokio::test]
async fn a_backup_that_is_put_back_begins_a_new_epoch() {
    for (n, how) in ["of an earlier start", "of the same start", "after a kill"].into_iter().enumerate() {
        let (_folder, db) = closed_with(2).await;
        let copy = db.with_file_name("copy.db");
        let mut server = serve(&db);
        shell(&db, &format!(".backup {}", copy.display()));
        if how == "of an earlier start" {
            server.signal("TERM");
            server = serve(&db);
        }
        for text in ["lost", "lost, too"] {
            assert_eq!(say(&server, text).await, 201);
        }
        let lost = tag(&server).await;
        let cursor = {
            server.post("/sessions", json!({ "id": "other" })).await;
            ask(&server, "/sessions?limit=1").await.2["next_cursor"].as_str().unwrap().to_owned()
        };
        let seen = shell(&db, "select max(event_id) from events");
        if how == "after a kill" {
            // The lock file follows the events.
            let lock = beside(&db, ".lock");
            let follows = async {
                while !std::fs::read_to_string(&lock).unwrap().contains(&format!("last_event {seen}\n")) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), follows).await.expect("the lock file does not follow");
            server.signal("KILL");
        } else {
            server.signal("TERM");
        }
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&db, ending));
        }
        std::fs::copy(&copy, &db).unwrap();
        let mut server = serve(&db);
        // The log passes the number that the client has seen, and the version its own.
        for text in ["new", "newer", "newest"] {
            assert_eq!(say(&server, text).await, 201);
        }
        assert_eq!(tag(&server).await, "\"6-2\"", "{how}");
        assert_eq!(rename(&server, &lost).await, 412, "{how}");
        assert_eq!(ask(&server, &format!("/sessions?limit=1&cursor={cursor}")).await.2["code"], "invalid_cursor");
        let told = frames(&server, &seen).await;
        assert!(told.starts_with("event: reset\n"), "{how}: {told}");
        let last = told.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
        assert!(last.ends_with("-2"), "{last}");
        assert_eq!(rename(&server, "\"6-2\"").await, 200);
        // Within an epoch all goes on over a restart.
        server.signal(if n == 1 { "KILL" } else { "TERM" });
        let server = serve(&db);
        assert_eq!(tag(&server).await, "\"7-2\"", "{how}");
    }
}
