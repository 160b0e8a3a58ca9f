-- Credits that payments bring, and that refunds and disputes take back: each once, by what was bought, never by an event.

create type private.stripe_grant as (key text, amount bigint, reason text, lot_kind text, expires_at timestamptz);
comment on type private.stripe_grant is 'Credits that a payment brings: key is the ledger''s, which makes them come once.';

create function private.paid_anew(reading jsonb, out part numeric, out whole numeric)
language sql stable security invoker set search_path = ''
as $$
  select
    case when l.periods > 0 then least(greatest(l.total, 0), l.periods) else 1 end
      * case when b.total > 0 then least(b.due, b.total) else 1 end,
    case when l.periods > 0 then l.periods else 1 end * case when b.total > 0 then b.total else 1 end
  from (
    select sum((i.line ->> 'amount')::numeric) as total,
      sum(greatest((i.line ->> 'amount')::numeric, 0)) filter (where not coalesce((i.line ->> 'is_proration')::boolean, false)) as periods
    from jsonb_array_elements(reading -> 'lines') i (line)) l,
    (select (reading ->> 'total')::numeric as total, (reading ->> 'amount_due')::numeric as due) b
$$;
comment on function private.paid_anew(jsonb) is
  'The share of an invoice''s periods that is new money, as part of whole: with unused time of a period before and with the customer''s balance came credits already. What lines cost is before coupons and taxes, so that these change no share; the balance is applied to what is left after them.';

create function private.stripe_grants_of(kept private.stripe_objects) returns setof private.stripe_grant
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_paid record;
begin
  if (kept).object = 'invoice' and v_reading ->> 'status' = 'paid'
    and v_reading ->> 'billing_reason' in ('subscription_create', 'subscription_cycle', 'subscription_update') then
    select p.* into v_paid from private.paid_anew(v_reading) p;
    return query
      select 'stripe:line:' || (l.line ->> 'id'), n.credits, left(format('%s credits of the plan', p.name), 200), 'monthly',
        case when pp.credits_expire then private.stripe_time(l.line, 'period_end') end
      from jsonb_array_elements(v_reading -> 'lines') l (line)
        join private.stripe_prices s on s.id = l.line ->> 'price_id'
        join public.plan_prices pp on pp.id = s.plan_price_id
        join public.plans p on p.id = pp.plan_id
        -- What costs nothing is paid by nothing.
        cross join lateral (
          select trunc(private.exact_share(pp.credits * coalesce((l.line ->> 'quantity')::bigint, 1),
            case when (l.line ->> 'amount')::bigint > 0 then v_paid.part else v_paid.whole end, v_paid.whole))::bigint) n (credits)
      where n.credits > 0 and not coalesce((l.line ->> 'is_proration')::boolean, false)
        -- The line of a trial costs nothing, though its price would. A coupon is not in the line's amount.
        and ((l.line ->> 'amount')::bigint > 0 or pp.amount = 0)
      order by 1;
  elsif (kept).object = 'checkout_session' and v_reading ->> 'mode' = 'payment' and v_reading ->> 'status' = 'complete'
    and v_reading ->> 'payment_status' in ('paid', 'no_payment_required') then
    return query
      select 'stripe:session:' || (kept).id, sum(k.credits * n.quantity)::bigint, left(string_agg(k.name, ', ' order by k.id), 200), 'purchased',
        coalesce(private.stripe_time(v_reading, 'paid_at'), private.stripe_time(v_reading, 'created'))
          + make_interval(days => min(k.expires_after_days))
      from jsonb_array_elements_text(v_reading -> 'price_ids') with ordinality i (price_id, place)
        join private.stripe_prices s on s.id = i.price_id
        join public.credit_packs k on k.id = s.credit_pack_id
        cross join lateral (select coalesce((v_reading -> 'quantities' ->> (i.place - 1)::integer)::bigint, 1)) n (quantity)
      where n.quantity > 0
      having count(*) > 0;
  end if;
end $$;
comment on function private.stripe_grants_of(private.stripe_objects) is
  'What a paid object brings: for each line of an invoice that begins a period of a plan its price''s credits, in the share that was paid anew, not for prorations and trials; for a checkout the credits of its pack, as often as it was bought. By the prices that we know, never by metadata.';

