"""A model string or a chat model on one side, n samples on the other."""

from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import aask, asample, ask, sample

__all__ = ["aask", "asample", "ask", "load_model", "sample"]
