//! The worktree of a session's tree over HTTP.

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    App,
    error::Problem,
    extract::{Answer, Json, NoQuery, Path, Query},
    sessions::InSession,
};
use crate::{
    lifecycle::{self, WorktreeError},
    model::{AttachWorktree, Findings, Removed, Worktree},
    storage::{Error, Storage},
};

/// The worktree of a tree.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorktreeBody {
    worktree: Worktree,
}

pub(super) async fn read(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
) -> Result<Answer<200, WorktreeBody>, Problem> {
    let worktree = app.repository.worktree_of(&at.id).await?.ok_or(Error::WorktreeNotFound(at.id))?;
    Ok(Answer::new(&WorktreeBody { worktree }))
}

/// The worktree of a tree, as it was attached.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AttachedBody {
    worktree: Worktree,
    /// Files of a new worktree that a filter such as Git LFS would have made. Culm runs no filter that a repository names,
    /// so they are as they are committed: have the filter's own tool check them out. Absent if there are none.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    unfiltered: Findings,
}

/// A worktree that was attached now, or by the same request before.
pub(super) enum Attached {
    Now(AttachedBody),
    Before(AttachedBody),
}

impl IntoResponse for Attached {
    fn into_response(self) -> Response {
        match self {
            Self::Now(body) => Answer::<201, _>::new(&body).into_response(),
            Self::Before(body) => Answer::<200, _>::new(&body).into_response(),
        }
    }
}

impl OperationOutput for Attached {
    type Inner = AttachedBody;

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        let mut responses = Answer::<201, AttachedBody>::inferred_responses(ctx, operation);
        responses.extend(Answer::<200, AttachedBody>::inferred_responses(ctx, operation));
        responses
    }
}

pub(super) async fn attach(
    State(app): State<App>,
    Path(at): Path<InSession>,
    _: NoQuery,
    body: Json<AttachWorktree>,
) -> Result<Attached, Problem> {
    body.value.check()?;
    let attached = lifecycle::attach_worktree(&app.repository, &app.worktrees, &at.id, body.value).await;
    let lifecycle::Attached { worktree, new, unfiltered } = attached.map_err(Problem::from)?;
    let body = AttachedBody { worktree, unfiltered };
    Ok(if new { Attached::Now(body) } else { Attached::Before(body) })
}

/// How to remove a worktree.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DetachQuery {
    /// `true` removes it although work is at risk: a rescue ref keeps all of it.
    #[serde(default)]
    discard: bool,
}

/// A worktree that is its tree's no more.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DetachedBody {
    worktree: Worktree,
    #[serde(flatten)]
    removed: Removed,
}

pub(super) async fn detach(
    State(app): State<App>,
    Path(at): Path<InSession>,
    Query(query): Query<DetachQuery>,
) -> Result<Answer<200, DetachedBody>, Problem> {
    let detached = lifecycle::detach_worktree(&app.runs, &app.worktrees, &at.id, query.discard).await;
    let (worktree, removed) = detached.map_err(|error: WorktreeError| Problem::from(error))?;
    Ok(Answer::new(&DetachedBody { worktree, removed }))
}
