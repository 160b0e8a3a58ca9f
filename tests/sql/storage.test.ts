import { describe, expect, test } from 'vitest'
import { inSession, shutOut } from './in-session.ts'
import {
  type Account,
  asUser,
  db,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  setLimit,
  type Tx,
  together,
} from './support.ts'

type File = { bucket?: string; name?: string; bytes?: number | null; type?: string; version?: string }

const png = (owner: Account, name = `${crypto.randomUUID()}.png`) => `${owner.id}/${name}`

/** A row as the Storage service writes it when an upload is complete; without bytes, as it tries its rights before. */
const upload = async (tx: Tx | Sql, owner: Account, file: File = {}): Promise<string> => {
  const { bucket = 'images', name = png(owner), bytes = 10, type = 'image/png', version = crypto.randomUUID() } = file
  const metadata = bytes === null ? null : JSON.stringify({ size: bytes, mimetype: type })
  const [row] = await tx`
    insert into storage.objects (bucket_id, name, version, metadata)
    values (${bucket}, ${name}, ${version}, ${metadata}::text::jsonb)
    on conflict (bucket_id, name) do update set version = excluded.version, metadata = coalesce(excluded.metadata, objects.metadata)
    returning id`
  return row?.id
}

const storedBytes = async (tx: Tx | Sql, { id }: Account) =>
  (await tx`select sum((metadata ->> 'size')::bigint)::int as sum from storage.objects where name like ${`${id}/%`}`)[0]
    ?.sum

const queue = (tx: Tx, { id }: Account) =>
  tx`select object_id, version, rejected from private.uploads_to_check where user_id = ${id}`

describe('the buckets', () => {
  test('of users are private, take 16 MB and four types of image', async () => {
    expect(
      await db()`select id, public, file_size_limit::int as bytes, allowed_mime_types as types from storage.buckets where id <> 'audit-archive' order by id`,
    ).toEqual(
      ['avatars', 'images'].map((id) => ({
        id,
        public: false,
        bytes: 16 * 1024 * 1024,
        types: ['image/png', 'image/jpeg', 'image/gif', 'image/webp'],
      })),
    )
  })
})

describe('signed addresses', () => {
  const visible = (tx: Tx, owner: Account, operation: string) =>
    inSession(tx, owner, async (as) => {
      await as`select set_config('storage.operation', ${operation}, true)`
      return (await as`select from storage.objects`).length
    })

  test('are made by users, or by nobody but a secret key where the setting says so; reading stays as it is', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner)
      const seen = async () => [
        await visible(tx, owner, 'storage.object.sign'),
        await visible(tx, owner, 'storage.object.sign_many'),
        await visible(tx, owner, 'storage.object.get_authenticated'),
        await visible(tx, owner, ''),
      ]

      expect(await seen()).toEqual([1, 1, 1, 1])
      await tx`update private.settings set value = 'false' where key = 'storage.users_sign_addresses'`
      expect(await seen()).toEqual([0, 0, 1, 1])
    }))
})

describe('files of others', () => {
  test('nobody uploads below another’s id, a name that only begins like it, or no id', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]

      for (const name of [png(owner), `${other.id}0/x.png`, `${other.id}.png`, 'x.png', `/${other.id}/x.png`]) {
        const refused = await refusal(tx, (sp) => inSession(sp, other, (as) => upload(as, other, { name })))
        expect([name, refused.sqlstate, refused.message]).toEqual([name, '42501', expect.stringMatching(/row-level/)])
      }
    }))

  test('another sees, replaces, moves and deletes nothing', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      const file = await upload(tx, owner)
      await tx`set local storage.allow_delete_query = 'true'`

      const counts = await inSession(tx, other, async (as) => [
        (await as`select from storage.objects`).count,
        (await as`select from storage.buckets`).count,
        (await as`update storage.objects set version = 'x' where id = ${file}`).count,
        (await as`delete from storage.objects where id = ${file}`).count,
      ])

      expect(counts).toEqual([0, 0, 0, 0])
    }))

  test('nobody moves a file into another’s folder or out of the buckets', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      await tx`insert into storage.buckets (id, name) values ('elsewhere', 'elsewhere')`
      await upload(tx, owner)
      const move = (column: string, value: string) =>
        refusal(tx, (sp) =>
          inSession(sp, owner, (as) => as`update storage.objects set ${as(column)} = ${value} where true`),
        )

      expect((await move('name', png(other))).sqlstate).toBe('42501')
      expect((await move('bucket_id', 'elsewhere')).sqlstate).toBe('42501')
    }))

  test.each(shutOut)('an owner who is %s sees, uploads, replaces and deletes nothing', (_how, shut) =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const name = png(owner)
      await upload(tx, owner, { name })
      await shut(tx, owner)
      await tx`set local storage.allow_delete_query = 'true'`

      const refused = await refusal(tx, (sp) => inSession(sp, owner, (as) => upload(as, owner)))
      const counts = await inSession(tx, owner, async (as) => [
        (await as`select from storage.objects`).count,
        (await as`update storage.objects set version = 'x' where name = ${name}`).count,
        (await as`delete from storage.objects where name = ${name}`).count,
      ])

      expect(refused.sqlstate).toBe('42501')
      expect(counts).toEqual([0, 0, 0])
    }),
  )
})

