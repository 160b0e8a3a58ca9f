/** The way of every API request: key, failures on order, idempotency, parameters, the work, what is expanded, the answer. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Hono } from 'hono'
import Stripe from 'stripe'
import type { z } from 'zod'
import { listOf } from './lists.ts'
import { errorBody, invalid, Refusal } from './refusals.ts'
import type { Answer, Failure, State } from './state.ts'
import { newId } from './wire.ts'

type Method = 'GET' | 'POST' | 'DELETE'
type Input = { expand?: string[] | undefined }
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

type Fields = Record<string, unknown>
const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null

/** The `data` of lists counts. */
const deepest = 4
const tooDeep = (path: string) =>
  invalid(`Properties cannot be expanded deeper than ${deepest} levels: ${path}`, {
    code: 'property_expansion_max_depth',
    param: 'expand',
  })

/**
 * `expand[]`: puts objects where their ids stand, and adds the lists that are only shown when asked for. A copy of the
 * answer with what was asked for; what is stored stays as it is.
 */
function expanded(state: State, answer: unknown, paths: readonly string[]): unknown {
  if (paths.length === 0) return answer
  const copy = structuredClone(answer)
  for (const path of paths) {
    if (path.split('.').length > deepest) throw tooDeep(path)
    expandPath(state, copy, path.split('.'), path)
  }
  return copy
}

function expandPath(state: State, branch: unknown, [name, ...rest]: string[], path: string): void {
  if (name === undefined || branch === null || branch === undefined) return
  if (!isObject(branch)) throw notExpandable(path)
  if (name === 'data' && Array.isArray(branch.data)) {
    for (const item of branch.data) expandPath(state, item, rest, path)
    return
  }
  const value = name in branch ? branch[name] : hiddenList(state, branch, name, path)
  const object = typeof value === 'string' ? findById(state, value) : value
  if (typeof value === 'string' && object === undefined) throw notExpandable(path)
  branch[name] = typeof value === 'string' ? structuredClone(object) : object
  expandPath(state, branch[name], rest, path)
}

const notExpandable = (path: string) => invalid(`This property cannot be expanded (${path}).`, { param: 'expand' })

/** What Stripe leaves out until somebody asks. */
function hiddenList(state: State, { object, id }: Fields, name: string, path: string) {
  const all = <T extends object>(items: Iterable<T>, field: keyof T) =>
    structuredClone([...items].filter((item) => item[field] === id))
  switch (`${object}.${name}`) {
    case 'checkout.session.line_items':
      return listOf(`/v1/checkout/sessions/${id}/line_items`, structuredClone(state.sessionItems.get(String(id)) ?? []))
    case 'invoice.payments':
      return listOf('/v1/invoice_payments', structuredClone(paymentsOf(state, String(id))))
    case 'charge.refunds':
      return listOf(`/v1/charges/${id}/refunds`, all(state.refunds.values(), 'charge').reverse())
    case 'customer.subscriptions': {
      const live = [...state.subscriptions.values()].filter(({ status }) => status !== 'canceled')
      return listOf(`/v1/customers/${id}/subscriptions`, all(live, 'customer').reverse())
    }
    default:
      throw notExpandable(path)
  }
}

function paymentsOf(state: State, invoice: string) {
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(invoice) ?? '')
  return payment ? [payment] : []
}

function findById(state: State, id: string): unknown {
  const places: Record<string, Map<string, unknown>> = {
    cus: state.customers,
    prod: state.products,
    price: state.prices,
    cs: state.sessions,
    sub: state.subscriptions,
    in: state.invoices,
    inpay: state.invoicePayments,
    pi: state.intents,
    ch: state.charges,
    py: state.charges,
    re: state.refunds,
    du: state.disputes,
    evt: state.events,
  }
  // A product may have an id of its owner's choice.
  return places[id.split('_')[0] ?? '']?.get(id) ?? state.products.get(id)
}
