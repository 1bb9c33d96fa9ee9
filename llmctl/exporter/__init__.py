"""The fleet's metrics on one page: what every slot counts, with its host and port, and what hosts and history tell."""
