"""Tiny checkpoints of further architectures, and one that finds a needle in a long text, for the support matrix."""
