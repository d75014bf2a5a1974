//! A session's fields: from the sidecar and the session's file to the row here.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{fields::Fields, fields::has_nul, file::Place, tree::Node};
use crate::{
    import::{FindingKind, Report},
    model::{JsonObject, RawJson, ReasoningEffort, RunStatus, Session, SessionId, Timestamp},
};

/// Keys that have a field here, or that place the session.
const TAKEN: [&str; 23] = [
    "id",
    "title",
    "pinned",
    "kind",
    "parent_session_id",
    "root_session_id",
    "spawn_depth",
    "messages",
    "created_at",
    "updated_at",
    "task_list",
    "todo_list",
    "pending_question",
    "model",
    "model_ref",
    "reasoning_effort",
    "metadata",
    "token_budget",
    "token_usage",
    "conversation_summary",
    "workspace",
    "last_activity_at",
    "_bamboo_main_authority",
];

/// Keys that are known and have no field here: they are kept in `extra` without a word.
const KEPT: [&str; 29] = [
    "title_version",
    "metadata_version",
    "session_version",
    "title_generated",
    "prompt_snapshot",
    "project_context",
    "project_id",
    "compression_events",
    "compression_instructions",
    "agent_runtime_state",
    "runtime_metadata",
    "root_orchestration_only",
    "root_tool_authority_revision",
    "root_mode_transition_epoch",
    "root_mode_operations",
    "authority_identity",
    "supervisor_management",
    "conversation_reset",
    "parent_created_at",
    "model_context_state",
    "provider_transcript",
    "gold_config_json",
    "plan_mode",
    "bypass_permissions",
    "permission_mode",
    "session_origin",
    "last_human_input",
    "todo_list",
    "spawn_depth",
];

/// A session as its files say it.
pub(super) struct Source {
    pub(super) fields: JsonObject,
    pub(super) messages: Vec<Value>,
    /// When its file was last changed: the last resort for times.
    pub(super) modified: Timestamp,
    /// The bytes of its file.
    pub(super) size: usize,
}

/// Reads a session: the messages from its own file, all else from the sidecar if that can be read.
pub(super) fn read(place: Place<'_>, report: &mut Report) -> Option<Source> {
    let path = place.path.join("session.json");
    let own = Place { path: &path, ..place };
    let contents = own.read(report)?;
    let mut fields: JsonObject = own.json(&contents.bytes, report)?;
    let messages = match fields.remove("messages") {
        Some(Value::Array(messages)) => messages,
        other => {
            report.add(FindingKind::UnexpectedValue, own.shown(), "has no list of messages");
            fields.extend(other.filter(|value| !value.is_null()).map(|value| ("messages".to_owned(), value)));
            Vec::new()
        }
    };
    let fields = with_sidecar(place, fields, report);
    Some(Source { fields, messages, modified: contents.modified, size: contents.bytes.len() })
}

fn with_sidecar(place: Place<'_>, own: JsonObject, report: &mut Report) -> JsonObject {
    let path = place.path.join("runtime.json");
    let sidecar = Place { path: &path, ..place };
    let read = sidecar.read(report).and_then(|contents| sidecar.json::<JsonObject>(&contents.bytes, report));
    let Some(mut fields) = read else { return own };
    if fields.contains_key("id") && own.contains_key("id") && fields["id"] != own["id"] {
        report.add(FindingKind::InvalidId, sidecar.shown(), "is of another session; it was ignored");
        return own;
    }
    fields.remove("messages");
    // A key that the sidecar lacks was cleared, unless the sidecar's writer cannot have known it.
    for (key, value) in own {
        let writer_knew = TAKEN.contains(&key.as_str()) || KEPT.contains(&key.as_str());
        if key == "messages" || key == "id" || !writer_knew {
            fields.entry(key).or_insert(value);
        }
    }
    fields
}

