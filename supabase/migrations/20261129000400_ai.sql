-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/40_ai.sql =======================================================================================================

-- AI: who may use which model at which price, and one row per call.

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
insert into private.providers (id, base_url, api_key_secret) values
  ('openrouter', 'https://openrouter.ai/api/v1', 'OPENROUTER_API_KEY')
on conflict (id) do nothing;

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
-- One model to begin with.
insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, credits_per_call) values
  ('openai/gpt-4o-mini', 'openrouter', 'openai/gpt-4o-mini', 128000, 16384, 1)
on conflict (id) do nothing;

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
-- The provider's list price of 2026; prices are rows, look them up before you offer a model.
insert into public.model_prices
  (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok) values
  ('openai/gpt-4o-mini', '2026-01-01T00:00:00Z', 0.15, 0.60, 0.075)
on conflict (model_id, valid_from) do nothing;

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
insert into public.plan_models (plan_id, model_id) values
  ('free', 'openai/gpt-4o-mini'), ('premium', 'openai/gpt-4o-mini')
on conflict (plan_id, model_id) do nothing;

create table private.model_fallbacks (
  model_id text not null references public.models (id) on delete cascade,
  position integer not null check (position between 1 and 5),
  fallback_model_id text not null references public.models (id) on delete cascade,
  primary key (model_id, position),
  unique (model_id, fallback_model_id),
  check (fallback_model_id <> model_id)
);
comment on table private.model_fallbacks is
  'Models that may answer in the place of another when its provider fails, in this order. The caller''s plan, the price and the hold are checked for each.';
create index model_fallbacks_fallback_model_id_idx on private.model_fallbacks (fallback_model_id);
revoke all on private.model_fallbacks from anon, authenticated, service_role;

-- Calls ----------------------------------------------------------------------------------------------------------------

