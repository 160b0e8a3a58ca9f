/** The part of /control about events: how they are delivered, when, in which order, and events of one's own making. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Hono } from 'hono'
import { z } from 'zod'
import type { Verb } from './control.ts'
import { attempt, type Delivery, deliveryModes, isBusy, note, shuffled } from './delivery.ts'
import { emit } from './events.ts'
import { need } from './refusals.ts'
import type { State } from './state.ts'
import type { Event } from './wire.ts'

const seed = z.int().optional()
const order = z.enum(['given', 'reverse', 'shuffle']).default('given')
const release = z.strictObject({ ids: z.array(z.string()).optional(), order, seed })
const made = z.strictObject({
  type: z.string().min(1),
  object: z.record(z.string(), z.unknown()),
  account: z.string().optional(),
  api_version: z.string().optional(),
  livemode: z.boolean().optional(),
  created: z.int().optional(),
})

export function deliveryControl(state: State, app: Hono, verb: Verb): void {
  verb('/delivery', z.strictObject({ mode: z.enum(deliveryModes), seed }), ({ mode, seed }) => {
    state.delivery.mode = mode
    state.delivery.random = seed === undefined ? Math.random : seeded(seed)
    return { mode }
  })
  verb('/deliver', release, async ({ ids, order, seed }) => {
    const chosen = ids ? ids.flatMap((id) => again(state, need(state.events, 'event', id))) : held(state)
    const random = seed === undefined ? state.delivery.random : seeded(seed)
    const queue = order === 'given' ? chosen : order === 'reverse' ? chosen.reverse() : shuffled(chosen, random)
    const delivered = []
    // One after the other: the order is what was asked for. What fails stays held.
    for (const delivery of queue) {
      await attempt(state, delivery)
      delivered.push({ id: delivery.event.id, type: delivery.event.type, status: delivery.status })
    }
    return { delivered }
  })
  verb(
    '/settled',
    z.strictObject({ timeout_ms: z.int().min(0).max(60_000).default(10_000) }),
    async ({ timeout_ms }) => {
      for (const until = Date.now() + timeout_ms; isBusy(state) && Date.now() < until; ) await sleep(10)
      return { settled: !isBusy(state) }
    },
  )
  verb('/events', made, ({ type, object, ...extra }) => {
    const given = Object.fromEntries(Object.entries(extra).filter(([, value]) => value !== undefined))
    return emit(state, type, object, given)
  })
  app.get('/events', (c) => {
    const byEvent = Map.groupBy(state.deliveries, ({ event }) => event)
    return c.json({ events: [...state.events.values()].map((event) => summary(event, byEvent.get(event) ?? [])) })
  })
}

const held = ({ deliveries }: State) => deliveries.filter((delivery) => delivery.state === 'held')

/** What is held of an event, or a new delivery of it to every endpoint, as when it is sent again from the Dashboard. */
function again(state: State, event: Event): Delivery[] {
  const waiting = held(state).filter((delivery) => delivery.event === event)
  return waiting.length > 0 ? waiting : [...state.endpoints.keys()].map((id) => note(state, event, id, 'held'))
}

const identity = z.object({ object: z.string().optional(), id: z.string().optional() }).catch({})

function summary(event: Event, deliveries: Delivery[]) {
  const { object, id: object_id = null } = identity.parse(event.data.object)
  const { id, type, created } = event
  return {
    id,
    type,
    created,
    object,
    object_id,
    deliveries: deliveries.map(({ state, attempts, status }) => ({ state, attempts, status })),
  }
}

/** The same numbers for the same seed (mulberry32). */
function seeded(seed: number): () => number {
  let a = seed | 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
