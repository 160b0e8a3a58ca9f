-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

-- By hand: the diff takes pgsodium for a part of the platform, and new projects do not have it.
CREATE EXTENSION IF NOT EXISTS "pgsodium";

DROP FUNCTION "private"."open_provider_key"(uuid, uuid, text);

CREATE TABLE "private"."credential_secrets" ("credential_id" uuid NOT NULL, "field" text NOT NULL, "scheme" text NOT NULL, "data_key_id" uuid NOT NULL, "nonce" bytea NOT NULL, "ciphertext" bytea NOT NULL, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credential_secrets_ciphertext_check" CHECK (((octet_length(ciphertext) >= 32) AND (octet_length(ciphertext) <= 10000))), CONSTRAINT "credential_secrets_field_check" CHECK ((field = ANY (ARRAY['api_key'::text, 'api_secret'::text, 'passphrase'::text]))), CONSTRAINT "credential_secrets_nonce_check" CHECK ((octet_length(nonce) = 16)), CONSTRAINT "credential_secrets_pkey" PRIMARY KEY (credential_id, field));

CREATE TABLE "private"."data_keys" ("purpose" text NOT NULL, "scheme" text NOT NULL, "secret_id" uuid NOT NULL, "is_current" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "retired_at" timestamp with time zone, CONSTRAINT "data_keys_check" CHECK (((retired_at IS NULL) OR (NOT is_current))), CONSTRAINT "data_keys_purpose_check" CHECK ((purpose = ANY (ARRAY['credentials'::text, 'transfers'::text]))), CONSTRAINT "data_keys_scheme_check" CHECK ((scheme = ANY (ARRAY['aead-det'::text, 'A256CBC-HS512'::text]))), CONSTRAINT "data_keys_secret_id_key" UNIQUE (secret_id), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "data_keys_id_scheme_key" UNIQUE (id, scheme), CONSTRAINT "data_keys_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."exchange_pauses" ("exchange_id" text NOT NULL, "paused_until" timestamp with time zone NOT NULL, CONSTRAINT "exchange_pauses_pkey" PRIMARY KEY (exchange_id));

CREATE TABLE "private"."exchanges" ("id" text NOT NULL, "name" text NOT NULL, "enabled" boolean NOT NULL DEFAULT true, "base_url" text, "price_asset" text, CONSTRAINT "exchanges_base_url_check" CHECK (((base_url ~ '^https?://'::text) AND (length(base_url) <= 200))), CONSTRAINT "exchanges_id_check" CHECK ((id ~ '^[a-z0-9]{2,40}$'::text)), CONSTRAINT "exchanges_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 80))), CONSTRAINT "exchanges_pkey" PRIMARY KEY (id), CONSTRAINT "exchanges_price_asset_check" CHECK (((length(price_asset) >= 1) AND (length(price_asset) <= 40))));

CREATE TABLE "private"."portfolio_disposals" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "trade_id" text NOT NULL, "position" integer NOT NULL, "disposed_at" timestamp with time zone NOT NULL, "lot_trade_id" text, "amount" numeric NOT NULL, "proceeds" numeric, "cost" numeric, CONSTRAINT "portfolio_disposals_amount_check" CHECK ((amount > (0)::numeric)), CONSTRAINT "portfolio_disposals_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_disposals_lot_trade_id_check" CHECK ((length(lot_trade_id) <= 200)), CONSTRAINT "portfolio_disposals_pkey" PRIMARY KEY (credential_id, asset, trade_id, "position"), CONSTRAINT "portfolio_disposals_position_check" CHECK (("position" > 0)), CONSTRAINT "portfolio_disposals_trade_id_check" CHECK ((length(trade_id) <= 200)));

CREATE TABLE "private"."portfolio_downsamples" ("granularity" text NOT NULL, "done_until" timestamp with time zone NOT NULL, CONSTRAINT "portfolio_downsamples_granularity_check" CHECK ((granularity = ANY (ARRAY['1h'::text, '1d'::text]))), CONSTRAINT "portfolio_downsamples_pkey" PRIMARY KEY (granularity));

CREATE TABLE "private"."portfolio_lots" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "trade_id" text NOT NULL, "acquired_at" timestamp with time zone NOT NULL, "amount" numeric NOT NULL, "remaining" numeric NOT NULL, "cost" numeric, CONSTRAINT "portfolio_lots_amount_check" CHECK ((amount > (0)::numeric)), CONSTRAINT "portfolio_lots_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_lots_check" CHECK (((remaining >= (0)::numeric) AND (remaining <= amount))), CONSTRAINT "portfolio_lots_pkey" PRIMARY KEY (credential_id, asset, trade_id), CONSTRAINT "portfolio_lots_trade_id_check" CHECK ((length(trade_id) <= 200)));

CREATE TABLE "private"."portfolio_positions" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "realised" numeric NOT NULL DEFAULT 0, "unknown_cost_sold" numeric NOT NULL DEFAULT 0, "unknown_cost_proceeds" numeric NOT NULL DEFAULT 0, "unvalued_sold" numeric NOT NULL DEFAULT 0, CONSTRAINT "portfolio_positions_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_positions_pkey" PRIMARY KEY (credential_id, asset));

CREATE TABLE "private"."portfolio_syncs" ("credential_id" uuid NOT NULL, "user_id" uuid NOT NULL, "lease_id" uuid, "leased_until" timestamp with time zone, "attempts" integer NOT NULL DEFAULT 0, "next_sync_at" timestamp with time zone NOT NULL DEFAULT now(), "last_synced_at" timestamp with time zone, "cursor" jsonb NOT NULL DEFAULT '{}'::jsonb, "error" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "portfolio_syncs_attempts_check" CHECK ((attempts >= 0)), CONSTRAINT "portfolio_syncs_cursor_check" CHECK ((length((cursor)::text) <= 16000)), CONSTRAINT "portfolio_syncs_error_check" CHECK ((length(error) <= 500)), CONSTRAINT "portfolio_syncs_lease_id_key" UNIQUE (lease_id), CONSTRAINT "portfolio_syncs_pkey" PRIMARY KEY (credential_id));

