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
