-- What follows from what Stripe says: credits, rows that their owner can read, and what users are told.

-- Lines ===============================================================================================================
-- What an invoice is for, line by line: which lines are a plan's, what each cost, and what of that came back.

create type private.invoice_line as (
  place integer, id text, plan_price_id text, plan_id text, quantity bigint, amount numeric, net numeric, cost numeric,
  is_proration boolean, starts_at timestamptz, ends_at timestamptz);
comment on type private.invoice_line is
  'A line of an invoice. plan_id: a plan''s, by the price of the line and by nothing else; amount: as Stripe has it; net: without its discounts; cost: net with the tax that is added.';

create function private.lines_of_invoice(reading jsonb) returns setof private.invoice_line
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with lines as (
      select l.place, l.line, (l.line ->> 'amount')::numeric as amount, (l.line ->> 'discount_amount')::numeric as discount,
        coalesce((l.line ->> 'is_proration')::boolean, false) as is_proration
      from jsonb_array_elements(reading -> 'lines') with ordinality l (line, place)
    ), sums as (
      -- Older readings do not say the discounts: they are what the lines are more than the total. Prorations had none then.
      select case when count(l.discount) = 0 then greatest(sum(l.amount) - (reading ->> 'total')::numeric, 0) else 0 end as unsaid,
        sum(l.amount) filter (where l.amount > 0 and not l.is_proration) as discountable
      from lines l
    ), priced as (
      select l.*, l.amount - coalesce(l.discount,
        case when l.amount > 0 and not l.is_proration then least(s.unsaid, s.discountable) * l.amount / s.discountable end, 0) as net
      from lines l, sums s
    )
    select l.place::integer, l.line ->> 'id', pp.id, pp.plan_id, coalesce((l.line ->> 'quantity')::bigint, 1), l.amount, l.net,
      l.net + coalesce((l.line ->> 'tax_amount')::numeric, 0), l.is_proration,
      private.stripe_time(l.line, 'period_start'), private.stripe_time(l.line, 'period_end')
    from priced l
      left join private.stripe_prices s on s.id = l.line ->> 'price_id'
      left join public.plan_prices pp on pp.id = s.plan_price_id
    order by l.place;
end $$;
comment on function private.lines_of_invoice(jsonb) is
  'The lines of an invoice''s reading. The one place that says which are a plan''s, and what a line cost: Stripe''s discount_amounts come off, whether it shows prorations before or after their discounts.';

create function private.part_of_period(line private.invoice_line, reading jsonb, out part numeric, out whole numeric)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_price public.plan_prices;
  v_is_first boolean := coalesce(reading ->> 'billing_reason' in ('subscription_create', 'quote_accept'), false);
  v_full_end timestamptz;
begin
  select p.* into v_price from public.plan_prices p where p.id = (line).plan_price_id;
  v_full_end := (line).starts_at + case v_price.interval when 'year' then interval '1 year' else interval '1 month' end;
  part := 1;
  whole := 1;
  if not v_is_first and (line).is_proration then
    part := 0;
  -- The piece until an anchor, or since a date before: by what it costs, or by its time where the price is of another currency.
  elsif v_is_first and (line).amount > 0 and ((line).is_proration or (line).ends_at < v_full_end - interval '2 days') then
    if v_price.currency = reading ->> 'currency' then
      whole := v_price.amount * (line).quantity;
      part := least((line).amount, whole);
    else
      whole := extract(epoch from v_full_end - (line).starts_at);
      part := least(extract(epoch from (line).ends_at - (line).starts_at), whole);
    end if;
  end if;
  if whole <= 0 then
    part := 1;
    whole := 1;
  end if;
end $$;
comment on function private.part_of_period(private.invoice_line, jsonb) is
  'How much of a period of its price a plan''s line is for, as part of whole: all of it; of a first invoice also less, as with an anchor of the billing cycle; nothing for a change in mid-period.';

create type private.returned_line as (line private.invoice_line, part numeric, whole numeric);
comment on type private.returned_line is 'A line of an invoice and the share of its money that came back, as part of whole; whole 0: it cost no money.';

create function private.money_of_lines(reading jsonb) returns table (line private.invoice_line, kind integer, money numeric)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with lines as (
      select l as line, greatest(l.cost, 0) as cost, case when l.plan_id is null then 0 when l.is_proration then 1 else 2 end as kind
      from private.lines_of_invoice(reading) l
    ), sums as (
      select coalesce(sum(l.cost) filter (where l.kind = 0), 0) as other,
        coalesce(sum((l.line).cost) filter (where l.kind = 1), 0) as steps, coalesce(sum(l.cost) filter (where l.kind = 2), 0) as periods
      from lines l
    ), kinds as (
      -- Unused time pays for the step that comes with it, and what it is more pays for the period.
      select k.kind, k.cost, sum(k.cost) over () as total,
        greatest(least((reading ->> 'amount_paid')::numeric, (reading ->> 'total')::numeric), 0) as paid
      from sums s cross join lateral (
        values (0, s.other), (1, greatest(s.steps, 0)), (2, greatest(s.periods + least(s.steps, 0), 0))) k (kind, cost)
    ), shared as (
      select k.kind, case when k.total > 0 then round(k.paid * sum(k.cost) over (order by k.kind) / k.total)
        - round(k.paid * (sum(k.cost) over (order by k.kind) - k.cost) / k.total) else 0 end as money
      from kinds k
    )
    -- Differences of sums that are rounded, so that lines add up to their kind.
    select l.line, l.kind, case when l.whole > 0
      then round(s.money * l.so_far / l.whole) - round(s.money * (l.so_far - l.cost) / l.whole) else 0 end
    from (
      select x.*, sum(x.cost) over (partition by x.kind) as whole, sum(x.cost) over (partition by x.kind order by (x.line).place) as so_far
      from lines x) l join shared s on s.kind = l.kind;
end $$;
comment on function private.money_of_lines(jsonb) is
  'What was paid in money for each line of an invoice: of amount_paid, which balance and coupons are no part of, in proportion to what lines cost. kind 0: no plan''s; 1: a change of a plan in mid-period; 2: a plan''s period.';

create type private.money_return as (amount numeric, lines jsonb);
comment on type private.money_return is 'Money that came back at once. lines: {line id: amount} where it is said for what; null: not said.';

create function private.money_returns(kept private.stripe_objects) returns setof private.money_return
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    with returned as (
      select r.amount, (r.returned).id, array(
        select o.id from private.stripe_objects o
        where o.object = 'credit_note' and o.reading ->> 'status' <> 'void'
          and (o.id = (r.returned).id or o.payment_refs && (kept).payment_refs
            and jsonb_path_exists(o.reading, '$.refunds[*] ? (@.refund_id == $id)', jsonb_build_object('id', (r.returned).id)))
        order by 1) as notes
      from private.returns_of(kept) r where r.is_out and r.amount > 0
    ), together as (
      select sum(r.amount) as amount, r.notes from returned r group by r.notes, case when r.notes = '{}' then r.id end
    )
    select t.amount, n.lines
    from together t
      left join lateral (
        -- What a credit note gave back is for what the note is for, as much of it as was given back by now.
        select jsonb_object_agg(l.id, round(l.amount * least(t.amount, l.total) / nullif(l.total, 0))) as lines
        from (
          select x.line ->> 'invoice_line_id' as id, sum(a.amount) as amount, sum(sum(a.amount)) over () as total
          from private.stripe_objects o cross join lateral jsonb_array_elements(o.reading -> 'lines') x (line)
            cross join lateral (
              select (x.line ->> 'amount')::numeric - coalesce((x.line ->> 'discount_amount')::numeric, 0)
                + coalesce((x.line ->> 'tax_amount')::numeric, 0) as amount) a
          where o.id = any (t.notes)
          group by 1) l
        where l.id is not null) n on true;
