-- The project's spend cap: what all AI calls of a calendar month (UTC) may cost together. Exact, without a row for which
-- every call would queue: parts of the cap are handed out to shards, and a call takes its hold from the shard of its connection.

insert into private.settings (key, value, rule, description) values
  ('ai.project_usd_per_month', '1000', '{"type": ["number", "null"], "minimum": 0, "maximum": 1000000000}', 'What all AI calls of a calendar month (UTC) may cost together, in US dollars; null: no cap.')
on conflict (key) do nothing;

create table private.spend_months (
  month date primary key check (extract(day from month) = 1),
  handed_out_micros bigint not null default 0,
  warned_percent integer not null default 0
);
comment on table private.spend_months is 'What of a month''s cap is with the shards, and what calls cost beyond their holds, in micro-dollars; spent and held is that less what the shards have left.';
comment on column private.spend_months.warned_percent is 'The last of 80, 95 and 100 percent for which an event was raised.';
revoke all on private.spend_months from anon, authenticated, service_role;

create table private.spend_shards (
  month date not null,
  shard integer not null,
  -- Without checks: each is read and made ready anew by every statement that writes, and the statements below say the same.
  left_micros bigint not null default 0,
  primary key (month, shard)
) with (fillfactor = 20);
comment on table private.spend_shards is
  'What each shard may still hand to calls. 0 to 127 are taken from at admission, those from 128 on take what settlements give back. A connection uses one of each, so transactions seldom meet. No circle of locks closes, because all take them in this order: accounts; of a month the shards to 127, then its row; then those of the next month. From 128 on only a settlement waits that has nothing but its account; everybody else leaves out what is in use. Whoever has a shard or a month waits for no account any more.';
revoke all on private.spend_shards from anon, authenticated, service_role;

