/** A throw-away cluster, bootstrapped like hosted Supabase, for tools that need empty databases (db:diff, drift tests). */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { bootstrap, localDbUrl } from './bootstrap.ts'
import { makePlatformKeys, type PlatformKeys } from './keys.ts'
import { clusterPid, initCluster, installExtensions, startCluster, stopCluster } from './postgres.ts'

export type Scratch = {
  /** Makes a fresh database that holds the platform and nothing of ours; answers its URL as role postgres. */
  createDatabase(name: string): Promise<string>
  superuserUrl(database: string): string
  /** The keys of the cluster, with the passwords of every role. */
  keys: PlatformKeys
  port: number
  /** Kills the server as a power cut would, and starts it again on what it had written. */
  crash(): Promise<void>
  stop(): Promise<void>
}

/**
 * `durable` writes as production does; without it, speed goes before what a throw-away cluster does not need. `bin` is the
 * folder of another PostgreSQL's programs; our stand-in extensions are expected to be installed there.
 */
export async function startScratch({
  durable = false,
  bin,
}: {
  durable?: boolean
  bin?: string
} = {}): Promise<Scratch> {
  const home = mkdtempSync(join(tmpdir(), 'scratch-cluster-'))
  chmodSync(home, 0o711)
  const folder = join(home, 'postgres')
  const unwatch = onSignal(() => discard(home, folder))
  try {
    const keys = await makePlatformKeys()
    const port = await freePort()
    const place = { folder, port, superuserPassword: keys.passwords.supabase_admin, fast: !durable }
    const cluster = bin === undefined ? place : { ...place, bin }
    if (bin === undefined) installExtensions()
    initCluster(cluster)
    await startCluster(cluster)
    await bootstrap(port, keys)
    const admin = postgres(localDbUrl(port, keys, 'supabase_admin', 'template1'), { max: 1, onnotice: () => {} })
    return {
      async createDatabase(name) {
        await copyDatabase(admin, 'postgres', name)
        return localDbUrl(port, keys, 'postgres', name)
      },
      keys,
      port,
      async crash() {
        const pid = clusterPid(folder)
        if (pid !== undefined) process.kill(pid, 'SIGKILL')
        await startCluster(cluster)
      },
      superuserUrl: (database) => localDbUrl(port, keys, 'supabase_admin', database),
      async stop() {
        unwatch()
        await admin.end()
        discard(home, folder)
      },
    }
  } catch (error) {
    unwatch()
    discard(home, folder)
    throw error
  }
}

/**
 * A copy of a database that nobody is connected to, with what a copy does not take over: owner and settings of the whole.
 * @internal For tests: a database for each file.
 */
export async function copyDatabase(admin: postgres.Sql, template: string, name: string): Promise<void> {
  await admin.unsafe(`create database ${name} owner postgres template ${template} strategy file_copy`)
  await admin.unsafe(`alter database ${name} set search_path = "$user", public, extensions`)
}

/** A server outlives who started it: a script that is interrupted takes it along, and ends as the signal wants. */
export function onSignal(act: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const heard = (signal: NodeJS.Signals) => {
    unwatch()
    act()
    process.kill(process.pid, signal)
  }
  const unwatch = () => signals.forEach((signal) => void process.removeListener(signal, heard))
  for (const signal of signals) process.on(signal, heard)
  return unwatch
}

function discard(home: string, folder: string): void {
  stopCluster(folder)
  rmSync(home, { recursive: true, force: true })
}

/** A loopback port that nobody uses at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      )
    })
  })
}