describe('whoever writes', () => {
  test.each([
    ['an empty part', (id: string) => `${id}//x.png`],
    ['.', (id: string) => `${id}/./x.png`],
    ['..', (id: string) => `${id}/../x.png`],
    ['a .. at the end', (id: string) => `${id}/..`],
    ['an encoded slash', (id: string) => `${id}/a%2Fx.png`],
    ['a backslash', (id: string) => `${id}/..\\x.png`],
    ['a line break', (id: string) => `${id}/a\nx.png`],
  ])('a path with %s is refused', (_what, name) =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)

      const refused = await refusal(tx, (sp) => upload(sp, owner, { name: name(owner.id) }))

      expect(refused).toMatchObject({ sqlstate: '42501', message: expect.stringMatching(/^The path has/) })
    }),
  )

  test.each([
    ['a name of another type', { name: 'x.gif' }, 'A file named .gif must be sent as image/gif.'],
    ['a page', { name: 'x.html', type: 'text/html' }, /^The file name must end in/],
    ['a drawing with scripts', { name: 'x.svg', type: 'image/svg+xml' }, /^The file name must end in/],
    ['no extension', { name: 'png' }, /^The file name must end in/],
    ['no bytes', { bytes: 0 }, 'The file is empty.'],
  ])('%s is refused', (_what, file: File, message) =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)

      const refused = await refusal(tx, (sp) => upload(sp, owner, { ...file, name: png(owner, file.name) }))

      expect(refused).toMatchObject({ sqlstate: '42501', message: expect.stringMatching(message) })
    }),
  )

  test('a file below no account’s id is refused in these buckets and free in others', () =>
    rolledBack(async (tx) => {
      await tx`insert into storage.buckets (id, name) values ('elsewhere', 'elsewhere')`
      const nobody = { id: crypto.randomUUID(), sessionId: '' }

      const refused = await refusal(tx, (sp) => upload(sp, nobody))

      expect(refused).toMatchObject({ sqlstate: '42501', message: 'The path must begin with the id of an account.' })
      expect(await upload(tx, nobody, { bucket: 'elsewhere', name: 'report.txt' })).toBeTruthy()
    }))

  test('a signed upload URL is worth nothing once the account is suspended', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner)
      await tx`update public.profiles set status = 'suspended' where id = ${owner.id}`

      const refused = await refusal(tx, (sp) => upload(sp, owner))

      expect(refused).toMatchObject({ sqlstate: '42501', message: 'This account is suspended or deleted.' })
    }))
})

