"""One address for the whole fleet: requests are routed by handle, their bytes passed on untouched."""
