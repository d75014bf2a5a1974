//! Backends: made, warmed, ended; what their agents know of; closed with their sessions.

use culm::{
    model::{
        AgentSession, BackendFilter, BackendState, BackendStatus, Closing, DeleteOptions, EventKind, EventScope,
        NewRun, NewSession, Openness, Process, Role, Run, RunEnd, RunStatus, Truncate,
    },
    storage::{Error, Storage},
};

use super::runs::{asked, pending, running};
use crate::support::*;

/// The backend of a session with the executor `e`.
pub(super) async fn backend(storage: &dyn Storage, session: &str) -> AgentSession {
    storage.agent_session(&id(session), "e", "acp").await.unwrap()
}

/// The same, warm, of an agent that knows the session as `of NAME`.
pub(super) async fn warm(storage: &dyn Storage, session: &str) -> AgentSession {
    let made = backend(storage, session).await;
    let process = Some(Process { pid: 4711, started: 17 });
    let state = BackendState::Warm { process, agent_session_id: Some(format!("of {session}")) };
    storage.update_agent_session(&made.id, state).await.unwrap();
    backend(storage, session).await
}

pub(super) fn ended(backends: &[&AgentSession]) -> Closing {
    Closing { ended: backends.iter().map(|backend| (*backend).clone()).collect(), ..Closing::default() }
}

async fn close(storage: &dyn Storage, session: &str, closing: Closing) -> Vec<Openness> {
    storage.close_sessions(&id(session), closing).await.unwrap()
}

/// What a call says of each session: its id, whether it is closed, whether archived, its backends, whether it is in use.
fn said_of(sessions: &[Openness]) -> Vec<(&str, bool, bool, i64, bool)> {
    let said = |s: &'_ Openness| (s.closed_at.is_some(), s.archived_at.is_some(), s.backends, s.busy);
    sessions
        .iter()
        .map(|session| (session.session_id.as_str(), said(session)))
        .map(|(name, (closed, archived, backends, busy))| (name, closed, archived, backends, busy))
        .collect()
}

async fn told(storage: &dyn Storage, session: &str) -> Vec<(EventKind, serde_json::Value)> {
    let page = storage.events(&EventScope::Session(id(session)), 0, 1000).await.unwrap();
    let shelved = |kind| matches!(kind, EventKind::SessionClosed | EventKind::SessionArchived);
    page.events.into_iter().filter(|e| shelved(e.event)).map(|e| (e.event, serde_json::json!(e.data))).collect()
}

pub(super) async fn a_backend_is_made_once_and_is_what_was_written_of_it(storage: &dyn Storage) {
    create(storage, "a").await;
    let made = backend(storage, "a").await;
    assert_eq!((made.status, made.process, made.agent_session_id.as_deref()), (BackendStatus::Dormant, None, None));
    assert_eq!((made.session_id.as_str(), made.executor.as_str(), made.backend.as_str()), ("a", "e", "acp"));
    assert_eq!(backend(storage, "a").await, made);
    let other = storage.agent_session(&id("a"), "other", "acp").await.unwrap();
    assert_ne!(other.id, made.id);
    let process = Some(Process { pid: 4711, started: 17 });
    let mut before = made.used_at;
    for agent_session_id in [Some("x".to_owned()), None, Some("y".to_owned())] {
        let state = BackendState::Warm { process, agent_session_id: agent_session_id.clone() };
        storage.update_agent_session(&made.id, state).await.unwrap();
        let warm = backend(storage, "a").await;
        assert_eq!((warm.status, warm.process), (BackendStatus::Warm, process));
        assert_eq!(warm.agent_session_id, agent_session_id);
        assert!(warm.used_at > before);
        before = warm.used_at;
    }
    storage.update_agent_session(&made.id, BackendState::Dormant).await.unwrap();
    let dormant = backend(storage, "a").await;
    assert_eq!((dormant.status, dormant.process), (BackendStatus::Dormant, None));
    assert_eq!((dormant.agent_session_id.as_deref(), dormant.used_at), (Some("y"), before));
}

