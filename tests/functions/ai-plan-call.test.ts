/** What the gateway works out of the configuration before it asks: by which routes a call can be answered, for which plans, at which worst case. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keepSnapshot } from '../../functions/_shared/ai/keep-snapshot.ts'
import { planCall } from '../../functions/_shared/ai/plan-call.ts'
import type { Contents } from '../../functions/_shared/ai/prompt-size.ts'
import { type Snapshot, snapshot } from '../../functions/_shared/ai/snapshot.ts'

const nowS = 1_000
const limits = {
  connect_timeout_ms: 1,
  first_byte_timeout_ms: 1,
  idle_timeout_ms: 1,
}
const provider = (id: string, total_timeout_ms: number) => ({
  id,
  base_url: `https://${id}.test/v1`,
  api_key_secret: null,
  ...limits,
  total_timeout_ms,
  passes_unknown_fields: false,
  stops_when_left: false,
})
const price = (ref: number, over: object = {}) => ({
  ref,
  above_prompt_tokens: 0,
  variant: '',
  credits: 1,
  input_pico: 1_000_000,
  cached_input_pico: 0,
  cache_write_pico: 1_000_000,
  cache_write_1h_pico: 1_000_000,
  audio_input_pico: 1_000_000,
  output_pico: 2_000_000,
  reasoning_pico: 2_000_000,
  audio_output_pico: 2_000_000,
  image_pico: 0,
  search_pico: 0,
  request_pico: 0,
  unpriced: [],
  ...over,
})
type Model = {
  kind?: string
  provider_id?: string
  max_output_tokens?: number
  plans?: number[]
  fallbacks?: string[]
  open_until?: number | null
  context_tokens?: number
  template_tokens?: number
  search_prompt_tokens?: number
  media?: object
  limit_field?: string
  open_fields?: string[]
  prices?: object[]
}

const reading = {
  context_tokens: 10_000_000,
  template_percent: 0,
  template_tokens: 0,
  media: {},
  limit_field: 'max_tokens',
  open_fields: [],
  tokens_per_second: 50,
}

/** Models by their names; what is not said of one is that of `plain`. */
function known(models: Record<string, Model>, version = 1): Snapshot {
  return snapshot.parse({
    version,
    default_max_output_tokens: 40,
    timeouts_charge: 'caller',
    hold_grace_seconds: 5,
    providers: [provider('one', 10_000), provider('two', 20_000)],
    models: Object.entries(models).map(([id, over], at) => ({
      id,
      provider_id: 'one',
      upstream_id: `up/${id}`,
      kind: 'chat',
      max_output_tokens: 100,
      plans: [0, 1],
      fallbacks: [],
      open_until: null,
      ...reading,
      prices: [price(at + 1)],
      ...over,
    })),
  })
}

const wish = {
  endpoint: 'chat.completions',
  model: 'asked',
  contents: { textBytes: 10, messages: 1, media: [], tokens: 0 },
  asks: {},
  fields: [],
  max_output_tokens: 50,
  choices: 1,
  images: 0,
  credential_id: null,
} as const
type Wish = Parameters<typeof planCall>[1]
const plan = (snapshotOf: Snapshot, over: Partial<Wish> = {}, of: { plan?: number; mayProbe?: boolean } = {}) =>
  planCall(snapshotOf, { ...wish, ...over }, { plan: of.plan, nowS, mayProbe: of.mayProbe ?? true })
const reads = (textBytes: number) => ({ contents: { ...wish.contents, textBytes } })
const models = ({ routes }: ReturnType<typeof plan>) => routes.map(({ model }) => model)

const everyPlan = 2n ** 63n - 1n