/// The session that the fields describe; a root until it is placed. `fallback` stands for a time that is missing.
pub(super) fn session(
    source: JsonObject,
    id: SessionId,
    fallback: Timestamp,
    path: &str,
    report: &mut Report,
) -> Session {
    let mut fields = Fields::new(source);
    for key in ["_bamboo_main_authority", "id", "kind", "parent_session_id", "root_session_id", "last_activity_at"] {
        fields.take(key);
    }
    let mut session = Session::new(id);
    let mirror = fields.peek("runtime_metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    session.metadata = metadata(&mut fields);
    settings(&mut session, &mut fields);
    state(&mut session, &mut fields);
    mirrored(&mut session, &mirror, &mut fields);
    let created_at = fields.time("created_at");
    session.created_at = created_at.unwrap_or(fallback);
    session.updated_at = fields.time("updated_at").unwrap_or(session.created_at.max(fallback));
    session.last_activity_at = session.updated_at;
    if created_at.is_none() {
        report.add(FindingKind::InvalidTime, path, format!("has no time of creation; {fallback} stands for it"));
    }
    let unknown = fields.keep_rest(&KEPT);
    tell(&fields, &unknown, "", path, report);
    session.extra = fields.extra.into();
    session
}

/// Reports what was special about fields, in one finding a sort.
pub(super) fn tell(fields: &Fields, unknown: &[String], of: &str, path: &str, report: &mut Report) {
    let sorts = [
        (FindingKind::UnknownKey, unknown, "are unknown here and kept in extra"),
        (FindingKind::UnexpectedValue, &fields.unexpected, "are not of the expected type and kept in extra"),
        (
            FindingKind::NulCharacter,
            &fields.with_nul,
            "had NUL characters, now U+FFFD, and are kept in extra as they were",
        ),
        (FindingKind::InvalidTime, &fields.bad_times, "are no times and kept in extra"),
    ];
    for (kind, keys, text) in sorts {
        if !keys.is_empty() {
            report.add(kind, path, format!("{of}{} {text}", keys.join(", ")));
        }
    }
}

fn settings(session: &mut Session, fields: &mut Fields) {
    if let Some(title) = fields.text("title").filter(|title| !title.trim().is_empty()) {
        session.title = title;
    }
    session.pinned = fields.flag("pinned").unwrap_or_default();
    session.model = fields.text("model").filter(|model| !model.is_empty() && model != "unknown");
    session.model_ref = fields.typed("model_ref");
    if let Some(text) = fields.text("reasoning_effort") {
        session.reasoning_effort = effort(&text);
        if session.reasoning_effort.is_none() {
            fields.unexpected("reasoning_effort", text.into());
        }
    }
    session.workspace = fields.text("workspace").filter(|path| !path.trim().is_empty());
}

fn effort(text: &str) -> Option<ReasoningEffort> {
    serde_json::from_value(Value::String(text.trim().to_lowercase())).ok()
}

fn state(session: &mut Session, fields: &mut Fields) {
    if fields.peek("task_list").is_none_or(Value::is_null) {
        session.task_list = fields.object("todo_list").map(RawJson::from);
    } else {
        session.task_list = fields.object("task_list").map(RawJson::from);
    }
    session.pending_question = fields.object("pending_question").map(RawJson::from);
    session.has_pending_question = session.pending_question.is_some();
    session.token_budget = fields.object("token_budget").map(RawJson::from);
    session.token_usage = fields.object("token_usage").map(RawJson::from);
    session.conversation_summary = fields.object("conversation_summary").map(RawJson::from);
}

/// Texts by key. Whatever else is under a key cannot be kept there, and goes to `extra` under `metadata`.
fn metadata(fields: &mut Fields) -> BTreeMap<String, String> {
    let Some(value) = fields.take("metadata") else { return BTreeMap::new() };
    let Value::Object(object) = value else {
        fields.unexpected("metadata", value);
        return BTreeMap::new();
    };
    let (mut metadata, mut others) = (BTreeMap::new(), JsonObject::new());
    for (key, value) in object {
        match value {
            Value::String(text) if !key.contains('\0') => {
                metadata.insert(key.clone(), text.replace('\0', "\u{fffd}"));
                if text.contains('\0') {
                    others.insert(key, Value::String(text));
                }
            }
            other => drop(others.insert(key, other)),
        }
    }
    if !others.is_empty() {
        let others = Value::Object(others);
        let sort = if has_nul(&others) { &mut fields.with_nul } else { &mut fields.unexpected };
        sort.push("metadata".into());
        fields.extra.insert("metadata".into(), others);
    }
    metadata
}

/// Fields that stand in the metadata, and from 2026.6 on in a typed mirror of it, which wins.
fn mirrored(session: &mut Session, mirror: &JsonObject, fields: &mut Fields) {
    let metadata = session.metadata.clone();
    let either = |key: &str| {
        let typed = mirror.get(key).and_then(Value::as_str).map(|text| text.replace('\0', "\u{fffd}"));
        let found = typed.or_else(|| metadata.get(key).cloned());
        found.filter(|text| !text.trim().is_empty())
    };
    session.provider = either("provider_name");
    session.workspace = session.workspace.take().or_else(|| either("workspace_path"));
    session.reasoning_effort = session.reasoning_effort.or_else(|| effort(&either("reasoning_effort")?));
    session.subagent_type = either("subagent_type");
    session.responsibility = either("responsibility");
    session.prompt = either("assignment_prompt");
    session.created_by_schedule_id = either("created_by_schedule_id");
    session.schedule_run_id = either("schedule_run_id");
    session.last_run_error = either("last_run_error");
    let Some(word) = either("last_run_status") else { return };
    let status = serde_json::from_value(Value::String(word.trim().to_owned())).unwrap_or(RunStatus::Error);
    // Whatever was under way there is not under way here.
    let over = match status {
        RunStatus::Pending | RunStatus::Running => RunStatus::Interrupted,
        over => over,
    };
    session.last_run_status = Some(over);
    if serde_json::to_value(over).ok().as_ref().and_then(Value::as_str) != Some(word.as_str()) {
        fields.extra.insert("last_run_status".into(), word.into());
    }
}

/// The row's place in its tree: below `parent` (its id, root and depth), or a root. What the source says otherwise is
/// kept.
pub(super) fn place(session: &mut Session, node: &Node, parent: Option<(SessionId, SessionId, i64)>) {
    let found = &node.found;
    let mut keep = |key: &str, value: &Option<String>, now: Option<&str>| {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty() && Some(*value) != now) {
            session.extra.insert(key, &value);
        }
    };
    let (kind, root, depth) = match &parent {
        Some((_, root, depth)) => (crate::model::Kind::Child, root.clone(), (depth + 1).min(100_000)),
        None => (crate::model::Kind::Root, session.id.clone(), 0),
    };
    keep("id", &Some(found.id.clone()), Some(session.id.as_str()));
    keep("parent_session_id", &found.parent, parent.as_ref().map(|(id, ..)| id.as_str()));
    keep("root_session_id", &found.root, Some(root.as_str()));
    let word = if parent.is_some() { "child" } else { "root" };
    keep("kind", &found.kind, Some(word));
    if session.extra.field::<i64>("spawn_depth") == Some(depth) {
        session.extra.remove("spawn_depth");
    }
    session.kind = kind;
    session.parent_session_id = parent.map(|(id, ..)| id);
    session.root_session_id = root;
    session.spawn_depth = depth;
}
