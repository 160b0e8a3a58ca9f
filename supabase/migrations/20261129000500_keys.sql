-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/50_api_keys.sql =================================================================================================

-- API keys: how services call in a user's name. The secret is shown once; what is kept is its SHA-256.

insert into private.settings (key, value, rule, description) values
  ('api_keys.environment', '"live"', '{"type": "string", "pattern": "^[a-z]{1,20}$"}', 'The part of a new API key after pal_: lower-case letters, such as live, test or local, by which people and scanners know where it belongs.'),
  ('api_keys.keep_days', '90', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that API keys are kept that were revoked or have expired; their places are free then.'),
  ('api_keys.max_per_user', '20', '{"type": "integer", "minimum": 0, "maximum": 10000}', 'How many API keys that are neither revoked nor expired a user can have.'),
  ('api_keys.last_used_minutes', '5', '{"type": "integer", "minimum": 0, "maximum": 10080}', 'How old the noted last use of an API key may be; fewer minutes mean more writes.'),
  ('api_keys.signature_window_seconds', '300', '{"type": "integer", "minimum": 1, "maximum": 3600}', 'How far the time of a signed request may be from ours, in seconds.')
on conflict (key) do nothing;

create table public.api_keys (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  name text not null check (length(name) between 1 and 100),
  prefix text not null check (length(prefix) between 8 and 40),
  scopes text[] not null check (
    cardinality(scopes) >= 1 and cardinality(scopes) <= 4
    and scopes <@ array['chat.completions', 'embeddings', 'images.generations', 'models']),
  allowed_cidrs cidr[] not null default '{}' check (cardinality(allowed_cidrs) <= 20),
  signing_required boolean not null default false,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  session_id uuid,
  created_at timestamptz not null default now()
);
comment on table public.api_keys is 'What owners know of their API keys; the secrets'' hashes are in private.api_key_secrets. Written by functions only.';
comment on column public.api_keys.prefix is 'The beginning of the newest secret, by which its owner knows it.';
comment on column public.api_keys.scopes is 'The endpoints that the key may call.';
comment on column public.api_keys.allowed_cidrs is 'Networks the key may be used from; empty: anywhere.';
comment on column public.api_keys.signing_required is 'Whether requests with this key must be signed: see sign_api_key.';
comment on column public.api_keys.last_used_at is 'Within api_keys.last_used_minutes, so that not every call writes it.';
comment on column public.api_keys.session_id is
  'The session that made the newest secret; null for older keys. It may be over. No foreign key: the Auth service''s deletions stay its own.';
create index api_keys_user_id_idx on public.api_keys (user_id);
alter table public.api_keys enable row level security;
alter table public.api_keys force row level security;
revoke all on public.api_keys from anon, authenticated, service_role;
grant select on public.api_keys to authenticated, service_role;
create trigger tg_api_keys__limit_added after insert on public.api_keys referencing new table as added
  for each statement execute function private.tg__limit_rows('api_keys');
create trigger tg_api_keys__limit_removed after delete on public.api_keys referencing old table as removed
  for each statement execute function private.tg__limit_rows('api_keys');

create table private.api_key_secrets (
  secret_hash bytea primary key check (octet_length(secret_hash) = 32),
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  valid_until timestamptz,
  created_at timestamptz not null default now()
);
comment on table private.api_key_secrets is 'SHA-256 of every secret of a key: the newest, and older ones during the overlap of a rotation. 160 random bits need no slow hash.';
comment on column private.api_key_secrets.valid_until is 'Null: the newest secret, valid as long as the key.';
create index api_key_secrets_api_key_id_idx on private.api_key_secrets (api_key_id);
revoke all on private.api_key_secrets from anon, authenticated, service_role;

create table public.api_key_limits (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  meter text not null check (meter in ('ai_requests', 'ai_concurrency', 'ai_calls', 'ai_tokens', 'ai_spend_micros')),
  period text not null check (period in ('minute', 'day', 'month', 'total')),
  amount bigint not null check (amount >= 0),
  primary key (api_key_id, meter, period)
);
comment on table public.api_key_limits is 'What a key may use beside what its owner may use: the smaller counts. Periods are the owner''s. Written by functions only.';
comment on column public.api_key_limits.amount is 'Units of the meter: calls, tokens, micro-dollars.';
alter table public.api_key_limits enable row level security;
alter table public.api_key_limits force row level security;
revoke all on public.api_key_limits from anon, authenticated, service_role;
grant select on public.api_key_limits to authenticated, service_role;

create table private.api_key_usage (
  api_key_id uuid primary key references public.api_keys (id) on delete cascade,
  ai_requests_used bigint not null default 0,
  minute_resets_at timestamptz not null default '-infinity',
  ai_concurrency_held bigint not null default 0,
  ai_calls_used bigint not null default 0,
  ai_calls_held bigint not null default 0,
  day_resets_at timestamptz not null default '-infinity',
  ai_tokens_used bigint not null default 0,
  ai_tokens_held bigint not null default 0,
  ai_spend_micros_used bigint not null default 0,
  ai_spend_micros_held bigint not null default 0,
  month_resets_at timestamptz not null default '-infinity',
  constraint api_key_usage_check check (
    ai_concurrency_held >= 0 and ai_calls_used >= 0 and ai_calls_held >= 0 and ai_tokens_used >= 0 and ai_tokens_held >= 0
    and ai_spend_micros_used >= 0 and ai_spend_micros_held >= 0)
) with (fillfactor = 50);
comment on table private.api_key_usage is
  'What each key used and holds, as in private.accounts, in its owner''s periods: what belongs to an earlier one counts as nothing. Protected by the owner''s lock.';
revoke all on private.api_key_usage from anon, authenticated, service_role;

create table private.api_key_signing_secrets (
  api_key_id uuid primary key references public.api_keys (id) on delete cascade,
  vault_id uuid not null unique,
  created_at timestamptz not null default now()
);
comment on table private.api_key_signing_secrets is 'Which secret in Vault verifies the signatures of a key. Unlike the key itself it must be readable, so it is encrypted, not hashed.';
revoke all on private.api_key_signing_secrets from anon, authenticated, service_role;

create table private.used_signatures (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  message_id text not null check (length(message_id) between 1 and 255),
  expires_at timestamptz not null,
  primary key (api_key_id, message_id)
);
comment on table private.used_signatures is 'Signed requests that were admitted, as long as their time would still be accepted: none is admitted twice.';
create index used_signatures_expires_at_idx on private.used_signatures (expires_at);
revoke all on private.used_signatures from anon, authenticated, service_role;

create function private.tg_api_key_signing_secrets__forget() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: Vault belongs to the project's owner.
begin
  delete from vault.secrets s where s.id = old.vault_id;
  return null;
end $$;
comment on function private.tg_api_key_signing_secrets__forget() is 'Takes the secret out of Vault when its key is revoked or erased.';
create trigger tg_api_key_signing_secrets__forget after delete on private.api_key_signing_secrets
  for each row execute function private.tg_api_key_signing_secrets__forget();

-- Secrets --------------------------------------------------------------------------------------------------------------

create function private.new_api_key_secret() returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_bytes bytea := extensions.gen_random_bytes(32);
  v_secret text := 'pal_' || (private.setting('api_keys.environment') #>> '{}') || '_';
begin
  for i in 0..31 loop
    v_secret := v_secret || substr('0123456789abcdefghjkmnpqrstvwxyz', get_byte(v_bytes, i) % 32 + 1, 1);
  end loop;
  return v_secret || left(encode(sha256(convert_to(v_secret, 'UTF8')), 'hex'), 8);
end $$;
comment on function private.new_api_key_secret() is
  'pal_ENVIRONMENT_, 160 random bits in 32 characters, and a checksum: the first eight hex digits of the SHA-256 of all before it, by which scanners know a leaked key and the gateway a mistyped one.';

create function private.add_api_key_secret(api_key_id uuid) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_secret text := private.new_api_key_secret();
begin
  insert into private.api_key_secrets (secret_hash, api_key_id)
  values (sha256(convert_to(v_secret, 'UTF8')), add_api_key_secret.api_key_id);
  perform private.count_rows(k.user_id, 'api_key_secrets', 1, 0) from public.api_keys k where k.id = add_api_key_secret.api_key_id;
  update public.api_keys k set prefix = left(v_secret, -32) where k.id = add_api_key_secret.api_key_id;
  return v_secret;
end $$;
comment on function private.add_api_key_secret(uuid) is 'Gives a key a new secret and answers it, this once. The prefix is what stands before the last 32 characters: eight of the random ones.';

-- Functions of the API -------------------------------------------------------------------------------------------------

create function private.make_api_key(name text, scopes text[], expires_at timestamptz, allowed_cidrs text[])
returns table (id uuid, prefix text, secret text)
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: keys are written by functions only.
declare
  v_user_id uuid := private.require_user();
  v_id uuid := private.uuid_v7();
  v_cidr text;
begin
  perform private.require_aal2();
  perform private.require_recent_sign_in(v_user_id, private.my_session_id());
  perform private.require_unrestricted(v_user_id);
  if private.text_or_null(make_api_key.name, 100) is null then
    perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
  end if;
  if coalesce(cardinality(make_api_key.scopes) between 1 and 4
    and make_api_key.scopes <@ array['chat.completions', 'embeddings', 'images.generations', 'models'], false) is not true then
    perform private.raise_error('invalid_request_error',
      'scopes must be one or more of chat.completions, embeddings, images.generations and models.');
  end if;
  if make_api_key.expires_at <= now() then
    perform private.raise_error('invalid_request_error', 'expires_at must be in the future, or null for a key that does not expire.');
  end if;
  if cardinality(make_api_key.allowed_cidrs) > 20 then
    perform private.raise_error('invalid_request_error', 'allowed_cidrs can hold 20 networks.');
  end if;
  foreach v_cidr in array coalesce(make_api_key.allowed_cidrs, '{}') loop
    if private.cidr_or_null(v_cidr) is null then
      perform private.raise_error('invalid_request_error',
        'allowed_cidrs must hold networks such as 203.0.113.0/24 or 2001:db8::/32, without bits set to the right of the prefix.');
    end if;
  end loop;
  -- Keys of one user are made one after the other, so that the limit holds.
  perform private.lock_account(v_user_id);
  if (select count(*) from public.api_keys k where k.user_id = v_user_id and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > now())) >= (private.setting('api_keys.max_per_user'))::integer then
    perform private.raise_error('invalid_request_error',
      format('You have %s keys, and more are not possible. Revoke one first.', private.setting('api_keys.max_per_user')));
  end if;
  insert into public.api_keys (id, user_id, name, prefix, scopes, expires_at, allowed_cidrs, session_id)
  values (v_id, v_user_id, private.text_or_null(make_api_key.name, 100), 'pal_new_key', make_api_key.scopes,
    make_api_key.expires_at, coalesce(make_api_key.allowed_cidrs, '{}')::cidr[], private.my_session_id());
  secret := private.add_api_key_secret(v_id);
  select k.id, k.prefix into id, prefix from public.api_keys k where k.id = v_id;
  perform private.audit(action => 'api_key.create', resource_type => 'api_key', resource_id => v_id::text, user_id => v_user_id,
    details => jsonb_build_object('prefix', prefix, 'scopes', make_api_key.scopes));
  perform private.tell_of_change(v_user_id, 'api_key_created', v_id, jsonb_build_object('name', prefix));
  return next;
end $$;
comment on function private.make_api_key(text, text[], timestamptz, text[]) is 'Behind public.create_api_key.';
grant execute on function private.make_api_key(text, text[], timestamptz, text[]) to authenticated;

create function public.create_api_key(
  name text, scopes text[], expires_at timestamptz default null, allowed_cidrs text[] default '{}'
) returns table (id uuid, prefix text, secret text)
language sql volatile security invoker set search_path = ''
as $$
  select * from private.make_api_key(
    create_api_key.name, create_api_key.scopes, create_api_key.expires_at, create_api_key.allowed_cidrs)
$$;
comment on function public.create_api_key(text, text[], timestamptz, text[]) is
  'Makes an API key for the caller and answers {id, prefix, secret}, the secret this once; needs a recent sign-in. Its scopes are some of chat.completions, embeddings, images.generations and models.';
grant execute on function public.create_api_key(text, text[], timestamptz, text[]) to authenticated;

create function private.renew_api_key(id uuid, overlap_seconds integer)
returns table (prefix text, secret text, old_valid_until timestamptz)
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: keys are written by functions only.
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  perform private.require_recent_sign_in(v_user_id, private.my_session_id());
  perform private.require_unrestricted(v_user_id);
  if coalesce(overlap_seconds not between 0 and 604800, true) then
    perform private.raise_error('invalid_request_error', 'overlap_seconds must be from 0 to 604800, a week.');
  end if;
  perform from public.api_keys k
  where k.id = renew_api_key.id and k.user_id = v_user_id and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
  for update;
  if not found then
    perform private.raise_error('not_found', 'You have no such key, or it is revoked or expired.');
  end if;
  old_valid_until := now() + make_interval(secs => overlap_seconds);
  update private.api_key_secrets s set valid_until = least(s.valid_until, old_valid_until) where s.api_key_id = renew_api_key.id;
  delete from private.api_key_secrets s where s.api_key_id = renew_api_key.id and s.valid_until <= now();
  secret := private.add_api_key_secret(renew_api_key.id);
  update public.api_keys k set session_id = private.my_session_id() where k.id = renew_api_key.id returning k.prefix into prefix;
  perform private.audit(action => 'api_key.rotate', resource_type => 'api_key', resource_id => renew_api_key.id::text,
    user_id => v_user_id, details => jsonb_build_object('prefix', prefix, 'overlap_seconds', overlap_seconds));
  perform private.tell_of_change(v_user_id, 'api_key_created', renew_api_key.id, jsonb_build_object('name', prefix));
  return next;
end $$;
comment on function private.renew_api_key(uuid, integer) is 'Behind public.rotate_api_key.';
grant execute on function private.renew_api_key(uuid, integer) to authenticated;

create function public.rotate_api_key(id uuid, overlap_seconds integer default 86400)
returns table (prefix text, secret text, old_valid_until timestamptz)
language sql volatile security invoker set search_path = ''
as $$ select * from private.renew_api_key(rotate_api_key.id, rotate_api_key.overlap_seconds) $$;
comment on function public.rotate_api_key(uuid, integer) is
  'Gives a key of the caller''s a new secret, shown this once; needs a recent sign-in: {prefix, secret, old_valid_until}. The old one works for overlap_seconds more: a day by default, 0 to a week.';
grant execute on function public.rotate_api_key(uuid, integer) to authenticated;

create function private.close_api_keys(ids uuid[]) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_closed uuid[];
begin
  with closed as (
    update public.api_keys k set revoked_at = now() where k.id = any (close_api_keys.ids) and k.revoked_at is null returning k.id)
  select array_agg(c.id) into v_closed from closed c;
  delete from private.api_key_secrets s where s.api_key_id = any (v_closed);
  delete from private.api_key_signing_secrets s where s.api_key_id = any (v_closed);
  return coalesce(cardinality(v_closed), 0);
end $$;
comment on function private.close_api_keys(uuid[]) is 'Ends keys at once and for good, and forgets their secrets. Answers how many were not ended before.';

create function private.revoke_keys_with_sessions(user_id uuid, keys text, ended jsonb, kept uuid[]) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_since timestamptz := (select min(e.value::timestamptz) from jsonb_each_text(revoke_keys_with_sessions.ended) e);
  v_revoked integer;
begin
  v_revoked := private.close_api_keys(array(
    select k.id from public.api_keys k
    where k.user_id = revoke_keys_with_sessions.user_id and k.revoked_at is null
      and (revoke_keys_with_sessions.keys = 'all' or (
        revoke_keys_with_sessions.keys = 'session' and (k.session_id = any (revoke_keys_with_sessions.kept)) is not true
        -- By the newest secret: who renews a key has what works.
        and (revoke_keys_with_sessions.ended ? k.session_id::text or exists (
          select from private.api_key_secrets s where s.api_key_id = k.id and s.created_at >= v_since))))));
  if v_revoked > 0 then
    perform private.audit(action => 'api_key.revoke_with_sessions', resource_type => 'account',
      resource_id => revoke_keys_with_sessions.user_id::text, user_id => revoke_keys_with_sessions.user_id,
      details => jsonb_build_object('keys', revoke_keys_with_sessions.keys, 'revoked', v_revoked));
  end if;
  return v_revoked;
end $$;
comment on function private.revoke_keys_with_sessions(uuid, text, jsonb, uuid[]) is
  'Revokes the API keys that go with ended sessions ({id: when it began}). keys: session, those that one of them made or that were made since the first began, unless by a session that is kept; all; none. Answers how many.';

create function private.close_api_key(id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: keys are written by functions only.
declare
  v_user_id uuid := private.require_user();
begin
  if not exists (select from public.api_keys k where k.id = close_api_key.id and k.user_id = v_user_id) then
    perform private.raise_error('not_found', 'You have no such key.');
  end if;
  if private.close_api_keys(array[close_api_key.id]) > 0 then
    perform private.audit(action => 'api_key.revoke', resource_type => 'api_key', resource_id => close_api_key.id::text,
      user_id => v_user_id);
  end if;
end $$;
comment on function private.close_api_key(uuid) is 'Behind public.revoke_api_key.';
grant execute on function private.close_api_key(uuid) to authenticated;

create function public.revoke_api_key(id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.close_api_key(revoke_api_key.id) $$;
comment on function public.revoke_api_key(uuid) is
  'Ends a key of the caller''s at once and for good; a repeated call changes nothing.';
grant execute on function public.revoke_api_key(uuid) to authenticated;

create function private.set_api_key_limit(id uuid, meter text, period text, amount bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: limits are written by functions only.
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  if not exists (select from public.api_keys k where k.id = set_api_key_limit.id and k.user_id = v_user_id) then
    perform private.raise_error('not_found', 'You have no such key.');
  elsif not exists (
    select from private.meters m
    where m.meter = set_api_key_limit.meter and m.period = set_api_key_limit.period
      and m.meter in ('ai_requests', 'ai_concurrency', 'ai_calls', 'ai_tokens', 'ai_spend_micros')
  ) then
    perform private.raise_error('invalid_request_error',
      'meter and period must be ai_requests/minute, ai_concurrency/total, ai_calls/day, ai_tokens/month or ai_spend_micros/month.');
  elsif set_api_key_limit.amount < 0 then
    perform private.raise_error('invalid_request_error', 'amount must not be negative; null takes the limit away.');
  elsif set_api_key_limit.amount is null then
    delete from public.api_key_limits l
    where l.api_key_id = set_api_key_limit.id and l.meter = set_api_key_limit.meter and l.period = set_api_key_limit.period;
  else
    insert into public.api_key_limits as l (api_key_id, meter, period, amount)
    values (set_api_key_limit.id, set_api_key_limit.meter, set_api_key_limit.period, set_api_key_limit.amount)
    on conflict on constraint api_key_limits_pkey do update set amount = excluded.amount;
  end if;
  perform private.audit(action => 'api_key.limit', resource_type => 'api_key', resource_id => set_api_key_limit.id::text,
    user_id => v_user_id, details => jsonb_build_object(
      'meter', set_api_key_limit.meter, 'period', set_api_key_limit.period, 'amount', set_api_key_limit.amount));
end $$;
comment on function private.set_api_key_limit(uuid, text, text, bigint) is 'Behind public.limit_api_key.';
grant execute on function private.set_api_key_limit(uuid, text, text, bigint) to authenticated;

create function public.limit_api_key(id uuid, meter text, period text, amount bigint) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.set_api_key_limit(limit_api_key.id, limit_api_key.meter, limit_api_key.period, limit_api_key.amount) $$;
comment on function public.limit_api_key(uuid, text, text, bigint) is
  'Gives a key of the caller''s a limit of its own from its next call on, or takes it away (amount null): ai_requests/minute, ai_concurrency/total, ai_calls/day, ai_tokens/month or ai_spend_micros/month.';
grant execute on function public.limit_api_key(uuid, text, text, bigint) to authenticated;

create function private.set_api_key_signing(id uuid, required boolean) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: keys are written by functions only.
declare
  v_user_id uuid := private.require_user();
  v_secret text;
begin
  perform private.require_aal2();
  perform from public.api_keys k
  where k.id = set_api_key_signing.id and k.user_id = v_user_id and k.revoked_at is null for update;
  if not found then
    perform private.raise_error('not_found', 'You have no such key, or it is revoked.');
  end if;
  delete from private.api_key_signing_secrets s where s.api_key_id = set_api_key_signing.id;
  if coalesce(required, true) then
    v_secret := 'whsec_' || encode(extensions.gen_random_bytes(32), 'base64');
    insert into private.api_key_signing_secrets (api_key_id, vault_id)
    values (set_api_key_signing.id, vault.create_secret(v_secret, 'api_key_signing:' || gen_random_uuid()));
  end if;
  update public.api_keys k set signing_required = v_secret is not null where k.id = set_api_key_signing.id;
  perform private.audit(action => 'api_key.sign', resource_type => 'api_key', resource_id => set_api_key_signing.id::text,
    user_id => v_user_id, details => jsonb_build_object('required', v_secret is not null));
  return v_secret;
end $$;
comment on function private.set_api_key_signing(uuid, boolean) is 'Behind public.sign_api_key.';
grant execute on function private.set_api_key_signing(uuid, boolean) to authenticated;

create function public.sign_api_key(id uuid, required boolean default true) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.set_api_key_signing(sign_api_key.id, sign_api_key.required) $$;
comment on function public.sign_api_key(uuid, boolean) is
  'Demands that requests with a key of the caller''s are signed by Standard Webhooks, and answers the new secret (whsec_...), this once. With required false it forgets the secret and demands it no longer.';
grant execute on function public.sign_api_key(uuid, boolean) to authenticated;

-- What a key is worth ----------------------------------------------------------------------------------------------------

create function private.check_signature(key public.api_keys, signature jsonb) returns text
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_id text := signature ->> 'id';
  v_timestamp text := signature ->> 'timestamp';
  v_window interval := make_interval(secs => (private.setting('api_keys.signature_window_seconds'))::integer);
  v_secret text;
  v_expected bytea;
  v_blind bytea := extensions.gen_random_bytes(32);
  v_is_valid boolean;
begin
  if signature is null or jsonb_typeof(signature) = 'null' then
    return case when key.signing_required then 'Requests with this API key must be signed: send webhook-id, webhook-timestamp and webhook-signature.' end;
  end if;
  select d.decrypted_secret into v_secret
  from private.api_key_signing_secrets s join vault.decrypted_secrets d on d.id = s.vault_id where s.api_key_id = key.id;
  if v_secret is null then
    return 'This API key has no signing secret; sign_api_key makes one.';
  elsif v_timestamp !~ '^[0-9]{1,12}$' or to_timestamp(v_timestamp::bigint) not between now() - v_window and now() + v_window then
    return 'webhook-timestamp must be the time of the request in Unix seconds, at most five minutes off.';
  end if;
  v_expected := extensions.hmac(
    convert_to(v_id || '.' || v_timestamp || '.', 'UTF8') || decode(signature ->> 'content', 'base64'),
    decode(substr(v_secret, 7), 'base64'), 'sha256');
  -- Compared blinded, so that the time it takes tells nothing about the expected bytes.
  select coalesce(bool_or(
    extensions.hmac(convert_to(s.value, 'UTF8'), v_blind, 'sha256')
    = extensions.hmac(convert_to('v1,' || encode(v_expected, 'base64'), 'UTF8'), v_blind, 'sha256')), false)
  into v_is_valid from jsonb_array_elements_text(signature -> 'signatures') s;
  if not v_is_valid then
    return 'The signature is not that of this request: sign "webhook-id.webhook-timestamp.body" with HMAC-SHA256.';
  elsif exists (select from private.used_signatures u where u.api_key_id = key.id and u.message_id = v_id) then
    return 'This signed request was admitted before.';
  end if;
  return null;
end $$;
comment on function private.check_signature(public.api_keys, jsonb) is
  'Null when {id, timestamp, signatures, content (base64)} is signed with the key''s signing secret, by the scheme of Standard Webhooks, lately, and not used yet, or when there is none and none is needed; else what is wrong with it.';

create function private.check_api_key(
  secret_hash bytea, scope text, ip inet, signature jsonb, out user_id uuid, out api_key_id uuid, out refusal jsonb
)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_key public.api_keys;
  v_problem text;
begin
  select k.* into v_key from private.api_key_secrets s join public.api_keys k on k.id = s.api_key_id
  where s.secret_hash = check_api_key.secret_hash and (s.valid_until is null or s.valid_until > now());
  if not found or v_key.revoked_at is not null then
    refusal := jsonb_build_object('code', 'invalid_api_key', 'message', 'There is no such API key, or it was revoked or replaced.');
  elsif v_key.expires_at <= now() then
    refusal := jsonb_build_object('code', 'invalid_api_key', 'message', 'This API key has expired.');
  elsif cardinality(v_key.allowed_cidrs) > 0
    and (check_api_key.ip is null or not check_api_key.ip <<= any (v_key.allowed_cidrs)) then
    refusal := jsonb_build_object('code', 'not_allowed', 'message', 'This API key may not be used from this address.');
  elsif check_api_key.scope <> all (v_key.scopes) then
    refusal := jsonb_build_object('code', 'not_allowed', 'message', format('This API key lacks the scope %s.', check_api_key.scope));
  else
    v_problem := private.check_signature(v_key, signature);
    if v_problem is not null then
      refusal := jsonb_build_object('code', 'invalid_signature', 'message', v_problem);
    end if;
  end if;
  if refusal is not null then
    return;
  end if;
  user_id := v_key.user_id;
  api_key_id := v_key.id;
  if v_key.last_used_at is null
    or v_key.last_used_at < now() - make_interval(mins => (private.setting('api_keys.last_used_minutes'))::integer) then
    -- Whoever else notes it at this moment has done it for both.
    update public.api_keys k set last_used_at = now() where k.id in (
      select o.id from public.api_keys o where o.id = v_key.id for no key update skip locked);
  end if;
end $$;
comment on function private.check_api_key(bytea, text, inet, jsonb) is
  'Whose key has this SHA-256, when it is valid now, for this scope, from this address, and signed if it must be; else refusal {code, message}. Says nothing of the account: see check_account.';

create function private.report_signature_failure(secret_hash bytea, ip inet) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_key public.api_keys;
begin
  select k.* into v_key from private.api_key_secrets s join public.api_keys k on k.id = s.api_key_id
  where s.secret_hash = report_signature_failure.secret_hash;
  if found then
    perform private.raise_security_event('signature_failure', 'high', v_key.user_id,
      jsonb_build_object('api_key_id', v_key.id, 'prefix', v_key.prefix), dedupe_key => v_key.id::text, ip => report_signature_failure.ip);
  end if;
end $$;
comment on function private.report_signature_failure(bytea, inet) is
  'A security event for the owner of a key: somebody who has it sent a request whose signature is missing, wrong, old or used. In a transaction of its own, because the audit log has a lock that must not be held while an account is waited for.';
grant execute on function private.report_signature_failure(bytea, inet) to palisade_gateway;

-- What a key used ------------------------------------------------------------------------------------------------------

create view private.api_key_counters with (security_invoker = true) as
select k.id as api_key_id, m.position, m.meter, m.period, m.is_held,
  case when m.is_running then m.used else 0 end as used, case when m.is_running then m.held else 0 end as held, m.resets_at, l.amount
from public.api_keys k
  join private.accounts a on a.user_id = k.user_id
  left join private.api_key_usage u on u.api_key_id = k.id
  cross join lateral (values
    (1, 'ai_requests', 'minute', false, u.ai_requests_used, 0, a.minute_resets_at, u.minute_resets_at = a.minute_resets_at and a.minute_resets_at > now()),
    (2, 'ai_concurrency', 'total', true, 0, u.ai_concurrency_held, 'infinity', u.api_key_id is not null),
    (3, 'ai_calls', 'day', true, u.ai_calls_used, u.ai_calls_held, a.day_resets_at, u.day_resets_at = a.day_resets_at),
    (4, 'ai_tokens', 'month', true, u.ai_tokens_used, u.ai_tokens_held, a.month_resets_at, u.month_resets_at = a.month_resets_at),
    (5, 'ai_spend_micros', 'month', true, u.ai_spend_micros_used, u.ai_spend_micros_held, a.month_resets_at, u.month_resets_at = a.month_resets_at)
  ) m (position, meter, period, is_held, used, held, resets_at, is_running)
  left join public.api_key_limits l on l.api_key_id = k.id and l.meter = m.meter and l.period = m.period;
comment on view private.api_key_counters is
  'The meters of every API key as rows, as private.ai_counters has those of accounts: units used and held in the owner''s running periods, and the key''s own limit (amount null: none).';
revoke all on private.api_key_counters from anon, authenticated, service_role;

create function private.key_shortage(request private.ai_request, user_id uuid, api_key_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_refusal jsonb;
begin
  select private.limit_refusal(c.meter, c.period, c.is_held, c.amount, c.used, c.held, c.resets_at, c.units) into v_refusal
  from (
    select c.*, case c.meter
      when 'ai_tokens' then request.prompt_tokens + request.output_tokens when 'ai_spend_micros' then request.micros else 1 end as units
    from private.api_key_counters c where c.api_key_id = key_shortage.api_key_id) c
  where c.used + c.held + c.units > c.amount
  order by c.position limit 1;
  return v_refusal || jsonb_build_object('message', 'This API key: ' || (v_refusal ->> 'message'));
end $$;
comment on function private.key_shortage(private.ai_request, uuid, uuid) is
  'The first limit of an API key that a call does not fit, as {code, message, details}; null when all of it fits. The caller holds the owner''s lock.';

create function private.take_key_units(request private.ai_request, user_id uuid, api_key_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.api_key_usage (api_key_id) values (take_key_units.api_key_id) on conflict do nothing;
  -- The owner's periods have begun: what belongs to another is over.
  update private.api_key_usage u set
    ai_requests_used = case when u.minute_resets_at = a.minute_resets_at then u.ai_requests_used else 0 end + 1,
    minute_resets_at = a.minute_resets_at,
    ai_concurrency_held = u.ai_concurrency_held + 1,
    ai_calls_used = case when u.day_resets_at = a.day_resets_at then u.ai_calls_used else 0 end,
    ai_calls_held = case when u.day_resets_at = a.day_resets_at then u.ai_calls_held else 0 end + 1,
    day_resets_at = a.day_resets_at,
    ai_tokens_used = case when u.month_resets_at = a.month_resets_at then u.ai_tokens_used else 0 end,
    ai_tokens_held = case when u.month_resets_at = a.month_resets_at then u.ai_tokens_held else 0 end + request.prompt_tokens + request.output_tokens,
    ai_spend_micros_used = case when u.month_resets_at = a.month_resets_at then u.ai_spend_micros_used else 0 end,
    ai_spend_micros_held = case when u.month_resets_at = a.month_resets_at then u.ai_spend_micros_held else 0 end + request.micros,
    month_resets_at = a.month_resets_at
  from private.accounts a
  where u.api_key_id = take_key_units.api_key_id and a.user_id = take_key_units.user_id;
end $$;
comment on function private.take_key_units(private.ai_request, uuid, uuid) is
  'Counts an admitted call for the API key that made it. The caller holds the owner''s lock and has asked private.key_shortage.';

create function private.return_key_units(ended private.ai_ended[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- What belongs to a period that the key is no longer in went with it.
  update private.api_key_usage u set
    ai_concurrency_held = u.ai_concurrency_held - f.calls,
    ai_calls_held = u.ai_calls_held - f.held_calls,
    ai_calls_used = u.ai_calls_used + f.used_calls,
    ai_tokens_held = u.ai_tokens_held - f.held_tokens,
    ai_tokens_used = u.ai_tokens_used + f.used_tokens,
    ai_spend_micros_held = u.ai_spend_micros_held - f.held_micros,
    ai_spend_micros_used = u.ai_spend_micros_used + f.used_micros
  from (
    select e.api_key_id, count(*) as calls,
      count(*) filter (where e.day_resets_at = k.day_resets_at) as held_calls,
      count(*) filter (where e.day_resets_at = k.day_resets_at and e.is_charged) as used_calls,
      coalesce(sum(e.hold_tokens) filter (where e.month_resets_at = k.month_resets_at), 0)::bigint as held_tokens,
      coalesce(sum(e.prompt_tokens + coalesce(e.completion_tokens, 0)) filter (where e.month_resets_at = k.month_resets_at), 0)::bigint as used_tokens,
      coalesce(sum(e.hold_micros) filter (where e.month_resets_at = k.month_resets_at), 0)::bigint as held_micros,
      coalesce(sum(e.cost_micros) filter (where e.month_resets_at = k.month_resets_at), 0)::bigint as used_micros
    from unnest(ended) e join private.api_key_usage k on k.api_key_id = e.api_key_id
    group by e.api_key_id) f
  where u.api_key_id = f.api_key_id;
end $$;
comment on function private.return_key_units(private.ai_ended[]) is
  'Gives back what ended calls held of their API keys'' limits, and counts what they used. The caller holds the owners'' locks.';

create function private.delete_old_signatures() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.used_signatures u where u.expires_at < now();
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_signatures() is 'Forgets signatures whose time has passed. A job runs it. Answers how many.';

create function private.delete_old_api_keys() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from public.api_keys k
  where least(k.revoked_at, k.expires_at) < now() - make_interval(days => (private.setting('api_keys.keep_days'))::integer);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_api_keys() is
  'Forgets API keys that were revoked or expired api_keys.keep_days ago; their calls stay in ai_calls. A job runs it. Answers how many.';

-- sql/54_credentials.sql ==============================================================================================

-- Credentials: users' own keys of exchanges and AI providers. What the owner sees is in public.credentials; the secrets are sealed
-- in private.credential_secrets. Only this file names pgsodium: seal, unseal and the two functions that make and end data keys.

insert into private.settings (key, value, rule, description) values
  ('credentials.scheme', '"aead-det"', '{"enum": ["aead-det", "A256CBC-HS512"]}', 'How new data keys seal credentials: aead-det (pgsodium) or A256CBC-HS512 (pgcrypto, the key in Vault). A rotation moves everything to it.'),
  ('credentials.max_per_user', '20', '{"type": "integer", "minimum": 0, "maximum": 10000}', 'How many credentials of exchanges and AI providers a user can have.'),
  ('credentials.changes_per_hour', '20', '{"type": "integer", "minimum": 1, "maximum": 100000}', 'How often a user can add a credential or change a key within an hour.'),
  ('credentials.test_pause_seconds', '10', '{"type": "integer", "minimum": 0, "maximum": 86400}', 'How long a credential rests between two tests of it.')
on conflict (key) do nothing;

create extension if not exists pgsodium;

-- Exchanges ---------------------------------------------------------------------------------------------------------------

create table private.exchanges (
  id text primary key check (id ~ '^[a-z0-9]{2,40}$'),
  name text not null check (length(name) between 1 and 80),
  enabled boolean not null default true,
  base_url text check (base_url ~ '^https?://' and length(base_url) <= 200),
  price_asset text check (length(price_asset) between 1 and 40)
);
comment on table private.exchanges is 'Exchanges that users can connect: one row each, by the id that ccxt has for it.';
comment on column private.exchanges.base_url is 'Another address than the exchange''s own, such as the local stand-in''s; null: the exchange''s own.';
comment on column private.exchanges.price_asset is
  'What assets are priced in where the exchange has no market in the portfolio currency, such as USDT on Binance: one of it counts as one of the currency. Null: the currency itself.';
revoke all on private.exchanges from anon, authenticated, service_role;
insert into private.exchanges (id, name, price_asset) values
  ('binance', 'Binance', 'USDT'), ('coinbase', 'Coinbase', null), ('kraken', 'Kraken', null)
on conflict (id) do nothing;

-- Data keys ------------------------------------------------------------------------------------------------------------

create table private.data_keys (
  id uuid primary key default private.uuid_v7(),
  purpose text not null check (purpose in ('credentials', 'transfers')),
  scheme text not null check (scheme in ('aead-det', 'A256CBC-HS512')),
  secret_id uuid not null unique,
  is_current boolean not null default true,
  created_at timestamptz not null default now(),
  retired_at timestamptz,
  unique (id, scheme),
  check (retired_at is null or not is_current)
);
comment on table private.data_keys is 'Which keys seal what: one current key for each purpose; older ones open what they sealed until it is sealed anew. The keys themselves are not here.';
comment on column private.data_keys.scheme is 'aead-det: XChaCha20-SIV by pgsodium. A256CBC-HS512: AES and HMAC by pgcrypto as RFC 7518, 5.2.5, for the day pgsodium leaves.';
comment on column private.data_keys.secret_id is 'aead-det: pgsodium.key.id, derived from the server''s root key. A256CBC-HS512: a secret in Vault, 64 bytes as hex.';
comment on column private.data_keys.retired_at is 'When nothing used it any more. It opens nothing from then on.';
create unique index data_keys_current_idx on private.data_keys (purpose) where is_current;
revoke all on private.data_keys from anon, authenticated, service_role;

create type private.sealed as (scheme text, data_key_id uuid, nonce bytea, ciphertext bytea);
comment on type private.sealed is 'A sealed value as it is stored: scheme and key say how it is opened.';

create table public.credentials (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('exchange', 'ai_provider')),
  provider text not null check (length(provider) between 1 and 80),
  name text not null check (length(name) between 1 and 100),
  last_four text not null check (length(last_four) <= 4),
  permissions text[] not null default '{}' check (cardinality(permissions) <= 20),
  status text not null default 'pending' check (status in ('pending', 'active', 'failed')),
  status_reason text check (length(status_reason) <= 80),
  last_tested_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (id, user_id)
);
comment on table public.credentials is 'What owners see of the keys that they gave us. The keys are in private.credential_secrets, sealed. Written by functions only.';
comment on column public.credentials.provider is 'The exchange''s id, or of an AI provider private.providers.id.';
comment on column public.credentials.last_four is 'The end of the key, by which its owner knows it; empty for a key too short to show any of it.';
comment on column public.credentials.permissions is 'What the provider said the key may do, when it was tested.';
comment on column public.credentials.status_reason is 'Why it is not active, as a code: wrong_key, clock_skew, ip_not_allowed, missing_permission, can_withdraw, rate_limited, exchange_down, provider_down, unknown or unreadable.';
comment on column public.credentials.version is 'Counts the keys that were here, so that a test of an older one cannot speak for a newer.';
create index credentials_user_id_idx on public.credentials (user_id);
alter table public.credentials enable row level security;
alter table public.credentials force row level security;
revoke all on public.credentials from anon, authenticated, service_role;
grant select on public.credentials to authenticated, service_role;
create trigger tg_credentials__timestamps before insert or update on public.credentials
  for each row execute function private.tg__timestamps();

create table private.credential_secrets (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  field text not null check (field in ('api_key', 'api_secret', 'passphrase')),
  scheme text not null,
  data_key_id uuid not null,
  nonce bytea not null check (octet_length(nonce) = 16),
  ciphertext bytea not null check (octet_length(ciphertext) between 32 and 10000),
  created_at timestamptz not null default now(),
  primary key (credential_id, field),
  foreign key (data_key_id, scheme) references private.data_keys (id, scheme) on delete restrict
);
comment on table private.credential_secrets is 'The sealed fields of a credential, bound to their owner, row and field: moved elsewhere they do not open.';
create index credential_secrets_data_key_id_idx on private.credential_secrets (data_key_id, scheme);
revoke all on private.credential_secrets from anon, authenticated, service_role;

create table private.secret_transfers (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  scheme text not null,
  data_key_id uuid not null,
  nonce bytea not null check (octet_length(nonce) = 16),
  ciphertext bytea not null check (octet_length(ciphertext) between 32 and 1000),
  used_at timestamptz,
  created_at timestamptz not null default now(),
  foreign key (data_key_id, scheme) references private.data_keys (id, scheme) on delete restrict
);
comment on table private.secret_transfers is
  'One-time keys under which secrets travel to the database, so that a statement log with parameters holds none in clear. Sealed like everything else, valid for a minute; kept for an hour, because they count.';
create index secret_transfers_user_id_created_at_idx on private.secret_transfers (user_id, created_at);
create index secret_transfers_created_at_idx on private.secret_transfers (created_at);
create index secret_transfers_data_key_id_idx on private.secret_transfers (data_key_id, scheme);
revoke all on private.secret_transfers from anon, authenticated, service_role;

-- Seal and open ----------------------------------------------------------------------------------------------------------

create function private.new_data_key(purpose text) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_id uuid := private.uuid_v7();
  v_scheme text := private.setting('credentials.scheme') #>> '{}';
  v_name text := format('palisade %s %s', new_data_key.purpose, v_id);
  v_secret_id uuid;
begin
  -- One at a time; who seals meanwhile takes the old key, and a later pass of reseal_credentials finds what they sealed.
  perform pg_advisory_xact_lock(hashtextextended('private.data_keys ' || new_data_key.purpose, 0));
  if v_scheme = 'aead-det' then
    select k.id into v_secret_id from pgsodium.create_key(name := v_name) k;
  else
    v_secret_id := vault.create_secret(encode(extensions.gen_random_bytes(64), 'hex'), v_name, 'seals credentials: see private.data_keys');
  end if;
  update private.data_keys k set is_current = false where k.purpose = new_data_key.purpose and k.is_current;
  insert into private.data_keys (id, purpose, scheme, secret_id) values (v_id, new_data_key.purpose, v_scheme, v_secret_id);
  perform private.audit(action => 'data_key.create', resource_type => 'data_key', resource_id => v_id::text,
    details => jsonb_build_object('purpose', new_data_key.purpose, 'scheme', v_scheme));
  return v_id;
end $$;
comment on function private.new_data_key(text) is
  'Makes the key that seals from now on, by the scheme in the setting credentials.scheme. purpose: credentials or transfers. Answers its id. reseal_credentials moves what the old key sealed.';

create function private.current_data_key(purpose text) returns private.data_keys
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_key private.data_keys;
begin
  -- Locked until the transaction ends: a key cannot be retired between the choice and the row that uses it.
  select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
  if not found then
    perform pg_advisory_xact_lock(hashtextextended('private.data_keys ' || current_data_key.purpose, 0));
    select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
    if not found then
      perform private.new_data_key(current_data_key.purpose);
      select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
    end if;
  end if;
  return v_key;
end $$;
comment on function private.current_data_key(text) is 'The key that seals now; the first time it is made.';

create function private.cbc_hmac_tag(mac_key bytea, associated_data bytea, nonce bytea, ciphertext bytea) returns bytea
language plpgsql immutable security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
begin
  return substring(extensions.hmac(
    associated_data || nonce || ciphertext || int8send(8 * octet_length(associated_data)::bigint), mac_key, 'sha512') for 32);
end $$;
comment on function private.cbc_hmac_tag(bytea, bytea, bytea, bytea) is
  'The authentication tag of A256CBC-HS512 (RFC 7518, 5.2.2.1): HMAC-SHA-512 over data, nonce, ciphertext and the data''s length in bits, cut to 32 bytes.';

create function private.seal(plain text, owner uuid, context text, purpose text default 'credentials') returns private.sealed
language plpgsql volatile security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_key private.data_keys := private.current_data_key(seal.purpose);
  v_data bytea := convert_to(seal.owner::text || '/' || seal.context, 'UTF8');
  v_nonce bytea;
  v_secret bytea;
  v_ciphertext bytea;
begin
  if seal.plain is null or seal.owner is null or seal.context is null then
    raise exception using errcode = '22004', message = 'private.seal: plain, owner and context must be given';
  elsif seal.plain = '' then
    -- pgsodium would seal it, and never open it again.
    raise exception using errcode = '22023', message = 'private.seal: there is nothing to seal';
  end if;
  if v_key.scheme = 'aead-det' then
    v_nonce := pgsodium.crypto_aead_det_noncegen();
    v_ciphertext := pgsodium.crypto_aead_det_encrypt(convert_to(seal.plain, 'UTF8'), v_data, v_key.secret_id, v_nonce);
  else
    select decode(s.decrypted_secret, 'hex') into strict v_secret from vault.decrypted_secrets s where s.id = v_key.secret_id;
    v_nonce := extensions.gen_random_bytes(16);
    v_ciphertext := extensions.encrypt_iv(convert_to(seal.plain, 'UTF8'), substring(v_secret from 33), v_nonce, 'aes-cbc/pad:pkcs');
    v_ciphertext := v_ciphertext || private.cbc_hmac_tag(substring(v_secret for 32), v_data, v_nonce, v_ciphertext);
  end if;
  return row(v_key.scheme, v_key.id, v_nonce, v_ciphertext)::private.sealed;
end $$;
comment on function private.seal(text, uuid, text, text) is
  'Encrypts a text under the current key of its purpose, with a random nonce, bound to its owner and context: the table, row and field where it will be. Plans are generic, so that no plan that is logged holds it.';

create function private.unseal(value private.sealed, owner uuid, context text) returns text
language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_key private.data_keys;
  v_data bytea := convert_to(unseal.owner::text || '/' || unseal.context, 'UTF8');
  v_secret bytea;
  v_tag bytea;
  v_once bytea;
begin
  select k.* into v_key from private.data_keys k
  where k.id = (unseal.value).data_key_id and k.scheme = (unseal.value).scheme and k.retired_at is null;
  if not found or (unseal.value).nonce is null or (unseal.value).ciphertext is null then
    return null;
  end if;
  if v_key.scheme = 'aead-det' then
    return convert_from(pgsodium.crypto_aead_det_decrypt(
      (unseal.value).ciphertext, v_data, v_key.secret_id, (unseal.value).nonce), 'UTF8');
  end if;
  select decode(s.decrypted_secret, 'hex') into strict v_secret from vault.decrypted_secrets s where s.id = v_key.secret_id;
  v_tag := private.cbc_hmac_tag(substring(v_secret for 32), v_data, (unseal.value).nonce,
    substring((unseal.value).ciphertext for octet_length((unseal.value).ciphertext) - 32));
  -- Both are hashed under a key that is used once: how long the comparison takes says nothing about the tag.
  v_once := extensions.gen_random_bytes(32);
  if extensions.hmac(v_tag, v_once, 'sha256') is distinct from extensions.hmac(
      substring((unseal.value).ciphertext from octet_length((unseal.value).ciphertext) - 31), v_once, 'sha256') then
    return null;
  end if;
  return convert_from(extensions.decrypt_iv(
    substring((unseal.value).ciphertext for octet_length((unseal.value).ciphertext) - 32),
    substring(v_secret from 33), (unseal.value).nonce, 'aes-cbc/pad:pkcs'), 'UTF8');
exception
  -- What does not verify, is too short, or has a key that is gone. The message of the library goes nowhere.
  when data_exception or no_data_found then return null;
end $$;
comment on function private.unseal(private.sealed, uuid, text) is
  'The text that was sealed for this owner and context; null when it was changed, cut, moved from elsewhere, or its key is unknown or retired. Asks nobody and tells nobody: private.open is the door.';

create function private.secret_context(credential_id uuid, field text) returns text
language sql immutable security invoker set search_path = ''
return 'credential_secrets/' || secret_context.credential_id || '/' || secret_context.field;
comment on function private.secret_context(uuid, text) is 'The place that a sealed field is bound to, beside its owner.';

create function private.open(credential_id uuid, purpose text, request_id text default null) returns jsonb
language plpgsql volatile security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
-- Definer: nobody may read the secrets.
declare
  v_credential public.credentials;
  v_secret private.credential_secrets;
  v_plain text;
  v_fields jsonb := '{}';
  v_unreadable text[] := '{}';
  v_details jsonb := jsonb_build_object('purpose', open.purpose, 'request_id', left(open.request_id, 200));
begin
  if open.purpose = 'ai_call' and session_user = 'palisade_gateway' and (select auth.role()) is null then
    null; -- The gateway's own login, inside an admission: it cannot call this function itself.
  else
    perform private.require_service();
  end if;
  if coalesce(open.purpose not in ('test', 'sync', 'ai_call', 'rotation'), true) then
    perform private.raise_error('invalid_request_error', 'purpose must be test, sync, ai_call or rotation.');
  end if;
  -- Locked until the caller has what it reads: a rotation passes over it, so that no key is retired under an opening.
  select c.* into v_credential from public.credentials c where c.id = open.credential_id for no key update;
  -- Of an account that has ended nothing is opened, but to be sealed anew.
  if not found or (open.purpose <> 'rotation' and not exists (
    select from private.account_states a where a.id = v_credential.user_id and a.is_active)) then
    return jsonb_build_object('opened', false, 'code', 'not_found');
  end if;
  for v_secret in select s.* from private.credential_secrets s where s.credential_id = open.credential_id order by s.field loop
    v_plain := private.unseal(
      row(v_secret.scheme, v_secret.data_key_id, v_secret.nonce, v_secret.ciphertext)::private.sealed,
      v_credential.user_id, private.secret_context(v_credential.id, v_secret.field));
    if v_plain is null then
      v_unreadable := v_unreadable || v_secret.field;
    else
      v_fields := v_fields || jsonb_build_object(v_secret.field, v_plain);
    end if;
  end loop;
  if v_unreadable <> '{}' or v_fields = '{}' then
    -- Remembered, so not raised: an error would take the event and the entry with it.
    update public.credentials c set status = 'failed', status_reason = 'unreadable' where c.id = v_credential.id;
    perform private.raise_security_event('credential_unreadable', 'critical', v_credential.user_id,
      v_details || jsonb_build_object('credential_id', v_credential.id, 'fields', v_unreadable), v_credential.id::text);
    perform private.audit(action => 'credential.open', resource_type => 'credential', resource_id => v_credential.id::text,
      user_id => v_credential.user_id, details => v_details, result => 'failed');
    return jsonb_build_object('opened', false, 'code', 'credential_unreadable');
  end if;
  perform private.audit(action => 'credential.open', resource_type => 'credential', resource_id => v_credential.id::text,
    user_id => v_credential.user_id, details => v_details);
  return jsonb_build_object('opened', true, 'user_id', v_credential.user_id, 'kind', v_credential.kind,
    'provider', v_credential.provider, 'version', v_credential.version, 'fields', v_fields);
end $$;
comment on function private.open(uuid, text, text) is
  'The only way to a credential''s secrets, for the service role: purpose is test, sync, ai_call or rotation, and every opening is audited with it and the request''s id. Answers {opened: true, user_id, kind, provider, version, fields: {api_key, ...}} or {opened: false, code: not_found (also when the account is not active) | credential_unreadable}; what does not verify fails the credential and raises a critical event.';
grant execute on function private.open(uuid, text, text) to service_role;

-- Rotation -----------------------------------------------------------------------------------------------------------------

create function private.store_secret(credential_id uuid, owner uuid, field text, plain text) returns void
language plpgsql volatile security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_sealed private.sealed := private.seal(
    store_secret.plain, store_secret.owner, private.secret_context(store_secret.credential_id, store_secret.field));
begin
  insert into private.credential_secrets (credential_id, field, scheme, data_key_id, nonce, ciphertext)
  values (store_secret.credential_id, store_secret.field, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext)
  on conflict on constraint credential_secrets_pkey do update set
    scheme = excluded.scheme, data_key_id = excluded.data_key_id, nonce = excluded.nonce, ciphertext = excluded.ciphertext;
end $$;
comment on function private.store_secret(uuid, uuid, text, text) is 'Seals one field of a credential under the current key, in the place of what was there.';

create function private.reseal_credentials(batch integer default 100) returns jsonb
language plpgsql volatile security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_key private.data_keys := private.current_data_key('credentials');
  v_credential public.credentials;
  v_opened jsonb;
  v_field record;
  v_resealed integer := 0;
begin
  -- Locked, so that a key that its owner changes meanwhile is not overwritten by the one it replaced; who holds one is skipped.
  for v_credential in
    select c.* from public.credentials c
    where c.status_reason is distinct from 'unreadable' and exists (
      select from private.credential_secrets s where s.credential_id = c.id and s.data_key_id <> v_key.id)
    order by c.id limit reseal_credentials.batch for update skip locked
  loop
    v_opened := private.open(v_credential.id, 'rotation');
    continue when not (v_opened ->> 'opened')::boolean;
    for v_field in select f.key, f.value from jsonb_each_text(v_opened -> 'fields') f loop
      perform private.store_secret(v_credential.id, v_credential.user_id, v_field.key, v_field.value);
    end loop;
    v_resealed := v_resealed + 1;
  end loop;
  return jsonb_build_object('resealed', v_resealed,
    'left', (
      select count(distinct s.credential_id) from private.credential_secrets s
        join public.credentials c on c.id = s.credential_id
      where s.data_key_id <> v_key.id and c.status_reason is distinct from 'unreadable'),
    'unreadable', (select count(*) from public.credentials c where c.status_reason = 'unreadable'));
end $$;
comment on function private.reseal_credentials(integer) is
  'Moves up to batch credentials to the current key, in one transaction; call it until nothing is left, from as many places as you like. Readers read meanwhile, and it goes on where it was after a crash. Answers {resealed, left, unreadable}.';

create function private.retire_data_keys() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_key private.data_keys;
  v_retired integer := 0;
begin
  -- Whoever seals holds the key's row: those keys wait for the next time.
  for v_key in
    select k.* from private.data_keys k where not k.is_current and k.retired_at is null order by k.id for update skip locked
  loop
    continue when exists (select from private.credential_secrets s where s.data_key_id = v_key.id)
      or exists (select from private.secret_transfers t where t.data_key_id = v_key.id);
    update private.data_keys k set retired_at = now() where k.id = v_key.id;
    if v_key.scheme <> 'aead-det' then
      delete from vault.secrets s where s.id = v_key.secret_id;
    end if;
    perform private.audit(action => 'data_key.retire', resource_type => 'data_key', resource_id => v_key.id::text,
      details => jsonb_build_object('purpose', v_key.purpose, 'scheme', v_key.scheme));
    v_retired := v_retired + 1;
  end loop;
  return v_retired;
end $$;
comment on function private.retire_data_keys() is
  'Retires older keys that nothing uses: they open nothing any more, and those in Vault are destroyed (role postgres cannot destroy pgsodium''s). Answers how many.';

create function private.rotate_credential_keys() returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.new_data_key('credentials');
  perform private.new_data_key('transfers');
end $$;
comment on function private.rotate_credential_keys() is 'Begins a rotation: new keys. A job runs it every quarter; keep_credentials_sealed does the rest.';

create function private.keep_credentials_sealed() returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_resealed jsonb;
begin
  delete from private.secret_transfers t where t.created_at < now() - interval '1 hour';
  v_resealed := private.reseal_credentials();
  return v_resealed || jsonb_build_object('retired', private.retire_data_keys());
end $$;
comment on function private.keep_credentials_sealed() is
  'What a job does of a rotation every minute: a batch of credentials under the current key, old transfers forgotten, unused keys retired. Answers {resealed, left, unreadable, retired}.';

-- What owners do -------------------------------------------------------------------------------------------------------------

create function private.start_secret_transfer(user_id uuid, session_id uuid, request jsonb default null) returns jsonb
language plpgsql volatile security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_id uuid := private.uuid_v7();
  v_key text := encode(extensions.gen_random_bytes(64), 'hex');
  v_sealed private.sealed;
begin
  perform private.require_account(start_secret_transfer.user_id, start_secret_transfer.session_id, true, start_secret_transfer.request);
  perform private.require_recent_sign_in(start_secret_transfer.user_id, start_secret_transfer.session_id);
  perform private.require_unrestricted(start_secret_transfer.user_id);
  -- Attempts of one user come one after the other, so that the limit holds.
  perform private.lock_account(start_secret_transfer.user_id);
  if (select count(*) from private.secret_transfers t
      where t.user_id = start_secret_transfer.user_id and t.created_at > now() - interval '1 hour')
    >= (private.setting('credentials.changes_per_hour'))::integer then
    perform private.raise_error('rate_limit_exceeded',
      format('Credentials can be added or changed %s times an hour. Try again later.', private.setting('credentials.changes_per_hour')));
  end if;
  v_sealed := private.seal(v_key, start_secret_transfer.user_id, 'secret_transfers/' || v_id, 'transfers');
  insert into private.secret_transfers (id, user_id, scheme, data_key_id, nonce, ciphertext)
  values (v_id, start_secret_transfer.user_id, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext);
  return jsonb_build_object('transfer_id', v_id, 'key', v_key);
end $$;
comment on function private.start_secret_transfer(uuid, uuid, jsonb) is
  'For the function credentials: {transfer_id, key}, a key of 64 bytes as hex, valid once and for a minute, under which a new credential travels to the database (A256CBC-HS512, the transfer''s id as associated data). Needs a recent sign-in, and the second factor when there is one; credentials.changes_per_hour of them.';

create function private.take_secret_transfer(transfer_id uuid, nonce bytea, ciphertext bytea, out user_id uuid, out content jsonb)
language plpgsql volatile security invoker set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_transfer private.secret_transfers;
  v_key bytea;
  v_body bytea := substring(take_secret_transfer.ciphertext for octet_length(take_secret_transfer.ciphertext) - 32);
  v_once bytea := extensions.gen_random_bytes(32);
  v_text text;
begin
  update private.secret_transfers t set used_at = now()
  where t.id = take_secret_transfer.transfer_id and t.used_at is null and t.created_at > now() - interval '1 minute'
  returning t.* into v_transfer;
  if not found or not exists (select from private.account_states a where a.id = v_transfer.user_id and a.is_active) then
    perform private.raise_error('invalid_request_error', 'The transfer is unknown, used or too old. Start another.');
  end if;
  v_key := decode(private.unseal(
    row(v_transfer.scheme, v_transfer.data_key_id, v_transfer.nonce, v_transfer.ciphertext)::private.sealed,
    v_transfer.user_id, 'secret_transfers/' || v_transfer.id), 'hex');
  if extensions.hmac(private.cbc_hmac_tag(substring(v_key for 32), convert_to(v_transfer.id::text, 'UTF8'),
      take_secret_transfer.nonce, v_body), v_once, 'sha256')
    is distinct from extensions.hmac(
      substring(take_secret_transfer.ciphertext from octet_length(v_body) + 1), v_once, 'sha256') then
    perform private.raise_error('invalid_request_error', 'The content does not belong to the transfer.');
  end if;
  user_id := v_transfer.user_id;
  v_text := convert_from(extensions.decrypt_iv(
    v_body, substring(v_key from 33), take_secret_transfer.nonce, 'aes-cbc/pad:pkcs'), 'UTF8');
  begin
    content := v_text::jsonb;
  exception when data_exception then
    -- The cast's own error would tell a part of the text.
    perform private.raise_error('invalid_request_error', 'The content of the transfer is not JSON.');
  end;
end $$;
comment on function private.take_secret_transfer(uuid, bytea, bytea) is
  'Opens what travelled under a transfer''s key, once: its user and the JSON. Errors say nothing of the content.';

create function private.save_credential(
  transfer_id uuid, nonce bytea, ciphertext bytea, credential_id uuid, kind text, provider text, name text
) returns jsonb
language plpgsql volatile security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
-- Definer: credentials are written by functions only.
declare
  v_transfer record;
  v_credential public.credentials;
  v_key text;
  v_field record;
begin
  perform private.require_service();
  select t.* into v_transfer from private.take_secret_transfer(save_credential.transfer_id, save_credential.nonce, save_credential.ciphertext) t;
  v_key := v_transfer.content ->> 'api_key';
  if coalesce(v_key, '') = '' then
    perform private.raise_error('invalid_request_error', 'api_key is missing.');
  end if;
  if save_credential.credential_id is null then
    perform private.lock_account(v_transfer.user_id);
    if (select count(*) from public.credentials c where c.user_id = v_transfer.user_id)
      >= (private.setting('credentials.max_per_user'))::integer then
      perform private.raise_error('invalid_request_error',
        format('You have %s credentials, and more are not possible. Delete one first.', private.setting('credentials.max_per_user')));
    end if;
    if private.text_or_null(save_credential.name, 100) is null then
      perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
    end if;
    if not (case save_credential.kind
      when 'exchange' then exists (select from private.exchanges e where e.id = save_credential.provider and e.enabled)
      when 'ai_provider' then exists (select from private.providers p where p.id = save_credential.provider)
      else false end) then
      perform private.raise_error('not_found', 'There is no such exchange or AI provider here.');
    end if;
    insert into public.credentials (user_id, kind, provider, name, last_four)
    values (v_transfer.user_id, save_credential.kind, save_credential.provider, private.text_or_null(save_credential.name, 100), '')
    returning * into v_credential;
  else
    select c.* into v_credential from public.credentials c
    where c.id = save_credential.credential_id and c.user_id = v_transfer.user_id for update;
    if not found then
      perform private.raise_error('not_found', 'You have no such credential.');
    end if;
    delete from private.credential_secrets s where s.credential_id = v_credential.id;
  end if;
  update public.credentials c set
    -- Of a key of less than 16 characters four are too much to show.
    last_four = case when length(v_key) >= 16 then right(v_key, 4) else '' end,
    status = 'pending', status_reason = null, permissions = '{}', last_tested_at = null,
    version = c.version + case when save_credential.credential_id is null then 0 else 1 end
  where c.id = v_credential.id returning c.version into v_credential.version;
  for v_field in
    select f.key, f.value from jsonb_each_text(v_transfer.content) f
    where f.key in ('api_key', 'api_secret', 'passphrase') and f.value is not null
  loop
    if v_field.value = '' then
      perform private.raise_error('invalid_request_error', format('%s is empty: leave it out.', v_field.key));
    end if;
    perform private.store_secret(v_credential.id, v_credential.user_id, v_field.key, v_field.value);
  end loop;
  perform private.audit(
    action => case when save_credential.credential_id is null then 'credential.create' else 'credential.rotate' end,
    resource_type => 'credential', resource_id => v_credential.id::text, user_id => v_credential.user_id,
    details => jsonb_build_object('kind', v_credential.kind, 'provider', v_credential.provider));
  perform private.tell_of_change(v_credential.user_id, 'credential_added', v_credential.id,
    jsonb_build_object('name', v_credential.provider));
  return jsonb_build_object('id', v_credential.id, 'version', v_credential.version);
end $$;
comment on function private.save_credential(uuid, bytea, bytea, uuid, text, text, text) is
  'Seals what travelled under a transfer as a new credential of its user (credential_id null; kind exchange | ai_provider, provider, name), or in the place of an existing one''s secrets. It is pending until note_credential_test. Answers {id, version}. For the service role.';
grant execute on function private.save_credential(uuid, bytea, bytea, uuid, text, text, text) to service_role;

create function private.note_credential_test(credential_id uuid, version integer, reason text, permissions text[] default '{}')
returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: credentials are written by functions only.
begin
  perform private.require_service();
  update public.credentials c set
    status = case when note_credential_test.reason is null then 'active' else 'failed' end,
    status_reason = note_credential_test.reason, permissions = note_credential_test.permissions, last_tested_at = now()
  where c.id = note_credential_test.credential_id and c.version = note_credential_test.version;
  return found;
end $$;
comment on function private.note_credential_test(uuid, integer, text, text[]) is
  'What a test of a credential came to: reason null, and it is active; else why it failed, as a code. permissions as the provider told them. version is that of the key that was tested: of another one nothing is noted, and the answer is false. For the service role.';
grant execute on function private.note_credential_test(uuid, integer, text, text[]) to service_role;

create function private.start_credential_test(user_id uuid, session_id uuid, id uuid, request jsonb default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(start_credential_test.user_id, start_credential_test.session_id, true, start_credential_test.request);
  perform private.lock_account(start_credential_test.user_id);
  if not exists (
    select from public.credentials c where c.id = start_credential_test.id and c.user_id = start_credential_test.user_id) then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  -- Providers count failed keys against the address they come from, and that is ours.
  update public.credentials c set last_tested_at = now()
  where c.id = start_credential_test.id
    and coalesce(c.last_tested_at, '-infinity') <= now() - make_interval(secs => (private.setting('credentials.test_pause_seconds'))::integer);
  if not found then
    perform private.raise_error('rate_limit_exceeded', 'This credential was tested a moment ago. Try again in a while.');
  end if;
end $$;
comment on function private.start_credential_test(uuid, uuid, uuid, jsonb) is
  'For the function credentials: whether the user may have a credential tested now. Once in credentials.test_pause_seconds; needs the second factor when there is one.';

create function private.rename_credential(user_id uuid, session_id uuid, id uuid, name text, request jsonb default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(rename_credential.user_id, rename_credential.session_id, true, rename_credential.request);
  if private.text_or_null(rename_credential.name, 100) is null then
    perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
  end if;
  update public.credentials c set name = private.text_or_null(rename_credential.name, 100)
  where c.id = rename_credential.id and c.user_id = rename_credential.user_id;
  if not found then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  perform private.audit(action => 'credential.rename', resource_type => 'credential', resource_id => rename_credential.id::text,
    user_id => rename_credential.user_id);
end $$;
comment on function private.rename_credential(uuid, uuid, uuid, text, jsonb) is
  'Gives a credential of the user''s another name, of 1 to 100 characters. Needs the second factor when there is one.';

create function private.delete_credential(user_id uuid, session_id uuid, id uuid, request jsonb default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(delete_credential.user_id, delete_credential.session_id, true, delete_credential.request);
  delete from public.credentials c where c.id = delete_credential.id and c.user_id = delete_credential.user_id;
  if not found then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  perform private.audit(action => 'credential.delete', resource_type => 'credential', resource_id => delete_credential.id::text,
    user_id => delete_credential.user_id);
end $$;
comment on function private.delete_credential(uuid, uuid, uuid, jsonb) is
  'Deletes a credential of the user''s with its sealed secrets, at once. Needs the second factor when there is one.';

-- The same two for the Data API, where the caller is whom the token names.

create function private.rename_my_credential(id uuid, name text) returns void
language sql volatile security definer set search_path = ''
as $$
-- Definer: credentials are written by functions only.
  select private.rename_credential((select auth.uid()), private.my_session_id(), rename_my_credential.id, rename_my_credential.name)
$$;
comment on function private.rename_my_credential(uuid, text) is 'Behind public.rename_credential.';
grant execute on function private.rename_my_credential(uuid, text) to authenticated;

create function public.rename_credential(id uuid, name text) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.rename_my_credential(rename_credential.id, rename_credential.name) $$;
comment on function public.rename_credential(uuid, text) is
  'Gives a credential of the caller''s another name, of 1 to 100 characters. Needs the second factor when there is one.';
grant execute on function public.rename_credential(uuid, text) to authenticated;

create function private.delete_my_credential(id uuid) returns void
language sql volatile security definer set search_path = ''
as $$
-- Definer: credentials are written by functions only.
  select private.delete_credential((select auth.uid()), private.my_session_id(), delete_my_credential.id)
$$;
comment on function private.delete_my_credential(uuid) is 'Behind public.delete_credential.';
grant execute on function private.delete_my_credential(uuid) to authenticated;

create function public.delete_credential(id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$ select private.delete_my_credential(delete_credential.id) $$;
comment on function public.delete_credential(uuid) is
  'Deletes a credential of the caller''s with its sealed secrets, at once. Needs the second factor when there is one.';
grant execute on function public.delete_credential(uuid) to authenticated;

-- policies/50_api_keys.sql ============================================================================================

create policy "owners see their API keys"
  on public.api_keys for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see the limits of their API keys"
  on public.api_key_limits for select to authenticated
  using (api_key_id = any (array(select k.id from public.api_keys k where k.user_id = (select private.my_user_id()))));

-- policies/54_credentials.sql =========================================================================================

create policy "owners see their credentials"
  on public.credentials for select to authenticated
  using (user_id = (select private.my_user_id()));
