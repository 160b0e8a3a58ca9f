/** What one audit entry costs: the same small transaction with and without it, in turns, on one connection. */
import postgres from 'postgres'
import type { BenchResult, BenchWorld } from '../types.ts'

const rounds = 300
const warmUp = 10
const entriesPerTransaction = 10

/** @public Called by the name of its file. */
export async function bench({ createDatabase, progress }: BenchWorld): Promise<BenchResult[]> {
  const sql = postgres(await createDatabase('audit'), { max: 1, onnotice: () => {} })
  progress('measuring audit entries')
  try {
    const user = crypto.randomUUID()
    const headers = JSON.stringify({
      'x-forwarded-for': '203.0.113.9',
      'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36',
      'x-request-id': crypto.randomUUID(),
    })
    const call = async (isAudited: boolean): Promise<number> => {
      const began = performance.now()
      await sql.begin(async (tx) => {
        await tx`select set_config('request.headers', ${headers}, true)`
        await tx`
          select case when ${isAudited} then private.audit(
              action => 'bench.audit', resource_type => 'bench', resource_id => n::text, user_id => ${user}::uuid,
              details => '{"reason": "measured"}') end
          from generate_series(1, ${entriesPerTransaction}::integer) n`
      })
      return (performance.now() - began) / entriesPerTransaction
    }
    const times: Record<'with' | 'without', number[]> = { with: [], without: [] }
    for (let round = 0; round < rounds + warmUp; round += 1) {
      // In turns, and each first as often as second: what else the machine does falls on both.
      for (const isAudited of round % 2 === 0 ? [true, false] : [false, true]) {
        const ms = await call(isAudited)
        if (round >= warmUp) times[isAudited ? 'with' : 'without'].push(ms)
      }
    }
    const value = fast(times.with) - fast(times.without)
    return [{ name: 'added time of one audit entry, sealed and committed', unit: 'ms', value, target: 0.2 }]
  } finally {
    await sql.end()
  }
}

/** The fastest tenth: what else the machine does only ever adds time. */
const fast = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 10)] ?? Number.NaN
