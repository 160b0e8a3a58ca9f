-- Settings of the portfolio. Written by hand: pg-delta compares schemas, not rows.
set lock_timeout = '5s';
set statement_timeout = '60s';

insert into private.settings (key, value, description) values
  ('portfolio.quote_currency', '"USD"', 'The asset in which portfolios are valued. Change it only before the first sync: what was recorded stays in the old one.'),
  ('portfolio.sync_minutes', '15', 'Minutes between two syncs of a credential, a tenth more or less.'),
  ('portfolio.lease_seconds', '120', 'How long a worker has to read an exchange, or one page of trades, before another may take over.'),
  ('portfolio.price_minutes', '15', 'How old a trade may be so that the prices of its sync value what it was paid with.'),
  ('portfolio.hourly_after_days', '90', 'After so many days only the last portfolio snapshot of each hour is kept.'),
  ('portfolio.daily_after_days', '365', 'After so many days only the last portfolio snapshot of each day (UTC) is kept.')
on conflict (key) do nothing;

update private.exchanges set price_asset = 'USDT' where id = 'binance';
