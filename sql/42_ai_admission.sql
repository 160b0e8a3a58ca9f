-- Admission of AI calls: all or nothing, exact, in one transaction for many callers at once.

create table private.ai_idempotency_keys (
  -- The account's row is locked by who writes here; that of auth.users may be somebody's who erases it and waits for the account.
  user_id uuid not null references private.accounts (user_id) on delete cascade,
  endpoint text not null check (length(endpoint) <= 40),
  key text not null check (length(key) between 1 and 255),
  body_hash text not null check (body_hash ~ '^[0-9a-f]{64}$'),
  call_id uuid not null,
  model_id text check (length(model_id) <= 200),
  response text check (octet_length(response) <= 1000000),
  created_at timestamptz not null default now(),
  primary key (user_id, endpoint, key)
);
comment on table private.ai_idempotency_keys is
  'Keys of the last 24 hours: what was asked, which call does it, and its whole answer, if it was no stream. The only place where an answer is kept, and only for callers who send a key.';
create index ai_idempotency_keys_created_at_idx on private.ai_idempotency_keys (created_at);
revoke all on private.ai_idempotency_keys from anon, authenticated, service_role;

insert into private.settings (key, value, rule, description) values
  ('ai.refused_calls_per_hour', '100', '{"type": "integer", "minimum": 0, "maximum": 1000000}', 'Refused AI calls of a user within an hour (UTC) that are rows of ai_calls; what more there is is only counted, in get_my_usage.')
on conflict (key) do nothing;

create table private.ai_refusals (
  -- As above.
  user_id uuid not null references private.accounts (user_id) on delete cascade,
  hour timestamptz not null,
  endpoint text not null check (length(endpoint) <= 40),
  error_code text not null check (length(error_code) <= 80),
  noted bigint not null,
  counted bigint not null,
  primary key (user_id, hour, endpoint, error_code),
  check (noted >= 0 and counted >= 0)
);
comment on table private.ai_refusals is 'Refused AI calls of a user by hour (UTC): so that who makes many is seen, and fills nothing.';
comment on column private.ai_refusals.noted is 'Those that have a row in ai_calls: ai.refused_calls_per_hour of a user at most.';
comment on column private.ai_refusals.counted is 'Those that have none. ai_usage_daily has them under the model (refused).';
create index ai_refusals_hour_idx on private.ai_refusals (hour);
revoke all on private.ai_refusals from anon, authenticated, service_role;

create type private.ai_request as (
  request_id text, user_id uuid, session_id uuid, key_hash bytea, ip inet, signature jsonb,
  endpoint text, model_id text, price_refs integer[], plans bigint, probes boolean,
  prompt_tokens bigint, output_tokens bigint, credits bigint, micros bigint, lasts_ms bigint, stream boolean, request_bytes bigint,
  idempotency_key text, body_hash text, credential_id uuid);
comment on type private.ai_request is
  'A call that asks for admission: who (user_id and session_id, or the SHA-256 of a key, with address and signature), what, and what the gateway worked out for it from private.ai_snapshot: price_refs, the routes in their order (null: none is open); plans, a bit for the number of each plan for which that is so; probes, that the first of them is a breaker''s half-open one; and the worst case of the dearest: tokens, credits, micro-dollars, and how long it may last.';

create type private.ai_answer as (
  position integer, settles boolean, call_id uuid, user_id uuid, refusal jsonb, provider_key text,
  cost_micros bigint, credits_charged bigint, credits_remaining bigint,
  requests_amount bigint, requests_remaining bigint, requests_reset_at bigint, calls_amount bigint, calls_remaining bigint, calls_reset_at bigint,
  tokens_amount bigint, tokens_remaining bigint, tokens_reset_at bigint);
comment on type private.ai_answer is
  'What became of the call at a position (from 1) of the requests, or of the outcomes when settles is true. Of a settlement call_id is null when the call was closed before. Resets are Unix seconds; 9223372036854775807 is no limit. provider_key: the caller''s own key, when the call asked for it.';

create type private.ai_callers as (users uuid[], keys uuid[], have_aal2 boolean[], refusals jsonb[]);
comment on type private.ai_callers is 'Who makes each of several calls, by position: a user, null when it is nobody who may call; by which API key; with a second factor; and why not, when a key says why.';

-- Who calls ------------------------------------------------------------------------------------------------------------

