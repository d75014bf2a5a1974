//! Runs: asked for, taken, ended, settled; questions and answers.

use culm::{
    model::{NewRun, PendingQuestion, Role, Run, RunEnd, RunFilter, RunId, RunStatus},
    storage::{Error, Storage},
};

use crate::support::*;

pub(super) fn asked(text: &str) -> NewRun {
    let id: RunId = text.parse().unwrap();
    NewRun { id: Some(id), executor: "e".into(), model: None, message: None }
}

/// A session of this name with a pending run of this name.
pub(super) async fn pending(storage: &dyn Storage, name: &str) -> Run {
    create(storage, name).await;
    storage.create_run(&id(name), asked(name), None).await.unwrap()
}

pub(super) async fn running(storage: &dyn Storage, name: &str) -> Run {
    pending(storage, name).await;
    storage.claim_runs(1).await.unwrap().remove(0)
}

pub(super) fn question(options: &[&str]) -> PendingQuestion {
    PendingQuestion {
        question: "which?".into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        allow_custom: false,
        tool_call_id: "call".into(),
        tool_name: "ask".into(),
    }
}

fn names(runs: &[Run]) -> Vec<&str> {
    runs.iter().map(|run| run.id.as_str()).collect()
}

async fn status(storage: &dyn Storage, run: &Run) -> RunStatus {
    storage.run(&run.id).await.unwrap().unwrap().status
}

pub(super) async fn runs_are_taken_in_order_and_never_twice(storage: &dyn Storage) {
    for name in ["c", "a", "b", "d"] {
        pending(storage, name).await;
    }
    assert_eq!(names(&storage.claim_runs(1).await.unwrap()), ["c"]);
    let both = tokio::join!(storage.claim_runs(2), storage.claim_runs(2));
    let both = [both.0.unwrap(), both.1.unwrap()];
    let mut taken: Vec<_> = both.iter().flatten().collect();
    assert!(taken.iter().all(|run| run.status == RunStatus::Running && run.started_at.is_some()));
    taken.sort_by_key(|run| run.created_at);
    assert_eq!(taken.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["a", "b", "d"]);
    assert!(storage.claim_runs(10).await.unwrap().is_empty());
}

pub(super) async fn a_session_has_one_active_run(storage: &dyn Storage) {
    let (a, run) = (id("a"), pending(storage, "a").await);
    let another = storage.create_run(&a, asked("r"), None);
    assert_fails!(another.await, Error::SessionBusy(_));
    assert_eq!(storage.claim_runs(1).await.unwrap().len(), 1);
    assert_fails!(storage.create_run(&id("a"), asked("r"), None).await, Error::SessionBusy(_));
    assert!(read(storage, "a").await.is_running);
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    assert_fails!(storage.create_run(&id("a"), asked("a"), None).await, Error::RunExists(_));
    let many = (0..8).map(|n| storage.create_run(&a, asked(&format!("r{n}")), None));
    let made = futures_util::future::join_all(many).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    assert_fails!(storage.create_run(&id("nobody"), asked("x"), None).await, Error::SessionNotFound(_));
}

pub(super) async fn a_run_ends_once(storage: &dyn Storage) {
    let run = running(storage, "a").await;
    let partial = Some(said(Role::Assistant, "half"));
    let end = RunEnd { error: Some("why".into()), partial, ..RunEnd::with(RunStatus::Error) };
    let ended = storage.finish_run(&run, end.clone()).await.unwrap();
    assert_eq!((ended.status, ended.error.as_deref(), ended.last_seq), (RunStatus::Error, Some("why"), Some(1)));
    let version = read(storage, "a").await.version;
    for again in [end, RunEnd::with(RunStatus::Completed)] {
        assert_eq!(storage.finish_run(&run, again).await.unwrap(), ended);
    }
    assert_eq!(storage.cancel_pending_run(&run).await.unwrap(), ended);
    let session = read(storage, "a").await;
    assert_eq!((session.version, session.is_running), (version, false));
    assert_eq!(session.last_run_error.as_deref(), Some("why"));
    assert_eq!(texts(storage, "a").await, ["half"]);
}

pub(super) async fn a_run_that_is_not_running_stores_nothing(storage: &dyn Storage) {
    let late = || vec![said(Role::Assistant, "late")];
    let run = pending(storage, "a").await;
    assert_fails!(storage.append_run_messages(&run, late()).await, Error::RunOver(_));
    storage.claim_runs(1).await.unwrap();
    let told = storage.append_run_messages(&run, vec![said(Role::Assistant, "in time")]).await.unwrap();
    assert_eq!((told.last_seq, told.messages[0].run_id.as_ref()), (1, Some(&run.id)));
    storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.unwrap();
    assert_fails!(storage.append_run_messages(&run, late()).await, Error::RunOver(_));
    assert_fails!(storage.ask_question(&run, question(&[])).await, Error::RunOver(_));
    assert_eq!(texts(storage, "a").await, ["in time"]);
    storage.delete_session(&id("a"), Default::default()).await.unwrap();
    assert!(storage.append_run_messages(&run, late()).await.is_err());
    assert!(storage.finish_run(&run, RunEnd::with(RunStatus::Completed)).await.is_err());
    assert!(storage.run(&run.id).await.unwrap().is_none());
}

