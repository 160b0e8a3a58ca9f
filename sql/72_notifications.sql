-- Notifications: what a user should hear of, in the app and, where settings say so, by mail.

insert into private.settings (key, value, rule, description) values
  ('notifications.mail_types', '["new_device", "new_network", "mfa_removed", "account_locked", "account_frozen", "refresh_token_reuse", "role_changed"]', '{"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9_]{1,80}$"}}', 'Types of notifications that are also sent by mail.'),
  ('notifications.keep_days', '180', '{"type": "integer", "minimum": 1, "maximum": 36500}', 'Days that notifications are kept.'),
  ('notifications.max_per_hour', '20', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Notifications of one type that a user gets within an hour; what more there is counts up the last of them.'),
  ('mail.max_per_hour', '3', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Mails of one type that a user gets within an hour; what more there is comes as one mail when the hour is over.'),
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
  occurrences integer not null default 1 check (occurrences > 0),
  read_at timestamptz,
  created_at timestamptz not null default now()
);
comment on table public.notifications is
  'One message for one user. Its owner marks it as read or deletes it. The oldest go when there are more than notifications/total.';
comment on column public.notifications.occurrences is
  'For how many of its type it stands, of which it tells the last: above 1 when there were more than notifications.max_per_hour.';
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
  address text check (length(address) between 3 and 320),
  subject text not null check (length(subject) between 1 and 200),
  body text not null check (length(body) <= 2000),
  type text not null check (type ~ '^[a-z0-9_]+$' and length(type) <= 80),
  state text not null default 'waiting' check (state in ('waiting', 'sent', 'dead')),
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  error text check (length(error) <= 500),
  created_at timestamptz not null default now(),
  sent_at timestamptz
);
comment on table private.mails is 'Mails to send, in the transaction that had the reason.';
comment on column private.mails.address is 'Null: the account''s, looked up when it is sent. An address that the account had before hears that it has another.';
comment on column private.mails.type is 'That of the notification; digest: tells of what was held back.';
comment on column private.mails.next_attempt_at is 'Not before; while a worker has the mail, when another may take it.';
create index mails_user_id_idx on private.mails (user_id, created_at);
create index mails_next_attempt_at_idx on private.mails (next_attempt_at) where state = 'waiting';
revoke all on private.mails from anon, authenticated, service_role;

-- What comes too often ---------------------------------------------------------------------------------------------------

create table private.notice_counts (
  user_id uuid not null references auth.users (id) on delete cascade,
  type text not null check (length(type) <= 80),
  hour_ends_at timestamptz not null,
  notices integer not null check (notices > 0),
  mails_held integer not null default 0 check (mails_held >= 0),
  last_title text not null check (length(last_title) <= 200),
  last_at timestamptz not null,
  primary key (user_id, type)
) with (fillfactor = 70);
comment on table private.notice_counts is
  'How often a user was told of something within an hour that began with the first time, and what is still to be mailed of it.';
comment on column private.notice_counts.mails_held is 'Mails that were not sent, since there had been mail.max_per_hour; the next digest tells of them.';
create index notice_counts_mails_held_idx on private.notice_counts (hour_ends_at) where mails_held > 0;
create index notice_counts_hour_ends_at_idx on private.notice_counts (hour_ends_at);
revoke all on private.notice_counts from anon, authenticated, service_role;

create function private.count_notice(user_id uuid, type text, title text, is_mailed boolean, out notices integer, out is_held boolean)
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_max_mails integer := (private.setting('mail.max_per_hour'))::integer;
begin
  -- The row's newest version decides, so that as many pass as may, however many race.
  insert into private.notice_counts as n (user_id, type, hour_ends_at, notices, last_title, last_at)
  values (count_notice.user_id, count_notice.type, now() + interval '1 hour', 1, count_notice.title, now())
  on conflict on constraint notice_counts_pkey do update set
    -- One that ends later than in an hour is of a clock that was wrong.
    notices = case when n.hour_ends_at > now() and n.hour_ends_at <= clock_timestamp() + interval '1 hour' then n.notices + 1 else 1 end,
    hour_ends_at = case
      when n.hour_ends_at > now() and n.hour_ends_at <= clock_timestamp() + interval '1 hour' then n.hour_ends_at else excluded.hour_ends_at end,
    last_title = excluded.last_title, last_at = excluded.last_at
  returning n.notices into notices;
  is_held := is_mailed and notices > v_max_mails;
  if is_held then
    update private.notice_counts n set mails_held = n.mails_held + 1
    where n.user_id = count_notice.user_id and n.type = count_notice.type;
  end if;
end $$;
comment on function private.count_notice(uuid, text, text, boolean) is
  'Counts that a user is told of something: the how manieth it is within an hour, and whether its mail is held for the digest.';

