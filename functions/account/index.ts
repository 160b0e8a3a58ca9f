/** The Edge Function `account`: what the link in a mail about a change of an account opens. */
import { createAccountDatabase } from '../_shared/account/account-database.ts'
import { type AccountWorld, handleAccountRequest } from '../_shared/account/handle-account-request.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, variables } from '../_shared/env.ts'

const { SUPABASE_DB_URL, DB_CA_CERT } = variables
const env = readEnv({ SUPABASE_DB_URL, DB_CA_CERT }, (name) => Deno.env.get(name))

const world: AccountWorld = {
  database: createAccountDatabase(connectDatabase(env.SUPABASE_DB_URL, { ca: env.DB_CA_CERT })),
  now: Date.now,
  newId: () => crypto.randomUUID(),
  log: (line) => console.log(JSON.stringify(line)),
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleAccountRequest(request, world) }
