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

#[tokio::test]
async fn an_answer_that_came_after_a_restart_is_given_when_the_agent_asks_again() {
    let mut agent = Talking::to(&[], "");
    let mut running = agent.running("/permit touch it");
    let asking = running.until(|event| match event {
        Event::Message(message) if message.tool_calls.is_some() => {
            message.tool_calls.clone().filter(|calls| calls[0].function.name == "request_permission")
        }
        _ => None,
    });
    let calls = asking.await;
    let question = running.until_question().await;
    drop(running);
    let mut agent = agent.restarted(&[]).await;
    agent.history.push(NewMessage { tool_calls: Some(calls), ..NewMessage::text(Role::Assistant, "") });
    agent.history.push(NewMessage {
        tool_call_id: Some(question.tool_call_id),
        ..NewMessage::text(Role::Tool, "Always allow\n\n/permit touch it")
    });
    // The user's answer alone is what is stored; the rest has this agent ask again.
    agent.history.last_mut().unwrap().content = "Always allow".into();
    let turn = turn(agent.history.clone());
    let (outcome, told) = finish(&*agent.pool, turn).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert!(!told.iter().any(|line| line.starts_with("question")), "{told:#?}");
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
