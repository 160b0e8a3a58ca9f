-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/62_portfolio.sql ================================================================================================

-- Portfolio: what users hold on exchanges, what they traded, what it was worth, and what they made of it. Numbers are exact
-- decimals. Amounts are units of an asset; prices and values are in the project's portfolio currency, portfolio.quote_currency.

insert into private.settings (key, value, rule, description) values
  ('portfolio.quote_currency', '"USD"', '{"type": "string", "pattern": "^[A-Z0-9]{2,20}$"}', 'The asset in which portfolios are valued. Change it only before the first sync: what was recorded stays in the old one.'),
  ('portfolio.sync_minutes', '15', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'Minutes between two syncs of a credential, a tenth more or less.'),
  ('portfolio.lease_seconds', '120', '{"type": "integer", "minimum": 1, "maximum": 86400}', 'How long a worker has to read an exchange, or one page of trades, before another may take over.'),
  ('portfolio.skipped_rows', '500', '{"type": "integer", "minimum": 0, "maximum": 100000}', 'How many skipped holdings, and how many skipped trades, of a credential its owner can see; more are only counted.'),
  ('portfolio.price_minutes', '15', '{"type": "integer", "minimum": 0, "maximum": 10080}', 'How old a trade may be so that the prices of its sync value what it was paid with.'),
  ('portfolio.hourly_after_days', '90', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'After so many days only the last portfolio snapshot of each hour is kept.'),
  ('portfolio.daily_after_days', '365', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'After so many days only the last portfolio snapshot of each day (UTC) is kept.')
on conflict (key) do nothing;

-- What owners see -------------------------------------------------------------------------------------------------------

create table public.holdings (
  credential_id uuid not null,
  asset text not null check (length(asset) between 1 and 40),
  user_id uuid not null,
  amount numeric not null check (amount >= 0 and amount < 1e20 and amount = trunc(amount, 18)),
  price numeric check (price > 0 and price < 1e20 and price = trunc(price, 18)),
  value numeric,
  quote_currency text not null check (length(quote_currency) between 1 and 40),
  price_path text[] check (cardinality(price_path) <= 2 and length(price_path::text) <= 400),
  updated_at timestamptz not null default now(),
  primary key (credential_id, asset),
  foreign key (credential_id, user_id) references public.credentials (id, user_id) on delete cascade,
  constraint holdings_value_is_exact check (value is not distinct from amount * price)
);
comment on table public.holdings is
  'What each credential''s account on its exchange held at its last sync, by asset. Replaced by every sync; written by functions only.';
comment on column public.holdings.price is 'Of one unit, in quote_currency, at the last sync; null when nobody knew one.';
comment on column public.holdings.price_path is
  'Over which markets of the exchange the price came, at most two: {BTC/USDT}, {USD/CAD} the other way round, {XYZ/BTC,BTC/USD} over a third asset. Null without a price, and where none was needed.';
comment on column public.holdings.value is 'amount times price, exact; null without a price.';
create index holdings_user_id_idx on public.holdings (user_id);
alter table public.holdings enable row level security;
alter table public.holdings force row level security;
revoke all on public.holdings from anon, authenticated, service_role;
grant select on public.holdings to authenticated, service_role;

create function private.is_strategy_tag(tag text) returns boolean
language sql immutable security invoker set search_path = ''
return length(is_strategy_tag.tag) between 1 and 60 and is_strategy_tag.tag = btrim(is_strategy_tag.tag)
  and is_strategy_tag.tag !~ '[[:cntrl:]]';
comment on function private.is_strategy_tag(text) is
  'Whether a text can be the name of a strategy: 1 to 60 characters, none of them a control character, without spaces around it.';

create table public.trades (
  credential_id uuid not null,
  exchange_trade_id text not null check (length(exchange_trade_id) between 1 and 200),
  user_id uuid not null,
  executed_at timestamptz not null check (isfinite(executed_at)),
  side text not null check (side in ('buy', 'sell')),
  base text not null check (length(base) between 1 and 40),
  quote text not null check (length(quote) between 1 and 40),
  amount numeric not null check (amount > 0 and amount < 1e20 and amount = trunc(amount, 18)),
  price numeric not null check (price > 0 and price < 1e20 and price = trunc(price, 18)),
  fee numeric not null default 0 check (abs(fee) < 1e20 and fee = trunc(fee, 18)),
  fee_asset text check (length(fee_asset) between 1 and 40),
  quote_price numeric check (quote_price > 0 and quote_price < 1e20 and quote_price = trunc(quote_price, 18)),
  fee_price numeric check (fee_price > 0 and fee_price < 1e20 and fee_price = trunc(fee_price, 18)),
  price_gap text check (price_gap in ('not_asked', 'no_market', 'no_history')),
  tag text check (private.is_strategy_tag(tag)),
  created_at timestamptz not null default now(),
  primary key (credential_id, exchange_trade_id),
  foreign key (credential_id, user_id) references public.credentials (id, user_id) on delete cascade,
  constraint trades_quote_is_not_base check (quote <> base),
  constraint trades_fee_has_an_asset check (fee = 0 or fee_asset is not null),
  constraint trades_fee_leaves_some_base check (fee_asset is distinct from base or abs(fee) < amount)
);
comment on table public.trades is 'Trades as the exchange tells them, each once per credential. Written by functions only, and never changed but for prices that were missing, and the tag.';
comment on column public.trades.exchange_trade_id is
  'The exchange''s id of the trade. Where ids are unique within a market only, the market stands in front: BTCUSDT:28457.';
comment on column public.trades.amount is 'Units of base that changed hands, before any fee.';
comment on column public.trades.price is 'Units of quote for one of base.';
comment on column public.trades.fee is 'Units of fee_asset; negative when the exchange paid a rebate.';
comment on column public.trades.quote_price is
  'Of one unit of quote in the portfolio currency when the trade was made; null when it is that currency itself, or nobody knew it.';
comment on column public.trades.fee_price is 'Of one unit of fee_asset when that is neither base nor quote nor the portfolio currency; null when nobody knew it.';
comment on column public.trades.price_gap is
  'Why quote_price or fee_price is missing although profit needs it: not_asked (a later sync asks the exchange), no_market (at most two of its markets do not lead to the portfolio currency) or no_history (it tells no price of that time). Null when nothing is missing.';
comment on column public.trades.tag is 'The strategy that its owner gave it (tag_my_trades); null: that of its market in trade_tag_rules, if there is one.';
create index trades_user_id_executed_at_idx on public.trades (user_id, executed_at desc);
create index trades_credential_id_executed_at_idx on public.trades (credential_id, executed_at);
create index trades_no_history_idx on public.trades (credential_id, executed_at) where price_gap = 'no_history';
create index trades_not_asked_idx on public.trades (credential_id, executed_at, exchange_trade_id) where price_gap = 'not_asked';
alter table public.trades enable row level security;
alter table public.trades force row level security;
revoke all on public.trades from anon, authenticated, service_role;
grant select on public.trades to authenticated, service_role;

create table public.portfolio_skipped_rows (
  credential_id uuid not null,
  kind text not null check (kind in ('holding', 'trade')),
  id text not null check (length(id) between 1 and 200),
  user_id uuid not null,
  reason text not null check (reason ~ '^[a-z_]{3,40}$'),
  content jsonb not null check (octet_length(content::text) <= 8000),
  skipped_at timestamptz not null default now(),
  primary key (credential_id, kind, id),
  foreign key (credential_id, user_id) references public.credentials (id, user_id) on delete cascade
);
comment on table public.portfolio_skipped_rows is
  'What an exchange told and the portfolio leaves out, because it cannot be read: holdings as of the last sync, trades until a later sync can read them. At most portfolio.skipped_rows of each kind and credential; get_my_portfolio_syncs counts the others, too. Written by functions only.';
comment on column public.portfolio_skipped_rows.id is 'Of a holding its asset, of a trade the exchange''s id, as far as they could be read.';
comment on column public.portfolio_skipped_rows.reason is
  'Why, as a code: amount_not_positive, price_not_positive, fee_takes_all, fee_without_asset, too_many_decimals, too_large, name_not_readable, base_is_quote or not_readable.';
comment on column public.portfolio_skipped_rows.content is 'What the exchange told, as far as it could be read.';
create index portfolio_skipped_rows_user_id_idx on public.portfolio_skipped_rows (user_id);
alter table public.portfolio_skipped_rows enable row level security;
alter table public.portfolio_skipped_rows force row level security;
revoke all on public.portfolio_skipped_rows from anon, authenticated, service_role;
grant select on public.portfolio_skipped_rows to authenticated, service_role;

create table public.portfolio_snapshots (
  user_id uuid not null references auth.users (id) on delete cascade,
  credential_id uuid,
  taken_at timestamptz not null,
  value numeric not null check (value >= 0 and value < 1e42),
  quote_currency text not null check (length(quote_currency) between 1 and 40),
  granularity text not null default '5m' check (granularity in ('5m', '1h', '1d')),
  unique nulls not distinct (user_id, credential_id, taken_at),
  foreign key (user_id, credential_id) references public.credentials (user_id, id) on delete cascade
) partition by range (taken_at);
comment on table public.portfolio_snapshots is
  'What a portfolio was worth: per credential, and in total (credential_id null), the last of every five minutes with a sync; older ones thinned out to hours and days. A credential that is deleted takes its own snapshots along; the totals stay as they were, because they say what the owner had then.';
comment on column public.portfolio_snapshots.value is 'Of all holdings that had a price.';
comment on column public.portfolio_snapshots.granularity is 'It is the last snapshot of its 5m, 1h or 1d (UTC). The moment and the value are the real ones, never an average.';
create table private.portfolio_snapshots_default partition of public.portfolio_snapshots default;
revoke all on private.portfolio_snapshots_default from anon, authenticated, service_role;
-- For the downsampling, which goes by time through all users: rows lie in the order of time, so a few pages say where.
create index portfolio_snapshots_taken_at_idx on public.portfolio_snapshots using brin (taken_at) with (pages_per_range = 16);
alter table public.portfolio_snapshots enable row level security;
alter table public.portfolio_snapshots force row level security;
revoke all on public.portfolio_snapshots from anon, authenticated, service_role;
grant select on public.portfolio_snapshots to authenticated, service_role;

create function private.create_portfolio_partitions() returns integer
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
end $$;
comment on function private.create_portfolio_partitions() is
  'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

-- Profit and loss: first in, first out, by credential and asset ------------------------------------------------------------

create table private.portfolio_lots (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  asset text not null check (length(asset) <= 40),
  trade_id text not null check (length(trade_id) <= 200),
  acquired_at timestamptz not null,
  amount numeric not null check (amount > 0),
  remaining numeric not null check (remaining between 0 and amount),
  cost numeric,
  primary key (credential_id, asset, trade_id)
);
comment on table private.portfolio_lots is
  'What trades brought into an account, and what of it is left. The oldest lot leaves first; trades of one moment in the order of their ids.';
comment on column private.portfolio_lots.trade_id is 'trades.exchange_trade_id of the trade that brought it. No foreign key: trades go with their credential only.';
comment on column private.portfolio_lots.cost is
  'Of the whole amount, with its fees, in the portfolio currency to 18 decimals; null when nobody knew the price of what was paid. What is left cost private.exact_share(cost, remaining, amount).';
create index portfolio_lots_open_idx on private.portfolio_lots (credential_id, asset, acquired_at) where remaining > 0;
revoke all on private.portfolio_lots from anon, authenticated, service_role;

create table private.portfolio_disposals (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  asset text not null check (length(asset) <= 40),
  trade_id text not null check (length(trade_id) <= 200),
  position integer not null check (position > 0),
  disposed_at timestamptz not null,
  lot_trade_id text check (length(lot_trade_id) <= 200),
  amount numeric not null check (amount > 0),
  proceeds numeric,
  cost numeric,
  primary key (credential_id, asset, trade_id, position)
);
comment on table private.portfolio_disposals is
  'What trades took out of an account: a row for each lot they took from, and one without a lot for what came without a trade. Realised are the rows that have both proceeds and cost.';
comment on column private.portfolio_disposals.trade_id is 'trades.exchange_trade_id of the trade that took it.';
comment on column private.portfolio_disposals.lot_trade_id is 'The lot; null when no lot was left, so that the asset came by a deposit.';
comment on column private.portfolio_disposals.proceeds is 'After fees; null when nobody knew a price: a fee in a third asset, or an asset paid with another one.';
comment on column private.portfolio_disposals.cost is 'This share of the lot''s cost; null when it is not known.';
create index portfolio_disposals_disposed_at_idx on private.portfolio_disposals (credential_id, asset, disposed_at);
revoke all on private.portfolio_disposals from anon, authenticated, service_role;

create table private.portfolio_positions (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  asset text not null check (length(asset) <= 40),
  realised numeric not null default 0,
  unknown_cost_sold numeric not null default 0,
  unknown_cost_proceeds numeric not null default 0,
  unvalued_sold numeric not null default 0,
  primary key (credential_id, asset)
);
comment on table private.portfolio_positions is 'portfolio_disposals added up, so that nobody reads years of them.';
comment on column private.portfolio_positions.realised is 'Proceeds less cost of what has both.';
comment on column private.portfolio_positions.unknown_cost_sold is 'Units that were sold and whose cost nobody knows: they came by a deposit, or were paid with an asset without a price.';
comment on column private.portfolio_positions.unknown_cost_proceeds is 'What those units brought; in no profit or loss.';
comment on column private.portfolio_positions.unvalued_sold is 'Units that left at a price nobody knew, as fees do that are paid in a third asset; in no profit or loss.';
revoke all on private.portfolio_positions from anon, authenticated, service_role;

create function private.portfolio_movements(trade public.trades, currency text)
returns table (asset text, amount numeric, value numeric)
language plpgsql immutable security invoker set search_path = ''
as $$
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
end $$;
comment on function private.portfolio_movements(public.trades, text) is
  'What a trade moved of each asset but the currency: units (what came is positive), and their value with the same sign, null when nobody knew it. Fees: one in the base makes what came less, or what left more; one in the quote is part of what was paid, or not part of what was got; one in a third asset is added to the cost or taken from the proceeds at fee_price, and leaves the account as a sale of that asset at the same value. Without a fee_price it counts nowhere and leaves without a value.';

create function private.count_portfolio_disposals(credential_id uuid, asset text, from_time timestamptz, sign integer) returns void
language sql volatile security invoker set search_path = ''
as $$
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
$$;
comment on function private.count_portfolio_disposals(uuid, text, timestamptz, integer) is
  'Adds an asset''s disposals from a moment on to its position (sign 1), or takes them out of it (-1).';

