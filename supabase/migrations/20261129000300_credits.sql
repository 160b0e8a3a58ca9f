-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/30_credits.sql ==================================================================================================

-- Credits: an append-only ledger, a balance per account that always equals its sum, and lots that expire.

insert into private.settings (key, value, rule, description) values
  ('credits.on_sign_up', '100', '{"type": "integer", "minimum": 0, "maximum": 1000000000}', 'Credits that a new account gets when its address is confirmed.'),
  ('credits.on_anonymous_sign_up', '0', '{"type": "integer", "minimum": 0, "maximum": 1000000000}', 'Credits that an anonymous user starts with.')
on conflict (key) do nothing;

create table private.credit_bookings (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  amount bigint not null,
  kind text not null,
  reason text not null,
  idempotency_key text not null,
  balance_after bigint not null,
  created_at timestamptz not null default now(),
  unique (user_id, idempotency_key),
  constraint credit_bookings_check check (
    amount <> 0 and length(reason) between 1 and 200 and length(idempotency_key) between 1 and 255
    and kind in ('sign_up', 'grant', 'refund', 'deduction', 'ai_call', 'expiry', 'clawback')
    and (balance_after >= 0 or kind in ('grant', 'refund', 'ai_call', 'clawback')))
);
comment on table private.credit_bookings is
  'Every change of a balance that is not an AI call, never changed or removed; the calls are in ai_calls, and both together are public.credit_entries. Not partitioned: the balance is their sum, so no part may go.';
comment on column private.credit_bookings.amount is 'Credits; positive adds, negative takes.';
comment on column private.credit_bookings.idempotency_key is 'The same key for the same user is the same entry: a repeated request changes nothing.';
create index credit_bookings_user_id_created_at_idx on private.credit_bookings (user_id, created_at desc);
alter table private.credit_bookings enable row level security;
alter table private.credit_bookings force row level security;
revoke all on private.credit_bookings from anon, authenticated, service_role;
-- For the view public.credit_entries, which asks with its reader's rights.
grant select on private.credit_bookings to authenticated, service_role;
create trigger tg_credit_bookings__append_only before update or delete on private.credit_bookings
  for each row execute function private.tg__append_only();
create trigger tg_credit_bookings__no_truncate before truncate on private.credit_bookings
  for each statement execute function private.tg__append_only();

create table private.credit_lots (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('promotional', 'monthly', 'purchased')),
  amount bigint not null check (amount > 0),
  remaining bigint not null,
  expired bigint not null default 0 check (expired >= 0),
  expires_at timestamptz not null default 'infinity',
  check (remaining between 0 and amount)
);
comment on table private.credit_lots is
  'Credits as they were granted. They burn in this order: what expires first, then promotional, monthly, purchased, then the older. The balance is what remains of all lots, less accounts.unburned.';
comment on column private.credit_lots.remaining is 'Without what accounts.unburned will take: burning is written down only when it makes a difference.';
comment on column private.credit_lots.id is 'Also the id of the ledger''s entry that granted it, for lots of add_credit_entry.';
comment on column private.credit_lots.expired is 'How much of it nobody used in time: what a refund takes back of it has gone already.';
create index credit_lots_user_id_idx on private.credit_lots (user_id);
revoke all on private.credit_lots from anon, authenticated, service_role;

create function private.open_lots(user_id uuid) returns setof private.credit_lots
language sql stable security invoker set search_path = ''
as $$
  select l.* from private.credit_lots l
  where l.user_id = open_lots.user_id and l.remaining > 0
  order by l.expires_at, array_position(array['promotional', 'monthly', 'purchased'], l.kind), l.id
$$;
comment on function private.open_lots(uuid) is 'The lots of an account that have credits left, in the order in which they burn.';

create function private.burn_credits(account private.accounts) returns private.accounts
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_lot private.credit_lots;
  v_part bigint;
