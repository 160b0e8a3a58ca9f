/** Files that are read: with the caller's rights, from a public bucket, or by a signed address. */
import { problems } from './errors.ts'
import { checkKey } from './names.ts'
import {
  findBucket,
  findObject,
  inTransaction,
  type Metadata,
  type StorageCall,
  type StorageWorld,
  type StoredObject,
} from './world.ts'

/** GET and HEAD, and `info`: the object alone. What is public needs no policy. */
export async function readFile(
  world: StorageWorld,
  call: StorageCall,
  id: string,
  name: string,
  isInfo = false,
): Promise<Response> {
  const bucket = await findBucket(world, call, id)
  if (!bucket) throw problems.noSuchBucket()
  return show(world, call, await find(world, call, bucket.public ? 'service' : 'caller', id, name), isInfo)
}

export async function readPublic(
  world: StorageWorld,
  call: StorageCall,
  id: string,
  name: string,
  isInfo = false,
): Promise<Response> {
  if (!(await findBucket(world, call, id))?.public) throw problems.noSuchBucket()
  return show(world, call, await find(world, call, 'service', id, name), isInfo)
}

export async function readBySignature(
  world: StorageWorld,
  call: StorageCall,
  id: string,
  name: string,
): Promise<Response> {
  const { exp } = await world.links.verify(call.url.searchParams.get('token'), `${id}/${name}`, 'download')
  const answer = await show(world, call, await find(world, call, 'service', id, name), false)
  // No cache keeps it longer than the address is good for.
  answer.headers.delete('cache-control')
  answer.headers.set('expires', new Date(exp * 1000).toUTCString())
  return answer
}

async function find(world: StorageWorld, call: StorageCall, who: 'caller' | 'service', bucket: string, name: string) {
  checkKey(name)
  const object = await inTransaction(world, call, who, (tx) => findObject(tx, bucket, name))
  if (!object) throw problems.noSuchKey()
  return object
}

async function show(world: StorageWorld, call: StorageCall, object: StoredObject, isInfo: boolean): Promise<Response> {
  const { metadata } = object
  // A row that SQL wrote has no file.
  if (!metadata?.eTag) throw problems.noSuchKey()
  if (isInfo) return Response.json(describe(object, metadata))
  const { request, url } = call
  const headers = new Headers({
    'accept-ranges': 'bytes',
    'content-type': /text\/html/i.test(metadata.mimetype) ? 'text/plain' : metadata.mimetype,
    etag: metadata.eTag,
    'last-modified': new Date(metadata.lastModified).toUTCString(),
    'cache-control': metadata.cacheControl,
    'x-content-type-options': 'nosniff',
    'x-robots-tag': 'none',
  })
  if (request.headers.get('if-none-match') === metadata.eTag) return new Response(null, { status: 304, headers })
  const download = url.searchParams.get('download')
  if (download !== null) headers.set('content-disposition', disposition(download))
  const range = readRange(request.headers.get('range'), metadata.size)
  headers.set('content-length', String(range.end - range.start + 1))
  if (range.isPart) headers.set('content-range', `bytes ${range.start}-${range.end}/${metadata.size}`)
  const body = request.method === 'HEAD' || metadata.size === 0 ? null : await world.files.read(object, range)
  return new Response(body, { status: range.isPart ? 206 : 200, headers })
}

const disposition = (name: string) => {
  const encoded = encodeURIComponent(name)
  return name === '' ? 'attachment;' : `attachment; filename=${encoded}; filename*=UTF-8''${encoded}`
}

const describe = (
  { id, name, version, bucket_id, user_metadata, updated_at, created_at }: StoredObject,
  metadata: Metadata,
) => ({
  id,
  name,
  version,
  bucket_id,
  size: metadata.size,
  content_type: metadata.mimetype,
  cache_control: metadata.cacheControl,
  etag: metadata.eTag,
  metadata: user_metadata,
  last_modified: updated_at,
  created_at,
})

/** `bytes=0-9`, `bytes=10-` or `bytes=-5`; another unit asks for the whole file. */
function readRange(header: string | null, size: number): { start: number; end: number; isPart: boolean } {
  const [asked, from = '', to = ''] = /^bytes=(\d*)-(\d*)$/.exec(header ?? '') ?? []
  if (!asked) return { start: 0, end: size - 1, isPart: false }
  const start = from === '' ? Math.max(size - Number(to), 0) : Number(from)
  const end = from === '' || to === '' ? size - 1 : Math.min(Number(to), size - 1)
  if ((from === '' && to === '') || start > end) throw problems.invalidRange()
  return { start, end, isPart: true }
}
