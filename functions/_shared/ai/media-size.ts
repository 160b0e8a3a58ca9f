/**
 * The size of a picture or a sound from the header of its base64, which is never decoded as a whole. Whatever is not exactly as the
 * format says has no size that we know, and then counts for the most that the model takes: providers read more than we do, and must not
 * see a larger picture than was held. Ours and no library: those that read headers believe what is odd.
 */

export type MediaSize = { width?: number; height?: number; seconds?: number }

/** Letters of base64, of which four are three bytes: enough for most headers. */
const headerLetters = 4_096
/** In a photograph, its thumbnail and its colours may come before its size. */
const longHeaderLetters = 262_144
const unknown: MediaSize = {}

/** Of a data address, or of base64 itself; an address of the web says nothing of what is there. */
export function sizeOfPicture(source: string): MediaSize {
  return readHeader(source, (bytes) => sizeOfPng(bytes) ?? sizeOfJpeg(bytes) ?? sizeOfGif(bytes) ?? sizeOfWebp(bytes))
}

/**
 * Of a sound that its sender calls a WAV, in all that is said of it: under any other name a provider reads other bytes than those
 * of its header.
 */
export function lengthOfSound(source: string, format: unknown): MediaSize {
  const type = /^data:([^;,]*)/i.exec(source.slice(0, longestPrefix))?.[1]?.toLowerCase()
  const names = [type, format].filter((name) => name !== undefined && name !== null)
  if (names.length === 0 || !names.every((name) => wavNames.has(name))) return unknown
  return readHeader(source, lengthOfWav)
}

const wavNames = new Set<unknown>(['wav', 'audio/wav', 'audio/wave', 'audio/x-wav', 'audio/vnd.wave'])

function readHeader(source: string, read: (bytes: DataView, wholeBytes: number) => MediaSize | undefined): MediaSize {
  const start = /^data:/i.test(source) ? startOfData(source) : 0
  if (start === undefined) return unknown
  const whole = Math.floor(((source.length - start) * 3) / 4)
  for (const letters of [headerLetters, longHeaderLetters]) {
    const bytes = decode(source.slice(start, start + letters))
    const size = bytes && read(bytes, whole)
    if (size) return size
  }
  return unknown
}

/** What stands before the data is short. */
const longestPrefix = 200

function startOfData(source: string): number | undefined {
  const comma = source.slice(0, longestPrefix).indexOf(',')
  return comma > 0 && source.slice(0, comma).endsWith(';base64') ? comma + 1 : undefined
}

/** Undefined for what is no plain base64: some decoders skip letters that others read. */
function decode(letters: string): DataView | undefined {
  if (letters.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(letters)) return undefined
  const text = atob(letters)
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at)
  return new DataView(bytes.buffer)
}

/** Reading behind the end of what is there is a size that is not known. */
function ifThere<Size>(bytes: DataView, read: (bytes: DataView) => Size | undefined): Size | undefined {
  try {
    return read(bytes)
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}

const textAt = (bytes: DataView, at: number, length: number) => {
  let text = ''
  for (let next = at; next < at + length; next += 1) text += String.fromCharCode(bytes.getUint8(next))
  return text
}

const picture = (width: number, height: number): MediaSize | undefined =>
  width > 0 && height > 0 ? { width, height } : undefined

const sizeOfPng = (header: DataView) =>
  ifThere(header, (bytes) => {
    const isPng =
      textAt(bytes, 0, 8) === '\x89PNG\r\n\x1a\n' && bytes.getUint32(8) === 13 && textAt(bytes, 12, 4) === 'IHDR'
    return isPng ? picture(bytes.getUint32(16), bytes.getUint32(20)) : undefined
  })

/** Start of frame, in all its kinds; C4, C8 and CC in between are something else. */
const startsFrame = (marker: number) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)
/** Segments before the frame: tables, restart intervals, applications' own and comments. */
const precedesFrame = (marker: number) =>
  marker === 0xc4 || marker === 0xdb || marker === 0xdd || (marker >= 0xe0 && marker <= 0xef) || marker === 0xfe

const sizeOfJpeg = (header: DataView) =>
  ifThere(header, (bytes) => {
    if (bytes.getUint16(0) !== 0xffd8) return undefined
    for (let at = 2; bytes.getUint8(at) === 0xff; ) {
      const marker = bytes.getUint8(at + 1)
      if (startsFrame(marker)) return picture(bytes.getUint16(at + 7), bytes.getUint16(at + 5))
      const length = bytes.getUint16(at + 2)
      if (!precedesFrame(marker) || length < 2) return undefined
      at += 2 + length
    }
    return undefined
  })

