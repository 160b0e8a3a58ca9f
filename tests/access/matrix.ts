/**
 * Who may do what: the reviewed table of every schema, table, view, function, sequence and policy, and of what owners,
 * strangers, anonymous callers and the service role get when they try. matrix.test.ts compares it with the database: an
 * object that is absent here fails, and so does a line whose object is gone. A change here is a change of access: review it.
 *
 * `-` is nothing. Grants are what a role has in the end, also through PUBLIC; columns are named where not all are granted.
 */

export const schemas = {
  // graphql_public is the platform's; the extension behind it is off. anon has no business in private.
  graphql_public: 'anon usage; authenticated usage; service_role usage',
  private: 'anon -; authenticated usage; service_role usage',
  public: 'anon usage; authenticated usage; service_role usage',
}

export const relations = {
  // Users' own rows: policies let owners see them.
  'public.ai_calls': 'table, rls forced; anon -; authenticated select; service_role select',
  'public.chats':
    'table, rls forced; anon -; authenticated select insert(id, model_id, title, user_id) update(model_id, title) delete; service_role select',
  'public.credit_entries': 'table, rls forced; anon -; authenticated select; service_role select',
  'public.limit_overrides': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.messages':
    'table, rls forced; anon -; authenticated select insert(ai_call_id, chat_id, content, id, role, user_id) delete; service_role select',
  'public.profiles':
    'table, rls forced; anon -; authenticated select update(avatar_path, bio, display_name, first_name, last_name, locale, time_zone); service_role select update(plan_id)',

  // The catalogue: everybody who is signed in reads it, the service role keeps it.
  'public.model_prices': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_limits': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plans': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',

  // Private: no API role has any grant; definer functions and direct connections use them. Partitions made by the clock
  // (private.ai_calls_YYYYMM) are checked to be the same and not listed.
  'private.ai_calls_default': 'table, rls off; anon -; authenticated -; service_role -',
  'private.credit_accounts': 'table, rls off; anon -; authenticated -; service_role -',
  'private.providers': 'table, rls off; anon -; authenticated -; service_role -',
  'private.settings': 'table, rls off; anon -; authenticated -; service_role -',
  'private.usage_counters': 'table, rls off; anon -; authenticated -; service_role -',

  // Sessions, lock-out, second factors.
  'private.known_networks': 'table, rls off; anon -; authenticated -; service_role -',
  'private.live_sessions': 'view, invoker; anon -; authenticated -; service_role -',
  'private.mfa_failures': 'table, rls off; anon -; authenticated -; service_role -',
  'private.recovery_codes': 'table, rls off; anon -; authenticated -; service_role -',
  'private.sign_in_failures': 'table, rls off; anon -; authenticated -; service_role -',
  'private.sign_in_locks': 'table, rls off; anon -; authenticated -; service_role -',
  'public.devices': 'table, rls forced; anon -; authenticated select; service_role select',
}

