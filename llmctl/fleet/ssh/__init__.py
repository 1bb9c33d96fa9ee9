"""Hosts over ssh: how to log in, one connection for all that is run there, and what may go wrong on the way."""
