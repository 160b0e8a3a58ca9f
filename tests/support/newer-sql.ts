/** What PostgreSQL 15 or its pg_cron refuses and 17 takes, as the superuser: an example for each entry of newer-postgres.ts. */
export const newerSql: Record<string, string> = {
  'the privilege MAINTAIN': 'grant maintain on private.settings to service_role',
  'a membership WITH INHERIT or SET': 'grant pg_monitor to service_role with inherit true, set false',
  'JSON_ARRAY, JSON_ARRAYAGG, JSON_OBJECTAGG': 'select json_array(1, 2)',
  'JSON_OBJECT of keys and values': "select json_object('a': 1)",
  'IS JSON': "select '[]' is not json",
  'JSON_EXISTS, JSON_QUERY, JSON_SCALAR, JSON_SERIALIZE, JSON_TABLE, JSON_VALUE':
    "select json_value('[1]'::jsonb, '$[0]')",
  'a jsonpath that converts': "select jsonb_path_query('\"1\"', '$.integer()')",
  'MERGE with RETURNING':
    "merge into private.settings s using (values ('none')) v (key) on s.key = v.key when matched then do nothing returning s.key",
  'MERGE with NOT MATCHED BY':
    "merge into private.settings s using (values ('none')) v (key) on s.key = v.key when not matched by source then do nothing",
  'numbers with _, 0x, 0o and 0b': 'select 1_000',
  'random() between two numbers': 'select random(1, 6)',
  'generate_series() in a time zone':
    "select generate_series(now(), now() + interval '1 day', interval '1 hour', 'Europe/Berlin')",
  'AT LOCAL': 'select now() at local',
  'an infinite interval': "select interval 'infinity'",
  'SET EXPRESSION of a column':
    'create temporary table t (a int, b int generated always as (a) stored); alter table t alter column b set expression as (a + 1)',
  'STORAGE in CREATE TABLE': 'create temporary table t (a text storage main)',
  'CREATE STATISTICS without a name': 'create temporary table t (a int, b int); create statistics on a, b from t',
  'the collation pg_c_utf8': "select 'a' collate pg_c_utf8",
  'an event trigger on login':
    'create function pg_temp.f() returns event_trigger language plpgsql as $$ begin end $$; create event trigger t on login execute function pg_temp.f()',
  SYSTEM_USER: 'select system_user',
  'EXPLAIN with GENERIC_PLAN, MEMORY or SERIALIZE': 'explain (generic_plan) select 1',
  'COPY with ON_ERROR': "create temporary table t (a int); copy t from '/dev/null' (on_error ignore)",
  'a schedule in seconds (private.schedule_job knows what to do)':
    "select cron.schedule('test', '15 seconds', 'select 1')",
  'a schedule on the last day of a month': "select cron.schedule('test', '0 12 $ * *', 'select 1')",
}
