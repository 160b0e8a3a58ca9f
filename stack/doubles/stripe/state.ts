/** What the stand-in knows: one account, in memory. */

import Stripe from 'stripe'
import type {
  Charge,
  Customer,
  DeletedCustomer,
  Dispute,
  Endpoint,
  Event,
  Invoice,
  InvoiceLine,
  InvoicePayment,
  LineItem,
  PaymentIntent,
  Portal,
  Price,
  Product,
  Refund,
  Session,
  Subscription,
} from './wire.ts'

/** How a customer's card answers when nobody sits before it: at renewals and retries. */
export const cardOutcomes = ['ok', 'declined', 'requires_action'] as const
export type CardOutcome = (typeof cardOutcomes)[number]

type Settings = {
  /** Days between one failed try of an invoice and the next; after the last one `after_dunning` happens. */
  dunning_days: number[]
  after_dunning: 'cancel' | 'unpaid' | 'past_due'
  /** How long the invoice of a renewal stays a draft. */
  draft_seconds: number
  upcoming_days: number
  /** How the portal writes down an end: both are seen at Stripe. */
  portal_cancels: 'at_period_end' | 'at'
  /** With which status a refund begins. */
  refund_status: 'succeeded' | 'pending' | 'requires_action'
  /** Of the events' payloads; objects keep the shape of the pinned version. */
  api_version: string
}

/**
 * `after`: the work is done, and its answer is lost on the way. `saved`: the failure is the request's result, which its
 * idempotency key keeps; with both, one that did its work. Without either, nothing began.
 */
export type Failure = { left: number; status: number; path_prefix: string; after: boolean; saved: boolean }

export const deliveryModes = ['normal', 'hold', 'drop', 'duplicate', 'shuffle'] as const
type DeliveryMode = (typeof deliveryModes)[number]
export type Delivery = {
  event: Event
  endpoint: string
  state: 'waiting' | 'held' | 'delivered' | 'failed' | 'dropped'
  attempts: number
  status: number | null
}

export type DueKind =
  | 'expire_session'
  | 'renew'
  | 'trial_will_end'
  | 'upcoming'
  | 'finalize_invoice'
  | 'retry_invoice'
  | 'expire_incomplete'
/** `at` is by the common clock, whoever's it is. */
export type Due = { at: number; kind: DueKind; id: string }

/** Written out at once: what is stored may change before the answer is sent, or sent again. */
export type Answer = { status: number; text: string; replayed?: boolean }

export type State = {
  url: string
  secretKey: string
  /** Epoch seconds, moved by /control/advance. */
  now(): number
  /** Epoch seconds of the real clock: what webhooks are signed with. */
  realNow(): number
  /** `moment` and `lead` while something happens in the time of a due thing or of a customer. */
  clock: { offset: number; moment: number | undefined; lead: number }
  settings: Settings
  customers: Map<string, Customer | DeletedCustomer>
  cards: Map<string, CardOutcome>
  /** Seconds by which the time of customers was moved on its own. */
  leads: Map<string, number>
  products: Map<string, Product>
  prices: Map<string, Price>
  sessions: Map<string, Session>
  sessionItems: Map<string, LineItem[]>
  /** What a session was created with and does not show. */
  sessionOrders: Map<string, SessionOrder>
  /** The payment intent of the tries before a session is complete. */
  sessionIntents: Map<string, string>
  subscriptions: Map<string, Subscription>
  /** Prorations that wait for the next invoice. */
  pendingLines: Map<string, InvoiceLine[]>
  invoices: Map<string, Invoice>
  invoicePayments: Map<string, InvoicePayment>
  /** By the invoice: which payment pays it. */
  paymentsOfInvoices: Map<string, string>
  intents: Map<string, PaymentIntent>
  charges: Map<string, Charge>
  refunds: Map<string, Refund>
  disputes: Map<string, Dispute>
  portals: Map<string, Portal>
  events: Map<string, Event>
  endpoints: Map<string, { endpoint: Endpoint; secrets: string[] }>
  due: Due[]
  deliveries: Delivery[]
  delivery: { mode: DeliveryMode; random: () => number; buffer: Delivery[]; running: number; waiting: Delivery[] }
  /** The API request that is being answered: events name it. */
  request: { id: string; idempotency_key: string | null } | undefined
  /** By idempotency key: what the answer was, or undefined while it is worked out. */
  answers: Map<string, { digest: string; answer: Answer | undefined }>
  failures: Failure[]
  slow_ms: number
  counters: { invoice: number }
  stopped: boolean
  /** Whether there is something that is not in the file yet. */
  isDirty: boolean
}

type SessionOrder = {
  trial_days: number | undefined
  trial_end: number | undefined
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  subscription_metadata: Record<string, string>
  intent_metadata: Record<string, string>
  intent_description: string | null
}

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

/** A new account. */
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
