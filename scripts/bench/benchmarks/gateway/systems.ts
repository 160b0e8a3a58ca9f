/** Everything that is compared, started on loopback ports around one fake provider and one database. */
import postgres from 'postgres'
import { functionFiles } from '../../../../stack/config.ts'
import { startFunctions } from '../../../../stack/platform/functions.ts'
import { freePort } from '../../../../stack/platform/scratch.ts'
import type { BenchWorld } from '../../types.ts'
import type { Target } from './load-contract.ts'
import { parentOf } from './processes.ts'
import { startDeno, startLoad, startPortkey, untilAnswered } from './programs.ts'
import { seed } from './seed.ts'

export const names = ['direct', 'pass-through', 'two-trips', 'portkey', 'palisade'] as const
export type SystemName = (typeof names)[number]

const users = 1_000
const projectUrl = 'http://127.0.0.1:9'

export type Systems = Awaited<ReturnType<typeof startSystems>>

export async function startSystems({ createDatabase, superuserUrl, progress }: BenchWorld, database: string) {
  const running: { stop(): Promise<void> }[] = []
  const stop = async () => {
    for (const program of running.reverse()) await program.stop()
  }
  const keep = <T extends { stop(): Promise<void> }>(program: T): T => {
    running.push(program)
    return program
  }
  try {
    const databaseUrl = await createDatabase(database)
    const origin = async () => `http://127.0.0.1:${await freePort()}`
    const portOf = (url: string) => new URL(url).port
    const direct = await origin()
    const providerUrl = `${direct}/v1`
    progress(`making ${users} accounts`)
    const { tokens, jwks } = await seed(superuserUrl(database), users, providerUrl, projectUrl)

    progress('starting the systems')
    const provider = keep(startDeno(new URL('./provider.ts', import.meta.url), [portOf(direct)]))
    const passThrough = await origin()
    const bare = keep(startDeno(new URL('./pass-through.ts', import.meta.url), [portOf(passThrough), providerUrl]))
    const twoTrips = await origin()
    const ledger = keep(
      startDeno(new URL('./two-trips.ts', import.meta.url), [portOf(twoTrips), providerUrl, databaseUrl]),
    )
    const portkey = await origin()
    const other = keep(startPortkey(Number(portOf(portkey))))
    const palisade = await origin()
    const env = { SUPABASE_URL: projectUrl, SUPABASE_DB_URL: databaseUrl, SUPABASE_JWKS: jwks }
    const log = firstLines(5, (line) => /"level":"error"|starts again/.test(line), progress)
    const ours = keep(startFunctions({ files: functionFiles, port: Number(portOf(palisade)), env, watch: false, log }))
    await Promise.all([
      untilAnswered('provider', direct),
      untilAnswered('pass-through', passThrough),
      untilAnswered('handler with two round trips', twoTrips),
      untilAnswered('Portkey', portkey),
      ours.ready(),
    ])

    const postmaster = await postmasterPid(databaseUrl)
    const path = '/v1/chat/completions'
    const portkeyHeaders = { 'x-portkey-provider': 'openai', 'x-portkey-custom-host': providerUrl }
    const targets: Record<SystemName, Target> = {
      direct: { name: 'direct', origin: direct, path, headers: {}, pids: pids(provider.pid) },
      'pass-through': { name: 'pass-through', origin: passThrough, path, headers: {}, pids: pids(bare.pid) },
      'two-trips': { name: 'two-trips', origin: twoTrips, path, headers: {}, pids: pids(ledger.pid, postmaster) },
      portkey: { name: 'portkey', origin: portkey, path, headers: portkeyHeaders, pids: pids(other.pid) },
      palisade: {
        name: 'palisade',
        origin: palisade,
        path: '/ai/v1/chat/completions',
        headers: {},
        pids: pids(ours.pid(), postmaster),
      },
    }
    return { targets, load: keep(await startLoad(tokens)), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Shows what went wrong, but not a thousand times. */
function firstLines(count: number, isShown: (line: string) => boolean, show: (line: string) => void) {
  let shown = 0
  return (line: string) => {
    if (!isShown(line) || shown >= count) return
    shown += 1
    show(line)
  }
}

const pids = (own: number | undefined, children?: number | undefined): Target['pids'] => ({
  ...(own !== undefined && { own }),
  ...(children !== undefined && { children }),
})

/** The server's process, whose children serve the connections. */
async function postmasterPid(url: string): Promise<number | undefined> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
    return row && parentOf(row.pid)
  } finally {
    await sql.end()
  }
}
