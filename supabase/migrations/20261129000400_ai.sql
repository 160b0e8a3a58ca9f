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
  total_timeout_ms integer not null default 300000 check (total_timeout_ms between 1 and 390000),
  passes_unknown_fields boolean not null default false,
  stops_when_left boolean not null default false
);
comment on table private.providers is 'OpenAI-compatible providers.';
comment on column private.providers.passes_unknown_fields is
  'Fields of a request that the gateway does not know go to this provider all the same, at the operator''s risk: one of them may cost what nobody held. False: they are refused by name.';
comment on column private.providers.stops_when_left is
  'It works and bills no further when the connection is closed. False, when nobody knows: a stream that is left is read on to its reported usage.';
comment on column private.providers.base_url is 'The OpenAI base URL, such as https://openrouter.ai/api/v1, without a slash at the end.';
comment on column private.providers.api_key_secret is 'Name of the environment variable or Vault secret that holds the key; null: the provider needs none. Never the key itself.';
revoke all on private.providers from anon, authenticated, service_role;
insert into private.providers (id, base_url, api_key_secret) values
  ('openrouter', 'https://openrouter.ai/api/v1', 'OPENROUTER_API_KEY')
on conflict (id) do nothing;

create function private.are_media_rules(media jsonb) returns boolean
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_kind record;
  v_name text;
  v_least integer;
  v_is_good boolean;
  -- What each rule needs beside its name: numbers, none below zero; those by which something is divided not zero either.
  v_needs jsonb := '{"fixed": ["tokens"], "tiles": ["base", "tile", "tile_px", "fit_px", "short_px", "low"], "pixels": ["per", "max"],
    "seconds": ["tokens", "max_seconds"], "pages": ["tokens", "max_pages"], "context": []}';
begin
  if jsonb_typeof(media) <> 'object' then
    raise check_violation using message = 'models.media is not an object, such as {"image": {"rule": "context"}}';
  end if;
  for v_kind in select k.key, k.value, k.value ->> 'rule' as rule from jsonb_each(media) k loop
    if v_kind.key not in ('image', 'audio', 'file', 'video') then
      raise check_violation using message = format('models.media has the unknown kind %s', left(v_kind.key, 40)),
        hint = 'Kinds are image, audio, file and video.';
    end if;
    if jsonb_typeof(v_kind.value) <> 'object' or v_needs -> v_kind.rule is null then
      raise check_violation using message = format('models.media.%s has no rule that is known: %s', v_kind.key, left(v_kind.value::text, 100)),
        hint = 'Rules are fixed, tiles, pixels, seconds, pages and context, as {"rule": "fixed", "tokens": 258}.';
    end if;
    for v_name in
      select n.value from jsonb_array_elements_text(v_needs -> v_kind.rule) n union all select 'address_tokens' where v_kind.value ? 'address_tokens'
    loop
      v_least := case when v_name in ('per', 'tile_px', 'fit_px', 'short_px') then 1 else 0 end;
      -- One after the other: what is no number cannot be compared with one.
      v_is_good := case when jsonb_typeof(v_kind.value -> v_name) = 'number'
        then (v_kind.value ->> v_name)::numeric between v_least and 1000000000 else false end;
      if not v_is_good then
        raise check_violation using message = format('models.media.%s: the rule %s needs %s, a number from %s to 1000000000', v_kind.key, v_kind.rule, v_name, v_least),
          hint = format('The rule %s needs %s.', v_kind.rule, v_needs -> v_kind.rule);
      end if;
    end loop;
  end loop;
  return true;
end $$;
comment on function private.are_media_rules(jsonb) is
  'True for what models.media may be, as functions/_shared/ai/prompt-size.ts reads it; else it raises a check_violation that names the kind and what its rule needs.';
grant execute on function private.are_media_rules(jsonb) to service_role;

create table public.models (
  id text primary key check (length(id) between 1 and 200),
  provider_id text not null references private.providers (id) on delete restrict,
  upstream_id text not null check (length(upstream_id) between 1 and 200),
  kind text not null default 'chat' check (kind in ('chat', 'embedding', 'image')),
  context_tokens integer not null check (context_tokens between 1 and 100000000),
  max_output_tokens integer not null check (max_output_tokens between 1 and 100000000),
  tokens_per_second integer not null default 50 check (tokens_per_second between 1 and 100000),
  credits_per_call bigint not null default 1 check (credits_per_call between 0 and 1000000000000),
  enabled boolean not null default true,
  created_at timestamptz not null default now(),
  template_percent integer not null default 10 check (template_percent between 0 and 1000),
  template_tokens integer not null default 64 check (template_tokens between 0 and 100000),
  media jsonb not null default '{}' check (length(media::text) <= 2000 and private.are_media_rules(media)),
  limit_field text not null default 'max_tokens' check (limit_field in ('max_tokens', 'max_completion_tokens', 'none')),
  open_fields text[] not null default '{}' check (
    cardinality(open_fields) <= 50 and array_position(open_fields, null) is null and length(array_to_string(open_fields, ',')) <= 2000),
  search_prompt_tokens integer check (search_prompt_tokens between 0 and 100000000)
);
comment on table public.models is 'Models that callers can name. Which plan may use one: plan_models. What it costs: model_prices.';
comment on column public.models.upstream_id is 'The name the provider knows the model by.';
comment on column public.models.context_tokens is 'The longest prompt that it takes: no call is held for more.';
comment on column public.models.tokens_per_second is
  'How fast it writes: what is charged at least for time in which a provider worked, nobody saw what it wrote, such as hidden reasoning, and it reports nothing.';
comment on column public.models.max_output_tokens is 'The most that is ever asked for in one answer; larger wishes are lowered to it. Of images that are paid by output tokens, the most that one image has: so many are held for each.';
comment on column public.models.template_percent is 'What the provider''s template may add to a prompt, in percent of its text.';
comment on column public.models.template_tokens is 'What the template may add around each message and tool, in tokens. More for models that get hidden instructions with tools.';
comment on column public.models.media is
  'What else than text it reads, and how many tokens a piece of it has: {"image": {"rule": ...}, "audio": ..., "file": ..., "video": ...}. Rules: {"rule": "fixed", "tokens": 258}, {"rule": "tiles", "base": 85, "tile": 170, "tile_px": 512, "fit_px": 2048, "short_px": 768, "low": 85}, {"rule": "pixels", "per": 750, "max": 1600}, {"rule": "seconds", "tokens": 32, "max_seconds": 600}, {"rule": "pages", "tokens": 1500, "max_pages": 100}, {"rule": "context"}: the whole context. A kind without a rule is refused by name. What comes from an address counts as the dearest of the row''s rules, and as the whole context where that is fixed: nobody here sees what is there. An address_tokens in a rule is what an address counts for in its place.';
comment on column public.models.limit_field is
  'The field by which the provider takes the limit of an answer; none: it takes neither, so max_output_tokens is held for each choice.';
comment on column public.models.open_fields is
  'Fields of a request that change what a call costs or who answers it, and that callers may send to this model all the same.';
comment on column public.models.search_prompt_tokens is
  'What one search by the provider, or one page that it reads for that, may add to the prompt at most, where open_fields lets callers ask for searches. Null: nobody knows, so such a call is held for the whole context.';
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
  above_prompt_tokens integer not null default 0 check (above_prompt_tokens between 0 and 100000000),
  variant text not null default '' check (length(variant) <= 80),
  -- So bounded that no call, of units as bounded as private.ai_cost_micros has them, costs more than a bigint of pico-dollars.
  input_usd_per_mtok numeric not null check (input_usd_per_mtok between 0 and 10000),
  output_usd_per_mtok numeric not null check (output_usd_per_mtok between 0 and 10000),
  cached_input_usd_per_mtok numeric check (cached_input_usd_per_mtok between 0 and 10000),
  cache_write_usd_per_mtok numeric check (cache_write_usd_per_mtok between 0 and 10000),
  cache_write_1h_usd_per_mtok numeric check (cache_write_1h_usd_per_mtok between 0 and 10000),
  audio_input_usd_per_mtok numeric check (audio_input_usd_per_mtok between 0 and 10000),
  reasoning_usd_per_mtok numeric check (reasoning_usd_per_mtok between 0 and 10000),
  audio_output_usd_per_mtok numeric check (audio_output_usd_per_mtok between 0 and 10000),
  image_usd numeric check (image_usd between 0 and 100),
  search_usd numeric check (search_usd between 0 and 100),
  request_usd numeric not null default 0 check (request_usd between 0 and 100),
  primary key (model_id, valid_from, above_prompt_tokens, variant)
);
comment on table public.model_prices is
  'Prices from a date on, in US dollars per million tokens, per image, per search, per request. Of each step and variant the newest row that has begun counts. A model without a price is refused, and so is a call that asks for a unit without one: no price is guessed.';
comment on column public.model_prices.above_prompt_tokens is
  'A long-context step: the row holds for all of a call whose prompt has more tokens, up to the next step. Every model, and every variant, needs its row from 0 on.';
comment on column public.model_prices.variant is
  'Of images: SIZE/QUALITY as callers name them, such as 1024x1024/high. The empty one is that of calls that name neither, * that of every size and quality without a row of its own; without that, they are refused.';
comment on column public.model_prices.cached_input_usd_per_mtok is 'Null: cached tokens cost what other input costs.';
comment on column public.model_prices.cache_write_usd_per_mtok is
  'For tokens that are written into a cache of five minutes. Null: who asks for that is refused, and what is written unasked costs what other input costs.';
comment on column public.model_prices.cache_write_1h_usd_per_mtok is
  'For tokens that are written into a cache of an hour. Null: who asks for that is refused, and what is written unasked costs what cache_write_usd_per_mtok says.';
comment on column public.model_prices.audio_input_usd_per_mtok is 'Null: prompts with sound are refused, and sound that a provider reports all the same costs what other input costs.';
comment on column public.model_prices.reasoning_usd_per_mtok is 'Null: reasoning tokens cost what other output costs.';
comment on column public.model_prices.audio_output_usd_per_mtok is 'Null: who asks for answers in sound is refused, and sound that a provider reports all the same costs what other output costs.';
comment on column public.model_prices.image_usd is 'For an image that was made, beside its output tokens where output_usd_per_mtok is not 0: some providers bill both, and of one that bills one of them the other price is 0. Null: who asks for images is refused.';
comment on column public.model_prices.search_usd is 'For one use of a tool of the provider''s own, such as a search. Null: who asks for one is refused.';
comment on column public.model_prices.request_usd is 'Once for every call that was answered.';
alter table public.model_prices enable row level security;
alter table public.model_prices force row level security;
revoke all on public.model_prices from anon, authenticated, service_role;
grant select on public.model_prices to authenticated;
grant select, insert, update, delete on public.model_prices to service_role;
-- The provider's list price of 2026; prices are rows, look them up before you offer a model.
insert into public.model_prices
  (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok) values
  ('openai/gpt-4o-mini', '2026-01-01T00:00:00Z', 0.15, 0.60, 0.075)
on conflict (model_id, valid_from, above_prompt_tokens, variant) do nothing;

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
  user_id uuid not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  day_resets_at timestamptz not null,
  month_resets_at timestamptz not null,
  started_at timestamptz,
  session_id uuid,
  api_key_id uuid,
  request_bytes bigint not null,
  credits bigint not null,
  prompt_tokens bigint not null,
  output_tokens bigint not null,
  micros bigint not null,
  stream boolean not null,
  own_key boolean not null,
  price_ref integer not null,
  fallback_refs integer[],
  request_id text not null,
  endpoint text not null,
  model_id text not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
comment on table private.ai_holds is
  'Calls that are running, and what they hold. A hold ends once: its row is deleted in the transaction that writes the call''s row in ai_calls. Small and hot, so without checks, foreign keys and a second index, and who looks for old ones may read it whole: private.take_ai_calls is its only door.';
comment on column private.ai_holds.own_key is 'The caller''s own key of the provider pays: no credits, and nothing of the project''s money.';
comment on column private.ai_holds.price_ref is 'The first route that the hold covers: the row of price_refs by which the call is charged, if no other answers.';
comment on column private.ai_holds.fallback_refs is 'The other routes that the hold covers, in their order; null: none.';
comment on column private.ai_holds.started_at is
  'When the caller had something of the answer for a second: from then on the call is never free. Who dies within that second gave away what was delivered in it.';
comment on column private.ai_holds.expires_at is 'After this the call counts as abandoned, and the sweeper settles it.';
revoke all on private.ai_holds from anon, authenticated, service_role;

create table public.ai_calls (
  id uuid not null default private.uuid_v7(),
  created_at timestamptz not null,
  user_id uuid not null,
  session_id uuid,
  api_key_id uuid,
  request_id text not null,
  endpoint text not null,
  model_id text not null,
  answered_by text,
  provider_id text,
  stream boolean not null,
  -- Without a check, which every statement that writes would read and make ready anew; two functions write it.
  state text not null,
  error_code text,
  usage_source text,
  -- In this order, without gaps: numbers of four bytes two by two, then those of eight.
  http_status integer,
  attempts integer not null default 0,
  duration_ms integer,
  first_token_ms integer,
  price_ref integer,
  cache_write_tokens integer,
  cache_write_1h_tokens integer,
  audio_input_tokens integer,
  audio_output_tokens integer,
  searches integer,
  request_bytes bigint not null,
  response_bytes bigint,
  prompt_tokens bigint,
  completion_tokens bigint,
  cached_tokens bigint,
  reasoning_tokens bigint,
  images bigint,
  cost_micros bigint,
  provider_cost_micros bigint,
  project_micros bigint,
  credits_charged bigint not null default 0,
  balance_after bigint,
  hold_micros bigint not null default 0,
  price_valid_from timestamptz,
  settled_at timestamptz not null default now(),
  -- The one index for a user's calls in their order, and for one of them: created_at is private.uuid_v7_time(id).
  primary key (user_id, created_at, id)
) partition by range (created_at);
comment on table public.ai_calls is
  'The usage log: one row per AI call that has ended: what was asked of whom, how it ended, what it used and cost. Never the prompt or the answer. Written once, never changed; its texts are as long as those of ai_holds. No foreign key to auth.users, which every row would ask: calls go with their account''s row, by a trigger.';
comment on column public.ai_calls.state is
  'settled: charged for what it used; released: failed and free; expired: nobody settled it, the sweeper did; refused: never reached the provider.';
