"""A server that speaks the protocol of the Hugging Face Hub, for the real client: local, with faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

# Files of so many bytes are kept apart from git, and fetched from another host.
LARGE = 10_000
PAGE = 4


@dataclass
class Commit:
    """A state of a repository."""

    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A repository of a model.

    Parameters
    ----------
    commits : list of Commit
        Of its main branch, the first one first.
    branches, tags : dict of str to str
        Names of commits.
    gated : bool
        Whether its files need the token `TOKEN`.
    sizes : dict of str to int
        What is listed as the size of a file, where that is not true.
    """

    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)

    def commit(
        self, title: str, files: dict[str, bytes], *, branch: str | None = "main", tag: str | None = None
    ) -> str:
        """Add a commit, at the end of a branch or under a tag."""
        sha = hashlib.sha1(
            f"{len(self.commits)} {title} {sorted(files)}".encode() + b"".join(files.values())
        ).hexdigest()
        self.commits.append(Commit(sha, title, files))
        for names, name in ((self.branches, branch), (self.tags, tag)):
            if name is not None:
                names[name] = sha
        return sha

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a branch, a tag or a name of a commit."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.commits if commit.sha == sha), None)


TOKEN = "hf_secretsecretsecretsecretsecretsecret"


@dataclass
class Fault:
    """What goes wrong with the next requests whose path fits."""

    path: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    flip: bool = False


@dataclass
class Request:
    """A request that was answered."""

    method: str
    path: str
    headers: dict[str, str]
    status: int
    sent: int = 0

    @property
    def file(self) -> str | None:
        """The file of a repository that was asked for."""
        found = re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", self.path)
        return None if found is None else found[1]


class HubServer(ThreadingHTTPServer):
    """The server; `repositories` may change while it runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.blobs: dict[str, bytes] = {}
        # Called when a large file is asked for.
        self.watch = lambda: None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> list[str]:
        """The files that were asked for."""
        return [request.file for request in self.requests if request.file is not None]

    def sent(self) -> int:
        """The bytes of large files that were sent."""
        return sum(request.sent for request in self.requests if request.path.startswith("/cdn/"))

    def fault_of(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request, address) -> None:
        """A client that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.where, self.query = unquote(parts.path), parse_qs(parts.query)
        if self.where.startswith("/cdn/"):
            self.server.watch()
        self.fault = self.server.fault_of(self.where)
        if self.fault is not None and self.fault.status is not None:
            self.answer(self.fault.status, b"{}", **self.fault.headers)
            return
        for pattern, act in (
            (r"/api/models", self.models),
            (r"/api/models/([^/]+/[^/]+)/refs", self.refs),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            (r"/api/models/([^/]+/[^/]+)/commits/([^/]+)", self.commits),
            (r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", self.revision),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/cdn/([0-9a-f]+)", self.blob),
        ):
            # A revision is one part of the path, however it is spelled.
            found = re.fullmatch(pattern, parts.path)
            if found:
                act(*map(unquote, found.groups()))
                return
        self.refuse(404, "")

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **names}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        if self.command != "HEAD":
            body = content if self.fault is None or self.fault.cut is None else content[: self.fault.cut]
            if self.fault is not None and self.fault.flip:
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.wfile.write(body)
            sent = len(body)
            if sent < len(content):
                self.close_connection = True
        self.server.requests.append(Request(self.command, self.where, dict(self.headers), status, sent))

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.answer(status, b"{}", **({"X_Error_Code": code} if code else {}), X_Error_Message=message)

    def found(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None and self.headers.get("Authorization"):
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif repository is None:
            # Who is not known is not told what there is.
            self.refuse(401, "", "Invalid username or password.")
        return repository

    def state(self, name: str, revision: str) -> Commit | None:
        repository = self.found(name)
        if repository is None:
            return None
        commit = repository.find(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def listed(self, entries: list) -> None:
        """Answer with a page of a list, and where the next one is."""
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            kept = {name: values[0] for name, values in self.query.items()}
            following = f"{self.server.url}{urlsplit(self.path).path}?{urlencode({**kept, 'cursor': start + PAGE})}"
            headers["Link"] = f'<{following}>; rel="next"'
        self.answer(200, json.dumps(entries[start : start + PAGE]).encode(), **headers)

    def models(self) -> None:
        author, search = (self.query.get(name, [""])[0] for name in ("author", "search"))
        names = [name for name in self.server.repositories if name.startswith(f"{author}/") and search in name]
        self.listed([{"id": name, "modelId": name} for name in names])

    def refs(self, name: str) -> None:
        repository = self.found(name)
        if repository is not None:
            branches, tags = (
                [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]
                for kind, names in (("heads", repository.branches), ("tags", repository.tags))
            )
            self.answer(200, json.dumps({"branches": branches, "tags": tags, "converts": []}).encode())

    def revision(self, name: str, revision: str) -> None:
        commit = self.state(name, revision)
        if commit is not None:
            self.answer(200, json.dumps({"id": name, "sha": commit.sha}).encode())

    def commits(self, name: str, revision: str) -> None:
        commit = self.state(name, revision)
        if commit is not None:
            all_of = self.server.repositories[name].commits
            until = all_of[: all_of.index(commit) + 1]
            fixed = {"message": "", "authors": [{"user": "x"}], "date": "2024-01-01T00:00:00.000Z"}
            self.listed([{"id": one.sha, "title": one.title, **fixed} for one in reversed(until)])

    def tree(self, name: str, revision: str) -> None:
        commit = self.state(name, revision)
        if commit is None:
            return
        entries: list[dict] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "logs"}]
        for path, content in sorted(commit.files.items()):
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry = {"type": "file", "oid": git, "size": len(content), "path": path}
            if len(content) >= LARGE:
                size = self.server.repositories[name].sizes.get(path, len(content))
                large = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
                entry |= {"size": size}
                entry |= {"oid": "1" * 40, "lfs": large}
            entries.append(entry)
        self.listed(entries)

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.state(name, revision)
        if commit is None:
            return
        if self.server.repositories[name].gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "GatedRepo", "Access to this model is restricted.")
            return
        content = commit.files.get(path)
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        about = {"X_Repo_Commit": commit.sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if len(content) < LARGE:
            self.part(content, about)
            return
        digest = hashlib.sha256(content).hexdigest()
        self.server.blobs[digest] = content
        # Another host, as far as a client can tell, with a signature in the address.
        where = f"http://localhost:{self.server.server_port}/cdn/{digest}?X-Signature=abcdef"
        large = {"X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{digest}"', "Location": where}
        self.answer(302, b"", **about, **large)

    def blob(self, digest: str) -> None:
        self.part(self.server.blobs[digest], {"ETag": f'"{digest}"'})

    def part(self, content: bytes, about: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.answer(200, content, **about)
            return
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        if first >= len(content):
            self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        last = min(last, len(content) - 1)
        self.answer(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}", **about)


@contextmanager
def serving() -> Iterator[HubServer]:
    """Run a server for a while."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
