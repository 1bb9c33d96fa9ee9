"""One suite for all protocols: the same questions, by every protocol's own words, to every engine."""
