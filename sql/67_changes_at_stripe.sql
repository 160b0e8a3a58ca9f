-- What must change at Stripe because something changed here, and prices that were made at Stripe and not here.

-- Changes =============================================================================================================
-- A list of what is to be done at Stripe: a subscription that ends with its account, another address, a trial that goes on. Rows have no
-- foreign key: they outlive the user, whose subscription must not go on being charged.

insert into private.settings (key, value, rule, description) values
  ('billing.cancel_on_deletion', '"period_end"', '{"enum": ["period_end", "now"]}', 'When subscriptions of a deleted account end: "period_end" of what was paid for, which reinstate_account can take back, or "now".')
on conflict (key) do nothing;

create table private.stripe_changes (
  customer_id text not null check (length(customer_id) between 1 and 255),
  kind text not null check (kind in ('cancellation', 'email', 'resumption')),
  wanted text check (wanted in ('now', 'period_end', 'undo')),
  livemode boolean not null,
  user_id uuid not null,
  subscription_ids text[] not null default '{}',
  turn bigint not null default 0,
  is_disturbed boolean not null default false,
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  created_at timestamptz not null default now(),
  done_at timestamptz,
  primary key (customer_id, kind),
  check ((kind = 'cancellation') = (wanted is not null))
);
comment on table private.stripe_changes is
  'What is to be done at Stripe for a customer: end their subscriptions (cancellation), tell their address (email), go on after a paused trial (resumption). Tried until it is done.';
comment on column private.stripe_changes.wanted is 'Of a cancellation: now, at the period_end, or undo, when the account was reinstated.';
comment on column private.stripe_changes.user_id is 'Whose customer it is, or was: no foreign key, because it must be done although the user is erased.';
comment on column private.stripe_changes.subscription_ids is 'Subscriptions that it is about, as far as known, for whoever has to act by hand.';
comment on column private.stripe_changes.turn is 'Whose turn it is: an answer of an earlier one is too late.';
comment on column private.stripe_changes.is_disturbed is 'An earlier worker ended late and may have undone what a later one did: it is done once more.';
create index stripe_changes_next_attempt_at_idx on private.stripe_changes (next_attempt_at) where done_at is null;
create index stripe_changes_done_at_idx on private.stripe_changes (done_at) where done_at is not null;
create index stripe_changes_user_id_idx on private.stripe_changes (user_id);
revoke all on private.stripe_changes from anon, authenticated, service_role;

create function private.note_stripe_change(customer private.stripe_customers, kind text, wanted text default null) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.stripe_changes as c (customer_id, kind, wanted, livemode, user_id, subscription_ids)
  values (
    (customer).id, note_stripe_change.kind, note_stripe_change.wanted, (customer).livemode, (customer).user_id,
    array(
      select o.id from private.stripe_objects o
      where o.customer_id = (customer).id and o.object = 'subscription' and o.deleted_at is null
        and o.reading ->> 'status' not in ('canceled', 'incomplete_expired')
      order by o.id))
  on conflict on constraint stripe_changes_pkey do update set
    wanted = excluded.wanted, user_id = excluded.user_id, subscription_ids = excluded.subscription_ids, turn = c.turn + 1, attempts = 0,
    next_attempt_at = now(), error = null, created_at = now(), done_at = null;
end $$;
comment on function private.note_stripe_change(private.stripe_customers, text, text) is
  'Notes what is to be done at Stripe for a customer, in the place of what was wanted of this kind before.';

