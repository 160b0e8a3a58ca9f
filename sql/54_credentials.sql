-- Credentials: a stand-in with what the portfolio needs, until the vault's file takes its place.

create table private.exchanges (
  id text primary key check (id ~ '^[a-z0-9_-]+$' and length(id) <= 40),
  name text not null check (length(name) between 1 and 100),
  enabled boolean not null default true
);
comment on table private.exchanges is 'Exchanges that a portfolio can be read from.';
revoke all on private.exchanges from anon, authenticated, service_role;

create table public.credentials (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null references auth.users (id) on delete cascade,
  kind text not null check (kind in ('exchange', 'ai_provider')),
  provider text not null check (length(provider) between 1 and 100),
  name text not null check (length(name) between 1 and 100),
  last_four text not null check (length(last_four) <= 4),
  permissions text[] not null default '{}' check (cardinality(permissions) <= 20),
  status text not null default 'pending' check (status in ('pending', 'active', 'failed', 'disabled')),
  status_reason text check (length(status_reason) <= 500),
  last_tested_at timestamptz,
  last_used_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (id, user_id)
);
comment on table public.credentials is 'What owners know of their credentials of exchanges and AI providers; the secrets are elsewhere. Written by functions only.';
comment on column public.credentials.provider is 'The id of the exchange or AI provider.';
create index credentials_user_id_idx on public.credentials (user_id);
alter table public.credentials enable row level security;
alter table public.credentials force row level security;
revoke all on public.credentials from anon, authenticated, service_role;
grant select on public.credentials to authenticated, service_role;
