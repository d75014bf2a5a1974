-- The search index. FTS5 with external content: text is stored once, in its own table.
--
-- content is what every search reads; reasoning and tools are searched on request. scope holds the session's key
-- as a term (s17), so that a search within one session is driven by its messages and not by the words.

create view message_terms as
select message_key, coalesce(content_terms, content) as content, reasoning, tool_calls as tools, 's' || session_key as scope
from messages;

create virtual table message_index using fts5 (
  content, reasoning, tools, scope,
  content = 'message_terms', content_rowid = 'message_key', tokenize = "unicode61 remove_diacritics 2"
);

create trigger messages_index_insert after insert on messages
begin
  insert into message_index (rowid, content, reasoning, tools, scope)
  values (new.message_key, coalesce(new.content_terms, new.content), new.reasoning, new.tool_calls, 's' || new.session_key);
end;

create trigger messages_index_delete after delete on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  values ('delete', old.message_key, coalesce(old.content_terms, old.content), old.reasoning, old.tool_calls, 's' || old.session_key);
end;

create trigger messages_index_update after update of content, content_terms, reasoning, tool_calls on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  values ('delete', old.message_key, coalesce(old.content_terms, old.content), old.reasoning, old.tool_calls, 's' || old.session_key);
  insert into message_index (rowid, content, reasoning, tools, scope)
  values (new.message_key, coalesce(new.content_terms, new.content), new.reasoning, new.tool_calls, 's' || new.session_key);
end;

create view session_terms as
select session_key, title, json_extract(conversation_summary, '$.content') as summary from sessions;

create virtual table session_index using fts5 (
  title, summary,
  content = 'session_terms', content_rowid = 'session_key', tokenize = "unicode61 remove_diacritics 2"
);

create trigger sessions_index_insert after insert on sessions
begin
  insert into session_index (rowid, title, summary)
  values (new.session_key, new.title, json_extract(new.conversation_summary, '$.content'));
end;

create trigger sessions_index_delete after delete on sessions
begin
  insert into session_index (session_index, rowid, title, summary)
  values ('delete', old.session_key, old.title, json_extract(old.conversation_summary, '$.content'));
end;

create trigger sessions_index_update after update of title, conversation_summary on sessions
when new.title <> old.title or new.conversation_summary is not old.conversation_summary
begin
  insert into session_index (session_index, rowid, title, summary)
  values ('delete', old.session_key, old.title, json_extract(old.conversation_summary, '$.content'));
  insert into session_index (rowid, title, summary)
  values (new.session_key, new.title, json_extract(new.conversation_summary, '$.content'));
end;
