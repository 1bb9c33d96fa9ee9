"""What tests of the command line share."""

from tests.cli.fleet import fleet, machines

__all__ = ["fleet", "machines"]
