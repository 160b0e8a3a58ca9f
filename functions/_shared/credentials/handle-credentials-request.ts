/** The credentials endpoint without its environment: add a key, test it, put another in its place, rename it, delete it. */
import { identifyCaller } from '../auth/identify-caller.ts'
import { AppError, renderError, toAppError } from '../errors.ts'
import { answerPreflight, corsHeaders } from '../http/cors.ts'
import { requestId as requestIdOf } from '../http/request-id.ts'
import { encryptTransfer } from './encrypt-transfer.ts'
import { newCredential, newName, newSecrets, readCredential } from './read-credential.ts'
import { testProviderKey } from './test-provider-key.ts'
import type { CredentialsWorld, Secrets, TestReason } from './world.ts'

type Answer = { status: number; body: Record<string, unknown> | null }

const form = /^\/credentials(?:\/(?<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\/(?<act>test|rotate))?)?\/?$/

const explanations: Record<NonNullable<TestReason>, string> = {
  wrong_key: 'The provider does not accept this key. Check that it is whole and not revoked.',
  rate_limited: 'The provider answers that there are too many requests with this key. Test it again in a minute.',
  provider_down: 'The provider did not answer as it should. The key is kept; test it again later.',
}

export async function handleCredentialsRequest(request: Request, world: CredentialsWorld): Promise<Response> {
  const requestId = requestIdOf(request.headers, world.newId)
  const { pathname } = new URL(request.url)
  const line = { message: 'credentials', request_id: requestId, method: request.method, path: pathname }
  const response = await route(request, pathname, requestId, world)
    .then(({ status, body }) => {
      world.log({ ...line, level: 'info', http_status: status })
      return body === null ? new Response(null, { status }) : Response.json(body, { status })
    })
    .catch((cause: unknown) => {
      const error = toAppError(cause)
      // The code and nothing else: what lies under an error here may hold what was sent.
      world.log({
        ...line,
        level: error.status >= 500 ? 'error' : 'info',
        http_status: error.status,
        error_code: error.code,
      })
      return renderError(error, world.now())
    })
  if (request.method === 'OPTIONS') return answerPreflight(request, 'POST, PATCH, DELETE, OPTIONS')
  for (const [name, value] of Object.entries({
    ...corsHeaders,
    'x-request-id': requestId,
    'cache-control': 'no-store',
  }))
    response.headers.set(name, value)
  return response
}

async function route(request: Request, path: string, requestId: string, world: CredentialsWorld): Promise<Answer> {
  if (request.method === 'OPTIONS') return { status: 204, body: null }
  const match = form.exec(path)
  if (!match) throw new AppError('not_found')
  const { id, act } = match.groups ?? {}
  const token = await tokenOf(request, world)
  const asked = `${request.method} ${act ?? (id ? 'one' : 'all')}`
  if (asked === 'POST all') return add(request, token, world)
  if (id && asked === 'POST rotate') return rotate(request, token, id, world)
  if (id && asked === 'POST test') return test(token, id, requestId, world)
  if (id && asked === 'PATCH one') {
    const { name } = await readCredential(request, newName)
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

/** A person's token: API keys may make AI calls and nothing else. */
async function tokenOf({ headers }: Request, world: CredentialsWorld): Promise<string> {
  const caller = await identifyCaller(headers, world)
  if (caller.kind !== 'user')
    throw new AppError('not_allowed', { message: 'Credentials need a signed-in user, not an API key.' })
  return (headers.get('authorization') ?? '').replace(/^Bearer +/i, '').trim()
}

async function add(request: Request, token: string, world: CredentialsWorld): Promise<Answer> {
  const { provider, name, ...secrets } = await readCredential(request, newCredential)
  const baseUrl = await world.baseUrlOf(provider)
  if (baseUrl === undefined)
    throw new AppError('not_found', { message: 'There is no such AI provider here.', param: 'provider' })
  const id = await keep(token, secrets, { provider, name }, world)
  return { status: 201, body: await tested(id, baseUrl, secrets, world) }
}

async function rotate(request: Request, token: string, id: string, world: CredentialsWorld): Promise<Answer> {
  const secrets = await readCredential(request, newSecrets)
  const baseUrl = await addressOf(id, world)
  await keep(token, secrets, { id }, world)
  return { status: 200, body: await tested(id, baseUrl, secrets, world) }
}

async function test(token: string, id: string, requestId: string, world: CredentialsWorld): Promise<Answer> {
  await world.requireTest(token, id)
  const opened = await world.open(id, 'test', requestId)
  if (!opened.opened) throw new AppError(opened.code)
  return { status: 200, body: await tested(id, await addressOf(id, world), opened.fields, world) }
}

async function addressOf(id: string, world: CredentialsWorld): Promise<string> {
  const provider = await world.providerOf(id)
  const baseUrl = provider === undefined ? undefined : await world.baseUrlOf(provider)
  if (baseUrl === undefined) throw new AppError('not_found')
  return baseUrl
}

/** The transfer is started in the caller's name, which decides whether the caller may; what follows trusts its user. */
async function keep(
  token: string,
  secrets: Secrets,
  place: { id: string } | { provider: string; name: string },
  world: CredentialsWorld,
): Promise<string> {
  const { transfer_id, key } = await world.startTransfer(token)
  return world.save(transfer_id, await encryptTransfer(key, transfer_id, JSON.stringify(secrets)), place)
}

async function tested(id: string, baseUrl: string, { api_key }: Secrets, world: CredentialsWorld) {
  const reason = await testProviderKey(baseUrl, api_key, world)
  await world.noteTest(id, reason)
  return reason === null
    ? { id, status: 'active', status_reason: null, message: null }
    : { id, status: 'failed', status_reason: reason, message: explanations[reason] }
}
