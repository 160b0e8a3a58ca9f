/** start, status, stop, reset as a person meets them: a stack of its own for each test, on free ports, in an empty folder. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { readConfig, root } from '../../stack/config.ts'
import { claimDataFolder, dropState } from '../../stack/state.ts'
import { freeRange } from '../support/ports.ts'

type Ended = { code: number; output: string }
type Place = { env: NodeJS.ProcessEnv; data: string; port: number }

const places: Place[] = []
const children: ChildProcess[] = []

async function newPlace(): Promise<Place> {
  const data = await mkdtemp(join(tmpdir(), 'palisade-commands-'))
  const port = await freeRange(20_000)
  const place = { data, port, env: { ...process.env, PALISADE_DATA: data, PALISADE_PORT: String(port) } }
  places.push(place)
  return place
}

const script = (name: string, env: NodeJS.ProcessEnv, args: string[] = []): Promise<Ended> =>
  promisify(execFile)(process.execPath, [join('scripts', `${name}.ts`), ...args], { cwd: root, env }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      output: error.stdout + error.stderr,
    }),
  )

/** Starts a stack and waits for its screen. */
async function start({ env }: Place): Promise<{ child: ChildProcess; screen: string; ended: Promise<number | null> }> {
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)))
  let screen = ''
  await new Promise<void>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      screen += chunk
      if (/^curl .*\n/m.test(screen)) resolve()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.once('exit', () => reject(new Error(screen)))
  })
  return { child, screen, ended }
}

const dbUrl = (screen: string) => /DB_URL +(\S+)/.exec(screen)?.[1] ?? ''
/** A zombie is gone: it only waits for its parent to take note. */
const alive = (pid: number) => existsSync(`/proc/${pid}`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
/** Whether pg_ctl waits for this place's database to stop. */
const isStopping = ({ data }: Place) =>
  readdirSync('/proc').some((pid) => {
    const file = `/proc/${pid}/cmdline`
    if (!/^\d+$/.test(pid) || !existsSync(file)) return false
    try {
      const words = readFileSync(file, 'utf8').split('\0')
      return /\/pg_ctl$/.test(words[0] ?? '') && words.includes('stop') && words.includes(join(data, 'postgres'))
    } catch {
      return false
    }
  })
const hold = (port: number) =>
  new Promise<Server>((resolve) => {
    const server = createServer().listen(port, '127.0.0.1', () => resolve(server))
  })

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  for (const { env, data } of places.splice(0)) {
    await script('stop', env)
    await rm(data, { recursive: true, force: true })
  }
})

describe('refusals are one clear line that says what to do', () => {
  test('status when nothing runs', async () => {
    const { env } = await newPlace()

    const { code, output } = await script('status', env)

    expect(code).toBe(1)
    expect(output).toMatch(/^palisade: Nothing runs on .*Start it with "npm start"\.\n$/)
  })

  test('a taken port', async () => {
    const place = await newPlace()
    const server = await hold(place.port)

    const { code, output } = await script('start', place.env)
    server.close()

    expect(code).toBe(1)
    expect(output).toMatch(new RegExp(`^palisade: Port ${place.port} \\(API\\) is taken\\. .*PALISADE_PORT.*\\n$`))
  })

  test('a data folder of another PostgreSQL version', async () => {
    const { env, data } = await newPlace()
    mkdirSync(join(data, 'postgres'))
    writeFileSync(join(data, 'postgres', 'PG_VERSION'), '15\n')

    const { code, output } = await script('start', env)

    expect(code).toBe(1)
    expect(output).toMatch(/^palisade: .* was made by PostgreSQL 15, this is 17\. .*npm run reset.*\n$/)
  })

  test('a variable that is not usable', async () => {
    const { env } = await newPlace()

    const { code, output } = await script('start', { ...env, PALISADE_PORT: 'eighty', PALISADE_REST_URL: 'nowhere' })

    expect(code).toBe(1)
    expect(output).toMatch(/^palisade: The environment is not usable\. PALISADE_PORT: .*PALISADE_REST_URL: .*\n$/)
  })

  test('reset of a folder that holds something else', async () => {
    const { env, data } = await newPlace()
    writeFileSync(join(data, 'thesis.odt'), 'years of work')

    const { code, output } = await script('reset', env)

    expect([code, existsSync(join(data, 'thesis.odt'))]).toEqual([1, true])
    expect(output).toContain('not ours (thesis.odt)')
  })

  test.each(['start', 'stop', 'status', 'reset', 'demo', 'check', 'db-diff', 'db-types'])(
    '%s explains itself with --help',
    async (name) => {
      expect(await script(name, process.env, ['--help'])).toMatchObject({
        code: 0,
        output: expect.stringContaining('Usage: npm'),
      })
    },
  )
})

