-- Settings of API keys. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('api_keys.environment', '"live"', 'The part of a new API key after pal_: lower-case letters, such as live, test or local, by which people and scanners know where it belongs.'),
  ('api_keys.max_per_user', '20', 'How many API keys that are neither revoked nor expired a user can have.'),
  ('api_keys.last_used_minutes', '5', 'How old the noted last use of an API key may be; fewer minutes mean more writes.')
on conflict (key) do nothing;
