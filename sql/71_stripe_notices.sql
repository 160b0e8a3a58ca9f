-- What users are told of their payments: from what was read, each thing once. What is told, and how, is in private.billing_notices.

create function private.money_text(amount bigint, currency text) returns text
language sql immutable security invoker set search_path = ''
return (case
  when currency in ('bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf', 'ugx', 'vnd', 'vuv', 'xaf', 'xof', 'xpf')
    then amount::text
  when currency in ('bhd', 'jod', 'kwd', 'omr', 'tnd') then round(amount / 1000.0, 3)::text
  else round(amount / 100.0, 2)::text end) || ' ' || upper(currency);
comment on function private.money_text(bigint, text) is 'An amount of the smallest unit as people write it, such as 12.00 USD.';

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
  elsif v_row.status = 'unpaid' and v_row.past_due_since > now() - interval '60 days' and not exists (
      -- The end of the grace may have told them of this debt.
      select from private.billing_notices_sent n
      where n.user_id = v_row.user_id and n.notice = 'dunning_access_ended' and starts_with(n.dedupe_key, format('dunning:%s:', v_row.id))
        and n.sent_at >= v_row.past_due_since) then
    -- The key of the step that says so at the end of the grace, which then has nothing more to say.
    perform private.notify_billing(v_row.user_id, 'dunning_access_ended',
      private.dunning_key(v_row.id, v_row.past_due_since,
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

create function private.tell_of_returns(payment_intent_ids text[]) returns void
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
    where o.payment_intent_ids && tell_of_returns.payment_intent_ids and o.payment_intent_ids <> '{}'
      and coalesce(r.created_at, d.created_at) > now() - interval '120 days'
    order by o.id
  loop
    v_data := jsonb_build_object('payment_id', v_row.payment_id, 'description', v_row.description,
      'amount', private.money_text(v_row.amount, v_row.currency));
    if v_row.object = 'refund' then
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
  'Money that went back, disputes that were opened (a security event, too), won or lost, of the payments of these intents, within 120 days.';

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
      perform private.tell_of_returns((kept).payment_intent_ids);
  end case;
end $$;
comment on function private.tell_of_stripe_object(private.stripe_objects) is
  'Tells the owner what follows from an object, after its rows were made. What they were told once they are not told again, whoever reads it however often.';
