-- What operators change: settings, plans, limits, prices, models, providers. Whoever does it, by SQL, by the Data API or by a script of ours,
-- leaves an entry in the audit log with the row before and after, so that it can be seen and undone.

create function private.tg__operator_change() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: no role may write the log.
declare
  v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - array['created_at', 'updated_at'] end;
  v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - array['created_at', 'updated_at'] end;
  v_row jsonb := coalesce(v_after, v_before);
  v_key text[];
  v_details jsonb;
begin
  if v_before = v_after then
    return null;
  end if;
  v_key := array(
    select v_row ->> a.attname
    from pg_catalog.pg_index i cross join unnest(i.indkey) with ordinality k (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = tg_relid and i.indisprimary order by k.place);
  v_details := jsonb_strip_nulls(jsonb_build_object('before', v_before, 'after', v_after));
  if length(v_details::text) > 15000 then
    v_details := jsonb_build_object('too_long', true, 'sha256', encode(sha256(convert_to(v_details::text, 'UTF8')), 'hex'));
  end if;
  perform private.audit(
    action => tg_table_name || case tg_op when 'INSERT' then '.create' when 'UPDATE' then '.update' else '.delete' end,
    resource_type => tg_table_name, resource_id => left(array_to_string(v_key, ' '), 200),
    user_id => private.uuid_or_null(v_row ->> 'user_id'), details => v_details);
  return null;
end $$;
comment on function private.tg__operator_change() is
  'Writes a changed row into the audit log, before and after, as TABLE.create, .update or .delete; the id is that of the row''s key, its parts by spaces. The log''s lock is taken when the transaction commits, so nobody waits for an operator who thinks.';

create trigger tg_settings__operator_change after update or delete on private.settings
  for each row execute function private.tg__operator_change();
create trigger tg_plans__operator_change after insert or update or delete on public.plans
  for each row execute function private.tg__operator_change();
create trigger tg_plan_limits__operator_change after insert or update or delete on public.plan_limits
  for each row execute function private.tg__operator_change();
create trigger tg_limit_overrides__operator_change after insert or update or delete on public.limit_overrides
  for each row execute function private.tg__operator_change();
create trigger tg_plan_features__operator_change after insert or update or delete on public.plan_features
  for each row execute function private.tg__operator_change();
create trigger tg_plan_models__operator_change after insert or update or delete on public.plan_models
  for each row execute function private.tg__operator_change();
create trigger tg_models__operator_change after insert or update or delete on public.models
  for each row execute function private.tg__operator_change();
create trigger tg_model_prices__operator_change after insert or update or delete on public.model_prices
  for each row execute function private.tg__operator_change();
create trigger tg_model_fallbacks__operator_change after insert or update or delete on private.model_fallbacks
  for each row execute function private.tg__operator_change();
create trigger tg_providers__operator_change after insert or update or delete on private.providers
  for each row execute function private.tg__operator_change();
create trigger tg_plan_prices__operator_change after insert or update or delete on public.plan_prices
  for each row execute function private.tg__operator_change();
create trigger tg_credit_packs__operator_change after insert or update or delete on public.credit_packs
  for each row execute function private.tg__operator_change();
create trigger tg_billing_notices__operator_change after insert or update or delete on private.billing_notices
  for each row execute function private.tg__operator_change();
create trigger tg_dunning_steps__operator_change after insert or update or delete on private.dunning_steps
  for each row execute function private.tg__operator_change();
