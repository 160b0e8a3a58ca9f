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
  'public.consents': 'table, rls forced; anon -; authenticated select; service_role select',
  'public.credit_entries': 'table, rls forced; anon -; authenticated select; service_role select',
  'public.limit_overrides': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.messages':
    'table, rls forced; anon -; authenticated select insert(ai_call_id, chat_id, content, id, role, user_id) delete; service_role select',
  'public.profiles':
    'table, rls forced; anon -; authenticated select update(avatar_path, bio, display_name, first_name, last_name, locale, time_zone); service_role select update(plan_id)',

  // The catalogue: everybody who is signed in reads it, the service role keeps it.
  // legal_documents: whoever signs up reads first what they accept, so anon sees the published ones.
  'public.legal_documents':
    'table, rls forced; anon select; authenticated select; service_role select insert(kind, published_at, url, version)',
  'public.model_prices': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_limits': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plans': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',

  // Private: no API role has any grant; definer functions and direct connections use them. Partitions made by the clock
  // (private.ai_calls_YYYYMM) are checked to be the same and not listed.
  'private.account_status_changes': 'table, rls off; anon -; authenticated -; service_role -',
  'private.ai_calls_default': 'table, rls off; anon -; authenticated -; service_role -',
  'private.credit_accounts': 'table, rls off; anon -; authenticated -; service_role -',
  'private.invites': 'table, rls off; anon -; authenticated -; service_role -',
  'private.providers': 'table, rls off; anon -; authenticated -; service_role -',
  'private.registrations': 'table, rls off; anon -; authenticated -; service_role -',
  'private.settings': 'table, rls off; anon -; authenticated -; service_role -',
  'private.usage_counters': 'table, rls off; anon -; authenticated -; service_role -',
}

/** name(argument types): security; the roles that may execute it. */
export const functions = {
  // The API. Invoker: each is a wrapper around one private function.
  'public.deduct_credits(uuid, bigint, text, text)': 'invoker; service_role',
  'public.get_my_credits()': 'invoker; authenticated',
  'public.get_my_limits()': 'invoker; authenticated',
  'public.grant_credits(uuid, bigint, text, text)': 'invoker; service_role',
  'public.refund_credits(uuid, bigint, text, text)': 'invoker; service_role',

  // Accounts: the user's own choices, and what admins and the service role do; private.require_admin tells them apart.
  'public.accept_terms()': 'invoker; authenticated',
  'public.complete_registration(text, boolean)': 'invoker; authenticated',
  'public.create_invite(text, integer, timestamp with time zone)': 'invoker; authenticated service_role',
  'public.delete_account(uuid, text)': 'invoker; authenticated service_role',
  'public.delete_my_account()': 'invoker; authenticated',
  'public.find_account(text)': 'invoker; authenticated service_role',
  'public.get_registration_policy()': 'invoker; authenticated service_role',
  'public.list_invites()': 'invoker; authenticated service_role',
  'public.record_guardian_consent(uuid, text)': 'invoker; authenticated service_role',
  'public.reinstate_account(uuid, text)': 'invoker; authenticated service_role',
  'public.revoke_invite(uuid)': 'invoker; authenticated service_role',
  'public.set_account_role(uuid, text)': 'invoker; authenticated service_role',
  'public.set_do_not_sell(boolean)': 'invoker; authenticated',
  'public.suspend_account(uuid, text)': 'invoker; authenticated service_role',
  'private.accept_my_terms()': 'definer; authenticated',
  'private.account_by_email(text)': 'definer; authenticated service_role',
  'private.change_role_of(uuid, text)': 'definer; authenticated service_role',
  'private.change_status_of(uuid, text, text)': 'definer; authenticated service_role',
  'private.close_invite(uuid)': 'definer; authenticated service_role',
  'private.complete_my_registration(text, boolean)': 'definer; authenticated',
  'private.delete_own_account()': 'definer; authenticated',
  'private.invites_with_uses()': 'definer; authenticated service_role',
  'private.make_invite(text, integer, timestamp with time zone)': 'definer; authenticated service_role',
  'private.record_consent_of_guardian(uuid, text)': 'definer; authenticated service_role',
  'private.registration_policy()': 'definer; authenticated service_role',
  'private.set_my_do_not_sell(boolean)': 'definer; authenticated',

  // Registration: the hook, which only supabase_auth_admin may execute, and what it and the triggers call.
  'private.before_user_created(jsonb)': 'definer; -',
  'private.complete_anonymous_account(uuid)': 'definer; -',
  'private.confirm_registration(uuid)': 'definer; -',
  'private.tg_users__confirm_registration()': 'definer; -',
  'private.age_refusal(text, boolean)': 'invoker; -',
  'private.try_place(uuid, integer, uuid)': 'invoker; -',
  'private.birth_date_or_null(text)': 'invoker; -',
  'private.change_account_status(uuid, text, text)': 'invoker; -',
  'private.complete_account(uuid, date)': 'invoker; -',
  'private.enforce_account_status(uuid, text)': 'invoker; -',
  'private.invite_code_hash(text)': 'invoker; -',
  'private.is_under_age(date)': 'invoker; -',
  'private.locale_or_default(text)': 'invoker; -',
  'private.new_invite_code()': 'invoker; -',
  'private.place_lock(uuid)': 'invoker; -',
  'private.record_terms(uuid, inet, text)': 'invoker; -',
  'private.reserve_registration(uuid, jsonb, boolean, inet, text)': 'invoker; -',
  'private.reservations_since()': 'invoker; -',
  'private.status_to_return_to(uuid, text)': 'invoker; -',
  'private.take_invite(text, uuid)': 'invoker; -',
  'private.take_place_under_cap(uuid)': 'invoker; -',
  'private.time_zone_or_default(text)': 'invoker; -',

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
  'private.require_user()': 'invoker; -',
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
  'public.consents: owners see their consents': 'select to authenticated',
  'public.credit_entries: owners see their ledger': 'select to authenticated',
  'public.legal_documents: everybody sees the published documents': 'select to anon authenticated',
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
}

