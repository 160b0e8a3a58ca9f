/** The hold is a true upper bound: text by its bytes, everything else by the model's rule for it. */
import fc from 'fast-check'
import { countTokens as cl100k } from 'gpt-tokenizer/encoding/cl100k_base'
import { countTokens as o200k } from 'gpt-tokenizer/encoding/o200k_base'
import { describe, expect, test } from 'vitest'
import { byteLength } from '../../functions/_shared/ai/estimate-tokens.ts'
import { mediaRules } from '../../functions/_shared/ai/media-rules.ts'
import {
  type Contents,
  type Media,
  mediaRefused,
  mediaTokensLikely,
  promptTokensAtMost,
} from '../../functions/_shared/ai/prompt-size.ts'
import { fieldsRefused } from '../../functions/_shared/ai/request-fields.ts'

const nothing: Contents = { textBytes: 0, messages: 0, media: [], tokens: 0 }
const model = { context_tokens: 100_000, template_percent: 0, template_tokens: 0, media: {} }
/** Text that reads like one of these tokens is as long as it is. */
const asText = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() }

/** Blocks of Unicode whose letters tokenizers have seldom or never seen, and some that they know. */
const scripts = {
  latin: [0x20, 0x7e],
  cyrillic: [0x400, 0x4ff],
  arabic: [0x600, 0x6ff],
  devanagari: [0x900, 0x97f],
  ethiopic: [0x1200, 0x137f],
  runes: [0x16a0, 0x16ff],
  han: [0x4e00, 0x9fff],
  private: [0xe000, 0xe0ff],
  cuneiform: [0x12000, 0x123ff],
  hieroglyphs: [0x13000, 0x1342f],
  emoji: [0x1f300, 0x1faff],
  noise: [0x0, 0x10ffff],
} as const

describe('text', () => {
  test.each(Object.entries(scripts))('of %s has no more tokens than bytes', (_name, [min, max]) => {
    const letter = fc.integer({ min, max }).map((point) => String.fromCodePoint(point))
    const text = fc.array(letter, { minLength: 1, maxLength: 40 }).map((letters) => letters.join('').toWellFormed())
    fc.assert(
      fc.property(text, (said) => {
        const most = promptTokensAtMost({ ...nothing, textBytes: byteLength(said), messages: 1 }, model)
        expect(most).toBeGreaterThanOrEqual(Math.max(o200k(said, asText), cl100k(said, asText)))
      }),
    )
  })

  test('has some in which the bound is nearly reached, so that less would not do', () => {
    const said = '𒀀𒁀𒂀'.repeat(20)

    expect(o200k(said) / byteLength(said)).toBeGreaterThan(0.7)
  })

  test('is more by what the templates add, for each message and for the one to come', () => {
    const templates = { ...model, template_percent: 5, template_tokens: 7 }

    expect(promptTokensAtMost({ ...nothing, textBytes: 101, messages: 2 }, templates)).toBe(101 + 6 + 3 * 7)
  })

  test('is never more than the context, for each of the texts that are read one by one', () => {
    const long = { ...nothing, textBytes: 1_000_000 }

    expect(promptTokensAtMost(long, model)).toBe(100_000)
    expect(promptTokensAtMost({ ...long, prompts: 3 }, model)).toBe(300_000)
  })

  test('that came as tokens has as many as there are', () => {
    expect(promptTokensAtMost({ ...nothing, tokens: 12 }, model)).toBe(12)
  })
})

const tiles = { rule: 'tiles', base: 85, tile: 170, tile_px: 512, fit_px: 2048, short_px: 768, low: 85 }
const pixels = { rule: 'pixels', per: 784, max: 1_600 }