create function private.claim_stripe_changes(livemode boolean, batch_size integer default 10)
returns table (customer_id text, kind text, wanted text, email text, turn bigint)
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- This key cannot do them; who has the other mode's looks again in an hour.
  update private.stripe_changes c set next_attempt_at = now() + interval '1 hour'
  where c.done_at is null and c.next_attempt_at <= now() and c.livemode <> claim_stripe_changes.livemode;
  return query
    with due as (
      select d.customer_id, d.kind from private.stripe_changes d
      where d.done_at is null and d.next_attempt_at <= now() and d.livemode = claim_stripe_changes.livemode
      order by d.next_attempt_at, d.customer_id limit least(claim_stripe_changes.batch_size, 100)
      for update skip locked
    )
    update private.stripe_changes c set
      turn = c.turn + 1, attempts = c.attempts + 1, is_disturbed = false,
      next_attempt_at = now() + make_interval(secs => (private.setting('billing.lease_seconds'))::integer)
    from due d where c.customer_id = d.customer_id and c.kind = d.kind
    returning c.customer_id, c.kind, c.wanted, private.confirmed_email(c.user_id), c.turn;
end $$;
comment on function private.claim_stripe_changes(boolean, integer) is
  'Takes what is due at Stripe in this mode, each for one worker and for billing.lease_seconds, with the user''s address where it is confirmed. End each with finish_stripe_change and its turn.';

create function private.confirmed_email(user_id uuid) returns text
language sql stable security invoker set search_path = ''
as $$
  select nullif(u.email, '') from auth.users u where u.id = confirmed_email.user_id and u.email_confirmed_at is not null
$$;
comment on function private.confirmed_email(uuid) is 'The address that a user has shown to be theirs; null without one. Stripe is told no other.';

create function private.finish_stripe_change(
  customer_id text, kind text, turn bigint, error text default null, subscription_ids text[] default null
) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_change private.stripe_changes;
begin
  select c.* into v_change from private.stripe_changes c
  where c.customer_id = finish_stripe_change.customer_id and c.kind = finish_stripe_change.kind
  for no key update;
  if not found then
    return 'superseded';
  elsif v_change.turn <> finish_stripe_change.turn then
    -- What it did may have come after what was done since.
    update private.stripe_changes c set
      is_disturbed = true, done_at = null, next_attempt_at = case when c.done_at is null then c.next_attempt_at else now() end
    where c.customer_id = v_change.customer_id and c.kind = v_change.kind;
    return 'superseded';
  end if;
  update private.stripe_changes c set
    error = left(finish_stripe_change.error, 500),
    subscription_ids = coalesce(finish_stripe_change.subscription_ids, c.subscription_ids),
    done_at = case when finish_stripe_change.error is null and not c.is_disturbed then now() end,
    next_attempt_at = case when finish_stripe_change.error is null then now()
      else now() + least(interval '1 minute' * power(2, least(c.attempts, 20) - 1), interval '1 hour') end
  where c.customer_id = v_change.customer_id and c.kind = v_change.kind
  returning c.* into v_change;
  if finish_stripe_change.error is not null then
    perform private.warn_of_stripe_change(v_change);
  end if;
  return case when v_change.done_at is null then 'waiting' else 'done' end;
end $$;
comment on function private.finish_stripe_change(text, text, bigint, text, text[]) is
  'Ends a try: done, or with the reason, which must hold no secret, waiting for the next one after a minute, 2, 4, at most an hour, without end. superseded: something else is wanted by now, or another worker has it, and it is done once more because this one ended late.';

create function private.warn_of_stripe_change(change private.stripe_changes) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The fifth try in vain comes after a quarter of an hour; from then on once a day.
  if (change).attempts = 5 or (change).attempts > 5 and (change).attempts % 24 = 0 then
    perform private.raise_security_event(
      type => case (change).kind when 'cancellation' then 'stripe_cancellation_failing' when 'email' then 'stripe_email_failing'
        else 'stripe_resumption_failing' end,
      severity => case (change).kind when 'cancellation' then 'high' else 'medium' end,
      user_id => null, dedupe_key => left((change).customer_id, 200),
      details => jsonb_build_object(
        'customer_id', (change).customer_id, 'subscription_ids', to_jsonb((change).subscription_ids), 'wanted', (change).wanted,
        'attempts', (change).attempts, 'error', (change).error, 'user_id', (change).user_id));
  end if;
