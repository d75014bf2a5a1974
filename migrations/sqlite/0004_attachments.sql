-- Attachments: bytes that belong to exactly one session.
--
-- Bytes are rows of 256 KiB: measured, a chunk is written in two thirds of the time of one whole BLOB
-- and its end is read without walking the rest.

create table attachments (
  attachment_key integer primary key autoincrement,
  session_key integer not null references sessions (session_key) on delete cascade,
  id text not null check (length(cast(id as blob)) between 1 and 128),
  mime_type text not null,
  filename text,
  size integer not null check (size >= 0),
  sha256 text not null check (length(sha256) = 64),
  created_at integer not null check (created_at > 0)
) strict;

create unique index attachments_by_id on attachments (session_key, id);

-- No foreign key: the bytes of a deleted attachment are purged in small steps after the delete,
-- so that much data does not hold up other writers. Nothing reads a chunk but through its attachment.
create table attachment_chunks (
  attachment_key integer not null,
  place integer not null check (place >= 0),
  bytes blob not null,
  primary key (attachment_key, place)
) strict, without rowid;

-- What is still to be purged; empty at rest.
create table attachment_purges (
  attachment_key integer primary key,
  size integer not null
) strict;

create trigger attachments_count_insert after insert on attachments
begin
  update sessions set attachment_count = attachment_count + 1, attachment_bytes = attachment_bytes + new.size,
    version = version + 1
  where session_key = new.session_key;
end;

create trigger attachments_purge after delete on attachments
begin
  insert into attachment_purges (attachment_key, size) values (old.attachment_key, old.size);
  update sessions set attachment_count = attachment_count - 1, attachment_bytes = attachment_bytes - old.size,
    version = version + 1
  where session_key = old.session_key;
end;

create trigger attachments_refuse_orphan before insert on attachments
when not exists (select 1 from sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;