create function private.check_account(
  user_id uuid, session_id uuid, by_api_key boolean default false,
  out refusal jsonb, out plan_id text, out time_zone text, out signed_up_at timestamptz
)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_account record;
begin
  select p.account_state, p.plan_id, p.quota_time_zone, p.signed_up_at, s.id is not null or by_api_key as has_session,
    not by_api_key and s.aal is distinct from 'aal2' and p.has_factor as lacks_factor
  into v_account
  from private.entitled_profiles p
    left join private.live_sessions s on s.id = check_account.session_id and s.user_id = p.id
  where p.id = check_account.user_id;
  plan_id := v_account.plan_id;
  time_zone := v_account.quota_time_zone;
  signed_up_at := v_account.signed_up_at;
  -- Most may go on, and a call costs microseconds.
  if v_account.account_state is distinct from 'active' or v_account.has_session is not true or v_account.lacks_factor is not false then
    refusal := private.account_refusal(v_account.account_state, v_account.has_session, v_account.lacks_factor, by_api_key);
  end if;
end $$;
comment on function private.check_account(uuid, uuid, boolean) is
  'refusal is null when the account is active, not anonymous, and the session lives and has used the second factor where there is one; else {code, message}. Tokens outlive sessions, so every call asks. by_api_key: there is no session to ask for.';

create function private.ai_callers(requests private.ai_request[]) returns private.ai_callers
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_callers private.ai_callers;
  v_have_keys boolean;
  v_key record;
begin
  select array_agg(s.user_id order by r.ordinality), array_agg(s.aal = 'aal2' order by r.ordinality), bool_or(r.key_hash is not null)
  into v_callers.users, v_callers.have_aal2, v_have_keys
  from unnest(requests) with ordinality r
    -- limit: each is looked up by itself, and not all sessions first.
    left join lateral (
      select l.user_id, l.aal from private.live_sessions l
      where l.id = r.session_id and l.user_id = r.user_id and r.key_hash is null limit 1) s on true;
  for i in 1..case when v_have_keys then cardinality(requests) else 0 end loop
    if (requests[i]).key_hash is not null then
      select k.* into v_key
      from private.check_api_key((requests[i]).key_hash, (requests[i]).endpoint, (requests[i]).ip, (requests[i]).signature) k;
      v_callers.users[i] := v_key.user_id;
      v_callers.keys[i] := v_key.api_key_id;
      v_callers.have_aal2[i] := true;
      v_callers.refusals[i] := v_key.refusal;
    end if;
  end loop;
  return v_callers;
end $$;
comment on function private.ai_callers(private.ai_request[]) is
  'Who calls: the users of live sessions, and the owners of keys that are good for what is asked. A key needs no second factor.';

-- Taking what calls need -----------------------------------------------------------------------------------------------

create type private.ai_group as (
  user_id uuid, have_aal2 boolean, plans bigint, calls bigint, chats bigint, embeddings bigint, images bigint, credits bigint, tokens bigint, micros bigint);
comment on type private.ai_group is 'The calls of one account that are taken together, and what they need; plans: those for which the routes of all of them were worked out.';

create function private.ai_groups(requests private.ai_request[], callers private.ai_callers, is_alone boolean) returns private.ai_group[]
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_users uuid[] := callers.users;
  v_have_aal2 boolean[] := callers.have_aal2;
  v_groups private.ai_group[];
begin
  select array_agg(row(g.*)::private.ai_group) into v_groups from (
    select v_users[r.ordinality] as user_id, bool_and(v_have_aal2[r.ordinality]), bit_and(r.plans), count(*),
      count(*) filter (where r.endpoint = 'chat.completions'), count(*) filter (where r.endpoint = 'embeddings'),
      count(*) filter (where r.endpoint = 'images.generations'),
      sum(r.credits)::bigint, sum(r.prompt_tokens + r.output_tokens)::bigint, sum(r.micros)::bigint
    from unnest(requests) with ordinality r
    where v_users[r.ordinality] is not null
    group by 1
    -- A call with more to it, and all others of the same account beside it, are taken alone, in their order.
    having is_alone or bool_and(
      r.key_hash is null and r.idempotency_key is null and r.credential_id is null and r.probes is not true and r.price_refs is not null
      and length(r.request_id) between 1 and 64 and r.endpoint in ('chat.completions', 'embeddings', 'images.generations')
      and least(r.prompt_tokens, r.output_tokens, r.credits, r.micros, r.request_bytes, r.lasts_ms) >= 0)) g;
  return v_groups;
end $$;
comment on function private.ai_groups(private.ai_request[], private.ai_callers, boolean) is
  'What the plain calls of each account need together: of sessions, by routes without a half-open breaker, with our keys, without an idempotency key. is_alone: it is one call, and its other needs are seen to.';

create type private.ai_taken as (
  user_id uuid, day_resets_at timestamptz, month_resets_at timestamptz, credits_remaining bigint,
  requests_amount bigint, requests_remaining bigint, requests_reset_at bigint, calls_amount bigint, calls_remaining bigint,
  tokens_amount bigint, tokens_remaining bigint);
