/** AI calls as functions/ai makes them, by its own ledger: admitted, started, settled. */

import type { Asks } from '../../functions/_shared/ai/field-tables.ts'
import {
  type AdmissionRequest,
  createLedger,
  nothingUsed,
  type Outcome,
  type Usage as Used,
} from '../../functions/_shared/ai/ledger.ts'
import type { Contents } from '../../functions/_shared/ai/prompt-size.ts'
import type { Account, Sql, Tx } from './support.ts'

/** On every deployment; 1 credit a call, at most 16384 tokens an answer. */
export const baseModel = 'openai/gpt-4o-mini'

/** A model of the test's own: 2 credits a call, at most 500 tokens an answer, $0.30 in, $0.10 cached, $1.10 out. */
export async function newModel(tx: Tx, plan = 'free'): Promise<string> {
  await tx`
    insert into private.providers (id, base_url, api_key_secret, total_timeout_ms)
    values ('sql-test', 'https://provider.test/v1', 'SQL_TEST_KEY', 200000)`
  await tx`
    insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, credits_per_call, template_tokens)
    values ('sql/model', 'sql-test', 'upstream/model', 8000, 500, 2, 0)`
  await tx`
    insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok, cached_input_usd_per_mtok)
    values ('sql/model', '2026-01-01T00:00:00Z', 0.30, 1.10, 0.10)`
  await tx`insert into public.plan_models (plan_id, model_id) values (${plan}, 'sql/model')`
  return 'sql/model'
}

export type Signature = { id: string; timestamp: string; signatures: string[]; content: string }

export type Wish = Partial<{
  model: string
  prompt_tokens_max: number
  max_output_tokens: number | null
  choices: number
  images: number
  contents: Contents
  asks: Asks
  endpoint: string
  stream: boolean
  idempotency_key: string | null
  body_hash: string | null
  user_id: string
  session_id: string
  api_key_hash: string
  signature: Signature | null
  credential_id: string
}>

/** The answer of admission, as JSON. */
// biome-ignore format: one line says it
export type Admission = {
  admitted: boolean; call_id: string; code?: string; message?: string; details?: Record<string, unknown>
  credits_remaining?: number
  limits?: Record<string, unknown>[]; routes?: Route[]; replay?: { body: string; model: string }
}
type Route = {
  model: string
  upstream_model: string
  max_output_tokens: number
  provider: Record<string, unknown>
  api_key?: string
}

/** A ledger that knows nothing yet: each call asks for the configuration as it is. */
const ledgerOn = (sql: Sql | Tx) => createLedger(sql as Sql)

export const admit = async (sql: Sql | Tx, account: Account, wish: Wish = {}): Promise<Admission> =>
  // As the function answers, with nothing left out that a test may look at.
  (await ledgerOn(sql).admit(requestOf(account, wish))) as Admission

/** Calls that come together: in one statement, when `sql` is one connection. */
export async function admitAll(sql: Sql | Tx, wishes: Wish[]): Promise<Admission[]> {
  const ledger = ledgerOn(sql)
  const nobody = { id: '', sessionId: '' }
  return (await Promise.all(wishes.map((wish) => ledger.admit(requestOf(nobody, wish))))) as Admission[]
}

export function requestOf(account: Account, wish: Wish): AdmissionRequest {
  const { prompt_tokens_max = 100, ...given } = wish
  const request = {
    request_id: `req_${crypto.randomUUID()}`,
    user_id: account.id,
    session_id: account.sessionId,
    endpoint: 'chat.completions',
    model: 'sql/model',
    // Tokens as they are, to which no template adds.
    contents: { textBytes: 0, messages: 0, media: [], tokens: prompt_tokens_max },
    asks: {},
    fields: [],
    max_output_tokens: 50,
    choices: 1,
    images: 0,
    stream: true,
    request_bytes: 321,
    ip: '203.0.113.1',
    user_agent: 'test',
    ...given,
  }
  const { user_id, session_id, ...rest } = request
  const caller = wish.api_key_hash === undefined ? { user_id, session_id } : {}
  return { ...nothingSpecial, ...rest, ...caller } as AdmissionRequest
}

const nothingSpecial = { signature: null, idempotency_key: null, body_hash: null, credential_id: null }

export type Usage = Partial<Used>
export type Ending = {
  result?: string
  model?: string | null
  response?: string | null
  http_status?: number
  error_code?: string | null
  usage?: Usage | null
  usage_source?: string
  implausible?: string | null
  late?: Outcome['late']
}
export type Settlement = {
  settled: boolean
  cost_micros?: number
  credits_charged?: number
  credits_remaining?: number
}

