"""A fleet for tests of the command line."""

from tests.cli.fleet import fleet, machines

__all__ = ["fleet", "machines"]
