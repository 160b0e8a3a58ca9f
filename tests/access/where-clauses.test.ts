/** The check that finds UPDATE and DELETE without WHERE: it finds every kind, and finds none in the project. */
import { describe, expect, test } from 'vitest'
import { findUnguardedIn, findUnguardedStatements, readDefinitions } from '../../scripts/checks/where-clauses.ts'
import { withRollback } from '../support/sql.ts'
import { target } from '../target.ts'

const plpgsql = (body: string, declare = '') =>
  `create function private.f() returns void language plpgsql as $body$ ${declare} begin ${body} end $body$`
const sql = (body: string) => `create function private.f() returns void language sql as $body$ ${body} $body$`
const update = ['private.f: UPDATE private.t without WHERE']
const deletion = ['private.f: DELETE FROM private.t without WHERE']

const offenders: [kind: string, definition: string, messages: string[]][] = [
  ['an update in SQL', sql('select 1; update private.t set a = 1'), update],
  ['a deletion in SQL', sql('delete from private.t'), deletion],
  ['an update with FROM and no WHERE', sql('update private.t set a = u.a from private.u u'), update],
  ['a CTE in SQL', sql('with gone as (delete from private.t returning a) select a from gone'), deletion],
  [
    'begin atomic',
    'create function private.f() returns void begin atomic update private.t set a = 1; select 1 where true; end',
    update,
  ],
  ['a plain statement', plpgsql('update private.t set a = 1;'), update],
  ['capitals and comments', plpgsql('/* where */ DELETE -- where\n FROM private.t;'), deletion],
  ['a procedure', 'create procedure private.f() language plpgsql as $$ begin delete from private.t; end $$', deletion],
  ['if', plpgsql('if 1 = 1 then update private.t set a = 1; end if;'), update],
  ['elsif and else', plpgsql('if a then null; elsif b then null; else delete from private.t; end if;'), deletion],
  [
    'a lock, then a deletion',
    plpgsql('if exists (select from t for update) then delete from private.t; end if;'),
    deletion,
  ],
  ['case', plpgsql('case v when 1 then update private.t set a = case when b then 1 else 2 end; end case;'), update],
  ['loop', plpgsql('for v in 1..3 loop delete from private.t; end loop;'), deletion],
  ['a loop over rows', plpgsql('for r in update private.t set a = 1 returning a loop null; end loop;'), update],
  ['an exception handler', plpgsql('null; exception when others then update private.t set a = 1;'), update],
  ['an inner block', plpgsql('<<inner>> declare v integer := 1; begin delete from private.t; end;'), deletion],
  ['returning into', plpgsql('update private.t set a = 1 returning a, b into strict v_row.a, v_b[1];'), update],
  ['return query', plpgsql('return query delete from private.t returning a;'), deletion],
  [
    'a CTE into a variable',
    plpgsql('with u as (update private.t set a = 1 returning a) select a into v from u;'),
    update,
  ],
  [
    'a CTE before a guarded statement',
    plpgsql('with d as (delete from private.t) update u set a = 1 where b;'),
    deletion,
  ],
  ['a cursor', plpgsql('null;', 'declare c cursor for delete from private.t returning a;'), deletion],
  ['an open cursor', plpgsql('open c for update private.t set a = 1 returning a;'), update],
  ['a string', plpgsql("execute 'delete from private.t';"), deletion],
  ['a string in parts', plpgsql("execute 'update private.t ' || 'set a = $1' into v using 1;"), update],
  ['a dollar-quoted string', plpgsql('return query execute $q$delete from private.t returning a$q$;'), deletion],
  ['format', plpgsql("execute format('update private.t set %I = %L', v_a, v_b);"), update],
  [
    'format of a name',
    plpgsql("execute format('delete from private.%I', v_table);"),
    ['private.f: DELETE FROM private.x without WHERE'],
  ],
  [
    'what cannot be read',
    plpgsql("execute 'delete from private.t ' || v_where;").replace('private.t ', 'private.t as y '),
    ["private.f: cannot be read: execute 'delete from private.t as y ' || v_where"],
  ],
  [
    'another language',
    "create function private.f() returns void language plperl as 'spi_exec_query(1)'",
    ['private.f: its language plperl cannot be read'],
  ],
]

const harmless: [kind: string, definition: string][] = [
  ['a guarded update', plpgsql('update private.t t set a = 1 from u where u.id = t.id returning t.* into v_row;')],
  ['on conflict do update', plpgsql('insert into private.t (a) values (1) on conflict (a) do update set a = 2;')],
  [
    'merge',
    plpgsql(
      'merge into private.t using u on t.a = u.a when matched then update set a = 2 when not matched then do nothing;',
    ),
  ],
  [
    'locks',
    plpgsql('select a into v from private.t for update; perform 1 from private.t for no key update skip locked;'),
  ],
  ['words in strings', plpgsql("if tg_op = 'DELETE' then raise exception 'update private.t'; end if;")],
  ['a column of a record', plpgsql('v := old.update + (select r.delete from r);')],
  ['a guarded string', plpgsql("execute format('delete from private.%I where a = $1', v_table) using 1;")],
  ['a return', 'create function private.f() returns integer language sql return 1'],
]

describe('UPDATE and DELETE without WHERE', () => {
  test.each(offenders)('%s is reported', async (_kind, definition, messages) => {
    expect(await findUnguardedIn([definition])).toEqual(messages)
  })

  test.each(harmless)('%s is not reported', async (_kind, definition) => {
    expect(await findUnguardedIn([definition])).toEqual([])
  })

  test('a function in the database is read as PostgreSQL prints it', async () => {
    await withRollback(async ({ sql }) => {
      await sql.unsafe(`
        create table public.t (a integer);
        create function public.offends() returns void language sql begin atomic; with d as (delete from public.t returning a) select a from d; end;
        create procedure private.offends() language plpgsql as $$ begin loop update public.t set a = 1; end loop; end $$`)

      expect(await findUnguardedIn(await readDefinitions(sql))).toEqual([
        'public.offends: DELETE FROM t without WHERE',
        'private.offends: UPDATE public.t without WHERE',
      ])
    })
  })

  test('the project has none', async () => {
    expect(await findUnguardedStatements(target().dbUrl)).toEqual([])
  })
})
