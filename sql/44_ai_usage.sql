-- AI usage over time: calls added up by day, for charts and bills, so that nobody reads a year of the log.

insert into private.settings (key, value, rule, description) values
  ('ai.price_drift_percent', '5', '{"type": "number", "minimum": 0, "maximum": 1000}', 'By how many percent what a provider says a day''s calls cost may differ from our prices before an event is raised.')
on conflict (key) do nothing;

create table public.ai_usage_daily (
  user_id uuid not null references auth.users (id) on delete cascade,
  day date not null,
  model_id text not null check (length(model_id) <= 200),
  endpoint text not null check (length(endpoint) <= 40),
  calls bigint not null,
  failed_calls bigint not null,
  prompt_tokens bigint not null,
  completion_tokens bigint not null,
  cached_tokens bigint not null,
  cache_write_tokens bigint not null,
  cache_write_1h_tokens bigint not null,
  audio_input_tokens bigint not null,
  reasoning_tokens bigint not null,
  audio_output_tokens bigint not null,
  images bigint not null,
  searches bigint not null,
  cost_micros bigint not null,
  credits bigint not null,
  project_micros bigint not null,
  primary key (user_id, day, model_id, endpoint)
);
comment on table public.ai_usage_daily is
  'AI calls of a day (UTC) by user, model and endpoint. Written once when the day is over and all its calls have ended; get_my_usage adds what is newer.';
comment on column public.ai_usage_daily.model_id is
  'The model that answered, or that worked in vain at the project''s cost; the one that was asked for when none did; (refused) for refused calls beyond ai.refused_calls_per_hour, which are not in ai_calls.';
comment on column public.ai_usage_daily.calls is 'All calls, also those that failed or were refused for a reason that is noted in ai_calls, or counted under (refused).';
comment on column public.ai_usage_daily.failed_calls is 'Those of them that were not charged.';
comment on column public.ai_usage_daily.cost_micros is 'Micro-dollars at our price.';
comment on column public.ai_usage_daily.project_micros is
  'What providers worked in vain at the project''s cost and not the user''s, in micro-dollars: the project_micros of these calls.';
alter table public.ai_usage_daily enable row level security;
alter table public.ai_usage_daily force row level security;
revoke all on public.ai_usage_daily from anon, authenticated, service_role;
grant select on public.ai_usage_daily to authenticated, service_role;

create table private.ai_usage_days (
  day date primary key,
  added_up_at timestamptz not null default now()
);
comment on table private.ai_usage_days is 'Days that are in ai_usage_daily, also those without any call.';
revoke all on private.ai_usage_days from anon, authenticated, service_role;

create function private.usage_of_calls(from_time timestamptz, to_time timestamptz, of_user uuid default null)
returns setof public.ai_usage_daily
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select c.user_id, (c.created_at at time zone 'UTC')::date, coalesce(c.answered_by, p.model_id, c.model_id), c.endpoint,
      count(*), count(*) filter (where c.usage_source is null or c.usage_source = 'none'),
      coalesce(sum(c.prompt_tokens), 0)::bigint, coalesce(sum(c.completion_tokens), 0)::bigint,
      coalesce(sum(c.cached_tokens), 0)::bigint, coalesce(sum(c.cache_write_tokens), 0)::bigint,
      coalesce(sum(c.cache_write_1h_tokens), 0)::bigint, coalesce(sum(c.audio_input_tokens), 0)::bigint,
      coalesce(sum(c.reasoning_tokens), 0)::bigint, coalesce(sum(c.audio_output_tokens), 0)::bigint,
      coalesce(sum(c.images), 0)::bigint, coalesce(sum(c.searches), 0)::bigint, coalesce(sum(c.cost_micros), 0)::bigint,
      sum(c.credits_charged)::bigint, coalesce(sum(c.project_micros), 0)::bigint
    from public.ai_calls c left join private.price_refs p on p.ref = c.price_ref and c.project_micros is not null
    where c.created_at >= from_time and c.created_at < to_time and (of_user is null or c.user_id = of_user)
    group by 1, 2, 3, 4
    union all
    select r.user_id, (r.hour at time zone 'UTC')::date, '(refused)', r.endpoint, sum(r.counted)::bigint, sum(r.counted)::bigint,
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    from private.ai_refusals r
    where r.hour >= from_time and r.hour < to_time and r.counted > 0 and (of_user is null or r.user_id = of_user)
    group by 1, 2, 4;
