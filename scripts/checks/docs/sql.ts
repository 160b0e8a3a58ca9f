/** SQL in the pages is read by the server with the schema before it, which then does nothing. */
import { parse } from 'libpg-query'
import postgres from 'postgres'
import { type Page, type Piece, readPages } from './pages.ts'

/** Tables that pages take as examples of somebody's own. */
const assumed = ['reports', 'things'].map((name) => `create table public.${name} (user_id uuid)`).join('; ')

export async function findWrongSql(url: string): Promise<string[]> {
  return wrongSqlIn(await readPages(), url)
}

/**
 * One message for each statement that the server does not understand: blocks in SQL, and code spans that begin as a statement.
 * @internal For tests: pages of theirs.
 */
export async function wrongSqlIn(pages: Page[], url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe('begin')
    await sql.unsafe(assumed)
    const found: string[] = []
    for (const page of pages.filter(({ file }) => file !== 'CHANGELOG.md')) {
      const spans = page.spans.filter(({ text }) =>
        /^(?:select|insert into|update|delete from|alter|create) /.test(text),
      )
      const blocks = page.blocks.filter(({ language }) => language === 'sql')
      for (const piece of [...spans, ...blocks]) {
        const wrong = await wrongIn(piece, sql)
        found.push(...wrong.map(({ text, line }) => `${page.file}:${line} ${text}`))
      }
    }
    return found
  } finally {
    await sql.unsafe('rollback')
    await sql.end()
  }
}

/** The statements of one piece follow each other, as somebody would run them; the next piece begins anew. */
async function wrongIn(piece: Piece, sql: postgres.Sql): Promise<Piece[]> {
  const wrong: Piece[] = []
  await sql.unsafe('savepoint piece')
  const read = await statements(piece).catch((error: unknown) => messageOf(error))
  if (typeof read === 'string') return [{ text: read, line: piece.line }]
  for (const { text, line, isRun } of read) {
    await sql.unsafe('savepoint statement')
    // What reads or writes rows is prepared and not run; what defines something is run, for those that follow.
    const asked = isRun ? text : `prepare example as ${text}; deallocate example`
    await sql.unsafe(asked).catch(async (error: unknown) => {
      wrong.push({ text: messageOf(error), line })
      await sql.unsafe('rollback to savepoint statement')
    })
  }
  await sql.unsafe('rollback to savepoint piece')
  return wrong
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))

type Statement = Piece & { isRun: boolean }
/** Places are bytes; a length of none is the rest of the text. */
type Parsed = { stmt?: object; stmt_location?: number; stmt_len?: number }

async function statements(piece: Piece): Promise<Statement[]> {
  // A value that is left out is null; what a function performs is selected, with the columns of an example.
  const text = piece.text
    .replaceAll(/'[^'\n]*\.\.\.[^'\n]*'/g, 'null')
    .replaceAll(/^perform ([^;]*);/gm, 'select $1 from public.reports;')
  const bytes = Buffer.from(text)
  const { stmts = [] } = (await parse(text)) satisfies { stmts?: Parsed[] }
  return stmts.map(({ stmt = {}, stmt_location: start = 0, stmt_len: length }: Parsed) => {
    const before = bytes.subarray(0, start).toString()
    const own = bytes.subarray(start, length ? start + length : undefined).toString()
    // Comments before a statement belong to it; it begins at its first word.
    const skipped = /^(?:\s|--[^\n]*)*/.exec(own)?.[0] ?? ''
    return {
      text: own,
      line: piece.line + `${before}${skipped}`.split('\n').length - 1,
      isRun: !/^(?:Select|Insert|Update|Delete|Merge)Stmt$/.test(Object.keys(stmt)[0] ?? ''),
    }
  })
}
