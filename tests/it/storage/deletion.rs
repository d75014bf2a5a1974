//! Deleting, and what stays deleted.

use culm::{
    model::{DeleteCounts, DeleteOptions, NewSession, Role, SessionUpdate, Truncate, Window},
    storage::{AppendOptions, Error, Storage},
};
use futures_util::future::join_all;

use crate::support::*;

async fn delete(storage: &dyn Storage, session: &str) -> culm::model::DeleteReceipt {
    storage.delete_session(&id(session), DeleteOptions::default()).await.unwrap()
}

async fn small_tree(storage: &dyn Storage) {
    for root in ["other", "r"] {
        create(storage, root).await;
    }
    for (parent, name) in [("r", "b"), ("r", "a"), ("a", "a1"), ("a1", "a2")] {
        child(storage, parent, name).await;
        say(storage, name, &["12345"]).await;
    }
}

pub(super) async fn deleting_removes_the_tree_and_says_exactly_what(storage: &dyn Storage) {
    small_tree(storage).await;
    attach(storage, "a2", "f", vec![0; 1000]).await;
    let receipt = delete(storage, "r").await;
    assert_eq!(receipt.deleted_session_ids, ["a", "a1", "a2", "b", "r"].map(id));
    assert_eq!(receipt.deleted, DeleteCounts { sessions: 5, messages: 4, attachments: 1, runs: 0 });
    assert_eq!((receipt.bytes, receipt.cancelled_run_ids.len()), (4 * 5 + 1000, 0));
    assert_eq!(all_ids(storage).await, ["other"]);
    assert!(storage.attachment(&id("a2"), &"f".parse().unwrap()).await.unwrap().is_none());
}

/// Defect 14 is gone: no grandchild is left with a parent that is not there.
pub(super) async fn deleting_a_child_takes_its_grandchildren_and_leaves_its_siblings(storage: &dyn Storage) {
    small_tree(storage).await;
    let before = read(storage, "r").await;
    assert_eq!(delete(storage, "a").await.deleted_session_ids, ["a", "a1", "a2"].map(id));
    assert_eq!(all_ids(storage).await, ["b", "other", "r"]);
    let after = read(storage, "r").await;
    assert_eq!(after.children_count, 1);
    assert!(after.version > before.version);
}

/// Defect 14 is gone: a delete that removed nothing does not say that it did.
pub(super) async fn deleting_again_is_not_found(storage: &dyn Storage) {
    small_tree(storage).await;
    delete(storage, "r").await;
    for gone in ["r", "a2", "nobody"] {
        let again = storage.delete_session(&id(gone), DeleteOptions::default()).await;
        assert_fails!(again, Error::SessionNotFound(_));
    }
}

pub(super) async fn a_pinned_session_below_refuses_a_forceless_delete(storage: &dyn Storage) {
    small_tree(storage).await;
    pin(storage, "a2").await;
    let forceless = DeleteOptions { keep_pinned: true, ..DeleteOptions::default() };
    assert_fails!(storage.delete_session(&id("r"), forceless).await, Error::SessionPinned(_));
    assert_eq!(all_ids(storage).await.len(), 6);
    storage.delete_session(&id("b"), forceless).await.unwrap();
    assert_eq!(delete(storage, "r").await.deleted.sessions, 4);
}

pub(super) async fn deleting_another_version_is_refused(storage: &dyn Storage) {
    let version = create(storage, "a").await.version;
    let options = |version| DeleteOptions { if_match: Some(version), ..DeleteOptions::default() };
    let refused = storage.delete_session(&id("a"), options(version + 1)).await;
    assert_fails!(refused, Error::VersionConflict { what: "version", current } if current == version);
    storage.delete_session(&id("a"), options(version)).await.unwrap();
}

/// Defect 3 is gone: nothing brings a deleted id back, neither a root's nor a child's.
pub(super) async fn no_write_brings_a_deleted_session_back(storage: &dyn Storage) {
    small_tree(storage).await;
    let late = join_all(["r", "a2"].map(|name| async move { storage.load_session(&id(name)).await.unwrap().unwrap() }));
    let late = late.await;
    delete(storage, "r").await;
    for mut whole in late {
        let id = whole.session.id.clone();
        let new_again = NewSession { id: Some(id.clone()), ..NewSession::default() };
        assert_fails!(storage.create_session(new_again, None).await, Error::SessionDeleted(_));
        let append = storage.append_messages(&id, vec![said(Role::User, "x")], AppendOptions::default()).await;
        assert_fails!(append, Error::SessionDeleted(_));
        assert_fails!(storage.update_session(&id, title("x"), None).await, Error::SessionDeleted(_));
        let nothing = storage.update_session(&id, SessionUpdate::default(), None).await;
        assert_fails!(nothing, Error::SessionDeleted(_));
        assert_fails!(storage.clear_session(&id, None).await, Error::SessionDeleted(_));
        let cut = storage.truncate_messages(&id, Truncate::AfterLastUser {}, None).await;
        assert_fails!(cut, Error::SessionDeleted(_));
        assert_fails!(storage.edit_message(&id, &mid("m"), "x".into(), None).await, Error::SessionDeleted(_));
        assert_fails!(storage.delete_message(&id, &mid("m"), None).await, Error::SessionDeleted(_));
        assert_fails!(storage.append_usage(&id, Default::default()).await, Error::SessionDeleted(_));
        whole.session.title = "late".into();
        assert_fails!(storage.save_session(whole.changes()).await, Error::SessionDeleted(_));
        assert!(storage.session(&id).await.unwrap().is_none());
        assert!(storage.load_session(&id).await.unwrap().is_none());
        let messages = storage.messages(&id, window(Window::First, 1)).await;
        assert_fails!(messages, Error::SessionNotFound(_));
    }
    assert_eq!(all_ids(storage).await, ["other"]);
}

/// Defect 3 is gone: a late child is not stored below a root that was deleted.
pub(super) async fn a_child_is_not_created_below_a_deleted_parent(storage: &dyn Storage) {
    small_tree(storage).await;
    delete(storage, "r").await;
    let late = NewSession { parent: Some(id("a")), ..new("late") };
    assert_fails!(storage.create_session(late, None).await, Error::SessionDeleted(who) if who == id("a"));
    assert_eq!(all_ids(storage).await, ["other"]);
}

pub(super) async fn appends_racing_a_delete_leave_nothing(storage: &dyn Storage) {
    create(storage, "a").await;
    let writers = (0..20).map(|n| async move {
        let message = said(Role::User, &n.to_string());
        storage.append_messages(&id("a"), vec![message], AppendOptions::default()).await
    });
    let (outcomes, receipt) = futures_util::future::join(join_all(writers), delete(storage, "a")).await;
    for outcome in &outcomes {
        assert!(matches!(outcome, Ok(_) | Err(Error::SessionDeleted(_))), "{outcome:?}");
    }
    let stored = i64::try_from(outcomes.iter().filter(|outcome| outcome.is_ok()).count()).unwrap();
    assert_eq!(receipt.deleted.messages, stored);
    assert!(all_ids(storage).await.is_empty());
}
