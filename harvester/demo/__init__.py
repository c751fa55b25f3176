"""The harvest on this machine: stand-ins for TMDB and S3, sample CSVs, and a story."""
