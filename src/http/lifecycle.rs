//! Closing and archiving over HTTP, and opening again.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    App,
    error::Problem,
    extract::{Answer, NoQuery, Path, Query},
    sessions::InSession,
};
use crate::{
    lifecycle::{self, Close, SessionResult},
    model::SessionId,
};

/// How to close.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseQuery {
    /// `true` also removes a worktree that holds work which would be lost.
    #[serde(default)]
    force: bool,
}

/// What was done, session by session.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LifecycleBody {
    /// Whether all of it was done.
    ok: bool,
    session_id: SessionId,
    /// The session, and then everything below it in the order of creation.
    results: Vec<SessionResult>,
}

impl LifecycleBody {
    fn answer(session_id: SessionId, results: Vec<SessionResult>) -> Answer<200, Self> {
        let ok = results.iter().all(|result| result.error.is_none());
        Answer::new(&Self { ok, session_id, results })
    }
}

pub(super) async fn close(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<CloseQuery>,
) -> Result<Answer<200, LifecycleBody>, Problem> {
    let how = Close { archive: false, force: query.force };
    let results = lifecycle::close(&app.runs, &app.worktrees, &at.id, how).await?;
    Ok(LifecycleBody::answer(at.id, results))
}

pub(super) async fn preview(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<CloseQuery>,
) -> Result<Answer<200, LifecycleBody>, Problem> {
    let results = lifecycle::preview(&app.runs, &app.worktrees, &at.id, query.force).await?;
    Ok(LifecycleBody::answer(at.id, results))
}

pub(super) async fn archive(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<CloseQuery>,
) -> Result<Answer<200, LifecycleBody>, Problem> {
    let how = Close { archive: true, force: query.force };
    let results = lifecycle::close(&app.runs, &app.worktrees, &at.id, how).await?;
    Ok(LifecycleBody::answer(at.id, results))
}

pub(super) async fn unarchive(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
) -> Result<Answer<200, LifecycleBody>, Problem> {
    let results = lifecycle::open(&app.runs, &at.id, true).await?;
    Ok(LifecycleBody::answer(at.id, results))
}

pub(super) async fn reopen(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
) -> Result<Answer<200, LifecycleBody>, Problem> {
    let results = lifecycle::open(&app.runs, &at.id, false).await?;
    Ok(LifecycleBody::answer(at.id, results))
}
