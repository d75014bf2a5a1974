//! The cache never lies: what it shows after a write, a delete, another process's edit, and within which bytes.

use std::time::Duration;

use culm::model::{
    CleanupMode, DeleteOptions, MessageFilter, NewSession, Role, Session, SessionFilter, Truncate, Window,
};

use super::*;

/// Every kind of write that shows in a session or in its parent.
const WRITES: [&str; 14] = [
    "rename",
    "append",
    "edit",
    "cut",
    "truncate",
    "clear",
    "attach",
    "detach",
    "save",
    "create-below",
    "save-below",
    "delete-below",
    "delete",
    "cleanup",
];

/// A parent, a child with two messages and an attachment, and a grandchild.
type Family = [String; 3];

async fn family(storage: &dyn Storage, how: &str) -> Family {
    let names = ["parent", "child", "grandchild"].map(|who| format!("{how}-{who}"));
    create(storage, &names[0]).await;
    child(storage, &names[0], &names[1]).await;
    child(storage, &names[1], &names[2]).await;
    append(storage, &names[1], vec![said(Role::User, "one"), said(Role::Assistant, "two")]).await;
    attach(storage, &names[1], "f0", vec![1]).await;
    names
}

/// Changes the child.
async fn write(storage: &dyn Storage, how: &str, [_, child, grandchild]: &Family) {
    let it = id(child);
    match how {
        "rename" => drop(storage.update_session(&it, title("new"), None).await.unwrap()),
        "append" => drop(say(storage, child, &["three"]).await),
        "edit" => drop(storage.edit_message(&it, &mid("two"), "new".into(), None).await.unwrap()),
        "cut" => drop(storage.delete_message(&it, &mid("one"), None).await.unwrap()),
        "truncate" => drop(storage.truncate_messages(&it, Truncate::AfterLastUser {}, None).await.unwrap()),
        "clear" => drop(storage.clear_session(&it, None).await.unwrap()),
        "attach" => assert!(attach(storage, child, "f1", vec![1]).await),
        "detach" => storage.delete_attachment(&it, &"f0".parse().unwrap()).await.unwrap(),
        "save" => {
            let mut whole = storage.load_session(&it).await.unwrap().unwrap();
            whole.session.model = Some("new".into());
            whole.messages.remove(0);
            storage.save_session(whole.changes()).await.unwrap();
        }
        "create-below" => drop(crate::support::child(storage, child, "created").await),
        "save-below" => {
            let new = Session { parent_session_id: Some(it), ..Session::new(id("saved")) };
            storage.save_session(WholeSession::new(new, vec![]).changes()).await.unwrap();
        }
        "delete-below" => drop(storage.delete_session(&id(grandchild), DeleteOptions::default()).await.unwrap()),
        "delete" => drop(storage.delete_session(&it, DeleteOptions::default()).await.unwrap()),
        "cleanup" => drop(storage.cleanup_sessions(cleanup(CleanupMode::Children)).await.unwrap()),
        _ => panic!("{how} is not known"),
    }
}

/// What the cache shows of a family, all asked for at once: the parent, the child, and the list that they are in.
async fn all_shown(repository: &SessionRepository, [parent, child, _]: &Family) -> ([[Value; 2]; 2], Value) {
    let (parent, child, list) =
        tokio::join!(shown(repository, parent), shown(repository, child), shown_list(repository));
    ([parent, child], list)
}

async fn all_stored(database: &Database, [parent, child, _]: &Family) -> ([[Value; 2]; 2], Value) {
    ([stored(database, parent).await, stored(database, child).await], stored_list(database).await)
}

#[tokio::test]
async fn every_write_is_seen_as_soon_as_it_is_acknowledged() {
    let Opened { database, repository, .. } = open().await;
    for how in WRITES {
        let family = family(&repository, how).await;
        let before = all_shown(&repository, &family).await;
        write(&repository, how, &family).await;
        let after = all_stored(&database, &family).await;
        assert!(after.0 != before.0 && after.1 != before.1, "{how} changes nothing");
        assert_eq!(all_shown(&repository, &family).await, after, "{how}");
    }
}

