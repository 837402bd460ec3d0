"""Repositories of the Hugging Face Hub: what is in them, and which of it is a model to run.

Through ``huggingface_hub`` (extra ``[hub]``), which knows the endpoint (``HF_ENDPOINT``),
the token (``HF_TOKEN``) and how to go on with a download that was cut off. What the Hub
says of a file is checked here: size and SHA-256 of large files, the git hash of small ones.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from linnet.errors import FormatError, LinnetError, MissingExtraError, SourceError, UnsupportedError
from linnet.formats.store import CHECKPOINT, ModelName, type_in_file_name

# The order in which a type is chosen where none was named: 4 bits first, then what loses less.
_PREFERRED = ("q4_k_m", "q4_k", "q4_0", "q4_k_s", "iq4_nl", "iq4_xs", "q5_k_m", "q5_0", "q6_k", "q8_0",
              "mxfp4", "mxfp4_moe", "f16", "bf16", "f32")  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CHECKPOINT_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
    r"|special_tokens_map\.json|chat_template\.jinja|vocab\.(json|txt)|merges\.txt"
    r"|model\.safetensors(\.index\.json)?|model-\d+-of-\d+\.safetensors"
)
_PIECE = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. ``sha256`` is known of large files, ``blob_id`` (git's hash) of others."""

    name: str
    n_bytes: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Repository:
    """What a repository holds at one commit."""

    name: str
    commit: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class Choice:
    """The files that make up one model of a repository."""

    name: ModelName
    files: tuple[HubFile, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)


