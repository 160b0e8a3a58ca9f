/** Rows as one text, read back by PostgreSQL itself: every value arrives as it was. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Field, rowsLiteral } from '../../functions/_shared/rows-literal.ts'
import { runs } from '../support/runs.ts'
import { rolledBack, type Tx } from './support.ts'

type Fields = { a: Field; b: Field; c: Field }

/** The rows as PostgreSQL reads the text that we write, in the types that we use: text, a number, a truth. */
async function readBack(tx: Tx, rows: Fields[]): Promise<unknown[]> {
  const literal = rowsLiteral(rows.map(({ a, b, c }) => [a, b, c]))
  return [...(await tx`select a, b::text, c from unnest(${literal}::text::pg_temp.three[])`)].map((row) => ({ ...row }))
}

const inTypes = (test: (tx: Tx) => Promise<void>) =>
  rolledBack(async (tx) => {
    await tx`create type pg_temp.three as (a text, b bigint, c boolean)`
    await test(tx)
  })

const texts: [what: string, text: string][] = [
  ['nothing, which is not null', ''],
  ['a word', 'word'],
  ['the word NULL', 'NULL'],
  ['the word null', 'null'],
  ['a quote', '"'],
  ['quotes in a row', '""""'],
  ['an apostrophe', "it's"],
  ['a backslash', '\\'],
  ['backslashes and quotes', '\\"\\\\"\\'],
  ['a comma', 'a,b,,'],
  ['braces and brackets', '{a,{b}}()[]'],
  ['an array of rows', '{"(1,\\"x\\",)"}'],
  ['spaces around', '  a  '],
  ['only spaces', '   '],
  ['lines and tabs', 'a\nb\r\n\tc'],
  ['other scripts and an emoji', 'Grüße, 日本語 🦊 e\u0301'],
  ['a JSON text', JSON.stringify({ id: 'a"b\\c', list: [1, null, ''], text: "it's {}" })],
  ['an address and a hash', '\\xdeadBEEF 2001:db8::/32'],
  ['a dollar', '$1 $$ $&'],
]

test.each(texts)('%s', (_what, text) =>
  inTypes(async (tx) => {
    expect(await readBack(tx, [{ a: text, b: 1, c: true }])).toEqual([{ a: text, b: '1', c: true }])
  }),
)

test('no rows, nulls, undefined, truths, and numbers of every size', () =>
  inTypes(async (tx) => {
    expect(await readBack(tx, [])).toEqual([])
    const rows = [
      { a: null, b: null, c: null },
      { a: undefined, b: undefined, c: undefined },
      { a: 'x', b: 0, c: false },
      { a: 'x', b: -1, c: true },
      { a: 'x', b: 2n ** 63n - 1n, c: true },
      { a: 'x', b: Number.MAX_SAFE_INTEGER, c: true },
    ]

    expect(await readBack(tx, rows)).toEqual([
      { a: null, b: null, c: null },
      { a: null, b: null, c: null },
      { a: 'x', b: '0', c: false },
      { a: 'x', b: '-1', c: true },
      { a: 'x', b: '9223372036854775807', c: true },
      { a: 'x', b: '9007199254740991', c: true },
    ])
  }))

test('small and large numbers with fractions', () =>
  rolledBack(async (tx) => {
    await tx`create type pg_temp.one as (a numeric)`
    const numbers = [0.1, 1e-7, 1.5e-10, 123456.789, 1e21]

    const rows = await tx`select a from unnest(${rowsLiteral(numbers.map((one) => [one]))}::pg_temp.one[])`

    expect(rows.map(({ a }) => Number(a))).toEqual(numbers)
  }))

test('an array inside a row, as the references of prices are sent', () =>
  rolledBack(async (tx) => {
    await tx`create type pg_temp.listed as (a integer[], b text)`

    const [row] = await tx`select a, b from unnest(${rowsLiteral([['{1,2,30}', 'x']])}::pg_temp.listed[])`

    expect(row).toEqual({ a: [1, 2, 30], b: 'x' })
  }))

test('whatever the texts are', () =>
  inTypes(async (tx) => {
    // PostgreSQL keeps neither a zero character nor half a pair.
    const text = fc.oneof(
      fc.string({ unit: 'binary' }).map((one) => one.replaceAll('\0', '').toWellFormed()),
      fc.string({ unit: fc.constantFrom('"', '\\', ',', '{', '}', '(', ')', ' ', 'N', 'x', "'") }),
    )
    const row = fc.record({ a: fc.option(text), b: fc.option(fc.maxSafeInteger()), c: fc.option(fc.boolean()) })
    await fc.assert(
      fc.asyncProperty(fc.array(row, { maxLength: 5 }), async (rows) => {
        expect(await readBack(tx, rows)).toEqual(
          rows.map(({ b, ...rest }) => ({ ...rest, b: b === null ? null : String(b) })),
        )
      }),
      { numRuns: runs(100) },
    )
  }))
