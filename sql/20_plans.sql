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

alter table public.profiles add constraint profiles_plan_id_fkey
  foreign key (plan_id) references public.plans (id) on delete restrict;

create table public.plan_limits (
  plan_id text not null references public.plans (id) on delete cascade,
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('day', 'month', 'total')),
  amount bigint check (amount >= 0),
  primary key (plan_id, meter, period)
);
comment on table public.plan_limits is 'How much of a meter a plan allows in a period. No row: none of it. Amount null: no limit.';
comment on column public.plan_limits.period is
  'day: from midnight to midnight in the account''s quota_time_zone; month: between anniversaries of the sign-up; total: ever.';
comment on column public.plan_limits.amount is 'Units of the meter: calls, tokens, chats, tests, bytes.';
alter table public.plan_limits enable row level security;
alter table public.plan_limits force row level security;
revoke all on public.plan_limits from anon, authenticated, service_role;
grant select on public.plan_limits to authenticated;
grant select, insert, update, delete on public.plan_limits to service_role;

create table public.limit_overrides (
  user_id uuid not null references auth.users (id) on delete cascade,
  meter text not null check (meter ~ '^[a-z][a-z0-9_]{0,39}$'),
  period text not null check (period in ('day', 'month', 'total')),
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

create table private.usage_counters (
  user_id uuid not null references auth.users (id) on delete cascade,
  meter text not null,
  period text not null,
  used bigint not null default 0 check (used >= 0),
  held bigint not null default 0 check (held >= 0),
  resets_at timestamptz not null,
  primary key (user_id, meter, period)
) with (fillfactor = 70);
comment on table private.usage_counters is
  'Used and held units of the running period. After resets_at the row counts as zero and the next writer starts the new period: no reset job.';
comment on column private.usage_counters.held is 'Reserved by calls that are not settled yet.';
revoke all on private.usage_counters from anon, authenticated, service_role;

create function private.period_resets_at(period text, time_zone text, signed_up_at timestamptz, at timestamptz)
returns timestamptz
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_now timestamp := period_resets_at.at at time zone period_resets_at.time_zone;
  v_month timestamp := date_trunc('month', v_now);
  v_day integer := extract(day from period_resets_at.signed_up_at at time zone period_resets_at.time_zone);
  v_reset timestamptz;
begin
  case period_resets_at.period
    when 'total' then
      return 'infinity';
    when 'day' then
      return (date_trunc('day', v_now) + interval '1 day') at time zone period_resets_at.time_zone;
    when 'month' then
      -- The 31st of a short month is its last day; the month after next covers an anniversary earlier today.
      for v_ahead in 0..2 loop
        v_reset := (
          v_month + make_interval(months => v_ahead)
          + make_interval(days => least(
              v_day,
              extract(day from v_month + make_interval(months => v_ahead + 1) - interval '1 day')::integer
            ) - 1)
        ) at time zone period_resets_at.time_zone;
        if v_reset > period_resets_at.at then
          return v_reset;
        end if;
      end loop;
  end case;
  raise exception 'no reset time for period %', period_resets_at.period;
end $$;
comment on function private.period_resets_at(text, text, timestamptz, timestamptz) is
  'When the period that contains "at" ends: the next midnight of the zone (day), the next monthly anniversary of the sign-up, the last day of shorter months (month), infinity (total).';

create function private.limits_of(user_id uuid)
returns table (meter text, period text, amount bigint, used bigint, held bigint, resets_at timestamptz)
language sql stable security definer set search_path = ''
as $$
  select
    l.meter,
    l.period,
    case when o.user_id is not null then o.amount else l.amount end,
    case when c.resets_at > now() then c.used else 0 end,
    case when c.resets_at > now() then c.held else 0 end,
    case when c.resets_at > now() then c.resets_at
      else private.period_resets_at(l.period, p.quota_time_zone, coalesce(s.created_at, p.created_at), now()) end
  from public.profiles p
    -- The sign-up, also of users who were there before their profile.
    join auth.users s on s.id = p.id
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
    left join private.usage_counters c on c.user_id = p.id and c.meter = l.meter and c.period = l.period
  where p.id = limits_of.user_id
$$;
comment on function private.limits_of(uuid) is
  'Every limit of one account with what is used and held in the running period. Definer: counters are private. Callers pass an id they have checked.';

create function private.remaining(amount bigint, taken bigint) returns bigint
language sql immutable security invoker set search_path = ''
return case when amount is not null then greatest(amount - taken, 0) end;
comment on function private.remaining(bigint, bigint) is 'What is left of an amount, never below zero; null when there is no limit.';

create function private.my_limits()
returns table (meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
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
          else l.used
        end as used
      ) u
    order by l.meter, l.period;
end $$;
comment on function private.my_limits() is 'Behind public.get_my_limits. Definer: counters are private; it answers for the caller only.';
grant execute on function private.my_limits() to authenticated;

create function public.get_my_limits()
returns table (meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamptz)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_limits() $$;
comment on function public.get_my_limits() is
  'The caller''s limits, one row each: units used and held in the running period, the amount allowed (null: no limit), what remains, and when the period ends (null: never).';
grant execute on function public.get_my_limits() to authenticated;

create function private.add_usage(
  user_id uuid, meter text, period text, used bigint, held bigint, resets_at timestamptz
) returns void
language sql volatile security invoker set search_path = ''
as $$
  insert into private.usage_counters as c (user_id, meter, period, used, held, resets_at)
  values (add_usage.user_id, add_usage.meter, add_usage.period, add_usage.used, add_usage.held, add_usage.resets_at)
  on conflict on constraint usage_counters_pkey do update set
    used = case when c.resets_at > now() then c.used else 0 end + excluded.used,
    held = case when c.resets_at > now() then c.held else 0 end + excluded.held,
    resets_at = case when c.resets_at > now() then c.resets_at else excluded.resets_at end
$$;
comment on function private.add_usage(uuid, text, text, bigint, bigint, timestamptz) is
  'Adds to a counter of the running period, or starts the next one. The caller holds the account''s lock and has checked the limit.';

create function private.consume(user_id uuid, meter text, period text, units bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_limit record;
begin
  perform private.lock_account(consume.user_id);
  select l.* into v_limit from private.limits_of(consume.user_id) l
  where l.meter = consume.meter and l.period = consume.period;
  if not found or v_limit.used + v_limit.held + consume.units > v_limit.amount then
    perform private.raise_error(
      case when consume.period = 'day' then 'daily_quota_exceeded' else 'insufficient_quota' end,
      format('The limit of %s %s per %s is reached.', coalesce(v_limit.amount, 0), consume.meter, consume.period),
      format('It resets at %s.', v_limit.resets_at));
  end if;
  perform private.add_usage(consume.user_id, consume.meter, consume.period, consume.units, 0, v_limit.resets_at);
end $$;
comment on function private.consume(uuid, text, text, bigint) is
  'Counts units against a limit or raises daily_quota_exceeded / insufficient_quota; exact however many race, because the account is locked first. Definer: for triggers on users'' tables.';
