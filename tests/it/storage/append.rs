//! Appending messages.

use std::collections::BTreeSet;

use culm::{
    model::{ImageUrl, MessagePart, NewMessage, Role},
    storage::{AppendOptions, Error, Storage},
};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::*;

fn expecting(seq: i64) -> AppendOptions {
    AppendOptions { expected_last_seq: Some(seq), ..AppendOptions::default() }
}

pub(super) async fn messages_are_stored_in_order_with_all_their_fields(storage: &dyn Storage) {
    create(storage, "a").await;
    let image = ImageUrl { url: "attachment://a/f".into(), detail: Some("low".into()) };
    let full = NewMessage {
        reasoning: Some("because".into()),
        parts: Some(vec![MessagePart::Text { text: "数据".into() }, MessagePart::ImageUrl { image_url: image }]),
        tool_success: Some(true),
        phase: Some("final_answer".into()),
        metadata: Some(json!({ "a": [1, null, "x"] }).into()),
        content: "数据库 it's \"quoted\" \u{1} 🦀".into(),
        ..calls("calling", &["c1", "c2"])
    };
    let appended = append(storage, "a", vec![said(Role::User, "hello"), full, result("ok", "c1")]).await;
    assert_eq!(appended.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(appended.last_seq, 3);
    assert_eq!(history(storage, "a").await, appended.messages);
    for message in &appended.messages {
        assert_eq!(storage.message(&id("a"), &message.id).await.unwrap().as_ref(), Some(message));
    }
}

pub(super) async fn a_message_brought_twice_is_stored_once(storage: &dyn Storage) {
    create(storage, "a").await;
    let first = say(storage, "a", &["one", "two"]).await;
    let version = read(storage, "a").await.version;
    let again = say(storage, "a", &["one", "two"]).await;
    assert_eq!((again.messages, again.last_seq), (first.messages, 2));
    // Before any other check: the first answer was perhaps lost on its way.
    let late = storage.append_messages(&id("a"), vec![said(Role::User, "one")], expecting(0)).await.unwrap();
    assert_eq!((late.messages[0].seq, late.last_seq), (1, 2));
    assert_eq!(read(storage, "a").await.version, version);
    let mixed = say(storage, "a", &["two", "three"]).await;
    assert_eq!(mixed.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(texts(storage, "a").await, ["one", "two", "three"]);
}

pub(super) async fn another_message_under_a_used_id_is_refused_and_nothing_is_stored(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["one"]).await;
    let other = NewMessage { content: "other".into(), ..said(Role::User, "one") };
    let batch = vec![said(Role::User, "two"), other];
    let refused = storage.append_messages(&id("a"), batch, AppendOptions::default()).await;
    assert_fails!(refused, Error::MessageExists(which) if which == mid("one"));
    assert_eq!(texts(storage, "a").await, ["one"]);
    let session = read(storage, "a").await;
    assert_eq!((session.message_count, session.last_seq), (1, 1));
}

/// Defect 22 is gone: one id is one message.
pub(super) async fn one_batch_with_one_id_twice_stores_it_once_or_not_at_all(storage: &dyn Storage) {
    create(storage, "a").await;
    let twice = say(storage, "a", &["one", "one", "two"]).await;
    assert_eq!(twice.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 1, 2]);
    let unequal = vec![said(Role::User, "x"), said(Role::Assistant, "x")];
    let refused = storage.append_messages(&id("a"), unequal, AppendOptions::default()).await;
    assert_fails!(refused, Error::MessageExists(_));
    assert_eq!(texts(storage, "a").await, ["one", "two"]);
}

pub(super) async fn message_ids_are_unique_within_their_session_only(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    say(storage, "a", &["one"]).await;
    append(storage, "b", vec![NewMessage { content: "other".into(), ..said(Role::User, "one") }]).await;
    assert_eq!((texts(storage, "a").await, texts(storage, "b").await), (vec!["one".into()], vec!["other".into()]));
}

