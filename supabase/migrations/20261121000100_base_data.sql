-- What every deployment starts with: settings, plans and their limits, and accounts for users who are already there.
-- Written by hand: pg-delta compares schemas, not rows. Later changes of these rows are migrations of their own.
set lock_timeout = '5s';
set statement_timeout = '60s';

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

-- One model to begin with, at the provider's list price of 2026; prices are rows, look them up before you offer a model.
insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, credits_per_call) values
  ('openai/gpt-4o-mini', 'openrouter', 'openai/gpt-4o-mini', 128000, 16384, 1)
on conflict (id) do nothing;

insert into public.model_prices
  (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok) values
  ('openai/gpt-4o-mini', '2026-01-01T00:00:00Z', 0.15, 0.60, 0.075)
on conflict (model_id, valid_from) do nothing;

insert into public.plan_models (plan_id, model_id) values
  ('free', 'openai/gpt-4o-mini'), ('premium', 'openai/gpt-4o-mini')
on conflict (plan_id, model_id) do nothing;

select private.create_ai_call_partitions();
select private.create_account(u.id) from auth.users u where not exists (select from public.profiles p where p.id = u.id);
