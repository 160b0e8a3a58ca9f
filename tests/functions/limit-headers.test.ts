import { expect, test } from 'vitest'
import { limitHeaders } from '../../functions/_shared/ai/tell-decision.ts'

const now = Date.parse('2026-11-21T00:00:00Z')
const day = { meter: 'ai_calls', period: 'day', amount: 100, remaining: 98, resets_at: '2026-11-21T01:00:00Z' }
const minute = { meter: 'ai_requests', period: 'minute', amount: 60, remaining: 59, resets_at: '2026-11-21T00:00:30Z' }

test('of several limits of a kind the one that is met first is told, in whatever order they come', () => {
  for (const limits of [
    [day, minute],
    [minute, day],
  ])
    expect(limitHeaders(limits, now)).toEqual({
      'x-ratelimit-limit-requests': '60',
      'x-ratelimit-remaining-requests': '59',
      'x-ratelimit-reset-requests': '30s',
    })
})

test('a limit without an amount, or that is none of requests or tokens, is not told', () => {
  expect(
    limitHeaders(
      [
        { ...day, amount: null },
        { meter: 'credits', period: 'total', amount: 5 },
      ],
      now,
    ),
  ).toEqual({})
})
