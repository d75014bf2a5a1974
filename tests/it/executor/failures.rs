//! What fails: what is tried again, what is not, and in which words.

use super::*;

#[tokio::test]
async fn what_may_pass_is_tried_again_until_the_first_token() {
    for (said, requests) in [("/error 429 2\nhello", 3), ("/error 500 1\nhello", 2), ("/cut 2\nhello", 3)] {
        let demo = Demo::start().await;
        let (outcome, told) = demo.says(said).await;
        assert_eq!(outcome.unwrap(), Outcome::Completed, "{said}");
        assert_eq!(&told[..2], ["text hello", "message [final_answer] hello"], "{said}");
        assert_eq!(demo.stats("").await.0, requests, "{said}");
    }
}

#[tokio::test]
async fn a_provider_that_asks_for_less_patience_is_asked_again_sooner() {
    let demo = Demo::start().await;
    let mut settings = config(&format!("http://{}/v1", demo.address), "").settings().unwrap();
    settings.retry_delay = Duration::from_secs(3600);
    let executor = OpenAi::new(settings, Arc::new(NoAttachments), Limits::default());
    let run = finish(&executor, turn(vec![NewMessage::text(Role::User, "/error 429 2\nhello")]));
    let (outcome, _) = tokio::time::timeout(Duration::from_secs(10), run).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Completed);
}

#[tokio::test]
async fn retries_come_to_an_end() {
    for said in ["/error 503", "/error 429", "/cut"] {
        let demo = Demo::start().await;
        let (outcome, told) = demo.says(said).await;
        assert!(matches!(outcome, Err(Error::Failed(_))), "{said}: {outcome:?}");
        assert_eq!((told.len(), demo.stats("open=0").await), (0, (5, 0)), "{said}");
    }
    // Nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let executor = executor(&format!("http://{address}"), "");
    let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
    assert!(matches!(&outcome, Err(Error::Unavailable(words)) if words.contains(&address.to_string())), "{outcome:?}");
}

#[tokio::test]
async fn what_cannot_pass_or_would_be_said_twice_is_not_tried_again() {
    let cases = [
        ("/error 400", "the provider answered 400 Bad Request: The demo model was told to fail."),
        ("/error 401", "401"),
        ("/garbage", "cannot be understood"),
        ("hello\n/cut", "broke off"),
        ("/reasoning hm\n/cut", "broke off"),
        ("/fail overloaded", "the provider broke off: overloaded"),
        ("hello\n/fail overloaded", "the provider broke off: overloaded"),
        ("hello\n/garbage", "cannot be understood"),
        ("hello\n/end", "ended before the reply did"),
    ];
    for (said, words) in cases {
        let demo = Demo::start().await;
        let (outcome, told) = demo.says(said).await;
        assert!(matches!(&outcome, Err(Error::Failed(why)) if why.contains(words)), "{said}: {outcome:?}");
        assert!(!told.iter().any(|line| line.starts_with("message")), "{said}: {told:?}");
        assert_eq!(demo.stats("open=0").await, (1, 0), "{said}");
    }
}

#[tokio::test]
async fn what_the_provider_says_of_an_error_decides_too() {
    let said = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}"#;
    let busy = r#"{"error":{"message":"busy","code":429}}"#;
    let hello = || turn(vec![NewMessage::text(Role::User, "hello")]);
    // In the stream, before its first token.
    let (url, _requests) = provider(vec![stream(&[busy]), stream(&[said])]).await;
    assert_eq!(finish(&executor(&url, ""), hello()).await.0.unwrap(), Outcome::Completed);
    // After the beginning of a call, which is a token, too.
    let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"read"}}]}}]}"#;
    let (url, _requests) = provider(vec![stream(&[call, busy]), stream(&[said])]).await;
    assert!(matches!(finish(&executor(&url, ""), hello()).await.0, Err(Error::Failed(_))));
    // A quota does not fill again while one waits.
    let quota = r#"{"error":{"message":"no money left","code":"insufficient_quota"}}"#;
    let (url, _requests) = provider(vec![answer("429 Too Many Requests", quota), stream(&[said])]).await;
    let (outcome, _) = finish(&executor(&url, ""), hello()).await;
    assert!(matches!(&outcome, Err(Error::Failed(words)) if words.contains("no money left")), "{outcome:?}");
}

