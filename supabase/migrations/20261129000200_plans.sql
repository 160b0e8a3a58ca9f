-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/20_plans.sql ====================================================================================================

-- Plans, limits and usage: what an account may use in which period, and how much of it is used or held.

create table public.plans (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,39}$'),
  name text not null check (length(name) between 1 and 80),
  description text not null default '' check (length(description) <= 500),
  position integer not null default 0,
  created_at timestamptz not null default now()
);
comment on table public.plans is 'The plans a user can be on.';
alter table public.plans enable row level security;
alter table public.plans force row level security;
revoke all on public.plans from anon, authenticated, service_role;
grant select on public.plans to authenticated;
grant select, insert, update, delete on public.plans to service_role;
insert into public.plans (id, name, description, position) values
  ('free', 'Free', 'For getting started.', 1),
  ('premium', 'Premium', 'For everyday use.', 2)
on conflict (id) do nothing;

-- Both tables are new, so there is nothing to scan.
-- squawk-ignore constraint-missing-not-valid, adding-foreign-key-constraint
alter table public.profiles add constraint profiles_plan_id_fkey
  foreign key (plan_id) references public.plans (id) on delete restrict;

create table public.plan_limits (
  plan_id text not null references public.plans (id) on delete cascade,
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('minute', 'day', 'month', 'total')),
  amount bigint check (amount >= 0),
  primary key (plan_id, meter, period)
);
comment on table public.plan_limits is
  'How much of a meter a plan allows in a period. Amount null: no limit. No row: what private.meters says, none of it for most of AI, an amount for rows.';
comment on column public.plan_limits.period is
  'minute: 60 seconds from the first unit on (of AI calls: from the first request, of whatever endpoint); day: from midnight to midnight in the account''s quota_time_zone; month: between anniversaries of the sign-up; total: ever.';
comment on column public.plan_limits.amount is 'Units of the meter: calls, tokens, micro-dollars, chats, tests, rows, files, bytes.';
alter table public.plan_limits enable row level security;
alter table public.plan_limits force row level security;
revoke all on public.plan_limits from anon, authenticated, service_role;
grant select on public.plan_limits to authenticated;
grant select, insert, update, delete on public.plan_limits to service_role;
insert into public.plan_limits (plan_id, meter, period, amount) values
  ('free', 'ai_requests', 'minute', 60),
  ('free', 'images_generations_requests', 'minute', 10),
  ('free', 'ai_concurrency', 'total', 10),
  ('free', 'ai_calls', 'day', 50),
  ('free', 'ai_tokens', 'month', 100000),
  ('free', 'ai_spend_micros', 'month', 5000000),
  ('free', 'chat_sessions', 'day', 10),
  ('free', 'psychology_tests', 'month', 3),
  ('free', 'storage_bytes', 'total', 52428800),
  ('free', 'billing_requests', 'minute', 30),
  ('free', 'billing_requests', 'day', 200),
  ('premium', 'ai_requests', 'minute', 300),
  ('premium', 'images_generations_requests', 'minute', 60),
  ('premium', 'ai_concurrency', 'total', 50),
  ('premium', 'ai_calls', 'day', 1000),
  ('premium', 'ai_tokens', 'month', 5000000),
  ('premium', 'ai_spend_micros', 'month', 100000000),
  ('premium', 'chat_sessions', 'day', 200),
  ('premium', 'psychology_tests', 'month', 30),
  ('premium', 'storage_bytes', 'total', 5368709120),
  ('premium', 'billing_requests', 'minute', 30),
  ('premium', 'billing_requests', 'day', 200)
on conflict (plan_id, meter, period) do nothing;

create table public.limit_overrides (
  user_id uuid not null references auth.users (id) on delete cascade,
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('minute', 'day', 'month', 'total')),
  amount bigint check (amount >= 0),
  reason text check (length(reason) <= 500),
  created_at timestamptz not null default now(),
  primary key (user_id, meter, period)
);
comment on table public.limit_overrides is 'One user''s own limit in place of the plan''s. Amount null: no limit. Applies to the next call.';
alter table public.limit_overrides enable row level security;
alter table public.limit_overrides force row level security;
revoke all on public.limit_overrides from anon, authenticated, service_role;
grant select on public.limit_overrides to authenticated;
grant select, insert, update, delete on public.limit_overrides to service_role;

-- What is paid for --------------------------------------------------------------------------------------------------------

create table private.entitlements (
  user_id uuid not null references auth.users (id) on delete cascade,
  starts_at timestamptz not null,
  ends_at timestamptz not null check (ends_at > starts_at),
  plan_id text references public.plans (id) on delete cascade,
  outranks text[],
  state text not null check (state in ('trialing', 'active', 'canceling', 'past_due', 'paused', 'unpaid', 'canceled', 'expired', 'incomplete')),
  subscription_id text not null check (length(subscription_id) between 1 and 255),
  valid_until timestamptz,
  grace_until timestamptz,
  primary key (user_id, starts_at),
  check (num_nonnulls(plan_id, outranks, valid_until) in (0, 3))
);
comment on table private.entitlements is
  'What a user''s subscriptions entitle to and when, as one line of time without gaps, future included, so that what holds at a moment is one row and needs no job. Written by private.refresh_entitlement only; no rows: never subscribed.';
comment on column private.entitlements.plan_id is 'The plan that is paid for in this time; null: none.';
comment on column private.entitlements.outranks is
  'The plans that are no better than plan_id, itself included, by plans.position: here, so that admission need not look into plans.';
comment on column private.entitlements.state is 'Of the subscription that counts: see public.get_my_entitlement.';
comment on column private.entitlements.valid_until is 'When the subscription stops to entitle if nothing more is heard of it.';
comment on column private.entitlements.grace_until is 'Set while it entitles although what was due is not known to be paid.';
create index entitlements_plan_id_idx on private.entitlements (plan_id);
create index entitlements_ends_at_idx on private.entitlements (ends_at) where plan_id is not null;
revoke all on private.entitlements from anon, authenticated, service_role;

create function private.plans_outranked_by(plan_id text) returns text[]
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return (
    select array_agg(o.id) from public.plans p join public.plans o on o.position <= p.position where p.id = plans_outranked_by.plan_id);
end $$;
comment on function private.plans_outranked_by(text) is 'The plans that are no better than this one, itself included; null for no plan.';

create view private.entitled_profiles with (security_invoker = true) as
select a.id, a.state as account_state, a.is_active, a.has_factor, a.quota_time_zone, a.signed_up_at,
  case when a.plan_id = any (e.outranks) then e.plan_id else a.plan_id end as plan_id,
  coalesce(e.state, 'none') as state, e.plan_id is not null as is_paid, e.subscription_id, e.valid_until, e.grace_until
from private.account_states a
  left join private.entitlements e on e.user_id = a.id and e.starts_at <= now() and e.ends_at > now();
comment on view private.entitled_profiles is
  'Accounts with their state and the plan that counts now: the one that is paid for, or the one in the profile when that is better or nothing is paid for. A view and not a function, because admission joins it for many callers at once.';
revoke all on private.entitled_profiles from anon, authenticated, service_role;

create function private.entitlement(
  user_id uuid,
  out plan_id text, out state text, out is_paid boolean, out subscription_id text, out valid_until timestamptz, out grace_until timestamptz
)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select p.plan_id, p.state, p.is_paid, p.subscription_id, p.valid_until, p.grace_until
  into plan_id, state, is_paid, subscription_id, valid_until, grace_until
  from private.entitled_profiles p where p.id = entitlement.user_id;
