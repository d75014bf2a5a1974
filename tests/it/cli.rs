//! The binary: what a person at a shell sees of it. Exit codes, sentences, signals, files.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use culm::storage::{
    Storage,
    sqlite::{Options, SqliteStorage},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client;

const CULM: &str = env!("CARGO_BIN_EXE_culm");

pub(crate) fn culm(db: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(CULM);
    // Nothing of the surroundings is heard.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(arguments).arg("--db").arg(db);
    command
}

pub(crate) fn run(db: &Path, arguments: &[&str]) -> Output {
    culm(db, arguments).output().unwrap()
}

/// The exit code and the one sentence that went with it.
pub(crate) fn refusal(output: &Output) -> (i32, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code().unwrap(), said)
}

/// A server in a process of its own.
pub(crate) struct Serving {
    process: Child,
    lines: Vec<String>,
    pub(crate) url: String,
    pub(crate) token: String,
}

impl Serving {
    /// Its log goes where nothing can be written.
    pub(crate) fn start(command: &mut Command, db: &Path) -> Self {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        Self::start_with_log(command, db, full)
    }

    /// Its log is in a file beside the folder of its database.
    pub(crate) fn logging(command: &mut Command, db: &Path) -> Self {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log_file(db)).unwrap();
        Self::start_with_log(command, db, log)
    }

    fn start_with_log(command: &mut Command, db: &Path, log: std::fs::File) -> Self {
        let mut process = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let lines: Vec<String> = std::iter::from_fn(|| lines.next()).take(4).map(Result::unwrap).collect();
        let url = lines
            .iter()
            .find_map(|line| line.split_whitespace().find(|word| word.starts_with("http://")))
            .unwrap()
            .to_owned();
        let token = String::from_utf8(run(db, &["token"]).stdout).unwrap().trim().to_owned();
        Self { process, lines, url, token }
    }

    pub(crate) fn on(db: &Path) -> Self {
        Self::start(&mut culm(db, &[]), db)
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client().post(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let request = client().get(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client().put(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        let request = client().delete(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub(crate) fn signal(&mut self, name: &str) -> i32 {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
        let status = self.process.wait().unwrap();
        status.code().unwrap_or(-1)
    }
}

fn log_file(db: &Path) -> PathBuf {
    db.parent().unwrap().with_extension("log")
}

/// The log of a server on this database, as soon as it holds these words; a minute is waited for them.
pub(crate) async fn logged(db: &Path, words: &str) -> String {
    let reading = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            match std::fs::read_to_string(log_file(db)).unwrap() {
                log if log.contains(words) => return log,
                _ => pause.tick().await,
            };
        }
    };
    let log = tokio::time::timeout(Duration::from_secs(60), reading).await;
    log.unwrap_or_else(|_| panic!("{words} is never logged: {}", std::fs::read_to_string(log_file(db)).unwrap()))
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("data").join("culm.db");
    (folder, db)
}

pub(crate) fn shell(db: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg(db).arg(sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_server_says_where_it_is_keeps_what_it_acknowledged_and_ends_cleanly() {
    let (_folder, db) = scratch();
    for signal in ["TERM", "INT"] {
        let mut serving = Serving::on(&db);
        assert!(serving.lines.iter().any(|line| line.contains(&*db.to_string_lossy())), "{:?}", serving.lines);
        // Pasted into a shell in another directory, with no culm on its PATH.
        let line = serving.lines.iter().find_map(|line| line.trim().strip_prefix("try ")).unwrap().trim();
        let pasted = Command::new("sh").args(["-c", line]).current_dir("/").output().unwrap();
        assert!(String::from_utf8_lossy(&pasted.stdout).starts_with("{\"sessions\":["), "{line}: {pasted:?}");
        assert_eq!(serving.post("/sessions", json!({ "id": signal })).await.0, 201);
        assert_eq!(serving.signal(signal), 0);
        let wal = PathBuf::from(format!("{}-wal", db.display()));
        assert!(!wal.exists(), "the log is emptied into the database");
    }
    assert_eq!(shell(&db, "select id from sessions order by session_key"), "TERM\nINT");
    for file in [db.clone(), PathBuf::from(format!("{}.token", db.display()))] {
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (_folder, db) = scratch();
    let mut serving = Serving::on(&db);
    serving.post("/sessions", json!({ "id": "s" })).await;
    for place in 0..20 {
        let message = json!({ "messages": [{ "role": "user", "content": place.to_string() }] });
        assert_eq!(serving.post("/sessions/s/messages", message).await.0, 201);
    }
    serving.signal("KILL");
    let serving = Serving::on(&db);
    assert_eq!(serving.get("/sessions/s").await.1["session"]["message_count"], 20);
    assert_eq!(run(&db, &["check"]).status.code(), Some(0));
}

#[tokio::test]
async fn a_second_server_and_an_import_are_refused_while_one_serves() {
    let (_folder, db) = scratch();
    let serving = Serving::on(&db);
    let (code, said) = refusal(&run(&db, &["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!((code, said.contains("another culm has the database")), (7, true), "{said}");
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboo-home/2026.6.18");
    assert_eq!(refusal(&run(&db, &["import", "bamboo", home])).0, 7);
    // A check works beside it.
    serving.post("/sessions", json!({ "id": "s" })).await;
    assert_eq!(run(&db, &["check"]).status.code(), Some(0));
    let address = serving.url.trim_start_matches("http://");
    let (other, other_db) = scratch();
    let (code, said) = refusal(&run(&other_db, &["serve", "--listen", address]));
    assert_eq!((code, said.contains(address), said.contains("another culm serves there")), (8, true, true), "{said}");
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || drop(stranger.accept()));
    let (code, said) = refusal(&run(&other_db, &["serve", "--listen", &address]));
    assert_eq!((code, said.contains("another culm"), said.contains("--listen")), (8, false, true), "{said}");
    answering.join().unwrap();
    drop(other);
}

#[tokio::test]
async fn a_database_that_is_not_to_be_served_is_refused_with_a_sentence_and_left_alone() {
    let spoil: [(&str, i32, &str); 4] = [
        ("pragma user_version = 999", 3, "newer version"),
        ("pragma application_id = 42", 4, "another application"),
        ("garbage", 5, "damaged"),
        ("empty", 5, "damaged"),
    ];
    for (how, expected, words) in spoil {
        let (_folder, db) = scratch();
        Serving::on(&db).signal("TERM");
        match how {
            "garbage" => {
                std::fs::write(&db, "this is no database at all, but long enough to look at".repeat(40)).unwrap()
            }
            "empty" => std::fs::write(&db, "").unwrap(),
            sql => drop(shell(&db, sql)),
        }
        let before = std::fs::read(&db).unwrap();
        let (code, said) = refusal(&run(&db, &["serve", "--listen", "127.0.0.1:0"]));
        assert_eq!((code, said.contains(words)), (expected, true), "{how}: {said}");
        assert_eq!(std::fs::read(&db).unwrap(), before, "{how}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let (folder, db) = scratch();
    let config = folder.path().join("culm.toml");
    std::fs::write(&config, "listen = '127.0.0.1:0'\nno_such_key = 1\n").unwrap();
    let (code, said) = {
        let output = culm(&db, &["serve"]).arg("--config").arg(&config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!((code, said.contains("no_such_key")), (Some(2), true), "{said}");
    let (code, said) = refusal(&run(&db, &["serve", "--no-auth", "--listen", "0.0.0.0:0"]));
    assert_eq!((code, said.contains("loopback")), (2, true), "{said}");
    assert_eq!(refusal(&run(&db, &["serve", "--listen", "nowhere"])).0, 2);
    let help = Command::new(CULM).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for line in ["127.0.0.1:9562", "67108864", "Exit codes"] {
        assert!(help.contains(line), "{line}");
    }
}

#[tokio::test]
async fn a_check_says_what_is_wrong_a_line_each() {
    let (_folder, db) = scratch();
    let mut serving = Serving::on(&db);
    serving.post("/sessions", json!({ "id": "s", "title": "Good" })).await;
    serving.post("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": "hello" }] })).await;
    serving.signal("TERM");
    assert_eq!(run(&db, &["check"]).stdout, b"");
    let (code, said) = refusal(&run(&db.with_file_name("none.db"), &["check"]));
    assert!(code == 1 && said.contains("there is no database"), "{said}");
    let damage = [
        ("drop trigger messages_index_update; update messages set content = 'other'", "search index"),
        ("update sessions set message_count = 7", "message count"),
        ("update sessions set last_seq = 0", "last seq"),
        ("drop index sessions_pinned", "sessions_pinned"),
        ("update sessions set title = cast(x'ff41' as text)", "UTF-8"),
        ("insert into tombstones values ('s', 1)", "deleted"),
        ("delete from sqlite_sequence where name = 'sessions'", "sequence"),
    ];
    for (sql, words) in damage {
        let copy = db.with_file_name("copy.db");
        std::fs::copy(&db, &copy).unwrap();
        shell(&copy, sql);
        let output = run(&copy, &["check"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), said.contains(words)), (Some(1), true), "{sql}: {said}");
    }
    // A page of a table that nothing reads on the way there.
    let mut bytes = std::fs::read(&db).unwrap();
    let page: usize = shell(&db, "select rootpage - 1 from sqlite_schema where name = 'messages'").parse().unwrap();
    bytes[page * 4096..][..4096].fill(0xff);
    let copy = db.with_file_name("copy.db");
    std::fs::write(&copy, bytes).unwrap();
    let output = run(&copy, &["check"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), said.lines().all(|line| !line.is_empty())), (Some(1), true), "{said}");
    assert!(said.contains(&format!("page {}", page + 1)), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(db.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("check")), "{left:?}");
}

#[tokio::test]
async fn a_reindex_mends_the_search_and_is_refused_while_a_server_serves() {
    let (_folder, db) = scratch();
    let mut serving = Serving::on(&db);
    serving.post("/sessions", json!({ "id": "s", "title": "Über 数据" })).await;
    let message = json!({ "role": "user", "content": "hello 数据库" });
    serving.post("/sessions/s/messages", json!({ "messages": [message] })).await;
    let (code, said) = refusal(&run(&db, &["reindex"]));
    assert_eq!((code, said.contains("another culm")), (7, true), "{said}");
    serving.signal("TERM");
    shell(&db, "insert into message_index (message_index) values ('delete-all')");
    shell(&db, "insert into session_index (session_index) values ('delete-all'); delete from message_hours");
    assert_eq!(run(&db, &["check"]).status.code(), Some(1));
    let done = run(&db, &["reindex"]);
    assert_eq!((done.status.code(), done.stdout.len() + done.stderr.len()), (Some(0), 0), "{done:?}");
    assert_eq!(run(&db, &["check"]).stdout, b"");
    let serving = Serving::on(&db);
    let (_, found) = serving.get("/search?q=%E6%8D%AE&after=2020-01-01T00:00:00Z").await;
    assert_eq!(found["hits"].as_array().unwrap().len(), 2, "{found}");
    let nowhere = db.with_file_name("nowhere.db");
    assert_eq!((run(&nowhere, &["reindex"]).status.code(), nowhere.exists()), (Some(6), false));
}

/// The engine fails in the middle of a write (no more bytes may be written to any file), and recovers.
#[tokio::test]
async fn a_disk_that_fills_up_fails_writes_and_nothing_else_and_writes_go_on_when_there_is_room() {
    let (_folder, db) = scratch();
    let serving = Serving::on(&db);
    serving.post("/sessions", json!({ "id": "s" })).await;
    let limit = |bytes: &str| {
        let id = serving.process.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}")]).status();
        assert!(status.unwrap().success());
    };
    let message = |size: usize| json!({ "messages": [{ "role": "user", "content": "x".repeat(size) }] });
    limit("1000000:unlimited");
    let mut stored = 0;
    let refused = loop {
        match serving.post("/sessions/s/messages", message(100_000)).await {
            (201, _) => stored += 1,
            (status, body) => break (status, body["code"].as_str().unwrap().to_owned()),
        }
        assert!(stored < 100, "the limit is never met");
    };
    assert!(matches!((refused.0, refused.1.as_str()), (507, "storage_full") | (503, "storage_busy")), "{refused:?}");
    assert_eq!(serving.get("/sessions/s").await.1["session"]["message_count"], stored);
    limit("unlimited:unlimited");
    assert_eq!(serving.post("/sessions/s/messages", message(100_000)).await.0, 201);
    assert_eq!(serving.get("/sessions/s").await.1["session"]["message_count"], stored + 1);
    assert_eq!(run(&db, &["check"]).status.code(), Some(0));
}

#[test]
fn an_import_of_what_is_no_home_is_refused_and_leaves_nothing() {
    let (folder, db) = scratch();
    for home in [folder.path().to_owned(), folder.path().join("none")] {
        let (code, said) = refusal(&run(&db, &["import", "bamboo", home.to_str().unwrap()]));
        assert!(code == 1 && said.contains(home.to_str().unwrap()), "{code}: {said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_import_is_told_and_its_dry_run_leaves_nothing() {
    let (_folder, db) = scratch();
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboo-home/2026.11.1");
    let dry = run(&db, &["import", "bamboo", home, "--dry-run"]);
    assert_eq!((dry.status.code(), db.exists()), (Some(0), false));
    let done = run(&db, &["import", "bamboo", home]);
    let (dry, done) = (String::from_utf8(dry.stdout).unwrap(), String::from_utf8(done.stdout).unwrap());
    assert!(dry.ends_with(&done) && dry.contains("Dry run"), "{dry}{done}");
    let storage = SqliteStorage::open(&Options::new(&db)).await.unwrap();
    assert!(storage.session(&"root-7f3a".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn without_git_a_server_serves_and_says_so_where_it_is_needed() {
    let (folder, db) = scratch();
    crate::worktree::repository(&folder.path().join("repo"));
    let (empty, worktrees) = (folder.path().join("empty"), folder.path().join("elsewhere"));
    std::fs::create_dir(&empty).unwrap();
    let ask = json!({ "repository": folder.path().join("repo") });
    for (path, status) in [(Some(&empty), 503), (None, 201)] {
        let mut command = culm(&db, &[]);
        command.arg("--worktrees").arg(&worktrees).envs(path.map(|path| ("PATH", path)));
        let server = Serving::start(&mut command, &db);
        let _ = server.post("/sessions", json!({ "id": "s" })).await;
        let (answered, body) = server.put("/sessions/s/worktree", ask.clone()).await;
        assert_eq!(answered, status, "{body}");
        match status {
            503 => assert_eq!(body["code"], "git_unavailable"),
            _ => assert!(worktrees.join("s/file").exists()),
        }
    }
}
