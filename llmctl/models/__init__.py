"""Models on disk: what a checkpoint is, what it needs, how it comes here. No module in here imports an ML library."""
