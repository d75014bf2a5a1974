//! Search over HTTP.

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::{App, error::Problem, extract::Answer, listing::Listing};
use crate::{
    model::{SearchHit, SearchPosition, SearchQuery},
    storage::Storage,
};

/// A page of what was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SearchBody {
    hits: Vec<SearchHit>,
    /// Whether the newest of all that matches was looked at alone. The next pages go on to the oldest.
    bounded: bool,
    /// True if nothing has all the words of the query, and these hits have most of them.
    relaxed: bool,
    next_cursor: Option<String>,
}

pub(super) async fn search(
    State(app): State<App>,
    list: Listing<SearchQuery, SearchPosition>,
) -> Result<Answer<200, SearchBody>, Problem> {
    list.filter.check()?;
    let page = app.repository.search(&list.filter, list.after.clone(), list.limit).await?;
    let next_cursor = list.cursor(page.next);
    Ok(Answer::new(&SearchBody { hits: page.hits, bounded: page.bounded, relaxed: page.relaxed, next_cursor }))
}