end $$;
comment on function private.usage_of_calls(timestamptz, timestamptz, uuid) is
  'Calls that began in [from_time, to_time), added up by user, day (UTC), model and endpoint, and the refused ones that were only counted; of one user, or of all.';

create function private.add_up_ai_usage() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_day date;
  v_from timestamptz;
  v_done integer := 0;
begin
  -- One at a time; a second run finds nothing to do.
  lock table private.ai_usage_days in share row exclusive mode;
  select coalesce((select max(d.day) + 1 from private.ai_usage_days d),
    (select min(c.created_at at time zone 'UTC')::date from public.ai_calls c))
  into v_day;
  loop
    v_from := v_day::timestamp at time zone 'UTC';
    -- A call belongs to the day it began, and is written when it ends.
    exit when v_day is null or v_from + interval '25 hours' > now()
      or exists (select from private.ai_holds h where h.created_at < v_from + interval '1 day');
    insert into public.ai_usage_daily select u.* from private.usage_of_calls(v_from, v_from + interval '1 day') u;
    insert into private.ai_usage_days (day) values (v_day);
    v_done := v_done + 1;
    v_day := v_day + 1;
  end loop;
  delete from private.ai_refusals r where r.hour < (select max(d.day)::timestamp at time zone 'UTC' from private.ai_usage_days d);
  return v_done;
end $$;
comment on function private.add_up_ai_usage() is
  'Adds up every day that is over for an hour and has no running calls, oldest first. A job runs it. Answers how many days.';

create function private.my_usage(from_day date, to_day date) returns setof public.ai_usage_daily
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: it looks which days are added up; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_live_from date;
begin
  if from_day is null or to_day is null or from_day > to_day or to_day - from_day > 366 then
    perform private.raise_error('invalid_request_error', 'from_day and to_day must be dates in this order, at most 366 days apart.');
  end if;
  select greatest(from_day, coalesce(max(d.day) + 1, from_day)) into v_live_from from private.ai_usage_days d;
  return query
    select u.* from public.ai_usage_daily u
    where u.user_id = v_user_id and u.day between from_day and to_day and u.day < v_live_from
    union all
    select u.* from private.usage_of_calls(
      v_live_from::timestamp at time zone 'UTC', (to_day + 1)::timestamp at time zone 'UTC', v_user_id) u
    order by 2, 3, 4;
end $$;
comment on function private.my_usage(date, date) is 'Behind public.get_my_usage.';
grant execute on function private.my_usage(date, date) to authenticated;

create function public.get_my_usage(from_day date, to_day date)
returns table (
  day date, model_id text, endpoint text, calls bigint, failed_calls bigint, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint, audio_input_tokens bigint, reasoning_tokens bigint,
  audio_output_tokens bigint, images bigint, searches bigint, cost_micros bigint, credits bigint)
language sql stable security invoker set search_path = ''
as $$
  select u.day, u.model_id, u.endpoint, u.calls, u.failed_calls, u.prompt_tokens, u.completion_tokens, u.cached_tokens,
    u.cache_write_tokens, u.cache_write_1h_tokens, u.audio_input_tokens, u.reasoning_tokens, u.audio_output_tokens, u.images, u.searches,
    u.cost_micros, u.credits
  from private.my_usage(get_my_usage.from_day, get_my_usage.to_day) u
$$;
comment on function public.get_my_usage(date, date) is
  'The caller''s AI usage from one day to another, both included, at most 366 days apart (UTC): calls, tokens by kind, images, searches, micro-dollars and credits by day, model and endpoint. Up to the minute.';
grant execute on function public.get_my_usage(date, date) to authenticated;

create view private.priced_calls with (security_invoker = true) as
select c.id, c.created_at, c.answered_by, c.provider_id, c.usage_source, c.hold_micros, c.cost_micros, c.provider_cost_micros,
  private.ai_cost_micros(p, c.prompt_tokens, c.cached_tokens, coalesce(c.cache_write_tokens, 0), coalesce(c.cache_write_1h_tokens, 0),
    coalesce(c.audio_input_tokens, 0), c.completion_tokens, c.reasoning_tokens, coalesce(c.audio_output_tokens, 0), c.images,
    coalesce(c.searches, 0)) as micros
from public.ai_calls c join private.price_refs p on p.ref = c.price_ref
where c.usage_source in ('provider', 'estimated');
comment on view private.priced_calls is
  'Calls that were charged for what they used, and what our prices make of it (micros): the same as cost_micros, unless the caller''s own key paid.';
revoke all on private.priced_calls from anon, authenticated, service_role;

