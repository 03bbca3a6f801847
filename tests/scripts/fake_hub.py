"""A model hub on this machine: the routes by which huggingface_hub fetches and uploads models."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"


class FakeHub(ThreadingHTTPServer):
    """Models as {path: bytes} by name.

    Attributes:
        models: what it has; the only revisions are `main` and `COMMIT`.
        refuses: status of every answer, where it refuses everything.
        requests: (method, path) of all.
        made: body of the last request for a new model.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.refuses, self.requests, self.made = {}, None, [], None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def made_private(self):
        """Whether the last new model is so; newer clients call it visibility."""
        return self.made.get("private") is True or self.made.get("visibility") == "private"


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body=b""):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if self.server.refuses is not None:
            return self.send(self.server.refuses, {"error": "no"})
        if self.command == "POST":
            return self.take(path, body)
        parts = path.strip("/").split("/")
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[:2])
        files, rest = self.server.models.get(name), parts[4:] if api else parts[2:]
        if files is None:
            return self.send(404, {"error": "absent"}, {"X-Error-Code": "RepoNotFound"})
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self.send(404, {"error": "absent"}, {"X-Error-Code": "RevisionNotFound"})
        if not api:
            return self.send_file(files["/".join(rest[2:])])
        if rest[:1] == ["tree"]:
            return self.send(200, [describe(path, content) for path, content in files.items()])
        siblings = [{"rfilename": path} for path in files]
        return self.send(200, {"id": name, "sha": COMMIT, "siblings": siblings})

    def take(self, path, body):
        if path == "/api/repos/create":
            made = self.server.made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.server.models.setdefault(name, {})
            return self.send(200, {"url": f"{self.server.address}/{name}"})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        name, action = "/".join(path.split("/")[3:5]), path.split("/")[5]
        if action == "preupload":
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **plain} for file in json.loads(body)["files"]]
            return self.send(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.models[name][line["value"]["path"]] = content
            elif line["key"] == "deletedFile":
                del self.server.models[name][line["value"]["path"]]
        where = f"{self.server.address}/{name}/commit/{COMMIT}"
        return self.send(200, {"commitUrl": where, "commitOid": COMMIT, "success": True})

    def send(self, status, content, headers=()):
        self.send_bytes(
            status, json.dumps(content).encode(), {"Content-Type": "application/json", **dict(headers)}
        )

    def send_file(self, content):
        digest = hashlib.sha256(content).hexdigest()
        self.send_bytes(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

    def send_bytes(self, status, content, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def describe(path, content):
    """A file of a model's tree; all are kept by their SHA-256."""
    digest = hashlib.sha256(content).hexdigest()
    lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
    return {"type": "file", "path": path, "size": len(content), "oid": digest[:40], "lfs": lfs}


@contextmanager
def serve_hub():
    """Yield a running `FakeHub`."""
    hub = FakeHub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
