"""Proof that what runs works: smoke, debug-inference, and the bundles that hold their results."""
