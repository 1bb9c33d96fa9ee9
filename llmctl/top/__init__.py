"""The fleet live on a terminal: tables that repaint only what changed, and keys that change slots."""
