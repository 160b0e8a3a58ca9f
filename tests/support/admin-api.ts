/** A small project for imports: the parts of Auth's admin API and of REST that an import uses, with real state and faults. */
import { createServer, type IncomingMessage } from 'node:http'
import { z } from 'zod'

export const secretKey = 'sb_secret_of_the_test'

const newUser = z.object({
  id: z.uuid(),
  email: z.email(),
  password_hash: z.string().optional(),
  email_confirm: z.boolean(),
  user_metadata: z.record(z.string(), z.string()),
  app_metadata: z.record(z.string(), z.string()),
})
type StoredUser = z.infer<typeof newUser> & { plan?: string }
/** What happens instead of an answer: the request is refused, or it is done and the answer gets lost. */
type Fault = { status: number } | 'lost' | undefined

export type AdminApi = {
  url: string
  users: Map<string, StoredUser>
  requests: string[]
  policy: Record<string, unknown>
  /** Decides about the n-th request to make a user, from 1. */
  fault: (n: number) => Fault
  onCreated: () => void
  stop(): Promise<void>
}

export async function startAdminApi(): Promise<AdminApi> {
  let creations = 0
  const api: AdminApi = {
    url: '',
    users: new Map(),
    requests: [],
    policy: { 'launch.phase': 'open', 'registration.minimum_age': 13, 'registration.under_age': 'refuse' },
    fault: () => undefined,
    onCreated: () => {},
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  const server = createServer(async (request, response) => {
    const body = await readBody(request)
    const path = String(request.url)
    api.requests.push(`${request.method} ${path}`)
    const isCreation = request.method === 'POST' && path === '/auth/v1/admin/users'
    const fault = isCreation ? api.fault(++creations) : undefined
    if (typeof fault === 'object') return void response.writeHead(fault.status).end('{"message": "try again"}')
    const [status, answer] = route(api, request, path, body)
    if (fault === 'lost') return void request.socket.destroy()
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  api.url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
  return api
}

function route(
  api: AdminApi,
  request: IncomingMessage,
  path: string,
  body: unknown,
): [status: number, answer: unknown] {
  if (request.headers.apikey !== secretKey) return [401, { message: 'Invalid API key' }]
  if (path === '/rest/v1/rpc/get_registration_policy') return [200, api.policy]
  if (path.startsWith('/rest/v1/plans')) return [200, [{ id: 'free' }, { id: 'premium' }]]
  if (path === '/rest/v1/rpc/find_account') {
    const { email } = z.object({ email: z.string() }).parse(body)
    return [200, [...api.users.values()].filter((user) => user.email === email).map(({ id }) => ({ id }))]
  }
  if (request.method === 'PATCH' && path.startsWith('/rest/v1/profiles?id=eq.')) {
    const user = api.users.get(path.replace('/rest/v1/profiles?id=eq.', ''))
    if (user) user.plan = z.object({ plan_id: z.string() }).parse(body).plan_id
    return [204, undefined]
  }
  if (request.method === 'POST') return create(api, body)
  const user = api.users.get(path.replace('/auth/v1/admin/users/', ''))
  return user ? [200, user] : [404, { code: 'user_not_found', message: 'User not found' }]
}

function create(api: AdminApi, body: unknown): [status: number, answer: unknown] {
  const user = newUser.parse(body)
  const taken = [...api.users.values()].some(({ email }) => email === user.email)
  if (taken)
    return [422, { code: 'email_exists', message: 'A user with this email address has already been registered' }]
  if (api.users.has(user.id)) return [500, { code: 'unexpected_failure', message: 'Database error creating new user' }]
  api.users.set(user.id, user)
  api.onCreated()
  return [200, user]
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(Buffer.from(chunk))
  const text = Buffer.concat(chunks).toString()
  return text === '' ? undefined : JSON.parse(text)
}
