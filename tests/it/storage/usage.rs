//! The token-usage log.

use culm::{
    model::RawObject,
    storage::{Error, Storage},
};
use serde_json::json;

use crate::support::*;

fn record(n: i64) -> RawObject {
    json!({ "total": n }).as_object().unwrap().into()
}

pub(super) async fn usage_records_come_back_in_order_page_by_page(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "b").await;
    for n in 0..5 {
        storage.append_usage(&id("a"), record(n)).await.unwrap();
        storage.append_usage(&id("b"), record(100)).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = storage.usage(&id("a"), after, 2).await.unwrap();
        seen.extend(page.items.into_iter().map(|item| item.record));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..5).map(record).collect::<Vec<_>>());
}

pub(super) async fn usage_of_no_session_is_not_found(storage: &dyn Storage) {
    assert_fails!(storage.append_usage(&id("a"), record(1)).await, Error::SessionNotFound(_));
    assert_fails!(storage.usage(&id("a"), None, 2).await, Error::SessionNotFound(_));
}
