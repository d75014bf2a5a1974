-- Receipts: what a cleanup has deleted so far, and how far it is. A cleanup marks whole trees in many transactions; this
-- row moves in each of them, so that one that a crash or a stop of the server cut off is resumed where it was.

create table receipts (
  receipt_key integer primary key autoincrement,
  id text not null unique check (length(cast(id as blob)) between 1 and 128),
  status text not null check (status in ('running', 'completed', 'stopped')),
  -- What was asked for, as JSON: all that is needed to resume it.
  request text not null check (json_valid(request) and json_type(request) = 'object'),
  -- Trees are taken in the order of their roots' keys: up to this one they were judged. None beyond `last_root` is: what is
  -- created while a cleanup runs is not its business.
  done_through integer not null default 0,
  last_root integer not null,
  sessions integer not null default 0 check (sessions >= 0),
  bytes integer not null default 0 check (bytes >= 0),
  created_at integer not null check (created_at > 0),
  finished_at integer,
  check ((finished_at is null) = (status = 'running'))
) strict;

-- What is to be resumed, or stopped: few at any time.
create index receipts_running on receipts (receipt_key) where status = 'running';
-- Old ones are removed.
create index receipts_finished on receipts (finished_at) where finished_at is not null;

-- The sessions that were deleted, by their ids: the rows are gone.
create table receipt_sessions (
  receipt_key integer not null references receipts (receipt_key) on delete cascade,
  session_id text not null,
  primary key (receipt_key, session_id)
) strict, without rowid;

-- In a shell too, where nothing cascades.
create trigger receipts_delete after delete on receipts
begin
  delete from receipt_sessions where receipt_key = old.receipt_key;
end;

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 15;
