//! What executors share that speak HTTP to a server of others: a careful client, and streams of events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use reqwest::{Client, ClientBuilder, Response, header::HeaderValue, redirect};
use sse_stream::SseByteStream;

const CONNECT: Duration = Duration::from_secs(10);

/// A client that follows nobody: what it is trusted with is for the host that it was told, and for no other.
pub(super) fn client() -> ClientBuilder {
    // The one that is there already is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("culm/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
}

/// One for `http://`. A proxy would see all of it; and a machine that needs none may have no certificates.
pub(super) fn plain(client: ClientBuilder) -> ClientBuilder {
    client.no_proxy().tls_certs_only([])
}

/// A header's value that no debug output shows.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The innermost reason: the outer ones only say that something failed.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

/// Why a stream of events broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the connection broke off: {}", cause(.0))]
    Lost(#[from] reqwest::Error),
    #[error("an event is longer than {0} bytes")]
    TooLong(usize),
    #[error("it is no event stream: {0}")]
    Malformed(String),
}

/// The data of the events of an answer. None of them is longer than so many bytes.
pub(super) fn events(response: Response, most: usize) -> impl Stream<Item = Result<String, Broken>> + Send {
    // Bytes that came since the last event: what the decoder can be holding.
    let held = Arc::new(AtomicUsize::new(0));
    let holding = held.clone();
    let bytes = response.bytes_stream().map(move |piece| {
        let piece = piece?;
        match holding.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() > most {
            true => Err(Broken::TooLong(most)),
            false => Ok(piece),
        }
    });
    SseByteStream::new(bytes).map(move |event| {
        held.store(0, Ordering::Relaxed);
        event.map(|event| event.data.unwrap_or_default()).map_err(undecodable)
    })
}

fn undecodable(error: sse_stream::Error) -> Broken {
    match error {
        sse_stream::Error::Body(error) => match error.downcast() {
            Ok(broken) => *broken,
            Err(error) => Broken::Malformed(error.to_string()),
        },
        error => Broken::Malformed(error.to_string()),
    }
}
