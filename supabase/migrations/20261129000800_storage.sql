-- Written by npm run db:baseline from sql/ and policies/, word for word; change those.
-- Every table here is new and empty, so nothing waits for a default, a key or a check.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- sql/80_chats.sql ====================================================================================================

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

-- sql/82_documents.sql ================================================================================================

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

-- sql/84_questionnaires.sql ===========================================================================================

-- Questionnaires: a catalogue that everybody reads, and each user's own runs through it.

create table public.questionnaires (
  id text not null check (id ~ '^[a-z][a-z0-9_]{0,59}$'),
  version integer not null check (version > 0),
  title text not null check (length(title) between 1 and 200),
  description text not null default '' check (length(description) <= 2000),
  questions jsonb not null check (jsonb_typeof(questions) = 'array' and octet_length(questions::text) <= 262144),
  enabled boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (id, version)
);
comment on table public.questionnaires is 'Questionnaires to choose from. A change of questions is a new version, so that old runs keep their meaning.';
comment on column public.questionnaires.questions is 'An array of questions, in order.';
comment on column public.questionnaires.enabled is 'Whether new runs may begin. Runs that exist can be read and finished either way.';
alter table public.questionnaires enable row level security;
alter table public.questionnaires force row level security;
revoke all on public.questionnaires from anon, authenticated, service_role;
grant select on public.questionnaires to authenticated;
grant select, insert, update, delete on public.questionnaires to service_role;
insert into public.questionnaires (id, version, title, description, questions) values
  ('mood_check', 1, 'Mood check', 'Four questions about the past two weeks.', '[
    {"id": "rested", "text": "How often did you wake up rested?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "calm", "text": "How often did you feel calm?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "active", "text": "How often did you do something you enjoy?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "company", "text": "How often did you feel close to somebody?", "scale": ["never", "sometimes", "often", "always"]}
  ]')
on conflict (id, version) do nothing;
create trigger tg_questionnaires__timestamps before insert or update on public.questionnaires
  for each row execute function private.tg__timestamps();

create table public.psychology_tests (
  id uuid primary key default private.uuid_v7(),
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  questionnaire_id text not null check (length(questionnaire_id) <= 60),
  questionnaire_version integer not null,
  answers jsonb not null default '{}' check (octet_length(answers::text) <= 262144),
  result jsonb check (octet_length(result::text) <= 262144),
  started_at timestamptz not null default now(),
  completed_at timestamptz,
  updated_at timestamptz not null default now(),
  foreign key (questionnaire_id, questionnaire_version) references public.questionnaires (id, version) on delete restrict
);
comment on table public.psychology_tests is 'A user''s run through a questionnaire. A new one counts against psychology_tests/month; deleting it gives nothing back.';
comment on column public.psychology_tests.completed_at is
  'Set it, to whatever time, to finish the run: the present is written, and answers and result stay as they are.';
create index psychology_tests_user_id_started_at_id_idx on public.psychology_tests (user_id, started_at desc, id desc);
create index psychology_tests_questionnaire_idx on public.psychology_tests (questionnaire_id, questionnaire_version);
alter table public.psychology_tests enable row level security;
alter table public.psychology_tests force row level security;
revoke all on public.psychology_tests from anon, authenticated, service_role;
grant select, delete on public.psychology_tests to authenticated;
grant insert (id, user_id, questionnaire_id, questionnaire_version, answers), update (answers, result, completed_at)
  on public.psychology_tests to authenticated;
grant select on public.psychology_tests to service_role;

create function private.tg_psychology_tests__times() returns trigger
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  new.started_at := case when tg_op = 'INSERT' then now() else old.started_at end;
  new.updated_at := now();
  new.completed_at := case when new.completed_at is not null then now() end;
  return new;
end $$;
comment on function private.tg_psychology_tests__times() is 'Keeps the times of a run true, whatever a client sends.';
create trigger tg_psychology_tests__times before insert or update on public.psychology_tests
  for each row execute function private.tg_psychology_tests__times();
create trigger tg_psychology_tests__limit_added after insert on public.psychology_tests referencing new table as added
  for each statement execute function private.tg__limit_rows('psychology_tests', 'octet_length(answers::text) + coalesce(octet_length(result::text), 0)');
create trigger tg_psychology_tests__limit_changed after update on public.psychology_tests referencing old table as removed new table as added
  for each statement execute function private.tg__limit_rows('psychology_tests', 'octet_length(answers::text) + coalesce(octet_length(result::text), 0)');
create trigger tg_psychology_tests__limit_removed after delete on public.psychology_tests referencing old table as removed
  for each statement execute function private.tg__limit_rows('psychology_tests', 'octet_length(answers::text) + coalesce(octet_length(result::text), 0)');

-- sql/85_storage.sql ==================================================================================================

-- Storage: what every file below a user's id must satisfy, whoever writes it: the owner, a signed upload URL, the Storage
-- service itself when it completes an upload. Files are in the buckets avatars and images.
-- Refusals use SQLSTATE 42501: it is the one code whose text the Storage service passes on.

-- A private bucket per purpose: 16 MB a file, images only. Users' bytes in all: plan_limits storage_bytes/total.
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values
  ('avatars', 'avatars', false, 16777216, '{image/png,image/jpeg,image/gif,image/webp}'),
  ('images', 'images', false, 16777216, '{image/png,image/jpeg,image/gif,image/webp}')
on conflict (id) do nothing;

insert into private.settings (key, value, rule, description) values
  ('storage.users_sign_addresses', 'true', '{"type": "boolean"}', 'Whether users may make signed addresses to download their files. Hosted Storage takes any time for them and tells SQL none of it; with false only a secret key signs, for as long as your own code says.'),
  ('storage.rejected_images_kept', '100', '{"type": "integer", "minimum": 0, "maximum": 100000}', 'How many rejected images of a user are kept, so that their owner can see why.')
on conflict (key) do nothing;

create function private.may_sign_addresses() returns boolean
language plpgsql stable security definer set search_path = ''
as $$
-- Definer: settings are private.
begin
  return coalesce(storage.operation() not in ('storage.object.sign', 'storage.object.sign_many'), true)
    or (private.setting('storage.users_sign_addresses'))::boolean;
end $$;
comment on function private.may_sign_addresses() is
  'False while the Storage service signs an address to download for a user and the setting storage.users_sign_addresses forbids that; everything else it does is none of this function''s business.';
grant execute on function private.may_sign_addresses() to authenticated;

create table private.uploads_to_check (
  object_id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  bucket_id text not null check (length(bucket_id) <= 100),
  name text not null check (length(name) <= 1024),
  version text check (length(version) <= 100),
  content_type text not null check (length(content_type) <= 100),
  rejected boolean not null default false,
  attempts integer not null default 0,
  due_at timestamptz not null default now(),
  created_at timestamptz not null default now()
);
comment on table private.uploads_to_check is
  'Uploads whose bytes nobody has looked at yet. Postgres cannot see them, so an endpoint does (functions/_shared/storage/check-uploads.ts).';
comment on column private.uploads_to_check.version is 'The upload that is meant: a later one to the same place is another version.';
comment on column private.uploads_to_check.rejected is 'The bytes are not what was declared; the file is still to be removed.';
create index uploads_to_check_due_at_idx on private.uploads_to_check (due_at);
create index uploads_to_check_user_id_idx on private.uploads_to_check (user_id);
revoke all on private.uploads_to_check from anon, authenticated, service_role;

create function private.file_owner(name text) returns uuid
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_folder text := split_part(file_owner.name, '/', 1);
begin
  -- Lower case only: policies and sums compare the id as text.
  if v_folder !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then
    return null;
  end if;
  return (select p.id from public.profiles p where p.id = v_folder::uuid);
end $$;
comment on function private.file_owner(text) is 'The account below whose id a file lies; null when its first folder is no account''s id.';

create function private.refuse_file(message text) returns void
language plpgsql stable security invoker set search_path = ''
as $$
begin
  raise exception using errcode = '42501', message = refuse_file.message;
end $$;
comment on function private.refuse_file(text) is 'Refuses a write to Storage with a text that reaches the caller.';

create function private.check_file_name(name text, content_type text) returns void
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_extension text := substring(lower(check_file_name.name) from '\.([^./]+)$');
  v_type text;
begin
  if check_file_name.name ~ '(^|/)\.{0,2}(/|$)' or check_file_name.name ~ '[[:cntrl:]\\%]'
    or length(check_file_name.name) > 1024 then
    perform private.refuse_file('The path has an empty part, . or .., or a character that no path may have.');
  end if;
  v_type := case
    when v_extension in ('jpg', 'jpeg') then 'image/jpeg'
    when v_extension in ('png', 'gif', 'webp') then 'image/' || v_extension
  end;
  if v_type is null then
    perform private.refuse_file('The file name must end in .png, .jpg, .jpeg, .gif or .webp.');
  end if;
  if check_file_name.content_type <> v_type then
    perform private.refuse_file(
      format('A file named .%s must be sent as %s.', v_extension, v_type));
  end if;
end $$;
comment on function private.check_file_name(text, text) is
  'Refuses a path that could be read in two ways, and a name that says another type than the upload (null: not known yet).';

create function private.check_stored_bytes(user_id uuid, metadata jsonb, bytes_before bigint) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_bytes bigint := check_stored_bytes.metadata ->> 'size';
  -- The service tries its rights before it takes an upload: then the length of the request is known, or nothing. A form around
  -- the file has bytes of its own, so what fits but for 64 KiB is taken; when it is stored, its size counts to the byte.
  v_announced bigint := case
    when v_bytes is null then greatest((check_stored_bytes.metadata ->> 'contentLength')::bigint - 65536, 1)
    else 0
  end;
  v_limits bigint[];
  v_used bigint;
  v_files bigint;
begin
  if coalesce(v_bytes, 0) + v_announced <= check_stored_bytes.bytes_before then
    return;
  end if;
  -- Parallel uploads queue here; each sees in the next statement what the one before it has committed.
  perform private.lock_account(check_stored_bytes.user_id);
  -- No row is none of it, and null no limit.
  select array[coalesce(max(coalesce(l.amount, 9223372036854775807)) filter (where l.meter = 'storage_bytes'), 0),
    coalesce(max(coalesce(l.amount, 9223372036854775807)) filter (where l.meter = 'storage_files'), 0)]
  into v_limits from private.limits_of(check_stored_bytes.user_id) l
  where l.meter in ('storage_bytes', 'storage_files') and l.period = 'total';
  -- The row itself is written already, so the sum has it.
  select coalesce(sum((o.metadata ->> 'size')::bigint), 0) + v_announced, count(*) into v_used, v_files from storage.objects o
  where o.name ~>=~ (check_stored_bytes.user_id || '/') and o.name ~<~ (check_stored_bytes.user_id || '0');
  if v_used > v_limits[1] then
    perform private.refuse_file(
      format('The storage limit of %s bytes is reached: this file would make it %s.', v_limits[1], v_used));
  elsif v_files > v_limits[2] and bytes_before = 0 then
    perform private.refuse_file(format('The limit of %s files is reached.', v_limits[2]));
  end if;
end $$;
comment on function private.check_stored_bytes(uuid, jsonb, bigint) is
  'Refuses a file that grew from bytes_before when the account''s files are now above storage_bytes/total, or, when it is new, more than storage_files/total. A move, or a smaller file in the place of a larger one, always passes.';

create function private.tg_objects__check() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs inside the Storage service's transactions, as whichever role.
declare
  v_user_id uuid := private.file_owner(new.name);
  v_type text := new.metadata ->> 'mimetype';
  v_bytes bigint := new.metadata ->> 'size';
  v_before bigint := 0;
begin
  -- A download notes its time; that changes nothing that matters here.
  if tg_op = 'UPDATE' and (old.bucket_id, old.name, old.version, old.metadata)
    is not distinct from (new.bucket_id, new.name, new.version, new.metadata) then
    return null;
  end if;
  if new.bucket_id in ('avatars', 'images') then
    if v_user_id is null then
      perform private.refuse_file('The path must begin with the id of an account.');
    end if;
    -- Before the upload the service may give its own request's type, as application/json for a signed URL.
    perform private.check_file_name(new.name, case when v_bytes is not null or v_type like 'image/%' then v_type end);
    if v_bytes = 0 then
      perform private.refuse_file('The file is empty.');
    end if;
  end if;
  if v_user_id is null then
    return null;
  end if;
  if exists (select from private.account_states a where a.id = v_user_id and a.state in ('suspended', 'deleted')) then
    perform private.refuse_file('This account is suspended or deleted.');
  end if;
  if tg_op = 'UPDATE' and private.file_owner(old.name) = v_user_id then
    v_before := coalesce((old.metadata ->> 'size')::bigint, 0);
  end if;
  perform private.check_stored_bytes(v_user_id, new.metadata, v_before);
  if v_bytes is not null and new.bucket_id in ('avatars', 'images') then
    perform private.count_upload(v_user_id);
    perform private.note_upload(new, v_user_id);
  end if;
  return null;
end $$;
comment on function private.tg_objects__check() is
  'Holds every write of a user''s file to the rules: path, type, account, bytes.';

create function private.count_upload(user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  perform private.count_rows(count_upload.user_id, 'uploads', 1, 0);
exception when sqlstate 'PGRST' then
  -- The service passes the words of its own code on, and no others.
  perform private.refuse_file(sqlerrm::jsonb ->> 'message');
end $$;
comment on function private.count_upload(uuid) is 'Counts a complete upload against uploads/minute, also one in the place of another, or refuses it.';

create function private.note_upload(file storage.objects, user_id uuid) returns void
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_type text := coalesce(file.metadata ->> 'mimetype', 'application/octet-stream');
begin
  insert into private.uploads_to_check as u (object_id, user_id, bucket_id, name, version, content_type)
  values (file.id, note_upload.user_id, file.bucket_id, file.name, file.version, v_type)
  on conflict on constraint uploads_to_check_pkey do update set
    user_id = excluded.user_id, bucket_id = excluded.bucket_id, name = excluded.name, version = excluded.version,
    content_type = excluded.content_type, rejected = false, attempts = 0, due_at = now();
  -- What was rejected at this place, or has left bucket images, makes room.
  delete from public.images i
  where (i.bucket_id = file.bucket_id and i.path = file.name and i.id <> file.id) or (i.id = file.id and file.bucket_id <> 'images');
  if file.bucket_id = 'images' then
    insert into public.images as i (id, user_id, bucket_id, path, content_type, bytes)
    values (file.id, note_upload.user_id, file.bucket_id, file.name, v_type, (file.metadata ->> 'size')::bigint)
    on conflict on constraint images_pkey do update set
      user_id = excluded.user_id, bucket_id = excluded.bucket_id, path = excluded.path, content_type = excluded.content_type,
      bytes = excluded.bytes, status = 'checking',
      document_id = case when i.user_id = excluded.user_id then i.document_id end;
  end if;
end $$;
comment on function private.note_upload(storage.objects, uuid) is
  'Queues a complete upload for the look at its bytes and keeps public.images in step.';

create function private.tg_objects__forget() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
-- Definer: it runs inside the Storage service's transactions.
begin
  delete from private.uploads_to_check u where u.object_id = old.id and not u.rejected;
  delete from public.images i where i.id = old.id and i.status <> 'rejected';
  return null;
end $$;
comment on function private.tg_objects__forget() is
  'Removes what we noted about a file that is gone; a rejected image stays, so that its owner can see why.';

create trigger tg_objects__check after insert or update on storage.objects
  for each row execute function private.tg_objects__check();
create trigger tg_objects__forget after delete on storage.objects
  for each row execute function private.tg_objects__forget();

create function private.claim_uploads_to_check(max integer)
returns table (object_id uuid, bucket_id text, name text, version text, content_type text, rejected boolean)
language sql volatile security invoker set search_path = ''
as $$
  with turns as (
    -- Everybody's first, then everybody's second: who has many waits for them, and nobody else does.
    select t.object_id, row_number() over (partition by t.user_id order by t.due_at, t.object_id) as turn
    from private.uploads_to_check t where t.due_at <= now()
  ), due as (
    select u.object_id from private.uploads_to_check u join turns t on t.object_id = u.object_id
    where u.due_at <= now()
    order by t.turn, u.due_at limit claim_uploads_to_check.max for update of u skip locked
  )
  update private.uploads_to_check u set
    attempts = u.attempts + 1,
    due_at = now() + least(interval '2 minutes' * 2 ^ least(u.attempts, 10), interval '6 hours')
  from due where u.object_id = due.object_id
  returning u.object_id, u.bucket_id, u.name, u.version, u.content_type, u.rejected
$$;
comment on function private.claim_uploads_to_check(integer) is
  'Uploads whose bytes are to be looked at, users in turn, each handed out once; who does not finish it leaves it to another after 2 minutes, then 4, up to 6 hours.';

create function private.finish_upload_check(object_id uuid, version text, verdict text, found_type text default null)
returns boolean
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_upload private.uploads_to_check;
begin
  select u.* into v_upload from private.uploads_to_check u
  where u.object_id = finish_upload_check.object_id and u.version is not distinct from finish_upload_check.version
  for update;
  if not found then
    return false;
  end if;
  case finish_upload_check.verdict
    when 'ok' then
      update public.images i set status = 'ok' where i.id = v_upload.object_id;
      delete from private.uploads_to_check u where u.object_id = v_upload.object_id;
    when 'rejected' then
      update private.uploads_to_check u set rejected = true where u.object_id = v_upload.object_id;
      update public.images i set status = 'rejected' where i.id = v_upload.object_id;
      -- Their files are gone and count no more; the newest tell enough.
      delete from public.images i where i.id in (
        select r.id from public.images r where r.user_id = v_upload.user_id and r.status = 'rejected'
        order by r.updated_at desc, r.id desc offset (private.setting('storage.rejected_images_kept'))::integer);
      perform private.raise_security_event(
        type => 'upload_type_mismatch', severity => 'medium', user_id => v_upload.user_id,
        details => jsonb_build_object('bucket_id', v_upload.bucket_id, 'name', v_upload.name,
          'declared', v_upload.content_type, 'found', finish_upload_check.found_type),
        dedupe_key => v_upload.object_id::text);
      perform private.notify_user(
        user_id => v_upload.user_id, type => 'upload_rejected', title => 'A file was removed',
        body => 'Its content was not of the type it was uploaded as.',
        data => jsonb_build_object('bucket_id', v_upload.bucket_id, 'name', v_upload.name));
    when 'removed' then
      delete from private.uploads_to_check u where u.object_id = v_upload.object_id;
  end case;
  return true;
end $$;
comment on function private.finish_upload_check(uuid, text, text, text) is
  'Notes what the bytes of an upload turned out to be: ok; rejected (an event, a notification, and the file is to be removed); removed. False when the file has changed or is gone: then nothing is noted.';

create function private.call_check_uploads() returns bigint
language sql volatile security invoker set search_path = ''
as $$
  select private.call_jobs_function('check-uploads')
  where exists (select from private.uploads_to_check u where u.due_at <= now())
$$;
comment on function private.call_check_uploads() is 'Calls the check of uploads when one is due.';

-- policies/80_chats.sql ===============================================================================================

create policy "owners see their chats"
  on public.chats for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners start chats"
  on public.chats for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners rename their chats"
  on public.chats for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their chats"
  on public.chats for delete to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their messages"
  on public.messages for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners save messages"
  on public.messages for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their messages"
  on public.messages for delete to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/82_documents.sql ===========================================================================================

create policy "owners see their documents"
  on public.documents for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners write their documents"
  on public.documents for insert to authenticated
  with check (user_id = (select private.my_user_id()));

create policy "owners change their documents"
  on public.documents for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their documents"
  on public.documents for delete to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners see their images"
  on public.images for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners describe their images"
  on public.images for update to authenticated
  using (user_id = (select private.my_user_id()))
  with check (user_id = (select private.my_user_id()));

-- policies/84_questionnaires.sql ======================================================================================

create policy "signed-in users see the questionnaires"
  on public.questionnaires for select to authenticated
  using (true);

create policy "only live, active and fully signed-in callers"
  on public.questionnaires as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);

create policy "owners see their tests"
  on public.psychology_tests for select to authenticated
  using (user_id = (select private.my_user_id()));

create policy "owners start tests of enabled questionnaires"
  on public.psychology_tests for insert to authenticated
  with check (user_id = (select private.my_user_id()) and exists (
    select from public.questionnaires q
    where q.id = questionnaire_id and q.version = questionnaire_version and q.enabled));

create policy "owners answer their tests until they are completed"
  on public.psychology_tests for update to authenticated
  using (user_id = (select private.my_user_id()) and completed_at is null)
  with check (user_id = (select private.my_user_id()));

create policy "owners delete their tests"
  on public.psychology_tests for delete to authenticated
  using (user_id = (select private.my_user_id()));

-- policies/85_storage.sql =============================================================================================

-- A file is its owner's when its name begins with the owner's id; the range is what the Storage service's index on names answers.

create policy "owners see their files"
  on storage.objects for select to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners upload their files"
  on storage.objects for insert to authenticated
  with check (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners replace and move their files"
  on storage.objects for update to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'))
  with check (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "owners delete their files"
  on storage.objects for delete to authenticated
  using (bucket_id in ('avatars', 'images')
    and name ~>=~ ((select auth.uid()) || '/') and name ~<~ ((select auth.uid()) || '0'));

create policy "only live, active and fully signed-in callers"
  on storage.objects as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);

create policy "callers sign addresses where the setting lets them"
  on storage.objects as restrictive for select to authenticated
  using ((select private.may_sign_addresses()));

-- policies/88_realtime.sql ============================================================================================

-- Live updates. Realtime asks these policies when somebody joins a private channel, with a probe row that it rolls back.
-- The topic `user:<id>` is that user's alone, and only the server writes there (realtime.send, from functions that bypass
-- these policies): no policy lets an API role insert. The row's own topic is compared, not realtime.topic(), which any SQL
-- session can set. Hosted Realtime asks again only when a channel's token changes: an ended session hears on until its token expires,
-- and is told session_ended.

create policy "owners receive what is sent to their own topic"
  on realtime.messages for select to authenticated
  using (extension = 'broadcast' and topic = 'user:' || (select auth.uid()));

create policy "only live, active and fully signed-in callers"
  on realtime.messages as restrictive for all to authenticated
  using ((select private.my_user_id()) is not null);
