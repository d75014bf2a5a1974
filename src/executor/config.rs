//! The executors of a configuration file: read, checked, made. What a kind can be told is known to the kind.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Deserialize;

use super::{Executor, openai};
use crate::{
    attachments::AttachmentReader,
    model::{Invalid, Limits},
};

/// One `[executors.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ExecutorConfig {
    /// A model behind an OpenAI-compatible API.
    OpenAi(openai::Config),
}

impl fmt::Display for ExecutorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenAi(config) => write!(f, "{config}"),
        }
    }
}

/// Executors that can be made: their settings hold, their keys were read.
#[derive(Debug)]
pub struct Executors(BTreeMap<String, openai::Settings>);

impl Executors {
    /// Checks what was configured, and reads the keys. A server does it before it touches anything else.
    pub fn check(configured: &BTreeMap<String, ExecutorConfig>) -> Result<Self, Invalid> {
        let checked = |(name, config): (&String, &ExecutorConfig)| {
            check_name(name)?;
            let ExecutorConfig::OpenAi(config) = config;
            let settings = config.settings().map_err(|invalid| invalid.within(&format!("executors.{name}")))?;
            Ok((name.clone(), settings))
        };
        Ok(Self(configured.iter().map(checked).collect::<Result<_, _>>()?))
    }

    /// Makes them, by name.
    pub fn start(self, attachments: &Arc<dyn AttachmentReader>, limits: Limits) -> BTreeMap<String, Arc<dyn Executor>> {
        let made = |(name, settings)| {
            let executor: Arc<dyn Executor> = Arc::new(openai::OpenAi::new(settings, attachments.clone(), limits));
            (name, executor)
        };
        self.0.into_iter().map(made).collect()
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
