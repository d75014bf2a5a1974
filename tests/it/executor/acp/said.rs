//! What an agent says and asks during a turn, and what comes of it.

use super::*;

#[tokio::test]
async fn its_words_its_thoughts_its_calls_and_its_plan() {
    let mut agent = Talking::to(&[], "");
    let script = "/slow 0ms\n/think hm\none two\n/tool look at it\n/fail-tool move nothing\n/plan first | second\n/usage 10 100\nthree";
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
            "message [commentary]  look{\"text\":\"at it\"}",
            "message [result] at it",
            "message [commentary]  move{\"text\":\"nothing\"}",
            "message [result] nothing",
            "tasks {\"items\":[{\"id\":\"task_1\",\"description\":\"first\",\"status\":\"completed\",\"priority\":\"medium\"},\
             {\"id\":\"task_2\",\"description\":\"second\",\"status\":\"pending\",\"priority\":\"medium\"}]}",
            "usage {\"context_tokens\":10,\"context_size\":100}",
            "text three",
            "usage {\"context_tokens\":10,\"context_size\":100,\"prompt_tokens\":21,\"completion_tokens\":21,\"total_tokens\":42}",
            "message [final_answer] three",
        ]
    );
}

#[tokio::test]
async fn a_turn_that_ends_in_another_way() {
    let mut agent = Talking::to(&[], "");
    let (outcome, told) = agent.say("as far as\n/max").await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert_eq!(told.last().unwrap(), "message [commentary] as far as");
    let (outcome, _) = agent.say("/refuse").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent refuses to go on");
    let (outcome, _) = agent.say("/error the model is away").await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent refuses: Internal error (\"the model is away\")");
    // None of it has cost the agent its process.
    assert_eq!(agent.hears("and on").await, "and on");
    agent.pool.shut_down().await;
}

#[tokio::test]
async fn what_is_no_message_is_passed_over_and_a_long_one_is_taken() {
    let mut agent = Talking::to(&[], "");
    assert_eq!(agent.hears("/garbage\nstill here").await, "still here");
    assert_eq!(agent.hears("/huge 10485760").await.len(), 10 << 20);
    assert_eq!(agent.hears("/ext culm/unknown").await, "-32601", "an unknown request is refused politely");
}

#[tokio::test]
async fn a_permission_is_asked_of_the_user() {
    let mut agent = Talking::to(&[], "");
    for (answer, option) in [("Allow", "allow"), ("Reject", "reject")] {
        let mut running = agent.running("/permit touch it");
        let question = running.until_question().await;
        assert_eq!(question.question, "The agent asks for permission: touch it");
        assert_eq!((question.options.len(), question.allow_custom), (3, false));
        let text = NewMessage::text(Role::Tool, answer);
        question.answer.send(text.into_message(9, Timestamp(0))).unwrap();
        let said = running.until(|event| match event {
            Event::TextDelta(text) => Some(text),
            _ => None,
        });
        assert_eq!(said.await, format!("answered: {option}"));
        assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Completed);
    }
}

#[tokio::test]
async fn a_permission_is_given_or_not_without_asking() {
    for (policy, answer) in [("allow", "answered: allow"), ("deny", "answered: reject")] {
        let mut agent = Talking::to(&[], &format!("permissions = '{policy}'"));
        assert_eq!(agent.hears("/permit touch it").await, answer);
    }
}

/// What is stored once a run has asked, and was answered after its server had ended.
pub(in crate::executor) async fn answered_after_a_restart(
    agent: &mut Talking,
    script: &str,
    answer: &str,
) -> (Question, Vec<NewMessage>) {
    let mut running = agent.running(script);
    let asking = running.until(|event| match event {
        Event::Message(message) => {
            let asks = |calls: &[culm::model::ToolCall]| calls[0].function.name == "request_permission";
            message.tool_calls.as_deref().is_some_and(asks).then_some(message)
        }
        _ => None,
    });
    let asking = asking.await;
    let question = running.until_question().await;
    drop(running);
    let answered = NewMessage {
        tool_call_id: Some(question.tool_call_id.clone()),
        tool_success: Some(true),
        ..NewMessage::text(Role::Tool, answer)
    };
    (question, vec![asking, answered])
}

