/** Sizes from headers: what is as its format says is known, and everything else counts for the most that the model takes. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { lengthOfSound, sizeOfPicture } from '../../functions/_shared/ai/media-size.ts'

type Piece = string | number | number[] | Buffer
const bytes = (...parts: Piece[]) => Buffer.concat(parts.map(asBuffer))
const asBuffer = (part: Piece) =>
  typeof part === 'string' ? Buffer.from(part, 'latin1') : Buffer.from(typeof part === 'number' ? [part] : part)
const be16 = (value: number) => [value >> 8, value & 255]
const le16 = (value: number) => [value & 255, value >> 8]
const be32 = (value: number) => [...be16(value >>> 16), ...be16(value & 65_535)]
const le32 = (value: number) => [...le16(value & 65_535), ...le16(value >>> 16)]

const png = (width: number, height: number) =>
  bytes('\x89PNG\r\n\x1a\n', be32(13), 'IHDR', be32(width), be32(height), [8, 6, 0, 0, 0], Buffer.alloc(64))
const segment = (marker: number, length: number) => bytes(0xff, marker, be16(length + 2), Buffer.alloc(length, 0x20))
const frame = (width: number, height: number, marker = 0xc0) =>
  bytes(0xff, marker, be16(17), 8, be16(height), be16(width), 3, Buffer.alloc(64))
const jpeg = (...parts: Buffer[]) => bytes([0xff, 0xd8], ...parts)
const gif = (screen: [number, number], first: [number, number, number, number], flags = 0x81) => {
  const colours = flags & 0x80 ? Buffer.alloc(3 * 2 ** ((flags & 7) + 1)) : Buffer.alloc(0)
  const pause = bytes([0x21, 0xf9, 4, 0, 0, 0, 0, 0])
  return bytes('GIF89a', ...screen.map(le16), flags, 0, 0, colours, pause, 0x2c, ...first.map(le16), Buffer.alloc(64))
}
const webp = (form: string, ...body: Parameters<typeof bytes>) =>
  bytes('RIFF', le32(100), 'WEBP', form, le32(80), ...body, Buffer.alloc(64))
const format = (kind: number, channels: number, rate: number, bits: number) =>
  formatThatSays({
    kind,
    channels,
    rate,
    bits,
    perSecond: (rate * channels * bits) / 8,
    perFrame: (channels * bits) / 8,
  })
type Said = { kind: number; channels: number; rate: number; bits: number; perSecond: number; perFrame: number }
const formatThatSays = ({ kind, channels, rate, bits, perSecond, perFrame }: Said) =>
  bytes('fmt ', le32(16), le16(kind), le16(channels), le32(rate), le32(perSecond), le16(perFrame), le16(bits))
const wav = (seconds: number, ...chunks: Buffer[]) =>
  bytes('RIFF', le32(36), 'WAVE', ...chunks, 'data', le32(4), Buffer.alloc(seconds * 8_000 * 2))
/** As a part says it that calls itself a WAV. */
const lengthOfWav = (file: Buffer) => lengthOfSound(file.toString('base64'), 'wav')

const asData = (file: Buffer, type = 'image/png') => `data:${type};base64,${file.toString('base64')}`
/** Base64 without padding at its end, as most of it is. */
const whole = (file: Buffer) => Buffer.concat([file, Buffer.alloc((3 - (file.byteLength % 3)) % 3)])

describe('the size of', () => {
  test.each<[string, Buffer, [number, number]]>([
    ['a PNG', png(70_000, 3), [70_000, 3]],
    ['a JPEG', jpeg(frame(640, 480)), [640, 480]],
    ['a progressive JPEG', jpeg(frame(640, 480, 0xc2)), [640, 480]],
    [
      'a photograph with its thumbnail and colours before it',
      jpeg(segment(0xe1, 60_000), segment(0xe2, 60_000), segment(0xdb, 65), frame(9, 8)),
      [9, 8],
    ],
    ['a GIF', gif([30, 20], [0, 0, 30, 20]), [30, 20]],
    ['a GIF without colours of its own', gif([30, 20], [0, 0, 30, 20], 0), [30, 20]],
    ['a GIF whose picture is larger than its screen', gif([1, 1], [10, 20, 400, 300]), [410, 320]],
    ['a WebP with losses', webp('VP8 ', [0, 0, 0, 0x9d, 0x01, 0x2a], le16(320), le16(0x4000 | 200)), [320, 200]],
    ['a WebP without losses', webp('VP8L', 0x2f, le32((320 - 1) | ((200 - 1) << 14))), [320, 200]],
    ['a WebP with more to it', webp('VP8X', [0, 0, 0, 0], [0x3f, 1, 0], [0xc7, 0, 0]), [320, 200]],
  ])('%s is read from its header', (_name, file, [width, height]) => {
    expect(sizeOfPicture(asData(whole(file)))).toEqual({ width, height })
    expect(sizeOfPicture(asData(file))).toEqual({ width, height })
    expect(sizeOfPicture(file.toString('base64'))).toEqual({ width, height })
  })

  test('a sound without packing is what all its bytes last, whatever its header says of them', () => {
    const { seconds } = lengthOfWav(wav(3, format(1, 1, 8_000, 16)))

    expect(seconds).toBeCloseTo(3, 1)
    expect(seconds).toBeGreaterThanOrEqual(3)
  })
})

