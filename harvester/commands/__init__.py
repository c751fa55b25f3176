"""The commands, one module each. Clients are created here and nowhere else."""
