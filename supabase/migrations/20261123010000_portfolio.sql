-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

CREATE TABLE "private"."exchange_pauses" ("exchange_id" text NOT NULL, "paused_until" timestamp with time zone NOT NULL, CONSTRAINT "exchange_pauses_pkey" PRIMARY KEY (exchange_id));

CREATE TABLE "private"."exchanges" ("id" text NOT NULL, "name" text NOT NULL, "enabled" boolean NOT NULL DEFAULT true, CONSTRAINT "exchanges_id_check" CHECK (((id ~ '^[a-z0-9_-]+$'::text) AND (length(id) <= 40))), CONSTRAINT "exchanges_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 100))), CONSTRAINT "exchanges_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."portfolio_disposals" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "trade_id" text NOT NULL, "position" integer NOT NULL, "disposed_at" timestamp with time zone NOT NULL, "lot_trade_id" text, "amount" numeric NOT NULL, "proceeds" numeric, "cost" numeric, CONSTRAINT "portfolio_disposals_amount_check" CHECK ((amount > (0)::numeric)), CONSTRAINT "portfolio_disposals_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_disposals_lot_trade_id_check" CHECK ((length(lot_trade_id) <= 200)), CONSTRAINT "portfolio_disposals_pkey" PRIMARY KEY (credential_id, asset, trade_id, "position"), CONSTRAINT "portfolio_disposals_position_check" CHECK (("position" > 0)), CONSTRAINT "portfolio_disposals_trade_id_check" CHECK ((length(trade_id) <= 200)));

CREATE TABLE "private"."portfolio_downsamples" ("granularity" text NOT NULL, "done_until" timestamp with time zone NOT NULL, CONSTRAINT "portfolio_downsamples_granularity_check" CHECK ((granularity = ANY (ARRAY['1h'::text, '1d'::text]))), CONSTRAINT "portfolio_downsamples_pkey" PRIMARY KEY (granularity));

CREATE TABLE "private"."portfolio_lots" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "trade_id" text NOT NULL, "acquired_at" timestamp with time zone NOT NULL, "amount" numeric NOT NULL, "remaining" numeric NOT NULL, "cost" numeric, CONSTRAINT "portfolio_lots_amount_check" CHECK ((amount > (0)::numeric)), CONSTRAINT "portfolio_lots_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_lots_check" CHECK (((remaining >= (0)::numeric) AND (remaining <= amount))), CONSTRAINT "portfolio_lots_pkey" PRIMARY KEY (credential_id, asset, trade_id), CONSTRAINT "portfolio_lots_trade_id_check" CHECK ((length(trade_id) <= 200)));

CREATE TABLE "private"."portfolio_positions" ("credential_id" uuid NOT NULL, "asset" text NOT NULL, "realised" numeric NOT NULL DEFAULT 0, "unknown_cost_sold" numeric NOT NULL DEFAULT 0, "unknown_cost_proceeds" numeric NOT NULL DEFAULT 0, "unvalued_sold" numeric NOT NULL DEFAULT 0, CONSTRAINT "portfolio_positions_asset_check" CHECK ((length(asset) <= 40)), CONSTRAINT "portfolio_positions_pkey" PRIMARY KEY (credential_id, asset));

CREATE TABLE "private"."portfolio_syncs" ("credential_id" uuid NOT NULL, "user_id" uuid NOT NULL, "lease_id" uuid, "leased_until" timestamp with time zone, "attempts" integer NOT NULL DEFAULT 0, "next_sync_at" timestamp with time zone NOT NULL DEFAULT now(), "last_synced_at" timestamp with time zone, "cursor" jsonb NOT NULL DEFAULT '{}'::jsonb, "error" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "portfolio_syncs_attempts_check" CHECK ((attempts >= 0)), CONSTRAINT "portfolio_syncs_cursor_check" CHECK ((length((cursor)::text) <= 16000)), CONSTRAINT "portfolio_syncs_error_check" CHECK ((length(error) <= 500)), CONSTRAINT "portfolio_syncs_lease_id_key" UNIQUE (lease_id), CONSTRAINT "portfolio_syncs_pkey" PRIMARY KEY (credential_id));

