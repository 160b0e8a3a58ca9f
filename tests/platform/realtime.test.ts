/** Live updates: private broadcasts reach the user they are about, within a second, and nobody else. */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { importJWK, SignJWT } from 'jose'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  closeRealtimeClients,
  listenTo,
  type Received,
  realtimeClient,
  subscribe,
  subscribed,
} from '../support/realtime.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

/** Everybody who is signed in may receive below it, and send unless the topic ends in `read-only`. */
const room = `test-${crypto.randomUUID()}`
const withinASecond = { timeout: 1_000, interval: 10 }

let sql: postgres.Sql
let user: TestUser
let other: TestUser

beforeAll(async () => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
  ;[user, other] = await Promise.all([newUser(), newUser()])
  await sql.unsafe(`
    create policy "${room} read" on realtime.messages for select to authenticated
      using (extension = 'broadcast' and realtime.topic() like '${room}:%');
    create policy "${room} write" on realtime.messages for insert to authenticated
      with check (extension = 'broadcast' and topic like '${room}:%' and topic not like '%:read-only')`)
})
afterEach(closeRealtimeClients)
afterAll(async () => {
  await sql.unsafe(`drop policy "${room} read" on realtime.messages; drop policy "${room} write" on realtime.messages`)
  await sql.end()
})

const send = (topic: string, payload: { [key: string]: postgres.JSONValue }, event = 'snapshot', isPrivate = true) =>
  sql`select realtime.send(${sql.json(payload)}, ${event}, ${topic}, ${isPrivate})`
const ownTopic = (who: TestUser) => `user:${who.id}`
const denied = (topic: string) => ({
  status: 'CHANNEL_ERROR',
  reason: `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`,
})

/** The user's token as it would be with another expiry, in seconds from now. */
async function tokenFor(who: TestUser, seconds: number): Promise<string> {
  const { signingKey } = JSON.parse(readFileSync(join(target().own?.data ?? '', 'keys.json'), 'utf8'))
  const claims = JSON.parse(Buffer.from(who.accessToken.split('.')[1] ?? '', 'base64url').toString())
  return new SignJWT({ ...claims, exp: Math.floor(Date.now() / 1000) + seconds })
    .setProtectedHeader({ alg: 'ES256', kid: signingKey.kid })
    .sign(await importJWK(signingKey, 'ES256'))
}

/** The status that an upgrade without WebSocket library gets. */
const upgradeStatus = (path: string) =>
  new Promise<number | undefined>((resolve, reject) => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': Buffer.alloc(16).toString('base64'),
    }
    const call = request(`${target().apiUrl}${path}`, { headers })
    call.on('response', (response) => resolve(response.resume().statusCode))
    call.on('upgrade', (response, socket) => {
      socket.destroy()
      resolve(response.statusCode)
    })
    call.on('error', reject).end()
  })

describe.runIf(target().hasRealtime)('refused', () => {
  test('a connection without a key, with a wrong one, or to another place', async () => {
    const key = `apikey=${target().publishableKey}&vsn=2.0.0`

    expect(await upgradeStatus('/realtime/v1/websocket')).toBe(401)
    expect(await upgradeStatus('/realtime/v1/websocket?apikey=sb_publishable_wrong')).toBe(401)
    expect(await upgradeStatus(`/rest/v1/?${key}`)).toBe(404)
    expect(await upgradeStatus(`/realtime/v1/websocket?${key}`)).toBe(101)
  })

  test("a stranger's subscription to a user's topic, and that of somebody who is not signed in", async () => {
    const [stranger, anonymous] = await Promise.all([
      listenTo(other.client, ownTopic(user)),
      listenTo(await realtimeClient(null), ownTopic(user)),
    ])
    await send(ownTopic(user), { worth: 1 })

    expect(stranger.result).toEqual(denied(ownTopic(user)))
    expect(anonymous.result).toEqual(denied(ownTopic(user)))
    expect([...stranger.received, ...anonymous.received]).toEqual([])
    await other.client.removeAllChannels()
  })

  test('a token whose session has ended', async () => {
    const leaver = await newUser()
    const before = await listenTo(await realtimeClient(leaver.accessToken), ownTopic(leaver))
    await leaver.client.auth.signOut()

    const after = await listenTo(await realtimeClient(leaver.accessToken), ownTopic(leaver))

    expect(before.result).toEqual(subscribed)
    expect(after.result).toEqual(denied(ownTopic(leaver)))
  })

  test('a token that is none, without repeating it', async () => {
    const forged = `${user.accessToken.split('.').slice(0, 2).join('.')}.${'A'.repeat(86)}`
    const results = await Promise.all(
      ['not-a-token', forged].map(async (token) => listenTo(await realtimeClient(token), ownTopic(user))),
    )

    expect(results.map(({ result }) => result.reason)).toEqual([
      'MalformedJWT: The token provided is not a valid JWT',
      'JwtSignatureError: Failed to validate JWT signature',
    ])
  })

  test('what the local stack does not have: changes of tables and presence, clearly', async ({ skip }) => {
    if (!target().own) return skip('the real service has both')
    const client = await realtimeClient(user.accessToken)
    const changes = client.channel('a').on('postgres_changes', { event: '*', schema: 'public' }, () => {})
    const presence = client.channel('b').on('presence', { event: 'sync' }, () => {})

    const results = await Promise.all([subscribe(changes), subscribe(presence)])

    expect(results.map(({ reason }) => reason)).toEqual([
      expect.stringContaining('no postgres_changes'),
      expect.stringContaining('no presence'),
    ])
  })
})

