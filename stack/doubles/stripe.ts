/**
 * A local stand-in for Stripe, ours: the part of its API that selling subscriptions and credits needs, its hosted pages
 * for checkout, portal and invoices, and its signed webhooks. The official client works against it. Its state is real
 * and kept in one file; nothing costs anything. `/control` is not Stripe's: through it tests and the demo move the clock, decline
 * cards, lose and shuffle deliveries and make calls fail.
 */
import { Hono } from 'hono'
import { priceRoutes, productRoutes } from './stripe/api-catalogue.ts'
import { checkoutRoutes } from './stripe/api-checkout.ts'
import { creditNoteRoutes } from './stripe/api-credit-notes.ts'
import { customerRoutes } from './stripe/api-customers.ts'
import { discountRoutes } from './stripe/api-discounts.ts'
import { eventRoutes } from './stripe/api-events.ts'
import { invoiceItemRoutes } from './stripe/api-invoice-items.ts'
import { invoiceRoutes } from './stripe/api-invoices.ts'
import { methodRoutes } from './stripe/api-payment-methods.ts'
import { paymentRoutes } from './stripe/api-payments.ts'
import { quoteRoutes } from './stripe/api-quotes.ts'
import { subscriptionRoutes } from './stripe/api-subscriptions.ts'
import { controlApi } from './stripe/control.ts'
import { runDue } from './stripe/due.ts'
import { addEndpoint, type Webhook } from './stripe/events.ts'
import { checkoutPages, invoicePages } from './stripe/page-payment.ts'
import { portalPages } from './stripe/page-portal.ts'
import { persist } from './stripe/persist.ts'
import { errorBody, Refusal } from './stripe/refusals.ts'
import { dueHandlers } from './stripe/renew.ts'
import { apiRoutes } from './stripe/routes.ts'
import { createState, type State } from './stripe/state.ts'
import { taxRateRoutes } from './stripe/tax-rates.ts'
import { clockRoutes } from './stripe/test-clocks.ts'

type StripeOptions = {
  /** The address under which browsers and clients reach it, without a slash at the end. */
  url: string
  secretKey: string
  /** Where events go, signed with every one of the endpoint's secrets. */
  webhooks?: Webhook[]
  /** Where the account is kept over a restart; without it everything is forgotten. */
  file?: string
  /** Epoch milliseconds. */
  now?: () => number
  log?(line: string): void
}

const tickMs = 1_000

export function createStripe(options: StripeOptions): {
  fetch(request: Request): Response | Promise<Response>
  close(): void
} {
  const { url, secretKey, webhooks = [], file, now = Date.now, log = () => {} } = options
  const state = createState({ url, secretKey, now })
  for (const webhook of webhooks) addEndpoint(state, webhook.url, webhook.secrets)
  const save = file === undefined ? () => {} : persist(state, file, log)
  const catchUp = () => runDue(state, state.now(), dueHandlers)
  const app = createApp(state, catchUp)
  // What falls due while nobody asks; it does not keep the process alive.
  const timer = setInterval(() => {
    try {
      catchUp()
    } catch (error) {
      log(`stripe: what fell due failed: ${error instanceof Error ? error.stack : error}`)
    }
  }, tickMs)
  timer.unref()
  const close = () => {
    state.stopped = true
    clearInterval(timer)
    save()
  }
  return { fetch: (request) => app.fetch(request), close }
}

function createApp(state: State, catchUp: () => void): Hono {
  const app = new Hono()
  app.use(async (c, next) => {
    catchUp()
    await next()
    if (c.req.method !== 'GET') state.isDirty = true
  })
  app.route('/control', controlApi(state))
  const route = apiRoutes(app, state)
  for (const declare of [
    customerRoutes,
    productRoutes,
    priceRoutes,
    checkoutRoutes,
    subscriptionRoutes,
    invoiceRoutes,
    paymentRoutes,
    eventRoutes,
    discountRoutes,
    invoiceItemRoutes,
    creditNoteRoutes,
    quoteRoutes,
    taxRateRoutes,
    methodRoutes,
    clockRoutes(dueHandlers),
  ])
    declare(route, state)
  checkoutPages(app, state)
  invoicePages(app, state)
  portalPages(app, state)
  app.notFound((c) => {
    const message = `Unrecognized request URL (${c.req.method}: ${c.req.path}).`
    return c.json({ error: { type: 'invalid_request_error', message } }, 404)
  })
  // A page that was told to do what cannot be done.
  app.onError((error) => {
    if (!(error instanceof Refusal)) throw error
    return Response.json(errorBody(error), { status: error.status })
  })
  return app
}
