//! What the demo agent does: the user's last message, line by line.

use std::{path::PathBuf, process::Stdio, time::Duration};

use agent_client_protocol::{
    Client, Error, UntypedMessage,
    v1::{
        ConnectionTo,
        schema::{
            ContentBlock, ContentChunk, Meta, PermissionOption, PermissionOptionKind, Plan, PlanEntry,
            PlanEntryPriority, PlanEntryStatus, PromptResponse, ReadTextFileRequest, RequestPermissionOutcome,
            RequestPermissionRequest, SessionId, SessionNotification, SessionUpdate, StopReason, TextContent, ToolCall,
            ToolCallStatus, ToolCallUpdate, ToolCallUpdateFields, Usage, UsageUpdate, WriteTextFileRequest,
        },
    },
};
use tokio::{
    io::{AsyncWriteExt, stdout},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use super::Told;

/// What the agent can be told to do, for people.
pub const DIRECTIVES: &str = "\
The demo agent repeats the user's last message, word by word. A line that begins with a directive is carried out instead:

  /slow TIME              wait that long before each word from here on (20ms otherwise)
  /think TEXT             think this aloud
  /endless                count for ever
  /tool NAME TEXT         call a tool, with this result
  /fail-tool NAME TEXT    call a tool that fails
  /plan A | B | C         make a plan; its first point is done
  /permit TITLE | INPUT   ask for permission to call a tool with this input, as JSON, and say what was answered
  /permit-first TITLE     ask for permission for a call before it is announced, and carry it out
  /tools COUNT            call so many tools at once, and end them
  /late TEXT              end the turn, and say this shortly after that
  /claude NAME            call a tool, and name it where Claude's agent does
  /quota IN OUT           say the tokens of the turn where Gemini does
  /read PATH              have the client read a file, and say what is in it
  /write PATH TEXT        have the client write a file
  /ext METHOD             ask the client for what it may not know, and say what it answers
  /usage USED SIZE        say how full the context is
  /memory                 say what this session was told so far
  /model                  say the model that it is set to
  /where                  say the working directory and the home
  /spawn TIME             start a process that stays that long, in the background
  /refuse                 end the turn as a refusal
  /max                    end the turn as too long
  /error TEXT             answer with an error
  /garbage                print what is no message
  /huge BYTES             say so many bytes in one message
  /silent                 say nothing more, until cancelled
  /deaf                   do not listen to being cancelled from here on
  /crash [CODE]           complain, and end (3)
";

/// A turn that is played.
pub(super) struct Playing {
    session: SessionId,
    client: ConnectionTo<Client>,
    told: Told,
    slow: Duration,
    deaf: bool,
    quota: Option<Meta>,
}

impl Playing {
    pub(super) fn new(session: SessionId, client: ConnectionTo<Client>, told: Told) -> Self {
        Self { session, client, told, slow: Duration::from_millis(20), deaf: false, quota: None }
    }

    /// Plays until it comes to its end or is cancelled.
    pub(super) async fn play(mut self, cancel: &CancellationToken) -> Result<PromptResponse, Error> {
        let last = self.told.prompts.last().cloned().unwrap_or_default();
        // What comes before the last blank line is context; after the result of a call, it goes on with what it was at.
        let mut paragraphs = last.rsplit("\n\n").filter(|paragraph| !paragraph.starts_with("[result of a call]"));
        let script = paragraphs.next().unwrap_or(&last).to_owned();
        for line in script.lines() {
            let stepped = match self.deaf {
                true => Some(self.step(line).await),
                false => cancel.run_until_cancelled(self.step(line)).await,
            };
            match stepped {
                Some(Ok(None)) => {}
                Some(Ok(Some(stop))) => return Ok(PromptResponse::new(stop)),
                Some(Err(error)) => return Err(error),
                None => return Ok(PromptResponse::new(StopReason::Cancelled)),
            }
        }
        let words = script.split_whitespace().count() as u64;
        let response = PromptResponse::new(StopReason::EndTurn);
        Ok(match self.quota {
            Some(quota) => response.meta(quota),
            None => response.usage(Usage::new(2 * words, words, words)),
        })
    }

    async fn step(&mut self, line: &str) -> Result<Option<StopReason>, Error> {
        let (directive, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match directive {
            "/slow" => self.slow = humantime::parse_duration(rest).map_err(Error::into_internal_error)?,
            "/think" => self.update(SessionUpdate::AgentThoughtChunk(chunk(rest)))?,
            "/endless" => {
                for number in 1_u64.. {
                    self.say(&format!("{number} ")).await?;
                }
            }
            "/tool" => self.tool(rest, ToolCallStatus::Completed)?,
            "/fail-tool" => self.tool(rest, ToolCallStatus::Failed)?,
            "/plan" => self.plan(rest)?,
            "/permit" => self.permit(rest).await?,
            "/permit-first" => self.permit_first(rest).await?,
            "/tools" => self.tools(rest.parse().unwrap_or(1))?,
            "/late" => self.late(rest)?,
            "/claude" => self.claude(rest)?,
            "/quota" => self.quota = Some(quota(rest)),
            "/read" => self.read(rest).await?,
            "/write" => self.write(rest).await?,
            "/ext" => self.ask_foreign(rest).await?,
            "/usage" => {
                let mut numbers = rest.split_whitespace().filter_map(|number| number.parse().ok());
                let (used, size) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                self.update(SessionUpdate::UsageUpdate(UsageUpdate::new(used, size)))?;
            }
            "/memory" => self.say(&format!("{:?}", self.told.prompts)).await?,
            "/model" => self.say(self.told.model.as_deref().unwrap_or("none")).await?,
            "/where" => {
                let (work, home) = (std::env::current_dir().unwrap_or_default(), std::env::var("HOME"));
                self.say(&format!("{} {}", work.display(), home.unwrap_or_default())).await?;
            }
            "/spawn" => self.spawn(rest).await?,
            "/refuse" => return Ok(Some(StopReason::Refusal)),
            "/max" => return Ok(Some(StopReason::MaxTokens)),
            "/error" => return Err(Error::internal_error().data(rest)),
            "/garbage" => print("this is no message\n{\"neither\": \"is this\"}\n\u{7}{{{\n").await?,
            "/huge" => self.say(&"x".repeat(rest.parse().unwrap_or(10 << 20))).await?,
            "/deaf" => self.deaf = true,
            "/silent" => std::future::pending().await,
            "/crash" => {
                eprintln!("the demo agent breaks down");
                std::process::exit(rest.parse().unwrap_or(3));
            }
            _ => {
                for word in line.split_inclusive(' ') {
                    self.say(word).await?;
                }
            }
        }
        Ok(None)
    }

    fn update(&self, update: SessionUpdate) -> Result<(), Error> {
        self.client.send_notification(SessionNotification::new(self.session.clone(), update))
    }

    async fn say(&self, text: &str) -> Result<(), Error> {
        tokio::time::sleep(self.slow).await;
        self.update(SessionUpdate::AgentMessageChunk(chunk(text)))
    }

    fn tool(&self, rest: &str, status: ToolCallStatus) -> Result<(), Error> {
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let id = uuid::Uuid::now_v7().to_string();
        let call = ToolCall::new(id.clone(), format!("Calls {name}")).name(name.to_owned());
        self.update(SessionUpdate::ToolCall(call.raw_input(serde_json::json!({ "text": text }))))?;
        let begun = ToolCallUpdateFields::new().status(ToolCallStatus::InProgress);
        self.update(SessionUpdate::ToolCallUpdate(ToolCallUpdate::new(id.clone(), begun)))?;
        let ended = ToolCallUpdateFields::new().status(status).content(vec![block(text).into()]);
        self.update(SessionUpdate::ToolCallUpdate(ToolCallUpdate::new(id, ended)))
    }

    fn plan(&self, rest: &str) -> Result<(), Error> {
        let entries = rest.split('|').enumerate().map(|(at, point)| {
            let status = if at == 0 { PlanEntryStatus::Completed } else { PlanEntryStatus::Pending };
            PlanEntry::new(point.trim(), PlanEntryPriority::Medium, status)
        });
        self.update(SessionUpdate::Plan(Plan::new(entries.collect())))
    }

    /// Asks for permission to call a tool, that was not announced.
    async fn permit(&self, rest: &str) -> Result<(), Error> {
        let (title, input) = rest.split_once(" | ").unwrap_or((rest, ""));
        let fields = ToolCallUpdateFields::new().title(title.to_owned());
        let fields = match serde_json::from_str::<serde_json::Value>(input) {
            Ok(input) => fields.raw_input(input),
            Err(_) => fields,
        };
        self.ask(&uuid::Uuid::now_v7().to_string(), fields).await
    }

    async fn ask(&self, id: &str, fields: ToolCallUpdateFields) -> Result<(), Error> {
        use PermissionOptionKind as K;
        let options = [
            ("allow", "Allow", K::AllowOnce),
            ("always", "Always allow", K::AllowAlways),
            ("reject", "Reject", K::RejectOnce),
        ];
        let options = options.map(|(id, name, kind)| PermissionOption::new(id, name, kind)).into();
        let call = ToolCallUpdate::new(id.to_owned(), fields);
        let asked = RequestPermissionRequest::new(self.session.clone(), call, options);
        let answer = self.client.send_request(asked).block_task().await?;
        match answer.outcome {
            RequestPermissionOutcome::Selected(selected) => {
                self.say(&format!("answered: {}", selected.option_id)).await
            }
            _ => self.say("answered: nothing").await,
        }
    }

    /// As Codex's agent does it.
    async fn permit_first(&self, title: &str) -> Result<(), Error> {
        let (id, input) = (uuid::Uuid::now_v7().to_string(), serde_json::json!({ "command": title }));
        self.ask(&id, ToolCallUpdateFields::new().title(title.to_owned()).raw_input(input.clone())).await?;
        let call = ToolCall::new(id.clone(), title).raw_input(input).status(ToolCallStatus::InProgress);
        self.update(SessionUpdate::ToolCall(call))?;
        let ended = ToolCallUpdateFields::new().status(ToolCallStatus::Completed).content(vec![block("done").into()]);
        self.update(SessionUpdate::ToolCallUpdate(ToolCallUpdate::new(id.clone(), ended.clone())))?;
        // Some say it twice.
        self.update(SessionUpdate::ToolCallUpdate(ToolCallUpdate::new(id, ended)))
    }

    fn tools(&self, count: usize) -> Result<(), Error> {
        let id = |number: usize| format!("{}-{number}", self.session.0);
        for number in 0..count {
            let call = ToolCall::new(id(number), format!("call {number}")).status(ToolCallStatus::InProgress);
            self.update(SessionUpdate::ToolCall(call))?;
        }
        for number in 0..count {
            let ended = ToolCallUpdateFields::new().status(ToolCallStatus::Completed);
            self.update(SessionUpdate::ToolCallUpdate(ToolCallUpdate::new(id(number), ended)))?;
        }
        Ok(())
    }

    fn claude(&self, name: &str) -> Result<(), Error> {
        let meta = serde_json::json!({ "claudeCode": { "toolName": name } });
        let call = ToolCall::new(uuid::Uuid::now_v7().to_string(), "Runs it").meta(meta.as_object().cloned());
        self.update(SessionUpdate::ToolCall(call.status(ToolCallStatus::Completed)))
    }

    /// Says something once the turn has ended.
    fn late(&self, text: &str) -> Result<(), Error> {
        let said = SessionNotification::new(self.session.clone(), SessionUpdate::AgentMessageChunk(chunk(text)));
        let client = self.client.clone();
        self.client.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.send_notification(said)
        })
    }

    async fn read(&self, path: &str) -> Result<(), Error> {
        let asked = ReadTextFileRequest::new(self.session.clone(), PathBuf::from(path));
        match self.client.send_request(asked).block_task().await {
            Ok(read) => self.say(&read.content).await,
            Err(error) => self.say(&format!("not read: {error}")).await,
        }
    }

    async fn write(&self, rest: &str) -> Result<(), Error> {
        let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let asked = WriteTextFileRequest::new(self.session.clone(), PathBuf::from(path), text);
        match self.client.send_request(asked).block_task().await {
            Ok(_) => self.say("written").await,
            Err(error) => self.say(&format!("not written: {error}")).await,
        }
    }

    async fn ask_foreign(&self, method: &str) -> Result<(), Error> {
        let asked = UntypedMessage::new(method, serde_json::json!({}))?;
        match self.client.send_request(asked).block_task().await {
            Ok(answer) => self.say(&answer.to_string()).await,
            Err(error) => self.say(&format!("{}", i32::from(error.code))).await,
        }
    }

    async fn spawn(&self, time: &str) -> Result<(), Error> {
        let mut command = Command::new("sleep");
        command.arg(time).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.spawn().map_err(Error::into_internal_error)?;
        self.say(&format!("started {}", started.id().unwrap_or_default())).await
    }
}

fn block(text: &str) -> ContentBlock {
    ContentBlock::Text(TextContent::new(text))
}

fn chunk(text: &str) -> ContentChunk {
    ContentChunk::new(block(text))
}

/// Prints beside the protocol.
async fn print(text: &str) -> Result<(), Error> {
    let mut out = stdout();
    out.write_all(text.as_bytes()).await.map_err(Error::into_internal_error)?;
    out.flush().await.map_err(Error::into_internal_error)
}

/// What Gemini's agent says of a turn's tokens.
fn quota(rest: &str) -> Meta {
    let counts: Vec<u64> = rest.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    let tokens = serde_json::json!({ "input_tokens": counts.first(), "output_tokens": counts.get(1) });
    Meta::from_iter([("quota".into(), serde_json::json!({ "token_count": tokens, "model_usage": [] }))])
}