end $$;
comment on function private.money_returns(private.stripe_objects) is
  'What came back of an invoice, each refund, dispute and credit note by itself, with the lines that a credit note names; the refunds of one note together, so that its parts are its whole.';

create function private.returned_by_line(kept private.stripe_objects) returns setof private.returned_line
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_return private.money_return;
  v_ids text[];
  v_kinds integer[];
  v_money numeric[];
  v_back numeric[];
  v_pool numeric := 0;
  v_part numeric;
  v_place integer;
begin
  select array_agg((m.line).id order by (m.line).place), array_agg(m.kind order by (m.line).place),
    array_agg(m.money order by (m.line).place), array_agg(0::numeric)
  into v_ids, v_kinds, v_money, v_back
  from private.money_of_lines((kept).reading) m;
  for v_return in select r.* from private.money_returns(kept) r order by r.lines is null, r.amount desc loop
    -- Exactly one line, or all periods together, is what is most likely meant: of two that cost the same the one that is no plan's.
    select p into v_place from generate_subscripts(v_money, 1) p
    where v_return.lines is null and v_money[p] = v_return.amount and v_back[p] = 0 order by v_kinds[p], p limit 1;
    if v_return.lines is not null then
      for v_place in select p from generate_subscripts(v_ids, 1) p where v_return.lines ? v_ids[p] loop
        v_part := least((v_return.lines ->> v_ids[v_place])::numeric, v_money[v_place] - v_back[v_place]);
        v_back[v_place] := v_back[v_place] + v_part;
        v_return.amount := v_return.amount - v_part;
      end loop;
      -- What a note is for beside the invoice's lines, and more than they cost.
      v_pool := v_pool + greatest(v_return.amount, 0);
    elsif v_place is not null then
      v_back[v_place] := v_money[v_place];
    elsif v_return.amount = (select sum(v_money[p]) from generate_subscripts(v_money, 1) p where v_kinds[p] = 2) then
      v_back := array(select case when v_kinds[p] = 2 then v_money[p] else v_back[p] end from generate_subscripts(v_money, 1) p order by p);
    else
      v_pool := v_pool + v_return.amount;
    end if;
  end loop;
  return query
    with rest as (
      select r.kind, r.money, least(greatest(v_pool - (sum(r.money) over (order by r.kind) - r.money), 0), r.money) as back
      from (select v_kinds[p] as kind, sum(v_money[p] - v_back[p]) as money from generate_subscripts(v_money, 1) p group by 1) r
    )
    select l as line, case when v_back[l.place] = 0 then r.back
        when r.money > 0 then v_back[l.place] + (v_money[l.place] - v_back[l.place]) * r.back / r.money
        else v_back[l.place] end,
      case when v_money[l.place] = 0 then 0 when v_back[l.place] = 0 then r.money else v_money[l.place] end
    from private.lines_of_invoice((kept).reading) l join rest r on r.kind = v_kinds[l.place]
    order by l.place;
end $$;
comment on function private.returned_by_line(private.stripe_objects) is
  'What came back of an invoice, line by line: for the lines that a return names; else, when it is exactly what a line or the plan''s periods cost, for those; else for lines that are no plan''s first, then for changes in mid-period, and what is beyond them for the plan''s periods, in proportion.';

-- Credits =============================================================================================================
-- Credits that payments bring, and that refunds and disputes take back: each once, by what was bought, never by an event.

create type private.stripe_grant as (key text, amount bigint, reason text, lot_kind text, expires_at timestamptz);
comment on type private.stripe_grant is 'Credits that a payment brings: key is the ledger''s, which makes them come once.';

create function private.balance_applied(reading jsonb) returns numeric
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_total numeric := (reading ->> 'total')::numeric;
  v_before numeric := (reading ->> 'starting_balance')::numeric;
  v_after numeric := (reading ->> 'ending_balance')::numeric;
begin
  if v_total is null or v_total <= 0 then
    return 0;
  end if;
  -- Below zero is what the customer has with Stripe, above it what they owe.
  return greatest(0, least(v_total, case
    when v_before is null then v_total - (reading ->> 'amount_due')::numeric
    when v_after is null then -v_before
    else least(v_after, 0) - least(v_before, 0) end));
end $$;
comment on function private.balance_applied(jsonb) is
  'What an invoice took from the customer''s balance, by that before and after it: amount_due is less than the total also where that is too little to charge, or a credit note came before the payment. Only a reading that does not say the balances is taken by amount_due.';

create function private.paid_anew(reading jsonb, out part numeric, out whole numeric)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select
    case when l.periods > 0 then least(greatest(l.periods + l.prorations, 0), l.periods) else 1 end
      * case when b.total > 0 then b.total - private.balance_applied(reading) else 1 end,
    case when l.periods > 0 then l.periods else 1 end * case when b.total > 0 then b.total else 1 end
  into part, whole
  from (
    select sum(greatest(i.net, 0)) filter (where not i.is_proration) as periods,
      coalesce(sum(i.net) filter (where i.is_proration), 0) as prorations
    from private.lines_of_invoice(reading) i) l,
    (select (reading ->> 'total')::numeric as total) b;
end $$;
comment on function private.paid_anew(jsonb) is
  'The share of an invoice''s periods that is new money, as part of whole: with unused time of a period before and with the customer''s balance came credits already. Both sides are what lines cost after discounts and before taxes, and a negative item by hand is a lower price as a coupon is: none of these changes a share.';

create function private.stripe_grants_of(kept private.stripe_objects) returns setof private.stripe_grant
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_paid record;
begin
  if (kept).object = 'invoice' and v_reading ->> 'status' = 'paid' then
    select p.* into v_paid from private.paid_anew(v_reading) p;
    return query
      select 'stripe:line:' || l.id, n.credits, left(format('%s credits of the plan', p.name), 200), 'monthly',
        case when pp.credits_expire then l.ends_at end
      from private.lines_of_invoice(v_reading) l
        join public.plan_prices pp on pp.id = l.plan_price_id
        join public.plans p on p.id = pp.plan_id
        cross join lateral private.part_of_period(l, v_reading) s
        -- What costs nothing is paid by nothing.
        cross join lateral (
          select trunc(private.exact_share(pp.credits * l.quantity, s.part * case when l.amount > 0 then v_paid.part else v_paid.whole end,
            s.whole * v_paid.whole))::bigint) n (credits)
      where n.credits > 0
        -- The line of a trial costs nothing, though its price would. A coupon is not in the line's amount.
        and (l.amount > 0 or pp.amount = 0)
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
  'What a paid object brings: for each line of an invoice that begins a period of a plan its price''s credits, in the share of the period that it is for and that was paid anew, whatever the reason of the invoice, not for changes in mid-period and trials; for a checkout the credits of its pack, as often as it was bought. By the prices that we know, never by metadata.';

