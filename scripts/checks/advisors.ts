/** Supabase's own database lints (splinter), as `supabase db advisors` runs them: every finding is fixed or reviewed. */
import { z } from 'zod'
import { demandCli, remoteOf } from '../../stack/supabase-cli.ts'

/** Findings we accept, by cacheKey, each with the reason. A reason whose finding is gone must go, too. */
const accepted: Record<string, string> = {
  function_search_path_mutable_private_ai_cost_micros_d41d8cd98f00b204e9800998ecf8427e:
    'With a setting PostgreSQL cannot write it into the statements of settlement. Its body was read when it was made, and looks nothing up.',
}

const report = z.object({ results: z.array(z.object({ cacheKey: z.string(), level: z.string(), detail: z.string() })) })

export async function reviewAdvisors(url: string, reasons = accepted): Promise<string[]> {
  const { flag, env } = remoteOf(url)
  const args = ['db', 'advisors', flag, '--type', 'all', '--level', 'warn', '--output-format', 'json']
  const output = await demandCli(args, env, 'The advisors could not run')
  const json = output.split('\n').find((line) => line.startsWith('{"results"'))
  // With nothing to report the CLI prints a sentence in place of the JSON.
  const results = json ? report.parse(JSON.parse(json)).results : []
  const found = new Set(results.map((result) => result.cacheKey))
  return [
    ...results
      .filter((result) => reasons[result.cacheKey] === undefined)
      .map((result) => `${result.level} ${result.cacheKey}: ${result.detail}`),
    ...Object.keys(reasons)
      .filter((key) => !found.has(key))
      .map((key) => `${key} is accepted in scripts/checks/advisors.ts, but no longer found: remove it there.`),
  ]
}