end $$;
comment on function private.entitlement(uuid) is
  'What a user may use now: the plan that counts, and the state, end and grace of the subscription behind it. All null for an unknown user. Nobody but functions of ours may call it; they pass an id they have checked.';

-- Meters ---------------------------------------------------------------------------------------------------------------

create table private.meters (
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('minute', 'day', 'month', 'total')),
  is_held boolean not null,
  is_open_without_row boolean not null,
  amount_without_row bigint check (amount_without_row >= 0),
  primary key (meter, period),
  check (amount_without_row is null or is_open_without_row)
);
comment on table private.meters is
  'What is counted for every account. Those of AI calls are columns of accounts, api_key_usage and limit_sets, the others rows of usage_counts.';
comment on column private.meters.is_held is
  'True: units are held when a call is admitted, and become used, or free, when it is settled. False: they are used at once.';
comment on column private.meters.is_open_without_row is 'What no row in plan_limits or limit_overrides means: true: amount_without_row; false: none of it.';
comment on column private.meters.amount_without_row is
  'Null: no limit. The rows that users can make have an amount here, so that a plan that says nothing of them is not an open door.';
revoke all on private.meters from anon, authenticated, service_role;
insert into private.meters (meter, period, is_held, is_open_without_row) values
  ('ai_requests', 'minute', false, true),
  ('chat_completions_requests', 'minute', false, true),
  ('embeddings_requests', 'minute', false, true),
  ('images_generations_requests', 'minute', false, true),
  ('ai_concurrency', 'total', true, true),
  ('ai_calls', 'day', true, false),
  ('ai_tokens', 'month', true, false),
  ('ai_spend_micros', 'month', true, true),
  ('chat_sessions', 'day', false, false),
  ('psychology_tests', 'month', false, false),
  ('billing_requests', 'minute', false, true),
  ('billing_requests', 'day', false, true)
on conflict (meter, period) do nothing;

create table private.limit_sets (
  id integer generated always as identity primary key,
  plan_id text not null references public.plans (id) on delete cascade,
  user_id uuid references auth.users (id) on delete cascade,
  plan_number integer not null check (plan_number between 0 and 62),
  ai_requests bigint not null default -1,
  chat_completions_requests bigint not null default -1,
  embeddings_requests bigint not null default -1,
  images_generations_requests bigint not null default -1,
  ai_concurrency bigint not null default -1,
  ai_calls bigint not null default -1,
  ai_tokens bigint not null default -1,
  ai_spend_micros bigint not null default -1,
  unique nulls not distinct (plan_id, user_id)
);
comment on table private.limit_sets is
  'What plan_limits and limit_overrides come to for AI calls, a column for each meter: a row for each plan, and one for each user with limits of their own. Written by triggers only: see private.refresh_limit_set. 9223372036854775807: no limit; -1: not in the plan at all.';
comment on column private.limit_sets.user_id is 'Null: the plan''s own row, for all who have no limits of their own.';
comment on column private.limit_sets.plan_number is
  'A small number for the plan, so that a call can say for which plans its routes and its hold were worked out: bit plan_number of ai_request.plans.';
create index limit_sets_user_id_idx on private.limit_sets (user_id) where user_id is not null;
revoke all on private.limit_sets from anon, authenticated, service_role;

create table private.accounts (
  user_id uuid primary key references auth.users (id) on delete cascade,
  -- Narrow, and in this order, without gaps: each call writes the whole row to the log twice, with wal_level logical as the platform has it.
  banned_until timestamptz not null default '-infinity',
  entitled_until timestamptz not null default 'infinity',
  next_expiry_at timestamptz not null default 'infinity',
  clawed_back bigint not null default 0,
  day_resets_at timestamptz not null default '-infinity',
  month_resets_at timestamptz not null default '-infinity',
  minute_resets_at timestamptz not null default '-infinity',
  balance bigint not null default 0,
  held bigint not null default 0,
  unburned bigint not null default 0,
  ai_tokens_used bigint not null default 0,
  ai_tokens_held bigint not null default 0,
  ai_spend_micros_used bigint not null default 0,
  ai_spend_micros_held bigint not null default 0,
  limits_id integer not null,
  embeddings_requests_used integer not null default 0,
  images_generations_requests_used integer not null default 0,
  chat_completions_requests_used integer not null default 0,
  ai_requests_used integer not null default 0,
  ai_concurrency_held integer not null default 0,
  ai_calls_used integer not null default 0,
  ai_calls_held integer not null default 0,
  is_active boolean not null default false,
  has_factor boolean not null default false,
  account_state text not null default 'pending',
  -- One check of few steps: its text is read and made ready anew by every statement that writes. Whether what is held is what calls hold,
  -- private.verify_accounts says.
  constraint accounts_check check (held >= 0 and balance + clawed_back >= held)
) with (fillfactor = 50);
create index accounts_next_expiry_at_idx on private.accounts (next_expiry_at) where next_expiry_at < 'infinity';
comment on table private.accounts is
  'Credits, meters of AI calls and gates of an account, in one row, which is also its lock: whoever spends or counts takes it first.';
comment on column private.accounts.held is 'Credits that open calls hold.';
comment on column private.accounts.clawed_back is
  'Credits that refunds and disputes of payments have taken back: the only reason for which a balance is ever below zero.';
comment on column private.accounts.unburned is 'Spent credits that are not taken from a lot yet: see private.burn_credits.';
comment on column private.accounts.next_expiry_at is 'When the next credits expire; whoever locks the account after that expires them first.';
comment on column private.accounts.account_state is
  'pending (also anonymous), active, suspended or deleted, bans by the Auth service aside. As is_active, has_factor and banned_until a copy of what private.account_gates says, so that a call reads one row. Triggers keep them: see private.refresh_account_gates.';
comment on column private.accounts.is_active is 'account_state is active; a ban that lasts is in banned_until.';
comment on column private.accounts.banned_until is 'The ban of the Auth service: it holds while this is after now().';
comment on column private.accounts.limits_id is
  'The row of private.limit_sets that counts, until entitled_until: kept by triggers, and at the end of a paid time by the next call. See private.refresh_account_limits.';
comment on column private.accounts.minute_resets_at is
  'When the minute of the four meters of requests ends; it begins with the first request after the one before.';
comment on column private.accounts.day_resets_at is
  'When the day of ai_calls ends. After a period''s end its counters are as good as zero; the next call begins the new one: see private.renew_account.';
comment on column private.accounts.month_resets_at is 'When the month of ai_tokens and ai_spend_micros ends.';
revoke all on private.accounts from anon, authenticated, service_role;

create table private.usage_counts (
  user_id uuid not null references private.accounts (user_id) on delete cascade,
  meter text not null,
  period text not null,
  used bigint not null check (used >= 0),
  resets_at timestamptz not null,
  primary key (user_id, meter, period),
  foreign key (meter, period) references private.meters (meter, period)
) with (fillfactor = 70);
comment on table private.usage_counts is 'What accounts used of the meters that are not of AI calls. After resets_at, and when that lies further ahead than a period is long, a row counts as empty: no reset job. See private.is_running.';
create index usage_counts_meter_period_idx on private.usage_counts (meter, period);
revoke all on private.usage_counts from anon, authenticated, service_role;

