\echo Use "create extension supabase_vault" to load this file. \quit

-- Palisade's stand-in for Supabase Vault 0.3.1. It has the names, grants and errors of the real one as hosted Supabase
-- installs it, and the cipher of Palisade's stand-in for pgsodium, copied, because Vault does not need pgsodium.

set local search_path = '';

alter schema vault owner to current_user;
revoke all on schema vault from public;

-- Vault and pgsodium share one root key, as on hosted; it belongs to the cluster, so two databases must not race for it.
do $$
declare
  v_path text := pg_catalog.current_setting('data_directory') || '/pgsodium_root.key';
begin
  set local client_min_messages = notice;
  raise notice 'supabase_vault here is Palisade''s stand-in for development';

  if pg_catalog.pg_stat_file(v_path, true) is null then
    lock table pg_catalog.pg_authid in share row exclusive mode;
    if pg_catalog.pg_stat_file(v_path, true) is null then
      execute pg_catalog.format(
        'copy (select pg_catalog.encode(@extschema:pgcrypto@.gen_random_bytes(32), ''hex'')) to %L', v_path);
    end if;
  end if;
end
$$;

-- The cipher is explained in pgsodium--3.1.8.sql: siv || (message xor AES-256-CTR), siv = HMAC-SHA-256 of aad, nonce, message.

