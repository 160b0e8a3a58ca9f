\echo Use "create extension pgsodium" to load this file. \quit

-- Palisade's stand-in for pgsodium 3.1.8. It has the names, grants, errors and output lengths of the real extension as
-- hosted Supabase installs it, and a cipher of its own: its ciphertexts cannot be read by libsodium, nor the reverse.

set local search_path = '';

-- The schema is made by whoever runs create extension; on hosted Supabase it belongs to the superuser.
alter schema pgsodium owner to current_user;
revoke all on schema pgsodium from public;
grant usage on schema pgsodium to public;
create schema pgsodium_masks;

-- Roles and the root key belong to the whole cluster, so two databases must not create them at the same time.
do $$
declare
  v_path text := pg_catalog.current_setting('data_directory') || '/pgsodium_root.key';
  v_role text;
begin
  set local client_min_messages = notice;
  raise notice 'pgsodium here is Palisade''s stand-in for development; it is not libsodium';

  if pg_catalog.to_regrole('pgsodium_keymaker') is null or pg_catalog.pg_stat_file(v_path, true) is null then
    lock table pg_catalog.pg_authid in share row exclusive mode;
  end if;

  foreach v_role in array array['pgsodium_keyiduser', 'pgsodium_keyholder', 'pgsodium_keymaker'] loop
    if pg_catalog.to_regrole(v_role) is null then
      execute pg_catalog.format('create role %I nologin', v_role);
    end if;
  end loop;

  -- As on hosted: 64 hex digits in a file beside the data, so that no SELECT and no logical dump can carry the root key
  -- away. The data directory itself is closed to everybody but the server's own user.
  if pg_catalog.pg_stat_file(v_path, true) is null then
    execute pg_catalog.format(
      'copy (select pg_catalog.encode(@extschema:pgcrypto@.gen_random_bytes(32), ''hex'')) to %L', v_path);
  end if;
end
$$;

grant pgsodium_keyiduser to pgsodium_keyholder;
grant pgsodium_keyiduser, pgsodium_keyholder to pgsodium_keymaker;

grant usage on schema pgsodium_masks to pgsodium_keyiduser;
alter default privileges in schema pgsodium grant all on tables to pgsodium_keyholder;
alter default privileges in schema pgsodium grant all on sequences to pgsodium_keyholder;
alter default privileges in schema pgsodium_masks grant all on tables to pgsodium_keyiduser;
alter default privileges in schema pgsodium_masks grant all on sequences to pgsodium_keyiduser;
alter default privileges in schema pgsodium_masks grant all on functions to pgsodium_keyiduser;

create type pgsodium.key_status as enum ('default', 'valid', 'invalid', 'expired');

create type pgsodium.key_type as enum (
  'aead-ietf', 'aead-det', 'hmacsha512', 'hmacsha256', 'auth', 'shorthash', 'generichash', 'kdf', 'secretbox',
  'secretstream', 'stream_xchacha20'
);

create table pgsodium.key (
  id uuid primary key default pg_catalog.gen_random_uuid(),
  status pgsodium.key_status default 'valid',
  created timestamptz not null default current_timestamp,
  expires timestamptz,
  key_type pgsodium.key_type,
  key_id bigserial,
  key_context bytea default 'pgsodium' check (pg_catalog.length(key_context) = 8),
  name text constraint pgsodium_key_unique_name unique,
  associated_data text default 'associated',
  raw_key bytea,
  raw_key_nonce bytea,
  parent_key uuid references pgsodium.key (id),
  comment text,
  user_data text,
  constraint pgsodium_raw check (
    case
      when raw_key is not null then key_id is null and key_context is null and parent_key is not null
      else key_id is not null and key_context is not null and parent_key is null
    end
  )
);
alter table pgsodium.key alter column key_id drop not null;
create index on pgsodium.key (status) where status in ('valid', 'default');
create unique index on pgsodium.key (status) where status = 'default';
create unique index on pgsodium.key (key_id, key_context, key_type);
create index on pgsodium.key (parent_key);
comment on table pgsodium.key is 'Metadata of keys. A key without raw_key is derived from the root key by key_id and key_context.';
select pg_catalog.pg_extension_config_dump('pgsodium.key', '');

create view pgsodium.valid_key as
  select id, name, status, key_type, key_id, key_context, created, expires, associated_data
  from pgsodium.key
  where status in ('valid', 'default')
    and (expires is null or expires > pg_catalog.now());
