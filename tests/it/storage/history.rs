//! Reading a history in pages, and changing it: edit, delete, truncate, clear.

use culm::{
    model::{MessageFilter, MessagePage, NewMessage, RawJson, Role, Truncate, Window},
    storage::{Error, Storage},
};
use serde_json::{Value, json};

use crate::support::*;

async fn ten(storage: &dyn Storage) {
    create(storage, "a").await;
    say(storage, "a", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]).await;
}

/// What a page shows: its places, and whether there is more before and after.
async fn shown(storage: &dyn Storage, filter: MessageFilter) -> (Vec<i64>, bool, bool) {
    let page: MessagePage = storage.messages(&id("a"), filter).await.unwrap();
    assert_eq!(page.last_seq, read(storage, "a").await.last_seq);
    (page.messages.iter().map(|m| m.seq).collect(), page.has_more_before, page.has_more_after)
}

pub(super) async fn pages_go_on_in_both_directions(storage: &dyn Storage) {
    ten(storage).await;
    let cases = [
        (Window::First, vec![1, 2, 3], false, true),
        (Window::After(3), vec![4, 5, 6], true, true),
        (Window::After(7), vec![8, 9, 10], true, false),
        (Window::After(8), vec![9, 10], true, false),
        (Window::Last, vec![8, 9, 10], true, false),
        (Window::Before(8), vec![5, 6, 7], true, true),
        (Window::Before(4), vec![1, 2, 3], false, true),
        (Window::Before(3), vec![1, 2], false, true),
    ];
    for (place, seqs, before, after) in cases {
        assert_eq!(shown(storage, window(place, 3)).await, (seqs, before, after), "{place:?}");
    }
    assert_eq!(shown(storage, window(Window::First, 10)).await, ((1..=10).collect(), false, false));
}

pub(super) async fn a_window_around_a_place_shows_both_sides(storage: &dyn Storage) {
    ten(storage).await;
    assert_eq!(shown(storage, window(Window::Around(5), 4)).await, (vec![3, 4, 5, 6], true, true));
    assert_eq!(shown(storage, window(Window::Around(1), 4)).await, (vec![1, 2, 3, 4], false, true));
    assert_eq!(shown(storage, window(Window::Around(5), 1)).await, (vec![5], true, true));
    storage.delete_message(&id("a"), &mid("5"), None).await.unwrap();
    assert_eq!(shown(storage, window(Window::Around(5), 4)).await, (vec![3, 4, 6, 7], true, true));
}

pub(super) async fn a_role_filters_pages_and_what_lies_beyond(storage: &dyn Storage) {
    create(storage, "a").await;
    let roles = [Role::System, Role::User, Role::Assistant, Role::User, Role::Assistant];
    append(storage, "a", (0..).zip(roles).map(|(n, role)| said(role, &n.to_string())).collect()).await;
    let by = |role, window, limit| MessageFilter { role: Some(role), ..crate::support::window(window, limit) };
    assert_eq!(shown(storage, by(Role::User, Window::First, 1)).await, (vec![2], false, true));
    assert_eq!(shown(storage, by(Role::User, Window::After(2), 9)).await, (vec![4], true, false));
    assert_eq!(shown(storage, by(Role::Assistant, Window::Last, 9)).await, (vec![3, 5], false, false));
    assert_eq!(shown(storage, by(Role::Tool, Window::Last, 9)).await, (vec![], false, false));
}

