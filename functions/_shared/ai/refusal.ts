/** From the ledger's "no" to an error of ours. */
import { AppError, isErrorCode } from '../errors.ts'
import type { Admission } from './ledger-contract.ts'

type Refusal = {
  code: string
  message?: string | null | undefined
  details?: Extract<Admission, { admitted: false }>['details']
}

/** A code that the catalogue does not have is a mistake of ours: the caller is refused all the same. */
export function refusal({ code, message, details }: Refusal): AppError {
  if (!isErrorCode(code)) return new AppError('internal', { cause: `the ledger refused with the unknown code ${code}` })
  return new AppError(code, {
    message: message ?? undefined,
    param: details?.param ?? undefined,
    retryAfterS: details?.retry_after_s ?? undefined,
    resetsAt: details?.resets_at ?? undefined,
    limit: details?.limit ?? undefined,
  })
}
