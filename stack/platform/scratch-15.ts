/**
 * PostgreSQL 15, which self-hosted projects still run, bootstrapped as the stack's own 17 is. Debian's package cannot be given
 * extensions without writing into the system's folders. But PostgreSQL looks for everything beside its programs: a copy of
 * these in a folder of ours, with links to the rest, has a folder for extensions of its own.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PlatformError } from './config.ts'
import { installExtensions } from './postgres.ts'
import { type Scratch, startScratch } from './scratch.ts'

/** Where Debian has it. */
const programs = '/usr/lib/postgresql/15/bin'
const share = '/usr/share/postgresql/15'
const cron14 = 'pg_cron--1.6--1.4-1.sql'

/** A scratch cluster on PostgreSQL 15, with pg_cron 1.4 as the images of that version have it. */
export async function startScratch15(): Promise<Scratch> {
  const home = mkdtempSync(join(tmpdir(), 'postgresql-15-'))
  const remove = () => rmSync(home, { recursive: true, force: true })
  try {
    const scratch = await startScratch({ bin: await install(home) })
    return {
      ...scratch,
      async stop() {
        await scratch.stop()
        remove()
      },
    }
  } catch (error) {
    remove()
    throw error
  }
}

/** Answers the folder of the programs. */
async function install(home: string): Promise<string> {
  chmodSync(home, 0o711)
  const from = programs
  if (!existsSync(join(from, 'postgres')))
    throw new PlatformError('PostgreSQL 15 is missing: apt-get install postgresql-15.')
  const bin = join(home, from)
  const extensions = join(home, share, 'extension')
  for (const folder of [bin, extensions]) mkdirSync(folder, { recursive: true })
  for (const program of ['postgres', 'initdb', 'pg_ctl']) copyFileSync(join(from, program), join(bin, program))
  symlinkSync(join(from, '..', 'lib'), join(bin, '..', 'lib'))
  link(share, join(home, share), 'extension')
  link(join(share, 'extension'), extensions)
  installExtensions(extensions)
  await copyFile(fileURLToPath(new URL(cron14, import.meta.url)), join(extensions, cron14))
  const copies = readdirSync(extensions, { withFileTypes: true }).filter((file) => file.isFile())
  await Promise.all(copies.map(({ name }) => makeOlder(join(extensions, name))))
  return bin
}

function link(from: string, to: string, except?: string): void {
  for (const name of readdirSync(from)) if (name !== except) symlinkSync(join(from, name), join(to, name))
}

/** The stand-ins are written for 17: before 16 a script cannot name the schema of an extension that it needs. */
async function makeOlder(file: string): Promise<void> {
  const text = (await readFile(file, 'utf8')).replaceAll('@extschema:pgcrypto@', 'extensions')
  await writeFile(
    file,
    file.endsWith('pg_cron.control') ? text.replace(/^default_version = .*$/m, "default_version = '1.4-1'") : text,
  )
}
