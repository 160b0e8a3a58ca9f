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
