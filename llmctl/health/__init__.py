"""Is everything as it was declared, since when not and why, and what shall be typed: judged by generated tokens."""
