-- Notifications: what a user should hear of, in the app and, where settings say so, by mail.

insert into private.settings (key, value, rule, description) values
  ('notifications.mail_types', '["new_device", "new_network", "password_changed", "mfa_removed", "account_locked", "refresh_token_reuse", "role_changed"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9_]{1,80}$"}}', 'Types of notifications that are also sent by mail.'),
  ('notifications.keep_days', '180', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that notifications are kept.'),
  ('mail.keep_days', '30', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that mails are kept that were sent or given up.'),
  ('mail.max_attempts', '6', '{"type": "integer", "minimum": 1, "maximum": 1000}', 'Tries after which a mail is given up.')
on conflict (key) do nothing;

create table public.notifications (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  type text not null check (type ~ '^[a-z0-9_]+$' and length(type) <= 80),
  title text not null check (length(title) between 1 and 200),
  body text not null check (length(body) <= 2000),
  data jsonb not null default '{}' check (jsonb_typeof(data) = 'object' and length(data::text) <= 16000),
  read_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table public.notifications is 'One message for one user. Its owner marks it as read or deletes it.';
create index notifications_user_id_created_at_idx on public.notifications (user_id, created_at desc);
alter table public.notifications enable row level security;
alter table public.notifications force row level security;
revoke all on public.notifications from anon, authenticated, service_role;
grant select, delete on public.notifications to authenticated;
grant update (read_at) on public.notifications to authenticated;
grant select on public.notifications to service_role;

create table private.mails (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  subject text not null check (length(subject) between 1 and 200),
  body text not null check (length(body) <= 2000),
  state text not null default 'waiting' check (state in ('waiting', 'sent', 'dead')),
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  created_at timestamptz not null default now(),
  sent_at timestamptz
);
comment on table private.mails is 'Mails to send, in the transaction that had the reason. The address is looked up when it is sent.';
comment on column private.mails.next_attempt_at is 'Not before; while a worker has the mail, when another may take it.';
create index mails_user_id_idx on private.mails (user_id);
create index mails_next_attempt_at_idx on private.mails (next_attempt_at) where state = 'waiting';
revoke all on private.mails from anon, authenticated, service_role;

create function private.notify_user(user_id uuid, type text, title text, body text, data jsonb default '{}') returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write notifications.
declare
  v_id uuid;
begin
  insert into public.notifications (user_id, type, title, body, data)
  values (notify_user.user_id, notify_user.type, notify_user.title, notify_user.body, coalesce(notify_user.data, '{}'))
  returning id into v_id;
  if private.setting('notifications.mail_types') ? notify_user.type then
    insert into private.mails (user_id, subject, body) values (notify_user.user_id, notify_user.title, notify_user.body);
  end if;
  return v_id;
end $$;
comment on function private.notify_user(uuid, text, text, text, jsonb) is
  'Leaves a notification for a user, and a mail when notifications.mail_types names the type. Answers the notification''s id.';

create function private.claim_mails(batch_size integer default 20)
returns table (id uuid, address text, subject text, body text, attempt integer)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max integer := (private.setting('mail.max_attempts'))::integer;
begin
  -- Nobody came back from the last try, or there is no address to send to.
  update private.mails m set
    state = 'dead', error = left(coalesce(m.error, case when m.attempts >= v_max then 'nobody came back from the last try' else 'the account has no e-mail address' end), 500)
  from auth.users u
  where u.id = m.user_id and m.state = 'waiting' and m.next_attempt_at <= now()
    and (m.attempts >= v_max or nullif(u.email, '') is null);
  return query
    with claimed as (
      select m.id from private.mails m
      where m.state = 'waiting' and m.next_attempt_at <= now()
      order by m.next_attempt_at limit claim_mails.batch_size
      for update skip locked
    )
    update private.mails m set
      attempts = m.attempts + 1,
      -- Whoever does not come back is replaced after five minutes; later tries wait longer.
      next_attempt_at = now() + interval '5 minutes' * power(2, least(m.attempts, 8))
    from claimed c, auth.users u
    where m.id = c.id and u.id = m.user_id
    returning m.id, u.email::text, m.subject, m.body, m.attempts;
end $$;
comment on function private.claim_mails(integer) is
  'Takes waiting mails for sending, each for one worker. A worker that dies between sending and finish_mail lets the mail be sent again: at least once.';

create function private.finish_mail(mail_id uuid, attempt integer, error text default null) returns text
language sql volatile security invoker set search_path = ''
as $$
  update private.mails m set
    state = case
      when finish_mail.error is null then 'sent'
      when m.attempts >= (private.setting('mail.max_attempts'))::integer then 'dead'
      else 'waiting' end,
    sent_at = case when finish_mail.error is null then now() end,
    error = left(finish_mail.error, 500)
  where m.id = finish_mail.mail_id and m.state = 'waiting' and m.attempts = finish_mail.attempt
  returning m.state
$$;
comment on function private.finish_mail(uuid, integer, text) is
  'Notes that a mail was sent (error null), or why not; after mail.max_attempts tries it is dead. Answers the state; null when another worker has taken the mail meanwhile.';
