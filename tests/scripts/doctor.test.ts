/** npm run doctor on a stack of the tests' own: nothing is wrong; then each planted fault is found, mended as it says, and gone. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportJWK, generateKeyPair } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Target } from '../../scripts/doctor/check.ts'
import { checks, diagnose, type Finding } from '../../scripts/doctor/diagnose.ts'
import { readTarget } from '../../scripts/doctor/target.ts'
import { root } from '../../stack/config.ts'
import { freeRange } from '../support/ports.ts'
import { runScript } from '../support/run-script.ts'

type Place = { env: NodeJS.ProcessEnv; data: string; child: ChildProcess }
const started: Partial<Place & { target: Target; sql: postgres.Sql; admin: postgres.Sql }> = {}
const get = <Name extends keyof typeof started>(name: Name): NonNullable<(typeof started)[Name]> => {
  const value = started[name]
  if (value === undefined) throw new Error(`There is no ${name}: the stack did not start.`)
  return value as NonNullable<(typeof started)[Name]>
}

/** A fault must be told by no other check than its own; of those that take a second or more only by its own. */
const slow = ['advisors', 'jobs-reach-functions']
const quick = checks.map(({ name }) => name).filter((name) => !slow.includes(name))
const wrongIn = (findings: Finding[]) => findings.filter(({ state }) => state === 'wrong')
const look = async (change: Partial<Target> = {}, only = quick) =>
  wrongIn(await diagnose({ ...get('target'), ...change }, { only }))
const namesOf = (found: Finding[]) => [...new Set(found.map(({ check }) => check))].sort()

beforeAll(async () => {
  const data = await mkdtemp(join(tmpdir(), 'palisade-doctor-'))
  const port = await freeRange(20_000)
  const place = { PALISADE_DATA: data, PALISADE_PORT: String(port) }
  const env = { ...process.env, ...place, PALISADE_AUTH_HASH_COST: '4', DB_URL: '', OPENROUTER_API_KEY: '' }
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], { cwd: root, env })
  Object.assign(started, { env, data, child })
  await new Promise<void>((resolve, reject) => {
    let output = ''
    const read = (chunk: Buffer) => {
      output += chunk
      if (output.includes('Palisade is ready')) resolve()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', () => reject(new Error(output)))
  })
  const target = await readTarget({}, env)
  const sql = postgres(target.dbUrl, { max: 1, onnotice: () => {} })
  const admin = postgres(target.superuserUrl ?? '', { max: 1, onnotice: () => {} })
  Object.assign(started, { target, sql, admin })
}, 240_000)

afterAll(async () => {
  await Promise.all([started.sql?.end(), started.admin?.end()])
  const { child, data } = started
  const exited = new Promise((resolve) => child?.once('exit', resolve))
  child?.kill('SIGTERM')
  await exited
  if (data) await rm(data, { recursive: true, force: true })
})

test('a healthy stack has nothing wrong, and every check that is skipped says why', async () => {
  const findings = await diagnose(get('target'))

  expect(wrongIn(findings)).toEqual([])
  expect(findings.map(({ check }) => check)).toEqual(checks.map(({ name }) => name))
  expect(findings.filter(({ what }) => what.length < 5)).toEqual([])
})

type Fault = {
  /** Statements of role postgres, or of a superuser; {month} is that of the last partition. */
  plant: string
  /** Whose checks find it; the first has what is said. */
  by: string[]
  says: RegExp
  superuser?: true
  /** Where no statement mends it, or a part of it. */
  undo?: string
}

const later = `to_char(date_trunc('month', now() at time zone 'UTC') + interval '2 months', 'YYYYMM')`
const mail = `insert into private.mails (user_id, type, subject, body, state, error)
  select id, 'doctor', 'Doctor', 'Doctor', 'dead', 'SMTP: EENVELOPE 550' from auth.users limit 1`
const tamper = (details: string) => `
  alter table private.audit_log disable trigger tg_audit_log__append_only;
  update private.audit_log set details = ${details} where id = (
    select id from private.audit_log where created_at >= date_trunc('month', now()) order by seq limit 1);
  alter table private.audit_log enable always trigger tg_audit_log__append_only`

