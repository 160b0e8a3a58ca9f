/**
 * Imports point one way: endpoint -> its domain -> errors, env, db; the stack -> platform and doubles. Endpoints never import each
 * other; neither do the platform and the doubles.
 */
import { importsOf, readSources } from './read-imports.ts'

const nothing = /(?!)/

/** What a folder's files may import from beside their own domain, by the start of the path; the first that fits a file counts. */
const rules: { from: RegExp; mayImport: RegExp }[] = [
  // Keys of exchanges are tested by one domain and used by the other, both through the same door.
  {
    from: /^functions\/_shared\/(?:credentials|portfolio)\//,
    mayImport: /^functions\/_shared\/(?:[^/]+\.ts|http\/|auth\/|exchanges\/)/,
  },
  { from: /^functions\/_shared\/[^/]+\//, mayImport: /^functions\/_shared\/(?:[^/]+\.ts|http\/|auth\/)/ },
  { from: /^functions\/_shared\//, mayImport: /^functions\/_shared\/[^/]+\.ts/ },
  { from: /^functions\//, mayImport: /^functions\/_shared\// },
  // What hosted Supabase brings knows nothing of Palisade, and nothing of the world outside.
  { from: /^stack\/platform\//, mayImport: /^stack\/platform\// },
  // Each double is whole by itself: what it needs from the stack it is handed.
  { from: /^stack\/doubles\//, mayImport: nothing },
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

/** A domain's files import each other: functions/_shared/ai/*, one endpoint's own folder, or one double's file and folder. */
function isSameDomain(file: string, path: string): boolean {
  if (file.startsWith('stack/doubles/')) return doubleOf(file) === doubleOf(path)
  const depth = file.startsWith('functions/_shared/') ? 3 : 2
  const domain = (name: string) => name.split('/').slice(0, depth).join('/')
  return domain(file) === domain(path)
}

const doubleOf = (path: string) => /^stack\/doubles\/([\w-]+)/.exec(path)?.[1]
