//! The REST API: every route on one screen. What the calls mean is in `API.md`'s words, in the OpenAPI document.

mod access;
mod attachments;
mod budget;
mod children;
mod cleanup;
mod connections;
mod disposition;
mod download;
mod envelope;
mod error;
mod events;
mod extract;
mod idempotency;
mod lifecycle;
mod listener;
mod listing;
mod messages;
mod original;
mod runs;
mod search;
mod server;
mod sessions;
mod upload;
mod version;
mod worktrees;

use std::sync::Arc;

pub use access::Access;
use aide::{
    axum::{
        ApiRouter,
        routing::{get_with, post_with},
    },
    openapi::{OpenApi, SecurityScheme},
    transform::{TransformOpenApi, TransformOperation},
};
pub use envelope::Api;
pub use listener::serve;

use crate::{model::Limits, repository::SessionRepository, runs::Runs, worktree::Worktrees};

/// Requests that are under way.
#[derive(Clone)]
struct UnderWay {
    keys: idempotency::Keys,
    bytes: budget::Budget,
}

/// What handlers share: every request takes a copy or two.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The application's parts.
pub struct Shared {
    repository: SessionRepository,
    runs: Runs,
    worktrees: Worktrees,
    limits: Limits,
    under_way: UnderWay,
    document: server::Document,
}

