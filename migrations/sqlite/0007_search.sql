-- The search index. FTS5 with external content: text is stored once, in its own table.
--
-- Three indexes: over messages, over sessions, and over parts of titles (at the end). Each row is indexed as its view shows
-- it, and the triggers read that view before and after a change: there is one place that says what is indexed, and the index
-- is true to what is stored whoever wrote it. The columns of the first two:
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
-- The tokenizer alone does not find what people type. It takes a run of Chinese, Japanese, Korean, Thai, Lao or Khmer for
-- one word, splits a decomposed character from its marks, and knows no sign. So a text that needs it has an indexed form:
-- the text in normal form C, with a zero-width space on both sides of each character of such a script (every character is a
-- term of its own, and a phrase of them finds any substring); and after it, as terms of private characters, the signs in
-- the text and the pieces of names like getUserName. A form that begins with char(63741) is only what comes after the text.
--
-- Culm makes forms (search/forms.rs), and writes them with the row. Where a text is written in a shell, its row is marked
-- as stale, by the trigger that indexes it: it is indexed as SQL can, with the characters set apart, at about a microsecond
-- each (in pieces of 64, because the n-th character of a text is found by counting). The server makes the form of what is
-- marked, in the transaction that marked it or within a second, and takes the mark away. FTS5 must be told of a deletion
-- with the very text that was indexed: so each change of what a view shows, be it a text, a form or a mark, is between two
-- triggers that read the view before and after it.

-- Characters that are set apart. The same ranges are in search/text.rs; a test compares them.
create view set_apart as
select '[' || char(3584) || '-' || char(3839) || char(4096) || '-' || char(4255) || char(4352) || '-' || char(4607)
  || char(6016) || '-' || char(6143) || char(6480) || '-' || char(6655) || char(6688) || '-' || char(6831)
  || char(11904) || '-' || char(12255) || char(12293) || '-' || char(12295)
  || char(12352) || '-' || char(12543) || char(12544) || '-' || char(12687) || char(12704) || '-' || char(12799)
  || char(13312) || '-' || char(19903) || char(19968) || '-' || char(40959) || char(43360) || '-' || char(43391)
  || char(43488) || '-' || char(43519) || char(43616) || '-' || char(43743)
  || char(44032) || '-' || char(55295) || char(63744) || '-' || char(64255) || char(65382) || '-' || char(65500)
  || char(110592) || '-' || char(110959) || char(131072) || '-' || char(262141) || ']' as class;

-- Messages whose indexed forms are not those of their texts.
create table stale_message_terms (message_key integer primary key) strict;

