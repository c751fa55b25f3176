"""File formats of records: JSON Lines, JSON array."""
