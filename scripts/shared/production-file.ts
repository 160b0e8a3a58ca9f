/** The file .env.production, which holds every secret of a project. */
import { execFile } from 'node:child_process'
import { readFile, realpath, stat } from 'node:fs/promises'
import { dirname, relative, resolve } from 'node:path'
import { parseEnv, promisify } from 'node:util'
import { root, StackError } from '../../stack/config.ts'

export const productionFile = '.env.production'

/** As a command that is run in this repository takes it. */
const nameOf = (path: string): string => {
  const name = relative(root, path)
  return name.startsWith('..') ? path : name
}

/**
 * What it says, without the lines that were left empty; undefined when there is none at `path` (from the repository's root). Refused
 * while others can read it, or Git has it or would take it: the file itself and the link that may lead to it.
 */
export async function readProductionFile(path: string): Promise<Record<string, string> | undefined> {
  const given = resolve(root, path)
  const file = await realpath(given).catch(() => undefined)
  if (file === undefined) return undefined
  await refuseOpenFile(file)
  for (const one of new Set([given, file])) await refuseFileOfGit(one)
  const text = await readFile(file, 'utf8')
  const [cut] = cutOff(text)
  if (cut)
    throw new StackError(`${nameOf(given)}: ${cut} has a # in it, where a value would end: put quotes around it.`)
  const values = Object.entries(parseEnv(text))
  return Object.fromEntries(values.flatMap(([name, value]) => (value ? [[name, value]] : [])))
}

/** Values without quotes that end at a #, like passwords that have one; a comment has a space before it. */
const cutOff = (text: string): string[] =>
  [...text.matchAll(/^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*[^\s'"`#][^#\r\n]*(?<=\S)#/gm)].map(
    ([, name = '']) => name,
  )

/** For those that cannot do without. */
export const noProductionFile = (path: string): StackError => {
  const name = nameOf(resolve(root, path))
  return new StackError(
    `There is no ${name}. Make it: cp .env.production.example ${name} && chmod 600 ${name}, and fill it in.`,
  )
}

async function refuseOpenFile(file: string): Promise<void> {
  const { mode } = await stat(file)
  const name = nameOf(file)
  if ((mode & 0o077) !== 0)
    throw new StackError(`Others may read ${name}, which holds secrets. Mend it: chmod 600 ${name}`)
}

async function refuseFileOfGit(file: string): Promise<void> {
  const name = nameOf(file)
  const git = (...args: string[]) =>
    promisify(execFile)('git', args, { cwd: dirname(file) }).then(
      ({ stdout }) => stdout.trim(),
      () => undefined,
    )
  if ((await git('rev-parse', '--is-inside-work-tree')) !== 'true') return
  if ((await git('ls-files', '--error-unmatch', '--', file)) !== undefined)
    throw new StackError(
      `Git keeps ${name}, which holds secrets. Mend it: git rm --cached ${name}, and change every secret that was pushed.`,
    )
  if ((await git('check-ignore', '--', file)) === undefined)
    throw new StackError(`Git would take up ${name}, which holds secrets. Mend it: echo ${name} >> .gitignore`)
}
