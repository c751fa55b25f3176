"""The settings, their checks, where a value came from, and what must not be shown."""
