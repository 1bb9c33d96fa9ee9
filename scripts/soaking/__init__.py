"""The soak of reliability.md (K): a mix of good and bad traffic for hours, with swaps, and a look at what grows."""
