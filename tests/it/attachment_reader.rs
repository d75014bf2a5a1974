//! What executors read: an attachment whole, by its session and id, or by the reference in a message.

use std::io::ErrorKind;

use crate::support::*;

#[tokio::test]
async fn references_of_both_kinds_give_bytes_and_type() {
    let cached = repository().await;
    create(cached.storage(), "a").await;
    let bytes = vec![7; (600 << 10) + 1];
    attach(cached.storage(), "a", "f", bytes.clone()).await;
    for url in ["attachment://a/f", "bamboo-attachment://a/f"] {
        let (read, mime_type) = cached.reader().resolve(url, bytes.len()).await.unwrap().unwrap();
        assert!(read == bytes && mime_type == "image/png");
    }
    assert!(cached.reader().resolve("attachment://a/g", 1).await.unwrap().is_none());
    assert!(cached.reader().resolve("attachment://b/f", 1).await.unwrap().is_none());
    let too_large = cached.reader().resolve("attachment://a/f", bytes.len() - 1).await.unwrap_err();
    assert_eq!(too_large.kind(), ErrorKind::FileTooLarge);
    let no_reference = cached.reader().resolve("https://a/f", 1).await.unwrap_err();
    assert_eq!(no_reference.kind(), ErrorKind::InvalidInput);
}
