//! Whole sessions: loaded, changed, saved as the difference.

use culm::{
    model::{DeleteOptions, Kind, Message, Role, Session, SessionFilter, SessionUpdate, Timestamp, WholeSession},
    storage::{Error, Storage},
};
use serde_json::json;

use crate::support::*;

fn message(text: &str) -> Message {
    said(Role::User, text).into_message(0, Timestamp::now())
}

async fn load(storage: &dyn Storage, session: &str) -> WholeSession {
    storage.load_session(&id(session)).await.unwrap().unwrap()
}

async fn save(storage: &dyn Storage, whole: &WholeSession) -> Session {
    storage.save_session(whole.changes()).await.unwrap().0
}

pub(super) async fn a_whole_session_comes_back_as_it_was_saved(storage: &dyn Storage) {
    let session = Session {
        title: "imported".into(),
        pinned: true,
        token_usage: Some(json!({ "total": 1 }).into()),
        pending_question: Some(json!({ "question": "sure?" }).into()),
        has_pending_question: true,
        responsibility: Some("r".into()),
        prompt: Some("p".into()),
        extra: json!({ "unknown": [1, 2] }).as_object().unwrap().into(),
        archived_at: Some(Timestamp(5)),
        closed_at: Some(Timestamp(6)),
        created_at: Timestamp(1),
        updated_at: Timestamp(3),
        last_activity_at: Timestamp(2),
        ..Session::new(id("a"))
    };
    let mut odd = message("odd");
    (odd.compressed, odd.extra) = (true, json!({ "x": 1 }).as_object().unwrap().into());
    (odd.created_at, odd.updated_at) = (Timestamp(1), Timestamp(2));
    let (stored, places) =
        storage.save_session(WholeSession::new(session.clone(), vec![odd.clone()]).changes()).await.unwrap();
    assert_eq!(places, [(mid("odd"), 1)]);
    let loaded = load(storage, "a").await;
    assert_eq!(loaded.session, stored);
    assert_eq!(loaded.messages, [Message { seq: 1, ..odd }]);
    let counted = Session { message_count: 1, last_seq: 1, version: stored.version, ..session };
    assert_eq!(stored, counted);
}

/// Defect 13 is gone: a save does not take over another session's id.
pub(super) async fn a_save_of_a_used_id_is_refused(storage: &dyn Storage) {
    let there = create(storage, "a").await;
    let new = WholeSession::new(Session::new(id("a")), vec![message("x")]);
    assert_fails!(storage.save_session(new.changes()).await, Error::SessionExists(_));
    assert_eq!(read(storage, "a").await, there);
}

/// Defect 2 is gone: a late save is no overwrite.
pub(super) async fn a_save_keeps_messages_that_others_appended(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["one", "two"]).await;
    let mut whole = load(storage, "a").await;
    say(storage, "a", &["theirs"]).await;
    whole.messages.remove(0);
    whole.messages.push(message("mine"));
    let (session, places) = storage.save_session(whole.changes()).await.unwrap();
    assert_eq!(texts(storage, "a").await, ["two", "theirs", "mine"]);
    assert_eq!(places, [(mid("mine"), 4)]);
    assert_eq!((session.message_count, session.last_seq), (3, 4));
}

pub(super) async fn a_save_does_not_bring_back_messages_that_others_deleted(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["one", "two"]).await;
    let mut whole = load(storage, "a").await;
    storage.delete_message(&id("a"), &mid("one"), None).await.unwrap();
    whole.messages[0].content = "one, changed".into();
    whole.messages[1].content = "two, changed".into();
    save(storage, &whole).await;
    assert_eq!(texts(storage, "a").await, ["two, changed"]);
}

pub(super) async fn a_save_writes_only_what_its_holder_changed(storage: &dyn Storage) {
    create(storage, "a").await;
    let mut whole = load(storage, "a").await;
    let theirs = SessionUpdate {
        workspace: Some(Some("/theirs".into())),
        metadata: [("theirs".to_owned(), Some("1".to_owned()))].into(),
        ..SessionUpdate::default()
    };
    storage.update_session(&id("a"), theirs, None).await.unwrap();
    whole.session.model = Some("mine".into());
    whole.session.metadata.insert("mine".into(), "2".into());
    let stored = save(storage, &whole).await;
    assert_eq!((stored.workspace.as_deref(), stored.model.as_deref()), (Some("/theirs"), Some("mine")));
    assert_eq!(stored.metadata.keys().collect::<Vec<_>>(), ["mine", "theirs"]);
    assert_eq!(read(storage, "a").await, stored);
}