CREATE TABLE "public"."credentials" ("user_id" uuid NOT NULL, "kind" text NOT NULL, "provider" text NOT NULL, "name" text NOT NULL, "last_four" text NOT NULL, "permissions" text[] NOT NULL DEFAULT '{}'::text[], "status" text NOT NULL DEFAULT 'pending'::text, "status_reason" text, "last_tested_at" timestamp with time zone, "last_used_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credentials_kind_check" CHECK ((kind = ANY (ARRAY['exchange'::text, 'ai_provider'::text]))), CONSTRAINT "credentials_last_four_check" CHECK ((length(last_four) <= 4)), CONSTRAINT "credentials_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 100))), CONSTRAINT "credentials_permissions_check" CHECK ((cardinality(permissions) <= 20)), CONSTRAINT "credentials_provider_check" CHECK (((length(provider) >= 1) AND (length(provider) <= 100))), CONSTRAINT "credentials_status_check" CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'failed'::text, 'disabled'::text]))), CONSTRAINT "credentials_status_reason_check" CHECK ((length(status_reason) <= 500)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "credentials_id_user_id_key" UNIQUE (id, user_id), CONSTRAINT "credentials_pkey" PRIMARY KEY (id));

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

CREATE OR REPLACE FUNCTION private.exact_share(total numeric, part numeric, whole numeric)
 RETURNS numeric
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN trim_scale((div(((total * part) * '1000000000000000000'::numeric), whole) * 0.000000000000000001));

CREATE OR REPLACE FUNCTION private.fail_portfolio_sync(lease_id uuid, error text, pause_seconds integer DEFAULT NULL::integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_sync private.portfolio_syncs;
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
  if v_resumes_at is not null then
    insert into private.exchange_pauses as x (exchange_id, paused_until)
    select c.provider, v_resumes_at from public.credentials c where c.id = v_sync.credential_id
    on conflict (exchange_id) do update set paused_until = greatest(x.paused_until, excluded.paused_until);
  end if;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.lease_portfolio_sync(max_syncs integer DEFAULT 1, of_user uuid DEFAULT NULL::uuid)
 RETURNS TABLE(credential_id uuid, user_id uuid, exchange_id text, lease_id uuid, leased_until timestamp with time zone, cursor jsonb, quote_currency text)
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_lease interval := make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer);
begin
  return query
    with due as (
      select s.credential_id, c.provider
      from private.portfolio_syncs s
        join public.credentials c on c.id = s.credential_id and c.kind = 'exchange' and c.status = 'active'
        join private.exchanges e on e.id = c.provider and e.enabled
        join public.profiles p on p.id = s.user_id and p.status = 'active'
      where (s.leased_until is null or s.leased_until <= now())
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
      private.setting('portfolio.quote_currency') #>> '{}';
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
      case when h.asset = v_currency then h.amount else coalesce(h.cost, 0) end,
      case when h.asset is null then 0 else h.unrealised end,
      coalesce(s.realised, 0),
      -- The currency itself costs what it is worth.
      case when h.asset = v_currency then 0 else coalesce(h.unknown_cost_amount, 0) end,
      coalesce(s.unknown_cost_sold, 0), coalesce(s.unknown_cost_proceeds, 0), coalesce(s.unvalued_sold, 0), h.updated_at
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
  select v_sync.credential_id, v_sync.user_id, r.asset, r.amount, p.price, r.amount * p.price, v_currency
  from (
      select h.asset, sum(h.amount) as amount
      from jsonb_to_recordset(v_holdings) h (asset text, amount numeric)
      group by h.asset having sum(h.amount) <> 0) r
    cross join lateral (
      select case when r.asset = v_currency then 1 else (nullif(prices, 'null') ->> r.asset)::numeric end as price) p;
  select coalesce(sum(h.value) filter (where h.credential_id = v_sync.credential_id), 0), coalesce(sum(h.value), 0),
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

ALTER TABLE "private"."exchange_pauses" ADD CONSTRAINT "exchange_pauses_exchange_id_fkey" FOREIGN KEY (exchange_id) REFERENCES private.exchanges(id) ON DELETE CASCADE;

ALTER TABLE "public"."credentials" ADD CONSTRAINT "credentials_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_granularity_check" CHECK ((granularity = ANY (ARRAY['5m'::text, '1h'::text, '1d'::text])));

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_quote_currency_check" CHECK (((length(quote_currency) >= 1) AND (length(quote_currency) <= 40)));

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_credential_id_taken_at_key" UNIQUE NULLS NOT DISTINCT (user_id, credential_id, taken_at);

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_value_check" CHECK (((value >= (0)::numeric) AND (value < '1000000000000000000000000000000000000000000'::numeric)));

CREATE INDEX portfolio_disposals_disposed_at_idx ON private.portfolio_disposals USING btree (credential_id, asset, disposed_at);

CREATE INDEX portfolio_lots_open_idx ON private.portfolio_lots USING btree (credential_id, asset, acquired_at) WHERE (remaining > (0)::numeric);

CREATE INDEX portfolio_syncs_next_sync_at_idx ON private.portfolio_syncs USING btree (next_sync_at);

CREATE INDEX portfolio_syncs_user_id_idx ON private.portfolio_syncs USING btree (user_id);

CREATE INDEX credentials_user_id_idx ON public.credentials USING btree (user_id);

CREATE INDEX holdings_user_id_idx ON public.holdings USING btree (user_id);

CREATE INDEX portfolio_snapshots_taken_at_idx ON public.portfolio_snapshots USING brin (taken_at) WITH (pages_per_range='16');

CREATE INDEX trades_credential_id_executed_at_idx ON public.trades USING btree (credential_id, executed_at);

CREATE INDEX trades_user_id_executed_at_idx ON public.trades USING btree (user_id, executed_at DESC);

CREATE TRIGGER tg_credentials__portfolio_sync AFTER INSERT OR UPDATE OF status ON public.credentials FOR EACH ROW WHEN (((new.kind = 'exchange'::text) AND (new.status = 'active'::text))) EXECUTE FUNCTION private.tg_credentials__portfolio_sync();

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."credentials" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their credentials" ON "public"."credentials" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."holdings" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their holdings" ON "public"."holdings" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."portfolio_snapshots" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see what their portfolio was worth" ON "public"."portfolio_snapshots" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."trades" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their trades" ON "public"."trades" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

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

COMMENT ON COLUMN "public"."credentials"."provider" IS 'The id of the exchange or AI provider.';

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

COMMENT ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) IS 'Adds an asset''s disposals from a moment on to its position (sign 1), or takes them out of it (-1).';

COMMENT ON FUNCTION "private"."create_portfolio_partitions"() IS 'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

COMMENT ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) IS 'Leaves the last snapshot of each hour (1h) or of all (1d) of a day, per user and credential, as it is. Answers how many went.';

