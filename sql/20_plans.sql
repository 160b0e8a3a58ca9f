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
