//! Cleanups over HTTP: filters, receipts, and one that a stop of the server cut off.

use culm::{
    model::{Cleanup, CleanupMode},
    storage::Storage,
};
use serde_json::{Value, json};

use super::Server;
use crate::support::{number, run, until};

/// This many roots, put there at once.
async fn roots(server: &Server, count: u32) {
    let fill = format!(
        "insert into sessions (id, kind, root_key, created_at, updated_at, last_activity_at)
         with recursive c (n) as (select 1 union all select n + 1 from c where n < {count})
         select 's' || n, 'root', n + coalesce((select seq from sqlite_sequence where name = 'sessions'), 0), n, n, n from c"
    );
    run(&mut server.shell().await, &fill).await;
}

#[tokio::test]
async fn more_ids_than_an_answer_holds_are_paged_by_a_receipt() {
    let server = Server::start().await;
    roots(&server, 1001).await;
    let all = json!({ "mode": "all" });
    let dry = server.post("/sessions/cleanup", json!({ "mode": "all", "dry_run": true })).await.body;
    assert_eq!((&dry["deleted_count"], dry["deleted_session_ids"].as_array().unwrap().len()), (&json!(1001), 1000));
    assert_eq!(dry.get("receipt_id"), None);
    let done = server.post("/sessions/cleanup", all.clone()).await.body;
    assert_eq!((&done["deleted_count"], &done["deleted_session_ids"]), (&json!(1001), &json!([])));
    assert_eq!(done["status"], "completed");
    let path = format!("/receipts/{}", done["receipt_id"].as_str().unwrap());
    let (mut ids, mut next) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}?limit=200{next}")).await.body;
        assert_eq!((&page["status"], &page["deleted_count"]), (&json!("completed"), &json!(1001)));
        ids.extend(page["deleted_session_ids"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let mut wanted: Vec<Value> = (1..=1001).map(|n| json!(format!("s{n}"))).collect();
    wanted.sort_by_key(|id| id.as_str().unwrap().to_owned());
    assert_eq!(ids, wanted);
    // It has ended: there is nothing to cancel, and nothing more to do.
    let cancelled = server.post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.body["receipt"]["status"]), (200, &json!("completed")));
    assert_eq!(server.get("/receipts").await.body, json!({ "receipts": [] }));
    assert_eq!(server.get("/receipts/nobody").await.code(), (404, "receipt_not_found"));
    assert_eq!(server.post("/sessions/cleanup", all).await.body["deleted_count"], 0);
}

#[tokio::test]
async fn a_cleanup_is_known_by_the_id_that_its_client_brings() {
    let server = Server::start().await;
    roots(&server, 2).await;
    let mine = json!({ "mode": "all", "receipt_id": "mine" });
    assert_eq!(server.post("/sessions/cleanup", mine.clone()).await.body["deleted_count"], 2);
    assert_eq!(server.get("/receipts/mine").await.body["deleted_count"], 2);
    server.session("left", &[]).await;
    assert_eq!(server.post("/sessions/cleanup", mine).await.code(), (409, "receipt_exists"));
    assert_eq!(server.get("/sessions").await.body["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cleanup_takes_what_a_list_takes() {
    let server = Server::start().await;
    for (id, title) in [("a", "Nightly build"), ("b", "Nightly test"), ("c", "Design")] {
        assert_eq!(server.post("/sessions", json!({ "id": id, "title": title })).await.status, 201);
    }
    let clean = |body: Value| server.post("/sessions/cleanup", body);
    let dry = clean(json!({ "mode": "all", "q": "nightly", "dry_run": true })).await;
    assert_eq!(dry.body["deleted_session_ids"], json!(["a", "b"]));
    assert_eq!(clean(json!({ "mode": "all", "q": " " })).await.body["param"], "q");
    assert_eq!(clean(json!({ "mode": "all", "ids": ["a/b"] })).await.body["param"], "ids[0]");
    let many: Vec<String> = (0..10_001).map(|n| format!("s{n}")).collect();
    assert_eq!(clean(json!({ "mode": "all", "ids": many })).await.body["param"], "ids");
    // To name archived ones is to mean them, unless they are to be kept.
    assert_eq!(server.post("/sessions/a/archive", json!({})).await.status, 200);
    let archived = json!({ "mode": "all", "archived": "true", "keep_archived": true, "dry_run": true });
    assert_eq!(clean(archived).await.body["deleted_count"], 0);
    assert_eq!(clean(json!({ "mode": "all", "archived": "true" })).await.body["deleted_session_ids"], json!(["a"]));
    assert_eq!(clean(json!({ "mode": "all", "ids": ["b", "nobody"] })).await.body["deleted_session_ids"], json!(["b"]));
    assert_eq!(server.get("/sessions").await.body["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cleanup_that_was_cut_off_is_resumed_at_the_next_start() {
    let server = Server::start().await;
    roots(&server, 600).await;
    let receipt = server.repository.begin_cleanup(Cleanup::of(CleanupMode::All)).await.unwrap();
    let step = server.repository.continue_cleanup(&receipt.id).await.unwrap().unwrap();
    assert_eq!(step.deleted, 500);
    let running = server.get("/receipts").await.body;
    assert_eq!(running["receipts"][0]["deleted_count"], 500);
    let server = server.restart().await;
    until(&mut server.shell().await, "select count(*) from receipts where status = 'completed'", 1).await;
    let done = server.get(&format!("/receipts/{}", receipt.id)).await.body;
    assert_eq!((&done["status"], &done["deleted_count"]), (&json!("completed"), &json!(600)));
    assert_eq!(number(&mut server.shell().await, "select count(*) from live_sessions").await, 0);
}
