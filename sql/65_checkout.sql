-- Checkout and portal: what functions/billing may ask Stripe for, decided here. Clients name our items and nothing else.

create function private.check_buyer(user_id uuid, session_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.require_account(check_buyer.user_id, check_buyer.session_id);
  -- Each request asks Stripe for something, and Stripe limits us all together.
  perform private.consume(check_buyer.user_id, 'billing_requests', 'minute', 1);
  perform private.consume(check_buyer.user_id, 'billing_requests', 'day', 1);
end $$;
comment on function private.check_buyer(uuid, uuid) is
  'Raises what private.require_account refuses, and rate_limit_exceeded or daily_quota_exceeded for who asks more often than billing_requests/minute and /day allow.';

create function private.stripe_price_to_buy(plan_price text, credit_pack text, livemode boolean) returns private.stripe_prices
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_price private.stripe_prices;
begin
  if num_nonnulls(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack) <> 1 then
    perform private.raise_error('invalid_request_error', 'Name one item: either plan_price or credit_pack.');
  elsif not exists (
      select from public.plan_prices p where p.id = stripe_price_to_buy.plan_price and p.enabled
      union all
      select from public.credit_packs c where c.id = stripe_price_to_buy.credit_pack and c.enabled) then
    perform private.raise_error('not_found', format('There is nothing for sale as %s.', coalesce(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack)));
  end if;
  select s.* into v_price from private.stripe_prices s
  where (s.plan_price_id = stripe_price_to_buy.plan_price or s.credit_pack_id = stripe_price_to_buy.credit_pack)
    and s.livemode = stripe_price_to_buy.livemode and s.is_current;
  if not found then
    perform private.raise_error('not_found',
      format('%s cannot be bought yet.', coalesce(stripe_price_to_buy.plan_price, stripe_price_to_buy.credit_pack)),
      'Stripe does not know its price. Run npm run stripe:sync.');
  end if;
  return v_price;
end $$;
comment on function private.stripe_price_to_buy(text, text, boolean) is
  'Stripe''s price of an item that is for sale; not_found for any other, and for one that stripe:sync has not seen.';

create function private.trial_days_of(user_id uuid, plan_price text) returns integer
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return case
    -- Rows of subscriptions outlive their customer at Stripe: a deleted customer is no way to another trial.
    when exists (select from public.subscriptions s where s.user_id = trial_days_of.user_id and s.trial_start is not null) then 0
    else coalesce((select p.trial_days from public.plan_prices p where p.id = trial_days_of.plan_price), 0)
  end;
end $$;
comment on function private.trial_days_of(uuid, text) is 'Days of trial that a user gets with a price: what the price says, once in a lifetime.';

create function private.open_plan_checkout(wanted private.checkouts, out checkout private.checkouts, out stale_sessions text[])
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  select k.* into checkout from private.checkouts k
  where k.user_id = wanted.user_id and k.livemode = wanted.livemode and k.closed_at is null and k.plan_price_id = wanted.plan_price_id
    and k.stripe_price_id = wanted.stripe_price_id and k.trial_days = wanted.trial_days and k.return_urls = wanted.return_urls
    -- Stripe makes no session that ends within half an hour; one that is there is good until shortly before its end.
    and k.expires_at > now() + case when k.session_id is null then interval '35 minutes' else interval '1 minute' end
    and not exists (
      select from private.stripe_customers c
      where c.user_id = k.user_id and c.livemode = k.livemode and c.deleted_at >= k.created_at)
  order by k.created_at desc limit 1;
  with closed as (
    update private.checkouts k set closed_at = now()
    where k.user_id = wanted.user_id and k.livemode = wanted.livemode and k.closed_at is null and k.plan_price_id is not null
      and k.id is distinct from checkout.id
    returning k.session_id
  )
  -- Those whose time is over, too: one that was completed is not known here as long as its event is not.
  select coalesce(array_agg(c.session_id) filter (where c.session_id is not null), '{}')
  into stale_sessions from closed c;
end $$;
comment on function private.open_plan_checkout(private.checkouts) is
  'The open checkout of a plan that is for exactly the same, if there is one; all others are closed, and their sessions must be expired at Stripe, or be known to be over, before another begins. The caller holds the buyer''s lock.';

create function private.prepare_checkout(
  user_id uuid, session_id uuid, plan_price text, credit_pack text, livemode boolean, return_urls jsonb
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_price private.stripe_prices;
  v_wanted private.checkouts;
  v_open record;
  v_checkout private.checkouts;
  v_stale_sessions text[] := '{}';
begin
  perform private.check_buyer(prepare_checkout.user_id, prepare_checkout.session_id);
  v_price := private.stripe_price_to_buy(prepare_checkout.plan_price, prepare_checkout.credit_pack, prepare_checkout.livemode);
  -- Whoever asks twice at once takes turns; the statements below see what the first has done.
  perform pg_advisory_xact_lock(hashtextextended('checkout:' || prepare_checkout.user_id, 0));
  v_wanted.user_id := prepare_checkout.user_id;
  v_wanted.plan_price_id := v_price.plan_price_id;
  v_wanted.credit_pack_id := v_price.credit_pack_id;
  v_wanted.stripe_price_id := v_price.id;
  v_wanted.trial_days := private.trial_days_of(prepare_checkout.user_id, v_price.plan_price_id);
  v_wanted.livemode := prepare_checkout.livemode;
  v_wanted.return_urls := coalesce(prepare_checkout.return_urls, '{}');
  if v_price.plan_price_id is not null then
    if exists (
      select from public.subscriptions s
      where s.user_id = prepare_checkout.user_id
        -- One of another product, sold to the same customer, is in nobody's way.
        and s.plan_id is not null and s.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused')) then
      perform private.raise_error('already_subscribed', 'You have a subscription already.', 'Change or pay it in the billing portal.');
    end if;
    select o.* into v_open from private.open_plan_checkout(v_wanted) o;
    v_checkout := v_open.checkout;
    v_stale_sessions := v_open.stale_sessions;
  end if;
  if v_checkout.id is null then
    insert into private.checkouts (user_id, plan_price_id, credit_pack_id, stripe_price_id, trial_days, livemode, return_urls, expires_at)
    values (v_wanted.user_id, v_wanted.plan_price_id, v_wanted.credit_pack_id, v_wanted.stripe_price_id, v_wanted.trial_days,
      v_wanted.livemode, v_wanted.return_urls, date_trunc('second', now() + interval '1 hour'))
    returning * into v_checkout;
  end if;
  return jsonb_build_object(
    'checkout_id', v_checkout.id, 'stripe_price_id', v_checkout.stripe_price_id, 'trial_days', v_checkout.trial_days,
    'mode', case when v_checkout.plan_price_id is null then 'payment' else 'subscription' end,
    'session_id', v_checkout.session_id, 'url', v_checkout.url, 'expires_at', extract(epoch from v_checkout.expires_at)::bigint,
    'stale_sessions', to_jsonb(v_stale_sessions))
    || private.stripe_customer_of(prepare_checkout.user_id, prepare_checkout.livemode);
end $$;
comment on function private.prepare_checkout(uuid, uuid, text, text, boolean, jsonb) is
  'Decides a checkout for functions/billing: {checkout_id, customer_id, customer_key, stripe_price_id, mode, trial_days, session_id, url, stale_sessions, expires_at}. Who asks twice for a plan gets the same checkout; asking for another closes it. A pack is a checkout of its own each time. Before a session of a plan is made, stale_sessions must be expired at Stripe, and what Stripe says of the customer''s subscriptions be applied; a user without customer_id gets one there with customer_key as its idempotency key.';

create function private.stripe_customer_of(user_id uuid, livemode boolean) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select jsonb_build_object(
    'customer_id', min(c.id) filter (where c.deleted_at is null),
    'customer_key', format('customer:%s:%s:%s', stripe_customer_of.user_id, count(*) filter (where c.deleted_at is not null), (
      select count(*) from private.checkouts k
      where k.user_id = stripe_customer_of.user_id and k.livemode = stripe_customer_of.livemode and k.failed)))
  from private.stripe_customers c
  where c.user_id = stripe_customer_of.user_id and c.livemode = stripe_customer_of.livemode
$$;
comment on function private.stripe_customer_of(uuid, boolean) is
  '{customer_id: the user''s customer at Stripe or null, customer_key: the idempotency key to create one with, another after each that was deleted and each checkout that failed}.';

create function private.link_stripe_customer(user_id uuid, customer_id text, livemode boolean) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer_id text;
begin
  insert into private.stripe_customers (id, user_id, livemode)
  values (link_stripe_customer.customer_id, link_stripe_customer.user_id, link_stripe_customer.livemode)
  on conflict do nothing;
  select c.id into v_customer_id from private.stripe_customers c
  where c.user_id = link_stripe_customer.user_id and c.livemode = link_stripe_customer.livemode and c.deleted_at is null;
  if not found then
    raise exception 'the customer % is somebody else''s, or deleted', link_stripe_customer.customer_id;
  end if;
  return v_customer_id;
end $$;
comment on function private.link_stripe_customer(uuid, text, boolean) is
  'Notes whose customer it is and answers the one that counts, which is another when somebody was first.';

create function private.note_checkout(checkout_id uuid, session_id text, url text) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  update private.checkouts k set session_id = note_checkout.session_id, url = note_checkout.url
  where k.id = note_checkout.checkout_id and k.closed_at is null;
  return found;
end $$;
comment on function private.note_checkout(uuid, text, text) is
  'Notes the session that Stripe made for a checkout. False: the checkout was given up for another meanwhile, and the session must be expired at Stripe and not shown.';

create function private.fail_checkout(checkout_id uuid) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.checkouts k set closed_at = now(), failed = true
  where k.id = fail_checkout.checkout_id and k.closed_at is null and k.session_id is null
$$;
comment on function private.fail_checkout(uuid) is
  'Of a checkout for which Stripe answered an error: the next has other idempotency keys, because Stripe repeats what it answered once. Not to be called when nothing is known, as after a lost connection: the same key then finds what was made.';

create function private.close_checkout(session_id text) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.checkouts k set closed_at = now() where k.session_id = close_checkout.session_id and k.closed_at is null
$$;
comment on function private.close_checkout(text) is 'Of a session that was completed or has expired at Stripe: nobody is sent there again.';

create function private.prepare_portal(user_id uuid, session_id uuid, livemode boolean) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_customer_id text;
begin
  perform private.check_buyer(prepare_portal.user_id, prepare_portal.session_id);
  v_customer_id := private.stripe_customer_of(prepare_portal.user_id, prepare_portal.livemode) ->> 'customer_id';
  if v_customer_id is null then
    perform private.raise_error('not_found', 'You have bought nothing yet, so there is nothing to manage.', 'Choose a plan or credits first.');
  end if;
  return v_customer_id;
end $$;
comment on function private.prepare_portal(uuid, uuid, boolean) is 'The caller''s customer at Stripe, whose portal may be opened; not_found for who has none.';

create function private.set_stripe_price(plan_price text, credit_pack text, stripe_price_id text, product_id text, livemode boolean) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('stripe_prices', 0));
  update private.stripe_prices p set is_current = false
  where (p.plan_price_id = set_stripe_price.plan_price or p.credit_pack_id = set_stripe_price.credit_pack)
    and p.livemode = set_stripe_price.livemode and p.id <> set_stripe_price.stripe_price_id and p.is_current;
  insert into private.stripe_prices as p (id, plan_price_id, credit_pack_id, product_id, livemode)
  values (set_stripe_price.stripe_price_id, set_stripe_price.plan_price, set_stripe_price.credit_pack, set_stripe_price.product_id,
    set_stripe_price.livemode)
  on conflict (id) do update set is_current = true, product_id = excluded.product_id
  where (p.plan_price_id, p.credit_pack_id, p.livemode) is not distinct from (excluded.plan_price_id, excluded.credit_pack_id, excluded.livemode);
  if not found then
    raise exception 'the Stripe price % is that of another item', set_stripe_price.stripe_price_id;
  end if;
end $$;
comment on function private.set_stripe_price(text, text, text, text, boolean) is
  'What an item costs at Stripe from now on; for npm run stripe:sync. Earlier prices stay, for subscriptions that have them.';

create function private.delete_old_checkouts() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.checkouts k where k.expires_at < now() - interval '90 days';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_checkouts() is 'Forgets checkouts 90 days after their end. A job runs it. Answers how many.';
