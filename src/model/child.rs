//! Child sessions: what a parent delegates, changes, and sends after.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Invalid, Limits, NewMessage, Role, Run, Session, SessionId, check_line, check_text};

/// What a child's model is told before anything else.
pub const CHILD_SYSTEM_PROMPT: &str = "\
You are a sub-agent. Another session handed you one task, which the first user message describes; that session reads \
what you answer, and nobody else does.

- Do this task and nothing beside it. Use whatever tools you have.
- Do not hand the task on, nor parts of it: start no sessions of your own.
- If something essential is missing, say what, and stop.
- Answer briefly: the result first, then only what is needed to trust it or to go on from it.
";

/// The share of a child's context, in percent, at which its history is compressed, and the share to compress it to.
/// Lower than a root's, so that a long task does not fill the context before the parent can step in.
pub const CHILD_COMPRESSION: (i64, i64) = (70, 35);

/// A child to create: the task that it is handed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChild {
    /// An id of the client's own; the server makes one otherwise.
    #[serde(default)]
    pub id: Option<SessionId>,
    /// The title; not blank.
    pub title: String,
    /// What the child is responsible for; not blank.
    pub responsibility: String,
    /// The brief; not blank.
    pub prompt: String,
    /// What kind of agent the child is; not blank.
    pub subagent_type: String,
    /// The model's name, if not the parent's.
    #[serde(default)]
    pub model: Option<String>,
    /// The executor of its first run, if not the default one. Only together with `auto_run`.
    #[serde(default)]
    pub executor: Option<String>,
    /// Whether it runs at once.
    #[serde(default = "yes")]
    pub auto_run: bool,
}

fn yes() -> bool {
    true
}

impl NewChild {
    /// The same without white space around its texts; refuses what cannot be stored.
    pub fn checked(mut self, limits: &Limits) -> Result<Self, Invalid> {
        check_line("model", self.model.as_deref().unwrap_or_default(), limits.title)?;
        if self.executor.is_some() && !self.auto_run {
            return Err(Invalid::new("executor", "only together with auto_run: later runs name their own"));
        }
        for (param, text) in [
            ("title", &mut self.title),
            ("responsibility", &mut self.responsibility),
            ("prompt", &mut self.prompt),
            ("subagent_type", &mut self.subagent_type),
        ] {
            *text = checked(param, text, limits)?;
        }
        let assignment = assignment(&self.title, &self.responsibility, &self.subagent_type, &self.prompt);
        check_assignment(&assignment, limits)?;
        Ok(self)
    }
}

/// A text of a child that is not blank, without the white space around it.
fn checked(param: &str, text: &str, limits: &Limits) -> Result<String, Invalid> {
    let text = text.trim();
    match param {
        "title" | "subagent_type" => check_line(param, text, limits.title)?,
        _ => check_text(param, text)?,
    }
    match text.is_empty() {
        true => Err(Invalid::new(param, "not blank")),
        false => Ok(text.to_owned()),
    }
}

fn check_assignment(assignment: &str, limits: &Limits) -> Result<(), Invalid> {
    NewMessage::text(Role::User, assignment).check(limits).map_err(|_| Invalid::too_large("prompt", limits.message))
}

/// The user message that hands a task to a child.
pub fn assignment(title: &str, responsibility: &str, subagent_type: &str, prompt: &str) -> String {
    format!(
        "Sub-session title: {title}\nResponsibility: {responsibility}\nSubagent type: {subagent_type}\n\nTask brief:\n{prompt}"
    )
}

/// A child that was created.
#[derive(Debug, Clone)]
pub struct CreatedChild {
    /// The child.
    pub child: Session,
    /// Its first run, where it was to run at once.
    pub run: Option<Run>,
}

/// What a parent changes of a child; at least one field but `reset_after_update`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChildUpdate {
    /// The title; not blank. Alone, it leaves the assignment as it is.
    #[serde(default)]
    pub title: Option<String>,
    /// What the child is responsible for; not blank.
    #[serde(default)]
    pub responsibility: Option<String>,
    /// The brief; not blank.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What kind of agent the child is; not blank.
    #[serde(default)]
    pub subagent_type: Option<String>,
    /// Whether a new assignment cuts off what came after the old one.
    #[serde(default = "yes")]
    pub reset_after_update: bool,
}

impl ChildUpdate {
    /// The same without white space around its texts; refuses what cannot be stored.
    pub fn checked(mut self, limits: &Limits) -> Result<Self, Invalid> {
        for (param, text) in [
            ("title", &mut self.title),
            ("responsibility", &mut self.responsibility),
            ("prompt", &mut self.prompt),
            ("subagent_type", &mut self.subagent_type),
        ] {
            if let Some(text) = text {
                *text = checked(param, text, limits)?;
            }
        }
        if self.title.is_none() && !self.assigns() {
            let names = "at least one of title, responsibility, prompt and subagent_type";
            return Err(Invalid::new("title", names));
        }
        let [title, responsibility, subagent_type, prompt] =
            [&self.title, &self.responsibility, &self.subagent_type, &self.prompt]
                .map(|text| text.as_deref().unwrap_or_default());
        check_assignment(&assignment(title, responsibility, subagent_type, prompt), limits)?;
        Ok(self)
    }

    /// Whether the child is assigned something else.
    pub fn assigns(&self) -> bool {
        self.responsibility.is_some() || self.prompt.is_some() || self.subagent_type.is_some()
    }
}

/// A child that was changed.
#[derive(Debug, Clone)]
pub struct UpdatedChild {
    /// The child as it is now.
    pub child: Session,
    /// Messages that were cut off.
    pub messages_removed: i64,
}

/// What a child that is there is to do next.
#[derive(Debug, Clone)]
pub enum ChildStep {
    /// Run again; first cut off what came after the last user message, where asked.
    Retry {
        /// Whether to cut.
        reset: bool,
    },
    /// Take this message.
    Take(Box<NewMessage>),
}

/// A child that was given something to do.
#[derive(Debug, Clone)]
pub struct ContinuedChild {
    /// The child as it is now.
    pub child: Session,
    /// Messages that were cut off.
    pub messages_removed: i64,
    /// The run that does it; none when it is left for later.
    pub run: Option<Run>,
    /// Whether the run was there already, and nothing was changed.
    pub was_active: bool,
}
