/** The Edge Function `portfolio`: users' portfolios, read from their exchanges when they ask. */
import { createUserTokenVerifier } from '../_shared/auth/verify-user-token.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, tokenVariables, variables } from '../_shared/env.ts'
import { connectExchange } from '../_shared/exchanges/connect.ts'
import { handlePortfolioRequest, type PortfolioEndpointWorld } from '../_shared/portfolio/handle-portfolio-request.ts'
import { createPortfolioDatabase } from '../_shared/portfolio/portfolio-database.ts'

const { SUPABASE_DB_URL, DB_CA_CERT } = variables
const EXCHANGES_GAP_MS = variables.EXCHANGES_GAP_MS.optional()
const env = readEnv({ ...tokenVariables, SUPABASE_DB_URL, DB_CA_CERT, EXCHANGES_GAP_MS }, (name) => Deno.env.get(name))
// A trade that comes late has everything after it counted anew.
const sql = connectDatabase(env.SUPABASE_DB_URL, { statementTimeoutMs: 20_000, ca: env.DB_CA_CERT })

const world: PortfolioEndpointWorld = {
  verifyUserToken: createUserTokenVerifier(env, { fetch, now: Date.now }),
  database: createPortfolioDatabase(sql),
  connect: (access) => connectExchange(access, { fetch, now: Date.now, gapMs: env.EXCHANGES_GAP_MS }),
  now: Date.now,
  log: (line) => console.log(JSON.stringify(line)),
  newId: () => crypto.randomUUID(),
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handlePortfolioRequest(request, world) }
