/**
 * Rows as one parameter: the text of an array of a composite type, as PostgreSQL reads it. Half the work of JSON for both sides,
 * and typed; postgres.js 3.4.9 would send a null inside an array as the text "NULL".
 */

export type Field = string | number | bigint | boolean | null | undefined

/** `{"(1,,text)","(2,t,\\"more text\\")"}`: fields in the order of the type's, null and undefined as null. */
export function rowsLiteral(rows: readonly (readonly Field[])[]): string {
  let text = ''
  for (const fields of rows) {
    let row = ''
    for (const field of fields) row += `,${fieldText(field)}`
    text += `,"(${row.slice(1)})"`
  }
  return `{${text.slice(1)}}`
}

const plain = /^[\w.:/-]+$/

function fieldText(field: Field): string {
  if (field === null || field === undefined) return ''
  if (typeof field !== 'string') return field === true ? 't' : field === false ? 'f' : String(field)
  // An empty text is none only without its quotes. Those of the row, and what it doubles, are escaped for the array at once.
  return plain.test(field) ? field : `\\"${field.replace(/["\\]/g, '\\$&\\$&')}\\"`
}
