"""Tiny checkpoints for the tests, trained here on a text about llmctl; run by scripts/tiny-models."""
