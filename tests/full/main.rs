//! A server whose disk fills up, again and again: nothing that was acknowledged is lost, deletes always work, and all
//! goes on without a restart, and after one.
//!
//! It needs the right to mount a small disk, and says so where it is not given. `CULM_ROUNDS` sets how many rounds:
//! three in the suite, 200 in `.ci/long`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::Client;
use serde_json::{Value, json};

const CULM: &str = env!("CARGO_BIN_EXE_culm");

/// A small disk that is gone with the value; none where mounting is not allowed.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        let mount = ["-t", "tmpfs", "-o", &size, "none"];
        let mounted =
            Command::new("mount").args(mount).arg(folder.path()).output().is_ok_and(|done| done.status.success());
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

struct Server {
    process: Child,
    url: String,
    token: String,
    client: Client,
}

impl Server {
    fn start(db: &Path) -> Self {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log_of(db)).unwrap();
        let mut process = Command::new(CULM)
            .args(["--listen", "127.0.0.1:0", "--db"])
            .arg(db)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.take(3).find(|line| line.contains("http://"));
        let line = line.unwrap_or_else(|| panic!("no start: {}", std::fs::read_to_string(log_of(db)).unwrap()));
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        let token = std::fs::read_to_string(format!("{}.token", db.display())).unwrap().trim().to_owned();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { process, url, token, client }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let answer = request.bearer_auth(&self.token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.client.post(format!("{}/api/v1{path}", self.url)).json(&body)).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    async fn upload(&self, session: &str, bytes: usize) -> (u16, Value) {
        let url = format!("{}/api/v1/sessions/{session}/attachments", self.url);
        let request = self.client.post(url).header("content-type", "application/octet-stream");
        self.send(request.body(vec![7; bytes])).await
    }

    async fn say(&self, session: &str, bytes: usize) -> (u16, Value) {
        let text = words(bytes);
        self.post(
            &format!("/sessions/{session}/messages"),
            json!({ "messages": [{ "role": "user", "content": text }] }),
        )
        .await
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Words of which hardly one is said twice: the search index is as large as the text then, and larger.
fn words(bytes: usize) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        // splitmix64: a number looks like no other.
        let mut word = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        text += &format!("{word:x} ");
    }
    text
}

fn log_of(db: &Path) -> PathBuf {
    db.parent().unwrap().with_extension("log")
}

/// What was acknowledged of a session, and has to be there.
#[derive(Default)]
struct Kept {
    messages: u64,
    attachments: u64,
}

impl Kept {
    /// Fills a session with uploads and messages in turn, until each was refused for want of room.
    async fn fill(&mut self, server: &Server, session: &str, round: usize) {
        let (mut upload, mut message) = (true, true);
        for step in 0.. {
            assert!(step < 10_000, "the disk never fills");
            if !upload && !message {
                return;
            }
            let is_upload = upload && !(step + round).is_multiple_of(3) || !message;
            let (status, answer) = match is_upload {
                true => server.upload(session, (1 << 20) + step * 100_003 % (4 << 20)).await,
                false => server.say(session, 1000 + step * 7919 % 300_000).await,
            };
            match (status, is_upload) {
                (201, true) => self.attachments += 1,
                (201, false) => self.messages += 1,
                (507, true) => upload = false,
                (507, false) => message = false,
                _ => panic!("{status}: {answer}"),
            }
        }
    }

    async fn check(&self, server: &Server, session: &str) {
        let (status, found) = server.get(&format!("/api/v1/sessions/{session}")).await;
        assert_eq!(status, 200, "{session}: {found}");
        assert_eq!(found["session"]["message_count"], self.messages, "{session}");
        let (_, listed) = server.get(&format!("/api/v1/sessions/{session}/attachments?limit=100")).await;
        assert_eq!(listed["attachments"].as_array().unwrap().len() as u64, self.attachments, "{session}");
    }
}

/// The exit code of `culm check`, and what it says.
fn check(db: &Path, temporary: Option<&Path>) -> (Option<i32>, String) {
    let mut check = Command::new(CULM);
    check.args(["check", "--db"]).arg(db).envs(temporary.map(|folder| ("SQLITE_TMPDIR", folder)));
    let output = check.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Waits until the server says that it takes writes.
async fn ready(server: &Server) {
    let waiting = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        while server.get("/ready").await.0 != 200 {
            pause.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is stuck");
}

/// Waits until most of what was deleted is free again.
async fn given_back(disk: &Disk, round: usize) {
    let waiting = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            let free = rustix::fs::statvfs(disk.path()).unwrap();
            if free.f_bavail * free.f_frsize >= 24 << 20 {
                return;
            }
            pause.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("round {round}: no space came back"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_is_used_again_after_each_delete() {
    let Some(disk) = Disk::mount("64m") else {
        eprintln!("SKIPPED: a disk of 64 MB cannot be mounted here; run this as root");
        return;
    };
    let rounds = std::env::var("CULM_ROUNDS").ok().map_or(3, |rounds| rounds.parse().unwrap());
    let db = disk.path().join("data").join("culm.db");
    std::fs::create_dir(db.parent().unwrap()).unwrap();
    let mut server = Server::start(&db);
    ready(&server).await;
    assert_eq!(server.post("/sessions", json!({ "id": "keeper" })).await.0, 201);
    let mut keeper = Kept::default();
    for round in 0..rounds {
        let id = format!("round-{round}");
        assert_eq!(server.post("/sessions", json!({ "id": id })).await.0, 201, "round {round}");
        let mut filled = Kept::default();
        filled.fill(&server, &id, round).await;
        assert!(filled.attachments + filled.messages > 3, "round {round}: there was no room for anything");
        assert_eq!(server.get("/ready").await.0, 507, "round {round}");
        // A check copies nothing to the disk that is full.
        assert_eq!(check(&db, None), (Some(0), String::new()), "round {round}");
        if round % 3 == 2 {
            server.kill();
            server = Server::start(&db);
        }
        filled.check(&server, &id).await;
        keeper.check(&server, "keeper").await;
        let delete = server.client.delete(format!("{}/api/v1/sessions/{id}", server.url));
        let (status, receipt) = server.send(delete).await;
        assert!(matches!(status, 200 | 204), "round {round}: {receipt}");
        ready(&server).await;
        given_back(&disk, round).await;
        assert_eq!(server.say("keeper", 1000).await.0, 201, "round {round}");
        keeper.messages += 1;
        keeper.check(&server, "keeper").await;
    }
    assert_eq!(check(&db, None), (Some(0), String::new()));
    assert!(std::fs::metadata(format!("{}-reserve", db.display())).is_ok(), "the reserve was not made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_without_room_says_so_and_calls_nothing_damaged() {
    let Some(small) = Disk::mount("1m") else {
        eprintln!("SKIPPED: a small disk cannot be mounted here; run this as root");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("data").join("culm.db");
    std::fs::create_dir(db.parent().unwrap()).unwrap();
    let server = Server::start(&db);
    assert_eq!(server.post("/sessions", json!({ "id": "s" })).await.0, 201);
    let (code, said) = check(&db, Some(small.path()));
    assert_eq!((code, said.contains("no room"), said.contains("damaged")), (Some(10), true, false), "{said}");
    assert_eq!(std::fs::read_dir(small.path()).unwrap().count(), 0);
    assert_eq!(check(&db, None), (Some(0), String::new()));
}