create function vault._hmac256(message bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.hmac(message, key, 'sha256');
comment on function vault._hmac256 is 'Private: HMAC-SHA-256, bound to pgcrypto by identity so that pgcrypto may move to another schema.';

create function vault._hmac512(message bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.hmac(message, key, 'sha512');
comment on function vault._hmac512 is 'Private: HMAC-SHA-512.';

create function vault._aes256_blocks(blocks bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.encrypt(blocks, key, 'aes-ecb/pad:none');
comment on function vault._aes256_blocks is 'Private: AES-256 of each 16-byte block.';

create function vault._random_nonce()
  returns bytea
  language sql
  volatile parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.gen_random_bytes(16);
comment on function vault._random_nonce is 'Private: a new nonce, 16 random bytes.';

create function vault._xor(a bytea, b bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return pg_catalog.substr(
    pg_catalog.varbit_send(('x' || pg_catalog.encode(a, 'hex'))::varbit # ('x' || pg_catalog.encode(b, 'hex'))::varbit), 5);
comment on function vault._xor is 'Private: exclusive or of two values of one length; varbit_send puts four bytes of length in front.';

create function vault._siv(message bytea, additional bytea, nonce bytea, keys bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return vault._hmac256(
    pg_catalog.int8send(pg_catalog.length(additional)) || additional
      || pg_catalog.int8send(pg_catalog.length(nonce)) || nonce
      || pg_catalog.int8send(pg_catalog.length(message)) || message,
    pg_catalog.substr(keys, 1, 32));
comment on function vault._siv is 'Private: the authenticator of a message, 32 bytes.';

create function vault._mask(data bytea, siv bytea, keys bytea)
  returns bytea
  language plpgsql
  immutable strict parallel safe
  set search_path = ''
as $$
declare
  v_key bytea := vault._hmac256(siv, substr(keys, 33, 32));
  v_counters bytea;
begin
  if length(data) = 0 then
    return data;
  end if;

  select string_agg(int8send(0) || int8send(n), ''::bytea order by n)
  into v_counters
  from generate_series(0, (length(data) - 1) / 16) n;

  return vault._xor(data, substr(vault._aes256_blocks(v_counters, v_key), 1, length(data)));
end
$$;
comment on function vault._mask is 'Private: data xor the AES-256-CTR keystream of this siv; the same call encrypts and decrypts.';

create function vault._derived_keys(key_id bigint, context bytea)
  returns bytea
  language plpgsql
  stable
  set search_path = ''
as $$
declare
  v_root bytea := decode(trim(both e' \r\n' from pg_read_file('pgsodium_root.key')), 'hex');
begin
  if length(v_root) <> 32 then
    raise data_exception using message = 'pgsodium_root.key must hold 64 hex digits';
  elsif key_id is null or length(context) is distinct from 8 then
    raise data_exception using
      message = 'pgsodium_derive_helper: crypto_kdf_derive_from_key: a key needs a key_id and a context of 8 bytes';
  end if;
  return vault._hmac512('stand-in:vault:'::bytea || int8send(key_id) || context, v_root);
end
$$;
comment on function vault._derived_keys is 'Private: the two subkeys derived from the root key in the data directory.';

create function vault._seal_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)
  returns bytea
  language plpgsql
  stable
  security definer
  set search_path = ''
as $$
declare
  v_keys bytea;
  v_siv bytea;
begin
  if message is null then
    raise data_exception using message = 'pgsodium_crypto_aead_det_encrypt_by_id: message cannot be NULL';
  elsif length(nonce) <> 16 then
    raise data_exception using message = 'pgsodium_crypto_aead_det_encrypt_by_id: invalid nonce';
  end if;

  v_keys := vault._derived_keys(key_id, context);
  v_siv := vault._siv(message, coalesce(additional, ''), coalesce(nonce, ''), v_keys);
  return v_siv || vault._mask(message, v_siv, v_keys);
end
$$;
comment on function vault._seal_by_id is 'Private: encrypts under a key derived from the root key. Definer, to read that key.';

create function vault._open_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)
  returns bytea
  language plpgsql
  stable
  security definer
  set search_path = ''
as $$
declare
  v_siv bytea := substr(message, 1, 32);
  v_keys bytea;
  v_plain bytea;
begin
  if message is null then
    raise data_exception using message = 'pgsodium_crypto_aead_det_decrypt_by_id: message cannot be NULL';
  elsif length(nonce) <> 16 then
    raise data_exception using message = 'pgsodium_crypto_aead_det_decrypt_by_id: invalid nonce';
  elsif length(message) < 32 then
    raise data_exception using message = 'pgsodium_crypto_aead_det_decrypt_by_id: invalid message';
  end if;

  v_keys := vault._derived_keys(key_id, context);
  v_plain := vault._mask(substr(message, 33), v_siv, v_keys);
  -- Counting the bits that differ looks at all of them, whatever the first one says.
  if bit_count(vault._xor(v_siv, vault._siv(v_plain, coalesce(additional, ''), coalesce(nonce, ''), v_keys))) <> 0 then
    raise data_exception using message = 'pgsodium_crypto_aead_det_decrypt_by_id: invalid ciphertext';
  end if;
  return v_plain;
end
$$;
comment on function vault._open_by_id is 'Private: decrypts under a key derived from the root key, for those who may use _crypto_aead_det_decrypt. Definer, to read that key.';

create function vault._crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select vault._seal_by_id(message, additional, key_id, context, nonce) $$;
comment on function vault._crypto_aead_det_encrypt is 'Private to Vault: encrypts a secret.';

create function vault._crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select vault._open_by_id(message, additional, key_id, context, nonce) $$;
comment on function vault._crypto_aead_det_decrypt is 'Decrypts a secret for the view decrypted_secrets.';

-- Immutable, like the real one, so that the planner calls it: that is why a direct INSERT is refused with "permission denied
-- for function _crypto_aead_det_noncegen". create_secret does not rely on it, since a cached plan would repeat the nonce.
create function vault._crypto_aead_det_noncegen()
  returns bytea
  language plpgsql
  immutable
  set search_path = ''
as $$
begin
  return vault._random_nonce();
end
$$;
comment on function vault._crypto_aead_det_noncegen is 'Private to Vault: the default of secrets.nonce, 16 bytes.';

create table vault.secrets (
  id uuid primary key default pg_catalog.gen_random_uuid(),
  name text,
  description text not null default '',
  secret text not null,
  key_id uuid,
  nonce bytea default vault._crypto_aead_det_noncegen(),
  created_at timestamptz not null default current_timestamp,
  updated_at timestamptz not null default current_timestamp
);
create unique index secrets_name_idx on vault.secrets (name) where name is not null;
comment on table vault.secrets is 'Table with encrypted `secret` column for storing sensitive information on disk.';
select pg_catalog.pg_extension_config_dump('vault.secrets', '');

create view vault.decrypted_secrets as
  select
    s.id, s.name, s.description, s.secret,
    pg_catalog.convert_from(
      vault._crypto_aead_det_decrypt(
        pg_catalog.decode(s.secret, 'base64'), pg_catalog.convert_to(s.id::text, 'utf8'), 0, 'pgsodium', s.nonce),
      'utf8') as decrypted_secret,
    s.key_id, s.nonce, s.created_at, s.updated_at
  from vault.secrets s;
comment on view vault.decrypted_secrets is 'Secrets in the clear, for roles that may read them.';

create function vault.create_secret(new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null)
  returns uuid
  language plpgsql
  volatile
  security definer
  set search_path = ''
as $$
declare
  v_id uuid := gen_random_uuid();
  v_nonce bytea := vault._random_nonce();
  v_secret text;
begin
  if new_secret is not null then
    v_secret := encode(
      vault._crypto_aead_det_encrypt(convert_to(new_secret, 'utf8'), convert_to(v_id::text, 'utf8'), 0, 'pgsodium', v_nonce),
      'base64');
  end if;

  insert into vault.secrets (id, name, description, secret, nonce)
  values (v_id, new_name, new_description, v_secret, v_nonce);
  return v_id;
end
$$;
comment on function vault.create_secret is
  'Stores a secret and returns its id; the name must be new (23505). Definer, because nobody may insert directly.';

create function vault.update_secret(
  secret_id uuid,
  new_secret text default null,
  new_name text default null,
  new_description text default null,
  new_key_id uuid default null
)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = ''
as $$
begin
  update vault.secrets s
  set
    secret = case
      when new_secret is null then s.secret
      else encode(
        vault._crypto_aead_det_encrypt(
          convert_to(new_secret, 'utf8'), convert_to(s.id::text, 'utf8'), 0, 'pgsodium', s.nonce),
        'base64')
    end,
    name = coalesce(new_name, s.name),
    description = coalesce(new_description, s.description),
    updated_at = now()
  where s.id = secret_id;
end
$$;
comment on function vault.update_secret is
  'Changes what is not null; an unknown id changes nothing and is no error. Definer, because nobody may update directly.';

revoke all on all tables in schema vault from public;
revoke all on all functions in schema vault from public;

-- What hosted Supabase adds after create extension.
do $$
begin
  if pg_catalog.to_regrole('postgres') is not null then
    grant usage on schema vault to postgres with grant option;
    grant select, delete on vault.secrets, vault.decrypted_secrets to postgres with grant option;
    grant execute on function vault.create_secret, vault.update_secret, vault._crypto_aead_det_decrypt
      to postgres with grant option;
    grant execute on function vault._open_by_id to postgres;
  end if;
  if pg_catalog.to_regrole('service_role') is not null then
    grant usage on schema vault to service_role;
    grant select, delete on vault.secrets, vault.decrypted_secrets to service_role;
    grant execute on function
      vault.create_secret, vault.update_secret, vault._crypto_aead_det_decrypt, vault._open_by_id
    to service_role;
  end if;
end
$$;
