set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('credentials.scheme', '"aead-det"', 'How new data keys seal credentials: aead-det (pgsodium) or A256CBC-HS512 (pgcrypto, the key in Vault). A rotation moves everything to it.'),
  ('credentials.max_per_user', '20', 'How many credentials of exchanges and AI providers a user can have.'),
  ('credentials.changes_per_hour', '20', 'How often a user can add a credential or change a key within an hour.'),
  ('credentials.test_pause_seconds', '10', 'How long a credential rests between two tests of it.')
on conflict (key) do nothing;

insert into private.exchanges (id, name) values ('binance', 'Binance'), ('coinbase', 'Coinbase'), ('kraken', 'Kraken')
on conflict (id) do nothing;
