-- Deleting. Culm marks sessions (deleted_at), which is one short transaction whatever they hold, and purges them in
-- steps: their content, then their rows. A DELETE of a session is the whole of it at once; Culm uses it for rows whose
-- content is gone, and a shell for any.

-- Sessions that were marked and are not purged yet, in the order in which that is done: tree by tree, the deepest first,
-- for a parent's row goes after its children's.
create table purges (
  root_key integer not null,
  spawn_depth integer not null,
  session_key integer not null,
  -- The last event when it was marked: all of its own are up to there.
  last_event integer not null,
  primary key (root_key, spawn_depth desc, session_key)
) strict, without rowid;

-- What goes with a session, in a shell too, where foreign keys are off and nothing cascades.
--
-- Ids, events and tombstones before, while the tree can still be read; rows after.
--
-- Triggers do not fire themselves again (recursive_triggers is off, as SQLite has it), so one firing speaks for
-- everything below. In the server the cascade has run before: then the second finds nothing left.
--
-- A session that has nothing below it, as most have, goes without a search for what is below: a cleanup of ten thousand
-- took twice as long with it. So each trigger is there in two shapes: for a tree, and for a session alone.

create trigger sessions_bury before delete on sessions
when exists (select 1 from sessions where parent_key = old.session_key)
  and not exists (select 1 from tombstones where id = old.id)
begin
  delete from events
  where root_key = old.root_key and kind <> 'session.deleted' and session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
  insert into events (session_key, root_key, kind, created_at, session_id, root_session_id, above)
  select s.session_key, s.root_key, 'session.deleted', cast((julianday('now') - 2440587.5) * 86400000000 as integer), s.id,
    (select r.id from sessions r where r.session_key = s.root_key),
    (with recursive above (k, depth) as (
       select s.parent_key, 1 where s.parent_key is not null
       union all
       select a.parent_key, above.depth + 1 from sessions a join above on a.session_key = above.k
       where a.parent_key is not null and above.depth < 100
     )
     select json_group_array(id) from (select a.id from above join sessions a on a.session_key = above.k order by above.depth))
  from sessions s
  where s.deleted_at is null and s.session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  )
  order by s.session_key;
  insert or ignore into tombstones (id, deleted_at)
  select id, cast((julianday('now') - 2440587.5) * 86400000000 as integer) from sessions
  where session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
  -- What was marked below it is purged with it.
  delete from attachment_uses where session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
  delete from purges where root_key = old.root_key and session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
end;

-- One that was marked, in a shell: its tombstone is there. (Culm takes it out of the queue first.)
create trigger sessions_bury_marked before delete on sessions
when old.deleted_at is not null and exists (
  select 1 from purges
  where root_key = old.root_key and spawn_depth = old.spawn_depth and session_key = old.session_key)
begin
  delete from events
  where root_key = old.root_key and kind <> 'session.deleted' and session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
  delete from attachment_uses where session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
  delete from purges where root_key = old.root_key and session_key in (
    with recursive tree (k) as (
      select old.session_key
      union all
      select s.session_key from sessions s join tree on s.parent_key = tree.k
    )
    select k from tree
  );
end;

create trigger sessions_bury_alone before delete on sessions
when not exists (select 1 from sessions where parent_key = old.session_key)
  and not exists (select 1 from tombstones where id = old.id)
begin
  delete from events where root_key = old.root_key and session_key = old.session_key and kind <> 'session.deleted';
  insert into events (session_key, root_key, kind, created_at, session_id, root_session_id, above)
  select old.session_key, old.root_key, 'session.deleted', cast((julianday('now') - 2440587.5) * 86400000000 as integer), old.id,
    iif(old.parent_key is null, old.id, (select id from sessions where session_key = old.root_key)),
    iif(old.parent_key is null, '[]', (
      with recursive above (k, depth) as (
        select old.parent_key, 1
        union all
        select a.parent_key, above.depth + 1 from sessions a join above on a.session_key = above.k
        where a.parent_key is not null and above.depth < 100
      )
      select json_group_array(id) from (select a.id from above join sessions a on a.session_key = above.k order by above.depth)));
  insert into tombstones (id, deleted_at) values (old.id, cast((julianday('now') - 2440587.5) * 86400000000 as integer));
end;

create trigger sessions_delete after delete on sessions
when exists (select 1 from sessions where parent_key = old.session_key)
begin
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

-- Where foreign keys are on, the cascade has left nothing to do: so it is looked first.
create trigger sessions_delete_alone after delete on sessions
when not exists (select 1 from sessions where parent_key = old.session_key)
  and (exists (select 1 from messages where session_key = old.session_key)
    or exists (select 1 from attachments where session_key = old.session_key)
    or exists (select 1 from runs where session_key = old.session_key)
    or exists (select 1 from usage_records where session_key = old.session_key))
begin
  delete from messages where session_key = old.session_key;
  delete from attachments where session_key = old.session_key;
  delete from runs where session_key = old.session_key;
  delete from usage_records where session_key = old.session_key;
end;
