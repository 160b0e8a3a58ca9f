-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
-- The audit log is new and empty, so nothing waits for its key.
-- squawk-ignore-file adding-serial-primary-key-field
set lock_timeout = '5s';
set statement_timeout = '60s';

set local check_function_bodies = off;

DROP FUNCTION "private"."require_user"();

CREATE EXTENSION IF NOT EXISTS "pg_net" SCHEMA "extensions";

CREATE TABLE "private"."account_status_changes" ("user_id" uuid NOT NULL, "from_status" text NOT NULL, "to_status" text NOT NULL, "reason" text NOT NULL, "actor_id" uuid, "banned_until" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "account_status_changes_check" CHECK ((to_status <> from_status)), CONSTRAINT "account_status_changes_reason_check" CHECK (((length(reason) >= 1) AND (length(reason) <= 500))), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "account_status_changes_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."audit_archives" ("month" date NOT NULL, "part" integer NOT NULL, "first_seq" bigint NOT NULL, "last_seq" bigint NOT NULL, "last_hash" bytea NOT NULL, "sha256" text NOT NULL, "path" text NOT NULL, "archived_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "audit_archives_check" CHECK ((last_seq >= first_seq)), CONSTRAINT "audit_archives_first_seq_check" CHECK ((first_seq > 0)), CONSTRAINT "audit_archives_last_hash_check" CHECK ((octet_length(last_hash) = 32)), CONSTRAINT "audit_archives_month_check" CHECK ((EXTRACT(day FROM month) = (1)::numeric)), CONSTRAINT "audit_archives_month_first_seq_key" UNIQUE (month, first_seq), CONSTRAINT "audit_archives_part_check" CHECK ((part > 0)), CONSTRAINT "audit_archives_path_check" CHECK (((length(path) >= 1) AND (length(path) <= 300))), CONSTRAINT "audit_archives_pkey" PRIMARY KEY (month, part), CONSTRAINT "audit_archives_sha256_check" CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)));

CREATE TABLE "private"."audit_chain_heads" ("month" date NOT NULL, "seq" bigint NOT NULL, "hash" bytea NOT NULL, CONSTRAINT "audit_chain_heads_month_check" CHECK ((EXTRACT(day FROM month) = (1)::numeric)), CONSTRAINT "audit_chain_heads_pkey" PRIMARY KEY (month), CONSTRAINT "audit_chain_heads_seq_check" CHECK ((seq >= 0)));

CREATE TABLE "private"."audit_log" ("id" uuid NOT NULL, "created_at" timestamp with time zone NOT NULL, "actor_id" uuid, "actor_role" text NOT NULL, "user_id" uuid, "action" text NOT NULL, "resource_type" text NOT NULL, "resource_id" text, "result" text NOT NULL, "ip" inet, "user_agent" text, "request_id" text, "details" jsonb NOT NULL, "seq" bigint, "previous_hash" bytea, "hash" bytea) PARTITION BY RANGE (created_at);

CREATE TABLE "private"."audit_log_default" PARTITION OF "private"."audit_log" DEFAULT;

ALTER TABLE "private"."audit_log" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "private"."audit_log" FORCE ROW LEVEL SECURITY;

CREATE TABLE "private"."invites" ("code_hash" bytea NOT NULL, "label" text NOT NULL, "max_uses" integer NOT NULL, "expires_at" timestamp with time zone, "revoked_at" timestamp with time zone, "created_by" uuid, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "invites_code_hash_check" CHECK ((octet_length(code_hash) = 32)), CONSTRAINT "invites_code_hash_key" UNIQUE (code_hash), CONSTRAINT "invites_label_check" CHECK (((length(label) >= 1) AND (length(label) <= 200))), CONSTRAINT "invites_max_uses_check" CHECK (((max_uses >= 1) AND (max_uses <= 10000))), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "invites_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."known_networks" ("user_id" uuid NOT NULL, "network" cidr NOT NULL, "first_seen_at" timestamp with time zone NOT NULL DEFAULT now(), "last_seen_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "known_networks_pkey" PRIMARY KEY (user_id, network));

