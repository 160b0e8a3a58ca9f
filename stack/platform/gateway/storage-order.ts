/** What the real Storage service does in one transaction and with the database's own words, done around @supabase/lite. */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Claims } from './lite.ts'

export type Fetch = (request: Request, claims: Claims) => Response | Promise<Response>
type Connection = { normalizeDbError(error: unknown): unknown }

/**
 * lite tries the caller's rights, stores the bytes and then writes the row, each for itself: of two uploads to one place,
 * the refused one would leave its bytes. So writers take turns. Their bodies are read already; nobody waits for a client.
 */
export function oneAtATime(fetch: Fetch): Fetch {
  let last: Promise<unknown> = Promise.resolve()
  return (request, claims) => {
    if (request.method === 'GET' || request.method === 'HEAD') return fetch(request, claims)
    const answer = last.then(() => fetch(request, claims))
    last = answer.catch(() => {})
    return answer
  }
}

/** A refusal that a trigger words (SQLSTATE 42501) reaches the caller in its words; lite says "row-level security" to all. */
export function tellRefusals(connection: Connection, fetch: Fetch): Fetch {
  const refusals = new AsyncLocalStorage<{ text: string | null }>()
  const normalize = connection.normalizeDbError.bind(connection)
  connection.normalizeDbError = (error) => {
    const normalized = normalize(error)
    const found = refusals.getStore()
    if (found && normalized instanceof Error && Reflect.get(normalized, 'code') === '42501')
      found.text = normalized.message
    return normalized
  }
  return (request, claims) =>
    refusals.run({ text: null }, async () => {
      const answer = await fetch(request, claims)
      const text = refusals.getStore()?.text
      if (answer.ok || !text || text.includes('row-level security')) return answer
      return Response.json({ statusCode: '403', error: 'Unauthorized', message: text }, { status: answer.status })
    })
}
