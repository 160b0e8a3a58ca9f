/** Progress on stderr: a bar for people, a line now and then for logs. */
import { SingleBar } from 'cli-progress'

export type Progress = { update(bytes: number, rows: number): void; stop(): void }

const linesEvery = 500

export function showProgress(totalBytes: number, isTerminal: boolean): Progress {
  if (!isTerminal) {
    return {
      update: (bytes, rows) => {
        if (rows % linesEvery === 0) console.error(`… ${rows} rows, ${percent(bytes, totalBytes)} of the file read`)
      },
      stop: () => {},
    }
  }
  const bar = new SingleBar({
    format: '{bar} {percentage}% | {rows} rows | {duration_formatted}',
    stream: process.stderr,
  })
  bar.start(Math.max(totalBytes, 1), 0, { rows: 0 })
  return { update: (bytes, rows) => bar.update(bytes, { rows }), stop: () => bar.stop() }
}

const percent = (part: number, whole: number) => `${whole === 0 ? 100 : Math.floor((part / whole) * 100)} %`
