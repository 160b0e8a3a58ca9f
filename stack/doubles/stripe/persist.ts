/** Keeps the account in a file, so that a stack that starts again still knows whom its database calls a customer. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { mapNames, type State } from './state.ts'

/** Reconciliation finds what happened before; of the events only the last ones are worth their room. */
const eventsKept = 1_000
const everyMs = 10_000

type Saved = Pick<State, 'clock' | 'counters' | 'due' | 'clockDue'> & {
  version: 1
  maps: Record<string, [string, unknown][]>
}

/** Answers how to save at once, for the end. What cannot be written, as on a full disk, is tried again. */
export function persist(state: State, file: string, log: (line: string) => void = () => {}): () => void {
  load(state, file)
  let savedAt = 0
  let isTold = false
  const save = () => {
    if (!state.isDirty) return
    savedAt = Date.now()
    try {
      mkdirSync(dirname(file), { recursive: true })
      writeFileSync(`${file}.new`, written(state), { mode: 0o600 })
      renameSync(`${file}.new`, file)
      state.isDirty = false
      isTold = false
    } catch (error) {
      if (!isTold) log(`stripe: ${error instanceof Error ? error.message : error}; it is tried again`)
      isTold = true
    }
  }
  const timer = setInterval(() => {
    if (Date.now() - savedAt >= everyMs) save()
  }, 1_000)
  timer.unref()
  return () => {
    clearInterval(timer)
    save()
  }
}

function written({ clock, counters, due, clockDue, ...state }: State): string {
  const maps = Object.fromEntries(mapNames.map((name) => [name, [...state[name]]]))
  const saved: Saved = {
    version: 1,
    clock,
    counters,
    due,
    clockDue,
    maps: { ...maps, events: [...state.events].slice(-eventsKept) },
  }
  return JSON.stringify(saved)
}

/** A file that cannot be read is as if it were not there: what it held was play money. */
function load(state: State, file: string): void {
  if (!existsSync(file)) return
  try {
    const saved: Saved = JSON.parse(readFileSync(file, 'utf8'))
    if (saved.version !== 1) return
    const { clock, counters, due, clockDue = [] } = saved
    Object.assign(state, {
      clock: { ...clock, moment: undefined, lead: 0 },
      counters: { ...state.counters, ...counters },
      due,
      clockDue,
    })
    for (const name of mapNames) fill(state[name], saved.maps[name] ?? [])
  } catch {
    return
  }
}

function fill(map: Map<string, unknown>, rows: [string, unknown][]): void {
  for (const [id, value] of rows) map.set(id, value)
}
