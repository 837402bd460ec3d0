"""A server on 127.0.0.1 that speaks as much of the Hugging Face Hub's HTTP interface as a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

LARGE = 4096  # bytes from which on a file is in large file storage


@dataclass
class Repo:
    """A repository: its files, and how the server misbehaves when it is asked for them."""

    files: dict[str, bytes]
    gated: bool = False
    claimed_sha256: dict[str, str] = field(default_factory=dict)
    claimed_size: dict[str, Any] = field(default_factory=dict)
    hashes: bool = True  # are told
    ranges: bool = True  # are heeded; else everything is sent
    endless: bool = False  # zeros follow every file until the client goes
    location: str | None = None  # where large files are said to be
    break_after: int | None = None  # bytes of every transfer of a large file, which then ends

    @property
    def commit(self) -> str:
        return hashlib.sha1(json.dumps(sorted(self.files)).encode()).hexdigest()

    def etag(self, name: str) -> str:
        data = self.files[name]
        if len(data) >= LARGE:
            return self.claimed_sha256.get(name, hashlib.sha256(data).hexdigest())
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def siblings(self) -> list[dict[str, Any]]:
        found = []
        for name, data in self.files.items():
            size = self.claimed_size.get(name, len(data))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": self.etag(name)}
            if not self.hashes:
                del entry["blobId"]
            elif len(data) >= LARGE:
                entry["lfs"] = {"sha256": self.etag(name), "size": len(data), "pointerSize": 134}
            found.append(entry)
        return found


@dataclass
class FakeHub:
    """The repositories, the addresses, and every request for bytes of a file: (path, range)."""

    repos: dict[str, Repo]
    url: str = ""
    storage: str = ""  # of large files: another host, as at the Hub
    transfers: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0  # bytes of endless answers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        storage = re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path)
        match = api or resolve or storage
        repo = self.hub.repos.get(match[1]) if match else None
        if match is None or repo is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and not storage and "Bearer right" not in self.headers.get("Authorization", ""):
            self._send(403 if api is None else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif api:
            info = {"id": match[1], "modelId": match[1], "sha": repo.commit, "siblings": repo.siblings(),
                    "private": False, "gated": False, "tags": [], "downloads": 0}  # fmt: skip
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif resolve:
            self._resolve(match[1], repo, match[3])
        else:
            self._bytes(repo, match[2])

    def _resolve(self, repo_name: str, repo: Repo, name: str) -> None:
        if name not in repo.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{repo.etag(name)}"'}
        if len(repo.files[name]) < LARGE:
            self._bytes(repo, name, headers)
            return
        headers |= {
            "X-Linked-Etag": f'"{repo.etag(name)}"',
            "X-Linked-Size": str(len(repo.files[name])),
            "Location": repo.location or f"{self.hub.storage}/storage/{repo_name}/{quote(name)}",
        }
        self._send(302, b"", headers)

    def _bytes(self, repo: Repo, name: str, headers: dict[str, str] | None = None) -> None:
        data, status, wanted = repo.files[name], 200, self.headers.get("Range")
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{repo.etag(name)}"', **(headers or {})}
        if wanted and repo.ranges:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()  # type: ignore[union-attr]
            end = min(int(last) + 1, len(data)) if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        if self.command == "GET":
            self.hub.transfers.append((name, wanted))
        cut = repo.break_after if self.command == "GET" and len(repo.files[name]) >= LARGE else None
        if repo.endless and self.command == "GET":
            self.close_connection = True
            self._send(status, data, headers, claimed=len(data) + (1 << 40))
            self._send_zeros()
        elif cut is not None and cut < len(data):
            self.close_connection = True
            self._send(status, data[:cut], headers, claimed=len(data))
        else:
            self._send(status, data, headers)

    def _send_zeros(self) -> None:
        with suppress(OSError):  # the client has gone
            while self.hub.sent < 1 << 30:
                self.wfile.write(bytes(1 << 16))
                self.hub.sent += 1 << 16

    def _send(self, status: int, body: bytes, headers: dict[str, str], claimed: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away in the middle is no news here."""


@contextmanager
def fake_hub(repos: dict[str, Repo]) -> Iterator[FakeHub]:
    """Serves ``repos`` inside the block."""
    hub = FakeHub(repos)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
