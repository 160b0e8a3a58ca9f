/** Turns an empty PostgreSQL into what hosted Supabase gives a new project. */
import { readFileSync } from 'node:fs'
import postgres from 'postgres'
import { PlatformError } from './config.ts'
import type { DatabaseRole, PlatformKeys } from './keys.ts'

/** The connection URL of a role on the local cluster. */
export function localDbUrl(port: number, keys: PlatformKeys, role: DatabaseRole, database = 'postgres'): string {
  return `postgresql://${role}:${keys.passwords[role]}@127.0.0.1:${port}/${database}`
}

/** Services whose tables somebody else makes: the real ones in the place of ours. */
type ForeignServices = { auth: boolean; storage: boolean }

/** All SQL of the bootstrap in order: roles and schemas, the services' tables, the guard. PostgreSQL 15 understands it, too. */
function bootstrapSql(foreign: ForeignServices): string {
  const read = (name: string) => readFileSync(new URL(`bootstrap/${name}.sql`, import.meta.url), 'utf8')
  return [
    read('foundation'),
    read('realtime'),
    ...(foreign.auth ? [] : [read('auth')]),
    ...(foreign.storage ? [] : [read('storage')]),
    read('guard'),
  ].join('\n')
}

/** Bootstraps database `postgres` in one transaction: a crash half-way leaves nothing, and the next start tries again. */
export async function bootstrap(
  port: number,
  keys: PlatformKeys,
  foreign: ForeignServices = { auth: false, storage: false },
): Promise<void> {
  const admin = postgres(localDbUrl(port, keys, 'supabase_admin'), { max: 1, onnotice: () => {} })
  try {
    const [found] = await admin`
      select to_regprocedure('local_platform.lend_ownership()') is not null as is_done,
        to_regnamespace('auth') is not null as is_started`
    if (found?.is_done) return
    // Ours is done in one transaction or not at all: what is there was made by somebody else, or by an older version.
    if (found?.is_started) throw new PlatformError('The database was made by another version of this platform.')
    await admin.begin(async (tx) => {
      await tx.unsafe(bootstrapSql(foreign))
      for (const [role, password] of Object.entries(keys.passwords)) {
        await tx.unsafe(`alter role ${role} password '${password}'`)
      }
    })
  } finally {
    await admin.end()
  }
}
