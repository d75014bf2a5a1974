//! Random operations, against a plain model in memory: after each, both show the same.

use std::collections::{BTreeMap, BTreeSet};

use culm::{
    model::{Cleanup, CleanupMode, DeleteOptions, NewSession, Role, SessionUpdate, Truncate},
    storage::{AppendOptions, Error, Storage},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::support::*;

#[derive(Debug, Clone)]
enum Op {
    Create,
    Child(usize),
    Append(usize, Vec<u8>),
    Edit(usize, usize),
    DeleteMessage(usize, usize),
    TruncateAfterUser(usize),
    TruncateAfter(usize, usize),
    Clear(usize),
    Rename(usize, u8),
    Pin(usize, bool),
    Delete(usize, bool),
    Cleanup(u8, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0usize..100;
    prop_oneof![
        3 => Just(Op::Create),
        4 => n().prop_map(Op::Child),
        8 => (n(), prop::collection::vec(0u8..4, 1..4)).prop_map(|(s, roles)| Op::Append(s, roles)),
        2 => (n(), n()).prop_map(|(s, m)| Op::Edit(s, m)),
        2 => (n(), n()).prop_map(|(s, m)| Op::DeleteMessage(s, m)),
        1 => n().prop_map(Op::TruncateAfterUser),
        1 => (n(), n()).prop_map(|(s, m)| Op::TruncateAfter(s, m)),
        1 => n().prop_map(Op::Clear),
        2 => (n(), 0u8..3).prop_map(|(s, t)| Op::Rename(s, t)),
        2 => (n(), any::<bool>()).prop_map(|(s, p)| Op::Pin(s, p)),
        1 => (n(), any::<bool>()).prop_map(|(s, keep)| Op::Delete(s, keep)),
        1 => (0u8..3, any::<bool>()).prop_map(|(mode, keep)| Op::Cleanup(mode, keep)),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Said {
    id: String,
    seq: i64,
    role: Role,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Talk {
    parent: Option<String>,
    title: String,
    pinned: bool,
    last_seq: i64,
    messages: Vec<Said>,
}

#[derive(Default)]
struct Model {
    prefix: String,
    /// Every id ever given, in order; operations choose among them, so that deleted ones are tried too.
    ids: Vec<String>,
    talks: BTreeMap<String, Talk>,
    texts: usize,
}

impl Model {
    fn pick(&self, n: usize) -> Option<String> {
        (!self.ids.is_empty()).then(|| self.ids[n % self.ids.len()].clone())
    }

    fn message(&self, id: &str, n: usize) -> Option<Said> {
        let messages = &self.talks.get(id)?.messages;
        (!messages.is_empty()).then(|| messages[n % messages.len()].clone())
    }

    fn is_below(&self, id: &str, above: &str) -> bool {
        id == above || self.talks[id].parent.as_deref().is_some_and(|parent| self.is_below(parent, above))
    }

    fn tree(&self, id: &str) -> BTreeSet<String> {
        self.talks.keys().filter(|other| self.is_below(other, id)).cloned().collect()
    }

    fn doomed(&self, mode: CleanupMode, keep_pinned: bool) -> BTreeSet<String> {
        let content = |id: &str| {
            let messages = &self.talks[id].messages;
            messages.len() > 1 || messages.iter().any(|message| message.role != Role::System)
        };
        let protects = |id: &str| mode == CleanupMode::Empty && content(id);
        let pinned_above = |id: &str| self.talks.iter().any(|(other, talk)| talk.pinned && self.is_below(id, other));
        let stays = |id: &str| {
            self.tree(id).iter().any(|below| protects(below) || (keep_pinned && pinned_above(below)))
                || (mode == CleanupMode::Children && self.talks[id].parent.is_none())
        };
        self.talks.keys().filter(|id| !stays(id)).cloned().collect()
    }

    fn remove(&mut self, ids: &BTreeSet<String>) {
        self.talks.retain(|id, _| !ids.contains(id));
    }

    fn new_id(&mut self) -> String {
        let id = format!("{}-{}", self.prefix, self.ids.len());
        self.ids.push(id.clone());
        id
    }

    async fn create(&mut self, storage: &dyn Storage, parent: Option<String>) {
        let name = self.new_id();
        let new = NewSession { parent: parent.as_deref().map(id), ..new(&name) };
        let outcome = storage.create_session(new, None).await;
        if parent.as_ref().is_some_and(|parent| !self.talks.contains_key(parent)) {
            assert!(matches!(outcome, Err(Error::SessionDeleted(_) | Error::SessionNotFound(_))), "{outcome:?}");
            return;
        }
        outcome.unwrap();
        let talk = Talk { parent, title: name.clone(), pinned: false, last_seq: 0, messages: vec![] };
        self.talks.insert(name, talk);
    }

    async fn append(&mut self, storage: &dyn Storage, name: &str, roles: &[u8]) {
        let said: Vec<Said> = roles
            .iter()
            .map(|role| {
                self.texts += 1;
                let role = [Role::System, Role::User, Role::Assistant, Role::Tool][usize::from(*role)];
                let text = format!("text {} 数据", self.texts);
                Said { id: format!("m{}", self.texts), seq: 0, role, text }
            })
            .collect();
        let new = said
            .iter()
            .map(|s| culm::model::NewMessage { content: s.text.clone(), ..crate::support::said(s.role, &s.id) });
        let outcome = storage.append_messages(&id(name), new.collect(), AppendOptions::default()).await;
        let Some(talk) = self.expect(name, &outcome) else { return };
        for message in said {
            talk.last_seq += 1;
            talk.messages.push(Said { seq: talk.last_seq, ..message });
        }
        assert_eq!(outcome.unwrap().last_seq, talk.last_seq);
    }

    /// The session that a write was for, or none after an assertion that the write was refused.
    fn expect<T: std::fmt::Debug>(&mut self, name: &str, outcome: &Result<T, Error>) -> Option<&mut Talk> {
        let talk = self.talks.get_mut(name);
        if talk.is_none() {
            assert!(matches!(outcome, Err(Error::SessionDeleted(_) | Error::SessionNotFound(_))), "{outcome:?}");
        }
        talk
    }

    async fn apply(&mut self, storage: &dyn Storage, op: Op) {
        match op {
            Op::Create => self.create(storage, None).await,
            Op::Cleanup(mode, keep_pinned) => {
                let mode = [CleanupMode::All, CleanupMode::Empty, CleanupMode::Children][usize::from(mode)];
                let receipt = storage.cleanup_sessions(Cleanup { keep_pinned, ..cleanup(mode) }).await.unwrap();
                let doomed = self.doomed(mode, keep_pinned);
                let deleted: BTreeSet<String> = receipt.deleted_session_ids.iter().map(ToString::to_string).collect();
                assert_eq!(deleted, doomed);
                self.remove(&doomed);
            }
            Op::Child(n) => {
                if let Some(parent) = self.pick(n) {
                    self.create(storage, Some(parent)).await;
                }
            }
            op => {
                let (Op::Append(n, _)
                | Op::Edit(n, _)
                | Op::DeleteMessage(n, _)
                | Op::TruncateAfterUser(n)
                | Op::TruncateAfter(n, _)
                | Op::Clear(n)
                | Op::Rename(n, _)
                | Op::Pin(n, _)
                | Op::Delete(n, _)) = op
                else {
                    unreachable!()
                };
                if let Some(name) = self.pick(n) {
                    self.change(storage, &name, op).await;
                }
            }
        }
    }

    async fn change(&mut self, storage: &dyn Storage, name: &str, op: Op) {
        let session = id(name);
        match op {
            Op::Append(_, roles) => self.append(storage, name, &roles).await,
            Op::Edit(_, n) => {
                let Some(said) = self.message(name, n) else { return };
                let outcome = storage.edit_message(&session, &mid(&said.id), "edited".into(), None).await;
                match said.role {
                    Role::Assistant => drop(outcome.unwrap()),
                    _ => return assert_fails!(outcome, Error::NotEditable(_)),
                }
                let messages = &mut self.talks.get_mut(name).unwrap().messages;
                messages.iter_mut().find(|m| m.id == said.id).unwrap().text = "edited".into();
            }
            Op::DeleteMessage(_, n) => {
                let Some(said) = self.message(name, n) else { return };
                storage.delete_message(&session, &mid(&said.id), None).await.unwrap();
                self.talks.get_mut(name).unwrap().messages.retain(|m| m.id != said.id);
            }
            Op::TruncateAfterUser(_) => {
                let outcome = storage.truncate_messages(&session, Truncate::AfterLastUser {}, None).await;
                let Some(talk) = self.expect(name, &outcome) else { return };
                let Some(last) = talk.messages.iter().rposition(|m| m.role == Role::User) else {
                    return assert_fails!(outcome, Error::NoUserMessage);
                };
                let removed = talk.messages.len() - last - 1;
                assert_eq!(outcome.unwrap().messages_removed, i64::try_from(removed).unwrap());
                talk.messages.truncate(last + 1);
            }
            Op::TruncateAfter(_, n) => {
                let Some(said) = self.message(name, n) else { return };
                let cut = Truncate::After { message_id: mid(&said.id) };
                storage.truncate_messages(&session, cut, None).await.unwrap();
                self.talks.get_mut(name).unwrap().messages.retain(|m| m.seq <= said.seq);
            }
            Op::Clear(_) => {
                let outcome = storage.clear_session(&session, None).await;
                let Some(talk) = self.expect(name, &outcome) else { return };
                let first = talk.messages.iter().find(|m| m.role == Role::System).cloned();
                talk.messages = first.into_iter().collect();
            }
            Op::Rename(_, n) => {
                let outcome = storage.update_session(&session, title(&format!("title {n}")), None).await;
                let Some(talk) = self.expect(name, &outcome) else { return };
                talk.title = format!("title {n}");
            }
            Op::Pin(_, pinned) => {
                let update = SessionUpdate { pinned: Some(pinned), ..SessionUpdate::default() };
                let outcome = storage.update_session(&session, update, None).await;
                let Some(talk) = self.expect(name, &outcome) else { return };
                talk.pinned = pinned;
            }
            Op::Delete(_, keep_pinned) => {
                let outcome =
                    storage.delete_session(&session, DeleteOptions { keep_pinned, ..DeleteOptions::default() }).await;
                if self.expect(name, &outcome).is_none() {
                    return;
                }
                let tree = self.tree(name);
                if keep_pinned && tree.iter().any(|id| self.talks[id].pinned) {
                    return assert_fails!(outcome, Error::SessionPinned(_));
                }
                let deleted = outcome.unwrap().deleted_session_ids;
                assert_eq!(deleted.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), tree);
                self.remove(&tree);
            }
            Op::Create | Op::Child(_) | Op::Cleanup(..) => unreachable!(),
        }
    }

    /// Compares every row of the list, and every history.
    async fn assert_same(&self, storage: &dyn Storage, histories: bool) {
        let page = storage.sessions(&everything(), None, 10_000).await.unwrap();
        let shown: BTreeMap<String, _> = page.items.into_iter().map(|s| (s.id.to_string(), s)).collect();
        assert!(shown.keys().eq(self.talks.keys()), "{:?} {:?}", shown.keys(), self.talks.keys());
        for (name, talk) in &self.talks {
            let session = &shown[name];
            assert_eq!((&session.title, session.pinned), (&talk.title, talk.pinned));
            assert_eq!(session.parent_session_id.as_ref().map(ToString::to_string), talk.parent);
            let count = i64::try_from(talk.messages.len()).unwrap();
            assert_eq!((session.message_count, session.last_seq), (count, talk.last_seq), "{name}");
            let children = self.talks.values().filter(|other| other.parent.as_ref() == Some(name)).count();
            assert_eq!(session.children_count, i64::try_from(children).unwrap());
            if histories {
                let said =
                    |m: culm::model::Message| Said { id: m.id.to_string(), seq: m.seq, role: m.role, text: m.content };
                assert_eq!(history(storage, name).await.into_iter().map(said).collect::<Vec<_>>(), talk.messages);
            }
        }
    }
}

async fn storage_shows_what_a_plain_model_shows(storage: &dyn Storage, prefix: String, ops: Vec<Op>) {
    storage.cleanup_sessions(cleanup(CleanupMode::All)).await.unwrap();
    let mut model = Model { prefix, ..Model::default() };
    for op in ops {
        model.apply(storage, op).await;
        model.assert_same(storage, false).await;
    }
    model.assert_same(storage, true).await;
}

#[test]
fn random_operations_leave_sqlite_and_a_plain_model_the_same_and_the_database_sound() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let database = runtime.block_on(sqlite());
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let case = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&prop::collection::vec(op(), 40), |ops| {
            case.set(case.get() + 1);
            runtime.block_on(async {
                storage_shows_what_a_plain_model_shows(database.storage(), format!("s{}", case.get()), ops).await;
                assert_sound(&mut database.shell().await).await;
            });
            Ok(())
        })
        .unwrap();
}
