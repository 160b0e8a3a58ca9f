/** The function `jobs` with a world of its own: what a caller gets, and what a crash at each step leaves behind. */
import { createHmac } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { hasSecretKey } from '../../functions/_shared/auth/identify-caller.ts'
import { isJobToken } from '../../functions/_shared/auth/job-token.ts'
import { AppError } from '../../functions/_shared/errors.ts'
import { handleJobsRequest, type JobsWorld } from '../../functions/_shared/jobs/handle-jobs-request.ts'
import type { ArchivePart, JobDatabase, Mail } from '../../functions/_shared/jobs/job-database.ts'
import { describeSmtp, messageId } from '../../functions/_shared/jobs/send-mails.ts'

const keys = { default: 'sb_secret_right', spare: 'sb_secret_spare' }
const post = (path: string, apikey = keys.default, method = 'POST') =>
  new Request(`http://127.0.0.1/jobs/${path}`, { method, headers: { apikey } })
const mail: Mail = { id: 'mail-1', address: 'a@example.com', subject: 'Hello', body: 'Text', attempt: 1 }

type Changes = Partial<Omit<JobsWorld, 'database' | 'archive'>> & {
  database?: Partial<JobDatabase>
  archive?: Partial<JobsWorld['archive']>
}

/** Two entries of one month, archived one by one, as the SQL functions would lead the job. */
function createWorld({ database = {}, archive = {}, ...changes }: Changes = {}) {
  const files = new Map<string, Uint8Array<ArrayBuffer>>()
  const recorded: { part: ArchivePart; sha256: string; path: string }[] = []
  const finished: (string | null)[] = []
  const state = { isDropped: false, uploads: 0, waiting: [mail] }
  const world: JobsWorld = {
    hasSecretKey: (headers) => hasSecretKey(headers, keys),
    isJobToken: (token, job) => isJobToken(token, job, keys, changes.now?.() ?? 0),
    database: {
      claimMails: async () => state.waiting.splice(0),
      finishMail: async (_mail, error) => void finished.push(error),
      nextArchive: async () => {
        if (state.isDropped) return null
        const at = recorded.length + 1
        return { month: '2020-02-01', part: at, first_seq: at, last_seq: Math.min(at, 2), is_complete: at === 3 }
      },
      readEntries: async ({ first_seq }) => [`{"seq": ${first_seq}}`],
      recordArchive: async (part, sha256, path) => void recorded.push({ part, sha256, path }),
      dropMonth: async () => {
        state.isDropped = true
        return true
      },
      ...database,
    },
    archive: {
      upload: async (path, bytes) => {
        state.uploads += 1
        files.set(path, files.get(path) ?? bytes)
      },
      download: async (path) => files.get(path) ?? new Uint8Array(),
      ...archive,
    },
    sendMail: async () => {},
    checkUploads: async () => ({ ok: 1, rejected: 0, failed: 0 }),
    syncPortfolios: async () => ({ synced: 1 }),
    billing: undefined,
    now: () => 0,
    newId: () => 'request-1',
    log: () => {},
    ...changes,
  }
  return { world, files, recorded, finished, state }
}

const run = async (world: JobsWorld, path: string) => {
  const response = await handleJobsRequest(post(path), world)
  return { status: response.status, body: await response.json() }
}
const failing = (message: string) => async () => {
  throw new Error(message)
}

describe('who may call', () => {
  test.each([
    ['no key', ''],
    ['a publishable key', 'sb_publishable_x'],
    ['the beginning of the key', 'sb_secret_righ'],
    ['more than the key', 'sb_secret_rightx'],
  ])('not %s', async (_name, apikey) => {
    const { world, state } = createWorld()

    const response = await handleJobsRequest(post('send-mails', apikey), world)

    expect(response.status).toBe(401)
    expect(state.waiting).toHaveLength(1)
  })

  test('an empty key in the environment opens nothing', async () => {
    expect(await hasSecretKey(new Headers(), { default: '' })).toBe(false)
  })

  test('any of the secret keys; other paths and methods are refused', async () => {
    const { world } = createWorld()
    const status = async (request: Request) => (await handleJobsRequest(request, world)).status

    expect(await status(post('send-mails', keys.spare))).toBe(200)
    expect(await status(post('nothing'))).toBe(404)
    expect(await status(post('send-mails', keys.default, 'GET'))).toBe(405)
  })
})