comment on type private.ai_taken is 'An account from which a group was taken, as it is then; the rest as in private.ai_answer.';

create function private.take_ai_groups(groups private.ai_group[]) returns private.ai_taken[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_taken private.ai_taken[];
begin
  -- All that a group needs, or nothing of it. A minute that is over is as good as empty, and what is taken begins the next one.
  with taken as (
    update private.accounts a set
      held = a.held + g.credits,
      minute_resets_at = case when a.minute_resets_at > now() then a.minute_resets_at else now() + interval '1 minute' end,
      ai_requests_used = case when a.minute_resets_at > now() then a.ai_requests_used else 0 end + g.calls,
      chat_completions_requests_used = case when a.minute_resets_at > now() then a.chat_completions_requests_used else 0 end + g.chats,
      embeddings_requests_used = case when a.minute_resets_at > now() then a.embeddings_requests_used else 0 end + g.embeddings,
      images_generations_requests_used = case when a.minute_resets_at > now() then a.images_generations_requests_used else 0 end + g.images,
      ai_concurrency_held = a.ai_concurrency_held + g.calls,
      ai_calls_held = a.ai_calls_held + g.calls,
      ai_tokens_held = a.ai_tokens_held + g.tokens,
      ai_spend_micros_held = a.ai_spend_micros_held + g.micros
    from unnest(groups) g, private.limit_sets l
    where a.user_id = g.user_id and l.id = a.limits_id
      and a.is_active and a.banned_until <= now() and (g.have_aal2 or not a.has_factor) and (g.plans >> l.plan_number) & 1 = 1
      and least(a.entitled_until, a.next_expiry_at, a.day_resets_at, a.month_resets_at) > now() and a.balance - a.held >= g.credits
      and case when a.minute_resets_at > now() then a.ai_requests_used else 0 end + g.calls <= l.ai_requests
      -- An endpoint that none of them asks may be over its limit, which was lowered.
      and (g.chats = 0
        or case when a.minute_resets_at > now() then a.chat_completions_requests_used else 0 end + g.chats <= l.chat_completions_requests)
      and (g.embeddings = 0
        or case when a.minute_resets_at > now() then a.embeddings_requests_used else 0 end + g.embeddings <= l.embeddings_requests)
      and (g.images = 0
        or case when a.minute_resets_at > now() then a.images_generations_requests_used else 0 end + g.images <= l.images_generations_requests)
      and a.ai_concurrency_held + g.calls <= l.ai_concurrency and a.ai_calls_used + a.ai_calls_held + g.calls <= l.ai_calls
      and a.ai_tokens_used + a.ai_tokens_held + g.tokens <= l.ai_tokens
      and a.ai_spend_micros_used + a.ai_spend_micros_held + g.micros <= l.ai_spend_micros
    returning a.user_id, a.day_resets_at, a.month_resets_at, a.balance - a.held,
      l.ai_requests, l.ai_requests - a.ai_requests_used, extract(epoch from a.minute_resets_at)::bigint,
      l.ai_calls, l.ai_calls - a.ai_calls_used - a.ai_calls_held, l.ai_tokens, l.ai_tokens - a.ai_tokens_used - a.ai_tokens_held
  )
  select array_agg(row(t.*)::private.ai_taken) into v_taken from taken t;
  return v_taken;
end $$;
comment on function private.take_ai_groups(private.ai_group[]) is
  'Takes what groups need of their accounts'' meters and credits, where all of it fits and the account may go on; answers the accounts from which it did. The caller has locked them in a statement before this one.';

create function private.take_ai_calls(requests private.ai_request[], callers private.ai_callers, is_alone boolean default false)
returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_groups private.ai_group[] := private.ai_groups(requests, callers, is_alone);
  v_taken private.ai_taken[];
  v_users uuid[] := callers.users;
  v_keys uuid[] := callers.keys;
  -- Of the month from which their money was taken, although midnight may have come meanwhile.
  v_now timestamptz := private.moment_of_month(now(), date_trunc('milliseconds', clock_timestamp()));
  -- The first half of private.uuid_v7() once for all.
  v_time bytea := substring(int8send((extract(epoch from v_now) * 1000)::bigint) from 3) || '\x7000'::bytea;
begin
  if v_groups is not null then
    v_taken := private.take_ai_groups(v_groups);
  end if;
  if v_taken is null then
    return;
  end if;
  return query
  with calls as materialized (
    select r.*, t.*, encode(overlay(uuid_send(gen_random_uuid()) placing v_time from 1 for 8), 'hex')::uuid as call_id
    from unnest(v_taken) t (
        owner, day_resets_at, month_resets_at, credits_remaining, requests_amount, requests_remaining, requests_reset_at, calls_amount,
        calls_remaining, tokens_amount, tokens_remaining)
      join unnest(requests) with ordinality r on v_users[r.ordinality] = t.owner
  ), held as (
    insert into private.ai_holds (
      call_id, user_id, created_at, expires_at, day_resets_at, month_resets_at, session_id, api_key_id, request_bytes, credits,
      prompt_tokens, output_tokens, micros, stream, own_key, price_ref, fallback_refs, request_id, endpoint, model_id)
    select c.call_id, c.owner, v_now, now() + c.lasts_ms * interval '1 millisecond', c.day_resets_at, c.month_resets_at,
      c.session_id, v_keys[c.ordinality], c.request_bytes, c.credits, c.prompt_tokens, c.output_tokens, c.micros, c.stream,
      c.credential_id is not null, c.price_refs[1], nullif(c.price_refs[2:], '{}'), c.request_id, c.endpoint, left(c.model_id, 200)
    from calls c
  )
  select c.ordinality::integer, false, c.call_id, c.owner, null::jsonb, null::text, null::bigint, null::bigint, c.credits_remaining,
    c.requests_amount, c.requests_remaining, c.requests_reset_at, c.calls_amount, c.calls_remaining, extract(epoch from c.day_resets_at)::bigint,
    c.tokens_amount, c.tokens_remaining, extract(epoch from c.month_resets_at)::bigint
  from calls c;
end $$;
comment on function private.take_ai_calls(private.ai_request[], private.ai_callers, boolean) is
  'The one way in: takes and holds what fits, an account''s calls together or none of them, and answers what was admitted. What it leaves out has taken nothing. is_alone: for one call with whatever there is to it.';

-- Why not --------------------------------------------------------------------------------------------------------------

create function private.open_provider_key(user_id uuid, credential_id uuid, provider_id text, request_id text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if not exists (
    select from public.credentials c
    where c.id = open_provider_key.credential_id and c.user_id = open_provider_key.user_id and c.kind = 'ai_provider'
      and c.provider = open_provider_key.provider_id and c.status = 'active') then
    return null;
  end if;
  return private.open(open_provider_key.credential_id, 'ai_call', open_provider_key.request_id) #>> '{fields,api_key}';
end $$;
comment on function private.open_provider_key(uuid, uuid, text, text) is
  'The key of a provider that a user keeps in the credential vault; null when there is none such that is active and opens.';

create function private.model_refusal(request private.ai_request, user_id uuid, plan_id text) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_kind text := case request.endpoint when 'embeddings' then 'embedding' when 'images.generations' then 'image' else 'chat' end;
  v_details jsonb := jsonb_build_object('param', 'model');
  v_model record;
  v_open_until timestamptz;
begin
  select m.kind, n.plan_id is not null as is_in_plan, exists (select from private.prices_in_force p where p.model_id = m.id) as is_priced
  into v_model
  from public.models m
    join private.providers p on p.id = m.provider_id and p.enabled
    left join public.plan_models n on n.model_id = m.id and n.plan_id = model_refusal.plan_id
  where m.id = request.model_id and m.enabled;
  if not found then
    return jsonb_build_object('code', 'model_not_found', 'message', format('There is no model %s.', left(request.model_id, 200)), 'details', v_details);
  elsif v_model.kind <> v_kind then
    return jsonb_build_object('code', 'invalid_request_error', 'details', v_details,
      'message', format('The model %s is not for this endpoint: it is of the kind %s.', request.model_id, v_model.kind));
  elsif not v_model.is_in_plan then
    -- A model in no plan cannot be had for money.
    return jsonb_build_object('code', 'model_not_allowed', 'details', v_details,
      'message', format('Your plan does not include the model %s.', request.model_id)
        || case when exists (select from public.plan_models o where o.model_id = request.model_id)
          then ' ' || private.payment_hint(model_refusal.user_id) else '' end);
  elsif not v_model.is_priced then
    return jsonb_build_object('code', 'model_not_priced', 'details', v_details,
      'message', format('The model %s has no price yet, so it cannot be used.', request.model_id));
  elsif request.credential_id is not null and private.feature_refusal(model_refusal.user_id, 'own_keys') is not null then
    return private.feature_refusal(model_refusal.user_id, 'own_keys') || jsonb_build_object('details', jsonb_build_object('param', 'credential'));
  elsif not exists (
    select from private.limit_sets s where s.plan_id = model_refusal.plan_id and s.user_id is null and (request.plans >> s.plan_number) & 1 = 1) then
    return (
      select jsonb_build_object('code', 'other_plan', 'details', jsonb_build_object('plan', s.plan_number))
      from private.limit_sets s where s.plan_id = model_refusal.plan_id and s.user_id is null);
  elsif request.price_refs is null then
    select min(greatest(b.open_until, now() + interval '1 second')) into v_open_until
    from private.circuit_breakers b
    where b.model_id = request.model_id
      or b.model_id in (select f.fallback_model_id from private.model_fallbacks f where f.model_id = request.model_id);
    return jsonb_build_object('code', 'circuit_open',
      'message', format('The provider of %s fails at the moment; it is tried again soon.', request.model_id),
      'details', jsonb_build_object('retry_after_s', ceil(extract(epoch from v_open_until - now()))));
  end if;
  return null;
end $$;
comment on function private.model_refusal(private.ai_request, uuid, text) is
  'Why a user on a plan may not have the model asked for, as {code, message, details}; null when it may be had. other_plan: the routes were worked out for other plans than details.plan, by its number; the gateway does it once more.';

create function private.find_idempotency_key(request private.ai_request, user_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_found private.ai_idempotency_keys;
  v_state text;
begin
  select i.* into v_found from private.ai_idempotency_keys i
  where i.user_id = find_idempotency_key.user_id and i.endpoint = request.endpoint and i.key = request.idempotency_key;
  if not found then
    return null;
  end if;
  select coalesce(
    (select 'held' from private.ai_holds h where h.call_id = v_found.call_id),
    (select case when c.usage_source = 'none' then 'released' else c.state end from public.ai_calls c
    where c.user_id = v_found.user_id and c.created_at = private.uuid_v7_time(v_found.call_id) and c.id = v_found.call_id))
  into v_state;
  if v_found.created_at <= now() - interval '24 hours' or v_state is null or v_state = 'released' then
    -- Too old, or it came to nothing and cost nothing: the key is free again.
    delete from private.ai_idempotency_keys i
    where i.user_id = v_found.user_id and i.endpoint = v_found.endpoint and i.key = v_found.key;
    return null;
  elsif v_found.body_hash <> request.body_hash then
    return jsonb_build_object('code', 'idempotency_key_reused', 'message', 'This idempotency key was used with another body.');
  elsif v_state = 'held' then
    return jsonb_build_object('code', 'idempotency_in_progress', 'message', 'A request with this idempotency key is still running.',
      'details', jsonb_build_object('retry_after_s', 1));
  elsif v_found.response is null then
    return jsonb_build_object('code', 'idempotency_not_replayable',
      'message', 'The request with this idempotency key is done, and its answer was not kept: it was a stream, too large, or broke off.');
  end if;
  return jsonb_build_object('code', 'idempotency_replay', 'replay', jsonb_build_object(
    'body', v_found.response, 'content_type', 'application/json', 'model', v_found.model_id));
end $$;
comment on function private.find_idempotency_key(private.ai_request, uuid) is
  'Null when the key is free; else the refusal, or the answer that is there already. The caller holds the account''s lock, so two calls with one key take turns.';

create function private.limit_refusal(
  meter text, period text, is_held boolean, amount bigint, used bigint, held bigint, resets_at timestamptz, units bigint
) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_resets_at timestamptz := nullif(limit_refusal.resets_at, 'infinity');
  v_seconds numeric := ceil(extract(epoch from v_resets_at - now()));
  v_row jsonb := jsonb_build_object(
    'meter', meter, 'period', period, 'amount', greatest(amount, 0), 'used', used, 'held', held,
    'remaining', greatest(amount - used - held, 0), 'resets_at', v_resets_at);
begin
  return case
    when meter = 'ai_concurrency' then jsonb_build_object(
      'code', 'concurrency_limit', 'message', format('%s calls may run at once.', amount),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when not is_held then jsonb_build_object(
      'code', 'rate_limit_exceeded', 'message', format('%s %s a minute are allowed.', amount, replace(meter, '_', ' ')),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when used + units <= amount then jsonb_build_object(
      'code', 'in_flight_budget_exhausted',
      'message', format('Calls that are still running hold the rest of %s/%s. Try again when they have ended.', meter, period),
      'details', jsonb_build_object('limit', v_row, 'retry_after_s', 1))
    when meter = 'ai_calls' and amount >= 0 then jsonb_build_object(
      'code', case when period = 'day' then 'daily_quota_exceeded' else 'insufficient_quota' end,
      'message', format('All %s AI calls of this %s are used.', amount, period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at, 'retry_after_s', v_seconds))
    when amount < 0 then jsonb_build_object(
      'code', 'insufficient_quota', 'message', 'Your plan has no AI calls.', 'details', jsonb_build_object('limit', v_row))
    else jsonb_build_object(
      'code', 'insufficient_quota',
      'message', format('This call may need %s %s; %s of %s are left this %s. A smaller max_tokens may fit.',
        units, case meter when 'ai_tokens' then 'tokens' when 'ai_spend_micros' then 'micro-dollars' else meter end,
        greatest(amount - used, 0), amount, period),
      'details', jsonb_build_object('limit', v_row, 'resets_at', v_resets_at))
  end;
end $$;
comment on function private.limit_refusal(text, text, boolean, bigint, bigint, bigint, timestamptz, bigint) is
  'Why so many units do not fit a limit, as {code, message, details}: too fast, too many at once, used up, or held by calls that still run.';

create function private.account_shortage(request private.ai_request, user_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_refusal jsonb;
  v_account record;
  v_limit jsonb;
begin
  select private.limit_refusal(c.meter, c.period, c.is_held, c.amount, c.used, c.held, c.resets_at, c.units) into v_refusal
  from (
    select c.position, c.meter, c.period, c.is_held, c.amount, c.held, n.resets_at, case when c.resets_at > now() then c.used else 0 end as used,
      case c.meter when 'ai_tokens' then request.prompt_tokens + request.output_tokens when 'ai_spend_micros' then request.micros else 1 end as units
    from private.ai_counters c
      cross join lateral (select case when c.resets_at > now() then c.resets_at else now() + interval '1 minute' end as resets_at) n
    where c.user_id = account_shortage.user_id
      and (c.meter not like '%\_requests' or c.meter in ('ai_requests', replace(request.endpoint, '.', '_') || '_requests'))
  ) c
  where c.used + c.held + c.units > c.amount
  order by c.position limit 1;
  if v_refusal is not null then
    return v_refusal;
  end if;
  select a.balance, a.held into v_account from private.accounts a where a.user_id = account_shortage.user_id;
  if v_account.balance - v_account.held >= request.credits then
    return null;
  end if;
  v_limit := jsonb_build_object(
    'meter', 'credits', 'period', 'total', 'amount', v_account.balance, 'used', 0, 'held', v_account.held,
    'remaining', greatest(v_account.balance - v_account.held, 0), 'resets_at', null);
  return case when v_account.balance >= request.credits then jsonb_build_object(
      'code', 'in_flight_budget_exhausted',
      'message', 'Calls that are still running hold the rest of your credits. Try again when they have ended.',
      'details', jsonb_build_object('limit', v_limit, 'retry_after_s', 1))
    else jsonb_build_object(
      'code', 'insufficient_credits',
      'message', format('This call costs %s credits; you have %s.', request.credits, v_account.balance),
      'details', jsonb_build_object('limit', v_limit)) end;
end $$;
comment on function private.account_shortage(private.ai_request, uuid) is
  'The first limit of an account that a call does not fit, or its credits, as {code, message, details}; null when all of it fits. The caller holds the account''s lock.';

create function private.special_refusal(request private.ai_request, user_id uuid, api_key_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_refusal jsonb;
begin
  if request.idempotency_key is not null then
    v_refusal := private.find_idempotency_key(request, user_id);
  end if;
  if v_refusal is null and api_key_id is not null then
    v_refusal := private.key_shortage(request, user_id, api_key_id);
    if v_refusal is null and exists (
      select from private.used_signatures u where u.api_key_id = special_refusal.api_key_id and u.message_id = request.signature ->> 'id') then
      v_refusal := jsonb_build_object('code', 'invalid_signature', 'message', 'This signed request was admitted before.');
    end if;
  end if;
  return v_refusal;
end $$;
comment on function private.special_refusal(private.ai_request, uuid, uuid) is
  'Why a call with something special to it may not go on: its idempotency key, its API key''s limits, or a signature that was used.';

create function private.probe_refusal(request private.ai_request, user_id uuid) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  -- A call that will not be made must not keep the breaker from the next one.
  v_refusal jsonb := private.account_shortage(request, user_id);
begin
  if v_refusal is null and not (
    select private.may_probe(p.provider_id, p.model_id) from private.price_refs p where p.ref = request.price_refs[1]) then
    v_refusal := jsonb_build_object('code', 'probe_taken');
  end if;
  return v_refusal;
end $$;
comment on function private.probe_refusal(private.ai_request, uuid) is
  'Why a call may not be the one that tries a half-open breaker: it does not fit its account, or another tries (probe_taken; the gateway works the routes out without it). The last thing that is asked.';

create function private.refuse_ai_call(request private.ai_request, user_id uuid, api_key_id uuid, refusal jsonb, out call_id uuid)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_code text := refusal ->> 'code';
  v_hour timestamptz := date_trunc('hour', now(), 'UTC');
  v_is_noted boolean;
begin
  -- Nobody's call, somebody's earlier answer, one that the gateway tries again, or one of many that come too fast, for which a row each
  -- would be the attack.
  if user_id is null or v_code like 'idempotency%'
    or v_code in ('invalid_api_key', 'invalid_signature', 'rate_limit_exceeded', 'concurrency_limit', 'other_plan', 'probe_taken') then
    return;
  end if;
  select coalesce(sum(r.noted), 0) < (private.setting('ai.refused_calls_per_hour'))::integer into v_is_noted
  from private.ai_refusals r where r.user_id = refuse_ai_call.user_id and r.hour = v_hour;
  insert into private.ai_refusals as r (user_id, hour, endpoint, error_code, noted, counted)
  values (refuse_ai_call.user_id, v_hour, request.endpoint, v_code, v_is_noted::integer, (not v_is_noted)::integer)
  on conflict on constraint ai_refusals_pkey do update set noted = r.noted + excluded.noted, counted = r.counted + excluded.counted;
  if not v_is_noted then
    return;
  end if;
  call_id := private.uuid_v7();
  insert into public.ai_calls
    (id, created_at, user_id, session_id, api_key_id, request_id, endpoint, model_id, provider_id, stream, state,
      http_status, error_code, request_bytes, settled_at)
  values
    (call_id, private.uuid_v7_time(call_id), user_id, request.session_id, api_key_id, request.request_id, request.endpoint,
      left(request.model_id, 200), (select m.provider_id from public.models m where m.id = request.model_id), request.stream, 'refused',
      private.error_status(v_code), v_code, request.request_bytes, now());
end $$;
comment on function private.refuse_ai_call(private.ai_request, uuid, uuid, jsonb) is
  'Remembers a refused call and its reason, and only counts it when there were ai.refused_calls_per_hour or it is one of a flood; takes nothing from the account. The caller holds the account''s lock.';

-- One call with all that there can be to it -----------------------------------------------------------------------------

create function private.require_sound(request private.ai_request) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if length(request.request_id) between 1 and 64 is not true or request.model_id is null
    or request.endpoint in ('chat.completions', 'embeddings', 'images.generations') is not true
    or num_nulls(request.prompt_tokens, request.output_tokens, request.credits, request.micros, request.request_bytes, request.lasts_ms, request.plans) > 0
    or least(request.prompt_tokens, request.output_tokens, request.credits, request.micros, request.request_bytes, request.lasts_ms) < 0 then
    perform private.raise_error('invalid_request_error',
      'request_id (64 characters at most), model, endpoint, plans and the worst case are needed, and no number may be negative.');
  end if;
end $$;
comment on function private.require_sound(private.ai_request) is 'Raises invalid_request_error for a call that the gateway would not send.';

create function private.admit_ai_call(request private.ai_request, user_id uuid, api_key_id uuid, refusal jsonb, have_aal2 boolean, has_spend boolean)
returns private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account record;
  v_callers private.ai_callers := row(array[user_id], array[api_key_id], array[have_aal2], null);
  v_refusal jsonb := refusal;
  v_provider_key text;
  v_answer private.ai_answer;
begin
  perform private.require_sound(request);
  if v_refusal is null then
    select c.* into v_account
    from private.check_account(coalesce(admit_ai_call.user_id, request.user_id), request.session_id, request.key_hash is not null) c;
    v_refusal := coalesce(
      v_account.refusal,
      private.model_refusal(request, user_id, v_account.plan_id),
      private.special_refusal(request, user_id, api_key_id));
  end if;
  if v_refusal is null and request.credential_id is not null then
    v_provider_key := private.open_provider_key(
      user_id, request.credential_id, (select p.provider_id from private.price_refs p where p.ref = request.price_refs[1]), request.request_id);
    if v_provider_key is null then
      v_refusal := jsonb_build_object('code', 'not_found', 'details', jsonb_build_object('param', 'credential'),
        'message', format('You have no such credential for the provider of %s.', request.model_id));
    end if;
  end if;
  if v_refusal is null and not has_spend and not private.take_spend(request.micros) then
    v_refusal := jsonb_build_object('code', 'spend_cap_reached', 'message', 'This service has reached its spending limit for this month.');
  end if;
  if v_refusal is null and request.probes then
    v_refusal := private.probe_refusal(request, user_id);
  end if;
  if v_refusal is null then
    select t.* into v_answer from private.take_ai_calls(array[request], v_callers, true) t;
    if v_answer.call_id is null then
      v_refusal := private.account_shortage(request, user_id);
    end if;
    if v_answer.call_id is null and v_refusal ->> 'code' in ('in_flight_budget_exhausted', 'concurrency_limit')
      and private.settle_abandoned_ai_calls(20, admit_ai_call.user_id) > 0 then
      -- Calls whose process died held it.
      select t.* into v_answer from private.take_ai_calls(array[request], v_callers, true) t;
      v_refusal := case when v_answer.call_id is null then private.account_shortage(request, user_id) end;
    end if;
    if not has_spend and v_answer.call_id is null then
      perform private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, request.micros);
    end if;
  end if;
  if v_answer.call_id is null then
    if v_refusal is null then
      raise exception 'nothing is missing, and still nothing was taken: what accounts.limits_id and the gates of % say is not what they come from', user_id;
    end if;
    v_answer.refusal := v_refusal;
    v_answer.call_id := private.refuse_ai_call(request, user_id, api_key_id, v_refusal);
    return v_answer;
  end if;
  perform private.note_special(request, v_answer, api_key_id);
  v_answer.provider_key := v_provider_key;
  return v_answer;
end $$;
comment on function private.admit_ai_call(private.ai_request, uuid, uuid, jsonb, boolean, boolean) is
  'Decides one call, of whatever kind, or says why not. has_spend: the project''s cap has handed its worst case out already. The caller has locked the account.';

create function private.note_special(request private.ai_request, answer private.ai_answer, api_key_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if request.idempotency_key is not null then
    insert into private.ai_idempotency_keys (user_id, endpoint, key, body_hash, call_id)
    values (answer.user_id, request.endpoint, request.idempotency_key, request.body_hash, answer.call_id);
  end if;
  if api_key_id is not null then
    perform private.take_key_units(request, answer.user_id, api_key_id);
    if request.signature ->> 'id' is not null then
      insert into private.used_signatures (api_key_id, message_id, expires_at)
      values (note_special.api_key_id, request.signature ->> 'id',
        now() + make_interval(secs => 2 * (private.setting('api_keys.signature_window_seconds'))::integer));
    end if;
  end if;
end $$;
comment on function private.note_special(private.ai_request, private.ai_answer, uuid) is
  'Writes down what an admitted call has beside its hold: the idempotency key, the units of its API key, the signature that is used now.';

create function private.admit_ai_calls(requests private.ai_request[], callers private.ai_callers, has_spend boolean) returns setof private.ai_answer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_answer private.ai_answer;
  v_is_done boolean[] := array_fill(false, array[cardinality(requests)]);
  v_unused bigint := 0;
begin
  if has_spend then
    for v_answer in select t.* from private.take_ai_calls(requests, callers) t loop
      v_is_done[v_answer.position] := true;
      return next v_answer;
    end loop;
  end if;
  for i in 1..cardinality(requests) loop
    continue when v_is_done[i];
    v_answer := private.admit_ai_call(
      requests[i], (callers).users[i], (callers).keys[i], (callers).refusals[i], coalesce((callers).have_aal2[i], false), has_spend);
    v_answer.position := i;
    v_answer.settles := false;
    if v_answer.refusal is not null and has_spend then
      v_unused := v_unused + (requests[i]).micros;
    end if;
    return next v_answer;
  end loop;
  if v_unused > 0 then
    perform private.give_back_spend(date_trunc('month', now() at time zone 'UTC')::date, v_unused);
  end if;
end $$;
comment on function private.admit_ai_calls(private.ai_request[], private.ai_callers, boolean) is
  'Decides calls, each by itself: most of them in one statement for all callers at once, the others one after the other. has_spend: the project''s cap has handed out what all of them may cost.';

create function private.ai_caller(request jsonb, scope text, out user_id uuid, out session_id uuid, out api_key_id uuid, out refusal jsonb)
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if request ->> 'api_key_hash' is null then
    user_id := request ->> 'user_id';
    session_id := request ->> 'session_id';
    return;
  end if;
  select k.user_id, k.api_key_id, k.refusal into user_id, api_key_id, refusal
  from private.check_api_key(
    decode(request ->> 'api_key_hash', 'hex'), ai_caller.scope, private.inet_or_null(request ->> 'ip'),
    request -> 'signature') k;
end $$;
comment on function private.ai_caller(jsonb, text) is
  'Who calls: {user_id, session_id} of a token that was verified, or the owner of {api_key_hash, ip, signature}; refusal {code, message} when the key is not good for this scope.';

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
  return jsonb_build_object('allowed', true, 'user_id', v_caller.user_id, 'models', coalesce((
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
  'Takes a caller as private.ai_caller does. The models the account''s plan may use: {allowed: true, user_id, models: [{id, owned_by, created, kind}]} or {allowed: false, code, message}.';

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

