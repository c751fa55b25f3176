-- The harvest in DuckDB: the landed JSON, the latest record of each id, and Parquet of both.
--
-- Put your bucket in place of `my-data-lake`, and your prefix in place of `Raw/API` if you have another.
-- Run it statement by statement, in the DuckDB shell or in Python. A collection that you do not harvest has no files,
-- and DuckDB says so.
-- For a harvest with OUTPUT_FORMAT=array, format is 'array'.
--
-- The columns are those of athena.sql, which gives the reasons for their types. They are listed because types guessed
-- from the first records would be wrong later: a vote of 7 before one of 7.9, a `next_episode_to_air` that is null a
-- thousand times. A key without a column is ignored; text in a column of numbers is an error.
-- With TMDB_APPEND=keywords: keywords: 'STRUCT(keywords STRUCT(id BIGINT, name VARCHAR)[])', of series with `results`
-- in place of the second `keywords`. A part whose types you do not need: credits: 'JSON', "watch/providers": 'JSON'.

-- Your credentials for S3: from your AWS profile, role or environment.
CREATE OR REPLACE SECRET lake (TYPE s3, PROVIDER credential_chain);

CREATE OR REPLACE MACRO movies(days) AS TABLE
  SELECT
    * EXCLUDE (filename),
    strptime(regexp_extract(filename, '(\d+/\d+/\d+)/[^/]+$', 1), '%Y/%m/%d')::DATE AS collected
  FROM read_json(
    's3://my-data-lake/Raw/API/Movies/' || days || '/*.json',
    format = 'newline_delimited',
    filename = true,
    columns = {
      imdb_id: 'VARCHAR',
      harvest: 'STRUCT(kind VARCHAR, tmdb_id BIGINT, fetched_at VARCHAR, language VARCHAR, missing_parts VARCHAR[],
                tmdb_imdb_id VARCHAR)',
      adult: 'BOOLEAN',
      backdrop_path: 'VARCHAR',
      belongs_to_collection: 'STRUCT(id BIGINT, name VARCHAR, poster_path VARCHAR, backdrop_path VARCHAR)',
      budget: 'BIGINT',
      genres: 'STRUCT(id BIGINT, name VARCHAR)[]',
      homepage: 'VARCHAR',
      id: 'BIGINT',
      origin_country: 'VARCHAR[]',
      original_language: 'VARCHAR',
      original_title: 'VARCHAR',
      overview: 'VARCHAR',
      popularity: 'DOUBLE',
      poster_path: 'VARCHAR',
      production_companies: 'STRUCT(id BIGINT, logo_path VARCHAR, name VARCHAR, origin_country VARCHAR)[]',
      production_countries: 'STRUCT(iso_3166_1 VARCHAR, name VARCHAR)[]',
      release_date: 'VARCHAR',
      revenue: 'BIGINT',
      runtime: 'BIGINT',
      softcore: 'BOOLEAN',
      spoken_languages: 'STRUCT(english_name VARCHAR, iso_639_1 VARCHAR, name VARCHAR)[]',
      status: 'VARCHAR',
      tagline: 'VARCHAR',
      title: 'VARCHAR',
      video: 'BOOLEAN',
      vote_average: 'DOUBLE',
      vote_count: 'BIGINT'
    }
  );