describe("the clock's token", () => {
  const at = 1_800_000_000
  const tokenOf = (job: string, key = keys.default, seconds = at) =>
    `${seconds}.${createHmac('sha256', key).update(`palisade job ${job} ${seconds}`).digest('hex')}`
  const call = async (job: string, token: string, now = at) => {
    const { world, state } = createWorld({ now: () => now * 1000 })
    const headers = { 'x-job-token': token }
    const { status } = await handleJobsRequest(
      new Request(`http://127.0.0.1/jobs/${job}`, { method: 'POST', headers }),
      world,
    )
    return { status, ran: state.waiting.length === 0 }
  }

  test('opens its job by any of the keys: while one is rotated, both do', async () => {
    expect(await call('send-mails', tokenOf('send-mails'))).toEqual({ status: 200, ran: true })
    expect(await call('send-mails', tokenOf('send-mails', keys.spare))).toEqual({ status: 200, ran: true })
    expect(await call('send-mails', tokenOf('send-mails'), at + 300)).toEqual({ status: 200, ran: true })
  })

  test.each([
    ['of another job', tokenOf('archive-audit')],
    ['by a key that was deleted', tokenOf('send-mails', 'sb_secret_gone')],
    ['by an empty key', tokenOf('send-mails', ' ').replace(/[^.]*$/, '')],
    ['older than five minutes', tokenOf('send-mails', keys.default, at - 301)],
    ['from more than five minutes ahead', tokenOf('send-mails', keys.default, at + 301)],
    ['with a later time than was signed', tokenOf('send-mails', keys.default, at - 301).replace(/^\d+/, `${at}`)],
    ['cut short', tokenOf('send-mails').slice(0, -1)],
    ['with more behind it', `${tokenOf('send-mails')}0`],
    [
      'of other letters',
      tokenOf('send-mails')
        .toUpperCase()
        .replace(/[0-9](?=[^.]*$)/g, 'G'),
    ],
  ])('does not open one %s', async (_what, token) => {
    expect(await call('send-mails', token)).toEqual({ status: 401, ran: false })
  })

  test('is none where the environment has an empty key: who knows no key signs with nothing', async () => {
    const empty = `${at}.${createHmac('sha256', '').update(`palisade job send-mails ${at}`).digest('hex')}`

    expect(await isJobToken(empty, 'send-mails', { default: '' }, at * 1000)).toBe(false)
  })
})

describe('mails', () => {
  test('wait when there is no mail server', async () => {
    const { world, state } = createWorld({ sendMail: undefined })

    expect(await run(world, 'send-mails')).toMatchObject({
      status: 503,
      body: { error: { code: 'mail_not_configured' } },
    })
    expect(state.waiting).toHaveLength(1)
  })

  test('that cannot be sent are finished with the reason', async () => {
    const sendMail = () => Promise.reject(new AppError('internal', { cause: 'SMTP: EENVELOPE RCPT TO 550' }))
    const { world, finished } = createWorld({ sendMail })

    expect(await run(world, 'send-mails')).toMatchObject({ status: 200, body: { sent: 0, failed: 1 } })
    expect(finished).toEqual(['SMTP: EENVELOPE RCPT TO 550'])
  })

  test.each([
    [
      'a server that refuses, with its codes and without its words',
      {
        ...{ code: 'EENVELOPE', command: 'RCPT TO', responseCode: 550 },
        response: '550 5.1.1 <a@example.com>: no such mailbox',
      },
      'SMTP: EENVELOPE RCPT TO 550 5.1.1',
    ],
    [
      'a server that is not there',
      { code: 'ESOCKET', originalCode: 'ECONNREFUSED', command: 'CONN' },
      'SMTP: ESOCKET ECONNREFUSED CONN',
    ],
    ['anything else, by its name', {}, 'Error'],
  ])('say of %s why they were not sent', (_what, more, said) => {
    expect(describeSmtp(Object.assign(new Error('a@example.com'), more))).toBe(said)
  })

  test('carry the same Message-ID at every attempt, in the domain of the sender', () => {
    expect(messageId(mail, 'Palisade <noreply@palisade.local>')).toBe('<mail-1@palisade.local>')
    expect(messageId({ ...mail, attempt: 7 }, 'noreply@palisade.local')).toBe('<mail-1@palisade.local>')
  })
})

