/** The secrets of one local stack: made once, kept in the data folder with mode 0600, never printed to a log. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { z } from 'zod'
import { StackError } from './config.ts'
import { makePlatformKeys, platformKeys } from './platform/keys.ts'

const keysSchema = platformKeys.extend({
  demoPassword: z.string().min(12),
  /** Of the stand-in for Stripe. */
  stripe: z.object({ secretKey: z.string().startsWith('sk_test_'), webhookSecret: z.string().startsWith('whsec_') }),
})

export type StackKeys = z.infer<typeof keysSchema>

/** Reads the keys of a data folder, or makes them on the first start. */
export async function loadKeys(file: string): Promise<StackKeys> {
  if (existsSync(file)) return readKeys(file)
  const keys = keysSchema.parse({
    ...(await makePlatformKeys()),
    demoPassword: `Demo1${randomBytes(9).toString('base64url')}`,
    stripe: stripeKeys(),
  })
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  writeFileSync(`${file}.new`, `${JSON.stringify(keys, null, 2)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
  return keys
}

function readKeys(file: string): StackKeys {
  try {
    return keysSchema.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    throw new StackError(
      `${file} is damaged, or older than this version. Restore it, or run "npm run reset" to start over with an empty stack.`,
    )
  }
}

/** In the form of Stripe's test keys, without the characters that they never have. */
function stripeKeys(): StackKeys['stripe'] {
  const random = () => randomBytes(32).toString('hex')
  return { secretKey: `sk_test_${random()}`, webhookSecret: `whsec_${random()}` }
}