begin
  if account.unburned = 0 then
    return account;
  end if;
  for v_lot in select l.* from private.open_lots(account.user_id) l loop
    v_part := least(v_lot.remaining, account.unburned);
    update private.credit_lots l set remaining = l.remaining - v_part where l.id = v_lot.id;
    account.unburned := account.unburned - v_part;
    exit when account.unburned = 0;
  end loop;
  update private.accounts a set unburned = account.unburned where a.user_id = account.user_id;
  return account;
end $$;
comment on function private.burn_credits(private.accounts) is
  'Takes what was spent from the lots. Spending only adds to unburned; the order of the lots is fixed until one is added or expires, so it is enough to burn before that. What no lot covers, after a clawback, waits for the next one. The caller holds the account''s lock.';

create function private.burn_lots_of(user_id uuid, keys text[], amount bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_lot private.credit_lots;
  v_part bigint;
  v_left bigint := amount;
begin
  for v_lot in
    select l.* from private.open_lots(burn_lots_of.user_id) l
    where l.id in (
      select e.id from private.credit_bookings e where e.user_id = burn_lots_of.user_id and e.idempotency_key = any (burn_lots_of.keys))
    order by l.expires_at, l.id
  loop
    v_part := least(v_lot.remaining, v_left);
    update private.credit_lots l set remaining = l.remaining - v_part where l.id = v_lot.id;
    v_left := v_left - v_part;
    exit when v_left = 0;
  end loop;
  update private.accounts a set unburned = a.unburned - (burn_lots_of.amount - v_left) where a.user_id = burn_lots_of.user_id;
end $$;
comment on function private.burn_lots_of(uuid, text[], bigint) is
  'Takes so many of the unburned credits from the lots that the entries of these keys granted, as far as something remains of them; the rest stays unburned. What was spent before is burned already: a payment that goes back takes its own credits, and not those that expire first. The caller holds the account''s lock.';

create function private.expire_credits(account private.accounts) returns private.accounts
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_lot private.credit_lots;
  v_part bigint;
begin
  account := private.burn_credits(account);
  account.next_expiry_at := 'infinity';
  for v_lot in select l.* from private.open_lots(account.user_id) l where l.expires_at < 'infinity' loop
    if v_lot.expires_at > now() then
      account.next_expiry_at := least(account.next_expiry_at, v_lot.expires_at);
      exit;
    end if;
    -- What open calls hold does not expire under them; what they do not use does, soon after.
    v_part := least(v_lot.remaining, greatest(account.balance - account.held, 0));
    if v_part < v_lot.remaining then
      account.next_expiry_at := least(account.next_expiry_at, now() + interval '1 minute');
    end if;
    continue when v_part = 0;
    update private.credit_lots l set remaining = l.remaining - v_part, expired = l.expired + v_part where l.id = v_lot.id;
    account.balance := account.balance - v_part;
    insert into private.credit_bookings (user_id, amount, kind, reason, idempotency_key, balance_after, created_at)
    values (account.user_id, -v_part, 'expiry', format('%s credits expired', v_lot.kind),
      format('expiry:%s:%s', v_lot.id, v_lot.remaining), account.balance, clock_timestamp());
  end loop;
  update private.accounts a set balance = account.balance, next_expiry_at = account.next_expiry_at
  where a.user_id = account.user_id;
  return account;
end $$;
comment on function private.expire_credits(private.accounts) is
  'Takes back what has expired and nobody holds, with an entry for each lot. lock_account runs it when it is due; so does a job, for accounts that nobody uses.';

create function private.expire_due_credits(batch_size integer default 500) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_done integer := 0;
begin
  for v_user_id in
    select a.user_id from private.accounts a where a.next_expiry_at <= now()
    order by a.user_id limit batch_size
  loop
    perform private.lock_account(v_user_id);
    v_done := v_done + 1;
  end loop;
  return v_done;
end $$;
comment on function private.expire_due_credits(integer) is 'Expires the credits of accounts that nobody uses, so that their ledgers say it, too. A job runs it. Answers how many accounts it looked at.';

create function private.add_credit_entry(
  user_id uuid, amount bigint, kind text, reason text, idempotency_key text, lot_kind text default 'promotional',
  expires_at timestamptz default null
) returns private.credit_bookings
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account private.accounts := private.lock_account(add_credit_entry.user_id);
  v_entry private.credit_bookings;
  v_id uuid := private.uuid_v7();
begin
  if v_account.user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  select e.* into v_entry from private.credit_bookings e
  where e.user_id = add_credit_entry.user_id and e.idempotency_key = add_credit_entry.idempotency_key;
  if found then
    if v_entry.amount <> add_credit_entry.amount or v_entry.kind <> add_credit_entry.kind then
      perform private.raise_error('idempotency_key_reused', 'This idempotency key was used for another credit entry.');
    end if;
    return v_entry;
  end if;
  if amount < 0 and kind <> 'clawback' and v_account.balance - v_account.held + amount < 0 then
    perform private.raise_error('insufficient_credits',
      format('%s credits are needed, %s are free.', -amount, greatest(v_account.balance - v_account.held, 0)));
  end if;
  if amount > 0 then
    -- What was spent before came from the lots of before.
    v_account := private.burn_credits(v_account);
    insert into private.credit_lots (id, user_id, kind, amount, remaining, expires_at)
    values (v_id, add_credit_entry.user_id, lot_kind, add_credit_entry.amount, add_credit_entry.amount,
      coalesce(add_credit_entry.expires_at, 'infinity'));
  end if;
  update private.accounts a set
    balance = a.balance + add_credit_entry.amount,
    unburned = a.unburned + greatest(-add_credit_entry.amount, 0),
    clawed_back = a.clawed_back + case when kind = 'clawback' then -add_credit_entry.amount else 0 end,
    next_expiry_at = least(a.next_expiry_at, add_credit_entry.expires_at)
  where a.user_id = add_credit_entry.user_id;
  -- The moment under the account's lock, and not that of the transaction's beginning: so entries and calls are in their order.
  insert into private.credit_bookings (id, user_id, amount, kind, reason, idempotency_key, balance_after, created_at)
  values (
    v_id, add_credit_entry.user_id, add_credit_entry.amount, add_credit_entry.kind, add_credit_entry.reason,
    add_credit_entry.idempotency_key, v_account.balance + add_credit_entry.amount, clock_timestamp())
  returning * into v_entry;
  return v_entry;
end $$;
comment on function private.add_credit_entry(uuid, bigint, text, text, text, text, timestamptz) is
  'One entry and its balance in one transaction; what is added is a lot of its own. Raises insufficient_credits, idempotency_key_reused, not_found. A clawback takes also what is not there.';

create function private.change_credits(
  user_id uuid, amount bigint, kind text, reason text, idempotency_key text, lot_kind text default 'promotional',
  expires_at timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the ledger is writable by nobody else; refuses all but the service role.
declare
  v_entry private.credit_bookings;
begin
  perform private.require_service();
  if change_credits.amount is null or change_credits.amount not between 1 and 1000000000000 then
    perform private.raise_error('invalid_request_error', 'amount must be a whole number of credits from 1 to 1000000000000.');
  end if;
  if coalesce(length(change_credits.reason), 0) not between 1 and 200 then
    perform private.raise_error('invalid_request_error', 'reason must have 1 to 200 characters.');
  end if;
  if coalesce(length(change_credits.idempotency_key), 0) not between 1 and 255 then
    perform private.raise_error('invalid_request_error', 'idempotency_key must have 1 to 255 characters.');
  end if;
  -- Keys of the ledger's own: with one of them an entry of somebody's would stand in the way of that one.
  if change_credits.idempotency_key ~ '^(sign_up$|ai_call:|ai_calls:|expiry:|stripe:)' then
    perform private.raise_error('invalid_request_error',
      'idempotency_key must not be sign_up or begin with ai_call:, ai_calls:, expiry: or stripe: (the ledger''s own keys).');
  end if;
  if change_credits.lot_kind is null or change_credits.lot_kind not in ('promotional', 'monthly', 'purchased') then
    perform private.raise_error('invalid_request_error', 'kind must be promotional, monthly or purchased.');
  end if;
  if change_credits.expires_at <= now() then
    perform private.raise_error('invalid_request_error', 'expires_at must be in the future, or null for credits that do not expire.');
  end if;
  v_entry := private.add_credit_entry(
    change_credits.user_id,
    case when change_credits.kind in ('deduction', 'clawback') then -change_credits.amount else change_credits.amount end,
    change_credits.kind, change_credits.reason, change_credits.idempotency_key, change_credits.lot_kind,
    change_credits.expires_at);
  return jsonb_build_object('entry_id', v_entry.id, 'balance', v_entry.balance_after);
end $$;
comment on function private.change_credits(uuid, bigint, text, text, text, text, timestamptz) is
  'Behind the public credit functions.';
grant execute on function private.change_credits(uuid, bigint, text, text, text, text, timestamptz) to service_role;

create function public.deduct_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'deduction', reason, idempotency_key) $$;
comment on function public.deduct_credits(uuid, bigint, text, text) is
  'Takes credits (service role) and answers {entry_id, balance}; 402 insufficient_credits when fewer are free. The same idempotency_key changes nothing twice; with another amount it is 422 idempotency_key_reused.';
grant execute on function public.deduct_credits(uuid, bigint, text, text) to service_role;

create function public.grant_credits(
  user_id uuid, amount bigint, reason text, idempotency_key text, kind text default 'promotional', expires_at timestamptz default null
) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'grant', reason, idempotency_key, kind, expires_at) $$;
comment on function public.grant_credits(uuid, bigint, text, text, text, timestamptz) is
  'Adds credits of a kind (promotional, monthly or purchased) for the service role, and answers {entry_id, balance}. The same idempotency_key changes nothing twice.';