describe('the bytes of an account', () => {
  const limited = async (tx: Tx | Sql, limit: number | null, owner?: Account) => {
    const account = owner ?? (await newAccount(tx))
    await setLimit(tx, account.id, 'storage_bytes', 'total', limit)
    return account
  }

  test('the byte above the limit is refused with a clear text, in whichever bucket', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      await upload(tx, owner, { bytes: 60 })

      const refused = await refusal(tx, (sp) => upload(sp, owner, { bucket: 'avatars', bytes: 41 }))
      await upload(tx, owner, { bucket: 'avatars', bytes: 40 })

      expect(refused).toMatchObject({
        sqlstate: '42501',
        message: 'The storage limit of 100 bytes is reached: this file would make it 101.',
      })
      expect(await storedBytes(tx, owner)).toBe(100)
    }))

  test('overwriting counts the difference', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const name = png(owner)
      await upload(tx, owner, { name, bytes: 60 })
      await upload(tx, owner, { bytes: 30 })

      const refused = await refusal(tx, (sp) => upload(sp, owner, { name, bytes: 71 }))
      await upload(tx, owner, { name, bytes: 70 })

      expect(refused.message).toMatch(/make it 101/)
      expect(await storedBytes(tx, owner)).toBe(100)
    }))

  test('who is above a limit that was lowered still moves, shrinks and deletes', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const [name, elsewhere] = [png(owner), png(owner)]
      await upload(tx, owner, { name, bytes: 90 })
      await limited(tx, 50, owner)
      await tx`set local storage.allow_delete_query = 'true'`

      await upload(tx, owner, { name, bytes: 80 })
      await tx`update storage.objects set name = ${elsewhere}, version = 'moved' where name = ${name}`
      await tx`delete from storage.objects where name = ${elsewhere}`

      expect(await storedBytes(tx, owner)).toBe(null)
    }))

  test('a full account is refused before it sends anything, as long as the upload is new', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const name = png(owner)
      await upload(tx, owner, { name, bytes: 100 })

      const refused = await refusal(tx, (sp) => upload(sp, owner, { bytes: null }))

      expect(refused.message).toMatch(/^The storage limit/)
      expect(await upload(tx, owner, { name, bytes: null })).toBeTruthy()
    }))

  test('an upload that is announced as too large is refused before it is sent, with room for the form around the file', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const form = 65_536
      const announce = (bytes: number) => tx`
        insert into storage.objects (bucket_id, name, metadata)
        values ('images', ${png(owner)}, ${tx.json({ mimetype: 'image/png', contentLength: bytes })})`

      expect((await refusal(tx, () => announce(101 + form))).message).toMatch(/make it 101/)
      expect((await announce(100 + form)).count).toBe(1)
    }))

  test('a first row without a size counts when the size comes', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const name = png(owner)
      await upload(tx, owner, { name, bytes: null })

      const refused = await refusal(tx, (sp) => upload(sp, owner, { name, bytes: 101 }))

      expect(refused.message).toMatch(/make it 101/)
      expect(await queue(tx, owner)).toEqual([])
    }))

  test('a plan without the meter has no room, and no limit is no limit', () =>
    rolledBack(async (tx) => {
      const [owner, free] = [await newAccount(tx), await limited(tx, null)]
      await tx`delete from public.plan_limits where meter = 'storage_bytes'`

      expect((await refusal(tx, (sp) => upload(sp, owner))).message).toMatch(/limit of 0 bytes/)
      expect(await upload(tx, free, { bytes: 2 ** 50 })).toBeTruthy()
    }))

  test('copies count, moves to another bucket do not', () =>
    rolledBack(async (tx) => {
      const owner = await limited(tx, 100)
      const name = png(owner)
      await upload(tx, owner, { name, bytes: 60 })
      const copy = (tx: Tx) => tx`
        insert into storage.objects (bucket_id, name, metadata) select 'avatars', name, metadata from storage.objects
        where name = ${name}`

      expect((await refusal(tx, copy)).message).toMatch(/make it 120/)
      expect((await tx`update storage.objects set bucket_id = 'avatars' where name = ${name}`).count).toBe(1)
    }))

  test('forty uploads at once, each half of what is left, make two', () =>
    racing(40, async (sql, accounts) => {
      const owner = await accounts()
      await limited(sql, 100, owner)

      const outcomes = await together(40, () => upload(sql, owner, { bytes: 50 }))

      expect(outcomes.filter((outcome) => typeof outcome === 'string')).toHaveLength(2)
      expect(await storedBytes(sql, owner)).toBe(100)
      await removeFiles(sql, owner)
    }))

  test('forty files that grow at once stay under the limit', () =>
    racing(40, async (sql, accounts) => {
      const owner = await accounts()
      await limited(sql, 100, owner)
      const names = Array.from({ length: 40 }, () => png(owner))
      for (const name of names) await upload(sql, owner, { name, bytes: 1 })

      await together(40, (i) => upload(sql, owner, { name: names[i] ?? '', bytes: 31 }))

      expect(await storedBytes(sql, owner)).toBe(100)
      await removeFiles(sql, owner)
    }))
})

