"""Shared by all parts of a running process: concurrency, shutdown, clock, network errors, observers."""