#[tokio::test]
async fn a_transcript_that_is_too_long_is_an_error_of_its_own() {
    let (outcome, _) = Demo::start().await.says("/context").await;
    assert!(matches!(outcome, Err(Error::ContextTooLong(_))), "{outcome:?}");
    let bodies = [
        r#"{"error":{"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
        r#"{"error":{"message":"prompt is too long: 9 tokens > 8 maximum"}}"#,
        r#"{"object":"error","message":"This model's maximum context length is 8 tokens."}"#,
        "Input is too long for this model",
    ];
    for body in bodies {
        let (url, _requests) = provider(vec![answer("400 Bad Request", body)]).await;
        let (outcome, _) = finish(&executor(&url, ""), turn(vec![NewMessage::text(Role::User, "hello")])).await;
        assert!(matches!(outcome, Err(Error::ContextTooLong(_))), "{body}: {outcome:?}");
    }
}

#[tokio::test]
async fn silence_ends_a_run() {
    for said in ["/silent", "/slow 0ms\nhello\n/silent"] {
        let demo = Demo::start().await;
        let executor = executor(&format!("http://{}/v1", demo.address), "silence_timeout = '100ms'");
        let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, said)])).await;
        assert!(matches!(&outcome, Err(Error::Timeout(words)) if words.contains("100ms")), "{said}: {outcome:?}");
        assert_eq!(demo.stats("open=0").await, (1, 0), "{said}");
    }
    // Not even a status.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let executor = executor(&format!("http://{}", listener.local_addr().unwrap()), "silence_timeout = '50ms'");
    let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
    assert!(matches!(outcome, Err(Error::Timeout(_))), "{outcome:?}");
}

#[tokio::test]
async fn nothing_grows_without_bound() {
    let event = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(5 << 20));
    let long = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(600));
    let cases = [(stream(&[&event]), "event of more than 4 MiB"), (stream(&[&long, &long]), "more than 1000 bytes")];
    for (answer, words) in cases {
        let (url, _requests) = provider(vec![answer]).await;
        let limits = Limits { message: 1000, ..Limits::default() };
        let executor = with(&url, "", Arc::new(NoAttachments), limits);
        let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
        assert!(matches!(&outcome, Err(Error::Failed(why)) if why.contains(words)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_stream_may_be_longer_than_any_of_its_events() {
    let event = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(1 << 20));
    let (url, _requests) = provider(vec![stream(&[&event, &event, &event, &event, &event, &event, "[DONE]"])]).await;
    let executor = with(&url, "", Arc::new(NoAttachments), Limits { message: 8 << 20, ..Limits::default() });
    let (outcome, told) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
    assert_eq!((outcome.unwrap(), told.len()), (Outcome::Completed, 7));
}

#[tokio::test]
async fn an_answer_that_is_whole_survives_what_comes_after_it() {
    let said = r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}"#;
    for after in ["{ no JSON", r#"{"error":{"message":"late"}}"#] {
        let (url, _requests) = provider(vec![stream(&[said, after])]).await;
        let (outcome, told) = finish(&executor(&url, ""), turn(vec![NewMessage::text(Role::User, "hello")])).await;
        assert_eq!((outcome.unwrap(), told.len()), (Outcome::Completed, 2));
    }
}

#[tokio::test]
async fn a_web_page_and_an_error_in_place_of_a_stream_are_told_as_such() {
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>".to_owned(), "web page"),
        (format!("{json}{{\"error\":{{\"message\":\"no such model\"}}}}"), "no such model"),
        (format!("{json}{{}}"), "no reply"),
    ];
    for (answer, words) in cases {
        let (url, _requests) = provider(vec![answer]).await;
        let (outcome, _) = finish(&executor(&url, ""), turn(vec![NewMessage::text(Role::User, "hello")])).await;
        assert!(matches!(&outcome, Err(Error::Failed(why)) if why.contains(words)), "{outcome:?}");
    }
}
