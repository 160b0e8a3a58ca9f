export function quantile(values: number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

/** The median, and in words where single rounds lay. */
export function summary(values: number[]): { value: number; note: string } {
  const spread = [0.1, 0.9].map((share) => quantile(values, share).toFixed(2)).join(' to ')
  return { value: quantile(values, 0.5), note: `single rounds p10 to p90: ${spread}` }
}
