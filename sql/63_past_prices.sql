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
