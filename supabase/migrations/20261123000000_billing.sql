-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

CREATE TABLE "private"."billing_notices_sent" ("user_id" uuid NOT NULL, "dedupe_key" text NOT NULL, "notice" text NOT NULL, "sent_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "billing_notices_sent_dedupe_key_check" CHECK (((length(dedupe_key) >= 1) AND (length(dedupe_key) <= 400))), CONSTRAINT "billing_notices_sent_notice_check" CHECK ((length(notice) <= 60)), CONSTRAINT "billing_notices_sent_pkey" PRIMARY KEY (user_id, dedupe_key));

CREATE TABLE "private"."billing_notices" ("id" text NOT NULL, "title" text NOT NULL, "body" text NOT NULL, "is_mailed" boolean NOT NULL DEFAULT true, CONSTRAINT "billing_notices_body_check" CHECK (((length(body) >= 1) AND (length(body) <= 1500))), CONSTRAINT "billing_notices_id_check" CHECK ((id ~ '^[a-z][a-z0-9_]{0,59}$'::text)), CONSTRAINT "billing_notices_pkey" PRIMARY KEY (id), CONSTRAINT "billing_notices_title_check" CHECK (((length(title) >= 1) AND (length(title) <= 200))));

CREATE TABLE "private"."checkouts" ("user_id" uuid NOT NULL, "plan_price_id" text, "credit_pack_id" text, "stripe_price_id" text NOT NULL, "trial_days" integer NOT NULL, "livemode" boolean NOT NULL, "session_id" text, "url" text, "return_urls" jsonb NOT NULL DEFAULT '{}'::jsonb, "expires_at" timestamp with time zone NOT NULL, "closed_at" timestamp with time zone, "failed" boolean NOT NULL DEFAULT false, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "checkouts_check" CHECK ((num_nonnulls(plan_price_id, credit_pack_id) = 1)), CONSTRAINT "checkouts_session_id_check" CHECK (((length(session_id) >= 1) AND (length(session_id) <= 255))), CONSTRAINT "checkouts_session_id_key" UNIQUE (session_id), CONSTRAINT "checkouts_trial_days_check" CHECK ((trial_days >= 0)), CONSTRAINT "checkouts_url_check" CHECK ((length(url) <= 4000)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "checkouts_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."dunning_steps" ("position" integer NOT NULL, "after_days" integer NOT NULL, "notice" text NOT NULL, CONSTRAINT "dunning_steps_after_days_check" CHECK ((after_days >= 0)), CONSTRAINT "dunning_steps_pkey" PRIMARY KEY ("position"), CONSTRAINT "dunning_steps_position_check" CHECK (("position" > 0)));

CREATE TABLE "private"."entitlements" ("user_id" uuid NOT NULL, "starts_at" timestamp with time zone NOT NULL, "ends_at" timestamp with time zone NOT NULL, "plan_id" text, "outranks" text[], "state" text NOT NULL, "subscription_id" text NOT NULL, "valid_until" timestamp with time zone, "grace_until" timestamp with time zone, CONSTRAINT "entitlements_check1" CHECK ((num_nonnulls(plan_id, outranks, valid_until) = ANY (ARRAY[0, 3]))), CONSTRAINT "entitlements_check" CHECK ((ends_at > starts_at)), CONSTRAINT "entitlements_pkey" PRIMARY KEY (user_id, starts_at), CONSTRAINT "entitlements_state_check" CHECK ((state = ANY (ARRAY['trialing'::text, 'active'::text, 'canceling'::text, 'past_due'::text, 'paused'::text, 'unpaid'::text, 'canceled'::text, 'expired'::text, 'incomplete'::text]))), CONSTRAINT "entitlements_subscription_id_check" CHECK (((length(subscription_id) >= 1) AND (length(subscription_id) <= 255))));

CREATE TABLE "private"."retention_clocks" ("user_id" uuid NOT NULL, "started_at" timestamp with time zone NOT NULL, "ends_at" timestamp with time zone NOT NULL, CONSTRAINT "retention_clocks_check" CHECK ((ends_at >= started_at)), CONSTRAINT "retention_clocks_pkey" PRIMARY KEY (user_id));

CREATE TABLE "private"."stripe_customers" ("id" text NOT NULL, "user_id" uuid NOT NULL, "livemode" boolean NOT NULL, "deleted_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "stripe_customers_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "stripe_customers_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."stripe_events" ("id" text NOT NULL, "type" text NOT NULL, "api_version" text, "livemode" boolean NOT NULL, "account" text, "created_at" timestamp with time zone NOT NULL, "object" text, "object_id" text, "customer_id" text, "payload" jsonb NOT NULL, "state" text NOT NULL DEFAULT 'waiting'::text, "attempts" integer NOT NULL DEFAULT 0, "attempts_before_retry" integer NOT NULL DEFAULT 0, "next_attempt_at" timestamp with time zone NOT NULL DEFAULT now(), "error" text, "received_at" timestamp with time zone NOT NULL DEFAULT now(), "finished_at" timestamp with time zone, CONSTRAINT "stripe_events_account_check" CHECK ((length(account) <= 255)), CONSTRAINT "stripe_events_api_version_check" CHECK ((length(api_version) <= 100)), CONSTRAINT "stripe_events_attempts_check" CHECK ((attempts >= 0)), CONSTRAINT "stripe_events_check1" CHECK (((state = 'waiting'::text) = (finished_at IS NULL))), CONSTRAINT "stripe_events_check" CHECK (((attempts_before_retry >= 0) AND (attempts_before_retry <= attempts))), CONSTRAINT "stripe_events_customer_id_check" CHECK ((length(customer_id) <= 255)), CONSTRAINT "stripe_events_error_check" CHECK ((length(error) <= 500)), CONSTRAINT "stripe_events_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "stripe_events_object_check" CHECK ((length(object) <= 255)), CONSTRAINT "stripe_events_object_id_check" CHECK ((length(object_id) <= 255)), CONSTRAINT "stripe_events_pkey" PRIMARY KEY (id), CONSTRAINT "stripe_events_state_check" CHECK ((state = ANY (ARRAY['waiting'::text, 'applied'::text, 'ignored'::text, 'dead'::text]))), CONSTRAINT "stripe_events_type_check" CHECK (((length(type) >= 1) AND (length(type) <= 255))));

CREATE TABLE "private"."stripe_objects" ("id" text NOT NULL, "object" text NOT NULL, "customer_id" text, "subscription_id" text, "payment_intent_ids" text[] NOT NULL DEFAULT '{}'::text[], "user_id" text, "reading" jsonb NOT NULL, "read_at" timestamp with time zone NOT NULL, "deleted_at" timestamp with time zone, CONSTRAINT "stripe_objects_customer_id_check" CHECK ((length(customer_id) <= 255)), CONSTRAINT "stripe_objects_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "stripe_objects_object_check" CHECK ((object = ANY (ARRAY['customer'::text, 'subscription'::text, 'invoice'::text, 'checkout_session'::text, 'refund'::text, 'dispute'::text]))), CONSTRAINT "stripe_objects_pkey" PRIMARY KEY (id), CONSTRAINT "stripe_objects_reading_check" CHECK ((jsonb_typeof(reading) = 'object'::text)), CONSTRAINT "stripe_objects_subscription_id_check" CHECK ((length(subscription_id) <= 255)), CONSTRAINT "stripe_objects_user_id_check" CHECK ((length(user_id) <= 255)));

CREATE TABLE "private"."stripe_prices" ("id" text NOT NULL, "plan_price_id" text, "credit_pack_id" text, "product_id" text NOT NULL, "livemode" boolean NOT NULL, "is_current" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "stripe_prices_check" CHECK ((num_nonnulls(plan_price_id, credit_pack_id) = 1)), CONSTRAINT "stripe_prices_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "stripe_prices_pkey" PRIMARY KEY (id), CONSTRAINT "stripe_prices_product_id_check" CHECK (((length(product_id) >= 1) AND (length(product_id) <= 255))));

CREATE TABLE "public"."credit_packs" ("id" text NOT NULL, "name" text NOT NULL, "credits" bigint NOT NULL, "amount" bigint NOT NULL, "currency" text NOT NULL DEFAULT 'usd'::text, "expires_after_days" integer, "enabled" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credit_packs_amount_check" CHECK ((amount > 0)), CONSTRAINT "credit_packs_credits_check" CHECK ((credits > 0)), CONSTRAINT "credit_packs_currency_check" CHECK ((currency ~ '^[a-z]{3}$'::text)), CONSTRAINT "credit_packs_expires_after_days_check" CHECK ((expires_after_days > 0)), CONSTRAINT "credit_packs_id_check" CHECK ((id ~ '^[a-z][a-z0-9_]{0,59}$'::text)), CONSTRAINT "credit_packs_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 80))), CONSTRAINT "credit_packs_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."credit_packs" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."credit_packs" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."disputes" ("id" text NOT NULL, "user_id" uuid NOT NULL, "payment_id" text NOT NULL, "amount" bigint NOT NULL, "currency" text NOT NULL, "status" text NOT NULL, "reason" text, "created_at" timestamp with time zone NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "disputes_amount_check" CHECK ((amount >= 0)), CONSTRAINT "disputes_currency_check" CHECK ((currency ~ '^[a-z]{3}$'::text)), CONSTRAINT "disputes_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "disputes_pkey" PRIMARY KEY (id), CONSTRAINT "disputes_reason_check" CHECK ((length(reason) <= 80)), CONSTRAINT "disputes_status_check" CHECK (((length(status) >= 1) AND (length(status) <= 40))));

ALTER TABLE "public"."disputes" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."disputes" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."payments" ("id" text NOT NULL, "user_id" uuid NOT NULL, "kind" text NOT NULL, "status" text NOT NULL, "description" text NOT NULL, "amount" bigint NOT NULL, "amount_refunded" bigint NOT NULL DEFAULT 0, "amount_disputed" bigint NOT NULL DEFAULT 0, "currency" text NOT NULL, "credits" bigint NOT NULL DEFAULT 0, "credits_clawed_back" bigint NOT NULL DEFAULT 0, "subscription_id" text, "payment_intent_id" text, "pay_url" text, "next_attempt_at" timestamp with time zone, "paid_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "payments_amount_disputed_check" CHECK ((amount_disputed >= 0)), CONSTRAINT "payments_amount_refunded_check" CHECK ((amount_refunded >= 0)), CONSTRAINT "payments_credits_check" CHECK ((credits >= 0)), CONSTRAINT "payments_credits_clawed_back_check" CHECK ((credits_clawed_back >= 0)), CONSTRAINT "payments_currency_check" CHECK ((currency ~ '^[a-z]{3}$'::text)), CONSTRAINT "payments_description_check" CHECK (((length(description) >= 1) AND (length(description) <= 200))), CONSTRAINT "payments_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "payments_kind_check" CHECK ((kind = ANY (ARRAY['subscription'::text, 'credit_pack'::text]))), CONSTRAINT "payments_pay_url_check" CHECK ((length(pay_url) <= 4000)), CONSTRAINT "payments_payment_intent_id_check" CHECK ((length(payment_intent_id) <= 255)), CONSTRAINT "payments_pkey" PRIMARY KEY (id), CONSTRAINT "payments_status_check" CHECK ((status = ANY (ARRAY['open'::text, 'processing'::text, 'paid'::text, 'failed'::text, 'void'::text]))), CONSTRAINT "payments_subscription_id_check" CHECK ((length(subscription_id) <= 255)));

ALTER TABLE "public"."payments" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."payments" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."plan_features" ("plan_id" text NOT NULL, "feature" text NOT NULL, CONSTRAINT "plan_features_feature_check" CHECK ((feature ~ '^[a-z][a-z0-9_]{0,39}$'::text)), CONSTRAINT "plan_features_pkey" PRIMARY KEY (plan_id, feature));

ALTER TABLE "public"."plan_features" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."plan_features" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."plan_prices" ("id" text NOT NULL, "plan_id" text NOT NULL, "interval" text NOT NULL, "amount" bigint NOT NULL, "currency" text NOT NULL DEFAULT 'usd'::text, "trial_days" integer NOT NULL DEFAULT 0, "credits" bigint NOT NULL DEFAULT 0, "credits_expire" boolean NOT NULL DEFAULT true, "enabled" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "plan_prices_amount_check" CHECK ((amount >= 0)), CONSTRAINT "plan_prices_credits_check" CHECK ((credits >= 0)), CONSTRAINT "plan_prices_currency_check" CHECK ((currency ~ '^[a-z]{3}$'::text)), CONSTRAINT "plan_prices_id_check" CHECK ((id ~ '^[a-z][a-z0-9_]{0,59}$'::text)), CONSTRAINT "plan_prices_interval_check" CHECK (("interval" = ANY (ARRAY['month'::text, 'year'::text]))), CONSTRAINT "plan_prices_pkey" PRIMARY KEY (id), CONSTRAINT "plan_prices_trial_days_check" CHECK (((trial_days >= 0) AND (trial_days <= 730))));

ALTER TABLE "public"."plan_prices" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."plan_prices" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."refunds" ("id" text NOT NULL, "user_id" uuid NOT NULL, "payment_id" text NOT NULL, "amount" bigint NOT NULL, "currency" text NOT NULL, "status" text NOT NULL, "created_at" timestamp with time zone NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "refunds_amount_check" CHECK ((amount >= 0)), CONSTRAINT "refunds_currency_check" CHECK ((currency ~ '^[a-z]{3}$'::text)), CONSTRAINT "refunds_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "refunds_pkey" PRIMARY KEY (id), CONSTRAINT "refunds_status_check" CHECK (((length(status) >= 1) AND (length(status) <= 40))));

ALTER TABLE "public"."refunds" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."refunds" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."subscriptions" ("id" text NOT NULL, "user_id" uuid NOT NULL, "plan_id" text, "plan_price_id" text, "status" text NOT NULL, "quantity" bigint NOT NULL DEFAULT 1, "current_period_start" timestamp with time zone, "current_period_end" timestamp with time zone, "trial_start" timestamp with time zone, "trial_end" timestamp with time zone, "cancel_at" timestamp with time zone, "cancel_at_period_end" boolean NOT NULL DEFAULT false, "canceled_at" timestamp with time zone, "ended_at" timestamp with time zone, "past_due_since" timestamp with time zone, "is_returned" boolean NOT NULL DEFAULT false, "is_collection_paused" boolean NOT NULL DEFAULT false, "started_at" timestamp with time zone NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "subscriptions_id_check" CHECK (((length(id) >= 1) AND (length(id) <= 255))), CONSTRAINT "subscriptions_pkey" PRIMARY KEY (id), CONSTRAINT "subscriptions_quantity_check" CHECK ((quantity >= 0)), CONSTRAINT "subscriptions_status_check" CHECK (((length(status) >= 1) AND (length(status) <= 40))));

ALTER TABLE "public"."subscriptions" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."subscriptions" FORCE ROW LEVEL SECURITY;

ALTER TABLE "private"."credit_lots" ADD COLUMN "expired" bigint NOT NULL DEFAULT 0;

CREATE TYPE "private"."stripe_grant" AS ("key" text, "amount" bigint, "reason" text, "lot_kind" text, "expires_at" timestamp with time zone);

CREATE OR REPLACE FUNCTION private.add_credit_entry(user_id uuid, amount bigint, kind text, reason text, idempotency_key text, lot_kind text DEFAULT 'promotional'::text, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS public.credit_entries
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_account private.accounts := private.lock_account(add_credit_entry.user_id);
  v_entry public.credit_entries;
  v_id uuid := private.uuid_v7();
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
  if amount < 0 and kind <> 'clawback' and v_account.balance - v_account.held + amount < 0 then
    perform private.raise_error('insufficient_credits',
      format('%s credits are needed, %s are free.', -amount, greatest(v_account.balance - v_account.held, 0)));
  end if;
  if amount > 0 then
    -- What was spent before came from the lots of before.
    v_account := private.burn_credits(v_account);
    insert into private.credit_lots (id, user_id, kind, amount, remaining, expires_at)
    values (v_id, add_credit_entry.user_id, lot_kind, add_credit_entry.amount, add_credit_entry.amount,
      coalesce(add_credit_entry.expires_at, 'infinity'));
  end if;
  update private.accounts a set
    balance = a.balance + add_credit_entry.amount,
    unburned = a.unburned + greatest(-add_credit_entry.amount, 0),
    clawed_back = a.clawed_back + case when kind = 'clawback' then -add_credit_entry.amount else 0 end,
    next_expiry_at = least(a.next_expiry_at, add_credit_entry.expires_at)
  where a.user_id = add_credit_entry.user_id;
  insert into public.credit_entries (id, user_id, amount, kind, reason, idempotency_key, balance_after)
  values (
    v_id, add_credit_entry.user_id, add_credit_entry.amount, add_credit_entry.kind, add_credit_entry.reason,
    add_credit_entry.idempotency_key, v_account.balance + add_credit_entry.amount)
  returning * into v_entry;
  return v_entry;
end $function$;

CREATE OR REPLACE FUNCTION private.admit_plain_ai_calls(requests jsonb, OUT positions bigint[], OUT answers json[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
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
      join private.entitled_profiles p on p.id = r.user_id and p.status = 'active'
      join auth.users u on u.id = r.user_id and not u.is_anonymous and coalesce(u.banned_until <= now(), true)
      join private.live_sessions s on s.id = r.session_id and s.user_id = r.user_id
    where r.api_key_hash is null and r.idempotency_key is null and r.credential_id is null and length(r.request_id) between 1 and 64
      and least(r.prompt_tokens_max, r.max_output_tokens - 1, r.choices - 1, r.images, r.request_bytes) >= 0 and r.prompt_tokens_max >= 0
      and (s.aal = 'aal2' or not exists (select from auth.mfa_factors f where f.user_id = r.user_id and f.status = 'verified'))
      and not exists (select from public.limit_overrides o where o.user_id = r.user_id)
  ), routes as materialized (
    -- What calls have in common is looked up once for all of them.
    select c.plan_id, c.endpoint, c.model, c.max_output_tokens as wish, e.slot, v.id as provider_id, x as price, m.credits_per_call as credits,
      w.output_tokens, now() + make_interval(
        secs => v.total_timeout_ms / 1000.0 + (select g.value::integer from private.settings g where g.key = 'ai.hold_grace_seconds')) as expires_at,
      json_build_array(json_build_object(
        'model', m.id, 'upstream_model', m.upstream_id, 'max_output_tokens', w.output_tokens, 'provider', to_jsonb(v) - 'enabled')) as answer
    from (select distinct d.plan_id, d.endpoint, d.model, d.max_output_tokens from calls d) c
      join (values ('chat.completions', 'chat', 2), ('embeddings', 'embedding', 3), ('images.generations', 'image', 4)) e (endpoint, kind, slot)
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
        case when (a.counts).resets_at[1] > now() then (a.counts).used[1] else 0 end as requests,
        case when (a.counts).resets_at[w.slot] > now() then (a.counts).used[w.slot] else 0 end as route_requests) k
    where a.next_expiry_at > now() and a.balance - a.held >= w.credits
      and (a.counts).resets_at[5] > now() and (a.counts).resets_at[6] > now()
      and (a.counts).resets_at[7] > now() and (a.counts).resets_at[8] > now()
      and k.requests + w.calls <= l.requests
      and k.route_requests + w.calls <= case w.slot when 2 then l.chats when 3 then l.embeddings else l.images end
      and (a.counts).held[5] + w.calls <= l.concurrency
      and (a.counts).used[6] + (a.counts).held[6] + w.calls <= l.calls
      and (a.counts).used[7] + (a.counts).held[7] + w.tokens <= l.tokens
      and (a.counts).used[8] + (a.counts).held[8] + w.micros <= l.micros
  ), spent as (
    update private.spend_shards s set left_micros = s.left_micros - f.micros
    from (select sum(g.micros)::bigint as micros from fitting g) f
    where s.month = date_trunc('month', now() at time zone 'UTC')::date and s.shard = pg_backend_pid() % 128 and s.left_micros >= f.micros
    returning true as is_enough
  ), taken as (
    update private.accounts a set
      held = a.held + f.credits,
      counts.used[1] = case when (a.counts).resets_at[1] > now() then (a.counts).used[1] else 0 end + f.calls,
      counts.resets_at[1] = case when (a.counts).resets_at[1] > now() then (a.counts).resets_at[1] else now() + interval '1 minute' end,
      counts.used[f.slot] = case when (a.counts).resets_at[f.slot] > now() then (a.counts).used[f.slot] else 0 end + f.calls,
      counts.resets_at[f.slot] = case when (a.counts).resets_at[f.slot] > now() then (a.counts).resets_at[f.slot] else now() + interval '1 minute' end,
      counts.held[5] = (a.counts).held[5] + f.calls,
      counts.held[6] = (a.counts).held[6] + f.calls,
      counts.held[7] = (a.counts).held[7] + f.tokens,
      counts.held[8] = (a.counts).held[8] + f.micros
    from fitting f
    where a.user_id = f.user_id and (select s.is_enough from spent s)
    returning a.user_id, a.balance - a.held as credits, (a.counts).resets_at[6] as day_resets_at, (a.counts).resets_at[7] as month_resets_at,
      (select coalesce(json_agg(private.limit_row(v.l, a.counts)), '[]') from (values
        (row(1, 'ai_requests', 'minute', false, f.limit_requests)::private.meter_limit),
        (row(6, 'ai_calls', 'day', true, f.limit_calls)::private.meter_limit),
        (row(7, 'ai_tokens', 'month', true, f.limit_tokens)::private.meter_limit)) v (l)
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
end $function$;

CREATE OR REPLACE FUNCTION private.apply_stripe_event(event_id text, attempt integer, readings jsonb)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_object text;
  v_ours integer;
  v_state text;
begin
  select e.object into v_object from private.stripe_events e
  where e.id = apply_stripe_event.event_id and e.state = 'waiting' and e.attempts = apply_stripe_event.attempt
  for no key update;
  if not found then
    return 'superseded';
  end if;
  select count(*) into v_ours from private.apply_stripe_readings(apply_stripe_event.readings) r
  where r.outcome <> 'unknown_customer';
  if v_object = 'radar.early_fraud_warning' then
    perform private.warn_of_fraud(e) from private.stripe_events e where e.id = apply_stripe_event.event_id;
    v_ours := v_ours + 1;
  end if;
  v_state := case when v_ours > 0 then 'applied' else 'ignored' end;
  update private.stripe_events e set
    state = v_state, finished_at = now(), error = null,
    -- Disputes and refunds do not name the customer; what was read of them does.
    customer_id = coalesce(e.customer_id, jsonb_path_query_first(apply_stripe_event.readings, '$[*].customer_id ? (@ != null)') #>> '{}')
  where e.id = apply_stripe_event.event_id;
  return v_state;
end $function$;

CREATE OR REPLACE FUNCTION private.apply_stripe_readings(readings jsonb)
 RETURNS TABLE(object text, id text, outcome text)
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_objects private.stripe_objects[] := array(
    select private.stripe_object(r.reading)
    from jsonb_array_elements(coalesce(apply_stripe_readings.readings, '[]')) with ordinality r (reading, place) order by r.place);
  v_kept record;
  v_stored private.stripe_objects;
  v_outcomes text[];
  v_owners uuid[];
  v_place integer;
  v_user_id uuid;
begin
  perform private.lock_stripe_objects(array(
    select o.customer_id from unnest(v_objects) o
    union select unnest(o.payment_intent_ids) from unnest(v_objects) o
    -- Whose payments these refunds and disputes are of: what they paid for may end with them.
    union select p.customer_id from private.stripe_objects p
    where p.payment_intent_ids && array(select unnest(o.payment_intent_ids) from unnest(v_objects) o) and p.payment_intent_ids <> '{}'
    union select o.id from unnest(v_objects) o where o.customer_id is null));
  -- Who is being erased at this moment is gone before anything is stored; who is not, waits to be until this is done.
  perform from auth.users u
  where u.id in (select c.user_id from private.stripe_customers c where c.id in (select o.customer_id from unnest(v_objects) o))
  order by u.id for key share;
  -- Accounts are locked on the way, by linking, too: all at once, in the order in which calls of the AI gateway lock them.
  perform from private.accounts a
  where a.user_id in (
    select c.user_id from private.stripe_customers c where c.id in (select o.customer_id from unnest(v_objects) o)
    union all
    select case when pg_input_is_valid(o.user_id, 'uuid') then o.user_id::uuid end
    from (
      select o.user_id from unnest(v_objects) o
      union all
      select o.user_id from private.stripe_objects o where o.customer_id in (select n.customer_id from unnest(v_objects) n)) o
    where o.user_id is not null)
  order by a.user_id for no key update;
  for v_place in 1..cardinality(v_objects) loop
    v_kept := private.store_stripe_object(v_objects[v_place]);
    v_objects[v_place] := v_kept.stored;
    v_outcomes[v_place] := v_kept.outcome;
  end loop;
  -- All are stored before anything is made of them, and what is made is made of what is stored: neither their order among
  -- themselves matters, nor whether one of them is there in an older reading, too.
  for v_place in 1..cardinality(v_objects) loop
    select o.* into v_stored from private.stripe_objects o where o.id = (v_objects[v_place]).id;
    v_objects[v_place] := v_stored;
    v_owners[v_place] := private.link_stripe_customer_by_metadata((v_objects[v_place]).customer_id);
  end loop;
  -- In the order of users, for accounts are locked on the way.
  for v_place in select p from generate_subscripts(v_objects, 1) p order by v_owners[p], p loop
    object := (v_objects[v_place]).object;
    id := (v_objects[v_place]).id;
    outcome := private.project_stripe_reading(v_objects[v_place], v_owners[v_place], v_outcomes[v_place]);
    v_outcomes[v_place] := outcome;
    return next;
  end loop;
  for v_user_id in
    select distinct v_owners[p] from generate_subscripts(v_objects, 1) p
    where v_owners[p] is not null and v_outcomes[p] = 'changed' and (v_objects[p]).object in ('customer', 'subscription', 'invoice')
    order by 1
  loop
    perform private.refresh_entitlement(v_user_id);
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION private.burn_lots_of(user_id uuid, keys text[], amount bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lot private.credit_lots;
  v_part bigint;
  v_left bigint := amount;
begin
  for v_lot in
    select l.* from private.open_lots(burn_lots_of.user_id) l
    where l.id in (
      select e.id from public.credit_entries e where e.user_id = burn_lots_of.user_id and e.idempotency_key = any (burn_lots_of.keys))
    order by l.expires_at, l.id
  loop
    v_part := least(v_lot.remaining, v_left);
    update private.credit_lots l set remaining = l.remaining - v_part where l.id = v_lot.id;
    v_left := v_left - v_part;
    exit when v_left = 0;
  end loop;
  update private.accounts a set unburned = a.unburned - (burn_lots_of.amount - v_left) where a.user_id = burn_lots_of.user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.bury_stripe_event(event private.stripe_events, error text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  update private.stripe_events e set state = 'dead', finished_at = now(), error = left(bury_stripe_event.error, 500)
  where e.id = (event).id;
  perform private.raise_security_event(
    type => 'stripe_event_dead', severity => 'high', user_id => null, dedupe_key => left((event).id, 200),
    details => jsonb_build_object('event_id', (event).id, 'type', (event).type, 'attempts', (event).attempts));
end $function$;

CREATE OR REPLACE FUNCTION private.call_apply_stripe_events()
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if exists (select from private.stripe_events e where e.state = 'waiting' and e.next_attempt_at <= now()) then
    return private.call_jobs_function('apply-stripe-events');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.call_reconcile_stripe()
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if exists (select from private.stripe_customers) then
    return private.call_jobs_function('reconcile-stripe');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.call_sync_portfolios()
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if exists (
    select from private.portfolio_syncs s
      join public.credentials c on c.id = s.credential_id and c.status = 'active'
      join private.entitled_profiles p on p.id = s.user_id and p.status = 'active'
      join public.plan_features f on f.plan_id = p.plan_id and f.feature = 'portfolio_sync'
    where s.next_sync_at <= now() and (s.leased_until is null or s.leased_until <= now()))
  then
    return private.call_jobs_function('sync-portfolios');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.change_credits(user_id uuid, amount bigint, kind text, reason text, idempotency_key text, lot_kind text DEFAULT 'promotional'::text, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
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
  if change_credits.idempotency_key ~ '^(sign_up$|ai_call:|expiry:|stripe:)' then
    perform private.raise_error('invalid_request_error',
      'idempotency_key must not be sign_up or begin with ai_call:, expiry: or stripe: (the ledger''s own keys).');
  end if;
  if change_credits.lot_kind is null or change_credits.lot_kind not in ('promotional', 'monthly', 'purchased') then
    perform private.raise_error('invalid_request_error', 'kind must be promotional, monthly or purchased.');
  end if;
  if change_credits.expires_at <= now() then
    perform private.raise_error('invalid_request_error', 'expires_at must be in the future, or null for credits that do not expire.');
  end if;
  v_entry := private.add_credit_entry(
    change_credits.user_id,
    case when change_credits.kind in ('deduction', 'clawback') then -change_credits.amount else change_credits.amount end,
    change_credits.kind, change_credits.reason, change_credits.idempotency_key, change_credits.lot_kind,
    change_credits.expires_at);
  return jsonb_build_object('entry_id', v_entry.id, 'balance', v_entry.balance_after);
end $function$;

CREATE OR REPLACE FUNCTION private.check_account(user_id uuid, session_id uuid, by_api_key boolean DEFAULT false, OUT refusal jsonb, OUT plan_id text, OUT time_zone text, OUT signed_up_at timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_account record;
begin
  select p.status, p.plan_id, p.quota_time_zone, coalesce(u.created_at, p.created_at) as signed_up_at,
    u.banned_until > now() as is_banned, u.is_anonymous, s.id is not null as has_session,
    s.aal is distinct from 'aal2' and exists (
      select from auth.mfa_factors f where f.user_id = p.id and f.status = 'verified') as lacks_factor
  into v_account
  from private.entitled_profiles p
    join auth.users u on u.id = p.id
    left join private.live_sessions s on s.id = check_account.session_id and s.user_id = p.id
  where p.id = check_account.user_id;
  plan_id := v_account.plan_id;
  time_zone := v_account.quota_time_zone;
  signed_up_at := v_account.signed_up_at;
  if v_account.status is null or v_account.status = 'deleted' or not (v_account.has_session or by_api_key) then
    refusal := jsonb_build_object('code', 'invalid_api_key', 'message',
      case when by_api_key then 'There is no such account.' else 'This session has ended. Sign in again.' end);
  elsif v_account.status = 'suspended' or v_account.is_banned then
    refusal := jsonb_build_object('code', 'account_suspended', 'message', 'This account is suspended.');
  elsif v_account.status <> 'active' or v_account.is_anonymous then
    refusal := jsonb_build_object('code', 'account_pending', 'message', 'Confirm your e-mail address first.');
  elsif v_account.lacks_factor and not by_api_key then
    refusal := jsonb_build_object('code', 'mfa_required', 'message', 'Sign in with your second factor first.');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.check_buyer(user_id uuid, session_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_refusal jsonb := (private.check_account(check_buyer.user_id, check_buyer.session_id)).refusal;
begin
  if v_refusal is not null then
    perform private.raise_error(v_refusal ->> 'code', v_refusal ->> 'message');
  end if;
  -- Each request asks Stripe for something, and Stripe limits us all together.
  perform private.consume(check_buyer.user_id, 'billing_requests', 'minute', 1);
  perform private.consume(check_buyer.user_id, 'billing_requests', 'day', 1);
end $function$;

CREATE OR REPLACE FUNCTION private.claim_stripe_events(batch_size integer DEFAULT 10)
 RETURNS TABLE(id text, type text, attempt integer, object text, object_id text, account text, payload jsonb)
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_max integer := (private.setting('billing.max_attempts'))::integer;
  v_event private.stripe_events;
begin
  for v_event in
    select e.* from private.stripe_events e
    where e.id in (
        select x.id from private.stripe_events x where x.state = 'waiting' and x.next_attempt_at <= now() order by x.next_attempt_at limit 1000)
      and e.state = 'waiting' and e.next_attempt_at <= now() and e.attempts - e.attempts_before_retry >= v_max
    for update skip locked
  loop
    perform private.bury_stripe_event(v_event, coalesce(v_event.error, 'nobody came back from the last try'));
  end loop;
  return query
    with due as (
      select e.id, e.next_attempt_at, e.error is null and e.attempts > e.attempts_before_retry as is_lost
      from private.stripe_events e
      where e.state = 'waiting' and e.next_attempt_at <= now()
      order by e.next_attempt_at, e.id limit least(claim_stripe_events.batch_size, 1000)
      for update skip locked
    ), claimed as (
      -- One from whose last try nobody came back may be what ended the worker: alone it takes no other with it.
      select d.id from due d, (select f.id, f.is_lost from due f order by f.next_attempt_at, f.id limit 1) first
      where case when first.is_lost then d.id = first.id else not d.is_lost end
    )
    update private.stripe_events e set
      attempts = e.attempts + 1,
      error = null,
      next_attempt_at = now() + make_interval(secs => (private.setting('billing.lease_seconds'))::integer)
    from claimed c
    where e.id = c.id
    returning e.id, e.type, e.attempts, e.object, e.object_id, e.account, e.payload;
end $function$;

CREATE OR REPLACE FUNCTION private.clawback_target(credits bigint, returned bigint, paid bigint)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE WHEN ((paid > 0) AND (returned > 0)) THEN (div(((((2)::numeric * (credits)::numeric) * (LEAST(returned, paid))::numeric) + (paid)::numeric), ((2)::numeric * (paid)::numeric)))::bigint ELSE (0)::bigint END;

CREATE OR REPLACE FUNCTION private.close_checkout(session_id text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  update private.checkouts k set closed_at = now() where k.session_id = close_checkout.session_id and k.closed_at is null
$function$;

CREATE OR REPLACE FUNCTION private.consume(user_id uuid, meter text, period text, units bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_account private.accounts := private.lock_account(consume.user_id);
  v_profile record;
  v_limits private.meter_limit[];
  v_taken record;
begin
  select p.plan_id, p.quota_time_zone, coalesce(u.created_at, p.created_at) as signed_up_at into strict v_profile
  from private.entitled_profiles p join auth.users u on u.id = p.id where p.id = consume.user_id;
  select array_agg(l) into v_limits
  from unnest(private.meter_limits(consume.user_id, v_profile.plan_id, array[consume.meter])) l where l.period = consume.period;
  if v_limits is null then
    raise exception 'the meter %/% is not in private.meters', consume.meter, consume.period;
  end if;
  select t.* into v_taken
  from private.take_units(v_account.counts, v_limits, array[consume.units], v_profile.quota_time_zone, v_profile.signed_up_at) t;
  if v_taken.short is not null then
    perform private.raise_error(
      case consume.period when 'day' then 'daily_quota_exceeded' when 'minute' then 'rate_limit_exceeded' else 'insufficient_quota' end,
      format('The limit of %s %s per %s is reached.', greatest(v_limits[1].amount, 0), consume.meter, consume.period),
      format('It resets at %s.', (v_taken.counts).resets_at[v_limits[1].slot]));
  end if;
  update private.accounts a set counts = v_taken.counts where a.user_id = consume.user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.dead_stripe_events()
 RETURNS TABLE(id text, type text, created_at timestamp with time zone, attempts integer, error text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  return query
    select e.id, e.type, e.created_at, e.attempts, e.error from private.stripe_events e
    where e.state = 'dead' order by e.finished_at desc limit 1000;
end $function$;

CREATE OR REPLACE FUNCTION private.delete_old_checkouts()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_deleted integer;
begin
  delete from private.checkouts k where k.expires_at < now() - interval '90 days';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $function$;

CREATE OR REPLACE FUNCTION private.delete_old_stripe_events(batch_size integer DEFAULT 50000)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_before timestamptz := now() - make_interval(days => (private.setting('billing.event_days'))::integer);
  v_deleted bigint;
  v_more bigint;
begin
  delete from private.stripe_events e
  where e.id in (
    select x.id from private.stripe_events x
    where x.finished_at < v_before and x.finished_at is not null and x.state <> 'dead'
    order by x.finished_at limit delete_old_stripe_events.batch_size for update skip locked);
  get diagnostics v_deleted = row_count;
  delete from private.stripe_objects o
  where o.id in (
    select x.id from private.stripe_objects x
    where x.read_at < v_before and x.customer_id is not null
      and (x.object = 'checkout_session' and x.reading ->> 'status' = 'expired'
        or not exists (select from private.stripe_customers c where c.id = x.customer_id))
    limit delete_old_stripe_events.batch_size);
  get diagnostics v_more = row_count;
  return v_deleted + v_more;
end $function$;

CREATE OR REPLACE FUNCTION private.draw_spend(month date, shard integer, micros bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_cap bigint;
  v_month private.spend_months;
  v_left bigint;
  v_draw bigint;
begin
  insert into private.spend_months (month) values (draw_spend.month) on conflict do nothing;
  insert into private.spend_shards (month, shard) values (draw_spend.month, draw_spend.shard) on conflict do nothing;
  select s.left_micros into v_left from private.spend_shards s
  where s.month = draw_spend.month and s.shard = draw_spend.shard for no key update;
  select m.* into v_month from private.spend_months m where m.month = draw_spend.month for no key update;
  -- Not before: who changes the cap holds all of these.
  v_cap := private.spend_cap_micros();
  if v_left + v_cap - v_month.handed_out_micros < micros then
    -- What others have left comes back, but for the shards that are in use at this moment: nobody waits for two.
    with taken as (
      update private.spend_shards s set left_micros = 0
      from (
        select o.shard, o.left_micros from private.spend_shards o
        where o.month = draw_spend.month and o.shard <> draw_spend.shard and o.left_micros <> 0
        order by o.shard for update skip locked) o
      where s.month = draw_spend.month and s.shard = o.shard
      returning o.left_micros
    )
    select v_month.handed_out_micros - coalesce(sum(t.left_micros), 0) into v_month.handed_out_micros from taken t;
  end if;
  -- A thousandth more than is needed, so that the next calls need not come here.
  v_draw := greatest(0, least(
    greatest(micros - v_left, 0) + coalesce(v_cap / 1000, 1000000000),
    coalesce(v_cap - v_month.handed_out_micros, 1000000000000)));
  update private.spend_months m set handed_out_micros = v_month.handed_out_micros + v_draw where m.month = draw_spend.month;
  update private.spend_shards s set
    left_micros = v_left + v_draw - case when v_left + v_draw >= micros then micros else 0 end
  where s.month = draw_spend.month and s.shard = draw_spend.shard;
  return v_left + v_draw >= micros;
end $function$;

CREATE OR REPLACE FUNCTION private.dunning_key(subscription_id text, past_due_since timestamp with time zone, "position" integer)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN ((((('dunning:'::text || subscription_id) || ':'::text) || (EXTRACT(epoch FROM past_due_since))::bigint) || ':'::text) || "position");

CREATE OR REPLACE FUNCTION private.entitlement(user_id uuid, OUT plan_id text, OUT state text, OUT is_paid boolean, OUT subscription_id text, OUT valid_until timestamp with time zone, OUT grace_until timestamp with time zone)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  select p.plan_id, p.state, p.is_paid, p.subscription_id, p.valid_until, p.grace_until
  into plan_id, state, is_paid, subscription_id, valid_until, grace_until
  from private.entitled_profiles p where p.id = entitlement.user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.error_status(code text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE code WHEN 'invalid_request_error'::text THEN 400 WHEN 'invalid_api_key'::text THEN 401 WHEN 'model_not_priced'::text THEN 400 WHEN 'insufficient_credits'::text THEN 402 WHEN 'insufficient_quota'::text THEN 402 WHEN 'in_flight_budget_exhausted'::text THEN 402 WHEN 'account_pending'::text THEN 403 WHEN 'account_suspended'::text THEN 403 WHEN 'insufficient_aal'::text THEN 403 WHEN 'model_not_allowed'::text THEN 403 WHEN 'not_allowed'::text THEN 403 WHEN 'model_not_found'::text THEN 404 WHEN 'not_found'::text THEN 404 WHEN 'idempotency_key_reused'::text THEN 422 WHEN 'daily_quota_exceeded'::text THEN 429 WHEN 'rate_limit_exceeded'::text THEN 429 WHEN 'concurrency_limit'::text THEN 429 WHEN 'mfa_required'::text THEN 403 WHEN 'invalid_signature'::text THEN 401 WHEN 'spend_cap_reached'::text THEN 402 WHEN 'circuit_open'::text THEN 503 WHEN 'idempotency_in_progress'::text THEN 409 WHEN 'idempotency_not_replayable'::text THEN 409 WHEN 'credential_unreadable'::text THEN 409 WHEN 'entitlement_required'::text THEN 402 WHEN 'already_subscribed'::text THEN 409 ELSE NULL::integer END;

CREATE OR REPLACE FUNCTION private.expire_credits(account private.accounts)
 RETURNS private.accounts
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lot private.credit_lots;
  v_part bigint;
begin
  account := private.burn_credits(account);
  account.next_expiry_at := 'infinity';
  for v_lot in select l.* from private.open_lots(account.user_id) l where l.expires_at < 'infinity' loop
    if v_lot.expires_at > now() then
      account.next_expiry_at := least(account.next_expiry_at, v_lot.expires_at);
      exit;
    end if;
    -- What open calls hold does not expire under them; what they do not use does, soon after.
    v_part := least(v_lot.remaining, greatest(account.balance - account.held, 0));
    if v_part < v_lot.remaining then
      account.next_expiry_at := least(account.next_expiry_at, now() + interval '1 minute');
    end if;
    continue when v_part = 0;
    update private.credit_lots l set remaining = l.remaining - v_part, expired = l.expired + v_part where l.id = v_lot.id;
    account.balance := account.balance - v_part;
    insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
    values (account.user_id, -v_part, 'expiry', format('%s credits expired', v_lot.kind),
      format('expiry:%s:%s', v_lot.id, v_lot.remaining), account.balance);
  end loop;
  update private.accounts a set balance = account.balance, next_expiry_at = account.next_expiry_at
  where a.user_id = account.user_id;
  return account;
end $function$;

CREATE OR REPLACE FUNCTION private.fail_checkout(checkout_id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  update private.checkouts k set closed_at = now(), failed = true
  where k.id = fail_checkout.checkout_id and k.closed_at is null and k.session_id is null
$function$;

CREATE OR REPLACE FUNCTION private.fail_stripe_event(event_id text, attempt integer, error text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_event private.stripe_events;
  v_tries integer;
begin
  select e.* into v_event from private.stripe_events e
  where e.id = fail_stripe_event.event_id and e.state = 'waiting' and e.attempts = fail_stripe_event.attempt
  for no key update;
  if not found then
    return 'superseded';
  end if;
  v_tries := v_event.attempts - v_event.attempts_before_retry;
  if v_tries >= (private.setting('billing.max_attempts'))::integer then
    perform private.bury_stripe_event(v_event, fail_stripe_event.error);
    return 'dead';
  end if;
  if v_tries = 10 then
    perform private.raise_security_event(
      type => 'stripe_event_failing', severity => 'medium', user_id => null,
      details => jsonb_build_object('event_id', v_event.id, 'type', v_event.type, 'attempts', v_event.attempts));
  end if;
  update private.stripe_events e set
    error = left(fail_stripe_event.error, 500),
    next_attempt_at = now() + least(interval '5 seconds' * power(2, least(v_tries, 20) - 1), interval '1 hour')
  where e.id = v_event.id;
  return 'waiting';
end $function$;

CREATE OR REPLACE FUNCTION private.feature_refusal(user_id uuid, feature text)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_entitlement record;
  v_hint text;
begin
  select e.state, p.id, p.name into v_entitlement
  from private.entitlement(feature_refusal.user_id) e left join public.plans p on p.id = e.plan_id;
  if exists (select from public.plan_features f where f.plan_id = v_entitlement.id and f.feature = feature_refusal.feature) then
    return null;
  end if;
  v_hint := private.payment_hint(feature_refusal.user_id);
  return jsonb_build_object('code', 'entitlement_required', 'hint', v_hint, 'message', format('%s does not include %s. %s',
    case
      when v_entitlement.state in ('past_due', 'unpaid') then 'Your last payment is overdue, and the plan ' || v_entitlement.name
      when v_entitlement.state in ('canceled', 'expired') then 'Your subscription has ended, and the plan ' || v_entitlement.name
      when v_entitlement.state = 'paused' then 'Your subscription is paused, and the plan ' || v_entitlement.name
      else 'Your plan'
    end, replace(feature_refusal.feature, '_', ' '), v_hint));
end $function$;

CREATE OR REPLACE FUNCTION private.fill_placeholders(template text, data jsonb)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
AS $function$
declare
  v_text text := template;
  v_value record;
begin
  for v_value in select d.key, d.value from jsonb_each_text(data) d loop
    v_text := replace(v_text, '{' || v_value.key || '}', coalesce(v_value.value, ''));
  end loop;
  return regexp_replace(v_text, '\{[a-z_]+\}', '', 'g');
end $function$;

CREATE OR REPLACE FUNCTION private.forget_stripe_customer(customer_id text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  perform private.apply_stripe_readings(jsonb_build_array(jsonb_build_object(
    'object', 'customer', 'id', c.id, 'customer_id', c.id, 'livemode', c.livemode, 'deleted', true, 'read_at', clock_timestamp())))
  from private.stripe_customers c where c.id = forget_stripe_customer.customer_id;
end $function$;

CREATE OR REPLACE FUNCTION private.grant_stripe_credits(owner uuid, grants private.stripe_grant[])
 RETURNS private.stripe_grant[]
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_amount bigint;
begin
  for v_place in 1..cardinality(grants) loop
    select e.amount into v_amount from public.credit_entries e
    where e.user_id = owner and e.idempotency_key = (grants[v_place]).key;
    if found then
      -- What was granted stays, also when the price brings more or less by now.
      grants[v_place].amount := v_amount;
    else
      -- One that has expired already is granted all the same, and expires as the others do.
      perform private.add_credit_entry(
        user_id => owner, amount => (grants[v_place]).amount, kind => 'grant', reason => (grants[v_place]).reason,
        idempotency_key => (grants[v_place]).key, lot_kind => (grants[v_place]).lot_kind, expires_at => (grants[v_place]).expires_at);
    end if;
  end loop;
  return grants;
end $function$;

CREATE OR REPLACE FUNCTION private.has_feature(feature text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  return exists (
    select from public.plan_features f
    where f.plan_id = (private.entitlement(auth.uid())).plan_id and f.feature = has_feature.feature);
end $function$;

CREATE OR REPLACE FUNCTION private.invoice_of_period(subscription public.subscriptions, is_paid boolean)
 RETURNS private.stripe_objects
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_invoice private.stripe_objects;
begin
  select o.* into v_invoice
  from private.stripe_objects o
    cross join lateral (
      select bool_or(not coalesce((l.line ->> 'is_proration')::boolean, false)) as is_whole, max((l.line ->> 'period_end')::bigint) as ends_at
      from jsonb_array_elements(o.reading -> 'lines') l (line)
      where (l.line ->> 'amount')::bigint > 0 and private.stripe_time(l.line, 'period_start') < (subscription).current_period_end
        and private.stripe_time(l.line, 'period_end') > (subscription).current_period_start) p
  where o.subscription_id = (subscription).id and o.object = 'invoice' and o.deleted_at is null and p.ends_at is not null
    and (not invoice_of_period.is_paid or o.reading ->> 'status' = 'paid' and (o.reading ->> 'amount_paid')::bigint > 0)
  -- What a change in mid-period costs is a part of it: only what is for the period itself counts, of that the last.
  order by p.is_whole desc, p.ends_at desc, (o.reading ->> 'created')::bigint desc, o.id desc limit 1;
  return v_invoice;
end $function$;

CREATE OR REPLACE FUNCTION private.is_period_returned(subscription public.subscriptions)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_invoice private.stripe_objects := private.invoice_of_period(subscription, is_paid => true);
begin
  return v_invoice.id is not null and (
    select m.refunded + m.disputed >= (v_invoice.reading ->> 'amount_paid')::bigint
    from private.returned_money(v_invoice.payment_intent_ids) m);
end $function$;

CREATE OR REPLACE FUNCTION private.is_stripe_mismatch(kept private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN (((kept).object = 'checkout_session'::text) AND (owner IS NOT NULL) AND (COALESCE(((kept).user_id <> (owner)::text), false) OR COALESCE((((kept).reading ->> 'client_reference_id'::text) <> (owner)::text), false)));

CREATE OR REPLACE FUNCTION private.keep_retention_clock(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_entitlement record;
  v_ended_at timestamptz;
begin
  -- Also for the job, that a payment of this moment is seen here or takes away what this writes.
  perform pg_advisory_xact_lock(hashtextextended('entitlement:' || keep_retention_clock.user_id, 0));
  v_entitlement := private.entitlement(keep_retention_clock.user_id);
  if v_entitlement.is_paid then
    delete from private.retention_clocks c where c.user_id = keep_retention_clock.user_id;
  -- A pause is no end, and what never began cannot end.
  elsif v_entitlement.state in ('past_due', 'unpaid', 'canceled', 'expired') then
    -- One that is given up as unpaid, or whose money went back, has ended now, whatever ended long before it.
    v_ended_at := case when v_entitlement.state = 'unpaid' then now() else coalesce(greatest(
      (select max(e.ends_at) from private.entitlements e
      where e.user_id = keep_retention_clock.user_id and e.plan_id is not null and e.ends_at <= now()),
      (select max(s.ended_at) from public.subscriptions s
      where s.user_id = keep_retention_clock.user_id and s.status = 'canceled' and s.ended_at <= now())), now()) end;
    insert into private.retention_clocks (user_id, started_at, ends_at)
    values (keep_retention_clock.user_id, v_ended_at,
      v_ended_at + make_interval(days => (private.setting('privacy.days_after_cancellation'))::integer))
    on conflict on constraint retention_clocks_pkey do nothing;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.known_stripe_objects(object text, since timestamp with time zone)
 RETURNS TABLE(id text, read_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select o.id, o.read_at from private.stripe_objects o
  where o.object = known_stripe_objects.object and o.deleted_at is null
    and (o.object <> 'checkout_session' or o.reading ->> 'status' = 'complete')
    and (known_stripe_objects.since is null or coalesce(
      private.stripe_time(o.reading, 'created'), private.stripe_time(o.reading, 'started_at'), 'infinity') >= known_stripe_objects.since)
  order by o.id
$function$;

CREATE OR REPLACE FUNCTION private.lease_portfolio_sync(max_syncs integer DEFAULT 1, of_user uuid DEFAULT NULL::uuid, not_of text[] DEFAULT '{}'::text[])
 RETURNS TABLE(credential_id uuid, user_id uuid, exchange_id text, lease_id uuid, leased_until timestamp with time zone, cursor jsonb, quote_currency text, base_url text, price_asset text, held text[])
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lease interval := make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer);
begin
  if of_user is not null then
    perform private.require_feature(of_user, 'portfolio_sync');
  end if;
  return query
    with due as (
      select s.credential_id, c.provider, e.base_url, e.price_asset
      from private.portfolio_syncs s
        join public.credentials c on c.id = s.credential_id and c.kind = 'exchange' and c.status = 'active'
        join private.exchanges e on e.id = c.provider and e.enabled
        join private.entitled_profiles p on p.id = s.user_id and p.status = 'active'
        join public.plan_features f on f.plan_id = p.plan_id and f.feature = 'portfolio_sync'
      where (s.leased_until is null or s.leased_until <= now()) and c.provider <> all (not_of)
        and (of_user is null or s.user_id = of_user)
        -- Somebody who asks does not wait for the next time, but for the rest after a failure.
        and (s.next_sync_at <= now()
          or (of_user is not null and s.attempts = 0 and s.last_synced_at <= now() - interval '1 minute'))
        and not exists (select from private.exchange_pauses x where x.exchange_id = e.id and x.paused_until > now())
      order by s.next_sync_at limit least(max_syncs, 100)
      for update of s skip locked
    )
    update private.portfolio_syncs s set
      lease_id = gen_random_uuid(), leased_until = now() + v_lease, attempts = s.attempts + 1,
      -- Whoever does not come back is replaced when the lease ends; after the first time, later and later.
      next_sync_at = now() + v_lease + case when s.attempts = 0 then interval '0' else private.portfolio_backoff(s.attempts) end
    from due
    where s.credential_id = due.credential_id
    returning s.credential_id, s.user_id, due.provider, s.lease_id, s.leased_until, s.cursor,
      private.setting('portfolio.quote_currency') #>> '{}', due.base_url, due.price_asset,
      array(select h.asset from public.holdings h where h.credential_id = s.credential_id);
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
    case when r.at > now() then coalesce((a.counts).used[m.slot], 0) else 0 end,
    case when r.at > now() then coalesce((a.counts).held[m.slot], 0) else 0 end,
    case when r.at > now() then r.at
      else private.period_resets_at(l.period, p.quota_time_zone, coalesce(s.created_at, p.created_at), now()) end
  from private.entitled_profiles p
    -- The sign-up, also of users who were there before their profile.
    join auth.users s on s.id = p.id
    left join private.accounts a on a.user_id = p.id
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
    left join private.meters m on m.meter = l.meter and m.period = l.period
    cross join lateral (select (a.counts).resets_at[m.slot] as at) r
  where p.id = limits_of.user_id
$function$;

CREATE OR REPLACE FUNCTION private.link_stripe_customer(user_id uuid, customer_id text, livemode boolean)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_customer_id text;
begin
  insert into private.stripe_customers (id, user_id, livemode)
  values (link_stripe_customer.customer_id, link_stripe_customer.user_id, link_stripe_customer.livemode)
  on conflict do nothing;
  select c.id into v_customer_id from private.stripe_customers c
  where c.user_id = link_stripe_customer.user_id and c.livemode = link_stripe_customer.livemode and c.deleted_at is null;
  if not found then
    raise exception 'the customer % is somebody else''s, or deleted', link_stripe_customer.customer_id;
  end if;
  return v_customer_id;
end $function$;

CREATE OR REPLACE FUNCTION private.link_stripe_customer_by_metadata(customer_id text)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_link private.stripe_customers;
begin
  select c.* into v_link from private.stripe_customers c where c.id = link_stripe_customer_by_metadata.customer_id;
  if found then
    return v_link.user_id;
  end if;
  -- One user, or nobody: two who are named are a question for a human.
  insert into private.stripe_customers (id, user_id, livemode, deleted_at)
  select link_stripe_customer_by_metadata.customer_id, m.user_id, m.livemode, m.deleted_at
  from (
    select min(o.user_id)::uuid as user_id, bool_and((o.reading ->> 'livemode')::boolean) as livemode,
      min(o.deleted_at) filter (where o.object = 'customer') as deleted_at
    from private.stripe_objects o
    where o.customer_id = link_stripe_customer_by_metadata.customer_id and o.object in ('customer', 'subscription', 'checkout_session')
      and coalesce(pg_input_is_valid(o.user_id, 'uuid'), true)
      and (o.object <> 'checkout_session' or coalesce(o.reading ->> 'client_reference_id' = o.user_id, true))
    having count(distinct o.user_id) = 1) m
  where exists (select from auth.users u where u.id = m.user_id)
    and (m.deleted_at is not null or not exists (
      select from private.stripe_customers c where c.user_id = m.user_id and c.livemode = m.livemode and c.deleted_at is null))
  on conflict do nothing;
  select c.* into v_link from private.stripe_customers c where c.id = link_stripe_customer_by_metadata.customer_id;
  return v_link.user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.lock_stripe_objects(keys text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_key bigint;
begin
  -- Shared by all, but for project_stripe_objects.
  perform pg_advisory_xact_lock_shared(hashtextextended('private.stripe_objects', 0));
  for v_key in
    select distinct hashtextextended('private.stripe_objects ' || k.key, 0) from unnest(lock_stripe_objects.keys) k (key)
    where k.key is not null order by 1
  loop
    perform pg_advisory_xact_lock(v_key);
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION private.money_text(amount bigint, currency text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN ((CASE WHEN (currency = ANY (ARRAY['bif'::text, 'clp'::text, 'djf'::text, 'gnf'::text, 'jpy'::text, 'kmf'::text, 'krw'::text, 'mga'::text, 'pyg'::text, 'rwf'::text, 'ugx'::text, 'vnd'::text, 'vuv'::text, 'xaf'::text, 'xof'::text, 'xpf'::text])) THEN (amount)::text WHEN (currency = ANY (ARRAY['bhd'::text, 'jod'::text, 'kwd'::text, 'omr'::text, 'tnd'::text])) THEN (round(((amount)::numeric / 1000.0), 3))::text ELSE (round(((amount)::numeric / 100.0), 2))::text END || ' '::text) || upper(currency));

CREATE OR REPLACE FUNCTION private.move_clawback(owner uuid, payment_id text, target bigint, grants private.stripe_grant[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_key text := 'stripe:payment:' || move_clawback.payment_id || ':';
  v_keys text[] := array(select g.key from unnest(grants) g);
  v_amount bigint;
  v_taken bigint := 0;
  v_wanted bigint;
  v_n integer := 1;
  v_account private.accounts;
begin
  -- Where nothing was granted there is nothing to take, and where that is no longer said the ledger stays as it is.
  if cardinality(grants) = 0 then
    return;
  end if;
  loop
    select e.amount into v_amount from public.credit_entries e where e.user_id = owner and e.idempotency_key = v_key || v_n;
    exit when not found;
    v_taken := v_taken - v_amount;
    v_keys := v_keys || (v_key || v_n);
    v_n := v_n + 1;
  end loop;
  if target = 0 and v_taken = 0 then
    return;
  end if;
  v_account := private.lock_account(owner);
  -- What nobody used until it expired is gone already; what was taken before that stays taken.
  select greatest(target - coalesce(sum(l.expired), 0), least(v_taken, target)) into v_wanted
  from public.credit_entries e join private.credit_lots l on l.id = e.id
  where e.user_id = owner and e.idempotency_key = any (v_keys);
  if v_wanted <> v_taken then
    perform private.burn_credits(v_account);
    perform private.add_credit_entry(
      user_id => owner, amount => v_taken - v_wanted, kind => case when v_wanted > v_taken then 'clawback' else 'refund' end,
      reason => case when v_wanted > v_taken then 'a payment was refunded or disputed' else 'a refund failed or a dispute was won' end,
      idempotency_key => v_key || v_n, lot_kind => (grants[1]).lot_kind,
      expires_at => (select case when bool_and(g.expires_at is not null) then max(g.expires_at) end from unnest(grants) g));
  end if;
  if v_wanted > v_taken then
    perform private.burn_lots_of(owner, v_keys, v_wanted - v_taken);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.my_entitlement(OUT plan_id text, OUT state text, OUT is_paid boolean, OUT subscription_id text, OUT current_period_end timestamp with time zone, OUT grace_until timestamp with time zone, OUT cancel_at timestamp with time zone, OUT trial_end timestamp with time zone, OUT pay_url text)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  select e.plan_id, e.state, e.is_paid, e.subscription_id, s.current_period_end, e.grace_until,
    least(s.cancel_at, case when s.cancel_at_period_end then s.current_period_end end), s.trial_end, private.pay_url(v_user_id)
  into plan_id, state, is_paid, subscription_id, current_period_end, grace_until, cancel_at, trial_end, pay_url
  from private.entitlement(v_user_id) e left join public.subscriptions s on s.id = e.subscription_id;
end $function$;

CREATE OR REPLACE FUNCTION private.note_checkout(checkout_id uuid, session_id text, url text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  update private.checkouts k set session_id = note_checkout.session_id, url = note_checkout.url
  where k.id = note_checkout.checkout_id and k.closed_at is null;
  return found;
end $function$;

CREATE OR REPLACE FUNCTION private.notify_billing(user_id uuid, notice text, dedupe_key text, data jsonb DEFAULT '{}'::jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_notice private.billing_notices;
  v_type text := 'billing_' || notify_billing.notice;
  v_data jsonb := jsonb_build_object('pay_url', private.pay_url(notify_billing.user_id), 'plan', 'your plan')
    || jsonb_strip_nulls(coalesce(notify_billing.data, '{}'));
  v_title text;
  v_body text;
begin
  select n.* into v_notice from private.billing_notices n where n.id = notify_billing.notice;
  if not found then
    return false;
  end if;
  insert into private.billing_notices_sent (user_id, dedupe_key, notice)
  values (notify_billing.user_id, notify_billing.dedupe_key, notify_billing.notice)
  on conflict on constraint billing_notices_sent_pkey do nothing;
  if not found then
    return false;
  end if;
  v_title := left(private.fill_placeholders(v_notice.title, v_data), 200);
  v_body := left(private.fill_placeholders(v_notice.body, v_data), 2000);
  perform private.notify_user(notify_billing.user_id, v_type, v_title, v_body, v_data);
  if v_notice.is_mailed and not private.setting('notifications.mail_types') ? v_type then
    insert into private.mails (user_id, subject, body) values (notify_billing.user_id, v_title, v_body);
  end if;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.open_plan_checkout(wanted private.checkouts, OUT checkout private.checkouts, OUT stale_sessions text[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  select k.* into checkout from private.checkouts k
  where k.user_id = wanted.user_id and k.livemode = wanted.livemode and k.closed_at is null and k.plan_price_id = wanted.plan_price_id
    and k.stripe_price_id = wanted.stripe_price_id and k.trial_days = wanted.trial_days and k.return_urls = wanted.return_urls
    -- Stripe makes no session that ends within half an hour; one that is there is good until shortly before its end.
    and k.expires_at > now() + case when k.session_id is null then interval '35 minutes' else interval '1 minute' end
    and not exists (
      select from private.stripe_customers c
      where c.user_id = k.user_id and c.livemode = k.livemode and c.deleted_at >= k.created_at)
  order by k.created_at desc limit 1;
  with closed as (
    update private.checkouts k set closed_at = now()
    where k.user_id = wanted.user_id and k.livemode = wanted.livemode and k.closed_at is null and k.plan_price_id is not null
      and k.id is distinct from checkout.id
    returning k.session_id
  )
  -- Those whose time is over, too: one that was completed is not known here as long as its event is not.
  select coalesce(array_agg(c.session_id) filter (where c.session_id is not null), '{}')
  into stale_sessions from closed c;
end $function$;

CREATE OR REPLACE FUNCTION private.paid_anew(reading jsonb)
 RETURNS numeric
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select case when l.periods > 0 then least(greatest(l.total / l.periods, 0), 1) else 1 end
    * case when (reading ->> 'total')::numeric > 0
      then least((reading ->> 'amount_due')::numeric / (reading ->> 'total')::numeric, 1) else 1 end
  from (
    select sum((i.line ->> 'amount')::numeric) as total,
      sum(greatest((i.line ->> 'amount')::numeric, 0)) filter (where not coalesce((i.line ->> 'is_proration')::boolean, false)) as periods
    from jsonb_array_elements(reading -> 'lines') i (line)) l
$function$;

CREATE OR REPLACE FUNCTION private.pay_url(user_id uuid)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return coalesce(
    (select p.pay_url from public.payments p join public.subscriptions s on s.id = p.subscription_id
    where p.user_id = pay_url.user_id and p.status = 'open' and p.pay_url is not null
      -- Stripe leaves invoices open when their subscription has ended: who pays one gets nothing for it.
      and s.status not in ('canceled', 'incomplete_expired')
    order by p.created_at limit 1),
    private.setting('billing.pay_url') #>> '{}');
end $function$;

CREATE OR REPLACE FUNCTION private.payment_hint(user_id uuid)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return 'Pay or choose a plan: ' || private.pay_url(user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.payment_of_invoice(kept private.stripe_objects)
 RETURNS public.payments
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_reading jsonb := (kept).reading;
  v_row public.payments;
begin
  v_row.status := case v_reading ->> 'status' when 'open' then case when (kept).deleted_at is null then 'open' else 'void' end when 'paid' then 'paid' when 'void' then 'void' when 'uncollectible' then 'failed' end;
  if (kept).subscription_id is null or v_row.status is null then
    return null;
  end if;
  v_row.id := (kept).id;
  v_row.kind := 'subscription';
  v_row.amount := (v_reading ->> 'total')::bigint;
  v_row.currency := v_reading ->> 'currency';
  v_row.subscription_id := (kept).subscription_id;
  -- The payment that counts: of those that were paid the largest, else the last that was begun.
  select i.payment ->> 'payment_intent_id' into v_row.payment_intent_id
  from jsonb_path_query(v_reading, '$.payments[*]') with ordinality i (payment, place)
  where i.payment ->> 'payment_intent_id' is not null
  order by i.payment ->> 'status' = 'paid' desc, (i.payment ->> 'amount_paid')::bigint desc nulls last, i.place desc limit 1;
  v_row.pay_url := case when v_row.status = 'open' then left(v_reading ->> 'hosted_invoice_url', 4000) end;
  v_row.next_attempt_at := case when v_row.status = 'open' then private.stripe_time(v_reading, 'next_payment_attempt') end;
  v_row.paid_at := private.stripe_time(v_reading, 'paid_at');
  v_row.created_at := private.stripe_time(v_reading, 'created');
  select left(format('%s (%s)', p.name, pp.interval), 200) into v_row.description
  from jsonb_path_query(v_reading, '$.lines[*]') l (line)
    join private.stripe_prices s on s.id = l.line ->> 'price_id'
    join public.plan_prices pp on pp.id = s.plan_price_id
    join public.plans p on p.id = pp.plan_id
  order by (l.line ->> 'is_proration')::boolean, p.position desc, pp.id limit 1;
  v_row.description := coalesce(v_row.description, 'Subscription');
  return v_row;
end $function$;

CREATE OR REPLACE FUNCTION private.payment_of_session(kept private.stripe_objects)
 RETURNS public.payments
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_reading jsonb := (kept).reading;
  v_row public.payments;
begin
  if v_reading ->> 'mode' is distinct from 'payment' or v_reading ->> 'status' is distinct from 'complete' then
    return null;
  end if;
  v_row.id := (kept).id;
  v_row.kind := 'credit_pack';
  v_row.status := case
    when v_reading ->> 'payment_status' in ('paid', 'no_payment_required') then 'paid'
    when v_reading ->> 'payment_intent_status' in ('requires_payment_method', 'canceled') then 'failed'
    else 'processing' end;
  v_row.amount := coalesce((v_reading ->> 'amount_total')::bigint, 0);
  v_row.currency := coalesce(v_reading ->> 'currency', 'usd');
  v_row.payment_intent_id := v_reading ->> 'payment_intent_id';
  v_row.created_at := private.stripe_time(v_reading, 'created');
  v_row.paid_at := case when v_row.status = 'paid' then coalesce(private.stripe_time(v_reading, 'paid_at'), v_row.created_at) end;
  select left(string_agg(k.name, ', ' order by k.id), 200) into v_row.description
  from jsonb_array_elements_text(v_reading -> 'price_ids') i (price_id)
    join private.stripe_prices s on s.id = i.price_id
    join public.credit_packs k on k.id = s.credit_pack_id;
  v_row.description := coalesce(v_row.description, 'Payment');
  return v_row;
end $function$;

CREATE OR REPLACE FUNCTION private.plan_routes(plan private.ai_plan, request jsonb)
 RETURNS private.ai_plan
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.plans_outranked_by(plan_id text)
 RETURNS text[]
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select array_agg(o.id) from public.plans p join public.plans o on o.position <= p.position where p.id = plans_outranked_by.plan_id
$function$;

CREATE OR REPLACE FUNCTION private.prepare_checkout(user_id uuid, session_id uuid, plan_price text, credit_pack text, livemode boolean, return_urls jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_price private.stripe_prices;
  v_wanted private.checkouts;
  v_open record;
  v_checkout private.checkouts;
  v_stale_sessions text[] := '{}';
begin
  perform private.check_buyer(prepare_checkout.user_id, prepare_checkout.session_id);
  v_price := private.stripe_price_to_buy(prepare_checkout.plan_price, prepare_checkout.credit_pack, prepare_checkout.livemode);
  -- Whoever asks twice at once takes turns; the statements below see what the first has done.
  perform pg_advisory_xact_lock(hashtextextended('checkout:' || prepare_checkout.user_id, 0));
  v_wanted.user_id := prepare_checkout.user_id;
  v_wanted.plan_price_id := v_price.plan_price_id;
  v_wanted.credit_pack_id := v_price.credit_pack_id;
  v_wanted.stripe_price_id := v_price.id;
  v_wanted.trial_days := private.trial_days_of(prepare_checkout.user_id, v_price.plan_price_id);
  v_wanted.livemode := prepare_checkout.livemode;
  v_wanted.return_urls := coalesce(prepare_checkout.return_urls, '{}');
  if v_price.plan_price_id is not null then
    if exists (
      select from public.subscriptions s
      where s.user_id = prepare_checkout.user_id
        -- One of another product, sold to the same customer, is in nobody's way.
        and s.plan_id is not null and s.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused')) then
      perform private.raise_error('already_subscribed', 'You have a subscription already.', 'Change or pay it in the billing portal.');
    end if;
    select o.* into v_open from private.open_plan_checkout(v_wanted) o;
    v_checkout := v_open.checkout;
    v_stale_sessions := v_open.stale_sessions;
  end if;
  if v_checkout.id is null then
    insert into private.checkouts (user_id, plan_price_id, credit_pack_id, stripe_price_id, trial_days, livemode, return_urls, expires_at)
    values (v_wanted.user_id, v_wanted.plan_price_id, v_wanted.credit_pack_id, v_wanted.stripe_price_id, v_wanted.trial_days,
      v_wanted.livemode, v_wanted.return_urls, date_trunc('second', now() + interval '1 hour'))
    returning * into v_checkout;
  end if;
  return jsonb_build_object(
    'checkout_id', v_checkout.id, 'stripe_price_id', v_checkout.stripe_price_id, 'trial_days', v_checkout.trial_days,
    'mode', case when v_checkout.plan_price_id is null then 'payment' else 'subscription' end,
    'session_id', v_checkout.session_id, 'url', v_checkout.url, 'expires_at', extract(epoch from v_checkout.expires_at)::bigint,
    'stale_sessions', to_jsonb(v_stale_sessions))
    || private.stripe_customer_of(prepare_checkout.user_id, prepare_checkout.livemode);
end $function$;

CREATE OR REPLACE FUNCTION private.prepare_portal(user_id uuid, session_id uuid, livemode boolean)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_customer_id text;
begin
  perform private.check_buyer(prepare_portal.user_id, prepare_portal.session_id);
  v_customer_id := private.stripe_customer_of(prepare_portal.user_id, prepare_portal.livemode) ->> 'customer_id';
  if v_customer_id is null then
    perform private.raise_error('not_found', 'You have bought nothing yet, so there is nothing to manage.', 'Choose a plan or credits first.');
  end if;
  return v_customer_id;
end $function$;

CREATE OR REPLACE FUNCTION private.project_customer_deletion(kept private.stripe_objects)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid;
  v_subscription private.stripe_objects;
  v_changed boolean;
begin
  update private.stripe_customers c set deleted_at = (kept).deleted_at
  where c.id = (kept).id and c.deleted_at is distinct from (kept).deleted_at
    -- One that is there after all is not the one to buy with when another has taken its place.
    and ((kept).deleted_at is not null or not exists (
      select from private.stripe_customers o where o.user_id = c.user_id and o.livemode = c.livemode and o.deleted_at is null));
  v_changed := found;
  select c.user_id into v_user_id from private.stripe_customers c where c.id = (kept).id;
  for v_subscription in
    select o.* from private.stripe_objects o where o.customer_id = (kept).id and o.object = 'subscription'
  loop
    v_changed := private.project_subscription(v_subscription, v_user_id) or v_changed;
  end loop;
  return v_changed;
end $function$;

CREATE OR REPLACE FUNCTION private.project_payment(kept private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_row public.payments := case (kept).object when 'invoice' then private.payment_of_invoice(kept) else private.payment_of_session(kept) end;
  v_returned record;
  v_grants private.stripe_grant[];
  v_changed boolean;
begin
  if v_row.id is null then
    return false;
  end if;
  v_grants := private.grant_stripe_credits(owner, array(select g from private.stripe_grants_of(kept) g));
  v_row.user_id := owner;
  v_row.credits := (select coalesce(sum(g.amount), 0) from unnest(v_grants) g);
  select r.* into v_returned from private.returned_money((kept).payment_intent_ids) r;
  v_row.amount_refunded := v_returned.refunded;
  v_row.amount_disputed := v_returned.disputed;
  v_row.credits_clawed_back := private.clawback_target(v_row.credits, v_returned.refunded + v_returned.disputed,
    case (kept).object when 'invoice' then ((kept).reading ->> 'amount_paid')::bigint else v_row.amount end);
  v_changed := private.save_payment(v_row);
  v_changed := private.project_returns(kept, owner) or v_changed;
  perform private.move_clawback(owner, v_row.id, v_row.credits_clawed_back, v_grants);
  return v_changed;
end $function$;

CREATE OR REPLACE FUNCTION private.project_returns(kept private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_changed bigint;
  v_more bigint;
begin
  insert into public.refunds as r (id, user_id, payment_id, amount, currency, status, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', o.reading ->> 'status',
    private.stripe_time(o.reading, 'created')
  from private.stripe_objects o
  where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object = 'refund' and o.deleted_at is null
  on conflict on constraint refunds_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(r) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_changed = row_count;
  insert into public.disputes as d (id, user_id, payment_id, amount, currency, status, reason, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', o.reading ->> 'status',
    left(o.reading ->> 'reason', 80), private.stripe_time(o.reading, 'created')
  from private.stripe_objects o
  where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object = 'dispute' and o.deleted_at is null
  on conflict on constraint disputes_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, reason = excluded.reason, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(d) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_more = row_count;
  return v_changed + v_more > 0;
end $function$;

CREATE OR REPLACE FUNCTION private.project_stripe_customer(customer_id text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid;
  v_object private.stripe_objects;
  v_changed bigint := 0;
begin
  select c.user_id into v_user_id from private.stripe_customers c where c.id = project_stripe_customer.customer_id;
  if not found then
    return 0;
  end if;
  for v_object in select o.* from private.stripe_objects o where o.customer_id = project_stripe_customer.customer_id order by o.id loop
    continue when private.is_stripe_mismatch(v_object, v_user_id);
    v_changed := v_changed + coalesce(private.project_stripe_object(v_object, v_user_id), false)::integer;
  end loop;
  if v_object.id is not null then
    perform private.refresh_entitlement(v_user_id);
  end if;
  return v_changed;
end $function$;

CREATE OR REPLACE FUNCTION private.project_stripe_object(kept private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_paid record;
  v_changed boolean := false;
begin
  if (kept).object in ('refund', 'dispute') then
    -- They are the payment's business, and may not name the customer.
    for v_paid in
      select o as kept, c.user_id from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
      where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object in ('invoice', 'checkout_session')
    loop
      owner := v_paid.user_id;
      continue when private.is_stripe_mismatch(v_paid.kept, owner);
      v_changed := private.project_payment(v_paid.kept, owner) or v_changed;
      -- One that does not name its customer has not brought the customer's lock, under which subscriptions are made.
      perform private.lock_stripe_objects(array[(v_paid.kept).customer_id]);
      if private.project_subscription_of(v_paid.kept, owner) then
        perform private.refresh_entitlement(owner);
        v_changed := true;
      end if;
    end loop;
  end if;
  if owner is null then
    return null;
  end if;
  case (kept).object
    when 'customer' then
      return private.project_customer_deletion(kept);
    when 'subscription' then
      return private.project_subscription(kept, owner);
    when 'checkout_session' then
      -- Its id may not have been written down: whoever started it may have crashed after Stripe had it.
      update private.checkouts c set closed_at = now()
      where (c.session_id = (kept).id or c.id = case when pg_input_is_valid((kept).reading ->> 'checkout_id', 'uuid')
          then ((kept).reading ->> 'checkout_id')::uuid end)
        and c.user_id = owner and c.closed_at is null and (kept).reading ->> 'status' in ('complete', 'expired');
      return private.project_payment(kept, owner);
    when 'invoice' then
      v_changed := private.project_payment(kept, owner);
      return private.project_subscription_of(kept, owner) or v_changed;
    else
      return v_changed;
  end case;
end $function$;

CREATE OR REPLACE FUNCTION private.project_stripe_objects(customer_id text DEFAULT NULL::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_customer_id text;
  v_changed bigint := 0;
begin
  if project_stripe_objects.customer_id is null then
    -- Nobody stores a reading meanwhile: one lock in place of one for each customer, of which there may be too many.
    perform pg_advisory_xact_lock(hashtextextended('private.stripe_objects', 0));
  else
    perform private.lock_stripe_objects(array[project_stripe_objects.customer_id]);
  end if;
  for v_customer_id in
    select distinct o.customer_id from private.stripe_objects o
    where o.customer_id is not null and (project_stripe_objects.customer_id is null or o.customer_id = project_stripe_objects.customer_id)
      and not exists (select from private.stripe_customers c where c.id = o.customer_id)
    order by 1
  loop
    perform private.link_stripe_customer_by_metadata(v_customer_id);
  end loop;
  for v_customer_id in
    select c.id from private.stripe_customers c
    where project_stripe_objects.customer_id is null or c.id = project_stripe_objects.customer_id
    order by c.user_id, c.id
  loop
    v_changed := v_changed + private.project_stripe_customer(v_customer_id);
  end loop;
  return v_changed;
end $function$;

CREATE OR REPLACE FUNCTION private.project_stripe_reading(kept private.stripe_objects, owner uuid, outcome text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_changed boolean;
begin
  if outcome = 'older' then
    return outcome;
  end if;
  if private.is_stripe_mismatch(kept, owner) then
    if outcome = 'changed' then
      perform private.raise_security_event(
        type => 'stripe_customer_mismatch', severity => 'high', user_id => owner, dedupe_key => left((kept).id, 200),
        details => jsonb_build_object('object', (kept).object, 'id', (kept).id, 'customer_id', (kept).customer_id));
    end if;
    return 'mismatch';
  end if;
  v_changed := private.project_stripe_object(kept, owner);
  if v_changed is null then
    return 'unknown_customer';
  end if;
  perform private.tell_of_stripe_object(kept);
  return case when v_changed then 'changed' else outcome end;
end $function$;

CREATE OR REPLACE FUNCTION private.project_subscription(kept private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_reading jsonb := (kept).reading;
  v_row public.subscriptions;
  v_gone_at timestamptz;
begin
  if v_reading ->> 'status' is null then
    return false;
  end if;
  select least(o.deleted_at, (kept).deleted_at) into v_gone_at
  from (values ((kept).customer_id)) c (id) left join private.stripe_objects o on o.id = c.id;
  v_row.id := (kept).id;
  v_row.user_id := owner;
  v_row.status := v_reading ->> 'status';
  v_row.trial_start := private.stripe_time(v_reading, 'trial_start');
  v_row.trial_end := private.stripe_time(v_reading, 'trial_end');
  v_row.cancel_at := private.stripe_time(v_reading, 'cancel_at');
  v_row.cancel_at_period_end := coalesce((v_reading ->> 'cancel_at_period_end')::boolean, false);
  v_row.canceled_at := private.stripe_time(v_reading, 'canceled_at');
  v_row.ended_at := private.stripe_time(v_reading, 'ended_at');
  v_row.started_at := private.stripe_time(v_reading, 'started_at');
  if v_gone_at is not null and v_row.status not in ('canceled', 'incomplete_expired') then
    v_row.status := 'canceled';
    v_row.canceled_at := coalesce(v_row.canceled_at, v_gone_at);
    v_row.ended_at := coalesce(v_row.ended_at, v_gone_at);
  end if;
  select
    (array_agg(pp.plan_id order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1],
    (array_agg(pp.id order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1],
    coalesce((array_agg((i.item ->> 'quantity')::bigint order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1], 1),
    (array_agg(private.stripe_time(i.item, 'current_period_start') order by pp.id is null, i.item -> 'current_period_end' desc))[1],
    (array_agg(private.stripe_time(i.item, 'current_period_end') order by pp.id is null, i.item -> 'current_period_end' desc))[1]
  into v_row.plan_id, v_row.plan_price_id, v_row.quantity, v_row.current_period_start, v_row.current_period_end
  from jsonb_array_elements(v_reading -> 'items') i (item)
    left join private.stripe_prices s on s.id = i.item ->> 'price_id'
    left join public.plan_prices pp on pp.id = s.plan_price_id
    left join public.plans p on p.id = pp.plan_id;
  if v_row.status in ('past_due', 'unpaid') then
    -- What was left open before a later one was paid is another debt, and had its grace.
    select coalesce(min(i.due_at) filter (where i.created > coalesce(i.paid, 0)), greatest(max(i.due_at), v_row.current_period_start),
      v_row.started_at)
    into v_row.past_due_since
    from (
      select coalesce(private.stripe_time(o.reading, 'due_at'), private.stripe_time(o.reading, 'created')) as due_at,
        (o.reading ->> 'created')::bigint as created, o.reading ->> 'status' as status, o.deleted_at,
        max((o.reading ->> 'created')::bigint) filter (where o.reading ->> 'status' = 'paid') over () as paid
      from private.stripe_objects o where o.subscription_id = (kept).id and o.object = 'invoice') i
    where i.status = 'open' and i.deleted_at is null;
  end if;
  v_row.is_collection_paused := coalesce((v_reading ->> 'is_paused')::boolean, false) and v_row.status in ('active', 'trialing');
  -- Stripe goes on to the next period all the same, and collects nothing for it.
  if v_row.is_collection_paused and (private.invoice_of_period(v_row, is_paid => false)).reading ->> 'status' <> 'paid' then
    v_row.status := 'paused';
  end if;
  v_row.is_returned := private.is_period_returned(v_row);
  return private.save_subscription(v_row);
end $function$;

CREATE OR REPLACE FUNCTION private.project_subscription_of(invoice private.stripe_objects, owner uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_subscription private.stripe_objects;
begin
  -- One that has no row yet gets it in its own turn.
  select o.* into v_subscription
  from private.stripe_objects o join public.subscriptions s on s.id = o.id
  where o.id = (invoice).subscription_id and o.object = 'subscription';
  return v_subscription.id is not null and private.project_subscription(v_subscription, owner);
end $function$;

CREATE OR REPLACE FUNCTION private.receive_stripe_event(id text, type text, api_version text, livemode boolean, account text, created_at timestamp with time zone, object text, object_id text, payload jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_foreign boolean := receive_stripe_event.account is not null;
  v_customer jsonb := receive_stripe_event.payload #> '{data,object,customer}';
begin
  insert into private.stripe_events (
    id, type, api_version, livemode, account, created_at, object, object_id, customer_id, payload, state, finished_at)
  values (
    receive_stripe_event.id, receive_stripe_event.type, receive_stripe_event.api_version, receive_stripe_event.livemode,
    receive_stripe_event.account, receive_stripe_event.created_at, receive_stripe_event.object, receive_stripe_event.object_id,
    case when receive_stripe_event.object = 'customer' then receive_stripe_event.object_id
      when jsonb_typeof(v_customer) = 'string' then left(v_customer #>> '{}', 255) end,
    receive_stripe_event.payload, case when v_foreign then 'ignored' else 'waiting' end, case when v_foreign then now() end)
  on conflict on constraint stripe_events_pkey do nothing;
  if not found then
    return false;
  end if;
  if v_foreign then
    perform private.raise_security_event(
      type => 'stripe_foreign_account', severity => 'high', user_id => null, dedupe_key => left(receive_stripe_event.account, 200),
      details => jsonb_build_object('account', receive_stripe_event.account, 'event_id', receive_stripe_event.id));
  end if;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.refresh_entitlement(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  -- Who is being erased at this moment is gone before anything of theirs is touched.
  perform from auth.users u where u.id = refresh_entitlement.user_id for key share;
  if not found then
    return;
  end if;
  -- Shared by all, but for tg__refresh_entitlements: a setting or a plan that changes meanwhile is seen here, or sees this.
  perform pg_advisory_xact_lock_shared(hashtextextended('private.entitlements', 0));
  -- Two who refresh at once: the second sees what the first has seen, and more.
  perform pg_advisory_xact_lock(hashtextextended('entitlement:' || refresh_entitlement.user_id, 0));
  delete from private.entitlements e where e.user_id = refresh_entitlement.user_id;
  with claims as materialized (
    select c.* from private.subscription_claims(refresh_entitlement.user_id) c
  ), times as (
    select c.starts_at as at from claims c union select c.ends_at from claims c
  ), spans as (
    select t.at as starts_at, lead(t.at) over (order by t.at) as ends_at from times t
  )
  insert into private.entitlements (user_id, starts_at, ends_at, plan_id, outranks, state, subscription_id, valid_until, grace_until)
  select refresh_entitlement.user_id, s.starts_at, s.ends_at, b.plan_id, private.plans_outranked_by(b.plan_id), b.state, b.subscription_id, b.valid_until, b.grace_until
  from spans s
    cross join lateral (
      select c.* from claims c where c.starts_at <= s.starts_at and c.ends_at >= s.ends_at
      order by c.plan_id is null, case when c.plan_id is not null then c.position end desc,
        c.state in ('past_due', 'unpaid', 'paused', 'incomplete') and c.plan_id is null desc, c.valid_until desc, c.started_at desc, c.subscription_id
      limit 1) b
  where s.ends_at is not null;
  perform private.keep_retention_clock(refresh_entitlement.user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.require_feature(user_id uuid, feature text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_refusal jsonb := private.feature_refusal(require_feature.user_id, require_feature.feature);
begin
  if v_refusal is not null then
    perform private.raise_error(v_refusal ->> 'code', v_refusal ->> 'message', v_refusal ->> 'hint');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.retry_stripe_events(since timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_revived integer;
begin
  update private.stripe_events e set
    state = 'waiting', finished_at = null, attempts_before_retry = e.attempts, next_attempt_at = now()
  where e.state = 'dead' and e.finished_at >= coalesce(retry_stripe_events.since, '-infinity');
  get diagnostics v_revived = row_count;
  if v_revived > 0 then
    perform private.audit(action => 'stripe_event.retry', resource_type => 'stripe_event', resource_id => 'all',
      details => jsonb_build_object('events', v_revived, 'since', retry_stripe_events.since));
  end if;
  return v_revived;
end $function$;

CREATE OR REPLACE FUNCTION private.returned_money(payment_intent_ids text[], OUT refunded bigint, OUT disputed bigint)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  select
    coalesce(sum((o.reading ->> 'amount')::bigint) filter (where o.object = 'refund' and o.reading ->> 'status' not in ('failed', 'canceled')), 0),
    coalesce(sum((o.reading ->> 'amount')::bigint) filter (
      -- Any other, an appeal or what Stripe adds one day, says that the money is with the bank.
      where o.object = 'dispute' and o.reading ->> 'status' not in
        ('won', 'warning_needs_response', 'warning_under_review', 'warning_closed', 'prevented')), 0)
  into refunded, disputed
  from private.stripe_objects o
  where o.payment_intent_ids && returned_money.payment_intent_ids and o.payment_intent_ids <> '{}' and o.object in ('refund', 'dispute');
end $function$;

CREATE OR REPLACE FUNCTION private.revive_stripe_event(id text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_event private.stripe_events;
begin
  perform private.require_admin();
  select e.* into v_event from private.stripe_events e where e.id = revive_stripe_event.id for no key update;
  if not found then
    perform private.raise_error('not_found', 'There is no such event.');
  end if;
  if v_event.state <> 'dead' then
    return v_event.state;
  end if;
  update private.stripe_events e set
    state = 'waiting', finished_at = null, attempts_before_retry = e.attempts, next_attempt_at = now()
  where e.id = v_event.id;
  perform private.audit(action => 'stripe_event.retry', resource_type => 'stripe_event', resource_id => left(v_event.id, 200),
    details => jsonb_build_object('type', v_event.type, 'attempts', v_event.attempts));
  return 'waiting';
end $function$;

CREATE OR REPLACE FUNCTION private.save_payment(payment public.payments)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  payment.updated_at := now();
  insert into public.payments as p select payment.*
  on conflict on constraint payments_pkey do update set
    user_id = excluded.user_id, kind = excluded.kind, status = excluded.status, description = excluded.description,
    amount = excluded.amount, amount_refunded = excluded.amount_refunded, amount_disputed = excluded.amount_disputed,
    currency = excluded.currency, credits = excluded.credits, credits_clawed_back = excluded.credits_clawed_back,
    subscription_id = excluded.subscription_id, payment_intent_id = excluded.payment_intent_id, pay_url = excluded.pay_url,
    next_attempt_at = excluded.next_attempt_at, paid_at = excluded.paid_at, created_at = excluded.created_at,
    updated_at = excluded.updated_at
  where to_jsonb(p) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  return found;
end $function$;

CREATE OR REPLACE FUNCTION private.save_subscription(subscription public.subscriptions)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  subscription.updated_at := now();
  insert into public.subscriptions as s select subscription.*
  on conflict on constraint subscriptions_pkey do update set
    user_id = excluded.user_id, plan_id = excluded.plan_id, plan_price_id = excluded.plan_price_id, status = excluded.status,
    quantity = excluded.quantity, current_period_start = excluded.current_period_start,
    current_period_end = excluded.current_period_end, trial_start = excluded.trial_start, trial_end = excluded.trial_end,
    cancel_at = excluded.cancel_at, cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
    ended_at = excluded.ended_at, past_due_since = excluded.past_due_since,
    is_returned = excluded.is_returned, is_collection_paused = excluded.is_collection_paused, started_at = excluded.started_at,
    updated_at = excluded.updated_at
  where to_jsonb(s) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  return found;
end $function$;

CREATE OR REPLACE FUNCTION private.send_dunning()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_days integer := (private.setting('billing.grace_days'))::integer;
  v_due record;
  v_sent integer := 0;
begin
  for v_due in
    select s.id, s.user_id, s.past_due_since, p.name as plan, d.position, d.notice
    from public.subscriptions s
      left join public.plans p on p.id = s.plan_id
      -- The latest step alone: who missed some, because nothing ran, is not told all of them at once.
      cross join lateral (
        select x.position, x.notice from private.dunning_steps x
        where s.past_due_since + make_interval(days => x.after_days) <= now()
        order by x.after_days desc, x.position desc limit 1) d
    where s.status = 'past_due' and not exists (
      select from private.billing_notices_sent n
      where n.user_id = s.user_id and n.dedupe_key = private.dunning_key(s.id, s.past_due_since, d.position))
    order by s.user_id, s.id
  loop
    begin
      if private.notify_billing(v_due.user_id, v_due.notice, private.dunning_key(v_due.id, v_due.past_due_since, v_due.position),
          jsonb_build_object('subscription_id', v_due.id, 'plan', v_due.plan,
            'date', to_char((v_due.past_due_since + make_interval(days => v_days)) at time zone 'UTC', 'YYYY-MM-DD'))) then
        v_sent := v_sent + 1;
      end if;
    exception when others then
      -- One who cannot be told must not keep the others from it; the next run tries again.
      raise warning 'the owner of % cannot be reminded: % %', v_due.id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_sent;
end $function$;

CREATE OR REPLACE FUNCTION private.set_stripe_price(plan_price text, credit_pack text, stripe_price_id text, product_id text, livemode boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended('stripe_prices', 0));
  update private.stripe_prices p set is_current = false
  where (p.plan_price_id = set_stripe_price.plan_price or p.credit_pack_id = set_stripe_price.credit_pack)
    and p.livemode = set_stripe_price.livemode and p.id <> set_stripe_price.stripe_price_id and p.is_current;
  insert into private.stripe_prices as p (id, plan_price_id, credit_pack_id, product_id, livemode)
  values (set_stripe_price.stripe_price_id, set_stripe_price.plan_price, set_stripe_price.credit_pack, set_stripe_price.product_id,
    set_stripe_price.livemode)
  on conflict (id) do update set is_current = true, product_id = excluded.product_id
  where (p.plan_price_id, p.credit_pack_id, p.livemode) is not distinct from (excluded.plan_price_id, excluded.credit_pack_id, excluded.livemode);
  if not found then
    raise exception 'the Stripe price % is that of another item', set_stripe_price.stripe_price_id;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.start_retention_clocks()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid;
  v_users integer := 0;
begin
  for v_user_id in
    select distinct e.user_id from private.entitlements e
    where e.plan_id is not null and e.ends_at <= now()
      and not exists (select from private.retention_clocks c where c.user_id = e.user_id)
      and not exists (
        select from private.entitlements p
        where p.user_id = e.user_id and p.plan_id is not null and p.starts_at <= now() and p.ends_at > now())
    order by 1
  loop
    perform private.keep_retention_clock(v_user_id);
    v_users := v_users + 1;
  end loop;
  return v_users;
end $function$;

CREATE OR REPLACE FUNCTION private.store_stripe_object(kept private.stripe_objects, OUT stored private.stripe_objects, OUT outcome text)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_old private.stripe_objects;
  v_newest private.stripe_objects := kept;
begin
  select o.* into v_old from private.stripe_objects o where o.id = (kept).id;
  if not found then
    insert into private.stripe_objects select kept.*;
    stored := kept;
    outcome := 'changed';
    return;
  end if;
  -- What was read at the same moment is ordered by what it says, so that the order of arrival does not decide.
  -- One that the database's clock, when it was ahead, has put into the future loses: it would win until then.
  if v_old.read_at <= clock_timestamp() + interval '1 minute'
    and (kept.read_at, kept.deleted_at is not null, kept.reading) < (v_old.read_at, v_old.deleted_at is not null, v_old.reading) then
    v_newest := v_old;
  end if;
  stored := v_newest;
  -- A customer that is deleted has lost its metadata.
  stored.user_id := coalesce(v_newest.user_id, v_old.user_id, kept.user_id);
  stored.customer_id := coalesce(v_newest.customer_id, v_old.customer_id, kept.customer_id);
  if v_newest.deleted_at is not null then
    stored.deleted_at := least(kept.deleted_at, v_old.deleted_at);
  end if;
  outcome := case
    when stored.reading <> v_old.reading or stored.deleted_at is distinct from v_old.deleted_at then 'changed'
    when v_newest.read_at > kept.read_at or v_newest.reading <> kept.reading then 'older'
    else 'same' end;
  if stored is distinct from v_old then
    update private.stripe_objects o set
      customer_id = stored.customer_id, subscription_id = stored.subscription_id, payment_intent_ids = stored.payment_intent_ids,
      user_id = stored.user_id, reading = stored.reading, read_at = stored.read_at, deleted_at = stored.deleted_at
    where o.id = stored.id;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.stripe_customer_of(user_id uuid, livemode boolean)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select jsonb_build_object(
    'customer_id', min(c.id) filter (where c.deleted_at is null),
    'customer_key', format('customer:%s:%s:%s', stripe_customer_of.user_id, count(*) filter (where c.deleted_at is not null), (
      select count(*) from private.checkouts k
      where k.user_id = stripe_customer_of.user_id and k.livemode = stripe_customer_of.livemode and k.failed)))
  from private.stripe_customers c
  where c.user_id = stripe_customer_of.user_id and c.livemode = stripe_customer_of.livemode
$function$;

CREATE OR REPLACE FUNCTION private.stripe_grants_of(kept private.stripe_objects)
 RETURNS SETOF private.stripe_grant
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_reading jsonb := (kept).reading;
  v_share numeric;
begin
  if (kept).object = 'invoice' and v_reading ->> 'status' = 'paid'
    and v_reading ->> 'billing_reason' in ('subscription_create', 'subscription_cycle', 'subscription_update') then
    v_share := private.paid_anew(v_reading);
    return query
      select 'stripe:line:' || (l.line ->> 'id'), n.credits, left(format('%s credits of the plan', p.name), 200), 'monthly',
        case when pp.credits_expire then private.stripe_time(l.line, 'period_end') end
      from jsonb_array_elements(v_reading -> 'lines') l (line)
        join private.stripe_prices s on s.id = l.line ->> 'price_id'
        join public.plan_prices pp on pp.id = s.plan_price_id
        join public.plans p on p.id = pp.plan_id
        -- What costs nothing is paid by nothing.
        cross join lateral (
          select trunc(pp.credits * coalesce((l.line ->> 'quantity')::bigint, 1)
            * case when (l.line ->> 'amount')::bigint > 0 then v_share else 1 end)::bigint) n (credits)
      where n.credits > 0 and not coalesce((l.line ->> 'is_proration')::boolean, false)
        -- The line of a trial costs nothing, though its price would. A coupon is not in the line's amount.
        and ((l.line ->> 'amount')::bigint > 0 or pp.amount = 0)
      order by 1;
  elsif (kept).object = 'checkout_session' and v_reading ->> 'mode' = 'payment' and v_reading ->> 'status' = 'complete'
    and v_reading ->> 'payment_status' in ('paid', 'no_payment_required') then
    return query
      select 'stripe:session:' || (kept).id, sum(k.credits * n.quantity)::bigint, left(string_agg(k.name, ', ' order by k.id), 200), 'purchased',
        coalesce(private.stripe_time(v_reading, 'paid_at'), private.stripe_time(v_reading, 'created'))
          + make_interval(days => min(k.expires_after_days))
      from jsonb_array_elements_text(v_reading -> 'price_ids') with ordinality i (price_id, place)
        join private.stripe_prices s on s.id = i.price_id
        join public.credit_packs k on k.id = s.credit_pack_id
        cross join lateral (select coalesce((v_reading -> 'quantities' ->> (i.place - 1)::integer)::bigint, 1)) n (quantity)
      where n.quantity > 0
      having count(*) > 0;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.stripe_object(reading jsonb)
 RETURNS private.stripe_objects
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_object private.stripe_objects;
begin
  v_object.id := reading ->> 'id';
  v_object.object := reading ->> 'object';
  v_object.customer_id := case when v_object.object = 'customer' then v_object.id else reading ->> 'customer_id' end;
  v_object.subscription_id := case when v_object.object = 'invoice' then reading ->> 'subscription_id' end;
  v_object.payment_intent_ids := array(
    select reading ->> 'payment_intent_id' where reading ->> 'payment_intent_id' is not null
    union
    select p ->> 'payment_intent_id' from jsonb_path_query(reading, '$.payments[*]') p where p ->> 'payment_intent_id' is not null
    order by 1);
  v_object.user_id := reading ->> 'user_id';
  v_object.reading := reading - 'read_at';
  v_object.read_at := (reading ->> 'read_at')::timestamptz;
  v_object.deleted_at := case when (reading ->> 'deleted')::boolean then v_object.read_at end;
  -- A reading of tomorrow would win over everything until then.
  if v_object.read_at > clock_timestamp() + interval '1 minute' then
    raise exception 'the reading of % lies in the future: %', v_object.id, v_object.read_at;
  end if;
  return v_object;
end $function$;

CREATE OR REPLACE FUNCTION private.stripe_price_to_buy(plan_price text, credit_pack text, livemode boolean)
 RETURNS private.stripe_prices
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_price private.stripe_prices;
begin
  if num_nonnulls(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack) <> 1 then
    perform private.raise_error('invalid_request_error', 'Name one item: either plan_price or credit_pack.');
  elsif not exists (
      select from public.plan_prices p where p.id = stripe_price_to_buy.plan_price and p.enabled
      union all
      select from public.credit_packs c where c.id = stripe_price_to_buy.credit_pack and c.enabled) then
    perform private.raise_error('not_found', format('There is nothing for sale as %s.', coalesce(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack)));
  end if;
  select s.* into v_price from private.stripe_prices s
  where (s.plan_price_id = stripe_price_to_buy.plan_price or s.credit_pack_id = stripe_price_to_buy.credit_pack)
    and s.livemode = stripe_price_to_buy.livemode and s.is_current;
  if not found then
    perform private.raise_error('not_found',
      format('%s cannot be bought yet.', coalesce(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack)),
      'Stripe does not know its price. Run npm run stripe:sync.');
  end if;
  return v_price;
end $function$;

CREATE OR REPLACE FUNCTION private.stripe_time(reading jsonb, field text)
 RETURNS timestamp with time zone
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN to_timestamp(((reading ->> field))::double precision);

CREATE OR REPLACE FUNCTION private.subscription_claims(user_id uuid)
 RETURNS TABLE(subscription_id text, started_at timestamp with time zone, "position" integer, state text, plan_id text, starts_at timestamp with time zone, ends_at timestamp with time zone, valid_until timestamp with time zone, grace_until timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  with known as (
    select s.id, s.status, s.plan_id, p.position, s.started_at, s.is_returned, s.is_collection_paused, t.period_ends_at, t.slack_ends_at, c.cancels_at,
      case when c.cancels_at is null then s.status else 'canceling' end as paid_state
    from public.subscriptions s
      join public.plans p on p.id = s.plan_id
      cross join (select make_interval(days => (private.setting('billing.grace_days'))::integer) as days) g
      cross join lateral (
        select coalesce(case when s.status = 'trialing' then s.trial_end end, s.current_period_end, 'infinity') as ends_at) e
      -- The end of what is paid, and how long we wait for what comes after it. Who owes something has had the first already.
      cross join lateral (
        select case when s.status = 'past_due' then '-infinity' else e.ends_at end as period_ends_at,
          case when s.is_collection_paused then interval '0' else g.days end + case when s.status = 'past_due' then coalesce(s.past_due_since, s.current_period_start, s.started_at) else e.ends_at end
            as slack_ends_at) t
      cross join lateral (
        select least(s.cancel_at, case when s.cancel_at_period_end then e.ends_at end) as cancels_at) c
    where s.user_id = subscription_claims.user_id
  )
  select k.id, k.started_at, k.position, k.paid_state, k.plan_id, '-infinity', least(k.period_ends_at, k.cancels_at),
    least(k.slack_ends_at, k.cancels_at), null
  from known k where k.status in ('trialing', 'active') and not k.is_returned
  union all
  select k.id, k.started_at, k.position, case k.status when 'past_due' then 'past_due' else k.paid_state end, k.plan_id, k.period_ends_at,
    least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at)
  from known k
  where k.status in ('trialing', 'active', 'past_due') and not k.is_returned and k.period_ends_at < least(k.slack_ends_at, k.cancels_at)
  union all
  select k.id, k.started_at, k.position, case
      when k.status in ('trialing', 'active', 'past_due') and k.is_returned then 'unpaid'
      when k.status in ('trialing', 'active', 'past_due') and k.cancels_at <= k.slack_ends_at then 'canceled'
      when k.status in ('trialing', 'active') and k.is_collection_paused then 'paused'
      when k.status in ('trialing', 'active') then 'expired'
      else k.status
    end, null, '-infinity', 'infinity', null, null
  from known k where k.status in ('trialing', 'active', 'past_due', 'paused', 'unpaid', 'canceled', 'incomplete')
$function$;

CREATE OR REPLACE FUNCTION private.tell_of_payment(kept private.stripe_objects)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_reading jsonb := (kept).reading;
  v_tries integer := coalesce((v_reading ->> 'attempt_count')::integer, 0);
  v_key text := format('%s:%s', case (kept).object when 'invoice' then 'invoice' else 'session' end, (kept).id);
  v_row public.payments;
  v_data jsonb;
begin
  select p.* into v_row from public.payments p where p.id = (kept).id;
  v_data := jsonb_strip_nulls(jsonb_build_object(
    'payment_id', v_row.id, 'description', v_row.description, 'amount', private.money_text(v_row.amount, v_row.currency),
    'pay_url', v_row.pay_url, 'date', to_char(v_row.next_attempt_at at time zone 'UTC', 'YYYY-MM-DD')));
  if v_row.kind = 'credit_pack' then
    if v_row.status = 'failed' and v_row.created_at > now() - interval '30 days' then
      perform private.notify_billing(v_row.user_id, 'payment_failed', v_key, v_data);
    end if;
  elsif v_row.status = 'open' and v_tries > 0 and v_reading ->> 'billing_reason' <> 'subscription_create' then
    -- Who pays the first invoice sits in front of it.
    perform private.notify_billing(v_row.user_id,
      case when jsonb_path_exists(v_reading, '$.payments[*] ? (@.payment_intent_status == "requires_action")')
        then 'payment_action_required' else 'payment_failed' end,
      format('%s:attempt:%s', v_key, v_tries), v_data);
  elsif v_row.status = 'paid' and exists (
    select from private.billing_notices_sent n
    where n.user_id = v_row.user_id
      and n.dedupe_key = any (array(select format('%s:attempt:%s', v_key, t) from generate_series(1, least(v_tries, 100)) t))) then
    perform private.notify_billing(v_row.user_id, 'payment_recovered', format('%s:recovered', v_key), v_data);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.tell_of_returns(payment_intent_ids text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_row record;
  v_data jsonb;
begin
  for v_row in
    select o.id, o.object, coalesce(r.user_id, d.user_id) as user_id, p.id as payment_id, p.description,
      coalesce(r.amount, d.amount) as amount, coalesce(r.currency, d.currency) as currency, coalesce(r.status, d.status) as status
    from private.stripe_objects o
      left join public.refunds r on r.id = o.id
      left join public.disputes d on d.id = o.id
      join public.payments p on p.id = coalesce(r.payment_id, d.payment_id)
    where o.payment_intent_ids && tell_of_returns.payment_intent_ids and o.payment_intent_ids <> '{}'
      and coalesce(r.created_at, d.created_at) > now() - interval '120 days'
    order by o.id
  loop
    v_data := jsonb_build_object('payment_id', v_row.payment_id, 'description', v_row.description,
      'amount', private.money_text(v_row.amount, v_row.currency));
    if v_row.object = 'refund' then
      if v_row.status = 'succeeded' then
        perform private.notify_billing(v_row.user_id, 'refunded', 'refund:' || v_row.id, v_data);
      end if;
    elsif v_row.status in ('needs_response', 'under_review') then
      if private.notify_billing(v_row.user_id, 'dispute_opened', format('dispute:%s:opened', v_row.id), v_data) then
        perform private.raise_security_event(
          type => 'payment_disputed', severity => 'medium', user_id => v_row.user_id, dedupe_key => left(v_row.id, 200),
          details => jsonb_build_object('dispute_id', v_row.id, 'payment_id', v_row.payment_id));
      end if;
    elsif v_row.status in ('won', 'lost') then
      perform private.notify_billing(v_row.user_id, 'dispute_' || v_row.status, format('dispute:%s:%s', v_row.id, v_row.status), v_data);
    end if;
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION private.tell_of_stripe_object(kept private.stripe_objects)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  case (kept).object
    when 'subscription' then
      perform private.tell_of_subscription((kept).id);
    when 'customer' then
      if (kept).deleted_at is not null then
        perform private.tell_of_subscription(o.id) from private.stripe_objects o
        where o.customer_id = (kept).id and o.object = 'subscription';
      end if;
    else
      if (kept).object in ('invoice', 'checkout_session') then
        perform private.tell_of_payment(kept);
      end if;
      perform private.tell_of_returns((kept).payment_intent_ids);
  end case;
end $function$;

CREATE OR REPLACE FUNCTION private.tell_of_subscription(subscription_id text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_row public.subscriptions;
  v_data jsonb;
begin
  select s.* into v_row from public.subscriptions s where s.id = tell_of_subscription.subscription_id;
  v_data := jsonb_build_object('subscription_id', v_row.id, 'plan', (select p.name from public.plans p where p.id = v_row.plan_id));
  if v_row.status = 'trialing' and v_row.trial_end between now() and now() + interval '3 days'
    and not v_row.cancel_at_period_end and v_row.cancel_at is null then
    perform private.notify_billing(v_row.user_id, 'trial_ends',
      format('subscription:%s:trial:%s', v_row.id, extract(epoch from v_row.trial_end)::bigint),
      v_data || jsonb_build_object('date', to_char(v_row.trial_end at time zone 'UTC', 'YYYY-MM-DD')));
  elsif v_row.status = 'canceled' and v_row.ended_at > now() - interval '7 days' then
    perform private.notify_billing(v_row.user_id, 'subscription_ended', format('subscription:%s:ended', v_row.id),
      v_data || jsonb_build_object('date', to_char(v_row.ended_at at time zone 'UTC', 'YYYY-MM-DD')));
  elsif v_row.status = 'unpaid' and v_row.past_due_since > now() - interval '60 days' and not exists (
      -- The end of the grace may have told them of this debt.
      select from private.billing_notices_sent n
      where n.user_id = v_row.user_id and n.notice = 'dunning_access_ended' and starts_with(n.dedupe_key, format('dunning:%s:', v_row.id))
        and n.sent_at >= v_row.past_due_since) then
    -- The key of the step that says so at the end of the grace, which then has nothing more to say.
    perform private.notify_billing(v_row.user_id, 'dunning_access_ended',
      private.dunning_key(v_row.id, v_row.past_due_since,
        coalesce((select min(d.position) from private.dunning_steps d where d.notice = 'dunning_access_ended'), 0)),
      v_data || jsonb_build_object('date', to_char(now() at time zone 'UTC', 'YYYY-MM-DD')));
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.tg__refresh_entitlements()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended('private.entitlements', 0));
  if tg_op = 'INSERT' then
    -- Nobody has subscribed to a new plan yet.
    update private.entitlements e set outranks = private.plans_outranked_by(e.plan_id) where e.plan_id is not null;
    return null;
  end if;
  perform private.refresh_entitlement(u.user_id)
  from (
    select distinct s.user_id from public.subscriptions s where s.status in ('trialing', 'active', 'past_due') order by 1) u;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_settings__spend_cap()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_month date := date_trunc('month', now() at time zone 'UTC');
begin
  with held as materialized (
    select s.shard, s.left_micros from private.spend_shards s
    where s.month = v_month and s.left_micros <> 0 order by s.shard for no key update
  ), taken as (
    update private.spend_shards s set left_micros = 0 from held h where s.month = v_month and s.shard = h.shard
    returning h.left_micros
  )
  update private.spend_months m set handed_out_micros = m.handed_out_micros - (select coalesce(sum(t.left_micros), 0) from taken t)
  where m.month = v_month;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_stripe_customers__forget()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  delete from private.stripe_objects o where o.customer_id = old.id;
  -- One that a worker has at this moment is left to delete_old_stripe_events: waiting for it could be waiting for ever.
  delete from private.stripe_events e
  where e.id in (select x.id from private.stripe_events x where x.customer_id = old.id for update skip locked);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_stripe_customers__lock()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.lock_stripe_objects(array[new.id]);
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_stripe_customers__project()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.project_stripe_customer(new.id);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.trial_days_of(user_id uuid, plan_price text)
 RETURNS integer
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return case
    -- Rows of subscriptions outlive their customer at Stripe: a deleted customer is no way to another trial.
    when exists (select from public.subscriptions s where s.user_id = trial_days_of.user_id and s.trial_start is not null) then 0
    else coalesce((select p.trial_days from public.plan_prices p where p.id = trial_days_of.plan_price), 0)
  end;
end $function$;

CREATE OR REPLACE FUNCTION private.warn_of_fraud(event private.stripe_events)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_warning jsonb := (event).payload #> '{data,object}';
  v_intent text := coalesce(v_warning #>> '{payment_intent,id}', v_warning ->> 'payment_intent');
  v_user_id uuid;
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_early_fraud_warning' and s.user_id is null and s.dedupe_key = left((event).object_id, 200)) then
    return;
  end if;
  select c.user_id into v_user_id
  from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
  where o.payment_intent_ids && array[v_intent] and o.payment_intent_ids <> '{}'
  order by o.object in ('invoice', 'checkout_session') desc, o.id limit 1;
  -- Of the project, not of the user: who uses a stolen card need not know that it is noticed.
  perform private.raise_security_event(
    type => 'stripe_early_fraud_warning', severity => 'high', user_id => null, dedupe_key => left((event).object_id, 200),
    details => jsonb_build_object(
      'event_id', (event).id, 'warning_id', (event).object_id,
      'charge_id', left(coalesce(v_warning #>> '{charge,id}', v_warning ->> 'charge'), 255), 'payment_intent_id', left(v_intent, 255),
      'fraud_type', left(v_warning ->> 'fraud_type', 255), 'user_id', v_user_id));
end $function$;

CREATE OR REPLACE FUNCTION public.get_my_entitlement(OUT plan_id text, OUT state text, OUT is_paid boolean, OUT subscription_id text, OUT current_period_end timestamp with time zone, OUT grace_until timestamp with time zone, OUT cancel_at timestamp with time zone, OUT trial_end timestamp with time zone, OUT pay_url text)
 RETURNS record
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.my_entitlement() $function$;

CREATE OR REPLACE FUNCTION public.list_dead_stripe_events()
 RETURNS TABLE(id text, type text, created_at timestamp with time zone, attempts integer, error text)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.dead_stripe_events() $function$;

CREATE OR REPLACE FUNCTION public.retry_stripe_event(id text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.revive_stripe_event(retry_stripe_event.id) $function$;

ALTER TABLE "private"."billing_notices_sent" ADD CONSTRAINT "billing_notices_sent_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."checkouts" ADD CONSTRAINT "checkouts_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."credit_lots" ADD CONSTRAINT "credit_lots_expired_check" CHECK ((expired >= 0)) NOT VALID;

ALTER TABLE "private"."dunning_steps" ADD CONSTRAINT "dunning_steps_notice_fkey" FOREIGN KEY (notice) REFERENCES private.billing_notices(id) ON DELETE CASCADE;

ALTER TABLE "private"."entitlements" ADD CONSTRAINT "entitlements_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE CASCADE;

ALTER TABLE "private"."entitlements" ADD CONSTRAINT "entitlements_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."retention_clocks" ADD CONSTRAINT "retention_clocks_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."stripe_customers" ADD CONSTRAINT "stripe_customers_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."checkouts" ADD CONSTRAINT "checkouts_stripe_price_id_fkey" FOREIGN KEY (stripe_price_id) REFERENCES private.stripe_prices(id) ON DELETE CASCADE;

ALTER TABLE "private"."checkouts" ADD CONSTRAINT "checkouts_credit_pack_id_fkey" FOREIGN KEY (credit_pack_id) REFERENCES public.credit_packs(id) ON DELETE CASCADE;

ALTER TABLE "private"."stripe_prices" ADD CONSTRAINT "stripe_prices_credit_pack_id_fkey" FOREIGN KEY (credit_pack_id) REFERENCES public.credit_packs(id) ON DELETE RESTRICT;

ALTER TABLE "public"."disputes" ADD CONSTRAINT "disputes_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."disputes" ADD CONSTRAINT "disputes_payment_id_fkey" FOREIGN KEY (payment_id) REFERENCES public.payments(id) ON DELETE CASCADE;

ALTER TABLE "public"."payments" ADD CONSTRAINT "payments_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."plan_features" ADD CONSTRAINT "plan_features_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE CASCADE;

ALTER TABLE "private"."checkouts" ADD CONSTRAINT "checkouts_plan_price_id_fkey" FOREIGN KEY (plan_price_id) REFERENCES public.plan_prices(id) ON DELETE CASCADE;

ALTER TABLE "private"."stripe_prices" ADD CONSTRAINT "stripe_prices_plan_price_id_fkey" FOREIGN KEY (plan_price_id) REFERENCES public.plan_prices(id) ON DELETE RESTRICT;

ALTER TABLE "public"."plan_prices" ADD CONSTRAINT "plan_prices_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE RESTRICT;

ALTER TABLE "public"."refunds" ADD CONSTRAINT "refunds_payment_id_fkey" FOREIGN KEY (payment_id) REFERENCES public.payments(id) ON DELETE CASCADE;

ALTER TABLE "public"."refunds" ADD CONSTRAINT "refunds_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."subscriptions" ADD CONSTRAINT "subscriptions_plan_id_fkey" FOREIGN KEY (plan_id) REFERENCES public.plans(id) ON DELETE RESTRICT;

ALTER TABLE "public"."subscriptions" ADD CONSTRAINT "subscriptions_plan_price_id_fkey" FOREIGN KEY (plan_price_id) REFERENCES public.plan_prices(id) ON DELETE RESTRICT;

ALTER TABLE "public"."subscriptions" ADD CONSTRAINT "subscriptions_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE VIEW "private"."entitled_profiles" WITH (security_invoker=true) AS  SELECT p.id,
    p.status,
    p.quota_time_zone,
    p.created_at,
        CASE
            WHEN (p.plan_id = ANY (e.outranks)) THEN e.plan_id
            ELSE p.plan_id
        END AS plan_id,
    COALESCE(e.state, 'none'::text) AS state,
    (e.plan_id IS NOT NULL) AS is_paid,
    e.subscription_id,
    e.valid_until,
    e.grace_until
   FROM (public.profiles p
     LEFT JOIN private.entitlements e ON (((e.user_id = p.id) AND (e.starts_at <= now()) AND (e.ends_at > now()))));

CREATE INDEX checkouts_credit_pack_id_idx ON private.checkouts USING btree (credit_pack_id);

CREATE INDEX checkouts_plan_price_id_idx ON private.checkouts USING btree (plan_price_id);

CREATE INDEX checkouts_stripe_price_id_idx ON private.checkouts USING btree (stripe_price_id);

CREATE INDEX checkouts_user_id_idx ON private.checkouts USING btree (user_id, created_at DESC);

CREATE INDEX dunning_steps_notice_idx ON private.dunning_steps USING btree (notice);

CREATE INDEX entitlements_ends_at_idx ON private.entitlements USING btree (ends_at) WHERE (plan_id IS NOT NULL);

CREATE INDEX entitlements_plan_id_idx ON private.entitlements USING btree (plan_id);

CREATE INDEX retention_clocks_ends_at_idx ON private.retention_clocks USING btree (ends_at);

CREATE INDEX stripe_customers_all_user_id_idx ON private.stripe_customers USING btree (user_id);

CREATE UNIQUE INDEX stripe_customers_user_id_idx ON private.stripe_customers USING btree (user_id, livemode) WHERE (deleted_at IS NULL);

CREATE INDEX stripe_events_customer_id_idx ON private.stripe_events USING btree (customer_id);

CREATE INDEX stripe_events_finished_at_idx ON private.stripe_events USING btree (finished_at) WHERE (finished_at IS NOT NULL);

CREATE INDEX stripe_events_next_attempt_at_idx ON private.stripe_events USING btree (next_attempt_at) WHERE (state = 'waiting'::text);

CREATE INDEX stripe_objects_customer_id_idx ON private.stripe_objects USING btree (customer_id);

CREATE INDEX stripe_objects_payment_intent_ids_idx ON private.stripe_objects USING gin (payment_intent_ids) WITH (fastupdate=off) WHERE (payment_intent_ids <> '{}'::text[]);

CREATE INDEX stripe_objects_subscription_id_idx ON private.stripe_objects USING btree (subscription_id) WHERE (subscription_id IS NOT NULL);

CREATE UNIQUE INDEX stripe_prices_credit_pack_id_idx ON private.stripe_prices USING btree (credit_pack_id, livemode) WHERE is_current;

CREATE UNIQUE INDEX stripe_prices_plan_price_id_idx ON private.stripe_prices USING btree (plan_price_id, livemode) WHERE is_current;

CREATE INDEX disputes_payment_id_idx ON public.disputes USING btree (payment_id);

CREATE INDEX disputes_user_id_idx ON public.disputes USING btree (user_id);

CREATE INDEX payments_payment_intent_id_idx ON public.payments USING btree (payment_intent_id);

CREATE INDEX payments_subscription_id_idx ON public.payments USING btree (subscription_id);

CREATE INDEX payments_user_id_created_at_idx ON public.payments USING btree (user_id, created_at DESC);

CREATE INDEX plan_prices_plan_id_idx ON public.plan_prices USING btree (plan_id);

CREATE INDEX refunds_payment_id_idx ON public.refunds USING btree (payment_id);

CREATE INDEX refunds_user_id_idx ON public.refunds USING btree (user_id);

CREATE INDEX subscriptions_past_due_since_idx ON public.subscriptions USING btree (past_due_since) WHERE (status = 'past_due'::text);

CREATE INDEX subscriptions_plan_id_idx ON public.subscriptions USING btree (plan_id);

CREATE INDEX subscriptions_plan_price_id_idx ON public.subscriptions USING btree (plan_price_id);

CREATE INDEX subscriptions_user_id_idx ON public.subscriptions USING btree (user_id);

CREATE TRIGGER tg_settings__entitlements AFTER UPDATE ON private.settings FOR EACH ROW WHEN (((new.key = 'billing.grace_days'::text) AND (new.value <> old.value))) EXECUTE FUNCTION private.tg__refresh_entitlements();

CREATE TRIGGER tg_settings__spend_cap AFTER UPDATE ON private.settings FOR EACH ROW WHEN (((new.key = 'ai.project_usd_per_month'::text) AND (new.value IS DISTINCT FROM old.value))) EXECUTE FUNCTION private.tg_settings__spend_cap();

CREATE TRIGGER tg_stripe_customers__forget AFTER DELETE ON private.stripe_customers FOR EACH ROW EXECUTE FUNCTION private.tg_stripe_customers__forget();

CREATE TRIGGER tg_stripe_customers__lock BEFORE INSERT ON private.stripe_customers FOR EACH ROW EXECUTE FUNCTION private.tg_stripe_customers__lock();

CREATE TRIGGER tg_stripe_customers__project AFTER INSERT ON private.stripe_customers FOR EACH ROW EXECUTE FUNCTION private.tg_stripe_customers__project();

CREATE TRIGGER tg_plans__entitlements AFTER INSERT OR UPDATE OF "position" ON public.plans FOR EACH STATEMENT EXECUTE FUNCTION private.tg__refresh_entitlements();

CREATE POLICY "everybody signed in sees the credit packs" ON "public"."credit_packs" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."disputes" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their disputes" ON "public"."disputes" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."payments" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their payments" ON "public"."payments" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "signed-in users see what plans include" ON "public"."plan_features" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "everybody signed in sees the prices of plans" ON "public"."plan_prices" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."refunds" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their refunds" ON "public"."refunds" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."subscriptions" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their subscriptions" ON "public"."subscriptions" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

COMMENT ON COLUMN "private"."billing_notices"."is_mailed" IS 'Also by mail, whatever notifications.mail_types says.';

COMMENT ON COLUMN "private"."checkouts"."closed_at" IS 'When it was completed, had expired, failed, or was given up for another.';

COMMENT ON COLUMN "private"."checkouts"."failed" IS 'Stripe answered an error, which it repeats for a day to whoever comes with the same key.';

COMMENT ON COLUMN "private"."credit_lots"."expired" IS 'How much of it nobody used in time: what a refund takes back of it has gone already.';

COMMENT ON COLUMN "private"."credit_lots"."id" IS 'Also the id of the ledger''s entry that granted it, for lots of add_credit_entry.';

COMMENT ON COLUMN "private"."entitlements"."grace_until" IS 'Set while it entitles although what was due is not known to be paid.';

COMMENT ON COLUMN "private"."entitlements"."outranks" IS 'The plans that are no better than plan_id, itself included, by plans.position: here, so that admission need not look into plans.';

COMMENT ON COLUMN "private"."entitlements"."plan_id" IS 'The plan that is paid for in this time; null: none.';

COMMENT ON COLUMN "private"."entitlements"."state" IS 'Of the subscription that counts: see public.get_my_entitlement.';

COMMENT ON COLUMN "private"."entitlements"."valid_until" IS 'When the subscription stops to entitle if nothing more is heard of it.';

COMMENT ON COLUMN "private"."stripe_customers"."deleted_at" IS 'When Stripe said that the customer is gone; the next purchase makes another.';

COMMENT ON COLUMN "private"."stripe_events"."account" IS 'The connected account that it is of; null for our own, and only those count.';

COMMENT ON COLUMN "private"."stripe_events"."attempts" IS 'How often a worker took it. Also whose turn it is: an answer of an earlier one is superseded.';

COMMENT ON COLUMN "private"."stripe_events"."attempts_before_retry" IS 'Tries that no longer count, since retry_stripe_event was called.';

COMMENT ON COLUMN "private"."stripe_events"."created_at" IS 'By Stripe''s clock, in whole seconds: nothing is ordered by it.';

COMMENT ON COLUMN "private"."stripe_events"."customer_id" IS 'Whose it is, as far as known: with the user goes what their events hold.';

COMMENT ON COLUMN "private"."stripe_events"."next_attempt_at" IS 'Not before; while a worker has it, when another may take it.';

COMMENT ON COLUMN "private"."stripe_events"."object" IS 'What it is about, such as invoice or subscription.';

COMMENT ON COLUMN "private"."stripe_events"."payload" IS 'The event as Stripe sent it; it may hold addresses of people.';

COMMENT ON COLUMN "private"."stripe_events"."state" IS 'waiting: to be applied, or at it; applied; ignored: nothing to do with us; dead: given up until retry_stripe_event.';

COMMENT ON COLUMN "private"."stripe_objects"."deleted_at" IS 'The first time that it was read as deleted; null: it is there.';

COMMENT ON COLUMN "private"."stripe_objects"."payment_intent_ids" IS 'What ties refunds and disputes to the invoice or session that was paid.';

COMMENT ON COLUMN "private"."stripe_objects"."read_at" IS 'By the database''s clock, before the object was asked for: of two readings the later one is at least as new.';

COMMENT ON COLUMN "private"."stripe_objects"."reading" IS 'Without read_at. Times are Unix seconds, amounts in the smallest unit.';

COMMENT ON COLUMN "private"."stripe_objects"."subscription_id" IS 'Of an invoice.';

COMMENT ON COLUMN "private"."stripe_objects"."user_id" IS 'Our metadata: whom the object was made for. Kept when Stripe forgets it with a deleted customer.';

COMMENT ON COLUMN "public"."credit_packs"."expires_after_days" IS 'Days after the payment; null: never.';

COMMENT ON COLUMN "public"."payments"."credits" IS 'Credits that the payment brought.';

COMMENT ON COLUMN "public"."payments"."credits_clawed_back" IS 'Credits that refunds and disputes took back, in proportion to the money.';

COMMENT ON COLUMN "public"."payments"."id" IS 'Stripe''s id of the invoice or of the checkout session.';

COMMENT ON COLUMN "public"."payments"."pay_url" IS 'Where an open invoice can be paid, 3-D Secure included.';

COMMENT ON COLUMN "public"."plan_prices"."amount" IS 'For one interval, in the currency''s smallest unit.';

COMMENT ON COLUMN "public"."plan_prices"."credits" IS 'Granted for every period that is paid.';

COMMENT ON COLUMN "public"."plan_prices"."credits_expire" IS 'True: with the end of the period they were paid for; false: never.';

COMMENT ON COLUMN "public"."plan_prices"."trial_days" IS 'Days before the first payment, for users who never had a trial; 0: none.';

COMMENT ON COLUMN "public"."profiles"."plan_id" IS 'The plan that an operator gave: it decides the limits unless a better one is paid for; a change applies to the next call. Not user-writable.';

COMMENT ON COLUMN "public"."subscriptions"."current_period_end" IS 'The latest end among its items that carry a plan.';

COMMENT ON COLUMN "public"."subscriptions"."id" IS 'Stripe''s id.';

COMMENT ON COLUMN "public"."subscriptions"."is_collection_paused" IS 'Its invoices are not collected for now: it entitles until the end of the current period, and no longer.';

COMMENT ON COLUMN "public"."subscriptions"."is_returned" IS 'The payment of its current period went back, whole: by refunds that did not fail, by disputes that are open or lost. It entitles to nothing.';

COMMENT ON COLUMN "public"."subscriptions"."past_due_since" IS 'When the oldest unpaid invoice since the last paid one was due; grace counts from here. Null unless past_due or unpaid.';

COMMENT ON COLUMN "public"."subscriptions"."plan_id" IS 'The best plan among its items; null: none of its prices is known here.';

COMMENT ON COLUMN "public"."subscriptions"."status" IS 'Stripe''s word: trialing, active, past_due, unpaid, paused, canceled, incomplete, incomplete_expired, or a newer one.';

COMMENT ON FUNCTION "private"."apply_stripe_event"(text, integer, jsonb) IS 'Applies what a worker read for an event (see apply_stripe_readings) and finishes the event, both or neither; an early fraud warning needs no reading. Answers applied; ignored: no readings, or all of customers that are not known here; superseded: another worker has it, or it was finished, and nothing was done.';

COMMENT ON FUNCTION "private"."apply_stripe_readings"(jsonb) IS 'Keeps what was read at Stripe, each object if no newer reading of it is there, and makes rows, credits and entitlements of it. Answers for each: same; changed; older: a newer one was here; unknown_customer: kept until we know whose it is; mismatch: it names another user than its customer''s, and nothing comes of it. An error leaves nothing behind.';

COMMENT ON FUNCTION "private"."burn_lots_of"(uuid, text[], bigint) IS 'Takes so many of the unburned credits from the lots that the entries of these keys granted, as far as something remains of them; the rest stays unburned. What was spent before is burned already: a payment that goes back takes its own credits, and not those that expire first. The caller holds the account''s lock.';

COMMENT ON FUNCTION "private"."bury_stripe_event"(private.stripe_events, text) IS 'Gives an event up and says so. Whoever calls it has locked its row.';

COMMENT ON FUNCTION "private"."call_apply_stripe_events"() IS 'Calls the application of Stripe''s events when one waits.';

COMMENT ON FUNCTION "private"."call_reconcile_stripe"() IS 'Calls the comparison with Stripe when somebody ever was a customer.';

COMMENT ON FUNCTION "private"."check_buyer"(uuid, uuid) IS 'Raises what private.check_account refuses, and rate_limit_exceeded or daily_quota_exceeded for who asks more often than billing_requests/minute and /day allow.';

COMMENT ON FUNCTION "private"."claim_stripe_events"(integer) IS 'Takes waiting events, the longest waiting first, each for one worker and for billing.lease_seconds; one from whose last try nobody came back is taken alone. Answers fewer than batch_size while more may wait, and none when none is due. End each with apply_stripe_event or fail_stripe_event and its attempt. One that nobody came back from billing.max_attempts times is dead.';

COMMENT ON FUNCTION "private"."clawback_target"(bigint, bigint, bigint) IS 'The share of the credits whose money went back, to the nearest whole one, halves up.';

COMMENT ON FUNCTION "private"."close_checkout"(text) IS 'Of a session that was completed or has expired at Stripe: nobody is sent there again.';

COMMENT ON FUNCTION "private"."consume"(uuid, text, text, bigint) IS 'Counts units against a limit or raises daily_quota_exceeded, rate_limit_exceeded (a minute) or insufficient_quota; exact however many race, because the account is locked first. Definer: for triggers on users'' tables.';

COMMENT ON FUNCTION "private"."dead_stripe_events"() IS 'Behind public.list_dead_stripe_events. Definer: the inbox is private; refuses all but admins and the service role.';

COMMENT ON FUNCTION "private"."delete_old_checkouts"() IS 'Forgets checkouts 90 days after their end. A job runs it. Answers how many.';

COMMENT ON FUNCTION "private"."delete_old_stripe_events"(integer) IS 'Deletes events that were finished billing.event_days ago, but not the dead, and what was read that long ago of checkouts that expired, and of customers of whom nobody knows whose they are, or whose user was erased. A job runs it. Answers how many rows went.';

COMMENT ON FUNCTION "private"."dunning_key"(text, timestamp with time zone, integer) IS 'A step of a debt: the next debt of the subscription begins anew.';

COMMENT ON FUNCTION "private"."entitlement"(uuid) IS 'What a user may use now: the plan that counts, and the state, end and grace of the subscription behind it. All null for an unknown user. Nobody but functions of ours may call it; they pass an id they have checked.';

COMMENT ON FUNCTION "private"."fail_checkout"(uuid) IS 'Of a checkout for which Stripe answered an error: the next has other idempotency keys, because Stripe repeats what it answered once. Not to be called when nothing is known, as after a lost connection: the same key then finds what was made.';

COMMENT ON FUNCTION "private"."fail_stripe_event"(text, integer, text) IS 'Gives an event back with the reason, which must hold no secret. Answers waiting: it is tried again after 5 seconds, 10, 20, at most an hour; dead: that was the last of billing.max_attempts tries, and a security event; superseded: another worker has it, or it was finished. The tenth try in vain, after some 45 minutes, is a security event, too.';

COMMENT ON FUNCTION "private"."feature_refusal"(uuid, text) IS 'Null when the user''s plan includes the feature now; else {code: entitlement_required, message: why and where to pay, hint}.';

COMMENT ON FUNCTION "private"."fill_placeholders"(text, jsonb) IS 'The template with each {key} replaced by its value; what has none leaves nothing.';

COMMENT ON FUNCTION "private"."forget_stripe_customer"(text) IS 'For operators: as if Stripe had said that this customer is deleted, for one that Stripe will never know again. A later reading that says otherwise wins.';

COMMENT ON FUNCTION "private"."grant_stripe_credits"(uuid, private.stripe_grant[]) IS 'Sees to it that a user has been granted these. Answers them with the amounts in the ledger.';

COMMENT ON FUNCTION "private"."has_feature"(text) IS 'Whether the caller''s plan includes a feature now; false for who is not signed in. In a policy write it as (select private.has_feature(''x'')), so that it is asked once and not for every row. Definer: entitlements are private.';

COMMENT ON FUNCTION "private"."invoice_of_period"(public.subscriptions, boolean) IS 'The invoice for a subscription''s current period; is_paid: only one that was paid with money. All null when there is none, as for a trial.';

COMMENT ON FUNCTION "private"."is_period_returned"(public.subscriptions) IS 'Whether the payment that covers a subscription''s current period went back, whole. A part that went back is none; a trial, or a period that cost nothing, has none.';

COMMENT ON FUNCTION "private"."is_stripe_mismatch"(private.stripe_objects, uuid) IS 'Whether a checkout session names another user than its customer''s. Anybody can put a client_reference_id into a payment link.';

COMMENT ON FUNCTION "private"."keep_retention_clock"(uuid) IS 'Starts a user''s clock at the moment their paid plan ended, and takes it away when they pay. A clock that runs goes on as it is.';

COMMENT ON FUNCTION "private"."known_stripe_objects"(text, timestamp with time zone) IS 'The objects of a kind that Stripe must have, too, made since then (null: ever), and when they were read: of sessions the complete ones; none that are deleted.';

COMMENT ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid, text[]) IS 'Gives up to max_syncs (at most 100) due syncs to one worker each, for portfolio.lease_seconds: credentials that are active, of enabled exchanges without a pause, whose owner''s account is active and whose plan has the feature portfolio_sync. With of_user that user''s only, or entitlement_required, and before they are due: at most once a minute, and not while they rest after a failure. not_of: exchanges that the worker reads from already. held: the assets of the last sync. End with record_portfolio_sync, pause_portfolio_sync or fail_portfolio_sync.';

COMMENT ON FUNCTION "private"."link_stripe_customer"(uuid, text, boolean) IS 'Notes whose customer it is and answers the one that counts, which is another when somebody was first.';

COMMENT ON FUNCTION "private"."link_stripe_customer_by_metadata"(text) IS 'Whose customer it is; null: nobody''s whom we know. One that is not linked yet is, when our metadata names one user who exists and has no other live customer. Never by an e-mail address, never by client_reference_id.';

COMMENT ON FUNCTION "private"."lock_stripe_objects"(text[]) IS 'One transaction at a time for each customer (or payment intent), until it ends, always in the same order. Taken before anything of theirs is read.';

COMMENT ON FUNCTION "private"."money_text"(bigint, text) IS 'An amount of the smallest unit as people write it, such as 12.00 USD.';

COMMENT ON FUNCTION "private"."move_clawback"(uuid, text, bigint, private.stripe_grant[]) IS 'Moves what was taken back of a payment''s credits to where it must be, by one entry at most. First go the payment''s own credits, as far as they are not spent, then any others; the balance may fall below zero. Credits that come back expire as the payment''s do.';

COMMENT ON FUNCTION "private"."my_entitlement"() IS 'Behind public.get_my_entitlement. Definer: entitlements are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."note_checkout"(uuid, text, text) IS 'Notes the session that Stripe made for a checkout. False: the checkout was given up for another meanwhile, and the session must be expired at Stripe and not shown.';

COMMENT ON FUNCTION "private"."notify_billing"(uuid, text, text, jsonb) IS 'Tells a user something of private.billing_notices, once for a dedupe_key, as a notification of the type billing_<notice> and by mail. True when it did. A notice without a row is told to nobody, and may be told later when there is one.';

COMMENT ON FUNCTION "private"."open_plan_checkout"(private.checkouts) IS 'The open checkout of a plan that is for exactly the same, if there is one; all others are closed, and their sessions must be expired at Stripe, or be known to be over, before another begins. The caller holds the buyer''s lock.';

COMMENT ON FUNCTION "private"."paid_anew"(jsonb) IS 'The share of an invoice''s periods, 0 to 1, that is new money: with unused time of a period before and with the customer''s balance came credits already. What lines cost is before coupons and taxes, so that these change no share; the balance is applied to what is left after them.';

COMMENT ON FUNCTION "private"."pay_url"(uuid) IS 'Where a user pays: the page of the oldest open invoice of a subscription that has not ended, or billing.pay_url. Nobody but functions of ours may call it; they pass an id they have checked.';

COMMENT ON FUNCTION "private"."payment_hint"(uuid) IS 'The sentence with the link that ends a refusal which money can lift.';

COMMENT ON FUNCTION "private"."payment_of_invoice"(private.stripe_objects) IS 'What an invoice says as a payment; null for a draft, and for one that is of no subscription.';

COMMENT ON FUNCTION "private"."payment_of_session"(private.stripe_objects) IS 'What a complete checkout of a credit pack says as a payment: processing while a delayed method is at it, failed when that failed. Null for any other session.';

COMMENT ON FUNCTION "private"."plans_outranked_by"(text) IS 'The plans that are no better than this one, itself included; null for no plan.';

COMMENT ON FUNCTION "private"."prepare_checkout"(uuid, uuid, text, text, boolean, jsonb) IS 'Decides a checkout for functions/billing: {checkout_id, customer_id, customer_key, stripe_price_id, mode, trial_days, session_id, url, stale_sessions, expires_at}. Who asks twice for a plan gets the same checkout; asking for another closes it. A pack is a checkout of its own each time. Before a session of a plan is made, stale_sessions must be expired at Stripe, and what Stripe says of the customer''s subscriptions be applied; a user without customer_id gets one there with customer_key as its idempotency key.';

COMMENT ON FUNCTION "private"."prepare_portal"(uuid, uuid, boolean) IS 'The caller''s customer at Stripe, whose portal may be opened; not_found for who has none.';

COMMENT ON FUNCTION "private"."project_customer_deletion"(private.stripe_objects) IS 'A customer that is gone takes its subscriptions along; the user stays, and the next purchase makes another customer. One that is there after all, by a newer reading, brings them back.';

COMMENT ON FUNCTION "private"."project_payment"(private.stripe_objects, uuid) IS 'The row of an invoice or of a checkout of a pack, with the credits that it brings, the refunds and disputes of it, and what these take back.';

COMMENT ON FUNCTION "private"."project_returns"(private.stripe_objects, uuid) IS 'The rows of the refunds and disputes of a payment.';

COMMENT ON FUNCTION "private"."project_stripe_customer"(text) IS 'Makes the rows of everything that was read of a customer. Answers of how many objects something changed. The caller holds the lock.';

COMMENT ON FUNCTION "private"."project_stripe_object"(private.stripe_objects, uuid) IS 'Makes what follows from one stored object of this user''s. Answers whether something changed; null when nobody owns it. The caller holds the lock.';

COMMENT ON FUNCTION "private"."project_stripe_objects"(text) IS 'Makes every row of billing again from what was read, of one customer or (null) of all: after prices became known, or rows were lost. On a healthy database nothing changes. Answers of how many objects something did. Of all it holds up events while it runs.';

COMMENT ON FUNCTION "private"."project_stripe_reading"(private.stripe_objects, uuid, text) IS 'Makes rows of one reading that was stored with this outcome. Answers the outcome that apply_stripe_readings tells.';

COMMENT ON FUNCTION "private"."project_subscription"(private.stripe_objects, uuid) IS 'The row of a subscription: the best plan among its items, the latest period that carries a plan, canceled when it or its customer is gone, paused when the invoice of its period is not collected.';

COMMENT ON FUNCTION "private"."project_subscription_of"(private.stripe_objects, uuid) IS 'The row of an invoice''s subscription again: the invoice says since when it is owed, and whether its period is paid for. Answers whether it says something new.';

COMMENT ON FUNCTION "private"."receive_stripe_event"(text, text, text, boolean, text, timestamp with time zone, text, text, jsonb) IS 'Keeps an event whose signature was verified. True: it is new; false: it was here already. One of another account than ours is kept as ignored, and is a security event.';

COMMENT ON FUNCTION "private"."refresh_entitlement"(uuid) IS 'Writes private.entitlements of one user anew from public.subscriptions: at any time the best plan that is paid for then. To be called by whoever changed a subscription, in the same transaction.';

COMMENT ON FUNCTION "private"."require_feature"(uuid, text) IS 'Raises entitlement_required, with the link to pay, unless the user''s plan includes the feature now.';

COMMENT ON FUNCTION "private"."retry_stripe_events"(timestamp with time zone) IS 'For database administrators, after an outage: lets all dead events of Stripe''s be tried again, or those that were given up since then, as often as new ones. Answers how many.';

COMMENT ON FUNCTION "private"."returned_money"(text[]) IS 'How much of a payment went back: refunds that did not fail, disputes that are open or lost. A bank''s inquiry (warning_*) moves no money.';

COMMENT ON FUNCTION "private"."revive_stripe_event"(text) IS 'Behind public.retry_stripe_event. Definer: the inbox is private; refuses all but admins and the service role.';

COMMENT ON FUNCTION "private"."save_payment"(public.payments) IS 'Writes a row if it says something new. Answers whether it did.';

COMMENT ON FUNCTION "private"."save_subscription"(public.subscriptions) IS 'Writes a row if it says something new. Answers whether it did.';

COMMENT ON FUNCTION "private"."send_dunning"() IS 'Reminds everybody whose subscription is past due of the payment, by private.dunning_steps, each step once for a debt. A job runs it. Answers how many were told.';

COMMENT ON FUNCTION "private"."set_stripe_price"(text, text, text, text, boolean) IS 'What an item costs at Stripe from now on; for npm run stripe:sync. Earlier prices stay, for subscriptions that have them.';

COMMENT ON FUNCTION "private"."start_retention_clocks"() IS 'Starts the clocks of those whose paid plan has ended by time alone. A job runs it; the clock starts at the end itself, whenever it runs. Answers how many users it looked at.';

COMMENT ON FUNCTION "private"."store_stripe_object"(private.stripe_objects) IS 'Keeps a reading unless a newer one is there. Answers what is stored now, and same, changed or older. The caller holds the lock.';

COMMENT ON FUNCTION "private"."stripe_customer_of"(uuid, boolean) IS '{customer_id: the user''s customer at Stripe or null, customer_key: the idempotency key to create one with, another after each that was deleted and each checkout that failed}.';

COMMENT ON FUNCTION "private"."stripe_grants_of"(private.stripe_objects) IS 'What a paid object brings: for each line of an invoice that begins a period of a plan its price''s credits, in the share that was paid anew, not for prorations and trials; for a checkout the credits of its pack, as often as it was bought. By the prices that we know, never by metadata.';

COMMENT ON FUNCTION "private"."stripe_object"(jsonb) IS 'A reading as a row. An error when it says what cannot be.';

COMMENT ON FUNCTION "private"."stripe_price_to_buy"(text, text, boolean) IS 'Stripe''s price of an item that is for sale; not_found for any other, and for one that stripe:sync has not seen.';

COMMENT ON FUNCTION "private"."stripe_time"(jsonb, text) IS 'A time of a reading; null when it has none.';

COMMENT ON FUNCTION "private"."subscription_claims"(uuid) IS 'What each of a user''s subscriptions claims in which time: its plan while it is paid for; its plan for billing.grace_days more, counted from what is overdue, or from the end of the period while Stripe has not said what came after it (no days while it is not collected); and no plan (null) ever after, or at any time when the money of its period went back. Depends on rows only, not on the time it is asked.';

COMMENT ON FUNCTION "private"."tell_of_payment"(private.stripe_objects) IS 'Each failed try to collect an invoice, with where to pay it; that it was paid after all, to those who were told that it was not; a delayed payment of a pack that failed.';

COMMENT ON FUNCTION "private"."tell_of_returns"(text[]) IS 'Money that went back, disputes that were opened (a security event, too), won or lost, of the payments of these intents, within 120 days.';

COMMENT ON FUNCTION "private"."tell_of_stripe_object"(private.stripe_objects) IS 'Tells the owner what follows from an object, after its rows were made. What they were told once they are not told again, whoever reads it however often.';

COMMENT ON FUNCTION "private"."tell_of_subscription"(text) IS 'A trial that ends within three days, and goes on to be paid; a subscription that has ended, within the week; one that Stripe gave up as unpaid, within sixty days of the debt, unless the end of the grace was told.';

COMMENT ON FUNCTION "private"."tg__refresh_entitlements"() IS 'The days of grace and the order of plans are part of what is written in private.entitlements. Definer: entitlements are private.';

COMMENT ON FUNCTION "private"."tg_settings__spend_cap"() IS 'A cap that is lowered holds at once: what the shards have left of the old one comes back. Definer: for whoever may change settings.';

COMMENT ON FUNCTION "private"."tg_stripe_customers__forget"() IS 'With an erased user go the readings and the events of their customers, which hold addresses. Definer: the Auth service erases users.';

COMMENT ON FUNCTION "private"."tg_stripe_customers__lock"() IS 'Before the row is there: whoever stores readings of this customer meanwhile has finished, or waits and finds it. Definer: as all that triggers do here.';

COMMENT ON FUNCTION "private"."tg_stripe_customers__project"() IS 'What was read of a customer before anybody knew whose it is counts from the moment they do. Definer: as all that triggers do here.';

COMMENT ON FUNCTION "private"."trial_days_of"(uuid, text) IS 'Days of trial that a user gets with a price: what the price says, once in a lifetime.';

COMMENT ON FUNCTION "private"."warn_of_fraud"(private.stripe_events) IS 'Says what an event tells of an early fraud warning: each warning is one security event, with its payment and, where that is known here, whose it is. Nothing is taken back for it: refund the payment in Stripe, or wait for the dispute.';

COMMENT ON FUNCTION "public"."get_my_entitlement"() IS 'What the caller may use now: the plan that counts, whether a subscription pays for it, and which. state: none, trialing, active, canceling (paid until cancel_at), past_due (until grace_until; not paid for any more when is_paid is false), paused, unpaid (also while the money of the current period is back with the caller, refunded or disputed), canceled, expired (the period is over and nothing was heard of a payment), incomplete. pay_url: where to pay or to choose a plan.';

COMMENT ON FUNCTION "public"."list_dead_stripe_events"() IS 'For admins and the service role: events of Stripe''s that were given up, the latest first, at most 1000: type, when Stripe made them, how often they were tried, and why the last try failed. retry_stripe_event tries one again.';

COMMENT ON FUNCTION "public"."retry_stripe_event"(text) IS 'For admins and the service role: lets a dead event of Stripe''s be tried again, as often as a new one. Answers the event''s state: waiting, or what it was when it is not dead. 404 not_found when there is no such event.';

COMMENT ON TABLE "private"."billing_notices" IS 'What users are told, each as a row. Without its row nobody is told. {pay_url}, {plan}, {amount}, {date} and {description} are filled in, as far as they are known.';

COMMENT ON TABLE "private"."billing_notices_sent" IS 'What users were told, so that nobody is told twice, however often the reason is read again.';

COMMENT ON TABLE "private"."checkouts" IS 'Checkouts that were started. A user has one open checkout of a plan at a time: that is what makes a trial one trial.';

COMMENT ON TABLE "private"."dunning_steps" IS 'Reminders to who owes a payment: days after it was due, and what they are told. See billing.grace_days for when access ends.';

COMMENT ON TABLE "private"."entitlements" IS 'What a user''s subscriptions entitle to and when, as one line of time without gaps, future included, so that what holds at a moment is one row and needs no job. Written by private.refresh_entitlement only; no rows: never subscribed.';

COMMENT ON TABLE "private"."retention_clocks" IS 'Users whose paid plan has ended, and until when what it held is kept. The row goes when they pay again. Who deletes by it asks private.entitlement once more.';

COMMENT ON TABLE "private"."stripe_customers" IS 'Whose customer at Stripe is whose here: one at a time for a user. Linked by the metadata that we wrote, never by an e-mail address.';

COMMENT ON TABLE "private"."stripe_events" IS 'Everything that Stripe sent with a valid signature, once. An event only says what to read again at Stripe: what is read is in private.stripe_objects.';

COMMENT ON TABLE "private"."stripe_objects" IS 'The newest reading of each object of Stripe''s; also of customers that are not known here (yet).';

COMMENT ON TABLE "private"."stripe_prices" IS 'Stripe''s prices of what can be bought, written by npm run stripe:sync. Older ones stay: subscriptions refer to them.';

COMMENT ON TABLE "public"."credit_packs" IS 'Credits that are bought once, by our own ids.';

COMMENT ON TABLE "public"."disputes" IS 'Payments that the caller''s bank disputes. Their credits are gone while it lasts, and back when it is won.';

COMMENT ON TABLE "public"."payments" IS 'What the caller was asked to pay and what became of it: one row for each invoice of a subscription and for each checkout of a credit pack.';

COMMENT ON TABLE "public"."plan_features" IS 'What a plan includes: portfolio_sync (portfolios are read from exchanges), own_keys (AI calls with keys of one''s own). No row: not included.';

COMMENT ON TABLE "public"."plan_prices" IS 'What a plan costs, by our own ids: clients name these, never an id of Stripe''s. A new amount is a new row: subscriptions keep theirs.';

COMMENT ON TABLE "public"."refunds" IS 'Money that went back to the caller. status is Stripe''s: pending, requires_action, succeeded, failed, canceled.';

COMMENT ON TABLE "public"."subscriptions" IS 'The caller''s subscriptions as Stripe has them. Written by functions only; what they entitle to is said by get_my_entitlement.';

COMMENT ON TYPE "private"."stripe_grant" IS 'Credits that a payment brings: key is the ledger''s, which makes them come once.';

COMMENT ON VIEW "private"."entitled_profiles" IS 'Profiles with the plan that counts now: the one that is paid for, or the one in the profile when that is better or nothing is paid for. A view and not a function, because admission joins it for many callers at once.';

REVOKE ALL ON FUNCTION "private"."apply_stripe_event"(text, integer, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."apply_stripe_event"(text, integer, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."apply_stripe_readings"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."apply_stripe_readings"(jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."burn_lots_of"(uuid, text[], bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."burn_lots_of"(uuid, text[], bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."bury_stripe_event"(private.stripe_events, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."bury_stripe_event"(private.stripe_events, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."call_apply_stripe_events"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_apply_stripe_events"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."call_reconcile_stripe"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_reconcile_stripe"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."check_buyer"(uuid, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."check_buyer"(uuid, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."claim_stripe_events"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."claim_stripe_events"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."clawback_target"(bigint, bigint, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."clawback_target"(bigint, bigint, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."close_checkout"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."close_checkout"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."dead_stripe_events"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."dead_stripe_events"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."delete_old_checkouts"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_old_checkouts"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."delete_old_stripe_events"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_old_stripe_events"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."dunning_key"(text, timestamp with time zone, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."dunning_key"(text, timestamp with time zone, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."entitlement"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."entitlement"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."fail_checkout"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."fail_checkout"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."fail_stripe_event"(text, integer, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."fail_stripe_event"(text, integer, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."feature_refusal"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."feature_refusal"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."fill_placeholders"(text, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."fill_placeholders"(text, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."forget_stripe_customer"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."forget_stripe_customer"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."grant_stripe_credits"(uuid, private.stripe_grant[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."grant_stripe_credits"(uuid, private.stripe_grant[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."has_feature"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."has_feature"(text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."invoice_of_period"(public.subscriptions, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."invoice_of_period"(public.subscriptions, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."is_period_returned"(public.subscriptions) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."is_period_returned"(public.subscriptions) TO "postgres";

REVOKE ALL ON FUNCTION "private"."is_stripe_mismatch"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."is_stripe_mismatch"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."keep_retention_clock"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."keep_retention_clock"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."known_stripe_objects"(text, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."known_stripe_objects"(text, timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."link_stripe_customer"(uuid, text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."link_stripe_customer"(uuid, text, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."link_stripe_customer_by_metadata"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."link_stripe_customer_by_metadata"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."lock_stripe_objects"(text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."lock_stripe_objects"(text[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."money_text"(bigint, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."money_text"(bigint, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."move_clawback"(uuid, text, bigint, private.stripe_grant[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."move_clawback"(uuid, text, bigint, private.stripe_grant[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."my_entitlement"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_entitlement"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."note_checkout"(uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_checkout"(uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."notify_billing"(uuid, text, text, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."notify_billing"(uuid, text, text, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."open_plan_checkout"(private.checkouts) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."open_plan_checkout"(private.checkouts) TO "postgres";

REVOKE ALL ON FUNCTION "private"."paid_anew"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."paid_anew"(jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."pay_url"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."pay_url"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."payment_hint"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."payment_hint"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."payment_of_invoice"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."payment_of_invoice"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."payment_of_session"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."payment_of_session"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."plans_outranked_by"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."plans_outranked_by"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."prepare_checkout"(uuid, uuid, text, text, boolean, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."prepare_checkout"(uuid, uuid, text, text, boolean, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."prepare_portal"(uuid, uuid, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."prepare_portal"(uuid, uuid, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_customer_deletion"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_customer_deletion"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_payment"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_payment"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_returns"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_returns"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_stripe_customer"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_stripe_customer"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_stripe_object"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_stripe_object"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_stripe_objects"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_stripe_objects"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_stripe_reading"(private.stripe_objects, uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_stripe_reading"(private.stripe_objects, uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_subscription"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_subscription"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."project_subscription_of"(private.stripe_objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."project_subscription_of"(private.stripe_objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."receive_stripe_event"(text, text, text, boolean, text, timestamp with time zone, text, text, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."receive_stripe_event"(text, text, text, boolean, text, timestamp with time zone, text, text, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."refresh_entitlement"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."refresh_entitlement"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_feature"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_feature"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."retry_stripe_events"(timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."retry_stripe_events"(timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."returned_money"(text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."returned_money"(text[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."revive_stripe_event"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."revive_stripe_event"(text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."save_payment"(public.payments) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_payment"(public.payments) TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_subscription"(public.subscriptions) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_subscription"(public.subscriptions) TO "postgres";

REVOKE ALL ON FUNCTION "private"."send_dunning"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."send_dunning"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."set_stripe_price"(text, text, text, text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."set_stripe_price"(text, text, text, text, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."start_retention_clocks"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."start_retention_clocks"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."store_stripe_object"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."store_stripe_object"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."stripe_customer_of"(uuid, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."stripe_customer_of"(uuid, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."stripe_grants_of"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."stripe_grants_of"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."stripe_object"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."stripe_object"(jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."stripe_price_to_buy"(text, text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."stripe_price_to_buy"(text, text, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."stripe_time"(jsonb, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."stripe_time"(jsonb, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."subscription_claims"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."subscription_claims"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tell_of_payment"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tell_of_payment"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tell_of_returns"(text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tell_of_returns"(text[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tell_of_stripe_object"(private.stripe_objects) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tell_of_stripe_object"(private.stripe_objects) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tell_of_subscription"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tell_of_subscription"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg__refresh_entitlements"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg__refresh_entitlements"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_settings__spend_cap"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_settings__spend_cap"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_stripe_customers__forget"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_stripe_customers__forget"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_stripe_customers__lock"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_stripe_customers__lock"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_stripe_customers__project"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_stripe_customers__project"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."trial_days_of"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."trial_days_of"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."warn_of_fraud"(private.stripe_events) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."warn_of_fraud"(private.stripe_events) TO "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_entitlement"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_entitlement"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."list_dead_stripe_events"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."list_dead_stripe_events"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."retry_stripe_event"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."retry_stripe_event"(text) TO "authenticated", "postgres", "service_role";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."billing_notices" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."billing_notices_sent" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."checkouts" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."dunning_steps" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."entitlements" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."retention_clocks" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."stripe_customers" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."stripe_events" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."stripe_objects" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."stripe_prices" TO "postgres";

REVOKE ALL ON TABLE "public"."credit_packs" FROM "authenticated";

GRANT SELECT ON TABLE "public"."credit_packs" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."credit_packs" TO "postgres";

REVOKE ALL ON TABLE "public"."credit_packs" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."credit_packs" TO "service_role";

REVOKE ALL ON TABLE "public"."disputes" FROM "authenticated";

GRANT SELECT ON TABLE "public"."disputes" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."disputes" TO "postgres";

REVOKE ALL ON TABLE "public"."disputes" FROM "service_role";

GRANT SELECT ON TABLE "public"."disputes" TO "service_role";

REVOKE ALL ON TABLE "public"."payments" FROM "authenticated";

GRANT SELECT ON TABLE "public"."payments" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."payments" TO "postgres";

REVOKE ALL ON TABLE "public"."payments" FROM "service_role";

GRANT SELECT ON TABLE "public"."payments" TO "service_role";

REVOKE ALL ON TABLE "public"."plan_features" FROM "authenticated";

GRANT SELECT ON TABLE "public"."plan_features" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."plan_features" TO "postgres";

REVOKE ALL ON TABLE "public"."plan_features" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."plan_features" TO "service_role";

REVOKE ALL ON TABLE "public"."plan_prices" FROM "authenticated";

GRANT SELECT ON TABLE "public"."plan_prices" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."plan_prices" TO "postgres";

REVOKE ALL ON TABLE "public"."plan_prices" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."plan_prices" TO "service_role";

REVOKE ALL ON TABLE "public"."refunds" FROM "authenticated";

GRANT SELECT ON TABLE "public"."refunds" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."refunds" TO "postgres";

REVOKE ALL ON TABLE "public"."refunds" FROM "service_role";

GRANT SELECT ON TABLE "public"."refunds" TO "service_role";

REVOKE ALL ON TABLE "public"."subscriptions" FROM "authenticated";

GRANT SELECT ON TABLE "public"."subscriptions" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."subscriptions" TO "postgres";

REVOKE ALL ON TABLE "public"."subscriptions" FROM "service_role";

GRANT SELECT ON TABLE "public"."subscriptions" TO "service_role";

GRANT USAGE ON TYPE "private"."stripe_grant" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."entitled_profiles" TO "postgres";

select cron.schedule('apply-stripe-events', '15 seconds', 'select private.call_apply_stripe_events()');

select cron.schedule('delete-old-checkouts', '32 0 * * *', 'select private.delete_old_checkouts()');

select cron.schedule('delete-old-stripe-events', '30 * * * *', 'select private.delete_old_stripe_events()');

select cron.schedule('reconcile-stripe', '20 3 * * *', 'select private.call_reconcile_stripe()');

select cron.schedule('send-dunning', '*/15 * * * *', 'select private.send_dunning()');

select cron.schedule('start-retention-clocks', '*/5 * * * *', 'select private.start_retention_clocks()');

COMMENT ON COLUMN "private"."checkouts"."id" IS 'Also the idempotency key at Stripe: who asks twice gets one session.';

REVOKE ALL ON TABLE "public"."credit_packs" FROM "anon";

REVOKE ALL ON TABLE "public"."disputes" FROM "anon";

REVOKE ALL ON TABLE "public"."payments" FROM "anon";

REVOKE ALL ON TABLE "public"."plan_features" FROM "anon";

REVOKE ALL ON TABLE "public"."plan_prices" FROM "anon";

REVOKE ALL ON TABLE "public"."refunds" FROM "anon";

REVOKE ALL ON TABLE "public"."subscriptions" FROM "anon";
