/** The door: what a caller may send. Refusals name the field and never repeat what was in it. */
import { z } from 'zod'

/** What goes into a header: nothing that could end it, because the runtime's error about that repeats the value. */
const headerValue = z
  .string()
  .min(1)
  .max(4_000)
  .regex(/^[\x21-\x7e]+$/)
/** Secrets that sign may have spaces, and those in PEM have line ends. */
const secret = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .regex(/^[\x20-\x7e\r\n]+$/)

const secrets = {
  api_key: headerValue,
  api_secret: secret(4_000).optional(),
  passphrase: secret(200).optional(),
}
const name = z.string().trim().min(1).max(100)

const place = z.string().min(1).max(80).optional()
/** A key of an exchange or of an AI provider, whichever is named. */
export const newCredential = z
  .strictObject({ exchange: place, provider: place, name, ...secrets })
  .refine(({ exchange, provider }) => (exchange === undefined) !== (provider === undefined), { path: ['exchange'] })
export const newSecrets = z.strictObject(secrets)
export const newName = z.strictObject({ name })
