/** The hosted page of an invoice: where one that failed is paid, 3-D Secure included. */
import type { Hono } from 'hono'
import { html } from 'hono/html'
import { asOf } from './due.ts'
import { wayFields, wayOf } from './page-checkout.ts'
import { challengePage, date, notFound, page, redirect } from './page-layout.ts'
import { answerChallenge, paymentOf, tryInvoice } from './pay-invoice.ts'
import type { State } from './state.ts'
import { ways } from './ways.ts'
import type { Invoice } from './wire.ts'
import { inWords, money } from './words.ts'

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
