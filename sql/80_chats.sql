-- Chats: conversations that their owner chooses to keep. The AI proxy never writes here; the owner's client does.

create table public.chats (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  title text not null default '' check (length(title) <= 200),
  model_id text check (length(model_id) <= 200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (id, user_id)
);
comment on table public.chats is 'A conversation. A new one counts against chat_sessions/day.';
create index chats_user_id_updated_at_idx on public.chats (user_id, updated_at desc);
alter table public.chats enable row level security;
alter table public.chats force row level security;
revoke all on public.chats from anon, authenticated, service_role;
grant select, delete on public.chats to authenticated;
grant insert (id, user_id, title, model_id), update (title, model_id) on public.chats to authenticated;
grant select on public.chats to service_role;
create trigger tg_chats__timestamps before insert or update on public.chats
  for each row execute function private.tg__timestamps();
create trigger tg_chats__limit_added after insert on public.chats referencing new table as added
  for each statement execute function private.tg__limit_rows('chats');
create trigger tg_chats__limit_removed after delete on public.chats referencing old table as removed
  for each statement execute function private.tg__limit_rows('chats');

create function private.tg_chats__count() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: counters are private.
begin
  perform private.consume(new.user_id, 'chat_sessions', 'day', 1);
  return null;
end $$;
comment on function private.tg_chats__count() is
  'Counts a new chat against the daily limit, after the policies let it in.';
create trigger tg_chats__count after insert on public.chats
  for each row execute function private.tg_chats__count();

create table public.messages (
  id uuid primary key default private.uuid_v7(),
  chat_id uuid not null,
  user_id uuid not null default auth.uid(),
  role text not null check (role in ('system', 'user', 'assistant', 'tool')),
  content text not null check (length(content) <= 200000),
  ai_call_id uuid,
  created_at timestamptz not null default now(),
  -- A message can only be in a chat of the same owner.
  foreign key (chat_id, user_id) references public.chats (id, user_id) on delete cascade
);
comment on table public.messages is 'One message of a chat, kept because its owner saved it.';
comment on column public.messages.ai_call_id is 'The call in ai_calls that made it, when there is one. No foreign key: the log is dropped by month.';
create index messages_chat_id_user_id_idx on public.messages (chat_id, user_id, id);
create index messages_user_id_idx on public.messages (user_id);
alter table public.messages enable row level security;
alter table public.messages force row level security;
revoke all on public.messages from anon, authenticated, service_role;
grant select, delete on public.messages to authenticated;
grant insert (id, chat_id, user_id, role, content, ai_call_id) on public.messages to authenticated;
grant select on public.messages to service_role;
create trigger tg_messages__limit_added after insert on public.messages referencing new table as added
  for each statement execute function private.tg__limit_rows('messages', 'octet_length(content)');
create trigger tg_messages__limit_changed after update on public.messages referencing old table as removed new table as added
  for each statement execute function private.tg__limit_rows('messages', 'octet_length(content)');
create trigger tg_messages__limit_removed after delete on public.messages referencing old table as removed
  for each statement execute function private.tg__limit_rows('messages', 'octet_length(content)');
