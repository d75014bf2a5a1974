//! Attachments. That their bytes are purged is seen in `sqlite_only`.

use culm::{
    model::{NewAttachment, Timestamp},
    storage::{Error, Storage},
};

use crate::support::*;

pub(super) async fn an_attachment_comes_back_byte_for_byte(storage: &dyn Storage) {
    create(storage, "a").await;
    for size in [0, 1, 256 << 10, (512 << 10) + 1] {
        let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let name = format!("f{size}");
        assert!(attach(storage, "a", &name, bytes.clone()).await);
        let (attachment, read) = storage.attachment(&id("a"), &name.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((attachment.size, attachment.mime_type.as_str()), (size, "image/png"));
        assert_eq!((attachment.sha256.len(), attachment.session_id), (64, id("a")));
        assert!(read == bytes);
    }
}

pub(super) async fn an_attachment_is_stored_once(storage: &dyn Storage) {
    create(storage, "a").await;
    assert!(attach(storage, "a", "f", vec![1]).await);
    assert!(!attach(storage, "a", "f", vec![2, 2]).await);
    let (_, bytes) = storage.attachment(&id("a"), &"f".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((bytes, read(storage, "a").await.attachment_bytes), (vec![1], 1));
}

pub(super) async fn attachments_are_apart_by_session_and_by_whole_id(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    attach(storage, "a", "abc.def.png", vec![1]).await;
    for (session, name) in [("a", "abc"), ("a", "abc.def"), ("b", "abc.def.png"), ("nobody", "abc.def.png")] {
        assert!(storage.attachment(&id(session), &name.parse().unwrap()).await.unwrap().is_none());
    }
}

/// Defect 12 is gone: whether there are attachments is counted in the transaction that stores them.
pub(super) async fn attachments_show_in_the_session_and_go_with_a_clear(storage: &dyn Storage) {
    let before = create(storage, "a").await;
    attach(storage, "a", "f", vec![1, 2, 3]).await;
    let after = read(storage, "a").await;
    assert_eq!((after.has_attachments, after.attachment_bytes), (true, 3));
    assert!(after.version > before.version);
    assert_eq!(storage.clear_session(&id("a"), None).await.unwrap().attachments_removed, 1);
    let cleared = read(storage, "a").await;
    assert_eq!((cleared.has_attachments, cleared.attachment_bytes), (false, 0));
    assert!(attach(storage, "a", "f", vec![4]).await);
    let (_, bytes) = storage.attachment(&id("a"), &"f".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(bytes, [4]);
}

pub(super) async fn attachments_of_no_session_are_not_found(storage: &dyn Storage) {
    let new = NewAttachment {
        id: "f".parse().unwrap(),
        mime_type: "text/plain".into(),
        filename: None,
        created_at: Timestamp::now(),
    };
    assert_fails!(storage.add_attachment(&id("a"), new, vec![]).await, Error::SessionNotFound(_));
}
