/** A world for the AI endpoint: a ledger in memory, and the provider stand-in on a real loopback socket. */
import { once } from 'node:events'
import { serve } from '@hono/node-server'
import { z } from 'zod'
import { askByFetch, askByNode } from '../../functions/_shared/ai/ask-provider.ts'
import { createRoom } from '../../functions/_shared/ai/body-room.ts'
import { handleAiRequest } from '../../functions/_shared/ai/handle-ai-request.ts'
import type {
  Admission,
  AdmissionRequest,
  AttemptReport,
  Ledger,
  Outcome,
  Route,
} from '../../functions/_shared/ai/ledger.ts'
import { createMarks } from '../../functions/_shared/ai/watch-call.ts'
import type { AiWorld, LogLine } from '../../functions/_shared/ai/world.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { createWheel } from '../../functions/_shared/wheel.ts'
import { within } from '../../functions/_shared/within.ts'
import { createAiProvider } from '../../stack/doubles/ai-provider.ts'

export const messages = [{ role: 'user', content: 'hello brave new world' }]
const caller = {
  kind: 'user' as const,
  userId: crypto.randomUUID(),
  sessionId: crypto.randomUUID(),
  aal: 'aal1',
  isAnonymous: false,
}

export async function startProvider() {
  const server = serve({ fetch: createAiProvider().fetch, port: 0, hostname: '127.0.0.1' })
  await once(server, 'listening')
  const address = server.address()
  const url = typeof address === 'object' && address ? `http://127.0.0.1:${address.port}` : ''
  return { url, close: () => server.close() }
}

export function admittedTo(
  baseUrl: string,
  model: string,
  timeoutMs = 5_000,
  totalMs = 20_000,
): Extract<Admission, { admitted: true }> {
  const timeouts = {
    connect_timeout_ms: timeoutMs,
    first_byte_timeout_ms: timeoutMs,
    idle_timeout_ms: timeoutMs,
    total_timeout_ms: totalMs,
  }
  const limits = [
    {
      meter: 'ai_calls',
      period: 'day',
      amount: 100,
      remaining: 98,
      resets_at: new Date(Date.now() + 60_000).toISOString(),
    },
  ]
  return {
    admitted: true,
    call_id: crypto.randomUUID(),
    user_id: caller.userId,
    routes: [routeTo(baseUrl, model, timeouts)],
    credits_remaining: 90,
    limits,
    timeouts_charge: 'caller',
  }
}

const ampleMs = 5_000

/** One way to answer a call: our name of the model and the provider's are the same. */
export const routeTo = (baseUrl: string, model: string, timeouts: Partial<Route['provider']> = {}): Route => ({
  model,
  upstream_model: model,
  max_output_tokens: 500,
  context_tokens: 100_000,
  limit_field: 'max_tokens',
  open_fields: [],
  tokens_per_second: 50,
  media_tokens: 0,
  prompt_tokens_max: 10_000,
  price_ref: 1,
  steps: [],
  provider: {
    id: 'demo',
    base_url: baseUrl,
    api_key_secret: 'DEMO_KEY',
    connect_timeout_ms: ampleMs,
    first_byte_timeout_ms: ampleMs,
    idle_timeout_ms: ampleMs,
    total_timeout_ms: 4 * ampleMs,
    passes_unknown_fields: false,
    stops_when_left: true,
    ...timeouts,
  },
})

const body = z.looseObject({
  error: z.looseObject({ code: z.string(), message: z.string(), param: z.string().nullable() }).optional(),
  data: z.array(z.unknown()).optional(),
  usage: z.looseObject({}).optional(),
})
export const bodyOf = async (answer: Response) => body.parse(await answer.json())
export const codeOf = async (answer: Response) => (await bodyOf(answer)).error?.code

const calls = z.object({ calls: z.array(z.object({ aborted: z.boolean(), body: z.record(z.string(), z.unknown()) })) })

