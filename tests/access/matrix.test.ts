/** Who may do what: read from the catalogue, tried with real statements, and compared with the reviewed file access-matrix.ts. */
import type postgres from 'postgres'
import { beforeAll, describe, expect, test } from 'vitest'
import { type AccessDifference, accessDifferences, isPartitionByTheClock } from '../../scripts/checks/access.ts'
import { behaviour, functions, relations } from '../../scripts/checks/access-matrix.ts'
import { growthFaults } from '../../scripts/checks/growth.ts'
import { type Actor, type Db, withRollback } from '../support/sql.ts'

// The catalogue --------------------------------------------------------------------------------------------------------

/** Rules without exceptions, for everything we made ourselves. */
const readRuleBreakers = (sql: postgres.Sql) => sql<{ message: string }[]>`
  select p.oid::regprocedure || ' must say: set search_path = ''''' as message from pg_proc p
  where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    -- A body that was read when the function was made looks nothing up later.
    and not coalesce('search_path=""' = any (p.proconfig), false) and (p.prosqlbody is null or p.prosecdef)
  union all
  select p.oid::regprocedure || ' has no comment' from pg_proc p
  where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace) and obj_description(p.oid, 'pg_proc') is null
  union all
  -- The reason is for who reads the code; the comment is for who calls it.
  select p.oid::regprocedure || ' must begin with the reason: -- Definer: ...' from pg_proc p
  where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and p.prosecdef and p.prosrc !~ '^\\n-- Definer: \\S'
  union all
  select p.oid::regprocedure || ' gives its reason in its comment; it belongs into the body' from pg_proc p
  where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    and obj_description(p.oid, 'pg_proc') like '%Definer%'
  union all
  select c.oid::regclass || ' has no comment' from pg_class c
  where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm', 'f')
    and not c.relispartition and obj_description(c.oid, 'pg_class') is null
  order by 1`

/** Everything that is not as access-matrix.ts says, with the line that would say so; empty when all is reviewed. */
async function findDifferences(sql: postgres.Sql): Promise<string[]> {
  const differences = await accessDifferences(sql)
  return [...differences.map(tellDifference), ...(await readRuleBreakers(sql)).map((row) => row.message)]
}

function tellDifference({ section, name, reviewed, found }: AccessDifference): string {
  const place = `${section} in scripts/checks/access-matrix.ts`
  if (found === null) return `${name} is gone: remove its line from ${place}.`
  if (isPartitionByTheClock(name)) return `${name} is a partition and must have no grants; it has: ${found}`
  const line = `  ${quoted(name)}: ${quoted(found)},`
  return reviewed === null
    ? `${name} is not reviewed. If this is intended, add to ${place}:\n${line}`
    : `${name} differs from ${place}: reviewed is "${reviewed}". If this is intended, change it to:\n${line}`
}

const quoted = (text: string) => (text.includes("'") ? JSON.stringify(text) : `'${text}'`)