def hub() -> Any:
    """The module huggingface_hub. Raises MissingExtraError."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    return huggingface_hub


def open_repository(repo: str) -> Repository:
    """Asks the Hub what is in a repository. Raises SourceError, LinnetError."""
    module = hub()
    with reported(repo):
        info = module.HfApi(library_name="linnet").model_info(repo, files_metadata=True)
    files = tuple(_file(sibling) for sibling in info.siblings or ())
    if not _HASH.fullmatch(str(info.sha)):
        raise FormatError("the server names a commit that is no hash; nothing was taken")
    return Repository(repo, str(info.sha), files)


_HASH = re.compile(r"[0-9a-fA-F]{7,64}")


def _file(sibling: Any) -> HubFile:
    """A file as the server names it. Raises FormatError for what could lead out of a folder."""
    lfs, name = sibling.lfs, str(sibling.rfilename)
    odd = name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")
    hashes = [value for value in (sibling.blob_id, lfs and lfs.sha256) if value]
    if odd or not all(_HASH.fullmatch(str(value)) for value in hashes):
        raise FormatError(f"the server names a file {name!r}, which cannot be; nothing was taken")
    return HubFile(
        name=sibling.rfilename,
        n_bytes=int(sibling.size or 0),
        sha256=lfs.sha256 if lfs is not None else None,
        blob_id=sibling.blob_id if lfs is None else None,
    )


def choose(repository: Repository, wanted: str | None) -> Choice:
    """The GGUF file of that type, or the checkpoint; without ``wanted`` the one most people want.

    Raises UnsupportedError for a repository that holds none, SourceError for a type it does not have.
    """
    checkpoint = tuple(file for file in repository.files if _CHECKPOINT_FILES.fullmatch(file.name))
    ggufs: dict[str, list[HubFile]] = {}
    for file in repository.files:
        if file.name.lower().endswith(".gguf") and "mmproj" not in file.name.lower():
            ggufs.setdefault(type_in_file_name(_PIECE.sub(".gguf", file.name)) or "gguf", []).append(file)
    has_weights = any(file.name.endswith(".safetensors") for file in checkpoint)
    types = [*ggufs, *([CHECKPOINT] if has_weights else [])]
    if not types:
        raise UnsupportedError(_why_none(repository))
    type = _closest(types, wanted, repository.name)
    name = ModelName(repository.name, type)
    if type == CHECKPOINT and type not in ggufs:
        return Choice(name, checkpoint)
    files = ggufs[type]
    if _PIECE.search(files[0].name):
        raise UnsupportedError(
            f"{name} comes in {len(files)} pieces, which this version cannot join; choose another type"
        )
    return Choice(name, (min(files, key=lambda file: (file.name.count("/"), file.name)),))


def _closest(types: Sequence[str], wanted: str | None, repo: str) -> str:
    if wanted is None:
        return next(
            (type for type in _PREFERRED if type in types), types[-1] if CHECKPOINT in types else types[0]
        )
    if wanted in types:
        return wanted
    of_kind = [type for type in types if type.startswith(wanted + "_")]  # q4_k: q4_k_m before q4_k_s
    if of_kind:
        return min(of_kind, key=lambda type: (not type.endswith("_m"), type))
    near = difflib.get_close_matches(wanted, types, n=1)
    hint = f"; did you mean {repo}:{near[0]}?" if near else ""
    raise SourceError(f"{repo} has no type '{wanted}', but {', '.join(types)}{hint}")


def _why_none(repository: Repository) -> str:
    pickles = [file.name for file in repository.files if file.name.endswith(_PICKLES)]
    if pickles:
        return (
            f"{repository.name} holds its weights as {pickles[0]}, a Python pickle, which can run any "
            "program when it is opened; Linnet reads safetensors and GGUF only"
        )
    return f"{repository.name} holds neither a GGUF file nor a safetensors checkpoint"


def download(repository: Repository, file: HubFile, path: Path) -> None:
    """Gets a file; goes on with what an earlier call left beside ``path``. Raises FormatError, SourceError.

    Not through ``hf_hub_download``, which begins anew when another process began (seen in 2.4).
    """
    module = hub()
    part = path.with_name(f"{path.name}.{(file.sha256 or file.blob_id or repository.commit)[:16]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with reported(repository.name), part.open("ab") as stream:
        url, headers = _location(repository, file)
        if stream.tell() < file.n_bytes:
            module.file_download.http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=headers,
                expected_size=file.n_bytes,
                displayed_filename=Path(file.name).name,
            )
    _verify(part, file)
    os.replace(part, path)


def _location(repository: Repository, file: HubFile) -> tuple[str, dict[str, str]]:
    """Where the bytes of a file are, and the headers of a request for them."""
    module = hub()
    url = module.hf_hub_url(repository.name, file.name, revision=repository.commit)
    headers = module.utils.build_hf_headers(library_name="linnet")
    location = module.get_hf_file_metadata(url).location
    if urlsplit(location).netloc != urlsplit(url).netloc:  # a token is for the Hub only
        headers.pop("authorization", None)
    return location, headers


def read_beginning(repository: Repository, file: HubFile, n_bytes: int) -> bytes:
    """The first ``n_bytes`` of a file, in one range request. Raises SourceError."""
    with reported(repository.name):
        url, headers = _location(repository, file)
        wanted = {**headers, "Range": f"bytes=0-{min(n_bytes, file.n_bytes) - 1}"}
        response = hub().utils.get_session().get(url, headers=wanted)
        hub().utils.hf_raise_for_status(response)
        return bytes(response.content[:n_bytes])


def _verify(path: Path, file: HubFile) -> None:
    """Compares a file with what the Hub says of it. Deletes it and raises FormatError where they differ."""
    n_bytes = path.stat().st_size
    if file.sha256 is not None:
        digest, expected = hashlib.sha256(), file.sha256
    else:
        digest, expected = hashlib.sha1(f"blob {n_bytes}\0".encode()), file.blob_id or ""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if n_bytes != file.n_bytes or (expected and digest.hexdigest() != expected):
        path.unlink()
        raise FormatError(
            f"{file.name} arrived damaged: its hash is not the Hub's; it was deleted, pull it again"
        )


@contextmanager
def reported(repo: str) -> Iterator[None]:
    """What huggingface_hub raises, as one line that says what to do."""
    errors = hub().errors
    try:
        yield
    except errors.GatedRepoError:
        raise SourceError(
            f"{repo} is gated: accept its terms at {_endpoint()}/{repo}, then set HF_TOKEN to your token"
        ) from None
    except errors.RepositoryNotFoundError:
        raise SourceError(
            f"the Hub has no model '{repo}', or it is private; check the spelling, or set HF_TOKEN"
        ) from None
    except errors.EntryNotFoundError as error:
        raise SourceError(f"{repo}: a file is gone from the Hub: {_first_line(error)}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise SourceError(f"the Hub answered {status} for {repo}: {_first_line(error)}") from None
    except errors.HFValidationError as error:
        raise SourceError(_first_line(error)) from None
    except LinnetError:
        raise
    except Exception as error:  # the HTTP client is one of several, each with exceptions of its own
        raise SourceError(
            f"cannot reach {_endpoint()}: {_first_line(error)}; check the connection and pull again, "
            "it goes on where it stopped"
        ) from None


def _endpoint() -> str:
    return str(hub().constants.ENDPOINT)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
