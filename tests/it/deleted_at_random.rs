//! Random deletes, cleanups, writes and restarts: what was deleted is never shown, and nothing else is lost.

use std::collections::{BTreeMap, BTreeSet};

use culm::{
    model::{CleanupMode, DeleteOptions, EventKind, EventScope, NewSession, Role, SearchOrder, SearchQuery},
    storage::{AppendOptions, Error, Storage},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::support::*;

#[derive(Debug, Clone)]
enum Op {
    Create,
    /// Below one of the sessions that there are, so many.
    Children(usize, usize),
    /// To each session of a tree.
    Say(usize),
    Attach(usize),
    Delete(usize),
    Cleanup(bool),
    Restart,
    /// The database is opened as it is on the disk, as after a kill.
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0usize..1000;
    prop_oneof![
        3 => Just(Op::Create),
        4 => (n(), 1usize..40).prop_map(|(parent, many)| Op::Children(parent, many)),
        4 => n().prop_map(Op::Say),
        1 => n().prop_map(Op::Attach),
        4 => n().prop_map(Op::Delete),
        1 => any::<bool>().prop_map(Op::Cleanup),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

/// What should be there: parents, and the words that were said.
#[derive(Default)]
struct Model {
    there: BTreeMap<String, (Option<String>, Vec<String>)>,
    gone: BTreeSet<String>,
    words: BTreeSet<String>,
    made: usize,
}

impl Model {
    fn pick(&self, n: usize) -> Option<String> {
        self.there.keys().nth(n % self.there.len().max(1)).cloned()
    }

    fn is_below(&self, id: &str, above: &str) -> bool {
        id == above || self.there[id].0.as_deref().is_some_and(|parent| self.is_below(parent, above))
    }

    fn tree(&self, id: &str) -> BTreeSet<String> {
        self.there.keys().filter(|other| self.is_below(other, id)).cloned().collect()
    }

    fn remove(&mut self, ids: &BTreeSet<String>) {
        for id in ids {
            let (_, words) = self.there.remove(id).unwrap();
            self.words.extend(words);
            self.gone.insert(id.clone());
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}{}", self.made)
    }
}

async fn make(storage: &dyn Storage, model: &mut Model, parent: Option<String>) {
    let name = model.name("s");
    let new = NewSession { parent: parent.as_deref().map(id), ..new(&name) };
    storage.create_session(new, None).await.unwrap();
    model.there.insert(name, (parent, Vec::new()));
}

async fn delete(storage: &dyn Storage, model: &mut Model, name: &str) {
    let receipt = storage.delete_session(&id(name), DeleteOptions::default()).await.unwrap();
    let (doomed, told) = (model.tree(name), receipt.deleted_session_ids.iter().map(ToString::to_string));
    assert_eq!(told.collect::<BTreeSet<_>>(), doomed);
    let said: usize = doomed.iter().map(|id| model.there[id].1.len()).sum();
    assert_eq!(usize::try_from(receipt.deleted.messages).unwrap(), said);
    model.remove(&doomed);
}

/// The database as it is on the disk, in another directory.
async fn copied(database: Database) -> Database {
    let mut shell = database.shell().await;
    // Nothing moves between the files while they are copied.
    run(&mut shell, "begin immediate").await;
    let copy = Database::copy_of(&database).await;
    run(&mut shell, "rollback").await;
    database.storage().close().await;
    copy
}

async fn step(database: Database, model: &mut Model, op: &Op) -> Database {
    let storage = database.storage();
    match op {
        Op::Create => make(storage, model, None).await,
        Op::Children(n, many) => {
            for _ in 0..*many {
                let parent = model.pick(*n);
                make(storage, model, parent).await;
            }
        }
        Op::Say(n) => {
            let Some(root) = model.pick(*n) else { return database };
            for name in model.tree(&root) {
                let word = model.name("word");
                say(storage, &name, &[&word]).await;
                model.there.get_mut(&name).unwrap().1.push(word);
            }
        }
        Op::Attach(n) => {
            let Some(name) = model.pick(*n) else { return database };
            let file = model.name("f");
            attach(storage, &name, &file, vec![7; 600_000]).await;
        }
        Op::Delete(n) => {
            let Some(name) = model.pick(*n) else { return database };
            delete(storage, model, &name).await;
        }
        Op::Cleanup(children) => {
            let mode = if *children { CleanupMode::Children } else { CleanupMode::Empty };
            let receipt = storage.cleanup_sessions(cleanup(mode)).await.unwrap();
            let told: BTreeSet<String> = receipt.deleted_session_ids.iter().map(ToString::to_string).collect();
            assert!(told.iter().all(|id| model.there.contains_key(id)), "a cleanup deletes again: {told:?}");
            if *children {
                let wanted = model.there.iter().filter(|(_, (parent, _))| parent.is_some()).map(|(id, _)| id.clone());
                assert_eq!(told, wanted.collect());
            }
            assert!(
                *children || told.iter().all(|id| model.there[id].1.is_empty()),
                "a cleanup of the empty lost words"
            );
            model.remove(&told);
        }
        Op::Restart => return database.reopen().await,
        Op::Crash => return copied(database).await,
    }
    database
}

/// What is shown is the model, whatever is still in the tables.
async fn assert_shown(storage: &dyn Storage, model: &Model) {
    assert_eq!(all_ids(storage).await, model.there.keys().cloned().collect::<Vec<_>>());
    for (name, (_, words)) in model.there.iter().take(5) {
        assert_eq!(texts(storage, name).await, *words, "{name}");
        let children = model.there.values().filter(|(parent, _)| parent.as_deref() == Some(name)).count();
        assert_eq!(usize::try_from(read(storage, name).await.children_count).unwrap(), children, "{name}");
    }
    let found = async |word: &str, order| {
        let query = SearchQuery { q: word.into(), order: Some(order), ..SearchQuery::default() };
        storage.search(&query, None, 10).await.unwrap().hits.len()
    };
    for order in [SearchOrder::Newest, SearchOrder::Relevance] {
        for word in model.words.iter().rev().take(3) {
            assert_eq!(found(word, order).await, 0, "{word} was deleted");
        }
        for word in model.there.values().filter_map(|(_, words)| words.last()).take(3) {
            assert_eq!(found(word, order).await, 1, "{word} is there");
        }
    }
    for name in model.gone.iter().rev().take(3) {
        assert!(storage.session(&id(name)).await.unwrap().is_none());
        let late = storage.append_messages(&id(name), vec![said(Role::User, "late")], AppendOptions::default()).await;
        assert_fails!(late, Error::SessionDeleted(_));
        assert_fails!(storage.create_session(new(name), None).await, Error::SessionDeleted(_));
    }
}

/// The feed tells of each deleted session once, that it was deleted, and of nothing else.
async fn assert_told(storage: &dyn Storage, model: &Model) {
    let (mut after, mut deleted) = (0, BTreeSet::new());
    loop {
        let page = storage.events(&EventScope::All, after, 1000).await.unwrap();
        for event in &page.events {
            let name = event.session_id.to_string();
            match event.event {
                EventKind::SessionDeleted => assert!(deleted.insert(name), "told twice: {event:?}"),
                _ => assert!(model.there.contains_key(&name), "{event:?}"),
            }
        }
        if page.through <= after || page.events.is_empty() {
            break;
        }
        after = page.through;
    }
    assert_eq!(deleted, model.gone);
}

async fn case(ops: Vec<Op>) {
    let (mut database, mut model) = (sqlite().await, Model::default());
    for op in &ops {
        database = step(database, &mut model, op).await;
        assert_shown(database.storage(), &model).await;
    }
    assert_told(database.storage(), &model).await;
    let mut shell = database.shell().await;
    until(&mut shell, "select (select count(*) from purges) + (select count(*) from loose_chunks)", 0).await;
    assert_eq!(number(&mut shell, "select count(*) from sessions").await, i64::try_from(model.there.len()).unwrap());
    assert_shown(database.storage(), &model).await;
    assert_told(database.storage(), &model).await;
    assert_sound(&mut shell).await;
    database.storage().close().await;
}

#[test]
fn what_was_deleted_is_never_shown_and_what_was_not_is_never_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config =
        ProptestConfig { cases: 4, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(op(), 30..40), |ops| {
            runtime.block_on(case(ops));
            Ok(())
        })
        .unwrap();
}
