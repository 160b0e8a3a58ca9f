/** The report: one line per row of the file, in its order, NDJSON or CSV. */
import { renameSync, writeFileSync } from 'node:fs'
import { outcomes, type Result } from './import-rows.ts'

export function writeReport(file: string, results: Result[]): void {
  const isCsv = file.toLowerCase().endsWith('.csv')
  const lines = [...results]
    .sort((a, b) => a.row - b.row)
    .map((result) => (isCsv ? csvLine(result) : ndjsonLine(result)))
  const text = [...(isCsv ? ['row,email,outcome,reason'] : []), ...lines].map((line) => `${line}\n`).join('')
  writeFileSync(`${file}.new`, text, { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

const ndjsonLine = ({ row, email, outcome, reason }: Result) => JSON.stringify({ row, email, outcome, reason })
const csvLine = ({ row, email, outcome, reason }: Result) => [row, email, outcome, reason].map(csvCell).join(',')

/** Quoted, and never a formula for a spreadsheet that opens it. */
function csvCell(value: string | number): string {
  const text = String(value).replace(/^(?=[=+\-@\t\r])/, "'")
  return `"${text.replaceAll('"', '""')}"`
}

/** `12 created, 1 refused`, with what happened only. */
export function summary(results: Result[], dryRun: boolean): string {
  const counts = outcomes.map(
    (outcome) => [outcome, results.filter((result) => result.outcome === outcome).length] as const,
  )
  const named = counts
    .filter(([, count]) => count > 0)
    .map(
      ([outcome, count]) => `${count} ${dryRun && outcome === 'created' ? 'to create' : outcome.replaceAll('_', ' ')}`,
    )
  return `${results.length} rows: ${named.join(', ') || 'nothing'}`
}