comment on column public.ai_calls.api_key_id is 'The API key that called; null for a session. No foreign key: calls outlive keys.';
comment on column public.ai_calls.model_id is 'The model that was asked for.';
comment on column public.ai_calls.answered_by is 'The model that answered and is charged: the one asked for, or one of its fallbacks; null when none did.';
comment on column public.ai_calls.cache_write_tokens is 'Of the prompt: written into a cache of five minutes. In this and the like, null is none.';
comment on column public.ai_calls.cache_write_1h_tokens is 'Of the prompt: written into a cache of an hour.';
comment on column public.ai_calls.audio_input_tokens is 'Of the prompt: sound.';
comment on column public.ai_calls.audio_output_tokens is 'Of the completion: sound.';
comment on column public.ai_calls.searches is 'Uses of the provider''s own tools.';
comment on column public.ai_calls.price_ref is 'The price by which it was charged: that of the step which its prompt reached.';
comment on column public.ai_calls.cost_micros is 'What the call cost at our price, in micro-dollars, rounded up once.';
comment on column public.ai_calls.provider_cost_micros is 'What the provider says it cost, in micro-dollars, when it says so.';
comment on column public.ai_calls.project_micros is
  'What a provider worked in vain, by estimate, where ai.timeouts_charge says that it is the project''s and not the caller''s, or where another asking was answered, which is the caller''s; null: nothing.';
comment on column public.ai_calls.usage_source is
  'provider: as reported; estimated: from bytes, because no report came; hold: the worst case, because the process died; none: nothing was used.';
comment on column public.ai_calls.balance_after is 'The account''s credits after the call was charged; null when it was not: with credits_charged the call''s entry in credit_entries.';
comment on column public.ai_calls.settled_at is 'When it ended. In this order an account''s calls were charged.';
comment on column public.ai_calls.hold_micros is 'The worst case that was reserved, in micro-dollars.';
create table private.ai_calls_default partition of public.ai_calls default;
create trigger tg_ai_calls__append_only before update or delete on public.ai_calls
  for each row execute function private.tg__append_only();
create trigger tg_ai_calls__no_truncate before truncate on public.ai_calls
  for each statement execute function private.tg__append_only();
-- A trigger for statements is not handed down to partitions: each has its own.
create trigger tg_ai_calls__no_truncate before truncate on private.ai_calls_default
  for each statement execute function private.tg__append_only();
revoke all on private.ai_calls_default from anon, authenticated, service_role;
create index ai_calls_user_id_settled_at_idx on public.ai_calls (user_id, settled_at desc) where credits_charged > 0;
alter table public.ai_calls enable row level security;
alter table public.ai_calls force row level security;
revoke all on public.ai_calls from anon, authenticated, service_role;
grant select on public.ai_calls to authenticated, service_role;

create function private.tg_accounts__forget_calls() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: whoever erases a user.
begin
  delete from private.ai_holds h where h.user_id = old.user_id;
  delete from public.ai_calls c where c.user_id = old.user_id;
  return null;
end $$;
comment on function private.tg_accounts__forget_calls() is
  'Calls go with their account: nobody writes one without its lock, so none is left behind.';
create trigger tg_accounts__forget_calls after delete on private.accounts
  for each row execute function private.tg_accounts__forget_calls();

create view public.credit_entries with (security_invoker = true) as
select b.id, b.user_id, b.amount, b.kind, b.reason, b.idempotency_key, b.balance_after, b.created_at from private.credit_bookings b
union all
select c.id, c.user_id, -c.credits_charged, 'ai_call', left('AI call: ' || c.answered_by, 200), 'ai_call:' || c.id, c.balance_after, c.settled_at
from public.ai_calls c where c.credits_charged > 0;
comment on view public.credit_entries is
  'The ledger: every change of a balance in its order: bookings, and AI calls that were charged. An account''s balance is their sum, and balance_after what it was after each.';