const faults: Record<string, Fault> = {
  'a role of the API that no policy binds': {
    plant: 'alter role anon bypassrls',
    by: ['isolation'],
    says: /role anon is bypassrls/,
    superuser: true,
  },
  'a role of the API that became another': {
    plant: 'grant pg_signal_backend to authenticated',
    by: ['isolation'],
    says: /role authenticated is a member of pg_signal_backend/,
    superuser: true,
  },
  'users that everybody may read': {
    plant: 'grant select on auth.users to anon',
    by: ['isolation'],
    says: /anon has select on auth\.users/,
    superuser: true,
  },
  'files without row-level security': {
    plant: 'alter table storage.objects disable row level security',
    by: ['isolation'],
    says: /storage\.objects has no row-level security/,
    superuser: true,
  },
  'a guard of files that is switched off': {
    plant: 'alter table storage.objects disable trigger protect_objects_delete',
    by: ['isolation'],
    says: /trigger protect_objects_delete on storage\.objects is switched off/,
    superuser: true,
  },
  'a hook that Auth may not call': {
    plant: 'revoke execute on function private.custom_access_token(jsonb) from supabase_auth_admin',
    by: ['hooks'],
    says: /Auth may not call private\.custom_access_token/,
  },
  'a hook that raises': {
    plant: `create or replace function private.before_user_created(event jsonb) returns jsonb
      language plpgsql volatile security definer set search_path = '' as $$ begin raise exception 'no'; end $$`,
    by: ['hooks', 'drift'],
    says: /raises P0001/,
  },
  'a hook that answers nonsense': {
    plant: `create or replace function private.mfa_verification_attempt(event jsonb) returns jsonb
      language sql volatile security definer set search_path = '' as $$ select '{"decision": "perhaps"}'::jsonb $$`,
    by: ['hooks', 'drift'],
    says: /answers what Auth does not understand/,
  },
  'a hook that is gone': {
    plant: 'drop function private.password_verification_attempt(jsonb)',
    by: ['hooks', 'access', 'drift'],
    says: /is not there/,
  },
  'sign-ups that no hook saw': {
    plant: "update private.registrations set origin = 'unannounced'",
    by: ['hooks-enabled'],
    says: /none of \d+ sign-ups/,
    undo: "update private.registrations set origin = 'sign_up'",
  },
  'a job that is not scheduled': {
    plant: "select cron.unschedule('send-mails')",
    by: ['jobs-scheduled'],
    says: /job send-mails is not scheduled/,
  },
  'a job that is not active': {
    plant: "select cron.alter_job(jobid, active => false) from cron.job where jobname = 'expire-credits'",
    by: ['jobs-scheduled'],
    says: /job expire-credits is not active/,
  },
  'a job with another command': {
    plant: "select cron.alter_job(jobid, command => 'select 1') from cron.job where jobname = 'expire-credits'",
    by: ['jobs-scheduled'],
    says: /another command/,
  },
  'a job of another role': {
    plant: "update cron.job set username = 'supabase_auth_admin' where jobname = 'expire-credits'",
    superuser: true,
    by: ['jobs-scheduled'],
    says: /runs as supabase_auth_admin/,
    undo: "update cron.job set username = 'postgres' where jobname = 'expire-credits'",
  },
  'a job whose last run failed': {
    plant: `insert into cron.job_run_details (jobid, runid, database, username, command, status, return_message, start_time, end_time)
      select jobid, 900000000, database, username, command, 'failed', 'ERROR: no', now(), now() from cron.job where jobname = 'archive-audit'`,
    superuser: true,
    by: ['jobs-run'],
    says: /the last run of job archive-audit failed: ERROR: no/,
    undo: 'delete from cron.job_run_details where runid = 900000000',
  },
  'a wrong key for jobs': {
    plant: `select vault.update_secret(id, 'sb_secret_of_somebody_else') from vault.secrets where name = 'palisade_secret_key'`,
    by: ['jobs-reach-functions'],
    says: /does not take the key in Vault/,
    undo: `select vault.update_secret(id, '{secret}') from vault.secrets where name = 'palisade_secret_key'`,
  },
  'a wrong address for jobs': {
    plant: `update private.settings set value = '"http://127.0.0.1:9/functions/v1"' where key = 'jobs.functions_url'`,
    by: ['jobs-reach-functions'],
    says: /the database does not reach http:\/\/127\.0\.0\.1:9/,
  },
  'no address for jobs': {
    plant: `update private.settings set value = 'null' where key = 'jobs.functions_url'`,
    by: ['jobs-reach-functions'],
    says: /jobs\.functions_url is not set/,
  },
  'schema private in the Data API': {
    plant: `alter role authenticator set pgrst.db_schemas = 'public, private'`,
    superuser: true,
    by: ['exposed-schemas'],
    says: /expose schema private/,
  },
  'an extra grant to anon': {
    plant: 'grant insert on public.plans to anon',
    by: ['access'],
    says: /public\.plans is ".*anon insert/,
  },
  'a grant to everybody': {
    plant: 'grant select on private.settings to public',
    by: ['access'],
    says: /private\.settings is ".*anon select/,
  },
  'an extra grant of a column': {
    plant: 'grant update (role) on public.profiles to authenticated',
    by: ['access'],
    says: /public\.profiles is ".*update\([^)]*role/,
  },
  'a grant that is missing': {
    plant: 'revoke select on public.chats from authenticated',
    by: ['access'],
    says: /public\.chats is "table, rls forced; anon -; authenticated insert/,
  },
  'row-level security that is off': {
    plant: 'alter table public.chats disable row level security',
    by: ['access'],
    says: /public\.chats is "table, rls off/,
  },
  'a policy that is gone': {
    plant: 'drop policy "owners see their chats" on public.chats',
    by: ['drift', 'access'],
    says: /policy "owners see their chats" on public\.chats is missing/,
  },
  'a function that everybody may run': {
    plant:
      'grant execute on function private.change_credits(uuid, bigint, text, text, text, text, timestamptz) to public',
    by: ['access'],
    says: /PUBLIC anon/,
  },
  'a function that belongs to somebody else': {
    plant: 'alter function private.exact_share(numeric, numeric, numeric) owner to supabase_auth_admin',
    superuser: true,
    by: ['drift'],
    says: /owner of function private\.exact_share\(numeric,numeric,numeric\) differs/,
  },
  'a table that belongs to somebody else': {
    plant: 'alter table private.invites owner to supabase_auth_admin',
    superuser: true,
    by: ['drift'],
    says: /owner of table private\.invites differs/,
  },
  'a column that no migration made': {
    plant: 'alter table public.plans add column extra text',
    by: ['drift'],
    says: /column public\.plans\.extra is in no migration/,
  },
  'a column that is gone': {
    plant: 'alter table private.invites drop column label cascade',
    by: ['drift'],
    says: /column private\.invites\.label is missing/,
  },
  'an index that is gone': {
    plant: 'drop index private.mails_user_id_idx',
    by: ['drift'],
    says: /index private\.mails_user_id_idx is missing/,
  },
  'a trigger that is gone': {
    plant: 'drop trigger palisade_confirm_registration on auth.users',
    by: ['drift'],
    says: /trigger palisade_confirm_registration on auth\.users is missing/,
  },
  'a migration that is not noted': {
    plant:
      'delete from supabase_migrations.schema_migrations where version = (select max(version) from supabase_migrations.schema_migrations)',
    by: ['migrations'],
    says: /is not noted as applied, though all that it makes is there/,
  },
  'a migration of another version': {
    plant: "insert into supabase_migrations.schema_migrations (version) values ('20990101000000')",
    by: ['migrations'],
    says: /20990101000000 was applied and is not in supabase\/migrations/,
  },
  'an invalid index': {
    plant: "update pg_index set indisvalid = false where indexrelid = 'private.mails_user_id_idx'::regclass",
    superuser: true,
    by: ['invalid'],
    says: /index private\.mails_user_id_idx is invalid/,
  },
  'a constraint that was never validated': {
    plant: 'alter table public.chats add constraint doctor check (id is not null) not valid',
    by: ['invalid', 'drift'],
    says: /constraint doctor on public\.chats was never validated/,
    undo: 'alter table public.chats drop constraint if exists doctor',
  },
  'a partition that is missing': {
    plant: `do $$ begin execute 'drop table private.portfolio_snapshots_' || ${later}; end $$`,
    by: ['partitions'],
    says: /public\.portfolio_snapshots has no partition private\.portfolio_snapshots_\d{6}/,
  },
  'an extension that is missing': {
    plant: 'drop extension pg_net',
    by: ['extensions', 'jobs-reach-functions'],
    says: /extension pg_net is missing/,
  },
  'a gateway that is superuser': {
    plant: 'alter role palisade_gateway superuser',
    superuser: true,
    by: ['gateway-role', 'access'],
    says: /palisade_gateway is superuser/,
  },
  'a gateway that row-level security does not hold': {
    plant: 'alter role palisade_gateway bypassrls',
    superuser: true,
    by: ['gateway-role'],
    says: /palisade_gateway is bypassrls/,
  },
  'a gateway that may read': {
    plant: 'grant select on private.settings to palisade_gateway',
    by: ['gateway-role'],
    says: /palisade_gateway has select on table private\.settings/,
  },
  'a gateway that may act as another role': {
    plant: 'grant service_role to palisade_gateway',
    superuser: true,
    by: ['gateway-role'],
    says: /palisade_gateway is a member of service_role/,
  },
  'a gateway that waits for ever': {
    plant: 'alter role palisade_gateway reset statement_timeout',
    by: ['gateway-role'],
    says: /palisade_gateway has no statement_timeout/,
  },
  'a mail that was given up': {
    plant: mail,
    by: ['dead'],
    says: /1 mails were given up: SMTP: EENVELOPE 550/,
  },
  "an event of Stripe's that was given up": {
    plant: `insert into private.stripe_events (id, type, livemode, created_at, payload, state, finished_at, error)
      values ('evt_doctor', 'doctor', false, now(), '{}', 'dead', now(), 'timeout')`,
    by: ['dead'],
    says: /1 events of Stripe were given up: timeout/,
  },
  'a broken audit chain': {
    plant: tamper(`details || '{"doctor": 1}'`),
    by: ['ledgers'],
    says: /audit log, entry \d+ of this month: changed/,
    undo: tamper(`details - 'doctor'`),
  },
  'a balance that nobody booked': {
    plant: 'update private.accounts set balance = balance + 1',
    by: ['ledgers'],
    says: /is not the sum of its entries/,
    undo: 'update private.accounts set balance = balance - 1',
  },
  'a model without a price': {
    plant: `insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens) values ('doctor', 'demo', 'x', 1, 1);
      insert into public.plan_models values ('free', 'doctor')`,
    by: ['models'],
    says: /model doctor is offered and has no price/,
  },
  'a provider without a key': {
    plant: `insert into private.providers (id, base_url, api_key_secret) values ('doctor', 'http://127.0.0.1:9/v1', 'DOCTOR_KEY');
      insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens) values ('keyless', 'doctor', 'x', 1, 1);
      insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok) values ('keyless', '2026-01-01', 1, 1);
      insert into public.plan_models values ('free', 'keyless')`,
    by: ['provider-keys'],
    says: /provider doctor has no key: DOCTOR_KEY/,
    undo: "update private.providers set enabled = false where id = 'doctor'",
  },
  'no cap': {
    plant: `update private.settings set value = 'null' where key = 'ai.project_usd_per_month'`,
    by: ['caps'],
    says: /no cap for a month/,
  },
  'no rate for strangers': {
    plant: 'delete from private.rate_limits',
    by: ['caps'],
    says: /requests without a valid key have no rate limit/,
  },
  'a plan without a limit': {
    plant: "delete from public.plan_limits where plan_id = 'free' and meter = 'ai_spend_micros'",
    by: ['caps'],
    says: /plan free has no limit of ai_spend_micros\/month/,
    undo: "insert into public.plan_limits (plan_id, meter, period, amount) values ('free', 'ai_spend_micros', 'month', 5000000)",
  },
  'a price that Stripe does not have': {
    plant: "update private.stripe_prices set is_current = false where plan_price_id = 'premium_month'",
    by: ['stripe-prices'],
    says: /premium_month cannot be bought/,
    undo: "update private.stripe_prices set is_current = true where plan_price_id = 'premium_month'",
  },
}

