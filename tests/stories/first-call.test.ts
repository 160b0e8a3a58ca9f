/** docs/operations.md, "The first call": its commands, as they stand there, against the local stack in the place of a hosted project. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { root } from '../../stack/config.ts'
import { confirmationLink } from '../../stack/demo-user.ts'
import { newEmail } from '../support/users.ts'
import { target } from '../target.ts'

test('the page’s commands sign a user up and make a call that costs one credit', async () => {
  const page = readFileSync(join(root, 'docs', 'operations.md'), 'utf8')
  const [, chapter = ''] = /\n## The first call\n([\s\S]*?)\n## /.exec(page) ?? []
  const email = newEmail()
  const blocks = [...chapter.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, text = '']) =>
    text
      .replace(/^API_URL=.*$/m, `API_URL=${target().apiUrl}`)
      .replace(/^PUBLISHABLE_KEY=.*$/m, `PUBLISHABLE_KEY=${target().publishableKey}`)
      .replaceAll('ada@example.com', email)
      // OpenRouter's model, in whose place the stack has one that echoes.
      .replace('openai/gpt-4o-mini', 'demo/echo'),
  )
  const [values = '', signUp = '', call = ''] = blocks
  const run = async (text: string) => (await promisify(execFile)('bash', ['-euc', `${values}\n${text}`])).stdout

  expect(blocks).toHaveLength(3)
  expect(await run(signUp)).toContain(email)
  await fetch(await confirmationLink(target().mailUrl, email), { redirect: 'manual' })
  expect(await run(call)).toContain('You said: Hello, Palisade!')

  // What the last line of it says, once the call is settled behind its answer.
  const signIn = call.slice(0, call.indexOf('\ncurl'))
  const balance = () => run(`${signIn}\n${call.trim().split('\n').at(-1)}`)
  await expect.poll(balance).toMatch(/"balance":\s*99\b/)
})
