"""Text to the token ids of a corpus, with a tokenizer of the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from linnet.data.bpe import library
from linnet.errors import FormatError, SourceError
from linnet.formats.checkpoint import token_text
from linnet.formats.gguf import MAGIC, open_gguf
from linnet.formats.gguf_tokenizer import tokenizer_from_metadata
from linnet.formats.inputs import check_regular, read_json
from linnet.formats.tokenizer_json import parse_tokenizer_json

# Where nothing says which tokens begin and end a document, the first of these that the
# tokenizer has as a special token is taken.
BOS_NAMES = ("<|begin_of_text|>", "<s>", "<|startoftext|>", "<bos>", "<|endoftext|>")
EOS_NAMES = ("<|end_of_text|>", "</s>", "<|endoftext|>", "<eos>", "<|im_end|>")


class TextEncoder:
    """A tokenizer with the ids that begin and end a document.

    ``json`` is its tokenizer.json, without truncation and padding (some published files
    carry the settings of the last run, which would cut every document short).
    """

    def __init__(
        self, data: bytes, name: str, bos: str | int | None = None, eos: str | int | None = None
    ) -> None:
        """``bos`` and ``eos`` are tokens or ids; where None, they are found by name.

        Raises SourceError when there is none, FormatError when ``data`` is no tokenizer.json.
        """
        self.json = _without_run_settings(data, name)
        tokenizers = library()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self.json.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise FormatError(
                f"{name} is not a tokenizer.json the tokenizers library reads: {error}"
            ) from None
        self._tokenizer.encode_special_tokens = True
        self._special = {
            token.content: int(number)
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self.eos_id = self._find(eos, EOS_NAMES, name)
        # Without a BOS of its own (Qwen, GPT-2) the token that ends a document also begins the next.
        self.bos_id = (
            self.eos_id if bos is None and not self._has(BOS_NAMES) else self._find(bos, BOS_NAMES, name)
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + int(max(self._tokenizer.get_vocab(with_added_tokens=True).values()))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, none added; special tokens written out in a text stay text."""
        return [row.ids for row in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _has(self, names: tuple[str, ...]) -> bool:
        return any(name in self._special for name in names)

    def _find(self, wanted: str | int | None, names: tuple[str, ...], name: str) -> int:
        if isinstance(wanted, int):
            return wanted
        for token in names if wanted is None else (wanted,):
            number = self._special.get(token) if wanted is None else self._tokenizer.token_to_id(token)
            if number is not None:
                return int(number)
        known = ", ".join(sorted(self._special)[:12]) or "none"
        sought = wanted or " or ".join(names)
        raise SourceError(
            f"{name}: cannot tell which token ends a document (no {sought}); put a tokenizer_config.json "
            f"with bos_token and eos_token beside it (its special tokens: {known})"
        )


def open_encoder(path: Path) -> TextEncoder:
    """The tokenizer of a tokenizer.json, of a folder that holds one, or of a GGUF with one embedded.

    BOS and EOS come from the tokenizer_config.json beside it, from the GGUF, or by name.
    Raises SourceError or FormatError.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    check_regular(file)
    try:
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) == MAGIC:
                return _from_gguf(file)
            opened.seek(0)
            data = opened.read()
    except OSError as error:
        raise SourceError(f"cannot read the tokenizer {file}: {error.strerror}") from None
    config = read_json(file.with_name("tokenizer_config.json"), optional=True)
    bos, eos = token_text(config.get("bos_token")), token_text(config.get("eos_token"))
    return TextEncoder(data, str(file), bos=bos, eos=eos)


def _from_gguf(path: Path) -> TextEncoder:
    parts, special = tokenizer_from_metadata(open_gguf(path).metadata)
    if parts.json is None:
        raise SourceError(f"{path} holds no tokenizer.json, only a vocabulary; give that of its model")
    return TextEncoder(parts.json, str(path), bos=special.bos_id, eos=special.eos_id)


def _without_run_settings(data: bytes, name: str) -> bytes:
    try:
        table = parse_tokenizer_json(data)
    except FormatError as error:
        raise FormatError(f"{name} is not a tokenizer.json: {error}") from None
    if table.get("truncation") is None and table.get("padding") is None:
        return data
    table["truncation"] = table["padding"] = None
    return json.dumps(table, ensure_ascii=False).encode("utf-8")
