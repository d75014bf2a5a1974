//! `culm cleanup`: deletes many sessions. Beside a running server it asks that server to; else it does the work itself.

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use culm::{
    config::Settings,
    model::{CleanupReceipt, ReceiptId},
    storage::{
        Storage,
        sqlite::{self, OpenError, SqliteStorage},
    },
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Failure, place::token};

/// How often a running server is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// Ids that are listed of a dry run at most, as over HTTP.
const LISTED: usize = 1000;

/// Which sessions. The filters are those of `GET /api/v1/sessions`, and of its cleanup.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// Which sessions: all, empty or children
    #[arg(long, value_name = "MODE", value_parser = ["all", "empty", "children"])]
    mode: String,
    /// Only these sessions, by their ids; can be given several times
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ids: Vec<String>,
    /// Only roots, or only children
    #[arg(long, value_name = "KIND", value_parser = ["root", "child", "all"])]
    kind: Option<String>,
    /// Only sessions directly below this one
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only the tree of this root
    #[arg(long, value_name = "ID")]
    root: Option<String>,
    /// Only pinned sessions, or only others
    #[arg(long, value_name = "BOOL")]
    pinned: Option<bool>,
    /// Only archived sessions (true), only others (false), or all; true and all do not keep archived ones
    #[arg(long, value_name = "WHICH", value_parser = ["true", "false", "all"])]
    archived: Option<String>,
    /// Only sessions with a run under way, or only others
    #[arg(long, value_name = "BOOL")]
    running: Option<bool>,
    /// Only sessions with this model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only sessions with these words in the title
    #[arg(short, long, value_name = "WORDS")]
    q: Option<String>,
    /// Only sessions created at this time or later (RFC 3339, such as 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only sessions created before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Only sessions last active at this time or later
    #[arg(long, value_name = "TIME")]
    active_after: Option<String>,
    /// Only sessions last active before this time
    #[arg(long, value_name = "TIME")]
    active_before: Option<String>,
    /// Keep pinned sessions, everything above them and the trees below them
    #[arg(long)]
    keep_pinned: bool,
    /// Keep archived sessions, everything above them and the trees below them [default: true]
    #[arg(long, value_name = "BOOL")]
    keep_archived: Option<bool>,
    /// Keep sessions that were active at this time or later or have an active run, and everything above them
    #[arg(long, value_name = "TIME")]
    inactive_before: Option<String>,
    /// Only list what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Where the server listens that has the database open [default: the address in the configuration file, or 127.0.0.1:9562]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl What {
    /// The request, as the API takes it.
    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut say = |name: &str, value: Value| {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        };
        say("mode", json!(self.mode));
        say("ids", if self.ids.is_empty() { Value::Null } else { json!(self.ids) });
        say("pinned", json!(self.pinned));
        say("running", json!(self.running));
        say("keep_archived", json!(self.keep_archived));
        for (name, value) in [
            ("kind", &self.kind),
            ("parent", &self.parent),
            ("root", &self.root),
            ("archived", &self.archived),
            ("model", &self.model),
            ("q", &self.q),
            ("created_after", &self.created_after),
            ("created_before", &self.created_before),
            ("active_after", &self.active_after),
            ("active_before", &self.active_before),
            ("inactive_before", &self.inactive_before),
        ] {
            say(name, json!(value));
        }
        say("keep_pinned", json!(self.keep_pinned));
        say("dry_run", json!(self.dry_run));
        Value::Object(body)
    }
}

pub(crate) async fn run(what: &What, settings: &Settings, stop: CancellationToken) -> Result<ExitCode, Failure> {
    let db = &settings.db;
    if !db.is_file() {
        return Err(OpenError::Missing(db.clone()).into());
    }
    match SqliteStorage::open(&sqlite::Options::new(db)).await {
        Ok(storage) => {
            let outcome = by_itself(what, &storage, &stop, db).await;
            storage.close().await;
            outcome
        }
        Err(OpenError::Locked(_)) => by_a_server(what, settings, &stop).await,
        Err(error) => Err(error.into()),
    }
}

