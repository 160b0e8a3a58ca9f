/** What the stand-in knows: one account, in memory. */
import type { Delivery, DeliveryMode } from './delivery.ts'
import type { Due } from './due.ts'
import type { Answer } from './routes.ts'
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

export type Settings = {
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

export type SessionOrder = {
  trial_days: number | undefined
  trial_end: number | undefined
  missing_payment_method: 'create_invoice' | 'pause' | 'cancel'
  subscription_metadata: Record<string, string>
  intent_metadata: Record<string, string>
  intent_description: string | null
}
