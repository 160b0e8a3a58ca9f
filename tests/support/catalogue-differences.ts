/**
 * Where the local bootstrap's catalogue differs from platform-catalog.json, and why. tests/platform/catalogue.test.ts compares
 * them: a difference that is not here fails, an entry that no longer differs fails, too.
 */

/** `here` holds what the local stack has, by its path in the section; null: it has nothing there. */
type Group = { reason: string; here: Record<string, string | null> }

const absent = (...paths: string[]): Record<string, null> => Object.fromEntries(paths.map((path) => [path, null]))

export const knownDifferences: Record<string, Group[]> = {
  'installed extensions': [
    {
      reason:
        'Ours are trusted extensions, which belong to who makes them; so postgres can drop them, as supautils lets it.',
      here: {
        'pg_cron owner': 'postgres',
        'pg_net owner': 'postgres',
        'pgsodium owner': 'postgres',
        'supabase_vault owner': 'postgres',
      },
    },
  ],

  roles: [
    {
      reason:
        'The embedded PostgreSQL has neither supautils nor safeupdate; scripts/checks/where-clauses.ts reads every function.',
      here: absent(
        'anon settings session_preload_libraries',
        'authenticated settings session_preload_libraries',
        'authenticator settings session_preload_libraries',
        'postgres settings session_preload_libraries',
        'postgres settings safeupdate.enabled',
      ),
    },
  ],

  'event triggers': [
    {
      reason: 'What these grant or make when an extension comes, the scripts of our stand-in extensions do themselves.',
      here: absent(
        'issue_pg_cron_access on ddl_command_end (owner supabase_admin)',
        'issue_pg_net_access on ddl_command_end (owner supabase_admin)',
        'pgsodium_trg_mask_update on ddl_command_end (owner supabase_admin)',
      ),
    },
    {
      reason: 'In the place of supautils: they let postgres write policies on the services\u2019 tables.',
      here: {
        'keep_closed on sql_drop (owner supabase_admin)': 'there',
        'lend_ownership on ddl_command_start (owner supabase_admin)': 'there',
        'take_ownership_back on ddl_command_end (owner supabase_admin)': 'there',
      },
    },
  ],

  realtime: [
    {
      reason: 'Postgres Changes are not offered here, and nothing else calls these functions.',
      here: absent(
        'functions apply_rls(wal jsonb, max_record_bytes integer)',
        'functions build_prepared_statement_sql(prepared_statement_name text, entity regclass, columns realtime.wal_column[])',
        'functions check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text)',
        'functions check_equality_op(op realtime.equality_op, type_ regtype, val_1 text, val_2 text, negate boolean)',
        'functions is_visible_through_filters(columns realtime.wal_column[], filters realtime.user_defined_filter[])',
        'functions list_changes(publication name, slot_name name, max_changes integer, max_record_bytes integer)',
        'functions quote_wal2json(entity regclass)',
        'functions wal2json_escape_identifier(name text)',
      ),
    },
    {
      reason: 'The local endpoint hears of messages by NOTIFY, the real service by logical replication.',
      here: {
        'tables messages triggers announce_message: after insert for each row calls announce_message': 'there',
        'tables messages_default triggers announce_message: after insert for each row calls announce_message': 'there',
      },
    },
  ],

  vault: [
    {
      reason: 'Parts of the stand-in\u2019s cipher, which is written in SQL.',
      here: {
        'functions _hmac256(message bytea, key bytea)': 'there',
        'functions _hmac512(message bytea, key bytea)': 'there',
        'functions _aes256_blocks(blocks bytea, key bytea)': 'there',
        'functions _xor(a bytea, b bytea)': 'there',
        'functions _siv(message bytea, additional bytea, nonce bytea, keys bytea)': 'there',
        'functions _mask(data bytea, siv bytea, keys bytea)': 'there',
        'functions _derived_keys(key_id bigint, context bytea)': 'there',
        'functions _seal_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)': 'there',
        'functions _open_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)': 'there',
        'functions _random_nonce()': 'there',
      },
    },
  ],

  pgsodium: [
    {
      reason: 'Parts of the stand-in\u2019s cipher, which is written in SQL.',
      here: {
        'functions _hmac256(message bytea, key bytea)': 'there',
        'functions _hmac512(message bytea, key bytea)': 'there',
        'functions _aes256_blocks(blocks bytea, key bytea)': 'there',
        'functions _xor(a bytea, b bytea)': 'there',
        'functions _siv(message bytea, additional bytea, nonce bytea, keys bytea)': 'there',
        'functions _mask(data bytea, siv bytea, keys bytea)': 'there',
        'functions _derived_keys(key_id bigint, context bytea)': 'there',
        'functions _seal_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)': 'there',
        'functions _open_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)': 'there',
        'functions _random_bytes(size integer)': 'there',
        'functions _raw_keys(key bytea, called_as text)': 'there',
        'functions _root_key()': 'there',
        'functions _seal(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)': 'there',
        'functions _open(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)': 'there',
      },
    },
    {
      reason: 'Key pairs, signatures and streams: nothing of ours may use them, so they do not exist.',
      here: absent(
        'functions crypto_box(message bytea, nonce bytea, public bytea, secret bytea)',
        'functions crypto_box_new_keypair()',
        'functions crypto_box_new_seed()',
        'functions crypto_box_noncegen()',
        'functions crypto_box_open(ciphertext bytea, nonce bytea, public bytea, secret bytea)',
        'functions crypto_box_seal(message bytea, public_key bytea)',
        'functions crypto_box_seal_open(ciphertext bytea, public_key bytea, secret_key bytea)',
        'functions crypto_box_seed_new_keypair(seed bytea)',
        'functions crypto_kx_client_session_keys(client_pk bytea, client_sk bytea, server_pk bytea)',
        'functions crypto_kx_new_keypair()',
        'functions crypto_kx_new_seed()',
        'functions crypto_kx_seed_new_keypair(seed bytea)',
        'functions crypto_kx_server_session_keys(server_pk bytea, server_sk bytea, client_pk bytea)',
        'functions crypto_secretstream_keygen()',
        'functions crypto_sign(message bytea, key bytea)',
        'functions crypto_sign_detached(message bytea, key bytea)',
        'functions crypto_sign_final_create(state bytea, key bytea)',
        'functions crypto_sign_final_verify(state bytea, signature bytea, key bytea)',
        'functions crypto_sign_init()',
        'functions crypto_sign_new_keypair()',
        'functions crypto_sign_new_seed()',
        'functions crypto_sign_open(signed_message bytea, key bytea)',
        'functions crypto_sign_seed_new_keypair(seed bytea)',
        'functions crypto_sign_update(state bytea, message bytea)',
        'functions crypto_sign_update_agg1(state bytea, message bytea)',
        'functions crypto_sign_update_agg2(cur_state bytea, initial_state bytea, message bytea)',
        'functions crypto_sign_verify_detached(sig bytea, message bytea, key bytea)',
        'functions crypto_signcrypt_new_keypair()',
        'functions crypto_signcrypt_sign_after(state bytea, sender_sk bytea, ciphertext bytea)',
        'functions crypto_signcrypt_sign_before(sender bytea, recipient bytea, sender_sk bytea, recipient_pk bytea, additional bytea)',
        'functions crypto_signcrypt_verify_after(state bytea, signature bytea, sender_pk bytea, ciphertext bytea)',
        'functions crypto_signcrypt_verify_before(signature bytea, sender bytea, recipient bytea, additional bytea, sender_pk bytea, recipient_sk bytea)',
        'functions crypto_signcrypt_verify_public(signature bytea, sender bytea, recipient bytea, additional bytea, sender_pk bytea, ciphertext bytea)',
        'functions crypto_stream_xchacha20(bigint, bytea, bigint, context bytea)',
        'functions crypto_stream_xchacha20(bigint, bytea, bytea)',
        'functions crypto_stream_xchacha20_keygen()',
        'functions crypto_stream_xchacha20_noncegen()',
        'functions crypto_stream_xchacha20_xor(bytea, bytea, bigint, context bytea)',
        'functions crypto_stream_xchacha20_xor(bytea, bytea, bytea)',
        'functions crypto_stream_xchacha20_xor_ic(bytea, bytea, bigint, bigint, context bytea)',
        'functions crypto_stream_xchacha20_xor_ic(bytea, bytea, bigint, bytea)',
      ),
    },
    {
      reason:
        'Columns that encrypt themselves (security labels) are unsupported and bypass row-level security: they do not exist.',
      here: absent(
        'tables mask_columns',
        'tables masking_rule',
        'functions create_mask_view(relid oid, debug boolean)',
        'functions create_mask_view(relid oid, subid integer, debug boolean)',
        'functions decrypted_columns(relid oid)',
        'functions disable_security_label_trigger()',
        'functions enable_security_label_trigger()',
        'functions encrypted_column(relid oid, m record)',
        'functions encrypted_columns(relid oid)',
        'functions has_mask(role regrole, source_name text)',
        'functions mask_columns(source_relid oid)',
        'functions mask_role(masked_role regrole, source_name text, view_name text)',
        'functions quote_assoc(text, boolean)',
        'functions trg_mask_update()',
        'functions update_mask(target oid, debug boolean)',
        'functions update_masks(debug boolean)',
      ),
    },
    {
      reason: 'Nothing of ours may use them: encode(), decode() and a comparison of hashes do the same.',
      here: absent(
        'functions crypto_cmp(text, text)',
        'functions sodium_base642bin(base64 text)',
        'functions sodium_bin2base64(bin bytea)',
      ),
    },
  ],

  cron: [
    {
      reason: 'pg_cron parses and writes in C; here SQL does it, and in SQL a view tells who writes.',
      here: {
        'tables _own_job': 'there',
        'functions _fields(schedule text)': 'there',
        'functions _field_values(field text, low integer, high integer, names text[])': 'there',
        'functions _is_schedule(schedule text)': 'there',
        'functions _check_schedule(schedule text)': 'there',
        'functions _interval_seconds(schedule text)': 'there',
        'functions _is_due(schedule text, at timestamp with time zone)': 'there',
        'functions _check_connect(role name, database text)': 'there',
      },
    },
  ],

  net: [
    {
      reason: 'They ask for the background worker, which here is the stack\u2019s own process.',
      here: absent('functions check_worker_is_up()', 'functions wait_until_running()', 'functions worker_restart()'),
    },
    {
      reason: 'Deprecated, and on hosted it fails at every call.',
      here: absent('functions http_collect_response(request_id bigint, async boolean)'),
    },
  ],

  graphql_public: [
    {
      reason:
        'A hosted project has it: pg_graphql is off there and this function says so. The facts come from a server without it.',
      here: { 'functions graphql("operationName" text, query text, variables jsonb, extensions jsonb)': 'there' },
    },
  ],

  local_platform: [
    {
      reason: 'What stands in for supautils and for the way to Realtime; role postgres cannot use it.',
      here: { 'the schema': 'there' },
    },
  ],

  supabase_migrations: [
    { reason: 'The history of the CLI, which hosted makes at the first push.', here: { 'the schema': 'there' } },
  ],
}
