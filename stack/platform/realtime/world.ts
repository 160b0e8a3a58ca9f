/** What the endpoint works with, and what a channel knows of its connection. */
import type { ApiRole, Tokens } from '../gateway/tokens.ts'
import type { Channel } from './channel.ts'
import type { Frame, Version } from './frames.ts'
import type { Limits } from './limits.ts'
import type { Permissions } from './permissions.ts'
import type { Topics } from './topics.ts'

export type World = {
  tokens: Tokens
  permissions: Permissions
  topics: Topics
  limits: Limits
  now(): number
  log(line: string): void
}

export type Connection = {
  version: Version
  /** The role of the API key that opened it. */
  keyRole: ApiRole
  push(frame: Frame): void
  write(data: string | Buffer): void
  /** The channel has ended, unless another took its place. */
  forget(address: string, channel: Channel): void
}