pub(super) async fn a_title_changed_on_both_sides_is_the_databases(storage: &dyn Storage) {
    create(storage, "a").await;
    let (mut both, mut alone) = (load(storage, "a").await, load(storage, "a").await);
    alone.session.title = "alone".into();
    assert_eq!(save(storage, &alone).await.title, "alone");
    both.session.title = "late".into();
    both.session.pinned = true;
    let stored = save(storage, &both).await;
    assert_eq!((stored.title.as_str(), stored.pinned), ("alone", true));
}

pub(super) async fn a_save_without_changes_leaves_the_version(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["one"]).await;
    let whole = load(storage, "a").await;
    assert_eq!(save(storage, &whole).await, whole.session);
}

fn child_of(parent: &str, root: &str, depth: i64) -> Session {
    Session {
        kind: Kind::Child,
        parent_session_id: Some(id(parent)),
        root_session_id: id(root),
        spawn_depth: depth,
        ..Session::new(id("child"))
    }
}

/// Defect 13 is gone: what a save says about the tree cannot disagree with the tree.
pub(super) async fn a_saved_child_takes_its_place_below_its_parent(storage: &dyn Storage) {
    create(storage, "r").await;
    create(storage, "other").await;
    child(storage, "r", "a").await;
    let wrong = WholeSession::new(child_of("a", "other", 7), vec![]);
    let stored = save(storage, &wrong).await;
    assert_eq!((stored.kind, stored.root_session_id, stored.spawn_depth), (Kind::Child, id("r"), 2));
    assert_eq!(read(storage, "a").await.children_count, 1);
}

/// Defect 13 is gone: no child is saved without a parent.
pub(super) async fn a_saved_child_needs_a_parent_that_is_there(storage: &dyn Storage) {
    let orphan = WholeSession::new(child_of("nobody", "nobody", 1), vec![message("x")]);
    assert_fails!(storage.save_session(orphan.changes()).await, Error::SessionNotFound(who) if who == id("nobody"));
    create(storage, "r").await;
    storage.delete_session(&id("r"), DeleteOptions::default()).await.unwrap();
    let late = WholeSession::new(child_of("r", "r", 1), vec![]);
    assert_fails!(storage.save_session(late.changes()).await, Error::SessionDeleted(who) if who == id("r"));
    assert!(all_ids(storage).await.is_empty());
}

/// Defect 22 is gone: one id is one message.
pub(super) async fn one_message_twice_in_a_save_is_refused_or_stored_once(storage: &dyn Storage) {
    let one = message("one");
    let same = WholeSession::new(Session::new(id("a")), vec![one.clone(), one.clone()]);
    assert_eq!(save(storage, &same).await.message_count, 1);
    let other = Message { content: "other".into(), ..one.clone() };
    let unequal = WholeSession::new(Session::new(id("b")), vec![one, other]);
    assert_fails!(storage.save_session(unequal.changes()).await, Error::MessageExists(_));
    assert_eq!(all_ids(storage).await, ["a"]);
}

pub(super) async fn sessions_are_saved_together_and_a_refused_one_fails_alone(storage: &dyn Storage) {
    create(storage, "used").await;
    create(storage, "deleted").await;
    storage.delete_session(&id("deleted"), DeleteOptions::default()).await.unwrap();
    say(storage, "used", &["first"]).await;
    let mut known = load(storage, "used").await;
    known.session.model = Some("m".into());
    known.messages.push(message("second"));
    let new = |session: Session, messages| WholeSession::new(session, messages).changes();
    let one = message("one");
    let saves = vec![
        new(Session::new(id("r")), vec![one.clone(), message("two")]),
        new(Session::new(id("used")), vec![message("x")]),
        new(Session::new(id("deleted")), vec![message("x")]),
        // Below a session that is saved with it.
        new(child_of("r", "r", 1), vec![message("three")]),
        new(Session::new(id("unequal")), vec![one.clone(), Message { content: "other".into(), ..one.clone() }]),
        new(Session { id: id("orphan"), ..child_of("nobody", "nobody", 1) }, vec![message("x")]),
        new(Session::new(id("r")), vec![]),
        known.changes(),
        new(Session::new(id("last")), vec![one]),
    ];
    let mut saved = storage.save_sessions(saves).await.unwrap().into_iter();
    let (root, places) = saved.next().unwrap().unwrap();
    assert_eq!(places, [(mid("one"), 1), (mid("two"), 2)]);
    assert_fails!(saved.next().unwrap(), Error::SessionExists(who) if who == id("used"));
    assert_fails!(saved.next().unwrap(), Error::SessionDeleted(who) if who == id("deleted"));
    assert_eq!(saved.next().unwrap().unwrap().0.parent_session_id, Some(id("r")));
    assert_fails!(saved.next().unwrap(), Error::MessageExists(who) if who == mid("one"));
    assert_fails!(saved.next().unwrap(), Error::SessionNotFound(who) if who == id("nobody"));
    assert_fails!(saved.next().unwrap(), Error::SessionExists(who) if who == id("r"));
    let (known, places) = saved.next().unwrap().unwrap();
    assert_eq!((known.model.as_deref(), places), (Some("m"), vec![(mid("second"), 2)]));
    assert_eq!(saved.next().unwrap().unwrap().0.message_count, 1);
    assert_eq!((root.message_count, root.children_count), (2, 1));
    assert_eq!(read(storage, "r").await, root);
    assert_eq!(texts(storage, "child").await, ["three"]);
    assert_eq!(texts(storage, "used").await, ["first", "second"]);
    let mut ids = all_ids(storage).await;
    ids.sort();
    assert_eq!(ids, ["child", "last", "r", "used"]);
}

