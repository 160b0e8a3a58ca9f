/** Amounts as decimal strings: no float ever holds one. */
import { z } from 'zod'

/** A plain decimal, also from what some exchanges write with an exponent (`1e-8`). */
export const decimal = z
  .string()
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

export function add(a: string, b: string): string {
  const scale = Math.max(partsOf(a).scale, partsOf(b).scale)
  const units = (number: string) => {
    const parts = partsOf(number)
    return BigInt(parts.minus + parts.digits + '0'.repeat(scale - parts.scale))
  }
  const sum = units(a) + units(b)
  return sum < 0n ? `-${point((-sum).toString(), scale)}` : point(sum.toString(), scale)
}
