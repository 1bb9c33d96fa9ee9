"""The quality gate: how much a quantization changes a model's next-token distributions on a fixed token set."""

from llmctl.models.quality.gate import Incomparable, check
from llmctl.models.quality.report import Metrics, Report, Side, bits_of

__all__ = ["Incomparable", "Metrics", "Report", "Side", "bits_of", "check"]
