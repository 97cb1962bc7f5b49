"""Data sets, from files on disk to batches: formats, checks, order, loading."""
