/** The pages where something is paid: the checkout, with the way back, and an invoice that failed, 3-D Secure included. */
import type { Hono } from 'hono'
import { html } from 'hono/html'
import { answerSession, paySession } from './checkout.ts'
import { asOf } from './due.ts'
import { paymentOf } from './invoice-payments.ts'
import { challengePage, date, type Html, notFound, page, redirect } from './page-layout.ts'
import { answerChallenge, tryInvoice } from './pay-invoice.ts'
import { type Way, wayNames, ways } from './payments.ts'
import type { State } from './state.ts'
import type { Invoice, Session } from './wire.ts'
import { inWords, money } from './words.ts'

export function checkoutPages(app: Hono, state: State): void {
  app.get('/c/pay/:id', (c) => {
    const session = state.sessions.get(c.req.param('id'))
    if (!session) return notFound()
    if (session.status !== 'open') return closedPage(session)
    const failed = c.req.query('failed') !== undefined
    return openPage(state, session, failed)
  })
  app.post('/c/pay/:id', async (c) => {
    const session = state.sessions.get(c.req.param('id'))
    if (!session) return notFound()
    if (session.status !== 'open') return closedPage(session)
    const way = wayOf((await c.req.formData()).get('way'))
    const result = paySession(state, session, way)
    if (result === 'requires_action') return redirect(`/c/pay/${session.id}/challenge?way=${way}`)
    return redirect(result === 'complete' ? successUrl(session) : `/c/pay/${session.id}?failed`)
  })
  app.get('/c/pay/:id/challenge', (c) => {
    const session = state.sessions.get(c.req.param('id'))
    if (session?.status !== 'open') return session ? closedPage(session) : notFound()
    const way = wayOf(c.req.query('way') ?? null)
    const hidden = html`<input type="hidden" name="way" value="${way}">`
    return challengePage(`/c/pay/${session.id}/challenge`, [session.success_url], hidden)
  })
  app.post('/c/pay/:id/challenge', async (c) => {
    const session = state.sessions.get(c.req.param('id'))
    if (session?.status !== 'open') return session ? closedPage(session) : notFound()
    const form = await c.req.formData()
    const result = answerSession(state, session, wayOf(form.get('way')), form.get('answer') === 'ok')
    return redirect(result === 'complete' ? successUrl(session) : `/c/pay/${session.id}?failed`)
  })
}

const wayOf = (given: unknown): Way => wayNames.find((name) => name === given) ?? 'ok'

const successUrl = ({ success_url, id }: Session) => (success_url ?? '/').replaceAll('{CHECKOUT_SESSION_ID}', id)

/** The choice of how to pay; the first one is chosen. */
const wayFields = (offered: readonly Way[] = wayNames) => html`<fieldset><legend>Pay with</legend>
${offered.map((name, i) => html`<label class="way"><input type="radio" name="way" value="${name}" ${i === 0 ? 'checked' : ''} required> ${ways[name].label}</label>`)}
</fieldset>`

function openPage(state: State, session: Session, failed: boolean): Response {
  const currency = session.currency ?? 'usd'
  const items = state.sessionItems.get(session.id) ?? []
  const order = state.sessionOrders.get(session.id)
  const days = order?.trial_days
  const lines = items.map(({ description, quantity, price, amount_total }) => {
    const per = price?.recurring ? ` per ${price.recurring.interval}` : ''
    return html`<li><span>${quantity} × ${description}</span><span>${money(amount_total, currency)}${per}</span></li>`
  })
  const trial = days === undefined ? html`` : html`<p class="quiet">${days} days free, then as above.</p>`
  const title = session.mode === 'subscription' ? 'Subscribe' : 'Pay'
  const content: Html | Promise<Html> = html`<h1>${title}</h1>
<p class="amount">${money(session.amount_total ?? 0, currency)} <span class="quiet">today</span></p>
${failed ? html`<p class="error" role="alert">The payment did not go through. Choose another way to pay.</p>` : ''}
<ul>${lines}</ul>${trial}
<form method="post" action="/c/pay/${session.id}">${wayFields()}
<button class="main">${title}</button></form>
${session.cancel_url ? html`<p><a href="${safeHref(session.cancel_url)}">Back without paying</a></p>` : ''}
<p class="quiet">Open until ${date(session.expires_at)}.</p>`
  return page(title, content, [session.success_url])
}

