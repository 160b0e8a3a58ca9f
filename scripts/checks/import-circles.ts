/** No file imports itself, on whatever way round: types count, too, since who reads a file must read all of its circle. */
import { importsOf, readSources } from './read-imports.ts'

export async function findImportCircles(): Promise<string[]> {
  const sources = await readSources(['functions', 'stack', 'scripts', 'tests'])
  return circlesIn(new Map(sources.map(({ file, text }) => [file, importsOf(file, text)])))
}

/**
 * One circle, a shortest one, for every file that is in any and not yet in one that was told.
 * @internal For tests: files of theirs.
 */
export function circlesIn(imports: Map<string, string[]>): string[] {
  const told = new Set<string>()
  return [...imports.keys()].toSorted().flatMap((file) => {
    const circle = told.has(file) ? undefined : shortestWayBack(file, imports)
    for (const one of circle ?? []) told.add(one)
    return circle ? [`${circle.join(' -> ')} -> ${file}`] : []
  })
}

function shortestWayBack(file: string, imports: Map<string, string[]>): string[] | undefined {
  const ways = [[file]]
  const seen = new Set<string>()
  for (const way of ways) {
    for (const next of imports.get(way.at(-1) ?? file) ?? []) {
      if (next === file) return way
      if (seen.has(next)) continue
      seen.add(next)
      ways.push([...way, next])
    }
  }
}
