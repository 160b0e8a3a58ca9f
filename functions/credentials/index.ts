/** The Edge Function `credentials`: users' own keys, tested and then sealed in Postgres. */
import { createUserTokenVerifier } from '../_shared/auth/verify-user-token.ts'
import { createCredentialDatabase } from '../_shared/credentials/credential-database.ts'
import { type CredentialsWorld, handleCredentialsRequest } from '../_shared/credentials/handle-credentials-request.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, tokenVariables, variables } from '../_shared/env.ts'

const { SUPABASE_DB_URL, DB_CA_CERT } = variables
const EXCHANGES_GAP_MS = variables.EXCHANGES_GAP_MS.optional()
const env = readEnv({ ...tokenVariables, SUPABASE_DB_URL, DB_CA_CERT, EXCHANGES_GAP_MS }, (name) => Deno.env.get(name))

const world: CredentialsWorld = {
  verifyUserToken: createUserTokenVerifier(env, { fetch, now: Date.now }),
  database: createCredentialDatabase(connectDatabase(env.SUPABASE_DB_URL, { ca: env.DB_CA_CERT })),
  fetch,
  now: Date.now,
  gapMs: env.EXCHANGES_GAP_MS,
  newId: () => crypto.randomUUID(),
  log: (line) => console.log(JSON.stringify(line)),
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleCredentialsRequest(request, world) }
