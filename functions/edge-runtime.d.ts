/** The little of Deno and of Supabase's Edge Runtime that our code names, so that `tsc` with Node's types understands it. */
declare namespace Deno {
  const env: { get(name: string): string | undefined; toObject(): Record<string, string> }

  /** `2.9.6` of Deno, and `supabase-edge-runtime-1.74.0 (compatible with Deno v2.1.4)` of the other. */
  const version: { deno: string }

  /** Only the local server and a self-hosted main service call it; functions export `{ fetch }`. */
  function serve(
    options: { hostname: string; port: number; onListen?(address: { port: number }): void },
    handler: (request: Request) => Response | Promise<Response>,
  ): { finished: Promise<void>; shutdown(): Promise<void> }
  function serve(handler: (request: Request) => Promise<Response>): unknown

  function readDirSync(path: string): Iterable<{ name: string; isDirectory: boolean }>
}

declare var EdgeRuntime: {
  /** Keeps the worker alive until the promise settles, after the answer has gone. */
  waitUntil(work: Promise<unknown>): void
  /** A main service has it, functions do not. */
  userWorkers: { create(options: object): Promise<{ fetch(request: Request): Promise<Response> }> }
}
