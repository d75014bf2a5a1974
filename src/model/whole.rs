//! A whole session in memory, and the difference between what was loaded and what its holder made of it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Message, MessageId, RawJson, Session};

/// A session with all its messages, and the memory of how it was loaded.
///
/// Change `session` and `messages` freely, then save: only what differs from what was loaded is written. Messages
/// that others appended in between stay; a title or a pin that others changed in between wins.
/// Added messages get their place at the end of the history, wherever they stand in `messages`.
#[derive(Debug, Clone)]
pub struct WholeSession {
    /// The row. Counters, times of the row and its version are the database's and are not written back.
    pub session: Session,
    /// The history.
    pub messages: Vec<Message>,
    base: Option<Base>,
}

#[derive(Debug, Clone)]
struct Base {
    session: Session,
    messages: HashMap<MessageId, u64>,
}

/// What a save writes.
#[derive(Debug, Clone)]
pub struct SessionSave {
    /// The row as its holder has it.
    pub session: Session,
    /// The row as it was loaded; none for a session to be created.
    pub base: Option<Session>,
    /// Messages that were not loaded; ids that are stored already with the same content are passed over.
    pub added: Vec<Message>,
    /// Loaded messages that were changed.
    pub changed: Vec<Message>,
    /// Loaded messages that are gone.
    pub removed: Vec<MessageId>,
}

impl WholeSession {
    /// A session that is nowhere stored yet.
    pub fn new(session: Session, messages: Vec<Message>) -> Self {
        Self { session, messages, base: None }
    }

    /// A session as it was read from storage.
    pub fn loaded(session: Session, messages: Vec<Message>) -> Self {
        let base = Base {
            session: session.clone(),
            messages: messages.iter().map(|m| (m.id.clone(), fingerprint(m))).collect(),
        };
        Self { session, messages, base: Some(base) }
    }

    /// The difference to what was loaded.
    pub fn changes(&self) -> SessionSave {
        let known = self.base.as_ref().map(|base| &base.messages);
        let loaded = |message: &&Message| known.is_some_and(|known| known.contains_key(&message.id));
        let (old, new): (Vec<&Message>, Vec<&Message>) = self.messages.iter().partition(loaded);
        let kept: HashMap<&MessageId, u64> = old.iter().map(|m| (&m.id, fingerprint(m))).collect();
        let changed = |m: &&&Message| known.is_some_and(|known| known.get(&m.id) != kept.get(&m.id));
        SessionSave {
            session: self.session.clone(),
            base: self.base.as_ref().map(|base| base.session.clone()),
            added: new.into_iter().cloned().collect(),
            changed: old.iter().filter(changed).map(|m| (*m).clone()).collect(),
            removed: known
                .into_iter()
                .flatten()
                .map(|(id, _)| id)
                .filter(|id| !kept.contains_key(id))
                .cloned()
                .collect(),
        }
    }

    /// The same changes on a newer copy: what the holder did not touch is the newer one's. A message that the holder
    /// added may be stored already, by a save whose answer was lost: it is one message, as its holder has it.
    pub fn on_top_of(&self, newer: Self) -> Self {
        let changes = self.changes();
        let session = changes.merged(&newer.session);
        let mut mine: HashMap<&MessageId, &Message> =
            changes.changed.iter().chain(&changes.added).map(|m| (&m.id, m)).collect();
        let mut messages = newer.messages;
        messages.retain(|m| !changes.removed.contains(&m.id));
        for message in &mut messages {
            if let Some(mine) = mine.remove(&message.id) {
                *message = Message { seq: message.seq, ..mine.clone() };
            }
        }
        messages.extend(changes.added.iter().filter(|m| mine.contains_key(&m.id)).cloned());
        Self { session, messages, base: newer.base }
    }

