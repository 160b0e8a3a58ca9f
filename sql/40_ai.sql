-- AI: who may use which model at which price, one row per call, and the two statements around every provider call.

-- Catalogue ------------------------------------------------------------------------------------------------------------

create table private.providers (
  id text primary key check (id ~ '^[a-z][a-z0-9_-]{0,39}$'),
  base_url text not null check (base_url ~ '^https?://[^[:space:]]+[^/]$' and length(base_url) <= 300),
  api_key_secret text check (api_key_secret ~ '^[A-Z][A-Z0-9_]{0,99}$'),
  enabled boolean not null default true,
  connect_timeout_ms integer not null default 10000 check (connect_timeout_ms between 1 and 60000),
  first_byte_timeout_ms integer not null default 120000 check (first_byte_timeout_ms between 1 and 150000),
  idle_timeout_ms integer not null default 60000 check (idle_timeout_ms between 1 and 150000),
  total_timeout_ms integer not null default 300000 check (total_timeout_ms between 1 and 390000)
);
comment on table private.providers is 'OpenAI-compatible providers.';
comment on column private.providers.base_url is 'The OpenAI base URL, such as https://openrouter.ai/api/v1, without a slash at the end.';
comment on column private.providers.api_key_secret is 'Name of the environment variable or Vault secret that holds the key; null: the provider needs none. Never the key itself.';
revoke all on private.providers from anon, authenticated, service_role;

create table public.models (
  id text primary key check (length(id) between 1 and 200),
  provider_id text not null references private.providers (id) on delete restrict,
  upstream_id text not null check (length(upstream_id) between 1 and 200),
  kind text not null default 'chat' check (kind in ('chat', 'embedding', 'image')),
  context_tokens integer not null check (context_tokens > 0),
  max_output_tokens integer not null check (max_output_tokens > 0),
  credits_per_call bigint not null default 1 check (credits_per_call >= 0),
  enabled boolean not null default true,
  created_at timestamptz not null default now()
);
comment on table public.models is 'Models that callers can name. Which plan may use one: plan_models. What it costs: model_prices.';
comment on column public.models.upstream_id is 'The name the provider knows the model by.';
comment on column public.models.max_output_tokens is 'The most that is ever asked for in one answer; larger wishes are lowered to it.';
comment on column public.models.credits_per_call is 'Credits that a call that was answered costs.';
create index models_provider_id_idx on public.models (provider_id);
alter table public.models enable row level security;
alter table public.models force row level security;
revoke all on public.models from anon, authenticated, service_role;
grant select on public.models to authenticated;
grant select, insert, update, delete on public.models to service_role;

create table public.model_prices (
  model_id text not null references public.models (id) on delete cascade,
  valid_from timestamptz not null default now(),
  input_usd_per_mtok numeric not null check (input_usd_per_mtok >= 0),
  output_usd_per_mtok numeric not null check (output_usd_per_mtok >= 0),
  cached_input_usd_per_mtok numeric check (cached_input_usd_per_mtok >= 0),
  reasoning_usd_per_mtok numeric check (reasoning_usd_per_mtok >= 0),
  image_usd numeric not null default 0 check (image_usd >= 0),
  request_usd numeric not null default 0 check (request_usd >= 0),
  primary key (model_id, valid_from)
);
comment on table public.model_prices is 'Prices from a date on, in US dollars per million tokens, per image, per request. A model without a price is refused.';
comment on column public.model_prices.cached_input_usd_per_mtok is 'Null: cached tokens cost what other input costs.';
comment on column public.model_prices.reasoning_usd_per_mtok is 'Null: reasoning tokens cost what other output costs.';
alter table public.model_prices enable row level security;
alter table public.model_prices force row level security;
revoke all on public.model_prices from anon, authenticated, service_role;
grant select on public.model_prices to authenticated;
grant select, insert, update, delete on public.model_prices to service_role;

create table public.plan_models (
  plan_id text not null references public.plans (id) on delete cascade,
  model_id text not null references public.models (id) on delete cascade,
  primary key (plan_id, model_id)
);
comment on table public.plan_models is 'Which plan may use which model.';
create index plan_models_model_id_idx on public.plan_models (model_id);
alter table public.plan_models enable row level security;
alter table public.plan_models force row level security;
revoke all on public.plan_models from anon, authenticated, service_role;
grant select on public.plan_models to authenticated;
grant select, insert, update, delete on public.plan_models to service_role;

