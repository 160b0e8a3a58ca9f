/** What the platform is told about the project that it carries: it knows no folder, port or name but those it is handed. */

export type PlatformConfig = {
  /** Where clients reach the gateway, and where the gateway reaches the functions: processes that take turns. */
  urls: { api: string; functions: string[] }
  /** Where Storage keeps its files. */
  storageFolder: string
  /** Real services in the place of ours, by their addresses. */
  real: { auth: string | undefined; rest: string | undefined; storage: string | undefined }
  /** Whether Auth counts requests and mails. */
  rateLimits: boolean
  /** Whom Auth's mails are from. */
  mailFrom: string
  /** What the gateway says about itself at its root. */
  about: Record<string, string>
}

/** The files of a project's Edge Functions; one folder for each function, and deno.json beside them. */
export type FunctionFiles = {
  folder: string
  /** The packages that functions import: node_modules. */
  packages: string
  /** What Deno keeps between its starts. */
  cache: string
}

/** An error whose message a person can act on. How a project calls its commands and variables, its caller adds. */
export class PlatformError extends Error {}
