-- Rows for documents, images and questionnaires. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

-- A private bucket per purpose: 16 MB a file, images only. Users' bytes in all: plan_limits storage_bytes/total.
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values
  ('avatars', 'avatars', false, 16777216, '{image/png,image/jpeg,image/gif,image/webp}'),
  ('images', 'images', false, 16777216, '{image/png,image/jpeg,image/gif,image/webp}')
on conflict (id) do nothing;

insert into public.questionnaires (id, version, title, description, questions) values
  ('mood_check', 1, 'Mood check', 'Four questions about the past two weeks.', '[
    {"id": "rested", "text": "How often did you wake up rested?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "calm", "text": "How often did you feel calm?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "active", "text": "How often did you do something you enjoy?", "scale": ["never", "sometimes", "often", "always"]},
    {"id": "company", "text": "How often did you feel close to somebody?", "scale": ["never", "sometimes", "often", "always"]}
  ]')
on conflict (id, version) do nothing;