end $$;
comment on function private.warn_of_stripe_change(private.stripe_changes) is
  'Says that something cannot be done at Stripe, with customer and subscriptions: at the fifth try in vain, then about once a day. A cancellation is high: somebody who left is charged.';

create function private.call_change_stripe() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (select from private.stripe_changes c where c.done_at is null and c.next_attempt_at <= now()) then
    return private.call_jobs_function('change-stripe');
  end if;
  return null;
end $$;
comment on function private.call_change_stripe() is 'Calls the worker of private.stripe_changes when one is due.';

create function private.delete_old_stripe_changes() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.stripe_changes c where c.done_at < now() - make_interval(days => (private.setting('billing.event_days'))::integer);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_stripe_changes() is 'Forgets what was done at Stripe billing.event_days ago. A job runs it. Answers how many.';

-- An account that is deleted -------------------------------------------------------------------------------------------

create function private.cancellation_wish() returns text
language sql stable security invoker set search_path = ''
-- Nobody's deletion fails because of a setting that is no word of ours.
as $$ select case private.setting('billing.cancel_on_deletion') #>> '{}' when 'now' then 'now' else 'period_end' end $$;
comment on function private.cancellation_wish() is 'When subscriptions of deleted accounts end, by billing.cancel_on_deletion: now or period_end.';

create function private.tg_profiles__end_subscriptions() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  if new.status = 'deleted' then
    perform private.note_stripe_change(c, 'cancellation', private.cancellation_wish())
    from private.stripe_customers c where c.user_id = new.id and c.deleted_at is null;
  else
    perform private.note_stripe_change(c, 'cancellation', 'undo')
    from private.stripe_customers c
    where c.user_id = new.id and c.deleted_at is null and exists (
      select from private.stripe_changes x where x.customer_id = c.id and x.kind = 'cancellation' and x.wanted <> 'undo');
  end if;
  return null;
end $$;
comment on function private.tg_profiles__end_subscriptions() is
  'With an account that is deleted end its subscriptions; one that is reinstated keeps those that have not ended.';
create trigger tg_profiles__end_subscriptions after update of status on public.profiles
  for each row when (new.status <> old.status and 'deleted' in (new.status, old.status))
  execute function private.tg_profiles__end_subscriptions();

create function private.tg_stripe_customers__end_subscriptions() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the Auth service erases users.
begin
  -- A row that is deleted by hand, with its user still there, ends nothing.
  if old.deleted_at is null and not exists (select from auth.users u where u.id = old.user_id) then
    delete from private.stripe_changes c where c.customer_id = old.id and c.kind <> 'cancellation';
    perform private.note_stripe_change(old, 'cancellation', private.cancellation_wish());
  end if;
  return old;
end $$;
comment on function private.tg_stripe_customers__end_subscriptions() is
  'With a user that is erased, by whatever way, end their subscriptions. Before the readings of the customer go, which name them.';
create trigger tg_stripe_customers__end_subscriptions before delete on private.stripe_customers
  for each row execute function private.tg_stripe_customers__end_subscriptions();

create function private.end_subscriptions_of_deleted() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer private.stripe_customers;
  v_noted integer := 0;
begin
  for v_customer in
    select c.* from private.stripe_customers c join public.profiles p on p.id = c.user_id
    where p.status = 'deleted' and c.deleted_at is null
      and not exists (
        select from private.stripe_changes x where x.customer_id = c.id and x.kind = 'cancellation' and x.done_at is null)
      and exists (
        select from private.stripe_objects o
        where o.customer_id = c.id and o.object = 'subscription' and o.deleted_at is null
          and o.reading ->> 'status' not in ('canceled', 'incomplete_expired')
          and not coalesce((o.reading ->> 'cancel_at_period_end')::boolean, false)
          and not coalesce((o.reading ->> 'cancel_at')::bigint <= (
            select min((i.item ->> 'current_period_end')::bigint) from jsonb_path_query(o.reading, '$.items[*]') i (item)), false))
    order by c.id
  loop
    perform private.note_stripe_change(v_customer, 'cancellation', private.cancellation_wish());
    v_noted := v_noted + 1;
  end loop;
  return v_noted;
