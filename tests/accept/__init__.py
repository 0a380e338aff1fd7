"""Accepts a set of EFA instances: checks them, measures them, and writes down both. `scripts/accept` is its command."""
