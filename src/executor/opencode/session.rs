//! One session of the server, with those below it that its agent made: what works there, and how it is ended.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    api::misunderstood,
    server::{Server, Use},
};
use crate::executor::Error;

/// How long it may take until nothing works any more that was told to stop.
const STOP: Duration = Duration::from_secs(5);
/// How long a prompt that was taken may take until it is worked on: longer, when the directory is new to the server.
const BEGIN: Duration = Duration::from_secs(2);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);
/// How often is looked for the input of a call, at most.
const LOOKS: usize = 10;
/// Sessions below one that are looked at, at most.
const FAMILY: usize = 1000;

/// A session, and the server that has it.
pub(super) struct Session {
    pub(super) server: Use,
    pub(super) id: String,
    pub(super) directory: String,
}

impl Session {
    /// Makes one.
    pub(super) async fn make(server: Use, directory: String, title: &str) -> Result<Self, Error> {
        let made = server.api.call(Method::POST, &["session"], &directory, Some(&json!({ "title": title }))).await?;
        let id = made.as_ref().and_then(|made| made["id"].as_str()).map(String::from);
        match id {
            Some(id) => Ok(Self { server, id, directory }),
            None => Err(misunderstood("a new session has no id")),
        }
    }

    /// The one with this id, if the server has it still; else the server is given back.
    pub(super) async fn find(server: Use, id: &str, directory: String) -> Result<Result<Self, Use>, Error> {
        match server.api.call(Method::GET, &["session", id], &directory, None).await? {
            // It stays in the directory that it was made in.
            Some(found) if found["directory"] == directory.as_str() => {
                Ok(Ok(Self { server, id: id.into(), directory }))
            }
            _ => Ok(Err(server)),
        }
    }

    /// The one with this id, wherever it works.
    pub(super) async fn anywhere(server: Use, id: &str) -> Result<Option<Self>, Error> {
        let found = server.api.call(Method::GET, &["session", id], &server.home, None).await?;
        let directory = found.as_ref().and_then(|found| found["directory"].as_str()).map(String::from);
        Ok(directory.map(|directory| Self { server, id: id.into(), directory }))
    }

    /// The ids of those with this title, wherever they work.
    pub(super) async fn titled(server: &Server, title: &str) -> Result<Vec<String>, Error> {
        let found = server.api.find(title).await?.unwrap_or_default();
        let titled = found.as_array().into_iter().flatten().filter(|session| session["title"] == title);
        Ok(titled.filter_map(|session| session["id"].as_str()).map(String::from).collect())
    }

    /// A call about it. None where the server does not have it.
    pub(super) async fn call(
        &self,
        method: Method,
        what: &[&str],
        body: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        let path = [&["session", self.id.as_str()], what].concat();
        self.server.api.call(method, &path, &self.directory, body).await
    }

    /// Has it stop, with all below it, and waits until nothing of it works. `prompted` is said when it may be about to
    /// begin: then there is nothing to stop at first.
    pub(super) async fn stop(&self, prompted: bool) -> Result<(), Error> {
        let (begun, mut busy_once) = (Instant::now(), !prompted);
        loop {
            let busy = self.busy().await?;
            busy_once |= !busy.is_empty();
            if busy.is_empty() && (busy_once || begun.elapsed() > BEGIN) {
                return Ok(());
            }
            if begun.elapsed() > STOP {
                return Err(stubborn());
            }
            for id in busy {
                self.server.api.call(Method::POST, &["session", &id, "abort"], &self.directory, None).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the server forget it, with all below it. A session that works goes on when it is removed, and nobody hears
    /// of it any more: it must have stopped before.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        self.stop(false).await?;
        self.call(Method::DELETE, &[], None).await.map(drop)
    }

    /// Those of its family that work.
    async fn busy(&self) -> Result<Vec<String>, Error> {
        let status = self.server.api.call(Method::GET, &["session", "status"], &self.directory, None).await?;
        let status = status.unwrap_or_default();
        if status.as_object().is_none_or(|status| status.is_empty()) {
            return Ok(Vec::new());
        }
        let works = |id: &String| status.get(id).is_some_and(|status| status["type"] != "idle");
        Ok(self.family().await?.into_iter().filter(works).collect())
    }

    /// Its own id, and those of all below it.
    async fn family(&self) -> Result<Vec<String>, Error> {
        let (mut family, mut at) = (vec![self.id.clone()], 0);
        while let Some(id) = family.get(at).filter(|_| family.len() < FAMILY) {
            let below = self.server.api.call(Method::GET, &["session", id, "children"], &self.directory, None).await?;
            let below = below.unwrap_or_default();
            let ids = below.as_array().into_iter().flatten().filter_map(|child| child["id"].as_str());
            let new: Vec<String> = ids.filter(|id| !family.iter().any(|known| known == id)).map(String::from).collect();
            family.extend(new);
            at += 1;
        }
        Ok(family)
    }

    /// The call of a tool that a request is for, by what the request says. The server asks while it writes the call down:
    /// then there is no input yet.
    pub(super) async fn call_of(&self, said: &Value) -> Option<Value> {
        let (session, tool) = (said["sessionID"].as_str()?, &said["tool"]);
        let (message, call) = (tool["messageID"].as_str()?, tool["callID"].as_str()?);
        let mut found = None;
        for _ in 0..LOOKS {
            let path = ["session", session, "message", message];
            let answer = self.server.api.call(Method::GET, &path, &self.directory, None).await.ok().flatten()?;
            let parts = answer["parts"].as_array()?;
            found = parts.iter().find(|part| part["callID"] == call).cloned();
            let has_input = |part: &Value| part["state"]["input"].as_object().is_some_and(|input| !input.is_empty());
            if found.as_ref().is_some_and(has_input) {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
        found
    }

    /// Whether another session is one of those below it.
    pub(super) async fn is_above(&self, id: &str) -> bool {
        id == self.id || self.family().await.is_ok_and(|family| family.iter().any(|below| below == id))
    }

    /// Why it could not be spoken to.
    pub(super) async fn explain(&self, error: Error) -> Error {
        match error {
            Error::Unavailable(_) => Server::explain(&self.server, error).await,
            error => error,
        }
    }
}

pub(super) fn stubborn() -> Error {
    Error::Failed("the agent works on, though it was told to stop".into())
}
