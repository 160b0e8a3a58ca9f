/** What the stand-in knows: one account, in memory. */

import { freshSettings, type Settings } from './settings.ts'
import type {
  BalanceEntry,
  Charge,
  Coupon,
  CreditNote,
  Customer,
  DeletedCustomer,
  Discount,
  Dispute,
  Endpoint,
  Event,
  Invoice,
  InvoiceItem,
  InvoicePayment,
  LineItem,
  MoneyEntry,
  PaymentIntent,
  PaymentMethod,
  Portal,
  Price,
  Product,
  PromotionCode,
  Quote,
  Refund,
  Session,
  SetupIntent,
  Subscription,
  SubscriptionItem,
  TaxRate,
  TestClock,
} from './wire.ts'

/** How a customer's card answers when nobody sits before it: at renewals and retries. */
export const cardOutcomes = ['ok', 'declined', 'requires_action', 'processing'] as const
export type CardOutcome = (typeof cardOutcomes)[number]

/**
 * `after`: the work is done, and its answer is lost on the way. `saved`: the failure is the request's result, which its
 * idempotency key keeps; with both, one that did its work. Without either, nothing began.
 */
export type Failure = { left: number; status: number; path_prefix: string; after: boolean; saved: boolean }

export type FinalizationFailure = { left: number; customer: string | undefined; code: string; message: string }

type PendingUpdate = { invoice: string; items: SubscriptionItem[]; billing_cycle_anchor: number }

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
  | 'expire_update'
  | 'resume_collection'
  | 'expire_quote'
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
  /** By the subscription: what of it changes once its invoice is paid. */
  pendingUpdates: Map<string, PendingUpdate>
  coupons: Map<string, Coupon>
  promotionCodes: Map<string, PromotionCode>
  discounts: Map<string, Discount>
  taxRates: Map<string, TaxRate>
  invoiceItems: Map<string, InvoiceItem>
  /** By the customer: the invoice items that wait for an invoice. */
  waitingItems: Map<string, string[]>
  /** By the subscription item: the line or invoice item that charged its current period last; credit is a share of that. */
  debits: Map<string, { invoice: string | null; id: string }>
  balanceEntries: Map<string, BalanceEntry>
  creditNotes: Map<string, CreditNote>
  moneyEntries: Map<string, MoneyEntry>
  quotes: Map<string, Quote>
  quoteItems: Map<string, LineItem[]>
  testClocks: Map<string, TestClock>
  paymentMethods: Map<string, PaymentMethod>
  /** By the payment method: how it answers. */
  methodOutcomes: Map<string, CardOutcome>
  /** By the customer and the type: what they pay with when they have chosen nothing. */
  usualMethods: Map<string, string>
  setupIntents: Map<string, SetupIntent>
  invoices: Map<string, Invoice>
  invoicePayments: Map<string, InvoicePayment>
  /** By the invoice: which payment pays it. */
  paymentsOfInvoices: Map<string, string>
  intents: Map<string, PaymentIntent>
  charges: Map<string, Charge>
  refunds: Map<string, Refund>
  disputes: Map<string, Dispute>
  /** How much of its charge each dispute is about, in the charge's currency. */
  disputedParts: Map<string, number>
  portals: Map<string, Portal>
  events: Map<string, Event>
  endpoints: Map<string, { endpoint: Endpoint; secrets: string[] }>
  due: Due[]
  /** What falls due by a test clock, `at` by that clock. */
  clockDue: (Due & { clock: string })[]
  deliveries: Delivery[]
  delivery: { mode: DeliveryMode; random: () => number; buffer: Delivery[]; running: number; waiting: Delivery[] }
  /** The API request that is being answered: events name it. */
  request: { id: string; idempotency_key: string | null } | undefined
  /** By idempotency key: what the answer was, or undefined while it is worked out. */
  answers: Map<string, { digest: string; answer: Answer | undefined }>
  failures: Failure[]
  finalizationFailures: FinalizationFailure[]
  slow_ms: number
  counters: { invoice: number; quote: number }
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
  discount: { coupon: string; promotion_code: string | null } | undefined
  billing_cycle_anchor: number | undefined
  proration_behavior: 'create_prorations' | 'none'
  tax_rates: string[]
}

const fresh = () => ({
  settings: freshSettings(),
  clock: { offset: 0, moment: undefined, lead: 0 },
  due: [],
  clockDue: [],
  deliveries: [],
  delivery: { mode: 'normal' as const, random: Math.random, buffer: [], running: 0, waiting: [] },
  request: undefined,
  answers: new Map(),
  failures: [],
  finalizationFailures: [],
  slow_ms: 0,
  counters: { invoice: 0, quote: 0 },
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
  'pendingUpdates',
  'coupons',
  'promotionCodes',
  'discounts',
  'taxRates',
  'invoiceItems',
  'waitingItems',
  'debits',
  'balanceEntries',
  'creditNotes',
  'moneyEntries',
  'quotes',
  'quoteItems',
  'testClocks',
  'paymentMethods',
  'methodOutcomes',
  'usualMethods',
  'setupIntents',
  'invoices',
  'invoicePayments',
  'paymentsOfInvoices',
  'intents',
  'charges',
  'refunds',
  'disputes',
  'disputedParts',
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
    pendingUpdates: new Map(),
    coupons: new Map(),
    promotionCodes: new Map(),
    discounts: new Map(),
    taxRates: new Map(),
    invoiceItems: new Map(),
    waitingItems: new Map(),
    debits: new Map(),
    balanceEntries: new Map(),
    creditNotes: new Map(),
    moneyEntries: new Map(),
    quotes: new Map(),
    quoteItems: new Map(),
    testClocks: new Map(),
    paymentMethods: new Map(),
    methodOutcomes: new Map(),
    usualMethods: new Map(),
    setupIntents: new Map(),
    invoices: new Map(),
    invoicePayments: new Map(),
    paymentsOfInvoices: new Map(),
    intents: new Map(),
    charges: new Map(),
    refunds: new Map(),
    disputes: new Map(),
    disputedParts: new Map(),
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
