//! Worktrees: what is known of them. What is on the disk is others' to change, before and after.
//!
//! **One worktree a tree, one tree a worktree**: the unique indexes of those that are active.

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    error,
    sessions::{self, SessionRow},
    types::{self, Word},
};
use crate::{
    model::{AbsolutePath, NewWorktree, SessionId, Timestamp, Worktree, WorktreeState, WorktreeStep},
    storage::{Error, Result},
};

/// Worktrees that a start takes up, at most: no server has as many under way.
const UNFINISHED: i64 = 10_000;

struct Row {
    key: i64,
    session_id: SessionId,
    state: Word<WorktreeState>,
    path: Word<AbsolutePath>,
    repository: Word<AbsolutePath>,
    git_dir: Option<Word<AbsolutePath>>,
    branch: Option<String>,
    branch_created: bool,
    base_commit: Option<String>,
    base_ref: Option<String>,
    adopted: bool,
    main: bool,
    rescue_ref: Option<String>,
    discard: bool,
    asked_for: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Row {
    fn into_worktree(self) -> Worktree {
        Worktree {
            session_id: self.session_id,
            state: self.state.0,
            path: self.path.0,
            repository: self.repository.0,
            git_dir: self.git_dir.map(|path| path.0),
            branch: self.branch,
            branch_created: self.branch_created,
            base_commit: self.base_commit,
            base_ref: self.base_ref,
            adopted: self.adopted,
            main: self.main,
            rescue_ref: self.rescue_ref,
            discard: self.discard,
            created_at: self.created_at,
            updated_at: self.updated_at,
            asked_for: self.asked_for,
        }
    }
}

/// The one list of columns.
macro_rules! select_worktrees {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"select w.worktree_key as "key!: i64", r.id as "session_id: SessionId", w.state as "state: Word<WorktreeState>",
                 w.path as "path: Word<AbsolutePath>", w.repository as "repository: Word<AbsolutePath>",
                 w.git_dir as "git_dir: Word<AbsolutePath>", w.branch, w.branch_created as "branch_created: bool",
                 w.base_commit, w.base_ref, w.adopted as "adopted: bool", w.main as "main: bool", w.rescue_ref,
                 w.discard as "discard: bool", w.asked_for, w.created_at as "created_at: Timestamp",
                 w.updated_at as "updated_at: Timestamp"
               from worktrees w join live_sessions r on r.session_key = w.root_key "# + $rest
            $(, $value)*
        )
    };
}

/// A worktree for the tree of a session.
pub(super) struct Add {
    pub(super) session: SessionId,
    pub(super) new: NewWorktree,
}

pub(super) async fn add(conn: &mut SqliteConnection, input: &Add) -> Result<Worktree> {
    let root = root_to_write(conn, &input.session).await?;
    let new = &input.new;
    let (path, repository, git_dir) = (text(&new.path), text(&new.repository), new.git_dir.as_ref().map(text));
    let now = Timestamp::now().0;
    let insert = sqlx::query!(
        "insert into worktrees (root_key, state, path, repository, git_dir, branch, branch_created, base_commit, base_ref,
           adopted, main, asked_for, created_at, updated_at)
         values (?1, 'creating', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)",
        root.session_key,
        path,
        repository,
        git_dir,
        new.branch,
        new.branch_created,
        new.base_commit,
        new.base_ref,
        new.adopted,
        new.main,
        new.asked_for,
        now
    );
    match insert.execute(&mut *conn).await {
        Err(error) if error::broken_rule(&error).is_some_and(|rule| rule.starts_with("UNIQUE")) => {
            Err(holder(conn, root.session_key, &path, git_dir.as_deref()).await?)
        }
        inserted => {
            inserted.map_err(error::of)?;
            Ok(active(conn, root.session_key, &root.id).await?.into_worktree())
        }
    }
}

/// The root of a session's tree, for a write.
async fn root_to_write(conn: &mut SqliteConnection, id: &SessionId) -> Result<SessionRow> {
    let session = sessions::row_to_write(conn, id).await?;
    sessions::row_to_write(conn, &session.root_session_id).await
}

/// Who has what another one was to have.
async fn holder(conn: &mut SqliteConnection, root: i64, path: &str, git_dir: Option<&str>) -> Result<Error> {
    let row = select_worktrees!(
        "where w.state in ('creating', 'attached', 'removing', 'retained') and (w.root_key = ?1 or w.path = ?2 or w.git_dir = ?3)
         order by w.root_key = ?1 desc limit 1",
        root,
        path,
        git_dir
    );
    let row = row.fetch_one(conn).await.map_err(error::of)?;
    Ok(Error::WorktreeExists { root: row.session_id, path: row.path.0 })
}

/// The worktree of the tree with this root.
async fn active(conn: &mut SqliteConnection, root: i64, id: &SessionId) -> Result<Row> {
    let row = select_worktrees!(
        "where w.root_key = ?1 and w.state in ('creating', 'attached', 'removing', 'retained')",
        root
    );
    let row = row.fetch_optional(conn).await.map_err(error::of)?;
    row.ok_or_else(|| Error::WorktreeNotFound(id.clone()))
}

