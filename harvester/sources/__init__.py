"""Sources: what yields title ids."""