/** name(argument types): security; the roles that may execute it. */
export const functions = {
  // The API. Invoker: each is a wrapper around one private function.
  'public.deduct_credits(uuid, bigint, text, text)': 'invoker; service_role',
  'public.get_my_credits()': 'invoker; authenticated',
  'public.get_my_limits()': 'invoker; authenticated',
  'public.grant_credits(uuid, bigint, text, text)': 'invoker; service_role',
  'public.refund_credits(uuid, bigint, text, text)': 'invoker; service_role',

  // Behind the API: what authorises in its first statement, and ids for columns' defaults.
  'private.change_credits(uuid, bigint, text, text, text)': 'definer; service_role',
  'private.my_credits()': 'definer; authenticated',
  'private.my_limits()': 'definer; authenticated',
  'private.uuid_v7()': 'invoker; authenticated service_role',

  // Definers that nobody calls directly: triggers, and helpers of other definers.
  'private.consume(uuid, text, text, bigint)': 'definer; -',
  'private.create_account(uuid)': 'definer; -',
  'private.limits_of(uuid)': 'definer; -',
  'private.tg__append_only()': 'definer; -',
  'private.tg_chats__count()': 'definer; -',
  'private.tg_profiles__time_zone()': 'definer; -',
  'private.tg_users__activate_account()': 'definer; -',
  'private.tg_users__create_account()': 'definer; -',

  // Everything else runs with the rights of its caller, who is one of the above or a direct connection.
  'private.add_credit_entry(uuid, bigint, text, text, text)': 'invoker; -',
  'private.add_usage(uuid, text, text, bigint, bigint, timestamp with time zone)': 'invoker; -',
  'private.admit_ai_call(jsonb)': 'invoker; -',
  'private.ai_cost_micros(public.model_prices, bigint, bigint, bigint, bigint, bigint)': 'invoker; -',
  'private.ai_limits(uuid)': 'invoker; -',
  'private.check_account(uuid, uuid)': 'invoker; -',
  'private.check_ai_budget(public.ai_calls, private.credit_accounts)': 'invoker; -',
  'private.close_ai_call(uuid, text, jsonb, text, jsonb)': 'invoker; -',
  'private.create_ai_call_partitions()': 'invoker; -',
  'private.current_price(text, timestamp with time zone)': 'invoker; -',
  'private.date_or_null(text)': 'invoker; -',
  'private.error_status(text)': 'invoker; -',
  'private.hold_ai_call(public.ai_calls)': 'invoker; -',
  'private.list_ai_models(uuid, uuid)': 'invoker; -',
  'private.lock_account(uuid)': 'invoker; -',
  'private.period_resets_at(text, text, timestamp with time zone, timestamp with time zone)': 'invoker; -',
  'private.raise_error(text, text, text)': 'invoker; -',
  'private.refuse_ai_call(public.ai_calls, jsonb)': 'invoker; -',
  'private.remaining(bigint, bigint)': 'invoker; -',
  'private.require_service()': 'invoker; -',
  'private.setting(text)': 'invoker; -',
  'private.settle_abandoned_ai_calls(integer)': 'invoker; -',
  'private.settle_ai_call(uuid, jsonb)': 'invoker; -',
  'private.start_ai_call(uuid)': 'invoker; -',
  'private.text_or_null(text, integer)': 'invoker; -',
  'private.tg__timestamps()': 'invoker; -',
  'private.uuid_v7_time(uuid)': 'invoker; -',
  'private.verify_credit_balances()': 'invoker; -',

  // The platform's answer while the GraphQL extension is off.
  'graphql_public.graphql(text, text, jsonb, jsonb)': 'invoker; PUBLIC anon authenticated service_role',

  // Sessions, lock-out, second factors. The hooks are executable by supabase_auth_admin, too.
  'private.access_is_allowed()': 'definer; authenticated',
  'private.account_is_active()': 'definer; authenticated',
  'private.account_is_open()': 'definer; authenticated',
  'private.client_name(text)': 'invoker; -',
  'private.count_my_recovery_codes()': 'definer; authenticated',
  'private.create_recovery_codes()': 'definer; authenticated',
  'private.custom_access_token(jsonb)': 'definer; -',
  'private.delete_old_networks()': 'invoker; -',
  'private.delete_old_sign_in_failures()': 'invoker; -',
  'private.has_aal2()': 'definer; authenticated',
  'private.hook_network(jsonb)': 'invoker; -',
  'private.is_admin()': 'definer; authenticated',
  'private.list_my_sessions()': 'definer; authenticated',
  'private.lock_mfa(uuid)': 'invoker; -',
  'private.mfa_is_satisfied()': 'definer; authenticated',
  'private.mfa_verification_attempt(jsonb)': 'definer; -',
  'private.my_session_id()': 'invoker; -',
  'private.network_of(inet, integer, integer)': 'invoker; -',
  'private.new_recovery_code()': 'invoker; -',
  'private.note_mfa_failure(uuid, uuid)': 'invoker; -',
  'private.note_sign_in_failure(private.sign_in_locks)': 'invoker; -',
  'private.password_verification_attempt(jsonb)': 'definer; -',
  'private.recovery_code_hash(uuid, text)': 'invoker; -',
  'private.register_device(text, text, text)': 'definer; authenticated',
  'private.request_country()': 'definer; -',
  'private.require_aal2()': 'definer; -',
  'private.require_admin()': 'definer; -',
  'private.require_user(boolean, boolean)': 'invoker; -',
  'private.revoke_all_sessions(uuid)': 'definer; authenticated service_role',
  'private.revoke_my_other_sessions()': 'definer; authenticated',
  'private.revoke_my_session(uuid)': 'definer; authenticated',
  'private.session_is_live()': 'definer; authenticated',
  'private.tg_mfa_factors__removed()': 'definer; -',
  'private.tg_profiles__role_changed()': 'definer; -',
  'private.tg_refresh_tokens__reuse()': 'definer; -',
  'private.tg_sessions__limit()': 'definer; -',
  'private.tg_sessions__network()': 'definer; -',
  'private.tg_users__password_changed()': 'definer; -',
  'private.use_recovery_code(text)': 'definer; authenticated',
  'private.warn_user(uuid, text, text, text, text, jsonb, text)': 'definer; -',
  'private.watch_sign_in_failures(uuid, interval)': 'invoker; -',
  'public.count_my_recovery_codes()': 'invoker; authenticated',
  'public.create_recovery_codes()': 'invoker; authenticated',
  'public.list_my_sessions()': 'invoker; authenticated',
  'public.register_device(text, text, text)': 'invoker; authenticated',
  'public.revoke_all_sessions(uuid)': 'invoker; authenticated service_role',
  'public.revoke_my_other_sessions()': 'invoker; authenticated',
  'public.revoke_my_session(uuid)': 'invoker; authenticated',
  'public.use_recovery_code(text)': 'invoker; authenticated',
}

