import type { StoredMessage } from './message-store.ts'

type Addresses = StoredMessage['To']
const joined = (addresses: Addresses) => addresses.map(({ Name, Address }) => `${Name} <${Address}>`).join(', ')

function fieldOf(message: StoredMessage, field: string | undefined): string {
  if (field === 'to') return joined(message.To)
  if (field === 'from') return joined([message.From])
  if (field === 'subject') return message.Subject
  return [joined([message.From]), joined(message.To), message.Subject, message.Text, message.HTML].join('\n')
}

/** `to:a@example.com subject:"two words" free text`: every term must be contained, in any case. */
export function search(messages: readonly StoredMessage[], query: string): StoredMessage[] {
  const terms = [...query.matchAll(/(?:(to|from|subject):)?(?:"([^"]*)"|(\S+))/gi)].map(([, field, quoted, plain]) => ({
    field: field?.toLowerCase(),
    text: (quoted ?? plain ?? '').toLowerCase(),
  }))
  return messages.filter((message) =>
    terms.every(({ field, text }) => fieldOf(message, field).toLowerCase().includes(text)),
  )
}
