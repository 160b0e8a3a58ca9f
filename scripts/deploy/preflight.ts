/** What must be true here before anything is asked of a project: a clean commit, its migrations made, its packages installed. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { root, StackError } from '../../stack/config.ts'
import { staleBaselineFiles } from '../shared/baseline.ts'
import type { Source } from './steps.ts'

const packageFile = z.object({
  version: z.string(),
  dependencies: z.record(z.string(), z.string()),
  devDependencies: z.record(z.string(), z.string()),
})
const installed = z.object({ version: z.string() })

export async function readSource({ allowDirty }: { allowDirty: boolean }): Promise<Source> {
  const git = async (...args: string[]) => {
    const { stdout } = await promisify(execFile)('git', args, { cwd: root }).catch(() => {
      throw new StackError('This folder is no Git checkout, and a deployment notes the commit that it was made of.')
    })
    return stdout.trimEnd()
  }
  const [commit, changes] = [await git('rev-parse', 'HEAD'), await git('status', '--porcelain')]
  if (changes !== '' && !allowDirty)
    throw new StackError(
      `Some files differ from the commit (git status). Commit them, or deploy them as they are with --allow-dirty:\n${changes}`,
    )
  const stale = await staleBaselineFiles()
  if (stale.length > 0)
    throw new StackError(
      `These migrations are not what sql/ and policies/ make: ${stale.join(', ')}. Run npm run db:baseline.`,
    )
  const { version, dependencies, devDependencies } = packageFile.parse(await readJson('package.json'))
  await refuseOtherVersions({ ccxt: dependencies.ccxt, supabase: devDependencies.supabase })
  return { commit, isDirty: changes !== '', version }
}

/** Other versions than package.json's bundle and push something else than what was tested. */
async function refuseOtherVersions(wanted: Record<string, string | undefined>): Promise<void> {
  for (const [name, version] of Object.entries(wanted)) {
    const found = await readJson(`node_modules/${name}/package.json`).then(installed.parse, () => undefined)
    if (found?.version !== version)
      throw new StackError(`node_modules has another version of ${name} than package.json. Run npm ci.`)
  }
}

const readJson = async (file: string): Promise<unknown> => JSON.parse(await readFile(join(root, file), 'utf8'))