/// The worktree of the tree that a session is in.
pub(super) async fn of_session(pool: &SqlitePool, id: &SessionId) -> Result<Option<Worktree>> {
    let key = sessions::key_to_read(pool, id).await?;
    let row = select_worktrees!(
        "where w.root_key = (select root_key from sessions where session_key = ?1)
           and w.state in ('creating', 'attached', 'removing', 'retained')",
        key
    );
    Ok(row.fetch_optional(pool).await.map_err(error::of)?.map(Row::into_worktree))
}

/// What a server that ended was making or removing.
pub(super) async fn unfinished(pool: &SqlitePool) -> Result<Vec<Worktree>> {
    let rows =
        select_worktrees!("where w.state in ('creating', 'removing') order by w.worktree_key limit ?1", UNFINISHED);
    Ok(rows.fetch_all(pool).await.map_err(error::of)?.into_iter().map(Row::into_worktree).collect())
}

/// What becomes of a tree's worktree next.
pub(super) struct Advance {
    pub(super) session: SessionId,
    pub(super) step: WorktreeStep,
}

pub(super) async fn advance(conn: &mut SqliteConnection, input: &Advance) -> Result<Worktree> {
    let root = root_to_write(conn, &input.session).await?;
    let row = active(conn, root.session_key, &root.id).await?;
    let key = row.key;
    let mut worktree = row.into_worktree();
    if input.step == WorktreeStep::Abandoned {
        let gone = sqlx::query!("delete from worktrees where worktree_key = ?1 and state = 'creating'", key);
        gone.execute(conn).await.map_err(error::of)?;
        return Ok(worktree);
    }
    if let WorktreeStep::Removing { closed, .. } = input.step {
        check_idle(conn, root.session_key, closed).await?;
    }
    let open = is_open(conn, root.session_key).await?;
    apply(&mut worktree, &input.step, open).ok_or_else(|| Error::WorktreeNotFound(root.id.clone()))?;
    write(conn, key, &worktree).await?;
    Ok(worktree)
}

/// No session of the tree has a run that is pending or under way; none is open nor has anything warm, where asked.
async fn check_idle(conn: &mut SqliteConnection, root: i64, closed: bool) -> Result<()> {
    let busy = sqlx::query_scalar!(
        r#"select s.id as "id: SessionId" from runs r join live_sessions s using (session_key)
           where r.status in ('pending', 'running') and s.root_key = ?1
           union all
           select s.id from live_sessions s where ?2 and s.root_key = ?1 and (s.closed_at is null or exists (
             select 1 from agent_sessions a where a.session_key = s.session_key and a.status = 'warm'))
           limit 1"#,
        root,
        closed
    );
    match busy.fetch_optional(conn).await.map_err(error::of)? {
        Some(busy) => Err(Error::SessionBusy(busy)),
        None => Ok(()),
    }
}

/// Whether a session of the tree is open.
async fn is_open(conn: &mut SqliteConnection, root: i64) -> Result<bool> {
    let open = sqlx::query_scalar!(
        r#"select exists (select 1 from live_sessions where root_key = ?1 and closed_at is null) as "open!: bool""#,
        root
    );
    open.fetch_one(conn).await.map_err(error::of)
}

/// Takes the step on a copy of the row; none where it cannot be taken from there.
fn apply(worktree: &mut Worktree, step: &WorktreeStep, open: bool) -> Option<()> {
    use WorktreeState as S;
    let (from, to): (&[S], S) = match step {
        WorktreeStep::Attached { git_dir } => {
            worktree.git_dir = Some(git_dir.clone());
            (&[S::Creating], S::Attached)
        }
        WorktreeStep::Removing { rescue_ref, discard, .. } => {
            if worktree.state != S::Removing {
                worktree.rescue_ref = Some(rescue_ref.clone());
            }
            worktree.discard = *discard;
            (&[S::Attached, S::Retained, S::Removing], S::Removing)
        }
        WorktreeStep::Kept => {
            worktree.rescue_ref = None;
            (&[S::Removing, S::Retained, S::Attached], if open { S::Attached } else { S::Retained })
        }
        WorktreeStep::Removed { rescue_ref } => {
            worktree.rescue_ref.clone_from(rescue_ref);
            (&[S::Removing], S::Removed)
        }
        WorktreeStep::Detached => {
            worktree.rescue_ref = None;
            (&[S::Removing, S::Retained, S::Attached], S::Detached)
        }
        WorktreeStep::Abandoned => (&[S::Creating], S::Detached),
    };
    let known = from.contains(&worktree.state);
    worktree.state = to;
    worktree.updated_at = worktree.updated_at.max(Timestamp::now());
    known.then_some(())
}

async fn write(conn: &mut SqliteConnection, key: i64, worktree: &Worktree) -> Result<()> {
    let (state, git_dir) = (types::word(&worktree.state), worktree.git_dir.as_ref().map(text));
    let update = sqlx::query!(
        "update worktrees set state = ?2, git_dir = ?3, rescue_ref = ?4, discard = ?5, updated_at = ?6 where worktree_key = ?1",
        key,
        state,
        git_dir,
        worktree.rescue_ref,
        worktree.discard,
        worktree.updated_at.0
    );
    update.execute(conn).await.map(drop).map_err(error::of)
}

fn text(path: &AbsolutePath) -> String {
    path.to_string()
}
