/**
 * Brings committed rows of realtime.messages to those who listen. A trigger announces each row's id with NOTIFY; what was
 * announced while the connection was away is looked up when it is back.
 */
import postgres from 'postgres'
import { z } from 'zod'
import type { Broadcast } from './frames.ts'
import type { Topic } from './topics.ts'

/** A transaction that began so long before the connection broke, and ended while it was away, is still found. */
const lookBackMs = 120_000
const batch = 100
const cleanMs = 3_600_000

type Row = { id: string; topic: string; event: string; payload: unknown; private: boolean }
type Options = {
  /** Of role supabase_realtime_admin, as `sql`. */
  url: string
  sql: postgres.Sql
  messageBytes: number
  deliver(topic: Topic, broadcast: Broadcast): void
  log(line: string): void
}

type Delivery = { clean(): Promise<unknown>; stop(): Promise<void> }

/** Resolves when messages are heard. */
export async function startDelivery(options: Options): Promise<Delivery> {
  const { url, sql, log } = options
  const announce = createQueue(options)
  const heard = (text: string) => {
    if (z.uuid().safeParse(text).success) announce([text])
  }
  const back = async (since: Date) => announce(await idsSince(sql, since.getTime() - lookBackMs))
  const stop = await listenAlways({ url, channel: 'realtime_messages', heard, back, log })
  const clean = () => deleteOld(sql)
  const timer = setInterval(() => void clean().catch(() => {}), cleanMs)
  return {
    clean,
    async stop() {
      clearInterval(timer)
      await stop()
    },
  }
}

/** Takes ids and delivers each once, in their order. What cannot be read now is tried again. */
function createQueue({ sql, messageBytes, deliver, log }: Options): (ids: string[]) => void {
  const seen = new Map<string, number>()
  const waiting: string[] = []
  let isWorking = false

  const hand = ({ id, topic, private: isPrivate, event, payload }: Row) => {
    if (Buffer.byteLength(JSON.stringify(payload) ?? '') <= messageBytes) {
      deliver({ name: topic, isPrivate }, { type: 'broadcast', event, payload, meta: { id } })
    } else log(`realtime: message ${id} is larger than ${messageBytes} bytes and is not delivered`)
  }
  const work = async () => {
    if (isWorking) return
    isWorking = true
    try {
      while (waiting.length > 0) {
        const ids = waiting.slice(0, batch)
        for (const row of await readRows(sql, ids)) hand(row)
        waiting.splice(0, ids.length)
      }
    } catch (error) {
      log(`realtime: messages wait: ${error instanceof Error ? error.message : error}`)
      setTimeout(work, 200).unref()
    } finally {
      isWorking = false
    }
  }
  return (ids) => {
    for (const id of ids) {
      if (seen.has(id)) continue
      seen.set(id, Date.now())
      waiting.push(id)
    }
    forget(seen)
    void work()
  }
}

/** Twice the look-back: a gap is noticed within seconds, and looks no further back than that. */
function forget(seen: Map<string, number>): void {
  for (const [id, at] of seen) {
    if (at > Date.now() - 2 * lookBackMs) return
    seen.delete(id)
  }
}

const readRows = (sql: postgres.Sql, ids: string[]) => sql<Row[]>`
  select m.id, m.topic, coalesce(m.event, '') as event, m.payload, coalesce(m.private, false) as private
  from unnest(${ids}::uuid[]) with ordinality announced (id, position)
    join realtime.messages m on m.id = announced.id
  where m.extension = 'broadcast' and m.binary_payload is null
  order by announced.position`

async function idsSince(sql: postgres.Sql, time: number): Promise<string[]> {
  const rows = await sql<{ id: string }[]>`
    select id from realtime.messages
    where inserted_at > ${new Date(time).toISOString()}::timestamptz at time zone 'UTC' order by inserted_at`
  return rows.map(({ id }) => id)
}

/** Hosted drops a day's partition after three days. */
const deleteOld = (sql: postgres.Sql) =>
  sql`delete from realtime.messages where inserted_at < now() at time zone 'UTC' - interval '3 days'`

const pulseMs = 1_000
const silentMs = 3_000

type ListenOptions = {
  url: string
  channel: string
  heard(text: string): void
  /** After a gap; what was announced since then may not have been heard. A rejection is asked again. */
  back(since: Date): Promise<void>
  log(line: string): void
}

/**
 * A LISTEN that does not end: every second it sends itself a pulse, and when it hears none it connects anew. Resolves when
 * it listens; answers how to stop.
 */
async function listenAlways({ url, channel, heard, back, log }: ListenOptions): Promise<() => Promise<void>> {
  let heardAt = Date.now()
  let isFirst = true
  let isAway = false
  let connection = connect(url)
  let beating = false

  const listen = () =>
    connection.listen(
      channel,
      (text) => {
        heardAt = Date.now()
        if (text !== '') heard(text)
      },
      // The driver calls it again whenever it had to reconnect.
      () => void returned(),
    )
  const returned = async () => {
    if (isFirst) {
      isFirst = false
      return
    }
    const since = heardAt
    heardAt = Date.now()
    await back(new Date(since)).then(
      () => {
        isAway = false
      },
      () => {
        heardAt = since
      },
    )
  }
  const beat = async () => {
    if (Date.now() - heardAt > silentMs) {
      if (!isAway) log('realtime: the database is silent; connecting again')
      isAway = true
      await connection.end({ timeout: 0 })
      connection = connect(url)
      await listen()
    }
    await connection.notify(channel, '')
  }

  await listen()
  const timer = setInterval(() => {
    if (beating) return
    beating = true
    beat()
      .catch(() => {}) // Silence says it, too.
      .finally(() => {
        beating = false
      })
  }, pulseMs)
  return async () => {
    clearInterval(timer)
    await connection.end({ timeout: 0 })
  }
}

const connect = (url: string) =>
  postgres(url, { max: 1, onnotice: () => {}, backoff: () => 0.2, connect_timeout: 3, idle_timeout: 0 })
