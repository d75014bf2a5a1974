//! Cost follows the change, not the history: what an append writes is counted in frames of the write-ahead log.

use std::time::{Duration, Instant};

use culm::model::{NewMessage, Role};

use crate::support::*;

/// FTS5 merges its segments by sixteens: after this many, both databases have paid for two levels of that.
const APPENDS: usize = 256;
/// In each window the log is emptied first; a window stays below the thousand frames from which on it is copied.
const WINDOW: usize = 8;
/// Of a message of about a KiB, out of as many different ones as a language's common ones.
const WORDS: u64 = 150;
const VOCABULARY: u64 = 5_000;

/// Words with frequencies as in prose: few of them are most of the text.
fn text(n: u64) -> String {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..WORDS).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bound = (state >> 33) % VOCABULARY + 1;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", ((state >> 33) % bound) * 7919 % 99_991)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// This many sessions, and in one of them, `big`, this many messages, as an import leaves them.
async fn filled(sessions: i64, messages: u64) -> Database {
    let database = sqlite().await;
    create(database.storage(), "big").await;
    let texts: Vec<String> = (1..=messages).map(text).collect();
    let mut shell = database.shell().await;
    let fill = format!(
        "begin immediate;
         insert into sessions (session_key, id, kind, root_key, title, created_at, updated_at, last_activity_at)
         with recursive c (n) as (select 2 union all select n + 1 from c where n < {sessions})
         select n, 's' || n, 'root', n, 'Title ' || n, n, n, n from c;
         insert into messages (session_key, seq, id, role, content, created_at, updated_at)
         select 1, key + 1, printf('01900000-0000-7000-8000-%012x', key), 'user', value, key + 1, key + 1
         from json_each('{}');
         commit",
        serde_json::to_string(&texts).unwrap()
    );
    run(&mut shell, &fill).await;
    database.storage.merge_index().await.unwrap();
    database
}

/// Frames that the appends wrote, each a page of the database, and the median of their times.
async fn cost(database: &Database) -> (i64, Duration) {
    let mut shell = database.shell().await;
    let (mut frames, mut times) = (0, Vec::new());
    for window in 0..APPENDS / WINDOW {
        empty_log(&mut shell).await;
        for n in 0..WINDOW {
            let message = NewMessage::text(Role::User, text(1_000_000 + (window * WINDOW + n) as u64));
            let start = Instant::now();
            append(database.storage(), "big", vec![message]).await;
            times.push(start.elapsed());
        }
        frames += log_frames(&mut shell).await;
    }
    times.sort();
    (frames, times[APPENDS / 2])
}

#[tokio::test]
async fn an_append_writes_the_same_whatever_the_history() {
    let (small, small_time) = cost(&filled(10, 10).await).await;
    let (large, large_time) = cost(&filled(10_000, 10_000).await).await;
    let told = format!(
        "{APPENDS} appends write {small} pages among 10 and {large} among 10 000, with medians of {small_time:?} and {large_time:?}"
    );
    println!("{told}");
    assert!(large * 10 <= small * 12, "{told}");
}
