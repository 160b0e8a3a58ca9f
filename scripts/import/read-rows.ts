/** The rows of an NDJSON or CSV file, one at a time, however large it is. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { parse } from 'csv-parse'
import { StackError } from '../../stack/config.ts'

/** number: the line of an NDJSON file, or the record of a CSV file, from 1. digest: of what the row holds. */
export type Row = { number: number; digest: string } & ({ fields: unknown } | { unreadable: string })
export type Source = { rows: AsyncGenerator<Row>; bytesRead: () => number }

export function readRows(file: string, format: 'ndjson' | 'csv'): Source {
  const input = createReadStream(file)
  return { rows: format === 'csv' ? csvRows(input) : ndjsonRows(input), bytesRead: () => input.bytesRead }
}

const digestOf = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 32)

async function* ndjsonRows(input: NodeJS.ReadableStream): AsyncGenerator<Row> {
  let number = 0
  for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    number += 1
    const text = number === 1 ? line.replace(/^\uFEFF/, '') : line
    if (text.trim() === '') continue
    yield { number, digest: digestOf(text), ...parseLine(text) }
  }
}

function parseLine(text: string): { fields: unknown } | { unreadable: string } {
  try {
    return { fields: JSON.parse(text) }
  } catch {
    return { unreadable: 'the line is not JSON' }
  }
}

async function* csvRows(input: NodeJS.ReadableStream): AsyncGenerator<Row> {
  const parser = input.pipe(
    parse({ bom: true, columns: true, trim: true, skip_empty_lines: true, relax_column_count: true, info: true }),
  )
  input.on('error', (error) => parser.destroy(error))
  let number = 0
  try {
    for await (const { record, info } of parser) {
      number += 1
      const digest = digestOf(JSON.stringify(record))
      if (info.error) yield { number, digest, unreadable: 'the row has more or fewer cells than the header' }
      else yield { number, digest, fields: withoutEmpty(record) }
    }
  } catch (error) {
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('CSV_'))
      throw new StackError(`The CSV cannot be read after row ${number} (${error.code}). Mend it and run again.`)
    throw error
  }
}

/** An empty cell says nothing. */
const withoutEmpty = (record: Record<string, string>) =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== ''))
