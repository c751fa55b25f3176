"""Stand-ins for TMDB and S3, with faults."""
