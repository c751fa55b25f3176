"""The settings, their validators, their provenance, and redaction of secrets."""
