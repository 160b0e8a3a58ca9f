/** Imported by every helper program: its stdin is a leash, so that it ends when the benchmark dies, however it dies. */
import process from 'node:process'

process.stdin.on('end', () => process.exit()).resume()
