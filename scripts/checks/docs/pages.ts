/** The pages of the project, taken apart: what they link to, what they name in code spans, and their blocks of code. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
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
  links: Piece[]
  /** What can stand behind # in a link, as GitHub makes it of headings. */
  anchors: Set<string>
}

export async function readPages(): Promise<Page[]> {
  const files = (await trackedFiles()).filter((file) => file.endsWith('.md'))
  return Promise.all(files.map(async (file) => readPage(file, await readFile(join(root, file), 'utf8'))))
}

export function readPage(file: string, text: string): Page {
  const blocks: Page['blocks'] = []
  const prose = text.replaceAll(
    /^( *)```(\w*)\n([\s\S]*?)^ *```$/gm,
    (block, indent: string, language: string, code: string, at: number) => {
      blocks.push({ language, text: code.replaceAll(new RegExp(`^${indent}`, 'gm'), ''), line: lineAt(text, at) + 1 })
      return blank(block)
    },
  )
  const spans = find(prose, /`([^`]+)`/g)
  const links = find(prose.replaceAll(/`[^`]+`/g, blank), /\]\(([^()\s]+)\)/g)
  return { file, prose, spans, blocks, links, anchors: anchorsIn(prose) }
}

const blank = (text: string) => text.replaceAll(/[^\n]/g, ' ')
const find = (text: string, pattern: RegExp): Piece[] =>
  [...text.matchAll(pattern)].map((match) => ({ text: match[1] ?? '', line: lineAt(text, match.index) }))

export const lineAt = (text: string, index: number): number => text.slice(0, index).split('\n').length

function anchorsIn(prose: string): Set<string> {
  const anchors = new Set<string>()
  for (const [, heading = ''] of prose.matchAll(/^#{1,6} +(.+?) *$/gm)) {
    const words = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
    const anchor = words.replaceAll(/[^\p{L}\p{N}_ -]/gu, '').replaceAll(' ', '-')
    // The second heading of the same words is told from the first by a number.
    let unique = anchor
    for (let n = 1; anchors.has(unique); n += 1) unique = `${anchor}-${n}`
    anchors.add(unique)
  }
  return anchors
}
