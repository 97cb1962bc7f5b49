"""Checkpoints of other frameworks: recognized and translated, both ways."""
