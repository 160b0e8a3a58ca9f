-- Rows for audit, security events and notifications. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('http.client_ip_header', '["cf-connecting-ip", "x-forwarded-for"]', 'Request headers that tell the client''s address: the first that is there counts, its last address. Hosted Supabase sets cf-connecting-ip. Name only headers that your outermost proxy overwrites.'),
  ('audit.online_days', '90', 'Days that audit entries stay in the database; older months are archived to Storage.'),
  ('security.dedupe_minutes', '60', 'Window within which the same security event counts up instead of piling up.'),
  ('notifications.mail_types', '["new_device", "new_network", "password_changed", "mfa_removed", "account_locked", "refresh_token_reuse", "role_changed"]', 'Types of notifications that are also sent by mail.'),
  ('audit.archive_part_entries', '20000', 'Audit entries in one archive file.'),
  ('security.keep_days', '365', 'Days that security events are kept.'),
  ('notifications.keep_days', '180', 'Days that notifications are kept.'),
  ('mail.keep_days', '30', 'Days that mails are kept that were sent or given up.'),
  ('jobs.functions_url', 'null', 'Where the functions are, https://<ref>.supabase.co/functions/v1. With the Vault secret palisade_secret_key it lets jobs call them; null: they call nothing.'),
  ('mail.max_attempts', '6', 'Tries after which a mail is given up.')
on conflict (key) do nothing;

insert into storage.buckets (id, name, public) values ('audit-archive', 'audit-archive', false)
on conflict (id) do nothing;

select private.create_audit_partitions();
