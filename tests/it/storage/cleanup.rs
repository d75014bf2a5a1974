//! Cleaning up many sessions at once.

use culm::{
    model::{
        Cleanup, CleanupMode, Closing, KindFilter, NewRun, NewSession, ReceiptStatus, Session, SessionFilter,
        Timestamp, WholeSession,
    },
    storage::{Error, Storage},
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
        let told = storage.cleanup_sessions(Cleanup { dry_run: true, ..real.clone() }).await.unwrap();
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
        let dry = storage.cleanup_sessions(Cleanup { dry_run: true, mode, ..later.clone() }).await.unwrap();
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

pub(super) async fn filters_and_ids_name_what_goes_with_everything_below(storage: &dyn Storage) {
    two_trees(storage).await;
    storage.update_session(&id("s"), title("swept nightly"), None).await.unwrap();
    let by = |filter: SessionFilter| Cleanup { filter, dry_run: true, ..cleanup(CleanupMode::All) };
    let all = SessionFilter::default();
    let cases = [
        (SessionFilter { kind: Some(KindFilter::Child), ..all.clone() }, &["a", "a1", "b", "c"][..]),
        (SessionFilter { parent: Some(id("r")), ..all.clone() }, &["a", "a1", "b"]),
        (SessionFilter { root: Some(id("s")), ..all.clone() }, &["c", "s"]),
        (SessionFilter { q: Some("nightly".into()), ..all.clone() }, &["c", "s"]),
        (SessionFilter { q: Some("nothing".into()), ..all.clone() }, &[]),
        (SessionFilter { pinned: Some(true), ..all.clone() }, &[]),
        (SessionFilter { model: Some("none".into()), ..all.clone() }, &[]),
        (SessionFilter { created_after: Some(Timestamp::MAX), ..all.clone() }, &[]),
        (SessionFilter { active_before: Some(Timestamp::MAX), ..all }, &["a", "a1", "b", "c", "r", "s"]),
    ];
    for (filter, wanted) in cases {
        assert_eq!(cleaned(storage, by(filter.clone())).await, wanted, "{filter:?}");
    }
    let ids = Some(["a", "c", "nobody"].map(id).to_vec());
    let named = Cleanup { ids: ids.clone(), ..cleanup(CleanupMode::All) };
    // Both hold: what is named, and what the filter says.
    let both =
        Cleanup { ids, filter: SessionFilter { parent: Some(id("r")), ..SessionFilter::default() }, ..named.clone() };
    assert_eq!(cleaned(storage, Cleanup { dry_run: true, ..both }).await, ["a", "a1"]);
    assert_eq!(cleaned(storage, named).await, ["a", "a1", "c"]);
    assert_eq!(all_ids(storage).await, ["b", "r", "s"]);
}

/// What one transaction takes is bounded, and whole trees at that; a receipt says how far it is, and is resumed or stopped.
pub(super) async fn a_cleanup_goes_tree_by_tree_and_can_be_stopped_and_resumed(storage: &dyn Storage) {
    let tree = async |root: &str, children: usize| {
        create(storage, root).await;
        let below = |n| Session { parent_session_id: Some(id(root)), ..Session::new(id(&format!("{root}{n}"))) };
        let saves = (0..children).map(|n| WholeSession::new(below(n), Vec::new()).changes()).collect();
        assert!(storage.save_sessions(saves).await.unwrap().iter().all(Result::is_ok));
    };
    for (root, children) in [("a", 299), ("b", 299), ("c", 699), ("d", 9)] {
        tree(root, children).await;
    }
    let receipt = storage.begin_cleanup(cleanup(CleanupMode::All)).await.unwrap();
    create(storage, "later").await;
    let mut steps = Vec::new();
    for _ in 0..2 {
        steps.push(storage.continue_cleanup(&receipt.id).await.unwrap().unwrap().deleted);
        assert_eq!(storage.receipt(&receipt.id).await.unwrap().deleted_count, steps.iter().sum::<i64>());
    }
    assert_eq!(steps, [300, 300]);
    assert_eq!(
        storage.running_cleanups().await.unwrap().iter().map(|left| &left.id).collect::<Vec<_>>(),
        [&receipt.id]
    );
    assert!(
        storage.session(&id("b298")).await.unwrap().is_none() && storage.session(&id("c0")).await.unwrap().is_some()
    );
    let stopped = storage.stop_cleanup(&receipt.id).await.unwrap();
    assert_eq!((stopped.status, stopped.deleted_count), (ReceiptStatus::Stopped, 600));
    assert!(storage.continue_cleanup(&receipt.id).await.unwrap().is_none());
    assert!(storage.session(&id("c0")).await.unwrap().is_some());
    // Another takes the rest, one tree of more than a step among it; what was created meanwhile stays.
    let rest = storage
        .begin_cleanup(Cleanup { ids: Some(vec![id("c"), id("d")]), ..cleanup(CleanupMode::All) })
        .await
        .unwrap();
    let mut steps = Vec::new();
    while let Some(step) = storage.continue_cleanup(&rest.id).await.unwrap() {
        steps.push(step.deleted);
    }
    assert_eq!(steps, [700, 10]);
    let done = storage.receipt(&rest.id).await.unwrap();
    assert_eq!((done.status, done.deleted_count), (ReceiptStatus::Completed, 710));
    assert_eq!(all_ids(storage).await, ["later"]);
    let (ids, more) = storage.receipt_sessions(&rest.id, Some(&id("c5")), 3).await.unwrap();
    assert_eq!(
        (ids.iter().map(ToString::to_string).collect::<Vec<_>>(), more),
        (vec!["c50".into(), "c500".into(), "c501".into()], true)
    );
    assert_fails!(storage.receipt(&"nobody".parse().unwrap()).await, Error::ReceiptNotFound(_));
}
