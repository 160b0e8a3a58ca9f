/** Amounts as decimal strings: no float ever holds one. */
import { z } from 'zod'

/** A plain decimal, also from what some exchanges write with an exponent (`1e-8`). Longer ones are no amounts of anything. */
export const decimal = z
  .string()
  .max(100)
  .regex(/^-?\d+(\.\d+)?(e[+-]?\d{1,3})?$/i)
  .transform(toPlain)

function toPlain(text: string): string {
  const [number = '', exponent] = text.toLowerCase().split('e')
  if (exponent === undefined) return number
  const { minus, digits, scale } = partsOf(number)
  const moved = scale - Number(exponent)
  return moved >= 0 ? minus + point(digits, moved) : minus + digits + '0'.repeat(-moved)
}

const partsOf = (number: string) => {
  const [whole = '', fraction = ''] = number.replace('-', '').split('.')
  return { minus: number.startsWith('-') ? '-' : '', digits: whole + fraction, scale: fraction.length }
}

function point(digits: string, scale: number): string {
  const padded = digits.padStart(scale + 1, '0')
  return scale === 0 ? padded : `${padded.slice(0, -scale)}.${padded.slice(-scale)}`
}

export const isZero = (number: string): boolean => !/[1-9]/.test(number)

export function multiply(a: string, b: string): string {
  const [x, y] = [partsOf(a), partsOf(b)]
  const digits = point((BigInt(x.digits) * BigInt(y.digits)).toString(), x.scale + y.scale)
  return x.minus === y.minus ? digits : `-${digits}`
}

/** Cut to `scale` decimals. Neither is negative, and `b` is not zero. */
export function divide(a: string, b: string, scale: number): string {
  const [x, y] = [partsOf(a), partsOf(b)]
  const moved = y.scale + scale - x.scale
  const [above, below] = [10n ** BigInt(Math.max(moved, 0)), 10n ** BigInt(Math.max(-moved, 0))]
  return point(((BigInt(x.digits) * above) / (BigInt(y.digits) * below)).toString(), scale)
}
