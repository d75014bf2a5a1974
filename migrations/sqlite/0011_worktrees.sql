-- Worktrees: the git worktree that a tree of sessions works in, and those that it had.

create table worktrees (
  worktree_key integer primary key autoincrement,
  -- The root: all sessions of a tree share one worktree.
  root_key integer not null references sessions (session_key) on delete cascade,
  state text not null check (state in ('creating', 'attached', 'removing', 'retained', 'removed', 'detached')),
  -- Paths are absolute. One that is no UTF-8 is written as a file:// URI, which no absolute path begins with.
  path text not null check (path glob '/*' or path glob 'file:///*'),
  repository text not null check (repository glob '/*' or repository glob 'file:///*'),
  -- What the repository keeps about it; unknown while it is being made.
  git_dir text check (git_dir glob '/*' or git_dir glob 'file:///*'),
  branch text,
  -- 1 when the branch was made for it.
  branch_created integer not null default 0 check (branch_created in (0, 1)),
  base_commit text,
  base_ref text,
  adopted integer not null default 0 check (adopted in (0, 1)),
  -- 1 for the main working tree of a repository, which is never removed.
  main integer not null default 0 check (main in (0, 1)),
  -- The ref that keeps what was in it. Written down before the removal begins, so that one which was interrupted
  -- goes on with the same.
  rescue_ref text check (rescue_ref glob 'refs/rescue/*'),
  -- 1 when it is removed although work is at risk.
  discard integer not null default 0 check (discard in (0, 1)),
  -- What it was asked for with (SHA-256, hex): the same request sent twice is told from another one.
  asked_for text not null,
  created_at integer not null check (created_at > 0),
  updated_at integer not null check (updated_at > 0),
  check (state not in ('attached', 'retained') or git_dir is not null),
  check (state <> 'removing' or rescue_ref is not null)
) strict;

-- A tree has one at a time, and one belongs to one tree: by where it is, and by what the repository knows it by.
create unique index worktrees_of_tree on worktrees (root_key) where state in ('creating', 'attached', 'removing', 'retained');
create unique index worktrees_by_path on worktrees (path) where state in ('creating', 'attached', 'removing', 'retained');
create unique index worktrees_by_git_dir on worktrees (git_dir) where state in ('creating', 'attached', 'removing', 'retained');
-- What a server that ended has left to do.
create index worktrees_unfinished on worktrees (worktree_key) where state in ('creating', 'removing');
-- All that a tree had, for the cascade.
create index worktrees_by_root on worktrees (root_key);

-- Also in a shell, where foreign keys are off.
create trigger worktrees_refuse_orphan before insert on worktrees
when not exists (select 1 from live_sessions where session_key = new.root_key and kind = 'root')
begin
  select raise(abort, 'no such root session');
end;

-- Goes with its root, in a shell too, where nothing cascades.
create trigger sessions_delete_worktrees after delete on sessions
begin
  delete from worktrees where root_key = old.session_key;
end;

create view v_worktrees as
select r.id as root_session_id, r.title, w.state, w.path, w.repository, w.branch, w.rescue_ref,
  datetime(w.created_at / 1000000, 'unixepoch') as created,
  datetime(w.updated_at / 1000000, 'unixepoch') as updated
from worktrees w join live_sessions r on r.session_key = w.root_key
order by w.worktree_key;

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 11;
