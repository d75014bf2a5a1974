-- Attachments: bytes that belong to exactly one session.
--
-- Bytes are rows of 256 KiB: measured, a chunk is written in two thirds of the time of one whole BLOB
-- and its end is read without walking the rest.

create table attachments (
  attachment_key integer primary key autoincrement,
  session_key integer not null references sessions (session_key) on delete cascade,
  id text not null check (length(cast(id as blob)) between 1 and 128),
  -- What the client said the bytes are, and what their beginning says; null where that is unknown.
  mime_type text not null,
  detected_mime_type text,
  filename text,
  size integer not null check (size >= 0),
  sha256 text not null check (length(sha256) = 64),
  created_at integer not null check (created_at > 0)
) strict;

create unique index attachments_by_id on attachments (session_key, id);
-- The list's order; an index ends with the table's key.
create index attachments_by_session on attachments (session_key);

-- No foreign key: bytes are there before their attachment, while an upload is under way, and after it, until they are
-- purged. A delete would have to write all that it removes into the write-ahead log at once; in steps of a few MiB no
-- other write waits long. Nothing reads a chunk but through its attachment.
create table attachment_chunks (
  attachment_key integer not null,
  place integer not null check (place >= 0),
  bytes blob not null,
  -- A table with rowids: without them the bytes would be a part of the key, and each search for a place read the chunks
  -- that it passes to their ends to compare them.
  primary key (attachment_key, place)
) strict;

-- The keys whose bytes no attachment owns; empty at rest. An upload takes its key here. Those that are not being
-- uploaded are purged; at start none is.
create table loose_chunks (
  attachment_key integer primary key autoincrement,
  uploading integer not null default 0 check (uploading in (0, 1))
) strict;

-- Which messages show which attachments, by their image parts: an attachment goes with the last message that shows
-- it. By id, since an import may bring a message before its attachment.
create table attachment_uses (
  message_key integer not null references messages (message_key) on delete cascade,
  session_key integer not null,
  attachment_id text not null,
  primary key (message_key, attachment_id)
) strict, without rowid;

create index attachment_uses_by_attachment on attachment_uses (session_key, attachment_id);

-- What messages show, as their parts say it: attachment://SESSION/ID, and an import's bamboo-attachment://SESSION/ID.
-- Only of their own session: another's is not served to it.
create view attachment_links as
select message_key, session_key, substr(place, length(id) + 2) as attachment_id
from (
  select m.message_key, m.session_key, s.id, json_extract(part.value, '$.image_url.url') as url,
    substr(json_extract(part.value, '$.image_url.url'), instr(json_extract(part.value, '$.image_url.url'), '://') + 3) as place
  from messages m join sessions s using (session_key) join json_each(m.parts) part
)
where (url glob 'attachment://*' or url glob 'bamboo-attachment://*') and substr(place, 1, length(id) + 1) = id || '/';

create trigger messages_use_attachments after insert on messages
when new.parts is not null
begin
  insert or ignore into attachment_uses (message_key, session_key, attachment_id)
  select message_key, session_key, attachment_id from attachment_links where message_key = new.message_key;
end;

create trigger messages_change_attachments after update of parts on messages
when new.parts is not old.parts
begin
  delete from attachment_uses where message_key = new.message_key;
  insert or ignore into attachment_uses (message_key, session_key, attachment_id)
  select message_key, session_key, attachment_id from attachment_links where message_key = new.message_key;
end;

-- Before the delete: the uses go with the row. A deleted session's attachments are purged by themselves.
create trigger messages_release_attachments before delete on messages
when old.parts is not null
  and not exists (select 1 from sessions where session_key = old.session_key and deleted_at is not null)
begin
  delete from attachments
  where session_key = old.session_key
    and id in (select attachment_id from attachment_uses where message_key = old.message_key)
    and not exists (
      select 1 from attachment_uses u
      where u.session_key = old.session_key and u.attachment_id = attachments.id and u.message_key <> old.message_key
    );
  delete from attachment_uses where message_key = old.message_key;
end;

create trigger attachments_count_insert after insert on attachments
begin
  update sessions set attachment_count = attachment_count + 1, attachment_bytes = attachment_bytes + new.size,
    version = version + 1
  where session_key = new.session_key;
end;

create trigger attachments_loosen after delete on attachments
begin
  insert into loose_chunks (attachment_key) values (old.attachment_key);
  update sessions set attachment_count = attachment_count - 1, attachment_bytes = attachment_bytes - old.size,
    version = version + 1
  where session_key = old.session_key and deleted_at is null;
end;

create trigger attachments_refuse_orphan before insert on attachments
when not exists (select 1 from live_sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;
