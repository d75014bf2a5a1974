//! Bytes in flight: what requests and their answers may hold in memory together.
//!
//! **Each request reserves once, up front**, as much as its body has or its answer may have, so that none waits for more
//! while it holds some. What does not fit waits a moment, and is refused then. What was reserved is held by the request's
//! work wherever that runs, also when its client is gone; once an answer is made, as much is held as it has, until it is
//! sent, or nothing if it is small. Large calls leave a part of the whole to small ones, and attachments, which last as long
//! as their clients are slow, a part to all calls.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, Method, Request, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use crate::{
    model::{Limits, PAGE_BYTES},
    storage::PIECE,
    tasks,
};

/// Bytes in one permit: a semaphore counts in 32 bits.
const UNIT: usize = 1 << 10;
/// How long a request waits for others to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a call takes that brings and shows little.
const LITTLE: usize = 64 << 10;
/// Bytes of an answer that holds nothing while it is sent.
const SMALL: usize = 4 << 10;
/// The part of all that only such calls take: large ones keep nobody from a delete or a cancel.
const FOR_LITTLE: usize = 16;
/// The part of all that attachments on their way take at most: these last as long as their clients are slow.
const FOR_TRANSFERS: usize = 2;
/// What an answer takes that is a page. (A page ends where it has this much.)
const PAGE: usize = PAGE_BYTES as usize;
/// An attachment passes through in pieces, some of which are read, hashed, written and sent at one time.
const PASSING: usize = 4 * PIECE as usize;

/// The bytes that may be in flight. For each of them the process takes at most about four of memory: a body beside what it
/// was read into, what is written of it and what is shown of it; a page beside its rows. `bench/` measures it.
#[derive(Debug)]
pub(super) struct Budget {
    /// Nearly all, for large calls, and for small ones that find no room in their own part.
    all: Part,
    /// The part that only small calls take.
    little: Part,
    /// The part of all that attachments take at most.
    transfers: Part,
    patience: Duration,
}

/// A part of the budget.
#[derive(Debug)]
struct Part {
    free: Arc<Semaphore>,
    units: usize,
}

/// Bytes of the budget, until they are dropped.
#[derive(Debug)]
pub(super) struct Reserved(Mutex<[Option<OwnedSemaphorePermit>; 2]>);

impl Part {
    fn new(units: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// So many bytes, or all: a single request is never too large.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.units)).unwrap_or(u32::MAX)
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    async fn wait_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes)).await
    }
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let little = units / FOR_LITTLE;
        let [all, little, transfers] = [units - little, little, units.div_ceil(FOR_TRANSFERS)].map(Part::new);
        Self { all, little, transfers, patience: PATIENCE }
    }

    /// So many bytes. Each part is waited for in the same order, so that nobody waits for one another.
    pub(super) async fn reserve(&self, needs: Needs) -> Result<Arc<Reserved>, Problem> {
        let at_once = match needs {
            Needs::Nothing => Some([None, None]),
            Needs::Call(bytes) => {
                let own = if self.is_little(bytes) { self.little.take(bytes) } else { None };
                own.or_else(|| self.all.take(bytes)).map(|permit| [Some(permit), None])
            }
            Needs::Transfer(_) => None,
        };
        let permits = match at_once {
            Some(permits) => permits,
            None => match tokio::time::timeout(self.patience, self.wait(needs)).await {
                Ok(Ok(permits)) => permits,
                _ => return Err(Problem::overloaded("requests under way hold all bytes that may be in flight")),
            },
        };
        Ok(Arc::new(Reserved(Mutex::new(permits))))
    }

    /// Whether it may take the part of small calls.
    fn is_little(&self, bytes: usize) -> bool {
        bytes <= LITTLE && bytes.div_ceil(UNIT) <= self.little.units
    }

    async fn wait(&self, needs: Needs) -> Result<[Option<OwnedSemaphorePermit>; 2], AcquireError> {
        Ok(match needs {
            Needs::Nothing => [None, None],
            Needs::Call(bytes) if self.is_little(bytes) => tokio::select! {
                permit = self.little.wait_for(bytes) => [Some(permit?), None],
                permit = self.all.wait_for(bytes) => [Some(permit?), None],
            },
            Needs::Call(bytes) => [Some(self.all.wait_for(bytes).await?), None],
            Needs::Transfer(bytes) => {
                let of_transfers = self.transfers.wait_for(bytes).await?;
                [Some(of_transfers), Some(self.all.wait_for(bytes).await?)]
            }
        })
    }
}

impl Reserved {
    /// Gives back all but so many bytes.
    pub(super) fn shrink(&self, bytes: usize) {
        for permit in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().flatten() {
            let spare = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
            drop(permit.split(spare));
        }
    }
}

/// What a request may hold, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// So many bytes, for as long as a call takes.
    Call(usize),
    /// So many bytes at one time of an attachment, as long as its client sends or takes them.
    Transfer(usize),
}