end $$;
comment on function private.end_subscriptions_of_deleted() is
  'Notes subscriptions of deleted accounts that go on all the same: bought in the moment of the deletion, or started again at Stripe since. The nightly comparison calls it. Answers of how many customers.';

-- Another address ------------------------------------------------------------------------------------------------------

create function private.tg_users__tell_stripe() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.note_stripe_change(c, 'email') from private.stripe_customers c where c.user_id = new.id and c.deleted_at is null;
  return null;
end $$;
comment on function private.tg_users__tell_stripe() is
  'Stripe hears of an address once it is confirmed, for customers that there are; it sends invoices and receipts there.';
create trigger palisade_tell_stripe after update of email, email_confirmed_at on auth.users
  for each row when (
    new.email_confirmed_at is not null and new.email <> ''
    and (new.email is distinct from old.email or old.email_confirmed_at is null))
  execute function private.tg_users__tell_stripe();

-- A paused trial -------------------------------------------------------------------------------------------------------

create function private.tg_stripe_objects__resume() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  if tg_op = 'UPDATE' and old.reading ->> 'status' = 'complete' then
    return null;
  end if;
  perform private.note_stripe_change(c, 'resumption')
  from private.stripe_customers c
  where c.id = new.customer_id and c.deleted_at is null and c.user_id::text = new.user_id;
  return null;
end $$;
comment on function private.tg_stripe_objects__resume() is
  'A page that took a card for a paused subscription was completed: the subscription goes on, also when nobody came back from it.';
create trigger tg_stripe_objects__resume after insert or update of reading on private.stripe_objects
  for each row when (
    new.object = 'checkout_session' and new.reading ->> 'mode' = 'setup' and new.reading ->> 'status' = 'complete')
  execute function private.tg_stripe_objects__resume();

-- Prices of the dashboard ==============================================================================================
-- A price that somebody made in Stripe's dashboard for a product of ours. It is paid, and nobody here knows for what.

create function private.unknown_plan_items(kept private.stripe_objects) returns table (price_id text, product_id text)
language sql stable security invoker set search_path = ''
as $$
  select distinct i.item ->> 'price_id', i.item ->> 'product_id'
  from jsonb_path_query((kept).reading, '$.items[*]') i (item)
  where (kept).object = 'subscription' and i.item ->> 'price_id' is not null
    and not exists (select from private.stripe_prices s where s.id = i.item ->> 'price_id')
    and exists (
      select from private.stripe_prices s where s.product_id = i.item ->> 'product_id' and s.plan_price_id is not null)
$$;
comment on function private.unknown_plan_items(private.stripe_objects) is
  'The prices of a subscription that are not known here although their product is that of a plan.';

create function private.tg_stripe_objects__unknown_prices() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: as all that triggers do here.
begin
  perform private.note_stripe_unknown('price', i.price_id, new.id,
    jsonb_build_object('product_id', i.product_id, 'subscription_id', new.id, 'customer_id', new.customer_id))
  from private.unknown_plan_items(new) i;
  return null;
end $$;
comment on function private.tg_stripe_objects__unknown_prices() is
  'Says that somebody subscribed to a plan''s product at a price that is not known here: map_stripe_price says which of ours it is.';
create trigger tg_stripe_objects__unknown_prices after insert or update of reading on private.stripe_objects
  for each row when (new.object = 'subscription' and new.reading ->> 'status' not in ('canceled', 'incomplete_expired'))
  execute function private.tg_stripe_objects__unknown_prices();

