-- Settings of billing, what can be bought to begin with, and what users are told. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('billing.grace_days', '7', 'Days after the due date of an unpaid invoice for which a past_due subscription still entitles.'),
  ('billing.pay_url', '"/billing"', 'Where people are sent to pay or to choose a plan: an absolute URL, or a path of the app.'),
  ('billing.max_attempts', '82', 'How often an event of Stripe''s is tried before it is dead and waits for retry_stripe_event: 82 times are three days.'),
  ('billing.lease_seconds', '60', 'How long a worker has to apply an event of Stripe''s before another may take it.'),
  ('billing.event_days', '90', 'Days for which events of Stripe''s are kept after they were applied; dead ones stay.'),
  ('privacy.days_after_cancellation', '30', 'Days after a paid plan has ended for which what it held is kept.')
on conflict (key) do nothing;

-- What every plan had before features were named, the deployment's own plans, too.
insert into public.plan_features (plan_id, feature)
select p.id, f.feature from public.plans p cross join (values ('portfolio_sync'), ('own_keys')) f (feature)
on conflict do nothing;

insert into private.meters (slot, meter, period, is_held, is_open_without_row) values
  (11, 'billing_requests', 'minute', false, true),
  (12, 'billing_requests', 'day', false, true)
on conflict (slot) do nothing;
insert into public.plan_limits (plan_id, meter, period, amount)
select p.id, 'billing_requests', l.period, l.amount from public.plans p cross join (values ('minute', 30), ('day', 200)) l (period, amount)
on conflict (plan_id, meter, period) do nothing;

insert into public.plan_prices (id, plan_id, interval, amount, trial_days, credits) values
  ('premium_month', 'premium', 'month', 1200, 7, 1000),
  ('premium_year', 'premium', 'year', 12000, 7, 12000)
on conflict (id) do nothing;

insert into public.credit_packs (id, name, credits, amount, expires_after_days) values
  ('credits_500', '500 credits', 500, 500, 365),
  ('credits_2500', '2,500 credits', 2500, 2000, 365)
on conflict (id) do nothing;

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

-- By the seven days of billing.grace_days; who changes those changes these.
insert into private.dunning_steps (position, after_days, notice) values
  (1, 3, 'dunning_reminder'), (2, 6, 'dunning_last_day'), (3, 7, 'dunning_access_ended')
on conflict (position) do nothing;