describe.runIf(target().hasRealtime)('a message from the database', () => {
  test('reaches its user within a second, in both versions of the protocol', async () => {
    const listeners = await Promise.all(
      ['1.0.0', '2.0.0'].map(async (vsn) => listenTo(await realtimeClient(user.accessToken, { vsn }), ownTopic(user))),
    )

    await send(ownTopic(user), { worth: 12 })

    for (const { result, received } of listeners) {
      expect(result).toEqual(subscribed)
      await expect.poll(() => received, withinASecond).toHaveLength(1)
      expect(received[0]).toEqual({ event: 'snapshot', payload: { id: expect.any(String), worth: 12 } })
    }
  })

  test('may be larger than what NOTIFY carries, and hundreds keep their order and come once', async () => {
    const { received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user))

    await send(ownTopic(user), { text: 'x'.repeat(100_000) }, 'large')
    await sql`select realtime.send(jsonb_build_object('n', n), 'many', ${ownTopic(user)}) from generate_series(1, 500) n`

    await expect.poll(() => received.length).toBe(501)
    expect(JSON.stringify(received[0]?.payload)).toHaveLength(
      100_000 + JSON.stringify({ id: crypto.randomUUID(), text: '' }).length,
    )
    expect(received.slice(1).map(({ payload }) => payload)).toEqual(
      Array.from({ length: 500 }, (_, index) => ({ id: expect.any(String), n: index + 1 })),
    )
  })

  test('that was rolled back, is for somebody else, is not private or is no JSON does not come', async () => {
    const { received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user))

    await sql
      .begin(async (tx) => {
        await tx`select realtime.send('{}', 'undone', ${ownTopic(user)})`
        throw new Error('undo')
      })
      .catch(() => {})
    await send(ownTopic(other), {}, 'foreign')
    await send(ownTopic(user), {}, 'public', false)
    await sql`select realtime.send_binary('bytes'::bytea, 'binary', ${ownTopic(user)})`
    await send(ownTopic(user), {}, 'last')

    await expect.poll(() => received).toHaveLength(1)
    expect(received[0]?.event).toBe('last')
  })

  test('written by a user whom no policy lets write is dropped with a warning', async () => {
    const { received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user))
    const warnings: string[] = []
    const asUser = postgres(target().dbUrl, { max: 1, onnotice: ({ message = '' }) => warnings.push(message) })

    await asUser.begin(async (tx) => {
      const claims = JSON.stringify({ sub: user.id, role: 'authenticated', session_id: user.sessionId, aal: 'aal1' })
      await tx`select set_config('role', 'authenticated', true), set_config('request.jwt.claims', ${claims}, true)`
      await tx`select realtime.send('{}', 'forged', ${ownTopic(user)})`
    })
    await asUser.end()
    await send(ownTopic(user), {}, 'last')

    expect(warnings).toEqual([expect.stringMatching(/^WarnSendingBroadcastMessage: .*row-level security/)])
    await expect.poll(() => received.map(({ event }) => event)).toEqual(['last'])
  })

  test('tells of a changed row with broadcast_changes', async () => {
    const { received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user))

    await sql`
      select realtime.broadcast_changes(${ownTopic(user)}, 'INSERT', 'INSERT', 'plans', 'public', p, null)
      from public.plans p order by id limit 1`

    await expect.poll(() => received).toHaveLength(1)
    expect(received[0]).toMatchObject({
      event: 'INSERT',
      payload: {
        operation: 'INSERT',
        schema: 'public',
        table: 'plans',
        record: { id: expect.anything() },
        old_record: null,
      },
    })
  })

  test('still comes after the database ended the connections of Realtime, those of the gap included', async ({
    skip,
  }) => {
    const { superuserUrl } = target()
    if (!superuserUrl) return skip('needs a superuser')
    const superuser = postgres(superuserUrl, { max: 1, onnotice: () => {} })
    const { received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user))
    const end = () => superuser`
      select pg_terminate_backend(pid) from pg_stat_activity where usename = 'supabase_realtime_admin'`

    for (const event of ['first', 'second']) {
      expect((await end()).count).toBeGreaterThan(0)
      await send(ownTopic(user), {}, event)
      await expect.poll(() => received.at(-1)?.event).toBe(event)
    }

    expect(received).toHaveLength(2)
    await superuser.end()
  })
})

