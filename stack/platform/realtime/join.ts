/** Joining a channel: what is asked for, by whom, and the answer in the words of the real service. */
import { z } from 'zod'
import { type ChannelConfig, noReading } from './channel.ts'
import type { Frame } from './frames.ts'
import { type Pass, readPass } from './pass.ts'
import type { Connection, World } from './world.ts'

const flag = z.boolean().nullish()
const joinPayload = z.looseObject({
  access_token: z.string().nullish(),
  user_token: z.string().nullish(),
  config: z
    .looseObject({
      private: flag,
      broadcast: z
        .looseObject({ self: flag, ack: flag, replication_ready: flag, replay: z.unknown().optional() })
        .nullish(),
      presence: z.looseObject({ enabled: flag }).nullish(),
      postgres_changes: z.array(z.unknown()).nullish(),
    })
    .nullish(),
})
type JoinPayload = z.infer<typeof joinPayload>

export type Admission = { config: ChannelConfig; pass: Pass; wantsReady: boolean }

export async function admit(
  world: World,
  connection: Connection,
  frame: Frame,
): Promise<Admission | { reason: string }> {
  const name = /^realtime:(.*)$/s.exec(frame.topic)?.[1]
  if (name === undefined) return { reason: 'unmatched topic' }
  if (name === '') return { reason: 'TopicNameRequired: You must provide a topic name' }
  const parsed = joinPayload.safeParse(frame.payload)
  if (!parsed.success) return { reason: 'InvalidJoinPayload: The join is not of the shape that Realtime reads' }
  const missing = whatIsMissing(parsed.data)
  if (missing) return { reason: missing }
  const { access_token, user_token, config } = parsed.data
  const pass = await readPass(world.tokens, user_token ?? access_token, connection.keyRole)
  if ('reason' in pass) return pass
  const isPrivate = config?.private ?? false
  if (isPrivate && !(await world.permissions.mayReceive(name, pass.subject))) {
    return { reason: `Unauthorized: ${noReading(name)}` }
  }
  const { self, ack, replication_ready } = config?.broadcast ?? {}
  const topic = { name, isPrivate }
  return {
    config: { topic, joinRef: frame.joinRef, self: self ?? false, ack: ack ?? false },
    pass,
    wantsReady: replication_ready ?? false,
  }
}

/** What hosted has and the local stack has not, said at once rather than left silent. */
function whatIsMissing({ config }: JoinPayload): string | undefined {
  if ((config?.postgres_changes ?? []).length > 0) {
    return 'RealtimeDisabledForConfiguration: The local stack has no postgres_changes: send a broadcast from a trigger'
  }
  if (config?.presence?.enabled) return 'PresenceDisabled: The local stack has no presence'
  if (config?.broadcast?.replay) return 'UnableToReplayMessages: The local stack does not replay messages'
  return undefined
}