describe('nobody knows the size of', () => {
  test.each<[string, string]>([
    ['an address', 'https://pictures.test/cat.png'],
    ['data that are not base64', `data:image/png,${png(9, 9).toString('latin1')}`],
    ['base64 of the other alphabet', png(9, 9).toString('base64url').replace(/^/, '_-__')],
    ['base64 with something between its letters', asData(png(9, 9)).replace('iVBO', 'iV*BO')],
    ['base64 that breaks lines', asData(png(9, 9)).replace('iVBO', 'iV\nBO')],
    ['nothing', ''],
    ['nothing after the comma', 'data:image/png;base64,'],
    ['a header that breaks off', png(9, 9).subarray(0, 21).toString('base64')],
    ['a picture without a width', asData(png(0, 9))],
    ['a JPEG whose height comes after it', asData(jpeg(frame(640, 0)))],
    ['a JPEG with something between its segments', asData(jpeg(bytes([0, 0]), frame(640, 480)))],
    ['a JPEG that begins its picture before it says how large it is', asData(jpeg(segment(0xda, 10), frame(640, 480)))],
    ['a JPEG whose segment has no length', asData(jpeg(bytes(0xff, 0xe0, be16(0)), frame(640, 480)))],
    ['a GIF without a picture', asData(bytes('GIF89a', le16(9), le16(9), 0, 0, 0, 0x3b, Buffer.alloc(64)))],
    ['a WebP of another form', asData(webp('VP9 ', Buffer.alloc(20)))],
    ['a file of another kind', asData(Buffer.from('%PDF-1.7 and more of it'), 'application/pdf')],
  ])('%s', (_name, source) => {
    expect(sizeOfPicture(source)).toEqual({})
  })

  test.each<[string, Buffer]>([
    ['that is packed', wav(1, format(2, 1, 8_000, 4))],
    ['with two formats', wav(1, format(1, 8, 96_000, 32), format(1, 1, 8_000, 8))],
    ['without a format', wav(1)],
    ['of half a byte', wav(1, format(1, 1, 8_000, 4))],
    ['of more bits than sounds have', wav(1, format(1, 1, 8_000, 64))],
    ['of more channels than sounds have', wav(1, format(1, 9, 8_000, 16))],
    ['of no channels', wav(1, format(1, 0, 8_000, 16))],
    ['of a rate that is too high to be heard', wav(1, format(1, 1, 192_001, 16))],
    ['of a rate that is too low to be heard', wav(1, format(1, 1, 7_999, 16))],
    ['whose format has another length', wav(1, bytes('fmt ', le32(14), format(1, 1, 8_000, 16).subarray(8)))],
  ])('a sound %s', (_name, file) => {
    expect(lengthOfWav(file)).toEqual({})
  })

  const sound = wav(1, format(1, 1, 8_000, 16))
  test.each<[string, unknown]>([
    [sound.toString('base64'), undefined],
    [sound.toString('base64'), 'mp3'],
    [sound.toString('base64'), 'WAV '],
    [asData(sound, 'audio/mpeg'), 'wav'],
    [asData(sound, 'audio/wav'), 'mp3'],
  ])('a sound that is not called a WAV wherever it has a name: %#', (source, name) => {
    expect(lengthOfSound(source, name)).toEqual({})
    expect(lengthOfSound(asData(sound, 'audio/wav'), undefined).seconds).toBeGreaterThanOrEqual(1)
  })
})

test('no header of a WAV makes it shorter than it lasts: what does not agree with itself has no length', () => {
  const either = (usual: number[], max: number) => fc.oneof(fc.constantFrom(...usual), fc.nat({ max }))
  const header = fc.record({
    ...{ kind: either([1, 3], 0xffff), channels: either([1, 2, 8], 0xffff), bits: either([8, 16, 32], 0xffff) },
    ...{ rate: either([8_000, 192_000], 0xffffffff), liesOfSecond: fc.boolean(), liesOfFrame: fc.boolean() },
    ...{ perSecond: fc.nat({ max: 0xffffffff }), perFrame: fc.nat({ max: 0xffff }), length: fc.nat({ max: 5_000 }) },
  })
  const property = fc.property(header, ({ kind, channels, bits, rate, length, ...lies }) => {
    const perFrame = lies.liesOfFrame ? lies.perFrame : Math.min(0xffff, Math.floor((channels * bits) / 8))
    const perSecond = lies.liesOfSecond ? lies.perSecond : Math.min(0xffffffff, rate * perFrame)
    const said = formatThatSays({ kind, channels, rate, bits, perSecond, perFrame })
    const file = bytes('RIFF', le32(36), 'WAVE', said, 'data', le32(length), Buffer.alloc(length))

    const { seconds = Number.POSITIVE_INFINITY } = lengthOfWav(file)

    expect(seconds).toBeGreaterThanOrEqual(length / ((channels * bits * rate) / 8 || 1))
    expect(seconds).toBeGreaterThanOrEqual(length / (192_000 * 8 * 4))
  })
  fc.assert(property, { numRuns: 2_000 })
})