describe('a stack', { timeout: 120_000 }, () => {
  test('prints a curl that works when pasted, and status prints what supabase status prints', async () => {
    const place = await newPlace()
    const { screen } = await start(place)

    const pasted = await promisify(execFile)('bash', ['-c', /^curl .*$/m.exec(screen)?.[0] ?? 'false'])
    const status = await script('status', place.env)

    expect(pasted.stdout).toContain('Palisade')
    expect(pasted.stdout.trim()).toMatch(/data: \[DONE\]$/)
    const names = status.output
      .trim()
      .split('\n')
      .map((line) => line.split('=')[0])
    expect(names).toEqual(
      expect.arrayContaining([
        'API_URL',
        'REST_URL',
        'FUNCTIONS_URL',
        'DB_URL',
        'MAILPIT_URL',
        'PUBLISHABLE_KEY',
        'SECRET_KEY',
        'CONSOLE_URL',
      ]),
    )
    expect(status.output).toMatch(/^[A-Z_]+=\S+$/m)
  })

  test('refuses a second start on its folder, and a second stack runs beside it', async () => {
    const [one, two] = [await newPlace(), await newPlace()]
    await start(one)

    const again = await script('start', { ...one.env, PALISADE_PORT: String(one.port + 100) })
    const { screen } = await start(two)

    expect(again.code).toBe(1)
    expect(again.output).toMatch(/already runs on .*npm stop.*PALISADE_DATA and PALISADE_PORT/)
    expect(screen).toContain(`http://127.0.0.1:${two.port}`)
  })

  test('leaves no process behind on Ctrl-C, and its data is there the next time', async () => {
    const place = await newPlace()
    const { child, screen, ended } = await start(place)
    const sql = postgres(dbUrl(screen), { max: 1 })
    await sql`create table private.kept as select 42 as answer`
    await sql.end()
    const postmaster = Number(readFileSync(join(place.data, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
    const { functionsPid } = JSON.parse(readFileSync(join(place.data, 'stack.json'), 'utf8'))

    child.kill('SIGINT')

    expect(await ended).toBe(0)
    expect([postmaster, functionsPid].map(alive)).toEqual([false, false])
    const next = await start(place)
    const again = postgres(dbUrl(next.screen), { max: 1 })
    expect(await again`select answer from private.kept`).toEqual([{ answer: 42 }])
    await again.end()
  })

  test('survives kill -9 of everything: what was committed is there the next time', async () => {
    const place = await newPlace()
    const { child, screen, ended } = await start(place)
    const sql = postgres(dbUrl(screen), { max: 1, onnotice: () => {} })
    await sql`create table private.kept as select 42 as answer`
    const postmaster = Number(readFileSync(join(place.data, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])

    child.kill('SIGKILL')
    process.kill(postmaster, 'SIGKILL')
    await ended
    await sql.end({ timeout: 0 }).catch(() => {})
    const next = await start(place)

    const again = postgres(dbUrl(next.screen), { max: 1 })
    expect(await again`select answer from private.kept`).toEqual([{ answer: 42 }])
    await again.end()
  })

  test('stop ends a stack and what a killed one left behind', async () => {
    const place = await newPlace()
    const { child, ended } = await start(place)
    const postmaster = Number(readFileSync(join(place.data, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
    child.kill('SIGKILL')
    await ended
    expect(alive(postmaster)).toBe(true)

    const { code, output } = await script('stop', place.env)

    expect([code, output, alive(postmaster)]).toEqual([0, 'Stopped.\n', false])
  })

  test('stop is content when the database dies another way while it waits', async () => {
    const place = await newPlace()
    const { child, ended } = await start(place)
    const postmaster = Number(readFileSync(join(place.data, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
    child.kill('SIGKILL')
    await ended
    process.kill(postmaster, 'SIGSTOP')

    const stopped = script('stop', place.env)
    await vi.waitUntil(() => isStopping(place), { timeout: 30_000 })
    process.kill(postmaster, 'SIGKILL')

    expect(await stopped).toEqual({ code: 0, output: 'Stopped.\n' })
  })
})

test('a data folder is none of git, under any name; a folder that is in use is left as it is', async () => {
  const { data, env } = await newPlace()
  const config = readConfig(env)
  claimDataFolder(config)
  dropState(config)
  const other = await newPlace()
  writeFileSync(join(other.data, 'notes.txt'), 'mine')
  claimDataFolder(readConfig(other.env))

  expect(readFileSync(join(data, '.gitignore'), 'utf8')).toBe('*\n')
  expect(existsSync(join(other.data, '.gitignore'))).toBe(false)
  expect(await script('reset', env)).toMatchObject({ code: 0, output: expect.stringContaining('Deleted') })
  expect(existsSync(data)).toBe(false)
})
