//! The executor contract, against a server that speaks as `opencode serve` does, over real connections. It has the real
//! one's fault: what is removed while it works goes on.

mod cancelled;
mod said;
mod warm;

use std::{path::Path, path::PathBuf};

use culm::{
    executor::{
        opencode::{Config, OpenCode},
        pool::Pool,
        process::Launch,
    },
    model::{BackendId, BackendStatus},
    tasks::Tasks,
};

use super::{
    acp::{CULM, Rows, Talking},
    *,
};

fn talking(manner: &[&str], more: &str) -> Talking {
    Talking::with(pool, manner, more)
}

fn pool(home: &Path, rows: &Arc<Rows>, tasks: &Tasks, manner: &[&str], more: &str) -> Arc<dyn Executor> {
    let command: Vec<&str> = [CULM, "demo-opencode"].into_iter().chain(manner.iter().copied()).collect();
    let config: Config = toml::from_str(&format!("command = {command:?}\n{more}")).unwrap();
    let settings = config.settings().unwrap();
    let launcher = vec![CULM.into(), "launch-agent".into()];
    let launch = Launch { launcher, homes: home.join("homes"), tasks: tasks.clone() };
    let warmth = settings.warmth;
    let opencode = OpenCode::new("demo", settings, launch, Arc::new(NoAttachments), Limits::default());
    Arc::new(Pool::start("demo".into(), opencode, rows.clone(), warmth, tasks.clone()))
}

/// The processes of the server that is shared, wherever homes are in this folder.
pub(crate) fn servers(homes: &Path, executor: &str) -> Vec<i32> {
    // Empty for a moment, while it is written.
    let id = std::fs::read_to_string(homes.join(format!("{executor}.id"))).ok();
    id.and_then(|id| id.parse::<BackendId>().ok()).map(|id| marked(&id)).unwrap_or_default()
}

fn processes(agent: &Talking) -> Vec<i32> {
    servers(&agent.home.path().join("homes"), "demo")
}

async fn until_gone(agent: &Talking) {
    while !processes(agent).is_empty() {
        tokio::task::yield_now().await;
    }
}

/// A server as a test sees it, which was not told where it is.
struct Seen {
    url: String,
    password: String,
    directory: String,
}

impl Seen {
    /// The server that has a session's work, in the directory that is its own.
    fn of(agent: &Talking) -> Self {
        let homes = agent.home.path().canonicalize().unwrap().join("homes");
        let directory = homes.join(agent.row().id.as_str()).join("work");
        let read = |pid: &i32, what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let (mut port, mut password) = (None, None);
        for pid in processes(agent) {
            let (line, environment) = (read(&pid, "cmdline"), read(&pid, "environ"));
            port = line.split_once("--port\0").map(|(_, port)| port.trim_end_matches('\0').to_owned());
            let variable = |variable: &str| variable.strip_prefix("OPENCODE_SERVER_PASSWORD=").map(String::from);
            password = environment.split('\0').find_map(variable);
        }
        let url = format!("http://127.0.0.1:{}", port.unwrap());
        Self { url, password: password.unwrap(), directory: directory.display().to_string() }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let query = [("directory", &self.directory)];
        let request = client().get(format!("{}{path}", self.url)).query(&query);
        let answer = request.basic_auth("opencode", Some(&self.password)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// How many sessions work in the directory.
    async fn busy(&self) -> usize {
        self.get("/session/status").await.1.as_object().unwrap().len()
    }

    async fn until_busy(&self, wanted: usize) {
        while self.busy().await != wanted {
            tokio::task::yield_now().await;
        }
    }
}

/// Where the server keeps a session.
fn kept(agent: &Talking, session: &str) -> PathBuf {
    let homes = agent.home.path().join("homes");
    let server = std::fs::read_to_string(homes.join("demo.id")).unwrap();
    homes.join(server).join(".demo-opencode").join(format!("{session}.json"))
}
