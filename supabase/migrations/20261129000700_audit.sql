-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/70_audit.sql ====================================================================================================

-- Audit: who did what to which resource, chained so that a change shows; security events; where a request came from.

insert into private.settings (key, value, rule, description) values
  ('http.client_ip_header', '["cf-connecting-ip", "x-forwarded-for"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9-]{1,100}$"}}', 'Request headers that tell the client''s address: the first that is there counts, its last address. Hosted Supabase sets cf-connecting-ip. Name only headers that your outermost proxy overwrites.'),
  ('audit.online_days', '90', '{"type": "integer", "minimum": 1, "maximum": 100000}', 'Days that audit entries stay in the database; older months are archived to Storage.'),
  ('audit.entries_per_hour', '100', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Audit entries of one action that users cause for themselves within an hour (UTC); what more there is becomes one entry, audit.held_back.'),
  ('security.events_per_window', '20', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Security events of one type about one account within security.dedupe_minutes; what more there is counts up one of them.'),
  ('security.dedupe_minutes', '60', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'Window within which the same security event counts up instead of piling up.'),
  ('security.keep_days', '365', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that security events are kept.')
on conflict (key) do nothing;

-- The request ------------------------------------------------------------------------------------------------------------

create function private.request_header(name text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return nullif(current_setting('request.headers', true), '')::jsonb ->> request_header.name;
end $$;
comment on function private.request_header(text) is
  'One header of the Data API request that runs, its name in lower case; null outside of one. PostgREST puts them into request.headers.';

create function private.request_ip() returns inet
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_name text;
  v_hops text[];
  v_hop text;
begin
  if nullif(current_setting('request.headers', true), '') is null then
    return null;
  end if;
  for v_name in select jsonb_array_elements_text(private.setting('http.client_ip_header')) loop
    v_hops := string_to_array(private.request_header(v_name), ',');
    continue when v_hops is null;
    v_hop := btrim(v_hops[array_upper(v_hops, 1)]);
    return case when v_hop ~ '^[0-9a-fA-F:.]+$' then private.inet_or_null(v_hop) end;
  end loop;
  return null;
end $$;
comment on function private.request_ip() is
  'Where the request came from: the last address in the first header of http.client_ip_header that it has. The last one was added by the platform; what a caller writes stands before it. Null when there is none.';

create function private.request_user_agent() returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return left(private.request_header('user-agent'), 500);
end $$;
comment on function private.request_user_agent() is 'The request''s user agent, cut to 500 characters.';

create function private.request_id() returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return left(private.request_header('x-request-id'), 200);
end $$;
comment on function private.request_id() is 'The request''s id, as the client or the gateway gave it, cut to 200 characters.';

-- The log ----------------------------------------------------------------------------------------------------------------

create table private.audit_log (
  id uuid not null default private.uuid_v7(),
  created_at timestamptz not null default now(),
  actor_id uuid,
  actor_role text not null check (length(actor_role) between 1 and 80),
  user_id uuid,
  action text not null check (action ~ '^[a-z0-9_]+(\.[a-z0-9_]+)+$' and length(action) <= 80),
  resource_type text not null check (resource_type ~ '^[a-z0-9_]+$' and length(resource_type) <= 80),
  resource_id text check (length(resource_id) <= 200),
  result text not null check (result in ('success', 'refused', 'failed')),
  ip inet,
  user_agent text check (length(user_agent) <= 500),
  request_id text check (length(request_id) <= 200),
  details jsonb not null check (jsonb_typeof(details) = 'object' and length(details::text) <= 16000),
  seq bigint,
  previous_hash bytea,
  hash bytea,
  primary key (id, created_at)
) partition by range (created_at);
comment on table private.audit_log is
  'Who did what. Partitioned by UTC month; append-only; the entries of a month form a hash chain in the order in which they were committed.';
comment on column private.audit_log.actor_id is 'The user who acted; null for the service role, jobs and the Auth service. No foreign keys: entries outlive users.';
comment on column private.audit_log.user_id is 'Whose account it concerns; that user may read the entry.';
comment on column private.audit_log.seq is 'Place in the month''s chain, from 1. Null only until the transaction commits.';
comment on column private.audit_log.hash is 'SHA-256 over the previous hash and everything in this entry.';
create index audit_log_user_id_created_at_idx on private.audit_log (user_id, created_at desc);
create index audit_log_created_at_idx on private.audit_log (created_at desc);
create table private.audit_log_default partition of private.audit_log default;
alter table private.audit_log enable row level security;
alter table private.audit_log force row level security;
revoke all on private.audit_log, private.audit_log_default from anon, authenticated, service_role;

create table private.audit_chain_heads (
  month date primary key check (extract(day from month) = 1),
  seq bigint not null check (seq >= 0),
  hash bytea not null
);
comment on table private.audit_chain_heads is 'The end of each month''s chain. Its row is the lock that lets one transaction at a time append, while it commits.';
revoke all on private.audit_chain_heads from anon, authenticated, service_role;

create table private.audit_archives (
  month date not null check (extract(day from month) = 1),
  part integer not null check (part > 0),
  first_seq bigint not null check (first_seq > 0),
  last_seq bigint not null,
  last_hash bytea not null check (octet_length(last_hash) = 32),
  sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
  path text not null check (length(path) between 1 and 300),
  archived_at timestamptz not null default now(),
  primary key (month, part),
  unique (month, first_seq),
  check (last_seq >= first_seq)
);
comment on table private.audit_archives is
  'Files that hold audit entries, written and read back before their row: gzipped NDJSON, a line per entry in the chain''s order. A month is one part or more; it is dropped when the last part ends where its chain does.';
comment on column private.audit_archives.last_hash is 'The hash of the part''s last entry; the next part''s first entry has it as previous_hash.';
comment on column private.audit_archives.sha256 is 'Of the file as it lies in the bucket.';
comment on column private.audit_archives.path is 'The object''s name in the bucket audit-archive.';
revoke all on private.audit_archives from anon, authenticated, service_role;

create function private.audit_month(at timestamptz) returns date
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return date_trunc('month', audit_month.at at time zone 'UTC')::date;
end $$;
comment on function private.audit_month(timestamptz) is 'The UTC month whose chain an entry of that moment belongs to.';

create function private.audit_hash(entry private.audit_log, seq bigint, previous_hash bytea) returns bytea
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return sha256(convert_to(jsonb_build_array(
    audit_hash.seq, encode(audit_hash.previous_hash, 'hex'), (entry).id, extract(epoch from (entry).created_at),
    (entry).actor_id, (entry).actor_role, (entry).user_id, (entry).action, (entry).resource_type, (entry).resource_id,
    (entry).result, host((entry).ip), (entry).user_agent, (entry).request_id, (entry).details)::text, 'UTF8'));
end $$;
comment on function private.audit_hash(private.audit_log, bigint, bytea) is
  'What an entry must hash to at its place in the chain. A JSON array keeps the fields apart; time as seconds does not depend on the session''s zone.';

create function private.tg_audit_log__seal() returns trigger
language plpgsql volatile security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
-- Definer: no role may write the log.
declare
  v_month date := private.audit_month(new.created_at);
  v_head private.audit_chain_heads;
begin
  select h.* into v_head from private.audit_chain_heads h where h.month = v_month for update;
  if not found then
    insert into private.audit_chain_heads (month, seq, hash) values (v_month, 0, '') on conflict (month) do nothing;
    select h.* into v_head from private.audit_chain_heads h where h.month = v_month for update;
  end if;
  v_head.seq := v_head.seq + 1;
  update private.audit_log a set
    seq = v_head.seq, previous_hash = v_head.hash, hash = private.audit_hash(new, v_head.seq, v_head.hash)
  where a.id = new.id and a.created_at = new.created_at
  returning a.hash into v_head.hash;
  update private.audit_chain_heads h set seq = v_head.seq, hash = v_head.hash where h.month = v_month;
  return null;
end $$;
comment on function private.tg_audit_log__seal() is
  'Gives an entry its place in the chain while its transaction commits: the head''s lock is the last one taken and soon released, so it can neither deadlock nor make others wait for work.';
create constraint trigger tg_audit_log__seal after insert on private.audit_log
  deferrable initially deferred
  for each row execute function private.tg_audit_log__seal();

create function private.tg_audit_log__append_only() returns trigger
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_sealing text[] := array['seq', 'previous_hash', 'hash'];
begin
  if tg_op = 'UPDATE' and tg_table_name like 'audit_log%' then
    if old.hash is null and new.hash is not null and to_jsonb(new) - v_sealing = to_jsonb(old) - v_sealing then
      return new;
    end if;
  end if;
  raise exception using errcode = '42501', message = 'the audit log is append-only';
end $$;
comment on function private.tg_audit_log__append_only() is
  'Refuses update, delete and truncate to everybody, the owner too. The one update that passes is the seal.';
create trigger tg_audit_log__append_only before update or delete on private.audit_log
  for each row execute function private.tg_audit_log__append_only();
create trigger tg_audit_log__no_truncate before truncate on private.audit_log
  for each statement execute function private.tg_audit_log__append_only();
create trigger tg_audit_log__no_truncate before truncate on private.audit_log_default
  for each statement execute function private.tg_audit_log__append_only();
-- Always: session_replication_role = replica, which role postgres may set, would switch them off.
alter table private.audit_log enable always trigger tg_audit_log__seal;
alter table private.audit_log enable always trigger tg_audit_log__append_only;
alter table private.audit_log enable always trigger tg_audit_log__no_truncate;
alter table private.audit_log_default enable always trigger tg_audit_log__no_truncate;

-- What says how chains end and where archives are is part of the evidence.
create trigger tg_audit_archives__append_only before update or delete on private.audit_archives
  for each row execute function private.tg_audit_log__append_only();
create trigger tg_audit_archives__no_truncate before truncate on private.audit_archives
  for each statement execute function private.tg_audit_log__append_only();
create trigger tg_audit_chain_heads__no_delete before delete on private.audit_chain_heads
  for each row execute function private.tg_audit_log__append_only();
create trigger tg_audit_chain_heads__no_truncate before truncate on private.audit_chain_heads
  for each statement execute function private.tg_audit_log__append_only();
alter table private.audit_archives enable always trigger tg_audit_archives__append_only;
alter table private.audit_archives enable always trigger tg_audit_archives__no_truncate;
alter table private.audit_chain_heads enable always trigger tg_audit_chain_heads__no_delete;
alter table private.audit_chain_heads enable always trigger tg_audit_chain_heads__no_truncate;

create function private.create_audit_partitions() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_month timestamp;
  v_name text;
  v_created integer := 0;
begin
  for v_ahead in 0..2 loop
    v_month := date_trunc('month', now() at time zone 'UTC') + make_interval(months => v_ahead);
    v_name := 'audit_log_' || to_char(v_month, 'YYYYMM');
    -- Entries that came while there was no partition stay in the default one, whose rows nobody may move; the chain is
    -- by month, not by partition, so it does not mind.
    if to_regclass(format('private.%I', v_name)) is null and not exists (
      select from private.audit_log_default d
      where d.created_at >= v_month at time zone 'UTC' and d.created_at < (v_month + interval '1 month') at time zone 'UTC'
    ) then
      execute format('create table private.%I (like private.audit_log including defaults including constraints)', v_name);
      execute format('revoke all on private.%I from anon, authenticated, service_role', v_name);
      execute format(
        'alter table private.audit_log attach partition private.%I for values from (%L) to (%L)',
        v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
      execute format(
        'create trigger tg_audit_log__no_truncate before truncate on private.%I
        for each statement execute function private.tg_audit_log__append_only()', v_name);
      execute format('alter table private.%I enable always trigger tg_audit_log__no_truncate', v_name);
      insert into private.audit_chain_heads (month, seq, hash) values (v_month::date, 0, '') on conflict do nothing;
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end $$;
comment on function private.create_audit_partitions() is
  'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

-- What a user repeats at will would fill the log. Only what they do to their own account is counted so: what the team, the Auth service
-- and jobs do is always an entry.
create table private.audit_repeats (
  user_id uuid not null,
  action text not null check (length(action) <= 80),
  hour timestamptz not null,
  entries integer not null check (entries > 0),
  held_back integer not null default 0 check (held_back >= 0),
  primary key (user_id, action, hour)
) with (fillfactor = 70);
comment on table private.audit_repeats is 'How often a user did the same to their own account within an hour (UTC), until private.tell_of_audit_repeats has said it in the log.';
comment on column private.audit_repeats.held_back is 'How many of them have no entry of their own.';
create index audit_repeats_hour_idx on private.audit_repeats (hour);
revoke all on private.audit_repeats from anon, authenticated, service_role;

create function private.is_audit_repeat(action text, user_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_is_held boolean;
  v_max integer := (private.setting('audit.entries_per_hour'))::integer;
begin
  if (auth.role() = 'authenticated' and auth.uid() = is_audit_repeat.user_id) is not true then
    return false;
  end if;
  insert into private.audit_repeats as r (user_id, action, hour, entries)
  values (is_audit_repeat.user_id, is_audit_repeat.action, date_trunc('hour', now(), 'UTC'), 1)
  on conflict on constraint audit_repeats_pkey do update set
    entries = r.entries + 1, held_back = r.held_back + case when r.entries >= v_max then 1 else 0 end
  returning r.held_back > 0 into v_is_held;
  return v_is_held;
end $$;
comment on function private.is_audit_repeat(text, uuid) is
  'Whether a user has done the same to their own account audit.entries_per_hour times within the hour, so that once more is counted and has no entry.';

create function private.tell_of_audit_repeats() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_repeat private.audit_repeats;
  v_told integer := 0;
begin
  for v_repeat in
    delete from private.audit_repeats r where r.hour < date_trunc('hour', now(), 'UTC') returning r.*
  loop
    continue when v_repeat.held_back = 0;
    v_told := v_told + 1;
    perform private.audit(action => 'audit.held_back', resource_type => 'account', resource_id => v_repeat.user_id::text,
      user_id => v_repeat.user_id,
      details => jsonb_build_object('action', v_repeat.action, 'entries', v_repeat.held_back, 'hour', v_repeat.hour));
  end loop;
  return v_told;
end $$;
comment on function private.tell_of_audit_repeats() is
  'Writes one entry, audit.held_back, for each user, action and hour that had more than audit.entries_per_hour: {action, entries, hour}. A job runs it. Answers how many.';

create function private.audit(
  action text, resource_type text, resource_id text, user_id uuid default null,
  details jsonb default '{}', result text default 'success', ip inet default null
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write the log.
begin
  if private.is_audit_repeat(audit.action, audit.user_id) then
    return;
  end if;
  insert into private.audit_log (
    actor_id, actor_role, user_id, action, resource_type, resource_id, result, ip, user_agent, request_id, details)
  values (
    (select auth.uid()), coalesce((select auth.role()), session_user), audit.user_id, audit.action, audit.resource_type,
    audit.resource_id, audit.result, coalesce(audit.ip, private.request_ip()), private.request_user_agent(),
    private.request_id(), coalesce(audit.details, '{}'));
end $$;
comment on function private.audit(text, text, text, uuid, jsonb, text, inet) is
  'Adds an entry to the audit log in the caller''s transaction: both happen or neither. action such as account.suspend, resource_type such as account, user_id whose account it concerns, result success | refused | failed; details hold no secrets, at most 16,000 characters. What a user does to their own account more than audit.entries_per_hour times has one entry together. Actor, user agent and request id come from the request, the IP too unless given.';

create function private.verify_audit_chain(from_month date default null, to_month date default null)
returns table (month date, seq bigint, id uuid, problem text)
language sql stable security invoker set search_path = ''
as $$
  with bounds as (
    select coalesce(date_trunc('month', from_month::timestamp), '-infinity') as first,
      coalesce(date_trunc('month', to_month::timestamp) + interval '1 month', 'infinity') as beyond
  ), found as (
    select a as entry, private.audit_month(a.created_at) as month, a.seq, a.id, a.hash, a.previous_hash
    from private.audit_log a
    where a.created_at >= (select b.first at time zone 'UTC' from bounds b)
      and a.created_at < (select b.beyond at time zone 'UTC' from bounds b)
  ), entries as (
    select f.*, lag(f.seq, 1, 0::bigint) over chain as seq_before, lag(f.hash, 1, ''::bytea) over chain as hash_before
    from found f where f.hash is not null
    window chain as (partition by f.month order by f.seq, f.id)
  ), ends as (
    select distinct on (e.month) e.month, e.seq, e.hash from entries e order by e.month, e.seq desc, e.id desc
  ), heads as (
    select h.month, h.seq, h.hash from private.audit_chain_heads h, bounds b where h.month >= b.first and h.month < b.beyond
  )
  select f.month, f.seq, f.id, 'not sealed' from found f where f.hash is null
  union all
  select e.month, e.seq, e.id, 'changed' from entries e
  where e.hash is distinct from private.audit_hash(e.entry, e.seq, e.previous_hash)
  union all
  select e.month, e.seq, e.id, 'entries before it are missing or out of order' from entries e
  where e.seq <> e.seq_before + 1 or e.previous_hash is distinct from e.hash_before
  union all
  select coalesce(h.month, e.month), e.seq, null, 'the chain does not end at its head: entries are missing or were added'
  from heads h full join ends e on e.month = h.month
  where (h.seq, h.hash) is distinct from (e.seq, e.hash)
    and not (e.month is null and h.seq = 0)
    and not (e.month is null and h.seq = (
      select sum(r.last_seq - r.first_seq + 1) from private.audit_archives r where r.month = h.month)
      and exists (
        select from private.audit_archives r where r.month = h.month and r.last_seq = h.seq and r.last_hash = h.hash))
  order by 1, 2, 4
$$;
comment on function private.verify_audit_chain(date, date) is
  'What is wrong with the audit log, from a month on, to a month, or in all of it: entries that were changed, removed, added or reordered. No row: it is as it was written. Reads every entry; verify_new_audit_entries reads those since the last proof.';

-- From a proven point on -------------------------------------------------------------------------------------------------

create table private.audit_proofs (
  month date primary key check (extract(day from month) = 1),
  seq bigint not null check (seq >= 0),
  hash bytea not null,
  proven_at timestamptz not null
);
comment on table private.audit_proofs is
  'Up to where each month''s chain was found whole, and when. It saves reading, and is no evidence: verify_audit_chain does not look at it.';
revoke all on private.audit_proofs from anon, authenticated, service_role;

create function private.verify_new_audit_entries()
returns table (month date, seq bigint, id uuid, problem text)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_month record;
  v_entry private.audit_log;
  v_seq bigint;
  v_hash bytea;
  v_is_whole boolean;
begin
  for v_month in
    select h.month, h.seq, h.hash, coalesce(p.seq, 0) as proven_seq, coalesce(p.hash, '') as proven_hash,
      -- An entry has the time at which its transaction began: an hour covers those that took long.
      greatest(p.proven_at - interval '1 hour', h.month::timestamp at time zone 'UTC') as since
    from private.audit_chain_heads h left join private.audit_proofs p using (month)
    where (h.seq, h.hash) is distinct from (p.seq, p.hash) order by h.month
  loop
    v_seq := v_month.proven_seq;
    v_hash := v_month.proven_hash;
    v_is_whole := true;
    for v_entry in
      select a.* from private.audit_log a
      where a.created_at >= v_month.since and a.created_at < (v_month.month + interval '1 month') at time zone 'UTC'
        and (a.seq is null or a.seq > v_month.proven_seq)
      order by a.seq
    loop
      v_is_whole := v_entry.seq = v_seq + 1 and v_entry.previous_hash = v_hash
        and v_entry.hash = private.audit_hash(v_entry, v_entry.seq, v_entry.previous_hash);
      exit when v_is_whole is not true;
      v_seq := v_entry.seq;
      v_hash := v_entry.hash;
    end loop;
    -- What does not fit is looked at with all of its month: it may have been a transaction of more than an hour.
    if (v_is_whole and v_seq = v_month.seq and v_hash = v_month.hash) is not true then
      return query select v.* from private.verify_audit_chain(v_month.month, v_month.month) v;
    end if;
  end loop;
end $$;
comment on function private.verify_new_audit_entries() is
  'What is wrong with the audit log since private.audit_proofs, in the words of verify_audit_chain. Reads what is new; a month in which something does not fit it reads whole.';

create function private.prove_audit_entries() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_heads private.audit_chain_heads[];
  v_broken date[];
begin
  -- Taken before the reading: what is appended meanwhile is for the next time.
  select array_agg(h) into v_heads from private.audit_chain_heads h;
  select array_agg(distinct v.month) into v_broken from private.verify_new_audit_entries() v;
  perform private.raise_security_event(
    type => 'audit_chain_broken', severity => 'critical', user_id => null,
    details => jsonb_build_object('month', b.month), dedupe_key => b.month::text)
  from unnest(v_broken) b (month);
  insert into private.audit_proofs (month, seq, hash, proven_at)
  select h.month, h.seq, h.hash, now() from unnest(v_heads) h where h.month <> all (coalesce(v_broken, '{}'))
  on conflict (month) do update set seq = excluded.seq, hash = excluded.hash, proven_at = excluded.proven_at
  where audit_proofs.seq < excluded.seq;
  return coalesce(cardinality(v_broken), 0);
end $$;
comment on function private.prove_audit_entries() is
  'Proves what was appended to the audit log and remembers up to where; a month that is broken raises a critical security event and keeps its old proof. Answers how many are. A job runs it.';

create function private.sees_audit_origin() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the service role cannot ask whether it is an admin.
begin
  return coalesce((select auth.role()) = 'service_role', false) or private.is_admin();
end $$;
comment on function private.sees_audit_origin() is
  'Whether the caller sees from where anybody acted: admins and the service role.';
grant execute on function private.sees_audit_origin() to authenticated, service_role;

create function private.sees_all_accounts(relation regclass) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return not row_security_active(sees_all_accounts.relation) or private.is_admin();
end $$;
comment on function private.sees_all_accounts(regclass) is
  'Whether the caller reads rows of everybody there: admins, and roles that row security does not hold for, such as the service role.';
grant execute on function private.sees_all_accounts(regclass) to authenticated, service_role;

-- Two branches, and the policy behind both: with "mine or I am an admin" as one condition no index on user_id can help, and an owner
-- would read everybody's entries. The second branch is not even begun for who does not see all.
create view public.audit_log with (security_invoker = true) as
with branches as (
  select l.* from private.audit_log l where l.user_id = (select private.my_user_id())
  union all
  select l.* from private.audit_log l
  where (select private.sees_all_accounts('private.audit_log')) and (l.user_id = (select private.my_user_id())) is not true
)
select
  a.id, a.created_at, a.actor_id, a.actor_role, a.user_id, a.action, a.resource_type, a.resource_id, a.result,
  case when o.is_seen or a.actor_id = a.user_id then a.ip end as ip,
  case when o.is_seen or a.actor_id = a.user_id then a.user_agent end as user_agent,
  a.request_id, a.details
from branches a
  -- Asked once; and with two tables PostgreSQL 15 and 17 print the view alike.
  cross join (select private.sees_audit_origin() as is_seen offset 0) o;
comment on view public.audit_log is
  'The audit log for people: owners see what was done to their account, admins at aal2 see everything. Where somebody else acted, owners do not see from where.';
revoke all on public.audit_log from anon, authenticated, service_role;
grant select on public.audit_log to authenticated, service_role;
-- What the view reads; the schema is not exposed, and the policies hold here, too.
grant select on private.audit_log to authenticated, service_role;

-- Security events --------------------------------------------------------------------------------------------------------

create table private.security_events (
  id uuid primary key default private.uuid_v7(),
  user_id uuid references auth.users (id) on delete cascade,
  type text not null check (type ~ '^[a-z0-9_]+$' and length(type) <= 80),
  severity text not null check (severity in ('low', 'medium', 'high', 'critical')),
  details jsonb not null check (jsonb_typeof(details) = 'object' and length(details::text) <= 16000),
  ip inet,
  user_agent text check (length(user_agent) <= 500),
  dedupe_key text not null check (length(dedupe_key) <= 200),
  dedupe_window bigint not null,
  occurrences integer not null default 1 check (occurrences > 0),
  created_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  unique nulls not distinct (user_id, type, dedupe_key, dedupe_window)
);
comment on table private.security_events is 'What looks like an attack, or would be one if it was not the user. user_id null: it concerns the project.';
comment on column private.security_events.occurrences is 'How often it happened within security.dedupe_minutes.';
comment on column private.security_events.dedupe_window is 'Number of the window since 1970; the same event in the same window is one row.';
create index security_events_created_at_idx on private.security_events (created_at desc);
create index security_events_user_id_created_at_idx on private.security_events (user_id, created_at desc);
alter table private.security_events enable row level security;
alter table private.security_events force row level security;
revoke all on private.security_events from anon, authenticated, service_role;
grant select on private.security_events to authenticated, service_role;

create view public.security_events with (security_invoker = true) as
select e.* from private.security_events e where e.user_id = (select private.my_user_id())
union all
select e.* from private.security_events e
where (select private.sees_all_accounts('private.security_events')) and (e.user_id = (select private.my_user_id())) is not true;
comment on view public.security_events is
  'Security events for people: owners see those of their account, admins at aal2 all. user_id null: it concerns the project. occurrences: how often it happened within security.dedupe_minutes.';
revoke all on public.security_events from anon, authenticated, service_role;
grant select on public.security_events to authenticated, service_role;

create function private.raise_security_event(
  type text, severity text, user_id uuid, details jsonb default '{}', dedupe_key text default null, ip inet default null
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write events.
declare
  v_event private.security_events;
  v_window interval := make_interval(mins => (private.setting('security.dedupe_minutes'))::integer);
  v_number bigint := floor(extract(epoch from now()) / extract(epoch from v_window));
  v_key text := coalesce(raise_security_event.dedupe_key, '');
begin
  -- A key that somebody makes up, as the id of a device, would make as many rows as they like.
  if v_key <> '' and not exists (
      select from private.security_events e
      where e.user_id = raise_security_event.user_id and e.type = raise_security_event.type
        and e.dedupe_key = v_key and e.dedupe_window = v_number)
    and (
      select count(*) from private.security_events e
      where e.user_id = raise_security_event.user_id and e.type = raise_security_event.type
        and e.dedupe_window = v_number and e.created_at > now() - v_window) >= (private.setting('security.events_per_window'))::integer then
    v_key := '(others)';
  end if;
  insert into private.security_events as e (user_id, type, severity, details, ip, user_agent, dedupe_key, dedupe_window)
  values (
    raise_security_event.user_id, raise_security_event.type, raise_security_event.severity,
    coalesce(raise_security_event.details, '{}'), coalesce(raise_security_event.ip, private.request_ip()),
    private.request_user_agent(), v_key, v_number)
  on conflict on constraint security_events_user_id_type_dedupe_key_dedupe_window_key do update set
    occurrences = e.occurrences + 1, last_seen_at = now()
  returning e.* into v_event;
  if v_event.occurrences = 1 then
    perform private.audit(
      action => 'security.' || v_event.type, resource_type => 'security_event', resource_id => v_event.id::text,
      user_id => v_event.user_id, details => jsonb_build_object('severity', v_event.severity), ip => v_event.ip);
  end if;
  return v_event.id;
end $$;
comment on function private.raise_security_event(text, text, uuid, jsonb, text, inet) is
  'Notes a security event: severity low | medium | high | critical; user_id null concerns the project. The same type, user and dedupe_key within security.dedupe_minutes count up one row, and beyond security.events_per_window any of the type does. Answers its id.';

-- sql/71_operator_changes.sql =========================================================================================

-- What operators change: settings, plans, limits, prices, models, providers. Whoever does it, by SQL, by the Data API or by a script of ours,
-- leaves an entry in the audit log with the row before and after, so that it can be seen and undone.

create function private.tg__operator_change() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write the log.
declare
  v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - array['created_at', 'updated_at'] end;
  v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - array['created_at', 'updated_at'] end;
  v_row jsonb := coalesce(v_after, v_before);
  v_key text[];
  v_details jsonb;
begin
  if v_before = v_after then
    return null;
  end if;
  v_key := array(
    select v_row ->> a.attname
    from pg_catalog.pg_index i cross join unnest(i.indkey) with ordinality k (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = tg_relid and i.indisprimary order by k.place);
  v_details := jsonb_strip_nulls(jsonb_build_object('before', v_before, 'after', v_after));
  if length(v_details::text) > 15000 then
    v_details := jsonb_build_object('too_long', true, 'sha256', encode(sha256(convert_to(v_details::text, 'UTF8')), 'hex'));
  end if;
  perform private.audit(
    action => tg_table_name || case tg_op when 'INSERT' then '.create' when 'UPDATE' then '.update' else '.delete' end,
    resource_type => tg_table_name, resource_id => left(array_to_string(v_key, ' '), 200),
    user_id => private.uuid_or_null(v_row ->> 'user_id'), details => v_details);
  return null;
end $$;
comment on function private.tg__operator_change() is
  'Writes a changed row into the audit log, before and after, as TABLE.create, .update or .delete; the id is that of the row''s key, its parts by spaces. The log''s lock is taken when the transaction commits, so nobody waits for an operator who thinks.';

create trigger tg_settings__operator_change after update or delete on private.settings
  for each row execute function private.tg__operator_change();
create trigger tg_plans__operator_change after insert or update or delete on public.plans
  for each row execute function private.tg__operator_change();
create trigger tg_plan_limits__operator_change after insert or update or delete on public.plan_limits
  for each row execute function private.tg__operator_change();
create trigger tg_limit_overrides__operator_change after insert or update or delete on public.limit_overrides
  for each row execute function private.tg__operator_change();
create trigger tg_plan_features__operator_change after insert or update or delete on public.plan_features
  for each row execute function private.tg__operator_change();
create trigger tg_plan_models__operator_change after insert or update or delete on public.plan_models
  for each row execute function private.tg__operator_change();
create trigger tg_models__operator_change after insert or update or delete on public.models
  for each row execute function private.tg__operator_change();
create trigger tg_model_prices__operator_change after insert or update or delete on public.model_prices
  for each row execute function private.tg__operator_change();
create trigger tg_model_fallbacks__operator_change after insert or update or delete on private.model_fallbacks
  for each row execute function private.tg__operator_change();
create trigger tg_providers__operator_change after insert or update or delete on private.providers
  for each row execute function private.tg__operator_change();
create trigger tg_plan_prices__operator_change after insert or update or delete on public.plan_prices
  for each row execute function private.tg__operator_change();
create trigger tg_credit_packs__operator_change after insert or update or delete on public.credit_packs
  for each row execute function private.tg__operator_change();
create trigger tg_billing_notices__operator_change after insert or update or delete on private.billing_notices
  for each row execute function private.tg__operator_change();
create trigger tg_dunning_steps__operator_change after insert or update or delete on private.dunning_steps
  for each row execute function private.tg__operator_change();

-- sql/72_notifications.sql ============================================================================================

-- Notifications: what a user should hear of, in the app and, where settings say so, by mail.

insert into private.settings (key, value, rule, description) values
  ('notifications.mail_types', '["new_device", "new_network", "mfa_removed", "account_locked", "account_frozen", "refresh_token_reuse", "role_changed"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9_]{1,80}$"}}', 'Types of notifications that are also sent by mail.'),
  ('notifications.keep_days', '180', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that notifications are kept.'),
  ('notifications.max_per_hour', '20', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Notifications of one type that a user gets within an hour; what more there is counts up the last of them.'),
  ('mail.max_per_hour', '3', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Mails of one type that a user gets within an hour; what more there is comes as one mail when the hour is over.'),
  ('mail.keep_days', '30', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that mails are kept that were sent or given up.'),
  ('mail.max_attempts', '6', '{"type": "integer", "minimum": 1, "maximum": 1000}', 'Tries after which a mail is given up.')
on conflict (key) do nothing;

create table public.notifications (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  type text not null check (type ~ '^[a-z0-9_]+$' and length(type) <= 80),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) <= 2000),
  data jsonb not null default '{}' check (jsonb_typeof(data) = 'object' and length(data::text) <= 16000),
  occurrences integer not null default 1 check (occurrences > 0),
  read_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table public.notifications is
  'One message for one user. Its owner marks it as read or deletes it. The oldest go when there are more than notifications/total.';
comment on column public.notifications.occurrences is
  'For how many of its type it stands, of which it tells the last: above 1 when there were more than notifications.max_per_hour.';
create index notifications_user_id_created_at_idx on public.notifications (user_id, created_at desc);
alter table public.notifications enable row level security;
alter table public.notifications force row level security;
revoke all on public.notifications from anon, authenticated, service_role;
grant select, delete on public.notifications to authenticated;
grant update (read_at) on public.notifications to authenticated;
grant select on public.notifications to service_role;

create table private.mails (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  address text check (length(address) between 3 and 320),
  subject text not null check (length(subject) between 1 and 200),
  body text not null check (length(body) <= 2000),
  type text not null check (type ~ '^[a-z0-9_]+$' and length(type) <= 80),
  state text not null default 'waiting' check (state in ('waiting', 'sent', 'dead')),
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  created_at timestamptz not null default now(),
  sent_at timestamptz
);
comment on table private.mails is 'Mails to send, in the transaction that had the reason.';
comment on column private.mails.address is 'Null: the account''s, looked up when it is sent. An address that the account had before hears that it has another.';
comment on column private.mails.type is 'That of the notification; digest: tells of what was held back.';
comment on column private.mails.next_attempt_at is 'Not before; while a worker has the mail, when another may take it.';
create index mails_user_id_idx on private.mails (user_id, created_at);
create index mails_next_attempt_at_idx on private.mails (next_attempt_at) where state = 'waiting';
revoke all on private.mails from anon, authenticated, service_role;

-- What comes too often ---------------------------------------------------------------------------------------------------

create table private.notice_counts (
  user_id uuid not null references auth.users (id) on delete cascade,
  type text not null check (length(type) <= 80),
  hour_ends_at timestamptz not null,
  notices integer not null check (notices > 0),
  mails_held integer not null default 0 check (mails_held >= 0),
  last_title text not null check (length(last_title) <= 200),
  last_at timestamptz not null,
  primary key (user_id, type)
) with (fillfactor = 70);
comment on table private.notice_counts is
  'How often a user was told of something within an hour that began with the first time, and what is still to be mailed of it.';
comment on column private.notice_counts.mails_held is 'Mails that were not sent, since there had been mail.max_per_hour; the next digest tells of them.';
create index notice_counts_mails_held_idx on private.notice_counts (hour_ends_at) where mails_held > 0;
create index notice_counts_hour_ends_at_idx on private.notice_counts (hour_ends_at);
revoke all on private.notice_counts from anon, authenticated, service_role;

create function private.count_notice(user_id uuid, type text, title text, is_mailed boolean, out notices integer, out is_held boolean)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max_mails integer := (private.setting('mail.max_per_hour'))::integer;
begin
  -- The row's newest version decides, so that as many pass as may, however many race.
  insert into private.notice_counts as n (user_id, type, hour_ends_at, notices, last_title, last_at)
  values (count_notice.user_id, count_notice.type, now() + interval '1 hour', 1, count_notice.title, now())
  on conflict on constraint notice_counts_pkey do update set
    -- One that ends later than in an hour is of a clock that was wrong.
    notices = case when n.hour_ends_at > now() and n.hour_ends_at <= clock_timestamp() + interval '1 hour' then n.notices + 1 else 1 end,
    hour_ends_at = case
      when n.hour_ends_at > now() and n.hour_ends_at <= clock_timestamp() + interval '1 hour' then n.hour_ends_at else excluded.hour_ends_at end,
    last_title = excluded.last_title, last_at = excluded.last_at
  returning n.notices into notices;
  is_held := is_mailed and notices > v_max_mails;
  if is_held then
    update private.notice_counts n set mails_held = n.mails_held + 1
    where n.user_id = count_notice.user_id and n.type = count_notice.type;
  end if;
end $$;
comment on function private.count_notice(uuid, text, text, boolean) is
  'Counts that a user is told of something: the how manieth it is within an hour, and whether its mail is held for the digest.';

create function private.leave_notification(user_id uuid, type text, title text, body text, data jsonb, notices integer) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_id uuid;
begin
  if notices > (private.setting('notifications.max_per_hour'))::integer then
    update public.notifications n set
      title = leave_notification.title, body = leave_notification.body, data = leave_notification.data,
      occurrences = n.occurrences + 1, read_at = null
    where n.id = (
      select l.id from public.notifications l where l.user_id = leave_notification.user_id and l.type = leave_notification.type
      order by l.created_at desc, l.id desc limit 1)
    returning n.id into v_id;
  end if;
  if v_id is null then
    insert into public.notifications (user_id, type, title, body, data)
    values (leave_notification.user_id, leave_notification.type, leave_notification.title, leave_notification.body, leave_notification.data)
    returning id into v_id;
    delete from public.notifications n where n.id in (
      select o.id from public.notifications o where o.user_id = leave_notification.user_id
      order by o.created_at desc, o.id desc
      offset (
        select coalesce(a.amount, 9223372036854775807) from private.meter_amounts a
        where a.user_id = leave_notification.user_id and a.meter = 'notifications' and a.period = 'total'));
  end if;
  return v_id;
end $$;
comment on function private.leave_notification(uuid, text, text, text, jsonb, integer) is
  'Writes a notification, or the last of its type anew when it is the how manieth (notices) of too many within an hour; the oldest go beyond notifications/total. Answers its id.';

create function private.tell_user(user_id uuid, type text, title text, body text, data jsonb, is_mailed boolean) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_count record;
begin
  select c.notices, c.is_held into v_count
  from private.count_notice(tell_user.user_id, tell_user.type, tell_user.title, tell_user.is_mailed) c;
  if is_mailed and not v_count.is_held then
    insert into private.mails (user_id, type, subject, body) values (tell_user.user_id, tell_user.type, tell_user.title, tell_user.body);
  end if;
  return private.leave_notification(
    tell_user.user_id, tell_user.type, tell_user.title, tell_user.body, coalesce(tell_user.data, '{}'), v_count.notices);
end $$;
comment on function private.tell_user(uuid, text, text, text, jsonb, boolean) is
  'Leaves a notification for a user, and when it is mailed a mail, as many as may come within an hour. The one way to either. Answers the notification''s id.';

create function private.notify_user(user_id uuid, type text, title text, body text, data jsonb default '{}', by_mail boolean default true)
returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write notifications.
begin
  return private.tell_user(notify_user.user_id, notify_user.type, notify_user.title, notify_user.body, notify_user.data,
    notify_user.by_mail and private.setting('notifications.mail_types') ? notify_user.type);
end $$;
comment on function private.notify_user(uuid, text, text, text, jsonb, boolean) is
  'Leaves a notification for a user, and a mail when notifications.mail_types names the type; with by_mail false the caller mails what it has to. Of more than notifications.max_per_hour of a type the last is written anew; of more mails than mail.max_per_hour one digest tells. Answers the notification''s id.';

create function private.write_mail_digests() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_digest record;
  v_written integer := 0;
begin
  for v_user_id in
    select distinct n.user_id from private.notice_counts n
    where n.mails_held > 0 and n.hour_ends_at <= now()
      and not exists (
        select from private.mails m where m.user_id = n.user_id and m.created_at > now() - interval '1 hour' and m.type = 'digest')
    limit 1000
  loop
    with held as (
      select n.type, n.mails_held, n.last_title, n.last_at from private.notice_counts n
      where n.user_id = v_user_id and n.mails_held > 0 order by n.type for update
    ), told as (
      update private.notice_counts n set mails_held = 0 from held h where n.user_id = v_user_id and n.type = h.type
    )
    select sum(h.mails_held) as mails, string_agg(format('%s x %s, last at %s UTC', h.mails_held, h.last_title,
      to_char(h.last_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')), e'\n' order by h.mails_held desc, h.type) as lines
    into v_digest from held h;
    -- Another may have told it meanwhile.
    continue when v_digest.mails is null;
    insert into private.mails (user_id, type, subject, body)
    values (v_user_id, 'digest', format('%s more notices about your account', v_digest.mails),
      left(format(e'So much happened within an hour that not all of it was mailed one by one:\n\n%s\n\nThe app has the list.', v_digest.lines), 2000));
    v_written := v_written + 1;
  end loop;
  return v_written;
end $$;
comment on function private.write_mail_digests() is
  'Writes one mail to each user whose hour of too many mails is over, at most one an hour, which tells how many of each kind were not sent. A job runs it. Answers how many.';

create function private.claim_mails(batch_size integer default 20)
returns table (id uuid, address text, subject text, body text, attempt integer)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max integer := (private.setting('mail.max_attempts'))::integer;
begin
  -- Nobody came back from the last try, or there is no address to send to.
  update private.mails m set
    state = 'dead', error = left(coalesce(m.error, case when m.attempts >= v_max then 'nobody came back from the last try' else 'the account has no e-mail address' end), 500)
  from auth.users u
  where u.id = m.user_id and m.state = 'waiting' and m.next_attempt_at <= now()
    and (m.attempts >= v_max or nullif(coalesce(m.address, u.email), '') is null);
  return query
    with claimed as (
      select m.id from private.mails m join (
        -- Everybody's first, then everybody's second: who gets many waits for them, and nobody else does.
        select t.id, row_number() over (partition by t.user_id order by t.next_attempt_at, t.id) as turn from private.mails t
        where t.state = 'waiting' and t.next_attempt_at <= now()) t on t.id = m.id
      where m.state = 'waiting' and m.next_attempt_at <= now()
      order by t.turn, m.next_attempt_at limit claim_mails.batch_size
      for update of m skip locked
    )
    update private.mails m set
      attempts = m.attempts + 1,
      -- Whoever does not come back is replaced after five minutes; later tries wait longer.
      next_attempt_at = now() + interval '5 minutes' * power(2, least(m.attempts, 8))
    from claimed c, auth.users u
    where m.id = c.id and u.id = m.user_id
    returning m.id, coalesce(m.address, u.email::text), m.subject, m.body, m.attempts;
end $$;
comment on function private.claim_mails(integer) is
  'Takes waiting mails for sending, users in turn, each for one worker. A worker that dies between sending and finish_mail lets the mail be sent again: at least once.';

create function private.finish_mail(mail_id uuid, attempt integer, error text default null) returns text
language sql volatile security invoker set search_path = ''
as $$
  update private.mails m set
    state = case
      when finish_mail.error is null then 'sent'
      when m.attempts >= (private.setting('mail.max_attempts'))::integer then 'dead'
      else 'waiting' end,
    sent_at = case when finish_mail.error is null then now() end,
    error = left(finish_mail.error, 500)
  where m.id = finish_mail.mail_id and m.state = 'waiting' and m.attempts = finish_mail.attempt
  returning m.state
$$;
comment on function private.finish_mail(uuid, integer, text) is
  'Notes that a mail was sent (error null), or why not; after mail.max_attempts tries it is dead. Answers the state; null when another worker has taken the mail meanwhile.';

-- sql/74_audit_archive.sql ============================================================================================

-- Audit archive: months that are over leave the database for a storage file; and the door from the clock to the functions.

insert into private.settings (key, value, rule, description) values
  ('audit.archive_part_entries', '20000', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Audit entries in one archive file.'),
  ('jobs.functions_url', 'null', '{"type": ["string", "null"], "pattern": "^https?://[^ ]+$"}', 'Where the functions are, https://<ref>.supabase.co/functions/v1. With the Vault secret palisade_secret_key it lets jobs call them; null: they call nothing.')
on conflict (key) do nothing;

insert into storage.buckets (id, name, public) values ('audit-archive', 'audit-archive', false)
on conflict (id) do nothing;

create function private.next_audit_archive() returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_days integer := (private.setting('audit.online_days'))::integer;
  v_part_entries integer := (private.setting('audit.archive_part_entries'))::integer;
  v_head private.audit_chain_heads;
  v_part integer;
  v_last_seq bigint;
begin
  for v_head in
    select h.* from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC' < now() - make_interval(days => v_days)
    order by h.month
  loop
    -- A month that was tampered with stays where it is, for people to look at. Later ones go on.
    if exists (select from private.verify_audit_chain(v_head.month, v_head.month) p where p.month = v_head.month) then
      perform private.raise_security_event(
        type => 'audit_chain_broken', severity => 'critical', user_id => null,
        details => jsonb_build_object('month', v_head.month), dedupe_key => v_head.month::text);
      continue;
    end if;
    select coalesce(max(a.part), 0), coalesce(max(a.last_seq), 0) into v_part, v_last_seq
    from private.audit_archives a where a.month = v_head.month;
    return jsonb_build_object(
      'month', v_head.month, 'is_complete', v_last_seq = v_head.seq, 'part', v_part + 1, 'first_seq', v_last_seq + 1,
      'last_seq', least(v_head.seq, v_last_seq + v_part_entries));
  end loop;
  return null;
end $$;
comment on function private.next_audit_archive() is
  'What the archive job does next, for the oldest month that ended more than audit.online_days ago: {month, part, first_seq, last_seq, is_complete}, is_complete when only the drop is left; null when nothing is due. A month whose chain is broken is passed over and raises a critical security event.';

create function private.read_audit_entries(month date, first_seq bigint, last_seq bigint) returns setof text
language sql stable security invoker set search_path = '' set timezone = 'UTC'
as $$
  select to_jsonb(a)::text from private.audit_log a
  where a.created_at >= read_audit_entries.month::timestamp at time zone 'UTC'
    and a.created_at < (read_audit_entries.month + interval '1 month') at time zone 'UTC'
    and a.seq between read_audit_entries.first_seq and read_audit_entries.last_seq
  order by a.seq
$$;
comment on function private.read_audit_entries(date, bigint, bigint) is 'Entries of one month as lines of JSON, in the chain''s order.';

create function private.record_audit_archive(part jsonb, sha256 text, path text) returns void
language sql volatile security invoker set search_path = ''
as $$
  insert into private.audit_archives (month, part, first_seq, last_seq, last_hash, sha256, path)
  select (part ->> 'month')::date, (part ->> 'part')::integer, (part ->> 'first_seq')::bigint, (part ->> 'last_seq')::bigint,
    a.hash, record_audit_archive.sha256, record_audit_archive.path
  from private.audit_log a
  where a.created_at >= (part ->> 'month')::timestamp at time zone 'UTC'
    and a.created_at < ((part ->> 'month')::timestamp + interval '1 month') at time zone 'UTC'
    and a.seq = (part ->> 'last_seq')::bigint
  on conflict do nothing
$$;
comment on function private.record_audit_archive(jsonb, text, text) is
  'Notes that a part of a month lies in the bucket, read back and compared. Harmless when it was noted before.';

create function private.drop_archived_audit_month(month date) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_table text := 'audit_log_' || to_char(drop_archived_audit_month.month, 'YYYYMM');
  v_head private.audit_chain_heads;
  v_archived record;
begin
  -- Writers wait while the month leaves the log. Better that this job comes back than that they wait for it.
  perform set_config('lock_timeout', '2s', true);
  select h.* into v_head from private.audit_chain_heads h where h.month = drop_archived_audit_month.month for update;
  if not found or to_regclass('private.' || v_table) is null then
    return false;
  end if;
  select coalesce(sum(a.last_seq - a.first_seq + 1), 0) as entries, coalesce(max(a.last_seq), 0) as last_seq,
    coalesce((array_agg(a.last_hash order by a.last_seq desc))[1], '') as last_hash
  into v_archived from private.audit_archives a where a.month = drop_archived_audit_month.month;
  if v_archived.entries <> v_head.seq or v_archived.last_seq <> v_head.seq
    or v_archived.last_hash <> v_head.hash
    or exists (select from private.verify_audit_chain(v_head.month, v_head.month) p where p.month = v_head.month)
    or exists (select from private.audit_log_default d where private.audit_month(d.created_at) = v_head.month) then
    raise exception 'month % is not archived as it is', v_head.month;
  end if;
  execute format('alter table private.audit_log detach partition private.%I', v_table);
  execute format('drop table private.%I', v_table);
  perform private.audit(
    action => 'audit.archive', resource_type => 'audit_month', resource_id => v_head.month::text,
    details => jsonb_build_object('entries', v_archived.entries));
  return true;
end $$;
comment on function private.drop_archived_audit_month(date) is
  'The one way out of the log: takes a month away whose archive holds its whole chain, to the last hash. False when it is gone already; an error when the archive does not match.';

-- What the clock starts --------------------------------------------------------------------------------------------------

create function private.job_token(job text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_seconds text := floor(extract(epoch from clock_timestamp()));
  v_key text := (select s.decrypted_secret from vault.decrypted_secrets s where s.name = 'palisade_secret_key');
begin
  return v_seconds || '.' || encode(extensions.hmac(
    convert_to('palisade job ' || job_token.job || ' ' || v_seconds, 'UTF8'), convert_to(v_key, 'UTF8'), 'sha256'), 'hex');
end $$;
comment on function private.job_token(text) is
  'What opens one job of the function jobs for five minutes: the time and an HMAC of job and time by the Vault secret palisade_secret_key, which the function has, too. pg_net''s queue may be read by every role, so the key itself is never in it. Null without the secret.';

create function private.call_jobs_function(path text) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_url text := nullif(private.setting('jobs.functions_url') #>> '{}', '');
  v_token text := private.job_token(call_jobs_function.path);
begin
  if v_url is null or v_token is null then
    if not exists (
      select from public.security_events e
      where e.user_id is null and e.type = 'jobs_not_configured' and e.last_seen_at > now() - interval '1 day') then
      perform private.raise_security_event(
        type => 'jobs_not_configured', severity => 'low', user_id => null, details => jsonb_build_object(
          'missing', case when v_url is null then 'setting jobs.functions_url' else 'Vault secret palisade_secret_key' end));
    end if;
    return null;
  end if;
  return net.http_post(
    url => rtrim(v_url, '/') || '/jobs/' || call_jobs_function.path,
    headers => jsonb_build_object('content-type', 'application/json', 'x-job-token', v_token),
    timeout_milliseconds => 60000);
end $$;
comment on function private.call_jobs_function(text) is
  'Has pg_net call an endpoint of the function jobs with private.job_token. Without address or key it calls nothing and raises one low security event a day.';

create function private.call_send_mails() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.write_mail_digests();
  select private.call_jobs_function('send-mails')
  where exists (select from private.mails m where m.state = 'waiting' and m.next_attempt_at <= now())
$$;
comment on function private.call_send_mails() is 'Writes the digests that are due, and calls the sender of mails when there is one to send.';

create function private.call_archive_audit() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.call_jobs_function('archive-audit')
  where exists (
    select from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC'
        < now() - make_interval(days => (private.setting('audit.online_days'))::integer))
$$;
comment on function private.call_archive_audit() is 'Calls the archiver when a month is due.';

create function private.delete_old_messages() returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  delete from private.mails m
  where m.state in ('sent', 'dead') and m.created_at < now() - make_interval(days => (private.setting('mail.keep_days'))::integer);
  delete from public.notifications n
  where n.created_at < now() - make_interval(days => (private.setting('notifications.keep_days'))::integer);
  delete from private.notice_counts n where n.hour_ends_at < now() - interval '1 day' and n.mails_held = 0;
  perform private.delete_old_undo_links();
  delete from private.security_events e
  where e.last_seen_at < now() - make_interval(days => (private.setting('security.keep_days'))::integer);
end $$;
comment on function private.delete_old_messages() is
  'Deletes finished mails, notifications and security events that are older than their settings say, counts of hours that are over, and links of mails that are over.';

-- policies/70_audit.sql ===============================================================================================

create policy "owners see what was done to their account"
  on private.audit_log for select to authenticated
  using (user_id = (select private.my_user_id()) or (select private.is_admin()));

create policy "owners see their security events, admins all"
  on private.security_events for select to authenticated
  using (user_id = (select private.my_user_id()) or (select private.is_admin()));

-- policies/72_notifications.sql =======================================================================================

create policy "owners see their notifications"
  on public.notifications for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners mark their notifications as read"
  on public.notifications for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their notifications"
  on public.notifications for delete to authenticated
  using (user_id = (select private.my_user_id()));
