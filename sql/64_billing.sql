-- Billing: what can be bought, who buys, and what Stripe says of it, as rows that their owner can read.
-- Amounts of money are in the currency's smallest unit, as Stripe has them (cents of a dollar).

insert into private.settings (key, value, rule, description) values
  ('billing.grace_days', '7', '{"type": "integer", "minimum": 0, "maximum": 365}', 'Days after the due date of an unpaid invoice for which a past_due subscription still entitles.'),
  ('billing.first_payment_required', 'true', '{"type": "boolean"}', 'true: a subscription entitles to nothing before its first invoice is paid, or a trial began; false: as soon as Stripe says active, also while a bank debit is on its way.'),
  ('billing.pay_url', '"/billing"', '{"type": "string", "pattern": "^(https?://[^ ]+|/[^ ]*)$"}', 'Where people are sent to pay or to choose a plan: an absolute URL, or a path of the app.')
on conflict (key) do nothing;

-- What can be bought ---------------------------------------------------------------------------------------------------

create table public.plan_prices (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  plan_id text not null references public.plans (id) on delete restrict,
  interval text not null check (interval in ('month', 'year')),
  amount bigint not null check (amount >= 0),
  currency text not null default 'usd' check (currency ~ '^[a-z]{3}$'),
  trial_days integer not null default 0 check (trial_days between 0 and 730),
  credits bigint not null default 0 check (credits >= 0),
  credits_expire boolean not null default true,
  enabled boolean not null default true,
  created_at timestamptz not null default now()
);
comment on table public.plan_prices is 'What a plan costs, by our own ids: clients name these, never an id of Stripe''s. A new amount is a new row: subscriptions keep theirs.';
comment on column public.plan_prices.amount is 'For one interval, in the currency''s smallest unit.';
comment on column public.plan_prices.trial_days is 'Days before the first payment, for users who never had a trial; 0: none.';
comment on column public.plan_prices.credits is 'Granted for every period that is paid.';
comment on column public.plan_prices.credits_expire is 'True: with the end of the period they were paid for; false: never.';
create index plan_prices_plan_id_idx on public.plan_prices (plan_id);
alter table public.plan_prices enable row level security;
alter table public.plan_prices force row level security;
revoke all on public.plan_prices from anon, authenticated, service_role;
grant select on public.plan_prices to authenticated;
grant select, insert, update, delete on public.plan_prices to service_role;
insert into public.plan_prices (id, plan_id, interval, amount, trial_days, credits) values
  ('premium_month', 'premium', 'month', 1200, 7, 1000),
  ('premium_year', 'premium', 'year', 12000, 7, 12000)
on conflict (id) do nothing;

create table public.credit_packs (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  name text not null check (length(name) between 1 and 80),
  credits bigint not null check (credits > 0),
  amount bigint not null check (amount > 0),
  currency text not null default 'usd' check (currency ~ '^[a-z]{3}$'),
  expires_after_days integer check (expires_after_days > 0),
  enabled boolean not null default true,
  created_at timestamptz not null default now()
);
comment on table public.credit_packs is 'Credits that are bought once, by our own ids.';
comment on column public.credit_packs.expires_after_days is 'Days after the payment; null: never.';
alter table public.credit_packs enable row level security;
alter table public.credit_packs force row level security;
revoke all on public.credit_packs from anon, authenticated, service_role;
grant select on public.credit_packs to authenticated;
grant select, insert, update, delete on public.credit_packs to service_role;
insert into public.credit_packs (id, name, credits, amount, expires_after_days) values
  ('credits_500', '500 credits', 500, 500, 365),
  ('credits_2500', '2,500 credits', 2500, 2000, 365)
on conflict (id) do nothing;

create table private.stripe_prices (
  id text primary key check (length(id) between 1 and 255),
  plan_price_id text references public.plan_prices (id) on delete restrict,
  credit_pack_id text references public.credit_packs (id) on delete restrict,
  product_id text not null check (length(product_id) between 1 and 255),
  livemode boolean not null,
  is_current boolean not null default true,
  created_at timestamptz not null default now(),
  check (num_nonnulls(plan_price_id, credit_pack_id) = 1)
);
comment on table private.stripe_prices is 'Stripe''s prices of what can be bought, written by npm run stripe:sync. Older ones stay: subscriptions refer to them.';
create unique index stripe_prices_plan_price_id_idx on private.stripe_prices (plan_price_id, livemode) where is_current;
create unique index stripe_prices_credit_pack_id_idx on private.stripe_prices (credit_pack_id, livemode) where is_current;
revoke all on private.stripe_prices from anon, authenticated, service_role;