/** There are none: ids are UUIDs. */
export const sequences = {}

/** table: policy. What it hides and what it lets through is tried below. */
export const policies = {
  'public.ai_calls: owners see their calls': 'select to authenticated',
  'public.chats: owners delete their chats': 'delete to authenticated',
  'public.chats: owners rename their chats': 'update to authenticated',
  'public.chats: owners see their chats': 'select to authenticated',
  'public.chats: owners start chats': 'insert to authenticated',
  'public.credit_entries: owners see their ledger': 'select to authenticated',
  'public.limit_overrides: owners see their own limits': 'select to authenticated',
  'public.messages: owners delete their messages': 'delete to authenticated',
  'public.messages: owners save messages': 'insert to authenticated',
  'public.messages: owners see their messages': 'select to authenticated',
  'public.model_prices: signed-in users see the prices': 'select to authenticated',
  'public.models: signed-in users see the enabled models': 'select to authenticated',
  'public.plan_limits: signed-in users see what plans allow': 'select to authenticated',
  'public.plan_models: signed-in users see which plan has which model': 'select to authenticated',
  'public.plans: signed-in users see the plans': 'select to authenticated',
  'public.profiles: owners change their profile': 'update to authenticated',
  'public.profiles: owners see their profile': 'select to authenticated',
  'public.ai_calls: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.chats: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.credit_entries: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.devices: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.devices: owners see their devices': 'select to authenticated',
  'public.limit_overrides: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.messages: only live, active and fully signed-in callers': 'restrictive all to authenticated',
  'public.profiles: only live sessions of accounts that are not suspended': 'restrictive select to authenticated',
  'public.profiles: only live, active and fully signed-in callers': 'restrictive update to authenticated',
}

/**
 * Tried with real statements. The owner has rows in every table that can have an owner; other is signed in, too.
 * yes: it saw or changed rows. none: a policy hid them. denied: no grant, or a policy refused the new row. A number is
 * another error's SQLSTATE: 23503 is a foreign key.
 */
