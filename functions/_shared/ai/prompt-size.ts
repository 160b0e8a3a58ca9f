/**
 * How many tokens a prompt has at most, without a tokenizer: an Edge Function has 2 s of CPU. No tokenizer makes more tokens of a text
 * than it has UTF-8 bytes; pictures, sound and files are counted by the model's rule for their kind.
 */
import type { Asks } from './field-tables.ts'
import type { MediaKind, MediaRule, MediaRules } from './media-rules.ts'

/** A picture, sound, file or film of a request; what is undefined nobody knows. */
export type Media = {
  kind: MediaKind
  /** In pixels. */
  width?: number | undefined
  height?: number | undefined
  seconds?: number | undefined
  pages?: number | undefined
  /** Only `low` makes a picture cheaper. */
  detail?: 'low' | 'high' | undefined
  /** Only its address or its name is here, or bytes that nothing names: what the provider finds there may be of another kind. */
  isUnseen?: true | undefined
}

/** What a model has to read for a request. */
export type Contents = {
  /** UTF-8 bytes of all text: messages, names, tools and schemas, as the JSON that they came in. */
  textBytes: number
  /** Messages and tools: around each of them a template puts tokens of its own. */
  messages: number
  media: readonly Media[]
  /** Tokens that the caller made; embeddings only. */
  tokens: number
  /** Texts that are read one by one, each with the whole context for itself; 1 without it. */
  prompts?: number
}

/** As much of a model's row as says how it reads. */
export type Reading = {
  /** The longest prompt that it takes. */
  context_tokens: number
  /** What templates add to text, as a share of it. */
  template_percent: number
  /** What templates add to each message and tool. */
  template_tokens: number
  /** What one search may add to the prompt; null when nobody says. */
  search_prompt_tokens?: number | null | undefined
  media: MediaRules
}

/** The first kind of media in a request that the model does not take. */
export const mediaRefused = ({ media }: Contents, { media: rules }: Pick<Reading, 'media'>): MediaKind | undefined =>
  media.find(({ kind }) => rules[kind] === undefined)?.kind

/**
 * Media that the model does not take are as its whole context: see `mediaRefused`. `asks`: what the provider is to add to the prompt by
 * itself.
 */
export function promptTokensAtMost(contents: Contents, model: Reading, asks: Asks = {}): number {
  const { textBytes, messages, media, tokens, prompts = 1 } = contents
  const { context_tokens, template_percent, template_tokens } = model
  // One more than there are messages: the turn that the model is to take. What has no messages, has no template for them.
  const turns = messages > 0 ? messages + 1 : 0
  const text = textBytes + Math.ceil((textBytes * template_percent) / 100) + turns * template_tokens
  const seen = media.reduce((sum, one) => sum + mostTokens(one, model), 0)
  return Math.min(text + seen + tokens + foundTokens(asks, model), context_tokens * prompts)
}

/** What the provider finds, and the model then reads. */
function foundTokens({ searches = 0, findsMore }: Asks, { search_prompt_tokens, context_tokens }: Reading): number {
  if (findsMore) return context_tokens
  return searches > 0 ? searches * (search_prompt_tokens ?? context_tokens) : 0
}

/** Of a prompt what is no text, as it most likely is: an address leads to what its part is called. For an estimate, not for a hold. */
export const mediaTokensLikely = ({ media }: Contents, { media: rules, context_tokens }: Reading): number =>
  Math.min(
    media.reduce((sum, one) => sum + mediaTokens(one, rules[one.kind], context_tokens), 0),
    context_tokens,
  )

/** What comes from an address is the dearest that the model reads, unless its rule says what an address is. */
function mostTokens(one: Media, { media: rules, context_tokens }: Reading): number {
  const own = rules[one.kind]
  if (!one.isUnseen) return mediaTokens(one, own, context_tokens)
  if (own?.address_tokens !== undefined) return Math.ceil(own.address_tokens)
  // A low detail is that of a picture.
  const others = Object.values(rules).filter((rule) => rule !== own)
  const most = others.map((rule) => unseenTokens({ kind: one.kind }, rule, context_tokens))
  return Math.max(unseenTokens(one, own, context_tokens), ...most)
}

/** A fixed number says nothing of how much there can be of something else. */
const unseenTokens = (one: Media, rule: MediaRule | undefined, contextTokens: number) =>
  rule?.rule === 'fixed' ? contextTokens : mediaTokens(one, rule, contextTokens)

function mediaTokens(one: Media, rule: MediaRule | undefined, contextTokens: number): number {
  switch (rule?.rule) {
    case 'fixed':
      return Math.ceil(rule.tokens)
    case 'tiles':
      return Math.ceil(one.detail === 'low' ? rule.low : rule.base + rule.tile * tilesOf(one, rule))
    case 'pixels':
      return Math.ceil(Math.min(rule.max, squaresOf(one, Math.sqrt(rule.per))))
    case 'seconds':
      return Math.ceil(rule.tokens * Math.min(Math.ceil(one.seconds ?? rule.max_seconds), rule.max_seconds))
    case 'pages':
      return Math.ceil(rule.tokens * Math.min(one.pages ?? rule.max_pages, rule.max_pages))
    default:
      return contextTokens
  }
}

/** Those that are begun count: a thin picture has more of them than its area says. */
const squaresOf = ({ width, height }: Media, px: number) =>
  width && height ? Math.ceil(width / px) * Math.ceil(height / px) : Number.POSITIVE_INFINITY

/** Providers shrink pictures; whether they also enlarge the short side of small ones is not known, so it is taken for yes. */
function tilesOf({ width, height }: Media, { tile_px, fit_px, short_px }: Extract<MediaRule, { rule: 'tiles' }>) {
  const short = Math.min(fit_px, short_px)
  const ratio = width && height ? Math.max(width, height) / Math.min(width, height) : Number.POSITIVE_INFINITY
  return Math.ceil(Math.min(fit_px, short * ratio) / tile_px) * Math.ceil(short / tile_px)
}
