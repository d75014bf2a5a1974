//! The one server of all sessions: started when it is needed, ended a while after nobody needs it any more.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, BufReader},
    process::ChildStdin,
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, USER},
    settings::Settings,
};
use crate::executor::{
    Error,
    process::{self, AgentProcess, Launch, Program, Started, Tail},
};

/// What it prints once it can be asked something; whoever asks before may never be answered.
const LISTENING: &str = "opencode server listening";
/// How long its end may take to be seen, once its line was cut.
const GOING: Duration = Duration::from_secs(1);

/// Where the server is, while there is one.
pub(super) struct Shared {
    executor: String,
    pub(super) settings: Settings,
    pub(super) launch: Launch,
    server: Mutex<Option<Arc<Server>>>,
    /// Nobody will need it any more.
    stop: CancellationToken,
}

/// A server that listens.
pub(super) struct Server {
    /// With its input, which is closed first when it is to end.
    process: Mutex<Option<(AgentProcess, ChildStdin)>>,
    pub(super) api: Api,
    /// A directory in which nobody works, for calls that are of none.
    pub(super) home: String,
    /// Cancelled when it has closed its output: it is gone.
    gone: CancellationToken,
    users: AtomicUsize,
}

impl Shared {
    pub(super) fn new(executor: String, settings: Settings, launch: Launch) -> Arc<Self> {
        Arc::new(Self { executor, settings, launch, server: Mutex::default(), stop: CancellationToken::new() })
    }

    /// The server, started where there is none.
    pub(super) async fn obtain(self: &Arc<Self>) -> Result<Use, Error> {
        let mut kept = self.server.lock().await;
        if let Some(server) = kept.as_ref().filter(|server| server.is_alive()) {
            return Ok(Use::of(self, server));
        }
        if let Some(dead) = kept.take() {
            dead.end().await?;
        }
        let server = Arc::new(self.start().await?);
        *kept = Some(server.clone());
        Ok(Use::of(self, &server))
    }

    /// The server, where there is one already.
    pub(super) async fn running(self: &Arc<Self>) -> Option<Use> {
        let kept = self.server.lock().await;
        kept.as_ref().filter(|server| server.is_alive()).map(|server| Use::of(self, server))
    }

    async fn start(&self) -> Result<Server, Error> {
        let unwritten = |error| Error::Unavailable(format!("the server's home cannot be made: {error}"));
        let id = self.launch.shared_id(&self.executor).await.map_err(unwritten)?;
        // A server that was killed together with its launcher has left one that nobody else knows of.
        process::sweep(&id).await?;
        let (port, password) = (free_port().map_err(no_port)?, password()?);
        let (command, environment) = (self.command(port), self.environment(&password));
        let program = Program { command: &command, environment: &environment, directory: None };
        let Started { mut process, input, output } = self.launch.start(&id, &program).await?;
        let mut output = BufReader::new(output);
        match tokio::time::timeout(self.settings.start, until_listening(process.tail(), &mut output)).await {
            Ok(true) => {}
            Ok(false) => return Err(Error::Unavailable(format!("the agent is gone{}", process.last_words().await))),
            Err(_) => {
                let (time, said) = (humantime::format_duration(self.settings.start), process.tail().said());
                return Err(Error::Unavailable(format!("the agent did not start within {time}{said}")));
            }
        }
        let (gone, tail) = (CancellationToken::new(), process.tail().clone());
        let end = gone.clone().drop_guard();
        self.launch.tasks.spawn(async move {
            let _end = end;
            while tail.hear(&mut output).await.is_some() {}
        });
        let process = Mutex::new(Some((process, input)));
        let home = self.launch.directory(&id).display().to_string();
        Ok(Server { process, api: Api::new(port, &password)?, home, gone, users: AtomicUsize::new(0) })
    }

    fn command(&self, port: u16) -> Vec<String> {
        let place = ["--hostname".into(), Ipv4Addr::LOCALHOST.to_string(), "--port".into(), port.to_string()];
        self.settings.command.iter().cloned().chain(place).collect()
    }

    fn environment(&self, password: &str) -> BTreeMap<String, String> {
        let mut environment = self.settings.environment.clone();
        environment.insert("OPENCODE_SERVER_USERNAME".into(), USER.into());
        environment.insert("OPENCODE_SERVER_PASSWORD".into(), password.into());
        environment
    }

    /// Ends the server after a while, unless somebody uses it then.
    async fn end_unused(&self) {
        if self.stop.run_until_cancelled(tokio::time::sleep(self.settings.linger)).await.is_none() {
            return;
        }
        if let Err(error) = self.end_used_by(0).await {
            tracing::warn!(%error, executor = self.executor, "a server was not ended");
        }
    }

    /// Ends the server if so many use it. Whether they do.
    pub(super) async fn end_used_by(&self, users: usize) -> Result<bool, Error> {
        match self.server.lock().await.take_if(|server| server.users.load(Ordering::SeqCst) == users) {
            Some(server) => server.end().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends the server, whoever uses it.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        if let Some(server) = self.server.lock().await.take()
            && let Err(error) = server.end().await
        {
            tracing::warn!(%error, executor = self.executor, "a server was not ended");
        }
    }
}

impl Server {
    pub(super) fn is_alive(&self) -> bool {
        !self.gone.is_cancelled()
    }

    async fn end(&self) -> Result<(), Error> {
        match self.process.lock().await.take() {
            Some((process, input)) => {
                drop(input);
                process.end().await
            }
            None => Ok(()),
        }
    }

    /// Why it could not be spoken to: it may be gone, and then its last words say more.
    pub(super) async fn explain(&self, error: Error) -> Error {
        let gone = tokio::time::timeout(GOING, self.gone.cancelled()).await;
        match (gone, self.process.lock().await.as_mut()) {
            (Ok(()), Some((process, _))) => Error::Failed(format!("the agent is gone{}", process.last_words().await)),
            (Ok(()), None) => Error::Failed("the agent was ended".into()),
            (Err(_), _) => error,
        }
    }
}

/// Somebody's use of the server. With the last one, it ends after a while.
pub(super) struct Use {
    shared: Arc<Shared>,
    server: Arc<Server>,
}

impl Use {
    fn of(shared: &Arc<Shared>, server: &Arc<Server>) -> Self {
        server.users.fetch_add(1, Ordering::SeqCst);
        Self { shared: shared.clone(), server: server.clone() }
    }
}

impl Clone for Use {
    fn clone(&self) -> Self {
        Self::of(&self.shared, &self.server)
    }
}

impl Deref for Use {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.server.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            let shared = self.shared.clone();
            self.shared.launch.tasks.spawn(async move { shared.end_unused().await });
        }
    }
}

/// Waits until it says that it listens. Whatever else it says is taken as a complaint.
async fn until_listening(tail: &Tail, output: &mut (impl AsyncBufRead + Unpin)) -> bool {
    while let Some(line) = tail.hear(output).await {
        if line.starts_with(LISTENING) {
            return true;
        }
    }
    false
}

/// A port that nobody listens on: the server itself takes none that the system chooses.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn no_port(error: io::Error) -> Error {
    Error::Unavailable(format!("no port is free for the agent: {error}"))
}

/// What others on this machine cannot guess.
fn password() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Unavailable(format!("there is no randomness: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
