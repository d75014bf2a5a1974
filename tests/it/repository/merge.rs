//! A whole session that is loaded, changed and saved, while others change it too.

use culm::{
    model::{DeleteOptions, Message, RawObject, Role, Session, SessionUpdate, Timestamp},
    repository::RuntimePersistence,
};

use super::*;

/// A user's message whose id is its text.
pub(super) fn message(text: &str) -> Message {
    said(Role::User, text).into_message(0, Timestamp::now())
}

async fn load(repository: &SessionRepository, session: &str) -> WholeSession {
    repository.load(&id(session)).await.unwrap().unwrap()
}

fn contents(whole: &WholeSession) -> Vec<&str> {
    whole.messages.iter().map(|message| message.content.as_str()).collect()
}

#[tokio::test]
async fn a_session_is_created_once_with_the_model_that_was_asked_for() {
    let Opened { repository, .. } = open().await;
    assert!(repository.load(&id("a")).await.unwrap().is_none());
    let created = repository.load_or_create(&id("a"), "first").await.unwrap();
    let again = repository.load_or_create(&id("a"), "second").await.unwrap();
    assert_eq!(created.session.model.as_deref(), Some("first"));
    assert_eq!((&again.session, &again.messages), (&created.session, &created.messages));
    assert_eq!(read(&repository, "a").await, created.session);
}

#[tokio::test]
async fn a_session_that_another_one_created_meanwhile_is_loaded() {
    let Opened { steered, repository, .. } = open().await;
    let mut load = steered.stop("load_session", Place::After);
    let creating = async {
        load.reached().await;
        create(&repository, "a").await;
        load.go();
    };
    let id = id("a");
    let (loaded, ()) = tokio::join!(repository.load_or_create(&id, "m"), creating);
    assert_eq!(loaded.unwrap().session, read(&repository, "a").await);
}

#[tokio::test]
async fn twenty_who_load_or_create_at_once_get_one_session() {
    let Opened { repository, .. } = open().await;
    let id = id("a");
    let models: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let loaded = futures_util::future::join_all(models.iter().map(|model| repository.load_or_create(&id, model))).await;
    let one = read(&repository, "a").await;
    assert!(loaded.into_iter().all(|loaded| loaded.unwrap().session == one));
}

#[tokio::test]
async fn loading_or_creating_does_not_bring_a_deleted_session_back() {
    let Opened { repository, .. } = open().await;
    repository.load_or_create(&id("a"), "m").await.unwrap();
    repository.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_fails!(repository.load_or_create(&id("a"), "m").await, Error::SessionDeleted(_));
    assert!(repository.load(&id("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_rename_and_messages_that_came_in_between_survive_a_save() {
    let Opened { database, repository, .. } = open().await;
    create(&repository, "a").await;
    say(&repository, "a", &["one", "two"]).await;
    let mut whole = load(&repository, "a").await;
    repository.update_session(&id("a"), title("theirs"), None).await.unwrap();
    say(&repository, "a", &["theirs"]).await;
    whole.messages.clear();
    whole.messages.push(message("mine"));
    whole.session.model = Some("mine".into());
    repository.save(&mut whole).await.unwrap();
    assert_eq!(texts(&repository, "a").await, ["theirs", "mine"], "what was not loaded is not removed");
    let saved = read(database.storage(), "a").await;
    assert_eq!((saved.title.as_str(), saved.model.as_deref()), ("theirs", Some("mine")));
    assert_eq!(shown(&repository, "a").await, stored(&database, "a").await);
    assert_eq!((&whole.session, whole.messages[0].seq), (&saved, 4), "the copy is corrected");
}

#[tokio::test]
async fn a_title_and_a_pin_that_both_sides_changed_are_the_databases() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    pin(&repository, "a").await;
    let mut whole = load(&repository, "a").await;
    let theirs = SessionUpdate { title: Some("theirs".into()), pinned: Some(false), ..SessionUpdate::default() };
    repository.update_session(&id("a"), theirs, None).await.unwrap();
    whole.session.title = "mine".into();
    whole.session.pinned = false;
    repository.save(&mut whole).await.unwrap();
    assert_eq!((whole.session.title.as_str(), whole.session.pinned), ("theirs", false));
    whole.session.title = "mine".into();
    whole.session.pinned = true;
    repository.save(&mut whole).await.unwrap();
    let saved = read(&repository, "a").await;
    assert_eq!((saved.title.as_str(), saved.pinned), ("mine", true), "changed on one side only");
}

#[tokio::test]
async fn what_the_holder_did_not_change_is_not_written() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    append(&repository, "a", vec![said(Role::User, "one"), said(Role::Assistant, "two")]).await;
    let mut whole = load(&repository, "a").await;
    let theirs = SessionUpdate { workspace: Some(Some("/theirs".into())), ..SessionUpdate::default() };
    repository.update_session(&id("a"), theirs, None).await.unwrap();
    repository.edit_message(&id("a"), &mid("two"), "theirs".into(), None).await.unwrap();
    whole.session.model = Some("mine".into());
    whole.messages[0].content = "mine".into();
    repository.save(&mut whole).await.unwrap();
    assert_eq!(texts(&repository, "a").await, ["mine", "theirs"]);
    assert_eq!(read(&repository, "a").await.workspace.as_deref(), Some("/theirs"));
}

#[tokio::test]
async fn a_late_save_does_not_bring_a_deleted_session_back() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    let mut whole = load(&repository, "a").await;
    whole.session.model = Some("late".into());
    let mut other = whole.clone();
    repository.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_fails!(repository.save(&mut whole).await, Error::SessionDeleted(_));
    assert_fails!(repository.save_runtime_session(&mut other).await, Error::SessionDeleted(_));
    assert_eq!(shown(&repository, "a").await, [Value::Null, Value::Null]);
    assert!(repository.load_merged(&whole).await.unwrap().is_none());
}

