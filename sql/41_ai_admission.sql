-- Admission of AI calls: all or nothing, exact, in one transaction for many callers at once.

insert into private.settings (key, value, description) values
  ('ai.default_max_output_tokens', '4096', 'Output tokens reserved and asked for when a caller sets no max_tokens.'),
  ('ai.hold_grace_seconds', '60', 'How long after a provider''s total timeout a call counts as abandoned.'),
  ('ai.breaker_failures', '5', 'Failures of a provider''s model in a row after which its circuit breaker opens.'),
  ('ai.breaker_window_seconds', '60', 'How long after a failure the next one still counts as in a row.'),
  ('ai.breaker_open_seconds', '60', 'How long an open circuit breaker rests before one call tries again.')
on conflict (key) do nothing;

create table private.circuit_breakers (
  provider_id text not null references private.providers (id) on delete cascade,
  model_id text not null references public.models (id) on delete cascade,
  failures integer not null default 0 check (failures >= 0),
  last_failed_at timestamptz not null default now(),
  open_until timestamptz,
  probe_until timestamptz,
  primary key (provider_id, model_id)
);
comment on table private.circuit_breakers is
  'Models of providers that fail, one row each; no row: all is well. Open until open_until; after that one call at a time tries (probe_until) until one succeeds.';
create index circuit_breakers_model_id_idx on private.circuit_breakers (model_id);
revoke all on private.circuit_breakers from anon, authenticated, service_role;

create table private.ai_idempotency_keys (
  user_id uuid not null references auth.users (id) on delete cascade,
  endpoint text not null check (length(endpoint) <= 40),
  key text not null check (length(key) between 1 and 255),
  body_hash text not null check (body_hash ~ '^[0-9a-f]{64}$'),
  call_id uuid not null,
  model_id text check (length(model_id) <= 200),
  response text check (octet_length(response) <= 1000000),
  created_at timestamptz not null default now(),
  primary key (user_id, endpoint, key)
);
comment on table private.ai_idempotency_keys is
  'Keys of the last 24 hours: what was asked, which call does it, and its whole answer, if it was no stream. The only place where an answer is kept, and only for callers who send a key.';
create index ai_idempotency_keys_created_at_idx on private.ai_idempotency_keys (created_at);
revoke all on private.ai_idempotency_keys from anon, authenticated, service_role;

create type private.ai_plan as (
  position integer, hold private.ai_holds, refusal jsonb, routes jsonb, plan_id text, time_zone text,
  signed_up_at timestamptz, limits private.meter_limit[], idempotency_key text, body_hash text,
  signature_id text);
comment on type private.ai_plan is 'A call on its way through admission: what it would be, or why not.';

-- Who calls ------------------------------------------------------------------------------------------------------------

create function private.check_account(
  user_id uuid, session_id uuid, by_api_key boolean default false,
  out refusal jsonb, out plan_id text, out time_zone text, out signed_up_at timestamptz
)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_account record;
begin
  select p.account_state, p.plan_id, p.quota_time_zone, p.signed_up_at, s.id is not null or by_api_key as has_session,
    not by_api_key and s.aal is distinct from 'aal2' and p.has_factor as lacks_factor
  into v_account
  from private.entitled_profiles p
    left join private.live_sessions s on s.id = check_account.session_id and s.user_id = p.id
  where p.id = check_account.user_id;
  plan_id := v_account.plan_id;
  time_zone := v_account.quota_time_zone;
  signed_up_at := v_account.signed_up_at;
  -- Most may go on, and a call costs microseconds.
  if v_account.account_state is distinct from 'active' or v_account.has_session is not true or v_account.lacks_factor is not false then
    refusal := private.account_refusal(v_account.account_state, v_account.has_session, v_account.lacks_factor, by_api_key);
  end if;
end $$;
comment on function private.check_account(uuid, uuid, boolean) is
  'refusal is null when the account is active, not anonymous, and the session lives and has used the second factor where there is one; else {code, message}. Tokens outlive sessions, so every call asks. by_api_key: there is no session to ask for.';

create function private.ai_caller(request jsonb, scope text, out user_id uuid, out session_id uuid, out api_key_id uuid, out refusal jsonb)
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if request ->> 'api_key_hash' is null then
    user_id := request ->> 'user_id';
    session_id := request ->> 'session_id';
    return;
  end if;
  select k.user_id, k.api_key_id, k.refusal into user_id, api_key_id, refusal
  from private.check_api_key(
    decode(request ->> 'api_key_hash', 'hex'), ai_caller.scope, private.inet_or_null(request ->> 'ip'),
    request -> 'signature') k;
end $$;
comment on function private.ai_caller(jsonb, text) is
  'Who calls: {user_id, session_id} of a token that was verified, or the owner of {api_key_hash, ip, signature}; refusal {code, message} when the key is not good for this scope.';

-- Which way ------------------------------------------------------------------------------------------------------------

create function private.may_probe(provider_id text, model_id text) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Nobody waits for the row: whoever finds it locked is not the one who tries.
  update private.circuit_breakers b set probe_until = now() + interval '10 seconds'
  where (b.provider_id, b.model_id) in (
    select o.provider_id, o.model_id from private.circuit_breakers o
    where o.provider_id = may_probe.provider_id and o.model_id = may_probe.model_id
      and (o.probe_until is null or o.probe_until <= now())
    for update skip locked);
  return found;
end $$;
comment on function private.may_probe(text, text) is
  'Whether this call is the one that tries a half-open breaker; it has ten seconds before another may.';

