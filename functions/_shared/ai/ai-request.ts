/** What admission, the provider and the accounts need to know of a request, whichever endpoint it came to. */
import type { Endpoint, Route } from './ledger-contract.ts'

export type AiRequest = {
  endpoint: Endpoint
  model: string
  stream: boolean
  /** The caller wants the usage of a stream as its last chunk. */
  wantsUsage: boolean
  /** The upper bound that is held. */
  promptTokensMax: number
  /** What is charged when the provider reports nothing. */
  promptTokensEstimated: number
  /** The caller's own limit per choice; null without one. */
  maxOutputTokens: number | null
  choices: number
  /** Images asked for. */
  images: number
  /** The caller's body for one route: its name of the model, and no more output than was held for it. */
  bodyFor(route: Pick<Route, 'upstream_model' | 'max_output_tokens'>): Record<string, unknown>
}