#[tokio::test]
async fn a_read_that_began_before_a_write_never_outlives_it() {
    let Opened { database, steered, repository } = open().await;
    for how in WRITES {
        let family = family(&repository, how).await;
        let mut reads =
            ["session", "messages", "session", "messages", "sessions"].map(|read| steered.stop(read, Place::After));
        let writing = async {
            for read in &mut reads {
                read.reached().await;
            }
            write(&repository, how, &family).await;
            reads.into_iter().for_each(Stopped::go);
        };
        tokio::join!(all_shown(&repository, &family), writing);
        assert_eq!(all_shown(&repository, &family).await, all_stored(&database, &family).await, "{how}");
    }
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_committed() {
    let Opened { steered, repository, .. } = open().await;
    create(&repository, "a").await;
    let mut write = steered.stop("update_session", Place::Before);
    let reading = async {
        write.reached().await;
        assert_eq!(shown_title(&repository, "a").await, "a", "from storage");
        assert_eq!(shown_title(&repository, "a").await, "a", "from the cache");
        write.go();
    };
    let id = id("a");
    let (renamed, ()) = tokio::join!(repository.update_session(&id, title("new"), None), reading);
    assert_eq!(renamed.unwrap().title, "new");
    assert_eq!(shown_title(&repository, "a").await, "new");
}

#[tokio::test]
async fn an_edit_in_a_shell_is_seen_within_a_second_with_a_new_version() {
    let Opened { database, repository, .. } = open().await;
    family(&repository, "a").await;
    let mut shell = database.shell().await;
    for edit in [
        "update sessions set title = 'theirs' where id = 'a-child'",
        "update messages set content = 'theirs' where id = 'two'; delete from messages where id = 'one'",
        "delete from sessions where id = 'a-child'",
    ] {
        let before = shown(&repository, "a-child").await;
        let listed = shown_list(&repository).await;
        run(&mut shell, edit).await;
        let after = stored(&database, "a-child").await;
        let stored_list = stored_list(&database).await;
        // Two statements are two commits, and may be noticed one after the other.
        let is_seen =
            async || shown(&repository, "a-child").await == after && shown_list(&repository).await == stored_list;
        soon(Duration::from_secs(1), is_seen).await;
        assert_ne!(stored_list, listed, "{edit}");
        let version = |shown: &[Value; 2]| shown[0]["session"]["version"].as_i64();
        assert_ne!(version(&after), version(&before), "{edit}");
    }
}

#[tokio::test]
async fn a_read_that_began_before_an_edit_in_a_shell_never_outlives_it() {
    let Opened { database, steered, repository } = open().await;
    create(&repository, "a").await;
    create(&repository, "told").await;
    shown_title(&repository, "told").await;
    let mut read = steered.stop("session", Place::After);
    let editing = async {
        read.reached().await;
        run(&mut database.shell().await, "update sessions set title = 'theirs'").await;
        soon(Duration::from_secs(1), async || shown_title(&repository, "told").await == "theirs").await;
        read.go();
    };
    tokio::join!(shown_title(&repository, "a"), editing);
    assert_eq!(shown_title(&repository, "a").await, "theirs");
}

#[tokio::test]
async fn what_was_read_is_not_asked_for_again() {
    let Opened { steered, repository, .. } = open().await;
    family(&repository, "a").await;
    let first = shown(&repository, "a-child").await;
    assert_eq!(shown(&repository, "a-child").await, first);
    assert_eq!((steered.calls("session"), steered.calls("messages")), (1, 1));
    let list = shown_list(&repository).await;
    assert_eq!(shown_list(&repository).await, list);
    assert_eq!(steered.calls("sessions"), 1);
}

#[tokio::test]
async fn lists_that_differ_in_what_was_asked_for_are_kept_apart() {
    let Opened { steered, repository, .. } = open().await;
    family(&repository, "a").await;
    let pages = async || {
        let (roots, all) = (SessionFilter::default(), SessionFilter { root: Some(id("a-parent")), ..all_kinds() });
        let first = repository.sessions(&all, None, 1).await.unwrap();
        let mut pages = Vec::new();
        for (filter, after, limit) in [(&roots, None, 1), (&all, None, 1), (&all, None, 2), (&all, first.next, 1)] {
            let json = repository.sessions_json(filter, after, limit, |page| page.items).await.unwrap();
            let page: Vec<Value> = serde_json::from_slice(&json).unwrap();
            pages.push(page.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
        }
        pages
    };
    let asked = pages().await;
    let wanted: [&[&str]; 4] = [&["a-parent"], &["a-child"], &["a-child", "a-grandchild"], &["a-grandchild"]];
    assert_eq!(asked, wanted);
    let calls = steered.calls("sessions");
    assert_eq!(pages().await, asked);
    assert_eq!(steered.calls("sessions"), calls + 1, "only what goes by the cache");
}

/// A session that takes about four thousand bytes.
async fn create_large(storage: &dyn Storage, text: &str) {
    let metadata = [("large".to_owned(), "x".repeat(4000))].into();
    storage.create_session(NewSession { metadata, ..new(text) }, None).await.unwrap();
}

async fn is_kept(opened: &Opened, session: &str) -> bool {
    let asked = opened.steered.calls("session");
    opened.repository.session_json(&id(session)).await.unwrap();
    opened.steered.calls("session") == asked
}

#[tokio::test]
async fn the_cache_keeps_what_was_read_last_within_its_bytes() {
    let opened = open_with(64_000).await;
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    for name in &names {
        create_large(&opened.repository, name).await;
        is_kept(&opened, name).await;
    }
    let mut kept = 0;
    for name in names.iter().rev() {
        kept += usize::from(is_kept(&opened, name).await);
    }
    assert!((4..=16).contains(&kept), "{kept} sessions in 64 000 bytes");
}

#[tokio::test]
async fn what_is_larger_than_the_cache_is_answered_and_not_kept() {
    let opened = open_with(2000).await;
    create_large(&opened.repository, "a").await;
    assert_eq!(shown(&opened.repository, "a").await, stored(&opened.database, "a").await);
    assert!(!is_kept(&opened, "a").await);
}

#[tokio::test]
async fn a_page_from_the_cache_is_the_page_from_storage() {
    let Opened { database, steered, repository } = open().await;
    for session in ["empty", "short", "long"] {
        create(&repository, session).await;
    }
    say(&repository, "short", &["one", "two", "three"]).await;
    append(&repository, "long", (0..250).map(|n| said(Role::User, &n.to_string())).collect()).await;
    repository.delete_message(&id("long"), &mid("249"), None).await.unwrap();
    let windows = [Window::Last].into_iter().chain([0, 49, 50, 51, 150, 249, 300].map(Window::After));
    for window in windows {
        for limit in [1, 200, 201] {
            for session in ["empty", "short", "long"] {
                same_page(&database, &repository, session, crate::support::window(window, limit)).await;
            }
        }
    }
    assert!(steered.calls("messages") < 30, "most were to come from the cache");
}

async fn same_page(database: &Database, repository: &SessionRepository, session: &str, filter: MessageFilter) {
    let mut page = database.storage().messages(&id(session), filter).await.unwrap();
    for descending in [false, true] {
        let json = repository.messages_json(&id(session), filter, descending).await.unwrap();
        let shown: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(shown, page_json(page.clone()), "{session} {filter:?}");
        page.messages.reverse();
    }
}
