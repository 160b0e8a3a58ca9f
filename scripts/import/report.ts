/** The report: one line per row of the file, in its order, then one for each thing that was not taken. NDJSON or CSV. */
import { renameSync, writeFileSync } from 'node:fs'
import { outcomes, type Result } from './import-rows.ts'

type Line = { row: number | null; email: string; outcome: string; reason: string; not_taken?: string }

/** counts: in how many rows what was not taken. listNotTaken: each row says so, too. */
export function writeReport(
  file: string,
  results: Result[],
  counts: Map<string, number> = new Map(),
  listNotTaken = false,
): void {
  const isCsv = file.toLowerCase().endsWith('.csv')
  const rows = [...results].sort((a, b) => a.row - b.row).map((result) => lineOf(result, listNotTaken))
  const lines = [...rows, ...notTakenLines(counts)].map(isCsv ? csvLine : (line) => JSON.stringify(line))
  const header = isCsv ? [`row,email,outcome,reason${listNotTaken ? ',not_taken' : ''}`] : []
  const text = [...header, ...lines].map((line) => `${line}\n`).join('')
  writeFileSync(`${file}.new`, text, { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

const lineOf = ({ row, email, outcome, reason, notTaken = [] }: Result, listNotTaken: boolean): Line => ({
  row,
  email,
  outcome,
  reason,
  ...(listNotTaken && { not_taken: notTaken.join(', ') }),
})
const notTakenLines = (counts: Map<string, number>): Line[] =>
  mostFirst(counts).map(([name, rows]) => ({
    row: null,
    email: '',
    outcome: 'not_taken',
    reason: `${name}: ${rowsOf(rows)}`,
  }))
const csvLine = (line: Line) =>
  Object.values(line)
    .map((value) => csvCell(value ?? ''))
    .join(',')
const mostFirst = (counts: Map<string, number>) => [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
const rowsOf = (rows: number) => `${rows} ${rows === 1 ? 'row' : 'rows'}`

/** Quoted, and never a formula for a spreadsheet that opens it. */
function csvCell(value: string | number): string {
  const text = String(value).replace(/^(?=[=+\-@\t\r])/, "'")
  return `"${text.replaceAll('"', '""')}"`
}

/** `12 created (2 suspended), 1 refused`, with what happened only; in a dry run `12 would create`. */
export function summary(results: Result[]): string {
  const counts = outcomes.map(
    (outcome) => [outcome, results.filter((result) => result.outcome === outcome).length] as const,
  )
  const shut = results.filter((result) => result.suspended).length
  const suspended = shut > 0 ? ` (${shut} suspended)` : ''
  const named = counts
    .filter(([, count]) => count > 0)
    .map(
      ([outcome, count]) =>
        `${count} ${outcome.replaceAll('_', ' ')}${outcome === 'created' || outcome === 'would_create' ? suspended : ''}`,
    )
  return `${results.length} rows: ${named.join(', ') || 'nothing'}`
}

/** What did not come along, with the number of rows that had it; nothing when there is nothing. */
export function notTakenSummary(counts: Map<string, number>): string {
  const named = mostFirst(counts).map(([name, rows]) => `  ${name}: ${rowsOf(rows)}`)
  return named.length === 0 ? '' : ['Not taken:', ...named].join('\n')
}
