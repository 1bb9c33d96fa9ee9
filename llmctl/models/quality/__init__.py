"""The quality gate: a quantization's next-token distributions against its source's, on the same fixed token set."""
