/** What the platform under the project tells: advisors, backups, the network, secrets of the functions. */
import { z } from 'zod'
import { reviewAdvisors } from '../checks/advisors.ts'
import {
  acceptable,
  acceptedBy,
  byHand,
  byShell,
  type Check,
  enforceSsl,
  judge,
  type Outcome,
  type World,
} from './check.ts'

const lints = z.object({
  lints: z.array(z.object({ name: z.string(), level: z.string(), cache_key: z.string(), detail: z.string() })),
})
const advice = 'Mend it as supabase.com/docs/guides/database/database-advisors says'
const isAcceptable = (name: string) => acceptable.some((one) => one === name)

const advisors: Check = {
  name: 'advisors',
  tells: "Supabase's advisors have no error and no warning, but for what DOCTOR_ACCEPTED names.",
  mends: 'What the advisor says; each has a page at supabase.com/docs/guides/database/database-advisors.',
  async find({ management, dbUrl, values }) {
    const none = 'no error, no warning'
    if (!management) {
      const mend = byHand(`${advice}, or accept it with a reason in scripts/checks/advisors.ts.`)
      return judge(
        (await reviewAdvisors(dbUrl)).map((what) => ({ what, mend })),
        none,
      )
    }
    const names = acceptedBy(values)
    const found = await advisorsOf(management)
    const accepted = found.filter(({ name }) => names.includes(name)).map(({ what }) => what)
    const wrong = found
      .filter(({ name }) => !names.includes(name))
      .map(({ name, what }) => ({
        what,
        mend: byHand(
          isAcceptable(name)
            ? `${advice}, or let the doctor accept it: DOCTOR_ACCEPTED=${[...names, name].join(',')} in .env.production.`
            : `${advice}.`,
        ),
      }))
    return found.length === 0 ? { ok: none } : { wrong, accepted }
  },
}

async function advisorsOf(management: NonNullable<World['management']>): Promise<{ name: string; what: string }[]> {
  const both = await Promise.all(['security', 'performance'].map((kind) => management.get(`advisors/${kind}`, lints)))
  return both
    .flatMap((one) => one.lints)
    .filter(({ level }) => level === 'ERROR' || level === 'WARN')
    .map(({ name, level, cache_key, detail }) => ({ name, what: `${level} ${cache_key}: ${detail}` }))
}

const backupList = z.looseObject({
  pitr_enabled: z.boolean(),
  backups: z.array(z.looseObject({ status: z.string(), inserted_at: z.string() })),
})
const backupHours = 36

const backups: Check = {
  name: 'backups',
  tells:
    'There is a backup of the last day and a half, or point-in-time recovery; a project may be younger. Self-hosted: the archive of WAL goes on.',
  mends:
    'Move to a plan with backups; self-hosted: mend archive_command. What is backed up elsewhere cannot be seen from here.',
  async find(world) {
    if (world.kind === 'local') return { skip: 'the local stack is thrown away' }
    return world.management ? hostedBackups(world.management, world.now()) : archive(world)
  },
}

async function hostedBackups(management: NonNullable<World['management']>, now: number): Promise<Outcome> {
  const { pitr_enabled, backups: list } = await management.get('database/backups', backupList)
  if (pitr_enabled) return { ok: 'point-in-time recovery' }
  const done = list.filter(({ status }) => status === 'COMPLETED').map(({ inserted_at }) => Date.parse(inserted_at))
  const mend = byHand(
    'Daily backups come with the Pro plan; point-in-time recovery is an add-on (dashboard: Database, Backups).',
  )
  if (list.length === 0) {
    const age = Math.round((now - (await management.project()).createdAt.getTime()) / 3_600_000)
    if (age <= backupHours)
      return { skip: `the project is ${age} hours old, and the first backup comes with its first night` }
  }
  if (done.length === 0) return { wrong: [{ what: 'there is no backup', mend }] }
  const hours = Math.round((now - Math.max(...done)) / 3_600_000)
  return judge(
    hours > backupHours ? [{ what: `the last backup is ${hours} hours old`, mend }] : [],
    `the last one is ${hours} hours old`,
  )
}

