# /// script
# requires-python = ">=3.11"
# dependencies = ["pyspark>=3.5,<4"]
# ///
"""Write the landed JSON as Parquet into Trusted, one folder per day; a job for Glue 5, EMR or any Spark.

    spark-submit trusted.py --lake s3://my-data-lake --day 2026-11-22

In Glue this file is the script, `--extra-files s3://…/athena.sql` puts the columns beside it, `--lake` and `--day`
are job parameters. Outside AWS use `s3a://…`, with the package hadoop-aws.

Without `--day`, all days are written. Writing a day again replaces its folder. It reads one record per line, and also
an array on one line, as OUTPUT_FORMAT=array writes it; an array over several lines would need
`.option("multiLine", True)`.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession, functions

TABLES = {"Movies": "movies", "Series": "series"}


def read_options() -> argparse.Namespace:
    """The options of the job; further parameters, which Glue adds, are ignored."""
    parser = argparse.ArgumentParser(description="Write the harvested JSON as Parquet.")
    parser.add_argument("--lake", required=True, help="the bucket, such as s3://my-data-lake, or a folder")
    parser.add_argument("--raw", default="Raw/API", help="prefix of the harvest in the lake; default: Raw/API")
    parser.add_argument("--trusted", default="Trusted/API", help="prefix for the Parquet; default: Trusted/API")
    parser.add_argument("--day", type=date.fromisoformat, help="the day of collection, such as 2026-11-22")
    parser.add_argument("--columns", type=Path, default=Path("athena.sql"), help="the path of athena.sql")
    options = parser.parse_known_args()[0]
    if not options.columns.is_file():
        parser.error(f"no file {str(options.columns)!r}: put athena.sql there (Glue: --extra-files), or give --columns")
    options.lake = options.lake.rstrip("/")
    return options


def columns_of(ddl: str, table: str) -> str:
    """The columns of a table of athena.sql, in a syntax that Spark accepts as a schema.

    Spark's own inference would read votes as integers on a day without fractions, and the Parquet of that day would not
    match that of other days.
    """
    found = re.search(rf"CREATE EXTERNAL TABLE tmdb\.{table} \((.*?)\n\)", ddl, re.DOTALL)
    if not found:
        raise SystemExit(f"athena.sql has no table tmdb.{table}: use this repository's athena.sql with --columns")
    return found[1]


def write_trusted(spark: SparkSession, options: argparse.Namespace, collection: str, columns: str) -> None:
    """Write one collection. FAILFAST: by default Spark makes all columns of a record null that does not fit."""
    days = f"{options.day:%Y/%m/%d}" if options.day else "*/*/*"
    folder = f"{options.lake}/{options.raw}/{collection}/{days}/"
    try:
        records = spark.read.schema(columns).option("mode", "FAILFAST").json(folder)
    except AnalysisException as error:
        if "PATH_NOT_FOUND" not in str(error):
            raise
        sys.stdout.write(f"{collection}: no files at {folder}\n")
        return
    day = functions.regexp_extract(functions.input_file_name(), r"(\d{4}/\d\d/\d\d)/[^/]+$", 1)
    # repartition: one file per day. Spark would write one per 128 MB read, and counts every small file as 4 MB.
    (
        records.withColumn("collected", functions.to_date(day, "yyyy/MM/dd"))
        .repartition("collected")
        .write.mode("overwrite")
        .partitionBy("collected")
        .parquet(f"{options.lake}/{options.trusted}/{collection}")
    )
    sys.stdout.write(f"{collection}: {folder} is now in {options.lake}/{options.trusted}/{collection}\n")


def main() -> None:
    """Write both collections as Parquet."""
    options = read_options()
    ddl = options.columns.read_text(encoding="utf-8")
    spark = SparkSession.builder.appName("trusted").getOrCreate()
    spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")  # replace only the days that were read
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    for collection, table in TABLES.items():
        write_trusted(spark, options, collection, columns_of(ddl, table))


if __name__ == "__main__":
    main()
