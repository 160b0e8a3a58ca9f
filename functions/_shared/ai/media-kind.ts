/**
 * What a piece is, whatever the part is called in which it came: by the type that it says, by its first bytes, and of an address by its
 * name. What two of these say of data has to agree, since nobody knows which of them a provider believes.
 */
import type { MediaKind } from './media-rules.ts'

export type Seen = {
  /** What it may be; more than one for forms that hold sounds and films alike. Empty when nothing says it. */
  kinds: readonly MediaKind[]
  /** Its type and its first bytes do not agree. */
  isOdd: boolean
  /** Only its address is here, so that nothing says for sure what there is. */
  isUnseen: boolean
}

const longestPrefix = 200
const plainBase64 = /^[A-Za-z0-9+/_\s-]*={0,2}\s*$/

/** Of an address, a data address, or base64 itself. */
export function lookAt(source: string, filename: unknown): Seen {
  const isData = /^data:/i.test(source)
  if (!isData && !plainBase64.test(source.slice(0, 4_096)))
    return { kinds: kindOfAddress(source), isOdd: false, isUnseen: true }
  const [prefix = '', type = ''] = (isData && /^data:([^;,]*)[^,]*,/i.exec(source.slice(0, longestPrefix))) || []
  const said = kindOfType(type.trim().toLowerCase())
  const isText = isData && !/;base64\s*,$/i.test(prefix)
  const seen = isText ? [] : kindsOfBytes(source.slice(prefix.length, prefix.length + 400))
  const isOdd = said !== undefined && seen.length > 0 && !seen.includes(said)
  const kinds = said ? [said] : seen.length > 0 ? seen : kindOfName(typeof filename === 'string' ? filename : '')
  return { kinds, isOdd, isUnseen: false }
}

/** Types that say no more than that there are bytes. */
const anyBytes = new Set(['', 'application/octet-stream', 'binary/octet-stream'])

function kindOfType(type: string): MediaKind | undefined {
  if (anyBytes.has(type)) return undefined
  const [family = ''] = type.split('/')
  const media: Record<string, MediaKind> = { image: 'image', audio: 'audio', video: 'video' }
  if (Object.hasOwn(media, family)) return media[family]
  // Their families are those of programs.
  if (/^application\/(ogg|mp4|x-mpegurl|vnd\.apple\.mpegurl)$/.test(type)) return 'video'
  return 'file'
}

/** How files begin, and what stands four and eight bytes behind that. The first that fits counts. */
type Start = [start: string, behind4: string, behind8: string]
const either: readonly MediaKind[] = ['video', 'audio']
const starts: readonly [readonly MediaKind[], readonly Start[]][] = [
  [['image'], ['\x89PNG', '\xff\xd8\xff', 'GIF87a', 'GIF89a'].map((start) => [start, '', ''])],
  [['image'], ['avif', 'avis', 'heic', 'heix', 'heim', 'mif1'].map((brand) => ['', 'ftyp', brand])],
  [['image'], [['RIFF', '', 'WEBP']]],
  [['audio'], ['ID3\x02', 'ID3\x03', 'ID3\x04', 'fLaC', '#!AMR'].map((start) => [start, '', ''])],
  [['audio'], ['\xf1', '\xf2', '\xf3', '\xf9', '\xfa', '\xfb'].map((second) => [`\xff${second}`, '', ''])],
  [
    ['audio'],
    [
      ['RIFF', '', 'WAVE'],
      ['FORM', '', 'AIFF'],
      ['FORM', '', 'AIFC'],
    ],
  ],
  [
    ['video'],
    [
      ['RIFF', '', 'AVI '],
      ['FLV\x01', '', ''],
      ['\0\0\x01\xba', '', ''],
      ['\0\0\x01\xb3', '', ''],
    ],
  ],
  [
    either,
    [
      ['', 'ftyp', ''],
      ['\x1aE\xdf\xa3', '', ''],
      ['OggS', '', ''],
      ['\x30\x26\xb2\x75', '', ''],
    ],
  ],
  [['file'], [['%PDF-', '', '']]],
]

/** By how they begin; white space and the other alphabet are what some decoders let through. */
function kindsOfBytes(letters: string): readonly MediaKind[] {
  const clean = letters.replaceAll(/\s/g, '').replaceAll('-', '+').replaceAll('_', '/').slice(0, 64)
  const whole = clean.replace(/=+$/, '')
  if (!/^[A-Za-z0-9+/]+$/.test(whole)) return []
  const bytes = atob(whole.slice(0, whole.length - (whole.length % 4)))
  const fits = ([start, behind4, behind8]: Start) =>
    bytes.startsWith(start) && bytes.startsWith(behind4, 4) && bytes.startsWith(behind8, 8)
  return starts.find(([, all]) => all.some(fits))?.[0] ?? []
}

/** Whose pages are films to a provider. */
const filmHosts =
  /(^|\.)(youtube(-nocookie)?\.com|youtu\.be|vimeo\.com|dailymotion\.com|dai\.ly|twitch\.tv|tiktok\.com)\.?$/
const names: readonly [RegExp, MediaKind][] = [
  [/\.(mp4|m4v|mov|qt|mpe?g|mpe|webm|avi|mkv|flv|wmv|3gpp?|3g2|ogv|m3u8|mts|m2ts)$/, 'video'],
  [/\.(mp3|wav|ogg|oga|opus|flac|m4a|aac|aiff?|wma|amr|weba|mid|midi)$/, 'audio'],
  [/\.(pdf|docx?|xlsx?|pptx?|odt|ods|odp|rtf|epub|txt|md|csv|tsv|json|jsonl|xml|html?|zip|gz|tar)$/, 'file'],
]

const kindOfName = (name: string): readonly MediaKind[] => {
  const kind = names.find(([form]) => form.test(name.trim().toLowerCase()))?.[1]
  return kind ? [kind] : []
}

function kindOfAddress(address: string): readonly MediaKind[] {
  // Some clients leave out the scheme, and providers add it.
  const whole = /^[a-z][a-z0-9+.-]*:/i.test(address.trim()) ? address.trim() : `https://${address.trim()}`
  if (!URL.canParse(whole)) return []
  const { hostname, pathname } = new URL(whole)
  return filmHosts.test(hostname.toLowerCase()) ? ['video'] : kindOfName(decoded(pathname))
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path)
  } catch {
    return path
  }
}
