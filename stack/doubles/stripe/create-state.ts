/** A new account, and one that is emptied again. */
import Stripe from 'stripe'
import type { State } from './state.ts'

const fresh = () => ({
  settings: {
    dunning_days: [3, 5, 7],
    after_dunning: 'cancel' as const,
    draft_seconds: 3600,
    upcoming_days: 3,
    portal_cancels: 'at_period_end' as const,
    refund_status: 'succeeded' as const,
    api_version: Stripe.API_VERSION,
  },
  clock: { offset: 0, moment: undefined, lead: 0 },
  due: [],
  deliveries: [],
  delivery: { mode: 'normal' as const, random: Math.random, buffer: [], running: 0, waiting: [] },
  request: undefined,
  answers: new Map(),
  failures: [],
  slow_ms: 0,
  counters: { invoice: 0 },
})

/** The collections that make up an account. */
export const mapNames = [
  'customers',
  'cards',
  'leads',
  'products',
  'prices',
  'sessions',
  'sessionItems',
  'sessionOrders',
  'sessionIntents',
  'subscriptions',
  'pendingLines',
  'invoices',
  'invoicePayments',
  'paymentsOfInvoices',
  'intents',
  'charges',
  'refunds',
  'disputes',
  'portals',
  'events',
] as const

export function createState(options: { url: string; secretKey: string; now(): number }): State {
  const realNow = () => Math.floor(options.now() / 1000)
  const state: State = {
    url: options.url,
    secretKey: options.secretKey,
    realNow,
    now: () => state.clock.moment ?? realNow() + state.clock.offset,
    customers: new Map(),
    cards: new Map(),
    leads: new Map(),
    products: new Map(),
    prices: new Map(),
    sessions: new Map(),
    sessionItems: new Map(),
    sessionOrders: new Map(),
    sessionIntents: new Map(),
    subscriptions: new Map(),
    pendingLines: new Map(),
    invoices: new Map(),
    invoicePayments: new Map(),
    paymentsOfInvoices: new Map(),
    intents: new Map(),
    charges: new Map(),
    refunds: new Map(),
    disputes: new Map(),
    portals: new Map(),
    events: new Map(),
    endpoints: new Map(),
    stopped: false,
    isDirty: false,
    ...fresh(),
  }
  return state
}

/** An empty account again; webhook endpoints stay, and what was about to be delivered is forgotten. */
export function resetState(state: State): void {
  for (const name of mapNames) state[name].clear()
  for (const delivery of [...state.deliveries, ...state.delivery.buffer]) delivery.state = 'dropped'
  const running = state.delivery.running
  Object.assign(state, fresh())
  state.delivery.running = running
}
