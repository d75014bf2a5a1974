//! The line to an agent: JSON-RPC over its pipes. What it says and asks during a turn goes to that turn, in order;
//! what it says outside of one goes nowhere, and what it asks is refused.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use agent_client_protocol::{
    Agent, Client, Error, Lines, on_receive_notification, on_receive_request,
    v1::{
        ConnectionTo, Responder,
        schema::{
            ReadTextFileRequest, ReadTextFileResponse, RequestPermissionOutcome, RequestPermissionRequest,
            RequestPermissionResponse, SessionId, SessionNotification, SessionUpdate, WriteTextFileRequest,
            WriteTextFileResponse,
        },
    },
};
use futures_util::{SinkExt, Stream, StreamExt, stream};
use serde_json::json;
use tokio::{
    process::{ChildStdin, ChildStdout},
    sync::{mpsc, oneshot},
};
use tokio_util::{
    codec::{FramedRead, FramedWrite, LinesCodec},
    sync::{CancellationToken, DropGuard},
};

use super::{
    lines::{self, Line},
    messages,
};
use crate::{executor::process::Tail, tasks::Tasks};

/// What an agent said that waits for its turn at most; an agent that is faster waits.
const SAID: usize = 64;

/// What an agent says or asks during a turn.
pub(super) enum Said {
    Update(Box<SessionUpdate>),
    Permission(Box<RequestPermissionRequest>, Responder<RequestPermissionResponse>),
    Read(ReadTextFileRequest, Responder<ReadTextFileResponse>),
    Write(WriteTextFileRequest, Responder<WriteTextFileResponse>),
}

/// Where what is said goes: to the turn that listens, of the session that it is said of.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Option<Listener>>>);

type Listener = (SessionId, mpsc::Sender<Said>);

impl Inbox {
    fn listener(&self) -> Option<Listener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn listen(&self, listener: Option<Listener>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }

    /// Hands on what was said. What nobody listens to comes back.
    async fn hand_on(&self, session: &SessionId, said: Said) -> Result<(), Said> {
        match self.listener() {
            Some((listening, listener)) if listening == *session => {
                listener.send(said).await.map_err(|unsent| unsent.0)
            }
            _ => Err(said),
        }
    }

    /// News for whoever listens that something was left out: in the place of what it was, so that what is stored shows it.
    fn left_out(&self, what: &str) -> Option<String> {
        let (session, _) = self.listener()?;
        let text = json!({ "type": "text", "text": format!("\n\n[left out: {what}]\n\n") });
        let update = json!({ "sessionUpdate": "agent_message_chunk", "content": text });
        let params = json!({ "sessionId": session, "update": update });
        Some(json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }).to_string())
    }

    /// Waits until whoever listens has room: so that an agent which talks faster fills its pipe, not our memory.
    async fn room(&self) {
        if let Some((_, listener)) = self.listener() {
            let _ = listener.reserve().await;
        }
    }
}

/// A connection that is up. Dropped, it is closed, and the agent's input with it.
pub(super) struct Connection {
    agent: ConnectionTo<Agent>,
    inbox: Inbox,
    /// Cancelled when nothing more will come.
    closed: CancellationToken,
    _stop: DropGuard,
}

impl Connection {
    /// Speaks over a process's pipes, in lines of at most so many bytes.
    pub(super) async fn open(
        input: ChildStdin,
        output: ChildStdout,
        tail: &Tail,
        tasks: &Tasks,
        most: usize,
    ) -> Option<Self> {
        let (inbox, stop, closed) = (Inbox::default(), CancellationToken::new(), CancellationToken::new());
        let lines = Lines::new(
            SinkExt::<String>::sink_map_err(FramedWrite::new(input, LinesCodec::new()), io::Error::other),
            said(output, inbox.clone(), tail.clone(), most),
        );
        let (up, agent) = oneshot::channel();
        let (serving, ended, end) = (drive(lines, inbox.clone(), up), stop.clone(), closed.clone().drop_guard());
        tasks.spawn(async move {
            let _end = end;
            match ended.run_until_cancelled(serving).await {
                Some(Err(error)) => tracing::debug!(%error, "the line to an agent broke"),
                _ => tracing::trace!("the line to an agent is closed"),
            }
        });
        Some(Self { agent: agent.await.ok()?, inbox, closed, _stop: stop.drop_guard() })
    }