COMMENT ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) IS 'Thins out snapshots: the last of an hour after portfolio.hourly_after_days, the last of a day (UTC) after portfolio.daily_after_days. Nothing that stays changes its time or value. A job runs it, at most max_days days at a time. Answers how many went.';

COMMENT ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) IS 'total * part / whole to 18 decimals, what is beyond them cut off. Shares are differences of this, so that they always add up to the total.';

COMMENT ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer) IS 'Gives a lease back after a failure, which must hold no secret; the next try comes after a growing rest. pause_seconds (1 to 3600) says that the exchange limits our rate: nobody reads from it until then. False: the lease was another''s already, and nothing changed.';

COMMENT ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid) IS 'Gives up to max_syncs (at most 100) due syncs to one worker each, for portfolio.lease_seconds: credentials that are active, of enabled exchanges without a pause, whose owner''s account is active. With of_user that user''s only, and before they are due: at most once a minute, and not while they rest after a failure. End with record_portfolio_sync or fail_portfolio_sync.';

COMMENT ON FUNCTION "private"."my_portfolio"() IS 'Behind public.get_my_portfolio. Definer: lots are private; it answers for the caller only.';

COMMENT ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) IS 'Behind public.get_my_portfolio_series: one look into the index for each bucket, however many snapshots there are. Definer: as all that users ask of functions, it answers the caller only and says why it does not.';

