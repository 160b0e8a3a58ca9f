/** TypeScript in the pages is what the compiler accepts, with the types of the schema. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
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
declare function show(value: unknown): void
declare function reload(): void
`

export const findWrongCode = async (): Promise<string[]> => wrongCodeIn(await readPages())

/** The compiler's messages about all blocks in TypeScript and JavaScript, with the lines of the pages. */
export async function wrongCodeIn(pages: Page[]): Promise<string[]> {
  // Below node_modules, so that packages are found; not in it, so that nobody takes it for one.
  const cache = join(root, 'node_modules', '.cache')
  await mkdir(cache, { recursive: true })
  const folder = await mkdtemp(join(cache, 'palisade-docs-'))
  try {
    const pageOf = new Map<string, string>()
    for (const { file, blocks } of pages.filter((page) => page.file !== 'CHANGELOG.md')) {
      for (const { text, line } of blocks.filter(({ language }) =>
        /^(?:ts|js|typescript|javascript)$/.test(language),
      )) {
        const name = `block-${pageOf.size + 1}.ts`
        pageOf.set(name, file)
        // As many empty lines as stand above it on the page; a module, so that blocks do not see each other.
        await writeFile(join(folder, name), `${'\n'.repeat(line - 1)}${text}export {}\n`)
      }
    }
    await writeFile(join(folder, 'assumed.d.ts'), assumed)
    const types = join(root, 'functions', '_shared', 'database.types.ts')
    await writeFile(join(folder, 'database.types.ts'), `export type * from ${JSON.stringify(types)}\n`)
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(settings([...pageOf.keys()])))
    const output = await compile(folder)
    return output.split('\n').flatMap((line) => {
      const [, path = '', place = '', message] = /^(.*\.ts)\((\d+),\d+\): error (.*)$/.exec(line) ?? []
      return message ? [`${pageOf.get(basename(path)) ?? path}:${place} ${message}`] : []
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
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
