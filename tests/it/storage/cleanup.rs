//! Cleaning up many sessions at once.

use culm::{
    model::{Cleanup, CleanupMode, Closing, NewRun, NewSession, Timestamp},
    storage::Storage,
};

use crate::support::*;

async fn cleaned(storage: &dyn Storage, cleanup: Cleanup) -> Vec<String> {
    let receipt = storage.cleanup_sessions(cleanup).await.unwrap();
    assert_eq!(receipt.deleted_count, i64::try_from(receipt.deleted_session_ids.len()).unwrap());
    assert!(receipt.deleted_session_ids.is_sorted());
    receipt.deleted_session_ids.iter().map(ToString::to_string).collect()
}

/// Two trees: `r` over `a` over `a1`, and `r` over `b`; `s` over `c`. `a1` holds a message.
async fn two_trees(storage: &dyn Storage) {
    for root in ["r", "s"] {
        create(storage, root).await;
    }
    for (parent, name) in [("r", "a"), ("a", "a1"), ("r", "b"), ("s", "c")] {
        child(storage, parent, name).await;
    }
    say(storage, "a1", &["hello"]).await;
}

pub(super) async fn cleaning_up_all_removes_all(storage: &dyn Storage) {
    two_trees(storage).await;
    assert_eq!(cleaned(storage, cleanup(CleanupMode::All)).await, ["a", "a1", "b", "c", "r", "s"]);
    assert!(all_ids(storage).await.is_empty());
    assert!(cleaned(storage, cleanup(CleanupMode::All)).await.is_empty());
}

/// Defect 8 is gone: an empty root is not removed with children that hold something.
pub(super) async fn cleaning_up_empty_never_removes_content(storage: &dyn Storage) {
    two_trees(storage).await;
    let prompt = |name| NewSession { system_prompt: Some("be brief".into()), ..new(name) };
    storage.create_session(prompt("only-a-prompt"), None).await.unwrap();
    storage.create_session(prompt("spoken"), None).await.unwrap();
    say(storage, "spoken", &["hi"]).await;
    create(storage, "one-user-message").await;
    say(storage, "one-user-message", &["hi"]).await;
    let removed = cleaned(storage, cleanup(CleanupMode::Empty)).await;
    assert_eq!(removed, ["b", "c", "only-a-prompt", "s"]);
    assert_eq!(all_ids(storage).await, ["a", "a1", "one-user-message", "r", "spoken"]);
}

pub(super) async fn an_attachment_is_content(storage: &dyn Storage) {
    create(storage, "a").await;
    attach(storage, "a", "f", vec![1]).await;
    assert!(cleaned(storage, cleanup(CleanupMode::Empty)).await.is_empty());
}

pub(super) async fn cleaning_up_children_leaves_the_roots(storage: &dyn Storage) {
    two_trees(storage).await;
    assert_eq!(cleaned(storage, cleanup(CleanupMode::Children)).await, ["a", "a1", "b", "c"]);
    assert_eq!(all_ids(storage).await, ["r", "s"]);
    assert_eq!(read(storage, "r").await.children_count, 0);
}

/// Defect 8 is gone: a pin protects the whole way up to the root, and what is below.
pub(super) async fn a_pinned_session_protects_what_is_above_and_below(storage: &dyn Storage) {
    two_trees(storage).await;
    pin(storage, "a").await;
    for (mode, wanted) in [(CleanupMode::Children, &["b", "c"][..]), (CleanupMode::All, &["s"])] {
        let kept = Cleanup { keep_pinned: true, ..cleanup(mode) };
        assert_eq!(cleaned(storage, kept).await, wanted);
    }
    assert_eq!(all_ids(storage).await, ["a", "a1", "r"]);
    assert_eq!(cleaned(storage, cleanup(CleanupMode::All)).await, ["a", "a1", "r"]);
}

pub(super) async fn sessions_that_were_active_lately_stay_with_what_is_above(storage: &dyn Storage) {
    two_trees(storage).await;
    say(storage, "a", &["lately"]).await;
    let since = read(storage, "a").await.last_activity_at;
    let inactive = Cleanup { inactive_before: Some(since), ..cleanup(CleanupMode::All) };
    assert_eq!(cleaned(storage, inactive).await, ["a1", "b", "c", "s"]);
    assert_eq!(all_ids(storage).await, ["a", "r"]);
}

pub(super) async fn a_dry_run_says_what_the_real_one_does_and_removes_nothing(storage: &dyn Storage) {
    two_trees(storage).await;
    pin(storage, "c").await;
    for mode in [CleanupMode::Empty, CleanupMode::Children, CleanupMode::All] {
        let real = Cleanup { keep_pinned: true, ..cleanup(mode) };
        let before = all_ids(storage).await;
        let told = storage.cleanup_sessions(Cleanup { dry_run: true, ..real }).await.unwrap();
        assert_eq!(all_ids(storage).await, before);
        let done = storage.cleanup_sessions(real).await.unwrap();
        assert_eq!((told.deleted_session_ids, told.bytes), (done.deleted_session_ids, done.bytes));
        assert!(told.dry_run && !done.dry_run);
    }
}

pub(super) async fn what_has_an_active_run_is_never_inactive(storage: &dyn Storage) {
    two_trees(storage).await;
    let new = NewRun { id: None, executor: "fake".into(), model: None, message: None };
    storage.create_run(&id("a"), new, None).await.unwrap();
    let later = Cleanup { inactive_before: Some(Timestamp::MAX), ..cleanup(CleanupMode::All) };
    for mode in [CleanupMode::Children, CleanupMode::All] {
        let dry = storage.cleanup_sessions(Cleanup { dry_run: true, mode, ..later }).await.unwrap();
        assert!(!dry.deleted_session_ids.iter().any(|session| ["a", "r"].contains(&session.as_str())), "{dry:?}");
        assert!(dry.cancelled_run_ids.is_empty(), "{dry:?}");
    }
    // What is idle below it goes, and whatever is inactive elsewhere.
    assert_eq!(cleaned(storage, later).await, ["a1", "b", "c", "s"]);
    // Without a bound of activity all goes, as the caller says.
    assert_eq!(cleaned(storage, cleanup(CleanupMode::All)).await, ["a", "r"]);
}

pub(super) async fn archived_sessions_stay_with_what_is_above_and_below(storage: &dyn Storage) {
    two_trees(storage).await;
    let archive = Closing { archive: true, ..Closing::default() };
    storage.close_sessions(&id("a"), archive).await.unwrap();
    child(storage, "a1", "a2").await;
    for (mode, wanted) in [(CleanupMode::Children, &["b", "c"][..]), (CleanupMode::All, &["s"])] {
        assert_eq!(cleaned(storage, cleanup(mode)).await, wanted);
    }
    assert_eq!(all_ids(storage).await, ["a2", "r"]);
    let all = Cleanup { keep_archived: false, ..cleanup(CleanupMode::All) };
    assert_eq!(cleaned(storage, all).await, ["a", "a1", "a2", "r"]);
}
