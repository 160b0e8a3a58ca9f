/** The credentials endpoint without its environment: add a key, test it, put another in its place, rename it, delete it. */
import { requireUserToken } from '../auth/identify-caller.ts'
import { AppError } from '../errors.ts'
import { type Answer, answerUserCall } from '../http/answer-user-call.ts'
import { readJson } from '../http/read-body.ts'
import { encryptTransfer } from './encrypt-transfer.ts'
import { newCredential, newName, newSecrets } from './read-credential.ts'
import { requireFields, testExchangeKey } from './test-exchange-key.ts'
import { testProviderKey } from './test-provider-key.ts'
import type { CredentialsWorld, KeyTest, Secrets, Target } from './world.ts'

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
  const { token, userId } = await requireUserToken(request.headers, 'Credentials need', world)
  const asked = `${request.method} ${act ?? (id ? 'one' : 'all')}`
  if (asked === 'POST all') return add(request, token, world)
  if (id && asked === 'POST rotate') return rotate(request, token, userId, id, world)
  if (id && asked === 'POST test') return test(token, userId, id, requestId, world)
  if (id && asked === 'PATCH one') {
    const { name } = await readJson(request, newName)
    await world.change(token, id, name)
    return { status: 200, body: { id, name } }
  }
  if (id && asked === 'DELETE one') {
    await world.change(token, id, null)
    return { status: 204, body: null }
  }
  throw new AppError('method_not_allowed', {
    headers: { allow: id && !act ? 'PATCH, DELETE, OPTIONS' : 'POST, OPTIONS' },
  })
}

async function add(request: Request, token: string, world: CredentialsWorld): Promise<Answer> {
  const { exchange, provider = '', name, ...secrets } = await readJson(request, newCredential)
  const target = await world.findTarget(exchange ? 'exchange' : 'ai_provider', exchange ?? provider)
  if (!target) {
    const [what, param] = exchange ? ['exchange', 'exchange'] : ['AI provider', 'provider']
    throw new AppError('not_found', { message: `There is no such ${what} here.`, param })
  }
  return { status: 201, body: await keep(token, target, secrets, { target, name }, world) }
}

async function rotate(
  request: Request,
  token: string,
  userId: string,
  id: string,
  world: CredentialsWorld,
): Promise<Answer> {
  const secrets = await readJson(request, newSecrets)
  return { status: 200, body: await keep(token, await targetOf(id, userId, world), secrets, { id }, world) }
}

async function test(
  token: string,
  userId: string,
  id: string,
  requestId: string,
  world: CredentialsWorld,
): Promise<Answer> {
  await world.requireTest(token, id)
  const target = await targetOf(id, userId, world)
  const opened = await world.open(id, 'test', requestId)
  if (!opened.opened) throw new AppError(opened.code)
  const tested = await testKey(target, opened.fields, world)
  await world.noteTest(id, opened.version, tested)
  return { status: 200, body: describe(id, tested) }
}

/** The same answer for a credential that is not there, another's, and one of an exchange that is not used here any more. */
async function targetOf(id: string, userId: string, world: CredentialsWorld): Promise<Target> {
  const place = await world.placeOf(id, userId)
  const target = place && (await world.findTarget(place.kind, place.provider))
  if (!target) throw new AppError('not_found')
  return target
}

/**
 * The transfer is started in the caller's name, which decides whether the caller may; what follows trusts its user. The
 * key is tried before it is kept, so that one that may withdraw never is, and an older one stays where it would have gone.
 */
async function keep(
  token: string,
  target: Target,
  secrets: Secrets,
  place: { id: string } | { target: Target; name: string },
  world: CredentialsWorld,
): Promise<Record<string, unknown>> {
  if (target.kind === 'exchange') await requireFields(target.provider, secrets)
  const { transfer_id, key } = await world.startTransfer(token)
  const tested = await testKey(target, secrets, world)
  if (tested.reason === 'can_withdraw') throw new AppError('key_can_withdraw')
  const { id, version } = await world.save(
    transfer_id,
    await encryptTransfer(key, transfer_id, JSON.stringify(secrets)),
    place,
  )
  await world.noteTest(id, version, tested)
  return describe(id, tested)
}

const testKey = (target: Target, secrets: Secrets, world: CredentialsWorld): Promise<KeyTest> =>
  target.kind === 'exchange'
    ? testExchangeKey(target.provider, target.baseUrl, secrets, world)
    : testProviderKey(target.baseUrl, secrets.api_key, world)

const describe = (id: string, { reason, message, permissions }: KeyTest): Record<string, unknown> => ({
  id,
  status: reason === null ? 'active' : 'failed',
  status_reason: reason,
  message,
  permissions,
})
