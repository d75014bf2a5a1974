//! `culm demo-model`, and what a server says of the executors that it was configured with: as a person meets them.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::client;

const CULM: &str = env!("CARGO_BIN_EXE_culm");

/// A process that is ended with the test.
struct Process(Child);

impl Process {
    /// Starts it, and gives its lines up to the one that is waited for.
    fn start(arguments: &[&str], last: &str) -> (Self, Vec<String>) {
        let command = &mut Command::new(CULM);
        let mut process = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.contains(last)) {
                break;
            }
        }
        (Self(process), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn culm(arguments: &[&str]) -> Output {
    Command::new(CULM).args(arguments).output().unwrap()
}

#[tokio::test]
async fn the_demo_model_says_where_it_is_what_it_does_and_does_it() {
    let (mut process, lines) = Process::start(&["demo-model", "--listen", "127.0.0.1:0"], "try");
    let url = lines.iter().find_map(|line| line.strip_prefix("  base_url  ")).unwrap();
    let help = String::from_utf8(culm(&["demo-model", "--help"]).stdout).unwrap();
    let page = client().get(url.strip_suffix("/v1").unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(help.contains("/endless") && help.contains("127.0.0.1:9563"), "{help}");
    assert!(page.contains("/endless"), "{page}");
    let models: Value = client().get(format!("{url}/models")).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "demo");
    let ask = |body: Value| client().post(format!("{url}/chat/completions")).json(&body).send();
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let answer = ask(json!({ "model": "m", "messages": messages, "stream": true })).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let events = answer.text().await.unwrap();
    let contents: Vec<Value> =
        events.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    assert_eq!(contents[1]["choices"][0]["delta"]["content"], "hello");
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    assert_eq!(ask(json!({ "messages": [] })).await.unwrap().status(), 400);
    let id = process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    assert_eq!(culm(&["demo-model", "--listen", "nowhere"]).status.code(), Some(8));
}

#[test]
fn a_server_names_its_executors() {
    let folder = tempfile::tempdir().unwrap();
    let (config, db) = (folder.path().join("culm.toml"), folder.path().join("culm.db"));
    let (config, db) = (config.to_str().unwrap(), db.to_str().unwrap());
    let executor = |name: &str| {
        format!("[executors.{name}]\nkind = 'openai'\nbase_url = 'http://127.0.0.1:1/v1?key=hidden'\nmodel = 'm'\n")
    };
    let arguments = ["serve", "--db", db, "--config", config, "--listen", "127.0.0.1:0"];
    std::fs::write(config, executor("one")).unwrap();
    let (_serving, lines) = Process::start(&arguments, "executor");
    assert_eq!(lines.last().unwrap(), "  executor  one (openai, m at http://127.0.0.1:1, the default)");
    for (text, words) in [
        (format!("default_executor = 'two'\n{}", executor("one")), "there is no [executors.two]"),
        (executor("one") + "modle = 'x'\n", "modle"),
        (
            executor("one") + "api_key_env = 'CULM_TEST_NO_SUCH_KEY'\n",
            "executors.one.api_key_env: CULM_TEST_NO_SUCH_KEY",
        ),
        ("[executors.two]\nkind = 'acp'\n".into(), "command"),
        ("[executors.two]\nkind = 'other'\n".into(), "other"),
    ] {
        std::fs::write(config, text).unwrap();
        let output = culm(&["serve", "--db", "/nowhere/culm.db", "--config", config]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains(words)), (Some(2), true), "{said}");
    }
}
