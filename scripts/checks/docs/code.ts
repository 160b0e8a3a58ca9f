/** TypeScript in the pages is what the compiler accepts, with the types of the schema. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { type Argument, type CallExpression, type Expression, parseSync, Visitor } from 'oxc-parser'
import { root } from '../../../stack/config.ts'
import { type Page, readPages } from './pages.ts'

/** What the pages take as given: the values of `npm run -s status`, and what an app has at hand. */
const assumed = `
type Database = import('./database.types.ts').Database
declare const API_URL: string, PUBLISHABLE_KEY: string
declare const email: string, password: string
declare const supabase: import('@supabase/supabase-js').SupabaseClient<Database>
declare const user: import('@supabase/supabase-js').User
declare const messages: import('openai').OpenAI.ChatCompletionMessageParam[]
declare const api_key: string, api_secret: string
declare const from: string, to: string
declare const credential_id: string
declare function show(value: unknown): void
declare function reload(): void

type Asked = Database['public']['Tables'] & Database['public']['Views']
type ColumnOf<Table extends keyof Asked> = string & keyof Asked[Table]['Row']
type MistakeIn<Data> = Data extends { error: true } & infer Message extends string
  ? Message
  : Data extends readonly (infer One)[]
    ? MistakeIn<One>
    : Data extends object
      ? { [Key in keyof Data]: MistakeIn<Data[Key]> }[keyof Data]
      : never
type Right<Data> = [MistakeIn<Data>] extends [never] ? 'what is selected' : MistakeIn<Data>
declare function known<Query extends PromiseLike<{ data: unknown }>>(
  query: Query,
  selected: Right<Awaited<Query>['data']>,
): Query
`

export const findWrongCode = async (): Promise<string[]> => wrongCodeIn(await readPages())

/**
 * The compiler's messages about all blocks in TypeScript and JavaScript, with the lines of the pages.
 * @internal For tests: pages of theirs.
 */
export async function wrongCodeIn(pages: Page[]): Promise<string[]> {
  // Below node_modules, so that packages are found; not in it, so that nobody takes it for one.
  const cache = join(root, 'node_modules', '.cache')
  await mkdir(cache, { recursive: true })
  const folder = await mkdtemp(join(cache, 'palisade-docs-'))
  try {
    const silenced: string[] = []
    const pageOf = new Map<string, string>()
    for (const { file, blocks } of pages.filter((page) => page.file !== 'CHANGELOG.md')) {
      for (const { text, line } of blocks.filter(({ language }) => /^(?:ts|js)$/.test(language))) {
        if (/@ts-(?:nocheck|ignore|expect-error)/.test(text)) silenced.push(`${file}:${line} silences the compiler`)
        const name = `block-${pageOf.size + 1}.ts`
        pageOf.set(name, file)
        // As many empty lines as stand above it on the page; a module, so that blocks do not see each other.
        await writeFile(join(folder, name), `${'\n'.repeat(line - 1)}${withColumns(text)}export {}\n`)
      }
    }
    await writeFile(join(folder, 'assumed.d.ts'), assumed)
    const types = join(root, 'functions', '_shared', 'database.types.ts')
    await writeFile(join(folder, 'database.types.ts'), `export type * from ${JSON.stringify(types)}\n`)
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(settings([...pageOf.keys()])))
    const output = await compile(folder)
    const found = output.split('\n').flatMap((line) => {
      const [, path = '', place = '', message] = /^(.*\.ts)\((\d+),\d+\): error (.*)$/.exec(line) ?? []
      return message ? [`${pageOf.get(basename(path)) ?? path}:${place} ${message}`] : []
    })
    return [...silenced, ...found]
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/**
 * An example that has the compiler look at the columns that it names. supabase-js takes any: a wrong one in `select` only shows in the
 * type of the answer, and one in `order` or `match` nowhere. Lines stay where they are.
 */
function withColumns(text: string): string {
  const { program, errors } = parseSync('example.ts', text)
  if (errors.length > 0) return text
  const added: { at: number; text: string }[] = []
  new Visitor({
    CallExpression: (call) => {
      const method = methodOf(call)
      const table = method && tableOf(method.of)
      if (table === undefined) return
      if (method?.name === 'select') {
        added.push({ at: call.start, text: 'known(' }, { at: call.end, text: ", 'what is selected')" })
      }
      const [first] = call.arguments
      if (table === '' || !first || method?.name === 'select') return
      if (/^\w+$/.test(stringOf(first) ?? '')) added.push({ at: first.end, text: ` satisfies ColumnOf<'${table}'>` })
      if (method?.name === 'match') {
        added.push({ at: first.end, text: ` satisfies { [Column in ColumnOf<'${table}'>]?: unknown }` })
      }
    },
  }).visit(program)
  const parts = added.toSorted((a, b) => a.at - b.at)
  return parts.reduceRight((rest, { at, text: part }) => `${rest.slice(0, at)}${part}${rest.slice(at)}`, text)
}

/** `of.name(...)` */
const methodOf = ({ callee }: CallExpression) =>
  callee.type === 'MemberExpression' && callee.property.type === 'Identifier'
    ? { name: callee.property.name, of: callee.object }
    : undefined

const stringOf = (node: Argument | undefined) =>
  node?.type === 'Literal' && typeof node.value === 'string' ? node.value : undefined

/** The table that a chain of calls begins with; '' when it begins with a function; undefined when with neither. */
function tableOf(chain: Expression): string | undefined {
  const method = chain.type === 'CallExpression' ? methodOf(chain) : undefined
  if (chain.type !== 'CallExpression' || !method) return
  if (method.name === 'rpc') return ''
  // A client of our own schema, not `Buffer.from`, a bucket of Storage or another schema.
  const isTable = method.name === 'from' && method.of.type === 'Identifier' && /^[a-z]/.test(method.of.name)
  return isTable ? stringOf(chain.arguments[0]) : tableOf(method.of)
}

/** As our own code is compiled, and for browsers, too. Examples may make what they do not use. */
const settings = (names: string[]) => ({
  extends: join(root, 'tsconfig.json'),
  compilerOptions: { lib: ['esnext', 'dom'], types: [], noUnusedLocals: false, noUnusedParameters: false },
  include: [],
  files: ['assumed.d.ts', ...names],
})

async function compile(folder: string): Promise<string> {
  const args = ['-p', folder, '--pretty', 'false']
  return promisify(execFile)(join(root, 'node_modules', '.bin', 'tsc'), args, { cwd: folder }).then(
    () => '',
    (error: { stdout?: string; stderr?: string }) => {
      // Something else than findings about a block: the compiler could not run.
      if (!error.stdout?.includes(': error ')) throw error
      return error.stdout
    },
  )
}