const maxRounds = 3

/** Runs the statements that were printed, as role postgres, and as a superuser where it took one to plant the fault. */
async function mendAsPrinted(found: Finding[], sql: postgres.Sql): Promise<void> {
  for (const { mend } of found) if (mend?.kind === 'sql') await sql.unsafe(mend.text)
}

test.each(Object.entries(faults))('%s is found and can be mended', async (_name, fault) => {
  const { plant, by, says, superuser, undo } = fault
  const sql = superuser ? get('admin') : get('sql')
  const lookAgain = () => look({}, [...new Set([...quick, ...by])])
  await sql.unsafe(plant)
  try {
    const found = await lookAgain()

    expect(namesOf(found)).toEqual(by.toSorted())
    expect(found.find(({ check, what }) => check === by[0] && says.test(what))).toBeDefined()
    expect(found.filter(({ mend }) => !mend?.text)).toEqual([])
    if (undo === undefined) {
      let left = found
      for (let round = 0; round < maxRounds && left.length > 0; round += 1) {
        await mendAsPrinted(left, sql)
        left = await lookAgain()
      }
      expect(left).toEqual([])
    }
  } finally {
    if (undo !== undefined) await sql.unsafe(undo.replace('{secret}', get('target').secretKey ?? ''))
  }
  if (undo !== undefined) expect(await lookAgain()).toEqual([])
})

