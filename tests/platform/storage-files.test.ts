import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { createFiles } from '../../stack/platform/storage/files.ts'

const folder = mkdtempSync(join(tmpdir(), 'palisade-files-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('a file that cannot be stored leaves nothing of it', async () => {
  const place = { bucket_id: 'images', name: 'a.png', version: '1' }
  const files = createFiles(folder)
  await files.write(place, Buffer.from('bytes'))
  const list = () => readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => !isFolder(name))
  const isFolder = (name: string) => statSync(join(folder, name)).isDirectory()
  const [path = ''] = list()
  // What a full disk does to the bytes, a folder in their place does, too.
  rmSync(join(folder, path))
  mkdirSync(join(folder, path))

  await expect(files.write(place, Buffer.from('others'))).rejects.toThrow('EISDIR')

  expect(list()).toEqual([])
})
