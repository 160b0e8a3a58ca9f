-- Rows: how many, how fast and how many bytes an account may keep in each table that its user makes grow. One trigger for all tables;
-- the counters are those of all other meters, so that a refusal is exact however many race.

insert into private.meters (meter, period, is_held, is_open_without_row, amount_without_row) values
  ('api_keys', 'minute', false, true, 40),
  ('api_keys', 'day', false, true, 50),
  ('api_keys', 'total', false, true, 200),
  ('api_key_secrets', 'minute', false, true, 40),
  ('api_key_secrets', 'day', false, true, 100),
  ('chats', 'minute', false, true, 30),
  ('chats', 'total', false, true, 2000),
  ('consents', 'minute', false, true, 10),
  ('consents', 'total', false, true, 200),
  ('devices', 'minute', false, true, 10),
  ('documents', 'minute', false, true, 120),
  ('documents', 'total', false, true, 2000),
  ('documents_bytes', 'total', false, true, 20971520),
  ('messages', 'minute', false, true, 300),
  ('messages', 'total', false, true, 20000),
  ('messages_bytes', 'total', false, true, 20971520),
  ('notifications', 'total', false, true, 500),
  ('psychology_tests', 'minute', false, true, 10),
  ('psychology_tests', 'total', false, true, 200),
  ('psychology_tests_bytes', 'total', false, true, 10485760),
  ('storage_files', 'total', false, true, 1000),
  ('trade_tag_rules', 'minute', false, true, 600),
  ('trade_tag_rules', 'total', false, true, 2000),
  ('uploads', 'minute', false, true, 60)
on conflict (meter, period) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount)
select 'free', m.meter, m.period, m.amount_without_row from private.meters m where m.amount_without_row is not null
on conflict (plan_id, meter, period) do nothing;

insert into public.plan_limits (plan_id, meter, period, amount) values
  ('premium', 'api_keys', 'minute', 40),
  ('premium', 'api_keys', 'day', 50),
  ('premium', 'api_keys', 'total', 1000),
  ('premium', 'api_key_secrets', 'minute', 40),
  ('premium', 'api_key_secrets', 'day', 100),
  ('premium', 'chats', 'minute', 120),
  ('premium', 'chats', 'total', 50000),
  ('premium', 'consents', 'minute', 10),
  ('premium', 'consents', 'total', 200),
  ('premium', 'devices', 'minute', 10),
  ('premium', 'documents', 'minute', 600),
  ('premium', 'documents', 'total', 50000),
  ('premium', 'documents_bytes', 'total', 1073741824),
  ('premium', 'messages', 'minute', 1200),
  ('premium', 'messages', 'total', 500000),
  ('premium', 'messages_bytes', 'total', 1073741824),
  ('premium', 'notifications', 'total', 2000),
  ('premium', 'psychology_tests', 'minute', 60),
  ('premium', 'psychology_tests', 'total', 5000),
  ('premium', 'psychology_tests_bytes', 'total', 209715200),
  ('premium', 'storage_files', 'total', 20000),
  ('premium', 'trade_tag_rules', 'minute', 600),
  ('premium', 'trade_tag_rules', 'total', 10000),
  ('premium', 'uploads', 'minute', 300)
on conflict (plan_id, meter, period) do nothing;

