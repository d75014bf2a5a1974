//! What the cache shows when storage fails, and when a caller is gone before its answer comes.

use culm::model::{DeleteOptions, WholeSession};

use super::*;

/// Bounds what waits for a condition that comes unless something is broken.
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_failing_storage_is_an_error_and_never_an_absence() {
    let Opened { steered, repository, .. } = open().await;
    create(&repository, "a").await;
    let held = repository.load(&id("a")).await.unwrap().unwrap();
    for read in ["session", "messages", "load_session", "load_session", "load_session"] {
        steered.fail(read, Place::Before);
    }
    assert_fails!(repository.session_json(&id("a")).await, Error::Unavailable(_));
    assert_fails!(repository.messages_json(&id("a"), window(Window::Last, 1), false).await, Error::Unavailable(_));
    assert_fails!(repository.load(&id("a")).await, Error::Unavailable(_));
    assert_fails!(repository.load_merged(&held).await, Error::Unavailable(_));
    assert_fails!(repository.load_or_create(&id("a"), "m").await, Error::Unavailable(_));
    assert_eq!(steered.calls("create_session"), 1, "a session was made because another one could not be read");
}

#[tokio::test]
async fn a_read_that_failed_leaves_nothing_behind() {
    let Opened { database, steered, repository } = open().await;
    create(&repository, "a").await;
    steered.fail("session", Place::After);
    assert_fails!(repository.session_json(&id("a")).await, Error::Unavailable(_));
    assert_eq!(shown(&repository, "a").await, stored(&database, "a").await);
    repository.update_session(&id("a"), title("new"), None).await.unwrap();
    assert_eq!(shown(&repository, "a").await, stored(&database, "a").await);
}

#[tokio::test]
async fn a_write_that_failed_is_shown_as_it_is_stored() {
    for (place, wanted) in [(Place::Before, "a"), (Place::After, "new")] {
        let Opened { database, steered, repository } = open().await;
        create(&repository, "a").await;
        assert_eq!(shown_title(&repository, "a").await, "a");
        steered.fail("update_session", place);
        assert_fails!(repository.update_session(&id("a"), title("new"), None).await, Error::Unavailable(_));
        assert_eq!(shown_title(&repository, "a").await, wanted, "{place:?}");
        assert_eq!(shown(&repository, "a").await, stored(&database, "a").await);
    }
}

#[tokio::test]
async fn a_save_that_failed_is_nowhere_and_can_be_tried_again() {
    let Opened { database, steered, repository } = open().await;
    create(&repository, "a").await;
    let before = shown(&repository, "a").await;
    let mut whole = repository.load(&id("a")).await.unwrap().unwrap();
    whole.session.title = "mine".into();
    whole.messages.push(super::merge::message("mine"));
    let held = whole.clone();
    steered.fail("save_sessions", Place::Before);
    assert_fails!(repository.save(&mut whole).await, Error::Unavailable(_));
    assert_eq!((&whole.session, &whole.messages), (&held.session, &held.messages), "the copy was changed");
    assert_eq!(shown(&repository, "a").await, before);
    repository.save(&mut whole).await.unwrap();
    assert_eq!(shown(&repository, "a").await, stored(&database, "a").await);
    assert_eq!((read(&repository, "a").await.title.as_str(), texts(&repository, "a").await.len()), ("mine", 1));
}

#[tokio::test]
async fn a_write_whose_caller_is_gone_ends_and_is_seen() {
    for place in [Place::Before, Place::After] {
        let Opened { steered, repository, .. } = open().await;
        create(&repository, "a").await;
        assert_eq!(shown_title(&repository, "a").await, "a");
        let mut write = steered.stop("update_session", place);
        begin(repository.update_session(&id("a"), title("new"), None), &mut write).await;
        write.go();
        soon(LONG, async || shown_title(&repository, "a").await == "new").await;
    }
}

#[tokio::test]
async fn a_delete_whose_caller_is_gone_ends_and_is_seen() {
    for place in [Place::Before, Place::After] {
        let Opened { steered, repository, .. } = open().await;
        create(&repository, "a").await;
        assert_eq!(shown_title(&repository, "a").await, "a");
        let mut delete = steered.stop("delete_session", place);
        begin(repository.delete_session(&id("a"), DeleteOptions::default()), &mut delete).await;
        delete.go();
        soon(LONG, async || shown(&repository, "a").await == [Value::Null, Value::Null]).await;
    }
}

/// A save that was begun with one more message, and whose answer never came.
async fn unanswered(steered: &Steered, repository: &SessionRepository) -> WholeSession {
    create(repository, "a").await;
    let mut whole = repository.load(&id("a")).await.unwrap().unwrap();
    whole.messages.push(super::merge::message("mine"));
    let mut save = steered.stop("save_sessions", Place::After);
    begin(repository.save(&mut whole), &mut save).await;
    save.go();
    whole
}

#[tokio::test]
async fn a_save_without_an_answer_can_be_done_again() {
    let Opened { steered, repository, .. } = open().await;
    let mut whole = unanswered(&steered, &repository).await;
    repository.save(&mut whole).await.unwrap();
    assert_eq!(texts(&repository, "a").await, ["mine"]);
    assert_eq!(whole.messages, history(&repository, "a").await);
}

#[tokio::test]
async fn a_save_without_an_answer_is_not_merged_twice() {
    let Opened { steered, repository, .. } = open().await;
    let mut whole = unanswered(&steered, &repository).await;
    whole.messages[0].content = "mine, longer".into();
    let mut merged = repository.load_merged(&whole).await.unwrap().unwrap();
    assert_eq!(merged.messages.len(), 1, "{:?}", merged.messages);
    repository.save(&mut merged).await.unwrap();
    assert_eq!(texts(&repository, "a").await, ["mine, longer"]);
}

/// A trigger that fails is an engine that fails: the writer takes a new connection, which must not begin deaf.
#[tokio::test]
async fn an_edit_in_a_shell_is_seen_though_the_engine_has_just_failed() {
    let Opened { database, repository, .. } = open().await;
    create(&repository, "a").await;
    let mut shell = database.shell().await;
    let fails =
        "create trigger fails before update of title on sessions begin select raise(fail, 'as the test has it'); end";
    run(&mut shell, fails).await;
    assert_fails!(repository.update_session(&id("a"), title("new"), None).await, Error::Failed(_));
    assert_eq!(shown_title(&repository, "a").await, "a");
    run(&mut shell, "drop trigger fails; update sessions set title = 'theirs'").await;
    soon(LONG, async || shown_title(&repository, "a").await == "theirs").await;
}
