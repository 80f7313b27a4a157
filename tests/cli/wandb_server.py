"""A local stand-in for the server of Weights & Biases: enough of its GraphQL, file-stream and upload interface."""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

ENTITY = "us"
KEY = "0123456789" * 4  # any key is accepted


@dataclass
class Run:
    """A run as the server knows it."""

    fields: dict[str, Any] = field(default_factory=dict)  # of the requests that create and update it
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    exit_code: int | None = None


@dataclass
class Artifact:
    """A version of an artifact."""

    name: str
    kind: str
    aliases: list[str]
    metadata: str
    files: dict[str, bytes] = field(default_factory=dict)


class WandbServer(ThreadingHTTPServer):
    """HTTP server on a free port of this machine; use it as a context manager.

    Attributes
    ----------
    runs : dict[str, Run]
        Runs by id.
    requests : list of str
        Content of each request, for searches.
    unknown : list of str
        GraphQL operations that are not implemented.
    agent_commands : list of dict
        Answers to the heartbeats of a sweep's agent; then comes the command to exit.
    heartbeats : list of dict
        States of the runs that the agents reported.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.artifacts: dict[str, tuple[str, Artifact]] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.agent_commands: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.stopped: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the data of a GraphQL operation."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = name[1] if name else ""
        method = getattr(self, f"do_{operation}", None)
        if method is None:
            self.unknown.append(query)
            return {}
        return method(variables)

    def do_Viewer(self, v: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "V", "entity": ENTITY, "username": ENTITY, "email": "us@example.org", "flags": "{}",
                  "admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}  # fmt: skip
        return {"viewer": viewer}

    def do_UpsertBucket(self, v: dict[str, Any]) -> dict[str, Any]:
        inserted = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], Run())
        run.fields |= {name: value for name, value in v.items() if value is not None and name != "config"}
        if v.get("config"):
            run.config = {name: item["value"] for name, item in json.loads(v["config"]).items()}
        project = {"id": "P", "name": run.fields.get("project"), "entity": {"id": "E", "name": ENTITY}}
        bucket = {"id": v["name"], "name": v["name"], "displayName": run.fields.get("displayName"), "description": None,
                  "config": v.get("config") or "{}", "sweepName": run.fields.get("sweep"), "project": project,
                  "historyLineCount": len(run.history)}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def do_RunResumeStatus(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(v["name"])
        bucket = None
        if run is not None:
            config = {name: {"value": value} for name, value in run.config.items()}
            bucket = {"id": v["name"], "name": v["name"], "displayName": run.fields.get("displayName"),
                      "summaryMetrics": json.dumps(run.summary), "config": json.dumps(config), "tags": [],
                      "logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0, "eventsTail": "[]",
                      "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
                      "wandbConfig": json.dumps({"t": 1})}  # fmt: skip
        return {"model": {"id": "P", "name": v["project"], "entity": {"id": "E", "name": ENTITY}, "bucket": bucket}}

    def do_CreateRunFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def do_ArtifactType(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def do_ServerFeaturesQuery(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def do_CreateArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        request = v["input"]
        aliases = [alias["alias"] for alias in request.get("aliases") or []]
        collections = request.get("artifactCollectionName") or (request.get("artifactCollectionNames") or [""])[0]
        artifact = Artifact(collections, request["artifactTypeName"], aliases, request.get("metadata") or "{}")
        identifier = f"A{len(self.artifacts)}"
        self.artifacts[identifier] = (request["runName"], artifact)
        content = {"id": identifier, "state": "PENDING", "artifactSequence": {"id": "S", "latestArtifact": None}}
        return {"createArtifact": {"artifact": content}}

    def do_CreateArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/artifacts/{v['artifactID']}/{v['name']}" if v.get("includeUpload") else None
        file = {"id": "F", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": v["artifactID"], "file": file}}}

    def do_UpdateArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/artifacts/{v['artifactManifestID']}/wandb_manifest.json"
        manifest = {"id": v["artifactManifestID"], "file": {"id": "F", "uploadUrl": url, "uploadHeaders": []}}
        return {"updateArtifactManifest": {"artifactManifest": manifest}}

    def do_CreateArtifactFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "id": "F",
                "name": file["name"],
                "displayName": file["name"],
                "storagePath": f"wandb_artifacts/{file['artifactID']}/{file['md5']}",
                "uploadUrl": f"{self.url}/artifacts/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in v["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def do_CommitArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        run, artifact = self.artifacts[v["artifactID"]]
        self.runs[run].artifacts.append(artifact)
        return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "D"}}}

    def do_UpsertSweep(self, v: dict[str, Any]) -> dict[str, Any]:
        name = f"S{len(self.sweeps)}"
        self.sweeps[name] = v
        project = {"id": "P", "name": v["projectName"], "entity": {"id": "E", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def do_SweepWithRuns(self, v: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": v["sweep"], "name": v["sweep"], "config": self.sweeps[v["sweep"]]["config"], "state": "RUNNING",
                 "method": "grid", "description": None, "createdAt": None, "heartbeatAt": None, "updatedAt": None,
                 "earlyStopJobRunning": False, "bestLoss": None, "controller": None, "scheduler": None,
                 "runs": {"edges": []}}  # fmt: skip
        return {"project": {"sweep": sweep}}

    def do_CreateAgent(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": f"agent on {v['host']}"}}}

    def do_Heartbeat(self, v: dict[str, Any]) -> dict[str, Any]:
        states = json.loads(v["runState"])
        self.heartbeats.append(states)
        stops = [{"type": "stop", "run_id": run} for run in states if run in self.stopped]
        if not states:  # the agent is free
            stops = [self.agent_commands.pop(0) if self.agent_commands else {"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(stops)}}

    def store(self, path: str, content: bytes) -> None:
        """Store an uploaded file of a run or an artifact."""
        kind, owner, name = path.removeprefix("/").split("/", 2)
        target = self.runs[owner].files if kind == "storage" else self.artifacts[owner][1].files
        target[unquote(name)] = content

    def stream(self, run: Run, content: dict[str, Any]) -> None:
        """Apply a request of the file stream."""
        for name, chunk in content.get("files", {}).items():
            rows = [json.loads(line) for line in chunk["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = rows
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        if content.get("complete"):
            run.exit_code = content["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """Handler of the requests."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read_body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.requests.append(f"{self.path} {body.decode(errors='replace')}")
        return body

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.server.store(self.path, self.read_body())
        self.reply({})

    def do_POST(self) -> None:
        body = self.read_body()
        if self.path.startswith("/graphql"):
            request = json.loads(body)
            self.reply({"data": self.server.answer(request["query"], request.get("variables") or {})})
        elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            run = match[1]
            self.server.stream(self.server.runs[run], json.loads(body))
            self.reply({"stopped": run in self.server.stopped})
        else:
            self.reply({})
