//! Sessions: the row, what creates it, what changes it, and what lists it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Invalid, Limits, RawJson, RawObject, SessionId, Timestamp, check_json, check_line, check_text};

/// Whether a session is the root of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Has no parent.
    Root,
    /// Has one.
    Child,
}

/// How hard a model should think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the field's own")]
pub enum ReasoningEffort {
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// Where a run stands. A session's `last_run_status` follows its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Queued, or left for later.
    Pending,
    /// Under way.
    Running,
    /// Ended well.
    Completed,
    /// Ended with an error.
    Error,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Ended because there was nothing to do.
    Skipped,
    /// Ended with the server that carried it.
    Interrupted,
}

/// A model together with who provides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct ModelRef {
    /// Who provides the model.
    pub provider: String,
    /// The model's name there.
    pub model: String,
}

only_objects!(ModelRef);

/// A session as it is listed and read.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Session {
    /// The public id.
    pub id: SessionId,
    /// Root or child.
    pub kind: Kind,
    /// What people call it.
    pub title: String,
    /// Whether it is kept from forceless deletes.
    pub pinned: bool,
    /// The session that this one is a child of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_session_id: Option<SessionId>,
    /// The root of its tree; its own id for a root.
    pub root_session_id: SessionId,
    /// Steps from the root.
    pub spawn_depth: i64,
    /// The model that runs use when they name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Model and provider, where both were given together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<ModelRef>,
    /// Who provides the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// How hard the model should think.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<ReasoningEffort>,
    /// The directory that the session works in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// What clients keep with the session: texts by key, in the order of the keys.
    pub metadata: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
    /// When its history last changed: the order of lists.
    pub last_activity_at: Timestamp,
    /// When it was archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// When it was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// Messages in its history.
    pub message_count: i64,
    /// The highest `seq` ever given in it.
    pub last_seq: i64,
    /// Whether it has attachments.
    pub has_attachments: bool,
    /// Bytes of its attachments.
    pub attachment_bytes: i64,
    /// Whether a run of it is under way.
    pub is_running: bool,
    /// Whether a run waits for an answer.
    pub has_pending_question: bool,
    /// How its last run stands or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_status: Option<RunStatus>,
    /// Why its last run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_error: Option<String>,
    /// Tokens of the last call, as the executor reported them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_usage: Option<RawJson>,
    /// What the context may hold, as the client set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<RawJson>,
    /// The session's list of tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_list: Option<RawJson>,
    /// What stands for the part of the history that was compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_summary: Option<RawJson>,
    /// The schedule that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by_schedule_id: Option<String>,
    /// The schedule's run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_run_id: Option<String>,
    /// What kind of agent a child is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subagent_type: Option<String>,
    /// Sessions directly below it.
    pub children_count: i64,
    /// Raised by every change; the ETag.
    pub version: i64,
    /// What a child is responsible for.
    #[serde(skip)]
    pub responsibility: Option<String>,
    /// A child's brief.
    #[serde(skip)]
    pub prompt: Option<String>,
    /// The question that a run waits on.
    #[serde(skip)]
    pub pending_question: Option<RawJson>,
    /// What an import met and has no field for.
    #[serde(skip)]
    pub extra: RawObject,
}

impl Session {
    /// A session that is nowhere stored yet: a root with the server's defaults.
    pub fn new(id: SessionId) -> Self {
        let now = Timestamp::now();
        Self {
            kind: Kind::Root,
            title: "New Session".into(),
            pinned: false,
            parent_session_id: None,
            root_session_id: id.clone(),
            spawn_depth: 0,
            model: None,
            model_ref: None,
            provider: None,
            reasoning_effort: None,
            workspace: None,
            metadata: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            last_activity_at: now,
            archived_at: None,
            closed_at: None,
            message_count: 0,
            last_seq: 0,
            has_attachments: false,
            attachment_bytes: 0,
            is_running: false,
            has_pending_question: false,
            last_run_status: None,
            last_run_error: None,
            token_usage: None,
            token_budget: None,
            task_list: None,
            conversation_summary: None,
            created_by_schedule_id: None,
            schedule_run_id: None,
            subagent_type: None,
            children_count: 0,
            version: 0,
            responsibility: None,
            prompt: None,
            pending_question: None,
            extra: RawObject::default(),
            id,
        }
    }
}

/// What a client gives to create a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewSession {
    /// An id of the client's own; the server makes one otherwise.
    pub id: Option<SessionId>,
    /// The title; "New Session" when absent or blank.
    pub title: Option<String>,
    /// The model's name.
    pub model: Option<String>,
    /// Who provides the model.
    pub provider: Option<String>,
    /// Both together; wins over `model` and `provider`.
    pub model_ref: Option<ModelRef>,
    /// How hard the model should think.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Becomes the first message, role `system`.
    pub system_prompt: Option<String>,
    /// The directory that the session works in.
    pub workspace: Option<String>,
    /// Whether to keep it from forceless deletes.
    pub pinned: bool,
    /// What the context may hold.
    pub token_budget: Option<RawObject>,
    /// The list of tasks.
    pub task_list: Option<RawObject>,
    /// What the client keeps with the session: texts by key.
    pub metadata: BTreeMap<String, String>,
    /// The session to be a child of.
    #[serde(skip)]
    pub parent: Option<SessionId>,
    /// What kind of agent the child is.
    #[serde(skip)]
    pub subagent_type: Option<String>,
}

