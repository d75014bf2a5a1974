//! The strict check of the search indexes, beside a server that writes, and without a copy of the database.
//!
//! FTS5 proves an index against its texts with a command that is a write. So what the index consists of is copied into
//! the connection's temporary database, which takes the texts from the database itself, in the same read transaction;
//! there the command may write. SQLite unlinks the file of a temporary database as it opens it: whatever ends the
//! check, nothing is left.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::error;

/// An index, and the view that its texts come from.
struct Index {
    name: &'static str,
    texts: &'static str,
}

const INDEXES: [Index; 3] = [
    Index {
        name: "message_index",
        texts: "create temp view message_terms as
                select message_key, content, reasoning, tools, scope from main.message_terms",
    },
    Index {
        name: "session_index",
        texts: "create temp view session_terms as select session_key, title, summary, scope from main.session_terms",
    },
    Index {
        name: "title_index",
        texts: "create temp view title_text as select session_key, title from main.title_text",
    },
];

/// What FTS5 keeps an index in: tables, with their columns.
const PARTS: [(&str, &str); 4] =
    [("data", "id, block"), ("idx", "segid, term, pgno"), ("docsize", "id, sz"), ("config", "k, v")];

/// Why an index was not checked.
pub(super) enum Unchecked {
    /// There is too little room for the copy.
    NoRoom { needs: u64, has: u64, folder: PathBuf },
    /// SQLite failed.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Unchecked {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// How many indexes there are.
pub(super) const COUNT: usize = INDEXES.len();

/// Checks one of the indexes. What is wrong with it, if anything is.
pub(super) async fn check(conn: &mut SqliteConnection, which: usize) -> Result<Option<String>, Unchecked> {
    let Index { name, texts } = &INDEXES[which];
    run(conn, "begin".into()).await?;
    let outcome = compare(conn, name, texts).await;
    // The copy goes at once, and with it the snapshot that it was made from. On a full disk SQLite has done that itself.
    let _ = run(conn, "rollback".into()).await;
    match outcome {
        Err(Unchecked::Failed(error)) if error::is_full(&error) => {
            let folder = temporary_folder();
            Err(Unchecked::NoRoom { needs: 0, has: free(&folder), folder })
        }
        Err(Unchecked::Failed(error)) if error::is_damage(&error) => {
            Ok(Some(format!("the search index {name} is not that of the texts: {error}")))
        }
        outcome => outcome.map(|()| None),
    }
}

async fn compare(conn: &mut SqliteConnection, name: &str, texts: &str) -> Result<(), Unchecked> {
    let made = "select sql from main.sqlite_schema where name = ?1";
    let made: Option<String> = sqlx::query_scalar(made).bind(name).fetch_optional(&mut *conn).await?;
    // That it is missing is found where the schema is compared.
    let Some(made) = made else { return Ok(()) };
    let size = format!("select coalesce(sum(length(block)), 0) from main.{name}_data");
    let size: i64 = sqlx::query_scalar(AssertSqlSafe(size)).fetch_one(&mut *conn).await?;
    let (needs, folder) = (size.unsigned_abs() / 4 * 5 + (1 << 20), temporary_folder());
    let has = free(&folder);
    if has < needs {
        return Err(Unchecked::NoRoom { needs, has, folder });
    }
    run(conn, texts.into()).await?;
    run(conn, made.replacen(name, &format!("temp.{name}"), 1)).await?;
    let tables: Vec<String> =
        sqlx::query_scalar("select name from temp.sqlite_schema where type = 'table'").fetch_all(&mut *conn).await?;
    for (part, columns) in PARTS {
        let table = format!("{name}_{part}");
        if tables.contains(&table) {
            run(conn, format!("delete from temp.{table}")).await?;
            run(conn, format!("insert into temp.{table} ({columns}) select {columns} from main.{table}")).await?;
        }
    }
    run(conn, format!("insert into temp.{name} ({name}, rank) values ('integrity-check', 1)")).await?;
    Ok(())
}

async fn run(conn: &mut SqliteConnection, sql: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

/// Where SQLite makes temporary files: the first of these that can be written.
fn temporary_folder() -> PathBuf {
    let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp"].into_iter().map(PathBuf::from);
    let can_be_written = |folder: &PathBuf| folder.is_dir() && access(folder, Access::WRITE_OK).is_ok();
    named.chain(usual).find(can_be_written).unwrap_or_else(|| ".".into())
}

fn free(folder: &Path) -> u64 {
    statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
