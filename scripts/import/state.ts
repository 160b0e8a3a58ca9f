/** What is done so far, one line per account, so that a run after a crash does not ask for everything again. */
import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { StackError } from '../../stack/config.ts'
import type { Row } from './read-rows.ts'

export type State = {
  isDone(row: Row): boolean
  done(row: { row: number; digest: string }): void
  drop(): void
  size: number
}

const headerSchema = z.object({ target: z.string() })

export function openState(file: string, target: string): State {
  const known = existsSync(file) ? readState(file, target) : new Set<string>()
  if (!existsSync(file)) writeFileSync(file, `${JSON.stringify({ target })}\n`, { mode: 0o600 })
  // A line torn by a crash must not swallow the next one.
  else appendFileSync(file, '\n')
  return {
    size: known.size,
    isDone: (row) => known.has(`${row.number} ${row.digest}`),
    done: (row) => appendFileSync(file, `${row.row} ${row.digest}\n`),
    drop: () => rmSync(file, { force: true }),
  }
}

function readState(file: string, target: string): Set<string> {
  const [first = '', ...lines] = readFileSync(file, 'utf8').split('\n')
  const header = headerSchema.safeParse(readHeader(first))
  if (!header.success || header.data.target !== target) {
    throw new StackError(
      `${file} belongs to an interrupted import into another project. Remove it, or name another --report.`,
    )
  }
  return new Set(lines.filter((line) => /^\d+ [0-9a-f]{32}$/.test(line)))
}

function readHeader(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
