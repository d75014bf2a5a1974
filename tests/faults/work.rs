//! Clients of a server that may end at any time, and what they know: which writes were acknowledged, and when, by marks in the
//! disk's log.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use culm::storage::{
    Storage,
    sqlite::{self, Options, SqliteStorage},
};
use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};
use tokio_util::sync::CancellationToken;

use super::disk::{self, How, Name, Record};

/// The server. Another one can be named, to see it fail.
fn culm(db: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CULM_BIN").unwrap_or(env!("CARGO_BIN_EXE_culm").into()));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).arg("--db").arg(db);
    command
}

/// A server on a disk that remembers.
pub(crate) struct Server {
    process: Child,
    url: String,
    token: String,
    client: Client,
    log: PathBuf,
}

impl Server {
    /// Starts one; an exit code when it is not ready.
    pub(crate) async fn start(db: &Path, log: &Path, fail: Option<(Name, usize, How)>) -> Result<Self, i32> {
        let mut command = culm(db);
        disk::run_on(&mut command, db, log, fail);
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = loop {
            let Some(line) = lines.next_line().await.unwrap() else {
                return Err(process.wait().await.unwrap().code().unwrap());
            };
            if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
                break url.to_owned();
            }
        };
        let token = std::fs::read_to_string(format!("{}.token", db.display())).unwrap().trim().to_owned();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Ok(Self { process, url, token, client, log: log.into() })
    }

    /// Whether a call was acknowledged, which is marked.
    async fn ask(&self, request: RequestBuilder, mark: &str) -> bool {
        let acknowledged = match request.bearer_auth(&self.token).send().await {
            Ok(answer) => answer.status().is_success() && answer.bytes().await.is_ok(),
            Err(_) => false,
        };
        if acknowledged {
            disk::mark(&self.log, mark);
        }
        acknowledged
    }

    fn post(&self, path: &str, body: Value) -> RequestBuilder {
        self.client.post(format!("{}/api/v1{path}", self.url)).json(&body)
    }

    async fn create(&self, session: &str) -> bool {
        self.ask(self.post("/sessions", json!({ "id": session })), &format!("created {session}")).await
    }

    async fn say(&self, session: &str, text: &str) -> bool {
        let body = json!({ "messages": [{ "role": "user", "content": format!("{text} {}", "x".repeat(2000)) }] });
        let request = self.post(&format!("/sessions/{session}/messages"), body);
        self.ask(request, &format!("said {session} {text}")).await
    }

    async fn attach(&self, session: &str, name: &str, mebibytes: usize) -> bool {
        let request = self.client.post(format!("{}/api/v1/sessions/{session}/attachments", self.url));
        let request = request
            .header("content-type", "application/octet-stream")
            .header("content-disposition", format!("attachment; filename=\"{name}\""))
            .body(vec![7; mebibytes << 20]);
        self.ask(request, &format!("attached {session} {name}")).await
    }

    async fn delete(&self, session: &str) -> bool {
        disk::mark(&self.log, &format!("deleting {session}"));
        let request = self.client.delete(format!("{}/api/v1/sessions/{session}", self.url));
        self.ask(request, &format!("deleted {session}")).await
    }

    /// Writes of many kinds, until one is not acknowledged or all are done. `life` makes the ids new.
    pub(crate) async fn work(&self, life: &str, rounds: usize) {
        // Uploads by themselves: what they commit does not wait for the disk unless something else does at that moment.
        let uploads = ["x", "y"].map(|who| self.upload(format!("{life}-{who}"), rounds / 8));
        join_all(uploads).await;
        let talkers = ["a", "b", "c"].map(|who| self.talk(format!("{life}-{who}"), rounds));
        tokio::join!(
            join_all(talkers),
            self.upload(format!("{life}-z"), rounds / 12),
            self.delete_some(life, rounds / 3)
        );
    }

    async fn talk(&self, session: String, rounds: usize) {
        let mut goes_on = self.create(&session).await;
        for round in 0..rounds {
            goes_on = goes_on && self.say(&session, &round.to_string()).await;
        }
    }

    async fn upload(&self, session: String, rounds: usize) {
        let mut goes_on = self.create(&session).await;
        for round in 0..rounds {
            goes_on = goes_on && self.attach(&session, &format!("f{round}"), 4).await;
            goes_on = goes_on && self.say(&session, &round.to_string()).await;
        }
    }

    async fn delete_some(&self, life: &str, rounds: usize) {
        for round in 0..rounds {
            let session = format!("{life}-gone{round}");
            if !(self.create(&session).await && self.say(&session, "0").await && self.delete(&session).await) {
                return;
            }
        }
    }

    /// Its exit code, when it ends by itself within a while; it is killed otherwise.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        match tokio::time::timeout(Duration::from_secs(10), self.process.wait()).await {
            Ok(status) => status.unwrap().code(),
            Err(_) => {
                self.kill().await;
                None
            }
        }
    }

    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// Makes a database, and closes it.
