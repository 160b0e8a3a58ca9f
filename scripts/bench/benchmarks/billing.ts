/**
 * How fast Stripe's events come in, beside the least that could be done with them: the bare signature check and one insert. And
 * how fast they are applied, with a Stripe that answers at once.
 */
import type { BenchResult, BenchWorld } from '../types.ts'
import { measureApplying } from './billing/applying.ts'
import { measureIntake } from './billing/intake.ts'
import { quantile } from './gateway/quantile.ts'

/** @public Called by the name of its file. */
export async function bench({ createDatabase, progress, scale, rounds }: BenchWorld): Promise<BenchResult[]> {
  const url = await createDatabase('billing')
  progress('measuring the webhook beside a bare one')
  const { ours, bare } = await measureIntake(url, rounds ?? Math.max(4, Math.round(30 * scale)))
  progress('measuring how events are applied')
  const { events, perSecond } = await measureApplying(url, Math.max(20, Math.round(500 * scale)))
  const ratios = ours.map((rate, round) => rate / (bare[round] ?? Number.NaN))
  return [
    {
      name: 'webhook intake over a bare check and insert',
      unit: 'ratio',
      target: 0.7,
      value: quantile(ratios, 0.5),
      note: `median of ${ratios.length} rounds in turns; 8 of 10 from ${quantile(ratios, 0.1).toFixed(2)} to ${quantile(ratios, 0.9).toFixed(2)}`,
    },
    { name: 'webhook intake', unit: 'a second', better: 'higher', value: quantile(ours, 0.5) },
    { name: 'bare check and insert', unit: 'a second', better: 'higher', value: quantile(bare, 0.5) },
    {
      name: 'events applied',
      unit: 'a second',
      better: 'higher',
      value: perSecond,
      note: `${events} events of subscriptions and paid invoices, one worker; Stripe answers at once`,
    },
  ]
}