comment on column public.credit_entries.amount is 'Credits; positive adds, negative takes.';
comment on column public.credit_entries.idempotency_key is 'The same key for the same user is the same entry: a repeated request changes nothing.';
revoke all on public.credit_entries from anon, authenticated, service_role;
grant select on public.credit_entries to authenticated, service_role;

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
      execute format(
        'create trigger tg_ai_calls__no_truncate before truncate on private.%I for each statement execute function private.tg__append_only()', v_name);
      -- Calls that came while there was no partition are in the default one, and would forbid this one.
      if exists (select from private.ai_calls_default c where c.created_at >= v_from and c.created_at < v_to) then
        alter table private.ai_calls_default disable trigger user;
        execute format(
          'with late as (delete from private.ai_calls_default where created_at >= %L and created_at < %L returning *)
          insert into private.%I select * from late', v_from, v_to, v_name);
        alter table private.ai_calls_default enable trigger user;
      end if;
      execute format(
        'alter table public.ai_calls attach partition private.%I for values from (%L) to (%L)', v_name, v_from, v_to);
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end $$;
comment on function private.create_ai_call_partitions() is
  'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

create function private.drop_ai_calls(month date) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_name text := 'ai_calls_' || to_char(drop_ai_calls.month, 'YYYYMM');
  v_from timestamptz := date_trunc('month', drop_ai_calls.month)::timestamp at time zone 'UTC';
  v_to timestamptz := (date_trunc('month', drop_ai_calls.month)::timestamp + interval '1 month') at time zone 'UTC';
  v_booked bigint;
begin
  if v_to > now() - interval '1 month' or exists (select from private.ai_holds h where h.created_at < v_to) then
    perform private.raise_error('invalid_request_error', 'Only calls of a month that has been over for a month, and of which none is running, can be dropped.');
  end if;
  if exists (
    select from public.ai_calls c
    where c.created_at >= v_from and c.created_at < v_to
      and not exists (select from private.ai_usage_days u where u.day = (c.created_at at time zone 'UTC')::date)) then
    perform private.raise_error('invalid_request_error', 'Not all days of this month are added up yet: private.add_up_ai_usage does that, every night.');
  end if;
  -- What they cost stays in the ledger: one entry for each account, where the last of them was.
  insert into private.credit_bookings (user_id, amount, kind, reason, idempotency_key, balance_after, created_at)
  select c.user_id, -sum(c.credits_charged), 'ai_call', format('%s AI calls of %s', count(*), to_char(v_from at time zone 'UTC', 'YYYY-MM')),
    'ai_calls:' || to_char(v_from at time zone 'UTC', 'YYYYMM'), (array_agg(c.balance_after order by c.settled_at desc))[1], max(c.settled_at)
  from public.ai_calls c
  where c.created_at >= v_from and c.created_at < v_to and c.credits_charged > 0
  group by c.user_id;
  get diagnostics v_booked = row_count;
  execute format('drop table private.%I', v_name);
  return v_booked;
end $$;
comment on function private.drop_ai_calls(date) is
  'Drops the calls of a month (UTC), any day of it, when nobody needs the log any more: each account gets one entry in place of its calls, so that its balance stays the sum of its entries. Answers how many accounts had one. Raises invalid_request_error before the month has been over for a month, while a call of it runs, and until its days are added up. Nothing calls it by itself.';

-- Money ----------------------------------------------------------------------------------------------------------------

-- What the gateway charges by: one row for every model, provider and price that was ever in force, never changed.
create table private.price_refs (
  ref integer generated always as identity primary key,
  model_id text not null,
  provider_id text not null,
  valid_from timestamptz not null,
  above_prompt_tokens integer not null,
  variant text not null,
  credits bigint not null,
  input_pico bigint not null,
  cached_input_pico bigint not null,
  cache_write_pico bigint not null,
  cache_write_1h_pico bigint not null,
  audio_input_pico bigint not null,
  output_pico bigint not null,
  reasoning_pico bigint not null,
  audio_output_pico bigint not null,
  image_pico bigint not null,
  search_pico bigint not null,
  request_pico bigint not null,
  unique (model_id, provider_id, valid_from, above_prompt_tokens, variant, credits, input_pico, cached_input_pico, cache_write_pico,
    cache_write_1h_pico, audio_input_pico, output_pico, reasoning_pico, audio_output_pico, image_pico, search_pico, request_pico)
);
comment on table private.price_refs is
  'Prices as calls are charged, in pico-dollars (a millionth of a micro-dollar, so one dollar per million tokens is 1,000,000) for one unit of each kind, beside the credits of a call: a row for each step and variant. Written by private.ai_snapshot, never changed or removed: a running call keeps the price it was admitted at.';
comment on column private.price_refs.request_pico is 'Once for every call that was answered.';
revoke all on private.price_refs from anon, authenticated, service_role;

create function private.ai_cost_micros(
  price private.price_refs, prompt bigint, cached bigint, cache_write bigint, cache_write_1h bigint, audio_input bigint,
  completion bigint, reasoning bigint, audio_output bigint, images bigint, searches bigint
) returns bigint
language sql immutable security invoker
-- No search_path is set, or it could not be written into the statements that call it: the body is parsed when it is made, so that no path
-- changes what it means. What is written there costs a tenth of a call of a function.
-- All that is left of the prompt is charged as the next part is, and what was charged for it as the one before goes: each part is looked
-- for once, because every operator here is made ready anew by every statement.
return case when greatest(prompt, completion, images, searches) = 0 then 0 else (
  prompt * price.cached_input_pico
  + greatest(prompt - cached, 0) * (price.cache_write_pico - price.cached_input_pico)
  + greatest(prompt - cached - cache_write, 0) * (price.cache_write_1h_pico - price.cache_write_pico)
  + greatest(prompt - cached - cache_write - cache_write_1h, 0) * (price.audio_input_pico - price.cache_write_1h_pico)
  + greatest(prompt - cached - cache_write - cache_write_1h - audio_input, 0) * (price.input_pico - price.audio_input_pico)
  + completion * price.reasoning_pico
  + greatest(completion - reasoning, 0) * (price.audio_output_pico - price.reasoning_pico)
  + greatest(completion - reasoning - audio_output, 0) * (price.output_pico - price.audio_output_pico)
  + images * price.image_pico + searches * price.search_pico + price.request_pico + 999999) / 1000000 end;
comment on function private.ai_cost_micros(private.price_refs, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint) is
  'What a call costs, in micro-dollars, rounded up once: the one rule for every settlement. cached, cache_write, cache_write_1h and audio_input are parts of the prompt, reasoning and audio_output of the completion, each token in one of them at most: what is more than there is does not count. Nothing used costs nothing. Numbers from 0 on, tokens up to 100,000,000, images and searches up to 10,000: with the bounds of model_prices the sum is below 5e18, and never too large.';

-- sql/41_ai_snapshot.sql ==============================================================================================

-- What admission depends on beside the account: models, prices, routes, breakers. The gateway keeps a snapshot of it with a version,
-- works out routes and worst cases from that, and an admission by another version takes nothing.

insert into private.settings (key, value, rule, description) values
  ('ai.default_max_output_tokens', '4096', '{"type": "integer", "minimum": 1, "maximum": 10000000}', 'Output tokens reserved and asked for when a caller sets no max_tokens.'),
  ('ai.timeouts_charge', '"caller"', '{"enum": ["caller", "project"]}', 'Who pays the estimate for an answer that did not come in time: caller, or project, whose cap alone it is taken from.'),
  ('ai.hold_grace_seconds', '60', '{"type": "integer", "minimum": 0, "maximum": 86400}', 'How long after a provider''s total timeout a call counts as abandoned.'),
  ('ai.breaker_failures', '5', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Failures of a provider''s model in a row after which its circuit breaker opens.'),
  ('ai.breaker_accounts', '3', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'From how many accounts those failures must come: who makes a model fail on purpose closes it for nobody else.'),
  ('ai.breaker_window_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 86400}', 'How long after a failure the next one still counts as in a row.'),
  ('ai.breaker_open_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 86400}', 'How long an open circuit breaker rests before one call tries again.')
on conflict (key) do nothing;

create table private.circuit_breakers (
  provider_id text not null references private.providers (id) on delete cascade,
  model_id text not null references public.models (id) on delete cascade,
  failures integer not null default 0 check (failures >= 0),
  open_until timestamptz,
  probe_until timestamptz,
  primary key (provider_id, model_id)
);
comment on table private.circuit_breakers is
  'Models of providers that fail, one row each; no row: all is well. Open until open_until; after that one call at a time tries (probe_until) until one succeeds.';
create index circuit_breakers_model_id_idx on private.circuit_breakers (model_id);
revoke all on private.circuit_breakers from anon, authenticated, service_role;

create table private.breaker_failures (
  provider_id text not null,
  model_id text not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  failures integer not null default 1 check (failures > 0),
  last_failed_at timestamptz not null default now(),
  primary key (provider_id, model_id, user_id),
  foreign key (provider_id, model_id) references private.circuit_breakers (provider_id, model_id) on delete cascade
);
comment on table private.breaker_failures is
  'Whose calls met the failures that a circuit breaker counts, one row for each account, as long as they count. A success ends them with the breaker''s row.';
create index breaker_failures_user_id_idx on private.breaker_failures (user_id);
revoke all on private.breaker_failures from anon, authenticated, service_role;

create table private.ai_config (
  one boolean primary key default true check (one),
  version bigint not null default 1,
  changes_at timestamptz not null default 'infinity'
);
comment on table private.ai_config is
  'One row. version rises in every transaction that changes what private.ai_snapshot tells, so that two with the same version tell the same.';
comment on column private.ai_config.changes_at is 'When the next price begins: from then on the version counts as another, without a change.';
revoke all on private.ai_config from anon, authenticated, service_role;
insert into private.ai_config (one) values (true) on conflict do nothing;

create function private.raise_ai_version() returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The lock first, and what is true after it: of two new prices the second sees the first.
  perform from private.ai_config c for no key update;
  update private.ai_config c set version = c.version + 1,
    changes_at = coalesce((select min(p.valid_from) from public.model_prices p where p.valid_from > now()), 'infinity')
  where c.one;
end $$;
comment on function private.raise_ai_version() is 'Makes every snapshot of before worthless. To be called by whoever changes what is in it, in the same transaction.';

create function private.tg__ai_version() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: for whoever may change models, prices and settings.
begin
  perform private.raise_ai_version();
  return null;
end $$;
comment on function private.tg__ai_version() is 'What changed is in private.ai_snapshot.';
create trigger tg_models__ai_version after insert or update or delete or truncate on public.models
  for each statement execute function private.tg__ai_version();
create trigger tg_model_prices__ai_version after insert or update or delete or truncate on public.model_prices
  for each statement execute function private.tg__ai_version();
create trigger tg_providers__ai_version after insert or update or delete or truncate on private.providers
  for each statement execute function private.tg__ai_version();
create trigger tg_plan_models__ai_version after insert or update or delete or truncate on public.plan_models
  for each statement execute function private.tg__ai_version();
create trigger tg_model_fallbacks__ai_version after insert or update or delete or truncate on private.model_fallbacks
  for each statement execute function private.tg__ai_version();
create trigger tg_settings__ai_version after insert or update on private.settings
  for each row when (new.key in ('ai.default_max_output_tokens', 'ai.hold_grace_seconds', 'ai.timeouts_charge')) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_opened after insert on private.circuit_breakers
  for each row when (new.open_until is not null) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_changed after update on private.circuit_breakers
  for each row when (new.open_until is distinct from old.open_until) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_closed after delete on private.circuit_breakers
  for each row when (old.open_until is not null) execute function private.tg__ai_version();

create view private.prices_in_force with (security_invoker = true) as
select m.id as model_id, m.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, m.credits_per_call as credits,
  ceil(p.input_usd_per_mtok * 1000000)::bigint as input_pico,
  ceil(coalesce(p.cached_input_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cached_input_pico,
  ceil(coalesce(p.cache_write_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cache_write_pico,
  ceil(coalesce(p.cache_write_1h_usd_per_mtok, p.cache_write_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cache_write_1h_pico,
  ceil(coalesce(p.audio_input_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as audio_input_pico,
  ceil(p.output_usd_per_mtok * 1000000)::bigint as output_pico,
  ceil(coalesce(p.reasoning_usd_per_mtok, p.output_usd_per_mtok) * 1000000)::bigint as reasoning_pico,
  ceil(coalesce(p.audio_output_usd_per_mtok, p.output_usd_per_mtok) * 1000000)::bigint as audio_output_pico,
  ceil(coalesce(p.image_usd, 0) * 1000000000000)::bigint as image_pico,
  ceil(coalesce(p.search_usd, 0) * 1000000000000)::bigint as search_pico,
  ceil(p.request_usd * 1000000000000)::bigint as request_pico,
  array_remove(array[
    case when p.cache_write_usd_per_mtok is null then 'cache_write' end,
    case when p.cache_write_1h_usd_per_mtok is null then 'cache_write_1h' end,
    case when p.audio_input_usd_per_mtok is null then 'audio_input' end,
    case when p.audio_output_usd_per_mtok is null then 'audio_output' end,
    case when p.image_usd is null then 'image' end,
    case when p.search_usd is null then 'search' end], null) as unpriced
from public.models m
  cross join lateral (
    select distinct on (x.above_prompt_tokens, x.variant) x.* from public.model_prices x
    where x.model_id = m.id and x.valid_from <= now()
    order by x.above_prompt_tokens, x.variant, x.valid_from desc) p;
comment on view private.prices_in_force is
  'The prices of every model at this moment, by step and variant, in whole pico-dollars for a unit of each kind, rounded up where a price is finer: what private.price_refs keeps. unpriced: units without a price of their own, so that a call which asks for one is refused; what is here for them is what they cost when they come unasked.';
revoke all on private.prices_in_force from anon, authenticated, service_role;

create view private.refs_in_force with (security_invoker = true) as
select r.ref, p.*
from private.prices_in_force p left join private.price_refs r
  on (r.model_id, r.provider_id, r.valid_from, r.above_prompt_tokens, r.variant, r.credits)
    = (p.model_id, p.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, p.credits)
  and (r.input_pico, r.cached_input_pico, r.cache_write_pico, r.cache_write_1h_pico, r.audio_input_pico)
    = (p.input_pico, p.cached_input_pico, p.cache_write_pico, p.cache_write_1h_pico, p.audio_input_pico)
  and (r.output_pico, r.reasoning_pico, r.audio_output_pico, r.image_pico, r.search_pico, r.request_pico)
    = (p.output_pico, p.reasoning_pico, p.audio_output_pico, p.image_pico, p.search_pico, p.request_pico);
comment on view private.refs_in_force is 'The prices of this moment with their rows in price_refs; ref is null as long as there is none.';
revoke all on private.refs_in_force from anon, authenticated, service_role;

create function private.ai_snapshot() returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  if exists (select from private.ai_config c where c.changes_at <= now()) then
    -- Of many who see it the first raises the version; the others look again when they have the lock.
    perform from private.ai_config c for no key update;
    if exists (select from private.ai_config c where c.changes_at <= now()) then
      perform private.raise_ai_version();
    end if;
  end if;
  -- Whoever changes something waits with the new version until this is done, so what follows belongs to the version of now.
  perform from private.ai_config c for share;
  insert into private.price_refs (
    model_id, provider_id, valid_from, above_prompt_tokens, variant, credits, input_pico, cached_input_pico, cache_write_pico,
    cache_write_1h_pico, audio_input_pico, output_pico, reasoning_pico, audio_output_pico, image_pico, search_pico, request_pico)
  select p.model_id, p.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, p.credits, p.input_pico, p.cached_input_pico,
    p.cache_write_pico, p.cache_write_1h_pico, p.audio_input_pico, p.output_pico, p.reasoning_pico, p.audio_output_pico, p.image_pico,
    p.search_pico, p.request_pico
  from private.refs_in_force p where p.ref is null
  on conflict do nothing;
  return (
    select jsonb_build_object(
      'version', c.version,
      'default_max_output_tokens', private.setting('ai.default_max_output_tokens'),
      'hold_grace_seconds', private.setting('ai.hold_grace_seconds'),
      'timeouts_charge', private.setting('ai.timeouts_charge'),
      'providers', (select coalesce(jsonb_agg(to_jsonb(v) - 'enabled'), '[]') from private.providers v where v.enabled),
      'models', (select coalesce(jsonb_agg(to_jsonb(m)), '[]') from private.snapshot_models m))
    from private.ai_config c);
end $$;
comment on function private.ai_snapshot() is
  'What routes and worst cases are worked out from, as of one version: {version, default_max_output_tokens, hold_grace_seconds, timeouts_charge, providers: [{id, base_url, api_key_secret, connect_timeout_ms, ...}], models: [{id, provider_id, upstream_id, kind, context_tokens, max_output_tokens, tokens_per_second, template_percent, template_tokens, search_prompt_tokens, media, limit_field, open_fields, plans: [numbers], fallbacks: [ids], open_until: Unix seconds or null, prices: [{ref, above_prompt_tokens, variant, credits, input_pico, ..., unpriced: [units]}]}]}. Enabled ones only. prices are sorted by variant and step; each has its row in price_refs when this returns.';

create view private.snapshot_models with (security_invoker = true) as
select m.id, m.provider_id, m.upstream_id, m.kind, m.context_tokens, m.max_output_tokens, m.tokens_per_second, m.template_percent, m.template_tokens,
  m.search_prompt_tokens, m.media, m.limit_field, m.open_fields,
  (
    select coalesce(jsonb_agg(s.plan_number order by s.plan_number), '[]')
    from public.plan_models n join private.limit_sets s on s.plan_id = n.plan_id and s.user_id is null
    where n.model_id = m.id) as plans,
  (
    select coalesce(jsonb_agg(f.fallback_model_id order by f.position), '[]') from private.model_fallbacks f where f.model_id = m.id) as fallbacks,
  (
    select extract(epoch from b.open_until) from private.circuit_breakers b where b.provider_id = m.provider_id and b.model_id = m.id) as open_until,
  (
    select coalesce(jsonb_agg(to_jsonb(r) - '{model_id,provider_id,valid_from}'::text[] order by r.variant, r.above_prompt_tokens), '[]')
    from private.refs_in_force r where r.model_id = m.id and r.ref is not null) as prices
from public.models m join private.providers v on v.id = m.provider_id
where m.enabled and v.enabled;
comment on view private.snapshot_models is 'The models in private.ai_snapshot.';
revoke all on private.snapshot_models from anon, authenticated, service_role;

-- Breakers -------------------------------------------------------------------------------------------------------------

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

create function private.report_ai_attempts(reports jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_reports jsonb;
  v_report record;
begin
  select jsonb_agg(r.value order by m.provider_id, m.id) into v_reports
  from jsonb_array_elements(reports) r join public.models m on m.id = r.value ->> 'model' and m.provider_id = r.value ->> 'provider';
  perform private.lock_breakers(v_reports);
  for v_report in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as model_id, (r.value ->> 'user_id')::uuid as user_id,
      (r.value ->> 'ok')::boolean as is_ok
    from jsonb_array_elements(v_reports) with ordinality r order by r.ordinality
  loop
    if v_report.is_ok then
      -- A row that somebody else has, and this one has not, came after the call that went well.
      delete from private.circuit_breakers b where (b.provider_id, b.model_id) in (
        select o.provider_id, o.model_id from private.circuit_breakers o
        where o.provider_id = v_report.provider_id and o.model_id = v_report.model_id for update skip locked);
    elsif v_report.user_id is not null then
      perform private.count_breaker_failure(v_report.provider_id, v_report.model_id, v_report.user_id);
    end if;
  end loop;
end $$;
comment on function private.report_ai_attempts(jsonb) is
  'Tells the breakers how askings of providers went: an array of {provider, model, user_id, ok}. ai.breaker_failures failures of ai.breaker_accounts accounts within ai.breaker_window_seconds open one for ai.breaker_open_seconds; a success closes it.';

create function private.lock_breakers(reports jsonb) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_model record;
begin
  for v_model in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as id,
      coalesce(bool_or(not (r.value ->> 'ok')::boolean and r.value ->> 'user_id' is not null), false) as has_failures
    from jsonb_array_elements(reports) r group by 1, 2 order by 1, 2
  loop
    if v_model.has_failures then
      insert into private.circuit_breakers (provider_id, model_id) values (v_model.provider_id, v_model.id) on conflict do nothing;
    end if;
    perform from private.circuit_breakers b where b.provider_id = v_model.provider_id and b.model_id = v_model.id for update;
  end loop;
end $$;
comment on function private.lock_breakers(jsonb) is
  'Locks the rows of all models in reports, in one order, and before one of them opens or closes: that takes the lock of private.ai_config, and who has it must wait for no row.';

create function private.count_breaker_failure(provider_id text, model_id text, user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_counts_from timestamptz := now() - make_interval(secs => (private.setting('ai.breaker_window_seconds'))::integer);
  v_breaker private.circuit_breakers;
  v_failures bigint;
  v_accounts bigint;
begin
  -- Who has its row counts alone.
  insert into private.circuit_breakers as b (provider_id, model_id)
  values (count_breaker_failure.provider_id, count_breaker_failure.model_id)
  on conflict on constraint circuit_breakers_pkey do update set probe_until = null
  returning b.* into v_breaker;
  -- What is long ago is no part of this outage, and what was before the breaker rested says nothing of now.
  delete from private.breaker_failures f
  where f.provider_id = v_breaker.provider_id and f.model_id = v_breaker.model_id
    and f.last_failed_at < greatest(v_counts_from, v_breaker.open_until);
  insert into private.breaker_failures as f (provider_id, model_id, user_id)
  select v_breaker.provider_id, v_breaker.model_id, u.id from auth.users u where u.id = count_breaker_failure.user_id
  on conflict on constraint breaker_failures_pkey do update set failures = f.failures + 1, last_failed_at = now();
  select coalesce(sum(f.failures), 0), count(*) into v_failures, v_accounts
  from private.breaker_failures f where f.provider_id = v_breaker.provider_id and f.model_id = v_breaker.model_id;
  update private.circuit_breakers b set
    failures = v_failures,
    open_until = case when private.breaker_opens(v_breaker.open_until, v_failures, v_accounts)
      then now() + make_interval(secs => (private.setting('ai.breaker_open_seconds'))::integer) else b.open_until end
  where b.provider_id = v_breaker.provider_id and b.model_id = v_breaker.model_id;
end $$;
comment on function private.count_breaker_failure(text, text, uuid) is
  'Counts one failure that a call of this account met, and opens the breaker when it was the last one needed.';

create function private.breaker_opens(open_until timestamptz, failures bigint, accounts bigint) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if open_until is null then
    return failures >= (private.setting('ai.breaker_failures'))::integer and accounts >= (private.setting('ai.breaker_accounts'))::integer;
  end if;
  -- Half open: two are enough, and one alone cannot keep it so.
  return open_until <= now() and accounts >= least(2, (private.setting('ai.breaker_accounts'))::integer);
end $$;
comment on function private.breaker_opens(timestamptz, bigint, bigint) is
  'Whether so many failures of so many accounts open a breaker that was open until then; null: that was closed.';

-- sql/42_ai_admission.sql =============================================================================================

-- Admission of AI calls: all or nothing, exact, in one transaction for many callers at once.

create table private.ai_idempotency_keys (
  -- The account's row is locked by who writes here; that of auth.users may be somebody's who erases it and waits for the account.
  user_id uuid not null references private.accounts (user_id) on delete cascade,
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

insert into private.settings (key, value, rule, description) values
  ('ai.refused_calls_per_hour', '100', '{"type": "integer", "minimum": 0, "maximum": 1000000}', 'Refused AI calls of a user within an hour (UTC) that are rows of ai_calls; what more there is is only counted, in get_my_usage.')
on conflict (key) do nothing;

create table private.ai_refusals (
  -- As above.
  user_id uuid not null references private.accounts (user_id) on delete cascade,
  hour timestamptz not null,
  endpoint text not null check (length(endpoint) <= 40),
  error_code text not null check (length(error_code) <= 80),
  noted bigint not null,
  counted bigint not null,
  primary key (user_id, hour, endpoint, error_code),
  check (noted >= 0 and counted >= 0)
);
comment on table private.ai_refusals is 'Refused AI calls of a user by hour (UTC): so that who makes many is seen, and fills nothing.';
comment on column private.ai_refusals.noted is 'Those that have a row in ai_calls: ai.refused_calls_per_hour of a user at most.';
comment on column private.ai_refusals.counted is 'Those that have none. ai_usage_daily has them under the model (refused).';
create index ai_refusals_hour_idx on private.ai_refusals (hour);
revoke all on private.ai_refusals from anon, authenticated, service_role;

create type private.ai_request as (
  request_id text, user_id uuid, session_id uuid, key_hash bytea, ip inet, signature jsonb,
  endpoint text, model_id text, price_refs integer[], plans bigint, probes boolean,
  prompt_tokens bigint, output_tokens bigint, credits bigint, micros bigint, lasts_ms bigint, stream boolean, request_bytes bigint,
  idempotency_key text, body_hash text, credential_id uuid);
comment on type private.ai_request is
  'A call that asks for admission: who (user_id and session_id, or the SHA-256 of a key, with address and signature), what, and what the gateway worked out for it from private.ai_snapshot: price_refs, the routes in their order (null: none is open); plans, a bit for the number of each plan for which that is so; probes, that the first of them is a breaker''s half-open one; and the worst case of the dearest: tokens, credits, micro-dollars, and how long it may last.';

create type private.ai_answer as (
  position integer, settles boolean, call_id uuid, user_id uuid, refusal jsonb, provider_key text,
  cost_micros bigint, credits_charged bigint, credits_remaining bigint,
  requests_amount bigint, requests_remaining bigint, requests_reset_at bigint, calls_amount bigint, calls_remaining bigint, calls_reset_at bigint,
  tokens_amount bigint, tokens_remaining bigint, tokens_reset_at bigint);
comment on type private.ai_answer is
  'What became of the call at a position (from 1) of the requests, or of the outcomes when settles is true. Of a settlement call_id is null when the call was closed before. Resets are Unix seconds; 9223372036854775807 is no limit. provider_key: the caller''s own key, when the call asked for it.';

create type private.ai_callers as (users uuid[], keys uuid[], have_aal2 boolean[], refusals jsonb[]);
comment on type private.ai_callers is 'Who makes each of several calls, by position: a user, null when it is nobody who may call; by which API key; with a second factor; and why not, when a key says why.';

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

create function private.ai_callers(requests private.ai_request[]) returns private.ai_callers
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_callers private.ai_callers;
  v_have_keys boolean;
  v_key record;
begin
  select array_agg(s.user_id order by r.ordinality), array_agg(s.aal = 'aal2' order by r.ordinality), bool_or(r.key_hash is not null)
  into v_callers.users, v_callers.have_aal2, v_have_keys
  from unnest(requests) with ordinality r
    -- limit: each is looked up by itself, and not all sessions first.
    left join lateral (
      select l.user_id, l.aal from private.live_sessions l
      where l.id = r.session_id and l.user_id = r.user_id and r.key_hash is null limit 1) s on true;
  for i in 1..case when v_have_keys then cardinality(requests) else 0 end loop
    if (requests[i]).key_hash is not null then
      select k.* into v_key
      from private.check_api_key((requests[i]).key_hash, (requests[i]).endpoint, (requests[i]).ip, (requests[i]).signature) k;
      v_callers.users[i] := v_key.user_id;
      v_callers.keys[i] := v_key.api_key_id;
      v_callers.have_aal2[i] := true;
      v_callers.refusals[i] := v_key.refusal;
    end if;
  end loop;
  return v_callers;
end $$;
comment on function private.ai_callers(private.ai_request[]) is
  'Who calls: the users of live sessions, and the owners of keys that are good for what is asked. A key needs no second factor.';

-- Taking what calls need -----------------------------------------------------------------------------------------------

create type private.ai_group as (
  user_id uuid, have_aal2 boolean, plans bigint, calls bigint, chats bigint, embeddings bigint, images bigint, credits bigint, tokens bigint, micros bigint);
comment on type private.ai_group is 'The calls of one account that are taken together, and what they need; plans: those for which the routes of all of them were worked out.';

create function private.ai_groups(requests private.ai_request[], callers private.ai_callers, is_alone boolean) returns private.ai_group[]
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_users uuid[] := callers.users;
  v_have_aal2 boolean[] := callers.have_aal2;
  v_groups private.ai_group[];
begin
  select array_agg(row(g.*)::private.ai_group) into v_groups from (
    select v_users[r.ordinality] as user_id, bool_and(v_have_aal2[r.ordinality]), bit_and(r.plans), count(*),
      count(*) filter (where r.endpoint = 'chat.completions'), count(*) filter (where r.endpoint = 'embeddings'),
      count(*) filter (where r.endpoint = 'images.generations'),
      sum(r.credits)::bigint, sum(r.prompt_tokens + r.output_tokens)::bigint, sum(r.micros)::bigint
    from unnest(requests) with ordinality r
    where v_users[r.ordinality] is not null
    group by 1
    -- A call with more to it, and all others of the same account beside it, are taken alone, in their order.
    having is_alone or bool_and(
      r.key_hash is null and r.idempotency_key is null and r.credential_id is null and r.probes is not true and r.price_refs is not null
      and length(r.request_id) between 1 and 64 and r.endpoint in ('chat.completions', 'embeddings', 'images.generations')
      and least(r.prompt_tokens, r.output_tokens, r.credits, r.micros, r.request_bytes, r.lasts_ms) >= 0)) g;
  return v_groups;
end $$;
comment on function private.ai_groups(private.ai_request[], private.ai_callers, boolean) is
  'What the plain calls of each account need together: of sessions, by routes without a half-open breaker, with our keys, without an idempotency key. is_alone: it is one call, and its other needs are seen to.';

create type private.ai_taken as (
  user_id uuid, day_resets_at timestamptz, month_resets_at timestamptz, credits_remaining bigint,
  requests_amount bigint, requests_remaining bigint, requests_reset_at bigint, calls_amount bigint, calls_remaining bigint,
  tokens_amount bigint, tokens_remaining bigint);
comment on type private.ai_taken is 'An account from which a group was taken, as it is then; the rest as in private.ai_answer.';

create function private.take_ai_groups(groups private.ai_group[]) returns private.ai_taken[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_taken private.ai_taken[];
begin
  -- All that a group needs, or nothing of it. A minute that is over is as good as empty, and what is taken begins the next one.
  with taken as (
    update private.accounts a set
      held = a.held + g.credits,
      minute_resets_at = case when a.minute_resets_at > now() then a.minute_resets_at else now() + interval '1 minute' end,
      ai_requests_used = case when a.minute_resets_at > now() then a.ai_requests_used else 0 end + g.calls,
      chat_completions_requests_used = case when a.minute_resets_at > now() then a.chat_completions_requests_used else 0 end + g.chats,
      embeddings_requests_used = case when a.minute_resets_at > now() then a.embeddings_requests_used else 0 end + g.embeddings,
      images_generations_requests_used = case when a.minute_resets_at > now() then a.images_generations_requests_used else 0 end + g.images,
      ai_concurrency_held = a.ai_concurrency_held + g.calls,
      ai_calls_held = a.ai_calls_held + g.calls,
      ai_tokens_held = a.ai_tokens_held + g.tokens,
      ai_spend_micros_held = a.ai_spend_micros_held + g.micros
    from unnest(groups) g, private.limit_sets l
    where a.user_id = g.user_id and l.id = a.limits_id
      and a.is_active and a.banned_until <= now() and (g.have_aal2 or not a.has_factor) and (g.plans >> l.plan_number) & 1 = 1
      and least(a.entitled_until, a.next_expiry_at, a.day_resets_at, a.month_resets_at) > now() and a.balance - a.held >= g.credits
      and case when a.minute_resets_at > now() then a.ai_requests_used else 0 end + g.calls <= l.ai_requests
      -- An endpoint that none of them asks may be over its limit, which was lowered.
      and (g.chats = 0
        or case when a.minute_resets_at > now() then a.chat_completions_requests_used else 0 end + g.chats <= l.chat_completions_requests)
      and (g.embeddings = 0
        or case when a.minute_resets_at > now() then a.embeddings_requests_used else 0 end + g.embeddings <= l.embeddings_requests)
      and (g.images = 0
        or case when a.minute_resets_at > now() then a.images_generations_requests_used else 0 end + g.images <= l.images_generations_requests)
      and a.ai_concurrency_held + g.calls <= l.ai_concurrency and a.ai_calls_used + a.ai_calls_held + g.calls <= l.ai_calls
      and a.ai_tokens_used + a.ai_tokens_held + g.tokens <= l.ai_tokens
      and a.ai_spend_micros_used + a.ai_spend_micros_held + g.micros <= l.ai_spend_micros
    returning a.user_id, a.day_resets_at, a.month_resets_at, a.balance - a.held,
      l.ai_requests, l.ai_requests - a.ai_requests_used, extract(epoch from a.minute_resets_at)::bigint,
      l.ai_calls, l.ai_calls - a.ai_calls_used - a.ai_calls_held, l.ai_tokens, l.ai_tokens - a.ai_tokens_used - a.ai_tokens_held
  )
  select array_agg(row(t.*)::private.ai_taken) into v_taken from taken t;
  return v_taken;
end $$;
comment on function private.take_ai_groups(private.ai_group[]) is
  'Takes what groups need of their accounts'' meters and credits, where all of it fits and the account may go on; answers the accounts from which it did. The caller has locked them in a statement before this one.';

create function private.take_ai_calls(requests private.ai_request[], callers private.ai_callers, is_alone boolean default false)
returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_groups private.ai_group[] := private.ai_groups(requests, callers, is_alone);
  v_taken private.ai_taken[];
  v_users uuid[] := callers.users;
  v_keys uuid[] := callers.keys;
  -- Of the month from which their money was taken, although midnight may have come meanwhile.
  v_now timestamptz := private.moment_of_month(now(), date_trunc('milliseconds', clock_timestamp()));
  -- The first half of private.uuid_v7() once for all.
  v_time bytea := substring(int8send((extract(epoch from v_now) * 1000)::bigint) from 3) || '\x7000'::bytea;
begin
  if v_groups is not null then
    v_taken := private.take_ai_groups(v_groups);
  end if;
  if v_taken is null then
    return;
  end if;
  return query
  with calls as materialized (
    select r.*, t.*, encode(overlay(uuid_send(gen_random_uuid()) placing v_time from 1 for 8), 'hex')::uuid as call_id
    from unnest(v_taken) t (
        owner, day_resets_at, month_resets_at, credits_remaining, requests_amount, requests_remaining, requests_reset_at, calls_amount,
        calls_remaining, tokens_amount, tokens_remaining)
      join unnest(requests) with ordinality r on v_users[r.ordinality] = t.owner
  ), held as (
    insert into private.ai_holds (
      call_id, user_id, created_at, expires_at, day_resets_at, month_resets_at, session_id, api_key_id, request_bytes, credits,
      prompt_tokens, output_tokens, micros, stream, own_key, price_ref, fallback_refs, request_id, endpoint, model_id)
    select c.call_id, c.owner, v_now, now() + c.lasts_ms * interval '1 millisecond', c.day_resets_at, c.month_resets_at,
      c.session_id, v_keys[c.ordinality], c.request_bytes, c.credits, c.prompt_tokens, c.output_tokens, c.micros, c.stream,
      c.credential_id is not null, c.price_refs[1], nullif(c.price_refs[2:], '{}'), c.request_id, c.endpoint, left(c.model_id, 200)
    from calls c
  )
  select c.ordinality::integer, false, c.call_id, c.owner, null::jsonb, null::text, null::bigint, null::bigint, c.credits_remaining,
    c.requests_amount, c.requests_remaining, c.requests_reset_at, c.calls_amount, c.calls_remaining, extract(epoch from c.day_resets_at)::bigint,
    c.tokens_amount, c.tokens_remaining, extract(epoch from c.month_resets_at)::bigint
  from calls c;
end $$;
comment on function private.take_ai_calls(private.ai_request[], private.ai_callers, boolean) is
  'The one way in: takes and holds what fits, an account''s calls together or none of them, and answers what was admitted. What it leaves out has taken nothing. is_alone: for one call with whatever there is to it.';

-- Why not --------------------------------------------------------------------------------------------------------------

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

create function private.model_refusal(request private.ai_request, user_id uuid, plan_id text) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_kind text := case request.endpoint when 'embeddings' then 'embedding' when 'images.generations' then 'image' else 'chat' end;
  v_details jsonb := jsonb_build_object('param', 'model');
  v_model record;
  v_open_until timestamptz;
begin
  select m.kind, n.plan_id is not null as is_in_plan, exists (select from private.prices_in_force p where p.model_id = m.id) as is_priced
  into v_model
  from public.models m
    join private.providers p on p.id = m.provider_id and p.enabled
    left join public.plan_models n on n.model_id = m.id and n.plan_id = model_refusal.plan_id
  where m.id = request.model_id and m.enabled;
  if not found then
    return jsonb_build_object('code', 'model_not_found', 'message', format('There is no model %s.', left(request.model_id, 200)), 'details', v_details);
  elsif v_model.kind <> v_kind then
    return jsonb_build_object('code', 'invalid_request_error', 'details', v_details,
      'message', format('The model %s is not for this endpoint: it is of the kind %s.', request.model_id, v_model.kind));
  elsif not v_model.is_in_plan then
    -- A model in no plan cannot be had for money.
    return jsonb_build_object('code', 'model_not_allowed', 'details', v_details,
      'message', format('Your plan does not include the model %s.', request.model_id)
        || case when exists (select from public.plan_models o where o.model_id = request.model_id)
          then ' ' || private.payment_hint(model_refusal.user_id) else '' end);
  elsif not v_model.is_priced then
    return jsonb_build_object('code', 'model_not_priced', 'details', v_details,
      'message', format('The model %s has no price yet, so it cannot be used.', request.model_id));
  elsif request.credential_id is not null and private.feature_refusal(model_refusal.user_id, 'own_keys') is not null then
    return private.feature_refusal(model_refusal.user_id, 'own_keys') || jsonb_build_object('details', jsonb_build_object('param', 'credential'));
  elsif not exists (
    select from private.limit_sets s where s.plan_id = model_refusal.plan_id and s.user_id is null and (request.plans >> s.plan_number) & 1 = 1) then
    return (
      select jsonb_build_object('code', 'other_plan', 'details', jsonb_build_object('plan', s.plan_number))
      from private.limit_sets s where s.plan_id = model_refusal.plan_id and s.user_id is null);
  elsif request.price_refs is null then
    select min(greatest(b.open_until, now() + interval '1 second')) into v_open_until
    from private.circuit_breakers b
    where b.model_id = request.model_id
      or b.model_id in (select f.fallback_model_id from private.model_fallbacks f where f.model_id = request.model_id);
    return jsonb_build_object('code', 'circuit_open',
      'message', format('The provider of %s fails at the moment; it is tried again soon.', request.model_id),
      'details', jsonb_build_object('retry_after_s', ceil(extract(epoch from v_open_until - now()))));
  end if;
  return null;
end $$;
comment on function private.model_refusal(private.ai_request, uuid, text) is
  'Why a user on a plan may not have the model asked for, as {code, message, details}; null when it may be had. other_plan: the routes were worked out for other plans than details.plan, by its number; the gateway does it once more.';

create function private.find_idempotency_key(request private.ai_request, user_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_found private.ai_idempotency_keys;
  v_state text;
begin
  select i.* into v_found from private.ai_idempotency_keys i
  where i.user_id = find_idempotency_key.user_id and i.endpoint = request.endpoint and i.key = request.idempotency_key;
  if not found then
    return null;
  end if;
  select coalesce(
    (select 'held' from private.ai_holds h where h.call_id = v_found.call_id),
    (select case when c.usage_source = 'none' then 'released' else c.state end from public.ai_calls c
    where c.user_id = v_found.user_id and c.created_at = private.uuid_v7_time(v_found.call_id) and c.id = v_found.call_id))
  into v_state;
  if v_found.created_at <= now() - interval '24 hours' or v_state is null or v_state = 'released' then
    -- Too old, or it came to nothing and cost nothing: the key is free again.
    delete from private.ai_idempotency_keys i
    where i.user_id = v_found.user_id and i.endpoint = v_found.endpoint and i.key = v_found.key;
    return null;
  elsif v_found.body_hash <> request.body_hash then
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
comment on function private.find_idempotency_key(private.ai_request, uuid) is
  'Null when the key is free; else the refusal, or the answer that is there already. The caller holds the account''s lock, so two calls with one key take turns.';

create function private.limit_refusal(
  meter text, period text, is_held boolean, amount bigint, used bigint, held bigint, resets_at timestamptz, units bigint
) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_resets_at timestamptz := nullif(limit_refusal.resets_at, 'infinity');
  v_seconds numeric := ceil(extract(epoch from v_resets_at - now()));
  v_row jsonb := jsonb_build_object(
    'meter', meter, 'period', period, 'amount', greatest(amount, 0), 'used', used, 'held', held,
    'remaining', greatest(amount - used - held, 0), 'resets_at', v_resets_at);
begin
  return case
    when meter = 'ai_concurrency' then jsonb_build_object(
      'code', 'concurrency_limit', 'message', format('%s calls may run at once.', amount),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when not is_held then jsonb_build_object(
      'code', 'rate_limit_exceeded', 'message', format('%s %s a minute are allowed.', amount, replace(meter, '_', ' ')),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when used + units <= amount then jsonb_build_object(
      'code', 'in_flight_budget_exhausted',
      'message', format('Calls that are still running hold the rest of %s/%s. Try again when they have ended.', meter, period),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when meter = 'ai_calls' and amount >= 0 then jsonb_build_object(
      'code', case when period = 'day' then 'daily_quota_exceeded' else 'insufficient_quota' end,
      'message', format('All %s AI calls of this %s are used.', amount, period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when amount < 0 then jsonb_build_object(
      'code', 'insufficient_quota', 'message', 'Your plan has no AI calls.', 'details', jsonb_build_object('limit', v_row))
    else jsonb_build_object(
      'code', 'insufficient_quota',
      'message', format('This call may need %s %s; %s of %s are left this %s. A smaller max_tokens may fit.',
        units, case meter when 'ai_tokens' then 'tokens' when 'ai_spend_micros' then 'micro-dollars' else meter end,
        greatest(amount - used, 0), amount, period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at))
  end;
end $$;
comment on function private.limit_refusal(text, text, boolean, bigint, bigint, bigint, timestamptz, bigint) is
  'Why so many units do not fit a limit, as {code, message, details}: too fast, too many at once, used up, or held by calls that still run.';

create function private.account_shortage(request private.ai_request, user_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_refusal jsonb;
  v_account record;
  v_limit jsonb;
begin
  select private.limit_refusal(c.meter, c.period, c.is_held, c.amount, c.used, c.held, c.resets_at, c.units) into v_refusal
  from (
    select c.position, c.meter, c.period, c.is_held, c.amount, c.held, n.resets_at, case when c.resets_at > now() then c.used else 0 end as used,
      case c.meter when 'ai_tokens' then request.prompt_tokens + request.output_tokens when 'ai_spend_micros' then request.micros else 1 end as units
    from private.ai_counters c
      cross join lateral (select case when c.resets_at > now() then c.resets_at else now() + interval '1 minute' end as resets_at) n
    where c.user_id = account_shortage.user_id
      and (c.meter not like '%\_requests' or c.meter in ('ai_requests', replace(request.endpoint, '.', '_') || '_requests'))
  ) c
  where c.used + c.held + c.units > c.amount
  order by c.position limit 1;
  if v_refusal is not null then
    return v_refusal;
  end if;
  select a.balance, a.held into v_account from private.accounts a where a.user_id = account_shortage.user_id;
  if v_account.balance - v_account.held >= request.credits then
    return null;
  end if;
  v_limit := jsonb_build_object(
    'meter', 'credits', 'period', 'total', 'amount', v_account.balance, 'used', 0, 'held', v_account.held,
    'remaining', greatest(v_account.balance - v_account.held, 0), 'resets_at', null);
  return case when v_account.balance >= request.credits then jsonb_build_object(
      'code', 'in_flight_budget_exhausted',
      'message', 'Calls that are still running hold the rest of your credits. Try again when they have ended.',
      'details', jsonb_build_object('limit', v_limit, 'retry_after_s', 1))
    else jsonb_build_object(
      'code', 'insufficient_credits',
      'message', format('This call costs %s credits; you have %s.', request.credits, v_account.balance),
      'details', jsonb_build_object('limit', v_limit)) end;
end $$;
comment on function private.account_shortage(private.ai_request, uuid) is
  'The first limit of an account that a call does not fit, or its credits, as {code, message, details}; null when all of it fits. The caller holds the account''s lock.';

create function private.special_refusal(request private.ai_request, user_id uuid, api_key_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_refusal jsonb;
begin
  if request.idempotency_key is not null then
    v_refusal := private.find_idempotency_key(request, user_id);
  end if;
  if v_refusal is null and api_key_id is not null then
    v_refusal := private.key_shortage(request, user_id, api_key_id);
    if v_refusal is null and exists (
      select from private.used_signatures u where u.api_key_id = special_refusal.api_key_id and u.message_id = request.signature ->> 'id') then
      v_refusal := jsonb_build_object('code', 'invalid_signature', 'message', 'This signed request was admitted before.');
    end if;
  end if;
  return v_refusal;
end $$;
comment on function private.special_refusal(private.ai_request, uuid, uuid) is
  'Why a call with something special to it may not go on: its idempotency key, its API key''s limits, or a signature that was used.';

create function private.probe_refusal(request private.ai_request, user_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- A call that will not be made must not keep the breaker from the next one.
  v_refusal jsonb := private.account_shortage(request, user_id);
begin
  if v_refusal is null and not (
    select private.may_probe(p.provider_id, p.model_id) from private.price_refs p where p.ref = request.price_refs[1]) then
    v_refusal := jsonb_build_object('code', 'probe_taken');
  end if;
  return v_refusal;
end $$;
comment on function private.probe_refusal(private.ai_request, uuid) is
  'Why a call may not be the one that tries a half-open breaker: it does not fit its account, or another tries (probe_taken; the gateway works the routes out without it). The last thing that is asked.';

create function private.refuse_ai_call(request private.ai_request, user_id uuid, api_key_id uuid, refusal jsonb, out call_id uuid)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_code text := refusal ->> 'code';
  v_hour timestamptz := date_trunc('hour', now(), 'UTC');
  v_is_noted boolean;
begin
  -- Nobody's call, somebody's earlier answer, one that the gateway tries again, or one of many that come too fast, for which a row each
  -- would be the attack.
  if user_id is null or v_code like 'idempotency%'
    or v_code in ('invalid_api_key', 'invalid_signature', 'rate_limit_exceeded', 'concurrency_limit', 'other_plan', 'probe_taken') then
    return;
  end if;
  select coalesce(sum(r.noted), 0) < (private.setting('ai.refused_calls_per_hour'))::integer into v_is_noted
  from private.ai_refusals r where r.user_id = refuse_ai_call.user_id and r.hour = v_hour;
  insert into private.ai_refusals as r (user_id, hour, endpoint, error_code, noted, counted)
  values (refuse_ai_call.user_id, v_hour, request.endpoint, v_code, v_is_noted::integer, (not v_is_noted)::integer)
  on conflict on constraint ai_refusals_pkey do update set noted = r.noted + excluded.noted, counted = r.counted + excluded.counted;
  if not v_is_noted then
    return;
  end if;
  call_id := private.uuid_v7();
  insert into public.ai_calls
    (id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, provider_id, stream, state,
      http_status, error_code, request_bytes, settled_at)
  values
    (call_id, private.uuid_v7_time(call_id), user_id, request.session_id, api_key_id, request.request_id, request.endpoint,
      left(request.model_id, 200), (select m.provider_id from public.models m where m.id = request.model_id), request.stream, 'refused',
      private.error_status(v_code), v_code, request.request_bytes, now());
end $$;
comment on function private.refuse_ai_call(private.ai_request, uuid, uuid, jsonb) is
  'Remembers a refused call and its reason, and only counts it when there were ai.refused_calls_per_hour or it is one of a flood; takes nothing from the account. The caller holds the account''s lock.';

-- One call with all that there can be to it -----------------------------------------------------------------------------

create function private.require_sound(request private.ai_request) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if length(request.request_id) between 1 and 64 is not true or request.model_id is null
    or request.endpoint in ('chat.completions', 'embeddings', 'images.generations') is not true
    or num_nulls(request.prompt_tokens, request.output_tokens, request.credits, request.micros, request.request_bytes, request.lasts_ms, request.plans) > 0
    or least(request.prompt_tokens, request.output_tokens, request.credits, request.micros, request.request_bytes, request.lasts_ms) < 0 then
    perform private.raise_error('invalid_request_error',
      'request_id (64 characters at most), model, endpoint, plans and the worst case are needed, and no number may be negative.');
  end if;
end $$;
comment on function private.require_sound(private.ai_request) is 'Raises invalid_request_error for a call that the gateway would not send.';

create function private.admit_ai_call(request private.ai_request, user_id uuid, api_key_id uuid, refusal jsonb, have_aal2 boolean, has_spend boolean)
returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account record;
  v_callers private.ai_callers := row(array[user_id], array[api_key_id], array[have_aal2], null);
  v_refusal jsonb := refusal;
  v_provider_key text;
  v_answer private.ai_answer;
begin
  perform private.require_sound(request);
  if v_refusal is null then
    select c.* into v_account
    from private.check_account(coalesce(admit_ai_call.user_id, request.user_id), request.session_id, request.key_hash is not null) c;
    v_refusal := coalesce(
      v_account.refusal,
      private.model_refusal(request, user_id, v_account.plan_id),
      private.special_refusal(request, user_id, api_key_id));
  end if;
  if v_refusal is null and request.credential_id is not null then
    v_provider_key := private.open_provider_key(
      user_id, request.credential_id, (select p.provider_id from private.price_refs p where p.ref = request.price_refs[1]), request.request_id);
    if v_provider_key is null then
      v_refusal := jsonb_build_object('code', 'not_found', 'details', jsonb_build_object('param', 'credential'),
        'message', format('You have no such credential for the provider of %s.', request.model_id));
    end if;
  end if;
  if v_refusal is null and not has_spend and not private.take_spend(request.micros) then
    v_refusal := jsonb_build_object('code', 'spend_cap_reached', 'message', 'This service has reached its spending limit for this month.');
  end if;
  if v_refusal is null and request.probes then
    v_refusal := private.probe_refusal(request, user_id);
  end if;
  if v_refusal is null then
    select t.* into v_answer from private.take_ai_calls(array[request], v_callers, true) t;
    if v_answer.call_id is null then
      v_refusal := private.account_shortage(request, user_id);
    end if;
    if v_answer.call_id is null and v_refusal ->> 'code' in ('in_flight_budget_exhausted', 'concurrency_limit')
      and private.settle_abandoned_ai_calls(20, admit_ai_call.user_id) > 0 then
      -- Calls whose process died held it.
      select t.* into v_answer from private.take_ai_calls(array[request], v_callers, true) t;
      v_refusal := case when v_answer.call_id is null then private.account_shortage(request, user_id) end;
    end if;
    if not has_spend and v_answer.call_id is null then
      perform private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, request.micros);
    end if;
  end if;
  if v_answer.call_id is null then
    if v_refusal is null then
      raise exception 'nothing is missing, and still nothing was taken: what accounts.limits_id and the gates of % say is not what they come from', user_id;
    end if;
    v_answer.refusal := v_refusal;
    v_answer.call_id := private.refuse_ai_call(request, user_id, api_key_id, v_refusal);
    return v_answer;
  end if;
  perform private.note_special(request, v_answer, api_key_id);
  v_answer.provider_key := v_provider_key;
  return v_answer;
end $$;
comment on function private.admit_ai_call(private.ai_request, uuid, uuid, jsonb, boolean, boolean) is
  'Decides one call, of whatever kind, or says why not. has_spend: the project''s cap has handed its worst case out already. The caller has locked the account.';

create function private.note_special(request private.ai_request, answer private.ai_answer, api_key_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if request.idempotency_key is not null then
    insert into private.ai_idempotency_keys (user_id, endpoint, key, body_hash, call_id)
    values (answer.user_id, request.endpoint, request.idempotency_key, request.body_hash, answer.call_id);
  end if;
  if api_key_id is not null then
    perform private.take_key_units(request, answer.user_id, api_key_id);
    if request.signature ->> 'id' is not null then
      insert into private.used_signatures (api_key_id, message_id, expires_at)
      values (note_special.api_key_id, request.signature ->> 'id',
        now() + make_interval(secs => 2 * (private.setting('api_keys.signature_window_seconds'))::integer));
    end if;
  end if;
end $$;
comment on function private.note_special(private.ai_request, private.ai_answer, uuid) is
  'Writes down what an admitted call has beside its hold: the idempotency key, the units of its API key, the signature that is used now.';

create function private.admit_ai_calls(requests private.ai_request[], callers private.ai_callers, has_spend boolean) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_answer private.ai_answer;
  v_is_done boolean[] := array_fill(false, array[cardinality(requests)]);
  v_unused bigint := 0;
begin
  if has_spend then
    for v_answer in select t.* from private.take_ai_calls(requests, callers) t loop
      v_is_done[v_answer.position] := true;
      return next v_answer;
    end loop;
  end if;
  for i in 1..cardinality(requests) loop
    continue when v_is_done[i];
    v_answer := private.admit_ai_call(
      requests[i], (callers).users[i], (callers).keys[i], (callers).refusals[i], coalesce((callers).have_aal2[i], false), has_spend);
    v_answer.position := i;
    v_answer.settles := false;
    if v_answer.refusal is not null and has_spend then
      v_unused := v_unused + (requests[i]).micros;
    end if;
    return next v_answer;
  end loop;
  if v_unused > 0 then
    perform private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, v_unused);
  end if;
end $$;
comment on function private.admit_ai_calls(private.ai_request[], private.ai_callers, boolean) is
  'Decides calls, each by itself: most of them in one statement for all callers at once, the others one after the other. has_spend: the project''s cap has handed out what all of them may cost.';

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
  return jsonb_build_object('allowed', true, 'user_id', v_caller.user_id, 'models', coalesce((
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
  'Takes a caller as private.ai_caller does. The models the account''s plan may use: {allowed: true, user_id, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

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


-- sql/43_ai_settlement.sql ============================================================================================

-- Settlement of AI calls: once, to what was used; by the gateway, or by the sweeper for processes that died.

create function private.start_ai_calls(call_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  -- One that somebody has locked is being ended.
  update private.ai_holds h set started_at = now()
  from (
    select o.call_id from private.ai_holds o where o.call_id = any (call_ids) and o.started_at is null
    for no key update skip locked) o
  where h.call_id = o.call_id;
end $$;
comment on function private.start_ai_calls(uuid[]) is
  'Notes that the callers have begun to get answers: if the process dies now, the sweeper charges the hold.';

create type private.ai_outcome as (
  call_id uuid, user_id uuid, result text, http_status integer, error_code text, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint, audio_input_tokens bigint, reasoning_tokens bigint,
  audio_output_tokens bigint, images bigint, searches bigint, cost_usd numeric, usage_source text, implausible text, response_bytes bigint,
  duration_ms integer, first_token_ms integer, attempts integer, price_ref integer, response text, late_prompt_tokens bigint,
  late_completion_tokens bigint);
comment on type private.ai_outcome is
  'How a call of a user ended: result is succeeded, failed or cancelled. prompt_tokens null: nothing is charged. usage_source project: what it used is the project''s loss and not the caller''s. implausible says why what the provider reported was not believed. price_ref is the route that answered, by the step that its prompt reached; response its whole answer, when it is to be kept for the same idempotency key. late_prompt_tokens and late_completion_tokens are what a provider worked in vain, by estimate, before an answer came: the project''s loss, as far as the answer leaves something of the hold. abandoned, the sweeper''s own: charged what was held if the answer had begun.';

create type private.ai_ended as (
  position integer, call_id uuid, user_id uuid, created_at timestamptz, session_id uuid, api_key_id uuid, request_id text, endpoint text,
  model_id text, answered_by text, provider_id text, stream boolean, state text, http_status integer, error_code text, attempts integer,
  request_bytes bigint, response_bytes bigint, duration_ms integer, first_token_ms integer, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, cache_write_tokens integer, cache_write_1h_tokens integer, audio_input_tokens integer, reasoning_tokens bigint,
  audio_output_tokens integer, images bigint, searches integer, usage_source text, cost_micros bigint, provider_cost_micros bigint,
  credits_charged bigint, hold_micros bigint, price_valid_from timestamptz, price_ref integer, hold_credits bigint, hold_tokens bigint,
  is_charged boolean, is_today boolean, is_this_month boolean, day_resets_at timestamptz, month_resets_at timestamptz, response text,
  implausible text, project_micros bigint);
comment on type private.ai_ended is
  'A call that has ended, as its row in ai_calls says it, beside what it held, and whether that belongs to the day and the month that its account is in.';

create table private.ai_surprises (
  call_id uuid primary key,
  settled_at timestamptz not null default clock_timestamp(),
  model_id text not null,
  provider_id text not null,
  hold_micros bigint not null,
  cost_micros bigint not null,
  hold_tokens bigint not null,
  used_tokens bigint not null,
  implausible text
);
comment on table private.ai_surprises is
  'Calls that cost or used more than they held, and those whose provider reported what was not believed, until private.warn_of_ai_surprises tells of them: the audit log has a lock that a settlement must not hold. Its texts are as long as those of price_refs and private.ai_outcome.';
revoke all on private.ai_surprises from anon, authenticated, service_role;

create function private.end_ai_holds(outcomes private.ai_outcome[]) returns private.ai_ended[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ended private.ai_ended[];
begin
  -- Each hold ends once; an outcome that does not say what is charged ends none.
  with ended as (
    delete from private.ai_holds h
    using unnest(outcomes) with ordinality o (
      id, owner, result, http_status, error_code, used_prompt, used_completion, used_cached, used_cache_write, used_cache_write_1h,
      used_audio_input, used_reasoning, used_audio_output, used_images, used_searches, cost_usd, usage_source, implausible, response_bytes,
      duration_ms, first_token_ms, attempts, answered_ref, response, late_prompt, late_completion, position)
    where h.call_id = o.id and h.user_id = o.owner
      and case o.result when 'succeeded' then o.used_prompt is not null when 'abandoned' then h.expires_at < now()
        else o.result in ('failed', 'cancelled') end
    returning h.*, o.*
  ), used as (
    -- Nothing is less than nothing, or more than private.ai_cost_micros takes. An abandoned call is charged for all it held, once its
    -- answer had begun.
    select e.*, case e.result when 'abandoned' then e.started_at is not null else e.used_prompt is not null and e.usage_source is distinct from 'project' end as is_charged,
      case e.result when 'abandoned' then case when e.started_at is not null then e.prompt_tokens end else least(greatest(e.used_prompt, 0), 100000000) end as prompt,
      case e.result when 'abandoned' then case when e.started_at is not null then e.output_tokens end else least(greatest(e.used_completion, 0), 100000000) end
        as completion,
      least(greatest(e.used_cached, 0), 100000000) as cached, least(greatest(e.used_cache_write, 0), 100000000) as cache_write,
      least(greatest(e.used_cache_write_1h, 0), 100000000) as cache_write_1h, least(greatest(e.used_audio_input, 0), 100000000) as audio_input,
      least(greatest(e.used_reasoning, 0), 100000000) as reasoning, least(greatest(e.used_audio_output, 0), 100000000) as audio_output,
      least(greatest(e.used_images, 0), 10000) as images, least(greatest(e.used_searches, 0), 10000) as searches,
      least(greatest(coalesce(e.late_prompt, 0), 0), 100000000) as late_in, least(greatest(coalesce(e.late_completion, 0), 0), 100000000) as late_out,
      -- Only a route that was held for can have answered; anything else is charged as the first.
      case when e.answered_ref = any (e.fallback_refs) then e.answered_ref else e.price_ref end as charged_ref
    from ended e
    -- What is worked out here is so once, and not wherever it is used.
    offset 0
  )
  select array_agg(row(
    u.position, u.call_id, u.user_id, u.created_at, u.session_id, u.api_key_id, u.request_id, u.endpoint, u.model_id,
    case when u.is_charged then p.model_id end, p.provider_id, u.stream,
    case when u.result = 'abandoned' then 'expired' when u.is_charged then 'settled' else 'released' end,
    u.http_status, left(u.error_code, 80), coalesce(u.attempts, 0), u.request_bytes, u.response_bytes, u.duration_ms, u.first_token_ms,
    case when u.usage_source = 'project' then 0 else u.prompt end, case when u.usage_source = 'project' then 0 else u.completion end, u.cached, nullif(u.cache_write, 0), nullif(u.cache_write_1h, 0), nullif(u.audio_input, 0), u.reasoning,
    nullif(u.audio_output, 0), u.images, nullif(u.searches, 0),
    case when u.result <> 'abandoned' then coalesce(nullif(u.usage_source, 'project'), 'none') when u.is_charged then 'hold' else 'none' end,
    c.cost, case when u.is_charged and u.cost_usd is not null then greatest(least(ceil(u.cost_usd * 1000000), 1e12), 0)::bigint end,
    case when u.is_charged and not u.own_key then p.credits else 0 end, u.micros, p.valid_from, p.ref,
    u.credits, u.prompt_tokens + u.output_tokens, u.is_charged, u.day_resets_at = a.day_resets_at, u.month_resets_at = a.month_resets_at,
    u.day_resets_at, u.month_resets_at, u.response, u.implausible,
    case
      when u.own_key then null
      -- From what the caller leaves of the hold: the cap knows of no more.
      when u.usage_source = 'project' or u.late_in + u.late_out > 0 then
        greatest(least(u.micros - c.cost, case when u.usage_source = 'project' then w.cost else 0 end
          + private.ai_cost_micros(p, u.late_in, 0, 0, 0, 0, u.late_out, 0, 0, 0, 0)), 0)
    end)::private.ai_ended)
  into v_ended
  from used u join private.price_refs p on p.ref = u.charged_ref join private.accounts a on a.user_id = u.user_id,
    lateral (
      select private.ai_cost_micros(p, u.prompt, u.cached, u.cache_write, u.cache_write_1h, u.audio_input, u.completion, u.reasoning,
        u.audio_output, u.images, u.searches) as cost offset 0) w,
    lateral (
      select case when not u.is_charged or u.own_key then 0 when u.result = 'abandoned' or u.usage_source = 'hold' then u.micros
        else w.cost end as cost offset 0) c;
  return v_ended;
end $$;
comment on function private.end_ai_holds(private.ai_outcome[]) is
  'Takes the holds of calls away and says what each comes to. The caller has locked their accounts in a statement before this one, and gives back what they held.';

create type private.ai_left as (user_id uuid, calls bigint, balance_before bigint, credits_remaining bigint);
comment on type private.ai_left is 'An account after so many calls of it have ended, and its balance before.';

create function private.charge_ai_calls(ended private.ai_ended[]) returns private.ai_left[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_left private.ai_left[];
begin
  -- Each account gets back what its calls held, as far as it is of the period the account is in, and pays what they cost.
  with charged as (
    update private.accounts a set
      held = a.held - f.hold_credits,
      balance = a.balance - f.credits,
      unburned = a.unburned + f.credits,
      ai_concurrency_held = a.ai_concurrency_held - f.calls,
      ai_calls_held = a.ai_calls_held - f.held_calls,
      ai_calls_used = a.ai_calls_used + f.used_calls,
      ai_tokens_held = a.ai_tokens_held - f.held_tokens,
      ai_tokens_used = a.ai_tokens_used + f.used_tokens,
      ai_spend_micros_held = a.ai_spend_micros_held - f.held_micros,
      ai_spend_micros_used = a.ai_spend_micros_used + f.used_micros
    from (
      select e.user_id, count(*) as calls, sum(e.hold_credits)::bigint as hold_credits, sum(e.credits_charged)::bigint as credits,
        count(*) filter (where e.is_today) as held_calls, count(*) filter (where e.is_today and e.is_charged) as used_calls,
        coalesce(sum(e.hold_tokens) filter (where e.is_this_month), 0)::bigint as held_tokens,
        coalesce(sum(e.prompt_tokens + coalesce(e.completion_tokens, 0)) filter (where e.is_this_month), 0)::bigint as used_tokens,
        coalesce(sum(e.hold_micros) filter (where e.is_this_month), 0)::bigint as held_micros,
        coalesce(sum(e.cost_micros) filter (where e.is_this_month), 0)::bigint as used_micros
      from unnest(ended) e group by e.user_id) f
    where a.user_id = f.user_id
    returning a.user_id, f.calls, a.balance + f.credits as balance_before, a.balance - a.held as credits_remaining
  )
  select array_agg(row(c.user_id, c.calls, c.balance_before, c.credits_remaining)::private.ai_left) into v_left from charged c;
  return v_left;
end $$;
comment on function private.charge_ai_calls(private.ai_ended[]) is
  'Gives back what ended calls held of their accounts, and takes what they cost.';

create function private.log_ai_calls(ended private.ai_ended[], accounts private.ai_left[]) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Under the accounts' locks: in the order of these moments their calls were charged.
  v_now timestamptz := clock_timestamp();
begin
  return query
  with calls as materialized (
    select e.*, l.credits_remaining, v_now + e.position * interval '1 microsecond' as settled_at,
      -- Of one call alone, as most are here, this is a twentieth of a settlement cheaper than a window over all of them.
      l.balance_before - case when l.calls = 1 then e.credits_charged
        else (select sum(p.credits_charged)::bigint from unnest(ended) p where p.user_id = e.user_id and p.position <= e.position) end as balance_after
    from unnest(ended) e join unnest(accounts) l on l.user_id = e.user_id
  ), logged as (
    insert into public.ai_calls (
      id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream, state, http_status,
      error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens, completion_tokens, cached_tokens,
      cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, images, searches, usage_source,
      cost_micros, provider_cost_micros, project_micros, credits_charged, balance_after, hold_micros, price_valid_from, price_ref, settled_at)
    select c.call_id, c.created_at, c.user_id, c.session_id, c.api_key_id, c.request_id, c.endpoint, c.model_id, c.answered_by, c.provider_id,
      c.stream, c.state, c.http_status, c.error_code, c.attempts, c.request_bytes, c.response_bytes, c.duration_ms, c.first_token_ms,
      c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.cache_write_tokens, c.cache_write_1h_tokens, c.audio_input_tokens,
      c.reasoning_tokens, c.audio_output_tokens, c.images, c.searches, c.usage_source, c.cost_micros, c.provider_cost_micros, c.project_micros,
      c.credits_charged, case when c.credits_charged > 0 then c.balance_after end, c.hold_micros, c.price_valid_from, c.price_ref, c.settled_at
    from calls c
  )
  select c.position, true, c.call_id, c.user_id, null::jsonb, null::text, c.cost_micros, c.credits_charged, c.credits_remaining,
    null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint
  from calls c;
end $$;
comment on function private.log_ai_calls(private.ai_ended[], private.ai_left[]) is
  'Writes the rows of calls that have ended, which are their entries in the ledger, too, and answers what they came to.';

create function private.settle_ai_calls(outcomes private.ai_outcome[]) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ended private.ai_ended[] := private.end_ai_holds(outcomes);
  v_have record;
begin
  if v_ended is not null then
    return query select l.* from private.log_ai_calls(v_ended, private.charge_ai_calls(v_ended)) l;
    select bool_or(e.api_key_id is not null) as keys, bool_or(e.response is not null and e.is_charged) as answers,
      bool_or(e.implausible is not null or e.cost_micros > e.hold_micros or e.prompt_tokens + e.completion_tokens > e.hold_tokens) as surprises,
      sum(e.hold_micros - e.cost_micros - coalesce(e.project_micros, 0))::bigint as unspent, date_trunc('month', min(e.created_at) at time zone 'UTC')::date as first_month,
      date_trunc('month', max(e.created_at) at time zone 'UTC')::date as last_month
    into v_have from unnest(v_ended) e;
    if v_have.keys then
      perform private.return_key_units(v_ended);
    end if;
    if v_have.answers then
      update private.ai_idempotency_keys i set response = e.response, model_id = e.answered_by
      from unnest(v_ended) e
      where i.user_id = e.user_id and i.endpoint = e.endpoint and i.call_id = e.call_id and e.is_charged and octet_length(e.response) <= 1000000;
    end if;
    if v_have.surprises then
      insert into private.ai_surprises (call_id, model_id, provider_id, hold_micros, cost_micros, hold_tokens, used_tokens, implausible)
      select e.call_id, coalesce(e.answered_by, e.model_id), e.provider_id, e.hold_micros, e.cost_micros, e.hold_tokens,
        coalesce(e.prompt_tokens + e.completion_tokens, 0), left(e.implausible, 200)
      from unnest(v_ended) e
      where e.implausible is not null or e.cost_micros > e.hold_micros or e.prompt_tokens + e.completion_tokens > e.hold_tokens;
    end if;
    if v_have.first_month = v_have.last_month then
      perform private.give_back_spend(v_have.first_month, v_have.unspent);
    else
      perform private.give_back_spend_by_month(v_ended);
    end if;
  end if;
  if cardinality(outcomes) > coalesce(cardinality(v_ended), 0) then
    return query select l.* from private.closed_before(outcomes, v_ended) l;
  end if;
end $$;
comment on function private.settle_ai_calls(private.ai_outcome[]) is
  'The one way out: ends calls, each exactly once, charges what they used, gives back the rest and writes their rows, in one transaction. Answers one row for each outcome. The caller has locked the accounts in a statement before this one, so that it sees, under read committed, what nobody can change any more.';

create function private.give_back_spend_by_month(ended private.ai_ended[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_month record;
begin
  -- The earlier month first, as everybody does: what cost more than it held may have to wait for all of a month.
  for v_month in
    select date_trunc('month', e.created_at at time zone 'UTC')::date as month,
      sum(e.hold_micros - e.cost_micros - coalesce(e.project_micros, 0))::bigint as micros
    from unnest(ended) e group by 1 order by 1
  loop
    perform private.give_back_spend(v_month.month, v_month.micros);
  end loop;
end $$;
comment on function private.give_back_spend_by_month(private.ai_ended[]) is
  'Gives back what calls of several months held and did not cost, or books what they cost more, a month after the other.';

create function private.closed_before(outcomes private.ai_outcome[], ended private.ai_ended[]) returns setof private.ai_answer
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_outcome record;
  v_answer private.ai_answer;
begin
  for v_outcome in
    select o.* from unnest(outcomes) with ordinality o
    where not exists (select from unnest(ended) e where e.position = o.ordinality)
  loop
    if v_outcome.result in ('succeeded', 'failed', 'cancelled', 'abandoned') is not true then
      perform private.raise_error('invalid_request_error', 'result must be succeeded, failed or cancelled.');
    elsif v_outcome.result = 'succeeded' and v_outcome.prompt_tokens is null then
      perform private.raise_error('invalid_request_error', 'A call that succeeded needs its usage, reported or estimated.');
    elsif not exists (
      select from public.ai_calls c
      where c.user_id = v_outcome.user_id and c.created_at = private.uuid_v7_time(v_outcome.call_id) and c.id = v_outcome.call_id) then
      perform private.raise_error('not_found', 'There is no such call.');
    end if;
    v_answer.position := v_outcome.ordinality;
    v_answer.settles := true;
    return next v_answer;
  end loop;
end $$;
comment on function private.closed_before(private.ai_outcome[], private.ai_ended[]) is
  'Answers for outcomes that ended nothing: closed before, or raises not_found or invalid_request_error for what never was, or says nothing.';

-- One call alone ------------------------------------------------------------------------------------------------------

-- The same as above for what most calls are, without lists: half the time. A property test compares both; whatever is not plain, or does
-- not fit, goes the way above, which also says why not.
-- Each is one function, longer than others: a call of another one inside, and the row handed to it, would cost every call microseconds.

create function private.admit_one_ai_call(r private.ai_request, version bigint) returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  l record;
  a record;
  v_answer private.ai_answer;
  v_call_id uuid;
  v_now timestamptz := now();
  v_created_at timestamptz := date_trunc('milliseconds', clock_timestamp());
begin
  if r.key_hash is not null or r.idempotency_key is not null or r.credential_id is not null or r.probes or r.price_refs is null
    or r.endpoint <> 'chat.completions' or length(r.request_id) between 1 and 64 is not true
    or least(r.prompt_tokens, r.output_tokens, r.credits, r.micros, r.request_bytes, r.lasts_ms) < 0 then
    return null;
  end if;
  -- The session, by the configuration that the call was worked out from; what its account may use, and which periods it is in; and that
  -- the cap has room. Who calls too fast is sent away here, before anything is written, and so is a period that is not there yet.
  select s.aal = 'aal2' as has_aal2, p.month, x.id, x.ai_requests, x.chat_completions_requests, x.ai_concurrency, x.ai_calls, x.ai_tokens, x.ai_spend_micros,
    (o.minute_resets_at > v_now)::integer as same_minute, o.minute_resets_at, o.day_resets_at, o.month_resets_at into l
  from private.live_sessions s, private.ai_config c, private.spend_shards p, private.accounts o join private.limit_sets x on x.id = o.limits_id
  where s.id = r.session_id and s.user_id = r.user_id and o.user_id = r.user_id and c.version = admit_one_ai_call.version and c.changes_at > v_now
    and p.month = date_trunc('month', v_created_at at time zone 'UTC')::date and p.shard = pg_backend_pid() % 128 and p.left_micros >= r.micros
    and (r.plans >> x.plan_number) & 1 = 1 and o.ai_concurrency_held < x.ai_concurrency
    and (o.minute_resets_at <= v_now or o.ai_requests_used < x.ai_requests)
    and greatest(o.minute_resets_at - interval '1 minute', o.day_resets_at - interval '25 hours', o.month_resets_at - interval '745 hours') <= clock_timestamp();
  if not found then
    return null;
  end if;
  -- The hold before the account: whoever waits for the same account waits for less.
  v_call_id := encode(overlay(uuid_send(gen_random_uuid()) placing
    substring(int8send((extract(epoch from v_created_at) * 1000)::bigint) from 3) || '\x7000'::bytea from 1 for 8), 'hex')::uuid;
  insert into private.ai_holds (
    call_id, user_id, created_at, expires_at, day_resets_at, month_resets_at, session_id, request_bytes, credits, prompt_tokens, output_tokens,
    micros, stream, own_key, price_ref, fallback_refs, request_id, endpoint, model_id)
  values (
    v_call_id, r.user_id, v_created_at, v_now + r.lasts_ms * interval '1 millisecond', l.day_resets_at, l.month_resets_at, r.session_id,
    r.request_bytes, r.credits, r.prompt_tokens, r.output_tokens, r.micros, r.stream, false, r.price_refs[1], nullif(r.price_refs[2:], '{}'),
    r.request_id, r.endpoint, left(r.model_id, 200));
  -- All that the call needs, or nothing of it: the row's newest version decides, if its periods are still those that were read.
  update private.accounts o set
    held = o.held + r.credits, ai_concurrency_held = o.ai_concurrency_held + 1, ai_calls_held = o.ai_calls_held + 1,
    ai_tokens_held = o.ai_tokens_held + r.prompt_tokens + r.output_tokens, ai_spend_micros_held = o.ai_spend_micros_held + r.micros,
    minute_resets_at = case l.same_minute when 1 then o.minute_resets_at else v_now + interval '1 minute' end,
    ai_requests_used = o.ai_requests_used * l.same_minute + 1, chat_completions_requests_used = o.chat_completions_requests_used * l.same_minute + 1,
    embeddings_requests_used = o.embeddings_requests_used * l.same_minute,
    images_generations_requests_used = o.images_generations_requests_used * l.same_minute
  where o.user_id = r.user_id and o.limits_id = l.id
    and o.minute_resets_at = l.minute_resets_at and o.day_resets_at = l.day_resets_at and o.month_resets_at = l.month_resets_at
    and o.is_active and o.banned_until <= v_now and (l.has_aal2 or not o.has_factor)
    and least(o.entitled_until, o.next_expiry_at, o.day_resets_at, o.month_resets_at) > v_now and o.balance - o.held >= r.credits
    and o.ai_requests_used * l.same_minute < l.ai_requests and o.chat_completions_requests_used * l.same_minute < l.chat_completions_requests
    and o.ai_concurrency_held < l.ai_concurrency and o.ai_calls_used + o.ai_calls_held < l.ai_calls
    and o.ai_tokens_used + o.ai_tokens_held + r.prompt_tokens + r.output_tokens <= l.ai_tokens
    and o.ai_spend_micros_used + o.ai_spend_micros_held + r.micros <= l.ai_spend_micros
  returning o.minute_resets_at, o.balance - o.held as credits, l.ai_requests - o.ai_requests_used as requests,
    l.ai_calls - o.ai_calls_used - o.ai_calls_held as calls, l.ai_tokens - o.ai_tokens_used - o.ai_tokens_held as tokens into a;
  if found then
    -- The project's cap after the account, from this connection's shard; one that has too little draws more.
    update private.spend_shards s set left_micros = s.left_micros - r.micros
    where s.month = l.month and s.shard = pg_backend_pid() % 128 and s.left_micros >= r.micros;
    if found or private.take_spend(r.micros, l.month) then
      v_answer := row(1, false, v_call_id, r.user_id, null, null, null, null, a.credits,
        l.ai_requests, a.requests, extract(epoch from a.minute_resets_at), l.ai_calls, a.calls, extract(epoch from l.day_resets_at),
        l.ai_tokens, a.tokens, extract(epoch from l.month_resets_at));
      return v_answer;
    end if;
    perform private.untake_ai_call(r);
  end if;
  delete from private.ai_holds h where h.call_id = v_call_id;
  return null;
end $$;
comment on function private.admit_one_ai_call(private.ai_request, bigint) is
  'Admits one chat call that is plain and fits, or answers null and has taken nothing.';

create function private.untake_ai_call(r private.ai_request) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.accounts o set
    held = o.held - r.credits, ai_concurrency_held = o.ai_concurrency_held - 1, ai_calls_held = o.ai_calls_held - 1,
    ai_tokens_held = o.ai_tokens_held - r.prompt_tokens - r.output_tokens, ai_spend_micros_held = o.ai_spend_micros_held - r.micros,
    ai_requests_used = o.ai_requests_used - 1, chat_completions_requests_used = o.chat_completions_requests_used - 1
  where o.user_id = r.user_id;
end $$;
comment on function private.untake_ai_call(private.ai_request) is
  'Takes back, in the same transaction, what private.admit_one_ai_call took of the account of a chat call that the project''s cap has no room for.';

create function private.settle_one_ai_call(o private.ai_outcome) returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  h record;
  v_account record;
  v_provider_cost bigint;
  v_answer private.ai_answer;
begin
  -- What is not charged, is charged to somebody else, or has a number that must be put right first, goes the way above.
  if o.response is not null or o.late_prompt_tokens > 0 or o.late_completion_tokens > 0
    or o.usage_source in ('provider', 'estimated') is not true or o.result in ('succeeded', 'failed', 'cancelled') is not true
    or o.prompt_tokens is null or o.completion_tokens is null or o.cached_tokens is null or o.reasoning_tokens is null or o.images is null
    or least(o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.reasoning_tokens, o.images) < 0
    or least(o.cache_write_tokens, o.cache_write_1h_tokens, o.audio_input_tokens, o.audio_output_tokens, o.searches) < 1
    or greatest(o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.reasoning_tokens, o.cache_write_tokens, o.cache_write_1h_tokens,
      o.audio_input_tokens, o.audio_output_tokens) > 100000000 or greatest(o.images, o.searches) > 10000 then
    return null;
  end if;
  -- Nobody else may be looking at the account while this one's calls end.
  select a.day_resets_at, a.month_resets_at into v_account from private.accounts a where a.user_id = o.user_id for no key update;
  -- Only a route that was held for can have answered; anything else is charged as the first. What was held in a period that is over went
  -- with it, and such a call goes the way above.
  delete from private.ai_holds x using private.price_refs p
  where x.call_id = o.call_id and x.user_id = o.user_id and x.api_key_id is null and not x.own_key
    and x.day_resets_at = v_account.day_resets_at and x.month_resets_at = v_account.month_resets_at
    and p.ref = case when o.price_ref = any (x.fallback_refs) then o.price_ref else x.price_ref end
  returning x.created_at, x.session_id, x.request_bytes, x.credits, x.prompt_tokens + x.output_tokens as tokens,
    x.micros, x.stream, x.request_id, x.endpoint, x.model_id, p.model_id as answered_by, p.provider_id, p.valid_from, p.ref, p.credits as costs,
    private.ai_cost_micros(p, o.prompt_tokens, o.cached_tokens, coalesce(o.cache_write_tokens, 0), coalesce(o.cache_write_1h_tokens, 0),
      coalesce(o.audio_input_tokens, 0), o.completion_tokens, o.reasoning_tokens, coalesce(o.audio_output_tokens, 0), o.images,
      coalesce(o.searches, 0)) as cost, o.prompt_tokens + o.completion_tokens as used into h;
  if not found then
    return null;
  end if;
  update private.accounts x set
    held = x.held - h.credits, balance = x.balance - h.costs, unburned = x.unburned + h.costs, ai_concurrency_held = x.ai_concurrency_held - 1,
    ai_calls_held = x.ai_calls_held - 1, ai_calls_used = x.ai_calls_used + 1,
    ai_tokens_held = x.ai_tokens_held - h.tokens, ai_tokens_used = x.ai_tokens_used + h.used,
    ai_spend_micros_held = x.ai_spend_micros_held - h.micros, ai_spend_micros_used = x.ai_spend_micros_used + h.cost
  where x.user_id = o.user_id
  returning x.balance, x.balance - x.held as credits into v_account;
  if o.cost_usd is not null then
    v_provider_cost := greatest(least(ceil(o.cost_usd * 1000000), 1e12), 0);
  end if;
  insert into public.ai_calls (
    id, created_at, user_id, session_id, request_id, endpoint, model_id, answered_by, provider_id, stream, state, error_code, usage_source,
    http_status, attempts, duration_ms, first_token_ms, price_ref, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
    audio_output_tokens, searches, request_bytes, response_bytes, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, images,
    cost_micros, provider_cost_micros, credits_charged, balance_after, hold_micros, price_valid_from, settled_at)
  values (
    o.call_id, h.created_at, o.user_id, h.session_id, h.request_id, h.endpoint, h.model_id, h.answered_by,
    h.provider_id, h.stream, 'settled', left(o.error_code, 80), o.usage_source,
    o.http_status, coalesce(o.attempts, 0), o.duration_ms, o.first_token_ms, h.ref, o.cache_write_tokens, o.cache_write_1h_tokens,
    o.audio_input_tokens, o.audio_output_tokens, o.searches, h.request_bytes, o.response_bytes, o.prompt_tokens, o.completion_tokens,
    o.cached_tokens, o.reasoning_tokens, o.images, h.cost,
    v_provider_cost,
    h.costs, case when h.costs > 0 then v_account.balance end, h.micros, h.valid_from, clock_timestamp());
  if h.cost > h.micros or h.used > h.tokens or o.implausible is not null then
    insert into private.ai_surprises (call_id, model_id, provider_id, hold_micros, cost_micros, hold_tokens, used_tokens, implausible)
    values (o.call_id, h.answered_by, h.provider_id, h.micros, h.cost, h.tokens, h.used, left(o.implausible, 200));
  end if;
  -- Whoever has this shard waits for no account any more, so that this may wait for it; it is nearly always nobody's but this connection's.
  update private.spend_shards s set left_micros = s.left_micros + h.micros - h.cost
  where s.month = date_trunc('month', h.created_at at time zone 'UTC')::date and s.shard = 128 + pg_backend_pid() % 128
    and s.left_micros >= h.cost - h.micros;
  if not found then
    perform private.give_back_spend(date_trunc('month', h.created_at at time zone 'UTC')::date, h.micros - h.cost);
  end if;
  v_answer := row(1, true, o.call_id, o.user_id, null, null, h.cost, h.costs, v_account.credits, null, null, null, null, null, null, null, null, null);
  return v_answer;
end $$;
comment on function private.settle_one_ai_call(private.ai_outcome) is
  'Ends one call of a session that is charged, in the periods in which it began, without an answer to keep; or answers null and has done nothing but lock the account.';

-- Both in one step -----------------------------------------------------------------------------------------------------

create function private.ai_step(outcomes private.ai_outcome[], requests private.ai_request[], version bigint) returns setof private.ai_answer
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_has_spend boolean;
  v_callers private.ai_callers;
  v_due uuid[];
  v_user_id uuid;
  v_answer private.ai_answer;
begin
  if cardinality(requests) = 1 and cardinality(outcomes) = 0 then
    v_answer := private.admit_one_ai_call(requests[1], version);
    if v_answer.call_id is not null then
      return next v_answer;
      return;
    end if;
  elsif cardinality(outcomes) = 1 and cardinality(requests) = 0 then
    v_answer := private.settle_one_ai_call(outcomes[1]);
    if v_answer.call_id is not null then
      return next v_answer;
      return;
    end if;
  end if;
  if cardinality(requests) > 0 and not exists (select from private.ai_config c where c.version = ai_step.version and c.changes_at > now()) then
    return query select n::integer, false, null::uuid, null::uuid, jsonb_build_object('code', 'other_version'), null::text, null::bigint, null::bigint,
        null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint
      from generate_series(1, cardinality(requests)) n;
    requests := '{}';
  end if;
  if cardinality(requests) > 0 then
    v_callers := private.ai_callers(requests);
  end if;
  -- All accounts in one order, so that no two steps wait for each other in a circle, and before anything looks at them.
  select array_agg(a.user_id) filter (where a.due_at <= now() or a.began_at > clock_timestamp()) into v_due
  from (
    select a.user_id, least(a.entitled_until, a.next_expiry_at, a.day_resets_at, a.month_resets_at) as due_at,
      greatest(a.minute_resets_at - interval '1 minute', a.day_resets_at - interval '25 hours', a.month_resets_at - interval '745 hours') as began_at
    from private.accounts a
    where a.user_id = any (array(select o.user_id from unnest(outcomes) o) || v_callers.users)
    order by a.user_id for no key update) a;
  foreach v_user_id in array coalesce(v_due, '{}') loop
    perform private.renew_account(v_user_id);
  end loop;
  if cardinality(outcomes) > 0 then
    return query select s.* from private.settle_ai_calls(outcomes) s;
  end if;
  if cardinality(requests) > 0 then
    -- The project's cap after all accounts, and for all calls at once; when that does not fit, one by one.
    v_has_spend := private.take_spend((select sum(greatest(r.micros, 0)) from unnest(requests) r)::bigint);
    return query select d.* from private.admit_ai_calls(requests, v_callers, v_has_spend) d;
  end if;
end $$;
comment on function private.ai_step(private.ai_outcome[], private.ai_request[], bigint) is
  'The gateway''s one statement: settles calls that have ended and decides those that ask, in one transaction. Answers a row for each outcome and each request, by position. version is that of private.ai_snapshot by which the requests were worked out; with another all are answered with the refusal other_version and nothing is taken. Raises not_found or invalid_request_error for an outcome or a request that makes no sense; then nothing of the step was done. Exact under read committed, because the accounts are locked in a statement of its own.';

create function private.settle_abandoned_ai_calls(batch_size integer default 100, of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_outcomes private.ai_outcome[];
  v_outcome private.ai_outcome;
  v_closed integer := 0;
begin
  select array_agg(row(d.call_id, d.user_id, 'abandoned', 500, 'abandoned', null, null, null, null, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null)::private.ai_outcome order by d.user_id)
  into v_outcomes
  from (
    select h.call_id, h.user_id from private.ai_holds h
    where h.expires_at < now() and (of_user is null or h.user_id = of_user)
    order by h.expires_at limit batch_size) d;
  -- All of them now: who has given money back to a shard waits for no account any more.
  perform from private.accounts a where a.user_id in (select o.user_id from unnest(v_outcomes) o) order by a.user_id for no key update;
  foreach v_outcome in array coalesce(v_outcomes, '{}') loop
    begin
      perform private.lock_account(v_outcome.user_id);
      -- Meanwhile it may have been settled: then this closes nothing.
      perform from private.settle_ai_calls(array[v_outcome]) s where s.call_id is not null;
      v_closed := v_closed + found::integer;
    exception when others then
      -- One call that cannot be closed must not keep the others open; the next run tries it again.
      raise warning 'AI call % cannot be settled: % %', v_outcome.call_id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_closed;
end $$;
comment on function private.settle_abandoned_ai_calls(integer, uuid) is
  'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it, and so does an admission that finds everything held, for its user; harmless at any time. Answers how many it closed.';

create function private.verify_accounts()
returns table (user_id uuid, balance bigint, entries_sum bigint, lots_sum bigint, held bigint, open_holds bigint)
language sql stable security invoker set search_path = ''
as $$
  with booked as (
    select b.user_id, sum(b.amount) as amount
    from (
      select e.user_id, e.amount from private.credit_bookings e
      union all
      select c.user_id, -c.credits_charged from public.ai_calls c where c.credits_charged > 0) b
    group by b.user_id
  ), lots as (
    select l.user_id, sum(l.remaining) as remaining from private.credit_lots l group by l.user_id
  ), holds as (
    select h.user_id, sum(h.credits) as credits, count(*) as calls from private.ai_holds h group by h.user_id
  )
  select a.user_id, a.balance, coalesce(b.amount, 0)::bigint, (coalesce(l.remaining, 0) - a.unburned)::bigint, a.held, coalesce(h.credits, 0)::bigint
  from private.accounts a
    left join booked b on b.user_id = a.user_id
    left join lots l on l.user_id = a.user_id
    left join holds h on h.user_id = a.user_id
  where a.balance <> coalesce(b.amount, 0) or a.balance <> coalesce(l.remaining, 0) - a.unburned or a.held <> coalesce(h.credits, 0)
    or a.ai_concurrency_held <> coalesce(h.calls, 0)
$$;
comment on function private.verify_accounts() is
  'Accounts whose balance is not the sum of their entries, or of what remains of their lots, or whose holds are not those of their open calls. Always empty; run it whenever you like. It reads all tables once.';

-- sql/44_ai_usage.sql =================================================================================================

-- AI usage over time: calls added up by day, for charts and bills, so that nobody reads a year of the log.

insert into private.settings (key, value, rule, description) values
  ('ai.price_drift_percent', '5', '{"type": "number", "minimum": 0, "maximum": 1000}', 'By how many percent what a provider says a day''s calls cost may differ from our prices before an event is raised.')
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
  cache_write_tokens bigint not null,
  cache_write_1h_tokens bigint not null,
  audio_input_tokens bigint not null,
  reasoning_tokens bigint not null,
  audio_output_tokens bigint not null,
  images bigint not null,
  searches bigint not null,
  cost_micros bigint not null,
  credits bigint not null,
  project_micros bigint not null,
  primary key (user_id, day, model_id, endpoint)
);
comment on table public.ai_usage_daily is
  'AI calls of a day (UTC) by user, model and endpoint. Written once when the day is over and all its calls have ended; get_my_usage adds what is newer.';
comment on column public.ai_usage_daily.model_id is
  'The model that answered, or that worked in vain at the project''s cost; the one that was asked for when none did; (refused) for refused calls beyond ai.refused_calls_per_hour, which are not in ai_calls.';
comment on column public.ai_usage_daily.calls is 'All calls, also those that failed or were refused for a reason that is noted in ai_calls, or counted under (refused).';
comment on column public.ai_usage_daily.failed_calls is 'Those of them that were not charged.';
comment on column public.ai_usage_daily.cost_micros is 'Micro-dollars at our price.';
comment on column public.ai_usage_daily.project_micros is
  'What providers worked in vain at the project''s cost and not the user''s, in micro-dollars: the project_micros of these calls.';
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
    select c.user_id, (c.created_at at time zone 'UTC')::date, coalesce(c.answered_by, p.model_id, c.model_id), c.endpoint,
      count(*), count(*) filter (where c.usage_source is null or c.usage_source = 'none'),
      coalesce(sum(c.prompt_tokens), 0)::bigint, coalesce(sum(c.completion_tokens), 0)::bigint,
      coalesce(sum(c.cached_tokens), 0)::bigint, coalesce(sum(c.cache_write_tokens), 0)::bigint,
      coalesce(sum(c.cache_write_1h_tokens), 0)::bigint, coalesce(sum(c.audio_input_tokens), 0)::bigint,
      coalesce(sum(c.reasoning_tokens), 0)::bigint, coalesce(sum(c.audio_output_tokens), 0)::bigint,
      coalesce(sum(c.images), 0)::bigint, coalesce(sum(c.searches), 0)::bigint, coalesce(sum(c.cost_micros), 0)::bigint,
      sum(c.credits_charged)::bigint, coalesce(sum(c.project_micros), 0)::bigint
    from public.ai_calls c left join private.price_refs p on p.ref = c.price_ref and c.project_micros is not null
    where c.created_at >= from_time and c.created_at < to_time and (of_user is null or c.user_id = of_user)
    group by 1, 2, 3, 4
    union all
    select r.user_id, (r.hour at time zone 'UTC')::date, '(refused)', r.endpoint, sum(r.counted)::bigint, sum(r.counted)::bigint,
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    from private.ai_refusals r
    where r.hour >= from_time and r.hour < to_time and r.counted > 0 and (of_user is null or r.user_id = of_user)
    group by 1, 2, 4;
end $$;
comment on function private.usage_of_calls(timestamptz, timestamptz, uuid) is
  'Calls that began in [from_time, to_time), added up by user, day (UTC), model and endpoint, and the refused ones that were only counted; of one user, or of all.';

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
  delete from private.ai_refusals r where r.hour < (select max(d.day)::timestamp at time zone 'UTC' from private.ai_usage_days d);
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
  cached_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint, audio_input_tokens bigint, reasoning_tokens bigint,
  audio_output_tokens bigint, images bigint, searches bigint, cost_micros bigint, credits bigint)
language sql stable security invoker set search_path = ''
as $$
  select u.day, u.model_id, u.endpoint, u.calls, u.failed_calls, u.prompt_tokens, u.completion_tokens, u.cached_tokens,
    u.cache_write_tokens, u.cache_write_1h_tokens, u.audio_input_tokens, u.reasoning_tokens, u.audio_output_tokens, u.images, u.searches,
    u.cost_micros, u.credits
  from private.my_usage(get_my_usage.from_day, get_my_usage.to_day) u
$$;
comment on function public.get_my_usage(date, date) is
  'The caller''s AI usage from one day to another, both included, at most 366 days apart (UTC): calls, tokens by kind, images, searches, micro-dollars and credits by day, model and endpoint. Up to the minute.';
grant execute on function public.get_my_usage(date, date) to authenticated;

create view private.priced_calls with (security_invoker = true) as
select c.id, c.created_at, c.answered_by, c.provider_id, c.usage_source, c.hold_micros, c.cost_micros, c.provider_cost_micros,
  private.ai_cost_micros(p, c.prompt_tokens, c.cached_tokens, coalesce(c.cache_write_tokens, 0), coalesce(c.cache_write_1h_tokens, 0),
    coalesce(c.audio_input_tokens, 0), c.completion_tokens, c.reasoning_tokens, coalesce(c.audio_output_tokens, 0), c.images,
    coalesce(c.searches, 0)) as micros
from public.ai_calls c join private.price_refs p on p.ref = c.price_ref
where c.usage_source in ('provider', 'estimated');
comment on view private.priced_calls is
  'Calls that were charged for what they used, and what our prices make of it (micros): the same as cost_micros, unless the caller''s own key paid.';
revoke all on private.priced_calls from anon, authenticated, service_role;

create function private.verify_ai_costs(since timestamptz default '-infinity')
returns table (call_id uuid, cost_micros bigint, micros bigint)
language sql stable security invoker set search_path = ''
as $$
  -- With the caller's own key nothing is held, and nothing charged.
  select c.id, c.cost_micros, c.micros from private.priced_calls c
  where c.created_at >= verify_ai_costs.since and c.cost_micros <> c.micros and (c.hold_micros > 0 or c.cost_micros > 0)
$$;
comment on function private.verify_ai_costs(timestamptz) is
  'Calls since a moment that did not cost what their usage comes to by the price in their row. Always empty; run it whenever you like. It reads all these calls.';

create function private.price_drift(from_time timestamptz, to_time timestamptz)
returns table (model_id text, provider_id text, calls bigint, cost_micros bigint, provider_cost_micros bigint, drift_percent numeric)
language sql stable security invoker set search_path = ''
as $$
  -- By our prices, also for calls that the caller's own key paid.
  select c.answered_by, c.provider_id, count(*), sum(c.micros)::bigint, sum(c.provider_cost_micros)::bigint,
    round(100 * (sum(c.provider_cost_micros) - sum(c.micros)) / nullif(sum(c.micros), 0), 1)
  from private.priced_calls c
  where c.created_at >= price_drift.from_time and c.created_at < price_drift.to_time
    and c.provider_cost_micros is not null and c.usage_source = 'provider'
  group by c.answered_by, c.provider_id
  order by abs(sum(c.provider_cost_micros) - sum(c.micros)) desc
$$;
comment on function private.price_drift(timestamptz, timestamptz) is
  'What providers said that calls cost which began in [from_time, to_time), beside what our prices make of the usage they reported, by model and provider; the largest difference first. drift_percent is null where our price is nothing.';

create function private.warn_of_price_drift() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_to timestamptz := date_trunc('day', now() at time zone 'UTC') at time zone 'UTC';
  v_model record;
  v_found integer := 0;
begin
  for v_model in
    select d.model_id as model, d.provider_id as provider, d.calls, d.cost_micros, d.provider_cost_micros, d.drift_percent
    from private.price_drift(v_to - interval '1 day', v_to) d
    -- Both are rounded up, once a call each.
    where abs(d.provider_cost_micros - d.cost_micros) > d.calls + d.cost_micros * (private.setting('ai.price_drift_percent'))::numeric / 100
  loop
    v_found := v_found + 1;
    perform private.raise_security_event('price_drift', 'medium', null, to_jsonb(v_model),
      dedupe_key => left(v_model.model || ' ' || (v_to - interval '1 day')::date, 200));
  end loop;
  return v_found;
end $$;
comment on function private.warn_of_price_drift() is
  'Raises a security event for each model whose provider charged more or less yesterday (UTC) than our prices say, by more than ai.price_drift_percent. A job runs it. Answers how many.';

create function private.warn_of_ai_surprises() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_model record;
  v_told integer := 0;
begin
  for v_model in
    with told as (
      delete from private.ai_surprises s
      where s.call_id in (select o.call_id from private.ai_surprises o order by o.settled_at limit 10000 for update skip locked)
      returning s.*
    ), kinds as (
      select t.*, k.type from told t cross join (values ('ai_overrun'), ('usage_implausible')) k (type)
      where case k.type when 'ai_overrun' then t.cost_micros > t.hold_micros or t.used_tokens > t.hold_tokens else t.implausible is not null end
    )
    select k.type, k.model_id as model, k.provider_id as provider, count(*) as calls, sum(k.hold_micros) as hold_micros,
      sum(k.cost_micros) as cost_micros, sum(k.hold_tokens) as hold_tokens, sum(k.used_tokens) as used_tokens,
      (array_agg(k.call_id order by k.cost_micros - k.hold_micros desc))[1] as call_id, min(k.implausible) as why
    from kinds k group by 1, 2, 3
  loop
    v_told := v_told + 1;
    perform private.raise_security_event(v_model.type, case v_model.type when 'ai_overrun' then 'high' else 'medium' end, null,
      jsonb_strip_nulls(to_jsonb(v_model)) - 'type', dedupe_key => left(v_model.provider || ' ' || v_model.model, 200));
  end loop;
  return v_told;
end $$;
comment on function private.warn_of_ai_surprises() is
  'Raises a security event for each model whose calls cost or used more than they held (ai_overrun: its bound or its provider is wrong, and all of it was charged), and for each whose provider reported what was not believed (usage_implausible): how many calls, what they held and came to, and the id of one. A job runs it. Answers how many it raised.';

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
