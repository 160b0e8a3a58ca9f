/** Keeps a started cluster running: brings its server back when it is gone, as often as it takes, and knows whether it answers. */
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { type Cluster, clusterPid, startCluster, stopCluster } from './postgres.ts'

export type KeptCluster = {
  /** As of a moment ago. */
  isUp(): boolean
  /** Asks the server itself: for whoever was just failed by it. One that is there and does not answer is waited for, too. */
  check(): Promise<boolean>
  /** Stops the server. */
  stop(): Promise<void>
}

const lookMs = 250
/** Between two starts that fail. Whatever stood in the way may be gone at any moment, and nobody tells. */
const longestPauseMs = 5_000
const answerSeconds = 5

type KeepOptions = {
  log(line: string): void
  /** It answers again; what this rejects with is tried again, and until then it counts as away. */
  back(): Promise<void>
}

export function keepCluster(cluster: Cluster, { log, back }: KeepOptions): KeptCluster {
  const { folder } = cluster
  let isStopped = false
  let away: Promise<void> | undefined

  /** A step on the way back; answers whether it is there. */
  const isBack = async (): Promise<boolean> => {
    if (clusterPid(folder) === undefined)
      await startCluster(cluster, () =>
        log('postgres: it recovers what it had written; that takes as long as it takes'),
      )
    if (!(await answers(cluster))) return false
    await back()
    return true
  }
  const bringBack = async (why: string) => {
    const began = Date.now()
    log(`postgres: ${why}`)
    let said = ''
    for (let pauseMs = lookMs; !isStopped; await pause(pauseMs)) {
      try {
        if (await isBack()) return log(`postgres: it is back after ${((Date.now() - began) / 1_000).toFixed(1)} s`)
        pauseMs = lookMs
      } catch (error) {
        const words = error instanceof Error ? error.message : String(error)
        // Names of passing files differ each time.
        const kind = words.replaceAll(/\d+/g, '')
        if (kind !== said && !isStopped) log(`postgres: ${words}; it is tried again until it works`)
        said = kind
        pauseMs = Math.min(2 * pauseMs, longestPauseMs)
      }
    }
  }
  const pause = async (ms: number) => {
    for (const until = Date.now() + ms; Date.now() < until && !isStopped; ) await sleep(lookMs)
  }
  const goneAway = (why: string) => {
    away ??= bringBack(why).finally(() => {
      away = undefined
    })
  }
  const timer = setInterval(() => {
    if (!away && clusterPid(folder) === undefined) goneAway('the server is gone; starting it again')
  }, lookMs)

  return {
    isUp: () => away === undefined,
    async check() {
      if (away) return false
      if (await answers(cluster)) return true
      if (!isStopped) goneAway('the server does not answer; waiting for it')
      return false
    },
    async stop() {
      isStopped = true
      clearInterval(timer)
      // A server that is just being started has no number yet, by which it could be stopped.
      for (; away; await Promise.race([away, sleep(lookMs)])) stopCluster(folder)
      stopCluster(folder)
    },
  }
}

/** A refusal is an answer, too, but for those of a server that starts, ends or recovers (57P01 to 57P03). */
async function answers({ port, superuserPassword }: Cluster): Promise<boolean> {
  const sql = postgres({
    host: '127.0.0.1',
    port,
    database: 'postgres',
    username: 'supabase_admin',
    password: superuserPassword,
    max: 1,
    connect_timeout: answerSeconds,
    onnotice: () => {},
  })
  try {
    await sql`select 1`
    return true
  } catch (error) {
    return error instanceof postgres.PostgresError && !error.code.startsWith('57P0')
  } finally {
    await sql.end({ timeout: 0 })
  }
}
