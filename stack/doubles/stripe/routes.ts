/** The way of every API request: key, failures on order, idempotency, parameters, the work, what is expanded, the answer. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Hono } from 'hono'
import Stripe from 'stripe'
import type { z } from 'zod'
import { expanded } from './expand.ts'
import { errorBody, invalid, Refusal } from './refusals.ts'
import type { Answer, Failure, State } from './state.ts'
import { newId } from './wire.ts'

type Method = 'GET' | 'POST' | 'DELETE'
type Input = { expand?: string[] | undefined }
/** Declares an address: its parameters, and what to do with them and with the ids in the path, `:id` and `:sub`. */
export type Route = <T extends Input>(
  method: Method,
  path: string,
  params: z.ZodType<T>,
  act: (input: T, id: string, sub: string) => unknown,
) => void

export function apiRoutes(app: Hono, state: State): Route {
  return (method, path, params, act) =>
    app.on(method, path, async (c) => {
      const requestId = newId('req', 14)
      const query = new URL(c.req.url).search.slice(1)
      const form = method === 'GET' ? query : [await c.req.text(), query].filter(Boolean).join('&')
      const key = method === 'POST' ? c.req.header('idempotency-key') : undefined
      const call = { method, path: c.req.path, key: key ?? null, requestId }
      const { status, text, replayed } = await answer(state, c, call, (failure) => {
        const input = parse(params, form)
        const run = () =>
          perform(state, input, (given) => act(given, c.req.param('id') ?? '', c.req.param('sub') ?? ''), failure)
        return key === undefined
          ? later(state, run)
          : once(state, key, digest(`${method} ${c.req.path}\n${form}`), () => later(state, run))
      })
      const headers = {
        'content-type': 'application/json',
        'request-id': requestId,
        'stripe-version': c.req.header('stripe-version') ?? Stripe.API_VERSION,
        ...(key === undefined ? {} : { 'idempotency-key': key }),
        ...(replayed ? { 'idempotent-replayed': 'true' } : {}),
      }
      return new Response(text, { status, headers })
    })
}

type Call = { method: Method; path: string; key: string | null; requestId: string }

type Work = (failure: Failure | undefined) => Promise<Answer>

/** Asks for the key, fails when it is told to, and turns refusals into answers. */
async function answer(state: State, c: Context, call: Call, work: Work): Promise<Answer> {
  try {
    authenticate(state, c.req.header('authorization'))
    const failure = state.failures.find(({ left, path_prefix }) => left > 0 && call.path.startsWith(path_prefix))
    if (failure) failure.left -= 1
    if (failure && !failure.after && !failure.saved) throw toldToFail(failure)
    const done = await named(state, call, async () => work(failure))
    if (failure && !failure.saved) throw toldToFail(failure)
    return done
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    return { status: error.status, text: JSON.stringify(errorBody(error)) }
  }
}

const toldToFail = ({ status }: Failure) => new Refusal(status, 'It was told to fail.', failureTypes(status))
const failureTypes = (status: number) =>
  status === 429 ? { type: 'rate_limit_error' as const, code: 'rate_limit' } : { type: 'api_error' as const }

function authenticate(state: State, header = ''): void {
  const [scheme, given = ''] = header.split(' ')
  const key = scheme === 'Basic' ? Buffer.from(given, 'base64').toString().replace(/:$/, '') : given
  if (key === '') throw new Refusal(401, 'You did not provide an API key.')
  const [a, b] = [digestBytes(key), digestBytes(state.secretKey)]
  if (!timingSafeEqual(a, b)) throw new Refusal(401, `Invalid API Key provided: …${key.slice(-4)}`)
}

const digestBytes = (value: string) => createHash('sha256').update(value).digest()
const digest = (value: string) => digestBytes(value).toString('hex')

/** Waits first when it is told to be slow; what is done then is done in one go. */
async function later(state: State, run: () => Answer): Promise<Answer> {
  if (state.slow_ms > 0) await sleep(state.slow_ms, undefined, { ref: false })
  return run()
}

async function named(state: State, call: Call, work: () => Promise<Answer>): Promise<Answer> {
  const request = { id: call.requestId, idempotency_key: call.key }
  state.request = request
  try {
    return await work()
  } finally {
    if (state.request === request) state.request = undefined
  }
}