create view message_terms as
select message_key,
  case
    when is_stale and content glob (select '*' || class || '*' from set_apart) then (with recursive piece (text, rest) as (
            select '', content union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
    when is_stale or coalesce(content_terms, '') = '' then content
    when substr(content_terms, 1, 1) = char(63741) then content || ' ' || substr(content_terms, 2)
    else content_terms
  end as content,
  case
    when is_stale and reasoning glob (select '*' || class || '*' from set_apart) then (with recursive piece (text, rest) as (
            select '', reasoning union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
    when is_stale or coalesce(reasoning_terms, '') = '' then reasoning
    when substr(reasoning_terms, 1, 1) = char(63741) then reasoning || ' ' || substr(reasoning_terms, 2)
    else reasoning_terms
  end as reasoning,
  case
    when is_stale and tools glob (select '*' || class || '*' from set_apart) then (with recursive piece (text, rest) as (
            select '', tools union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
    when is_stale or coalesce(tools_terms, '') = '' then tools
    when substr(tools_terms, 1, 1) = char(63741) then tools || ' ' || substr(tools_terms, 2)
    else tools_terms
  end as tools,
  'xsession' || session_key || ' xrole' || role || ' xblock' || (message_key >> 12) || ' xspan' || (message_key >> 16) as scope
from (
  select message_key, session_key, role, content, content_terms, reasoning, reasoning_terms, tools_terms,
    -- JSON in JSON: a backslash is four of them there, a line feed two and an n, and must not begin the next word.
    replace(replace(replace(replace(tool_calls, '\\\\', ' '), '\n', ' '), '\t', ' '), '\r', ' ') as tools,
    exists (select 1 from stale_message_terms k where k.message_key = messages.message_key) as is_stale
  from messages
);

create virtual table message_index using fts5 (
  content, reasoning, tools, scope,
  content = 'message_terms', content_rowid = 'message_key', tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'",
  prefix = '4', columnsize = 0
);

-- One that comes without a form is marked, unless it is plain small words, whose form is the text.
create trigger messages_index_insert after insert on messages
begin
  insert or ignore into stale_message_terms (message_key)
  select new.message_key where new.content_terms is null
    and new.content || coalesce(new.reasoning, '') || coalesce(new.tool_calls, '') glob '*[^a-z0-9 .,]*';
  insert into message_index (rowid, content, reasoning, tools, scope)
  select message_key, content, reasoning, tools, scope from message_terms where message_key = new.message_key;
end;

create trigger messages_index_delete before delete on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  select 'delete', message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
end;

create trigger messages_forget_stale after delete on messages
begin
  delete from stale_message_terms where message_key = old.message_key;
end;

create trigger messages_unindex_update before update of content, content_terms, reasoning, reasoning_terms, tool_calls, tools_terms, role on messages
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  select 'delete', message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
  insert or ignore into stale_message_terms (message_key)
  select new.message_key
  where (new.content is not old.content and new.content_terms is old.content_terms)
    or (new.reasoning is not old.reasoning and new.reasoning_terms is old.reasoning_terms)
    or (new.tool_calls is not old.tool_calls and new.tools_terms is old.tools_terms);
end;

create trigger messages_index_update after update of content, content_terms, reasoning, reasoning_terms, tool_calls, tools_terms, role on messages
begin
  insert into message_index (rowid, content, reasoning, tools, scope)
  select message_key, content, reasoning, tools, scope from message_terms where message_key = new.message_key;
end;

-- Taking a mark away, when the form is written.
create trigger stale_messages_unindex before delete on stale_message_terms
when exists (select 1 from messages where message_key = old.message_key)
begin
  insert into message_index (message_index, rowid, content, reasoning, tools, scope)
  select 'delete', message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
end;

create trigger stale_messages_index after delete on stale_message_terms
when exists (select 1 from messages where message_key = old.message_key)
begin
  insert into message_index (rowid, content, reasoning, tools, scope)
  select message_key, content, reasoning, tools, scope from message_terms where message_key = old.message_key;
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

-- The indexed forms of titles and summaries, where they differ. They are seldom written, and by many statements: a row with
-- more than plain words is marked by its trigger, and the transaction that wrote it makes the form before it commits.
create table session_title_terms (
  session_key integer primary key,
  title text not null,
  summary text not null
) strict;
create table stale_session_terms (session_key integer primary key) strict;

create view session_terms as
select session_key,
  case
    when is_stale and title glob (select '*' || class || '*' from set_apart) then (with recursive piece (text, rest) as (
            select '', title union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
    when is_stale or coalesce(title_terms, '') = '' then title
    when substr(title_terms, 1, 1) = char(63741) then title || ' ' || substr(title_terms, 2)
    else title_terms
  end as title,
  case
    when is_stale and summary glob (select '*' || class || '*' from set_apart) then (with recursive piece (text, rest) as (
            select '', summary union all select substr(rest, 1, 64), substr(rest, 65) from piece where rest <> ''),
          place (n) as (select 1 union all select n + 1 from place where n < 64)
          select group_concat(iif(c glob (select class from set_apart), char(8203) || c || char(8203), c), '')
          from (select substr(text, n, 1) as c from piece cross join place where n <= length(text)))
    when is_stale or coalesce(summary_terms, '') = '' then summary
    when substr(summary_terms, 1, 1) = char(63741) then summary || ' ' || substr(summary_terms, 2)
    else summary_terms
  end as summary,
  'xsession' || session_key || ' xtree' || root_key || ' xkind' || kind
    || ' xblock' || (session_key >> 12) || ' xspan' || (session_key >> 16) as scope
from (
  select s.session_key, s.root_key, s.kind, s.title, json_extract(s.conversation_summary, '$.content') as summary,
    t.title as title_terms, t.summary as summary_terms,
    exists (select 1 from stale_session_terms k where k.session_key = s.session_key) as is_stale
  from sessions s left join session_title_terms t on t.session_key = s.session_key
);

create virtual table session_index using fts5 (
  title, summary, scope,
  content = 'session_terms', content_rowid = 'session_key', tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'",
  -- Titles are few and short: no beginning of one is merged from many words.
  prefix = '1 2 3 4 5 6'
);

create trigger sessions_index_insert after insert on sessions
begin
  insert or ignore into stale_session_terms (session_key)
  select new.session_key where new.title || coalesce(new.conversation_summary, '') glob '*[^a-zA-Z0-9 .,;_-]*' or new.title glob '*[a-z0-9][A-Z]*';
  insert into session_index (rowid, title, summary, scope)
  select session_key, title, summary, scope from session_terms where session_key = new.session_key;
end;

create trigger sessions_index_delete before delete on sessions
begin
  insert into session_index (session_index, rowid, title, summary, scope)
  select 'delete', session_key, title, summary, scope from session_terms where session_key = old.session_key;
end;

create trigger sessions_forget_terms after delete on sessions
begin
  delete from stale_session_terms where session_key = old.session_key;
  delete from session_title_terms where session_key = old.session_key;
end;

create trigger sessions_unindex_update before update of title, conversation_summary on sessions
when new.title <> old.title or new.conversation_summary is not old.conversation_summary
begin
  insert into session_index (session_index, rowid, title, summary, scope)
  select 'delete', session_key, title, summary, scope from session_terms where session_key = old.session_key;
  insert or ignore into stale_session_terms (session_key)
  select new.session_key
  where new.title || coalesce(new.conversation_summary, '') glob '*[^a-zA-Z0-9 .,;_-]*' or new.title glob '*[a-z0-9][A-Z]*'
    or exists (select 1 from session_title_terms where session_key = new.session_key);
end;

create trigger sessions_index_update after update of title, conversation_summary on sessions
when new.title <> old.title or new.conversation_summary is not old.conversation_summary
begin
  insert into session_index (rowid, title, summary, scope)
  select session_key, title, summary, scope from session_terms where session_key = new.session_key;
end;

create trigger stale_sessions_unindex before delete on stale_session_terms
when exists (select 1 from sessions where session_key = old.session_key)
begin
  insert into session_index (session_index, rowid, title, summary, scope)
  select 'delete', session_key, title, summary, scope from session_terms where session_key = old.session_key;
end;

create trigger stale_sessions_index after delete on stale_session_terms
when exists (select 1 from sessions where session_key = old.session_key)
begin
  insert into session_index (rowid, title, summary, scope)
  select session_key, title, summary, scope from session_terms where session_key = old.session_key;
end;

-- Parts of titles, three characters each: for the filter of a list, which finds what stands anywhere in a title. The line
-- feeds after a title make the last characters of it the beginning of such a part too, so that one or two characters are
-- found as a range of them.
create view title_text as select session_key, title || char(10, 10) as title from sessions;

create virtual table title_index using fts5 (
  title, content = 'title_text', content_rowid = 'session_key', tokenize = 'trigram', columnsize = 0
);

create trigger title_index_insert after insert on sessions
begin
  insert into title_index (rowid, title) select session_key, title from title_text where session_key = new.session_key;
end;

create trigger title_index_delete before delete on sessions
begin
  insert into title_index (title_index, rowid, title)
  select 'delete', session_key, title from title_text where session_key = old.session_key;
end;

create trigger title_unindex_update before update of title on sessions
when new.title <> old.title
begin
  insert into title_index (title_index, rowid, title)
  select 'delete', session_key, title from title_text where session_key = old.session_key;
end;

create trigger title_index_update after update of title on sessions
when new.title <> old.title
begin
  insert into title_index (rowid, title) select session_key, title from title_text where session_key = new.session_key;
end;
