-- Documents and images: what users keep besides their chats. A document is a row; an image is a file in Storage, and its
-- row here follows the file (sql/85_storage.sql), so that it never says more than what is stored.

create table public.documents (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  title text not null default '' check (length(title) <= 200),
  kind text not null default 'note' check (kind ~ '^[a-z][a-z0-9_]{0,39}$'),
  content jsonb not null default '{}' check (octet_length(content::text) <= 262144),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (id, user_id)
);
comment on table public.documents is 'A document of a user: any JSON up to 256 KiB, under a kind that the client chooses.';
comment on column public.documents.kind is 'What the client takes it for, as note or journal_entry: lower case, digits and underscores.';
create index documents_user_id_created_at_id_idx on public.documents (user_id, created_at desc, id desc);
alter table public.documents enable row level security;
alter table public.documents force row level security;
revoke all on public.documents from anon, authenticated, service_role;
grant select, delete on public.documents to authenticated;
grant insert (id, user_id, title, kind, content), update (title, kind, content) on public.documents to authenticated;
grant select on public.documents to service_role;
create trigger tg_documents__timestamps before insert or update on public.documents
  for each row execute function private.tg__timestamps();
create trigger tg_documents__limit_added after insert on public.documents referencing new table as added
  for each statement execute function private.tg__limit_rows('documents', 'octet_length(content::text)');
create trigger tg_documents__limit_changed after update on public.documents referencing old table as removed new table as added
  for each statement execute function private.tg__limit_rows('documents', 'octet_length(content::text)');
create trigger tg_documents__limit_removed after delete on public.documents referencing old table as removed
  for each statement execute function private.tg__limit_rows('documents', 'octet_length(content::text)');

create table public.images (
  id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  document_id uuid,
  bucket_id text not null check (length(bucket_id) <= 100),
  path text not null check (length(path) <= 1024),
  content_type text not null check (length(content_type) <= 100),
  bytes bigint not null check (bytes >= 0),
  width integer check (width between 1 and 100000),
  height integer check (height between 1 and 100000),
  description text not null default '' check (length(description) <= 500),
  status text not null default 'checking' check (status in ('checking', 'ok', 'rejected')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (bucket_id, path),
  -- An image can only belong to a document of the same owner.
  foreign key (document_id, user_id) references public.documents (id, user_id) on delete set null (document_id)
);
comment on table public.images is
  'One stored image: made, moved and removed with its file in bucket images. Owners may describe it and hang it under a document.';
comment on column public.images.id is 'The id of the file''s row in storage.objects.';
comment on column public.images.path is 'The file''s name in its bucket; it begins with the owner''s id.';
comment on column public.images.content_type is 'What the upload declared; status says whether the bytes agree.';
comment on column public.images.width is 'Pixels, as the client says.';
comment on column public.images.height is 'Pixels, as the client says.';
comment on column public.images.status is
  'checking until the bytes were looked at; rejected when they were not what the upload declared: then the file is gone.';
create index images_user_id_created_at_id_idx on public.images (user_id, created_at desc, id desc);
create index images_document_id_user_id_idx on public.images (document_id, user_id);
alter table public.images enable row level security;
alter table public.images force row level security;
revoke all on public.images from anon, authenticated, service_role;
grant select, update (document_id, description, width, height) on public.images to authenticated;
grant select on public.images to service_role;
create trigger tg_images__timestamps before insert or update on public.images
  for each row execute function private.tg__timestamps();
