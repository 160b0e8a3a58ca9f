/**
 * The least that a gateway in Deno with a ledger can do: reserve, ask the provider, settle, each in one durable statement. It
 * checks no token, no limit and no price; the user is a number in a header.
 */
import './end-with-parent.ts'
import process from 'node:process'
import postgres from 'postgres'

const [, , port, providerUrl, databaseUrl = ''] = process.argv
const sql = postgres(databaseUrl, { max: 16, onnotice: () => {} })

const reserve = (user: number) => sql`
  with account as (
    update bench.accounts set held = held + 1 where id = ${user} and balance - held >= 1 returning id)
  insert into bench.calls (account_id, state) select id, 'held' from account returning id`

const settle = (call: string) => sql`
  with call as (update bench.calls set state = 'settled' where id = ${call} and state = 'held' returning account_id)
  update bench.accounts a set held = a.held - 1, balance = a.balance - 1 from call where a.id = call.account_id`

/** Settles when the last byte has been read. */
async function* settledAtEnd(body: ReadableStream<Uint8Array>, call: string) {
  try {
    yield* body
  } finally {
    await settle(call)
  }
}

Deno.serve({ hostname: '127.0.0.1', port: Number(port), onListen: () => {} }, async (request) => {
  if (request.method === 'GET') return new Response('ok')
  const body = await request.text()
  const [call] = await reserve(Number(request.headers.get('x-bench-user')))
  if (!call) return new Response(null, { status: 402 })
  const headers = { 'content-type': 'application/json', 'accept-encoding': 'identity' }
  const answer = await fetch(`${providerUrl}/chat/completions`, {
    method: 'POST',
    headers,
    body,
    signal: request.signal,
  })
  const type = { 'content-type': answer.headers.get('content-type') ?? '' }
  if (answer.body && type['content-type'].startsWith('text/event-stream'))
    return new Response(ReadableStream.from(settledAtEnd(answer.body, call.id)), { headers: type })
  const text = await answer.text()
  await settle(call.id)
  return new Response(text, { status: answer.status, headers: type })
})
