/** Starts a server for project `database`, with one database that is migrated and seeded, of which every file gets a copy. */
import type { TestProject } from 'vitest/node'
import { applyMigrations, migrationVersions } from '../../stack/migrations.ts'
import type { PlatformKeys } from '../../stack/platform/keys.ts'
import { startScratch } from '../../stack/platform/scratch.ts'

declare module 'vitest' {
  interface ProvidedContext {
    databaseServer: { port: number; keys: PlatformKeys; template: string }
  }
}

const template = 'palisade'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const scratch = await startScratch()
  try {
    await applyMigrations(await scratch.createDatabase(template), await migrationVersions())
  } catch (error) {
    await scratch.stop()
    throw error
  }
  project.provide('databaseServer', { port: scratch.port, keys: scratch.keys, template })
  return () => scratch.stop()
}
