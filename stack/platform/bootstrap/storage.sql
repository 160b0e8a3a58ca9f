-- storage: the tables and functions of the Storage service; left to the real service where there is one. Names, types,
-- defaults, constraints and grants are those of tests/support/platform-catalog.json; the bodies are ours.
set role supabase_storage_admin;

create type storage.buckettype as enum ('STANDARD', 'ANALYTICS', 'VECTOR');

-- Buckets and objects ----------------------------------------------------------------------------------------------
create table storage.buckets (
  id text primary key,
  name text not null,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  public boolean default false,
  avif_autodetection boolean default false,
  file_size_limit bigint,
  allowed_mime_types text[],
  owner_id text,
  type storage.buckettype not null default 'STANDARD',
  versioning_status text not null default 'DISABLED',
  constraint buckets_versioning_dark_check check (versioning_status = 'DISABLED'),
  constraint buckets_versioning_standard_only_check check (type = 'STANDARD' or versioning_status = 'DISABLED'),
  constraint buckets_versioning_status_check check (versioning_status in ('DISABLED', 'ENABLED', 'SUSPENDED'))
);
create unique index bname on storage.buckets (name);

create table storage.objects (
  id uuid primary key default gen_random_uuid(),
  bucket_id text,
  name text,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(),
  metadata jsonb,
  path_tokens text[] generated always as (string_to_array(name, '/')) stored,
  version text,
  owner_id text,
  user_metadata jsonb,
  archived_at timestamptz,
  is_delete_marker boolean not null default false,
  is_versioned boolean not null default false,
  constraint "objects_bucketId_fkey" foreign key (bucket_id) references storage.buckets (id)
);
create unique index bucketid_objname on storage.objects (bucket_id, name);
create index idx_objects_bucket_id_name on storage.objects (bucket_id, name collate "C");
create index idx_objects_bucket_id_name_lower on storage.objects (bucket_id, lower(name) collate "C");
create index name_prefix_search on storage.objects (name text_pattern_ops);

create function storage.enforce_bucket_name_length() returns trigger language plpgsql volatile
as $$
begin
  if length(new.name) > 100 then
    raise exception 'bucket name "%" is too long (% characters). Max is 100.', new.name, length(new.name);
  end if;
  return new;
end $$;
create trigger enforce_bucket_name_length_trigger before insert or update of name on storage.buckets
  for each row execute function storage.enforce_bucket_name_length();

create function storage.update_updated_at_column() returns trigger language plpgsql volatile
as $$
begin
  new.updated_at := now();
  return new;
end $$;
create trigger update_objects_updated_at before update on storage.objects
  for each row execute function storage.update_updated_at_column();

-- Rows go only with their bytes: the service says so in each of its transactions, others must not delete.
create function storage.protect_delete() returns trigger language plpgsql volatile
as $$
begin
  if current_setting('storage.allow_delete_query', true) is distinct from 'true' then
    raise insufficient_privilege using
      message = 'Direct deletion from storage tables is not allowed. Use the Storage API instead.',
      hint = 'This prevents accidental data loss from orphaned objects.';
  end if;
  return null;
end $$;
create trigger protect_buckets_delete before delete on storage.buckets
  for each statement execute function storage.protect_delete();
create trigger protect_objects_delete before delete on storage.objects
  for each statement execute function storage.protect_delete();

-- Uploads in parts, buckets for analytics and vectors, migrations: nothing local uses them ------------------------------
create table storage.s3_multipart_uploads (
  id text primary key,
  in_progress_size bigint not null default 0,
  upload_signature text not null,
  bucket_id text not null references storage.buckets (id),
  key text not null,
  version text not null,
  owner_id text,
  created_at timestamptz not null default now(),
  user_metadata jsonb,
  metadata jsonb
);
create table storage.s3_multipart_uploads_parts (
  id uuid primary key default gen_random_uuid(),
  upload_id text not null references storage.s3_multipart_uploads (id) on delete cascade,
  size bigint not null default 0,
  part_number integer not null,
  bucket_id text not null references storage.buckets (id),
  key text not null,
  etag text not null,
  owner_id text,
  version text not null,
  created_at timestamptz not null default now()
);

