/** Bodies and queries with brackets, as Stripe's clients write them: `items[0][price]=…`, `expand[]=…`. */
export type FormValue = string | FormValue[] | { [name: string]: FormValue }
type Branch = { [name: string]: FormValue }

const fresh = (): Branch => Object.create(null)
const isBranch = (value: FormValue | undefined): value is Branch => typeof value === 'object' && !Array.isArray(value)

export function parseForm(text: string): Branch {
  const form = fresh()
  for (const [name, value] of new URLSearchParams(text)) {
    const [first = '', ...rest] = name.split('[').map((part) => part.replace(/\]$/, ''))
    put(form, [first, ...rest], value)
  }
  return withLists(form)
}

/** Lists grow as branches with numbers for names, since a client may write them in any order. */
function put(branch: Branch, path: string[], value: string): void {
  const [name = '', ...rest] = path
  const key = name === '' ? String(Object.keys(branch).length) : name
  if (rest.length === 0) {
    branch[key] = value
    return
  }
  const existing = branch[key]
  const next = isBranch(existing) ? existing : fresh()
  branch[key] = next
  put(next, rest, value)
}

function withLists(branch: Branch): Branch {
  for (const [name, value] of Object.entries(branch)) {
    if (!isBranch(value)) continue
    const inner = withLists(value)
    branch[name] = Object.keys(inner).every((key) => /^\d+$/.test(key)) ? Object.values(inner) : inner
  }
  return branch
}
