/** The checkout page: what is bought, ways to pay, and the way back. */
import type { Hono } from 'hono'
import { html } from 'hono/html'
import { answerSession, paySession } from './checkout.ts'
import { challengePage, date, type Html, notFound, page, redirect } from './page-layout.ts'
import type { State } from './state.ts'
import { type Way, wayNames, ways } from './ways.ts'
import type { Session } from './wire.ts'
import { money } from './words.ts'

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

export const wayOf = (given: unknown): Way => wayNames.find((name) => name === given) ?? 'ok'

const successUrl = ({ success_url, id }: Session) => (success_url ?? '/').replaceAll('{CHECKOUT_SESSION_ID}', id)

/** The choice of how to pay; the first one is chosen. */
export const wayFields = (offered: readonly Way[] = wayNames) => html`<fieldset><legend>Pay with</legend>
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