create function private.lock_account(user_id uuid) returns private.accounts
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account private.accounts;
begin
  select a.* into v_account from private.accounts a where a.user_id = lock_account.user_id for no key update;
  if v_account.next_expiry_at <= now() then
    v_account := private.expire_credits(v_account);
  end if;
  return v_account;
end $$;
comment on function private.lock_account(uuid) is
  'Locks an account until the transaction ends, and expires what is due. Under read committed, which we rely on, the statements that follow see what the previous holder committed; under repeatable read they would fail with 40001.';

-- Whoever changes a profile, or what the Auth service knows, has that row before a trigger takes the account: so all take them in this order.
create function private.lock_whole_account(user_id uuid) returns private.accounts
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform from auth.users u where u.id = lock_whole_account.user_id for no key update;
  perform from public.profiles p where p.id = lock_whole_account.user_id for no key update;
  return private.lock_account(lock_whole_account.user_id);
end $$;
comment on function private.lock_whole_account(uuid) is
  'Locks user, profile and account, for who is going to change one of the first two: after lock_account alone that could deadlock with a change of plan or a ban.';

create view private.ai_counters with (security_invoker = true) as
select a.user_id, m.position, m.meter, m.period, m.is_held, m.used, m.held, m.resets_at, nullif(m.amount, 9223372036854775807) as amount
from private.accounts a
  join private.limit_sets l on l.id = a.limits_id
  cross join lateral (values
    (1, 'ai_requests', 'minute', false, a.ai_requests_used::bigint, 0::bigint, a.minute_resets_at, l.ai_requests),
    (2, 'chat_completions_requests', 'minute', false, a.chat_completions_requests_used, 0, a.minute_resets_at, l.chat_completions_requests),
    (3, 'embeddings_requests', 'minute', false, a.embeddings_requests_used, 0, a.minute_resets_at, l.embeddings_requests),
    (4, 'images_generations_requests', 'minute', false, a.images_generations_requests_used, 0, a.minute_resets_at, l.images_generations_requests),
    (5, 'ai_concurrency', 'total', true, 0, a.ai_concurrency_held, 'infinity', l.ai_concurrency),
    (6, 'ai_calls', 'day', true, a.ai_calls_used, a.ai_calls_held, a.day_resets_at, l.ai_calls),
    (7, 'ai_tokens', 'month', true, a.ai_tokens_used, a.ai_tokens_held, a.month_resets_at, l.ai_tokens),
    (8, 'ai_spend_micros', 'month', true, a.ai_spend_micros_used, a.ai_spend_micros_held, a.month_resets_at, l.ai_spend_micros)
  ) m (position, meter, period, is_held, used, held, resets_at, amount);
comment on view private.ai_counters is
  'The meters of AI calls of every account as rows, in the order in which a call is refused for them: units used and held, when the period ends that they belong to, and the amount that is allowed (null: no limit; -1: none of it).';
revoke all on private.ai_counters from anon, authenticated, service_role;

create view private.usage_counters with (security_invoker = true) as
select c.user_id, c.meter, c.period, c.used, c.held, c.resets_at from private.ai_counters c where c.resets_at > '-infinity'
union all
select c.user_id, c.meter, c.period, c.used, 0, c.resets_at from private.usage_counts c;
comment on view private.usage_counters is 'The counters of every account as rows, for people: used and held units, and when the period ends that they belong to.';
revoke all on private.usage_counters from anon, authenticated, service_role;

-- Instants are moved by hours: a day would be one of the session's own zone.
create function private.start_of_day(day timestamp, time_zone text) returns timestamptz
language plpgsql stable security invoker set search_path = ''
as $$
declare
  -- Of two midnights PostgreSQL takes the second, and for one that is skipped the moment of the skip.
  v_start timestamptz := start_of_day.day at time zone start_of_day.time_zone;
  v_before timestamptz := v_start - interval '24 hours';
  -- Midnight by the clock of the day before, which is the first of two.
  v_first timestamptz := v_before + make_interval(secs => extract(epoch from start_of_day.day - (v_before at time zone start_of_day.time_zone))::float8);
begin
  return case when v_first at time zone start_of_day.time_zone = start_of_day.day then least(v_first, v_start) else v_start end;
end $$;
comment on function private.start_of_day(timestamp, text) is
  'When a local date, given as its midnight, begins in a zone: at the first midnight where the clock is put back over it, right after the skip where it is put forward over it.';

create function private.period_resets_at(period text, time_zone text, signed_up_at timestamptz, at timestamptz)
returns timestamptz
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_today timestamp := date_trunc('day', period_resets_at.at at time zone period_resets_at.time_zone);
  v_month timestamp := date_trunc('month', v_today);
  v_day integer := extract(day from period_resets_at.signed_up_at at time zone period_resets_at.time_zone);
  v_reset timestamptz;
begin
  if period_resets_at.period = 'total' then
    return 'infinity';
  elsif period_resets_at.period = 'minute' then
    return period_resets_at.at + interval '1 minute';
  elsif period_resets_at.period not in ('day', 'month') then
    raise exception 'no reset time for period %', period_resets_at.period;
  end if;
  -- The first that is ahead: an anniversary may have been earlier today, and after a first midnight it may be yesterday once more.
  for v_ahead in 0..2 loop
    v_reset := private.start_of_day(
      case period_resets_at.period when 'day' then v_today + make_interval(days => v_ahead)
        -- The 31st of a short month is its last day.
        else v_month + make_interval(months => v_ahead) + make_interval(days => least(
          v_day, extract(day from v_month + make_interval(months => v_ahead + 1) - interval '1 day')::integer) - 1)
      end, period_resets_at.time_zone);
    exit when v_reset > period_resets_at.at;
  end loop;
  return v_reset;
end $$;
comment on function private.period_resets_at(text, text, timestamptz, timestamptz) is
  'When the period that contains "at" ends: a minute later (minute), the next midnight of the zone, the first where there are two (day), the next monthly anniversary of the sign-up, the last day of shorter months (month), infinity (total).';

create function private.is_running(period text, resets_at timestamptz, time_zone text, signed_up_at timestamptz) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Not now(): who waited for the row sees what somebody began later than that.
  v_now timestamptz := clock_timestamp();
begin
  -- What is longer than most days and months are is asked for, and that is seldom.
  return is_running.resets_at > now() and (
    is_running.resets_at <= v_now + case is_running.period
      when 'minute' then interval '1 minute' when 'day' then interval '25 hours' when 'month' then interval '745 hours' end
    or is_running.resets_at <= private.period_resets_at(is_running.period, is_running.time_zone, is_running.signed_up_at, v_now));
end $$;
comment on function private.is_running(text, timestamptz, text, timestamptz) is
  'Whether a period that ends then has begun and not ended. One that lies further ahead than it is long was written when the clock was wrong: it counts as over. A day has 25 hours at most and a month 31 days and one, or what this very one has.';

