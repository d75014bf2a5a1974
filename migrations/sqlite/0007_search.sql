-- The search index. FTS5 with external content: text is stored once, in its own table.
--
-- Two indexes, over messages and over sessions. Each row is indexed as its view shows it, and the triggers read that
-- view before and after a change: there is one place that says what is indexed, and the index is true to what is
-- stored whoever wrote it. The columns:
--
-- * content is what every search reads; reasoning and tools are searched on request. (A view
--   that FTS5 reads cannot use json_each: tool calls are indexed as JSON, without what would glue to a word.)
-- * scope holds words of Culm's own. Some say what a search is often limited to (xsession17, xroleuser, xtree3,
--   xkindchild), so that it is driven by the few rows in question and not by a common word. The others cut the index
--   into windows of 4096 and of 65 536 keys (xblock244, xspan15): FTS5 looks at a range of keys only when it has found
--   a match, and looks for a phrase of common words that is nowhere through all messages. They are all the row's own:
--   when a cascade removes a message, its session is gone already and cannot be asked. The x keeps them out of the
--   way of beginnings that people type.
--
-- Indexing one message of 60 words takes 125 us in the cheapest layout (text alone, detail = none), 130 us in this one
-- without a prefix index, 180 to 220 us with beginnings of four letters, 230 to 280 us with those of three and four,
-- and more with each further length (20 000 messages, ten a transaction). One length it is. FTS5 merges every row of
-- every word for a beginning that it has no index of, seconds in a million messages, before it gives the first: such
-- ones are looked up as the words that begin so, and in the texts if these are many. columnsize = 0 saves a row a
-- message: only bm25() reads it, and bm25() counts every match of each word before it ranks the first, so that Culm
-- ranks by itself. detail stays full: phrases need it.
--
-- Chinese, Japanese and Korean are written without spaces, and the tokenizer takes a run of such characters for one
-- word. In the indexed form a zero-width space is on both sides of each: every character is a term of its own, and a
-- phrase of them finds any substring. Culm writes that form into content_terms and reasoning_terms. Where it is
-- missing, or is that of another text after an edit in a shell, the view makes it, at about a microsecond a character
-- (in pieces of 64, because the n-th character of a text is found by counting).

-- Characters that are set apart. The same ranges are in search/text.rs; a test compares them.
create view set_apart as
select '[' || char(4352) || '-' || char(4607) || char(11904) || '-' || char(12255) || char(12293) || '-' || char(12295)
  || char(12352) || '-' || char(12543) || char(12544) || '-' || char(12687) || char(12704) || '-' || char(12799)
  || char(13312) || '-' || char(19903) || char(19968) || '-' || char(40959) || char(43360) || '-' || char(43391)
  || char(44032) || '-' || char(55295) || char(63744) || '-' || char(64255) || char(65382) || '-' || char(65500)
  || char(110592) || '-' || char(110959) || char(131072) || '-' || char(262141) || ']' as class;

