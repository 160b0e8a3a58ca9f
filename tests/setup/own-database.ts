/** A copy of the migrated database for the file that runs next, and its end afterwards. */
import postgres from 'postgres'
import { afterAll, inject } from 'vitest'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { copyDatabase } from '../../stack/platform/scratch.ts'
import { setTarget } from '../target.ts'

const { port, keys, template } = inject('databaseServer')
const name = `test_${crypto.randomUUID().replaceAll('-', '')}`

await asAdmin((admin) => copyDatabase(admin, template, name))
setTarget('database', {
  dbUrl: localDbUrl(port, keys, 'postgres', name),
  superuserUrl: localDbUrl(port, keys, 'supabase_admin', name),
})
// Forced: connections that a file shares between its tests are still open.
afterAll(() => asAdmin((admin) => admin.unsafe(`drop database ${name} with (force)`)))

async function asAdmin(act: (admin: postgres.Sql) => Promise<unknown>): Promise<void> {
  const admin = postgres(localDbUrl(port, keys, 'supabase_admin', 'template1'), { max: 1, onnotice: () => {} })
  await act(admin).finally(() => admin.end())
}
