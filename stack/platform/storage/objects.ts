/** Objects without their bytes: lists, moves, copies, removals and signed addresses. */
import { z } from 'zod'
import { problems } from './errors.ts'
import { checkBucketName, checkKey } from './names.ts'
import { complete, tryUpload } from './uploads.ts'
import {
  findObject,
  inTransaction,
  ownerOf,
  readBody,
  type StorageCall,
  type StorageWorld,
  type StoredObject,
  tryAsCaller,
} from './world.ts'

const listed = z.object({
  prefix: z.string(),
  limit: z.number().int().min(1).default(100),
  offset: z.number().int().min(0).default(0),
  search: z.string().default(''),
  sortBy: z
    .object({
      column: z.enum(['name', 'updated_at', 'created_at', 'last_accessed_at']).default('name'),
      order: z.enum(['asc', 'desc']).default('asc'),
    })
    .prefault({}),
})

export async function listObjects(world: StorageWorld, call: StorageCall, bucket: string): Promise<Response> {
  const { prefix, limit, offset, search, sortBy } = await readBody(call, listed)
  const folder = prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`
  const levels = `${folder}${search}`.split('/').length
  return Response.json(
    await inTransaction(
      world,
      call,
      'caller',
      (tx) => tx`
      select * from storage.search(${folder}, ${bucket}, ${limit}, ${levels}, ${offset}, ${search}, ${sortBy.column}, ${sortBy.order})`,
    ),
  )
}

const listedByCursor = z.object({
  prefix: z.string().default(''),
  limit: z.number().int().min(1).max(1000).default(1000),
  cursor: z.string().optional(),
  with_delimiter: z.boolean().default(false),
  sortBy: z
    .object({
      column: z.enum(['name', 'updated_at', 'created_at']).default('name'),
      order: z.enum(['asc', 'desc']).default('asc'),
    })
    .prefault({}),
})
const cursor = z.object({ name: z.string(), at: z.string().optional() })

type Entry = { id: string | null; key?: string; name: string; created_at: Date | null; updated_at: Date | null }

export async function listByCursor(world: StorageWorld, call: StorageCall, bucket: string): Promise<Response> {
  const { prefix, limit, with_delimiter, sortBy, cursor: given } = await readBody(call, listedByCursor)
  const after = given ? readCursor(given) : { name: '' }
  const { column, order } = sortBy
  const found = await inTransaction(world, call, 'caller', (tx) => {
    if (with_delimiter)
      return tx<Entry[]>`
        select * from storage.search_v2(${prefix}, ${bucket}, ${limit + 1}, ${prefix.split('/').length}, ${after.name},
          ${order}, ${column}, ${after.at ?? ''})`
    const value = column === 'name' ? tx`'epoch'::timestamptz` : tx`coalesce(${tx(column)}, 'epoch')`
    const direction = order === 'asc' ? tx`asc` : tx`desc`
    const comparison = order === 'asc' ? tx`>` : tx`<`
    const since = after.at ?? '1970-01-01T00:00:00Z'
    return tx<Entry[]>`
      select id, name, metadata, updated_at, created_at, last_accessed_at from storage.objects
      where bucket_id = ${bucket} and starts_with(name, ${prefix})
        and (${after.name} = '' or (${value}, name collate "C") ${comparison} (${since}::timestamptz, ${after.name}))
      order by ${value} ${direction}, name collate "C" ${direction}
      limit ${limit + 1}`
  })
  const page = found.slice(0, limit)
  const last = found.length > limit ? page.at(-1) : undefined
  // A folder's end, so that the next page has none of its files.
  const name = last && (last.id === null ? folderName(last.name) : last.name)
  const at = last && column !== 'name' ? last[column]?.toISOString() : undefined
  return Response.json({
    hasNext: last !== undefined,
    ...(last ? { nextCursor: Buffer.from(JSON.stringify({ name, at })).toString('base64') } : {}),
    folders: page.filter(({ id }) => id === null).map((folder) => ({ ...folder, name: folderName(folder.name) })),
    objects: page.filter(({ id }) => id !== null),
  })
}

/** By name SQL gives folders with their slash, by time without. */
const folderName = (name: string) => (name.endsWith('/') ? name : `${name}/`)

function readCursor(text: string): z.infer<typeof cursor> {
  try {
    return cursor.parse(JSON.parse(Buffer.from(text, 'base64').toString()))
  } catch {
    throw problems.invalidRequest('Invalid Parameter continuation token')
  }
}

const moved = z.object({
  bucketId: z.string(),
  sourceKey: z.string(),
  destinationBucket: z.string().optional(),
  destinationKey: z.string(),
})

export async function moveObject(world: StorageWorld, call: StorageCall): Promise<Response> {
  const { bucketId, sourceKey, destinationBucket, destinationKey } = await readBody(call, moved)
  const bucket = checkBucketName(destinationBucket ?? bucketId)
  checkKey(destinationKey)
  const owner = ownerOf(call)
  const version = crypto.randomUUID()
  const target = { bucket_id: bucket, name: destinationKey, version, owner, owner_id: owner }
  await tryAsCaller(world, call, async (tx) => {
    const { count } = await tx`
      update storage.objects set ${tx(target)} where bucket_id = ${checkBucketName(bucketId)} and name = ${sourceKey}`
    if (count === 0) throw problems.noSuchKey()
  })
  const source = await inTransaction(world, call, 'service', (tx) => findObject(tx, bucketId, sourceKey))
  if (!source) throw problems.noSuchKey()
  if (bucket !== bucketId || destinationKey !== sourceKey) {
    await world.files.copy(source, target)
    try {
      await inTransaction(
        world,
        call,
        'service',
        (tx) => tx`update storage.objects set ${tx(target)} where id = ${source.id}`,
      )
    } catch (error) {
      await world.files.remove([target])
      throw error
    }
    await world.files.remove([source])
  }
  return Response.json({ message: 'Successfully moved', Id: source.id, Key: destinationKey })
}

const copied = moved.extend({
  /** In the place of the source's, when that is not copied. */
  metadata: z.object({ cacheControl: z.string(), mimetype: z.string() }).partial().default({}),
  copyMetadata: z.boolean().default(true),
})

export async function copyObject(world: StorageWorld, call: StorageCall): Promise<Response> {
  const body = await readBody(call, copied)
  const bucket = checkBucketName(body.destinationBucket ?? body.bucketId)
  const name = checkKey(body.destinationKey)
  checkBucketName(body.bucketId)
  const source = await inTransaction(world, call, 'caller', (tx) => findObject(tx, body.bucketId, body.sourceKey))
  if (!source?.metadata) throw problems.noSuchKey()
  const { cacheControl = source.metadata.cacheControl, mimetype = source.metadata.mimetype } = body.copyMetadata
    ? {}
    : body.metadata
  const metadata = { ...source.metadata, cacheControl, mimetype, lastModified: new Date().toISOString() }
  const target = { bucket, name, upsert: call.request.headers.get('x-upsert') === 'true', owner: ownerOf(call) }
  await tryUpload(world, call, target, { announced: metadata, userMetadata: source.user_metadata })
  const version = crypto.randomUUID()
  await world.files.copy(source, { bucket_id: bucket, name, version })
  const id = await complete(world, call, target, version, metadata, source.user_metadata)
  return Response.json({ Id: id, Key: `${bucket}/${name}`, id, bucket_id: bucket, name, version, metadata })
}

export async function removeObject(
  world: StorageWorld,
  call: StorageCall,
  bucket: string,
  name: string,
): Promise<Response> {
  const removed = await inTransaction(world, call, 'service', async (tx, as) => {
    if (!(await findObject(tx, bucket, name))) throw problems.noSuchKey()
    await as('caller')
    const [row] = await tx<StoredObject[]>`
      delete from storage.objects where bucket_id = ${bucket} and name = ${name} returning *`
    if (!row) throw problems.accessDenied()
    return row
  })
  await world.files.remove([removed])
  return Response.json({ message: 'Successfully deleted' })
}

const named = z.object({ prefixes: z.array(z.string()).min(1).max(1000) })

/** What the caller may not delete is left out of the answer. */
export async function removeObjects(world: StorageWorld, call: StorageCall, bucket: string): Promise<Response> {
  const { prefixes } = await readBody(call, named)
  const removed = await inTransaction(
    world,
    call,
    'caller',
    (tx) => tx<StoredObject[]>`
    delete from storage.objects where bucket_id = ${bucket} and name = any(${prefixes}) returning *`,
  )
  await world.files.remove(removed)
  return Response.json(removed)
}

/** The real service takes any time: what asks for more than a day here would hold an address there that outlives its reason. */
const day = 86_400
const seconds = z.number().int().min(1).max(day)
const signed = z.object({ expiresIn: seconds })
const signedMany = z.object({ expiresIn: seconds, paths: z.array(z.string()).min(1).max(1000) })

export async function signObject(
  world: StorageWorld,
  call: StorageCall,
  bucket: string,
  name: string,
): Promise<Response> {
  const { expiresIn } = await readBody(call, signed)
  checkKey(name)
  const found = await inTransaction(world, call, 'caller', (tx) => findObject(tx, bucket, name))
  if (!found) throw problems.noSuchKey()
  return Response.json({ signedURL: await signedUrl(world, `${bucket}/${name}`, expiresIn) })
}

export async function signObjects(world: StorageWorld, call: StorageCall, bucket: string): Promise<Response> {
  const { expiresIn, paths } = await readBody(call, signedMany)
  const found = await inTransaction(
    world,
    call,
    'caller',
    (tx) => tx<{ name: string }[]>`
    select name from storage.objects where bucket_id = ${bucket} and name = any(${paths})`,
  )
  const names = new Set(found.map(({ name }) => name))
  const sign = async (path: string) =>
    names.has(path)
      ? { error: null, path, signedURL: await signedUrl(world, `${bucket}/${path}`, expiresIn) }
      : { error: 'Either the object does not exist or you do not have access to it', path, signedURL: null }
  return Response.json(await Promise.all(paths.map(sign)))
}

const signedUrl = async ({ links }: StorageWorld, url: string, expiresIn: number) =>
  `/object/sign/${url}?token=${await links.sign({ url, scope: 'download' }, expiresIn)}`
