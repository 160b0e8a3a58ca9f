/** Whatever the stand-in answers and tells has the fields that the types of the stripe package declare, and no others. */
import { expect, test } from 'vitest'
import { z } from 'zod'
import { createWorld } from '../support/stripe.ts'
import { busyShop } from '../support/stripe-shop.ts'
import { differences } from '../support/stripe-types.ts'

const page = z.object({ data: z.array(z.record(z.string(), z.unknown())) })

/** Every list there is, as it comes over the wire. */
const lists = [
  'balance_transactions',
  'charges',
  'checkout/sessions',
  'coupons',
  'credit_notes',
  'customers',
  'disputes',
  'invoice_payments',
  'invoiceitems',
  'invoices',
  'payment_intents',
  'prices',
  'products',
  'promotion_codes',
  'quotes',
  'refunds',
  'setup_intents',
  'subscriptions',
  'tax_rates',
  'test_helpers/test_clocks',
  'webhook_endpoints',
]

test('every object of a shop that does everything is as its type says', async () => {
  const world = await createWorld()
  const { customer } = await busyShop(world)
  const own = [`customers/${customer}/balance_transactions`, `customers/${customer}/payment_methods`]
  const authorization = `Bearer ${world.secretKey}`

  const found = await Promise.all(
    [...lists, ...own].map(async (path) => {
      const answer = await fetch(`${world.url}/v1/${path}?limit=100`, { headers: { authorization } })
      return [path, page.parse(await answer.json()).data] as const
    }),
  )
  await world.close()

  expect(found.filter(([, objects]) => objects.length === 0).map(([path]) => path)).toEqual([])
  expect([...new Set(found.flatMap(([, objects]) => objects.flatMap((object) => differences(object))))]).toEqual([])
})

test('every object that an event tells of is as its type says', async () => {
  const world = await createWorld()
  await busyShop(world)
  await world.tell('/settled')
  // What is upcoming is no invoice yet, and has no id.
  const told = world.hooks.filter(({ type }) => type !== 'invoice.upcoming')
  await world.close()

  expect(told.length).toBeGreaterThan(50)
  expect([...new Set(told.flatMap(({ object }) => differences(object)))]).toEqual([])
})

test.each([
  [{}, 'is no object'],
  [{ object: 'coupon', id: 'x', nonsense: 1 }, 'coupon.nonsense is not in the type'],
  [{ object: 'coupon', id: 'x' }, 'coupon.percent_off is missing'],
  [{ object: 'coupon', id: 1, duration: 'weekly' }, 'coupon.duration is "weekly"'],
])('a shape that is wrong is found: %j', (object, expected) => {
  expect(differences(object)).toEqual(expect.arrayContaining([expect.stringContaining(expected)]))
})
