//! A model behind an OpenAI-compatible chat-completions API.
//!
//! Vendors differ in what they stream; what is read here is what several of them send. Culm has no tools of its own but
//! the question to the user: a model's other calls end the run, and the client brings their results with the next one.

mod ask;
mod calls;
mod chunk;
mod extra;
mod form;
mod images;
mod own;
mod refusal;
mod reply;
mod request;
mod settings;
mod sse;
mod stream;
mod transcript;
mod usage;
mod wire;
mod words;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    form::Form,
    images::Images,
    reply::{Finished, Reply},
    transcript::{Writing, transcript},
};
use super::{Error, Event, Executor, Outcome, Turn, web::cause};
use crate::{
    attachments::AttachmentReader,
    model::{AgentSession, JsonObject, Limits, Message, NewMessage, ReasoningEffort, Role, Timestamp, ToolCall},
};

pub use self::settings::{Config, Settings};

/// A model behind an API.
pub struct OpenAi {
    settings: Settings,
    attachments: Arc<dyn AttachmentReader>,
    limits: Limits,
}

impl OpenAi {
    /// An executor for one provider, that reads the images of transcripts, and keeps its messages within the limits.
    pub fn new(settings: Settings, attachments: Arc<dyn AttachmentReader>, limits: Limits) -> Self {
        Self { settings, attachments, limits }
    }

    async fn carry_out(&self, mut turn: Turn, events: &mpsc::Sender<Event>) -> Result<Outcome, Error> {
        if !turn.messages.last().is_some_and(|last| matches!(last.role, Role::User | Role::Tool)) {
            return Ok(Outcome::Skipped);
        }
        let origin = self.settings.provider.host();
        let mut used = JsonObject::new();
        loop {
            let (reply, spent) = self.reply(&turn, &origin, events).await?;
            tell_usage(&mut used, spent, events).await;
            let mut reply = reply?;
            let usage = reply.usage.take();
            let finished = reply.into_message(&origin, &self.limits);
            if let Ok(finished) = &finished {
                tell(events, Event::Message(finished.message.clone())).await;
            }
            tell_usage(&mut used, usage, events).await;
            let Finished { message, cut } = finished?;
            if let Some(cut) = cut {
                return Err(cut);
            }
            let (questions, others) = self.questions(&message);
            append(&mut turn.messages, message);
            if questions.is_empty() {
                return Ok(Outcome::Completed);
            }
            for call in &questions {
                let Some(answer) = ask::ask(call, events).await else { return Ok(Outcome::Cancelled) };
                turn.messages.push(answer);
            }
            // The model goes on when all its calls have results, and the client has those of the others.
            if others {
                return Ok(Outcome::Completed);
            }
        }
    }

    /// Asks the model, and again where that can help. With the reply comes what attempts that failed have used.
    async fn reply(
        &self,
        turn: &Turn,
        origin: &str,
        events: &mpsc::Sender<Event>,
    ) -> Result<(Result<Reply, Error>, Option<JsonObject>), Error> {
        let images = Images::load(&turn.messages, &*self.attachments).await?;
        let model = turn.model.as_deref().unwrap_or(&self.settings.model);
        let body = |form: Form| {
            let request = wire::Request {
                model,
                messages: transcript(turn, &Writing { images: &images, form, origin }),
                stream: true,
                stream_options: form.usage.then_some(wire::StreamOptions { include_usage: true }),
                reasoning_effort: turn.reasoning_effort.map(|effort| effort_word(effort, model)),
                tools: if self.settings.ask_user { vec![ask::tool()] } else { Vec::new() },
            };
            serde_json::to_vec(&request).map(Bytes::from).map_err(|error| Error::Failed(error.to_string()))
        };
        let (extra, delay) = (own::names(&turn.messages, origin), self.settings.retry_delay);
        let question = request::Question { body: &body, extra, delay };
        Ok(self.settings.provider.complete(&question, &self.limits, events).await)
    }

    /// The calls that ask the user, and whether there are others.
    fn questions(&self, message: &NewMessage) -> (Vec<ToolCall>, bool) {
        let calls = message.tool_calls.iter().flatten().cloned();
        let (questions, others): (Vec<_>, Vec<_>) =
            calls.partition(|call| self.settings.ask_user && call.function.name == ask::TOOL);
        (questions, !others.is_empty())
    }
}

#[async_trait]
impl Executor for OpenAi {
    async fn run(&self, turn: Turn, events: mpsc::Sender<Event>, cancel: CancellationToken) -> Result<Outcome, Error> {
        // Dropping the work drops its connection, which is what stops a provider.
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(Outcome::Cancelled),
            () = events.closed() => Ok(Outcome::Cancelled),
            outcome = self.carry_out(turn, &events) => outcome,
        }
    }

    /// A connection is all that it has, and only while it runs.
    async fn dispose(&self, _: &AgentSession, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, Error> {
        self.settings.provider.reach().await.map(|()| format!("the model {}", self.settings.model))
    }

    async fn shut_down(&self) {}
}

/// Tells an event. When nobody takes it, the run is over: `run` sees that for itself.
async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.send(event).await;
}

async fn tell_usage(used: &mut JsonObject, usage: Option<JsonObject>, events: &mpsc::Sender<Event>) {
    if let Some(mut usage) = usage {
        usage::complete(&mut usage);
        usage::add(used, usage);
        tell(events, Event::Usage(used.clone())).await;
    }
}

fn append(messages: &mut Vec<Message>, message: NewMessage) {
    let seq = messages.last().map_or(1, |last| last.seq + 1);
    messages.push(message.into_message(seq, Timestamp::now()));
}

/// The provider's word for how hard to think: none of them knows `max`, and Google's know neither it nor `xhigh`.
fn effort_word(effort: ReasoningEffort, model: &str) -> &'static str {
    let model = model.to_lowercase();
    let google = model.contains("gemini") || model.contains("google");
    match effort {
        ReasoningEffort::Low => "low",
        ReasoningEffort::Medium => "medium",
        ReasoningEffort::Xhigh | ReasoningEffort::Max if !google => "xhigh",
        ReasoningEffort::High | ReasoningEffort::Xhigh | ReasoningEffort::Max => "high",
    }
}
