//! Lists: a filter, a limit, and cursors that hold their filters and are good for their list alone.

use aide::{OperationInput, generate::GenContext, openapi};
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    App,
    document::may_fail,
    error::Problem,
    extract::{Pairs, Query, pairs, parse},
};
use crate::{model::Position, storage::Storage};

/// A list's filter and page: `limit` 1 to 200, 50 by default; `cursor` as the last answer gave it.
pub(super) struct Listing<F, P = Position> {
    pub(super) filter: F,
    pub(super) after: Option<P>,
    pub(super) limit: i64,
    /// The list's path: a cursor is good for this one alone.
    path: String,
    /// The database's epoch: places of another one are other places.
    epoch: i64,
}

impl<F: Serialize, P: Serialize> Listing<F, P> {
    /// The cursor of the page after this one: the filters and the place, behind a check that tells damage.
    pub(super) fn cursor(&self, next: Option<P>) -> Option<String> {
        let content = serde_json::to_vec(&(&self.filter, next?)).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&check_of(&self.path, self.epoch, &content)[..], &content].concat()))
    }
}

/// What a cursor begins with.
fn check_of(path: &str, epoch: i64, content: &[u8]) -> [u8; 6] {
    let epoch = if epoch == 1 { String::new() } else { epoch.to_string() };
    let hash = Sha256::new().chain_update(path).chain_update([0]).chain_update(epoch).chain_update(content).finalize();
    [hash[0], hash[1], hash[2], hash[3], hash[4], hash[5]]
}

/// The parameters that every list has.
#[derive(Debug, Deserialize, JsonSchema)]
struct PageOf {
    /// Rows on a page, 1 to 200; 50 by default.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200))]
    limit: Option<i64>,
    /// Where to go on, as `next_cursor` gave it. It holds its filters: they need not be said again.
    #[serde(default)]
    #[expect(dead_code, reason = "read apart, described here")]
    cursor: Option<String>,
}

impl<F, P> FromRequestParts<App> for Listing<F, P>
where
    F: DeserializeOwned + Serialize + Default + PartialEq,
    P: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (page, filter): (Pairs, Pairs) =
            pairs(parts)?.into_iter().partition(|(name, _)| name == "limit" || name == "cursor");
        let cursor = page.iter().find(|(name, _)| name == "cursor").map(|(_, value)| value.clone());
        let limit = parse::<PageOf>(page)?.limit.unwrap_or(50);
        if !(1..=200).contains(&limit) {
            return Err(Problem::invalid("limit", "limit is 1 to 200"));
        }
        let unsaid = filter.is_empty();
        let (filter, path, epoch): (F, _, _) = (parse(filter)?, parts.uri.path().to_owned(), app.repository.epoch());
        let Some(cursor) = cursor else { return Ok(Self { filter, after: None, limit, path, epoch }) };
        let damaged =
            || invalid_cursor("the cursor is damaged, that of another list, or older than a backup that was put back");
        let (held, after) = read_cursor::<F, P>(&path, epoch, &cursor).ok_or_else(damaged)?;
        match unsaid || held == filter {
            true => Ok(Self { filter: held, after: Some(after), limit, path, epoch }),
            false => Err(invalid_cursor("the cursor was made for other filters")),
        }
    }
}

impl<F: JsonSchema, P> OperationInput for Listing<F, P> {
    fn operation_input(ctx: &mut GenContext, operation: &mut openapi::Operation) {
        Query::<F>::operation_input(ctx, operation);
        Query::<PageOf>::operation_input(ctx, operation);
        may_fail(operation, &["invalid_cursor"]);
    }
}

/// A list without filters.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFilter {}

fn invalid_cursor(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "Invalid cursor", detail)
}

fn read_cursor<F: DeserializeOwned, P: DeserializeOwned>(path: &str, epoch: i64, cursor: &str) -> Option<(F, P)> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (check, content) = bytes.split_at_checked(6)?;
    (check_of(path, epoch, content) == *check).then(|| serde_json::from_slice(content).ok())?
}