create function private.leave_notification(user_id uuid, type text, title text, body text, data jsonb, notices integer) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_id uuid;
begin
  if notices > (private.setting('notifications.max_per_hour'))::integer then
    update public.notifications n set
      title = leave_notification.title, body = leave_notification.body, data = leave_notification.data,
      occurrences = n.occurrences + 1, read_at = null
    where n.id = (
      select l.id from public.notifications l where l.user_id = leave_notification.user_id and l.type = leave_notification.type
      order by l.created_at desc, l.id desc limit 1)
    returning n.id into v_id;
  end if;
  if v_id is null then
    insert into public.notifications (user_id, type, title, body, data)
    values (leave_notification.user_id, leave_notification.type, leave_notification.title, leave_notification.body, leave_notification.data)
    returning id into v_id;
    delete from public.notifications n where n.id in (
      select o.id from public.notifications o where o.user_id = leave_notification.user_id
      order by o.created_at desc, o.id desc
      offset (
        select coalesce(a.amount, 9223372036854775807) from private.meter_amounts a
        where a.user_id = leave_notification.user_id and a.meter = 'notifications' and a.period = 'total'));
  end if;
  return v_id;
end $$;
comment on function private.leave_notification(uuid, text, text, text, jsonb, integer) is
  'Writes a notification, or the last of its type anew when it is the how manieth (notices) of too many within an hour; the oldest go beyond notifications/total. Answers its id.';

create function private.tell_user(user_id uuid, type text, title text, body text, data jsonb, is_mailed boolean) returns uuid
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_count record;
begin
  select c.notices, c.is_held into v_count
  from private.count_notice(tell_user.user_id, tell_user.type, tell_user.title, tell_user.is_mailed) c;
  if is_mailed and not v_count.is_held then
    insert into private.mails (user_id, type, subject, body) values (tell_user.user_id, tell_user.type, tell_user.title, tell_user.body);
  end if;
  return private.leave_notification(
    tell_user.user_id, tell_user.type, tell_user.title, tell_user.body, coalesce(tell_user.data, '{}'), v_count.notices);
end $$;
comment on function private.tell_user(uuid, text, text, text, jsonb, boolean) is
  'Leaves a notification for a user, and when it is mailed a mail, as many as may come within an hour. The one way to either. Answers the notification''s id.';

create function private.notify_user(user_id uuid, type text, title text, body text, data jsonb default '{}', by_mail boolean default true)
returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write notifications.
begin
  return private.tell_user(notify_user.user_id, notify_user.type, notify_user.title, notify_user.body, notify_user.data,
    notify_user.by_mail and private.setting('notifications.mail_types') ? notify_user.type);
end $$;
comment on function private.notify_user(uuid, text, text, text, jsonb, boolean) is
  'Leaves a notification for a user, and a mail when notifications.mail_types names the type; with by_mail false the caller mails what it has to. Of more than notifications.max_per_hour of a type the last is written anew; of more mails than mail.max_per_hour one digest tells. Answers the notification''s id.';

create function private.write_mail_digests() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_user_id uuid;
  v_digest record;
  v_written integer := 0;
begin
  for v_user_id in
    select distinct n.user_id from private.notice_counts n
    where n.mails_held > 0 and n.hour_ends_at <= now()
      and not exists (
        select from private.mails m where m.user_id = n.user_id and m.created_at > now() - interval '1 hour' and m.type = 'digest')
    limit 1000
  loop
    with held as (
      select n.type, n.mails_held, n.last_title, n.last_at from private.notice_counts n
      where n.user_id = v_user_id and n.mails_held > 0 order by n.type for update
    ), told as (
      update private.notice_counts n set mails_held = 0 from held h where n.user_id = v_user_id and n.type = h.type
    )
    select sum(h.mails_held) as mails, string_agg(format('%s x %s, last at %s UTC', h.mails_held, h.last_title,
      to_char(h.last_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')), e'\n' order by h.mails_held desc, h.type) as lines
    into v_digest from held h;
    -- Another may have told it meanwhile.
    continue when v_digest.mails is null;
    insert into private.mails (user_id, type, subject, body)
    values (v_user_id, 'digest', format('%s more notices about your account', v_digest.mails),
      left(format(e'So much happened within an hour that not all of it was mailed one by one:\n\n%s\n\nThe app has the list.', v_digest.lines), 2000));
    v_written := v_written + 1;
  end loop;
  return v_written;
end $$;
comment on function private.write_mail_digests() is
  'Writes one mail to each user whose hour of too many mails is over, at most one an hour, which tells how many of each kind were not sent. A job runs it. Answers how many.';

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
    and (m.attempts >= v_max or nullif(coalesce(m.address, u.email), '') is null);
  return query
    with claimed as (
      select m.id from private.mails m join (
        -- Everybody's first, then everybody's second: who gets many waits for them, and nobody else does.
        select t.id, row_number() over (partition by t.user_id order by t.next_attempt_at, t.id) as turn from private.mails t
        where t.state = 'waiting' and t.next_attempt_at <= now()) t on t.id = m.id
      where m.state = 'waiting' and m.next_attempt_at <= now()
      order by t.turn, m.next_attempt_at limit claim_mails.batch_size
      for update of m skip locked
    )
    update private.mails m set
      attempts = m.attempts + 1,
      -- Whoever does not come back is replaced after five minutes; later tries wait longer.
      next_attempt_at = now() + interval '5 minutes' * power(2, least(m.attempts, 8))
    from claimed c, auth.users u
    where m.id = c.id and u.id = m.user_id
    returning m.id, coalesce(m.address, u.email::text), m.subject, m.body, m.attempts;
end $$;
comment on function private.claim_mails(integer) is
  'Takes waiting mails for sending, users in turn, each for one worker. A worker that dies between sending and finish_mail lets the mail be sent again: at least once.';

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
