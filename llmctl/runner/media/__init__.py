"""Images (and what may come after them) of requests: where they come from, what is allowed, and what they are."""
