/** Turns an empty PostgreSQL into what hosted Supabase gives a new project. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { getAuthSchemaSql, getStorageSchemaSql } from '@supabase/lite'
import postgres from 'postgres'
import { root } from '../config.ts'
import type { DatabaseRole, StackKeys } from './keys.ts'

/** The connection URL of a role on the local cluster. */
export function localDbUrl(port: number, keys: StackKeys, role: DatabaseRole, database = 'postgres'): string {
  return `postgresql://${role}:${keys.passwords[role]}@127.0.0.1:${port}/${database}`
}

/** Services whose tables somebody else makes: the real ones in the place of ours. */
export type ForeignServices = { auth: boolean; storage: boolean }

/** All SQL of the bootstrap in order: roles and schemas, the services' tables with their grants, the guard. */
function bootstrapSql(foreign: ForeignServices): string {
  const [foundation = '', auth = '', storage = '', guard = ''] = readFileSync(
    join(root, 'stack', 'platform', 'bootstrap.sql'),
    'utf8',
  ).split(/^--@.*$/m)
  return [
    foundation,
    ...(foreign.auth ? [] : [getAuthSchemaSql(), ';', auth]),
    ...(foreign.storage ? [] : [getStorageSchemaSql(), ';', storage]),
    guard,
  ].join('\n')
}

/** Bootstraps database `postgres` in one transaction: a crash half-way leaves nothing, and the next start tries again. */
export async function bootstrap(
  port: number,
  keys: StackKeys,
  foreign: ForeignServices = { auth: false, storage: false },
): Promise<void> {
  const admin = postgres(localDbUrl(port, keys, 'supabase_admin'), { max: 1, onnotice: () => {} })
  try {
    const [row] = await admin`select 1 from pg_catalog.pg_namespace where nspname = 'palisade_stack'`
    if (row) return
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
