"""Public data sets: fetched once, every checksum verified. The list is datasets/catalog.toml."""

import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from .errors import InrError, need, suggestion
from .files import atomic

MIRROR = "INR_DATA_MIRROR"          # a folder to read the files from instead of their addresses


def catalog() -> dict[str, dict[str, Any]]:
    """Return name → {"licence", "files": [{"path", "url", "sha256", "bytes"}]} of every set."""
    checkout, installed = Path(__file__).parents[1] / "datasets", Path(sys.prefix) / "share" / "inr_scenes"
    for place in (checkout / "catalog.toml", installed / "catalog.toml"):
        if place.is_file():
            return tomllib.loads(place.read_text())
    raise InrError("The catalogue of data sets is missing from this installation. Reinstall inr-scenes.")


def get(name: str, folder=None) -> Path:
    """Fetch a set and return its folder, or its file when it has only one.

    folder: where to put it; default: the user's cache. Files that are there with the right checksum are kept. Raises
    InrError when a download fails or its checksum is wrong; a wrong file is not kept.
    """
    pooch = need("pooch")
    known = catalog()
    if name not in known:
        raise InrError(f"There is no data set {name!r}.{suggestion(name, known)} inr data list shows them.")
    target = Path(folder).expanduser() if folder else Path(pooch.os_cache("inr_scenes"))
    files = known[name]["files"]
    target = target / name if len(files) > 1 else target
    for file in files:
        path = target / file["path"]
        if path.is_file() and pooch.file_hash(str(path)) == file["sha256"]:
            continue
        with atomic(path) as temporary:
            _fetch(pooch, file, name, temporary)
            found = pooch.file_hash(str(temporary))
            if found != file["sha256"]:
                raise InrError(f"{file['path']} of {name} has checksum {found[:12]}…, expected {file['sha256'][:12]}…: "
                               f"refused. The source changed or the download was cut; try again.")
    return target if len(files) > 1 else target / files[0]["path"]


def _fetch(pooch, file: dict[str, Any], name: str, to: Path) -> None:
    mirror = os.environ.get(MIRROR)
    if mirror:
        folder = Path(mirror).expanduser()
        source = next((p for p in (folder / name / file["path"], folder / file["path"]) if p.is_file()), None)
        if source is None:
            raise InrError(f"{file['path']} is not in {folder} ({MIRROR}).")
        shutil.copyfile(source, to)
        return
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=30)(file["url"], str(to), None)
    except Exception as error:          # requests' and urllib3's errors share no base worth importing
        raise InrError(f"{file['url']} could not be fetched ({type(error).__name__}). Check the network, or set "
                       f"{MIRROR} to a folder that holds {file['path']}.") from error
