-- Credits: an append-only ledger, and a balance per account that always equals its sum.

create table private.credit_accounts (
  user_id uuid primary key references auth.users (id) on delete cascade,
  balance bigint not null default 0 check (balance >= 0),
  held bigint not null default 0 check (held >= 0),
  check (held <= balance)
) with (fillfactor = 50);
comment on table private.credit_accounts is
  'Balance and open holds of an account, in credits. Its row is also the account''s lock: whoever spends or counts takes it first.';
revoke all on private.credit_accounts from anon, authenticated, service_role;

create table public.credit_entries (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  amount bigint not null check (amount <> 0),
  kind text not null check (kind in ('sign_up', 'grant', 'refund', 'deduction', 'ai_call')),
  reason text not null check (length(reason) between 1 and 200),
  idempotency_key text not null check (length(idempotency_key) between 1 and 255),
  balance_after bigint not null check (balance_after >= 0),
  created_at timestamptz not null default now(),
  unique (user_id, idempotency_key)
);
comment on table public.credit_entries is
  'The ledger: every change of a balance, never changed or removed. Not partitioned: the balance is its sum, so no part may go.';
comment on column public.credit_entries.amount is 'Credits; positive adds, negative takes.';
comment on column public.credit_entries.idempotency_key is 'The same key for the same user is the same entry: a repeated request changes nothing.';
create index credit_entries_user_id_created_at_idx on public.credit_entries (user_id, created_at desc);
alter table public.credit_entries enable row level security;
alter table public.credit_entries force row level security;
revoke all on public.credit_entries from anon, authenticated, service_role;
grant select on public.credit_entries to authenticated, service_role;
create trigger tg_credit_entries__append_only before update or delete on public.credit_entries
  for each row execute function private.tg__append_only();
create trigger tg_credit_entries__no_truncate before truncate on public.credit_entries
  for each statement execute function private.tg__append_only();

create function private.lock_account(user_id uuid) returns private.credit_accounts
language sql volatile security invoker set search_path = ''
as $$ select a.* from private.credit_accounts a where a.user_id = lock_account.user_id for no key update $$;
comment on function private.lock_account(uuid) is
  'Locks an account until the transaction ends. Under read committed, which we rely on, the statements that follow see what the previous holder committed; under repeatable read they would fail with 40001.';

create function private.add_credit_entry(
  user_id uuid, amount bigint, kind text, reason text, idempotency_key text
) returns public.credit_entries
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_account private.credit_accounts := private.lock_account(add_credit_entry.user_id);
  v_entry public.credit_entries;
begin
  if v_account.user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  select e.* into v_entry from public.credit_entries e
  where e.user_id = add_credit_entry.user_id and e.idempotency_key = add_credit_entry.idempotency_key;
  if found then
    if v_entry.amount <> add_credit_entry.amount or v_entry.kind <> add_credit_entry.kind then
      perform private.raise_error('idempotency_key_reused', 'This idempotency key was used for another credit entry.');
    end if;
    return v_entry;
  end if;
  if v_account.balance - v_account.held + add_credit_entry.amount < 0 then
    perform private.raise_error('insufficient_credits',
      format('%s credits are needed, %s are free.', -add_credit_entry.amount, v_account.balance - v_account.held));
  end if;
  update private.credit_accounts a set balance = a.balance + add_credit_entry.amount
  where a.user_id = add_credit_entry.user_id;
  insert into public.credit_entries (user_id, amount, kind, reason, idempotency_key, balance_after)
  values (
    add_credit_entry.user_id, add_credit_entry.amount, add_credit_entry.kind, add_credit_entry.reason,
    add_credit_entry.idempotency_key, v_account.balance + add_credit_entry.amount)
  returning * into v_entry;
  return v_entry;
end $$;
comment on function private.add_credit_entry(uuid, bigint, text, text, text) is
  'The only writer of the ledger: one entry and its balance in one transaction. Raises insufficient_credits, idempotency_key_reused, not_found.';

create function private.change_credits(user_id uuid, amount bigint, kind text, reason text, idempotency_key text)
returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entry public.credit_entries;
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
  -- An entry of a caller's with such a key would make the settlement of that call fail.
  if change_credits.idempotency_key = 'sign_up' or change_credits.idempotency_key like 'ai_call:%' then
    perform private.raise_error('invalid_request_error', 'idempotency_key must not be sign_up or begin with ai_call: (the ledger''s own keys).');
  end if;
  v_entry := private.add_credit_entry(
    change_credits.user_id,
    case when change_credits.kind = 'deduction' then -change_credits.amount else change_credits.amount end,
    change_credits.kind, change_credits.reason, change_credits.idempotency_key);
  return jsonb_build_object('entry_id', v_entry.id, 'balance', v_entry.balance_after);
end $$;
comment on function private.change_credits(uuid, bigint, text, text, text) is
  'Behind the three public credit functions. Definer: the ledger is writable by nobody else; refuses all but the service role.';
grant execute on function private.change_credits(uuid, bigint, text, text, text) to service_role;

create function public.deduct_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'deduction', reason, idempotency_key) $$;
comment on function public.deduct_credits(uuid, bigint, text, text) is
  'Takes credits (service role). Answers {entry_id, balance}. 402 insufficient_credits when fewer are free; the same idempotency_key changes nothing twice; 422 idempotency_key_reused with another amount.';
grant execute on function public.deduct_credits(uuid, bigint, text, text) to service_role;

create function public.grant_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'grant', reason, idempotency_key) $$;
comment on function public.grant_credits(uuid, bigint, text, text) is
  'Adds credits (service role). Answers {entry_id, balance}. The same idempotency_key changes nothing twice.';
grant execute on function public.grant_credits(uuid, bigint, text, text) to service_role;

create function public.refund_credits(user_id uuid, amount bigint, reason text, idempotency_key text) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select private.change_credits(user_id, amount, 'refund', reason, idempotency_key) $$;
comment on function public.refund_credits(uuid, bigint, text, text) is
  'Gives credits back (service role). Answers {entry_id, balance}. The same idempotency_key changes nothing twice.';
grant execute on function public.refund_credits(uuid, bigint, text, text) to service_role;

create function private.my_credits(out balance bigint, out held bigint)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  select a.balance, a.held into balance, held from private.credit_accounts a where a.user_id = v_user_id;
end $$;
comment on function private.my_credits() is 'Behind public.get_my_credits. Definer: accounts are private; it answers for the caller only.';
grant execute on function private.my_credits() to authenticated;

create function public.get_my_credits(out balance bigint, out held bigint)
language sql stable security invoker set search_path = ''
as $$ select c.balance, c.held from private.my_credits() c $$;
comment on function public.get_my_credits() is
  'The caller''s balance and how much of it running calls hold, in credits. Free to spend: balance - held.';
grant execute on function public.get_my_credits() to authenticated;
