/** Uploads: read whole, tried with the caller's rights, stored, and only then written to the table. */
import { createHash } from 'node:crypto'
import { problems } from './errors.ts'
import { checkKey, checkMimeType } from './names.ts'
import {
  findBucket,
  inTransaction,
  type Metadata,
  ownerOf,
  type StorageCall,
  type StorageWorld,
  type Tx,
  tryAsCaller,
} from './world.ts'

const metadataLimit = 1024 * 1024

type Upload = {
  bytes: Uint8Array<ArrayBuffer>
  mimeType: string
  cacheControl: string
  userMetadata: Record<string, unknown> | null
}
type Target = { bucket: string; name: string; upsert: boolean; owner: string | null }

/** POST and PUT of a file by a caller, whose policies decide. */
export async function uploadFile(
  world: StorageWorld,
  call: StorageCall,
  bucket: string,
  name: string,
): Promise<Response> {
  const upsert = call.request.method === 'PUT' || call.request.headers.get('x-upsert') === 'true'
  const target = { bucket, name, upsert, owner: ownerOf(call) }
  const upload = await readUpload(world, call, target)
  checkKey(name)
  await tryUpload(world, call, target, {
    announced: {
      mimetype: upload.mimeType,
      contentLength: Number(call.request.headers.get('content-length') ?? upload.bytes.length),
    },
    userMetadata: upload.userMetadata,
  })
  const id = await store(world, call, target, upload)
  return Response.json({ Id: id, Key: `${bucket}/${name}` })
}

/** PUT to a signed address: what the caller might do was tried when it was signed. */
export async function uploadBySignature(
  world: StorageWorld,
  call: StorageCall,
  bucket: string,
  name: string,
): Promise<Response> {
  const { owner = null, upsert = false } = await world.links.verify(
    call.url.searchParams.get('token'),
    `${bucket}/${name}`,
    'upload',
  )
  const target = { bucket, name, upsert, owner }
  const upload = await readUpload(world, call, target)
  checkKey(name)
  const asService = { ...call, claims: { role: 'service_role' } }
  await tryUpload(world, asService, target, {
    announced: { mimetype: upload.mimeType, contentLength: upload.bytes.length },
    userMetadata: upload.userMetadata,
  })
  await store(world, call, target, upload)
  return Response.json({ Key: `${bucket}/${name}` })
}

const twoHours = 7200

export async function signUpload(
  world: StorageWorld,
  call: StorageCall,
  bucket: string,
  name: string,
): Promise<Response> {
  const { headers } = call.request
  const upsert = headers.get('x-upsert') === 'true'
  const owner = ownerOf(call)
  await tryUpload(
    world,
    call,
    { bucket, name, upsert, owner },
    {
      announced: {
        mimetype: headers.get('content-type') ?? undefined,
        contentLength: Number(headers.get('content-length') ?? 0),
      },
      userMetadata: userMetadata(headers.get('x-metadata')),
    },
  )
  const url = `${bucket}/${name}`
  const token = await world.links.sign({ url, scope: 'upload', owner, upsert }, twoHours)
  return Response.json({ url: `/object/upload/sign/${url}?token=${token}`, token })
}

type Announcement = {
  announced: { mimetype?: string | undefined; contentLength: number }
  userMetadata: Record<string, unknown> | null
}

/** Policies and triggers see the row before the file is taken: with what the request says of it. */
export const tryUpload = (
  world: StorageWorld,
  call: StorageCall,
  target: Target,
  { announced, userMetadata }: Announcement,
) => tryAsCaller(world, call, (tx) => writeRow(tx, target, '1', announced, userMetadata))

async function writeRow(
  tx: Tx,
  { bucket, name, owner, upsert }: Target,
  version: string,
  metadata: object,
  userMetadata: Record<string, unknown> | null,
): Promise<string> {
  const replace = tx`
    on conflict (name, bucket_id) do update set
      metadata = excluded.metadata, user_metadata = excluded.user_metadata, version = excluded.version,
      owner = excluded.owner, owner_id = excluded.owner_id
    returning id`
  const [row] = await tx<{ id: string }[]>`
    insert into storage.objects (bucket_id, name, owner, owner_id, version, metadata, user_metadata)
    values (${bucket}, ${name}, ${owner}, ${owner}, ${version}, ${JSON.stringify(metadata)}::text::jsonb,
      ${userMetadata && JSON.stringify(userMetadata)}::text::jsonb)
    ${upsert ? replace : tx``}`
  return row?.id ?? ''
}