create function private.grant_stripe_credits(owner uuid, grants private.stripe_grant[]) returns private.stripe_grant[]
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_amount bigint;
begin
  for v_place in 1..cardinality(grants) loop
    select e.amount into v_amount from private.credit_bookings e
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

create function private.exchanged_amount(exchange jsonb, returned numeric) returns numeric
language sql immutable security invoker set search_path = ''
return round(private.exact_share((exchange ->> 'charge_amount')::numeric,
  greatest(least(returned, (exchange ->> 'charged')::numeric), 0), (exchange ->> 'charged')::numeric));
comment on function private.exchanged_amount(jsonb, numeric) is
  'How much of a charge it is, in the charge''s currency, when so much of what it brought to our balance has left it again; at most all of it.';

create function private.returns_of(kept private.stripe_objects)
returns table (returned private.stripe_objects, is_out boolean, amount numeric)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_currency text := coalesce((kept).reading ->> 'currency', 'usd');
begin
  return query
  with found as (
    select o, o.reading -> 'exchange' as exchange, case o.object
        when 'refund' then o.reading ->> 'status' not in ('failed', 'canceled')
        when 'credit_note' then o.reading ->> 'status' <> 'void'
        -- Any other, an appeal or what Stripe adds one day, says that the money is with the bank.
        else o.reading ->> 'status' not in ('won', 'warning_needs_response', 'warning_under_review', 'warning_closed', 'prevented')
      end as is_out
    from private.stripe_objects o
    where o.payment_refs && (kept).payment_refs and o.payment_refs <> '{}' and o.object in ('refund', 'dispute', 'credit_note')
  ), summed as (
    -- Parts of one charge are differences of shares of the whole, so that they add up to it.
    select f.o, f.exchange, f.is_out, (f.exchange ->> 'returned')::numeric as own,
      sum((f.exchange ->> 'returned')::numeric) filter (where f.is_out)
        over (partition by (f.o).reading ->> 'charge_id' order by (f.o).reading -> 'created', (f.o).id) as so_far
    from found f
  )
  select s.o, s.is_out, case
    when (s.o).reading ->> 'currency' = v_currency then coalesce((s.o).reading ->> 'amount_returned', (s.o).reading ->> 'amount')::numeric
    when s.is_out and s.exchange ->> 'charge_currency' = v_currency and (s.exchange ->> 'charged')::numeric > 0
      then private.exchanged_amount(s.exchange, s.so_far) - private.exchanged_amount(s.exchange, s.so_far - s.own) end
  from summed s;
end $$;
comment on function private.returns_of(private.stripe_objects) is
  'What came back of an invoice or a checkout: each refund, dispute and credit note, whether the money is out, and how much of the payment it is, in the payment''s currency. In another currency it is the share that left our balance at Stripe of what the payment had brought to it; null: Stripe has not said, or not to our key. Currencies are never added. A bank''s inquiry (warning_*) moves no money. Of a credit note it is what went back outside of Stripe alone: refunds are said by themselves, what became the customer''s balance is still here and brings no credits when it pays, and what lowered an open invoice was never paid.';

create function private.returned_money(kept private.stripe_objects, out refunded bigint, out disputed bigint)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  select
    coalesce(sum(r.amount) filter (where (r.returned).object <> 'dispute'), 0),
    coalesce(sum(r.amount) filter (where (r.returned).object = 'dispute'), 0)
  into refunded, disputed
  from private.returns_of(kept) r where r.is_out;
end $$;
comment on function private.returned_money(private.stripe_objects) is
  'How much of an invoice or a checkout went back, in its currency: refunds that did not fail, and credit notes outside of Stripe; disputes that are open or lost.';

create function private.clawback_target(credits bigint, returned bigint, paid bigint) returns bigint
language sql immutable security invoker set search_path = ''
return case when paid > 0 and returned > 0
  then round(private.exact_share(credits, least(returned, paid), paid))::bigint else 0 end;
comment on function private.clawback_target(bigint, bigint, bigint) is 'The share of the credits whose money went back, to the nearest whole one, halves up.';

create function private.clawback_of_lines(grants private.stripe_grant[], lines private.returned_line[]) returns bigint
language sql immutable security invoker set search_path = ''
return (
  select coalesce(sum(private.clawback_target(l.credits, l.part, l.whole)), 0)::bigint
  from (
    -- Lines of which the same share came back are rounded together.
    select sum(g.amount)::bigint as credits, round(b.part)::bigint as part, round(b.whole)::bigint as whole
    from unnest(lines) b join unnest(grants) g on g.key = 'stripe:line:' || (b.line).id group by 2, 3) l);
comment on function private.clawback_of_lines(private.stripe_grant[], private.returned_line[]) is
  'The credits of an invoice whose money went back: of each line''s credits the share of its money.';

