import { describe, expect, test } from 'vitest'
import { inSession, shutOut } from './in-session.ts'
import { type Account, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const newDocument = async (tx: Tx, owner: Account): Promise<string> => {
  const [row] = await inSession(
    tx,
    owner,
    (as) => as`insert into public.documents (title, content) values ('Mine', '{"text": "secret"}') returning id`,
  )
  return row?.id
}

const newImage = async (tx: Tx, { id }: Account): Promise<string> => {
  const image = crypto.randomUUID()
  const metadata = { size: 10, mimetype: 'image/png' }
  await tx`
    insert into storage.objects (id, bucket_id, name, metadata)
    values (${image}, 'images', ${`${id}/${image}.png`}, ${tx.json(metadata)})`
  return image
}

const strangers = async (tx: Tx) => {
  const [owner, other] = [await newAccount(tx), await newAccount(tx)]
  return { owner, other, document: await newDocument(tx, owner), image: await newImage(tx, owner) }
}

describe('documents and images of others', () => {
  test('nobody writes a document in another’s name', () =>
    rolledBack(async (tx) => {
      const { owner, other } = await strangers(tx)

      const refused = await refusal(tx, (sp) =>
        inSession(sp, other, (as) => as`insert into public.documents (user_id) values (${owner.id})`),
      )

      expect(refused.sqlstate).toBe('42501')
    }))

  test('another’s document cannot be taken over by its id', () =>
    rolledBack(async (tx) => {
      const { other, document } = await strangers(tx)

      const refused = await refusal(tx, (sp) =>
        inSession(
          sp,
          other,
          (as) => as`
          insert into public.documents (id, title) values (${document}, 'Taken') on conflict (id) do update set title = 'Taken'`,
        ),
      )

      expect(refused.sqlstate).toBe('42501')
    }))

  test('an image is not hung under another’s document, and the refusal is that of a missing one', () =>
    rolledBack(async (tx) => {
      const { other, document } = await strangers(tx)
      const image = await newImage(tx, other)
      const hang = (id: string) =>
        refusal(tx, (sp) =>
          inSession(sp, other, (as) => as`update public.images set document_id = ${id} where id = ${image}`),
        )

      const [foreign, missing] = [await hang(document), await hang(crypto.randomUUID())]

      expect(foreign).toEqual(missing)
      expect(foreign.sqlstate).toBe('23503')
    }))

  test('another sees, changes and deletes nothing', () =>
    rolledBack(async (tx) => {
      const { other, document, image } = await strangers(tx)

      const counts = await inSession(tx, other, async (as) => [
        (await as`select from public.documents`).count,
        (await as`select from public.images`).count,
        (await as`update public.documents set title = 'x' where id = ${document}`).count,
        (await as`update public.images set description = 'x' where id = ${image}`).count,
        (await as`delete from public.documents where id = ${document}`).count,
      ])

      expect(counts).toEqual([0, 0, 0, 0, 0])
    }))

  test('who is not signed in has no access at all', () =>
    rolledBack(async (tx) => {
      await tx`set local role anon`

      for (const table of ['documents', 'images'])
        expect((await refusal(tx, (sp) => sp`select from ${sp(`public.${table}`)}`)).sqlstate).toBe('42501')
    }))
})

describe('an owner who is', () => {
  test.each(shutOut)('%s reads, writes, changes and deletes nothing', (_how, shut) =>
    rolledBack(async (tx) => {
      const { owner, document } = await strangers(tx)
      await shut(tx, owner)

      const refused = await refusal(tx, (sp) => newDocument(sp, owner))
      const counts = await inSession(tx, owner, async (as) => [
        (await as`select from public.documents`).count,
        (await as`select from public.images`).count,
        (await as`update public.documents set title = 'x' where id = ${document}`).count,
        (await as`delete from public.documents where id = ${document}`).count,
      ])

      expect(refused.sqlstate).toBe('42501')
      expect(counts).toEqual([0, 0, 0, 0])
    }),
  )
})

describe('the owner', () => {
  test.each([
    ['give a document away', 'update public.documents set user_id = gen_random_uuid() where true'],
    ['date a document', 'update public.documents set created_at = now() where true'],
    ['make an image without a file', "insert into public.images (id, path) values (gen_random_uuid(), 'x')"],
    ['delete an image but its file', 'delete from public.images where true'],
    ['give an image away', 'update public.images set user_id = gen_random_uuid() where true'],
    ['say that an image was checked', "update public.images set status = 'ok' where true"],
    ['point an image at another file', "update public.images set path = 'x' where true"],
    ['empty the tables', 'truncate public.documents, public.images'],
  ])('cannot %s', (_name, statement) =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)

      const refused = await refusal(tx, (sp) => inSession(sp, owner, (as) => as.unsafe(statement)))

      expect(refused.sqlstate).toBe('42501')
    }),
  )

  test.each([
    ['a title of 201 characters', "insert into public.documents (title) values (repeat('t', 201))"],
    ['a kind with a capital', "insert into public.documents (kind) values ('Note')"],
    [
      'more than 256 KiB',
      "insert into public.documents (content) select to_jsonb(string_agg(md5(i::text), '')) from generate_series(1, 8192) i",
    ],
    ['an image of no width', 'update public.images set width = 0 where true'],
  ])('cannot save %s', (_name, statement) =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)

      const refused = await refusal(tx, (sp) => inSession(sp, owner, (as) => as.unsafe(statement)))

      expect(refused.sqlstate).toBe('23514')
    }),
  )

  test('keeps documents, hangs images under them, and deletes a document without its images', () =>
    rolledBack(async (tx) => {
      const { owner, document, image } = await strangers(tx)
      await inSession(
        tx,
        owner,
        (as) => as`update public.images set document_id = ${document}, width = 4 where id = ${image}`,
      )

      await inSession(tx, owner, (as) => as`delete from public.documents where id = ${document}`)

      expect(await tx`select document_id, user_id, width from public.images where id = ${image}`).toEqual([
        { document_id: null, user_id: owner.id, width: 4 },
      ])
    }))

  test('pages through documents by time and id along the index', () =>
    rolledBack(async (tx) => {
      const { owner, document } = await strangers(tx)
      await tx`set local enable_seqscan = off`
      await tx`set local enable_sort = off`

      const plan = await inSession(
        tx,
        owner,
        (as) => as`
        explain select id from public.documents
        where user_id = ${owner.id} and (created_at, id) < (now(), ${document}) order by created_at desc, id desc limit 20`,
      )

      expect(JSON.stringify(plan)).toContain('documents_user_id_created_at_id_idx')
    }))
})