create table storage.buckets_analytics (
  name text not null,
  type storage.buckettype not null default 'ANALYTICS',
  format text not null default 'ICEBERG',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  id uuid primary key default gen_random_uuid(),
  deleted_at timestamptz
);
create unique index buckets_analytics_unique_name_idx on storage.buckets_analytics (name) where deleted_at is null;
create table storage.iceberg_namespaces (
  id uuid primary key default gen_random_uuid(),
  bucket_name text not null,
  name text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  metadata jsonb not null default '{}',
  catalog_id uuid not null references storage.buckets_analytics (id) on delete cascade
);
create unique index idx_iceberg_namespaces_bucket_id on storage.iceberg_namespaces (catalog_id, name);
create table storage.iceberg_tables (
  id uuid primary key default gen_random_uuid(),
  namespace_id uuid not null references storage.iceberg_namespaces (id) on delete cascade,
  bucket_name text not null,
  name text not null,
  location text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  remote_table_id text,
  shard_key text,
  shard_id text,
  catalog_id uuid not null references storage.buckets_analytics (id) on delete cascade
);
create unique index idx_iceberg_tables_location on storage.iceberg_tables (location);
create unique index idx_iceberg_tables_namespace_id on storage.iceberg_tables (catalog_id, namespace_id, name);

