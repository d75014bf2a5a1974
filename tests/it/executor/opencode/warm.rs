//! What is kept between turns, what is taken up again, and what is ended and removed.

use super::*;

#[tokio::test]
async fn it_stays_between_turns_and_is_told_only_what_is_new() {
    let mut agent = talking(&[], "");
    agent.hears("one").await;
    assert_eq!(agent.hears("/memory").await, "[\"one\", \"/memory\"]");
    assert_eq!((agent.row().status, agent.row().process), (BackendStatus::Warm, None), "the process is of all");
    agent.pool.shut_down().await;
    assert_eq!((agent.row().status, processes(&agent)), (BackendStatus::Dormant, vec![]));
}

#[tokio::test]
async fn after_a_restart_it_goes_on_where_it_can() {
    let mut agent = talking(&[], "");
    agent.hears("one").await;
    let mut agent = agent.restarted(&[]).await;
    assert_eq!(agent.hears("/memory").await, "[\"one\", \"/memory\"]");
    let session = agent.row().agent_session_id.unwrap();
    let agent = agent.restarted(&[]).await;
    std::fs::remove_file(kept(&agent, &session)).unwrap();
    let mut agent = agent;
    let memory = agent.hears("/memory").await;
    assert!(memory.starts_with("[\"What follows was said before"), "{memory}");
}

#[tokio::test]
async fn a_history_that_changed_under_it_is_told_anew() {
    let mut agent = talking(&[], "");
    agent.hears("one").await;
    // As storage does when a message is edited or removed.
    agent.history.truncate(1);
    agent.change(|row| row.agent_session_id = None);
    assert_eq!(agent.hears("/memory").await, "[\"one\\n\\n/memory\"]");
    // What it knew before goes with the session, too.
    let row = agent.row();
    let folder = kept(&agent, "any").parent().unwrap().to_owned();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    agent.pool.dispose(&row, true).await.unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_breakdown_ends_all_turns_and_the_next_one_starts_another_server() {
    let mut agent = talking(&[], "");
    let other = Turn { session_id: "other".parse().unwrap(), ..turn(vec![NewMessage::text(Role::User, "a\n/silent")]) };
    let mut other = Running::of(agent.pool.clone(), other);
    other.until_text().await;
    let before = processes(&agent);
    let (outcome, told) = agent.say("so far\n/crash 7").await;
    let last = "the agent is gone (exit status: 7); it said last: ";
    for error in [outcome.unwrap_err(), other.run.await.unwrap().unwrap_err()] {
        let error = error.to_string();
        assert!(error.starts_with(last) && error.ends_with("the demo server breaks down"), "{error}");
    }
    assert!(told.contains(&"text so ".into()));
    assert_eq!(agent.hears("two").await, "two");
    assert!(processes(&agent).iter().all(|process| !before.contains(process)));
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let mut agent = talking(&["--exit", "9"], "");
    let error = agent.say("hello").await.0.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(error.to_string(), "the agent is gone (exit status: 9); it said last: the demo server was told to end");
    let turn = Turn { workspace: Some("/nowhere/at all".into()), ..agent.turn("hello") };
    let error = finish(&*agent.pool, turn).await.0.unwrap_err();
    assert_eq!(error.to_string(), "the working directory /nowhere/at all is not there");
    let mut agent = talking(&["--no-such-flag"], "");
    let error = agent.say("hello").await.0.unwrap_err();
    assert!(error.to_string().contains("--no-such-flag"), "{error}");
}

#[tokio::test]
async fn one_that_idles_is_ended_and_the_server_with_the_last() {
    let mut agent = talking(&[], "idle_timeout = '50ms'");
    agent.hears("one").await;
    until_gone(&agent).await;
    while agent.row().status != BackendStatus::Dormant {
        tokio::task::yield_now().await;
    }
    assert_eq!(agent.hears("/memory").await, "[\"one\", \"/memory\"]", "it is taken up again");
}

#[tokio::test]
async fn closing_stops_all_below_and_keeps_the_session_and_deleting_removes_it() {
    let mut agent = talking(&[], "");
    let mut running = agent.running("hello\n/child /child /endless");
    running.until_text().await;
    let seen = Seen::of(&agent);
    seen.until_busy(3).await;
    let row = agent.row();
    let path = format!("/session/{}", row.agent_session_id.as_ref().unwrap());
    agent.pool.dispose(&row, false).await.unwrap();
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
    assert_eq!((seen.busy().await, seen.get(&path).await.0, agent.row().status), (0, 200, BackendStatus::Dormant));
    let below = seen.get(&format!("{path}/children")).await.1[0]["id"].as_str().unwrap().to_owned();
    agent.pool.dispose(&row, true).await.unwrap();
    assert_eq!((seen.get(&path).await.0, seen.get(&format!("/session/{below}")).await.0), (404, 404));
    assert!(!agent.home.path().join("homes").join(row.id.as_str()).exists());
    agent.pool.dispose(&row, true).await.unwrap();
}

#[tokio::test]
async fn deleting_what_works_leaves_nothing_busy() {
    let mut agent = talking(&[], "");
    let mut running = agent.running("hello\n/child /endless");
    running.until_text().await;
    let seen = Seen::of(&agent);
    seen.until_busy(2).await;
    agent.pool.dispose(&agent.row(), true).await.unwrap();
    assert_eq!(seen.busy().await, 0);
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
}

#[tokio::test]
async fn what_a_server_keeps_that_does_not_run_is_removed_too() {
    let mut agent = talking(&[], "");
    agent.hears("one").await;
    let row = agent.row();
    let agent = agent.restarted(&[]).await;
    assert!(processes(&agent).is_empty());
    let kept = kept(&agent, row.agent_session_id.as_ref().unwrap());
    assert!(kept.exists());
    agent.pool.dispose(&row, false).await.unwrap();
    assert!(processes(&agent).is_empty(), "closing needs no server");
    agent.pool.dispose(&row, true).await.unwrap();
    assert!(!kept.exists());
}

#[tokio::test]
async fn one_that_does_not_end_when_asked_is_killed_with_all_that_it_started() {
    let mut agent = talking(&["--stubborn"], "");
    agent.hears("/spawn 1000").await;
    assert_eq!(processes(&agent).len(), 3);
    agent.pool.shut_down().await;
    assert!(processes(&agent).is_empty());
}

#[tokio::test]
async fn nobody_is_let_in_who_does_not_know_the_password() {
    let mut agent = talking(&[], "");
    agent.hears("one").await;
    let seen = Seen::of(&agent);
    assert_eq!(seen.password.len(), 64);
    let stranger = Seen { password: "opencode".into(), ..seen };
    assert_eq!(stranger.get("/session/status").await.0, 401);
}

#[tokio::test]
async fn it_is_asked_who_it_is_and_nothing_stays() {
    let agent = talking(&[], "");
    assert_eq!(agent.pool.probe().await.unwrap(), "opencode demo, one server for all sessions");
    agent.pool.shut_down().await;
    assert!(processes(&agent).is_empty());
    let error = talking(&["--exit", "4"], "").pool.probe().await.unwrap_err();
    assert!(error.to_string().contains("the demo server was told to end"), "{error}");
}