-- Calls ----------------------------------------------------------------------------------------------------------------

create table public.ai_calls (
  id uuid not null default private.uuid_v7(),
  created_at timestamptz not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  session_id uuid,
  api_key_id uuid,
  request_id text not null check (length(request_id) between 1 and 64),
  endpoint text not null check (length(endpoint) <= 40),
  model_id text not null check (length(model_id) <= 200),
  provider_id text check (length(provider_id) <= 40),
  stream boolean not null,
  state text not null check (state in ('held', 'settled', 'released', 'expired', 'refused')),
  http_status integer check (http_status between 100 and 599),
  error_code text check (length(error_code) <= 80),
  attempts integer not null default 0 check (attempts >= 0),
  request_bytes bigint not null check (request_bytes >= 0),
  response_bytes bigint check (response_bytes >= 0),
  duration_ms integer check (duration_ms >= 0),
  first_token_ms integer check (first_token_ms >= 0),
  prompt_tokens bigint check (prompt_tokens >= 0),
  completion_tokens bigint check (completion_tokens >= 0),
  cached_tokens bigint check (cached_tokens >= 0),
  reasoning_tokens bigint check (reasoning_tokens >= 0),
  usage_source text check (usage_source in ('provider', 'estimated', 'hold', 'none')),
  cost_micros bigint check (cost_micros >= 0),
  provider_cost_micros bigint check (provider_cost_micros >= 0),
  credits_charged bigint not null default 0 check (credits_charged >= 0),
  price_valid_from timestamptz,
  hold_credits bigint not null default 0 check (hold_credits >= 0),
  hold_prompt_tokens bigint not null default 0 check (hold_prompt_tokens >= 0),
  hold_output_tokens bigint not null default 0 check (hold_output_tokens >= 0),
  hold_micros bigint not null default 0 check (hold_micros >= 0),
  hold_expires_at timestamptz,
  day_resets_at timestamptz,
  month_resets_at timestamptz,
  started_at timestamptz,
  settled_at timestamptz,
  primary key (id, created_at),
  -- Found by id in one partition: see private.uuid_v7_time.
  check (created_at = private.uuid_v7_time(id))
) partition by range (created_at);
comment on table public.ai_calls is
  'One row per AI call: what was asked of whom, how it ended, what it used and cost. Never the prompt or the answer.';
comment on column public.ai_calls.state is
  'held: running; settled: charged for what it used; released: failed and free; expired: nobody settled it, the sweeper did; refused: never reached the provider.';
comment on column public.ai_calls.api_key_id is 'The API key that called; null for a session. No foreign key: calls outlive keys.';
comment on column public.ai_calls.cost_micros is 'What the call cost at our price, in micro-dollars, rounded up once.';
comment on column public.ai_calls.provider_cost_micros is 'What the provider says it cost, in micro-dollars, when it says so.';
comment on column public.ai_calls.usage_source is
  'provider: as reported; estimated: from bytes, because no report came; hold: the worst case, because the process died; none: nothing was used.';
comment on column public.ai_calls.hold_micros is 'The worst case that was reserved, in micro-dollars.';
comment on column public.ai_calls.started_at is 'When the first byte went to the caller: from then on the call is never free.';
create table private.ai_calls_default partition of public.ai_calls default;
revoke all on private.ai_calls_default from anon, authenticated, service_role;
create index ai_calls_user_id_created_at_idx on public.ai_calls (user_id, created_at desc);
create index ai_calls_hold_expires_at_idx on public.ai_calls (hold_expires_at) where state = 'held';
alter table public.ai_calls enable row level security;
alter table public.ai_calls force row level security;
revoke all on public.ai_calls from anon, authenticated, service_role;
grant select on public.ai_calls to authenticated, service_role;

create function private.create_ai_call_partitions() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_month timestamp;
  v_from timestamptz;
  v_to timestamptz;
  v_name text;
  v_created integer := 0;