impl App {
    /// An application on these sessions, runs and worktrees.
    pub fn new(runs: Runs, worktrees: Worktrees, limits: Limits) -> Self {
        let bytes = budget::Budget::new(limits.in_flight);
        let under_way = UnderWay { keys: idempotency::Keys::default(), bytes };
        let document = server::Document::default();
        let repository = runs.repository().clone();
        Self(Arc::new(Shared { repository, runs, worktrees, limits, under_way, document }))
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

fn routes() -> ApiRouter<App> {
    use attachments as a;
    use children as c;
    use lifecycle as l;
    use messages as m;
    use runs as r;
    use sessions as s;
    use worktrees as w;
    let session = get_with(s::read, doc("sessions", "Read a session"))
        .patch_with(s::update, doc("sessions", "Change a session"))
        .delete_with(s::delete, doc("sessions", "Delete a session and everything below it"));
    let message = get_with(m::read, doc("messages", "Read a message"))
        .patch_with(m::edit, doc("messages", "Edit an assistant's text"))
        .delete_with(m::delete, doc("messages", "Delete a message"));
    let list =
        get_with(s::list, doc("sessions", "List sessions")).post_with(s::create, doc("sessions", "Create a session"));
    let history = get_with(m::page, doc("messages", "Page through a history"))
        .post_with(m::append, doc("messages", "Append messages"));
    let usage = get_with(s::usage, doc("sessions", "Read the token-usage log"))
        .post_with(s::append_usage, doc("sessions", "Append to the token-usage log"));
    let attachments = get_with(a::list, doc("attachments", "List a session's attachments"))
        .post_with(a::add, doc("attachments", "Add an attachment"));
    let attachment = get_with(a::read, doc("attachments", "Download an attachment"))
        .delete_with(a::delete, doc("attachments", "Delete an attachment"));
    let runs =
        get_with(r::of_session, doc("runs", "List a session's runs")).post_with(r::create, doc("runs", "Start a run"));
    let children = get_with(c::list, doc("children", "List a session's children"))
        .post_with(c::create, doc("children", "Create a child"));
    let child = get_with(c::read, doc("children", "Read a child"))
        .patch_with(c::update, doc("children", "Change a child and its assignment"))
        .delete_with(c::delete, doc("children", "Delete a child and everything below it"));
    let close = get_with(l::preview, doc("lifecycle", "Preview a close"))
        .post_with(l::close, doc("lifecycle", "Close a session and everything below it"));
    let worktree = get_with(w::read, doc("worktrees", "Show the worktree of a session's tree"))
        .put_with(w::attach, doc("worktrees", "Attach a worktree to a session's tree"))
        .delete_with(w::detach, doc("worktrees", "Remove the worktree of a session's tree"));
    ApiRouter::new()
        .api_route("/api/v1/sessions", list)
        .api_route("/api/v1/sessions/cleanup", post_with(cleanup::cleanup, doc("sessions", "Delete many sessions")))
        .api_route("/api/v1/sessions/{id}", session)
        .api_route("/api/v1/sessions/{id}/clear", post_with(s::clear, doc("sessions", "Clear a session")))
        .api_route("/api/v1/sessions/{id}/tree", get_with(s::tree, doc("sessions", "Read a session's tree")))
        .api_route("/api/v1/sessions/{id}/usage", usage)
        .api_route("/api/v1/sessions/{id}/worktree", worktree)
        .api_route("/api/v1/sessions/{id}/messages", history)
        .api_route(
            "/api/v1/sessions/{id}/messages/truncate",
            post_with(m::truncate, doc("messages", "Cut off a history")),
        )
        .api_route("/api/v1/sessions/{id}/messages/{message_id}", message)
        .api_route(
            "/api/v1/sessions/{id}/cancel",
            post_with(r::cancel_session, doc("runs", "Cancel what runs in a session")),
        )
        .api_route("/api/v1/sessions/{id}/close", close)
        .api_route(
            "/api/v1/sessions/{id}/reopen",
            post_with(l::reopen, doc("lifecycle", "Open a session and everything below it again")),
        )
        .api_route(
            "/api/v1/sessions/{id}/archive",
            post_with(l::archive, doc("lifecycle", "Close and archive a session and everything below it")),
        )
        .api_route(
            "/api/v1/sessions/{id}/unarchive",
            post_with(l::unarchive, doc("lifecycle", "Take a session and everything below it out of the archive")),
        )
        .api_route("/api/v1/sessions/{id}/children", children)
        .api_route("/api/v1/sessions/{id}/children/{child}", child)
        .api_route(
            "/api/v1/sessions/{id}/children/{child}/run",
            post_with(c::run, doc("children", "Run a child again")),
        )
        .api_route(
            "/api/v1/sessions/{id}/children/{child}/messages",
            post_with(c::send, doc("children", "Send a message to a child")),
        )
        .api_route(
            "/api/v1/sessions/{id}/children/{child}/cancel",
            post_with(c::cancel, doc("children", "Cancel what runs in a child")),
        )
        .api_route("/api/v1/sessions/{id}/runs", runs)
        .api_route("/api/v1/runs", get_with(r::list, doc("runs", "List runs")))
        .api_route("/api/v1/runs/{run_id}", get_with(r::read, doc("runs", "Read a run, or wait for its end")))
        .api_route("/api/v1/runs/{run_id}/cancel", post_with(r::cancel, doc("runs", "Cancel a run")))
        .api_route("/api/v1/sessions/{id}/question", get_with(r::question, doc("runs", "Read the pending question")))
        .api_route(
            "/api/v1/sessions/{id}/question/answer",
            post_with(r::answer, doc("runs", "Answer the pending question")),
        )
        .api_route("/api/v1/sessions/{id}/events", get_with(events::of_session, doc("events", "Follow a session")))
        .api_route("/api/v1/events", get_with(events::all, doc("events", "Follow everything")))
        .api_route("/api/v1/sessions/{id}/attachments", attachments)
        .api_route("/api/v1/sessions/{id}/attachments/{attachment_id}", attachment)
        .api_route("/health", get_with(server::health, open("Whether the server lives")))
        .api_route("/ready", get_with(server::ready, open("Whether the server can work")))
        .api_route("/api/v1/search", get_with(search::search, doc("search", "Search titles, summaries and messages")))
        .route("/api/v1/openapi.json", axum::routing::get(server::openapi))
        .route("/docs", axum::routing::get(server::docs))
        .route("/", axum::routing::get(server::root))
        .route("/favicon.ico", axum::routing::get(server::icon))
}

/// What cleanups have deleted, and those that are under way.
fn receipt_routes() -> ApiRouter<App> {
    ApiRouter::new()
        .api_route("/api/v1/receipts", get_with(cleanup::running, doc("sessions", "List the cleanups under way")))
        .api_route(
            "/api/v1/receipts/{receipt_id}",
            get_with(cleanup::read, doc("sessions", "Read what a cleanup has deleted")),
        )
        .api_route(
            "/api/v1/receipts/{receipt_id}/cancel",
            post_with(cleanup::cancel, doc("sessions", "Cancel a cleanup")),
        )
}

/// Calls of the API that this one took the place of. The one that deletes everything is for development.
fn original_routes(dev: bool) -> ApiRouter<App> {
    use original as o;
    let about = |summary| doc("original", summary);
    let routes = ApiRouter::new()
        .api_route("/api/v1/chat", post_with(o::chat::chat, about("Store a user's message")))
        .api_route("/api/v1/execute/{id}", post_with(o::execute::execute, about("Run a session")))
        .api_route("/api/v1/stop/{id}", post_with(o::stop, about("Stop what runs in a session")))
        .api_route("/api/v1/history/{id}", get_with(o::history, about("Read a history")))
        .api_route("/api/v1/events/{id}", get_with(o::events::follow, about("Follow a session")))
        .api_route("/api/v1/respond/{id}/pending", get_with(runs::question, about("Read the pending question")))
        .api_route("/api/v1/respond/{id}", post_with(o::respond, about("Answer the pending question")))
        .api_route("/api/v1/health", get_with(o::health, about("Whether the server lives")));
    match dev {
        true => routes.api_route("/api/v1/dev/reset", post_with(o::reset, about("Delete everything"))),
        false => routes,
    }
}

fn doc(tag: &'static str, summary: &'static str) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |operation| operation.tag(tag).summary(summary)
}

/// A call of the server's own, which asks for no token.
fn open(summary: &'static str) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |mut operation| {
        operation.inner_mut().security.push(Default::default());
        doc("server", summary)(operation)
    }
}

