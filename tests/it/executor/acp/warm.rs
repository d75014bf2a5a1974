//! What is kept between turns, what is taken up again, and what is ended.

use super::*;

#[tokio::test]
async fn it_stays_between_turns_and_is_told_only_what_is_new() {
    let mut agent = Talking::to(&[], "");
    agent.hears("one").await;
    let (row, processes) = (agent.row(), agent.processes().len());
    assert_eq!((row.status, processes), (BackendStatus::Warm, 2), "the launcher and the agent");
    assert_eq!(agent.hears("/memory").await, "[\"one\", \"/memory\"]");
    assert_eq!(agent.row().process, row.process);
    agent.pool.shut_down().await;
    assert_eq!((agent.row().status, agent.processes()), (BackendStatus::Dormant, vec![]));
}

#[tokio::test]
async fn after_a_restart_it_goes_on_where_it_can() {
    for manner in [&[][..], &["--no-resume"], &["--forgetful"]] {
        let mut agent = Talking::to(manner, "");
        agent.hears("one").await;
        let mut agent = agent.restarted(manner).await;
        let memory = agent.hears("/memory").await;
        match manner {
            ["--forgetful"] => assert_eq!(
                memory,
                "[\"What follows was said before, by the user and by you. Go on from it; do not answer it again.\\n\\n\
                 [user] one\\n\\n[you] one\\n\\n/memory\"]"
            ),
            _ => assert_eq!(memory, "[\"one\", \"/memory\"]", "{manner:?}"),
        }
    }
}

/// Linux tells a process of the end of the thread that started it: that must not be any thread that happens to run a turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_outlives_the_thread_that_its_first_turn_was_on() {
    let mut agent = Talking::to(&[], "");
    let (turn, pool, runtime) = (agent.turn("one"), agent.pool.clone(), tokio::runtime::Handle::current());
    let first = std::thread::spawn(move || runtime.block_on(finish(&*pool, turn)));
    let (outcome, _) = tokio::task::spawn_blocking(|| first.join().unwrap()).await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    agent.history.push(NewMessage::text(Role::Assistant, "one"));
    let process = agent.row().process;
    assert_eq!(agent.hears("/slow 100ms\n/memory").await, "[\"one\", \"/slow 100ms\\n/memory\"]");
    assert_eq!(agent.row().process, process);
}