/** The first picture may be larger than the screen that it is for. */
const sizeOfGif = (header: DataView) =>
  ifThere(header, (bytes) => {
    if (!/^GIF8[79]a$/.test(textAt(bytes, 0, 6))) return undefined
    const screen = { width: bytes.getUint16(6, true), height: bytes.getUint16(8, true) }
    const flags = bytes.getUint8(10)
    let at = 13 + (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0)
    while (bytes.getUint8(at) === 0x21) {
      at += 2
      while (bytes.getUint8(at) > 0) at += 1 + bytes.getUint8(at)
      at += 1
    }
    if (bytes.getUint8(at) !== 0x2c) return undefined
    const right = bytes.getUint16(at + 1, true) + bytes.getUint16(at + 5, true)
    const bottom = bytes.getUint16(at + 3, true) + bytes.getUint16(at + 7, true)
    return picture(Math.max(screen.width, right), Math.max(screen.height, bottom))
  })

const sizeOfWebp = (header: DataView) =>
  ifThere(header, (bytes) => {
    if (textAt(bytes, 0, 4) !== 'RIFF' || textAt(bytes, 8, 4) !== 'WEBP') return undefined
    const form = textAt(bytes, 12, 4)
    const uint24 = (at: number) => bytes.getUint16(at, true) + 0x10000 * bytes.getUint8(at + 2)
    if (form === 'VP8X') return picture(uint24(24) + 1, uint24(27) + 1)
    if (form === 'VP8L' && bytes.getUint8(20) === 0x2f) {
      const bits = bytes.getUint32(21, true)
      return picture((bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1)
    }
    const isKeyFrame = form === 'VP8 ' && textAt(bytes, 23, 3) === '\x9d\x01\x2a'
    return isKeyFrame ? picture(bytes.getUint16(26, true) & 0x3fff, bytes.getUint16(28, true) & 0x3fff) : undefined
  })

/** A chunk of an odd length has a byte more. */
const nextChunk = (bytes: DataView, at: number) => {
  const length = bytes.getUint32(at + 4, true)
  return at + 8 + length + (length % 2)
}

/** Whole samples and nothing packed, by their code: only of these the length in bytes is a length in time. */
const bitsOfSamples = new Map([
  [1, [8, 16, 24, 32]],
  [3, [32, 64]],
])
const [slowest, fastest, mostChannels] = [8_000, 192_000, 8]

/**
 * Bytes a second, when all that the chunk says is usual and agrees: a rate that no sound has would make a long one short, and what
 * a provider makes of it nobody knows.
 */
function bytesPerSecond(bytes: DataView, at: number): number | undefined {
  const [code, channels, rate] = [
    bytes.getUint16(at + 8, true),
    bytes.getUint16(at + 10, true),
    bytes.getUint32(at + 12, true),
  ]
  const [perSecond, perFrame, bits] = [
    bytes.getUint32(at + 16, true),
    bytes.getUint16(at + 20, true),
    bytes.getUint16(at + 22, true),
  ]
  const isUsual =
    [16, 18].includes(bytes.getUint32(at + 4, true)) &&
    (bitsOfSamples.get(code)?.includes(bits) ?? false) &&
    channels >= 1 &&
    channels <= mostChannels &&
    rate >= slowest &&
    rate <= fastest
  return isUsual && perFrame === (channels * bits) / 8 && perSecond === rate * perFrame ? perSecond : undefined
}

/** As long as all bytes would last, whatever the header says of its data. */
const lengthOfWav = (header: DataView, wholeBytes: number) =>
  ifThere(header, (bytes) => {
    if (textAt(bytes, 0, 4) !== 'RIFF' || textAt(bytes, 8, 4) !== 'WAVE') return undefined
    let perSecond: number | undefined
    for (let at = 12; ; at = nextChunk(bytes, at)) {
      const chunk = textAt(bytes, at, 4)
      if (chunk === 'data') return perSecond ? { seconds: wholeBytes / perSecond } : undefined
      if (chunk !== 'fmt ') continue
      // A second format could be the one that counts.
      if (perSecond !== undefined) return undefined
      perSecond = bytesPerSecond(bytes, at)
      if (perSecond === undefined) return undefined
    }
  })