#[tokio::test]
async fn an_answer_that_came_after_a_restart_is_given_when_the_agent_asks_again() {
    let mut agent = Talking::to(&[], "");
    let (_, stored) = answered_after_a_restart(&mut agent, "/permit touch it", "Always allow").await;
    let agent = agent.restarted(&[]).await;
    let (outcome, told) = finish(&*agent.pool, turn(asks_again("/permit touch it", stored))).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert!(!told.iter().any(|line| line.starts_with("question")), "{told:#?}");
    assert!(told.contains(&"text answered: always".to_owned()), "{told:#?}");
}

/// A history after which the demo agent does this: what a model would do by itself, it has to be told.
pub(super) fn asks_again(script: &str, stored: Vec<NewMessage>) -> Vec<NewMessage> {
    let mut history = stored;
    history.insert(1, NewMessage::text(Role::User, script));
    history
}

/// After a restart the agent asks for something else, in the same words.
#[tokio::test]
async fn an_answer_is_for_what_was_shown_and_for_nothing_else() {
    let shown = r#"/permit Bash | {"command":"ls","in":["a","b"]}"#;
    for (again, session, asks) in [
        (r#"/permit Bash | { "in": ["a", "b"], "command": "ls" }"#, "s", false),
        (r#"/permit Bash | {"command":"rm -rf /","in":["a","b"]}"#, "s", true),
        (r#"/permit Bash | {"command":"ls","in":["b","a"]}"#, "s", true),
        ("/permit Bash", "s", true),
        (r#"/permit bash | {"command":"ls","in":["a","b"]}"#, "s", true),
        (shown, "other", true),
    ] {
        let mut agent = Talking::to(&[], "");
        let (question, stored) = answered_after_a_restart(&mut agent, shown, "Allow").await;
        assert!(question.question.contains(r#""command": "ls""#), "it is not shown: {}", question.question);
        let agent = agent.restarted(&[]).await;
        let turn = Turn { session_id: session.parse().unwrap(), ..turn(asks_again(again, stored)) };
        let mut running = Running::of(agent.pool.clone(), turn);
        let asked = running.until(|event| match event {
            Event::Question(question) => Some(Some(question)),
            Event::TextDelta(text) => {
                assert_eq!(text, "answered: allow", "{again}");
                Some(None)
            }
            _ => None,
        });
        assert_eq!(asked.await.is_some(), asks, "{again} in {session}");
    }
}

/// An agent that calls a tool by the name of Culm's own question cannot answer it.
#[tokio::test]
async fn no_agent_answers_for_the_user() {
    let mut agent = Talking::to(&[], "");
    let script = r#"/permit Bash | {"command":"ls"}"#;
    let (_, stored) = answered_after_a_restart(&mut agent, script, "Allow").await;
    let [mut asked, answered] = <[NewMessage; 2]>::try_from(stored).unwrap();
    // All that an agent can have stored: a call with these arguments, and its result.
    asked.metadata =
        Some(serde_json::json!({ "title": "request_permission", "kind": "other", "locations": [] }).into());
    let agent = agent.restarted(&[]).await;
    let mut running = Running::of(agent.pool.clone(), turn(asks_again(script, vec![asked, answered])));
    running.until_question().await;
}

#[tokio::test]
async fn what_is_configured_now_goes_before_an_answer_of_before() {
    let mut agent = Talking::to(&[], "");
    let (_, stored) = answered_after_a_restart(&mut agent, "/permit touch it", "Allow").await;
    agent.pool.shut_down().await;
    let denying = Talking::to(&[], "permissions = 'deny'");
    let (_, told) = finish(&*denying.pool, turn(asks_again("/permit touch it", stored))).await;
    assert!(told.contains(&"text answered: reject".to_owned()), "{told:#?}");
}

fn calls_and_results(told: &[String]) -> (usize, usize) {
    let of = |begin: &str| told.iter().filter(|line| line.starts_with(begin)).count();
    (of("message [commentary]  "), of("message [result]"))
}

#[tokio::test]
async fn a_call_whose_permission_is_asked_before_it_is_announced_is_stored_once() {
    let mut agent = Talking::to(&[], "permissions = 'allow'");
    let (outcome, told) = agent.say("/permit-first ls").await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert_eq!(calls_and_results(&told), (1, 1), "{told:#?}");
    assert!(told.contains(&r#"message [commentary]  other{"command":"ls"}"#.to_owned()), "{told:#?}");
}

#[tokio::test]
async fn of_too_many_calls_the_oldest_are_forgotten() {
    let mut agent = Talking::to(&[], "");
    let (_, told) = agent.say("/tools 300").await;
    // Of those that were forgotten, the end tells of the call once more; the first of these takes the place of another.
    assert_eq!(calls_and_results(&told), (300 + (300 - 256) + 1, 300));
}

#[tokio::test]
async fn words_that_come_shortly_after_the_end_of_a_turn_are_kept() {
    let mut agent = Talking::to(&[], "");
    let (outcome, told) = agent.say("/slow 0ms\n/late and this").await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert_eq!(told.last().unwrap(), "message [final_answer] and this");
}

#[tokio::test]
async fn names_and_counts_are_read_where_an_agent_has_them() {
    let mut agent = Talking::to(&[], "");
    let (_, told) = agent.say("/claude Bash\n/quota 7 5").await;
    assert!(told.contains(&"message [commentary]  Bash{}".to_owned()), "{told:#?}");
    let usage = r#"usage {"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}"#;
    assert_eq!(told.last().unwrap(), usage);
}

#[tokio::test]
async fn files_are_read_and_written_below_the_working_directory_when_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file");
    for (files, written, read) in
        [("none", "not written", "not read"), ("read", "not written", "here"), ("write", "written", "again")]
    {
        std::fs::write(&path, "here").unwrap();
        let mut agent = Talking::to(&[], &format!("files = '{files}'"));
        let mut hears = async |text: String| {
            agent.history.push(NewMessage::text(Role::User, &text));
            let turn = Turn { workspace: Some(folder.path().to_str().unwrap().into()), ..turn(agent.history.clone()) };
            let (_, told) = finish(&*agent.pool, turn).await;
            told.iter().filter_map(|line| line.strip_prefix("text ")).collect::<String>()
        };
        // The demo agent splits at the first space: the name has none there.
        let link = folder.path().join("link");
        let _ = std::os::unix::fs::symlink("a file", &link);
        assert!(hears(format!("/write {} again", link.display())).await.starts_with(written), "{files}");
        assert!(hears(format!("/read {}", path.display())).await.starts_with(read), "{files}");
        assert!(hears("/read /etc/hostname".into()).await.starts_with("not read"));
        assert!(hears(format!("/read {}/../../etc/hostname", folder.path().display())).await.starts_with("not read"));
    }
}

#[tokio::test]
async fn it_works_where_it_is_told_to_and_at_home_in_a_home_of_its_own() {
    let mut agent = Talking::to(&[], "env = { GREETING = 'hello' }");
    let home = agent.home.path().join("homes");
    let where_ = agent.hears("/where").await;
    let own = home.join(agent.row().id.as_str());
    assert_eq!(where_, format!("{} {}", own.join("work").display(), own.display()));
    let environment = std::fs::read(format!("/proc/{}/environ", agent.row().process.unwrap().pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("GREETING=hello"));
    let names = environment.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0));
    let known = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "HOME", "GREETING", "CULM_BACKEND"];
    let foreign: Vec<&str> = names.filter(|name| !known.contains(name) && !name.starts_with("XDG_")).collect();
    assert!(foreign.is_empty(), "it inherits {foreign:?}");
}

#[tokio::test]
async fn the_model_that_is_named_is_set_where_the_agent_offers_it() {
    let mut agent = Talking::to(&["--models", "small,large"], "");
    let mut with = async |model: Option<&str>| {
        let turn = Turn { model: model.map(String::from), ..agent.turn("/model") };
        let (outcome, told) = finish(&*agent.pool, turn).await;
        (
            outcome.map_err(|error| error.to_string()),
            told.iter().find_map(|line| line.strip_prefix("text ").map(String::from)),
        )
    };
    for (named, set) in [(None, "small"), (Some("large"), "large"), (None, "small"), (Some("small"), "small")] {
        assert_eq!(with(named).await, (Ok(Outcome::Completed), Some(set.into())), "{named:?}");
    }
    let unknown = "the agent has no model 'huge'; it offers small, large";
    assert_eq!(with(Some("huge")).await, (Err(unknown.into()), None));
    assert_eq!(
        with(Some("large")).await,
        (Ok(Outcome::Completed), Some("large".into())),
        "it is none the worse for it"
    );
    // One that offers none goes its own way.
    let mut agent = Talking::to(&[], "");
    let turn = Turn { model: Some("large".into()), ..agent.turn("/model") };
    assert_eq!(finish(&*agent.pool, turn).await.0.unwrap(), Outcome::Completed);
}