create function private.open_provider_key(user_id uuid, credential_id uuid, provider_id text, request_id text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if not exists (
    select from public.credentials c
    where c.id = open_provider_key.credential_id and c.user_id = open_provider_key.user_id and c.kind = 'ai_provider'
      and c.provider = open_provider_key.provider_id and c.status = 'active') then
    return null;
  end if;
  return private.open(open_provider_key.credential_id, 'ai_call', open_provider_key.request_id) #>> '{fields,api_key}';
end $$;
comment on function private.open_provider_key(uuid, uuid, text, text) is
  'The key of a provider that a user keeps in the credential vault; null when there is none such that is active and opens.';

create function private.plan_routes(plan private.ai_plan, request jsonb) returns private.ai_plan
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_hold private.ai_holds := plan.hold;
  v_kind text := case v_hold.endpoint when 'embeddings' then 'embedding' when 'images.generations' then 'image' else 'chat' end;
  v_choices bigint := coalesce((request ->> 'choices')::bigint, 1);
  v_images bigint := coalesce((request ->> 'images')::bigint, 0);
  v_wish bigint := request ->> 'max_output_tokens';
  v_grace_s integer := (private.setting('ai.hold_grace_seconds'))::integer;
  v_route record;
  v_output bigint;
  v_refusal jsonb;
  v_param jsonb := jsonb_build_object('param', 'model');
  v_open_until timestamptz;
  v_timeout_ms bigint := 0;
  v_held jsonb := '[]';
  v_credential_id uuid := request ->> 'credential_id';
  v_own_key text;
begin
  plan.routes := '[]';
  v_hold.own_key := v_credential_id is not null;
  v_wish := coalesce(v_wish, (private.setting('ai.default_max_output_tokens'))::bigint);
  v_hold.credits := 0;
  v_hold.output_tokens := 0;
  v_hold.micros := 0;
  v_hold.prompt_tokens := (request ->> 'prompt_tokens_max')::bigint;
  v_refusal := jsonb_build_object('code', 'model_not_found', 'message', format('There is no model %s.', v_hold.model_id), 'details', v_param);
  for v_route in
    select c.position, m.id, m.upstream_id, m.kind, m.max_output_tokens, m.credits_per_call, p as provider,
      pm.plan_id is not null as is_in_plan, r.price, b.failures, b.open_until
    from (
      select v_hold.model_id as id, 0 as position
      union all
      select f.fallback_model_id, f.position from private.model_fallbacks f where f.model_id = v_hold.model_id) c
      join public.models m on m.id = c.id and m.enabled
      join private.providers p on p.id = m.provider_id and p.enabled
      left join public.plan_models pm on pm.model_id = m.id and pm.plan_id = plan.plan_id
      left join lateral (
        select x as price from public.model_prices x
        where x.model_id = m.id and x.valid_from <= now() order by x.valid_from desc limit 1) r on true
      left join private.circuit_breakers b on b.provider_id = p.id and b.model_id = m.id
    order by c.position
  loop
    if v_route.position = 0 then
      v_refusal := case
        when v_route.kind <> v_kind then jsonb_build_object('code', 'invalid_request_error',
          'message', format('The model %s is not for this endpoint: it is of the kind %s.', v_hold.model_id, v_route.kind), 'details', v_param)
        when not v_route.is_in_plan then jsonb_build_object('code', 'model_not_allowed',
          'message', format('Your plan does not include the model %s.', v_hold.model_id)
            -- A model in no plan cannot be had for money.
            || case when exists (select from public.plan_models o where o.model_id = v_hold.model_id)
              then ' ' || private.payment_hint(v_hold.user_id) else '' end, 'details', v_param)
        when v_route.price is null then jsonb_build_object('code', 'model_not_priced',
          'message', format('The model %s has no price yet, so it cannot be used.', v_hold.model_id), 'details', v_param)
      end;
      if v_refusal is null and v_hold.own_key then
        v_refusal := private.feature_refusal(v_hold.user_id, 'own_keys') || jsonb_build_object('details', jsonb_build_object('param', 'credential'));
      end if;
      v_hold.provider_id := (v_route.provider).id;
      v_hold.price_valid_from := (v_route.price).valid_from;
    end if;
    exit when v_refusal is not null;
    -- A fallback that would be refused by itself is none.
    continue when v_route.kind <> v_kind or not v_route.is_in_plan or v_route.price is null;
    if v_route.open_until is not null
      and (v_route.open_until > now() or not private.may_probe((v_route.provider).id, v_route.id)) then
      v_open_until := least(v_open_until, greatest(v_route.open_until, now() + interval '1 second'));
      continue;
    end if;
    if v_hold.own_key then
      v_own_key := private.open_provider_key(v_hold.user_id, v_credential_id, (v_route.provider).id, request ->> 'request_id');
      if v_own_key is null and v_route.position = 0 then
        v_refusal := jsonb_build_object('code', 'not_found', 'details', jsonb_build_object('param', 'credential'),
          'message', format('You have no such credential for the provider of %s.', v_hold.model_id));
        exit;
      end if;
      -- A fallback at another provider would be paid by somebody else.
      continue when v_own_key is null;
    end if;
    v_output := case when v_kind = 'chat' then least(v_wish, v_route.max_output_tokens) else 0 end;
    v_hold.output_tokens := greatest(v_hold.output_tokens, v_choices * v_output);
    if not v_hold.own_key then
      v_hold.credits := greatest(v_hold.credits, v_route.credits_per_call);
      v_hold.micros := greatest(v_hold.micros, private.ai_cost_micros(
        v_route.price, v_hold.prompt_tokens, 0, v_choices * v_output,
        case when (v_route.price).reasoning_usd_per_mtok > (v_route.price).output_usd_per_mtok then v_choices * v_output else 0 end,
        v_images));
    end if;
    v_timeout_ms := v_timeout_ms + (v_route.provider).total_timeout_ms;
    v_held := v_held || jsonb_build_object(
      'model', v_route.id, 'credits', case when v_hold.own_key then 0 else v_route.credits_per_call end, 'price_valid_from', (v_route.price).valid_from);
    plan.routes := plan.routes || (
      jsonb_build_object(
        'model', v_route.id, 'upstream_model', v_route.upstream_id, 'max_output_tokens', v_output,
        'provider', to_jsonb(v_route.provider) - 'enabled')
      || case when v_hold.own_key then jsonb_build_object('api_key', v_own_key) else '{}' end);
  end loop;
  if v_refusal is null and plan.routes = '[]' then
    v_refusal := jsonb_build_object('code', 'circuit_open',
      'message', format('The provider of %s fails at the moment; it is tried again soon.', v_hold.model_id),
      'details', jsonb_build_object('retry_after_s', ceil(extract(epoch from v_open_until - now()))));
  end if;
  if v_held <> '[]' and (jsonb_array_length(v_held) > 1 or v_held -> 0 ->> 'model' <> v_hold.model_id) then
    v_hold.routes := v_held;
  end if;
  v_hold.expires_at := now() + make_interval(
    secs => v_timeout_ms / 1000.0 + v_grace_s);
  plan.refusal := v_refusal;
  plan.hold := v_hold;
  return plan;
end $$;
comment on function private.plan_routes(private.ai_plan, jsonb) is
  'Finds the ways to answer a call: the model and its fallbacks, as far as they are enabled, of the endpoint''s kind, in the plan, priced, and not behind an open breaker. The hold is the worst case of the dearest, for exactly what will be forwarded.';

create function private.plan_ai_call(request jsonb, at_position integer) returns private.ai_plan
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_plan private.ai_plan;
  v_hold private.ai_holds;
  v_caller record;
  v_account record;
begin
  v_plan.position := at_position;
  v_hold.call_id := private.uuid_v7();
  v_hold.created_at := private.uuid_v7_time(v_hold.call_id);
  v_hold.request_id := request ->> 'request_id';
  v_hold.endpoint := request ->> 'endpoint';
  v_hold.model_id := left(request ->> 'model', 200);
  v_hold.stream := coalesce((request ->> 'stream')::boolean, false);
  v_hold.request_bytes := coalesce((request ->> 'request_bytes')::bigint, 0);
  if length(v_hold.request_id) between 1 and 64 is not true or v_hold.model_id is null
    or v_hold.endpoint in ('chat.completions', 'embeddings', 'images.generations') is not true
    or v_hold.request_bytes < 0 or coalesce((request ->> 'prompt_tokens_max')::bigint < 0, true)
    or (request ->> 'max_output_tokens')::bigint < 1 or (request ->> 'choices')::bigint < 1
    or (request ->> 'images')::bigint < 0 then
    perform private.raise_error('invalid_request_error',
      'request_id (64 characters at most), model, endpoint and prompt_tokens_max are needed, and no number may be negative.');
  end if;
  select c.* into v_caller from private.ai_caller(request, v_hold.endpoint) c;
  v_hold.user_id := v_caller.user_id;
  v_hold.session_id := v_caller.session_id;
  v_hold.api_key_id := v_caller.api_key_id;
  v_plan.hold := v_hold;
  v_plan.refusal := v_caller.refusal;
  if v_plan.refusal is not null then
    return v_plan;
  end if;
  select a.* into v_account from private.check_account(v_hold.user_id, v_hold.session_id, v_hold.api_key_id is not null) a;
  v_plan.refusal := v_account.refusal;
  if v_plan.refusal is not null then
    return v_plan;
  end if;
  v_plan.plan_id := v_account.plan_id;
  v_plan.time_zone := v_account.time_zone;
  v_plan.signed_up_at := v_account.signed_up_at;
  v_plan.limits := private.meter_limits(v_hold.user_id, v_account.plan_id, array[
    'ai_requests', replace(v_hold.endpoint, '.', '_') || '_requests', 'ai_concurrency', 'ai_calls', 'ai_tokens', 'ai_spend_micros']);
  v_plan.idempotency_key := request ->> 'idempotency_key';
  v_plan.body_hash := request ->> 'body_hash';
  v_plan.signature_id := request -> 'signature' ->> 'id';
  return private.plan_routes(v_plan, request);
end $$;
comment on function private.plan_ai_call(jsonb, integer) is
  'All of an admission that needs no lock: who calls, by which routes, and what to hold. Raises invalid_request_error for a request that the gateway would not send.';

-- The decision ---------------------------------------------------------------------------------------------------------

create function private.find_idempotency_key(plan private.ai_plan) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid := (plan.hold).user_id;
  v_endpoint text := (plan.hold).endpoint;
  v_found private.ai_idempotency_keys;
  v_state text;
begin
  select i.* into v_found from private.ai_idempotency_keys i
  where i.user_id = v_user_id and i.endpoint = v_endpoint and i.key = plan.idempotency_key;
  if not found then
    return null;
  end if;
  select coalesce(
    (select 'held' from private.ai_holds h where h.call_id = v_found.call_id),
    (select c.state from public.ai_calls c
    where c.id = v_found.call_id and c.created_at = private.uuid_v7_time(v_found.call_id)))
  into v_state;
  if v_found.created_at <= now() - interval '24 hours' or v_state is null or v_state = 'released' then
    -- Too old, or it came to nothing and cost nothing: the key is free again.
    delete from private.ai_idempotency_keys i
    where i.user_id = v_user_id and i.endpoint = v_endpoint and i.key = plan.idempotency_key;
    return null;
  elsif v_found.body_hash <> plan.body_hash then
    return jsonb_build_object('code', 'idempotency_key_reused', 'message', 'This idempotency key was used with another body.');
  elsif v_state = 'held' then
    return jsonb_build_object('code', 'idempotency_in_progress', 'message', 'A request with this idempotency key is still running.',
      'details', jsonb_build_object('retry_after_s', 1));
  elsif v_found.response is null then
    return jsonb_build_object('code', 'idempotency_not_replayable',
      'message', 'The request with this idempotency key is done, and its answer was not kept: it was a stream, too large, or broke off.');
  end if;
  return jsonb_build_object('code', 'idempotency_replay', 'replay', jsonb_build_object(
    'body', v_found.response, 'content_type', 'application/json', 'model', v_found.model_id));
end $$;
comment on function private.find_idempotency_key(private.ai_plan) is
  'Null when the key is free; else the refusal, or the answer that is there already. The caller holds the account''s lock, so two calls with one key take turns.';

create function private.limit_refusal(l private.meter_limit, counts private.meter_counts, units bigint) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_used bigint := counts.used[l.slot];
  v_held bigint := counts.held[l.slot];
  v_resets_at timestamptz := nullif(counts.resets_at[l.slot], 'infinity');
  v_seconds numeric := ceil(extract(epoch from v_resets_at - now()));
  v_row jsonb := private.limit_row(l, counts);
  v_is_rate boolean := not l.is_held;
begin
  return case
    when l.meter = 'ai_concurrency' then jsonb_build_object(
      'code', 'concurrency_limit', 'message', format('%s calls may run at once.', l.amount),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when v_is_rate then jsonb_build_object(
      'code', 'rate_limit_exceeded', 'message', format('%s %s a minute are allowed.', l.amount, replace(l.meter, '_', ' ')),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when v_used + units <= l.amount then jsonb_build_object(
      'code', 'in_flight_budget_exhausted',
      'message', format('Calls that are still running hold the rest of %s/%s. Try again when they have ended.', l.meter, l.period),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when l.meter = 'ai_calls' and l.amount >= 0 then jsonb_build_object(
      'code', case when l.period = 'day' then 'daily_quota_exceeded' else 'insufficient_quota' end,
      'message', format('All %s AI calls of this %s are used.', l.amount, l.period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when l.amount < 0 then jsonb_build_object(
      'code', 'insufficient_quota', 'message', 'Your plan has no AI calls.', 'details', jsonb_build_object('limit', v_row))
    else jsonb_build_object(
      'code', 'insufficient_quota',
      'message', format('This call may need %s %s; %s of %s are left this %s. A smaller max_tokens may fit.',
        units, case l.meter when 'ai_tokens' then 'tokens' when 'ai_spend_micros' then 'micro-dollars' else l.meter end,
        greatest(l.amount - v_used, 0), l.amount, l.period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at))
  end;
end $$;
comment on function private.limit_refusal(private.meter_limit, private.meter_counts, bigint) is
  'Why a call does not fit a limit, as {code, message, details}: too fast, too many at once, used up, or held by calls that still run.';

create function private.limit_row(l private.meter_limit, counts private.meter_counts) returns jsonb
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return jsonb_build_object(
    'meter', l.meter, 'period', l.period, 'amount', greatest(l.amount, 0), 'used', counts.used[l.slot], 'held', counts.held[l.slot],
    'remaining', greatest(l.amount - counts.used[l.slot] - counts.held[l.slot], 0),
    'resets_at', nullif(counts.resets_at[l.slot], 'infinity'));
end $$;
comment on function private.limit_row(private.meter_limit, private.meter_counts) is 'A limit as get_my_limits shows it, from counts that are up to date.';

create function private.ai_units(hold private.ai_holds, limits private.meter_limit[]) returns bigint[]
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_units bigint[] := '{}';
begin
  for i in 1..coalesce(cardinality(limits), 0) loop
    v_units := v_units || case (limits[i]).meter
      when 'ai_tokens' then hold.prompt_tokens + hold.output_tokens
      when 'ai_spend_micros' then hold.micros
      else 1
    end;
  end loop;
  return v_units;
end $$;
comment on function private.ai_units(private.ai_holds, private.meter_limit[]) is 'How much of each limit a call needs.';

create function private.take_ai_units(
  plan private.ai_plan, balance bigint, held bigint, inout counts private.meter_counts,
  out refusal jsonb, out limits jsonb, out day_resets_at timestamptz, out month_resets_at timestamptz
)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_limits private.meter_limit[] := plan.limits;
  v_limit private.meter_limit;
  v_credits bigint := (plan.hold).credits;
  v_units bigint[] := private.ai_units(plan.hold, v_limits);
  v_taken record;
begin
  select t.* into v_taken from private.take_units(counts, v_limits, v_units, plan.time_zone, plan.signed_up_at) t;
  if v_taken.short is not null then
    refusal := private.limit_refusal(v_limits[v_taken.short], v_taken.counts, v_units[v_taken.short]);
    return;
  elsif balance - held < v_credits then
    limits := jsonb_build_object(
      'meter', 'credits', 'period', 'total', 'amount', balance, 'used', 0, 'held', held,
      'remaining', greatest(balance - held, 0), 'resets_at', null);
    refusal := case when balance >= v_credits then jsonb_build_object(
        'code', 'in_flight_budget_exhausted',
        'message', 'Calls that are still running hold the rest of your credits. Try again when they have ended.',
        'details', jsonb_build_object('limit', limits, 'retry_after_s', 1))
      else jsonb_build_object(
        'code', 'insufficient_credits',
        'message', format('This call costs %s credits; you have %s.', v_credits, balance),
        'details', jsonb_build_object('limit', limits)) end;
    return;
  end if;
  counts := v_taken.counts;
  limits := '[]';
  for i in 1..cardinality(v_limits) loop
    v_limit := v_limits[i];
    if v_limit.meter = 'ai_calls' then
      day_resets_at := counts.resets_at[v_limit.slot];
    elsif v_limit.meter = 'ai_tokens' then
      month_resets_at := counts.resets_at[v_limit.slot];
    end if;
    if v_limit.amount is not null and v_limit.meter in ('ai_calls', 'ai_tokens', 'ai_requests') then
      limits := limits || private.limit_row(v_limit, counts);
    end if;
  end loop;
end $$;
comment on function private.take_ai_units(private.ai_plan, bigint, bigint, private.meter_counts) is
  'All limits of an account and its credits, decided together: the counts with everything taken, or a refusal and the counts as they were.';

create function private.take_key_units(hold private.ai_holds, counts private.meter_counts, out refusal jsonb, out key_counts private.meter_counts)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_limits private.meter_limit[];
  v_units bigint[];
  v_taken record;
  v_slot integer;
begin
  insert into private.api_key_usage (api_key_id) values (hold.api_key_id) on conflict do nothing;
  select (u.counts).* into key_counts from private.api_key_usage u where u.api_key_id = hold.api_key_id;
  select array_agg(row(m.slot, m.meter, m.period, m.is_held, l.amount)::private.meter_limit order by m.slot) into v_limits
  from private.meters m
    left join public.api_key_limits l on l.api_key_id = hold.api_key_id and l.meter = m.meter and l.period = m.period
  where m.meter in ('ai_requests', 'ai_concurrency', 'ai_calls', 'ai_tokens', 'ai_spend_micros');
  -- A key's periods are its owner's; what belongs to an earlier one does not count.
  for i in 1..cardinality(v_limits) loop
    v_slot := (v_limits[i]).slot;
    if key_counts.resets_at[v_slot] is distinct from counts.resets_at[v_slot] then
      key_counts.used[v_slot] := 0;
      key_counts.held[v_slot] := 0;
      key_counts.resets_at[v_slot] := counts.resets_at[v_slot];
    end if;
  end loop;
  v_units := private.ai_units(hold, v_limits);
  select t.* into v_taken from private.take_units(key_counts, v_limits, v_units, 'UTC', now()) t;
  key_counts := v_taken.counts;
  if v_taken.short is not null then
    refusal := private.limit_refusal(v_limits[v_taken.short], key_counts, v_units[v_taken.short]);
    refusal := refusal || jsonb_build_object('message', 'This API key: ' || (refusal ->> 'message'));
  end if;
end $$;
comment on function private.take_key_units(private.ai_holds, private.meter_counts) is
  'The limits of an API key beside its owner''s, in the owner''s periods. The caller holds the owner''s lock, which protects the key''s counts, too.';

create function private.decide_ai_call(plan private.ai_plan) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_hold private.ai_holds := plan.hold;
  v_account private.accounts;
  v_taken record;
  v_key record;
  v_refusal jsonb := plan.refusal;
begin
  if v_refusal is null then
    v_account := private.lock_account(v_hold.user_id);
    if plan.idempotency_key is not null then
      v_refusal := private.find_idempotency_key(plan);
    end if;
  end if;
  if v_refusal is null then
    select t.* into v_taken from private.take_ai_units(plan, v_account.balance, v_account.held, v_account.counts) t;
    -- Null, not false, when nothing refused: and then the sweeper must not run, because what was taken is not stored yet.
    if coalesce(v_taken.refusal ->> 'code', '') in ('in_flight_budget_exhausted', 'concurrency_limit')
      and private.settle_abandoned_ai_calls(20, v_hold.user_id) > 0 then
      -- Calls whose process died held it.
      v_account := private.lock_account(v_hold.user_id);
      select t.* into v_taken from private.take_ai_units(plan, v_account.balance, v_account.held, v_account.counts) t;
    end if;
    v_refusal := v_taken.refusal;
  end if;
  if v_refusal is null and v_hold.api_key_id is not null then
    select k.* into v_key from private.take_key_units(v_hold, v_taken.counts) k;
    v_refusal := v_key.refusal;
  end if;
  if v_refusal is null and v_hold.api_key_id is not null and plan.signature_id is not null then
    -- Looked at before, without the lock; this is what decides between two that come at once.
    insert into private.used_signatures (api_key_id, message_id, expires_at)
    values (v_hold.api_key_id, plan.signature_id,
      now() + make_interval(secs => 2 * (private.setting('api_keys.signature_window_seconds'))::integer))
    on conflict on constraint used_signatures_pkey do nothing;
    if not found then
      v_refusal := jsonb_build_object('code', 'invalid_signature', 'message', 'This signed request was admitted before.');
    end if;
  end if;
  if v_refusal is not null then
    return private.refuse_ai_call(v_hold, v_refusal);
  end if;

  if v_hold.api_key_id is not null then
    update private.api_key_usage u set counts = v_key.key_counts where u.api_key_id = v_hold.api_key_id;
  end if;
  v_hold.day_resets_at := v_taken.day_resets_at;
  v_hold.month_resets_at := v_taken.month_resets_at;
  insert into private.ai_holds select v_hold.*;
  if plan.idempotency_key is not null then
    insert into private.ai_idempotency_keys (user_id, endpoint, key, body_hash, call_id)
    values (v_hold.user_id, v_hold.endpoint, plan.idempotency_key, plan.body_hash, v_hold.call_id);
  end if;
  update private.accounts a set held = v_account.held + v_hold.credits, counts = v_taken.counts where a.user_id = v_hold.user_id;
  return jsonb_build_object(
    'admitted', true,
    'call_id', v_hold.call_id,
    'routes', plan.routes,
    'credits_remaining', v_account.balance - v_account.held - v_hold.credits,
    'limits', v_taken.limits);
end $$;
comment on function private.decide_ai_call(private.ai_plan) is
  'The part of an admission that needs the account''s lock: every limit, the credits and the idempotency key together; then the hold, or a refusal that takes nothing.';

create function private.refuse_ai_call(hold private.ai_holds, refusal jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_code text := refusal ->> 'code';
  -- Nobody's call, somebody's earlier answer, or one of many that come too fast, for which a row each would be the attack.
  v_is_noted boolean := v_code not in ('invalid_api_key', 'invalid_signature', 'rate_limit_exceeded', 'concurrency_limit')
    and v_code not like 'idempotency%' and hold.user_id is not null;
begin
  if v_is_noted then
    insert into public.ai_calls
      (id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, provider_id, stream, state,
       http_status, error_code, request_bytes, settled_at)
    values
      (hold.call_id, hold.created_at, hold.user_id, hold.session_id, hold.api_key_id, hold.request_id, hold.endpoint,
       hold.model_id, hold.provider_id, hold.stream, 'refused',
       private.error_status(v_code), v_code, hold.request_bytes, now());
  end if;
  return jsonb_build_object('admitted', false, 'call_id', case when v_is_noted then hold.call_id end, 'details', '{}'::jsonb) || refusal;
end $$;
comment on function private.refuse_ai_call(private.ai_holds, jsonb) is
  'Remembers a refused call and its reason, unless it is one of a flood; takes nothing from the account.';

-- Plain calls, all at once ----------------------------------------------------------------------------------------------

create function private.admit_plain_ai_calls(requests jsonb, out positions bigint[], out answers json[])
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Slots, by their names in private.meters; a test compares them.
  c_ai_requests constant integer := 1;
  c_chat_completions_requests constant integer := 2;
  c_embeddings_requests constant integer := 3;
  c_images_generations_requests constant integer := 4;
  c_ai_concurrency constant integer := 5;
  c_ai_calls constant integer := 6;
  c_ai_tokens constant integer := 7;
  c_ai_spend_micros constant integer := 8;
  v_no_limit constant bigint := 9223372036854775807;
begin
  with calls as materialized (
    select r.*, p.plan_id, private.uuid_v7() as call_id
    from rows from (jsonb_to_recordset(requests) as (
        request_id text, user_id uuid, session_id uuid, endpoint text, model text, prompt_tokens_max bigint, max_output_tokens bigint,
        choices bigint, images bigint, stream boolean, request_bytes bigint, api_key_hash text, idempotency_key text, credential_id uuid)
      ) with ordinality r (
        request_id, user_id, session_id, endpoint, model, prompt_tokens_max, max_output_tokens,
        choices, images, stream, request_bytes, api_key_hash, idempotency_key, credential_id, position)
      join private.entitled_profiles p on p.id = r.user_id and p.is_active
      join private.live_sessions s on s.id = r.session_id and s.user_id = r.user_id
    where r.api_key_hash is null and r.idempotency_key is null and r.credential_id is null and length(r.request_id) between 1 and 64
      and least(r.prompt_tokens_max, r.max_output_tokens - 1, r.choices - 1, r.images, r.request_bytes) >= 0 and r.prompt_tokens_max >= 0
      and (s.aal = 'aal2' or not p.has_factor)
      and not exists (select from public.limit_overrides o where o.user_id = r.user_id)
  ), routes as materialized (
    -- What calls have in common is looked up once for all of them.
    select c.plan_id, c.endpoint, c.model, c.max_output_tokens as wish, e.slot, v.id as provider_id, x as price, m.credits_per_call as credits,
      w.output_tokens, now() + make_interval(
        secs => v.total_timeout_ms / 1000.0 + (select g.value::integer from private.settings g where g.key = 'ai.hold_grace_seconds')) as expires_at,
      json_build_array(json_build_object(
        'model', m.id, 'upstream_model', m.upstream_id, 'max_output_tokens', w.output_tokens, 'provider', to_jsonb(v) - 'enabled')) as answer
    from (select distinct d.plan_id, d.endpoint, d.model, d.max_output_tokens from calls d) c
      join (values
        ('chat.completions', 'chat', c_chat_completions_requests), ('embeddings', 'embedding', c_embeddings_requests),
        ('images.generations', 'image', c_images_generations_requests)) e (endpoint, kind, slot)
        on e.endpoint = c.endpoint
      join public.models m on m.id = c.model and m.enabled and m.kind = e.kind
      join private.providers v on v.id = m.provider_id and v.enabled
      join public.plan_models n on n.model_id = m.id and n.plan_id = c.plan_id
      cross join lateral (
        select y from public.model_prices y
        where y.model_id = m.id and y.valid_from <= now() order by y.valid_from desc limit 1) x (x)
      cross join lateral (
        select case when e.kind = 'chat' then least(m.max_output_tokens, coalesce(
          c.max_output_tokens, (select g.value::bigint from private.settings g where g.key = 'ai.default_max_output_tokens'))) else 0 end
      ) w (output_tokens)
    where not exists (select from private.model_fallbacks f where f.model_id = c.model)
      and not exists (select from private.circuit_breakers b where b.model_id = c.model)
  ), priced as materialized (
    select c.*, r.provider_id, (r.price).valid_from as price_valid_from, r.credits, r.slot, r.expires_at, r.answer,
      coalesce(c.choices, 1) * r.output_tokens as output_tokens,
      private.ai_cost_micros(r.price, c.prompt_tokens_max, 0, coalesce(c.choices, 1) * r.output_tokens,
        case when (r.price).reasoning_usd_per_mtok > (r.price).output_usd_per_mtok then coalesce(c.choices, 1) * r.output_tokens else 0 end,
        coalesce(c.images, 0)) as micros
    from calls c
      join routes r on r.plan_id = c.plan_id and r.endpoint = c.endpoint and r.model = c.model and r.wish is not distinct from c.max_output_tokens
  ), wanted as materialized (
    -- One endpoint per user: the calls of a user with two go the long way.
    select c.user_id, min(c.plan_id) as plan_id, min(c.slot) as slot, count(*) as calls, sum(c.credits)::bigint as credits,
      sum(c.prompt_tokens_max + c.output_tokens)::bigint as tokens, sum(c.micros)::bigint as micros
    from priced c group by c.user_id having min(c.slot) = max(c.slot)
  ), limits as materialized (
    select l.plan_id,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'ai_requests' and l.period = 'minute'), v_no_limit) as requests,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'chat_completions_requests' and l.period = 'minute'), v_no_limit) as chats,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'embeddings_requests' and l.period = 'minute'), v_no_limit) as embeddings,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'images_generations_requests' and l.period = 'minute'), v_no_limit) as images,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'ai_concurrency' and l.period = 'total'), v_no_limit) as concurrency,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'ai_calls' and l.period = 'day'), -1) as calls,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'ai_tokens' and l.period = 'month'), -1) as tokens,
      coalesce(min(coalesce(l.amount, v_no_limit)) filter (where l.meter = 'ai_spend_micros' and l.period = 'month'), v_no_limit) as micros
    from public.plan_limits l where l.plan_id in (select w.plan_id from wanted w) group by l.plan_id
  ), fitting as materialized (
    select w.*, l.requests as limit_requests, l.calls as limit_calls, l.tokens as limit_tokens
    from wanted w
      join limits l on l.plan_id = w.plan_id
      join private.accounts a on a.user_id = w.user_id
      -- A minute that is over is as good as empty; the other periods begin the long way, once each.
      cross join lateral (select
        case when (a.counts).resets_at[c_ai_requests] > now() then (a.counts).used[c_ai_requests] else 0 end as requests,
        case when (a.counts).resets_at[w.slot] > now() then (a.counts).used[w.slot] else 0 end as route_requests) k
    where a.next_expiry_at > now() and a.balance - a.held >= w.credits
      and (a.counts).resets_at[c_ai_concurrency] > now() and (a.counts).resets_at[c_ai_calls] > now()
      and (a.counts).resets_at[c_ai_tokens] > now() and (a.counts).resets_at[c_ai_spend_micros] > now()
      and k.requests + w.calls <= l.requests
      and k.route_requests + w.calls <= case w.slot
        when c_chat_completions_requests then l.chats when c_embeddings_requests then l.embeddings else l.images end
      and (a.counts).held[c_ai_concurrency] + w.calls <= l.concurrency
      and (a.counts).used[c_ai_calls] + (a.counts).held[c_ai_calls] + w.calls <= l.calls
      and (a.counts).used[c_ai_tokens] + (a.counts).held[c_ai_tokens] + w.tokens <= l.tokens
      and (a.counts).used[c_ai_spend_micros] + (a.counts).held[c_ai_spend_micros] + w.micros <= l.micros
  ), spent as (
    update private.spend_shards s set left_micros = s.left_micros - f.micros
    from (select sum(g.micros)::bigint as micros from fitting g) f
    where s.month = date_trunc('month', now() at time zone 'UTC')::date and s.shard = pg_backend_pid() % 128 and s.left_micros >= f.micros
    returning true as is_enough
  ), taken as (
    update private.accounts a set
      held = a.held + f.credits,
      counts.used[c_ai_requests] = case when (a.counts).resets_at[c_ai_requests] > now() then (a.counts).used[c_ai_requests] else 0 end + f.calls,
      counts.resets_at[c_ai_requests] = case
        when (a.counts).resets_at[c_ai_requests] > now() then (a.counts).resets_at[c_ai_requests] else now() + interval '1 minute' end,
      counts.used[f.slot] = case when (a.counts).resets_at[f.slot] > now() then (a.counts).used[f.slot] else 0 end + f.calls,
      counts.resets_at[f.slot] = case when (a.counts).resets_at[f.slot] > now() then (a.counts).resets_at[f.slot] else now() + interval '1 minute' end,
      counts.held[c_ai_concurrency] = (a.counts).held[c_ai_concurrency] + f.calls,
      counts.held[c_ai_calls] = (a.counts).held[c_ai_calls] + f.calls,
      counts.held[c_ai_tokens] = (a.counts).held[c_ai_tokens] + f.tokens,
      counts.held[c_ai_spend_micros] = (a.counts).held[c_ai_spend_micros] + f.micros
    from fitting f
    where a.user_id = f.user_id and (select s.is_enough from spent s)
    returning a.user_id, a.balance - a.held as credits, (a.counts).resets_at[c_ai_calls] as day_resets_at, (a.counts).resets_at[c_ai_tokens] as month_resets_at,
      (select coalesce(json_agg(private.limit_row(v.l, a.counts)), '[]') from (values
        (row(c_ai_requests, 'ai_requests', 'minute', false, f.limit_requests)::private.meter_limit),
        (row(c_ai_calls, 'ai_calls', 'day', true, f.limit_calls)::private.meter_limit),
        (row(c_ai_tokens, 'ai_tokens', 'month', true, f.limit_tokens)::private.meter_limit)) v (l)
      where (v.l).amount < v_no_limit) as limits
  ), admitted as materialized (
    select c.*, t.credits as credits_remaining, t.day_resets_at, t.month_resets_at, t.limits
    from priced c join taken t on t.user_id = c.user_id
  ), held as (
    insert into private.ai_holds
      (call_id, created_at, user_id, session_id, request_id, endpoint, model_id, provider_id, stream, request_bytes, credits,
        prompt_tokens, output_tokens, micros, price_valid_from, day_resets_at, month_resets_at, expires_at)
    select c.call_id, private.uuid_v7_time(c.call_id), c.user_id, c.session_id, c.request_id, c.endpoint, c.model, c.provider_id,
      coalesce(c.stream, false), coalesce(c.request_bytes, 0), c.credits, c.prompt_tokens_max, c.output_tokens, c.micros,
      c.price_valid_from, c.day_resets_at, c.month_resets_at, c.expires_at
    from admitted c
  )
  select array_agg(c.position), array_agg(json_build_object(
    'admitted', true, 'call_id', c.call_id, 'routes', c.answer, 'credits_remaining', c.credits_remaining, 'limits', c.limits))
  into positions, answers
  from admitted c;
