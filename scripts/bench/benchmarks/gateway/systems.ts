/** Everything that is compared, started on loopback ports around one fake provider and one database. */
import postgres from 'postgres'
import { functionFiles } from '../../../../stack/config.ts'
import { startFunctions } from '../../../../stack/platform/functions.ts'
import { freePort } from '../../../../stack/platform/scratch.ts'
import type { BenchWorld } from '../../types.ts'
import type { Processes, Target } from './load-contract.ts'
import { parentOf, type Watched } from './processes.ts'
import { startDeno, startLlms, startLoad, startPortkey, untilAnswered } from './programs.ts'
import { seed } from './seed.ts'

export const names = [
  'direct',
  'pass-through',
  'two-trips',
  'portkey',
  'llms',
  'palisade',
  'palisade, two processes',
  'palisade, PgBouncer',
] as const
export type SystemName = (typeof names)[number]

const projectUrl = 'http://127.0.0.1:9'

export type Systems = Awaited<ReturnType<typeof startSystems>>
type Options = { users?: number; wanted?: readonly SystemName[] }

export async function startSystems(
  world: BenchWorld,
  database: string,
  { users = 1_000, wanted = names }: Options = {},
) {
  const { createDatabase, superuserUrl, startPooler, progress } = world
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
    const direct = await freeOrigin()
    const providerUrl = `${direct}/v1`
    progress(`making ${users} accounts`)
    const { tokens, jwks, gatewayUrl } = await seed(superuserUrl(database), users, providerUrl, projectUrl)

    progress('starting the systems')
    const provider = keep(startDeno(new URL('./provider.ts', import.meta.url), [portOf(direct)]))
    await untilAnswered('provider', direct)
    const all = { provider: watch(provider.pid) }
    const withDatabase = { ...all, postgres: watch(await postmasterPid(databaseUrl), true) }
    const targets = new Map<SystemName, Target>()
    const add = (name: SystemName, target: Omit<Target, 'name' | 'path'>, path = '/v1/chat/completions') =>
      void targets.set(name, { name, path, ...target })
    add('direct', { origins: [direct], headers: {}, processes: all })

    const addBare = async (name: SystemName, program: URL, extra: string[], processes: Processes) => {
      if (!wanted.includes(name)) return
      const origin = await freeOrigin()
      const { pid } = keep(startDeno(program, [portOf(origin), providerUrl, ...extra]))
      await untilAnswered(name, origin)
      add(name, { origins: [origin], headers: {}, processes: { ...processes, function: watch(pid) } })
    }
    await addBare('pass-through', new URL('./pass-through.ts', import.meta.url), [], all)
    await addBare('two-trips', new URL('./two-trips.ts', import.meta.url), [databaseUrl], withDatabase)

    const addOther = async (
      name: SystemName,
      begin: typeof startLlms,
      rest: Pick<Target, 'headers' | 'modelPrefix'>,
    ) => {
      if (!wanted.includes(name)) return
      const origin = await freeOrigin()
      const { pid } = keep(begin(Number(portOf(origin)), providerUrl))
      await untilAnswered(name, origin)
      add(name, { origins: [origin], ...rest, processes: { ...all, function: watch(pid) } })
    }
    const portkeyHeaders = { 'x-portkey-provider': 'openai', 'x-portkey-custom-host': providerUrl }
    await addOther('portkey', startPortkey, { headers: portkeyHeaders })
    await addOther('llms', startLlms, { headers: {}, modelPrefix: 'bench,' })

    const log = firstLines(5, (line) => /"level":"error"|starts again/.test(line), progress)
    const startOurs = async (urlFor: (direct: string) => string) => {
      const origin = await freeOrigin()
      const env = {
        SUPABASE_URL: projectUrl,
        SUPABASE_DB_URL: urlFor(databaseUrl),
        AI_DB_URL: urlFor(gatewayUrl),
        SUPABASE_JWKS: jwks,
      }
      const ours = keep(startFunctions({ files: functionFiles, port: Number(portOf(origin)), env, watch: false, log }))
      await ours.ready()
      return { origin, watched: watch(ours.pid()) }
    }
    const addOurs = (name: SystemName, ours: Awaited<ReturnType<typeof startOurs>>[], more: Processes = {}) => {
      const processes = { ...withDatabase, function: ours.flatMap(({ watched }) => watched), ...more }
      add(name, { origins: ours.map(({ origin }) => origin), headers: {}, processes }, '/ai/v1/chat/completions')
    }
    const first = await startOurs((url) => url)
    addOurs('palisade', [first])
    if (wanted.includes('palisade, two processes'))
      addOurs('palisade, two processes', [first, await startOurs((url) => url)])
    const pooler = wanted.includes('palisade, PgBouncer') ? await startPooler() : undefined
    if (pooler) {
      keep(pooler)
      addOurs('palisade, PgBouncer', [await startOurs(pooler.urlFor)], { pgbouncer: watch(pooler.pid) })
    }
    return {
      targets,
      databaseUrl,
      load: keep(await startLoad(tokens, superuserUrl(database))),
      superuserUrl: superuserUrl(database),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

const freeOrigin = async () => `http://127.0.0.1:${await freePort()}`
const portOf = (url: string) => new URL(url).port

/** Shows what went wrong, but not a thousand times. */
function firstLines(count: number, isShown: (line: string) => boolean, show: (line: string) => void) {
  let shown = 0
  return (line: string) => {
    if (!isShown(line) || shown >= count) return
    shown += 1
    show(line)
  }
}

const watch = (pid: number | undefined, children = false): Watched[] => (pid === undefined ? [] : [{ pid, children }])

/** The server's process, whose children serve the connections. */
export async function postmasterPid(url: string): Promise<number | undefined> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
    return row && parentOf(row.pid)
  } finally {
    await sql.end()
  }
}
