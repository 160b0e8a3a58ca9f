import { describe, expect, test } from 'vitest'
import { AppError, renderError } from '../../functions/_shared/errors.ts'
import { asRole, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const nobody = '00000000-0000-4000-8000-000000000000'

describe('settings', () => {
  test('a setting that is missing is an error, never a default', () =>
    rolledBack(async (tx) => {
      const { sqlstate, message } = await refusal(tx, (sp) => sp`select private.setting('no.such_setting')`)

      expect(sqlstate).toBe('P0001')
      expect(message).toContain('no.such_setting is missing')
    }))

  test('a changed setting holds for the next reader', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '7' where key = 'credits.on_sign_up'`

      const [row] = await tx`select private.setting('credits.on_sign_up') as value`

      expect(row?.value).toBe(7)
    }))

  test.each(['NoDots', 'Upper.case', 'dots.', '.dots', 'sp ace.x'])('%s is no key for a setting', (key) =>
    rolledBack(async (tx) => {
      const insert = refusal(
        tx,
        (sp) => sp`
          insert into private.settings (key, value, rule, description)
          values (${key}, '1', '{"type": "integer", "minimum": 0, "maximum": 9}', 'x')`,
      )

      expect((await insert).sqlstate).toBe('23514')
    }),
  )
})

describe('the rule of a setting', () => {
  const change = (key: string, value: string) => (sp: Tx) =>
    sp`update private.settings set value = ${value}::text::jsonb where key = ${key}`

  test.each([
    ['ai.project_usd_per_month', '"lots"'],
    ['ai.project_usd_per_month', '-1'],
    ['ai.breaker_failures', '0'],
    ['ai.breaker_failures', '1.5'],
    ['ai.breaker_failures', 'null'],
    ['ai.timeouts_charge', '"nobody"'],
    ['launch.phase', '"opne"'],
    ['registration.require_terms', '"true"'],
    ['billing.pay_url', '"javascript:alert(1)"'],
    ['http.client_ip_header', '["X Client"]'],
    ['http.client_ip_header', '"x-client-ip"'],
    ['notifications.mail_types', '[7]'],
  ])('%s is never %s', (key, value) =>
    rolledBack(async (tx) => {
      const { sqlstate, message } = await refusal(tx, change(key, value))

      expect(sqlstate).toBe('22023')
      expect(message).toContain(`the setting ${key} is not ${value}`)
    }),
  )

  test.each([
    ['ai.project_usd_per_month', 'null'],
    ['ai.project_usd_per_month', '0.5'],
    ['ai.breaker_failures', '7.0'],
    ['ai.timeouts_charge', '"project"'],
    ['billing.pay_url', '"https://app.example.com/billing"'],
    ['http.client_ip_header', '[]'],
  ])('%s may be %s', (key, value) =>
    rolledBack(async (tx) => {
      const changed = await change(key, value)(tx)

      expect(changed.count).toBe(1)
    }),
  )

  test('the refusal says what is allowed', () =>
    rolledBack(async (tx) => {
      const words = await tx`
        select key, private.rule_in_words(rule) as allows from private.settings
        where key in ('ai.project_usd_per_month', 'launch.phase', 'notifications.mail_types', 'registration.require_terms') order by key`

      expect(words.map(({ allows }) => allows)).toEqual([
        'a number from 0 to 1000000000, or null',
        '"open" or "capped" or "invite" or "closed"',
        'a list, each entry a text in quotes that matches ^[a-z0-9_]{1,80}$',
        'true or false',
      ])
    }))

  test('is there for every setting, and takes neither objects nor what is beyond its bounds', () =>
    rolledBack(async (tx) => {
      const wrong = await tx`
        select s.key, v.value from private.settings s
          cross join lateral (values ('{}'::jsonb), ('[[]]'), ('"\\u0001"'), (to_jsonb((s.rule ->> 'minimum')::numeric - 1)),
            (to_jsonb((s.rule ->> 'maximum')::numeric + 1))) v (value)
        where not private.fits_rule(s.value, s.rule) or (v.value is not null and private.fits_rule(v.value, s.rule) is not false)`

      expect(wrong).toEqual([])
    }))
})

describe('a text that may not be of its type', () => {
  test.each([
    ['uuid_or_null', nobody, nobody],
    ['uuid_or_null', nobody.replaceAll('-', ''), nobody],
    ['uuid_or_null', nobody.slice(1), null],
    ['uuid_or_null', '', null],
    ['inet_or_null', '203.0.113.7', '203.0.113.7/32'],
    ['inet_or_null', '2001:db8::/32', '2001:db8::/32'],
    ['inet_or_null', '203.0.113.256', null],
    ['inet_or_null', 'unknown', null],
    ['cidr_or_null', '203.0.113.0/24', '203.0.113.0/24'],
    ['cidr_or_null', '203.0.113.7/24', null],
    ['date_or_null', '2024-02-29', '2024-02-29'],
    ['date_or_null', '2023-02-29', null],
    ['date_or_null', '2024-13-01', null],
    ['date_or_null', '29.02.2024', null],
    ['date_or_null', 'infinity', null],
  ])('%s of "%s" is %s', (name, value, expected) =>
    rolledBack(async (tx) => {
      const [row] = await tx`
        select ${tx.unsafe(`private.${name}`)}(${value})::text as value, ${tx.unsafe(`private.${name}`)}(null) as missing`

      expect(row).toEqual({ value: expected, missing: null })
    }),
  )
})

describe('errors', () => {
  test('a code that is not in the catalogue cannot be raised', () =>
    rolledBack(async (tx) => {
      const { sqlstate, message } = await refusal(tx, (sp) => sp`select private.raise_error('no_such_code', 'Oh.')`)

      expect(sqlstate).toBe('P0001')
      expect(message).toContain('no_such_code')
    }))

  test('an error carries what PostgREST needs: code, message and hint, and the status', () =>
    rolledBack(async (tx) => {
      const raised = tx.savepoint(
        (sp) => sp`select private.raise_error('insufficient_credits', 'No "credits".', 'Buy.')`,
      )

      await expect(raised).rejects.toMatchObject({ code: 'PGRST' })
      await raised.catch(({ message, detail }) => {
        expect(JSON.parse(message)).toEqual({ code: 'insufficient_credits', message: 'No "credits".', hint: 'Buy.' })
        expect(JSON.parse(detail)).toEqual({ status: 402, headers: {} })
      })
    }))

  test('a 401 says by the header of RFC 6750, as functions do, that the token opens nothing any more', () =>
    rolledBack(async (tx) => {
      const raised = tx.savepoint((sp) => sp`select private.raise_error('invalid_api_key', 'Gone.')`)

      await raised.catch(({ detail }) => {
        const headers = { 'WWW-Authenticate': 'Bearer error="invalid_token"' }
        expect(JSON.parse(detail)).toEqual({ status: 401, headers })
      })
      expect(renderError(new AppError('invalid_api_key'), 0).headers.get('www-authenticate')).toBe(
        'Bearer error="invalid_token"',
      )
      await expect(raised).rejects.toMatchObject({ code: 'PGRST' })
    }))

  test.each([
    ['invalid_request_error', 400],
    ['invalid_api_key', 401],
    ['not_allowed', 403],
    ['model_not_found', 404],
    ['idempotency_key_reused', 422],
    ['daily_quota_exceeded', 429],
  ])('%s is answered with %i', (code, status) =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select private.raise_error(${code}, 'Oh.')`)

      expect(refused).toMatchObject({ code, status, message: 'Oh.' })
    }),
  )
})