impl NewSession {
    /// Refuses what cannot be stored.
    pub fn check(&self, limits: &Limits) -> Result<(), Invalid> {
        let names = [
            ("title", &self.title),
            ("model", &self.model),
            ("provider", &self.provider),
            ("workspace", &self.workspace),
        ];
        for (param, text) in names {
            check_line(param, text.as_deref().unwrap_or_default(), limits.title)?;
        }
        check_model_ref(self.model_ref.as_ref(), limits)?;
        if let Some(prompt) = &self.system_prompt {
            check_text("system_prompt", prompt)?;
            let size = check_json("system_prompt", &Some(prompt), limits.message);
            size.map_err(|_| Invalid::too_large("system_prompt", limits.message))?;
        }
        check_json("token_budget", &self.token_budget, limits.metadata)?;
        check_json("task_list", &self.task_list, limits.message)?;
        check_metadata(self.metadata.keys(), &self.metadata, limits)
    }
}

fn check_model_ref(model_ref: Option<&ModelRef>, limits: &Limits) -> Result<(), Invalid> {
    let Some(ModelRef { provider, model }) = model_ref else {
        return Ok(());
    };
    check_line("model_ref.provider", provider, limits.title)?;
    check_line("model_ref.model", model, limits.title)
}

fn check_metadata<'a>(
    keys: impl Iterator<Item = &'a String>,
    metadata: &impl Serialize,
    limits: &Limits,
) -> Result<(), Invalid> {
    for key in keys {
        check_line("metadata", key, limits.title)?;
    }
    check_json("metadata", &Some(metadata), limits.metadata).map(drop)
}

/// What a client changes of a session. Absent fields stay; null clears one that may be absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionUpdate {
    /// The title; not blank.
    pub title: Option<String>,
    /// The pin.
    pub pinned: Option<bool>,
    /// The model's name. Without `provider` it ends what `model_ref` said.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub model: Option<Option<String>>,
    /// Who provides the model. Without `model` it ends what `model_ref` said.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub provider: Option<Option<String>>,
    /// Both together.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ModelRef>")]
    pub model_ref: Option<Option<ModelRef>>,
    /// How hard the model should think.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Whether to forget `reasoning_effort`.
    pub clear_reasoning_effort: bool,
    /// The directory that the session works in.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub workspace: Option<Option<String>>,
    /// What the context may hold.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RawObject>")]
    pub token_budget: Option<Option<RawObject>>,
    /// The list of tasks.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RawObject>")]
    pub task_list: Option<Option<RawObject>>,
    /// Keys to set; null removes one.
    pub metadata: BTreeMap<String, Option<String>>,
    /// Bytes that all metadata together may have afterwards, as JSON.
    #[serde(skip)]
    pub metadata_limit: Option<usize>,
}

/// Tells a field that is null from one that is absent.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl SessionUpdate {
    /// Refuses what cannot be stored.
    pub fn check(&self, limits: &Limits) -> Result<(), Invalid> {
        if self.title.as_ref().is_some_and(|title| title.trim().is_empty()) {
            return Err(Invalid::new("title", "not blank"));
        }
        if self.clear_reasoning_effort && self.reasoning_effort.is_some() {
            return Err(Invalid::new("clear_reasoning_effort", "not together with reasoning_effort"));
        }
        let names = [
            ("title", self.title.as_ref()),
            ("model", self.model.as_ref().and_then(Option::as_ref)),
            ("provider", self.provider.as_ref().and_then(Option::as_ref)),
            ("workspace", self.workspace.as_ref().and_then(Option::as_ref)),
        ];
        for (param, text) in names {
            check_line(param, text.map_or("", String::as_str), limits.title)?;
        }
        check_model_ref(self.model_ref.as_ref().and_then(Option::as_ref), limits)?;
        check_json("token_budget", &self.token_budget.as_ref().and_then(Option::as_ref), limits.metadata)?;
        check_json("task_list", &self.task_list.as_ref().and_then(Option::as_ref), limits.message)?;
        check_metadata(self.metadata.keys(), &self.metadata, limits)
    }

    /// Makes the changes on a copy of the row.
    pub fn apply(&self, session: &mut Session) {
        if let Some(title) = &self.title {
            session.title = title.trim().into();
        }
        if let Some(pinned) = self.pinned {
            session.pinned = pinned;
        }
        self.apply_model(session);
        if self.clear_reasoning_effort {
            session.reasoning_effort = None;
        }
        session.reasoning_effort = self.reasoning_effort.or(session.reasoning_effort);
        if let Some(workspace) = &self.workspace {
            session.workspace.clone_from(workspace);
        }
        if let Some(budget) = &self.token_budget {
            session.token_budget = budget.clone().map(RawJson::from);
        }
        if let Some(tasks) = &self.task_list {
            session.task_list = tasks.clone().map(RawJson::from);
        }
        for (key, value) in &self.metadata {
            match value {
                Some(value) => session.metadata.insert(key.clone(), value.clone()),
                None => session.metadata.remove(key),
            };
        }
    }

    /// `model_ref`, or model and provider together, say all three; one alone ends what `model_ref` said.
    fn apply_model(&self, session: &mut Session) {
        if let Some(model) = &self.model {
            session.model.clone_from(model);
            session.model_ref = None;
        }
        if let Some(provider) = &self.provider {
            session.provider.clone_from(provider);
            session.model_ref = None;
        }
        if let (Some(Some(model)), Some(Some(provider))) = (&self.model, &self.provider) {
            session.model_ref = Some(ModelRef { provider: provider.clone(), model: model.clone() });
        }
        if let Some(model_ref) = &self.model_ref {
            session.model_ref.clone_from(model_ref);
            if let Some(ModelRef { provider, model }) = model_ref {
                session.provider = Some(provider.clone());
                session.model = Some(model.clone());
            }
        }
    }
}
