//! One turn with an agent: a prompt, what it says and asks meanwhile, and its end, whoever brings that about.

use std::{collections::VecDeque, future::Future, path::Path, time::Duration};

use agent_client_protocol::{
    Error as Refusal,
    v1::{
        Responder,
        schema::{
            CancelNotification, ContentBlock, PromptRequest, PromptResponse, ReadTextFileRequest, ReadTextFileResponse,
            RequestPermissionRequest, RequestPermissionResponse, SessionId, StopReason, WriteTextFileRequest,
            WriteTextFileResponse,
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Said, refused},
    files::Below,
    permission,
    settings::{Files, Settings},
    told::Told,
};
use crate::{
    executor::{
        Error, Event, Outcome,
        permission::{Asking, Desk},
    },
    model::Message,
    tasks,
};

/// How long an agent may take to end its turn once it was told to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an agent must be quiet after the end of its turn until it has said its last word.
const QUIET: Duration = Duration::from_millis(300);
/// How long it may go on talking then.
const LATE: Duration = Duration::from_secs(3);
/// Requests for permission that wait while another one is asked, at most; further ones are refused.
const WAITING: usize = 32;

type Asked = (Box<RequestPermissionRequest>, Responder<RequestPermissionResponse>);

/// What the user is asked, and where the answer comes.
struct Open {
    asked: Asked,
    shown: Asking,
    answer: oneshot::Receiver<Message>,
}

/// A turn that is under way.
pub(super) struct Talk<'a> {
    pub(super) settings: &'a Settings,
    pub(super) session: &'a SessionId,
    pub(super) connection: &'a Connection,
    pub(super) events: &'a mpsc::Sender<Event>,
    pub(super) cancel: &'a CancellationToken,
    pub(super) told: Told,
    pub(super) directory: &'a Path,
    /// Where the user is asked.
    pub(super) desk: Desk,
}

/// How a turn came to its end.
pub(super) enum End {
    /// The agent ended it.
    Said(Result<PromptResponse, Refusal>),
    /// It was told to stop, and did, or at least nothing it says counts any more.
    Cancelled {
        /// Whether it stopped by itself. If not, it works still.
        politely: bool,
    },
    /// It took too long, or was silent for too long; it stopped by itself, or works still.
    Late { why: String, politely: bool },
}

