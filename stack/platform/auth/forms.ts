/** What callers send: each handler says which fields it reads; the rest is ignored, as the real service does. */
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import type { AuthCall } from './world.ts'

const optionalText = z.string().nullish()

export const metadata = z.record(z.string(), z.unknown()).nullish()
export const challenge = { code_challenge: optionalText, code_challenge_method: optionalText }
export const text = optionalText

export function readForm<Schema extends z.ZodType>(call: AuthCall, schema: Schema): z.infer<Schema> {
  const parsed = schema.safeParse(call.body)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw invalid(`Could not read the field ${issue?.path.join('.') || 'body'}: ${issue?.message ?? 'not valid'}`)
}

const address = z.email().max(255)

/** The address in lower case, or the refusal. */
export function validEmail(email: string): string {
  const normal = email.trim().toLowerCase()
  if (address.safeParse(normal).success) return normal
  throw invalid('Unable to validate email address: invalid format')
}

export const nothing = () => Response.json({})

/** Refuses a second mail of the same kind to the same user too soon. */
export function checkFrequency(lastSent: Date | null, now: Date, intervalMs: number): void {
  const waitMs = (lastSent?.getTime() ?? 0) + intervalMs - now.getTime()
  if (lastSent === null || waitMs <= 0) return
  const seconds = Math.ceil(waitMs / 1000)
  throw new AuthProblem(
    429,
    'over_email_send_rate_limit',
    `For security purposes, you can only request this after ${seconds} seconds.`,
  )
}