create function private.grant_stripe_credits(owner uuid, grants private.stripe_grant[]) returns private.stripe_grant[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_amount bigint;
begin
  for v_place in 1..cardinality(grants) loop
    select e.amount into v_amount from public.credit_entries e
    where e.user_id = owner and e.idempotency_key = (grants[v_place]).key;
    if found then
      -- What was granted stays, also when the price brings more or less by now.
      grants[v_place].amount := v_amount;
    else
      -- One that has expired already is granted all the same, and expires as the others do.
      perform private.add_credit_entry(
        user_id => owner, amount => (grants[v_place]).amount, kind => 'grant', reason => (grants[v_place]).reason,
        idempotency_key => (grants[v_place]).key, lot_kind => (grants[v_place]).lot_kind, expires_at => (grants[v_place]).expires_at);
    end if;
  end loop;
  return grants;
end $$;
comment on function private.grant_stripe_credits(uuid, private.stripe_grant[]) is 'Sees to it that a user has been granted these. Answers them with the amounts in the ledger.';

create function private.returned_money(payment_intent_ids text[], out refunded bigint, out disputed bigint)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select
    coalesce(sum((o.reading ->> 'amount')::bigint) filter (where o.object = 'refund' and o.reading ->> 'status' not in ('failed', 'canceled')), 0),
    coalesce(sum((o.reading ->> 'amount')::bigint) filter (
      -- Any other, an appeal or what Stripe adds one day, says that the money is with the bank.
      where o.object = 'dispute' and o.reading ->> 'status' not in
        ('won', 'warning_needs_response', 'warning_under_review', 'warning_closed', 'prevented')), 0)
  into refunded, disputed
  from private.stripe_objects o
  where o.payment_intent_ids && returned_money.payment_intent_ids and o.payment_intent_ids <> '{}' and o.object in ('refund', 'dispute');
end $$;
comment on function private.returned_money(text[]) is
  'How much of a payment went back: refunds that did not fail, disputes that are open or lost. A bank''s inquiry (warning_*) moves no money.';

create function private.clawback_target(credits bigint, returned bigint, paid bigint) returns bigint
language sql immutable security invoker set search_path = ''
return case when paid > 0 and returned > 0
  then round(private.exact_share(credits, least(returned, paid), paid))::bigint else 0 end;
comment on function private.clawback_target(bigint, bigint, bigint) is 'The share of the credits whose money went back, to the nearest whole one, halves up.';

create function private.project_returns(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_changed bigint;
  v_more bigint;
begin
  insert into public.refunds as r (id, user_id, payment_id, amount, currency, status, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', o.reading ->> 'status',
    private.stripe_time(o.reading, 'created')
  from private.stripe_objects o
  where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object = 'refund' and o.deleted_at is null
  on conflict on constraint refunds_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(r) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_changed = row_count;
  insert into public.disputes as d (id, user_id, payment_id, amount, currency, status, reason, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', o.reading ->> 'status',
    left(o.reading ->> 'reason', 80), private.stripe_time(o.reading, 'created')
  from private.stripe_objects o
  where o.payment_intent_ids && (kept).payment_intent_ids and o.payment_intent_ids <> '{}' and o.object = 'dispute' and o.deleted_at is null
  on conflict on constraint disputes_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, reason = excluded.reason, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(d) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_more = row_count;
  return v_changed + v_more > 0;
end $$;
comment on function private.project_returns(private.stripe_objects, uuid) is 'The rows of the refunds and disputes of a payment.';

create function private.move_clawback(owner uuid, payment_id text, target bigint, grants private.stripe_grant[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_key text := 'stripe:payment:' || move_clawback.payment_id || ':';
  v_keys text[] := array(select g.key from unnest(grants) g);
  v_amount bigint;
  v_taken bigint := 0;
  v_wanted bigint;
  v_n integer := 1;
  v_account private.accounts;
begin
  -- Where nothing was granted there is nothing to take, and where that is no longer said the ledger stays as it is.
  if cardinality(grants) = 0 then
    return;
  end if;
  loop
    select e.amount into v_amount from public.credit_entries e where e.user_id = owner and e.idempotency_key = v_key || v_n;
    exit when not found;
    v_taken := v_taken - v_amount;
    v_keys := v_keys || (v_key || v_n);
    v_n := v_n + 1;
  end loop;
  if target = 0 and v_taken = 0 then
    return;
  end if;
  v_account := private.lock_account(owner);
  -- What nobody used until it expired is gone already; what was taken before that stays taken.
  select greatest(target - coalesce(sum(l.expired), 0), least(v_taken, target)) into v_wanted
  from public.credit_entries e join private.credit_lots l on l.id = e.id
  where e.user_id = owner and e.idempotency_key = any (v_keys);
  if v_wanted <> v_taken then
    perform private.burn_credits(v_account);
    perform private.add_credit_entry(
      user_id => owner, amount => v_taken - v_wanted, kind => case when v_wanted > v_taken then 'clawback' else 'refund' end,
      reason => case when v_wanted > v_taken then 'a payment was refunded or disputed' else 'a refund failed or a dispute was won' end,
      idempotency_key => v_key || v_n, lot_kind => (grants[1]).lot_kind,
      expires_at => (select case when bool_and(g.expires_at is not null) then max(g.expires_at) end from unnest(grants) g));
  end if;
  if v_wanted > v_taken then
    perform private.burn_lots_of(owner, v_keys, v_wanted - v_taken);
  end if;
end $$;
comment on function private.move_clawback(uuid, text, bigint, private.stripe_grant[]) is
  'Moves what was taken back of a payment''s credits to where it must be, by one entry at most. First go the payment''s own credits, as far as they are not spent, then any others; the balance may fall below zero. Credits that come back expire as the payment''s do.';
