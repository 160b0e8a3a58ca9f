/**
 * Imports point one way: endpoint -> its domain -> errors, env, db; the stack -> platform and doubles. Endpoints never import each
 * other; neither do the platform and the doubles.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root } from '../../stack/config.ts'
import { importsOf, readSources, textsOf } from './read-imports.ts'
import { trackedFiles } from './tracked-files.ts'

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
  // What jobs and the webhook do with Stripe, operators start by hand, too; the doctor signs an event of the same version.
  {
    from: /^scripts\/(?:start|deploy\/stripe|doctor\/money|stripe-(?:sync|reconcile)|bench\/benchmarks\/billing(?:\/[^/]+)?)\.ts$/,
    mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/(?:billing\/|db\.ts$)/,
  },
  // The bench admits and settles as the gateway does.
  {
    from: /^scripts\/bench\/private-sql\.ts$/,
    mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/ai\/ledger\.ts$/,
  },
  // The words for an error are those of the functions that it comes from.
  {
    // What functions demand of their variables is demanded before they are deployed.
    from: /^scripts\/deploy\/production-env\.ts$/,
    mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/env\.ts$/,
  },
  {
    from: /^scripts\/shared\/explain-error\.ts$/,
    mayImport: /^stack\/|^functions\/_shared\/(?:database-url|errors|failure)\.ts$/,
  },
  // What a URL says of the way to a database is the same for whoever goes there.
  {
    from: /^scripts\//,
    mayImport: /^(?:scripts|stack)\/|^functions\/_shared\/database(?:\.types|-url)\.ts$/,
  },
]

export async function findImportViolations(): Promise<string[]> {
  const [sources, files] = await Promise.all([readSources(['functions', 'stack', 'scripts']), trackedFiles()])
  const scripts = files.filter((file) => /^stack\/.*\.sql$/.test(file))
  const sql = await Promise.all(scripts.map(async (file) => ({ file, text: await readFile(join(root, file), 'utf8') })))
  return [
    ...unreadIn(files),
    ...sources.flatMap(({ file, text }) => violationsIn(file, text)),
    ...[...sources, ...sql].flatMap(({ file, text }) => namesOfOursIn(file, text)),
  ]
}

/**
 * Code in another language than .ts, which these checks would not read.
 * @internal For tests: files of theirs.
 */
export const unreadIn = (files: string[]): string[] =>
  files
    .filter((file) => /^(?:functions|stack|scripts|tests)\/.*\.(?:[cm]ts|[cm]?js|[jt]sx)$/.test(file))
    .map((file) => `${file} is no .ts: write it as one`)

const ourFolders = 'docs|functions|policies|scripts|sql|supabase|tests'
const namesOfOurs: [pattern: RegExp, what: string][] = [
  // The gateway's own paths begin as hosted Supabase has them.
  [new RegExp(`^(?!/functions/v1(?:/|$))(?:.*/)?(?:${ourFolders})(?:/|$)`, 'm'), 'a folder of the project'],
  [/\b(?:private|public)"?\s*\.\s*"?[a-z_]\w*/i, 'a table or function of the project'],
]

/**
 * Where the platform or a double names what it should be handed: a folder of ours, or what our schema has.
 * @internal For tests: files of theirs.
 */
export function namesOfOursIn(file: string, text: string): string[] {
  if (!/^stack\/(?:platform|doubles)\//.test(file)) return []
  const strings = file.endsWith('.ts') ? textsOf(file, text).strings : [text]
  return strings.flatMap((string) =>
    namesOfOurs.flatMap(([pattern, what]) => {
      const name = pattern.exec(string)?.[0]
      return name ? [`${file} must not name ${what}: ${name}`] : []
    }),
  )
}

/**
 * The imports of one file that its folder may not have. `file` is relative to the project's root.
 * @internal For tests: files of theirs.
 */
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
