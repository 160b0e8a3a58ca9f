/** Which fields of a request reach a provider: those that change neither price nor route, and those that a row prices or opens. */

/** What beside text a call may be charged for; a model without a price for it refuses the call. */
export type Asks = {
  /** `SIZE/QUALITY` of images, `auto` for the one that is not named; undefined when neither is. */
  variant?: string | undefined
  /** How often server tools may be used. */
  searches?: number | undefined
  /** The longest time to live of what is written to a cache. */
  cacheWrites?: '5m' | '1h' | undefined
  /** The answer may be spoken. */
  audioOut?: boolean | undefined
}

/** A field that not every model lets through. */
export type FoundField = {
  /** As `models.open_fields` names it. */
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
