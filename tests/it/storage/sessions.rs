//! Creating, reading and updating sessions, and their trees.

use culm::{
    model::{Kind, ModelRef, NewSession, RawObject, ReasoningEffort, Role, SessionTree, SessionUpdate},
    storage::{Error, Storage},
};
use serde_json::json;

use crate::support::*;

pub(super) async fn a_session_is_read_as_it_was_created(storage: &dyn Storage) {
    let given = NewSession {
        title: Some("  A title ".into()),
        model_ref: Some(ModelRef { provider: "p".into(), model: "m".into() }),
        reasoning_effort: Some(ReasoningEffort::High),
        workspace: Some("/work".into()),
        pinned: true,
        token_budget: json!({ "max": 7 }).as_object().map(RawObject::from),
        task_list: json!({ "tasks": [] }).as_object().map(RawObject::from),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        ..new("a")
    };
    let created = storage.create_session(given, None).await.unwrap();
    assert_eq!(created, read(storage, "a").await);
    assert_eq!((created.title.as_str(), created.pinned, created.kind), ("A title", true, Kind::Root));
    assert_eq!((created.model.as_deref(), created.provider.as_deref()), (Some("m"), Some("p")));
    assert_eq!(
        (created.token_budget, created.task_list),
        (Some(json!({"max": 7}).into()), Some(json!({"tasks": []}).into()))
    );
    assert_eq!((created.workspace.as_deref(), created.metadata["k"].as_str()), (Some("/work"), "v"));
    assert_eq!((created.message_count, created.last_seq), (0, 0));
    assert_eq!((created.parent_session_id, created.root_session_id), (None, id("a")));
}

pub(super) async fn a_system_prompt_becomes_the_first_message(storage: &dyn Storage) {
    let given = NewSession { system_prompt: Some("be brief".into()), ..new("a") };
    let created = storage.create_session(given, None).await.unwrap();
    assert_eq!((created.message_count, created.last_seq), (1, 1));
    let messages = history(storage, "a").await;
    assert_eq!((messages[0].role, messages[0].content.as_str(), messages[0].seq), (Role::System, "be brief", 1));
}

pub(super) async fn a_blank_title_is_the_default_one(storage: &dyn Storage) {
    let given = NewSession { title: Some(" ".into()), ..NewSession::default() };
    assert_eq!(storage.create_session(given, None).await.unwrap().title, "New Session");
}

/// Defect 5 is gone: absent is `None`, never a new empty session.
pub(super) async fn an_absent_session_is_none_and_no_error(storage: &dyn Storage) {
    assert!(storage.session(&id("a")).await.unwrap().is_none());
    assert!(storage.load_session(&id("a")).await.unwrap().is_none());
    assert!(storage.message(&id("a"), &mid("m")).await.unwrap().is_none());
    assert_fails!(storage.update_session(&id("a"), title("x"), None).await, Error::SessionNotFound(_));
    assert_fails!(storage.session_tree(&id("a"), 10).await, Error::SessionNotFound(_));
    assert_fails!(storage.clear_session(&id("a"), None).await, Error::SessionNotFound(_));
    assert!(all_ids(storage).await.is_empty());
}

