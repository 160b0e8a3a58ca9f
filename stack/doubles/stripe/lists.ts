/** Lists as Stripe pages them: newest first, from one id to another. */
import type { Page } from './params.ts'
import { missing } from './refusals.ts'

type Listed = { id: string; created?: number }

export const listOf = <T>(url: string, data: T[], has_more = false) => ({
  object: 'list' as const,
  data,
  has_more,
  url,
})

export function listPage<T extends Listed>(
  url: string,
  all: Iterable<T>,
  page: Page,
  fits: (item: T) => boolean = () => true,
) {
  const rows = [...all].reverse().filter((item) => isInRange(item, page.created) && fits(item))
  const after = page.starting_after === undefined ? 0 : position(rows, page.starting_after, 'starting_after') + 1
  const before = page.ending_before === undefined ? rows.length : position(rows, page.ending_before, 'ending_before')
  const from = page.ending_before === undefined ? after : Math.max(after, before - page.limit)
  const data = rows.slice(from, Math.min(before, from + page.limit))
  const has_more = page.ending_before === undefined ? from + page.limit < before : from > after
  return listOf(url, data, has_more)
}

function position(rows: Listed[], id: string, param: string): number {
  const at = rows.findIndex((row) => row.id === id)
  if (at < 0) throw missing('object in this list', id, param)
  return at
}

function isInRange({ created = 0 }: Listed, range: Page['created']): boolean {
  if (!range) return true
  const { gt, gte, lt, lte } = { gt: undefined, lt: undefined, ...range }
  return (
    (gt === undefined || created > gt) &&
    (gte === undefined || created >= gte) &&
    (lt === undefined || created < lt) &&
    (lte === undefined || created <= lte)
  )
}
