-- Settings of sessions, lock-out and second factors. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('sessions.idle_hours', '168', 'A session ends after this many hours without a refresh, on every plan of the platform.'),
  ('sessions.absolute_hours', '720', 'A session ends this many hours after its sign-in, on every plan of the platform.'),
  ('sessions.max_per_user', '20', 'How many sessions a user can have; a further sign-in ends the oldest.'),
  ('sessions.max_devices_per_user', '50', 'How many devices are remembered for a user; the longest unused is forgotten.'),
  ('sessions.country_header', 'null', 'Name (lower case) of a request header in which the platform itself puts the country, such as "cf-ipcountry"; null: none.'),
  ('lock_out.failures', '5', 'Wrong passwords for an account from one network that lock the account for that network.'),
  ('lock_out.window_minutes', '15', 'The time in which those failures count.'),
  ('lock_out.minutes', '15', 'How long the first lock lasts; every further one twice as long.'),
  ('lock_out.max_minutes', '1440', 'How long a lock lasts at most, and how long after one the next is a first one again.'),
  ('lock_out.alert_failures', '20', 'Wrong passwords for one account within the window, from anywhere, that raise brute_force.'),
  ('lock_out.alert_failures_project', '500', 'Wrong passwords for all accounts within the window that raise brute_force.'),
  ('mfa.failures', '5', 'Wrong codes of a factor, or wrong recovery codes of a user, after which none is taken.'),
  ('mfa.window_minutes', '15', 'The time in which those failures count.')
on conflict (key) do nothing;
