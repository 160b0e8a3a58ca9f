/** /v1/test_helpers/test_clocks: time that stands still for a few customers, and is moved by hand. */
import { z } from 'zod'
import { deleteCustomer } from './customers.ts'
import { advanceClock, type DueHandlers } from './due.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import { expand, integer, none, page, text } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { isOver } from './subscription-status.ts'
import { type Customer, newId, type TestClock } from './wire.ts'

const path = '/v1/test_helpers/test_clocks'
const day = 86_400
const keptFor = 30 * day
const most = 3

const newParams = z.strictObject({ frozen_time: integer, name: text.max(300).optional(), expand })
const advanced = z.strictObject({ frozen_time: integer, expand })

const customersOf = (state: State, clock: string): Customer[] =>
  [...state.customers.values()].filter(
    (customer): customer is Customer => !customer.deleted && customer.test_clock === clock,
  )

export function refuseFull(state: State, clock: string): void {
  need(state.testClocks, 'test clock', clock, 'test_clock')
  if (customersOf(state, clock).length >= most)
    throw invalid(`A test clock has at most ${most} customers.`, { param: 'test_clock' })
}

export const clockRoutes =
  (handlers: DueHandlers) =>
  (route: Route, state: State): void => {
    const find = (id: string) => need(state.testClocks, 'test clock', id)
    route('POST', path, newParams, ({ frozen_time, name = null }) => {
      const clock: TestClock = {
        id: newId('clock_1', 23),
        object: 'test_helpers.test_clock',
        created: state.now(),
        deletes_after: state.now() + keptFor,
        frozen_time,
        livemode: false,
        name,
        status: 'ready',
        status_details: {},
      }
      state.testClocks.set(clock.id, clock)
      emit(state, 'test_helpers.test_clock.created', clock)
      return clock
    })
    route('GET', `${path}/:id`, none, (_, id) => find(id))
    route('GET', path, z.strictObject({ ...page }), (query) => listPage(path, state.testClocks.values(), query))
    route('POST', `${path}/:id/advance`, advanced, ({ frozen_time }, id) => {
      const clock = find(id)
      refuseJump(state, clock, frozen_time)
      const status_details = { advancing: { target_frozen_time: frozen_time } }
      Object.assign(clock, { status: 'advancing', status_details })
      emit(state, 'test_helpers.test_clock.advancing', clock)
      // Stripe answers before the time has passed, too.
      setImmediate(() => finish(state, clock, frozen_time, handlers))
      return clock
    })
    route('DELETE', `${path}/:id`, none, (_, id) => {
      const clock = find(id)
      for (const customer of customersOf(state, id)) deleteCustomer(state, customer.id)
      state.clockDue = state.clockDue.filter((entry) => entry.clock !== id)
      state.testClocks.delete(id)
      emit(state, 'test_helpers.test_clock.deleted', clock)
      return { id, object: 'test_helpers.test_clock', deleted: true }
    })
  }

function finish(state: State, clock: TestClock, to: number, handlers: DueHandlers): void {
  if (!state.testClocks.has(clock.id)) return
  try {
    advanceClock(state, clock, to, handlers)
    change(state, 'test_helpers.test_clock.ready', clock, { status: 'ready', status_details: {} })
  } catch {
    change(state, 'test_helpers.test_clock.internal_failure', clock, { status: 'internal_failure' })
  }
}

const lengths: Record<string, number> = { day, week: 7 * day, month: 31 * day, year: 366 * day }

/** Forward only, and not further than two periods of the shortest subscription, or two years where there is none. */
function refuseJump(state: State, clock: TestClock, to: number): void {
  if (clock.status !== 'ready') throw invalid('This test clock is advancing already.', { code: 'test_clock_advancing' })
  if (to <= clock.frozen_time) throw invalid('A test clock only goes forward.', { param: 'frozen_time' })
  const mine = new Set(customersOf(state, clock.id).map(({ id }) => id))
  const running = [...state.subscriptions.values()].filter((one) => mine.has(one.customer) && !isOver(one))
  const periods = running.flatMap(({ items }) =>
    items.data.map(
      ({ price }) => (lengths[price.recurring?.interval ?? 'month'] ?? 0) * (price.recurring?.interval_count ?? 1),
    ),
  )
  const furthest = periods.length > 0 ? 2 * Math.min(...periods) : 2 * 366 * day
  if (to > clock.frozen_time + furthest)
    throw invalid('A test clock goes at most two periods of its shortest subscription at a time.', {
      param: 'frozen_time',
    })
}
