//! Children: what is stored together, and what is forgotten.

use culm::{
    model::{ChildStep, ChildUpdate, NewChild, NewRun, RunStatus},
    storage::{Claim, Error, Storage},
};
use serde_json::json;

use crate::support::*;

fn task(child: &str) -> NewChild {
    NewChild {
        id: Some(id(child)),
        title: "Title".into(),
        responsibility: "Know".into(),
        prompt: "Look.".into(),
        subagent_type: "explorer".into(),
        model: None,
        executor: None,
        auto_run: false,
    }
}

fn run(run: &str) -> Option<NewRun> {
    Some(NewRun { id: Some(run.parse().unwrap()), executor: "any".into(), model: None, message: None })
}

fn prompt(text: &str) -> ChildUpdate {
    let prompt = Some(text.into());
    ChildUpdate { title: None, responsibility: None, prompt, subagent_type: None, reset_after_update: true }
}

fn claim() -> Option<Claim> {
    Some(Claim { scope: "s".into(), key: "k".into(), body_hash: "h".into() })
}

pub(super) async fn a_child_and_its_run_are_stored_together_or_not_at_all(storage: &dyn Storage) {
    create(storage, "a").await;
    storage.create_run(&id("a"), run("taken").unwrap(), None).await.unwrap();
    let refused = storage.create_child(&id("a"), task("c"), 1, run("taken"), claim()).await;
    assert_fails!(refused, Error::RunExists(_));
    assert_eq!((all_ids(storage).await, read(storage, "a").await.children_count), (vec!["a".to_owned()], 0));
    assert_eq!(storage.answer("s", "k").await.unwrap(), None);
    let created = storage.create_child(&id("a"), task("c"), 1, run("free"), claim()).await.unwrap();
    assert_eq!((created.child.message_count, created.run.unwrap().status), (2, RunStatus::Pending));
    assert_eq!(storage.answer("s", "k").await.unwrap().unwrap().body, json!({ "session": "c", "run": "free" }));
    let again = storage.create_child(&id("a"), task("c"), 1, run("other"), None).await.unwrap();
    assert_eq!(again.run.unwrap().id.as_str(), "free");
    assert_fails!(storage.create_child(&id("c"), task("d"), 1, None, None).await, Error::NotRootSession(_));
    assert_eq!(storage.create_child(&id("c"), task("d"), 2, None, None).await.unwrap().child.spawn_depth, 2);
}

pub(super) async fn a_new_assignment_forgets_what_was_derived(storage: &dyn Storage) {
    create(storage, "a").await;
    storage.create_child(&id("a"), task("c"), 1, None, None).await.unwrap();
    append(storage, "c", vec![calls("calling", &["t"])]).await;
    let mut whole = storage.load_session(&id("c")).await.unwrap().unwrap();
    whole.session.token_usage = Some(json!({ "total": 7 }).into());
    whole.session.conversation_summary = Some(json!({ "content": "it called" }).into());
    whole.session.pending_question = Some(json!({ "question": "sure?", "tool_call_id": "t" }).into());
    whole.session.last_run_status = Some(RunStatus::Error);
    whole.session.last_run_error = Some("broken".into());
    whole.session.extra = json!({ "compression_events": [1], "kept": 1 }).as_object().cloned().unwrap().into();
    whole.messages[1].compressed = true;
    storage.save_session(whole.changes()).await.unwrap();
    let updated = storage.update_child(&id("a"), &id("c"), prompt("Look again.")).await.unwrap();
    assert_eq!(updated.messages_removed, 1);
    let whole = storage.load_session(&id("c")).await.unwrap().unwrap();
    let session = &whole.session;
    assert_eq!((&session.token_usage, &session.conversation_summary, &session.pending_question), (&None, &None, &None));
    assert_eq!((session.last_run_status, &session.last_run_error), (Some(RunStatus::Pending), &None));
    assert_eq!(session.extra.fields().into_keys().collect::<Vec<_>>(), ["kept"]);
    assert!(whole.messages.iter().all(|message| !message.compressed));
    assert!(whole.messages[1].content.ends_with("Task brief:\nLook again."));
}

pub(super) async fn a_child_goes_on_with_one_run_at_a_time(storage: &dyn Storage) {
    create(storage, "a").await;
    storage.create_child(&id("a"), task("c"), 1, None, None).await.unwrap();
    let (parent, child) = (id("a"), id("c"));
    let proceed = async |step, next| storage.continue_child(&parent, &child, step, next, None).await;
    let take = |text: &str| ChildStep::Take(Box::new(said(culm::model::Role::User, text)));
    let first = proceed(ChildStep::Retry { reset: true }, run("first")).await.unwrap();
    assert_eq!((first.messages_removed, first.was_active), (0, false));
    let second = proceed(ChildStep::Retry { reset: true }, run("second")).await.unwrap();
    assert_eq!((second.run.unwrap().id.as_str(), second.was_active), ("first", true));
    assert_fails!(proceed(take("more"), run("second")).await, Error::SessionBusy(_));
    assert_fails!(storage.update_child(&id("a"), &id("c"), prompt("x")).await, Error::SessionBusy(_));
    assert_eq!(read(storage, "c").await.message_count, 2);
    storage.cancel_pending_run(&first.run.unwrap()).await.unwrap();
    let third = proceed(take("more"), None).await.unwrap();
    assert!(third.run.is_none());
    assert_eq!((third.child.message_count, third.child.last_run_status), (3, Some(RunStatus::Pending)));
    // One that fails after it has cut off something has cut off nothing.
    append(storage, "c", vec![said(culm::model::Role::Assistant, "done")]).await;
    assert_fails!(proceed(ChildStep::Retry { reset: true }, run("first")).await, Error::RunExists(_));
    assert_eq!(texts(storage, "c").await[2..], ["more", "done"]);
}
