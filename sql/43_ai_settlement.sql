-- Settlement of AI calls: once, to what was used; by the gateway, or by the sweeper for processes that died.

create function private.start_ai_calls(call_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  -- One that somebody has locked is being ended.
  update private.ai_holds h set started_at = now()
  from (
    select o.call_id from private.ai_holds o where o.call_id = any (call_ids) and o.started_at is null
    for no key update skip locked) o
  where h.call_id = o.call_id;
end $$;
comment on function private.start_ai_calls(uuid[]) is
  'Notes that the callers have begun to get answers: if the process dies now, the sweeper charges the hold.';

create type private.ai_outcome as (
  call_id uuid, user_id uuid, result text, http_status integer, error_code text, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint, audio_input_tokens bigint, reasoning_tokens bigint,
  audio_output_tokens bigint, images bigint, searches bigint, cost_usd numeric, usage_source text, implausible text, response_bytes bigint,
  duration_ms integer, first_token_ms integer, attempts integer, price_ref integer, response text, late_prompt_tokens bigint,
  late_completion_tokens bigint);
comment on type private.ai_outcome is
  'How a call of a user ended: result is succeeded, failed or cancelled. prompt_tokens null: nothing is charged. usage_source project: what it used is the project''s loss and not the caller''s. implausible says why what the provider reported was not believed. price_ref is the route that answered, by the step that its prompt reached; response its whole answer, when it is to be kept for the same idempotency key. late_prompt_tokens and late_completion_tokens are what a provider worked in vain, by estimate, before an answer came: the project''s loss, as far as the answer leaves something of the hold. abandoned, the sweeper''s own: charged what was held if the answer had begun.';

create type private.ai_ended as (
  position integer, call_id uuid, user_id uuid, created_at timestamptz, session_id uuid, api_key_id uuid, request_id text, endpoint text,
  model_id text, answered_by text, provider_id text, stream boolean, state text, http_status integer, error_code text, attempts integer,
  request_bytes bigint, response_bytes bigint, duration_ms integer, first_token_ms integer, prompt_tokens bigint, completion_tokens bigint,
  cached_tokens bigint, cache_write_tokens integer, cache_write_1h_tokens integer, audio_input_tokens integer, reasoning_tokens bigint,
  audio_output_tokens integer, images bigint, searches integer, usage_source text, cost_micros bigint, provider_cost_micros bigint,
  credits_charged bigint, hold_micros bigint, price_valid_from timestamptz, price_ref integer, hold_credits bigint, hold_tokens bigint,
  is_charged boolean, is_today boolean, is_this_month boolean, day_resets_at timestamptz, month_resets_at timestamptz, response text,
  implausible text, project_micros bigint);
comment on type private.ai_ended is
  'A call that has ended, as its row in ai_calls says it, beside what it held, and whether that belongs to the day and the month that its account is in.';

create table private.ai_surprises (
  call_id uuid primary key,
  settled_at timestamptz not null default clock_timestamp(),
  model_id text not null,
  provider_id text not null,
  hold_micros bigint not null,
  cost_micros bigint not null,
  hold_tokens bigint not null,
  used_tokens bigint not null,
  implausible text
);
comment on table private.ai_surprises is
  'Calls that cost or used more than they held, and those whose provider reported what was not believed, until private.warn_of_ai_surprises tells of them: the audit log has a lock that a settlement must not hold. Its texts are as long as those of price_refs and private.ai_outcome.';
revoke all on private.ai_surprises from anon, authenticated, service_role;

create function private.end_ai_holds(outcomes private.ai_outcome[]) returns private.ai_ended[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ended private.ai_ended[];
begin
  -- Each hold ends once; an outcome that does not say what is charged ends none.
  with ended as (
    delete from private.ai_holds h
    using unnest(outcomes) with ordinality o (
      id, owner, result, http_status, error_code, used_prompt, used_completion, used_cached, used_cache_write, used_cache_write_1h,
      used_audio_input, used_reasoning, used_audio_output, used_images, used_searches, cost_usd, usage_source, implausible, response_bytes,
      duration_ms, first_token_ms, attempts, answered_ref, response, late_prompt, late_completion, position)
    where h.call_id = o.id and h.user_id = o.owner
      and case o.result when 'succeeded' then o.used_prompt is not null when 'abandoned' then h.expires_at < now()
        else o.result in ('failed', 'cancelled') end
    returning h.*, o.*
  ), used as (
    -- Nothing is less than nothing, or more than private.ai_cost_micros takes. An abandoned call is charged for all it held, once its
    -- answer had begun.
    select e.*, case e.result when 'abandoned' then e.started_at is not null else e.used_prompt is not null and e.usage_source is distinct from 'project' end as is_charged,
      case e.result when 'abandoned' then case when e.started_at is not null then e.prompt_tokens end else least(greatest(e.used_prompt, 0), 100000000) end as prompt,
      case e.result when 'abandoned' then case when e.started_at is not null then e.output_tokens end else least(greatest(e.used_completion, 0), 100000000) end
        as completion,
      least(greatest(e.used_cached, 0), 100000000) as cached, least(greatest(e.used_cache_write, 0), 100000000) as cache_write,
      least(greatest(e.used_cache_write_1h, 0), 100000000) as cache_write_1h, least(greatest(e.used_audio_input, 0), 100000000) as audio_input,
      least(greatest(e.used_reasoning, 0), 100000000) as reasoning, least(greatest(e.used_audio_output, 0), 100000000) as audio_output,
      least(greatest(e.used_images, 0), 10000) as images, least(greatest(e.used_searches, 0), 10000) as searches,
      least(greatest(coalesce(e.late_prompt, 0), 0), 100000000) as late_in, least(greatest(coalesce(e.late_completion, 0), 0), 100000000) as late_out,
      -- Only a route that was held for can have answered; anything else is charged as the first.
      case when e.answered_ref = any (e.fallback_refs) then e.answered_ref else e.price_ref end as charged_ref
    from ended e
    -- What is worked out here is so once, and not wherever it is used.
    offset 0
  )
  select array_agg(row(
    u.position, u.call_id, u.user_id, u.created_at, u.session_id, u.api_key_id, u.request_id, u.endpoint, u.model_id,
    case when u.is_charged then p.model_id end, p.provider_id, u.stream,
    case when u.result = 'abandoned' then 'expired' when u.is_charged then 'settled' else 'released' end,
    u.http_status, left(u.error_code, 80), coalesce(u.attempts, 0), u.request_bytes, u.response_bytes, u.duration_ms, u.first_token_ms,
    case when u.usage_source = 'project' then 0 else u.prompt end, case when u.usage_source = 'project' then 0 else u.completion end, u.cached, nullif(u.cache_write, 0), nullif(u.cache_write_1h, 0), nullif(u.audio_input, 0), u.reasoning,
    nullif(u.audio_output, 0), u.images, nullif(u.searches, 0),
    case when u.result <> 'abandoned' then coalesce(nullif(u.usage_source, 'project'), 'none') when u.is_charged then 'hold' else 'none' end,
    c.cost, case when u.is_charged and u.cost_usd is not null then greatest(least(ceil(u.cost_usd * 1000000), 1e12), 0)::bigint end,
    case when u.is_charged and not u.own_key then p.credits else 0 end, u.micros, p.valid_from, p.ref,
    u.credits, u.prompt_tokens + u.output_tokens, u.is_charged, u.day_resets_at = a.day_resets_at, u.month_resets_at = a.month_resets_at,
    u.day_resets_at, u.month_resets_at, u.response, u.implausible,
    case
      when u.own_key then null
      -- From what the caller leaves of the hold: the cap knows of no more.
      when u.usage_source = 'project' or u.late_in + u.late_out > 0 then
        greatest(least(u.micros - c.cost, case when u.usage_source = 'project' then w.cost else 0 end
          + private.ai_cost_micros(p, u.late_in, 0, 0, 0, 0, u.late_out, 0, 0, 0, 0)), 0)
    end)::private.ai_ended)
  into v_ended
  from used u join private.price_refs p on p.ref = u.charged_ref join private.accounts a on a.user_id = u.user_id,
    lateral (
      select private.ai_cost_micros(p, u.prompt, u.cached, u.cache_write, u.cache_write_1h, u.audio_input, u.completion, u.reasoning,
        u.audio_output, u.images, u.searches) as cost offset 0) w,
    lateral (
      select case when not u.is_charged or u.own_key then 0 when u.result = 'abandoned' or u.usage_source = 'hold' then u.micros
        else w.cost end as cost offset 0) c;
  return v_ended;
end $$;
comment on function private.end_ai_holds(private.ai_outcome[]) is
  'Takes the holds of calls away and says what each comes to. The caller has locked their accounts in a statement before this one, and gives back what they held.';

create type private.ai_left as (user_id uuid, calls bigint, balance_before bigint, credits_remaining bigint);
comment on type private.ai_left is 'An account after so many calls of it have ended, and its balance before.';

create function private.charge_ai_calls(ended private.ai_ended[]) returns private.ai_left[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_left private.ai_left[];
begin
  -- Each account gets back what its calls held, as far as it is of the period the account is in, and pays what they cost.
  with charged as (
    update private.accounts a set
      held = a.held - f.hold_credits,
      balance = a.balance - f.credits,
      unburned = a.unburned + f.credits,
      ai_concurrency_held = a.ai_concurrency_held - f.calls,
      ai_calls_held = a.ai_calls_held - f.held_calls,
      ai_calls_used = a.ai_calls_used + f.used_calls,
      ai_tokens_held = a.ai_tokens_held - f.held_tokens,
      ai_tokens_used = a.ai_tokens_used + f.used_tokens,
      ai_spend_micros_held = a.ai_spend_micros_held - f.held_micros,
      ai_spend_micros_used = a.ai_spend_micros_used + f.used_micros
    from (
      select e.user_id, count(*) as calls, sum(e.hold_credits)::bigint as hold_credits, sum(e.credits_charged)::bigint as credits,
        count(*) filter (where e.is_today) as held_calls, count(*) filter (where e.is_today and e.is_charged) as used_calls,
        coalesce(sum(e.hold_tokens) filter (where e.is_this_month), 0)::bigint as held_tokens,
        coalesce(sum(e.prompt_tokens + coalesce(e.completion_tokens, 0)) filter (where e.is_this_month), 0)::bigint as used_tokens,
        coalesce(sum(e.hold_micros) filter (where e.is_this_month), 0)::bigint as held_micros,
        coalesce(sum(e.cost_micros) filter (where e.is_this_month), 0)::bigint as used_micros
      from unnest(ended) e group by e.user_id) f
    where a.user_id = f.user_id
    returning a.user_id, f.calls, a.balance + f.credits as balance_before, a.balance - a.held as credits_remaining
  )
  select array_agg(row(c.user_id, c.calls, c.balance_before, c.credits_remaining)::private.ai_left) into v_left from charged c;
  return v_left;
end $$;
comment on function private.charge_ai_calls(private.ai_ended[]) is
  'Gives back what ended calls held of their accounts, and takes what they cost.';

create function private.log_ai_calls(ended private.ai_ended[], accounts private.ai_left[]) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- Under the accounts' locks: in the order of these moments their calls were charged.
  v_now timestamptz := clock_timestamp();
begin
  return query
  with calls as materialized (
    select e.*, l.credits_remaining, v_now + e.position * interval '1 microsecond' as settled_at,
      -- Of one call alone, as most are here, this is a twentieth of a settlement cheaper than a window over all of them.
      l.balance_before - case when l.calls = 1 then e.credits_charged
        else (select sum(p.credits_charged)::bigint from unnest(ended) p where p.user_id = e.user_id and p.position <= e.position) end as balance_after
    from unnest(ended) e join unnest(accounts) l on l.user_id = e.user_id
  ), logged as (
    insert into public.ai_calls (
      id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, answered_by, provider_id, stream, state, http_status,
      error_code, attempts, request_bytes, response_bytes, duration_ms, first_token_ms, prompt_tokens, completion_tokens, cached_tokens,
      cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, images, searches, usage_source,
      cost_micros, provider_cost_micros, project_micros, credits_charged, balance_after, hold_micros, price_valid_from, price_ref, settled_at)
    select c.call_id, c.created_at, c.user_id, c.session_id, c.api_key_id, c.request_id, c.endpoint, c.model_id, c.answered_by, c.provider_id,
      c.stream, c.state, c.http_status, c.error_code, c.attempts, c.request_bytes, c.response_bytes, c.duration_ms, c.first_token_ms,
      c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.cache_write_tokens, c.cache_write_1h_tokens, c.audio_input_tokens,
      c.reasoning_tokens, c.audio_output_tokens, c.images, c.searches, c.usage_source, c.cost_micros, c.provider_cost_micros, c.project_micros,
      c.credits_charged, case when c.credits_charged > 0 then c.balance_after end, c.hold_micros, c.price_valid_from, c.price_ref, c.settled_at
    from calls c
  )
  select c.position, true, c.call_id, c.user_id, null::jsonb, null::text, c.cost_micros, c.credits_charged, c.credits_remaining,
    null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint
  from calls c;
end $$;
comment on function private.log_ai_calls(private.ai_ended[], private.ai_left[]) is
  'Writes the rows of calls that have ended, which are their entries in the ledger, too, and answers what they came to.';

create function private.settle_ai_calls(outcomes private.ai_outcome[]) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ended private.ai_ended[] := private.end_ai_holds(outcomes);
  v_have record;
begin
  if v_ended is not null then
    return query select l.* from private.log_ai_calls(v_ended, private.charge_ai_calls(v_ended)) l;
    select bool_or(e.api_key_id is not null) as keys, bool_or(e.response is not null and e.is_charged) as answers,
      bool_or(e.implausible is not null or e.cost_micros > e.hold_micros or e.prompt_tokens + e.completion_tokens > e.hold_tokens) as surprises,
      sum(e.hold_micros - e.cost_micros - coalesce(e.project_micros, 0))::bigint as unspent, date_trunc('month', min(e.created_at) at time zone 'UTC')::date as first_month,
      date_trunc('month', max(e.created_at) at time zone 'UTC')::date as last_month
    into v_have from unnest(v_ended) e;
    if v_have.keys then
      perform private.return_key_units(v_ended);
    end if;
    if v_have.answers then
      update private.ai_idempotency_keys i set response = e.response, model_id = e.answered_by
      from unnest(v_ended) e
      where i.user_id = e.user_id and i.endpoint = e.endpoint and i.call_id = e.call_id and e.is_charged and octet_length(e.response) <= 1000000;
    end if;
    if v_have.surprises then
      insert into private.ai_surprises (call_id, model_id, provider_id, hold_micros, cost_micros, hold_tokens, used_tokens, implausible)
      select e.call_id, coalesce(e.answered_by, e.model_id), e.provider_id, e.hold_micros, e.cost_micros, e.hold_tokens,
        coalesce(e.prompt_tokens + e.completion_tokens, 0), left(e.implausible, 200)
      from unnest(v_ended) e
      where e.implausible is not null or e.cost_micros > e.hold_micros or e.prompt_tokens + e.completion_tokens > e.hold_tokens;
    end if;
    if v_have.first_month = v_have.last_month then
      perform private.give_back_spend(v_have.first_month, v_have.unspent);
    else
      perform private.give_back_spend_by_month(v_ended);
    end if;
  end if;
  if cardinality(outcomes) > coalesce(cardinality(v_ended), 0) then
    return query select l.* from private.closed_before(outcomes, v_ended) l;
  end if;
end $$;
comment on function private.settle_ai_calls(private.ai_outcome[]) is
  'The one way out: ends calls, each exactly once, charges what they used, gives back the rest and writes their rows, in one transaction. Answers one row for each outcome. The caller has locked the accounts in a statement before this one, so that it sees, under read committed, what nobody can change any more.';

create function private.give_back_spend_by_month(ended private.ai_ended[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_month record;
begin
  -- The earlier month first, as everybody does: what cost more than it held may have to wait for all of a month.
  for v_month in
    select date_trunc('month', e.created_at at time zone 'UTC')::date as month,
      sum(e.hold_micros - e.cost_micros - coalesce(e.project_micros, 0))::bigint as micros
    from unnest(ended) e group by 1 order by 1
  loop
    perform private.give_back_spend(v_month.month, v_month.micros);
  end loop;
end $$;
comment on function private.give_back_spend_by_month(private.ai_ended[]) is
  'Gives back what calls of several months held and did not cost, or books what they cost more, a month after the other.';

create function private.closed_before(outcomes private.ai_outcome[], ended private.ai_ended[]) returns setof private.ai_answer
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_outcome record;
  v_answer private.ai_answer;
begin
  for v_outcome in
    select o.* from unnest(outcomes) with ordinality o
    where not exists (select from unnest(ended) e where e.position = o.ordinality)
  loop
    if v_outcome.result in ('succeeded', 'failed', 'cancelled', 'abandoned') is not true then
      perform private.raise_error('invalid_request_error', 'result must be succeeded, failed or cancelled.');
    elsif v_outcome.result = 'succeeded' and v_outcome.prompt_tokens is null then
      perform private.raise_error('invalid_request_error', 'A call that succeeded needs its usage, reported or estimated.');
    elsif not exists (
      select from public.ai_calls c
      where c.user_id = v_outcome.user_id and c.created_at = private.uuid_v7_time(v_outcome.call_id) and c.id = v_outcome.call_id) then
      perform private.raise_error('not_found', 'There is no such call.');
    end if;
    v_answer.position := v_outcome.ordinality;
    v_answer.settles := true;
    return next v_answer;
  end loop;
end $$;
comment on function private.closed_before(private.ai_outcome[], private.ai_ended[]) is
  'Answers for outcomes that ended nothing: closed before, or raises not_found or invalid_request_error for what never was, or says nothing.';

-- One call alone ------------------------------------------------------------------------------------------------------

-- The same as above for what most calls are, without lists: half the time. A property test compares both; whatever is not plain, or does
-- not fit, goes the way above, which also says why not.
-- Each is one function, longer than others: a call of another one inside, and the row handed to it, would cost every call microseconds.

create function private.admit_one_ai_call(r private.ai_request, version bigint) returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  l record;
  a record;
  v_answer private.ai_answer;
  v_call_id uuid;
  v_now timestamptz := now();
  v_created_at timestamptz := date_trunc('milliseconds', clock_timestamp());
begin
  if r.key_hash is not null or r.idempotency_key is not null or r.credential_id is not null or r.probes or r.price_refs is null
    or r.endpoint <> 'chat.completions' or length(r.request_id) between 1 and 64 is not true
    or least(r.prompt_tokens, r.output_tokens, r.credits, r.micros, r.request_bytes, r.lasts_ms) < 0 then
    return null;
  end if;
  -- The session, by the configuration that the call was worked out from; what its account may use, and which periods it is in; and that
  -- the cap has room. Who calls too fast is sent away here, before anything is written, and so is a period that is not there yet.
  select s.aal = 'aal2' as has_aal2, p.month, x.id, x.ai_requests, x.chat_completions_requests, x.ai_concurrency, x.ai_calls, x.ai_tokens, x.ai_spend_micros,
    (o.minute_resets_at > v_now)::integer as same_minute, o.minute_resets_at, o.day_resets_at, o.month_resets_at into l
  from private.live_sessions s, private.ai_config c, private.spend_shards p, private.accounts o join private.limit_sets x on x.id = o.limits_id
  where s.id = r.session_id and s.user_id = r.user_id and o.user_id = r.user_id and c.version = admit_one_ai_call.version and c.changes_at > v_now
    and p.month = date_trunc('month', v_created_at at time zone 'UTC')::date and p.shard = pg_backend_pid() % 128 and p.left_micros >= r.micros
    and (r.plans >> x.plan_number) & 1 = 1 and o.ai_concurrency_held < x.ai_concurrency
    and (o.minute_resets_at <= v_now or o.ai_requests_used < x.ai_requests)
    and greatest(o.minute_resets_at - interval '1 minute', o.day_resets_at - interval '25 hours', o.month_resets_at - interval '745 hours') <= clock_timestamp();
  if not found then
    return null;
  end if;
  -- The hold before the account: whoever waits for the same account waits for less.
  v_call_id := encode(overlay(uuid_send(gen_random_uuid()) placing
    substring(int8send((extract(epoch from v_created_at) * 1000)::bigint) from 3) || '\x7000'::bytea from 1 for 8), 'hex')::uuid;
  insert into private.ai_holds (
    call_id, user_id, created_at, expires_at, day_resets_at, month_resets_at, session_id, request_bytes, credits, prompt_tokens, output_tokens,
    micros, stream, own_key, price_ref, fallback_refs, request_id, endpoint, model_id)
  values (
    v_call_id, r.user_id, v_created_at, v_now + r.lasts_ms * interval '1 millisecond', l.day_resets_at, l.month_resets_at, r.session_id,
    r.request_bytes, r.credits, r.prompt_tokens, r.output_tokens, r.micros, r.stream, false, r.price_refs[1], nullif(r.price_refs[2:], '{}'),
    r.request_id, r.endpoint, left(r.model_id, 200));
  -- All that the call needs, or nothing of it: the row's newest version decides, if its periods are still those that were read.
  update private.accounts o set
    held = o.held + r.credits, ai_concurrency_held = o.ai_concurrency_held + 1, ai_calls_held = o.ai_calls_held + 1,
    ai_tokens_held = o.ai_tokens_held + r.prompt_tokens + r.output_tokens, ai_spend_micros_held = o.ai_spend_micros_held + r.micros,
    minute_resets_at = case l.same_minute when 1 then o.minute_resets_at else v_now + interval '1 minute' end,
    ai_requests_used = o.ai_requests_used * l.same_minute + 1, chat_completions_requests_used = o.chat_completions_requests_used * l.same_minute + 1,
    embeddings_requests_used = o.embeddings_requests_used * l.same_minute,
    images_generations_requests_used = o.images_generations_requests_used * l.same_minute
  where o.user_id = r.user_id and o.limits_id = l.id
    and o.minute_resets_at = l.minute_resets_at and o.day_resets_at = l.day_resets_at and o.month_resets_at = l.month_resets_at
    and o.is_active and o.banned_until <= v_now and (l.has_aal2 or not o.has_factor)
    and least(o.entitled_until, o.next_expiry_at, o.day_resets_at, o.month_resets_at) > v_now and o.balance - o.held >= r.credits
    and o.ai_requests_used * l.same_minute < l.ai_requests and o.chat_completions_requests_used * l.same_minute < l.chat_completions_requests
    and o.ai_concurrency_held < l.ai_concurrency and o.ai_calls_used + o.ai_calls_held < l.ai_calls
    and o.ai_tokens_used + o.ai_tokens_held + r.prompt_tokens + r.output_tokens <= l.ai_tokens
    and o.ai_spend_micros_used + o.ai_spend_micros_held + r.micros <= l.ai_spend_micros
  returning o.minute_resets_at, o.balance - o.held as credits, l.ai_requests - o.ai_requests_used as requests,
    l.ai_calls - o.ai_calls_used - o.ai_calls_held as calls, l.ai_tokens - o.ai_tokens_used - o.ai_tokens_held as tokens into a;
  if found then
    -- The project's cap after the account, from this connection's shard; one that has too little draws more.
    update private.spend_shards s set left_micros = s.left_micros - r.micros
    where s.month = l.month and s.shard = pg_backend_pid() % 128 and s.left_micros >= r.micros;
    if found or private.take_spend(r.micros, l.month) then
      v_answer := row(1, false, v_call_id, r.user_id, null, null, null, null, a.credits,
        l.ai_requests, a.requests, extract(epoch from a.minute_resets_at), l.ai_calls, a.calls, extract(epoch from l.day_resets_at),
        l.ai_tokens, a.tokens, extract(epoch from l.month_resets_at));
      return v_answer;
    end if;
    perform private.untake_ai_call(r);
  end if;
  delete from private.ai_holds h where h.call_id = v_call_id;
  return null;
end $$;
comment on function private.admit_one_ai_call(private.ai_request, bigint) is
  'Admits one chat call that is plain and fits, or answers null and has taken nothing.';

create function private.untake_ai_call(r private.ai_request) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.accounts o set
    held = o.held - r.credits, ai_concurrency_held = o.ai_concurrency_held - 1, ai_calls_held = o.ai_calls_held - 1,
    ai_tokens_held = o.ai_tokens_held - r.prompt_tokens - r.output_tokens, ai_spend_micros_held = o.ai_spend_micros_held - r.micros,
    ai_requests_used = o.ai_requests_used - 1, chat_completions_requests_used = o.chat_completions_requests_used - 1
  where o.user_id = r.user_id;
end $$;
comment on function private.untake_ai_call(private.ai_request) is
  'Takes back, in the same transaction, what private.admit_one_ai_call took of the account of a chat call that the project''s cap has no room for.';

create function private.settle_one_ai_call(o private.ai_outcome) returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  h record;
  v_account record;
  v_provider_cost bigint;
  v_answer private.ai_answer;
begin
  -- What is not charged, is charged to somebody else, or has a number that must be put right first, goes the way above.
  if o.response is not null or o.late_prompt_tokens > 0 or o.late_completion_tokens > 0
    or o.usage_source in ('provider', 'estimated') is not true or o.result in ('succeeded', 'failed', 'cancelled') is not true
    or o.prompt_tokens is null or o.completion_tokens is null or o.cached_tokens is null or o.reasoning_tokens is null or o.images is null
    or least(o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.reasoning_tokens, o.images) < 0
    or least(o.cache_write_tokens, o.cache_write_1h_tokens, o.audio_input_tokens, o.audio_output_tokens, o.searches) < 1
    or greatest(o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.reasoning_tokens, o.cache_write_tokens, o.cache_write_1h_tokens,
      o.audio_input_tokens, o.audio_output_tokens) > 100000000 or greatest(o.images, o.searches) > 10000 then
    return null;
  end if;
  -- Nobody else may be looking at the account while this one's calls end.
  select a.day_resets_at, a.month_resets_at into v_account from private.accounts a where a.user_id = o.user_id for no key update;
  -- Only a route that was held for can have answered; anything else is charged as the first. What was held in a period that is over went
  -- with it, and such a call goes the way above.
  delete from private.ai_holds x using private.price_refs p
  where x.call_id = o.call_id and x.user_id = o.user_id and x.api_key_id is null and not x.own_key
    and x.day_resets_at = v_account.day_resets_at and x.month_resets_at = v_account.month_resets_at
    and p.ref = case when o.price_ref = any (x.fallback_refs) then o.price_ref else x.price_ref end
  returning x.created_at, x.session_id, x.request_bytes, x.credits, x.prompt_tokens + x.output_tokens as tokens,
    x.micros, x.stream, x.request_id, x.endpoint, x.model_id, p.model_id as answered_by, p.provider_id, p.valid_from, p.ref, p.credits as costs,
    private.ai_cost_micros(p, o.prompt_tokens, o.cached_tokens, coalesce(o.cache_write_tokens, 0), coalesce(o.cache_write_1h_tokens, 0),
      coalesce(o.audio_input_tokens, 0), o.completion_tokens, o.reasoning_tokens, coalesce(o.audio_output_tokens, 0), o.images,
      coalesce(o.searches, 0)) as cost, o.prompt_tokens + o.completion_tokens as used into h;
  if not found then
    return null;
  end if;
  update private.accounts x set
    held = x.held - h.credits, balance = x.balance - h.costs, unburned = x.unburned + h.costs, ai_concurrency_held = x.ai_concurrency_held - 1,
    ai_calls_held = x.ai_calls_held - 1, ai_calls_used = x.ai_calls_used + 1,
    ai_tokens_held = x.ai_tokens_held - h.tokens, ai_tokens_used = x.ai_tokens_used + h.used,
    ai_spend_micros_held = x.ai_spend_micros_held - h.micros, ai_spend_micros_used = x.ai_spend_micros_used + h.cost
  where x.user_id = o.user_id
  returning x.balance, x.balance - x.held as credits into v_account;
  if o.cost_usd is not null then
    v_provider_cost := greatest(least(ceil(o.cost_usd * 1000000), 1e12), 0);
  end if;
  insert into public.ai_calls (
    id, created_at, user_id, session_id, request_id, endpoint, model_id, answered_by, provider_id, stream, state, error_code, usage_source,
    http_status, attempts, duration_ms, first_token_ms, price_ref, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
    audio_output_tokens, searches, request_bytes, response_bytes, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, images,
    cost_micros, provider_cost_micros, credits_charged, balance_after, hold_micros, price_valid_from, settled_at)
  values (
    o.call_id, h.created_at, o.user_id, h.session_id, h.request_id, h.endpoint, h.model_id, h.answered_by,
    h.provider_id, h.stream, 'settled', left(o.error_code, 80), o.usage_source,
    o.http_status, coalesce(o.attempts, 0), o.duration_ms, o.first_token_ms, h.ref, o.cache_write_tokens, o.cache_write_1h_tokens,
    o.audio_input_tokens, o.audio_output_tokens, o.searches, h.request_bytes, o.response_bytes, o.prompt_tokens, o.completion_tokens,
    o.cached_tokens, o.reasoning_tokens, o.images, h.cost,
    v_provider_cost,
    h.costs, case when h.costs > 0 then v_account.balance end, h.micros, h.valid_from, clock_timestamp());
  if h.cost > h.micros or h.used > h.tokens or o.implausible is not null then
    insert into private.ai_surprises (call_id, model_id, provider_id, hold_micros, cost_micros, hold_tokens, used_tokens, implausible)
    values (o.call_id, h.answered_by, h.provider_id, h.micros, h.cost, h.tokens, h.used, left(o.implausible, 200));
  end if;
  -- Whoever has this shard waits for no account any more, so that this may wait for it; it is nearly always nobody's but this connection's.
  update private.spend_shards s set left_micros = s.left_micros + h.micros - h.cost
  where s.month = date_trunc('month', h.created_at at time zone 'UTC')::date and s.shard = 128 + pg_backend_pid() % 128
    and s.left_micros >= h.cost - h.micros;
  if not found then
    perform private.give_back_spend(date_trunc('month', h.created_at at time zone 'UTC')::date, h.micros - h.cost);
  end if;
  v_answer := row(1, true, o.call_id, o.user_id, null, null, h.cost, h.costs, v_account.credits, null, null, null, null, null, null, null, null, null);
  return v_answer;
end $$;
comment on function private.settle_one_ai_call(private.ai_outcome) is
  'Ends one call of a session that is charged, in the periods in which it began, without an answer to keep; or answers null and has done nothing but lock the account.';

-- Both in one step -----------------------------------------------------------------------------------------------------

create function private.ai_step(outcomes private.ai_outcome[], requests private.ai_request[], version bigint) returns setof private.ai_answer
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_has_spend boolean;
  v_callers private.ai_callers;
  v_due uuid[];
  v_user_id uuid;
  v_answer private.ai_answer;
begin
  if cardinality(requests) = 1 and cardinality(outcomes) = 0 then
    v_answer := private.admit_one_ai_call(requests[1], version);
    if v_answer.call_id is not null then
      return next v_answer;
      return;
    end if;
  elsif cardinality(outcomes) = 1 and cardinality(requests) = 0 then
    v_answer := private.settle_one_ai_call(outcomes[1]);
    if v_answer.call_id is not null then
      return next v_answer;
      return;
    end if;
  end if;
  if cardinality(requests) > 0 and not exists (select from private.ai_config c where c.version = ai_step.version and c.changes_at > now()) then
    return query select n::integer, false, null::uuid, null::uuid, jsonb_build_object('code', 'other_version'), null::text, null::bigint, null::bigint,
        null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint
      from generate_series(1, cardinality(requests)) n;
    requests := '{}';
  end if;
  if cardinality(requests) > 0 then
    v_callers := private.ai_callers(requests);
  end if;
  -- All accounts in one order, so that no two steps wait for each other in a circle, and before anything looks at them.
  select array_agg(a.user_id) filter (where a.due_at <= now() or a.began_at > clock_timestamp()) into v_due
  from (
    select a.user_id, least(a.entitled_until, a.next_expiry_at, a.day_resets_at, a.month_resets_at) as due_at,
      greatest(a.minute_resets_at - interval '1 minute', a.day_resets_at - interval '25 hours', a.month_resets_at - interval '745 hours') as began_at
    from private.accounts a
    where a.user_id = any (array(select o.user_id from unnest(outcomes) o) || v_callers.users)
    order by a.user_id for no key update) a;
  foreach v_user_id in array coalesce(v_due, '{}') loop
    perform private.renew_account(v_user_id);
  end loop;
  if cardinality(outcomes) > 0 then
    return query select s.* from private.settle_ai_calls(outcomes) s;
  end if;
  if cardinality(requests) > 0 then
    -- The project's cap after all accounts, and for all calls at once; when that does not fit, one by one.
    v_has_spend := private.take_spend((select sum(greatest(r.micros, 0)) from unnest(requests) r)::bigint);
    return query select d.* from private.admit_ai_calls(requests, v_callers, v_has_spend) d;
  end if;
end $$;
comment on function private.ai_step(private.ai_outcome[], private.ai_request[], bigint) is
  'The gateway''s one statement: settles calls that have ended and decides those that ask, in one transaction. Answers a row for each outcome and each request, by position. version is that of private.ai_snapshot by which the requests were worked out; with another all are answered with the refusal other_version and nothing is taken. Raises not_found or invalid_request_error for an outcome or a request that makes no sense; then nothing of the step was done. Exact under read committed, because the accounts are locked in a statement of its own.';

create function private.settle_abandoned_ai_calls(batch_size integer default 100, of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_outcomes private.ai_outcome[];
  v_outcome private.ai_outcome;
  v_closed integer := 0;
begin
  select array_agg(row(d.call_id, d.user_id, 'abandoned', 500, 'abandoned', null, null, null, null, null, null, null, null, null, null, null, null, null,
    null, null, null, null, null, null, null, null)::private.ai_outcome order by d.user_id)
  into v_outcomes
  from (
    select h.call_id, h.user_id from private.ai_holds h
    where h.expires_at < now() and (of_user is null or h.user_id = of_user)
    order by h.expires_at limit batch_size) d;
  -- All of them now: who has given money back to a shard waits for no account any more.
  perform from private.accounts a where a.user_id in (select o.user_id from unnest(v_outcomes) o) order by a.user_id for no key update;
  foreach v_outcome in array coalesce(v_outcomes, '{}') loop
    begin
      perform private.lock_account(v_outcome.user_id);
      -- Meanwhile it may have been settled: then this closes nothing.
      perform from private.settle_ai_calls(array[v_outcome]) s where s.call_id is not null;
      v_closed := v_closed + found::integer;
    exception when others then
      -- One call that cannot be closed must not keep the others open; the next run tries it again.
      raise warning 'AI call % cannot be settled: % %', v_outcome.call_id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_closed;
end $$;
comment on function private.settle_abandoned_ai_calls(integer, uuid) is
  'Settles calls whose process died: free when the caller got nothing, the whole hold when the answer had begun. A job runs it, and so does an admission that finds everything held, for its user; harmless at any time. Answers how many it closed.';

create function private.verify_accounts()
returns table (user_id uuid, balance bigint, entries_sum bigint, lots_sum bigint, held bigint, open_holds bigint)
language sql stable security invoker set search_path = ''
as $$
  with booked as (
    select b.user_id, sum(b.amount) as amount
    from (
      select e.user_id, e.amount from private.credit_bookings e
      union all
      select c.user_id, -c.credits_charged from public.ai_calls c where c.credits_charged > 0) b
    group by b.user_id
  ), lots as (
    select l.user_id, sum(l.remaining) as remaining from private.credit_lots l group by l.user_id
  ), holds as (
    select h.user_id, sum(h.credits) as credits, count(*) as calls from private.ai_holds h group by h.user_id
  )
  select a.user_id, a.balance, coalesce(b.amount, 0)::bigint, (coalesce(l.remaining, 0) - a.unburned)::bigint, a.held, coalesce(h.credits, 0)::bigint
  from private.accounts a
    left join booked b on b.user_id = a.user_id
    left join lots l on l.user_id = a.user_id
    left join holds h on h.user_id = a.user_id
  where a.balance <> coalesce(b.amount, 0) or a.balance <> coalesce(l.remaining, 0) - a.unburned or a.held <> coalesce(h.credits, 0)
    or a.ai_concurrency_held <> coalesce(h.calls, 0)
$$;
comment on function private.verify_accounts() is
  'Accounts whose balance is not the sum of their entries, or of what remains of their lots, or whose holds are not those of their open calls. Always empty; run it whenever you like. It reads all tables once.';
