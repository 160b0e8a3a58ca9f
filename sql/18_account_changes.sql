-- What makes a stolen session permanent, if nobody hears of it: new factors, codes, keys, credentials, addresses, passwords, identities. Each
-- needs a sign-in of the last minutes, is told to the address at once, and has a link that takes it back.

insert into private.settings (key, value, rule, description) values
  ('sessions.recent_sign_in_minutes', '10', '{"type": "integer", "minimum": 1, "maximum": 10080}', 'How old a sign-in may be for what outlives the session: a factor, recovery codes, an API key, a credential, another address.'),
  ('sessions.keys_on_password_change', '"session"', '{"enum": ["session", "all", "none"]}', 'Which API keys go with a password change: "session" those made by the sessions that it ends, and since they began; "all"; "none".'),
  ('account.undo_hours', '72', '{"type": "integer", "minimum": 1, "maximum": 720}', 'How long the link in a mail about a change of the account undoes it.'),
  ('account.undo_url', 'null', '{"type": ["string", "null"], "pattern": "^https?://[^ ]+[{]token[}][^ ]*$"}', 'The page of yours that such a link opens, with {token} in it; null: the function account, at jobs.functions_url.')
on conflict (key) do nothing;

-- Recent sign-ins --------------------------------------------------------------------------------------------------------

create function private.has_recent_sign_in(user_id uuid, session_id uuid default null) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables.
begin
  -- What proves who somebody is, and not a second factor, which a thief may have added, nor the address that a change is about.
  return exists (
    select from auth.sessions s join auth.mfa_amr_claims c on c.session_id = s.id
    where s.user_id = has_recent_sign_in.user_id
      and (has_recent_sign_in.session_id is null or s.id = has_recent_sign_in.session_id)
      and c.authentication_method in (
        'password', 'otp', 'oauth', 'sso/saml', 'magiclink', 'email/signup', 'recovery', 'invite', 'web3', 'passkey')
      and c.updated_at > now() - make_interval(mins => (private.setting('sessions.recent_sign_in_minutes'))::integer));
end $$;
comment on function private.has_recent_sign_in(uuid, uuid) is
  'Whether this session began with a sign-in of the last sessions.recent_sign_in_minutes; without a session, whether any of the user''s did. The rows that it reads are what the Auth service writes into a token as amr.';

create function private.require_recent_sign_in(user_id uuid, session_id uuid) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  -- No session at all is not any session.
  if require_recent_sign_in.session_id is null
    or not private.has_recent_sign_in(require_recent_sign_in.user_id, require_recent_sign_in.session_id) then
    perform private.raise_error('recent_sign_in_required',
      format('Sign in again: this needs a sign-in of the last %s minutes.', private.setting('sessions.recent_sign_in_minutes')),
      'Ask for the password (or another sign-in), then repeat the call with the new session.');
  end if;
end $$;
comment on function private.require_recent_sign_in(uuid, uuid) is
  'For what outlives a session: refuses one whose sign-in is older than sessions.recent_sign_in_minutes, however often it was refreshed.';

create function private.is_recently_signed_in() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: the Auth service's tables; it answers for the caller only.
begin
  return private.has_recent_sign_in(private.require_user(allow_pending => true, allow_aal1 => true), private.my_session_id());
end $$;
comment on function private.is_recently_signed_in() is 'Behind public.has_recent_sign_in.';
grant execute on function private.is_recently_signed_in() to authenticated;

create function public.has_recent_sign_in() returns boolean
language sql stable security invoker set search_path = ''
as $$ select private.is_recently_signed_in() $$;
comment on function public.has_recent_sign_in() is
  'Whether the caller''s session began with a sign-in recent enough for API keys, recovery codes, credentials, a new factor or another address. Ask before you enrol a factor: Auth''s own refusal has no words.';
grant execute on function public.has_recent_sign_in() to authenticated;

