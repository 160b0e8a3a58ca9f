/** Texts that a provider, or a caller whom it quotes, makes to keep a worker busy: each is looked at for a time that has a bound. */
import { afterEach, expect, test, vi } from 'vitest'
import { createStreamObserver } from '../../functions/_shared/ai/observe-stream.ts'
import {
  readRefusal,
  refusalLimitBytes,
  refusalOf,
  withoutSecrets,
} from '../../functions/_shared/ai/provider-refusal.ts'
import { withoutUsage } from '../../functions/_shared/ai/scan-chunks.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const key = { secret: 'the very key', isCallers: false }
const encode = (text: string) => new TextEncoder().encode(text)

/** The longest text that any regular expression looks at meanwhile. */
function longestLookedAt(work: () => unknown): number {
  let longest = 0
  const { exec } = RegExp.prototype
  vi.spyOn(RegExp.prototype, 'exec').mockImplementation(function (this: RegExp, text) {
    longest = Math.max(longest, text.length)
    return exec.call(this, text)
  })
  work()
  vi.restoreAllMocks()
  return longest
}

const hostile = ['exceed', 'api key ', 'eyJ-', 'key-', 'token ', 'bearer ', 'account ', 'invalid api']
const megabytes = 8_000_000
/** The beginning, and what the words for keys that were taken out of it add. */
const mostLookedAt = 2 * 8_000

test.each(hostile)('of 8 MB of "%s" behind a 200 no more than a beginning is looked at, wherever it stands', (word) => {
  const text = word.repeat(megabytes / word.length)
  const places = [
    { message: text },
    { code: text, type: text, param: text },
    { code: 400, message: 'Provider returned error', metadata: { raw: text, reasons: [text] } },
    { detail: [{ msg: text, loc: ['body', text] }] },
  ]

  for (const error of places)
    expect(longestLookedAt(() => refusalOf({ status: undefined, body: { error } }, key))).toBeLessThanOrEqual(
      mostLookedAt,
    )
})

test.each(hostile)('a refusal of 64 kB of "%s", which quotes the caller, is looked at as little', (word) => {
  const bytes = encode(JSON.stringify({ error: { message: word.repeat(60_000 / word.length) } }))
  const refuse = () => readRefusal({ status: 400, header: () => null }, bytes, key)

  expect(longestLookedAt(refuse)).toBeLessThanOrEqual(mostLookedAt)
})

test('many reasons and a path without end are cut', () => {
  const reasons = Array.from({ length: 1_000 }, (_, at) => `reason ${at}`)
  const deep = JSON.parse(`${'['.repeat(20_000)}${']'.repeat(20_000)}`)
  const loc = ['body', 'messages', deep, 7, ...Array.from({ length: 1_000 }, () => 'x')]

  const flagged = refusalOf({ status: 400, body: { error: { message: 'flagged', metadata: { reasons } } } }, key)
  const unread = refusalOf({ status: 422, body: { detail: [{ msg: 'is wrong', loc }] } }, key)

  expect(flagged.message).toMatch(/^flagged \(reason 0, .*, reason 19\)$/)
  expect(unread.details.param).toMatch(/^messages\.7(?:\.x){16}$/)
})

test('a token of any length is a secret, as a whole', () => {
  const long = `eyJ${'a'.repeat(3_000)}.eyJ${'b'.repeat(3_000)}.${'c'.repeat(90)}`

  expect(withoutSecrets(`refused ${long}, so`, key)).toBe('refused [redacted], so')
})

test('an error event that is too long to look at goes out as what we understand of it', () => {
  const { observe, observed } = createStreamObserver('no', key)
  const message = `The prompt is too long (${key.secret}) ${'eyJ-'.repeat(megabytes / 10)}`

  const { forward } = observe(encode(`data: ${JSON.stringify({ error: { message } })}\n\n`))

  const [text = ''] = forward.map((part) => new TextDecoder().decode(part))
  expect(forward).toHaveLength(1)
  expect(text.length).toBeLessThan(refusalLimitBytes)
  expect(JSON.parse(text.slice('data: '.length))).toMatchObject({ error: { code: 'invalid_request_error' } })
  expect(text).toContain('The prompt is too long ([redacted])')
  expect(observed.failure?.code).toBe('invalid_request_error')
})

/** Processor time, which does not pass while others have the processor. */
function cpuMs(work: () => unknown): number {
  const before = process.cpuUsage()
  work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1_000
}

const many: [string, (count: number) => string][] = [
  ['nulls in one chunk', (count) => `data: {"id":1${',"usage":null'.repeat(count)}}\n\n`],
  ['nulls with space in one chunk', (count) => `data: {"id":1${', "usage" : null'.repeat(count)}}\n\n`],
  ['texts of that name in one chunk', (count) => `data: {"id":1${',"usage":"null"'.repeat(count)}}\n\n`],
  ['objects without an end', (count) => `data: {${'"usage":{ ] '.repeat(count)}\n\n`],
  ['lines behind the end of a chunk', (count) => `data: {}\n${'data: "usage":1\n'.repeat(count)}\n`],
  ['choices', (count) => `data: {"choices":[${'{"usage":null},'.repeat(count)}{}]}\n\n`],
  ['chunks whose lines end with returns', (count) => `data: {}\n\n${'data: {"usage":{}}\r\r'.repeat(count)}`],
  ['braces far inside', (count) => `data: {"usage":1,"a":${'['.repeat(count)}${'{},'.repeat(count)}\n\n`],
  ['braces that never close', (count) => `data: ${'{"usage":1,'.repeat(count)}\n\n`],
]

test.each(many)('the time to cut usage out of %s grows with their number, not with its square', (_name, textOf) => {
  const timeOf = (count: number) => {
    const text = textOf(count)
    const bytes = encode(text)
    return cpuMs(() => withoutUsage(bytes, text))
  }

  // Without the generous part, which no count here comes near, a slow machine could be taken for a square.
  expect(timeOf(80_000)).toBeLessThan(3 * timeOf(40_000) + 1_000)
})

test('of many usages in a chunk none is left', () => {
  const cut = (text: string) => new TextDecoder().decode(withoutUsage(encode(text), text))

  expect(cut(`data: {"id":1${',"usage":null'.repeat(1_000)}}\n\n`)).toBe('data: {"id":1}\n\n')
  expect(cut(`data: {"usage":{}${', "usage" : null'.repeat(1_000)}}\n\n`)).toBe('data: {}\n\n')
  expect(cut(`data: {"choices":[${'{"usage":null},'.repeat(1_000)}{}]}\n\n`)).toBe(
    `data: {"choices":[${'{},'.repeat(1_000)}{}]}\n\n`,
  )
})
