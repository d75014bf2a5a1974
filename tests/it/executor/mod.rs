//! The executor contract, against the demo model and against providers that say what a test writes down, all on real
//! listeners. Nothing is waited for but events, and numbers that the demo model counts.

mod acp;
mod cancel;
mod failures;
mod oddities;
mod opencode;
mod replies;
mod secrets;
mod settings;
mod transcript;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use culm::{
    attachments::AttachmentReader,
    demo_model,
    executor::{
        EVENTS, Error, Event, Executor, Outcome, Question, Turn,
        openai::{Config, OpenAi},
    },
    model::{AttachmentId, Limits, Message, NewMessage, Role, SessionId, Timestamp},
    tasks,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{acp::marked, opencode::servers};
use crate::support::client;

struct NoAttachments;

#[async_trait]
impl AttachmentReader for NoAttachments {
    async fn read_attachment(&self, _: &SessionId, _: &AttachmentId, _: usize) -> io::Result<Option<(Bytes, String)>> {
        Ok(None)
    }
}

/// An executor, as a configuration file would have it.
fn config(base_url: &str, more: &str) -> Config {
    toml::from_str(&format!("base_url = '{base_url}'\nmodel = 'demo'\n{more}")).unwrap()
}

fn executor(base_url: &str, more: &str) -> OpenAi {
    with(base_url, more, Arc::new(NoAttachments), Limits::default())
}

fn with(base_url: &str, more: &str, attachments: Arc<dyn AttachmentReader>, limits: Limits) -> OpenAi {
    let mut settings = config(base_url, more).settings().unwrap();
    settings.retry_delay = Duration::from_millis(1);
    OpenAi::new(settings, attachments, limits)
}

/// The demo model, listening.
pub(crate) struct Demo {
    pub(crate) address: String,
    serving: JoinHandle<io::Result<()>>,
}

impl Demo {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { address, serving: tasks::owned(demo_model::serve(listener)) }
    }

    pub(crate) fn executor(&self) -> OpenAi {
        executor(&format!("http://{}/v1", self.address), "")
    }

    /// Requests and open answers, as soon as they are as asked for.
    pub(crate) async fn stats(&self, query: &str) -> (u64, u64) {
        let answer = client().get(format!("http://{}/stats?{query}", self.address)).send().await.unwrap();
        let stats: Value = answer.json().await.unwrap();
        (stats["requests"].as_u64().unwrap(), stats["open"].as_u64().unwrap())
    }

    /// Carries out a turn with one message, to its end.
    async fn says(&self, text: &str) -> (Result<Outcome, Error>, Vec<String>) {
        finish(&self.executor(), turn(vec![NewMessage::text(Role::User, text)])).await
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A provider that answers each connection with what the test wrote down, and ends it. Gives the requests as they came.
async fn provider(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (came, requests) = mpsc::unbounded_channel();
    tasks::owned(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = came.send(request(&mut stream).await);
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (format!("http://{address}/v1"), requests)
}

/// A request to its end.
async fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        stream.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return text;
        }
    }
}

/// A reply of one event. One that says nothing would be a failure.
const HI: &str = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}"#;

/// A stream of these events.
fn stream(events: &[&str]) -> String {
    let events: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}")
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn stored(place: usize, message: NewMessage) -> Message {
    message.into_message(i64::try_from(place).unwrap() + 1, Timestamp(0))
}

fn turn(messages: Vec<NewMessage>) -> Turn {
    Turn {
        run_id: "run".parse().unwrap(),
        session_id: "s".parse().unwrap(),
        model: None,
        reasoning_effort: None,
        workspace: None,
        summary: None,
        messages: messages.into_iter().enumerate().map(|(place, message)| stored(place, message)).collect(),
    }
}

/// A turn that is carried out in a task of its own.
struct Running {
    run: JoinHandle<Result<Outcome, Error>>,
    events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
}

impl Running {
    fn start(executor: impl Executor + 'static, text: &str) -> Self {
        Self::of(Arc::new(executor), turn(vec![NewMessage::text(Role::User, text)]))
    }

    fn of(executor: Arc<dyn Executor>, turn: Turn) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let cancel = CancellationToken::new();
        let asked = cancel.clone();
        let run = tasks::owned(async move { executor.run(turn, sender, asked).await });
        Self { run, events, cancel }
    }

    /// The first event for which the function gives something.
    async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.events.recv().await.unwrap()) {
                return found;
            }
        }
    }

    async fn until_text(&mut self) {
        self.until(|event| matches!(event, Event::TextDelta(_)).then_some(())).await;
    }

    async fn until_question(&mut self) -> Question {
        self.until(|event| if let Event::Question(question) = event { Some(question) } else { None }).await
    }

    async fn cancel(self) -> Result<Outcome, Error> {
        self.cancel.cancel();
        self.run.await.unwrap()
    }
}

/// Carries a turn out, and lists what was told, one line each.
async fn finish(executor: &dyn Executor, turn: Turn) -> (Result<Outcome, Error>, Vec<String>) {
    let (sender, mut events) = mpsc::channel(EVENTS);
    let listening = async {
        let mut told = Vec::new();
        while let Some(event) = events.recv().await {
            told.push(line(&event));
        }
        told
    };
    tokio::join!(executor.run(turn, sender, CancellationToken::new()), listening)
}

fn line(event: &Event) -> String {
    match event {
        Event::TextDelta(text) => format!("text {text}"),
        Event::ReasoningDelta(text) => format!("reasoning {text}"),
        Event::ToolProgress { tool_call_id, text } => format!("progress {tool_call_id} {text}"),
        Event::Question(question) => format!("question {}", question.question),
        Event::Tasks(tasks) => format!("tasks {}", Value::Object(tasks.clone())),
        Event::Usage(usage) => format!("usage {}", Value::Object(usage.clone())),
        Event::Message(message) => {
            let calls = message.tool_calls.iter().flatten();
            let calls = calls.map(|call| format!(" {}{}", call.function.name, call.function.arguments));
            let calls: String = calls.collect();
            format!("message [{}] {}{calls}", message.phase.as_deref().unwrap_or("result"), message.content)
        }
    }
}
