/** For what a process keeps while it lives: sets a key of a map, and drops the oldest one when there are `most` already. */
export function remember<Key, Value>(kept: Map<Key, Value>, most: number, key: Key, value: Value): void {
  const [oldest] = kept.keys()
  if (kept.size >= most && oldest !== undefined) kept.delete(oldest)
  kept.set(key, value)
}
