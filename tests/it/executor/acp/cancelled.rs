//! Stopping: at every moment, and whatever the agent thinks of it. Nothing is left that works on.

use super::*;

#[tokio::test]
async fn in_the_midst_of_its_words() {
    let mut agent = Talking::to(&[], "");
    let mut running = agent.running("/endless");
    running.until_text().await;
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    // It stopped when it was asked to: it stays, and is asked the next thing.
    let process = agent.row().process;
    assert_eq!(agent.hears("hello").await, "hello");
    assert_eq!(agent.row().process, process);
}

#[tokio::test]
async fn while_it_says_nothing_or_asks() {
    let mut agent = Talking::to(&[], "");
    for script in ["hello\n/silent", "hello\n/permit touch it"] {
        let mut running = agent.running(script);
        running.until_text().await;
        if script.contains("permit") {
            running.until_question().await;
        }
        assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled, "{script}");
    }
}

#[tokio::test]
async fn before_it_began() {
    let mut agent = Talking::to(&[], "");
    let (sender, _events) = mpsc::channel(EVENTS);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let turn = agent.turn("hello");
    assert_eq!(agent.pool.run(turn, sender, cancel).await.unwrap(), Outcome::Cancelled);
    assert!(agent.rows.0.lock().unwrap().is_empty(), "nothing was started");
    // What it was not told then, it is told now.
    assert_eq!(agent.hears("/memory").await, "[\"hello\\n\\n/memory\"]");
    let (sender, _events) = mpsc::channel(EVENTS);
    let (turn, cancel) = (agent.turn("more"), CancellationToken::new());
    cancel.cancel();
    agent.pool.run(turn, sender, cancel).await.unwrap();
    assert!(agent.hears("/memory").await.ends_with("more\\n\\n/memory\"]"));
}

#[tokio::test]
async fn while_it_starts() {
    let mut agent = Talking::to(&["--mute"], "");
    let running = agent.running("hello");
    while agent.rows.0.lock().unwrap().is_empty() || agent.processes().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    agent.until_gone().await;
    assert_eq!(agent.row().agent_session_id, None, "it was asked nothing");
}

#[tokio::test]
async fn when_it_does_not_listen() {
    let mut agent = Talking::to(&["--stubborn"], "");
    let mut running = agent.running("/deaf\n/spawn 1000\n/silent");
    running.until_text().await;
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    agent.until_gone().await;
    assert_eq!(agent.hears("hello").await, "hello", "another one is started");
}

#[tokio::test]
async fn when_the_run_is_dropped() {
    let mut agent = Talking::to(&["--stubborn"], "");
    let mut running = agent.running("/spawn 1000\nhello\n/silent");
    running.until_text().await;
    running.run.abort();
    agent.until_gone().await;
    assert_eq!(agent.hears("hello").await, "hello");
    assert_eq!(agent.row().status, BackendStatus::Warm);
}

#[tokio::test]
async fn when_nobody_takes_what_it_says() {
    let mut agent = Talking::to(&[], "");
    let running = agent.running("/slow 0ms\n/endless");
    while running.events.len() < EVENTS {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    let mut running = agent.running("hello\n/silent");
    running.until_text().await;
    drop(running.events);
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
}

#[tokio::test]
async fn when_it_takes_too_long_or_says_nothing_for_too_long() {
    let mut agent = Talking::to(&[], "silence_timeout = '200ms'");
    let (outcome, _) = agent.say("hello\n/silent").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent said nothing for 200ms");
    let mut agent = Talking::to(&[], "turn_timeout = '300ms'");
    let (outcome, _) = agent.say("/endless").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the turn took more than 300ms");
    let mut agent = Talking::to(&["--mute"], "start_timeout = '200ms'");
    let (outcome, _) = agent.say("hello").await;
    assert!(outcome.unwrap_err().to_string().starts_with("the agent did not start within 200ms"));
    agent.until_gone().await;
}
