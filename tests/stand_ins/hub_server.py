"""A stand-in of the Hugging Face hub on this machine: the routes its client library uses, and ways to fail.

Routes as in huggingface_hub: ``/api/models/<repo>[/revision/<rev>]``, ``/api/models/<repo>/tree/<rev>`` and
``/<repo>/resolve/<rev>/<file>``. As on the hub, large files lie on another host (here another name of it) under
their SHA-256 and honour Range.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1 << 20


@dataclass
class Repository:
    """Files by name of each commit; ``refs`` are the branches and tags."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """What the server has, what it was asked, and how it fails.

    Attributes:
        repositories: by ``owner/name``.
        requests: everything it was asked.
        cut_after_bytes: the connection breaks after so many bytes of a large file, and stays broken for the file.
        stall: instead of breaking, the connection goes silent.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    cut_after_bytes: int | None = None
    stall: bool = False
    address: str = ""

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit to a branch and returns its id."""
        text = json.dumps({file: hashlib.sha256(content).hexdigest() for file, content in sorted(files.items())})
        commit = hashlib.sha1((name + text).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository({}, {}))
        repository.commits[commit] = files
        repository.refs[branch] = commit
        return commit

    def asked(self, *parts: str, method: str = "GET") -> list[Seen]:
        """Requests of a method whose path holds all the parts."""
        return [seen for seen in self.requests if seen.method == method and all(part in seen.path for part in parts)]

    def environment(self, home: object) -> dict[str, str]:
        """Variables that lead the client library here and keep its cache in ``home``."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def blob(self, digest: str) -> bytes | None:
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return content
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *unused: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        self.hub.requests.append(Seen(self.command, path, headers.get("Range"), headers.get("Authorization")))
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            content = self.hub.blob(parts[1])
            return self._error(404, "") if content is None else self._content(content, {}, faulty=True)
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._api(parts[2:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._error(404, "")

    def _api(self, parts: list[str]) -> None:
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None:
            return self._error(404, "RepoNotFound")
        commit = repository.commit("/".join(parts[3:]) or "main")
        if commit is None:
            return self._error(404, "RevisionNotFound")
        entries = [
            {"path": name, "rfilename": name, "type": "file", "size": len(content), "oid": _git_id(content)}
            | ({"lfs": _large(content)} if len(content) >= LARGE_BYTES else {})
            for name, content in repository.commits[commit].items()
        ]
        whole = {"id": "/".join(parts[:2]), "sha": commit, "siblings": entries, "tags": [], "private": False}
        return self._json(entries if parts[2:3] == ["tree"] else whole)

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._error(404, "RepoNotFound")
        commit = repository.commit(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound")
        content = repository.commits[commit].get(file)
        if content is None:
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        if len(content) < LARGE_BYTES:
            return self._content(content, {"X-Repo-Commit": commit, "ETag": f'"{_git_id(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
        headers = {
            "Location": f"{elsewhere}/cdn/{digest}",
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{digest}"',
            "ETag": f'"{_git_id(content)}"',
        }
        return self._send(302, headers, b"")

    def _content(self, content: bytes, headers: dict[str, str], faulty: bool = False) -> None:
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked:
            start, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        limit = self.hub.cut_after_bytes if faulty else None
        self._send(status, headers, content[start:], None if limit is None else max(0, limit - start))

    def _json(self, data: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(data).encode())

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"X-Error-Code": code, **(headers or {})}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, limit: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:limit])
            self.wfile.flush()
            while limit is not None and self.hub.stall and self.hub.cut_after_bytes is not None:
                time.sleep(0.05)
        self.close_connection = limit is not None


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _large(content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 134}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Runs a hub without repositories until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.cut_after_bytes = None
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as ``Hub.add`` takes them."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