describe('the routes of a call', () => {
  test('are the model and its fallbacks in their order, each with its price and the tokens that it may be asked for', () => {
    const two = known({
      asked: { fallbacks: ['second', 'first'] },
      first: { max_output_tokens: 30 },
      second: { provider_id: 'two' },
    })

    const planned = plan(two)

    expect(
      planned.routes.map(({ model, upstream_model, max_output_tokens, provider: { id }, price_ref }) => [
        model,
        upstream_model,
        max_output_tokens,
        id,
        price_ref,
      ]),
    ).toEqual([
      ['asked', 'up/asked', 50, 'one', 1],
      ['second', 'up/second', 50, 'two', 3],
      ['first', 'up/first', 30, 'one', 2],
    ])
    expect(planned.priceRefs).toEqual([1, 3, 2])
    // As long as all of them may last, and the grace.
    expect(planned.lastsMs).toBe(10_000 + 20_000 + 10_000 + 5_000)
  })

  test.each<[string, Record<string, Model>, Partial<Wish>?]>([
    ['a model that nobody knows', {}],
    ['a model of another kind', { asked: { kind: 'embedding' } }],
    ['a model without a price', { asked: { prices: [] } }],
    ['a chat model that is asked for images', { asked: {} }, { endpoint: 'images.generations' }],
  ])('%s has none, whatever the plan', (_name, of, over) => {
    expect(plan(known(of), over)).toMatchObject({ routes: [], priceRefs: [], plans: everyPlan, credits: 0, micros: 0n })
  })

  test('leave out a fallback without a price, of another kind, of a provider that is off, or that is gone', () => {
    const planned = plan(
      known({
        asked: { fallbacks: ['free', 'embedding', 'off', 'gone', 'good'] },
        free: { prices: [] },
        embedding: { kind: 'embedding' },
        off: { provider_id: 'three' },
        good: {},
      }),
    )

    expect(models(planned)).toEqual(['asked', 'good'])
  })
})

describe('the plans for which that is so', () => {
  const some = known({ asked: { plans: [0, 2, 5], fallbacks: ['better'] }, better: { plans: [2, 5] } })

  test.each<[string, number | undefined, string[], bigint]>([
    ['nothing is known: that of the first plan that has the model', undefined, ['asked'], 0b1n],
    ['that plan', 0, ['asked'], 0b1n],
    ['a plan that has the fallback, too, and so another one', 2, ['asked', 'better'], 0b100100n],
    ['a plan without the model', 1, [], 0b10n],
  ])('of a caller of whom %s', (_name, of, routes, plans) => {
    const planned = plan(some, {}, of === undefined ? {} : { plan: of })

    expect(models(planned)).toEqual(routes)
    expect(planned.plans).toBe(plans)
  })

  test('of a model in no plan are none', () => {
    expect(plan(known({ asked: { plans: [] } }))).toMatchObject({ routes: [], plans: 0n })
  })

  test('reach to the 63rd', () => {
    expect(plan(known({ asked: { plans: [62] } })).plans).toBe(1n << 62n)
  })
})

describe('a breaker', () => {
  const open = nowS + 1
  const halfOpen = nowS - 1

  test('that is open takes its route away', () => {
    const planned = plan(known({ asked: { open_until: open, fallbacks: ['other'] }, other: {} }))

    expect(models(planned)).toEqual(['other'])
    expect(planned.probes).toBe(false)
  })

  test('that is open everywhere leaves no route, and a call that lasts no time', () => {
    const planned = plan(known({ asked: { open_until: open, fallbacks: ['other'] }, other: { open_until: open } }))

    expect(planned).toMatchObject({ routes: [], priceRefs: [], lastsMs: 0, plans: 0b11n, probes: false })
  })

  test('that is half open is tried first, by who may, and said so', () => {
    const half = known({ asked: { open_until: halfOpen, fallbacks: ['other'] }, other: {} })

    expect(plan(half)).toMatchObject({ probes: true })
    expect(models(plan(half))).toEqual(['asked', 'other'])
    expect(plan(half, {}, { mayProbe: false })).toMatchObject({ probes: false })
    expect(models(plan(half, {}, { mayProbe: false }))).toEqual(['other'])
  })

  test('that is half open is not tried behind a route that works', () => {
    const planned = plan(known({ asked: { fallbacks: ['half', 'other'] }, half: { open_until: halfOpen }, other: {} }))

    expect(models(planned)).toEqual(['asked', 'other'])
    expect(planned.probes).toBe(false)
  })

  test('of a fallback is tried when the model itself is open', () => {
    const planned = plan(known({ asked: { open_until: open, fallbacks: ['half'] }, half: { open_until: halfOpen } }))

    expect(models(planned)).toEqual(['half'])
    expect(planned.probes).toBe(true)
  })
})