async function store(world: StorageWorld, call: StorageCall, target: Target, upload: Upload): Promise<string> {
  const place = { bucket_id: target.bucket, name: target.name, version: crypto.randomUUID() }
  await world.files.write(place, upload.bytes)
  return complete(world, call, target, place.version, metadataOf(upload), upload.userMetadata)
}

const metadataOf = ({ bytes, mimeType, cacheControl }: Upload): Metadata => ({
  eTag: `"${createHash('md5').update(bytes).digest('hex')}"`,
  size: bytes.length,
  mimetype: mimeType,
  cacheControl,
  lastModified: new Date().toISOString(),
  contentLength: bytes.length,
  httpStatusCode: 200,
})

/** The bytes are there: the row of this version takes the place of the one before. Refused, its bytes go again. */
export async function complete(
  world: StorageWorld,
  call: StorageCall,
  target: Target,
  version: string,
  metadata: Metadata,
  userMetadata: Record<string, unknown> | null,
): Promise<string> {
  const place = { bucket_id: target.bucket, name: target.name }
  try {
    const { id, before } = await inTransaction(world, call, 'service', async (tx) => {
      await tx`select pg_advisory_xact_lock(hashtextextended(${`${target.bucket}/${target.name}`}, 0))`
      const [before] = await tx<{ version: string }[]>`
        select version from storage.objects where bucket_id = ${target.bucket} and name = ${target.name} for update`
      return { id: await writeRow(tx, { ...target, upsert: true }, version, metadata, userMetadata), before }
    })
    if (before) await world.files.remove([{ ...place, version: before.version }])
    return id
  } catch (error) {
    await world.files.remove([{ ...place, version }])
    throw error
  }
}

/** The file that a request brings, alone or in a form; refused as soon as it is too large or of a type the bucket does not take. */
async function readUpload(world: StorageWorld, call: StorageCall, { bucket: id, name }: Target): Promise<Upload> {
  const { request } = call
  const bucket = await findBucket(world, call, id)
  if (!bucket) throw problems.noSuchBucket()
  // A placeholder of an empty folder has no bytes.
  const isPlaceholder = name.endsWith('.emptyFolderPlaceholder')
  const most = isPlaceholder ? 0 : Math.min(world.sizeLimit, Number(bucket.file_size_limit ?? world.sizeLimit))
  const allowed = isPlaceholder ? null : bucket.allowed_mime_types
  const type = request.headers.get('content-type')

  if (!type?.startsWith('multipart/form-data')) {
    const mimeType = type || 'application/octet-stream'
    checkMimeType(mimeType, allowed)
    return {
      bytes: await readBytes(request, most),
      mimeType,
      cacheControl: request.headers.get('cache-control') ?? 'no-cache',
      userMetadata: userMetadata(request.headers.get('x-metadata')),
    }
  }
  const sent = await readBytes(request, most + 2 * metadataLimit)
  const form = await new Response(sent, { headers: { 'content-type': type } }).formData().catch(() => new FormData())
  const file = [...form.values()].find((value) => value instanceof Blob)
  if (!file) throw problems.invalidRequest('No content provided')
  const mimeType = text(form.get('contentType')) || file.type || 'application/octet-stream'
  checkMimeType(mimeType, allowed)
  if (file.size > most) throw problems.tooLarge()
  const given = text(form.get('metadata')) ?? text(form.get('userMetadata'))
  if (given && Buffer.byteLength(given) > metadataLimit) throw problems.tooLarge('user_metadata')
  const cacheTime = text(form.get('cacheControl'))
  // It goes out again as a header.
  if (cacheTime && /[^\x20-\x7e]/.test(cacheTime)) throw problems.invalidRequest('Invalid cacheControl')
  return {
    bytes: new Uint8Array(await file.arrayBuffer()),
    mimeType,
    cacheControl: cacheTime ? `max-age=${cacheTime}` : 'no-cache',
    userMetadata: given ? parseObject(given) : null,
  }
}

const text = (value: unknown) => (typeof value === 'string' ? value : undefined)

async function readBytes(request: Request, most: number): Promise<Uint8Array<ArrayBuffer>> {
  if (Number(request.headers.get('content-length') ?? 0) > most) throw problems.tooLarge()
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > most) throw problems.tooLarge()
    chunks.push(new Uint8Array(chunk))
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer())
}

/** The header x-metadata: JSON in Base64. What is no JSON counts for nothing, as in the real service. */
const userMetadata = (header: string | null) =>
  header === null ? null : parseObject(Buffer.from(header, 'base64').toString())

function parseObject(json: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(json)
    return typeof value === 'object' && value !== null ? { ...value } : null
  } catch {
    return null
  }
}
