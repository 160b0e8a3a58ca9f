/** Writing to a pipe costs more than making the line, and the same for one as for many. */
import type { LogLine } from './world.ts'

type Write = (text: string) => void

export const writeLine = (write: Write) => (line: LogLine) => write(JSON.stringify(line))

const gatheredMs = 20
const mostLines = 100

/**
 * Lines of the same moment are written at once. For logs that are read line by line; a process that is killed takes the last moment's
 * with it, and one that ends in order waits for `waitUntil`.
 */
export function gatherLines(write: Write, waitUntil: (work: Promise<unknown>) => void) {
  let lines: string[] = []
  const flush = () => {
    if (lines.length > 0) write(lines.join('\n'))
    lines = []
  }
  const flushSoon = () =>
    new Promise<void>((done) => {
      setTimeout(() => {
        flush()
        done()
      }, gatheredMs)
    })
  return (line: LogLine): void => {
    if (lines.push(JSON.stringify(line)) === 1) waitUntil(flushSoon())
    else if (lines.length >= mostLines) flush()
  }
}
