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