/// The signal that tells of a parent's end comes at the end of a thread, too, and anybody may send it.
#[tokio::test]
async fn its_launcher_looks_at_its_parent_before_it_kills() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let own = std::process::id().to_string();
    let mut launcher = tokio::process::Command::new(CULM);
    launcher.args(["launch-agent", &own, "--", "cat"]).process_group(0).kill_on_drop(true);
    let (piped, back) = (std::process::Stdio::piped(), std::process::Stdio::piped());
    let mut launcher = launcher.stdin(piped).stdout(back).spawn().unwrap();
    let (mut input, output) = (launcher.stdin.take().unwrap(), launcher.stdout.take().unwrap());
    let (mut lines, id) = (BufReader::new(output).lines(), launcher.id().unwrap());
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    for number in 0..50 {
        input.write_all(format!("{number}\n").as_bytes()).await.unwrap();
        assert_eq!(lines.next_line().await.unwrap(), Some(number.to_string()));
        rustix::process::kill_process(id, rustix::process::Signal::USR1).unwrap();
    }
    drop(input);
    assert!(launcher.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_history_that_changed_under_it_is_told_anew() {
    let mut agent = Talking::to(&[], "");
    agent.hears("one").await;
    // As storage does when a message is edited or removed.
    agent.history.truncate(1);
    agent.change(|row| (row.agent_session_id, row.seen_seq) = (None, 0));
    let memory = agent.hears("/memory").await;
    assert_eq!(memory, "[\"one\\n\\n/memory\"]");
}

#[tokio::test]
async fn a_breakdown_ends_its_turn_and_the_next_one_starts_another() {
    let mut agent = Talking::to(&[], "");
    agent.hears("one").await;
    let before = agent.row().process;
    let (outcome, told) = agent.say("so far\n/crash 7").await;
    let error = outcome.unwrap_err().to_string();
    assert_eq!(error, "the agent is gone (exit status: 7); it said last: the demo agent breaks down");
    assert!(told.contains(&"text so ".into()));
    agent.until_gone().await;
    // What it has kept of that turn, nobody knows: it is told all that is stored.
    let memory = agent.hears("/memory").await;
    assert!(memory.starts_with("[\"What follows was said before"), "{memory}");
    assert!(memory.contains("[user] one\\n\\n[you] one\\n\\n[user] so far"), "{memory}");
    assert_ne!(agent.row().process, before);
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let mut agent = Talking::to(&["--exit", "9"], "");
    let (outcome, _) = agent.say("hello").await;
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(error.to_string(), "the agent is gone (exit status: 9); it said last: the demo agent was told to end");
    let turn = Turn { workspace: Some("/nowhere/at all".into()), ..agent.turn("hello") };
    let error = finish(&*agent.pool, turn).await.0.unwrap_err();
    assert_eq!(error.to_string(), "the working directory /nowhere/at all is not there");
    let (home, rows, tasks) = (tempfile::tempdir().unwrap(), Arc::<Rows>::default(), Tasks::default());
    let launch =
        Launch { launcher: vec![CULM.into(), "launch-agent".into()], homes: home.path().into(), tasks: tasks.clone() };
    let config: Config = toml::from_str("command = ['no such agent']").unwrap();
    let settings = config.settings().unwrap();
    let (warmth, nobody) = (settings.warmth, Arc::new(NoAttachments));
    let pool = Pool::start("demo".into(), Acp::new(settings, launch, nobody, Limits::default()), rows, warmth, tasks);
    let error = finish(&pool, super::turn(vec![NewMessage::text(Role::User, "hello")])).await.0.unwrap_err();
    assert!(error.to_string().contains("no such agent: No such file or directory"), "{error}");
}

#[tokio::test]
async fn one_that_idles_is_ended() {
    let mut agent = Talking::to(&[], "idle_timeout = '50ms'");
    agent.hears("one").await;
    agent.until_gone().await;
    while agent.row().status != BackendStatus::Dormant {
        tokio::task::yield_now().await;
    }
    assert_eq!(agent.hears("/memory").await, "[\"one\", \"/memory\"]", "it is taken up again");
}

#[tokio::test]
async fn of_too_many_the_one_that_idled_longest_is_ended() {
    let agent = Talking::to(&[], "max_warm = 2");
    for session in ["a", "b", "c"] {
        let turn = Turn { session_id: session.parse().unwrap(), ..turn(vec![NewMessage::text(Role::User, "hello")]) };
        finish(&*agent.pool, turn).await.0.unwrap();
    }
    let rows = agent.rows.0.lock().unwrap();
    let status = |session: &str| rows[&session.parse().unwrap()].status;
    use BackendStatus::{Dormant, Warm};
    assert_eq!([status("a"), status("b"), status("c")], [Dormant, Warm, Warm]);
}

#[tokio::test]
async fn disposing_leaves_nothing_whatever_the_agent_started() {
    let mut agent = Talking::to(&["--stubborn"], "");
    agent.hears("/spawn 1000").await;
    let row = agent.row();
    assert_eq!(agent.processes().len(), 3);
    agent.pool.dispose(&row, false).await.unwrap();
    assert_eq!((agent.processes(), agent.row().status), (vec![], BackendStatus::Dormant));
    let home = agent.home.path().join("homes").join(row.id.as_str());
    assert!(home.is_dir());
    agent.pool.dispose(&row, true).await.unwrap();
    assert!(!home.exists());
    agent.pool.dispose(&row, true).await.unwrap();
}

#[tokio::test]
async fn disposing_ends_the_turn_that_is_under_way() {
    let mut agent = Talking::to(&[], "");
    let mut running = agent.running("hello\n/silent");
    running.until_text().await;
    let row = agent.row();
    agent.pool.dispose(&row, false).await.unwrap();
    assert_eq!(running.run.await.unwrap().unwrap(), Outcome::Cancelled);
    assert!(agent.processes().is_empty());
}

#[tokio::test]
async fn what_another_server_left_is_ended_by_its_row() {
    let mut agent = Talking::to(&["--stubborn"], "");
    agent.hears("/spawn 1000").await;
    let row = agent.row();
    // Another number's start is another process: it is spared, and what carries the mark is ended all the same.
    let later = Process { started: 1, ..row.process.unwrap() };
    culm::executor::process::reap(&AgentSession { process: Some(later), ..row.clone() }).await.unwrap();
    assert!(agent.processes().is_empty());
    let own = Process { pid: i32::try_from(std::process::id()).unwrap(), started: 1 };
    culm::executor::process::reap(&AgentSession { process: Some(own), ..row }).await.unwrap();
}

#[tokio::test]
async fn it_is_asked_who_it_is_and_nothing_stays() {
    let agent = Talking::to(&["--no-resume"], "");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        agent.pool.probe().await.unwrap(),
        format!("culm-demo-agent {version}, goes on after a restart by a replay")
    );
    assert_eq!(std::fs::read_dir(agent.home.path().join("homes")).unwrap().count(), 0);
    let error = Talking::to(&["--exit", "4"], "").pool.probe().await.unwrap_err();
    assert!(error.to_string().contains("the demo agent was told to end"), "{error}");
}
