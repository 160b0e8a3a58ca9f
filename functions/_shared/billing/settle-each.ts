/** Does something for each item, so many at a time. One that fails says so in its place, and stops no other. */
export type Settled<T> = { ok: true; value: T } | { ok: false; error: unknown }

export async function settleEach<Item, T>(
  items: Item[],
  atOnce: number,
  act: (item: Item) => T | Promise<T>,
): Promise<Settled<T>[]> {
  const settled: Settled<T>[] = []
  const left = [...items.entries()]
  const work = async () => {
    for (let next = left.shift(); next; next = left.shift()) {
      const [place, item] = next
      try {
        settled[place] = { ok: true, value: await act(item) }
      } catch (error) {
        settled[place] = { ok: false, error }
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return settled
}
