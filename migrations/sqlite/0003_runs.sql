-- Runs: one row for each run that was asked for.

create table runs (
  run_key integer primary key autoincrement,
  id text not null unique check (length(cast(id as blob)) between 1 and 128),
  session_key integer not null references sessions (session_key) on delete cascade,
  executor text not null,
  model text,
  status text not null check (status in ('pending', 'running', 'completed', 'error', 'cancelled', 'skipped', 'interrupted')),
  attempt integer not null default 1 check (attempt > 0),
  error text,
  usage text check (usage is null or json_valid(usage)),
  first_seq integer,
  last_seq integer,
  created_at integer not null check (created_at > 0),
  started_at integer,
  finished_at integer
) strict;

create index runs_by_session on runs (session_key, run_key desc);
-- The filters of a list of runs, each in the list's order: an index ends with the table's key. Without them a list of the
-- few that failed walks all runs that ever were.
create index runs_by_status on runs (status);
create index runs_by_executor on runs (executor);
create index runs_by_executor_and_status on runs (executor, status);
create index runs_by_session_and_status on runs (session_key, status);
-- One active run a session: the database is the arbiter, not a map in memory.
create unique index runs_active on runs (session_key) where status in ('pending', 'running');

create trigger runs_count_insert after insert on runs
begin
  update sessions set run_count = run_count + 1 where session_key = new.session_key;
end;

create trigger runs_count_delete after delete on runs
begin
  update sessions set run_count = run_count - 1 where session_key = old.session_key and deleted_at is null;
end;

create trigger runs_refuse_orphan before insert on runs
when not exists (select 1 from live_sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;

-- The ids of a deleted session's runs are free at once, not only when it is purged.
create trigger runs_release_id before insert on runs
when exists (select 1 from runs where id = new.id)
begin
  delete from runs
  where id = new.id and exists (select 1 from sessions where session_key = runs.session_key and deleted_at is not null);
end;
