/** Storage: `@supabase/lite` on a connection of role supabase_storage_admin, with what the real service does and lite does not. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { App, setExperimental } from '@supabase/lite'
import { z } from 'zod'
import { createFileStore } from './file-store.ts'
import { type Claims, connect, type Parts, type Service, server, trustGateway } from './lite.ts'

/** lite's Storage hands over JSON that is text already; written as it is, it stays an object, as the real service stores it. */
const jsonText = {
  to: 3802,
  from: [3802],
  serialize: (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)),
  parse: (text: string): unknown => JSON.parse(text),
}

/** The Storage service as role supabase_storage_admin; files lie in the data folder. */
export function storageService({ config, keys, dbUrl }: Parts): Service {
  setExperimental('storage', true)
  const connection = connect(dbUrl('supabase_storage_admin'), 4, {
    types: { jsonb: jsonText },
    // As the real service says it, so that its own deletes pass the guard on its tables.
    connection: { 'storage.allow_delete_query': 'true' },
  })
  const { middleware, fetchAs } = trustGateway()
  const app = new App({
    connection,
    auth: { enabled: false, jwt_secret: keys.innerJwtSecret },
    api: { enabled: false },
    storage: { enabled: true, file_size_limit: '16MiB' },
    options: { server: { ...server, middlewares: [middleware] } },
  })
  app._storageAdapter = createFileStore(config.storageFolder)
  const inOrder = oneAtATime(realLinks(tellRefusals(connection, fetchAs(app))))
  const fetch: Fetch = async (request, claims) => {
    const upload = await unwrapUpload(request)
    return upload instanceof Response ? upload : inOrder(upload, claims)
  }
  return { fetch, close: () => connection.close() }
}

/** A file of 16 MiB in a form, with room for the form. */
const bodyLimit = 17 * 1024 * 1024

/**
 * Uploads as @supabase/lite can take them: supabase-js sends a Blob as a form with a nameless file, lite looks for one named
 * `file`; and lite knows an upload's size only from content-length. So it gets the bytes alone, with their length.
 */
async function unwrapUpload(request: Request): Promise<Request | Response> {
  const isUpload =
    /^(?:POST|PUT)$/.test(request.method) && /^\/storage\/v1\/object\//.test(new URL(request.url).pathname)
  if (!isUpload) return request
  const sent = await readBody(request)
  if (!sent) return tooLarge()
  const headers = new Headers(request.headers)
  if (!headers.get('content-type')?.startsWith('multipart/form-data')) return withBody(request, headers, sent)
  const form = await new Response(sent, { headers }).formData().catch(() => new FormData())
  const file = [...form.values()].find((value) => value instanceof Blob)
  if (!file) return new Request(request.url, { method: request.method, headers })
  headers.set('content-type', file.type || 'application/octet-stream')
  headers.set('cache-control', `max-age=${form.get('cacheControl') ?? 3600}`)
  return withBody(request, headers, file)
}

async function readBody(request: Request): Promise<Blob | null> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > bodyLimit) return null
    chunks.push(new Uint8Array(chunk))
  }
  return new Blob(chunks)
}

async function withBody(request: Request, headers: Headers, body: Blob): Promise<Request> {
  headers.set('content-length', String(body.size))
  return new Request(request.url, { method: request.method, headers, body: await body.arrayBuffer() })
}

/** As the Storage service says it: the status of the error is in the body. */
const tooLarge = () =>
  Response.json(
    { statusCode: '413', error: 'Payload too large', message: 'The object exceeded the maximum allowed size' },
    { status: 400 },
  )

const link = z.looseObject({ signedUrl: z.string() })
const signedLink = z.looseObject({ signedURL: z.string() })
const many = z.object({ expiresIn: z.number(), paths: z.array(z.string()).max(1000) })

/** Signed addresses as the Storage service answers them: relative to itself, under the names that supabase-js reads. */
function realLinks(fetch: Fetch): Fetch {
  const signed: Fetch = async (request, claims) => {
    const answer = await fetch(request, claims)
    const [, kind] = /^\/storage\/v1\/object\/(sign|upload\/sign)\//.exec(new URL(request.url).pathname) ?? []
    if (request.method !== 'POST' || !kind || !answer.ok) return answer
    const { signedUrl, ...rest } = link.parse(await answer.json())
    const address = signedUrl.replace(/^\/storage\/v1/, '')
    return Response.json({ ...rest, [kind === 'sign' ? 'signedURL' : 'url']: address }, { status: answer.status })
  }
  return async (request, claims) => {
    const isMany =
      request.method === 'POST' && /^\/storage\/v1\/object\/sign\/[^/]+$/.test(new URL(request.url).pathname)
    if (!isMany) return signed(request, claims)
    const asked = many.safeParse(await request.json())
    if (!asked.success)
      return Response.json({ statusCode: '400', error: 'Error', message: 'Bad Request' }, { status: 400 })
    // lite takes this address for that of one file without a name.
    const { paths, expiresIn } = asked.data
    const sign = async (path: string) => {
      const url = `${request.url}/${path.split('/').map(encodeURIComponent).join('/')}`
      const init = {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ expiresIn }),
      }
      const answer = await signed(new Request(url, init), claims)
      const error = 'Either the object does not exist or you do not have access to it'
      return answer.ok
        ? { error: null, path, ...signedLink.parse(await answer.json()) }
        : { error, path, signedURL: null }
    }
    return Response.json(await Promise.all(paths.map(sign)))
  }
}

type Fetch = (request: Request, claims: Claims) => Response | Promise<Response>
type Connection = { normalizeDbError(error: unknown): unknown }

/**
 * lite tries the caller's rights, stores the bytes and then writes the row, each for itself: of two uploads to one place,
 * the refused one would leave its bytes. So writers take turns. Their bodies are read already; nobody waits for a client.
 */
function oneAtATime(fetch: Fetch): Fetch {
  let last: Promise<unknown> = Promise.resolve()
  return (request, claims) => {
    if (request.method === 'GET' || request.method === 'HEAD') return fetch(request, claims)
    const answer = last.then(() => fetch(request, claims))
    last = answer.catch(() => {})
    return answer
  }
}

/** A refusal that a trigger words (SQLSTATE 42501) reaches the caller in its words; lite says "row-level security" to all. */
function tellRefusals(connection: Connection, fetch: Fetch): Fetch {
  const refusals = new AsyncLocalStorage<{ text: string | null }>()
  const normalize = connection.normalizeDbError.bind(connection)
  connection.normalizeDbError = (error) => {
    const normalized = normalize(error)
    const found = refusals.getStore()
    if (found && normalized instanceof Error && Reflect.get(normalized, 'code') === '42501')
      found.text = normalized.message
    return normalized
  }
  return (request, claims) =>
    refusals.run({ text: null }, async () => {
      const answer = await fetch(request, claims)
      const text = refusals.getStore()?.text
      if (answer.ok || !text || text.includes('row-level security')) return answer
      return Response.json({ statusCode: '403', error: 'Unauthorized', message: text }, { status: answer.status })
    })
}
