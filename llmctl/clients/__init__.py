"""What asks models: slots over their public API, and other servers of the same protocols."""
