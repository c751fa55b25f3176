"""Results as text, progress as log lines."""
