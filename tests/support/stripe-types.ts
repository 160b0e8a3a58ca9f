/** What the types of the stripe package say of an object: which fields it has, and what may stand in them. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Directive, parseSync, type Statement, type TSSignature, type TSType, type TSTypeName } from 'oxc-parser'
import { root } from '../../stack/config.ts'

const folder = join(root, 'node_modules/stripe/esm/resources')

/** Declarations by the file and the names around them: `Invoices.d.ts Invoice.Parent`. */
const interfaces = new Map<string, TSSignature[]>()
const aliases = new Map<string, TSType>()
/** By what an object says of itself in `object`. */
const kinds = new Map<string, string>()

function declare(statements: (Statement | Directive)[], scope: string): void {
  for (const statement of statements) {
    const found = statement.type === 'ExportNamedDeclaration' ? statement.declaration : statement
    if (found?.type === 'TSInterfaceDeclaration') declareInterface(scope + found.id.name, found.body.body)
    if (found?.type === 'TSTypeAliasDeclaration') aliases.set(scope + found.id.name, found.typeAnnotation)
    if (found?.type === 'TSModuleDeclaration' && found.body?.type === 'TSModuleBlock' && found.id.type === 'Identifier')
      declare(found.body.body, `${scope}${found.id.name}.`)
  }
}

function declareInterface(name: string, members: TSSignature[]): void {
  interfaces.set(name, members)
  const kind = fieldsOf(members).find(([field]) => field === 'object')?.[1]
  const literal =
    kind?.type?.type === 'TSLiteralType' && kind.type.literal.type === 'Literal' ? kind.type.literal.value : null
  if (typeof literal === 'string' && !name.includes(' Deleted')) kinds.set(literal, name)
}

type Field = { optional: boolean; type: TSType | undefined }

const fieldsOf = (members: TSSignature[]): [string, Field][] =>
  members.flatMap((member): [string, Field][] =>
    member.type === 'TSPropertySignature' && member.key.type === 'Identifier'
      ? [[member.key.name, { optional: member.optional, type: member.typeAnnotation?.typeAnnotation }]]
      : [],
  )

for (const file of globSync('**/*.d.ts', { cwd: folder }))
  declare(parseSync(file, readFileSync(join(folder, file), 'utf8')).program.body, `${file} `)

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Where an object is not what its type says, as paths; nothing when it is. */
export function differences(value: unknown, path = ''): string[] {
  const kind = isObject(value) ? value.object : undefined
  const name = kinds.get(String(kind))
  if (!isObject(value) || name === undefined) return [`${path}: ${String(kind)} is no object of Stripe's`]
  if (value.deleted === true) return []
  return ofInterface(value, name, `${path}${String(kind)}`)
}

function ofInterface(value: Record<string, unknown>, name: string, path: string): string[] {
  const fields = new Map(fieldsOf(interfaces.get(name) ?? []))
  const unknown = Object.keys(value).filter((field) => !fields.has(field))
  const wrong = [...fields].flatMap(([field, { optional, type }]) => {
    if (value[field] === undefined) return optional ? [] : [`${path}.${field} is missing`]
    return type ? ofType(value[field], type, name, `${path}.${field}`) : []
  })
  return [...unknown.map((field) => `${path}.${field} is not in the type`), ...wrong]
}

function ofType(value: unknown, type: TSType, scope: string, path: string): string[] {
  const wrong = [`${path} is ${JSON.stringify(value)}`]
  const unless = (fits: boolean) => (fits ? [] : wrong)
  switch (type.type) {
    case 'TSStringKeyword':
      return unless(typeof value === 'string')
    case 'TSNumberKeyword':
      return unless(typeof value === 'number')
    case 'TSBooleanKeyword':
      return unless(typeof value === 'boolean')
    case 'TSNullKeyword':
      return unless(value === null)
    case 'TSLiteralType':
      return unless(type.literal.type === 'Literal' && type.literal.value === value)
    case 'TSTypeLiteral':
      return unless(isObject(value))
    case 'TSUnionType':
      return ofUnion(value, type.types, scope, path) ?? wrong
    case 'TSTypeReference':
      return ofReference(value, type, scope, path)
    default:
      return wrong
  }
}

/** Of several that it might be, the one that it is nearest to. */
function ofUnion(value: unknown, types: TSType[], scope: string, path: string): string[] | undefined {
  const tried = types.map((type) => ofType(value, type, scope, path))
  return tried
    .sort((a, b) => a.length - b.length)
    .find((found, i) => found.length === 0 || (i === 0 && isObject(value)))
}

const nameOf = (name: TSTypeName): string =>
  name.type === 'Identifier'
    ? name.name
    : name.type === 'TSQualifiedName'
      ? `${nameOf(name.left)}.${name.right.name}`
      : ''

type Reference = Extract<TSType, { type: 'TSTypeReference' }>

function ofReference(value: unknown, { typeName, typeArguments }: Reference, scope: string, path: string): string[] {
  const name = nameOf(typeName)
  const wrong = [`${path} is ${JSON.stringify(value)}`]
  const [inner] = typeArguments?.params ?? []
  const each = (items: unknown) =>
    Array.isArray(items) && inner ? items.flatMap((item, i) => ofType(item, inner, scope, `${path}[${i}]`)) : wrong
  if (name === 'Array') return each(value)
  if (name === 'ApiList') return isObject(value) && value.object === 'list' ? each(value.data) : wrong
  if (name === 'Decimal') return typeof value === 'string' ? [] : wrong
  if (name === 'OtherString') return wrong
  const found = lookUp(name, scope)
  const alias = aliases.get(found ?? '')
  if (found !== undefined && alias) return ofType(value, alias, found, path)
  if (!isObject(value)) return wrong
  if (found !== undefined) return ofInterface(value, found, path)
  // Of another file: what says its kind is looked at by that.
  return 'object' in value ? differences(value, `${path}: `) : []
}

/** From the innermost names outwards. */
function lookUp(name: string, scope: string): string | undefined {
  const [file = '', path = ''] = scope.split(' ')
  const parts = path.split('.')
  for (let n = parts.length; n >= 0; n -= 1) {
    const full = `${file} ${[...parts.slice(0, n), name].join('.')}`
    if (interfaces.has(full) || aliases.has(full)) return full
  }
  return undefined
}
