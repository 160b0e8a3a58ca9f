\echo Use "create extension pg_net" to load this file. \quit

-- Palisade's stand-in for pg_net 0.20.4: the same queue, functions and grants. There is no background worker; the stack
-- listens on channel pgnet_wake, takes requests from net.http_request_queue and writes net._http_response.

set local search_path = '';

do $$
begin
  set local client_min_messages = notice;
  raise notice 'pg_net here is Palisade''s stand-in for development; the stack sends the requests';
end
$$;

create schema net;

create domain net.http_method as text
  check (value ilike 'get' or value ilike 'post' or value ilike 'delete');

create unlogged table net.http_request_queue (
  id bigserial,
  method net.http_method not null,
  url text not null,
  headers jsonb,
  body bytea,
  timeout_milliseconds integer not null
);
comment on table net.http_request_queue is 'Requests that wait to be sent, in the order of id.';

create unlogged table net._http_response (
  id bigint,
  status_code integer,
  content_type text,
  headers jsonb,
  content text,
  timed_out boolean,
  error_msg text,
  created timestamptz not null default pg_catalog.now()
);
create index on net._http_response (created);
comment on table net._http_response is 'Answers, by the id that http_get, http_post or http_delete returned; kept for six hours.';

create type net.request_status as enum ('PENDING', 'SUCCESS', 'ERROR');
create type net.http_response as (status_code integer, headers jsonb, body text);
create type net.http_response_result as (status net.request_status, message text, response net.http_response);

create function net.wake()
  returns void
  language sql
  volatile
  set search_path = ''
as $$ select pg_notify('pgnet_wake', '') $$;
comment on function net.wake is 'Tells the stack, on channel pgnet_wake, that requests wait. Arrives when the transaction commits.';

create function net._urlencode_string(string character varying)
  returns text
  language sql
  immutable
  set search_path = ''
as $$
  select coalesce(
    string_agg(
      case when v.byte ~ '^[A-Za-z0-9._~-]$' then v.byte else '%' || upper(v.hex) end, '' order by v.n),
    case when string is not null then '' end)
  from (
    select
      n,
      encode(substr(b, n, 1), 'hex') as hex,
      case when get_byte(b, n - 1) between 33 and 126 then chr(get_byte(b, n - 1)) else '' end as byte
    from convert_to(string, 'UTF8') b, generate_series(1, length(b)) n
  ) v
$$;
comment on function net._urlencode_string is 'Private: percent-encodes everything but letters, digits and -._~';

create function net._encode_url_with_params_array(url text, params_array text[])
  returns text
  language plpgsql
  immutable
  set search_path = ''
as $$
declare
  v_base text := split_part(url, '#', 1);
  v_fragment text := coalesce(substring(url from '#.*$'), '');
begin
  -- The real one asks curl, which knows more schemes than these.
  if url !~* '^https?://[^/?#]' then
    raise internal_error using message = format('invalid URL "%s": Bad scheme', url);
  elsif url ~ '[[:space:][:cntrl:]]' then
    raise internal_error using message = format('invalid URL "%s": Malformed input to a URL function', url);
  elsif cardinality(params_array) = 0 then
    return url;
  end if;
  return v_base || case when v_base like '%?%' then '&' else '?' end || array_to_string(params_array, '&') || v_fragment;
end
$$;
comment on function net._encode_url_with_params_array is 'Private: adds encoded parameters to the query of a URL; XX000 when it is none.';

-- Definer, as hosted Supabase makes them: the queue belongs to the extension.
create function net.http_get(
  url text,
  params jsonb default '{}',
  headers jsonb default '{}',
  timeout_milliseconds integer default 5000
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = ''
as $$
declare
  v_params text[] := (
    select coalesce(array_agg(net._urlencode_string(p.key) || '=' || net._urlencode_string(p.value)), '{}')
    from jsonb_each_text(params) p
  );
  v_id bigint;
begin
  insert into net.http_request_queue as q (method, url, headers, timeout_milliseconds)
  values ('GET', net._encode_url_with_params_array(url, v_params), headers, timeout_milliseconds)
  returning q.id into v_id;
  perform net.wake();
  return v_id;
end
$$;
comment on function net.http_get is 'Queues a GET, sent after the transaction commits. Returns the id of the answer in net._http_response.';

create function net.http_post(
  url text,
  body jsonb default '{}',
  params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}',
  timeout_milliseconds integer default 5000
)
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = ''
as $$
declare
  v_params text[] := (
    select coalesce(array_agg(net._urlencode_string(p.key) || '=' || net._urlencode_string(p.value)), '{}')
    from jsonb_each_text(params) p
  );
  v_type text;
  v_id bigint;
