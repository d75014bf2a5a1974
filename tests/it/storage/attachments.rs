//! Attachments. That their bytes are purged is seen in `sqlite_only`.

use bytes::Bytes;
use culm::{
    model::{ImageUrl, MessagePart, NewMessage, Role, Truncate},
    storage::{Error, Source, Storage},
};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::support::*;

fn counted(size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

pub(super) async fn an_attachment_comes_back_byte_for_byte(storage: &dyn Storage) {
    create(storage, "a").await;
    for size in [0, 1, 256 << 10, (512 << 10) + 1] {
        let name = format!("f{size}");
        assert!(attach(storage, "a", &name, counted(size)).await);
        let (attachment, read) = download(storage, "a", &name, 0).await.unwrap();
        assert_eq!((usize::try_from(attachment.size).unwrap(), attachment.mime_type.as_str()), (size, "image/png"));
        assert_eq!((attachment.sha256.len(), attachment.session_id), (64, id("a")));
        assert_eq!(attachment.url, format!("attachment://a/{name}"));
        assert!(read == counted(size));
    }
}

pub(super) async fn an_attachment_is_read_from_any_place(storage: &dyn Storage) {
    create(storage, "a").await;
    let bytes = counted((2 << 20) + 100);
    attach(storage, "a", "f", bytes.clone()).await;
    for offset in [1, (256 << 10) - 1, 256 << 10, (1 << 20) - 1, 1 << 20, bytes.len() - 1, bytes.len()] {
        let (_, read) = download(storage, "a", "f", i64::try_from(offset).unwrap()).await.unwrap();
        assert!(read == bytes[offset..], "from {offset}");
    }
}

pub(super) async fn a_type_is_taken_as_declared_and_told_from_the_bytes(storage: &dyn Storage) {
    create(storage, "a").await;
    let (png, text) = (b"\x89PNG\r\n\x1a\n".as_slice(), b"hello".as_slice());
    let cases = [
        (Some("text/plain"), png, "text/plain", Some("image/png")),
        (None, png, "image/png", Some("image/png")),
        (None, text, "application/octet-stream", None),
        (Some("image/png"), text, "image/png", None),
    ];
    for (place, (declared, bytes, mime_type, detected)) in cases.into_iter().enumerate() {
        let new = culm::model::NewAttachment {
            mime_type: declared.map(Into::into),
            filename: Some("naïve.png".into()),
            ..new_attachment(&place.to_string())
        };
        let stored = storage.add_attachment(&id("a"), new, source(bytes)).await.unwrap().unwrap();
        assert_eq!((stored.mime_type.as_str(), stored.detected_mime_type.as_deref()), (mime_type, detected));
        assert_eq!(stored.filename.as_deref(), Some("naïve.png"));
        assert_eq!(storage.attachment(&id("a"), &stored.id).await.unwrap(), Some(stored));
    }
}

pub(super) async fn an_attachment_is_stored_once(storage: &dyn Storage) {
    create(storage, "a").await;
    assert!(attach(storage, "a", "f", vec![1]).await);
    assert!(!attach(storage, "a", "f", vec![2, 2]).await);
    let (_, bytes) = download(storage, "a", "f", 0).await.unwrap();
    assert_eq!((bytes, read(storage, "a").await.attachment_bytes), (vec![1], 1));
}

pub(super) async fn attachments_are_apart_by_session_and_by_whole_id(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    attach(storage, "a", "abc.def.png", vec![1]).await;
    for (session, name) in [("a", "abc"), ("a", "abc.def"), ("b", "abc.def.png"), ("nobody", "abc.def.png")] {
        assert!(storage.attachment(&id(session), &name.parse().unwrap()).await.unwrap().is_none());
        assert!(storage.attachment_bytes(&id(session), &name.parse().unwrap(), 0).await.unwrap().is_empty());
    }
}

/// Defect 12 is gone: whether there are attachments is counted in the transaction that stores them.
pub(super) async fn attachments_show_in_the_session_and_go_with_a_clear(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    attach(storage, "a", "f", vec![1, 2, 3]).await;
    show(storage, "a", "m", &["attachment://a/f"]).await;
    let after = read(storage, "a").await;
    assert_eq!((after.has_attachments, after.attachment_bytes), (true, 3));
    assert!(after.version > before.version);
    assert_eq!(storage.clear_session(&id("a"), None).await.unwrap().attachments_removed, 1);
    let cleared = read(storage, "a").await;
    assert_eq!((cleared.has_attachments, cleared.attachment_bytes), (false, 0));
    assert!(attach(storage, "a", "f", vec![4]).await);
    assert_eq!(download(storage, "a", "f", 0).await.unwrap().1, [4]);
}

pub(super) async fn attachments_of_no_session_are_not_found(storage: &dyn Storage) {
    let target = id("a");
    let add = |name| storage.add_attachment(&target, new_attachment(name), source(b"1"));
    assert_fails!(add("f").await, Error::SessionNotFound(_));
    assert_fails!(storage.attachments(&id("a"), None, 10).await, Error::SessionNotFound(_));
    create(storage, "a").await;
    storage.delete_session(&id("a"), Default::default()).await.unwrap();
    assert_fails!(add("f").await, Error::SessionDeleted(_));
    assert_fails!(storage.delete_attachment(&id("a"), &"f".parse().unwrap()).await, Error::SessionDeleted(_));
}

pub(super) async fn attachments_are_listed_in_order_page_by_page(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    for name in ["z", "m", "a"] {
        attach(storage, "b", name, vec![0]).await;
        attach(storage, "a", name, vec![1]).await;
    }
    let first = storage.attachments(&id("a"), None, 2).await.unwrap();
    let rest = storage.attachments(&id("a"), first.next, 2).await.unwrap();
    let names: Vec<_> = first.items.iter().chain(&rest.items).map(|a| (a.session_id.as_str(), a.id.as_str())).collect();
    assert_eq!(names, [("a", "z"), ("a", "m"), ("a", "a")]);
    assert!(first.next.is_some() && rest.next.is_none());
}

pub(super) async fn a_deleted_attachment_is_out_of_reach(storage: &dyn Storage) {
    create(storage, "a").await;
    attach(storage, "a", "f", vec![1, 2]).await;
    let (before, name) = (read(storage, "a").await, "f".parse().unwrap());
    storage.delete_attachment(&id("a"), &name).await.unwrap();
    let after = read(storage, "a").await;
    assert!(after.version > before.version && !after.has_attachments && after.attachment_bytes == 0);
    assert!(download(storage, "a", "f", 0).await.is_none());
    assert!(storage.attachment_bytes(&id("a"), &name, 0).await.unwrap().is_empty());
    assert_fails!(storage.delete_attachment(&id("a"), &name).await, Error::AttachmentNotFound(_));
}

pub(super) async fn an_upload_that_breaks_off_leaves_nothing(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    let pieces = [Ok(Bytes::from(counted(700 << 10))), Err("the client went away".into())];
    let broken: Source = Box::pin(stream::iter(pieces));
    assert_fails!(storage.add_attachment(&id("a"), new_attachment("f"), broken).await, Error::Source(_));
    assert!(storage.attachments(&id("a"), None, 10).await.unwrap().items.is_empty());
    assert_eq!(read(storage, "a").await, before);
    assert!(attach(storage, "a", "f", vec![1]).await, "the id is free");
}

pub(super) async fn an_upload_is_not_seen_before_its_end_nor_after_a_delete(storage: &dyn Storage) {
    create(storage, "a").await;
    let (send, pieces) = mpsc::channel(1);
    let pieces = stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
    let (target, name) = (id("a"), "f".parse().unwrap());
    let upload = storage.add_attachment(&target, new_attachment("f"), pieces.map(Ok).boxed());
    let meanwhile = async {
        for _ in 0..4 {
            send.send(Bytes::from(counted(300 << 10))).await.unwrap();
        }
        assert!(storage.attachment(&id("a"), &name).await.unwrap().is_none());
        assert!(storage.attachment_bytes(&id("a"), &name, 0).await.unwrap().is_empty());
        storage.delete_session(&id("a"), Default::default()).await.unwrap();
        drop(send);
    };
    let (uploaded, ()) = tokio::join!(upload, meanwhile);
    assert_fails!(std::future::ready(uploaded).await, Error::SessionDeleted(_));
}

/// Appends a message that shows images.
async fn show(storage: &dyn Storage, session: &str, name: &str, urls: &[&str]) {
    let part = |url: &&str| MessagePart::ImageUrl { image_url: ImageUrl { url: (*url).into(), detail: None } };
    let message = NewMessage {
        id: Some(name.parse().unwrap()),
        parts: Some(urls.iter().map(part).collect()),
        ..NewMessage::text(Role::User, name)
    };
    append(storage, session, vec![message]).await;
}

async fn names(storage: &dyn Storage, session: &str) -> Vec<String> {
    let page = storage.attachments(&id(session), None, 100).await.unwrap();
    page.items.into_iter().map(|attachment| attachment.id.to_string()).collect()
}

/// Defect 16 is gone: an attachment goes with the last message that shows it, in whatever way that goes.
pub(super) async fn an_attachment_goes_with_the_last_message_that_shows_it(storage: &dyn Storage) {
    create(storage, "a").await;
    for name in ["once", "twice", "cut", "unshown", "saved"] {
        attach(storage, "a", name, vec![1]).await;
    }
    show(storage, "a", "one", &["attachment://a/once", "bamboo-attachment://a/twice"]).await;
    show(storage, "a", "two", &["attachment://a/twice", "attachment://a/saved"]).await;
    storage.delete_message(&id("a"), &"one".parse().unwrap(), None).await.unwrap();
    assert_eq!(names(storage, "a").await, ["twice", "cut", "unshown", "saved"]);

    let mut whole = storage.load_session(&id("a")).await.unwrap().unwrap();
    whole.messages.clear();
    storage.save_session(whole.changes()).await.unwrap();
    assert_eq!(names(storage, "a").await, ["cut", "unshown"]);

    say(storage, "a", &["a question"]).await;
    show(storage, "a", "three", &["attachment://a/cut"]).await;
    let after = Truncate::After { message_id: history(storage, "a").await[0].id.clone() };
    storage.truncate_messages(&id("a"), after, None).await.unwrap();
    assert_eq!(names(storage, "a").await, ["unshown"]);
}

/// A message shows what its URL names, and nothing else: neither another session's, nor what begins alike.
pub(super) async fn a_message_keeps_only_what_it_names(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    attach(storage, "a", "f", vec![1]).await;
    attach(storage, "b", "f", vec![1]).await;
    show(storage, "a", "one", &["attachment://a/f"]).await;
    show(storage, "a", "two", &["attachment://b/f", "https://a/f", "attachment://a/f.png", "attachment://aa/f"]).await;
    storage.delete_message(&id("a"), &"two".parse().unwrap(), None).await.unwrap();
    assert_eq!((names(storage, "a").await.len(), names(storage, "b").await.len()), (1, 1));
    storage.delete_message(&id("a"), &"one".parse().unwrap(), None).await.unwrap();
    assert_eq!((names(storage, "a").await.len(), names(storage, "b").await.len()), (0, 1));
}
