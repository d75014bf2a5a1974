//! What the server tells and asks during a turn, and what comes of it.

use super::{super::acp::said::answered_after_a_restart, *};

#[tokio::test]
async fn its_words_its_thoughts_its_calls_and_its_plan() {
    let mut agent = talking(&[], "");
    let script =
        "/slow 0ms\n/think hm\none two\n/tool look it is there\n/fail-tool move nothing\n/plan first | second\nthree";
    let (outcome, told) = agent.say(script).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    let told: Vec<&str> = told.iter().filter(|line| !line.starts_with("progress")).map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "reasoning hm",
            "text one ",
            "text two",
            "message [commentary] one two",
            "message [commentary]  look{\"text\":\"it is there\"}",
            "message [result] it is there",
            "message [commentary]  move{\"text\":\"nothing\"}",
            "message [result] nothing",
            "tasks {\"items\":[{\"id\":\"task_1\",\"description\":\"first\",\"status\":\"completed\",\"priority\":\"medium\"},\
             {\"id\":\"task_2\",\"description\":\"second\",\"status\":\"pending\",\"priority\":\"medium\"}]}",
            "text three",
            "usage {\"prompt_tokens\":19,\"completion_tokens\":19,\"total_tokens\":38,\"cost\":{\"amount\":0.5,\"currency\":\"USD\"}}",
            "message [final_answer] three",
        ]
    );
}

#[tokio::test]
async fn a_turn_that_fails_costs_the_session_nothing() {
    let mut agent = talking(&[], "");
    let (outcome, told) = agent.say("as far as\n/error the model is away").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent failed: the model is away");
    assert_eq!(told.last().unwrap(), "message [commentary] as far as");
    // The server says once more that it is over: that is not the end of this one.
    assert_eq!(agent.hears("and on").await, "and on");
}

#[tokio::test]
async fn what_means_nothing_is_passed_over_and_a_long_event_is_taken() {
    let mut agent = talking(&["--chatty"], "");
    assert_eq!(agent.hears("/garbage\nstill here").await, "still here");
    assert_eq!(agent.hears("/huge 10485760").await.len(), 10 << 20);
}

async fn asked(agent: &mut Talking, script: &str, answer: &str) -> String {
    let mut running = agent.running(script);
    let question = running.until_question().await;
    assert!(question.options.contains(&answer.to_owned()), "{:?}", question.options);
    let text = NewMessage::text(Role::Tool, answer);
    question.answer.send(text.into_message(9, Timestamp(0))).unwrap();
    let said = running.until(|event| if let Event::TextDelta(text) = event { Some(text) } else { None }).await;
    while running.events.recv().await.is_some() {}
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Completed);
    format!("{}: {said}", question.question)
}

#[tokio::test]
async fn a_permission_is_asked_of_the_user() {
    let mut agent = talking(&[], "");
    for (answer, word) in [("Allow", "once"), ("Always allow", "always"), ("Reject", "reject")] {
        let said = asked(&mut agent, "/permit touch it", answer).await;
        assert_eq!(said, format!("The agent asks for permission: bash touch it: answered: {word}"));
    }
}

#[tokio::test]
async fn a_question_of_the_agent_is_asked_of_the_user() {
    let mut agent = talking(&[], "permissions = 'allow'");
    assert_eq!(asked(&mut agent, "/ask Which? | A | B", "B").await, "Which?: answered: [[\"B\"]]");
}

#[tokio::test]
async fn what_a_session_below_asks_is_asked_too() {
    let mut agent = talking(&[], "");
    let said = asked(&mut agent, "/child /permit touch it", "Allow").await;
    assert_eq!(said, "The agent asks for permission: bash touch it: the one below has ended");
}

#[tokio::test]
async fn a_permission_is_given_or_not_without_asking() {
    for (policy, answer) in [("allow", "answered: once"), ("deny", "answered: reject")] {
        let mut agent = talking(&[], &format!("permissions = '{policy}'"));
        assert_eq!(agent.hears("/permit touch it").await, answer);
    }
}

