-- realtime: messages, and the functions that write them. Policies on the table say who may receive and who may send. Names,
-- types and grants are those of tests/support/platform-catalog.json; what only Postgres Changes need is not there.
create schema realtime;
grant usage on schema realtime to postgres with grant option;
grant usage on schema realtime to anon, authenticated, service_role;
grant all on schema realtime to supabase_realtime_admin with grant option;
alter default privileges in schema realtime grant all on tables to postgres, dashboard_user;
alter default privileges in schema realtime grant all on sequences to postgres, dashboard_user;
alter default privileges in schema realtime grant all on functions to postgres, dashboard_user;

create table realtime.schema_migrations (
  version bigint primary key,
  inserted_at timestamp
);
revoke all on realtime.schema_migrations from postgres, dashboard_user;

create table realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp not null default now(),
  inserted_at timestamp not null default now(),
  id uuid not null default gen_random_uuid(),
  binary_payload bytea,
  broadcasted_at timestamp,
  primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages
  add constraint messages_payload_exclusive check (payload is null or binary_payload is null) not valid;
-- Hosted makes a partition a day; one is enough here.
create table realtime.messages_default partition of realtime.messages default;
create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
  where extension = 'broadcast' and private is true;
alter table realtime.messages enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create function realtime.topic() returns text language sql stable
return nullif(current_setting('realtime.topic', true), '');

-- With the rights of its caller, whose policies decide; and a message that cannot be written is no reason to undo what it
-- is about: the caller gets a warning.
create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_id uuid := gen_random_uuid();
begin
  perform set_config('realtime.topic', send.topic, true);
  insert into realtime.messages (id, topic, extension, event, private, payload)
  values (v_id, send.topic, 'broadcast', send.event, send.private,
    case when send.payload ? 'id' then send.payload else jsonb_set(send.payload, '{id}', to_jsonb(v_id)) end);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;

create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform set_config('realtime.topic', send_binary.topic, true);
  insert into realtime.messages (topic, extension, event, private, binary_payload)
  values (send_binary.topic, 'broadcast', send_binary.event, send_binary.private, send_binary.payload);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;

-- For row triggers: the row before and after, to a private topic.
create function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text, new record, old record, level text default 'ROW'
) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if broadcast_changes.level = 'STATEMENT' then
    raise exception 'Failed to process the row: function can only be triggered for each row, not for each statement';
  elsif broadcast_changes.operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Failed to process the row: Unexpected operation type: %', broadcast_changes.operation;
  end if;
  perform realtime.send(
    jsonb_build_object('schema', table_schema, 'table', table_name, 'operation', operation, 'record', new, 'old_record', old),
    event_name, topic_name);
end $$;

-- Subscriptions to Postgres Changes. The table is there for what reads it; nothing local writes it.
create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
create type realtime.equality_op as enum (
  'eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in', 'like', 'ilike', 'is', 'match', 'imatch', 'isdistinct'
);
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text, negate boolean);

create function realtime.to_regrole(role_name text) returns regrole language sql immutable
return role_name::regrole;

create function realtime.cast(val text, type_ regtype) returns jsonb language plpgsql immutable set search_path = ''
as $$
declare
  v_value jsonb;
begin
  if type_ = 'bytea'::regtype then
    return to_jsonb(val);
  end if;
  execute format('select to_jsonb(%L::%s)', val, type_) into v_value;
  return v_value;
end $$;

create table realtime.subscription (
  id bigint generated always as identity,
  subscription_id uuid not null,
  entity regclass not null,
  filters realtime.user_defined_filter[] not null default '{}',
  claims jsonb not null,
  claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
  created_at timestamp not null default timezone('utc', now()),
  action_filter text default '*',
  selected_columns text[],
  constraint pk_subscription primary key (id),
  constraint subscription_action_filter_check check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE'))
);
create unique index subscription_subscription_id_entity_filters_action_filter_selec on realtime.subscription
  (subscription_id, entity, filters, action_filter, coalesce(selected_columns, '{}'));
create index ix_realtime_subscription_entity on realtime.subscription (entity);
alter table realtime.subscription owner to supabase_realtime_admin;
grant select on realtime.subscription to anon, authenticated, service_role;

-- Filters and columns must be ones that the subscriber may read, with a value that the column's type takes.
create function realtime.subscription_check_filters() returns trigger language plpgsql volatile set search_path = ''
as $$
declare
  v_filter realtime.user_defined_filter;
  v_type regtype;
  v_column text;
begin
  foreach v_filter in array new.filters loop
    v_type := (
      select a.atttypid from pg_attribute a
      where a.attrelid = new.entity and a.attname = v_filter.column_name and a.attnum > 0
        and has_column_privilege(new.claims ->> 'role', a.attrelid, a.attnum, 'select'));
    if v_type is null then
      raise exception 'invalid column for filter %', v_filter.column_name;
    elsif v_filter.op = 'in' then
      if jsonb_array_length(realtime.cast(v_filter.value, (v_type::text || '[]')::regtype)) > 100 then
        raise exception 'too many values for `in` filter. Maximum 100';
      end if;
    elsif v_filter.op = 'is' then
      if v_filter.value not in ('null', 'true', 'false', 'unknown') then
        raise exception 'invalid value for is filter: must be null, true, false, or unknown';
      elsif v_filter.value <> 'null' and v_type <> 'boolean'::regtype then
        raise exception 'is % filter requires a boolean column, got %', v_filter.value, v_type;
      end if;
    elsif v_filter.op in ('like', 'ilike', 'match', 'imatch') then
      if not exists (select from pg_operator o where o.oprname in ('~~', '~') and o.oprleft = v_type) then
        raise exception 'operator % requires a text-compatible column type, got %', v_filter.op, v_type;
      elsif v_filter.op in ('match', 'imatch') then
        perform '' ~ v_filter.value;
      end if;
    else
      perform realtime.cast(v_filter.value, v_type);
    end if;
  end loop;
  foreach v_column in array coalesce(new.selected_columns, '{}') loop
    if not coalesce(has_column_privilege(new.claims ->> 'role', new.entity, v_column, 'select'), false) then
      raise exception 'invalid column for select %', v_column;
    end if;
  end loop;
  -- One order, so that the unique index knows the same subscription again.
  new.filters := array(select f from unnest(new.filters) f order by f.column_name, f.op, f.value, f.negate);
  new.selected_columns := (select array_agg(c order by c) from unnest(new.selected_columns) c);
  return new;
end $$;
create trigger tr_check_filters before insert or update on realtime.subscription
  for each row execute function realtime.subscription_check_filters();

grant execute on function realtime.cast, realtime.to_regrole, realtime.subscription_check_filters
  to anon, authenticated, service_role;
do $$
declare
  v_function text;
begin
  for v_function in select oid::regprocedure from pg_proc where pronamespace = 'realtime'::regnamespace loop
    execute format('alter function %s owner to supabase_realtime_admin', v_function);
  end loop;
end $$;

create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
