//! A server without a model that speaks the protocol of `opencode serve`, and does what the user's last message tells it
//! to (`script.rs`). For tests and for a first tour; it knows nothing of Culm.
//!
//! It has the real one's fault, too: a session that is removed while it works goes on, and stays busy.

mod calls;
mod script;

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{broadcast, oneshot},
};
use tokio_util::sync::CancellationToken;

pub use self::script::DIRECTIVES;

/// Events that wait for a slow reader at most.
const EVENTS: usize = 1 << 16;

/// How the server is, besides what it is told to do.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Manner {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    hostname: String,
    /// The port to listen on
    #[arg(long, default_value_t = 4096)]
    port: u16,
    /// End at once, with a complaint and this exit code
    #[arg(long, value_name = "CODE")]
    exit: Option<u8>,
    /// Never listen
    #[arg(long)]
    mute: bool,
    /// Print what means nothing, on both ends, before it listens
    #[arg(long)]
    chatty: bool,
    /// How long a prompt that was taken waits until it is worked on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    late: Option<Duration>,
    /// Stay when asked to end by SIGTERM
    #[arg(long)]
    stubborn: bool,
}

/// A session, as it is kept in the server's home.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: String,
    #[serde(rename = "parentID")]
    parent: Option<String>,
    directory: String,
    title: String,
    /// What it was told.
    #[serde(default)]
    prompts: Vec<String>,
    /// How many of its answers came to no end of their own. The real one does not count them.
    #[serde(default)]
    stopped: usize,
}

/// What a session is at, and how it is stopped.
struct Work {
    directory: String,
    stop: CancellationToken,
}

struct Server {
    manner: Manner,
    password: String,
    sessions: Mutex<HashMap<String, Session>>,
    busy: Mutex<HashMap<String, Work>>,
    /// The calls that permission was asked for, by their messages.
    calls: Mutex<HashMap<String, Value>>,
    /// What was asked, and is not answered yet.
    asked: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    /// What happens, and in which directory.
    events: broadcast::Sender<(String, Value)>,
}

fn held<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id(kind: &str) -> String {
    format!("{kind}_{}", uuid::Uuid::now_v7().simple())
}

fn folder() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".demo-opencode")
}

impl Server {
    /// The server as it was left.
    fn new(manner: Manner) -> io::Result<Self> {
        fs::create_dir_all(folder())?;
        let kept = fs::read_dir(folder())?.flatten().filter_map(|entry| fs::read(entry.path()).ok());
        let kept = kept.filter_map(|kept| serde_json::from_slice::<Session>(&kept).ok());
        let sessions = kept.map(|session| (session.id.clone(), session)).collect();
        Ok(Self {
            manner,
            password: std::env::var("OPENCODE_SERVER_PASSWORD").unwrap_or_default(),
            sessions: Mutex::new(sessions),
            busy: Mutex::default(),
            calls: Mutex::default(),
            asked: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        })
    }

    fn tell(&self, directory: &str, kind: &str, properties: Value) {
        let event = json!({ "id": id("evt"), "type": kind, "properties": properties });
        // Nobody may listen.
        let _ = self.events.send((directory.into(), event));
    }

    fn begin(&self, parent: Option<String>, directory: &str, title: &str) -> io::Result<Session> {
        let (id, title) = (id("ses"), title.into());
        let session = Session { id, parent, directory: directory.into(), title, prompts: Vec::new(), stopped: 0 };
        self.keep(&session)?;
        self.tell(directory, "session.created", json!({ "sessionID": session.id, "info": session }));
        Ok(session)
    }

    fn keep(&self, session: &Session) -> io::Result<()> {
        fs::write(folder().join(format!("{}.json", session.id)), serde_json::to_vec(session)?)?;
        held(&self.sessions).insert(session.id.clone(), session.clone());
        Ok(())
    }

    fn count_stopped(&self, id: &str) {
        if let Some(session) = held(&self.sessions).get_mut(id) {
            session.stopped += 1;
        }
    }

    fn children(&self, id: &str) -> Vec<Session> {
        held(&self.sessions).values().filter(|session| session.parent.as_deref() == Some(id)).cloned().collect()
    }

    /// Removes a session and all below it. What works goes on: the real server's fault.
    fn remove(&self, id: &str) {
        for child in self.children(id) {
            self.remove(&child.id);
        }
        let _ = fs::remove_file(folder().join(format!("{id}.json")));
        if let Some(removed) = held(&self.sessions).remove(id) {
            self.tell(&removed.directory, "session.deleted", json!({ "sessionID": id, "info": removed }));
        }
    }
}

/// Serves until it is ended.
pub async fn serve(manner: Manner) -> io::Result<()> {
    if let Some(code) = manner.exit {
        eprintln!("the demo server was told to end");
        std::process::exit(code.into());
    }
    if manner.mute {
        std::future::pending::<()>().await;
    }
    let _deaf = manner.stubborn.then(|| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()));
    if manner.chatty {
        println!("\u{7}{{{{\nthis is no news");
        eprintln!("nor is this");
    }
    let listener = TcpListener::bind((manner.hostname.as_str(), manner.port)).await?;
    let address = listener.local_addr()?;
    let server = Arc::new(Server::new(manner)?);
    let router = Router::new()
        .route("/", get(DIRECTIVES))
        .route("/global/health", get(calls::health))
        .route("/config", get(calls::config))
        .route("/experimental/session", get(calls::find))
        .route("/event", get(calls::events))
        .route("/session", post(calls::create))
        .route("/session/status", get(calls::status))
        .route("/session/{id}", get(calls::session).delete(calls::delete))
        .route("/session/{id}/children", get(calls::children))
        .route("/session/{id}/message/{message}", get(calls::message))
        .route("/session/{id}/prompt_async", post(calls::prompt))
        .route("/session/{id}/abort", post(calls::abort))
        .route("/permission/{id}/reply", post(calls::reply))
        .route("/question/{id}/reply", post(calls::reply))
        .layer(axum::middleware::from_fn_with_state(server.clone(), calls::admit))
        .with_state(server);
    println!("opencode server listening on http://{address}");
    axum::serve(listener, router).await
}