create table private.ai_holds (
  call_id uuid primary key,
  created_at timestamptz not null,
  user_id uuid not null,
  session_id uuid,
  api_key_id uuid,
  request_id text not null,
  endpoint text not null,
  model_id text not null,
  provider_id text,
  stream boolean not null,
  own_key boolean not null default false,
  request_bytes bigint not null,
  credits bigint not null,
  prompt_tokens bigint not null,
  output_tokens bigint not null,
  micros bigint not null,
  price_valid_from timestamptz,
  routes jsonb,
  day_resets_at timestamptz not null,
  month_resets_at timestamptz not null,
  started_at timestamptz,
  expires_at timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
comment on table private.ai_holds is
  'Calls that are running, and what they hold. A hold ends once: its row is deleted in the transaction that writes the call''s row in ai_calls. Small and hot, so without checks and foreign keys: private.plan_ai_call is its only door.';
comment on column private.ai_holds.own_key is 'The caller''s own key of the provider pays: no credits, and nothing of the project''s money.';
comment on column private.ai_holds.routes is 'With fallbacks: model, credits and price date of every route that the hold covers.';
comment on column private.ai_holds.started_at is 'When the first byte went to the caller: from then on the call is never free.';
comment on column private.ai_holds.expires_at is 'After this the call counts as abandoned, and the sweeper settles it.';
create index ai_holds_expires_at_idx on private.ai_holds (expires_at);
revoke all on private.ai_holds from anon, authenticated, service_role;

create table public.ai_calls (
  id uuid not null default private.uuid_v7(),
  created_at timestamptz not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  session_id uuid,
  api_key_id uuid,
  request_id text not null,
  endpoint text not null,
  model_id text not null,
  answered_by text,
  provider_id text,
  stream boolean not null,
  -- One check: each costs a hot table two microseconds a row.
  state text not null check (state in ('settled', 'released', 'expired', 'refused')),
  http_status integer,
  error_code text,
  attempts integer not null default 0,
  request_bytes bigint not null,
  response_bytes bigint,
  duration_ms integer,
  first_token_ms integer,
  prompt_tokens bigint,
  completion_tokens bigint,
  cached_tokens bigint,
  reasoning_tokens bigint,
  images bigint,
  usage_source text,
  cost_micros bigint,
  provider_cost_micros bigint,
  credits_charged bigint not null default 0,
  hold_micros bigint not null default 0,
  price_valid_from timestamptz,
  settled_at timestamptz not null default now(),
  -- Found by id in one partition: created_at is private.uuid_v7_time(id).
  primary key (id, created_at)
) partition by range (created_at);
comment on table public.ai_calls is
  'The usage log: one row per AI call that has ended: what was asked of whom, how it ended, what it used and cost. Never the prompt or the answer. Written once, never changed; its texts are as long as those of ai_holds.';
comment on column public.ai_calls.state is
  'settled: charged for what it used; released: failed and free; expired: nobody settled it, the sweeper did; refused: never reached the provider.';
comment on column public.ai_calls.api_key_id is 'The API key that called; null for a session. No foreign key: calls outlive keys.';
comment on column public.ai_calls.model_id is 'The model that was asked for.';
comment on column public.ai_calls.answered_by is 'The model that answered and is charged: the one asked for, or one of its fallbacks; null when none did.';
comment on column public.ai_calls.cost_micros is 'What the call cost at our price, in micro-dollars, rounded up once.';
comment on column public.ai_calls.provider_cost_micros is 'What the provider says it cost, in micro-dollars, when it says so.';
comment on column public.ai_calls.usage_source is
  'provider: as reported; estimated: from bytes, because no report came; hold: the worst case, because the process died; none: nothing was used.';
comment on column public.ai_calls.hold_micros is 'The worst case that was reserved, in micro-dollars.';
create table private.ai_calls_default partition of public.ai_calls default;
revoke all on private.ai_calls_default from anon, authenticated, service_role;
create index ai_calls_user_id_created_at_idx on public.ai_calls (user_id, created_at desc);
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
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  -- Cached tokens are part of the prompt's, reasoning tokens part of the completion's: never counted twice.
  v_cached bigint := least(cached_tokens, prompt_tokens);
  v_reasoning bigint := least(reasoning_tokens, completion_tokens);
begin
  -- One dollar per million tokens is one micro-dollar per token.
  return ceil(
    (prompt_tokens - v_cached) * price.input_usd_per_mtok
    + v_cached * coalesce(price.cached_input_usd_per_mtok, price.input_usd_per_mtok)
    + (completion_tokens - v_reasoning) * price.output_usd_per_mtok
    + v_reasoning * coalesce(price.reasoning_usd_per_mtok, price.output_usd_per_mtok)
    + (images * price.image_usd + price.request_usd) * 1000000);
end $$;
comment on function private.ai_cost_micros(public.model_prices, bigint, bigint, bigint, bigint, bigint) is
  'Exact cost in micro-dollars, rounded up once. Tokens as OpenAI reports them: cached within prompt, reasoning within completion.';

-- sql/41_ai_admission.sql =============================================================================================

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

-- sql/42_ai_settlement.sql ============================================================================================

-- Settlement of AI calls: once, to what was used; by the gateway, or by the sweeper for processes that died.

create function private.start_ai_calls(call_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
-- The index also while the table is small, as in admit_ai_calls.
set enable_seqscan = off
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  update private.ai_holds h set started_at = now()
  from (
    select o.call_id from private.ai_holds o where o.call_id = any (call_ids) and o.started_at is null
    order by o.call_id for no key update) o
  where h.call_id = o.call_id;
end $$;
comment on function private.start_ai_calls(uuid[]) is
  'Notes that the first byte went to the callers: if the process dies now, the sweeper charges the hold.';

create function private.return_units(
  inout counts private.meter_counts, hold private.ai_holds, is_charged boolean, tokens bigint, cost_micros bigint
)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_meter record;
  v_held bigint;
  v_used bigint;
begin
  for v_meter in
    select m.slot, m.meter, case m.period when 'day' then hold.day_resets_at when 'month' then hold.month_resets_at else 'infinity' end as resets_at
    from private.meters m where m.is_held and m.meter in ('ai_calls', 'ai_concurrency', 'ai_spend_micros', 'ai_tokens')
  loop
    -- A hold of a period that has ended went with it: resets_at tells.
    continue when counts.resets_at[v_meter.slot] is distinct from v_meter.resets_at;
    case v_meter.meter
      when 'ai_concurrency' then v_held := 1; v_used := 0;
      when 'ai_calls' then v_held := 1; v_used := is_charged::integer;
      when 'ai_tokens' then v_held := hold.prompt_tokens + hold.output_tokens; v_used := tokens;
      when 'ai_spend_micros' then v_held := hold.micros; v_used := cost_micros;
    end case;
    counts.held[v_meter.slot] := counts.held[v_meter.slot] - v_held;
    counts.used[v_meter.slot] := counts.used[v_meter.slot] + v_used;
  end loop;
end $$;
comment on function private.return_units(private.meter_counts, private.ai_holds, boolean, bigint, bigint) is
  'Gives back what a call held of each meter and counts what it used.';

create type private.ai_closing as (answer jsonb, month date, unspent_micros bigint);
comment on type private.ai_closing is 'What closing a call came to, and what of the project''s money it held and did not cost.';

create function private.close_ai_call(
  call_id uuid, user_id uuid, state text, usage jsonb, usage_source text, outcome jsonb
) returns private.ai_closing
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- The same order as admission: the account first, then the call.
  v_account private.accounts := private.lock_account(close_ai_call.user_id);
  v_hold private.ai_holds;
  v_is_charged boolean := usage is not null;
  v_prompt bigint := greatest((usage ->> 'prompt_tokens')::bigint, 0);
  v_completion bigint := greatest((usage ->> 'completion_tokens')::bigint, 0);
  v_cached bigint := greatest((usage ->> 'cached_tokens')::bigint, 0);
  v_reasoning bigint := greatest((usage ->> 'reasoning_tokens')::bigint, 0);
  v_images bigint := greatest((usage ->> 'images')::bigint, 0);
  v_answered_by text;
  v_route jsonb;
  v_credits bigint := 0;
  v_cost bigint := 0;
  v_price public.model_prices;
begin
  delete from private.ai_holds h where h.call_id = close_ai_call.call_id returning h.* into v_hold;
  if not found or v_account.user_id is null then
    return row(jsonb_build_object('settled', false), null::date, 0::bigint)::private.ai_closing;
  end if;
  if v_is_charged then
    v_answered_by := v_hold.model_id;
    v_credits := v_hold.credits;
    if v_hold.routes is not null then
      -- Only a route that was held for can have answered; anything else is charged as the first.
      v_route := coalesce(
        jsonb_path_query_first(v_hold.routes, '$[*] ? (@.model == $model)', jsonb_build_object('model', outcome -> 'model')),
        v_hold.routes -> 0);
      v_answered_by := v_route ->> 'model';
      v_credits := v_route ->> 'credits';
      v_hold.price_valid_from := v_route ->> 'price_valid_from';
      v_hold.provider_id := coalesce((select m.provider_id from public.models m where m.id = v_answered_by), v_hold.provider_id);
    end if;
    select p.* into v_price from public.model_prices p
    where p.model_id = v_answered_by and p.valid_from = v_hold.price_valid_from;
    v_cost := case
      when v_hold.own_key then 0
      when close_ai_call.usage_source = 'hold' then v_hold.micros
      when v_prompt + v_completion + v_images = 0 then 0
      -- The price row was deleted meanwhile.
      when v_price.model_id is null then v_hold.micros
      else private.ai_cost_micros(
        v_price, v_prompt, v_cached, v_completion, v_reasoning, v_images)
    end;
  end if;
  insert into public.ai_calls (
    id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream,
    state, http_status, error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens,
    completion_tokens, cached_tokens, reasoning_tokens, images, usage_source, cost_micros, provider_cost_micros,
    credits_charged, hold_micros, price_valid_from, settled_at)
  values (
    v_hold.call_id, v_hold.created_at, v_hold.user_id, v_hold.session_id, v_hold.api_key_id, v_hold.request_id,
    v_hold.endpoint, v_hold.model_id, v_answered_by, v_hold.provider_id, v_hold.stream,
    close_ai_call.state, (outcome ->> 'http_status')::integer, left(outcome ->> 'error_code', 80),
    coalesce((outcome ->> 'attempts')::integer, 0), v_hold.request_bytes, (outcome ->> 'response_bytes')::bigint,
    (outcome ->> 'duration_ms')::integer, (outcome ->> 'first_token_ms')::integer, v_prompt,
    v_completion, v_cached, v_reasoning, v_images, close_ai_call.usage_source, v_cost,
    case when usage ->> 'cost_usd' is not null then greatest(ceil((usage ->> 'cost_usd')::numeric * 1000000)::bigint, 0) end,
    v_credits, v_hold.micros, v_hold.price_valid_from, now());
  if v_is_charged and outcome ->> 'response' is not null then
    update private.ai_idempotency_keys i set response = outcome ->> 'response', model_id = v_answered_by
    where i.user_id = v_hold.user_id and i.endpoint = v_hold.endpoint and i.call_id = v_hold.call_id;
  end if;
  if v_hold.api_key_id is not null then
    update private.api_key_usage u set
      counts = private.return_units(u.counts, v_hold, v_is_charged, v_prompt + v_completion, v_cost)
    where u.api_key_id = v_hold.api_key_id;
  end if;
  if v_credits > 0 then
    insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
    values (v_hold.user_id, -v_credits, 'ai_call', left('AI call: ' || v_answered_by, 200),
      'ai_call:' || v_hold.call_id, v_account.balance - v_credits);
  end if;
  update private.accounts a set
    held = v_account.held - v_hold.credits,
    balance = v_account.balance - v_credits,
    unburned = v_account.unburned + v_credits,
    counts = private.return_units(v_account.counts, v_hold, v_is_charged, v_prompt + v_completion, v_cost)
  where a.user_id = v_hold.user_id;
  return row(
    jsonb_build_object(
      'settled', true, 'cost_micros', v_cost, 'credits_charged', v_credits,
      'credits_remaining', v_account.balance - v_credits - v_account.held + v_hold.credits),
    date_trunc('month', v_hold.created_at at time zone 'UTC')::date, v_hold.micros - v_cost);
end $$;
comment on function private.close_ai_call(uuid, uuid, text, jsonb, text, jsonb) is
  'The one way for a hold to end: charges usage (null: nothing), gives back the rest, writes the ledger and the call''s row, in one transaction; {settled: false} when the call was closed before, or its account is gone.';

create function private.settle_plain_ai_calls(settlements jsonb)
returns table (at_position integer, answer jsonb, month date, unspent_micros bigint)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Slots, by their names in private.meters; a test compares them.
  c_ai_concurrency constant integer := 5;
  c_ai_calls constant integer := 6;
  c_ai_tokens constant integer := 7;
  c_ai_spend_micros constant integer := 8;
begin
  return query
  with outcomes as materialized (
    select distinct on (r.call_id) r.call_id, r.position, o.*, u.*, coalesce(jsonb_typeof(o.usage) = 'object', false) as is_charged
    from rows from (jsonb_to_recordset(settlements) as (call_id uuid, outcome jsonb)) with ordinality r (call_id, outcome, position)
      cross join lateral jsonb_to_record(r.outcome) o (
        result text, http_status integer, error_code text, usage jsonb, usage_source text, response_bytes bigint,
        duration_ms integer, first_token_ms integer, attempts integer, response text)
      cross join lateral jsonb_to_record(case when jsonb_typeof(o.usage) = 'object' then o.usage else '{}' end) u (
        prompt_tokens bigint, completion_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, images bigint, cost_usd numeric)
    where o.result in ('succeeded', 'failed', 'cancelled') and (o.result <> 'succeeded' or jsonb_typeof(o.usage) = 'object')
      and coalesce(jsonb_typeof(o.usage), 'null') in ('object', 'null') and o.response is null
    order by r.call_id, r.position
  ), ended as (
    delete from private.ai_holds h
    using outcomes o, private.accounts a
    where h.call_id = o.call_id and a.user_id = h.user_id and h.routes is null and h.api_key_id is null and not h.own_key and a.next_expiry_at > now()
    returning h.*, o.position, o.is_charged, o.http_status, o.error_code, o.attempts, o.response_bytes, o.duration_ms, o.first_token_ms,
      coalesce(o.usage_source, 'none') as usage_source,
      greatest(o.prompt_tokens, 0) as used_prompt,
      greatest(o.completion_tokens, 0) as used_completion,
      greatest(o.cached_tokens, 0) as used_cached,
      greatest(o.reasoning_tokens, 0) as used_reasoning,
      greatest(o.images, 0) as used_images,
      case when o.is_charged and o.cost_usd is not null then greatest(ceil(o.cost_usd * 1000000)::bigint, 0) end as provider_cost
  ), priced as materialized (
    select e.*, case when e.is_charged then e.credits else 0 end as charged,
      case
        when not e.is_charged then 0
        when e.usage_source = 'hold' then e.micros
        when e.used_prompt + e.used_completion + e.used_images = 0 then 0
        -- The price row was deleted meanwhile.
        when p.model_id is null then e.micros
        else private.ai_cost_micros(p, e.used_prompt, e.used_cached, e.used_completion, e.used_reasoning, e.used_images)
      end as cost
    from ended e left join public.model_prices p on p.model_id = e.model_id and p.valid_from = e.price_valid_from
  ), freed as materialized (
    select p.user_id, count(*) as calls, sum(p.credits)::bigint as credits, sum(p.charged)::bigint as charged,
      -- A hold of a period that has ended went with it: resets_at tells.
      count(*) filter (where d.is_today) as held_calls, count(*) filter (where d.is_today and p.is_charged) as used_calls,
      coalesce(sum(p.prompt_tokens + p.output_tokens) filter (where d.is_this_month), 0)::bigint as held_tokens,
      coalesce(sum(p.used_prompt + p.used_completion) filter (where d.is_this_month), 0)::bigint as used_tokens,
      coalesce(sum(p.micros) filter (where d.is_this_month), 0)::bigint as held_micros,
      coalesce(sum(p.cost) filter (where d.is_this_month), 0)::bigint as used_micros
    from priced p
      join private.accounts a on a.user_id = p.user_id
      cross join lateral (select
        p.day_resets_at = (a.counts).resets_at[c_ai_calls] as is_today,
        p.month_resets_at = (a.counts).resets_at[c_ai_tokens] as is_this_month) d
    group by p.user_id
  ), returned as (
    update private.accounts a set
      held = a.held - f.credits,
      balance = a.balance - f.charged,
      unburned = a.unburned + f.charged,
      counts.held[c_ai_concurrency] = (a.counts).held[c_ai_concurrency] - f.calls,
      counts.held[c_ai_calls] = (a.counts).held[c_ai_calls] - f.held_calls,
      counts.used[c_ai_calls] = (a.counts).used[c_ai_calls] + f.used_calls,
      counts.held[c_ai_tokens] = (a.counts).held[c_ai_tokens] - f.held_tokens,
      counts.used[c_ai_tokens] = (a.counts).used[c_ai_tokens] + f.used_tokens,
      counts.held[c_ai_spend_micros] = (a.counts).held[c_ai_spend_micros] - f.held_micros,
      counts.used[c_ai_spend_micros] = (a.counts).used[c_ai_spend_micros] + f.used_micros
    from freed f
    where a.user_id = f.user_id
    returning a.user_id, a.balance + f.charged as balance_before, a.balance - a.held as credits_remaining
  ), logged as (
    insert into public.ai_calls (
      id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream,
      state, http_status, error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens,
      completion_tokens, cached_tokens, reasoning_tokens, images, usage_source, cost_micros, provider_cost_micros,
      credits_charged, hold_micros, price_valid_from, settled_at)
    select p.call_id, p.created_at, p.user_id, p.session_id, p.api_key_id, p.request_id, p.endpoint, p.model_id,
      case when p.is_charged then p.model_id end, p.provider_id, p.stream, case when p.is_charged then 'settled' else 'released' end,
      p.http_status, left(p.error_code, 80), coalesce(p.attempts, 0), p.request_bytes, p.response_bytes, p.duration_ms, p.first_token_ms,
      p.used_prompt, p.used_completion, p.used_cached, p.used_reasoning, p.used_images, p.usage_source, p.cost, p.provider_cost,
      p.charged, p.micros, p.price_valid_from, now()
    from priced p
  ), booked as (
    insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
    select p.user_id, -p.charged, 'ai_call', left('AI call: ' || p.model_id, 200), 'ai_call:' || p.call_id,
      r.balance_before - sum(p.charged) over (partition by p.user_id order by p.position)
    from priced p join returned r on r.user_id = p.user_id
    where p.charged > 0
  )
  select p.position::integer,
    jsonb_build_object('settled', true, 'cost_micros', p.cost, 'credits_charged', p.charged, 'credits_remaining', r.credits_remaining),
    date_trunc('month', p.created_at at time zone 'UTC')::date, p.micros - p.cost
  from priced p join returned r on r.user_id = p.user_id;
end $$;
comment on function private.settle_plain_ai_calls(jsonb) is
  'Ends, in one statement, what most calls are: of a session, by one route, without an answer to keep. The same as private.close_ai_call, which the others take. The caller has locked the accounts in a statement before this one.';

create function private.settle_ai_calls(settlements jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
-- Indexes also while tables are small: the plans of an empty project must be those of a full one.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_call_id uuid;
  v_user_id uuid;
  v_outcome jsonb;
  v_usage jsonb;
  v_closing private.ai_closing;
  v_answers jsonb[];
  v_months date[];
  v_unspent bigint[];
  v_back record;
begin
  -- All accounts first, in the order in which admissions take them, too.
  perform a.user_id
  from jsonb_to_recordset(settlements) r (call_id uuid)
    join private.ai_holds h on h.call_id = r.call_id
    join private.accounts a on a.user_id = h.user_id
  order by a.user_id for no key update of a;
  select coalesce(array_agg(p.answer order by i), '{}'), array_agg(p.month order by i), array_agg(p.unspent_micros order by i)
  into v_answers, v_months, v_unspent
  from generate_series(1, jsonb_array_length(settlements)) i left join private.settle_plain_ai_calls(settlements) p on p.at_position = i;
  for i in 1..cardinality(v_answers) loop
    continue when v_answers[i] is not null;
    v_call_id := settlements -> (i - 1) ->> 'call_id';
    v_outcome := settlements -> (i - 1) -> 'outcome';
    if v_outcome ->> 'result' not in ('succeeded', 'failed', 'cancelled') or v_outcome ->> 'result' is null then
      perform private.raise_error('invalid_request_error', 'result must be succeeded, failed or cancelled.');
    elsif v_outcome ->> 'result' = 'succeeded' and jsonb_typeof(v_outcome -> 'usage') is distinct from 'object' then
      perform private.raise_error('invalid_request_error', 'A call that succeeded needs its usage, reported or estimated.');
    end if;
    select h.user_id into v_user_id from private.ai_holds h where h.call_id = v_call_id;
    if not found and not exists (
      select from public.ai_calls c where c.id = v_call_id and c.created_at = private.uuid_v7_time(v_call_id)
    ) then
      perform private.raise_error('not_found', 'There is no such call.');
    end if;
    v_usage := nullif(v_outcome -> 'usage', 'null'::jsonb);
    v_closing := private.close_ai_call(
      v_call_id, v_user_id, case when v_usage is null then 'released' else 'settled' end,
      v_usage, coalesce(v_outcome ->> 'usage_source', 'none'), v_outcome);
    v_answers[i] := v_closing.answer;
    v_months[i] := v_closing.month;
    v_unspent[i] := v_closing.unspent_micros;
  end loop;
  for v_back in
    select m.month, sum(m.micros)::bigint as micros from unnest(v_months, v_unspent) m (month, micros)
    where m.month is not null group by m.month having sum(m.micros) <> 0 order by m.month
  loop
    perform private.give_back_spend(v_back.month, v_back.micros);
  end loop;
  return to_jsonb(v_answers);
end $$;
comment on function private.settle_ai_calls(jsonb) is
  'Ends held calls, each exactly once, in one transaction. Takes an array of {call_id, outcome: {result: succeeded | failed | cancelled, http_status, error_code, usage: {prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, images, cost_usd} or null, usage_source, response_bytes, duration_ms, first_token_ms, attempts, model, response}}; usage null costs nothing; model is the route that answered. Answers, in the same order, {settled, cost_micros, credits_charged, credits_remaining}; settled is false when the call was closed before.';

create function private.settle_ai_call(call_id uuid, outcome jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  return private.settle_ai_calls(jsonb_build_array(jsonb_build_object('call_id', call_id, 'outcome', outcome))) -> 0;
end $$;
comment on function private.settle_ai_call(uuid, jsonb) is 'One call alone; see private.settle_ai_calls.';

create function private.settle_abandoned_ai_calls(batch_size integer default 100, of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
-- The index also while the table is small, as in admit_ai_calls.
set enable_seqscan = off
as $$
declare
  v_found record;
  v_hold private.ai_holds;
  v_closing private.ai_closing;
  v_closed integer := 0;
begin
  for v_found in
    select d.* from (
      select h.call_id, h.user_id from private.ai_holds h
      where h.expires_at < now() and (of_user is null or h.user_id = of_user)
      order by h.expires_at limit batch_size) d
    order by d.user_id
  loop
    perform private.lock_account(v_found.user_id);
    -- Read again under the lock: meanwhile it may have been settled, or its answer may have begun.
    select h.* into v_hold from private.ai_holds h where h.call_id = v_found.call_id for update;
    continue when not found;
    begin
      v_closing := private.close_ai_call(
        v_hold.call_id,
        v_hold.user_id,
        'expired',
        case when v_hold.started_at is not null then jsonb_build_object(
          'prompt_tokens', v_hold.prompt_tokens, 'completion_tokens', v_hold.output_tokens) end,
        case when v_hold.started_at is not null then 'hold' else 'none' end,
        jsonb_build_object('http_status', 500, 'error_code', 'abandoned'));
      if v_closing.month is not null then
        perform private.give_back_spend(v_closing.month, v_closing.unspent_micros);
      end if;
      v_closed := v_closed + 1;
    exception when others then
      -- One call that cannot be closed must not keep the others open; the next run tries it again.
      raise warning 'AI call % cannot be settled: % %', v_hold.call_id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_closed;
end $$;
comment on function private.settle_abandoned_ai_calls(integer, uuid) is
  'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it, and so does an admission that finds everything held, for its user; harmless at any time. Answers how many it closed.';

create function private.report_ai_attempts(reports jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_report record;
begin
  for v_report in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as model_id, (r.value ->> 'ok')::boolean as is_ok
    from jsonb_array_elements(reports) r
      join public.models m on m.id = r.value ->> 'model' and m.provider_id = r.value ->> 'provider'
    order by 1, 2
  loop
    if v_report.is_ok then
      delete from private.circuit_breakers b where b.provider_id = v_report.provider_id and b.model_id = v_report.model_id;
    else
      insert into private.circuit_breakers as b (provider_id, model_id, failures)
      values (v_report.provider_id, v_report.model_id, 1)
      on conflict on constraint circuit_breakers_pkey do update set
        -- Failures that are far apart are no outage; a half-open breaker opens again at the first.
        failures = case when b.open_until is null
          and b.last_failed_at < now() - make_interval(secs => (private.setting('ai.breaker_window_seconds'))::integer)
          then 1 else b.failures + 1 end,
        last_failed_at = now(),
        probe_until = null;
      update private.circuit_breakers b set
        open_until = now() + make_interval(secs => (private.setting('ai.breaker_open_seconds'))::integer)
      where b.provider_id = v_report.provider_id and b.model_id = v_report.model_id
        and b.failures >= (private.setting('ai.breaker_failures'))::integer
        and (b.open_until is null or b.open_until <= now());
    end if;
  end loop;
end $$;
comment on function private.report_ai_attempts(jsonb) is
  'Tells the breakers how askings of providers went: an array of {provider, model, ok}. ai.breaker_failures failures within ai.breaker_window_seconds of each other open one for ai.breaker_open_seconds; a success closes it.';

create function private.list_ai_models(caller jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_caller record;
  v_account record;
  v_refusal jsonb;
begin
  select c.* into v_caller from private.ai_caller(caller, 'models') c;
  v_refusal := v_caller.refusal;
  if v_refusal is null then
    select a.* into v_account from private.check_account(v_caller.user_id, v_caller.session_id, v_caller.api_key_id is not null) a;
    v_refusal := v_account.refusal;
  end if;
  if v_refusal is not null then
    return jsonb_build_object('allowed', false) || v_refusal;
  end if;
  return jsonb_build_object('allowed', true, 'models', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', m.id, 'owned_by', m.provider_id, 'created', floor(extract(epoch from m.created_at)), 'kind', m.kind) order by m.id)
    from public.models m
      join public.plan_models pm on pm.model_id = m.id and pm.plan_id = v_account.plan_id
      join private.providers pr on pr.id = m.provider_id and pr.enabled
    where m.enabled and exists (
      select from public.model_prices p where p.model_id = m.id and p.valid_from <= now())
  ), '[]'));
end $$;
comment on function private.list_ai_models(jsonb) is
  'Takes a caller as private.ai_caller does. The models the account''s plan may use: {allowed: true, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

create function private.delete_old_idempotency_keys() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.ai_idempotency_keys i where i.created_at < now() - interval '24 hours';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_idempotency_keys() is 'Forgets keys and their answers after 24 hours. A job runs it. Answers how many.';

create function private.verify_accounts()
returns table (user_id uuid, balance bigint, entries_sum bigint, lots_sum bigint, held bigint, open_holds bigint)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, a.balance, e.amount, l.remaining - a.unburned, a.held, h.credits
  from private.accounts a
    cross join lateral (
      select coalesce(sum(c.amount), 0)::bigint as amount from public.credit_entries c where c.user_id = a.user_id) e
    cross join lateral (
      select coalesce(sum(c.remaining), 0)::bigint as remaining from private.credit_lots c where c.user_id = a.user_id) l
    cross join lateral (
      select coalesce(sum(c.credits), 0)::bigint as credits, count(*)::bigint as calls
      from private.ai_holds c where c.user_id = a.user_id) h
    left join private.meters m on m.meter = 'ai_concurrency'
  where a.balance <> e.amount or a.balance <> l.remaining - a.unburned or a.held <> h.credits
    or coalesce((a.counts).held[m.slot], 0) <> h.calls
$$;
comment on function private.verify_accounts() is
  'Accounts whose balance is not the sum of their entries, or of what remains of their lots, or whose holds are not those of their open calls. Always empty; run it whenever you like.';

-- sql/44_ai_usage.sql =================================================================================================

-- AI usage over time: calls added up by day, for charts and bills, so that nobody reads a year of the log.

insert into private.settings (key, value, description) values
  ('ai.price_drift_percent', '5', 'By how many percent what a provider says a day''s calls cost may differ from our prices before an event is raised.')
on conflict (key) do nothing;

create table public.ai_usage_daily (
  user_id uuid not null references auth.users (id) on delete cascade,
  day date not null,
  model_id text not null check (length(model_id) <= 200),
  endpoint text not null check (length(endpoint) <= 40),
  calls bigint not null,
  failed_calls bigint not null,
  prompt_tokens bigint not null,
  completion_tokens bigint not null,
  cached_tokens bigint not null,
  reasoning_tokens bigint not null,
  images bigint not null,
  cost_micros bigint not null,
  credits bigint not null,
  primary key (user_id, day, model_id, endpoint)
);
comment on table public.ai_usage_daily is
  'AI calls of a day (UTC) by user, model and endpoint. Written once when the day is over and all its calls have ended; get_my_usage adds what is newer.';
comment on column public.ai_usage_daily.model_id is 'The model that answered, or that was asked for when none did.';
comment on column public.ai_usage_daily.calls is 'All calls, also those that failed or were refused for a reason that is noted in ai_calls.';
comment on column public.ai_usage_daily.failed_calls is 'Those of them that were not charged.';
comment on column public.ai_usage_daily.cost_micros is 'Micro-dollars at our price.';
alter table public.ai_usage_daily enable row level security;
alter table public.ai_usage_daily force row level security;
revoke all on public.ai_usage_daily from anon, authenticated, service_role;
grant select on public.ai_usage_daily to authenticated, service_role;

create table private.ai_usage_days (
  day date primary key,
  added_up_at timestamptz not null default now()
);
comment on table private.ai_usage_days is 'Days that are in ai_usage_daily, also those without any call.';
revoke all on private.ai_usage_days from anon, authenticated, service_role;

create function private.usage_of_calls(from_time timestamptz, to_time timestamptz, of_user uuid default null)
returns setof public.ai_usage_daily
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select c.user_id, (c.created_at at time zone 'UTC')::date, coalesce(c.answered_by, c.model_id), c.endpoint,
      count(*), count(*) filter (where c.usage_source is null or c.usage_source = 'none'),
      coalesce(sum(c.prompt_tokens), 0)::bigint, coalesce(sum(c.completion_tokens), 0)::bigint,
      coalesce(sum(c.cached_tokens), 0)::bigint, coalesce(sum(c.reasoning_tokens), 0)::bigint,
      coalesce(sum(c.images), 0)::bigint, coalesce(sum(c.cost_micros), 0)::bigint, sum(c.credits_charged)::bigint
    from public.ai_calls c
    where c.created_at >= from_time and c.created_at < to_time and (of_user is null or c.user_id = of_user)
    group by 1, 2, 3, 4;
end $$;
comment on function private.usage_of_calls(timestamptz, timestamptz, uuid) is
  'Calls that began in [from_time, to_time), added up by user, day (UTC), model and endpoint; of one user, or of all.';

create function private.add_up_ai_usage() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_day date;
  v_from timestamptz;
  v_done integer := 0;
begin
  -- One at a time; a second run finds nothing to do.
  lock table private.ai_usage_days in share row exclusive mode;
  select coalesce((select max(d.day) + 1 from private.ai_usage_days d),
    (select min(c.created_at at time zone 'UTC')::date from public.ai_calls c))
  into v_day;
  loop
    v_from := v_day::timestamp at time zone 'UTC';
    -- A call belongs to the day it began, and is written when it ends.
    exit when v_day is null or v_from + interval '25 hours' > now()
      or exists (select from private.ai_holds h where h.created_at < v_from + interval '1 day');
    insert into public.ai_usage_daily select u.* from private.usage_of_calls(v_from, v_from + interval '1 day') u;
    insert into private.ai_usage_days (day) values (v_day);
    v_done := v_done + 1;
    v_day := v_day + 1;
  end loop;
  return v_done;
end $$;
comment on function private.add_up_ai_usage() is
  'Adds up every day that is over for an hour and has no running calls, oldest first. A job runs it. Answers how many days.';

create function private.my_usage(from_day date, to_day date) returns setof public.ai_usage_daily
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: it looks which days are added up; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_live_from date;
begin
  if from_day is null or to_day is null or from_day > to_day or to_day - from_day > 366 then
    perform private.raise_error('invalid_request_error', 'from_day and to_day must be dates in this order, at most 366 days apart.');
  end if;
  select greatest(from_day, coalesce(max(d.day) + 1, from_day)) into v_live_from from private.ai_usage_days d;
  return query
    select u.* from public.ai_usage_daily u
    where u.user_id = v_user_id and u.day between from_day and to_day and u.day < v_live_from
    union all
    select u.* from private.usage_of_calls(
      v_live_from::timestamp at time zone 'UTC', (to_day + 1)::timestamp at time zone 'UTC', v_user_id) u
    order by 2, 3, 4;
end $$;
comment on function private.my_usage(date, date) is 'Behind public.get_my_usage.';
grant execute on function private.my_usage(date, date) to authenticated;

create function public.get_my_usage(from_day date, to_day date)
returns table (
  day date, model_id text, endpoint text, calls bigint, failed_calls bigint, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, reasoning_tokens bigint, images bigint, cost_micros bigint, credits bigint)
language sql stable security invoker set search_path = ''
as $$
  select u.day, u.model_id, u.endpoint, u.calls, u.failed_calls, u.prompt_tokens, u.completion_tokens, u.cached_tokens,
    u.reasoning_tokens, u.images, u.cost_micros, u.credits
  from private.my_usage(get_my_usage.from_day, get_my_usage.to_day) u
$$;
comment on function public.get_my_usage(date, date) is
  'The caller''s AI usage from one day to another, both included, at most 366 days apart (UTC): calls, tokens, images, micro-dollars and credits by day, model and endpoint. Up to the minute.';
grant execute on function public.get_my_usage(date, date) to authenticated;

create function private.warn_of_price_drift() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_to timestamptz := date_trunc('day', now() at time zone 'UTC') at time zone 'UTC';
  v_model record;
  v_found integer := 0;
begin
  for v_model in
    select c.answered_by as model, count(*) as calls, sum(c.cost_micros)::bigint as cost_micros,
      sum(c.provider_cost_micros)::bigint as provider_cost_micros
    from public.ai_calls c
    where c.created_at >= v_to - interval '1 day' and c.created_at < v_to and c.provider_cost_micros is not null and c.usage_source = 'provider'
    group by c.answered_by
    -- Both are rounded up, once a call each.
    having abs(sum(c.provider_cost_micros) - sum(c.cost_micros))
      > count(*) + sum(c.cost_micros) * (private.setting('ai.price_drift_percent'))::numeric / 100
  loop
    v_found := v_found + 1;
    perform private.raise_security_event('price_drift', 'medium', null, to_jsonb(v_model),
      dedupe_key => v_model.model || ' ' || (v_to - interval '1 day')::date);
  end loop;
  return v_found;
end $$;
comment on function private.warn_of_price_drift() is
  'Raises a security event for each model whose provider charged more or less yesterday (UTC) than our prices say, by more than ai.price_drift_percent. A job runs it. Answers how many.';

-- sql/46_ai_gateway.sql ===============================================================================================

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
  v_row private.anonymous_requests;
begin
  select l.* into v_limit from private.rate_limits l where l.route = count_anonymous_request.route;
  if not found or v_network is null then
    return jsonb_build_object('allowed', true);
  end if;
  -- Read committed: the row's newest version decides, so exactly "amount" pass, however many race.
  insert into private.anonymous_requests as r (network, route, used, resets_at)
  values (v_network, v_limit.route, 1, now() + make_interval(secs => v_limit.window_seconds))
  on conflict on constraint anonymous_requests_pkey do update set
    used = case when r.resets_at > now() then r.used + 1 else 1 end,
    resets_at = case when r.resets_at > now() then r.resets_at else excluded.resets_at end
  where r.resets_at <= now() or r.used < v_limit.amount
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
  delete from private.anonymous_requests r where r.resets_at < now();
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_anonymous_requests() is 'Forgets addresses when their window is over. A job runs it. Answers how many.';

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

grant usage on schema private to palisade_gateway;
grant execute on function private.admit_ai_calls(jsonb) to palisade_gateway;
grant execute on function private.start_ai_calls(uuid[]) to palisade_gateway;
grant execute on function private.settle_ai_calls(jsonb) to palisade_gateway;
grant execute on function private.list_ai_models(jsonb) to palisade_gateway;
grant execute on function private.report_ai_attempts(jsonb) to palisade_gateway;
grant execute on function private.count_anonymous_request(inet, text) to palisade_gateway;
grant execute on function private.provider_secret(text) to palisade_gateway;

-- policies/40_ai.sql ==================================================================================================

create policy "signed-in users see the enabled models"
  on public.models for select to authenticated
  using (enabled);

create policy "signed-in users see the prices"
  on public.model_prices for select to authenticated
  using (true);

create policy "signed-in users see which plan has which model"
  on public.plan_models for select to authenticated
  using (true);

create policy "owners see their calls"
  on public.ai_calls for select to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/44_ai_usage.sql ============================================================================================

create policy "owners see their usage"
  on public.ai_usage_daily for select to authenticated
  using (user_id = (select private.my_user_id()));
