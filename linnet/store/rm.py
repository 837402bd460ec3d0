"""``linnet rm``: takes models out of the store."""

from __future__ import annotations

from linnet.errors import TargetError
from linnet.formats.store import ModelName, find_stored, remove
from linnet.options import RmOptions


def rm(options: RmOptions) -> dict[str, object]:
    """Removes ``options.names``; returns what ``--json`` prints.

    All of them are found before the first is removed. Raises SourceError, UsageError, TargetError.
    """
    models = list(dict.fromkeys(find_stored(ModelName.parse(name)) for name in options.names))
    freed = 0
    for model in models:
        size = model.n_bytes
        try:
            remove(model)
        except OSError as error:
            raise TargetError(f"cannot remove {model.folder}: {error.strerror}") from None
        freed += size
        if not options.json:
            print(f"removed {model.name}, {size:,} bytes")
    return {"removed": [str(model.name) for model in models], "bytes": freed}
