"""``linnet rm``: takes models out of the store."""

from __future__ import annotations

from linnet.errors import SourceError, TargetError
from linnet.formats.store import ModelName, StoredModel, find_stored, partial_models, remove
from linnet.options import RmOptions


def rm(options: RmOptions) -> dict[str, object]:
    """Removes ``options.names``; returns what ``--json`` prints.

    All of them are found before the first is removed. What a pull that was cut off has left goes as well.
    Raises SourceError, UsageError, TargetError.
    """
    models = list(dict.fromkeys(model for name in options.names for model in _found(ModelName.parse(name))))
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


def _found(name: ModelName) -> list[StoredModel]:
    """The model of that name, and what there is of it that is not whole. Raises SourceError, UsageError."""
    try:
        model = find_stored(name)
    except SourceError:
        partial = list(partial_models())
        if not partial:
            raise
        return [find_stored(name, partial)]
    return [model, *(partial for partial in partial_models() if partial.name == model.name)]
