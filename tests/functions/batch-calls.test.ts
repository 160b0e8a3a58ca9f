/** Calls that wait together go to Postgres together. */
import { expect, test } from 'vitest'
import { createBatches, isOnesFault } from '../../functions/_shared/batch-calls.ts'
import { AppError } from '../../functions/_shared/errors.ts'

/** A database whose statements end when the test says so. */
function database() {
  const open: { items: number[]; end(error?: Error): void }[] = []
  const send = (items: number[]) =>
    new Promise<string[]>((resolve, reject) => {
      open.push({
        items,
        end: (error) => (error ? reject(error) : resolve(items.map((item) => `answer ${item}`))),
      })
    })
  const sizes = () => open.map(({ items }) => items.length)
  return { open, send, sizes }
}
const turn = () => new Promise((done) => setImmediate(done))
const numbers = (count: number) => Array.from({ length: count }, (_, at) => at)

test('alone means at once: in the same turn, before anything else happens', async () => {
  const { send, sizes } = database()
  const ask = createBatches(2)(send, () => false)

  ask(1)
  await Promise.resolve()

  expect(sizes()).toEqual([1])
})

test('while all connections are busy, calls gather and leave with the next one that is free', async () => {
  const { open, send, sizes } = database()
  const ask = createBatches(2)(send, () => false)

  const first = ask(0)
  await turn()
  const second = ask(1)
  await turn()
  const answers = Promise.all([first, second, ...numbers(10).slice(2).map(ask)])
  await turn()
  expect(sizes()).toEqual([1, 1])
  open[0]?.end()
  await turn()
  expect(sizes()).toEqual([1, 1, 8])
  for (const { end } of open) end()

  expect(await answers).toEqual(numbers(10).map((item) => `answer ${item}`))
})

test('a batch has a largest size, and no more than so many are on their way', async () => {
  const { open, send, sizes } = database()
  const ask = createBatches(2)(send, () => false, 3)

  const answers = Promise.all(numbers(11).map(ask))
  await turn()
  for (let at = 0; at < 4; at += 1) {
    expect(sizes().length).toBeLessThanOrEqual(at + 2)
    open[at]?.end()
    await turn()
  }
  await answers

  expect(sizes()).toEqual([3, 3, 3, 2])
})

test('kinds that wait take turns', async () => {
  const [admissions, settlements] = [database(), database()]
  const inBatches = createBatches(1)
  const admit = inBatches(admissions.send, () => false, 1)
  const settle = inBatches(settlements.send, () => false)

  for (const item of numbers(3)) admit(item)
  settle(0)
  await turn()
  admissions.open[0]?.end()
  await turn()

  expect([admissions.sizes(), settlements.sizes()]).toEqual([[1], [1]])
})

test('one bad call does not refuse the others: a batch that fails is sent again one by one', async () => {
  const sent: number[][] = []
  const send = async (items: number[]) => {
    sent.push(items)
    await turn()
    if (items.includes(3)) throw new Error('bad call')
    return items
  }
  const ask = createBatches(1)(send, () => true)

  const results = await Promise.allSettled(numbers(6).map(ask))

  expect(results.map(({ status }) => status)).toEqual(
    [0, 1, 2, 3, 4, 5].map((n) => (n === 3 ? 'rejected' : 'fulfilled')),
  )
  expect(sent).toEqual([[0, 1, 2, 3, 4, 5], [0], [1], [2], [3], [4], [5]])
})

test('a batch that is lost with its connection is not sent again: nobody knows what was done', async () => {
  const { open, send, sizes } = database()
  const ask = createBatches(1)(send, () => false)

  const first = ask(0)
  await turn()
  const results = Promise.allSettled([first, ...numbers(4).slice(1).map(ask)])
  open[0]?.end()
  await turn()
  open[1]?.end(new Error('connection lost'))

  expect((await results).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'rejected'])
  expect(sizes()).toEqual([1, 3])
})

test('too few answers are none', async () => {
  const ask = createBatches(1)(
    async () => [],
    () => false,
  )

  await expect(ask(1)).rejects.toThrow('0 answers to 1 calls')
})

const failed = (name: string, code: string) =>
  new AppError('accounting_unavailable', { cause: Object.assign(new Error('x'), { name, code }) })

test.each([
  ['22P02', 'PostgresError', true],
  ['40P01', 'PostgresError', true],
  ['57014', 'PostgresError', true],
  ['57P01', 'PostgresError', false],
  ['08006', 'PostgresError', false],
  ['CONNECTION_CLOSED', 'Error', false],
])('%s of %s may be the fault of one call: %s', (code, name, answer) => {
  expect(isOnesFault(failed(name, code))).toBe(answer)
  expect(isOnesFault(new AppError('accounting_unavailable', { cause: new Error('no answer') }))).toBe(false)
})
