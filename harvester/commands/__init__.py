"""The commands: one function each; the clients are made here and nowhere else."""
