//! What a shell writes is found: at once as far as SQL can index it, and wholly when the server has looked at it.

use culm::model::{SearchQuery, SessionFilter};

use crate::{schema::small_tree, support::*};

/// How many hits there are in the session.
async fn found(database: &Database, q: &str) -> usize {
    let query = SearchQuery { q: q.into(), session: Some(id("a")), ..SearchQuery::default() };
    database.storage().search(&query, None, 10).await.unwrap().hits.len()
}

#[tokio::test]
async fn what_is_written_in_a_shell_is_found_by_any_part() {
    let database = sqlite().await;
    small_tree(&database).await;
    let mut shell = database.shell().await;
    let found = async |q: &str| found(&database, q).await;
    for (edit, gone, there) in [
        ("update messages set content = '新的索引 table' where id = 'two 数据' and session_key = 2", "数据", "的索"),
        ("update messages set content = 'plain table' where id = 'two 数据' and session_key = 2", "索", "plain"),
        ("update messages set content = '修复' where id = 'one' and session_key = 2", "one", "复"),
        ("update messages set role = 'tool', reasoning = 'why' where id = 'one' and session_key = 2", "one", "复"),
        ("update sessions set title = '新的题目' where id = 'a'", "的索", "的题"),
        ("update sessions set conversation_summary = '{\"content\": \"摘要在此\"}' where id = 'a'", "目录", "要在"),
        (
            "insert into messages (session_key, seq, id, role, content, created_at, updated_at)
          values (2, 9, 'nine', 'user', '데이터베이스', 1, 1)",
            "베터",
            "터베",
        ),
        ("delete from messages where id = 'nine'", "터베", "复"),
    ] {
        run(&mut shell, edit).await;
        assert_sound(&mut shell).await;
        assert_eq!((found(gone).await, found(there).await), (0, 1), "{edit}");
    }
}

#[tokio::test]
async fn a_title_that_is_written_in_a_shell_is_found_by_any_part() {
    let database = sqlite().await;
    small_tree(&database).await;
    let mut shell = database.shell().await;
    let listed = async |q: &str| {
        let filter = SessionFilter { q: Some(q.into()), ..everything() };
        database.storage().sessions(&filter, None, 10).await.unwrap().items.len()
    };
    for (title, gone, there) in [("snake_case", "object", "_"), ("a plain one", "_", "lain"), ("x", "lain", "X")] {
        run(&mut shell, &format!("update sessions set title = '{title}' where id = 'a'")).await;
        assert_sound(&mut shell).await;
        assert_eq!((listed(gone).await, listed(there).await), (0, 1), "{title}");
    }
}

#[tokio::test]
async fn what_is_written_in_a_shell_is_indexed_again_within_a_second() {
    let database = sqlite().await;
    small_tree(&database).await;
    let mut shell = database.shell().await;
    let found = async |q: &str| found(&database, q).await;
    for (edit, there) in [
        (
            "update messages set content = 'fix 🔘 in getUserName()' where id = 'one' and session_key = 2",
            ["🔘", "UserName"],
        ),
        (
            "update messages set content = 'Cafe' || char(769) || ' и' || char(774) || 'ога' where id = 'one' and session_key = 2",
            ["café", "йога"],
        ),
        ("update sessions set title = '🔴 हिन्दी' where id = 'a'", ["🔴", "हिन्दी"]),
        (
            "insert into messages (session_key, seq, id, role, content, created_at, updated_at)
             values (2, 9, 'nine', 'user', 'C++ -> x', 1, 1)",
            ["C++", "->"],
        ),
    ] {
        run(&mut shell, edit).await;
        let version = read(database.storage(), "a").await.version;
        let marked = "select (select count(*) from stale_message_terms) + (select count(*) from stale_session_terms)";
        until(&mut shell, marked, 0).await;
        assert_sound(&mut shell).await;
        for q in there {
            assert_eq!(found(q).await, 1, "{q} after {edit}");
        }
        assert_eq!(read(database.storage(), "a").await.version, version, "a form is nothing that a session shows");
    }
    // What was indexed is what a deletion hands over, whether the form was made or not.
    for delete in [
        "begin; update messages set content = 'naïve → 数据' where id = 'one' and session_key = 2;
         delete from messages where id = 'one' and session_key = 2; commit",
        "begin; update messages set content = '→ 数据' where id = 'nine'; update messages set content = 'C++' where id = 'nine'; commit",
        "delete from messages where id = 'nine'",
        "begin; update sessions set title = '→ 数据' where id = 'a'; delete from sessions where id = 'a'; commit",
    ] {
        run(&mut shell, delete).await;
        assert_sound(&mut shell).await;
    }
}
