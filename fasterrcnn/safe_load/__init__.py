"""Reads files of unknown origin, running nothing in them and allocating no more than they hold."""
