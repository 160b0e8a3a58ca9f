-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

-- By hand: the diff takes pgsodium for a part of the platform, and new projects do not have it.
CREATE EXTENSION IF NOT EXISTS "pgsodium";

DROP FUNCTION "private"."open_provider_key"(uuid, uuid, text);

CREATE TABLE "private"."credential_secrets" ("credential_id" uuid NOT NULL, "field" text NOT NULL, "scheme" text NOT NULL, "data_key_id" uuid NOT NULL, "nonce" bytea NOT NULL, "ciphertext" bytea NOT NULL, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credential_secrets_ciphertext_check" CHECK (((octet_length(ciphertext) >= 32) AND (octet_length(ciphertext) <= 10000))), CONSTRAINT "credential_secrets_field_check" CHECK ((field = ANY (ARRAY['api_key'::text, 'api_secret'::text, 'passphrase'::text]))), CONSTRAINT "credential_secrets_nonce_check" CHECK ((octet_length(nonce) = 16)), CONSTRAINT "credential_secrets_pkey" PRIMARY KEY (credential_id, field));

CREATE TABLE "private"."data_keys" ("purpose" text NOT NULL, "scheme" text NOT NULL, "secret_id" uuid NOT NULL, "is_current" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "retired_at" timestamp with time zone, CONSTRAINT "data_keys_check" CHECK (((retired_at IS NULL) OR (NOT is_current))), CONSTRAINT "data_keys_purpose_check" CHECK ((purpose = ANY (ARRAY['credentials'::text, 'transfers'::text]))), CONSTRAINT "data_keys_scheme_check" CHECK ((scheme = ANY (ARRAY['aead-det'::text, 'A256CBC-HS512'::text]))), CONSTRAINT "data_keys_secret_id_key" UNIQUE (secret_id), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "data_keys_id_scheme_key" UNIQUE (id, scheme), CONSTRAINT "data_keys_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."exchanges" ("id" text NOT NULL, "name" text NOT NULL, "enabled" boolean NOT NULL DEFAULT true, "base_url" text, CONSTRAINT "exchanges_base_url_check" CHECK (((base_url ~ '^https?://'::text) AND (length(base_url) <= 200))), CONSTRAINT "exchanges_id_check" CHECK ((id ~ '^[a-z0-9]{2,40}$'::text)), CONSTRAINT "exchanges_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 80))), CONSTRAINT "exchanges_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."secret_transfers" ("user_id" uuid NOT NULL, "scheme" text NOT NULL, "data_key_id" uuid NOT NULL, "nonce" bytea NOT NULL, "ciphertext" bytea NOT NULL, "used_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "secret_transfers_ciphertext_check" CHECK (((octet_length(ciphertext) >= 32) AND (octet_length(ciphertext) <= 1000))), CONSTRAINT "secret_transfers_nonce_check" CHECK ((octet_length(nonce) = 16)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "secret_transfers_pkey" PRIMARY KEY (id));

