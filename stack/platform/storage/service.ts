/** The Storage service of the local stack, for the gateway, which has checked key and token: which function answers which request. */
import postgres from 'postgres'
import type { Parts, Service } from '../gateway/lite.ts'
import { changeBucket, createBucket, deleteBucket, emptyBucket, listBuckets, showBucket } from './buckets.ts'
import { readBySignature, readFile, readPublic } from './downloads.ts'
import { problemOf, problems, renderStorageProblem, StorageProblem } from './errors.ts'
import { createFiles } from './files.ts'
import { createLinks } from './links.ts'
import { checkBucketName } from './names.ts'
import {
  copyObject,
  listByCursor,
  listObjects,
  moveObject,
  removeObject,
  removeObjects,
  signObject,
  signObjects,
} from './objects.ts'
import { signUpload, uploadBySignature, uploadFile } from './uploads.ts'
import type { StorageCall, StorageWorld } from './world.ts'

type Answer = (world: StorageWorld, call: StorageCall, bucket: string, name: string) => Promise<Response>
type Route = [methods: string, path: RegExp, operation: string, answer: Answer]

const info =
  (read: typeof readFile): Answer =>
  (world, call, bucket, name) =>
    read(world, call, bucket, name, true)

/** The first that fits; operations are those of the real service, since policies may ask for them. */
const routes: Route[] = [
  ['POST', /^\/bucket$/, 'bucket.create', createBucket],
  ['GET', /^\/bucket$/, 'bucket.list', listBuckets],
  ['GET', /^\/bucket\/([^/]+)$/, 'bucket.get', showBucket],
  ['PUT', /^\/bucket\/([^/]+)$/, 'bucket.update', changeBucket],
  ['DELETE', /^\/bucket\/([^/]+)$/, 'bucket.delete', deleteBucket],
  ['POST', /^\/bucket\/([^/]+)\/empty$/, 'bucket.empty', emptyBucket],
  ['POST', /^\/object\/list\/([^/]+)$/, 'object.list', listObjects],
  ['POST', /^\/object\/list-v2\/([^/]+)$/, 'object.list_v2', listByCursor],
  ['POST', /^\/object\/move$/, 'object.move', moveObject],
  ['POST', /^\/object\/copy$/, 'object.copy', copyObject],
  ['POST', /^\/object\/sign\/([^/]+)$/, 'object.sign_many', signObjects],
  ['POST', /^\/object\/sign\/([^/]+)\/(.+)$/, 'object.sign', signObject],
  ['GET HEAD', /^\/object\/sign\/([^/]+)\/(.+)$/, 'object.get_signed', readBySignature],
  ['POST', /^\/object\/upload\/sign\/([^/]+)\/(.+)$/, 'object.sign_upload_url', signUpload],
  ['PUT', /^\/object\/upload\/sign\/([^/]+)\/(.+)$/, 'object.upload_signed', uploadBySignature],
  ['GET HEAD', /^\/object\/public\/([^/]+)\/(.+)$/, 'object.get_public', readPublic],
  ['GET', /^\/object\/info\/public\/([^/]+)\/(.+)$/, 'object.info_public', info(readPublic)],
  ['GET', /^\/object\/info\/(?:authenticated\/)?([^/]+)\/(.+)$/, 'object.get_authenticated_info', info(readFile)],
  ['GET HEAD', /^\/object\/(?:authenticated\/)?([^/]+)\/(.+)$/, 'object.get_authenticated', readFile],
  ['POST', /^\/object\/([^/]+)\/(.+)$/, 'object.upload', uploadFile],
  ['PUT', /^\/object\/([^/]+)\/(.+)$/, 'object.upload_update', uploadFile],
  ['DELETE', /^\/object\/([^/]+)$/, 'object.delete_many', removeObjects],
  ['DELETE', /^\/object\/([^/]+)\/(.+)$/, 'object.delete', removeObject],
]

/** As role supabase_storage_admin; files lie in the data folder. */
export function createStorageService({
  config,
  keys,
  settings,
  dbUrl,
  log,
}: Parts & { log(line: string): void }): Service {
  const sql = postgres(dbUrl('supabase_storage_admin'), { max: 8, onnotice: () => {} })
  const world = {
    sql,
    files: createFiles(config.storageFolder),
    links: createLinks(keys.innerJwtSecret),
    sizeLimit: settings.storage.file_size_limit,
  }
  return {
    async fetch(request, claims) {
      try {
        return await answer(world, request, claims)
      } catch (error) {
        if (error instanceof StorageProblem) return renderStorageProblem(error)
        if (error instanceof postgres.PostgresError) {
          const problem = problemOf(error)
          if (problem.status === 500) log(`storage: ${request.method}: ${error.message}`)
          return renderStorageProblem(problem)
        }
        throw error
      }
    },
    close: () => sql.end({ timeout: 1 }),
  }
}

async function answer(world: StorageWorld, request: Request, claims: Record<string, unknown>): Promise<Response> {
  const url = new URL(request.url)
  const path = url.pathname.replace(/^\/storage\/v1/, '').replace(/(?<=.)\/$/, '')
  const method = request.method
  for (const [methods, pattern, operation, respond] of routes) {
    const found = methods.split(' ').includes(method) ? pattern.exec(path) : null
    if (!found) continue
    const [bucket = '', name = ''] = found.slice(1).map(decode)
    if (path.startsWith('/object/') && found.length > 1) checkBucketName(bucket)
    return respond(world, { request, url, claims, operation: `storage.${operation}` }, bucket, name)
  }
  const message = `Route ${method}:${path} not found`
  return Response.json({ statusCode: '404', error: 'Not Found', message, code: 'InvalidRequest' }, { status: 404 })
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    throw problems.invalidRequest('The path is not encoded as it should be')
  }
}
