-- Settlement of AI calls: once, to what was used; by the gateway, or by the sweeper for processes that died.

create function private.start_ai_calls(call_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
-- The index also while the table is small, as in admit_ai_calls.
set enable_seqscan = off
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  update private.ai_holds h set started_at = now()
  from (
    select o.call_id from private.ai_holds o where o.call_id = any (call_ids) and o.started_at is null
    order by o.call_id for no key update) o
  where h.call_id = o.call_id;
end $$;
comment on function private.start_ai_calls(uuid[]) is
  'Notes that the first byte went to the callers: if the process dies now, the sweeper charges the hold.';

create function private.return_units(
  inout counts private.meter_counts, hold private.ai_holds, is_charged boolean, tokens bigint, cost_micros bigint
)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_meter record;
  v_held bigint;
  v_used bigint;
begin
  for v_meter in
    select m.slot, m.meter, case m.period when 'day' then hold.day_resets_at when 'month' then hold.month_resets_at else 'infinity' end as resets_at
    from private.meters m where m.is_held and m.meter in ('ai_calls', 'ai_concurrency', 'ai_spend_micros', 'ai_tokens')
  loop
    -- A hold of a period that has ended went with it: resets_at tells.
    continue when counts.resets_at[v_meter.slot] is distinct from v_meter.resets_at;
    case v_meter.meter
      when 'ai_concurrency' then v_held := 1; v_used := 0;
      when 'ai_calls' then v_held := 1; v_used := is_charged::integer;
      when 'ai_tokens' then v_held := hold.prompt_tokens + hold.output_tokens; v_used := tokens;
      when 'ai_spend_micros' then v_held := hold.micros; v_used := cost_micros;
    end case;
    counts.held[v_meter.slot] := counts.held[v_meter.slot] - v_held;
    counts.used[v_meter.slot] := counts.used[v_meter.slot] + v_used;
  end loop;
end $$;
comment on function private.return_units(private.meter_counts, private.ai_holds, boolean, bigint, bigint) is
  'Gives back what a call held of each meter and counts what it used.';

create type private.ai_closing as (answer jsonb, month date, unspent_micros bigint);
comment on type private.ai_closing is 'What closing a call came to, and what of the project''s money it held and did not cost.';

create function private.close_ai_call(
  call_id uuid, user_id uuid, state text, usage jsonb, usage_source text, outcome jsonb
) returns private.ai_closing
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- The same order as admission: the account first, then the call.
  v_account private.accounts := private.lock_account(close_ai_call.user_id);
  v_hold private.ai_holds;
  v_is_charged boolean := usage is not null;
  v_prompt bigint := greatest((usage ->> 'prompt_tokens')::bigint, 0);
  v_completion bigint := greatest((usage ->> 'completion_tokens')::bigint, 0);
  v_cached bigint := greatest((usage ->> 'cached_tokens')::bigint, 0);
  v_reasoning bigint := greatest((usage ->> 'reasoning_tokens')::bigint, 0);
  v_images bigint := greatest((usage ->> 'images')::bigint, 0);
  v_answered_by text;
  v_route jsonb;
  v_credits bigint := 0;
  v_cost bigint := 0;
  v_price public.model_prices;
begin
  delete from private.ai_holds h where h.call_id = close_ai_call.call_id returning h.* into v_hold;
  if not found or v_account.user_id is null then
    return row(jsonb_build_object('settled', false), null::date, 0::bigint)::private.ai_closing;
  end if;
  if v_is_charged then
    v_answered_by := v_hold.model_id;
    v_credits := v_hold.credits;
    if v_hold.routes is not null then
      -- Only a route that was held for can have answered; anything else is charged as the first.
      v_route := coalesce(
        jsonb_path_query_first(v_hold.routes, '$[*] ? (@.model == $model)', jsonb_build_object('model', outcome -> 'model')),
        v_hold.routes -> 0);
      v_answered_by := v_route ->> 'model';
      v_credits := v_route ->> 'credits';
      v_hold.price_valid_from := v_route ->> 'price_valid_from';
      v_hold.provider_id := coalesce((select m.provider_id from public.models m where m.id = v_answered_by), v_hold.provider_id);
    end if;
    select p.* into v_price from public.model_prices p
    where p.model_id = v_answered_by and p.valid_from = v_hold.price_valid_from;
    v_cost := case
      when v_hold.own_key then 0
      when close_ai_call.usage_source = 'hold' then v_hold.micros
      when v_prompt + v_completion + v_images = 0 then 0
      -- The price row was deleted meanwhile.
      when v_price.model_id is null then v_hold.micros
      else private.ai_cost_micros(
        v_price, v_prompt, v_cached, v_completion, v_reasoning, v_images)
    end;
  end if;
  insert into public.ai_calls (
    id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream,
    state, http_status, error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens,
    completion_tokens, cached_tokens, reasoning_tokens, images, usage_source, cost_micros, provider_cost_micros,
    credits_charged, hold_micros, price_valid_from, settled_at)
  values (
    v_hold.call_id, v_hold.created_at, v_hold.user_id, v_hold.session_id, v_hold.api_key_id, v_hold.request_id,
    v_hold.endpoint, v_hold.model_id, v_answered_by, v_hold.provider_id, v_hold.stream,
    close_ai_call.state, (outcome ->> 'http_status')::integer, left(outcome ->> 'error_code', 80),
    coalesce((outcome ->> 'attempts')::integer, 0), v_hold.request_bytes, (outcome ->> 'response_bytes')::bigint,
    (outcome ->> 'duration_ms')::integer, (outcome ->> 'first_token_ms')::integer, v_prompt,
    v_completion, v_cached, v_reasoning, v_images, close_ai_call.usage_source, v_cost,
    case when usage ->> 'cost_usd' is not null then greatest(ceil((usage ->> 'cost_usd')::numeric * 1000000)::bigint, 0) end,
    v_credits, v_hold.micros, v_hold.price_valid_from, now());
  if v_is_charged and outcome ->> 'response' is not null then
    update private.ai_idempotency_keys i set response = outcome ->> 'response', model_id = v_answered_by
    where i.user_id = v_hold.user_id and i.endpoint = v_hold.endpoint and i.call_id = v_hold.call_id;
  end if;
  if v_hold.api_key_id is not null then
    update private.api_key_usage u set
      counts = private.return_units(u.counts, v_hold, v_is_charged, v_prompt + v_completion, v_cost)
    where u.api_key_id = v_hold.api_key_id;
  end if;
  if v_credits > 0 then
    insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
    values (v_hold.user_id, -v_credits, 'ai_call', left('AI call: ' || v_answered_by, 200),
      'ai_call:' || v_hold.call_id, v_account.balance - v_credits);
  end if;
  update private.accounts a set
    held = v_account.held - v_hold.credits,
    balance = v_account.balance - v_credits,
    unburned = v_account.unburned + v_credits,
    counts = private.return_units(v_account.counts, v_hold, v_is_charged, v_prompt + v_completion, v_cost)
  where a.user_id = v_hold.user_id;
  return row(
    jsonb_build_object(
      'settled', true, 'cost_micros', v_cost, 'credits_charged', v_credits,
      'credits_remaining', v_account.balance - v_credits - v_account.held + v_hold.credits),
    date_trunc('month', v_hold.created_at at time zone 'UTC')::date, v_hold.micros - v_cost);
end $$;
comment on function private.close_ai_call(uuid, uuid, text, jsonb, text, jsonb) is
  'The one way for a hold to end: charges usage (null: nothing), gives back the rest, writes the ledger and the call''s row, in one transaction; {settled: false} when the call was closed before, or its account is gone.';

create function private.settle_plain_ai_calls(settlements jsonb)
returns table (at_position integer, answer jsonb, month date, unspent_micros bigint)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Slots, by their names in private.meters; a test compares them.
  c_ai_concurrency constant integer := 5;
  c_ai_calls constant integer := 6;
  c_ai_tokens constant integer := 7;
  c_ai_spend_micros constant integer := 8;
begin
  return query
  with outcomes as materialized (
    select distinct on (r.call_id) r.call_id, r.position, o.*, u.*, coalesce(jsonb_typeof(o.usage) = 'object', false) as is_charged
    from rows from (jsonb_to_recordset(settlements) as (call_id uuid, outcome jsonb)) with ordinality r (call_id, outcome, position)
      cross join lateral jsonb_to_record(r.outcome) o (
        result text, http_status integer, error_code text, usage jsonb, usage_source text, response_bytes bigint,
        duration_ms integer, first_token_ms integer, attempts integer, response text)
      cross join lateral jsonb_to_record(case when jsonb_typeof(o.usage) = 'object' then o.usage else '{}' end) u (
        prompt_tokens bigint, completion_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, images bigint, cost_usd numeric)
    where o.result in ('succeeded', 'failed', 'cancelled') and (o.result <> 'succeeded' or jsonb_typeof(o.usage) = 'object')
      and coalesce(jsonb_typeof(o.usage), 'null') in ('object', 'null') and o.response is null
    order by r.call_id, r.position
  ), ended as (
    delete from private.ai_holds h
    using outcomes o, private.accounts a
    where h.call_id = o.call_id and a.user_id = h.user_id and h.routes is null and h.api_key_id is null and not h.own_key and a.next_expiry_at > now()
    returning h.*, o.position, o.is_charged, o.http_status, o.error_code, o.attempts, o.response_bytes, o.duration_ms, o.first_token_ms,
      coalesce(o.usage_source, 'none') as usage_source,
      greatest(o.prompt_tokens, 0) as used_prompt,
      greatest(o.completion_tokens, 0) as used_completion,
      greatest(o.cached_tokens, 0) as used_cached,
      greatest(o.reasoning_tokens, 0) as used_reasoning,
      greatest(o.images, 0) as used_images,
      case when o.is_charged and o.cost_usd is not null then greatest(ceil(o.cost_usd * 1000000)::bigint, 0) end as provider_cost
  ), priced as materialized (
    select e.*, case when e.is_charged then e.credits else 0 end as charged,
      case
        when not e.is_charged then 0
        when e.usage_source = 'hold' then e.micros
        when e.used_prompt + e.used_completion + e.used_images = 0 then 0
        -- The price row was deleted meanwhile.
        when p.model_id is null then e.micros
        else private.ai_cost_micros(p, e.used_prompt, e.used_cached, e.used_completion, e.used_reasoning, e.used_images)
      end as cost
    from ended e left join public.model_prices p on p.model_id = e.model_id and p.valid_from = e.price_valid_from
  ), freed as materialized (
    select p.user_id, count(*) as calls, sum(p.credits)::bigint as credits, sum(p.charged)::bigint as charged,
      -- A hold of a period that has ended went with it: resets_at tells.
      count(*) filter (where d.is_today) as held_calls, count(*) filter (where d.is_today and p.is_charged) as used_calls,
      coalesce(sum(p.prompt_tokens + p.output_tokens) filter (where d.is_this_month), 0)::bigint as held_tokens,
      coalesce(sum(p.used_prompt + p.used_completion) filter (where d.is_this_month), 0)::bigint as used_tokens,
      coalesce(sum(p.micros) filter (where d.is_this_month), 0)::bigint as held_micros,
      coalesce(sum(p.cost) filter (where d.is_this_month), 0)::bigint as used_micros
    from priced p
      join private.accounts a on a.user_id = p.user_id
      cross join lateral (select
        p.day_resets_at = (a.counts).resets_at[c_ai_calls] as is_today,
        p.month_resets_at = (a.counts).resets_at[c_ai_tokens] as is_this_month) d
    group by p.user_id
  ), returned as (
    update private.accounts a set
      held = a.held - f.credits,
      balance = a.balance - f.charged,
      unburned = a.unburned + f.charged,
      counts.held[c_ai_concurrency] = (a.counts).held[c_ai_concurrency] - f.calls,
      counts.held[c_ai_calls] = (a.counts).held[c_ai_calls] - f.held_calls,
      counts.used[c_ai_calls] = (a.counts).used[c_ai_calls] + f.used_calls,
      counts.held[c_ai_tokens] = (a.counts).held[c_ai_tokens] - f.held_tokens,
      counts.used[c_ai_tokens] = (a.counts).used[c_ai_tokens] + f.used_tokens,
      counts.held[c_ai_spend_micros] = (a.counts).held[c_ai_spend_micros] - f.held_micros,
      counts.used[c_ai_spend_micros] = (a.counts).used[c_ai_spend_micros] + f.used_micros
    from freed f
    where a.user_id = f.user_id
    returning a.user_id, a.balance + f.charged as balance_before, a.balance - a.held as credits_remaining
  ), logged as (
    insert into public.ai_calls (
      id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream,
      state, http_status, error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens,
      completion_tokens, cached_tokens, reasoning_tokens, images, usage_source, cost_micros, provider_cost_micros,
      credits_charged, hold_micros, price_valid_from, settled_at)
    select p.call_id, p.created_at, p.user_id, p.session_id, p.api_key_id, p.request_id, p.endpoint, p.model_id,
      case when p.is_charged then p.model_id end, p.provider_id, p.stream, case when p.is_charged then 'settled' else 'released' end,
      p.http_status, left(p.error_code, 80), coalesce(p.attempts, 0), p.request_bytes, p.response_bytes, p.duration_ms, p.first_token_ms,
      p.used_prompt, p.used_completion, p.used_cached, p.used_reasoning, p.used_images, p.usage_source, p.cost, p.provider_cost,
      p.charged, p.micros, p.price_valid_from, now()
    from priced p
  ), booked as (
    insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
    select p.user_id, -p.charged, 'ai_call', left('AI call: ' || p.model_id, 200), 'ai_call:' || p.call_id,
      r.balance_before - sum(p.charged) over (partition by p.user_id order by p.position)
    from priced p join returned r on r.user_id = p.user_id
    where p.charged > 0
  )
  select p.position::integer,
    jsonb_build_object('settled', true, 'cost_micros', p.cost, 'credits_charged', p.charged, 'credits_remaining', r.credits_remaining),
    date_trunc('month', p.created_at at time zone 'UTC')::date, p.micros - p.cost
  from priced p join returned r on r.user_id = p.user_id;
end $$;
comment on function private.settle_plain_ai_calls(jsonb) is
  'Ends, in one statement, what most calls are: of a session, by one route, without an answer to keep. The same as private.close_ai_call, which the others take. The caller has locked the accounts in a statement before this one.';

create function private.settle_ai_calls(settlements jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
-- Indexes also while tables are small: the plans of an empty project must be those of a full one.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_call_id uuid;
  v_user_id uuid;
  v_outcome jsonb;
  v_usage jsonb;
  v_closing private.ai_closing;
  v_answers jsonb[];
  v_months date[];
  v_unspent bigint[];
  v_back record;
begin
  -- All accounts first, in the order in which admissions take them, too.
  perform a.user_id
  from jsonb_to_recordset(settlements) r (call_id uuid)
    join private.ai_holds h on h.call_id = r.call_id
    join private.accounts a on a.user_id = h.user_id
  order by a.user_id for no key update of a;
  select coalesce(array_agg(p.answer order by i), '{}'), array_agg(p.month order by i), array_agg(p.unspent_micros order by i)
  into v_answers, v_months, v_unspent
  from generate_series(1, jsonb_array_length(settlements)) i left join private.settle_plain_ai_calls(settlements) p on p.at_position = i;
  for i in 1..cardinality(v_answers) loop
    continue when v_answers[i] is not null;
    v_call_id := settlements -> (i - 1) ->> 'call_id';
    v_outcome := settlements -> (i - 1) -> 'outcome';
    if v_outcome ->> 'result' not in ('succeeded', 'failed', 'cancelled') or v_outcome ->> 'result' is null then
      perform private.raise_error('invalid_request_error', 'result must be succeeded, failed or cancelled.');
    elsif v_outcome ->> 'result' = 'succeeded' and jsonb_typeof(v_outcome -> 'usage') is distinct from 'object' then
      perform private.raise_error('invalid_request_error', 'A call that succeeded needs its usage, reported or estimated.');
    end if;
    select h.user_id into v_user_id from private.ai_holds h where h.call_id = v_call_id;
    if not found and not exists (
      select from public.ai_calls c where c.id = v_call_id and c.created_at = private.uuid_v7_time(v_call_id)
    ) then
      perform private.raise_error('not_found', 'There is no such call.');
    end if;
    v_usage := nullif(v_outcome -> 'usage', 'null'::jsonb);
    v_closing := private.close_ai_call(
      v_call_id, v_user_id, case when v_usage is null then 'released' else 'settled' end,
      v_usage, coalesce(v_outcome ->> 'usage_source', 'none'), v_outcome);
    v_answers[i] := v_closing.answer;
    v_months[i] := v_closing.month;
    v_unspent[i] := v_closing.unspent_micros;
  end loop;
  for v_back in
    select m.month, sum(m.micros)::bigint as micros from unnest(v_months, v_unspent) m (month, micros)
    where m.month is not null group by m.month having sum(m.micros) <> 0 order by m.month
  loop
    perform private.give_back_spend(v_back.month, v_back.micros);
  end loop;
  return to_jsonb(v_answers);
end $$;
comment on function private.settle_ai_calls(jsonb) is
  'Ends held calls, each exactly once, in one transaction. Takes an array of {call_id, outcome: {result: succeeded | failed | cancelled, http_status, error_code, usage: {prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, images, cost_usd} or null, usage_source, response_bytes, duration_ms, first_token_ms, attempts, model, response}}; usage null costs nothing; model is the route that answered. Answers, in the same order, {settled, cost_micros, credits_charged, credits_remaining}; settled is false when the call was closed before.';

create function private.settle_ai_call(call_id uuid, outcome jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  return private.settle_ai_calls(jsonb_build_array(jsonb_build_object('call_id', call_id, 'outcome', outcome))) -> 0;
end $$;
comment on function private.settle_ai_call(uuid, jsonb) is 'One call alone; see private.settle_ai_calls.';

create function private.settle_abandoned_ai_calls(batch_size integer default 100, of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
-- The index also while the table is small, as in admit_ai_calls.
set enable_seqscan = off
as $$
declare
  v_found record;
  v_hold private.ai_holds;
  v_closing private.ai_closing;
  v_closed integer := 0;
begin
  for v_found in
    select d.* from (
      select h.call_id, h.user_id from private.ai_holds h
      where h.expires_at < now() and (of_user is null or h.user_id = of_user)
      order by h.expires_at limit batch_size) d
    order by d.user_id
  loop
    perform private.lock_account(v_found.user_id);
    -- Read again under the lock: meanwhile it may have been settled, or its answer may have begun.
    select h.* into v_hold from private.ai_holds h where h.call_id = v_found.call_id for update;
    continue when not found;
    begin
      v_closing := private.close_ai_call(
        v_hold.call_id,
        v_hold.user_id,
        'expired',
        case when v_hold.started_at is not null then jsonb_build_object(
          'prompt_tokens', v_hold.prompt_tokens, 'completion_tokens', v_hold.output_tokens) end,
        case when v_hold.started_at is not null then 'hold' else 'none' end,
        jsonb_build_object('http_status', 500, 'error_code', 'abandoned'));
      if v_closing.month is not null then
        perform private.give_back_spend(v_closing.month, v_closing.unspent_micros);
      end if;
      v_closed := v_closed + 1;
    exception when others then
      -- One call that cannot be closed must not keep the others open; the next run tries it again.
      raise warning 'AI call % cannot be settled: % %', v_hold.call_id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_closed;
end $$;
comment on function private.settle_abandoned_ai_calls(integer, uuid) is
  'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it, and so does an admission that finds everything held, for its user; harmless at any time. Answers how many it closed.';

create function private.report_ai_attempts(reports jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_report record;
begin
  for v_report in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as model_id, (r.value ->> 'ok')::boolean as is_ok
    from jsonb_array_elements(reports) r
      join public.models m on m.id = r.value ->> 'model' and m.provider_id = r.value ->> 'provider'
    order by 1, 2
  loop
    if v_report.is_ok then
      delete from private.circuit_breakers b where b.provider_id = v_report.provider_id and b.model_id = v_report.model_id;
    else
      insert into private.circuit_breakers as b (provider_id, model_id, failures)
      values (v_report.provider_id, v_report.model_id, 1)
      on conflict on constraint circuit_breakers_pkey do update set
        -- Failures that are far apart are no outage; a half-open breaker opens again at the first.
        failures = case when b.open_until is null
          and b.last_failed_at < now() - make_interval(secs => (private.setting('ai.breaker_window_seconds'))::integer)
          then 1 else b.failures + 1 end,
        last_failed_at = now(),
        probe_until = null;
      update private.circuit_breakers b set
        open_until = now() + make_interval(secs => (private.setting('ai.breaker_open_seconds'))::integer)
      where b.provider_id = v_report.provider_id and b.model_id = v_report.model_id
        and b.failures >= (private.setting('ai.breaker_failures'))::integer
        and (b.open_until is null or b.open_until <= now());
    end if;
  end loop;
end $$;
comment on function private.report_ai_attempts(jsonb) is
  'Tells the breakers how askings of providers went: an array of {provider, model, ok}. ai.breaker_failures failures within ai.breaker_window_seconds of each other open one for ai.breaker_open_seconds; a success closes it.';

create function private.list_ai_models(caller jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_caller record;
  v_account record;
  v_refusal jsonb;
begin
  select c.* into v_caller from private.ai_caller(caller, 'models') c;
  v_refusal := v_caller.refusal;
  if v_refusal is null then
    select a.* into v_account from private.check_account(v_caller.user_id, v_caller.session_id, v_caller.api_key_id is not null) a;
    v_refusal := v_account.refusal;
  end if;
  if v_refusal is not null then
    return jsonb_build_object('allowed', false) || v_refusal;
  end if;
  return jsonb_build_object('allowed', true, 'models', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', m.id, 'owned_by', m.provider_id, 'created', floor(extract(epoch from m.created_at)), 'kind', m.kind) order by m.id)
    from public.models m
      join public.plan_models pm on pm.model_id = m.id and pm.plan_id = v_account.plan_id
      join private.providers pr on pr.id = m.provider_id and pr.enabled
    where m.enabled and exists (
      select from public.model_prices p where p.model_id = m.id and p.valid_from <= now())
  ), '[]'));
end $$;
comment on function private.list_ai_models(jsonb) is
  'Takes a caller as private.ai_caller does. The models the account''s plan may use: {allowed: true, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

create function private.delete_old_idempotency_keys() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.ai_idempotency_keys i where i.created_at < now() - interval '24 hours';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_idempotency_keys() is 'Forgets keys and their answers after 24 hours. A job runs it. Answers how many.';

create function private.verify_accounts()
returns table (user_id uuid, balance bigint, entries_sum bigint, lots_sum bigint, held bigint, open_holds bigint)
language sql stable security invoker set search_path = ''
as $$
  select a.user_id, a.balance, e.amount, l.remaining - a.unburned, a.held, h.credits
  from private.accounts a
    cross join lateral (
      select coalesce(sum(c.amount), 0)::bigint as amount from public.credit_entries c where c.user_id = a.user_id) e
    cross join lateral (
      select coalesce(sum(c.remaining), 0)::bigint as remaining from private.credit_lots c where c.user_id = a.user_id) l
    cross join lateral (
      select coalesce(sum(c.credits), 0)::bigint as credits, count(*)::bigint as calls
      from private.ai_holds c where c.user_id = a.user_id) h
    left join private.meters m on m.meter = 'ai_concurrency'
  where a.balance <> e.amount or a.balance <> l.remaining - a.unburned or a.held <> h.credits
    or coalesce((a.counts).held[m.slot], 0) <> h.calls
$$;
comment on function private.verify_accounts() is
  'Accounts whose balance is not the sum of their entries, or of what remains of their lots, or whose holds are not those of their open calls. Always empty; run it whenever you like.';
