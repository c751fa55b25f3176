"""The command line: options, streams, signals, exit codes."""