pub(super) async fn a_page_ends_where_its_bytes_are_used_up(storage: &dyn Storage) {
    create(storage, "a").await;
    let large = |n: i64| NewMessage { id: Some(mid(&n.to_string())), ..NewMessage::text(Role::User, "x".repeat(1000)) };
    append(storage, "a", (1..=6).map(large).collect()).await;
    let within = |place, bytes| MessageFilter { bytes, ..window(place, 5) };
    let cases = [
        (Window::First, 2500, vec![1, 2], false, true),
        (Window::After(3), 2500, vec![4, 5], true, true),
        (Window::Last, 2500, vec![5, 6], true, false),
        (Window::Before(6), 2500, vec![4, 5], true, true),
        (Window::Around(4), 5000, vec![2, 3, 4, 5], true, true),
        // The nearest one is there in every case.
        (Window::First, 1, vec![1], false, true),
        (Window::After(5), 1, vec![6], true, false),
        (Window::Before(4), 1, vec![3], true, true),
        (Window::Around(4), 1, vec![3, 4], true, true),
    ];
    for (place, bytes, seqs, before, after) in cases {
        assert_eq!(shown(storage, within(place, bytes)).await, (seqs, before, after), "{place:?} {bytes}");
    }
    let other = MessageFilter { role: Some(Role::Tool), ..within(Window::First, 2500) };
    assert_eq!(shown(storage, other).await, (vec![], false, false));
    // One that has more than its share of the bytes is there while all together have no more than they may.
    create(storage, "b").await;
    let sizes = [10, 900, 10, 10];
    append(storage, "b", sizes.map(|size| NewMessage::text(Role::User, "x".repeat(size))).into()).await;
    for (bytes, last) in [(1000, 4), (930, 3), (920, 2), (910, 1)] {
        let page = MessageFilter { bytes, ..window(Window::First, 5) };
        let page = storage.messages(&id("b"), page).await.unwrap();
        assert_eq!((page.messages.len(), page.has_more_after), (last, last < 4), "{bytes}");
    }
}

pub(super) async fn an_empty_page_says_what_lies_beyond(storage: &dyn Storage) {
    create(storage, "a").await;
    assert_eq!(shown(storage, window(Window::Last, 3)).await, (vec![], false, false));
    say(storage, "a", &["1", "2"]).await;
    for (place, before, after) in [
        (Window::After(2), true, false),
        (Window::After(99), true, false),
        (Window::After(i64::MAX), true, false),
        (Window::Before(1), false, true),
        (Window::Before(i64::MIN), false, true),
        (Window::Around(99), true, false),
    ] {
        assert_eq!(shown(storage, window(place, 1)).await, (vec![], before, after), "{place:?}");
    }
}

pub(super) async fn reading_the_messages_of_no_session_is_not_found(storage: &dyn Storage) {
    let none = storage.messages(&id("a"), window(Window::First, 1)).await;
    assert_fails!(none, Error::SessionNotFound(_));
}

/// A session with a history, and everything that is derived from one.
async fn with_derived(storage: &dyn Storage) {
    create(storage, "a").await;
    append(storage, "a", vec![said(Role::User, "hi"), said(Role::Assistant, "there"), said(Role::User, "so")]).await;
    let mut whole = storage.load_session(&id("a")).await.unwrap().unwrap();
    let session = &mut whole.session;
    session.token_usage = Some(json!({ "total": 7 }).into());
    session.conversation_summary = Some(json!({ "content": "they greeted" }).into());
    session.pending_question = Some(json!({ "question": "sure?" }).into());
    session.task_list = Some(json!({ "tasks": [1] }).into());
    session.extra = json!({ "compression_events": [1], "kept": 1 }).as_object().cloned().unwrap().into();
    session.metadata.insert("responses.previous_response_id".into(), "r".into());
    session.metadata.insert("mine".into(), "1".into());
    whole.messages[0].compressed = true;
    storage.save_session(whole.changes()).await.unwrap();
}

async fn assert_forgotten(storage: &dyn Storage) {
    let whole = storage.load_session(&id("a")).await.unwrap().unwrap();
    assert_eq!((&whole.session.token_usage, &whole.session.conversation_summary), (&None, &None));
    assert_eq!(whole.session.extra.fields().into_keys().collect::<Vec<_>>(), ["kept"]);
    assert!(whole.messages.iter().all(|message| !message.compressed));
}

pub(super) async fn an_edit_replaces_an_assistants_text_and_forgets_what_was_derived(storage: &dyn Storage) {
    with_derived(storage).await;
    let before = read(storage, "a").await;
    let receipt = storage.edit_message(&id("a"), &mid("there"), "数据 new".into(), None).await.unwrap();
    assert_eq!(texts(storage, "a").await, ["hi", "数据 new", "so"]);
    assert_eq!((receipt.message_count, receipt.version), (3, read(storage, "a").await.version));
    assert!(receipt.version > before.version);
    assert_forgotten(storage).await;
    let missing = storage.edit_message(&id("a"), &mid("nothing"), "x".into(), None).await;
    assert_fails!(missing, Error::MessageNotFound(_));
}