describe('grants, policies and functions', () => {
  test('are what the reviewed file says', async () => {
    expect((await withRollback(({ sql }) => findDifferences(sql))).join('\n')).toBe('')
  })

  const offences: [offence: string, statement: string, report: RegExp[]][] = [
    [
      'an unlisted table',
      "create table public.unlisted (id integer); comment on table public.unlisted is 'x'",
      [
        /^public\.unlisted is not reviewed.*add to relations in scripts\/checks\/access-matrix\.ts:\n {2}'public\.unlisted': 'table, rls off; anon truncate/,
      ],
    ],
    [
      'an unlisted view without security_invoker',
      "create view private.unlisted as select 1 as a; comment on view private.unlisted is 'x'",
      [/'private\.unlisted': 'view, definer; anon -; authenticated -; service_role -',$/],
    ],
    [
      'an unlisted function',
      "create function public.unlisted(a text) returns text language sql set search_path = '' return a; comment on function public.unlisted is 'x'",
      [
        /^public\.unlisted\(text\) is not reviewed.*add to functions in .*\n {2}'public\.unlisted\(text\)': 'invoker; -',$/,
      ],
    ],
    [
      'a function without search_path and comment',
      'alter function private.uuid_v7() reset search_path; comment on function private.uuid_v7() is null',
      [/^private\.uuid_v7\(\) has no comment$/, /^private\.uuid_v7\(\) must say: set search_path = ''$/],
    ],
    [
      'a function that became security definer and public',
      'alter function private.uuid_v7() security definer; grant execute on function private.uuid_v7() to public',
      [
        /^private\.uuid_v7\(\) differs.*'definer; PUBLIC anon authenticated service_role palisade_gateway'/s,
        /^private\.uuid_v7\(\) must begin with the reason: -- Definer: \.\.\.$/,
      ],
    ],
    [
      'a reason for being definer that stands in the comment',
      "comment on function private.is_admin() is 'Whether the caller is an admin. Definer: profiles are hidden.'",
      [/^private\.is_admin\(\) gives its reason in its comment; it belongs into the body$/],
    ],
    [
      'an unlisted sequence',
      'create sequence private.unlisted',
      [/^private\.unlisted is not reviewed.* add to sequences /],
    ],
    ['an extra grant', 'grant insert on public.plans to anon', [/^public\.plans differs.*anon insert; /s]],
    [
      'an extra grant of a column',
      'grant update (role) on public.profiles to authenticated',
      [/^public\.profiles differs.*update\([^)]*, role, time_zone\)/s],
    ],
    [
      'a grant to everybody',
      'grant select on private.settings to public',
      [/^private\.settings differs.*anon select; authenticated select; /s],
    ],
    ['usage of a schema', 'grant usage on schema private to anon', [/^private differs from schemas.*anon usage; /s]],
    [
      'a missing grant',
      'revoke select on public.chats from service_role',
      [/^public\.chats differs.*service_role -'/s],
    ],
    [
      'disabled row level security',
      'alter table public.chats disable row level security',
      [/^public\.chats differs.*'table, rls off; /s],
    ],
    [
      'unforced row level security',
      'alter table public.chats no force row level security',
      [/^public\.chats differs.*'table, rls not forced; /s],
    ],
    [
      'a dropped policy',
      'drop policy "owners see their chats" on public.chats',
      [/^public\.chats: owners see their chats is gone: remove its line/],
    ],
    [
      'an unlisted policy',
      'create policy "all see" on public.chats using (true)',
      [/^public\.chats: all see is not reviewed.*'all to public'/s],
    ],
    [
      'a policy that asks whose token it is and not whether it still counts',
      `alter policy "owners change their documents" on public.documents with check (user_id = (select auth.uid()))`,
      [/'update to authenticated',$/],
    ],
    [
      'a policy for more roles',
      'alter policy "owners see their chats" on public.chats to public',
      [/'select to public, live'/],
    ],
    [
      'a grant on a partition made by the clock',
      "create table private.ai_calls_200001 (); grant select on private.ai_calls_200001 to service_role; comment on table private.ai_calls_200001 is 'x'",
      [/^private\.ai_calls_200001 is a partition and must have no grants; it has: .*service_role select$/],
    ],
    ['a table without a comment', 'comment on table public.plans is null', [/^plans has no comment$/]],
  ]

  test.each(offences)('%s is reported, and only that', async (_offence, statement, report) => {
    await withRollback(async ({ sql }) => {
      expect(await findDifferences(sql)).toEqual([])

      await sql`savepoint clean`
      await sql.unsafe(statement)
      expect(await findDifferences(sql)).toEqual(report.map((pattern) => expect.stringMatching(pattern)))

      await sql`rollback to savepoint clean`
      expect(await findDifferences(sql)).toEqual([])
    })
  })
})

describe('growth', () => {
  test('of every table that users can make grow has a limit that there is', async () => {
    expect((await withRollback(({ sql }) => growthFaults(sql))).join('\n')).toBe('')
  })

  const holes: [hole: string, statement: string, report: RegExp][] = [
    [
      'a table that users may insert into',
      'create table public.hole (id integer); grant insert (id) on public.hole to authenticated',
      /^public\.hole can be made to grow by users \(a grant\)/,
    ],
    [
      'a function for users that inserts',
      `create table private.hole (id integer);
      create function private.fill() returns void language sql security definer as 'insert into private.hole values (1)';
      create function public.fill() returns void language sql as 'select private.fill()';
      grant execute on function public.fill() to authenticated`,
      /^private\.hole can be made to grow by users \(private\.fill\)/,
    ],
    [
      'a trigger on a table of users',
      `create table private.hole (id integer);
      create function private.tg_hole() returns trigger language plpgsql as 'begin insert into private.hole values (1); return null; end';
      create trigger tg_hole after update on public.documents for each row execute function private.tg_hole()`,
      /^private\.hole can be made to grow by users \(private\.tg_hole\)/,
    ],
    [
      'a function that Edge Functions call for a user',
      `create table private.hole (id integer);
      create function private.fill(user_id uuid, session_id uuid) returns void language sql as 'insert into private.hole values (1)'`,
      /^private\.hole can be made to grow by users \(private\.fill\)/,
    ],
    [
      'a plan without an end',
      "update public.plan_limits set amount = null where meter = 'documents' and period = 'total' and plan_id = 'free'",
      /^public\.documents: there is no limit documents\/total\.$/,
    ],
    [
      'a job that no longer runs',
      "select cron.unschedule('delete-old-checkouts')",
      /^private\.checkouts: there is no limit job delete-old-checkouts\.$/,
    ],
  ]

  test.each(holes)('%s is a hole, and it is found', async (_hole, statement, report) => {
    await withRollback(async ({ sql }) => {
      await sql.unsafe(statement)

      expect(await growthFaults(sql)).toEqual([expect.stringMatching(report)])
    })
  })
})

// Behaviour ------------------------------------------------------------------------------------------------------------

const call = crypto.randomUUID()
const chat = crypto.randomUUID()
const invite = crypto.randomUUID()
const document = crypto.randomUUID()
const unknown = 9_000_001
const run = crypto.randomUUID()
const apiKey = crypto.randomUUID()
const credential = crypto.randomUUID()
const image = crypto.randomUUID()
const session = crypto.randomUUID()

/** Rows of every kind, made as role postgres: a plan and models nobody uses, and something of the owner's in every table. */
const scene = (owner: string) => `
  insert into public.plans (id, name) values ('matrix', 'Matrix'), ('matrix_2', 'Matrix 2');
  insert into public.plan_limits (plan_id, meter, period, amount) values ('matrix', 'ai_calls', 'day', 1);
  insert into public.limit_overrides (user_id, meter, period, amount) values ('${owner}', 'ai_calls', 'day', 1);
  insert into private.providers (id, base_url) values ('matrix', 'http://127.0.0.1:9/v1');
  insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, enabled) values
    ('matrix/on', 'matrix', 'on', 1, 1, true), ('matrix/off', 'matrix', 'off', 1, 1, false);
  insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok)
  values ('matrix/on', '2026-01-01', 1, 1);
  insert into public.plan_models (plan_id, model_id) values ('matrix', 'matrix/on');
  select private.add_credit_entry('${owner}', 5, 'grant', 'matrix', 'matrix');
  insert into public.ai_calls (id, created_at, user_id, request_id, endpoint, model_id, stream, state, request_bytes)
  select id, private.uuid_v7_time(id), '${owner}', '${call}', 'chat', 'matrix/on', false, 'refused', 1
  from (select private.uuid_v7() as id) x;
  insert into public.legal_documents (kind, version, url, published_at)
  values ('terms', 'matrix', 'x', now()), ('terms', 'matrix_2', 'x', now() + interval '1 day');
  insert into public.consents (user_id, kind, granted) values ('${owner}', 'do_not_sell', false);
  insert into private.invites (id, code_hash, label, max_uses) values ('${invite}', sha256('matrix'), 'matrix', 1);
  insert into public.api_keys (id, user_id, name, prefix, scopes) values ('${apiKey}', '${owner}', 'Matrix', 'pal_matrix', '{models}');
  insert into public.api_key_limits (api_key_id, meter, period, amount) values ('${apiKey}', 'ai_calls', 'day', 1);
  insert into private.ai_usage_days (day) values ('2026-01-01');
  insert into public.ai_usage_daily values ('${owner}', '2026-01-01', 'matrix/on', 'chat.completions', 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0);
  insert into public.credentials (id, user_id, kind, provider, name, last_four, status)
  values ('${credential}', '${owner}', 'exchange', 'matrix', 'Matrix', 'abcd', 'active');
  insert into public.portfolio_skipped_rows (credential_id, kind, id, user_id, reason, content)
    values ('${credential}', 'holding', 'X', '${owner}', 'too_large', '{}');
  insert into public.holdings (credential_id, user_id, asset, amount, quote_currency) values ('${credential}', '${owner}', 'BTC', 1, 'USDT');
  insert into public.trades (credential_id, exchange_trade_id, user_id, executed_at, side, base, quote, amount, price)
  values ('${credential}', '1', '${owner}', '2026-01-01', 'buy', 'BTC', 'USDT', 1, 1);
  insert into public.trade_tag_rules (credential_id, base, quote, user_id, tag)
    values ('${credential}', 'BTC', 'USD', '${owner}', 'swing');
  insert into public.portfolio_snapshots (user_id, taken_at, value, quote_currency) values ('${owner}', '2026-01-01', 1, 'USDT');
  insert into public.plan_prices (id, plan_id, interval, amount) values ('matrix', 'matrix_2', 'month', 1);
  insert into public.credit_packs (id, name, credits, amount) values ('matrix', 'Matrix', 1, 1);
  insert into public.plan_features (plan_id, feature) values ('matrix', 'matrix');
  insert into public.subscriptions (id, user_id, plan_id, status, started_at) values ('sub_matrix', '${owner}', 'matrix_2', 'canceled', now());
  insert into public.payments (id, user_id, kind, status, description, amount, currency, created_at)
  values ('in_matrix', '${owner}', 'subscription', 'paid', 'Matrix', 1, 'usd', now());
  insert into public.refunds (id, user_id, payment_id, amount, currency, status, created_at)
  values ('re_matrix', '${owner}', 'in_matrix', 1, 'usd', 'succeeded', now());
  insert into public.disputes (id, user_id, payment_id, amount, currency, status, created_at)
  values ('du_matrix', '${owner}', 'in_matrix', 1, 'usd', 'won', now());
  insert into public.plan_prices (id, plan_id, interval, amount) values ('matrix_map', 'matrix_2', 'month', 1);
  insert into private.stripe_prices (id, plan_price_id, product_id, livemode) values ('price_matrix', 'matrix_map', 'prod_matrix', false);
  insert into private.stripe_events (id, type, livemode, created_at, payload, state, finished_at)
  values ('evt_matrix_dead', 'x', false, now(), '{}', 'dead', now());
  insert into private.stripe_unknowns (id, kind, value) overriding system value values (${unknown}, 'matrix', 'x');
  insert into public.chats (id, user_id) values ('${chat}', '${owner}');
  insert into public.documents (id, user_id) values ('${document}', '${owner}');
  insert into public.questionnaires (id, version, title, questions) values ('matrix', 1, 'Matrix', '[]'), ('matrix_2', 1, 'Nobody takes it', '[]');
  insert into public.psychology_tests (id, user_id, questionnaire_id, questionnaire_version)
  values ('${run}', '${owner}', 'matrix', 1);
  insert into storage.objects (id, bucket_id, name, metadata)
  values ('${image}', 'images', '${owner}/x.png', '{"size": 1, "mimetype": "image/png"}');
  insert into public.messages (chat_id, user_id, role, content) values ('${chat}', '${owner}', 'user', 'Hello');
  insert into public.devices (user_id, device_id, name, type) values ('${owner}', 'matrix', 'Matrix', 'web');
  insert into auth.sessions (id, user_id, aal, created_at, updated_at) values ('${session}', '${owner}', 'aal1', now(), now());
  select private.raise_security_event('matrix', 'low', '${owner}');
  select private.notify_user('${owner}', 'new_device', 'Matrix', 'Matrix')`

/** Every line of the behaviour table as a statement about the owner's rows, or about the scene's. */
const statements = (owner: string): Record<keyof typeof behaviour, string> => ({
  'see the profile': `select from public.profiles where id = '${owner}'`,
  'rename the profile': `update public.profiles set display_name = 'x' where id = '${owner}'`,
  'make a profile': `insert into public.profiles (id) values ('${owner}')`,
  'delete the profile': `delete from public.profiles where id = '${owner}'`,
  'change the status': `update public.profiles set status = 'active' where id = '${owner}'`,
  'change the role': `update public.profiles set role = 'admin' where id = '${owner}'`,
  'change the plan of an account': `update public.profiles set plan_id = 'matrix' where id = '${owner}'`,
  'change the birth date': `update public.profiles set birth_date = '2000-01-01' where id = '${owner}'`,
  'move the clock of the daily limits': `update public.profiles set quota_time_zone = 'Asia/Tokyo' where id = '${owner}'`,
  'change why the account is parked': `update public.profiles set parked_reason = null where id = '${owner}'`,
  'change the do-not-sell choice directly': `update public.profiles set do_not_sell = true where id = '${owner}'`,
  'read how the account came in': 'select from private.registrations',
  'read changes of status': 'select from private.account_status_changes',

  'see published documents': "select from public.legal_documents where version = 'matrix'",
  'see a document before its day': "select from public.legal_documents where version = 'matrix_2'",
  'publish a document': "insert into public.legal_documents (kind, version, url) values ('terms', 'matrix_3', 'x')",
  'change a legal document': "update public.legal_documents set url = 'x' where version = 'matrix'",
  'delete a legal document': "delete from public.legal_documents where version = 'matrix'",
  'see consents': `select from public.consents where user_id = '${owner}'`,
  'write a consent': `insert into public.consents (user_id, kind, granted) values ('${owner}', 'do_not_sell', true)`,
  'change a consent': `update public.consents set granted = false where user_id = '${owner}'`,
  'delete a consent': `delete from public.consents where user_id = '${owner}'`,
  'accept the terms': 'select * from public.accept_terms()',
  'choose do-not-sell': 'select public.set_do_not_sell(true)',
  'complete the registration': "select public.complete_registration('1990-01-01', true)",
  'record a guardian': `select public.record_guardian_consent('${owner}', 'x')`,
  'read the registration policy': 'select public.get_registration_policy()',
  'ask for the session before a request': 'select public.check_session()',

  'read invites': 'select from private.invites',
  'create an invite': "select public.create_invite('matrix', 1)",
  'list invites': 'select * from public.list_invites()',
  'revoke an invite': `select public.revoke_invite('${invite}')`,
  'ask the hook': "select private.before_user_created('{}')",

  'suspend the account': `select public.suspend_account('${owner}', 'x')`,
  'reinstate the account': `select public.reinstate_account('${owner}', 'x')`,
  'delete the account': `select public.delete_account('${owner}', 'x')`,
  'delete my account': 'select public.delete_my_account()',
  'make the owner an admin': `select public.set_account_role('${owner}', 'admin')`,
  'find the account by its address': `select * from public.find_account('${owner}@example.com')`,

  'see plans': "select from public.plans where id = 'matrix'",
  'add a plan': "insert into public.plans (id, name) values ('matrix_3', 'x')",
  'change a plan': "update public.plans set name = 'x' where id = 'matrix'",
  'delete a plan': "delete from public.plans where id = 'matrix'",
  'see what plans allow': "select from public.plan_limits where plan_id = 'matrix'",
  'add what a plan allows':
    "insert into public.plan_limits (plan_id, meter, period, amount) values ('matrix_2', 'ai_calls', 'day', 1)",
  'change what a plan allows': "update public.plan_limits set amount = 2 where plan_id = 'matrix'",
  'delete what a plan allows': "delete from public.plan_limits where plan_id = 'matrix'",
  'see the own limit': `select from public.limit_overrides where user_id = '${owner}'`,
  'add an own limit': `insert into public.limit_overrides (user_id, meter, period) values ('${owner}', 'ai_tokens', 'month')`,
  'change the own limit': `update public.limit_overrides set amount = 2 where user_id = '${owner}'`,
  'delete the own limit': `delete from public.limit_overrides where user_id = '${owner}'`,
  'read usage counters': `select from private.usage_counters where user_id = '${owner}'`,
  'get my limits': 'select * from public.get_my_limits()',

  'see the ledger': `select from public.credit_entries where user_id = '${owner}'`,
  'add to the ledger': `
    insert into private.credit_bookings (user_id, amount, kind, reason, idempotency_key, balance_after)
    values ('${owner}', 1, 'grant', 'x', 'x', 1)`,
  'change the ledger': `update private.credit_bookings set amount = 9 where user_id = '${owner}'`,
  'delete from the ledger': `delete from private.credit_bookings where user_id = '${owner}'`,
  'empty the ledger': 'truncate private.credit_bookings',
  'read balances': `select from private.accounts where user_id = '${owner}'`,
  'get my credits': 'select * from public.get_my_credits()',
  'grant credits': `select public.grant_credits('${owner}', 1, 'x', 'x')`,
  'refund credits': `select public.refund_credits('${owner}', 1, 'x', 'x')`,
  'deduct credits': `select public.deduct_credits('${owner}', 1, 'x', 'x')`,
  'claw back credits': `select public.claw_back_credits('${owner}', 1, 'x', 'x')`,
  'get my lots of credits': 'select count(*) from public.get_my_credit_lots()',
  'write the ledger by function': `select private.add_credit_entry('${owner}', 1, 'grant', 'x', 'x')`,

  'see models': "select from public.models where id = 'matrix/on'",
  'see disabled models': "select from public.models where id = 'matrix/off'",
  'add a model': `
    insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens)
    values ('matrix/new', 'matrix', 'new', 1, 1)`,
  'change a model': "update public.models set enabled = false where id = 'matrix/on'",
  'delete a model': "delete from public.models where id = 'matrix/on'",
  'see prices': "select from public.model_prices where model_id = 'matrix/on'",
  'add a price':
    "insert into public.model_prices (model_id, input_usd_per_mtok, output_usd_per_mtok) values ('matrix/on', 1, 1)",
  'change a price': "update public.model_prices set image_usd = 1 where model_id = 'matrix/on'",
  'delete a price': "delete from public.model_prices where model_id = 'matrix/on'",
  'see which plan has which model': "select from public.plan_models where model_id = 'matrix/on'",
  'give a plan a model': "insert into public.plan_models (plan_id, model_id) values ('matrix', 'matrix/off')",
  'take a model from a plan': "delete from public.plan_models where model_id = 'matrix/on'",
  'read providers': 'select from private.providers',
  'read settings': 'select from private.settings',

  'see calls': `select from public.ai_calls where user_id = '${owner}'`,
  'see calls in their partition': 'select from private.ai_calls_default',
  'add a call': `insert into public.ai_calls (user_id, model_id) values ('${owner}', 'matrix/on')`,
  'change a call': `update public.ai_calls set credits_charged = 0 where user_id = '${owner}'`,
  'delete a call': `delete from public.ai_calls where user_id = '${owner}'`,
  'see the usage of a day': `select from public.ai_usage_daily where user_id = '${owner}'`,
  'change the usage of a day': `update public.ai_usage_daily set calls = 0 where user_id = '${owner}'`,
  'get my usage': "select * from public.get_my_usage('2026-01-01', '2026-01-01')",
  'admit a call': "select private.ai_step('{}', array[null::private.ai_request], 1)",
  'settle a call': "select private.ai_step(array[null::private.ai_outcome], '{}', 1)",

  'see API keys': `select from public.api_keys where id = '${apiKey}'`,
  'see an API key’s limit': `select from public.api_key_limits where api_key_id = '${apiKey}'`,
  'write an API key': `update public.api_keys set revoked_at = null where id = '${apiKey}'`,
  'read what API keys hash to': 'select from private.api_key_secrets',
  'create an API key': "select from public.create_api_key('x', array['models'])",
  'rotate an API key': `select from public.rotate_api_key('${apiKey}')`,
  'revoke an API key': `select public.revoke_api_key('${apiKey}')`,
  'demand signatures of an API key': `select public.sign_api_key('${apiKey}')`,
  'limit an API key': `select public.limit_api_key('${apiKey}', 'ai_calls', 'day', 1)`,
  'see credentials': `select from public.credentials where id = '${credential}'`,
  'write a credential': `update public.credentials set status = 'active' where id = '${credential}'`,
  'read what is sealed of credentials': 'select from private.credential_secrets',
  'begin to give a credential': `select private.start_secret_transfer('${owner}', null)`,
  'have a credential tested': `select private.start_credential_test('${owner}', null, '${credential}')`,
  'rename anybody’s credential': `select private.rename_credential('${owner}', null, '${credential}', 'x')`,
  'delete anybody’s credential': `select private.delete_credential('${owner}', null, '${credential}')`,
  'list anybody’s syncs': `select private.list_portfolio_syncs('${owner}', null)`,
  'rename a credential': `select public.rename_credential('${credential}', 'x')`,
  'delete a credential': `select public.delete_credential('${credential}')`,
  'open a credential': `select private.open('${credential}', 'sync')`,
  'see holdings': `select from public.holdings where user_id = '${owner}'`,
  'write a holding': `update public.holdings set amount = 2 where user_id = '${owner}'`,
  'see trades': `select from public.trades where user_id = '${owner}'`,
  'write a trade': `update public.trades set amount = 2 where user_id = '${owner}'`,
  'see skipped rows': `select from public.portfolio_skipped_rows where user_id = '${owner}'`,
  'write a skipped row': `delete from public.portfolio_skipped_rows where user_id = '${owner}'`,
  'see portfolio snapshots': `select from public.portfolio_snapshots where user_id = '${owner}'`,
  'see snapshots in their partition': 'select from private.portfolio_snapshots_default',
  'write a portfolio snapshot': `update public.portfolio_snapshots set value = 2 where user_id = '${owner}'`,
  'read lots': 'select from private.portfolio_lots',
  'read syncs': 'select from private.portfolio_syncs',
  'lease a sync': 'select from private.lease_portfolio_sync()',
  'record a sync': `select private.record_portfolio_sync('${credential}', '[]', '{}', '[]', null)`,
  'get my portfolio': 'select from public.get_my_portfolio()',
  'get my portfolio over time': "select from public.get_my_portfolio_series('2025-12-01', '2026-02-01', 10)",
  'get my portfolio syncs': 'select from public.get_my_portfolio_syncs()',
  'get my strategies': 'select from public.get_my_strategies()',
  'tag my trades': `select public.tag_my_trades('${credential}', 'x', symbol => 'BTC/USD')`,
  'see tags of markets': `select from public.trade_tag_rules where user_id = '${owner}'`,
  'write a tag of a market': `update public.trade_tag_rules set tag = 'y' where user_id = '${owner}'`,
  'read prices of the past': 'select from private.past_prices',
  'price a trade': `select private.price_trades('${credential}', '[]')`,
  'see prices of plans': "select from public.plan_prices where id = 'matrix'",
  'add a price of a plan':
    "insert into public.plan_prices (id, plan_id, interval, amount) values ('matrix_3', 'matrix_2', 'month', 1)",
  'change a price of a plan': "update public.plan_prices set amount = 2 where id = 'matrix'",
  'delete a price of a plan': "delete from public.plan_prices where id = 'matrix'",
  'see credit packs': "select from public.credit_packs where id = 'matrix'",
  'add a credit pack': "insert into public.credit_packs (id, name, credits, amount) values ('matrix_2', 'x', 1, 1)",
  'change a credit pack': "update public.credit_packs set credits = 9 where id = 'matrix'",
  'delete a credit pack': "delete from public.credit_packs where id = 'matrix'",
  'see features of plans': "select from public.plan_features where plan_id = 'matrix'",
  'give a plan a feature': "insert into public.plan_features (plan_id, feature) values ('matrix', 'x')",
  'take a feature from a plan': "delete from public.plan_features where plan_id = 'matrix'",
  'see subscriptions': `select from public.subscriptions where user_id = '${owner}'`,
  'write a subscription': `update public.subscriptions set status = 'active' where user_id = '${owner}'`,
  'see payments': `select from public.payments where user_id = '${owner}'`,
  'write a payment': `update public.payments set status = 'paid' where user_id = '${owner}'`,
  'see refunds': `select from public.refunds where user_id = '${owner}'`,
  'write a refund': `delete from public.refunds where user_id = '${owner}'`,
  'see disputes': `select from public.disputes where user_id = '${owner}'`,
  'write a dispute': `delete from public.disputes where user_id = '${owner}'`,
  'get my entitlement': 'select * from public.get_my_entitlement()',
  'read entitlements by function': `select private.entitlement('${owner}')`,
  'read customers of Stripe': 'select from private.stripe_customers',
  'read checkouts': 'select from private.checkouts',
  'read events of Stripe': 'select from private.stripe_events',
  'read objects of Stripe': 'select from private.stripe_objects',
  'bring an event of Stripe': "select private.receive_stripe_events('[]')",
  'bring a reading of Stripe': "select * from private.apply_stripe_readings('[]')",
  'prepare a checkout': `select private.prepare_checkout('${owner}', null, 'matrix', null, false, '{}')`,
  'link a customer': `select private.link_stripe_customer('${owner}', 'cus_matrix', false)`,
  'see dead events of Stripe': 'select count(*) from public.list_dead_stripe_events()',
  'try an event of Stripe again': "select public.retry_stripe_event('evt_matrix_dead')",
  'map a price of Stripe': "select public.map_stripe_price('price_matrix', 'matrix_map')",
  'see what changes at Stripe': 'select from private.stripe_changes',
  'take what changes at Stripe': 'select * from private.claim_stripe_changes(false)',
  'read what is unknown of Stripe': 'select from private.stripe_unknowns',
  'note what is unknown of Stripe': "select private.note_stripe_unknown('matrix', 'y', null)",
  'see what is unknown of Stripe': 'select count(*) from public.list_stripe_unknowns()',
  'close what is unknown of Stripe': `select public.handle_stripe_unknown(${unknown})`,

  'see chats': `select from public.chats where id = '${chat}'`,
  'start a chat': "insert into public.chats (title) values ('x')",
  'start a chat as the owner': `insert into public.chats (user_id) values ('${owner}')`,
  'rename a chat': `update public.chats set title = 'x' where id = '${chat}'`,
  'give a chat away': `update public.chats set user_id = auth.uid() where id = '${chat}'`,
  'delete a chat': `delete from public.chats where id = '${chat}'`,
  'see messages': `select from public.messages where chat_id = '${chat}'`,
  'save a message in the chat': `insert into public.messages (chat_id, role, content) values ('${chat}', 'user', 'x')`,
  'save a message as the owner': `
    insert into public.messages (chat_id, user_id, role, content) values ('${chat}', '${owner}', 'user', 'x')`,
  'change a message': `update public.messages set content = 'x' where chat_id = '${chat}'`,
  'see devices': `select from public.devices where user_id = '${owner}'`,
  'add a device': `insert into public.devices (user_id, device_id, name, type) values ('${owner}', 'x', 'x', 'web')`,
  'rename a device': `update public.devices set name = 'x' where user_id = '${owner}'`,
  'forget a device': `delete from public.devices where user_id = '${owner}'`,
  'register a device': "select public.register_device('mine', 'Mine', 'web')",
  'list the own sessions': 'select from public.list_my_sessions()',
  'end a session of the owner': `select public.revoke_my_session('${session}')`,
  'end the other sessions': 'select public.revoke_my_other_sessions()',
  'end all sessions of an account': `select public.revoke_all_sessions('${owner}')`,
  'make recovery codes': 'select public.create_recovery_codes()',
  'use a recovery code': "select public.use_recovery_code('0000-0000-0000-0000')",
  'count recovery codes': 'select public.count_my_recovery_codes()',
  'read recovery codes': 'select from private.recovery_codes',
  'ask whether the sign-in is recent': 'select public.has_recent_sign_in()',
  'read the links that undo changes': 'select from private.undo_links',
  'undo a change by a link': "select private.use_undo_link('')",
  'tell of a change': `select private.tell_of_change('${owner}', 'password_changed')`,
  'end sessions of anybody with keys': `select private.end_sessions('${owner}', '{}', 'all')`,
  'read who wants an account back': 'select from private.account_recoveries',
  'ask to take the account back': 'select public.request_account_recovery()',
  'finish to take the account back': 'select public.finish_account_recovery()',
  'stop that the account is taken back': 'select public.stop_account_recovery()',
  'read sessions': 'select from private.live_sessions',
  'read locks': 'select from private.sign_in_locks',
  'ask for claims like Auth': `select private.custom_access_token('{"user_id": "${owner}"}')`,
  'clear a lock like Auth': `
    select private.password_verification_attempt('{"user_id": "${owner}", "valid": true}')`,

  'delete a message': `delete from public.messages where chat_id = '${chat}'`,

  'see documents': `select from public.documents where id = '${document}'`,
  'write a document': "insert into public.documents (title) values ('x')",
  'write a document as the owner': `insert into public.documents (user_id) values ('${owner}')`,
  'change a document': `update public.documents set title = 'x' where id = '${document}'`,
  'give a document away': `update public.documents set user_id = auth.uid() where id = '${document}'`,
  'delete a document': `delete from public.documents where id = '${document}'`,
  'see images': `select from public.images where id = '${image}'`,
  'add an image without a file': `insert into public.images (id, user_id, path) values (gen_random_uuid(), '${owner}', 'x')`,
  'describe an image': `update public.images set description = 'x' where id = '${image}'`,
  'say that an image was checked': `update public.images set status = 'ok' where id = '${image}'`,
  'delete an image but its file': `delete from public.images where id = '${image}'`,
  'see files': `select from storage.objects where id = '${image}'`,
  'upload a file for the owner': `insert into storage.objects (bucket_id, name) values ('images', '${owner}/y.png')`,
  'upload an own file': "insert into storage.objects (bucket_id, name) select 'images', auth.uid() || '/y.png'",
  'move a file': `update storage.objects set name = '${owner}/z.png' where id = '${image}'`,
  'take a file': `update storage.objects set name = auth.uid() || '/z.png' where id = '${image}'`,
  'see buckets': "select from storage.buckets where id = 'images'",
  'open a bucket': "update storage.buckets set public = true where id = 'images'",
  'read uploads to check': 'select from private.uploads_to_check',
  'claim uploads to check': 'select private.claim_uploads_to_check(1)',

  'see questionnaires': "select from public.questionnaires where id = 'matrix'",
  'add a questionnaire':
    "insert into public.questionnaires (id, version, title, questions) values ('matrix', 2, 'x', '[]')",
  'change a questionnaire': "update public.questionnaires set title = 'x' where id = 'matrix'",
  'delete a questionnaire': "delete from public.questionnaires where id = 'matrix_2'",
  'see tests': `select from public.psychology_tests where id = '${run}'`,
  'start a test': "insert into public.psychology_tests (questionnaire_id, questionnaire_version) values ('matrix', 1)",
  'start a test as the owner': `
    insert into public.psychology_tests (user_id, questionnaire_id, questionnaire_version) values ('${owner}', 'matrix', 1)`,
  'answer a test': `update public.psychology_tests set answers = '{}' where id = '${run}'`,
  'give a test away': `update public.psychology_tests set user_id = auth.uid() where id = '${run}'`,
  'delete a test': `delete from public.psychology_tests where id = '${run}'`,
  'see the audit log': `select ip from public.audit_log where user_id = '${owner}'`,
  'see the audit log itself': `select hash from private.audit_log where user_id = '${owner}'`,
  'see the audit log in its partition': 'select from private.audit_log_default',
  'add to the audit log': `select private.audit('a.b', 'thing', '1', '${owner}')`,
  'change the audit log': `update private.audit_log set action = 'a.b' where user_id = '${owner}'`,
  'delete from the audit log': `delete from private.audit_log where user_id = '${owner}'`,
  'empty the audit log': 'truncate private.audit_log',
  'verify the audit log': 'select * from private.verify_audit_chain()',
  'read the ends of chains': 'select from private.audit_chain_heads',
  'read the list of archives': 'select from private.audit_archives',
  'see security events': `select from public.security_events where user_id = '${owner}'`,
  'add a security event': `insert into private.security_events (user_id, type) values ('${owner}', 'x')`,
  'raise a security event': `select private.raise_security_event('x', 'low', '${owner}')`,
  'change a security event': `update private.security_events set severity = 'low' where user_id = '${owner}'`,
  'delete a security event': `delete from private.security_events where user_id = '${owner}'`,
  'see notifications': `select from public.notifications where user_id = '${owner}'`,
  'add a notification': `insert into public.notifications (user_id, type, title, body) values ('${owner}', 'x', 'x', 'x')`,
  'notify by function': `select private.notify_user('${owner}', 'x', 'x', 'x')`,
  'mark a notification as read': `update public.notifications set read_at = now() where user_id = '${owner}'`,
  'rewrite a notification': `update public.notifications set body = 'x' where user_id = '${owner}'`,
  'delete a notification': `delete from public.notifications where user_id = '${owner}'`,
  'read the outbox': 'select from private.mails',
  'take mails from the outbox': 'select * from private.claim_mails()',
  'drop a month of the audit log': "select private.drop_archived_audit_month('2020-02-01')",
})

/** The columns of the behaviour table. */
const actors: [Actor, 'aal1' | 'aal2'][] = [
  ['owner', 'aal1'],
  ['other', 'aal1'],
  ['anon', 'aal1'],
  ['signed out', 'aal1'],
  ['suspended', 'aal1'],
  ['owner aal1', 'aal1'],
  ['anonymous', 'aal1'],
  ['admin', 'aal1'],
  ['admin', 'aal2'],
  ['service', 'aal1'],
]

/** What everybody gets, actor by actor and statement by statement; none leaves a trace for the next. */
async function tryAll(db: Db): Promise<Map<string, string>> {
  await db.sql.unsafe(scene(db.owner.id))
  const outcomes = new Map<string, string>()
  for (const [actor, aal] of actors) {
    await db.as(actor, { aal })
    for (const [name, statement] of Object.entries(statements(db.owner.id))) {
      const before = outcomes.get(name)
      const outcome = await db.outcome(db.sql.unsafe(statement))
      outcomes.set(name, before === undefined ? outcome : `${before} ${outcome}`)
    }
  }
  return outcomes
}

describe('every actor', () => {
  let outcomes = new Map<string, string>()
  beforeAll(async () => {
    outcomes = await withRollback(tryAll)
  })

  test.each(Object.entries(behaviour))('%s: %s', (name, expected) => {
    expect(outcomes.get(name)).toBe(expected.replaceAll(/ +/g, ' '))
  })

  test('every table and function of the API is tried', () => {
    const tried = Object.values(statements('')).join('\n')
    const api = [...Object.keys(relations), ...Object.keys(functions)]
    const names = api.filter((name) => name.startsWith('public.')).map((name) => name.replace(/\(.*/, ''))

    expect(names.filter((name) => !new RegExp(`${name}\\b`).test(tried))).toEqual([])
  })
})

// Pages ----------------------------------------------------------------------------------------------------------------

type Plan = { 'Shared Hit Blocks': number; 'Shared Read Blocks': number }

/** How many pages a statement reads once its functions have their plans; null when it is refused. What it does is undone. */
async function pagesOf(db: Db, statement: string): Promise<number | null> {
  const first = await pagesOnce(db, statement)
  if (first === null) return null
  return Math.min(first, (await pagesOnce(db, statement)) ?? first)
}

async function pagesOnce({ sql }: Db, statement: string): Promise<number | null> {
  await sql`savepoint pages`
  try {
    const [row] = await sql.unsafe(`explain (analyze, buffers, timing off, format json) ${statement}`)
    const plan: Plan = row?.['QUERY PLAN'][0].Plan
    return plan['Shared Hit Blocks'] + plan['Shared Read Blocks']
  } catch {
    return null
  } finally {
    await sql`rollback to savepoint pages`
  }
}

/** More accounts, each with a copy of whatever the owner has, but for what is unique. Without triggers and keys: it is only to be there. */
async function addOthers({ sql, owner }: Db, count: number): Promise<void> {
  await sql`set local session_replication_role = replica`
  await sql.unsafe(`
    create temporary table others on commit drop as select gen_random_uuid() as id from generate_series(1, ${count});
    insert into auth.users (id, email, email_confirmed_at, aud, role, created_at)
    select id, id || '@example.com', now(), 'authenticated', 'authenticated', now() from others;
    insert into public.profiles (id, status) select id, 'active' from others`)
  const tables = await sql<{ name: string; unique: string[] | null }[]>`
    select c.oid::regclass::text as name, array(
      select distinct a.attname || ' ' || a.atttypid::regtype from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
      where i.indrelid = c.oid and i.indisunique and u.attnum <> all (i.indkey) and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'bytea'::regtype, 'integer'::regtype)
        -- One of a list of words stays what it is.
        and not exists (
          select from pg_constraint k
          where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum] and pg_get_constraintdef(k.oid) like '%= ANY%')) as unique
    from pg_class c join pg_attribute u on u.attrelid = c.oid and u.attname = 'user_id'
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p') and not c.relispartition`
  for (const { name, unique } of tables) {
    const fresh = (unique ?? []).map((column) => {
      const [field = '', type] = column.split(' ')
      const value = {
        uuid: 'gen_random_uuid()',
        text: 'md5(random()::text)',
        integer: '(random() * 2000000000)::integer',
        bytea: "'\\x' || md5(random()::text) || md5(random()::text)",
      }
      return `, '${field}', ${value[type === 'uuid' || type === 'bytea' || type === 'integer' ? type : 'text']}`
    })
    await sql.unsafe(`
      insert into ${name} overriding system value
      select (jsonb_populate_record(null::${name}, to_jsonb(t) || jsonb_build_object('user_id', o.id ${fresh.join('')}))).*
      from (select * from ${name} t where t.user_id = '${owner.id}' limit 1) t cross join others o`)
    await sql.unsafe(`analyze ${name}`)
  }
  await sql.unsafe(
    'drop table others; analyze public.profiles; analyze auth.users; set local session_replication_role = origin',
  )
}

describe('what is read', () => {
  /** Every table and view of the API as whoever asks sees it, and every statement of the behaviour table. */
  const questions = (owner: string): [name: string, statement: string][] => [
    ...Object.entries(relations)
      .filter(([name, access]) => name.startsWith('public.') && /authenticated select/.test(access))
      .map(([name]): [string, string] => [`all of ${name}`, `select * from ${name}`]),
    ...Object.entries(statements(owner)),
  ]

  test('does not grow with what others have', async () => {
    const growth = await withRollback(async (db) => {
      await db.sql.unsafe(scene(db.owner.id))
      await db.sql.unsafe('set constraints all immediate; set constraints all deferred')
      const seen = new Map<string, (number | null)[]>()
      for (const others of [200, 2000]) {
        await db.as('postgres')
        await addOthers(db, others)
        for (const [actor, wanted] of [
          ['owner', /./],
          ['service', /^(?!all of|read |see )/],
        ] as const) {
          await db.as(actor)
          for (const [name, statement] of questions(db.owner.id))
            if (wanted.test(name)) {
              const key = `${actor}: ${name}`
              seen.set(key, [...(seen.get(key) ?? []), await pagesOf(db, statement)])
            }
        }
      }
      return [...seen]
    })

    const measured = growth.flatMap(([name, [few = null, many = null]]) =>
      few === null || many === null ? [] : [{ name, few, many }],
    )
    expect(measured.length).toBeGreaterThan(100)
    // An index of eleven times the rows may be a page deeper, and a change goes through several.
    expect(measured.filter(({ few, many }) => many > few * 1.25 + 20)).toEqual([])
  }, 300_000)

  test('with a deleted row is found by an index, wherever another table points to it', async () => {
    const missing = await withRollback(
      ({ sql }) => sql`
        select k.conrelid::regclass || ': ' || k.conname as key from pg_constraint k
        where k.contype = 'f' and k.conparentid = 0
          and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)
          and not exists (
            select from pg_index i
            where i.indrelid = k.conrelid
              and i.indkey[0] = any (k.conkey))`,
    )

    expect(missing.map(({ key }) => key)).toEqual([])
  })
})
