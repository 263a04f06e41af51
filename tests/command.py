"""The command line without a start of its own, which takes seconds."""

import logging
import signal
import sys
from pathlib import Path

import pytest

from persona_lab.__main__ import main


def command(folder: Path, *arguments: str) -> str:
    """Type `persona-lab` with these arguments in a folder; what it ends with, "0" for success."""
    root, package = logging.getLogger(), logging.getLogger("persona_lab")
    handlers, levels = [*root.handlers], (root.level, package.level)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["persona-lab", *arguments])
        patch.setattr(sys, "path", [*sys.path])
        try:
            main()
        except SystemExit as end:
            return str(end.code)
        finally:
            for handler in {*root.handlers} - {*handlers}:
                handler.close()
            root.handlers[:] = handlers
            root.level, package.level = levels
            signal.signal(signal.SIGTERM, at_sigterm)
    return "0"
