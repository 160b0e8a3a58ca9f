/** How results are told: tables for people, JSON for programs. */
import { tableOf } from '../shared/print-table.ts'
import { type Figure, type FigureId, figures, judge } from './figures.ts'
import type { BenchResult } from './types.ts'

/** The result of a benchmark that measures a figure. */
export function figureResult(figure: FigureId, value: number, note: string): BenchResult {
  const { name, unit, better } = figures[figure]
  return { figure, name, unit, better, value, note }
}

const digits = (unit: string) => (unit === 'ratio' ? 3 : unit === 'ms' || unit === 'kB' ? 2 : 1)
const measured = ({ value, unit }: BenchResult) => `${value.toFixed(digits(unit))} ${unit}`

const isHigherBetter = ({ unit, better }: BenchResult) =>
  (better ?? (unit === 'ratio' ? 'higher' : 'lower')) === 'higher'

/** Of a result with a target of its own: a figure has two. */
function targetVerdict(result: BenchResult): 'met' | 'MISSED' | undefined {
  const { value, target } = result
  if (target === undefined) return undefined
  return (isHigherBetter(result) ? value >= target : value <= target) ? 'met' : 'MISSED'
}

/** The figures of figures.ts that were measured, and then everything else. */
export function tablesOf(results: BenchResult[]): string {
  const sign = ({ better }: Figure) => (better === 'higher' ? '>=' : '<=')
  const promised = results.flatMap((result) => {
    if (!result.figure) return []
    const figure = figures[result.figure]
    const bounds = [`${sign(figure)} ${figure.atLeast}`, `${sign(figure)} ${figure.aim}`]
    return [[result.name, measured(result), ...bounds, judge(figure, result.value), result.note ?? '']]
  })
  const others = results
    .filter(({ figure }) => !figure)
    .map((result) => [
      result.name,
      measured(result),
      result.target === undefined ? '' : `${isHigherBetter(result) ? '>=' : '<='} ${result.target}`,
      targetVerdict(result) ?? '',
      result.note ?? '',
    ])
  return [
    ...(promised.length > 0 ? [tableOf([['figure', 'measured', 'at least', 'aim', '', ''], ...promised])] : []),
    ...(others.length > 0 ? [tableOf([['what', 'measured', 'target', '', ''], ...others])] : []),
  ].join('\n\n')
}

/** A number that JSON has no word for is null. Figures that this run did not measure are there, without a value. */
export function jsonOf(results: BenchResult[], run: Record<string, unknown>): string {
  const found = new Map(results.map((result) => [result.figure, result]))
  const promised = (Object.keys(figures) as FigureId[]).map((id) => {
    const result = found.get(id)
    const verdict = result ? judge(figures[id], result.value) : 'not measured'
    return { id, ...figures[id], value: result?.value ?? null, verdict, note: result?.note ?? null }
  })
  const others = results
    .filter(({ figure }) => !figure)
    .map((result) => ({ ...result, verdict: targetVerdict(result) ?? null }))
  return `${JSON.stringify({ ...run, figures: promised, others }, null, 2)}\n`
}
