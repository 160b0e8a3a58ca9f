/** Refusals of the Storage service, in the shape of the real one: its status is in the body, HTTP says 400 to nearly all. */
import type postgres from 'postgres'

export class StorageProblem extends Error {
  readonly status: number
  readonly code: string
  /** An older name of the code, where there is one. */
  readonly error: string

  constructor(status: number, code: string, message: string, error = code) {
    super(message)
    this.status = status
    this.code = code
    this.error = error
  }
}

export const problems = {
  invalidKey: (key: string) => new StorageProblem(400, 'InvalidKey', `Invalid key: ${key}`),
  invalidBucketName: () => new StorageProblem(400, 'InvalidBucketName', 'Bucket name invalid', 'Invalid Input'),
  invalidRequest: (message: string) => new StorageProblem(400, 'InvalidRequest', message),
  invalidMimeType: (type: string) =>
    new StorageProblem(415, 'InvalidMimeType', `mime type ${type} is not supported`, 'invalid_mime_type'),
  invalidToken: (message: string) => new StorageProblem(400, 'InvalidJWT', message),
  invalidSignature: (message = 'Invalid signature') => new StorageProblem(400, 'InvalidSignature', message),
  invalidRange: () => new StorageProblem(400, 'InvalidRange', 'invalid range provided', 'invalid_range'),
  noSuchBucket: () => new StorageProblem(404, 'NoSuchBucket', 'Bucket not found', 'Bucket not found'),
  noSuchKey: () => new StorageProblem(404, 'NoSuchKey', 'Object not found', 'not_found'),
  accessDenied: (message = 'Access denied') => new StorageProblem(403, 'AccessDenied', message, 'Unauthorized'),
  keyExists: () => new StorageProblem(409, 'KeyAlreadyExists', 'The resource already exists', 'Duplicate'),
  bucketExists: () => new StorageProblem(409, 'BucketAlreadyExists', 'The resource already exists', 'Duplicate'),
  bucketNotEmpty: () =>
    new StorageProblem(409, 'ResourceNotEmpty', 'The bucket you tried to delete is not empty', 'ResourceNotEmpty'),
  tooLarge: (what = 'object') =>
    new StorageProblem(413, 'EntityTooLarge', `The ${what} exceeded the maximum allowed size`, 'Payload too large'),
}

export function renderStorageProblem({ status, code, error, message }: StorageProblem): Response {
  return Response.json(
    { statusCode: String(status), error, message, code },
    { status: [500, 544].includes(status) ? status : 400 },
  )
}

/** What a refusal of PostgreSQL is to the caller. Words of a trigger reach them; those of a policy are always the same. */
export function problemOf(error: postgres.PostgresError): StorageProblem {
  switch (error.code) {
    case '42501':
      return problems.accessDenied(
        error.message.includes('row-level security') ? 'new row violates row-level security policy' : error.message,
      )
    case '23505':
      return error.table_name === 'buckets' ? problems.bucketExists() : problems.keyExists()
    case '23503':
      return error.detail?.includes('is still referenced from table')
        ? new StorageProblem(
            409,
            'ResourceReferenced',
            'The resource could not be updated or removed due to a foreign key constraint',
          )
        : new StorageProblem(404, 'InvalidRequest', 'The related resource does not exist')
    case '22P02':
      return new StorageProblem(400, 'InvalidParameter', error.message)
    case '57014':
      return new StorageProblem(544, 'DatabaseTimeout', 'The connection to the database timed out')
    default:
      return new StorageProblem(500, 'DatabaseError', `database error, code: ${error.code}`)
  }
}