test('a gateway without a password is found', async () => {
  const admin = get('admin')
  const [before] = await admin`select rolpassword as verifier from pg_authid where rolname = 'palisade_gateway'`
  await admin`alter role palisade_gateway password null`

  expect(await look()).toMatchObject([{ check: 'gateway-role', what: 'palisade_gateway has no password' }])

  await admin.unsafe(`alter role palisade_gateway password '${before?.verifier}'`)
  expect(await look()).toEqual([])
})

const elsewhere: Record<
  string,
  [change: () => Promise<Partial<Target>> | Partial<Target>, check: string, says: RegExp]
> = {
  'a clock that is wrong': [
    () => ({ now: () => Date.now() - 60_000 }),
    'clocks',
    /clock of the database is 60\.\d s ahead/,
  ],
  'a webhook secret that is wrong': [
    () => ({ values: { ...get('target').values, STRIPE_WEBHOOK_SECRETS: 'whsec_of_another' } }),
    'stripe-webhook',
    /does not know the secret in STRIPE_WEBHOOK_SECRETS/,
  ],
  'a key of the other mode': [
    () => ({ values: { ...get('target').values, STRIPE_SECRET_KEY: 'sk_live_x' } }),
    'stripe-webhook',
    /key of the other mode/,
  ],
  'a mail server that refuses': [
    () => ({ values: { ...get('target').values, SMTP_URL: 'smtp://127.0.0.1:9' } }),
    'smtp',
    /the mail server does not take it: ESOCKET/,
  ],
  'keys of tokens that are not those of the functions': [
    async () => {
      const { privateKey } = await generateKeyPair('ES256', { extractable: true })
      return { signingKey: { ...(await exportJWK(privateKey)), kid: 'another' } }
    },
    'jwks',
    /the key that signs tokens is not among the public ones/,
  ],
  'an API key of another project': [() => ({ publishableKey: 'sb_publishable_of_another' }), 'api-keys', /answers 401/],
  'a site at home': [() => ({ kind: 'self-hosted' }), 'site-url', /links in mails lead to http:\/\/127\.0\.0\.1/],
  'an API without TLS': [() => ({ kind: 'self-hosted' }), 'api-tls', /without TLS/],
  'terms that are the example': [() => ({ kind: 'self-hosted' }), 'legal-documents', /are the example/],
  'a gateway that is not known': [() => ({ kind: 'self-hosted' }), 'pooler', /AI_DB_URL is not known here/],
  'a gateway that is role postgres': [
    () => ({ values: { AI_DB_URL: get('target').dbUrl } }),
    'pooler',
    /logs in as postgres, not as palisade_gateway/,
  ],
  'functions that are not there': [() => ({ apiUrl: 'http://127.0.0.1:9' }), 'functions', /does not answer/],
}