create function private.project_returns(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_changed bigint;
  v_more bigint;
begin
  -- As of nearly all payments.
  if not exists (select from private.returns_of(kept)) then
    return false;
  end if;
  insert into public.refunds as r (id, user_id, payment_id, amount, currency, status, created_at)
  select o.id, owner, (kept).id, coalesce(o.reading ->> 'amount_returned', o.reading ->> 'amount')::bigint, o.reading ->> 'currency',
    left(case o.object when 'refund' then o.reading ->> 'status' else case when b.is_out then 'succeeded' else 'canceled' end end, 40),
    private.stripe_time(o.reading, 'created')
  from private.returns_of(kept) b cross join lateral (select (b.returned).*) o
  where o.object <> 'dispute' and o.deleted_at is null and (o.object = 'refund' or (o.reading ->> 'amount_returned')::bigint > 0)
  on conflict on constraint refunds_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(r) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_changed = row_count;
  insert into public.disputes as d (id, user_id, payment_id, amount, currency, status, reason, created_at)
  select o.id, owner, (kept).id, (o.reading ->> 'amount')::bigint, o.reading ->> 'currency', left(o.reading ->> 'status', 40),
    left(o.reading ->> 'reason', 80), private.stripe_time(o.reading, 'created')
  from private.returns_of(kept) b cross join lateral (select (b.returned).*) o
  where o.object = 'dispute' and o.deleted_at is null
  on conflict on constraint disputes_pkey do update set
    user_id = excluded.user_id, payment_id = excluded.payment_id, amount = excluded.amount, currency = excluded.currency,
    status = excluded.status, reason = excluded.reason, created_at = excluded.created_at, updated_at = now()
  where to_jsonb(d) - 'updated_at' <> to_jsonb(excluded) - 'updated_at';
  get diagnostics v_more = row_count;
  perform private.warn_of_currency(kept, b.returned) from private.returns_of(kept) b where b.is_out and b.amount is null;
  return v_changed + v_more > 0;
end $$;
comment on function private.project_returns(private.stripe_objects, uuid) is
  'The rows of the refunds, disputes and credit notes of a payment: of credit notes those that gave money back outside of Stripe, as refunds. An alert for what cannot be compared with the payment.';

create function private.warn_of_currency(paid private.stripe_objects, returned private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (
      select from public.security_events s
      where s.type = 'stripe_currency_unknown' and s.user_id is null and s.dedupe_key = left((returned).id, 200)) then
    return;
  end if;
  perform private.raise_security_event(
    type => 'stripe_currency_unknown', severity => 'medium', user_id => null, dedupe_key => left((returned).id, 200),
    details => jsonb_build_object(
      'payment_id', (paid).id, 'currency', (paid).reading ->> 'currency', 'object', (returned).object, 'id', (returned).id,
      'returned_amount', (returned).reading -> 'amount', 'returned_currency', (returned).reading ->> 'currency'));
end $$;
comment on function private.warn_of_currency(private.stripe_objects, private.stripe_objects) is
  'Says once that money of a payment is back in another currency, and that nothing says what share of it: nothing was taken back for it.';

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
    select e.amount into v_amount from private.credit_bookings e where e.user_id = owner and e.idempotency_key = v_key || v_n;
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
  from private.credit_bookings e join private.credit_lots l on l.id = e.id
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

-- Rows ================================================================================================================
-- What Stripe's objects come to here: rows of subscriptions, payments, refunds and disputes, and credits. Everything in this part is
-- a function of what is stored in private.stripe_objects; nothing here knows of events.

create function private.project_stripe_object(kept private.stripe_objects, owner uuid) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_paid record;
  v_changed boolean := false;
  v_is_paid_otherwise boolean;
begin
  if (kept).object in ('refund', 'dispute', 'credit_note') then
    -- They are the payment's business, and may not name the customer.
    for v_paid in
      select o as kept, c.user_id from private.stripe_objects o join private.stripe_customers c on c.id = o.customer_id
      where o.payment_refs && (kept).payment_refs and o.payment_refs <> '{}' and o.object in ('invoice', 'checkout_session')
    loop
      owner := v_paid.user_id;
      continue when private.is_stripe_mismatch(v_paid.kept, owner);
      -- One that does not name its customer has not brought the customer's lock, under which subscriptions are made.
      perform private.lock_stripe_objects(array[(v_paid.kept).customer_id]);
      v_is_paid_otherwise := private.project_payment(v_paid.kept, owner);
      if private.project_subscription_of(v_paid.kept, owner) or v_is_paid_otherwise then
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
      where (c.session_id = (kept).id or c.id = private.uuid_or_null((kept).reading ->> 'checkout_id'))
        and c.user_id = owner and c.closed_at is null and (kept).reading ->> 'status' in ('complete', 'expired');
      return private.project_payment(kept, owner);
    when 'invoice' then
      perform private.warn_of_stuck_invoice(kept, owner);
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

-- Paid periods ---------------------------------------------------------------------------------------------------------

create function private.save_paid_periods(kept private.stripe_objects, lines private.returned_line[]) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_periods private.paid_periods[] := array(
    select row((kept).id, (b.line).id, (kept).subscription_id, (b.line).plan_id, (b.line).plan_price_id, (b.line).starts_at,
      (b.line).ends_at, (b.line).is_proration, (b.line).amount < 0,
      case when (b.line).amount < 0
        -- Unused time goes with what was bought in its place.
        then coalesce((select bool_and(o.whole > 0 and o.part >= o.whole) from unnest(lines) o where (o.line).plan_id is not null and (o.line).amount > 0), false)
        else b.whole > 0 and b.part >= b.whole end)::private.paid_periods
    from unnest(lines) b join public.plan_prices pp on pp.id = (b.line).plan_price_id
    where (kept).reading ->> 'status' = 'paid' and (b.line).ends_at > (b.line).starts_at
      -- The line of a trial is no payment. A coupon is not in the line's amount.
      and ((b.line).amount <> 0 or pp.amount = 0));
  v_removed bigint;
begin
  delete from private.paid_periods p
  where p.payment_id = (kept).id and not exists (select from unnest(v_periods) n where n.line_id = p.line_id);
  get diagnostics v_removed = row_count;
  insert into private.paid_periods as p select n.* from unnest(v_periods) n
  on conflict on constraint paid_periods_pkey do update set
    subscription_id = excluded.subscription_id, plan_id = excluded.plan_id, plan_price_id = excluded.plan_price_id,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, is_proration = excluded.is_proration, is_credit = excluded.is_credit,
    is_returned = excluded.is_returned
  where p is distinct from excluded;
  return found or v_removed > 0;
end $$;
comment on function private.save_paid_periods(private.stripe_objects, private.returned_line[]) is
  'The rows of the plan''s lines of an invoice that is paid: none of any other. Answers whether they say something new.';

create function private.is_item_returned(subscription_id text, item jsonb, plan_price_id text) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- By the periods of its own price; when it has none, as after a change, by those that it took the place of.
  return coalesce((
    select coalesce(bool_and(p.is_returned) filter (where p.plan_price_id = is_item_returned.plan_price_id), bool_and(p.is_returned))
    from private.paid_periods p
    where p.subscription_id = is_item_returned.subscription_id and not p.is_credit
      and p.starts_at < private.stripe_time(item, 'current_period_end') and p.ends_at > private.stripe_time(item, 'current_period_start')
      -- What a change in mid-period cost is no payment of the period, unless nothing else is.
      and not (p.is_proration and private.has_base(p))), false);
end $$;
comment on function private.is_item_returned(text, jsonb, text) is
  'Whether all that was paid for the current period of an item is back with the customer. Not when nothing was: a trial, a period that a coupon or the balance paid.';

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
  v_row := private.with_items(v_row, v_reading -> 'items');
  v_row.is_collection_paused := coalesce((v_reading ->> 'is_paused')::boolean, false) and v_row.status in ('active', 'trialing');
  v_row := private.with_debt(v_row);
  v_row.is_returned := v_row.is_returned or private.is_last_returned(v_row);
  -- Stripe goes on to the next period all the same, and collects nothing for it.
  if v_row.is_collection_paused and private.is_period_unpaid(v_row) then
    v_row.status := 'paused';
  end if;
  return private.save_subscription(v_row);
end $$;
comment on function private.project_subscription(private.stripe_objects, uuid) is
  'The row of a subscription: the best plan among its items, the latest period that carries a plan, canceled when it or its customer is gone, paused when the invoice of its period is not collected.';

create function private.with_items(subscription public.subscriptions, items jsonb) returns public.subscriptions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  with known as (
    select i.item, pp.id as plan_price_id, pp.plan_id, p.position, pp.amount,
      pp.id is not null and private.is_item_returned((subscription).id, i.item, pp.id) as is_returned
    from jsonb_array_elements(items) i (item)
      left join private.stripe_prices s on s.id = i.item ->> 'price_id'
      left join public.plan_prices pp on pp.id = s.plan_price_id
      left join public.plans p on p.id = pp.plan_id
  )
  select k.plan_id, k.plan_price_id, coalesce((k.item ->> 'quantity')::bigint, 1), k.is_returned
  into subscription.plan_id, subscription.plan_price_id, subscription.quantity, subscription.is_returned
  -- Of a plan whose quantity is 0 nothing is sold.
  from known k where k.plan_price_id is not null order by (k.item ->> 'quantity')::bigint is not distinct from 0, k.is_returned, k.position desc, k.amount desc, k.plan_price_id limit 1;
  subscription.quantity := coalesce(subscription.quantity, 1);
  subscription.is_returned := coalesce(subscription.is_returned, false);
  select private.stripe_time(i.item, 'current_period_start'), private.stripe_time(i.item, 'current_period_end')
  into subscription.current_period_start, subscription.current_period_end
  from jsonb_array_elements(items) i (item) left join private.stripe_prices s on s.id = i.item ->> 'price_id'
  order by s.plan_price_id is null, i.item -> 'current_period_end' desc limit 1;
  return subscription;
end $$;
comment on function private.with_items(public.subscriptions, jsonb) is
  'What the items say: the best plan among those whose money is not back with the customer, else among all; the latest period that carries a plan.';

create function private.unpaid_invoices(subscription_id text)
returns table (id text, status text, total bigint, billing_reason text, starts_at timestamptz, ends_at timestamptz, is_stuck boolean)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select o.id, o.reading ->> 'status', (o.reading ->> 'total')::bigint, o.reading ->> 'billing_reason', min(l.starts_at), max(l.ends_at),
      private.is_stuck_invoice(o.reading)
    from private.stripe_objects o cross join lateral private.lines_of_invoice(o.reading) l
    where o.subscription_id = unpaid_invoices.subscription_id and o.object = 'invoice' and o.deleted_at is null
      and o.reading ->> 'status' <> 'paid' and l.plan_id is not null and l.amount > 0
    group by o.id
    having bool_or(not l.is_proration) or o.reading ->> 'billing_reason' in ('subscription_create', 'quote_accept');
end $$;
comment on function private.unpaid_invoices(text) is
  'The invoices of a subscription that are for periods of a plan and are not paid: draft, open, void and uncollectible alike; with the time that they are for.';

create function private.is_stuck_invoice(reading jsonb) returns boolean
language sql immutable security invoker set search_path = ''
return reading ->> 'status' = 'draft'
  and (reading ->> 'last_finalization_error' is not null or coalesce(reading ->> 'auto_advance' = 'false', false));
comment on function private.is_stuck_invoice(jsonb) is 'A draft that Stripe could not make final, or that it is told to leave alone: nobody is asked to pay it.';

create function private.is_period_unpaid(subscription public.subscriptions, is_stuck boolean default null) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return not exists (
      select from private.paid_periods p
      where p.subscription_id = (subscription).id and not p.is_credit and not p.is_proration
        and p.starts_at < (subscription).current_period_end and p.ends_at > (subscription).current_period_start)
    and exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.starts_at < (subscription).current_period_end and i.ends_at > (subscription).current_period_start
        and i.is_stuck = coalesce(is_period_unpaid.is_stuck, i.is_stuck));
end $$;
comment on function private.is_period_unpaid(public.subscriptions, boolean) is
  'Whether the current period of a subscription has an invoice, is_stuck: one that is stuck, and none that is paid.';

create function private.is_last_returned(subscription public.subscriptions) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return private.is_period_unpaid(subscription)
    and exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.status in ('draft', 'open') and i.starts_at < (subscription).current_period_end and i.ends_at > (subscription).current_period_start)
    and coalesce((
      select bool_and(l.is_returned)
      from (
        select p.is_returned from private.paid_periods p
        where p.subscription_id = (subscription).id and not p.is_credit and p.starts_at < (subscription).current_period_start
          and not (p.is_proration and private.has_base(p))
        order by p.ends_at desc fetch first 1 row with ties) l), false);
