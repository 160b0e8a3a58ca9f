/** The little of Deno and of Supabase's Edge Runtime that our code names, so that `tsc` with Node's types understands it. */
declare namespace Deno {
  const env: { get(name: string): string | undefined }

  /** Only the local server calls it; functions export `{ fetch }`. */
  function serve(
    options: { hostname: string; port: number; onListen?(address: { port: number }): void },
    handler: (request: Request) => Response | Promise<Response>,
  ): { finished: Promise<void>; shutdown(): Promise<void> }
}

declare var EdgeRuntime: {
  /** Keeps the worker alive until the promise settles, after the answer has gone. */
  waitUntil(work: Promise<unknown>): void
}