test.each(Object.entries(elsewhere))('%s is found', async (_name, [change, check, says]) => {
  const found = await look(await change(), [check])

  expect(namesOf(found)).toEqual([check])
  expect(found[0]?.what).toMatch(says)
  expect(found[0]?.mend?.text).toBeTruthy()
})

test('statements of the gateway end in time, by AI_DB_URL', async () => {
  const admin = get('admin')
  const [before] = await admin`select rolpassword as verifier from pg_authid where rolname = 'palisade_gateway'`
  await admin.unsafe(`alter role palisade_gateway password 'doctor'`)
  await admin.unsafe(`alter role palisade_gateway set statement_timeout = '300ms'`)
  const url = new URL(get('target').dbUrl)
  Object.assign(url, { username: 'palisade_gateway', password: 'doctor' })

  expect(await diagnose({ ...get('target'), values: { AI_DB_URL: url.href } }, { only: ['pooler'] })).toEqual([
    { check: 'pooler', state: 'ok', what: 'palisade_gateway, statements end after 0.3 s', mend: null },
  ])

  await admin.unsafe(`alter role palisade_gateway set statement_timeout = '4s'`)
  await admin.unsafe(`alter role palisade_gateway password '${before?.verifier}'`)
})

const command = (args: string[], env: NodeJS.ProcessEnv = {}) => runScript('doctor', args, { ...get('env'), ...env })

