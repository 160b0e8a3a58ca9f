-- Local development only: a provider of ours that speaks OpenAI's protocol, and models on it. Never pushed to hosted
-- unless asked for (supabase db push --include-seed). The stack sets the provider's address at every start.
insert into private.providers (id, base_url, api_key_secret, stops_when_left) values
  ('demo', 'http://127.0.0.1:54325/v1', null, true)
on conflict (id) do nothing;

insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, credits_per_call) values
  ('demo/echo', 'demo', 'echo', 32768, 4096, 1)
on conflict (id) do nothing;

insert into public.model_prices
  (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok) values
  ('demo/echo', '2026-01-01T00:00:00Z', 0.15, 0.60, 0.075)
on conflict (model_id, valid_from, above_prompt_tokens, variant) do nothing;

insert into public.plan_models (plan_id, model_id) values
  ('free', 'demo/echo'), ('premium', 'demo/echo')
on conflict (plan_id, model_id) do nothing;
