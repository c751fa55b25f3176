"""AWS: clients, their errors with advice, secrets."""
