/** A customer's credit balance: what changes it, and what Stripe charges at least. */
import type { State } from './state.ts'
import { type BalanceEntry, type Customer, type Metadata, newId, nulls } from './wire.ts'

type NewEntry = {
  amount: number
  currency: string
  type: BalanceEntry['type']
  invoice?: string
  credit_note?: string
  description?: string | null
  metadata?: Metadata
}

/** Negative is credit of the customer's, positive what they owe. */
export function moveBalance(state: State, customer: Customer, given: NewEntry): BalanceEntry {
  customer.balance += given.amount
  customer.currency ??= given.currency
  const entry: BalanceEntry = {
    ...nulls('checkout_session credit_note customer_account description invoice'),
    metadata: {},
    ...given,
    id: newId('cbtxn_1', 23),
    object: 'customer_balance_transaction',
    created: state.now(),
    customer: customer.id,
    ending_balance: customer.balance,
    livemode: false,
  }
  state.balanceEntries.set(entry.id, entry)
  return entry
}

/** By Stripe's table of least amounts; currencies that it does not name are as half a dollar. */
const least: Record<string, number> = {
  aed: 200,
  bgn: 100,
  czk: 1500,
  dkk: 250,
  gbp: 30,
  hkd: 400,
  huf: 17_500,
  mxn: 1000,
  myr: 200,
  nok: 300,
  pln: 200,
  ron: 200,
  sek: 300,
  thb: 1000,
}

export const leastCharge = (currency: string) => least[currency] ?? 50
