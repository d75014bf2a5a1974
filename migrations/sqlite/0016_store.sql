-- What the database says of itself: one row.

create table store (
  store_key integer primary key check (store_key = 1),
  -- The server's last start. The lock file beside the database has it, too: where they differ, a backup was put back.
  start_id text,
  -- Raised when the database went back in time. Numbers of events, versions and cursors that clients keep belong to one.
  epoch integer not null default 1 check (epoch >= 1)
) strict;

insert into store (store_key) values (1);

-- The schema's number. A database with a higher one is refused by an older Culm.
pragma user_version = 16;
