//! The executors of a configuration file: read, checked, made. What a kind can be told is known to the kind.

use std::{collections::BTreeMap, ffi::OsString, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer};

use super::{Executor, acp, openai, opencode, pool::Pool, process::Launch};
use crate::{
    agent_sessions::AgentSessions,
    attachments::AttachmentReader,
    model::{Invalid, Limits},
    program,
};

/// One `[executors.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ExecutorConfig {
    /// A model behind an OpenAI-compatible API.
    OpenAi(openai::Config),
    /// An agent in a process of its own, that speaks the Agent Client Protocol.
    Acp(acp::Config),
    /// `opencode serve`: one server for the sessions of all.
    OpenCode(opencode::Config),
}

impl fmt::Display for ExecutorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenAi(config) => config.fmt(f),
            Self::Acp(config) => config.fmt(f),
            Self::OpenCode(config) => config.fmt(f),
        }
    }
}

impl ExecutorConfig {
    /// What is to be said at start when the program of this executor is not there: its runs will fail until it is. One that
    /// is named by a path from the working directory cannot be looked for: each session has its own.
    pub fn missing(&self, name: &str) -> Option<String> {
        let (command, env) = match self {
            Self::OpenAi(_) => return None,
            Self::Acp(config) => (config.command.first()?, &config.env),
            Self::OpenCode(config) => (config.command.first()?, &config.env),
        };
        let path = env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        let relative = command.contains('/') && !command.starts_with('/');
        let there = relative || program::find(command.as_ref(), &path).is_some();
        (!there).then(|| {
            format!("executors.{name}: the command '{command}' is not there or cannot be run; its runs will fail")
        })
    }
}

/// Settings that hold, of one executor.
#[derive(Debug)]
enum Checked {
    OpenAi(openai::Settings),
    Acp(acp::Settings),
    OpenCode(opencode::Settings),
}

/// Executors that can be made: their settings hold, their keys were read.
#[derive(Debug)]
pub struct Executors(BTreeMap<String, Checked>);

/// What executors are made with.
#[derive(Clone)]
pub struct Surroundings {
    /// Where images are read.
    pub attachments: Arc<dyn AttachmentReader>,
    /// Where is written down what is warm.
    pub rows: Arc<dyn AgentSessions>,
    /// How processes are started.
    pub launch: Launch,
    /// How large messages may be.
    pub limits: Limits,
}

impl Executors {
    /// Checks what was configured, and reads the keys. A server does it before it touches anything else.
    pub fn check(configured: &BTreeMap<String, ExecutorConfig>) -> Result<Self, Invalid> {
        let checked = |(name, config): (&String, &ExecutorConfig)| {
            check_name(name)?;
            let checked = match config {
                ExecutorConfig::OpenAi(config) => config.settings().map(Checked::OpenAi),
                ExecutorConfig::Acp(config) => config.settings().map(Checked::Acp),
                ExecutorConfig::OpenCode(config) => config.settings().map(Checked::OpenCode),
            };
            Ok((name.clone(), checked.map_err(|invalid| invalid.within(&format!("executors.{name}")))?))
        };
        Ok(Self(configured.iter().map(checked).collect::<Result<_, _>>()?))
    }

    /// Makes them, by name.
    pub fn start(self, with: &Surroundings) -> BTreeMap<String, Arc<dyn Executor>> {
        self.0.into_iter().map(|(name, checked)| (name.clone(), make(name, checked, with.clone()))).collect()
    }
}

fn make(name: String, checked: Checked, with: Surroundings) -> Arc<dyn Executor> {
    let Surroundings { attachments, rows, launch, limits } = with;
    match checked {
        Checked::OpenAi(settings) => Arc::new(openai::OpenAi::new(settings, attachments, limits)),
        Checked::Acp(settings) => {
            let (warmth, tasks) = (settings.warmth, launch.tasks.clone());
            let acp = acp::Acp::new(settings, launch, attachments, limits);
            Arc::new(Pool::start(name, acp, rows, warmth, tasks))
        }
        Checked::OpenCode(settings) => {
            let (warmth, tasks) = (settings.warmth, launch.tasks.clone());
            let opencode = opencode::OpenCode::new(&name, settings, launch, attachments, limits);
            Arc::new(Pool::start(name, opencode, rows, warmth, tasks))
        }
    }
}

/// A time as people write it, such as "90s".
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(|_| {
        serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), &"a time such as \"90s\" or \"2m\"")
    })
}

/// A program and its arguments.
pub(super) fn program(command: &[String]) -> Result<Vec<String>, Invalid> {
    match command.first().is_none_or(String::is_empty) {
        true => Err(Invalid::new("command", "the agent's program, and its arguments")),
        false => Ok(command.to_vec()),
    }
}

/// Variables that are written down, and some of the server's own.
pub(super) fn environment(
    given: &BTreeMap<String, String>,
    passed: &[String],
) -> Result<BTreeMap<String, String>, Invalid> {
    let mut environment = given.clone();
    for name in passed {
        let value = std::env::var(name).map_err(|error| Invalid::new("pass_env", format!("{name}: {error}")))?;
        environment.entry(name.clone()).or_insert(value);
    }
    Ok(environment)
}

/// A time that was given, or the usual one, in seconds.
pub(super) fn longer_than_nothing(name: &str, given: Option<Duration>, usual: u64) -> Result<Duration, Invalid> {
    match given.unwrap_or(Duration::from_secs(usual)) {
        Duration::ZERO => Err(Invalid::new(name, "longer than nothing")),
        time => Ok(time),
    }
}

/// Names are written in requests and in queries.
fn check_name(name: &str) -> Result<(), Invalid> {
    let word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !name.is_empty() && name.len() <= 64 && name.chars().all(word) {
        true => Ok(()),
        false => Err(Invalid::new(
            format!("executors.{}", name.escape_debug()),
            "a name has 1 to 64 letters, digits, '.', '_' and '-'",
        )),
    }
}
