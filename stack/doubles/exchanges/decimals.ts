/** Exact arithmetic on decimal strings that are not negative. */

export function multiply(a: string, b: string): string {
  const [x, y] = [a.split('.'), b.split('.')]
  const scale = (x[1] ?? '').length + (y[1] ?? '').length
  const digits = (BigInt(x.join('')) * BigInt(y.join(''))).toString().padStart(scale + 1, '0')
  return scale === 0 ? digits : `${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}

export function sum(a: string, b: string): string {
  const scale = Math.max(a.split('.')[1]?.length ?? 0, b.split('.')[1]?.length ?? 0)
  const units = (text: string) => {
    const [whole = '0', part = ''] = text.split('.')
    return BigInt(whole + part.padEnd(scale, '0'))
  }
  const digits = (units(a) + units(b)).toString().padStart(scale + 1, '0')
  return scale === 0 ? digits : `${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}