create function private.verify_ai_costs(since timestamptz default '-infinity')
returns table (call_id uuid, cost_micros bigint, micros bigint)
language sql stable security invoker set search_path = ''
as $$
  -- With the caller's own key nothing is held, and nothing charged.
  select c.id, c.cost_micros, c.micros from private.priced_calls c
  where c.created_at >= verify_ai_costs.since and c.cost_micros <> c.micros and (c.hold_micros > 0 or c.cost_micros > 0)
$$;
comment on function private.verify_ai_costs(timestamptz) is
  'Calls since a moment that did not cost what their usage comes to by the price in their row. Always empty; run it whenever you like. It reads all these calls.';

create function private.price_drift(from_time timestamptz, to_time timestamptz)
returns table (model_id text, provider_id text, calls bigint, cost_micros bigint, provider_cost_micros bigint, drift_percent numeric)
language sql stable security invoker set search_path = ''
as $$
  -- By our prices, also for calls that the caller's own key paid.
  select c.answered_by, c.provider_id, count(*), sum(c.micros)::bigint, sum(c.provider_cost_micros)::bigint,
    round(100 * (sum(c.provider_cost_micros) - sum(c.micros)) / nullif(sum(c.micros), 0), 1)
  from private.priced_calls c
  where c.created_at >= price_drift.from_time and c.created_at < price_drift.to_time
    and c.provider_cost_micros is not null and c.usage_source = 'provider'
  group by c.answered_by, c.provider_id
  order by abs(sum(c.provider_cost_micros) - sum(c.micros)) desc
$$;
comment on function private.price_drift(timestamptz, timestamptz) is
  'What providers said that calls cost which began in [from_time, to_time), beside what our prices make of the usage they reported, by model and provider; the largest difference first. drift_percent is null where our price is nothing.';

create function private.warn_of_price_drift() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_to timestamptz := date_trunc('day', now() at time zone 'UTC') at time zone 'UTC';
  v_model record;
  v_found integer := 0;
begin
  for v_model in
    select d.model_id as model, d.provider_id as provider, d.calls, d.cost_micros, d.provider_cost_micros, d.drift_percent
    from private.price_drift(v_to - interval '1 day', v_to) d
    -- Both are rounded up, once a call each.
    where abs(d.provider_cost_micros - d.cost_micros) > d.calls + d.cost_micros * (private.setting('ai.price_drift_percent'))::numeric / 100
  loop
    v_found := v_found + 1;
    perform private.raise_security_event('price_drift', 'medium', null, to_jsonb(v_model),
      dedupe_key => left(v_model.model || ' ' || (v_to - interval '1 day')::date, 200));
  end loop;
  return v_found;
end $$;
comment on function private.warn_of_price_drift() is
  'Raises a security event for each model whose provider charged more or less yesterday (UTC) than our prices say, by more than ai.price_drift_percent. A job runs it. Answers how many.';

create function private.warn_of_ai_surprises() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_model record;
  v_told integer := 0;
begin
  for v_model in
    with told as (
      delete from private.ai_surprises s
      where s.call_id in (select o.call_id from private.ai_surprises o order by o.settled_at limit 10000 for update skip locked)
      returning s.*
    ), kinds as (
      select t.*, k.type from told t cross join (values ('ai_overrun'), ('usage_implausible')) k (type)
      where case k.type when 'ai_overrun' then t.cost_micros > t.hold_micros or t.used_tokens > t.hold_tokens else t.implausible is not null end
    )
    select k.type, k.model_id as model, k.provider_id as provider, count(*) as calls, sum(k.hold_micros) as hold_micros,
      sum(k.cost_micros) as cost_micros, sum(k.hold_tokens) as hold_tokens, sum(k.used_tokens) as used_tokens,
      (array_agg(k.call_id order by k.cost_micros - k.hold_micros desc))[1] as call_id, min(k.implausible) as why
    from kinds k group by 1, 2, 3
  loop
    v_told := v_told + 1;
    perform private.raise_security_event(v_model.type, case v_model.type when 'ai_overrun' then 'high' else 'medium' end, null,
      jsonb_strip_nulls(to_jsonb(v_model)) - 'type', dedupe_key => left(v_model.provider || ' ' || v_model.model, 200));
  end loop;
  return v_told;
end $$;
comment on function private.warn_of_ai_surprises() is
  'Raises a security event for each model whose calls cost or used more than they held (ai_overrun: its bound or its provider is wrong, and all of it was charged), and for each whose provider reported what was not believed (usage_implausible): how many calls, what they held and came to, and the id of one. A job runs it. Answers how many it raised.';