pub(super) async fn only_an_assistants_plain_text_is_edited(storage: &dyn Storage) {
    create(storage, "a").await;
    append(storage, "a", vec![said(Role::User, "hi"), calls("calling", &["c"]), result("done", "c")]).await;
    for which in ["hi", "calling", "done"] {
        let refused = storage.edit_message(&id("a"), &mid(which), "x".into(), None).await;
        assert_fails!(refused, Error::NotEditable(_));
    }
}

/// Defect 22 is gone: an id names one message, and deleting it removes one.
pub(super) async fn a_deleted_message_is_gone_and_only_that_one(storage: &dyn Storage) {
    with_derived(storage).await;
    let receipt = storage.delete_message(&id("a"), &mid("there"), None).await.unwrap();
    assert_eq!((receipt.message_count, receipt.version), (2, read(storage, "a").await.version));
    assert_eq!(texts(storage, "a").await, ["hi", "so"]);
    assert_forgotten(storage).await;
    assert_fails!(storage.delete_message(&id("a"), &mid("there"), None).await, Error::MessageNotFound(_));
    assert!(storage.message(&id("a"), &mid("there")).await.unwrap().is_none());
}

pub(super) async fn a_change_of_a_message_based_on_another_version_is_refused(storage: &dyn Storage) {
    with_derived(storage).await;
    let (session, old) = (id("a"), Some(read(storage, "a").await.version - 1));
    let edited = storage.edit_message(&session, &mid("there"), "x".into(), old).await;
    assert_fails!(edited, Error::VersionConflict { what: "version", .. });
    assert_fails!(storage.delete_message(&session, &mid("hi"), old).await, Error::VersionConflict { .. });
    let cut = storage.truncate_messages(&session, Truncate::AfterLastUser {}, old).await;
    assert_fails!(cut, Error::VersionConflict { .. });
    assert_eq!(texts(storage, "a").await, ["hi", "there", "so"]);
}

pub(super) async fn truncating_after_the_last_user_message_keeps_it(storage: &dyn Storage) {
    with_derived(storage).await;
    append(storage, "a", vec![calls("calling", &["c"]), result("done", "c")]).await;
    let receipt = storage.truncate_messages(&id("a"), Truncate::AfterLastUser {}, None).await.unwrap();
    assert_eq!((receipt.messages_removed, receipt.message_count), (2, 3));
    assert_eq!(receipt.version, read(storage, "a").await.version);
    assert_eq!(texts(storage, "a").await, ["hi", "there", "so"]);
    assert_forgotten(storage).await;
    create(storage, "b").await;
    let none = storage.truncate_messages(&id("b"), Truncate::AfterLastUser {}, None).await;
    assert_fails!(none, Error::NoUserMessage);
}

pub(super) async fn truncating_after_a_message_keeps_it(storage: &dyn Storage) {
    with_derived(storage).await;
    let after = |text: &str| Truncate::After { message_id: mid(text) };
    let receipt = storage.truncate_messages(&id("a"), after("hi"), None).await.unwrap();
    assert_eq!((receipt.messages_removed, receipt.message_count, receipt.last_kept), (2, 1, Some(mid("hi"))));
    assert_forgotten(storage).await;
    assert_fails!(storage.truncate_messages(&id("a"), after("so"), None).await, Error::MessageNotFound(_));
}

pub(super) async fn truncating_nothing_changes_nothing(storage: &dyn Storage) {
    with_derived(storage).await;
    let before = read(storage, "a").await;
    for cut in [Truncate::AfterLastUser {}, Truncate::After { message_id: mid("so") }, Truncate::ErrorRetry {}] {
        let receipt = storage.truncate_messages(&id("a"), cut, None).await.unwrap();
        assert_eq!((receipt.messages_removed, receipt.message_count, receipt.version), (0, 3, before.version));
    }
    assert_eq!(read(storage, "a").await, before);
}

