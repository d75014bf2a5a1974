//! Stopping: at every moment, at once, and the provider's connection with it.

use super::*;

#[tokio::test]
async fn in_the_midst_of_a_stream() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/endless");
    running.until_text().await;
    assert_eq!(demo.stats("").await, (1, 1));
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("open=0").await, (1, 0));
}

#[tokio::test]
async fn while_nobody_takes_the_events() {
    let demo = Demo::start().await;
    let running = Running::start(demo.executor(), "/slow 0ms\n/endless");
    // The channel is full, and the run waits.
    while running.events.len() < EVENTS {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("open=0").await, (1, 0));
}

#[tokio::test]
async fn when_nobody_is_there_to_take_them_or_the_run_is_dropped() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "hello\n/silent");
    running.until_text().await;
    drop(running.events);
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("open=0").await, (1, 0));
    let mut running = Running::start(demo.executor(), "hello\n/silent");
    running.until_text().await;
    running.run.abort();
    assert_eq!(demo.stats("open=0").await, (2, 0));
}

#[tokio::test]
async fn before_the_first_word() {
    let demo = Demo::start().await;
    let running = Running::start(demo.executor(), "/silent");
    assert_eq!(demo.stats("open=1").await, (1, 1));
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("open=0").await, (1, 0));
}

#[tokio::test]
async fn between_two_attempts() {
    let demo = Demo::start().await;
    let running = Running::start(demo.executor(), "/error 503 9 60");
    assert_eq!(demo.stats("requests=1&open=0").await, (1, 0));
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("").await, (1, 0));
}

#[tokio::test]
async fn while_the_connection_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let running = Running::start(executor(&url, ""), "hello");
    let (mut stream, _) = listener.accept().await.unwrap();
    // It says hello, and is not answered.
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    // The rest of the hello, and then the end.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn while_a_question_waits() {
    let demo = Demo::start().await;
    let mut running = Running::start(demo.executor(), "/ask Really?");
    let question = running.until_question().await;
    assert_eq!(running.cancel().await.unwrap(), Outcome::Cancelled);
    assert!(question.answer.is_closed());
    assert_eq!(demo.stats("open=0").await, (1, 0));
}

#[tokio::test]
async fn before_it_began() {
    let demo = Demo::start().await;
    let (sender, _events) = mpsc::channel(EVENTS);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let turn = turn(vec![NewMessage::text(Role::User, "hello")]);
    assert_eq!(demo.executor().run(turn, sender, cancel).await.unwrap(), Outcome::Cancelled);
    assert_eq!(demo.stats("").await, (0, 0), "the provider was not asked");
}
