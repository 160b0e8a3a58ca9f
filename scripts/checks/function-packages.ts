/**
 * functions/deno.lock names every package that deployed functions take from the registry, with the hash of its bytes, and they are
 * those of package-lock.json, with which everything here is tested. Needs no network: both files are compared.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { root } from '../../stack/config.ts'

const denoJson = z.object({ imports: z.record(z.string(), z.string()) })
const denoLock = z.object({
  specifiers: z.record(z.string(), z.string()),
  npm: z.record(z.string(), z.object({ integrity: z.string(), dependencies: z.array(z.string()).default([]) })),
})
const packageLock = z.object({
  packages: z.record(z.string(), z.object({ version: z.string().optional(), integrity: z.string().optional() })),
})
type Files = Record<'denoJson' | 'denoLock' | 'packageLock', unknown>

const mend =
  'Make it anew: cd functions && ../node_modules/.bin/deno cache --node-modules-dir=none --lock deno.lock --frozen=false */index.ts'

export async function findUnlockedPackages(): Promise<string[]> {
  const read = async (file: string): Promise<unknown> => JSON.parse(await readFile(join(root, file), 'utf8'))
  const found = unlockedIn({
    denoJson: await read('functions/deno.json'),
    denoLock: await read('functions/deno.lock'),
    packageLock: await read('package-lock.json'),
  })
  return found.length === 0 ? [] : [...found, mend]
}

/**
 * What is wrong with functions/deno.lock, a sentence each.
 * @internal For tests: files that are wrong.
 */
export function unlockedIn(files: Files): string[] {
  const { imports } = denoJson.parse(files.denoJson)
  const { specifiers, npm } = denoLock.parse(files.denoLock)
  const wanted = new Set(Object.values(imports).flatMap(packageOf))
  const known = new Map(Object.keys(npm).map((name) => [nameOf(name), name]))
  const reached = new Set<string>()
  const missing: string[] = []
  const follow = (name: string, by: string): void => {
    const found = npm[name] ? name : known.get(name)
    const entry = found === undefined ? undefined : npm[found]
    if (found === undefined || entry === undefined) missing.push(`${by} needs ${name}, which deno.lock does not have`)
    if (found === undefined || entry === undefined || reached.has(found)) return
    reached.add(found)
    for (const next of entry.dependencies) follow(next, found)
  }
  for (const name of wanted) {
    if (specifiers[`npm:${name}`] !== name.slice(nameOf(name).length + 1))
      missing.push(`deno.lock does not lock ${name}`)
    follow(name, 'deno.json')
  }
  const unused = Object.keys(npm).filter((name) => !reached.has(name))
  return [
    ...missing,
    ...unused.map((name) => `deno.lock has ${name}, which nothing needs`),
    ...[...reached].flatMap((name) => differenceOf(name, npm[name]?.integrity, files.packageLock)),
  ]
}

/** `npm:/@noble/curves@2.2.0/` as `@noble/curves@2.2.0`; of a file of ours, nothing. */
const packageOf = (address: string): string[] => {
  const [, name] = /^npm:\/?((?:@[^/]+\/)?[^/]+)/.exec(address) ?? []
  return name === undefined ? [] : [name]
}
const nameOf = (name: string): string => name.slice(0, name.indexOf('@', 1))

function differenceOf(name: string, integrity: string | undefined, lock: unknown): string[] {
  const { packages } = packageLock.parse(lock)
  const tested = Object.entries(packages).filter(
    ([path, { version }]) => `${path.slice(path.lastIndexOf('node_modules/') + 13)}@${version}` === name,
  )
  if (tested.length === 0) return [`${name} of deno.lock is not in package-lock.json: nothing here is tested with it`]
  return tested.every(([, entry]) => entry.integrity === integrity)
    ? []
    : [`${name} has another integrity in deno.lock than in package-lock.json`]
}