pub(super) async fn a_pending_run_is_cancelled_and_a_running_one_is_not(storage: &dyn Storage) {
    let run = pending(storage, "a").await;
    let cancelled = storage.cancel_pending_run(&run).await.unwrap();
    assert_eq!((cancelled.status, cancelled.started_at), (RunStatus::Cancelled, None));
    assert!(storage.claim_runs(1).await.unwrap().is_empty());
    let run = running(storage, "b").await;
    assert_eq!(storage.cancel_pending_run(&run).await.unwrap().status, RunStatus::Running);
}

pub(super) async fn settling_interrupts_what_runs_and_nothing_else(storage: &dyn Storage) {
    let run = running(storage, "a").await;
    storage.ask_question(&run, question(&[])).await.unwrap();
    let waiting = pending(storage, "b").await;
    assert_eq!(storage.settle_runs().await.unwrap(), 1);
    assert_eq!(storage.settle_runs().await.unwrap(), 0);
    assert_eq!(status(storage, &run).await, RunStatus::Interrupted);
    assert_eq!(status(storage, &waiting).await, RunStatus::Pending);
    let session = read(storage, "a").await;
    assert_eq!((session.is_running, session.last_run_status), (false, Some(RunStatus::Interrupted)));
    assert!(session.pending_question.is_some());
    storage.create_run(&id("a"), asked("next"), None).await.unwrap();
}

pub(super) async fn an_answer_is_stored_once_and_goes_to_who_asked(storage: &dyn Storage) {
    let (a, run) = (id("a"), running(storage, "a").await);
    let next = || NewRun { id: None, ..asked("x") };
    let answer = |text: &str| storage.answer_question(&a, reply(text), next());
    assert_fails!(answer("red").await, Error::NoPendingQuestion(_));
    storage.append_run_messages(&run, vec![calls("asks", &["call"])]).await.unwrap();
    storage.ask_question(&run, question(&["red", "blue"])).await.unwrap();
    assert_fails!(answer("green").await, Error::InvalidAnswer(options) if options == ["red", "blue"]);
    let given = answer("red").await.unwrap();
    assert_eq!((given.asked, &given.run.id, &given.message.run_id), (true, &run.id, &Some(run.id.clone())));
    assert_eq!(given.message.tool_call_id.as_deref(), Some("call"));
    assert_fails!(answer("red").await, Error::NoPendingQuestion(_));
    // After the process that asked is gone, the next run has the answer.
    storage.ask_question(&run, question(&[])).await.unwrap();
    storage.settle_runs().await.unwrap();
    let given = answer("anything").await.unwrap();
    assert_eq!((given.asked, given.run.status), (false, RunStatus::Pending));
    assert_eq!(texts(storage, "a").await, ["asks", "red", "anything"]);
    assert_eq!(names(&storage.active_runs(&id("a"), false).await.unwrap()), [given.run.id.as_str()]);
}

pub(super) async fn a_question_goes_with_who_asked_or_when_another_run_is_asked_for(storage: &dyn Storage) {
    for (name, end) in [("a", RunStatus::Completed), ("b", RunStatus::Interrupted)] {
        let run = running(storage, name).await;
        storage.ask_question(&run, question(&[])).await.unwrap();
        storage.finish_run(&run, RunEnd::with(end)).await.unwrap();
        assert_eq!(read(storage, name).await.pending_question.is_some(), end == RunStatus::Interrupted);
        storage.create_run(&id(name), asked(&format!("{name}-next")), None).await.unwrap();
        assert!(read(storage, name).await.pending_question.is_none());
        let late = storage.answer_question(&id(name), reply("late"), asked("x")).await;
        assert_fails!(late, Error::NoPendingQuestion(_));
        storage.claim_runs(1).await.unwrap();
    }
}

pub(super) async fn active_runs_are_those_below_where_asked(storage: &dyn Storage) {
    pending(storage, "a").await;
    child(storage, "a", "b").await;
    child(storage, "b", "c").await;
    storage.create_run(&id("c"), asked("c"), None).await.unwrap();
    pending(storage, "other").await;
    assert_eq!(names(&storage.active_runs(&id("a"), false).await.unwrap()), ["a"]);
    assert_eq!(names(&storage.active_runs(&id("a"), true).await.unwrap()), ["a", "c"]);
    assert_eq!(names(&storage.active_runs(&id("b"), true).await.unwrap()), ["c"]);
    assert_fails!(storage.active_runs(&id("nobody"), true).await, Error::SessionNotFound(_));
    let waiting = RunFilter { status: Some(RunStatus::Pending), ..RunFilter::default() };
    assert_eq!(names(&storage.runs(&waiting, None, 2).await.unwrap().items), ["other", "c"]);
}

pub(super) async fn a_page_of_runs_ends_where_it_has_eight_mebibytes(storage: &dyn Storage) {
    for name in ["a", "b", "c"] {
        let run = running(storage, name).await;
        let error = Some("x".repeat(3 << 20));
        storage.finish_run(&run, RunEnd { error, ..RunEnd::with(RunStatus::Error) }).await.unwrap();
    }
    let first = storage.runs(&RunFilter::default(), None, 10).await.unwrap();
    assert_eq!((names(&first.items), first.next.is_some()), (vec!["c", "b"], true));
    let rest = storage.runs(&RunFilter::default(), first.next, 10).await.unwrap();
    assert_eq!((names(&rest.items), rest.next), (vec!["a"], None));
}
