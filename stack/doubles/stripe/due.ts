/** What falls due when time passes, soonest first; for everybody, or for one customer whose time runs ahead. */
import { Refusal } from './refusals.ts'
import type { Due, DueKind, State } from './state.ts'
import type { TestClock } from './wire.ts'

export type DueHandlers = Record<DueKind, (state: State, id: string) => unknown>

/**
 * `at` is by the clock of whoever's turn it is. Nothing is taken off the list when plans change: whoever is called looks
 * whether it is still due.
 */
export function schedule(state: State, at: number, kind: DueKind, id: string): void {
  const clock = clockOf(state, ownerOf(state, id))
  if (clock) insert(state.clockDue, { at, kind, id, clock: clock.id })
  else insert(state.due, { at: at - state.clock.lead, kind, id })
}

/** The test clock that a customer lives by. */
export function clockOf(state: State, id: string | null | undefined): TestClock | undefined {
  const customer = state.customers.get(id ?? '')
  return customer && !customer.deleted ? state.testClocks.get(customer.test_clock ?? '') : undefined
}

/** Kept with the soonest at the end, where it is cheap to take. */
function insert<T extends Due>(due: T[], entry: T): void {
  let [low, high] = [0, due.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((due[middle]?.at ?? 0) > entry.at) low = middle + 1
    else high = middle
  }
  due.splice(low, 0, entry)
}

/** Does everything that is due until then, each thing at its own moment. */
export function runDue(state: State, until: number, handlers: DueHandlers): void {
  for (let next = state.due.at(-1); next && next.at <= until; next = state.due.at(-1)) {
    state.due.pop()
    run(state, next, handlers)
  }
}

function run(state: State, due: Due, handlers: DueHandlers): void {
  const lead = leadOf(state, ownerOf(state, due.id))
  runAt(state, due, { moment: due.at + lead, lead }, handlers)
}

function runAt(state: State, { kind, id }: Due, time: { moment: number; lead: number }, handlers: DueHandlers): void {
  try {
    inTime(state, time, () => handlers[kind](state, id))
  } catch (error) {
    // A customer that was deleted meanwhile, say: there is nobody to tell, and the clock goes on.
    if (!(error instanceof Refusal)) throw error
  }
}

/** Moves a test clock and does what falls due by it on the way. Time stands still for its customers in between. */
export function advanceClock(state: State, clock: TestClock, to: number, handlers: DueHandlers): void {
  const isNext = (entry: State['clockDue'][number]) => entry.clock === clock.id && entry.at <= to
  for (let i = state.clockDue.findLastIndex(isNext); i >= 0; i = state.clockDue.findLastIndex(isNext)) {
    const [next] = state.clockDue.splice(i, 1)
    if (!next) break
    clock.frozen_time = Math.max(clock.frozen_time, next.at)
    runAt(state, next, { moment: clock.frozen_time, lead: 0 }, handlers)
  }
  clock.frozen_time = to
}

export function advanceTo(state: State, to: number, handlers: DueHandlers): void {
  runDue(state, to, handlers)
  state.clock.offset += Math.max(0, to - state.now())
}

/** Moves the time of one customer alone, as a test clock of Stripe's does. */
export function advanceCustomer(state: State, customer: string, seconds: number, handlers: DueHandlers): void {
  const until = state.now() + seconds
  const isMine = ({ id }: Due) => ownerOf(state, id) === customer
  for (let i = state.due.findLastIndex(isMine); i >= 0; i = state.due.findLastIndex(isMine)) {
    const next = state.due[i]
    if (!next || next.at > until) break
    state.due.splice(i, 1)
    run(state, next, handlers)
  }
  state.leads.set(customer, leadOf(state, customer) + seconds)
  const ahead = state.due.filter(isMine)
  state.due = state.due.filter((entry) => !isMine(entry))
  for (const entry of ahead.reverse()) insert(state.due, { ...entry, at: entry.at - seconds })
}

/** Does something in the time of a customer. */
export function asOf<T>(state: State, customer: string | null | undefined, act: () => T): T {
  if (state.clock.moment !== undefined) return act()
  const clock = clockOf(state, customer)
  if (clock) return inTime(state, { moment: clock.frozen_time, lead: 0 }, act)
  const lead = leadOf(state, customer)
  if (lead === 0) return act()
  return inTime(state, { moment: state.now() + lead, lead }, act)
}

function inTime<T>(state: State, { moment, lead }: { moment: number; lead: number }, act: () => T): T {
  Object.assign(state.clock, { moment, lead })
  try {
    return act()
  } finally {
    Object.assign(state.clock, { moment: undefined, lead: 0 })
  }
}

/** How far a customer's time is before the common clock. */
export const leadOf = (state: State, customer: string | null | undefined) => state.leads.get(customer ?? '') ?? 0

const ownerOf = (state: State, id: string) =>
  (state.subscriptions.get(id) ?? state.invoices.get(id) ?? state.sessions.get(id) ?? state.quotes.get(id))?.customer