describe('the worst case', () => {
  const free = { input_pico: 0, cache_write_pico: 0, output_pico: 0, reasoning_pico: 0 }

  test('is that of the dearest route, each thing by itself', () => {
    const planned = plan(
      known({
        asked: { fallbacks: ['long', 'credits'] },
        long: { max_output_tokens: 400, prices: [price(2, { ...free, output_pico: 1_000_000 })] },
        credits: { prices: [price(3, { ...free, credits: 7 })] },
      }),
      { max_output_tokens: 300, choices: 2 },
    )

    expect(planned).toMatchObject({ outputTokens: 600, credits: 7, micros: 600n })
  })

  test.each<[string, Partial<Wish>, object, bigint]>([
    ['prompt and answer', {}, {}, 110n],
    ['the tokens that are asked for when nothing is said', { max_output_tokens: null }, {}, 90n],
    ['every choice', { choices: 3 }, {}, 310n],
    ['an answer that is all reasoning, where that is dearer', {}, { reasoning_pico: 3_000_000 }, 160n],
    ['reasoning that is cheaper for nothing', {}, { reasoning_pico: 0 }, 110n],
    ['the request', {}, { request_pico: 5_000_000 }, 115n],
    [
      'less than a micro-dollar as one',
      { ...reads(0), max_output_tokens: 1 },
      { output_pico: 1, reasoning_pico: 1 },
      1n,
    ],
  ])('counts %s', (_name, over, cost, micros) => {
    expect(plan(known({ asked: { prices: [price(1, cost)] } }), over).micros).toBe(micros)
  })

  test('of embeddings has no output, and of images their number', () => {
    expect(plan(known({ asked: { kind: 'embedding' } }), { endpoint: 'embeddings' })).toMatchObject({
      outputTokens: 0,
      micros: 10n,
    })
    const byImage = { image_pico: 40_000_000_000, output_pico: 0, reasoning_pico: 0 }
    const image = known({ asked: { kind: 'image', prices: [price(1, byImage)] } })
    expect(plan(image, { endpoint: 'images.generations', images: 3 })).toMatchObject({
      outputTokens: 0,
      micros: 120_010n,
      routes: [{ max_output_tokens: 0 }],
    })
  })

  test('of images with a price for output has all tokens that each may have, whatever the caller’s limit', () => {
    const prices = [price(1, { output_pico: 40_000_000, reasoning_pico: 40_000_000 })]
    const image = known({ asked: { kind: 'image', max_output_tokens: 6_240, prices } })

    const planned = plan(image, { endpoint: 'images.generations', images: 2, max_output_tokens: 1 })

    expect(planned).toMatchObject({ outputTokens: 12_480, routes: [{ max_output_tokens: 6_240 }] })
    expect(planned.micros).toBe(10n + 12_480n * 40n)
  })

  test('with the caller’s own key costs nothing, and lasts and counts as always', () => {
    const planned = plan(known({ asked: {} }), { credential_id: crypto.randomUUID() })

    expect(planned).toMatchObject({ credits: 0, micros: 0n, outputTokens: 50, lastsMs: 15_000 })
  })

  test('rounds up once and exactly, whether numbers or bigints have to do it', () => {
    const pico = fc.oneof(fc.nat({ max: 3_000_000 }), fc.integer({ min: 999_999_998, max: 2_000_000_003 }))
    const property = fc.property(
      fc.integer({ min: 1, max: 9_000_003 }),
      pico,
      fc.nat({ max: 2_000_001 }),
      (tokens, input, once) => {
        const cost = { input_pico: input, cache_write_pico: 0, output_pico: 0, reasoning_pico: 0, request_pico: once }
        const { micros } = plan(known({ asked: { prices: [price(1, cost)] } }), reads(tokens))

        expect(micros).toBe((BigInt(tokens) * BigInt(input) + BigInt(once) + 999_999n) / 1_000_000n)
      },
    )

    fc.assert(property, { numRuns: 300 })
  })

  test('is exact where numbers of JavaScript are not', () => {
    const dear = known({ asked: { prices: [price(1, { input_pico: 9_007_199_254_740_991 })] } })

    expect(plan(dear, { ...reads(1_000_003), max_output_tokens: 1 }).micros).toBe(
      (9_007_199_254_740_991n * 1_000_003n + 2_000_000n + 999_999n) / 1_000_000n,
    )
  })

  test.each([
    reads(-1),
    reads(Number.NaN),
    { images: -1 },
    { choices: 0 },
    { max_output_tokens: 0 },
    { asks: { searches: -1 } },
  ])('of %o is none', (over) => {
    expect(() => plan(known({ asked: {} }), over)).toThrow('must be numbers of such things')
  })
})