describe('a picture, sound or file as base64 or address', () => {
  test.each<[string, object, Omit<Media, 'kind'>, number]>([
    ['a fixed number', { rule: 'fixed', tokens: 258 }, { width: 9_000, height: 9_000 }, 258],
    ['tiles of a square', tiles, { width: 1_024, height: 1_024 }, 765],
    ['tiles of what is shrunk twice', tiles, { width: 2_048, height: 4_096 }, 1_105],
    ['tiles of the longest picture', tiles, { width: 1, height: 100_000 }, 85 + 170 * 8],
    ['tiles of an unknown size: the most that there are', tiles, {}, 85 + 170 * 8],
    ['low detail', tiles, { detail: 'low' }, 85],
    ['pixels', pixels, { width: 280, height: 560 }, 200],
    ['pixels of a thin picture, by the squares that it needs', pixels, { width: 1, height: 2_800 }, 100],
    ['pixels of a large picture', pixels, { width: 10_000, height: 10_000 }, 1_600],
    ['pixels of an unknown size', pixels, {}, 1_600],
    ['seconds', { rule: 'seconds', tokens: 32, max_seconds: 600 }, { seconds: 1.1 }, 64],
    ['seconds of an unknown length', { rule: 'seconds', tokens: 32, max_seconds: 600 }, {}, 19_200],
    ['pages', { rule: 'pages', tokens: 1_500, max_pages: 20 }, { pages: 2 }, 3_000],
    ['pages of an unknown number', { rule: 'pages', tokens: 1_500, max_pages: 20 }, {}, 30_000],
    ['the whole context', { rule: 'context' }, {}, 100_000],
  ])('is counted by %s', (_name, rule, one, tokens) => {
    const media = mediaRules.parse({ image: rule })

    expect(promptTokensAtMost({ ...nothing, media: [{ kind: 'image', ...one }] }, { ...model, media })).toBe(tokens)
  })

  test('is counted with the text and with each other, up to the context', () => {
    const media = mediaRules.parse({ image: { rule: 'fixed', tokens: 258 }, audio: { rule: 'context' } })
    const seen = { ...nothing, textBytes: 10, media: [{ kind: 'image' as const }, { kind: 'image' as const }] }

    expect(promptTokensAtMost(seen, { ...model, media })).toBe(526)
    expect(promptTokensAtMost({ ...seen, media: [...seen.media, { kind: 'audio' }] }, { ...model, media })).toBe(
      100_000,
    )
  })

  test('of a known size never counts for more than one of an unknown size', () => {
    const px = fc.integer({ min: 1, max: 70_000 })
    fc.assert(
      fc.property(px, px, fc.constantFrom(tiles, pixels), (width, height, rule) => {
        const reading = { ...model, media: mediaRules.parse({ image: rule }) }
        const count = (one: Omit<Media, 'kind'>) =>
          promptTokensAtMost({ ...nothing, media: [{ kind: 'image', ...one }] }, reading)
        expect(count({ width, height })).toBeLessThanOrEqual(count({}))
      }),
    )
  })

  const seconds = { rule: 'seconds', tokens: 300, max_seconds: 200 }
  test.each<[string, object, number]>([
    ['as the most that pictures have', { image: pixels }, 1_600],
    ['as the longest film, for a model that sees films', { image: pixels, video: seconds }, 60_000],
    ['as all that is read, where pictures are a fixed number', { image: { rule: 'fixed', tokens: 258 } }, 100_000],
    [
      'as all that is read, where films are a fixed number',
      { image: pixels, video: { rule: 'fixed', tokens: 9 } },
      100_000,
    ],
    ['as the operator says', { image: { rule: 'fixed', tokens: 258, address_tokens: 999 }, video: seconds }, 999],
  ])('of which there is an address only counts %s', (_name, rules, tokens) => {
    const media = mediaRules.parse(rules)
    const seen: Media = { kind: 'image', isUnseen: true }

    expect(promptTokensAtMost({ ...nothing, media: [seen] }, { ...model, media })).toBe(tokens)
  })

  test('is estimated as what its part says, also where more is held', () => {
    const media = mediaRules.parse({ image: { rule: 'fixed', tokens: 258 } })

    const seen = { ...nothing, media: [{ kind: 'image' as const, isUnseen: true as const }] }
    expect(mediaTokensLikely(seen, { ...model, media })).toBe(258)
  })

  test('of a kind for which the model has no rule is refused by its name', () => {
    const media = mediaRules.parse({ image: { rule: 'context' } })
    const of = (...kinds: Media['kind'][]) => ({ ...nothing, media: kinds.map((kind) => ({ kind })) })

    expect(mediaRefused(of('image', 'file', 'video'), { media })).toBe('file')
    expect(mediaRefused(of('image'), { media })).toBeUndefined()
    expect(mediaRefused(of(), { media: {} })).toBeUndefined()
  })

  test.each([{ rule: 'guess' }, { rule: 'fixed' }, { rule: 'fixed', tokens: -1 }, { rule: 'pixels', per: 0, max: 1 }])(
    'has no such rule: %o',
    (rule) => {
      expect(mediaRules.safeParse({ image: rule }).success).toBe(false)
    },
  )
})

describe('what the provider finds', () => {
  const short = { ...nothing, textBytes: 500 }
  test.each<[string, Parameters<typeof promptTokensAtMost>[2], number | null, number]>([
    ['each search as the model says', { searches: 3 }, 4_000, 12_500],
    ['no more than the context', { searches: 30 }, 4_000, 100_000],
    ['the context, when nobody says', { searches: 1 }, null, 100_000],
    ['the context for what has no bound', { findsMore: true }, 4_000, 100_000],
    ['nothing, when nobody asks', { searches: 0 }, null, 500],
  ])('is a part of the prompt: %s', (_name, asks, search_prompt_tokens, tokens) => {
    expect(promptTokensAtMost(short, { ...model, search_prompt_tokens }, asks)).toBe(tokens)
  })
})

describe('a field that is not for every model', () => {
  const closed = { name: 'provider', param: 'provider', reason: 'chooses who answers' }
  const unknown = { name: 'messages.mood', param: 'messages.2.mood' }
  const shut = { open_fields: [] }
  const strict = { passes_unknown_fields: false }

  test('is refused by where it stands, and it is said how to open it', () => {
    expect(fieldsRefused([closed], shut, strict)).toMatchObject({
      param: 'provider',
      message: expect.stringMatching(/chooses who answers.*models\.open_fields with 'provider'/),
    })
    expect(fieldsRefused([unknown], shut, strict)).toMatchObject({
      param: 'messages.2.mood',
      message: expect.stringMatching(/'messages\.mood'.*providers\.passes_unknown_fields/),
    })
  })

  test('passes where the row of the model opens it, an unknown one where the row of the provider does', () => {
    expect(fieldsRefused([], shut, strict)).toBeUndefined()
    expect(fieldsRefused([closed, unknown], { open_fields: [closed.name, unknown.name] }, strict)).toBeUndefined()
    expect(fieldsRefused([unknown], shut, { passes_unknown_fields: true })).toBeUndefined()
    expect(fieldsRefused([closed], shut, { passes_unknown_fields: true })).toBeDefined()
  })
})
