/** npm run keys:rotate: new keys for the credential vault, and everything sealed anew under them. */
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import type postgres from 'postgres'
import { z } from 'zod'
import { StackError } from '../stack/config.ts'
import { loadKeys } from '../stack/keys.ts'
import { localDbUrl } from '../stack/platform/bootstrap.ts'
import { findStack } from '../stack/state.ts'
import { connectDatabase } from './shared/connect-database.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run keys:rotate [-- --continue] [--batch N] [--scheme aead-det|A256CBC-HS512]

Makes new data keys and moves every credential to them, in batches, while everybody goes on reading and writing. A job
does the same every quarter. It can be interrupted at any time, and run again with --continue to go on.

--continue   make no new keys; finish what a rotation before has begun
--batch N    credentials in one transaction, 1 to 1000 (default 100)
--scheme S   how new keys seal from now on: aead-det (pgsodium) or A256CBC-HS512 (pgcrypto, the key in Vault)

Database: DB_URL as role postgres, otherwise the local stack that runs.
Exit code: 0 everything is under the current keys (an older one is retired as soon as nothing uses it), 1 some credentials
cannot be opened (each is a critical security event), or it could not start.`

const answer = z.object({ resealed: z.number(), left: z.number(), unreadable: z.number() })

await runScript(help, async () => {
  const { values } = parseArgs({
    options: { continue: { type: 'boolean' }, batch: { type: 'string', default: '100' }, scheme: { type: 'string' } },
  })
  const batch = Number(values.batch)
  if (!Number.isInteger(batch) || batch < 1 || batch > 1_000)
    throw new StackError('--batch is a number from 1 to 1000.')
  const { scheme } = values
  if (scheme !== undefined && scheme !== 'aead-det' && scheme !== 'A256CBC-HS512')
    throw new StackError('--scheme is aead-det or A256CBC-HS512.')
  const sql = connectDatabase(await databaseUrl(), { max: 1 })
  try {
    if (scheme)
      await sql`update private.settings set value = to_jsonb(${scheme}::text) where key = 'credentials.scheme'`
    if (!values.continue) await sql`select private.rotate_credential_keys()`
    return await moveEverything(sql, batch)
  } finally {
    await sql.end()
  }
})

async function moveEverything(sql: postgres.Sql, batch: number): Promise<number> {
  const bar = new SingleBar({
    format: '{bar} {percentage}% | {value} of {total} | {eta_formatted} left',
    stream: process.stderr,
  })
  let moved = 0
  try {
    for (;;) {
      const [row] = await sql`select private.reseal_credentials(${batch}) as done`
      const { resealed, left, unreadable } = answer.parse(row?.done)
      moved += resealed
      if (!bar.isActive && process.stderr.isTTY) bar.start(moved + left, moved)
      bar.setTotal(moved + left)
      bar.update(moved)
      if (!process.stderr.isTTY) console.error(`… ${moved} moved, ${left} left`)
      if (left > 0) {
        // Somebody holds what is left at this moment: no hurry.
        if (resealed === 0) await new Promise((done) => setTimeout(done, 500))
        continue
      }
      bar.stop()
      const [ended] = await sql`select private.keep_credentials_sealed() ->> 'retired' as retired`
      console.log(`${moved} credentials moved, ${ended?.retired} older keys retired.`)
      if (unreadable > 0)
        console.error(`${unreadable} credentials cannot be opened: see security_events, type credential_unreadable.`)
      return unreadable > 0 ? 1 : 0
    }
  } finally {
    bar.stop()
  }
}

async function databaseUrl(): Promise<string> {
  if (process.env.DB_URL) return process.env.DB_URL
  const { config, state } = findStack()
  if (!state) throw new StackError('No stack runs. Start one with `npm start`, or set DB_URL.')
  return localDbUrl(config.ports.db, await loadKeys(config.files.keys), 'postgres')
}