/**
 * Tried with real statements. The owner has rows in every table that can have an owner; other is signed in, too.
 * yes: it saw or changed rows. none: a policy hid them. denied: no grant, or a policy refused the new row. A number is
 * another error's SQLSTATE: 23503 is a foreign key, PGRST a refusal of the function itself.
 */
// biome-ignore format: a table, read by column
export const behaviour = {
  //                                         owner     other     anon      service
  'see the profile':                        'yes       none      denied    yes',
  'rename the profile':                     'yes       none      denied    denied',
  'make a profile':                         'denied    denied    denied    denied',
  'delete the profile':                     'denied    denied    denied    denied',
  'change the status':                      'denied    denied    denied    denied',
  'change the role':                        'denied    denied    denied    denied',
  'change the plan of an account':          'denied    denied    denied    yes',
  'change the birth date':                  'denied    denied    denied    denied',
  'move the clock of the daily limits':     'denied    denied    denied    denied',
  'change why the account is parked':      'denied    denied    denied    denied',
  'change the do-not-sell choice directly':'denied    denied    denied    denied',
  'read how the account came in':          'denied    denied    denied    denied',
  'read changes of status':                'denied    denied    denied    denied',

  'see published documents':               'yes       yes       yes       yes',
  'see a document before its day':         'none      none      none      yes',
  'publish a document':                    'denied    denied    denied    yes',
  'change a document':                     'denied    denied    denied    denied',
  'delete a document':                     'denied    denied    denied    denied',
  'see consents':                          'yes       none      denied    yes',
  'write a consent':                       'denied    denied    denied    denied',
  'change a consent':                      'denied    denied    denied    denied',
  'delete a consent':                      'denied    denied    denied    denied',
  'accept the terms':                      'yes       yes       denied    denied',
  'choose do-not-sell':                    'yes       yes       denied    denied',
  'complete the registration':             'yes       yes       denied    denied',
  'record a guardian':                     'PGRST     PGRST     denied    yes',
  'read the registration policy':          'PGRST     PGRST     denied    yes',

  'read invites':                          'denied    denied    denied    denied',
  'create an invite':                      'PGRST     PGRST     denied    yes',
  'list invites':                          'PGRST     PGRST     denied    yes',
  'revoke an invite':                      'PGRST     PGRST     denied    yes',
  'ask the hook':                          'denied    denied    denied    denied',

  'suspend the account':                   'PGRST     PGRST     denied    yes',
  'reinstate the account':                 'PGRST     PGRST     denied    yes',
  'delete the account':                    'PGRST     PGRST     denied    yes',
  'delete my account':                     'yes       yes       denied    denied',
  'make the owner an admin':               'PGRST     PGRST     denied    yes',
  'find the account by its address':       'PGRST     PGRST     denied    yes',

  'see plans':                              'yes       yes       denied    yes',
  'add a plan':                             'denied    denied    denied    yes',
  'change a plan':                          'denied    denied    denied    yes',
  'delete a plan':                          'denied    denied    denied    yes',
  'see what plans allow':                   'yes       yes       denied    yes',
  'add what a plan allows':                 'denied    denied    denied    yes',
  'change what a plan allows':              'denied    denied    denied    yes',
  'delete what a plan allows':              'denied    denied    denied    yes',
  'see the own limit':                      'yes       none      denied    yes',
  'add an own limit':                       'denied    denied    denied    yes',
  'change the own limit':                   'denied    denied    denied    yes',
  'delete the own limit':                   'denied    denied    denied    yes',
  'read usage counters':                    'denied    denied    denied    denied',
  'get my limits':                          'yes       yes       denied    denied',

  'see the ledger':                         'yes       none      denied    yes',
  'add to the ledger':                      'denied    denied    denied    denied',
  'change the ledger':                      'denied    denied    denied    denied',
  'delete from the ledger':                 'denied    denied    denied    denied',
  'empty the ledger':                       'denied    denied    denied    denied',
  'read balances':                          'denied    denied    denied    denied',
  'get my credits':                         'yes       yes       denied    denied',
  'grant credits':                          'denied    denied    denied    yes',
  'refund credits':                         'denied    denied    denied    yes',
  'deduct credits':                         'denied    denied    denied    yes',
  'write the ledger by function':           'denied    denied    denied    denied',

  'see models':                             'yes       yes       denied    yes',
  'see disabled models':                    'none      none      denied    yes',
  'add a model':                            'denied    denied    denied    yes',
  'change a model':                         'denied    denied    denied    yes',
  'delete a model':                         'denied    denied    denied    yes',
  'see prices':                             'yes       yes       denied    yes',
  'add a price':                            'denied    denied    denied    yes',
  'change a price':                         'denied    denied    denied    yes',
  'delete a price':                         'denied    denied    denied    yes',
  'see which plan has which model':         'yes       yes       denied    yes',
  'give a plan a model':                    'denied    denied    denied    yes',
  'take a model from a plan':               'denied    denied    denied    yes',
  'read providers':                         'denied    denied    denied    denied',
  'read settings':                          'denied    denied    denied    denied',

  'see calls':                              'yes       none      denied    yes',
  'see calls in their partition':           'denied    denied    denied    denied',
  'add a call':                             'denied    denied    denied    denied',
  'change a call':                          'denied    denied    denied    denied',
  'delete a call':                          'denied    denied    denied    denied',
  'admit a call':                           'denied    denied    denied    denied',
  'settle a call':                          'denied    denied    denied    denied',

  'see chats':                              'yes       none      denied    yes',
  'start a chat':                           'yes       yes       denied    denied',
  'start a chat as the owner':              'yes       denied    denied    denied',
  'rename a chat':                          'yes       none      denied    denied',
  'give a chat away':                       'denied    denied    denied    denied',
  'delete a chat':                          'yes       none      denied    denied',
  'see messages':                           'yes       none      denied    yes',
  'save a message in the chat':             'yes       23503     denied    denied',
  'save a message as the owner':            'yes       denied    denied    denied',
  'change a message':                       'denied    denied    denied    denied',
  'delete a message':                       'yes       none      denied    denied',
}