const closedPage = (session: Session) =>
  page(
    'Checkout',
    session.status === 'complete'
      ? html`<h1>This checkout is complete</h1><p><a href="${safeHref(successUrl(session))}">Go on</a></p>`
      : html`<h1>This checkout has expired</h1>${session.cancel_url ? html`<p><a href="${safeHref(session.cancel_url)}">Go back</a></p>` : ''}`,
    [],
    session.status === 'complete' ? 200 : 409,
  )

/** Sessions take http addresses only; a link never becomes a script. */
export const safeHref = (url: string) => (/^https?:\/\//.test(url) ? url : '#')

export function invoicePages(app: Hono, state: State): void {
  const open = (id: string) => {
    const invoice = state.invoices.get(id)
    return invoice?.status === 'open' ? invoice : undefined
  }
  app.get('/i/:id', (c) => {
    const invoice = state.invoices.get(c.req.param('id'))
    if (!invoice || invoice.status === 'draft') return notFound()
    return invoicePage(state, invoice, c.req.query('failed') !== undefined)
  })
  app.post('/i/:id', async (c) => {
    const invoice = open(c.req.param('id'))
    if (!invoice) return redirect(`/i/${c.req.param('id')}`)
    const way = wayOf((await c.req.formData()).get('way'))
    const status = asOf(state, invoice.customer, () => tryInvoice(state, invoice, ways[way].outcome))
    if (status === 'succeeded' || status === 'requires_action') state.cards.set(invoice.customer ?? '', ways[way].later)
    if (status === 'requires_action') return redirect(`/i/${invoice.id}/challenge`)
    return redirect(`/i/${invoice.id}${status === 'requires_payment_method' ? '?failed' : ''}`)
  })
  app.get('/i/:id/challenge', (c) => {
    const invoice = open(c.req.param('id'))
    return invoice ? challengePage(`/i/${invoice.id}/challenge`, []) : redirect(`/i/${c.req.param('id')}`)
  })
  app.post('/i/:id/challenge', async (c) => {
    const invoice = open(c.req.param('id'))
    if (!invoice) return redirect(`/i/${c.req.param('id')}`)
    const ok = (await c.req.formData()).get('answer') === 'ok'
    asOf(state, invoice.customer, () => answerChallenge(state, invoice, ok))
    return redirect(`/i/${invoice.id}${ok ? '' : '?failed'}`)
  })
}

function invoicePage(state: State, invoice: Invoice, failed: boolean): Response {
  const { currency } = invoice
  const lines = invoice.lines.data.map(
    ({ description, amount }) => html`<li><span>${description}</span><span>${money(amount, currency)}</span></li>`,
  )
  return page(
    `Invoice ${invoice.number}`,
    html`<h1>Invoice ${invoice.number}</h1>
<p class="amount">${money(invoice.amount_due, currency)} <span class="quiet">${inWords(invoice.status)}</span></p>
${failed ? html`<p class="error" role="alert">The payment did not go through. Choose another way to pay.</p>` : ''}
<p class="quiet">From ${date(invoice.created)}</p><ul>${lines}</ul>${actions(state, invoice)}`,
  )
}

function actions(state: State, invoice: Invoice) {
  if (invoice.status === 'paid') return html`<p role="status">This invoice is paid. Thank you.</p>`
  if (invoice.status !== 'open') return html`<p role="status">There is nothing to pay here.</p>`
  const status = paymentOf(state, invoice)?.intent.status
  if (status === 'processing') return html`<p role="status">The bank debit is on its way.</p>`
  const challenge =
    status === 'requires_action'
      ? html`<p><a href="/i/${invoice.id}/challenge">Go on with your bank's question (3-D Secure)</a></p>`
      : ''
  return html`${challenge}<form method="post" action="/i/${invoice.id}">${wayFields()}<button class="main">Pay</button></form>`
}
