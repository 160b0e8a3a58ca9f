/**
 * What pages name is there: tables, columns, functions and their arguments, settings, variables of the environment, commands,
 * files. CHANGELOG.md tells of the past and may name what is gone.
 */
import { readFile } from 'node:fs/promises'
import { join, matchesGlob } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import { root } from '../../../stack/config.ts'
import { trackedFiles } from '../tracked-files.ts'
import { type Catalogue, readCatalogue } from './catalogue.ts'
import { withFolders } from './links.ts'
import { lineAt, type Page, type Piece, readPages } from './pages.ts'

/** Names of others that pages speak of, and whose they are. One that no page names any more must go. */
const others: Record<string, string> = {
  'options.data': 'supabase-js',
  'supabase.auth.mfa': 'supabase-js',
  TZ: 'the system',
}

/**
 * What there is to be named.
 * @internal For tests: a catalogue of theirs.
 */
export type Known = {
  catalogue: Catalogue
  files: string[]
  /** The keys of supabase/config.toml, with their sections: `auth.sessions.timebox`. */
  config: string[]
  /** The scripts of package.json. */
  commands: Set<string>
  /** Variables of the environment, of the functions and of the commands. */
  variables: Set<string>
  /** All code in one text, for names that are neither the database's nor a file's: codes of errors, fields, words of others. */
  code: string
}

export async function findUnknownNames(url: string): Promise<string[]> {
  const [pages, known] = await Promise.all([readPages(), readKnown(url)])
  const gone = Object.keys(others).filter((name) => !pages.some(({ prose }) => prose.includes(name)))
  const stale = gone.map((name) => `no page names ${name} any more: remove it from scripts/checks/docs/names.ts`)
  return [...unknownNamesIn(pages, known), ...stale]
}

async function readKnown(url: string): Promise<Known> {
  const files = await trackedFiles()
  // Neither what was generated, nor pages, nor the guards themselves, which are tested with names that are not there.
  const isCode = (file: string) =>
    !/\.md$|^package-lock|^supabase\/migrations\/|^scripts\/checks\/|^tests\/scripts\/checks\./.test(file)
  const texts = await Promise.all(
    files.filter(isCode).map(async (file) => ({ file, text: await readFile(join(root, file), 'utf8') })),
  )
  const textOf = (pattern: RegExp) => texts.flatMap(({ file, text }) => (pattern.test(file) ? [text] : [])).join('\n')
  const variables = textOf(
    /^(?:\.env(?:\.production)?\.example|deploy\/self-hosted\/[^/]+|functions\/_shared\/env\.ts|scripts\/(?:shared\/|deploy\/|doctor\/)?[^/]+\.ts|tests\/setup\/stacks\.ts|tests\/support\/supabase-compose\.json)$/,
  )
  return {
    catalogue: await readCatalogue(url),
    files,
    config: keysOf(parseToml(textOf(/^supabase\/config\.toml$/))),
    commands: new Set(Object.keys(JSON.parse(textOf(/^package\.json$/)).scripts)),
    variables: new Set(variables.match(/\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b/g)),
    code: textOf(/./),
  }
}

const keysOf = (table: object): string[] =>
  Object.entries<unknown>({ ...table }).flatMap(([key, value]) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? keysOf(value).map((inner) => `${key}.${inner}`)
      : [key],
  )

/** Where a kind of name stands, what it looks like, and what is wrong with one that is not there. */
type Rule = {
  places: (page: Page) => Piece[]
  pattern: RegExp
  problem: (name: string, more: string) => string | false
}

/** @internal For tests: pages of theirs. */
export function unknownNamesIn(pages: Page[], known: Known): string[] {
  const rules = [...rulesOfTheDatabase(known), ...rulesOfTheRepository(known)]
  const told = pages
    .filter(({ file }) => file !== 'CHANGELOG.md')
    .flatMap((page) =>
      rules.flatMap(({ places, pattern, problem }) =>
        places(page).flatMap(({ text, line }) =>
          [...text.matchAll(pattern)].flatMap((match) => {
            const [, name = '', more = ''] = match
            const wrong = others[name] === undefined && problem(name, more)
            return wrong ? [`${page.file}:${line + lineAt(text, match.index) - 1} ${wrong}`] : []
          }),
        ),
      ),
    )
  return [...new Set(told)]
}

const spans = (page: Page) => page.spans
const prose = (page: Page) => [{ text: page.prose, line: 1 }]
const shell = (page: Page) => [
  ...page.spans,
  ...page.blocks.filter(({ language }) => language === 'sh').map(withoutOwn),
]
// Of blocks only the drawings: the server reads those in SQL and tsc those in TypeScript, see sql.ts and code.ts.
const everywhere = (page: Page) => [...prose(page), ...page.blocks.filter(({ language }) => language === '')]

/** A shell's block without the variables that it sets for itself. */
function withoutOwn({ text, line }: Piece): Piece {
  const own = [...text.matchAll(/^([A-Z_]+)=\$/gm)].map(([, name]) => name)
  return own.length === 0
    ? { text, line }
    : { text: text.replaceAll(new RegExp(`\\b(?:${own.join('|')})\\b`, 'g'), ''), line }
}

