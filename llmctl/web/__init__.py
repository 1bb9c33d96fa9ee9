"""The status page: what the fleet does, drawn by this machine for a browser; with the admin key also its verbs."""