begin
  for v_ahead in 0..2 loop
    v_month := date_trunc('month', now() at time zone 'UTC') + make_interval(months => v_ahead);
    v_name := 'ai_calls_' || to_char(v_month, 'YYYYMM');
    if to_regclass(format('private.%I', v_name)) is null then
      v_from := v_month at time zone 'UTC';
      v_to := (v_month + interval '1 month') at time zone 'UTC';
      execute format('create table private.%I (like public.ai_calls including defaults including constraints)', v_name);
      execute format('revoke all on private.%I from anon, authenticated, service_role', v_name);
      -- Calls that came while there was no partition are in the default one, and would forbid this one.
      execute format(
        'with late as (delete from private.ai_calls_default where created_at >= %L and created_at < %L returning *)
        insert into private.%I select * from late', v_from, v_to, v_name);
      execute format(
        'alter table public.ai_calls attach partition private.%I for values from (%L) to (%L)', v_name, v_from, v_to);
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end $$;
comment on function private.create_ai_call_partitions() is
  'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

-- Money ----------------------------------------------------------------------------------------------------------------

create function private.ai_cost_micros(
  price public.model_prices, prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint,
  reasoning_tokens bigint, images bigint
) returns bigint
language sql immutable security invoker set search_path = ''
return ceil(
  -- One dollar per million tokens is one micro-dollar per token. Cached tokens are part of the prompt's, reasoning
  -- tokens part of the completion's: never counted twice.
  (ai_cost_micros.prompt_tokens - least(ai_cost_micros.cached_tokens, ai_cost_micros.prompt_tokens))
    * (price).input_usd_per_mtok
  + least(ai_cost_micros.cached_tokens, ai_cost_micros.prompt_tokens)
    * coalesce((price).cached_input_usd_per_mtok, (price).input_usd_per_mtok)
  + (ai_cost_micros.completion_tokens - least(ai_cost_micros.reasoning_tokens, ai_cost_micros.completion_tokens))
    * (price).output_usd_per_mtok
  + least(ai_cost_micros.reasoning_tokens, ai_cost_micros.completion_tokens)
    * coalesce((price).reasoning_usd_per_mtok, (price).output_usd_per_mtok)
  + ai_cost_micros.images * (price).image_usd * 1000000
  + (price).request_usd * 1000000
)::bigint;
comment on function private.ai_cost_micros(public.model_prices, bigint, bigint, bigint, bigint, bigint) is
  'Exact cost in micro-dollars, rounded up once. Tokens as OpenAI reports them: cached within prompt, reasoning within completion.';

create function private.current_price(model_id text, at timestamptz) returns public.model_prices
language sql stable security invoker set search_path = ''
as $$
  select p.* from public.model_prices p
  where p.model_id = current_price.model_id and p.valid_from <= current_price.at
  order by p.valid_from desc limit 1
$$;
comment on function private.current_price(text, timestamptz) is 'The price that holds at a moment; null fields when there is none.';

-- Admission ------------------------------------------------------------------------------------------------------------

create function private.check_account(user_id uuid, session_id uuid, by_api_key boolean default false) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_account record;
begin
  select p.status, u.banned_until > now() as is_banned, u.is_anonymous, s.id is not null as has_session,
    s.aal is distinct from 'aal2' and exists (
      select from auth.mfa_factors f where f.user_id = p.id and f.status = 'verified') as lacks_factor
  into v_account
  from public.profiles p
    join auth.users u on u.id = p.id
    left join private.live_sessions s on s.id = check_account.session_id and s.user_id = p.id
  where p.id = check_account.user_id;
  if not found or v_account.status = 'deleted' or not (v_account.has_session or by_api_key) then
    return jsonb_build_object('code', 'invalid_api_key', 'message',
      case when by_api_key then 'There is no such account.' else 'This session has ended. Sign in again.' end);
  elsif v_account.status = 'suspended' or v_account.is_banned then
    return jsonb_build_object('code', 'account_suspended', 'message', 'This account is suspended.');
  elsif v_account.status <> 'active' or v_account.is_anonymous then
    return jsonb_build_object('code', 'account_pending', 'message', 'Confirm your e-mail address first.');
  elsif v_account.lacks_factor and not by_api_key then
    return jsonb_build_object('code', 'insufficient_aal', 'message', 'Sign in with your second factor first.');
  end if;
  return null;
end $$;
comment on function private.check_account(uuid, uuid, boolean) is
  'Null when the account is active, not anonymous, and the session lives and has used the second factor where there is one; else {code, message}. Tokens outlive sessions, so every call asks. by_api_key: there is no session to ask for.';

create function private.ai_caller(request jsonb, scope text, out user_id uuid, out session_id uuid, out api_key_id uuid, out refusal jsonb)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ip text := request ->> 'ip';
begin
  if request ->> 'api_key_hash' is null then
    user_id := request ->> 'user_id';
    session_id := request ->> 'session_id';
    return;
  end if;
  select k.user_id, k.api_key_id, k.refusal into user_id, api_key_id, refusal
  from private.check_api_key(
    decode(request ->> 'api_key_hash', 'hex'), ai_caller.scope, case when pg_input_is_valid(v_ip, 'inet') then v_ip::inet end) k;
end $$;
comment on function private.ai_caller(jsonb, text) is
  'Who calls: {user_id, session_id} of a token that was verified, or the owner of {api_key_hash, ip}; refusal {code, message} when the key is not good for this scope.';

create function private.admit_ai_call(request jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_caller record;
  v_user_id uuid;
  v_choices bigint := coalesce((request ->> 'choices')::bigint, 1);
  v_prompt_tokens bigint := (request ->> 'prompt_tokens_max')::bigint;
  v_call public.ai_calls;
  v_account private.credit_accounts;
  v_model public.models;
  v_provider private.providers;
  v_price public.model_prices;
  v_refusal jsonb;
begin
  select c.* into v_caller from private.ai_caller(request, request ->> 'endpoint') c;
  if v_caller.refusal is not null then
    return jsonb_build_object('admitted', false, 'call_id', null, 'details', '{}'::jsonb) || v_caller.refusal;
  end if;
  v_user_id := v_caller.user_id;
  v_call.id := private.uuid_v7();
  v_call.created_at := private.uuid_v7_time(v_call.id);
  v_call.user_id := v_user_id;
  v_call.session_id := v_caller.session_id;
  v_call.api_key_id := v_caller.api_key_id;
  v_call.request_id := request ->> 'request_id';
  v_call.endpoint := request ->> 'endpoint';
  v_call.model_id := left(request ->> 'model', 200);
  v_call.stream := coalesce((request ->> 'stream')::boolean, false);
  v_call.request_bytes := coalesce((request ->> 'request_bytes')::bigint, 0);

  -- The account's lock comes first, before anything is read that it protects.
  v_account := private.lock_account(v_user_id);
  v_refusal := private.check_account(v_user_id, v_call.session_id, v_call.api_key_id is not null);
  if v_refusal ->> 'code' = 'invalid_api_key' then
    return jsonb_build_object('admitted', false, 'call_id', null, 'details', '{}'::jsonb) || v_refusal;
  elsif v_refusal is not null then
    return private.refuse_ai_call(v_call, v_refusal);
  end if;

  select m.* into v_model from public.models m where m.id = request ->> 'model' and m.enabled;
  select p.* into v_provider from private.providers p where p.id = v_model.provider_id and p.enabled;
  if v_model.id is null or v_provider.id is null then
    return private.refuse_ai_call(v_call, jsonb_build_object('code', 'model_not_found',
      'message', format('There is no model %s.', v_call.model_id), 'details', jsonb_build_object('param', 'model')));
  end if;
  v_call.provider_id := v_provider.id;
  if not exists (
    select from public.plan_models pm join public.profiles p on p.plan_id = pm.plan_id
    where p.id = v_user_id and pm.model_id = v_model.id
  ) then
    return private.refuse_ai_call(v_call, jsonb_build_object('code', 'model_not_allowed',
      'message', format('Your plan does not include the model %s.', v_model.id), 'details', jsonb_build_object('param', 'model')));
  end if;
  v_price := private.current_price(v_model.id, now());
  if v_price.model_id is null then
    return private.refuse_ai_call(v_call, jsonb_build_object('code', 'model_not_priced',
      'message', format('The model %s has no price yet, so it cannot be used.', v_model.id), 'details', jsonb_build_object('param', 'model')));
  end if;

  -- The worst case of exactly what will be forwarded.
  v_call.hold_credits := v_model.credits_per_call;
  v_call.hold_prompt_tokens := v_prompt_tokens;
  v_call.hold_output_tokens := v_choices * least(
    coalesce((request ->> 'max_output_tokens')::bigint, (private.setting('ai.default_max_output_tokens'))::bigint),
    v_model.max_output_tokens);
  v_call.price_valid_from := v_price.valid_from;
  v_call.hold_micros := private.ai_cost_micros(
    v_price, v_call.hold_prompt_tokens, 0, v_call.hold_output_tokens,
    case when v_price.reasoning_usd_per_mtok > v_price.output_usd_per_mtok then v_call.hold_output_tokens else 0 end, 0);
  v_call.hold_expires_at := now() + make_interval(
    secs => v_provider.total_timeout_ms / 1000.0 + (private.setting('ai.hold_grace_seconds'))::integer);

  v_refusal := private.check_ai_budget(v_call, v_account);
  if v_refusal is not null then
    return private.refuse_ai_call(v_call, v_refusal);
  end if;
  v_call := private.hold_ai_call(v_call);
  return jsonb_build_object(
    'admitted', true,
    'call_id', v_call.id,
    'provider', to_jsonb(v_provider) - 'enabled',
    'upstream_model', v_model.upstream_id,
    'max_output_tokens', v_call.hold_output_tokens / v_choices,
    'credits_remaining', v_account.balance - v_account.held - v_call.hold_credits,
    'limits', private.ai_limits(v_user_id));
end $$;
comment on function private.admit_ai_call(jsonb) is
  'Decides one AI call in one transaction and reserves its worst case, or refuses it, notes why and consumes nothing. Takes {request_id, user_id and session_id or api_key_hash and ip, endpoint, model, prompt_tokens_max, max_output_tokens, choices, stream, request_bytes}; answers {admitted: true, call_id, provider, upstream_model, max_output_tokens, credits_remaining, limits} or {admitted: false, call_id, code, message, details}. Exact under read committed, because every admission and settlement of an account first takes its lock.';

create function private.refuse_ai_call(call public.ai_calls, refusal jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into public.ai_calls
    (id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, provider_id, stream, state,
     http_status, error_code, request_bytes, settled_at)
  values
    ((call).id, (call).created_at, (call).user_id, (call).session_id, (call).api_key_id, (call).request_id, (call).endpoint,
     (call).model_id, (call).provider_id, (call).stream, 'refused',
     private.error_status(refusal ->> 'code'), refusal ->> 'code', (call).request_bytes, now());
  return jsonb_build_object('admitted', false, 'call_id', (call).id, 'details', '{}'::jsonb) || refusal;
end $$;
comment on function private.refuse_ai_call(public.ai_calls, jsonb) is 'Remembers a refused call and its reason; takes nothing from the account.';

create function private.check_ai_budget(call public.ai_calls, account private.credit_accounts) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_limit record;
  v_needed bigint;
  v_row jsonb;
begin
  for v_limit in
    select l.*, l.meter || '/' || l.period as name from (values ('ai_calls', 'day'), ('ai_tokens', 'month')) w (meter, period)
      left join private.limits_of((call).user_id) l using (meter, period)
    order by w.meter
  loop
    v_needed := case v_limit.meter when 'ai_calls' then 1 else (call).hold_prompt_tokens + (call).hold_output_tokens end;
    if v_limit.resets_at is null then
      return jsonb_build_object('code', 'insufficient_quota', 'message', 'Your plan has no AI calls.', 'details', '{}'::jsonb);
    end if;
    continue when v_limit.amount is null or v_limit.used + v_limit.held + v_needed <= v_limit.amount;
    v_row := jsonb_build_object(
      'meter', v_limit.meter, 'period', v_limit.period, 'amount', v_limit.amount, 'used', v_limit.used,
      'held', v_limit.held, 'remaining', private.remaining(v_limit.amount, v_limit.used + v_limit.held),
      'resets_at', v_limit.resets_at);
    if v_limit.used + v_needed <= v_limit.amount then
      return jsonb_build_object(
        'code', 'in_flight_budget_exhausted',
        'message', format('Calls that are still running hold the rest of %s. Try again when they have ended.', v_limit.name),
        'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1));
    elsif v_limit.meter = 'ai_calls' then
      return jsonb_build_object(
        'code', 'daily_quota_exceeded',
        'message', format('All %s AI calls of today are used.', v_limit.amount),
        'details', jsonb_build_object(
          'limit', v_row, 'resets_at', v_limit.resets_at,
          'retry_after_s', ceil(extract(epoch from v_limit.resets_at - now()))));
    end if;
    return jsonb_build_object(
      'code', 'insufficient_quota',
      'message', format(
        'This call may need %s tokens; %s of %s are left this month. A smaller max_tokens may fit.',
        v_needed, greatest(v_limit.amount - v_limit.used, 0), v_limit.amount),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_limit.resets_at));
  end loop;
  if (account).balance - (account).held < (call).hold_credits then
    v_row := jsonb_build_object(
      'meter', 'credits', 'period', 'total', 'amount', (account).balance, 'used', 0, 'held', (account).held,
      'remaining', (account).balance - (account).held, 'resets_at', null);
    if (account).balance >= (call).hold_credits then
      return jsonb_build_object(
        'code', 'in_flight_budget_exhausted',
        'message', 'Calls that are still running hold the rest of your credits. Try again when they have ended.',
        'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1));
    end if;
    return jsonb_build_object(
      'code', 'insufficient_credits',
      'message', format('This call costs %s credits; you have %s.', (call).hold_credits, (account).balance),
      'details', jsonb_build_object('limit', v_row));
  end if;
  return null;
end $$;
comment on function private.check_ai_budget(public.ai_calls, private.credit_accounts) is
  'Null when every limit and the credits have room for the call''s hold; else {code, message, details}. The caller holds the account''s lock.';

create function private.hold_ai_call(call public.ai_calls) returns public.ai_calls
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  select l.resets_at into call.day_resets_at from private.limits_of(call.user_id) l
  where l.meter = 'ai_calls' and l.period = 'day';
  select l.resets_at into call.month_resets_at from private.limits_of(call.user_id) l
  where l.meter = 'ai_tokens' and l.period = 'month';
  perform private.add_usage(call.user_id, 'ai_calls', 'day', 0, 1, call.day_resets_at);
  perform private.add_usage(
    call.user_id, 'ai_tokens', 'month', 0, call.hold_prompt_tokens + call.hold_output_tokens, call.month_resets_at);
  update private.credit_accounts a set held = a.held + call.hold_credits where a.user_id = call.user_id;
  call.state := 'held';
  call.attempts := 0;
  call.credits_charged := 0;
  insert into public.ai_calls select (call).*;
  return call;
end $$;
comment on function private.hold_ai_call(public.ai_calls) is 'Reserves the call''s worst case and writes its row. The caller holds the account''s lock.';

create function private.ai_limits(user_id uuid) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'meter', l.meter, 'period', l.period, 'amount', l.amount, 'used', l.used, 'held', l.held,
    'remaining', private.remaining(l.amount, l.used + l.held), 'resets_at', l.resets_at)), '[]')
  from private.limits_of(ai_limits.user_id) l
  where l.meter in ('ai_calls', 'ai_tokens')
$$;
comment on function private.ai_limits(uuid) is 'The AI limits of an account as JSON, for response headers.';

-- Settlement -----------------------------------------------------------------------------------------------------------

create function private.start_ai_call(call_id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$
  update public.ai_calls c set started_at = now()
  where c.id = start_ai_call.call_id and c.created_at = private.uuid_v7_time(start_ai_call.call_id)
    and c.state = 'held' and c.started_at is null
$$;
comment on function private.start_ai_call(uuid) is 'Notes that the first byte went to the caller: if the process dies now, the sweeper charges the hold.';

create function private.close_ai_call(
  call_id uuid, state text, usage jsonb, usage_source text, outcome jsonb
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_created_at timestamptz := private.uuid_v7_time(close_ai_call.call_id);
  v_user_id uuid;
  v_call public.ai_calls;
  v_price public.model_prices;
  v_tokens bigint;
  v_is_charged boolean := close_ai_call.usage is not null;
  v_account private.credit_accounts;
begin
  select c.user_id into v_user_id from public.ai_calls c
  where c.id = close_ai_call.call_id and c.created_at = v_created_at;
  if not found then
    perform private.raise_error('not_found', 'There is no such call.');
  end if;
  -- The same order as admission: the account first, then the call.
  perform private.lock_account(v_user_id);
  select c.* into v_call from public.ai_calls c
  where c.id = close_ai_call.call_id and c.created_at = v_created_at and c.state = 'held';
  if not found then
    return jsonb_build_object('settled', false);
  end if;
  select p.* into v_price from public.model_prices p
  where p.model_id = v_call.model_id and p.valid_from = v_call.price_valid_from;

  update public.ai_calls c set
    state = close_ai_call.state,
    http_status = (outcome ->> 'http_status')::integer,
    error_code = left(outcome ->> 'error_code', 80),
    attempts = coalesce((outcome ->> 'attempts')::integer, 0),
    response_bytes = (outcome ->> 'response_bytes')::bigint,
    duration_ms = (outcome ->> 'duration_ms')::integer,
    first_token_ms = (outcome ->> 'first_token_ms')::integer,
    prompt_tokens = greatest((close_ai_call.usage ->> 'prompt_tokens')::bigint, 0),
    completion_tokens = greatest((close_ai_call.usage ->> 'completion_tokens')::bigint, 0),
    cached_tokens = greatest((close_ai_call.usage ->> 'cached_tokens')::bigint, 0),
    reasoning_tokens = greatest((close_ai_call.usage ->> 'reasoning_tokens')::bigint, 0),
    usage_source = close_ai_call.usage_source,
    provider_cost_micros = case when close_ai_call.usage ->> 'cost_usd' is not null then
      greatest(ceil((close_ai_call.usage ->> 'cost_usd')::numeric * 1000000)::bigint, 0) end,
    credits_charged = case when v_is_charged then c.hold_credits else 0 end,
    settled_at = now()
  where c.id = close_ai_call.call_id and c.created_at = v_created_at
  returning c.* into v_call;

  if v_is_charged then
    v_call.cost_micros := case
      when v_call.prompt_tokens + v_call.completion_tokens = 0 then 0
      -- Nobody reported what was used, or the price row was deleted meanwhile.
      when v_call.usage_source = 'hold' or v_price.model_id is null then v_call.hold_micros
      else private.ai_cost_micros(v_price, v_call.prompt_tokens, v_call.cached_tokens,
        v_call.completion_tokens, v_call.reasoning_tokens, 0)
    end;
  else
    v_call.cost_micros := 0;
  end if;
  update public.ai_calls c set cost_micros = v_call.cost_micros where c.id = v_call.id and c.created_at = v_created_at;

  -- A hold of a period that has ended went with it: resets_at tells.
  v_tokens := case when v_is_charged then v_call.prompt_tokens + v_call.completion_tokens else 0 end;
  update private.usage_counters u set held = u.held - 1, used = u.used + v_is_charged::integer
  where u.user_id = v_user_id and u.meter = 'ai_calls' and u.period = 'day' and u.resets_at = v_call.day_resets_at;
  update private.usage_counters u set
    held = u.held - v_call.hold_prompt_tokens - v_call.hold_output_tokens, used = u.used + v_tokens
  where u.user_id = v_user_id and u.meter = 'ai_tokens' and u.period = 'month' and u.resets_at = v_call.month_resets_at;
  update private.credit_accounts a set held = a.held - v_call.hold_credits where a.user_id = v_user_id;
  if v_call.credits_charged > 0 then
    perform private.add_credit_entry(
      v_user_id, -v_call.credits_charged, 'ai_call', left('AI call: ' || v_call.model_id, 200), 'ai_call:' || v_call.id);
  end if;
  select a.* into v_account from private.credit_accounts a where a.user_id = v_user_id;
  return jsonb_build_object(
    'settled', true, 'cost_micros', v_call.cost_micros, 'credits_charged', v_call.credits_charged,
    'credits_remaining', v_account.balance - v_account.held);
end $$;
comment on function private.close_ai_call(uuid, text, jsonb, text, jsonb) is
  'The one way out of state held: charges usage (null: nothing), gives back the hold, writes the ledger, in one transaction; {settled: false} when the call was closed before.';

create function private.settle_ai_call(call_id uuid, outcome jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_usage jsonb := nullif(outcome -> 'usage', 'null'::jsonb);
begin
  if outcome ->> 'result' not in ('succeeded', 'failed', 'cancelled') or (outcome ->> 'result') is null then
    perform private.raise_error('invalid_request_error', 'result must be succeeded, failed or cancelled.');
  end if;
  if v_usage is null and outcome ->> 'result' = 'succeeded' then
    perform private.raise_error('invalid_request_error', 'A call that succeeded needs its usage, reported or estimated.');
  end if;
  return private.close_ai_call(
    settle_ai_call.call_id, case when v_usage is null then 'released' else 'settled' end,
    v_usage, coalesce(outcome ->> 'usage_source', 'none'), outcome);
end $$;
comment on function private.settle_ai_call(uuid, jsonb) is
  'Ends a held call exactly once. Takes {result: succeeded | failed | cancelled, http_status, error_code, usage: {prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd} or null, usage_source, response_bytes, duration_ms, first_token_ms, attempts}; usage null costs nothing. Answers {settled, cost_micros, credits_charged, credits_remaining}; settled is false when it was closed before.';

create function private.settle_abandoned_ai_calls(batch_size integer default 100) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_found record;
  v_call public.ai_calls;
  v_closed integer := 0;
begin
  for v_found in
    select c.id, c.created_at, c.user_id from public.ai_calls c
    where c.state = 'held' and c.hold_expires_at < now()
    order by c.user_id limit batch_size
  loop
    perform private.lock_account(v_found.user_id);
    -- Read again under the locks: meanwhile it may have been settled, or its answer may have begun.
    select c.* into v_call from public.ai_calls c
    where c.id = v_found.id and c.created_at = v_found.created_at and c.state = 'held'
    for update;
    continue when not found;
    begin
      perform private.close_ai_call(
        v_call.id,
        'expired',
        case when v_call.started_at is not null then jsonb_build_object(
          'prompt_tokens', v_call.hold_prompt_tokens, 'completion_tokens', v_call.hold_output_tokens) end,
        case when v_call.started_at is not null then 'hold' else 'none' end,
        jsonb_build_object('http_status', 500, 'error_code', 'abandoned'));
      v_closed := v_closed + 1;
    exception when others then
      -- One call that cannot be closed must not keep the others open; the next run tries it again.
      raise warning 'AI call % cannot be settled: % %', v_call.id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_closed;
end $$;
comment on function private.settle_abandoned_ai_calls(integer) is
  'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it; harmless at any time. Answers how many it closed.';

create function private.list_ai_models(caller jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_caller record;
  v_refusal jsonb;
begin
  select c.* into v_caller from private.ai_caller(list_ai_models.caller, 'models') c;
  v_refusal := coalesce(v_caller.refusal,
    private.check_account(v_caller.user_id, v_caller.session_id, v_caller.api_key_id is not null));
  if v_refusal is not null then
    return jsonb_build_object('allowed', false) || v_refusal;
  end if;
  return jsonb_build_object('allowed', true, 'models', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', m.id, 'owned_by', m.provider_id, 'created', floor(extract(epoch from m.created_at)), 'kind', m.kind) order by m.id)
    from public.models m
      join public.plan_models pm on pm.model_id = m.id
      join public.profiles p on p.plan_id = pm.plan_id and p.id = v_caller.user_id
      join private.providers pr on pr.id = m.provider_id and pr.enabled
    where m.enabled and (private.current_price(m.id, now())).model_id is not null
  ), '[]'));
end $$;
comment on function private.list_ai_models(jsonb) is
  'Takes a caller as private.ai_caller does. The models the account''s plan may use: {allowed: true, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

create function private.verify_credit_balances()
returns table (user_id uuid, balance bigint, entries_sum bigint, held bigint, open_holds bigint)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, a.balance, e.amount, a.held, h.credits
  from private.credit_accounts a
    cross join lateral (
      select coalesce(sum(c.amount), 0)::bigint as amount from public.credit_entries c where c.user_id = a.user_id) e
    cross join lateral (
      select coalesce(sum(c.hold_credits), 0)::bigint as credits
      from public.ai_calls c where c.user_id = a.user_id and c.state = 'held') h
  where a.balance <> e.amount or a.held <> h.credits
$$;
comment on function private.verify_credit_balances() is
  'Accounts whose balance is not the sum of their entries, or whose held credits are not those of their open calls. Always empty; run it whenever you like.';