test('the command prints a line for each check, and ends with 0', async () => {
  const { code, stdout } = await command(['--only', 'version', '--only', 'site-url'])

  expect(stdout).toMatch(/^ok {4}version: PostgreSQL \d+\.\d+$/m)
  expect(stdout).toMatch(/^skip {2}site-url: /m)
  expect(stdout).toMatch(/Nothing is wrong\.$/m)
  expect(code).toBe(0)
})

test('something wrong is told with what mends it, and ends with 1; as JSON, too', async () => {
  const sql = get('sql')
  await sql`select cron.unschedule('send-mails')`

  const text = await command(['--only', 'jobs-scheduled'])
  const json = await command(['--only', 'jobs-scheduled', '--json'])

  expect(text).toMatchObject({ code: 1 })
  expect(text.stdout).toMatch(
    /^WRONG jobs-scheduled: job send-mails is not scheduled\n {6}SQL: select cron\.schedule\('send-mails'/m,
  )
  expect(json.code).toBe(1)
  const { findings, ...rest } = JSON.parse(json.stdout)
  expect(rest).toEqual({ target: get('target').name, kind: 'local' })
  expect(findings).toMatchObject([{ check: 'jobs-scheduled', state: 'wrong', mend: { kind: 'sql' } }])
  await sql.unsafe(findings[0].mend.text)
  expect(await command(['--only', 'jobs-scheduled'])).toMatchObject({ code: 0 })
})

test('--send-mail sends one', async () => {
  const { code } = await command(['--only', 'smtp', '--send-mail', 'doctor@example.com'])

  const mailbox = `http://127.0.0.1:${Number(get('env').PALISADE_PORT) + 3}`
  const found = await fetch(`${mailbox}/api/v1/search?query=to:doctor@example.com`)
  expect(code).toBe(0)
  expect(await found.json()).toMatchObject({ messages: [{ Subject: 'A test of Palisade' }] })
})

test('the page of the doctor has the table of its checks', async () => {
  const cells = (text: string) =>
    text
      .split('\n')
      .filter((line) => line.startsWith('| `'))
      .map((line) => line.split('|').map((cell) => cell.trim()))
  const page = await readFile(join(root, 'docs', 'doctor.md'), 'utf8')

  expect(cells(page)).toEqual(cells((await command(['--list'])).stdout))
})

test('no secret of the target is printed', async () => {
  const { target } = started
  const { output } = await command([])
  const secrets = [
    target?.secretKey,
    target?.dbUrl,
    ...['STRIPE_SECRET_KEY', 'STRIPE_WEBHOOK_SECRETS'].map((name) => target?.values[name]),
  ]

  expect(secrets.filter((secret) => !secret || output.includes(secret))).toEqual([])
})