/** What the stand-in was asked by the `user` of this name. */
export const callsOf = async (providerUrl: string, tag: string) =>
  calls.parse(await (await fetch(`${providerUrl}/calls?tag=${tag}`)).json()).calls

/** Parts of the world, and of its ledger, that a test has otherwise. */
export type Changes = Partial<Omit<AiWorld, 'ledger'>> & {
  ledger?: Partial<Ledger>
  fetch?: Parameters<typeof askByFetch>[0]
}

/** Worlds with a `fetch` of their own go the other way, so that stories are told of both. */
const byNode = askByNode()

/** Records what reaches the ledger and the log. */
export function createWorld(providerUrl: string, changes: Changes = {}, timeoutMs = 5_000, totalMs = 20_000) {
  const seen = {
    admitted: [] as AdmissionRequest[],
    marked: [] as string[],
    outcomes: [] as Outcome[],
    reports: [] as AttemptReport[],
    signatureFailures: [] as string[],
    alarms: [] as string[],
    log: [] as LogLine[],
    anonymous: [] as string[],
  }
  const background: Promise<unknown>[] = []
  const ledger: Ledger = {
    admit: async (request) => {
      seen.admitted.push(request)
      return admittedTo(`${providerUrl}/v1`, request.model, timeoutMs, totalMs)
    },
    start: async (callIds) => void seen.marked.push(...callIds),
    settle: async (_callId, outcome) => {
      seen.outcomes.push(outcome)
      return { settled: true, cost_micros: 1, credits_charged: 1, credits_remaining: 89 }
    },
    listModels: async () => ({
      allowed: true,
      user_id: caller.userId,
      models: [{ id: 'demo/echo', owned_by: 'demo', created: 0, kind: 'chat' }],
    }),
    reportAttempts: async (reports) => void seen.reports.push(...reports),
    reportAlarm: async (provider, event) => void seen.alarms.push(`${provider} ${event}`),
    reportSignatureFailure: async (keyHash) => {
      seen.signatureFailures.push(keyHash)
    },
    countAnonymous: async (ip) => {
      seen.anonymous.push(ip)
      return { allowed: true }
    },
    providerSecret: async () => null,
    takingMedia: async () => new Set(),
    prepare: () => {},
  }
  const wheel = createWheel()
  const start = (callIds: string[]) => world.ledger.start(callIds)
  const world: Omit<AiWorld, 'marks'> = {
    verifyUserToken: async (token) => {
      if (token !== 'good') throw new AppError('invalid_api_key')
      return caller
    },
    lastWell: new Map(),
    lastAlarm: new Map(),
    judgedKeys: new Map(),
    unreadable: new Map(),
    blocked: new Map(),
    providerKey: async (name) => (name === 'DEMO_KEY' ? 'sk-demo' : undefined),
    ask: changes.fetch ? askByFetch(changes.fetch) : byNode,
    wheel,
    room: createRoom(wheel, 24_000_000),
    waitUntil: (work) => void background.push(work),
    sleep: () => new Promise((done) => setTimeout(done, 1)),
    // Nobody waits long for a settlement that is not needed for the answer.
    within: (ms, work) => within(ms === 1_500 ? 1 : ms, work),
    now: Date.now,
    ticks: () => performance.now(),
    random: Math.random,
    newId: () => crypto.randomUUID(),
    log: (line) => void seen.log.push(line),
    ...changes,
    ledger: { ...ledger, ...changes.ledger },
  }
  const whole: AiWorld = { ...world, marks: createMarks({ ...world, start }) }
  const send = (path: string, init: RequestInit = {}) =>
    handleAiRequest(
      new Request(`http://functions/ai/v1${path}`, { headers: { authorization: 'Bearer good' }, ...init }),
      whole,
    )
  const chat = (body: unknown, init: RequestInit = {}) =>
    send('/chat/completions', { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), ...init })
  return { world: whole, seen, send, chat, background }
}
