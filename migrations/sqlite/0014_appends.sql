-- Appends: a row that is inserted here becomes a message at the end of its session's history, with all that goes with
-- one. Many rows are one statement, a transaction by itself that the schema checks, and that SQLite takes back as a whole
-- when something is wrong with it. Nothing is stored here, and nothing is there to be read.
--
-- The columns are those of a message, with its session's id for the key; seq is null where any end of the history will do.
-- Then when the message comes and whether it opens its session again however late that was closed, when the event of it is
-- told if it is, and whether it may come beside a run.
create view appends as
select null as session_id, null as seq, null as id, null as role, null as content, null as content_terms, null as reasoning,
  null as reasoning_terms, null as tools_terms, null as parts, null as tool_calls, null as tool_call_id, null as tool_success, null as phase,
  null as metadata, null as run_id, null as compressed, null as extra, null as created_at, null as updated_at,
  null as at, null as opens, null as told_at, null as beside_run
where false;

-- The counters first: the trigger on messages counts only what they do not. A message whose session is not there or was deleted, whose
-- seq is not the one that is expected, or that comes beside a run where it must not, has no session to refer to, and is
-- refused. (The session is looked for by its id alone, by one row at a time: SQLite cannot choose to read all of them.)
create trigger appends_write instead of insert on appends
begin
  update sessions set message_count = message_count + 1, last_seq = last_seq + 1, version = version + 1,
    content_bytes = content_bytes + length(cast(new.content as blob)) + coalesce(length(cast(new.reasoning as blob)), 0)
      + coalesce(length(cast(new.parts as blob)), 0) + coalesce(length(cast(new.tool_calls as blob)), 0),
    updated_at = max(updated_at, new.at), last_activity_at = max(last_activity_at, new.at),
    closed_at = iif(new.opens or closed_at < new.at, null, closed_at)
  where id = new.session_id and deleted_at is null;
  insert into messages (session_key, seq, id, role, content, content_terms, reasoning, reasoning_terms, tools_terms, parts, tool_calls,
    tool_call_id, tool_success, phase, metadata, run_id, compressed, extra, created_at, updated_at)
  values (
    (select s.session_key from sessions s
     where s.id = new.session_id and s.deleted_at is null and (new.seq is null or new.seq = s.last_seq)
       and (new.beside_run or not exists (
         select 1 from runs r where r.session_key = s.session_key and r.status in ('pending', 'running')))),
    (select last_seq from sessions where id = new.session_id),
    new.id, new.role, new.content, new.content_terms, new.reasoning, new.reasoning_terms, new.tools_terms, new.parts, new.tool_calls,
    new.tool_call_id, new.tool_success, new.phase, new.metadata, new.run_id, new.compressed, new.extra, new.created_at,
    new.updated_at);
  insert into events (session_key, root_key, kind, message_key, data, created_at)
  select s.session_key, s.root_key, 'message.appended', m.message_key,
    json_object('message_id', m.id, 'seq', m.seq, 'role', m.role), new.told_at
  from sessions s cross join messages m on m.session_key = s.session_key and m.seq = s.last_seq
  where s.id = new.session_id and new.told_at is not null;
end;

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 14;
