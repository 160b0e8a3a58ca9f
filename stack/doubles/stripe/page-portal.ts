/** The customer portal: cancel, go on, change the plan, the card for renewals, and open invoices. */
import type { Hono } from 'hono'
import { html } from 'hono/html'
import { changeItems, planEnd } from './change-subscription.ts'
import { asOf } from './due.ts'
import { date, notFound, page, redirect } from './page-layout.ts'
import { safeHref } from './page-payment.ts'
import { nextRenewal } from './plan-ahead.ts'
import { cardOutcomes, type State } from './state.ts'
import { isOver } from './subscription-status.ts'
import type { Portal, Price, Subscription } from './wire.ts'
import { inWords, money, productName } from './words.ts'

export function portalPages(app: Hono, state: State): void {
  app.get('/p/session/:id', (c) => {
    const portal = state.portals.get(c.req.param('id'))
    return portal && !state.customers.get(portal.customer)?.deleted ? portalPage(state, portal) : notFound()
  })
  app.post('/p/session/:id', async (c) => {
    const portal = state.portals.get(c.req.param('id'))
    if (!portal || state.customers.get(portal.customer)?.deleted) return notFound()
    const form = await c.req.formData()
    asOf(state, portal.customer, () => act(state, portal, form))
    return redirect(`/p/session/${portal.id}`)
  })
}

/** One form's wish. Only the customer's own running subscriptions are found. */
function act(state: State, { customer }: Portal, form: FormData): void {
  const wish = form.get('do')
  const outcome = cardOutcomes.find((name) => name === form.get('outcome'))
  if (wish === 'card' && outcome) state.cards.set(customer, outcome)
  const subscription = state.subscriptions.get(String(form.get('subscription')))
  if (subscription?.customer !== customer || isOver(subscription)) return
  const atEnd = state.settings.portal_cancels === 'at_period_end'
  const ending = atEnd ? { cancel_at_period_end: true } : { cancel_at: nextRenewal(subscription) }
  if (wish === 'cancel') planEnd(state, subscription, ending)
  if (wish === 'resume') planEnd(state, subscription, { cancel_at_period_end: false, cancel_at: null })
  const price = state.prices.get(String(form.get('price')))
  const [item] = subscription.items.data
  if (wish === 'change' && price?.active && price.recurring && item && price.id !== item.price.id)
    changeItems(state, subscription, [{ id: item.id, price }], {
      proration: 'always_invoice',
      behavior: 'allow_incomplete',
    })
}

const nameOf = (state: State, price: Price) => {
  const per = price.recurring ? ` per ${price.recurring.interval}` : ''
  return `${productName(state, price)}, ${money(price.unit_amount ?? 0, price.currency)}${per}`
}

function portalPage(state: State, portal: Portal): Response {
  const action = `/p/session/${portal.id}`
  const mine = [...state.subscriptions.values()].filter(({ customer }) => customer === portal.customer)
  const running = mine.filter((subscription) => !isOver(subscription))
  const invoices = [...state.invoices.values()]
    .filter(({ customer, status }) => customer === portal.customer && status !== 'draft')
    .reverse()
  return page(
    'Your subscription',
    html`<h1>Your subscription</h1>
${running.length === 0 ? html`<p class="quiet">There is none.</p>` : running.map((one) => subscriptionPart(state, one, action))}
<h2>Card for renewals</h2>
<form class="row" method="post" action="${action}"><label>How it answers<br><select name="outcome">${cardOutcomes.map((name) => html`<option value="${name}" ${state.cards.get(portal.customer) === name ? 'selected' : ''}>${inWords(name)}</option>`)}</select></label>
<button name="do" value="card">Keep</button></form>
<h2>Invoices</h2>
<ul>${invoices.map(({ id, number, created, total, currency, status }) => html`<li><a href="/i/${id}">${number}</a><span>${date(created)}</span><span>${money(total, currency)}</span><span>${inWords(status)}</span></li>`)}</ul>
${portal.return_url ? html`<p><a href="${safeHref(portal.return_url)}">Back</a></p>` : ''}`,
  )
}

function subscriptionPart(state: State, subscription: Subscription, action: string) {
  const ends = subscription.cancel_at ?? (subscription.cancel_at_period_end ? nextRenewal(subscription) : null)
  const known = html`<input type="hidden" name="subscription" value="${subscription.id}">`
  const prices = [...state.prices.values()].filter(
    ({ active, recurring, currency }) => active && recurring && currency === subscription.currency,
  )
  const current = subscription.items.data[0]?.price.id
  return html`<ul>${subscription.items.data.map(({ price, quantity }) => html`<li><span>${quantity} × ${nameOf(state, price)}</span><span>${inWords(subscription.status)}</span></li>`)}</ul>
<p class="quiet">${ends === null ? html`Renews on ${date(nextRenewal(subscription))}` : html`Ends on ${date(ends)}`}</p>
<form class="row" method="post" action="${action}">${known}<button name="do" value="${ends === null ? 'cancel' : 'resume'}">${ends === null ? 'Cancel at the end of the period' : 'Do not cancel'}</button></form>
<form class="row" method="post" action="${action}">${known}<label>Change to<br><select name="price">${prices.map((price) => html`<option value="${price.id}" ${price.id === current ? 'selected' : ''}>${nameOf(state, price)}</option>`)}</select></label>
<button name="do" value="change">Change now</button></form>`
}