CREATE TABLE "public"."credentials" ("user_id" uuid NOT NULL, "kind" text NOT NULL, "provider" text NOT NULL, "name" text NOT NULL, "last_four" text NOT NULL, "permissions" text[] NOT NULL DEFAULT '{}'::text[], "status" text NOT NULL DEFAULT 'pending'::text, "status_reason" text, "last_tested_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "credentials_kind_check" CHECK ((kind = ANY (ARRAY['exchange'::text, 'ai_provider'::text]))), CONSTRAINT "credentials_last_four_check" CHECK ((length(last_four) <= 4)), CONSTRAINT "credentials_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 100))), CONSTRAINT "credentials_permissions_check" CHECK ((cardinality(permissions) <= 20)), CONSTRAINT "credentials_provider_check" CHECK (((length(provider) >= 1) AND (length(provider) <= 80))), CONSTRAINT "credentials_status_check" CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'failed'::text]))), CONSTRAINT "credentials_status_reason_check" CHECK ((length(status_reason) <= 80)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "credentials_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."credentials" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."credentials" FORCE ROW LEVEL SECURITY;

CREATE TYPE "private"."sealed" AS ("scheme" text, "data_key_id" uuid, "nonce" bytea, "ciphertext" bytea);

CREATE OR REPLACE FUNCTION private.begin_credential_test(id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  perform private.lock_account(v_user_id);
  if not exists (select from public.credentials c where c.id = begin_credential_test.id and c.user_id = v_user_id) then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  -- Providers count failed keys against the address they come from, and that is ours.
  update public.credentials c set last_tested_at = now()
  where c.id = begin_credential_test.id
    and coalesce(c.last_tested_at, '-infinity') <= now() - make_interval(secs => (private.setting('credentials.test_pause_seconds'))::integer);
  if not found then
    perform private.raise_error('rate_limit_exceeded', 'This credential was tested a moment ago. Try again in a while.');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.cbc_hmac_tag(mac_key bytea, associated_data bytea, nonce bytea, ciphertext bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
  return substring(extensions.hmac(
    associated_data || nonce || ciphertext || int8send(8 * octet_length(associated_data)::bigint), mac_key, 'sha512') for 32);
end $function$;

CREATE OR REPLACE FUNCTION private.change_credential(id uuid, name text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  if change_credential.name is not null and private.text_or_null(change_credential.name, 100) is null then
    perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
  end if;
  if change_credential.name is null then
    delete from public.credentials c where c.id = change_credential.id and c.user_id = v_user_id;
  else
    update public.credentials c set name = private.text_or_null(change_credential.name, 100)
    where c.id = change_credential.id and c.user_id = v_user_id;
  end if;
  if not found then
    perform private.raise_error('not_found', 'You have no such credential.');
  end if;
  perform private.audit(action => case when change_credential.name is null then 'credential.delete' else 'credential.rename' end,
    resource_type => 'credential', resource_id => change_credential.id::text, user_id => v_user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.current_data_key(purpose text)
 RETURNS private.data_keys
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_key private.data_keys;
begin
  -- Locked until the transaction ends: a key cannot be retired between the choice and the row that uses it.
  select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
  if not found then
    perform pg_advisory_xact_lock(hashtextextended('private.data_keys ' || current_data_key.purpose, 0));
    select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
    if not found then
      perform private.new_data_key(current_data_key.purpose);
      select k.* into v_key from private.data_keys k where k.purpose = current_data_key.purpose and k.is_current for key share;
    end if;
  end if;
  return v_key;
end $function$;

CREATE OR REPLACE FUNCTION private.error_status(code text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE code WHEN 'invalid_request_error'::text THEN 400 WHEN 'invalid_api_key'::text THEN 401 WHEN 'model_not_priced'::text THEN 400 WHEN 'insufficient_credits'::text THEN 402 WHEN 'insufficient_quota'::text THEN 402 WHEN 'in_flight_budget_exhausted'::text THEN 402 WHEN 'account_pending'::text THEN 403 WHEN 'account_suspended'::text THEN 403 WHEN 'insufficient_aal'::text THEN 403 WHEN 'model_not_allowed'::text THEN 403 WHEN 'not_allowed'::text THEN 403 WHEN 'model_not_found'::text THEN 404 WHEN 'not_found'::text THEN 404 WHEN 'idempotency_key_reused'::text THEN 422 WHEN 'daily_quota_exceeded'::text THEN 429 WHEN 'rate_limit_exceeded'::text THEN 429 WHEN 'concurrency_limit'::text THEN 429 WHEN 'mfa_required'::text THEN 403 WHEN 'invalid_signature'::text THEN 401 WHEN 'spend_cap_reached'::text THEN 402 WHEN 'circuit_open'::text THEN 503 WHEN 'idempotency_in_progress'::text THEN 409 WHEN 'idempotency_not_replayable'::text THEN 409 WHEN 'credential_unreadable'::text THEN 409 ELSE NULL::integer END;

CREATE OR REPLACE FUNCTION private.keep_credentials_sealed()
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_resealed jsonb;
begin
  delete from private.secret_transfers t where t.created_at < now() - interval '1 hour';
  v_resealed := private.reseal_credentials();
  return v_resealed || jsonb_build_object('retired', private.retire_data_keys());
end $function$;

CREATE OR REPLACE FUNCTION private.new_data_key(purpose text)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_id uuid := private.uuid_v7();
  v_scheme text := private.setting('credentials.scheme') #>> '{}';
  v_name text := format('palisade %s %s', new_data_key.purpose, v_id);
  v_secret_id uuid;
begin
  -- One at a time; who seals meanwhile takes the old key, and a later pass of reseal_credentials finds what they sealed.
  perform pg_advisory_xact_lock(hashtextextended('private.data_keys ' || new_data_key.purpose, 0));
  if v_scheme = 'aead-det' then
    select k.id into v_secret_id from pgsodium.create_key(name := v_name) k;
  else
    v_secret_id := vault.create_secret(encode(extensions.gen_random_bytes(64), 'hex'), v_name, 'seals credentials: see private.data_keys');
  end if;
  update private.data_keys k set is_current = false where k.purpose = new_data_key.purpose and k.is_current;
  insert into private.data_keys (id, purpose, scheme, secret_id) values (v_id, new_data_key.purpose, v_scheme, v_secret_id);
  perform private.audit(action => 'data_key.create', resource_type => 'data_key', resource_id => v_id::text,
    details => jsonb_build_object('purpose', new_data_key.purpose, 'scheme', v_scheme));
  return v_id;
end $function$;

CREATE OR REPLACE FUNCTION private.note_credential_test(credential_id uuid, reason text, permissions text[] DEFAULT '{}'::text[])
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_service();
  update public.credentials c set
    status = case when note_credential_test.reason is null then 'active' else 'failed' end,
    status_reason = note_credential_test.reason, permissions = note_credential_test.permissions, last_tested_at = now()
  where c.id = note_credential_test.credential_id;
end $function$;

CREATE OR REPLACE FUNCTION private.open(credential_id uuid, purpose text, request_id text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_credential public.credentials;
  v_secret private.credential_secrets;
  v_plain text;
  v_fields jsonb := '{}';
  v_unreadable text[] := '{}';
  v_details jsonb := jsonb_build_object('purpose', open.purpose, 'request_id', left(open.request_id, 200));
begin
  if open.purpose = 'ai_call' and session_user = 'palisade_gateway' and (select auth.role()) is null then
    null; -- The gateway's own login, inside an admission: it cannot call this function itself.
  else
    perform private.require_service();
  end if;
  if coalesce(open.purpose not in ('test', 'sync', 'ai_call', 'rotation'), true) then
    perform private.raise_error('invalid_request_error', 'purpose must be test, sync, ai_call or rotation.');
  end if;
  -- Locked until the caller has what it reads: a rotation passes over it, so that no key is retired under an opening.
  select c.* into v_credential from public.credentials c where c.id = open.credential_id for no key update;
  if not found then
    return jsonb_build_object('opened', false, 'code', 'not_found');
  end if;
  for v_secret in select s.* from private.credential_secrets s where s.credential_id = open.credential_id order by s.field loop
    v_plain := private.unseal(
      row(v_secret.scheme, v_secret.data_key_id, v_secret.nonce, v_secret.ciphertext)::private.sealed,
      v_credential.user_id, private.secret_context(v_credential.id, v_secret.field));
    if v_plain is null then
      v_unreadable := v_unreadable || v_secret.field;
    else
      v_fields := v_fields || jsonb_build_object(v_secret.field, v_plain);
    end if;
  end loop;
  if v_unreadable <> '{}' or v_fields = '{}' then
    -- Remembered, so not raised: an error would take the event and the entry with it.
    update public.credentials c set status = 'failed', status_reason = 'unreadable' where c.id = v_credential.id;
    perform private.raise_security_event('credential_unreadable', 'critical', v_credential.user_id,
      v_details || jsonb_build_object('credential_id', v_credential.id, 'fields', v_unreadable), v_credential.id::text);
    perform private.audit(action => 'credential.open', resource_type => 'credential', resource_id => v_credential.id::text,
      user_id => v_credential.user_id, details => v_details, result => 'failed');
    return jsonb_build_object('opened', false, 'code', 'credential_unreadable');
  end if;
  perform private.audit(action => 'credential.open', resource_type => 'credential', resource_id => v_credential.id::text,
    user_id => v_credential.user_id, details => v_details);
  return jsonb_build_object('opened', true, 'user_id', v_credential.user_id, 'kind', v_credential.kind,
    'provider', v_credential.provider, 'fields', v_fields);
end $function$;

CREATE OR REPLACE FUNCTION private.open_provider_key(user_id uuid, credential_id uuid, provider_id text, request_id text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if not exists (
    select from public.credentials c
    where c.id = open_provider_key.credential_id and c.user_id = open_provider_key.user_id and c.kind = 'ai_provider'
      and c.provider = open_provider_key.provider_id and c.status = 'active') then
    return null;
  end if;
  return private.open(open_provider_key.credential_id, 'ai_call', open_provider_key.request_id) #>> '{fields,api_key}';
end $function$;

CREATE OR REPLACE FUNCTION private.plan_routes(plan private.ai_plan, request jsonb)
 RETURNS private.ai_plan
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_hold private.ai_holds := plan.hold;
  v_kind text := case v_hold.endpoint when 'embeddings' then 'embedding' when 'images.generations' then 'image' else 'chat' end;
  v_choices bigint := coalesce((request ->> 'choices')::bigint, 1);
  v_images bigint := coalesce((request ->> 'images')::bigint, 0);
  v_wish bigint := request ->> 'max_output_tokens';
  v_grace_s integer := (private.setting('ai.hold_grace_seconds'))::integer;
  v_route record;
  v_output bigint;
  v_refusal jsonb;
  v_param jsonb := jsonb_build_object('param', 'model');
  v_open_until timestamptz;
  v_timeout_ms bigint := 0;
  v_held jsonb := '[]';
  v_credential_id uuid := request ->> 'credential_id';
  v_own_key text;
begin
  plan.routes := '[]';
  v_hold.own_key := v_credential_id is not null;
  v_wish := coalesce(v_wish, (private.setting('ai.default_max_output_tokens'))::bigint);
  v_hold.credits := 0;
  v_hold.output_tokens := 0;
  v_hold.micros := 0;
  v_hold.prompt_tokens := (request ->> 'prompt_tokens_max')::bigint;
  v_refusal := jsonb_build_object('code', 'model_not_found', 'message', format('There is no model %s.', v_hold.model_id), 'details', v_param);
  for v_route in
    select c.position, m.id, m.upstream_id, m.kind, m.max_output_tokens, m.credits_per_call, p as provider,
      pm.plan_id is not null as is_in_plan, r.price, b.failures, b.open_until
    from (
      select v_hold.model_id as id, 0 as position
      union all
      select f.fallback_model_id, f.position from private.model_fallbacks f where f.model_id = v_hold.model_id) c
      join public.models m on m.id = c.id and m.enabled
      join private.providers p on p.id = m.provider_id and p.enabled
      left join public.plan_models pm on pm.model_id = m.id and pm.plan_id = plan.plan_id
      left join lateral (
        select x as price from public.model_prices x
        where x.model_id = m.id and x.valid_from <= now() order by x.valid_from desc limit 1) r on true
      left join private.circuit_breakers b on b.provider_id = p.id and b.model_id = m.id
    order by c.position
  loop
    if v_route.position = 0 then
      v_refusal := case
        when v_route.kind <> v_kind then jsonb_build_object('code', 'invalid_request_error',
          'message', format('The model %s is not for this endpoint: it is of the kind %s.', v_hold.model_id, v_route.kind), 'details', v_param)
        when not v_route.is_in_plan then jsonb_build_object('code', 'model_not_allowed',
          'message', format('Your plan does not include the model %s.', v_hold.model_id), 'details', v_param)
        when v_route.price is null then jsonb_build_object('code', 'model_not_priced',
          'message', format('The model %s has no price yet, so it cannot be used.', v_hold.model_id), 'details', v_param)
      end;
      v_hold.provider_id := (v_route.provider).id;
      v_hold.price_valid_from := (v_route.price).valid_from;
    end if;
    exit when v_refusal is not null;
    -- A fallback that would be refused by itself is none.
    continue when v_route.kind <> v_kind or not v_route.is_in_plan or v_route.price is null;
    if v_route.open_until is not null
      and (v_route.open_until > now() or not private.may_probe((v_route.provider).id, v_route.id)) then
      v_open_until := least(v_open_until, greatest(v_route.open_until, now() + interval '1 second'));
      continue;
    end if;
    if v_hold.own_key then
      v_own_key := private.open_provider_key(v_hold.user_id, v_credential_id, (v_route.provider).id, request ->> 'request_id');
      if v_own_key is null and v_route.position = 0 then
        v_refusal := jsonb_build_object('code', 'not_found', 'details', jsonb_build_object('param', 'credential'),
          'message', format('You have no such credential for the provider of %s.', v_hold.model_id));
        exit;
      end if;
      -- A fallback at another provider would be paid by somebody else.
      continue when v_own_key is null;
    end if;
    v_output := case when v_kind = 'chat' then least(v_wish, v_route.max_output_tokens) else 0 end;
    v_hold.output_tokens := greatest(v_hold.output_tokens, v_choices * v_output);
    if not v_hold.own_key then
      v_hold.credits := greatest(v_hold.credits, v_route.credits_per_call);
      v_hold.micros := greatest(v_hold.micros, private.ai_cost_micros(
        v_route.price, v_hold.prompt_tokens, 0, v_choices * v_output,
        case when (v_route.price).reasoning_usd_per_mtok > (v_route.price).output_usd_per_mtok then v_choices * v_output else 0 end,
        v_images));
    end if;
    v_timeout_ms := v_timeout_ms + (v_route.provider).total_timeout_ms;
    v_held := v_held || jsonb_build_object(
      'model', v_route.id, 'credits', case when v_hold.own_key then 0 else v_route.credits_per_call end, 'price_valid_from', (v_route.price).valid_from);
    plan.routes := plan.routes || (
      jsonb_build_object(
        'model', v_route.id, 'upstream_model', v_route.upstream_id, 'max_output_tokens', v_output,
        'provider', to_jsonb(v_route.provider) - 'enabled')
      || case when v_hold.own_key then jsonb_build_object('api_key', v_own_key) else '{}' end);
  end loop;
  if v_refusal is null and plan.routes = '[]' then
    v_refusal := jsonb_build_object('code', 'circuit_open',
      'message', format('The provider of %s fails at the moment; it is tried again soon.', v_hold.model_id),
      'details', jsonb_build_object('retry_after_s', ceil(extract(epoch from v_open_until - now()))));
  end if;
  if v_held <> '[]' and (jsonb_array_length(v_held) > 1 or v_held -> 0 ->> 'model' <> v_hold.model_id) then
    v_hold.routes := v_held;
  end if;
  v_hold.expires_at := now() + make_interval(
    secs => v_timeout_ms / 1000.0 + v_grace_s);
  plan.refusal := v_refusal;
  plan.hold := v_hold;
  return plan;
end $function$;

CREATE OR REPLACE FUNCTION private.reseal_credentials(batch integer DEFAULT 100)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_key private.data_keys := private.current_data_key('credentials');
  v_credential public.credentials;
  v_opened jsonb;
  v_field record;
  v_resealed integer := 0;
begin
  -- Locked, so that a key that its owner changes meanwhile is not overwritten by the one it replaced; who holds one is skipped.
  for v_credential in
    select c.* from public.credentials c
    where c.status_reason is distinct from 'unreadable' and exists (
      select from private.credential_secrets s where s.credential_id = c.id and s.data_key_id <> v_key.id)
    order by c.id limit reseal_credentials.batch for update skip locked
  loop
    v_opened := private.open(v_credential.id, 'rotation');
    continue when not (v_opened ->> 'opened')::boolean;
    for v_field in select f.key, f.value from jsonb_each_text(v_opened -> 'fields') f loop
      perform private.store_secret(v_credential.id, v_credential.user_id, v_field.key, v_field.value);
    end loop;
    v_resealed := v_resealed + 1;
  end loop;
  return jsonb_build_object('resealed', v_resealed,
    'left', (
      select count(distinct s.credential_id) from private.credential_secrets s
        join public.credentials c on c.id = s.credential_id
      where s.data_key_id <> v_key.id and c.status_reason is distinct from 'unreadable'),
    'unreadable', (select count(*) from public.credentials c where c.status_reason = 'unreadable'));
end $function$;

CREATE OR REPLACE FUNCTION private.retire_data_keys()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_key private.data_keys;
  v_retired integer := 0;
begin
  -- Whoever seals holds the key's row: those keys wait for the next time.
  for v_key in
    select k.* from private.data_keys k where not k.is_current and k.retired_at is null order by k.id for update skip locked
  loop
    continue when exists (select from private.credential_secrets s where s.data_key_id = v_key.id)
      or exists (select from private.secret_transfers t where t.data_key_id = v_key.id);
    update private.data_keys k set retired_at = now() where k.id = v_key.id;
    if v_key.scheme <> 'aead-det' then
      delete from vault.secrets s where s.id = v_key.secret_id;
    end if;
    perform private.audit(action => 'data_key.retire', resource_type => 'data_key', resource_id => v_key.id::text,
      details => jsonb_build_object('purpose', v_key.purpose, 'scheme', v_key.scheme));
    v_retired := v_retired + 1;
  end loop;
  return v_retired;
end $function$;

CREATE OR REPLACE FUNCTION private.rotate_credential_keys()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  perform private.new_data_key('credentials');
  perform private.new_data_key('transfers');
end $function$;

CREATE OR REPLACE FUNCTION private.save_credential(transfer_id uuid, nonce bytea, ciphertext bytea, credential_id uuid, kind text, provider text, name text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_transfer record;
  v_credential public.credentials;
  v_key text;
  v_field record;
begin
  perform private.require_service();
  select t.* into v_transfer from private.take_secret_transfer(save_credential.transfer_id, save_credential.nonce, save_credential.ciphertext) t;
  v_key := v_transfer.content ->> 'api_key';
  if coalesce(v_key, '') = '' then
    perform private.raise_error('invalid_request_error', 'api_key is missing.');
  end if;
  if save_credential.credential_id is null then
    perform private.lock_account(v_transfer.user_id);
    if (select count(*) from public.credentials c where c.user_id = v_transfer.user_id)
      >= (private.setting('credentials.max_per_user'))::integer then
      perform private.raise_error('invalid_request_error',
        format('You have %s credentials, and more are not possible. Delete one first.', private.setting('credentials.max_per_user')));
    end if;
    if private.text_or_null(save_credential.name, 100) is null then
      perform private.raise_error('invalid_request_error', 'name must be given, with up to 100 characters.');
    end if;
    if not (case save_credential.kind
      when 'exchange' then exists (select from private.exchanges e where e.id = save_credential.provider and e.enabled)
      when 'ai_provider' then exists (select from private.providers p where p.id = save_credential.provider)
      else false end) then
      perform private.raise_error('not_found', 'There is no such exchange or AI provider here.');
    end if;
    insert into public.credentials (user_id, kind, provider, name, last_four)
    values (v_transfer.user_id, save_credential.kind, save_credential.provider, private.text_or_null(save_credential.name, 100), '')
    returning * into v_credential;
  else
    select c.* into v_credential from public.credentials c
    where c.id = save_credential.credential_id and c.user_id = v_transfer.user_id for update;
    if not found then
      perform private.raise_error('not_found', 'You have no such credential.');
    end if;
    delete from private.credential_secrets s where s.credential_id = v_credential.id;
  end if;
  update public.credentials c set
    -- Of a key of less than 16 characters four are too much to show.
    last_four = case when length(v_key) >= 16 then right(v_key, 4) else '' end,
    status = 'pending', status_reason = null, permissions = '{}', last_tested_at = null
  where c.id = v_credential.id;
  for v_field in
    select f.key, f.value from jsonb_each_text(v_transfer.content) f
    where f.key in ('api_key', 'api_secret', 'passphrase') and f.value is not null
  loop
    perform private.store_secret(v_credential.id, v_credential.user_id, v_field.key, v_field.value);
  end loop;
  perform private.audit(
    action => case when save_credential.credential_id is null then 'credential.create' else 'credential.rotate' end,
    resource_type => 'credential', resource_id => v_credential.id::text, user_id => v_credential.user_id,
    details => jsonb_build_object('kind', v_credential.kind, 'provider', v_credential.provider));
  return jsonb_build_object('id', v_credential.id);
end $function$;

CREATE OR REPLACE FUNCTION private.seal(plain text, owner uuid, context text, purpose text DEFAULT 'credentials'::text)
 RETURNS private.sealed
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_key private.data_keys := private.current_data_key(seal.purpose);
  v_data bytea := convert_to(seal.owner::text || '/' || seal.context, 'UTF8');
  v_nonce bytea;
  v_secret bytea;
  v_ciphertext bytea;
begin
  if seal.plain is null or seal.owner is null or seal.context is null then
    raise exception using errcode = '22004', message = 'private.seal: plain, owner and context must be given';
  end if;
  if v_key.scheme = 'aead-det' then
    v_nonce := pgsodium.crypto_aead_det_noncegen();
    v_ciphertext := pgsodium.crypto_aead_det_encrypt(convert_to(seal.plain, 'UTF8'), v_data, v_key.secret_id, v_nonce);
  else
    select decode(s.decrypted_secret, 'hex') into strict v_secret from vault.decrypted_secrets s where s.id = v_key.secret_id;
    v_nonce := extensions.gen_random_bytes(16);
    v_ciphertext := extensions.encrypt_iv(convert_to(seal.plain, 'UTF8'), substring(v_secret from 33), v_nonce, 'aes-cbc/pad:pkcs');
    v_ciphertext := v_ciphertext || private.cbc_hmac_tag(substring(v_secret for 32), v_data, v_nonce, v_ciphertext);
  end if;
  return row(v_key.scheme, v_key.id, v_nonce, v_ciphertext)::private.sealed;
end $function$;

CREATE OR REPLACE FUNCTION private.secret_context(credential_id uuid, field text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN ((('credential_secrets/'::text || credential_id) || '/'::text) || field);

CREATE OR REPLACE FUNCTION private.start_secret_transfer()
 RETURNS TABLE(transfer_id uuid, key text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_sealed private.sealed;
begin
  perform private.require_aal2();
  -- Attempts of one user come one after the other, so that the limit holds.
  perform private.lock_account(v_user_id);
  if (select count(*) from private.secret_transfers t where t.user_id = v_user_id and t.created_at > now() - interval '1 hour')
    >= (private.setting('credentials.changes_per_hour'))::integer then
    perform private.raise_error('rate_limit_exceeded',
      format('Credentials can be added or changed %s times an hour. Try again later.', private.setting('credentials.changes_per_hour')));
  end if;
  transfer_id := private.uuid_v7();
  key := encode(extensions.gen_random_bytes(64), 'hex');
  v_sealed := private.seal(key, v_user_id, 'secret_transfers/' || transfer_id, 'transfers');
  insert into private.secret_transfers (id, user_id, scheme, data_key_id, nonce, ciphertext)
  values (transfer_id, v_user_id, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext);
  return next;
end $function$;

CREATE OR REPLACE FUNCTION private.store_secret(credential_id uuid, owner uuid, field text, plain text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_sealed private.sealed := private.seal(
    store_secret.plain, store_secret.owner, private.secret_context(store_secret.credential_id, store_secret.field));
begin
  insert into private.credential_secrets (credential_id, field, scheme, data_key_id, nonce, ciphertext)
  values (store_secret.credential_id, store_secret.field, v_sealed.scheme, v_sealed.data_key_id, v_sealed.nonce, v_sealed.ciphertext)
  on conflict on constraint credential_secrets_pkey do update set
    scheme = excluded.scheme, data_key_id = excluded.data_key_id, nonce = excluded.nonce, ciphertext = excluded.ciphertext;
end $function$;

CREATE OR REPLACE FUNCTION private.take_secret_transfer(transfer_id uuid, nonce bytea, ciphertext bytea, OUT user_id uuid, OUT content jsonb)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_transfer private.secret_transfers;
  v_key bytea;
  v_body bytea := substring(take_secret_transfer.ciphertext for octet_length(take_secret_transfer.ciphertext) - 32);
  v_once bytea := extensions.gen_random_bytes(32);
  v_text text;
begin
  update private.secret_transfers t set used_at = now()
  where t.id = take_secret_transfer.transfer_id and t.used_at is null and t.created_at > now() - interval '1 minute'
  returning t.* into v_transfer;
  if not found then
    perform private.raise_error('invalid_request_error', 'The transfer is unknown, used or too old. Start another.');
  end if;
  v_key := decode(private.unseal(
    row(v_transfer.scheme, v_transfer.data_key_id, v_transfer.nonce, v_transfer.ciphertext)::private.sealed,
    v_transfer.user_id, 'secret_transfers/' || v_transfer.id), 'hex');
  if extensions.hmac(private.cbc_hmac_tag(substring(v_key for 32), convert_to(v_transfer.id::text, 'UTF8'),
      take_secret_transfer.nonce, v_body), v_once, 'sha256')
    is distinct from extensions.hmac(
      substring(take_secret_transfer.ciphertext from octet_length(v_body) + 1), v_once, 'sha256') then
    perform private.raise_error('invalid_request_error', 'The content does not belong to the transfer.');
  end if;
  user_id := v_transfer.user_id;
  v_text := convert_from(extensions.decrypt_iv(
    v_body, substring(v_key from 33), take_secret_transfer.nonce, 'aes-cbc/pad:pkcs'), 'UTF8');
  -- Not by a cast: its error would tell a part of the text.
  if not pg_input_is_valid(v_text, 'jsonb') then
    perform private.raise_error('invalid_request_error', 'The content of the transfer is not JSON.');
  end if;
  content := v_text::jsonb;
end $function$;

CREATE OR REPLACE FUNCTION private.unseal(value private.sealed, owner uuid, context text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_key private.data_keys;
  v_data bytea := convert_to(unseal.owner::text || '/' || unseal.context, 'UTF8');
  v_secret bytea;
  v_tag bytea;
  v_once bytea;
begin
  select k.* into v_key from private.data_keys k
  where k.id = (unseal.value).data_key_id and k.scheme = (unseal.value).scheme and k.retired_at is null;
  if not found or (unseal.value).nonce is null or (unseal.value).ciphertext is null then
    return null;
  end if;
  if v_key.scheme = 'aead-det' then
    return convert_from(pgsodium.crypto_aead_det_decrypt(
      (unseal.value).ciphertext, v_data, v_key.secret_id, (unseal.value).nonce), 'UTF8');
  end if;
  select decode(s.decrypted_secret, 'hex') into strict v_secret from vault.decrypted_secrets s where s.id = v_key.secret_id;
  v_tag := private.cbc_hmac_tag(substring(v_secret for 32), v_data, (unseal.value).nonce,
    substring((unseal.value).ciphertext for octet_length((unseal.value).ciphertext) - 32));
  -- Both are hashed under a key that is used once: how long the comparison takes says nothing about the tag.
  v_once := extensions.gen_random_bytes(32);
  if extensions.hmac(v_tag, v_once, 'sha256') is distinct from extensions.hmac(
      substring((unseal.value).ciphertext from octet_length((unseal.value).ciphertext) - 31), v_once, 'sha256') then
    return null;
  end if;
  return convert_from(extensions.decrypt_iv(
    substring((unseal.value).ciphertext for octet_length((unseal.value).ciphertext) - 32),
    substring(v_secret from 33), (unseal.value).nonce, 'aes-cbc/pad:pkcs'), 'UTF8');
exception
  -- What does not verify, is too short, or has a key that is gone. The message of the library goes nowhere.
  when data_exception or no_data_found then return null;
end $function$;

CREATE OR REPLACE FUNCTION public.delete_credential(id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credential(delete_credential.id, null) $function$;

CREATE OR REPLACE FUNCTION public.rename_credential(id uuid, name text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_credential(rename_credential.id, coalesce(rename_credential.name, '')) $function$;

CREATE OR REPLACE FUNCTION public.start_credential_test(id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.begin_credential_test(start_credential_test.id) $function$;

CREATE OR REPLACE FUNCTION public.start_secret_transfer()
 RETURNS TABLE(transfer_id uuid, key text)
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select * from private.start_secret_transfer() $function$;

ALTER TABLE "private"."secret_transfers" ADD CONSTRAINT "secret_transfers_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."credentials" ADD CONSTRAINT "credentials_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE INDEX credential_secrets_data_key_id_idx ON private.credential_secrets USING btree (data_key_id, scheme);

CREATE UNIQUE INDEX data_keys_current_idx ON private.data_keys USING btree (purpose) WHERE is_current;

CREATE INDEX secret_transfers_created_at_idx ON private.secret_transfers USING btree (created_at);

CREATE INDEX secret_transfers_data_key_id_idx ON private.secret_transfers USING btree (data_key_id, scheme);

CREATE INDEX secret_transfers_user_id_created_at_idx ON private.secret_transfers USING btree (user_id, created_at);

CREATE INDEX credentials_user_id_idx ON public.credentials USING btree (user_id);

CREATE TRIGGER tg_credentials__timestamps BEFORE INSERT OR UPDATE ON public.credentials FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."credentials" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their credentials" ON "public"."credentials" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

COMMENT ON COLUMN "private"."data_keys"."retired_at" IS 'When nothing used it any more. It opens nothing from then on.';

COMMENT ON COLUMN "private"."data_keys"."scheme" IS 'aead-det: XChaCha20-SIV by pgsodium. A256CBC-HS512: AES and HMAC by pgcrypto as RFC 7518, 5.2.5, for the day pgsodium leaves.';

COMMENT ON COLUMN "private"."data_keys"."secret_id" IS 'aead-det: pgsodium.key.id, derived from the server''s root key. A256CBC-HS512: a secret in Vault, 64 bytes as hex.';

COMMENT ON COLUMN "private"."exchanges"."base_url" IS 'Another address than the exchange''s own, such as the local stand-in''s; null: the exchange''s own.';

COMMENT ON COLUMN "public"."credentials"."last_four" IS 'The end of the key, by which its owner knows it; empty for a key too short to show any of it.';

COMMENT ON COLUMN "public"."credentials"."permissions" IS 'What the provider said the key may do, when it was tested.';

COMMENT ON COLUMN "public"."credentials"."provider" IS 'The exchange''s id, or of an AI provider private.providers.id.';

COMMENT ON COLUMN "public"."credentials"."status_reason" IS 'Why it is not active: a code such as wrong_key, clock_skew, ip_not_allowed, provider_down or unreadable.';

COMMENT ON FUNCTION "private"."begin_credential_test"(uuid) IS 'Behind public.start_credential_test. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) IS 'The authentication tag of A256CBC-HS512 (RFC 7518, 5.2.2.1): HMAC-SHA-512 over data, nonce, ciphertext and the data''s length in bits, cut to 32 bytes.';

COMMENT ON FUNCTION "private"."change_credential"(uuid, text) IS 'Behind public.rename_credential and, with name null, public.delete_credential. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."current_data_key"(text) IS 'The key that seals now; the first time it is made.';

COMMENT ON FUNCTION "private"."keep_credentials_sealed"() IS 'What a job does of a rotation every minute: a batch of credentials under the current key, old transfers forgotten, unused keys retired. Answers {resealed, left, unreadable, retired}.';

COMMENT ON FUNCTION "private"."new_data_key"(text) IS 'Makes the key that seals from now on, by the scheme in the setting credentials.scheme. purpose: credentials or transfers. Answers its id. reseal_credentials moves what the old key sealed.';

COMMENT ON FUNCTION "private"."note_credential_test"(uuid, text, text[]) IS 'What a test of a credential came to: reason null, and it is active; else why it failed, as a code. permissions as the provider told them. For the service role. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."open"(uuid, text, text) IS 'The only way to a credential''s secrets, for the service role: purpose is test, sync, ai_call or rotation, and every opening is audited with it and the request''s id. Answers {opened: true, user_id, kind, provider, fields: {api_key, ...}} or {opened: false, code: not_found | credential_unreadable}; what does not verify fails the credential and raises a critical event. Definer: nobody may read the secrets.';

COMMENT ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) IS 'The key of a provider that a user keeps in the credential vault; null when there is none such that is active and opens.';

COMMENT ON FUNCTION "private"."reseal_credentials"(integer) IS 'Moves up to batch credentials to the current key, in one transaction; call it until nothing is left, from as many places as you like. Readers read meanwhile, and it goes on where it was after a crash. Answers {resealed, left, unreadable}.';

COMMENT ON FUNCTION "private"."retire_data_keys"() IS 'Retires older keys that nothing uses: they open nothing any more, and those in Vault are destroyed (role postgres cannot destroy pgsodium''s). Answers how many.';

COMMENT ON FUNCTION "private"."rotate_credential_keys"() IS 'Begins a rotation: new keys. A job runs it every quarter; keep_credentials_sealed does the rest.';

COMMENT ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) IS 'Seals what travelled under a transfer as a new credential of its user (credential_id null; kind exchange | ai_provider, provider, name), or in the place of an existing one''s secrets. It is pending until note_credential_test. Answers {id}. For the service role. Definer: credentials are written by functions only.';

COMMENT ON FUNCTION "private"."seal"(text, uuid, text, text) IS 'Encrypts a text under the current key of its purpose, with a random nonce, bound to its owner and context: the table, row and field where it will be. Plans are generic, so that no plan that is logged holds it.';

COMMENT ON FUNCTION "private"."secret_context"(uuid, text) IS 'The place that a sealed field is bound to, beside its owner.';

COMMENT ON FUNCTION "private"."start_secret_transfer"() IS 'Behind public.start_secret_transfer. Definer: transfers are written by functions only.';

COMMENT ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) IS 'Seals one field of a credential under the current key, in the place of what was there.';

COMMENT ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) IS 'Opens what travelled under a transfer''s key, once: its user and the JSON. Errors say nothing of the content.';

COMMENT ON FUNCTION "private"."unseal"(private.sealed, uuid, text) IS 'The text that was sealed for this owner and context; null when it was changed, cut, moved from elsewhere, or its key is unknown or retired. Asks nobody and tells nobody: private.open is the door.';

COMMENT ON FUNCTION "public"."delete_credential"(uuid) IS 'Deletes a credential of the caller''s with its sealed secrets, at once. Needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."rename_credential"(uuid, text) IS 'Gives a credential of the caller''s another name, of 1 to 100 characters. Needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."start_credential_test"(uuid) IS 'For the function credentials, in the caller''s name: whether the caller may have a credential tested now. Once in credentials.test_pause_seconds; needs the second factor when there is one.';

COMMENT ON FUNCTION "public"."start_secret_transfer"() IS 'For the function credentials, in the caller''s name: a key, 64 bytes as hex and valid once and for a minute, under which a new credential travels to the database (A256CBC-HS512, the transfer''s id as associated data). Needs the second factor when there is one; credentials.changes_per_hour of them.';

COMMENT ON TABLE "private"."credential_secrets" IS 'The sealed fields of a credential, bound to their owner, row and field: moved elsewhere they do not open.';

COMMENT ON TABLE "private"."data_keys" IS 'Which keys seal what: one current key for each purpose; older ones open what they sealed until it is sealed anew. The keys themselves are not here.';

COMMENT ON TABLE "private"."exchanges" IS 'Exchanges that users can connect: one row each, by the id that ccxt has for it.';

COMMENT ON TABLE "private"."secret_transfers" IS 'One-time keys under which secrets travel to the database, so that a statement log with parameters holds none in clear. Sealed like everything else, valid for a minute; kept for an hour, because they count.';

COMMENT ON TABLE "public"."credentials" IS 'What owners see of the keys that they gave us. The keys are in private.credential_secrets, sealed. Written by functions only.';

COMMENT ON TYPE "private"."sealed" IS 'A sealed value as it is stored: scheme and key say how it is opened.';

REVOKE ALL ON FUNCTION "private"."begin_credential_test"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."begin_credential_test"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."cbc_hmac_tag"(bytea, bytea, bytea, bytea) TO "postgres";

REVOKE ALL ON FUNCTION "private"."change_credential"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_credential"(uuid, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."current_data_key"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."current_data_key"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."keep_credentials_sealed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."keep_credentials_sealed"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."new_data_key"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."new_data_key"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."note_credential_test"(uuid, text, text[]) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_credential_test"(uuid, text, text[]) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."open"(uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."open"(uuid, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."open_provider_key"(uuid, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."reseal_credentials"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."reseal_credentials"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."retire_data_keys"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."retire_data_keys"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."rotate_credential_keys"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."rotate_credential_keys"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."save_credential"(uuid, bytea, bytea, uuid, text, text, text) TO "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."seal"(text, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."seal"(text, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."secret_context"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."secret_context"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."start_secret_transfer"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."start_secret_transfer"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."store_secret"(uuid, uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."take_secret_transfer"(uuid, bytea, bytea) TO "postgres";

REVOKE ALL ON FUNCTION "private"."unseal"(private.sealed, uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."unseal"(private.sealed, uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "public"."delete_credential"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."delete_credential"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."rename_credential"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."rename_credential"(uuid, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."start_credential_test"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."start_credential_test"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."start_secret_transfer"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."start_secret_transfer"() TO "authenticated", "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."credential_secrets" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."data_keys" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."exchanges" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."secret_transfers" TO "postgres";

REVOKE ALL ON TABLE "public"."credentials" FROM "authenticated";

GRANT SELECT ON TABLE "public"."credentials" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."credentials" TO "postgres";

REVOKE ALL ON TABLE "public"."credentials" FROM "service_role";

GRANT SELECT ON TABLE "public"."credentials" TO "service_role";

GRANT USAGE ON TYPE "private"."sealed" TO "postgres";

select cron.schedule('keep-credentials-sealed', '* * * * *', 'select private.keep_credentials_sealed()');

select cron.schedule('rotate-credential-keys', '0 2 1 1,4,7,10 *', 'select private.rotate_credential_keys()');

ALTER TABLE "private"."credential_secrets" ADD CONSTRAINT "credential_secrets_data_key_id_scheme_fkey" FOREIGN KEY (data_key_id, scheme) REFERENCES private.data_keys(id, scheme) ON DELETE RESTRICT;

ALTER TABLE "private"."secret_transfers" ADD CONSTRAINT "secret_transfers_data_key_id_scheme_fkey" FOREIGN KEY (data_key_id, scheme) REFERENCES private.data_keys(id, scheme) ON DELETE RESTRICT;

ALTER TABLE "private"."credential_secrets" ADD CONSTRAINT "credential_secrets_credential_id_fkey" FOREIGN KEY (credential_id) REFERENCES public.credentials(id) ON DELETE CASCADE;

REVOKE ALL ON TABLE "public"."credentials" FROM "anon";
