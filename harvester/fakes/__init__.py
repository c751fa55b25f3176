"""Stand-in servers for TMDB and S3, with faults on request."""