describe('the price of what is asked for', () => {
  const audio = { contents: { ...wish.contents, media: [{ kind: 'audio' as const }] } }
  const hears = { media: { audio: { rule: 'fixed', tokens: 5 } } }
  const dear = { cache_write_pico: 2_000_000, cache_write_1h_pico: 4_000_000, audio_input_pico: 8_000_000 }

  test.each<[string, Partial<Wish>, object, bigint]>([
    ['what is written into a cache, which nobody need have asked for', {}, { cache_write_pico: 3_000_000 }, 130n],
    ['a cache of an hour, for who asks for it', { asks: { cacheWrites: '1h' } }, dear, 140n],
    ['a cache of five minutes, for who asks for that', { asks: { cacheWrites: '5m' } }, dear, 120n],
    ['sound in the prompt', audio, dear, 15n * 8n + 100n],
    ['an answer in sound', { asks: { audioOut: true } }, { audio_output_pico: 9_000_000 }, 460n],
    ['no answer in sound, for who does not ask for one', {}, { audio_output_pico: 9_000_000 }, 110n],
    ['searches, and what each of them finds', { asks: { searches: 3 } }, { search_pico: 5_000_000_000 }, 15_410n],
  ])('counts %s', (_name, over, cost, micros) => {
    const of = { ...hears, search_prompt_tokens: 100, prices: [price(1, cost)] }
    expect(plan(known({ asked: of }), over).micros).toBe(micros)
  })

  test.each<[string, Partial<Wish>, RegExp]>([
    ['cache_write', { asks: { cacheWrites: '5m' } }, /no price for writing into a cache,/],
    ['cache_write_1h', { asks: { cacheWrites: '1h' } }, /no price for writing into a cache for an hour,/],
    ['audio_input', audio, /no price for sound in a prompt,/],
    ['audio_output', { asks: { audioOut: true } }, /no price for answers in sound,/],
    ['search', { asks: { searches: 1 } }, /no price for searches,/],
  ])('a call that asks for a unit without one is refused: %s', (unit, over, message) => {
    const of = { ...hears, prices: [price(1, { unpriced: [unit] })] }

    expect(() => plan(known({ asked: of }), over)).toThrow(
      expect.objectContaining({ code: 'model_not_priced', message: expect.stringMatching(message) }),
    )
    expect(models(plan(known({ asked: of })))).toEqual(['asked'])
    // With the caller's own key nothing of it is paid here.
    expect(models(plan(known({ asked: of }), { ...over, credential_id: crypto.randomUUID() }))).toEqual(['asked'])
    // A fallback of which it is so is none.
    const second = known({ asked: { ...hears, fallbacks: ['other'] }, other: of })
    expect(models(plan(second, over))).toEqual(['asked'])
  })

  test('images without a price are refused, too', () => {
    const image = known({ asked: { kind: 'image', prices: [price(1, { unpriced: ['image'] })] } })

    expect(() => plan(image, { endpoint: 'images.generations', images: 1 })).toThrow('no price for an image')
  })

  test('is that of its size and quality, else that of every one; what is not named has a price of its own', () => {
    const byImage = { output_pico: 0, reasoning_pico: 0 }
    const image = known({
      asked: {
        kind: 'image',
        prices: [
          price(1, { ...dear, ...byImage, image_pico: 40_000_000_000 }),
          price(2, { variant: '1024x1024/high', ...byImage, image_pico: 160_000_000_000 }),
          price(3, { variant: '*', ...dear, ...byImage, image_pico: 200_000_000_000 }),
        ],
      },
    })
    const drawn = (variant?: string) => {
      const planned = plan(image, { ...reads(0), endpoint: 'images.generations', images: 2, asks: { variant } })
      return [planned.priceRefs, planned.micros]
    }

    expect(drawn()).toEqual([[1], 80_000n])
    expect(drawn('1024x1024/high')).toEqual([[2], 320_000n])
    expect(drawn('256x256/low')).toEqual([[3], 400_000n])
  })

  test('of a size and quality that nothing prices is none', () => {
    const image = known({ asked: { kind: 'image', prices: [price(1), price(2, { variant: '1024x1024/high' })] } })

    const drawn = { endpoint: 'images.generations', images: 1, asks: { variant: '4096x4096/high' } } as const
    expect(() => plan(image, drawn)).toThrow(
      expect.objectContaining({ code: 'model_not_priced', message: expect.stringContaining('4096x4096/high') }),
    )
  })
})

