-- What a project starts with beside rows: this month's partitions, and accounts for users who were there before.

select private.create_ai_call_partitions();
select private.create_audit_partitions();
select private.create_portfolio_partitions();

select private.create_account(u.id) from auth.users u
where not exists (select from public.profiles p where p.id = u.id)
  or not exists (select from private.accounts a where a.user_id = u.id);
