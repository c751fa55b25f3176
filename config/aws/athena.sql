-- The harvest in Athena: tables over the landed JSON, Parquet of it in Trusted, the latest record of each id.
--
-- Put your bucket in place of `my-data-lake`, and your prefix in place of `Raw/API` if you have another:
--   sed -i 's/my-data-lake/your-bucket/g' athena.sql
-- Athena runs one statement at a time: select each, from the first on, and press Run. Column names are TMDB's own.
--
-- The harvest must use the defaults `OUTPUT_FORMAT=jsonl` and `S3_KEY_TEMPLATE`. Athena cannot read a JSON array.

CREATE DATABASE IF NOT EXISTS tmdb;

-- 1. RAW, as it landed ------------------------------------------------------------------------------------------------
--
-- The SerDe is Hive's: no record may be lost at the last step. AWS's guide warns that OpenX's can return more or fewer
-- rows than there are and turn values into NULL, and recommends Hive's
-- (docs.aws.amazon.com/athena/latest/ug/openx-json-serde.html). Hive's ignores keys without a column, which TMDB adds
-- unannounced (as it did `softcore`), reads both a missing key and null as NULL, within structs too, and ignores case.
-- A line that is not JSON fails the query, and `harvester verify` says which file it is in; OpenX's
-- `ignore.malformed.json` would skip the line.
--
-- The types, and the reason for each:
--   A date is a string: it may be "", on which a `date` column fails. try(CAST(release_date AS date)) gives NULL then.
--   A number that can have a fraction is a double, even if TMDB writes a vote as 7: a `bigint` column would silently
--   turn 7.9 into 7 (Trino's JsonDeserializer). Every other number is a bigint: `int` ends at 2,147,483,647, and a
--   revenue can be larger.
--   A struct may be NULL (`belongs_to_collection`, `next_episode_to_air`): its fields are then NULL, without an error.
--   A list may be empty: CROSS JOIN UNNEST(genres) drops such a title, LEFT JOIN UNNEST(genres) ON true keeps it.
-- `harvest.fetched_at` is UTC and sorts as text; from_iso8601_timestamp(harvest.fetched_at) converts it.
--
-- Days are projected, not registered: landed files are visible at once, without a crawler or MSCK REPAIR. Start the
-- range of years with your first harvest. Always give year, month and day: each year without them is 372 listings.
-- Other readers of the Glue catalog, such as Spark, do not know projection and see empty tables.

CREATE EXTERNAL TABLE tmdb.movies (
  imdb_id string,
  harvest struct<kind:string,tmdb_id:bigint,fetched_at:string,language:string,missing_parts:array<string>,
                  tmdb_imdb_id:string>,
  adult boolean,
  backdrop_path string,
  belongs_to_collection struct<id:bigint,name:string,poster_path:string,backdrop_path:string>,
  budget bigint,
  genres array<struct<id:bigint,name:string>>,
  homepage string,
  id bigint,
  origin_country array<string>,
  original_language string,
  original_title string,
  overview string,
  popularity double,
  poster_path string,
  production_companies array<struct<id:bigint,logo_path:string,name:string,origin_country:string>>,
  production_countries array<struct<iso_3166_1:string,name:string>>,
  release_date string,
  revenue bigint,
  runtime bigint,
  softcore boolean,
  spoken_languages array<struct<english_name:string,iso_639_1:string,name:string>>,
  status string,
  tagline string,
  title string,
  video boolean,
  vote_average double,
  vote_count bigint
)
PARTITIONED BY (year string, month string, day string)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://my-data-lake/Raw/API/Movies/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.year.type' = 'integer', 'projection.year.range' = '2026,2035', 'projection.year.digits' = '4',
  'projection.month.type' = 'integer', 'projection.month.range' = '1,12', 'projection.month.digits' = '2',
  'projection.day.type' = 'integer', 'projection.day.range' = '1,31', 'projection.day.digits' = '2',
  'storage.location.template' = 's3://my-data-lake/Raw/API/Movies/${year}/${month}/${day}/'
);

