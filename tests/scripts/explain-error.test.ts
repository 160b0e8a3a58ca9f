/** What a command says when it ends early. */
import { parseArgs } from 'node:util'
import { expect, test } from 'vitest'
import { AppError } from '../../functions/_shared/errors.ts'
import { explainError } from '../../scripts/shared/explain-error.ts'
import { StackError } from '../../stack/config.ts'
import { PlatformError } from '../../stack/platform/config.ts'

const thrownBy = (act: () => unknown): unknown => {
  try {
    return act()
  } catch (error) {
    return error
  }
}
const withCode = (code: string, name = 'Error') => Object.assign(new Error('with words'), { name, code })
const down = 'The database cannot be reached (ECONNREFUSED). Does it run, and is DB_URL right?'

test.each([
  ['an error that a person can act on', new StackError('Do this.'), 'Do this.'],
  ['the same from the platform', new PlatformError('Do that.'), 'Do that.'],
  [
    'an option that is not known',
    thrownBy(() => parseArgs({ args: ['--nonsense'], options: {} })),
    "Unknown option '--nonsense'. See --help.",
  ],
  ['a database that is down', withCode('ECONNREFUSED'), down],
  [
    'a database that is down, asked through a function of ours',
    new AppError('internal', { cause: withCode('ECONNREFUSED') }),
    down,
  ],
  [
    'a wrong password',
    withCode('28P01', 'PostgresError'),
    'The database refuses the connection (28P01). Is DB_URL right?',
  ],
  [
    'a database without our schema',
    new AppError('internal', { cause: withCode('42P01', 'PostgresError') }),
    'The database lacks something of ours (42P01). Are all migrations applied?',
  ],
  [
    'an error of Stripe, without its headers',
    Object.assign(new Error('No such product: "a"'), {
      ...{ type: 'StripeInvalidRequestError', code: 'resource_missing', param: 'product', statusCode: 404 },
      headers: { server: 'nginx' },
    }),
    'Stripe: StripeInvalidRequestError resource_missing product 404: No such product: "a"',
  ],
  [
    'a key that Stripe does not know',
    Object.assign(new Error('Invalid API Key provided: sk_test_****'), {
      ...{ type: 'StripeAuthenticationError', statusCode: 401 },
    }),
    'Stripe: StripeAuthenticationError 401: Invalid API Key provided: sk_test_**** Is STRIPE_SECRET_KEY right?',
  ],
  [
    'another error of ours',
    new AppError('internal', { cause: withCode('23505', 'PostgresError') }),
    'Something went wrong on our side. (Postgres: 23505)',
  ],
])('of %s', (_name, error, said) => {
  expect(explainError(error)).toBe(said)
})

test('of what nobody foresaw it says where it came from, and nothing that the error carries', () => {
  const error = thrownBy(() => new URL('postgresql://postgres:secret@host:99999/postgres'))

  expect(explainError(error)).toMatch(/^TypeError: Invalid URL\n +at /)
  expect(explainError(error)).not.toContain('secret')
})
