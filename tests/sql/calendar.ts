/** A second calendar, independent of PostgreSQL's: midnights and anniversaries by Intl.DateTimeFormat alone. */
const hour = 3_600_000
const day = 24 * hour
const formats = new Map<string, Intl.DateTimeFormat>()

/** Local date and time as `2026-03-29 00:00:00`, which sorts. */
export function localTime(zone: string, at: number): string {
  const format =
    formats.get(zone) ??
    new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'medium', hourCycle: 'h23' })
  formats.set(zone, format)
  return format.format(at)
}

const asUtc = (local: string) => Date.parse(`${local.replace(' ', 'T')}Z`)
const dateOf = (utc: number) => new Date(utc).toISOString().slice(0, 10)
const offsetAt = (zone: string, at: number) => asUtc(localTime(zone, at)) - Math.floor(at / 1000) * 1000

/** When a local date begins: at its first midnight or, when the clock skips that, right after the skip. */
function startOfDate(zone: string, date: string): number {
  const midnight = `${date} 00:00:00`
  const utc = asUtc(midnight)
  const offsets = [-36, -12, 12, 36].map((hours) => offsetAt(zone, utc + hours * hour))
  const midnights = offsets.map((offset) => utc - offset).filter((at) => localTime(zone, at) === midnight)
  if (midnights.length > 0) return Math.min(...midnights)
  let [before, after] = [utc - 1.5 * day, utc + 1.5 * day]
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2)
    if (localTime(zone, middle) >= midnight) after = middle
    else before = middle
  }
  return after
}

/** After a first midnight the clock may show the day before once more, so the next one is that of the day after tomorrow. */
export function nextMidnight(zone: string, at: number): number {
  const today = asUtc(`${localTime(zone, at).slice(0, 10)} 00:00:00`)
  const starts = [1, 2].map((ahead) => startOfDate(zone, dateOf(today + ahead * day)))
  return Math.min(...starts.filter((start) => start > at))
}

export function nextAnniversary(zone: string, signedUp: number, at: number): number {
  const wanted = Number(localTime(zone, signedUp).slice(8, 10))
  const [year = 0, month = 0] = localTime(zone, at).split('-').map(Number)
  const starts = [0, 1, 2].map((ahead) => {
    const lastDay = new Date(Date.UTC(year, month + ahead, 0)).getUTCDate()
    return startOfDate(zone, dateOf(Date.UTC(year, month - 1 + ahead, Math.min(wanted, lastDay))))
  })
  return Math.min(...starts.filter((start) => start > at))
}

const known = new Map<string, number[]>()

/** The moments of a year, by UTC, at which the zone's clock jumps. */
export function clockChanges(zone: string, year: number): number[] {
  const key = `${zone} ${year}`
  const changes = known.get(key) ?? []
  if (known.has(key)) return changes
  known.set(key, changes)
  for (let at = Date.UTC(year, 0, 1); at < Date.UTC(year + 1, 0, 1); at += day) {
    let [before, after] = [at, at + day]
    if (offsetAt(zone, before) === offsetAt(zone, after)) continue
    while (after - before > 1000) {
      const middle = Math.floor((before + after) / 2000) * 1000
      if (offsetAt(zone, middle) === offsetAt(zone, at)) before = middle
      else after = middle
    }
    changes.push(after)
  }
  return changes
}
