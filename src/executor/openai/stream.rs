//! A reply as it comes in: server-sent events of one JSON object each, until `[DONE]`.

use futures_util::{Stream, StreamExt};
use reqwest::{Response, header::CONTENT_TYPE};
use tokio::sync::mpsc;

use super::{refusal::Broken, reply::Reply, request::Provider, tell, wire::Chunk};
use crate::{
    executor::{Error, Event, web},
    model::Limits,
};

/// Bytes of one event at most.
const EVENT: usize = 4 << 20;

/// Reads a reply to its end, and tells its fragments.
pub(super) async fn read(
    provider: &Provider,
    response: Response,
    reply: &mut Reply,
    limits: &Limits,
    events: &mpsc::Sender<Event>,
) -> Result<(), Broken> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        return read_whole(provider, response, reply, limits, events).await;
    }
    if kind.starts_with("text/html") {
        return Err(failed("the provider answered with a web page: base_url is wrong, or a gateway is in between"));
    }
    let mut stream = std::pin::pin!(data(provider, response));
    while let Some(data) = stream.next().await {
        match data?.trim() {
            "[DONE]" => return Ok(()),
            "" => {}
            text => take(provider, text.as_bytes(), reply, limits, events).await?,
        }
    }
    match reply.finish_reason {
        Some(_) => Ok(()),
        None => Err(Broken { transient: true, ..failed("the provider's stream ended before the reply did") }),
    }
}

/// A reply in one piece, from a server that does not stream.
async fn read_whole(
    provider: &Provider,
    mut response: Response,
    reply: &mut Reply,
    limits: &Limits,
    events: &mpsc::Sender<Event>,
) -> Result<(), Broken> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| provider.lost(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > EVENT {
            return Err(too_long());
        }
    }
    take(provider, &body, reply, limits, events).await?;
    match reply.has_begun() || reply.finish_reason.is_some() {
        true => Ok(()),
        false => Err(failed("the provider's answer holds no reply")),
    }
}

async fn take(
    provider: &Provider,
    json: &[u8],
    reply: &mut Reply,
    limits: &Limits,
    events: &mpsc::Sender<Event>,
) -> Result<(), Broken> {
    let chunk: Chunk = serde_json::from_slice(json)
        .map_err(|error| failed(&format!("the provider sent what cannot be understood: {error}")))?;
    if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
        return Err(Broken::in_stream(&error, &provider.secrets));
    }
    reply.usage = chunk.usage.or(reply.usage.take());
    // One reply was asked for.
    if let Some(choice) = chunk.choices.into_iter().flatten().next() {
        for event in reply.take(choice, limits)? {
            tell(events, event).await;
        }
    }
    Ok(())
}

/// The data of the events.
fn data(provider: &Provider, response: Response) -> impl Stream<Item = Result<String, Broken>> {
    web::events(response, EVENT).map(|event| event.map_err(|broken| broken_off(provider, broken)))
}

fn broken_off(provider: &Provider, broken: web::Broken) -> Broken {
    match broken {
        web::Broken::Lost(error) => provider.lost(&error),
        web::Broken::TooLong(_) => too_long(),
        web::Broken::Malformed(why) => failed(&format!("the provider sent what is no event stream: {why}")),
    }
}

fn too_long() -> Broken {
    failed("the provider sent an event of more than 4 MiB")
}

fn failed(words: &str) -> Broken {
    Error::Failed(words.into()).into()
}
