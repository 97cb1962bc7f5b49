"""The command line: names of the commands, flags from dataclass fields, exit codes."""
