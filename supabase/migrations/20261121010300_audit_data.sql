-- Rows for audit, security events and notifications. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('http.client_ip_header', '"x-forwarded-for"', 'Request header whose last address is the client''s. Behind Cloudflare (hosted Supabase): cf-connecting-ip.'),
  ('audit.online_days', '90', 'Days that audit entries stay in the database; older months are archived to Storage.'),
  ('security.dedupe_minutes', '60', 'Window within which the same security event counts up instead of piling up.'),
  ('notifications.mail_types', '["new_device", "new_network", "password_changed", "mfa_removed", "account_locked", "refresh_token_reuse", "role_changed"]', 'Types of notifications that are also sent by mail.'),
  ('mail.max_attempts', '6', 'Tries after which a mail is given up.')
on conflict (key) do nothing;

select private.create_audit_partitions();
