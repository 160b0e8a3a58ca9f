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
