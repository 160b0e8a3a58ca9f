-- What users are told of their payments, how often who owes one is reminded, and how long what a paid plan held is kept.

insert into private.settings (key, value, description) values
  ('privacy.days_after_cancellation', '30', 'Days after a paid plan has ended for which what it held is kept.')
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
  perform private.notify_user(notify_billing.user_id, v_type, v_title, v_body, v_data);
  if v_notice.is_mailed and not private.setting('notifications.mail_types') ? v_type then
    insert into private.mails (user_id, subject, body) values (notify_billing.user_id, v_title, v_body);
  end if;
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
    select s.id, s.user_id, s.past_due_since, p.name as plan, d.position, d.notice
    from public.subscriptions s
      left join public.plans p on p.id = s.plan_id
      -- The latest step alone: who missed some, because nothing ran, is not told all of them at once.
      cross join lateral (
        select x.position, x.notice from private.dunning_steps x
        where s.past_due_since + make_interval(days => x.after_days) <= now()
        order by x.after_days desc, x.position desc limit 1) d
    where s.status = 'past_due' and not exists (
      select from private.billing_notices_sent n
      where n.user_id = s.user_id and n.dedupe_key = private.dunning_key(s.id, s.past_due_since, d.position))
    order by s.user_id, s.id
  loop
    begin
      if private.notify_billing(v_due.user_id, v_due.notice, private.dunning_key(v_due.id, v_due.past_due_since, v_due.position),
          jsonb_build_object('subscription_id', v_due.id, 'plan', v_due.plan,
            'date', to_char((v_due.past_due_since + make_interval(days => v_days)) at time zone 'UTC', 'YYYY-MM-DD'))) then
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
  if exists (select from private.stripe_customers) then
    return private.call_jobs_function('reconcile-stripe');
  end if;
  return null;
end $$;
comment on function private.call_reconcile_stripe() is 'Calls the comparison with Stripe when somebody ever was a customer.';
