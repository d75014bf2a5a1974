//! Rows of a page: no more than may be in memory together.

use futures_util::{Stream, TryStreamExt};

use super::error;
use crate::{model::PAGE_BYTES, storage::Result};

/// Rows that were read.
pub(super) struct Read<T> {
    pub(super) rows: Vec<T>,
    /// Whether there are more that were asked for.
    pub(super) unread: bool,
}

/// Reads rows until they have the bytes of a page; the first whatever it has.
pub(super) async fn read<T>(rows: impl Stream<Item = sqlx::Result<T>>, bytes: impl Fn(&T) -> usize) -> Result<Read<T>> {
    let (mut read, mut total) = (Read { rows: Vec::new(), unread: false }, 0);
    let most = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(error::of)? {
        total += bytes(&row);
        if total > most && !read.rows.is_empty() {
            read.unread = true;
            break;
        }
        read.rows.push(row);
    }
    Ok(read)
}
