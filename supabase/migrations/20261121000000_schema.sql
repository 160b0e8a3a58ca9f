-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
-- Every table here is new and empty, so nothing waits for a default or a key to be filled in.
-- squawk-ignore-file adding-field-with-default, adding-serial-primary-key-field
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

CREATE SCHEMA "private";

CREATE EXTENSION IF NOT EXISTS "pg_cron";

CREATE TABLE "private"."credit_accounts" ("user_id" uuid NOT NULL, "balance" bigint NOT NULL DEFAULT 0, "held" bigint NOT NULL DEFAULT 0, CONSTRAINT "credit_accounts_balance_check" CHECK ((balance >= 0)), CONSTRAINT "credit_accounts_check" CHECK ((held <= balance)), CONSTRAINT "credit_accounts_held_check" CHECK ((held >= 0)), CONSTRAINT "credit_accounts_pkey" PRIMARY KEY (user_id));

ALTER TABLE "private"."credit_accounts" SET (fillfactor=50);

CREATE TABLE "private"."providers" ("id" text NOT NULL, "base_url" text NOT NULL, "api_key_secret" text, "enabled" boolean NOT NULL DEFAULT true, "connect_timeout_ms" integer NOT NULL DEFAULT 10000, "first_byte_timeout_ms" integer NOT NULL DEFAULT 120000, "idle_timeout_ms" integer NOT NULL DEFAULT 60000, "total_timeout_ms" integer NOT NULL DEFAULT 300000, CONSTRAINT "providers_api_key_secret_check" CHECK ((api_key_secret ~ '^[A-Z][A-Z0-9_]{0,99}$'::text)), CONSTRAINT "providers_base_url_check" CHECK (((base_url ~ '^https?://[^[:space:]]+[^/]$'::text) AND (length(base_url) <= 300))), CONSTRAINT "providers_connect_timeout_ms_check" CHECK (((connect_timeout_ms >= 1) AND (connect_timeout_ms <= 60000))), CONSTRAINT "providers_first_byte_timeout_ms_check" CHECK (((first_byte_timeout_ms >= 1) AND (first_byte_timeout_ms <= 150000))), CONSTRAINT "providers_id_check" CHECK ((id ~ '^[a-z][a-z0-9_-]{0,39}$'::text)), CONSTRAINT "providers_idle_timeout_ms_check" CHECK (((idle_timeout_ms >= 1) AND (idle_timeout_ms <= 150000))), CONSTRAINT "providers_pkey" PRIMARY KEY (id), CONSTRAINT "providers_total_timeout_ms_check" CHECK (((total_timeout_ms >= 1) AND (total_timeout_ms <= 390000))));

CREATE TABLE "private"."settings" ("key" text NOT NULL, "value" jsonb NOT NULL, "description" text NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "settings_description_check" CHECK (((length(description) >= 1) AND (length(description) <= 500))), CONSTRAINT "settings_key_check" CHECK ((key ~ '^[a-z_]+(\.[a-z_]+)+$'::text)), CONSTRAINT "settings_pkey" PRIMARY KEY (key));

CREATE TABLE "private"."usage_counters" ("user_id" uuid NOT NULL, "meter" text NOT NULL, "period" text NOT NULL, "used" bigint NOT NULL DEFAULT 0, "held" bigint NOT NULL DEFAULT 0, "resets_at" timestamp with time zone NOT NULL, CONSTRAINT "usage_counters_held_check" CHECK ((held >= 0)), CONSTRAINT "usage_counters_pkey" PRIMARY KEY (user_id, meter, period), CONSTRAINT "usage_counters_used_check" CHECK ((used >= 0)));

ALTER TABLE "private"."usage_counters" SET (fillfactor=70);

CREATE TABLE "public"."ai_calls" ("id" uuid NOT NULL, "created_at" timestamp with time zone NOT NULL, "user_id" uuid NOT NULL, "session_id" uuid, "request_id" text NOT NULL, "endpoint" text NOT NULL, "model_id" text NOT NULL, "provider_id" text, "stream" boolean NOT NULL, "state" text NOT NULL, "http_status" integer, "error_code" text, "attempts" integer NOT NULL, "request_bytes" bigint NOT NULL, "response_bytes" bigint, "duration_ms" integer, "first_token_ms" integer, "prompt_tokens" bigint, "completion_tokens" bigint, "cached_tokens" bigint, "reasoning_tokens" bigint, "usage_source" text, "cost_micros" bigint, "provider_cost_micros" bigint, "credits_charged" bigint NOT NULL, "price_valid_from" timestamp with time zone, "hold_credits" bigint NOT NULL, "hold_prompt_tokens" bigint NOT NULL, "hold_output_tokens" bigint NOT NULL, "hold_micros" bigint NOT NULL, "hold_expires_at" timestamp with time zone, "day_resets_at" timestamp with time zone, "month_resets_at" timestamp with time zone, "started_at" timestamp with time zone, "settled_at" timestamp with time zone) PARTITION BY RANGE (created_at);

CREATE TABLE "private"."ai_calls_default" PARTITION OF "public"."ai_calls" DEFAULT;

ALTER TABLE "public"."ai_calls" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."ai_calls" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."chats" ("title" text NOT NULL DEFAULT ''::text, "model_id" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "chats_model_id_check" CHECK ((length(model_id) <= 200)), CONSTRAINT "chats_title_check" CHECK ((length(title) <= 200)), "user_id" uuid NOT NULL DEFAULT auth.uid());