/// Defect 22 is gone: no call stays without a result, and no result without a call.
pub(super) async fn a_retry_drops_calls_without_results_and_results_without_calls(storage: &dyn Storage) {
    create(storage, "a").await;
    let silent = culm::model::NewMessage { content: String::new(), ..calls("silent", &["c4"]) };
    let history_before = vec![
        said(Role::User, "hi"),
        calls("both", &["c1", "c2"]),
        result("done", "c1"),
        result("stray", "c9"),
        calls("spoken", &["c3"]),
        silent,
    ];
    append(storage, "a", history_before).await;
    let receipt = storage.truncate_messages(&id("a"), Truncate::ErrorRetry {}, None).await.unwrap();
    assert_eq!((receipt.messages_removed, receipt.message_count), (2, 4));
    assert_eq!(texts(storage, "a").await, ["hi", "both", "done", "spoken"]);
    let messages = history(storage, "a").await;
    assert_eq!(
        messages[1].tool_calls.as_ref().and_then(RawJson::parse::<Vec<Value>>).map(|calls| calls.len()),
        Some(1)
    );
    assert_eq!(messages[3].tool_calls, None);
}

/// What an import brought may lack an id: a provider would refuse it as it would a call without a result.
pub(super) async fn a_retry_drops_calls_and_results_without_an_id(storage: &dyn Storage) {
    create(storage, "a").await;
    let nameless = NewMessage { tool_call_id: None, ..result("nameless", "") };
    append(storage, "a", vec![calls("kept", &["c1"]), result("done", "c1"), said(Role::Assistant, "said"), nameless])
        .await;
    let mut whole = storage.load_session(&id("a")).await.unwrap().unwrap();
    let call = |id: Value| json!({ "id": id, "type": "function", "function": { "name": "read", "arguments": "{}" } });
    whole.messages[0].tool_calls =
        Some(json!([call(json!("c1")), call(Value::Null), { "function": {} }, "odd"]).into());
    whole.messages[2].tool_calls = Some(json!([call(Value::Null)]).into());
    storage.save_session(whole.changes()).await.unwrap();
    let receipt = storage.truncate_messages(&id("a"), Truncate::ErrorRetry {}, None).await.unwrap();
    assert_eq!(receipt.messages_removed, 1);
    assert_eq!(texts(storage, "a").await, ["kept", "done", "said"]);
    let messages = history(storage, "a").await;
    assert_eq!((&messages[0].tool_calls, &messages[2].tool_calls), (&Some(json!([call(json!("c1"))]).into()), &None));
}

/// Defect 9 is gone: nothing that was derived from the history outlives it.
pub(super) async fn clearing_keeps_the_first_system_message_and_nothing_derived(storage: &dyn Storage) {
    with_derived(storage).await;
    attach(storage, "a", "f", vec![1, 2, 3]).await;
    append(storage, "a", vec![said(Role::System, "first"), said(Role::System, "second")]).await;
    let receipt = storage.clear_session(&id("a"), None).await.unwrap();
    assert_eq!((receipt.messages_removed, receipt.attachments_removed), (4, 1));
    assert_eq!(texts(storage, "a").await, ["first"]);
    assert_forgotten(storage).await;
    let session = read(storage, "a").await;
    assert_eq!(receipt.version, session.version);
    assert_eq!((session.pending_question, session.task_list, session.has_pending_question), (None, None, false));
    assert_eq!((session.has_attachments, session.attachment_bytes, session.message_count), (false, 0, 1));
    assert_eq!(session.metadata.keys().collect::<Vec<_>>(), ["mine"]);
    assert!(storage.attachment(&id("a"), &"f".parse().unwrap()).await.unwrap().is_none());
}

pub(super) async fn clearing_based_on_another_version_is_refused(storage: &dyn Storage) {
    with_derived(storage).await;
    let version = read(storage, "a").await.version;
    let refused = storage.clear_session(&id("a"), Some(version + 1)).await;
    assert_fails!(refused, Error::VersionConflict { what: "version", current } if current == version);
    assert_eq!(texts(storage, "a").await.len(), 3);
}