grant execute on function public.grant_credits(uuid, bigint, text, text, text, timestamptz) to service_role;

create function public.refund_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'refund', reason, idempotency_key, 'purchased') $$;
comment on function public.refund_credits(uuid, bigint, text, text) is
  'Gives credits back (service role); they do not expire. Answers {entry_id, balance}; the same idempotency_key changes nothing twice.';
grant execute on function public.refund_credits(uuid, bigint, text, text) to service_role;

create function public.claw_back_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'clawback', reason, idempotency_key) $$;
comment on function public.claw_back_credits(uuid, bigint, text, text) is
  'Takes back credits whose payment was refunded or disputed (service role), and answers {entry_id, balance}: the balance may fall below zero. The same idempotency_key changes nothing twice.';
grant execute on function public.claw_back_credits(uuid, bigint, text, text) to service_role;

create function private.my_credits(out balance bigint, out held bigint)
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: accounts are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  if exists (select from private.accounts a where a.user_id = v_user_id and a.next_expiry_at <= now()) then
    perform private.lock_account(v_user_id);
  end if;
  select a.balance, a.held into balance, held from private.accounts a where a.user_id = v_user_id;
end $$;
comment on function private.my_credits() is 'Behind public.get_my_credits.';
grant execute on function private.my_credits() to authenticated;

