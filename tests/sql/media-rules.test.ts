/** The rules for media of a model: what is wrong with a row is said by the kind and by what its rule needs; docs/operations.md has good ones. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root } from '../../stack/config.ts'
import { newModel } from './ai-support.ts'
import { refusal, rolledBack, type Tx } from './support.ts'

const setMedia = (tx: Tx, media: string) =>
  tx`update public.models set media = ${media}::text::jsonb where id = 'sql/model'`

test.each([
  ['[]', /^models\.media is not an object/],
  ['{"smell": {"rule": "context"}}', /^models\.media has the unknown kind smell$/],
  ['{"image": "context"}', /^models\.media\.image has no rule that is known/],
  ['{"image": {"tokens": 1}}', /^models\.media\.image has no rule that is known/],
  ['{"audio": {"rule": "minutes"}}', /^models\.media\.audio has no rule that is known: .*minutes/],
  ['{"image": {"rule": "fixed"}}', /^models\.media\.image: the rule fixed needs tokens, a number from 0 /],
  ['{"image": {"rule": "fixed", "tokens": "9"}}', /^models\.media\.image: the rule fixed needs tokens/],
  ['{"image": {"rule": "fixed", "tokens": -1}}', /^models\.media\.image: the rule fixed needs tokens/],
  [
    '{"image": {"rule": "pixels", "per": 0, "max": 9}}',
    /^models\.media\.image: the rule pixels needs per, a number from 1 /,
  ],
  [
    '{"image": {"rule": "context"}, "file": {"rule": "pages", "tokens": 1}}',
    /^models\.media\.file: the rule pages needs max_pages/,
  ],
])('%s is refused by name', (media, why) =>
  rolledBack(async (tx) => {
    await newModel(tx)

    const refused = await refusal(tx, (sp) => setMedia(sp, media))

    expect(refused).toMatchObject({ sqlstate: '23514', message: expect.stringMatching(why) })
  }),
)

test('the examples of docs/operations.md are models that a plan has, with prices', () =>
  rolledBack(async (tx) => {
    const page = readFileSync(join(root, 'docs', 'operations.md'), 'utf8')
    const blocks = [...page.matchAll(/```sql\n([\s\S]*?)```/g)].map(([, text = '']) => text)
    const examples = blocks.filter((text) => text.includes('insert into public.models '))
    const model = /insert into public\.models [^;]*?\bvalues \('([^']+)'/g
    const ids = examples.flatMap((text) => [...text.matchAll(model)].map(([, id]) => id ?? ''))

    for (const text of examples) await tx.unsafe(text)

    const offered = await tx`
      select distinct m.id from public.models m join public.plan_models p on p.model_id = m.id
      join public.model_prices c on c.model_id = m.id where m.id = any (${ids})`
    expect(ids).toHaveLength(4)
    expect(offered.map(({ id }) => id).sort()).toEqual([...ids].sort())
  }))
