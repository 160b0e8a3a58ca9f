/**
 * A time zone in which it is about noon: the day of an account that lives there, with the limits that are counted by it, does
 * not end while a test runs.
 */
export function noonZone(now = new Date()): string {
  // Etc/GMT+3 is three hours behind Greenwich.
  const behind = now.getUTCHours() - 12
  return `Etc/GMT${behind < 0 ? '-' : '+'}${Math.abs(behind)}`
}
