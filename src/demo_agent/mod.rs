//! An agent without a model: it speaks the Agent Client Protocol over its standard input and output, and does what the
//! user's last message tells it to (`script.rs`). For tests and for a first tour; it knows nothing of Culm.

mod script;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_client_protocol::{
    Agent, Client, Error, Lines, on_receive_notification, on_receive_request,
    v1::{
        ConnectionTo, Responder,
        schema::{
            AgentCapabilities, CancelNotification, CloseSessionRequest, CloseSessionResponse, ContentBlock,
            ContentChunk, Implementation, InitializeRequest, InitializeResponse, LoadSessionRequest,
            LoadSessionResponse, NewSessionRequest, NewSessionResponse, PromptCapabilities, PromptRequest,
            PromptResponse, ResumeSessionRequest, ResumeSessionResponse, SessionCapabilities, SessionCloseCapabilities,
            SessionConfigOption, SessionConfigOptionCategory, SessionConfigSelectOption, SessionId,
            SessionNotification, SessionResumeCapabilities, SessionUpdate, SetSessionConfigOptionRequest,
            SetSessionConfigOptionResponse, SetSessionModeRequest, SetSessionModeResponse, StopReason, TextContent,
        },
    },
};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{stdin, stdout};
use tokio_util::{
    codec::{FramedRead, FramedWrite, LinesCodec},
    sync::CancellationToken,
};

pub use self::script::DIRECTIVES;
use self::script::Playing;

/// Bytes of one line at most.
const LINE: usize = 64 << 20;

/// How the agent is, besides what it is told to do.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Manner {
    /// End at once, with a complaint and this exit code
    #[arg(long, value_name = "CODE")]
    exit: Option<u8>,
    /// Never answer, not even to a greeting
    #[arg(long)]
    mute: bool,
    /// Offer neither `session/load` nor `session/resume`
    #[arg(long)]
    forgetful: bool,
    /// Offer `session/load`, not `session/resume`
    #[arg(long)]
    no_resume: bool,
    /// Offer these models; the first one is its own choice
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    models: Vec<String>,
    /// Stay when the input ends and when asked to end by SIGTERM
    #[arg(long)]
    stubborn: bool,
}

/// A session of the agent: what it was told, the model it was set to, and how to stop what it does.
#[derive(Default)]
struct Memory {
    prompts: Vec<String>,
    model: Option<String>,
    cancel: CancellationToken,
}

/// What a session was told, its last prompt included.
struct Told {
    prompts: Vec<String>,
    model: Option<String>,
    cancel: CancellationToken,
}

#[derive(Clone)]
struct DemoAgent {
    manner: Manner,
    sessions: Arc<Mutex<HashMap<SessionId, Memory>>>,
}

impl DemoAgent {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Memory>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self, asked: &InitializeRequest) -> InitializeResponse {
        let sessions = SessionCapabilities::new().close(SessionCloseCapabilities::new());
        let sessions = match self.manner.forgetful || self.manner.no_resume {
            true => sessions,
            false => sessions.resume(SessionResumeCapabilities::new()),
        };
        let can = AgentCapabilities::new()
            .load_session(!self.manner.forgetful)
            .prompt_capabilities(PromptCapabilities::new().image(true))
            .session_capabilities(sessions);
        InitializeResponse::new(asked.protocol_version)
            .agent_capabilities(can)
            .agent_info(Implementation::new("culm-demo-agent", env!("CARGO_PKG_VERSION")))
    }

    fn begin(&self) -> SessionId {
        let id = SessionId::from(uuid::Uuid::now_v7().to_string());
        self.sessions().insert(id.clone(), Memory::default());
        id
    }

    /// What was told before the agent was started anew is in its home.
    fn remember(&self, id: &SessionId) -> Result<Vec<String>, Error> {
        let kept = std::fs::read(file(id)).ok().and_then(|kept| serde_json::from_slice::<Vec<String>>(&kept).ok());
        let prompts = kept.ok_or_else(|| Error::invalid_params().data("there is no such session"))?;
        self.sessions().insert(id.clone(), Memory { prompts: prompts.clone(), ..Memory::default() });
        Ok(prompts)
    }

    /// What a client may choose.
    fn options(&self, id: &SessionId) -> Option<Vec<SessionConfigOption>> {
        let own = self.manner.models.first()?;
        let chosen = self.sessions().get(id).and_then(|memory| memory.model.clone());
        let models = self.manner.models.iter().map(|name| SessionConfigSelectOption::new(name.clone(), name.clone()));
        let models = models.collect::<Vec<_>>();
        let option = SessionConfigOption::select("model", "Model", chosen.unwrap_or_else(|| own.clone()), models);
        Some(vec![option.category(SessionConfigOptionCategory::Model)])
    }

    fn choose(&self, asked: &SetSessionConfigOptionRequest) -> Result<SetSessionConfigOptionResponse, Error> {
        let unknown = || Error::invalid_params().data("there is no such option");
        let value = asked.value.as_value_id().ok_or_else(unknown)?.0.to_string();
        if !self.manner.models.contains(&value) {
            return Err(unknown());
        }
        self.sessions().get_mut(&asked.session_id).ok_or_else(unknown)?.model = Some(value);
        Ok(SetSessionConfigOptionResponse::new(self.options(&asked.session_id).unwrap_or_default()))
    }

    /// Takes a prompt.
    fn told(&self, asked: &PromptRequest) -> Result<Told, Error> {
        let texts = asked.prompt.iter().map(|block| match block {
            ContentBlock::Text(text) => text.text.clone(),
            ContentBlock::Image(image) => format!("[image {} {}]", image.mime_type, image.data.len()),
            _ => "[?]".into(),
        });
        let prompt = texts.collect::<Vec<_>>().join("\n\n");
        let mut sessions = self.sessions();
        let unknown = || Error::invalid_params().data("there is no such session");
        let memory = sessions.get_mut(&asked.session_id).ok_or_else(unknown)?;
        memory.prompts.push(prompt);
        memory.cancel = CancellationToken::new();
        let (model, own) = (memory.model.clone(), self.manner.models.first());
        let (prompts, cancel) = (memory.prompts.clone(), memory.cancel.clone());
        let told = Told { prompts, model: model.or_else(|| own.cloned()), cancel };
        drop(sessions);
        keep(&asked.session_id, &told.prompts).map_err(Error::into_internal_error)?;
        Ok(told)
    }
}