-- Who buys -------------------------------------------------------------------------------------------------------------

create table private.stripe_customers (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  livemode boolean not null,
  deleted_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table private.stripe_customers is 'Whose customer at Stripe is whose here: one at a time for a user. Linked by the metadata that we wrote, never by an e-mail address.';
comment on column private.stripe_customers.deleted_at is 'When Stripe said that the customer is gone; the next purchase makes another.';
create unique index stripe_customers_user_id_idx on private.stripe_customers (user_id, livemode) where deleted_at is null;
create index stripe_customers_all_user_id_idx on private.stripe_customers (user_id);
revoke all on private.stripe_customers from anon, authenticated, service_role;

create table private.checkouts (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  plan_price_id text references public.plan_prices (id) on delete cascade,
  credit_pack_id text references public.credit_packs (id) on delete cascade,
  stripe_price_id text not null references private.stripe_prices (id) on delete cascade,
  trial_days integer not null check (trial_days >= 0),
  livemode boolean not null,
  session_id text unique check (length(session_id) between 1 and 255),
  url text check (length(url) <= 4000),
  return_urls jsonb not null default '{}',
  expires_at timestamptz not null,
  closed_at timestamptz,
  failed boolean not null default false,
  created_at timestamptz not null default now(),
  check (num_nonnulls(plan_price_id, credit_pack_id) = 1)
);
comment on table private.checkouts is 'Checkouts that were started. A user has one open checkout of a plan at a time: that is what makes a trial one trial.';
comment on column private.checkouts.id is 'Also the idempotency key at Stripe: who asks twice gets one session.';
comment on column private.checkouts.closed_at is 'When it was completed, had expired, failed, or was given up for another.';
comment on column private.checkouts.failed is 'Stripe answered an error, which it repeats for a day to whoever comes with the same key.';
create index checkouts_user_id_idx on private.checkouts (user_id, created_at desc);
create index checkouts_plan_price_id_idx on private.checkouts (plan_price_id);
create index checkouts_credit_pack_id_idx on private.checkouts (credit_pack_id);
create index checkouts_stripe_price_id_idx on private.checkouts (stripe_price_id);
revoke all on private.checkouts from anon, authenticated, service_role;

-- What Stripe says -----------------------------------------------------------------------------------------------------

create table public.subscriptions (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  plan_id text references public.plans (id) on delete restrict,
  plan_price_id text references public.plan_prices (id) on delete restrict,
  status text not null check (length(status) between 1 and 40),
  quantity bigint not null default 1 check (quantity >= 0),
  current_period_start timestamptz,
  current_period_end timestamptz,
  trial_start timestamptz,
  trial_end timestamptz,
  cancel_at timestamptz,
  cancel_at_period_end boolean not null default false,
  canceled_at timestamptz,
  ended_at timestamptz,
  past_due_since timestamptz,
  is_returned boolean not null default false,
  is_collection_paused boolean not null default false,
  started_at timestamptz not null,
  updated_at timestamptz not null default now(),
  is_begun boolean not null default true,
  is_unfinalized boolean not null default false
);
comment on table public.subscriptions is 'The caller''s subscriptions as Stripe has them. Written by functions only; what they entitle to is said by get_my_entitlement.';
comment on column public.subscriptions.id is 'Stripe''s id.';
comment on column public.subscriptions.plan_id is 'The best plan among its items, of those first whose money did not go back; null: none of its prices is known here.';
comment on column public.subscriptions.status is 'Stripe''s word: trialing, active, past_due, unpaid, paused, canceled, incomplete, incomplete_expired, or a newer one.';
comment on column public.subscriptions.current_period_end is 'The latest end among its items that carry a plan.';
comment on column public.subscriptions.past_due_since is 'When the oldest unpaid invoice since the last paid one was due; grace counts from here, or from the end of what is paid. Null unless past_due, unpaid or is_unfinalized.';
comment on column public.subscriptions.is_returned is
  'The payment of its current period, or of the last one while the current one is still to be paid, went back, whole: by refunds that did not fail, by disputes that are open or lost. It entitles to nothing.';
comment on column public.subscriptions.is_collection_paused is
  'Its invoices are not collected for now: it entitles until the end of the current period, and no longer.';
comment on column public.subscriptions.is_begun is
  'False: its first invoice is there and is not paid, nor was there a trial. See billing.first_payment_required.';
comment on column public.subscriptions.is_unfinalized is
  'The invoice of its current period is a draft that Stripe cannot make final: it is active there, and nobody is asked to pay. Counts as past due.';
create index subscriptions_user_id_idx on public.subscriptions (user_id);
create index subscriptions_past_due_since_idx on public.subscriptions (past_due_since) where status = 'past_due';
create index subscriptions_plan_id_idx on public.subscriptions (plan_id);
create index subscriptions_plan_price_id_idx on public.subscriptions (plan_price_id);
alter table public.subscriptions enable row level security;
alter table public.subscriptions force row level security;
revoke all on public.subscriptions from anon, authenticated, service_role;
grant select on public.subscriptions to authenticated, service_role;

create table public.payments (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('subscription', 'credit_pack')),
  status text not null check (status in ('open', 'processing', 'paid', 'failed', 'void')),
  description text not null check (length(description) between 1 and 200),
  amount bigint not null,
  amount_refunded bigint not null default 0 check (amount_refunded >= 0),
  amount_disputed bigint not null default 0 check (amount_disputed >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  credits bigint not null default 0 check (credits >= 0),
  credits_clawed_back bigint not null default 0 check (credits_clawed_back >= 0),
  subscription_id text check (length(subscription_id) <= 255),
  payment_intent_id text check (length(payment_intent_id) <= 255),
  pay_url text check (length(pay_url) <= 4000),
  next_attempt_at timestamptz,
  paid_at timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.payments is 'What the caller was asked to pay and what became of it: one row for each invoice of a subscription and for each checkout of a credit pack.';
comment on column public.payments.id is 'Stripe''s id of the invoice or of the checkout session.';
comment on column public.payments.credits is 'Credits that the payment brought.';
comment on column public.payments.credits_clawed_back is 'Credits that refunds and disputes took back, in proportion to the money.';
comment on column public.payments.pay_url is 'Where an open invoice can be paid, 3-D Secure included.';
create index payments_user_id_created_at_idx on public.payments (user_id, created_at desc);
create index payments_payment_intent_id_idx on public.payments (payment_intent_id);
create index payments_subscription_id_idx on public.payments (subscription_id);
alter table public.payments enable row level security;
alter table public.payments force row level security;
revoke all on public.payments from anon, authenticated, service_role;
grant select on public.payments to authenticated, service_role;

create table public.refunds (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  payment_id text not null references public.payments (id) on delete cascade,
  amount bigint not null check (amount >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  status text not null check (length(status) between 1 and 40),
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.refunds is 'Money that went back to the caller. status is Stripe''s: pending, requires_action, succeeded, failed, canceled.';
create index refunds_user_id_idx on public.refunds (user_id);
create index refunds_payment_id_idx on public.refunds (payment_id);
alter table public.refunds enable row level security;
alter table public.refunds force row level security;
revoke all on public.refunds from anon, authenticated, service_role;
grant select on public.refunds to authenticated, service_role;

create table public.disputes (
  id text primary key check (length(id) between 1 and 255),
  user_id uuid not null references auth.users (id) on delete cascade,
  payment_id text not null references public.payments (id) on delete cascade,
  amount bigint not null check (amount >= 0),
  currency text not null check (currency ~ '^[a-z]{3}$'),
  status text not null check (length(status) between 1 and 40),
  reason text check (length(reason) <= 80),
  created_at timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table public.disputes is 'Payments that the caller''s bank disputes. Their credits are gone while it lasts, and back when it is won.';
create index disputes_user_id_idx on public.disputes (user_id);
create index disputes_payment_id_idx on public.disputes (payment_id);
alter table public.disputes enable row level security;
alter table public.disputes force row level security;
revoke all on public.disputes from anon, authenticated, service_role;
grant select on public.disputes to authenticated, service_role;

create table private.paid_periods (
  payment_id text not null references public.payments (id) on delete cascade,
  line_id text not null check (length(line_id) between 1 and 255),
  subscription_id text not null check (length(subscription_id) between 1 and 255),
  plan_id text not null references public.plans (id) on delete cascade,
  plan_price_id text not null references public.plan_prices (id) on delete cascade,
  starts_at timestamptz not null,
  ends_at timestamptz not null check (ends_at > starts_at),
  is_proration boolean not null,
  is_credit boolean not null,
  is_returned boolean not null,
  primary key (payment_id, line_id)
);
comment on table private.paid_periods is 'The lines of paid invoices that are a plan''s: which plan was paid for which time. Whether by card, balance, coupon or outside of Stripe makes no difference.';
comment on column private.paid_periods.is_proration is 'Of a change in mid-period.';
comment on column private.paid_periods.is_credit is 'Unused time that was given back: what was paid for it ends with its beginning.';
comment on column private.paid_periods.is_returned is 'All the money that it cost is back with the customer.';
create index paid_periods_subscription_id_idx on private.paid_periods (subscription_id);
create index paid_periods_plan_id_idx on private.paid_periods (plan_id);
create index paid_periods_plan_price_id_idx on private.paid_periods (plan_price_id);
revoke all on private.paid_periods from anon, authenticated, service_role;

-- What it entitles to --------------------------------------------------------------------------------------------------

create function private.has_base(paid private.paid_periods, is_kept boolean default false) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return exists (
    select from private.paid_periods b
    where b.subscription_id = (paid).subscription_id and not b.is_proration and not b.is_credit
      and b.starts_at < (paid).ends_at and b.ends_at > (paid).starts_at and not (has_base.is_kept and b.is_returned));
end $$;
comment on function private.has_base(private.paid_periods, boolean) is
  'Whether a change in mid-period is of a period that was paid for, is_kept: and whose money did not go back; the piece of a period before the first whole one stands by itself.';

create function private.paid_spans(subscription_id text) returns table (plan_id text, "position" integer, starts_at timestamptz, ends_at timestamptz)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return query
    select r.plan_id, p.position, r.starts_at, least(r.ends_at, c.starts_at)
    from private.paid_periods r
      join public.plans p on p.id = r.plan_id
      -- What came back as unused time by a later invoice.
      cross join lateral (
        select min(u.starts_at) as starts_at from private.paid_periods u
        where u.subscription_id = r.subscription_id and u.plan_price_id = r.plan_price_id and u.is_credit and not u.is_returned
          and u.payment_id <> r.payment_id and u.starts_at >= r.starts_at and u.starts_at < r.ends_at) c
    where r.subscription_id = paid_spans.subscription_id and not r.is_credit and not r.is_returned
      and (not r.is_proration or not private.has_base(r) or private.has_base(r, is_kept => true))
      and r.starts_at < coalesce(c.starts_at, 'infinity');
end $$;
comment on function private.paid_spans(text) is
  'Which plans are paid for in which times, by a subscription''s lines that were paid and whose money did not go back.';

create function private.grace_starts_at(subscription public.subscriptions) returns timestamptz
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_due_at timestamptz := coalesce((subscription).past_due_since, (subscription).current_period_start, (subscription).started_at);
begin
  -- A declined upgrade or seat takes nothing of what is paid for: grace is for what comes after it.
  return coalesce((
    select max(p.ends_at) from private.paid_spans((subscription).id) p where p.starts_at <= v_due_at and p.ends_at > v_due_at), v_due_at);
end $$;
comment on function private.grace_starts_at(public.subscriptions) is
  'When the days of grace of what is owed begin: when it was due, or with the end of what is paid for at that time.';

create function private.subscription_claims(user_id uuid)
returns table (
  subscription_id text, started_at timestamptz, "position" integer, state text, plan_id text, starts_at timestamptz, ends_at timestamptz,
  valid_until timestamptz, grace_until timestamptz)
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- plpgsql, because it keeps the plan, which costs more to make than to run.
  return query
  with known as materialized (
    select s.id, s.status, p.id as plan_id, p.position, s.started_at, s.current_period_start, s.is_returned, s.is_unfinalized, s.is_collection_paused, b.is_begun, o.is_in_order,
      l.plan_id as last_plan_id, l.position as last_position, s.past_due_since, t.period_ends_at, greatest(t.period_ends_at, t.slack_ends_at) as slack_ends_at,
      c.cancels_at, case when c.cancels_at is null then s.status else 'canceling' end as paid_state, o.owes, g.days
    from public.subscriptions s
      -- None at a price that has no meaning here, as after a change in the dashboard, or of quantity 0: what was paid before counts all the same.
      left join public.plans p on p.id = s.plan_id and s.quantity > 0
      cross join (
        select make_interval(days => (private.setting('billing.grace_days'))::integer) as days,
          (private.setting('billing.first_payment_required'))::boolean as needs_payment) g
      cross join lateral (select s.is_begun or not g.needs_payment as is_begun) b
      cross join lateral (
        select s.status in ('trialing', 'active') and b.is_begun and not s.is_returned and not s.is_unfinalized
            and p.id is not null as is_in_order,
          s.status = 'past_due' or s.status in ('trialing', 'active') and s.is_unfinalized as owes) o
      cross join lateral (
        select coalesce(case when s.status = 'trialing' then s.trial_end end, s.current_period_end, 'infinity') as ends_at) e
      -- Who owes something has what is paid otherwise, and then the plan that was paid last for the days of grace.
      left join lateral (
        select x.plan_id, x.position from private.paid_spans(s.id) x
        where not o.is_in_order and x.starts_at <= coalesce(s.past_due_since, 'infinity')
        order by x.ends_at desc, x.position desc limit 1) l on true
      -- The end of what is paid, and how long we wait for what comes after it.
      cross join lateral (
        select case when o.is_in_order then e.ends_at else coalesce((
            select max(x.ends_at) from private.paid_spans(s.id) x
            where x.starts_at <= coalesce(s.past_due_since, 'infinity') and x.ends_at > coalesce(s.current_period_start, '-infinity')),
            '-infinity') end as period_ends_at,
          case when o.is_in_order or o.owes and b.is_begun and not s.is_returned then
            case when s.is_collection_paused then interval '0' else g.days end
              + case when o.is_in_order then e.ends_at else private.grace_starts_at(s) end end as slack_ends_at) t
      cross join lateral (
        select least(s.cancel_at, case when s.cancel_at_period_end then e.ends_at end) as cancels_at) c
    where s.user_id = subscription_claims.user_id
      and (s.plan_id is not null or exists (select from private.paid_periods x where x.subscription_id = s.id))
  )
  select k.id, k.started_at, k.position, k.paid_state, k.plan_id, '-infinity', least(k.period_ends_at, k.cancels_at),
    least(k.slack_ends_at, k.cancels_at), null
  from known k where k.is_in_order
  union all
  -- The first from ever on, as all claims are: Stripe's clock may be ahead of ours.
  select k.id, k.started_at, x.position, n.state, x.plan_id,
    case when x.starts_at > min(x.starts_at) over (partition by k.id) then x.starts_at else '-infinity' end, least(x.ends_at, k.cancels_at),
    least(k.slack_ends_at, k.cancels_at), case when n.state = 'past_due' then least(k.slack_ends_at, k.cancels_at) end
  from known k cross join lateral private.paid_spans(k.id) x
    cross join lateral (
      select case when k.owes or k.status = 'unpaid' then 'past_due' when k.status = 'paused' then 'paused' else k.paid_state end as state) n
  where k.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused') and not k.is_in_order
    and x.starts_at < least(x.ends_at, k.cancels_at)
    -- Nothing is paid for what comes after a debt; and what ended before Stripe's present period is over, whatever our clock says.
    and x.starts_at <= coalesce(k.past_due_since, 'infinity') and x.ends_at > coalesce(k.current_period_start, '-infinity')
  union all
  select k.id, k.started_at, coalesce(k.last_position, k.position), case when k.owes then 'past_due' else k.paid_state end,
    coalesce(k.last_plan_id, k.plan_id), k.period_ends_at,
    least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at), least(k.slack_ends_at, k.cancels_at)
  from known k
  where (k.is_in_order or k.owes) and k.period_ends_at < least(k.slack_ends_at, k.cancels_at) and coalesce(k.last_plan_id, k.plan_id) is not null
  union all
  -- Of two plans of different intervals the one that is owed has its days, too, though the other is paid for longer.
  select k.id, k.started_at, x.position, 'past_due', x.plan_id, x.ends_at, g.ends_at, g.ends_at, g.ends_at
  from known k cross join lateral private.paid_spans(k.id) x
    cross join lateral (select least(k.past_due_since + k.days, k.cancels_at) as ends_at) g
  where k.owes and k.is_begun and not k.is_returned and not k.is_collection_paused and x.position > k.last_position
    and x.ends_at > k.past_due_since - interval '1 day' and x.ends_at <= k.past_due_since and x.ends_at < g.ends_at
  union all
  select k.id, k.started_at, k.position, case
      when k.status in ('trialing', 'active', 'past_due') and not k.is_begun then 'incomplete'
      when k.status in ('trialing', 'active', 'past_due') and k.is_returned then 'unpaid'
      when k.status in ('trialing', 'active', 'past_due') and k.cancels_at <= k.slack_ends_at then 'canceled'
      when k.status in ('trialing', 'active') and k.is_collection_paused then 'paused'
      when k.status in ('trialing', 'active') and k.is_unfinalized then 'unpaid'
      when k.status in ('trialing', 'active') then 'expired'
      else k.status
    end, null, '-infinity', 'infinity', null, null
  from known k where k.status in ('trialing', 'active', 'past_due', 'paused', 'unpaid', 'canceled', 'incomplete');
end $$;
comment on function private.subscription_claims(uuid) is
  'What each of a user''s subscriptions claims in which time. While Stripe has it in order, at a price that is known and a quantity of at least one, its plan, and for billing.grace_days more while Stripe has not said what came after the period (no days while it is not collected). Otherwise what is paid for and did not go back (private.paid_spans), then, while an invoice of it is owed, the plan that was paid last for the days of grace, and one whose own period ended with the debt, too; nothing before a first payment. And no plan (null) ever after. Depends on rows only, not on the time it is asked.';

create function private.refresh_entitlement(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Who is being erased at this moment is gone before anything of theirs is touched.
  perform from auth.users u where u.id = refresh_entitlement.user_id for key share;
  if not found then
    return;
  end if;
  -- Shared by all, but for tg__refresh_entitlements: a setting or a plan that changes meanwhile is seen here, or sees this.
  perform pg_advisory_xact_lock_shared(hashtextextended('private.entitlements', 0));
  -- Two who refresh at once: the second sees what the first has seen, and more.
  perform pg_advisory_xact_lock(hashtextextended('entitlement:' || refresh_entitlement.user_id, 0));
  delete from private.entitlements e where e.user_id = refresh_entitlement.user_id;
  with claims as materialized (
    select c.* from private.subscription_claims(refresh_entitlement.user_id) c
  ), times as (
    select c.starts_at as at from claims c union select c.ends_at from claims c
  ), spans as (
    select t.at as starts_at, lead(t.at) over (order by t.at) as ends_at from times t
  )
  insert into private.entitlements (user_id, starts_at, ends_at, plan_id, outranks, state, subscription_id, valid_until, grace_until)
  select refresh_entitlement.user_id, s.starts_at, s.ends_at, b.plan_id, private.plans_outranked_by(b.plan_id), b.state, b.subscription_id, b.valid_until, b.grace_until
  from spans s
    cross join lateral (
      select c.* from claims c where c.starts_at <= s.starts_at and c.ends_at >= s.ends_at
      order by c.plan_id is null, case when c.plan_id is not null then c.position end desc,
        c.state in ('past_due', 'unpaid', 'paused', 'incomplete') and c.plan_id is null desc, c.valid_until desc, c.started_at desc, c.subscription_id
      limit 1) b
  where s.ends_at is not null;
  perform private.keep_retention_clock(refresh_entitlement.user_id);
end $$;
comment on function private.refresh_entitlement(uuid) is
  'Writes private.entitlements of one user anew from public.subscriptions: at any time the best plan that is paid for then. To be called by whoever changed a subscription, in the same transaction.';

create function private.tg__refresh_entitlements() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: entitlements are private.
begin
  if tg_op = 'INSERT' then
    -- Nobody has subscribed to a new plan yet, and nobody's limits change with it.
    perform pg_advisory_xact_lock(hashtextextended('private.entitlements', 0));
    update private.entitlements e set outranks = private.plans_outranked_by(e.plan_id) where e.plan_id is not null;
    return null;
  end if;
  -- Users and accounts first, in the order in which whoever applies what Stripe says, or erases somebody, has them: limits follow what is
  -- written here.
  perform from auth.users u where u.id in (select e.user_id from private.entitlements e) order by u.id for key share;
  perform from private.accounts a where a.user_id in (select e.user_id from private.entitlements e) order by a.user_id for no key update;
  perform pg_advisory_xact_lock(hashtextextended('private.entitlements', 0));
  perform private.refresh_entitlement(u.user_id)
  from (
    select distinct s.user_id from public.subscriptions s where s.status in ('trialing', 'active', 'past_due') order by 1) u;
  return null;
end $$;
comment on function private.tg__refresh_entitlements() is
  'The days of grace, whether a first payment is needed and the order of plans are part of what is written in private.entitlements.';
create trigger tg_settings__entitlements after update on private.settings
  for each row when (new.key in ('billing.grace_days', 'billing.first_payment_required') and new.value <> old.value) execute function private.tg__refresh_entitlements();
create trigger tg_plans__entitlements after insert or update of position on public.plans
  for each statement execute function private.tg__refresh_entitlements();

create function private.pay_url(user_id uuid) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return coalesce(
    (select p.pay_url from public.payments p join public.subscriptions s on s.id = p.subscription_id
    where p.user_id = pay_url.user_id and p.status = 'open' and p.pay_url is not null
      -- Stripe leaves invoices open when their subscription has ended: who pays one gets nothing for it.
      and s.status not in ('canceled', 'incomplete_expired')
    order by p.created_at limit 1),
    private.setting('billing.pay_url') #>> '{}');
end $$;
comment on function private.pay_url(uuid) is
  'Where a user pays: the page of the oldest open invoice of a subscription that has not ended, or billing.pay_url. Nobody but functions of ours may call it; they pass an id they have checked.';

create function private.my_entitlement(
  out plan_id text, out state text, out is_paid boolean, out subscription_id text, out current_period_end timestamptz,
  out grace_until timestamptz, out cancel_at timestamptz, out trial_end timestamptz, out pay_url text
)
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: entitlements are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  select e.plan_id, e.state, e.is_paid, e.subscription_id, s.current_period_end, e.grace_until,
    least(s.cancel_at, case when s.cancel_at_period_end then s.current_period_end end), s.trial_end, private.pay_url(v_user_id)
  into plan_id, state, is_paid, subscription_id, current_period_end, grace_until, cancel_at, trial_end, pay_url
  from private.entitlement(v_user_id) e left join public.subscriptions s on s.id = e.subscription_id;
end $$;
comment on function private.my_entitlement() is 'Behind public.get_my_entitlement.';
grant execute on function private.my_entitlement() to authenticated;

create function public.get_my_entitlement(
  out plan_id text, out state text, out is_paid boolean, out subscription_id text, out current_period_end timestamptz,
  out grace_until timestamptz, out cancel_at timestamptz, out trial_end timestamptz, out pay_url text
)
language sql stable security invoker set search_path = ''
as $$ select * from private.my_entitlement() $$;
comment on function public.get_my_entitlement() is
  'What the caller may use now: the plan that counts, the state of the subscription, and whether that pays for the plan. pay_url is where to pay or to choose a plan.';
grant execute on function public.get_my_entitlement() to authenticated;

-- Checkout and portal ------------------------------------------------------------------------------------------------
-- What functions/billing may ask Stripe for is decided here. Clients name our items and nothing else.

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

create function private.refuse_second_subscription(user_id uuid) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_status text := private.plan_subscription_status(refuse_second_subscription.user_id);
begin
  if v_status = 'paused' then
    perform private.raise_error('already_subscribed', 'You have a subscription already, and it is paused. POST /billing/resume goes on with it.',
      private.setting('billing.pay_url') #>> '{}');
  elsif v_status is not null then
    perform private.raise_error('already_subscribed', 'You have a subscription already.', 'Change or pay it in the billing portal.');
  end if;
end $$;
comment on function private.refuse_second_subscription(uuid) is 'Raises already_subscribed for a user who has a subscription of a plan that has not ended.';

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
  -- With the page, and not with the subscription: two accounts of a mailbox may have their pages open at once.
  if v_wanted.trial_days > 0 and not private.claim_for_mailbox(
    prepare_checkout.user_id, 'trial', (private.setting('billing.trials_per_mailbox'))::integer) then
    v_wanted.trial_days := 0;
  end if;
  v_wanted.livemode := prepare_checkout.livemode;
  v_wanted.return_urls := coalesce(prepare_checkout.return_urls, '{}');
  if v_price.plan_price_id is not null then
    perform private.refuse_second_subscription(prepare_checkout.user_id);
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
