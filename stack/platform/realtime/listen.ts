/** A LISTEN that does not end: every second it sends itself a pulse, and when it hears none it connects anew. */
import postgres from 'postgres'

const pulseMs = 1_000
const silentMs = 3_000

type Options = {
  url: string
  channel: string
  heard(text: string): void
  /** After a gap; what was announced since then may not have been heard. A rejection is asked again. */
  back(since: Date): Promise<void>
  log(line: string): void
}

/** Resolves when it listens; answers how to stop. */
export async function listenAlways({ url, channel, heard, back, log }: Options): Promise<() => Promise<void>> {
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
