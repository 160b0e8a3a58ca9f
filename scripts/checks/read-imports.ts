/** Which files of ours lead to which, and what else their text names: read from the syntax tree, so that no way of writing hides it. */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Argument, type Expression, parseSync, Visitor } from 'oxc-parser'
import { root } from '../../stack/config.ts'

/** Our TypeScript below these folders: paths from the project's root, and texts. */
export async function readSources(folders: string[]): Promise<{ file: string; text: string }[]> {
  const entries = await Promise.all(folders.map((folder) => readdir(join(root, folder), { recursive: true })))
  const files = entries
    .flatMap((names, i) => names.map((name) => join(folders[i] ?? '', name)))
    .filter((file) => file.endsWith('.ts') && !file.includes('node_modules'))
  return Promise.all(files.map(async (file) => ({ file, text: await readFile(join(root, file), 'utf8') })))
}

/**
 * The files of ours that a file leads to, from the project's root: what it imports, and every string that is a path from the file itself
 * or below our root, since whoever is given it can load it. Of a string that is put together, what stands before a value counts.
 */
export function importsOf(file: string, text: string): string[] {
  const { imported, strings } = textsOf(file, text)
  const isOwnPath = (path: string) =>
    /^\/?\.\.?\//.test(path) || path.startsWith(`${root}/`) || path.startsWith(pathToFileURL(`${root}/`).href)
  const isPath = (path: string) => /^\.\.?$|^\/|^file:/.test(path) || isOwnPath(path)
  const paths = [...imported.filter(isPath), ...strings.filter(isOwnPath)]
  return [...new Set(paths.map((path) => fromRoot(file, path)))]
}

function fromRoot(file: string, path: string): string {
  const bare = path.replace(/[?#].*$/, '')
  // After `${import.meta.dirname}` a path goes on with a slash.
  const plain = bare.startsWith('file:') ? fileURLToPath(bare) : bare.replace(/^\/\./, '.')
  const found = relative(root, resolve(root, dirname(file), plain))
  return plain.endsWith('/') ? `${found}/` : found
}

/** All strings of a file but its types' and those that it imports, which stand in `imported`. */
export function textsOf(file: string, text: string): { imported: string[]; strings: string[] } {
  const { program, errors } = parseSync(file, text)
  if (errors[0]) throw new Error(`${file} cannot be read: ${errors[0].message}`)
  const imported: string[] = []
  const strings: string[] = []
  const types = new Set<number>()
  const take = (source: Argument | Expression | null | undefined, from = '') => {
    const given =
      source?.type === 'TemplateLiteral' ? source.quasis[0]?.value.cooked : source?.type === 'Literal' && source.value
    if (typeof given === 'string') imported.push(/^(?:[./]|\w+:)/.test(given) ? given : from + given)
  }
  new Visitor({
    ImportDeclaration: ({ source }) => take(source),
    ExportNamedDeclaration: ({ source }) => take(source),
    ExportAllDeclaration: ({ source }) => take(source),
    ImportExpression: ({ source }) => take(source),
    TSImportType: ({ source }) => take(source),
    TSExternalModuleReference: ({ expression }) => take(expression),
    CallExpression: ({ callee, arguments: [first] }) => {
      if (/\b(?:createRequire|require)\b|^import\.meta\.resolve$/.test(text.slice(callee.start, callee.end)))
        take(first)
    },
    NewExpression: ({ arguments: [first, base] }) => {
      if (base && text.slice(base.start, base.end) === 'import.meta.url') take(first, './')
    },
    TSLiteralType: ({ literal }) => {
      types.add(literal.start)
    },
    Literal: ({ value, start }) => {
      if (typeof value === 'string' && !types.has(start)) strings.push(value)
    },
    TemplateElement: ({ value }) => {
      strings.push(value.cooked ?? value.raw)
    },
  }).visit(program)
  return { imported, strings }
}