#[tokio::test]
async fn an_answer_that_came_after_a_restart_is_given_when_the_agent_asks_again() {
    let mut agent = talking(&[], "");
    let (_, stored) = answered_after_a_restart(&mut agent, "/permit touch it", "Always allow").await;
    let mut agent = agent.restarted(&[]).await;
    agent.history.extend(stored);
    // The demo server does what the last line says: the real one's model would ask again by itself.
    agent.history.push(NewMessage::text(Role::User, "/permit touch it"));
    let last = agent.history.len() - 2;
    agent.history.swap(last, last + 1);
    let (outcome, told) = finish(&*agent.pool, turn(agent.history.clone())).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert!(!told.iter().any(|line| line.starts_with("question")), "{told:#?}");
    assert!(told.contains(&"text answered: always".into()), "{told:#?}");
}

/// After a restart the agent asks for something else, in the same words.
#[tokio::test]
async fn an_answer_is_for_what_was_shown_and_for_nothing_else() {
    for (again, asks) in [
        (r#"/permit ls | { "command": "ls" }"#, false),
        (r#"/permit ls | {"command":"ls; rm -rf /"}"#, true),
        ("/permit ls", true),
        (r#"/permit rm | {"command":"ls"}"#, true),
    ] {
        let mut agent = talking(&[], "");
        let (question, mut stored) =
            answered_after_a_restart(&mut agent, r#"/permit ls | {"command":"ls"}"#, "Allow").await;
        assert!(question.question.contains(r#""command": "ls""#), "it is not shown: {}", question.question);
        let agent = agent.restarted(&[]).await;
        stored.insert(1, NewMessage::text(Role::User, again));
        let mut running = Running::of(agent.pool.clone(), turn(stored));
        let asked = running.until(|event| match event {
            Event::Question(_) => Some(true),
            Event::TextDelta(text) => {
                assert_eq!(text, "answered: once", "{again}");
                Some(false)
            }
            _ => None,
        });
        assert_eq!(asked.await, asks, "{again}");
    }
}

#[tokio::test]
async fn the_model_is_the_one_that_is_named() {
    let mut agent = talking(&[], "");
    let usual = "{\"providerID\":\"demo\",\"modelID\":\"usual\"}";
    assert_eq!(agent.hears("/model").await, usual);
    let named = |turn: Turn, model: &str| Turn { model: Some(model.into()), ..turn };
    let turn = named(agent.turn("/model"), "some/model/of-it");
    let (_, told) = finish(&*agent.pool, turn).await;
    assert_eq!(told[0], "text {\"providerID\":\"some\",\"modelID\":\"model/of-it\"}");
    assert_eq!(agent.hears("/model").await, usual, "it does not go on with the one before");
    let turn = named(agent.turn("/model"), "model");
    let error = finish(&*agent.pool, turn).await.0.unwrap_err();
    assert!(error.to_string().starts_with("the model \"model\" is no provider/model"), "{error}");
}

#[tokio::test]
async fn sessions_share_one_server_and_work_where_each_is_told_to() {
    let agent = talking(&[], "");
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let odd = there.path().join("a place & more?");
    std::fs::create_dir(&odd).unwrap();
    let say = |session: &str, folder: &Path, text: &str| Turn {
        session_id: session.parse().unwrap(),
        workspace: Some(folder.to_str().unwrap().into()),
        ..turn(vec![NewMessage::text(Role::User, text)])
    };
    let mut first = Running::of(agent.pool.clone(), say("a", here.path(), "/where\n/endless"));
    let place = first.until(|event| if let Event::TextDelta(text) = event { Some(text) } else { None }).await;
    assert_eq!(place, here.path().canonicalize().unwrap().to_str().unwrap());
    let (outcome, told) = finish(&*agent.pool, say("b", &odd, "/where")).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert_eq!(told[0], format!("text {}", odd.canonicalize().unwrap().display()));
    // Nor does one that works in the same place hear what another one says.
    let (_, told) = finish(&*agent.pool, say("c", here.path(), "hello")).await;
    assert_eq!(told[0], "text hello");
    assert_eq!(processes(&agent).len(), 2, "the launcher and the server");
    assert_eq!(first.cancel().await.unwrap(), Outcome::Cancelled);
}