describe.runIf(target().hasRealtime)('a channel', () => {
  test('outlives its token when it gets a new one, and ends with it when it gets none', async ({ skip }) => {
    if (!target().own) return skip('needs the signing key of a stack of our own')
    const seconds = 3
    const token = await tokenFor(user, seconds)
    const [kept, lost] = await Promise.all([realtimeClient(token), realtimeClient(token)])
    const [staying, ending] = await Promise.all([listenTo(kept, ownTopic(user)), listenTo(lost, ownTopic(user))])
    const reasons: unknown[] = []
    ending.channel.on('system', {}, (message) => reasons.push(message))

    await kept.realtime.setAuth(user.accessToken)
    await expect.poll(() => ending.channel.state, { timeout: seconds * 2_000 }).toBe('closed')
    await send(ownTopic(user), {}, 'later')

    expect([staying.result, ending.result]).toEqual([subscribed, subscribed])
    await expect.poll(() => staying.received.map(({ event }) => event)).toEqual(['later'])
    expect(ending.received).toEqual([])
    expect(reasons).toEqual([expect.objectContaining({ status: 'error', message: expect.stringMatching(/expired/) })])
  })

  test('ends when its new token may not read', async () => {
    const client = await realtimeClient(user.accessToken)
    const { channel, result } = await listenTo(client, ownTopic(user))

    await client.realtime.setAuth(other.accessToken)

    expect(result).toEqual(subscribed)
    await expect.poll(() => channel.state).toBe('closed')
  })
})

describe.runIf(target().hasRealtime)('a topic that was left', () => {
  const messages = (received: Received[]) => received.map(({ event }) => event)

  test.each(['1.0.0', '2.0.0'])('is heard again when it is joined again at once, in version %s', async (vsn) => {
    const client = await realtimeClient(user.accessToken, { vsn })
    const first = await listenTo(client, ownTopic(user))

    await client.removeChannel(first.channel)
    const second = await listenTo(client, ownTopic(user))
    void second.channel.unsubscribe()
    const third = await listenTo(client, ownTopic(user))
    await send(ownTopic(user), {}, 'last')

    expect([second.result, third.result]).toEqual([subscribed, subscribed])
    await expect.poll(() => messages(third.received)).toEqual(['last'])
    expect([...first.received, ...second.received]).toEqual([])
  })

  // supabase-js itself then takes the second channel for the removed one (realtime-js, src/RealtimeClient.ts, _remove, goes by
  // topic): `getChannels` is empty, and the client disconnects after two heartbeats. Without `unsubscribe` before it does not.
  test('is heard on when the channel that was left is removed after it was joined again', async () => {
    const client = await realtimeClient(user.accessToken)
    const first = await listenTo(client, ownTopic(user))
    await first.channel.unsubscribe()
    const second = await listenTo(client, ownTopic(user))

    await client.removeChannel(first.channel)
    await send(ownTopic(user), {}, 'last')

    expect(second.result).toEqual(subscribed)
    await expect.poll(() => messages(second.received)).toEqual(['last'])
  })

  test('is heard on by the other clients, and their other topics by the one that left', async () => {
    const [leaving, staying] = await Promise.all([realtimeClient(user.accessToken), realtimeClient(user.accessToken)])
    const [left, heard, elsewhere] = await Promise.all([
      listenTo(leaving, ownTopic(user)),
      listenTo(staying, ownTopic(user)),
      listenTo(leaving, `${room}:elsewhere`),
    ])

    await leaving.removeChannel(left.channel)
    await send(ownTopic(user), {}, 'own')
    await send(`${room}:elsewhere`, {}, 'other')

    await expect.poll(() => messages(heard.received)).toEqual(['own'])
    await expect.poll(() => messages(elsewhere.received)).toEqual(['other'])
    expect(left.received).toEqual([])
  })

  // Not ours: createClient gives realtime-js a callback that answers the session's token, or the key where there is none
  // (supabase-js 2.119.0, src/SupabaseClient.ts, _initRealtimeClient and _getAccessToken). With a callback a token given to
  // setAuth is no manual one (realtime-js, src/RealtimeClient.ts:667), so each successful join asks the callback again
  // (src/RealtimeChannel.ts:482) and the next join shows the key. Realtime ignores a key that is pushed to a joined channel,
  // here and hosted (realtime_channel.ex, handle_in "access_token" of "sb_"), so the first channel works on and hides it.
  test('is refused when its token was only given to setAuth: supabase-js forgets it at the first join', async () => {
    const client = await realtimeClient(null)
    await client.realtime.setAuth(user.accessToken)
    const first = await listenTo(client, ownTopic(user))
    await expect.poll(() => client.realtime.accessTokenValue).toBe(target().publishableKey)
    await send(ownTopic(user), {}, 'before')
    await expect.poll(() => messages(first.received)).toEqual(['before'])

    await client.removeChannel(first.channel)
    const second = await listenTo(client, ownTopic(user))

    expect([first.result, second.result]).toEqual([subscribed, denied(ownTopic(user))])
  })
})