describe('a long prompt', () => {
  const steps = [
    price(1),
    price(2, { above_prompt_tokens: 100, input_pico: 4_000_000 }),
    price(3, { above_prompt_tokens: 1_000, input_pico: 2_000_000, output_pico: 9_000_000 }),
  ]

  test('is held for at the dearest step that it may reach, and all of these are told', () => {
    const long = known({ asked: { prices: steps } })
    const planned = (bytes: number) => plan(long, { ...reads(bytes), max_output_tokens: 1 })

    expect(planned(100)).toMatchObject({ priceRefs: [1], micros: 102n })
    expect(planned(101)).toMatchObject({ priceRefs: [1, 2], micros: 406n, routes: [{ price_ref: 1 }] })
    // In the third step the prompt is cheaper, but it may turn out to be shorter.
    expect(planned(1_001)).toMatchObject({ priceRefs: [1, 2, 3], micros: 4_006n })
    expect(planned(1_001).routes[0]?.steps).toEqual([
      { price_ref: 2, above_prompt_tokens: 100 },
      { price_ref: 3, above_prompt_tokens: 1_000 },
    ])
  })

  test('of a model whose prices begin above nothing is refused, and so is a short one', () => {
    expect(() => plan(known({ asked: { prices: steps.slice(1) } }))).toThrow('no price for small prompts')
  })

  test('is no longer than the context of each model', () => {
    const two = known({ asked: { context_tokens: 50, fallbacks: ['longer'] }, longer: { context_tokens: 70 } })

    expect(plan(two, reads(1_000))).toMatchObject({ promptTokens: 70, micros: 170n })
  })

  test('has what the template adds', () => {
    expect(plan(known({ asked: { template_tokens: 7 } }))).toMatchObject({ promptTokens: 10 + 2 * 7 })
  })
})

describe('pictures, sound, files', () => {
  const picture = { contents: { ...wish.contents, media: [{ kind: 'image' as const }] } }
  const sees = { media: { image: { rule: 'fixed', tokens: 258 } } }

  test('a model that does not take them refuses them by name', () => {
    expect(() => plan(known({ asked: {} }), picture)).toThrow(
      expect.objectContaining({ code: 'invalid_request_error', message: expect.stringContaining('kind image') }),
    )
  })

  test('of 350, each at an address, hold what 350 of them cost, as far as the context goes', () => {
    const media = Array.from({ length: 350 }, () => ({ kind: 'image' as const, isUnseen: true as const }))
    const held = (context_tokens: number) => {
      const rules = { image: { rule: 'pixels', per: 750, max: 1_600 } }
      return plan(known({ asked: { media: rules, context_tokens } }), { contents: { ...wish.contents, media } })
    }

    expect(held(10_000_000).promptTokens).toBe(350 * 1_600 + wish.contents.textBytes)
    expect(held(128_000).promptTokens).toBe(128_000)
    expect(held(128_000).micros).toBeGreaterThanOrEqual(128_000n)
  })

  test('are counted by the rule of the model, and a fallback without one is none', () => {
    const planned = plan(known({ asked: { ...sees, fallbacks: ['blind'] }, blind: {} }), picture)

    expect(models(planned)).toEqual(['asked'])
    expect(planned.promptTokens).toBe(268)
  })

  test.each<[string, Contents['media'][number]]>([
    ['a film', { kind: 'video' }],
    ['a file', { kind: 'file' }],
    ['what is at an address', { kind: 'image', isUnseen: true }],
  ])('may have sound, which has its price: %s', (_name, one) => {
    const media = Object.fromEntries(
      ['image', 'video', 'file'].map((kind) => [kind, { rule: 'pages', tokens: 5, max_pages: 1 }]),
    )
    const dear = known({ asked: { media, prices: [price(1, { audio_input_pico: 8_000_000 })] } })

    expect(plan(dear, { contents: { ...wish.contents, media: [one] } }).micros).toBe(15n * 8n + 100n)
  })

  test('of a model that is not in the plan are not spoken of', () => {
    expect(plan(known({ asked: { plans: [1] } }), picture, { plan: 0 })).toMatchObject({ routes: [], plans: 1n })
  })
})

