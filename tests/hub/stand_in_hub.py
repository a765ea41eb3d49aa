"""A local stand-in for the Hub: repositories in memory, the calls that huggingface_hub makes of them."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


class StandIn(ThreadingHTTPServer):
    """Serves `repos`: name -> branch -> list of commits, each a dict of files; newest last."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.private, self.objects, self.asked = {}, {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cut = None  # name of a file of which half is sent
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def files(self, repo, revision="main"):
        """Files of the newest commit of a branch, or of a commit by its name."""
        branches = self.repos[repo]
        if revision in branches:
            return branches[revision][-1] if branches[revision] else {}
        return next(files for commits in branches.values() for files in commits if name_of(files) == revision)

    def put(self, repo, files, revision="main"):
        """Make a commit with these files and no others."""
        self.repos.setdefault(repo, {}).setdefault(revision, []).append(dict(files))


def name_of(files):
    """A commit's name, 40 hexadecimal digits."""
    parts = [name.encode() + hashlib.sha1(data).digest() for name, data in sorted(files.items())]
    return hashlib.sha1(b"".join(parts)).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, code=200, headers=()):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for key, text in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code, kind):
        self.answer({"error": kind}, code, {"X-Error-Code": kind, "X-Error-Message": kind})

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self):
        hub, data = self.server, self.body()
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        hub.asked.append((self.command, "/".join(path)))
        if path == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if path[0] == "lfs":
            hub.objects[path[1]] = data
            return self.answer({})
        if self.command in ("POST", "PUT") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        if path == ["api", "repos", "create"]:
            wanted = json.loads(data)
            repo = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            if repo in hub.repos:
                return self.answer({"error": "exists", "url": f"{hub.url}/{repo}"}, 409)
            hub.repos[repo] = {"main": []}
            hub.private[repo] = wanted.get("private") or wanted.get("visibility") == "private"
            return self.answer({"url": f"{hub.url}/{repo}"})
        if path[:2] == ["api", "models"]:
            return self.api("/".join(path[2:4]), path[4:], data)
        if len(path) > 2 and path[2:] == ["info", "lfs", "objects", "batch"]:
            wanted = json.loads(data)["objects"]
            actions = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}", "header": {}}}}
                for one in wanted
            ]
            return self.answer({"transfer": "basic", "objects": actions})
        if len(path) > 4 and path[2] == "resolve":
            return self.resolve("/".join(path[:2]), path[3], "/".join(path[4:]))
        return self.refuse(404, "EntryNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def api(self, repo, rest, data):
        hub = self.server
        if repo not in hub.repos:
            return self.refuse(404, "RepoNotFound")
        branches = hub.repos[repo]
        action, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        if action == "branch":
            if revision in branches:
                return self.refuse(409, "Conflict")
            branches[revision] = list(branches["main"])
            return self.answer({})
        if action == "preupload":
            files = json.loads(data)["files"]
            kinds = {True: "lfs", False: "regular"}
            answers = [
                {"path": one["path"], "uploadMode": kinds[one["path"].endswith(".safetensors")]}
                | {"shouldIgnore": False, "oid": None}
                for one in files
            ]
            return self.answer({"files": answers})
        if action == "commit":
            return self.commit(repo, revision, data)
        try:
            files = hub.files(repo, revision)
        except (KeyError, StopIteration):
            return self.refuse(404, "RevisionNotFound")
        if action == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return self.answer(entries)
        siblings = [{"rfilename": name} for name in files]
        return self.answer({"id": repo, "modelId": repo, "sha": name_of(files), "siblings": siblings})

    def commit(self, repo, revision, data):
        hub = self.server
        files = dict(hub.files(repo, revision))
        for line in data.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
        hub.put(repo, files, revision)
        url = f"{hub.url}/{repo}/commit/{name_of(files)}"
        return self.answer({"success": True, "commitUrl": url, "commitOid": name_of(files)})

    def resolve(self, repo, revision, name):
        hub = self.server
        try:
            content = hub.files(repo, revision)[name]
        except (KeyError, StopIteration):
            return self.refuse(404, "EntryNotFound" if repo in hub.repos else "RepoNotFound")
        headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if hub.cut == name and self.command == "GET":
            content = content[: len(content) // 2]
        return self.answer(content, 200, headers)