create table storage.buckets_vectors (
  id text primary key,
  type storage.buckettype not null default 'VECTOR',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table storage.vector_indexes (
  id text primary key default gen_random_uuid(),
  name text not null,
  bucket_id text not null references storage.buckets_vectors (id),
  data_type text not null,
  dimension integer not null,
  distance_metric text not null,
  metadata_configuration jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create unique index vector_indexes_name_bucket_id_idx on storage.vector_indexes (name, bucket_id);

create table storage.migrations (
  id integer primary key,
  name varchar(100) not null unique,
  hash varchar(40) not null,
  executed_at timestamp default current_timestamp
);

-- What policies ask about a path and about the operation ----------------------------------------------------------------
create function storage.filename(name text) returns text language sql immutable
return (string_to_array(name, '/'))[cardinality(string_to_array(name, '/'))];
create function storage.foldername(name text) returns text[] language sql immutable
return trim_array(string_to_array(name, '/'), least(1, cardinality(string_to_array(name, '/'))));
create function storage.extension(name text) returns text language sql immutable
return reverse(split_part(reverse(storage.filename(name)), '.', 1));

create function storage.operation() returns text language sql stable
return current_setting('storage.operation', true);
-- Operations may be named with `storage.` in front, or without.
create function storage.allow_any_operation(expected_operations text[]) returns boolean language sql stable
return exists (
  select from unnest(expected_operations) e (operation)
  where e.operation <> ''
    and regexp_replace(e.operation, '^storage\.', '') = regexp_replace(storage.operation(), '^storage\.', ''));
create function storage.allow_only_operation(expected_operation text) returns boolean language sql stable
return storage.allow_any_operation(array[expected_operation]);

create function storage.can_insert_object(bucketid text, name text, owner uuid, metadata jsonb) returns void
language plpgsql volatile
as $$
begin
  insert into storage.objects (bucket_id, name, owner, metadata)
  values (can_insert_object.bucketid, can_insert_object.name, can_insert_object.owner, can_insert_object.metadata);
  -- The row was only to be tried.
  raise sqlstate 'PT200' using message = 'ROLLBACK', detail = 'rollback successful insert';
end $$;

create function storage.get_size_by_bucket() returns table (size bigint, bucket_id text) language sql stable
as $$
  select sum((o.metadata ->> 'size')::bigint)::bigint, o.bucket_id
  from storage.objects o
  group by o.bucket_id
$$;

-- Lists -------------------------------------------------------------------------------------------------------------
create function storage.get_common_prefix(p_key text, p_prefix text, p_delimiter text) returns text language sql immutable
return case
  when position(p_delimiter in substr(p_key, length(p_prefix) + 1)) > 0 then
    left(p_key, length(p_prefix) + position(p_delimiter in substr(p_key, length(p_prefix) + 1)))
end;

-- What lies directly below a prefix: files, and each folder once, without an id. Names are whole paths.
create function storage.list_objects_with_delimiter(
  _bucket_id text,
  prefix_param text,
  delimiter_param text,
  max_keys integer default 100,
  start_after text default '',
  next_token text default '',
  sort_order text default 'asc'
) returns table (
  name text, id uuid, metadata jsonb, updated_at timestamptz, created_at timestamptz, last_accessed_at timestamptz
) language sql stable
as $$
  with entries as (
    select distinct on (coalesce(f.folder, o.name))
      coalesce(f.folder, o.name) as name, o.id, o.metadata, o.updated_at, o.created_at, o.last_accessed_at,
      f.folder is not null as is_folder
    from storage.objects o,
      lateral (select storage.get_common_prefix(o.name, coalesce(prefix_param, ''), delimiter_param) as folder) f
    where o.bucket_id = _bucket_id
      and starts_with(o.name, coalesce(prefix_param, ''))
  )
  select
    e.name,
    case when not is_folder then e.id end,
    case when not is_folder then e.metadata end,
    case when not is_folder then e.updated_at end,
    case when not is_folder then e.created_at end,
    case when not is_folder then e.last_accessed_at end
  from entries e
  where case
    when coalesce(nullif(next_token, ''), nullif(start_after, '')) is null then true
    when lower(sort_order) = 'desc' then e.name collate "C" < coalesce(nullif(next_token, ''), start_after)
    else e.name collate "C" > coalesce(nullif(next_token, ''), start_after)
  end
  order by
    case when lower(sort_order) = 'desc' then e.name end collate "C" desc,
    case when lower(sort_order) is distinct from 'desc' then e.name end collate "C"
  limit least(max_keys, 1000)
$$;

create function storage.list_multipart_uploads_with_delimiter(
  bucket_id text,
  prefix_param text,
  delimiter_param text,
  max_keys integer default 100,
  next_key_token text default '',
  next_upload_token text default ''
) returns table (key text, id text, created_at timestamptz) language sql volatile
as $$
  select distinct on (e.key collate "C") e.key, e.id, e.created_at
  from (
    select coalesce(storage.get_common_prefix(u.key, prefix_param, delimiter_param), u.key) as key, u.id, u.created_at
    from storage.s3_multipart_uploads u
    where u.bucket_id = list_multipart_uploads_with_delimiter.bucket_id
      and starts_with(lower(u.key), lower(prefix_param))
      and (next_upload_token = '' or u.id collate "C" > next_upload_token)
  ) e
  where next_key_token = '' or next_upload_token <> '' or e.key collate "C" > next_key_token
  order by e.key collate "C", e.created_at
  limit max_keys
$$;

-- For lists page by page, where `name` is the path below the prefix. Upper and lower case are one here, as in the real one.
create function storage.search(
  prefix text,
  bucketname text,
  limits integer default 100,
  levels integer default 1,
  offsets integer default 0,
  search text default '',
  sortcolumn text default 'name',
  sortorder text default 'asc'
) returns table (
  name text, id uuid, updated_at timestamptz, created_at timestamptz, last_accessed_at timestamptz, metadata jsonb
) language plpgsql stable
as $$
declare
  v_below text := coalesce(prefix, '') || coalesce(search, '');
  v_column text := lower(sortcolumn);
  v_is_desc boolean := lower(sortorder) = 'desc';
begin
  if v_column not in ('updated_at', 'created_at', 'last_accessed_at') then
    v_column := 'name';
  end if;
  return query
  with entries as (
    select distinct on (case when f.folder is null then o.id::text else lower(f.folder) end)
      f.folder, o.name, o.id, o.updated_at, o.created_at, o.last_accessed_at, o.metadata
    from storage.objects o,
      lateral (select rtrim(storage.get_common_prefix(o.name, v_below, '/'), '/') as folder) f
    where o.bucket_id = bucketname
      and starts_with(lower(o.name), lower(v_below))
  )
  select
    substr(coalesce(e.folder, e.name), length(coalesce(prefix, '')) + 1),
    case when e.folder is null then e.id end,
    case when e.folder is null then e.updated_at end,
    case when e.folder is null then e.created_at end,
    case when e.folder is null then e.last_accessed_at end,
    case when e.folder is null then e.metadata end
  from entries e,
    lateral (
      select case
        when e.folder is not null or v_column = 'name' then null
        when v_column = 'updated_at' then e.updated_at
        when v_column = 'created_at' then e.created_at
        else e.last_accessed_at
      end as at
    ) t
  order by
    -- By name, folders and files are mixed; by time, folders come first.
    v_column <> 'name' and e.folder is null,
    case when v_is_desc then t.at end desc,
    case when not v_is_desc then t.at end,
    case when v_is_desc then lower(coalesce(e.folder, e.name)) end collate "C" desc,
    case when not v_is_desc then lower(coalesce(e.folder, e.name)) end collate "C"
  limit least(coalesce(limits, 100), 1500)
  offset offsets;
end $$;

create function storage.search_by_timestamp(
  p_prefix text,
  p_bucket_id text,
  p_limit integer,
  p_level integer,
  p_start_after text,
  p_sort_order text,
  p_sort_column text,
  p_sort_column_after text
) returns table (
  key text, name text, id uuid, updated_at timestamptz, created_at timestamptz, last_accessed_at timestamptz, metadata jsonb
) language sql stable
as $$
  with entries as (
    select l.*, case when p_sort_column = 'updated_at' then l.updated_at else l.created_at end as at
    from storage.list_objects_with_delimiter(p_bucket_id, p_prefix, '/', 1000) l
  )
  select split_part(e.name, '/', p_level), rtrim(e.name, '/'), e.id, e.updated_at, e.created_at, e.last_accessed_at, e.metadata
  from entries e
  where coalesce(p_sort_column_after, '') = ''
    or case
      when lower(p_sort_order) = 'desc' then
        (coalesce(e.at, '-infinity'), e.name collate "C") < (p_sort_column_after::timestamptz, p_start_after)
      else (coalesce(e.at, '-infinity'), e.name collate "C") > (p_sort_column_after::timestamptz, p_start_after)
    end
  order by
    case when lower(p_sort_order) = 'desc' then coalesce(e.at, '-infinity') end desc,
    case when lower(p_sort_order) is distinct from 'desc' then coalesce(e.at, '-infinity') end,
    case when lower(p_sort_order) = 'desc' then e.name end collate "C" desc,
    case when lower(p_sort_order) is distinct from 'desc' then e.name end collate "C"
  limit p_limit
$$;

create function storage.search_v2(
  prefix text,
  bucket_name text,
  limits integer default 100,
  levels integer default 1,
  start_after text default '',
  sort_order text default 'asc',
  sort_column text default 'name',
  sort_column_after text default ''
) returns table (
  key text, name text, id uuid, updated_at timestamptz, created_at timestamptz, last_accessed_at timestamptz, metadata jsonb
) language sql stable
as $$
  select split_part(l.name, '/', levels), l.name, l.id, l.updated_at, l.created_at, l.last_accessed_at, l.metadata
  from storage.list_objects_with_delimiter(bucket_name, prefix, '/', limits, start_after, '', sort_order) l
  where lower(sort_column) not in ('updated_at', 'created_at')
  union all
  select t.*
  from storage.search_by_timestamp(prefix, bucket_name, limits, levels, start_after, sort_order, lower(sort_column), sort_column_after) t
  where lower(sort_column) in ('updated_at', 'created_at')
$$;

-- Grants -----------------------------------------------------------------------------------------------------------
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
alter table storage.s3_multipart_uploads enable row level security;
alter table storage.s3_multipart_uploads_parts enable row level security;
alter table storage.buckets_analytics enable row level security;
alter table storage.iceberg_namespaces enable row level security;
alter table storage.iceberg_tables enable row level security;
alter table storage.buckets_vectors enable row level security;
alter table storage.vector_indexes enable row level security;
alter table storage.migrations enable row level security;

grant all on storage.buckets, storage.objects to postgres, supabase_storage_admin with grant option;
grant all on storage.buckets, storage.objects, storage.buckets_analytics to anon, authenticated, service_role;
grant select on
  storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts, storage.iceberg_namespaces, storage.iceberg_tables,
  storage.buckets_vectors, storage.vector_indexes
to anon, authenticated, service_role;
grant all on
  storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts, storage.iceberg_namespaces, storage.iceberg_tables
to service_role;
grant all on storage.migrations to supabase_storage_admin;
grant execute on function storage.filename, storage.foldername, storage.extension
to public, anon, authenticated, service_role, postgres, dashboard_user;

reset role;
