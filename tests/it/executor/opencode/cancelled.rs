//! Stopping: at every moment. Nothing works on that was told to stop.

use super::*;

#[tokio::test]
async fn in_the_midst_of_its_words() {
    let mut agent = talking(&[], "");
    let mut running = agent.running("/endless");
    running.until_text().await;
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(Seen::of(&agent).busy().await, 0);
    // It stopped when it was asked to: it stays, and is asked the next thing.
    let before = agent.row().agent_session_id;
    assert_eq!(agent.hears("hello").await, "hello");
    assert_eq!(agent.row().agent_session_id, before);
}

#[tokio::test]
async fn while_it_says_nothing_or_asks_or_waits_for_one_below() {
    let mut agent = talking(&[], "");
    for script in ["hello\n/silent", "hello\n/permit touch it", "hello\n/child /endless"] {
        let mut running = agent.running(script);
        running.until_text().await;
        match script {
            "hello\n/permit touch it" => drop(running.until_question().await.tool_call_id),
            "hello\n/child /endless" => Seen::of(&agent).until_busy(2).await,
            _ => {}
        }
        assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled, "{script}");
        assert_eq!(Seen::of(&agent).busy().await, 0, "{script}");
    }
}

#[tokio::test]
async fn before_it_began() {
    let mut agent = talking(&[], "");
    let (sender, _events) = mpsc::channel(EVENTS);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let turn = agent.turn("hello");
    assert_eq!(agent.pool.run(turn, sender, cancel).await.unwrap(), Outcome::Cancelled);
    assert!(processes(&agent).is_empty(), "nothing was started");
}

#[tokio::test]
async fn while_it_starts() {
    let mut agent = talking(&["--mute"], "");
    let running = agent.running("hello");
    while processes(&agent).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    until_gone(&agent).await;
}

#[tokio::test]
async fn when_its_prompt_was_taken_and_not_begun() {
    let mut agent = talking(&["--late", "300ms"], "");
    assert_eq!(agent.hears("hello").await, "hello");
    let (seen, path) = (Seen::of(&agent), format!("/session/{}", agent.row().agent_session_id.unwrap()));
    let running = agent.running("/silent");
    while seen.get(&path).await.1["prompts"].as_array().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(seen.get(&path).await.1["stopped"], 1, "it was not stopped once it began");
    assert_eq!(seen.busy().await, 0);
}

#[tokio::test]
async fn when_it_does_not_listen() {
    let mut agent = talking(&[], "");
    let mut running = agent.running("hello\n/deaf\n/silent");
    running.until_text().await;
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    // Nobody else is there: the server is ended.
    until_gone(&agent).await;
    assert_eq!(agent.hears("hello").await, "hello", "another one is started");
}

#[tokio::test]
async fn when_the_run_is_dropped() {
    let mut agent = talking(&[], "");
    let mut running = agent.running("hello\n/silent");
    running.until_text().await;
    let seen = Seen::of(&agent);
    running.run.abort();
    seen.until_busy(0).await;
    assert_eq!(agent.hears("hello").await, "hello");
    assert_eq!(agent.row().status, BackendStatus::Warm);
}

#[tokio::test]
async fn when_nobody_takes_what_it_says() {
    let mut agent = talking(&[], "");
    let running = agent.running("/slow 0ms\n/endless");
    while running.events.len() < EVENTS {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    let mut running = agent.running("hello\n/silent");
    running.until_text().await;
    drop(running.events);
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
    assert_eq!(Seen::of(&agent).busy().await, 0);
}

#[tokio::test]
async fn when_it_takes_too_long_or_says_nothing_for_too_long() {
    let mut agent = talking(&[], "silence_timeout = '200ms'");
    let (outcome, _) = agent.say("hello\n/silent").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent said nothing for 200ms");
    assert_eq!(Seen::of(&agent).busy().await, 0);
    let mut agent = talking(&[], "turn_timeout = '300ms'");
    let (outcome, _) = agent.say("/endless").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the turn took more than 300ms");
    let mut agent = talking(&["--mute"], "start_timeout = '200ms'");
    let (outcome, _) = agent.say("hello").await;
    assert!(outcome.unwrap_err().to_string().starts_with("the agent did not start within 200ms"));
    until_gone(&agent).await;
}
