/** npm run test:platform: the suite on a database that is handed in, as one that is the real platform's would be. */
import { parseArgs } from 'node:util'
import postgres from 'postgres'
import { localDbUrl } from '../stack/platform/bootstrap.ts'
import { startJobs } from '../stack/platform/jobs.ts'
import { startScratch } from '../stack/platform/scratch.ts'
import { startScratch15 } from '../stack/platform/scratch-15.ts'
import { runScript } from './shared/run-script.ts'
import { runVitest } from './shared/run-vitest.ts'

const help = `Usage: npm run test:platform [-- --postgres 17|15] [-- what vitest takes]

Makes an empty database with the platform's catalogue, roles and grants on a server that no stack knows, gives all roles one
password, as a self-hosted Supabase does, and runs the tests that need a database against it by PALISADE_DB_URL: migrations are
pushed by the CLI as role postgres, Auth is the stack's own, and jobs run as pg_cron would run them.

--postgres N   the server's version; 15 needs Debian's package postgresql-15

For a real platform's database, name it yourself: PALISADE_DB_URL=... SUPERUSER_URL=... npm test -- --project stack`

await runScript(help, async () => {
  const { values, tokens } = parseArgs({
    options: { postgres: { type: 'string', default: '17' } },
    allowPositionals: true,
    strict: false,
    tokens: true,
  })
  const ours = tokens.flatMap((token) =>
    token.kind === 'option' && token.name === 'postgres'
      ? [token.index, token.index + (token.inlineValue ? 0 : 1)]
      : [],
  )
  const rest = process.argv.slice(2).filter((_, at) => !ours.includes(at))
  if (values.postgres !== '15' && values.postgres !== '17') {
    console.error('--postgres takes 15 or 17.')
    return 2
  }
  const scratch = values.postgres === '15' ? await startScratch15() : await startScratch()
  try {
    const url = localDbUrl(scratch.port, scratch.keys, 'postgres')
    const superuserUrl = localDbUrl(scratch.port, scratch.keys, 'supabase_admin')
    await sharePassword(superuserUrl, new URL(url).password, Object.keys(scratch.keys.passwords))
    const jobs = startJobs({
      adminUrl: superuserUrl,
      urlFor: (role) => (role === 'postgres' ? url : undefined),
      log: console.error,
    })
    try {
      const args = rest.some((arg) => arg.startsWith('--project')) ? rest : ['--project', 'stack', ...rest]
      return await runVitest(args, { PALISADE_DB_URL: url, SUPERUSER_URL: superuserUrl })
    } finally {
      await jobs.stop()
    }
  } finally {
    await scratch.stop()
  }
})

async function sharePassword(superuserUrl: string, password: string, roles: string[]): Promise<void> {
  const admin = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  try {
    for (const role of roles)
      if (role !== 'supabase_admin') await admin.unsafe(`alter role ${role} password '${password}'`)
  } finally {
    await admin.end()
  }
}