#[tokio::test]
async fn a_merged_copy_has_what_others_wrote_and_what_its_holder_did() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    say(&repository, "a", &["one", "two", "three"]).await;
    let mut whole = load(&repository, "a").await;
    let theirs = SessionUpdate { workspace: Some(Some("/theirs".into())), ..title("theirs") };
    repository.update_session(&id("a"), theirs, None).await.unwrap();
    repository.delete_message(&id("a"), &mid("two"), None).await.unwrap();
    say(&repository, "a", &["theirs"]).await;
    whole.session.model = Some("mine".into());
    whole.messages.remove(0);
    whole.messages[1].content = "three, mine".into();
    whole.messages.push(message("mine"));
    let mut merged = repository.load_merged(&whole).await.unwrap().unwrap();
    assert_eq!(contents(&merged), ["three, mine", "theirs", "mine"]);
    let Session { title, workspace, model, .. } = &merged.session;
    assert_eq!((title.as_str(), workspace.as_deref(), model.as_deref()), ("theirs", Some("/theirs"), Some("mine")));
    assert_eq!(texts(&repository, "a").await, ["one", "three", "theirs"], "a merge writes nothing");
    repository.save(&mut merged).await.unwrap();
    assert_eq!(texts(&repository, "a").await, contents(&merged));
}

/// Freshness is what was changed since the load, and no clock.
#[tokio::test]
async fn a_pending_question_is_neither_lost_nor_brought_back_by_a_merge() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    let mut before = load(&repository, "a").await;
    before.session.updated_at = Timestamp(i64::MAX);
    let mut asking = load(&repository, "a").await;
    asking.session.pending_question = Some(json!({ "question": "sure?" }).into());
    repository.save(&mut asking).await.unwrap();
    let merged = repository.load_merged(&before).await.unwrap().unwrap();
    assert_eq!(merged.session.pending_question, asking.session.pending_question);
    let mut answered = asking;
    answered.session.pending_question = None;
    answered.session.updated_at = Timestamp(1);
    let merged = repository.load_merged(&answered).await.unwrap().unwrap();
    assert_eq!(merged.session.pending_question, None);
}

#[tokio::test]
async fn a_runtime_saves_without_knowing_where() {
    let Opened { repository, .. } = open().await;
    create(&repository, "a").await;
    let mut whole = load(&repository, "a").await;
    pin(&repository, "a").await;
    whole.messages.push(message("mine"));
    let runtime: &dyn RuntimePersistence = &repository;
    runtime.save_runtime_session(&mut whole).await.unwrap();
    assert!(whole.session.pinned, "what people changed meanwhile is in the copy");
    let record = RawObject::from(json!({ "total_tokens": 7, "unknown": [1] }).as_object().unwrap());
    runtime.append_token_usage_record(&id("a"), record.clone()).await.unwrap();
    let log = repository.usage(&id("a"), None, 10).await.unwrap().items;
    assert_eq!(log.into_iter().map(|logged| logged.record).collect::<Vec<_>>(), [record]);
    assert_fails!(
        runtime.append_token_usage_record(&id("nobody"), whole.session.extra).await,
        Error::SessionNotFound(_)
    );
}
