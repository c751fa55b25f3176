"""AWS: clients, their errors with advice, secrets, S3 URLs."""
