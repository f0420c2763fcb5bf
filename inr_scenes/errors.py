"""Errors a user can mend, and the one way to import a library that may be missing."""

import importlib
from types import ModuleType


class InrError(Exception):
    """Something the user can mend. The message says in one or two lines what is wrong and what to do."""


class SetAside(UserWarning):
    """A faster way did not prove itself, and the plain one goes on. The message is one line."""


def need(module: str, *, extra: str = "", why: str = "") -> ModuleType:
    """Import `module` when it is used; if that fails, raise an InrError with the command that mends it.

    `extra` names the optional-dependency group that brings the module (``pip install 'inr-scenes[extra]'``).
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        package = module.partition(".")[0]
        command = f"pip install 'inr-scenes[{extra}]'" if extra else f"pip install {package}"
        purpose = f" {why}" if why else ""
        raise InrError(f"{package} is needed{purpose} but does not import ({error}). Try: {command}") from error


def suggestion(word: str, known) -> str:
    """Return " Did you mean X?" for the known word nearest to `word`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
