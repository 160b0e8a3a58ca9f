/** Which function answers, in a worker of its own. Nothing here knows the Edge Runtime, so that it is tested without. */

/** @internal For tests: a runtime of theirs. */
export type Worker = { fetch(request: Request): Promise<Response> }
export type WorkerOptions = {
  servicePath: string
  /** As in hosted projects. */
  memoryLimitMb: number
  workerTimeoutMs: number
  cpuTimeSoftLimitMs: number
  cpuTimeHardLimitMs: number
  envVars: [name: string, value: string][]
  /** Read here by the runtime of today, and there by that of before. */
  context: { importMapPath: string }
  importMapPath: string
}
export type World = {
  /** The folder of the functions; each is a folder in it. */
  folder: string
  names: ReadonlySet<string>
  environment: Record<string, string>
  /** The worker of a folder: the one that runs, or a new one. */
  createWorker(options: WorkerOptions): Promise<Worker>
  log(line: Record<string, unknown>): void
}

/** What the machine says of itself is no function's business. */
const ofTheMachine = new Set(['HOME', 'HOSTNAME', 'PATH', 'PWD'])

/** Halfway a worker takes no more requests, and then has the other half to end those that it has. */
const workerTimeoutMs = 30 * 60_000

export function createRouter({ folder, names, environment, createWorker, log }: World) {
  const envVars = Object.entries(environment).filter(([name]) => !ofTheMachine.has(name))
  const importMapPath = `${folder}/deno.json`
  const optionsOf = (name: string): WorkerOptions => ({
    servicePath: `${folder}/${name}`,
    memoryLimitMb: 256,
    workerTimeoutMs,
    // None. They count all requests of a worker together, and at the end of 2 s all of them would be cut; nobody else's code runs here.
    cpuTimeSoftLimitMs: 0,
    cpuTimeHardLimitMs: 0,
    envVars,
    context: { importMapPath },
    importMapPath,
  })

  /** A worker that retires between being found and being asked has seen nothing of the request. */
  async function answer(name: string, request: Request, attempts: number): Promise<Response> {
    const worker = await createWorker(optionsOf(name))
    try {
      return await worker.fetch(request)
    } catch (error) {
      if (attempts > 1 && error instanceof Error && error.name === 'WorkerAlreadyRetired')
        return answer(name, request, attempts - 1)
      throw error
    }
  }

  return async (request: Request): Promise<Response> => {
    const { pathname } = new URL(request.url)
    if (pathname === '/_health') return Response.json({ ok: true })
    const [, name = ''] = pathname.split('/')
    if (!names.has(name)) return failure(404, 'not_found', 'There is no such function.')
    try {
      return await answer(name, request, 3)
    } catch (error) {
      log({ level: 'error', message: `function ${name} does not answer`, cause: String(error) })
      return failure(503, 'service_unavailable', 'The service does not answer at the moment.')
    }
  }
}

/** In the shapes of supabase-js and of OpenAI's clients at once, as the proxy has it. */
function failure(status: number, code: string, message: string): Response {
  const retry = { 'retry-after': '5', 'access-control-expose-headers': 'retry-after' }
  const type = status < 500 ? 'invalid_request_error' : 'server_error'
  const headers = { 'access-control-allow-origin': '*', ...(status < 500 ? {} : retry) }
  return Response.json({ code, message, error: { message, type, param: null, code } }, { status, headers })
}