describe('fields that not every model takes', () => {
  const closed = { name: 'speed', param: 'speed', reason: 'another speed has another price' }
  const unknown = { name: 'messages.mood', param: 'messages.3.mood' }
  const two = known({
    asked: { open_fields: ['speed'], fallbacks: ['strict', 'open'] },
    strict: {},
    open: { open_fields: ['messages.mood', 'speed'] },
  })

  test('are refused by where they stand when the model that is asked for does not take them', () => {
    expect(() => plan(two, { fields: [closed, unknown] })).toThrow(
      expect.objectContaining({
        code: 'invalid_request_error',
        details: expect.objectContaining({ param: 'messages.3.mood' }),
      }),
    )
  })

  test('leave out a fallback that does not take them', () => {
    expect(models(plan(two, { fields: [closed] }))).toEqual(['asked', 'open'])
    expect(models(plan(two))).toEqual(['asked', 'strict', 'open'])
  })

  test('of a model that is not in the plan are not spoken of', () => {
    expect(plan(known({ asked: { plans: [1] } }), { fields: [closed] }, { plan: 0 }).routes).toEqual([])
  })
})

test('a model that takes no limit is held for its longest answer, whatever the caller wishes', () => {
  const planned = plan(known({ asked: { limit_field: 'none' } }), { choices: 2 })

  expect(planned).toMatchObject({ outputTokens: 200, routes: [{ limit_field: 'none', max_output_tokens: 100 }] })
})

describe('the snapshot that is kept', () => {
  const loading = () => {
    const asked: PromiseWithResolvers<Snapshot>[] = []
    const load = () => {
      const one = Promise.withResolvers<Snapshot>()
      asked.push(one)
      return one.promise
    }
    return { kept: keepSnapshot(load, () => clock.ms), asked }
  }
  const clock = { ms: 0 }

  test('that is older than a second is asked for anew before it refuses, once for all who wait', async () => {
    const { kept, asked } = loading()
    const first = kept.current()
    asked[0]?.resolve(known({}, 1))
    await first
    clock.ms += 1_000
    await kept.renewed()
    expect(asked).toHaveLength(1)
    clock.ms += 1
    const newer = [kept.renewed(), kept.renewed()]
    asked[1]?.resolve(known({}, 2))

    expect((await Promise.all(newer)).map(({ version }) => version)).toEqual([2, 2])
    expect(asked).toHaveLength(2)
  })

  test('is asked for once by all who wait, and again when its version was forgotten', async () => {
    const { kept, asked } = loading()
    const both = [kept.current(), kept.current()]
    asked[0]?.resolve(known({}, 4))
    expect((await Promise.all(both)).map(({ version }) => version)).toEqual([4, 4])

    kept.forget(3)
    await kept.current()
    expect(asked).toHaveLength(1)
    kept.forget(4)
    kept.forget(4)
    const next = kept.current()
    asked[1]?.resolve(known({}, 5))
    expect((await next).version).toBe(5)
    expect(asked).toHaveLength(2)
  })

  test('that could not be had is asked for anew by the next call', async () => {
    const { kept, asked } = loading()
    const failed = kept.current()
    asked[0]?.reject(new Error('away'))
    await expect(failed).rejects.toThrow('away')

    const next = kept.current()
    asked[1]?.resolve(known({}))
    expect((await next).version).toBe(1)
  })
})

test('many who hear at once that a snapshot is old fetch one new one', async () => {
  let loads = 0
  const snapshots = keepSnapshot(async () => {
    loads += 1
    await new Promise((done) => setImmediate(done))
    return { version: loads } as never
  })
  const { version } = await snapshots.current()

  const all = await Promise.all(
    Array.from({ length: 64 }, () => {
      snapshots.forget(version)
      return snapshots.current()
    }),
  )

  expect(loads).toBe(2)
  expect(new Set(all.map((one) => one.version))).toEqual(new Set([2]))
})

test('a provider that is not understood keeps its own models from callers, and no others', () => {
  const text = {
    version: 1,
    default_max_output_tokens: 40,
    timeouts_charge: 'caller',
    hold_grace_seconds: 5,
    providers: [provider('one', 10_000), { ...provider('two', 20_000), base_url: 'https://<resource>.test/v1' }],
    models: ['one', 'two'].map((id, at) => ({
      ...{ id, provider_id: id, upstream_id: id, kind: 'chat', max_output_tokens: 100 },
      ...{ ...reading, plans: [0], fallbacks: [], open_until: null, prices: [price(at + 1)] },
    })),
  }
  const planned = (model: string) =>
    planCall(snapshot.parse(text), { ...wish, model }, { plan: 0, nowS, mayProbe: true }).routes.map((way) => way.model)

  expect([planned('one'), planned('two')]).toEqual([['one'], []])
})