end $$;
comment on function private.is_last_returned(public.subscriptions) is
  'Whether the current period is still to be paid, and the money of the last that was paid is back: such a plan has nothing that could go on for a grace, or while the bank has the payment.';

create function private.with_debt(subscription public.subscriptions) returns public.subscriptions
language plpgsql stable security invoker set search_path = ''
as $$
begin
  subscription.is_begun := subscription.trial_start is not null
    or exists (select from private.paid_periods p where p.subscription_id = (subscription).id and not p.is_credit)
    or not exists (
      select from private.unpaid_invoices((subscription).id) i
      where i.total > 0 and (i.billing_reason in ('subscription_create', 'quote_accept')
        or i.starts_at <= (subscription).started_at + interval '1 day'));
  subscription.is_unfinalized := subscription.status in ('active', 'trialing') and not subscription.is_collection_paused
    and private.is_period_unpaid(subscription, is_stuck => true);
  if subscription.status in ('past_due', 'unpaid') or subscription.is_unfinalized then
    -- What was left open before a later one was paid is another debt, and had its grace.
    select coalesce(min(i.due_at) filter (where i.created > coalesce(i.paid, 0)),
      greatest(max(i.due_at), (subscription).current_period_start), (subscription).started_at)
    into subscription.past_due_since
    from (
      select coalesce(private.stripe_time(o.reading, 'due_at'), private.stripe_time(o.reading, 'created')) as due_at,
        (o.reading ->> 'created')::bigint as created, o.reading ->> 'status' as status, o.deleted_at,
        max((o.reading ->> 'created')::bigint) filter (where o.reading ->> 'status' = 'paid') over () as paid
      from private.stripe_objects o where o.subscription_id = (subscription).id and o.object = 'invoice') i
    where (i.status = 'open' or (subscription).is_unfinalized and i.status = 'draft') and i.deleted_at is null;
  end if;
  return subscription;
end $$;
comment on function private.with_debt(public.subscriptions) is
  'Whether anything was ever paid, or free; whether the invoice of its period is stuck; since when it owes what it owes.';

create function private.warn_of_stuck_invoice(kept private.stripe_objects, owner uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if (kept).subscription_id is not null and (kept).deleted_at is null and (kept).reading ->> 'last_finalization_error' is not null
    and private.is_stuck_invoice((kept).reading) and not exists (
      select from public.security_events e
      where e.type = 'stripe_invoice_unfinalized' and e.user_id is null and e.dedupe_key = left((kept).id, 200)) then
    perform private.raise_security_event(
      type => 'stripe_invoice_unfinalized', severity => 'medium', user_id => null, dedupe_key => left((kept).id, 200),
      details => jsonb_build_object('invoice_id', (kept).id, 'subscription_id', (kept).subscription_id, 'user_id', owner,
        'error', left((kept).reading ->> 'last_finalization_error', 200)));
  end if;
end $$;
comment on function private.warn_of_stuck_invoice(private.stripe_objects, uuid) is
  'Says once of an invoice that Stripe could not make final: nobody is asked to pay it, and its period is not paid.';

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
    is_begun = excluded.is_begun, is_unfinalized = excluded.is_unfinalized,
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
  from private.lines_of_invoice(v_reading) l
    join public.plan_prices pp on pp.id = l.plan_price_id
    join public.plans p on p.id = pp.plan_id
  order by l.is_proration, p.position desc, pp.id limit 1;
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
  v_lines private.returned_line[] := '{}';
  v_changed boolean;
begin
  if v_row.id is null then
    return false;
  end if;
  v_grants := private.grant_stripe_credits(owner, array(select g from private.stripe_grants_of(kept) g));
  v_row.user_id := owner;
  v_row.credits := (select coalesce(sum(g.amount), 0) from unnest(v_grants) g);
  select r.* into v_returned from private.returned_money(kept) r;
  v_row.amount_refunded := v_returned.refunded;
  v_row.amount_disputed := v_returned.disputed;
  if (kept).object = 'invoice' then
    v_lines := array(select l from private.returned_by_line(kept) l);
    v_row.credits_clawed_back := private.clawback_of_lines(v_grants, v_lines);
  else
    v_row.credits_clawed_back := private.clawback_target(v_row.credits, v_returned.refunded + v_returned.disputed, v_row.amount);
  end if;
  v_changed := private.save_payment(v_row);
  v_changed := private.save_paid_periods(kept, v_lines) or v_changed;
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

-- What users are told, and when =======================================================================================
-- What users are told of their payments, how often who owes one is reminded, and how long what a paid plan held is kept.

insert into private.settings (key, value, rule, description) values
  ('privacy.days_after_cancellation', '30', '{"type": "integer", "minimum": 0, "maximum": 3650}', 'Days after a paid plan has ended for which what it held is kept.')
on conflict (key) do nothing;

-- Notices --------------------------------------------------------------------------------------------------------------

create table private.billing_notices (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) between 1 and 1500),
  is_mailed boolean not null default true
);
comment on table private.billing_notices is
  'What users are told, each as a row. Without its row nobody is told. {pay_url}, {plan}, {amount}, {date} and {description} are filled in, as far as they are known.';
