/** What is done at Stripe because something changed here: the real client, a few answers of Stripe's, and claims in memory. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { ClaimedChange } from '../../functions/_shared/billing/billing-database.ts'
import { type ChangeWorld, changeStripe } from '../../functions/_shared/billing/change-stripe.ts'
import { type Answers, failure, list, missing, startStripe } from './billing-stripe.ts'
import { fakeDatabase, nowSeconds, session, subscription, userId } from './billing-world.ts'

const usual: Answers = {
  'GET /checkout/sessions': () => list([]),
  'GET /subscriptions': () => list([subscription()]),
  'GET /customers/cus_1': () => ({ id: 'cus_1', object: 'customer' }),
  'POST /customers/cus_1': () => ({ id: 'cus_1', object: 'customer' }),
  'POST /subscriptions/sub_1': () => subscription(),
  'DELETE /subscriptions/sub_1': () => subscription({ status: 'canceled' }),
}
const cancellation: ClaimedChange = {
  ...{ customer_id: 'cus_1', kind: 'cancellation', wanted: 'period_end', email: null, turn: 1n },
}

let stripe: Awaited<ReturnType<typeof startStripe>>
beforeEach(async () => {
  stripe = await startStripe({ ...usual })
})
afterEach(() => stripe.stop())

type Finished = { why: string | null; subscriptions: string[] | null }
/** Does what is claimed; answers how it ended, and what was changed at Stripe with which parameters. */
async function run(...claimed: ClaimedChange[]) {
  const finished: Finished[] = []
  const lines: unknown[] = []
  const left = [claimed]
  const database = fakeDatabase({
    claimChanges: async () => left.shift() ?? [],
    finishChange: async (_change, why, subscriptions) => {
      finished.push({ why, subscriptions })
      return why === null ? 'done' : 'waiting'
    },
    ourProducts: async () => new Set(['prod_ours']),
    databaseTime: async () => '2026-11-20T00:00:00Z',
    applyReadings: async () => [],
  })
  const parts = { database, stripe: stripe.stripe, livemode: false }
  const world: ChangeWorld = { ...parts, now: () => 0, log: (line) => void lines.push(line) }
  const counts = await changeStripe(world)
  const changed = stripe.asked
    .filter(({ what }) => !what.startsWith('GET '))
    .map(({ what, params }) => `${what} ${decodeURIComponent(params.toString())}`.trim())
  return { counts, finished, changed, lines }
}
const ending = 'POST /subscriptions/sub_1 cancel_at_period_end=true&metadata[palisade_ended_with_account]=true'

