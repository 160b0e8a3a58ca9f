/** Who listens to what. A private topic and a public one of the same name have nothing to do with each other. */
import { type Broadcast, encodeBroadcast, type Version } from './frames.ts'

type Listener = { version: Version; write(data: string | Buffer): void }
export type Topic = { name: string; isPrivate: boolean }
export type Topics = ReturnType<typeof createTopics>

const keyOf = ({ name, isPrivate }: Topic) => `${isPrivate ? 'private' : 'public'} ${name}`

export function createTopics() {
  const listeners = new Map<string, Set<Listener>>()
  return {
    add(topic: Topic, listener: Listener): void {
      const set = listeners.get(keyOf(topic)) ?? new Set()
      listeners.set(keyOf(topic), set.add(listener))
    },
    remove(topic: Topic, listener: Listener): void {
      const set = listeners.get(keyOf(topic))
      if (set?.delete(listener) && set.size === 0) listeners.delete(keyOf(topic))
    },
    /** To everybody who listens, but the sender. Encoded once for each version of the protocol. */
    deliver(topic: Topic, broadcast: Broadcast, sender?: Listener): void {
      const encoded = new Map<Version, string | Buffer | undefined>()
      for (const listener of listeners.get(keyOf(topic)) ?? []) {
        if (listener === sender) continue
        const { version } = listener
        if (!encoded.has(version)) {
          encoded.set(version, encodeBroadcast(version, `realtime:${topic.name}`, broadcast))
        }
        const data = encoded.get(version)
        if (data !== undefined) listener.write(data)
      }
    },
  }
}