comment on column private.billing_notices.is_mailed is 'Also by mail, whatever notifications.mail_types says.';
revoke all on private.billing_notices from anon, authenticated, service_role;
insert into private.billing_notices (id, title, body) values
  ('payment_failed', 'Your payment did not go through', 'We could not collect {amount} for {description}. Pay it or choose another way to pay here: {pay_url}'),
  ('payment_action_required', 'Your bank asks you to confirm a payment', 'Your bank wants you to confirm {amount} for {description}. You can do it here: {pay_url}'),
  ('payment_recovered', 'Your payment has arrived', 'We have received {amount} for {description}. Everything goes on as before.'),
  ('trial_ends', 'Your trial ends soon', 'Your trial of {plan} ends on {date}, and your first payment follows. You can cancel before that day in the billing portal.'),
  ('subscription_ended', 'Your subscription has ended', 'Your subscription of {plan} ended on {date}. You can subscribe again at any time: {pay_url}'),
  ('refunded', 'You have been refunded', 'We have sent {amount} back to you for {description}. Credits that it paid for are taken back in proportion.'),
  ('dispute_opened', 'Your bank disputes a payment', 'Your bank asks for {amount} back for {description}. The credits that it paid for are on hold until this is settled.'),
  ('dispute_won', 'A disputed payment stands', 'The dispute about {amount} for {description} is settled, and your credits are back.'),
  ('dispute_lost', 'A disputed payment went back', 'The dispute about {amount} for {description} is settled: your bank has the money back, and the credits that it paid for are gone.'),
  ('dunning_reminder', 'A payment is still open', 'Your payment for {plan} is overdue. You keep it until {date}, and longer if you pay here: {pay_url}'),
  ('dunning_last_day', 'Your plan ends tomorrow', 'Your payment for {plan} is still missing, and {plan} ends on {date}. Pay here to keep it: {pay_url}'),
  ('dunning_access_ended', 'Your plan is on hold', 'Your payment for {plan} did not arrive, so its features are off. They are back as soon as it is paid: {pay_url}')
on conflict (id) do nothing;

create table private.billing_notices_sent (
  user_id uuid not null references auth.users (id) on delete cascade,
  dedupe_key text not null check (length(dedupe_key) between 1 and 400),
  notice text not null check (length(notice) <= 60),
  sent_at timestamptz not null default now(),
  primary key (user_id, dedupe_key)
);
comment on table private.billing_notices_sent is 'What users were told, so that nobody is told twice, however often the reason is read again.';
revoke all on private.billing_notices_sent from anon, authenticated, service_role;

create function private.fill_placeholders(template text, data jsonb) returns text
language plpgsql immutable security invoker set search_path = ''
as $$
declare
  v_text text := template;
  v_value record;
begin
  for v_value in select d.key, d.value from jsonb_each_text(data) d loop
    v_text := replace(v_text, '{' || v_value.key || '}', coalesce(v_value.value, ''));
  end loop;
  return regexp_replace(v_text, '\{[a-z_]+\}', '', 'g');
end $$;
comment on function private.fill_placeholders(text, jsonb) is 'The template with each {key} replaced by its value; what has none leaves nothing.';

create function private.notify_billing(user_id uuid, notice text, dedupe_key text, data jsonb default '{}') returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_notice private.billing_notices;
  v_type text := 'billing_' || notify_billing.notice;
  v_data jsonb := jsonb_build_object('pay_url', private.pay_url(notify_billing.user_id), 'plan', 'your plan')
    || jsonb_strip_nulls(coalesce(notify_billing.data, '{}'));
  v_title text;
  v_body text;
begin
  select n.* into v_notice from private.billing_notices n where n.id = notify_billing.notice;
  if not found then
    return false;
  end if;
  insert into private.billing_notices_sent (user_id, dedupe_key, notice)
  values (notify_billing.user_id, notify_billing.dedupe_key, notify_billing.notice)
  on conflict on constraint billing_notices_sent_pkey do nothing;
  if not found then
    return false;
  end if;
  v_title := left(private.fill_placeholders(v_notice.title, v_data), 200);
  v_body := left(private.fill_placeholders(v_notice.body, v_data), 2000);
  perform private.tell_user(notify_billing.user_id, v_type, v_title, v_body, v_data,
    v_notice.is_mailed or private.setting('notifications.mail_types') ? v_type);
  return true;
end $$;
comment on function private.notify_billing(uuid, text, text, jsonb) is
  'Tells a user something of private.billing_notices, once for a dedupe_key, as a notification of the type billing_<notice> and by mail. True when it did. A notice without a row is told to nobody, and may be told later when there is one.';

-- Dunning --------------------------------------------------------------------------------------------------------------

create table private.dunning_steps (
  position integer primary key check (position > 0),
  after_days integer not null check (after_days >= 0),
  notice text not null references private.billing_notices (id) on delete cascade
);
comment on table private.dunning_steps is
  'Reminders to who owes a payment: days after it was due, and what they are told. See billing.grace_days for when access ends.';
create index dunning_steps_notice_idx on private.dunning_steps (notice);
revoke all on private.dunning_steps from anon, authenticated, service_role;
-- By the seven days of billing.grace_days; who changes those changes these.
insert into private.dunning_steps (position, after_days, notice) values
  (1, 3, 'dunning_reminder'), (2, 6, 'dunning_last_day'), (3, 7, 'dunning_access_ended')
on conflict (position) do nothing;

create function private.send_dunning() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_days integer := (private.setting('billing.grace_days'))::integer;
  v_due record;
  v_sent integer := 0;