pub(super) async fn two_holders_of_one_session_are_saved_together(storage: &dyn Storage) {
    create(storage, "a").await;
    let (mut one, mut both) = (load(storage, "a").await, load(storage, "a").await);
    one.messages.push(message("x"));
    both.messages.extend([one.messages[0].clone(), message("y")]);
    let saves = vec![one.changes(), both.changes()];
    let saved: Vec<_> = storage.save_sessions(saves).await.unwrap().into_iter().map(|saved| saved.unwrap()).collect();
    assert_eq!(saved[1].1.iter().map(|(_, seq)| *seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(texts(storage, "a").await, ["x", "y"]);
}

/// Defects 2 and 20 are gone: twenty holders of one session save at once, without a lock and without a loss.
pub(super) async fn concurrent_saves_of_one_session_lose_no_message(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["first"]).await;
    let loaded = load(storage, "a").await;
    let holders = (0..20).map(|n| {
        let mut whole = loaded.clone();
        whole.messages.push(message(&n.to_string()));
        async move { save(storage, &whole).await }
    });
    futures_util::future::join_all(holders).await;
    assert_eq!(texts(storage, "a").await.len(), 21);
    assert_eq!(read(storage, "a").await.message_count, 21);
}

/// Defects 3 and 17 are gone: a save that comes too late fails and leaves nothing behind.
pub(super) async fn saving_after_a_delete_does_not_bring_the_session_back(storage: &dyn Storage) {
    create(storage, "a").await;
    let mut whole = load(storage, "a").await;
    whole.messages.push(message("late"));
    storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_fails!(storage.save_session(whole.changes()).await, Error::SessionDeleted(_));
    let new = WholeSession::new(Session::new(id("a")), vec![]);
    assert_fails!(storage.save_session(new.changes()).await, Error::SessionDeleted(_));
    assert!(storage.load_session(&id("a")).await.unwrap().is_none());
}

/// Defect 22 is gone: a message without an id gets one when it is stored, once.
pub(super) async fn messages_keep_their_identity_from_load_to_load(storage: &dyn Storage) {
    create(storage, "a").await;
    append(storage, "a", vec![culm::model::NewMessage::text(Role::User, "x")]).await;
    assert_eq!(load(storage, "a").await.messages, load(storage, "a").await.messages);
    assert_eq!(load(storage, "a").await.messages, history(storage, "a").await);
}

/// As an import brings it: lists are not led by it, and sweeps take it in time.
pub(super) async fn a_session_from_the_future_is_active_now(storage: &dyn Storage) {
    let future: Timestamp = "2099-01-01T00:00:00Z".parse().unwrap();
    let mut session = Session::new(id("future"));
    (session.created_at, session.updated_at, session.last_activity_at) = (future, future, future);
    let whole = WholeSession::new(session, vec![said(Role::User, "hi").into_message(0, future)]);
    storage.save_session(whole.changes()).await.unwrap();
    let stored = read(storage, "future").await;
    assert!(stored.last_activity_at <= Timestamp::now(), "{stored:?}");
    assert_eq!((stored.created_at, history(storage, "future").await[0].created_at), (future, future));
    create(storage, "now").await;
    assert_eq!(listed(storage, &SessionFilter::default()).await, ["now", "future"]);
}