// biome-ignore format: a table, read by column
export const behaviour = {
  //                                        owner      other    anon     signed out  suspended  owner aal1  anonymous  admin aal1  admin aal2  service
  'see the profile':                       'yes        none     denied   none        none       yes         yes        none        none        yes',
  'rename the profile':                    'yes        none     denied   none        none       none        none       none        none        denied',
  'make a profile':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'delete the profile':                    'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change the status':                     'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change the role':                       'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change the plan of an account':         'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change the birth date':                 'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'move the clock of the daily limits':    'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',

  'see plans':                             'yes        yes      denied   yes         yes        yes         yes        yes         yes         yes',
  'add a plan':                            'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change a plan':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'delete a plan':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'see what plans allow':                  'yes        yes      denied   yes         yes        yes         yes        yes         yes         yes',
  'add what a plan allows':                'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change what a plan allows':             'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'delete what a plan allows':             'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'see the own limit':                     'yes        none     denied   none        none       none        none       none        none        yes',
  'add an own limit':                      'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change the own limit':                  'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'delete the own limit':                  'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'read usage counters':                   'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'get my limits':                         'yes        yes      denied   PGRST       PGRST      PGRST       yes        PGRST       yes         denied',

  'see the ledger':                        'yes        none     denied   none        none       none        none       none        none        yes',
  'add to the ledger':                     'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change the ledger':                     'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'delete from the ledger':                'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'empty the ledger':                      'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'read balances':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'get my credits':                        'yes        yes      denied   PGRST       PGRST      PGRST       yes        PGRST       yes         denied',
  'grant credits':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'refund credits':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'deduct credits':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'write the ledger by function':          'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',

  'see models':                            'yes        yes      denied   yes         yes        yes         yes        yes         yes         yes',
  'see disabled models':                   'none       none     denied   none        none       none        none       none        none        yes',
  'add a model':                           'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change a model':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'delete a model':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'see prices':                            'yes        yes      denied   yes         yes        yes         yes        yes         yes         yes',
  'add a price':                           'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'change a price':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'delete a price':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'see which plan has which model':        'yes        yes      denied   yes         yes        yes         yes        yes         yes         yes',
  'give a plan a model':                   'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'take a model from a plan':              'denied     denied   denied   denied      denied     denied      denied     denied      denied      yes',
  'read providers':                        'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'read settings':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',

  'see calls':                             'yes        none     denied   none        none       none        none       none        none        yes',
  'see calls in their partition':          'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'add a call':                            'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change a call':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'delete a call':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'admit a call':                          'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'settle a call':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',

  'see chats':                             'yes        none     denied   none        none       none        none       none        none        yes',
  'start a chat':                          'yes        yes      denied   denied      denied     denied      denied     denied      yes         denied',
  'start a chat as the owner':             'yes        denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'rename a chat':                         'yes        none     denied   none        none       none        none       none        none        denied',
  'give a chat away':                      'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'delete a chat':                         'yes        none     denied   none        none       none        none       none        none        denied',
  'see messages':                          'yes        none     denied   none        none       none        none       none        none        yes',
  'save a message in the chat':            'yes        23503    denied   denied      denied     denied      denied     denied      23503       denied',
  'save a message as the owner':           'yes        denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'change a message':                      'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'delete a message':                      'yes        none     denied   none        none       none        none       none        none        denied',

  'see devices':                           'yes        none     denied   none        none       none        none       none        none        yes',
  'add a device':                          'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'rename a device':                       'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'forget a device':                       'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'register a device':                     'yes        yes      denied   PGRST       PGRST      PGRST       PGRST      PGRST       yes         denied',
  'list the own sessions':                 'yes        yes      denied   PGRST       PGRST      PGRST       yes        PGRST       yes         denied',
  'end a session of the owner':            'yes        PGRST    denied   PGRST       PGRST      PGRST       yes        PGRST       PGRST       denied',
  'end the other sessions':                'yes        yes      denied   PGRST       PGRST      PGRST       yes        PGRST       yes         denied',
  'end all sessions of an account':        'PGRST      PGRST    denied   PGRST       PGRST      PGRST       PGRST      PGRST       yes         yes',
  'make recovery codes':                   'PGRST      PGRST    denied   PGRST       PGRST      PGRST       PGRST      PGRST       yes         denied',
  'use a recovery code':                   'yes        yes      denied   PGRST       PGRST      yes         PGRST      yes         yes         denied',
  'count recovery codes':                  'yes        yes      denied   PGRST       PGRST      yes         PGRST      yes         yes         denied',
  'read recovery codes':                   'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'read sessions':                         'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'read locks':                            'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'ask for claims like Auth':              'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
  'clear a lock like Auth':                'denied     denied   denied   denied      denied     denied      denied     denied      denied      denied',
}
