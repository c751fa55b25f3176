"""Runs: which one to resume, what is left, the lease, commit and reconcile."""