begin
  for v_due in
    select s.id, s.user_id, o.since, p.name as plan, d.position, d.notice
    from public.subscriptions s
      left join public.plans p on p.id = s.plan_id
      cross join lateral (select private.grace_starts_at(s) as since) o
      -- The latest step alone: who missed some, because nothing ran, is not told all of them at once.
      cross join lateral (
        select x.position, x.notice from private.dunning_steps x
        where o.since + make_interval(days => x.after_days) <= now()
        order by x.after_days desc, x.position desc limit 1) d
    where (s.status = 'past_due' or s.is_unfinalized) and s.past_due_since is not null
      -- Who never paid, or has it back, has nothing to keep.
      and (s.is_begun and not s.is_returned or d.notice = 'dunning_access_ended') and not exists (
      select from private.billing_notices_sent n
      where n.user_id = s.user_id and n.dedupe_key = private.dunning_key(s.id, o.since, d.position))
    order by s.user_id, s.id
  loop
    begin
      if private.notify_billing(v_due.user_id, v_due.notice, private.dunning_key(v_due.id, v_due.since, v_due.position),
          jsonb_build_object('subscription_id', v_due.id, 'plan', v_due.plan,
            'date', to_char((v_due.since + make_interval(days => v_days)) at time zone 'UTC', 'YYYY-MM-DD'))) then
        v_sent := v_sent + 1;
      end if;
    exception when others then
      -- One who cannot be told must not keep the others from it; the next run tries again.
      raise warning 'the owner of % cannot be reminded: % %', v_due.id, sqlstate, sqlerrm;
    end;
  end loop;
  return v_sent;
end $$;
comment on function private.send_dunning() is
  'Reminds everybody whose subscription is past due of the payment, by private.dunning_steps, each step once for a debt. A job runs it. Answers how many were told.';

create function private.dunning_key(subscription_id text, past_due_since timestamptz, "position" integer) returns text
language sql immutable security invoker set search_path = ''
return 'dunning:' || dunning_key.subscription_id || ':' || extract(epoch from dunning_key.past_due_since)::bigint || ':' || dunning_key.position;
comment on function private.dunning_key(text, timestamptz, integer) is 'A step of a debt: the next debt of the subscription begins anew.';

-- Retention ------------------------------------------------------------------------------------------------------------

create table private.retention_clocks (
  user_id uuid primary key references auth.users (id) on delete cascade,
  started_at timestamptz not null,
  ends_at timestamptz not null check (ends_at >= started_at)
);
comment on table private.retention_clocks is
  'Users whose paid plan has ended, and until when what it held is kept. The row goes when they pay again. Who deletes by it asks private.entitlement once more.';
create index retention_clocks_ends_at_idx on private.retention_clocks (ends_at);
revoke all on private.retention_clocks from anon, authenticated, service_role;

