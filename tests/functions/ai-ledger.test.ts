/** The gateway's way to Postgres, many calls at a time: what SQL decides reaches the call it was decided for. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  type AdmissionRequest,
  createLedger,
  type Ledger,
  nothingUsed,
  type Outcome,
} from '../../functions/_shared/ai/ledger.ts'
import { connectDatabase } from '../../functions/_shared/db.ts'
import { type Account, connect, newAccount, type Sql } from '../sql/support.ts'
import { target } from '../target.ts'

const model = `ledger/${crypto.randomUUID()}`
const nobody = { id: crypto.randomUUID(), sessionId: crypto.randomUUID() }
let sql: Sql
let pool: ReturnType<typeof connectDatabase>
let ledger: Ledger
beforeAll(async () => {
  sql = connect()
  pool = connectDatabase(target().dbUrl)
  ledger = createLedger(pool)
  await sql`insert into private.providers (id, base_url) values ('ledger-test', 'http://127.0.0.1:9/v1')`
  await sql`
    insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens)
    values (${model}, 'ledger-test', 'x', 8000, 500)`
  await sql`insert into public.model_prices (model_id, input_usd_per_mtok, output_usd_per_mtok) values (${model}, 1, 1)`
  await sql`insert into public.plan_models (plan_id, model_id) values ('free', ${model})`
})
afterAll(async () => {
  await sql`update private.providers set enabled = false where id = 'ledger-test'`
  await Promise.all([sql.end(), pool.end()])
})

const asking = ({ id, sessionId }: Account, over: Partial<AdmissionRequest> = {}): AdmissionRequest => ({
  request_id: crypto.randomUUID(),
  user_id: id,
  session_id: sessionId,
  ip: '203.0.113.1',
  endpoint: 'chat.completions',
  model,
  contents: { textBytes: 10, messages: 0, media: [], tokens: 0 },
  asks: {},
  fields: [],
  max_output_tokens: 10,
  choices: 1,
  images: 0,
  stream: false,
  request_bytes: 100,
  user_agent: null,
  idempotency_key: null,
  body_hash: null,
  credential_id: null,
  ...over,
})

const wellDone = (prompt_tokens: number): Outcome => ({
  result: 'succeeded',
  http_status: 200,
  error_code: null,
  usage: { ...nothingUsed, prompt_tokens },
  usage_source: 'provider',
  implausible: null,
  late: null,
  response_bytes: 1,
  duration_ms: 1,
  first_token_ms: null,
  attempts: 1,
  model,
  response: null,
})

test('forty admissions at once: every caller gets the decision about their own call', async () => {
  const account = await newAccount(sql)
  const callers = Array.from({ length: 40 }, (_, at) => (at % 5 === 0 ? account : nobody))

  const answers = await Promise.all(callers.map((caller) => ledger.admit(asking(caller))))

  expect(answers.map(({ admitted }) => admitted)).toEqual(callers.map((caller) => caller === account))
  const calls = answers.filter((answer) => answer.admitted)
  await ledger.start(calls.map(({ call_id }) => call_id))
  const settled = await Promise.all(calls.map((call, at) => ledger.settle(call, wellDone(at + 1))))
  expect(settled.map(({ cost_micros }) => cost_micros)).toEqual(calls.map((_, at) => at + 1))
  for (const call of calls.slice(0, 1)) expect(await ledger.settle(call, wellDone(9))).toEqual({ settled: false })
})

test('a settlement that SQL cannot understand does not keep the others of its batch from their own', async () => {
  const account = await newAccount(sql)
  const answers = await Promise.all(Array.from({ length: 6 }, () => ledger.admit(asking(account))))
  const calls = answers.filter((answer) => answer.admitted)

  const all = await Promise.allSettled([
    ...calls.map((call) => ledger.settle(call, wellDone(1))),
    ...calls.map((call) => ledger.settle({ ...call, call_id: crypto.randomUUID() }, wellDone(1))),
  ])

  expect(all.map(({ status }) => status)).toEqual([...Array(6).fill('fulfilled'), ...Array(6).fill('rejected')])
})

test('the rarer questions are understood, too', async () => {
  const account = await newAccount(sql)
  const caller = { user_id: account.id, session_id: account.sessionId, ip: null }

  expect(await ledger.listModels(caller)).toMatchObject({ allowed: true, user_id: account.id })
  expect(await ledger.providerSecret('NO_SUCH_SECRET')).toBeNull()
  expect(await ledger.countAnonymous('203.0.113.77', 'ai')).toMatchObject({ allowed: true })
  await ledger.reportAttempts([{ provider: 'ledger-test', model, user_id: account.id, ok: true, error_code: null }])
})
