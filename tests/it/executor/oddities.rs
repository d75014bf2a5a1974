//! Providers are odd: each oddity is played by the demo model, or written down byte for byte.

use culm::model::{JsonObject, ToolCall};
use serde_json::json;

use super::*;

/// The messages of a turn, and how it ended.
struct Heard {
    outcome: Result<Outcome, Error>,
    messages: Vec<NewMessage>,
    usage: JsonObject,
}

impl Heard {
    fn calls(&self) -> Vec<ToolCall> {
        self.messages.iter().flat_map(|message| message.tool_calls.iter().flatten().cloned()).collect()
    }

    fn text(&self) -> String {
        self.messages.iter().map(|message| message.content.as_str()).collect()
    }

    fn error(&self) -> String {
        self.outcome.as_ref().unwrap_err().to_string()
    }
}

/// Carries a turn out, and answers what it asks.
async fn hear(executor: &dyn Executor, turn: Turn) -> Heard {
    let (sender, mut events) = mpsc::channel(EVENTS);
    let listening = async {
        let (mut messages, mut usage) = (Vec::new(), JsonObject::new());
        while let Some(event) = events.recv().await {
            match event {
                Event::Message(message) => messages.push(message),
                Event::Usage(used) => usage = used,
                Event::Question(Question { tool_call_id, answer, .. }) => {
                    let result = NewMessage { tool_call_id: Some(tool_call_id), ..NewMessage::text(Role::Tool, "yes") };
                    answer.send(stored(99, result)).unwrap();
                }
                _ => {}
            }
        }
        (messages, usage)
    };
    let (outcome, (messages, usage)) = tokio::join!(executor.run(turn, sender, CancellationToken::new()), listening);
    Heard { outcome, messages, usage }
}

async fn says(demo: &Demo, text: &str) -> Heard {
    hear(&demo.executor(), turn(vec![NewMessage::text(Role::User, text)])).await
}

#[tokio::test]
async fn answers_are_read_whatever_their_label_their_bytes_and_their_end() {
    let demo = Demo::start().await;
    for (said, wanted) in [
        ("/label application/json\nhello", "hello"),
        ("/label text/plain; charset=utf-8\nhello", "hello"),
        ("/label text/html\nhello", "hello"),
        ("/label application/x-ndjson\nhello", "hello"),
        ("/label none\nhello", "hello"),
        ("/gzip\nhello", "hello"),
        ("key\n/half\nend", "key\u{1f511}end"),
        ("key\n/byte\nend", "key\u{fffd}end"),
        ("hello\n/linger", "hello"),
        ("hello\n/linger heartbeats", "hello"),
        ("hello\n/count choice\n/linger heartbeats", "hello"),
        ("/raw : a comment\\n\\nevent: x\\nid: 1\\n\nhello", "hello"),
    ] {
        let heard = says(&demo, said).await;
        assert_eq!(heard.outcome.as_ref().unwrap(), &Outcome::Completed, "{said}");
        assert_eq!(heard.text(), wanted, "{said}");
    }
    let requests = demo.stats("open=0").await;
    assert_eq!(requests, (12, 0), "each was asked once, and none is still open");
}

#[tokio::test]
async fn heartbeats_keep_no_run_alive() {
    let demo = Demo::start().await;
    for said in ["/heartbeats", "half\n/heartbeats"] {
        let executor = executor(&format!("http://{}/v1", demo.address), "content_timeout = '500ms'");
        let heard = hear(&executor, turn(vec![NewMessage::text(Role::User, said)])).await;
        assert!(matches!(&heard.outcome, Err(Error::Timeout(words)) if words.contains("500ms")), "{said}");
    }
    assert_eq!(demo.stats("open=0").await.1, 0);
}

#[tokio::test]
async fn calls_are_whole_however_they_are_numbered() {
    let demo = Demo::start().await;
    for manner in ["", "/ids\n", "/zero\n", "/ids\n/zero\n"] {
        let heard = says(&demo, &format!("{manner}/tool read {{\"path\": \"a\"}}\n/tool list {{\"n\": 1}}")).await;
        let calls = heard.calls();
        let calls: Vec<_> = calls.iter().map(|call| (&*call.function.name, &*call.function.arguments)).collect();
        assert_eq!(calls, [("read", "{\"path\": \"a\"}"), ("list", "{\"n\": 1}")], "{manner}");
    }
    let calls = says(&demo, "/function read {\"path\": \"a\"}").await.calls();
    assert_eq!((&*calls[0].function.name, &*calls[0].function.arguments), ("read", "{\"path\": \"a\"}"));
}

#[tokio::test]
async fn what_went_wrong_is_no_silent_success() {
    let cases = [
        // What is said, the words of the error, and how often the model is asked.
        ("half\n/broken upstream died", "upstream died", 1),
        ("half\n/finish error", "'error'", 1),
        ("/finish stop", "without saying anything", 2),
        ("/finish length", "'length'", 1),
        ("/finish content_filter", "'content_filter'", 1),
        ("/raw {\"object\":\"error\",\"message\":\"no such model\"}\\n\n/end", "no such model", 1),
        ("/raw event: error\\ndata: {\"message\": \"told so\"}\\n\\n\n/end", "told so", 1),
        ("/raw error: {\"code\": 400, \"message\": \"told so\"}\\n\\n\n/end", "told so", 1),
    ];
    for (said, words, requests) in cases {
        let demo = Demo::start().await;
        let heard = says(&demo, said).await;
        assert!(heard.error().contains(words), "{said}: {}", heard.error());
        assert_eq!((heard.messages.len(), demo.stats("").await.0), (0, requests), "{said}");
    }
    let demo = Demo::start().await;
    let heard = says(&demo, "/reasoning all of it, in the wrong place").await;
    assert_eq!(heard.messages[0].reasoning.as_deref(), Some("all of it, in the wrong place"));
}