/// What this request needs.
pub(super) fn needs<B: HttpBody>(request: &Request<B>, limits: &Limits) -> Needs {
    let path = request.uri().path();
    if !path.starts_with("/api/v1/") || path == "/api/v1/openapi.json" || path == "/api/v1/health" {
        return Needs::Nothing;
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let of_one = |collection: &str| path.rsplit('/').nth(1) == Some(collection);
    let body = body(request, limits);
    // HEAD reads what GET shows.
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    match *method {
        // A stream of events lasts: it reserves for each piece of itself (`events.rs`).
        _ if last == "events" || of_one("events") => Needs::Nothing,
        // So may a wait for the end of a run.
        Method::GET if of_one("runs") => Needs::Call(body.max(LITTLE / 16)),
        Method::GET if of_one("attachments") => Needs::Transfer(body.max(PASSING)),
        Method::GET => Needs::Call(body.max(PAGE)),
        _ if passes_through(request) => Needs::Transfer(body.max(LITTLE)),
        _ => Needs::Call(body.max(LITTLE)),
    }
}

fn body<B: HttpBody>(request: &Request<B>, limits: &Limits) -> usize {
    let size = request.body().size_hint();
    let bytes = usize::try_from(size.upper().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    match request.body().is_end_stream() {
        true => 0,
        false if passes_through(request) => bytes.min(PASSING),
        false => bytes.min(limits.body),
    }
}

/// Whether the body is an attachment's bytes as they are.
fn passes_through<B>(request: &Request<B>) -> bool {
    let is_json = |headers: &HeaderMap| {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        kind.trim_start().get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
    };
    let is_raw = request.uri().query().is_some_and(|query| query.contains("raw"));
    request.uri().path().ends_with("/attachments") && (is_raw || !is_json(request.headers()))
}

/// Does a request's work, which holds what was reserved for it, and has its answer hold as much as that has.
pub(super) async fn holding(reserved: Arc<Reserved>, work: impl Future<Output = Response>) -> Response {
    let response = tasks::holding(reserved.clone(), work).await;
    match response.body().size_hint().exact().map(usize::try_from) {
        Some(Ok(0..=SMALL)) => return response,
        Some(Ok(bytes)) => reserved.shrink(bytes),
        _ => {}
    }
    response.map(|body| Body::new(Held { body, _reserved: reserved }))
}

/// An answer's body that holds what was reserved for it.
struct Held {
    body: Body,
    _reserved: Arc<Reserved>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_a_moment_and_is_refused() {
        let budget = Budget { patience: Duration::ZERO, ..Budget::new(10 * UNIT) };
        let first = budget.reserve(Needs::Call(8 * UNIT)).await.unwrap();
        assert_eq!(budget.reserve(Needs::Call(3 * UNIT)).await.unwrap_err().status, 503);
        first.shrink(7 * UNIT);
        let second = budget.reserve(Needs::Call(3 * UNIT)).await.unwrap();
        drop((first, second));
        let budget = Budget { patience: Duration::from_secs(60), ..budget };
        let all = budget.reserve(Needs::Call(usize::MAX)).await.unwrap();
        let (waited, ()) = tokio::join!(budget.reserve(Needs::Call(1)), async { drop(all) });
        assert!(waited.is_ok(), "there is room again");
    }

    #[tokio::test]
    async fn slow_clients_leave_room_for_calls_and_large_calls_for_small_ones() {
        let budget = Budget { patience: Duration::ZERO, ..Budget::new(16 << 20) };
        let all = async |needs: Needs| {
            let reserved = futures_util::future::join_all((0..16).map(|_| budget.reserve(needs))).await;
            reserved.into_iter().filter_map(Result::ok).collect::<Vec<_>>()
        };
        let transfers = all(Needs::Transfer(1 << 20)).await;
        let large = all(Needs::Call(1 << 20)).await;
        let small = all(Needs::Call(LITTLE)).await;
        assert_eq!([transfers.len(), large.len(), small.len()], [8, 7, 16]);
        assert!(budget.reserve(Needs::Call(1)).await.is_err(), "no more than there is");
        assert!(budget.reserve(Needs::Nothing).await.is_ok());
    }

    #[test]
    fn a_request_needs_what_it_brings_or_may_be_shown() {
        let limits = Limits::default();
        let needs = |method: Method, path: &str, bytes: usize, kind: &str| {
            let request = Request::builder().method(method).uri(path).header("content-type", kind);
            super::needs(&request.body(Body::from(vec![b'x'; bytes])).unwrap(), &limits)
        };
        for (path, needed) in [
            ("/health", Needs::Nothing),
            ("/api/v1/sessions", Needs::Call(PAGE)),
            ("/api/v1/sessions/s/messages?limit=1", Needs::Call(PAGE)),
            ("/api/v1/sessions/s/events", Needs::Nothing),
            ("/api/v1/events", Needs::Nothing),
            ("/api/v1/runs/r", Needs::Call(LITTLE / 16)),
            ("/api/v1/sessions/s/attachments/a", Needs::Transfer(PASSING)),
        ] {
            assert_eq!(needs(Method::GET, path, 0, ""), needed, "{path}");
        }
        assert_eq!(needs(Method::HEAD, "/api/v1/sessions", 0, ""), Needs::Call(PAGE));
        let json = "application/json";
        assert_eq!(needs(Method::POST, "/api/v1/sessions/s/messages", 5 << 20, json), Needs::Call(5 << 20));
        assert_eq!(needs(Method::POST, "/api/v1/sessions/s/messages", 50 << 20, json), Needs::Call(limits.body));
        assert_eq!(
            needs(Method::POST, "/api/v1/sessions/s/attachments", 9 << 20, "image/png"),
            Needs::Transfer(PASSING)
        );
        assert_eq!(needs(Method::POST, "/api/v1/sessions/s/attachments", 9 << 20, json), Needs::Call(9 << 20));
        assert_eq!(needs(Method::POST, "/api/v1/sessions/s/close", 0, ""), Needs::Call(LITTLE));
        let chunked = Request::post("/api/v1/sessions")
            .body(Body::from_stream(futures_util::stream::empty::<Result<Bytes, axum::Error>>()));
        assert_eq!(super::needs(&chunked.unwrap(), &limits), Needs::Call(limits.body));
    }
}
