/** What every answer of the local Storage service needs: the call, and transactions as the caller or as the service. */
import type postgres from 'postgres'
import { z } from 'zod'
import { problems } from './errors.ts'
import type { Files } from './files.ts'
import type { Links } from './links.ts'

export type StorageCall = {
  request: Request
  url: URL
  claims: Record<string, unknown>
  /** What policies are told: storage.operation(). */
  operation: string
}

export type StorageWorld = {
  /** A pool of role supabase_storage_admin. */
  sql: postgres.Sql
  files: Files
  links: Links
  /** Bytes of the largest file that the project takes. */
  sizeLimit: number
}

export type Tx = postgres.TransactionSql

/** From here on the transaction acts as the caller, or as the service; and may delete rows, since their bytes go, too. */
async function become(tx: Tx, { request, url, claims, operation }: StorageCall, who: 'caller' | 'service') {
  const payload = who === 'caller' ? claims : { role: 'service_role' }
  const role = String(payload.role ?? 'anon')
  // Storage's own role could be asked for by name, and no policy holds it.
  if (!['anon', 'authenticated', 'service_role'].includes(role)) throw problems.accessDenied()
  await tx`
    select
      set_config('role', ${role}, true),
      set_config('request.jwt.claim.role', ${role}, true),
      set_config('request.jwt.claim.sub', ${String(payload.sub ?? '')}, true),
      set_config('request.jwt.claims', ${JSON.stringify(payload)}, true),
      set_config('request.headers', ${JSON.stringify(Object.fromEntries(request.headers))}, true),
      set_config('request.method', ${request.method}, true),
      set_config('request.path', ${url.pathname.replace(/^\/storage\/v1/, '')}, true),
      set_config('storage.operation', ${operation}, true),
      set_config('storage.allow_delete_query', 'true', true)`
}

/** A transaction with the rights of the caller, or of the service; `become` inside changes sides. */
export function inTransaction<Result>(
  { sql }: StorageWorld,
  call: StorageCall,
  who: 'caller' | 'service',
  run: (tx: Tx, as: (who: 'caller' | 'service') => Promise<void>) => Promise<Result>,
): Promise<Awaited<Result>> {
  return sql.begin(async (tx) => {
    await become(tx, call, who)
    return await run(tx, (next) => become(tx, call, next))
  }) as Promise<Awaited<Result>>
}

/** A body of JSON, in the shape that it must have. */
export async function readBody<Shape extends z.ZodType>(
  { request }: StorageCall,
  shape: Shape,
): Promise<z.infer<Shape>> {
  const json: unknown = await request.json().catch(() => {
    throw problems.invalidRequest("Body is not valid JSON but content-type is set to 'application/json'")
  })
  const body = shape.safeParse(json)
  if (!body.success) throw problems.invalidRequest(`body: ${z.prettifyError(body.error)}`)
  return body.data
}

/** Whether the caller may do this: it is done, and undone. */
export async function tryAsCaller(
  world: StorageWorld,
  call: StorageCall,
  run: (tx: Tx) => Promise<unknown>,
): Promise<void> {
  const undo = new Error('rolled back on purpose')
  await inTransaction(world, call, 'caller', async (tx) => {
    await run(tx)
    throw undo
  }).catch((error: unknown) => {
    if (error !== undo) throw error
  })
}

/** The user that a row notes as its owner: nobody for a key. */
export const ownerOf = ({ claims }: StorageCall): string | null => (typeof claims.sub === 'string' ? claims.sub : null)

export type Bucket = {
  id: string
  public: boolean
  file_size_limit: string | null
  allowed_mime_types: string[] | null
}

/** Buckets are found whoever asks; what is in them is not. */
export const findBucket = async (world: StorageWorld, call: StorageCall, id: string): Promise<Bucket | undefined> =>
  inTransaction(world, call, 'service', async (tx) => {
    const [bucket] = await tx<Bucket[]>`
      select id, public, file_size_limit::text, allowed_mime_types from storage.buckets where id = ${id}`
    return bucket
  })

/** What is stored of a file beside its bytes, under the names that the real service uses. */
export type Metadata = {
  eTag: string
  size: number
  mimetype: string
  cacheControl: string
  lastModified: string
  contentLength: number
  httpStatusCode: number
}

export type StoredObject = {
  id: string
  bucket_id: string
  name: string
  version: string
  metadata: Metadata | null
  user_metadata: Record<string, unknown> | null
  created_at: Date
  updated_at: Date
}

export const findObject = async (tx: Tx, bucket: string, name: string): Promise<StoredObject | undefined> => {
  const [object] = await tx<StoredObject[]>`
    select id, bucket_id, name, version, metadata, user_metadata, created_at, updated_at
    from storage.objects where bucket_id = ${bucket} and name = ${name}`
  return object
}