create function private.limits_of(user_id uuid)
returns table (meter text, period text, amount bigint, used bigint, held bigint, resets_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: counters are private. Callers pass an id they have checked.
begin
  -- plpgsql, because it keeps the plan, which costs more to make than to run.
  return query select
    l.meter,
    l.period,
    case when o.user_id is not null then o.amount else l.amount end,
    case when r.is_running then c.used else 0 end,
    case when r.is_running then c.held else 0 end,
    case when r.is_running then c.resets_at
      else private.period_resets_at(l.period, p.quota_time_zone, p.signed_up_at, now()) end
  from private.entitled_profiles p
    cross join lateral (
      select pl.meter, pl.period, pl.amount from public.plan_limits pl where pl.plan_id = p.plan_id
      union all
      select lo.meter, lo.period, lo.amount from public.limit_overrides lo
      where lo.user_id = p.id
        and not exists (
          select from public.plan_limits pl
          where pl.plan_id = p.plan_id and pl.meter = lo.meter and pl.period = lo.period)
      union all
      select m.meter, m.period, m.amount_without_row from private.meters m
      where m.amount_without_row is not null
        and not exists (
          select from public.plan_limits pl where pl.plan_id = p.plan_id and pl.meter = m.meter and pl.period = m.period)
        and not exists (
          select from public.limit_overrides lo where lo.user_id = p.id and lo.meter = m.meter and lo.period = m.period)
    ) l
    left join public.limit_overrides o on o.user_id = p.id and o.meter = l.meter and o.period = l.period
    left join private.usage_counters c on c.user_id = limits_of.user_id and c.meter = l.meter and c.period = l.period
    cross join lateral (select private.is_running(c.period, c.resets_at, p.quota_time_zone, p.signed_up_at) as is_running) r
  where p.id = limits_of.user_id;
end $$;
comment on function private.limits_of(uuid) is
  'Every limit of one account with what is used and held in the running period.';

create function private.remaining(amount bigint, taken bigint) returns bigint
language sql immutable security invoker set search_path = ''
return case when amount is not null then greatest(amount - taken, 0) end;
comment on function private.remaining(bigint, bigint) is 'What is left of an amount, never below zero; null when there is no limit.';

create function private.my_limits()
returns table (meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: counters are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
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
          when l.meter = 'storage_files' then (
            select count(*) from storage.objects o where o.name ~>=~ (v_user_id || '/') and o.name ~<~ (v_user_id || '0'))
          else l.used
        end as used
      ) u
    order by l.meter, l.period;
end $$;
comment on function private.my_limits() is 'Behind public.get_my_limits.';
grant execute on function private.my_limits() to authenticated;

create function public.get_my_limits()
returns table (meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamptz)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_limits() $$;
comment on function public.get_my_limits() is
  'The caller''s limits, one row each: units used and held in the running period, the amount allowed (null: no limit), what remains, and when the period ends (null: never).';
grant execute on function public.get_my_limits() to authenticated;

-- Counting -------------------------------------------------------------------------------------------------------------

create view private.meter_amounts with (security_invoker = true) as
select p.id as user_id, p.quota_time_zone, p.signed_up_at, m.meter, m.period,
  case
    when o.user_id is not null then o.amount
    when l.plan_id is not null then l.amount
    when m.is_open_without_row then m.amount_without_row
    else -1
  end as amount
from private.entitled_profiles p
  cross join private.meters m
  left join public.plan_limits l on l.plan_id = p.plan_id and l.meter = m.meter and l.period = m.period
  left join public.limit_overrides o on o.user_id = p.id and o.meter = m.meter and o.period = m.period;
comment on view private.meter_amounts is
  'What every account may use of every meter: its own limit before the plan''s, and without either what the meter says. Null: no limit; -1: none of it.';
revoke all on private.meter_amounts from anon, authenticated, service_role;

create function private.consume(user_id uuid, meter text, period text, units bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: for triggers on users' tables.
declare
  v record;
  v_resets_at timestamptz;
begin
  -- One row for a meter that there is; amount null: no limit.
  select a.amount, private.period_resets_at(a.period, a.quota_time_zone, a.signed_up_at, now()) as resets_at, a.quota_time_zone, a.signed_up_at
  into strict v
  from private.meter_amounts a
  where a.user_id = consume.user_id and a.meter = consume.meter and a.period = consume.period;
  v_resets_at := v.resets_at;
  -- The row's newest version decides, so exactly as many pass as fit, however many race.
  if coalesce(consume.units <= v.amount, true) then
    insert into private.usage_counts as c (user_id, meter, period, used, resets_at)
    values (consume.user_id, consume.meter, consume.period, consume.units, v.resets_at)
    on conflict on constraint usage_counts_pkey do update set (used, resets_at) = (
      select case when r.is_running then c.used else 0 end + consume.units, case when r.is_running then c.resets_at else excluded.resets_at end
      from (select private.is_running(c.period, c.resets_at, v.quota_time_zone, v.signed_up_at)) r (is_running))
    where coalesce(
      case when private.is_running(c.period, c.resets_at, v.quota_time_zone, v.signed_up_at) then c.used else 0 end + consume.units <= v.amount, true);
    if found then
      return;
    end if;
    select c.resets_at into v_resets_at from private.usage_counts c
    where c.user_id = consume.user_id and c.meter = consume.meter and c.period = consume.period;
  end if;
  perform private.raise_error(
    case consume.period when 'day' then 'daily_quota_exceeded' when 'minute' then 'rate_limit_exceeded' else 'insufficient_quota' end,
    format('The limit of %s %s%s is reached.', greatest(v.amount, 0), consume.meter, case when consume.period <> 'total' then ' per ' || consume.period end),
    case consume.period when 'total' then 'Delete what you no longer need, or take a larger plan.' else format('It resets at %s.', v_resets_at) end,
    case when consume.period in ('minute', 'day') then v_resets_at - now() end);
end $$;
comment on function private.consume(uuid, text, text, bigint) is
  'Counts units of a meter that is not of AI calls, or raises daily_quota_exceeded, rate_limit_exceeded (a minute) or insufficient_quota; exact however many race.';

-- sql/21_account_gates.sql ============================================================================================

-- Gate columns: what private.account_gates says of an account, copied into its row in private.accounts whenever it changes.

create function private.refresh_account_gates(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The lock first, and what is true after it: of two that change different sources the second sees what the first committed.
  perform from private.accounts a where a.user_id = refresh_account_gates.user_id for no key update;
  update private.accounts a set
    account_state = g.account_state, is_active = g.is_active, has_factor = g.has_factor, banned_until = g.banned_until
  from private.account_gates g
  where a.user_id = refresh_account_gates.user_id and g.user_id = refresh_account_gates.user_id
    and (a.account_state, a.is_active, a.has_factor, a.banned_until)
      is distinct from (g.account_state, g.is_active, g.has_factor, g.banned_until);
end $$;
comment on function private.refresh_account_gates(uuid) is
  'Copies what private.account_gates says of an account into its row; nothing when it is there already, or the account is gone.';

create function private.tg_profiles__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private.
begin
  if old.status is distinct from new.status then
    perform private.refresh_account_gates(new.id);
  end if;
  if old.plan_id is distinct from new.plan_id then
    perform private.refresh_account_limits(new.id);
  end if;
  return null;
end $$;
comment on function private.tg_profiles__gates() is 'A new status or plan counts from the next call on.';
create trigger tg_profiles__gates after update of status, plan_id on public.profiles
  for each row when (old.status is distinct from new.status or old.plan_id is distinct from new.plan_id)
  execute function private.tg_profiles__gates();

create function private.tg_users__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.refresh_account_gates(new.id);
  return null;
end $$;
comment on function private.tg_users__gates() is
  'A ban by the Auth service, its end before the time, a soft deletion, and an anonymous user who becomes a real one count from the next call on.';
create trigger palisade_keep_gates after update of banned_until, is_anonymous, deleted_at on auth.users
  for each row when (
    old.banned_until is distinct from new.banned_until or old.is_anonymous is distinct from new.is_anonymous
    or old.deleted_at is distinct from new.deleted_at)
  execute function private.tg_users__gates();

create function private.tg_mfa_factors__gates() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.refresh_account_gates(case when tg_op = 'DELETE' then old.user_id else new.user_id end);
  return null;
end $$;
comment on function private.tg_mfa_factors__gates() is 'The first verified factor makes sessions without it worthless; the last one''s end lets them in again.';
create trigger palisade_keep_gates_added after insert on auth.mfa_factors
  for each row when (new.status = 'verified') execute function private.tg_mfa_factors__gates();
create trigger palisade_keep_gates_changed after update of status on auth.mfa_factors
  for each row when (old.status is distinct from new.status) execute function private.tg_mfa_factors__gates();
create trigger palisade_keep_gates_removed after delete on auth.mfa_factors
  for each row when (old.status = 'verified') execute function private.tg_mfa_factors__gates();

create function private.compare_account_gates()
returns table (user_id uuid, stored jsonb, expected jsonb)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, to_jsonb(s), to_jsonb(g) - 'user_id'
  from private.accounts a
    left join private.account_gates g on g.user_id = a.user_id
    cross join lateral (select a.account_state, a.is_active, a.has_factor, a.banned_until) s
  where (a.account_state, a.is_active, a.has_factor, a.banned_until)
    is distinct from (g.account_state, g.is_active, g.has_factor, g.banned_until)
$$;
comment on function private.compare_account_gates() is
  'Accounts whose gate columns are not what private.account_gates says, with both: no row while the triggers do what they are for. private.refresh_account_gates mends one.';

create function private.warn_of_wrong_gates() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_users uuid[];
begin
  select array_agg(c.user_id) into v_users
  from (select g.user_id from private.compare_account_gates() g union select l.user_id from private.compare_account_limits() l) c;
  if v_users is not null then
    perform private.raise_security_event('account_gates_wrong', 'critical', null,
      jsonb_build_object('accounts', cardinality(v_users), 'some', to_jsonb(v_users[1:10])));
  end if;
  return coalesce(cardinality(v_users), 0);
end $$;
comment on function private.warn_of_wrong_gates() is
  'Raises a security event when private.compare_account_gates or compare_account_limits finds something; answers how many. A job runs it every night.';

-- sql/22_features.sql =================================================================================================

-- Features: what a plan includes beside its limits and models.

create table public.plan_features (
  plan_id text not null references public.plans (id) on delete cascade,
  feature text not null check (feature ~ '^[a-z][a-z0-9_]{0,39}$'),
  primary key (plan_id, feature)
);
comment on table public.plan_features is
  'What a plan includes: portfolio_sync (portfolios are read from exchanges), own_keys (AI calls with keys of one''s own). No row: not included.';
alter table public.plan_features enable row level security;
alter table public.plan_features force row level security;
revoke all on public.plan_features from anon, authenticated, service_role;
grant select on public.plan_features to authenticated;
grant select, insert, update, delete on public.plan_features to service_role;
insert into public.plan_features (plan_id, feature) values
  ('free', 'own_keys'), ('free', 'portfolio_sync'), ('premium', 'own_keys'), ('premium', 'portfolio_sync')
on conflict (plan_id, feature) do nothing;

create function private.has_feature(feature text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: entitlements are private.
begin
  return exists (
    select from public.plan_features f
    where f.plan_id = (private.entitlement(auth.uid())).plan_id and f.feature = has_feature.feature);
end $$;
comment on function private.has_feature(text) is
  'Whether the caller''s plan includes a feature now; false for who is not signed in. In a policy write it as (select private.has_feature(''x'')), so that it is asked once and not for every row.';
grant execute on function private.has_feature(text) to authenticated;

create function private.payment_hint(user_id uuid) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return 'Pay or choose a plan: ' || private.pay_url(user_id);
end $$;
comment on function private.payment_hint(uuid) is 'The sentence with the link that ends a refusal which money can lift.';

create function private.feature_refusal(user_id uuid, feature text) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
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
end $$;
comment on function private.feature_refusal(uuid, text) is
  'Null when the user''s plan includes the feature now; else {code: entitlement_required, message: why and where to pay, hint}.';

create function private.require_feature(user_id uuid, feature text) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_refusal jsonb := private.feature_refusal(require_feature.user_id, require_feature.feature);
begin
  if v_refusal is not null then
    perform private.raise_error(v_refusal ->> 'code', v_refusal ->> 'message', v_refusal ->> 'hint');
  end if;
end $$;
comment on function private.require_feature(uuid, text) is 'Raises entitlement_required, with the link to pay, unless the user''s plan includes the feature now.';

-- sql/23_limit_sets.sql ===============================================================================================

-- Limits as a call reads them: what plan_limits and limit_overrides say, in one row; and which row counts for an account.

create function private.refresh_limit_set(plan_id text, user_id uuid default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_number integer;
begin
  -- What plans allow changes one at a time, and not while somebody copies it: so what is read below is what all before have committed.
  if user_id is null then
    perform pg_advisory_xact_lock(hashtextextended('private.limit_sets', 0));
  else
    perform pg_advisory_xact_lock_shared(hashtextextended('private.limit_sets', 0));
  end if;
  select coalesce(
    (select s.plan_number from private.limit_sets s where s.plan_id = refresh_limit_set.plan_id and s.user_id is null),
    (select min(n) from generate_series(0, 62) n where not exists (select from private.limit_sets s where s.user_id is null and s.plan_number = n)))
  into v_number;
  if v_number is null then
    perform private.raise_error('invalid_request_error', 'There can be 63 plans.');
  end if;
  insert into private.limit_sets as s (
    plan_id, user_id, plan_number, ai_requests, chat_completions_requests, embeddings_requests, images_generations_requests,
    ai_concurrency, ai_calls, ai_tokens, ai_spend_micros)
  select refresh_limit_set.plan_id, refresh_limit_set.user_id, v_number,
    max(l.amount) filter (where l.meter = 'ai_requests'), max(l.amount) filter (where l.meter = 'chat_completions_requests'),
    max(l.amount) filter (where l.meter = 'embeddings_requests'), max(l.amount) filter (where l.meter = 'images_generations_requests'),
    max(l.amount) filter (where l.meter = 'ai_concurrency'), max(l.amount) filter (where l.meter = 'ai_calls'),
    max(l.amount) filter (where l.meter = 'ai_tokens'), max(l.amount) filter (where l.meter = 'ai_spend_micros')
  from private.limit_amounts(refresh_limit_set.plan_id, refresh_limit_set.user_id) l
  on conflict on constraint limit_sets_plan_id_user_id_key do update set
    ai_requests = excluded.ai_requests, chat_completions_requests = excluded.chat_completions_requests,
    embeddings_requests = excluded.embeddings_requests, images_generations_requests = excluded.images_generations_requests,
    ai_concurrency = excluded.ai_concurrency, ai_calls = excluded.ai_calls, ai_tokens = excluded.ai_tokens,
    ai_spend_micros = excluded.ai_spend_micros;
end $$;
comment on function private.refresh_limit_set(text, uuid) is
  'Writes the row of private.limit_sets of a plan, or of a user on a plan, anew from plan_limits and limit_overrides.';

create function private.limit_amounts(plan_id text, user_id uuid) returns table (meter text, period text, amount bigint)
language sql stable security invoker set search_path = ''
as $$
  select m.meter, m.period, case
    when o.user_id is not null then coalesce(o.amount, 9223372036854775807)
    when l.plan_id is not null then coalesce(l.amount, 9223372036854775807)
    when m.is_open_without_row then 9223372036854775807
    else -1
  end
  from private.meters m
    left join public.plan_limits l on l.plan_id = limit_amounts.plan_id and l.meter = m.meter and l.period = m.period
    left join public.limit_overrides o on o.user_id = limit_amounts.user_id and o.meter = m.meter and o.period = m.period
$$;
comment on function private.limit_amounts(text, uuid) is
  'What may be used of every meter on a plan, by a user with limits of their own (null: by all others): the user''s own limit before the plan''s. 9223372036854775807: no limit; -1: none of it.';

create function private.tg_plans__limit_set() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: limit sets are private.
begin
  perform private.refresh_limit_set(new.id);
  return null;
end $$;
comment on function private.tg_plans__limit_set() is 'A plan without limits is a plan with limits, too: for most meters none of it.';
create trigger tg_plans__limit_set after insert on public.plans for each row execute function private.tg_plans__limit_set();
select private.refresh_limit_set(p.id) from public.plans p order by p.id;

create function private.tg_plan_limits__limit_sets() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: limit sets are private.
begin
  perform pg_advisory_xact_lock(hashtextextended('private.limit_sets', 0));
  -- The plan's own row, and those of its users with limits of their own. One that is being deleted takes its sets with it.
  perform private.refresh_limit_set(s.plan_id, s.user_id)
  from private.limit_sets s
  where s.plan_id in (
    select case when tg_op <> 'INSERT' then old.plan_id end union select case when tg_op <> 'DELETE' then new.plan_id end);
  return null;
end $$;
comment on function private.tg_plan_limits__limit_sets() is 'A limit that an operator changes counts from the next call on.';
create trigger tg_plan_limits__limit_sets after insert or update or delete on public.plan_limits
  for each row execute function private.tg_plan_limits__limit_sets();

create view private.account_limits with (security_invoker = true) as
select p.id as user_id, coalesce(own.id, common.id) as limits_id,
  coalesce((
    select min(b.at) from private.entitlements e cross join lateral (values (e.starts_at), (e.ends_at)) b (at)
    where e.user_id = p.id and b.at > now()), 'infinity') as entitled_until
from private.entitled_profiles p
  join private.limit_sets common on common.plan_id = p.plan_id and common.user_id is null
  left join private.limit_sets own on own.user_id = p.id and own.plan_id = p.plan_id;
comment on view private.account_limits is 'Which limit set counts for an account at this moment, and until when: what accounts.limits_id and entitled_until must say.';
revoke all on private.account_limits from anon, authenticated, service_role;

create function private.refresh_account_limits(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_plan_id text;
begin
  -- The lock first, and what is true after it: of two that change different sources the second sees what the first committed.
  perform from private.accounts a where a.user_id = refresh_account_limits.user_id for no key update;
  if not found then
    return;
  end if;
  select p.plan_id into v_plan_id from private.entitled_profiles p where p.id = refresh_account_limits.user_id;
  if not found then
    -- It is being erased.
    return;
  end if;
  -- Limits of one's own are a set of one's own, on the plan that counts now.
  if exists (select from public.limit_overrides o where o.user_id = refresh_account_limits.user_id) then
    perform private.refresh_limit_set(v_plan_id, refresh_account_limits.user_id);
  else
    v_plan_id := null;
  end if;
  delete from private.limit_sets s where s.user_id = refresh_account_limits.user_id and s.plan_id is distinct from v_plan_id;
  update private.accounts a set limits_id = l.limits_id, entitled_until = l.entitled_until
  from private.account_limits l
  where a.user_id = refresh_account_limits.user_id and l.user_id = refresh_account_limits.user_id
    and (a.limits_id, a.entitled_until) is distinct from (l.limits_id, l.entitled_until);
end $$;
comment on function private.refresh_account_limits(uuid) is
  'Notes in an account''s row which limits count now, and until when; nothing when it is there already, or the account is gone.';

create function private.tg_limit_overrides__limits() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private.
begin
  if tg_op <> 'INSERT' then
    perform private.refresh_account_limits(old.user_id);
  end if;
  if tg_op <> 'DELETE' and (tg_op = 'INSERT' or new.user_id <> old.user_id) then
    perform private.refresh_account_limits(new.user_id);
  end if;
  return null;
end $$;
comment on function private.tg_limit_overrides__limits() is 'A user''s own limit counts from the next call on.';
create trigger tg_limit_overrides__limits after insert or update or delete on public.limit_overrides
  for each row execute function private.tg_limit_overrides__limits();

create function private.tg_entitlements__limits() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private.
begin
  perform private.refresh_account_limits(u.user_id) from (select distinct c.user_id from changed c order by 1) u;
  return null;
end $$;
comment on function private.tg_entitlements__limits() is 'What was paid for, or is no longer, counts from the next call on.';
create trigger tg_entitlements__limits_added after insert on private.entitlements
  referencing new table as changed for each statement execute function private.tg_entitlements__limits();
create function private.tg_entitlements__limits_moved() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private.
begin
  -- What only outranks other plans than before changes nobody's limits: that comes with a new plan, for all who pay.
  perform private.refresh_account_limits(u.user_id)
  from (
    select distinct c.user_id from changed c
    where not exists (
      select from before b
      where (b.user_id, b.starts_at, b.ends_at) = (c.user_id, c.starts_at, c.ends_at) and b.plan_id is not distinct from c.plan_id)
    order by 1) u;
  return null;
end $$;
comment on function private.tg_entitlements__limits_moved() is 'A time that begins or ends otherwise counts from the next call on.';
create trigger tg_entitlements__limits_moved after update on private.entitlements
  referencing old table as before new table as changed for each statement execute function private.tg_entitlements__limits_moved();
create trigger tg_entitlements__limits_removed after delete on private.entitlements
  referencing old table as changed for each statement execute function private.tg_entitlements__limits();

create function private.renew_account(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account private.accounts := private.lock_account(renew_account.user_id);
  v_of private.account_states;
  v_day_runs boolean;
  v_month_runs boolean;
begin
  if v_account.entitled_until <= now() then
    perform private.refresh_account_limits(renew_account.user_id);
  end if;
  select s.* into v_of from private.account_states s where s.id = renew_account.user_id;
  v_day_runs := private.is_running('day', v_account.day_resets_at, v_of.quota_time_zone, v_of.signed_up_at);
  v_month_runs := private.is_running('month', v_account.month_resets_at, v_of.quota_time_zone, v_of.signed_up_at);
  if v_day_runs and v_month_runs and v_account.minute_resets_at <= clock_timestamp() + interval '1 minute' then
    return;
  end if;
  -- What calls hold of a period that is over went with it.
  update private.accounts a set
    minute_resets_at = case when a.minute_resets_at <= clock_timestamp() + interval '1 minute' then a.minute_resets_at else '-infinity' end,
    ai_calls_used = case when v_day_runs then a.ai_calls_used else 0 end,
    ai_calls_held = case when v_day_runs then a.ai_calls_held else 0 end,
    day_resets_at = case when v_day_runs then a.day_resets_at
      else private.period_resets_at('day', v_of.quota_time_zone, v_of.signed_up_at, now()) end,
    ai_tokens_used = case when v_month_runs then a.ai_tokens_used else 0 end,
    ai_tokens_held = case when v_month_runs then a.ai_tokens_held else 0 end,
    ai_spend_micros_used = case when v_month_runs then a.ai_spend_micros_used else 0 end,
    ai_spend_micros_held = case when v_month_runs then a.ai_spend_micros_held else 0 end,
    month_resets_at = case when v_month_runs then a.month_resets_at
      else private.period_resets_at('month', v_of.quota_time_zone, v_of.signed_up_at, now()) end
  where a.user_id = renew_account.user_id;
  if (v_account.day_resets_at > now() and not v_day_runs) or (v_account.month_resets_at > now() and not v_month_runs) then
    perform private.recount_held(renew_account.user_id, not v_day_runs, not v_month_runs);
  end if;
end $$;
comment on function private.renew_account(uuid) is
  'Does what time has made due for an account: credits that expired, a paid time that began or ended, a new day or month of its meters, and a period that has not begun, because the clock went forward and came back. Nothing else writes a period''s end.';

create function private.recount_held(user_id uuid, of_day boolean, of_month boolean) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- What calls hold that were admitted before the clock went wrong: they give it back to the period that they are of.
  update private.accounts a set
    ai_calls_held = case when of_day then h.calls else a.ai_calls_held end,
    ai_tokens_held = case when of_month then h.tokens else a.ai_tokens_held end,
    ai_spend_micros_held = case when of_month then h.micros else a.ai_spend_micros_held end
  from (
    select x.user_id, count(*) filter (where o.day_resets_at = x.day_resets_at) as calls,
      coalesce(sum(o.prompt_tokens + o.output_tokens) filter (where o.month_resets_at = x.month_resets_at), 0)::bigint as tokens,
      coalesce(sum(o.micros) filter (where o.month_resets_at = x.month_resets_at), 0)::bigint as micros
    from private.accounts x left join private.ai_holds o on o.user_id = x.user_id
    where x.user_id = recount_held.user_id group by x.user_id) h
  where a.user_id = h.user_id;
  -- The same for each of its API keys, which begin that period with it.
  update private.api_key_usage u set
    ai_calls_used = case when of_day then 0 else u.ai_calls_used end,
    ai_calls_held = case when of_day then h.calls else u.ai_calls_held end,
    day_resets_at = case when of_day then h.day_resets_at else u.day_resets_at end,
    ai_tokens_used = case when of_month then 0 else u.ai_tokens_used end,
    ai_tokens_held = case when of_month then h.tokens else u.ai_tokens_held end,
    ai_spend_micros_used = case when of_month then 0 else u.ai_spend_micros_used end,
    ai_spend_micros_held = case when of_month then h.micros else u.ai_spend_micros_held end,
    month_resets_at = case when of_month then h.month_resets_at else u.month_resets_at end
  from (
    select k.id, x.day_resets_at, x.month_resets_at, count(*) filter (where o.day_resets_at = x.day_resets_at) as calls,
      coalesce(sum(o.prompt_tokens + o.output_tokens) filter (where o.month_resets_at = x.month_resets_at), 0)::bigint as tokens,
      coalesce(sum(o.micros) filter (where o.month_resets_at = x.month_resets_at), 0)::bigint as micros
    from public.api_keys k join private.accounts x on x.user_id = k.user_id left join private.ai_holds o on o.api_key_id = k.id
    where k.user_id = recount_held.user_id group by k.id, x.day_resets_at, x.month_resets_at) h
  where u.api_key_id = h.id;
end $$;
comment on function private.recount_held(uuid, boolean, boolean) is
  'For private.renew_account, when the clock came back: what an account and its API keys hold of the day or month that runs again, counted from the open calls. The caller holds the account''s lock.';

create function private.compare_account_limits()
returns table (user_id uuid, stored jsonb, expected jsonb)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, to_jsonb(s), to_jsonb(l) - 'user_id'
  from private.accounts a
    left join private.account_limits l on l.user_id = a.user_id
    cross join lateral (select a.limits_id, a.entitled_until) s
  -- What has ended is renewed by the next call.
  where a.entitled_until > now() and (a.limits_id, a.entitled_until) is distinct from (l.limits_id, l.entitled_until)
  union all
  select s.user_id, to_jsonb(s), jsonb_object_agg(l.meter, l.amount)
  from private.limit_sets s
    cross join lateral private.limit_amounts(s.plan_id, s.user_id) l
  where to_jsonb(s) ? l.meter
  group by s.id having not to_jsonb(s) @> jsonb_object_agg(l.meter, l.amount)
$$;
comment on function private.compare_account_limits() is
  'Accounts whose limits are not those that count, and limit sets that are not what plan_limits and limit_overrides say, with both: no row while the triggers do what they are for.';

-- sql/24_row_limits.sql ===============================================================================================

-- Rows: how many, how fast and how many bytes an account may keep in each table that its user makes grow. One trigger for all tables;
-- the counters are those of all other meters, so that a refusal is exact however many race.

insert into private.meters (meter, period, is_held, is_open_without_row, amount_without_row) values
  ('api_keys', 'minute', false, true, 40),
  ('api_keys', 'day', false, true, 50),
  ('api_keys', 'total', false, true, 200),
  ('api_key_secrets', 'minute', false, true, 40),
  ('api_key_secrets', 'day', false, true, 100),
  ('chats', 'minute', false, true, 30),
  ('chats', 'total', false, true, 2000),
  ('consents', 'minute', false, true, 10),
  ('consents', 'total', false, true, 200),
  ('devices', 'minute', false, true, 10),
  ('documents', 'minute', false, true, 120),
  ('documents', 'total', false, true, 2000),
  ('documents_bytes', 'total', false, true, 20971520),
  ('messages', 'minute', false, true, 300),
  ('messages', 'total', false, true, 20000),
  ('messages_bytes', 'total', false, true, 20971520),
  ('notifications', 'total', false, true, 500),
  ('psychology_tests', 'minute', false, true, 10),
  ('psychology_tests', 'total', false, true, 200),
  ('psychology_tests_bytes', 'total', false, true, 10485760),
  ('storage_files', 'total', false, true, 1000),
  ('trade_tag_rules', 'minute', false, true, 600),
  ('trade_tag_rules', 'total', false, true, 2000),
  ('uploads', 'minute', false, true, 60)
on conflict (meter, period) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount)
select 'free', m.meter, m.period, m.amount_without_row from private.meters m where m.amount_without_row is not null
on conflict (plan_id, meter, period) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount) values
  ('premium', 'api_keys', 'minute', 40),
  ('premium', 'api_keys', 'day', 50),
  ('premium', 'api_keys', 'total', 1000),
  ('premium', 'api_key_secrets', 'minute', 40),
  ('premium', 'api_key_secrets', 'day', 100),
  ('premium', 'chats', 'minute', 120),
  ('premium', 'chats', 'total', 50000),
  ('premium', 'consents', 'minute', 10),
  ('premium', 'consents', 'total', 200),
  ('premium', 'devices', 'minute', 10),
  ('premium', 'documents', 'minute', 600),
  ('premium', 'documents', 'total', 50000),
  ('premium', 'documents_bytes', 'total', 1073741824),
  ('premium', 'messages', 'minute', 1200),
  ('premium', 'messages', 'total', 500000),
  ('premium', 'messages_bytes', 'total', 1073741824),
  ('premium', 'notifications', 'total', 2000),
  ('premium', 'psychology_tests', 'minute', 60),
  ('premium', 'psychology_tests', 'total', 5000),
  ('premium', 'psychology_tests_bytes', 'total', 209715200),
  ('premium', 'storage_files', 'total', 20000),
  ('premium', 'trade_tag_rules', 'minute', 600),
  ('premium', 'trade_tag_rules', 'total', 10000),
  ('premium', 'uploads', 'minute', 300)
on conflict (plan_id, meter, period) do nothing;

create function private.count_rows(user_id uuid, meter text, rows bigint, bytes bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_meter text;
begin
  if rows > 0 then
    -- Always in this order, so that no two wait for each other.
    perform private.consume(count_rows.user_id, m.meter, m.period, rows)
    from (
      select x.meter, x.period from private.meters x where x.meter = count_rows.meter
      order by array_position(array['minute', 'day', 'month', 'total'], x.period)) m;
  end if;
  if bytes > 0 then
    perform private.consume(count_rows.user_id, count_rows.meter || '_bytes', 'total', bytes);
  end if;
  if rows < 0 then
    perform private.give_back(count_rows.user_id, count_rows.meter, -rows);
  end if;
  if bytes < 0 then
    perform private.give_back(count_rows.user_id, count_rows.meter || '_bytes', -bytes);
  end if;
end $$;
comment on function private.count_rows(uuid, text, bigint, bigint) is
  'Counts rows of a table and their bytes that came (above zero), or raises what private.consume does; those that went (below zero) are given back to the total, and never to a minute, day or month.';

create function private.give_back(user_id uuid, meter text, units bigint) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.usage_counts c set used = greatest(c.used - give_back.units, 0)
  where c.user_id = give_back.user_id and c.meter = give_back.meter and c.period = 'total'
$$;
comment on function private.give_back(uuid, text, bigint) is 'Units of a total that are free again. Nothing for who has no counter, because the account goes with its rows.';

create function private.tg__limit_rows() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: counters are private.
declare
  -- What the trigger's maker wrote, and nobody else: an expression over one row.
  v_bytes text := coalesce(tg_argv[1], '0');
  v_added text := format('select a.user_id, 1 as rows, (%s)::bigint as bytes from added a', v_bytes);
  v_removed text := format('select r.user_id, -1 as rows, -(%s)::bigint as bytes from removed r', v_bytes);
  v_count record;
begin
  for v_count in execute format(
    'select c.user_id, sum(c.rows)::bigint as rows, sum(c.bytes)::bigint as bytes from (%s) c group by 1 order by 1',
    case tg_op when 'INSERT' then v_added when 'DELETE' then v_removed else v_added || ' union all ' || v_removed end)
  loop
    perform private.count_rows(v_count.user_id, tg_argv[0], v_count.rows, v_count.bytes);
  end loop;
  return null;
end $$;
comment on function private.tg__limit_rows() is
  'Counts the rows that a statement added, changed or removed, as a whole, so that it goes through or leaves nothing. First argument: the meter; second: the bytes of a row, as an expression over its columns, where they are limited (meter_bytes).';

-- The table is of an earlier file. How many are kept is a setting: the longest unused is forgotten.
create trigger tg_devices__limit_added after insert on public.devices referencing new table as added
  for each statement execute function private.tg__limit_rows('devices');

-- Kept with the rows, so that they are never wrong; looked at every night, because a table that nobody counts is the hole.
create function private.rows_counted() returns table (user_id uuid, meter text, counted bigint)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_table record;
begin
  for v_table in
    select distinct t.tgrelid::regclass::text as name, a.args[1] as meter, nullif(a.args[2], '') as bytes
    from pg_catalog.pg_trigger t
      cross join lateral string_to_array(encode(t.tgargs, 'escape'), '\000') a (args)
    where t.tgfoid = 'private.tg__limit_rows()'::regprocedure
  loop
    if exists (select from private.meters m where m.meter = v_table.meter and m.period = 'total') then
      return query execute format('select t.user_id, %L::text, count(*) from %s t group by t.user_id', v_table.meter, v_table.name);
    end if;
    if v_table.bytes is not null then
      return query execute format(
        'select t.user_id, %L::text, sum(%s)::bigint from %s t group by t.user_id', v_table.meter || '_bytes', v_table.bytes, v_table.name);
    end if;
  end loop;
end $$;
comment on function private.rows_counted() is
  'How many rows, and bytes, every account has in each table with tg__limit_rows: what the totals in private.usage_counts must say. It reads these tables.';

create function private.compare_row_counts() returns table (user_id uuid, meter text, stored bigint, expected bigint)
language sql stable security invoker set search_path = ''
as $$
  with expected as (select r.user_id, r.meter, r.counted from private.rows_counted() r),
    stored as (
      select c.user_id, c.meter, c.used from private.usage_counts c
      where c.period = 'total' and c.meter in (
        select m.meter || suffix from private.meters m cross join unnest(array['', '_bytes']) suffix
        where exists (
          select from pg_catalog.pg_trigger t
          where t.tgfoid = 'private.tg__limit_rows()'::regprocedure and split_part(encode(t.tgargs, 'escape'), '\000', 1) = m.meter)))
  select user_id, meter, coalesce(s.used, 0), coalesce(e.counted, 0)
  from expected e full join stored s using (user_id, meter)
  where coalesce(s.used, 0) <> coalesce(e.counted, 0)
$$;
comment on function private.compare_row_counts() is
  'Totals of rows and bytes that are not what the tables hold, with both: no row while the triggers do what they are for. private.recount_rows mends them.';

create function private.recount_rows(of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_mended integer;
begin
  -- Nobody adds or removes what is being counted; a night's work of a moment, and seldom any.
  lock table private.usage_counts in share row exclusive mode;
  insert into private.usage_counts as u (user_id, meter, period, used, resets_at)
  select c.user_id, c.meter, 'total', c.expected, 'infinity' from private.compare_row_counts() c
  where recount_rows.of_user is null or c.user_id = recount_rows.of_user
  on conflict on constraint usage_counts_pkey do update set used = excluded.used;
  get diagnostics v_mended = row_count;
  return v_mended;
end $$;
comment on function private.recount_rows(uuid) is 'Counts rows and bytes anew, of one account or of all, where the totals are wrong. Answers how many totals it mended.';

create function private.warn_of_wrong_row_counts() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_wrong jsonb;
begin
  select jsonb_agg(to_jsonb(c)) into v_wrong from private.compare_row_counts() c;
  if v_wrong is not null then
    perform private.raise_security_event('row_counts_wrong', 'medium', null,
      jsonb_build_object('totals', jsonb_array_length(v_wrong), 'some', jsonb_path_query_array(v_wrong, '$[0 to 9]')));
  end if;
  return coalesce(jsonb_array_length(v_wrong), 0);
end $$;
comment on function private.warn_of_wrong_row_counts() is
  'Raises a security event when private.compare_row_counts finds something; answers how many totals. A job runs it every night.';

-- policies/20_plans.sql ===============================================================================================

create policy "signed-in users see the plans"
  on public.plans for select to authenticated
  using (true);

create policy "signed-in users see what plans allow"
  on public.plan_limits for select to authenticated
  using (true);

create policy "owners see their own limits"
  on public.limit_overrides for select to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/22_features.sql ============================================================================================

create policy "signed-in users see what plans include"
  on public.plan_features for select to authenticated
  using (true);