CREATE EXTERNAL TABLE tmdb.series (
  imdb_id string,
  harvest struct<kind:string,tmdb_id:bigint,fetched_at:string,language:string,missing_parts:array<string>,
                  tmdb_imdb_id:string>,
  adult boolean,
  backdrop_path string,
  created_by array<struct<id:bigint,credit_id:string,name:string,original_name:string,gender:bigint,
                           profile_path:string>>,
  episode_run_time array<bigint>,
  first_air_date string,
  genres array<struct<id:bigint,name:string>>,
  homepage string,
  id bigint,
  in_production boolean,
  languages array<string>,
  last_air_date string,
  last_episode_to_air struct<id:bigint,name:string,overview:string,vote_average:double,vote_count:bigint,
                              air_date:string,episode_number:bigint,episode_type:string,production_code:string,
                              runtime:bigint,season_number:bigint,show_id:bigint,still_path:string>,
  name string,
  networks array<struct<id:bigint,logo_path:string,name:string,origin_country:string>>,
  next_episode_to_air struct<id:bigint,name:string,overview:string,vote_average:double,vote_count:bigint,
                              air_date:string,episode_number:bigint,episode_type:string,production_code:string,
                              runtime:bigint,season_number:bigint,show_id:bigint,still_path:string>,
  number_of_episodes bigint,
  number_of_seasons bigint,
  origin_country array<string>,
  original_language string,
  original_name string,
  overview string,
  popularity double,
  poster_path string,
  production_companies array<struct<id:bigint,logo_path:string,name:string,origin_country:string>>,
  production_countries array<struct<iso_3166_1:string,name:string>>,
  seasons array<struct<air_date:string,episode_count:bigint,id:bigint,name:string,overview:string,
                        poster_path:string,season_number:bigint,vote_average:double>>,
  softcore boolean,
  spoken_languages array<struct<english_name:string,iso_639_1:string,name:string>>,
  status string,
  tagline string,
  type string,
  vote_average double,
  vote_count bigint
)
PARTITIONED BY (year string, month string, day string)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://my-data-lake/Raw/API/Series/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.year.type' = 'integer', 'projection.year.range' = '2026,2035', 'projection.year.digits' = '4',
  'projection.month.type' = 'integer', 'projection.month.range' = '1,12', 'projection.month.digits' = '2',
  'projection.day.type' = 'integer', 'projection.day.range' = '1,31', 'projection.day.digits' = '2',
  'storage.location.template' = 's3://my-data-lake/Raw/API/Series/${year}/${month}/${day}/'
);

-- A first query: are all titles there that the harvest reported as found?
SELECT count(*) AS records, count(DISTINCT imdb_id) AS titles, min(harvest.fetched_at) AS begun,
  max(harvest.fetched_at) AS ended
FROM tmdb.movies
WHERE year = '2026' AND month = '11' AND day = '22';

-- 2. Trusted, as Parquet ----------------------------------------------------------------------------------------------
--
-- Query RAW for a quick look and Trusted for real work. Files of 100 records cost Athena 88 times what the same records
-- cost in a few large files (published figure): every file needs its own request and start-up before its first byte.
-- With Parquet a query also pays only for the columns it names.
--
-- Use CREATE TABLE the first time, and INSERT for every later day. Each can write at most 100 partitions, that is days
-- (docs.aws.amazon.com/athena/latest/ug/ctas-insert-into.html): do a quarter at a time. CREATE TABLE needs an empty
-- folder. `trusted.py` and `duckdb.sql` write the same folders: use one of the three. Leave out the statements for a
-- collection that you do not harvest.

