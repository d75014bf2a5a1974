-- Messages: the rows of a session's history.

create table messages (
  message_key integer primary key autoincrement,
  session_key integer not null references sessions (session_key) on delete cascade,
  -- The place in the session: strictly increasing, never reused.
  seq integer not null check (seq > 0),
  -- Unique within its session only: clients bring their own.
  id text not null check (length(cast(id as blob)) between 1 and 128),
  role text not null check (role in ('system', 'developer', 'user', 'assistant', 'tool')),
  content text not null default '',
  -- The indexed form of a text, of the reasoning and of tool_calls; '' if it is the text itself (0007). Culm writes them with
  -- the message; null tells that somebody else wrote it.
  content_terms text,
  reasoning text,
  reasoning_terms text,
  tools_terms text,
  parts text check (parts is null or json_valid(parts)),
  tool_calls text check (tool_calls is null or json_valid(tool_calls)),
  tool_call_id text,
  tool_success integer check (tool_success in (0, 1)),
  -- The text of all parts, in bytes: what a session's content_bytes sums up.
  bytes integer generated always as (length(cast(content as blob)) + coalesce(length(cast(reasoning as blob)), 0)
    + coalesce(length(cast(parts as blob)), 0) + coalesce(length(cast(tool_calls as blob)), 0)) virtual,
  phase text,
  metadata text check (metadata is null or json_valid(metadata)),
  run_id text,
  compressed integer not null default 0 check (compressed in (0, 1)),
  extra text not null default '{}' check (json_valid(extra) and json_type(extra) = 'object'),
  created_at integer not null check (created_at > 0),
  updated_at integer not null check (updated_at > 0)
) strict;

create unique index messages_by_seq on messages (session_key, seq);
create unique index messages_by_id on messages (session_key, id);
-- Empty where no history was summed up: every change of a message looks here for marks to take back.
create index messages_compressed on messages (session_key) where compressed = 1;

-- A session's counters. Culm raises them before it inserts (0014), so this one is silent then; it speaks for an insert in
-- the shell. None of these changes a session that was deleted: its messages are purged at no more cost than their own.
create trigger messages_count_insert after insert on messages
when new.seq > (select last_seq from sessions where session_key = new.session_key)
begin
  update sessions set last_seq = new.seq, message_count = message_count + 1, content_bytes = content_bytes + new.bytes,
    version = version + 1
  where session_key = new.session_key;
end;

create trigger messages_count_delete after delete on messages
begin
  update sessions set message_count = message_count - 1, content_bytes = content_bytes - old.bytes, version = version + 1
  where session_key = old.session_key and deleted_at is null;
end;

create trigger messages_keep_identity before update of message_key, session_key, seq, id on messages
when new.message_key <> old.message_key or new.session_key <> old.session_key or new.seq <> old.seq or new.id <> old.id
begin
  select raise(abort, 'the identity of a message does not change');
end;

-- An indexed form alone is nothing that a session shows.
create trigger messages_raise_version after update on messages
when new.content is not old.content
  or (new.content_terms is old.content_terms and new.reasoning_terms is old.reasoning_terms and new.tools_terms is old.tools_terms)
begin
  update sessions set content_bytes = content_bytes + new.bytes - old.bytes, version = version + 1
  where session_key = new.session_key and deleted_at is null;
end;

-- An insert in the shell, where foreign keys are off, must not make an orphan. A session that was deleted takes nothing.
create trigger messages_refuse_orphan before insert on messages
when not exists (select 1 from live_sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;
