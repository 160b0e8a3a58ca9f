/** Password hashes and rules. Nothing here logs, and no error repeats a password. */
import { createCipheriv, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import bcrypt from 'bcrypt'
import { argon2Verify } from 'hash-wasm'
import { AuthProblem, invalid } from './errors.ts'
import type { AuthSettings } from './settings.ts'

const maxBytes = 72
const encoder = new TextEncoder()

type Cost = Pick<AuthSettings, 'password_hash_cost'>

/** The form is the Auth service's. The work is done in libuv's threads, so that nobody else's request waits for it. */
export const hashPassword = async ({ password_hash_cost }: Cost, password: string) =>
  bcrypt.hash(password, await bcrypt.genSalt(password_hash_cost, 'a'))

/** Hashes of nobody's password, by their cost: verifying against one takes as long as against a user's. */
const nobodies = new Map<number, Promise<string>>()

/** Made when a service starts, so that not even the first stranger is told from a user by the time. */
export function hashOfNobody(cost: Cost): Promise<string> {
  const known = nobodies.get(cost.password_hash_cost)
  const hash = known ?? hashPassword(cost, randomBytes(32).toString('base64url'))
  nobodies.set(cost.password_hash_cost, hash)
  return hash
}

/** The work of a verification for an address that has no user, or a user that has no password. */
export async function verifyNobody(cost: Cost, password: string): Promise<false> {
  await verifyPassword(password, await hashOfNobody(cost))
  return false
}

const bcryptForm = /^\$2[aby]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}$/
const argon2Form = /^\$argon2(?:id|i)\$v=19\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$/
const firebaseForm =
  /^\$fbscrypt\$v=1,n=(?<n>\d+),r=(?<r>\d+),p=(?<p>\d+)(?:,ss=(?<ss>[^,$]+))?(?:,sk=(?<sk>[^,$]+))?\$(?<salt>[^$]+)\$(?<hash>[^$]+)$/

export async function verifyPassword(password: string, hash: string): Promise<boolean> {
  if (password === '') return false
  if (bcryptForm.test(hash)) {
    // bcrypt reads 72 bytes and no more, wherever the hash was made.
    // What PHP calls 2y is 2b, and only that name is known here.
    const known = hash.replace(/^\$2y/, '$2b')
    return bcrypt.compare(Buffer.from(encoder.encode(password).slice(0, maxBytes)), known)
  }
  if (argon2Form.test(hash)) return argon2Verify({ password, hash })
  const firebase = firebaseForm.exec(hash)?.groups
  return firebase ? verifyFirebase(password, firebase) : false
}

/** Hashes that the admin API takes over from other systems. */
export function assertAcceptedHash(hash: string): void {
  const firebase = firebaseForm.exec(hash)?.groups
  const isFirebase = firebase !== undefined && Number(firebase.n) >= 1 && Number(firebase.n) <= 20
  if (!bcryptForm.test(hash) && !argon2Form.test(hash) && !isFirebase) {
    throw invalid('password_hash must be a bcrypt, argon2 or Firebase scrypt hash')
  }
}

/** Firebase encrypts its project's signer key with a key that scrypt derives from the password. */
async function verifyFirebase(password: string, parts: Record<string, string | undefined>): Promise<boolean> {
  const bytes = (text = '') => Buffer.from(text, 'base64')
  const [cost, blockSize, parallelization] = [2 ** Number(parts.n), Number(parts.r), Number(parts.p)]
  const options = { cost, blockSize, parallelization, maxmem: 256 * cost * blockSize }
  const salt = Buffer.concat([bytes(parts.salt), bytes(parts.ss)])
  const key = await new Promise<Buffer>((resolve, reject) =>
    scrypt(password, salt, 32, options, (error, derived) => (error ? reject(error) : resolve(derived))),
  )
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  const made = Buffer.concat([cipher.update(bytes(parts.sk)), cipher.final()])
  const known = bytes(parts.hash)
  return made.length === known.length && timingSafeEqual(made, known)
}

const lower = 'abcdefghijklmnopqrstuvwxyz'
const digits = '0123456789'
const characterSets: Record<AuthSettings['password_requirements'], string[]> = {
  '': [],
  letters_digits: [lower + lower.toUpperCase(), digits],
  lower_upper_letters_digits: [lower, lower.toUpperCase(), digits],
  lower_upper_letters_digits_symbols: [lower, lower.toUpperCase(), digits, '!@#$%^&*()_+-=[]{};\'\\:"|<>?,./`~'],
}

type Rules = Pick<AuthSettings, 'minimum_password_length' | 'password_requirements'>
type Weakness = { message: string; reasons: ('length' | 'characters')[] }

/** Why a password is too weak for the rules of today; null when it is not. */
export function weaknessOf(rules: Rules, password: string): Weakness | null {
  const sets = characterSets[rules.password_requirements]
  const isShort = encoder.encode(password).length < rules.minimum_password_length
  const isPlain = sets.some((set) => ![...set].some((character) => password.includes(character)))
  if (!isShort && !isPlain) return null
  const length = `Password should be at least ${rules.minimum_password_length} characters.`
  const characters = `Password should contain at least one character of each: ${sets.join(', ')}.`
  return {
    message: [...(isShort ? [length] : []), ...(isPlain ? [characters] : [])].join(' '),
    reasons: [...(isShort ? ['length' as const] : []), ...(isPlain ? ['characters' as const] : [])],
  }
}

/** Refuses a new password that is too long (400) or too weak (422 weak_password with its reasons). */
export function checkStrength(rules: Rules, password: string): void {
  if (encoder.encode(password).length > maxBytes) throw invalid(`Password cannot be longer than ${maxBytes} characters`)
  const weakness = weaknessOf(rules, password)
  if (weakness) {
    throw new AuthProblem(422, 'weak_password', weakness.message, { weak_password: { reasons: weakness.reasons } })
  }
}
