/** What a model has to read for a request: text by its bytes, and pictures, sounds and files, which are no text. */
import fc from 'fast-check'
import { countTokens as cl100k } from 'gpt-tokenizer/encoding/cl100k_base'
import { countTokens as o200k } from 'gpt-tokenizer/encoding/o200k_base'
import { describe, expect, test } from 'vitest'
import { promptTokensAtMost } from '../../functions/_shared/ai/prompt-size.ts'
import { readChatRequest, readEmbeddingsRequest, readImagesRequest } from '../../functions/_shared/ai/read-request.ts'

const bytesOf = (body: unknown) => new TextEncoder().encode(JSON.stringify(body))
const valid = { model: 'm', messages: [{ role: 'user', content: 'hello' }] }
const parse = (body: unknown) => readChatRequest(bytesOf(body))
const embed = (over: object) => readEmbeddingsRequest(bytesOf({ model: 'm', ...over }))
const draw = (over: object) => readImagesRequest(bytesOf({ model: 'm', prompt: 'a cat', ...over }))

const model = { context_tokens: 1_000_000, template_percent: 0, template_tokens: 4, media: {} }
/** ChatML, as most templates put it, and the ways in which providers write down what came as JSON. */
const templates = [(json: unknown) => JSON.stringify(json), (json: unknown) => JSON.stringify(json, null, 4), inAscii]
function inAscii(json: unknown): string {
  const escaped = (letter: string) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`
  return JSON.stringify(json, null, 1).replace(/[\u0080-\uffff]/g, escaped)
}
const asText = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() }
const tokensOf = (text: string) => Math.max(o200k(text, asText), cl100k(text, asText))

const letters = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: fc.integer({ min: 0x12000, max: 0x123ff }).map((point) => String.fromCodePoint(point)) }),
  fc.string(),
)
const { schema } = fc.letrec<{ schema: unknown }>((tie) => ({
  schema: fc.oneof(
    { depthSize: 'medium' },
    fc.constantFrom<unknown>(1, true, null, [], {}),
    letters,
    fc.array(tie('schema'), { maxLength: 4 }),
    fc.dictionary(letters, tie('schema'), { maxKeys: 3 }),
  ),
}))

const said = fc.record({ role: fc.constantFrom('system', 'user', 'assistant'), content: letters })
const declared = fc.record({ name: letters, description: letters, parameters: schema })

test('text: the hold is a true upper bound, with tool schemas and names, in every form that a template gives them', async () => {
  const messagesOf = fc.array(said, { minLength: 1, maxLength: 3 })
  const property = fc.asyncProperty(messagesOf, fc.array(declared, { maxLength: 3 }), async (messages, functions) => {
    const tools = functions.map((one) => ({ type: 'function', function: one }))
    const { contents } = await parse({ ...valid, messages, tools })

    // The marks around a turn are one token each.
    const turns = messages.map(({ role, content }) => 4 + tokensOf(`${role}\n${content}\n`))
    const declarations = Math.max(...templates.map((write) => (tools.length > 0 ? tokensOf(write(tools)) : 0)))
    const tokens = turns.reduce((sum, one) => sum + one, declarations)
    expect(tokens).toBeLessThanOrEqual(promptTokensAtMost(contents, model))
  })

  await fc.assert(property, { numRuns: 200 })
})

test.each([
  ['nested as deep as it goes', '['.repeat(300) + ']'.repeat(300)],
  ['a long list', JSON.stringify(Array.from({ length: 300 }, () => 1))],
  ['a list in depth', `${'['.repeat(60)}${JSON.stringify(Array.from({ length: 300 }, () => [1]))}${']'.repeat(60)}`],
])('a schema that is mostly space when it is written in lines is held as that: %s', async (_name, parameters) => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: JSON.parse(parameters) } }]

  const held = promptTokensAtMost((await parse({ ...valid, tools })).contents, model)

  expect(tokensOf(JSON.stringify(tools, null, 4))).toBeLessThanOrEqual(held)
})

describe('a picture, sound or file as base64 or address', () => {
  const png = Buffer.concat([
    Buffer.from('89504e470d0a1a0a0000000d4948445200000400000003000802000000', 'hex'),
    Buffer.alloc(90_000),
  ]).toString('base64')
  const see = async (...content: object[]) =>
    (await parse({ ...valid, messages: [{ role: 'user', content }] })).contents
  const image = (url: string, more: object = {}) => ({ type: 'image_url', image_url: { url, ...more } })

  test.each<[object, object]>([
    [image(`data:image/png;base64,${png}`), { kind: 'image', width: 1_024, height: 768 }],
    [image('https://pictures.test/cat.png', { detail: 'low' }), { kind: 'image', detail: 'low' }],
    [{ type: 'image_url', image_url: 'https://pictures.test/cat.png' }, { kind: 'image' }],
    [{ type: 'input_audio', input_audio: { data: 'SUQzBAAA'.repeat(9_000), format: 'mp3' } }, { kind: 'audio' }],
    [{ type: 'file', file: { file_data: `data:application/pdf;base64,${png}`, filename: 'a.pdf' } }, { kind: 'file' }],
    [{ type: 'file', file: { file_id: 'file-1' } }, { kind: 'file' }],
    [{ type: 'video_url', video_url: { url: `data:video/mp4;base64,${png}` } }, { kind: 'video' }],
    [{ type: 'input_video', video_url: { url: 'https://films.test/a.mp4' } }, { kind: 'video' }],
  ])('is told by its kind and size, and never counts as text: %#', async (part, media) => {
    const contents = await see({ type: 'text', text: 'what is it?' }, part)

    expect(contents.media).toEqual([media])
    expect(contents.textBytes).toBeLessThan(300)
  })

  test('counts as text, too, when it is a file that may be read as it is', async () => {
    const text = Buffer.from('word '.repeat(999)).toString('base64')
    const { textBytes, media } = await see({ type: 'file', file: { file_data: `data:text/plain;base64,${text}` } })

    expect(media).toEqual([{ kind: 'file' }])
    expect(textBytes).toBeGreaterThan(5 * 999)
  })

  test('of an earlier answer is told, too', async () => {
    const spoken = { role: 'assistant', content: null, audio: { id: 'audio_1', data: png, transcript: 'hello' } }
    const drawn = {
      role: 'assistant',
      content: 'here',
      images: [{ image_url: { url: `data:image/png;base64,${png}` } }],
    }
    const { media, textBytes } = (await parse({ ...valid, messages: [spoken, drawn] })).contents

    expect(media).toEqual([{ kind: 'audio' }, { kind: 'image', width: 1_024, height: 768 }])
    expect(textBytes).toBeLessThan(300)
  })

  test('350 pictures are 350 pictures, and more than 2,000 are none', async () => {
    const many = (amount: number) => Array.from({ length: amount }, () => image('https://pictures.test/cat.png'))

    expect((await see(...many(350))).media).toHaveLength(350)
    await expect(see(...many(2_001))).rejects.toMatchObject({ code: 'invalid_request_error' })
  })

  test('is taken by embeddings and as a reference for an image, as well', async () => {
    const part = image(`data:image/png;base64,${png}`)
    const media = [{ kind: 'image', width: 1_024, height: 768 }]

    const embedded = await embed({ input: [{ content: [{ type: 'text', text: 'x' }, part] }] })
    const drawn = await draw({ input_references: [part] })

    expect(embedded.contents).toMatchObject({ media, prompts: 1 })
    expect(drawn.contents.media).toEqual(media)
  })
})
