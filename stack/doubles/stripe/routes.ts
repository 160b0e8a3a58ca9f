/** The way of every API request: key, failures on order, idempotency, parameters, the work, what is expanded, the answer. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Hono } from 'hono'
import Stripe from 'stripe'
import type { z } from 'zod'
import { expanded } from './expand.ts'
import { parseForm } from './form.ts'
import { once } from './idempotency.ts'
import { newId } from './ids.ts'
import { errorBody, invalid, Refusal } from './refusals.ts'
import type { Failure, State } from './state.ts'

type Method = 'GET' | 'POST' | 'DELETE'
type Input = { expand?: string[] | undefined }
/** Written out at once: what is stored may change before the answer is sent, or sent again. */
export type Answer = { status: number; text: string; replayed?: boolean }
/** Declares an address: its parameters, and what to do with them and with the id in the path. */
export type Route = <T extends Input>(
  method: Method,
  path: string,
  params: z.ZodType<T>,
  act: (input: T, id: string) => unknown,
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
        const run = () => perform(state, input, (given) => act(given, c.req.param('id') ?? ''), failure)
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