/// The cleanup that a request's body asks for, or why it is none.
pub fn cleanup_of(body: serde_json::Value) -> Result<crate::model::Cleanup, String> {
    cleanup::of_body(body)
}

/// The whole API, guarded; with `dev`, also what is for development alone.
pub fn api(app: App, access: Access, dev: bool) -> Api {
    let mut document = OpenApi::default();
    let limits = app.limits;
    let routes = routes().merge(receipt_routes()).merge(original_routes(dev));
    let routes = routes.finish_api_with(&mut document, |api| described(api, &limits)).with_state(app.clone());
    let bytes = app.under_way.bytes.clone();
    // Made once a server: it is the routes' own description.
    app.document.set(&document);
    Api::new(routes, access, bytes, limits)
}

fn described<'a>(api: TransformOpenApi<'a>, limits: &Limits) -> TransformOpenApi<'a> {
    let bearer = SecurityScheme::Http {
        scheme: "bearer".into(),
        bearer_format: None,
        description: Some("`culm token` prints it.".into()),
        extensions: Default::default(),
    };
    let description = format!(
        "The session server for AI agents. Limits in bytes: title {}, metadata {}, one message {}, one body {}, one \
         attachment {}. A page ends early at 8 MiB, and says that there is more. Requests and answers under way hold \
         at most {} bytes together; beyond that a request is answered 503 `overloaded`, with `Retry-After`. \
         Errors are application/problem+json; `code` says what happened. `Idempotency-Key` is taken where sessions and \
         messages are created, `If-Match` where they change. After a backup was restored, ids of events, cursors and ETags \
         carry an epoch, and those from before are answered with `reset`, 400 and 412.",
        limits.title, limits.metadata, limits.message, limits.body, limits.attachment, limits.in_flight
    );
    api.title("Culm")
        .version(env!("CARGO_PKG_VERSION"))
        .description(&description)
        .security_scheme("token", bearer)
        .security_requirement("token")
}
