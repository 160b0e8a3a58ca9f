/** A database by its URL. Postgres.js and Node.js would show the whole of one that they cannot read, with its password. */
import postgres from 'postgres'
import { StackError } from '../../stack/config.ts'

export function connectDatabase(url: string, { max }: { max: number }): postgres.Sql {
  try {
    if (/^postgres(ql)?:\/\/./.test(url)) return postgres(url, { max, onnotice: () => {} })
  } catch {
    // Without the cause: it holds the URL.
  }
  throw new StackError(
    'DB_URL is not a postgres URL. One is postgresql://USER:PASSWORD@HOST:5432/DATABASE; in a password, write @ : / ? # % as %40 %3A %2F %3F %23 %25.',
  )
}

/** Runs SQL text as one transaction. */
export async function runSql(url: string, text: string): Promise<void> {
  const sql = connectDatabase(url, { max: 1 })
  try {
    await sql.begin((tx) => tx.unsafe(text))
  } finally {
    await sql.end()
  }
}
