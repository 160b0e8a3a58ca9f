/** Links lead somewhere: to a file or folder of the repository, and to a heading or a line of it. README names all pages, folders and commands. */
import { readFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { root } from '../../../stack/config.ts'
import { trackedFiles } from '../tracked-files.ts'
import { type Page, readPages } from './pages.ts'

export async function findBrokenLinks(): Promise<string[]> {
  const [pages, files] = await Promise.all([readPages(), trackedFiles()])
  const { scripts } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  return [...brokenLinksIn(pages, files), ...missingInReadme(pages, files, new Set(Object.keys(scripts)))]
}

/** @internal For tests: pages of theirs. */
export function brokenLinksIn(pages: Page[], files: string[]): string[] {
  const there = withFolders(files)
  return pages.flatMap(({ file, links, deadLinks }) => [
    ...deadLinks.map(({ text, line }) => `${file}:${line} has words that look like a link and are none: ${text}`),
    ...links.flatMap(({ text, line }) => {
      if (/^(?:[a-z][a-z0-9+.-]*:|\/\/)/i.test(text)) return []
      const [path = '', anchor] = decoded(text).split('#')
      const target = targetOf(file, path.replace(/\?.*$/, ''))
      if (!there.has(target)) return [`${file}:${line} links to ${text}, which is not there`]
      const page = pages.find((candidate) => candidate.file === target)
      // Lines of a file that is no page have an address, too.
      const isAnchor = page
        ? page.anchors.has(anchor ?? '')
        : files.includes(target) && /^L\d+(?:-L\d+)?$/.test(anchor ?? '')
      if (anchor === undefined || isAnchor) return []
      return [`${file}:${line} links to ${text}, but ${target} has no such ${page ? 'heading' : 'place'}`]
    }),
  ])
}

/** A path begins at the page's folder, or with a slash at the root of the repository. */
function targetOf(file: string, path: string): string {
  if (path === '') return file
  const target = path.startsWith('/') ? path.slice(1) : join(dirname(file), path)
  return normalize(target).replace(/\/$/, '')
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/**
 * README is what a newcomer reads first: it leads to every page of docs/ and every folder, and tells of every command.
 * @internal For tests: a README of theirs.
 */
export function missingInReadme(pages: Page[], files: string[], commands: Set<string>): string[] {
  const readme = pages.find(({ file }) => file === 'README.md')
  const named = new Set(readme?.links.map(({ text }) => text.replace(/\/$/, '')))
  const folders = files.filter((file) => file.includes('/') && !file.startsWith('.')).map((file) => file.split('/')[0])
  const wanted = [...new Set(folders), ...files.filter((file) => /^docs\/.*\.md$/.test(file))]
  const told = new Set([...(readme?.prose.matchAll(/npm (?:run (?:-s )?)?([\w:]+)/g) ?? [])].map(([, name]) => name))
  return [
    ...wanted.filter((path = '') => !named.has(path)).map((path) => `README.md does not lead to ${path}`),
    ...[...commands].filter((name) => !told.has(name)).map((name) => `README.md does not tell of npm run ${name}`),
  ]
}

/** Every file, and every folder that holds one. */
export function withFolders(files: string[]): Set<string> {
  const folders = files.flatMap((file) => {
    const parts = file.split('/')
    return parts.map((_, i) => parts.slice(0, i).join('/'))
  })
  return new Set([...files, ...folders].filter((path) => path !== ''))
}