ALTER TABLE "public"."chats" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."chats" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."credit_entries" ("user_id" uuid NOT NULL, "amount" bigint NOT NULL, "kind" text NOT NULL, "reason" text NOT NULL, "idempotency_key" text NOT NULL, "balance_after" bigint NOT NULL, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credit_entries_amount_check" CHECK ((amount <> 0)), CONSTRAINT "credit_entries_balance_after_check" CHECK ((balance_after >= 0)), CONSTRAINT "credit_entries_idempotency_key_check" CHECK (((length(idempotency_key) >= 1) AND (length(idempotency_key) <= 255))), CONSTRAINT "credit_entries_kind_check" CHECK ((kind = ANY (ARRAY['sign_up'::text, 'grant'::text, 'refund'::text, 'deduction'::text, 'ai_call'::text]))), CONSTRAINT "credit_entries_reason_check" CHECK (((length(reason) >= 1) AND (length(reason) <= 200))), CONSTRAINT "credit_entries_user_id_idempotency_key_key" UNIQUE (user_id, idempotency_key));

ALTER TABLE "public"."credit_entries" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."credit_entries" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."limit_overrides" ("user_id" uuid NOT NULL, "meter" text NOT NULL, "period" text NOT NULL, "amount" bigint, "reason" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "limit_overrides_amount_check" CHECK ((amount >= 0)), CONSTRAINT "limit_overrides_meter_check" CHECK ((meter ~ '^[a-z][a-z0-9_]{0,39}$'::text)), CONSTRAINT "limit_overrides_period_check" CHECK ((period = ANY (ARRAY['day'::text, 'month'::text, 'total'::text]))), CONSTRAINT "limit_overrides_pkey" PRIMARY KEY (user_id, meter, period), CONSTRAINT "limit_overrides_reason_check" CHECK ((length(reason) <= 500)));

ALTER TABLE "public"."limit_overrides" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."limit_overrides" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."messages" ("chat_id" uuid NOT NULL, "role" text NOT NULL, "content" text NOT NULL, "ai_call_id" uuid, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "messages_content_check" CHECK ((length(content) <= 200000)), CONSTRAINT "messages_role_check" CHECK ((role = ANY (ARRAY['system'::text, 'user'::text, 'assistant'::text, 'tool'::text]))), "user_id" uuid NOT NULL DEFAULT auth.uid());

ALTER TABLE "public"."messages" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."messages" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."model_prices" ("model_id" text NOT NULL, "valid_from" timestamp with time zone NOT NULL DEFAULT now(), "input_usd_per_mtok" numeric NOT NULL, "output_usd_per_mtok" numeric NOT NULL, "cached_input_usd_per_mtok" numeric, "reasoning_usd_per_mtok" numeric, "image_usd" numeric NOT NULL DEFAULT 0, "request_usd" numeric NOT NULL DEFAULT 0, CONSTRAINT "model_prices_cached_input_usd_per_mtok_check" CHECK ((cached_input_usd_per_mtok >= (0)::numeric)), CONSTRAINT "model_prices_image_usd_check" CHECK ((image_usd >= (0)::numeric)), CONSTRAINT "model_prices_input_usd_per_mtok_check" CHECK ((input_usd_per_mtok >= (0)::numeric)), CONSTRAINT "model_prices_output_usd_per_mtok_check" CHECK ((output_usd_per_mtok >= (0)::numeric)), CONSTRAINT "model_prices_pkey" PRIMARY KEY (model_id, valid_from), CONSTRAINT "model_prices_reasoning_usd_per_mtok_check" CHECK ((reasoning_usd_per_mtok >= (0)::numeric)), CONSTRAINT "model_prices_request_usd_check" CHECK ((request_usd >= (0)::numeric)));

ALTER TABLE "public"."model_prices" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."model_prices" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."models" ("id" text NOT NULL, "provider_id" text NOT NULL, "upstream_id" text NOT NULL, "kind" text NOT NULL DEFAULT 'chat'::text, "context_tokens" integer NOT NULL, "max_output_tokens" integer NOT NULL, "credits_per_call" bigint NOT NULL DEFAULT 1, "enabled" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "models_context_tokens_check" CHECK ((context_tokens > 0)), CONSTRAINT "models_credits_per_call_check" CHECK ((credits_per_call >= 0)), CONSTRAINT "models_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 200))), CONSTRAINT "models_kind_check" CHECK ((kind = ANY (ARRAY['chat'::text, 'embedding'::text, 'image'::text]))), CONSTRAINT "models_max_output_tokens_check" CHECK ((max_output_tokens > 0)), CONSTRAINT "models_pkey" PRIMARY KEY (id), CONSTRAINT "models_upstream_id_check" CHECK (((length(upstream_id) >= 1) AND (length(upstream_id) <= 200))));

ALTER TABLE "public"."models" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."models" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."plan_limits" ("plan_id" text NOT NULL, "meter" text NOT NULL, "period" text NOT NULL, "amount" bigint, CONSTRAINT "plan_limits_amount_check" CHECK ((amount >= 0)), CONSTRAINT "plan_limits_meter_check" CHECK ((meter ~ '^[a-z][a-z0-9_]{0,39}$'::text)), CONSTRAINT "plan_limits_period_check" CHECK ((period = ANY (ARRAY['day'::text, 'month'::text, 'total'::text]))), CONSTRAINT "plan_limits_pkey" PRIMARY KEY (plan_id, meter, period));

ALTER TABLE "public"."plan_limits" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."plan_limits" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."plan_models" ("plan_id" text NOT NULL, "model_id" text NOT NULL, CONSTRAINT "plan_models_pkey" PRIMARY KEY (plan_id, model_id));

ALTER TABLE "public"."plan_models" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."plan_models" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."plans" ("id" text NOT NULL, "name" text NOT NULL, "description" text NOT NULL DEFAULT ''::text, "position" integer NOT NULL DEFAULT 0, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "plans_description_check" CHECK ((length(description) <= 500)), CONSTRAINT "plans_id_check" CHECK ((id ~ '^[a-z][a-z0-9_]{0,39}$'::text)), CONSTRAINT "plans_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 80))), CONSTRAINT "plans_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."plans" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."plans" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."profiles" ("id" uuid NOT NULL, "status" text NOT NULL DEFAULT 'pending'::text, "role" text NOT NULL DEFAULT 'user'::text, "plan_id" text NOT NULL DEFAULT 'free'::text, "first_name" text, "last_name" text, "display_name" text, "avatar_path" text, "bio" text, "birth_date" date, "locale" text NOT NULL DEFAULT 'en'::text, "time_zone" text NOT NULL DEFAULT 'UTC'::text, "quota_time_zone" text NOT NULL DEFAULT 'UTC'::text, "quota_time_zone_changed_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "profiles_avatar_path_check" CHECK (((length(avatar_path) >= 1) AND (length(avatar_path) <= 500))), CONSTRAINT "profiles_bio_check" CHECK ((length(bio) <= 500)), CONSTRAINT "profiles_display_name_check" CHECK (((length(display_name) >= 1) AND (length(display_name) <= 80))), CONSTRAINT "profiles_first_name_check" CHECK (((length(first_name) >= 1) AND (length(first_name) <= 80))), CONSTRAINT "profiles_last_name_check" CHECK (((length(last_name) >= 1) AND (length(last_name) <= 80))), CONSTRAINT "profiles_locale_check" CHECK (((locale ~ '^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$'::text) AND (length(locale) <= 35))), CONSTRAINT "profiles_pkey" PRIMARY KEY (id), CONSTRAINT "profiles_role_check" CHECK ((role = ANY (ARRAY['user'::text, 'support'::text, 'admin'::text]))), CONSTRAINT "profiles_status_check" CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'suspended'::text, 'deleted'::text]))), CONSTRAINT "profiles_time_zone_check" CHECK ((length(time_zone) <= 64)));

ALTER TABLE "public"."profiles" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."profiles" FORCE ROW LEVEL SECURITY;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "attempts" SET DEFAULT 0;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "credits_charged" SET DEFAULT 0;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "hold_credits" SET DEFAULT 0;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "hold_micros" SET DEFAULT 0;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "hold_output_tokens" SET DEFAULT 0;

ALTER TABLE "public"."ai_calls" ALTER COLUMN "hold_prompt_tokens" SET DEFAULT 0;

CREATE OR REPLACE FUNCTION private.add_credit_entry(user_id uuid, amount bigint, kind text, reason text, idempotency_key text)
 RETURNS public.credit_entries
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_account private.credit_accounts := private.lock_account(add_credit_entry.user_id);
  v_entry public.credit_entries;
begin
  if v_account.user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  select e.* into v_entry from public.credit_entries e
  where e.user_id = add_credit_entry.user_id and e.idempotency_key = add_credit_entry.idempotency_key;
  if found then
    if v_entry.amount <> add_credit_entry.amount or v_entry.kind <> add_credit_entry.kind then
      perform private.raise_error('idempotency_key_reused', 'This idempotency key was used for another credit entry.');
    end if;
    return v_entry;
  end if;
  if v_account.balance - v_account.held + add_credit_entry.amount < 0 then
    perform private.raise_error('insufficient_credits',
      format('%s credits are needed, %s are free.', -add_credit_entry.amount, v_account.balance - v_account.held));
  end if;
  update private.credit_accounts a set balance = a.balance + add_credit_entry.amount
  where a.user_id = add_credit_entry.user_id;
  insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
  values (
    add_credit_entry.user_id, add_credit_entry.amount, add_credit_entry.kind, add_credit_entry.reason,
    add_credit_entry.idempotency_key, v_account.balance + add_credit_entry.amount)
  returning * into v_entry;
  return v_entry;
end $function$;

CREATE OR REPLACE FUNCTION private.add_usage(user_id uuid, meter text, period text, used bigint, held bigint, resets_at timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  insert into private.usage_counters as c (user_id, meter, period, used, held, resets_at)
  values (add_usage.user_id, add_usage.meter, add_usage.period, add_usage.used, add_usage.held, add_usage.resets_at)
  on conflict on constraint usage_counters_pkey do update set
    used = case when c.resets_at > now() then c.used else 0 end + excluded.used,
    held = case when c.resets_at > now() then c.held else 0 end + excluded.held,
    resets_at = case when c.resets_at > now() then c.resets_at else excluded.resets_at end
$function$;

CREATE OR REPLACE FUNCTION private.admit_ai_call(request jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := request ->> 'user_id';
  v_choices bigint := coalesce((request ->> 'choices')::bigint, 1);
  v_prompt_tokens bigint := (request ->> 'prompt_tokens_max')::bigint;
  v_call public.ai_calls;
  v_account private.credit_accounts;
  v_model public.models;
  v_provider private.providers;
  v_price public.model_prices;
  v_refusal jsonb;
begin
  v_call.id := private.uuid_v7();
  v_call.created_at := private.uuid_v7_time(v_call.id);
  v_call.user_id := v_user_id;
  v_call.session_id := request ->> 'session_id';
  v_call.request_id := request ->> 'request_id';
  v_call.endpoint := request ->> 'endpoint';
  v_call.model_id := left(request ->> 'model', 200);
  v_call.stream := coalesce((request ->> 'stream')::boolean, false);
  v_call.request_bytes := coalesce((request ->> 'request_bytes')::bigint, 0);

  -- The account's lock comes first, before anything is read that it protects.
  v_account := private.lock_account(v_user_id);
  v_refusal := private.check_account(v_user_id, v_call.session_id);
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
end $function$;

CREATE OR REPLACE FUNCTION private.ai_cost_micros(price public.model_prices, prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint, reasoning_tokens bigint, images bigint)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN (ceil(((((((((prompt_tokens - LEAST(cached_tokens, prompt_tokens)))::numeric * (price).input_usd_per_mtok) + ((LEAST(cached_tokens, prompt_tokens))::numeric * COALESCE((price).cached_input_usd_per_mtok, (price).input_usd_per_mtok))) + (((completion_tokens - LEAST(reasoning_tokens, completion_tokens)))::numeric * (price).output_usd_per_mtok)) + ((LEAST(reasoning_tokens, completion_tokens))::numeric * COALESCE((price).reasoning_usd_per_mtok, (price).output_usd_per_mtok))) + (((images)::numeric * (price).image_usd) * (1000000)::numeric)) + ((price).request_usd * (1000000)::numeric))))::bigint;

CREATE OR REPLACE FUNCTION private.ai_limits(user_id uuid)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select coalesce(jsonb_agg(jsonb_build_object(
    'meter', l.meter, 'period', l.period, 'amount', l.amount, 'used', l.used, 'held', l.held,
    'remaining', private.remaining(l.amount, l.used + l.held), 'resets_at', l.resets_at)), '[]')
  from private.limits_of(ai_limits.user_id) l
  where l.meter in ('ai_calls', 'ai_tokens')
$function$;

CREATE OR REPLACE FUNCTION private.change_credits(user_id uuid, amount bigint, kind text, reason text, idempotency_key text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_entry public.credit_entries;
begin
  perform private.require_service();
  if change_credits.amount is null or change_credits.amount not between 1 and 1000000000000 then
    perform private.raise_error('invalid_request_error', 'amount must be a whole number of credits from 1 to 1000000000000.');
  end if;
  if coalesce(length(change_credits.reason), 0) not between 1 and 200 then
    perform private.raise_error('invalid_request_error', 'reason must have 1 to 200 characters.');
  end if;
  if coalesce(length(change_credits.idempotency_key), 0) not between 1 and 255 then
    perform private.raise_error('invalid_request_error', 'idempotency_key must have 1 to 255 characters.');
  end if;
  -- An entry of a caller's with such a key would make the settlement of that call fail.
  if change_credits.idempotency_key = 'sign_up' or change_credits.idempotency_key like 'ai_call:%' then
    perform private.raise_error('invalid_request_error', 'idempotency_key must not be sign_up or begin with ai_call: (the ledger''s own keys).');
  end if;
  v_entry := private.add_credit_entry(
    change_credits.user_id,
    case when change_credits.kind = 'deduction' then -change_credits.amount else change_credits.amount end,
    change_credits.kind, change_credits.reason, change_credits.idempotency_key);
  return jsonb_build_object('entry_id', v_entry.id, 'balance', v_entry.balance_after);
end $function$;

CREATE OR REPLACE FUNCTION private.check_account(user_id uuid, session_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_account record;
begin
  select p.status, u.banned_until > now() as is_banned, s.id is not null as has_session
  into v_account
  from public.profiles p
    join auth.users u on u.id = p.id
    left join auth.sessions s
      on s.id = check_account.session_id and s.user_id = p.id and coalesce(s.not_after > now(), true)
  where p.id = check_account.user_id;
  if not found or v_account.status = 'deleted' or not v_account.has_session then
    return jsonb_build_object('code', 'invalid_api_key', 'message', 'This session has ended. Sign in again.');
  elsif v_account.status = 'suspended' or v_account.is_banned then
    return jsonb_build_object('code', 'account_suspended', 'message', 'This account is suspended.');
  elsif v_account.status <> 'active' then
    return jsonb_build_object('code', 'account_pending', 'message', 'Confirm your e-mail address first.');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.check_ai_budget(call public.ai_calls, account private.credit_accounts)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.close_ai_call(call_id uuid, state text, usage jsonb, usage_source text, outcome jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.consume(user_id uuid, meter text, period text, units bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_limit record;
begin
  perform private.lock_account(consume.user_id);
  select l.* into v_limit from private.limits_of(consume.user_id) l
  where l.meter = consume.meter and l.period = consume.period;
  if not found or v_limit.used + v_limit.held + consume.units > v_limit.amount then
    perform private.raise_error(
      case when consume.period = 'day' then 'daily_quota_exceeded' else 'insufficient_quota' end,
      format('The limit of %s %s per %s is reached.', coalesce(v_limit.amount, 0), consume.meter, consume.period),
      format('It resets at %s.', v_limit.resets_at));
  end if;
  perform private.add_usage(consume.user_id, consume.meter, consume.period, consume.units, 0, v_limit.resets_at);
end $function$;

CREATE OR REPLACE FUNCTION private.create_account(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user auth.users;
  v_data jsonb;
  v_credits bigint := (private.setting('credits.on_sign_up'))::bigint;
begin
  select u.* into strict v_user from auth.users u where u.id = create_account.user_id;
  v_data := coalesce(v_user.raw_user_meta_data, '{}');
  insert into public.profiles (id, status, first_name, last_name, display_name, birth_date)
  values (
    v_user.id,
    case when v_user.email_confirmed_at is null then 'pending' else 'active' end,
    private.text_or_null(v_data ->> 'first_name', 80),
    private.text_or_null(v_data ->> 'last_name', 80),
    private.text_or_null(v_data ->> 'display_name', 80),
    private.date_or_null(v_data ->> 'birth_date'))
  on conflict (id) do nothing;
  insert into private.credit_accounts (user_id) values (v_user.id) on conflict do nothing;
  if found and v_credits > 0 then
    perform private.add_credit_entry(v_user.id, v_credits, 'sign_up', 'credits on sign-up', 'sign_up');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.create_ai_call_partitions()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.current_price(model_id text, at timestamp with time zone)
 RETURNS public.model_prices
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select p.* from public.model_prices p
  where p.model_id = current_price.model_id and p.valid_from <= current_price.at
  order by p.valid_from desc limit 1
$function$;

CREATE OR REPLACE FUNCTION private.date_or_null(value text)
 RETURNS date
 LANGUAGE sql
 STABLE
 SET search_path TO ''
RETURN CASE WHEN (pg_input_is_valid(value, 'date'::text) AND (value ~ '^\d{4}-\d\d-\d\d$'::text)) THEN (value)::date ELSE NULL::date END;

CREATE OR REPLACE FUNCTION private.error_status(code text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE code WHEN 'invalid_request_error'::text THEN 400 WHEN 'invalid_api_key'::text THEN 401 WHEN 'model_not_priced'::text THEN 400 WHEN 'insufficient_credits'::text THEN 402 WHEN 'insufficient_quota'::text THEN 402 WHEN 'in_flight_budget_exhausted'::text THEN 402 WHEN 'account_pending'::text THEN 403 WHEN 'account_suspended'::text THEN 403 WHEN 'model_not_allowed'::text THEN 403 WHEN 'not_allowed'::text THEN 403 WHEN 'model_not_found'::text THEN 404 WHEN 'not_found'::text THEN 404 WHEN 'idempotency_key_reused'::text THEN 422 WHEN 'daily_quota_exceeded'::text THEN 429 ELSE NULL::integer END;

CREATE OR REPLACE FUNCTION private.hold_ai_call(call public.ai_calls)
 RETURNS public.ai_calls
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.limits_of(user_id uuid)
 RETURNS TABLE(meter text, period text, amount bigint, used bigint, held bigint, resets_at timestamp with time zone)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
  select
    l.meter,
    l.period,
    case when o.user_id is not null then o.amount else l.amount end,
    case when c.resets_at > now() then c.used else 0 end,
    case when c.resets_at > now() then c.held else 0 end,
    case when c.resets_at > now() then c.resets_at
      else private.period_resets_at(l.period, p.quota_time_zone, coalesce(s.created_at, p.created_at), now()) end
  from public.profiles p
    -- The sign-up, also of users who were there before their profile.
    join auth.users s on s.id = p.id
    cross join lateral (
      select pl.meter, pl.period, pl.amount from public.plan_limits pl where pl.plan_id = p.plan_id
      union all
      select lo.meter, lo.period, lo.amount from public.limit_overrides lo
      where lo.user_id = p.id
        and not exists (
          select from public.plan_limits pl
          where pl.plan_id = p.plan_id and pl.meter = lo.meter and pl.period = lo.period)
    ) l
    left join public.limit_overrides o on o.user_id = p.id and o.meter = l.meter and o.period = l.period
    left join private.usage_counters c on c.user_id = p.id and c.meter = l.meter and c.period = l.period
  where p.id = limits_of.user_id
$function$;

CREATE OR REPLACE FUNCTION private.list_ai_models(user_id uuid, session_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_refusal jsonb := private.check_account(list_ai_models.user_id, list_ai_models.session_id);
begin
  if v_refusal is not null then
    return jsonb_build_object('allowed', false) || v_refusal;
  end if;
  return jsonb_build_object('allowed', true, 'models', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', m.id, 'owned_by', m.provider_id, 'created', floor(extract(epoch from m.created_at)), 'kind', m.kind) order by m.id)
    from public.models m
      join public.plan_models pm on pm.model_id = m.id
      join public.profiles p on p.plan_id = pm.plan_id and p.id = list_ai_models.user_id
      join private.providers pr on pr.id = m.provider_id and pr.enabled
    where m.enabled and (private.current_price(m.id, now())).model_id is not null
  ), '[]'));
end $function$;

CREATE OR REPLACE FUNCTION private.lock_account(user_id uuid)
 RETURNS private.credit_accounts
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select a.* from private.credit_accounts a where a.user_id = lock_account.user_id for no key update $function$;

CREATE OR REPLACE FUNCTION private.my_credits(OUT balance bigint, OUT held bigint)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  select a.balance, a.held into balance, held from private.credit_accounts a where a.user_id = v_user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.my_limits()
 RETURNS TABLE(meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  return query
    select l.meter, l.period, u.used, l.held, l.amount, private.remaining(l.amount, u.used + l.held),
      nullif(l.resets_at, 'infinity')
    from private.limits_of(v_user_id) l
      cross join lateral (
        select case
          -- Files are counted where they are: nothing to keep in step with the Storage service. A user's files lie
          -- below their id, and this range is what the service's index on names (text_pattern_ops) can answer.
          when l.meter = 'storage_bytes' then (
            select coalesce(sum((o.metadata ->> 'size')::bigint), 0)::bigint
            from storage.objects o
            where o.name ~>=~ (v_user_id || '/') and o.name ~<~ (v_user_id || '0'))
          else l.used
        end as used
      ) u
    order by l.meter, l.period;
end $function$;

CREATE OR REPLACE FUNCTION private.period_resets_at(period text, time_zone text, signed_up_at timestamp with time zone, at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_now timestamp := period_resets_at.at at time zone period_resets_at.time_zone;
  v_month timestamp := date_trunc('month', v_now);
  v_day integer := extract(day from period_resets_at.signed_up_at at time zone period_resets_at.time_zone);
  v_reset timestamptz;
begin
  case period_resets_at.period
    when 'total' then
      return 'infinity';
    when 'day' then
      return (date_trunc('day', v_now) + interval '1 day') at time zone period_resets_at.time_zone;
    when 'month' then
      -- The 31st of a short month is its last day; the month after next covers an anniversary earlier today.
      for v_ahead in 0..2 loop
        v_reset := (
          v_month + make_interval(months => v_ahead)
          + make_interval(days => least(
              v_day,
              extract(day from v_month + make_interval(months => v_ahead + 1) - interval '1 day')::integer
            ) - 1)
        ) at time zone period_resets_at.time_zone;
        if v_reset > period_resets_at.at then
          return v_reset;
        end if;
      end loop;
  end case;
  raise exception 'no reset time for period %', period_resets_at.period;
end $function$;

CREATE OR REPLACE FUNCTION private.raise_error(code text, message text, hint text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_status integer := private.error_status(raise_error.code);
begin
  if v_status is null then
    raise exception 'error code % is not in private.error_status', raise_error.code;
  end if;
  raise sqlstate 'PGRST' using
    message = jsonb_build_object('code', raise_error.code, 'message', raise_error.message, 'hint', raise_error.hint)::text,
    detail = jsonb_build_object('status', v_status, 'headers', '{}'::jsonb)::text;
end $function$;

CREATE OR REPLACE FUNCTION private.refuse_ai_call(call public.ai_calls, refusal jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  insert into public.ai_calls
    (id, created_at, user_id, session_id, request_id, endpoint, model_id, provider_id, stream, state,
     http_status, error_code, request_bytes, settled_at)
  values
    ((call).id, (call).created_at, (call).user_id, (call).session_id, (call).request_id, (call).endpoint,
     (call).model_id, (call).provider_id, (call).stream, 'refused',
     private.error_status(refusal ->> 'code'), refusal ->> 'code', (call).request_bytes, now());
  return jsonb_build_object('admitted', false, 'call_id', (call).id, 'details', '{}'::jsonb) || refusal;
end $function$;

CREATE OR REPLACE FUNCTION private.remaining(amount bigint, taken bigint)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE WHEN (amount IS NOT NULL) THEN GREATEST((amount - taken), (0)::bigint) ELSE NULL::bigint END;

CREATE OR REPLACE FUNCTION private.require_service()
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  if coalesce((select auth.role()), session_user) not in ('service_role', 'postgres') then
    perform private.raise_error('not_allowed', 'Only the service role may call this function.');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.require_user()
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := (select auth.uid());
begin
  if v_user_id is null then
    perform private.raise_error('invalid_api_key', 'Sign in first: this function needs a user''s token.');
  end if;
  return v_user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.setting(key text)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_value jsonb;
begin
  select settings.value into v_value from private.settings where settings.key = setting.key;
  if not found then
    raise exception 'setting % is missing from private.settings', setting.key;
  end if;
  return v_value;
end $function$;

CREATE OR REPLACE FUNCTION private.settle_abandoned_ai_calls(batch_size integer DEFAULT 100)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.settle_ai_call(call_id uuid, outcome jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.start_ai_call(call_id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  update public.ai_calls c set started_at = now()
  where c.id = start_ai_call.call_id and c.created_at = private.uuid_v7_time(start_ai_call.call_id)
    and c.state = 'held' and c.started_at is null
$function$;

CREATE OR REPLACE FUNCTION private.text_or_null(value text, max_length integer)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN NULLIF("left"(btrim(value), max_length), ''::text);

CREATE OR REPLACE FUNCTION private.tg__append_only()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  -- The one way out: the account itself is erased, and the rows go with it (on delete cascade).
  if tg_op = 'DELETE' and not exists (select from auth.users where id = old.user_id) then
    return old;
  end if;
  raise exception using errcode = '42501', message = format('%I is append-only', tg_table_name);
end $function$;

CREATE OR REPLACE FUNCTION private.tg__timestamps()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  new.created_at := case when tg_op = 'INSERT' then now() else old.created_at end;
  new.updated_at := now();
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_chats__count()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.consume(new.user_id, 'chat_sessions', 'day', 1);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_profiles__time_zone()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_days integer := (private.setting('quota.time_zone_change_days'))::integer;
begin
  if not exists (select from pg_catalog.pg_timezone_names where name = new.time_zone) then
    perform private.raise_error('invalid_request_error', 'time_zone is not an IANA time zone.', 'Use a name such as Europe/Berlin.');
  end if;
  if old.quota_time_zone_changed_at is null or old.quota_time_zone_changed_at < now() - make_interval(days => v_days) then
    new.quota_time_zone := new.time_zone;
    new.quota_time_zone_changed_at := now();
  end if;
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_users__activate_account()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  update public.profiles set status = 'active' where id = new.id and status = 'pending';
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_users__create_account()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.create_account(new.id);
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.uuid_v7()
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  return encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6
        ),
        52, 1),
      53, 1),
    'hex')::uuid;
end $function$;

CREATE OR REPLACE FUNCTION private.uuid_v7_time(id uuid)
 RETURNS timestamp with time zone
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN to_timestamp((((((('x'::text || translate("left"((id)::text, 13), '-'::text, ''::text)))::bit(48))::bigint)::numeric / 1000.0))::double precision);

CREATE OR REPLACE FUNCTION private.verify_credit_balances()
 RETURNS TABLE(user_id uuid, balance bigint, entries_sum bigint, held bigint, open_holds bigint)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select a.user_id, a.balance, e.amount, a.held, h.credits
  from private.credit_accounts a
    cross join lateral (
      select coalesce(sum(c.amount), 0)::bigint as amount from public.credit_entries c where c.user_id = a.user_id) e
    cross join lateral (
      select coalesce(sum(c.hold_credits), 0)::bigint as credits
      from public.ai_calls c where c.user_id = a.user_id and c.state = 'held') h
  where a.balance <> e.amount or a.held <> h.credits
$function$;

CREATE OR REPLACE FUNCTION public.deduct_credits(user_id uuid, amount bigint, reason text, idempotency_key text)
 RETURNS jsonb
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credits(user_id, amount, 'deduction', reason, idempotency_key) $function$;

CREATE OR REPLACE FUNCTION public.get_my_credits(OUT balance bigint, OUT held bigint)
 RETURNS record
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select c.balance, c.held from private.my_credits() c $function$;

CREATE OR REPLACE FUNCTION public.get_my_limits()
 RETURNS TABLE(meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.my_limits() $function$;

CREATE OR REPLACE FUNCTION public.grant_credits(user_id uuid, amount bigint, reason text, idempotency_key text)
 RETURNS jsonb
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credits(user_id, amount, 'grant', reason, idempotency_key) $function$;

CREATE OR REPLACE FUNCTION public.refund_credits(user_id uuid, amount bigint, reason text, idempotency_key text)
 RETURNS jsonb
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credits(user_id, amount, 'refund', reason, idempotency_key) $function$;

ALTER TABLE "private"."credit_accounts" ADD CONSTRAINT "credit_accounts_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."usage_counters" ADD CONSTRAINT "usage_counters_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_attempts_check" CHECK ((attempts >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_cached_tokens_check" CHECK ((cached_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_completion_tokens_check" CHECK ((completion_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_cost_micros_check" CHECK ((cost_micros >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_credits_charged_check" CHECK ((credits_charged >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_duration_ms_check" CHECK ((duration_ms >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_endpoint_check" CHECK ((length(endpoint) <= 40));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_error_code_check" CHECK ((length(error_code) <= 80));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_first_token_ms_check" CHECK ((first_token_ms >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_hold_credits_check" CHECK ((hold_credits >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_hold_micros_check" CHECK ((hold_micros >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_hold_output_tokens_check" CHECK ((hold_output_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_hold_prompt_tokens_check" CHECK ((hold_prompt_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_http_status_check" CHECK (((http_status >= 100) AND (http_status <= 599)));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_model_id_check" CHECK ((length(model_id) <= 200));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_pkey" PRIMARY KEY (id, created_at);

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_prompt_tokens_check" CHECK ((prompt_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_provider_cost_micros_check" CHECK ((provider_cost_micros >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_provider_id_check" CHECK ((length(provider_id) <= 40));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_reasoning_tokens_check" CHECK ((reasoning_tokens >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_request_bytes_check" CHECK ((request_bytes >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_request_id_check" CHECK (((length(request_id) >= 1) AND (length(request_id) <= 64)));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_response_bytes_check" CHECK ((response_bytes >= 0));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_state_check" CHECK ((state = ANY (ARRAY['held'::text, 'settled'::text, 'released'::text, 'expired'::text, 'refused'::text])));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_usage_source_check" CHECK ((usage_source = ANY (ARRAY['provider'::text, 'estimated'::text, 'hold'::text, 'none'::text])));

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."credit_entries" ADD CONSTRAINT "credit_entries_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."limit_overrides" ADD CONSTRAINT "limit_overrides_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."model_prices" ADD CONSTRAINT "model_prices_model_id_fkey" FOREIGN KEY (model_id) REFERENCES public.models(id) ON DELETE CASCADE;

ALTER TABLE "public"."models" ADD CONSTRAINT "models_provider_id_fkey" FOREIGN KEY (provider_id) REFERENCES private.providers(id) ON DELETE RESTRICT;

ALTER TABLE "public"."plan_models" ADD CONSTRAINT "plan_models_model_id_fkey" FOREIGN KEY (model_id) REFERENCES public.models(id) ON DELETE CASCADE;

ALTER TABLE "public"."plan_limits" ADD CONSTRAINT "plan_limits_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE CASCADE;

ALTER TABLE "public"."plan_models" ADD CONSTRAINT "plan_models_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE CASCADE;

ALTER TABLE "public"."profiles" ADD CONSTRAINT "profiles_id_fkey" FOREIGN KEY (id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."profiles" ADD CONSTRAINT "profiles_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE RESTRICT;

CREATE INDEX ai_calls_hold_expires_at_idx ON public.ai_calls USING btree (hold_expires_at) WHERE (state = 'held'::text);

CREATE INDEX ai_calls_user_id_created_at_idx ON public.ai_calls USING btree (user_id, created_at DESC);

CREATE INDEX credit_entries_user_id_created_at_idx ON public.credit_entries USING btree (user_id, created_at DESC);

CREATE INDEX models_provider_id_idx ON public.models USING btree (provider_id);

CREATE INDEX plan_models_model_id_idx ON public.plan_models USING btree (model_id);

CREATE INDEX profiles_plan_id_idx ON public.profiles USING btree (plan_id);

CREATE TRIGGER palisade_activate_account AFTER UPDATE OF email_confirmed_at ON auth.users FOR EACH ROW WHEN (((old.email_confirmed_at IS NULL) AND (new.email_confirmed_at IS NOT NULL))) EXECUTE FUNCTION private.tg_users__activate_account();

CREATE TRIGGER palisade_create_account AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION private.tg_users__create_account();

CREATE TRIGGER tg_chats__count AFTER INSERT ON public.chats FOR EACH ROW EXECUTE FUNCTION private.tg_chats__count();

CREATE TRIGGER tg_chats__timestamps BEFORE INSERT OR UPDATE ON public.chats FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE TRIGGER tg_credit_entries__append_only BEFORE DELETE OR UPDATE ON public.credit_entries FOR EACH ROW EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_credit_entries__no_truncate BEFORE TRUNCATE ON public.credit_entries FOR EACH STATEMENT EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_profiles__time_zone BEFORE UPDATE OF time_zone ON public.profiles FOR EACH ROW WHEN (((new.time_zone IS DISTINCT FROM old.time_zone) OR (new.time_zone IS DISTINCT FROM old.quota_time_zone))) EXECUTE FUNCTION private.tg_profiles__time_zone();

CREATE TRIGGER tg_profiles__timestamps BEFORE INSERT OR UPDATE ON public.profiles FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE POLICY "owners see their calls" ON "public"."ai_calls" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their ledger" ON "public"."credit_entries" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their own limits" ON "public"."limit_overrides" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "signed-in users see the prices" ON "public"."model_prices" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "signed-in users see the enabled models" ON "public"."models" FOR SELECT TO "authenticated" USING (enabled);

CREATE POLICY "signed-in users see what plans allow" ON "public"."plan_limits" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "signed-in users see which plan has which model" ON "public"."plan_models" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "signed-in users see the plans" ON "public"."plans" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "owners change their profile" ON "public"."profiles" FOR UPDATE TO "authenticated" USING ((id = ( SELECT auth.uid() AS uid))) WITH CHECK ((id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their profile" ON "public"."profiles" FOR SELECT TO "authenticated" USING ((id = ( SELECT auth.uid() AS uid)));

COMMENT ON COLUMN "private"."providers"."api_key_secret" IS 'Name of the environment variable or Vault secret that holds the key; null: the provider needs none. Never the key itself.';

COMMENT ON COLUMN "private"."providers"."base_url" IS 'The OpenAI base URL, such as https://openrouter.ai/api/v1, without a slash at the end.';

COMMENT ON COLUMN "private"."usage_counters"."held" IS 'Reserved by calls that are not settled yet.';

COMMENT ON COLUMN "public"."ai_calls"."cost_micros" IS 'What the call cost at our price, in micro-dollars, rounded up once.';

COMMENT ON COLUMN "public"."ai_calls"."hold_micros" IS 'The worst case that was reserved, in micro-dollars.';

COMMENT ON COLUMN "public"."ai_calls"."provider_cost_micros" IS 'What the provider says it cost, in micro-dollars, when it says so.';

COMMENT ON COLUMN "public"."ai_calls"."started_at" IS 'When the first byte went to the caller: from then on the call is never free.';

COMMENT ON COLUMN "public"."ai_calls"."state" IS 'held: running; settled: charged for what it used; released: failed and free; expired: nobody settled it, the sweeper did; refused: never reached the provider.';

COMMENT ON COLUMN "public"."ai_calls"."usage_source" IS 'provider: as reported; estimated: from bytes, because no report came; hold: the worst case, because the process died; none: nothing was used.';

COMMENT ON COLUMN "public"."credit_entries"."amount" IS 'Credits; positive adds, negative takes.';

COMMENT ON COLUMN "public"."credit_entries"."idempotency_key" IS 'The same key for the same user is the same entry: a repeated request changes nothing.';

COMMENT ON COLUMN "public"."messages"."ai_call_id" IS 'The call in ai_calls that made it, when there is one. No foreign key: the log is dropped by month.';

COMMENT ON COLUMN "public"."model_prices"."cached_input_usd_per_mtok" IS 'Null: cached tokens cost what other input costs.';

COMMENT ON COLUMN "public"."model_prices"."reasoning_usd_per_mtok" IS 'Null: reasoning tokens cost what other output costs.';

COMMENT ON COLUMN "public"."models"."credits_per_call" IS 'Credits that a call that was answered costs.';

COMMENT ON COLUMN "public"."models"."max_output_tokens" IS 'The most that is ever asked for in one answer; larger wishes are lowered to it.';

COMMENT ON COLUMN "public"."models"."upstream_id" IS 'The name the provider knows the model by.';

COMMENT ON COLUMN "public"."plan_limits"."amount" IS 'Units of the meter: calls, tokens, chats, tests, bytes.';

COMMENT ON COLUMN "public"."plan_limits"."period" IS 'day: from midnight to midnight in the account''s quota_time_zone; month: between anniversaries of the sign-up; total: ever.';

COMMENT ON COLUMN "public"."profiles"."id" IS 'The user''s id in auth.users.';

COMMENT ON COLUMN "public"."profiles"."plan_id" IS 'Decides the limits; a change applies to the next call. Not user-writable.';

COMMENT ON COLUMN "public"."profiles"."quota_time_zone" IS 'The zone whose midnight resets daily limits. It follows time_zone, at most once per quota.time_zone_change_days, so that moving the clock gains nothing.';

COMMENT ON COLUMN "public"."profiles"."role" IS 'Not user-writable.';

COMMENT ON COLUMN "public"."profiles"."status" IS 'pending until the e-mail is verified; the AI proxy refuses all but active from the next call on. Not user-writable.';

COMMENT ON COLUMN "public"."profiles"."time_zone" IS 'IANA name, such as Europe/Berlin.';

COMMENT ON FUNCTION "private"."add_credit_entry"(uuid, bigint, text, text, text) IS 'The only writer of the ledger: one entry and its balance in one transaction. Raises insufficient_credits, idempotency_key_reused, not_found.';

COMMENT ON FUNCTION "private"."add_usage"(uuid, text, text, bigint, bigint, timestamp with time zone) IS 'Adds to a counter of the running period, or starts the next one. The caller holds the account''s lock and has checked the limit.';

COMMENT ON FUNCTION "private"."admit_ai_call"(jsonb) IS 'Decides one AI call in one transaction and reserves its worst case, or refuses it, notes why and consumes nothing. Takes {request_id, user_id, session_id, endpoint, model, prompt_tokens_max, max_output_tokens, choices, stream, request_bytes}; answers {admitted: true, call_id, provider, upstream_model, max_output_tokens, credits_remaining, limits} or {admitted: false, call_id, code, message, details}. Exact under read committed, because every admission and settlement of an account first takes its lock.';

COMMENT ON FUNCTION "private"."ai_cost_micros"(public.model_prices, bigint, bigint, bigint, bigint, bigint) IS 'Exact cost in micro-dollars, rounded up once. Tokens as OpenAI reports them: cached within prompt, reasoning within completion.';

COMMENT ON FUNCTION "private"."ai_limits"(uuid) IS 'The AI limits of an account as JSON, for response headers.';

COMMENT ON FUNCTION "private"."change_credits"(uuid, bigint, text, text, text) IS 'Behind the three public credit functions. Definer: the ledger is writable by nobody else; refuses all but the service role.';

COMMENT ON FUNCTION "private"."check_account"(uuid, uuid) IS 'Null when the account is active and the session lives; else {code, message}. Tokens outlive sessions, so every call asks.';

COMMENT ON FUNCTION "private"."check_ai_budget"(public.ai_calls, private.credit_accounts) IS 'Null when every limit and the credits have room for the call''s hold; else {code, message, details}. The caller holds the account''s lock.';

COMMENT ON FUNCTION "private"."close_ai_call"(uuid, text, jsonb, text, jsonb) IS 'The one way out of state held: charges usage (null: nothing), gives back the hold, writes the ledger, in one transaction; {settled: false} when the call was closed before.';

COMMENT ON FUNCTION "private"."consume"(uuid, text, text, bigint) IS 'Counts units against a limit or raises daily_quota_exceeded / insufficient_quota; exact however many race, because the account is locked first. Definer: for triggers on users'' tables.';

COMMENT ON FUNCTION "private"."create_account"(uuid) IS 'Gives a user profile and credits; harmless when they are there. What the user typed at sign-up is cut to size or dropped, never an error. Definer: runs in the Auth service''s transaction.';

COMMENT ON FUNCTION "private"."create_ai_call_partitions"() IS 'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

COMMENT ON FUNCTION "private"."current_price"(text, timestamp with time zone) IS 'The price that holds at a moment; null fields when there is none.';

COMMENT ON FUNCTION "private"."date_or_null"(text) IS 'A YYYY-MM-DD date, or null when the text is not one.';

COMMENT ON FUNCTION "private"."error_status"(text) IS 'HTTP status of an error code that SQL can raise or return. The same catalogue as functions/_shared/errors.ts and docs/errors.md.';

COMMENT ON FUNCTION "private"."hold_ai_call"(public.ai_calls) IS 'Reserves the call''s worst case and writes its row. The caller holds the account''s lock.';

COMMENT ON FUNCTION "private"."limits_of"(uuid) IS 'Every limit of one account with what is used and held in the running period. Definer: counters are private. Callers pass an id they have checked.';

COMMENT ON FUNCTION "private"."list_ai_models"(uuid, uuid) IS 'The models the account''s plan may use: {allowed: true, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

COMMENT ON FUNCTION "private"."lock_account"(uuid) IS 'Locks an account until the transaction ends. Under read committed, which we rely on, the statements that follow see what the previous holder committed; under repeatable read they would fail with 40001.';

COMMENT ON FUNCTION "private"."my_credits"() IS 'Behind public.get_my_credits. Definer: accounts are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."my_limits"() IS 'Behind public.get_my_limits. Definer: counters are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."period_resets_at"(text, text, timestamp with time zone, timestamp with time zone) IS 'When the period that contains "at" ends: the next midnight of the zone (day), the next monthly anniversary of the sign-up, the last day of shorter months (month), infinity (total).';

COMMENT ON FUNCTION "private"."raise_error"(text, text, text) IS 'Raises an error for the caller: PostgREST answers with the code''s HTTP status and {code, message, hint}.';

COMMENT ON FUNCTION "private"."refuse_ai_call"(public.ai_calls, jsonb) IS 'Remembers a refused call and its reason; takes nothing from the account.';

COMMENT ON FUNCTION "private"."remaining"(bigint, bigint) IS 'What is left of an amount, never below zero; null when there is no limit.';

COMMENT ON FUNCTION "private"."require_service"() IS 'Refuses every caller but the service role (a secret key) and direct connections of the project''s owner.';

COMMENT ON FUNCTION "private"."require_user"() IS 'The signed-in caller''s id; an error for everybody else.';

COMMENT ON FUNCTION "private"."setting"(text) IS 'The value of one setting; an error when the row is missing, never a default.';

COMMENT ON FUNCTION "private"."settle_abandoned_ai_calls"(integer) IS 'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it; harmless at any time. Answers how many it closed.';

COMMENT ON FUNCTION "private"."settle_ai_call"(uuid, jsonb) IS 'Ends a held call exactly once. Takes {result: succeeded | failed | cancelled, http_status, error_code, usage: {prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd} or null, usage_source, response_bytes, duration_ms, first_token_ms, attempts}; usage null costs nothing. Answers {settled, cost_micros, credits_charged, credits_remaining}; settled is false when it was closed before.';

COMMENT ON FUNCTION "private"."start_ai_call"(uuid) IS 'Notes that the first byte went to the caller: if the process dies now, the sweeper charges the hold.';

COMMENT ON FUNCTION "private"."text_or_null"(text, integer) IS 'Trimmed and cut to max_length characters; null when nothing is left.';

COMMENT ON FUNCTION "private"."tg__append_only"() IS 'Refuses update, delete and truncate, for the table''s owner too. Definer: it looks into auth.users, which callers cannot read.';

COMMENT ON FUNCTION "private"."tg__timestamps"() IS 'Keeps created_at and updated_at true, whatever a client sends.';

COMMENT ON FUNCTION "private"."tg_chats__count"() IS 'Counts a new chat against the daily limit, after the policies let it in. Definer: counters are private.';

COMMENT ON FUNCTION "private"."tg_profiles__time_zone"() IS 'Checks the zone and lets the quota follow it at most once per quota.time_zone_change_days. Definer: the settings are private.';

COMMENT ON FUNCTION "private"."tg_users__activate_account"() IS 'A verified e-mail makes a pending account active; a suspended one stays suspended. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_users__create_account"() IS 'Every user has its profile, credits and limits, whoever made the user. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."uuid_v7"() IS 'A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits. Sorts by time. PostgreSQL 18 has uuidv7().';

COMMENT ON FUNCTION "private"."uuid_v7_time"(uuid) IS 'The moment in a version 7 UUID, to the millisecond. Rows whose created_at is this value are found by id in one partition.';

COMMENT ON FUNCTION "private"."verify_credit_balances"() IS 'Accounts whose balance is not the sum of their entries, or whose held credits are not those of their open calls. Always empty; run it whenever you like.';

COMMENT ON FUNCTION "public"."deduct_credits"(uuid, bigint, text, text) IS 'Takes credits (service role). Answers {entry_id, balance}. 402 insufficient_credits when fewer are free; the same idempotency_key changes nothing twice; 422 idempotency_key_reused with another amount.';

COMMENT ON FUNCTION "public"."get_my_credits"() IS 'The caller''s balance and how much of it running calls hold, in credits. Free to spend: balance - held.';

COMMENT ON FUNCTION "public"."get_my_limits"() IS 'The caller''s limits, one row each: units used and held in the running period, the amount allowed (null: no limit), what remains, and when the period ends (null: never).';

COMMENT ON FUNCTION "public"."grant_credits"(uuid, bigint, text, text) IS 'Adds credits (service role). Answers {entry_id, balance}. The same idempotency_key changes nothing twice.';

COMMENT ON FUNCTION "public"."refund_credits"(uuid, bigint, text, text) IS 'Gives credits back (service role). Answers {entry_id, balance}. The same idempotency_key changes nothing twice.';

COMMENT ON SCHEMA "private" IS 'Everything that is not the API surface. Not exposed by PostgREST.';

COMMENT ON TABLE "private"."credit_accounts" IS 'Balance and open holds of an account, in credits. Its row is also the account''s lock: whoever spends or counts takes it first.';

COMMENT ON TABLE "private"."providers" IS 'OpenAI-compatible providers.';

COMMENT ON TABLE "private"."settings" IS 'Every tunable number and switch: one row each, read when needed, changed by SQL.';

COMMENT ON TABLE "private"."usage_counters" IS 'Used and held units of the running period. After resets_at the row counts as zero and the next writer starts the new period: no reset job.';

COMMENT ON TABLE "public"."ai_calls" IS 'One row per AI call: what was asked of whom, how it ended, what it used and cost. Never the prompt or the answer.';

COMMENT ON TABLE "public"."chats" IS 'A conversation. A new one counts against chat_sessions/day.';

COMMENT ON TABLE "public"."credit_entries" IS 'The ledger: every change of a balance, never changed or removed. Not partitioned: the balance is its sum, so no part may go.';

COMMENT ON TABLE "public"."limit_overrides" IS 'One user''s own limit in place of the plan''s. Amount null: no limit. Applies to the next call.';

COMMENT ON TABLE "public"."messages" IS 'One message of a chat, kept because its owner saved it.';

COMMENT ON TABLE "public"."model_prices" IS 'Prices from a date on, in US dollars per million tokens, per image, per request. A model without a price is refused.';

COMMENT ON TABLE "public"."models" IS 'Models that callers can name. Which plan may use one: plan_models. What it costs: model_prices.';

COMMENT ON TABLE "public"."plan_limits" IS 'How much of a meter a plan allows in a period. No row: none of it. Amount null: no limit.';

COMMENT ON TABLE "public"."plan_models" IS 'Which plan may use which model.';

COMMENT ON TABLE "public"."plans" IS 'The plans a user can be on.';

COMMENT ON TABLE "public"."profiles" IS 'One row for every account, made when the user is made. Its owner reads it and writes the personal columns.';

REVOKE ALL ON FUNCTION "private"."add_credit_entry"(uuid, bigint, text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."add_credit_entry"(uuid, bigint, text, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."add_usage"(uuid, text, text, bigint, bigint, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."add_usage"(uuid, text, text, bigint, bigint, timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."admit_ai_call"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."admit_ai_call"(jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."ai_cost_micros"(public.model_prices, bigint, bigint, bigint, bigint, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."ai_cost_micros"(public.model_prices, bigint, bigint, bigint, bigint, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."ai_limits"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."ai_limits"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."change_credits"(uuid, bigint, text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_credits"(uuid, bigint, text, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."check_account"(uuid, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."check_account"(uuid, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."check_ai_budget"(public.ai_calls, private.credit_accounts) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."check_ai_budget"(public.ai_calls, private.credit_accounts) TO "postgres";

REVOKE ALL ON FUNCTION "private"."close_ai_call"(uuid, text, jsonb, text, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."close_ai_call"(uuid, text, jsonb, text, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."consume"(uuid, text, text, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."consume"(uuid, text, text, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."create_account"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_account"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."create_ai_call_partitions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_ai_call_partitions"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."current_price"(text, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."current_price"(text, timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."date_or_null"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."date_or_null"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."error_status"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."error_status"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."hold_ai_call"(public.ai_calls) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."hold_ai_call"(public.ai_calls) TO "postgres";

REVOKE ALL ON FUNCTION "private"."limits_of"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."limits_of"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."list_ai_models"(uuid, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."list_ai_models"(uuid, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."lock_account"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."lock_account"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."my_credits"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_credits"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."my_limits"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_limits"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."period_resets_at"(text, text, timestamp with time zone, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."period_resets_at"(text, text, timestamp with time zone, timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."raise_error"(text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."raise_error"(text, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."refuse_ai_call"(public.ai_calls, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."refuse_ai_call"(public.ai_calls, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."remaining"(bigint, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."remaining"(bigint, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_service"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_service"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_user"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_user"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."setting"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."setting"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."settle_abandoned_ai_calls"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."settle_abandoned_ai_calls"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."settle_ai_call"(uuid, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."settle_ai_call"(uuid, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."start_ai_call"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."start_ai_call"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."text_or_null"(text, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."text_or_null"(text, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg__append_only"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg__append_only"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg__timestamps"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg__timestamps"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_chats__count"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_chats__count"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_profiles__time_zone"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_profiles__time_zone"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_users__activate_account"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_users__activate_account"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_users__create_account"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_users__create_account"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."uuid_v7"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."uuid_v7"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."uuid_v7_time"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."uuid_v7_time"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."verify_credit_balances"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."verify_credit_balances"() TO "postgres";

REVOKE ALL ON FUNCTION "public"."deduct_credits"(uuid, bigint, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."deduct_credits"(uuid, bigint, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."get_my_credits"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_credits"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_limits"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_limits"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."grant_credits"(uuid, bigint, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."grant_credits"(uuid, bigint, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."refund_credits"(uuid, bigint, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."refund_credits"(uuid, bigint, text, text) TO "postgres", "service_role";

GRANT USAGE ON SCHEMA "private" TO "authenticated";

GRANT CREATE, USAGE ON SCHEMA "private" TO "postgres";

GRANT USAGE ON SCHEMA "private" TO "service_role";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."ai_calls_default" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."credit_accounts" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."providers" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."settings" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."usage_counters" TO "postgres";

REVOKE ALL ON TABLE "public"."ai_calls" FROM "authenticated";

GRANT SELECT ON TABLE "public"."ai_calls" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."ai_calls" TO "postgres";

REVOKE ALL ON TABLE "public"."ai_calls" FROM "service_role";

GRANT SELECT ON TABLE "public"."ai_calls" TO "service_role";

REVOKE ALL ("model_id") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("model_id"), UPDATE ("model_id") ON TABLE "public"."chats" TO "authenticated";

REVOKE ALL ("title") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("title"), UPDATE ("title") ON TABLE "public"."chats" TO "authenticated";

REVOKE ALL ON TABLE "public"."chats" FROM "authenticated";

GRANT DELETE, SELECT ON TABLE "public"."chats" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."chats" TO "postgres";

REVOKE ALL ON TABLE "public"."chats" FROM "service_role";

GRANT SELECT ON TABLE "public"."chats" TO "service_role";

REVOKE ALL ON TABLE "public"."credit_entries" FROM "authenticated";

GRANT SELECT ON TABLE "public"."credit_entries" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."credit_entries" TO "postgres";

REVOKE ALL ON TABLE "public"."credit_entries" FROM "service_role";

GRANT SELECT ON TABLE "public"."credit_entries" TO "service_role";

REVOKE ALL ON TABLE "public"."limit_overrides" FROM "authenticated";

GRANT SELECT ON TABLE "public"."limit_overrides" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."limit_overrides" TO "postgres";

REVOKE ALL ON TABLE "public"."limit_overrides" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."limit_overrides" TO "service_role";

REVOKE ALL ("ai_call_id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("ai_call_id") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("chat_id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("chat_id") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("content") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("content") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("role") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("role") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ON TABLE "public"."messages" FROM "authenticated";

GRANT DELETE, SELECT ON TABLE "public"."messages" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."messages" TO "postgres";

REVOKE ALL ON TABLE "public"."messages" FROM "service_role";

GRANT SELECT ON TABLE "public"."messages" TO "service_role";

REVOKE ALL ON TABLE "public"."model_prices" FROM "authenticated";

GRANT SELECT ON TABLE "public"."model_prices" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."model_prices" TO "postgres";

REVOKE ALL ON TABLE "public"."model_prices" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."model_prices" TO "service_role";

REVOKE ALL ON TABLE "public"."models" FROM "authenticated";

GRANT SELECT ON TABLE "public"."models" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."models" TO "postgres";

REVOKE ALL ON TABLE "public"."models" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."models" TO "service_role";

REVOKE ALL ON TABLE "public"."plan_limits" FROM "authenticated";

GRANT SELECT ON TABLE "public"."plan_limits" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."plan_limits" TO "postgres";

REVOKE ALL ON TABLE "public"."plan_limits" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."plan_limits" TO "service_role";

REVOKE ALL ON TABLE "public"."plan_models" FROM "authenticated";

GRANT SELECT ON TABLE "public"."plan_models" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."plan_models" TO "postgres";

REVOKE ALL ON TABLE "public"."plan_models" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."plan_models" TO "service_role";

REVOKE ALL ON TABLE "public"."plans" FROM "authenticated";

GRANT SELECT ON TABLE "public"."plans" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."plans" TO "postgres";

REVOKE ALL ON TABLE "public"."plans" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."plans" TO "service_role";

REVOKE ALL ("avatar_path") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("avatar_path") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("bio") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("bio") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("display_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("display_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("first_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("first_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("last_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("last_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("locale") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("locale") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("time_zone") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("time_zone") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ON TABLE "public"."profiles" FROM "authenticated";

GRANT SELECT ON TABLE "public"."profiles" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."profiles" TO "postgres";

REVOKE ALL ("plan_id") ON TABLE "public"."profiles" FROM "service_role";

GRANT UPDATE ("plan_id") ON TABLE "public"."profiles" TO "service_role";

REVOKE ALL ON TABLE "public"."profiles" FROM "service_role";

GRANT SELECT ON TABLE "public"."profiles" TO "service_role";

ALTER DEFAULT PRIVILEGES FOR ROLE "postgres" REVOKE ALL ON FUNCTIONS FROM PUBLIC;

select cron.schedule('create-ai-call-partitions', '10 0 * * *', 'select private.create_ai_call_partitions()');

select cron.schedule('delete-old-job-runs', '20 0 * * *', 'delete from cron.job_run_details where end_time < now() - interval ''7 days''');

select cron.schedule('settle-abandoned-ai-calls', '30 seconds', 'select private.settle_abandoned_ai_calls()');

ALTER TABLE "public"."chats" ADD COLUMN "id" uuid NOT NULL DEFAULT private.uuid_v7();

ALTER TABLE "public"."chats" ADD CONSTRAINT "chats_pkey" PRIMARY KEY (id);

REVOKE ALL ("id") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("id") ON TABLE "public"."chats" TO "authenticated";

ALTER TABLE "public"."chats" ADD CONSTRAINT "chats_id_user_id_key" UNIQUE (id, user_id);

ALTER TABLE "public"."chats" ADD CONSTRAINT "chats_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE INDEX chats_user_id_updated_at_idx ON public.chats USING btree (user_id, updated_at DESC);

CREATE POLICY "owners delete their chats" ON "public"."chats" FOR DELETE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners rename their chats" ON "public"."chats" FOR UPDATE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their chats" ON "public"."chats" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners start chats" ON "public"."chats" FOR INSERT TO "authenticated" WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

REVOKE ALL ("user_id") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("user_id") ON TABLE "public"."chats" TO "authenticated";

ALTER TABLE "public"."credit_entries" ADD COLUMN "id" uuid NOT NULL DEFAULT private.uuid_v7();

ALTER TABLE "public"."credit_entries" ADD CONSTRAINT "credit_entries_pkey" PRIMARY KEY (id);

ALTER TABLE "public"."messages" ADD COLUMN "id" uuid NOT NULL DEFAULT private.uuid_v7();

ALTER TABLE "public"."messages" ADD CONSTRAINT "messages_pkey" PRIMARY KEY (id);

REVOKE ALL ("id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("id") ON TABLE "public"."messages" TO "authenticated";

ALTER TABLE "public"."messages" ADD CONSTRAINT "messages_chat_id_user_id_fkey" FOREIGN KEY (chat_id, user_id) REFERENCES public.chats(id, user_id) ON DELETE CASCADE;

CREATE INDEX messages_chat_id_user_id_idx ON public.messages USING btree (chat_id, user_id, id);

CREATE INDEX messages_user_id_idx ON public.messages USING btree (user_id);

CREATE POLICY "owners delete their messages" ON "public"."messages" FOR DELETE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners save messages" ON "public"."messages" FOR INSERT TO "authenticated" WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their messages" ON "public"."messages" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

REVOKE ALL ("user_id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("user_id") ON TABLE "public"."messages" TO "authenticated";

ALTER TABLE "public"."ai_calls" ALTER COLUMN "id" SET DEFAULT private.uuid_v7();

ALTER TABLE "public"."ai_calls" ADD CONSTRAINT "ai_calls_check" CHECK ((created_at = private.uuid_v7_time(id)));

REVOKE ALL ON TABLE "public"."ai_calls" FROM "anon";

REVOKE ALL ON TABLE "public"."chats" FROM "anon";

REVOKE ALL ON TABLE "public"."credit_entries" FROM "anon";

REVOKE ALL ON TABLE "public"."limit_overrides" FROM "anon";

REVOKE ALL ON TABLE "public"."messages" FROM "anon";

REVOKE ALL ON TABLE "public"."model_prices" FROM "anon";

REVOKE ALL ON TABLE "public"."models" FROM "anon";

REVOKE ALL ON TABLE "public"."plan_limits" FROM "anon";

REVOKE ALL ON TABLE "public"."plan_models" FROM "anon";

REVOKE ALL ON TABLE "public"."plans" FROM "anon";

REVOKE ALL ON TABLE "public"."profiles" FROM "anon";

REVOKE ALL ("model_id") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("model_id"), UPDATE ("model_id") ON TABLE "public"."chats" TO "authenticated";

REVOKE ALL ("title") ON TABLE "public"."chats" FROM "authenticated";

GRANT INSERT ("title"), UPDATE ("title") ON TABLE "public"."chats" TO "authenticated";

REVOKE ALL ("ai_call_id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("ai_call_id") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("chat_id") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("chat_id") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("content") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("content") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("role") ON TABLE "public"."messages" FROM "authenticated";

GRANT INSERT ("role") ON TABLE "public"."messages" TO "authenticated";

REVOKE ALL ("avatar_path") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("avatar_path") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("bio") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("bio") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("display_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("display_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("first_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("first_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("last_name") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("last_name") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("locale") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("locale") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("time_zone") ON TABLE "public"."profiles" FROM "authenticated";

GRANT UPDATE ("time_zone") ON TABLE "public"."profiles" TO "authenticated";

REVOKE ALL ("plan_id") ON TABLE "public"."profiles" FROM "service_role";

GRANT UPDATE ("plan_id") ON TABLE "public"."profiles" TO "service_role";
