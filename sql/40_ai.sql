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