    /// The agent, to ask it something.
    pub(super) fn agent(&self) -> &ConnectionTo<Agent> {
        &self.agent
    }

    /// Whether something can still come.
    pub(super) fn is_open(&self) -> bool {
        !self.closed.is_cancelled()
    }

    /// Listens to what is said of a session, until what is given is dropped or somebody else listens.
    pub(super) fn listen(&self, session: SessionId) -> mpsc::Receiver<Said> {
        let (sender, receiver) = mpsc::channel(SAID);
        self.inbox.listen(Some((session, sender)));
        receiver
    }

    /// Listens no more.
    pub(super) fn turn_away(&self) {
        self.inbox.listen(None);
    }
}

async fn drive(
    lines: Lines<
        impl futures_util::Sink<String, Error = io::Error> + Send + 'static,
        impl Stream<Item = io::Result<String>> + Send + 'static,
    >,
    inbox: Inbox,
    up: oneshot::Sender<ConnectionTo<Agent>>,
) -> Result<(), Error> {
    let (updates, permissions, reads, writes) = (inbox.clone(), inbox.clone(), inbox.clone(), inbox);
    Client
        .v1()
        .name("culm")
        .on_receive_notification(
            async move |said: SessionNotification, _| {
                let _ = updates.hand_on(&said.session_id, Said::Update(Box::new(said.update))).await;
                Ok(())
            },
            on_receive_notification!(),
        )
        .on_receive_request(
            async move |asked: RequestPermissionRequest, responder, _| {
                let session = asked.session_id.clone();
                let asked = Said::Permission(Box::new(asked), responder);
                match permissions.hand_on(&session, asked).await {
                    Err(Said::Permission(_, responder)) => responder.respond(refused()),
                    _ => Ok(()),
                }
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: ReadTextFileRequest, responder, _| {
                let session = asked.session_id.clone();
                let _ = reads.hand_on(&session, Said::Read(asked, responder)).await;
                Ok(())
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: WriteTextFileRequest, responder, _| {
                let session = asked.session_id.clone();
                let _ = writes.hand_on(&session, Said::Write(asked, responder)).await;
                Ok(())
            },
            on_receive_request!(),
        )
        .connect_with(lines, async move |agent: ConnectionTo<Agent>| {
            let _ = up.send(agent.clone());
            agent.incoming_closed().await;
            Ok(())
        })
        .await
}

/// Nobody will answer.
pub(super) fn refused() -> RequestPermissionResponse {
    RequestPermissionResponse::new(RequestPermissionOutcome::Cancelled)
}

/// The messages that an agent writes. All other text is taken as a complaint: some agents log to the wrong end.
fn said(
    output: ChildStdout,
    inbox: Inbox,
    tail: Tail,
    most: usize,
) -> impl Stream<Item = io::Result<String>> + Send + 'static {
    let said = FramedRead::new(output, lines::Lines::new(most)).then(move |line| {
        let (inbox, tail) = (inbox.clone(), tail.clone());
        async move {
            let said = match line {
                Ok(Line::Whole(line)) => whole(&line, &inbox, &tail),
                Ok(Line::TooLong(head)) => too_long(&head, most, &inbox, &tail),
                Err(error) => {
                    tail.push(&format!("(its output is broken: {error})"));
                    vec![Err(error)]
                }
            };
            if !said.is_empty() {
                inbox.room().await;
            }
            said
        }
    });
    said.flat_map(stream::iter)
}

fn whole(line: &str, inbox: &Inbox, tail: &Tail) -> Vec<io::Result<String>> {
    let messages::Line { noise, mut messages, lost } = messages::read(line);
    if !noise.is_empty() {
        tail.push(&noise[..noise.floor_char_boundary(500)]);
    }
    if lost {
        messages.extend(inbox.left_out("a message that cannot be read"));
    }
    messages.into_iter().map(Ok).collect()
}

/// News in a line that is too long are left out. Of anything else that is too long somebody waits, and the line ends.
fn too_long(head: &str, most: usize, inbox: &Inbox, tail: &Tail) -> Vec<io::Result<String>> {
    tail.push(&format!("(it sent a line of more than {most} bytes)"));
    if head.contains("\"session/update\"") {
        return inbox.left_out(&format!("a message of more than {most} bytes")).map(Ok).into_iter().collect();
    }
    match head.contains("\"jsonrpc\"") || head.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        true => vec![Err(io::Error::other("the agent sent a line that is too long"))],
        false => Vec::new(),
    }
}
