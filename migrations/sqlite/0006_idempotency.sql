-- Idempotency keys: what a request with this key was answered. The row commits with the write it speaks of.

create table idempotency_keys (
  -- Token, method and path, as one hash.
  scope text not null,
  key text not null,
  -- SHA-256 of the body: the same key with another body is refused.
  body_hash text not null,
  status integer not null check (status between 200 and 499),
  -- Ids for a success, the problem document for a refusal: the answer is made anew from them.
  answer text not null check (json_valid(answer)),
  created_at integer not null check (created_at > 0),
  primary key (scope, key)
) strict, without rowid;

create index idempotency_by_age on idempotency_keys (created_at);