create function public.get_my_credits(out balance bigint, out held bigint)
language sql volatile security invoker set search_path = ''
as $$ select c.balance, c.held from private.my_credits() c $$;
comment on function public.get_my_credits() is
  'The caller''s balance and how much of it running calls hold, in credits. Free to spend: balance - held.';
grant execute on function public.get_my_credits() to authenticated;

create function private.my_credit_lots()
returns table (kind text, amount bigint, remaining bigint, expires_at timestamptz)
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: lots are private; it answers for the caller only.
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  perform private.burn_credits(private.lock_account(v_user_id));
  return query
    select l.kind, l.amount, l.remaining, nullif(l.expires_at, 'infinity') from private.open_lots(v_user_id) l;
end $$;
comment on function private.my_credit_lots() is 'Behind public.get_my_credit_lots.';
grant execute on function private.my_credit_lots() to authenticated;

create function public.get_my_credit_lots()
returns table (kind text, amount bigint, remaining bigint, expires_at timestamptz)
language sql volatile security invoker set search_path = ''
as $$ select * from private.my_credit_lots() $$;
comment on function public.get_my_credit_lots() is
  'The caller''s credits by origin and expiry, in the order in which they are spent: kind (promotional, monthly, purchased), amount granted, what remains, and when that expires (null: never).';
