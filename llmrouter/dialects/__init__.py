"""Leaves: one folder a dialect, pure functions over bytes, one line each in the daemon's table."""
