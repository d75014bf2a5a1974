//! What this kind of executor can be told.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Deserialize;

use crate::{
    executor::{
        config::{duration, environment, longer_than_nothing as time, program},
        permission::Permissions,
        pool::Warmth,
    },
    model::Invalid,
};

/// `[executors.NAME]` with `kind = "acp"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The agent, and its arguments.
    pub command: Vec<String>,
    /// Its environment, besides `PATH`, the language and a home of its own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables of the server's own environment that it gets, too.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Who answers when it asks for permission.
    #[serde(default)]
    pub permissions: Permissions,
    /// What it may ask the server to do with files of its working directory.
    #[serde(default)]
    pub files: Files,
    /// The mode that a new session of the agent is set to.
    pub mode: Option<String>,
    /// How long it stays warm without work; ten minutes when not given.
    #[serde(default, deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// How many stay warm; four when not given.
    pub max_warm: Option<usize>,
    /// How long it may take to start; a minute when not given.
    #[serde(default, deserialize_with = "duration")]
    pub start_timeout: Option<Duration>,
    /// How long one turn may take; an hour when not given.
    #[serde(default, deserialize_with = "duration")]
    pub turn_timeout: Option<Duration>,
    /// How long it may say nothing during a turn; ten minutes when not given.
    #[serde(default, deserialize_with = "duration")]
    pub silence_timeout: Option<Duration>,
}

/// What an agent may ask the server to do with files of its working directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Files {
    /// Nothing.
    #[default]
    None,
    /// To read them.
    Read,
    /// To read and to write them.
    Write,
}

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) permissions: Permissions,
    pub(super) files: Files,
    pub(super) mode: Option<String>,
    pub(super) start: Duration,
    pub(super) turn: Duration,
    pub(super) silence: Duration,
    /// How many stay warm, and how long.
    pub warmth: Warmth,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its arguments may hold a key.
        write!(f, "acp, {}", self.command.first().map(String::as_str).unwrap_or_default())
    }
}

impl Config {
    /// Checks the settings.
    pub fn settings(&self) -> Result<Settings, Invalid> {
        Ok(Settings {
            command: program(&self.command)?,
            environment: environment(&self.env, &self.pass_env)?,
            permissions: self.permissions,
            files: self.files,
            mode: self.mode.clone(),
            start: time("start_timeout", self.start_timeout, 60)?,
            turn: time("turn_timeout", self.turn_timeout, 3600)?,
            silence: time("silence_timeout", self.silence_timeout, 600)?,
            warmth: Warmth { idle: time("idle_timeout", self.idle_timeout, 600)?, most: self.max_warm.unwrap_or(4) },
        })
    }
}
