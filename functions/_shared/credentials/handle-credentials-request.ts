/** The credentials endpoint without its environment: add a key, test it, put another in its place, rename it, delete it. */
import { z } from 'zod'
import { type Asker, requireUserToken } from '../auth/identify-caller.ts'
import type { VerifyUserToken } from '../auth/verify-user-token.ts'
import { AppError } from '../errors.ts'
import { type Answer, answerUserCall } from '../http/answer-user-call.ts'
import { readJson } from '../http/read-body.ts'
import type { Secrets } from '../open-credential.ts'
import type { CredentialDatabase, Place, Target } from './credential-database.ts'
import { type KeyTest, requireFields, testKey } from './test-key.ts'

export type CredentialsWorld = {
  database: CredentialDatabase
  verifyUserToken: VerifyUserToken
  fetch: typeof fetch
  /** Between two calls to a stand-in exchange: see connectExchange. */
  gapMs?: number | undefined
  /** Epoch milliseconds. */
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}

/** What goes into a header: nothing that could end it, because the runtime's error about that repeats the value. */
const headerValue = z
  .string()
  .min(1)
  .max(4_000)
  .regex(/^[\x21-\x7e]+$/)
/** Secrets that sign may have spaces, and those in PEM have line ends. */
const secret = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .regex(/^[\x20-\x7e\r\n]+$/)

const secretFields = {
  api_key: headerValue,
  api_secret: secret(4_000).optional(),
  passphrase: secret(200).optional(),
}
const givenName = z.string().trim().min(1).max(100)

const whose = z.string().min(1).max(80).optional()
/** A key of an exchange or of an AI provider, whichever is named. */
const newCredential = z
  .strictObject({ exchange: whose, provider: whose, name: givenName, ...secretFields })
  .refine(({ exchange, provider }) => (exchange === undefined) !== (provider === undefined), { path: ['exchange'] })
const newSecrets = z.strictObject(secretFields)
const newName = z.strictObject({ name: givenName })

const form = /^\/credentials(?:\/(?<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\/(?<act>test|rotate))?)?\/?$/

const methods = 'POST, PATCH, DELETE, OPTIONS'

export function handleCredentialsRequest(request: Request, world: CredentialsWorld): Promise<Response> {
  const handle = (path: string, requestId: string) => route(request, path, requestId, world)
  return answerUserCall(request, { name: 'credentials', methods, route: handle }, world)
}

async function route(request: Request, path: string, requestId: string, world: CredentialsWorld): Promise<Answer> {
  const match = form.exec(path)
  if (!match) throw new AppError('not_found')
  const { id, act } = match.groups ?? {}
  const asker = await requireUserToken(request.headers, 'Credentials need', requestId, world)
  const asked = `${request.method} ${act ?? (id ? 'one' : 'all')}`
  if (asked === 'POST all') return add(request, asker, world)
  if (id && asked === 'POST rotate') return rotate(request, asker, id, world)
  if (id && asked === 'POST test') return test(asker, id, requestId, world)
  if (id && asked === 'PATCH one') {
    const { name } = await readJson(request, newName)
    await world.database.rename(asker, id, name)
    return { status: 200, body: { id, name } }
  }
  if (id && asked === 'DELETE one') {
    await world.database.remove(asker, id)
    return { status: 204, body: null }
  }
  throw new AppError('method_not_allowed', {
    headers: { allow: id && !act ? 'PATCH, DELETE, OPTIONS' : 'POST, OPTIONS' },
  })
}

async function add(request: Request, asker: Asker, world: CredentialsWorld): Promise<Answer> {
  const { exchange, provider = '', name, ...secrets } = await readJson(request, newCredential)
  const target = await world.database.findTarget(exchange ? 'exchange' : 'ai_provider', exchange ?? provider)
  if (!target) {
    const [what, param] = exchange ? ['exchange', 'exchange'] : ['AI provider', 'provider']
    throw new AppError('not_found', { message: `There is no such ${what} here.`, param })
  }
  return { status: 201, body: await keep(asker, target, secrets, { target, name }, world) }
}

async function rotate(request: Request, asker: Asker, id: string, world: CredentialsWorld): Promise<Answer> {
  const secrets = await readJson(request, newSecrets)
  return { status: 200, body: await keep(asker, await targetOf(id, asker.userId, world), secrets, { id }, world) }
}

async function test(asker: Asker, id: string, requestId: string, world: CredentialsWorld): Promise<Answer> {
  await world.database.startTest(asker, id)
  const target = await targetOf(id, asker.userId, world)
  const opened = await world.database.open(id, requestId)
  if (!opened.opened) throw new AppError(opened.code)
  const tested = await testKey(target, opened.fields, world)
  await world.database.noteTest(id, opened.version, tested)
  return { status: 200, body: describe(id, tested) }
}

/** The same answer for a credential that is not there, another's, and one of an exchange that is not used here any more. */
async function targetOf(id: string, userId: string, world: CredentialsWorld): Promise<Target> {
  const place = await world.database.placeOf(id, userId)
  const target = place && (await world.database.findTarget(place.kind, place.provider))
  if (!target) throw new AppError('not_found')
  return target
}

/**
 * The transfer is started for the asker, which decides whether the caller may; what follows trusts its user. The
 * key is tried before it is kept, so that one that may withdraw or that nobody knows never is, and an older one stays where it would
 * have gone. What may pass, as a service that does not answer, is kept: its owner need not enter the key again.
 */
async function keep(
  asker: Asker,
  target: Target,
  secrets: Secrets,
  place: Place,
  world: CredentialsWorld,
): Promise<Record<string, unknown>> {
  if (target.kind === 'exchange') await requireFields(target.provider, secrets)
  const transfer = await world.database.startTransfer(asker)
  const tested = await testKey(target, secrets, world)
  if (tested.reason === 'can_withdraw') throw new AppError('key_can_withdraw')
  if (tested.reason === 'wrong_key')
    throw new AppError(
      'key_not_accepted',
      tested.message === null ? {} : { message: `${tested.message} It was not kept.` },
    )
  const { id, version } = await world.database.save(transfer, secrets, place)
  await world.database.noteTest(id, version, tested)
  return describe(id, tested)
}

const describe = (id: string, { reason, message, permissions }: KeyTest): Record<string, unknown> => ({
  id,
  status: reason === null ? 'active' : 'failed',
  status_reason: reason,
  message,
  permissions,
})
