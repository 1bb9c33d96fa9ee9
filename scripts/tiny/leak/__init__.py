"""Two tiny models that are the same but for one thing: one of them thinks aloud, where every client sees it."""