end $$;
comment on function private.admit_plain_ai_calls(jsonb) is
  'Admits, in one statement for all callers at once, what most calls are: of a session, for a model with one route, in a running period, and with room for everything. Answers those, with their positions; what it leaves out has taken nothing, and goes the long way, which also says why not. The caller has locked the accounts in a statement before this one, so that it sees, under read committed, what nobody can change any more.';

create function private.admit_ai_calls(requests jsonb) returns json
language plpgsql volatile security definer set search_path = ''
-- Indexes also while tables are small: the plans of an empty project must be those of a full one.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_count integer := jsonb_array_length(requests);
  v_answers json[];
  v_plain record;
  v_plans private.ai_plan[] := '{}';
  v_plan private.ai_plan;
  v_answer jsonb;
  v_micros bigint := 0;
  v_unused bigint := 0;
  v_all boolean;
begin
  -- All accounts first, in the order in which settlements take them, too, and the shards of the project's cap last: so
  -- transactions never wait for each other in a circle. A key's owner is looked up here, and the key is judged later.
  perform a.user_id
  from jsonb_to_recordset(requests) r (user_id uuid, api_key_hash text)
    left join private.api_key_secrets s on s.secret_hash = decode(r.api_key_hash, 'hex')
    left join public.api_keys k on k.id = s.api_key_id
    join private.accounts a on a.user_id = coalesce(k.user_id, r.user_id)
  order by a.user_id for no key update of a;
  v_plain := private.admit_plain_ai_calls(requests);
  if v_count = 1 and v_plain.answers is not null then
    return json_build_array(v_plain.answers[1]);
  end if;
  v_answers := array_fill(null::json, array[v_count]);
  for i in 1..coalesce(cardinality(v_plain.positions), 0) loop
    v_answers[v_plain.positions[i]] := v_plain.answers[i];
  end loop;
  if cardinality(v_plain.positions) = v_count then
    return array_to_json(v_answers);
  end if;

  for i in 1..v_count loop
    if v_answers[i] is null then
      v_plan := private.plan_ai_call(requests -> (i - 1), i);
      v_plans := v_plans || v_plan;
      v_micros := v_micros + case when v_plan.refusal is null then (v_plan.hold).micros else 0 end;
    end if;
  end loop;
  -- The project's cap for all of them at once; when that does not fit, one by one.
  v_all := private.take_spend(v_micros);
  foreach v_plan in array v_plans loop
    if v_plan.refusal is null and not v_all and not private.take_spend((v_plan.hold).micros) then
      v_plan.refusal := jsonb_build_object('code', 'spend_cap_reached', 'message', 'This service has reached its spending limit for this month.');
    end if;
    v_answer := private.decide_ai_call(v_plan);
    if v_plan.refusal is null and not (v_answer -> 'admitted')::boolean then
      v_unused := v_unused + (v_plan.hold).micros;
    end if;
    v_answers[v_plan.position] := v_answer;
  end loop;
  if v_unused > 0 then
    perform private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, v_unused);
  end if;
  return array_to_json(v_answers);
end $$;
comment on function private.admit_ai_calls(jsonb) is
  'Decides AI calls, each by itself, in one transaction, and reserves their worst cases. Takes an array of {request_id, user_id and session_id or api_key_hash and ip, endpoint, model, prompt_tokens_max, max_output_tokens, choices, images, stream, request_bytes, idempotency_key, body_hash, credential_id}; answers, in the same order, {admitted: true, call_id, routes: [{model, upstream_model, max_output_tokens, provider, api_key}], credits_remaining, limits} or {admitted: false, call_id, code, message, details, replay}. Exact under read committed, because every admission and settlement of an account first takes its lock.';

create function private.admit_ai_call(request jsonb) returns json
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  return private.admit_ai_calls(jsonb_build_array(request)) -> 0;
end $$;
comment on function private.admit_ai_call(jsonb) is 'One call alone; see private.admit_ai_calls.';
