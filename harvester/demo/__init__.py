"""The demo: a real harvest on this machine, with stand-ins for TMDB and S3 and sample CSVs."""