CREATE TABLE tmdb.trusted_movies
WITH (
  format = 'PARQUET',
  write_compression = 'SNAPPY',
  external_location = 's3://my-data-lake/Trusted/API/Movies/',
  partitioned_by = ARRAY['collected']
) AS
SELECT
  imdb_id, harvest, adult, backdrop_path, belongs_to_collection, budget, genres, homepage, id, origin_country,
  original_language, original_title, overview, popularity, poster_path, production_companies, production_countries,
  release_date, revenue, runtime, softcore, spoken_languages, status, tagline, title, video, vote_average,
  vote_count,
  CAST(year || '-' || month || '-' || day AS date) AS collected
FROM tmdb.movies
WHERE year = '2026' AND month = '11';

CREATE TABLE tmdb.trusted_series
WITH (
  format = 'PARQUET',
  write_compression = 'SNAPPY',
  external_location = 's3://my-data-lake/Trusted/API/Series/',
  partitioned_by = ARRAY['collected']
) AS
SELECT
  imdb_id, harvest, adult, backdrop_path, created_by, episode_run_time, first_air_date, genres, homepage, id,
  in_production, languages, last_air_date, last_episode_to_air, name, networks, next_episode_to_air,
  number_of_episodes, number_of_seasons, origin_country, original_language, original_name, overview, popularity,
  poster_path, production_companies, production_countries, seasons, softcore, spoken_languages, status, tagline,
  type, vote_average, vote_count,
  CAST(year || '-' || month || '-' || day AS date) AS collected
FROM tmdb.series
WHERE year = '2026' AND month = '11';

-- For each new day. Running it twice is harmless: a day that is there is not added again. To replace a day that was
-- harvested again, first run `aws s3 rm --recursive s3://my-data-lake/Trusted/API/Movies/collected=2026-12-01/`.
INSERT INTO tmdb.trusted_movies
SELECT
  imdb_id, harvest, adult, backdrop_path, belongs_to_collection, budget, genres, homepage, id, origin_country,
  original_language, original_title, overview, popularity, poster_path, production_companies, production_countries,
  release_date, revenue, runtime, softcore, spoken_languages, status, tagline, title, video, vote_average,
  vote_count,
  CAST(year || '-' || month || '-' || day AS date) AS collected
FROM tmdb.movies
WHERE year = '2026' AND month = '12' AND day = '01'
  AND NOT EXISTS (SELECT 1 FROM tmdb.trusted_movies WHERE collected = DATE '2026-12-01');

INSERT INTO tmdb.trusted_series
SELECT
  imdb_id, harvest, adult, backdrop_path, created_by, episode_run_time, first_air_date, genres, homepage, id,
  in_production, languages, last_air_date, last_episode_to_air, name, networks, next_episode_to_air,
  number_of_episodes, number_of_seasons, origin_country, original_language, original_name, overview, popularity,
  poster_path, production_companies, production_countries, seasons, softcore, spoken_languages, status, tagline,
  type, vote_average, vote_count,
  CAST(year || '-' || month || '-' || day AS date) AS collected
FROM tmdb.series
WHERE year = '2026' AND month = '12' AND day = '01'
  AND NOT EXISTS (SELECT 1 FROM tmdb.trusted_series WHERE collected = DATE '2026-12-01');

-- 3. The latest record of each id -------------------------------------------------------------------------------------
--
-- Every day is a separate collection, so an id that was harvested on ten days has ten records. Ids that are no longer
-- in the CSVs stay; `collected` is the day of their last record.

CREATE OR REPLACE VIEW tmdb.latest_movies AS
SELECT
  imdb_id, harvest, adult, backdrop_path, belongs_to_collection, budget, genres, homepage, id, origin_country,
  original_language, original_title, overview, popularity, poster_path, production_companies, production_countries,
  release_date, revenue, runtime, softcore, spoken_languages, status, tagline, title, video, vote_average,
  vote_count,
  collected
FROM (
  SELECT *, row_number() OVER (PARTITION BY imdb_id ORDER BY harvest.fetched_at DESC) AS place
  FROM tmdb.trusted_movies
)
WHERE place = 1;

