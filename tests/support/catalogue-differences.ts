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
    {
      reason: 'The version that our stand-in follows.',
      here: { 'pg_net version': '0.20.0' },
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
      reason: 'Not looked at yet.',
      here: {
        'functions _crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) definer':
          'true',
        'functions _crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) volatility':
          'stable',
        'functions _crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) definer':
          'true',
        'functions _crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) volatility':
          'stable',
        'functions _random_nonce()': 'there',
        'functions _xor(a bytea, b bytea)': 'there',
        'functions _hmac256(message bytea, key bytea)': 'there',
        'functions _hmac512(message bytea, key bytea)': 'there',
        'functions _aes256_blocks(blocks bytea, key bytea)': 'there',
        'functions _mask(data bytea, siv bytea, keys bytea)': 'there',
        'functions _derived_keys(key_id bigint, context bytea)': 'there',
        'functions _siv(message bytea, additional bytea, nonce bytea, keys bytea)': 'there',
      },
    },
  ],

  pgsodium: [
    {
      reason: 'Not looked at yet.',
      here: absent(
        'tables decrypted_key grants postgres',
        'tables key triggers key_encrypt_secret_trigger_raw_key: before insert or update for each row calls key_encrypt_secret_raw_key',
        'tables mask_columns',
        'tables masking_rule',
        'functions create_key(key_type pgsodium.key_type, name text, raw_key bytea, raw_key_nonce bytea, parent_key uuid, key_context bytea, expires timestamp with time zone, associated_data text) grants pgsodium_keyiduser',
        'functions create_key(key_type pgsodium.key_type, name text, raw_key bytea, raw_key_nonce bytea, parent_key uuid, key_context bytea, expires timestamp with time zone, associated_data text) grants pgsodium_keymaker',
        'functions create_mask_view(relid oid, debug boolean)',
        'functions create_mask_view(relid oid, subid integer, debug boolean)',
        'functions crypto_aead_det_decrypt(ciphertext bytea, additional bytea, key bytea, nonce bytea)',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants pgsodium_keymaker',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants pgsodium_keymaker',
        'functions crypto_aead_det_noncegen() grants pgsodium_keyiduser',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_aead_ietf_keygen() grants pgsodium_keymaker',
        'functions crypto_aead_ietf_noncegen() grants pgsodium_keyiduser',
        'functions crypto_auth(message bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_auth(message bytea, key_id bigint, context bytea)',
        'functions crypto_auth(message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth(message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_auth_hmacsha256(message bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_auth_hmacsha256(message bytea, secret bytea) grants pgsodium_keyholder',
        'functions crypto_auth_hmacsha256_keygen() grants pgsodium_keymaker',
        'functions crypto_auth_hmacsha256_verify(hash bytea, message bytea, key_id bigint, context bytea)',
        'functions crypto_auth_hmacsha256_verify(hash bytea, message bytea, secret bytea) grants pgsodium_keyholder',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_auth_hmacsha512(message bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_auth_hmacsha512(message bytea, secret bytea) grants pgsodium_keyholder',
        'functions crypto_auth_hmacsha512_verify(hash bytea, message bytea, key_id bigint, context bytea)',
        'functions crypto_auth_hmacsha512_verify(hash bytea, message bytea, secret bytea) grants pgsodium_keyholder',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_auth_keygen() grants pgsodium_keymaker',
        'functions crypto_auth_verify(mac bytea, message bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_auth_verify(mac bytea, message bytea, key_id bigint, context bytea)',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_box(message bytea, nonce bytea, public bytea, secret bytea)',
        'functions crypto_box_new_keypair()',
        'functions crypto_box_new_seed()',
        'functions crypto_box_noncegen()',
        'functions crypto_box_open(ciphertext bytea, nonce bytea, public bytea, secret bytea)',
        'functions crypto_box_seal(message bytea, public_key bytea)',
        'functions crypto_box_seal_open(ciphertext bytea, public_key bytea, secret_key bytea)',
        'functions crypto_box_seed_new_keypair(seed bytea)',
        'functions crypto_cmp(text, text)',
        'functions crypto_generichash(message bytea, key bytea) grants pgsodium_keyiduser',
        'functions crypto_generichash(message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_generichash(message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_generichash_keygen() grants pgsodium_keymaker',
        'functions crypto_kdf_derive_from_key(subkey_size bigint, subkey_id bigint, context bytea, primary_key bytea) grants pgsodium_keymaker',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) grants pgsodium_keyiduser',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) grants pgsodium_keymaker',
        'functions crypto_kdf_keygen() grants pgsodium_keymaker',
        'functions crypto_kx_client_session_keys(client_pk bytea, client_sk bytea, server_pk bytea)',
        'functions crypto_kx_new_keypair()',
        'functions crypto_kx_new_seed()',
        'functions crypto_kx_seed_new_keypair(seed bytea)',
        'functions crypto_kx_server_session_keys(server_pk bytea, server_sk bytea, client_pk bytea)',
        'functions crypto_secretbox(message bytea, nonce bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_secretbox(message bytea, nonce bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_secretbox_keygen() grants pgsodium_keymaker',
        'functions crypto_secretbox_noncegen() grants pgsodium_keyiduser',
        'functions crypto_secretbox_open(ciphertext bytea, nonce bytea, key bytea) grants pgsodium_keyholder',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_id bigint, context bytea) grants pgsodium_keyiduser',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_secretstream_keygen()',
        'functions crypto_shorthash(message bytea, key bigint, context bytea)',
        'functions crypto_shorthash(message bytea, key bytea) grants pgsodium_keyiduser',
        'functions crypto_shorthash(message bytea, key_uuid uuid) grants pgsodium_keyiduser',
        'functions crypto_shorthash(message bytea, key_uuid uuid) grants pgsodium_keymaker',
        'functions crypto_shorthash_keygen() grants pgsodium_keymaker',
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
        'functions decrypted_columns(relid oid)',
        'functions derive_key(key_id bigint, key_len integer, context bytea) grants pgsodium_keymaker',
        'functions disable_security_label_trigger()',
        'functions enable_security_label_trigger()',
        'functions encrypted_column(relid oid, m record)',
        'functions encrypted_columns(relid oid)',
        'functions has_mask(role regrole, source_name text)',
        'functions key_encrypt_secret_raw_key()',
        'functions mask_columns(source_relid oid)',
        'functions mask_role(masked_role regrole, source_name text, view_name text)',
        'functions pgsodium_derive(key_id bigint, key_len integer, context bytea) grants pgsodium_keymaker',
        'functions quote_assoc(text, boolean)',
        'functions randombytes_buf(size integer) grants pgsodium_keyiduser',
        'functions randombytes_buf_deterministic(size integer, seed bytea) grants pgsodium_keyiduser',
        'functions randombytes_buf_deterministic(size integer, seed bytea) grants pgsodium_keymaker',
        'functions randombytes_new_seed() grants pgsodium_keymaker',
        'functions randombytes_random() grants pgsodium_keyiduser',
        'functions randombytes_uniform(upper_bound integer) grants pgsodium_keyiduser',
        'functions sodium_base642bin(base64 text)',
        'functions sodium_bin2base64(bin bytea)',
        'functions trg_mask_update()',
        'functions update_mask(target oid, debug boolean)',
        'functions update_masks(debug boolean)',
        'default_grants supabase_admin sequences',
        'default_grants supabase_admin tables',
      ),
    },
    {
      reason: 'Not looked at yet.',
      here: {
        'tables decrypted_key owner': 'supabase_admin',
        'tables decrypted_key grants pgsodium_keyholder': 'arwdDxtm/supabase_admin',
        'tables decrypted_key grants supabase_admin': 'arwdDxtm/supabase_admin',
        'tables decrypted_key grants pgsodium_keymaker': 'arwdDxtm/supabase_admin',
        'tables decrypted_key columns user_data': 'text',
        'tables key grants pgsodium_keyiduser': 'r/supabase_admin',
        'tables key grants pgsodium_keyholder': 'arwdDxtm/supabase_admin',
        'tables valid_key grants pgsodium_keymaker': 'arwdDxtm/supabase_admin',
        'functions create_key(key_type pgsodium.key_type, name text, raw_key bytea, raw_key_nonce bytea, parent_key uuid, key_context bytea, expires timestamp with time zone, associated_data text) owner':
          'supabase_admin',
        'functions create_key(key_type pgsodium.key_type, name text, raw_key bytea, raw_key_nonce bytea, parent_key uuid, key_context bytea, expires timestamp with time zone, associated_data text) grants public':
          'X/supabase_admin',
        'functions create_key(key_type pgsodium.key_type, name text, raw_key bytea, raw_key_nonce bytea, parent_key uuid, key_context bytea, expires timestamp with time zone, associated_data text) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) definer':
          'true',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) volatility':
          'stable',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid) grants pgsodium_keyiduser':
          'X/supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) owner':
          'supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants pgsodium_keyiduser':
          'X/supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants service_role':
          'X/supabase_admin',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key bytea, nonce bytea) definer': 'true',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) definer':
          'true',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea) volatility':
          'stable',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid) grants pgsodium_keyiduser':
          'X/supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) owner':
          'supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants pgsodium_keyiduser':
          'X/supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants service_role':
          'X/supabase_admin',
        'functions crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_det_keygen() definer': 'true',
        'functions crypto_aead_det_noncegen() definer': 'true',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key bytea) volatility':
          'volatile',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea) volatility':
          'volatile',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) owner':
          'supabase_admin',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) definer':
          'false',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) volatility':
          'volatile',
        'functions crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key bytea) volatility':
          'volatile',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea) volatility':
          'volatile',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) owner':
          'supabase_admin',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) definer':
          'false',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) volatility':
          'volatile',
        'functions crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_auth(message bytea, key bytea) volatility': 'volatile',
        'functions crypto_auth(message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_auth(message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth(message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth(message bytea, key_uuid uuid) grants supabase_admin': 'X/supabase_admin',
        'functions crypto_auth_hmacsha256(message bytea, key_id bigint, context bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth_hmacsha256(message bytea, key_uuid uuid) grants supabase_admin': 'X/supabase_admin',
        'functions crypto_auth_hmacsha256(message bytea, secret bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha256_verify(hash bytea, message bytea, secret bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) owner':
          'supabase_admin',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_auth_hmacsha512(message bytea, key_id bigint, context bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth_hmacsha512(message bytea, key_uuid uuid) grants supabase_admin': 'X/supabase_admin',
        'functions crypto_auth_hmacsha512(message bytea, secret bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha512_keygen() grants': 'there',
        'functions crypto_auth_hmacsha512_verify(hash bytea, message bytea, secret bytea) volatility': 'volatile',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) owner':
          'supabase_admin',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_auth_verify(mac bytea, message bytea, key bytea) volatility': 'volatile',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_generichash(message bytea, key bigint, context bytea) volatility': 'volatile',
        'functions crypto_generichash(message bytea, key bigint, context bytea) grants': 'there',
        'functions crypto_generichash(message bytea, key bytea) volatility': 'volatile',
        'functions crypto_generichash(message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_generichash(message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_generichash(message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_generichash(message bytea, key_uuid uuid) grants supabase_admin': 'X/supabase_admin',
        'functions crypto_hash_sha256(message bytea) grants': 'there',
        'functions crypto_hash_sha512(message bytea) grants': 'there',
        'functions crypto_kdf_derive_from_key(subkey_size bigint, subkey_id bigint, context bytea, primary_key bytea) volatility':
          'volatile',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) owner':
          'supabase_admin',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) definer':
          'false',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) volatility':
          'volatile',
        'functions crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_pwhash(password bytea, salt bytea) volatility': 'volatile',
        'functions crypto_pwhash(password bytea, salt bytea) grants': 'there',
        'functions crypto_pwhash_saltgen() grants': 'there',
        'functions crypto_pwhash_str(password bytea) grants': 'there',
        'functions crypto_pwhash_str_verify(hashed_password bytea, password bytea) volatility': 'volatile',
        'functions crypto_pwhash_str_verify(hashed_password bytea, password bytea) grants': 'there',
        'functions crypto_secretbox(message bytea, nonce bytea, key bytea) volatility': 'volatile',
        'functions crypto_secretbox(message bytea, nonce bytea, key_id bigint, context bytea) volatility': 'volatile',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) definer': 'false',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_secretbox_open(ciphertext bytea, nonce bytea, key bytea) volatility': 'volatile',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_id bigint, context bytea) volatility':
          'volatile',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) definer': 'false',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) grants supabase_admin':
          'X/supabase_admin',
        'functions crypto_shorthash(message bytea, key bytea) volatility': 'volatile',
        'functions crypto_shorthash(message bytea, key_uuid uuid) owner': 'supabase_admin',
        'functions crypto_shorthash(message bytea, key_uuid uuid) definer': 'false',
        'functions crypto_shorthash(message bytea, key_uuid uuid) volatility': 'volatile',
        'functions crypto_shorthash(message bytea, key_uuid uuid) grants supabase_admin': 'X/supabase_admin',
        'functions get_key_by_id(uuid) volatility': 'stable',
        'functions get_key_by_id(uuid) grants': 'there',
        'functions get_key_by_name(text) volatility': 'stable',
        'functions get_key_by_name(text) grants': 'there',
        'functions get_named_keys(filter text) volatility': 'stable',
        'functions get_named_keys(filter text) grants': 'there',
        'functions randombytes_buf_deterministic(size integer, seed bytea) volatility': 'volatile',
        'functions version() volatility': 'stable',
        'functions version() grants': 'there',
        'functions _root_key()': 'there',
        'functions _xor(a bytea, b bytea)': 'there',
        'functions _random_bytes(size integer)': 'there',
        'functions _hmac256(message bytea, key bytea)': 'there',
        'functions _hmac512(message bytea, key bytea)': 'there',
        'functions _raw_keys(key bytea, called_as text)': 'there',
        'functions _aes256_blocks(blocks bytea, key bytea)': 'there',
        'functions _mask(data bytea, siv bytea, keys bytea)': 'there',
        'functions _derived_keys(key_id bigint, context bytea)': 'there',
        'functions _siv(message bytea, additional bytea, nonce bytea, keys bytea)': 'there',
        'functions _open(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)': 'there',
        'functions _seal(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)': 'there',
        'functions crypto_aead_det_decrypt(message bytea, additional bytea, key bytea, nonce bytea)': 'there',
      },
    },
  ],

  pgsodium_masks: [
    {
      reason: 'Not looked at yet.',
      here: absent('the schema'),
    },
  ],

  cron: [
    {
      reason: 'Not looked at yet.',
      here: absent(
        'default_grants supabase_admin sequences',
        'default_grants supabase_admin functions',
        'default_grants supabase_admin tables',
      ),
    },
    {
      reason: 'Not looked at yet.',
      here: {
        'tables job constraints job_schedule_check': 'CHECK (cron._is_schedule(schedule))',
        'tables job_run_details grants public': 'r/supabase_admin',
        'tables _own_job': 'there',
        'functions _fields(schedule text)': 'there',
        'functions _is_schedule(schedule text)': 'there',
        'functions _check_schedule(schedule text)': 'there',
        'functions _interval_seconds(schedule text)': 'there',
        'functions _check_connect(role name, database text)': 'there',
        'functions _is_due(schedule text, at timestamp with time zone)': 'there',
        'functions _field_values(field text, low integer, high integer, names text[])': 'there',
      },
    },
  ],

  net: [
    {
      reason: 'Not looked at yet.',
      here: absent(
        'grants anon',
        'grants authenticated',
        'grants postgres',
        'grants service_role',
        'grants supabase_functions_admin',
        'functions _await_response(request_id bigint)',
        'functions check_worker_is_up()',
        'functions http_collect_response(request_id bigint, async boolean)',
        'functions wait_until_running()',
        'functions worker_restart()',
      ),
    },
    {
      reason: 'Not looked at yet.',
      here: {
        'tables http_request_queue triggers http_request_queue__wake: after insert for each statement calls _tg_http_request_queue__wake':
          'there',
        'functions http_get(url text, params jsonb, headers jsonb, timeout_milliseconds integer) definer': 'false',
        'functions http_get(url text, params jsonb, headers jsonb, timeout_milliseconds integer) grants': 'default',
        'functions http_post(url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds integer) definer':
          'false',
        'functions http_post(url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds integer) grants':
          'default',
        'functions _params_array(params jsonb)': 'there',
        'functions _tg_http_request_queue__wake()': 'there',
      },
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
