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
