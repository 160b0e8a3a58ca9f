/** Sends what lies in net.http_request_queue. A request that waits for its answer holds up neither the others nor any job. */
import type { Sql } from 'postgres'

/** pg_net's pg_net.batch_size. */
const mostAtOnce = 200

type NetRequest = {
  id: string
  method: string
  url: string
  headers: Record<string, string> | null
  body: Buffer | null
  timeout_milliseconds: number
}

type Answer = { status: number; type: string | null; headers: Record<string, string>; content: string }
type Failure = { error: string; timedOut: boolean }

export function createSender(admin: Sql, log: (line: string) => void) {
  const stopped = new AbortController()
  let onTheWay = 0

  const answer = async (request: NetRequest): Promise<Answer | Failure> => {
    try {
      const response = await fetch(request.url, {
        method: request.method,
        headers: request.headers ?? {},
        body: request.body ? new Uint8Array(request.body) : null,
        signal: AbortSignal.any([stopped.signal, AbortSignal.timeout(request.timeout_milliseconds)]),
      })
      const headers = Object.fromEntries(response.headers)
      return {
        status: response.status,
        type: response.headers.get('content-type'),
        headers,
        content: await response.text(),
      }
    } catch (error) {
      const timedOut = error instanceof Error && error.name === 'TimeoutError'
      return { error: messageOf(error), timedOut }
    }
  }
  const send = async (request: NetRequest) => {
    const got = await answer(request)
    if (stopped.signal.aborted) return
    await ('error' in got
      ? admin`
          insert into net._http_response (id, timed_out, error_msg) values (${request.id}, ${got.timedOut}, ${got.error})`
      : admin`
          insert into net._http_response (id, status_code, content_type, headers, content, timed_out)
          values (${request.id}, ${got.status}, ${got.type}, ${admin.json(got.headers)}, ${got.content}, false)`)
  }

  return {
    /** Takes what is queued and lets it go; resolves when it is taken. */
    async send(): Promise<void> {
      const [there] = await admin`select to_regclass('net.http_request_queue') is not null as net`
      if (!there?.net) return
      const requests = await admin<NetRequest[]>`
        delete from net.http_request_queue where id in (
          select id from net.http_request_queue order by id limit ${mostAtOnce - onTheWay} for update skip locked)
        returning id::text, method::text, url, headers, body, timeout_milliseconds`
      for (const request of requests) {
        onTheWay += 1
        send(request)
          .catch((error: unknown) => log(`jobs: the answer to request ${request.id} is lost: ${messageOf(error)}`))
          .finally(() => {
            onTheWay -= 1
          })
      }
      await admin`delete from net._http_response where created < now() - interval '6 hours'`
    },
    stop: (): void => stopped.abort(),
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))
