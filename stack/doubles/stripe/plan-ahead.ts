/** When a subscription's turn comes. */
import { schedule } from './due.ts'
import type { State } from './state.ts'
import type { Subscription } from './wire.ts'

const day = 86_400

/** The end of the current period of the item whose turn comes first. */
export const nextRenewal = ({ items }: Subscription) =>
  Math.min(...items.data.map(({ current_period_end }) => current_period_end))

export function planAhead(state: State, subscription: Subscription): void {
  const at = Math.min(nextRenewal(subscription), subscription.cancel_at ?? Number.POSITIVE_INFINITY)
  schedule(state, at, 'renew', subscription.id)
  const upcoming = at - state.settings.upcoming_days * day
  if (upcoming > state.now()) schedule(state, upcoming, 'upcoming', subscription.id)
}