pub(crate) async fn make(db: &Path) {
    let storage = SqliteStorage::open(&Options::new(db)).await.unwrap();
    storage.close().await;
}

/// What a client knows at some point.
#[derive(Debug, Default)]
pub(crate) struct Known {
    created: BTreeSet<String>,
    said: BTreeSet<(String, String)>,
    attached: BTreeMap<(String, String), i64>,
    deleting: BTreeSet<String>,
    deleted: BTreeSet<String>,
}

impl Known {
    pub(crate) fn hear(&mut self, record: &Record) {
        let Record::Mark(text) = record else { return };
        let words: Vec<String> = text.split(' ').map(Into::into).collect();
        match words.as_slice() {
            [what, session] if what == "created" => drop(self.created.insert(session.clone())),
            [what, session, text] if what == "said" => drop(self.said.insert((session.clone(), text.clone()))),
            [what, session, name] if what == "attached" => {
                self.attached.insert((session.clone(), name.clone()), 4 << 20);
            }
            [what, session] if what == "deleting" => drop(self.deleting.insert(session.clone())),
            [what, session] if what == "deleted" => drop(self.deleted.insert(session.clone())),
            _ => panic!("what is {text}?"),
        }
    }

    /// Opens a database, and says what is wrong with it: lost, back from the dead, damaged, or not writable.
    pub(crate) async fn wrongs(&self, db: &Path) -> Vec<String> {
        let mut wrongs = Vec::new();
        let storage = match SqliteStorage::open(&Options::new(db)).await {
            Ok(storage) => storage,
            Err(error) => return vec![format!("it does not open: {error}")],
        };
        if let Err(error) = storage.create_session(Default::default(), None).await {
            wrongs.push(format!("it cannot be written: {error}"));
        }
        storage.close().await;
        match sqlite::check(db, CancellationToken::new(), &mut |_, _| ()).await {
            Ok(findings) => wrongs.extend(findings),
            Err(error) => wrongs.push(format!("it cannot be checked: {error}")),
        }
        match self.missing(db).await {
            Ok(missing) => wrongs.extend(missing),
            Err(error) => wrongs.push(format!("it cannot be read: {error}")),
        }
        wrongs
    }

    async fn missing(&self, db: &Path) -> sqlx::Result<Vec<String>> {
        let mut conn = SqliteConnectOptions::new().filename(db).read_only(true).connect().await?;
        let sessions: Vec<String> = sqlx::query_scalar("select id from live_sessions").fetch_all(&mut conn).await?;
        let said: Vec<(String, String)> =
            sqlx::query_as("select s.id, substr(m.content, 1, instr(m.content, ' ') - 1) from messages m join live_sessions s using (session_key)")
                .fetch_all(&mut conn).await?;
        let attached: Vec<(String, String, i64)> = sqlx::query_as(
            "select s.id, a.filename, a.size from attachments a join live_sessions s using (session_key)",
        )
        .fetch_all(&mut conn)
        .await?;
        conn.close().await?;
        let (sessions, said): (BTreeSet<_>, BTreeSet<_>) = (sessions.into_iter().collect(), said.into_iter().collect());
        let attached: BTreeMap<_, _> =
            attached.into_iter().map(|(session, name, size)| ((session, name), size)).collect();
        let stays = |session: &&String| !self.deleting.contains(*session);
        let lost =
            self.created.iter().filter(stays).filter(|id| !sessions.contains(*id)).map(|id| format!("{id} is lost"));
        let unsaid = self.said.iter().filter(|(session, _)| stays(&session)).filter(|message| !said.contains(*message));
        let unsaid = unsaid.map(|(session, text)| format!("message {text} of {session} is lost"));
        let torn = self.attached.iter().filter(|(at, size)| attached.get(*at) != Some(*size));
        let torn = torn.map(|((session, name), _)| format!("attachment {name} of {session} is lost"));
        let back = self.deleted.iter().filter(|id| sessions.contains(*id)).map(|id| format!("{id} is back"));
        Ok(lost.chain(unsaid).chain(torn).chain(back).collect())
    }
}
