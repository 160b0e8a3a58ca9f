/** What stops an import before or while it runs; the message is for the person at the keyboard. */
export class ImportError extends Error {}
