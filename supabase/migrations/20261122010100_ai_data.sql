-- Meters, limits and settings of the AI gateway and of API keys. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('api_keys.environment', '"live"', 'The part of a new API key after pal_: lower-case letters, such as live, test or local, by which people and scanners know where it belongs.'),
  ('api_keys.max_per_user', '20', 'How many API keys that are neither revoked nor expired a user can have.'),
  ('api_keys.last_used_minutes', '5', 'How old the noted last use of an API key may be; fewer minutes mean more writes.'),
  ('api_keys.signature_window_seconds', '300', 'How far the time of a signed request may be from ours, in seconds.'),
  ('ai.project_usd_per_month', '1000', 'What all AI calls of a calendar month (UTC) may cost together, in US dollars; null: no cap.'),
  ('ai.price_drift_percent', '5', 'By how many percent what a provider says a day''s calls cost may differ from our prices before an event is raised.'),
  ('ai.breaker_failures', '5', 'Failures of a provider''s model in a row after which its circuit breaker opens.'),
  ('ai.breaker_window_seconds', '60', 'How long after a failure the next one still counts as in a row.'),
  ('ai.breaker_open_seconds', '60', 'How long an open circuit breaker rests before one call tries again.')
on conflict (key) do nothing;

insert into private.meters (slot, meter, period, is_held, is_open_without_row) values
  (1, 'ai_requests', 'minute', false, true),
  (2, 'chat_completions_requests', 'minute', false, true),
  (3, 'embeddings_requests', 'minute', false, true),
  (4, 'images_generations_requests', 'minute', false, true),
  (5, 'ai_concurrency', 'total', true, true),
  (6, 'ai_calls', 'day', true, false),
  (7, 'ai_tokens', 'month', true, false),
  (8, 'ai_spend_micros', 'month', true, true),
  (9, 'chat_sessions', 'day', false, false),
  (10, 'psychology_tests', 'month', false, false)
on conflict (slot) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount) values
  ('free', 'ai_requests', 'minute', 60),
  ('free', 'images_generations_requests', 'minute', 10),
  ('free', 'ai_concurrency', 'total', 10),
  ('free', 'ai_spend_micros', 'month', 5000000),
  ('premium', 'ai_requests', 'minute', 300),
  ('premium', 'images_generations_requests', 'minute', 60),
  ('premium', 'ai_concurrency', 'total', 50),
  ('premium', 'ai_spend_micros', 'month', 100000000)
on conflict (plan_id, meter, period) do nothing;

insert into private.rate_limits (route, amount, window_seconds) values ('ai', 100, 900) on conflict (route) do nothing;
