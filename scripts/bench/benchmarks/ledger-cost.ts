/**
 * What one call costs the server: time on a CPU of all its processes and bytes of WAL, admitted and settled durably on one
 * connection, a call a statement and 16.
 */
import postgres from 'postgres'
import { admit, settle } from '../private-sql.ts'
import { figureResult } from '../results.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { cpuMsBetween, cpuTimes } from './gateway/processes.ts'
import { quantile, summary } from './gateway/quantile.ts'
import { type Session, seed } from './gateway/seed.ts'
import { postmasterPid } from './gateway/systems.ts'

const users = 1_000
const callsInWindow = 480
const sides = { alone: 1, 'batches of 16': 16, 'one user, batches of 16': 16 } as const
type SideName = keyof typeof sides
type Cost = { cpuUs: number; walKb: number }

/** @public Called by the name of its file. */
export async function bench(world: BenchWorld): Promise<BenchResult[]> {
  const { createDatabase, superuserUrl, progress, scale } = world
  await createDatabase('ledger_cost')
  progress(`making ${users} accounts`)
  const url = superuserUrl('ledger_cost')
  const { sessions, gatewayUrl } = await seed(url, users, 'http://127.0.0.1:9/v1', 'http://127.0.0.1:9')
  const [admin, gateway] = [url, gatewayUrl].map((to) => postgres(to, { max: 1, onnotice: () => {} }))
  if (!admin || !gateway) throw new Error('there are no connections')
  try {
    const server = await postmasterPid(url)
    const window = (side: SideName, next: () => Session) => measure({ admin, gateway, server }, sides[side], next)
    const rounds = world.rounds ?? Math.max(3, Math.round(24 * scale))
    const found = await measureAll(sessions, rounds, window, admin, progress)
    return resultsOf(found)
  } finally {
    await gateway.end({ timeout: 1 })
    await admin.end({ timeout: 1 })
  }
}

/** Two rounds warm up: every page has then been written once since the checkpoint, and its full image with it. */
async function measureAll(
  sessions: Session[],
  rounds: number,
  window: (side: SideName, next: () => Session) => Promise<Cost>,
  admin: postgres.Sql,
  progress: (text: string) => void,
): Promise<Map<SideName, Cost[]>> {
  const [hot] = sessions
  if (!hot) throw new Error('there are no users')
  let turn = 0
  const anyone = () => sessions[turn++ % sessions.length] ?? hot
  const names = Object.keys(sides) as SideName[]
  const found = new Map<SideName, Cost[]>(names.map((name) => [name, []]))
  await admin`checkpoint`
  for (let round = -2; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const cost = await window(name, name.startsWith('one user') ? () => hot : anyone)
      if (round >= 0) found.get(name)?.push(cost)
    }
    progress(round < 0 ? 'warming up' : `round ${round + 1} of ${rounds}`)
  }
  return found
}

type Connections = { admin: postgres.Sql; gateway: postgres.Sql; server: number | undefined }

async function measure({ admin, gateway, server }: Connections, together: number, next: () => Session): Promise<Cost> {
  const watched = server === undefined ? [] : [{ pid: server, children: true }]
  const walBytes = async () => {
    const [row] = await admin<{ bytes: number }[]>`
      select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as bytes`
    return row?.bytes ?? Number.NaN
  }
  const walBefore = await walBytes()
  const cpuBefore = cpuTimes(watched)
  for (let calls = 0; calls < callsInWindow; calls += together)
    await settle(gateway, await admit(gateway, Array.from({ length: together }, next)))
  const cpuMs = cpuMsBetween(cpuBefore, cpuTimes(watched))
  return {
    cpuUs: (cpuMs * 1000) / callsInWindow,
    walKb: ((await walBytes()) - walBefore) / callsInWindow / 1000,
  }
}

function resultsOf(found: Map<SideName, Cost[]>): BenchResult[] {
  const values = (side: SideName, what: keyof Cost) => (found.get(side) ?? []).map((cost) => cost[what])
  const of = (side: SideName, what: keyof Cost) => summary(values(side, what))
  const [together, alone, wal] = [of('batches of 16', 'cpuUs'), of('alone', 'cpuUs'), of('alone', 'walKb')]
  const median = (side: SideName, what: keyof Cost) => quantile(values(side, what), 0.5)
  return [
    figureResult('postgresCpuTogether', together.value, together.note),
    figureResult('postgresCpuAlone', alone.value, alone.note),
    figureResult('walPerCall', wal.value, wal.note),
    { name: 'WAL per call, batches of 16', unit: 'kB', value: median('batches of 16', 'walKb') },
    {
      name: 'CPU of PostgreSQL per call, one user, batches of 16',
      unit: 'us',
      value: median('one user, batches of 16', 'cpuUs'),
    },
    { name: 'WAL per call, one user, batches of 16', unit: 'kB', value: median('one user, batches of 16', 'walKb') },
  ]
}