pub(super) async fn an_append_expecting_another_last_seq_is_refused(storage: &dyn Storage) {
    create(storage, "a").await;
    storage.append_messages(&id("a"), vec![said(Role::User, "one")], expecting(0)).await.unwrap();
    for other in [i64::MIN, -1, 0, 2, i64::MAX] {
        let refused = storage.append_messages(&id("a"), vec![said(Role::User, "two")], expecting(other)).await;
        assert_fails!(refused, Error::VersionConflict { what: "last_seq", current: 1 });
    }
    assert_eq!(texts(storage, "a").await, ["one"]);
    let both = vec![said(Role::User, "two"), said(Role::User, "three")];
    assert_eq!(storage.append_messages(&id("a"), both, expecting(1)).await.unwrap().last_seq, 3);
}

pub(super) async fn a_seq_is_never_given_twice(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["one", "two"]).await;
    storage.delete_message(&id("a"), &mid("two"), None).await.unwrap();
    assert_eq!(read(storage, "a").await.last_seq, 2);
    assert_eq!(say(storage, "a", &["three"]).await.last_seq, 3);
    storage.clear_session(&id("a"), None).await.unwrap();
    assert_eq!(say(storage, "a", &["four"]).await.last_seq, 4);
}

/// Defect 2 is gone: twenty writers of one session lose nothing.
pub(super) async fn concurrent_appends_all_survive_with_increasing_places(storage: &dyn Storage) {
    create(storage, "a").await;
    let writers = (0..20).map(|writer| async move {
        let mut places = Vec::new();
        for n in 0..50 {
            let text = format!("{writer}-{n}");
            places.push(say(storage, "a", &[&text]).await.last_seq);
        }
        places
    });
    let places = join_all(writers).await;
    assert!(places.iter().all(|of_one| of_one.is_sorted_by(|a, b| a < b)));
    assert_eq!(places.into_iter().flatten().collect::<BTreeSet<_>>().len(), 1000);
    let messages = history(storage, "a").await;
    assert!(messages.is_sorted_by(|a, b| a.seq < b.seq));
    assert_eq!(messages.iter().map(|m| &m.content).collect::<BTreeSet<_>>().len(), 1000);
    let session = read(storage, "a").await;
    assert_eq!((session.message_count, session.last_seq), (1000, 1000));
}

pub(super) async fn concurrent_appends_expecting_one_place_are_won_by_one(storage: &dyn Storage) {
    create(storage, "a").await;
    let writers = (0..20).map(|n| async move {
        storage.append_messages(&id("a"), vec![said(Role::User, &n.to_string())], expecting(0)).await
    });
    let won = join_all(writers).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((won, read(storage, "a").await.message_count), (1, 1));
}

pub(super) async fn an_append_raises_the_version_and_the_activity(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    say(storage, "a", &["one", "two"]).await;
    let after = read(storage, "a").await;
    assert_eq!(after.version, before.version + 2, "each message is a change");
    assert!(after.last_activity_at > before.last_activity_at && after.updated_at > before.updated_at);
}

pub(super) async fn an_append_to_no_session_is_not_found(storage: &dyn Storage) {
    let refused = storage.append_messages(&id("a"), vec![said(Role::User, "one")], AppendOptions::default()).await;
    assert_fails!(refused, Error::SessionNotFound(_));
    assert!(storage.session(&id("a")).await.unwrap().is_none());
}

pub(super) async fn numbers_in_metadata_come_back_as_they_were(storage: &dyn Storage) {
    create(storage, "a").await;
    let numbers = json!([0.1, 1e-7, 123_456_789.123_456_79, -2.225_073_858_507_201e-308, i64::MAX, u64::MAX]);
    let message = NewMessage { metadata: Some(numbers.into()), ..said(Role::User, "one") };
    let first = append(storage, "a", vec![message.clone()]).await;
    let again = append(storage, "a", vec![message]).await;
    assert_eq!((&again.messages, history(storage, "a").await), (&first.messages, first.messages.clone()));
}
