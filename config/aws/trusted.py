# /// script
# requires-python = ">=3.11"
# dependencies = ["pyspark>=3.5,<4"]
# ///
"""Trusted: the JSON that has landed as Parquet, a folder a day; a job for Glue 5, EMR or any Spark.

    spark-submit trusted.py --lake s3://my-data-lake --day 2026-11-22

In Glue: this file is the script, `--extra-files s3://…/athena.sql` lays the columns beside it, and `--lake` and `--day`
are job parameters. Elsewhere than at AWS, S3 is spoken to as `s3a://…`, with the package hadoop-aws.

Without `--day`, every day is done. A day that is done again replaces its folder. It reads a record a line, and also an
array on one line, as OUTPUT_FORMAT=array has it; arrays that somebody has laid out over many lines would want
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
    """What the job was told; Glue adds parameters of its own, which are passed over."""
    parser = argparse.ArgumentParser(description="Write the harvested JSON as Parquet.")
    parser.add_argument("--lake", required=True, help="the bucket, such as s3://my-data-lake, or a folder")
    parser.add_argument("--raw", default="Raw/API", help="where the harvest is in it; default: Raw/API")
    parser.add_argument("--trusted", default="Trusted/API", help="where the Parquet goes; default: Trusted/API")
    parser.add_argument("--day", type=date.fromisoformat, help="the day of collection, such as 2026-11-22")
    parser.add_argument("--columns", type=Path, default=Path("athena.sql"), help="the path of athena.sql")
    options = parser.parse_known_args()[0]
    if not options.columns.is_file():
        parser.error(
            f"no file {str(options.columns)!r}: lay athena.sql beside this script (Glue: --extra-files), or --columns"
        )
    options.lake = options.lake.rstrip("/")
    return options


def columns_of(ddl: str, table: str) -> str:
    """The columns of a table of athena.sql, which Spark takes as a schema.

    They are not left to Spark's guess: on a day without fractions it would take votes for integers, and Parquet of one
    day would no longer fit that of another.
    """
    found = re.search(rf"CREATE EXTERNAL TABLE tmdb\.{table} \((.*?)\n\)", ddl, re.DOTALL)
    if not found:
        raise SystemExit(f"athena.sql has no table tmdb.{table}: give --columns the file of this repository")
    return found[1]


def write_trusted(spark: SparkSession, options: argparse.Namespace, collection: str, columns: str) -> None:
    """Write one collection; FAILFAST, since Spark would else make a record that does not fit all null."""
    days = f"{options.day:%Y/%m/%d}" if options.day else "*/*/*"
    folder = f"{options.lake}/{options.raw}/{collection}/{days}/"
    try:
        records = spark.read.schema(columns).option("mode", "FAILFAST").json(folder)
    except AnalysisException as error:
        if "PATH_NOT_FOUND" not in str(error):
            raise
        sys.stdout.write(f"{collection}: nothing at {folder}\n")
        return
    day = functions.regexp_extract(functions.input_file_name(), r"(\d{4}/\d\d/\d\d)/[^/]+$", 1)
    # repartition: one file a day. Spark would write one for each 128 MB it reads, and counts a small file as 4.
    (
        records.withColumn("collected", functions.to_date(day, "yyyy/MM/dd"))
        .repartition("collected")
        .write.mode("overwrite")
        .partitionBy("collected")
        .parquet(f"{options.lake}/{options.trusted}/{collection}")
    )
    sys.stdout.write(f"{collection}: {folder} is in {options.lake}/{options.trusted}/{collection}\n")


def main() -> None:
    """Write both collections."""
    options = read_options()
    ddl = options.columns.read_text(encoding="utf-8")
    spark = SparkSession.builder.appName("trusted").getOrCreate()
    spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")  # replace the days read, keep the others
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    for collection, table in TABLES.items():
        write_trusted(spark, options, collection, columns_of(ddl, table))


if __name__ == "__main__":
    main()