/** Settles a call as functions/ai reports it: a success of 10 + 5 tokens when nothing else is said. */
export const settle = async (sql: Sql | Tx, callId: string, ending: Ending = {}): Promise<Settlement> =>
  (await settleAll(sql, [[callId, ending]]))[0] as Settlement

/** Calls that end together, in one statement. */
export async function settleAll(sql: Sql | Tx, endings: [string, Ending][]): Promise<Settlement[]> {
  const ledger = ledgerOn(sql)
  const ended = []
  for (const [callId, ending] of endings) ended.push({ call: await openCall(sql, callId), outcome: outcomeOf(ending) })
  return Promise.all(ended.map(({ call, outcome }) => ledger.settle(call, outcome)))
}

export function outcomeOf(ending: Ending): Outcome {
  const outcome = {
    result: 'succeeded',
    http_status: 200,
    error_code: null,
    usage: { prompt_tokens: 10, completion_tokens: 5, cached_tokens: 0, reasoning_tokens: 0, cost_usd: null },
    usage_source: 'provider',
    response_bytes: 999,
    duration_ms: 1234,
    first_token_ms: 56,
    attempts: 1,
    ...ending,
  }
  const { usage, ...rest } = outcome
  const used = usage && { ...nothingUsed, ...usage }
  return { model: null, response: null, implausible: null, late: null, ...rest, usage: used } as Outcome
}

/** What the function knows of a call that it has admitted. */
export async function openCall(sql: Sql | Tx, callId: string) {
  const [row] = await sql`
    select h.user_id, (
      select jsonb_agg(jsonb_build_object('model', r.model_id, 'price_ref', r.refs[1], 'steps', r.steps)) from (
        select p.model_id, array_agg(p.ref order by p.above_prompt_tokens) as refs, coalesce(jsonb_agg(jsonb_build_object(
          'price_ref', p.ref, 'above_prompt_tokens', p.above_prompt_tokens) order by p.above_prompt_tokens)
          filter (where p.above_prompt_tokens > 0), '[]') as steps
        from private.price_refs p where p.ref = h.price_ref or p.ref = any (h.fallback_refs) group by p.model_id) r) as routes
    from private.ai_holds h where h.call_id = ${callId}
    union all select c.user_id, '[]' from public.ai_calls c where c.id = ${callId}`
  return { call_id: callId, user_id: row?.user_id ?? crypto.randomUUID(), routes: row?.routes ?? [] }
}

/** What failed before anything was delivered. */
export const free: Ending = {
  result: 'failed',
  http_status: 502,
  error_code: 'provider_error',
  usage: null,
  usage_source: 'none',
}

/** A call as JSON, its bigints as numbers: what it holds while it runs (state held), its row in public.ai_calls when it has ended. */
export async function callOf(sql: Sql | Tx, callId: string): Promise<Record<string, unknown>> {
  const [row] = await sql`select call from (${calls(sql)}) c where c.id = ${callId}`
  return row?.call
}

export async function callsOf(sql: Sql | Tx, userId: string): Promise<Record<string, unknown>[]> {
  const rows = await sql`select call from (${calls(sql)}) c where c.user_id = ${userId} order by c.id`
  return rows.map((row) => row.call)
}

const calls = (sql: Sql | Tx) => sql`
  select c.id, c.user_id, to_jsonb(c) as call from public.ai_calls c
  union all
  select h.call_id, h.user_id, to_jsonb(h) || jsonb_build_object('id', h.call_id, 'state', 'held', 'hold_micros', h.micros,
    'hold_credits', h.credits, 'hold_prompt_tokens', h.prompt_tokens, 'hold_output_tokens', h.output_tokens)
    || (select jsonb_build_object('provider_id', p.provider_id, 'price_valid_from', p.valid_from) from private.price_refs p where p.ref = h.price_ref)
  from private.ai_holds h`

/** Amounts that calls took from the ledger. */
export async function chargesOf(sql: Sql | Tx, userId: string): Promise<number[]> {
  const rows = await sql`
    select amount::int from public.credit_entries where user_id = ${userId} and kind = 'ai_call' order by created_at`
  return rows.map((row) => row.amount)
}

/** Makes an open call one that nobody settled in time. */
export async function abandon(sql: Sql | Tx, callId: string): Promise<void> {
  await sql`update private.ai_holds set expires_at = now() - interval '1 second' where call_id = ${callId}`
}
