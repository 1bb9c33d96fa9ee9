"""Tiny models that embed and rerank, with random weights: enough to compare one engine's numbers with another's."""
