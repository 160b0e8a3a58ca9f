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
