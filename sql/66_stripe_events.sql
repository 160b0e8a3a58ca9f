-- Stripe's events: an inbox that keeps each once, hands it to one worker at a time and tries again, until it is applied or dead.

create table private.stripe_events (
  id text primary key check (length(id) between 1 and 255),
  type text not null check (length(type) between 1 and 255),
  api_version text check (length(api_version) <= 100),
  livemode boolean not null,
  account text check (length(account) <= 255),
  created_at timestamptz not null,
  object text check (length(object) <= 255),
  object_id text check (length(object_id) <= 255),
  customer_id text check (length(customer_id) <= 255),
  payload jsonb not null,
  state text not null default 'waiting' check (state in ('waiting', 'applied', 'ignored', 'dead')),
  attempts integer not null default 0 check (attempts >= 0),
  attempts_before_retry integer not null default 0 check (attempts_before_retry between 0 and attempts),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  received_at timestamptz not null default now(),
  finished_at timestamptz,
  check ((state = 'waiting') = (finished_at is null))
);
comment on table private.stripe_events is 'Everything that Stripe sent with a valid signature, once. An event only says what to read again at Stripe: what is read is in private.stripe_objects.';
comment on column private.stripe_events.account is 'The connected account that it is of; null for our own, and only those count.';
comment on column private.stripe_events.created_at is 'By Stripe''s clock, in whole seconds: nothing is ordered by it.';
comment on column private.stripe_events.object is 'What it is about, such as invoice or subscription.';
comment on column private.stripe_events.customer_id is 'Whose it is, as far as known: with the user goes what their events hold.';
comment on column private.stripe_events.payload is 'The event as Stripe sent it; it may hold addresses of people.';
comment on column private.stripe_events.state is 'waiting: to be applied, or at it; applied; ignored: nothing to do with us; dead: given up until retry_stripe_event.';
comment on column private.stripe_events.attempts is 'How often a worker took it. Also whose turn it is: an answer of an earlier one is superseded.';
comment on column private.stripe_events.attempts_before_retry is 'Tries that no longer count, since retry_stripe_event was called.';
comment on column private.stripe_events.next_attempt_at is 'Not before; while a worker has it, when another may take it.';
create index stripe_events_next_attempt_at_idx on private.stripe_events (next_attempt_at) where state = 'waiting';
create index stripe_events_finished_at_idx on private.stripe_events (finished_at) where finished_at is not null;
create index stripe_events_customer_id_idx on private.stripe_events (customer_id);
revoke all on private.stripe_events from anon, authenticated, service_role;

-- Receive --------------------------------------------------------------------------------------------------------------

create function private.receive_stripe_event(
  id text, type text, api_version text, livemode boolean, account text, created_at timestamptz, object text, object_id text,
  payload jsonb
) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_foreign boolean := receive_stripe_event.account is not null;
  v_customer jsonb := receive_stripe_event.payload #> '{data,object,customer}';
