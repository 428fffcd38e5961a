"""The part of the Hugging Face Hub that a model needs, on the loopback address."""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse

COMMIT = 40 * "a"


class Handler(http.server.BaseHTTPRequestHandler):
    root: pathlib.Path  # repositories are its folders USER/NAME

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe(self.root / parts[2] / parts[3], parts[4:])
        elif parts[2:3] == ["resolve"]:
            self._send_file(self.root / parts[0] / parts[1] / parts[4])
        else:
            self._send(404)

    def do_POST(self):
        parts = urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = wanted.get("organization") or "me", wanted["name"].split("/")[-1]
            (self.root / "/".join(name)).mkdir(parents=True, exist_ok=True)
            host = self.headers["Host"]
            self._send_json({"url": f"http://{host}/{'/'.join(name)}"})
        elif "preupload" in parts:
            names = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._send_json({"files": [{"path": name, **how} for name in names]})
        elif "commit" in parts:
            self._commit(self.root / parts[2] / parts[3], body.splitlines())
        else:
            self._send_json({})

    def _describe(self, repository, rest):
        if not repository.is_dir():
            self._send(404, headers={"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            rows = [
                {"type": "file", "path": x.name, "size": x.stat().st_size, "oid": "b"}
                for x in repository.iterdir()
            ]
            self._send_json(rows)
        else:
            names = [{"rfilename": x.name} for x in repository.iterdir()]
            about = {"id": "me/model", "sha": COMMIT, "siblings": names}
            self._send_json(about)

    def _commit(self, repository, lines):
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                (repository / value["path"]).write_bytes(content)
            elif line["key"] == "deletedFile":
                (repository / value["path"]).unlink()
        name = repository.relative_to(self.root)
        url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        self._send_json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _send_file(self, path):
        content = path.read_bytes()
        digest = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        self._send(200, content, headers)

    def _send_json(self, value):
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(value).encode(), headers)

    def _send(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def started(root: pathlib.Path):
    """Serves the repositories in a folder. -> the environment of programs that use
    them, with a cache of their own beside the folder."""
    handler = type("Handler", (Handler,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": f"{root}-cache",
            "HF_TOKEN": "hf_of_nobody",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        server.shutdown()