/// Nobody has the database: its steps are taken here. What is outside of the database is a server's to end, at its start.
async fn by_itself(
    what: &What,
    storage: &SqliteStorage,
    stop: &CancellationToken,
    db: &Path,
) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::of_storage(db, error);
    let cleanup = culm::http::cleanup_of(what.body()).map_err(|reason| Failure::new(2, reason))?;
    if what.dry_run {
        let told = storage.cleanup_sessions(cleanup).await.map_err(failed)?;
        return Ok(list(&told));
    }
    let bar = bar();
    let id = storage.begin_cleanup(cleanup).await.map_err(failed)?.id;
    loop {
        if stop.is_cancelled() {
            storage.stop_cleanup(&id).await.map_err(failed)?;
        }
        match storage.continue_cleanup(&id).await {
            Ok(Some(step)) => bar.inc(u64::try_from(step.deleted).unwrap_or(0)),
            Ok(None) => break,
            Err(error) => {
                let _ = storage.stop_cleanup(&id).await;
                return Err(failed(error));
            }
        }
    }
    bar.finish_and_clear();
    let done = storage.receipt(&id).await.map_err(failed)?;
    Ok(said(done.deleted_count, done.bytes, &json!(done.status)))
}

/// A server has the database: it is asked, with the token beside the database, and then how far it is.
async fn by_a_server(what: &What, settings: &Settings, stop: &CancellationToken) -> Result<ExitCode, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(1, format!("the server was not asked: {error}"));
    let url = what.url.clone().unwrap_or_else(|| format!("http://{}", settings.listen));
    // A server without a token has made none.
    let token = sqlite::beside(&settings.db, ".token").exists().then(|| token(&settings.db)).transpose()?;
    let server = Server { client: client().map_err(|error| failed(&error))?, url, token };
    let (id, mut body) = (ReceiptId::mint(), what.body());
    body["receipt_id"] = json!(id);
    let asked = server.ask("POST", "/sessions/cleanup", Some(body));
    let mut asked = std::pin::pin!(asked);
    let (bar, mut cancelled) = (bar(), false);
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer?,
            () = tokio::time::sleep(LOOK) => {
                // Until the server knows of it: it may not have begun yet.
                if stop.is_cancelled() && !cancelled {
                    cancelled = server.ask("POST", &format!("/receipts/{id}/cancel"), None).await.is_ok();
                }
                bar.set_position(server.progress(&id).await.unwrap_or(0));
            }
        }
    };
    bar.finish_and_clear();
    if what.dry_run {
        let ids = answer["deleted_session_ids"].as_array().cloned().unwrap_or_default();
        ids.iter().filter_map(Value::as_str).for_each(|id| println!("{id}"));
        return Ok(would(answer["deleted_count"].as_i64().unwrap_or(0), ids.len()));
    }
    let (count, bytes) = (answer["deleted_count"].as_i64(), answer["bytes"].as_i64());
    Ok(said(count.unwrap_or(0), bytes.unwrap_or(0), &answer["status"]))
}

/// A running server.
struct Server {
    client: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Server {
    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(1, format!("asking the server at {}: {error}", self.url));
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| failed(&error))?;
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| failed(&error))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status.is_success() {
            true => Ok(body),
            false => Err(failed(&body["detail"].as_str().unwrap_or(status.as_str()))),
        }
    }

    /// Sessions that a cleanup has deleted so far.
    async fn progress(&self, id: &ReceiptId) -> Option<u64> {
        let receipt = self.ask("GET", &format!("/receipts/{id}?limit=1"), None).await.ok()?;
        receipt["deleted_count"].as_u64()
    }
}

fn client() -> reqwest::Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The server is on this machine: no proxy stands between, and no certificate is read.
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build()
}

/// Drawn only where standard error is a terminal.
fn bar() -> indicatif::ProgressBar {
    indicatif::ProgressBar::new_spinner().with_message("sessions deleted")
}

fn list(told: &CleanupReceipt) -> ExitCode {
    told.deleted_session_ids.iter().for_each(|id| println!("{id}"));
    would(told.deleted_count, told.deleted_session_ids.len())
}

fn would(count: i64, listed: usize) -> ExitCode {
    let more = if listed == LISTED { ", of which the first are listed" } else { "" };
    eprintln!("{count} sessions would be deleted{more}");
    ExitCode::SUCCESS
}

fn said(count: i64, bytes: i64, status: &Value) -> ExitCode {
    let stopped = match status.as_str() {
        Some("completed") => "",
        Some("running") => "; the server stopped meanwhile, and goes on with it at its next start",
        _ => "; it was stopped",
    };
    println!("{count} sessions were deleted, with {bytes} bytes of messages and attachments{stopped}");
    if status == "completed" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
