-- Settings of registration, first versions of the legal documents, and accounts for users who are already there.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('launch.phase', '"open"', 'Who may sign up: "open" everybody, "capped" the first launch.user_cap accounts, "invite" with a code, "closed" nobody.'),
  ('launch.user_cap', '100', 'How many accounts there may be while launch.phase is "capped".'),
  ('registration.minimum_age', '13', 'Age in years below which registration.under_age applies.'),
  ('registration.under_age', '"refuse"', 'What happens to a sign-up below the minimum age: "refuse", or "park" until a guardian''s consent is recorded.'),
  ('registration.require_terms', 'true', 'Whether a sign-up must accept the current terms and privacy policy.'),
  ('registration.require_birth_date', 'true', 'Whether a sign-up must give a birth date.'),
  ('registration.reservation_seconds', '60', 'How long an admitted sign-up holds its place while the Auth service makes the user.'),
  ('credits.on_anonymous_sign_up', '0', 'Credits that an anonymous user starts with.')
on conflict (key) do nothing;

-- Stand-ins: publish your own versions before you let people in (docs/operations.md).
insert into public.legal_documents (kind, version, url, published_at) values
  ('terms', '1', 'https://example.com/terms', '2026-01-01T00:00:00Z'),
  ('privacy', '1', 'https://example.com/privacy', '2026-01-01T00:00:00Z')
on conflict (kind, version) do nothing;

select private.create_account(u.id) from auth.users u
where not exists (select from public.profiles p where p.id = u.id)
  or not exists (select from private.credit_accounts a where a.user_id = u.id);
