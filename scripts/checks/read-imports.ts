/** Which files of ours import which: read from the text, types and dynamic imports included. */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { root } from '../../stack/config.ts'

/** Our TypeScript below these folders: paths from the project's root, and texts. */
export async function readSources(folders: string[]): Promise<{ file: string; text: string }[]> {
  const entries = await Promise.all(folders.map((folder) => readdir(join(root, folder), { recursive: true })))
  const files = entries
    .flatMap((names, i) => names.map((name) => join(folders[i] ?? '', name)))
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts') && !file.includes('node_modules'))
  return Promise.all(files.map(async (file) => ({ file, text: await readFile(join(root, file), 'utf8') })))
}

/** The files of ours that a file imports. Paths are relative to the project's root. */
export const importsOf = (file: string, text: string): string[] =>
  [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match) =>
    relative(root, resolve(root, dirname(file), match[1] ?? '')),
  )