/** What is refused here did not begin: its idempotency key stays free. */
function parse<T>(params: z.ZodType<T>, form: string): T {
  const { data, error } = params.safeParse(parseForm(form))
  if (error) throw badParameter(error)
  return data
}

function perform<T extends Input>(
  state: State,
  input: T,
  act: (input: T) => unknown,
  failure: Failure | undefined,
): Answer {
  const isDone = !failure?.saved || failure.after
  const result = isDone ? act(input) : undefined
  if (failure?.saved) throw toldToFail(failure)
  return { status: 200, text: JSON.stringify(expanded(state, result, input.expand ?? [])) }
}

/** Names one parameter, as Stripe does; an unknown one is refused, so nothing is ignored in silence. */
function badParameter(error: z.ZodError): Refusal {
  const [issue] = error.issues
  const unknown = issue?.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : []
  const [first = '', ...rest] = [...(issue?.path ?? []), ...unknown].map(String)
  const param = first + rest.map((part) => `[${part}]`).join('')
  if (unknown.length > 0) return invalid(`Received unknown parameter: ${param}`, { code: 'parameter_unknown', param })
  const isMissing = issue?.code === 'invalid_type' && issue.message.includes('undefined')
  if (isMissing) return invalid(`Missing required param: ${param}.`, { code: 'parameter_missing', param })
  return invalid(`Invalid ${param}: ${issue?.message ?? ''}`, { param })
}

const answersKept = 50_000

/**
 * The same request again gets the first one's answer, another request under the same key is refused. Keeps the answer of
 * whatever began to run, refusals and failures too, as Stripe does for a day.
 */
async function once(state: State, key: string, digest: string, run: () => Promise<Answer>): Promise<Answer> {
  const { answers } = state
  const known = answers.get(key)
  if (known && known.digest !== digest)
    throw new Refusal(400, `The idempotency key ${key} was used for another request before.`, {
      type: 'idempotency_error',
    })
  if (known?.answer) return { ...known.answer, replayed: true }
  if (known)
    throw new Refusal(409, `A request with the idempotency key ${key} is still running.`, {
      type: 'idempotency_error',
      code: 'idempotency_key_in_use',
    })
  const entry: { digest: string; answer: Answer | undefined } = { digest, answer: undefined }
  answers.set(key, entry)
  if (answers.size > answersKept)
    for (const oldest of [...answers.keys()].slice(0, answersKept / 2)) answers.delete(oldest)
  try {
    entry.answer = await run()
  } catch (error) {
    if (!(error instanceof Refusal)) {
      answers.delete(key)
      throw error
    }
    entry.answer = { status: error.status, text: JSON.stringify(errorBody(error)) }
  }
  return entry.answer
}

type FormValue = string | FormValue[] | { [name: string]: FormValue }
type Branch = { [name: string]: FormValue }

const fresh = (): Branch => Object.create(null)
const isBranch = (value: FormValue | undefined): value is Branch => typeof value === 'object' && !Array.isArray(value)

/** Bodies and queries with brackets, as Stripe's clients write them: `items[0][price]=…`, `expand[]=…`. */
function parseForm(text: string): Branch {
  const form = fresh()
  for (const [name, value] of new URLSearchParams(text)) {
    const [first = '', ...rest] = name.split('[').map((part) => part.replace(/\]$/, ''))
    put(form, [first, ...rest], value)
  }
  return withLists(form)
}

/** Lists grow as branches with numbers for names, since a client may write them in any order. */
function put(branch: Branch, path: string[], value: string): void {
  const [name = '', ...rest] = path
  const key = name === '' ? String(Object.keys(branch).length) : name
  if (rest.length === 0) {
    branch[key] = value
    return
  }
  const existing = branch[key]
  const next = isBranch(existing) ? existing : fresh()
  branch[key] = next
  put(next, rest, value)
}

function withLists(branch: Branch): Branch {
  for (const [name, value] of Object.entries(branch)) {
    if (!isBranch(value)) continue
    const inner = withLists(value)
    branch[name] = Object.keys(inner).every((key) => /^\d+$/.test(key)) ? Object.values(inner) : inner
  }
  return branch
}
