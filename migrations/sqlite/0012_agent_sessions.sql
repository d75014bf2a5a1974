-- Agent sessions: what executors keep warm for sessions between runs. One row for each session and executor.

create table agent_sessions (
  agent_session_key integer primary key autoincrement,
  -- Names the backend's home directory, and stands in the environment of its processes.
  id text not null unique check (length(cast(id as blob)) between 1 and 128),
  session_key integer not null references sessions (session_key) on delete cascade,
  executor text not null,
  -- Its kind: acp, opencode.
  backend text not null,
  -- The agent's own id of the session. Null where it was asked nothing there, or remembers another history than this one.
  agent_session_id text,
  -- The process that leads the backend's group, told from a later one of the same number by when it began. Never 1: a
  -- signal to that group goes to every process that there is.
  pid integer check (pid > 1),
  pid_started integer,
  status text not null check (status in ('warm', 'dormant', 'closed')),
  -- The last message that the agent knows of. 0 from when it is asked something until that run has ended: where it was
  -- killed meanwhile, nobody can tell what it knows.
  seen_seq integer not null default 0 check (seen_seq >= 0),
  created_at integer not null check (created_at > 0),
  -- When it was warmed or asked last, and strictly increasing: whoever ended it tells by this whether it was used since.
  used_at integer not null check (used_at > 0),
  closed_at integer,
  check ((pid is null) = (pid_started is null)),
  check (pid is null or status = 'warm'),
  check ((closed_at is null) = (status <> 'closed'))
) strict;

create unique index agent_sessions_by_session on agent_sessions (session_key, executor);
-- What a process that died has left; few at any time.
create index agent_sessions_warm on agent_sessions (agent_session_key) where status = 'warm';

create trigger agent_sessions_refuse_orphan before insert on agent_sessions
when not exists (select 1 from live_sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;

create trigger agent_sessions_keep_identity before update of agent_session_key, id, session_key, executor on agent_sessions
when new.agent_session_key <> old.agent_session_key or new.id <> old.id or new.session_key <> old.session_key
  or new.executor <> old.executor
begin
  select raise(abort, 'the identity of an agent session does not change');
end;

-- What an agent remembers is derived from the history, like a summary: when that changes other than by its end growing,
-- the agent begins anew.
create trigger messages_delete_forgets_agents after delete on messages
begin
  update agent_sessions set agent_session_id = null, seen_seq = 0
  where session_key = old.session_key and (agent_session_id is not null or seen_seq > 0);
end;

create trigger messages_edit_forgets_agents
after update of role, content, reasoning, parts, tool_calls, tool_call_id, tool_success on messages
when new.role <> old.role or new.content <> old.content or new.reasoning is not old.reasoning
  or new.parts is not old.parts or new.tool_calls is not old.tool_calls
  or new.tool_call_id is not old.tool_call_id or new.tool_success is not old.tool_success
begin
  update agent_sessions set agent_session_id = null, seen_seq = 0
  where session_key = new.session_key and (agent_session_id is not null or seen_seq > 0);
end;

-- A tombstone is laid for each session that goes, whoever deletes it, while its rows are all still there: so its
-- backends go first, before their agents are made to forget the messages.
create trigger tombstones_take_agents after insert on tombstones
begin
  delete from agent_sessions where session_key = (select session_key from sessions where id = new.id);
end;

-- Sessions are closed by Culm, opened again by an append or a run, and both by a shell: it is told of here, for all of them.
-- The version is 0 only while a row is created: one that comes closed was not closed now.
create trigger sessions_event_closed after update of closed_at, archived_at on sessions
when old.version > 0
  and ((new.closed_at is null) <> (old.closed_at is null) or (new.archived_at is null) <> (old.archived_at is null))
begin
  insert into events (session_key, root_key, kind, data, created_at)
  select new.session_key, new.root_key, 'session.closed',
    json_object('closed', json(iif(new.closed_at is null, 'false', 'true'))),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  where (new.closed_at is null) <> (old.closed_at is null);
  insert into events (session_key, root_key, kind, data, created_at)
  select new.session_key, new.root_key, 'session.archived',
    json_object('archived', json(iif(new.archived_at is null, 'false', 'true'))),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  where (new.archived_at is null) <> (old.archived_at is null);
end;

-- A worktree that stayed when the sessions of its tree were closed is worked in again.
create trigger sessions_open_worktree after update of closed_at on sessions
when new.closed_at is null and old.closed_at is not null
begin
  update worktrees set state = 'attached', updated_at = max(updated_at, cast((julianday('now') - 2440587.5) * 86400000000 as integer))
  where root_key = new.root_key and state = 'retained';
end;

create view v_backends as
select s.id as session_id, s.title, a.executor, a.backend, a.status, a.pid, a.agent_session_id, a.seen_seq, s.last_seq,
  datetime(a.created_at / 1000000, 'unixepoch') as created,
  datetime(a.used_at / 1000000, 'unixepoch') as used,
  datetime(a.closed_at / 1000000, 'unixepoch') as closed,
  a.id
from agent_sessions a join live_sessions s using (session_key);

pragma user_version = 12;
