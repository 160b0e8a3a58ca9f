-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/90_jobs.sql =====================================================================================================

-- Jobs: what runs by itself, in pg_cron on every deployment. Times are UTC.

select cron.schedule('settle-abandoned-ai-calls', '30 seconds', 'select private.settle_abandoned_ai_calls()');
select cron.schedule('create-ai-call-partitions', '10 0 * * *', 'select private.create_ai_call_partitions()');
select cron.schedule('delete-old-job-runs', '20 0 * * *', $$delete from cron.job_run_details where end_time < now() - interval '7 days'$$);
select cron.schedule('add-up-ai-usage', '30 1 * * *', 'select private.add_up_ai_usage()');
select cron.schedule('warn-of-price-drift', '40 1 * * *', 'select private.warn_of_price_drift()');
select cron.schedule('warn-of-spend', '15 seconds', 'select private.warn_of_spend()');
select cron.schedule('expire-credits', '5 * * * *', 'select private.expire_due_credits()');
select cron.schedule('delete-old-idempotency-keys', '35 * * * *', 'select private.delete_old_idempotency_keys()');
select cron.schedule('delete-old-signatures', '55 * * * *', 'select private.delete_old_signatures()');
select cron.schedule('delete-old-anonymous-requests', '45 * * * *', 'select private.delete_old_anonymous_requests()');
select cron.schedule('create-audit-partitions', '15 0 * * *', 'select private.create_audit_partitions()');
select cron.schedule('delete-old-sign-in-failures', '40 * * * *', 'select private.delete_old_sign_in_failures()');
select cron.schedule('delete-old-networks', '50 0 * * *', 'select private.delete_old_networks()');
select cron.schedule('archive-audit', '*/10 * * * *', 'select private.call_archive_audit()');
select cron.schedule('send-mails', '15 seconds', 'select private.call_send_mails()');
select cron.schedule('delete-old-messages', '25 0 * * *', 'select private.delete_old_messages()');
select cron.schedule('check-uploads', '15 seconds', 'select private.call_check_uploads()');
select cron.schedule('rotate-credential-keys', '0 2 1 1,4,7,10 *', 'select private.rotate_credential_keys()');
select cron.schedule('keep-credentials-sealed', '* * * * *', 'select private.keep_credentials_sealed()');
select cron.schedule('sync-portfolios', '* * * * *', 'select private.call_sync_portfolios()');
select cron.schedule('create-portfolio-partitions', '18 0 * * *', 'select private.create_portfolio_partitions()');
select cron.schedule('downsample-portfolio-snapshots', '10 2 * * *', 'select private.downsample_portfolio_snapshots()');
select cron.schedule('apply-stripe-events', '15 seconds', 'select private.call_apply_stripe_events()');
select cron.schedule('reconcile-stripe', '20 3 * * *', 'select private.call_reconcile_stripe()');
select cron.schedule('send-dunning', '*/15 * * * *', 'select private.send_dunning()');
select cron.schedule('start-retention-clocks', '*/5 * * * *', 'select private.start_retention_clocks()');
select cron.schedule('delete-old-stripe-events', '30 * * * *', 'select private.delete_old_stripe_events()');
select cron.schedule('delete-old-checkouts', '32 0 * * *', 'select private.delete_old_checkouts()');

-- sql/95_start.sql ====================================================================================================

-- What a project starts with beside rows: this month's partitions, and accounts for users who were there before.

select private.create_ai_call_partitions();
select private.create_audit_partitions();
select private.create_portfolio_partitions();

select private.create_account(u.id) from auth.users u
where not exists (select from public.profiles p where p.id = u.id)
  or not exists (select from private.accounts a where a.user_id = u.id);