comment on view pgsodium.valid_key is 'Keys in use. Advisory: a key that is not in this view still encrypts and decrypts.';

-- The cipher: synthetic initialisation vector (SIV), after RFC 5297, from HMAC-SHA-256 and AES-256-CTR.
--   keys       64 bytes, HMAC-SHA-512 of the secret: 32 to authenticate, 32 to encrypt
--   siv        HMAC-SHA-256 over aad, nonce and message, each with its length in front, so that no two inputs collide
--   keystream  AES-256 of the counters 0, 1, 2, ... under HMAC-SHA-256(siv), a key for this one message
--   output     siv || (message xor keystream), 32 bytes longer than the message
-- pgcrypto has no CTR, but ECB over a run of counter blocks is CTR by definition, and one call for the whole message is
-- about four times as fast as one HMAC per block. A key per message means a counter is never used twice under one key.

create function pgsodium._hmac256(message bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.hmac(message, key, 'sha256');
comment on function pgsodium._hmac256 is 'Private: HMAC-SHA-256, bound to pgcrypto by identity so that pgcrypto may move to another schema.';

create function pgsodium._hmac512(message bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.hmac(message, key, 'sha512');
comment on function pgsodium._hmac512 is 'Private: HMAC-SHA-512.';

create function pgsodium._aes256_blocks(blocks bytea, key bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.encrypt(blocks, key, 'aes-ecb/pad:none');
comment on function pgsodium._aes256_blocks is 'Private: AES-256 of each 16-byte block.';

create function pgsodium._random_bytes(size integer)
  returns bytea
  language sql
  volatile strict parallel safe
  set search_path = ''
  return @extschema:pgcrypto@.gen_random_bytes(size);
comment on function pgsodium._random_bytes is 'Private: random bytes from the system.';

create function pgsodium._xor(a bytea, b bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return pg_catalog.substr(
    pg_catalog.varbit_send(('x' || pg_catalog.encode(a, 'hex'))::varbit # ('x' || pg_catalog.encode(b, 'hex'))::varbit), 5);
comment on function pgsodium._xor is 'Private: exclusive or of two values of one length; varbit_send puts four bytes of length in front.';

create function pgsodium._siv(message bytea, additional bytea, nonce bytea, keys bytea)
  returns bytea
  language sql
  immutable strict parallel safe
  set search_path = ''
  return pgsodium._hmac256(
    pg_catalog.int8send(pg_catalog.length(additional)) || additional
      || pg_catalog.int8send(pg_catalog.length(nonce)) || nonce
      || pg_catalog.int8send(pg_catalog.length(message)) || message,
    pg_catalog.substr(keys, 1, 32));
comment on function pgsodium._siv is 'Private: the authenticator of a message, 32 bytes. A nonce of no bytes means there is none.';

create function pgsodium._mask(data bytea, siv bytea, keys bytea)
  returns bytea
  language plpgsql
  immutable strict parallel safe
  set search_path = ''
as $$
declare
  v_key bytea := pgsodium._hmac256(siv, substr(keys, 33, 32));
  v_counters bytea;
begin
  if length(data) = 0 then
    return data;
  end if;

  select string_agg(int8send(0) || int8send(n), ''::bytea order by n)
  into v_counters
  from generate_series(0, (length(data) - 1) / 16) n;

  return pgsodium._xor(data, substr(pgsodium._aes256_blocks(v_counters, v_key), 1, length(data)));
end
$$;
comment on function pgsodium._mask is 'Private: data xor the AES-256-CTR keystream of this siv; the same call encrypts and decrypts.';

create function pgsodium._seal(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)
  returns bytea
  language plpgsql
  immutable parallel safe
  set search_path = ''
as $$
declare
  v_siv bytea;
begin
  if message is null then
    raise data_exception using message = called_as || ': message cannot be NULL';
  elsif length(nonce) <> 16 then
    raise data_exception using message = called_as || ': invalid nonce';
  end if;

  v_siv := pgsodium._siv(message, coalesce(additional, ''), coalesce(nonce, ''), keys);
  return v_siv || pgsodium._mask(message, v_siv, keys);
end
$$;
comment on function pgsodium._seal is 'Private: siv || encrypted message.';

create function pgsodium._open(message bytea, additional bytea, keys bytea, nonce bytea, called_as text)
  returns bytea
  language plpgsql
  immutable parallel safe
  set search_path = ''
as $$
declare
  v_siv bytea := substr(message, 1, 32);
  v_plain bytea;
begin
  if message is null then
    raise data_exception using message = called_as || ': message cannot be NULL';
  elsif length(nonce) <> 16 then
    raise data_exception using message = called_as || ': invalid nonce';
  -- Neither does the real one open a message of no bytes, although it seals it.
  elsif length(message) <= 32 then
    raise data_exception using message = called_as || ': invalid message';
  end if;

  v_plain := pgsodium._mask(substr(message, 33), v_siv, keys);
  -- Counting the bits that differ looks at all of them, whatever the first one says.
  if bit_count(pgsodium._xor(v_siv, pgsodium._siv(v_plain, coalesce(additional, ''), coalesce(nonce, ''), keys))) <> 0 then
    raise data_exception using message = called_as || ': invalid ciphertext';
  end if;
  return v_plain;
end
$$;
comment on function pgsodium._open is 'Private: the message of a ciphertext that is authentic, else 22000.';

create function pgsodium._root_key()
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
  end if;
  return v_root;
end
$$;
comment on function pgsodium._root_key is 'Private: the root key of this cluster, from the data directory.';

create function pgsodium._derived_keys(key_id bigint, context bytea)
  returns bytea
  language plpgsql
  stable
  set search_path = ''
as $$
begin
  if key_id is null or length(context) is distinct from 8 then
    raise data_exception using
      message = 'pgsodium_derive_helper: crypto_kdf_derive_from_key: a key needs a key_id and a context of 8 bytes';
  end if;
  return pgsodium._hmac512('stand-in:derived:'::bytea || int8send(key_id) || context, pgsodium._root_key());
end
$$;
comment on function pgsodium._derived_keys is 'Private: the two subkeys of a key that is derived from the root key.';

create function pgsodium._raw_keys(key bytea, called_as text)
  returns bytea
  language plpgsql
  immutable parallel safe
  set search_path = ''
as $$
begin
  if length(key) is distinct from 32 then
    raise data_exception using message = called_as || ': invalid key';
  end if;
  return pgsodium._hmac512('stand-in:raw:'::bytea, key);
end
$$;
comment on function pgsodium._raw_keys is 'Private: the two subkeys of a key given as 32 bytes.';

-- The two doors to keys that are derived from the root key. Definer, to read that; who may pass is granted below.
create function pgsodium._seal_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)
  returns bytea
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select pgsodium._seal(message, additional, pgsodium._derived_keys(key_id, context), nonce,
    'pgsodium_crypto_aead_det_encrypt_by_id')
$$;
comment on function pgsodium._seal_by_id is 'Private: encrypts under a derived key, for those who may use crypto_aead_det_encrypt by key_id.';

create function pgsodium._open_by_id(message bytea, additional bytea, key_id bigint, context bytea, nonce bytea)
  returns bytea
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select pgsodium._open(message, additional, pgsodium._derived_keys(key_id, context), nonce,
    'pgsodium_crypto_aead_det_decrypt_by_id')
$$;
comment on function pgsodium._open_by_id is 'Private: decrypts under a derived key, for those who may use crypto_aead_det_decrypt by key_id.';

create function pgsodium.crypto_aead_det_encrypt(message bytea, additional bytea, key bytea, nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$
  select pgsodium._seal(message, additional, pgsodium._raw_keys(key, 'pgsodium_crypto_aead_det_encrypt'), nonce,
    'pgsodium_crypto_aead_det_encrypt')
$$;
comment on function pgsodium.crypto_aead_det_encrypt(bytea, bytea, bytea, bytea) is
  'Encrypts with a key of 32 bytes. For pgsodium_keyholder.';

create function pgsodium.crypto_aead_det_decrypt(ciphertext bytea, additional bytea, key bytea, nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$
  select pgsodium._open(ciphertext, additional, pgsodium._raw_keys(key, 'pgsodium_crypto_aead_det_decrypt'), nonce,
    'pgsodium_crypto_aead_det_decrypt')
$$;
comment on function pgsodium.crypto_aead_det_decrypt(bytea, bytea, bytea, bytea) is
  'Decrypts with a key of 32 bytes. For pgsodium_keyholder.';

create function pgsodium.crypto_aead_det_encrypt(message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select pgsodium._seal_by_id(message, additional, key_id, context, nonce) $$;
comment on function pgsodium.crypto_aead_det_encrypt(bytea, bytea, bigint, bytea, bytea) is
  'Encrypts with the key derived from the root key by key_id and context. For pgsodium_keyiduser.';

create function pgsodium.crypto_aead_det_decrypt(message bytea, additional bytea, key_id bigint, context bytea default 'pgsodium', nonce bytea default null)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select pgsodium._open_by_id(message, additional, key_id, context, nonce) $$;
comment on function pgsodium.crypto_aead_det_decrypt(bytea, bytea, bigint, bytea, bytea) is
  'Decrypts with the key derived from the root key by key_id and context. For pgsodium_keyiduser.';

-- Stable, like the real ones: a key that the same statement creates is not seen, and the answer is P0002.
create function pgsodium.crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea)
  returns bytea
  language plpgsql
  stable
  security definer
  set search_path = ''
as $$
declare
  v_key record;
begin
  select *
  into strict v_key
  from pgsodium.decrypted_key k
  where k.id = key_uuid
    and k.key_type = 'aead-det';

  if v_key.decrypted_raw_key is not null then
    return pgsodium.crypto_aead_det_encrypt(message, additional, v_key.decrypted_raw_key, nonce);
  end if;
  return pgsodium.crypto_aead_det_encrypt(message, additional, v_key.key_id, v_key.key_context, nonce);
end
$$;
comment on function pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid, bytea) is
  'Encrypts with an aead-det key: 32 bytes longer than the message; nonce of 16 bytes or null. Definer, to read the key.';

create function pgsodium.crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid, nonce bytea)
  returns bytea
  language plpgsql
  stable
  security definer
  set search_path = ''
as $$
declare
  v_key record;
begin
  select *
  into strict v_key
  from pgsodium.decrypted_key k
  where k.id = key_uuid
    and k.key_type = 'aead-det';

  if v_key.decrypted_raw_key is not null then
    return pgsodium.crypto_aead_det_decrypt(message, additional, v_key.decrypted_raw_key, nonce);
  end if;
  return pgsodium.crypto_aead_det_decrypt(message, additional, v_key.key_id, v_key.key_context, nonce);
end
$$;
comment on function pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid, bytea) is
  'Decrypts what crypto_aead_det_encrypt made with the same key, additional data and nonce, else 22000. Definer, to read the key.';

create function pgsodium.crypto_aead_det_encrypt(message bytea, additional bytea, key_uuid uuid)
  returns bytea
  language sql
  stable
  security definer
  set search_path = ''
as $$ select pgsodium.crypto_aead_det_encrypt(message, additional, key_uuid, null::bytea) $$;
comment on function pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid) is
  'Encrypts without a nonce. Refused to application roles, as on hosted Supabase: use the form with four arguments.';

create function pgsodium.crypto_aead_det_decrypt(message bytea, additional bytea, key_uuid uuid)
  returns bytea
  language sql
  stable
  security definer
  set search_path = ''
as $$ select pgsodium.crypto_aead_det_decrypt(message, additional, key_uuid, null::bytea) $$;
comment on function pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid) is
  'Decrypts without a nonce. Refused to application roles, as on hosted Supabase: use the form with four arguments.';

create view pgsodium.decrypted_key as
  select
    id, status, created, expires, key_type, key_id, key_context, name, associated_data, raw_key,
    case
      when raw_key is not null and parent_key is not null
        then pgsodium.crypto_aead_det_decrypt(
          raw_key, pg_catalog.convert_to(id::text || associated_data, 'utf8'), parent_key, raw_key_nonce)
    end as decrypted_raw_key,
    raw_key_nonce, parent_key, comment
  from pgsodium.key;
comment on view pgsodium.decrypted_key is 'Keys with the raw key in the clear, where there is one.';

-- A raw key never lies in the table as it is.
create function pgsodium.key_encrypt_secret_raw_key()
  returns trigger
  language plpgsql
  volatile
  set search_path = ''
as $$
begin
  if new.raw_key is not null then
    new.raw_key := pgsodium.crypto_aead_det_encrypt(
      new.raw_key, convert_to(new.id::text || new.associated_data, 'utf8'), new.parent_key, new.raw_key_nonce);
  end if;
  return new;
end
$$;
comment on function pgsodium.key_encrypt_secret_raw_key is 'Encrypts a raw key under its parent, bound to its id and associated data.';

create trigger key_encrypt_secret_trigger_raw_key
  before insert or update of raw_key on pgsodium.key
  for each row execute function pgsodium.key_encrypt_secret_raw_key();

create function pgsodium.crypto_aead_det_keygen()
  returns bytea
  language sql
  volatile
  set search_path = ''
as $$ select pgsodium._random_bytes(32) $$;
comment on function pgsodium.crypto_aead_det_keygen is 'A new random key, 32 bytes.';

create function pgsodium.crypto_aead_det_noncegen()
  returns bytea
  language sql
  volatile
  set search_path = ''
as $$ select pgsodium._random_bytes(16) $$;
comment on function pgsodium.crypto_aead_det_noncegen is 'A new random nonce, 16 bytes.';

create function pgsodium.create_key(
  key_type pgsodium.key_type default 'aead-det',
  name text default null,
  raw_key bytea default null,
  raw_key_nonce bytea default null,
  parent_key uuid default null,
  key_context bytea default 'pgsodium',
  expires timestamptz default null,
  associated_data text default ''
)
  returns pgsodium.valid_key
  language plpgsql
  volatile
  security definer
  set search_path = ''
as $$
declare
  v_id uuid := gen_random_uuid();
  v_key pgsodium.valid_key;
begin
  if raw_key is not null then
    parent_key := coalesce(parent_key, (pgsodium.create_key('aead-det')).id);
    raw_key_nonce := coalesce(raw_key_nonce, pgsodium.crypto_aead_det_noncegen());
  end if;

  insert into pgsodium.key (
    id, key_id, key_context, key_type, raw_key, raw_key_nonce, parent_key, expires, name, associated_data
  )
  values (
    v_id,
    case when raw_key is null then nextval('pgsodium.key_key_id_seq') end,
    case when raw_key is null then key_context end,
    key_type,
    raw_key,
    raw_key_nonce,
    parent_key,
    expires,
    name,
    associated_data
  );

  select *
  into v_key
  from pgsodium.valid_key k
  where k.id = v_id;
  return v_key;
end
$$;
comment on function pgsodium.create_key is
  'Creates a key and returns its row. Open to everybody, as on hosted Supabase; definer, because nobody may write the table.';

create function pgsodium.get_key_by_id(uuid)
  returns pgsodium.valid_key
  language sql
  volatile
  security definer
  set search_path = ''
as $$ select * from pgsodium.valid_key k where k.id = $1 $$;
comment on function pgsodium.get_key_by_id is 'The valid key with this id. Open to everybody, as on hosted Supabase; definer, because the view is not.';

create function pgsodium.get_key_by_name(text)
  returns pgsodium.valid_key
  language sql
  volatile
  security definer
  set search_path = ''
as $$ select * from pgsodium.valid_key k where k.name = $1 $$;
comment on function pgsodium.get_key_by_name is 'The valid key with this name. Open to everybody, as on hosted Supabase; definer, because the view is not.';

create function pgsodium.get_named_keys(filter text default '%')
  returns setof pgsodium.valid_key
  language sql
  volatile
  security definer
  set search_path = ''
as $$ select * from pgsodium.valid_key k where k.name ilike filter $$;
comment on function pgsodium.get_named_keys is 'The valid keys whose name matches. Open to everybody, as on hosted Supabase; definer, because the view is not.';

create function pgsodium.crypto_hash_sha256(message bytea)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select sha256(message) $$;
comment on function pgsodium.crypto_hash_sha256 is 'SHA-256, 32 bytes.';

create function pgsodium.crypto_hash_sha512(message bytea)
  returns bytea
  language sql
  immutable
  set search_path = ''
as $$ select sha512(message) $$;
comment on function pgsodium.crypto_hash_sha512 is 'SHA-512, 64 bytes.';

create function pgsodium.version()
  returns text
  language sql
  volatile
  set search_path = ''
as $$ select extversion from pg_catalog.pg_extension where extname = 'pgsodium' $$;
comment on function pgsodium.version is 'The version of pgsodium that this stands in for.';

-- Functions that exist so that a call meets the answer of hosted Supabase, 42501, and not "does not exist". Who may call them
-- there gets 0A000 here. By the class of the real one: volatility, definer, and to whom it is granted.
create function pgsodium._only_names(kind text, grantees text, functions text[])
  returns void
  language plpgsql
  volatile
  set search_path = ''
as $$
declare
  v_signature text;
  v_function regprocedure;
begin
  foreach v_signature in array functions loop
    execute format('create function pgsodium.%s language plpgsql %s set search_path = '''' as %L', v_signature, kind,
      'begin raise feature_not_supported using message = ''Palisade''''s stand-in for pgsodium does not have this function''; end');
    v_function := (select max(oid) from pg_proc where pronamespace = 'pgsodium'::regnamespace);
    execute format('comment on function %s is ''Only a name: the stand-in refuses it as hosted Supabase does, or says 0A000.''', v_function);
    if kind ~ 'definer' then
      execute format('alter function %s owner to pgsodium_keymaker', v_function);
    end if;
    if grantees <> 'public' then
      execute format('revoke all on function %s from public', v_function);
      execute format('grant execute on function %s to %s', v_function, grantees);
    end if;
  end loop;
end
$$;
select pgsodium._only_names('immutable', 'pgsodium_keyholder', array[
  'crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key bytea) returns bytea',
  'crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key bytea) returns bytea',
  'crypto_auth(message bytea, key bytea) returns bytea',
  'crypto_auth_hmacsha256(message bytea, secret bytea) returns bytea',
  'crypto_auth_hmacsha256_verify(hash bytea, message bytea, secret bytea) returns boolean',
  'crypto_auth_hmacsha512(message bytea, secret bytea) returns bytea',
  'crypto_auth_hmacsha512_verify(hash bytea, message bytea, secret bytea) returns boolean',
  'crypto_auth_verify(mac bytea, message bytea, key bytea) returns boolean',
  'crypto_secretbox(message bytea, nonce bytea, key bytea) returns bytea',
  'crypto_secretbox_open(ciphertext bytea, nonce bytea, key bytea) returns bytea'
]);
select pgsodium._only_names('immutable', 'pgsodium_keyiduser', array[
  'crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_auth(message bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_auth_hmacsha256(message bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_auth_hmacsha256_verify(hash bytea, message bytea, key_id bigint, context bytea default ''pgsodium'') returns boolean',
  'crypto_auth_hmacsha512(message bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_auth_hmacsha512_verify(hash bytea, message bytea, key_id bigint, context bytea default ''pgsodium'') returns boolean',
  'crypto_auth_verify(mac bytea, message bytea, key_id bigint, context bytea default ''pgsodium'') returns boolean',
  'crypto_generichash(message bytea, key bytea default null) returns bytea',
  'crypto_secretbox(message bytea, nonce bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_secretbox_open(message bytea, nonce bytea, key_id bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_shorthash(message bytea, key bytea) returns bytea'
]);
select pgsodium._only_names('stable security definer', 'pgsodium_keyiduser, pgsodium_keymaker', array[
  'crypto_aead_ietf_decrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) returns bytea',
  'crypto_aead_ietf_encrypt(message bytea, additional bytea, nonce bytea, key_uuid uuid) returns bytea',
  'crypto_auth(message bytea, key_uuid uuid) returns bytea',
  'crypto_auth_hmacsha256(message bytea, key_uuid uuid) returns bytea',
  'crypto_auth_hmacsha256_verify(signature bytea, message bytea, key_uuid uuid) returns boolean',
  'crypto_auth_hmacsha512(message bytea, key_uuid uuid) returns bytea',
  'crypto_auth_hmacsha512_verify(signature bytea, message bytea, key_uuid uuid) returns boolean',
  'crypto_auth_verify(mac bytea, message bytea, key_uuid uuid) returns boolean',
  'crypto_generichash(message bytea, key_uuid uuid) returns bytea',
  'crypto_kdf_derive_from_key(subkey_size integer, subkey_id bigint, context bytea, primary_key uuid) returns bytea',
  'crypto_secretbox(message bytea, nonce bytea, key_uuid uuid) returns bytea',
  'crypto_secretbox_open(message bytea, nonce bytea, key_uuid uuid) returns bytea',
  'crypto_shorthash(message bytea, key_uuid uuid) returns bytea'
]);
select pgsodium._only_names('volatile', 'pgsodium_keymaker', array[
  'crypto_aead_ietf_keygen() returns bytea',
  'crypto_auth_hmacsha256_keygen() returns bytea',
  'crypto_auth_keygen() returns bytea',
  'crypto_generichash_keygen() returns bytea',
  'crypto_kdf_keygen() returns bytea',
  'crypto_secretbox_keygen() returns bytea',
  'crypto_shorthash_keygen() returns bytea',
  'derive_key(key_id bigint, key_len integer default 32, context bytea default ''pgsodium'') returns bytea',
  'pgsodium_derive(key_id bigint, key_len integer default 32, context bytea default ''pgsodium'') returns bytea',
  'randombytes_new_seed() returns bytea'
]);
select pgsodium._only_names('volatile', 'pgsodium_keyiduser', array[
  'crypto_aead_ietf_noncegen() returns bytea',
  'crypto_secretbox_noncegen() returns bytea',
  'randombytes_buf(size integer) returns bytea',
  'randombytes_random() returns integer',
  'randombytes_uniform(upper_bound integer) returns integer'
]);
select pgsodium._only_names('volatile', 'public', array[
  'crypto_auth_hmacsha512_keygen() returns bytea',
  'crypto_pwhash_saltgen() returns bytea',
  'crypto_pwhash_str(password bytea) returns bytea'
]);
select pgsodium._only_names('immutable', 'public', array[
  'crypto_generichash(message bytea, key bigint, context bytea default ''pgsodium'') returns bytea',
  'crypto_pwhash(password bytea, salt bytea) returns bytea',
  'crypto_pwhash_str_verify(hashed_password bytea, password bytea) returns boolean',
  'crypto_shorthash(message bytea, key bigint, context bytea default ''pgsodium'') returns bytea'
]);
select pgsodium._only_names('immutable', 'pgsodium_keymaker', array[
  'crypto_kdf_derive_from_key(subkey_size bigint, subkey_id bigint, context bytea, primary_key bytea) returns bytea'
]);
select pgsodium._only_names('immutable', 'pgsodium_keyiduser, pgsodium_keymaker', array[
  'randombytes_buf_deterministic(size integer, seed bytea) returns bytea'
]);
drop function pgsodium._only_names;

-- Owners and grants as on hosted Supabase.
alter function pgsodium.create_key owner to pgsodium_keymaker;
alter function pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid) owner to pgsodium_keymaker;
alter function pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid) owner to pgsodium_keymaker;
alter function pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid, bytea) owner to pgsodium_keymaker;
alter function pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid, bytea) owner to pgsodium_keymaker;

