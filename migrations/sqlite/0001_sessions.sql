-- Sessions: one row each, roots and children alike.
--
-- 0x43554C4D spells CULM: a database of another application is refused at start by it.
pragma application_id = 1129663565;

create table sessions (
  -- Internal key, never reused: messages, runs and the search index hold it, so that nothing
  -- written for a deleted session can land in a later one.
  session_key integer primary key autoincrement,
  id text not null unique
    check (length(cast(id as blob)) between 1 and 128 and id not in ('.', 'cleanup', 'truncate', 'count', 'search')
           and instr(id, '/') = 0 and instr(id, '\') = 0 and instr(id, '..') = 0),
  kind text not null check (kind in ('root', 'child')),
  -- Null for a root. Not the cascade's way: a cascade along a chain of parents fails as a whole at depth 1000.
  parent_key integer references sessions (session_key) on delete no action,
  -- A root's own key, or that of the root above. The cascade goes from here, one step deep at any depth.
  root_key integer not null references sessions (session_key) on delete cascade,
  spawn_depth integer not null default 0 check (spawn_depth between 0 and 100000),
  title text not null default 'New Session',
  pinned integer not null default 0 check (pinned in (0, 1)),
  model text,
  provider text,
  -- {"provider", "model"} as the client gave them together; gone when only one of the two is changed.
  model_ref text check (model_ref is null or json_valid(model_ref)),
  reasoning_effort text check (reasoning_effort in ('low', 'medium', 'high', 'xhigh', 'max')),
  workspace text,
  metadata text not null default '{}' check (json_valid(metadata) and json_type(metadata) = 'object'),
  subagent_type text,
  -- What a child is for; the brief that its first user message was made from.
  responsibility text,
  prompt text,
  created_by_schedule_id text,
  schedule_run_id text,
  last_run_status text check (last_run_status in ('pending', 'running', 'completed', 'error', 'cancelled', 'skipped', 'interrupted')),
  last_run_error text,
  pending_question text check (pending_question is null or json_valid(pending_question)),
  token_usage text check (token_usage is null or json_valid(token_usage)),
  token_budget text check (token_budget is null or json_valid(token_budget)),
  task_list text check (task_list is null or json_valid(task_list)),
  conversation_summary text check (conversation_summary is null or json_valid(conversation_summary)),
  -- What an import met and Culm has no column for, as it was.
  extra text not null default '{}' check (json_valid(extra) and json_type(extra) = 'object'),
  -- Cached so that a list reads one row a session. Triggers keep them; `culm check` proves them.
  message_count integer not null default 0 check (message_count >= 0),
  -- The highest seq ever given, also when its message is gone: a seq is never reused.
  last_seq integer not null default 0 check (last_seq >= 0),
  attachment_count integer not null default 0 check (attachment_count >= 0),
  attachment_bytes integer not null default 0 check (attachment_bytes >= 0),
  -- With these and the counts around them the receipt of a delete is read from session rows alone.
  content_bytes integer not null default 0 check (content_bytes >= 0),
  run_count integer not null default 0 check (run_count >= 0),
  children_count integer not null default 0 check (children_count >= 0),
  -- Raised by every change; the ETag. 0 only within the transaction that creates the row. Freshness is decided by it, never by a clock.
  version integer not null default 1 check (version >= 0),
  -- What the session was created from (SHA-256, hex): the same create sent twice is told from an id in use.
  created_from text,
  -- Microseconds since 1970 UTC.
  created_at integer not null check (created_at > 0),
  updated_at integer not null check (updated_at > 0),
  last_activity_at integer not null check (last_activity_at > 0),
  archived_at integer,
  closed_at integer,
  -- When it was deleted. From then on nothing shows it; the row stays until its content is purged (0008).
  deleted_at integer,
  check ((kind = 'root') = (parent_key is null)),
  check ((kind = 'root') = (root_key = session_key)),
  check ((kind = 'root') = (spawn_depth = 0))
) strict;

-- The sessions that are not deleted: what every query reads.
create view live_sessions as
select session_key, id, kind, parent_key, root_key, spawn_depth, title, pinned, model, provider, model_ref,
  reasoning_effort, workspace, metadata, subagent_type, responsibility, prompt, created_by_schedule_id, schedule_run_id,
  last_run_status, last_run_error, pending_question, token_usage, token_budget, task_list, conversation_summary, extra,
  message_count, last_seq, attachment_count, attachment_bytes, content_bytes, run_count, children_count, version,
  created_from, created_at, updated_at, last_activity_at, archived_at, closed_at
from sessions where deleted_at is null;

-- The ways into a list. Deleted sessions are in none of them, or set apart. (SQLite reads the row to look at deleted_at
-- where an index does not have it, though its condition says what is there.) Archived sessions have an index of their own,
-- so that a long archive costs the default list nothing; children are counted and listed by parent and by root. The orders
-- of activity hold the time of creation too: what a range of it leaves out is passed over without reading the row. (Not the
-- other way round: each append would write that index.)
create index sessions_by_activity on sessions (kind, last_activity_at desc, session_key desc, created_at, deleted_at)
  where archived_at is null and deleted_at is null;
create index archived_by_activity on sessions (kind, last_activity_at desc, session_key desc, created_at, deleted_at)
  where archived_at is not null and deleted_at is null;
create index sessions_by_creation on sessions (kind, deleted_at, created_at desc, session_key desc);
-- Foreign keys look here for deleted sessions as well.
create index sessions_by_parent on sessions (parent_key, deleted_at, created_at desc, session_key desc) where parent_key is not null;
create index sessions_by_root on sessions (root_key, deleted_at, created_at desc, session_key desc);
-- What few sessions are: their keys, without an order. In the order of activity each append would write these too.
create index sessions_pinned on sessions (session_key, deleted_at) where pinned = 1 and deleted_at is null;
create index sessions_by_workspace on sessions (workspace, deleted_at) where workspace is not null and deleted_at is null;
create index sessions_by_model on sessions (model, deleted_at) where model is not null and deleted_at is null;

-- The record that an id was deleted. It outlives the session, and fences late writers.
create table tombstones (
  id text primary key,
  deleted_at integer not null
) strict, without rowid;

-- Neither an id that was deleted, nor a place below one.
create trigger sessions_refuse_deleted before insert on sessions
when exists (select 1 from tombstones where id = new.id)
  or exists (select 1 from sessions where session_key in (new.parent_key, new.root_key) and deleted_at is not null)
begin
  select raise(abort, 'session_deleted');
end;

-- Marking is a part of deleting (0008), and is never taken back.
create trigger sessions_stay_deleted before update of deleted_at on sessions
when new.deleted_at is not old.deleted_at
  and (old.deleted_at is not null or not exists (select 1 from tombstones where id = old.id))
begin
  select raise(abort, 'sessions are deleted with DELETE, for good');
end;

-- Ids and their place in the tree are for life: everything else refers to them.
create trigger sessions_keep_identity before update of session_key, id, kind, parent_key, root_key on sessions
when new.session_key <> old.session_key or new.id <> old.id or new.kind <> old.kind
  or new.parent_key is not old.parent_key or new.root_key <> old.root_key
begin
  select raise(abort, 'the identity of a session does not change');
end;

create trigger sessions_count_insert after insert on sessions
when new.parent_key is not null
begin
  update sessions set children_count = children_count + 1, version = version + 1 where session_key = new.parent_key;
end;

-- One that was marked before was counted then.
create trigger sessions_count_delete after delete on sessions
when old.parent_key is not null and old.deleted_at is null
begin
  update sessions set children_count = children_count - 1, version = version + 1 where session_key = old.parent_key;
end;

-- An edit in the shell raises the version as one over the API does. (Culm's own writes raise it themselves. A count of
-- runs is not shown.)
create trigger sessions_raise_version after update on sessions
when new.version = old.version and new.run_count = old.run_count
begin
  update sessions set version = old.version + 1 where session_key = old.session_key;
end;
