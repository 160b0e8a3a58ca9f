/** Which fields of a request reach a provider: what the tables say of each, and what the rows of a model and its provider open. */
import { AppError } from '../errors.ts'
import { type Asks, fieldOf, type Rule, type Table, tables } from './field-tables.ts'
import type { Endpoint } from './snapshot.ts'

/** A field that not every model lets through. */
export type FoundField = {
  /** As `models.open_fields` names it: without the places in lists, and with the kind of a part or tool. */
  name: string
  /** Where it stands in the request, as `messages.0.content.1.type`. */
  param: string
  /** Why it is closed; undefined when nobody here knows the field. */
  reason?: string | undefined
}

/** Why a model and its provider do not take a request's fields; undefined when they do. */
export function fieldsRefused(
  fields: readonly FoundField[],
  model: { open_fields: readonly string[] },
  provider: { passes_unknown_fields: boolean },
): { param: string; message: string } | undefined {
  const isOpen = ({ name, reason }: FoundField) =>
    model.open_fields.includes(name) || (reason === undefined && provider.passes_unknown_fields)
  const shut = fields.find((field) => !isOpen(field))
  if (!shut) return undefined
  const { name, param, reason } = shut
  const howTo = `An operator can open it: models.open_fields with '${name}'`
  const message = reason
    ? `${param}: ${reason}. ${howTo}.`
    : `${param}: is not a field that this gateway knows. ${howTo}, or providers.passes_unknown_fields.`
  return { param, message }
}

/** What a request has that not every model takes. */
export type Found = { fields: FoundField[]; asks: Asks }
type Look = { fields: Map<string, FoundField>; asks: Asks }

export const invalid = (param: string, what: string) =>
  new AppError('invalid_request_error', { message: `${param}: ${what}.`, param })

const mostFields = 64
/** Of messages, tools and whatever else comes in lists. */
export const mostInList = 10_000
const longestName = 100

/** Throws for fields that no row can open. */
export function lookAtFields(endpoint: Endpoint, request: object): Found {
  const look: Look = { fields: new Map(), asks: {} }
  lookInto(request, tables[endpoint], { name: '', param: '' }, look)
  return { fields: [...look.fields.values()], asks: look.asks }
}

/** Whether a field of the request is text for the model; what nobody here knows may be. */
export function isRead(endpoint: Endpoint, field: string): boolean {
  const rule = tables[endpoint].get(field)
  return !rule || rule.isRead === true || rule.verdict === 'closed'
}

/** Where a value stands: as rows name it, and as the caller wrote it. */
type Place = { name: string; param: string }

const under = ({ name, param }: Place, key: string): Place => ({
  name: name === '' ? key : `${name}.${key}`,
  param: param === '' ? key : `${param}.${key}`,
})

function lookInto(object: object, rules: Table, place: Place, look: Look): void {
  for (const [key, value] of Object.entries(object)) {
    if (value === null || value === undefined) continue
    const rule = rules.get(key)
    const at = under(place, rule ? key : key.slice(0, longestName))
    if (rule) judge(value, rule, at, look)
    else find({ ...at }, look)
  }
}

function judge(value: unknown, rule: Rule, place: Place, look: Look): void {
  const { verdict, why, unless, asks, inside, kinds, most = mostInList } = rule
  if (Array.isArray(value) && value.length > most) throw invalid(place.param, `has more than ${most} entries`)
  if (asks) ask(asks(value), look)
  if (!unless?.(value)) {
    if (verdict === 'refused') throw invalid(place.param, `is not supported: it ${why}`)
    if (verdict === 'closed') find({ ...place, reason: why }, look)
  }
  requireShape(value, rule, place.param)
  if (inside) eachOf(value, place, (one, at) => lookInto(one, inside, at, look))
  if (kinds) eachOf(value, place, (one, at) => lookAtKind(one, kinds, at, look))
}

const isPlain = (value: unknown) => ['string', 'number', 'boolean'].includes(typeof value)

