-- What goes with a session, in a shell too, where foreign keys are off and nothing cascades.
--
-- Triggers do not fire themselves again (recursive_triggers is off, as SQLite has it), so one firing speaks for
-- everything below. In the server the cascade has run before: then this finds nothing left but the id to record.

create trigger sessions_delete after delete on sessions
begin
  insert or ignore into tombstones (id, deleted_at)
  values (old.id, cast((julianday('now') - 2440587.5) * 86400000000 as integer));
  insert or ignore into tombstones (id, deleted_at)
  select id, cast((julianday('now') - 2440587.5) * 86400000000 as integer) from sessions
  where session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
  delete from messages where session_key = old.session_key or session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
  delete from attachments where session_key = old.session_key or session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
  delete from runs where session_key = old.session_key or session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
  delete from usage_records where session_key = old.session_key or session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
  delete from sessions where session_key in (
    with recursive below (k) as (
      select session_key from sessions where parent_key = old.session_key
      union all
      select s.session_key from sessions s join below on s.parent_key = below.k
    )
    select k from below
  );
end;
