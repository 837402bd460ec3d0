"""``linnet list``: the models of the store."""

from __future__ import annotations

from linnet.display import one_line
from linnet.formats.store import partial_models, store_folder, stored_models
from linnet.options import ListOptions


def list_models(options: ListOptions) -> dict[str, object]:
    """Prints name and size of every model, and of what is not whole yet; returns what ``--json`` prints."""
    models = [
        {
            "name": str(model.name),
            "bytes": model.n_bytes,
            "path": str(model.path),
            "repository": model.about.get("repository"),
            "commit": model.about.get("commit"),
        }
        for model in stored_models()
    ]
    partial: list[dict[str, object]] = [
        {"name": str(model.name), "bytes": model.n_bytes} for model in partial_models()
    ]
    if not options.json:
        if not models:
            print(one_line(f"no models in {store_folder()}; linnet pull ORG/NAME gets one"))
        width = max((len(str(model["name"])) for model in [*models, *partial]), default=0)
        for model in models:
            print(f"{model['name']:<{width}}  {model['bytes']:>16,} bytes")
        for model in partial:
            print(f"{model['name']:<{width}}  {model['bytes']:>16,} bytes so far; linnet pull goes on")
    return {"store": str(store_folder()), "models": models, "partial": partial}
