-- What Stripe says: its events, and its objects as they were last read.

-- Events ==============================================================================================================
-- Stripe's events: an inbox that keeps each once, hands it to one worker at a time and tries again, until it is applied or dead.

insert into private.settings (key, value, rule, description) values
  ('billing.max_attempts', '82', '{"type": "integer", "minimum": 1, "maximum": 10000}', 'How often an event of Stripe''s is tried before it is dead and waits for retry_stripe_event: 82 times are three days.'),
  ('billing.lease_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 3600}', 'How long a worker has to apply an event of Stripe''s before another may take it.'),
  ('billing.event_days', '90', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days for which events of Stripe''s are kept after they were applied; dead ones stay.')
on conflict (key) do nothing;

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
create index stripe_events_dead_idx on private.stripe_events (finished_at desc, id desc) where state = 'dead';
create index stripe_events_customer_id_idx on private.stripe_events (customer_id);
revoke all on private.stripe_events from anon, authenticated, service_role;

-- Receive --------------------------------------------------------------------------------------------------------------

create function private.receive_stripe_events(events jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_new text[];
  v_foreign jsonb;
begin
  -- In the order of their ids, so that two statements with the same events do not wait for each other.
  with given as (
    select e.about, e.payload, e.about ->> 'account' is not null as is_foreign, e.payload #> '{data,object,customer}' as customer
    from jsonb_to_recordset(receive_stripe_events.events) as e (about jsonb, payload jsonb)
  ), kept as (
    insert into private.stripe_events (
      id, type, api_version, livemode, account, created_at, object, object_id, customer_id, payload, state, finished_at)
    select
      g.about ->> 'id', g.about ->> 'type', g.about ->> 'api_version', (g.about ->> 'livemode')::boolean, g.about ->> 'account',
      to_timestamp((g.about ->> 'created')::double precision), g.about ->> 'object', g.about ->> 'object_id',
      case when g.about ->> 'object' = 'customer' then g.about ->> 'object_id'
        when jsonb_typeof(g.customer) = 'string' then left(g.customer #>> '{}', 255) end,
      g.payload, case when g.is_foreign then 'ignored' else 'waiting' end, case when g.is_foreign then now() end
    from given g order by g.about ->> 'id'
    on conflict on constraint stripe_events_pkey do nothing
    returning id, account
  )
  select array_agg(k.id), jsonb_agg(jsonb_build_object('account', k.account, 'event_id', k.id)) filter (where k.account is not null)
  into v_new, v_foreign from kept k;
  if v_foreign is not null then
    perform private.raise_security_event(
      type => 'stripe_foreign_account', severity => 'high', user_id => null, dedupe_key => left(f ->> 'account', 200), details => f)
    from jsonb_array_elements(v_foreign) f;
  end if;
  return to_jsonb(coalesce(v_new, '{}'));
end $$;
comment on function private.receive_stripe_events(jsonb) is
  'Keeps events whose signatures were verified: [{about: {id, type, api_version, livemode, account, created, object, object_id}, payload}]. Answers the ids of those that are new; others were here already. One of another account than ours is kept as ignored, and is a security event.';

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
    with turns as (
      -- Of those that wait longest, every customer's first, then every customer's second. An event without one is its own.
      select w.id, row_number() over (partition by coalesce(w.customer_id, w.id) order by w.next_attempt_at, w.id) as turn
      from (
        select x.id, x.customer_id, x.next_attempt_at from private.stripe_events x
        where x.state = 'waiting' and x.next_attempt_at <= now() order by x.next_attempt_at, x.id limit 10000) w
    ), due as (
      select e.id, t.turn, e.next_attempt_at, e.error is null and e.attempts > e.attempts_before_retry as is_lost
      from private.stripe_events e join turns t on t.id = e.id
      where e.state = 'waiting' and e.next_attempt_at <= now()
      order by t.turn, e.next_attempt_at, e.id limit least(claim_stripe_events.batch_size, 1000)
      for update of e skip locked
    ), claimed as (
      -- One from whose last try nobody came back may be what ended the worker: alone it takes no other with it.
      select d.id from due d, (select f.id, f.is_lost from due f order by f.turn, f.next_attempt_at, f.id limit 1) first
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
  'Takes waiting events, customers in turn and the longest waiting first, each for one worker and for billing.lease_seconds; one from whose last try nobody came back is taken alone. Answers fewer than batch_size while more may wait, and none when none is due. End each with apply_stripe_events or fail_stripe_event and its attempt. One that nobody came back from billing.max_attempts times is dead.';

create function private.warn_of_fraud(event private.stripe_events) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_warning jsonb := (event).payload #> '{data,object}';
  v_intent text := coalesce(v_warning #>> '{payment_intent,id}', v_warning ->> 'payment_intent');
  v_charge text := coalesce(v_warning #>> '{charge,id}', v_warning ->> 'charge');
  v_user_id uuid;
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_early_fraud_warning' and s.user_id is null and s.dedupe_key = left((event).object_id, 200)) then
    return;
  end if;
  select c.user_id into v_user_id
  from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
  where o.payment_refs && array_remove(array[v_intent, v_charge], null) and o.payment_refs <> '{}'
  order by o.object in ('invoice', 'checkout_session') desc, o.id limit 1;
  -- Of the project, not of the user: who uses a stolen card need not know that it is noticed.
  perform private.raise_security_event(
    type => 'stripe_early_fraud_warning', severity => 'high', user_id => null, dedupe_key => left((event).object_id, 200),
    details => jsonb_build_object(
      'event_id', (event).id, 'warning_id', (event).object_id,
      'charge_id', left(v_charge, 255), 'payment_intent_id', left(v_intent, 255),
      'fraud_type', left(v_warning ->> 'fraud_type', 255), 'user_id', v_user_id));
end $$;
comment on function private.warn_of_fraud(private.stripe_events) is
  'Says what an event tells of an early fraud warning: each warning is one security event, with its payment and, where that is known here, whose it is. Nothing is taken back for it: refund the payment in Stripe, or wait for the dispute.';

create function private.apply_stripe_events(events jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_ids text[];
  v_known text[];
  v_states jsonb;
begin
  -- Whose turn it still is, in the order of ids, so that two batches with the same events do not wait in a circle.
  with turns as (
    select e.id from private.stripe_events e
      join jsonb_to_recordset(apply_stripe_events.events) as t (id text, attempt integer) on t.id = e.id and t.attempt = e.attempts
    where e.state = 'waiting' order by e.id for no key update of e
  )
  select array_agg(t.id) into v_ids from turns t;
  -- All that was read for them at once: a customer's locks are taken and its rows made once, however many events it had.
  select array_agg(r.id) filter (where r.outcome <> 'unknown_customer') into v_known
  from private.apply_stripe_readings((
    select jsonb_agg(distinct r.reading) from jsonb_to_recordset(apply_stripe_events.events) as t (id text, readings jsonb)
      cross join lateral jsonb_array_elements(t.readings) r (reading)
    where t.id = any (v_ids))) r;
  perform private.warn_of_fraud(e) from private.stripe_events e where e.id = any (v_ids) and e.object = 'radar.early_fraud_warning';
  with finished as (
    update private.stripe_events e set
      state = case when e.object = 'radar.early_fraud_warning' or exists (
          select from jsonb_array_elements(t.readings) r (reading) where r.reading ->> 'id' = any (v_known)) then 'applied' else 'ignored' end,
      finished_at = now(), error = null,
      -- Disputes and refunds do not name the customer; what was read of them does.
      customer_id = coalesce(e.customer_id, jsonb_path_query_first(t.readings, '$[*].customer_id ? (@ != null)') #>> '{}')
    from jsonb_to_recordset(apply_stripe_events.events) as t (id text, readings jsonb)
    where e.id = t.id and e.id = any (v_ids)
    returning e.id, e.state
  )
  select jsonb_object_agg(f.id, f.state) into v_states from finished f;
  return (
    select jsonb_object_agg(t.id, coalesce(v_states ->> t.id, 'superseded'))
    from jsonb_to_recordset(apply_stripe_events.events) as t (id text));
end $$;
comment on function private.apply_stripe_events(jsonb) is
  'Applies what a worker read for events, [{id, attempt, readings}] (see apply_stripe_readings), and finishes them, all or none; an early fraud warning needs no reading. Answers for each id applied; ignored: no readings, or all of customers that are not known here; superseded: another worker has it, or it was finished, and nothing was done.';

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

create function private.dead_stripe_events(before text, page_size integer)
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the inbox is private; refuses all but admins and the service role.
declare
  v_before timestamptz := (select e.finished_at from private.stripe_events e where e.id = dead_stripe_events.before);
begin
  perform private.require_admin();
  -- Better an error than the first page for ever.
  if dead_stripe_events.before is not null and v_before is null then
    perform private.raise_error('invalid_request_error', 'before is not the id of an event that is finished.');
  end if;
  return query
    select e.id, e.type, e.created_at, e.attempts, e.error from private.stripe_events e
    where e.state = 'dead'
      and (e.finished_at, e.id) < (coalesce(v_before, 'infinity'), case when v_before is null then '' else dead_stripe_events.before end)
    order by e.finished_at desc, e.id desc limit private.page_of(dead_stripe_events.page_size);
end $$;
comment on function private.dead_stripe_events(text, integer) is 'Behind public.list_dead_stripe_events.';
grant execute on function private.dead_stripe_events(text, integer) to authenticated, service_role;

create function public.list_dead_stripe_events(before text default null, page_size integer default 100)
returns table (id text, type text, created_at timestamptz, attempts integer, error text)
language sql stable security invoker set search_path = ''
as $$ select * from private.dead_stripe_events(list_dead_stripe_events.before, list_dead_stripe_events.page_size) $$;
comment on function public.list_dead_stripe_events(text, integer) is
  'Events of Stripe''s that were given up, the latest first, at most page_size (1 to 1000), and before: only those after this one, the last of the page before; for admins and the service role: when Stripe made them, how often they were tried and why they failed.';
grant execute on function public.list_dead_stripe_events(text, integer) to authenticated, service_role;

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

-- The unknown ----------------------------------------------------------------------------------------------------------

create table private.stripe_unknowns (
  id bigint generated always as identity primary key,
  kind text not null check (kind ~ '^[a-z][a-z0-9_]{0,59}$'),
  value text not null check (length(value) between 1 and 255),
  object_id text check (length(object_id) <= 255),
  details jsonb not null default '{}' check (jsonb_typeof(details) = 'object' and pg_column_size(details) <= 4000),
  times bigint not null default 1 check (times > 0),
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  handled_at timestamptz,
  unique (kind, value)
);
comment on table private.stripe_unknowns is
  'What Stripe said that has no meaning here, such as a status that it added later: one row for each kind and value, until somebody acts on it.';
comment on column private.stripe_unknowns.kind is 'What sort of thing it is, such as subscription_status, billing_reason or price.';
comment on column private.stripe_unknowns.object_id is 'The first of Stripe''s objects that said so, as an example.';
comment on column private.stripe_unknowns.details is 'Of that object; no addresses or names.';
comment on column private.stripe_unknowns.times is 'How often it was read, also of the same object; whoever reads it at the same moment may not be counted.';
comment on column private.stripe_unknowns.handled_at is 'When an operator closed it: it goes on being counted, and is told no more.';
create index stripe_unknowns_open_idx on private.stripe_unknowns (id) where handled_at is null;
revoke all on private.stripe_unknowns from anon, authenticated, service_role;

create function private.note_stripe_unknown(kind text, value text, object_id text, details jsonb default '{}') returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_value text := left(coalesce(nullif(note_stripe_unknown.value, ''), 'none'), 255);
begin
  -- The row is not waited for: whoever notes has locks of customers, and others who have it may want one of these.
  update private.stripe_unknowns u set times = u.times + 1, last_seen_at = now()
  where u.id = (
    select x.id from private.stripe_unknowns x where x.kind = note_stripe_unknown.kind and x.value = v_value for update skip locked);
  if found or exists (select from private.stripe_unknowns u where u.kind = note_stripe_unknown.kind and u.value = v_value) then
    return false;
  end if;
  insert into private.stripe_unknowns (kind, value, object_id, details)
  values (note_stripe_unknown.kind, v_value, left(note_stripe_unknown.object_id, 255), coalesce(note_stripe_unknown.details, '{}'))
  on conflict on constraint stripe_unknowns_kind_value_key do nothing;
  if not found then
    return false;
  end if;
  perform private.raise_security_event(
    type => 'stripe_unknown', severity => 'medium', user_id => null,
    dedupe_key => left(note_stripe_unknown.kind || ':' || v_value, 200),
    details => coalesce(note_stripe_unknown.details, '{}')
      || jsonb_build_object('kind', note_stripe_unknown.kind, 'value', v_value, 'object_id', left(note_stripe_unknown.object_id, 255)));
  return true;
end $$;
comment on function private.note_stripe_unknown(text, text, text, jsonb) is
  'Notes something of Stripe''s that has no meaning here. The first time that a value of a kind is seen it is a security event (stripe_unknown, medium) and a row that public.list_stripe_unknowns shows; after that it is counted. details hold no addresses or names. True for what is new.';

create function private.open_stripe_unknowns(before bigint, page_size integer)
returns table (id bigint, kind text, value text, object_id text, details jsonb, times bigint, first_seen_at timestamptz, last_seen_at timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the list is private; refuses all but admins and the service role.
begin
  perform private.require_admin();
  return query
    select u.id, u.kind, u.value, u.object_id, u.details, u.times, u.first_seen_at, u.last_seen_at
    from private.stripe_unknowns u
    where u.handled_at is null and (open_stripe_unknowns.before is null or u.id < open_stripe_unknowns.before)
    order by u.id desc limit private.page_of(open_stripe_unknowns.page_size);
end $$;
comment on function private.open_stripe_unknowns(bigint, integer) is 'Behind public.list_stripe_unknowns.';
grant execute on function private.open_stripe_unknowns(bigint, integer) to authenticated, service_role;

create function public.list_stripe_unknowns(before bigint default null, page_size integer default 100)
returns table (id bigint, kind text, value text, object_id text, details jsonb, times bigint, first_seen_at timestamptz, last_seen_at timestamptz)
language sql stable security invoker set search_path = ''
as $$ select * from private.open_stripe_unknowns(list_stripe_unknowns.before, list_stripe_unknowns.page_size) $$;
comment on function public.list_stripe_unknowns(bigint, integer) is
  'What Stripe said that has no meaning here and nobody has handled, the latest first, at most page_size (1 to 1000), and before: only those after this one, the last of the page before; for admins and the service role: its kind and value, the object that said it first, how often and when it was read.';
grant execute on function public.list_stripe_unknowns(bigint, integer) to authenticated, service_role;

create function private.close_stripe_unknown(id bigint) returns timestamptz
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the list is private; refuses all but admins and the service role.
declare
  v_unknown private.stripe_unknowns;
begin
  perform private.require_admin();
  select u.* into v_unknown from private.stripe_unknowns u where u.id = close_stripe_unknown.id for no key update;
  if not found then
    perform private.raise_error('not_found', 'There is no such entry.');
  end if;
  if v_unknown.handled_at is not null then
    return v_unknown.handled_at;
  end if;
  update private.stripe_unknowns u set handled_at = now() where u.id = v_unknown.id;
  perform private.audit(action => 'stripe_unknown.handle', resource_type => 'stripe_unknown', resource_id => v_unknown.id::text,
    details => jsonb_build_object('kind', v_unknown.kind, 'value', v_unknown.value, 'times', v_unknown.times));
  return now();
end $$;
comment on function private.close_stripe_unknown(bigint) is 'Behind public.handle_stripe_unknown.';
grant execute on function private.close_stripe_unknown(bigint) to authenticated, service_role;

create function public.handle_stripe_unknown(id bigint) returns timestamptz
language sql volatile security invoker set search_path = ''
as $$ select private.close_stripe_unknown(handle_stripe_unknown.id) $$;
comment on function public.handle_stripe_unknown(bigint) is
  'For admins and the service role: closes an entry of list_stripe_unknowns, which is counted and told no more; 404 not_found when there is none. Answers when it was closed, also by an earlier call.';
grant execute on function public.handle_stripe_unknown(bigint) to authenticated, service_role;

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

-- Objects =============================================================================================================
-- Stripe's objects as they were last read. Every row of billing is made from these alone, so neither the order of events nor
-- how often they come makes a difference, and what was made can be made again.

create table private.stripe_objects (
  id text primary key check (length(id) between 1 and 255),
  object text not null check (object in ('customer', 'subscription', 'invoice', 'checkout_session', 'refund', 'dispute', 'credit_note')),
  customer_id text check (length(customer_id) <= 255),
  subscription_id text check (length(subscription_id) <= 255),
  payment_refs text[] not null default '{}',
  user_id text check (length(user_id) <= 255),
  reading jsonb not null check (jsonb_typeof(reading) = 'object'),
  read_at timestamptz not null,
  deleted_at timestamptz
);
comment on table private.stripe_objects is 'The newest reading of each object of Stripe''s; also of customers that are not known here (yet).';
comment on column private.stripe_objects.subscription_id is 'Of an invoice.';
comment on column private.stripe_objects.payment_refs is
  'What ties refunds, disputes and credit notes to the invoice or session that was paid: its payment intents, charges without one, records of payments, and the invoice''s own id.';
comment on column private.stripe_objects.user_id is 'Our metadata: whom the object was made for. Kept when Stripe forgets it with a deleted customer.';
comment on column private.stripe_objects.reading is 'Without read_at. Times are Unix seconds, amounts in the smallest unit.';
comment on column private.stripe_objects.read_at is 'By the database''s clock, before the object was asked for: of two readings the later one is at least as new.';
comment on column private.stripe_objects.deleted_at is 'The first time that it was read as deleted; null: it is there.';
create index stripe_objects_customer_id_idx on private.stripe_objects (customer_id);
create index stripe_objects_subscription_id_idx on private.stripe_objects (subscription_id) where subscription_id is not null;
create index stripe_objects_payment_refs_idx on private.stripe_objects using gin (payment_refs) with (fastupdate = off)
  where payment_refs <> '{}';
revoke all on private.stripe_objects from anon, authenticated, service_role;

create function private.stripe_time(reading jsonb, field text) returns timestamptz
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return to_timestamp((stripe_time.reading ->> stripe_time.field)::double precision);
end $$;
comment on function private.stripe_time(jsonb, text) is 'A time of a reading; null when it has none.';

-- Store ----------------------------------------------------------------------------------------------------------------

create function private.stripe_object(reading jsonb) returns private.stripe_objects
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_object private.stripe_objects;
begin
  v_object.id := reading ->> 'id';
  v_object.object := reading ->> 'object';
  v_object.customer_id := case when v_object.object = 'customer' then v_object.id else reading ->> 'customer_id' end;
  v_object.subscription_id := case when v_object.object = 'invoice' then reading ->> 'subscription_id' end;
  v_object.payment_refs := array(
    select r.ref from (
      select case when v_object.object = 'invoice' then v_object.id else reading ->> 'invoice_id' end
      union
      select p.payment ->> f.field
      from (select reading union all select i from jsonb_path_query(reading, '$.payments[*]') i) p (payment),
        unnest(array['payment_intent_id', 'charge_id', 'payment_record_id']) f (field)) r (ref)
    where r.ref is not null order by 1);
  v_object.user_id := reading ->> 'user_id';
  v_object.reading := reading - 'read_at';
  v_object.read_at := (reading ->> 'read_at')::timestamptz;
  v_object.deleted_at := case when (reading ->> 'deleted')::boolean then v_object.read_at end;
  -- A reading of tomorrow would win over everything until then.
  if v_object.read_at > clock_timestamp() + interval '1 minute' then
    raise exception 'the reading of % lies in the future: %', v_object.id, v_object.read_at;
  end if;
  return v_object;
end $$;
comment on function private.stripe_object(jsonb) is 'A reading as a row. An error when it says what cannot be.';

create function private.lock_stripe_objects(keys text[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_key bigint;
begin
  -- Shared by all, but for project_stripe_objects.
  perform pg_advisory_xact_lock_shared(hashtextextended('private.stripe_objects', 0));
  for v_key in
    select distinct hashtextextended('private.stripe_objects ' || k.key, 0) from unnest(lock_stripe_objects.keys) k (key)
    where k.key is not null order by 1
  loop
    perform pg_advisory_xact_lock(v_key);
  end loop;
end $$;
comment on function private.lock_stripe_objects(text[]) is
  'One transaction at a time for each customer (or payment), until it ends, always in the same order. Taken before anything of theirs is read.';

create function private.store_stripe_object(kept private.stripe_objects, out stored private.stripe_objects, out outcome text)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_old private.stripe_objects;
  v_newest private.stripe_objects := kept;
begin
  select o.* into v_old from private.stripe_objects o where o.id = (kept).id;
  if not found then
    insert into private.stripe_objects select kept.*;
    stored := kept;
    outcome := 'changed';
    return;
  end if;
  -- What was read at the same moment is ordered by what it says, so that the order of arrival does not decide.
  -- One that the database's clock, when it was ahead, has put into the future loses: it would win until then.
  if v_old.read_at <= clock_timestamp() + interval '1 minute'
    and (kept.read_at, kept.deleted_at is not null, kept.reading) < (v_old.read_at, v_old.deleted_at is not null, v_old.reading) then
    v_newest := v_old;
  end if;
  stored := v_newest;
  -- A customer that is deleted has lost its metadata.
  stored.user_id := coalesce(v_newest.user_id, v_old.user_id, kept.user_id);
  stored.customer_id := coalesce(v_newest.customer_id, v_old.customer_id, kept.customer_id);
  if v_newest.deleted_at is not null then
    stored.deleted_at := least(kept.deleted_at, v_old.deleted_at);
  end if;
  outcome := case
    when stored.reading <> v_old.reading or stored.deleted_at is distinct from v_old.deleted_at then 'changed'
    when v_newest.read_at > kept.read_at or v_newest.reading <> kept.reading then 'older'
    else 'same' end;
  if stored is distinct from v_old then
    update private.stripe_objects o set
      customer_id = stored.customer_id, subscription_id = stored.subscription_id, payment_refs = stored.payment_refs,
      user_id = stored.user_id, reading = stored.reading, read_at = stored.read_at, deleted_at = stored.deleted_at
    where o.id = stored.id;
  end if;
end $$;
comment on function private.store_stripe_object(private.stripe_objects) is
  'Keeps a reading unless a newer one is there. Answers what is stored now, and same, changed or older. The caller holds the lock.';

create function private.stripe_words(kind text) returns text[]
language sql immutable security invoker set search_path = ''
return case stripe_words.kind
  when 'subscription_status' then
    array['active', 'canceled', 'incomplete', 'incomplete_expired', 'past_due', 'paused', 'trialing', 'unpaid']
  when 'invoice_status' then array['draft', 'open', 'paid', 'uncollectible', 'void']
  when 'billing_reason' then
    array['automatic_pending_invoice_item_invoice', 'manual', 'quote_accept', 'subscription', 'subscription_create', 'subscription_cycle',
      'subscription_threshold', 'subscription_update', 'upcoming']
  when 'checkout_status' then array['complete', 'expired', 'open']
  when 'checkout_payment_status' then array['no_payment_required', 'paid', 'unpaid']
  when 'refund_status' then array['canceled', 'failed', 'pending', 'requires_action', 'succeeded']
  when 'dispute_status' then
    array['appeal_needs_response', 'appeal_under_review', 'lost', 'needs_response', 'prevented', 'under_review', 'warning_closed',
      'warning_needs_response', 'warning_under_review', 'won']
  when 'credit_note_status' then array['issued', 'void'] end;
comment on function private.stripe_words(text) is
  'The words of the pinned version of Stripe''s API that a kind of private.stripe_unknowns may have; null for a kind that has no list.';

create function private.note_stripe_unknowns_of(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
begin
  perform private.note_stripe_unknown(w.kind, w.value, (kept).id, jsonb_build_object('object', (kept).object))
  from (
    select case (kept).object when 'checkout_session' then 'checkout' else (kept).object end || '_status', v_reading ->> 'status'
    union all
    select 'checkout_payment_status', v_reading ->> 'payment_status' where (kept).object = 'checkout_session'
    union all
    -- Why an invoice was made decides what it brings, where it is paid and has a plan's line.
    select 'billing_reason', v_reading ->> 'billing_reason'
    where (kept).object = 'invoice' and v_reading ->> 'status' = 'paid' and exists (
      select from jsonb_path_query(v_reading, '$.lines[*]') l (line) join private.stripe_prices s on s.id = l.line ->> 'price_id'
      where s.plan_price_id is not null)
    union all
    select 'payment_type', p ->> 'unknown_type' from jsonb_path_query(v_reading, '$.payments[*]') p) w (kind, value)
  where w.value is not null and w.value <> all (coalesce(private.stripe_words(w.kind), '{}'));
end $$;
comment on function private.note_stripe_unknowns_of(private.stripe_objects) is
  'Notes what a stored object says in words that are not known here: statuses, why a paid invoice of a plan was made, by what kind of payment it was paid.';

-- Whose ----------------------------------------------------------------------------------------------------------------

create function private.link_stripe_customer_by_metadata(customer_id text) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_link private.stripe_customers;
begin
  select c.* into v_link from private.stripe_customers c where c.id = link_stripe_customer_by_metadata.customer_id;
  if found then
    return v_link.user_id;
  end if;
  -- One user, or nobody: two who are named are a question for a human.
  insert into private.stripe_customers (id, user_id, livemode, deleted_at)
  select link_stripe_customer_by_metadata.customer_id, m.user_id, m.livemode, m.deleted_at
  from (
    select min(o.user_id)::uuid as user_id, bool_and((o.reading ->> 'livemode')::boolean) as livemode,
      min(o.deleted_at) filter (where o.object = 'customer') as deleted_at
    from private.stripe_objects o
    where o.customer_id = link_stripe_customer_by_metadata.customer_id and o.object in ('customer', 'subscription', 'checkout_session')
      and (o.user_id is null or private.uuid_or_null(o.user_id) is not null)
      and (o.object <> 'checkout_session' or coalesce(o.reading ->> 'client_reference_id' = o.user_id, true))
    having count(distinct o.user_id) = 1) m
  where exists (select from auth.users u where u.id = m.user_id)
    and (m.deleted_at is not null or not exists (
      select from private.stripe_customers c where c.user_id = m.user_id and c.livemode = m.livemode and c.deleted_at is null))
  on conflict do nothing;
  select c.* into v_link from private.stripe_customers c where c.id = link_stripe_customer_by_metadata.customer_id;
  return v_link.user_id;
end $$;
comment on function private.link_stripe_customer_by_metadata(text) is
  'Whose customer it is; null: nobody''s whom we know. One that is not linked yet is, when our metadata names one user who exists and has no other live customer. Never by an e-mail address, never by client_reference_id.';

create function private.tg_stripe_customers__lock() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.lock_stripe_objects(array[new.id]);
  return new;
end $$;
comment on function private.tg_stripe_customers__lock() is
  'Before the row is there: whoever stores readings of this customer meanwhile has finished, or waits and finds it.';
create trigger tg_stripe_customers__lock before insert on private.stripe_customers
  for each row execute function private.tg_stripe_customers__lock();

create function private.tg_stripe_customers__project() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.project_stripe_customer(new.id);
  return null;
end $$;
comment on function private.tg_stripe_customers__project() is
  'What was read of a customer before anybody knew whose it is counts from the moment they do.';
create trigger tg_stripe_customers__project after insert on private.stripe_customers
  for each row execute function private.tg_stripe_customers__project();

create function private.tg_stripe_customers__forget() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the Auth service erases users.
begin
  delete from private.stripe_objects o where o.customer_id = old.id;
  -- One that a worker has at this moment is left to delete_old_stripe_events: waiting for it could be waiting for ever.
  delete from private.stripe_events e
  where e.id in (select x.id from private.stripe_events x where x.customer_id = old.id for update skip locked);
  return null;
end $$;
comment on function private.tg_stripe_customers__forget() is
  'With an erased user go the readings and the events of their customers, which hold addresses.';
create trigger tg_stripe_customers__forget after delete on private.stripe_customers
  for each row execute function private.tg_stripe_customers__forget();

-- Apply ----------------------------------------------------------------------------------------------------------------

create function private.apply_stripe_readings(readings jsonb) returns table (object text, id text, outcome text)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_objects private.stripe_objects[] := array(
    select private.stripe_object(r.reading)
    from jsonb_array_elements(coalesce(apply_stripe_readings.readings, '[]')) with ordinality r (reading, place) order by r.place);
  v_kept record;
  v_stored private.stripe_objects;
  v_outcomes text[];
  v_owners uuid[];
  v_place integer;
  v_user_id uuid;
begin
  perform private.lock_stripe_objects(array(
    select o.customer_id from unnest(v_objects) o
    union select unnest(o.payment_refs) from unnest(v_objects) o
    -- Whose payments these refunds, disputes and credit notes are of: what they paid for may end with them.
    union select p.customer_id from private.stripe_objects p
    where p.payment_refs && array(select unnest(o.payment_refs) from unnest(v_objects) o) and p.payment_refs <> '{}'
    union select o.id from unnest(v_objects) o where o.customer_id is null));
  -- Who is being erased at this moment is gone before anything is stored; who is not, waits to be until this is done.
  perform from auth.users u
  where u.id in (select c.user_id from private.stripe_customers c where c.id in (select o.customer_id from unnest(v_objects) o))
  order by u.id for key share;
  -- Accounts are locked on the way, by linking, too: all at once, in the order in which calls of the AI gateway lock them.
  perform from private.accounts a
  where a.user_id in (
    select c.user_id from private.stripe_customers c where c.id in (select o.customer_id from unnest(v_objects) o)
    union all
    select private.uuid_or_null(o.user_id)
    from (
      select o.user_id from unnest(v_objects) o
      union all
      select o.user_id from private.stripe_objects o where o.customer_id in (select n.customer_id from unnest(v_objects) n)) o
    where o.user_id is not null)
  order by a.user_id for no key update;
  for v_place in 1..cardinality(v_objects) loop
    v_kept := private.store_stripe_object(v_objects[v_place]);
    v_objects[v_place] := v_kept.stored;
    v_outcomes[v_place] := v_kept.outcome;
  end loop;
  -- All are stored before anything is made of them, and what is made is made of what is stored: neither their order among
  -- themselves matters, nor whether one of them is there in an older reading, too.
  for v_place in 1..cardinality(v_objects) loop
    select o.* into v_stored from private.stripe_objects o where o.id = (v_objects[v_place]).id;
    v_objects[v_place] := v_stored;
    v_owners[v_place] := private.link_stripe_customer_by_metadata((v_objects[v_place]).customer_id);
  end loop;
  -- In the order of users, for accounts are locked on the way.
  for v_place in select p from generate_subscripts(v_objects, 1) p order by v_owners[p], p loop
    object := (v_objects[v_place]).object;
    id := (v_objects[v_place]).id;
    outcome := private.project_stripe_reading(v_objects[v_place], v_owners[v_place], v_outcomes[v_place]);
    v_outcomes[v_place] := outcome;
    return next;
  end loop;
  for v_user_id in
    select distinct v_owners[p] from generate_subscripts(v_objects, 1) p
    where v_owners[p] is not null and v_outcomes[p] = 'changed' and (v_objects[p]).object in ('customer', 'subscription', 'invoice')
    order by 1
  loop
    perform private.refresh_entitlement(v_user_id);
  end loop;
end $$;
comment on function private.apply_stripe_readings(jsonb) is
  'Keeps what was read at Stripe, each object if no newer reading of it is there, and makes rows, credits and entitlements of it. Answers for each: same; changed; older: a newer one was here; unknown_customer: kept until we know whose it is; mismatch: it names another user than its customer''s, and nothing comes of it. An error leaves nothing behind.';

create function private.project_stripe_reading(kept private.stripe_objects, owner uuid, outcome text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_changed boolean;
begin
  if outcome = 'older' then
    return outcome;
  end if;
  if private.is_stripe_mismatch(kept, owner) then
    if outcome = 'changed' then
      perform private.raise_security_event(
        type => 'stripe_customer_mismatch', severity => 'high', user_id => owner, dedupe_key => left((kept).id, 200),
        details => jsonb_build_object('object', (kept).object, 'id', (kept).id, 'customer_id', (kept).customer_id));
    end if;
    return 'mismatch';
  end if;
  v_changed := private.project_stripe_object(kept, owner);
  if v_changed is null then
    return 'unknown_customer';
  end if;
  perform private.note_stripe_unknowns_of(kept);
  perform private.tell_of_stripe_object(kept);
  return case when v_changed then 'changed' else outcome end;
end $$;
comment on function private.project_stripe_reading(private.stripe_objects, uuid, text) is
  'Makes rows of one reading that was stored with this outcome. Answers the outcome that apply_stripe_readings tells.';

create function private.is_stripe_mismatch(kept private.stripe_objects, owner uuid) returns boolean
language sql immutable security invoker set search_path = ''
return (kept).object = 'checkout_session' and owner is not null
  and (coalesce((kept).user_id <> owner::text, false)
    or coalesce((kept).reading ->> 'client_reference_id' <> owner::text, false));
comment on function private.is_stripe_mismatch(private.stripe_objects, uuid) is
  'Whether a checkout session names another user than its customer''s. Anybody can put a client_reference_id into a payment link.';

create function private.project_stripe_customer(customer_id text) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_object private.stripe_objects;
  v_changed bigint := 0;
begin
  select c.user_id into v_user_id from private.stripe_customers c where c.id = project_stripe_customer.customer_id;
  if not found then
    return 0;
  end if;
  for v_object in select o.* from private.stripe_objects o where o.customer_id = project_stripe_customer.customer_id order by o.id loop
    continue when private.is_stripe_mismatch(v_object, v_user_id);
    v_changed := v_changed + coalesce(private.project_stripe_object(v_object, v_user_id), false)::integer;
  end loop;
  if v_object.id is not null then
    perform private.refresh_entitlement(v_user_id);
  end if;
  return v_changed;
end $$;
comment on function private.project_stripe_customer(text) is 'Makes the rows of everything that was read of a customer. Answers of how many objects something changed. The caller holds the lock.';

create function private.project_stripe_objects(customer_id text default null) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer_id text;
  v_changed bigint := 0;
begin
  if project_stripe_objects.customer_id is null then
    -- Nobody stores a reading meanwhile: one lock in place of one for each customer, of which there may be too many.
    perform pg_advisory_xact_lock(hashtextextended('private.stripe_objects', 0));
  else
    perform private.lock_stripe_objects(array[project_stripe_objects.customer_id]);
  end if;
  for v_customer_id in
    select distinct o.customer_id from private.stripe_objects o
    where o.customer_id is not null and (project_stripe_objects.customer_id is null or o.customer_id = project_stripe_objects.customer_id)
      and not exists (select from private.stripe_customers c where c.id = o.customer_id)
    order by 1
  loop
    perform private.link_stripe_customer_by_metadata(v_customer_id);
  end loop;
  for v_customer_id in
    select c.id from private.stripe_customers c
    where project_stripe_objects.customer_id is null or c.id = project_stripe_objects.customer_id
    order by c.user_id, c.id
  loop
    v_changed := v_changed + private.project_stripe_customer(v_customer_id);
  end loop;
  return v_changed;
end $$;
comment on function private.project_stripe_objects(text) is
  'Makes every row of billing again from what was read, of one customer or (null) of all: after prices became known, or rows were lost. On a healthy database nothing changes. Answers of how many objects something did. Of all it holds up events while it runs.';

create function private.known_stripe_objects(object text, since timestamptz) returns table (id text, read_at timestamptz)
language sql stable security invoker set search_path = ''
as $$
  select o.id, o.read_at from private.stripe_objects o
  where o.object = known_stripe_objects.object and o.deleted_at is null
    and (o.object <> 'checkout_session' or o.reading ->> 'status' = 'complete')
    and (known_stripe_objects.since is null or coalesce(
      private.stripe_time(o.reading, 'created'), private.stripe_time(o.reading, 'started_at'), 'infinity') >= known_stripe_objects.since)
  order by o.id
$$;
comment on function private.known_stripe_objects(text, timestamptz) is
  'The objects of a kind that Stripe must have, too, made since then (null: ever), and when they were read: of sessions the complete ones; none that are deleted.';
