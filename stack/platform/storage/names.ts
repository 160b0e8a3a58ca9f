/** Which names and types Storage takes: what S3 can keep, as the real service checks it. */
import { problems } from './errors.ts'

const key = /^[A-Za-z0-9_/!.*'() &$=@;:+,?-]+$/
const bucket = /^[A-Za-z0-9_!.*'() &$=@;:+,?-]{1,100}$/

export function checkKey(name: string): string {
  if (!key.test(name)) throw problems.invalidKey(name)
  return name
}

export function checkBucketName(name: string): string {
  if (!bucket.test(name)) throw problems.invalidBucketName()
  return name
}

/** `image/*` allows every image. Parameters belong to the type: `text/plain;charset=utf-8` is not `text/plain`. */
export function checkMimeType(type: string, allowed: string[] | null): void {
  if (!allowed || allowed.length === 0) return
  const [kind, form] = type.split('/')
  const isAllowed =
    form !== undefined && allowed.map((one) => one.split('/')).some(([k, f]) => k === kind && (f === '*' || f === form))
  if (!isAllowed) throw problems.invalidMimeType(type)
}

/** The list of types that a bucket may be given. */
export function checkAllowedTypes(types: string[]): string[] {
  for (const type of types) {
    if (type.length > 1000 || !/^[a-zA-Z0-9\-+.]+\/[a-zA-Z0-9\-+.]+(;\s*charset=[a-zA-Z0-9-]+)?$|\*$/.test(type))
      throw problems.invalidMimeType(type)
  }
  return types
}

const units: Record<string, number> = { gb: 1e9, mb: 1e6, kb: 1e3, b: 1 }

/** `20MB`, or bytes; never more than the project's own limit. */
export function parseSizeLimit(value: string | number, most: number): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)([gmk]?b)$/i.exec(String(value)) ?? []
  const bytes = typeof value === 'number' ? value : Number(amount) * (units[unit?.toLowerCase() ?? ''] ?? Number.NaN)
  if (!Number.isFinite(bytes))
    throw problems.invalidRequest('Invalid file size format, hint: use 20GB / 20MB / 30KB / 3B')
  if (bytes > most) throw problems.tooLarge()
  return bytes
}
