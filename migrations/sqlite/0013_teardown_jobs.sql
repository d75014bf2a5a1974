-- Teardown jobs: what is left to end or to remove outside of the database, such as processes. A job is made in the
-- transaction that takes away the row which it was known by, and goes when it is done: what was committed and not
-- carried out is known after any crash.

create table teardown_jobs (
  job_key integer primary key autoincrement,
  kind text not null check (kind in ('backend', 'worktree')),
  -- All that is needed to carry it out: the rows may be gone.
  payload text not null check (json_valid(payload) and json_type(payload) = 'object'),
  -- How often it was begun, why it failed last, and when it is begun next: later while somebody works on it.
  attempts integer not null default 0 check (attempts >= 0),
  last_error text,
  next_at integer not null,
  created_at integer not null check (created_at > 0)
) strict;

create index teardown_jobs_by_time on teardown_jobs (next_at, job_key);

-- A backend whose row goes is ended, and what its agent keeps of it is removed: whatever deleted the row.
create trigger agent_sessions_tear_down after delete on agent_sessions
begin
  insert into teardown_jobs (kind, payload, next_at, created_at)
  select 'backend',
    json_object('id', old.id, 'session_id', s.id,
      'root_session_id', (select r.id from sessions r where r.session_key = s.root_key), 'executor', old.executor, 'backend', old.backend,
      'agent_session_id', old.agent_session_id, 'pid', old.pid, 'pid_started', old.pid_started, 'status', old.status,
      'seen_seq', old.seen_seq, 'used_at', old.used_at, 'purge', json('true')),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  from sessions s where s.session_key = old.session_key;
end;

-- A worktree goes with its root, when that is marked or its row deleted: its path is free for another then. One that is
-- being made or removed is looked at, too.
create trigger tombstones_take_worktrees after insert on tombstones
begin
  insert into teardown_jobs (kind, payload, next_at, created_at)
  select 'worktree',
    json_object('session_id', new.id, 'state', w.state, 'path', w.path, 'repository', w.repository, 'git_dir', w.git_dir,
      'branch', w.branch, 'branch_created', json(iif(w.branch_created, 'true', 'false')), 'base_commit', w.base_commit,
      'base_ref', w.base_ref, 'adopted', json(iif(w.adopted, 'true', 'false')), 'main', json(iif(w.main, 'true', 'false')),
      'rescue_ref', w.rescue_ref, 'created_at', w.created_at, 'updated_at', w.updated_at,
      'discard', json(iif(w.state = 'removing' and w.discard, 'true', 'false')), 'closing', json('false')),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  from worktrees w
  where w.root_key = (select session_key from sessions where id = new.id)
    and w.state in ('creating', 'attached', 'removing', 'retained');
  delete from worktrees where root_key = (select session_key from sessions where id = new.id);
end;

-- A close that could not remove its worktree is void once a session of the tree is open again, also where that is closed
-- another time: what is worked in meanwhile is not to go as if nothing had been. What was begun goes on.
create trigger sessions_open_keeps_worktree after update of closed_at on sessions
when new.closed_at is null and old.closed_at is not null
begin
  delete from teardown_jobs
  where kind = 'worktree' and payload ->> 'closing'
    and payload ->> 'session_id' = (select id from sessions where session_key = new.root_key)
    and not exists (select 1 from worktrees where root_key = new.root_key and state in ('creating', 'removing'));
end;

create view v_teardown as
select job_key, kind, payload ->> 'session_id' as session_id, coalesce(payload ->> 'executor', payload ->> 'path') as what,
  attempts, last_error, datetime(next_at / 1000000, 'unixepoch') as next, datetime(created_at / 1000000, 'unixepoch') as created
from teardown_jobs;

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 13;
