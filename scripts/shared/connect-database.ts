/** A database by its URL. Postgres.js and Node.js would show the whole of one that they cannot read, with its password. */
import postgres from 'postgres'
import { readDatabaseUrl } from '../../functions/_shared/database-url.ts'
import { StackError } from '../../stack/config.ts'

type Options = { max: number; ca?: string | undefined }

/** `ca` is PEM of the authority that signed the server's certificate; unset, the environment's. */
export function connectDatabase(
  text: string,
  { max, ca = process.env.DB_CA_CERT || undefined }: Options,
): postgres.Sql {
  try {
    if (/^postgres(ql)?:\/\/./.test(text)) {
      const { url, ssl, isPooled } = readDatabaseUrl(text, ca)
      return postgres(url, { max, ssl, prepare: !isPooled, onnotice: () => {} })
    }
  } catch (cause) {
    // Of a URL that cannot be read, Node.js tells the whole; our own words hold nothing of it.
    if (cause instanceof Error && !(cause instanceof TypeError)) throw new StackError(cause.message)
  }
  throw new StackError(
    'DB_URL is not a postgres URL. One is postgresql://USER:PASSWORD@HOST:5432/DATABASE; in a password, write @ : / ? # % as %40 %3A %2F %3F %23 %25.',
  )
}

/** What --db-url gives, with the password that comes by another way; without one it stays as it is. */
export function withPassword(argument: string, password: string | undefined): URL {
  if (/^\w+:\/\/.*:.*@|[?&]password=/.test(argument))
    throw new StackError(
      'Everybody on this machine can read arguments: write the URL without its password, and SUPABASE_DB_PASSWORD=... (or the whole as DB_URL=...) in .env.production. Change the password that was shown.',
    )
  if (!URL.canParse(argument) || !/^postgres(ql)?:$/.test(new URL(argument).protocol))
    throw new StackError('--db-url is not a postgres URL, as postgresql://postgres@HOST:5432/postgres.')
  const url = new URL(argument)
  if (password) url.password = encodeURIComponent(password)
  return url
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
