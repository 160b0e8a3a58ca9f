-- The gateway's own way into the database: a login that can admit and settle calls, and nothing else.

do $$
begin
  -- Roles belong to the cluster, not to one database.
  if not exists (select from pg_roles where rolname = 'palisade_gateway') then
    create role palisade_gateway with login noinherit;
  end if;
end $$;
-- No password, so nobody can log in, until the operator sets one: see docs/operations.md.
alter role palisade_gateway set statement_timeout = '4s';
alter role palisade_gateway set idle_in_transaction_session_timeout = '5s';
-- Somebody holds one account: the others in the statement are sent again without it, and do not wait for its end.
alter role palisade_gateway set lock_timeout = '1500ms';
-- Indexes also while tables are small, and plans that do not turn with statistics: those of an empty project are those of a full one.
-- What a call needs is found by keys, so that nested loops are right; and a plan that is made once is made in no call.
alter role palisade_gateway set enable_seqscan = off;
alter role palisade_gateway set enable_hashjoin = off;
alter role palisade_gateway set enable_mergejoin = off;
alter role palisade_gateway set plan_cache_mode = 'force_generic_plan';
alter role palisade_gateway set jit = off;

create table private.rate_limits (
  route text primary key check (route ~ '^[a-z][a-z0-9_-]{0,39}$'),
  amount integer not null check (amount > 0),
  window_seconds integer not null check (window_seconds between 1 and 86400)
);
comment on table private.rate_limits is 'How many requests without a valid token or key one network may send to a route in a window. What users and keys may do: plan_limits, api_key_limits.';
revoke all on private.rate_limits from anon, authenticated, service_role;
insert into private.rate_limits (route, amount, window_seconds) values ('ai', 100, 900)
on conflict (route) do nothing;

create table private.anonymous_requests (
  network cidr not null,
  route text not null references private.rate_limits (route) on delete cascade,
  used integer not null check (used >= 0),
  resets_at timestamptz not null,
  primary key (network, route)
) with (fillfactor = 70);
comment on table private.anonymous_requests is 'Requests of the running window without a valid token or key: by network (/24 or /56), as the last proxy saw it.';
create index anonymous_requests_route_idx on private.anonymous_requests (route);
create index anonymous_requests_resets_at_idx on private.anonymous_requests (resets_at);
revoke all on private.anonymous_requests from anon, authenticated, service_role;

create function private.count_anonymous_request(ip inet, route text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_network cidr := private.network_of(count_anonymous_request.ip, 24, 56);
  v_limit private.rate_limits;
  v_window interval;
  v_row private.anonymous_requests;
begin
  select l.* into v_limit from private.rate_limits l where l.route = count_anonymous_request.route;
  if not found or v_network is null then
    return jsonb_build_object('allowed', true);
  end if;
  v_window := make_interval(secs => v_limit.window_seconds);
  -- Read committed: the row's newest version decides, so exactly "amount" pass, however many race. A window that has not begun yet was
  -- written when the clock was wrong, or windows were longer: it counts as over.
  insert into private.anonymous_requests as r (network, route, used, resets_at)
  values (v_network, v_limit.route, 1, now() + v_window)
  on conflict on constraint anonymous_requests_pkey do update set
    used = case when r.resets_at > now() and r.resets_at <= clock_timestamp() + v_window then r.used + 1 else 1 end,
    resets_at = case when r.resets_at > now() and r.resets_at <= clock_timestamp() + v_window then r.resets_at else excluded.resets_at end
  where r.resets_at <= now() or r.resets_at > clock_timestamp() + v_window or r.used < v_limit.amount
  returning r.* into v_row;
  if found then
    return jsonb_build_object('allowed', true);
  end if;
  select r.* into v_row from private.anonymous_requests r where r.network = v_network and r.route = v_limit.route;
  return jsonb_build_object('allowed', false, 'retry_after_s', ceil(extract(epoch from v_row.resets_at - now())),
    'limit', jsonb_build_object('meter', 'anonymous_requests', 'period', v_limit.window_seconds || ' seconds', 'amount', v_limit.amount,
      'used', v_row.used, 'held', 0, 'remaining', 0, 'resets_at', v_row.resets_at));
end $$;
comment on function private.count_anonymous_request(inet, text) is
  'Counts a request without a valid token or key. Answers {allowed} or {allowed: false, retry_after_s, limit}.';

create function private.delete_old_anonymous_requests() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  -- No window is longer than a day.
  delete from private.anonymous_requests r where r.resets_at < now() or r.resets_at > now() + interval '24 hours';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_anonymous_requests() is
  'Forgets addresses when their window is over, or lies where none can be. A job runs it. Answers how many.';

create function private.provider_secret(name text) returns text
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_secret text;
begin
  -- Only what a provider names: this is no way to the other secrets of the project.
  select s.decrypted_secret into v_secret from vault.decrypted_secrets s
  where s.name = provider_secret.name and exists (
    select from private.providers p where p.api_key_secret = provider_secret.name);
  return v_secret;
end $$;
comment on function private.provider_secret(text) is
  'The key of an AI provider from Vault, by the name in providers.api_key_secret; null when there is none.';

create function private.report_provider_alarm(provider_id text, event text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  -- Only of providers that there are, and no other kind of event.
  if event in ('provider_refuses_key', 'provider_refuses_account') and exists (
    select from private.providers p where p.id = report_provider_alarm.provider_id)
  then
    perform private.raise_security_event(event, 'high', null, jsonb_build_object('provider_id', provider_id), dedupe_key => provider_id);
  end if;
end $$;
comment on function private.report_provider_alarm(text, text) is
  'A security event for the operator: a provider refuses our key (provider_refuses_key), or says that our account there has no money or is closed (provider_refuses_account).';

grant usage on schema private to palisade_gateway;
grant execute on function private.ai_snapshot() to palisade_gateway;
grant execute on function private.ai_step(private.ai_outcome[], private.ai_request[], bigint) to palisade_gateway;
grant execute on function private.start_ai_calls(uuid[]) to palisade_gateway;
grant execute on function private.list_ai_models(jsonb) to palisade_gateway;
grant execute on function private.report_ai_attempts(jsonb) to palisade_gateway;
grant execute on function private.count_anonymous_request(inet, text) to palisade_gateway;
grant execute on function private.provider_secret(text) to palisade_gateway;
grant execute on function private.report_provider_alarm(text, text) to palisade_gateway;