create function private.plan_subscription_status(user_id uuid) returns text
language sql stable security invoker set search_path = ''
as $$
  select s.status from public.subscriptions s
  where s.user_id = plan_subscription_status.user_id and s.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused')
    -- One of another product, sold to the same customer, is in nobody's way.
    and (s.plan_id is not null or exists (
      select from private.stripe_objects o cross join lateral private.unknown_plan_items(o) i where o.id = s.id))
  order by s.status = 'paused' desc limit 1
$$;
comment on function private.plan_subscription_status(uuid) is
  'The status of a user''s subscription of a plan that has not ended, also of one at a price that is not known here; null without one.';

create function private.map_price(stripe_price_id text, plan_price text) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: prices at Stripe are private; refuses all but admins and the service role.
declare
  v_known private.stripe_prices;
  v_seen record;
  v_customers text[];
  v_customer_id text;
  v_changed bigint := 0;
begin
  perform private.require_admin();
  if not exists (select from public.plan_prices p where p.id = map_price.plan_price) then
    perform private.raise_error('not_found', format('There is no plan_price %s.', map_price.plan_price));
  end if;
  perform pg_advisory_xact_lock(hashtextextended('stripe_prices', 0));
  select s.* into v_known from private.stripe_prices s where s.id = map_price.stripe_price_id;
  if v_known.id is not null then
    if v_known.plan_price_id is distinct from map_price.plan_price then
      perform private.raise_error('invalid_request_error', 'This price of Stripe''s is that of something else already.');
    end if;
    return 0;
  end if;
  -- Only what somebody has subscribed to: product and mode are those that Stripe said.
  select min(i.item ->> 'product_id') as product_id, bool_or((o.reading ->> 'livemode')::boolean) as livemode,
    array_agg(distinct o.customer_id) as customers
  into v_seen
  from private.stripe_objects o cross join lateral jsonb_path_query(o.reading, '$.items[*]') i (item)
  where o.object = 'subscription' and i.item ->> 'price_id' = map_price.stripe_price_id and i.item ->> 'product_id' is not null;
  if v_seen.product_id is null then
    perform private.raise_error('not_found', 'No subscription was seen that has this price of Stripe''s.');
  end if;
  v_customers := v_seen.customers;
  perform private.lock_stripe_objects(v_customers);
  insert into private.stripe_prices (id, plan_price_id, product_id, livemode, is_current)
  values (map_price.stripe_price_id, map_price.plan_price, v_seen.product_id, v_seen.livemode, false);
  update private.stripe_unknowns u set handled_at = now()
  where u.kind = 'price' and u.value = map_price.stripe_price_id and u.handled_at is null;
  foreach v_customer_id in array array(select c from unnest(v_customers) c order by 1) loop
    v_changed := v_changed + private.project_stripe_objects(v_customer_id);
  end loop;
  perform private.audit(action => 'stripe_price.map', resource_type => 'stripe_price', resource_id => left(map_price.stripe_price_id, 200),
    details => jsonb_build_object('plan_price', map_price.plan_price, 'customers', cardinality(v_customers), 'changed', v_changed));
  return v_changed;
end $$;
comment on function private.map_price(text, text) is 'Behind public.map_stripe_price.';
grant execute on function private.map_price(text, text) to authenticated, service_role;

create function public.map_stripe_price(stripe_price_id text, plan_price text) returns bigint
language sql volatile security invoker set search_path = ''
as $$ select private.map_price(map_stripe_price.stripe_price_id, map_stripe_price.plan_price) $$;
comment on function public.map_stripe_price(text, text) is
  'For admins and the service role: a price that was made at Stripe counts as this plan_price from now on, with its plan and its credits, also for what was paid already; nothing new is sold at it. 404 not_found when no subscription has that price, or there is no such plan_price. Answers of how many objects of Stripe''s something changed; a repeated call changes nothing.';
grant execute on function public.map_stripe_price(text, text) to authenticated, service_role;