create function private.spend_cap_micros() returns bigint
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return ceil((private.setting('ai.project_usd_per_month') #>> '{}')::numeric * 1000000);
end $$;
comment on function private.spend_cap_micros() is 'The cap of a month in micro-dollars; null: none.';

create function private.moment_of_month(began timestamptz, moment timestamptz) returns timestamptz
language plpgsql immutable security invoker set search_path = ''
as $$
begin
  return least(moment, (date_trunc('month', began at time zone 'UTC') + interval '1 month') at time zone 'UTC' - interval '1 millisecond');
end $$;
comment on function private.moment_of_month(timestamptz, timestamptz) is
  'A moment, or the last one of the month (UTC) in which something began: what began before midnight belongs to the month of which it took.';

create function private.take_spend(micros bigint, month date default date_trunc('month', now() at time zone 'UTC')) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_shard integer := pg_backend_pid() % 128;
begin
  update private.spend_shards s set left_micros = s.left_micros - micros
  where s.month = take_spend.month and s.shard = v_shard and s.left_micros >= micros;
  return found or private.draw_spend(take_spend.month, v_shard, micros);
end $$;
comment on function private.take_spend(bigint, date) is
  'Takes what calls may cost from a month''s cap, which is given back to the month in which they were created; false, and nothing taken, when it does not fit. The caller has locked its accounts and waits for none after this.';

create function private.open_spend_month(month date) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  insert into private.spend_months (month) values (open_spend_month.month) on conflict do nothing;
  if found then
    insert into private.spend_shards (month, shard) select open_spend_month.month, n from generate_series(0, 255) n;
  end if;
end $$;
comment on function private.open_spend_month(date) is
  'Makes a month with all its shards, in one transaction: a shard that somebody is still making cannot be locked with the others, so two connections of the same one would wait in a circle.';

create function private.draw_spend(month date, shard integer, micros bigint) returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_cap bigint;
  v_month private.spend_months;
  v_left bigint;
  v_draw bigint;
begin
  perform private.open_spend_month(draw_spend.month);
  select s.left_micros into v_left from private.spend_shards s
  where s.month = draw_spend.month and s.shard = draw_spend.shard for no key update;
  select m.* into v_month from private.spend_months m where m.month = draw_spend.month for no key update;
  -- Not before: who changes the cap holds all of these.
  v_cap := private.spend_cap_micros();
  if v_left + v_cap - v_month.handed_out_micros < micros then
    -- What others have left comes back, but for the shards that are in use at this moment: nobody waits for two.
    with taken as (
      update private.spend_shards s set left_micros = 0
      from (
        select o.shard, o.left_micros from private.spend_shards o
        where o.month = draw_spend.month and o.shard <> draw_spend.shard and o.left_micros <> 0
        order by o.shard for update skip locked) o
      where s.month = draw_spend.month and s.shard = o.shard
      returning o.left_micros
    )
    select v_month.handed_out_micros - coalesce(sum(t.left_micros), 0) into v_month.handed_out_micros from taken t;
  end if;
  -- A thousandth more than is needed, so that the next calls need not come here.
  v_draw := greatest(0, least(
    greatest(micros - v_left, 0) + coalesce(v_cap / 1000, 1000000000),
    coalesce(v_cap - v_month.handed_out_micros, 1000000000000)));
  update private.spend_months m set handed_out_micros = v_month.handed_out_micros + v_draw where m.month = draw_spend.month;
  update private.spend_shards s set
    left_micros = v_left + v_draw - case when v_left + v_draw >= micros then micros else 0 end
  where s.month = draw_spend.month and s.shard = draw_spend.shard;
  return v_left + v_draw >= micros;
end $$;
comment on function private.draw_spend(date, integer, bigint) is
  'Fetches more of the month''s cap for a shard, also what other shards have left, and takes from it; false when the cap has no room.';

create function private.give_back_spend(month date, micros bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_shard integer := 128 + pg_backend_pid() % 128;
begin
  -- Its own, or, when another connection has it, any that nobody has: so this never waits with accounts or months in its hands.
  update private.spend_shards s set left_micros = s.left_micros + micros
  where s.month = give_back_spend.month and s.shard in (
    select o.shard from private.spend_shards o
    where o.month = give_back_spend.month and o.shard = v_shard and o.left_micros + micros >= 0 for update skip locked);
  if not found and micros < 0 then
    perform private.overrun_spend(give_back_spend.month, -micros);
    return;
  end if;
  if not found then
    update private.spend_shards s set left_micros = s.left_micros + micros
    where s.month = give_back_spend.month and s.shard in (
      select o.shard from private.spend_shards o
      where o.month = give_back_spend.month and o.shard >= 128 order by o.shard limit 1 for update skip locked);
  end if;
  while not found loop
    -- All are in use, and the month may be, too: a new one, which is drawn from like the others.
    insert into private.spend_shards (month, shard, left_micros)
    values (give_back_spend.month, 256 + floor(random() * 2000000000)::integer, micros) on conflict do nothing;
  end loop;
end $$;
comment on function private.give_back_spend(date, bigint) is
  'Gives back what calls of a month held and did not cost, and waits for nobody; less than nothing when they cost more than they held: then by who has nothing of this month or a later one.';

create function private.take_back_spend(month date, overrun bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- In the order in which calls take them, and the month after those that are taken from.
  perform private.open_spend_month(take_back_spend.month);
  perform from private.spend_shards s where s.month = take_back_spend.month and s.shard < 128 order by s.shard for no key update;
  perform from private.spend_months m where m.month = take_back_spend.month for no key update;
  -- Of the others those that nobody uses: nothing is handed out of them but by who draws, and that one asks the month first. Who has one
  -- may be waiting for those that are locked here.
  with held as materialized (
    select s.shard, s.left_micros from private.spend_shards s
    where s.month = take_back_spend.month and s.left_micros <> 0 order by s.shard for no key update skip locked
  ), taken as (
    update private.spend_shards s set left_micros = 0 from held h where s.month = take_back_spend.month and s.shard = h.shard
    returning h.left_micros
  )
  update private.spend_months m set
    handed_out_micros = m.handed_out_micros + take_back_spend.overrun - (select coalesce(sum(t.left_micros), 0) from taken t)
  where m.month = take_back_spend.month;
end $$;
comment on function private.take_back_spend(date, bigint) is
  'Takes what all shards have left of a month, waiting for those that calls are taken from, and books what calls cost beyond their holds: from then on every shard draws anew, by what is true then. To be called by who has no shard up to 127 of the month, and nothing of a later one.';

create function private.overrun_spend(month date, micros bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  -- From any that has so much and that nobody uses at this moment; not from those that calls are taken from, because who has one of them
  -- must not wait for another.
  update private.spend_shards s set left_micros = s.left_micros - micros
  where s.month = overrun_spend.month and s.shard in (
    select o.shard from private.spend_shards o
    where o.month = overrun_spend.month and o.shard >= 128 and o.left_micros >= micros order by o.shard desc limit 1 for update skip locked);
  if not found then
    perform private.take_back_spend(overrun_spend.month, overrun_spend.micros);
  end if;
end $$;
comment on function private.overrun_spend(date, bigint) is
  'Books what calls of a month cost beyond their holds: it comes out of what was given back, or, when no shard has so much, out of all of them, so that none hands out what the cap does not have.';

create function private.tg_settings__spend_cap() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: for whoever may change settings.
begin
  perform private.take_back_spend(date_trunc('month', now() at time zone 'UTC')::date, 0);
  return null;
end $$;
comment on function private.tg_settings__spend_cap() is
  'A cap that is lowered holds at once: what the shards have left of the old one comes back.';
create trigger tg_settings__spend_cap after update on private.settings
  for each row when (new.key = 'ai.project_usd_per_month' and new.value is distinct from old.value)
  execute function private.tg_settings__spend_cap();

create function private.project_spend(out month date, out cap_micros bigint, out spent_and_held_micros bigint)
language sql stable security invoker set search_path = ''
as $$
  select n.month, private.spend_cap_micros(),
    coalesce((select m.handed_out_micros from private.spend_months m where m.month = n.month), 0)
    - coalesce((select sum(s.left_micros) from private.spend_shards s where s.month = n.month), 0)::bigint
  from (select date_trunc('month', now() at time zone 'UTC')::date as month) n
$$;
comment on function private.project_spend() is 'This month (UTC), its cap in micro-dollars (null: none), and what calls have spent and hold of it.';

create function private.warn_of_spend() returns integer
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_spend record;
  v_percent integer;
begin
  select s.* into v_spend from private.project_spend() s;
  v_percent := case
    when v_spend.spent_and_held_micros >= v_spend.cap_micros then 100
    when v_spend.spent_and_held_micros >= v_spend.cap_micros * 0.95 then 95
    when v_spend.spent_and_held_micros >= v_spend.cap_micros * 0.8 then 80
  end;
  update private.spend_months m set warned_percent = v_percent
  where m.month = v_spend.month and m.warned_percent < v_percent;
  if found then
    perform private.raise_security_event('project_spend', case when v_percent = 80 then 'high' else 'critical' end, null,
      jsonb_build_object('percent', v_percent, 'cap_micros', v_spend.cap_micros,
        'spent_and_held_micros', v_spend.spent_and_held_micros, 'month', v_spend.month),
      dedupe_key => v_spend.month || ' ' || v_percent);
  end if;
  return v_percent;
end $$;
comment on function private.warn_of_spend() is
  'Raises a security event when the month''s spending passes 80, 95 or 100 percent of the cap, once each. A job runs it; a call does not, because the audit log has a lock that must not be held while an account is waited for.';
