/** The SQL functions behind the inbox. What is new, whose turn it is and what an event changes is theirs; this only carries it. */
import { z } from 'zod'
import { createBatches } from '../batch-calls.ts'
import type { Queries } from '../db.ts'
import { createReadingStore } from './reading-database.ts'
import type { ApplyWorld, InboxWorld, ReceivedEvent } from './world.ts'

const claimed = z.array(
  z.object({
    id: z.string(),
    type: z.string(),
    attempt: z.int(),
    object: z.string().nullable(),
    object_id: z.string().nullable(),
    account: z.string().nullable(),
    payload: z.unknown(),
  }),
)
const applied = z.enum(['applied', 'ignored', 'superseded'])
const failed = z.enum(['waiting', 'dead', 'superseded'])

/** Of the five connections; the others apply what has come. */
const batchesInFlight = 3

type Inbox = InboxWorld & Pick<ApplyWorld, 'claim' | 'databaseTime' | 'apply' | 'fail'>

export function createInbox(sql: Queries): Inbox {
  const { databaseTime } = createReadingStore(sql)
  return {
    databaseTime,
    receive: createBatches(batchesInFlight)((events: ReceivedEvent[]) => receiveTogether(sql, events), isOfTheRows),
    raise: async ({ type, severity, details, dedupeKey, ip }) => {
      await sql`
        select private.raise_security_event(${type}, ${severity}, null, ${JSON.stringify(details)}::text::jsonb,
          left(${dedupeKey}, 200), ${ip}::text::inet)`
    },
    claim: async (limit) => claimed.parse([...(await sql`select * from private.claim_stripe_events(${limit})`)]),
    apply: async ({ id, attempt }, readings) => {
      const [row] = await sql`
        select private.apply_stripe_event(${id}, ${attempt}, ${JSON.stringify(readings)}::text::jsonb) as answer`
      return applied.parse(row?.answer)
    },
    fail: async ({ id, attempt }, error) => {
      const [row] = await sql`select private.fail_stripe_event(${id}, ${attempt}, ${error}) as answer`
      return failed.parse(row?.answer)
    },
  }
}

/**
 * Deliveries that wait together are kept by one statement, which is one commit. By their ids in order, so that two statements
 * with the same events do not wait for each other.
 */
async function receiveTogether(sql: Queries, events: ReceivedEvent[]): Promise<boolean[]> {
  const kept = events.map(({ payload, ...about }) =>
    storable(`{"about":${JSON.stringify(about)},"payload":${payload}}`),
  )
  const rows = await sql`
    select e.n::int, private.receive_stripe_event(
      e.about ->> 'id', e.about ->> 'type', e.about ->> 'api_version', (e.about ->> 'livemode')::boolean, e.about ->> 'account',
      to_timestamp((e.about ->> 'created')::float8), e.about ->> 'object', e.about ->> 'object_id', e.payload) as is_new
    from (
      select e.n, e.event -> 'about' as about, e.event -> 'payload' as payload
      from jsonb_array_elements(${`[${kept.join(',')}]`}::text::jsonb) with ordinality e (event, n)
      order by e.event #>> '{about,id}') e`
  const isNew = new Map(rows.map((row) => [row.n, row.is_new === true]))
  return events.map((_, at) => isNew.get(at + 1) ?? false)
}

/** What Postgres refused, it may have refused for one of them; without a connection all fail alike. */
const isOfTheRows = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && /^[0-9A-Z]{5}$/.test(String(error.code))

/**
 * JSON whose texts jsonb holds. It takes neither a NUL nor half of a surrogate pair, which JSON may write as escapes, and an
 * event with one in a name must not be refused for ever: each becomes the replacement character.
 */
const storable = (json: string): string =>
  json.replace(escapes, (whole, unstorable?: string) => (unstorable ? '\\ufffd' : whole))

/** One escape at a time, a surrogate pair and an escaped backslash as a whole; what jsonb refuses is in the group. */
const escapes = /\\(?:ud[89ab][\da-f]{2}\\ud[c-f][\da-f]{2}|(u0000|ud[89a-f][\da-f]{2})|.)/gi
