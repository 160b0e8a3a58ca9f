/** The ways to pay that the pages and /control offer. */
import type { Outcome } from './payments.ts'
import type { CardOutcome } from './state.ts'

/** How the payment goes now, and how the card answers at later ones. */
export const ways = {
  ok: { label: 'Card 4242 4242 4242 4242: is paid', outcome: 'ok', later: 'ok' },
  declined: { label: 'Card 4000 0000 0000 0002: is declined', outcome: 'declined', later: 'declined' },
  requires_action: {
    label: 'Card 4000 0025 0000 3155: asks for 3-D Secure once',
    outcome: 'requires_action',
    later: 'ok',
  },
  always_requires_action: {
    label: 'Card 4000 0027 6000 3184: asks for 3-D Secure at every payment',
    outcome: 'requires_action',
    later: 'requires_action',
  },
  declined_later: { label: 'Card 4000 0000 0000 0341: is paid now, declined later', outcome: 'ok', later: 'declined' },
  bank_debit: { label: 'Bank debit: the money arrives days later, or does not', outcome: 'processing', later: 'ok' },
} as const satisfies Record<string, { label: string; outcome: Outcome; later: CardOutcome }>
export type Way = keyof typeof ways
export const wayNames = [
  'ok',
  'declined',
  'requires_action',
  'always_requires_action',
  'declined_later',
  'bank_debit',
] as const
