-- Features: what a plan includes beside its limits and models.

create table public.plan_features (
  plan_id text not null references public.plans (id) on delete cascade,
  feature text not null check (feature ~ '^[a-z][a-z0-9_]{0,39}$'),
  primary key (plan_id, feature)
);
comment on table public.plan_features is
  'What a plan includes: portfolio_sync (portfolios are read from exchanges), own_keys (AI calls with keys of one''s own). No row: not included.';
alter table public.plan_features enable row level security;
alter table public.plan_features force row level security;
revoke all on public.plan_features from anon, authenticated, service_role;
grant select on public.plan_features to authenticated;
grant select, insert, update, delete on public.plan_features to service_role;
insert into public.plan_features (plan_id, feature) values
  ('free', 'own_keys'), ('free', 'portfolio_sync'), ('premium', 'own_keys'), ('premium', 'portfolio_sync')
on conflict (plan_id, feature) do nothing;

create function private.has_feature(feature text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: entitlements are private.
begin
  return exists (
    select from public.plan_features f
    where f.plan_id = (private.entitlement(auth.uid())).plan_id and f.feature = has_feature.feature);
end $$;
comment on function private.has_feature(text) is
  'Whether the caller''s plan includes a feature now; false for who is not signed in. In a policy write it as (select private.has_feature(''x'')), so that it is asked once and not for every row.';
grant execute on function private.has_feature(text) to authenticated;

create function private.payment_hint(user_id uuid) returns text
language plpgsql stable security invoker set search_path = ''
as $$
begin
  return 'Pay or choose a plan: ' || private.pay_url(user_id);
end $$;
comment on function private.payment_hint(uuid) is 'The sentence with the link that ends a refusal which money can lift.';

create function private.feature_refusal(user_id uuid, feature text) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_entitlement record;
  v_hint text;
begin
  select e.state, p.id, p.name into v_entitlement
  from private.entitlement(feature_refusal.user_id) e left join public.plans p on p.id = e.plan_id;
  if exists (select from public.plan_features f where f.plan_id = v_entitlement.id and f.feature = feature_refusal.feature) then
    return null;
  end if;
  v_hint := private.payment_hint(feature_refusal.user_id);
  return jsonb_build_object('code', 'entitlement_required', 'hint', v_hint, 'message', format('%s does not include %s. %s',
    case
      when v_entitlement.state in ('past_due', 'unpaid') then 'Your last payment is overdue, and the plan ' || v_entitlement.name
      when v_entitlement.state in ('canceled', 'expired') then 'Your subscription has ended, and the plan ' || v_entitlement.name
      when v_entitlement.state = 'paused' then 'Your subscription is paused, and the plan ' || v_entitlement.name
      else 'Your plan'
    end, replace(feature_refusal.feature, '_', ' '), v_hint));
end $$;
comment on function private.feature_refusal(uuid, text) is
  'Null when the user''s plan includes the feature now; else {code: entitlement_required, message: why and where to pay, hint}.';

create function private.require_feature(user_id uuid, feature text) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_refusal jsonb := private.feature_refusal(require_feature.user_id, require_feature.feature);
begin
  if v_refusal is not null then
    perform private.raise_error(v_refusal ->> 'code', v_refusal ->> 'message', v_refusal ->> 'hint');
  end if;
end $$;
comment on function private.require_feature(uuid, text) is 'Raises entitlement_required, with the link to pay, unless the user''s plan includes the feature now.';
