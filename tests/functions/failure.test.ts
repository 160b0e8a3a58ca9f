/** What is told of a failure: names and codes, never words that may repeat what was sent. */
import { expect, test } from 'vitest'
import { AppError } from '../../functions/_shared/errors.ts'
import { causeOf, describeFailure } from '../../functions/_shared/failure.ts'

const named = (name: string, more: object = {}) => Object.assign(new Error('a secret'), { name, ...more })

test.each([
  ['a text of ours', 'the stream broke off', 'the stream broke off'],
  [
    'an error of Postgres',
    named('PostgresError', { code: '23505', constraint_name: 'x_key' }),
    'Postgres: 23505 x_key',
  ],
  ['any error', named('TypeError', { code: 'ECONNRESET' }), 'TypeError ECONNRESET'],
  ['what lies under it', named('TypeError', { cause: named('Error', { code: 'E2' }) }), 'TypeError (Error E2)'],
  ['an error of ours', new AppError('not_found'), 'not_found'],
  ['what was not foreseen', new AppError('internal', { cause: named('RangeError') }), 'RangeError'],
  ['what is no error', { secret: 1 }, 'object'],
])('%s', (_what, error, said) => {
  expect(describeFailure(error)).toBe(said)
})

test('a cause that leads back to its error has an end', () => {
  const error = named('Error')
  Object.assign(error, { cause: error })

  expect(describeFailure(error)).toBe('Error (Error (Error (Error (Error (Error (and so on))))))')
})

test('what a caller did wrong has no cause that a log would tell', () => {
  expect(causeOf(new AppError('invalid_request_error', { cause: 'a secret' }))).toEqual({})
  expect(causeOf(new AppError('upstream_error', { cause: 'the answer is empty' }))).toEqual({
    cause: 'the answer is empty',
  })
})
