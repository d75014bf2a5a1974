//! The REST API: every route on one screen. What the calls mean is in
//! `document/operations.toml`, under the names that they have here.

mod access;
mod attachments;
mod budget;
mod children;
mod cleanup;
mod connections;
mod disposition;
mod document;
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
    openapi::OpenApi,
};
use document::{call, open};
pub use envelope::Api;
pub use listener::serve;

use crate::{model::Limits, repository::SessionRepository, runs::Runs, worktree::Worktrees};

/// Requests that are under way.
#[derive(Clone)]
struct UnderWay {
    keys: idempotency::Keys,
    bytes: Arc<budget::Budget>,
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
    document: document::Document,
}

impl App {
    /// An application on these sessions, runs and worktrees.
    pub fn new(runs: Runs, worktrees: Worktrees, limits: Limits) -> Self {
        let bytes = Arc::new(budget::Budget::new(limits.in_flight));
        let under_way = UnderWay { keys: idempotency::Keys::default(), bytes };
        let document = document::Document::default();
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
    let session = get_with(s::read, call("read_session"))
        .patch_with(s::update, call("update_session"))
        .delete_with(s::delete, call("delete_session"));
    let message = get_with(m::read, call("read_message"))
        .patch_with(m::edit, call("edit_message"))
        .delete_with(m::delete, call("delete_message"));
    let list = get_with(s::list, call("list_sessions")).post_with(s::create, call("create_session"));
    let history = get_with(m::page, call("list_messages")).post_with(m::append, call("append_messages"));
    let usage = get_with(s::usage, call("list_usage")).post_with(s::append_usage, call("append_usage"));
    let attachments = get_with(a::list, call("list_attachments")).post_with(a::add, call("add_attachment"));
    let attachment = get_with(a::read, call("read_attachment")).delete_with(a::delete, call("delete_attachment"));
    let runs = get_with(r::of_session, call("list_session_runs")).post_with(r::create, call("start_run"));
    let children = get_with(c::list, call("list_children")).post_with(c::create, call("create_child"));
    let child = get_with(c::read, call("read_child"))
        .patch_with(c::update, call("update_child"))
        .delete_with(c::delete, call("delete_child"));
    let close = get_with(l::preview, call("preview_close")).post_with(l::close, call("close_session"));
    let worktree = get_with(w::read, call("read_worktree"))
        .put_with(w::attach, call("attach_worktree"))
        .delete_with(w::detach, call("detach_worktree"));
    ApiRouter::new()
        .api_route("/api/v1/sessions", list)
        .api_route("/api/v1/sessions/cleanup", post_with(cleanup::cleanup, call("cleanup_sessions")))
        .api_route("/api/v1/sessions/{id}", session)
        .api_route("/api/v1/sessions/{id}/clear", post_with(s::clear, call("clear_session")))
        .api_route("/api/v1/sessions/{id}/tree", get_with(s::tree, call("read_tree")))
        .api_route("/api/v1/sessions/{id}/usage", usage)
        .api_route("/api/v1/sessions/{id}/worktree", worktree)
        .api_route("/api/v1/sessions/{id}/messages", history)
        .api_route("/api/v1/sessions/{id}/messages/truncate", post_with(m::truncate, call("truncate_messages")))
        .api_route("/api/v1/sessions/{id}/messages/{message_id}", message)
        .api_route("/api/v1/sessions/{id}/cancel", post_with(r::cancel_session, call("cancel_session")))
        .api_route("/api/v1/sessions/{id}/close", close)
        .api_route("/api/v1/sessions/{id}/reopen", post_with(l::reopen, call("reopen_session")))
        .api_route("/api/v1/sessions/{id}/archive", post_with(l::archive, call("archive_session")))
        .api_route("/api/v1/sessions/{id}/unarchive", post_with(l::unarchive, call("unarchive_session")))
        .api_route("/api/v1/sessions/{id}/children", children)
        .api_route("/api/v1/sessions/{id}/children/{child}", child)
        .api_route("/api/v1/sessions/{id}/children/{child}/run", post_with(c::run, call("run_child")))
        .api_route("/api/v1/sessions/{id}/children/{child}/messages", post_with(c::send, call("message_child")))
        .api_route("/api/v1/sessions/{id}/children/{child}/cancel", post_with(c::cancel, call("cancel_child")))
        .api_route("/api/v1/sessions/{id}/runs", runs)
        .api_route("/api/v1/runs", get_with(r::list, call("list_runs")))
        .api_route("/api/v1/runs/{run_id}", get_with(r::read, call("read_run")))
        .api_route("/api/v1/runs/{run_id}/cancel", post_with(r::cancel, call("cancel_run")))
        .api_route("/api/v1/sessions/{id}/question", get_with(r::question, call("read_question")))
        .api_route("/api/v1/sessions/{id}/question/answer", post_with(r::answer, call("answer_question")))
        .api_route("/api/v1/sessions/{id}/events", get_with(events::of_session, call("follow_session")))
        .api_route("/api/v1/events", get_with(events::all, call("follow_all")))
        .api_route("/api/v1/sessions/{id}/attachments", attachments)
        .api_route("/api/v1/sessions/{id}/attachments/{attachment_id}", attachment)
        .api_route("/health", get_with(server::health, open("check_health")))
        .api_route("/ready", get_with(server::ready, open("check_ready")))
        .api_route("/api/v1/search", get_with(search::search, call("search")))
        .api_route("/api/v1/openapi.json", get_with(server::openapi, open("read_openapi")))
        .api_route("/docs", get_with(server::docs, open("read_docs")))
        .route("/", axum::routing::get(server::root))
        .route("/favicon.ico", axum::routing::get(server::icon))
}

/// What cleanups have deleted, and those that are under way.
fn receipt_routes() -> ApiRouter<App> {
    ApiRouter::new()
        .api_route("/api/v1/receipts", get_with(cleanup::running, call("list_receipts")))
        .api_route("/api/v1/receipts/{receipt_id}", get_with(cleanup::read, call("read_receipt")))
        .api_route("/api/v1/receipts/{receipt_id}/cancel", post_with(cleanup::cancel, call("cancel_cleanup")))
}

/// Calls of the API that this one took the place of. The one that deletes everything is for development.
fn original_routes(dev: bool) -> ApiRouter<App> {
    use original as o;
    let routes = ApiRouter::new()
        .api_route("/api/v1/chat", post_with(o::chat::chat, call("chat")))
        .api_route("/api/v1/execute/{id}", post_with(o::execute::execute, call("execute")))
        .api_route("/api/v1/stop/{id}", post_with(o::stop, call("stop")))
        .api_route("/api/v1/history/{id}", get_with(o::history, call("history")))
        .api_route("/api/v1/events/{id}", get_with(o::events::follow, call("follow_legacy")))
        .api_route("/api/v1/respond/{id}/pending", get_with(runs::question, call("read_pending_legacy")))
        .api_route("/api/v1/respond/{id}", post_with(o::respond, call("respond")))
        .api_route("/api/v1/health", get_with(o::health, call("health_legacy")));
    match dev {
        true => routes.api_route("/api/v1/dev/reset", post_with(o::reset, call("reset"))),
        false => routes,
    }
}

/// The cleanup that a request's body asks for, or why it is none.
pub fn cleanup_of(body: serde_json::Value) -> Result<crate::model::Cleanup, String> {
    cleanup::of_body(body)
}

/// The whole API, guarded; with `dev`, also what is for development alone.
pub fn api(app: App, access: Access, dev: bool) -> Api {
    document::begin();
    let mut document = OpenApi::default();
    let limits = app.limits;
    let routes = routes().merge(receipt_routes()).merge(original_routes(dev));
    let routes = routes.finish_api_with(&mut document, |api| document::described(api, &limits)).with_state(app.clone());
    let bytes = app.under_way.bytes.clone();
    // Made once a server: it is the routes' own description.
    app.document.set(&document);
    Api::new(routes, access, bytes, limits)
}