pub(super) async fn what_an_agent_knows_is_certain_when_its_run_has_ended(storage: &dyn Storage) {
    let run = running(storage, "a").await;
    let knows = async || {
        let row = backend(storage, "a").await;
        (row.agent_session_id, row.seen_seq)
    };
    let x = || Some("x".to_owned());
    let write = async |state| {
        let row = backend(storage, "a").await;
        storage.update_agent_session(&row.id, state).await.unwrap();
    };
    let ends = async |run: &Run| storage.finish_run(run, RunEnd::with(RunStatus::Cancelled)).await.unwrap();
    let next = async |name: &str| {
        let with = NewRun { message: Some(said(Role::User, name)), ..asked(name) };
        storage.create_run(&id("a"), with, None).await.unwrap();
        storage.claim_runs(1).await.unwrap().remove(0)
    };
    storage.append_run_messages(&run, vec![said(Role::Assistant, "one")]).await.unwrap();
    write(BackendState::Warm { process: None, agent_session_id: None }).await;
    ends(&run).await;
    assert_eq!(knows().await, (None, 0), "it was started, and asked nothing");
    let run = next("asked").await;
    write(BackendState::Asked { agent_session_id: x() }).await;
    assert_eq!(knows().await, (x(), 0));
    ends(&run).await;
    assert_eq!(knows().await, (x(), 2));
    let run = next("not asked").await;
    write(BackendState::Warm { process: None, agent_session_id: x() }).await;
    ends(&run).await;
    assert_eq!(knows().await, (x(), 2), "it goes on with what it knows, and was asked nothing");
    let run = next("lost").await;
    write(BackendState::Asked { agent_session_id: x() }).await;
    write(BackendState::Lost).await;
    ends(&run).await;
    assert_eq!(knows().await, (None, 0));
    next("killed").await;
    write(BackendState::Asked { agent_session_id: x() }).await;
    storage.settle_runs().await.unwrap();
    let run = next("not asked after a kill").await;
    ends(&run).await;
    assert_eq!(knows().await.1, 0);
}

pub(super) async fn a_backend_of_no_session_is_refused(storage: &dyn Storage) {
    let nobody = storage.agent_session(&id("a"), "e", "acp").await;
    assert_fails!(nobody, Error::SessionNotFound(_));
    create(storage, "a").await;
    let made = warm(storage, "a").await;
    storage.delete_session(&id("a"), DeleteOptions::default()).await.unwrap();
    assert_fails!(storage.agent_session(&id("a"), "e", "acp").await, Error::SessionDeleted(_));
    let state = || BackendState::Warm { process: None, agent_session_id: None };
    assert_fails!(storage.update_agent_session(&made.id, state()).await, Error::BackendNotFound(_));
    assert_fails!(storage.update_agent_session(&made.id, BackendState::Dormant).await, Error::BackendNotFound(_));
    assert!(storage.agent_sessions(&BackendFilter::default(), None, 10).await.unwrap().items.is_empty());
}

pub(super) async fn another_kind_of_agent_under_the_same_name_knows_nothing(storage: &dyn Storage) {
    create(storage, "a").await;
    let first = warm(storage, "a").await;
    storage.update_agent_session(&first.id, BackendState::Dormant).await.unwrap();
    let second = storage.agent_session(&id("a"), "e", "opencode").await.unwrap();
    assert_eq!((&second.id, second.backend.as_str(), second.agent_session_id), (&first.id, "opencode", None));
}

