/** PgBouncer in transaction mode before a server of tests and benchmarks, from Debian's package. */
import { spawn } from 'node:child_process'
import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { endProcess, serverUser } from '../../stack/platform/postgres.ts'
import { freePort, onSignal } from '../../stack/platform/scratch.ts'

/** Where Debian's package has it. */
export const pgBouncerProgram = '/usr/sbin/pgbouncer'

/** @internal For tests: one that they keep. */
export type PgBouncer = Awaited<ReturnType<typeof startPgBouncer>>

/**
 * Knows no passwords but that of the superuser, with which it asks the server for the others' verifiers: logins may come and
 * change. So few sessions that callers share them all the time.
 */
export async function startPgBouncer({
  port: serverPort,
  superuserPassword,
}: {
  port: number
  superuserPassword: string
}) {
  const folder = mkdtempSync(join(tmpdir(), 'pgbouncer-'))
  const port = await freePort()
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text, { mode: 0o600 })
    return join(folder, name)
  }
  const users = file('userlist.txt', `"supabase_admin" "${superuserPassword}"\n`)
  const settings = file(
    'pgbouncer.ini',
    `[databases]
* = host=127.0.0.1 port=${serverPort}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
auth_user = supabase_admin
stats_users = supabase_admin
auth_query = select usename, passwd from pg_shadow where usename = $1
pool_mode = transaction
default_pool_size = 6
max_client_conn = 200
server_login_retry = 1
`,
  )
  // It refuses to run as root, as PostgreSQL does.
  const owner = userInfo().uid === 0 ? serverUser() : undefined
  if (owner) for (const path of [folder, users, settings]) chownSync(path, owner.uid, owner.gid)
  const child = spawn(pgBouncerProgram, [settings], { ...owner, stdio: ['ignore', 'ignore', 'pipe'] })
  let log = ''
  child.once('error', ({ message }) => {
    log += `${message}: apt-get install pgbouncer`
  })
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk
  })
  const unwatch = onSignal(() => {
    child.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  const stop = async () => {
    unwatch()
    if (child.pid !== undefined) await endProcess(child)
    rmSync(folder, { recursive: true, force: true })
  }
  for (const until = Date.now() + 20_000; !(await answers(port)); await sleep(25)) {
    if (child.pid !== undefined && child.exitCode === null && Date.now() < until) continue
    await stop()
    throw new Error(`PgBouncer did not start:\n${log}`)
  }
  return {
    port,
    pid: child.pid,
    /** The same database and login, by way of PgBouncer. */
    urlFor: (direct: string, query = 'pgbouncer=true') => {
      const url = new URL(direct)
      url.port = String(port)
      url.search = query
      return url.href
    },
    log: () => log,
    stop,
  }
}

const answers = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