CREATE OR REPLACE MACRO series(days) AS TABLE
  SELECT
    * EXCLUDE (filename),
    strptime(regexp_extract(filename, '(\d+/\d+/\d+)/[^/]+$', 1), '%Y/%m/%d')::DATE AS collected
  FROM read_json(
    's3://my-data-lake/Raw/API/Series/' || days || '/*.json',
    format = 'newline_delimited',
    filename = true,
    columns = {
      imdb_id: 'VARCHAR',
      harvest: 'STRUCT(kind VARCHAR, tmdb_id BIGINT, fetched_at VARCHAR, language VARCHAR, missing_parts VARCHAR[],
                tmdb_imdb_id VARCHAR)',
      adult: 'BOOLEAN',
      backdrop_path: 'VARCHAR',
      created_by: 'STRUCT(id BIGINT, credit_id VARCHAR, name VARCHAR, original_name VARCHAR, gender BIGINT,
                   profile_path VARCHAR)[]',
      episode_run_time: 'BIGINT[]',
      first_air_date: 'VARCHAR',
      genres: 'STRUCT(id BIGINT, name VARCHAR)[]',
      homepage: 'VARCHAR',
      id: 'BIGINT',
      in_production: 'BOOLEAN',
      languages: 'VARCHAR[]',
      last_air_date: 'VARCHAR',
      last_episode_to_air: 'STRUCT(id BIGINT, name VARCHAR, overview VARCHAR, vote_average DOUBLE, vote_count BIGINT,
                            air_date VARCHAR, episode_number BIGINT, episode_type VARCHAR, production_code VARCHAR,
                            runtime BIGINT, season_number BIGINT, show_id BIGINT, still_path VARCHAR)',
      name: 'VARCHAR',
      networks: 'STRUCT(id BIGINT, logo_path VARCHAR, name VARCHAR, origin_country VARCHAR)[]',
      next_episode_to_air: 'STRUCT(id BIGINT, name VARCHAR, overview VARCHAR, vote_average DOUBLE, vote_count BIGINT,
                            air_date VARCHAR, episode_number BIGINT, episode_type VARCHAR, production_code VARCHAR,
                            runtime BIGINT, season_number BIGINT, show_id BIGINT, still_path VARCHAR)',
      number_of_episodes: 'BIGINT',
      number_of_seasons: 'BIGINT',
      origin_country: 'VARCHAR[]',
      original_language: 'VARCHAR',
      original_name: 'VARCHAR',
      overview: 'VARCHAR',
      popularity: 'DOUBLE',
      poster_path: 'VARCHAR',
      production_companies: 'STRUCT(id BIGINT, logo_path VARCHAR, name VARCHAR, origin_country VARCHAR)[]',
      production_countries: 'STRUCT(iso_3166_1 VARCHAR, name VARCHAR)[]',
      seasons: 'STRUCT(air_date VARCHAR, episode_count BIGINT, id BIGINT, name VARCHAR, overview VARCHAR, poster_path
                VARCHAR, season_number BIGINT, vote_average DOUBLE)[]',
      softcore: 'BOOLEAN',
      spoken_languages: 'STRUCT(english_name VARCHAR, iso_639_1 VARCHAR, name VARCHAR)[]',
      status: 'VARCHAR',
      tagline: 'VARCHAR',
      type: 'VARCHAR',
      vote_average: 'DOUBLE',
      vote_count: 'BIGINT'
    }
  );

-- A first query: one day. Name days wherever you can, because every file of 100 records is a request.
SELECT imdb_id, title, vote_average, harvest.fetched_at FROM movies('2026/11/22') ORDER BY vote_count DESC LIMIT 10;

-- That day as Parquet in Trusted: one file, so that a second run replaces it. athena.sql and trusted.py write the same
-- folder: use one of the three.
COPY (SELECT * EXCLUDE (collected) FROM movies('2026/11/22'))
TO 's3://my-data-lake/Trusted/API/Movies/collected=2026-11-22/movies.parquet' (FORMAT parquet);
COPY (SELECT * EXCLUDE (collected) FROM series('2026/11/22'))
TO 's3://my-data-lake/Trusted/API/Series/collected=2026-11-22/series.parquet' (FORMAT parquet);

-- The latest record of each id over all days: every day is a separate collection, so an id that was harvested on ten
-- days has ten records.
COPY (
  SELECT * FROM movies('*/*/*')
  QUALIFY row_number() OVER (PARTITION BY imdb_id ORDER BY harvest.fetched_at DESC) = 1
) TO 'latest_movies.parquet' (FORMAT parquet);
COPY (
  SELECT * FROM series('*/*/*')
  QUALIFY row_number() OVER (PARTITION BY imdb_id ORDER BY harvest.fetched_at DESC) = 1
) TO 'latest_series.parquet' (FORMAT parquet);

-- From Parquet, whichever tool wrote it: the day is in the folder's name.
SELECT collected, count(*) AS records, avg(vote_average) AS vote
FROM read_parquet('s3://my-data-lake/Trusted/API/Movies/*/*.parquet', hive_partitioning = true)
GROUP BY collected ORDER BY collected;