CREATE TABLE "private"."secret_transfers" ("user_id" uuid NOT NULL, "scheme" text NOT NULL, "data_key_id" uuid NOT NULL, "nonce" bytea NOT NULL, "ciphertext" bytea NOT NULL, "used_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "secret_transfers_ciphertext_check" CHECK (((octet_length(ciphertext) >= 32) AND (octet_length(ciphertext) <= 1000))), CONSTRAINT "secret_transfers_nonce_check" CHECK ((octet_length(nonce) = 16)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "secret_transfers_pkey" PRIMARY KEY (id));

CREATE TABLE "public"."credentials" ("user_id" uuid NOT NULL, "kind" text NOT NULL, "provider" text NOT NULL, "name" text NOT NULL, "last_four" text NOT NULL, "permissions" text[] NOT NULL DEFAULT '{}'::text[], "status" text NOT NULL DEFAULT 'pending'::text, "status_reason" text, "last_tested_at" timestamp with time zone, "version" integer NOT NULL DEFAULT 1, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credentials_kind_check" CHECK ((kind = ANY (ARRAY['exchange'::text, 'ai_provider'::text]))), CONSTRAINT "credentials_last_four_check" CHECK ((length(last_four) <= 4)), CONSTRAINT "credentials_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 100))), CONSTRAINT "credentials_permissions_check" CHECK ((cardinality(permissions) <= 20)), CONSTRAINT "credentials_provider_check" CHECK (((length(provider) >= 1) AND (length(provider) <= 80))), CONSTRAINT "credentials_status_check" CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'failed'::text]))), CONSTRAINT "credentials_status_reason_check" CHECK ((length(status_reason) <= 80)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "credentials_id_user_id_key" UNIQUE (id, user_id), CONSTRAINT "credentials_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."credentials" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."credentials" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."holdings" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "user_id" uuid NOT NULL, "amount" numeric NOT NULL, "price" numeric, "value" numeric, "quote_currency" text NOT NULL, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "holdings_amount_check" CHECK (((amount >= (0)::numeric) AND (amount < '100000000000000000000'::numeric) AND (amount = trunc(amount, 18)))), CONSTRAINT "holdings_asset_check" CHECK (((length(asset) >= 1) AND (length(asset) <= 40))), CONSTRAINT "holdings_pkey" PRIMARY KEY (credential_id, asset), CONSTRAINT "holdings_price_check" CHECK (((price > (0)::numeric) AND (price < '100000000000000000000'::numeric) AND (price = trunc(price, 18)))), CONSTRAINT "holdings_quote_currency_check" CHECK (((length(quote_currency) >= 1) AND (length(quote_currency) <= 40))), CONSTRAINT "holdings_value_is_exact" CHECK ((NOT (value IS DISTINCT FROM (amount * price)))));

ALTER TABLE "public"."holdings" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."holdings" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."portfolio_snapshots" ("user_id" uuid NOT NULL, "credential_id" uuid, "taken_at" timestamp with time zone NOT NULL, "value" numeric NOT NULL, "quote_currency" text NOT NULL, "granularity" text NOT NULL) PARTITION BY RANGE (taken_at);

CREATE TABLE "private"."portfolio_snapshots_default" PARTITION OF "public"."portfolio_snapshots" DEFAULT;

ALTER TABLE "public"."portfolio_snapshots" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."portfolio_snapshots" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."trades" ("credential_id" uuid NOT NULL, "exchange_trade_id" text NOT NULL, "user_id" uuid NOT NULL, "executed_at" timestamp with time zone NOT NULL, "side" text NOT NULL, "base" text NOT NULL, "quote" text NOT NULL, "amount" numeric NOT NULL, "price" numeric NOT NULL, "fee" numeric NOT NULL DEFAULT 0, "fee_asset" text, "quote_price" numeric, "fee_price" numeric, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "trades_amount_check" CHECK (((amount > (0)::numeric) AND (amount < '100000000000000000000'::numeric) AND (amount = trunc(amount, 18)))), CONSTRAINT "trades_base_check" CHECK (((length(base) >= 1) AND (length(base) <= 40))), CONSTRAINT "trades_exchange_trade_id_check" CHECK (((length(exchange_trade_id) >= 1) AND (length(exchange_trade_id) <= 200))), CONSTRAINT "trades_executed_at_check" CHECK (isfinite(executed_at)), CONSTRAINT "trades_fee_asset_check" CHECK (((length(fee_asset) >= 1) AND (length(fee_asset) <= 40))), CONSTRAINT "trades_fee_check" CHECK (((abs(fee) < '100000000000000000000'::numeric) AND (fee = trunc(fee, 18)))), CONSTRAINT "trades_fee_has_an_asset" CHECK (((fee = (0)::numeric) OR (fee_asset IS NOT NULL))), CONSTRAINT "trades_fee_leaves_some_base" CHECK (((fee_asset IS DISTINCT FROM base) OR (abs(fee) < amount))), CONSTRAINT "trades_fee_price_check" CHECK (((fee_price > (0)::numeric) AND (fee_price < '100000000000000000000'::numeric) AND (fee_price = trunc(fee_price, 18)))), CONSTRAINT "trades_pkey" PRIMARY KEY (credential_id, exchange_trade_id), CONSTRAINT "trades_price_check" CHECK (((price > (0)::numeric) AND (price < '100000000000000000000'::numeric) AND (price = trunc(price, 18)))), CONSTRAINT "trades_quote_check" CHECK (((length(quote) >= 1) AND (length(quote) <= 40))), CONSTRAINT "trades_quote_is_not_base" CHECK ((quote <> base)), CONSTRAINT "trades_quote_price_check" CHECK (((quote_price > (0)::numeric) AND (quote_price < '100000000000000000000'::numeric) AND (quote_price = trunc(quote_price, 18)))), CONSTRAINT "trades_side_check" CHECK ((side = ANY (ARRAY['buy'::text, 'sell'::text]))));

ALTER TABLE "public"."trades" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."trades" FORCE ROW LEVEL SECURITY;

ALTER TABLE "public"."portfolio_snapshots" ALTER COLUMN "granularity" SET DEFAULT '5m'::text;

CREATE TYPE "private"."sealed" AS ("scheme" text, "data_key_id" uuid, "nonce" bytea, "ciphertext" bytea);

CREATE OR REPLACE FUNCTION private.begin_credential_test(id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  perform private.lock_account(v_user_id);
  if not exists (select from public.credentials c where c.id = begin_credential_test.id and c.user_id = v_user_id) then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  -- Providers count failed keys against the address they come from, and that is ours.
  update public.credentials c set last_tested_at = now()
  where c.id = begin_credential_test.id
    and coalesce(c.last_tested_at, '-infinity') <= now() - make_interval(secs => (private.setting('credentials.test_pause_seconds'))::integer);
  if not found then
    perform private.raise_error('rate_limit_exceeded', 'This credential was tested a moment ago. Try again in a while.');
  end if;
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
    where s.next_sync_at <= now() and (s.leased_until is null or s.leased_until <= now()))
  then
    return private.call_jobs_function('sync-portfolios');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.cbc_hmac_tag(mac_key bytea, associated_data bytea, nonce bytea, ciphertext bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
  return substring(extensions.hmac(
    associated_data || nonce || ciphertext || int8send(8 * octet_length(associated_data)::bigint), mac_key, 'sha512') for 32);
end $function$;

CREATE OR REPLACE FUNCTION private.change_credential(id uuid, name text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  if change_credential.name is not null and private.text_or_null(change_credential.name, 100) is null then
    perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
  end if;
  if change_credential.name is null then
    delete from public.credentials c where c.id = change_credential.id and c.user_id = v_user_id;
  else
    update public.credentials c set name = private.text_or_null(change_credential.name, 100)
    where c.id = change_credential.id and c.user_id = v_user_id;
  end if;
  if not found then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  perform private.audit(action => case when change_credential.name is null then 'credential.delete' else 'credential.rename' end,
    resource_type => 'credential', resource_id => change_credential.id::text, user_id => v_user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.count_portfolio_disposals(credential_id uuid, asset text, from_time timestamp with time zone, sign integer)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  insert into private.portfolio_positions as p
    (credential_id, asset, realised, unknown_cost_sold, unknown_cost_proceeds, unvalued_sold)
  select count_portfolio_disposals.credential_id, count_portfolio_disposals.asset,
    sign * coalesce(sum(d.proceeds - d.cost), 0),
    sign * coalesce(sum(d.amount) filter (where d.cost is null), 0),
    sign * coalesce(sum(d.proceeds) filter (where d.cost is null), 0),
    sign * coalesce(sum(d.amount) filter (where d.proceeds is null), 0)
  from private.portfolio_disposals d
  where d.credential_id = count_portfolio_disposals.credential_id and d.asset = count_portfolio_disposals.asset
    and d.disposed_at >= from_time
  on conflict on constraint portfolio_positions_pkey do update set
    realised = p.realised + excluded.realised,
    unknown_cost_sold = p.unknown_cost_sold + excluded.unknown_cost_sold,
    unknown_cost_proceeds = p.unknown_cost_proceeds + excluded.unknown_cost_proceeds,
    unvalued_sold = p.unvalued_sold + excluded.unvalued_sold
$function$;

CREATE OR REPLACE FUNCTION private.create_portfolio_partitions()
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
    v_name := 'portfolio_snapshots_' || to_char(v_month, 'YYYYMM');
    if to_regclass(format('private.%I', v_name)) is null then
      v_from := v_month at time zone 'UTC';
      v_to := (v_month + interval '1 month') at time zone 'UTC';
      execute format('create table private.%I (like public.portfolio_snapshots including defaults including constraints)', v_name);
      execute format('revoke all on private.%I from anon, authenticated, service_role', v_name);
      -- Snapshots that came while there was no partition are in the default one, and would forbid this one.
      execute format(
        'with late as (delete from private.portfolio_snapshots_default where taken_at >= %L and taken_at < %L returning *)
        insert into private.%I select * from late', v_from, v_to, v_name);
      execute format(
        'alter table public.portfolio_snapshots attach partition private.%I for values from (%L) to (%L)', v_name, v_from, v_to);
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end $function$;

CREATE OR REPLACE FUNCTION private.current_data_key(purpose text)
 RETURNS private.data_keys
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.downsample_portfolio_day(day timestamp with time zone, granularity text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
 SET enable_nestloop TO 'off'
AS $function$
declare
  v_width interval := case downsample_portfolio_day.granularity when '1h' then interval '1 hour' else interval '1 day' end;
  v_deleted bigint;
begin
  with ranked as (
    select s.user_id, s.credential_id, s.taken_at,
      lead(true) over (partition by s.user_id, s.credential_id, date_bin(v_width, s.taken_at, day) order by s.taken_at) as has_later
    from public.portfolio_snapshots s
    where s.taken_at >= day and s.taken_at < day + interval '24 hours'
  )
  delete from public.portfolio_snapshots s using ranked r
  where s.taken_at >= day and s.taken_at < day + interval '24 hours'
    and r.has_later and s.user_id = r.user_id and s.taken_at = r.taken_at and s.credential_id is not distinct from r.credential_id;
  get diagnostics v_deleted = row_count;
  update public.portfolio_snapshots s set granularity = downsample_portfolio_day.granularity
  where s.taken_at >= day and s.taken_at < day + interval '24 hours' and s.granularity <> downsample_portfolio_day.granularity;
  return v_deleted;
end $function$;

CREATE OR REPLACE FUNCTION private.downsample_portfolio_snapshots(max_days integer DEFAULT 31)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_step record;
  v_day timestamptz;
  v_days integer;
  v_deleted bigint := 0;
begin
  -- One at a time; a second run finds nothing to do.
  lock table private.portfolio_downsamples in share row exclusive mode;
  for v_step in
    select g.granularity, date_trunc('day', now() - make_interval(days => g.days), 'UTC') as until
    from (values ('1h', (private.setting('portfolio.hourly_after_days'))::integer),
      ('1d', (private.setting('portfolio.daily_after_days'))::integer)) g (granularity, days)
  loop
    select coalesce((select d.done_until from private.portfolio_downsamples d where d.granularity = v_step.granularity),
      (select date_trunc('day', min(s.taken_at), 'UTC') from public.portfolio_snapshots s))
    into v_day;
    v_days := 0;
    while v_day < v_step.until and v_days < max_days loop
      v_deleted := v_deleted + private.downsample_portfolio_day(v_day, v_step.granularity);
      v_day := v_day + interval '24 hours';
      v_days := v_days + 1;
    end loop;
    insert into private.portfolio_downsamples (granularity, done_until) select v_step.granularity, v_day where v_day is not null
    on conflict on constraint portfolio_downsamples_pkey do update set done_until = excluded.done_until;
  end loop;
  return v_deleted;
end $function$;

CREATE OR REPLACE FUNCTION private.error_status(code text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE code WHEN 'invalid_request_error'::text THEN 400 WHEN 'invalid_api_key'::text THEN 401 WHEN 'model_not_priced'::text THEN 400 WHEN 'insufficient_credits'::text THEN 402 WHEN 'insufficient_quota'::text THEN 402 WHEN 'in_flight_budget_exhausted'::text THEN 402 WHEN 'account_pending'::text THEN 403 WHEN 'account_suspended'::text THEN 403 WHEN 'insufficient_aal'::text THEN 403 WHEN 'model_not_allowed'::text THEN 403 WHEN 'not_allowed'::text THEN 403 WHEN 'model_not_found'::text THEN 404 WHEN 'not_found'::text THEN 404 WHEN 'idempotency_key_reused'::text THEN 422 WHEN 'daily_quota_exceeded'::text THEN 429 WHEN 'rate_limit_exceeded'::text THEN 429 WHEN 'concurrency_limit'::text THEN 429 WHEN 'mfa_required'::text THEN 403 WHEN 'invalid_signature'::text THEN 401 WHEN 'spend_cap_reached'::text THEN 402 WHEN 'circuit_open'::text THEN 503 WHEN 'idempotency_in_progress'::text THEN 409 WHEN 'idempotency_not_replayable'::text THEN 409 WHEN 'credential_unreadable'::text THEN 409 ELSE NULL::integer END;

CREATE OR REPLACE FUNCTION private.exact_share(total numeric, part numeric, whole numeric)
 RETURNS numeric
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN trim_scale((div(((total * part) * '1000000000000000000'::numeric), whole) * 0.000000000000000001));

CREATE OR REPLACE FUNCTION private.fail_portfolio_sync(lease_id uuid, error text, pause_seconds integer DEFAULT NULL::integer, refused_version integer DEFAULT NULL::integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_sync private.portfolio_syncs;
  v_name text;
  v_resumes_at timestamptz := case when pause_seconds is not null
    then now() + make_interval(secs => least(greatest(pause_seconds, 1), 3600)) end;
begin
  update private.portfolio_syncs s set
    lease_id = null, leased_until = null, error = left(fail_portfolio_sync.error, 500),
    -- A rate limit is the exchange's word about all of us, and nothing that this credential did wrong.
    attempts = s.attempts - case when v_resumes_at is null then 0 else 1 end,
    next_sync_at = coalesce(v_resumes_at, now() + private.portfolio_backoff(s.attempts))
  where s.lease_id = fail_portfolio_sync.lease_id
  returning s.* into v_sync;
  if v_sync.credential_id is null then
    return false;
  end if;
  update public.credentials c set status = 'failed', status_reason = left(fail_portfolio_sync.error, 80)
  where c.id = v_sync.credential_id and c.version = refused_version and c.status = 'active'
  returning c.name into v_name;
  if found then
    perform private.notify_user(
      user_id => v_sync.user_id, type => 'credential_failed', title => format('%s needs a look', v_name),
      body => 'The exchange does not accept this key any more, so the portfolio is not brought up to date. Test the key, or put another in its place.',
      data => jsonb_build_object('credential_id', v_sync.credential_id, 'reason', fail_portfolio_sync.error));
  end if;
  if v_resumes_at is not null then
    insert into private.exchange_pauses as x (exchange_id, paused_until)
    select c.provider, v_resumes_at from public.credentials c where c.id = v_sync.credential_id
    on conflict (exchange_id) do update set paused_until = greatest(x.paused_until, excluded.paused_until);
  end if;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.keep_credentials_sealed()
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_resealed jsonb;
begin
  delete from private.secret_transfers t where t.created_at < now() - interval '1 hour';
  v_resealed := private.reseal_credentials();
  return v_resealed || jsonb_build_object('retired', private.retire_data_keys());
end $function$;

CREATE OR REPLACE FUNCTION private.lease_portfolio_sync(max_syncs integer DEFAULT 1, of_user uuid DEFAULT NULL::uuid, not_of text[] DEFAULT '{}'::text[])
 RETURNS TABLE(credential_id uuid, user_id uuid, exchange_id text, lease_id uuid, leased_until timestamp with time zone, cursor jsonb, quote_currency text, base_url text, price_asset text, held text[])
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lease interval := make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer);
begin
  return query
    with due as (
      select s.credential_id, c.provider, e.base_url, e.price_asset
      from private.portfolio_syncs s
        join public.credentials c on c.id = s.credential_id and c.kind = 'exchange' and c.status = 'active'
        join private.exchanges e on e.id = c.provider and e.enabled
        join public.profiles p on p.id = s.user_id and p.status = 'active'
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

CREATE OR REPLACE FUNCTION private.my_portfolio()
 RETURNS TABLE(asset text, amount numeric, price numeric, value numeric, quote_currency text, cost numeric, unrealised numeric, realised numeric, unknown_cost_amount numeric, unknown_cost_sold numeric, unknown_cost_proceeds numeric, unvalued_sold numeric, updated_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
begin
  return query
    with mine as (
      select c.id from public.credentials c where c.user_id = v_user_id and c.kind = 'exchange'
    ), lots as (
      select l.credential_id, l.asset, sum(l.remaining) as amount, sum(private.exact_share(l.cost, l.remaining, l.amount)) as cost
      from mine m join private.portfolio_lots l on l.credential_id = m.id
      where l.remaining > 0 and l.cost is not null
      group by l.credential_id, l.asset
    ), known as (
      -- Lots that left without a trade, by a withdrawal, take their share of the cost along.
      select h.credential_id, h.asset, h.amount, h.price, h.value, h.updated_at,
        case when l.amount is null then 0 else least(h.amount, l.amount) end as known_amount,
        case when h.amount >= l.amount then l.cost else private.exact_share(l.cost, h.amount, l.amount) end as cost
      from public.holdings h
        left join lots l on l.credential_id = h.credential_id and l.asset = h.asset
      where h.user_id = v_user_id
    ), held as (
      select k.asset, sum(k.amount) as amount, (array_agg(k.price order by k.updated_at desc))[1] as price,
        case when count(k.value) = count(*) then sum(k.value) end as value, coalesce(sum(k.cost), 0) as cost,
        case when bool_and(k.price is not null or k.known_amount = 0)
          then coalesce(sum(k.known_amount * k.price - k.cost), 0) end as unrealised,
        sum(k.amount - k.known_amount) as unknown_cost_amount, min(k.updated_at) as updated_at
      from known k group by k.asset
    ), sold as (
      select p.asset, sum(p.realised) as realised, sum(p.unknown_cost_sold) as unknown_cost_sold,
        sum(p.unknown_cost_proceeds) as unknown_cost_proceeds, sum(p.unvalued_sold) as unvalued_sold
      from mine m join private.portfolio_positions p on p.credential_id = m.id
      group by p.asset
    )
    select coalesce(h.asset, s.asset), coalesce(h.amount, 0), h.price, case when h.asset is null then 0 else h.value end, v_currency,
      trim_scale(case when h.asset = v_currency then h.amount else coalesce(h.cost, 0) end),
      trim_scale(case when h.asset is null then 0 else h.unrealised end),
      trim_scale(coalesce(s.realised, 0)),
      -- The currency itself costs what it is worth.
      case when h.asset = v_currency then 0 else coalesce(h.unknown_cost_amount, 0) end,
      trim_scale(coalesce(s.unknown_cost_sold, 0)), trim_scale(coalesce(s.unknown_cost_proceeds, 0)),
      trim_scale(coalesce(s.unvalued_sold, 0)), h.updated_at
    from held h full join sold s on s.asset = h.asset
    order by h.value desc nulls last, 1;
end $function$;

CREATE OR REPLACE FUNCTION private.my_portfolio_series("from" timestamp with time zone, "to" timestamp with time zone, points integer, credential_id uuid)
 RETURNS TABLE(taken_at timestamp with time zone, value numeric, quote_currency text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_from timestamptz := my_portfolio_series."from";
  v_seconds double precision;
begin
  if not coalesce(isfinite(v_from) and isfinite(my_portfolio_series."to") and v_from < my_portfolio_series."to", false) then
    perform private.raise_error('invalid_request_error', '"from" and "to" must be two moments in this order.');
  end if;
  if coalesce(points not between 2 and 1000, true) then
    perform private.raise_error('invalid_request_error', 'points must be from 2 to 1000.');
  end if;
  v_seconds := extract(epoch from my_portfolio_series."to") - extract(epoch from v_from);
  if my_portfolio_series.credential_id is null then
    return query
      select s.taken_at, s.value, s.quote_currency
      from generate_series(0, points - 1) i cross join lateral (
        select x.taken_at, x.value, x.quote_currency from public.portfolio_snapshots x
        where x.user_id = v_user_id and x.credential_id is null
          and x.taken_at >= v_from + make_interval(secs => v_seconds * i / points)
          and x.taken_at < v_from + make_interval(secs => v_seconds * (i + 1) / points)
        -- They are all null; without the word the planner reads the whole bucket and sorts it.
        order by x.credential_id desc, x.taken_at desc limit 1) s
      order by i;
  else
    return query
      select s.taken_at, s.value, s.quote_currency
      from generate_series(0, points - 1) i cross join lateral (
        select x.taken_at, x.value, x.quote_currency from public.portfolio_snapshots x
        where x.user_id = v_user_id and x.credential_id = my_portfolio_series.credential_id
          and x.taken_at >= v_from + make_interval(secs => v_seconds * i / points)
          and x.taken_at < v_from + make_interval(secs => v_seconds * (i + 1) / points)
        order by x.taken_at desc limit 1) s
      order by i;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.my_portfolio_syncs()
 RETURNS TABLE(credential_id uuid, exchange text, name text, status text, is_running boolean, error text, last_synced_at timestamp with time zone, next_sync_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  return query
    select c.id, c.provider, c.name, c.status, coalesce(s.leased_until > now(), false), coalesce(s.error, c.status_reason),
      s.last_synced_at, case when c.status = 'active' then s.next_sync_at end
    from public.credentials c left join private.portfolio_syncs s on s.credential_id = c.id
    where c.user_id = v_user_id and c.kind = 'exchange'
    order by c.id;
end $function$;

CREATE OR REPLACE FUNCTION private.new_data_key(purpose text)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.note_credential_test(credential_id uuid, version integer, reason text, permissions text[] DEFAULT '{}'::text[])
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_service();
  update public.credentials c set
    status = case when note_credential_test.reason is null then 'active' else 'failed' end,
    status_reason = note_credential_test.reason, permissions = note_credential_test.permissions, last_tested_at = now()
  where c.id = note_credential_test.credential_id and c.version = note_credential_test.version;
  return found;
end $function$;

CREATE OR REPLACE FUNCTION private.open(credential_id uuid, purpose text, request_id text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
  if not found then
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
end $function$;

CREATE OR REPLACE FUNCTION private.open_provider_key(user_id uuid, credential_id uuid, provider_id text, request_id text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if not exists (
    select from public.credentials c
    where c.id = open_provider_key.credential_id and c.user_id = open_provider_key.user_id and c.kind = 'ai_provider'
      and c.provider = open_provider_key.provider_id and c.status = 'active') then
    return null;
  end if;
  return private.open(open_provider_key.credential_id, 'ai_call', open_provider_key.request_id) #>> '{fields,api_key}';
end $function$;

CREATE OR REPLACE FUNCTION private.pause_portfolio_sync(lease_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  update private.portfolio_syncs s set
    lease_id = null, leased_until = null, attempts = 0, error = null, next_sync_at = now()
  where s.lease_id = pause_portfolio_sync.lease_id;
  return found;
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
          'message', format('Your plan does not include the model %s.', v_hold.model_id), 'details', v_param)
        when v_route.price is null then jsonb_build_object('code', 'model_not_priced',
          'message', format('The model %s has no price yet, so it cannot be used.', v_hold.model_id), 'details', v_param)
      end;
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

CREATE OR REPLACE FUNCTION private.portfolio_backoff(attempts integer)
 RETURNS interval
 LANGUAGE sql
 SET search_path TO ''
RETURN (LEAST(('00:01:00'::interval * power((2)::double precision, ((LEAST(attempts, 20) - 1))::double precision)), '06:00:00'::interval) * ((0.9)::double precision + ((0.2)::double precision * random())));

CREATE OR REPLACE FUNCTION private.portfolio_movements(trade public.trades, currency text)
 RETURNS TABLE(asset text, amount numeric, value numeric)
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
AS $function$
declare
  v_sign integer := case trade.side when 'buy' then 1 else -1 end;
  v_fee_base numeric := case when trade.fee_asset = trade.base then trade.fee else 0 end;
  v_fee_quote numeric := case when trade.fee_asset = trade.quote then trade.fee else 0 end;
  v_fee_third numeric := trade.fee - v_fee_base - v_fee_quote;
  v_base numeric := v_sign * trade.amount - v_fee_base;
  v_quote numeric := -v_sign * trade.amount * trade.price - v_fee_quote;
  v_quote_value numeric := v_quote * case when trade.quote = currency then 1 else trade.quote_price end;
  v_fee_value numeric := v_fee_third * case when v_fee_third = 0 or trade.fee_asset = currency then 1 else trade.fee_price end;
begin
  if trade.base <> currency then
    asset := trade.base;
    amount := v_base;
    value := trunc(-v_quote_value + coalesce(v_fee_value, 0), 18);
    return next;
  end if;
  if trade.quote <> currency and v_quote <> 0 then
    asset := trade.quote;
    amount := v_quote;
    -- When the base is the currency, it says what the quote was worth; nobody needs a price.
    value := trunc(case when trade.base = currency then -v_base + coalesce(v_fee_value, 0) else v_quote_value end, 18);
    return next;
  end if;
  if v_fee_third <> 0 and trade.fee_asset <> currency then
    asset := trade.fee_asset;
    amount := -v_fee_third;
    value := trunc(-v_fee_value, 18);
    return next;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.record_portfolio_sync(lease_id uuid, holdings jsonb, prices jsonb, trades jsonb, cursor jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
  v_sync private.portfolio_syncs;
  v_saved record;
  -- JSON's null is what clients send for SQL's.
  v_holdings jsonb := nullif(record_portfolio_sync.holdings, 'null');
  v_cursor jsonb := nullif(record_portfolio_sync.cursor, 'null');
  v_is_valued boolean;
  v_value numeric;
  v_total numeric;
  v_taken_at timestamptz;
begin
  -- One sync of a user after the other, always in the same order: the total is the sum of all credentials.
  perform from private.portfolio_syncs s
  where s.user_id = (select l.user_id from private.portfolio_syncs l where l.lease_id = record_portfolio_sync.lease_id)
  order by s.credential_id for update;
  select s.* into v_sync from private.portfolio_syncs s where s.lease_id = record_portfolio_sync.lease_id;
  if not found then
    return jsonb_build_object('recorded', false);
  end if;

  select t.new_ids, t.from_times into v_saved
  from private.save_trades(v_sync, nullif(prices, 'null'), coalesce(nullif(record_portfolio_sync.trades, 'null'), '[]'), v_currency) t;
  perform private.replay_portfolio(v_sync.credential_id, a.key, a.value::timestamptz, v_currency)
  from jsonb_each_text(v_saved.from_times) a order by a.key;
  if cardinality(v_saved.new_ids) > 0 then
    perform realtime.send(
      jsonb_build_object('credential_id', v_sync.credential_id, 'new_trades', cardinality(v_saved.new_ids)),
      'trade', 'user:' || v_sync.user_id, true);
  end if;

  if v_holdings is null then
    update private.portfolio_syncs s set
      cursor = coalesce(v_cursor, s.cursor),
      leased_until = now() + make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer)
    where s.credential_id = v_sync.credential_id;
    return jsonb_build_object('recorded', true, 'new_trades', to_jsonb(v_saved.new_ids), 'is_complete', false);
  end if;

  delete from public.holdings h where h.credential_id = v_sync.credential_id;
  insert into public.holdings (credential_id, user_id, asset, amount, price, value, quote_currency)
  select v_sync.credential_id, v_sync.user_id, r.asset, trim_scale(r.amount), trim_scale(p.price), trim_scale(r.amount * p.price), v_currency
  from (
      select h.asset, sum(h.amount) as amount
      from jsonb_to_recordset(v_holdings) h (asset text, amount numeric)
      group by h.asset having sum(h.amount) <> 0) r
    cross join lateral (
      select case when r.asset = v_currency then 1 else (nullif(prices, 'null') ->> r.asset)::numeric end as price) p;
  select trim_scale(coalesce(sum(h.value) filter (where h.credential_id = v_sync.credential_id), 0)), trim_scale(coalesce(sum(h.value), 0)),
    count(*) filter (where h.credential_id = v_sync.credential_id) = 0
      or count(h.value) filter (where h.credential_id = v_sync.credential_id) > 0
  into v_value, v_total, v_is_valued from public.holdings h where h.user_id = v_sync.user_id;
  -- Without any price the chart would fall to zero.
  if v_is_valued then
    perform private.save_snapshot(v_sync.user_id, v_sync.credential_id, v_value, v_currency);
    v_taken_at := private.save_snapshot(v_sync.user_id, null, v_total, v_currency);
    perform realtime.send(
      jsonb_build_object('credential_id', v_sync.credential_id, 'value', v_value, 'total', v_total, 'quote_currency', v_currency,
        'taken_at', v_taken_at),
      'snapshot', 'user:' || v_sync.user_id, true);
  end if;
  update private.portfolio_syncs s set
    lease_id = null, leased_until = null, attempts = 0, error = null, last_synced_at = now(),
    cursor = coalesce(v_cursor, s.cursor),
    next_sync_at = now()
      + make_interval(mins => (private.setting('portfolio.sync_minutes'))::integer) * (0.9 + 0.2 * random())
  where s.credential_id = v_sync.credential_id;
  return jsonb_build_object('recorded', true, 'new_trades', to_jsonb(v_saved.new_ids), 'is_complete', true,
    'value', v_value, 'total', v_total, 'taken_at', v_taken_at);
end $function$;

CREATE OR REPLACE FUNCTION private.replay_portfolio(credential_id uuid, asset text, from_time timestamp with time zone, currency text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lots private.portfolio_lots[];
  v_disposals private.portfolio_disposals[] := '{}';
  v_first integer := 1;
  v_count integer;
  v_undone record;
  v_movement record;
  v_left numeric;
  v_taken numeric;
  v_position integer;
  v_disposal private.portfolio_disposals;
begin
  perform private.count_portfolio_disposals(replay_portfolio.credential_id, replay_portfolio.asset, from_time, -1);
  delete from private.portfolio_lots l
  where l.credential_id = replay_portfolio.credential_id and l.asset = replay_portfolio.asset and l.acquired_at >= from_time;
  -- One by one: without fresh statistics, a join of both reads one from end to end for each row of the other.
  for v_undone in
    select d.lot_trade_id, sum(d.amount) as amount from private.portfolio_disposals d
    where d.credential_id = replay_portfolio.credential_id and d.asset = replay_portfolio.asset
      and d.disposed_at >= from_time and d.lot_trade_id is not null
    group by d.lot_trade_id
  loop
    update private.portfolio_lots l set remaining = l.remaining + v_undone.amount
    where l.credential_id = replay_portfolio.credential_id and l.asset = replay_portfolio.asset and l.trade_id = v_undone.lot_trade_id;
  end loop;
  delete from private.portfolio_disposals d
  where d.credential_id = replay_portfolio.credential_id and d.asset = replay_portfolio.asset and d.disposed_at >= from_time;

  -- In memory: thousands of trades in one transaction would leave thousands of dead versions of the first lots.
  select coalesce(array_agg(l order by l.acquired_at, length(l.trade_id), l.trade_id collate "C"), '{}') into v_lots
  from private.portfolio_lots l
  where l.credential_id = replay_portfolio.credential_id and l.asset = replay_portfolio.asset and l.remaining > 0;
  v_count := cardinality(v_lots);
  for v_movement in
    select t.exchange_trade_id, t.executed_at, m.amount, m.value
    from public.trades t cross join lateral private.portfolio_movements(t, currency) m
    where t.credential_id = replay_portfolio.credential_id and t.executed_at >= from_time
      and replay_portfolio.asset in (t.base, t.quote, t.fee_asset) and m.asset = replay_portfolio.asset
    order by t.executed_at, length(t.exchange_trade_id), t.exchange_trade_id collate "C"
  loop
    if v_movement.amount > 0 then
      v_count := v_count + 1;
      v_lots[v_count] := row(replay_portfolio.credential_id, replay_portfolio.asset, v_movement.exchange_trade_id,
        v_movement.executed_at, v_movement.amount, v_movement.amount, v_movement.value)::private.portfolio_lots;
      continue;
    end if;
    v_left := -v_movement.amount;
    v_position := 0;
    while v_left > 0 loop
      v_position := v_position + 1;
      v_disposal := row(replay_portfolio.credential_id, replay_portfolio.asset, v_movement.exchange_trade_id, v_position,
        v_movement.executed_at, null, v_left, null, null)::private.portfolio_disposals;
      if v_first <= v_count then
        v_taken := least(v_left, (v_lots[v_first]).remaining);
        v_disposal.lot_trade_id := (v_lots[v_first]).trade_id;
        v_disposal.amount := v_taken;
        v_disposal.cost := private.exact_share((v_lots[v_first]).cost, (v_lots[v_first]).remaining, (v_lots[v_first]).amount)
          - private.exact_share((v_lots[v_first]).cost, (v_lots[v_first]).remaining - v_taken, (v_lots[v_first]).amount);
        v_lots[v_first].remaining := (v_lots[v_first]).remaining - v_taken;
        v_first := v_first + case when (v_lots[v_first]).remaining = 0 then 1 else 0 end;
      end if;
      v_disposal.proceeds := private.exact_share(-v_movement.value, v_left, -v_movement.amount)
        - private.exact_share(-v_movement.value, v_left - v_disposal.amount, -v_movement.amount);
      v_left := v_left - v_disposal.amount;
      v_disposals := array_append(v_disposals, v_disposal);
    end loop;
  end loop;
  insert into private.portfolio_lots as l select u.* from unnest(v_lots) u
  on conflict on constraint portfolio_lots_pkey do update set remaining = excluded.remaining where l.remaining <> excluded.remaining;
  insert into private.portfolio_disposals select u.* from unnest(v_disposals) u;
  perform private.count_portfolio_disposals(replay_portfolio.credential_id, replay_portfolio.asset, from_time, 1);
end $function$;

CREATE OR REPLACE FUNCTION private.reseal_credentials(batch integer DEFAULT 100)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.retire_data_keys()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION private.rotate_credential_keys()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  perform private.new_data_key('credentials');
  perform private.new_data_key('transfers');
end $function$;

CREATE OR REPLACE FUNCTION private.save_credential(transfer_id uuid, nonce bytea, ciphertext bytea, credential_id uuid, kind text, provider text, name text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
    perform private.store_secret(v_credential.id, v_credential.user_id, v_field.key, v_field.value);
  end loop;
  perform private.audit(
    action => case when save_credential.credential_id is null then 'credential.create' else 'credential.rotate' end,
    resource_type => 'credential', resource_id => v_credential.id::text, user_id => v_credential.user_id,
    details => jsonb_build_object('kind', v_credential.kind, 'provider', v_credential.provider));
  return jsonb_build_object('id', v_credential.id, 'version', v_credential.version);
end $function$;

CREATE OR REPLACE FUNCTION private.save_snapshot(user_id uuid, credential_id uuid, value numeric, currency text)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_now timestamptz := clock_timestamp();
begin
  -- Later ones replace it within the same five minutes, so that nobody fills the table by asking often.
  delete from public.portfolio_snapshots s
  where s.user_id = save_snapshot.user_id and s.taken_at >= date_bin('5 minutes', v_now, 'epoch') and s.taken_at <= v_now
    and (s.credential_id = save_snapshot.credential_id or (s.credential_id is null and save_snapshot.credential_id is null));
  insert into public.portfolio_snapshots (user_id, credential_id, taken_at, value, quote_currency)
  values (save_snapshot.user_id, save_snapshot.credential_id, v_now, save_snapshot.value, save_snapshot.currency);
  return v_now;
end $function$;

CREATE OR REPLACE FUNCTION private.save_trades(sync private.portfolio_syncs, prices jsonb, trades jsonb, currency text)
 RETURNS TABLE(new_ids text[], from_times jsonb)
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  with changed as (
    insert into public.trades as t (
      credential_id, exchange_trade_id, user_id, executed_at, side, base, quote, amount, price, fee, fee_asset, quote_price, fee_price)
    select distinct on (r.id) sync.credential_id, r.id, sync.user_id, r.executed_at, r.side, r.base, r.quote, r.amount, r.price,
      coalesce(r.fee, 0), r.fee_asset,
      case when r.quote <> currency then coalesce(r.quote_price, case when fresh.is_fresh then (prices ->> r.quote)::numeric end) end,
      case when r.fee <> 0 and r.fee_asset not in (r.base, r.quote, currency)
        then coalesce(r.fee_price, case when fresh.is_fresh then (prices ->> r.fee_asset)::numeric end) end
    from jsonb_to_recordset(trades) r (
        id text, executed_at timestamptz, side text, base text, quote text, amount numeric, price numeric, fee numeric, fee_asset text,
        quote_price numeric, fee_price numeric)
      cross join lateral (
        select r.executed_at >= now() - make_interval(mins => (private.setting('portfolio.price_minutes'))::integer) as is_fresh) fresh
    order by r.id, r.quote_price, r.fee_price
    on conflict (credential_id, exchange_trade_id) do update set
      quote_price = coalesce(t.quote_price, excluded.quote_price), fee_price = coalesce(t.fee_price, excluded.fee_price)
    where (t.quote_price is null and excluded.quote_price is not null) or (t.fee_price is null and excluded.fee_price is not null)
    -- A row that was there has been locked by this transaction's update; a new one by nobody.
    returning t.exchange_trade_id, t.executed_at, t.base, t.quote, t.fee, t.fee_asset, t.xmax = 0 as is_new
  ), affected as (
    select a.asset, min(c.executed_at) as from_time
    from changed c cross join lateral (values (c.base), (c.quote), (case when c.fee <> 0 then c.fee_asset end)) a (asset)
    where a.asset <> currency
    group by a.asset
  )
  select coalesce((select array_agg(c.exchange_trade_id order by c.executed_at, c.exchange_trade_id) from changed c where c.is_new), '{}'),
    coalesce((select jsonb_object_agg(a.asset, a.from_time) from affected a), '{}')
$function$;

CREATE OR REPLACE FUNCTION private.seal(plain text, owner uuid, context text, purpose text DEFAULT 'credentials'::text)
 RETURNS private.sealed
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_key private.data_keys := private.current_data_key(seal.purpose);
  v_data bytea := convert_to(seal.owner::text || '/' || seal.context, 'UTF8');
  v_nonce bytea;
  v_secret bytea;
  v_ciphertext bytea;
begin
  if seal.plain is null or seal.owner is null or seal.context is null then
    raise exception using errcode = '22004', message = 'private.seal: plain, owner and context must be given';
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
end $function$;

CREATE OR REPLACE FUNCTION private.secret_context(credential_id uuid, field text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN ((('credential_secrets/'::text || credential_id) || '/'::text) || field);

CREATE OR REPLACE FUNCTION private.start_secret_transfer()
 RETURNS TABLE(transfer_id uuid, key text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_sealed private.sealed;
begin
  perform private.require_aal2();
  -- Attempts of one user come one after the other, so that the limit holds.
  perform private.lock_account(v_user_id);
  if (select count(*) from private.secret_transfers t where t.user_id = v_user_id and t.created_at > now() - interval '1 hour')
    >= (private.setting('credentials.changes_per_hour'))::integer then
    perform private.raise_error('rate_limit_exceeded',
      format('Credentials can be added or changed %s times an hour. Try again later.', private.setting('credentials.changes_per_hour')));
  end if;
  transfer_id := private.uuid_v7();
  key := encode(extensions.gen_random_bytes(64), 'hex');
  v_sealed := private.seal(key, v_user_id, 'secret_transfers/' || transfer_id, 'transfers');
  insert into private.secret_transfers (id, user_id, scheme, data_key_id, nonce, ciphertext)
  values (transfer_id, v_user_id, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext);
  return next;
end $function$;

CREATE OR REPLACE FUNCTION private.store_secret(credential_id uuid, owner uuid, field text, plain text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_sealed private.sealed := private.seal(
    store_secret.plain, store_secret.owner, private.secret_context(store_secret.credential_id, store_secret.field));
begin
  insert into private.credential_secrets (credential_id, field, scheme, data_key_id, nonce, ciphertext)
  values (store_secret.credential_id, store_secret.field, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext)
  on conflict on constraint credential_secrets_pkey do update set
    scheme = excluded.scheme, data_key_id = excluded.data_key_id, nonce = excluded.nonce, ciphertext = excluded.ciphertext;
end $function$;

CREATE OR REPLACE FUNCTION private.take_secret_transfer(transfer_id uuid, nonce bytea, ciphertext bytea, OUT user_id uuid, OUT content jsonb)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
  if not found then
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
  -- Not by a cast: its error would tell a part of the text.
  if not pg_input_is_valid(v_text, 'jsonb') then
    perform private.raise_error('invalid_request_error', 'The content of the transfer is not JSON.');
  end if;
  content := v_text::jsonb;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_credentials__portfolio_sync()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  if tg_op = 'UPDATE' and old.status = new.status then
    return null;
  end if;
  insert into private.portfolio_syncs as s (credential_id, user_id) values (new.id, new.user_id)
  on conflict (credential_id) do update set next_sync_at = now(), attempts = 0, error = null where s.lease_id is null;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.unseal(value private.sealed, owner uuid, context text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.delete_credential(id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credential(delete_credential.id, null) $function$;

CREATE OR REPLACE FUNCTION public.get_my_portfolio()
 RETURNS TABLE(asset text, amount numeric, price numeric, value numeric, quote_currency text, cost numeric, unrealised numeric, realised numeric, unknown_cost_amount numeric, unknown_cost_sold numeric, unknown_cost_proceeds numeric, unvalued_sold numeric, updated_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.my_portfolio() $function$;

CREATE OR REPLACE FUNCTION public.get_my_portfolio_series("from" timestamp with time zone, "to" timestamp with time zone, points integer DEFAULT 200, credential_id uuid DEFAULT NULL::uuid)
 RETURNS TABLE(taken_at timestamp with time zone, value numeric, quote_currency text)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  select * from private.my_portfolio_series(
    get_my_portfolio_series."from", get_my_portfolio_series."to", get_my_portfolio_series.points, get_my_portfolio_series.credential_id)
$function$;

CREATE OR REPLACE FUNCTION public.get_my_portfolio_syncs()
 RETURNS TABLE(credential_id uuid, exchange text, name text, status text, is_running boolean, error text, last_synced_at timestamp with time zone, next_sync_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.my_portfolio_syncs() $function$;

CREATE OR REPLACE FUNCTION public.rename_credential(id uuid, name text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credential(rename_credential.id, coalesce(rename_credential.name, '')) $function$;

CREATE OR REPLACE FUNCTION public.start_credential_test(id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.begin_credential_test(start_credential_test.id) $function$;

CREATE OR REPLACE FUNCTION public.start_secret_transfer()
 RETURNS TABLE(transfer_id uuid, key text)
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select * from private.start_secret_transfer() $function$;

ALTER TABLE "private"."exchange_pauses" ADD CONSTRAINT "exchange_pauses_exchange_id_fkey" FOREIGN KEY (exchange_id) REFERENCES private.exchanges(id) ON DELETE CASCADE;

ALTER TABLE "private"."secret_transfers" ADD CONSTRAINT "secret_transfers_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."credentials" ADD CONSTRAINT "credentials_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_granularity_check" CHECK ((granularity = ANY (ARRAY['5m'::text, '1h'::text, '1d'::text])));

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_quote_currency_check" CHECK (((length(quote_currency) >= 1) AND (length(quote_currency) <= 40)));

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_credential_id_taken_at_key" UNIQUE NULLS NOT DISTINCT (user_id, credential_id, taken_at);

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_value_check" CHECK (((value >= (0)::numeric) AND (value < '1000000000000000000000000000000000000000000'::numeric)));

CREATE INDEX credential_secrets_data_key_id_idx ON private.credential_secrets USING btree (data_key_id, scheme);

CREATE UNIQUE INDEX data_keys_current_idx ON private.data_keys USING btree (purpose) WHERE is_current;

CREATE INDEX portfolio_disposals_disposed_at_idx ON private.portfolio_disposals USING btree (credential_id, asset, disposed_at);

CREATE INDEX portfolio_lots_open_idx ON private.portfolio_lots USING btree (credential_id, asset, acquired_at) WHERE (remaining > (0)::numeric);

CREATE INDEX portfolio_syncs_next_sync_at_idx ON private.portfolio_syncs USING btree (next_sync_at);

CREATE INDEX portfolio_syncs_user_id_idx ON private.portfolio_syncs USING btree (user_id);

CREATE INDEX secret_transfers_created_at_idx ON private.secret_transfers USING btree (created_at);

CREATE INDEX secret_transfers_data_key_id_idx ON private.secret_transfers USING btree (data_key_id, scheme);

CREATE INDEX secret_transfers_user_id_created_at_idx ON private.secret_transfers USING btree (user_id, created_at);

CREATE INDEX credentials_user_id_idx ON public.credentials USING btree (user_id);

CREATE INDEX holdings_user_id_idx ON public.holdings USING btree (user_id);

CREATE INDEX portfolio_snapshots_taken_at_idx ON public.portfolio_snapshots USING brin (taken_at) WITH (pages_per_range='16');

CREATE INDEX trades_credential_id_executed_at_idx ON public.trades USING btree (credential_id, executed_at);

CREATE INDEX trades_user_id_executed_at_idx ON public.trades USING btree (user_id, executed_at DESC);

CREATE TRIGGER tg_credentials__portfolio_sync AFTER INSERT OR UPDATE OF status ON public.credentials FOR EACH ROW WHEN (((new.kind = 'exchange'::text) AND (new.status = 'active'::text))) EXECUTE FUNCTION private.tg_credentials__portfolio_sync();

CREATE TRIGGER tg_credentials__timestamps BEFORE INSERT OR UPDATE ON public.credentials FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."credentials" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their credentials" ON "public"."credentials" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."holdings" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their holdings" ON "public"."holdings" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."portfolio_snapshots" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see what their portfolio was worth" ON "public"."portfolio_snapshots" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."trades" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their trades" ON "public"."trades" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

COMMENT ON COLUMN "private"."data_keys"."retired_at" IS 'When nothing used it any more. It opens nothing from then on.';

COMMENT ON COLUMN "private"."data_keys"."scheme" IS 'aead-det: XChaCha20-SIV by pgsodium. A256CBC-HS512: AES and HMAC by pgcrypto as RFC 7518, 5.2.5, for the day pgsodium leaves.';

COMMENT ON COLUMN "private"."data_keys"."secret_id" IS 'aead-det: pgsodium.key.id, derived from the server''s root key. A256CBC-HS512: a secret in Vault, 64 bytes as hex.';

COMMENT ON COLUMN "private"."exchanges"."base_url" IS 'Another address than the exchange''s own, such as the local stand-in''s; null: the exchange''s own.';

COMMENT ON COLUMN "private"."exchanges"."price_asset" IS 'What assets are priced in where the exchange has no market in the portfolio currency, such as USDT on Binance: one of it counts as one of the currency. Null: the currency itself.';

COMMENT ON COLUMN "private"."portfolio_disposals"."cost" IS 'This share of the lot''s cost; null when it is not known.';

COMMENT ON COLUMN "private"."portfolio_disposals"."lot_trade_id" IS 'The lot; null when no lot was left, so that the asset came by a deposit.';

COMMENT ON COLUMN "private"."portfolio_disposals"."proceeds" IS 'After fees; null when nobody knew a price: a fee in a third asset, or an asset paid with another one.';

COMMENT ON COLUMN "private"."portfolio_disposals"."trade_id" IS 'trades.exchange_trade_id of the trade that took it.';

COMMENT ON COLUMN "private"."portfolio_lots"."cost" IS 'Of the whole amount, with its fees, in the portfolio currency to 18 decimals; null when nobody knew the price of what was paid. What is left cost private.exact_share(cost, remaining, amount).';

COMMENT ON COLUMN "private"."portfolio_lots"."trade_id" IS 'trades.exchange_trade_id of the trade that brought it. No foreign key: trades go with their credential only.';

COMMENT ON COLUMN "private"."portfolio_positions"."realised" IS 'Proceeds less cost of what has both.';

COMMENT ON COLUMN "private"."portfolio_positions"."unknown_cost_proceeds" IS 'What those units brought; in no profit or loss.';

COMMENT ON COLUMN "private"."portfolio_positions"."unknown_cost_sold" IS 'Units that were sold and whose cost nobody knows: they came by a deposit, or were paid with an asset without a price.';

COMMENT ON COLUMN "private"."portfolio_positions"."unvalued_sold" IS 'Units that left at a price nobody knew, as fees do that are paid in a third asset; in no profit or loss.';

COMMENT ON COLUMN "private"."portfolio_syncs"."attempts" IS 'Leases since the last sync that succeeded.';

COMMENT ON COLUMN "private"."portfolio_syncs"."cursor" IS 'How far the trades were read, in the exchange''s own terms.';

COMMENT ON COLUMN "private"."portfolio_syncs"."error" IS 'Why the last sync failed; null when it did not.';

COMMENT ON COLUMN "private"."portfolio_syncs"."lease_id" IS 'Who has this reads the exchange and records it; null while nobody is at it.';

COMMENT ON COLUMN "private"."portfolio_syncs"."leased_until" IS 'From then on another worker may take it over.';

COMMENT ON COLUMN "public"."credentials"."last_four" IS 'The end of the key, by which its owner knows it; empty for a key too short to show any of it.';

COMMENT ON COLUMN "public"."credentials"."permissions" IS 'What the provider said the key may do, when it was tested.';

COMMENT ON COLUMN "public"."credentials"."provider" IS 'The exchange''s id, or of an AI provider private.providers.id.';

COMMENT ON COLUMN "public"."credentials"."status_reason" IS 'Why it is not active, as a code: wrong_key, clock_skew, ip_not_allowed, missing_permission, can_withdraw, rate_limited, exchange_down, provider_down, unknown or unreadable.';

COMMENT ON COLUMN "public"."credentials"."version" IS 'Counts the keys that were here, so that a test of an older one cannot speak for a newer.';

COMMENT ON COLUMN "public"."holdings"."price" IS 'Of one unit, in quote_currency, at the last sync; null when nobody knew one.';

COMMENT ON COLUMN "public"."holdings"."value" IS 'amount times price, exact; null without a price.';

COMMENT ON COLUMN "public"."portfolio_snapshots"."granularity" IS 'It is the last snapshot of its 5m, 1h or 1d (UTC). The moment and the value are the real ones, never an average.';

COMMENT ON COLUMN "public"."portfolio_snapshots"."value" IS 'Of all holdings that had a price.';

COMMENT ON COLUMN "public"."trades"."amount" IS 'Units of base that changed hands, before any fee.';

COMMENT ON COLUMN "public"."trades"."exchange_trade_id" IS 'The exchange''s id of the trade. Where ids are unique within a market only, the market stands in front: BTCUSDT:28457.';

COMMENT ON COLUMN "public"."trades"."fee" IS 'Units of fee_asset; negative when the exchange paid a rebate.';

COMMENT ON COLUMN "public"."trades"."fee_price" IS 'Of one unit of fee_asset when that is neither base nor quote nor the portfolio currency; null when nobody knew it.';

COMMENT ON COLUMN "public"."trades"."price" IS 'Units of quote for one of base.';

COMMENT ON COLUMN "public"."trades"."quote_price" IS 'Of one unit of quote in the portfolio currency when the trade was made; null when it is that currency itself, or nobody knew it.';

COMMENT ON FUNCTION "private"."begin_credential_test"(uuid) IS 'Behind public.start_credential_test. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."call_sync_portfolios"() IS 'Calls the sync of portfolios when one is due.';

COMMENT ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) IS 'The authentication tag of A256CBC-HS512 (RFC 7518, 5.2.2.1): HMAC-SHA-512 over data, nonce, ciphertext and the data''s length in bits, cut to 32 bytes.';

COMMENT ON FUNCTION "private"."change_credential"(uuid, text) IS 'Behind public.rename_credential and, with name null, public.delete_credential. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) IS 'Adds an asset''s disposals from a moment on to its position (sign 1), or takes them out of it (-1).';

COMMENT ON FUNCTION "private"."create_portfolio_partitions"() IS 'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

COMMENT ON FUNCTION "private"."current_data_key"(text) IS 'The key that seals now; the first time it is made.';

COMMENT ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) IS 'Leaves the last snapshot of each hour (1h) or of all (1d) of a day, per user and credential, as it is. Answers how many went.';

COMMENT ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) IS 'Thins out snapshots: the last of an hour after portfolio.hourly_after_days, the last of a day (UTC) after portfolio.daily_after_days. Nothing that stays changes its time or value. A job runs it, at most max_days days at a time. Answers how many went.';

COMMENT ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) IS 'total * part / whole to 18 decimals, what is beyond them cut off. Shares are differences of this, so that they always add up to the total.';

COMMENT ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer, integer) IS 'Gives a lease back after a failure, which must hold no secret; the next try comes after a growing rest. pause_seconds (1 to 3600) says that the exchange limits our rate: nobody reads from it until then. refused_version: that of a key that its owner must look at; the credential fails with the error as its reason, and the owner is told. False: the lease was another''s already, and nothing changed.';

COMMENT ON FUNCTION "private"."keep_credentials_sealed"() IS 'What a job does of a rotation every minute: a batch of credentials under the current key, old transfers forgotten, unused keys retired. Answers {resealed, left, unreadable, retired}.';

COMMENT ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid, text[]) IS 'Gives up to max_syncs (at most 100) due syncs to one worker each, for portfolio.lease_seconds: credentials that are active, of enabled exchanges without a pause, whose owner''s account is active. With of_user that user''s only, and before they are due: at most once a minute, and not while they rest after a failure. not_of: exchanges that the worker reads from already. held: the assets of the last sync. End with record_portfolio_sync, pause_portfolio_sync or fail_portfolio_sync.';

COMMENT ON FUNCTION "private"."my_portfolio"() IS 'Behind public.get_my_portfolio. Definer: lots are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) IS 'Behind public.get_my_portfolio_series: one look into the index for each bucket, however many snapshots there are. Definer: as all that users ask of functions, it answers the caller only and says why it does not.';

COMMENT ON FUNCTION "private"."my_portfolio_syncs"() IS 'Behind public.get_my_portfolio_syncs. Definer: syncs are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."new_data_key"(text) IS 'Makes the key that seals from now on, by the scheme in the setting credentials.scheme. purpose: credentials or transfers. Answers its id. reseal_credentials moves what the old key sealed.';

COMMENT ON FUNCTION "private"."note_credential_test"(uuid, integer, text, text[]) IS 'What a test of a credential came to: reason null, and it is active; else why it failed, as a code. permissions as the provider told them. version is that of the key that was tested: of another one nothing is noted, and the answer is false. For the service role. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."open"(uuid, text, text) IS 'The only way to a credential''s secrets, for the service role: purpose is test, sync, ai_call or rotation, and every opening is audited with it and the request''s id. Answers {opened: true, user_id, kind, provider, version, fields: {api_key, ...}} or {opened: false, code: not_found | credential_unreadable}; what does not verify fails the credential and raises a critical event. Definer: nobody may read the secrets.';

COMMENT ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) IS 'The key of a provider that a user keeps in the credential vault; null when there is none such that is active and opens.';

COMMENT ON FUNCTION "private"."pause_portfolio_sync"(uuid) IS 'Gives a lease back in the middle of a long history: what was recorded stays, and another worker goes on at once. False: the lease was another''s already.';

COMMENT ON FUNCTION "private"."portfolio_backoff"(integer) IS 'How long a sync rests after so many tries in a row: a minute, two, four, at most six hours, a tenth more or less.';

COMMENT ON FUNCTION "private"."portfolio_movements"(public.trades, text) IS 'What a trade moved of each asset but the currency: units (what came is positive), and their value with the same sign, null when nobody knew it. Fees: one in the base makes what came less, or what left more; one in the quote is part of what was paid, or not part of what was got; one in a third asset is added to the cost or taken from the proceeds at fee_price, and leaves the account as a sale of that asset at the same value. Without a fee_price it counts nowhere and leaves without a value.';

COMMENT ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) IS 'Records what the holder of a lease read, all of it or nothing. holdings: [{asset, amount}], all there is; prices: {asset: price in the portfolio currency now}; trades: [{id, executed_at, side, base, quote, amount, price, fee, fee_asset, quote_price, fee_price}] in any order, however often; cursor: where to go on, null as it was. Numbers may be strings. holdings null: a page of trades, more are to come, the lease goes on. When nothing that is held has a price, no snapshot is taken. Answers {recorded: false} when the lease is another''s; else {recorded, new_trades: [id], is_complete, value, total, taken_at}.';

COMMENT ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) IS 'Takes back what an asset''s trades of a credential did from a moment on, and does it again in the order of time: new trades alone when they are the newest, everything after it when one came late. Whoever calls it has the lock of the sync.';

COMMENT ON FUNCTION "private"."reseal_credentials"(integer) IS 'Moves up to batch credentials to the current key, in one transaction; call it until nothing is left, from as many places as you like. Readers read meanwhile, and it goes on where it was after a crash. Answers {resealed, left, unreadable}.';

COMMENT ON FUNCTION "private"."retire_data_keys"() IS 'Retires older keys that nothing uses: they open nothing any more, and those in Vault are destroyed (role postgres cannot destroy pgsodium''s). Answers how many.';

COMMENT ON FUNCTION "private"."rotate_credential_keys"() IS 'Begins a rotation: new keys. A job runs it every quarter; keep_credentials_sealed does the rest.';

COMMENT ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) IS 'Seals what travelled under a transfer as a new credential of its user (credential_id null; kind exchange | ai_provider, provider, name), or in the place of an existing one''s secrets. It is pending until note_credential_test. Answers {id, version}. For the service role. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) IS 'Writes what a credential, or all of a user''s (credential_id null), is worth now. Whoever calls it has the lock of the user''s syncs.';

COMMENT ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) IS 'Adds the trades that are not there yet, and prices to those that lacked one. A trade brings its prices, or has the sync''s when it is at most portfolio.price_minutes old; older prices would be guesses. Answers the ids of the new trades, and for each asset they moved from when on.';

COMMENT ON FUNCTION "private"."seal"(text, uuid, text, text) IS 'Encrypts a text under the current key of its purpose, with a random nonce, bound to its owner and context: the table, row and field where it will be. Plans are generic, so that no plan that is logged holds it.';

COMMENT ON FUNCTION "private"."secret_context"(uuid, text) IS 'The place that a sealed field is bound to, beside its owner.';

COMMENT ON FUNCTION "private"."start_secret_transfer"() IS 'Behind public.start_secret_transfer. Definer: transfers are written by functions only.';

COMMENT ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) IS 'Seals one field of a credential under the current key, in the place of what was there.';

COMMENT ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) IS 'Opens what travelled under a transfer''s key, once: its user and the JSON. Errors say nothing of the content.';

COMMENT ON FUNCTION "private"."tg_credentials__portfolio_sync"() IS 'A credential of an exchange that becomes active is synced at once. Definer: whoever writes credentials cannot write syncs.';

COMMENT ON FUNCTION "private"."unseal"(private.sealed, uuid, text) IS 'The text that was sealed for this owner and context; null when it was changed, cut, moved from elsewhere, or its key is unknown or retired. Asks nobody and tells nobody: private.open is the door.';

COMMENT ON FUNCTION "public"."delete_credential"(uuid) IS 'Deletes a credential of the caller''s with its sealed secrets, at once. Needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."get_my_portfolio"() IS 'The caller''s portfolio by asset, over all exchanges: what is held and worth, what it cost first in first out with fees, unrealised and realised profit or loss in quote_currency. unknown_cost_amount came without a trade and is in no profit; unknown_cost_sold of such was sold for unknown_cost_proceeds; unvalued_sold left at a price nobody knew. value and unrealised are null while a price is missing.';

COMMENT ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) IS 'What the caller''s portfolio was worth from one moment (included) to another (not included): the range is cut into points buckets of the same length, 2 to 1000, and each answers its last snapshot, with its real time; a bucket without one is left out. credential_id: of one credential, else the total.';

COMMENT ON FUNCTION "public"."get_my_portfolio_syncs"() IS 'How the caller''s exchanges are doing: the credential''s status, whether it is being synced now, the reason of the last failure as a code (null after a success), when it was synced and when it will be next (null when it is not active).';

COMMENT ON FUNCTION "public"."rename_credential"(uuid, text) IS 'Gives a credential of the caller''s another name, of 1 to 100 characters. Needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."start_credential_test"(uuid) IS 'For the function credentials, in the caller''s name: whether the caller may have a credential tested now. Once in credentials.test_pause_seconds; needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."start_secret_transfer"() IS 'For the function credentials, in the caller''s name: a key, 64 bytes as hex and valid once and for a minute, under which a new credential travels to the database (A256CBC-HS512, the transfer''s id as associated data). Needs the second factor when there is one; credentials.changes_per_hour of them.';

COMMENT ON TABLE "private"."credential_secrets" IS 'The sealed fields of a credential, bound to their owner, row and field: moved elsewhere they do not open.';

COMMENT ON TABLE "private"."data_keys" IS 'Which keys seal what: one current key for each purpose; older ones open what they sealed until it is sealed anew. The keys themselves are not here.';

COMMENT ON TABLE "private"."exchange_pauses" IS 'Exchanges that told us to slow down: nobody''s portfolio is read from them until then.';

COMMENT ON TABLE "private"."exchanges" IS 'Exchanges that users can connect: one row each, by the id that ccxt has for it.';

COMMENT ON TABLE "private"."portfolio_disposals" IS 'What trades took out of an account: a row for each lot they took from, and one without a lot for what came without a trade. Realised are the rows that have both proceeds and cost.';

COMMENT ON TABLE "private"."portfolio_downsamples" IS 'Up to which day (UTC) snapshots have been thinned out to hours and days.';

COMMENT ON TABLE "private"."portfolio_lots" IS 'What trades brought into an account, and what of it is left. The oldest lot leaves first; trades of one moment in the order of their ids.';

COMMENT ON TABLE "private"."portfolio_positions" IS 'portfolio_disposals added up, so that nobody reads years of them.';

COMMENT ON TABLE "private"."portfolio_syncs" IS 'The sync of each credential of an exchange: when it is due, and who is at it. Nobody else writes the portfolio.';

COMMENT ON TABLE "private"."secret_transfers" IS 'One-time keys under which secrets travel to the database, so that a statement log with parameters holds none in clear. Sealed like everything else, valid for a minute; kept for an hour, because they count.';

COMMENT ON TABLE "public"."credentials" IS 'What owners see of the keys that they gave us. The keys are in private.credential_secrets, sealed. Written by functions only.';

COMMENT ON TABLE "public"."holdings" IS 'What each credential''s account on its exchange held at its last sync, by asset. Replaced by every sync; written by functions only.';

COMMENT ON TABLE "public"."portfolio_snapshots" IS 'What a portfolio was worth: per credential, and in total (credential_id null), the last of every five minutes with a sync; older ones thinned out to hours and days. A credential that is deleted takes its own snapshots along; the totals stay as they were, because they say what the owner had then.';

COMMENT ON TABLE "public"."trades" IS 'Trades as the exchange tells them, each once per credential. Written by functions only, and never changed but for prices that were missing.';

COMMENT ON TYPE "private"."sealed" IS 'A sealed value as it is stored: scheme and key say how it is opened.';

REVOKE ALL ON FUNCTION "private"."begin_credential_test"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."begin_credential_test"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."call_sync_portfolios"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_sync_portfolios"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) TO "postgres";

REVOKE ALL ON FUNCTION "private"."change_credential"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_credential"(uuid, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."create_portfolio_partitions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_portfolio_partitions"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."current_data_key"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."current_data_key"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) TO "postgres";

REVOKE ALL ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."keep_credentials_sealed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."keep_credentials_sealed"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid, text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid, text[]) TO "postgres";

REVOKE ALL ON FUNCTION "private"."my_portfolio"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_portfolio"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."my_portfolio_syncs"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_portfolio_syncs"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."new_data_key"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."new_data_key"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."note_credential_test"(uuid, integer, text, text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_credential_test"(uuid, integer, text, text[]) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."open"(uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."open"(uuid, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."pause_portfolio_sync"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."pause_portfolio_sync"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."portfolio_backoff"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."portfolio_backoff"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."portfolio_movements"(public.trades, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."portfolio_movements"(public.trades, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."reseal_credentials"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."reseal_credentials"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."retire_data_keys"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."retire_data_keys"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."rotate_credential_keys"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."rotate_credential_keys"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."seal"(text, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."seal"(text, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."secret_context"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."secret_context"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."start_secret_transfer"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."start_secret_transfer"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_credentials__portfolio_sync"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_credentials__portfolio_sync"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."unseal"(private.sealed, uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."unseal"(private.sealed, uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "public"."delete_credential"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."delete_credential"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_portfolio"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_portfolio"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_portfolio_syncs"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_portfolio_syncs"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."rename_credential"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."rename_credential"(uuid, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."start_credential_test"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."start_credential_test"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."start_secret_transfer"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."start_secret_transfer"() TO "authenticated", "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."credential_secrets" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."data_keys" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."exchange_pauses" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."exchanges" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_disposals" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_downsamples" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_lots" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_positions" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_snapshots_default" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_syncs" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."secret_transfers" TO "postgres";

REVOKE ALL ON TABLE "public"."credentials" FROM "authenticated";

GRANT SELECT ON TABLE "public"."credentials" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."credentials" TO "postgres";

REVOKE ALL ON TABLE "public"."credentials" FROM "service_role";

GRANT SELECT ON TABLE "public"."credentials" TO "service_role";

REVOKE ALL ON TABLE "public"."holdings" FROM "authenticated";

GRANT SELECT ON TABLE "public"."holdings" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."holdings" TO "postgres";

REVOKE ALL ON TABLE "public"."holdings" FROM "service_role";

GRANT SELECT ON TABLE "public"."holdings" TO "service_role";

REVOKE ALL ON TABLE "public"."portfolio_snapshots" FROM "authenticated";

GRANT SELECT ON TABLE "public"."portfolio_snapshots" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."portfolio_snapshots" TO "postgres";

REVOKE ALL ON TABLE "public"."portfolio_snapshots" FROM "service_role";

GRANT SELECT ON TABLE "public"."portfolio_snapshots" TO "service_role";

REVOKE ALL ON TABLE "public"."trades" FROM "authenticated";

GRANT SELECT ON TABLE "public"."trades" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."trades" TO "postgres";

REVOKE ALL ON TABLE "public"."trades" FROM "service_role";

GRANT SELECT ON TABLE "public"."trades" TO "service_role";

GRANT USAGE ON TYPE "private"."sealed" TO "postgres";

select cron.schedule('create-portfolio-partitions', '18 0 * * *', 'select private.create_portfolio_partitions()');

select cron.schedule('downsample-portfolio-snapshots', '10 2 * * *', 'select private.downsample_portfolio_snapshots()');

select cron.schedule('keep-credentials-sealed', '* * * * *', 'select private.keep_credentials_sealed()');

select cron.schedule('rotate-credential-keys', '0 2 1 1,4,7,10 *', 'select private.rotate_credential_keys()');

select cron.schedule('sync-portfolios', '* * * * *', 'select private.call_sync_portfolios()');

ALTER TABLE "private"."credential_secrets" ADD CONSTRAINT "credential_secrets_data_key_id_scheme_fkey" FOREIGN KEY (data_key_id, scheme) REFERENCES private.data_keys(id, scheme) ON DELETE RESTRICT;

ALTER TABLE "private"."secret_transfers" ADD CONSTRAINT "secret_transfers_data_key_id_scheme_fkey" FOREIGN KEY (data_key_id, scheme) REFERENCES private.data_keys(id, scheme) ON DELETE RESTRICT;

ALTER TABLE "private"."portfolio_syncs" ADD CONSTRAINT "portfolio_syncs_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

ALTER TABLE "private"."credential_secrets" ADD CONSTRAINT "credential_secrets_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_disposals" ADD CONSTRAINT "portfolio_disposals_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_lots" ADD CONSTRAINT "portfolio_lots_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_positions" ADD CONSTRAINT "portfolio_positions_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "public"."holdings" ADD CONSTRAINT "holdings_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_credential_id_fkey" FOREIGN KEY (user_id, credential_id) REFERENCES public.credentials(user_id, id) ON DELETE CASCADE;

ALTER TABLE "public"."trades" ADD CONSTRAINT "trades_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

create policy "only live, active and fully signed-in callers" on realtime.messages as restrictive for all to authenticated using (( SELECT private.access_is_allowed() AS access_is_allowed));

create policy "owners receive what is sent to their own topic" on realtime.messages as permissive for select to authenticated using (((extension = 'broadcast'::text) AND (topic = ('user:'::text || ( SELECT auth.uid() AS uid)))));

REVOKE ALL ON TABLE "public"."credentials" FROM "anon";

REVOKE ALL ON TABLE "public"."holdings" FROM "anon";

REVOKE ALL ON TABLE "public"."portfolio_snapshots" FROM "anon";

REVOKE ALL ON TABLE "public"."trades" FROM "anon";
