/** Imports point one way: endpoint -> its domain -> errors, env, db. Endpoints never import each other. */
import { importsOf, readSources } from './read-imports.ts'

/** What a folder's files may import from, by the start of the path; the first rule that fits a file counts. */
const rules: { from: RegExp; mayImport: RegExp }[] = [
  // Keys of exchanges are tested by one domain and used by the other, both through the same door.
  {
    from: /^functions\/_shared\/(?:credentials|portfolio)\//,
    mayImport: /^functions\/_shared\/(?:[^/]+\.ts|http\/|auth\/|exchanges\/)/,
  },
  { from: /^functions\/_shared\/[^/]+\//, mayImport: /^functions\/_shared\/(?:[^/]+\.ts|http\/|auth\/)/ },
  { from: /^functions\/_shared\//, mayImport: /^functions\/_shared\/[^/]+\.ts/ },
  { from: /^functions\//, mayImport: /^functions\/_shared\// },
  { from: /^stack\//, mayImport: /^stack\// },
  // What jobs and the webhook do with Stripe, operators start by hand, too.
  {
    from: /^scripts\/(?:stripe-(?:sync|reconcile)|shared\/stripe-stand-in|bench\/benchmarks\/billing(?:\/[^/]+)?)\.ts$/,
    mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/(?:billing\/|db\.ts$)/,
  },
  // The words for an error are those of the functions that it comes from.
  {
    from: /^scripts\/shared\/explain-error\.ts$/,
    mayImport: /^stack\/|^functions\/_shared\/(?:errors|failure)\.ts$/,
  },
  { from: /^scripts\//, mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/database\.types\.ts$/ },
]

export async function findImportViolations(): Promise<string[]> {
  const sources = await readSources(['functions', 'stack', 'scripts'])
  return sources.flatMap(({ file, text }) => violationsIn(file, text))
}

/** The imports of one file that its folder may not have. `file` is relative to the project's root. */
export function violationsIn(file: string, text: string): string[] {
  const rule = rules.find((candidate) => candidate.from.test(file))
  return importsOf(file, text)
    .filter((path) => rule && !rule.mayImport.test(path) && !isSameDomain(file, path))
    .map((path) => `${file} must not import ${path}`)
}

/** A domain's files import each other: functions/_shared/ai/*, or one endpoint's own folder. */
function isSameDomain(file: string, path: string): boolean {
  const depth = file.startsWith('functions/_shared/') ? 3 : 2
  const domain = (name: string) => name.split('/').slice(0, depth).join('/')
  return domain(file) === domain(path)
}
