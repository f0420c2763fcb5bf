"""Files: readable or one clear line, and written whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InrError


def readable(path) -> Path:
    """Return `path` as a Path if it is a file with something in it; raise InrError otherwise."""
    path = Path(path).expanduser()
    if not path.exists():
        raise InrError(f"{path} does not exist.")
    if path.is_dir():
        raise InrError(f"{path} is a folder; a file is needed.")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise InrError(f"{path} cannot be read: {error.strerror}.") from None
    if not first:
        raise InrError(f"{path} is empty (0 bytes).")
    return path


@contextmanager
def atomic(path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends well.

    The temporary file keeps the suffix, by which writers choose a format. On any error nothing is left behind;
    a full disk or an unwritable folder becomes an InrError.
    """
    path = Path(path).expanduser()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InrError(f"The disk is full: {path} was not written. Free some space and run again.") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise InrError(f"{path} cannot be written: {error.strerror}. Choose another place with -o.") from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
