/** The Auth service of the local stack, for the gateway, which has checked key and token. */
import postgres from 'postgres'
import type { Caller } from '../gateway/callers.ts'
import { AuthProblem, invalid, renderAuthProblem, unexpected } from './errors.ts'
import { callerAddress, createRateLimits, unlimited } from './rate-limit.ts'
import { answer } from './routes.ts'
import type { AuthCall, AuthWorld } from './world.ts'

const bodyLimit = 1024 * 1024

export type AuthService = {
  fetch(request: Request, caller: Caller, address: string): Promise<Response>
  close(): Promise<void>
}

/** `dbUrl` is that of role supabase_auth_admin. */
export function createAuthService(
  parts: Omit<AuthWorld, 'sql' | 'now' | 'limits'> & { dbUrl: string; limited: boolean; now?: () => Date },
): AuthService {
  const { dbUrl, limited, now = () => new Date(), ...rest } = parts
  const sql = postgres(dbUrl, { max: 10, onnotice: () => {} })
  const limits = limited ? createRateLimits(rest.settings, now) : unlimited
  const sendMail: AuthWorld['sendMail'] = async (message) => {
    limits.admitMail()
    return rest.sendMail(message)
  }
  const world: AuthWorld = { ...rest, sql, now, limits, sendMail }
  return {
    async fetch(request, caller, address) {
      const apiVersion = request.headers.get('x-supabase-api-version')
      try {
        const call: AuthCall = {
          request,
          url: new URL(request.url),
          body: await readJson(request),
          caller,
          address: callerAddress(request, caller, address),
          userAgent: request.headers.get('user-agent'),
          apiVersion,
        }
        return await answer(world, call)
      } catch (error) {
        return renderAuthProblem(problemFor(world, request, error), apiVersion)
      }
    },
    close: () => sql.end({ timeout: 1 }),
  }
}

/** PostgreSQL keeps no NUL characters, in text (22021) or in jsonb (22P05). */
const isUnstorable = (error: unknown) =>
  error instanceof postgres.PostgresError && ['22021', '22P05'].includes(error.code)

function problemFor(world: AuthWorld, request: Request, error: unknown): AuthProblem {
  if (isUnstorable(error) || (error instanceof AuthProblem && isUnstorable(error.cause))) {
    return invalid('The request holds a character that cannot be stored')
  }
  if (error instanceof AuthProblem) return error
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
