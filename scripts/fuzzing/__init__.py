"""Fuzzing: Atheris on what reads untrusted text and bytes, schemathesis on a live slot."""
