/** start, status, stop, reset as a person meets them, on free ports and in folders of the tests' own. */
import { execFile, spawn } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readConfig, root } from '../../stack/config.ts'
import { loadKeys } from '../../stack/keys.ts'
import { noteProcess } from '../../stack/platform/processes.ts'
import { claimDataFolder, dropState, findStack, keepState, readState } from '../../stack/state.ts'
import { runScript } from '../support/run-script.ts'
import { newPlace, type Place, remove, type Started, start } from '../support/start-stack.ts'

type Ended = { code: number; output: string }
type Stack = Started & { place: Place }

const spawnScript = (name: string, env: NodeJS.ProcessEnv, args: string[] = []): Promise<Ended> =>
  promisify(execFile)(process.execPath, [join('scripts', `${name}.ts`), ...args], { cwd: root, env }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      output: error.stdout + error.stderr,
    }),
  )

const script = (name: string, env: NodeJS.ProcessEnv, args: string[] = []): Promise<Ended> =>
  runScript(name, args, env).then(({ code, output }) => ({ code, output }))

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

/** A place for one test. */
async function usedPlace(): Promise<Place> {
  const place = await newPlace()
  onTestFinished(() => remove(place))
  return place
}

test('a command that is interrupted takes its database along', async () => {
  const home = await mkdtemp(join(tmpdir(), 'palisade-commands-'))
  onTestFinished(() => rm(home, { recursive: true, force: true }))
  const args = ['scripts/db-diff.ts', 'never_written']
  const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, TMPDIR: home }, stdio: 'ignore' })
  const ended = new Promise((resolve) => child.once('exit', (_code, signal) => resolve(signal)))
  const pidFile = () => {
    const [scratch] = readdirSync(home).filter((name) => name.startsWith('scratch-cluster-'))
    const file = join(home, scratch ?? '-', 'postgres', 'postmaster.pid')
    return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : 0
  }
  await expect.poll(pidFile).toBeGreaterThan(0)
  const pid = pidFile()

  child.kill('SIGTERM')

  expect(await ended).toBe('SIGTERM')
  expect(alive(pid)).toBe(false)
  expect(readdirSync(home).filter((name) => name.startsWith('scratch-cluster-'))).toEqual([])
})