create function private.count_rows(user_id uuid, meter text, rows bigint, bytes bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_meter text;
begin
  if rows > 0 then
    -- Always in this order, so that no two wait for each other.
    perform private.consume(count_rows.user_id, m.meter, m.period, rows)
    from (
      select x.meter, x.period from private.meters x where x.meter = count_rows.meter
      order by array_position(array['minute', 'day', 'month', 'total'], x.period)) m;
  end if;
  if bytes > 0 then
    perform private.consume(count_rows.user_id, count_rows.meter || '_bytes', 'total', bytes);
  end if;
  if rows < 0 then
    perform private.give_back(count_rows.user_id, count_rows.meter, -rows);
  end if;
  if bytes < 0 then
    perform private.give_back(count_rows.user_id, count_rows.meter || '_bytes', -bytes);
  end if;
end $$;
comment on function private.count_rows(uuid, text, bigint, bigint) is
  'Counts rows of a table and their bytes that came (above zero), or raises what private.consume does; those that went (below zero) are given back to the total, and never to a minute, day or month.';

create function private.give_back(user_id uuid, meter text, units bigint) returns void
language sql volatile security invoker set search_path = ''
as $$
  update private.usage_counts c set used = greatest(c.used - give_back.units, 0)
  where c.user_id = give_back.user_id and c.meter = give_back.meter and c.period = 'total'
$$;
comment on function private.give_back(uuid, text, bigint) is 'Units of a total that are free again. Nothing for who has no counter, because the account goes with its rows.';

create function private.tg__limit_rows() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: counters are private.
declare
  -- What the trigger's maker wrote, and nobody else: an expression over one row.
  v_bytes text := coalesce(tg_argv[1], '0');
  v_added text := format('select a.user_id, 1 as rows, (%s)::bigint as bytes from added a', v_bytes);
  v_removed text := format('select r.user_id, -1 as rows, -(%s)::bigint as bytes from removed r', v_bytes);
  v_count record;
begin
  for v_count in execute format(
    'select c.user_id, sum(c.rows)::bigint as rows, sum(c.bytes)::bigint as bytes from (%s) c group by 1 order by 1',
    case tg_op when 'INSERT' then v_added when 'DELETE' then v_removed else v_added || ' union all ' || v_removed end)
  loop
    perform private.count_rows(v_count.user_id, tg_argv[0], v_count.rows, v_count.bytes);
  end loop;
  return null;
end $$;
comment on function private.tg__limit_rows() is
  'Counts the rows that a statement added, changed or removed, as a whole, so that it goes through or leaves nothing. First argument: the meter; second: the bytes of a row, as an expression over its columns, where they are limited (meter_bytes).';

-- The table is of an earlier file. How many are kept is a setting: the longest unused is forgotten.
create trigger tg_devices__limit_added after insert on public.devices referencing new table as added
  for each statement execute function private.tg__limit_rows('devices');

-- Kept with the rows, so that they are never wrong; looked at every night, because a table that nobody counts is the hole.
create function private.rows_counted() returns table (user_id uuid, meter text, counted bigint)
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_table record;
begin
  for v_table in
    select distinct t.tgrelid::regclass::text as name, a.args[1] as meter, nullif(a.args[2], '') as bytes
    from pg_catalog.pg_trigger t
      cross join lateral string_to_array(encode(t.tgargs, 'escape'), '\000') a (args)
    where t.tgfoid = 'private.tg__limit_rows()'::regprocedure
  loop
    if exists (select from private.meters m where m.meter = v_table.meter and m.period = 'total') then
      return query execute format('select t.user_id, %L::text, count(*) from %s t group by t.user_id', v_table.meter, v_table.name);
    end if;
    if v_table.bytes is not null then
      return query execute format(
        'select t.user_id, %L::text, sum(%s)::bigint from %s t group by t.user_id', v_table.meter || '_bytes', v_table.bytes, v_table.name);
    end if;
  end loop;
end $$;
comment on function private.rows_counted() is
  'How many rows, and bytes, every account has in each table with tg__limit_rows: what the totals in private.usage_counts must say. It reads these tables.';

create function private.compare_row_counts() returns table (user_id uuid, meter text, stored bigint, expected bigint)
language sql stable security invoker set search_path = ''
as $$
  with expected as (select r.user_id, r.meter, r.counted from private.rows_counted() r),
    stored as (
      select c.user_id, c.meter, c.used from private.usage_counts c
      where c.period = 'total' and c.meter in (
        select m.meter || suffix from private.meters m cross join unnest(array['', '_bytes']) suffix
        where exists (
          select from pg_catalog.pg_trigger t
          where t.tgfoid = 'private.tg__limit_rows()'::regprocedure and split_part(encode(t.tgargs, 'escape'), '\000', 1) = m.meter)))
  select user_id, meter, coalesce(s.used, 0), coalesce(e.counted, 0)
  from expected e full join stored s using (user_id, meter)
  where coalesce(s.used, 0) <> coalesce(e.counted, 0)
$$;
comment on function private.compare_row_counts() is
  'Totals of rows and bytes that are not what the tables hold, with both: no row while the triggers do what they are for. private.recount_rows mends them.';

create function private.recount_rows(of_user uuid default null) returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_mended integer;
begin
  -- Nobody adds or removes what is being counted; a night's work of a moment, and seldom any.
  lock table private.usage_counts in share row exclusive mode;
  insert into private.usage_counts as u (user_id, meter, period, used, resets_at)
  select c.user_id, c.meter, 'total', c.expected, 'infinity' from private.compare_row_counts() c
  where recount_rows.of_user is null or c.user_id = recount_rows.of_user
  on conflict on constraint usage_counts_pkey do update set used = excluded.used;
  get diagnostics v_mended = row_count;
  return v_mended;
end $$;
comment on function private.recount_rows(uuid) is 'Counts rows and bytes anew, of one account or of all, where the totals are wrong. Answers how many totals it mended.';

create function private.warn_of_wrong_row_counts() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_wrong jsonb;
begin
  select jsonb_agg(to_jsonb(c)) into v_wrong from private.compare_row_counts() c;
  if v_wrong is not null then
    perform private.raise_security_event('row_counts_wrong', 'medium', null,
      jsonb_build_object('totals', jsonb_array_length(v_wrong), 'some', jsonb_path_query_array(v_wrong, '$[0 to 9]')));
  end if;
  return coalesce(jsonb_array_length(v_wrong), 0);
end $$;
comment on function private.warn_of_wrong_row_counts() is
  'Raises a security event when private.compare_row_counts finds something; answers how many totals. A job runs it every night.';
