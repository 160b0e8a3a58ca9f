/**
 * A pool of connections that is thrown away as a whole. The driver (postgres.js 3.4.9) gives no connection back that broke inside a
 * transaction: it tries to write to it once more, which nobody can catch, and whatever uses it later waits for its timeout.
 */
import type postgres from 'postgres'

export type Pool = { sql: postgres.Sql; renew(): void }

export function openPool(open: () => postgres.Sql): Pool {
  let current = open()
  const sql = new Proxy(current, {
    apply: (_first, self, args) => Reflect.apply(current, self, args),
    get: (_first, name) => Reflect.get(current, name),
  })
  const renew = () => {
    const old = current
    current = open()
    // What still runs there was lost with its connection.
    void old.end({ timeout: 0 })
  }
  return { sql, renew }
}

/** Whether an exception that nobody caught is that write of the driver's, after which the pools have to be renewed. */
export const isLostWrite = (error: unknown): boolean =>
  error instanceof TypeError && /\bnextWrite \(.*[/\\]postgres[/\\]src[/\\]connection\.js:/.test(error.stack ?? '')