begin
  select h.value
  into v_type
  from jsonb_each_text(coalesce(headers, '{}')) h
  where lower(h.key) = 'content-type'
  limit 1;

  if v_type is null then
    headers := headers || '{"Content-Type": "application/json"}';
  elsif v_type <> 'application/json' then
    raise exception 'Content-Type header must be "application/json"';
  end if;

  insert into net.http_request_queue as q (method, url, headers, body, timeout_milliseconds)
  values (
    'POST',
    net._encode_url_with_params_array(url, v_params),
    headers,
    convert_to(body::text, 'UTF8'),
    timeout_milliseconds
  )
  returning q.id into v_id;
  perform net.wake();
  return v_id;
end
$$;
comment on function net.http_post is 'Queues a POST of JSON, sent after the transaction commits. Returns the id of the answer in net._http_response.';

create function net.http_delete(
  url text,
  params jsonb default '{}',
  headers jsonb default '{}',
  timeout_milliseconds integer default 5000,
  body jsonb default null
)
  returns bigint
  language plpgsql
  volatile
  set search_path = ''
as $$
declare
  v_params text[] := (
    select coalesce(array_agg(net._urlencode_string(p.key) || '=' || net._urlencode_string(p.value)), '{}')
    from jsonb_each_text(params) p
  );
  v_id bigint;
begin
  insert into net.http_request_queue as q (method, url, headers, body, timeout_milliseconds)
  values (
    'DELETE',
    net._encode_url_with_params_array(url, v_params),
    headers,
    convert_to(body::text, 'UTF8'),
    timeout_milliseconds
  )
  returning q.id into v_id;
  perform net.wake();
  return v_id;
end
$$;
comment on function net.http_delete is 'Queues a DELETE, sent after the transaction commits. Returns the id of the answer in net._http_response.';

create function net._await_response(request_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = ''
as $$
begin
  while not exists (select from net._http_response r where r.id = request_id) loop
    perform pg_sleep(0.05);
  end loop;
  return true;
end
$$;
comment on function net._await_response is 'Waits until the request is answered.';

create function net._http_collect_response(request_id bigint, async boolean default true)
  returns net.http_response_result
  language plpgsql
  volatile
  set search_path = ''
as $$
declare
  v_response net._http_response;
begin
  if not async then
    perform net._await_response(request_id);
  end if;
  select * into v_response from net._http_response r where r.id = request_id;

  if v_response.id is null or v_response.error_msg is not null then
    return ('ERROR', coalesce(v_response.error_msg, 'request matching request_id not found'), null)::net.http_response_result;
  end if;
  return (
    'SUCCESS', 'ok', (v_response.status_code, v_response.headers, v_response.content)::net.http_response
  )::net.http_response_result;
end
$$;
comment on function net._http_collect_response is 'The answer to a request; with async false, waits for it.';

-- The real script grants all of it to everybody, and postgres cannot take that back: keep net out of the exposed schemas.
grant usage on schema net to public;
grant all on all tables in schema net to public;
grant all on all sequences in schema net to public;

-- What hosted Supabase adds after create extension: the two functions for the roles of the Data API, and for nobody else.
do $$
declare
  v_role text;
begin
  revoke all on function net.http_get, net.http_post from public;
  foreach v_role in array array['supabase_functions_admin', 'postgres', 'anon', 'authenticated', 'service_role'] loop
    if pg_catalog.to_regrole(v_role) is not null then
      execute pg_catalog.format('grant usage on schema net to %I', v_role);
      execute pg_catalog.format('grant execute on function net.http_get, net.http_post to %I', v_role);
    end if;
  end loop;
end
$$;