describe.runIf(target().hasRealtime)('a broadcast of a client', () => {
  const broadcast = (event: string, payload: unknown) => ({ type: 'broadcast' as const, event, payload })

  test('reaches the others, not itself, and is acknowledged; in both versions, text and bytes', async () => {
    const topic = `${room}:chat`
    const config = { broadcast: { ack: true } }
    const old = await listenTo(await realtimeClient(user.accessToken, { vsn: '1.0.0' }), topic, config)
    const recent = await listenTo(await realtimeClient(other.accessToken), topic, config)
    const third = await listenTo(await realtimeClient(other.accessToken), topic, config)

    const answers = [
      await old.channel.send(broadcast('old', { text: 'grüße' })),
      await recent.channel.send(broadcast('recent', { text: '✓' })),
      await recent.channel.send(broadcast('bytes', new Uint8Array([1, 2, 255]).buffer)),
    ]

    expect(answers).toEqual(['ok', 'ok', 'ok'])
    await expect.poll(() => third.received).toHaveLength(3)
    expect(third.received.slice(0, 2)).toEqual([
      { event: 'old', payload: { text: 'grüße' } },
      { event: 'recent', payload: { text: '✓' } },
    ])
    expect(third.received[2]?.payload).toEqual(new Uint8Array([1, 2, 255]).buffer)
    expect(old.received.map(({ event }) => event)).toEqual(['recent'])
    expect(recent.received.map(({ event }) => event)).toEqual(['old'])
  })

  test('to a private topic where they may only read is refused, and nobody hears it', async () => {
    const topic = `${room}:read-only`
    const sender = await listenTo(await realtimeClient(user.accessToken), topic, { broadcast: { ack: true } })
    const reader = await listenTo(await realtimeClient(other.accessToken), topic)

    const answer = await sender.channel.send(broadcast('forbidden', {}), { timeout: 1_000 })
    await send(topic, {}, 'allowed')

    expect(answer).not.toBe('ok')
    await expect.poll(() => reader.received.map(({ event }) => event)).toEqual(['allowed'])
  })

  test("to a user's own topic is refused even to that user: only the server writes there", async () => {
    const config = { broadcast: { ack: true, self: true } }
    const { channel, received } = await listenTo(await realtimeClient(user.accessToken), ownTopic(user), config)

    const answer = await channel.send(broadcast('snapshot', {}), { timeout: 1_000 })

    expect(answer).not.toBe('ok')
    expect(received).toEqual([])
  })

  test('on a public channel needs no policy, and never reaches the private one of the same name', async () => {
    const topic = `${room}:both`
    const config = { private: false, broadcast: { ack: true, self: true } }
    const [anonymous, secret] = await Promise.all([
      listenTo(await realtimeClient(null), topic, config),
      listenTo(await realtimeClient(user.accessToken), topic),
    ])

    expect(await anonymous.channel.send(broadcast('hello', { n: 1 }))).toBe('ok')
    await send(topic, {}, 'secret')

    await expect.poll(() => secret.received.map(({ event }) => event)).toEqual(['secret'])
    expect(anonymous.received).toEqual([{ event: 'hello', payload: { n: 1 } }])
  })
})