create function private.keep_retention_clock(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_entitlement record;
  v_ended_at timestamptz;
begin
  -- Also for the job, that a payment of this moment is seen here or takes away what this writes.
  perform pg_advisory_xact_lock(hashtextextended('entitlement:' || keep_retention_clock.user_id, 0));
  v_entitlement := private.entitlement(keep_retention_clock.user_id);
  if v_entitlement.is_paid then
    delete from private.retention_clocks c where c.user_id = keep_retention_clock.user_id;
  -- A pause is no end, and what never began cannot end.
  elsif v_entitlement.state in ('past_due', 'unpaid', 'canceled', 'expired') then
    -- One that is given up as unpaid, or whose money went back, has ended now, whatever ended long before it.
    v_ended_at := case when v_entitlement.state = 'unpaid' then now() else coalesce(greatest(
      (select max(e.ends_at) from private.entitlements e
      where e.user_id = keep_retention_clock.user_id and e.plan_id is not null and e.ends_at <= now()),
      (select max(s.ended_at) from public.subscriptions s
      where s.user_id = keep_retention_clock.user_id and s.status = 'canceled' and s.ended_at <= now())), now()) end;
    insert into private.retention_clocks (user_id, started_at, ends_at)
    values (keep_retention_clock.user_id, v_ended_at,
      v_ended_at + make_interval(days => (private.setting('privacy.days_after_cancellation'))::integer))
    on conflict on constraint retention_clocks_pkey do nothing;
  end if;
end $$;
comment on function private.keep_retention_clock(uuid) is
  'Starts a user''s clock at the moment their paid plan ended, and takes it away when they pay. A clock that runs goes on as it is.';

create function private.start_retention_clocks() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_users integer := 0;
begin
  for v_user_id in
    select distinct e.user_id from private.entitlements e
    where e.plan_id is not null and e.ends_at <= now()
      and not exists (select from private.retention_clocks c where c.user_id = e.user_id)
      and not exists (
        select from private.entitlements p
        where p.user_id = e.user_id and p.plan_id is not null and p.starts_at <= now() and p.ends_at > now())
    order by 1
  loop
    perform private.keep_retention_clock(v_user_id);
    v_users := v_users + 1;
  end loop;
  return v_users;
end $$;
comment on function private.start_retention_clocks() is
  'Starts the clocks of those whose paid plan has ended by time alone. A job runs it; the clock starts at the end itself, whenever it runs. Answers how many users it looked at.';

-- What the clock starts ------------------------------------------------------------------------------------------------

create function private.call_apply_stripe_events() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if exists (select from private.stripe_events e where e.state = 'waiting' and e.next_attempt_at <= now()) then
    return private.call_jobs_function('apply-stripe-events');
  end if;
  return null;
end $$;
comment on function private.call_apply_stripe_events() is 'Calls the application of Stripe''s events when one waits.';

create function private.call_reconcile_stripe() returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Also when the last customer's user is gone: their subscription may be there.
  if exists (select from private.stripe_customers) or exists (select from private.stripe_changes) then
    return private.call_jobs_function('reconcile-stripe');
  end if;
  return null;
end $$;
comment on function private.call_reconcile_stripe() is 'Calls the comparison with Stripe when somebody ever was a customer.';

-- Who is told of what =================================================================================================
-- What users are told of their payments: from what was read, each thing once. What is told, and how, is in private.billing_notices.

create function private.currency_exponent(currency text) returns integer
language sql immutable security invoker set search_path = ''
return case
  when currency_exponent.currency in (
    'bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf', 'vnd', 'vuv', 'xaf', 'xof', 'xpf') then 0
  when currency_exponent.currency in ('bhd', 'jod', 'kwd', 'omr', 'tnd') then 3
  else 2 end;
comment on function private.currency_exponent(text) is
  'How many digits of an amount of Stripe''s are after the point: the one list of them. ISK and UGX have none in truth, and two at Stripe, which are always 00 (docs.stripe.com/currencies, special cases); HUF and TWD have two, but for payouts.';

create function private.money_text(amount bigint, currency text) returns text
language sql immutable security invoker set search_path = ''
return case
  when money_text.currency in ('isk', 'ugx') and amount % 100 = 0 then (amount / 100)::text
  else round(amount / power(10::numeric, private.currency_exponent(money_text.currency)), private.currency_exponent(money_text.currency))::text
  end || ' ' || upper(money_text.currency);
comment on function private.money_text(bigint, text) is 'An amount of the smallest unit as people write it, such as 12.00 USD, 1200 JPY or 5 ISK.';

create function private.tell_of_subscription(subscription_id text) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_row public.subscriptions;
  v_data jsonb;
begin
  select s.* into v_row from public.subscriptions s where s.id = tell_of_subscription.subscription_id;
  v_data := jsonb_build_object('subscription_id', v_row.id, 'plan', (select p.name from public.plans p where p.id = v_row.plan_id));
  if v_row.status = 'trialing' and v_row.trial_end between now() and now() + interval '3 days'
    and not v_row.cancel_at_period_end and v_row.cancel_at is null then
    perform private.notify_billing(v_row.user_id, 'trial_ends',
      format('subscription:%s:trial:%s', v_row.id, extract(epoch from v_row.trial_end)::bigint),
      v_data || jsonb_build_object('date', to_char(v_row.trial_end at time zone 'UTC', 'YYYY-MM-DD')));
  elsif v_row.status = 'canceled' and v_row.ended_at > now() - interval '7 days' then
    perform private.notify_billing(v_row.user_id, 'subscription_ended', format('subscription:%s:ended', v_row.id),
      v_data || jsonb_build_object('date', to_char(v_row.ended_at at time zone 'UTC', 'YYYY-MM-DD')));
  elsif v_row.status = 'unpaid' and v_row.past_due_since > now() - interval '60 days'
    -- What is paid otherwise goes on.
    and not exists (select from private.paid_spans(v_row.id) p where p.ends_at > now()) and not exists (
      -- The end of the grace may have told them of this debt.
      select from private.billing_notices_sent n
      where n.user_id = v_row.user_id and n.notice = 'dunning_access_ended' and starts_with(n.dedupe_key, format('dunning:%s:', v_row.id))
        and n.sent_at >= v_row.past_due_since) then
    -- The key of the step that says so at the end of the grace, which then has nothing more to say.
    perform private.notify_billing(v_row.user_id, 'dunning_access_ended',
      private.dunning_key(v_row.id, private.grace_starts_at(v_row),
        coalesce((select min(d.position) from private.dunning_steps d where d.notice = 'dunning_access_ended'), 0)),
      v_data || jsonb_build_object('date', to_char(now() at time zone 'UTC', 'YYYY-MM-DD')));
  end if;
end $$;
comment on function private.tell_of_subscription(text) is 'A trial that ends within three days, and goes on to be paid; a subscription that has ended, within the week; one that Stripe gave up as unpaid, within sixty days of the debt, unless the end of the grace was told.';

create function private.tell_of_payment(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_reading jsonb := (kept).reading;
  v_tries integer := coalesce((v_reading ->> 'attempt_count')::integer, 0);
  v_key text := format('%s:%s', case (kept).object when 'invoice' then 'invoice' else 'session' end, (kept).id);
  v_row public.payments;
  v_data jsonb;
begin
  select p.* into v_row from public.payments p where p.id = (kept).id;
  v_data := jsonb_strip_nulls(jsonb_build_object(
    'payment_id', v_row.id, 'description', v_row.description, 'amount', private.money_text(v_row.amount, v_row.currency),
    'pay_url', v_row.pay_url, 'date', to_char(v_row.next_attempt_at at time zone 'UTC', 'YYYY-MM-DD')));
  if v_row.kind = 'credit_pack' then
    if v_row.status = 'failed' and v_row.created_at > now() - interval '30 days' then
      perform private.notify_billing(v_row.user_id, 'payment_failed', v_key, v_data);
    end if;
  elsif v_row.status = 'open' and v_tries > 0 and v_reading ->> 'billing_reason' <> 'subscription_create' then
    -- Who pays the first invoice sits in front of it.
    perform private.notify_billing(v_row.user_id,
      case when jsonb_path_exists(v_reading, '$.payments[*] ? (@.payment_intent_status == "requires_action")')
        then 'payment_action_required' else 'payment_failed' end,
      format('%s:attempt:%s', v_key, v_tries), v_data);
  elsif v_row.status = 'paid' and exists (
    select from private.billing_notices_sent n
    where n.user_id = v_row.user_id
      and n.dedupe_key = any (array(select format('%s:attempt:%s', v_key, t) from generate_series(1, least(v_tries, 100)) t))) then
    perform private.notify_billing(v_row.user_id, 'payment_recovered', format('%s:recovered', v_key), v_data);
  end if;
end $$;
comment on function private.tell_of_payment(private.stripe_objects) is
  'Each failed try to collect an invoice, with where to pay it; that it was paid after all, to those who were told that it was not; a delayed payment of a pack that failed.';

create function private.tell_of_returns(payment_refs text[]) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_row record;
  v_data jsonb;
begin
  for v_row in
    select o.id, o.object, coalesce(r.user_id, d.user_id) as user_id, p.id as payment_id, p.description,
      coalesce(r.amount, d.amount) as amount, coalesce(r.currency, d.currency) as currency, coalesce(r.status, d.status) as status
    from private.stripe_objects o
      left join public.refunds r on r.id = o.id
      left join public.disputes d on d.id = o.id
      join public.payments p on p.id = coalesce(r.payment_id, d.payment_id)
    where o.payment_refs && tell_of_returns.payment_refs and o.payment_refs <> '{}'
      and coalesce(r.created_at, d.created_at) > now() - interval '120 days'
    order by o.id
  loop
    v_data := jsonb_build_object('payment_id', v_row.payment_id, 'description', v_row.description,
      'amount', private.money_text(v_row.amount, v_row.currency));
    if v_row.object <> 'dispute' then
      if v_row.status = 'succeeded' then
        perform private.notify_billing(v_row.user_id, 'refunded', 'refund:' || v_row.id, v_data);
      end if;
    elsif v_row.status in ('needs_response', 'under_review') then
      if private.notify_billing(v_row.user_id, 'dispute_opened', format('dispute:%s:opened', v_row.id), v_data) then
        perform private.raise_security_event(
          type => 'payment_disputed', severity => 'medium', user_id => v_row.user_id, dedupe_key => left(v_row.id, 200),
          details => jsonb_build_object('dispute_id', v_row.id, 'payment_id', v_row.payment_id));
      end if;
    elsif v_row.status in ('won', 'lost') then
      perform private.notify_billing(v_row.user_id, 'dispute_' || v_row.status, format('dispute:%s:%s', v_row.id, v_row.status), v_data);
    end if;
  end loop;
end $$;
comment on function private.tell_of_returns(text[]) is
  'Money that went back, also by a credit note; disputes that were opened (a security event, too), won or lost, of these payments, within 120 days.';

create function private.tell_of_stripe_object(kept private.stripe_objects) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  case (kept).object
    when 'subscription' then
      perform private.tell_of_subscription((kept).id);
    when 'customer' then
      if (kept).deleted_at is not null then
        perform private.tell_of_subscription(o.id) from private.stripe_objects o
        where o.customer_id = (kept).id and o.object = 'subscription';
      end if;
    else
      if (kept).object in ('invoice', 'checkout_session') then
        perform private.tell_of_payment(kept);
      end if;
      perform private.tell_of_returns((kept).payment_refs);
  end case;
end $$;
comment on function private.tell_of_stripe_object(private.stripe_objects) is
  'Tells the owner what follows from an object, after its rows were made. What they were told once they are not told again, whoever reads it however often.';
