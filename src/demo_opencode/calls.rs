//! What the demo server can be asked: the calls of the real one that Culm makes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::{Server, held, id, script};
use crate::tasks;

#[derive(Debug, Deserialize)]
pub(super) struct Place {
    directory: String,
}

/// Lets in whoever knows the password.
pub(super) async fn admit(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let wanted = format!("Basic {}", STANDARD.encode(format!("opencode:{}", server.password)));
    match request.headers().get(header::AUTHORIZATION) {
        Some(given) if given.as_bytes() == wanted.as_bytes() => next.run(request).await,
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

pub(super) async fn health() -> Json<Value> {
    Json(json!({ "healthy": true, "version": "demo" }))
}

pub(super) async fn config() -> Json<Value> {
    Json(json!({ "model": "demo/usual" }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    search: String,
}

/// The sessions with nothing above them in whose titles a text stands.
pub(super) async fn find(State(server): State<Arc<Server>>, Query(wanted): Query<Wanted>) -> Json<Value> {
    let sessions = held(&server.sessions);
    let found = sessions.values().filter(|session| session.parent.is_none() && session.title.contains(&wanted.search));
    Json(found.map(|session| json!(session)).collect())
}

pub(super) async fn events(State(server): State<Arc<Server>>, Query(place): Query<Place>) -> Response {
    let listening = server.events.subscribe();
    let hello = json!({ "id": id("evt"), "type": "server.connected", "properties": {} });
    let told = stream::unfold(listening, |mut listening| async move {
        match listening.recv().await {
            Ok(told) => Some((told, listening)),
            Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => None,
        }
    });
    let here = told.filter_map(move |(directory, event)| {
        let here = directory == place.directory;
        async move { here.then_some(event) }
    });
    let lines =
        stream::iter([hello]).chain(here).map(|event| Ok::<_, Infallible>(Bytes::from(format!("data: {event}\n\n"))));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(lines)).into_response()
}

pub(super) async fn create(
    State(server): State<Arc<Server>>,
    Query(place): Query<Place>,
    Json(asked): Json<Value>,
) -> Response {
    let parent = asked["parentID"].as_str().map(String::from);
    match server.begin(parent, &place.directory, asked["title"].as_str().unwrap_or_default()) {
        Ok(session) => Json(session).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Who works in a directory.
pub(super) async fn status(State(server): State<Arc<Server>>, Query(place): Query<Place>) -> Json<Map<String, Value>> {
    let busy = held(&server.busy);
    let here = busy.iter().filter(|(_, work)| work.directory == place.directory);
    Json(here.map(|(id, _)| (id.clone(), json!({ "type": "busy" }))).collect())
}

pub(super) async fn session(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    let found = held(&server.sessions).get(&id).cloned();
    found.map_or_else(|| missing(&id), |session| Json(session).into_response())
}

pub(super) async fn children(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Json<Value> {
    Json(json!(server.children(&id)))
}

/// A message, as far as permission was asked in it.
pub(super) async fn message(
    State(server): State<Arc<Server>>,
    Path((_, message)): Path<(String, String)>,
) -> Json<Value> {
    let call = held(&server.calls).get(&message).cloned();
    Json(json!({ "info": { "id": message }, "parts": call.into_iter().collect::<Vec<_>>() }))
}

pub(super) async fn delete(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    if !held(&server.sessions).contains_key(&id) {
        return missing(&id);
    }
    server.remove(&id);
    Json(true).into_response()
}

/// Takes a prompt, and answers before it is worked on.
pub(super) async fn prompt(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    Json(mut asked): Json<Value>,
) -> Response {
    let Some(mut session) = held(&server.sessions).get(&id).cloned() else { return missing(&id) };
    let parts = asked["parts"].as_array().cloned().unwrap_or_default();
    let texts = parts.iter().map(|part| match (part["text"].as_str(), part["mime"].as_str()) {
        (Some(text), _) => text.to_owned(),
        (None, mime) => format!("[image {}]", mime.unwrap_or_default()),
    });
    session.prompts.push(texts.collect::<Vec<_>>().join("\n\n"));
    if let Err(error) = server.keep(&session) {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    tasks::owned(script::answer(server, session, parts, asked["model"].take()));
    StatusCode::NO_CONTENT.into_response()
}

/// Stops what works; a session that was removed, too. Not those below it.
pub(super) async fn abort(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Json<bool> {
    if let Some(work) = held(&server.busy).get(&id) {
        work.stop.cancel();
    }
    Json(true)
}

pub(super) async fn reply(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    Json(answer): Json<Value>,
) -> Response {
    match held(&server.asked).remove(&id) {
        Some(waiting) => Json(waiting.send(answer).is_ok()).into_response(),
        None => missing(&id),
    }
}

fn missing(id: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "name": "NotFoundError", "data": { "message": id } }))).into_response()
}