revoke all on pgsodium.key from pgsodium_keyholder;
grant all on pgsodium.key to pgsodium_keymaker;
grant all on sequence pgsodium.key_key_id_seq to pgsodium_keymaker;
grant select on pgsodium.valid_key to pgsodium_keyiduser;

revoke all on function
  pgsodium._root_key,
  pgsodium._derived_keys,
  pgsodium._seal_by_id,
  pgsodium._open_by_id,
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, bigint, bytea, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, bigint, bytea, bytea),
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid),
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid, bytea),
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, bytea, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, bytea, bytea),
  pgsodium.crypto_aead_det_keygen
from public;

grant execute on function
  pgsodium._seal_by_id,
  pgsodium._open_by_id,
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, bigint, bytea, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, bigint, bytea, bytea),
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid),
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid, bytea),
  pgsodium.create_key,
  pgsodium.crypto_aead_det_noncegen
to pgsodium_keyiduser;

grant execute on function
  pgsodium.crypto_aead_det_encrypt(bytea, bytea, bytea, bytea),
  pgsodium.crypto_aead_det_decrypt(bytea, bytea, bytea, bytea)
to pgsodium_keyholder;

grant execute on function pgsodium.crypto_aead_det_keygen to pgsodium_keymaker;

-- What hosted Supabase adds after create extension, and all that an application has. postgres owns the view of decrypted keys
-- there, and reads the table through pg_read_all_data.
do $$
begin
  if pg_catalog.to_regrole('postgres') is not null then
    alter view pgsodium.decrypted_key owner to postgres;
    alter function pgsodium.key_encrypt_secret_raw_key owner to postgres;
  end if;
  if pg_catalog.to_regrole('service_role') is not null then
    grant execute on function
      pgsodium.crypto_aead_det_encrypt(bytea, bytea, uuid, bytea),
      pgsodium.crypto_aead_det_decrypt(bytea, bytea, uuid, bytea),
      pgsodium.crypto_aead_det_keygen
    to service_role;
  end if;
end
$$;