const removeFiles = (sql: Sql, { id }: Account) =>
  sql.begin(async (tx) => {
    await tx`set local storage.allow_delete_query = 'true'`
    await tx`delete from storage.objects where name like ${`${id}/%`}`
  })

describe('images follow their files', () => {
  test('an upload makes the row, a move moves it, a deletion takes it', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const [name, moved] = [png(owner), png(owner)]
      const id = await upload(tx, owner, { name, bytes: 7 })
      const images = () => inSession(tx, owner, (as) => as`select id, path, bytes::int, status from public.images`)

      expect(await images()).toEqual([{ id, path: name, bytes: 7, status: 'checking' }])
      await tx`update storage.objects set name = ${moved} where id = ${id}`
      expect(await images()).toEqual([{ id, path: moved, bytes: 7, status: 'checking' }])
      await tx`set local storage.allow_delete_query = 'true'`
      await tx`delete from storage.objects where id = ${id}`
      expect(await images()).toEqual([])
      expect(await queue(tx, owner)).toEqual([])
    }))

  test('avatars have none', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner, { bucket: 'avatars' })

      expect((await tx`select from public.images where user_id = ${owner.id}`).count).toBe(0)
      expect(await queue(tx, owner)).toHaveLength(1)
    }))

  test('trying the rights of an upload leaves nothing behind', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner, { bytes: null })

      expect((await tx`select from public.images where user_id = ${owner.id}`).count).toBe(0)
      expect(await queue(tx, owner)).toEqual([])
    }))
})

describe('the number', () => {
  test('of files has a limit, and one that goes makes room', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await setLimit(tx, owner.id, 'storage_files', 'total', 2)
      const [first = ''] = [await upload(tx, owner), await upload(tx, owner)]

      const refused = await refusal(tx, (sp) => upload(sp, owner))
      await tx`set local storage.allow_delete_query = 'true'`
      await tx`delete from storage.objects where id = ${first}`
      await upload(tx, owner)

      expect(refused).toMatchObject({ sqlstate: '42501', message: 'The limit of 2 files is reached.' })
    }))

  test('of uploads in a minute has a limit, also of those in the place of others', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await setLimit(tx, owner.id, 'uploads', 'minute', 2)
      const file = await upload(tx, owner)
      const again = (sp: Tx) => sp`update storage.objects set version = gen_random_uuid()::text where id = ${file}`
      await again(tx)

      const refused = await refusal(tx, again)

      expect(refused).toMatchObject({ sqlstate: '42501', message: 'The limit of 2 uploads per minute is reached.' })
    }))

  test('of files and uploads is among the limits that their owner sees', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner)

      const limits = await asUser(
        tx,
        owner.id,
        (as) => as`
        select meter, used::int from public.get_my_limits() where meter in ('storage_files', 'uploads') order by meter`,
      )

      expect(limits).toEqual([
        { meter: 'storage_files', used: 1 },
        { meter: 'uploads', used: 1 },
      ])
    }))
})