create function private.replay_portfolio(credential_id uuid, asset text, from_time timestamptz, currency text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.replay_portfolio(uuid, text, timestamptz, text) is
  'Takes back what an asset''s trades of a credential did from a moment on, and does it again in the order of time: new trades alone when they are the newest, everything after it when one came late. Whoever calls it has the lock of the sync.';

-- Syncs: who reads an exchange, and when ----------------------------------------------------------------------------------

create table private.portfolio_syncs (
  credential_id uuid primary key,
  user_id uuid not null,
  lease_id uuid unique,
  leased_until timestamptz,
  attempts integer not null default 0 check (attempts >= 0),
  next_sync_at timestamptz not null default now(),
  last_synced_at timestamptz,
  cursor jsonb not null default '{}' check (length(cursor::text) <= 200000),
  error text check (length(error) <= 500),
  skipped_holdings integer not null default 0 check (skipped_holdings >= 0),
  skipped_trades integer not null default 0 check (skipped_trades >= 0),
  gaps_reopened_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  foreign key (credential_id, user_id) references public.credentials (id, user_id) on delete cascade
);
comment on table private.portfolio_syncs is 'The sync of each credential of an exchange: when it is due, and who is at it. Nobody else writes the portfolio.';
comment on column private.portfolio_syncs.lease_id is 'Who has this reads the exchange and records it; null while nobody is at it.';
comment on column private.portfolio_syncs.leased_until is 'From then on another worker may take it over.';
comment on column private.portfolio_syncs.attempts is 'Leases since the last sync that succeeded.';
comment on column private.portfolio_syncs.cursor is 'How far the trades were read, in the exchange''s own terms.';
comment on column private.portfolio_syncs.error is 'Why the last sync failed; null when it did not.';
comment on column private.portfolio_syncs.skipped_holdings is 'How many holdings the last sync skipped, also those that portfolio_skipped_rows has no place for.';
comment on column private.portfolio_syncs.skipped_trades is 'How many trades are left out: those of portfolio_skipped_rows, and up to 10000 that it has no place for.';
comment on column private.portfolio_syncs.gaps_reopened_at is 'When private.reopen_price_gaps last did something.';
create index portfolio_syncs_user_id_idx on private.portfolio_syncs (user_id);
create index portfolio_syncs_next_sync_at_idx on private.portfolio_syncs (next_sync_at);
revoke all on private.portfolio_syncs from anon, authenticated, service_role;

create table private.portfolio_skipped_ids (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  id_hash bigint not null,
  primary key (credential_id, id_hash)
);
comment on table private.portfolio_skipped_ids is
  'Skipped trades that portfolio_skipped_rows has no place for, at most 10000 of a credential: a page that is read again counts none of them twice.';
comment on column private.portfolio_skipped_ids.id_hash is 'hashtextextended(id, 0) of the id that portfolio_skipped_rows would have.';
revoke all on private.portfolio_skipped_ids from anon, authenticated, service_role;

create table private.portfolio_assets (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  asset text not null check (length(asset) between 1 and 40),
  primary key (credential_id, asset)
);
comment on table private.portfolio_assets is
  'Every asset that a credential''s account ever held at a sync. Together with what its trades moved (portfolio_positions) it says which markets may have trades of it.';
revoke all on private.portfolio_assets from anon, authenticated, service_role;

create function private.portfolio_assets_of(credential_id uuid) returns text[]
language sql stable security invoker set search_path = ''
as $$
  select coalesce(array_agg(a.asset order by a.asset), '{}') from (
    select x.asset from private.portfolio_assets x where x.credential_id = portfolio_assets_of.credential_id
    union
    select p.asset from private.portfolio_positions p where p.credential_id = portfolio_assets_of.credential_id
    union
    select h.asset from public.holdings h where h.credential_id = portfolio_assets_of.credential_id) a
$$;
comment on function private.portfolio_assets_of(uuid) is 'Every asset that a credential''s account holds, or ever held, as far as we saw.';

create table private.exchange_pauses (
  exchange_id text primary key references private.exchanges (id) on delete cascade,
  paused_until timestamptz not null
);
comment on table private.exchange_pauses is 'Exchanges that told us to slow down: nobody''s portfolio is read from them until then.';
revoke all on private.exchange_pauses from anon, authenticated, service_role;

create function private.tg_credentials__portfolio_sync() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: whoever writes credentials cannot write syncs.
begin
  if tg_op = 'UPDATE' and old.status = new.status then
    return null;
  end if;
  insert into private.portfolio_syncs as s (credential_id, user_id) values (new.id, new.user_id)
  on conflict (credential_id) do update set next_sync_at = now(), attempts = 0, error = null where s.lease_id is null;
  return null;
end $$;
comment on function private.tg_credentials__portfolio_sync() is
  'A credential of an exchange that becomes active is synced at once.';
create trigger tg_credentials__portfolio_sync after insert or update of status on public.credentials
  for each row when (new.kind = 'exchange' and new.status = 'active') execute function private.tg_credentials__portfolio_sync();

create function private.portfolio_backoff(attempts integer) returns interval
language sql volatile security invoker set search_path = ''
return least(interval '1 minute' * power(2, least(attempts, 20) - 1), interval '6 hours') * (0.9 + 0.2 * random());
comment on function private.portfolio_backoff(integer) is 'How long a sync rests after so many tries in a row: a minute, two, four, at most six hours, a tenth more or less.';

create function private.require_portfolio(user_id uuid, session_id uuid, request jsonb) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(require_portfolio.user_id, require_portfolio.session_id, aal2 => exists (
    select from private.account_states a where a.id = require_portfolio.user_id and a.has_factor), request => require_portfolio.request);
end $$;
comment on function private.require_portfolio(uuid, uuid, jsonb) is
  'Raises what private.require_account refuses. Who has a second factor must have used it; the team needs none to look at a portfolio of its own.';

create view private.portfolio_syncs_allowed with (security_invoker = true) as
select s.credential_id, c.provider, e.base_url, e.price_asset
from private.portfolio_syncs s
  join public.credentials c on c.id = s.credential_id and c.kind = 'exchange' and c.status = 'active'
  join private.exchanges e on e.id = c.provider and e.enabled
  join private.entitled_profiles p on p.id = s.user_id and p.is_active
  join public.plan_features f on f.plan_id = p.plan_id and f.feature = 'portfolio_sync'
where not exists (select from private.exchange_pauses x where x.exchange_id = e.id and x.paused_until > now());
comment on view private.portfolio_syncs_allowed is
  'The syncs that may run now, whenever they are due: of active credentials, of enabled exchanges without a pause, whose owner''s account is active, neither banned nor deleted, and whose plan has the feature portfolio_sync.';
revoke all on private.portfolio_syncs_allowed from anon, authenticated, service_role;

create function private.lease_portfolio_sync(
  max_syncs integer default 1, of_user uuid default null, of_session uuid default null, not_of text[] default '{}',
  request jsonb default null)
returns table (
  credential_id uuid, user_id uuid, exchange_id text, lease_id uuid, leased_until timestamptz, cursor jsonb, quote_currency text,
  base_url text, price_asset text, held text[])
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_lease interval := make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer);
begin
  if of_user is not null then
    perform private.require_portfolio(of_user, of_session, request);
    perform private.require_feature(of_user, 'portfolio_sync');
  end if;
  return query
    with turns as (
      -- Everybody's first, then everybody's second: who has many waits for them, and nobody else does.
      select t.credential_id, row_number() over (partition by t.user_id order by t.next_sync_at, t.credential_id) as turn
      from private.portfolio_syncs t
      where (t.leased_until is null or t.leased_until <= now()) and (t.next_sync_at <= now() or t.user_id = of_user)
        and (of_user is null or t.user_id = of_user)
    ), due as (
      select a.* from private.portfolio_syncs s join private.portfolio_syncs_allowed a on a.credential_id = s.credential_id
        join turns t on t.credential_id = s.credential_id
      where (s.leased_until is null or s.leased_until <= now()) and a.provider <> all (not_of)
        and (of_user is null or s.user_id = of_user)
        -- Somebody who asks does not wait for the next time, but for the rest after a failure.
        and (s.next_sync_at <= now()
          or (of_user is not null and s.attempts = 0 and s.last_synced_at <= now() - interval '1 minute'))
      order by t.turn, s.next_sync_at limit least(max_syncs, 100)
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
      private.portfolio_assets_of(s.credential_id);
end $$;
comment on function private.lease_portfolio_sync(integer, uuid, uuid, text[], jsonb) is
  'Gives up to max_syncs (at most 100) due syncs of private.portfolio_syncs_allowed, users in turn, to one worker each, for portfolio.lease_seconds. With of_user that user''s only, if the user and of_session may by this request (require_portfolio, entitlement_required), and before they are due: at most once a minute, and not while they rest after a failure. not_of: exchanges that the worker reads from already. held: every asset that was ever seen in the account. End with record_portfolio_sync, pause_portfolio_sync or fail_portfolio_sync.';

create function private.pause_portfolio_sync(lease_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.portfolio_syncs s set
    lease_id = null, leased_until = null, attempts = 0, error = null, next_sync_at = now()
  where s.lease_id = pause_portfolio_sync.lease_id;
  return found;
end $$;
comment on function private.pause_portfolio_sync(uuid) is
  'Gives a lease back in the middle of a long history: what was recorded stays, and another worker goes on at once. False: the lease was another''s already.';

create function private.pause_exchange(exchange_id text, pause_seconds integer) returns void
language sql volatile security invoker set search_path = ''
as $$
  insert into private.exchange_pauses as x (exchange_id, paused_until)
  values (pause_exchange.exchange_id, now() + make_interval(secs => least(greatest(pause_seconds, 1), 3600)))
  on conflict on constraint exchange_pauses_pkey do update set paused_until = greatest(x.paused_until, excluded.paused_until)
$$;
comment on function private.pause_exchange(text, integer) is
  'Nobody''s portfolio is read from an exchange for so many seconds (1 to 3600), or longer if that was said before.';

create function private.fail_portfolio_sync(
  lease_id uuid, error text, pause_seconds integer default null, refused_version integer default null
) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
    perform private.pause_exchange(c.provider, pause_seconds) from public.credentials c where c.id = v_sync.credential_id;
  end if;
  return true;
end $$;
comment on function private.fail_portfolio_sync(uuid, text, integer, integer) is
  'Gives a lease back after a failure, which must hold no secret; the next try comes after a growing rest. pause_seconds (1 to 3600) says that the exchange limits our rate: nobody reads from it until then. refused_version: that of a key that its owner must look at; the credential fails with the error as its reason, and the owner is told. False: the lease was another''s already, and nothing changed.';

create function private.portfolio_number_fault(amount numeric) returns text
language sql immutable security invoker set search_path = ''
return case
  when coalesce(portfolio_number_fault.amount, 'NaN') = 'NaN' then 'not_readable'
  when abs(portfolio_number_fault.amount) >= 1e20 then 'too_large'
  when portfolio_number_fault.amount <> trunc(portfolio_number_fault.amount, 18) then 'too_many_decimals'
end;
comment on function private.portfolio_number_fault(numeric) is 'Why the portfolio cannot keep a number, as portfolio_skipped_rows.reason; null when it can.';

create function private.portfolio_name_fault(name text) returns text
language sql immutable security invoker set search_path = ''
return case
  when coalesce(length(portfolio_name_fault.name) not between 1 and 40, true) or portfolio_name_fault.name ~ '[[:space:][:cntrl:]]'
  then 'name_not_readable'
end;
comment on function private.portfolio_name_fault(text) is
  'Why the portfolio cannot keep the name of an asset, as portfolio_skipped_rows.reason; null when it can. Letters of every script are letters.';

create function private.trade_fault(trade jsonb) returns text
language sql immutable security invoker set search_path = ''
as $$
  select coalesce(
    case when coalesce(length(t.id) not between 1 and 200 or t.side not in ('buy', 'sell') or not isfinite(t.executed_at), true)
      then 'not_readable' end,
    private.portfolio_name_fault(t.base), private.portfolio_name_fault(t.quote),
    case when t.base = t.quote then 'base_is_quote' end,
    case when t.amount <= 0 then 'amount_not_positive' end, private.portfolio_number_fault(t.amount),
    case when t.price <= 0 then 'price_not_positive' end, private.portfolio_number_fault(t.price),
    case when t.fee <> 0 then coalesce(
      private.portfolio_number_fault(t.fee),
      case when t.fee_asset is null then 'fee_without_asset' end,
      private.portfolio_name_fault(t.fee_asset),
      case when t.fee_asset = t.base and abs(t.fee) >= t.amount then 'fee_takes_all' end) end)
  from jsonb_to_record(trade) t (
    id text, executed_at timestamptz, side text, base text, quote text, amount numeric, price numeric, fee numeric, fee_asset text)
$$;
comment on function private.trade_fault(jsonb) is
  'Why a trade, as record_portfolio_sync takes them, cannot be kept, as portfolio_skipped_rows.reason; null when it can: what public.trades checks, in words.';

create function private.count_skipped_trades(credential_id uuid, unplaced_ids text[], placed_ids text[]) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- What has a place now, or can be read, is remembered no more.
  delete from private.portfolio_skipped_ids i
  where i.credential_id = count_skipped_trades.credential_id
    and i.id_hash = any (array(select hashtextextended(p.id, 0) from unnest(placed_ids) p (id)));
  -- The others are remembered as far as there is room.
  insert into private.portfolio_skipped_ids (credential_id, id_hash)
  select count_skipped_trades.credential_id, u.id_hash
  from (select distinct hashtextextended(x.id, 0) as id_hash from unnest(unplaced_ids) x (id)) u
  where not exists (
    select from private.portfolio_skipped_ids i
    where i.credential_id = count_skipped_trades.credential_id and i.id_hash = u.id_hash)
  order by u.id_hash
  limit greatest(10000 - (
    select count(*) from private.portfolio_skipped_ids i where i.credential_id = count_skipped_trades.credential_id), 0);
  return (
    select count(*) from private.portfolio_skipped_ids i where i.credential_id = count_skipped_trades.credential_id) + (
    select count(*) from public.portfolio_skipped_rows s
    where s.credential_id = count_skipped_trades.credential_id and s.kind = 'trade');
end $$;
comment on function private.count_skipped_trades(uuid, text[], text[]) is
  'Remembers unplaced_ids, skipped trades that portfolio_skipped_rows has no place for, and forgets placed_ids. Answers how many trades of a credential are skipped, each once. Whoever calls it has the lock of the sync.';

create function private.save_skipped_rows(sync private.portfolio_syncs, kind text, rows jsonb, read_ids text[]) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max integer := (private.setting('portfolio.skipped_rows'))::integer;
  v_told text[];
  v_placed text[];
  v_before integer;
  v_count integer;
begin
  -- Of trades, most pages have none that is or was skipped.
  if save_skipped_rows.kind = 'trade' and sync.skipped_trades = 0 and rows = '[]' then
    return 0;
  end if;
  -- Holdings are what the last sync says; a trade that was skipped and can be read now is skipped no more.
  delete from public.portfolio_skipped_rows s
  where s.credential_id = sync.credential_id and s.kind = save_skipped_rows.kind
    and (s.kind = 'holding' or s.id = any (read_ids));
  v_before := case when save_skipped_rows.kind = 'trade' then private.count_skipped_trades(sync.credential_id, '{}', read_ids) else 0 end;

  with told as (
    select distinct on (r.id) r.id, r.reason,
      case when octet_length(r.content::text) <= 8000 then r.content else to_jsonb(left(r.content::text, 1000)) end as content
    from jsonb_to_recordset(rows) r (kind text, id text, reason text, content jsonb)
    where r.kind = save_skipped_rows.kind
    order by r.id
  ), ranked as (
    select t.*, k.id is not null as is_known, row_number() over (partition by k.id is null order by t.id) as place
    from told t
      left join public.portfolio_skipped_rows k
        on k.credential_id = sync.credential_id and k.kind = save_skipped_rows.kind and k.id = t.id
  ), saved as (
    insert into public.portfolio_skipped_rows (credential_id, kind, id, user_id, reason, content)
    select sync.credential_id, save_skipped_rows.kind, r.id, sync.user_id, r.reason, r.content
    from ranked r
    where r.is_known or r.place <= v_max - (
      select count(*) from public.portfolio_skipped_rows x
      where x.credential_id = sync.credential_id and x.kind = save_skipped_rows.kind)
    on conflict on constraint portfolio_skipped_rows_pkey do update set
      reason = excluded.reason, content = excluded.content, skipped_at = excluded.skipped_at
    returning id
  )
  select array(select t.id from told t), array(select x.id from saved x) into v_told, v_placed;

  -- Every holding is new; of trades those that nothing remembered.
  if save_skipped_rows.kind = 'holding' then
    v_count := cardinality(v_told);
  else
    v_count := private.count_skipped_trades(
      sync.credential_id, array(select t.id from unnest(v_told) t (id) where t.id <> all (v_placed)), v_placed);
  end if;
  -- Most pages change nothing, and leave no dead row behind.
  update private.portfolio_syncs s set
    skipped_holdings = case when save_skipped_rows.kind = 'holding' then v_count else s.skipped_holdings end,
    skipped_trades = case when save_skipped_rows.kind = 'trade' then v_count else s.skipped_trades end
  where s.credential_id = sync.credential_id
    and v_count <> case when save_skipped_rows.kind = 'holding' then s.skipped_holdings else s.skipped_trades end;
  return v_count - v_before;
end $$;
comment on function private.save_skipped_rows(private.portfolio_syncs, text, jsonb, text[]) is
  'Keeps those of rows [{kind, id, reason, content}] that are of a kind, as far as there is place (portfolio.skipped_rows), and counts the others, each once. Of holdings all that were there go first, of trades those with read_ids, because they were read. Answers how many are new. Whoever calls it has the lock of the sync.';

create function private.sort_out_trades(trades jsonb, out readable jsonb, out skipped jsonb)
language sql immutable security invoker set search_path = ''
as $$
  select coalesce(jsonb_agg(t.trade) filter (where f.fault is null), '[]'),
    coalesce(jsonb_agg(jsonb_build_object(
      'kind', 'trade', 'reason', f.fault, 'content', t.trade,
      'id', coalesce(nullif(left(t.trade ->> 'id', 200), ''), md5(t.trade::text)))) filter (where f.fault is not null), '[]')
  from jsonb_array_elements(trades) t (trade) cross join lateral (select private.trade_fault(t.trade) as fault) f
$$;
comment on function private.sort_out_trades(jsonb) is 'Divides trades into those that can be kept, and rows for save_skipped_rows.';

create function private.usable_price(price numeric) returns numeric
language sql immutable security invoker set search_path = ''
return case when usable_price.price < 1e20 then trim_scale(nullif(greatest(trunc(usable_price.price, 18), 0), 0)) end;
comment on function private.usable_price(numeric) is
  'A price as it is kept, cut to 18 decimals; null for one that says nothing, as zero does.';

create function private.save_holdings(sync private.portfolio_syncs, holdings jsonb, prices jsonb, price_paths jsonb, currency text)
returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_skipped jsonb;
begin
  delete from public.holdings h where h.credential_id = sync.credential_id;
  with told as (
    select r.asset, r.amount, coalesce(nullif(left(r.name, 200), ''), nullif(left(r.asset, 200), ''), '?') as name, to_jsonb(r) as content,
      coalesce(private.portfolio_name_fault(r.asset), private.portfolio_number_fault(r.amount)) as fault
    from jsonb_to_recordset(holdings) r (asset text, amount numeric, name text)
    where r.amount is distinct from 0
  ), summed as (
    select t.asset, sum(t.amount) as amount,
      -- What a margin account owes is no holding.
      case when sum(t.amount) < 0 then 'amount_not_positive' else private.portfolio_number_fault(sum(t.amount)) end as fault
    from told t where t.fault is null
    group by t.asset having sum(t.amount) <> 0
  ), kept as (
    insert into public.holdings (credential_id, user_id, asset, amount, price, value, quote_currency, price_path)
    select sync.credential_id, sync.user_id, s.asset, trim_scale(s.amount), trim_scale(p.price), trim_scale(s.amount * p.price), currency,
      case when p.price is not null and s.asset <> currency then (
        select array_agg(left(m.market, 90) order by m.place)
        from jsonb_array_elements_text(price_paths -> s.asset) with ordinality m (market, place) where m.place <= 2) end
    from summed s cross join lateral (
      select case when s.asset = currency then 1 else private.usable_price((prices ->> s.asset)::numeric) end as price) p
    where s.fault is null
  )
  select coalesce(jsonb_agg(jsonb_build_object('kind', 'holding', 'id', x.id, 'reason', x.fault, 'content', x.content)), '[]')
  into v_skipped
  from (
    select t.name as id, t.fault, t.content from told t where t.fault is not null
    union all
    select s.asset, s.fault, jsonb_build_object('asset', s.asset, 'amount', s.amount) from summed s where s.fault is not null) x;
  return v_skipped;
end $$;
comment on function private.save_holdings(private.portfolio_syncs, jsonb, jsonb, jsonb, text) is
  'Puts what is held now in the place of what was. Answers what cannot be kept, as rows for save_skipped_rows. Whoever calls it has the lock of the sync.';

create function private.trade_lacks_price(
  base text, quote text, fee numeric, fee_asset text, quote_price numeric, fee_price numeric, currency text
) returns boolean
language sql immutable security invoker set search_path = ''
return (trade_lacks_price.quote_price is null and currency not in (trade_lacks_price.base, trade_lacks_price.quote))
  or (trade_lacks_price.fee_price is null and trade_lacks_price.fee <> 0
    and trade_lacks_price.fee_asset not in (trade_lacks_price.base, trade_lacks_price.quote, currency));
comment on function private.trade_lacks_price(text, text, numeric, text, numeric, numeric, text) is
  'Whether the profit of a trade needs a price that is not there: of the quote, unless one side is the currency itself, or of a third asset that took the fee.';

create function private.save_trades(sync private.portfolio_syncs, prices jsonb, trades jsonb, currency text)
returns table (new_ids text[], from_times jsonb)
language sql volatile security invoker set search_path = ''
as $$
  with changed as (
    insert into public.trades as t (
      credential_id, exchange_trade_id, user_id, executed_at, side, base, quote, amount, price, fee, fee_asset, quote_price, fee_price,
      price_gap)
    select v.*, case when private.trade_lacks_price(v.base, v.quote, v.fee, v.fee_asset, v.quote_price, v.fee_price, currency) then 'not_asked' end
    from (
      select distinct on (r.id) sync.credential_id, r.id, sync.user_id, r.executed_at, r.side, r.base, r.quote, r.amount, r.price,
        coalesce(r.fee, 0) as fee, case when private.portfolio_name_fault(r.fee_asset) is null then r.fee_asset end as fee_asset,
        case when r.quote <> currency
          then private.usable_price(coalesce(r.quote_price, case when fresh.is_fresh then (prices ->> r.quote)::numeric end)) end as quote_price,
        case when r.fee <> 0 and r.fee_asset not in (r.base, r.quote, currency)
          then private.usable_price(coalesce(r.fee_price, case when fresh.is_fresh then (prices ->> r.fee_asset)::numeric end)) end as fee_price
      from jsonb_to_recordset(trades) r (
          id text, executed_at timestamptz, side text, base text, quote text, amount numeric, price numeric, fee numeric, fee_asset text,
          quote_price numeric, fee_price numeric)
        cross join lateral (
          select r.executed_at >= now() - make_interval(mins => (private.setting('portfolio.price_minutes'))::integer) as is_fresh) fresh
      order by r.id, r.quote_price, r.fee_price) v
    on conflict (credential_id, exchange_trade_id) do update set
      quote_price = coalesce(t.quote_price, excluded.quote_price), fee_price = coalesce(t.fee_price, excluded.fee_price),
      price_gap = case when private.trade_lacks_price(t.base, t.quote, t.fee, t.fee_asset, coalesce(t.quote_price, excluded.quote_price),
        coalesce(t.fee_price, excluded.fee_price), currency) then t.price_gap end
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
$$;
comment on function private.save_trades(private.portfolio_syncs, jsonb, jsonb, text) is
  'Adds the trades that are not there yet, and prices to those that lacked one. A trade brings its prices, or has the sync''s when it is at most portfolio.price_minutes old; older prices would be guesses. Answers the ids of the new trades, and for each asset they moved from when on.';

create function private.save_snapshot(user_id uuid, credential_id uuid, value numeric, currency text) returns timestamptz
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.save_snapshot(uuid, uuid, numeric, text) is
  'Writes what a credential, or all of a user''s (credential_id null), is worth now. Whoever calls it has the lock of the user''s syncs.';

create function private.take_snapshots(
  sync private.portfolio_syncs, currency text, out value numeric, out total numeric, out taken_at timestamptz, out unpriced integer
)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_is_valued boolean;
begin
  select trim_scale(coalesce(sum(h.value) filter (where h.credential_id = sync.credential_id), 0)), trim_scale(coalesce(sum(h.value), 0)),
    count(*) filter (where h.credential_id = sync.credential_id and h.value is null),
    count(*) filter (where h.credential_id = sync.credential_id) = 0
      or count(h.value) filter (where h.credential_id = sync.credential_id) > 0
  into value, total, unpriced, v_is_valued from public.holdings h where h.user_id = sync.user_id;
  -- Without any price the chart would fall to zero.
  if v_is_valued then
    perform private.save_snapshot(sync.user_id, sync.credential_id, value, currency);
    taken_at := private.save_snapshot(sync.user_id, null, total, currency);
    perform realtime.send(
      jsonb_build_object('credential_id', sync.credential_id, 'value', value, 'total', total, 'quote_currency', currency,
        'taken_at', taken_at),
      'snapshot', 'user:' || sync.user_id, true);
  end if;
end $$;
comment on function private.take_snapshots(private.portfolio_syncs, text) is
  'What a credential''s holdings are worth, and all of its owner''s; both are written down and told to the owner, unless nothing has a price. unpriced: how many holdings of the credential have none. Whoever calls it has the lock of the user''s syncs.';

create function private.lock_portfolio_sync(lease_id uuid) returns private.portfolio_syncs
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_sync private.portfolio_syncs;
begin
  -- One sync of a user after the other, always in the same order: the total is the sum of all credentials.
  perform from private.portfolio_syncs s
  where s.user_id = (select l.user_id from private.portfolio_syncs l where l.lease_id = lock_portfolio_sync.lease_id)
  order by s.credential_id for update;
  -- Of an account that has ended meanwhile nothing more is written down.
  select s.* into v_sync from private.portfolio_syncs s
    join private.account_states a on a.id = s.user_id and a.is_active
  where s.lease_id = lock_portfolio_sync.lease_id;
  return v_sync;
end $$;
comment on function private.lock_portfolio_sync(uuid) is
  'Locks all syncs of the user whose sync has this lease, and answers that sync; nulls when the lease is another''s already, or the account has ended.';

create function private.record_portfolio_sync(
  lease_id uuid, holdings jsonb, prices jsonb, trades jsonb, cursor jsonb, skipped jsonb default null, price_paths jsonb default null
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
  v_sync private.portfolio_syncs := private.lock_portfolio_sync(record_portfolio_sync.lease_id);
  v_saved record;
  -- JSON's null is what clients send for SQL's.
  v_holdings jsonb := nullif(record_portfolio_sync.holdings, 'null');
  v_prices jsonb := nullif(record_portfolio_sync.prices, 'null');
  v_skipped jsonb := coalesce(nullif(record_portfolio_sync.skipped, 'null'), '[]');
  v_trades record;
  v_skipped_trades integer;
  v_skipped_holdings integer;
  v_cursor jsonb := nullif(record_portfolio_sync.cursor, 'null');
  v_worth record;
begin
  if v_sync.credential_id is null then
    return jsonb_build_object('recorded', false);
  end if;

  select t.readable, t.skipped into v_trades
  from private.sort_out_trades(coalesce(nullif(record_portfolio_sync.trades, 'null'), '[]')) t;
  select t.new_ids, t.from_times into v_saved from private.save_trades(v_sync, v_prices, v_trades.readable, v_currency) t;
  v_skipped_trades := private.save_skipped_rows(v_sync, 'trade', v_skipped || v_trades.skipped, v_saved.new_ids);
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
    return jsonb_build_object('recorded', true, 'new_trades', to_jsonb(v_saved.new_ids), 'is_complete', false,
      'skipped_rows', v_skipped_trades);
  end if;

  v_skipped_holdings := private.save_skipped_rows(v_sync, 'holding', v_skipped || private.save_holdings(
      v_sync, v_holdings, v_prices, nullif(price_paths, 'null'), v_currency), '{}');
  insert into private.portfolio_assets (credential_id, asset)
  select h.credential_id, h.asset from public.holdings h where h.credential_id = v_sync.credential_id
  on conflict do nothing;
  select t.* into v_worth from private.take_snapshots(v_sync, v_currency) t;
  update private.portfolio_syncs s set
    lease_id = null, leased_until = null, attempts = 0, error = null, last_synced_at = now(),
    cursor = coalesce(v_cursor, s.cursor),
    next_sync_at = now()
      + make_interval(mins => (private.setting('portfolio.sync_minutes'))::integer) * (0.9 + 0.2 * random())
  where s.credential_id = v_sync.credential_id;
  return jsonb_build_object('recorded', true, 'new_trades', to_jsonb(v_saved.new_ids), 'is_complete', true,
    'value', v_worth.value, 'total', v_worth.total, 'taken_at', v_worth.taken_at, 'unpriced', v_worth.unpriced,
    'skipped_rows', v_skipped_trades + v_skipped_holdings);
end $$;
comment on function private.record_portfolio_sync(uuid, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb) is
  'Records what the holder of a lease read, in one transaction. holdings: [{asset, amount, name}], all there is; name: what the exchange calls it, and several of one asset are added up; prices: {asset: price in the portfolio currency now}; trades: [{id, executed_at, side, base, quote, amount, price, fee, fee_asset, quote_price, fee_price}] in any order, however often; cursor: where to go on, null as it was. Numbers may be strings. skipped: [{kind, id, reason, content}], rows that the worker could not read (portfolio_skipped_rows); price_paths: {asset: [market]}, over which markets a price came. A holding or a trade that cannot be kept is skipped, too, and costs only itself. holdings null: a page of trades, more are to come, the lease goes on. When nothing that is held has a price, no snapshot is taken. Answers {recorded: false} when the lease is another''s; else {recorded, new_trades: [id], is_complete, value, total, taken_at, skipped_rows, unpriced}: how many trades are skipped for the first time and how many holdings, and how many holdings have no price.';

create function private.call_sync_portfolios() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (
    select from private.portfolio_syncs s join private.portfolio_syncs_allowed a on a.credential_id = s.credential_id
    where s.next_sync_at <= now() and (s.leased_until is null or s.leased_until <= now()))
  then
    return private.call_jobs_function('sync-portfolios');
  end if;
  return null;
end $$;
comment on function private.call_sync_portfolios() is 'Calls the sync of portfolios when one is due.';

create function private.list_portfolio_syncs(user_id uuid, session_id uuid, request jsonb default null)
returns table (
  credential_id uuid, exchange text, name text, status text, is_running boolean, error text, last_synced_at timestamptz,
  next_sync_at timestamptz, skipped_rows integer)
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_portfolio(list_portfolio_syncs.user_id, list_portfolio_syncs.session_id, list_portfolio_syncs.request);
  return query
    select c.id, c.provider, c.name, c.status, coalesce(s.leased_until > now(), false), coalesce(s.error, c.status_reason),
      s.last_synced_at, case when c.status = 'active' then s.next_sync_at end,
      coalesce(s.skipped_holdings + s.skipped_trades, 0)
    from public.credentials c left join private.portfolio_syncs s on s.credential_id = c.id
    where c.user_id = list_portfolio_syncs.user_id and c.kind = 'exchange'
    order by c.id;
end $$;
comment on function private.list_portfolio_syncs(uuid, uuid, jsonb) is
  'How a user''s exchanges are doing, for the function portfolio and public.get_my_portfolio_syncs, which says what the columns are.';

create function private.my_portfolio_syncs()
returns table (
  credential_id uuid, exchange text, name text, status text, is_running boolean, error text, last_synced_at timestamptz,
  next_sync_at timestamptz, skipped_rows integer)
language sql stable security definer set search_path = ''
as $$
-- Definer: syncs are private.
  select * from private.list_portfolio_syncs((select auth.uid()), private.my_session_id())
$$;
comment on function private.my_portfolio_syncs() is 'Behind public.get_my_portfolio_syncs.';
grant execute on function private.my_portfolio_syncs() to authenticated;

create function public.get_my_portfolio_syncs()
returns table (
  credential_id uuid, exchange text, name text, status text, is_running boolean, error text, last_synced_at timestamptz,
  next_sync_at timestamptz, skipped_rows integer)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_portfolio_syncs() $$;
comment on function public.get_my_portfolio_syncs() is
  'How the caller''s exchanges are doing: status, whether a sync runs now, why the last one failed (a code, null after a success), when the last and the next sync are, and how many holdings and trades are left out because they cannot be read: portfolio_skipped_rows shows them.';
grant execute on function public.get_my_portfolio_syncs() to authenticated;

-- What users ask for ------------------------------------------------------------------------------------------------------

create function private.my_portfolio()
returns table (
  asset text, amount numeric, price numeric, value numeric, quote_currency text, cost numeric, unrealised numeric, realised numeric,
  unknown_cost_amount numeric, unknown_cost_sold numeric, unknown_cost_proceeds numeric, unvalued_sold numeric, updated_at timestamptz,
  price_path text[])
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: lots are private; it answers for the caller only.
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
      select h.credential_id, h.asset, h.amount, h.price, h.price_path, h.value, h.updated_at,
        case when l.amount is null then 0 else least(h.amount, l.amount) end as known_amount,
        case when h.amount >= l.amount then l.cost else private.exact_share(l.cost, h.amount, l.amount) end as cost
      from public.holdings h
        left join lots l on l.credential_id = h.credential_id and l.asset = h.asset
      where h.user_id = v_user_id
    ), held as (
      select k.asset, sum(k.amount) as amount, (array_agg(k.price order by k.updated_at desc))[1] as price,
        -- As text: an array of arrays would want them all of one length.
        (array_agg(k.price_path::text order by k.updated_at desc))[1]::text[] as price_path,
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
      trim_scale(coalesce(s.unvalued_sold, 0)), h.updated_at, h.price_path
    from held h full join sold s on s.asset = h.asset
    order by h.value desc nulls last, 1;
end $$;
comment on function private.my_portfolio() is 'Behind public.get_my_portfolio.';
grant execute on function private.my_portfolio() to authenticated;

create function public.get_my_portfolio()
returns table (
  asset text, amount numeric, price numeric, value numeric, quote_currency text, cost numeric, unrealised numeric, realised numeric,
  unknown_cost_amount numeric, unknown_cost_sold numeric, unknown_cost_proceeds numeric, unvalued_sold numeric, updated_at timestamptz,
  price_path text[])
language sql stable security invoker set search_path = ''
as $$ select * from private.my_portfolio() $$;
comment on function public.get_my_portfolio() is
  'The caller''s portfolio by asset over all exchanges: what is held, its value, its cost (first in, first out, with fees) and the profit or loss in quote_currency; price_path: over which markets its price came (holdings.price_path). What needs a price is null while that is missing.';
grant execute on function public.get_my_portfolio() to authenticated;

create function private.my_portfolio_series("from" timestamptz, "to" timestamptz, points integer, credential_id uuid)
returns table (taken_at timestamptz, value numeric, quote_currency text)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: as all that users ask of functions, it answers the caller only and says why it does not.
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
end $$;
comment on function private.my_portfolio_series(timestamptz, timestamptz, integer, uuid) is
  'Behind public.get_my_portfolio_series: one look into the index for each bucket, however many snapshots there are.';
grant execute on function private.my_portfolio_series(timestamptz, timestamptz, integer, uuid) to authenticated;

create function public.get_my_portfolio_series("from" timestamptz, "to" timestamptz, points integer default 200, credential_id uuid default null)
returns table (taken_at timestamptz, value numeric, quote_currency text)
language sql stable security invoker set search_path = ''
as $$
  select * from private.my_portfolio_series(
    get_my_portfolio_series."from", get_my_portfolio_series."to", get_my_portfolio_series.points, get_my_portfolio_series.credential_id)
$$;
comment on function public.get_my_portfolio_series(timestamptz, timestamptz, integer, uuid) is
  'What the caller''s portfolio, or one credential''s part of it, was worth over time: the range is cut into as many equal parts as points says (2 to 1000), and each answers its last snapshot if it has one.';
grant execute on function public.get_my_portfolio_series(timestamptz, timestamptz, integer, uuid) to authenticated;

-- Old snapshots --------------------------------------------------------------------------------------------------------

create table private.portfolio_downsamples (
  granularity text primary key check (granularity in ('1h', '1d')),
  done_until timestamptz not null
);
comment on table private.portfolio_downsamples is 'Up to which day (UTC) snapshots have been thinned out to hours and days.';
revoke all on private.portfolio_downsamples from anon, authenticated, service_role;

-- A day's rows are joined with themselves: whatever the statistics say, never row by row.
create function private.downsample_portfolio_day(day timestamptz, granularity text) returns bigint
language plpgsql volatile security invoker set search_path = '' set enable_nestloop = off
as $$
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
end $$;
comment on function private.downsample_portfolio_day(timestamptz, text) is
  'Leaves the last snapshot of each hour (1h) or of all (1d) of a day, per user and credential, as it is. Answers how many went.';

create function private.downsample_portfolio_snapshots(max_days integer default 31) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.downsample_portfolio_snapshots(integer) is
  'Thins out snapshots: the last of an hour after portfolio.hourly_after_days, the last of a day (UTC) after portfolio.daily_after_days. Nothing that stays changes its time or value. A job runs it, at most max_days days at a time. Answers how many went.';

-- sql/63_past_prices.sql ==============================================================================================

-- Prices of the past: what a trade was paid with, and took as its fee, when neither is the portfolio currency. They are asked of the
-- exchange, candle by candle, and kept; what the exchange cannot tell is said at the trade (trades.price_gap) and never guessed.

create table private.past_prices (
  exchange_id text not null references private.exchanges (id) on delete cascade,
  symbol text not null check (length(symbol) between 3 and 81),
  granularity text not null check (granularity in ('1m', '1h', '1d')),
  starts_at timestamptz not null check (isfinite(starts_at)),
  price numeric check (price > 0 and price < 1e20 and price = trunc(price, 18)),
  asked_at timestamptz not null default now(),
  primary key (exchange_id, symbol, granularity, starts_at)
);
comment on table private.past_prices is
  'The last price of a minute, an hour or a day (UTC) in a market of an exchange, as far as trades needed it: whoever else needs it does not ask again.';
comment on column private.past_prices.price is 'Units of quote for one of base; null when the exchange was asked and told none.';
comment on column private.past_prices.asked_at is 'When the exchange told it. That it told none counts for a day: it may have been in trouble.';
create index past_prices_asked_at_idx on private.past_prices (asked_at);
revoke all on private.past_prices from anon, authenticated, service_role;

create function private.get_past_prices(exchange_id text, wanted jsonb)
returns table (symbol text, granularity text, starts_at timestamptz, price numeric)
language sql stable security invoker set search_path = ''
as $$
  select p.symbol, p.granularity, p.starts_at, p.price
  from jsonb_to_recordset(wanted) w (symbol text, granularity text, starts_at timestamptz)
    join private.past_prices p on p.exchange_id = get_past_prices.exchange_id and p.symbol = w.symbol
      and p.granularity = w.granularity and p.starts_at = w.starts_at
  where p.price is not null or p.asked_at > now() - interval '1 day'
$$;
comment on function private.get_past_prices(text, jsonb) is
  'What is known already of wanted: [{symbol, granularity, starts_at}]. A row without a price: its exchange was asked within a day and told none.';

create function private.save_past_prices(exchange_id text, told jsonb) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_count integer;
begin
  -- A few at a time, what nobody needs any more: whose trade it was has its price long since.
  delete from private.past_prices p
  where (p.exchange_id, p.symbol, p.granularity, p.starts_at) in (
    select o.exchange_id, o.symbol, o.granularity, o.starts_at from private.past_prices o
    where o.asked_at < now() - interval '90 days'
    order by o.asked_at limit 1000 for update skip locked);

  insert into private.past_prices as p (exchange_id, symbol, granularity, starts_at, price)
  select distinct on (r.symbol, r.granularity, r.starts_at)
    save_past_prices.exchange_id, r.symbol, r.granularity, r.starts_at, private.usable_price(r.price)
  from jsonb_to_recordset(told) r (symbol text, granularity text, starts_at timestamptz, price numeric)
  where length(r.symbol) between 3 and 81
  order by r.symbol, r.granularity, r.starts_at, r.price
  on conflict on constraint past_prices_pkey do update set price = excluded.price, asked_at = excluded.asked_at
  where p.price is null;
  get diagnostics v_count = row_count;
  return v_count;
end $$;
comment on function private.save_past_prices(text, jsonb) is
  'Keeps what an exchange told: [{symbol, granularity, starts_at, price}], price null where it has none. A price that is known stays; what was told 90 days ago goes, at most 1000 with each call. Answers how many were kept.';

create function private.reopen_price_gaps(lease_id uuid) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_credential_id uuid;
  v_count integer;
begin
  update private.portfolio_syncs s set gaps_reopened_at = now()
  where s.lease_id = reopen_price_gaps.lease_id and s.gaps_reopened_at <= now() - interval '1 day'
  returning s.credential_id into v_credential_id;
  if not found then
    return 0;
  end if;
  -- The newest first: of them an exchange tells most.
  update public.trades t set price_gap = 'not_asked'
  from (
    select x.exchange_trade_id from public.trades x
    where x.credential_id = v_credential_id and x.price_gap = 'no_history' and x.created_at > now() - interval '7 days'
    order by x.executed_at desc limit 10000) o
  where t.credential_id = v_credential_id and t.exchange_trade_id = o.exchange_trade_id;
  get diagnostics v_count = row_count;
  return v_count;
end $$;
comment on function private.reopen_price_gaps(uuid) is
  'Once a day, for a week after they came, trades of a lease''s credential of whose time the exchange told no price are asked for again, at most 10000: it may have been in trouble. Answers how many.';

create function private.list_unpriced_trades(lease_id uuid, max_trades integer, after_time timestamptz default null, after_id text default null)
returns table (id text, executed_at timestamptz, quote text, quote_missing boolean, fee_asset text, fee_missing boolean)
language sql stable security invoker set search_path = ''
as $$
  select t.exchange_trade_id, t.executed_at, t.quote,
    private.trade_lacks_price(t.base, t.quote, 0, null, t.quote_price, null, c.currency),
    t.fee_asset, private.trade_lacks_price(t.base, t.quote, t.fee, t.fee_asset, 1, t.fee_price, c.currency)
  from private.portfolio_syncs s
    cross join (select private.setting('portfolio.quote_currency') #>> '{}' as currency) c
    join public.trades t on t.credential_id = s.credential_id and t.price_gap = 'not_asked'
  where s.lease_id = list_unpriced_trades.lease_id
    and (after_time is null or (t.executed_at, t.exchange_trade_id) > (after_time, after_id))
  order by t.executed_at, t.exchange_trade_id
  limit least(max_trades, 1000)
$$;
comment on function private.list_unpriced_trades(uuid, integer, timestamptz, text) is
  'Trades of a lease''s credential that lack a price their exchange was not asked for yet, the oldest first, at most 1000 after the last one of the call before; what is missing: the price of the quote, or of what the fee was paid in.';

create table private.portfolio_replays (
  credential_id uuid not null references public.credentials (id) on delete cascade,
  asset text not null check (length(asset) <= 40),
  from_time timestamptz not null,
  primary key (credential_id, asset)
);
comment on table private.portfolio_replays is
  'Assets some of whose trades were given a price, and whose profit and loss is not worked out again yet.';
comment on column private.portfolio_replays.from_time is 'When the oldest of these trades was made.';
revoke all on private.portfolio_replays from anon, authenticated, service_role;

create function private.price_trades(lease_id uuid, told jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
  v_sync private.portfolio_syncs := private.lock_portfolio_sync(price_trades.lease_id);
  v_priced integer;
begin
  if v_sync.credential_id is null then
    return jsonb_build_object('recorded', false);
  end if;

  with said as (
    select t.exchange_trade_id, coalesce(t.quote_price, private.usable_price(r.quote_price)) as quote_price,
      coalesce(t.fee_price, private.usable_price(r.fee_price)) as fee_price, r.gap,
      (t.quote_price is null and private.usable_price(r.quote_price) is not null)
        or (t.fee_price is null and private.usable_price(r.fee_price) is not null) as is_told
    from jsonb_to_recordset(told) r (id text, quote_price numeric, fee_price numeric, gap text)
      join public.trades t on t.credential_id = v_sync.credential_id and t.exchange_trade_id = r.id and t.price_gap is not null
  ), changed as (
    update public.trades t set quote_price = s.quote_price, fee_price = s.fee_price,
      price_gap = case when private.trade_lacks_price(t.base, t.quote, t.fee, t.fee_asset, s.quote_price, s.fee_price, v_currency)
        then coalesce(s.gap, 'no_history') end
    from said s
    where t.credential_id = v_sync.credential_id and t.exchange_trade_id = s.exchange_trade_id
    returning t.executed_at, t.base, t.quote, t.fee, t.fee_asset, t.price_gap, s.is_told
  ), affected as (
    select a.asset, min(c.executed_at) as from_time
    from changed c cross join lateral (values (c.base), (c.quote), (case when c.fee <> 0 then c.fee_asset end)) a (asset)
    where c.is_told and a.asset <> v_currency
    group by a.asset
  ), noted as (
    insert into private.portfolio_replays as p (credential_id, asset, from_time)
    select v_sync.credential_id, a.asset, a.from_time from affected a
    on conflict on constraint portfolio_replays_pkey do update set from_time = least(p.from_time, excluded.from_time)
  )
  select count(*) into v_priced from changed c where c.price_gap is null;
  update private.portfolio_syncs s set
    leased_until = now() + make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer)
  where s.credential_id = v_sync.credential_id;
  return jsonb_build_object('recorded', true, 'priced', v_priced);
end $$;
comment on function private.price_trades(uuid, jsonb) is
  'Gives trades the prices that their exchange told of then: [{id, quote_price, fee_price, gap}], a price null where there is none, and gap (trades.price_gap) why. Profit and loss follow with private.replay_priced_trades, once for all parts; the lease goes on. Answers {recorded: false} when the lease is another''s, else {recorded, priced}: how many trades lack nothing any more.';

create function private.replay_priced_trades(lease_id uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
  v_sync private.portfolio_syncs := private.lock_portfolio_sync(replay_priced_trades.lease_id);
  v_replay private.portfolio_replays;
begin
  if v_sync.credential_id is null then
    return false;
  end if;
  -- Everything after a price that came late is worked out again, each asset once.
  for v_replay in select r.* from private.portfolio_replays r where r.credential_id = v_sync.credential_id order by r.asset loop
    perform private.replay_portfolio(v_replay.credential_id, v_replay.asset, v_replay.from_time, v_currency);
  end loop;
  delete from private.portfolio_replays r where r.credential_id = v_sync.credential_id;
  update private.portfolio_syncs s set
    leased_until = now() + make_interval(secs => (private.setting('portfolio.lease_seconds'))::integer)
  where s.credential_id = v_sync.credential_id;
  return true;
end $$;
comment on function private.replay_priced_trades(uuid) is
  'Works out profit and loss again after private.price_trades, from the oldest trade that was given a price; what a sync did not come to is done by the next. The lease goes on. False: the lease is another''s already.';

-- sql/64_billing.sql ==================================================================================================

-- Billing: what can be bought, who buys, and what Stripe says of it, as rows that their owner can read.
-- Amounts of money are in the currency's smallest unit, as Stripe has them (cents of a dollar).

insert into private.settings (key, value, rule, description) values
  ('billing.grace_days', '7', '{"type": "integer", "minimum": 0, "maximum": 365}', 'Days after the due date of an unpaid invoice for which a past_due subscription still entitles.'),
  ('billing.first_payment_required', 'true', '{"type": "boolean"}', 'true: a subscription entitles to nothing before its first invoice is paid, or a trial began; false: as soon as Stripe says active, also while a bank debit is on its way.'),
  ('billing.pay_url', '"/billing"', '{"type": "string", "pattern": "^(https?://[^ ]+|/[^ ]*)$"}', 'Where people are sent to pay or to choose a plan: an absolute URL, or a path of the app.')
on conflict (key) do nothing;

-- What can be bought ---------------------------------------------------------------------------------------------------

create table public.plan_prices (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  plan_id text not null references public.plans (id) on delete restrict,
  interval text not null check (interval in ('month', 'year')),
  amount bigint not null check (amount >= 0),
  currency text not null default 'usd' check (currency ~ '^[a-z]{3}$'),
  trial_days integer not null default 0 check (trial_days between 0 and 730),
  credits bigint not null default 0 check (credits >= 0),
  credits_expire boolean not null default true,
  enabled boolean not null default true,
  created_at timestamptz not null default now()
);
comment on table public.plan_prices is 'What a plan costs, by our own ids: clients name these, never an id of Stripe''s. A new amount is a new row: subscriptions keep theirs.';
comment on column public.plan_prices.amount is 'For one interval, in the currency''s smallest unit.';
comment on column public.plan_prices.trial_days is 'Days before the first payment, for users who never had a trial; 0: none.';
comment on column public.plan_prices.credits is 'Granted for every period that is paid.';
comment on column public.plan_prices.credits_expire is 'True: with the end of the period they were paid for; false: never.';
create index plan_prices_plan_id_idx on public.plan_prices (plan_id);
alter table public.plan_prices enable row level security;
alter table public.plan_prices force row level security;
revoke all on public.plan_prices from anon, authenticated, service_role;
grant select on public.plan_prices to authenticated;
grant select, insert, update, delete on public.plan_prices to service_role;
insert into public.plan_prices (id, plan_id, interval, amount, trial_days, credits) values
  ('premium_month', 'premium', 'month', 1200, 7, 1000),
  ('premium_year', 'premium', 'year', 12000, 7, 12000)
on conflict (id) do nothing;

create table public.credit_packs (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  name text not null check (length(name) between 1 and 80),
  credits bigint not null check (credits > 0),
  amount bigint not null check (amount > 0),
  currency text not null default 'usd' check (currency ~ '^[a-z]{3}$'),
  expires_after_days integer check (expires_after_days > 0),
  enabled boolean not null default true,
  created_at timestamptz not null default now()
);
comment on table public.credit_packs is 'Credits that are bought once, by our own ids.';
comment on column public.credit_packs.expires_after_days is 'Days after the payment; null: never.';
alter table public.credit_packs enable row level security;
alter table public.credit_packs force row level security;
revoke all on public.credit_packs from anon, authenticated, service_role;
grant select on public.credit_packs to authenticated;
grant select, insert, update, delete on public.credit_packs to service_role;
insert into public.credit_packs (id, name, credits, amount, expires_after_days) values
  ('credits_500', '500 credits', 500, 500, 365),
  ('credits_2500', '2,500 credits', 2500, 2000, 365)
on conflict (id) do nothing;

create table private.stripe_prices (
  id text primary key check (length(id) between 1 and 255),
  plan_price_id text references public.plan_prices (id) on delete restrict,
  credit_pack_id text references public.credit_packs (id) on delete restrict,
  product_id text not null check (length(product_id) between 1 and 255),
  livemode boolean not null,
  is_current boolean not null default true,
  created_at timestamptz not null default now(),
  check (num_nonnulls(plan_price_id, credit_pack_id) = 1)
);
comment on table private.stripe_prices is 'Stripe''s prices of what can be bought, written by npm run stripe:sync. Older ones stay: subscriptions refer to them.';
create unique index stripe_prices_plan_price_id_idx on private.stripe_prices (plan_price_id, livemode) where is_current;
create unique index stripe_prices_credit_pack_id_idx on private.stripe_prices (credit_pack_id, livemode) where is_current;
revoke all on private.stripe_prices from anon, authenticated, service_role;

-- Who buys -------------------------------------------------------------------------------------------------------------

create table private.stripe_customers (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  livemode boolean not null,
  deleted_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table private.stripe_customers is 'Whose customer at Stripe is whose here: one at a time for a user. Linked by the metadata that we wrote, never by an e-mail address.';
comment on column private.stripe_customers.deleted_at is 'When Stripe said that the customer is gone; the next purchase makes another.';
create unique index stripe_customers_user_id_idx on private.stripe_customers (user_id, livemode) where deleted_at is null;
create index stripe_customers_all_user_id_idx on private.stripe_customers (user_id);
revoke all on private.stripe_customers from anon, authenticated, service_role;

create table private.checkouts (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  plan_price_id text references public.plan_prices (id) on delete cascade,
  credit_pack_id text references public.credit_packs (id) on delete cascade,
  stripe_price_id text not null references private.stripe_prices (id) on delete cascade,
  trial_days integer not null check (trial_days >= 0),
  livemode boolean not null,
  session_id text unique check (length(session_id) between 1 and 255),
  url text check (length(url) <= 4000),
  return_urls jsonb not null default '{}',
  expires_at timestamptz not null,
  closed_at timestamptz,
  failed boolean not null default false,
  created_at timestamptz not null default now(),
  check (num_nonnulls(plan_price_id, credit_pack_id) = 1)
);
comment on table private.checkouts is 'Checkouts that were started. A user has one open checkout of a plan at a time: that is what makes a trial one trial.';
comment on column private.checkouts.id is 'Also the idempotency key at Stripe: who asks twice gets one session.';
comment on column private.checkouts.closed_at is 'When it was completed, had expired, failed, or was given up for another.';
comment on column private.checkouts.failed is 'Stripe answered an error, which it repeats for a day to whoever comes with the same key.';
create index checkouts_user_id_idx on private.checkouts (user_id, created_at desc);
create index checkouts_plan_price_id_idx on private.checkouts (plan_price_id);
create index checkouts_credit_pack_id_idx on private.checkouts (credit_pack_id);
create index checkouts_stripe_price_id_idx on private.checkouts (stripe_price_id);
revoke all on private.checkouts from anon, authenticated, service_role;

-- What Stripe says -----------------------------------------------------------------------------------------------------

create table public.subscriptions (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  plan_id text references public.plans (id) on delete restrict,
  plan_price_id text references public.plan_prices (id) on delete restrict,
  status text not null check (length(status) between 1 and 40),
  quantity bigint not null default 1 check (quantity >= 0),
  current_period_start timestamptz,
  current_period_end timestamptz,
  trial_start timestamptz,
  trial_end timestamptz,
  cancel_at timestamptz,
  cancel_at_period_end boolean not null default false,
  canceled_at timestamptz,
  ended_at timestamptz,
  past_due_since timestamptz,
  is_returned boolean not null default false,
  is_collection_paused boolean not null default false,
  started_at timestamptz not null,
  updated_at timestamptz not null default now(),
  is_begun boolean not null default true,
  is_unfinalized boolean not null default false
);
comment on table public.subscriptions is 'The caller''s subscriptions as Stripe has them. Written by functions only; what they entitle to is said by get_my_entitlement.';
comment on column public.subscriptions.id is 'Stripe''s id.';
comment on column public.subscriptions.plan_id is 'The best plan among its items, of those first whose money did not go back; null: none of its prices is known here.';
comment on column public.subscriptions.status is 'Stripe''s word: trialing, active, past_due, unpaid, paused, canceled, incomplete, incomplete_expired, or a newer one.';
comment on column public.subscriptions.current_period_end is 'The latest end among its items that carry a plan.';
comment on column public.subscriptions.past_due_since is 'When the oldest unpaid invoice since the last paid one was due; grace counts from here, or from the end of what is paid. Null unless past_due, unpaid or is_unfinalized.';
comment on column public.subscriptions.is_returned is
  'The payment of its current period, or of the last one while the current one is still to be paid, went back, whole: by refunds that did not fail, by disputes that are open or lost. It entitles to nothing.';
comment on column public.subscriptions.is_collection_paused is
  'Its invoices are not collected for now: it entitles until the end of the current period, and no longer.';
comment on column public.subscriptions.is_begun is
  'False: its first invoice is there and is not paid, nor was there a trial. See billing.first_payment_required.';
comment on column public.subscriptions.is_unfinalized is
  'The invoice of its current period is a draft that Stripe cannot make final: it is active there, and nobody is asked to pay. Counts as past due.';
create index subscriptions_user_id_idx on public.subscriptions (user_id);
create index subscriptions_past_due_since_idx on public.subscriptions (past_due_since) where status = 'past_due';
create index subscriptions_plan_id_idx on public.subscriptions (plan_id);
create index subscriptions_plan_price_id_idx on public.subscriptions (plan_price_id);
alter table public.subscriptions enable row level security;
alter table public.subscriptions force row level security;
revoke all on public.subscriptions from anon, authenticated, service_role;
grant select on public.subscriptions to authenticated, service_role;

create table public.payments (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('subscription', 'credit_pack')),
  status text not null check (status in ('open', 'processing', 'paid', 'failed', 'void')),
  description text not null check (length(description) between 1 and 200),
  amount bigint not null,
  amount_refunded bigint not null default 0 check (amount_refunded >= 0),
  amount_disputed bigint not null default 0 check (amount_disputed >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  credits bigint not null default 0 check (credits >= 0),
  credits_clawed_back bigint not null default 0 check (credits_clawed_back >= 0),
  subscription_id text check (length(subscription_id) <= 255),
  payment_intent_id text check (length(payment_intent_id) <= 255),
  pay_url text check (length(pay_url) <= 4000),
  next_attempt_at timestamptz,
  paid_at timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.payments is 'What the caller was asked to pay and what became of it: one row for each invoice of a subscription and for each checkout of a credit pack.';
comment on column public.payments.id is 'Stripe''s id of the invoice or of the checkout session.';
comment on column public.payments.credits is 'Credits that the payment brought.';
comment on column public.payments.credits_clawed_back is 'Credits that refunds and disputes took back, in proportion to the money.';
comment on column public.payments.pay_url is 'Where an open invoice can be paid, 3-D Secure included.';
create index payments_user_id_created_at_idx on public.payments (user_id, created_at desc);
create index payments_payment_intent_id_idx on public.payments (payment_intent_id);
create index payments_subscription_id_idx on public.payments (subscription_id);
alter table public.payments enable row level security;
alter table public.payments force row level security;
revoke all on public.payments from anon, authenticated, service_role;
grant select on public.payments to authenticated, service_role;

create table public.refunds (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  payment_id text not null references public.payments (id) on delete cascade,
  amount bigint not null check (amount >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  status text not null check (length(status) between 1 and 40),
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.refunds is 'Money that went back to the caller. status is Stripe''s: pending, requires_action, succeeded, failed, canceled.';
create index refunds_user_id_idx on public.refunds (user_id);
create index refunds_payment_id_idx on public.refunds (payment_id);
alter table public.refunds enable row level security;
alter table public.refunds force row level security;
revoke all on public.refunds from anon, authenticated, service_role;
grant select on public.refunds to authenticated, service_role;

create table public.disputes (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  payment_id text not null references public.payments (id) on delete cascade,
  amount bigint not null check (amount >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  status text not null check (length(status) between 1 and 40),
  reason text check (length(reason) <= 80),
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.disputes is 'Payments that the caller''s bank disputes. Their credits are gone while it lasts, and back when it is won.';
create index disputes_user_id_idx on public.disputes (user_id);
create index disputes_payment_id_idx on public.disputes (payment_id);
alter table public.disputes enable row level security;
alter table public.disputes force row level security;
revoke all on public.disputes from anon, authenticated, service_role;
grant select on public.disputes to authenticated, service_role;

create table private.paid_periods (
  payment_id text not null references public.payments (id) on delete cascade,
  line_id text not null check (length(line_id) between 1 and 255),
  subscription_id text not null check (length(subscription_id) between 1 and 255),
  plan_id text not null references public.plans (id) on delete cascade,
  plan_price_id text not null references public.plan_prices (id) on delete cascade,
  starts_at timestamptz not null,
  ends_at timestamptz not null check (ends_at > starts_at),
  is_proration boolean not null,
  is_credit boolean not null,
  is_returned boolean not null,
  primary key (payment_id, line_id)
);
comment on table private.paid_periods is 'The lines of paid invoices that are a plan''s: which plan was paid for which time. Whether by card, balance, coupon or outside of Stripe makes no difference.';
comment on column private.paid_periods.is_proration is 'Of a change in mid-period.';
comment on column private.paid_periods.is_credit is 'Unused time that was given back: what was paid for it ends with its beginning.';
comment on column private.paid_periods.is_returned is 'All the money that it cost is back with the customer.';
create index paid_periods_subscription_id_idx on private.paid_periods (subscription_id);
create index paid_periods_plan_id_idx on private.paid_periods (plan_id);
create index paid_periods_plan_price_id_idx on private.paid_periods (plan_price_id);
revoke all on private.paid_periods from anon, authenticated, service_role;

-- What it entitles to --------------------------------------------------------------------------------------------------

create function private.has_base(paid private.paid_periods, is_kept boolean default false) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return exists (
    select from private.paid_periods b
    where b.subscription_id = (paid).subscription_id and not b.is_proration and not b.is_credit
      and b.starts_at < (paid).ends_at and b.ends_at > (paid).starts_at and not (has_base.is_kept and b.is_returned));
end $$;
comment on function private.has_base(private.paid_periods, boolean) is
  'Whether a change in mid-period is of a period that was paid for, is_kept: and whose money did not go back; the piece of a period before the first whole one stands by itself.';

create function private.paid_spans(subscription_id text) returns table (plan_id text, "position" integer, starts_at timestamptz, ends_at timestamptz)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select r.plan_id, p.position, r.starts_at, least(r.ends_at, c.starts_at)
    from private.paid_periods r
      join public.plans p on p.id = r.plan_id
      -- What came back as unused time by a later invoice.
      cross join lateral (
        select min(u.starts_at) as starts_at from private.paid_periods u
        where u.subscription_id = r.subscription_id and u.plan_price_id = r.plan_price_id and u.is_credit and not u.is_returned
          and u.payment_id <> r.payment_id and u.starts_at >= r.starts_at and u.starts_at < r.ends_at) c
    where r.subscription_id = paid_spans.subscription_id and not r.is_credit and not r.is_returned
      and (not r.is_proration or not private.has_base(r) or private.has_base(r, is_kept => true))
      and r.starts_at < coalesce(c.starts_at, 'infinity');
end $$;
comment on function private.paid_spans(text) is
  'Which plans are paid for in which times, by a subscription''s lines that were paid and whose money did not go back.';

create function private.grace_starts_at(subscription public.subscriptions) returns timestamptz
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_due_at timestamptz := coalesce((subscription).past_due_since, (subscription).current_period_start, (subscription).started_at);
begin
  -- A declined upgrade or seat takes nothing of what is paid for: grace is for what comes after it.
  return coalesce((
    select max(p.ends_at) from private.paid_spans((subscription).id) p where p.starts_at <= v_due_at and p.ends_at > v_due_at), v_due_at);
end $$;
comment on function private.grace_starts_at(public.subscriptions) is
  'When the days of grace of what is owed begin: when it was due, or with the end of what is paid for at that time.';

create function private.subscription_claims(user_id uuid)
returns table (
  subscription_id text, started_at timestamptz, "position" integer, state text, plan_id text, starts_at timestamptz, ends_at timestamptz,
  valid_until timestamptz, grace_until timestamptz)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- plpgsql, because it keeps the plan, which costs more to make than to run.
  return query
  with known as materialized (
    select s.id, s.status, p.id as plan_id, p.position, s.started_at, s.current_period_start, s.is_returned, s.is_unfinalized, s.is_collection_paused, b.is_begun, o.is_in_order,
      l.plan_id as last_plan_id, l.position as last_position, s.past_due_since, t.period_ends_at, greatest(t.period_ends_at, t.slack_ends_at) as slack_ends_at,
      c.cancels_at, case when c.cancels_at is null then s.status else 'canceling' end as paid_state, o.owes, g.days
    from public.subscriptions s
      -- None at a price that has no meaning here, as after a change in the dashboard, or of quantity 0: what was paid before counts all the same.
      left join public.plans p on p.id = s.plan_id and s.quantity > 0
      cross join (
        select make_interval(days => (private.setting('billing.grace_days'))::integer) as days,
          (private.setting('billing.first_payment_required'))::boolean as needs_payment) g
      cross join lateral (select s.is_begun or not g.needs_payment as is_begun) b
      cross join lateral (
        select s.status in ('trialing', 'active') and b.is_begun and not s.is_returned and not s.is_unfinalized
            and p.id is not null as is_in_order,
          s.status = 'past_due' or s.status in ('trialing', 'active') and s.is_unfinalized as owes) o
      cross join lateral (
        select coalesce(case when s.status = 'trialing' then s.trial_end end, s.current_period_end, 'infinity') as ends_at) e
      -- Who owes something has what is paid otherwise, and then the plan that was paid last for the days of grace.
      left join lateral (
        select x.plan_id, x.position from private.paid_spans(s.id) x
        where not o.is_in_order and x.starts_at <= coalesce(s.past_due_since, 'infinity')
        order by x.ends_at desc, x.position desc limit 1) l on true
      -- The end of what is paid, and how long we wait for what comes after it.
      cross join lateral (
        select case when o.is_in_order then e.ends_at else coalesce((
            select max(x.ends_at) from private.paid_spans(s.id) x
            where x.starts_at <= coalesce(s.past_due_since, 'infinity') and x.ends_at > coalesce(s.current_period_start, '-infinity')),
            '-infinity') end as period_ends_at,
          case when o.is_in_order or o.owes and b.is_begun and not s.is_returned then
            case when s.is_collection_paused then interval '0' else g.days end
              + case when o.is_in_order then e.ends_at else private.grace_starts_at(s) end end as slack_ends_at) t
      cross join lateral (
        select least(s.cancel_at, case when s.cancel_at_period_end then e.ends_at end) as cancels_at) c
    where s.user_id = subscription_claims.user_id
      and (s.plan_id is not null or exists (select from private.paid_periods x where x.subscription_id = s.id))
  )
  select k.id, k.started_at, k.position, k.paid_state, k.plan_id, '-infinity', least(k.period_ends_at, k.cancels_at),
    least(k.slack_ends_at, k.cancels_at), null
  from known k where k.is_in_order
  union all
  -- The first from ever on, as all claims are: Stripe's clock may be ahead of ours.
  select k.id, k.started_at, x.position, n.state, x.plan_id,
    case when x.starts_at > min(x.starts_at) over (partition by k.id) then x.starts_at else '-infinity' end, least(x.ends_at, k.cancels_at),
    least(k.slack_ends_at, k.cancels_at), case when n.state = 'past_due' then least(k.slack_ends_at, k.cancels_at) end
  from known k cross join lateral private.paid_spans(k.id) x
    cross join lateral (
      select case when k.owes or k.status = 'unpaid' then 'past_due' when k.status = 'paused' then 'paused' else k.paid_state end as state) n
  where k.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused') and not k.is_in_order
    and x.starts_at < least(x.ends_at, k.cancels_at)
    -- Nothing is paid for what comes after a debt; and what ended before Stripe's present period is over, whatever our clock says.
    and x.starts_at <= coalesce(k.past_due_since, 'infinity') and x.ends_at > coalesce(k.current_period_start, '-infinity')
  union all
  select k.id, k.started_at, coalesce(k.last_position, k.position), case when k.owes then 'past_due' else k.paid_state end,
    coalesce(k.last_plan_id, k.plan_id), k.period_ends_at,
    least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at)
  from known k
  where (k.is_in_order or k.owes) and k.period_ends_at < least(k.slack_ends_at, k.cancels_at) and coalesce(k.last_plan_id, k.plan_id) is not null
  union all
  -- Of two plans of different intervals the one that is owed has its days, too, though the other is paid for longer.
  select k.id, k.started_at, x.position, 'past_due', x.plan_id, x.ends_at, g.ends_at, g.ends_at, g.ends_at
  from known k cross join lateral private.paid_spans(k.id) x
    cross join lateral (select least(k.past_due_since + k.days, k.cancels_at) as ends_at) g
  where k.owes and k.is_begun and not k.is_returned and not k.is_collection_paused and x.position > k.last_position
    and x.ends_at > k.past_due_since - interval '1 day' and x.ends_at <= k.past_due_since and x.ends_at < g.ends_at
  union all
  select k.id, k.started_at, k.position, case
      when k.status in ('trialing', 'active', 'past_due') and not k.is_begun then 'incomplete'
      when k.status in ('trialing', 'active', 'past_due') and k.is_returned then 'unpaid'
      when k.status in ('trialing', 'active', 'past_due') and k.cancels_at <= k.slack_ends_at then 'canceled'
      when k.status in ('trialing', 'active') and k.is_collection_paused then 'paused'
      when k.status in ('trialing', 'active') and k.is_unfinalized then 'unpaid'
      when k.status in ('trialing', 'active') then 'expired'
      else k.status
    end, null, '-infinity', 'infinity', null, null
  from known k where k.status in ('trialing', 'active', 'past_due', 'paused', 'unpaid', 'canceled', 'incomplete');
end $$;
comment on function private.subscription_claims(uuid) is
  'What each of a user''s subscriptions claims in which time. While Stripe has it in order, at a price that is known and a quantity of at least one, its plan, and for billing.grace_days more while Stripe has not said what came after the period (no days while it is not collected). Otherwise what is paid for and did not go back (private.paid_spans), then, while an invoice of it is owed, the plan that was paid last for the days of grace, and one whose own period ended with the debt, too; nothing before a first payment. And no plan (null) ever after. Depends on rows only, not on the time it is asked.';

create function private.refresh_entitlement(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.refresh_entitlement(uuid) is
  'Writes private.entitlements of one user anew from public.subscriptions: at any time the best plan that is paid for then. To be called by whoever changed a subscription, in the same transaction.';

create function private.tg__refresh_entitlements() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: entitlements are private.
begin
  if tg_op = 'INSERT' then
    -- Nobody has subscribed to a new plan yet, and nobody's limits change with it.
    perform pg_advisory_xact_lock(hashtextextended('private.entitlements', 0));
    update private.entitlements e set outranks = private.plans_outranked_by(e.plan_id) where e.plan_id is not null;
    return null;
  end if;
  -- Users and accounts first, in the order in which whoever applies what Stripe says, or erases somebody, has them: limits follow what is
  -- written here.
  perform from auth.users u where u.id in (select e.user_id from private.entitlements e) order by u.id for key share;
  perform from private.accounts a where a.user_id in (select e.user_id from private.entitlements e) order by a.user_id for no key update;
  perform pg_advisory_xact_lock(hashtextextended('private.entitlements', 0));
  perform private.refresh_entitlement(u.user_id)
  from (
    select distinct s.user_id from public.subscriptions s where s.status in ('trialing', 'active', 'past_due') order by 1) u;
  return null;
end $$;
comment on function private.tg__refresh_entitlements() is
  'The days of grace, whether a first payment is needed and the order of plans are part of what is written in private.entitlements.';
create trigger tg_settings__entitlements after update on private.settings
  for each row when (new.key in ('billing.grace_days', 'billing.first_payment_required') and new.value <> old.value) execute function private.tg__refresh_entitlements();
create trigger tg_plans__entitlements after insert or update of position on public.plans
  for each statement execute function private.tg__refresh_entitlements();

create function private.pay_url(user_id uuid) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return coalesce(
    (select p.pay_url from public.payments p join public.subscriptions s on s.id = p.subscription_id
    where p.user_id = pay_url.user_id and p.status = 'open' and p.pay_url is not null
      -- Stripe leaves invoices open when their subscription has ended: who pays one gets nothing for it.
      and s.status not in ('canceled', 'incomplete_expired')
    order by p.created_at limit 1),
    private.setting('billing.pay_url') #>> '{}');
end $$;
comment on function private.pay_url(uuid) is
  'Where a user pays: the page of the oldest open invoice of a subscription that has not ended, or billing.pay_url. Nobody but functions of ours may call it; they pass an id they have checked.';

create function private.my_entitlement(
  out plan_id text, out state text, out is_paid boolean, out subscription_id text, out current_period_end timestamptz,
  out grace_until timestamptz, out cancel_at timestamptz, out trial_end timestamptz, out pay_url text
)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: entitlements are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  select e.plan_id, e.state, e.is_paid, e.subscription_id, s.current_period_end, e.grace_until,
    least(s.cancel_at, case when s.cancel_at_period_end then s.current_period_end end), s.trial_end, private.pay_url(v_user_id)
  into plan_id, state, is_paid, subscription_id, current_period_end, grace_until, cancel_at, trial_end, pay_url
  from private.entitlement(v_user_id) e left join public.subscriptions s on s.id = e.subscription_id;
end $$;
comment on function private.my_entitlement() is 'Behind public.get_my_entitlement.';
grant execute on function private.my_entitlement() to authenticated;

create function public.get_my_entitlement(
  out plan_id text, out state text, out is_paid boolean, out subscription_id text, out current_period_end timestamptz,
  out grace_until timestamptz, out cancel_at timestamptz, out trial_end timestamptz, out pay_url text
)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_entitlement() $$;
comment on function public.get_my_entitlement() is
  'What the caller may use now: the plan that counts, the state of the subscription, and whether that pays for the plan. pay_url is where to pay or to choose a plan.';
grant execute on function public.get_my_entitlement() to authenticated;

-- Checkout and portal ------------------------------------------------------------------------------------------------
-- What functions/billing may ask Stripe for is decided here. Clients name our items and nothing else.

create function private.check_buyer(user_id uuid, session_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(check_buyer.user_id, check_buyer.session_id);
  -- Each request asks Stripe for something, and Stripe limits us all together.
  perform private.consume(check_buyer.user_id, 'billing_requests', 'minute', 1);
  perform private.consume(check_buyer.user_id, 'billing_requests', 'day', 1);
end $$;
comment on function private.check_buyer(uuid, uuid) is
  'Raises what private.require_account refuses, and rate_limit_exceeded or daily_quota_exceeded for who asks more often than billing_requests/minute and /day allow.';

create function private.stripe_price_to_buy(plan_price text, credit_pack text, livemode boolean) returns private.stripe_prices
language plpgsql stable security invoker set search_path = ''
as $$
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
end $$;
comment on function private.stripe_price_to_buy(text, text, boolean) is
  'Stripe''s price of an item that is for sale; not_found for any other, and for one that stripe:sync has not seen.';

create function private.trial_days_of(user_id uuid, plan_price text) returns integer
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return case
    -- Rows of subscriptions outlive their customer at Stripe: a deleted customer is no way to another trial.
    when exists (select from public.subscriptions s where s.user_id = trial_days_of.user_id and s.trial_start is not null) then 0
    else coalesce((select p.trial_days from public.plan_prices p where p.id = trial_days_of.plan_price), 0)
  end;
end $$;
comment on function private.trial_days_of(uuid, text) is 'Days of trial that a user gets with a price: what the price says, once in a lifetime.';

create function private.open_plan_checkout(wanted private.checkouts, out checkout private.checkouts, out stale_sessions text[])
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.open_plan_checkout(private.checkouts) is
  'The open checkout of a plan that is for exactly the same, if there is one; all others are closed, and their sessions must be expired at Stripe, or be known to be over, before another begins. The caller holds the buyer''s lock.';

create function private.refuse_second_subscription(user_id uuid) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_status text := private.plan_subscription_status(refuse_second_subscription.user_id);
begin
  if v_status = 'paused' then
    perform private.raise_error('already_subscribed', 'You have a subscription already, and it is paused. POST /billing/resume goes on with it.',
      private.setting('billing.pay_url') #>> '{}');
  elsif v_status is not null then
    perform private.raise_error('already_subscribed', 'You have a subscription already.', 'Change or pay it in the billing portal.');
  end if;
end $$;
comment on function private.refuse_second_subscription(uuid) is 'Raises already_subscribed for a user who has a subscription of a plan that has not ended.';

create function private.prepare_checkout(
  user_id uuid, session_id uuid, plan_price text, credit_pack text, livemode boolean, return_urls jsonb
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
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
  -- With the page, and not with the subscription: two accounts of a mailbox may have their pages open at once.
  if v_wanted.trial_days > 0 and not private.claim_for_mailbox(
    prepare_checkout.user_id, 'trial', (private.setting('billing.trials_per_mailbox'))::integer) then
    v_wanted.trial_days := 0;
  end if;
  v_wanted.livemode := prepare_checkout.livemode;
  v_wanted.return_urls := coalesce(prepare_checkout.return_urls, '{}');
  if v_price.plan_price_id is not null then
    perform private.refuse_second_subscription(prepare_checkout.user_id);
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
end $$;
comment on function private.prepare_checkout(uuid, uuid, text, text, boolean, jsonb) is
  'Decides a checkout for functions/billing: {checkout_id, customer_id, customer_key, stripe_price_id, mode, trial_days, session_id, url, stale_sessions, expires_at}. Who asks twice for a plan gets the same checkout; asking for another closes it. A pack is a checkout of its own each time. Before a session of a plan is made, stale_sessions must be expired at Stripe, and what Stripe says of the customer''s subscriptions be applied; a user without customer_id gets one there with customer_key as its idempotency key.';

create function private.stripe_customer_of(user_id uuid, livemode boolean) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select jsonb_build_object(
    'customer_id', min(c.id) filter (where c.deleted_at is null),
    'customer_key', format('customer:%s:%s:%s', stripe_customer_of.user_id, count(*) filter (where c.deleted_at is not null), (
      select count(*) from private.checkouts k
      where k.user_id = stripe_customer_of.user_id and k.livemode = stripe_customer_of.livemode and k.failed)))
  from private.stripe_customers c
  where c.user_id = stripe_customer_of.user_id and c.livemode = stripe_customer_of.livemode
$$;
comment on function private.stripe_customer_of(uuid, boolean) is
  '{customer_id: the user''s customer at Stripe or null, customer_key: the idempotency key to create one with, another after each that was deleted and each checkout that failed}.';

create function private.link_stripe_customer(user_id uuid, customer_id text, livemode boolean) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.link_stripe_customer(uuid, text, boolean) is
  'Notes whose customer it is and answers the one that counts, which is another when somebody was first.';

create function private.note_checkout(checkout_id uuid, session_id text, url text) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.checkouts k set session_id = note_checkout.session_id, url = note_checkout.url
  where k.id = note_checkout.checkout_id and k.closed_at is null;
  return found;
end $$;
comment on function private.note_checkout(uuid, text, text) is
  'Notes the session that Stripe made for a checkout. False: the checkout was given up for another meanwhile, and the session must be expired at Stripe and not shown.';

create function private.fail_checkout(checkout_id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.checkouts k set closed_at = now(), failed = true
  where k.id = fail_checkout.checkout_id and k.closed_at is null and k.session_id is null
$$;
comment on function private.fail_checkout(uuid) is
  'Of a checkout for which Stripe answered an error: the next has other idempotency keys, because Stripe repeats what it answered once. Not to be called when nothing is known, as after a lost connection: the same key then finds what was made.';

create function private.close_checkout(session_id text) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.checkouts k set closed_at = now() where k.session_id = close_checkout.session_id and k.closed_at is null
$$;
comment on function private.close_checkout(text) is 'Of a session that was completed or has expired at Stripe: nobody is sent there again.';

create function private.prepare_portal(user_id uuid, session_id uuid, livemode boolean) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer_id text;
begin
  perform private.check_buyer(prepare_portal.user_id, prepare_portal.session_id);
  v_customer_id := private.stripe_customer_of(prepare_portal.user_id, prepare_portal.livemode) ->> 'customer_id';
  if v_customer_id is null then
    perform private.raise_error('not_found', 'You have bought nothing yet, so there is nothing to manage.', 'Choose a plan or credits first.');
  end if;
  return v_customer_id;
end $$;
comment on function private.prepare_portal(uuid, uuid, boolean) is 'The caller''s customer at Stripe, whose portal may be opened; not_found for who has none.';

create function private.set_stripe_price(plan_price text, credit_pack text, stripe_price_id text, product_id text, livemode boolean) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.set_stripe_price(text, text, text, text, boolean) is
  'What an item costs at Stripe from now on; for npm run stripe:sync. Earlier prices stay, for subscriptions that have them.';

create function private.delete_old_checkouts() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.checkouts k where k.expires_at < now() - interval '90 days';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_checkouts() is 'Forgets checkouts 90 days after their end. A job runs it. Answers how many.';

-- sql/65_strategies.sql ===============================================================================================

-- Strategies: trades grouped by a tag that their owner gives them, or by asset, and what each group made of its money. Profit is that
-- of the lots: a sale belongs to the strategy of the trade that sold, whichever one bought.

create table public.trade_tag_rules (
  credential_id uuid not null,
  base text not null check (length(base) between 1 and 40),
  quote text not null check (length(quote) between 1 and 40),
  user_id uuid not null,
  tag text not null check (private.is_strategy_tag(tag)),
  created_at timestamptz not null default now(),
  primary key (credential_id, base, quote),
  foreign key (credential_id, user_id) references public.credentials (id, user_id) on delete cascade
);
comment on table public.trade_tag_rules is
  'The strategy of all trades of a market at one exchange account, but for those that have a tag of their own. Written by tag_my_trades only.';
create index trade_tag_rules_user_id_idx on public.trade_tag_rules (user_id);
alter table public.trade_tag_rules enable row level security;
alter table public.trade_tag_rules force row level security;
revoke all on public.trade_tag_rules from anon, authenticated, service_role;
grant select on public.trade_tag_rules to authenticated, service_role;
create trigger tg_trade_tag_rules__limit_added after insert on public.trade_tag_rules referencing new table as added
  for each statement execute function private.tg__limit_rows('trade_tag_rules');
create trigger tg_trade_tag_rules__limit_removed after delete on public.trade_tag_rules referencing old table as removed
  for each statement execute function private.tg__limit_rows('trade_tag_rules');

create function private.tag_market(credential public.credentials, symbol text, tag text) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_base text := split_part(symbol, '/', 1);
  v_quote text := split_part(symbol, '/', 2);
  v_count integer;
begin
  if length(v_base) not between 1 and 40 or length(v_quote) not between 1 and 40 or symbol <> v_base || '/' || v_quote then
    perform private.raise_error('invalid_request_error', 'symbol must be a market such as BTC/USD.');
  end if;
  if tag_market.tag is null then
    delete from public.trade_tag_rules r where r.credential_id = credential.id and r.base = v_base and r.quote = v_quote;
  else
    insert into public.trade_tag_rules as r (credential_id, base, quote, user_id, tag)
    values (credential.id, v_base, v_quote, credential.user_id, tag_market.tag)
    on conflict on constraint trade_tag_rules_pkey do update set tag = excluded.tag;
  end if;
  get diagnostics v_count = row_count;
  if (select count(*) from public.trade_tag_rules r where r.credential_id = credential.id) > 500 then
    perform private.raise_error('invalid_request_error', 'An account can have tags for 500 markets.');
  end if;
  return v_count;
end $$;
comment on function private.tag_market(public.credentials, text, text) is
  'Gives all trades of a market at an exchange account a strategy, or none (tag null). Whoever calls it has the lock of the credential.';

create function private.tag_my_trades(credential_id uuid, tag text, trade_ids text[], symbol text) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: trades are written by functions only; it answers for the caller only.
declare
  v_user_id uuid := private.require_user();
  v_credential public.credentials;
  v_count integer;
begin
  if (trade_ids is null) = (tag_my_trades.symbol is null) then
    perform private.raise_error('invalid_request_error', 'Give either trade_ids or a symbol.');
  end if;
  if not coalesce(private.is_strategy_tag(tag_my_trades.tag), true) then
    perform private.raise_error('invalid_request_error', 'tag must have 1 to 60 characters, without spaces around them; null takes it away.');
  end if;
  if coalesce(cardinality(trade_ids), 0) > 1000 then
    perform private.raise_error('invalid_request_error', 'At most 1000 trades can be tagged at once.');
  end if;
  select c.* into v_credential from public.credentials c
  where c.id = tag_my_trades.credential_id and c.user_id = v_user_id and c.kind = 'exchange' for update;
  if not found then
    perform private.raise_error('not_found', 'You have no such exchange account.');
  end if;
  if tag_my_trades.symbol is not null then
    return private.tag_market(v_credential, tag_my_trades.symbol, tag_my_trades.tag);
  end if;
  update public.trades t set tag = tag_my_trades.tag
  where t.credential_id = v_credential.id and t.exchange_trade_id = any (trade_ids);
  get diagnostics v_count = row_count;
  return v_count;
end $$;
comment on function private.tag_my_trades(uuid, text, text[], text) is 'Behind public.tag_my_trades.';
grant execute on function private.tag_my_trades(uuid, text, text[], text) to authenticated;

create function public.tag_my_trades(credential_id uuid, tag text, trade_ids text[] default null, symbol text default null) returns integer
language sql volatile security invoker set search_path = ''
as $$
  select private.tag_my_trades(tag_my_trades.credential_id, tag_my_trades.tag, tag_my_trades.trade_ids, tag_my_trades.symbol)
$$;
comment on function public.tag_my_trades(uuid, text, text[], text) is
  'Gives trades of the caller''s exchange account the name of a strategy (tag, 1 to 60 characters; null takes it away): up to 1000 by their exchange_trade_id, or by symbol (BTC/USD) all of a market, past and to come, that have none of their own. Answers how many trades, or rules, it changed.';
grant execute on function public.tag_my_trades(uuid, text, text[], text) to authenticated;

-- What strategies made ------------------------------------------------------------------------------------------------------

create function private.strategy_trades(user_id uuid, group_by text, currency text, from_time timestamptz, to_time timestamptz)
returns table (strategy text, credential_id uuid, trade_id text, executed_at timestamptz)
language sql stable security invoker set search_path = ''
as $$
  select distinct case when group_by = 'asset' then a.asset else coalesce(t.tag, r.tag) end, t.credential_id, t.exchange_trade_id, t.executed_at
  from public.trades t
    left join public.trade_tag_rules r on r.credential_id = t.credential_id and r.base = t.base and r.quote = t.quote
    left join lateral (values (t.base), (t.quote), (case when t.fee <> 0 then t.fee_asset end)) a (asset) on group_by = 'asset'
  where t.user_id = strategy_trades.user_id and t.executed_at >= from_time and t.executed_at < to_time
    and (group_by <> 'asset' or a.asset <> currency)
$$;
comment on function private.strategy_trades(uuid, text, text, timestamptz, timestamptz) is
  'A user''s trades with their strategy: the tag, null without one, or each asset but the currency that they moved.';

create function private.strategy_results(user_id uuid, group_by text, from_time timestamptz, to_time timestamptz)
returns table (
  strategy text, credential_id uuid, trade_id text, disposed_at timestamptz, profit numeric, is_sale boolean, is_unknown boolean,
  cost numeric, cost_seconds numeric)
language sql stable security invoker set search_path = ''
as $$
  select case when group_by = 'asset' then d.asset else coalesce(t.tag, r.tag) end, d.credential_id, d.trade_id, d.disposed_at,
    sum(d.proceeds - d.cost), bool_or(d.asset in (t.base, t.quote) and d.proceeds - d.cost is not null),
    bool_or(d.proceeds - d.cost is null),
    sum(d.cost) filter (where d.cost > 0 and d.proceeds is not null),
    sum(d.cost * extract(epoch from d.disposed_at - l.acquired_at)) filter (where d.cost > 0 and d.proceeds is not null)
  from public.credentials c
    join private.portfolio_disposals d on d.credential_id = c.id and d.disposed_at >= from_time and d.disposed_at < to_time
    join public.trades t on t.credential_id = d.credential_id and t.exchange_trade_id = d.trade_id
    left join public.trade_tag_rules r on r.credential_id = t.credential_id and r.base = t.base and r.quote = t.quote
    left join private.portfolio_lots l on l.credential_id = d.credential_id and l.asset = d.asset and l.trade_id = d.lot_trade_id
  where c.user_id = strategy_results.user_id and c.kind = 'exchange'
  group by 1, d.credential_id, d.trade_id, d.disposed_at
$$;
comment on function private.strategy_results(uuid, text, timestamptz, timestamptz) is
  'What each trade of a strategy that sold something made: profit of the parts whose proceeds and cost are known, whether it sold its base or quote at a known profit (a fee in a third asset is no sale), whether a part is unknown, and the cost of the known parts, alone and times the seconds that they were held.';

create function private.my_strategies(group_by text, "from" timestamptz, "to" timestamptz)
returns table (
  strategy text, quote_currency text, trades bigint, closed_trades bigint, winning_trades bigint, win_rate numeric, realised numeric,
  max_drawdown numeric, held_seconds bigint, unknown_trades bigint, first_trade_at timestamptz, last_trade_at timestamptz, days jsonb)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: lots are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user();
  v_currency text := private.setting('portfolio.quote_currency') #>> '{}';
  v_from timestamptz := coalesce(my_strategies."from", '-infinity');
  v_to timestamptz := coalesce(my_strategies."to", 'infinity');
begin
  if my_strategies.group_by is null or my_strategies.group_by not in ('tag', 'asset') then
    perform private.raise_error('invalid_request_error', 'group_by must be tag or asset.');
  end if;
  if v_from >= v_to then
    perform private.raise_error('invalid_request_error', '"from" and "to" must be two moments in this order.');
  end if;
  return query
    with traded as (
      select t.strategy, count(*) as trades, min(t.executed_at) as first_at, max(t.executed_at) as last_at
      from private.strategy_trades(v_user_id, my_strategies.group_by, v_currency, v_from, v_to) t group by t.strategy
    ), results as materialized (
      select r.*, coalesce(r.profit, 0) as made,
        sum(coalesce(r.profit, 0)) over (
          partition by r.strategy order by r.disposed_at, r.credential_id, length(r.trade_id), r.trade_id collate "C"
          rows unbounded preceding) as total
      from private.strategy_results(v_user_id, my_strategies.group_by, v_from, v_to) r
    ), falls as (
      select r.*, greatest(max(r.total) over (
          partition by r.strategy order by r.disposed_at, r.credential_id, length(r.trade_id), r.trade_id collate "C"
          rows unbounded preceding), 0) - r.total as fall
      from results r
    ), sums as (
      select f.strategy, count(*) filter (where f.is_sale) as closed, count(*) filter (where f.is_sale and f.made > 0) as won,
        sum(f.made) as realised, max(f.fall) as fall, count(*) filter (where f.is_unknown) as unknown,
        -- Whole seconds, cut: a quotient that is rounded first could be one too many.
        div(sum(f.cost_seconds), nullif(sum(f.cost), 0))::bigint as held
      from falls f group by f.strategy
    ), by_day as (
      select r.strategy, (r.disposed_at at time zone 'UTC')::date as day, sum(r.made) as realised,
        count(*) filter (where r.is_sale) as closed, count(*) filter (where r.is_sale and r.made > 0) as won,
        row_number() over (partition by r.strategy order by (r.disposed_at at time zone 'UTC')::date desc) as place
      from results r group by r.strategy, (r.disposed_at at time zone 'UTC')::date
    ), told_days as (
      select d.strategy, jsonb_agg(jsonb_build_object('day', d.day, 'realised', trim_scale(d.realised), 'closed_trades', d.closed,
        'winning_trades', d.won) order by d.day) as days
      from by_day d where d.place <= 366 group by d.strategy
    )
    select t.strategy, v_currency, t.trades, coalesce(s.closed, 0), coalesce(s.won, 0),
      trim_scale(round(s.won::numeric / nullif(s.closed, 0), 4)), trim_scale(coalesce(s.realised, 0)), trim_scale(coalesce(s.fall, 0)), s.held,
      coalesce(s.unknown, 0), t.first_at, t.last_at, coalesce(d.days, '[]')
    from traded t
      left join sums s on s.strategy is not distinct from t.strategy
      left join told_days d on d.strategy is not distinct from t.strategy
    order by 7 desc, 1;
end $$;
comment on function private.my_strategies(text, timestamptz, timestamptz) is 'Behind public.get_my_strategies.';
grant execute on function private.my_strategies(text, timestamptz, timestamptz) to authenticated;

create function public.get_my_strategies(group_by text default 'tag', "from" timestamptz default null, "to" timestamptz default null)
returns table (
  strategy text, quote_currency text, trades bigint, closed_trades bigint, winning_trades bigint, win_rate numeric, realised numeric,
  max_drawdown numeric, held_seconds bigint, unknown_trades bigint, first_trade_at timestamptz, last_trade_at timestamptz, days jsonb)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_strategies(get_my_strategies.group_by, get_my_strategies."from", get_my_strategies."to") $$;
comment on function public.get_my_strategies(text, timestamptz, timestamptz) is
  'How the caller''s strategies did, over all exchanges: by tag (strategy null: trades without one) or by asset, of all trades or of those from (included) to (not included). realised: profit or loss in quote_currency of what was sold; win_rate: winning_trades of closed_trades, those that sold at a known profit or loss, to 4 decimals, null without any; max_drawdown: the largest fall of the cumulated realised from its peak, which begins at 0; held_seconds: between buying and selling, weighted by cost, null when nothing was sold; unknown_trades: sold something whose cost or proceeds nobody knows, which is in no profit; days: [{day, realised, closed_trades, winning_trades}], the last 366 days (UTC) on which something was sold.';
grant execute on function public.get_my_strategies(text, timestamptz, timestamptz) to authenticated;

-- sql/66_stripe_inbox.sql =============================================================================================

-- What Stripe says: its events, and its objects as they were last read.

-- Events ==============================================================================================================
-- Stripe's events: an inbox that keeps each once, hands it to one worker at a time and tries again, until it is applied or dead.

insert into private.settings (key, value, rule, description) values
  ('billing.max_attempts', '82', '{"type": "integer", "minimum": 1, "maximum": 10000}', 'How often an event of Stripe''s is tried before it is dead and waits for retry_stripe_event: 82 times are three days.'),
  ('billing.lease_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 3600}', 'How long a worker has to apply an event of Stripe''s before another may take it.'),
  ('billing.event_days', '90', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days for which events of Stripe''s are kept after they were applied; dead ones stay.')
on conflict (key) do nothing;

create table private.stripe_events (
  id text primary key check (length(id) between 1 and 255),
  type text not null check (length(type) between 1 and 255),
  api_version text check (length(api_version) <= 100),
  livemode boolean not null,
  account text check (length(account) <= 255),
  created_at timestamptz not null,
  object text check (length(object) <= 255),
  object_id text check (length(object_id) <= 255),
  customer_id text check (length(customer_id) <= 255),
  payload jsonb not null,
  state text not null default 'waiting' check (state in ('waiting', 'applied', 'ignored', 'dead')),
  attempts integer not null default 0 check (attempts >= 0),
  attempts_before_retry integer not null default 0 check (attempts_before_retry between 0 and attempts),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  received_at timestamptz not null default now(),
  finished_at timestamptz,
  check ((state = 'waiting') = (finished_at is null))
);
comment on table private.stripe_events is 'Everything that Stripe sent with a valid signature, once. An event only says what to read again at Stripe: what is read is in private.stripe_objects.';
comment on column private.stripe_events.account is 'The connected account that it is of; null for our own, and only those count.';
comment on column private.stripe_events.created_at is 'By Stripe''s clock, in whole seconds: nothing is ordered by it.';
comment on column private.stripe_events.object is 'What it is about, such as invoice or subscription.';
comment on column private.stripe_events.customer_id is 'Whose it is, as far as known: with the user goes what their events hold.';
comment on column private.stripe_events.payload is 'The event as Stripe sent it; it may hold addresses of people.';
comment on column private.stripe_events.state is 'waiting: to be applied, or at it; applied; ignored: nothing to do with us; dead: given up until retry_stripe_event.';
comment on column private.stripe_events.attempts is 'How often a worker took it. Also whose turn it is: an answer of an earlier one is superseded.';
comment on column private.stripe_events.attempts_before_retry is 'Tries that no longer count, since retry_stripe_event was called.';
comment on column private.stripe_events.next_attempt_at is 'Not before; while a worker has it, when another may take it.';
create index stripe_events_next_attempt_at_idx on private.stripe_events (next_attempt_at) where state = 'waiting';
create index stripe_events_finished_at_idx on private.stripe_events (finished_at) where finished_at is not null;
create index stripe_events_dead_idx on private.stripe_events (finished_at desc, id desc) where state = 'dead';
create index stripe_events_customer_id_idx on private.stripe_events (customer_id);
revoke all on private.stripe_events from anon, authenticated, service_role;

-- Receive --------------------------------------------------------------------------------------------------------------

create function private.receive_stripe_events(events jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_new text[];
  v_foreign jsonb;
begin
  -- In the order of their ids, so that two statements with the same events do not wait for each other.
  with given as (
    select e.about, e.payload, e.about ->> 'account' is not null as is_foreign, e.payload #> '{data,object,customer}' as customer
    from jsonb_to_recordset(receive_stripe_events.events) as e (about jsonb, payload jsonb)
  ), kept as (
    insert into private.stripe_events (
      id, type, api_version, livemode, account, created_at, object, object_id, customer_id, payload, state, finished_at)
    select
      g.about ->> 'id', g.about ->> 'type', g.about ->> 'api_version', (g.about ->> 'livemode')::boolean, g.about ->> 'account',
      to_timestamp((g.about ->> 'created')::double precision), g.about ->> 'object', g.about ->> 'object_id',
      case when g.about ->> 'object' = 'customer' then g.about ->> 'object_id'
        when jsonb_typeof(g.customer) = 'string' then left(g.customer #>> '{}', 255) end,
      g.payload, case when g.is_foreign then 'ignored' else 'waiting' end, case when g.is_foreign then now() end
    from given g order by g.about ->> 'id'
    on conflict on constraint stripe_events_pkey do nothing
    returning id, account
  )
  select array_agg(k.id), jsonb_agg(jsonb_build_object('account', k.account, 'event_id', k.id)) filter (where k.account is not null)
  into v_new, v_foreign from kept k;
  if v_foreign is not null then
    perform private.raise_security_event(
      type => 'stripe_foreign_account', severity => 'high', user_id => null, dedupe_key => left(f ->> 'account', 200), details => f)
    from jsonb_array_elements(v_foreign) f;
  end if;
  return to_jsonb(coalesce(v_new, '{}'));
end $$;
comment on function private.receive_stripe_events(jsonb) is
  'Keeps events whose signatures were verified: [{about: {id, type, api_version, livemode, account, created, object, object_id}, payload}]. Answers the ids of those that are new; others were here already. One of another account than ours is kept as ignored, and is a security event.';

-- Claim, apply, fail ---------------------------------------------------------------------------------------------------

create function private.bury_stripe_event(event private.stripe_events, error text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.stripe_events e set state = 'dead', finished_at = now(), error = left(bury_stripe_event.error, 500)
  where e.id = (event).id;
  perform private.raise_security_event(
    type => 'stripe_event_dead', severity => 'high', user_id => null, dedupe_key => left((event).id, 200),
    details => jsonb_build_object('event_id', (event).id, 'type', (event).type, 'attempts', (event).attempts));
end $$;
comment on function private.bury_stripe_event(private.stripe_events, text) is 'Gives an event up and says so. Whoever calls it has locked its row.';

create function private.claim_stripe_events(batch_size integer default 10)
returns table (id text, type text, attempt integer, object text, object_id text, account text, payload jsonb)
language plpgsql volatile security invoker set search_path = ''
as $$
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
    with turns as (
      -- Of those that wait longest, every customer's first, then every customer's second. An event without one is its own.
      select w.id, row_number() over (partition by coalesce(w.customer_id, w.id) order by w.next_attempt_at, w.id) as turn
      from (
        select x.id, x.customer_id, x.next_attempt_at from private.stripe_events x
        where x.state = 'waiting' and x.next_attempt_at <= now() order by x.next_attempt_at, x.id limit 10000) w
    ), due as (
      select e.id, t.turn, e.next_attempt_at, e.error is null and e.attempts > e.attempts_before_retry as is_lost
      from private.stripe_events e join turns t on t.id = e.id
      where e.state = 'waiting' and e.next_attempt_at <= now()
      order by t.turn, e.next_attempt_at, e.id limit least(claim_stripe_events.batch_size, 1000)
      for update of e skip locked
    ), claimed as (
      -- One from whose last try nobody came back may be what ended the worker: alone it takes no other with it.
      select d.id from due d, (select f.id, f.is_lost from due f order by f.turn, f.next_attempt_at, f.id limit 1) first
      where case when first.is_lost then d.id = first.id else not d.is_lost end
    )
    update private.stripe_events e set
      attempts = e.attempts + 1,
      error = null,
      next_attempt_at = now() + make_interval(secs => (private.setting('billing.lease_seconds'))::integer)
    from claimed c
    where e.id = c.id
    returning e.id, e.type, e.attempts, e.object, e.object_id, e.account, e.payload;
end $$;
comment on function private.claim_stripe_events(integer) is
  'Takes waiting events, customers in turn and the longest waiting first, each for one worker and for billing.lease_seconds; one from whose last try nobody came back is taken alone. Answers fewer than batch_size while more may wait, and none when none is due. End each with apply_stripe_events or fail_stripe_event and its attempt. One that nobody came back from billing.max_attempts times is dead.';

create function private.warn_of_fraud(event private.stripe_events) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_warning jsonb := (event).payload #> '{data,object}';
  v_intent text := coalesce(v_warning #>> '{payment_intent,id}', v_warning ->> 'payment_intent');
  v_charge text := coalesce(v_warning #>> '{charge,id}', v_warning ->> 'charge');
  v_user_id uuid;
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_early_fraud_warning' and s.user_id is null and s.dedupe_key = left((event).object_id, 200)) then
    return;
  end if;
  select c.user_id into v_user_id
  from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
  where o.payment_refs && array_remove(array[v_intent, v_charge], null) and o.payment_refs <> '{}'
  order by o.object in ('invoice', 'checkout_session') desc, o.id limit 1;
  -- Of the project, not of the user: who uses a stolen card need not know that it is noticed.
  perform private.raise_security_event(
    type => 'stripe_early_fraud_warning', severity => 'high', user_id => null, dedupe_key => left((event).object_id, 200),
    details => jsonb_build_object(
      'event_id', (event).id, 'warning_id', (event).object_id,
      'charge_id', left(v_charge, 255), 'payment_intent_id', left(v_intent, 255),
      'fraud_type', left(v_warning ->> 'fraud_type', 255), 'user_id', v_user_id));
end $$;
comment on function private.warn_of_fraud(private.stripe_events) is
  'Says what an event tells of an early fraud warning: each warning is one security event, with its payment and, where that is known here, whose it is. Nothing is taken back for it: refund the payment in Stripe, or wait for the dispute.';

create function private.apply_stripe_events(events jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ids text[];
  v_known text[];
  v_states jsonb;
begin
  -- Whose turn it still is, in the order of ids, so that two batches with the same events do not wait in a circle.
  with turns as (
    select e.id from private.stripe_events e
      join jsonb_to_recordset(apply_stripe_events.events) as t (id text, attempt integer) on t.id = e.id and t.attempt = e.attempts
    where e.state = 'waiting' order by e.id for no key update of e
  )
  select array_agg(t.id) into v_ids from turns t;
  -- All that was read for them at once: a customer's locks are taken and its rows made once, however many events it had.
  select array_agg(r.id) filter (where r.outcome <> 'unknown_customer') into v_known
  from private.apply_stripe_readings((
    select jsonb_agg(distinct r.reading) from jsonb_to_recordset(apply_stripe_events.events) as t (id text, readings jsonb)
      cross join lateral jsonb_array_elements(t.readings) r (reading)
    where t.id = any (v_ids))) r;
  perform private.warn_of_fraud(e) from private.stripe_events e where e.id = any (v_ids) and e.object = 'radar.early_fraud_warning';
  with finished as (
    update private.stripe_events e set
      state = case when e.object = 'radar.early_fraud_warning' or exists (
          select from jsonb_array_elements(t.readings) r (reading) where r.reading ->> 'id' = any (v_known)) then 'applied' else 'ignored' end,
      finished_at = now(), error = null,
      -- Disputes and refunds do not name the customer; what was read of them does.
      customer_id = coalesce(e.customer_id, jsonb_path_query_first(t.readings, '$[*].customer_id ? (@ != null)') #>> '{}')
    from jsonb_to_recordset(apply_stripe_events.events) as t (id text, readings jsonb)
    where e.id = t.id and e.id = any (v_ids)
    returning e.id, e.state
  )
  select jsonb_object_agg(f.id, f.state) into v_states from finished f;
  return (
    select jsonb_object_agg(t.id, coalesce(v_states ->> t.id, 'superseded'))
    from jsonb_to_recordset(apply_stripe_events.events) as t (id text));
end $$;
comment on function private.apply_stripe_events(jsonb) is
  'Applies what a worker read for events, [{id, attempt, readings}] (see apply_stripe_readings), and finishes them, all or none; an early fraud warning needs no reading. Answers for each id applied; ignored: no readings, or all of customers that are not known here; superseded: another worker has it, or it was finished, and nothing was done.';

create function private.fail_stripe_event(event_id text, attempt integer, error text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.fail_stripe_event(text, integer, text) is
  'Gives an event back with the reason, which must hold no secret. Answers waiting: it is tried again after 5 seconds, 10, 20, at most an hour; dead: that was the last of billing.max_attempts tries, and a security event; superseded: another worker has it, or it was finished. The tenth try in vain, after some 45 minutes, is a security event, too.';

-- The dead -------------------------------------------------------------------------------------------------------------

create function private.dead_stripe_events(before text, page_size integer)
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the inbox is private; refuses all but admins and the service role.
declare
  v_before timestamptz := (select e.finished_at from private.stripe_events e where e.id = dead_stripe_events.before);
begin
  perform private.require_admin();
  -- Better an error than the first page for ever.
  if dead_stripe_events.before is not null and v_before is null then
    perform private.raise_error('invalid_request_error', 'before is not the id of an event that is finished.');
  end if;
  return query
    select e.id, e.type, e.created_at, e.attempts, e.error from private.stripe_events e
    where e.state = 'dead'
      and (e.finished_at, e.id) < (coalesce(v_before, 'infinity'), case when v_before is null then '' else dead_stripe_events.before end)
    order by e.finished_at desc, e.id desc limit private.page_of(dead_stripe_events.page_size);
end $$;
comment on function private.dead_stripe_events(text, integer) is 'Behind public.list_dead_stripe_events.';
grant execute on function private.dead_stripe_events(text, integer) to authenticated, service_role;

create function public.list_dead_stripe_events(before text default null, page_size integer default 100)
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language sql stable security invoker set search_path = ''
as $$ select * from private.dead_stripe_events(list_dead_stripe_events.before, list_dead_stripe_events.page_size) $$;
comment on function public.list_dead_stripe_events(text, integer) is
  'Events of Stripe''s that were given up, the latest first, at most page_size (1 to 1000), and before: only those after this one, the last of the page before; for admins and the service role: when Stripe made them, how often they were tried and why they failed.';
grant execute on function public.list_dead_stripe_events(text, integer) to authenticated, service_role;

create function private.revive_stripe_event(id text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the inbox is private; refuses all but admins and the service role.
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
end $$;
comment on function private.revive_stripe_event(text) is 'Behind public.retry_stripe_event.';
grant execute on function private.revive_stripe_event(text) to authenticated, service_role;

create function public.retry_stripe_event(id text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.revive_stripe_event(retry_stripe_event.id) $$;
comment on function public.retry_stripe_event(text) is
  'For admins and the service role: lets a dead event of Stripe''s be tried again, as often as a new one; 404 not_found when there is no such event. Answers the event''s state: waiting, or what it was when it is not dead.';
grant execute on function public.retry_stripe_event(text) to authenticated, service_role;

create function private.retry_stripe_events(since timestamptz default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.retry_stripe_events(timestamptz) is
  'For database administrators, after an outage: lets all dead events of Stripe''s be tried again, or those that were given up since then, as often as new ones. Answers how many.';

-- The unknown ----------------------------------------------------------------------------------------------------------

create table private.stripe_unknowns (
  id bigint generated always as identity primary key,
  kind text not null check (kind ~ '^[a-z][a-z0-9_]{0,59}$'),
  value text not null check (length(value) between 1 and 255),
  object_id text check (length(object_id) <= 255),
  details jsonb not null default '{}' check (jsonb_typeof(details) = 'object' and pg_column_size(details) <= 4000),
  times bigint not null default 1 check (times > 0),
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  handled_at timestamptz,
  unique (kind, value)
);
comment on table private.stripe_unknowns is
  'What Stripe said that has no meaning here, such as a status that it added later: one row for each kind and value, until somebody acts on it.';
comment on column private.stripe_unknowns.kind is 'What sort of thing it is, such as subscription_status, billing_reason or price.';
comment on column private.stripe_unknowns.object_id is 'The first of Stripe''s objects that said so, as an example.';
comment on column private.stripe_unknowns.details is 'Of that object; no addresses or names.';
comment on column private.stripe_unknowns.times is 'How often it was read, also of the same object; whoever reads it at the same moment may not be counted.';
comment on column private.stripe_unknowns.handled_at is 'When an operator closed it: it goes on being counted, and is told no more.';
create index stripe_unknowns_open_idx on private.stripe_unknowns (id) where handled_at is null;
revoke all on private.stripe_unknowns from anon, authenticated, service_role;

create function private.note_stripe_unknown(kind text, value text, object_id text, details jsonb default '{}') returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_value text := left(coalesce(nullif(note_stripe_unknown.value, ''), 'none'), 255);
begin
  -- The row is not waited for: whoever notes has locks of customers, and others who have it may want one of these.
  update private.stripe_unknowns u set times = u.times + 1, last_seen_at = now()
  where u.id = (
    select x.id from private.stripe_unknowns x where x.kind = note_stripe_unknown.kind and x.value = v_value for update skip locked);
  if found or exists (select from private.stripe_unknowns u where u.kind = note_stripe_unknown.kind and u.value = v_value) then
    return false;
  end if;
  insert into private.stripe_unknowns (kind, value, object_id, details)
  values (note_stripe_unknown.kind, v_value, left(note_stripe_unknown.object_id, 255), coalesce(note_stripe_unknown.details, '{}'))
  on conflict on constraint stripe_unknowns_kind_value_key do nothing;
  if not found then
    return false;
  end if;
  perform private.raise_security_event(
    type => 'stripe_unknown', severity => 'medium', user_id => null,
    dedupe_key => left(note_stripe_unknown.kind || ':' || v_value, 200),
    details => coalesce(note_stripe_unknown.details, '{}')
      || jsonb_build_object('kind', note_stripe_unknown.kind, 'value', v_value, 'object_id', left(note_stripe_unknown.object_id, 255)));
  return true;
end $$;
comment on function private.note_stripe_unknown(text, text, text, jsonb) is
  'Notes something of Stripe''s that has no meaning here. The first time that a value of a kind is seen it is a security event (stripe_unknown, medium) and a row that public.list_stripe_unknowns shows; after that it is counted. details hold no addresses or names. True for what is new.';

create function private.open_stripe_unknowns(before bigint, page_size integer)
returns table (id bigint, kind text, value text, object_id text, details jsonb, times bigint, first_seen_at timestamptz, last_seen_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the list is private; refuses all but admins and the service role.
begin
  perform private.require_admin();
  return query
    select u.id, u.kind, u.value, u.object_id, u.details, u.times, u.first_seen_at, u.last_seen_at
    from private.stripe_unknowns u
    where u.handled_at is null and (open_stripe_unknowns.before is null or u.id < open_stripe_unknowns.before)
    order by u.id desc limit private.page_of(open_stripe_unknowns.page_size);
end $$;
comment on function private.open_stripe_unknowns(bigint, integer) is 'Behind public.list_stripe_unknowns.';
grant execute on function private.open_stripe_unknowns(bigint, integer) to authenticated, service_role;

create function public.list_stripe_unknowns(before bigint default null, page_size integer default 100)
returns table (id bigint, kind text, value text, object_id text, details jsonb, times bigint, first_seen_at timestamptz, last_seen_at timestamptz)
language sql stable security invoker set search_path = ''
as $$ select * from private.open_stripe_unknowns(list_stripe_unknowns.before, list_stripe_unknowns.page_size) $$;
comment on function public.list_stripe_unknowns(bigint, integer) is
  'What Stripe said that has no meaning here and nobody has handled, the latest first, at most page_size (1 to 1000), and before: only those after this one, the last of the page before; for admins and the service role: its kind and value, the object that said it first, how often and when it was read.';
grant execute on function public.list_stripe_unknowns(bigint, integer) to authenticated, service_role;

create function private.close_stripe_unknown(id bigint) returns timestamptz
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the list is private; refuses all but admins and the service role.
declare
  v_unknown private.stripe_unknowns;
begin
  perform private.require_admin();
  select u.* into v_unknown from private.stripe_unknowns u where u.id = close_stripe_unknown.id for no key update;
  if not found then
    perform private.raise_error('not_found', 'There is no such entry.');
  end if;
  if v_unknown.handled_at is not null then
    return v_unknown.handled_at;
  end if;
  update private.stripe_unknowns u set handled_at = now() where u.id = v_unknown.id;
  perform private.audit(action => 'stripe_unknown.handle', resource_type => 'stripe_unknown', resource_id => v_unknown.id::text,
    details => jsonb_build_object('kind', v_unknown.kind, 'value', v_unknown.value, 'times', v_unknown.times));
  return now();
end $$;
comment on function private.close_stripe_unknown(bigint) is 'Behind public.handle_stripe_unknown.';
grant execute on function private.close_stripe_unknown(bigint) to authenticated, service_role;

create function public.handle_stripe_unknown(id bigint) returns timestamptz
language sql volatile security invoker set search_path = ''
as $$ select private.close_stripe_unknown(handle_stripe_unknown.id) $$;
comment on function public.handle_stripe_unknown(bigint) is
  'For admins and the service role: closes an entry of list_stripe_unknowns, which is counted and told no more; 404 not_found when there is none. Answers when it was closed, also by an earlier call.';
grant execute on function public.handle_stripe_unknown(bigint) to authenticated, service_role;

-- The old --------------------------------------------------------------------------------------------------------------

create function private.delete_old_stripe_events(batch_size integer default 50000) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.delete_old_stripe_events(integer) is
  'Deletes events that were finished billing.event_days ago, but not the dead, and what was read that long ago of checkouts that expired, and of customers of whom nobody knows whose they are, or whose user was erased. A job runs it. Answers how many rows went.';

-- Objects =============================================================================================================
-- Stripe's objects as they were last read. Every row of billing is made from these alone, so neither the order of events nor
-- how often they come makes a difference, and what was made can be made again.

create table private.stripe_objects (
  id text primary key check (length(id) between 1 and 255),
  object text not null check (object in ('customer', 'subscription', 'invoice', 'checkout_session', 'refund', 'dispute', 'credit_note')),
  customer_id text check (length(customer_id) <= 255),
  subscription_id text check (length(subscription_id) <= 255),
  payment_refs text[] not null default '{}',
  user_id text check (length(user_id) <= 255),
  reading jsonb not null check (jsonb_typeof(reading) = 'object'),
  read_at timestamptz not null,
  deleted_at timestamptz
);
comment on table private.stripe_objects is 'The newest reading of each object of Stripe''s; also of customers that are not known here (yet).';
comment on column private.stripe_objects.subscription_id is 'Of an invoice.';
comment on column private.stripe_objects.payment_refs is
  'What ties refunds, disputes and credit notes to the invoice or session that was paid: its payment intents, charges without one, records of payments, and the invoice''s own id.';
comment on column private.stripe_objects.user_id is 'Our metadata: whom the object was made for. Kept when Stripe forgets it with a deleted customer.';
comment on column private.stripe_objects.reading is 'Without read_at. Times are Unix seconds, amounts in the smallest unit.';
comment on column private.stripe_objects.read_at is 'By the database''s clock, before the object was asked for: of two readings the later one is at least as new.';
comment on column private.stripe_objects.deleted_at is 'The first time that it was read as deleted; null: it is there.';
create index stripe_objects_customer_id_idx on private.stripe_objects (customer_id);
create index stripe_objects_subscription_id_idx on private.stripe_objects (subscription_id) where subscription_id is not null;
create index stripe_objects_payment_refs_idx on private.stripe_objects using gin (payment_refs) with (fastupdate = off)
  where payment_refs <> '{}';
revoke all on private.stripe_objects from anon, authenticated, service_role;

create function private.stripe_time(reading jsonb, field text) returns timestamptz
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return to_timestamp((stripe_time.reading ->> stripe_time.field)::double precision);
end $$;
comment on function private.stripe_time(jsonb, text) is 'A time of a reading; null when it has none.';

-- Store ----------------------------------------------------------------------------------------------------------------

create function private.stripe_object(reading jsonb) returns private.stripe_objects
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_object private.stripe_objects;
begin
  v_object.id := reading ->> 'id';
  v_object.object := reading ->> 'object';
  v_object.customer_id := case when v_object.object = 'customer' then v_object.id else reading ->> 'customer_id' end;
  v_object.subscription_id := case when v_object.object = 'invoice' then reading ->> 'subscription_id' end;
  v_object.payment_refs := array(
    select r.ref from (
      select case when v_object.object = 'invoice' then v_object.id else reading ->> 'invoice_id' end
      union
      select p.payment ->> f.field
      from (select reading union all select i from jsonb_path_query(reading, '$.payments[*]') i) p (payment),
        unnest(array['payment_intent_id', 'charge_id', 'payment_record_id']) f (field)) r (ref)
    where r.ref is not null order by 1);
  v_object.user_id := reading ->> 'user_id';
  v_object.reading := reading - 'read_at';
  v_object.read_at := (reading ->> 'read_at')::timestamptz;
  v_object.deleted_at := case when (reading ->> 'deleted')::boolean then v_object.read_at end;
  -- A reading of tomorrow would win over everything until then.
  if v_object.read_at > clock_timestamp() + interval '1 minute' then
    raise exception 'the reading of % lies in the future: %', v_object.id, v_object.read_at;
  end if;
  return v_object;
end $$;
comment on function private.stripe_object(jsonb) is 'A reading as a row. An error when it says what cannot be.';

create function private.lock_stripe_objects(keys text[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.lock_stripe_objects(text[]) is
  'One transaction at a time for each customer (or payment), until it ends, always in the same order. Taken before anything of theirs is read.';

create function private.store_stripe_object(kept private.stripe_objects, out stored private.stripe_objects, out outcome text)
language plpgsql volatile security invoker set search_path = ''
as $$
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
      customer_id = stored.customer_id, subscription_id = stored.subscription_id, payment_refs = stored.payment_refs,
      user_id = stored.user_id, reading = stored.reading, read_at = stored.read_at, deleted_at = stored.deleted_at
    where o.id = stored.id;
  end if;
end $$;
comment on function private.store_stripe_object(private.stripe_objects) is
  'Keeps a reading unless a newer one is there. Answers what is stored now, and same, changed or older. The caller holds the lock.';

create function private.stripe_words(kind text) returns text[]
language sql immutable security invoker set search_path = ''
return case stripe_words.kind
  when 'subscription_status' then
    array['active', 'canceled', 'incomplete', 'incomplete_expired', 'past_due', 'paused', 'trialing', 'unpaid']
  when 'invoice_status' then array['draft', 'open', 'paid', 'uncollectible', 'void']
  when 'billing_reason' then
    array['automatic_pending_invoice_item_invoice', 'manual', 'quote_accept', 'subscription', 'subscription_create', 'subscription_cycle',
      'subscription_threshold', 'subscription_update', 'upcoming']
  when 'checkout_status' then array['complete', 'expired', 'open']
  when 'checkout_payment_status' then array['no_payment_required', 'paid', 'unpaid']
  when 'refund_status' then array['canceled', 'failed', 'pending', 'requires_action', 'succeeded']
  when 'dispute_status' then
    array['appeal_needs_response', 'appeal_under_review', 'lost', 'needs_response', 'prevented', 'under_review', 'warning_closed',
      'warning_needs_response', 'warning_under_review', 'won']
  when 'credit_note_status' then array['issued', 'void'] end;
comment on function private.stripe_words(text) is
  'The words of the pinned version of Stripe''s API that a kind of private.stripe_unknowns may have; null for a kind that has no list.';

create function private.note_stripe_unknowns_of(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
begin
  perform private.note_stripe_unknown(w.kind, w.value, (kept).id, jsonb_build_object('object', (kept).object))
  from (
    select case (kept).object when 'checkout_session' then 'checkout' else (kept).object end || '_status', v_reading ->> 'status'
    union all
    select 'checkout_payment_status', v_reading ->> 'payment_status' where (kept).object = 'checkout_session'
    union all
    -- Why an invoice was made decides what it brings, where it is paid and has a plan's line.
    select 'billing_reason', v_reading ->> 'billing_reason'
    where (kept).object = 'invoice' and v_reading ->> 'status' = 'paid' and exists (
      select from jsonb_path_query(v_reading, '$.lines[*]') l (line) join private.stripe_prices s on s.id = l.line ->> 'price_id'
      where s.plan_price_id is not null)
    union all
    select 'payment_type', p ->> 'unknown_type' from jsonb_path_query(v_reading, '$.payments[*]') p) w (kind, value)
  where w.value is not null and w.value <> all (coalesce(private.stripe_words(w.kind), '{}'));
end $$;
comment on function private.note_stripe_unknowns_of(private.stripe_objects) is
  'Notes what a stored object says in words that are not known here: statuses, why a paid invoice of a plan was made, by what kind of payment it was paid.';

-- Whose ----------------------------------------------------------------------------------------------------------------

create function private.link_stripe_customer_by_metadata(customer_id text) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
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
      and (o.user_id is null or private.uuid_or_null(o.user_id) is not null)
      and (o.object <> 'checkout_session' or coalesce(o.reading ->> 'client_reference_id' = o.user_id, true))
    having count(distinct o.user_id) = 1) m
  where exists (select from auth.users u where u.id = m.user_id)
    and (m.deleted_at is not null or not exists (
      select from private.stripe_customers c where c.user_id = m.user_id and c.livemode = m.livemode and c.deleted_at is null))
  on conflict do nothing;
  select c.* into v_link from private.stripe_customers c where c.id = link_stripe_customer_by_metadata.customer_id;
  return v_link.user_id;
end $$;
comment on function private.link_stripe_customer_by_metadata(text) is
  'Whose customer it is; null: nobody''s whom we know. One that is not linked yet is, when our metadata names one user who exists and has no other live customer. Never by an e-mail address, never by client_reference_id.';

create function private.tg_stripe_customers__lock() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.lock_stripe_objects(array[new.id]);
  return new;
end $$;
comment on function private.tg_stripe_customers__lock() is
  'Before the row is there: whoever stores readings of this customer meanwhile has finished, or waits and finds it.';
create trigger tg_stripe_customers__lock before insert on private.stripe_customers
  for each row execute function private.tg_stripe_customers__lock();

create function private.tg_stripe_customers__project() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.project_stripe_customer(new.id);
  return null;
end $$;
comment on function private.tg_stripe_customers__project() is
  'What was read of a customer before anybody knew whose it is counts from the moment they do.';
create trigger tg_stripe_customers__project after insert on private.stripe_customers
  for each row execute function private.tg_stripe_customers__project();

create function private.tg_stripe_customers__forget() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the Auth service erases users.
begin
  delete from private.stripe_objects o where o.customer_id = old.id;
  -- One that a worker has at this moment is left to delete_old_stripe_events: waiting for it could be waiting for ever.
  delete from private.stripe_events e
  where e.id in (select x.id from private.stripe_events x where x.customer_id = old.id for update skip locked);
  return null;
end $$;
comment on function private.tg_stripe_customers__forget() is
  'With an erased user go the readings and the events of their customers, which hold addresses.';
create trigger tg_stripe_customers__forget after delete on private.stripe_customers
  for each row execute function private.tg_stripe_customers__forget();

-- Apply ----------------------------------------------------------------------------------------------------------------

create function private.apply_stripe_readings(readings jsonb) returns table (object text, id text, outcome text)
language plpgsql volatile security invoker set search_path = ''
as $$
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
    union select unnest(o.payment_refs) from unnest(v_objects) o
    -- Whose payments these refunds, disputes and credit notes are of: what they paid for may end with them.
    union select p.customer_id from private.stripe_objects p
    where p.payment_refs && array(select unnest(o.payment_refs) from unnest(v_objects) o) and p.payment_refs <> '{}'
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
    select private.uuid_or_null(o.user_id)
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
end $$;
comment on function private.apply_stripe_readings(jsonb) is
  'Keeps what was read at Stripe, each object if no newer reading of it is there, and makes rows, credits and entitlements of it. Answers for each: same; changed; older: a newer one was here; unknown_customer: kept until we know whose it is; mismatch: it names another user than its customer''s, and nothing comes of it. An error leaves nothing behind.';

create function private.project_stripe_reading(kept private.stripe_objects, owner uuid, outcome text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
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
  perform private.note_stripe_unknowns_of(kept);
  perform private.tell_of_stripe_object(kept);
  return case when v_changed then 'changed' else outcome end;
end $$;
comment on function private.project_stripe_reading(private.stripe_objects, uuid, text) is
  'Makes rows of one reading that was stored with this outcome. Answers the outcome that apply_stripe_readings tells.';

create function private.is_stripe_mismatch(kept private.stripe_objects, owner uuid) returns boolean
language sql immutable security invoker set search_path = ''
return (kept).object = 'checkout_session' and owner is not null
  and (coalesce((kept).user_id <> owner::text, false)
    or coalesce((kept).reading ->> 'client_reference_id' <> owner::text, false));
comment on function private.is_stripe_mismatch(private.stripe_objects, uuid) is
  'Whether a checkout session names another user than its customer''s. Anybody can put a client_reference_id into a payment link.';

create function private.project_stripe_customer(customer_id text) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.project_stripe_customer(text) is 'Makes the rows of everything that was read of a customer. Answers of how many objects something changed. The caller holds the lock.';

create function private.project_stripe_objects(customer_id text default null) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.project_stripe_objects(text) is
  'Makes every row of billing again from what was read, of one customer or (null) of all: after prices became known, or rows were lost. On a healthy database nothing changes. Answers of how many objects something did. Of all it holds up events while it runs.';

create function private.known_stripe_objects(object text, since timestamptz) returns table (id text, read_at timestamptz)
language sql stable security invoker set search_path = ''
as $$
  select o.id, o.read_at from private.stripe_objects o
  where o.object = known_stripe_objects.object and o.deleted_at is null
    and (o.object <> 'checkout_session' or o.reading ->> 'status' = 'complete')
    and (known_stripe_objects.since is null or coalesce(
      private.stripe_time(o.reading, 'created'), private.stripe_time(o.reading, 'started_at'), 'infinity') >= known_stripe_objects.since)
  order by o.id
$$;
comment on function private.known_stripe_objects(text, timestamptz) is
  'The objects of a kind that Stripe must have, too, made since then (null: ever), and when they were read: of sessions the complete ones; none that are deleted.';

-- sql/67_changes_at_stripe.sql ========================================================================================

-- What must change at Stripe because something changed here, and prices that were made at Stripe and not here.

-- Changes =============================================================================================================
-- A list of what is to be done at Stripe: a subscription that ends with its account, another address, a trial that goes on. Rows have no
-- foreign key: they outlive the user, whose subscription must not go on being charged.

insert into private.settings (key, value, rule, description) values
  ('billing.cancel_on_deletion', '"period_end"', '{"enum": ["period_end", "now"]}', 'When subscriptions of a deleted account end: "period_end" of what was paid for, which reinstate_account can take back, or "now".')
on conflict (key) do nothing;

create table private.stripe_changes (
  customer_id text not null check (length(customer_id) between 1 and 255),
  kind text not null check (kind in ('cancellation', 'email', 'resumption')),
  wanted text check (wanted in ('now', 'period_end', 'undo')),
  livemode boolean not null,
  user_id uuid not null,
  subscription_ids text[] not null default '{}',
  turn bigint not null default 0,
  is_disturbed boolean not null default false,
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  created_at timestamptz not null default now(),
  done_at timestamptz,
  primary key (customer_id, kind),
  check ((kind = 'cancellation') = (wanted is not null))
);
comment on table private.stripe_changes is
  'What is to be done at Stripe for a customer: end their subscriptions (cancellation), tell their address (email), go on after a paused trial (resumption). Tried until it is done.';
comment on column private.stripe_changes.wanted is 'Of a cancellation: now, at the period_end, or undo, when the account was reinstated.';
comment on column private.stripe_changes.user_id is 'Whose customer it is, or was: no foreign key, because it must be done although the user is erased.';
comment on column private.stripe_changes.subscription_ids is 'Subscriptions that it is about, as far as known, for whoever has to act by hand.';
comment on column private.stripe_changes.turn is 'Whose turn it is: an answer of an earlier one is too late.';
comment on column private.stripe_changes.is_disturbed is 'An earlier worker ended late and may have undone what a later one did: it is done once more.';
create index stripe_changes_next_attempt_at_idx on private.stripe_changes (next_attempt_at) where done_at is null;
create index stripe_changes_done_at_idx on private.stripe_changes (done_at) where done_at is not null;
create index stripe_changes_user_id_idx on private.stripe_changes (user_id);
revoke all on private.stripe_changes from anon, authenticated, service_role;

create function private.note_stripe_change(customer private.stripe_customers, kind text, wanted text default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.stripe_changes as c (customer_id, kind, wanted, livemode, user_id, subscription_ids)
  values (
    (customer).id, note_stripe_change.kind, note_stripe_change.wanted, (customer).livemode, (customer).user_id,
    array(
      select o.id from private.stripe_objects o
      where o.customer_id = (customer).id and o.object = 'subscription' and o.deleted_at is null
        and o.reading ->> 'status' not in ('canceled', 'incomplete_expired')
      order by o.id))
  on conflict on constraint stripe_changes_pkey do update set
    wanted = excluded.wanted, user_id = excluded.user_id, subscription_ids = excluded.subscription_ids, turn = c.turn + 1, attempts = 0,
    next_attempt_at = now(), error = null, created_at = now(), done_at = null;
end $$;
comment on function private.note_stripe_change(private.stripe_customers, text, text) is
  'Notes what is to be done at Stripe for a customer, in the place of what was wanted of this kind before.';

create function private.claim_stripe_changes(livemode boolean, batch_size integer default 10)
returns table (customer_id text, kind text, wanted text, email text, turn bigint)
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- This key cannot do them; who has the other mode's looks again in an hour.
  update private.stripe_changes c set next_attempt_at = now() + interval '1 hour'
  where c.done_at is null and c.next_attempt_at <= now() and c.livemode <> claim_stripe_changes.livemode;
  return query
    with due as (
      select d.customer_id, d.kind from private.stripe_changes d
      where d.done_at is null and d.next_attempt_at <= now() and d.livemode = claim_stripe_changes.livemode
      order by d.next_attempt_at, d.customer_id limit least(claim_stripe_changes.batch_size, 100)
      for update skip locked
    )
    update private.stripe_changes c set
      turn = c.turn + 1, attempts = c.attempts + 1, is_disturbed = false,
      next_attempt_at = now() + make_interval(secs => (private.setting('billing.lease_seconds'))::integer)
    from due d where c.customer_id = d.customer_id and c.kind = d.kind
    returning c.customer_id, c.kind, c.wanted, private.confirmed_email(c.user_id), c.turn;
end $$;
comment on function private.claim_stripe_changes(boolean, integer) is
  'Takes what is due at Stripe in this mode, each for one worker and for billing.lease_seconds, with the user''s address where it is confirmed. End each with finish_stripe_change and its turn.';

create function private.confirmed_email(user_id uuid) returns text
language sql stable security invoker set search_path = ''
as $$
  select nullif(u.email, '') from auth.users u where u.id = confirmed_email.user_id and u.email_confirmed_at is not null
$$;
comment on function private.confirmed_email(uuid) is 'The address that a user has shown to be theirs; null without one. Stripe is told no other.';

create function private.finish_stripe_change(
  customer_id text, kind text, turn bigint, error text default null, subscription_ids text[] default null
) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_change private.stripe_changes;
begin
  select c.* into v_change from private.stripe_changes c
  where c.customer_id = finish_stripe_change.customer_id and c.kind = finish_stripe_change.kind
  for no key update;
  if not found then
    return 'superseded';
  elsif v_change.turn <> finish_stripe_change.turn then
    -- What it did may have come after what was done since.
    update private.stripe_changes c set
      is_disturbed = true, done_at = null, next_attempt_at = case when c.done_at is null then c.next_attempt_at else now() end
    where c.customer_id = v_change.customer_id and c.kind = v_change.kind;
    return 'superseded';
  end if;
  update private.stripe_changes c set
    error = left(finish_stripe_change.error, 500),
    subscription_ids = coalesce(finish_stripe_change.subscription_ids, c.subscription_ids),
    done_at = case when finish_stripe_change.error is null and not c.is_disturbed then now() end,
    next_attempt_at = case when finish_stripe_change.error is null then now()
      else now() + least(interval '1 minute' * power(2, least(c.attempts, 20) - 1), interval '1 hour') end
  where c.customer_id = v_change.customer_id and c.kind = v_change.kind
  returning c.* into v_change;
  if finish_stripe_change.error is not null then
    perform private.warn_of_stripe_change(v_change);
  end if;
  return case when v_change.done_at is null then 'waiting' else 'done' end;
end $$;
comment on function private.finish_stripe_change(text, text, bigint, text, text[]) is
  'Ends a try: done, or with the reason, which must hold no secret, waiting for the next one after a minute, 2, 4, at most an hour, without end. superseded: something else is wanted by now, or another worker has it, and it is done once more because this one ended late.';

create function private.warn_of_stripe_change(change private.stripe_changes) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The fifth try in vain comes after a quarter of an hour; from then on once a day.
  if (change).attempts = 5 or (change).attempts > 5 and (change).attempts % 24 = 0 then
    perform private.raise_security_event(
      type => case (change).kind when 'cancellation' then 'stripe_cancellation_failing' when 'email' then 'stripe_email_failing'
        else 'stripe_resumption_failing' end,
      severity => case (change).kind when 'cancellation' then 'high' else 'medium' end,
      user_id => null, dedupe_key => left((change).customer_id, 200),
      details => jsonb_build_object(
        'customer_id', (change).customer_id, 'subscription_ids', to_jsonb((change).subscription_ids), 'wanted', (change).wanted,
        'attempts', (change).attempts, 'error', (change).error, 'user_id', (change).user_id));
  end if;
end $$;
comment on function private.warn_of_stripe_change(private.stripe_changes) is
  'Says that something cannot be done at Stripe, with customer and subscriptions: at the fifth try in vain, then about once a day. A cancellation is high: somebody who left is charged.';

create function private.call_change_stripe() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (select from private.stripe_changes c where c.done_at is null and c.next_attempt_at <= now()) then
    return private.call_jobs_function('change-stripe');
  end if;
  return null;
end $$;
comment on function private.call_change_stripe() is 'Calls the worker of private.stripe_changes when one is due.';

create function private.delete_old_stripe_changes() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.stripe_changes c where c.done_at < now() - make_interval(days => (private.setting('billing.event_days'))::integer);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_stripe_changes() is 'Forgets what was done at Stripe billing.event_days ago. A job runs it. Answers how many.';

-- An account that is deleted -------------------------------------------------------------------------------------------

create function private.cancellation_wish() returns text
language sql stable security invoker set search_path = ''
-- Nobody's deletion fails because of a setting that is no word of ours.
as $$ select case private.setting('billing.cancel_on_deletion') #>> '{}' when 'now' then 'now' else 'period_end' end $$;
comment on function private.cancellation_wish() is 'When subscriptions of deleted accounts end, by billing.cancel_on_deletion: now or period_end.';

create function private.tg_profiles__end_subscriptions() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  if new.status = 'deleted' then
    perform private.note_stripe_change(c, 'cancellation', private.cancellation_wish())
    from private.stripe_customers c where c.user_id = new.id and c.deleted_at is null;
  else
    perform private.note_stripe_change(c, 'cancellation', 'undo')
    from private.stripe_customers c
    where c.user_id = new.id and c.deleted_at is null and exists (
      select from private.stripe_changes x where x.customer_id = c.id and x.kind = 'cancellation' and x.wanted <> 'undo');
  end if;
  return null;
end $$;
comment on function private.tg_profiles__end_subscriptions() is
  'With an account that is deleted end its subscriptions; one that is reinstated keeps those that have not ended.';
create trigger tg_profiles__end_subscriptions after update of status on public.profiles
  for each row when (new.status <> old.status and 'deleted' in (new.status, old.status))
  execute function private.tg_profiles__end_subscriptions();

create function private.tg_stripe_customers__end_subscriptions() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the Auth service erases users.
begin
  -- A row that is deleted by hand, with its user still there, ends nothing.
  if old.deleted_at is null and not exists (select from auth.users u where u.id = old.user_id) then
    delete from private.stripe_changes c where c.customer_id = old.id and c.kind <> 'cancellation';
    perform private.note_stripe_change(old, 'cancellation', private.cancellation_wish());
  end if;
  return old;
end $$;
comment on function private.tg_stripe_customers__end_subscriptions() is
  'With a user that is erased, by whatever way, end their subscriptions. Before the readings of the customer go, which name them.';
create trigger tg_stripe_customers__end_subscriptions before delete on private.stripe_customers
  for each row execute function private.tg_stripe_customers__end_subscriptions();

create function private.end_subscriptions_of_deleted() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
  v_noted integer := 0;
begin
  for v_customer in
    select c.* from private.stripe_customers c join public.profiles p on p.id = c.user_id
    where p.status = 'deleted' and c.deleted_at is null
      and not exists (
        select from private.stripe_changes x where x.customer_id = c.id and x.kind = 'cancellation' and x.done_at is null)
      and exists (
        select from private.stripe_objects o
        where o.customer_id = c.id and o.object = 'subscription' and o.deleted_at is null
          and o.reading ->> 'status' not in ('canceled', 'incomplete_expired')
          and not coalesce((o.reading ->> 'cancel_at_period_end')::boolean, false)
          and not coalesce((o.reading ->> 'cancel_at')::bigint <= (
            select min((i.item ->> 'current_period_end')::bigint) from jsonb_path_query(o.reading, '$.items[*]') i (item)), false))
    order by c.id
  loop
    perform private.note_stripe_change(v_customer, 'cancellation', private.cancellation_wish());
    v_noted := v_noted + 1;
  end loop;
  return v_noted;
end $$;
comment on function private.end_subscriptions_of_deleted() is
  'Notes subscriptions of deleted accounts that go on all the same: bought in the moment of the deletion, or started again at Stripe since. The nightly comparison calls it. Answers of how many customers.';

-- Another address ------------------------------------------------------------------------------------------------------

create function private.tg_users__tell_stripe() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.note_stripe_change(c, 'email') from private.stripe_customers c where c.user_id = new.id and c.deleted_at is null;
  return null;
end $$;
comment on function private.tg_users__tell_stripe() is
  'Stripe hears of an address once it is confirmed, for customers that there are; it sends invoices and receipts there.';
create trigger palisade_tell_stripe after update of email, email_confirmed_at on auth.users
  for each row when (
    new.email_confirmed_at is not null and new.email <> ''
    and (new.email is distinct from old.email or old.email_confirmed_at is null))
  execute function private.tg_users__tell_stripe();

-- A paused trial -------------------------------------------------------------------------------------------------------

create function private.tg_stripe_objects__resume() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  if tg_op = 'UPDATE' and old.reading ->> 'status' = 'complete' then
    return null;
  end if;
  perform private.note_stripe_change(c, 'resumption')
  from private.stripe_customers c
  where c.id = new.customer_id and c.deleted_at is null and c.user_id::text = new.user_id;
  return null;
end $$;
comment on function private.tg_stripe_objects__resume() is
  'A page that took a card for a paused subscription was completed: the subscription goes on, also when nobody came back from it.';
create trigger tg_stripe_objects__resume after insert or update of reading on private.stripe_objects
  for each row when (
    new.object = 'checkout_session' and new.reading ->> 'mode' = 'setup' and new.reading ->> 'status' = 'complete')
  execute function private.tg_stripe_objects__resume();

-- Prices of the dashboard ==============================================================================================
-- A price that somebody made in Stripe's dashboard for a product of ours. It is paid, and nobody here knows for what.

create function private.unknown_plan_items(kept private.stripe_objects) returns table (price_id text, product_id text)
language sql stable security invoker set search_path = ''
as $$
  select distinct i.item ->> 'price_id', i.item ->> 'product_id'
  from jsonb_path_query((kept).reading, '$.items[*]') i (item)
  where (kept).object = 'subscription' and i.item ->> 'price_id' is not null
    and not exists (select from private.stripe_prices s where s.id = i.item ->> 'price_id')
    and exists (
      select from private.stripe_prices s where s.product_id = i.item ->> 'product_id' and s.plan_price_id is not null)
$$;
comment on function private.unknown_plan_items(private.stripe_objects) is
  'The prices of a subscription that are not known here although their product is that of a plan.';

create function private.tg_stripe_objects__unknown_prices() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.note_stripe_unknown('price', i.price_id, new.id,
    jsonb_build_object('product_id', i.product_id, 'subscription_id', new.id, 'customer_id', new.customer_id))
  from private.unknown_plan_items(new) i;
  return null;
end $$;
comment on function private.tg_stripe_objects__unknown_prices() is
  'Says that somebody subscribed to a plan''s product at a price that is not known here: map_stripe_price says which of ours it is.';
create trigger tg_stripe_objects__unknown_prices after insert or update of reading on private.stripe_objects
  for each row when (new.object = 'subscription' and new.reading ->> 'status' not in ('canceled', 'incomplete_expired'))
  execute function private.tg_stripe_objects__unknown_prices();

create function private.plan_subscription_status(user_id uuid) returns text
language sql stable security invoker set search_path = ''
as $$
  select s.status from public.subscriptions s
  where s.user_id = plan_subscription_status.user_id and s.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused')
    -- One of another product, sold to the same customer, is in nobody's way.
    and (s.plan_id is not null or exists (
      select from private.stripe_objects o cross join lateral private.unknown_plan_items(o) i where o.id = s.id))
  order by s.status = 'paused' desc limit 1
$$;
comment on function private.plan_subscription_status(uuid) is
  'The status of a user''s subscription of a plan that has not ended, also of one at a price that is not known here; null without one.';

create function private.map_price(stripe_price_id text, plan_price text) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: prices at Stripe are private; refuses all but admins and the service role.
declare
  v_known private.stripe_prices;
  v_seen record;
  v_customers text[];
  v_customer_id text;
  v_changed bigint := 0;
begin
  perform private.require_admin();
  if not exists (select from public.plan_prices p where p.id = map_price.plan_price) then
    perform private.raise_error('not_found', format('There is no plan_price %s.', map_price.plan_price));
  end if;
  perform pg_advisory_xact_lock(hashtextextended('stripe_prices', 0));
  select s.* into v_known from private.stripe_prices s where s.id = map_price.stripe_price_id;
  if v_known.id is not null then
    if v_known.plan_price_id is distinct from map_price.plan_price then
      perform private.raise_error('invalid_request_error', 'This price of Stripe''s is that of something else already.');
    end if;
    return 0;
  end if;
  -- Only what somebody has subscribed to: product and mode are those that Stripe said.
  select min(i.item ->> 'product_id') as product_id, bool_or((o.reading ->> 'livemode')::boolean) as livemode,
    array_agg(distinct o.customer_id) as customers
  into v_seen
  from private.stripe_objects o cross join lateral jsonb_path_query(o.reading, '$.items[*]') i (item)
  where o.object = 'subscription' and i.item ->> 'price_id' = map_price.stripe_price_id and i.item ->> 'product_id' is not null;
  if v_seen.product_id is null then
    perform private.raise_error('not_found', 'No subscription was seen that has this price of Stripe''s.');
  end if;
  v_customers := v_seen.customers;
  perform private.lock_stripe_objects(v_customers);
  insert into private.stripe_prices (id, plan_price_id, product_id, livemode, is_current)
  values (map_price.stripe_price_id, map_price.plan_price, v_seen.product_id, v_seen.livemode, false);
  update private.stripe_unknowns u set handled_at = now()
  where u.kind = 'price' and u.value = map_price.stripe_price_id and u.handled_at is null;
  foreach v_customer_id in array array(select c from unnest(v_customers) c order by 1) loop
    v_changed := v_changed + private.project_stripe_objects(v_customer_id);
  end loop;
  perform private.audit(action => 'stripe_price.map', resource_type => 'stripe_price', resource_id => left(map_price.stripe_price_id, 200),
    details => jsonb_build_object('plan_price', map_price.plan_price, 'customers', cardinality(v_customers), 'changed', v_changed));
  return v_changed;
end $$;
comment on function private.map_price(text, text) is 'Behind public.map_stripe_price.';
grant execute on function private.map_price(text, text) to authenticated, service_role;

create function public.map_stripe_price(stripe_price_id text, plan_price text) returns bigint
language sql volatile security invoker set search_path = ''
as $$ select private.map_price(map_stripe_price.stripe_price_id, map_stripe_price.plan_price) $$;
comment on function public.map_stripe_price(text, text) is
  'For admins and the service role: a price that was made at Stripe counts as this plan_price from now on, with its plan and its credits, also for what was paid already; nothing new is sold at it. 404 not_found when no subscription has that price, or there is no such plan_price. Answers of how many objects of Stripe''s something changed; a repeated call changes nothing.';
grant execute on function public.map_stripe_price(text, text) to authenticated, service_role;

-- sql/68_stripe_projection.sql ========================================================================================

-- What follows from what Stripe says: credits, rows that their owner can read, and what users are told.

-- Lines ===============================================================================================================
-- What an invoice is for, line by line: which lines are a plan's, what each cost, and what of that came back.

create type private.invoice_line as (
  place integer, id text, plan_price_id text, plan_id text, quantity bigint, amount numeric, net numeric, cost numeric,
  is_proration boolean, starts_at timestamptz, ends_at timestamptz);
comment on type private.invoice_line is
  'A line of an invoice. plan_id: a plan''s, by the price of the line and by nothing else; amount: as Stripe has it; net: without its discounts; cost: net with the tax that is added.';

create function private.lines_of_invoice(reading jsonb) returns setof private.invoice_line
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with lines as (
      select l.place, l.line, (l.line ->> 'amount')::numeric as amount, (l.line ->> 'discount_amount')::numeric as discount,
        coalesce((l.line ->> 'is_proration')::boolean, false) as is_proration
      from jsonb_array_elements(reading -> 'lines') with ordinality l (line, place)
    ), sums as (
      -- Older readings do not say the discounts: they are what the lines are more than the total. Prorations had none then.
      select case when count(l.discount) = 0 then greatest(sum(l.amount) - (reading ->> 'total')::numeric, 0) else 0 end as unsaid,
        sum(l.amount) filter (where l.amount > 0 and not l.is_proration) as discountable
      from lines l
    ), priced as (
      select l.*, l.amount - coalesce(l.discount,
        case when l.amount > 0 and not l.is_proration then least(s.unsaid, s.discountable) * l.amount / s.discountable end, 0) as net
      from lines l, sums s
    )
    select l.place::integer, l.line ->> 'id', pp.id, pp.plan_id, coalesce((l.line ->> 'quantity')::bigint, 1), l.amount, l.net,
      l.net + coalesce((l.line ->> 'tax_amount')::numeric, 0), l.is_proration,
      private.stripe_time(l.line, 'period_start'), private.stripe_time(l.line, 'period_end')
    from priced l
      left join private.stripe_prices s on s.id = l.line ->> 'price_id'
      left join public.plan_prices pp on pp.id = s.plan_price_id
    order by l.place;
end $$;
comment on function private.lines_of_invoice(jsonb) is
  'The lines of an invoice''s reading. The one place that says which are a plan''s, and what a line cost: Stripe''s discount_amounts come off, whether it shows prorations before or after their discounts.';

create function private.part_of_period(line private.invoice_line, reading jsonb, out part numeric, out whole numeric)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_price public.plan_prices;
  v_is_first boolean := coalesce(reading ->> 'billing_reason' in ('subscription_create', 'quote_accept'), false);
  v_full_end timestamptz;
begin
  select p.* into v_price from public.plan_prices p where p.id = (line).plan_price_id;
  v_full_end := (line).starts_at + case v_price.interval when 'year' then interval '1 year' else interval '1 month' end;
  part := 1;
  whole := 1;
  if not v_is_first and (line).is_proration then
    part := 0;
  -- The piece until an anchor, or since a date before: by what it costs, or by its time where the price is of another currency.
  elsif v_is_first and (line).amount > 0 and ((line).is_proration or (line).ends_at < v_full_end - interval '2 days') then
    if v_price.currency = reading ->> 'currency' then
      whole := v_price.amount * (line).quantity;
      part := least((line).amount, whole);
    else
      whole := extract(epoch from v_full_end - (line).starts_at);
      part := least(extract(epoch from (line).ends_at - (line).starts_at), whole);
    end if;
  end if;
  if whole <= 0 then
    part := 1;
    whole := 1;
  end if;
end $$;
comment on function private.part_of_period(private.invoice_line, jsonb) is
  'How much of a period of its price a plan''s line is for, as part of whole: all of it; of a first invoice also less, as with an anchor of the billing cycle; nothing for a change in mid-period.';

create type private.returned_line as (line private.invoice_line, part numeric, whole numeric);
comment on type private.returned_line is 'A line of an invoice and the share of its money that came back, as part of whole; whole 0: it cost no money.';

create function private.money_of_lines(reading jsonb) returns table (line private.invoice_line, kind integer, money numeric)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with lines as (
      select l as line, greatest(l.cost, 0) as cost, case when l.plan_id is null then 0 when l.is_proration then 1 else 2 end as kind
      from private.lines_of_invoice(reading) l
    ), sums as (
      select coalesce(sum(l.cost) filter (where l.kind = 0), 0) as other,
        coalesce(sum((l.line).cost) filter (where l.kind = 1), 0) as steps, coalesce(sum(l.cost) filter (where l.kind = 2), 0) as periods
      from lines l
    ), kinds as (
      -- Unused time pays for the step that comes with it, and what it is more pays for the period.
      select k.kind, k.cost, sum(k.cost) over () as total,
        greatest(least((reading ->> 'amount_paid')::numeric, (reading ->> 'total')::numeric), 0) as paid
      from sums s cross join lateral (
        values (0, s.other), (1, greatest(s.steps, 0)), (2, greatest(s.periods + least(s.steps, 0), 0))) k (kind, cost)
    ), shared as (
      select k.kind, case when k.total > 0 then round(k.paid * sum(k.cost) over (order by k.kind) / k.total)
        - round(k.paid * (sum(k.cost) over (order by k.kind) - k.cost) / k.total) else 0 end as money
      from kinds k
    )
    -- Differences of sums that are rounded, so that lines add up to their kind.
    select l.line, l.kind, case when l.whole > 0
      then round(s.money * l.so_far / l.whole) - round(s.money * (l.so_far - l.cost) / l.whole) else 0 end
    from (
      select x.*, sum(x.cost) over (partition by x.kind) as whole, sum(x.cost) over (partition by x.kind order by (x.line).place) as so_far
      from lines x) l join shared s on s.kind = l.kind;
end $$;
comment on function private.money_of_lines(jsonb) is
  'What was paid in money for each line of an invoice: of amount_paid, which balance and coupons are no part of, in proportion to what lines cost. kind 0: no plan''s; 1: a change of a plan in mid-period; 2: a plan''s period.';

create type private.money_return as (amount numeric, lines jsonb);
comment on type private.money_return is 'Money that came back at once. lines: {line id: amount} where it is said for what; null: not said.';

create function private.money_returns(kept private.stripe_objects) returns setof private.money_return
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with returned as (
      select r.amount, (r.returned).id, array(
        select o.id from private.stripe_objects o
        where o.object = 'credit_note' and o.reading ->> 'status' <> 'void'
          and (o.id = (r.returned).id or o.payment_refs && (kept).payment_refs
            and jsonb_path_exists(o.reading, '$.refunds[*] ? (@.refund_id == $id)', jsonb_build_object('id', (r.returned).id)))
        order by 1) as notes
      from private.returns_of(kept) r where r.is_out and r.amount > 0
    ), together as (
      select sum(r.amount) as amount, r.notes from returned r group by r.notes, case when r.notes = '{}' then r.id end
    )
    select t.amount, n.lines
    from together t
      left join lateral (
        -- What a credit note gave back is for what the note is for, as much of it as was given back by now.
        select jsonb_object_agg(l.id, round(l.amount * least(t.amount, l.total) / nullif(l.total, 0))) as lines
        from (
          select x.line ->> 'invoice_line_id' as id, sum(a.amount) as amount, sum(sum(a.amount)) over () as total
          from private.stripe_objects o cross join lateral jsonb_array_elements(o.reading -> 'lines') x (line)
            cross join lateral (
              select (x.line ->> 'amount')::numeric - coalesce((x.line ->> 'discount_amount')::numeric, 0)
                + coalesce((x.line ->> 'tax_amount')::numeric, 0) as amount) a
          where o.id = any (t.notes)
          group by 1) l
        where l.id is not null) n on true;
end $$;
comment on function private.money_returns(private.stripe_objects) is
  'What came back of an invoice, each refund, dispute and credit note by itself, with the lines that a credit note names; the refunds of one note together, so that its parts are its whole.';

create function private.returned_by_line(kept private.stripe_objects) returns setof private.returned_line
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_return private.money_return;
  v_ids text[];
  v_kinds integer[];
  v_money numeric[];
  v_back numeric[];
  v_pool numeric := 0;
  v_part numeric;
  v_place integer;
begin
  select array_agg((m.line).id order by (m.line).place), array_agg(m.kind order by (m.line).place),
    array_agg(m.money order by (m.line).place), array_agg(0::numeric)
  into v_ids, v_kinds, v_money, v_back
  from private.money_of_lines((kept).reading) m;
  for v_return in select r.* from private.money_returns(kept) r order by r.lines is null, r.amount desc loop
    -- Exactly one line, or all periods together, is what is most likely meant: of two that cost the same the one that is no plan's.
    select p into v_place from generate_subscripts(v_money, 1) p
    where v_return.lines is null and v_money[p] = v_return.amount and v_back[p] = 0 order by v_kinds[p], p limit 1;
    if v_return.lines is not null then
      for v_place in select p from generate_subscripts(v_ids, 1) p where v_return.lines ? v_ids[p] loop
        v_part := least((v_return.lines ->> v_ids[v_place])::numeric, v_money[v_place] - v_back[v_place]);
        v_back[v_place] := v_back[v_place] + v_part;
        v_return.amount := v_return.amount - v_part;
      end loop;
      -- What a note is for beside the invoice's lines, and more than they cost.
      v_pool := v_pool + greatest(v_return.amount, 0);
    elsif v_place is not null then
      v_back[v_place] := v_money[v_place];
    elsif v_return.amount = (select sum(v_money[p]) from generate_subscripts(v_money, 1) p where v_kinds[p] = 2) then
      v_back := array(select case when v_kinds[p] = 2 then v_money[p] else v_back[p] end from generate_subscripts(v_money, 1) p order by p);
    else
      v_pool := v_pool + v_return.amount;
    end if;
  end loop;
  return query
    with rest as (
      select r.kind, r.money, least(greatest(v_pool - (sum(r.money) over (order by r.kind) - r.money), 0), r.money) as back
      from (select v_kinds[p] as kind, sum(v_money[p] - v_back[p]) as money from generate_subscripts(v_money, 1) p group by 1) r
    )
    select l as line, case when v_back[l.place] = 0 then r.back
        when r.money > 0 then v_back[l.place] + (v_money[l.place] - v_back[l.place]) * r.back / r.money
        else v_back[l.place] end,
      case when v_money[l.place] = 0 then 0 when v_back[l.place] = 0 then r.money else v_money[l.place] end
    from private.lines_of_invoice((kept).reading) l join rest r on r.kind = v_kinds[l.place]
    order by l.place;
end $$;
comment on function private.returned_by_line(private.stripe_objects) is
  'What came back of an invoice, line by line: for the lines that a return names; else, when it is exactly what a line or the plan''s periods cost, for those; else for lines that are no plan''s first, then for changes in mid-period, and what is beyond them for the plan''s periods, in proportion.';

-- Credits =============================================================================================================
-- Credits that payments bring, and that refunds and disputes take back: each once, by what was bought, never by an event.

create type private.stripe_grant as (key text, amount bigint, reason text, lot_kind text, expires_at timestamptz);
comment on type private.stripe_grant is 'Credits that a payment brings: key is the ledger''s, which makes them come once.';

create function private.balance_applied(reading jsonb) returns numeric
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_total numeric := (reading ->> 'total')::numeric;
  v_before numeric := (reading ->> 'starting_balance')::numeric;
  v_after numeric := (reading ->> 'ending_balance')::numeric;
begin
  if v_total is null or v_total <= 0 then
    return 0;
  end if;
  -- Below zero is what the customer has with Stripe, above it what they owe.
  return greatest(0, least(v_total, case
    when v_before is null then v_total - (reading ->> 'amount_due')::numeric
    when v_after is null then -v_before
    else least(v_after, 0) - least(v_before, 0) end));
end $$;
comment on function private.balance_applied(jsonb) is
  'What an invoice took from the customer''s balance, by that before and after it: amount_due is less than the total also where that is too little to charge, or a credit note came before the payment. Only a reading that does not say the balances is taken by amount_due.';

create function private.paid_anew(reading jsonb, out part numeric, out whole numeric)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select
    case when l.periods > 0 then least(greatest(l.periods + l.prorations, 0), l.periods) else 1 end
      * case when b.total > 0 then b.total - private.balance_applied(reading) else 1 end,
    case when l.periods > 0 then l.periods else 1 end * case when b.total > 0 then b.total else 1 end
  into part, whole
  from (
    select sum(greatest(i.net, 0)) filter (where not i.is_proration) as periods,
      coalesce(sum(i.net) filter (where i.is_proration), 0) as prorations
    from private.lines_of_invoice(reading) i) l,
    (select (reading ->> 'total')::numeric as total) b;
end $$;
comment on function private.paid_anew(jsonb) is
  'The share of an invoice''s periods that is new money, as part of whole: with unused time of a period before and with the customer''s balance came credits already. Both sides are what lines cost after discounts and before taxes, and a negative item by hand is a lower price as a coupon is: none of these changes a share.';

create function private.stripe_grants_of(kept private.stripe_objects) returns setof private.stripe_grant
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_paid record;
begin
  if (kept).object = 'invoice' and v_reading ->> 'status' = 'paid' then
    select p.* into v_paid from private.paid_anew(v_reading) p;
    return query
      select 'stripe:line:' || l.id, n.credits, left(format('%s credits of the plan', p.name), 200), 'monthly',
        case when pp.credits_expire then l.ends_at end
      from private.lines_of_invoice(v_reading) l
        join public.plan_prices pp on pp.id = l.plan_price_id
        join public.plans p on p.id = pp.plan_id
        cross join lateral private.part_of_period(l, v_reading) s
        -- What costs nothing is paid by nothing.
        cross join lateral (
          select trunc(private.exact_share(pp.credits * l.quantity, s.part * case when l.amount > 0 then v_paid.part else v_paid.whole end,
            s.whole * v_paid.whole))::bigint) n (credits)
      where n.credits > 0
        -- The line of a trial costs nothing, though its price would. A coupon is not in the line's amount.
        and (l.amount > 0 or pp.amount = 0)
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
end $$;
comment on function private.stripe_grants_of(private.stripe_objects) is
  'What a paid object brings: for each line of an invoice that begins a period of a plan its price''s credits, in the share of the period that it is for and that was paid anew, whatever the reason of the invoice, not for changes in mid-period and trials; for a checkout the credits of its pack, as often as it was bought. By the prices that we know, never by metadata.';

create function private.grant_stripe_credits(owner uuid, grants private.stripe_grant[]) returns private.stripe_grant[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_amount bigint;
begin
  for v_place in 1..cardinality(grants) loop
    select e.amount into v_amount from private.credit_bookings e
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
end $$;
comment on function private.grant_stripe_credits(uuid, private.stripe_grant[]) is 'Sees to it that a user has been granted these. Answers them with the amounts in the ledger.';

create function private.exchanged_amount(exchange jsonb, returned numeric) returns numeric
language sql immutable security invoker set search_path = ''
return round(private.exact_share((exchange ->> 'charge_amount')::numeric,
  greatest(least(returned, (exchange ->> 'charged')::numeric), 0), (exchange ->> 'charged')::numeric));
comment on function private.exchanged_amount(jsonb, numeric) is
  'How much of a charge it is, in the charge''s currency, when so much of what it brought to our balance has left it again; at most all of it.';

create function private.returns_of(kept private.stripe_objects)
returns table (returned private.stripe_objects, is_out boolean, amount numeric)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_currency text := coalesce((kept).reading ->> 'currency', 'usd');
begin
  return query
  with found as (
    select o, o.reading -> 'exchange' as exchange, case o.object
        when 'refund' then o.reading ->> 'status' not in ('failed', 'canceled')
        when 'credit_note' then o.reading ->> 'status' <> 'void'
        -- Any other, an appeal or what Stripe adds one day, says that the money is with the bank.
        else o.reading ->> 'status' not in ('won', 'warning_needs_response', 'warning_under_review', 'warning_closed', 'prevented')
      end as is_out
    from private.stripe_objects o
    where o.payment_refs && (kept).payment_refs and o.payment_refs <> '{}' and o.object in ('refund', 'dispute', 'credit_note')
  ), summed as (
    -- Parts of one charge are differences of shares of the whole, so that they add up to it.
    select f.o, f.exchange, f.is_out, (f.exchange ->> 'returned')::numeric as own,
      sum((f.exchange ->> 'returned')::numeric) filter (where f.is_out)
        over (partition by (f.o).reading ->> 'charge_id' order by (f.o).reading -> 'created', (f.o).id) as so_far
    from found f
  )
  select s.o, s.is_out, case
    when (s.o).reading ->> 'currency' = v_currency then coalesce((s.o).reading ->> 'amount_returned', (s.o).reading ->> 'amount')::numeric
    when s.is_out and s.exchange ->> 'charge_currency' = v_currency and (s.exchange ->> 'charged')::numeric > 0
      then private.exchanged_amount(s.exchange, s.so_far) - private.exchanged_amount(s.exchange, s.so_far - s.own) end
  from summed s;
end $$;
comment on function private.returns_of(private.stripe_objects) is
  'What came back of an invoice or a checkout: each refund, dispute and credit note, whether the money is out, and how much of the payment it is, in the payment''s currency. In another currency it is the share that left our balance at Stripe of what the payment had brought to it; null: Stripe has not said, or not to our key. Currencies are never added. A bank''s inquiry (warning_*) moves no money. Of a credit note it is what went back outside of Stripe alone: refunds are said by themselves, what became the customer''s balance is still here and brings no credits when it pays, and what lowered an open invoice was never paid.';

create function private.returned_money(kept private.stripe_objects, out refunded bigint, out disputed bigint)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select
    coalesce(sum(r.amount) filter (where (r.returned).object <> 'dispute'), 0),
    coalesce(sum(r.amount) filter (where (r.returned).object = 'dispute'), 0)
  into refunded, disputed
  from private.returns_of(kept) r where r.is_out;
end $$;
comment on function private.returned_money(private.stripe_objects) is
  'How much of an invoice or a checkout went back, in its currency: refunds that did not fail, and credit notes outside of Stripe; disputes that are open or lost.';

create function private.clawback_target(credits bigint, returned bigint, paid bigint) returns bigint
language sql immutable security invoker set search_path = ''
return case when paid > 0 and returned > 0
  then round(private.exact_share(credits, least(returned, paid), paid))::bigint else 0 end;
comment on function private.clawback_target(bigint, bigint, bigint) is 'The share of the credits whose money went back, to the nearest whole one, halves up.';

create function private.clawback_of_lines(grants private.stripe_grant[], lines private.returned_line[]) returns bigint
language sql immutable security invoker set search_path = ''
return (
  select coalesce(sum(private.clawback_target(l.credits, l.part, l.whole)), 0)::bigint
  from (
    -- Lines of which the same share came back are rounded together.
    select sum(g.amount)::bigint as credits, round(b.part)::bigint as part, round(b.whole)::bigint as whole
    from unnest(lines) b join unnest(grants) g on g.key = 'stripe:line:' || (b.line).id group by 2, 3) l);
comment on function private.clawback_of_lines(private.stripe_grant[], private.returned_line[]) is
  'The credits of an invoice whose money went back: of each line''s credits the share of its money.';

create function private.project_returns(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_changed bigint;
  v_more bigint;
begin
  -- As of nearly all payments.
  if not exists (select from private.returns_of(kept)) then
    return false;
  end if;
  insert into public.refunds as r (id, user_id, payment_id, amount, currency, status, created_at)
  select o.id, owner, (kept).id, coalesce(o.reading ->> 'amount_returned', o.reading ->> 'amount')::bigint, o.reading ->> 'currency',
    left(case o.object when 'refund' then o.reading ->> 'status' else case when b.is_out then 'succeeded' else 'canceled' end end, 40),
    private.stripe_time(o.reading, 'created')
  from private.returns_of(kept) b cross join lateral (select (b.returned).*) o
  where o.object <> 'dispute' and o.deleted_at is null and (o.object = 'refund' or (o.reading ->> 'amount_returned')::bigint > 0)
  on conflict on constraint refunds_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(r) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_changed = row_count;
  insert into public.disputes as d (id, user_id, payment_id, amount, currency, status, reason, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', left(o.reading ->> 'status', 40),
    left(o.reading ->> 'reason', 80), private.stripe_time(o.reading, 'created')
  from private.returns_of(kept) b cross join lateral (select (b.returned).*) o
  where o.object = 'dispute' and o.deleted_at is null
  on conflict on constraint disputes_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, reason = excluded.reason, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(d) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_more = row_count;
  perform private.warn_of_currency(kept, b.returned) from private.returns_of(kept) b where b.is_out and b.amount is null;
  return v_changed + v_more > 0;
end $$;
comment on function private.project_returns(private.stripe_objects, uuid) is
  'The rows of the refunds, disputes and credit notes of a payment: of credit notes those that gave money back outside of Stripe, as refunds. An alert for what cannot be compared with the payment.';

create function private.warn_of_currency(paid private.stripe_objects, returned private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_currency_unknown' and s.user_id is null and s.dedupe_key = left((returned).id, 200)) then
    return;
  end if;
  perform private.raise_security_event(
    type => 'stripe_currency_unknown', severity => 'medium', user_id => null, dedupe_key => left((returned).id, 200),
    details => jsonb_build_object(
      'payment_id', (paid).id, 'currency', (paid).reading ->> 'currency', 'object', (returned).object, 'id', (returned).id,
      'returned_amount', (returned).reading -> 'amount', 'returned_currency', (returned).reading ->> 'currency'));
end $$;
comment on function private.warn_of_currency(private.stripe_objects, private.stripe_objects) is
  'Says once that money of a payment is back in another currency, and that nothing says what share of it: nothing was taken back for it.';

create function private.move_clawback(owner uuid, payment_id text, target bigint, grants private.stripe_grant[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
    select e.amount into v_amount from private.credit_bookings e where e.user_id = owner and e.idempotency_key = v_key || v_n;
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
  from private.credit_bookings e join private.credit_lots l on l.id = e.id
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
end $$;
comment on function private.move_clawback(uuid, text, bigint, private.stripe_grant[]) is
  'Moves what was taken back of a payment''s credits to where it must be, by one entry at most. First go the payment''s own credits, as far as they are not spent, then any others; the balance may fall below zero. Credits that come back expire as the payment''s do.';

-- Rows ================================================================================================================
-- What Stripe's objects come to here: rows of subscriptions, payments, refunds and disputes, and credits. Everything in this part is
-- a function of what is stored in private.stripe_objects; nothing here knows of events.

create function private.project_stripe_object(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_paid record;
  v_changed boolean := false;
  v_is_paid_otherwise boolean;
begin
  if (kept).object in ('refund', 'dispute', 'credit_note') then
    -- They are the payment's business, and may not name the customer.
    for v_paid in
      select o as kept, c.user_id from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
      where o.payment_refs && (kept).payment_refs and o.payment_refs <> '{}' and o.object in ('invoice', 'checkout_session')
    loop
      owner := v_paid.user_id;
      continue when private.is_stripe_mismatch(v_paid.kept, owner);
      -- One that does not name its customer has not brought the customer's lock, under which subscriptions are made.
      perform private.lock_stripe_objects(array[(v_paid.kept).customer_id]);
      v_is_paid_otherwise := private.project_payment(v_paid.kept, owner);
      if private.project_subscription_of(v_paid.kept, owner) or v_is_paid_otherwise then
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
      where (c.session_id = (kept).id or c.id = private.uuid_or_null((kept).reading ->> 'checkout_id'))
        and c.user_id = owner and c.closed_at is null and (kept).reading ->> 'status' in ('complete', 'expired');
      return private.project_payment(kept, owner);
    when 'invoice' then
      perform private.warn_of_stuck_invoice(kept, owner);
      v_changed := private.project_payment(kept, owner);
      return private.project_subscription_of(kept, owner) or v_changed;
    else
      return v_changed;
  end case;
end $$;
comment on function private.project_stripe_object(private.stripe_objects, uuid) is
  'Makes what follows from one stored object of this user''s. Answers whether something changed; null when nobody owns it. The caller holds the lock.';

create function private.project_customer_deletion(kept private.stripe_objects) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.project_customer_deletion(private.stripe_objects) is
  'A customer that is gone takes its subscriptions along; the user stays, and the next purchase makes another customer. One that is there after all, by a newer reading, brings them back.';

create function private.forget_stripe_customer(customer_id text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.apply_stripe_readings(jsonb_build_array(jsonb_build_object(
    'object', 'customer', 'id', c.id, 'customer_id', c.id, 'livemode', c.livemode, 'deleted', true, 'read_at', clock_timestamp())))
  from private.stripe_customers c where c.id = forget_stripe_customer.customer_id;
end $$;
comment on function private.forget_stripe_customer(text) is
  'For operators: as if Stripe had said that this customer is deleted, for one that Stripe will never know again. A later reading that says otherwise wins.';

-- Paid periods ---------------------------------------------------------------------------------------------------------

create function private.save_paid_periods(kept private.stripe_objects, lines private.returned_line[]) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_periods private.paid_periods[] := array(
    select row((kept).id, (b.line).id, (kept).subscription_id, (b.line).plan_id, (b.line).plan_price_id, (b.line).starts_at,
      (b.line).ends_at, (b.line).is_proration, (b.line).amount < 0,
      case when (b.line).amount < 0
        -- Unused time goes with what was bought in its place.
        then coalesce((select bool_and(o.whole > 0 and o.part >= o.whole) from unnest(lines) o where (o.line).plan_id is not null and (o.line).amount > 0), false)
        else b.whole > 0 and b.part >= b.whole end)::private.paid_periods
    from unnest(lines) b join public.plan_prices pp on pp.id = (b.line).plan_price_id
    where (kept).reading ->> 'status' = 'paid' and (b.line).ends_at > (b.line).starts_at
      -- The line of a trial is no payment. A coupon is not in the line's amount.
      and ((b.line).amount <> 0 or pp.amount = 0));
  v_removed bigint;
begin
  delete from private.paid_periods p
  where p.payment_id = (kept).id and not exists (select from unnest(v_periods) n where n.line_id = p.line_id);
  get diagnostics v_removed = row_count;
  insert into private.paid_periods as p select n.* from unnest(v_periods) n
  on conflict on constraint paid_periods_pkey do update set
    subscription_id = excluded.subscription_id, plan_id = excluded.plan_id, plan_price_id = excluded.plan_price_id,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, is_proration = excluded.is_proration, is_credit = excluded.is_credit,
    is_returned = excluded.is_returned
  where p is distinct from excluded;
  return found or v_removed > 0;
end $$;
comment on function private.save_paid_periods(private.stripe_objects, private.returned_line[]) is
  'The rows of the plan''s lines of an invoice that is paid: none of any other. Answers whether they say something new.';

create function private.is_item_returned(subscription_id text, item jsonb, plan_price_id text) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- By the periods of its own price; when it has none, as after a change, by those that it took the place of.
  return coalesce((
    select coalesce(bool_and(p.is_returned) filter (where p.plan_price_id = is_item_returned.plan_price_id), bool_and(p.is_returned))
    from private.paid_periods p
    where p.subscription_id = is_item_returned.subscription_id and not p.is_credit
      and p.starts_at < private.stripe_time(item, 'current_period_end') and p.ends_at > private.stripe_time(item, 'current_period_start')
      -- What a change in mid-period cost is no payment of the period, unless nothing else is.
      and not (p.is_proration and private.has_base(p))), false);
end $$;
comment on function private.is_item_returned(text, jsonb, text) is
  'Whether all that was paid for the current period of an item is back with the customer. Not when nothing was: a trial, a period that a coupon or the balance paid.';

-- Subscriptions --------------------------------------------------------------------------------------------------------

create function private.project_subscription(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
  v_row := private.with_items(v_row, v_reading -> 'items');
  v_row.is_collection_paused := coalesce((v_reading ->> 'is_paused')::boolean, false) and v_row.status in ('active', 'trialing');
  v_row := private.with_debt(v_row);
  v_row.is_returned := v_row.is_returned or private.is_last_returned(v_row);
  -- Stripe goes on to the next period all the same, and collects nothing for it.
  if v_row.is_collection_paused and private.is_period_unpaid(v_row) then
    v_row.status := 'paused';
  end if;
  return private.save_subscription(v_row);
end $$;
comment on function private.project_subscription(private.stripe_objects, uuid) is
  'The row of a subscription: the best plan among its items, the latest period that carries a plan, canceled when it or its customer is gone, paused when the invoice of its period is not collected.';

create function private.with_items(subscription public.subscriptions, items jsonb) returns public.subscriptions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  with known as (
    select i.item, pp.id as plan_price_id, pp.plan_id, p.position, pp.amount,
      pp.id is not null and private.is_item_returned((subscription).id, i.item, pp.id) as is_returned
    from jsonb_array_elements(items) i (item)
      left join private.stripe_prices s on s.id = i.item ->> 'price_id'
      left join public.plan_prices pp on pp.id = s.plan_price_id
      left join public.plans p on p.id = pp.plan_id
  )
  select k.plan_id, k.plan_price_id, coalesce((k.item ->> 'quantity')::bigint, 1), k.is_returned
  into subscription.plan_id, subscription.plan_price_id, subscription.quantity, subscription.is_returned
  -- Of a plan whose quantity is 0 nothing is sold.
  from known k where k.plan_price_id is not null order by (k.item ->> 'quantity')::bigint is not distinct from 0, k.is_returned, k.position desc, k.amount desc, k.plan_price_id limit 1;
  subscription.quantity := coalesce(subscription.quantity, 1);
  subscription.is_returned := coalesce(subscription.is_returned, false);
  select private.stripe_time(i.item, 'current_period_start'), private.stripe_time(i.item, 'current_period_end')
  into subscription.current_period_start, subscription.current_period_end
  from jsonb_array_elements(items) i (item) left join private.stripe_prices s on s.id = i.item ->> 'price_id'
  order by s.plan_price_id is null, i.item -> 'current_period_end' desc limit 1;
  return subscription;
end $$;
comment on function private.with_items(public.subscriptions, jsonb) is
  'What the items say: the best plan among those whose money is not back with the customer, else among all; the latest period that carries a plan.';

create function private.unpaid_invoices(subscription_id text)
returns table (id text, status text, total bigint, billing_reason text, starts_at timestamptz, ends_at timestamptz, is_stuck boolean)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select o.id, o.reading ->> 'status', (o.reading ->> 'total')::bigint, o.reading ->> 'billing_reason', min(l.starts_at), max(l.ends_at),
      private.is_stuck_invoice(o.reading)
    from private.stripe_objects o cross join lateral private.lines_of_invoice(o.reading) l
    where o.subscription_id = unpaid_invoices.subscription_id and o.object = 'invoice' and o.deleted_at is null
      and o.reading ->> 'status' <> 'paid' and l.plan_id is not null and l.amount > 0
    group by o.id
    having bool_or(not l.is_proration) or o.reading ->> 'billing_reason' in ('subscription_create', 'quote_accept');
end $$;
comment on function private.unpaid_invoices(text) is
  'The invoices of a subscription that are for periods of a plan and are not paid: draft, open, void and uncollectible alike; with the time that they are for.';

create function private.is_stuck_invoice(reading jsonb) returns boolean
language sql immutable security invoker set search_path = ''
return reading ->> 'status' = 'draft'
  and (reading ->> 'last_finalization_error' is not null or coalesce(reading ->> 'auto_advance' = 'false', false));
comment on function private.is_stuck_invoice(jsonb) is 'A draft that Stripe could not make final, or that it is told to leave alone: nobody is asked to pay it.';

create function private.is_period_unpaid(subscription public.subscriptions, is_stuck boolean default null) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return not exists (
      select from private.paid_periods p
      where p.subscription_id = (subscription).id and not p.is_credit and not p.is_proration
        and p.starts_at < (subscription).current_period_end and p.ends_at > (subscription).current_period_start)
    and exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.starts_at < (subscription).current_period_end and i.ends_at > (subscription).current_period_start
        and i.is_stuck = coalesce(is_period_unpaid.is_stuck, i.is_stuck));
end $$;
comment on function private.is_period_unpaid(public.subscriptions, boolean) is
  'Whether the current period of a subscription has an invoice, is_stuck: one that is stuck, and none that is paid.';

create function private.is_last_returned(subscription public.subscriptions) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return private.is_period_unpaid(subscription)
    and exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.status in ('draft', 'open') and i.starts_at < (subscription).current_period_end and i.ends_at > (subscription).current_period_start)
    and coalesce((
      select bool_and(l.is_returned)
      from (
        select p.is_returned from private.paid_periods p
        where p.subscription_id = (subscription).id and not p.is_credit and p.starts_at < (subscription).current_period_start
          and not (p.is_proration and private.has_base(p))
        order by p.ends_at desc fetch first 1 row with ties) l), false);
end $$;
comment on function private.is_last_returned(public.subscriptions) is
  'Whether the current period is still to be paid, and the money of the last that was paid is back: such a plan has nothing that could go on for a grace, or while the bank has the payment.';

create function private.with_debt(subscription public.subscriptions) returns public.subscriptions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  subscription.is_begun := subscription.trial_start is not null
    or exists (select from private.paid_periods p where p.subscription_id = (subscription).id and not p.is_credit)
    or not exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.total > 0 and (i.billing_reason in ('subscription_create', 'quote_accept')
        or i.starts_at <= (subscription).started_at + interval '1 day'));
  subscription.is_unfinalized := subscription.status in ('active', 'trialing') and not subscription.is_collection_paused
    and private.is_period_unpaid(subscription, is_stuck => true);
  if subscription.status in ('past_due', 'unpaid') or subscription.is_unfinalized then
    -- What was left open before a later one was paid is another debt, and had its grace.
    select coalesce(min(i.due_at) filter (where i.created > coalesce(i.paid, 0)),
      greatest(max(i.due_at), (subscription).current_period_start), (subscription).started_at)
    into subscription.past_due_since
    from (
      select coalesce(private.stripe_time(o.reading, 'due_at'), private.stripe_time(o.reading, 'created')) as due_at,
        (o.reading ->> 'created')::bigint as created, o.reading ->> 'status' as status, o.deleted_at,
        max((o.reading ->> 'created')::bigint) filter (where o.reading ->> 'status' = 'paid') over () as paid
      from private.stripe_objects o where o.subscription_id = (subscription).id and o.object = 'invoice') i
    where (i.status = 'open' or (subscription).is_unfinalized and i.status = 'draft') and i.deleted_at is null;
  end if;
  return subscription;
end $$;
comment on function private.with_debt(public.subscriptions) is
  'Whether anything was ever paid, or free; whether the invoice of its period is stuck; since when it owes what it owes.';

create function private.warn_of_stuck_invoice(kept private.stripe_objects, owner uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if (kept).subscription_id is not null and (kept).deleted_at is null and (kept).reading ->> 'last_finalization_error' is not null
    and private.is_stuck_invoice((kept).reading) and not exists (
      select from public.security_events e
      where e.type = 'stripe_invoice_unfinalized' and e.user_id is null and e.dedupe_key = left((kept).id, 200)) then
    perform private.raise_security_event(
      type => 'stripe_invoice_unfinalized', severity => 'medium', user_id => null, dedupe_key => left((kept).id, 200),
      details => jsonb_build_object('invoice_id', (kept).id, 'subscription_id', (kept).subscription_id, 'user_id', owner,
        'error', left((kept).reading ->> 'last_finalization_error', 200)));
  end if;
end $$;
comment on function private.warn_of_stuck_invoice(private.stripe_objects, uuid) is
  'Says once of an invoice that Stripe could not make final: nobody is asked to pay it, and its period is not paid.';

create function private.project_subscription_of(invoice private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_subscription private.stripe_objects;
begin
  -- One that has no row yet gets it in its own turn.
  select o.* into v_subscription
  from private.stripe_objects o join public.subscriptions s on s.id = o.id
  where o.id = (invoice).subscription_id and o.object = 'subscription';
  return v_subscription.id is not null and private.project_subscription(v_subscription, owner);
end $$;
comment on function private.project_subscription_of(private.stripe_objects, uuid) is
  'The row of an invoice''s subscription again: the invoice says since when it is owed, and whether its period is paid for. Answers whether it says something new.';

create function private.save_subscription(subscription public.subscriptions) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
    is_begun = excluded.is_begun, is_unfinalized = excluded.is_unfinalized,
    updated_at = excluded.updated_at
  where to_jsonb(s) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  return found;
end $$;
comment on function private.save_subscription(public.subscriptions) is 'Writes a row if it says something new. Answers whether it did.';

-- Payments -------------------------------------------------------------------------------------------------------------

create function private.payment_of_invoice(kept private.stripe_objects) returns public.payments
language plpgsql stable security invoker set search_path = ''
as $$
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
  from private.lines_of_invoice(v_reading) l
    join public.plan_prices pp on pp.id = l.plan_price_id
    join public.plans p on p.id = pp.plan_id
  order by l.is_proration, p.position desc, pp.id limit 1;
  v_row.description := coalesce(v_row.description, 'Subscription');
  return v_row;
end $$;
comment on function private.payment_of_invoice(private.stripe_objects) is
  'What an invoice says as a payment; null for a draft, and for one that is of no subscription.';

create function private.payment_of_session(kept private.stripe_objects) returns public.payments
language plpgsql stable security invoker set search_path = ''
as $$
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
end $$;
comment on function private.payment_of_session(private.stripe_objects) is
  'What a complete checkout of a credit pack says as a payment: processing while a delayed method is at it, failed when that failed. Null for any other session.';

create function private.project_payment(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_row public.payments := case (kept).object when 'invoice' then private.payment_of_invoice(kept) else private.payment_of_session(kept) end;
  v_returned record;
  v_grants private.stripe_grant[];
  v_lines private.returned_line[] := '{}';
  v_changed boolean;
begin
  if v_row.id is null then
    return false;
  end if;
  v_grants := private.grant_stripe_credits(owner, array(select g from private.stripe_grants_of(kept) g));
  v_row.user_id := owner;
  v_row.credits := (select coalesce(sum(g.amount), 0) from unnest(v_grants) g);
  select r.* into v_returned from private.returned_money(kept) r;
  v_row.amount_refunded := v_returned.refunded;
  v_row.amount_disputed := v_returned.disputed;
  if (kept).object = 'invoice' then
    v_lines := array(select l from private.returned_by_line(kept) l);
    v_row.credits_clawed_back := private.clawback_of_lines(v_grants, v_lines);
  else
    v_row.credits_clawed_back := private.clawback_target(v_row.credits, v_returned.refunded + v_returned.disputed, v_row.amount);
  end if;
  v_changed := private.save_payment(v_row);
  v_changed := private.save_paid_periods(kept, v_lines) or v_changed;
  v_changed := private.project_returns(kept, owner) or v_changed;
  perform private.move_clawback(owner, v_row.id, v_row.credits_clawed_back, v_grants);
  return v_changed;
end $$;
comment on function private.project_payment(private.stripe_objects, uuid) is
  'The row of an invoice or of a checkout of a pack, with the credits that it brings, the refunds and disputes of it, and what these take back.';

create function private.save_payment(payment public.payments) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.save_payment(public.payments) is 'Writes a row if it says something new. Answers whether it did.';

-- What users are told, and when =======================================================================================
-- What users are told of their payments, how often who owes one is reminded, and how long what a paid plan held is kept.

insert into private.settings (key, value, rule, description) values
  ('privacy.days_after_cancellation', '30', '{"type": "integer", "minimum": 0, "maximum": 3650}', 'Days after a paid plan has ended for which what it held is kept.')
on conflict (key) do nothing;

-- Notices --------------------------------------------------------------------------------------------------------------

create table private.billing_notices (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) between 1 and 1500),
  is_mailed boolean not null default true
);
comment on table private.billing_notices is
  'What users are told, each as a row. Without its row nobody is told. {pay_url}, {plan}, {amount}, {date} and {description} are filled in, as far as they are known.';
comment on column private.billing_notices.is_mailed is 'Also by mail, whatever notifications.mail_types says.';
revoke all on private.billing_notices from anon, authenticated, service_role;
insert into private.billing_notices (id, title, body) values
  ('payment_failed', 'Your payment did not go through', 'We could not collect {amount} for {description}. Pay it or choose another way to pay here: {pay_url}'),
  ('payment_action_required', 'Your bank asks you to confirm a payment', 'Your bank wants you to confirm {amount} for {description}. You can do it here: {pay_url}'),
  ('payment_recovered', 'Your payment has arrived', 'We have received {amount} for {description}. Everything goes on as before.'),
  ('trial_ends', 'Your trial ends soon', 'Your trial of {plan} ends on {date}, and your first payment follows. You can cancel before that day in the billing portal.'),
  ('subscription_ended', 'Your subscription has ended', 'Your subscription of {plan} ended on {date}. You can subscribe again at any time: {pay_url}'),
  ('refunded', 'You have been refunded', 'We have sent {amount} back to you for {description}. Credits that it paid for are taken back in proportion.'),
  ('dispute_opened', 'Your bank disputes a payment', 'Your bank asks for {amount} back for {description}. The credits that it paid for are on hold until this is settled.'),
  ('dispute_won', 'A disputed payment stands', 'The dispute about {amount} for {description} is settled, and your credits are back.'),
  ('dispute_lost', 'A disputed payment went back', 'The dispute about {amount} for {description} is settled: your bank has the money back, and the credits that it paid for are gone.'),
  ('dunning_reminder', 'A payment is still open', 'Your payment for {plan} is overdue. You keep it until {date}, and longer if you pay here: {pay_url}'),
  ('dunning_last_day', 'Your plan ends tomorrow', 'Your payment for {plan} is still missing, and {plan} ends on {date}. Pay here to keep it: {pay_url}'),
  ('dunning_access_ended', 'Your plan is on hold', 'Your payment for {plan} did not arrive, so its features are off. They are back as soon as it is paid: {pay_url}')
on conflict (id) do nothing;

create table private.billing_notices_sent (
  user_id uuid not null references auth.users (id) on delete cascade,
  dedupe_key text not null check (length(dedupe_key) between 1 and 400),
  notice text not null check (length(notice) <= 60),
  sent_at timestamptz not null default now(),
  primary key (user_id, dedupe_key)
);
comment on table private.billing_notices_sent is 'What users were told, so that nobody is told twice, however often the reason is read again.';
revoke all on private.billing_notices_sent from anon, authenticated, service_role;

create function private.fill_placeholders(template text, data jsonb) returns text
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_text text := template;
  v_value record;
begin
  for v_value in select d.key, d.value from jsonb_each_text(data) d loop
    v_text := replace(v_text, '{' || v_value.key || '}', coalesce(v_value.value, ''));
  end loop;
  return regexp_replace(v_text, '\{[a-z_]+\}', '', 'g');
end $$;
comment on function private.fill_placeholders(text, jsonb) is 'The template with each {key} replaced by its value; what has none leaves nothing.';

create function private.notify_billing(user_id uuid, notice text, dedupe_key text, data jsonb default '{}') returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
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
  perform private.tell_user(notify_billing.user_id, v_type, v_title, v_body, v_data,
    v_notice.is_mailed or private.setting('notifications.mail_types') ? v_type);
  return true;
end $$;
comment on function private.notify_billing(uuid, text, text, jsonb) is
  'Tells a user something of private.billing_notices, once for a dedupe_key, as a notification of the type billing_<notice> and by mail. True when it did. A notice without a row is told to nobody, and may be told later when there is one.';

-- Dunning --------------------------------------------------------------------------------------------------------------

create table private.dunning_steps (
  position integer primary key check (position > 0),
  after_days integer not null check (after_days >= 0),
  notice text not null references private.billing_notices (id) on delete cascade
);
comment on table private.dunning_steps is
  'Reminders to who owes a payment: days after it was due, and what they are told. See billing.grace_days for when access ends.';
create index dunning_steps_notice_idx on private.dunning_steps (notice);
revoke all on private.dunning_steps from anon, authenticated, service_role;
-- By the seven days of billing.grace_days; who changes those changes these.
insert into private.dunning_steps (position, after_days, notice) values
  (1, 3, 'dunning_reminder'), (2, 6, 'dunning_last_day'), (3, 7, 'dunning_access_ended')
on conflict (position) do nothing;

create function private.send_dunning() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_days integer := (private.setting('billing.grace_days'))::integer;
  v_due record;
  v_sent integer := 0;
begin
  for v_due in
    select s.id, s.user_id, o.since, p.name as plan, d.position, d.notice
    from public.subscriptions s
      left join public.plans p on p.id = s.plan_id
      cross join lateral (select private.grace_starts_at(s) as since) o
      -- The latest step alone: who missed some, because nothing ran, is not told all of them at once.
      cross join lateral (
        select x.position, x.notice from private.dunning_steps x
        where o.since + make_interval(days => x.after_days) <= now()
        order by x.after_days desc, x.position desc limit 1) d
    where (s.status = 'past_due' or s.is_unfinalized) and s.past_due_since is not null
      -- Who never paid, or has it back, has nothing to keep.
      and (s.is_begun and not s.is_returned or d.notice = 'dunning_access_ended') and not exists (
      select from private.billing_notices_sent n
      where n.user_id = s.user_id and n.dedupe_key = private.dunning_key(s.id, o.since, d.position))
    order by s.user_id, s.id
  loop
    begin
      if private.notify_billing(v_due.user_id, v_due.notice, private.dunning_key(v_due.id, v_due.since, v_due.position),
          jsonb_build_object('subscription_id', v_due.id, 'plan', v_due.plan,
            'date', to_char((v_due.since + make_interval(days => v_days)) at time zone 'UTC', 'YYYY-MM-DD'))) then
        v_sent := v_sent + 1;
      end if;
    exception when others then
      -- One who cannot be told must not keep the others from it; the next run tries again.
      raise warning 'the owner of % cannot be reminded: % %', v_due.id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_sent;
end $$;
comment on function private.send_dunning() is
  'Reminds everybody whose subscription is past due of the payment, by private.dunning_steps, each step once for a debt. A job runs it. Answers how many were told.';

create function private.dunning_key(subscription_id text, past_due_since timestamptz, "position" integer) returns text
language sql immutable security invoker set search_path = ''
return 'dunning:' || dunning_key.subscription_id || ':' || extract(epoch from dunning_key.past_due_since)::bigint || ':' || dunning_key.position;
comment on function private.dunning_key(text, timestamptz, integer) is 'A step of a debt: the next debt of the subscription begins anew.';

-- Retention ------------------------------------------------------------------------------------------------------------

create table private.retention_clocks (
  user_id uuid primary key references auth.users (id) on delete cascade,
  started_at timestamptz not null,
  ends_at timestamptz not null check (ends_at >= started_at)
);
comment on table private.retention_clocks is
  'Users whose paid plan has ended, and until when what it held is kept. The row goes when they pay again. Who deletes by it asks private.entitlement once more.';
create index retention_clocks_ends_at_idx on private.retention_clocks (ends_at);
revoke all on private.retention_clocks from anon, authenticated, service_role;

create function private.keep_retention_clock(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.keep_retention_clock(uuid) is
  'Starts a user''s clock at the moment their paid plan ended, and takes it away when they pay. A clock that runs goes on as it is.';

create function private.start_retention_clocks() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.start_retention_clocks() is
  'Starts the clocks of those whose paid plan has ended by time alone. A job runs it; the clock starts at the end itself, whenever it runs. Answers how many users it looked at.';

-- What the clock starts ------------------------------------------------------------------------------------------------

create function private.call_apply_stripe_events() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (select from private.stripe_events e where e.state = 'waiting' and e.next_attempt_at <= now()) then
    return private.call_jobs_function('apply-stripe-events');
  end if;
  return null;
end $$;
comment on function private.call_apply_stripe_events() is 'Calls the application of Stripe''s events when one waits.';

create function private.call_reconcile_stripe() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Also when the last customer's user is gone: their subscription may be there.
  if exists (select from private.stripe_customers) or exists (select from private.stripe_changes) then
    return private.call_jobs_function('reconcile-stripe');
  end if;
  return null;
end $$;
comment on function private.call_reconcile_stripe() is 'Calls the comparison with Stripe when somebody ever was a customer.';

-- Who is told of what =================================================================================================
-- What users are told of their payments: from what was read, each thing once. What is told, and how, is in private.billing_notices.

create function private.currency_exponent(currency text) returns integer
language sql immutable security invoker set search_path = ''
return case
  when currency_exponent.currency in (
    'bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf', 'vnd', 'vuv', 'xaf', 'xof', 'xpf') then 0
  when currency_exponent.currency in ('bhd', 'jod', 'kwd', 'omr', 'tnd') then 3
  else 2 end;
comment on function private.currency_exponent(text) is
  'How many digits of an amount of Stripe''s are after the point: the one list of them. ISK and UGX have none in truth, and two at Stripe, which are always 00 (docs.stripe.com/currencies, special cases); HUF and TWD have two, but for payouts.';

create function private.money_text(amount bigint, currency text) returns text
language sql immutable security invoker set search_path = ''
return case
  when money_text.currency in ('isk', 'ugx') and amount % 100 = 0 then (amount / 100)::text
  else round(amount / power(10::numeric, private.currency_exponent(money_text.currency)), private.currency_exponent(money_text.currency))::text
  end || ' ' || upper(money_text.currency);
comment on function private.money_text(bigint, text) is 'An amount of the smallest unit as people write it, such as 12.00 USD, 1200 JPY or 5 ISK.';

create function private.tell_of_subscription(subscription_id text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
  elsif v_row.status = 'unpaid' and v_row.past_due_since > now() - interval '60 days'
    -- What is paid otherwise goes on.
    and not exists (select from private.paid_spans(v_row.id) p where p.ends_at > now()) and not exists (
      -- The end of the grace may have told them of this debt.
      select from private.billing_notices_sent n
      where n.user_id = v_row.user_id and n.notice = 'dunning_access_ended' and starts_with(n.dedupe_key, format('dunning:%s:', v_row.id))
        and n.sent_at >= v_row.past_due_since) then
    -- The key of the step that says so at the end of the grace, which then has nothing more to say.
    perform private.notify_billing(v_row.user_id, 'dunning_access_ended',
      private.dunning_key(v_row.id, private.grace_starts_at(v_row),
        coalesce((select min(d.position) from private.dunning_steps d where d.notice = 'dunning_access_ended'), 0)),
      v_data || jsonb_build_object('date', to_char(now() at time zone 'UTC', 'YYYY-MM-DD')));
  end if;
end $$;
comment on function private.tell_of_subscription(text) is 'A trial that ends within three days, and goes on to be paid; a subscription that has ended, within the week; one that Stripe gave up as unpaid, within sixty days of the debt, unless the end of the grace was told.';

create function private.tell_of_payment(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
end $$;
comment on function private.tell_of_payment(private.stripe_objects) is
  'Each failed try to collect an invoice, with where to pay it; that it was paid after all, to those who were told that it was not; a delayed payment of a pack that failed.';

create function private.tell_of_returns(payment_refs text[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
    where o.payment_refs && tell_of_returns.payment_refs and o.payment_refs <> '{}'
      and coalesce(r.created_at, d.created_at) > now() - interval '120 days'
    order by o.id
  loop
    v_data := jsonb_build_object('payment_id', v_row.payment_id, 'description', v_row.description,
      'amount', private.money_text(v_row.amount, v_row.currency));
    if v_row.object <> 'dispute' then
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
end $$;
comment on function private.tell_of_returns(text[]) is
  'Money that went back, also by a credit note; disputes that were opened (a security event, too), won or lost, of these payments, within 120 days.';

create function private.tell_of_stripe_object(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
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
      perform private.tell_of_returns((kept).payment_refs);
  end case;
end $$;
comment on function private.tell_of_stripe_object(private.stripe_objects) is
  'Tells the owner what follows from an object, after its rows were made. What they were told once they are not told again, whoever reads it however often.';

-- policies/62_portfolio.sql ===========================================================================================

create policy "owners see their holdings"
  on public.holdings for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their trades"
  on public.trades for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see what their portfolio leaves out"
  on public.portfolio_skipped_rows for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see what their portfolio was worth"
  on public.portfolio_snapshots for select to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/64_billing.sql =============================================================================================

create policy "everybody signed in sees the prices of plans"
  on public.plan_prices for select to authenticated
  using (true);

create policy "everybody signed in sees the credit packs"
  on public.credit_packs for select to authenticated
  using (true);

create policy "owners see their subscriptions"
  on public.subscriptions for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their payments"
  on public.payments for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their refunds"
  on public.refunds for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their disputes"
  on public.disputes for select to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/65_strategies.sql ==========================================================================================

create policy "owners see the tags of their markets"
  on public.trade_tag_rules for select to authenticated
  using (user_id = (select private.my_user_id()));
