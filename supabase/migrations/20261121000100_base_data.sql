-- What every deployment starts with: settings, plans and their limits, and accounts for users who are already there.
-- Written by hand: pg-delta compares schemas, not rows. Later changes of these rows are migrations of their own.
set lock_timeout = '5s';

insert into private.settings (key, value, description) values
  ('credits.on_sign_up', '100', 'Credits that a new account starts with.'),
  ('quota.time_zone_change_days', '30', 'How often, in days, the zone of the daily limits may follow the profile''s time zone.'),
  ('ai.default_max_output_tokens', '4096', 'Output tokens reserved and asked for when a caller sets no max_tokens.'),
  ('ai.hold_grace_seconds', '60', 'How long after a provider''s total timeout a call counts as abandoned.')
on conflict (key) do nothing;

insert into public.plans (id, name, description, position) values
  ('free', 'Free', 'For getting started.', 1),
  ('premium', 'Premium', 'For everyday use.', 2)
on conflict (id) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount) values
  ('free', 'ai_calls', 'day', 50),
  ('free', 'ai_tokens', 'month', 100000),
  ('free', 'chat_sessions', 'day', 10),
  ('free', 'psychology_tests', 'month', 3),
  ('free', 'storage_bytes', 'total', 52428800),
  ('premium', 'ai_calls', 'day', 1000),
  ('premium', 'ai_tokens', 'month', 5000000),
  ('premium', 'chat_sessions', 'day', 200),
  ('premium', 'psychology_tests', 'month', 30),
  ('premium', 'storage_bytes', 'total', 5368709120)
on conflict (plan_id, meter, period) do nothing;

insert into private.providers (id, base_url, api_key_secret) values
  ('openrouter', 'https://openrouter.ai/api/v1', 'OPENROUTER_API_KEY')
on conflict (id) do nothing;

select private.create_ai_call_partitions();
select private.create_account(u.id) from auth.users u where not exists (select from public.profiles p where p.id = u.id);
