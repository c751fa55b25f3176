"""Harvest TMDB for every IMDb id of two CSVs into S3, with closed books."""

__version__ = "0.1.0"
