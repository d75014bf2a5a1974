//! The listener: HTTP/1 with limits that a careless or hostile client meets.
//!
//! `axum::serve` has no header timeout: a connection that sends half a header, or nothing, stays for ever. So the
//! connections are served here, with a deadline for each head, a bound on heads and on their number. Nor does it ever
//! give up a client that takes no more of its answer, which would hold the answer, and a server that wants to stop.

use std::{convert::Infallible, sync::Arc, task::Poll, time::Duration};

use axum::body::Body;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    connections::{Connection, Connections, Shares},
    error::Problem,
};
use crate::{model::Timestamp, tasks::Tasks};

/// How long a head may take, on a new connection and on one that is kept alive.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a head at most; more is answered 431, as are more than 100 headers: hyper's own bound, which costs less than
/// the same number set here.
const HEAD_BYTES: usize = 64 << 10;
/// How long a client may take nothing of an answer that is ready for it.
const STALL: Duration = Duration::from_secs(30);
/// How long requests that are under way may take once the server stops; then their connections are dropped.
const DRAIN: Duration = Duration::from_secs(30);

/// Serves until `stop`, then lets what is under way end.
pub async fn serve(listener: TcpListener, api: Api, tasks: &Tasks, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(Shares::default());
    let give_up = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, accepted)) = accepted else { continue };
        if Timestamp::checked_now().is_err() {
            tasks.spawn(async move {
                let _ = tokio::time::timeout(HEAD, refuse(stream.into_inner())).await;
                drop(accepted);
            });
            continue;
        }
        let (api, accepted) = (api.clone(), Arc::new(accepted));
        let of_requests = accepted.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, connection) = (api.clone(), of_requests.clone());
            async move {
                let _busy = connection.busy();
                Ok::<_, Infallible>(api.answer(request.map(Body::new), || connection.trust()).await)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        let given_up = give_up.clone();
        tasks.spawn(async move {
            let open = accepted.closing().run_until_cancelled(while_the_clock_is_right(connection));
            if let Some(Some(Err(error))) = given_up.run_until_cancelled(open).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests had not ended when the server stopped");
        give_up.cancel();
    }
}

/// Serves a connection until the clock shows a year that no date in an answer can have: hyper panics then. The client
/// connects again, and is told.
async fn while_the_clock_is_right(
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut connection = std::pin::pin!(connection);
    std::future::poll_fn(|context| match Timestamp::checked_now() {
        Ok(_) => connection.as_mut().poll(context).map_err(Into::into),
        Err(error) => Poll::Ready(Err(error.into())),
    })
    .await
}

/// Answers a request without hyper, and without looking at it.
async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while head.len() < HEAD_BYTES && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(&Problem::of_clock().without_hyper()).await?;
    stream.shutdown().await?;
    // What is left of the request: a connection that is closed before it was read is reset, and the answer with it.
    tokio::io::copy(&mut stream.take(1 << 20), &mut tokio::io::sink()).await.map(drop)
}

async fn accept(listener: &TcpListener, connections: &Connections) -> Option<(TimeoutStream<TcpStream>, Connection)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let Some(accepted) = connections.accept(peer.ip()) else {
                // Whether it takes this or not: nothing waits for it.
                let _ = stream.try_write(&Problem::overloaded("too many connections without a token").without_hyper());
                return None;
            };
            // Answers are small: none should wait for the next.
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(STALL));
            Some((stream, accepted))
        }
        Err(error) => {
            // Out of files, most likely: others must close theirs first.
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
