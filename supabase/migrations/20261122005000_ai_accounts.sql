-- Written by hand, because pg-delta would throw the old tables away with what is in them: credits and counters of an account
-- move into one row, running calls into a table of their own. The rest of this change is in the next migration.
-- squawk-ignore-file renaming-table, ban-drop-table, adding-field-with-default
set lock_timeout = '5s';
set statement_timeout = '60s';

do $$
begin
  -- Roles belong to the cluster, not to one database.
  if not exists (select from pg_roles where rolname = 'palisade_gateway') then
    create role palisade_gateway with login noinherit;
  end if;
end $$;
alter role palisade_gateway set statement_timeout = '4s';
alter role palisade_gateway set idle_in_transaction_session_timeout = '5s';

create table private.meters (
  slot integer primary key check (slot between 1 and 200),
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('minute', 'day', 'month', 'total')),
  is_held boolean not null,
  is_open_without_row boolean not null,
  unique (meter, period)
);
insert into private.meters (slot, meter, period, is_held, is_open_without_row) values
  (1, 'ai_requests', 'minute', false, true),
  (2, 'chat_completions_requests', 'minute', false, true),
  (3, 'embeddings_requests', 'minute', false, true),
  (4, 'images_generations_requests', 'minute', false, true),
  (5, 'ai_concurrency', 'total', true, true),
  (6, 'ai_calls', 'day', true, false),
  (7, 'ai_tokens', 'month', true, false),
  (8, 'ai_spend_micros', 'month', true, true),
  (9, 'chat_sessions', 'day', false, false),
  (10, 'psychology_tests', 'month', false, false)
on conflict (slot) do nothing;

create type private.meter_counts as (used bigint[], held bigint[], resets_at timestamptz[]);

alter table private.credit_accounts rename to accounts;
alter table private.accounts rename constraint credit_accounts_pkey to accounts_pkey;
alter table private.accounts rename constraint credit_accounts_user_id_fkey to accounts_user_id_fkey;
alter table private.accounts drop constraint credit_accounts_balance_check;
alter table private.accounts drop constraint credit_accounts_check;
alter table private.accounts drop constraint credit_accounts_held_check;
alter table private.accounts add column clawed_back bigint not null default 0;
alter table private.accounts add column unburned bigint not null default 0;
alter table private.accounts add column next_expiry_at timestamptz not null default 'infinity';
alter table private.accounts add column counts private.meter_counts not null default row('{}', '{}', '{}')::private.meter_counts;

update private.accounts a set counts = row(c.used, c.held, c.resets_at)::private.meter_counts
from (
  select o.user_id, array_agg(u.used order by m.slot) as used, array_agg(u.held order by m.slot) as held,
    array_agg(u.resets_at order by m.slot) as resets_at
  from (select distinct o.user_id from private.usage_counters o) o
    cross join private.meters m
    left join private.usage_counters u on u.user_id = o.user_id and u.meter = m.meter and u.period = m.period
  group by o.user_id) c
where a.user_id = c.user_id;
drop table private.usage_counters;

-- What somebody has is one lot, which does not expire.
create table private.credit_lots (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('promotional', 'monthly', 'purchased')),
  amount bigint not null check (amount > 0),
  remaining bigint not null,
  expires_at timestamptz not null default 'infinity',
  check (remaining between 0 and amount)
);
insert into private.credit_lots (user_id, kind, amount, remaining)
select a.user_id, 'promotional', a.balance, a.balance from private.accounts a where a.balance > 0;

create table private.ai_holds (
  call_id uuid primary key,
  created_at timestamptz not null,
  user_id uuid not null,
  session_id uuid,
  api_key_id uuid,
  request_id text not null,
  endpoint text not null,
  model_id text not null,
  provider_id text,
  stream boolean not null,
  request_bytes bigint not null,
  credits bigint not null,
  prompt_tokens bigint not null,
  output_tokens bigint not null,
  micros bigint not null,
  price_valid_from timestamptz,
  routes jsonb,
  day_resets_at timestamptz not null,
  month_resets_at timestamptz not null,
  started_at timestamptz,
  expires_at timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
insert into private.ai_holds (
  call_id, created_at, user_id, session_id, request_id, endpoint, model_id, provider_id, stream, request_bytes, credits,
  prompt_tokens, output_tokens, micros, price_valid_from, day_resets_at, month_resets_at, started_at, expires_at)
select c.id, c.created_at, c.user_id, c.session_id, c.request_id, c.endpoint, c.model_id, c.provider_id, c.stream, c.request_bytes,
  c.hold_credits, c.hold_prompt_tokens, c.hold_output_tokens, c.hold_micros, c.price_valid_from,
  c.day_resets_at, c.month_resets_at, c.started_at, c.hold_expires_at
from public.ai_calls c where c.state = 'held';
update private.accounts a set counts.held[m.slot] = h.calls, counts.used[m.slot] = 0, counts.resets_at[m.slot] = 'infinity'
from (select o.user_id, count(*) as calls from private.ai_holds o group by o.user_id) h, private.meters m
where m.meter = 'ai_concurrency' and a.user_id = h.user_id;
delete from public.ai_calls c where c.state = 'held';
