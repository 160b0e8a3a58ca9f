/**
 * What an event is about, read from Stripe as it is now: events come late, twice and in any order, so what they carry is only
 * read where Stripe has the object no more.
 */
import { z } from 'zod'
import { checkoutSessionReading, invoiceReading } from './read-payments.ts'
import { creditNoteReading, disputeReading, refundReading } from './read-returns.ts'
import { customerReading, type Reading, subscriptionReading } from './readings.ts'
import type { StripeReader } from './stripe-reader.ts'
import { type Origin, reference } from './stripe-shapes.ts'

/** An event of the inbox, or an object as if there were one. `object` is Stripe's name of the kind of thing it is about. */
export type Subject = { type: string; object: string | null; object_id: string | null; payload: unknown }

export type ReadContext = {
  reader: StripeReader
  /** The database's time before the reading begins, as ISO. */
  readAt: string
  /** Of the key that reads, for objects that do not say it. */
  livemode: boolean
}

type Read = (id: string, context: ReadContext, event?: Subject) => Promise<Reading[]>

/** What to read for an event about each kind of object. Other kinds change nothing here. */
const reads = new Map<string, Read>([
  ['customer', readCustomer],
  ['subscription', readSubscription],
  ['invoice', readInvoice],
  ['checkout.session', readSession],
  ['refund', readRefund],
  ['dispute', readDispute],
  ['credit_note', readCreditNote],
  ['charge', readCharge],
  ['invoice_payment', readInvoicePayment],
  ['payment_intent', readIntent],
])

/** An upcoming invoice is a forecast: there is nothing to read at its id, if it has one. */
export async function readObjects(event: Subject, context: ReadContext): Promise<Reading[]> {
  const read = reads.get(event.object ?? '')
  if (!read || event.object_id === null || event.type === 'invoice.upcoming') return []
  return unique(await read(event.object_id, context, event))
}

const payloads = z.object({ data: z.object({ object: z.unknown() }) })
const carried = (event: Subject | undefined): unknown => payloads.safeParse(event?.payload).data?.data.object

/** Stripe goes on answering for these after their end, or when they were deleted. */
const neverMissing = ['customer', 'subscription']

/**
 * The object from Stripe, or the one that the event carries, marked as deleted; nothing when there is neither. An error where an
 * object is missing that cannot be: the key is another account's, and what is paid there must not end here.
 */
async function current<R extends Reading>(
  asked: Promise<unknown>,
  event: Subject | undefined,
  { readAt }: ReadContext,
  make: (raw: unknown, origin: Origin) => R,
): Promise<R | undefined> {
  const found = await asked
  if (found !== undefined) return make(found, { read_at: readAt, deleted: false })
  const last = carried(event)
  if (event && neverMissing.includes(event.object ?? '') && !event.type.endsWith('.deleted'))
    throw Object.assign(new Error(`Stripe has no ${event.object} ${event.object_id}`), { code: 'missing_at_stripe' })
  return last === undefined ? undefined : make(last, { read_at: readAt, deleted: true })
}

async function readCustomer(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const make: Parameters<typeof current>[3] = (raw, origin) => customerReading(raw, origin, context.livemode)
  return some(await current(context.reader.customer(id), event, context, make))
}

async function readSubscription(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const subscription = await current(context.reader.subscription(id), event, context, subscriptionReading)
  const invoiceId = subscription?.latest_invoice_id
  return [...some(subscription), ...(invoiceId ? await readOneInvoice(invoiceId, context) : [])]
}

async function readInvoice(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const invoice = await current(context.reader.invoice(id), event, context, invoiceReading)
  return [...some(invoice), ...(await readOneSubscription(invoice?.subscription_id, context))]
}

async function readSession(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const session = await current(context.reader.checkoutSession(id), event, context, checkoutSessionReading)
  if (!session) return []
  const [subscription, invoice] = await Promise.all([
    readOneSubscription(session.subscription_id, context),
    session.invoice_id ? readOneInvoice(session.invoice_id, context) : [],
  ])
  return [session, ...subscription, ...invoice]
}

async function readRefund(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const make: Parameters<typeof current>[3] = (raw, origin) => refundReading(raw, origin, context.livemode)
  return some(await current(context.reader.refund(id), event, context, make))
}

async function readDispute(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  return some(await current(context.reader.dispute(id), event, context, disputeReading))
}

/** With the invoice, which it changes, and the refunds that it made: they say themselves what they are of. */
async function readCreditNote(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const note = await current(context.reader.creditNote(id), event, context, creditNoteReading)
  if (!note) return []
  const refunds = note.refunds.flatMap(({ refund_id }) => (refund_id === null ? [] : [readRefund(refund_id, context)]))
  const invoice = note.invoice_id === null ? [] : [readOneInvoice(note.invoice_id, context)]
  return [note, ...(await Promise.all([...invoice, ...refunds])).flat()]
}

/** Charges matter for their refunds only: what they paid is said by the invoice or the session. */
async function readCharge(id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  if (event?.type !== 'charge.refunded') return []
  const refunds = await context.reader.refundsOfCharge(id)
  const origin = { read_at: context.readAt, deleted: false }
  return refunds.map((refund) => refundReading(refund, origin, context.livemode))
}

async function readInvoicePayment(_id: string, context: ReadContext, event?: Subject): Promise<Reading[]> {
  const { invoice } = z.object({ invoice: reference }).parse(carried(event))
  return invoice === null ? [] : readInvoice(invoice, context)
}

async function readIntent(id: string, context: ReadContext): Promise<Reading[]> {
  const sessions = await context.reader.sessionsOfIntent(id)
  return (await Promise.all(sessions.map((session) => readSession(session, context)))).flat()
}

async function readOneInvoice(id: string, context: ReadContext): Promise<Reading[]> {
  return some(await current(context.reader.invoice(id), undefined, context, invoiceReading))
}

async function readOneSubscription(id: string | null | undefined, context: ReadContext): Promise<Reading[]> {
  if (!id) return []
  return some(await current(context.reader.subscription(id), undefined, context, subscriptionReading))
}

const some = <T>(value: T | undefined): T[] => (value === undefined ? [] : [value])

const unique = (readings: Reading[]): Reading[] => [
  ...new Map(readings.map((reading) => [reading.id, reading])).values(),
]
