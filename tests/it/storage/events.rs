//! The log of events: what each write tells, in order, and where the log ends.

use std::time::Duration;

use culm::{
    model::{DeleteOptions, Event, EventKind as K, EventScope, Role, RunEnd, RunStatus, SessionUpdate, Truncate},
    storage::{
        Storage,
        sqlite::{LogBounds, Options, SqliteStorage},
    },
};

use super::runs::{asked, question, running};
use crate::support::*;

async fn log(storage: &dyn Storage, scope: &EventScope, after: i64) -> Vec<Event> {
    let page = storage.events(scope, after, 1000).await.unwrap();
    assert!(!page.gap);
    assert!(page.events.is_sorted_by(|a, b| a.event_id < b.event_id));
    page.events
}

fn told(events: &[Event]) -> Vec<(K, &str)> {
    events.iter().map(|event| (event.event, event.session_id.as_str())).collect()
}

pub(super) async fn each_write_tells_what_it_did_in_order(storage: &dyn Storage) {
    create(storage, "a").await;
    storage.update_session(&id("a"), title("new"), None).await.unwrap();
    storage.update_session(&id("a"), SessionUpdate::default(), None).await.unwrap();
    append(storage, "a", vec![said(Role::User, "1"), said(Role::Assistant, "2"), said(Role::User, "3")]).await;
    storage.edit_message(&id("a"), &mid("2"), "two".into(), None).await.unwrap();
    storage.delete_message(&id("a"), &mid("2"), None).await.unwrap();
    storage.truncate_messages(&id("a"), Truncate::After { message_id: mid("1") }, None).await.unwrap();
    attach(storage, "a", "f", vec![1; 10]).await;
    storage.delete_attachment(&id("a"), &"f".parse().unwrap()).await.unwrap();
    storage.clear_session(&id("a"), None).await.unwrap();
    child(storage, "a", "b").await;
    storage.create_run(&id("b"), asked("r"), None).await.unwrap();
    let run = storage.claim_runs(1).await.unwrap().remove(0);
    storage.append_run_messages(&run, vec![calls("asks", &["call"])]).await.unwrap();
    storage.ask_question(&run, question(&[])).await.unwrap();
    storage.answer_question(&id("b"), reply("red"), asked("x")).await.unwrap();
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    let whole = [
        (K::SessionCreated, "a"),
        (K::SessionUpdated, "a"),
        (K::MessageAppended, "a"),
        (K::MessageAppended, "a"),
        (K::MessageAppended, "a"),
        (K::MessageUpdated, "a"),
        (K::MessageDeleted, "a"),
        (K::MessagesTruncated, "a"),
        (K::AttachmentAdded, "a"),
        (K::AttachmentDeleted, "a"),
        (K::SessionCleared, "a"),
        (K::SessionCreated, "b"),
        (K::SessionUpdated, "b"),
        (K::RunStarted, "b"),
        (K::ChildStarted, "a"),
        (K::MessageAppended, "b"),
        (K::QuestionAsked, "b"),
        (K::MessageAppended, "b"),
        (K::QuestionAnswered, "b"),
        (K::RunFinished, "b"),
        (K::ChildFinished, "a"),
    ];
    let events = log(storage, &EventScope::All, 0).await;
    assert_eq!(told(&events), whole);
    assert_eq!(told(&log(storage, &EventScope::Tree(id("a")), 0).await), whole);
    for name in ["a", "b"] {
        let own: Vec<_> = whole.into_iter().filter(|(_, session)| *session == name).collect();
        assert_eq!(told(&log(storage, &EventScope::Session(id(name)), 0).await), own);
    }
    assert_eq!(*storage.last_event().borrow(), events.last().unwrap().event_id);
    storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    let left = log(storage, &EventScope::All, 0).await;
    let mut left = told(&left);
    left.sort_by_key(|(_, session)| *session);
    assert_eq!(left, [(K::SessionDeleted, "a"), (K::SessionDeleted, "b")]);
    assert_eq!(told(&log(storage, &EventScope::Session(id("b")), 0).await), [(K::SessionDeleted, "b")]);
}

