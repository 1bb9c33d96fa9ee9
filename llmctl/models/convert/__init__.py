"""Other formats and quantizations of a model that lies here: what can be made of what, and the making of it."""

from llmctl.models.convert.work import run

__all__ = ["run"]