describe('nothing is dropped', () => {
  test.each<[string, Changes]>([
    ['the upload fails', { archive: { upload: failing('storage is down') } }],
    ['the file cannot be read back', { archive: { download: failing('gone') } }],
    ['the file reads back differently', { archive: { download: async () => new Uint8Array([1, 2, 3]) } }],
    ['an entry is missing', { database: { readEntries: async () => [] } }],
    ['the part cannot be noted', { database: { recordArchive: failing('the database is down') } }],
  ])('when %s, and the answer says that it failed', async (_name, changes) => {
    const { world, recorded, state } = createWorld(changes)

    expect((await run(world, 'archive-audit')).status).toBe(500)
    expect(recorded).toEqual([])
    expect(state.isDropped).toBe(false)
  })
})

test.each<[string, Changes, string]>([
  [
    'what does not fit is counted',
    { database: { readEntries: async () => [] } },
    '2020-02-01: 0 entries where 1 should be',
  ],
  ['an error of others has a name', { database: { recordArchive: failing('parameter $1 = hush') } }, 'Error'],
])('the log says why a job failed: %s', async (_what, changes, cause) => {
  const lines: unknown[] = []
  const { world } = createWorld({ ...changes, log: (line) => void lines.push(line) })

  await run(world, 'archive-audit')

  expect(lines).toMatchObject([{ level: 'error', error_code: 'internal', cause }])
  expect(JSON.stringify(lines)).not.toContain('hush')
})

describe('the archive', () => {
  test('holds every entry as a line and is dropped from the database after that', async () => {
    const { world, files, recorded, state } = createWorld()

    expect(await run(world, 'archive-audit')).toEqual({ status: 200, body: { parts: 2, dropped: ['2020-02-01'] } })

    const lines = recorded.map(({ path }) => gunzipSync(files.get(path) ?? new Uint8Array()).toString())
    expect(lines).toEqual(['{"seq": 1}\n', '{"seq": 2}\n'])
    expect(recorded.map(({ path }) => path)).toEqual([
      expect.stringMatching(/^2020-02\/00001-[0-9a-f]{16}\.ndjson\.gz$/),
      expect.stringMatching(/^2020-02\/00002-[0-9a-f]{16}\.ndjson\.gz$/),
    ])
    expect(state.isDropped).toBe(true)
  })

  test.each([
    ['archive', 'upload'],
    ['archive', 'download'],
    ['database', 'recordArchive'],
    ['database', 'dropMonth'],
  ] as const)('goes on where it stopped after a crash right after %s %s', async (part, step) => {
    const { world, files, recorded, state } = createWorld()
    const real = Reflect.get(world[part], step) as (...args: unknown[]) => Promise<unknown>
    let crashes = 1
    const crashing = {
      ...world,
      [part]: {
        ...world[part],
        [step]: async (...args: unknown[]) => {
          const answer = await real(...args)
          if (crashes-- > 0) throw new Error('the process died')
          return answer
        },
      },
    }

    expect((await run(crashing, 'archive-audit')).status).toBe(500)
    expect((await run(crashing, 'archive-audit')).status).toBe(200)

    expect(recorded.map(({ part }) => part.part)).toEqual([1, 2])
    expect(files.size).toBe(2)
    expect(state.isDropped).toBe(true)
  })
})

test('a check of uploads answers what it found', async () => {
  const { world } = createWorld()

  expect(await run(world, 'check-uploads')).toEqual({ status: 200, body: { ok: 1, rejected: 0, failed: 0 } })
})

describe("Stripe's jobs", () => {
  test.each(['apply-stripe-events', 'change-stripe', 'reconcile-stripe'])(
    '%s says when Stripe is not set up',
    async (path) => {
      const { world } = createWorld()

      expect(await run(world, path)).toMatchObject({ status: 503, body: { error: { code: 'billing_not_configured' } } })
    },
  )

  test('answer what they did', async () => {
    const billing = {
      ...{ applyEvents: async () => ({ applied: 2 }), changeStripe: async () => ({ done: 1 }) },
      reconcile: async () => ({ seen: 3 }),
    }
    const { world } = createWorld({ billing })

    expect(await run(world, 'apply-stripe-events')).toEqual({ status: 200, body: { applied: 2 } })
    expect(await run(world, 'change-stripe')).toEqual({ status: 200, body: { done: 1 } })
    expect(await run(world, 'reconcile-stripe')).toEqual({ status: 200, body: { seen: 3 } })
  })
})