fn file(id: &SessionId) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".demo-agent").join(format!("{}.json", id.0))
}

fn keep(id: &SessionId, prompts: &[String]) -> io::Result<()> {
    let file = file(id);
    file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(file, serde_json::to_vec(prompts)?)
}

/// Serves until its input ends. `program` is this program, to start others of it.
pub async fn serve(manner: Manner) -> Result<(), Error> {
    if let Some(code) = manner.exit {
        eprintln!("the demo agent was told to end");
        std::process::exit(code.into());
    }
    if manner.mute {
        std::future::pending::<()>().await;
    }
    let stubborn = manner.stubborn;
    let _deaf = stubborn.then(|| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()));
    let agent = DemoAgent { manner, sessions: Arc::default() };
    let input =
        FramedRead::new(stdin(), LinesCodec::new_with_max_length(LINE)).map(|line| line.map_err(io::Error::other));
    let output = SinkExt::<String>::sink_map_err(FramedWrite::new(stdout(), LinesCodec::new()), io::Error::other);
    let served = answer(agent, Lines::new(output, input)).await;
    if stubborn {
        std::future::pending::<()>().await;
    }
    served
}

async fn answer(agent: DemoAgent, lines: impl agent_client_protocol::ConnectTo<Agent> + 'static) -> Result<(), Error> {
    let [hello, begin, load, resume, choose, close, prompt, cancel] = std::array::from_fn(|_| agent.clone());
    Agent
        .v1()
        .name("culm-demo-agent")
        .on_receive_request(
            async move |asked: InitializeRequest, answer: Responder<_>, _| answer.respond(hello.hello(&asked)),
            on_receive_request!(),
        )
        .on_receive_request(
            async move |_: NewSessionRequest, answer, _| {
                let id = begin.begin();
                answer.respond(NewSessionResponse::new(id.clone()).config_options(begin.options(&id)))
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: LoadSessionRequest,
                        answer: Responder<LoadSessionResponse>,
                        client: ConnectionTo<Client>| {
                for prompt in load.remember(&asked.session_id)? {
                    let chunk = ContentChunk::new(ContentBlock::Text(TextContent::new(prompt)));
                    let replayed = SessionUpdate::UserMessageChunk(chunk);
                    client.send_notification(SessionNotification::new(asked.session_id.clone(), replayed))?;
                }
                answer.respond(LoadSessionResponse::new().config_options(load.options(&asked.session_id)))
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: ResumeSessionRequest, answer: Responder<ResumeSessionResponse>, _| {
                resume.remember(&asked.session_id)?;
                answer.respond(ResumeSessionResponse::new().config_options(resume.options(&asked.session_id)))
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |_: SetSessionModeRequest, answer: Responder<SetSessionModeResponse>, _| {
                answer.respond(SetSessionModeResponse::new())
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: SetSessionConfigOptionRequest, answer, _| answer.respond(choose.choose(&asked)?),
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: CloseSessionRequest, answer: Responder<CloseSessionResponse>, _| {
                close.sessions().remove(&asked.session_id);
                answer.respond(CloseSessionResponse::new())
            },
            on_receive_request!(),
        )
        .on_receive_request(
            async move |asked: PromptRequest, answer: Responder<PromptResponse>, client: ConnectionTo<Client>| {
                let told = prompt.told(&asked)?;
                let cancel = told.cancel.clone();
                let playing = Playing::new(asked.session_id, client.clone(), told);
                client.spawn(async move {
                    let played = playing.play(&cancel).await;
                    match played {
                        Ok(_) if cancel.is_cancelled() => answer.respond(PromptResponse::new(StopReason::Cancelled)),
                        Ok(response) => answer.respond(response),
                        Err(error) => answer.respond_with_error(error),
                    }
                })
            },
            on_receive_request!(),
        )
        .on_receive_notification(
            async move |asked: CancelNotification, _| {
                if let Some(memory) = cancel.sessions().get(&asked.session_id) {
                    memory.cancel.cancel();
                }
                Ok(())
            },
            on_receive_notification!(),
        )
        .connect_to(lines)
        .await
}