pub(super) async fn the_same_creation_sent_twice_is_answered_and_another_one_is_refused(storage: &dyn Storage) {
    let tasks = |text: &str| Some(serde_json::from_str(text).unwrap());
    let given = NewSession {
        system_prompt: Some("be brief".into()),
        task_list: tasks(r#"{"title": "t", "items": [{"id": "1", "notes": ""}]}"#),
        ..new("a")
    };
    storage.create_session(given.clone(), None).await.unwrap();
    say(storage, "a", &["hello"]).await;
    // The order of keys says nothing.
    let turned = tasks(r#"{"items": [{"notes": "", "id": "1"}], "title": "t"}"#);
    let again = NewSession { task_list: turned, ..given.clone() };
    let again = storage.create_session(again, None).await.unwrap();
    assert_eq!(again, read(storage, "a").await);
    assert_eq!(again.message_count, 2);
    let other = NewSession { title: Some("other".into()), ..given };
    assert_fails!(storage.create_session(other, None).await, Error::SessionExists(_));
    assert_eq!(texts(storage, "a").await, ["be brief", "hello"]);
}

pub(super) async fn a_child_takes_its_place_below_its_parent(storage: &dyn Storage) {
    let root = create(storage, "root").await;
    child(storage, "root", "child").await;
    let grandchild = child(storage, "child", "grandchild").await;
    assert_eq!((grandchild.kind, grandchild.spawn_depth), (Kind::Child, 2));
    assert_eq!(grandchild.parent_session_id, Some(id("child")));
    assert_eq!(grandchild.root_session_id, id("root"));
    let after = read(storage, "root").await;
    assert_eq!(after.children_count, 1);
    assert!(after.version > root.version);
}

/// Defect 13 is gone: no child is stored without a parent.
pub(super) async fn a_child_needs_a_parent_that_is_there(storage: &dyn Storage) {
    let orphan = NewSession { parent: Some(id("nobody")), ..new("child") };
    assert_fails!(storage.create_session(orphan, None).await, Error::SessionNotFound(who) if who == id("nobody"));
    assert!(storage.session(&id("child")).await.unwrap().is_none());
}

/// Defect 13 is gone: an id in use is refused, whatever kind it is of.
pub(super) async fn a_child_cannot_take_the_id_of_a_root(storage: &dyn Storage) {
    create(storage, "a").await;
    let b = create(storage, "b").await;
    let thief = NewSession { parent: Some(id("a")), ..new("b") };
    assert_fails!(storage.create_session(thief, None).await, Error::SessionExists(who) if who == id("b"));
    assert_eq!(read(storage, "b").await, b);
}

pub(super) async fn an_update_changes_what_it_names_and_raises_the_version_by_one(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    let update = SessionUpdate {
        pinned: Some(true),
        reasoning_effort: Some(ReasoningEffort::Low),
        workspace: Some(Some("/w".into())),
        ..title(" new ")
    };
    let after = storage.update_session(&id("a"), update, None).await.unwrap();
    assert_eq!(after, read(storage, "a").await);
    assert_eq!((after.title.as_str(), after.pinned, after.version), ("new", true, before.version + 1));
    let clear = SessionUpdate { clear_reasoning_effort: true, workspace: Some(None), ..SessionUpdate::default() };
    let cleared = storage.update_session(&id("a"), clear, None).await.unwrap();
    assert_eq!((cleared.reasoning_effort, cleared.workspace, cleared.title.as_str()), (None, None, "new"));
}

pub(super) async fn an_update_that_changes_nothing_leaves_the_version(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    let nothing = storage.update_session(&id("a"), SessionUpdate::default(), None).await.unwrap();
    let same = storage.update_session(&id("a"), title("a"), None).await.unwrap();
    assert_eq!((&nothing, &same), (&before, &before));
    assert_eq!(read(storage, "a").await, before);
}

pub(super) async fn metadata_is_merged_and_null_removes_a_key(storage: &dyn Storage) {
    create(storage, "a").await;
    let set = |pairs: &[(&str, Option<&str>)]| SessionUpdate {
        metadata: pairs.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect(),
        ..SessionUpdate::default()
    };
    storage.update_session(&id("a"), set(&[("x", Some("1")), ("y", Some("2"))]), None).await.unwrap();
    storage.update_session(&id("a"), set(&[("x", None), ("z", Some("3")), ("q", None)]), None).await.unwrap();
    let metadata = read(storage, "a").await.metadata;
    assert_eq!(metadata.into_iter().collect::<Vec<_>>(), [("y".into(), "2".into()), ("z".into(), "3".into())]);
}

pub(super) async fn model_and_provider_together_say_model_ref_and_one_alone_ends_it(storage: &dyn Storage) {
    create(storage, "a").await;
    let given = |text: &str| Some(Some(text.to_owned()));
    let both = SessionUpdate { model: given("m"), provider: given("p"), ..SessionUpdate::default() };
    let session = storage.update_session(&id("a"), both, None).await.unwrap();
    assert_eq!(session.model_ref, Some(ModelRef { provider: "p".into(), model: "m".into() }));
    let alone = SessionUpdate { model: given("n"), ..SessionUpdate::default() };
    let session = storage.update_session(&id("a"), alone, None).await.unwrap();
    assert_eq!((session.model_ref, session.model.as_deref()), (None, Some("n")));
    let model_ref = ModelRef { provider: "q".into(), model: "o".into() };
    let together = SessionUpdate { model_ref: Some(Some(model_ref.clone())), ..SessionUpdate::default() };
    let session = storage.update_session(&id("a"), together, None).await.unwrap();
    assert_eq!((session.model.as_deref(), session.provider.as_deref()), (Some("o"), Some("q")));
    assert_eq!(read(storage, "a").await.model_ref, Some(model_ref));
}

pub(super) async fn an_update_based_on_another_version_is_refused(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    storage.update_session(&id("a"), title("b"), Some(before.version)).await.unwrap();
    let late = storage.update_session(&id("a"), title("c"), Some(before.version)).await;
    assert_fails!(late, Error::VersionConflict { what: "version", current } if current == before.version + 1);
    assert_eq!(read(storage, "a").await.title, "b");
}

/// Defect 2 is gone: nothing is overwritten by a change that was made beside it.
pub(super) async fn updates_of_different_fields_at_once_all_survive(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    let updates = (0..20).map(|n| {
        let metadata = [(n.to_string(), Some("x".to_owned()))].into();
        let update = SessionUpdate { metadata, ..SessionUpdate::default() };
        async move { storage.update_session(&id("a"), update, None).await.unwrap() }
    });
    futures_util::future::join_all(updates).await;
    let after = read(storage, "a").await;
    assert_eq!((after.metadata.len(), after.version), (20, before.version + 20));
}

/// Defect 12 is gone: a list is read from the rows themselves.
pub(super) async fn a_list_shows_a_change_at_once(storage: &dyn Storage) {
    create(storage, "a").await;
    pin(storage, "a").await;
    attach(storage, "a", "f", vec![1]).await;
    say(storage, "a", &["hello"]).await;
    storage.update_session(&id("a"), title("new"), None).await.unwrap();
    let page = storage.sessions(&everything(), None, 10).await.unwrap();
    assert_eq!(page.items, [read(storage, "a").await]);
    let shown = &page.items[0];
    assert_eq!((shown.title.as_str(), shown.pinned, shown.has_attachments), ("new", true, true));
}

/// Defect 12 is gone: only a history's change is activity.
pub(super) async fn renaming_and_pinning_do_not_reorder_the_list(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    pin(storage, "a").await;
    storage.update_session(&id("a"), title("new"), None).await.unwrap();
    assert_eq!(listed(storage, &everything()).await, ["b", "a"]);
    say(storage, "a", &["hello"]).await;
    assert_eq!(listed(storage, &everything()).await, ["a", "b"]);
}

fn shape(tree: &SessionTree) -> String {
    let below: Vec<String> = tree.children.iter().map(shape).collect();
    match below.is_empty() {
        true => tree.session.id.to_string(),
        false => format!("{}({})", tree.session.id, below.join(" ")),
    }
}

async fn small_tree(storage: &dyn Storage) {
    create(storage, "r").await;
    for (parent, name) in [("r", "a"), ("r", "b"), ("a", "a1"), ("b", "b1"), ("a", "a2"), ("a1", "deep")] {
        child(storage, parent, name).await;
    }
}

pub(super) async fn a_tree_holds_all_below_in_the_order_of_creation(storage: &dyn Storage) {
    small_tree(storage).await;
    let (tree, truncated) = storage.session_tree(&id("r"), 7).await.unwrap();
    assert_eq!((shape(&tree).as_str(), truncated), ("r(a(a1(deep) a2) b(b1))", false));
    let (tree, _) = storage.session_tree(&id("a"), 7).await.unwrap();
    assert_eq!(shape(&tree), "a(a1(deep) a2)");
}

pub(super) async fn a_tree_is_cut_off_at_its_deepest(storage: &dyn Storage) {
    small_tree(storage).await;
    let (tree, truncated) = storage.session_tree(&id("r"), 6).await.unwrap();
    assert_eq!((shape(&tree).as_str(), truncated), ("r(a(a1 a2) b(b1))", true));
    let (tree, truncated) = storage.session_tree(&id("r"), 1).await.unwrap();
    assert_eq!((shape(&tree).as_str(), truncated), ("r", true));
}
