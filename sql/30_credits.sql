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
