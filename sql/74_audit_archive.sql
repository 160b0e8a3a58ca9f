-- Audit archive: months that are over leave the database for a storage file; and the door from the clock to the functions.

insert into private.settings (key, value, rule, description) values
  ('audit.archive_part_entries', '20000', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Audit entries in one archive file.'),
  ('jobs.functions_url', 'null', '{"type": ["string", "null"], "pattern": "^https?://[^ ]+$"}', 'Where the functions are, https://<ref>.supabase.co/functions/v1. With the Vault secret palisade_secret_key it lets jobs call them; null: they call nothing.')
on conflict (key) do nothing;

insert into storage.buckets (id, name, public) values ('audit-archive', 'audit-archive', false)
on conflict (id) do nothing;

create function private.next_audit_archive() returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_days integer := (private.setting('audit.online_days'))::integer;
  v_part_entries integer := (private.setting('audit.archive_part_entries'))::integer;
  v_head private.audit_chain_heads;
  v_part integer;
  v_last_seq bigint;
begin
  for v_head in
    select h.* from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC' < now() - make_interval(days => v_days)
    order by h.month
  loop
    -- A month that was tampered with stays where it is, for people to look at. Later ones go on.
    if exists (select from private.verify_audit_chain(v_head.month, v_head.month) p where p.month = v_head.month) then
      perform private.raise_security_event(
        type => 'audit_chain_broken', severity => 'critical', user_id => null,
        details => jsonb_build_object('month', v_head.month), dedupe_key => v_head.month::text);
      continue;
    end if;
    select coalesce(max(a.part), 0), coalesce(max(a.last_seq), 0) into v_part, v_last_seq
    from private.audit_archives a where a.month = v_head.month;
    return jsonb_build_object(
      'month', v_head.month, 'is_complete', v_last_seq = v_head.seq, 'part', v_part + 1, 'first_seq', v_last_seq + 1,
      'last_seq', least(v_head.seq, v_last_seq + v_part_entries));
  end loop;
  return null;
end $$;
comment on function private.next_audit_archive() is
  'What the archive job does next, for the oldest month that ended more than audit.online_days ago: {month, part, first_seq, last_seq, is_complete}, is_complete when only the drop is left; null when nothing is due. A month whose chain is broken is passed over and raises a critical security event.';

create function private.read_audit_entries(month date, first_seq bigint, last_seq bigint) returns setof text
language sql stable security invoker set search_path = '' set timezone = 'UTC'
as $$
  select to_jsonb(a)::text from private.audit_log a
  where a.created_at >= read_audit_entries.month::timestamp at time zone 'UTC'
    and a.created_at < (read_audit_entries.month + interval '1 month') at time zone 'UTC'
    and a.seq between read_audit_entries.first_seq and read_audit_entries.last_seq
  order by a.seq
$$;
comment on function private.read_audit_entries(date, bigint, bigint) is 'Entries of one month as lines of JSON, in the chain''s order.';

create function private.record_audit_archive(part jsonb, sha256 text, path text) returns void
language sql volatile security invoker set search_path = ''
as $$
  insert into private.audit_archives (month, part, first_seq, last_seq, last_hash, sha256, path)
  select (part ->> 'month')::date, (part ->> 'part')::integer, (part ->> 'first_seq')::bigint, (part ->> 'last_seq')::bigint,
    a.hash, record_audit_archive.sha256, record_audit_archive.path
  from private.audit_log a
  where a.created_at >= (part ->> 'month')::timestamp at time zone 'UTC'
    and a.created_at < ((part ->> 'month')::timestamp + interval '1 month') at time zone 'UTC'
    and a.seq = (part ->> 'last_seq')::bigint
  on conflict do nothing
$$;
comment on function private.record_audit_archive(jsonb, text, text) is
  'Notes that a part of a month lies in the bucket, read back and compared. Harmless when it was noted before.';

create function private.drop_archived_audit_month(month date) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_table text := 'audit_log_' || to_char(drop_archived_audit_month.month, 'YYYYMM');
  v_head private.audit_chain_heads;
  v_archived record;
begin
  -- Writers wait while the month leaves the log. Better that this job comes back than that they wait for it.
  perform set_config('lock_timeout', '2s', true);
  select h.* into v_head from private.audit_chain_heads h where h.month = drop_archived_audit_month.month for update;
  if not found or to_regclass('private.' || v_table) is null then
    return false;
  end if;
  select coalesce(sum(a.last_seq - a.first_seq + 1), 0) as entries, coalesce(max(a.last_seq), 0) as last_seq,
    coalesce((array_agg(a.last_hash order by a.last_seq desc))[1], '') as last_hash
  into v_archived from private.audit_archives a where a.month = drop_archived_audit_month.month;
  if v_archived.entries <> v_head.seq or v_archived.last_seq <> v_head.seq
    or v_archived.last_hash <> v_head.hash
    or exists (select from private.verify_audit_chain(v_head.month, v_head.month) p where p.month = v_head.month)
    or exists (select from private.audit_log_default d where private.audit_month(d.created_at) = v_head.month) then
    raise exception 'month % is not archived as it is', v_head.month;
  end if;
  execute format('alter table private.audit_log detach partition private.%I', v_table);
  execute format('drop table private.%I', v_table);
  perform private.audit(
    action => 'audit.archive', resource_type => 'audit_month', resource_id => v_head.month::text,
    details => jsonb_build_object('entries', v_archived.entries));
  return true;
end $$;
comment on function private.drop_archived_audit_month(date) is
  'The one way out of the log: takes a month away whose archive holds its whole chain, to the last hash. False when it is gone already; an error when the archive does not match.';

-- What the clock starts --------------------------------------------------------------------------------------------------

create function private.job_token(job text) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_seconds text := floor(extract(epoch from clock_timestamp()));
  v_key text := (select s.decrypted_secret from vault.decrypted_secrets s where s.name = 'palisade_secret_key');
begin
  return v_seconds || '.' || encode(extensions.hmac(
    convert_to('palisade job ' || job_token.job || ' ' || v_seconds, 'UTF8'), convert_to(v_key, 'UTF8'), 'sha256'), 'hex');
end $$;
comment on function private.job_token(text) is
  'What opens one job of the function jobs for five minutes: the time and an HMAC of job and time by the Vault secret palisade_secret_key, which the function has, too. pg_net''s queue may be read by every role, so the key itself is never in it. Null without the secret.';

create function private.call_jobs_function(path text) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_url text := nullif(private.setting('jobs.functions_url') #>> '{}', '');
  v_token text := private.job_token(call_jobs_function.path);
begin
  if v_url is null or v_token is null then
    if not exists (
      select from public.security_events e
      where e.user_id is null and e.type = 'jobs_not_configured' and e.last_seen_at > now() - interval '1 day') then
      perform private.raise_security_event(
        type => 'jobs_not_configured', severity => 'low', user_id => null, details => jsonb_build_object(
          'missing', case when v_url is null then 'setting jobs.functions_url' else 'Vault secret palisade_secret_key' end));
    end if;
    return null;
  end if;
  return net.http_post(
    url => rtrim(v_url, '/') || '/jobs/' || call_jobs_function.path,
    headers => jsonb_build_object('content-type', 'application/json', 'x-job-token', v_token),
    timeout_milliseconds => 60000);
end $$;
comment on function private.call_jobs_function(text) is
  'Has pg_net call an endpoint of the function jobs with private.job_token. Without address or key it calls nothing and raises one low security event a day.';

create function private.call_send_mails() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.write_mail_digests();
  select private.call_jobs_function('send-mails')
  where exists (select from private.mails m where m.state = 'waiting' and m.next_attempt_at <= now())
$$;
comment on function private.call_send_mails() is 'Writes the digests that are due, and calls the sender of mails when there is one to send.';

create function private.call_archive_audit() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.call_jobs_function('archive-audit')
  where exists (
    select from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC'
        < now() - make_interval(days => (private.setting('audit.online_days'))::integer))
$$;
comment on function private.call_archive_audit() is 'Calls the archiver when a month is due.';

create function private.delete_old_messages() returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  delete from private.mails m
  where m.state in ('sent', 'dead') and m.created_at < now() - make_interval(days => (private.setting('mail.keep_days'))::integer);
  delete from public.notifications n
  where n.created_at < now() - make_interval(days => (private.setting('notifications.keep_days'))::integer);
  delete from private.notice_counts n where n.hour_ends_at < now() - interval '1 day' and n.mails_held = 0;
  perform private.delete_old_undo_links();
  delete from private.security_events e
  where e.last_seen_at < now() - make_interval(days => (private.setting('security.keep_days'))::integer);
end $$;
comment on function private.delete_old_messages() is
  'Deletes finished mails, notifications and security events that are older than their settings say, counts of hours that are over, and links of mails that are over.';