function rulesOfTheDatabase({ catalogue, config, code }: Known): Rule[] {
  const { schemas, relations, functions, settings } = catalogue
  const words = new Set(code.match(/\w+/g))
  const unqualified = (name: string) => name.slice(name.indexOf('.') + 1)
  const tables = Map.groupBy(relations, ([name]) => unqualified(name))
  const routines = Map.groupBy(functions, ([name]) => unqualified(name))
  const areas = new Set([...settings].map((key) => key.split('.')[0]))

  const isColumn = (table: string, column: string) =>
    relations.get(table)?.has(column) || tables.get(table)?.some(([, columns]) => columns.has(column)) || false
  const isDotted = (name: string) => {
    const end = name.lastIndexOf('.')
    return (
      relations.has(name) ||
      functions.has(name) ||
      settings.has(name) ||
      isColumn(name.slice(0, end), name.slice(end + 1)) ||
      config.some((key) => key === name || key.endsWith(`.${name}`))
    )
  }
  const isOurs = (area = '') => schemas.has(area) || tables.has(area) || areas.has(area)
  const overloadsOf = (name: string) => functions.get(name) ?? routines.get(name)?.flatMap(([, found]) => found) ?? []
  const takes = (name: string, given: string[]) =>
    overloadsOf(name).some((names) => given.every((one) => names.includes(one)))
  return [
    {
      places: everywhere,
      pattern: /(?<![\w.@/$-])((?:public|private)\.[a-z_0-9]+(?:\.[a-z_0-9]+)?)/g,
      problem: (name) => !isDotted(name) && `${name} is no table, column or function of the database`,
    },
    {
      places: spans,
      pattern:
        /^(?!.*\.(?:json|jsonc|key|md|sql|toml|ts)$|(?:public|private)\.)([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*){1,2})$/g,
      problem: (name) =>
        !isDotted(name) &&
        (isOurs(name.split('.')[0]) || !code.includes(name)) &&
        `${name} is no column, function or setting of the database, and no key of supabase/config.toml`,
    },
    {
      places: spans,
      pattern: /^(?!supabase\.)([a-z]\w*[._]\w+)\((.*)\)$/g,
      problem: (name, list) => {
        if (!functions.has(name) && !routines.has(name)) return `${name}() is no function of the database`
        const given = /^\w+(?:, \w+)*$/.test(list) ? list.split(', ') : []
        return !takes(name, given) && `${name}() has no arguments ${list}`
      },
    },
    {
      places: (page) => [...everywhere(page), ...page.blocks.filter(({ language }) => language === 'sql')],
      pattern: /((?:\b[a-z]\w*\.)?\b[a-z]\w*)\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)/g,
      problem: (name, list) => {
        // What is written inside of an argument is another call's.
        const own = list.replaceAll(/\([^()]*\)/g, '').replaceAll(/\([^()]*\)/g, '')
        const given = [...own.matchAll(/(\w+)\s*(?:=>|:=)/g)].map(([, argument = '']) => argument)
        const isOurs = overloadsOf(name).length > 0
        return isOurs && given.length > 0 && !takes(name, given) && `${name}() has no arguments ${given.join(', ')}`
      },
    },
    {
      places: spans,
      pattern: /\brpc\('(\w+)'/g,
      problem: (name) => !functions.has(`public.${name}`) && `there is no function public.${name}`,
    },
    {
      places: spans,
      pattern: /(?<!storage)\.from\('(\w+)'/g,
      problem: (name) => !relations.has(`public.${name}`) && `there is no table public.${name}`,
    },
    {
      places: spans,
      pattern: /^([a-z][a-z0-9]*(?:_[a-z0-9]+)+)$/g,
      problem: (name) =>
        !tables.has(name) && !routines.has(name) && !words.has(name) && `${name} is named nowhere in the code`,
    },
  ]
}

function rulesOfTheRepository({ files, commands, variables, code }: Known): Rule[] {
  const there = withFolders(files)
  const names = new Set([...there].map((path) => path.slice(path.lastIndexOf('/') + 1)))
  const isThere = (path: string) =>
    there.has(path) || (path.includes('*') && files.some((file) => matchesGlob(file, path)))
  return [
    {
      places: prose,
      pattern:
        /(?<![\w/.:@{}-])((?:deploy|docs|functions|policies|scripts|sql|stack|supabase|tests)\/(?:[\w./*-]*[\w/*])?)/g,
      problem: (path) =>
        !isThere(path.replace(/\/$/, '')) &&
        // What is made at run time, or to say something, is named in the code that does.
        (/\.(?:ts|sql|md)$/.test(path) || !code.includes(path)) &&
        `${path} is not there`,
    },
    {
      places: spans,
      pattern: /^([\w-]+\/|[\w.-]+\.(?:json|jsonc|key|md|sql|toml|ts))$/g,
      problem: (name) =>
        !names.has(name.replace(/\/$/, '')) && !code.includes(`'${name}'`) && `no file or folder is called ${name}`,
    },
    {
      places: (page) => [...prose(page), ...shell(page)],
      pattern: /\bnpm (?:run (?:-s )?([\w:]+)|(start|stop|test)\b)/g,
      problem: (run, short) => !commands.has(run || short) && `package.json has no command ${run || short}`,
    },
    {
      places: shell,
      pattern: /\bsupabase (db (?:push|advisors)|migration list)\b(?![^\n`]*--remote)/g,
      problem: (command) => `supabase ${command} goes to a local database, unless --remote names another`,
    },
    {
      places: (page) => page.blocks,
      pattern: /\.functions\.invoke\('([\w-]+)/g,
      problem: (name) => !there.has(`functions/${name}`) && `there is no function ${name}`,
    },
    {
      places: shell,
      pattern: /(?:\$\{?|(?<![\w$"])(?=\w+=))([A-Z][A-Z0-9_]+)/g,
      problem: (name) => !variables.has(name) && `no code reads the variable ${name}`,
    },
    {
      places: spans,
      pattern: /^([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)$/g,
      problem: (name) => !variables.has(name) && `no code reads the variable ${name}`,
    },
  ]
}
