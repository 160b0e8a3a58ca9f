/** The account's own money: what each payment, refund and dispute moves, in the currency that the account is settled in. */
import type { State } from './state.ts'
import { type MoneyEntry, newId, nulls } from './wire.ts'

type NewEntry = { amount: number; currency: string; type: MoneyEntry['type']; source: string; fee?: number }

const categories: Record<string, string> = { payment: 'charge', payment_refund: 'refund', adjustment: 'dispute' }

export function settleMoney(state: State, { amount, currency, type, source, fee = 0 }: NewEntry): MoneyEntry {
  const { settlement } = state.settings
  const isForeign = settlement !== null && settlement.currency !== currency
  const settled = isForeign ? Math.round(amount * settlement.rate) : amount
  const into = isForeign ? settlement.currency : currency
  const details = {
    amount: fee,
    currency: into,
    description: 'Dispute fee',
    type: 'stripe_fee',
    ...nulls('application'),
  }
  const entry: MoneyEntry = {
    ...nulls('description'),
    id: newId('txn_1', 23),
    object: 'balance_transaction',
    amount: settled,
    available_on: state.now(),
    balance_type: 'payments',
    created: state.now(),
    currency: into,
    exchange_rate: isForeign ? settlement.rate : null,
    fee,
    fee_details: fee === 0 ? [] : [details],
    net: settled - fee,
    reporting_category: categories[type] ?? type,
    source,
    status: 'available',
    type,
  }
  state.moneyEntries.set(entry.id, entry)
  return entry
}