create function private.tg__recent_sign_in() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_user_id uuid := case tg_table_name when 'users' then to_jsonb(new) ->> 'id' else to_jsonb(new) ->> 'user_id' end;
begin
  if not private.has_recent_sign_in(v_user_id) then
    -- PT403: callers of the Auth service's older API version see status and words; others a plain 500.
    raise exception using errcode = 'PT403', message = 'recent_sign_in_required',
      hint = format('Sign in again: this needs a sign-in of the last %s minutes.', private.setting('sessions.recent_sign_in_minutes'));
  end if;
  return new;
end $$;
comment on function private.tg__recent_sign_in() is
  'No claims reach SQL where the Auth service acts, so it demands that some session of the user''s began lately.';
-- Only what users do by way of the Auth service: operators and the admin API have no sessions of the user's.
create trigger palisade_factor_needs_sign_in before insert on auth.mfa_factors
  for each row when (current_user = 'supabase_auth_admin') execute function private.tg__recent_sign_in();
create trigger palisade_address_needs_sign_in before update of email_change on auth.users
  for each row when (
    current_user = 'supabase_auth_admin' and new.email_change <> '' and old.email <> ''
    and new.email_change is distinct from old.email_change)
  execute function private.tg__recent_sign_in();

-- What is told, and how it is taken back -----------------------------------------------------------------------------------

create table private.account_changes (
  id text primary key check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) between 1 and 1000),
  undo text not null check (length(undo) between 1 and 500)
);
comment on table private.account_changes is
  'What owners are told of at once, as a notification of this type and by mail. {name} is filled in, as far as it is known. The words are yours to change.';
comment on column private.account_changes.undo is 'What the link in the mail will do, beside freezing the account.';
revoke all on private.account_changes from anon, authenticated, service_role;
insert into private.account_changes (id, title, body, undo) values
  ('mfa_added', 'A second factor was added', 'Sign-in to your account now asks for an authenticator that was just added. It can lock you out, if it is not yours.', 'The authenticator is removed.'),
  ('recovery_codes_created', 'Recovery codes were made', 'New recovery codes were made for your account. Each signs in without your second factor; older codes are void.', 'All recovery codes are removed.'),
  ('api_key_created', 'An API key was made', 'An API key, {name}, was made or renewed for your account. Whoever has it can make calls in your name.', 'The API key is revoked.'),
  ('credential_added', 'A key of another service was added', 'A key of {name} was added to your account, or put in the place of an older one.', 'The key is deleted.'),
  ('identity_linked', 'Another sign-in was linked', 'Your account can now be entered with a sign-in at {name}.', 'The link to that sign-in is removed.'),
  ('email_changed', 'Your e-mail address was changed', 'Your account has another e-mail address now. Mails, also those that set a new password, go there.', 'The address stays as it is: it is changed back only together with us.'),
  ('password_changed', 'Your password was changed', 'Your account has a new password. If it was not you, reset your password now and end your other sessions.', 'The password stays as it is: set a new one when the account is open again.')
on conflict (id) do nothing;

create table private.undo_links (
  token_hash bytea primary key check (octet_length(token_hash) = 32),
  user_id uuid not null references auth.users (id) on delete cascade,
  change text not null references private.account_changes (id) on delete restrict,
  subject_id uuid,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at timestamptz
);
comment on table private.undo_links is 'What the links in mails about changes take back: SHA-256 of 256 random bits, once, for account.undo_hours.';
comment on column private.undo_links.subject_id is 'The factor, API key, credential or identity that was added; null for what is one of a kind.';
create index undo_links_user_id_idx on private.undo_links (user_id);
create index undo_links_change_idx on private.undo_links (change);
create index undo_links_expires_at_idx on private.undo_links (expires_at);
revoke all on private.undo_links from anon, authenticated, service_role;

