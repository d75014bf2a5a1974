-- Events: the log of changes. A row is written in the transaction that makes its change; its number is where a
-- subscriber goes on.

create table events (
  event_id integer primary key autoincrement,
  -- Internal keys, no references: session.deleted outlives what it tells of.
  session_key integer not null,
  root_key integer not null,
  kind text not null,
  -- The message that it tells of: shown as it is when the event is read.
  message_key integer,
  data text not null default '{}' check (json_valid(data)),
  created_at integer not null check (created_at > 0),
  -- Only for session.deleted, when nobody else knows them any more: the ids, and those above as JSON, nearest first.
  session_id text,
  root_session_id text,
  above text check (above is null or json_valid(above)),
  check ((kind = 'session.deleted') = (session_id is not null))
) strict;

-- A tree's events in order. One session's are found among those of its tree.
create index events_by_tree on events (root_key, event_id);
create index events_of_deletions on events (session_id) where session_id is not null;

-- Up to which event the log was cut off, for each tree and, under 0, for all: a subscriber who comes back with a lower
-- number has missed something.
create table event_gaps (
  root_key integer primary key,
  through integer not null
) strict;

create trigger attachments_event_added after insert on attachments
begin
  insert into events (session_key, root_key, kind, data, created_at)
  select new.session_key, root_key, 'attachment.added',
    json_object('attachment_id', new.id, 'mime_type', new.mime_type, 'size', new.size, 'sha256', new.sha256),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  from sessions where session_key = new.session_key;
end;

-- With its session there is nobody left to tell, also while a deleted one is purged.
create trigger attachments_event_deleted after delete on attachments
begin
  insert into events (session_key, root_key, kind, data, created_at)
  select old.session_key, root_key, 'attachment.deleted', json_object('attachment_id', old.id),
    cast((julianday('now') - 2440587.5) * 86400000000 as integer)
  from live_sessions where session_key = old.session_key;
end;

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 10;