describe('refusals are one clear line that says what to do', () => {
  test('status when nothing runs', async () => {
    const { env } = await usedPlace()

    const { code, output } = await script('status', env)

    expect(code).toBe(1)
    expect(output).toMatch(/^palisade: Nothing runs on .*Start it with "npm start"\.\n$/)
  })

  test('a taken port', async () => {
    const place = await usedPlace()
    const server = await hold(place.port)

    const { code, output } = await spawnScript('start', place.env)
    server.close()

    expect(code).toBe(1)
    expect(output).toMatch(new RegExp(`^palisade: Port ${place.port} \\(API\\) is taken\\. .*PALISADE_PORT.*\\n$`))
  })

  test('a data folder of another PostgreSQL version', async () => {
    const { env, data } = await usedPlace()
    mkdirSync(join(data, 'postgres'))
    writeFileSync(join(data, 'postgres', 'PG_VERSION'), '15\n')

    const { code, output } = await spawnScript('start', env)

    expect(code).toBe(1)
    expect(output).toMatch(/^palisade: .* was made by PostgreSQL 15, this is 17\. .*npm run reset.*\n$/)
  })

  test('a variable that is not usable', async () => {
    const { env } = await usedPlace()

    const { code, output } = await spawnScript('start', {
      ...env,
      PALISADE_PORT: 'eighty',
      PALISADE_REST_URL: 'nowhere',
    })

    expect(code).toBe(1)
    expect(output).toBe(
      'palisade: The environment is not usable. PALISADE_PORT: must be a whole number from 1024 to 65500; PALISADE_REST_URL: must be a URL. See .env.example.\n',
    )
  })

  test.each(['start', 'stop', 'status', 'reset', 'check', 'db-baseline', 'db-types', 'demo'])(
    'a flag that %s does not know, which does nothing at all',
    async (name) => {
      const { env, data } = await usedPlace()
      writeFileSync(join(data, 'keys.json'), '{}')

      const { code, output } = await script(name, env, ['--dry-run'])

      expect([code, output]).toEqual([1, "palisade: Unknown option '--dry-run'. See --help.\n"])
      expect(readdirSync(data)).toEqual(['keys.json'])
    },
  )

  test('a flag that vitest does not know, from a command that hands its flags on', async () => {
    const { code, output } = await spawnScript('test-long', process.env, ['--nonsense'])

    expect(code).toBe(1)
    expect(output).toMatch(/\npalisade: vitest does not take this: Unknown option `--nonsense`\. See --help\.\n$/)
  })

  test('reset of a folder that holds something else', async () => {
    const { env, data } = await usedPlace()
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
  const homes: Partial<Record<'one' | 'two', Stack>> = {}
  afterAll(async () => {
    for (const { place, child } of Object.values(homes)) await remove(place, child)
  })

  /** The stack of that name, started when it does not run: its tests share a folder, in which each leaves it stopped or running. */
  async function running(name: 'one' | 'two'): Promise<Stack> {
    const home = homes[name]
    if (home && home.child.exitCode === null && home.child.signalCode === null) return home
    const place = home?.place ?? (await newPlace())
    // Whatever the shell of a person says, and whether or not this machine has it.
    Object.assign(place.env, { LC_ALL: 'xx_XX.UTF-8', LANG: 'xx_XX.UTF-8' })
    homes[name] = { place, ...(await start(place)) }
    return homes[name]
  }
  const postmasterOf = ({ data }: Place) =>
    Number(readFileSync(join(data, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
  const functionsOf = ({ env }: Place) => readState(readConfig(env))?.functions[0]?.pid ?? 0
  /** Kills a stack; its functions do not notice, since they are halted. Answers what is left. */
  async function killed({
    place,
    child,
    ended,
  }: Stack): Promise<{ postmaster: number; functions: number; ends: string }> {
    const [postmaster, functions] = [postmasterOf(place), functionsOf(place)]
    process.kill(functions, 'SIGSTOP')
    child.kill('SIGKILL')
    await ended
    expect([postmaster, functions].map(alive)).toEqual([true, true])
    const ends = `Ended what a killed stack left behind: functions (${functions}), PostgreSQL (${postmaster}).\n`
    return { postmaster, functions, ends }
  }
  const keep = async ({ screen }: Stack, name: string) => {
    const sql = postgres(dbUrl(screen), { max: 1, onnotice: () => {} })
    await sql`create table ${sql(`private.${name}`)} as select 42 as answer`
    return sql
  }
  const kept = async ({ screen }: Stack, name: string) => {
    const sql = postgres(dbUrl(screen), { max: 1 })
    const rows = await sql`select answer from ${sql(`private.${name}`)}`
    await sql.end()
    return rows
  }

  test('prints a curl that works when pasted, and status prints what supabase status prints', async () => {
    const { place, screen } = await running('one')

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
    const one = await running('one')

    const again = await spawnScript('start', { ...one.place.env, PALISADE_PORT: String(one.place.port + 100) })
    const two = await running('two')

    expect(again.code).toBe(1)
    expect(again.output).toMatch(/already runs on .*npm stop.*PALISADE_DATA and PALISADE_PORT/)
    expect(two.screen).toContain(`http://127.0.0.1:${two.place.port}`)
    expect(await script('status', one.place.env)).toMatchObject({ code: 0 })
  })

  test('leaves no process behind on Ctrl-C, and its data is there the next time', async () => {
    const stack = await running('one')
    await (await keep(stack, 'stopped')).end()
    const postmaster = postmasterOf(stack.place)
    const functions = functionsOf(stack.place)

    stack.child.kill('SIGINT')

    expect(await stack.ended).toBe(0)
    expect([postmaster, functions].map(alive)).toEqual([false, false])
    expect(await kept(await running('one'), 'stopped')).toEqual([{ answer: 42 }])
  })

  test('survives kill -9 of everything: what was committed is there the next time', async () => {
    const stack = await running('one')
    const sql = await keep(stack, 'killed')

    stack.child.kill('SIGKILL')
    process.kill(postmasterOf(stack.place), 'SIGKILL')
    await stack.ended
    await sql.end({ timeout: 0 }).catch(() => {})

    expect(await kept(await running('one'), 'killed')).toEqual([{ answer: 42 }])
  })

  test('after a kill -9 status says what is left, and stop ends it', async () => {
    const stack = await running('one')
    const { postmaster, functions, ends } = await killed(stack)

    const status = await script('status', stack.place.env)
    const stop = await script('stop', stack.place.env)

    expect(status).toMatchObject({ code: 1 })
    expect(status.output).toMatch(
      new RegExp(
        `^palisade: Nothing runs on .* left functions \\(${functions}\\), PostgreSQL \\(${postmaster}\\) behind.*\\n$`,
      ),
    )
    expect([stop.code, stop.output, ...[postmaster, functions].map(alive)]).toEqual([0, ends, false, false])
  })

  test('after a kill -9 the next start ends what is left, and says so', async () => {
    const { postmaster, functions, ends } = await killed(await running('one'))

    const { screen, place } = await running('one')

    expect(screen).toContain(`… ${ends}`)
    expect([postmaster, functions].map(alive)).toEqual([false, false])
    expect(await script('status', place.env)).toMatchObject({ code: 0 })
  })

  test('stop is content when the database dies another way while it waits', async () => {
    const { place, child, ended } = await running('two')
    const postmaster = postmasterOf(place)
    child.kill('SIGKILL')
    await ended
    process.kill(postmaster, 'SIGSTOP')

    // In a process of its own: it waits without giving way.
    const stopped = spawnScript('stop', place.env)
    await vi.waitUntil(() => isStopping(place), { timeout: 30_000 })
    process.kill(postmaster, 'SIGKILL')

    expect(await stopped).toMatchObject({ code: 0, output: expect.stringContaining(`PostgreSQL (${postmaster})`) })
  })

  test('after a kill -9 reset ends what is left before it deletes', async () => {
    const stack = await running('two')
    const { postmaster, functions, ends } = await killed(stack)
    writeFileSync(join(stack.place.data, 'mails.ndjson.new'), 'cut off')

    const { code, output } = await script('reset', stack.place.env)

    expect([code, output]).toEqual([0, `${ends}Deleted ${stack.place.data}.\n`])
    expect([postmaster, functions].map(alive)).toEqual([false, false])
    expect(existsSync(stack.place.data)).toBe(false)
  })
})

test('a note that cannot be written ends nothing, is said once, and is written when it is possible again', async () => {
  const { env } = await usedPlace()
  const config = readConfig(env)
  claimDataFolder(config)
  const logs: string[] = []
  // What a full disk does to a write, a folder in its place does, too.
  const blocked = `${config.files.state}.${process.pid}.new`
  mkdirSync(blocked)
  const note = keepState(
    config,
    () => [process.pid, process.ppid],
    (line) => logs.push(line),
  )
  onTestFinished(() => note.stop())

  note.ready()

  expect(logs).toEqual([expect.stringMatching(/^stack: EISDIR.*it is tried again$/)])
  rmdirSync(blocked)
  await expect
    .poll(() => readState(config))
    .toMatchObject({ ready: true, functions: [{ pid: process.pid }, { pid: process.ppid }] })
  dropState(config)
})

test("a stranger's process that has the number of one of ours is left alone", async () => {
  const { env, data } = await usedPlace()
  const config = readConfig(env)
  // One that only looks like functions, one that only has their number.
  const lookAlike = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e6)', 'functions-server.ts'], {
    stdio: 'ignore',
  })
  const other = spawn('sleep', ['1000'], { stdio: 'ignore' })
  onTestFinished(() => void [lookAlike, other].map((child) => child.kill('SIGKILL')))
  const [one, two] = [lookAlike, other].map(({ pid = 0 }) => noteProcess(pid) ?? { pid, started: '' })
  const functions = [{ ...one, started: 'before the machine started' }, two]
  writeFileSync(config.files.state, JSON.stringify({ ...two, started: '1', ready: true, functions }))
  mkdirSync(join(data, 'postgres'))
  writeFileSync(join(data, 'postgres', 'postmaster.pid'), `${two?.pid}\n${join(data, 'postgres')}\n`)

  const { code, output } = await script('stop', env)

  expect([code, output]).toEqual([0, `Nothing runs on ${data}.\n`])
  expect([lookAlike, other].map(({ pid = 0 }) => alive(pid))).toEqual([true, true])
})

test('a stack is found at the port that it has, from a shell that does not know it, and at no other', async () => {
  const { env, port } = await usedPlace()
  const child = spawn('sleep', ['1000'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const own = noteProcess(child.pid ?? 0)
  writeFileSync(readConfig(env).files.state, JSON.stringify({ ...own, port, ready: true, functions: [] }))
  const { PALISADE_PORT: _, ...unknowing } = env

  const { config, state } = findStack(unknowing)
  const other = await script('status', { ...env, PALISADE_PORT: String(port + 100) })

  expect([config.urls.api, state?.pid]).toEqual([`http://127.0.0.1:${port}`, child.pid])
  expect([other.code, other.output]).toEqual([1, expect.stringContaining(`Nothing runs on port ${port + 100}`)])
})

test('whoever reads the state while it is written finds it whole', async () => {
  const { env } = await usedPlace()
  const config = readConfig(env)
  claimDataFolder(config)
  const reader = openSync(config.files.state, 'r')

  const note = keepState(
    config,
    () => [],
    () => {},
  )
  note.ready()
  note.stop()

  expect(JSON.parse(readFileSync(reader, 'utf8'))).toMatchObject({ pid: process.pid, ready: false })
  closeSync(reader)
  expect(JSON.parse(readFileSync(config.files.state, 'utf8'))).toMatchObject({ ready: true })
  expect(readdirSync(config.data).filter((name) => name.endsWith('.new'))).toEqual([])
  dropState(config)
})

describe('a data folder', () => {
  const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)

  test('is made for its owner alone, also when the keys are the first in it', async () => {
    const { data, env } = await usedPlace()
    const claimed = readConfig({ ...env, PALISADE_DATA: join(data, 'claimed') })
    const keyed = readConfig({ ...env, PALISADE_DATA: join(data, 'keyed') })

    claimDataFolder(claimed)
    await loadKeys(keyed.files.keys)

    expect([modeOf(claimed.data), modeOf(keyed.data), modeOf(keyed.files.keys)]).toEqual(['700', '700', '600'])
  })

  test.each([0o755, 0o710, 0o704])(
    'that others may enter (%i) is refused, in words that close it, and not touched',
    async (mode) => {
      const { data, env } = await usedPlace()
      chmodSync(data, mode)

      expect(() => claimDataFolder(readConfig(env))).toThrow(`chmod 700 ${data}`)
      expect(readdirSync(data)).toEqual([])
      chmodSync(data, 0o700)
      claimDataFolder(readConfig(env))
      expect(existsSync(readConfig(env).files.state)).toBe(true)
    },
  )
})

test('a data folder is none of git, under any name; a folder that is in use is left as it is', async () => {
  const { data, env } = await usedPlace()
  const config = readConfig(env)
  claimDataFolder(config)
  dropState(config)
  const other = await usedPlace()
  writeFileSync(join(other.data, 'notes.txt'), 'mine')
  claimDataFolder(readConfig(other.env))

  expect(readFileSync(join(data, '.gitignore'), 'utf8')).toBe('*\n')
  expect(existsSync(join(other.data, '.gitignore'))).toBe(false)
  expect(await script('reset', env)).toMatchObject({ code: 0, output: expect.stringContaining('Deleted') })
  expect(existsSync(data)).toBe(false)
})