create view message_terms as
select message_key,
  case
    when content_terms is not null and replace(content_terms, char(8203), '') = replace(content, char(8203), '') then content_terms
    when length(content) = length(cast(content as blob)) or content not glob (select '*' || class || '*' from set_apart) then content
    else (with recursive piece (text, rest) as (
            select '', content union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
  end as content,
  iif(reasoning_terms is not null and replace(reasoning_terms, char(8203), '') = replace(reasoning, char(8203), ''), reasoning_terms, reasoning) as reasoning,
  case
    when tools is null or length(tools) = length(cast(tools as blob)) or tools not glob (select '*' || class || '*' from set_apart) then tools
    else (with recursive piece (text, rest) as (
            select '', tools union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
  end as tools,
  'xsession' || session_key || ' xrole' || role || ' xblock' || (message_key >> 12) || ' xspan' || (message_key >> 16) as scope
from (
  select message_key, session_key, role, content, content_terms, reasoning, reasoning_terms,
    -- JSON in JSON: a backslash is four of them there, a line feed two and an n, and must not begin the next word.
    replace(replace(replace(replace(tool_calls, '\\\\', ' '), '\n', ' '), '\t', ' '), '\r', ' ') as tools
  from messages
);

create virtual table message_index using fts5 (
  content, reasoning, tools, scope,
  content = 'message_terms', content_rowid = 'message_key', tokenize = "unicode61 remove_diacritics 2",
  prefix = '4', columnsize = 0
);

create trigger messages_index_insert after insert on messages
begin
  insert into message_index (rowid, content, reasoning, tools, scope)
  select message_key, content, reasoning, tools, scope from message_terms where message_key = new.message_key;
end;

create trigger messages_index_delete before delete on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  select 'delete', message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
end;

create trigger messages_unindex_update before update of content, content_terms, reasoning, reasoning_terms, tool_calls, role on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  select 'delete', message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
end;

create trigger messages_index_update after update of content, content_terms, reasoning, reasoning_terms, tool_calls, role on messages
begin
  insert into message_index (rowid, content, reasoning, tools, scope)
  select message_key, content, reasoning, tools, scope from message_terms where message_key = new.message_key;
end;

-- In which hours the messages of a block of keys were written, a block being 4096 of them: where a search within dates
-- looks. Times follow keys but for imports, and an index of all times would be one more write an append; this is one an
-- hour, or a block. An hour may stay when its messages are gone.
create table message_hours (
  hour integer not null,
  block integer not null,
  primary key (hour, block)
) strict, without rowid;

create trigger messages_hours_insert after insert on messages
begin
  insert or ignore into message_hours (hour, block) values (new.created_at / 3600000000, new.message_key >> 12);
end;

create trigger messages_hours_update after update of created_at on messages
begin
  insert or ignore into message_hours (hour, block) values (new.created_at / 3600000000, new.message_key >> 12);
end;

-- Titles and summaries are short and seldom written: their form is always made here.
create view session_terms as
select session_key,
  case
    when length(title) = length(cast(title as blob)) or title not glob (select '*' || class || '*' from set_apart) then title
    else (with recursive piece (text, rest) as (
            select '', title union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
  end as title,
  case
    when summary is null or length(summary) = length(cast(summary as blob)) or summary not glob (select '*' || class || '*' from set_apart) then summary
    else (with recursive piece (text, rest) as (
            select '', summary union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
  end as summary,
  'xsession' || session_key || ' xtree' || root_key || ' xkind' || kind
    || ' xblock' || (session_key >> 12) || ' xspan' || (session_key >> 16) as scope
from (select session_key, root_key, kind, title, json_extract(conversation_summary, '$.content') as summary from sessions);

create virtual table session_index using fts5 (
  title, summary, scope,
  content = 'session_terms', content_rowid = 'session_key', tokenize = "unicode61 remove_diacritics 2",
  -- Titles are few and short: no beginning of one is merged from many words.
  prefix = '1 2 3 4 5 6'
);

create trigger sessions_index_insert after insert on sessions
begin
  insert into session_index (rowid, title, summary, scope)
  select session_key, title, summary, scope from session_terms where session_key = new.session_key;
end;

create trigger sessions_index_delete before delete on sessions
begin
  insert into session_index (session_index, rowid, title, summary, scope)
  select 'delete', session_key, title, summary, scope from session_terms where session_key = old.session_key;
end;

create trigger sessions_unindex_update before update of title, conversation_summary on sessions
when new.title <> old.title or new.conversation_summary is not old.conversation_summary
begin
  insert into session_index (session_index, rowid, title, summary, scope)
  select 'delete', session_key, title, summary, scope from session_terms where session_key = old.session_key;
end;

create trigger sessions_index_update after update of title, conversation_summary on sessions
when new.title <> old.title or new.conversation_summary is not old.conversation_summary
begin
  insert into session_index (rowid, title, summary, scope)
  select session_key, title, summary, scope from session_terms where session_key = new.session_key;
end;
