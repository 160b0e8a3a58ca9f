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
  'public.notifications': 'table, rls forced; anon -; authenticated select update(read_at) delete; service_role select',
  'public.profiles':
    'table, rls forced; anon -; authenticated select update(avatar_path, bio, display_name, first_name, last_name, locale, time_zone); service_role select update(plan_id)',
  'public.security_events': 'table, rls forced; anon -; authenticated select; service_role select',
  // The view runs with its caller's rights: what it reads is granted, and the policies are on the table.
  'private.audit_log': 'table, rls forced; anon -; authenticated select; service_role select',
  'public.audit_log': 'view, invoker; anon -; authenticated select; service_role select',

  // The catalogue: everybody who is signed in reads it, the service role keeps it.
  'public.model_prices': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_limits': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plan_models': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',
  'public.plans': 'table, rls forced; anon -; authenticated select; service_role select insert update delete',

  // Private: no API role has any grant; definer functions and direct connections use them. Partitions made by the clock
  // (private.ai_calls_YYYYMM, private.audit_log_YYYYMM) are checked to be the same and not listed.
  'private.ai_calls_default': 'table, rls off; anon -; authenticated -; service_role -',
  'private.audit_archives': 'table, rls off; anon -; authenticated -; service_role -',
  'private.audit_chain_heads': 'table, rls off; anon -; authenticated -; service_role -',
  'private.audit_log_default': 'table, rls off; anon -; authenticated -; service_role -',
  'private.credit_accounts': 'table, rls off; anon -; authenticated -; service_role -',
  'private.mails': 'table, rls off; anon -; authenticated -; service_role -',
  'private.providers': 'table, rls off; anon -; authenticated -; service_role -',
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

  // Behind the API: what authorises in its first statement, and ids for columns' defaults.
  'private.change_credits(uuid, bigint, text, text, text)': 'definer; service_role',
  'private.my_credits()': 'definer; authenticated',
  'private.my_limits()': 'definer; authenticated',
  'private.sees_audit_origin()': 'definer; authenticated service_role',
  'private.uuid_v7()': 'invoker; authenticated service_role',

  // Definers that nobody calls directly: triggers, and helpers of other definers.
  'private.audit(text, text, text, uuid, jsonb, text, inet)': 'definer; -',
  'private.consume(uuid, text, text, bigint)': 'definer; -',
  'private.create_account(uuid)': 'definer; -',
  'private.limits_of(uuid)': 'definer; -',
  'private.notify_user(uuid, text, text, text, jsonb)': 'definer; -',
  'private.raise_security_event(text, text, uuid, jsonb, text, inet)': 'definer; -',
  'private.tg__append_only()': 'definer; -',
  'private.tg_audit_log__seal()': 'definer; -',
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
  'private.audit_hash(private.audit_log, bigint, bytea)': 'invoker; -',
  'private.audit_month(timestamp with time zone)': 'invoker; -',
  'private.call_archive_audit()': 'invoker; -',
  'private.call_jobs_function(text)': 'invoker; -',
  'private.call_send_mails()': 'invoker; -',
  'private.claim_mails(integer)': 'invoker; -',
  'private.create_audit_partitions()': 'invoker; -',
  'private.delete_old_messages()': 'invoker; -',
  'private.drop_archived_audit_month(date)': 'invoker; -',
  'private.finish_mail(uuid, integer, text)': 'invoker; -',
  'private.next_audit_archive()': 'invoker; -',
  'private.read_audit_entries(date, bigint, bigint)': 'invoker; -',
  'private.record_audit_archive(jsonb, text, text)': 'invoker; -',
  'private.request_header(text)': 'invoker; -',
  'private.request_id()': 'invoker; -',
  'private.request_ip()': 'invoker; -',
  'private.request_user_agent()': 'invoker; -',
  'private.tg_audit_log__append_only()': 'invoker; -',
  'private.verify_audit_chain(date)': 'invoker; -',
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
  'private.audit_log: only live sessions of active accounts, with their second factor':
    'restrictive all to authenticated',
  'private.audit_log: owners see what was done to their account': 'select to authenticated',
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
  'public.notifications: only live sessions of active accounts, with their second factor':
    'restrictive all to authenticated',
  'public.notifications: owners delete their notifications': 'delete to authenticated',
  'public.notifications: owners mark their notifications as read': 'update to authenticated',
  'public.notifications: owners see their notifications': 'select to authenticated',
  'public.plan_limits: signed-in users see what plans allow': 'select to authenticated',
  'public.plan_models: signed-in users see which plan has which model': 'select to authenticated',
  'public.plans: signed-in users see the plans': 'select to authenticated',
  'public.profiles: owners change their profile': 'update to authenticated',
  'public.profiles: owners see their profile': 'select to authenticated',
  'public.security_events: only live sessions of active accounts, with their second factor':
    'restrictive all to authenticated',
  'public.security_events: owners see their security events, admins all': 'select to authenticated',
}

/**
 * Tried with real statements. The owner has rows in every table that can have an owner; other is signed in, too.
 * yes: it saw or changed rows. none: a policy hid them. denied: no grant, or a policy refused the new row. A number is
 * another error's SQLSTATE: 23503 is a foreign key.
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

  'see the audit log':                      'yes       none      denied    yes',
  'see the audit log itself':               'yes       none      denied    yes',
  'see the audit log in its partition':     'denied    denied    denied    denied',
  'add to the audit log':                   'denied    denied    denied    denied',
  'change the audit log':                   'denied    denied    denied    denied',
  'delete from the audit log':              'denied    denied    denied    denied',
  'empty the audit log':                    'denied    denied    denied    denied',
  'verify the audit log':                   'denied    denied    denied    denied',
  'read the ends of chains':                'denied    denied    denied    denied',
  'read the list of archives':              'denied    denied    denied    denied',
  'see security events':                    'yes       none      denied    yes',
  'add a security event':                   'denied    denied    denied    denied',
  'raise a security event':                 'denied    denied    denied    denied',
  'change a security event':                'denied    denied    denied    denied',
  'delete a security event':                'denied    denied    denied    denied',
  'see notifications':                      'yes       none      denied    yes',
  'add a notification':                     'denied    denied    denied    denied',
  'notify by function':                     'denied    denied    denied    denied',
  'mark a notification as read':            'yes       none      denied    denied',
  'rewrite a notification':                 'denied    denied    denied    denied',
  'delete a notification':                  'yes       none      denied    denied',
  'read the outbox':                        'denied    denied    denied    denied',
  'take mails from the outbox':             'denied    denied    denied    denied',
  'drop a month of the audit log':          'denied    denied    denied    denied',
}