pub(super) async fn backends_are_listed_page_by_page(storage: &dyn Storage) {
    create(storage, "r").await;
    create(storage, "other").await;
    for (parent, name) in [("r", "a"), ("a", "b"), ("r", "c")] {
        child(storage, parent, name).await;
    }
    for name in ["r", "other", "b"] {
        warm(storage, name).await;
    }
    backend(storage, "c").await;
    let list = async |below: Option<&str>, status, limit| {
        let filter = BackendFilter { below: below.map(id), status };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = storage.agent_sessions(&filter, after, limit).await.unwrap();
            assert!(page.items.len() <= usize::try_from(limit).unwrap());
            found.extend(page.items.into_iter().map(|backend| backend.session_id.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    for limit in [1, 2, 10] {
        assert_eq!(list(None, None, limit).await, ["r", "other", "b", "c"]);
        assert_eq!(list(None, Some(BackendStatus::Warm), limit).await, ["r", "other", "b"]);
        assert_eq!(list(None, Some(BackendStatus::Dormant), limit).await, ["c"]);
        assert_eq!(list(Some("r"), None, limit).await, ["r", "b", "c"]);
        assert_eq!(list(Some("a"), Some(BackendStatus::Warm), limit).await, ["b"]);
    }
    let nobody = BackendFilter { below: Some(id("nobody")), status: None };
    assert_fails!(storage.agent_sessions(&nobody, None, 10).await, Error::SessionNotFound(_));
}

/// What an agent remembers is derived from the history.
pub(super) async fn a_history_that_changes_is_forgotten_and_one_that_grows_is_not(storage: &dyn Storage) {
    create(storage, "a").await;
    create(storage, "r").await;
    let known = async || {
        let backend = backend(storage, "a").await;
        (backend.agent_session_id.is_some(), backend.seen_seq)
    };
    let learn = async |run: &str| {
        append(storage, "a", vec![said(Role::User, &format!("{run} 1")), said(Role::Assistant, &format!("{run} 2"))])
            .await;
        let made = warm(storage, "a").await;
        let run = storage.create_run(&id("a"), asked(run), None).await.unwrap();
        storage.claim_runs(1).await.unwrap();
        let told = BackendState::Asked { agent_session_id: made.agent_session_id };
        storage.update_agent_session(&made.id, told).await.unwrap();
        storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
        let last = read(storage, "a").await.last_seq;
        assert_eq!(known().await, (true, last));
        last
    };
    let last = learn("grows").await;
    say(storage, "a", &["more"]).await;
    storage.update_session(&id("a"), title("new"), None).await.unwrap();
    assert_eq!(known().await, (true, last), "the end of a history grew, and no more");
    learn("edited").await;
    storage.edit_message(&id("a"), &mid("edited 2"), "other".into(), None).await.unwrap();
    assert_eq!(known().await, (false, 0));
    learn("deleted").await;
    storage.delete_message(&id("a"), &mid("deleted 1"), None).await.unwrap();
    assert_eq!(known().await, (false, 0));
    learn("cut").await;
    storage.truncate_messages(&id("a"), Truncate::After { message_id: mid("cut 1") }, None).await.unwrap();
    assert_eq!(known().await, (false, 0));
    learn("cleared").await;
    storage.clear_session(&id("a"), None).await.unwrap();
    assert_eq!(known().await, (false, 0));
    assert_eq!(backend(storage, "r").await.seen_seq, 0);
}

pub(super) async fn a_run_that_ends_was_seen_by_its_own_executor_alone(storage: &dyn Storage) {
    let run = running(storage, "a").await;
    let asked = || BackendState::Asked { agent_session_id: Some("x".into()) };
    for executor in ["e", "other"] {
        let backend = storage.agent_session(&id("a"), executor, "acp").await.unwrap();
        storage.update_agent_session(&backend.id, asked()).await.unwrap();
    }
    storage.append_run_messages(&run, vec![said(Role::Assistant, "one")]).await.unwrap();
    let partial = Some(said(Role::Assistant, "two"));
    storage.finish_run(&run, RunEnd { partial, ..RunEnd::with(RunStatus::Completed) }).await.unwrap();
    assert_eq!(backend(storage, "a").await.seen_seq, 2);
    assert_eq!(storage.agent_session(&id("a"), "other", "acp").await.unwrap().seen_seq, 0);
}

pub(super) async fn closing_closes_the_tree_and_is_idempotent(storage: &dyn Storage) {
    create(storage, "r").await;
    create(storage, "other").await;
    child(storage, "r", "a").await;
    child(storage, "a", "b").await;
    let (one, two) = (warm(storage, "r").await, warm(storage, "b").await);
    backend(storage, "a").await;
    let preview = storage.openness(&id("r")).await.unwrap();
    assert_eq!(
        said_of(&preview),
        [("r", false, false, 1, true), ("a", false, false, 1, false), ("b", false, false, 1, true)]
    );
    let first = close(storage, "r", ended(&[&one, &two])).await;
    assert_eq!(
        said_of(&first),
        [("r", true, false, 1, false), ("a", true, false, 1, false), ("b", true, false, 1, false)]
    );
    let rows = storage.agent_sessions(&BackendFilter::default(), None, 10).await.unwrap().items;
    assert!(rows.iter().all(|row| row.status == BackendStatus::Closed && row.process.is_none()), "{rows:?}");
    assert_eq!(rows[0].agent_session_id.as_deref(), Some("of r"), "what can be taken up again is kept");
    let version = read(storage, "a").await.version;
    let again = close(storage, "r", Closing::default()).await;
    assert_eq!(said_of(&again)[1], ("a", true, false, 0, false));
    assert_eq!(
        again.iter().map(|s| s.closed_at).collect::<Vec<_>>(),
        first.iter().map(|s| s.closed_at).collect::<Vec<_>>()
    );
    assert_eq!(read(storage, "a").await.version, version);
    assert!(read(storage, "other").await.closed_at.is_none());
    // What was dormant when it was ended stays closed.
    storage.update_agent_session(&one.id, BackendState::Dormant).await.unwrap();
    let closed = BackendFilter { below: Some(id("r")), status: Some(BackendStatus::Closed) };
    assert_eq!(storage.agent_sessions(&closed, None, 10).await.unwrap().items.len(), 3);
    assert_eq!(told(storage, "b").await, [(EventKind::SessionClosed, serde_json::json!({ "closed": true }))]);
    assert_eq!(backend(storage, "r").await.status, BackendStatus::Dormant);
}

pub(super) async fn archiving_closes_and_each_is_taken_back_by_itself(storage: &dyn Storage) {
    use EventKind::{SessionArchived as A, SessionClosed as C};
    create(storage, "r").await;
    child(storage, "r", "a").await;
    let (root, archive) = (id("r"), || Closing { archive: true, ..Closing::default() });
    for _ in 0..2 {
        let archived = close(storage, "r", archive()).await;
        assert_eq!(said_of(&archived), [("r", true, true, 0, false), ("a", true, true, 0, false)]);
    }
    for _ in 0..2 {
        let back = storage.open_sessions(&root, true).await.unwrap();
        assert_eq!(said_of(&back), [("r", true, false, 0, false), ("a", true, false, 0, false)]);
    }
    close(storage, "a", archive()).await;
    let version = read(storage, "r").await.version;
    for _ in 0..2 {
        let open = storage.open_sessions(&root, false).await.unwrap();
        assert_eq!(said_of(&open), [("r", false, false, 0, false), ("a", false, true, 0, false)]);
    }
    assert_eq!(read(storage, "r").await.version, version + 1);
    let is = |name: &str, is: bool| serde_json::json!({ name: is });
    let wanted = [(C, is("closed", true)), (A, is("archived", true)), (A, is("archived", false))];
    let both = [(A, is("archived", true)), (C, is("closed", false))];
    assert_eq!(told(storage, "r").await, wanted.iter().chain([&both[1]]).cloned().collect::<Vec<_>>());
    assert_eq!(told(storage, "a").await, wanted.iter().chain(&both).cloned().collect::<Vec<_>>());
    for unarchive in [true, false] {
        assert_fails!(storage.open_sessions(&id("nobody"), unarchive).await, Error::SessionNotFound(_));
    }
    storage.delete_session(&root, DeleteOptions::default()).await.unwrap();
    assert_fails!(storage.open_sessions(&root, true).await, Error::SessionDeleted(_));
    assert_fails!(storage.close_sessions(&root, archive()).await, Error::SessionDeleted(_));
    assert_fails!(storage.openness(&root).await, Error::SessionNotFound(_));
}

pub(super) async fn what_is_in_use_is_not_closed(storage: &dyn Storage) {
    create(storage, "r").await;
    for name in ["a", "b"] {
        child(storage, "r", name).await;
    }
    storage.create_run(&id("a"), asked("run"), None).await.unwrap();
    for _ in ["pending", "running"] {
        let refused = storage.close_sessions(&id("r"), Closing::default()).await;
        assert_fails!(refused, Error::SessionBusy(who) if who == id("a"));
        storage.claim_runs(1).await.unwrap();
    }
    assert!(read(storage, "r").await.closed_at.is_none());
    let some = close(storage, "r", Closing { leave_busy: true, ..Closing::default() }).await;
    assert_eq!(
        said_of(&some),
        [("r", true, false, 0, false), ("a", false, false, 0, true), ("b", true, false, 0, false)]
    );
    // A backend that was warmed since it was ended is in use.
    let ended_then = warm(storage, "b").await;
    let used_since = warm(storage, "b").await;
    assert_fails!(storage.close_sessions(&id("b"), Closing::default()).await, Error::SessionBusy(_));
    assert_fails!(storage.close_sessions(&id("b"), ended(&[&ended_then])).await, Error::SessionBusy(_));
    assert_eq!(said_of(&close(storage, "b", ended(&[&used_since])).await), [("b", true, false, 1, false)]);
}

pub(super) async fn a_closed_session_is_opened_by_an_append_and_by_a_run(storage: &dyn Storage) {
    let closed = || serde_json::json!({ "closed": true });
    let opened = || serde_json::json!({ "closed": false });
    for (name, how) in [("append", 0), ("run", 1), ("run with a message", 2), ("child", 3)] {
        create(storage, name).await;
        close(storage, name, Closing { archive: true, ..Closing::default() }).await;
        let version = read(storage, name).await.version;
        match how {
            0 => drop(say(storage, name, &["hi"]).await),
            1 => drop(storage.create_run(&id(name), asked(name), None).await.unwrap()),
            2 => {
                let with = culm::model::NewRun { message: Some(said(Role::User, "hi")), ..asked(name) };
                storage.create_run(&id(name), with, None).await.unwrap();
            }
            _ => drop(child(storage, name, "below").await),
        }
        let session = read(storage, name).await;
        assert!(session.version > version);
        assert!(session.archived_at.is_some());
        assert_eq!(session.closed_at.is_some(), how == 3, "{name}");
        let told: Vec<_> =
            told(storage, name).await.into_iter().filter(|(kind, _)| *kind == EventKind::SessionClosed).collect();
        let told: Vec<_> = told.into_iter().map(|(_, data)| data).collect();
        assert_eq!(told, [vec![closed()], if how == 3 { vec![] } else { vec![opened()] }].concat());
    }
    // A run that only goes on leaves it as it is.
    let run = pending(storage, "goes on").await;
    storage.claim_runs(10).await.unwrap();
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    close(storage, "goes on", Closing::default()).await;
    storage.update_session(&id("goes on"), title("still closed"), None).await.unwrap();
    assert!(read(storage, "goes on").await.closed_at.is_some());
    let new = NewSession { parent: Some(id("goes on")), ..new("open below") };
    assert!(storage.create_session(new, None).await.unwrap().closed_at.is_none());
}
