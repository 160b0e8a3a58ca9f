-- What admission depends on beside the account: models, prices, routes, breakers. The gateway keeps a snapshot of it with a version,
-- works out routes and worst cases from that, and an admission by another version takes nothing.

insert into private.settings (key, value, rule, description) values
  ('ai.default_max_output_tokens', '4096', '{"type": "integer", "minimum": 1, "maximum": 10000000}', 'Output tokens reserved and asked for when a caller sets no max_tokens.'),
  ('ai.timeouts_charge', '"caller"', '{"enum": ["caller", "project"]}', 'Who pays the estimate for an answer that did not come in time: caller, or project, whose cap alone it is taken from.'),
  ('ai.hold_grace_seconds', '60', '{"type": "integer", "minimum": 0, "maximum": 86400}', 'How long after a provider''s total timeout a call counts as abandoned.'),
  ('ai.breaker_failures', '5', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'Failures of a provider''s model in a row after which its circuit breaker opens.'),
  ('ai.breaker_accounts', '3', '{"type": "integer", "minimum": 1, "maximum": 1000000}', 'From how many accounts those failures must come: who makes a model fail on purpose closes it for nobody else.'),
  ('ai.breaker_window_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 86400}', 'How long after a failure the next one still counts as in a row.'),
  ('ai.breaker_open_seconds', '60', '{"type": "integer", "minimum": 1, "maximum": 86400}', 'How long an open circuit breaker rests before one call tries again.')
on conflict (key) do nothing;

create table private.circuit_breakers (
  provider_id text not null references private.providers (id) on delete cascade,
  model_id text not null references public.models (id) on delete cascade,
  failures integer not null default 0 check (failures >= 0),
  open_until timestamptz,
  probe_until timestamptz,
  primary key (provider_id, model_id)
);
comment on table private.circuit_breakers is
  'Models of providers that fail, one row each; no row: all is well. Open until open_until; after that one call at a time tries (probe_until) until one succeeds.';
create index circuit_breakers_model_id_idx on private.circuit_breakers (model_id);
revoke all on private.circuit_breakers from anon, authenticated, service_role;

create table private.breaker_failures (
  provider_id text not null,
  model_id text not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  failures integer not null default 1 check (failures > 0),
  last_failed_at timestamptz not null default now(),
  primary key (provider_id, model_id, user_id),
  foreign key (provider_id, model_id) references private.circuit_breakers (provider_id, model_id) on delete cascade
);
comment on table private.breaker_failures is
  'Whose calls met the failures that a circuit breaker counts, one row for each account, as long as they count. A success ends them with the breaker''s row.';
create index breaker_failures_user_id_idx on private.breaker_failures (user_id);
revoke all on private.breaker_failures from anon, authenticated, service_role;

create table private.ai_config (
  one boolean primary key default true check (one),
  version bigint not null default 1,
  changes_at timestamptz not null default 'infinity'
);
comment on table private.ai_config is
  'One row. version rises in every transaction that changes what private.ai_snapshot tells, so that two with the same version tell the same.';
comment on column private.ai_config.changes_at is 'When the next price begins: from then on the version counts as another, without a change.';
revoke all on private.ai_config from anon, authenticated, service_role;
insert into private.ai_config (one) values (true) on conflict do nothing;

create function private.raise_ai_version() returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- The lock first, and what is true after it: of two new prices the second sees the first.
  perform from private.ai_config c for no key update;
  update private.ai_config c set version = c.version + 1,
    changes_at = coalesce((select min(p.valid_from) from public.model_prices p where p.valid_from > now()), 'infinity')
  where c.one;
end $$;
comment on function private.raise_ai_version() is 'Makes every snapshot of before worthless. To be called by whoever changes what is in it, in the same transaction.';

create function private.tg__ai_version() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: for whoever may change models, prices and settings.
begin
  perform private.raise_ai_version();
  return null;
end $$;
comment on function private.tg__ai_version() is 'What changed is in private.ai_snapshot.';
create trigger tg_models__ai_version after insert or update or delete or truncate on public.models
  for each statement execute function private.tg__ai_version();
create trigger tg_model_prices__ai_version after insert or update or delete or truncate on public.model_prices
  for each statement execute function private.tg__ai_version();
create trigger tg_providers__ai_version after insert or update or delete or truncate on private.providers
  for each statement execute function private.tg__ai_version();
create trigger tg_plan_models__ai_version after insert or update or delete or truncate on public.plan_models
  for each statement execute function private.tg__ai_version();