create function private.undo_url(token text) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return coalesce(
    replace(private.setting('account.undo_url') #>> '{}', '{token}', undo_url.token),
    rtrim(nullif(private.setting('jobs.functions_url') #>> '{}', ''), '/') || '/account/undo?token=' || undo_url.token);
end $$;
comment on function private.undo_url(text) is 'Where a link that undoes a change leads; null while neither setting says it.';

create function private.make_undo_link(user_id uuid, change text, subject_id uuid) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_token text := translate(encode(extensions.gen_random_bytes(32), 'base64'), '+/=', '-_');
begin
  insert into private.undo_links (token_hash, user_id, change, subject_id, expires_at)
  values (sha256(convert_to(v_token, 'UTF8')), make_undo_link.user_id, make_undo_link.change, make_undo_link.subject_id,
    now() + make_interval(hours => (private.setting('account.undo_hours'))::integer));
  return private.undo_url(v_token);
end $$;
comment on function private.make_undo_link(uuid, text, uuid) is 'A new link that takes a change back, for the one mail that it goes into.';

create function private.tell_of_change(
  user_id uuid, change text, subject_id uuid default null, data jsonb default '{}', addresses text[] default null
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: notifications, mails and links are written by functions only.
declare
  v_change private.account_changes;
  v_address text;
  v_body text;
begin
  select c.* into strict v_change from private.account_changes c where c.id = tell_of_change.change;
  v_body := private.fill_placeholders(v_change.body, tell_of_change.data);
  perform private.notify_user(tell_of_change.user_id, v_change.id, v_change.title, v_body,
    jsonb_strip_nulls(tell_of_change.data || jsonb_build_object('id', tell_of_change.subject_id)), by_mail => false);
  for v_address in
    -- An address that was never verified may be a stranger's.
    select unnest(coalesce(tell_of_change.addresses, array[u.email::text]))
    from auth.users u where u.id = tell_of_change.user_id and u.email_confirmed_at is not null
  loop
    continue when nullif(v_address, '') is null;
    insert into private.mails (user_id, address, type, subject, body)
    values (tell_of_change.user_id, v_address, v_change.id, v_change.title, v_body || coalesce(format(
      E'\n\nIf this was not you, open this link within %s hours. The page says what it will do, and asks before it does it:\n',
      private.setting('account.undo_hours'))
      || private.make_undo_link(tell_of_change.user_id, tell_of_change.change, tell_of_change.subject_id), ''));
  end loop;
end $$;
comment on function private.tell_of_change(uuid, text, uuid, jsonb, text[]) is
  'Tells an owner what changed, in the transaction that changed it: a notification, and a mail with a link that undoes it, to the address of the account, as it is at this moment, or to those given. The mail is always sent, whatever notifications.mail_types says. Who calls it writes the audit entry.';

-- What the Auth service adds and changes -----------------------------------------------------------------------------------
-- These run in its transactions: whatever goes wrong here becomes a warning in the log, never a failed sign-in.

create function private.tg_mfa_factors__added() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.audit(action => 'mfa.add_factor', resource_type => 'factor', resource_id => new.id::text, user_id => new.user_id,
    details => jsonb_build_object('factor_type', new.factor_type::text));
  perform private.tell_of_change(new.user_id, 'mfa_added', new.id, jsonb_build_object('factor_type', new.factor_type::text));
  return null;
exception when others then
  raise warning 'the new factor of % was not told: %', new.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_mfa_factors__added() is 'A factor that counts from now on is told to its owner.';
create trigger palisade_factor_added after insert on auth.mfa_factors
  for each row when (new.status = 'verified') execute function private.tg_mfa_factors__added();
create trigger palisade_factor_verified after update of status on auth.mfa_factors
  for each row when (old.status <> 'verified' and new.status = 'verified') execute function private.tg_mfa_factors__added();

create function private.tg_users__email_changed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform private.audit(action => 'account.change_email', resource_type => 'account', resource_id => new.id::text, user_id => new.id,
    -- The log tells who did it from how: a user agrees to a change on both addresses, an operator writes it.
    details => jsonb_build_object('asked_for', coalesce(old.email_change = new.email, false)));
  if old.email_confirmed_at is not null then
    perform private.tell_of_change(new.id, 'email_changed', addresses => array[old.email::text]);
  end if;
  return null;
exception when others then
  raise warning 'the new address of % was not told: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__email_changed() is
  'A change of address, also by an operator, is told to the old one. A softly deleted account''s address is made unreadable, which is told to nobody.';
create trigger palisade_email_changed after update of email on auth.users
  for each row when (old.email <> '' and old.email is distinct from new.email and new.deleted_at is null)
  execute function private.tg_users__email_changed();

create function private.tg_identities__linked() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  if not exists (select from auth.identities i where i.user_id = new.user_id and i.id <> new.id) then
    return null;
  end if;
  perform private.audit(action => 'account.link_identity', resource_type => 'identity', resource_id => new.id::text,
    user_id => new.user_id, details => jsonb_build_object('provider', new.provider));
  perform private.tell_of_change(new.user_id, 'identity_linked', new.id, jsonb_build_object('name', new.provider));
  return null;
exception when others then
  raise warning 'the new identity of % was not told: %', new.user_id, sqlerrm;
  return null;
end $$;
comment on function private.tg_identities__linked() is 'A further way to sign in is told to the owner; the first one is the sign-up.';
create trigger palisade_identity_linked after insert on auth.identities
  for each row execute function private.tg_identities__linked();

-- A password change, and the keys that go with it. Auth ends the other sessions after it has written the password, so which keys go is
-- known when the transaction ends.

create function private.tg_users__password_changed() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
begin
  perform set_config('palisade.sessions_of_' || replace(new.id::text, '-', ''), (
    select coalesce(jsonb_object_agg(s.id, s.created_at), '{}')::text from auth.sessions s where s.user_id = new.id), true);
  -- The first password of who has no other way to sign in is a part of the sign-up.
  if coalesce(old.encrypted_password, '') = ''
    and not exists (select from auth.identities i where i.user_id = new.id and i.provider <> 'email') then
    return null;
  end if;
  perform private.raise_security_event(type => 'password_changed', severity => 'medium', user_id => new.id);
  perform private.audit(action => 'account.change_password', resource_type => 'account', resource_id => new.id::text, user_id => new.id);
  perform private.tell_of_change(new.id, 'password_changed');
  return null;
exception when others then
  raise warning 'the new password of % was not noted: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__password_changed() is
  'Tells the user of a new password, also of a first one beside another way to sign in; ending the other sessions is the Auth service''s. Notes which sessions there were.';
create trigger palisade_password_changed after update of encrypted_password on auth.users
  for each row when (new.encrypted_password <> '' and coalesce(old.encrypted_password, '') <> new.encrypted_password and new.deleted_at is null)
  execute function private.tg_users__password_changed();

create function private.tg_users__password_ends_keys() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs as the Auth service.
declare
  v_before jsonb := nullif(current_setting('palisade.sessions_of_' || replace(new.id::text, '-', ''), true), '');
  v_kept uuid[] := array(select s.id from auth.sessions s where s.user_id = new.id);
begin
  perform private.revoke_keys_with_sessions(new.id, private.setting('sessions.keys_on_password_change') #>> '{}',
    v_before - v_kept::text[], v_kept);
  return null;
exception when others then
  raise warning 'the API keys of % did not go with the password: %', new.id, sqlerrm;
  return null;
end $$;
comment on function private.tg_users__password_ends_keys() is
  'With a password go the API keys that sessions.keys_on_password_change names: those of the sessions that ended in this transaction, and younger ones.';
create constraint trigger palisade_password_ends_keys after update of encrypted_password on auth.users
  deferrable initially deferred
  for each row when (coalesce(old.encrypted_password, '') <> coalesce(new.encrypted_password, '') and new.deleted_at is null)
  execute function private.tg_users__password_ends_keys();

-- Undoing ------------------------------------------------------------------------------------------------------------------

create function private.describe_undo_link(link private.undo_links, state text) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select jsonb_build_object('state', describe_undo_link.state, 'change', c.id, 'title', c.title, 'undo', c.undo,
    'changed_at', (link).created_at, 'expires_at', (link).expires_at)
  from private.account_changes c where c.id = (link).change
$$;
comment on function private.describe_undo_link(private.undo_links, text) is
  'What the page of a link says, to whoever has it: not whose account it is, nor its address.';

create function private.show_undo_link(token_hash bytea) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_link private.undo_links;
begin
  -- By the hash of 256 random bits: the time that the look-up takes tells nothing about a token.
  select l.* into v_link from private.undo_links l where l.token_hash = show_undo_link.token_hash;
  if not found then
    perform private.raise_error('not_found', 'This link is unknown, or long over.');
  end if;
  return private.describe_undo_link(v_link,
    case when v_link.used_at is not null then 'used' when v_link.expires_at <= now() then 'expired' else 'open' end);
end $$;
comment on function private.show_undo_link(bytea) is
  'For the function account: {state: open | used | expired, change, title, undo, changed_at, expires_at} of the link with this SHA-256. Changes nothing.';

create function private.undo_change(link private.undo_links) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  case (link).change
    when 'mfa_added' then
      delete from auth.mfa_factors f where f.id = (link).subject_id and f.user_id = (link).user_id;
    when 'recovery_codes_created' then
      delete from private.recovery_codes c where c.user_id = (link).user_id;
    when 'api_key_created' then
      perform private.close_api_keys(array(
        select k.id from public.api_keys k where k.id = (link).subject_id and k.user_id = (link).user_id));
    when 'credential_added' then
      delete from public.credentials c where c.id = (link).subject_id and c.user_id = (link).user_id;
    when 'recovery_requested' then
      perform private.stop_recovery((link).user_id);
    when 'identity_linked' then
      delete from auth.identities i where i.id = (link).subject_id and i.user_id = (link).user_id;
    else
      null; -- An old mailbox alone gives no address back, and nobody knows the old password.
  end case;
end $$;
comment on function private.undo_change(private.undo_links) is 'Removes what was added; an address and a password stay.';

create function private.use_undo_link(token_hash bytea) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_link private.undo_links;
begin
  -- Of two at once the second waits here, and finds it used.
  update private.undo_links l set used_at = now()
  where l.token_hash = use_undo_link.token_hash and l.used_at is null and l.expires_at > now()
  returning l.* into v_link;
  if not found then
    return private.show_undo_link(use_undo_link.token_hash);
  end if;
  perform private.undo_change(v_link);
  perform private.audit(action => 'account.undo_change', resource_type => 'account', resource_id => v_link.user_id::text,
    user_id => v_link.user_id, details => jsonb_build_object('change', v_link.change, 'subject_id', v_link.subject_id));
  if exists (select from public.profiles p where p.id = v_link.user_id and p.status <> 'deleted') then
    perform private.change_account_status(v_link.user_id, 'suspended',
      format('frozen by the link in the mail about %s of %s', v_link.change, to_char(v_link.created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')));
  end if;
  perform private.notify_user(v_link.user_id, 'account_frozen', 'Your account was frozen',
    'Somebody opened the link in our mail and said that a change of your account was not theirs. All sessions and API keys have ended until we have spoken with you.',
    jsonb_build_object('change', v_link.change));
  return private.describe_undo_link(v_link, 'undone');
end $$;
comment on function private.use_undo_link(bytea) is
  'For the function account: takes the change of this link back, once, and suspends the account, which ends every session; signs nobody in. Answers as show_undo_link does, with the state undone for the one call that did it.';

create function private.delete_old_undo_links() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_deleted integer;
begin
  delete from private.undo_links l where l.expires_at < now() - interval '30 days';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function private.delete_old_undo_links() is 'Forgets links that were over 30 days ago; run daily. Answers how many.';
