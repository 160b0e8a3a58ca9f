/** GET /admin/users, page by page, and one user. */
import { requireAdmin, requireUser } from './admin.ts'
import { invalid } from './errors.ts'
import { findUserById, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const perPageDefault = 50
const audience = 'authenticated'

export async function listUsers(world: AuthWorld, call: AuthCall): Promise<Response> {
  requireAdmin(call)
  const page = pageNumber(call, 'page', 1)
  const perPage = pageNumber(call, 'per_page', perPageDefault)
  const { rows, total } = await findUsers(world.sql, call, page, perPage)
  const users = await Promise.all(rows.map((row) => userJson(world.sql, row)))
  return Response.json(
    { users, aud: audience },
    { headers: { 'x-total-count': String(total), link: links(call.url, page, perPage, total) } },
  )
}

export async function showAnyUser(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  return Response.json(await world.sql.begin(async (tx) => userJson(tx, await requireUser(tx, params[0]))))
}

function pageNumber({ url }: AuthCall, name: string, otherwise: number): number {
  const sent = url.searchParams.get(name) ?? ''
  if (sent === '') return otherwise
  if (!/^\d{1,9}$/.test(sent)) throw invalid(`Bad Pagination Parameters: ${name} must be a whole number`)
  return Number(sent) || otherwise
}

function isAscending({ url }: AuthCall): boolean {
  const sort = url.searchParams.get('sort') ?? ''
  const [field, direction = 'asc', ...rest] = (sort || 'created_at desc').trim().split(/\s+/)
  if (field !== 'created_at') throw invalid(`Bad Sort Parameters: bad field for sort "${field}"`)
  if (!['asc', 'desc'].includes(direction) || rest.length > 0) {
    throw invalid(`Bad Sort Parameters: bad direction for sort "${direction}", only "asc" and "desc" allowed`)
  }
  return direction === 'asc'
}

/** `filter` is a part of the address, or of full_name in any case. */
async function findUsers(tx: Db, call: AuthCall, page: number, perPage: number) {
  const pattern = `%${call.url.searchParams.get('filter') ?? ''}%`
  const where = tx`
    aud = ${audience} and (${pattern} = '%%' or email like ${pattern} or raw_user_meta_data ->> 'full_name' ilike ${pattern})`
  const order = isAscending(call) ? tx`created_at, id` : tx`created_at desc, id desc`
  const [count] = await tx`select count(*)::integer as total from auth.users where ${where}`
  const ids = await tx<{ id: string }[]>`
    select id from auth.users where ${where} order by ${order} limit ${perPage} offset ${(page - 1) * perPage}`
  const found = await Promise.all(ids.map(({ id }) => findUserById(tx, id)))
  return { rows: found.filter((row): row is UserRow => row !== undefined), total: Number(count?.total) }
}

/** RFC 8288, the page first: supabase-js reads the first number after the first equals sign. */
function links(url: URL, page: number, perPage: number, total: number): string {
  const last = Math.ceil(total / perPage)
  const to = (number: number, rel: string) => {
    const query = new URLSearchParams(url.searchParams)
    query.delete('page')
    query.delete('apikey')
    return `</admin/users?page=${number}&${query}>; rel="${rel}"`
  }
  return [...(last > page ? [to(page + 1, 'next')] : []), to(last, 'last')].join(', ')
}
