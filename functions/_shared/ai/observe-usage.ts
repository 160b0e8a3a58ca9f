/** Reads a stream's events on their way: what was said, what it costs, how it ended, and which event to leave out. */
import type { Usage } from './ledger-contract.ts'
import { hasError, type ProviderAnswer, readProviderAnswer, usageOf } from './provider-answer.ts'
import type { SseEvent } from './sse-events.ts'

export type EventKind = 'comment' | 'content' | 'usage' | 'error' | 'done' | 'garbage'

export type Observed = {
  /** The latest that was reported. Reports are totals, so they replace each other. */
  usage: Usage | null
  contentBytes: number
  /** The provider said that it is finished, in whatever way. Decides about an error at the end, never about money. */
  finished: boolean
  /** The provider reported an error in the stream. */
  failed: boolean
}

export function createUsageObserver(callerWantsUsage: boolean) {
  const observed: Observed = { usage: null, contentBytes: 0, finished: false, failed: false }
  const finishedChoices = new Set<number>()

  const kindOf = (event: SseEvent, chunk: ProviderAnswer | undefined): EventKind => {
    if (event.data === undefined) return 'comment'
    if (event.data.trim() === '[DONE]') return 'done'
    if (!chunk) return 'garbage'
    if (hasError(chunk)) return 'error'
    return isOnlyUsage(chunk, finishedChoices) ? 'usage' : 'content'
  }

  /** Takes note of an event that is about to be delivered or left out. */
  const observe = (event: SseEvent): { kind: EventKind; forward: boolean } => {
    const chunk = event.data === undefined ? undefined : readProviderAnswer(event.data)
    const kind = kindOf(event, chunk)
    if (kind === 'error') observed.failed = true
    if (kind === 'done') observed.finished = true
    if (!chunk) return { kind, forward: true }

    observed.usage = usageOf(chunk) ?? observed.usage
    observed.contentBytes += chunk.contentBytes
    for (const { index, finish_reason } of chunk.choices ?? []) if (finish_reason) finishedChoices.add(index)
    observed.finished ||= finishedChoices.size > 0
    return { kind, forward: kind !== 'usage' || callerWantsUsage }
  }

  return { observe, observed }
}

/**
 * The extra chunk that `stream_options.include_usage` adds. OpenRouter's carries a choice that repeats `finish_reason`; a
 * provider that reports usage in the chunk that says something new does not send an extra one.
 */
function isOnlyUsage(chunk: ProviderAnswer, finishedChoices: ReadonlySet<number>): boolean {
  if (!chunk.usage || !chunk.choices || chunk.contentBytes > 0) return false
  return chunk.choices.every(
    ({ index, finish_reason }) => typeof finish_reason === 'string' && finishedChoices.has(index),
  )
}