/** What stands where something else belongs has been judged by nobody. What is closed is judged by who opens it. */
function requireShape(value: unknown, { verdict, isFree, isList, orPlain, inside, kinds }: Rule, param: string): void {
  const hasFields = inside !== undefined || kinds !== undefined
  if (isFree || (verdict === 'closed' && !hasFields)) return
  const isMany = isList || kinds !== undefined
  const what = hasFields ? 'an object' : 'a plain value'
  if (!Array.isArray(value)) {
    const isRight = isPlain(value) ? orPlain || !(hasFields || isMany) : hasFields && !isMany
    if (!isRight) throw invalid(param, `is not ${isMany ? 'a list' : what}`)
    return
  }
  if (!isMany) throw invalid(param, `is not ${what}`)
  // Token lists of embeddings are lists in a list.
  const isRight = (one: unknown): boolean => {
    if (isPlain(one)) return orPlain || !hasFields
    return Array.isArray(one) ? hasFields && orPlain === true && one.every(isPlain) : hasFields && one !== null
  }
  const wrong = value.findIndex((one) => !isRight(one))
  if (wrong >= 0) throw invalid(`${param}.${wrong}`, `is not ${what}`)
}

/** An object, or those of a list; what is neither has no fields. */
function eachOf(value: unknown, { name, param }: Place, see: (one: object, place: Place) => void): void {
  const isObject = (one: unknown): one is object => typeof one === 'object' && one !== null && !Array.isArray(one)
  if (isObject(value)) see(value, { name, param })
  if (!Array.isArray(value)) return
  for (const [at, one] of value.entries()) if (isObject(one)) see(one, { name, param: `${param}.${at}` })
}

type Kinds = NonNullable<Rule['kinds']>

function lookAtKind(one: object, kinds: Kinds, place: Place, look: Look): void {
  const { by, of, why, asks } = kinds
  const kind = fieldOf(one, by)
  const rules = of.get(kind)
  if (rules) {
    refuseOfOthers(one, rules, kinds, place)
    lookInto(one, rules, place, look)
    return
  }
  if (asks) ask(asks(one), look)
  const name = `${place.name}.${String(kind).slice(0, longestName)}`
  find({ name, param: `${place.param}.${by}`, reason: why }, look)
}

/** A picture in a part that is called a text is counted by nobody, and which of both counts the provider says. */
function refuseOfOthers(one: object, rules: Table, { by, of }: Kinds, { param }: Place): void {
  const isOther = (key: string) => !rules.has(key) && [...of.values()].some((others) => others.has(key))
  // What is null is not there.
  const odd = Object.entries(one).find(([key, value]) => value !== null && isOther(key))
  if (odd) throw invalid(`${param}.${odd[0]}`, `does not belong to this ${by}`)
}

function find(field: FoundField, { fields }: Look): void {
  if (fields.has(field.name)) return
  if (fields.size >= mostFields) throw invalid(field.param, 'is one of too many fields that are not for every model')
  fields.set(field.name, field)
}

/** Uses add up, of two times to live the longer one counts, and a size and a quality are one variant. */
function ask(asks: Asks, { asks: all }: Look): void {
  if (asks.searches) all.searches = (all.searches ?? 0) + asks.searches
  if (asks.sureSearches) all.sureSearches = (all.sureSearches ?? 0) + asks.sureSearches
  if (asks.cacheWrites && all.cacheWrites !== '1h') all.cacheWrites = asks.cacheWrites
  if (asks.findsMore) all.findsMore = true
  if (asks.audioOut) all.audioOut = true
  if (asks.variant) all.variant = all.variant === undefined ? asks.variant : bothOf(all.variant, asks.variant)
}

function bothOf(first: string, second: string): string {
  const [size = 'auto', quality = 'auto'] = first.split('/')
  const [otherSize = 'auto', otherQuality = 'auto'] = second.split('/')
  return `${size === 'auto' ? otherSize : size}/${quality === 'auto' ? otherQuality : quality}`
}
