"""Watching hosts: one stream of looks per host, and the newest of each together."""