/// The demo model refuses arguments that are no JSON, as providers do.
#[tokio::test]
async fn a_call_that_was_cut_off_ends_the_run_and_not_the_session() {
    let demo = Demo::start().await;
    let said = NewMessage::text(Role::User, "/finish length\n/tool write {\"path\": \"x");
    let heard = hear(&demo.executor(), turn(vec![said.clone()])).await;
    assert!(heard.error().contains("cut off"), "{}", heard.error());
    let cut = heard.messages[0].clone();
    let metadata: Value = cut.metadata.clone().unwrap().parse().unwrap();
    assert_eq!(metadata["incomplete_tool_calls"], json!([cut.tool_calls.as_ref().unwrap()[0].id]));
    let next = turn(vec![said, cut, NewMessage::text(Role::User, "go on")]);
    assert_eq!(hear(&demo.executor(), next).await.text(), "go on");
}

#[tokio::test]
async fn a_server_that_refuses_stream_options_is_asked_without_from_then_on() {
    let demo = Demo::start().await;
    let executor = demo.executor();
    let strict = || turn(vec![NewMessage::text(Role::User, "/strict\nhello")]);
    for requests in [2, 3, 4] {
        let heard = hear(&executor, strict()).await;
        assert_eq!((heard.text().as_str(), demo.stats("").await.0), ("hello", requests));
    }
    // What such a refusal hides is told; what takes the field is believed.
    let other = demo.executor();
    let heard =
        hear(&other, turn(vec![NewMessage::text(Role::User, "/refuse 422 {\"detail\": \"no such model\"}")])).await;
    assert!(heard.error().ends_with("no such model"), "{}", heard.error());
    let setting = self::executor(&format!("http://{}/v1", demo.address), "stream_options = false");
    let heard = hear(&setting, turn(vec![NewMessage::text(Role::User, "/slow 0ms\n/show")])).await;
    assert!(!heard.text().contains("stream_options"), "{}", heard.text());
}

#[tokio::test]
async fn what_a_provider_needs_back_goes_back() {
    let demo = Demo::start().await;
    for said in ["/sign EjQK\n/tool ls\ndone", "/think let me see\n/tool ls\ndone"] {
        let said = NewMessage::text(Role::User, said);
        let first = hear(&demo.executor(), turn(vec![said.clone()])).await;
        let call = first.calls().remove(0);
        let result = NewMessage { tool_call_id: Some(call.id), ..NewMessage::text(Role::Tool, "a b") };
        // As it is stored: what is sent back went through the database's JSON.
        let next = hear(&demo.executor(), turn(vec![said, first.messages[0].clone(), result])).await;
        assert_eq!(next.outcome.as_ref().unwrap(), &Outcome::Completed);
        assert_eq!(next.text(), "done");
    }
    // And within one run.
    let heard = says(&demo, "/sign EjQK\n/ask which?\ndone").await;
    assert_eq!((heard.outcome.unwrap(), heard.messages.len()), (Outcome::Completed, 2));
}

#[tokio::test]
async fn counts_are_found_and_added_up_wherever_they_are() {
    let demo = Demo::start().await;
    for place in ["", "/count choice\n", "/count x_groq\n", "/count every\n"] {
        let heard = says(&demo, &format!("{place}/usage 10 5\n/cost 0.01\n/ask which?\n/usage 20 7\ndone")).await;
        assert_eq!(heard.usage["total_tokens"], 42, "{place}");
        let cost = heard.usage["cost"].as_f64().unwrap();
        assert!((cost - 0.02).abs() < 1e-9, "{place}{cost}");
    }
    // An empty answer was paid for as well.
    let heard = says(&demo, "/usage 10 0\n/finish stop").await;
    assert_eq!(heard.usage["total_tokens"], 20);
}

#[tokio::test]
async fn refusals_are_told_in_the_providers_words_and_what_passes_is_tried_again() {
    let cases = [
        ("/refuse 400 {\"detail\": [{\"loc\": [\"body\", \"x\"], \"msg\": \"bad\"}]}", "body.x: bad"),
        ("/refuse 404 [{\"error\": {\"message\": \"no such model\"}}]", "no such model"),
        ("/refuse 402 \"pay first\"", "pay first"),
        ("/page 403", "403 The gateway failed"),
    ];
    for (said, words) in cases {
        let demo = Demo::start().await;
        let error = says(&demo, said).await.error();
        assert!(error.ends_with(words) && !error.contains('<'), "{said}: {error}");
        assert_eq!(demo.stats("").await.0, 1, "{said}");
    }
    for status in [408, 409, 425, 429, 502, 529] {
        let demo = Demo::start().await;
        assert_eq!(says(&demo, &format!("/page {status} 1\nhello")).await.text(), "hello");
        assert_eq!(demo.stats("").await.0, 2, "{status}");
    }
    let demo = Demo::start().await;
    assert_eq!(says(&demo, "/error 429 1 0.05\nhello").await.text(), "hello");
}