pub(super) async fn a_write_that_fails_tells_nothing(storage: &dyn Storage) {
    let run = running(storage, "a").await;
    let before = log(storage, &EventScope::All, 0).await;
    assert!(storage.create_run(&id("a"), asked("r"), None).await.is_err());
    assert!(storage.append_messages(&id("a"), vec![said(Role::User, "x")], Default::default()).await.is_err());
    assert!(storage.answer_question(&id("a"), reply("x"), asked("r")).await.is_err());
    assert_eq!(storage.cancel_pending_run(&run).await.unwrap().status, RunStatus::Running);
    storage.claim_runs(5).await.unwrap();
    assert_eq!(log(storage, &EventScope::All, 0).await, before);
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    let after = log(storage, &EventScope::All, 0).await;
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    assert_eq!(log(storage, &EventScope::All, 0).await, after);
}

pub(super) async fn the_log_is_read_page_by_page_in_any_scope(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    for n in 0..10 {
        say(storage, ["a", "b"][n % 2], &[&format!("{n}")]).await;
    }
    for scope in [EventScope::All, EventScope::Session(id("a")), EventScope::Tree(id("b"))] {
        let whole = log(storage, &scope, 0).await;
        let (mut paged, mut after) = (Vec::new(), 0);
        loop {
            let page = storage.events(&scope, after, 3).await.unwrap();
            paged.extend(page.events);
            if page.through == after {
                break;
            }
            after = page.through;
        }
        assert_eq!(paged, whole);
        assert_eq!(after, *storage.last_event().borrow());
    }
    let future = storage.events(&EventScope::All, 1_000_000, 3).await.unwrap();
    assert!(future.gap);
}

pub(super) async fn a_commit_is_announced(storage: &dyn Storage) {
    let mut last = storage.last_event();
    let before = *last.borrow_and_update();
    create(storage, "a").await;
    tokio::time::timeout(Duration::from_secs(10), last.changed()).await.unwrap().unwrap();
    let after = *last.borrow();
    assert!(after > before);
    assert_eq!(log(storage, &EventScope::All, before).await.last().unwrap().event_id, after);
}

/// Only here is a shell needed: to make events old.
#[tokio::test]
async fn old_events_are_cut_off_and_who_wants_them_is_told() {
    let database = sqlite().await;
    create(database.storage(), "a").await;
    say(database.storage(), "a", &["1", "2"]).await;
    let old = *database.storage().last_event().borrow();
    database.run_and_leave(&format!("update events set created_at = 1 where event_id <= {old}")).await;
    let database = database.reopen().await;
    let storage = database.storage();
    say(storage, "a", &["3"]).await;
    let mut shell = database.shell().await;
    until(&mut shell, &format!("select count(*) from events where event_id <= {old}"), 0).await;
    for scope in [EventScope::All, EventScope::Session(id("a"))] {
        assert!(storage.events(&scope, old - 1, 10).await.unwrap().gap);
        let kept = storage.events(&scope, old, 10).await.unwrap();
        assert_eq!((kept.gap, told(&kept.events)), (false, vec![(K::MessageAppended, "a")]));
    }
}

/// Also where nothing more happens: it is looked at from time to time.
#[tokio::test]
async fn events_grow_old_though_nothing_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("culm.db");
    let log = LogBounds { every: Duration::from_millis(1), ..LogBounds::default() };
    let storage = SqliteStorage::open(&Options { log, ..Options::new(&path) }).await.unwrap();
    create(&storage, "a").await;
    let mut shell = crate::support::shell(&path).await;
    // The first look is that of every start.
    for round in 0..3 {
        say(&storage, "a", &[&round.to_string()]).await;
        run(&mut shell, "update events set created_at = 1").await;
        until(&mut shell, "select count(*) from events", 0).await;
    }
    let last = *storage.last_event().borrow();
    assert!(storage.events(&EventScope::All, last - 1, 10).await.unwrap().gap);
    assert!(!storage.events(&EventScope::All, last, 10).await.unwrap().gap);
    storage.close().await;
}
