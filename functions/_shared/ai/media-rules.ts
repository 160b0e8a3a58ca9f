/** How a model counts what is no text, as its row says it. */
import { z } from 'zod'

const mediaKinds = ['image', 'audio', 'file', 'video'] as const
export type MediaKind = (typeof mediaKinds)[number]

const amount = z.number().nonnegative().max(1e9)
const size = z.number().positive().max(1e9)

/**
 * What an address counts for, by an operator who knows that the provider follows none to anything dearer. Without it nobody knows
 * what is there.
 */
const address_tokens = amount.optional()

/** Tokens of one piece of a kind; the most of it when its size is unknown. */
const mediaRule = z.discriminatedUnion('rule', [
  z.object({ rule: z.literal('fixed'), tokens: amount, address_tokens }),
  /**
   * `base` and `tile` for each square of `tile_px`, once the picture fits into a square of `fit_px` and its short side has
   * `short_px`; `low` for the low detail.
   */
  z.object({
    rule: z.literal('tiles'),
    base: amount,
    tile: amount,
    tile_px: size,
    fit_px: size,
    short_px: size,
    low: amount,
    address_tokens,
  }),
  /** One for each square of `per` pixels, up to `max`, to which larger pictures are shrunk. */
  z.object({ rule: z.literal('pixels'), per: size, max: amount, address_tokens }),
  /** `max_seconds`: the longest that the model takes. */
  z.object({ rule: z.literal('seconds'), tokens: amount, max_seconds: amount, address_tokens }),
  z.object({ rule: z.literal('pages'), tokens: amount, max_pages: amount, address_tokens }),
  /** As much as the model reads at all. */
  z.object({ rule: z.literal('context'), address_tokens }),
])
export type MediaRule = z.infer<typeof mediaRule>

/** `models.media`: a rule for each kind that the model takes. */
export const mediaRules = z.partialRecord(z.enum(mediaKinds), mediaRule)
export type MediaRules = z.infer<typeof mediaRules>