CREATE OR REPLACE VIEW tmdb.latest_series AS
SELECT
  imdb_id, harvest, adult, backdrop_path, created_by, episode_run_time, first_air_date, genres, homepage, id,
  in_production, languages, last_air_date, last_episode_to_air, name, networks, next_episode_to_air,
  number_of_episodes, number_of_seasons, origin_country, original_language, original_name, overview, popularity,
  poster_path, production_companies, production_countries, seasons, softcore, spoken_languages, status, tagline,
  type, vote_average, vote_count,
  collected
FROM (
  SELECT *, row_number() OVER (PARTITION BY imdb_id ORDER BY harvest.fetched_at DESC) AS place
  FROM tmdb.trusted_series
)
WHERE place = 1;

-- 4. Appended parts ---------------------------------------------------------------------------------------------------
--
-- With TMDB_APPEND=credits,keywords: run these before section 2, and add the two names to its lists of columns, just
-- before `collected`. Existing tables of Trusted need the same ALTER; older records have NULL.
-- `order` is a keyword of SQL, so quote it: credits.cast[1]."order".
--
-- ALTER TABLE tmdb.movies ADD COLUMNS (
--   credits struct<
--     cast:array<struct<adult:boolean,gender:bigint,id:bigint,known_for_department:string,name:string,
--       original_name:string,popularity:double,profile_path:string,cast_id:bigint,credit_id:string,
--       `character`:string,`order`:bigint>>,
--     crew:array<struct<adult:boolean,gender:bigint,id:bigint,known_for_department:string,name:string,
--       original_name:string,popularity:double,profile_path:string,credit_id:string,department:string,job:string>>>,
--   keywords struct<keywords:array<struct<id:bigint,name:string>>>
-- );
--
-- ALTER TABLE tmdb.series ADD COLUMNS (
--   credits struct<
--     cast:array<struct<adult:boolean,gender:bigint,id:bigint,known_for_department:string,name:string,
--       original_name:string,popularity:double,profile_path:string,credit_id:string,
--       `character`:string,`order`:bigint>>,
--     crew:array<struct<adult:boolean,gender:bigint,id:bigint,known_for_department:string,name:string,
--       original_name:string,popularity:double,profile_path:string,credit_id:string,department:string,job:string>>>,
--   keywords struct<results:array<struct<id:bigint,name:string>>>
-- );
--
-- TMDB's key `watch/providers` has a slash, which a column name cannot have, and Hive's SerDe cannot map a column to a
-- key of another name. OpenX's can: so this part has a table of its own, to be joined by imdb_id. Its keys are
-- case-sensitive, so that BR does not become br.
--
-- CREATE EXTERNAL TABLE tmdb.movies_watch_providers (
--   imdb_id string,
--   watch_providers struct<results:map<string,struct<
--     link:string,
--     flatrate:array<struct<logo_path:string,provider_id:bigint,provider_name:string,display_priority:bigint>>,
--     rent:array<struct<logo_path:string,provider_id:bigint,provider_name:string,display_priority:bigint>>,
--     buy:array<struct<logo_path:string,provider_id:bigint,provider_name:string,display_priority:bigint>>>>>
-- )
-- PARTITIONED BY (year string, month string, day string)
-- ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
-- WITH SERDEPROPERTIES ('mapping.watch_providers' = 'watch/providers', 'case.insensitive' = 'false')
-- LOCATION 's3://my-data-lake/Raw/API/Movies/'
-- TBLPROPERTIES (
--   'projection.enabled' = 'true',
--   'projection.year.type' = 'integer', 'projection.year.range' = '2026,2035', 'projection.year.digits' = '4',
--   'projection.month.type' = 'integer', 'projection.month.range' = '1,12', 'projection.month.digits' = '2',
--   'projection.day.type' = 'integer', 'projection.day.range' = '1,31', 'projection.day.digits' = '2',
--   'storage.location.template' = 's3://my-data-lake/Raw/API/Movies/${year}/${month}/${day}/'
-- );
