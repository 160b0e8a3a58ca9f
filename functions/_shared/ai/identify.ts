/** Who calls. Requests without a valid token or key are counted by address, since there is nobody else to count them for. */
import { type Caller, identifyCaller } from '../auth/identify-caller.ts'
import { AppError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { clientAddress } from '../http/client-address.ts'
import { limitHeaders } from '../http/limit-headers.ts'
import type { AnonymousVerdict } from './ledger-contract.ts'
import type { AiWorld } from './world.ts'

export async function identify(headers: Headers, world: AiWorld): Promise<Caller> {
  try {
    return await identifyCaller(headers, world)
  } catch (cause) {
    const error = toAppError(cause)
    const ip = clientAddress(headers)
    if (error.code !== 'invalid_api_key' || ip === null) throw error
    throw tooMany(await countOrAllow(ip, world), world.now()) ?? error
  }
}

/** The caller is refused either way, so that a counter that is away changes nothing but the reason. */
async function countOrAllow(ip: string, world: AiWorld): Promise<AnonymousVerdict> {
  try {
    return await world.countAnonymous(ip, 'ai')
  } catch (cause) {
    world.log({ level: 'error', message: 'an anonymous request was not counted', ...causeOf(cause) })
    return { allowed: true }
  }
}

function tooMany({ allowed, limit, retry_after_s }: AnonymousVerdict, now: number): AppError | undefined {
  if (allowed) return undefined
  const message = 'Too many requests without a valid token or key came from this address.'
  const headers = limitHeaders(limit ? [limit] : [], now)
  return new AppError('rate_limit_exceeded', { message, retryAfterS: retry_after_s ?? undefined, headers })
}