impl Talk<'_> {
    /// Prompts the agent, and listens until the turn ends.
    pub(super) async fn hold(&mut self, prompt: Vec<ContentBlock>) -> End {
        let mut said = self.connection.listen(self.session.clone());
        let answer =
            self.connection.agent().send_request(PromptRequest::new(self.session.clone(), prompt)).block_task();
        tokio::pin!(answer);
        let ending = self.converse(&mut said, answer.as_mut()).await;
        let end = match ending {
            Ending::Said(answer) => {
                if answer.as_ref().is_ok_and(|answer| answer.stop_reason != StopReason::Cancelled) {
                    self.hear_out(&mut said).await;
                }
                End::Said(answer)
            }
            Ending::Cancelled => End::Cancelled { politely: self.stop(&mut said, answer.as_mut()).await },
            Ending::Late(why) => End::Late { why, politely: self.stop(&mut said, answer.as_mut()).await },
        };
        self.connection.turn_away();
        end
    }

    /// Hears what comes shortly after the end of a turn: some agents answer the prompt before their last words.
    async fn hear_out(&mut self, said: &mut mpsc::Receiver<Said>) {
        let over = Instant::now() + LATE;
        loop {
            let quiet = over.min(Instant::now() + QUIET);
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = self.events.closed() => return,
                Some(said) = said.recv() => match said {
                    Said::Update(update) => self.tell(*update).await,
                    Said::Permission(_, responder) => { let _ = responder.respond(refused()); }
                    // Dropped, it is refused.
                    Said::Read(..) | Said::Write(..) => {}
                },
                () = tokio::time::sleep_until(quiet) => return,
            }
        }
    }

    async fn converse(
        &mut self,
        said: &mut mpsc::Receiver<Said>,
        mut answer: impl Future<Output = Result<PromptResponse, Refusal>> + Unpin,
    ) -> Ending {
        let (mut asking, mut waiting) = (None::<Open>, VecDeque::<Asked>::new());
        let (mut over, mut silent) = (Instant::now() + self.settings.turn, Instant::now() + self.settings.silence);
        loop {
            if asking.is_none()
                && let Some(next) = waiting.pop_front()
            {
                asking = self.ask(next).await;
            }
            let asked_at = Instant::now();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ending::Cancelled,
                () = self.events.closed() => return Ending::Cancelled,
                answered = answered(&mut asking) => {
                    // The user's time is not the agent's.
                    over += asked_at.elapsed();
                    match answered {
                        Some((open, _)) if self.has_changed(&open) => waiting.push_front(open.asked),
                        Some((Open { asked, .. }, text)) => { let _ = asked.1.respond(permission::response(&asked.0, &text)); }
                        None => return Ending::Cancelled,
                    }
                }
                Some(said) = said.recv() => match said {
                    Said::Update(update) => self.tell(*update).await,
                    Said::Permission(request, responder) if waiting.len() < WAITING => waiting.push_back((request, responder)),
                    Said::Permission(_, responder) => { let _ = responder.respond(refused()); }
                    Said::Read(request, responder) => self.read(request, responder).await,
                    Said::Write(request, responder) => self.write(request, responder).await,
                },
                answer = &mut answer => return Ending::Said(answer),
                () = tokio::time::sleep_until(silent), if asking.is_none() => {
                    return Ending::Late(format!("the agent said nothing for {}", humantime::format_duration(self.settings.silence)));
                }
                () = tokio::time::sleep_until(over), if asking.is_none() => {
                    return Ending::Late(format!("the turn took more than {}", humantime::format_duration(self.settings.turn)));
                }
            }
            silent = Instant::now() + self.settings.silence;
        }
    }

    async fn tell(&mut self, update: agent_client_protocol::v1::schema::SessionUpdate) {
        for event in self.told.hear(update) {
            self.send(event).await;
        }
    }

    /// When nobody takes it any more the turn is over, and the loop sees it; also when nobody takes it yet.
    async fn send(&self, event: Event) {
        let _ = self.cancel.run_until_cancelled(self.events.send(event)).await;
    }

    /// Answers a request for permission, or asks the user.
    async fn ask(&mut self, (request, responder): Asked) -> Option<Open> {
        for event in self.told.asked(request.tool_call.clone()) {
            self.send(event).await;
        }
        if let Some(event) = self.told.begin(&request.tool_call.tool_call_id) {
            self.send(event).await;
        }
        let asking =
            self.told.known(&request.tool_call.tool_call_id).map(|call| permission::asking(call, &request.options));
        let decided = match (permission::decide(self.settings.permissions, &request), &asking) {
            (Some(decided), _) => Some(decided),
            (None, Some(asking)) if !request.options.is_empty() => {
                self.desk.answered(asking).map(|answer| permission::response(&request, &answer))
            }
            (None, _) => Some(refused()),
        };
        let (None, Some(asking)) = (&decided, asking) else {
            let _ = responder.respond(decided.unwrap_or_else(refused));
            return None;
        };
        if let Some(said) = self.told.said("commentary") {
            self.send(said).await;
        }
        let (answer, answered) = oneshot::channel();
        let (message, question) = self.desk.ask(asking.clone(), answer);
        self.send(Event::Message(message)).await;
        self.send(Event::Question(question)).await;
        Some(Open { asked: (request, responder), shown: asking, answer: answered })
    }

    /// Whether the agent has told meanwhile that the call is another one than was shown: then it is asked again.
    fn has_changed(&mut self, open: &Open) -> bool {
        let request = &open.asked.0;
        let now =
            self.told.known(&request.tool_call.tool_call_id).map(|call| permission::asking(call, &request.options));
        now.is_some_and(|now| now.input != open.shown.input || now.about["tool"] != open.shown.about["tool"])
    }

    async fn read(&self, request: ReadTextFileRequest, responder: Responder<ReadTextFileResponse>) {
        let files = Below::new(self.directory.into());
        let _ = match self.settings.files {
            Files::None => responder.respond_with_error(Refusal::method_not_found()),
            _ => match tasks::blocking(move || files.read(&request.path, request.line, request.limit)).await {
                Ok(text) => responder.respond(ReadTextFileResponse::new(text)),
                Err(error) => responder.respond_with_error(Refusal::invalid_params().data(error.to_string())),
            },
        };
    }

    async fn write(&self, request: WriteTextFileRequest, responder: Responder<WriteTextFileResponse>) {
        let files = Below::new(self.directory.into());
        let _ = match self.settings.files {
            Files::Write => match tasks::blocking(move || files.write(&request.path, &request.content)).await {
                Ok(()) => responder.respond(WriteTextFileResponse::new()),
                Err(error) => responder.respond_with_error(Refusal::invalid_params().data(error.to_string())),
            },
            _ => responder.respond_with_error(Refusal::method_not_found()),
        };
    }

    /// Tells the agent to stop. Whether it did: whatever it says until then counts for nothing, and what it asks is
    /// refused.
    async fn stop(
        &self,
        said: &mut mpsc::Receiver<Said>,
        mut answer: impl Future<Output = Result<PromptResponse, Refusal>> + Unpin,
    ) -> bool {
        if self.connection.agent().send_notification(CancelNotification::new(self.session.clone())).is_err() {
            return false;
        }
        let stopped = async {
            loop {
                tokio::select! {
                    answer = &mut answer => return answer.is_ok() || self.connection.is_open(),
                    Some(said) = said.recv() => if let Said::Permission(_, responder) = said {
                        let _ = responder.respond(refused());
                    },
                }
            }
        };
        tokio::time::timeout(PATIENCE, stopped).await.unwrap_or(false)
    }
}

/// How the conversation ended.
enum Ending {
    Said(Result<PromptResponse, Refusal>),
    Cancelled,
    Late(String),
}

/// The user's answer to what is asked; pending forever if nothing is. None when there will be none.
async fn answered(asking: &mut Option<Open>) -> Option<(Open, String)> {
    let Some(open) = asking else { return std::future::pending().await };
    let answer = (&mut open.answer).await;
    Some((asking.take()?, answer.ok()?.content))
}

/// Whether a turn came to a usual end, and what to say of it if not.
pub(super) fn outcome(stop: StopReason) -> Result<Outcome, Error> {
    match stop {
        StopReason::EndTurn | StopReason::MaxTokens | StopReason::MaxTurnRequests => Ok(Outcome::Completed),
        StopReason::Refusal => Err(Error::Failed("the agent refuses to go on".into())),
        StopReason::Cancelled => Ok(Outcome::Cancelled),
        other => Err(Error::Failed(format!("the agent stopped: {other:?}"))),
    }
}
