-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/90_jobs.sql =====================================================================================================

-- Jobs: what runs by itself, in pg_cron on every deployment. Times are UTC.

create function private.schedule_job(name text, schedule text, command text) returns bigint
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  return cron.schedule(schedule_job.name, schedule_job.schedule, schedule_job.command);
exception when invalid_parameter_value then
  -- pg_cron knows seconds since 1.5; PostgreSQL 15 of a self-hosted project comes with 1.4.
  if schedule_job.schedule !~ '^([1-9]|[1-5][0-9]) seconds$' then
    raise;
  end if;
  return cron.schedule(schedule_job.name, '* * * * *', schedule_job.command);
end $$;
comment on function private.schedule_job(text, text, text) is
  'Schedules a job, or replaces the one of that name; answers its id. A schedule of "[1-59] seconds" is once a minute where pg_cron is older than 1.5.';

select private.schedule_job('settle-abandoned-ai-calls', '30 seconds', 'select private.settle_abandoned_ai_calls()');
select private.schedule_job('create-ai-call-partitions', '10 0 * * *', 'select private.create_ai_call_partitions()');
select private.schedule_job('delete-old-job-runs', '20 0 * * *', $$delete from cron.job_run_details where end_time < now() - interval '7 days'$$);
select private.schedule_job('add-up-ai-usage', '30 1 * * *', 'select private.add_up_ai_usage()');
select private.schedule_job('warn-of-wrong-gates', '45 1 * * *', 'select private.warn_of_wrong_gates()');
select private.schedule_job('warn-of-wrong-row-counts', '50 1 * * *', 'select private.warn_of_wrong_row_counts()');
select private.schedule_job('tell-of-audit-repeats', '2 * * * *', 'select private.tell_of_audit_repeats()');
select private.schedule_job('warn-of-price-drift', '40 1 * * *', 'select private.warn_of_price_drift()');
select private.schedule_job('warn-of-ai-surprises', '15 seconds', 'select private.warn_of_ai_surprises()');
select private.schedule_job('warn-of-spend', '15 seconds', 'select private.warn_of_spend()');
select private.schedule_job('expire-credits', '5 * * * *', 'select private.expire_due_credits()');
select private.schedule_job('delete-old-idempotency-keys', '35 * * * *', 'select private.delete_old_idempotency_keys()');
select private.schedule_job('delete-old-signatures', '55 * * * *', 'select private.delete_old_signatures()');
select private.schedule_job('delete-old-api-keys', '58 0 * * *', 'select private.delete_old_api_keys()');
select private.schedule_job('delete-old-anonymous-requests', '45 * * * *', 'select private.delete_old_anonymous_requests()');
select private.schedule_job('create-audit-partitions', '15 0 * * *', 'select private.create_audit_partitions()');
select private.schedule_job('delete-old-sign-in-failures', '40 * * * *', 'select private.delete_old_sign_in_failures()');
select private.schedule_job('delete-unconfirmed-accounts', '*/10 * * * *', 'select private.delete_unconfirmed_accounts()');
select private.schedule_job('delete-old-mailbox-claims', '52 0 * * *', 'select private.delete_old_mailbox_claims()');
select private.schedule_job('delete-old-networks', '50 0 * * *', 'select private.delete_old_networks()');
select private.schedule_job('prove-audit-entries', '*/15 * * * *', 'select private.prove_audit_entries()');
select private.schedule_job('archive-audit', '*/10 * * * *', 'select private.call_archive_audit()');
select private.schedule_job('send-mails', '15 seconds', 'select private.call_send_mails()');
select private.schedule_job('delete-old-messages', '25 0 * * *', 'select private.delete_old_messages()');
select private.schedule_job('check-uploads', '15 seconds', 'select private.call_check_uploads()');
select private.schedule_job('rotate-credential-keys', '0 2 1 1,4,7,10 *', 'select private.rotate_credential_keys()');
select private.schedule_job('keep-credentials-sealed', '* * * * *', 'select private.keep_credentials_sealed()');
select private.schedule_job('sync-portfolios', '* * * * *', 'select private.call_sync_portfolios()');
select private.schedule_job('create-portfolio-partitions', '18 0 * * *', 'select private.create_portfolio_partitions()');
select private.schedule_job('downsample-portfolio-snapshots', '10 2 * * *', 'select private.downsample_portfolio_snapshots()');
select private.schedule_job('apply-stripe-events', '15 seconds', 'select private.call_apply_stripe_events()');
select private.schedule_job('change-stripe', '15 seconds', 'select private.call_change_stripe()');
select private.schedule_job('reconcile-stripe', '20 3 * * *', 'select private.call_reconcile_stripe()');
select private.schedule_job('send-dunning', '*/15 * * * *', 'select private.send_dunning()');
select private.schedule_job('start-retention-clocks', '*/5 * * * *', 'select private.start_retention_clocks()');
select private.schedule_job('delete-old-stripe-events', '30 * * * *', 'select private.delete_old_stripe_events()');
select private.schedule_job('delete-old-checkouts', '32 0 * * *', 'select private.delete_old_checkouts()');
select private.schedule_job('delete-old-stripe-changes', '34 0 * * *', 'select private.delete_old_stripe_changes()');

-- sql/95_start.sql ====================================================================================================

-- What a project starts with beside rows: this month's partitions, and accounts for users who were there before.

select private.create_ai_call_partitions();
select private.create_audit_partitions();
select private.create_portfolio_partitions();

select private.create_account(u.id) from auth.users u
where not exists (select from public.profiles p where p.id = u.id)
  or not exists (select from private.accounts a where a.user_id = u.id);
