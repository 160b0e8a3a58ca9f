/** The Edge Function `ai`: an OpenAI API whose every call is admitted and settled in Postgres. */
import { z } from 'zod'
import { handleAiRequest } from '../_shared/ai/handle-ai-request.ts'
import { createLedger } from '../_shared/ai/ledger.ts'
import type { AiWorld } from '../_shared/ai/world.ts'
import { createUserTokenVerifier } from '../_shared/auth/verify-user-token.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, variables } from '../_shared/env.ts'

const { SUPABASE_URL, SUPABASE_DB_URL, SUPABASE_JWKS } = variables
const env = readEnv(z.object({ SUPABASE_URL, SUPABASE_DB_URL, SUPABASE_JWKS }), (name) => Deno.env.get(name))

const world: AiWorld = {
  ...createLedger(connectDatabase(env.SUPABASE_DB_URL)),
  verifyUserToken: createUserTokenVerifier({ url: env.SUPABASE_URL, jwks: env.SUPABASE_JWKS, now: Date.now }),
  // A row in the table of providers must not be able to send the project's own secrets to its address.
  providerKey: (name) => (name.startsWith('SUPABASE_') ? undefined : Deno.env.get(name)),
  fetch: (url, init) => fetch(url, init),
  waitUntil: (work) => EdgeRuntime.waitUntil(work),
  sleep: (ms) => new Promise((done) => setTimeout(done, ms)),
  now: Date.now,
  newId: () => crypto.randomUUID(),
  log: (line) => console.log(JSON.stringify(line)),
}

export default { fetch: (request: Request) => handleAiRequest(request, world) }