COMMENT ON FUNCTION "private"."portfolio_backoff"(integer) IS 'How long a sync rests after so many tries in a row: a minute, two, four, at most six hours, a tenth more or less.';

COMMENT ON FUNCTION "private"."portfolio_movements"(public.trades, text) IS 'What a trade moved of each asset but the currency: units (what came is positive), and their value with the same sign, null when nobody knew it. Fees: one in the base makes what came less, or what left more; one in the quote is part of what was paid, or not part of what was got; one in a third asset is added to the cost or taken from the proceeds at fee_price, and leaves the account as a sale of that asset at the same value. Without a fee_price it counts nowhere and leaves without a value.';

COMMENT ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) IS 'Records what the holder of a lease read, all of it or nothing. holdings: [{asset, amount}], all there is; prices: {asset: price in the portfolio currency now}; trades: [{id, executed_at, side, base, quote, amount, price, fee, fee_asset, quote_price, fee_price}] in any order, however often; cursor: where to go on, null as it was. Numbers may be strings. holdings null: a page of trades, more are to come, the lease goes on. When nothing that is held has a price, no snapshot is taken. Answers {recorded: false} when the lease is another''s; else {recorded, new_trades: [id], is_complete, value, total, taken_at}.';

COMMENT ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) IS 'Takes back what an asset''s trades of a credential did from a moment on, and does it again in the order of time: new trades alone when they are the newest, everything after it when one came late. Whoever calls it has the lock of the sync.';

COMMENT ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) IS 'Writes what a credential, or all of a user''s (credential_id null), is worth now. Whoever calls it has the lock of the user''s syncs.';

COMMENT ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) IS 'Adds the trades that are not there yet, and prices to those that lacked one. A trade brings its prices, or has the sync''s when it is at most portfolio.price_minutes old; older prices would be guesses. Answers the ids of the new trades, and for each asset they moved from when on.';

COMMENT ON FUNCTION "private"."tg_credentials__portfolio_sync"() IS 'A credential of an exchange that becomes active is synced at once. Definer: whoever writes credentials cannot write syncs.';

COMMENT ON FUNCTION "public"."get_my_portfolio"() IS 'The caller''s portfolio by asset, over all exchanges: what is held and worth, what it cost first in first out with fees, unrealised and realised profit or loss in quote_currency. unknown_cost_amount came without a trade and is in no profit; unknown_cost_sold of such was sold for unknown_cost_proceeds; unvalued_sold left at a price nobody knew. value and unrealised are null while a price is missing.';

COMMENT ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) IS 'What the caller''s portfolio was worth from one moment (included) to another (not included): the range is cut into points buckets of the same length, 2 to 1000, and each answers its last snapshot, with its real time; a bucket without one is left out. credential_id: of one credential, else the total.';

COMMENT ON TABLE "private"."exchange_pauses" IS 'Exchanges that told us to slow down: nobody''s portfolio is read from them until then.';

COMMENT ON TABLE "private"."exchanges" IS 'Exchanges that a portfolio can be read from.';

COMMENT ON TABLE "private"."portfolio_disposals" IS 'What trades took out of an account: a row for each lot they took from, and one without a lot for what came without a trade. Realised are the rows that have both proceeds and cost.';

COMMENT ON TABLE "private"."portfolio_downsamples" IS 'Up to which day (UTC) snapshots have been thinned out to hours and days.';