CREATE TABLE "private"."mails" ("user_id" uuid NOT NULL, "subject" text NOT NULL, "body" text NOT NULL, "state" text NOT NULL DEFAULT 'waiting'::text, "attempts" integer NOT NULL DEFAULT 0, "next_attempt_at" timestamp with time zone NOT NULL DEFAULT now(), "error" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "sent_at" timestamp with time zone, CONSTRAINT "mails_attempts_check" CHECK ((attempts >= 0)), CONSTRAINT "mails_body_check" CHECK ((length(body) <= 2000)), CONSTRAINT "mails_error_check" CHECK ((length(error) <= 500)), CONSTRAINT "mails_state_check" CHECK ((state = ANY (ARRAY['waiting'::text, 'sent'::text, 'dead'::text]))), CONSTRAINT "mails_subject_check" CHECK (((length(subject) >= 1) AND (length(subject) <= 200))), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "mails_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."mfa_failures" ("user_id" uuid NOT NULL, "subject_id" uuid NOT NULL, "failed_at" timestamp with time zone NOT NULL DEFAULT now(), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "mfa_failures_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."recovery_codes" ("user_id" uuid NOT NULL, "code_hash" bytea NOT NULL, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "recovery_codes_code_hash_check" CHECK ((length(code_hash) = 32)), CONSTRAINT "recovery_codes_pkey" PRIMARY KEY (user_id, code_hash));

CREATE TABLE "private"."registrations" ("user_id" uuid NOT NULL, "origin" text NOT NULL, "invite_id" uuid, "place" integer, "is_anonymous" boolean NOT NULL, "ip" inet, "reserved_at" timestamp with time zone NOT NULL, "confirmed_at" timestamp with time zone, CONSTRAINT "registrations_origin_check" CHECK ((origin = ANY (ARRAY['sign_up'::text, 'unannounced'::text, 'admin'::text, 'import'::text]))), CONSTRAINT "registrations_pkey" PRIMARY KEY (user_id), CONSTRAINT "registrations_place_check" CHECK ((place > 0)));

CREATE TABLE "private"."sign_in_failures" ("user_id" uuid NOT NULL, "network" cidr NOT NULL, "failed_at" timestamp with time zone NOT NULL DEFAULT now(), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "sign_in_failures_pkey" PRIMARY KEY (id));

CREATE TABLE "private"."sign_in_locks" ("user_id" uuid NOT NULL, "network" cidr NOT NULL, "locked_until" timestamp with time zone, "locks" integer NOT NULL DEFAULT 0, CONSTRAINT "sign_in_locks_locks_check" CHECK ((locks >= 0)), CONSTRAINT "sign_in_locks_pkey" PRIMARY KEY (user_id, network));

CREATE TABLE "private"."uploads_to_check" ("object_id" uuid NOT NULL, "user_id" uuid NOT NULL, "bucket_id" text NOT NULL, "name" text NOT NULL, "version" text, "content_type" text NOT NULL, "rejected" boolean NOT NULL DEFAULT false, "attempts" integer NOT NULL DEFAULT 0, "due_at" timestamp with time zone NOT NULL DEFAULT now(), "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "uploads_to_check_bucket_id_check" CHECK ((length(bucket_id) <= 100)), CONSTRAINT "uploads_to_check_content_type_check" CHECK ((length(content_type) <= 100)), CONSTRAINT "uploads_to_check_name_check" CHECK ((length(name) <= 1024)), CONSTRAINT "uploads_to_check_pkey" PRIMARY KEY (object_id), CONSTRAINT "uploads_to_check_version_check" CHECK ((length(version) <= 100)));

CREATE TABLE "public"."consents" ("user_id" uuid NOT NULL, "kind" text NOT NULL, "version" text, "granted" boolean NOT NULL, "note" text, "ip" inet, "user_agent" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "consents_check" CHECK (((kind = ANY (ARRAY['terms'::text, 'privacy'::text])) = (version IS NOT NULL))), CONSTRAINT "consents_kind_check" CHECK ((kind = ANY (ARRAY['terms'::text, 'privacy'::text, 'do_not_sell'::text, 'guardian'::text]))), CONSTRAINT "consents_note_check" CHECK (((length(note) >= 1) AND (length(note) <= 500))), CONSTRAINT "consents_user_agent_check" CHECK ((length(user_agent) <= 500)), CONSTRAINT "consents_version_check" CHECK ((length(version) <= 40)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "consents_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."consents" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."consents" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."devices" ("user_id" uuid NOT NULL, "device_id" text NOT NULL, "name" text NOT NULL, "type" text NOT NULL, "session_id" uuid, "country" text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "last_active_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "devices_country_check" CHECK (((length(country) >= 1) AND (length(country) <= 10))), CONSTRAINT "devices_device_id_check" CHECK (((length(device_id) >= 1) AND (length(device_id) <= 200))), CONSTRAINT "devices_name_check" CHECK (((length(name) >= 1) AND (length(name) <= 100))), CONSTRAINT "devices_pkey" PRIMARY KEY (user_id, device_id), CONSTRAINT "devices_type_check" CHECK ((type = ANY (ARRAY['android'::text, 'ios'::text, 'web'::text, 'desktop'::text]))));

ALTER TABLE "public"."devices" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."devices" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."documents" ("title" text NOT NULL DEFAULT ''::text, "kind" text NOT NULL DEFAULT 'note'::text, "content" jsonb NOT NULL DEFAULT '{}'::jsonb, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "documents_content_check" CHECK ((octet_length((content)::text) <= 262144)), CONSTRAINT "documents_kind_check" CHECK ((kind ~ '^[a-z][a-z0-9_]{0,39}$'::text)), CONSTRAINT "documents_title_check" CHECK ((length(title) <= 200)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "documents_pkey" PRIMARY KEY (id), "user_id" uuid NOT NULL DEFAULT auth.uid(), CONSTRAINT "documents_id_user_id_key" UNIQUE (id, user_id));

ALTER TABLE "public"."documents" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."documents" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."images" ("id" uuid NOT NULL, "user_id" uuid NOT NULL, "document_id" uuid, "bucket_id" text NOT NULL, "path" text NOT NULL, "content_type" text NOT NULL, "bytes" bigint NOT NULL, "width" integer, "height" integer, "description" text NOT NULL DEFAULT ''::text, "status" text NOT NULL DEFAULT 'checking'::text, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "images_bucket_id_check" CHECK ((length(bucket_id) <= 100)), CONSTRAINT "images_bucket_id_path_key" UNIQUE (bucket_id, path), CONSTRAINT "images_bytes_check" CHECK ((bytes >= 0)), CONSTRAINT "images_content_type_check" CHECK ((length(content_type) <= 100)), CONSTRAINT "images_description_check" CHECK ((length(description) <= 500)), CONSTRAINT "images_height_check" CHECK (((height >= 1) AND (height <= 100000))), CONSTRAINT "images_path_check" CHECK ((length(path) <= 1024)), CONSTRAINT "images_pkey" PRIMARY KEY (id), CONSTRAINT "images_status_check" CHECK ((status = ANY (ARRAY['checking'::text, 'ok'::text, 'rejected'::text]))), CONSTRAINT "images_width_check" CHECK (((width >= 1) AND (width <= 100000))));

ALTER TABLE "public"."images" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."images" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."legal_documents" ("kind" text NOT NULL, "version" text NOT NULL, "url" text NOT NULL, "published_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "legal_documents_kind_check" CHECK ((kind = ANY (ARRAY['terms'::text, 'privacy'::text]))), CONSTRAINT "legal_documents_pkey" PRIMARY KEY (kind, version), CONSTRAINT "legal_documents_url_check" CHECK (((length(url) >= 1) AND (length(url) <= 500))), CONSTRAINT "legal_documents_version_check" CHECK (((length(version) >= 1) AND (length(version) <= 40))));

ALTER TABLE "public"."legal_documents" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."legal_documents" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."notifications" ("user_id" uuid NOT NULL, "type" text NOT NULL, "title" text NOT NULL, "body" text NOT NULL, "data" jsonb NOT NULL DEFAULT '{}'::jsonb, "read_at" timestamp with time zone, "created_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "notifications_body_check" CHECK ((length(body) <= 2000)), CONSTRAINT "notifications_data_check" CHECK (((jsonb_typeof(data) = 'object'::text) AND (length((data)::text) <= 16000))), CONSTRAINT "notifications_title_check" CHECK (((length(title) >= 1) AND (length(title) <= 200))), CONSTRAINT "notifications_type_check" CHECK (((type ~ '^[a-z0-9_]+$'::text) AND (length(type) <= 80))), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "notifications_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."notifications" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."notifications" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."psychology_tests" ("questionnaire_id" text NOT NULL, "questionnaire_version" integer NOT NULL, "answers" jsonb NOT NULL DEFAULT '{}'::jsonb, "result" jsonb, "started_at" timestamp with time zone NOT NULL DEFAULT now(), "completed_at" timestamp with time zone, "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "psychology_tests_answers_check" CHECK ((octet_length((answers)::text) <= 262144)), CONSTRAINT "psychology_tests_questionnaire_id_check" CHECK ((length(questionnaire_id) <= 60)), CONSTRAINT "psychology_tests_result_check" CHECK ((octet_length((result)::text) <= 262144)), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "psychology_tests_pkey" PRIMARY KEY (id), "user_id" uuid NOT NULL DEFAULT auth.uid());

ALTER TABLE "public"."psychology_tests" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."psychology_tests" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."questionnaires" ("id" text NOT NULL, "version" integer NOT NULL, "title" text NOT NULL, "description" text NOT NULL DEFAULT ''::text, "questions" jsonb NOT NULL, "enabled" boolean NOT NULL DEFAULT true, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "updated_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "questionnaires_description_check" CHECK ((length(description) <= 2000)), CONSTRAINT "questionnaires_id_check" CHECK ((id ~ '^[a-z][a-z0-9_]{0,59}$'::text)), CONSTRAINT "questionnaires_pkey" PRIMARY KEY (id, version), CONSTRAINT "questionnaires_questions_check" CHECK (((jsonb_typeof(questions) = 'array'::text) AND (octet_length((questions)::text) <= 262144))), CONSTRAINT "questionnaires_title_check" CHECK (((length(title) >= 1) AND (length(title) <= 200))), CONSTRAINT "questionnaires_version_check" CHECK ((version > 0)));

ALTER TABLE "public"."questionnaires" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."questionnaires" FORCE ROW LEVEL SECURITY;

CREATE TABLE "public"."security_events" ("user_id" uuid, "type" text NOT NULL, "severity" text NOT NULL, "details" jsonb NOT NULL, "ip" inet, "user_agent" text, "dedupe_key" text NOT NULL, "dedupe_window" bigint NOT NULL, "occurrences" integer NOT NULL DEFAULT 1, "created_at" timestamp with time zone NOT NULL DEFAULT now(), "last_seen_at" timestamp with time zone NOT NULL DEFAULT now(), CONSTRAINT "security_events_dedupe_key_check" CHECK ((length(dedupe_key) <= 200)), CONSTRAINT "security_events_details_check" CHECK (((jsonb_typeof(details) = 'object'::text) AND (length((details)::text) <= 16000))), CONSTRAINT "security_events_occurrences_check" CHECK ((occurrences > 0)), CONSTRAINT "security_events_severity_check" CHECK ((severity = ANY (ARRAY['low'::text, 'medium'::text, 'high'::text, 'critical'::text]))), CONSTRAINT "security_events_type_check" CHECK (((type ~ '^[a-z0-9_]+$'::text) AND (length(type) <= 80))), CONSTRAINT "security_events_user_agent_check" CHECK ((length(user_agent) <= 500)), CONSTRAINT "security_events_user_id_type_dedupe_key_dedupe_window_key" UNIQUE NULLS NOT DISTINCT (user_id, type, dedupe_key, dedupe_window), "id" uuid NOT NULL DEFAULT private.uuid_v7(), CONSTRAINT "security_events_pkey" PRIMARY KEY (id));

ALTER TABLE "public"."security_events" ENABLE ROW LEVEL SECURITY;

ALTER TABLE "public"."security_events" FORCE ROW LEVEL SECURITY;

ALTER TABLE "public"."profiles" ADD COLUMN "parked_reason" text;

ALTER TABLE "public"."profiles" ADD COLUMN "do_not_sell" boolean NOT NULL DEFAULT false;

ALTER TABLE "private"."audit_log" ALTER COLUMN "created_at" SET DEFAULT now();

CREATE OR REPLACE FUNCTION private.accept_my_terms()
 RETURNS SETOF public.consents
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.record_terms(v_user_id, private.request_ip(), private.request_user_agent());
  return query
    select distinct on (c.kind) c.* from public.consents c join public.legal_documents d using (kind, version)
    where c.user_id = v_user_id and d.published_at <= now()
    order by c.kind, d.published_at desc, d.version desc;
end $function$;

CREATE OR REPLACE FUNCTION private.access_is_allowed()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_claims jsonb := auth.jwt();
  v_session_id uuid := nullif(v_claims ->> 'session_id', '')::uuid;
  v_user_id uuid := (v_claims ->> 'sub')::uuid;
  v_has_aal2 boolean := v_claims ->> 'aal' = 'aal2';
begin
  -- Every lookup by a variable, not by a join's column: the plan is four index lookups and nothing else.
  return exists (
    select from private.live_sessions s, auth.users u, public.profiles p
    where s.id = v_session_id and s.user_id = v_user_id and u.id = v_user_id and p.id = v_user_id
      and p.status = 'active' and not u.is_anonymous and (u.banned_until is null or u.banned_until <= now())
      and ((s.aal = 'aal2' and v_has_aal2) or not exists (
        select from auth.mfa_factors f where f.user_id = v_user_id and f.status = 'verified')));
end $function$;

CREATE OR REPLACE FUNCTION private.account_by_email(email text)
 RETURNS TABLE(id uuid, status text, parked_reason text, role text, plan_id text, email_confirmed_at timestamp with time zone, last_sign_in_at timestamp with time zone, created_at timestamp with time zone, registered_by text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  return query
    select u.id, p.status, p.parked_reason, p.role, p.plan_id, u.email_confirmed_at,
      u.last_sign_in_at, u.created_at, u.raw_app_meta_data ->> 'registered_by'
    from auth.users u join public.profiles p using (id)
    where u.email = lower(btrim(account_by_email.email)) and not u.is_sso_user;
end $function$;

CREATE OR REPLACE FUNCTION private.account_is_active()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := auth.uid();
begin
  return exists (
    select from public.profiles p join auth.users u on u.id = p.id
    where p.id = v_user_id and p.status = 'active'
      and not u.is_anonymous and (u.banned_until is null or u.banned_until <= now()));
end $function$;

CREATE OR REPLACE FUNCTION private.account_is_open()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := auth.uid();
begin
  return exists (
    select from public.profiles p join auth.users u on u.id = p.id
    where p.id = v_user_id and p.status in ('pending', 'active')
      and (u.banned_until is null or u.banned_until <= now()));
end $function$;

CREATE OR REPLACE FUNCTION private.age_refusal(birth_date text, is_demanded boolean)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_birth_date date := private.birth_date_or_null(age_refusal.birth_date);
begin
  if v_birth_date is null and is_demanded and (private.setting('registration.require_birth_date'))::boolean then
    return 'Sign-up needs your birth_date, written YYYY-MM-DD.';
  end if;
  if private.is_under_age(v_birth_date) and private.setting('registration.under_age') #>> '{}' is distinct from 'park' then
    return format('You must be at least %s years old to sign up.', private.setting('registration.minimum_age'));
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.audit(action text, resource_type text, resource_id text, user_id uuid DEFAULT NULL::uuid, details jsonb DEFAULT '{}'::jsonb, result text DEFAULT 'success'::text, ip inet DEFAULT NULL::inet)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  insert into private.audit_log (
    actor_id, actor_role, user_id, action, resource_type, resource_id, result, ip, user_agent, request_id, details)
  values (
    (select auth.uid()), coalesce((select auth.role()), session_user), audit.user_id, audit.action, audit.resource_type,
    audit.resource_id, audit.result, coalesce(audit.ip, private.request_ip()), private.request_user_agent(),
    private.request_id(), coalesce(audit.details, '{}'));
end $function$;

CREATE OR REPLACE FUNCTION private.audit_hash(entry private.audit_log, seq bigint, previous_hash bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
AS $function$
begin
  return sha256(convert_to(jsonb_build_array(
    audit_hash.seq, encode(audit_hash.previous_hash, 'hex'), (entry).id, extract(epoch from (entry).created_at),
    (entry).actor_id, (entry).actor_role, (entry).user_id, (entry).action, (entry).resource_type, (entry).resource_id,
    (entry).result, host((entry).ip), (entry).user_agent, (entry).request_id, (entry).details)::text, 'UTF8'));
end $function$;

CREATE OR REPLACE FUNCTION private.audit_month(at timestamp with time zone)
 RETURNS date
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
AS $function$
begin
  return date_trunc('month', audit_month.at at time zone 'UTC')::date;
end $function$;

CREATE OR REPLACE FUNCTION private.before_user_created(event jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user jsonb := event -> 'user';
  v_ip text := event -> 'metadata' ->> 'ip_address';
  v_refusal text := 'Sign-up is not possible: the user has no id.';
begin
  if pg_input_is_valid(v_user ->> 'id', 'uuid') then
    v_refusal := private.reserve_registration(
      (v_user ->> 'id')::uuid,
      coalesce(v_user -> 'user_metadata', '{}'),
      coalesce((v_user -> 'is_anonymous') = 'true'::jsonb, false),
      case when pg_input_is_valid(v_ip, 'inet') then v_ip::inet end,
      'sign_up');
  end if;
  if v_refusal is null then
    return '{}';
  end if;
  return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', v_refusal));
end $function$;

CREATE OR REPLACE FUNCTION private.birth_date_or_null(value text)
 RETURNS date
 LANGUAGE sql
 STABLE
 SET search_path TO ''
RETURN CASE WHEN ((private.date_or_null(value) >= '1900-01-01'::date) AND (private.date_or_null(value) < CURRENT_DATE)) THEN private.date_or_null(value) ELSE NULL::date END;

CREATE OR REPLACE FUNCTION private.call_archive_audit()
 RETURNS bigint
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  select private.call_jobs_function('archive-audit')
  where exists (
    select from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC'
        < now() - make_interval(days => (private.setting('audit.online_days'))::integer))
$function$;

CREATE OR REPLACE FUNCTION private.call_jobs_function(path text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_url text := nullif(private.setting('jobs.functions_url') #>> '{}', '');
  v_key text := (select s.decrypted_secret from vault.decrypted_secrets s where s.name = 'palisade_secret_key');
begin
  if v_url is null or v_key is null then
    if not exists (
      select from public.security_events e
      where e.user_id is null and e.type = 'jobs_not_configured' and e.last_seen_at > now() - interval '1 day') then
      perform private.raise_security_event(
        type => 'jobs_not_configured', severity => 'low', user_id => null, details => jsonb_build_object(
          'missing', case when v_url is null then 'setting jobs.functions_url' else 'Vault secret palisade_secret_key' end));
    end if;
    return null;
  end if;
  return net.http_post(
    url => rtrim(v_url, '/') || '/jobs/' || call_jobs_function.path,
    headers => jsonb_build_object('content-type', 'application/json', 'apikey', v_key),
    timeout_milliseconds => 60000);
end $function$;

CREATE OR REPLACE FUNCTION private.call_send_mails()
 RETURNS bigint
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  select private.call_jobs_function('send-mails')
  where exists (select from private.mails m where m.state = 'waiting' and m.next_attempt_at <= now())
$function$;

CREATE OR REPLACE FUNCTION private.change_account_status(user_id uuid, to_status text, reason text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_from text;
  v_reason text := private.text_or_null(reason, 500);
  v_ban timestamptz;
begin
  if v_reason is null then
    perform private.raise_error('invalid_request_error', 'reason must say why.');
  end if;
  if (private.lock_account(change_account_status.user_id)).user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  select p.status, u.banned_until into v_from, v_ban
  from public.profiles p join auth.users u using (id)
  where p.id = change_account_status.user_id for update of p;
  if to_status = 'reinstated' then
    to_status := private.status_to_return_to(change_account_status.user_id, v_from);
  end if;
  if v_from = to_status then
    return v_from;
  end if;
  if v_from = 'deleted' and to_status = 'suspended' then
    perform private.raise_error('invalid_request_error', 'This account is deleted.');
  end if;
  insert into private.account_status_changes (user_id, from_status, to_status, reason, actor_id, banned_until)
  values (change_account_status.user_id, v_from, change_account_status.to_status, v_reason, (select auth.uid()), v_ban);
  update public.profiles p set status = change_account_status.to_status where p.id = change_account_status.user_id;
  perform private.enforce_account_status(change_account_status.user_id, change_account_status.to_status);
  perform private.audit(
    action => case to_status when 'suspended' then 'account.suspend' when 'deleted' then 'account.delete' else 'account.reinstate' end,
    resource_type => 'account', resource_id => change_account_status.user_id::text, user_id => change_account_status.user_id,
    details => jsonb_build_object('from', v_from, 'to', to_status, 'reason', v_reason));
  perform private.raise_security_event(
    type => case when to_status in ('suspended', 'deleted') then 'account_' || to_status else 'account_reinstated' end,
    severity => 'medium', user_id => change_account_status.user_id,
    details => jsonb_build_object('from', v_from, 'to', to_status, 'reason', v_reason));
  return to_status;
end $function$;

CREATE OR REPLACE FUNCTION private.change_role_of(user_id uuid, role text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_before text;
begin
  perform private.require_admin();
  if user_id = (select auth.uid()) then
    perform private.raise_error('not_allowed', 'Nobody changes their own role.');
  end if;
  if coalesce(role not in ('user', 'support', 'admin'), true) then
    perform private.raise_error('invalid_request_error', 'role must be user, support or admin.');
  end if;
  if (private.lock_account(change_role_of.user_id)).user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  -- All admins' rows, in order, so that two admins cannot demote each other at the same time.
  perform from public.profiles p where p.role = 'admin' or p.id = change_role_of.user_id order by p.id for update;
  select p.role into v_before from public.profiles p where p.id = change_role_of.user_id;
  if v_before = change_role_of.role then
    return v_before;
  end if;
  if v_before = 'admin' and not exists (
    select from public.profiles p where p.role = 'admin' and p.status = 'active' and p.id <> change_role_of.user_id) then
    perform private.raise_error('not_allowed', 'The last admin stays one: make another admin first.');
  end if;
  update public.profiles p set role = change_role_of.role where p.id = change_role_of.user_id;
  return change_role_of.role;
end $function$;

CREATE OR REPLACE FUNCTION private.change_status_of(user_id uuid, to_status text, reason text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  if user_id = (select auth.uid()) then
    perform private.raise_error('not_allowed', 'Nobody changes the status of their own account; delete_my_account() is there for leaving.');
  end if;
  if coalesce(to_status not in ('suspended', 'deleted', 'reinstated'), true) then
    perform private.raise_error('invalid_request_error', 'to_status must be suspended, deleted or reinstated.');
  end if;
  return private.change_account_status(user_id, to_status, reason);
end $function$;

CREATE OR REPLACE FUNCTION private.check_account(user_id uuid, session_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_account record;
begin
  select p.status, u.banned_until > now() as is_banned, u.is_anonymous, s.id is not null as has_session,
    s.aal is distinct from 'aal2' and exists (
      select from auth.mfa_factors f where f.user_id = p.id and f.status = 'verified') as lacks_factor
  into v_account
  from public.profiles p
    join auth.users u on u.id = p.id
    left join private.live_sessions s on s.id = check_account.session_id and s.user_id = p.id
  where p.id = check_account.user_id;
  if not found or v_account.status = 'deleted' or not v_account.has_session then
    return jsonb_build_object('code', 'invalid_api_key', 'message', 'This session has ended. Sign in again.');
  elsif v_account.status = 'suspended' or v_account.is_banned then
    return jsonb_build_object('code', 'account_suspended', 'message', 'This account is suspended.');
  elsif v_account.status <> 'active' or v_account.is_anonymous then
    return jsonb_build_object('code', 'account_pending', 'message', 'Confirm your e-mail address first.');
  elsif v_account.lacks_factor then
    return jsonb_build_object('code', 'insufficient_aal', 'message', 'Sign in with your second factor first.');
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.check_file_name(name text, content_type text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_extension text := substring(lower(check_file_name.name) from '\.([^./]+)$');
  v_type text;
begin
  if check_file_name.name ~ '(^|/)\.{0,2}(/|$)' or check_file_name.name ~ '[[:cntrl:]\\%]'
    or length(check_file_name.name) > 1024 then
    perform private.refuse_file('The path has an empty part, . or .., or a character that no path may have.');
  end if;
  v_type := case
    when v_extension in ('jpg', 'jpeg') then 'image/jpeg'
    when v_extension in ('png', 'gif', 'webp') then 'image/' || v_extension
  end;
  if v_type is null then
    perform private.refuse_file('The file name must end in .png, .jpg, .jpeg, .gif or .webp.');
  end if;
  if check_file_name.content_type <> v_type then
    perform private.refuse_file(
      format('A file named .%s must be sent as %s.', v_extension, v_type));
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.check_stored_bytes(user_id uuid, metadata jsonb, bytes_before bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_bytes bigint := check_stored_bytes.metadata ->> 'size';
  -- The service tries its rights before it takes an upload: then the bytes are announced, or not known yet.
  v_announced bigint := case when v_bytes is null then coalesce((check_stored_bytes.metadata ->> 'contentLength')::bigint, 1) else 0 end;
  v_limit bigint;
  v_used bigint;
begin
  if coalesce(v_bytes, 0) + v_announced <= check_stored_bytes.bytes_before then
    return;
  end if;
  -- Parallel uploads queue here; each sees in the next statement what the one before it has committed.
  perform private.lock_account(check_stored_bytes.user_id);
  select l.amount into v_limit from private.limits_of(check_stored_bytes.user_id) l
  where l.meter = 'storage_bytes' and l.period = 'total';
  if found and v_limit is null then
    return;
  end if;
  -- The row itself is written already, so the sum has it.
  select coalesce(sum((o.metadata ->> 'size')::bigint), 0) + v_announced into v_used from storage.objects o
  where o.name ~>=~ (check_stored_bytes.user_id || '/') and o.name ~<~ (check_stored_bytes.user_id || '0');
  if v_used > coalesce(v_limit, 0) then
    perform private.refuse_file(
      format('The storage limit of %s bytes is reached: this file would make it %s.', coalesce(v_limit, 0), v_used));
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.claim_mails(batch_size integer DEFAULT 20)
 RETURNS TABLE(id uuid, address text, subject text, body text, attempt integer)
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_max integer := (private.setting('mail.max_attempts'))::integer;
begin
  -- Nobody came back from the last try, or there is no address to send to.
  update private.mails m set
    state = 'dead', error = left(coalesce(m.error, case when m.attempts >= v_max then 'nobody came back from the last try' else 'the account has no e-mail address' end), 500)
  from auth.users u
  where u.id = m.user_id and m.state = 'waiting' and m.next_attempt_at <= now()
    and (m.attempts >= v_max or nullif(u.email, '') is null);
  return query
    with claimed as (
      select m.id from private.mails m
      where m.state = 'waiting' and m.next_attempt_at <= now()
      order by m.next_attempt_at limit claim_mails.batch_size
      for update skip locked
    )
    update private.mails m set
      attempts = m.attempts + 1,
      -- Whoever does not come back is replaced after five minutes; later tries wait longer.
      next_attempt_at = now() + interval '5 minutes' * power(2, least(m.attempts, 8))
    from claimed c, auth.users u
    where m.id = c.id and u.id = m.user_id
    returning m.id, u.email::text, m.subject, m.body, m.attempts;
end $function$;

CREATE OR REPLACE FUNCTION private.claim_uploads_to_check(max integer)
 RETURNS TABLE(object_id uuid, bucket_id text, name text, version text, content_type text, rejected boolean)
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  with due as (
    select u.object_id from private.uploads_to_check u where u.due_at <= now()
    order by u.due_at limit claim_uploads_to_check.max for update skip locked
  )
  update private.uploads_to_check u set
    attempts = u.attempts + 1,
    due_at = now() + least(interval '2 minutes' * 2 ^ least(u.attempts, 10), interval '6 hours')
  from due where u.object_id = due.object_id
  returning u.object_id, u.bucket_id, u.name, u.version, u.content_type, u.rejected
$function$;

CREATE OR REPLACE FUNCTION private.client_name(user_agent text)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO ''
AS $function$
declare
  v_agent text := left(client_name.user_agent, 1000);
  v_system text;
  v_client text;
begin
  if btrim(coalesce(v_agent, '')) = '' then
    return 'Unknown client';
  end if;
  -- The first that fits: phones pretend to be Macs and Linux, and every browser pretends to be its elders.
  v_system := case
    when v_agent ~ 'iPad' then 'iPad'
    when v_agent ~ 'iPhone|iPod' then 'iPhone'
    when v_agent ~ 'Android' then 'Android'
    when v_agent ~ 'CrOS' then 'ChromeOS'
    when v_agent ~ 'Windows' then 'Windows'
    when v_agent ~ 'Darwin|CFNetwork' and v_agent !~ 'Mac' then 'Apple'
    when v_agent ~ 'Macintosh|Mac OS X|macOS' then 'macOS'
    when v_agent ~ 'Linux|X11' then 'Linux'
  end;
  v_client := case
    when v_agent ~ '(Edg|EdgA|EdgiOS|Edge)/' then 'Edge'
    when v_agent ~ '(OPR|OPT|Opera)[/ ]' then 'Opera'
    when v_agent ~ 'SamsungBrowser/' then 'Samsung Internet'
    when v_agent ~ '(Firefox|FxiOS)/' then 'Firefox'
    when v_agent ~ 'Electron/' then 'Desktop app'
    when v_agent ~ '(HeadlessChrome|Chrome|CriOS|Chromium)/' then 'Chrome'
    when v_agent ~ 'Version/[0-9.]+.* Safari/' then 'Safari'
    when v_agent ~ 'okhttp|Dart/|CFNetwork|Expo/' then 'App'
    when v_agent ~* '^(curl|wget|python|go-http-client|node|deno|bun|undici|axios|postman)' then
      initcap((regexp_match(v_agent, '^[A-Za-z]+'))[1])
  end;
  return case
    when v_client is null and v_system is null then 'Unknown client'
    when v_client is null then 'Unknown client on ' || v_system
    when v_system is null then v_client
    else v_client || ' on ' || v_system
  end;
end $function$;

CREATE OR REPLACE FUNCTION private.close_invite(invite_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  if not exists (select from private.invites i where i.id = close_invite.invite_id) then
    perform private.raise_error('not_found', 'There is no such invite.');
  end if;
  update private.invites i set revoked_at = now() where i.id = close_invite.invite_id and i.revoked_at is null;
  if found then
    perform private.audit(action => 'invite.revoke', resource_type => 'invite', resource_id => close_invite.invite_id::text);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.complete_account(user_id uuid, birth_date date)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_birth_date date;
  v_has_terms boolean := exists (
    select from public.consents c where c.user_id = complete_account.user_id and c.kind = 'terms')
    or not exists (select from public.legal_documents d where d.kind = 'terms' and d.published_at <= now());
begin
  update public.profiles p set birth_date = coalesce(p.birth_date, complete_account.birth_date)
  where p.id = complete_account.user_id returning p.birth_date into v_birth_date;
  update public.profiles p set parked_reason = case
    when private.is_under_age(v_birth_date) then 'guardian_consent'
    when v_birth_date is null and (private.setting('registration.require_birth_date'))::boolean then 'incomplete'
    when not v_has_terms and (private.setting('registration.require_terms'))::boolean then 'incomplete'
    end
  where p.id = complete_account.user_id;
  update public.profiles p set status = 'active'
  from auth.users u
  where p.id = complete_account.user_id and p.status = 'pending' and p.parked_reason is null
    and u.id = p.id and u.email_confirmed_at is not null;
end $function$;

CREATE OR REPLACE FUNCTION private.complete_anonymous_account(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_data jsonb;
  v_credits bigint := (private.setting('credits.on_sign_up'))::bigint;
begin
  if not exists (
    select from private.registrations r where r.user_id = complete_anonymous_account.user_id and r.is_anonymous) then
    return;
  end if;
  select coalesce(u.raw_user_meta_data, '{}') into v_data from auth.users u where u.id = complete_anonymous_account.user_id;
  perform private.lock_account(complete_anonymous_account.user_id);
  if v_data -> 'accept_terms' = 'true'::jsonb then
    perform private.record_terms(complete_anonymous_account.user_id, null, null);
  end if;
  perform private.complete_account(complete_anonymous_account.user_id, private.birth_date_or_null(v_data ->> 'birth_date'));
  if v_credits > 0 and not exists (
    select from public.credit_entries e
    where e.user_id = complete_anonymous_account.user_id and e.idempotency_key = 'sign_up') then
    perform private.add_credit_entry(complete_anonymous_account.user_id, v_credits, 'sign_up', 'credits on sign-up', 'sign_up');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.complete_my_registration(birth_date text, accept_terms boolean)
 RETURNS public.profiles
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := (select auth.uid());
  v_birth_date date := private.birth_date_or_null(complete_my_registration.birth_date);
  v_profile public.profiles;
begin
  -- Not require_user: an account that is not complete is not active either.
  if v_user_id is null or not private.session_is_live() then
    perform private.raise_error('invalid_api_key', 'Sign in first: this function needs a user''s token.');
  end if;
  perform private.lock_account(v_user_id);
  select p.* into v_profile from public.profiles p where p.id = v_user_id for update;
  if v_profile.status in ('suspended', 'deleted') then
    perform private.raise_error('account_suspended', 'This account is suspended.');
  end if;
  if v_profile.parked_reason is distinct from 'incomplete' then
    return v_profile;
  end if;
  if v_birth_date is null and v_profile.birth_date is null then
    perform private.raise_error('invalid_request_error', 'birth_date must be a date in the past, written YYYY-MM-DD.');
  end if;
  if coalesce(accept_terms, false) then
    perform private.record_terms(v_user_id, private.request_ip(), private.request_user_agent());
  end if;
  perform private.complete_account(v_user_id, v_birth_date);
  select p.* into v_profile from public.profiles p where p.id = v_user_id;
  return v_profile;
end $function$;

CREATE OR REPLACE FUNCTION private.confirm_registration(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user auth.users;
  v_registration private.registrations;
  v_refusal text;
begin
  select u.* into v_user from auth.users u where u.id = confirm_registration.user_id;
  if not found then
    return;
  end if;
  -- From here on nobody else takes this place, even if the reservation ends before the commit.
  perform pg_advisory_xact_lock(private.place_lock(r.invite_id), r.place) from private.registrations r
  where r.user_id = v_user.id and r.confirmed_at is null and r.place is not null;
  select r.* into v_registration from private.registrations r
  where r.user_id = v_user.id and r.confirmed_at is null and r.reserved_at > private.reservations_since();
  if not found then
    v_refusal := private.reserve_registration(v_user.id, coalesce(v_user.raw_user_meta_data, '{}'), v_user.is_anonymous, null,
      case when v_user.raw_app_meta_data ->> 'registered_by' in ('admin', 'import')
        then v_user.raw_app_meta_data ->> 'registered_by' else 'unannounced' end);
    if v_refusal is not null then
      raise exception using errcode = 'P0001', message = v_refusal;
    end if;
  end if;
  update private.registrations r set confirmed_at = clock_timestamp(), ip = null where r.user_id = v_user.id;
  if v_user.raw_user_meta_data -> 'accept_terms' = 'true'::jsonb then
    perform private.record_terms(v_user.id, v_registration.ip, null);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.count_my_recovery_codes()
 RETURNS integer
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  return (select count(*) from private.recovery_codes c where c.user_id = v_user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.create_account(user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user auth.users;
  v_data jsonb;
  v_birth_date date;
  v_credits bigint;
begin
  select u.* into strict v_user from auth.users u where u.id = create_account.user_id;
  v_data := coalesce(v_user.raw_user_meta_data, '{}');
  v_birth_date := private.birth_date_or_null(v_data ->> 'birth_date');
  insert into public.profiles (
    id, status, parked_reason, first_name, last_name, display_name, birth_date, locale, time_zone, quota_time_zone)
  values (
    v_user.id,
    case when v_user.email_confirmed_at is null or private.is_under_age(v_birth_date) then 'pending' else 'active' end,
    case when private.is_under_age(v_birth_date) then 'guardian_consent' end,
    private.text_or_null(v_data ->> 'first_name', 80),
    private.text_or_null(v_data ->> 'last_name', 80),
    private.text_or_null(v_data ->> 'display_name', 80),
    v_birth_date,
    private.locale_or_default(v_data ->> 'locale'),
    private.time_zone_or_default(v_data ->> 'time_zone'),
    private.time_zone_or_default(v_data ->> 'time_zone'))
  on conflict (id) do nothing;
  v_credits := (private.setting(
    case when v_user.is_anonymous then 'credits.on_anonymous_sign_up' else 'credits.on_sign_up' end))::bigint;
  insert into private.credit_accounts (user_id) values (v_user.id) on conflict do nothing;
  if found and v_credits > 0 then
    perform private.add_credit_entry(v_user.id, v_credits, 'sign_up', 'credits on sign-up',
      case when v_user.is_anonymous then 'anonymous_sign_up' else 'sign_up' end);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.create_audit_partitions()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_month timestamp;
  v_name text;
  v_created integer := 0;
begin
  for v_ahead in 0..2 loop
    v_month := date_trunc('month', now() at time zone 'UTC') + make_interval(months => v_ahead);
    v_name := 'audit_log_' || to_char(v_month, 'YYYYMM');
    -- Entries that came while there was no partition stay in the default one, whose rows nobody may move; the chain is
    -- by month, not by partition, so it does not mind.
    if to_regclass(format('private.%I', v_name)) is null and not exists (
      select from private.audit_log_default d
      where d.created_at >= v_month at time zone 'UTC' and d.created_at < (v_month + interval '1 month') at time zone 'UTC'
    ) then
      execute format('create table private.%I (like private.audit_log including defaults including constraints)', v_name);
      execute format('revoke all on private.%I from anon, authenticated, service_role', v_name);
      execute format(
        'alter table private.audit_log attach partition private.%I for values from (%L) to (%L)',
        v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
      execute format(
        'create trigger tg_audit_log__no_truncate before truncate on private.%I
        for each statement execute function private.tg_audit_log__append_only()', v_name);
      execute format('alter table private.%I enable always trigger tg_audit_log__no_truncate', v_name);
      insert into private.audit_chain_heads (month, seq, hash) values (v_month::date, 0, '') on conflict do nothing;
      v_created := v_created + 1;
    end if;
  end loop;
  return v_created;
end $function$;

CREATE OR REPLACE FUNCTION private.create_recovery_codes()
 RETURNS text[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_codes text[];
begin
  if not private.has_aal2() then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
  perform private.lock_mfa(v_user_id);
  select array_agg(private.new_recovery_code()) into v_codes from generate_series(1, 10);
  delete from private.recovery_codes c where c.user_id = v_user_id;
  insert into private.recovery_codes (user_id, code_hash)
  select v_user_id, private.recovery_code_hash(v_user_id, code) from unnest(v_codes) code;
  perform private.audit(action => 'mfa.create_recovery_codes', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id);
  return v_codes;
end $function$;

CREATE OR REPLACE FUNCTION private.custom_access_token(event jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := event ->> 'user_id';
  v_session_id uuid := nullif(event #>> '{claims,session_id}', '')::uuid;
  v_account record;
begin
  select p.status, p.role, u.banned_until > now() as is_banned into v_account
  from public.profiles p join auth.users u on u.id = p.id where p.id = v_user_id;
  if v_account.status in ('suspended', 'deleted') or v_account.is_banned then
    return '{"error": {"http_code": 403, "message": "This account is suspended."}}';
  end if;
  -- A running session goes on, and a mailed link proves more than a password does.
  if event ->> 'authentication_method' not in ('token_refresh', 'recovery') and exists (
    select from private.sign_in_locks l
    where l.user_id = v_user_id and l.network = private.hook_network(event) and l.locked_until > now()) then
    return '{"error": {"http_code": 403, "message": "Invalid login credentials"}}';
  end if;
  if exists (select from auth.sessions s where s.id = v_session_id)
    and not exists (select from private.live_sessions s where s.id = v_session_id) then
    return '{"error": {"http_code": 403, "message": "This session has ended. Sign in again."}}';
  end if;
  return jsonb_build_object('claims', (event -> 'claims') || jsonb_build_object('user_role', coalesce(v_account.role, 'user')));
end $function$;

CREATE OR REPLACE FUNCTION private.delete_old_messages()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  delete from private.mails m
  where m.state in ('sent', 'dead') and m.created_at < now() - make_interval(days => (private.setting('mail.keep_days'))::integer);
  delete from public.notifications n
  where n.created_at < now() - make_interval(days => (private.setting('notifications.keep_days'))::integer);
  delete from public.security_events e
  where e.last_seen_at < now() - make_interval(days => (private.setting('security.keep_days'))::integer);
end $function$;

CREATE OR REPLACE FUNCTION private.delete_old_networks()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_deleted integer;
begin
  delete from private.known_networks n where n.last_seen_at < now() - interval '1 year';
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $function$;

CREATE OR REPLACE FUNCTION private.delete_old_sign_in_failures()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_deleted integer;
begin
  delete from private.sign_in_failures f where f.failed_at < now() - interval '1 day';
  get diagnostics v_deleted = row_count;
  delete from private.sign_in_locks l
  where coalesce(l.locked_until, '-infinity') < now() - make_interval(mins => (private.setting('lock_out.max_minutes'))::integer)
    and not exists (
      select from private.sign_in_failures f where f.user_id = l.user_id and f.network = l.network);
  delete from private.mfa_failures f where f.failed_at < now() - interval '1 day';
  return v_deleted;
end $function$;

CREATE OR REPLACE FUNCTION private.delete_own_account()
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
begin
  perform private.require_aal2();
  return private.change_account_status(v_user_id, 'deleted', 'deleted by its owner');
end $function$;

CREATE OR REPLACE FUNCTION private.drop_archived_audit_month(month date)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_table text := 'audit_log_' || to_char(drop_archived_audit_month.month, 'YYYYMM');
  v_head private.audit_chain_heads;
  v_archived record;
begin
  -- Writers wait while the month leaves the log. Better that this job comes back than that they wait for it.
  perform set_config('lock_timeout', '2s', true);
  select h.* into v_head from private.audit_chain_heads h where h.month = drop_archived_audit_month.month for update;
  if not found or to_regclass('private.' || v_table) is null then
    return false;
  end if;
  select coalesce(sum(a.last_seq - a.first_seq + 1), 0) as entries, coalesce(max(a.last_seq), 0) as last_seq,
    coalesce((array_agg(a.last_hash order by a.last_seq desc))[1], '') as last_hash
  into v_archived from private.audit_archives a where a.month = drop_archived_audit_month.month;
  if v_archived.entries <> v_head.seq or v_archived.last_seq <> v_head.seq
    or v_archived.last_hash <> v_head.hash
    or exists (select from private.verify_audit_chain(v_head.month) p where p.month = v_head.month)
    or exists (select from private.audit_log_default d where private.audit_month(d.created_at) = v_head.month) then
    raise exception 'month % is not archived as it is', v_head.month;
  end if;
  execute format('alter table private.audit_log detach partition private.%I', v_table);
  execute format('drop table private.%I', v_table);
  perform private.audit(
    action => 'audit.archive', resource_type => 'audit_month', resource_id => v_head.month::text,
    details => jsonb_build_object('entries', v_archived.entries));
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.enforce_account_status(user_id uuid, status text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  if status in ('suspended', 'deleted') then
    -- A century, not infinity: the Auth service cannot read that.
    update auth.users u set banned_until = now() + interval '100 years' where u.id = enforce_account_status.user_id;
    delete from auth.sessions s where s.user_id = enforce_account_status.user_id;
  else
    update auth.users u set banned_until = (
      select c.banned_until from private.account_status_changes c
      where c.user_id = enforce_account_status.user_id and c.from_status in ('pending', 'active')
      order by c.id desc limit 1)
    where u.id = enforce_account_status.user_id;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.error_status(code text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE code WHEN 'invalid_request_error'::text THEN 400 WHEN 'invalid_api_key'::text THEN 401 WHEN 'model_not_priced'::text THEN 400 WHEN 'insufficient_credits'::text THEN 402 WHEN 'insufficient_quota'::text THEN 402 WHEN 'in_flight_budget_exhausted'::text THEN 402 WHEN 'account_pending'::text THEN 403 WHEN 'account_suspended'::text THEN 403 WHEN 'insufficient_aal'::text THEN 403 WHEN 'model_not_allowed'::text THEN 403 WHEN 'not_allowed'::text THEN 403 WHEN 'model_not_found'::text THEN 404 WHEN 'not_found'::text THEN 404 WHEN 'idempotency_key_reused'::text THEN 422 WHEN 'daily_quota_exceeded'::text THEN 429 ELSE NULL::integer END;

CREATE OR REPLACE FUNCTION private.file_owner(name text)
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_folder text := split_part(file_owner.name, '/', 1);
begin
  -- Lower case only: policies and sums compare the id as text.
  if v_folder !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then
    return null;
  end if;
  return (select p.id from public.profiles p where p.id = v_folder::uuid);
end $function$;

CREATE OR REPLACE FUNCTION private.finish_mail(mail_id uuid, attempt integer, error text DEFAULT NULL::text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  update private.mails m set
    state = case
      when finish_mail.error is null then 'sent'
      when m.attempts >= (private.setting('mail.max_attempts'))::integer then 'dead'
      else 'waiting' end,
    sent_at = case when finish_mail.error is null then now() end,
    error = left(finish_mail.error, 500)
  where m.id = finish_mail.mail_id and m.state = 'waiting' and m.attempts = finish_mail.attempt
  returning m.state
$function$;

CREATE OR REPLACE FUNCTION private.finish_upload_check(object_id uuid, version text, verdict text, found_type text DEFAULT NULL::text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_upload private.uploads_to_check;
begin
  select u.* into v_upload from private.uploads_to_check u
  where u.object_id = finish_upload_check.object_id and u.version is not distinct from finish_upload_check.version
  for update;
  if not found then
    return false;
  end if;
  case finish_upload_check.verdict
    when 'ok' then
      update public.images i set status = 'ok' where i.id = v_upload.object_id;
      delete from private.uploads_to_check u where u.object_id = v_upload.object_id;
    when 'rejected' then
      update private.uploads_to_check u set rejected = true where u.object_id = v_upload.object_id;
      update public.images i set status = 'rejected' where i.id = v_upload.object_id;
      perform private.raise_security_event(
        type => 'upload_type_mismatch', severity => 'medium', user_id => v_upload.user_id,
        details => jsonb_build_object('bucket_id', v_upload.bucket_id, 'name', v_upload.name,
          'declared', v_upload.content_type, 'found', finish_upload_check.found_type),
        dedupe_key => v_upload.object_id::text);
      perform private.notify_user(
        user_id => v_upload.user_id, type => 'upload_rejected', title => 'A file was removed',
        body => 'Its content was not of the type it was uploaded as.',
        data => jsonb_build_object('bucket_id', v_upload.bucket_id, 'name', v_upload.name));
    when 'removed' then
      delete from private.uploads_to_check u where u.object_id = v_upload.object_id;
  end case;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION private.has_aal2()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_claims jsonb := auth.jwt();
begin
  return coalesce(v_claims ->> 'aal' = 'aal2', false) and exists (
    select from auth.sessions s
    where s.id = nullif(v_claims ->> 'session_id', '')::uuid and s.user_id = (v_claims ->> 'sub')::uuid
      and s.aal = 'aal2');
end $function$;

CREATE OR REPLACE FUNCTION private.invite_code_hash(code text)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN sha256(convert_to(translate(upper(regexp_replace("left"(code, 100), '[^0-9A-Za-z]'::text, ''::text, 'g'::text)), 'ILO'::text, '110'::text), 'UTF8'::name));

CREATE OR REPLACE FUNCTION private.invites_with_uses()
 RETURNS TABLE(id uuid, label text, max_uses integer, uses bigint, expires_at timestamp with time zone, revoked_at timestamp with time zone, created_by uuid, created_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  return query
    select i.id, i.label, i.max_uses,
      (select count(*) from private.registrations r where r.invite_id = i.id and r.confirmed_at is not null),
      i.expires_at, i.revoked_at, i.created_by, i.created_at
    from private.invites i order by i.id desc;
end $function$;

CREATE OR REPLACE FUNCTION private.is_admin()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := auth.uid();
begin
  return exists (select from public.profiles p where p.id = v_user_id and p.role = 'admin')
    and private.has_aal2() and private.access_is_allowed();
end $function$;

CREATE OR REPLACE FUNCTION private.is_under_age(birth_date date)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return coalesce(
    birth_date > current_date - make_interval(years => (private.setting('registration.minimum_age'))::integer), false);
end $function$;

CREATE OR REPLACE FUNCTION private.list_my_sessions()
 RETURNS TABLE(session_id uuid, device_id text, device_name text, device_type text, ip inet, user_agent text, client text, created_at timestamp with time zone, last_active_at timestamp with time zone, is_current boolean)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_session_id uuid := private.my_session_id();
begin
  return query
    select s.id, d.device_id, d.name, d.type, s.ip, s.user_agent, private.client_name(s.user_agent), s.created_at,
      greatest(coalesce(s.refreshed_at at time zone 'UTC', s.created_at), d.last_active_at), s.id = v_session_id
    from private.live_sessions l
      join auth.sessions s on s.id = l.id
      left join public.devices d on d.user_id = s.user_id and d.session_id = s.id
    where l.user_id = v_user_id
    order by s.id = v_session_id desc, 9 desc, s.id;
end $function$;

CREATE OR REPLACE FUNCTION private.locale_or_default(value text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN CASE WHEN ((value ~ '^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$'::text) AND (length(value) <= 35)) THEN value ELSE 'en'::text END;

CREATE OR REPLACE FUNCTION private.lock_mfa(subject_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended('codes of ' || lock_mfa.subject_id, 0));
  return (
    select count(*) >= (private.setting('mfa.failures'))::integer from private.mfa_failures f
    where f.subject_id = lock_mfa.subject_id
      and f.failed_at > clock_timestamp() - make_interval(mins => (private.setting('mfa.window_minutes'))::integer));
end $function$;

CREATE OR REPLACE FUNCTION private.make_invite(label text, max_uses integer, expires_at timestamp with time zone, OUT id uuid, OUT code text)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  if private.text_or_null(label, 200) is null or coalesce(max_uses not between 1 and 10000, true) or expires_at <= now() then
    perform private.raise_error('invalid_request_error',
      'An invite needs a label, max_uses from 1 to 10000, and an expires_at in the future or none.');
  end if;
  code := private.new_invite_code();
  insert into private.invites (code_hash, label, max_uses, expires_at, created_by)
  values (private.invite_code_hash(code), private.text_or_null(make_invite.label, 200), make_invite.max_uses,
    make_invite.expires_at, (select auth.uid()))
  returning invites.id into make_invite.id;
  perform private.audit(action => 'invite.create', resource_type => 'invite', resource_id => make_invite.id::text,
    details => jsonb_build_object('label', private.text_or_null(make_invite.label, 200), 'max_uses', make_invite.max_uses));
end $function$;

CREATE OR REPLACE FUNCTION private.mfa_is_satisfied()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := auth.uid();
begin
  return not exists (select from auth.mfa_factors f where f.user_id = v_user_id and f.status = 'verified')
    or private.has_aal2();
end $function$;

CREATE OR REPLACE FUNCTION private.mfa_verification_attempt(event jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_factor_id uuid := event ->> 'factor_id';
begin
  if private.lock_mfa(v_factor_id) then
    return '{"decision": "reject", "message": "Too many wrong codes. Try again later."}';
  elsif coalesce((event ->> 'valid')::boolean, false) then
    delete from private.mfa_failures f where f.subject_id = v_factor_id;
  else
    perform private.note_mfa_failure((event ->> 'user_id')::uuid, v_factor_id);
  end if;
  return '{"decision": "continue"}';
end $function$;

CREATE OR REPLACE FUNCTION private.my_credits(OUT balance bigint, OUT held bigint)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  select a.balance, a.held into balance, held from private.credit_accounts a where a.user_id = v_user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.my_limits()
 RETURNS TABLE(meter text, period text, used bigint, held bigint, amount bigint, remaining bigint, resets_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  return query
    select l.meter, l.period, u.used, l.held, l.amount, private.remaining(l.amount, u.used + l.held),
      nullif(l.resets_at, 'infinity')
    from private.limits_of(v_user_id) l
      cross join lateral (
        select case
          -- Files are counted where they are: nothing to keep in step with the Storage service. A user's files lie
          -- below their id, and this range is what the service's index on names (text_pattern_ops) can answer.
          when l.meter = 'storage_bytes' then (
            select coalesce(sum((o.metadata ->> 'size')::bigint), 0)::bigint
            from storage.objects o
            where o.name ~>=~ (v_user_id || '/') and o.name ~<~ (v_user_id || '0'))
          else l.used
        end as used
      ) u
    order by l.meter, l.period;
end $function$;

CREATE OR REPLACE FUNCTION private.my_session_id()
 RETURNS uuid
 LANGUAGE sql
 STABLE
 SET search_path TO ''
RETURN (NULLIF(((SELECT auth.jwt() AS jwt) ->> 'session_id'::text), ''::text))::uuid;

CREATE OR REPLACE FUNCTION private.network_of(ip inet, bits_v4 integer, bits_v6 integer)
 RETURNS cidr
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN network(set_masklen(ip, CASE family(ip) WHEN 4 THEN bits_v4 ELSE bits_v6 END));

CREATE OR REPLACE FUNCTION private.hook_network(event jsonb)
 RETURNS cidr
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN private.network_of(CASE WHEN pg_input_is_valid((event #>> '{metadata,ip_address}'::text[]), 'inet'::text) THEN ((event #>> '{metadata,ip_address}'::text[]))::inet ELSE '0.0.0.0'::inet END, 24, 56);

CREATE OR REPLACE FUNCTION private.new_invite_code()
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  select string_agg(
    substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', get_byte(r.bytes, i) % 32 + 1, 1) || case when i in (3, 7, 11) then '-' else '' end,
    '' order by i)
  from (select extensions.gen_random_bytes(16) as bytes) r, generate_series(0, 15) i
$function$;

CREATE OR REPLACE FUNCTION private.new_recovery_code()
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  -- 16 characters of 5 bits, in four groups; the alphabet (Crockford's) has no letters that look like digits.
  select string_agg(
    substr('0123456789abcdefghjkmnpqrstvwxyz', substring(r.bits from i * 5 + 1 for 5)::bit(5)::integer + 1, 1)
      || case when i in (3, 7, 11) then '-' else '' end, '' order by i)
  from (select ('x' || encode(extensions.gen_random_bytes(10), 'hex'))::bit(80) as bits) r, generate_series(0, 15) i
$function$;

CREATE OR REPLACE FUNCTION private.next_audit_archive()
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_days integer := (private.setting('audit.online_days'))::integer;
  v_part_entries integer := (private.setting('audit.archive_part_entries'))::integer;
  v_head private.audit_chain_heads;
  v_part integer;
  v_last_seq bigint;
begin
  for v_head in
    select h.* from private.audit_chain_heads h
    where to_regclass('private.audit_log_' || to_char(h.month, 'YYYYMM')) is not null
      and (h.month + interval '1 month') at time zone 'UTC' < now() - make_interval(days => v_days)
    order by h.month
  loop
    -- A month that was tampered with stays where it is, for people to look at. Later ones go on.
    if exists (select from private.verify_audit_chain(v_head.month) p where p.month = v_head.month) then
      perform private.raise_security_event(
        type => 'audit_chain_broken', severity => 'critical', user_id => null,
        details => jsonb_build_object('month', v_head.month), dedupe_key => v_head.month::text);
      continue;
    end if;
    select coalesce(max(a.part), 0), coalesce(max(a.last_seq), 0) into v_part, v_last_seq
    from private.audit_archives a where a.month = v_head.month;
    return jsonb_build_object(
      'month', v_head.month, 'is_complete', v_last_seq = v_head.seq, 'part', v_part + 1, 'first_seq', v_last_seq + 1,
      'last_seq', least(v_head.seq, v_last_seq + v_part_entries));
  end loop;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.note_mfa_failure(user_id uuid, subject_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  insert into private.mfa_failures (user_id, subject_id, failed_at)
  values (note_mfa_failure.user_id, note_mfa_failure.subject_id, clock_timestamp());
  if private.lock_mfa(note_mfa_failure.subject_id) then
    perform private.warn_user(note_mfa_failure.user_id, 'mfa_locked', 'high', 'Your second factor was locked for a while',
      'Wrong codes were entered several times by somebody who knows your password. If it was not you, change it now.',
      jsonb_build_object('factor_id', nullif(note_mfa_failure.subject_id, note_mfa_failure.user_id)),
      note_mfa_failure.subject_id::text);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.note_sign_in_failure(lock private.sign_in_locks)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_window interval := make_interval(mins => (private.setting('lock_out.window_minutes'))::integer);
  v_longest interval := make_interval(mins => (private.setting('lock_out.max_minutes'))::integer);
  v_failures bigint;
  v_locks integer;
  v_duration interval;
begin
  insert into private.sign_in_failures (user_id, network, failed_at)
  values ((lock).user_id, (lock).network, clock_timestamp());
  perform private.watch_sign_in_failures((lock).user_id, v_window);
  if (lock).locked_until > clock_timestamp() then
    return;
  end if;
  -- Failures that already led to a lock, or came during it, do not count again.
  select count(*) into v_failures from private.sign_in_failures f
  where f.user_id = (lock).user_id and f.network = (lock).network
    and f.failed_at > greatest(clock_timestamp() - v_window, (lock).locked_until);
  if v_failures < (private.setting('lock_out.failures'))::integer then
    return;
  end if;
  v_locks := case when (lock).locked_until < clock_timestamp() - v_longest then 0 else (lock).locks end;
  v_duration := least(
    make_interval(mins => (private.setting('lock_out.minutes'))::integer) * power(2, least(v_locks, 20)), v_longest);
  update private.sign_in_locks l set locked_until = clock_timestamp() + v_duration, locks = v_locks + 1
  where l.user_id = (lock).user_id and l.network = (lock).network;
  perform private.warn_user((lock).user_id, 'account_locked', 'high', 'Sign-in was locked for a while',
    format('The password of your account was wrong %s times from %s. Nobody can sign in from there for %s minutes.',
      v_failures, (lock).network, round(extract(epoch from v_duration) / 60)),
    jsonb_build_object('network', (lock).network, 'failures', v_failures, 'locks', v_locks + 1,
      'minutes', round(extract(epoch from v_duration) / 60)),
    (lock).network || ' ' || gen_random_uuid());
end $function$;

CREATE OR REPLACE FUNCTION private.note_upload(file storage.objects, user_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_type text := coalesce(file.metadata ->> 'mimetype', 'application/octet-stream');
begin
  insert into private.uploads_to_check as u (object_id, user_id, bucket_id, name, version, content_type)
  values (file.id, note_upload.user_id, file.bucket_id, file.name, file.version, v_type)
  on conflict on constraint uploads_to_check_pkey do update set
    user_id = excluded.user_id, bucket_id = excluded.bucket_id, name = excluded.name, version = excluded.version,
    content_type = excluded.content_type, rejected = false, attempts = 0, due_at = now();
  -- What was rejected at this place, or has left bucket images, makes room.
  delete from public.images i
  where (i.bucket_id = file.bucket_id and i.path = file.name and i.id <> file.id) or (i.id = file.id and file.bucket_id <> 'images');
  if file.bucket_id = 'images' then
    insert into public.images as i (id, user_id, bucket_id, path, content_type, bytes)
    values (file.id, note_upload.user_id, file.bucket_id, file.name, v_type, (file.metadata ->> 'size')::bigint)
    on conflict on constraint images_pkey do update set
      user_id = excluded.user_id, bucket_id = excluded.bucket_id, path = excluded.path, content_type = excluded.content_type,
      bytes = excluded.bytes, status = 'checking',
      document_id = case when i.user_id = excluded.user_id then i.document_id end;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.notify_user(user_id uuid, type text, title text, body text, data jsonb DEFAULT '{}'::jsonb)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_id uuid;
begin
  insert into public.notifications (user_id, type, title, body, data)
  values (notify_user.user_id, notify_user.type, notify_user.title, notify_user.body, coalesce(notify_user.data, '{}'))
  returning id into v_id;
  if private.setting('notifications.mail_types') ? notify_user.type then
    insert into private.mails (user_id, subject, body) values (notify_user.user_id, notify_user.title, notify_user.body);
  end if;
  return v_id;
end $function$;

CREATE OR REPLACE FUNCTION private.password_verification_attempt(event jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := event ->> 'user_id';
  v_is_valid boolean := coalesce((event ->> 'valid')::boolean, false);
  v_network cidr := private.hook_network(event);
  v_lock private.sign_in_locks;
begin
  if not v_is_valid then
    insert into private.sign_in_locks (user_id, network) values (v_user_id, v_network) on conflict do nothing;
  end if;
  select l.* into v_lock from private.sign_in_locks l
  where l.user_id = v_user_id and l.network = v_network for update;

  if v_is_valid and v_lock.locked_until > clock_timestamp() is not true then
    delete from private.sign_in_locks l where l.user_id = v_user_id and l.network = v_network;
    delete from private.sign_in_failures f where f.user_id = v_user_id and f.network = v_network;
    return '{"decision": "continue"}';
  end if;
  if not v_is_valid then
    perform private.note_sign_in_failure(v_lock);
  end if;
  if v_lock.locked_until > clock_timestamp() then
    -- The Auth service's own words for a wrong password: whoever guesses learns neither the lock nor the account.
    return '{"decision": "reject", "message": "Invalid login credentials", "should_logout_user": false}';
  end if;
  return '{"decision": "continue"}';
end $function$;

CREATE OR REPLACE FUNCTION private.place_lock(invite_id uuid)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN hashtext(('private.registrations '::text || COALESCE((invite_id)::text, 'cap'::text)));

CREATE OR REPLACE FUNCTION private.raise_security_event(type text, severity text, user_id uuid, details jsonb DEFAULT '{}'::jsonb, dedupe_key text DEFAULT NULL::text, ip inet DEFAULT NULL::inet)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_event public.security_events;
begin
  insert into public.security_events as e (user_id, type, severity, details, ip, user_agent, dedupe_key, dedupe_window)
  values (
    raise_security_event.user_id, raise_security_event.type, raise_security_event.severity,
    coalesce(raise_security_event.details, '{}'), coalesce(raise_security_event.ip, private.request_ip()),
    private.request_user_agent(), coalesce(raise_security_event.dedupe_key, ''),
    floor(extract(epoch from now()) / (60 * (private.setting('security.dedupe_minutes'))::integer)))
  on conflict on constraint security_events_user_id_type_dedupe_key_dedupe_window_key do update set
    occurrences = e.occurrences + 1, last_seen_at = now()
  returning e.* into v_event;
  if v_event.occurrences = 1 then
    perform private.audit(
      action => 'security.' || v_event.type, resource_type => 'security_event', resource_id => v_event.id::text,
      user_id => v_event.user_id, details => jsonb_build_object('severity', v_event.severity), ip => v_event.ip);
  end if;
  return v_event.id;
end $function$;

CREATE OR REPLACE FUNCTION private.read_audit_entries(month date, first_seq bigint, last_seq bigint)
 RETURNS SETOF text
 LANGUAGE sql
 STABLE
 SET search_path TO ''
 SET "TimeZone" TO 'UTC'
AS $function$
  select to_jsonb(a)::text from private.audit_log a
  where a.created_at >= read_audit_entries.month::timestamp at time zone 'UTC'
    and a.created_at < (read_audit_entries.month + interval '1 month') at time zone 'UTC'
    and a.seq between read_audit_entries.first_seq and read_audit_entries.last_seq
  order by a.seq
$function$;

CREATE OR REPLACE FUNCTION private.record_audit_archive(part jsonb, sha256 text, path text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  insert into private.audit_archives (month, part, first_seq, last_seq, last_hash, sha256, path)
  select (part ->> 'month')::date, (part ->> 'part')::integer, (part ->> 'first_seq')::bigint, (part ->> 'last_seq')::bigint,
    a.hash, record_audit_archive.sha256, record_audit_archive.path
  from private.audit_log a
  where a.created_at >= (part ->> 'month')::timestamp at time zone 'UTC'
    and a.created_at < ((part ->> 'month')::timestamp + interval '1 month') at time zone 'UTC'
    and a.seq = (part ->> 'last_seq')::bigint
  on conflict do nothing
$function$;

CREATE OR REPLACE FUNCTION private.record_consent_of_guardian(user_id uuid, note text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  if (private.lock_account(record_consent_of_guardian.user_id)).user_id is null then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  if private.text_or_null(note, 500) is null then
    perform private.raise_error('invalid_request_error', 'note must say who consented and how it was checked.');
  end if;
  if not exists (
    select from public.profiles p
    where p.id = record_consent_of_guardian.user_id and p.parked_reason = 'guardian_consent') then
    return;
  end if;
  insert into public.consents (user_id, kind, granted, note)
  values (record_consent_of_guardian.user_id, 'guardian', true, private.text_or_null(note, 500));
  update public.profiles p set
    parked_reason = null,
    status = case when p.status = 'pending' and u.email_confirmed_at is not null then 'active' else p.status end
  from auth.users u
  where p.id = record_consent_of_guardian.user_id and u.id = p.id;
  perform private.audit(action => 'account.guardian_consent', resource_type => 'account',
    resource_id => record_consent_of_guardian.user_id::text, user_id => record_consent_of_guardian.user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.record_terms(user_id uuid, ip inet, user_agent text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$
  insert into public.consents (user_id, kind, version, granted, ip, user_agent)
  select record_terms.user_id, d.kind, d.version, true, record_terms.ip, left(record_terms.user_agent, 500)
  from (
    select distinct on (l.kind) l.kind, l.version from public.legal_documents l
    where l.published_at <= now()
    order by l.kind, l.published_at desc, l.version desc) d
  on conflict (user_id, kind, version) where version is not null do nothing
$function$;

CREATE OR REPLACE FUNCTION private.recovery_code_hash(user_id uuid, code text)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO ''
RETURN sha256(convert_to(((user_id)::text || translate(regexp_replace(lower("left"(code, 100)), '[^a-z0-9]'::text, ''::text, 'g'::text), 'oil'::text, '011'::text)), 'UTF8'::name));

CREATE OR REPLACE FUNCTION private.refuse_file(message text)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  raise exception using errcode = '42501', message = refuse_file.message;
end $function$;

CREATE OR REPLACE FUNCTION private.register_device(device_id text, name text, type text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_session_id uuid := private.my_session_id();
  v_country text := private.request_country();
  v_known_countries text[];
  v_is_new boolean;
  v_old_session_id uuid;
begin
  if length(register_device.device_id) between 1 and 200 is not true
    or length(register_device.name) between 1 and 100 is not true
    or register_device.type in ('android', 'ios', 'web', 'desktop') is not true then
    perform private.raise_error('invalid_request_error', 'device_id, name and type must be given.',
      'device_id: up to 200 characters; name: up to 100; type: android, ios, web or desktop.');
  end if;
  select array_agg(distinct d.country) filter (where d.country is not null) into v_known_countries
  from public.devices d where d.user_id = v_user_id;

  -- Who comes second waits here, and then finds the first one's session.
  insert into public.devices as d (user_id, device_id, name, type)
  values (v_user_id, register_device.device_id, register_device.name, register_device.type)
  on conflict on constraint devices_pkey do nothing;
  v_is_new := found;
  select d.session_id into v_old_session_id from public.devices d
  where d.user_id = v_user_id and d.device_id = register_device.device_id for update;
  update public.devices d set session_id = null
  where d.user_id = v_user_id and d.session_id = v_session_id and d.device_id <> register_device.device_id;
  update public.devices d set
    name = register_device.name, type = register_device.type, session_id = v_session_id,
    country = coalesce(v_country, d.country), last_active_at = now()
  where d.user_id = v_user_id and d.device_id = register_device.device_id;

  -- One live session per device.
  delete from auth.sessions s where s.id = v_old_session_id and s.user_id = v_user_id and s.id <> v_session_id;
  delete from public.devices d
  where d.user_id = v_user_id and d.device_id in (
    select o.device_id from public.devices o where o.user_id = v_user_id
    order by o.last_active_at desc, o.created_at desc offset (private.setting('sessions.max_devices_per_user'))::integer);

  if v_is_new and exists (
    select from public.devices d where d.user_id = v_user_id and d.device_id <> register_device.device_id) then
    perform private.warn_user(v_user_id, 'new_device', 'medium', 'New device',
      format('Somebody signed in to your account on %s. If it was not you, end that session and change your password.', register_device.name),
      jsonb_build_object('name', register_device.name, 'device_type', register_device.type), left(register_device.device_id, 200));
  end if;
  if v_country <> all (v_known_countries) then
    perform private.warn_user(v_user_id, 'new_country', 'medium', 'New country',
      format('Somebody uses your account from %s. If it is not you, end that session and change your password.', v_country),
      jsonb_build_object('country', v_country), v_country);
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.registration_policy()
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.require_admin();
  return (
    select jsonb_object_agg(s.key, s.value) from private.settings s
    where s.key like 'launch.%' or s.key like 'registration.%');
end $function$;

CREATE OR REPLACE FUNCTION private.request_country()
 RETURNS text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
  select nullif(left(upper(nullif(current_setting('request.headers', true), '')::jsonb
    ->> (select value #>> '{}' from private.settings where key = 'sessions.country_header')), 10), '')
$function$;

CREATE OR REPLACE FUNCTION private.request_header(name text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return nullif(current_setting('request.headers', true), '')::jsonb ->> request_header.name;
end $function$;

CREATE OR REPLACE FUNCTION private.request_id()
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return left(private.request_header('x-request-id'), 200);
end $function$;

CREATE OR REPLACE FUNCTION private.request_ip()
 RETURNS inet
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_name text;
  v_hops text[];
  v_hop text;
begin
  if nullif(current_setting('request.headers', true), '') is null then
    return null;
  end if;
  for v_name in select jsonb_array_elements_text(private.setting('http.client_ip_header')) loop
    v_hops := string_to_array(private.request_header(v_name), ',');
    continue when v_hops is null;
    v_hop := btrim(v_hops[array_upper(v_hops, 1)]);
    return case when v_hop ~ '^[0-9a-fA-F:.]+$' and pg_input_is_valid(v_hop, 'inet') then v_hop::inet end;
  end loop;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.request_user_agent()
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
begin
  return left(private.request_header('user-agent'), 500);
end $function$;

CREATE OR REPLACE FUNCTION private.require_aal2()
 RETURNS void
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  -- Who may do most must prove most: the team has no way around a second factor.
  if not private.mfa_is_satisfied() or (not private.has_aal2() and exists (
    select from public.profiles p where p.id = v_user_id and p.role <> 'user')) then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION private.require_admin()
 RETURNS void
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid;
begin
  if coalesce((select auth.role()), session_user) in ('service_role', 'postgres') then
    return;
  end if;
  v_user_id := private.require_user(allow_aal1 => true);
  if not exists (select from public.profiles p where p.id = v_user_id and p.role = 'admin') then
    perform private.raise_error('not_allowed', 'Only admins may do this.');
  end if;
  perform private.require_aal2();
end $function$;

CREATE OR REPLACE FUNCTION private.require_user(allow_pending boolean DEFAULT false, allow_aal1 boolean DEFAULT false)
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := (select auth.uid());
  v_status text;
begin
  if v_user_id is null then
    perform private.raise_error('invalid_api_key', 'Sign in first: this function needs a user''s token.');
  end if;
  select p.status into v_status from public.profiles p where p.id = v_user_id;
  if v_status is null or v_status = 'deleted' or not private.session_is_live() then
    perform private.raise_error('invalid_api_key', 'This session has ended. Sign in again.');
  elsif not private.account_is_open() then
    perform private.raise_error('account_suspended', 'This account is suspended.');
  elsif not require_user.allow_pending and not private.account_is_active() then
    perform private.raise_error('account_pending', 'Confirm your e-mail address first.');
  elsif not require_user.allow_aal1 and not private.mfa_is_satisfied() then
    perform private.raise_error('insufficient_aal', 'Sign in with your second factor first.');
  end if;
  return v_user_id;
end $function$;

CREATE OR REPLACE FUNCTION private.reservations_since()
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  return clock_timestamp() - make_interval(secs => (private.setting('registration.reservation_seconds'))::integer);
end $function$;

CREATE OR REPLACE FUNCTION private.reserve_registration(user_id uuid, data jsonb, is_anonymous boolean, ip inet, origin text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_phase text := private.setting('launch.phase') #>> '{}';
  v_is_invited boolean := origin in ('admin', 'import');
  v_refusal text;
  v_invite_id uuid;
  v_place integer;
begin
  -- A phase that nobody has heard of is a closed one.
  if coalesce(v_phase not in ('open', 'invite', 'capped'), true) and not v_is_invited then
    return 'Sign-up is closed at the moment.';
  end if;
  if not is_anonymous then
    v_refusal := private.age_refusal(data ->> 'birth_date', origin = 'sign_up');
    if v_refusal is not null then
      return v_refusal;
    end if;
    if origin = 'sign_up' and (private.setting('registration.require_terms'))::boolean
      and data -> 'accept_terms' is distinct from 'true'::jsonb then
      return 'Sign-up needs your acceptance of the terms and the privacy policy: accept_terms must be true.';
    end if;
  end if;
  if v_phase = 'invite' and not v_is_invited then
    if private.text_or_null(data ->> 'invite_code', 100) is null then
      return 'Sign-up needs an invite code.';
    end if;
    select t.invite_id, t.place into v_invite_id, v_place
    from private.take_invite(data ->> 'invite_code', reserve_registration.user_id) t;
    if v_place is null then
      return 'This invite code is unknown, used up or expired.';
    end if;
  end if;
  if v_phase = 'capped' then
    v_place := private.take_place_under_cap(reserve_registration.user_id);
    if v_place is null then
      return 'All places are taken for now.';
    end if;
  end if;
  delete from private.registrations r where r.user_id in (
    select o.user_id from private.registrations o
    where o.confirmed_at is null and o.reserved_at <= (select private.reservations_since())
    for update skip locked);
  insert into private.registrations (user_id, origin, invite_id, place, is_anonymous, ip, reserved_at)
  values (reserve_registration.user_id, reserve_registration.origin, v_invite_id, v_place,
    reserve_registration.is_anonymous, reserve_registration.ip, clock_timestamp())
  on conflict on constraint registrations_pkey do update
    set invite_id = excluded.invite_id, place = excluded.place, origin = excluded.origin, reserved_at = excluded.reserved_at;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.revoke_all_sessions(user_id uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_revoked integer;
begin
  perform private.require_admin();
  if not exists (select from auth.users u where u.id = revoke_all_sessions.user_id) then
    perform private.raise_error('not_found', 'There is no such account.');
  end if;
  delete from auth.sessions s where s.user_id = revoke_all_sessions.user_id;
  get diagnostics v_revoked = row_count;
  perform private.audit(action => 'session.revoke_all', resource_type => 'account',
    resource_id => revoke_all_sessions.user_id::text, user_id => revoke_all_sessions.user_id,
    details => jsonb_build_object('sessions', v_revoked));
  return v_revoked;
end $function$;

CREATE OR REPLACE FUNCTION private.revoke_my_other_sessions()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
  v_session_id uuid := private.my_session_id();
  v_revoked integer;
begin
  delete from auth.sessions s where s.user_id = v_user_id and s.id <> v_session_id;
  get diagnostics v_revoked = row_count;
  perform private.audit(action => 'session.revoke_others', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id, details => jsonb_build_object('sessions', v_revoked));
  return v_revoked;
end $function$;

CREATE OR REPLACE FUNCTION private.revoke_my_session(session_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_pending => true);
begin
  delete from auth.sessions s where s.id = revoke_my_session.session_id and s.user_id = v_user_id;
  if not found then
    perform private.raise_error('not_found', 'You have no such session.');
  end if;
  perform private.audit(action => 'session.revoke', resource_type => 'session',
    resource_id => revoke_my_session.session_id::text, user_id => v_user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.sees_audit_origin()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  return coalesce((select auth.role()) = 'service_role', false) or private.is_admin();
end $function$;

CREATE OR REPLACE FUNCTION private.session_is_live()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_claims jsonb := auth.jwt();
begin
  return exists (
    select from private.live_sessions s
    where s.id = nullif(v_claims ->> 'session_id', '')::uuid and s.user_id = (v_claims ->> 'sub')::uuid);
end $function$;

CREATE OR REPLACE FUNCTION private.set_my_do_not_sell(value boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user();
  v_before boolean;
begin
  if value is null then
    perform private.raise_error('invalid_request_error', 'value must be true or false.');
  end if;
  perform private.lock_account(v_user_id);
  select c.granted into v_before from public.consents c
  where c.user_id = v_user_id and c.kind = 'do_not_sell' order by c.created_at desc, c.id desc limit 1;
  if v_before is distinct from value then
    insert into public.consents (user_id, kind, granted, ip, user_agent)
    values (v_user_id, 'do_not_sell', value, private.request_ip(), left(private.request_user_agent(), 500));
    update public.profiles p set do_not_sell = value where p.id = v_user_id;
  end if;
  return value;
end $function$;

CREATE OR REPLACE FUNCTION private.status_to_return_to(user_id uuid, status text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO ''
AS $function$
declare
  v_before text;
begin
  if status not in ('suspended', 'deleted') then
    return status;
  end if;
  select c.from_status into v_before from private.account_status_changes c
  where c.user_id = status_to_return_to.user_id and c.from_status in ('pending', 'active')
  order by c.id desc limit 1;
  -- A pending account may have verified its address in the meantime.
  return (
    select case when coalesce(v_before, 'pending') = 'active' or (u.email_confirmed_at is not null and p.parked_reason is null)
      then 'active' else 'pending' end
    from public.profiles p join auth.users u using (id) where p.id = status_to_return_to.user_id);
end $function$;

CREATE OR REPLACE FUNCTION private.take_invite(code text, user_id uuid, OUT invite_id uuid, OUT place integer)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_max_uses integer;
begin
  select i.id, i.max_uses into invite_id, v_max_uses from private.invites i
  where i.code_hash = private.invite_code_hash(take_invite.code)
    and i.revoked_at is null and (i.expires_at is null or i.expires_at > now());
  for place in
    select g.n from generate_series(1, v_max_uses) g (n)
    where g.n not in (
      select r.place from private.registrations r
      where r.invite_id = take_invite.invite_id and r.place is not null and r.user_id <> take_invite.user_id
        and (r.confirmed_at is not null or r.reserved_at > (select private.reservations_since())))
    order by g.n
  loop
    if private.try_place(invite_id, place, take_invite.user_id) then
      return;
    end if;
  end loop;
  place := null;
end $function$;

CREATE OR REPLACE FUNCTION private.take_place_under_cap(user_id uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_cap integer := (private.setting('launch.user_cap'))::integer;
  v_since timestamptz := private.reservations_since();
  v_place integer;
begin
  -- One statement, so one state of the database: as many of the lowest unused numbers as there are free places. Whoever
  -- sees the same state tries the same numbers, so those who have not committed are counted by the locks they hold.
  for v_place in
    with taken as (
      select count(*)::integer as n from (
        select p.id from public.profiles p where p.status <> 'deleted' and p.id <> take_place_under_cap.user_id
        union all
        select r.user_id from private.registrations r
        where r.confirmed_at is null and r.user_id <> take_place_under_cap.user_id and r.reserved_at > v_since
        limit v_cap) x),
    numbers as materialized (
      select r.place from private.registrations r
      where r.invite_id is null and r.place is not null and r.user_id <> take_place_under_cap.user_id
        and (r.confirmed_at is not null or r.reserved_at > v_since))
    select g.n
    from generate_series(1, v_cap + (select count(*)::integer from numbers)) g (n)
    where g.n not in (select m.place from numbers m)
    order by g.n
    limit (select greatest(v_cap - t.n, 0) from taken t)
  loop
    if private.try_place(null, v_place, take_place_under_cap.user_id) then
      return v_place;
    end if;
  end loop;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_audit_log__append_only()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_sealing text[] := array['seq', 'previous_hash', 'hash'];
begin
  if tg_op = 'UPDATE' and tg_table_name like 'audit_log%' then
    if old.hash is null and new.hash is not null and to_jsonb(new) - v_sealing = to_jsonb(old) - v_sealing then
      return new;
    end if;
  end if;
  raise exception using errcode = '42501', message = 'the audit log is append-only';
end $function$;

CREATE OR REPLACE FUNCTION private.tg_audit_log__seal()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
  v_month date := private.audit_month(new.created_at);
  v_head private.audit_chain_heads;
begin
  select h.* into v_head from private.audit_chain_heads h where h.month = v_month for update;
  if not found then
    insert into private.audit_chain_heads (month, seq, hash) values (v_month, 0, '') on conflict (month) do nothing;
    select h.* into v_head from private.audit_chain_heads h where h.month = v_month for update;
  end if;
  v_head.seq := v_head.seq + 1;
  update private.audit_log a set
    seq = v_head.seq, previous_hash = v_head.hash, hash = private.audit_hash(new, v_head.seq, v_head.hash)
  where a.id = new.id and a.created_at = new.created_at
  returning a.hash into v_head.hash;
  update private.audit_chain_heads h set seq = v_head.seq, hash = v_head.hash where h.month = v_month;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_mfa_factors__removed()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  -- With the account go its factors: nobody is left to be warned.
  if not exists (select from auth.users u where u.id = old.user_id) then
    return null;
  end if;
  if not exists (select from auth.mfa_factors f where f.user_id = old.user_id and f.status = 'verified') then
    delete from private.recovery_codes c where c.user_id = old.user_id;
  end if;
  perform private.warn_user(old.user_id, 'mfa_removed', 'high', 'A second factor was removed',
    'Your account now takes one proof less at sign-in. If it was not you, change your password and end your other sessions.',
    jsonb_build_object('factor_type', old.factor_type::text), old.id::text);
  return null;
exception when others then
  raise warning 'the removed factor of % was not noted: %', old.user_id, sqlerrm;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_objects__check()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.file_owner(new.name);
  v_type text := new.metadata ->> 'mimetype';
  v_bytes bigint := new.metadata ->> 'size';
  v_before bigint := 0;
begin
  -- A download notes its time; that changes nothing that matters here.
  if tg_op = 'UPDATE' and (old.bucket_id, old.name, old.version, old.metadata)
    is not distinct from (new.bucket_id, new.name, new.version, new.metadata) then
    return null;
  end if;
  if new.bucket_id in ('avatars', 'images') then
    if v_user_id is null then
      perform private.refuse_file('The path must begin with the id of an account.');
    end if;
    -- Before the upload the service may give its own request's type, as application/json for a signed URL.
    perform private.check_file_name(new.name, case when v_bytes is not null or v_type like 'image/%' then v_type end);
    if v_bytes = 0 then
      perform private.refuse_file('The file is empty.');
    end if;
  end if;
  if v_user_id is null then
    return null;
  end if;
  if exists (select from public.profiles p where p.id = v_user_id and p.status in ('suspended', 'deleted')) then
    perform private.refuse_file('This account is suspended or deleted.');
  end if;
  if tg_op = 'UPDATE' and private.file_owner(old.name) = v_user_id then
    v_before := coalesce((old.metadata ->> 'size')::bigint, 0);
  end if;
  perform private.check_stored_bytes(v_user_id, new.metadata, v_before);
  if v_bytes is not null and new.bucket_id in ('avatars', 'images') then
    perform private.note_upload(new, v_user_id);
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_objects__forget()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  delete from private.uploads_to_check u where u.object_id = old.id and not u.rejected;
  delete from public.images i where i.id = old.id and i.status <> 'rejected';
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_profiles__role_changed()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.warn_user(new.id, 'role_changed', 'high', 'Your role was changed',
    format('Your role is now %s; it was %s.', new.role, old.role), jsonb_build_object('from', old.role, 'to', new.role));
  perform private.audit(action => 'account.set_role', resource_type => 'account', resource_id => new.id::text,
    user_id => new.id, details => jsonb_build_object('from', old.role, 'to', new.role));
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_psychology_tests__count()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.consume(new.user_id, 'psychology_tests', 'month', 1);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_psychology_tests__times()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  new.started_at := case when tg_op = 'INSERT' then now() else old.started_at end;
  new.updated_at := now();
  new.completed_at := case when new.completed_at is not null then now() end;
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_refresh_tokens__reuse()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid;
begin
  if exists (select from auth.refresh_tokens t where t.session_id = new.session_id and t.revoked is not true) then
    return null;
  end if;
  delete from auth.sessions s where s.id = new.session_id returning s.user_id into v_user_id;
  if found then
    perform private.warn_user(v_user_id, 'refresh_token_reuse', 'high', 'A session was ended for safety',
      'An old sign-in token was used a second time: somebody may have copied it. Sign in again and change your password.',
      jsonb_build_object('session_id', new.session_id), new.session_id::text);
  end if;
  return null;
exception when others then
  raise warning 'reuse of a token of session % was not handled: %', new.session_id, sqlerrm;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_sessions__limit()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  -- Sign-ins of one user take turns, so that none misses another's session.
  perform pg_advisory_xact_lock(hashtextextended('sessions of ' || new.user_id, 0));
  delete from auth.sessions s where s.id in (
    select o.id from auth.sessions o where o.user_id = new.user_id and o.id <> new.id
    order by o.created_at desc, o.id offset (private.setting('sessions.max_per_user'))::integer - 1);
  return null;
exception when others then
  raise warning 'sessions of % were not limited: %', new.user_id, sqlerrm;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_sessions__network()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_network cidr := private.network_of(new.ip, 24, 48);
begin
  insert into private.known_networks (user_id, network) values (new.user_id, v_network) on conflict do nothing;
  if not found then
    update private.known_networks n set last_seen_at = now() where n.user_id = new.user_id and n.network = v_network;
  elsif exists (select from private.known_networks n where n.user_id = new.user_id and n.network <> v_network) then
    perform private.warn_user(new.user_id, 'new_network', 'medium', 'Sign-in from a new network',
      format('Somebody signed in to your account from %s with %s. If it was not you, end that session and change your password.',
        host(new.ip), private.client_name(new.user_agent)),
      jsonb_build_object('ip', host(new.ip), 'network', v_network, 'client', private.client_name(new.user_agent)),
      v_network::text);
  end if;
  return null;
exception when others then
  raise warning 'the network of session % was not noted: %', new.id, sqlerrm;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_users__activate_account()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.complete_anonymous_account(new.id);
  update public.profiles set status = 'active' where id = new.id and status = 'pending' and parked_reason is null;
  return new;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_users__confirm_registration()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.confirm_registration(new.id);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.tg_users__password_changed()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.warn_user(new.id, 'password_changed', 'medium', 'Your password was changed',
    'If it was not you, reset your password now and end your other sessions.');
  return null;
exception when others then
  raise warning 'the new password of % was not noted: %', new.id, sqlerrm;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION private.time_zone_or_default(value text)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO ''
RETURN COALESCE((SELECT z.name FROM pg_timezone_names z WHERE ((z.name = time_zone_or_default.value) AND (time_zone_or_default.value <> 'UTC'::text))), 'UTC'::text);

CREATE OR REPLACE FUNCTION private.try_place(invite_id uuid, place integer, user_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
begin
  -- Whoever holds the lock is taking this place right now.
  if not pg_try_advisory_xact_lock(private.place_lock(try_place.invite_id), try_place.place) then
    return false;
  end if;
  -- It may have been taken meanwhile. A statement of its own: it must see what was committed before the lock was free.
  return not exists (
    select from private.registrations r
    where r.place = try_place.place and r.invite_id is not distinct from try_place.invite_id
      and r.user_id <> try_place.user_id
      and (r.confirmed_at is not null or r.reserved_at > (select private.reservations_since())));
end $function$;

CREATE OR REPLACE FUNCTION private.use_recovery_code(code text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
declare
  v_user_id uuid := private.require_user(allow_aal1 => true);
begin
  if private.lock_mfa(v_user_id) then
    return 'locked';
  end if;
  delete from private.recovery_codes c
  where c.user_id = v_user_id and c.code_hash = private.recovery_code_hash(v_user_id, use_recovery_code.code);
  if not found then
    -- Returned, not raised: an error would take the count back.
    perform private.note_mfa_failure(v_user_id, v_user_id);
    return 'wrong';
  end if;
  delete from auth.mfa_factors f where f.user_id = v_user_id;
  delete from auth.sessions s where s.user_id = v_user_id and s.id <> private.my_session_id();
  delete from private.recovery_codes c where c.user_id = v_user_id;
  delete from private.mfa_failures f where f.user_id = v_user_id;
  perform private.audit(action => 'mfa.use_recovery_code', resource_type => 'account', resource_id => v_user_id::text,
    user_id => v_user_id);
  return 'accepted';
end $function$;

CREATE OR REPLACE FUNCTION private.verify_audit_chain(from_month date DEFAULT NULL::date)
 RETURNS TABLE(month date, seq bigint, id uuid, problem text)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$
  with entries as (
    select private.audit_month(a.created_at) as month, a as entry, a.seq, a.id, a.hash, a.previous_hash,
      lag(a.seq, 1, 0::bigint) over chain as seq_before, lag(a.hash, 1, ''::bytea) over chain as hash_before
    from private.audit_log a
    where a.hash is not null
      and (from_month is null or a.created_at >= date_trunc('month', from_month::timestamp) at time zone 'UTC')
    window chain as (partition by private.audit_month(a.created_at) order by a.seq, a.id)
  ), ends as (
    select distinct on (e.month) e.month, e.seq, e.hash from entries e order by e.month, e.seq desc, e.id desc
  ), heads as (
    select h.month, h.seq, h.hash from private.audit_chain_heads h
    where from_month is null or h.month >= date_trunc('month', from_month::timestamp)::date
  )
  select private.audit_month(a.created_at), a.seq, a.id, 'not sealed' from private.audit_log a
  where a.hash is null
    and (from_month is null or a.created_at >= date_trunc('month', from_month::timestamp) at time zone 'UTC')
  union all
  select e.month, e.seq, e.id, 'changed' from entries e
  where e.hash is distinct from private.audit_hash(e.entry, e.seq, e.previous_hash)
  union all
  select e.month, e.seq, e.id, 'entries before it are missing or out of order' from entries e
  where e.seq <> e.seq_before + 1 or e.previous_hash is distinct from e.hash_before
  union all
  select coalesce(h.month, e.month), e.seq, null, 'the chain does not end at its head: entries are missing or were added'
  from heads h full join ends e on e.month = h.month
  where (h.seq, h.hash) is distinct from (e.seq, e.hash)
    and not (e.month is null and h.seq = 0)
    and not (e.month is null and h.seq = (
      select sum(r.last_seq - r.first_seq + 1) from private.audit_archives r where r.month = h.month)
      and exists (
        select from private.audit_archives r where r.month = h.month and r.last_seq = h.seq and r.last_hash = h.hash))
  order by 1, 2
$function$;

CREATE OR REPLACE FUNCTION private.warn_user(user_id uuid, type text, severity text, title text, body text, details jsonb DEFAULT '{}'::jsonb, dedupe_key text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO ''
AS $function$
begin
  perform private.raise_security_event(
    type => warn_user.type, severity => warn_user.severity, user_id => warn_user.user_id,
    details => warn_user.details, dedupe_key => warn_user.dedupe_key);
  perform private.notify_user(
    user_id => warn_user.user_id, type => warn_user.type, title => warn_user.title, body => warn_user.body,
    data => warn_user.details);
end $function$;

CREATE OR REPLACE FUNCTION private.watch_sign_in_failures(user_id uuid, failure_window interval)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_account_limit integer := (private.setting('lock_out.alert_failures'))::integer;
  v_project_limit integer := (private.setting('lock_out.alert_failures_project'))::integer;
  v_failures bigint;
begin
  -- Counted to the threshold only: an attack makes no count longer than that.
  select count(*) into v_failures from (
    select from private.sign_in_failures f
    where f.user_id = watch_sign_in_failures.user_id and f.failed_at > clock_timestamp() - failure_window
    limit v_account_limit) f;
  if v_failures >= v_account_limit then
    perform private.raise_security_event(type => 'brute_force', severity => 'high',
      user_id => watch_sign_in_failures.user_id, details => jsonb_build_object('failures', v_failures), dedupe_key => 'account');
  end if;
  select count(*) into v_failures from (
    select from private.sign_in_failures f where f.failed_at > clock_timestamp() - failure_window limit v_project_limit) f;
  if v_failures >= v_project_limit then
    perform private.raise_security_event(type => 'brute_force', severity => 'critical', user_id => null,
      details => jsonb_build_object('failures', v_failures), dedupe_key => 'project');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION public.accept_terms()
 RETURNS SETOF public.consents
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select * from private.accept_my_terms() $function$;

CREATE OR REPLACE FUNCTION public.complete_registration(birth_date text, accept_terms boolean)
 RETURNS public.profiles
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.complete_my_registration(birth_date, accept_terms) $function$;

CREATE OR REPLACE FUNCTION public.count_my_recovery_codes()
 RETURNS integer
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select private.count_my_recovery_codes() $function$;

CREATE OR REPLACE FUNCTION public.create_invite(label text, max_uses integer DEFAULT 1, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT id uuid, OUT code text)
 RETURNS record
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select i.id, i.code from private.make_invite(create_invite.label, create_invite.max_uses, create_invite.expires_at) i $function$;

CREATE OR REPLACE FUNCTION public.create_recovery_codes()
 RETURNS text[]
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.create_recovery_codes() $function$;

CREATE OR REPLACE FUNCTION public.delete_account(user_id uuid, reason text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_status_of(user_id, 'deleted', reason) $function$;

CREATE OR REPLACE FUNCTION public.delete_my_account()
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.delete_own_account() $function$;

CREATE OR REPLACE FUNCTION public.find_account(email text)
 RETURNS TABLE(id uuid, status text, parked_reason text, role text, plan_id text, email_confirmed_at timestamp with time zone, last_sign_in_at timestamp with time zone, created_at timestamp with time zone, registered_by text)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.account_by_email(find_account.email) $function$;

CREATE OR REPLACE FUNCTION public.get_registration_policy()
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select private.registration_policy() $function$;

CREATE OR REPLACE FUNCTION public.list_invites()
 RETURNS TABLE(id uuid, label text, max_uses integer, uses bigint, expires_at timestamp with time zone, revoked_at timestamp with time zone, created_by uuid, created_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.invites_with_uses() $function$;

CREATE OR REPLACE FUNCTION public.list_my_sessions()
 RETURNS TABLE(session_id uuid, device_id text, device_name text, device_type text, ip inet, user_agent text, client text, created_at timestamp with time zone, last_active_at timestamp with time zone, is_current boolean)
 LANGUAGE sql
 STABLE
 SET search_path TO ''
AS $function$ select * from private.list_my_sessions() $function$;

CREATE OR REPLACE FUNCTION public.record_guardian_consent(user_id uuid, note text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.record_consent_of_guardian(user_id, note) $function$;

CREATE OR REPLACE FUNCTION public.register_device(device_id text, name text, type text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.register_device(register_device.device_id, register_device.name, register_device.type) $function$;

CREATE OR REPLACE FUNCTION public.reinstate_account(user_id uuid, reason text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_status_of(user_id, 'reinstated', reason) $function$;

CREATE OR REPLACE FUNCTION public.revoke_all_sessions(user_id uuid)
 RETURNS integer
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.revoke_all_sessions(revoke_all_sessions.user_id) $function$;

CREATE OR REPLACE FUNCTION public.revoke_invite(invite_id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.close_invite(invite_id) $function$;

CREATE OR REPLACE FUNCTION public.revoke_my_other_sessions()
 RETURNS integer
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.revoke_my_other_sessions() $function$;

CREATE OR REPLACE FUNCTION public.revoke_my_session(session_id uuid)
 RETURNS void
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.revoke_my_session(revoke_my_session.session_id) $function$;

CREATE OR REPLACE FUNCTION public.set_account_role(user_id uuid, role text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_role_of(user_id, role) $function$;

CREATE OR REPLACE FUNCTION public.set_do_not_sell(value boolean)
 RETURNS boolean
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.set_my_do_not_sell(value) $function$;

CREATE OR REPLACE FUNCTION public.suspend_account(user_id uuid, reason text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.change_status_of(user_id, 'suspended', reason) $function$;

CREATE OR REPLACE FUNCTION public.use_recovery_code(code text)
 RETURNS text
 LANGUAGE sql
 SET search_path TO ''
AS $function$ select private.use_recovery_code(use_recovery_code.code) $function$;

ALTER TABLE "private"."account_status_changes" ADD CONSTRAINT "account_status_changes_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_action_check" CHECK (((action ~ '^[a-z0-9_]+(\.[a-z0-9_]+)+$'::text) AND (length(action) <= 80)));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_actor_role_check" CHECK (((length(actor_role) >= 1) AND (length(actor_role) <= 80)));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_details_check" CHECK (((jsonb_typeof(details) = 'object'::text) AND (length((details)::text) <= 16000)));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_pkey" PRIMARY KEY (id, created_at);

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_request_id_check" CHECK ((length(request_id) <= 200));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_resource_id_check" CHECK ((length(resource_id) <= 200));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_resource_type_check" CHECK (((resource_type ~ '^[a-z0-9_]+$'::text) AND (length(resource_type) <= 80)));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_result_check" CHECK ((result = ANY (ARRAY['success'::text, 'refused'::text, 'failed'::text])));

ALTER TABLE "private"."audit_log" ADD CONSTRAINT "audit_log_user_agent_check" CHECK ((length(user_agent) <= 500));

ALTER TABLE "private"."invites" ADD CONSTRAINT "invites_created_by_fkey" FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE SET NULL;

ALTER TABLE "private"."known_networks" ADD CONSTRAINT "known_networks_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."mails" ADD CONSTRAINT "mails_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."mfa_failures" ADD CONSTRAINT "mfa_failures_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."recovery_codes" ADD CONSTRAINT "recovery_codes_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."sign_in_failures" ADD CONSTRAINT "sign_in_failures_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."sign_in_locks" ADD CONSTRAINT "sign_in_locks_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "private"."uploads_to_check" ADD CONSTRAINT "uploads_to_check_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."consents" ADD CONSTRAINT "consents_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."devices" ADD CONSTRAINT "devices_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."images" ADD CONSTRAINT "images_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."consents" ADD CONSTRAINT "consents_kind_version_fkey" FOREIGN KEY (kind, version) REFERENCES public.legal_documents(kind, version) ON DELETE RESTRICT;

ALTER TABLE "public"."notifications" ADD CONSTRAINT "notifications_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."profiles" ADD CONSTRAINT "profiles_parked_reason_check" CHECK ((parked_reason = ANY (ARRAY['guardian_consent'::text, 'incomplete'::text]))) NOT VALID;

ALTER TABLE "public"."psychology_tests" ADD CONSTRAINT "psychology_tests_questionnaire_id_questionnaire_version_fkey" FOREIGN KEY (questionnaire_id, questionnaire_version) REFERENCES public.questionnaires(id, version) ON DELETE RESTRICT;

ALTER TABLE "public"."security_events" ADD CONSTRAINT "security_events_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE VIEW "private"."live_sessions" WITH (security_invoker=true) AS  SELECT id,
    user_id,
    aal,
    created_at
   FROM auth.sessions s
  WHERE (((not_after IS NULL) OR (not_after > now())) AND (created_at > (now() - make_interval(hours => (( SELECT settings.value
           FROM private.settings
          WHERE (settings.key = 'sessions.absolute_hours'::text)))::integer))) AND (COALESCE((refreshed_at AT TIME ZONE 'UTC'::text), created_at) > (now() - make_interval(hours => (( SELECT settings.value
           FROM private.settings
          WHERE (settings.key = 'sessions.idle_hours'::text)))::integer))));

CREATE VIEW "public"."audit_log" WITH (security_invoker=true) AS  SELECT a.id,
    a.created_at,
    a.actor_id,
    a.actor_role,
    a.user_id,
    a.action,
    a.resource_type,
    a.resource_id,
    a.result,
        CASE
            WHEN (v.sees_origin OR (a.actor_id = a.user_id)) THEN a.ip
            ELSE NULL::inet
        END AS ip,
        CASE
            WHEN (v.sees_origin OR (a.actor_id = a.user_id)) THEN a.user_agent
            ELSE NULL::text
        END AS user_agent,
    a.request_id,
    a.details
   FROM (private.audit_log a
     CROSS JOIN ( SELECT private.sees_audit_origin() AS sees_origin) v);

CREATE INDEX audit_log_created_at_idx ON private.audit_log USING btree (created_at DESC);

CREATE INDEX audit_log_user_id_created_at_idx ON private.audit_log USING btree (user_id, created_at DESC);

CREATE INDEX invites_created_by_idx ON private.invites USING btree (created_by);

CREATE INDEX known_networks_last_seen_at_idx ON private.known_networks USING btree (last_seen_at);

CREATE INDEX mails_next_attempt_at_idx ON private.mails USING btree (next_attempt_at) WHERE (state = 'waiting'::text);

CREATE INDEX mails_user_id_idx ON private.mails USING btree (user_id);

CREATE INDEX mfa_failures_failed_at_idx ON private.mfa_failures USING btree (failed_at);

CREATE INDEX mfa_failures_subject_id_idx ON private.mfa_failures USING btree (subject_id, failed_at);

CREATE INDEX mfa_failures_user_id_idx ON private.mfa_failures USING btree (user_id);

CREATE INDEX registrations_invite_id_idx ON private.registrations USING btree (invite_id);

CREATE INDEX registrations_place_idx ON private.registrations USING btree (place) WHERE (place IS NOT NULL);

CREATE INDEX registrations_reserved_at_idx ON private.registrations USING btree (reserved_at) WHERE (confirmed_at IS NULL);

CREATE INDEX sign_in_failures_failed_at_idx ON private.sign_in_failures USING btree (failed_at);

CREATE INDEX sign_in_failures_user_id_idx ON private.sign_in_failures USING btree (user_id, network, failed_at);

CREATE INDEX uploads_to_check_due_at_idx ON private.uploads_to_check USING btree (due_at);

CREATE INDEX uploads_to_check_user_id_idx ON private.uploads_to_check USING btree (user_id);

CREATE INDEX consents_kind_version_idx ON public.consents USING btree (kind, version);

CREATE INDEX consents_user_id_kind_created_at_idx ON public.consents USING btree (user_id, kind, created_at DESC);

CREATE UNIQUE INDEX consents_user_id_kind_version_key ON public.consents USING btree (user_id, kind, version) WHERE (version IS NOT NULL);

CREATE INDEX devices_session_id_idx ON public.devices USING btree (session_id);

CREATE INDEX images_document_id_user_id_idx ON public.images USING btree (document_id, user_id);

CREATE INDEX images_user_id_created_at_id_idx ON public.images USING btree (user_id, created_at DESC, id DESC);

CREATE INDEX notifications_user_id_created_at_idx ON public.notifications USING btree (user_id, created_at DESC);

CREATE INDEX psychology_tests_questionnaire_idx ON public.psychology_tests USING btree (questionnaire_id, questionnaire_version);

CREATE INDEX security_events_created_at_idx ON public.security_events USING btree (created_at DESC);

CREATE TRIGGER palisade_factor_removed AFTER DELETE ON auth.mfa_factors FOR EACH ROW WHEN ((old.status = 'verified'::text)) EXECUTE FUNCTION private.tg_mfa_factors__removed();

CREATE CONSTRAINT TRIGGER palisade_token_reuse AFTER UPDATE OF revoked ON auth.refresh_tokens DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((new.revoked AND (old.revoked IS NOT TRUE) AND (new.session_id IS NOT NULL))) EXECUTE FUNCTION private.tg_refresh_tokens__reuse();

CREATE TRIGGER palisade_limit_sessions AFTER INSERT ON auth.sessions FOR EACH ROW EXECUTE FUNCTION private.tg_sessions__limit();

CREATE TRIGGER palisade_note_network AFTER INSERT ON auth.sessions FOR EACH ROW WHEN ((new.ip IS NOT NULL)) EXECUTE FUNCTION private.tg_sessions__network();

CREATE CONSTRAINT TRIGGER palisade_confirm_registration AFTER INSERT ON auth.users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION private.tg_users__confirm_registration();

CREATE TRIGGER palisade_password_changed AFTER UPDATE OF encrypted_password ON auth.users FOR EACH ROW WHEN ((((old.encrypted_password)::text <> ''::text) AND ((old.encrypted_password)::text IS DISTINCT FROM (new.encrypted_password)::text))) EXECUTE FUNCTION private.tg_users__password_changed();

CREATE TRIGGER tg_account_status_changes__append_only BEFORE DELETE OR UPDATE ON private.account_status_changes FOR EACH ROW EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_account_status_changes__no_truncate BEFORE TRUNCATE ON private.account_status_changes FOR EACH STATEMENT EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_audit_archives__append_only BEFORE DELETE OR UPDATE ON private.audit_archives FOR EACH ROW EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_archives" ENABLE ALWAYS TRIGGER "tg_audit_archives__append_only";

CREATE TRIGGER tg_audit_archives__no_truncate BEFORE TRUNCATE ON private.audit_archives FOR EACH STATEMENT EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_archives" ENABLE ALWAYS TRIGGER "tg_audit_archives__no_truncate";

CREATE TRIGGER tg_audit_chain_heads__no_delete BEFORE DELETE ON private.audit_chain_heads FOR EACH ROW EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_chain_heads" ENABLE ALWAYS TRIGGER "tg_audit_chain_heads__no_delete";

CREATE TRIGGER tg_audit_chain_heads__no_truncate BEFORE TRUNCATE ON private.audit_chain_heads FOR EACH STATEMENT EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_chain_heads" ENABLE ALWAYS TRIGGER "tg_audit_chain_heads__no_truncate";

CREATE TRIGGER tg_audit_log__append_only BEFORE DELETE OR UPDATE ON private.audit_log FOR EACH ROW EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_log" ENABLE ALWAYS TRIGGER "tg_audit_log__append_only";

CREATE TRIGGER tg_audit_log__no_truncate BEFORE TRUNCATE ON private.audit_log FOR EACH STATEMENT EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_log" ENABLE ALWAYS TRIGGER "tg_audit_log__no_truncate";

CREATE CONSTRAINT TRIGGER tg_audit_log__seal AFTER INSERT ON private.audit_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION private.tg_audit_log__seal();

ALTER TABLE "private"."audit_log" ENABLE ALWAYS TRIGGER "tg_audit_log__seal";

CREATE TRIGGER tg_audit_log__no_truncate BEFORE TRUNCATE ON private.audit_log_default FOR EACH STATEMENT EXECUTE FUNCTION private.tg_audit_log__append_only();

ALTER TABLE "private"."audit_log_default" ENABLE ALWAYS TRIGGER "tg_audit_log__no_truncate";

CREATE TRIGGER tg_consents__append_only BEFORE DELETE OR UPDATE ON public.consents FOR EACH ROW EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_consents__no_truncate BEFORE TRUNCATE ON public.consents FOR EACH STATEMENT EXECUTE FUNCTION private.tg__append_only();

CREATE TRIGGER tg_documents__timestamps BEFORE INSERT OR UPDATE ON public.documents FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE TRIGGER tg_images__timestamps BEFORE INSERT OR UPDATE ON public.images FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE TRIGGER tg_profiles__role_changed AFTER UPDATE OF role ON public.profiles FOR EACH ROW WHEN ((old.role IS DISTINCT FROM new.role)) EXECUTE FUNCTION private.tg_profiles__role_changed();

CREATE TRIGGER tg_psychology_tests__count AFTER INSERT ON public.psychology_tests FOR EACH ROW EXECUTE FUNCTION private.tg_psychology_tests__count();

CREATE TRIGGER tg_psychology_tests__times BEFORE INSERT OR UPDATE ON public.psychology_tests FOR EACH ROW EXECUTE FUNCTION private.tg_psychology_tests__times();

CREATE TRIGGER tg_questionnaires__timestamps BEFORE INSERT OR UPDATE ON public.questionnaires FOR EACH ROW EXECUTE FUNCTION private.tg__timestamps();

CREATE TRIGGER tg_objects__check AFTER INSERT OR UPDATE ON storage.objects FOR EACH ROW EXECUTE FUNCTION private.tg_objects__check();

CREATE TRIGGER tg_objects__forget AFTER DELETE ON storage.objects FOR EACH ROW EXECUTE FUNCTION private.tg_objects__forget();

CREATE POLICY "only live, active and fully signed-in callers" ON "private"."audit_log" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see what was done to their account" ON "private"."audit_log" FOR SELECT TO "authenticated" USING (((user_id = ( SELECT auth.uid() AS uid)) OR ( SELECT private.is_admin() AS is_admin)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."ai_calls" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."chats" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."consents" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their consents" ON "public"."consents" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."credit_entries" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."devices" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their devices" ON "public"."devices" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."documents" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."images" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners describe their images" ON "public"."images" FOR UPDATE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their images" ON "public"."images" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "everybody sees the published documents" ON "public"."legal_documents" FOR SELECT TO "anon", "authenticated" USING ((published_at <= now()));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."limit_overrides" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."messages" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."notifications" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners delete their notifications" ON "public"."notifications" FOR DELETE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners mark their notifications as read" ON "public"."notifications" FOR UPDATE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their notifications" ON "public"."notifications" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "only live sessions of accounts that are not suspended" ON "public"."profiles" AS RESTRICTIVE FOR SELECT TO "authenticated" USING ((( SELECT private.session_is_live() AS session_is_live) AND ( SELECT private.account_is_open() AS account_is_open)));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."profiles" AS RESTRICTIVE FOR UPDATE TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."psychology_tests" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."questionnaires" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "signed-in users see the questionnaires" ON "public"."questionnaires" FOR SELECT TO "authenticated" USING (true);

CREATE POLICY "only live, active and fully signed-in callers" ON "public"."security_events" AS RESTRICTIVE FOR ALL TO "authenticated" USING (( SELECT private.access_is_allowed() AS access_is_allowed));

CREATE POLICY "owners see their security events, admins all" ON "public"."security_events" FOR SELECT TO "authenticated" USING (((user_id = ( SELECT auth.uid() AS uid)) OR ( SELECT private.is_admin() AS is_admin)));

COMMENT ON COLUMN "private"."account_status_changes"."actor_id" IS 'Who did it; null: the service role. No foreign key: the row outlives the actor.';

COMMENT ON COLUMN "private"."account_status_changes"."banned_until" IS 'The ban of the Auth service before the change, for the way back.';

COMMENT ON COLUMN "private"."audit_archives"."last_hash" IS 'The hash of the part''s last entry; the next part''s first entry has it as previous_hash.';

COMMENT ON COLUMN "private"."audit_archives"."path" IS 'The object''s name in the bucket audit-archive.';

COMMENT ON COLUMN "private"."audit_archives"."sha256" IS 'Of the file as it lies in the bucket.';

COMMENT ON COLUMN "private"."audit_log"."actor_id" IS 'The user who acted; null for the service role, jobs and the Auth service. No foreign keys: entries outlive users.';

COMMENT ON COLUMN "private"."audit_log"."hash" IS 'SHA-256 over the previous hash and everything in this entry.';

COMMENT ON COLUMN "private"."audit_log"."seq" IS 'Place in the month''s chain, from 1. Null only until the transaction commits.';

COMMENT ON COLUMN "private"."audit_log"."user_id" IS 'Whose account it concerns; that user may read the entry.';

COMMENT ON COLUMN "private"."mails"."next_attempt_at" IS 'Not before; while a worker has the mail, when another may take it.';

COMMENT ON COLUMN "private"."mfa_failures"."subject_id" IS 'The factor that was tried; the user''s own id for recovery codes.';

COMMENT ON COLUMN "private"."registrations"."confirmed_at" IS 'Null: a reservation, which holds its place for registration.reservation_seconds.';

COMMENT ON COLUMN "private"."registrations"."ip" IS 'From the hook; moves to the consents when the user is there.';

COMMENT ON COLUMN "private"."registrations"."origin" IS 'sign_up: through the hook. unannounced: made without it (admin API, hook switched off). admin, import: the same, but marked so in app_metadata.';

COMMENT ON COLUMN "private"."registrations"."place" IS 'Which of the invite''s uses, or of the places under the cap, this is; null where nothing is counted. See private.try_place.';

COMMENT ON COLUMN "private"."sign_in_locks"."locks" IS 'How often it was locked in a row; every lock is twice as long as the one before.';

COMMENT ON COLUMN "private"."uploads_to_check"."rejected" IS 'The bytes are not what was declared; the file is still to be removed.';

COMMENT ON COLUMN "private"."uploads_to_check"."version" IS 'The upload that is meant: a later one to the same place is another version.';

COMMENT ON COLUMN "public"."consents"."granted" IS 'Accepted, or for do_not_sell: the user forbids selling.';

COMMENT ON COLUMN "public"."consents"."note" IS 'For guardian: who consented, and how it was checked.';

COMMENT ON COLUMN "public"."consents"."version" IS 'The document''s version, for terms and privacy.';

COMMENT ON COLUMN "public"."devices"."country" IS 'As sessions.country_header said at the last registration; null where no header is set.';

COMMENT ON COLUMN "public"."devices"."device_id" IS 'Made by the app and kept on the device; a name, not a secret.';

COMMENT ON COLUMN "public"."devices"."session_id" IS 'The session that registered last. It may be over: list_my_sessions says which live. No foreign key: the Auth service''s deletions stay its own.';

COMMENT ON COLUMN "public"."documents"."kind" IS 'What the client takes it for, as note or journal_entry: lower case, digits and underscores.';

COMMENT ON COLUMN "public"."images"."content_type" IS 'What the upload declared; status says whether the bytes agree.';

COMMENT ON COLUMN "public"."images"."height" IS 'Pixels, as the client says.';

COMMENT ON COLUMN "public"."images"."id" IS 'The id of the file''s row in storage.objects.';

COMMENT ON COLUMN "public"."images"."path" IS 'The file''s name in its bucket; it begins with the owner''s id.';

COMMENT ON COLUMN "public"."images"."status" IS 'checking until the bytes were looked at; rejected when they were not what the upload declared: then the file is gone.';

COMMENT ON COLUMN "public"."images"."width" IS 'Pixels, as the client says.';

COMMENT ON COLUMN "public"."profiles"."do_not_sell" IS 'The latest choice made with set_do_not_sell; public.consents has all of them.';

COMMENT ON COLUMN "public"."profiles"."parked_reason" IS 'Why a verified e-mail does not make the account active: guardian_consent (too young), incomplete (birth date or terms are missing). Not user-writable.';

COMMENT ON COLUMN "public"."profiles"."status" IS 'pending until the e-mail is verified and parked_reason is null; the AI proxy refuses all but active from the next call on. Not user-writable.';

COMMENT ON COLUMN "public"."psychology_tests"."completed_at" IS 'Set it, to whatever time, to finish the run: the present is written, and answers and result stay as they are.';

COMMENT ON COLUMN "public"."questionnaires"."enabled" IS 'Whether new runs may begin. Runs that exist can be read and finished either way.';

COMMENT ON COLUMN "public"."questionnaires"."questions" IS 'An array of questions, in order.';

COMMENT ON COLUMN "public"."security_events"."dedupe_window" IS 'Number of the window since 1970; the same event in the same window is one row.';

COMMENT ON COLUMN "public"."security_events"."occurrences" IS 'How often it happened within security.dedupe_minutes.';

COMMENT ON FUNCTION "private"."accept_my_terms"() IS 'What accept_terms() calls. Definer: nobody writes consents directly.';

COMMENT ON FUNCTION "private"."access_is_allowed"() IS 'session_is_live, account_is_active and mfa_is_satisfied in one lookup, for the restrictive policy of every table with users'' data. Three helpers cost three times as much, and three conditions of unknown truth make the planner expect too few rows. Definer: the Auth service''s tables.';

COMMENT ON FUNCTION "private"."account_by_email"(text) IS 'What find_account() calls. Definer: addresses are the Auth service''s.';

COMMENT ON FUNCTION "private"."account_is_active"() IS 'Whether the caller''s account is active: verified, not suspended, banned or deleted, and not anonymous. Definer: it answers also where the caller may not see the profile.';

COMMENT ON FUNCTION "private"."account_is_open"() IS 'Whether the caller''s account is active or on its way there (pending, anonymous): enough to see the own profile. Definer: as account_is_active.';

COMMENT ON FUNCTION "private"."age_refusal"(text, boolean) IS 'Why somebody born that day may not register, or null. Under registration.under_age = park nobody is too young.';

COMMENT ON FUNCTION "private"."audit"(text, text, text, uuid, jsonb, text, inet) IS 'Adds an entry to the audit log in the caller''s transaction: both happen or neither. action such as account.suspend, resource_type such as account, user_id whose account it concerns, result success | refused | failed; details hold no secrets, at most 16,000 characters. Actor, user agent and request id come from the request, the IP too unless given. Definer: no role may write the log.';

COMMENT ON FUNCTION "private"."audit_hash"(private.audit_log, bigint, bytea) IS 'What an entry must hash to at its place in the chain. A JSON array keeps the fields apart; time as seconds does not depend on the session''s zone.';

COMMENT ON FUNCTION "private"."audit_month"(timestamp with time zone) IS 'The UTC month whose chain an entry of that moment belongs to.';

COMMENT ON FUNCTION "private"."before_user_created"(jsonb) IS 'Auth hook: lets a sign-up in and reserves its place, or answers 403 with the reason. Definer: it runs as the Auth service, which may call it and nothing else.';

COMMENT ON FUNCTION "private"."birth_date_or_null"(text) IS 'A day that somebody alive can have been born on, written YYYY-MM-DD; null for anything else.';

COMMENT ON FUNCTION "private"."call_archive_audit"() IS 'Calls the archiver when a month is due.';

COMMENT ON FUNCTION "private"."call_jobs_function"(text) IS 'Has pg_net call an endpoint of the function jobs with the project''s secret key. Without address or key it calls nothing and raises one low security event a day.';

COMMENT ON FUNCTION "private"."call_send_mails"() IS 'Calls the sender of mails when one is due.';

COMMENT ON FUNCTION "private"."change_account_status"(uuid, text, text) IS 'The only way to suspended and deleted and back: one row in account_status_changes, the Auth service''s ban, an audit entry and a security event. Answers the status; the same status again changes nothing.';

COMMENT ON FUNCTION "private"."change_role_of"(uuid, text) IS 'What set_account_role() calls. Definer: it changes what no API role may.';

COMMENT ON FUNCTION "private"."change_status_of"(uuid, text, text) IS 'What suspend_account, reinstate_account and delete_account call. Definer: it changes what no API role may.';

COMMENT ON FUNCTION "private"."check_account"(uuid, uuid) IS 'Null when the account is active, not anonymous, the session lives and has used the second factor where there is one; else {code, message}. Tokens outlive sessions, so every call asks.';

COMMENT ON FUNCTION "private"."check_file_name"(text, text) IS 'Refuses a path that could be read in two ways, and a name that says another type than the upload (null: not known yet).';

COMMENT ON FUNCTION "private"."check_stored_bytes"(uuid, jsonb, bigint) IS 'Refuses a file that grew from bytes_before when the account''s files are now above storage_bytes/total. A move, or a smaller file in the place of a larger one, always passes.';

COMMENT ON FUNCTION "private"."claim_mails"(integer) IS 'Takes waiting mails for sending, each for one worker. A worker that dies between sending and finish_mail lets the mail be sent again: at least once.';

COMMENT ON FUNCTION "private"."claim_uploads_to_check"(integer) IS 'Uploads whose bytes are to be looked at, each handed out once; who does not finish it leaves it to another after 2 minutes, then 4, up to 6 hours.';

COMMENT ON FUNCTION "private"."client_name"(text) IS 'A name for people in place of a user agent, such as "Firefox on Windows". A guess for a list; nothing is decided by it.';

COMMENT ON FUNCTION "private"."close_invite"(uuid) IS 'What revoke_invite() calls. Definer: invites are private.';

COMMENT ON FUNCTION "private"."complete_account"(uuid, date) IS 'Notes a birth date that was missing, and parks the account or lets it go: age and terms are what a sign-up would have needed.';

COMMENT ON FUNCTION "private"."complete_anonymous_account"(uuid) IS 'An anonymous user has verified an e-mail address: age and terms count from now on, and the credits on sign-up come. Nothing for others. Definer: runs in the Auth service''s transaction.';

COMMENT ON FUNCTION "private"."complete_my_registration"(text, boolean) IS 'What complete_registration() calls. Definer: birth date and status are not user-writable.';

COMMENT ON FUNCTION "private"."confirm_registration"(uuid) IS 'Turns a reservation into a registration and records the accepted terms. A user without a reservation passes phase, cap, invite and age here or is refused. Definer: runs in the Auth service''s transaction.';

COMMENT ON FUNCTION "private"."count_my_recovery_codes"() IS 'Behind public.count_my_recovery_codes. Definer: codes are private; it counts the caller''s only.';

COMMENT ON FUNCTION "private"."create_account"(uuid) IS 'Gives a user profile and credits; harmless when they are there. What the user typed at sign-up is cut to size or dropped, never an error; somebody under the minimum age is parked. Definer: runs in the Auth service''s transaction.';

COMMENT ON FUNCTION "private"."create_audit_partitions"() IS 'Makes the partitions of this month and the next two (UTC months); run daily. Answers how many it made.';

COMMENT ON FUNCTION "private"."create_recovery_codes"() IS 'Behind public.create_recovery_codes. Definer: codes are private; it writes the caller''s only.';

COMMENT ON FUNCTION "private"."custom_access_token"(jsonb) IS 'Auth hook: adds the claim user_role and refuses a token, also at refresh, to suspended and deleted accounts and to sessions past their limits, and to sign-ins while locked out. Definer: executable by the Auth service only.';

COMMENT ON FUNCTION "private"."delete_old_messages"() IS 'Deletes finished mails, notifications and security events that are older than their settings say.';

COMMENT ON FUNCTION "private"."delete_old_networks"() IS 'Forgets networks that nobody signed in from for a year; run daily. Answers how many.';

COMMENT ON FUNCTION "private"."delete_old_sign_in_failures"() IS 'Forgets failures of more than a day ago and locks that are long over; run hourly. Answers how many failures went.';

COMMENT ON FUNCTION "private"."delete_own_account"() IS 'What delete_my_account() calls. Definer: it changes what no API role may.';

COMMENT ON FUNCTION "private"."drop_archived_audit_month"(date) IS 'The one way out of the log: takes a month away whose archive holds its whole chain, to the last hash. False when it is gone already; an error when the archive does not match.';

COMMENT ON FUNCTION "private"."enforce_account_status"(uuid, text) IS 'Tells the Auth service: a suspended or deleted account has no session and gets none; a reinstated one has the ban, if any, that it had before.';

COMMENT ON FUNCTION "private"."file_owner"(text) IS 'The account below whose id a file lies; null when its first folder is no account''s id.';

COMMENT ON FUNCTION "private"."finish_mail"(uuid, integer, text) IS 'Notes that a mail was sent (error null), or why not; after mail.max_attempts tries it is dead. Answers the state; null when another worker has taken the mail meanwhile.';

COMMENT ON FUNCTION "private"."finish_upload_check"(uuid, text, text, text) IS 'Notes what the bytes of an upload turned out to be: ok; rejected (an event, a notification, and the file is to be removed); removed. False when the file has changed or is gone: then nothing is noted.';

COMMENT ON FUNCTION "private"."has_aal2"() IS 'Whether the caller proved a second factor in this session: the token says so and the session still does. Definer: auth.sessions is the Auth service''s.';

COMMENT ON FUNCTION "private"."hook_network"(jsonb) IS 'The network an Auth hook was called for; without an address all callers share 0.0.0.0/24.';

COMMENT ON FUNCTION "private"."invite_code_hash"(text) IS 'The hash of an invite code as people type it: case, dashes and blanks do not count, I and L are 1, O is 0.';

COMMENT ON FUNCTION "private"."invites_with_uses"() IS 'What list_invites() calls. Definer: invites are private.';

COMMENT ON FUNCTION "private"."is_admin"() IS 'Whether the caller is an active admin in a live session at aal2; the role is read from the profile, not from the token. Definer: profiles of others stay hidden.';

COMMENT ON FUNCTION "private"."is_under_age"(date) IS 'Whether somebody born that day is younger than registration.minimum_age; an unknown day is not.';

COMMENT ON FUNCTION "private"."list_my_sessions"() IS 'Behind public.list_my_sessions. Definer: auth.sessions is the Auth service''s; it answers for the caller only.';

COMMENT ON FUNCTION "private"."locale_or_default"(text) IS 'A language tag such as de-CH; en for anything else.';

COMMENT ON FUNCTION "private"."lock_mfa"(uuid) IS 'Makes attempts on one factor, or on one user''s recovery codes, take turns; answers whether too many failed lately.';

COMMENT ON FUNCTION "private"."make_invite"(text, integer, timestamp with time zone) IS 'What create_invite() calls. Definer: invites are private.';

COMMENT ON FUNCTION "private"."mfa_is_satisfied"() IS 'Whether the caller has proven as much as the account can: aal2 when it has a verified factor. Definer: auth.mfa_factors is the Auth service''s.';

COMMENT ON FUNCTION "private"."mfa_verification_attempt"(jsonb) IS 'Auth hook: after mfa.failures wrong codes within mfa.window_minutes a factor takes none, not even the right one; the Auth service then ends the user''s sessions. Definer: executable by the Auth service only.';

COMMENT ON FUNCTION "private"."my_session_id"() IS 'The session of the caller''s token; null without one.';

COMMENT ON FUNCTION "private"."network_of"(inet, integer, integer) IS 'The network of an address, with a prefix length for each family.';

COMMENT ON FUNCTION "private"."new_invite_code"() IS '80 random bits as XXXX-XXXX-XXXX-XXXX, without letters that look like digits.';

COMMENT ON FUNCTION "private"."new_recovery_code"() IS 'A code of 80 random bits, such as 3k9v-x2mh-0pqa-7tcw.';

COMMENT ON FUNCTION "private"."next_audit_archive"() IS 'What the archive job does next, for the oldest month that ended more than audit.online_days ago: {month, part, first_seq, last_seq, is_complete}, is_complete when only the drop is left; null when nothing is due. A month whose chain is broken is passed over and raises a critical security event.';

COMMENT ON FUNCTION "private"."note_mfa_failure"(uuid, uuid) IS 'Counts a wrong code; the one that locks is a security event. The caller holds the lock of lock_mfa.';

COMMENT ON FUNCTION "private"."note_sign_in_failure"(private.sign_in_locks) IS 'Counts one wrong password and locks the account for the network when it was one too many. The caller holds the row''s lock.';

COMMENT ON FUNCTION "private"."note_upload"(storage.objects, uuid) IS 'Queues a complete upload for the look at its bytes and keeps public.images in step.';

COMMENT ON FUNCTION "private"."notify_user"(uuid, text, text, text, jsonb) IS 'Leaves a notification for a user, and a mail when notifications.mail_types names the type. Answers the notification''s id. Definer: no role may write notifications.';

COMMENT ON FUNCTION "private"."password_verification_attempt"(jsonb) IS 'Auth hook: counts wrong passwords and refuses also the right one while the account is locked for the caller''s network. It returns its refusals, so that what it counted stays. Definer: executable by the Auth service only.';

COMMENT ON FUNCTION "private"."place_lock"(uuid) IS 'The advisory lock, together with a place''s number, of an invite''s uses or (null) of the cap''s places.';

COMMENT ON FUNCTION "private"."raise_security_event"(text, text, uuid, jsonb, text, inet) IS 'Notes a security event: severity low | medium | high | critical; user_id null concerns the project. The same type, user and dedupe_key within security.dedupe_minutes count up one row. Answers its id. Definer: no role may write events.';

COMMENT ON FUNCTION "private"."read_audit_entries"(date, bigint, bigint) IS 'Entries of one month as lines of JSON, in the chain''s order.';

COMMENT ON FUNCTION "private"."record_audit_archive"(jsonb, text, text) IS 'Notes that a part of a month lies in the bucket, read back and compared. Harmless when it was noted before.';

COMMENT ON FUNCTION "private"."record_consent_of_guardian"(uuid, text) IS 'What record_guardian_consent() calls. Definer: it changes what no API role may.';

COMMENT ON FUNCTION "private"."record_terms"(uuid, inet, text) IS 'Notes that a user accepts the current terms and privacy policy; a version that was accepted before keeps its first date.';

COMMENT ON FUNCTION "private"."recovery_code_hash"(uuid, text) IS 'What is stored of a code. Case, spaces and dashes do not matter, and o, i, l are read as 0, 1, 1.';

COMMENT ON FUNCTION "private"."refuse_file"(text) IS 'Refuses a write to Storage with a text that reaches the caller.';

COMMENT ON FUNCTION "private"."register_device"(text, text, text) IS 'Behind public.register_device. Definer: devices are written here only, and the replaced session is the Auth service''s.';

COMMENT ON FUNCTION "private"."registration_policy"() IS 'What get_registration_policy() calls. Definer: settings are private.';

COMMENT ON FUNCTION "private"."request_country"() IS 'The country of the request, from the header that sessions.country_header names; null while the setting is null. Set it only where the platform itself writes that header. Definer: the settings are private.';

COMMENT ON FUNCTION "private"."request_header"(text) IS 'One header of the Data API request that runs, its name in lower case; null outside of one. PostgREST puts them into request.headers.';

COMMENT ON FUNCTION "private"."request_id"() IS 'The request''s id, as the client or the gateway gave it, cut to 200 characters.';

COMMENT ON FUNCTION "private"."request_ip"() IS 'Where the request came from: the last address in the first header of http.client_ip_header that it has. The last one was added by the platform; what a caller writes stands before it. Null when there is none.';

COMMENT ON FUNCTION "private"."request_user_agent"() IS 'The request''s user agent, cut to 500 characters.';

COMMENT ON FUNCTION "private"."require_aal2"() IS 'For sensitive actions: refuses a caller with a second factor who has not used it, and support and admins without one. Definer: the Auth service''s tables.';

COMMENT ON FUNCTION "private"."require_admin"() IS 'Lets in the service role, direct connections of the project''s owner, and active admins at aal2. Definer: the role is read from the profile.';

COMMENT ON FUNCTION "private"."require_user"(boolean, boolean) IS 'The signed-in caller''s id; an error for everybody else, for ended sessions, for accounts that are not active and, when the account has a second factor, for sessions without it. The options let in what must work before: allow_pending an unverified account, allow_aal1 a session without the second factor.';

COMMENT ON FUNCTION "private"."reservations_since"() IS 'Reservations made after this moment hold their place. Not now(): whoever waited for the lock began earlier.';

COMMENT ON FUNCTION "private"."reserve_registration"(uuid, jsonb, boolean, inet, text) IS 'Every gate in order: phase, age, terms, invite, cap. Answers why not, or null and has reserved the place. Forgets reservations whose user never came.';

COMMENT ON FUNCTION "private"."revoke_all_sessions"(uuid) IS 'Behind public.revoke_all_sessions. Definer: auth.sessions is the Auth service''s; service role and admins only.';

COMMENT ON FUNCTION "private"."revoke_my_other_sessions"() IS 'Behind public.revoke_my_other_sessions. Definer: auth.sessions is the Auth service''s; it deletes the caller''s only.';

COMMENT ON FUNCTION "private"."revoke_my_session"(uuid) IS 'Behind public.revoke_my_session. Definer: auth.sessions is the Auth service''s; it deletes the caller''s only.';

COMMENT ON FUNCTION "private"."sees_audit_origin"() IS 'Whether the caller sees from where anybody acted: admins and the service role. Definer: the service role cannot ask whether it is an admin.';

COMMENT ON FUNCTION "private"."session_is_live"() IS 'Whether the session of the caller''s token still exists, within the idle and the absolute limit. Definer: auth.sessions is the Auth service''s.';

COMMENT ON FUNCTION "private"."set_my_do_not_sell"(boolean) IS 'What set_do_not_sell() calls. Definer: nobody writes consents directly.';

COMMENT ON FUNCTION "private"."status_to_return_to"(uuid, text) IS 'What a suspended or deleted account was before: active or pending. Any other status stays.';

COMMENT ON FUNCTION "private"."take_invite"(text, uuid) IS 'Takes one use of the invite with this code; place is null when the code is unknown, revoked, expired or used up.';

COMMENT ON FUNCTION "private"."take_place_under_cap"(uuid) IS 'Takes a place that accounts (deleted ones do not count) and live reservations leave under launch.user_cap, or answers null.';

COMMENT ON FUNCTION "private"."tg_audit_log__append_only"() IS 'Refuses update, delete and truncate to everybody, the owner too. The one update that passes is the seal.';

COMMENT ON FUNCTION "private"."tg_audit_log__seal"() IS 'Gives an entry its place in the chain while its transaction commits: the head''s lock is the last one taken and soon released, so it can neither deadlock nor make others wait for work. Definer: no role may write the log.';

COMMENT ON FUNCTION "private"."tg_mfa_factors__removed"() IS 'Warns the user of a removed factor; with the last one the recovery codes go. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_objects__check"() IS 'Holds every write of a user''s file to the rules: path, type, account, bytes. Definer: it runs inside the Storage service''s transactions, as whichever role.';

COMMENT ON FUNCTION "private"."tg_objects__forget"() IS 'Removes what we noted about a file that is gone; a rejected image stays, so that its owner can see why. Definer: it runs inside the Storage service''s transactions.';

COMMENT ON FUNCTION "private"."tg_profiles__role_changed"() IS 'A new role is audited, a security event, and told to the user. Definer: those tables are written by functions only.';

COMMENT ON FUNCTION "private"."tg_psychology_tests__count"() IS 'Counts a new run against the monthly limit, after the policies let it in. Definer: counters are private.';

COMMENT ON FUNCTION "private"."tg_psychology_tests__times"() IS 'Keeps the times of a run true, whatever a client sends.';

COMMENT ON FUNCTION "private"."tg_refresh_tokens__reuse"() IS 'A session whose last refresh token was revoked without a new one: the Auth service saw a spent token again and revoked the family. The session goes, and with it the access token. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_sessions__limit"() IS 'A user has at most sessions.max_per_user sessions: the oldest ends. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_sessions__network"() IS 'Notes the network of a sign-in; the first is silent, every other new one warns the user. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_users__activate_account"() IS 'A verified e-mail makes a pending account active, unless it is parked; a suspended one stays suspended. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_users__confirm_registration"() IS 'The second line of the registration gate. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."tg_users__password_changed"() IS 'Warns the user of a new password; ending the other sessions is the Auth service''s. Definer: it runs as the Auth service.';

COMMENT ON FUNCTION "private"."time_zone_or_default"(text) IS 'An IANA time zone that this server knows; UTC for anything else.';

COMMENT ON FUNCTION "private"."try_place"(uuid, integer, uuid) IS 'Whether this place is the caller''s until the transaction ends. Never two callers the same one, and nobody waits.';

COMMENT ON FUNCTION "private"."use_recovery_code"(text) IS 'Behind public.use_recovery_code. Definer: codes are private, factors and sessions the Auth service''s; it touches the caller''s only.';

COMMENT ON FUNCTION "private"."verify_audit_chain"(date) IS 'What is wrong with the audit log, from a month on or in all of it: entries that were changed, removed, added or reordered. No row: it is as it was written. Reads every entry.';

COMMENT ON FUNCTION "private"."warn_user"(uuid, text, text, text, text, jsonb, text) IS 'A security event and a notification about it for the account''s owner. Definer: both tables are written by functions only.';

COMMENT ON FUNCTION "private"."watch_sign_in_failures"(uuid, interval) IS 'Failures from many networks lock nobody, since that would be a way to lock people out: they raise brute_force for the account or the whole project.';

COMMENT ON FUNCTION "public"."accept_terms"() IS 'The caller accepts the current terms and privacy policy. Answers both acceptances; a repeated call changes nothing.';

COMMENT ON FUNCTION "public"."complete_registration"(text, boolean) IS 'Gives an account that is parked as incomplete what is missing: birth_date (YYYY-MM-DD), written once, and the acceptance of the terms. Answers the profile.';

COMMENT ON FUNCTION "public"."count_my_recovery_codes"() IS 'How many unused recovery codes the caller has.';

COMMENT ON FUNCTION "public"."create_invite"(text, integer, timestamp with time zone) IS 'For admins and the service role: makes an invite code for max_uses sign-ups. Answers {id, code}; the code is shown this once.';

COMMENT ON FUNCTION "public"."create_recovery_codes"() IS 'Ten new recovery codes for the caller, in place of all older ones. Shown this once; needs a session with the second factor.';

COMMENT ON FUNCTION "public"."delete_account"(uuid, text) IS 'For admins and the service role: the account is closed at once, like a suspended one; its data is erased later. Answers the status.';

COMMENT ON FUNCTION "public"."delete_my_account"() IS 'Closes the caller''s account at once and ends its sessions; needs the second factor when there is one. Answers the status.';

COMMENT ON FUNCTION "public"."find_account"(text) IS 'For admins and the service role: the account with this e-mail address, or no row.';

COMMENT ON FUNCTION "public"."get_registration_policy"() IS 'For admins and the service role: the settings launch.* and registration.*, so that an import knows beforehand whom the gate refuses.';

COMMENT ON FUNCTION "public"."list_invites"() IS 'For admins and the service role: every invite, newest first, with the accounts that used it. Codes are not kept.';

COMMENT ON FUNCTION "public"."list_my_sessions"() IS 'The caller''s live sessions, the current one first: device where one is registered, IP, user agent and a readable name for it, when it began and was last active.';

COMMENT ON FUNCTION "public"."record_guardian_consent"(uuid, text) IS 'For admins and the service role: a guardian agreed, so the parked account becomes active as soon as its e-mail is verified. note says who, and how it was checked. A repeated call changes nothing.';

COMMENT ON FUNCTION "public"."register_device"(text, text, text) IS 'Tells which device the caller''s session runs on; call it after sign-in. type: android, ios, web or desktop. An older session of the same device ends.';

COMMENT ON FUNCTION "public"."reinstate_account"(uuid, text) IS 'For admins and the service role: gives a suspended or deleted account back the status it had before. Answers that status.';

COMMENT ON FUNCTION "public"."revoke_all_sessions"(uuid) IS 'Ends every session of an account at once; answers how many. For the service role and admins at aal2.';

COMMENT ON FUNCTION "public"."revoke_invite"(uuid) IS 'For admins and the service role: the code lets nobody in from now on. A repeated call changes nothing.';

COMMENT ON FUNCTION "public"."revoke_my_other_sessions"() IS 'Ends all of the caller''s sessions but this one, at once; answers how many.';

COMMENT ON FUNCTION "public"."revoke_my_session"(uuid) IS 'Ends one of the caller''s sessions at once; not_found when there is none or it is somebody else''s.';

COMMENT ON FUNCTION "public"."set_account_role"(uuid, text) IS 'For admins and the service role: user, support or admin. Never the caller''s own role, and the last active admin stays one. Tokens carry it from the next refresh on. Answers the role.';

COMMENT ON FUNCTION "public"."set_do_not_sell"(boolean) IS 'The caller forbids (true) or allows selling personal data; the choice is recorded with its time and shown in the profile.';

COMMENT ON FUNCTION "public"."suspend_account"(uuid, text) IS 'For admins and the service role: ends every session of the account and refuses sign-in, refresh and data until reinstate_account. Answers the status.';

COMMENT ON FUNCTION "public"."use_recovery_code"(text) IS 'For a user who signed in and lost the second factor. accepted: the factors, the other codes and all other sessions are gone; enrol a new factor. wrong: no such code. locked: too many wrong ones; wait.';

COMMENT ON TABLE "private"."account_status_changes" IS 'Every suspension, reinstatement and deletion with its reason; never changed or removed.';

COMMENT ON TABLE "private"."audit_archives" IS 'Files that hold audit entries, written and read back before their row: gzipped NDJSON, a line per entry in the chain''s order. A month is one part or more; it is dropped when the last part ends where its chain does.';

COMMENT ON TABLE "private"."audit_chain_heads" IS 'The end of each month''s chain. Its row is the lock that lets one transaction at a time append, while it commits.';

COMMENT ON TABLE "private"."audit_log" IS 'Who did what. Partitioned by UTC month; append-only; the entries of a month form a hash chain in the order in which they were committed.';

COMMENT ON TABLE "private"."invites" IS 'Invite codes, kept as SHA-256 hashes: 80 random bits need no slow hash. Uses are counted in private.registrations.';

COMMENT ON TABLE "private"."known_networks" IS 'The networks (/24, /48) a user signed in from. A new one is worth a warning; a year later it is new again.';

COMMENT ON TABLE "private"."mails" IS 'Mails to send, in the transaction that had the reason. The address is looked up when it is sent.';

COMMENT ON TABLE "private"."mfa_failures" IS 'Wrong codes of the last day.';

COMMENT ON TABLE "private"."recovery_codes" IS 'SHA-256 of unused recovery codes. A code has 80 random bits: nothing slower is needed.';

COMMENT ON TABLE "private"."registrations" IS 'How each account came in. Made before the user, so user_id references nothing; it stays when the account is erased, so that an invite''s use stays used.';

COMMENT ON TABLE "private"."sign_in_failures" IS 'Wrong passwords of the last day: whose account, and from which network (/24, /56).';

COMMENT ON TABLE "private"."sign_in_locks" IS 'One row for an account and a network that failed: its lock, and the row that failures of both queue for, so that they are counted exactly.';

COMMENT ON TABLE "private"."uploads_to_check" IS 'Uploads whose bytes nobody has looked at yet. Postgres cannot see them, so an endpoint does (functions/_shared/storage/check-uploads.ts).';

COMMENT ON TABLE "public"."consents" IS 'What a user agreed to or chose, when and from where; never changed or removed.';

COMMENT ON TABLE "public"."devices" IS 'The devices a user signed in on, as their apps named them. Written by register_device only.';

COMMENT ON TABLE "public"."documents" IS 'A document of a user: any JSON up to 256 KiB, under a kind that the client chooses.';

COMMENT ON TABLE "public"."images" IS 'One stored image: made, moved and removed with its file in bucket images. Owners may describe it and hang it under a document.';

COMMENT ON TABLE "public"."legal_documents" IS 'Versions of the terms and the privacy policy. The newest published one of each kind is what a sign-up accepts.';

COMMENT ON TABLE "public"."notifications" IS 'One message for one user. Its owner marks it as read or deletes it.';

COMMENT ON TABLE "public"."psychology_tests" IS 'A user''s run through a questionnaire. A new one counts against psychology_tests/month; deleting it gives nothing back.';

COMMENT ON TABLE "public"."questionnaires" IS 'Questionnaires to choose from. A change of questions is a new version, so that old runs keep their meaning.';

COMMENT ON TABLE "public"."security_events" IS 'What looks like an attack, or would be one if it was not the user. user_id null: it concerns the project.';

COMMENT ON VIEW "private"."live_sessions" IS 'The sessions that still count: there, not past their end, not idle for sessions.idle_hours, not older than sessions.absolute_hours. A missing setting leaves none.';

COMMENT ON VIEW "public"."audit_log" IS 'The audit log for people: owners see what was done to their account, admins at aal2 see everything. Where somebody else acted, owners do not see from where.';

REVOKE ALL ON FUNCTION "private"."accept_my_terms"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."accept_my_terms"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."access_is_allowed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."access_is_allowed"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."account_by_email"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."account_by_email"(text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."account_is_active"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."account_is_active"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."account_is_open"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."account_is_open"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."age_refusal"(text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."age_refusal"(text, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."audit"(text, text, text, uuid, jsonb, text, inet) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."audit"(text, text, text, uuid, jsonb, text, inet) TO "postgres";

REVOKE ALL ON FUNCTION "private"."audit_hash"(private.audit_log, bigint, bytea) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."audit_hash"(private.audit_log, bigint, bytea) TO "postgres";

REVOKE ALL ON FUNCTION "private"."audit_month"(timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."audit_month"(timestamp with time zone) TO "postgres";

REVOKE ALL ON FUNCTION "private"."before_user_created"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."before_user_created"(jsonb) TO "postgres", "supabase_auth_admin";

REVOKE ALL ON FUNCTION "private"."birth_date_or_null"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."birth_date_or_null"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."call_archive_audit"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_archive_audit"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."call_jobs_function"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_jobs_function"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."call_send_mails"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."call_send_mails"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."change_account_status"(uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_account_status"(uuid, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."change_role_of"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_role_of"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."change_status_of"(uuid, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."change_status_of"(uuid, text, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."check_file_name"(text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."check_file_name"(text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."check_stored_bytes"(uuid, jsonb, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."check_stored_bytes"(uuid, jsonb, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."claim_mails"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."claim_mails"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."claim_uploads_to_check"(integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."claim_uploads_to_check"(integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."client_name"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."client_name"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."close_invite"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."close_invite"(uuid) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."complete_account"(uuid, date) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."complete_account"(uuid, date) TO "postgres";

REVOKE ALL ON FUNCTION "private"."complete_anonymous_account"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."complete_anonymous_account"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."complete_my_registration"(text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."complete_my_registration"(text, boolean) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."confirm_registration"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."confirm_registration"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."count_my_recovery_codes"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."count_my_recovery_codes"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."create_audit_partitions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_audit_partitions"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."create_recovery_codes"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."create_recovery_codes"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."custom_access_token"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."custom_access_token"(jsonb) TO "postgres", "supabase_auth_admin";

REVOKE ALL ON FUNCTION "private"."delete_old_messages"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_old_messages"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."delete_old_networks"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_old_networks"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."delete_old_sign_in_failures"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_old_sign_in_failures"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."delete_own_account"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."delete_own_account"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."drop_archived_audit_month"(date) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."drop_archived_audit_month"(date) TO "postgres";

REVOKE ALL ON FUNCTION "private"."enforce_account_status"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."enforce_account_status"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."file_owner"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."file_owner"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."finish_mail"(uuid, integer, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."finish_mail"(uuid, integer, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."finish_upload_check"(uuid, text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."finish_upload_check"(uuid, text, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."has_aal2"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."has_aal2"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."hook_network"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."hook_network"(jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."invite_code_hash"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."invite_code_hash"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."invites_with_uses"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."invites_with_uses"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."is_admin"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."is_admin"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."is_under_age"(date) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."is_under_age"(date) TO "postgres";

REVOKE ALL ON FUNCTION "private"."list_my_sessions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."list_my_sessions"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."locale_or_default"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."locale_or_default"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."lock_mfa"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."lock_mfa"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."make_invite"(text, integer, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."make_invite"(text, integer, timestamp with time zone) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."mfa_is_satisfied"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."mfa_is_satisfied"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."mfa_verification_attempt"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."mfa_verification_attempt"(jsonb) TO "postgres", "supabase_auth_admin";

REVOKE ALL ON FUNCTION "private"."my_session_id"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."my_session_id"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."network_of"(inet, integer, integer) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."network_of"(inet, integer, integer) TO "postgres";

REVOKE ALL ON FUNCTION "private"."new_invite_code"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."new_invite_code"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."new_recovery_code"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."new_recovery_code"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."next_audit_archive"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."next_audit_archive"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."note_mfa_failure"(uuid, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_mfa_failure"(uuid, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."note_sign_in_failure"(private.sign_in_locks) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_sign_in_failure"(private.sign_in_locks) TO "postgres";

REVOKE ALL ON FUNCTION "private"."note_upload"(storage.objects, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."note_upload"(storage.objects, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."notify_user"(uuid, text, text, text, jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."notify_user"(uuid, text, text, text, jsonb) TO "postgres";

REVOKE ALL ON FUNCTION "private"."password_verification_attempt"(jsonb) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."password_verification_attempt"(jsonb) TO "postgres", "supabase_auth_admin";

REVOKE ALL ON FUNCTION "private"."place_lock"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."place_lock"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."raise_security_event"(text, text, uuid, jsonb, text, inet) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."raise_security_event"(text, text, uuid, jsonb, text, inet) TO "postgres";

REVOKE ALL ON FUNCTION "private"."read_audit_entries"(date, bigint, bigint) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."read_audit_entries"(date, bigint, bigint) TO "postgres";

REVOKE ALL ON FUNCTION "private"."record_audit_archive"(jsonb, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."record_audit_archive"(jsonb, text, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."record_consent_of_guardian"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."record_consent_of_guardian"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."record_terms"(uuid, inet, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."record_terms"(uuid, inet, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."recovery_code_hash"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."recovery_code_hash"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."refuse_file"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."refuse_file"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."register_device"(text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."register_device"(text, text, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."registration_policy"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."registration_policy"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."request_country"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."request_country"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."request_header"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."request_header"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."request_id"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."request_id"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."request_ip"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."request_ip"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."request_user_agent"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."request_user_agent"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_aal2"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_aal2"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_admin"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_admin"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."require_user"(boolean, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."require_user"(boolean, boolean) TO "postgres";

REVOKE ALL ON FUNCTION "private"."reservations_since"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."reservations_since"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."reserve_registration"(uuid, jsonb, boolean, inet, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."reserve_registration"(uuid, jsonb, boolean, inet, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."revoke_all_sessions"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."revoke_all_sessions"(uuid) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."revoke_my_other_sessions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."revoke_my_other_sessions"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."revoke_my_session"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."revoke_my_session"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."sees_audit_origin"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."sees_audit_origin"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "private"."session_is_live"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."session_is_live"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."set_my_do_not_sell"(boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."set_my_do_not_sell"(boolean) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."status_to_return_to"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."status_to_return_to"(uuid, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."take_invite"(text, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."take_invite"(text, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."take_place_under_cap"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."take_place_under_cap"(uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_audit_log__append_only"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_audit_log__append_only"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_audit_log__seal"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_audit_log__seal"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_mfa_factors__removed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_mfa_factors__removed"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_objects__check"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_objects__check"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_objects__forget"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_objects__forget"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_profiles__role_changed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_profiles__role_changed"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_psychology_tests__count"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_psychology_tests__count"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_psychology_tests__times"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_psychology_tests__times"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_refresh_tokens__reuse"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_refresh_tokens__reuse"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_sessions__limit"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_sessions__limit"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_sessions__network"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_sessions__network"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_users__confirm_registration"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_users__confirm_registration"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."tg_users__password_changed"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."tg_users__password_changed"() TO "postgres";

REVOKE ALL ON FUNCTION "private"."time_zone_or_default"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."time_zone_or_default"(text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."try_place"(uuid, integer, uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."try_place"(uuid, integer, uuid) TO "postgres";

REVOKE ALL ON FUNCTION "private"."use_recovery_code"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."use_recovery_code"(text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "private"."verify_audit_chain"(date) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."verify_audit_chain"(date) TO "postgres";

REVOKE ALL ON FUNCTION "private"."warn_user"(uuid, text, text, text, text, jsonb, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."warn_user"(uuid, text, text, text, text, jsonb, text) TO "postgres";

REVOKE ALL ON FUNCTION "private"."watch_sign_in_failures"(uuid, interval) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "private"."watch_sign_in_failures"(uuid, interval) TO "postgres";

REVOKE ALL ON FUNCTION "public"."accept_terms"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."accept_terms"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."complete_registration"(text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."complete_registration"(text, boolean) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."count_my_recovery_codes"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."count_my_recovery_codes"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."create_invite"(text, integer, timestamp with time zone) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."create_invite"(text, integer, timestamp with time zone) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."create_recovery_codes"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."create_recovery_codes"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."delete_account"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."delete_account"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."delete_my_account"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."delete_my_account"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."find_account"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."find_account"(text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."get_registration_policy"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."get_registration_policy"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."list_invites"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."list_invites"() TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."list_my_sessions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."list_my_sessions"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."record_guardian_consent"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."record_guardian_consent"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."register_device"(text, text, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."register_device"(text, text, text) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."reinstate_account"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."reinstate_account"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."revoke_all_sessions"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."revoke_all_sessions"(uuid) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."revoke_invite"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."revoke_invite"(uuid) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."revoke_my_other_sessions"() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."revoke_my_other_sessions"() TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."revoke_my_session"(uuid) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."revoke_my_session"(uuid) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."set_account_role"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."set_account_role"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."set_do_not_sell"(boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."set_do_not_sell"(boolean) TO "authenticated", "postgres";

REVOKE ALL ON FUNCTION "public"."suspend_account"(uuid, text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."suspend_account"(uuid, text) TO "authenticated", "postgres", "service_role";

REVOKE ALL ON FUNCTION "public"."use_recovery_code"(text) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION "public"."use_recovery_code"(text) TO "authenticated", "postgres";

REVOKE ALL ON SCHEMA "private" FROM "supabase_auth_admin";

GRANT USAGE ON SCHEMA "private" TO "supabase_auth_admin";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."account_status_changes" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."audit_archives" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."audit_chain_heads" TO "postgres";

GRANT SELECT ON TABLE "private"."audit_log" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."audit_log" TO "postgres";

GRANT SELECT ON TABLE "private"."audit_log" TO "service_role";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."audit_log_default" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."invites" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."known_networks" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."mails" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."mfa_failures" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."recovery_codes" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."registrations" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."sign_in_failures" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."sign_in_locks" TO "postgres";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."uploads_to_check" TO "postgres";

REVOKE ALL ON TABLE "public"."consents" FROM "authenticated";

GRANT SELECT ON TABLE "public"."consents" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."consents" TO "postgres";

REVOKE ALL ON TABLE "public"."consents" FROM "service_role";

GRANT SELECT ON TABLE "public"."consents" TO "service_role";

REVOKE ALL ON TABLE "public"."devices" FROM "authenticated";

GRANT SELECT ON TABLE "public"."devices" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."devices" TO "postgres";

REVOKE ALL ON TABLE "public"."devices" FROM "service_role";

GRANT SELECT ON TABLE "public"."devices" TO "service_role";

REVOKE ALL ("content") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("content"), UPDATE ("content") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("kind") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("kind"), UPDATE ("kind") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("title") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("title"), UPDATE ("title") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ON TABLE "public"."documents" FROM "authenticated";

GRANT DELETE, SELECT ON TABLE "public"."documents" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."documents" TO "postgres";

REVOKE ALL ON TABLE "public"."documents" FROM "service_role";

GRANT SELECT ON TABLE "public"."documents" TO "service_role";

REVOKE ALL ("description") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("description") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("document_id") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("document_id") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("height") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("height") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("width") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("width") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ON TABLE "public"."images" FROM "authenticated";

GRANT SELECT ON TABLE "public"."images" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."images" TO "postgres";

REVOKE ALL ON TABLE "public"."images" FROM "service_role";

GRANT SELECT ON TABLE "public"."images" TO "service_role";

REVOKE ALL ON TABLE "public"."legal_documents" FROM "anon";

GRANT SELECT ON TABLE "public"."legal_documents" TO "anon";

REVOKE ALL ON TABLE "public"."legal_documents" FROM "authenticated";

GRANT SELECT ON TABLE "public"."legal_documents" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."legal_documents" TO "postgres";

REVOKE ALL ("kind") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("kind") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("published_at") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("published_at") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("url") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("url") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("version") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("version") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ON TABLE "public"."legal_documents" FROM "service_role";

GRANT SELECT ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("read_at") ON TABLE "public"."notifications" FROM "authenticated";

GRANT UPDATE ("read_at") ON TABLE "public"."notifications" TO "authenticated";

REVOKE ALL ON TABLE "public"."notifications" FROM "authenticated";

GRANT DELETE, SELECT ON TABLE "public"."notifications" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."notifications" TO "postgres";

REVOKE ALL ON TABLE "public"."notifications" FROM "service_role";

GRANT SELECT ON TABLE "public"."notifications" TO "service_role";

REVOKE ALL ("answers") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("answers"), UPDATE ("answers") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("completed_at") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT UPDATE ("completed_at") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("questionnaire_id") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("questionnaire_id") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("questionnaire_version") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("questionnaire_version") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("result") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT UPDATE ("result") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT DELETE, SELECT ON TABLE "public"."psychology_tests" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."psychology_tests" TO "postgres";

REVOKE ALL ON TABLE "public"."psychology_tests" FROM "service_role";

GRANT SELECT ON TABLE "public"."psychology_tests" TO "service_role";

REVOKE ALL ON TABLE "public"."questionnaires" FROM "authenticated";

GRANT SELECT ON TABLE "public"."questionnaires" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."questionnaires" TO "postgres";

REVOKE ALL ON TABLE "public"."questionnaires" FROM "service_role";

GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE "public"."questionnaires" TO "service_role";

REVOKE ALL ON TABLE "public"."security_events" FROM "authenticated";

GRANT SELECT ON TABLE "public"."security_events" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."security_events" TO "postgres";

REVOKE ALL ON TABLE "public"."security_events" FROM "service_role";

GRANT SELECT ON TABLE "public"."security_events" TO "service_role";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "private"."live_sessions" TO "postgres";

REVOKE ALL ON TABLE "public"."audit_log" FROM "authenticated";

GRANT SELECT ON TABLE "public"."audit_log" TO "authenticated";

GRANT DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE ON TABLE "public"."audit_log" TO "postgres";

REVOKE ALL ON TABLE "public"."audit_log" FROM "service_role";

GRANT SELECT ON TABLE "public"."audit_log" TO "service_role";

select cron.schedule('archive-audit', '*/10 * * * *', 'select private.call_archive_audit()');

select cron.schedule('create-audit-partitions', '15 0 * * *', 'select private.create_audit_partitions()');

select cron.schedule('delete-old-messages', '25 0 * * *', 'select private.delete_old_messages()');

select cron.schedule('delete-old-networks', '50 0 * * *', 'select private.delete_old_networks()');

select cron.schedule('delete-old-sign-in-failures', '40 * * * *', 'select private.delete_old_sign_in_failures()');

select cron.schedule('send-mails', '15 seconds', 'select private.call_send_mails()');

CREATE INDEX account_status_changes_user_id_idx ON private.account_status_changes USING btree (user_id, id DESC);

ALTER TABLE "private"."registrations" ADD CONSTRAINT "registrations_invite_id_fkey" FOREIGN KEY (invite_id) REFERENCES private.invites(id) ON DELETE RESTRICT;

REVOKE ALL ("id") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("id") ON TABLE "public"."documents" TO "authenticated";

ALTER TABLE "public"."documents" ADD CONSTRAINT "documents_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE "public"."images" ADD CONSTRAINT "images_document_id_user_id_fkey" FOREIGN KEY (document_id, user_id) REFERENCES public.documents(id, user_id) ON DELETE SET NULL (document_id);

CREATE INDEX documents_user_id_created_at_id_idx ON public.documents USING btree (user_id, created_at DESC, id DESC);

CREATE POLICY "owners change their documents" ON "public"."documents" FOR UPDATE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners delete their documents" ON "public"."documents" FOR DELETE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their documents" ON "public"."documents" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners write their documents" ON "public"."documents" FOR INSERT TO "authenticated" WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

REVOKE ALL ("user_id") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("user_id") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("id") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("id") ON TABLE "public"."psychology_tests" TO "authenticated";

ALTER TABLE "public"."psychology_tests" ADD CONSTRAINT "psychology_tests_user_id_fkey" FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE;

CREATE INDEX psychology_tests_user_id_started_at_id_idx ON public.psychology_tests USING btree (user_id, started_at DESC, id DESC);

CREATE POLICY "owners answer their tests until they are completed" ON "public"."psychology_tests" FOR UPDATE TO "authenticated" USING (((user_id = ( SELECT auth.uid() AS uid)) AND (completed_at IS NULL))) WITH CHECK ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners delete their tests" ON "public"."psychology_tests" FOR DELETE TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners see their tests" ON "public"."psychology_tests" FOR SELECT TO "authenticated" USING ((user_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "owners start tests of enabled questionnaires" ON "public"."psychology_tests" FOR INSERT TO "authenticated" WITH CHECK (((user_id = ( SELECT auth.uid() AS uid)) AND (EXISTS ( SELECT
   FROM public.questionnaires q
  WHERE ((q.id = psychology_tests.questionnaire_id) AND (q.version = psychology_tests.questionnaire_version) AND q.enabled)))));

REVOKE ALL ("user_id") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("user_id") ON TABLE "public"."psychology_tests" TO "authenticated";

ALTER TABLE "private"."audit_log" ALTER COLUMN "id" SET DEFAULT private.uuid_v7();

create policy "only live, active and fully signed-in callers" on storage.objects as restrictive for all to authenticated using (( SELECT private.access_is_allowed() AS access_is_allowed));

create policy "owners delete their files" on storage.objects as permissive for delete to authenticated using (((bucket_id = ANY (ARRAY['avatars'::text, 'images'::text])) AND (name ~>=~ (( SELECT auth.uid() AS uid) || '/'::text)) AND (name ~<~ (( SELECT auth.uid() AS uid) || '0'::text))));

create policy "owners replace and move their files" on storage.objects as permissive for update to authenticated using (((bucket_id = ANY (ARRAY['avatars'::text, 'images'::text])) AND (name ~>=~ (( SELECT auth.uid() AS uid) || '/'::text)) AND (name ~<~ (( SELECT auth.uid() AS uid) || '0'::text)))) with check (((bucket_id = ANY (ARRAY['avatars'::text, 'images'::text])) AND (name ~>=~ (( SELECT auth.uid() AS uid) || '/'::text)) AND (name ~<~ (( SELECT auth.uid() AS uid) || '0'::text))));

create policy "owners see their files" on storage.objects as permissive for select to authenticated using (((bucket_id = ANY (ARRAY['avatars'::text, 'images'::text])) AND (name ~>=~ (( SELECT auth.uid() AS uid) || '/'::text)) AND (name ~<~ (( SELECT auth.uid() AS uid) || '0'::text))));

create policy "owners upload their files" on storage.objects as permissive for insert to authenticated with check (((bucket_id = ANY (ARRAY['avatars'::text, 'images'::text])) AND (name ~>=~ (( SELECT auth.uid() AS uid) || '/'::text)) AND (name ~<~ (( SELECT auth.uid() AS uid) || '0'::text))));

REVOKE ALL ON TABLE "public"."consents" FROM "anon";

REVOKE ALL ON TABLE "public"."devices" FROM "anon";

REVOKE ALL ON TABLE "public"."documents" FROM "anon";

REVOKE ALL ON TABLE "public"."images" FROM "anon";

REVOKE ALL ON TABLE "public"."notifications" FROM "anon";

REVOKE ALL ON TABLE "public"."psychology_tests" FROM "anon";

REVOKE ALL ON TABLE "public"."questionnaires" FROM "anon";

REVOKE ALL ON TABLE "public"."security_events" FROM "anon";

REVOKE ALL ON TABLE "public"."audit_log" FROM "anon";

REVOKE ALL ("content") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("content"), UPDATE ("content") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("kind") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("kind"), UPDATE ("kind") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("title") ON TABLE "public"."documents" FROM "authenticated";

GRANT INSERT ("title"), UPDATE ("title") ON TABLE "public"."documents" TO "authenticated";

REVOKE ALL ("description") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("description") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("document_id") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("document_id") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("height") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("height") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("width") ON TABLE "public"."images" FROM "authenticated";

GRANT UPDATE ("width") ON TABLE "public"."images" TO "authenticated";

REVOKE ALL ("kind") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("kind") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("published_at") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("published_at") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("url") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("url") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("version") ON TABLE "public"."legal_documents" FROM "service_role";

GRANT INSERT ("version") ON TABLE "public"."legal_documents" TO "service_role";

REVOKE ALL ("read_at") ON TABLE "public"."notifications" FROM "authenticated";

GRANT UPDATE ("read_at") ON TABLE "public"."notifications" TO "authenticated";

REVOKE ALL ("answers") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("answers"), UPDATE ("answers") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("completed_at") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT UPDATE ("completed_at") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("questionnaire_id") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("questionnaire_id") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("questionnaire_version") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT INSERT ("questionnaire_version") ON TABLE "public"."psychology_tests" TO "authenticated";

REVOKE ALL ("result") ON TABLE "public"."psychology_tests" FROM "authenticated";

GRANT UPDATE ("result") ON TABLE "public"."psychology_tests" TO "authenticated";

create function private.call_check_uploads() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.call_jobs_function('check-uploads')
  where exists (select from private.uploads_to_check u where u.due_at <= now())
$$;
comment on function private.call_check_uploads() is 'Calls the check of uploads when one is due.';

select cron.schedule('check-uploads', '15 seconds', 'select private.call_check_uploads()');
