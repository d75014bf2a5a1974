-- Views for people: readable times, public ids, and nothing that was deleted. `culm --help` and the README name them.

create view v_sessions as
select s.id, s.title, s.kind, p.id as parent_session_id, r.id as root_session_id, s.pinned, s.model, s.provider,
  s.message_count, s.attachment_bytes, s.last_run_status, s.last_run_error, s.subagent_type,
  datetime(s.created_at / 1000000, 'unixepoch') as created,
  datetime(s.updated_at / 1000000, 'unixepoch') as updated,
  datetime(s.last_activity_at / 1000000, 'unixepoch') as last_activity,
  datetime(s.archived_at / 1000000, 'unixepoch') as archived,
  datetime(s.closed_at / 1000000, 'unixepoch') as closed,
  s.version
from live_sessions s
left join live_sessions p on p.session_key = s.parent_key
join live_sessions r on r.session_key = s.root_key;

-- tool_name is the first tool called, or the tool whose result this is. (It is no column of messages: SQLite would work it
-- out for each trigger of theirs, and read all of a message's JSON for it.)
create view v_transcript as
select s.id as session_id, m.seq, m.id, m.role,
  coalesce(json_extract(m.tool_calls, '$[0].function.name'), json_extract(m.metadata, '$.tool_name')) as tool_name, m.content, m.reasoning, m.tool_call_id, m.tool_success,
  length(cast(m.content as blob)) as bytes, datetime(m.created_at / 1000000, 'unixepoch') as created
from messages m join live_sessions s on s.session_key = m.session_key
order by m.session_key, m.seq;

create view v_tree as
with recursive tree (session_key, root_key, path, depth) as (
  select session_key, root_key, printf('%020d', session_key), 0 from live_sessions where parent_key is null
  union all
  select c.session_key, c.root_key, tree.path || printf('/%020d', c.session_key), tree.depth + 1
  from live_sessions c join tree on c.parent_key = tree.session_key
)
select r.id as root_session_id, s.id, tree.depth, substr('                                        ', 1, 2 * min(tree.depth, 20)) || s.title as tree,
  s.message_count, s.last_run_status
from tree join live_sessions s using (session_key) join live_sessions r on r.session_key = tree.root_key
order by tree.path;

create view v_running as
select r.id as run_id, s.id as session_id, s.title, r.executor, r.model, r.status, r.attempt,
  datetime(r.created_at / 1000000, 'unixepoch') as created,
  datetime(r.started_at / 1000000, 'unixepoch') as started
from runs r join live_sessions s using (session_key)
where r.status in ('pending', 'running');

create view v_storage as
select r.id as root_session_id, r.title, count(distinct s.session_key) as sessions, sum(s.message_count) as messages,
  sum(s.content_bytes) as message_bytes, sum(s.attachment_count) as attachments, sum(s.attachment_bytes) as attachment_bytes
from live_sessions r join live_sessions s on s.root_key = r.session_key
where r.parent_key is null
group by r.session_key;
