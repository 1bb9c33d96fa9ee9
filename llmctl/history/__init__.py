"""What was: the checks, events and incidents of a fleet, in one SQLite file of the operator's state folder."""

NAME = "history.db"
