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
