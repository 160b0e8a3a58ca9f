/** A paused subscription goes on: at once where there is a card, else by way of a page of Stripe's. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { BillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { type BillingWorld, handleBillingRequest } from '../../functions/_shared/billing/handle-billing-request.ts'
import { checkoutSessionReading } from '../../functions/_shared/billing/read-payments.ts'
import type { Reading } from '../../functions/_shared/billing/readings.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { type Answers, failure, list, startStripe } from './billing-stripe.ts'
import { customer, fakeDatabase, now, session, subscription, userId } from './billing-world.ts'

const urls = { success_url: 'http://localhost:3000/paid', cancel_url: 'http://localhost:3000/account' }
const card = { invoice_settings: { default_payment_method: 'pm_1' }, default_source: null }
const noCard = { invoice_settings: { default_payment_method: null }, default_source: null }
const invoice = (status: string) => ({
  ...{ id: 'in_2', object: 'invoice', status, hosted_invoice_url: 'https://invoice.example.com/i/2' },
})
const paused = (more: object = {}) =>
  subscription({
    status: 'paused',
    currency: 'usd',
    latest_invoice: invoice('paid'),
    customer: customer(card),
    ...more,
  })
const usual: Answers = {
  'GET /subscriptions': () => list([paused()]),
  'GET /checkout/sessions': () => list([]),
  'POST /subscriptions/sub_1': () => paused(),
  'POST /subscriptions/sub_1/resume': () => subscription({ latest_invoice: invoice('paid') }),
  'POST /checkout/sessions': () => session({ id: 'cs_setup', mode: 'setup', url: 'https://checkout.example.com/c' }),
}

let stripe: Awaited<ReturnType<typeof startStripe>>
beforeEach(async () => {
  stripe = await startStripe({ ...usual })
})
afterEach(() => stripe.stop())

async function ask(body: object = urls, changes: Partial<BillingDatabase> = {}) {
  const readings: Reading[] = []
  const database = fakeDatabase({
    preparePortal: async () => 'cus_1',
    ourProducts: async () => new Set(['prod_ours']),
    databaseTime: async () => '2026-11-20T00:00:00Z',
    applyReadings: async (given) => {
      readings.push(...given)
      return []
    },
    ...changes,
  })
  const world: BillingWorld = {
    verifyUserToken: async () => ({ kind: 'user', userId, sessionId: 's-1', aal: 'aal1', isAnonymous: false }),
    ...{ database, stripe: stripe.stripe, livemode: false, returnUrls: ['http://localhost:3000'], now: () => now },
    ...{ newId: () => 'request-1', log: () => {} },
  }
  const init = { method: 'POST', headers: { authorization: 'Bearer token' }, body: JSON.stringify(body) }
  const response = await handleBillingRequest(new Request('http://127.0.0.1/billing/resume', init), world)
  return { status: response.status, body: await response.json(), readings }
}
const changed = () => stripe.asked.filter(({ what }) => !what.startsWith('GET '))

test.each([
  ['who has bought nothing', {}, { preparePortal: () => Promise.reject(new AppError('not_found')) }, 404],
  ['an address elsewhere', { success_url: 'https://evil.example.com' }, {}, 400],
  ['a customer of the caller’s choice', { customer: 'cus_2' }, {}, 400],
])('%s is refused, and Stripe is asked nothing', async (_, body, changes, status) => {
  expect((await ask({ ...urls, ...body }, changes)).status).toBe(status)
  expect(stripe.asked).toEqual([])
})

test.each([
  ['no paused subscription', []],
  ['only one of another product', [paused({ metadata: {} })]],
])('%s has nothing to go on with', async (_, subscriptions) => {
  stripe.answers['GET /subscriptions'] = () => list(subscriptions)

  expect(await ask()).toMatchObject({ status: 404, body: { error: { code: 'not_found' } } })
  expect(changed()).toEqual([])
})

test('with a card it goes on at once, and counts at once; asked twice it is one request', async () => {
  const first = await ask()
  await ask()

  expect([first.status, first.body]).toEqual([200, { state: 'active', url: null }])
  expect(first.readings).toMatchObject([{ object: 'subscription', id: 'sub_1', status: 'active' }])
  expect(changed().map(({ what }) => what)).toEqual(Array(2).fill('POST /subscriptions/sub_1/resume'))
  expect(new Set(changed().map(({ key }) => key)).size).toBe(1)
})

test('without a card the answer leads to a page that takes one, for this subscription', async () => {
  stripe.answers['GET /subscriptions'] = () => list([paused({ customer: customer(noCard) })])

  const { body } = await ask()

  expect(body).toEqual({ state: 'paused', url: 'https://checkout.example.com/c' })
  expect(Object.fromEntries(changed()[0]?.params ?? [])).toEqual({
    ...{ mode: 'setup', customer: 'cus_1', currency: 'usd', client_reference_id: userId, ...urls },
    ...{ 'metadata[palisade_user_id]': userId, 'metadata[palisade_subscription_id]': 'sub_1' },
    'setup_intent_data[metadata][palisade_user_id]': userId,
    'setup_intent_data[metadata][palisade_subscription_id]': 'sub_1',
  })
})

test('back from that page it goes on with the card that was given there', async () => {
  const given = { metadata: { palisade_subscription_id: 'sub_1' }, setup_intent: { id: 's', payment_method: 'pm_2' } }
  stripe.answers['GET /subscriptions'] = () => list([paused({ customer: customer(noCard) })])
  stripe.answers['GET /checkout/sessions'] = () => list([session({ mode: 'setup', ...given })])

  expect((await ask()).body).toEqual({ state: 'active', url: null })
  expect(changed().map(({ what, params }) => [what, params.get('default_payment_method')])).toEqual([
    ['POST /subscriptions/sub_1', 'pm_2'],
    ['POST /subscriptions/sub_1/resume', null],
  ])
})

test.each<[string, () => object]>([
  ['stays paused', () => paused({ latest_invoice: invoice('open') })],
  ['is refused', () => failure(402, { type: 'card_error', code: 'card_declined' })],
])('a card that is declined leads to the invoice, where Stripe says that it %s', async (_, answer) => {
  stripe.answers['POST /subscriptions/sub_1/resume'] = answer
  stripe.answers['GET /subscriptions/sub_1'] = () => paused({ latest_invoice: invoice('open') })

  expect((await ask()).body).toEqual({ state: 'paused', url: 'https://invoice.example.com/i/2' })
})

test('an invoice that waits already is where to pay, and no other is made', async () => {
  stripe.answers['GET /subscriptions'] = () => list([paused({ latest_invoice: invoice('open') })])

  expect((await ask()).body).toEqual({ state: 'paused', url: 'https://invoice.example.com/i/2' })
  expect(changed()).toEqual([])
})

test('the page that took a card is read as one, which sold nothing', () => {
  const page = session({
    ...{ mode: 'setup', payment_status: 'no_payment_required', amount_total: null, currency: 'usd' },
    ...{ payment_intent: null, line_items: null, setup_intent: 'seti_1' },
  })

  const reading = checkoutSessionReading(page, { read_at: '', deleted: false })

  const nothing = { amount_total: 0, price_ids: [], payment_intent_id: null, subscription_id: null, invoice_id: null }
  expect(reading).toMatchObject({ mode: 'setup', status: 'complete', user_id: userId, ...nothing })
})