grant execute on function public.get_my_credit_lots() to authenticated;

-- sql/32_spend_cap.sql ================================================================================================

-- The project's spend cap: what all AI calls of a calendar month (UTC) may cost together. Exact, without a row for which
-- every call would queue: parts of the cap are handed out to shards, and a call takes its hold from the shard of its connection.

insert into private.settings (key, value, rule, description) values
  ('ai.project_usd_per_month', '1000', '{"type": ["number", "null"], "minimum": 0, "maximum": 1000000000}', 'What all AI calls of a calendar month (UTC) may cost together, in US dollars; null: no cap.')
on conflict (key) do nothing;

create table private.spend_months (
  month date primary key check (extract(day from month) = 1),
  handed_out_micros bigint not null default 0,
  warned_percent integer not null default 0
);
comment on table private.spend_months is 'What of a month''s cap is with the shards, and what calls cost beyond their holds, in micro-dollars; spent and held is that less what the shards have left.';
comment on column private.spend_months.warned_percent is 'The last of 80, 95 and 100 percent for which an event was raised.';
revoke all on private.spend_months from anon, authenticated, service_role;

create table private.spend_shards (
  month date not null,
  shard integer not null,
  -- Without checks: each is read and made ready anew by every statement that writes, and the statements below say the same.
  left_micros bigint not null default 0,
  primary key (month, shard)
) with (fillfactor = 20);
comment on table private.spend_shards is
  'What each shard may still hand to calls. 0 to 127 are taken from at admission, those from 128 on take what settlements give back. A connection uses one of each, so transactions seldom meet. No circle of locks closes, because all take them in this order: accounts; of a month the shards to 127, then its row; then those of the next month. From 128 on only a settlement waits that has nothing but its account; everybody else leaves out what is in use. Whoever has a shard or a month waits for no account any more.';
revoke all on private.spend_shards from anon, authenticated, service_role;

