/** Postgres hooks, as the real Auth service calls them: one JSON in, one JSON out, two seconds. */
import type postgres from 'postgres'
import { z } from 'zod'
import { AuthProblem, unexpected } from './errors.ts'
import type { HookName } from './settings.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const timeoutMs = 2_000

const envelopeNames: Record<HookName, string> = {
  before_user_created: 'before-user-created',
  custom_access_token: 'customize-access-token',
  password_verification_attempt: 'password-verification',
  mfa_verification_attempt: 'mfa-verification',
}

const refusal = z.object({
  error: z.object({
    http_code: z.number().int().min(400).max(599).optional().catch(undefined),
    message: z.string().min(1),
  }),
})

type HookOutput = Record<string, unknown>

/**
 * What a hook says: null when it is not configured or answers NULL, otherwise its object. In the given transaction, or in
 * one of its own when `tx` is null, so that what it writes outlives the refusal. An error object becomes the refusal.
 */
export async function runHook(
  world: AuthWorld,
  tx: Db | null,
  name: HookName,
  input: Record<string, unknown>,
  call: Pick<AuthCall, 'address'>,
): Promise<HookOutput | null> {
  const hook = world.settings.hook[name]
  if (!hook) return null
  const metadata = {
    uuid: crypto.randomUUID(),
    time: world.now().toISOString(),
    name: envelopeNames[name],
    ip_address: call.address,
  }
  const payload = JSON.parse(JSON.stringify({ metadata, ...input }))
  const select = (connection: Db) => callFunction(connection, hook, payload)
  try {
    return readOutput(await (tx ? select(tx) : world.sql.begin(select)))
  } catch (error) {
    if (error instanceof AuthProblem) throw error
    world.log(`auth: hook ${hook.uri}: ${error instanceof Error ? error.message : error}`)
    const problem = unexpected(`Error running hook URI: ${hook.uri}`)
    problem.cause = error
    throw problem
  }
}

async function callFunction(
  tx: Db,
  hook: { schema: string; name: string },
  payload: postgres.JSONValue,
): Promise<unknown> {
  await tx.unsafe(`set local statement_timeout = '${timeoutMs}'`)
  // Not cast, so that the function may take json or jsonb.
  const [row] = await tx.unsafe(`select "${hook.schema}"."${hook.name}"($1) as output`, [payload])
  await tx.unsafe('set local statement_timeout to default')
  return row?.output ?? null
}

function readOutput(output: unknown): HookOutput | null {
  const refused = refusal.safeParse(output)
  if (refused.success) throw new AuthProblem(refused.data.error.http_code ?? 500, '', refused.data.error.message)
  if (output === null) return null
  return z.record(z.string(), z.unknown()).parse(output)
}
