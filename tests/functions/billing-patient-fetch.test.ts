/** The client of the comparison with Stripe, when Stripe says that it is asked too often. */
import { expect, test } from 'vitest'
import { patientFetch } from '../../functions/_shared/billing/stripe-client.ts'

function answering(...statuses: number[]) {
  const asked: unknown[] = []
  const ask: typeof fetch = async (input) => {
    asked.push(input)
    return new Response('{}', { status: statuses[Math.min(asked.length, statuses.length) - 1] ?? 500 })
  }
  return { asked, fetch: patientFetch(ask, 1) }
}

test('waits, and asks again', async () => {
  const { asked, fetch } = answering(429, 429, 200)

  expect((await fetch('https://stripe.example/')).status).toBe(200)
  expect(asked).toHaveLength(3)
})

test('gives up after six times, and says so as Stripe does', async () => {
  const { asked, fetch } = answering(429)

  expect((await fetch('https://stripe.example/')).status).toBe(429)
  expect(asked).toHaveLength(6)
})

test.each([200, 402, 404, 500])('takes %i for an answer', async (status) => {
  const { asked, fetch } = answering(status)

  expect((await fetch('https://stripe.example/')).status).toBe(status)
  expect(asked).toHaveLength(1)
})
