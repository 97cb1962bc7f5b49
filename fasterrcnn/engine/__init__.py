"""Services of a run: devices and ranks, steps, checkpoints, evaluation, logs, downloads."""