create function private.spend_cap_micros() returns bigint
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return ceil((private.setting('ai.project_usd_per_month') #>> '{}')::numeric * 1000000);
end $$;
comment on function private.spend_cap_micros() is 'The cap of a month in micro-dollars; null: none.';

create function private.moment_of_month(began timestamptz, moment timestamptz) returns timestamptz
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return least(moment, (date_trunc('month', began at time zone 'UTC') + interval '1 month') at time zone 'UTC' - interval '1 millisecond');
end $$;
comment on function private.moment_of_month(timestamptz, timestamptz) is
  'A moment, or the last one of the month (UTC) in which something began: what began before midnight belongs to the month of which it took.';

create function private.take_spend(micros bigint, month date default date_trunc('month', now() at time zone 'UTC')) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_shard integer := pg_backend_pid() % 128;
begin
  update private.spend_shards s set left_micros = s.left_micros - micros
  where s.month = take_spend.month and s.shard = v_shard and s.left_micros >= micros;
  return found or private.draw_spend(take_spend.month, v_shard, micros);
end $$;
comment on function private.take_spend(bigint, date) is
  'Takes what calls may cost from a month''s cap, which is given back to the month in which they were created; false, and nothing taken, when it does not fit. The caller has locked its accounts and waits for none after this.';

create function private.open_spend_month(month date) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.spend_months (month) values (open_spend_month.month) on conflict do nothing;
  if found then
    insert into private.spend_shards (month, shard) select open_spend_month.month, n from generate_series(0, 255) n;
  end if;
end $$;
comment on function private.open_spend_month(date) is
  'Makes a month with all its shards, in one transaction: a shard that somebody is still making cannot be locked with the others, so two connections of the same one would wait in a circle.';

create function private.draw_spend(month date, shard integer, micros bigint) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_cap bigint;
  v_month private.spend_months;
  v_left bigint;
  v_draw bigint;
begin
  perform private.open_spend_month(draw_spend.month);
  select s.left_micros into v_left from private.spend_shards s
  where s.month = draw_spend.month and s.shard = draw_spend.shard for no key update;
  select m.* into v_month from private.spend_months m where m.month = draw_spend.month for no key update;
  -- Not before: who changes the cap holds all of these.
  v_cap := private.spend_cap_micros();
  if v_left + v_cap - v_month.handed_out_micros < micros then
    -- What others have left comes back, but for the shards that are in use at this moment: nobody waits for two.
    with taken as (
      update private.spend_shards s set left_micros = 0
      from (
        select o.shard, o.left_micros from private.spend_shards o
        where o.month = draw_spend.month and o.shard <> draw_spend.shard and o.left_micros <> 0
        order by o.shard for update skip locked) o
      where s.month = draw_spend.month and s.shard = o.shard
      returning o.left_micros
    )
    select v_month.handed_out_micros - coalesce(sum(t.left_micros), 0) into v_month.handed_out_micros from taken t;
  end if;
  -- A thousandth more than is needed, so that the next calls need not come here.
  v_draw := greatest(0, least(
    greatest(micros - v_left, 0) + coalesce(v_cap / 1000, 1000000000),
    coalesce(v_cap - v_month.handed_out_micros, 1000000000000)));
  update private.spend_months m set handed_out_micros = v_month.handed_out_micros + v_draw where m.month = draw_spend.month;
  update private.spend_shards s set
    left_micros = v_left + v_draw - case when v_left + v_draw >= micros then micros else 0 end
  where s.month = draw_spend.month and s.shard = draw_spend.shard;
  return v_left + v_draw >= micros;
end $$;
comment on function private.draw_spend(date, integer, bigint) is
  'Fetches more of the month''s cap for a shard, also what other shards have left, and takes from it; false when the cap has no room.';

create function private.give_back_spend(month date, micros bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_shard integer := 128 + pg_backend_pid() % 128;
begin
  -- Its own, or, when another connection has it, any that nobody has: so this never waits with accounts or months in its hands.
  update private.spend_shards s set left_micros = s.left_micros + micros
  where s.month = give_back_spend.month and s.shard in (
    select o.shard from private.spend_shards o
    where o.month = give_back_spend.month and o.shard = v_shard and o.left_micros + micros >= 0 for update skip locked);
  if not found and micros < 0 then
    perform private.overrun_spend(give_back_spend.month, -micros);
    return;
  end if;
  if not found then
    update private.spend_shards s set left_micros = s.left_micros + micros
    where s.month = give_back_spend.month and s.shard in (
      select o.shard from private.spend_shards o
      where o.month = give_back_spend.month and o.shard >= 128 order by o.shard limit 1 for update skip locked);
  end if;
  while not found loop
    -- All are in use, and the month may be, too: a new one, which is drawn from like the others.
    insert into private.spend_shards (month, shard, left_micros)
    values (give_back_spend.month, 256 + floor(random() * 2000000000)::integer, micros) on conflict do nothing;
  end loop;
end $$;
comment on function private.give_back_spend(date, bigint) is
  'Gives back what calls of a month held and did not cost, and waits for nobody; less than nothing when they cost more than they held: then by who has nothing of this month or a later one.';

create function private.take_back_spend(month date, overrun bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- In the order in which calls take them, and the month after those that are taken from.
  perform private.open_spend_month(take_back_spend.month);
  perform from private.spend_shards s where s.month = take_back_spend.month and s.shard < 128 order by s.shard for no key update;
  perform from private.spend_months m where m.month = take_back_spend.month for no key update;
  -- Of the others those that nobody uses: nothing is handed out of them but by who draws, and that one asks the month first. Who has one
  -- may be waiting for those that are locked here.
  with held as materialized (
    select s.shard, s.left_micros from private.spend_shards s
    where s.month = take_back_spend.month and s.left_micros <> 0 order by s.shard for no key update skip locked
  ), taken as (
    update private.spend_shards s set left_micros = 0 from held h where s.month = take_back_spend.month and s.shard = h.shard
    returning h.left_micros
  )
  update private.spend_months m set
    handed_out_micros = m.handed_out_micros + take_back_spend.overrun - (select coalesce(sum(t.left_micros), 0) from taken t)
  where m.month = take_back_spend.month;
end $$;
comment on function private.take_back_spend(date, bigint) is
  'Takes what all shards have left of a month, waiting for those that calls are taken from, and books what calls cost beyond their holds: from then on every shard draws anew, by what is true then. To be called by who has no shard up to 127 of the month, and nothing of a later one.';

create function private.overrun_spend(month date, micros bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- From any that has so much and that nobody uses at this moment; not from those that calls are taken from, because who has one of them
  -- must not wait for another.
  update private.spend_shards s set left_micros = s.left_micros - micros
  where s.month = overrun_spend.month and s.shard in (
    select o.shard from private.spend_shards o
    where o.month = overrun_spend.month and o.shard >= 128 and o.left_micros >= micros order by o.shard desc limit 1 for update skip locked);
  if not found then
    perform private.take_back_spend(overrun_spend.month, overrun_spend.micros);
  end if;
end $$;
comment on function private.overrun_spend(date, bigint) is
  'Books what calls of a month cost beyond their holds: it comes out of what was given back, or, when no shard has so much, out of all of them, so that none hands out what the cap does not have.';

create function private.tg_settings__spend_cap() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: for whoever may change settings.
begin
  perform private.take_back_spend(date_trunc('month', now() at time zone 'UTC')::date, 0);
  return null;
end $$;
comment on function private.tg_settings__spend_cap() is
  'A cap that is lowered holds at once: what the shards have left of the old one comes back.';
create trigger tg_settings__spend_cap after update on private.settings
  for each row when (new.key = 'ai.project_usd_per_month' and new.value is distinct from old.value)
  execute function private.tg_settings__spend_cap();

create function private.project_spend(out month date, out cap_micros bigint, out spent_and_held_micros bigint)
language sql stable security invoker set search_path = ''
as $$
  select n.month, private.spend_cap_micros(),
    coalesce((select m.handed_out_micros from private.spend_months m where m.month = n.month), 0)
    - coalesce((select sum(s.left_micros) from private.spend_shards s where s.month = n.month), 0)::bigint
  from (select date_trunc('month', now() at time zone 'UTC')::date as month) n
$$;
comment on function private.project_spend() is 'This month (UTC), its cap in micro-dollars (null: none), and what calls have spent and hold of it.';

create function private.warn_of_spend() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_spend record;
  v_percent integer;
begin
  select s.* into v_spend from private.project_spend() s;
  v_percent := case
    when v_spend.spent_and_held_micros >= v_spend.cap_micros then 100
    when v_spend.spent_and_held_micros >= v_spend.cap_micros * 0.95 then 95
    when v_spend.spent_and_held_micros >= v_spend.cap_micros * 0.8 then 80
  end;
  update private.spend_months m set warned_percent = v_percent
  where m.month = v_spend.month and m.warned_percent < v_percent;
  if found then
    perform private.raise_security_event('project_spend', case when v_percent = 80 then 'high' else 'critical' end, null,
      jsonb_build_object('percent', v_percent, 'cap_micros', v_spend.cap_micros,
        'spent_and_held_micros', v_spend.spent_and_held_micros, 'month', v_spend.month),
      dedupe_key => v_spend.month || ' ' || v_percent);
  end if;
  return v_percent;
end $$;
comment on function private.warn_of_spend() is
  'Raises a security event when the month''s spending passes 80, 95 or 100 percent of the cap, once each. A job runs it; a call does not, because the audit log has a lock that must not be held while an account is waited for.';

-- policies/30_credits.sql =============================================================================================

create policy "owners see their ledger"
  on private.credit_bookings for select to authenticated
  using (user_id = (select private.my_user_id()));