async function archive({ look }: World): Promise<Outcome> {
  const [row] = await look(
    (sql) => sql<{ mode: string; failing: boolean; last: string | null }[]>`
      select current_setting('archive_mode') as mode, coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) as failing,
        last_archived_time::text as last from pg_stat_archiver`,
  )
  if (row?.mode === 'off')
    return {
      skip: 'archive_mode is off, and what is dumped or copied elsewhere cannot be seen from here: try a restore',
    }
  const mend = byHand(
    'See the log of the server for what archive_command says; until it works, WAL piles up on the disk.',
  )
  return judge(
    row?.failing ? [{ what: 'the archive of WAL fails', mend }] : [],
    `WAL is archived, the last at ${row?.last ?? 'no time yet'}; base backups cannot be seen from here`,
  )
}

const restrictions = z.looseObject({
  config: z
    .looseObject({ dbAllowedCidrs: z.array(z.string()).nullish(), dbAllowedCidrsV6: z.array(z.string()).nullish() })
    .nullish(),
})
const enforcement = z.looseObject({ currentConfig: z.looseObject({ database: z.boolean() }) })

const network: Check = {
  name: 'network',
  tells:
    'Hosted Supabase refuses connections to the database without TLS, and no restriction of the network shuts the functions out.',
  mends:
    'Enforce SSL, and lift the restriction: the addresses of functions are not known, so every list leaves them out.',
  async find({ management }) {
    if (!management) return { skip: 'only hosted Supabase tells; self-hosted it is your firewall' }
    const [ssl, { config }] = await Promise.all([
      management.get('ssl-enforcement', enforcement),
      management.get('network-restrictions', restrictions),
    ])
    const cidrs = [...(config?.dbAllowedCidrs ?? []), ...(config?.dbAllowedCidrsV6 ?? [])]
    // See https://supabase.com/docs/guides/platform/network-restrictions, Limitations.
    const isOpen = cidrs.length === 0 || cidrs.includes('0.0.0.0/0') || cidrs.includes('::/0')
    const lift = byHand('Lift it in the dashboard (Database, Settings, Network Restrictions).')
    return judge(
      [
        ...(ssl.currentConfig.database
          ? []
          : [{ what: 'SSL is not enforced', mend: byShell(enforceSsl(management.ref)) }]),
        ...(isOpen
          ? []
          : [
              {
                what: `only ${cidrs.join(', ')} may reach the database: functions do not, nor by the pooler`,
                mend: lift,
              },
            ]),
      ],
      'TLS is enforced, and functions are not shut out',
    )
  },
}

const wanted = ['AI_DB_URL', 'SMTP_URL', 'MAIL_FROM']

const functionSecrets: Check = {
  name: 'function-secrets',
  tells: `The functions have their secrets: ${wanted.join(', ')}, and those of Stripe when one of them is there.`,
  mends:
    'Write them into .env.production and deploy: that sets those, and no others of the file; AI_DB_URL it makes itself.',
  async find({ management }) {
    if (!management) return { skip: 'only hosted Supabase tells which there are' }
    const names = await management.secretDigests()
    const stripe = ['STRIPE_SECRET_KEY', 'STRIPE_WEBHOOK_SECRETS', 'BILLING_RETURN_URLS']
    const all = [...wanted, ...(stripe.some((name) => names.has(name)) ? stripe : [])]
    const mend = byShell(
      `npm run deploy -- --project-ref ${management.ref}   # with what is missing in .env.production`,
    )
    return judge(
      all.filter((name) => !names.has(name)).map((name) => ({ what: `the functions have no ${name}`, mend })),
      all.join(', '),
    )
  },
}

export const ofPlatform: Check[] = [advisors, backups, network, functionSecrets]
