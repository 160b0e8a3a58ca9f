/**
 * Serves a folder of functions in Deno, as Supabase's Edge Runtime does: `/NAME/*` goes to the `fetch` of NAME/index.ts.
 * The folder and the port are its arguments. All functions share this process, so nothing that one of them does may end it.
 */
import process from 'node:process'

type Handler = (request: Request) => Response | Promise<Response>
type Log = (line: Record<string, unknown>) => void

const graceMs = 5_000
/** Of a function that does not start; one that is mended starts at once. */
const retryAfterSeconds = '5'

/** Answers for every function. `load` imports a function by its name and gives undefined when there is none. */
export function createRouter(load: (name: string) => Promise<Handler> | undefined, log: Log): Handler {
  const loaded = new Map<string, Promise<Handler>>()
  const handlerOf = (name: string) => {
    const handler = loaded.get(name) ?? load(name)
    if (handler) loaded.set(name, handler)
    return handler
  }
  return async (request) => {
    const { pathname } = new URL(request.url)
    if (pathname === '/_health') return Response.json({ ok: true, pid: process.pid })
    const [, name = ''] = pathname.split('/')
    const handler = /^[a-z][a-z0-9-]*$/.test(name) ? handlerOf(name) : undefined
    if (!handler) return failure(404, 'not_found', 'There is no such function.')
    try {
      return await answer(name, handler, request, log)
    } catch (error) {
      log({ level: 'error', message: `function ${name} failed`, cause: textOf(error) })
      return failure(500, 'internal', 'Something went wrong on our side.')
    }
  }
}

async function answer(name: string, handler: Promise<Handler>, request: Request, log: Log): Promise<Response> {
  let fetch: Handler
  try {
    fetch = await handler
  } catch (error) {
    log({ level: 'error', message: `function ${name} does not start`, cause: textOf(error) })
    const refusal = failure(503, 'internal', `The function ${name} does not start. The log of the functions says why.`)
    refusal.headers.set('retry-after', retryAfterSeconds)
    return refusal
  }
  return await fetch(request)
}

const failure = (status: number, code: string, message: string) =>
  Response.json(
    { error: { message, type: status < 500 ? 'invalid_request_error' : 'server_error', param: null, code } },
    { status },
  )

const textOf = (error: unknown) => (error instanceof Error ? (error.stack ?? error.message) : String(error))

/** Keeps what runs after the answer, so that a shutdown can wait for it. */
export function createBackground(log: Log) {
  const running = new Set<Promise<unknown>>()
  const waitUntil = (work: Promise<unknown>) => {
    running.add(work)
    const forget = () => running.delete(work)
    work.then(forget, (error: unknown) => {
      forget()
      log({ level: 'error', message: 'work after an answer failed', cause: textOf(error) })
    })
  }
  const drain = async () => {
    while (running.size > 0) await Promise.allSettled(running)
  }
  return { waitUntil, drain }
}

async function importFunction(folder: URL, name: string): Promise<Handler> {
  const module: unknown = await import(new URL(`${name}/index.ts`, folder).href)
  const exported = typeof module === 'object' && module !== null && 'default' in module ? module.default : undefined
  if (typeof exported !== 'object' || exported === null || !('fetch' in exported))
    throw new Error('it exports no default { fetch }')
  const { fetch } = exported
  if (typeof fetch !== 'function') throw new Error('its fetch is not a function')
  return async (request) => {
    const response: unknown = await fetch.call(exported, request)
    if (!(response instanceof Response)) throw new Error('it did not answer with a Response')
    return response
  }
}

/** Listens until SIGTERM, or until stdin ends: the supervisor holds the other end, so its death is noticed, too. */
async function main(): Promise<void> {
  const { readdirSync } = await import('node:fs')
  const { pathToFileURL } = await import('node:url')
  const [path = '', port = ''] = process.argv.slice(2)
  const folder = pathToFileURL(`${path}/`)
  const log: Log = (line) => console.log(JSON.stringify(line))
  const background = createBackground(log)
  Object.assign(globalThis, { EdgeRuntime: { waitUntil: background.waitUntil } })
  for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(event, (error: unknown) => log({ level: 'error', message: event, cause: textOf(error) }))
  }

  const exists = (name: string) => readdirSync(folder).includes(name)
  const router = createRouter((name) => (exists(name) ? importFunction(folder, name) : undefined), log)
  const server = Deno.serve({ hostname: '127.0.0.1', port: Number(port), onListen: () => {} }, router)

  let stopping = false
  const stop = async () => {
    if (stopping) return
    stopping = true
    const late = new Promise<void>((done) => setTimeout(done, graceMs))
    await Promise.race([server.shutdown().then(background.drain), late])
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.stdin.on('end', stop).resume()
}

if (import.meta.main) await main()
