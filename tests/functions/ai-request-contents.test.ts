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

const html = "<b>it's</b> & more ".repeat(200)
test.each([
  ['a tool', { ...valid, tools: [{ type: 'function', function: { name: 'f', description: html } }] }],
  ['a call', { ...valid, messages: [{ role: 'assistant', tool_calls: [{ function: { arguments: html } }] }] }],
])('%s that is full of the letters of HTML is held as templates write them, six for one', async (_name, body) => {
  const escaped = (letter: string) => `\\u00${letter.charCodeAt(0).toString(16)}`
  const written = JSON.stringify(html).replace(/[<>&']/g, escaped)

  const held = promptTokensAtMost((await parse(body)).contents, model)

  expect(tokensOf(written)).toBeLessThanOrEqual(held)
  expect(held).toBeLessThanOrEqual(written.length + 200)
})

describe('a picture, sound or file as base64 or address', () => {
  const pdf = Buffer.concat([Buffer.from('%PDF-1.7 '), Buffer.alloc(90_000)]).toString('base64')
  const mp4 = Buffer.concat([Buffer.from('\0\0\0\x18ftypmp42'), Buffer.alloc(90_000)]).toString('base64')
  const png = Buffer.concat([
    Buffer.from('89504e470d0a1a0a0000000d4948445200000400000003000802000000', 'hex'),
    Buffer.alloc(90_000),
  ]).toString('base64')
  const see = async (...content: object[]) =>
    (await parse({ ...valid, messages: [{ role: 'user', content }] })).contents
  const image = (url: string, more: object = {}) => ({ type: 'image_url', image_url: { url, ...more } })

  test.each<[object, object]>([
    [image(`data:image/png;base64,${png}`), { kind: 'image', width: 1_024, height: 768 }],
    [image('https://pictures.test/cat.png', { detail: 'low' }), { kind: 'image', detail: 'low', isUnseen: true }],
    [
      { type: 'image_url', image_url: 'https://pictures.test/cat.png' },
      { kind: 'image', isUnseen: true },
    ],
    [{ type: 'input_audio', input_audio: { data: 'SUQzBAAA'.repeat(9_000), format: 'mp3' } }, { kind: 'audio' }],
    [{ type: 'file', file: { file_data: `data:application/pdf;base64,${pdf}`, filename: 'a.pdf' } }, { kind: 'file' }],
    [
      { type: 'file', file: { file_id: 'file-1' } },
      { kind: 'file', isUnseen: true },
    ],
    [{ type: 'video_url', video_url: { url: `data:video/mp4;base64,${mp4}` } }, { kind: 'video' }],
    [
      { type: 'input_video', video_url: { url: 'https://films.test/a.mp4' } },
      { kind: 'video', isUnseen: true },
    ],
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

  const noted = (content: object[]) => ({
    role: 'assistant',
    content: 'x',
    annotations: [{ type: 'file', file: { hash: 'h', name: 'a.pdf', content } }],
  })

  test('that was read in a file for an earlier answer is told, and its text counts', async () => {
    const pages = [{ type: 'text', text: 'é'.repeat(99) }, image(`data:image/png;base64,${png}`)]

    const { media, textBytes } = (await parse({ ...valid, messages: [noted(pages)] })).contents

    expect(media).toEqual([{ kind: 'image', width: 1_024, height: 768 }])
    expect(textBytes).toBeGreaterThan(2 * 99)
    expect(textBytes).toBeLessThan(600)
  })

  const file = (file_data: string, filename?: string) => ({ type: 'file', file: { file_data, filename } })
  const wav = Buffer.concat([Buffer.from('RIFF....WAVE'), Buffer.alloc(900)]).toString('base64')
  test.each<[object, object]>([
    [file(`data:audio/mpeg;base64,${'A'.repeat(99)}`), { kind: 'audio' }],
    [file(`data:video/mp4;base64,${mp4}`), { kind: 'video' }],
    [file(`data:image/png;base64,${png}`), { kind: 'image', width: 1_024, height: 768 }],
    [file(`data:application/octet-stream;base64,${wav}`), { kind: 'audio' }],
    [file(mp4), { kind: 'video' }],
    [file(`data:;base64,${'A'.repeat(99)}`, 'song.MP3'), { kind: 'audio' }],
    [file(`data:application/octet-stream;base64,${'A'.repeat(99)}`), { kind: 'file', isUnseen: true }],
    [file('https://files.test/song.mp3?x=1'), { kind: 'audio', isUnseen: true }],
    [image('https://www.YouTube.com./watch?v=1'), { kind: 'video', isUnseen: true }],
    [image('https://youtu.be/abc'), { kind: 'video', isUnseen: true }],
    [image('youtube.com/watch?v=1'), { kind: 'video', isUnseen: true }],
    [image('//youtu.be/abc'), { kind: 'video', isUnseen: true }],
    [image('https://films.test/a%2Emp4#t=1'), { kind: 'video', isUnseen: true }],
    [image('https://files.test/paper.pdf'), { kind: 'file', isUnseen: true }],
    [image('gs://bucket/thing'), { kind: 'image', isUnseen: true }],
    [image('AAAA'.repeat(99)), { kind: 'image', isUnseen: true }],
  ])('is what its type, its bytes and its address say, whatever its part is called: %#', async (part, media) => {
    expect((await see(part)).media).toEqual([media])
  })

  test('is told twice when it has a name beside its data', async () => {
    const both = { type: 'file', file: { file_id: 'file-1', file_data: `data:application/pdf;base64,${pdf}` } }

    expect((await see(both)).media).toEqual([{ kind: 'file', isUnseen: true }, { kind: 'file' }])
  })

  test.each<[string, object]>([
    ['a film that is called a picture', image(`data:image/png;base64,${mp4}`)],
    ['a film that is called a picture, in the other alphabet', image(`data:image/png;base64,${mp4} \n`)],
    ['a sound that is called a document', file(`data:application/pdf;base64,${wav}`)],
    ['a document that is called a film', { type: 'video_url', video_url: { url: `data:video/mp4;base64,${pdf}` } }],
    ['a film in the place of a picture', image(`DATA:video/mp4;base64,${mp4}`)],
    ['a film without a type in the place of a picture', image(mp4)],
    ['data without a type in the place of a picture', image('data:;base64,AAAA')],
    ['a picture in the place of a sound', { type: 'input_audio', input_audio: { data: png, format: 'wav' } }],
    ['a sound in the place of a film', { type: 'video_url', video_url: { url: `data:audio/wav;base64,${wav}` } }],
  ])('is refused when it is not what it says: %s', async (_name, part) => {
    await expect(see(part)).rejects.toMatchObject({ code: 'invalid_request_error' })
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
