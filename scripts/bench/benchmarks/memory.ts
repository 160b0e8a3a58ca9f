/** Whether the function's process grows with the calls it has served: its resident memory over 50,000 streams. */
import type { BenchResult, BenchWorld } from '../types.ts'
import { residentMb } from './gateway/processes.ts'
import { quantile } from './gateway/quantile.ts'
import { modelName } from './gateway/seed.ts'
import { startSystems } from './gateway/systems.ts'

const parts = 20
const callers = 16

/** @public Called by the name of its file. */
export async function bench(world: BenchWorld): Promise<BenchResult[]> {
  const { targets, load, stop } = await startSystems(world, 'memory', { wanted: ['palisade'] })
  try {
    const target = targets.get('palisade')
    if (!target) throw new Error('the gateway was not started')
    const [server] = target.processes.function ?? []
    const perCaller = Math.ceil((50_000 * world.scale) / parts / callers)
    const seen: number[] = []
    for (let part = 0; part < parts; part += 1) {
      await load.measure({
        target,
        callers,
        stream: true,
        model: modelName(0, 0),
        users: 'spread',
        amount: { perCaller },
      })
      seen.push(residentMb(server?.pid))
      world.progress(`memory after ${(part + 1) * perCaller * callers} streams: ${seen.at(-1)?.toFixed(0)} MB`)
    }
    // The first fifth is left out: code is compiled, the heap finds its size.
    const early = quantile(seen.slice(parts / 5, (2 * parts) / 5), 0.5)
    const late = quantile(seen.slice((-1 * parts) / 5), 0.5)
    const note = `${early.toFixed(0)} MB to ${late.toFixed(0)} MB over ${parts * perCaller * callers} streams`
    return [
      {
        name: 'memory, last fifth over second fifth',
        unit: 'ratio',
        better: 'lower',
        target: 1.1,
        value: late / early,
        note,
      },
    ]
  } finally {
    await stop()
  }
}
