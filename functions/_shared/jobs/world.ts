/** Everything that jobs need from outside: SQL, mail, storage, the clock. index.ts makes the real one, tests others. */

export type Mail = { id: string; address: string; subject: string; body: string; attempt: number }

/** A range of one month's chain, as private.next_audit_archive gives it. */
export type ArchivePart = { month: string; part: number; first_seq: number; last_seq: number; is_complete: boolean }

export type JobsWorld = {
  hasSecretKey(headers: Headers): Promise<boolean>

  claimMails(limit: number): Promise<Mail[]>
  /** null when the mail was sent, else why not. */
  finishMail(mail: Mail, error: string | null): Promise<void>
  /** Undefined when this deployment has no mail server. */
  sendMail: ((mail: Mail) => Promise<void>) | undefined

  nextArchive(): Promise<ArchivePart | null>
  readEntries(part: ArchivePart): Promise<string[]>
  recordArchive(part: ArchivePart, sha256: string, path: string): Promise<void>
  /** False when the month is gone already. */
  dropMonth(month: string): Promise<boolean>
  /** Writes a new file; one that is there stays as it is. */
  upload(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>
  download(path: string): Promise<Uint8Array<ArrayBuffer>>

  /** Looks at the bytes of new uploads. */
  checkUploads(): Promise<{ ok: number; rejected: number; failed: number }>

  /** Syncs every portfolio that is due. */
  syncPortfolios(requestId: string): Promise<Record<string, number>>

  /** Undefined when this deployment has no Stripe account. */
  billing: { applyEvents(): Promise<Record<string, number>>; reconcile(): Promise<Record<string, unknown>> } | undefined

  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}
