//! The log of a server: what it tells an operator, and that it repeats nothing that people wrote.

use serde_json::{Value, json};

use crate::{
    cli::{Serving, culm, logged, run, scratch},
    executor::Demo,
};

/// What people write in these tests.
const CANARY: &str = "canary-of-what-people-wrote";

/// A server that logs, with the demo model and the demo agent as executors.
fn serve(db: &std::path::Path, demo: &Demo, more: &[&str]) -> Serving {
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    let config = db.with_file_name("culm.toml");
    let executors = format!(
        "default_executor = 'demo'
         [executors.demo]\nkind = 'openai'\nbase_url = 'http://{}/v1'\nmodel = 'demo'
         [executors.agent]\nkind = 'acp'\ncommand = ['{}', 'demo-agent']
         [executors.missing]\nkind = 'acp'\ncommand = ['/nowhere/agent', '{CANARY}']\n",
        demo.address,
        env!("CARGO_BIN_EXE_culm")
    );
    std::fs::write(&config, executors).unwrap();
    Serving::logging(culm(db, more).arg("--config").arg(config), db)
}

async fn run_to_its_end(serving: &Serving, session: &str, executor: &str, message: &str) -> Value {
    serving.post("/sessions", json!({ "id": session, "title": CANARY })).await;
    let run = json!({ "executor": executor, "message": message });
    let (status, asked) = serving.post(&format!("/sessions/{session}/runs"), run).await;
    assert_eq!(status, 202, "{asked}");
    let id = asked["run"]["id"].as_str().unwrap();
    serving.get(&format!("/runs/{id}?wait=30")).await.1["run"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_tells_of_the_start_the_stop_and_each_run_that_failed() {
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let mut serving = serve(&db, &demo, &["--log-format", "json"]);
    let failed = run_to_its_end(&serving, "s", "demo", "/error 400").await;
    assert_eq!(failed["status"], "error");
    run_to_its_end(&serving, "t", "missing", "hello").await;
    assert_eq!(serving.signal("TERM"), 0);
    let log = logged(&db, "stopped").await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |message: &str| {
        let found = lines.iter().find(|line| line["fields"]["message"].as_str() == Some(message));
        found.unwrap_or_else(|| panic!("{message}: {log}"))
    };
    let start = &line("serving")["fields"];
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["database"], db.display().to_string());
    assert_eq!(start["address"], serving.url.trim_start_matches("http://"));
    assert_eq!(line("stopping")["fields"]["signal"], "SIGTERM");
    let told = line("a run failed");
    let error = told["fields"]["error"].as_str().unwrap();
    assert!(error.contains("400") && error.contains("The demo model was told to fail."), "{error}");
    assert_eq!((&told["span"]["run"], &told["span"]["session"]), (&failed["id"], &"s".into()), "{told}");
    assert_eq!(told["span"]["executor"], "demo", "{told}");
    let refused = line("an agent was not started; its run says why");
    assert_eq!((&refused["fields"]["executor"], &refused["span"]["session"]), (&"missing".into(), &"t".into()));
    assert!(lines.iter().all(|line| line["level"] != "DEBUG"), "requests are told of at debug: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_told_of_by_the_next() {
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let mut serving = serve(&db, &demo, &[]);
    serving.post("/sessions", json!({ "id": "s" })).await;
    let endless = json!({ "message": "/slow 1ms\n/endless" });
    assert_eq!(serving.post("/sessions/s/runs", endless).await.0, 202);
    demo.stats("requests=1").await;
    serving.signal("KILL");
    let _serving = serve(&db, &demo, &[]);
    let log = logged(&db, "sound after an unclean stop").await;
    assert!(log.contains("the last server was killed"), "{log}");
    assert!(log.contains("ended as interrupted") && log.contains("settled=1"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_at_trace_repeats_nothing_that_people_wrote() {
    let demo = Demo::start().await;
    let (_folder, db) = scratch();
    let mut serving = serve(&db, &demo, &["--log", "trace"]);
    // Written, searched, refused.
    let session = json!({ "id": "s", "title": CANARY, "system_prompt": CANARY, "metadata": { "note": CANARY } });
    assert_eq!(serving.post("/sessions", session.clone()).await.0, 201);
    assert_eq!(serving.post("/sessions", session).await.0, 201);
    let message = json!({ "messages": [{ "role": "user", "content": CANARY }] });
    assert_eq!(serving.post("/sessions/s/messages", message).await.0, 201);
    assert_eq!(serving.get(&format!("/search?q={CANARY}")).await.0, 200);
    assert_eq!(serving.get(&format!("/search?q={CANARY}&limit={CANARY}")).await.0, 400);
    for body in [json!({ "title": { CANARY: 1 } }), json!({ CANARY: 1 }), json!({ "kind": CANARY })] {
        assert_eq!(serving.post("/sessions", body).await.0, 400);
    }
    // Runs that end well, that fail with words of their own, and that fail with those of the message.
    let said = format!("{CANARY}\n/slow 0ms\n{CANARY}");
    for executor in ["demo", "agent"] {
        assert_eq!(run_to_its_end(&serving, executor, executor, &said).await["status"], "completed");
    }
    run_to_its_end(&serving, "a", "demo", &format!("/error 400\n{CANARY}")).await;
    run_to_its_end(&serving, "b", "demo", &format!("/error 503 1\n{CANARY}")).await;
    let failed = run_to_its_end(&serving, "c", "demo", &format!("/fail {CANARY}")).await;
    assert!(failed["error"].as_str().unwrap().contains(CANARY), "the run itself tells it: {failed}");
    let failed = run_to_its_end(&serving, "d", "agent", &format!("/error {CANARY}")).await;
    assert_eq!(failed["status"], "error");
    run_to_its_end(&serving, "e", "missing", CANARY).await;
    assert_eq!(serving.signal("TERM"), 0);
    let log = logged(&db, "stopped").await;
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    assert_eq!(log.matches("a run failed").count(), 4, "{log}");
    let repeated: Vec<&str> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert_eq!(repeated, [""; 0], "{CANARY}");
    // An import has no log; what it says of a message is where it was, not what it said.
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboo-home/2026.6.18");
    let imported = run(&db, &["import", "bamboo", home]);
    assert!(imported.status.success() && imported.stderr.is_empty(), "{imported:?}");
}