begin
  insert into private.stripe_events (
    id, type, api_version, livemode, account, created_at, object, object_id, customer_id, payload, state, finished_at)
  values (
    receive_stripe_event.id, receive_stripe_event.type, receive_stripe_event.api_version, receive_stripe_event.livemode,
    receive_stripe_event.account, receive_stripe_event.created_at, receive_stripe_event.object, receive_stripe_event.object_id,
    case when receive_stripe_event.object = 'customer' then receive_stripe_event.object_id
      when jsonb_typeof(v_customer) = 'string' then left(v_customer #>> '{}', 255) end,
    receive_stripe_event.payload, case when v_foreign then 'ignored' else 'waiting' end, case when v_foreign then now() end)
  on conflict on constraint stripe_events_pkey do nothing;
  if not found then
    return false;
  end if;
  if v_foreign then
    perform private.raise_security_event(
      type => 'stripe_foreign_account', severity => 'high', user_id => null, dedupe_key => left(receive_stripe_event.account, 200),
      details => jsonb_build_object('account', receive_stripe_event.account, 'event_id', receive_stripe_event.id));
  end if;
  return true;
end $$;
comment on function private.receive_stripe_event(text, text, text, boolean, text, timestamptz, text, text, jsonb) is
  'Keeps an event whose signature was verified. True: it is new; false: it was here already. One of another account than ours is kept as ignored, and is a security event.';

-- Claim, apply, fail ---------------------------------------------------------------------------------------------------

create function private.bury_stripe_event(event private.stripe_events, error text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.stripe_events e set state = 'dead', finished_at = now(), error = left(bury_stripe_event.error, 500)
  where e.id = (event).id;
  perform private.raise_security_event(
    type => 'stripe_event_dead', severity => 'high', user_id => null, dedupe_key => left((event).id, 200),
    details => jsonb_build_object('event_id', (event).id, 'type', (event).type, 'attempts', (event).attempts));
end $$;
comment on function private.bury_stripe_event(private.stripe_events, text) is 'Gives an event up and says so. Whoever calls it has locked its row.';

create function private.claim_stripe_events(batch_size integer default 10)
returns table (id text, type text, attempt integer, object text, object_id text, account text, payload jsonb)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max integer := (private.setting('billing.max_attempts'))::integer;
  v_event private.stripe_events;
begin
  for v_event in
    select e.* from private.stripe_events e
    where e.id in (
        select x.id from private.stripe_events x where x.state = 'waiting' and x.next_attempt_at <= now() order by x.next_attempt_at limit 1000)
      and e.state = 'waiting' and e.next_attempt_at <= now() and e.attempts - e.attempts_before_retry >= v_max
    for update skip locked
  loop
    perform private.bury_stripe_event(v_event, coalesce(v_event.error, 'nobody came back from the last try'));
  end loop;
  return query
    with due as (
      select e.id, e.next_attempt_at, e.error is null and e.attempts > e.attempts_before_retry as is_lost
      from private.stripe_events e
      where e.state = 'waiting' and e.next_attempt_at <= now()
      order by e.next_attempt_at, e.id limit least(claim_stripe_events.batch_size, 1000)
      for update skip locked
    ), claimed as (
      -- One from whose last try nobody came back may be what ended the worker: alone it takes no other with it.
      select d.id from due d, (select f.id, f.is_lost from due f order by f.next_attempt_at, f.id limit 1) first
      where case when first.is_lost then d.id = first.id else not d.is_lost end
    )
    update private.stripe_events e set
      attempts = e.attempts + 1,
      error = null,
      next_attempt_at = now() + make_interval(secs => (private.setting('billing.lease_seconds'))::integer)
    from claimed c
    where e.id = c.id
    returning e.id, e.type, e.attempts, e.object, e.object_id, e.account, e.payload;
end $$;
comment on function private.claim_stripe_events(integer) is
  'Takes waiting events, the longest waiting first, each for one worker and for billing.lease_seconds; one from whose last try nobody came back is taken alone. Answers fewer than batch_size while more may wait, and none when none is due. End each with apply_stripe_event or fail_stripe_event and its attempt. One that nobody came back from billing.max_attempts times is dead.';

create function private.warn_of_fraud(event private.stripe_events) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_warning jsonb := (event).payload #> '{data,object}';
  v_intent text := coalesce(v_warning #>> '{payment_intent,id}', v_warning ->> 'payment_intent');
  v_user_id uuid;
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_early_fraud_warning' and s.user_id is null and s.dedupe_key = left((event).object_id, 200)) then
    return;
  end if;
  select c.user_id into v_user_id
  from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
  where o.payment_intent_ids && array[v_intent] and o.payment_intent_ids <> '{}'
  order by o.object in ('invoice', 'checkout_session') desc, o.id limit 1;
  -- Of the project, not of the user: who uses a stolen card need not know that it is noticed.
  perform private.raise_security_event(
    type => 'stripe_early_fraud_warning', severity => 'high', user_id => null, dedupe_key => left((event).object_id, 200),
    details => jsonb_build_object(
      'event_id', (event).id, 'warning_id', (event).object_id,
      'charge_id', left(coalesce(v_warning #>> '{charge,id}', v_warning ->> 'charge'), 255), 'payment_intent_id', left(v_intent, 255),
      'fraud_type', left(v_warning ->> 'fraud_type', 255), 'user_id', v_user_id));
end $$;
comment on function private.warn_of_fraud(private.stripe_events) is
  'Says what an event tells of an early fraud warning: each warning is one security event, with its payment and, where that is known here, whose it is. Nothing is taken back for it: refund the payment in Stripe, or wait for the dispute.';

create function private.apply_stripe_event(event_id text, attempt integer, readings jsonb) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_object text;
  v_ours integer;
  v_state text;
begin
  select e.object into v_object from private.stripe_events e
  where e.id = apply_stripe_event.event_id and e.state = 'waiting' and e.attempts = apply_stripe_event.attempt
  for no key update;
  if not found then
    return 'superseded';
  end if;
  select count(*) into v_ours from private.apply_stripe_readings(apply_stripe_event.readings) r
  where r.outcome <> 'unknown_customer';
  if v_object = 'radar.early_fraud_warning' then
    perform private.warn_of_fraud(e) from private.stripe_events e where e.id = apply_stripe_event.event_id;
    v_ours := v_ours + 1;
  end if;
  v_state := case when v_ours > 0 then 'applied' else 'ignored' end;
  update private.stripe_events e set
    state = v_state, finished_at = now(), error = null,
    -- Disputes and refunds do not name the customer; what was read of them does.
    customer_id = coalesce(e.customer_id, jsonb_path_query_first(apply_stripe_event.readings, '$[*].customer_id ? (@ != null)') #>> '{}')
  where e.id = apply_stripe_event.event_id;
  return v_state;
end $$;
comment on function private.apply_stripe_event(text, integer, jsonb) is
  'Applies what a worker read for an event (see apply_stripe_readings) and finishes the event, both or neither; an early fraud warning needs no reading. Answers applied; ignored: no readings, or all of customers that are not known here; superseded: another worker has it, or it was finished, and nothing was done.';

create function private.fail_stripe_event(event_id text, attempt integer, error text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_event private.stripe_events;
  v_tries integer;
begin
  select e.* into v_event from private.stripe_events e
  where e.id = fail_stripe_event.event_id and e.state = 'waiting' and e.attempts = fail_stripe_event.attempt
  for no key update;
  if not found then
    return 'superseded';
  end if;
  v_tries := v_event.attempts - v_event.attempts_before_retry;
  if v_tries >= (private.setting('billing.max_attempts'))::integer then
    perform private.bury_stripe_event(v_event, fail_stripe_event.error);
    return 'dead';
  end if;
  if v_tries = 10 then
    perform private.raise_security_event(
      type => 'stripe_event_failing', severity => 'medium', user_id => null,
      details => jsonb_build_object('event_id', v_event.id, 'type', v_event.type, 'attempts', v_event.attempts));
  end if;
  update private.stripe_events e set
    error = left(fail_stripe_event.error, 500),
    next_attempt_at = now() + least(interval '5 seconds' * power(2, least(v_tries, 20) - 1), interval '1 hour')
  where e.id = v_event.id;
  return 'waiting';
end $$;
comment on function private.fail_stripe_event(text, integer, text) is
  'Gives an event back with the reason, which must hold no secret. Answers waiting: it is tried again after 5 seconds, 10, 20, at most an hour; dead: that was the last of billing.max_attempts tries, and a security event; superseded: another worker has it, or it was finished. The tenth try in vain, after some 45 minutes, is a security event, too.';

-- The dead -------------------------------------------------------------------------------------------------------------

create function private.dead_stripe_events()
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the inbox is private; refuses all but admins and the service role.
begin
  perform private.require_admin();
  return query
    select e.id, e.type, e.created_at, e.attempts, e.error from private.stripe_events e
    where e.state = 'dead' order by e.finished_at desc limit 1000;
end $$;
comment on function private.dead_stripe_events() is 'Behind public.list_dead_stripe_events.';
grant execute on function private.dead_stripe_events() to authenticated, service_role;

create function public.list_dead_stripe_events()
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language sql stable security invoker set search_path = ''
as $$ select * from private.dead_stripe_events() $$;
comment on function public.list_dead_stripe_events() is
  'For admins and the service role: events of Stripe''s that were given up, the latest first, at most 1000: type, when Stripe made them, how often they were tried, and why the last try failed. retry_stripe_event tries one again.';
grant execute on function public.list_dead_stripe_events() to authenticated, service_role;

create function private.revive_stripe_event(id text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the inbox is private; refuses all but admins and the service role.
declare
  v_event private.stripe_events;
begin
  perform private.require_admin();
  select e.* into v_event from private.stripe_events e where e.id = revive_stripe_event.id for no key update;
  if not found then
    perform private.raise_error('not_found', 'There is no such event.');
  end if;
  if v_event.state <> 'dead' then
    return v_event.state;
  end if;
  update private.stripe_events e set
    state = 'waiting', finished_at = null, attempts_before_retry = e.attempts, next_attempt_at = now()
  where e.id = v_event.id;
  perform private.audit(action => 'stripe_event.retry', resource_type => 'stripe_event', resource_id => left(v_event.id, 200),
    details => jsonb_build_object('type', v_event.type, 'attempts', v_event.attempts));
  return 'waiting';
end $$;
comment on function private.revive_stripe_event(text) is 'Behind public.retry_stripe_event.';
grant execute on function private.revive_stripe_event(text) to authenticated, service_role;

create function public.retry_stripe_event(id text) returns text
language sql volatile security invoker set search_path = ''
as $$ select private.revive_stripe_event(retry_stripe_event.id) $$;
comment on function public.retry_stripe_event(text) is
  'For admins and the service role: lets a dead event of Stripe''s be tried again, as often as a new one; 404 not_found when there is no such event. Answers the event''s state: waiting, or what it was when it is not dead.';
grant execute on function public.retry_stripe_event(text) to authenticated, service_role;

create function private.retry_stripe_events(since timestamptz default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_revived integer;
begin
  update private.stripe_events e set
    state = 'waiting', finished_at = null, attempts_before_retry = e.attempts, next_attempt_at = now()
  where e.state = 'dead' and e.finished_at >= coalesce(retry_stripe_events.since, '-infinity');
  get diagnostics v_revived = row_count;
  if v_revived > 0 then
    perform private.audit(action => 'stripe_event.retry', resource_type => 'stripe_event', resource_id => 'all',
      details => jsonb_build_object('events', v_revived, 'since', retry_stripe_events.since));
  end if;
  return v_revived;
end $$;
comment on function private.retry_stripe_events(timestamptz) is
  'For database administrators, after an outage: lets all dead events of Stripe''s be tried again, or those that were given up since then, as often as new ones. Answers how many.';

-- The old --------------------------------------------------------------------------------------------------------------

create function private.delete_old_stripe_events(batch_size integer default 50000) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_before timestamptz := now() - make_interval(days => (private.setting('billing.event_days'))::integer);
  v_deleted bigint;
  v_more bigint;
begin
  delete from private.stripe_events e
  where e.id in (
    select x.id from private.stripe_events x
    where x.finished_at < v_before and x.finished_at is not null and x.state <> 'dead'
    order by x.finished_at limit delete_old_stripe_events.batch_size for update skip locked);
  get diagnostics v_deleted = row_count;
  delete from private.stripe_objects o
  where o.id in (
    select x.id from private.stripe_objects x
    where x.read_at < v_before and x.customer_id is not null
      and (x.object = 'checkout_session' and x.reading ->> 'status' = 'expired'
        or not exists (select from private.stripe_customers c where c.id = x.customer_id))
    limit delete_old_stripe_events.batch_size);
  get diagnostics v_more = row_count;
  return v_deleted + v_more;
end $$;
comment on function private.delete_old_stripe_events(integer) is
  'Deletes events that were finished billing.event_days ago, but not the dead, and what was read that long ago of checkouts that expired, and of customers of whom nobody knows whose they are, or whose user was erased. A job runs it. Answers how many rows went.';
