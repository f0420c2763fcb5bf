"""export: write a field to a file; the suffix decides how."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InrError
from .field import Field
from .files import atomic
from .plugins import find_exporter
from .settings import from_dict


def export(field: Field, path, **options) -> Path:
    """Write `field` to `path` and return the path; options are those of the exporter the suffix chooses."""
    export_facts(field, path, options)
    return Path(path).expanduser()


def export_facts(field: Field, path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write `field` to `path`, whole or not at all; return what the exporter reports (shape, watertight, faces …)."""
    path = Path(path).expanduser()
    exporter = find_exporter(field.spec.kind, path.suffix)
    settings = from_dict(exporter.options, options, f"export to {path.suffix}")
    with atomic(path) as temporary:
        facts = exporter.write(field, temporary, settings)
        if not temporary.stat().st_size:
            raise InrError(f"The {exporter.name} exporter wrote nothing to {path}.")
    return {**facts, "bytes": path.stat().st_size}
