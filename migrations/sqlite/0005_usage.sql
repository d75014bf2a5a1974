-- The token-usage log of a session: one JSON object a record, as the client gave it.

create table usage_records (
  usage_key integer primary key autoincrement,
  session_key integer not null references sessions (session_key) on delete cascade,
  record text not null check (json_valid(record) and json_type(record) = 'object'),
  created_at integer not null check (created_at > 0)
) strict;

create index usage_by_session on usage_records (session_key, usage_key);

create trigger usage_refuse_orphan before insert on usage_records
when not exists (select 1 from live_sessions where session_key = new.session_key)
begin
  select raise(abort, 'no such session');
end;
