/** Events: what happened, with the object as it was at that moment. */
import { deliver } from './delivery.ts'
import { newId } from './ids.ts'
import type { State } from './state.ts'
import type { Event } from './wire.ts'

type Extra = { previous?: Record<string, unknown> } & Partial<
  Pick<Event, 'account' | 'api_version' | 'livemode' | 'created'>
>

const kept = 20_000

export function emit(state: State, type: string, object: unknown, { previous, ...extra }: Extra = {}): Event {
  const event: Event = {
    id: newId('evt_1', 23),
    object: 'event',
    api_version: state.settings.api_version,
    created: state.now(),
    data: {
      // A copy: the object lives on, the event does not change.
      object: structuredClone(object),
      ...(previous ? { previous_attributes: structuredClone(previous) } : {}),
    },
    livemode: false,
    pending_webhooks: 0,
    request: state.request ?? { id: null, idempotency_key: null },
    type,
    ...extra,
  }
  state.events.set(event.id, event)
  state.isDirty = true
  if (state.events.size > 2 * kept)
    for (const oldest of [...state.events.keys()].slice(0, kept)) state.events.delete(oldest)
  deliver(state, event)
  return event
}

/** Changes an object and tells it, with what the changed attributes were; says nothing when nothing changed. */
export function change<T extends object>(state: State, type: string, object: T, changes: Partial<T>): T {
  const changed: Record<string, unknown> = { ...changes }
  const previous = Object.fromEntries(
    Object.entries(object).filter(([name, value]) => name in changed && !isSame(value, changed[name])),
  )
  Object.assign(object, changes)
  if (Object.keys(previous).length > 0) emit(state, type, object, { previous })
  return object
}

const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b)