create trigger tg_model_fallbacks__ai_version after insert or update or delete or truncate on private.model_fallbacks
  for each statement execute function private.tg__ai_version();
create trigger tg_settings__ai_version after insert or update on private.settings
  for each row when (new.key in ('ai.default_max_output_tokens', 'ai.hold_grace_seconds', 'ai.timeouts_charge')) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_opened after insert on private.circuit_breakers
  for each row when (new.open_until is not null) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_changed after update on private.circuit_breakers
  for each row when (new.open_until is distinct from old.open_until) execute function private.tg__ai_version();
create trigger tg_circuit_breakers__ai_version_closed after delete on private.circuit_breakers
  for each row when (old.open_until is not null) execute function private.tg__ai_version();

create view private.prices_in_force with (security_invoker = true) as
select m.id as model_id, m.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, m.credits_per_call as credits,
  ceil(p.input_usd_per_mtok * 1000000)::bigint as input_pico,
  ceil(coalesce(p.cached_input_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cached_input_pico,
  ceil(coalesce(p.cache_write_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cache_write_pico,
  ceil(coalesce(p.cache_write_1h_usd_per_mtok, p.cache_write_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as cache_write_1h_pico,
  ceil(coalesce(p.audio_input_usd_per_mtok, p.input_usd_per_mtok) * 1000000)::bigint as audio_input_pico,
  ceil(p.output_usd_per_mtok * 1000000)::bigint as output_pico,
  ceil(coalesce(p.reasoning_usd_per_mtok, p.output_usd_per_mtok) * 1000000)::bigint as reasoning_pico,
  ceil(coalesce(p.audio_output_usd_per_mtok, p.output_usd_per_mtok) * 1000000)::bigint as audio_output_pico,
  ceil(coalesce(p.image_usd, 0) * 1000000000000)::bigint as image_pico,
  ceil(coalesce(p.search_usd, 0) * 1000000000000)::bigint as search_pico,
  ceil(p.request_usd * 1000000000000)::bigint as request_pico,
  array_remove(array[
    case when p.cache_write_usd_per_mtok is null then 'cache_write' end,
    case when p.cache_write_1h_usd_per_mtok is null then 'cache_write_1h' end,
    case when p.audio_input_usd_per_mtok is null then 'audio_input' end,
    case when p.audio_output_usd_per_mtok is null then 'audio_output' end,
    case when p.image_usd is null then 'image' end,
    case when p.search_usd is null then 'search' end], null) as unpriced
from public.models m
  cross join lateral (
    select distinct on (x.above_prompt_tokens, x.variant) x.* from public.model_prices x
    where x.model_id = m.id and x.valid_from <= now()
    order by x.above_prompt_tokens, x.variant, x.valid_from desc) p;
comment on view private.prices_in_force is
  'The prices of every model at this moment, by step and variant, in whole pico-dollars for a unit of each kind, rounded up where a price is finer: what private.price_refs keeps. unpriced: units without a price of their own, so that a call which asks for one is refused; what is here for them is what they cost when they come unasked.';
revoke all on private.prices_in_force from anon, authenticated, service_role;

create view private.refs_in_force with (security_invoker = true) as
select r.ref, p.*
from private.prices_in_force p left join private.price_refs r
  on (r.model_id, r.provider_id, r.valid_from, r.above_prompt_tokens, r.variant, r.credits)
    = (p.model_id, p.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, p.credits)
  and (r.input_pico, r.cached_input_pico, r.cache_write_pico, r.cache_write_1h_pico, r.audio_input_pico)
    = (p.input_pico, p.cached_input_pico, p.cache_write_pico, p.cache_write_1h_pico, p.audio_input_pico)
  and (r.output_pico, r.reasoning_pico, r.audio_output_pico, r.image_pico, r.search_pico, r.request_pico)
    = (p.output_pico, p.reasoning_pico, p.audio_output_pico, p.image_pico, p.search_pico, p.request_pico);
comment on view private.refs_in_force is 'The prices of this moment with their rows in price_refs; ref is null as long as there is none.';
revoke all on private.refs_in_force from anon, authenticated, service_role;

create function private.ai_snapshot() returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
begin
  if exists (select from private.ai_config c where c.changes_at <= now()) then
    -- Of many who see it the first raises the version; the others look again when they have the lock.
    perform from private.ai_config c for no key update;
    if exists (select from private.ai_config c where c.changes_at <= now()) then
      perform private.raise_ai_version();
    end if;
  end if;
  -- Whoever changes something waits with the new version until this is done, so what follows belongs to the version of now.
  perform from private.ai_config c for share;
  insert into private.price_refs (
    model_id, provider_id, valid_from, above_prompt_tokens, variant, credits, input_pico, cached_input_pico, cache_write_pico,
    cache_write_1h_pico, audio_input_pico, output_pico, reasoning_pico, audio_output_pico, image_pico, search_pico, request_pico)
  select p.model_id, p.provider_id, p.valid_from, p.above_prompt_tokens, p.variant, p.credits, p.input_pico, p.cached_input_pico,
    p.cache_write_pico, p.cache_write_1h_pico, p.audio_input_pico, p.output_pico, p.reasoning_pico, p.audio_output_pico, p.image_pico,
    p.search_pico, p.request_pico
  from private.refs_in_force p where p.ref is null
  on conflict do nothing;
  return (
    select jsonb_build_object(
      'version', c.version,
      'default_max_output_tokens', private.setting('ai.default_max_output_tokens'),
      'hold_grace_seconds', private.setting('ai.hold_grace_seconds'),
      'timeouts_charge', private.setting('ai.timeouts_charge'),
      'providers', (select coalesce(jsonb_agg(to_jsonb(v) - 'enabled'), '[]') from private.providers v where v.enabled),
      'models', (select coalesce(jsonb_agg(to_jsonb(m)), '[]') from private.snapshot_models m))
    from private.ai_config c);
end $$;
comment on function private.ai_snapshot() is
  'What routes and worst cases are worked out from, as of one version: {version, default_max_output_tokens, hold_grace_seconds, timeouts_charge, providers: [{id, base_url, api_key_secret, connect_timeout_ms, ...}], models: [{id, provider_id, upstream_id, kind, context_tokens, max_output_tokens, tokens_per_second, template_percent, template_tokens, search_prompt_tokens, media, limit_field, open_fields, plans: [numbers], fallbacks: [ids], open_until: Unix seconds or null, prices: [{ref, above_prompt_tokens, variant, credits, input_pico, ..., unpriced: [units]}]}]}. Enabled ones only. prices are sorted by variant and step; each has its row in price_refs when this returns.';

create view private.snapshot_models with (security_invoker = true) as
select m.id, m.provider_id, m.upstream_id, m.kind, m.context_tokens, m.max_output_tokens, m.tokens_per_second, m.template_percent, m.template_tokens,
  m.search_prompt_tokens, m.media, m.limit_field, m.open_fields,
  (
    select coalesce(jsonb_agg(s.plan_number order by s.plan_number), '[]')
    from public.plan_models n join private.limit_sets s on s.plan_id = n.plan_id and s.user_id is null
    where n.model_id = m.id) as plans,
  (
    select coalesce(jsonb_agg(f.fallback_model_id order by f.position), '[]') from private.model_fallbacks f where f.model_id = m.id) as fallbacks,
  (
    select extract(epoch from b.open_until) from private.circuit_breakers b where b.provider_id = m.provider_id and b.model_id = m.id) as open_until,
  (
    select coalesce(jsonb_agg(to_jsonb(r) - '{model_id,provider_id,valid_from}'::text[] order by r.variant, r.above_prompt_tokens), '[]')
    from private.refs_in_force r where r.model_id = m.id and r.ref is not null) as prices
from public.models m join private.providers v on v.id = m.provider_id
where m.enabled and v.enabled;
comment on view private.snapshot_models is 'The models in private.ai_snapshot.';
revoke all on private.snapshot_models from anon, authenticated, service_role;

-- Breakers -------------------------------------------------------------------------------------------------------------

create function private.may_probe(provider_id text, model_id text) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- Nobody waits for the row: whoever finds it locked is not the one who tries.
  update private.circuit_breakers b set probe_until = now() + interval '10 seconds'
  where (b.provider_id, b.model_id) in (
    select o.provider_id, o.model_id from private.circuit_breakers o
    where o.provider_id = may_probe.provider_id and o.model_id = may_probe.model_id
      and (o.probe_until is null or o.probe_until <= now())
    for update skip locked);
  return found;
end $$;
comment on function private.may_probe(text, text) is
  'Whether this call is the one that tries a half-open breaker; it has ten seconds before another may.';

create function private.report_ai_attempts(reports jsonb) returns void
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: the gateway's role can do this and nothing else.
declare
  v_reports jsonb;
  v_report record;
begin
  select jsonb_agg(r.value order by m.provider_id, m.id) into v_reports
  from jsonb_array_elements(reports) r join public.models m on m.id = r.value ->> 'model' and m.provider_id = r.value ->> 'provider';
  perform private.lock_breakers(v_reports);
  for v_report in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as model_id, (r.value ->> 'user_id')::uuid as user_id,
      (r.value ->> 'ok')::boolean as is_ok
    from jsonb_array_elements(v_reports) with ordinality r order by r.ordinality
  loop
    if v_report.is_ok then
      -- A row that somebody else has, and this one has not, came after the call that went well.
      delete from private.circuit_breakers b where (b.provider_id, b.model_id) in (
        select o.provider_id, o.model_id from private.circuit_breakers o
        where o.provider_id = v_report.provider_id and o.model_id = v_report.model_id for update skip locked);
    elsif v_report.user_id is not null then
      perform private.count_breaker_failure(v_report.provider_id, v_report.model_id, v_report.user_id);
    end if;
  end loop;
end $$;
comment on function private.report_ai_attempts(jsonb) is
  'Tells the breakers how askings of providers went: an array of {provider, model, user_id, ok}. ai.breaker_failures failures of ai.breaker_accounts accounts within ai.breaker_window_seconds open one for ai.breaker_open_seconds; a success closes it.';

create function private.lock_breakers(reports jsonb) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_model record;
begin
  for v_model in
    select r.value ->> 'provider' as provider_id, r.value ->> 'model' as id,
      coalesce(bool_or(not (r.value ->> 'ok')::boolean and r.value ->> 'user_id' is not null), false) as has_failures
    from jsonb_array_elements(reports) r group by 1, 2 order by 1, 2
  loop
    if v_model.has_failures then
      insert into private.circuit_breakers (provider_id, model_id) values (v_model.provider_id, v_model.id) on conflict do nothing;
    end if;
    perform from private.circuit_breakers b where b.provider_id = v_model.provider_id and b.model_id = v_model.id for update;
  end loop;
end $$;
comment on function private.lock_breakers(jsonb) is
  'Locks the rows of all models in reports, in one order, and before one of them opens or closes: that takes the lock of private.ai_config, and who has it must wait for no row.';

create function private.count_breaker_failure(provider_id text, model_id text, user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_counts_from timestamptz := now() - make_interval(secs => (private.setting('ai.breaker_window_seconds'))::integer);
  v_breaker private.circuit_breakers;
  v_failures bigint;
  v_accounts bigint;
begin
  -- Who has its row counts alone.
  insert into private.circuit_breakers as b (provider_id, model_id)
  values (count_breaker_failure.provider_id, count_breaker_failure.model_id)
  on conflict on constraint circuit_breakers_pkey do update set probe_until = null
  returning b.* into v_breaker;
  -- What is long ago is no part of this outage, and what was before the breaker rested says nothing of now.
  delete from private.breaker_failures f
  where f.provider_id = v_breaker.provider_id and f.model_id = v_breaker.model_id
    and f.last_failed_at < greatest(v_counts_from, v_breaker.open_until);
  insert into private.breaker_failures as f (provider_id, model_id, user_id)
  select v_breaker.provider_id, v_breaker.model_id, u.id from auth.users u where u.id = count_breaker_failure.user_id
  on conflict on constraint breaker_failures_pkey do update set failures = f.failures + 1, last_failed_at = now();
  select coalesce(sum(f.failures), 0), count(*) into v_failures, v_accounts
  from private.breaker_failures f where f.provider_id = v_breaker.provider_id and f.model_id = v_breaker.model_id;
  update private.circuit_breakers b set
    failures = v_failures,
    open_until = case when private.breaker_opens(v_breaker.open_until, v_failures, v_accounts)
      then now() + make_interval(secs => (private.setting('ai.breaker_open_seconds'))::integer) else b.open_until end
  where b.provider_id = v_breaker.provider_id and b.model_id = v_breaker.model_id;
end $$;
comment on function private.count_breaker_failure(text, text, uuid) is
  'Counts one failure that a call of this account met, and opens the breaker when it was the last one needed.';

create function private.breaker_opens(open_until timestamptz, failures bigint, accounts bigint) returns boolean
language plpgsql stable security invoker set search_path = ''
as $$
begin
  if open_until is null then
    return failures >= (private.setting('ai.breaker_failures'))::integer and accounts >= (private.setting('ai.breaker_accounts'))::integer;
  end if;
  -- Half open: two are enough, and one alone cannot keep it so.
  return open_until <= now() and accounts >= least(2, (private.setting('ai.breaker_accounts'))::integer);
end $$;
comment on function private.breaker_opens(timestamptz, bigint, bigint) is
  'Whether so many failures of so many accounts open a breaker that was open until then; null: that was closed.';
