/** Servers that come from Debian's packages: .ci/run installs them, a developer's machine may lack them. */
import { accessSync, constants } from 'node:fs'
import { describe } from 'vitest'
import { pgBouncerProgram } from '../../scripts/shared/pgbouncer.ts'

const programs = {
  'postgresql-15': '/usr/lib/postgresql/15/bin/postgres',
  pgbouncer: pgBouncerProgram,
  caddy: '/usr/bin/caddy',
}

export type DebianPackage = keyof typeof programs

/** The path of the package's server. */
export const programOf = (name: DebianPackage): string => programs[name]

function isThere(name: DebianPackage): boolean {
  try {
    accessSync(programs[name], constants.X_OK)
    return true
  } catch {
    return false
  }
}

/**
 * `describe` for tests that need packages of Debian. Without them the block is left out and says how to get them; in CI it
 * runs, and so fails.
 */
export function describeWithDebian(packages: DebianPackage[], title: string, body: () => void): void {
  const missing = process.env.CI ? [] : packages.filter((name) => !isThere(name))
  if (missing.length === 0) describe(title, body)
  else describe.skip(`${title} (left out: apt-get install ${missing.join(' ')})`, body)
}
