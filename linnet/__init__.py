"""Linnet makes small language models and runs them on the machine you already have.

    import linnet

    model = linnet.load("model.gguf")
    print(model.generate("Once upon a time", max_tokens=50).text)

Importing this package does nothing else: no environment writes, no logging set-up, no
network, no heavy import.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes longer than this whole file
if TYPE_CHECKING:
    from typing import Any

    from linnet.run.model import LanguageModel, load
    from linnet.run.tool_loop import chat

__version__ = "0.1.0"
__all__ = ["LanguageModel", "__version__", "chat", "load"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in ("LanguageModel", "load"):
        from linnet.run import model

        return getattr(model, name)
    if name == "chat":
        from linnet.run.tool_loop import chat

        return chat
    raise AttributeError(f"module 'linnet' has no attribute '{name}'")
