/** The pages of the project, taken apart: what they link to, what they name in code spans, and their blocks of code. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fromMarkdown } from 'mdast-util-from-markdown'
import { root } from '../../../stack/config.ts'
import { trackedFiles } from '../tracked-files.ts'

/** `line` is that of the page, from 1; of a block, that of its first line of code. */
export type Piece = { text: string; line: number }
export type Page = {
  file: string
  /** The page with its blocks of code blank, so that a place in it is the same place. */
  prose: string
  spans: Piece[]
  blocks: (Piece & { language: string })[]
  /** Where links, images and references lead. */
  links: Piece[]
  /** What was meant as a link, and is read as plain words. */
  deadLinks: Piece[]
  /** What can stand behind # in a link, as GitHub makes it of headings, or as HTML names it. */
  anchors: Set<string>
}

type Root = ReturnType<typeof fromMarkdown>
type Node = Root | Root['children'][number]

export async function readPages(): Promise<Page[]> {
  const files = (await trackedFiles()).filter((file) => file.endsWith('.md'))
  return Promise.all(files.map(async (file) => readPage(file, await readFile(join(root, file), 'utf8'))))
}

/** @internal For tests: pages of theirs. */
export function readPage(file: string, text: string): Page {
  const page: Page = { file, prose: text, spans: [], blocks: [], links: [], deadLinks: [], anchors: new Set() }
  for (const node of nodesOf(fromMarkdown(text))) {
    const line = node.position?.start.line ?? 1
    switch (node.type) {
      case 'code': {
        const { start, end } = placeOf(node)
        // What begins with a fence has its code below it; what is only indented is code from its first line.
        const isFenced = /^[`~]/.test(text.slice(start))
        page.blocks.push({ language: node.lang ?? '', text: `${node.value}\n`, line: isFenced ? line + 1 : line })
        page.prose = page.prose.slice(0, start) + blank(text.slice(start, end)) + page.prose.slice(end)
        break
      }
      case 'inlineCode':
        page.spans.push({ text: node.value, line })
        break
      case 'link':
      case 'image':
      case 'definition':
        page.links.push({ text: node.url, line })
        break
      case 'html':
        for (const [, name = '', given = ''] of node.value.matchAll(attributes)) {
          const value = given.replaceAll(/^["']|["']$/g, '')
          if (/^(?:href|src)$/i.test(name)) page.links.push({ text: value, line })
          else page.anchors.add(value)
        }
        break
      case 'heading':
        page.anchors.add(freeAnchor(wordsOf(node), page.anchors))
        break
      case 'text':
        // `[words][reference]` without the reference, and `[words](two words)`.
        if (/\]\s?[[(]/.test(node.value)) page.deadLinks.push({ text: node.value.trim(), line })
    }
  }
  return page
}

/** What a block may be: code that a check reads, '' for drawings. Another word for one of these would hide a block from its check. */
const languages = new Set(['', 'js', 'json', 'sh', 'sql', 'ts'])

export const findUnknownLanguages = async (): Promise<string[]> => unknownLanguagesIn(await readPages())

/** @internal For tests: pages of theirs. */
export const unknownLanguagesIn = (pages: Page[]): string[] =>
  pages.flatMap(({ file, blocks }) =>
    blocks
      .filter(({ language }) => !languages.has(language))
      .map(
        ({ language, line }) =>
          `${file}:${line} is in ${language}, which nobody checks: say one of${[...languages].join(' ')}`,
      ),
  )

const attributes = /\s(href|src|id|name)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)/gi

function* nodesOf(node: Node): Generator<Node> {
  yield node
  if ('children' in node) for (const child of node.children) yield* nodesOf(child)
}

const placeOf = ({ position }: Node) => ({ start: position?.start.offset ?? 0, end: position?.end.offset ?? 0 })
const blank = (text: string) => text.replaceAll(/[^\n]/g, ' ')

export const lineAt = (text: string, index: number): number => text.slice(0, index).split('\n').length

const wordsOf = (heading: Node): string =>
  [...nodesOf(heading)].map((node) => (node.type === 'text' || node.type === 'inlineCode' ? node.value : '')).join('')

function freeAnchor(heading: string, taken: Set<string>): string {
  const anchor = heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
    .replaceAll(' ', '-')
  // The second heading of the same words is told from the first by a number.
  let unique = anchor
  for (let n = 1; taken.has(unique); n += 1) unique = `${anchor}-${n}`
  return unique
}