describe('the look at the bytes', () => {
  const claim = async (tx: Tx | Sql) =>
    tx<{ object_id: string; rejected: boolean }[]>`select object_id, rejected from private.claim_uploads_to_check(100)`
  const finish = async (tx: Tx, id: string, version: string, verdict: string) =>
    (await tx`select private.finish_upload_check(${id}, ${version}, ${verdict}, 'text/html') as done`)[0]?.done
  const status = async (tx: Tx, id: string) => (await tx`select status from public.images where id = ${id}`)[0]?.status

  test('of many who claim at once, one gets an upload', () =>
    racing(10, async (sql, accounts) => {
      const owner = await accounts()
      const files = await Promise.all(Array.from({ length: 10 }, () => upload(sql, owner)))

      const claims = (await Promise.all(Array.from({ length: 10 }, () => claim(sql))))
        .flat()
        .map((row) => row.object_id)

      // the stack's own check, every 15 seconds, may be one of the many
      const ours = claims.filter((id) => files.includes(id))
      expect(ours).toHaveLength(new Set(ours).size)
      const left = await sql`
        select object_id, attempts from private.uploads_to_check where object_id = any(${files}) order by object_id`
      const taken = files.filter((id) => !ours.includes(id))
      expect(left.filter((row) => !taken.includes(row.object_id))).toEqual(
        ours.sort().map((object_id) => ({ object_id, attempts: 1 })),
      )
      expect(left.filter((row) => taken.includes(row.object_id) && row.attempts !== 1)).toEqual([])
      await removeFiles(sql, owner)
    }))

  test('goes to users in turn, so that many files of one keep no other waiting', () =>
    rolledBack(async (tx) => {
      const [flooding, other] = [await newAccount(tx), await newAccount(tx)]
      for (let index = 0; index < 30; index++) await upload(tx, flooding)
      const file = await upload(tx, other)
      await tx`update private.uploads_to_check set due_at = now() - interval '1 minute' where user_id = ${flooding.id}`

      const claimed = await tx`select object_id from private.claim_uploads_to_check(2)`

      expect(claimed.map(({ object_id }) => object_id)).toContain(file)
    }))

  test('keeps so many rejected images of a user, the newest', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await tx`update private.settings set value = '2' where key = 'storage.rejected_images_kept'`
      const files = [await upload(tx, owner), await upload(tx, owner), await upload(tx, owner)]

      for (const id of files) {
        const [row] = await tx`select version from private.uploads_to_check where object_id = ${id}`
        await finish(tx, id, row?.version, 'rejected')
      }

      expect(await tx`select from public.images where user_id = ${owner.id}`).toHaveLength(2)
    }))

  test('who claims and never answers leaves it to the next after two minutes, then four', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      await upload(tx, owner)
      const wait = async () =>
        (
          await tx`
          select extract(epoch from due_at - now())::int as seconds from private.uploads_to_check where user_id = ${owner.id}`
        )[0]?.seconds

      await claim(tx)
      expect([await wait(), (await claim(tx)).length]).toEqual([120, 0])
      await tx`update private.uploads_to_check set due_at = now() where user_id = ${owner.id}`
      await claim(tx)
      expect(await wait()).toBe(240)
    }))

  test('a true image is ok and out of the queue', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const id = await upload(tx, owner, { version: 'v1' })

      expect(await finish(tx, id, 'v1', 'ok')).toBe(true)
      expect([await status(tx, id), (await queue(tx, owner)).length]).toEqual(['ok', 0])
    }))

  test('a liar is rejected, stays in the queue until its file is gone, and stays visible to its owner', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const id = await upload(tx, owner, { version: 'v1' })

      expect(await finish(tx, id, 'v1', 'rejected')).toBe(true)
      expect(await queue(tx, owner)).toEqual([{ object_id: id, version: 'v1', rejected: true }])
      await tx`set local storage.allow_delete_query = 'true'`
      await tx`delete from storage.objects where id = ${id}`
      expect((await claim(tx)).find((row) => row.object_id === id)?.rejected).toBe(true)
      expect(await finish(tx, id, 'v1', 'removed')).toBe(true)
      expect([await status(tx, id), (await queue(tx, owner)).length]).toEqual(['rejected', 0])
    }))

  test('an answer about an upload that was replaced meanwhile counts for nothing', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const name = png(owner)
      const id = await upload(tx, owner, { name, version: 'v1' })
      await upload(tx, owner, { name, version: 'v2' })

      expect(await finish(tx, id, 'v1', 'ok')).toBe(false)
      expect([await status(tx, id), (await queue(tx, owner)).length]).toEqual(['checking', 1])
    }))

  test('a new file takes the place of a rejected one', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const name = png(owner)
      const id = await upload(tx, owner, { name, version: 'v1' })
      await finish(tx, id, 'v1', 'rejected')
      await tx`set local storage.allow_delete_query = 'true'`
      await tx`delete from storage.objects where id = ${id}`

      const next = await upload(tx, owner, { name })

      expect([await status(tx, id), await status(tx, next)]).toEqual([undefined, 'checking'])
    }))
})
