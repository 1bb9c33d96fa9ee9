"""What tests of the command line share."""

from tests.cli.fleet import emptied, fleet, machines

__all__ = ["emptied", "fleet", "machines"]
