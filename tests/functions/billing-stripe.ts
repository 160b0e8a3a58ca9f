/** A few answers of Stripe's over a real connection, so that the real client is under test; it remembers what was asked. */
import { once } from 'node:events'
import { serve } from '@hono/node-server'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { makeKey } from './billing-world.ts'

type Asked = { what: string; params: URLSearchParams; key: string | null; version: string | null }
type Answer = object | { error: object; status: number }
export type Answers = Record<string, (asked: Asked) => Answer>

export const failure = (status: number, error: object) => ({
  status,
  error: { type: 'invalid_request_error', ...error },
})
export const missing = (param: string) => failure(404, { code: 'resource_missing', param, message: 'No such thing' })
export const list = (data: object[], has_more = false) => ({ object: 'list', data, has_more, url: '/' })

/** `answers` has a function for each `METHOD /path`; what has none is missing. */
export async function startStripe(answers: Answers) {
  const asked: Asked[] = []
  const answer = async (request: Request): Promise<Response> => {
    const { pathname, search } = new URL(request.url)
    const what = `${request.method} ${pathname.replace(/^\/v1/, '')}`
    const params = new URLSearchParams(request.method === 'GET' ? search : await request.text())
    const { headers } = request
    const one = { what, params, key: headers.get('idempotency-key'), version: headers.get('stripe-version') }
    asked.push(one)
    const body = answers[what]?.(one) ?? missing('id')
    const status = 'error' in body && 'status' in body && typeof body.status === 'number' ? body.status : 200
    return Response.json(body, { status, headers: { 'stripe-should-retry': 'false' } })
  }
  const server = serve({ fetch: answer, port: 0, hostname: '127.0.0.1' })
  await once(server, 'listening')
  const address = server.address()
  const url = typeof address === 'object' && address ? `http://127.0.0.1:${address.port}` : ''
  return { stripe: createStripe(makeKey(), url), url, asked, answers, stop: () => server.close() }
}
