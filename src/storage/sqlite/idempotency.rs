//! What requests with an idempotency key were answered.

use serde_json::Value;
use sqlx::{SqliteConnection, SqlitePool};

use super::{error, types::Json};
use crate::{
    model::Timestamp,
    storage::{Answer, Claim, Result},
};

/// How long an answer is kept, in microseconds: 24 hours.
const KEPT: i64 = 24 * 3600 * 1_000_000;

/// Keeps an answer, and forgets a few that are too old: the table grows with the keys of one day.
pub(super) async fn keep(conn: &mut SqliteConnection, claim: &Claim, status: u16, answer: &Value) -> Result<()> {
    let now = Timestamp::now().0;
    let (answer, status, oldest) = (answer.to_string(), i64::from(status), now - KEPT);
    // A key that came again after its day is over is a new one.
    sqlx::query!(
        "delete from idempotency_keys where (scope = ?1 and key = ?2)
           or (scope, key) in (select scope, key from idempotency_keys where created_at < ?3 order by created_at limit 10)",
        claim.scope,
        claim.key,
        oldest
    )
    .execute(&mut *conn)
    .await
    .map_err(error::of)?;
    sqlx::query!(
        "insert into idempotency_keys (scope, key, body_hash, status, answer, created_at) values (?1, ?2, ?3, ?4, ?5, ?6)",
        claim.scope,
        claim.key,
        claim.body_hash,
        status,
        answer,
        now
    )
    .execute(conn)
    .await
    .map(drop)
    .map_err(error::of)
}

/// What was answered under this key in the last 24 hours.
pub(super) async fn find(pool: &SqlitePool, scope: &str, key: &str) -> Result<Option<Answer>> {
    let oldest = Timestamp::now().0 - KEPT;
    let row = sqlx::query!(
        r#"select body_hash, status, answer as "answer: Json<Value>" from idempotency_keys
           where scope = ?1 and key = ?2 and created_at >= ?3"#,
        scope,
        key,
        oldest
    )
    .fetch_optional(pool)
    .await
    .map_err(error::of)?;
    Ok(row.map(|row| Answer {
        body_hash: row.body_hash,
        status: u16::try_from(row.status).unwrap_or(500),
        body: row.answer.0,
    }))
}
