//! A server on a free port, and a client that checks on every answer what must hold for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use culm::{
    executor::Executor,
    feed::Feed,
    http::{Access, App, api, serve},
    lifecycle,
    model::Limits,
    repository::SessionRepository,
    runs::{self, Executors, Runs},
    storage::{
        Storage,
        sqlite::{self, LogBounds, SqliteStorage},
    },
    tasks::Tasks,
    worktree::{Git, Worktrees},
};
use jsonschema::Validator;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{client, shell};

pub(crate) const TOKEN: &str = "a-token-of-the-tests";

/// Few runs at once, and little patience.
pub(crate) fn options() -> runs::Options {
    let (grace, dispose, message) = (Duration::from_millis(200), Duration::from_secs(10), 4 << 20);
    let (homes, default_executor) = ("no homes".into(), None);
    runs::Options { max_concurrent: 2, grace, dispose, message, homes, default_executor, max_child_depth: 1 }
}

/// One executor, by the name `scripted`.
pub(crate) fn executors(executor: impl Executor + 'static) -> Executors {
    let executor: Arc<dyn Executor> = Arc::new(executor);
    Executors::from([("scripted".into(), executor)])
}

/// A server that is stopped when the test ends.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) folder: TempDir,
    pub(crate) repository: SessionRepository,
    client: reqwest::Client,
    pub(crate) document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
    stop: DropGuard,
    tasks: Tasks,
}

/// An answer that was checked.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(folder: TempDir) -> Self {
        Self::start_with(folder, Limits::default()).await
    }

    pub(crate) async fn start_with(folder: TempDir, limits: Limits) -> Self {
        Self::start_on(folder, limits, Executors::new(), options()).await
    }

    pub(crate) async fn start_on(
        folder: TempDir,
        limits: Limits,
        executors: Executors,
        options: runs::Options,
    ) -> Self {
        Setup { folder, limits, options, ..Setup::new(executors) }.start().await
    }

    /// The same, and says where its sessions are before it takes the first run.
    pub(crate) async fn start_on_with(
        folder: TempDir,
        limits: Limits,
        executors: Executors,
        options: runs::Options,
        tell: impl FnOnce(&SessionRepository),
    ) -> Self {
        Setup { folder, limits, options, ..Setup::new(executors) }.start_with(tell).await
    }
}

/// What a server is told.
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
    pub(crate) limits: Limits,
    pub(crate) executors: Executors,
    pub(crate) options: runs::Options,
    pub(crate) dev: bool,
    pub(crate) log: LogBounds,
}

impl Setup {
    pub(crate) fn new(executors: Executors) -> Self {
        let (folder, limits, log) = (tempfile::tempdir().unwrap(), Limits::default(), LogBounds::default());
        Self { folder, limits, executors, options: options(), dev: false, log }
    }

    pub(crate) async fn start(self) -> Server {
        self.start_with(|_| {}).await
    }

    async fn start_with(self, tell: impl FnOnce(&SessionRepository)) -> Server {
        let Self { folder, limits, executors, options, dev, log } = self;
        let database = sqlite::Options { log, ..sqlite::Options::new(folder.path().join("culm.db")) };
        let storage = SqliteStorage::open(&database).await.unwrap();
        let tasks = Tasks::default();
        let repository = SessionRepository::new(Arc::new(storage), 1 << 20, tasks.clone());
        tell(&repository);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let feed = Feed::start(repository.clone(), &tasks, stop.clone());
        let runs = Runs::start(repository.clone(), feed, executors, options).await.unwrap();
        let worktrees = Worktrees::new(Git::default(), folder.path().join("worktrees"));
        lifecycle::start(&runs, &worktrees);
        let access = Access::new(Some(TOKEN), [address.clone()]);
        let api = api(App::new(runs.clone(), worktrees, limits), access, dev);
        let (serving, asked) = (tasks.clone(), stop.clone());
        tasks.spawn(async move { serve(listener, api, &serving, asked).await });
        let (ending, stopping) = (runs.clone(), stop.clone());
        tasks.spawn(async move {
            stopping.cancelled().await;
            ending.shut_down().await;
        });
        let client = client();
        let document = client.get(format!("http://{address}/api/v1/openapi.json")).send().await.unwrap();
        let document = document.json().await.unwrap();
        let (validators, stop) = (Mutex::default(), stop.drop_guard());
        Server { address, folder, repository, client, document, validators, stop, tasks }
    }
}

impl Server {
    /// Stops as a signal does, and starts again on the same database.
    pub(crate) async fn restart(self) -> Self {
        self.restart_on(Executors::new(), options()).await
    }

    pub(crate) async fn restart_on(self, executors: Executors, options: runs::Options) -> Self {
        Self::start_on(self.stop().await, Limits::default(), executors, options).await
    }

    /// Stops as a signal does. The folder of the database.
    pub(crate) async fn stop(self) -> TempDir {
        drop(self.stop);
        self.repository.close().await;
        self.tasks.finish().await;
        self.folder
    }

