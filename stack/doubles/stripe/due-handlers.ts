/** Who does what falls due. */
import { expireDue } from './checkout.ts'
import type { DueHandlers } from './due.ts'
import { expireIncomplete, finalizeDue, renew, retryDue, trialWillEnd, upcoming } from './renew.ts'

export const dueHandlers: DueHandlers = {
  expire_session: expireDue,
  renew,
  trial_will_end: trialWillEnd,
  upcoming,
  finalize_invoice: finalizeDue,
  retry_invoice: retryDue,
  expire_incomplete: expireIncomplete,
}