describe('callers', () => {
  test('require_user refuses whoever is not signed in', () =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select private.require_user()`)

      expect(refused).toMatchObject({ code: 'invalid_api_key', status: 401 })
    }))

  test('require_user answers the id of who is signed in', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const claims = { sub: account.id, session_id: account.sessionId }
      await tx`select set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`

      const [row] = await tx`select private.require_user() as id`

      expect(row?.id).toBe(account.id)
    }))

  test.each(['anon', 'authenticated'])('require_service refuses %s', (role) =>
    rolledBack(async (tx) => {
      await tx`select set_config('request.jwt.claims', ${JSON.stringify({ sub: nobody, role })}, true)`

      const refused = await refusal(tx, (sp) => sp`select private.require_service()`)

      expect(refused).toMatchObject({ code: 'not_allowed', status: 403 })
    }),
  )

  test('require_service lets the service role and the owner pass', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const grant = `select public.grant_credits('${account.id}', 1, 'test', `

      await tx.unsafe(`${grant} 'as-owner')`)
      await asRole(tx, 'service_role', { role: 'service_role' }, (as) => as.unsafe(`${grant} 'as-service')`))

      const [row] = await tx`select balance::int from private.accounts where user_id = ${account.id}`
      expect(row?.balance).toBe(102)
    }))

  test.each(['setting', 'raise_error', 'require_service', 'lock_account', 'consume', 'ai_step'])(
    'a signed-in user cannot call private.%s',
    (name) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)
        const [row] = await tx`select oid::regprocedure::text as signature from pg_proc
          where proname = ${name} and pronamespace = 'private'::regnamespace`

        const [allowed] = await asUser(
          tx,
          id,
          (as) => as`select has_function_privilege(${row?.signature}, 'execute') as yes`,
        )

        expect(allowed?.yes).toBe(false)
      }),
  )
})

describe('ids', () => {
  test('ids sort in the order in which they were made, within a millisecond, too', () =>
    rolledBack(async (tx) => {
      const ids = (await tx`select private.uuid_v7() as id from generate_series(1, 2000)`).map(({ id }) => id)

      expect(ids).toEqual(ids.toSorted())
      expect(new Set(ids.map((id) => id.slice(0, 13))).size).toBeLessThan(200)
    }))

  test('ids have version 7, the RFC variant, and differ within a millisecond', () =>
    rolledBack(async (tx) => {
      const rows = await tx`select private.uuid_v7() as id from generate_series(1, 2000)`

      for (const { id } of rows)
        expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      expect(new Set(rows.map((row) => row.id)).size).toBe(2000)
    }))

  test('an id holds the moment it was made, to the millisecond', () =>
    rolledBack(async (tx) => {
      const [row] = await tx`
        select t.before <= t.inside and t.inside <= t.after as is_between from (
          select date_trunc('milliseconds', clock_timestamp()) as before,
            private.uuid_v7_time(private.uuid_v7()) as inside, clock_timestamp() as after) t`

      expect(row?.is_between).toBe(true)
    }))

  test.each([
    ['00000000-0000-7000-8000-000000000000', '1970-01-01T00:00:00.000Z'],
    ['017f22e2-79b0-7cc3-98c4-dc0c0c07398f', '2022-02-22T19:22:22.000Z'],
    ['019b76da-a7ff-7fff-bfff-ffffffffffff', '2025-12-31T23:59:59.999Z'],
  ])('the time in %s is %s', (id, time) =>
    rolledBack(async (tx) => {
      const [row] = await tx`select private.uuid_v7_time(${id}) as time`

      expect(row?.time.toISOString()).toBe(time)
    }),
  )
})

describe('timestamps', () => {
  test('created_at and updated_at are true, whatever a writer sends', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await tx`update public.profiles set created_at = '2000-01-01', updated_at = '2000-01-01' where id = ${id}`

      const [row] = await tx`
        select created_at = now() as created, updated_at = now() as updated from public.profiles where id = ${id}`
      expect(row).toEqual({ created: true, updated: true })
    }))
})
