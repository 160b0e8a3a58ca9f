/** The Auth service of the local stack, for the gateway, which has checked key and token. */
import postgres from 'postgres'
import type { Caller } from '../gateway/callers.ts'
import { AuthProblem, renderAuthProblem, unexpected } from './errors.ts'
import { answer } from './routes.ts'
import type { AuthCall, AuthWorld } from './world.ts'

const bodyLimit = 1024 * 1024

export type AuthService = {
  fetch(request: Request, caller: Caller, address: string): Promise<Response>
  close(): Promise<void>
}

/** `dbUrl` is that of role supabase_auth_admin. */
export function createAuthService(
  parts: Omit<AuthWorld, 'sql' | 'now'> & { dbUrl: string; now?: () => Date },
): AuthService {
  const { dbUrl, now = () => new Date(), ...rest } = parts
  const sql = postgres(dbUrl, { max: 10, onnotice: () => {} })
  const world: AuthWorld = { ...rest, sql, now }
  return {
    async fetch(request, caller, address) {
      const apiVersion = request.headers.get('x-supabase-api-version')
      try {
        const call: AuthCall = {
          request,
          url: new URL(request.url),
          body: await readJson(request),
          caller,
          address,
          userAgent: request.headers.get('user-agent'),
          apiVersion,
        }
        return await answer(world, call)
      } catch (error) {
        return renderAuthProblem(
          error instanceof AuthProblem ? error : unknownProblem(world, request, error),
          apiVersion,
        )
      }
    },
    close: () => sql.end({ timeout: 1 }),
  }
}

function unknownProblem(world: AuthWorld, request: Request, error: unknown): AuthProblem {
  world.log(
    `auth: ${request.method} ${new URL(request.url).pathname}: ${error instanceof Error ? error.message : error}`,
  )
  const problem = unexpected('Unexpected failure, please check server logs for more information')
  problem.cause = error
  return problem
}

async function readJson(request: Request): Promise<unknown> {
  const text = await readText(request)
  if (text.trim() === '') return {}
  try {
    const parsed: unknown = JSON.parse(text)
    return parsed ?? {}
  } catch {
    throw new AuthProblem(400, 'bad_json', 'Could not parse request body as JSON')
  }
}

async function readText(request: Request): Promise<string> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > bodyLimit) throw new AuthProblem(413, 'request_entity_too_large', 'Request body exceeds 1 MB')
    chunks.push(new Uint8Array(chunk))
  }
  return new Blob(chunks).text()
}