    /// A server with one executor, `scripted`.
    pub(crate) async fn scripted(executor: impl Executor + 'static) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), Limits::default(), executors(executor), options()).await
    }

    /// A connection as an operator's shell has it: foreign keys are off.
    pub(crate) async fn shell(&self) -> SqliteConnection {
        shell(&self.folder.path().join("culm.db")).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(TOKEN)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let base = if path.starts_with("/api") || path == "/health" || path == "/ready" { "" } else { "/api/v1" };
        format!("http://{}{base}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Creates a session with this id and these user messages.
    pub(crate) async fn session(&self, id: &str, messages: &[&str]) {
        assert_eq!(self.post("/sessions", json!({ "id": id })).await.status, 201);
        if !messages.is_empty() {
            let messages: Vec<_> = messages.iter().map(|text| json!({ "role": "user", "content": text })).collect();
            let answer = self.post(&format!("/sessions/{id}/messages"), json!({ "messages": messages })).await;
            assert_eq!(answer.status, 201);
        }
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        assert!(headers.contains_key("x-request-id"), "{method} {path}: no request id");
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{method} {path}: no JSON: {bytes:?}")),
        };
        if !status.is_success() && !bytes.is_empty() {
            assert_eq!(body["status"], status.as_u16());
            assert_eq!(body["request_id"].as_str(), headers["x-request-id"].to_str().ok());
        }
        let answer = Answer { status, headers, body };
        self.check_described(&method, &path, &answer, bytes.is_empty());
        answer
    }

    /// The answer is what the OpenAPI document says of this call and this very status.
    fn check_described(&self, method: &Method, path: &str, answer: &Answer, is_empty: bool) {
        let Answer { status, headers, body } = answer;
        let Some(operation) = self.operation(method, path, *status) else { return };
        let about = format!("{method} {path} {status} {}", body["code"]);
        let response = self.resolved(&operation["responses"][status.as_str()]);
        assert!(response.is_object(), "{about} is not described: see src/http/document/operations.toml");
        let described =
            |name: &str| response["headers"].as_object().unwrap().keys().any(|known| known.eq_ignore_ascii_case(name));
        for name in headers.keys().map(|name| name.as_str()).filter(|name| !OF_HTTP.contains(name)) {
            assert!(described(name), "{about}: the header {name} is not described");
        }
        for (name, header) in response["headers"].as_object().unwrap() {
            let required = self.resolved(header)["required"] == true;
            assert!(!required || headers.contains_key(name), "{about}: no header {name}");
        }
        let content = response["content"].as_object();
        if is_empty {
            assert!(content.is_none() || *method == Method::HEAD, "{about}: the described body is not sent");
            return;
        }
        let content_type = headers["content-type"].to_str().unwrap();
        let media = content.and_then(|content| content.get(content_type).or_else(|| content.get("*/*")));
        let media = media.unwrap_or_else(|| panic!("{about}: a body of type {content_type} is not described"));
        let validator = self.validator(media["schema"].clone());
        let errors: Vec<_> = validator.iter_errors(body).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{about}: {errors:?} in {body}");
        if !status.is_success() {
            let code = body["code"].as_str().unwrap();
            assert!(media["examples"].get(code).is_some(), "{about}: the code is not described");
            let known = &self.document["components"]["schemas"]["Problem"]["properties"];
            let unknown = body.as_object().unwrap().keys().find(|field| known.get(field).is_none());
            assert_eq!(unknown, None, "{about}: the field is not described");
        }
    }

    /// What the document says of a call. None of a path or a method that is not in it: then that is why it was refused.
    fn operation(&self, method: &Method, path: &str, status: StatusCode) -> Option<&Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (mut template, mut path) = (template.split('/'), path.split('/'));
            loop {
                match (template.next(), path.next()) {
                    (None, None) => return true,
                    (Some(template), Some(path)) if template.starts_with('{') || template == path => {}
                    _ => return false,
                }
            }
        };
        let exact = paths.get(path);
        let Some(item) = exact.or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item))
        else {
            assert!(matches!(status.as_u16(), 401 | 403 | 404), "{method} {path} is not in the document");
            return None;
        };
        let operation = item.get(method.as_str().to_lowercase());
        assert!(operation.is_some() || status == 405, "{method} {path} is not in the document");
        operation
    }

    /// What a reference stands for.
    fn resolved<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str().and_then(|target| target.strip_prefix('#')) {
            Some(pointer) => self.document.pointer(pointer).unwrap(),
            None => value,
        }
    }
}

/// Headers that answers have because they are HTTP.
const OF_HTTP: [&str; 5] = ["content-type", "content-length", "date", "connection", "transfer-encoding"];

impl Server {
    /// Made once for each schema: that takes longer than all else of a request.
    fn validator(&self, schema: Value) -> Arc<Validator> {
        let mut made = self.validators.lock().unwrap();
        let make = || {
            let schema = json!({ "components": self.document["components"], "allOf": [schema] });
            Arc::new(jsonschema::validator_for(&schema).unwrap())
        };
        made.entry(schema.to_string()).or_insert_with(make).clone()
    }
}

impl Answer {
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }
}
