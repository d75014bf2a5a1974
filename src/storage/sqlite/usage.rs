//! The token-usage log: append-only, one JSON object a record.

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    bounded::{self, Read},
    error, sessions,
    types::{self, Raw},
};
use crate::{
    model::{Page, Position, RawObject, RunId, SessionId, Timestamp, UsageRecord},
    storage::Result,
};

/// A record for a session.
pub(super) struct NewRecord {
    pub(super) session: SessionId,
    pub(super) record: RawObject,
}

pub(super) async fn append(conn: &mut SqliteConnection, input: &NewRecord) -> Result<UsageRecord> {
    let key = sessions::row_to_write(conn, &input.session).await?.session_key;
    let (record, now) = (types::object(&input.record), Timestamp::now());
    let insert = sqlx::query!(
        "insert into usage_records (session_key, record, created_at) values (?1, ?2, ?3)",
        key,
        record,
        now.0
    );
    insert.execute(conn).await.map_err(error::of)?;
    Ok(UsageRecord { record: input.record.clone(), created_at: now })
}

/// What a run used is a record of its session's log, whatever carried it out: its executor, on this model.
pub(super) async fn log_run(
    conn: &mut SqliteConnection,
    session: &SessionId,
    (run, executor, model): (&RunId, &String, Option<&String>),
    mut record: RawObject,
) -> Result<()> {
    record.insert("run_id", run);
    record.insert("executor", executor);
    if let Some(model) = model {
        record.insert("model", model);
    }
    append(conn, &NewRecord { session: session.clone(), record }).await.map(drop)
}

pub(super) async fn page(
    pool: &SqlitePool,
    id: &SessionId,
    after: Option<Position>,
    limit: i64,
) -> Result<Page<UsageRecord>> {
    let key = sessions::key_to_read(pool, id).await?;
    let (after, more) = (after.map_or(0, |place| place.key), limit + 1);
    let rows = sqlx::query!(
        r#"select usage_key as "key!: i64", record as "record: Raw", usage_records.created_at as "created_at: Timestamp"
           from usage_records join live_sessions using (session_key)
           where session_key = ?1 and usage_key > ?2 order by usage_key limit ?3"#,
        key,
        after,
        more
    );
    let Read { rows, unread } = bounded::read(rows.fetch(pool), |row| row.record.0.as_str().len() + 64).await?;
    let rows = rows.into_iter().map(|row| {
        let place = Position { at: row.created_at.0, key: row.key };
        (place, UsageRecord { record: row.record.object(), created_at: row.created_at })
    });
    Ok(Page::cut_where(rows.collect(), limit, unread))
}