describe('a cancellation', () => {
  test.each([
    ['a period that is paid', 'active', ending],
    ['a trial', 'trialing', ending],
    ['what is owed', 'past_due', 'DELETE /subscriptions/sub_1'],
    ['what Stripe gave up', 'unpaid', 'DELETE /subscriptions/sub_1'],
    ['what is paused', 'paused', 'DELETE /subscriptions/sub_1'],
    ['what was never paid', 'incomplete', 'DELETE /subscriptions/sub_1'],
  ])('at the period’s end ends %s', async (_, status, changed) => {
    stripe.answers['GET /subscriptions'] = () => list([subscription({ status })])

    expect(await run(cancellation)).toMatchObject({
      ...{ counts: { done: 1 }, changed: [changed], finished: [{ why: null, subscriptions: ['sub_1'] }] },
    })
  })

  test('at once ends what is paid, too', async () => {
    const { changed } = await run({ ...cancellation, wanted: 'now' })

    expect(changed).toEqual(['DELETE /subscriptions/sub_1'])
  })

  test.each([
    ['its customer has cancelled already', { cancel_at_period_end: true }, 0],
    ['ends on a day before its period does', { cancel_at: nowSeconds + 60 }, 0],
    ['ends in some years', { cancel_at: nowSeconds + 100_000_000 }, 1],
    ['is over', { status: 'incomplete_expired' }, 0],
    ['is another product’s', { metadata: {} }, 0],
    ['is a product of ours, made by hand', { metadata: {}, items: itemOf('prod_ours') }, 1],
  ])('of one that %s', async (_, fields, changes) => {
    stripe.answers['GET /subscriptions'] = () => list([subscription(fields)])

    expect((await run(cancellation)).changed).toHaveLength(changes)
  })

  test('takes a change away that is planned, for Stripe takes no end beside it', async () => {
    stripe.answers['GET /subscriptions'] = () => list([subscription({ schedule: 'sub_sched_1' })])
    stripe.answers['POST /subscription_schedules/sub_sched_1/release'] = () => ({ id: 'sub_sched_1' })

    const { changed } = await run(cancellation)

    expect(changed).toEqual(['POST /subscription_schedules/sub_sched_1/release', ending])
  })

  test('closes pages first on which more could be bought; one that is being paid is looked at again', async () => {
    const page = (id: string) => session({ id, mode: 'subscription', status: 'open' })
    stripe.answers['GET /checkout/sessions'] = () => list([page('cs_open'), page('cs_busy')])
    stripe.answers['POST /checkout/sessions/cs_open/expire'] = () => session({ id: 'cs_open', status: 'expired' })
    stripe.answers['POST /checkout/sessions/cs_busy/expire'] = () => failure(400, { message: 'It is being paid.' })
    stripe.answers['GET /checkout/sessions/cs_busy'] = () => page('cs_busy')

    const { changed, finished } = await run(cancellation)

    const expired = ['cs_open', 'cs_busy'].map((id) => `POST /checkout/sessions/${id}/expire`)
    expect(changed).toEqual([...expired, ending])
    expect(finished).toEqual([{ why: 'Error checkout_in_progress', subscriptions: ['sub_1'] }])
  })

  test('that Stripe refuses names all subscriptions, and is logged without its words', async () => {
    stripe.answers['GET /subscriptions'] = () => list([subscription(), subscription({ id: 'sub_2' })])
    stripe.answers['POST /subscriptions/sub_1'] = () => failure(400, { message: 'someone@example.com' })

    const { counts, finished, lines } = await run(cancellation)

    expect(counts).toEqual({ done: 0, waiting: 1, superseded: 0 })
    expect(finished).toEqual([{ why: expect.stringContaining('Stripe: '), subscriptions: ['sub_1', 'sub_2'] }])
    expect(JSON.stringify([lines, finished])).not.toContain('someone@')
  })

  test('of a customer who is gone at Stripe is done; of one whom Stripe does not know it is not', async () => {
    stripe.answers['GET /checkout/sessions'] = () => missing('customer')
    stripe.answers['GET /customers/cus_1'] = () => ({ id: 'cus_1', object: 'customer', deleted: true })
    const gone = await run(cancellation)
    stripe.answers['GET /customers/cus_1'] = () => missing('id')
    const unknown = await run(cancellation)

    expect([gone.counts.done, unknown.counts.done]).toEqual([1, 0])
    expect(unknown.finished).toEqual([{ why: expect.stringContaining('resource_missing'), subscriptions: null }])
  })

  test('is taken back where it was ours, and not where it was the customer’s', async () => {
    const mine = { palisade_user_id: userId, palisade_ended_with_account: 'true' }
    stripe.answers['GET /subscriptions'] = () =>
      list([
        subscription({ cancel_at_period_end: true, metadata: mine }),
        subscription({ id: 'sub_2', cancel_at_period_end: true }),
      ])

    const { changed } = await run({ ...cancellation, wanted: 'undo' })

    expect(changed).toEqual([
      'POST /subscriptions/sub_1 cancel_at_period_end=false&metadata[palisade_ended_with_account]=',
    ])
  })
})

function itemOf(product: string) {
  const period = { current_period_start: nowSeconds, current_period_end: nowSeconds + 2_592_000 }
  return { data: [{ id: 'si_1', price: { id: 'price_1', object: 'price', product }, quantity: 1, ...period }] }
}

describe('an address', () => {
  const email: ClaimedChange = { ...cancellation, kind: 'email', wanted: null, email: 'new@example.com' }

  test('is told to Stripe; where there is none that is confirmed nothing is', async () => {
    const { changed, counts } = await run(email, { ...email, email: null })

    expect(changed).toEqual(['POST /customers/cus_1 email=new@example.com'])
    expect(counts).toMatchObject({ done: 2 })
  })

  test.each([
    ['refuses is let be', () => failure(400, { code: 'email_invalid', param: 'email' }), 1],
    ['cannot take now is told again', () => failure(500, { type: 'api_error' }), 0],
  ])('that Stripe %s', async (_, answer, done) => {
    stripe.answers['POST /customers/cus_1'] = answer

    expect((await run(email)).counts).toMatchObject({ done, waiting: 1 - done })
  })
})

describe('a page that took a card', () => {
  const resumption: ClaimedChange = { ...cancellation, kind: 'resumption', wanted: null }
  const page = session({
    ...{ id: 'cs_setup', mode: 'setup', metadata: { palisade_subscription_id: 'sub_1' } },
    setup_intent: { id: 'seti_1', payment_method: 'pm_1' },
  })

  test('lets the paused subscription go on with that card, although nobody came back', async () => {
    stripe.answers['GET /subscriptions'] = () => list([subscription({ status: 'paused' })])
    stripe.answers['GET /checkout/sessions'] = () => list([session({ mode: 'payment' }), page])
    stripe.answers['POST /subscriptions/sub_1/resume'] = () => subscription()

    const { changed, counts } = await run(resumption)

    expect(changed).toEqual([
      'POST /subscriptions/sub_1 default_payment_method=pm_1',
      'POST /subscriptions/sub_1/resume payment_behavior=resume_on_payment_success&expand[0]=latest_invoice',
    ])
    expect(counts).toMatchObject({ done: 1 })
  })

  test('changes nothing where nothing is paused any more', async () => {
    stripe.answers['GET /subscriptions'] = () => list([])

    expect(await run(resumption)).toMatchObject({ changed: [], counts: { done: 1 } })
  })
})
