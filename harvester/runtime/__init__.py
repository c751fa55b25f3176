"""What every part of a running process shares: concurrency, shutdown, clock, network errors, observers."""
