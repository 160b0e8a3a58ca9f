-- What Stripe's objects come to here: rows of subscriptions, payments, refunds and disputes, and credits. Everything in this file is
-- a function of what is stored in private.stripe_objects; nothing here knows of events.

create function private.project_stripe_object(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_paid record;
  v_changed boolean := false;
begin
  if (kept).object in ('refund', 'dispute') then
    -- They are the payment's business, and may not name the customer.
    for v_paid in
      select o as kept, c.user_id from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
      where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object in ('invoice', 'checkout_session')
    loop
      owner := v_paid.user_id;
      continue when private.is_stripe_mismatch(v_paid.kept, owner);
      v_changed := private.project_payment(v_paid.kept, owner) or v_changed;
      -- One that does not name its customer has not brought the customer's lock, under which subscriptions are made.
      perform private.lock_stripe_objects(array[(v_paid.kept).customer_id]);
      if private.project_subscription_of(v_paid.kept, owner) then
        perform private.refresh_entitlement(owner);
        v_changed := true;
      end if;
    end loop;
  end if;
  if owner is null then
    return null;
  end if;
  case (kept).object
    when 'customer' then
      return private.project_customer_deletion(kept);
    when 'subscription' then
      return private.project_subscription(kept, owner);
    when 'checkout_session' then
      -- Its id may not have been written down: whoever started it may have crashed after Stripe had it.
      update private.checkouts c set closed_at = now()
      where (c.session_id = (kept).id or c.id = case when pg_input_is_valid((kept).reading ->> 'checkout_id', 'uuid')
          then ((kept).reading ->> 'checkout_id')::uuid end)
        and c.user_id = owner and c.closed_at is null and (kept).reading ->> 'status' in ('complete', 'expired');
      return private.project_payment(kept, owner);
    when 'invoice' then
      v_changed := private.project_payment(kept, owner);
      return private.project_subscription_of(kept, owner) or v_changed;
    else
      return v_changed;
  end case;
end $$;
comment on function private.project_stripe_object(private.stripe_objects, uuid) is
  'Makes what follows from one stored object of this user''s. Answers whether something changed; null when nobody owns it. The caller holds the lock.';

create function private.project_customer_deletion(kept private.stripe_objects) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_subscription private.stripe_objects;
  v_changed boolean;
begin
  update private.stripe_customers c set deleted_at = (kept).deleted_at
  where c.id = (kept).id and c.deleted_at is distinct from (kept).deleted_at
    -- One that is there after all is not the one to buy with when another has taken its place.
    and ((kept).deleted_at is not null or not exists (
      select from private.stripe_customers o where o.user_id = c.user_id and o.livemode = c.livemode and o.deleted_at is null));
  v_changed := found;
  select c.user_id into v_user_id from private.stripe_customers c where c.id = (kept).id;
  for v_subscription in
    select o.* from private.stripe_objects o where o.customer_id = (kept).id and o.object = 'subscription'
  loop
    v_changed := private.project_subscription(v_subscription, v_user_id) or v_changed;
  end loop;
  return v_changed;
end $$;
comment on function private.project_customer_deletion(private.stripe_objects) is
  'A customer that is gone takes its subscriptions along; the user stays, and the next purchase makes another customer. One that is there after all, by a newer reading, brings them back.';

create function private.forget_stripe_customer(customer_id text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.apply_stripe_readings(jsonb_build_array(jsonb_build_object(
    'object', 'customer', 'id', c.id, 'customer_id', c.id, 'livemode', c.livemode, 'deleted', true, 'read_at', clock_timestamp())))
  from private.stripe_customers c where c.id = forget_stripe_customer.customer_id;
end $$;
comment on function private.forget_stripe_customer(text) is
  'For operators: as if Stripe had said that this customer is deleted, for one that Stripe will never know again. A later reading that says otherwise wins.';

-- Subscriptions --------------------------------------------------------------------------------------------------------

create function private.project_subscription(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_row public.subscriptions;
  v_gone_at timestamptz;
begin
  if v_reading ->> 'status' is null then
    return false;
  end if;
  select least(o.deleted_at, (kept).deleted_at) into v_gone_at
  from (values ((kept).customer_id)) c (id) left join private.stripe_objects o on o.id = c.id;
  v_row.id := (kept).id;
  v_row.user_id := owner;
  v_row.status := v_reading ->> 'status';
  v_row.trial_start := private.stripe_time(v_reading, 'trial_start');
  v_row.trial_end := private.stripe_time(v_reading, 'trial_end');
  v_row.cancel_at := private.stripe_time(v_reading, 'cancel_at');
  v_row.cancel_at_period_end := coalesce((v_reading ->> 'cancel_at_period_end')::boolean, false);
  v_row.canceled_at := private.stripe_time(v_reading, 'canceled_at');
  v_row.ended_at := private.stripe_time(v_reading, 'ended_at');
  v_row.started_at := private.stripe_time(v_reading, 'started_at');
  if v_gone_at is not null and v_row.status not in ('canceled', 'incomplete_expired') then
    v_row.status := 'canceled';
    v_row.canceled_at := coalesce(v_row.canceled_at, v_gone_at);
    v_row.ended_at := coalesce(v_row.ended_at, v_gone_at);
  end if;
  select
    (array_agg(pp.plan_id order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1],
    (array_agg(pp.id order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1],
    coalesce((array_agg((i.item ->> 'quantity')::bigint order by p.position desc, pp.amount desc, pp.id) filter (where pp.id is not null))[1], 1),
    (array_agg(private.stripe_time(i.item, 'current_period_start') order by pp.id is null, i.item -> 'current_period_end' desc))[1],
    (array_agg(private.stripe_time(i.item, 'current_period_end') order by pp.id is null, i.item -> 'current_period_end' desc))[1]
  into v_row.plan_id, v_row.plan_price_id, v_row.quantity, v_row.current_period_start, v_row.current_period_end
  from jsonb_array_elements(v_reading -> 'items') i (item)
    left join private.stripe_prices s on s.id = i.item ->> 'price_id'
    left join public.plan_prices pp on pp.id = s.plan_price_id
    left join public.plans p on p.id = pp.plan_id;
  if v_row.status in ('past_due', 'unpaid') then
    -- What was left open before a later one was paid is another debt, and had its grace.
    select coalesce(min(i.due_at) filter (where i.created > coalesce(i.paid, 0)), greatest(max(i.due_at), v_row.current_period_start),
      v_row.started_at)
    into v_row.past_due_since
    from (
      select coalesce(private.stripe_time(o.reading, 'due_at'), private.stripe_time(o.reading, 'created')) as due_at,
        (o.reading ->> 'created')::bigint as created, o.reading ->> 'status' as status, o.deleted_at,
        max((o.reading ->> 'created')::bigint) filter (where o.reading ->> 'status' = 'paid') over () as paid
      from private.stripe_objects o where o.subscription_id = (kept).id and o.object = 'invoice') i
    where i.status = 'open' and i.deleted_at is null;
  end if;
  v_row.is_collection_paused := coalesce((v_reading ->> 'is_paused')::boolean, false) and v_row.status in ('active', 'trialing');
  -- Stripe goes on to the next period all the same, and collects nothing for it.
  if v_row.is_collection_paused and (private.invoice_of_period(v_row, is_paid => false)).reading ->> 'status' <> 'paid' then
    v_row.status := 'paused';
  end if;
  v_row.is_returned := private.is_period_returned(v_row);
  return private.save_subscription(v_row);
end $$;
comment on function private.project_subscription(private.stripe_objects, uuid) is
  'The row of a subscription: the best plan among its items, the latest period that carries a plan, canceled when it or its customer is gone, paused when the invoice of its period is not collected.';

create function private.project_subscription_of(invoice private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_subscription private.stripe_objects;
begin
  -- One that has no row yet gets it in its own turn.
  select o.* into v_subscription
  from private.stripe_objects o join public.subscriptions s on s.id = o.id
  where o.id = (invoice).subscription_id and o.object = 'subscription';
  return v_subscription.id is not null and private.project_subscription(v_subscription, owner);
end $$;
comment on function private.project_subscription_of(private.stripe_objects, uuid) is
  'The row of an invoice''s subscription again: the invoice says since when it is owed, and whether its period is paid for. Answers whether it says something new.';

create function private.invoice_of_period(subscription public.subscriptions, is_paid boolean) returns private.stripe_objects
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_invoice private.stripe_objects;
begin
  select o.* into v_invoice
  from private.stripe_objects o
    cross join lateral (
      select bool_or(not coalesce((l.line ->> 'is_proration')::boolean, false)) as is_whole, max((l.line ->> 'period_end')::bigint) as ends_at
      from jsonb_array_elements(o.reading -> 'lines') l (line)
      where (l.line ->> 'amount')::bigint > 0 and private.stripe_time(l.line, 'period_start') < (subscription).current_period_end
        and private.stripe_time(l.line, 'period_end') > (subscription).current_period_start) p
  where o.subscription_id = (subscription).id and o.object = 'invoice' and o.deleted_at is null and p.ends_at is not null
    and (not invoice_of_period.is_paid or o.reading ->> 'status' = 'paid' and (o.reading ->> 'amount_paid')::bigint > 0)
  -- What a change in mid-period costs is a part of it: only what is for the period itself counts, of that the last.
  order by p.is_whole desc, p.ends_at desc, (o.reading ->> 'created')::bigint desc, o.id desc limit 1;
  return v_invoice;
end $$;
comment on function private.invoice_of_period(public.subscriptions, boolean) is
  'The invoice for a subscription''s current period; is_paid: only one that was paid with money. All null when there is none, as for a trial.';

create function private.is_period_returned(subscription public.subscriptions) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_invoice private.stripe_objects := private.invoice_of_period(subscription, is_paid => true);
begin
  return v_invoice.id is not null and (
    select m.refunded + m.disputed >= (v_invoice.reading ->> 'amount_paid')::bigint
    from private.returned_money(v_invoice.payment_intent_ids) m);
end $$;
comment on function private.is_period_returned(public.subscriptions) is
  'Whether the payment that covers a subscription''s current period went back, whole. A part that went back is none; a trial, or a period that cost nothing, has none.';

create function private.save_subscription(subscription public.subscriptions) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  subscription.updated_at := now();
  insert into public.subscriptions as s select subscription.*
  on conflict on constraint subscriptions_pkey do update set
    user_id = excluded.user_id, plan_id = excluded.plan_id, plan_price_id = excluded.plan_price_id, status = excluded.status,
    quantity = excluded.quantity, current_period_start = excluded.current_period_start,
    current_period_end = excluded.current_period_end, trial_start = excluded.trial_start, trial_end = excluded.trial_end,
    cancel_at = excluded.cancel_at, cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
    ended_at = excluded.ended_at, past_due_since = excluded.past_due_since,
    is_returned = excluded.is_returned, is_collection_paused = excluded.is_collection_paused, started_at = excluded.started_at,
    updated_at = excluded.updated_at
  where to_jsonb(s) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  return found;
end $$;
comment on function private.save_subscription(public.subscriptions) is 'Writes a row if it says something new. Answers whether it did.';

-- Payments -------------------------------------------------------------------------------------------------------------

create function private.payment_of_invoice(kept private.stripe_objects) returns public.payments
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_row public.payments;
begin
  v_row.status := case v_reading ->> 'status' when 'open' then case when (kept).deleted_at is null then 'open' else 'void' end when 'paid' then 'paid' when 'void' then 'void' when 'uncollectible' then 'failed' end;
  if (kept).subscription_id is null or v_row.status is null then
    return null;
  end if;
  v_row.id := (kept).id;
  v_row.kind := 'subscription';
  v_row.amount := (v_reading ->> 'total')::bigint;
  v_row.currency := v_reading ->> 'currency';
  v_row.subscription_id := (kept).subscription_id;
  -- The payment that counts: of those that were paid the largest, else the last that was begun.
  select i.payment ->> 'payment_intent_id' into v_row.payment_intent_id
  from jsonb_path_query(v_reading, '$.payments[*]') with ordinality i (payment, place)
  where i.payment ->> 'payment_intent_id' is not null
  order by i.payment ->> 'status' = 'paid' desc, (i.payment ->> 'amount_paid')::bigint desc nulls last, i.place desc limit 1;
  v_row.pay_url := case when v_row.status = 'open' then left(v_reading ->> 'hosted_invoice_url', 4000) end;
  v_row.next_attempt_at := case when v_row.status = 'open' then private.stripe_time(v_reading, 'next_payment_attempt') end;
  v_row.paid_at := private.stripe_time(v_reading, 'paid_at');
  v_row.created_at := private.stripe_time(v_reading, 'created');
  select left(format('%s (%s)', p.name, pp.interval), 200) into v_row.description
  from jsonb_path_query(v_reading, '$.lines[*]') l (line)
    join private.stripe_prices s on s.id = l.line ->> 'price_id'
    join public.plan_prices pp on pp.id = s.plan_price_id
    join public.plans p on p.id = pp.plan_id
  order by (l.line ->> 'is_proration')::boolean, p.position desc, pp.id limit 1;
  v_row.description := coalesce(v_row.description, 'Subscription');
  return v_row;
end $$;
comment on function private.payment_of_invoice(private.stripe_objects) is
  'What an invoice says as a payment; null for a draft, and for one that is of no subscription.';

create function private.payment_of_session(kept private.stripe_objects) returns public.payments
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_row public.payments;
begin
  if v_reading ->> 'mode' is distinct from 'payment' or v_reading ->> 'status' is distinct from 'complete' then
    return null;
  end if;
  v_row.id := (kept).id;
  v_row.kind := 'credit_pack';
  v_row.status := case
    when v_reading ->> 'payment_status' in ('paid', 'no_payment_required') then 'paid'
    when v_reading ->> 'payment_intent_status' in ('requires_payment_method', 'canceled') then 'failed'
    else 'processing' end;
  v_row.amount := coalesce((v_reading ->> 'amount_total')::bigint, 0);
  v_row.currency := coalesce(v_reading ->> 'currency', 'usd');
  v_row.payment_intent_id := v_reading ->> 'payment_intent_id';
  v_row.created_at := private.stripe_time(v_reading, 'created');
  v_row.paid_at := case when v_row.status = 'paid' then coalesce(private.stripe_time(v_reading, 'paid_at'), v_row.created_at) end;
  select left(string_agg(k.name, ', ' order by k.id), 200) into v_row.description
  from jsonb_array_elements_text(v_reading -> 'price_ids') i (price_id)
    join private.stripe_prices s on s.id = i.price_id
    join public.credit_packs k on k.id = s.credit_pack_id;
  v_row.description := coalesce(v_row.description, 'Payment');
  return v_row;
end $$;
comment on function private.payment_of_session(private.stripe_objects) is
  'What a complete checkout of a credit pack says as a payment: processing while a delayed method is at it, failed when that failed. Null for any other session.';

create function private.project_payment(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_row public.payments := case (kept).object when 'invoice' then private.payment_of_invoice(kept) else private.payment_of_session(kept) end;
  v_returned record;
  v_grants private.stripe_grant[];
  v_changed boolean;
begin
  if v_row.id is null then
    return false;
  end if;
  v_grants := private.grant_stripe_credits(owner, array(select g from private.stripe_grants_of(kept) g));
  v_row.user_id := owner;
  v_row.credits := (select coalesce(sum(g.amount), 0) from unnest(v_grants) g);
  select r.* into v_returned from private.returned_money((kept).payment_intent_ids) r;
  v_row.amount_refunded := v_returned.refunded;
  v_row.amount_disputed := v_returned.disputed;
  v_row.credits_clawed_back := private.clawback_target(v_row.credits, v_returned.refunded + v_returned.disputed,
    case (kept).object when 'invoice' then ((kept).reading ->> 'amount_paid')::bigint else v_row.amount end);
  v_changed := private.save_payment(v_row);
  v_changed := private.project_returns(kept, owner) or v_changed;
  perform private.move_clawback(owner, v_row.id, v_row.credits_clawed_back, v_grants);
  return v_changed;
end $$;
comment on function private.project_payment(private.stripe_objects, uuid) is
  'The row of an invoice or of a checkout of a pack, with the credits that it brings, the refunds and disputes of it, and what these take back.';

create function private.save_payment(payment public.payments) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  payment.updated_at := now();
  insert into public.payments as p select payment.*
  on conflict on constraint payments_pkey do update set
    user_id = excluded.user_id, kind = excluded.kind, status = excluded.status, description = excluded.description,
    amount = excluded.amount, amount_refunded = excluded.amount_refunded, amount_disputed = excluded.amount_disputed,
    currency = excluded.currency, credits = excluded.credits, credits_clawed_back = excluded.credits_clawed_back,
    subscription_id = excluded.subscription_id, payment_intent_id = excluded.payment_intent_id, pay_url = excluded.pay_url,
    next_attempt_at = excluded.next_attempt_at, paid_at = excluded.paid_at, created_at = excluded.created_at,
    updated_at = excluded.updated_at
  where to_jsonb(p) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  return found;
end $$;
comment on function private.save_payment(public.payments) is 'Writes a row if it says something new. Answers whether it did.';
