/** The Edge Function `ai`: an OpenAI API whose every call is admitted and settled in Postgres. */
import { askByFetch, askByKind, askByNode, namesProxy } from '../_shared/ai/ask-provider.ts'
import { createRoom } from '../_shared/ai/body-room.ts'
import { handleAiRequest } from '../_shared/ai/handle-ai-request.ts'
import { createLedger } from '../_shared/ai/ledger.ts'
import { gatherLines, writeLine } from '../_shared/ai/log-lines.ts'
import { createProviderKeys } from '../_shared/ai/provider-keys.ts'
import { createMarks, createPatience } from '../_shared/ai/watch-call.ts'
import { rememberBlocked } from '../_shared/ai/who-calls.ts'
import type { AiWorld } from '../_shared/ai/world.ts'
import { createUserTokenVerifier } from '../_shared/auth/verify-user-token.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, tokenVariables, variables } from '../_shared/env.ts'
import { createWheel } from '../_shared/wheel.ts'

const { SUPABASE_DB_URL, AI_DB_URL, DB_CA_CERT } = variables
const environment = (name: string) => Deno.env.get(name)
const env = readEnv({ ...tokenVariables, SUPABASE_DB_URL, AI_DB_URL, DB_CA_CERT }, environment)
/** And not in Supabase's Edge Runtime, which calls itself by another name. */
const runsInDeno = /^\d/.test(Deno.version.deno)
const wheel = createWheel()
const waitUntil = (work: Promise<unknown>) => EdgeRuntime.waitUntil(work)
// Elsewhere every call of console.log is an entry of its own, which is cut at some length.
const log = runsInDeno ? gatherLines(console.log, waitUntil) : writeLine(console.log)

if (!env.AI_DB_URL) {
  const message =
    'AI_DB_URL is not set, so the gateway has all rights of SUPABASE_DB_URL: set it to the role palisade_gateway'
  log({ level: 'warning', message })
}
const login = { isTimedByRole: env.AI_DB_URL !== undefined, usesArrays: false, ca: env.DB_CA_CERT }
const ledger = createLedger(connectDatabase(env.AI_DB_URL ?? env.SUPABASE_DB_URL, login))

const blocked: AiWorld['blocked'] = new Map()

const world: AiWorld = {
  ledger: { ...ledger, countAnonymous: rememberBlocked(ledger.countAnonymous, Date.now, blocked) },
  blocked,
  judgedKeys: new Map(),
  unreadable: new Map(),
  verifyUserToken: createUserTokenVerifier(env, { fetch, now: Date.now }),
  providerKey: createProviderKeys({ environment, providerSecret: ledger.providerSecret, now: Date.now }),
  lastWell: new Map(),
  lastAlarm: new Map(),
  ask: runsInDeno && !namesProxy(environment) ? askByKind(askByNode(), askByFetch(fetch)) : askByFetch(fetch),
  wheel,
  // A body is in memory several times over before it is sent, and a worker of Supabase's has 256 MB.
  room: createRoom(wheel, 24_000_000),
  marks: createMarks({ start: ledger.start, wheel, waitUntil, log }),
  waitUntil,
  sleep: (ms) => new Promise((done) => setTimeout(done, ms)),
  within: createPatience(wheel),
  now: Date.now,
  ticks: () => performance.now(),
  random: Math.random,
  newId: () => crypto.randomUUID(),
  log,
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleAiRequest(request, world) }
