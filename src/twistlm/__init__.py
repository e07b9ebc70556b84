"""twistlm: speech language models warm-started from text language models.

The names below are the public interface. They are loaded on first use, so that `import twistlm` costs next to nothing
and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