    /// Takes over what storage made of a save: the row, and the places of the messages.
    pub fn saved(&mut self, session: Session, places: &HashMap<MessageId, i64>) {
        for message in &mut self.messages {
            if let Some(seq) = places.get(&message.id) {
                message.seq = *seq;
            }
        }
        *self = Self::loaded(session, std::mem::take(&mut self.messages));
    }
}

/// Tells a message from a changed one without keeping its text twice.
fn fingerprint(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Message {
        id,
        seq: _,
        role,
        content,
        reasoning,
        parts,
        tool_calls,
        tool_call_id,
        tool_success,
        phase,
        metadata,
        run_id,
        compressed,
        created_at,
        updated_at,
        extra,
    } = message;
    // As they are written: who writes JSON otherwise changes it.
    let [parts, tool_calls, metadata] = [parts, tool_calls, metadata].map(|json| json.as_ref().map(RawJson::as_str));
    (id, role, content, reasoning, parts, tool_calls, tool_call_id, tool_success).hash(&mut hasher);
    (phase, metadata, run_id, compressed, created_at, updated_at, extra.as_str()).hash(&mut hasher);
    hasher.finish()
}

impl SessionSave {
    /// The row to write: the holder's changes on top of what is stored now.
    pub fn merged(&self, stored: &Session) -> Session {
        let Some(base) = &self.base else { return self.session.clone() };
        let mine = &self.session;
        let mut merged = stored.clone();
        macro_rules! mine_where_changed {
            ($($field:ident),*) => { $( if mine.$field != base.$field { merged.$field.clone_from(&mine.$field); } )* };
        }
        mine_where_changed!(
            model,
            model_ref,
            provider,
            reasoning_effort,
            workspace,
            last_run_status,
            last_run_error,
            token_usage,
            token_budget,
            task_list,
            conversation_summary,
            created_by_schedule_id,
            schedule_run_id,
            subagent_type,
            responsibility,
            prompt,
            pending_question,
            extra
        );
        // What people change by hand: the database wins where both sides changed it.
        if stored.title == base.title {
            merged.title.clone_from(&mine.title);
        }
        if stored.pinned == base.pinned {
            merged.pinned = mine.pinned;
        }
        for (key, value) in &mine.metadata {
            if base.metadata.get(key) != Some(value) {
                merged.metadata.insert(key.clone(), value.clone());
            }
        }
        merged.metadata.retain(|key, _| mine.metadata.contains_key(key) || !base.metadata.contains_key(key));
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NewMessage, Role, Timestamp};

    fn message(text: &str) -> Message {
        NewMessage::text(Role::User, text).into_message(1, Timestamp(1))
    }

    #[test]
    fn a_save_holds_what_changed_and_nothing_else() {
        let (a, b, c) = (message("a"), message("b"), message("c"));
        let mut whole = WholeSession::loaded(Session::new("s".parse().unwrap()), vec![a.clone(), b.clone()]);
        whole.messages[0].content = "A".into();
        whole.messages.remove(1);
        whole.messages.push(c.clone());
        let save = whole.changes();
        assert_eq!(save.changed.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["A"]);
        assert_eq!((save.removed, save.added), (vec![b.id], vec![c]));
    }

    #[test]
    fn a_title_changed_on_both_sides_is_the_databases_and_other_fields_are_the_holders() {
        let base = Session::new("s".parse().unwrap());
        let mut whole = WholeSession::loaded(base.clone(), vec![]);
        whole.session.title = "mine".into();
        whole.session.model = Some("mine".into());
        whole.session.metadata.insert("mine".into(), "1".into());
        let stored = Session {
            title: "theirs".into(),
            model: Some("theirs".into()),
            pinned: true,
            metadata: [("theirs".to_owned(), "2".to_owned())].into(),
            ..base
        };
        let merged = whole.changes().merged(&stored);
        assert_eq!((merged.title.as_str(), merged.model.as_deref(), merged.pinned), ("theirs", Some("mine"), true));
        assert_eq!(merged.metadata.keys().collect::<Vec<_>>(), ["mine", "theirs"]);
    }
}
