/** Buckets: who may see and change them, their policies say. */
import { z } from 'zod'
import { problems } from './errors.ts'
import { checkAllowedTypes, checkBucketName, parseSizeLimit } from './names.ts'
import {
  inTransaction,
  ownerOf,
  readBody,
  type StorageCall,
  type StorageWorld,
  type StoredObject,
  type Tx,
} from './world.ts'

const limits = {
  public: z.boolean().optional(),
  file_size_limit: z.union([z.number().int().min(0), z.string()]).nullish(),
  allowed_mime_types: z.array(z.string()).nullish(),
}
const created = z.object({
  name: z.string(),
  id: z.string().optional(),
  type: z.literal('STANDARD').optional(),
  ...limits,
})
const changed = z
  .object(limits)
  .refine((body) => Object.values(body).some((value) => value !== undefined), 'body must have a property to change')

/** The columns that change; what is left out stays. */
function columnsOf({ sizeLimit }: StorageWorld, body: z.infer<typeof changed>) {
  const { file_size_limit: size, allowed_mime_types: types } = body
  return {
    ...(body.public === undefined ? {} : { public: body.public }),
    ...(size === undefined ? {} : { file_size_limit: size === null ? null : parseSizeLimit(size, sizeLimit) }),
    ...(types === undefined ? {} : { allowed_mime_types: types && checkAllowedTypes(types.filter(Boolean)) }),
  }
}

export async function createBucket(world: StorageWorld, call: StorageCall): Promise<Response> {
  const { name, id = name, ...body } = await readBody(call, created)
  if (name.trim() !== name || name.endsWith('--iceberg')) throw problems.invalidBucketName()
  checkBucketName(name)
  const owner = ownerOf(call)
  const row = { id: checkBucketName(id), name, owner, owner_id: owner, public: false, ...columnsOf(world, body) }
  await inTransaction(world, call, 'caller', (tx) => tx`insert into storage.buckets ${tx(row)}`)
  return Response.json({ name })
}

const columns = (tx: Tx) =>
  tx`id, name, owner, public, type, file_size_limit::float8, allowed_mime_types, created_at, updated_at`

export async function listBuckets(world: StorageWorld, call: StorageCall): Promise<Response> {
  return Response.json(
    await inTransaction(world, call, 'caller', (tx) => tx`select ${columns(tx)} from storage.buckets`),
  )
}

export async function showBucket(world: StorageWorld, call: StorageCall, id: string): Promise<Response> {
  const [bucket] = await inTransaction(
    world,
    call,
    'caller',
    (tx) => tx`
    select ${columns(tx)} from storage.buckets where id = ${id}`,
  )
  if (!bucket) throw problems.noSuchBucket()
  return Response.json(bucket)
}

export async function changeBucket(world: StorageWorld, call: StorageCall, id: string): Promise<Response> {
  const row = columnsOf(world, await readBody(call, changed))
  const { count } = await inTransaction(
    world,
    call,
    'caller',
    (tx) => tx`
    update storage.buckets set ${tx(row)} where id = ${id}`,
  )
  if (count === 0) throw problems.noSuchBucket()
  return Response.json({ message: 'Successfully updated' })
}

export async function deleteBucket(world: StorageWorld, call: StorageCall, id: string): Promise<Response> {
  await inTransaction(world, call, 'service', async (tx, as) => {
    if ((await tx`select from storage.buckets where id = ${id} for update`).count === 0) throw problems.noSuchBucket()
    if ((await tx`select from storage.objects where bucket_id = ${id} limit 1`).count > 0)
      throw problems.bucketNotEmpty()
    await as('caller')
    if ((await tx`delete from storage.buckets where id = ${id}`).count === 0) throw problems.noSuchBucket()
  })
  return Response.json({ message: 'Successfully deleted' })
}

/** Who sees the bucket and a file in it empties it, as in the real service; which does so later, by a queue. */
export async function emptyBucket(world: StorageWorld, call: StorageCall, id: string): Promise<Response> {
  const removed = await inTransaction(world, call, 'caller', async (tx, as) => {
    if ((await tx`select from storage.buckets where id = ${id}`).count === 0) throw problems.noSuchBucket()
    if ((await tx`select from storage.objects where bucket_id = ${id} limit 1`).count === 0) return []
    await as('service')
    return tx<StoredObject[]>`delete from storage.objects where bucket_id = ${id} returning *`
  })
  await world.files.remove(removed)
  return Response.json({ message: 'Empty bucket has been queued. Completion may take up to an hour.' })
}