COMMENT ON TABLE "private"."portfolio_lots" IS 'What trades brought into an account, and what of it is left. The oldest lot leaves first; trades of one moment in the order of their ids.';

COMMENT ON TABLE "private"."portfolio_positions" IS 'portfolio_disposals added up, so that nobody reads years of them.';

COMMENT ON TABLE "private"."portfolio_syncs" IS 'The sync of each credential of an exchange: when it is due, and who is at it. Nobody else writes the portfolio.';

COMMENT ON TABLE "public"."credentials" IS 'What owners know of their credentials of exchanges and AI providers; the secrets are elsewhere. Written by functions only.';

COMMENT ON TABLE "public"."holdings" IS 'What each credential''s account on its exchange held at its last sync, by asset. Replaced by every sync; written by functions only.';

COMMENT ON TABLE "public"."portfolio_snapshots" IS 'What a portfolio was worth: per credential, and in total (credential_id null), the last of every five minutes with a sync; older ones thinned out to hours and days. A credential that is deleted takes its own snapshots along; the totals stay as they were, because they say what the owner had then.';

COMMENT ON TABLE "public"."trades" IS 'Trades as the exchange tells them, each once per credential. Written by functions only, and never changed but for prices that were missing.';

REVOKE ALL ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."count_portfolio_disposals"(uuid, text, timestamp with time zone, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."create_portfolio_partitions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_portfolio_partitions"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."downsample_portfolio_day"(timestamp with time zone, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."downsample_portfolio_snapshots"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."exact_share"(numeric, numeric, numeric) TO "postgres";

REVOKE ALL ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."fail_portfolio_sync"(uuid, text, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."lease_portfolio_sync"(integer, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."my_portfolio"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_portfolio"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."portfolio_backoff"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."portfolio_backoff"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."portfolio_movements"(public.trades, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."portfolio_movements"(public.trades, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."record_portfolio_sync"(uuid, jsonb, jsonb, jsonb, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."replay_portfolio"(uuid, text, timestamp with time zone, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_snapshot"(uuid, uuid, numeric, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_trades"(private.portfolio_syncs, jsonb, jsonb, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_credentials__portfolio_sync"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_credentials__portfolio_sync"() TO "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_portfolio"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_portfolio"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_my_portfolio_series"(timestamp with time zone, timestamp with time zone, integer, uuid) TO "authenticated", "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."exchange_pauses" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."exchanges" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_disposals" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_downsamples" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_lots" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_positions" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_snapshots_default" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."portfolio_syncs" TO "postgres";

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

select cron.schedule('create-portfolio-partitions', '18 0 * * *', 'select private.create_portfolio_partitions()');

select cron.schedule('downsample-portfolio-snapshots', '10 2 * * *', 'select private.downsample_portfolio_snapshots()');

ALTER TABLE "private"."portfolio_syncs" ADD CONSTRAINT "portfolio_syncs_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_disposals" ADD CONSTRAINT "portfolio_disposals_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_lots" ADD CONSTRAINT "portfolio_lots_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "private"."portfolio_positions" ADD CONSTRAINT "portfolio_positions_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

ALTER TABLE "public"."holdings" ADD CONSTRAINT "holdings_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

ALTER TABLE "public"."portfolio_snapshots" ADD CONSTRAINT "portfolio_snapshots_user_id_credential_id_fkey" FOREIGN KEY (user_id, credential_id) REFERENCES public.credentials(user_id, id) ON DELETE CASCADE;

ALTER TABLE "public"."trades" ADD CONSTRAINT "trades_credential_id_user_id_fkey" FOREIGN KEY (credential_id, user_id) REFERENCES public.credentials(id, user_id) ON DELETE CASCADE;

REVOKE ALL ON TABLE "public"."credentials" FROM "anon";

REVOKE ALL ON TABLE "public"."holdings" FROM "anon";

REVOKE ALL ON TABLE "public"."portfolio_snapshots" FROM "anon";

REVOKE ALL ON TABLE "public"."trades" FROM "anon";
