-- Mailboxes: what an account gets for nothing it gets once for each mailbox, however the address of it is written.

insert into private.settings (key, value, rule, description) values
  ('mailboxes.plus_domains', '["gmail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "icloud.com", "me.com", "mac.com", "proton.me", "protonmail.com", "pm.me", "fastmail.com", "zoho.com", "hey.com"]', '{"type": "array", "items": {"type": "string", "pattern": "^(\\*|[a-z0-9-]+(\\.[a-z0-9-]+)+)$"}}', 'Domains where what follows a plus sign in an address leads to the same mailbox; "*" is all of them.'),
  ('mailboxes.dotless_domains', '["gmail.com"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9-]+(\\.[a-z0-9-]+)+$"}}', 'Domains where dots before the @ do not count.'),
  ('mailboxes.keep_days', '730', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days for which the hash of a mailbox is kept after what it got, once its account is erased.'),
  ('credits.sign_ups_per_mailbox', '1', '{"type": "integer", "minimum": 1, "maximum": 1000000000}', 'Accounts of one mailbox that get credits.on_sign_up.'),
  ('billing.trials_per_mailbox', '1', '{"type": "integer", "minimum": 1, "maximum": 1000000000}', 'Accounts of one mailbox that get a trial.')
on conflict (key) do nothing;

create table private.mailbox_claims (
  mailbox_hash bytea not null check (octet_length(mailbox_hash) = 32),
  kind text not null check (kind in ('credits', 'trial')),
  user_id uuid not null,
  claimed_at timestamptz not null default now(),
  primary key (mailbox_hash, kind, user_id)
);
comment on table private.mailbox_claims is
  'Which mailboxes had credits on sign-up or the offer of a trial, as SHA-256 hashes. user_id references nothing: an account that is erased and made anew has had them. See mailboxes.keep_days.';
create index mailbox_claims_claimed_at_idx on private.mailbox_claims (claimed_at);
revoke all on private.mailbox_claims from anon, authenticated, service_role;

create function private.mailbox_of(address text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_parts text[] := regexp_match(lower(btrim(mailbox_of.address)), '^(.+)@([^@]+)$');
  v_name text := v_parts[1];
  v_domain text := case v_parts[2] when 'googlemail.com' then 'gmail.com' else v_parts[2] end;
begin
  -- An address that begins with a plus sign has nothing else to be named by.
  if private.setting('mailboxes.plus_domains') ?| array['*', v_domain] and v_name ~ '^[^+]' then
    v_name := split_part(v_name, '+', 1);
  end if;
  if private.setting('mailboxes.dotless_domains') ? v_domain then
    v_name := coalesce(nullif(replace(v_name, '.', ''), ''), v_name);
  end if;
  return v_name || '@' || v_domain;
end $$;
comment on function private.mailbox_of(text) is
  'The mailbox that an address leads to: lower case, without dots and parts after a plus sign where its domain ignores them. Null for what is no address.';

create function private.claim_for_mailbox(user_id uuid, kind text, most integer) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_mailbox text;
  v_hash bytea;
begin
  select private.mailbox_of(u.email) into v_mailbox from auth.users u where u.id = claim_for_mailbox.user_id;
  if v_mailbox is null then
    return true;
  end if;
  v_hash := sha256(convert_to(v_mailbox, 'UTF8'));
  -- Accounts of one mailbox take turns; the statements below see what the one before has done.
  perform pg_advisory_xact_lock(hashtextextended('mailbox:' || v_mailbox, 0));
  if exists (
    select from private.mailbox_claims c
    where c.mailbox_hash = v_hash and c.kind = claim_for_mailbox.kind and c.user_id = claim_for_mailbox.user_id) then
    return true;
  end if;
  insert into private.mailbox_claims (mailbox_hash, kind, user_id)
  select v_hash, claim_for_mailbox.kind, claim_for_mailbox.user_id
  where claim_for_mailbox.most > (
    select count(*) from private.mailbox_claims c where c.mailbox_hash = v_hash and c.kind = claim_for_mailbox.kind);
  return found;
end $$;
comment on function private.claim_for_mailbox(uuid, text, integer) is
  'Whether an account is among the first so many of its mailbox that ask for this; it stays among them. Accounts without an address always are.';

create function private.grant_sign_up_credits(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user auth.users;
  v_is_anonymous boolean;
  v_credits bigint;
  v_key text;
begin
  select u.* into strict v_user from auth.users u where u.id = grant_sign_up_credits.user_id;
  v_is_anonymous := v_user.is_anonymous and v_user.email_confirmed_at is null;
  if not v_is_anonymous and v_user.email <> '' and v_user.email_confirmed_at is null then
    return;
  end if;
  v_credits := (private.setting(case when v_is_anonymous then 'credits.on_anonymous_sign_up' else 'credits.on_sign_up' end))::bigint;
  v_key := case when v_is_anonymous then 'anonymous_sign_up' else 'sign_up' end;
  if v_credits = 0 or exists (
    select from private.credit_bookings b where b.user_id = v_user.id and b.idempotency_key = v_key) then
    return;
  end if;
  if private.claim_for_mailbox(v_user.id, 'credits', (private.setting('credits.sign_ups_per_mailbox'))::integer) then
    perform private.add_credit_entry(v_user.id, v_credits, 'sign_up', 'credits on sign-up', v_key);
  end if;
end $$;
comment on function private.grant_sign_up_credits(uuid) is
  'Credits on sign-up, once for an account and credits.sign_ups_per_mailbox times for a mailbox. They come when the address is confirmed: nobody else''s sign-up takes them from the owner of a mailbox.';

create function private.delete_old_mailbox_claims() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.mailbox_claims c
  where c.claimed_at < now() - make_interval(days => (private.setting('mailboxes.keep_days'))::integer)
    and not exists (select from auth.users u where u.id = c.user_id);
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_mailbox_claims() is
  'Forgets mailboxes of erased accounts after mailboxes.keep_days; run daily. Answers how many went.';
