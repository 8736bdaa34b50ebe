"""A gateway's process, its publishers' side and its readers' side, in the words of PROTOCOL.md alone: nothing
here is shared with the gateway."""

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse

START_MAX_SECONDS = 30
NUMBERS = itertools.count()


class Finding(Exception):
    """Something is wrong with the gateway. The text says what."""


class Interrupted(Exception):
    """The run ends: nothing is started any more."""


# Set when the run ends, so that what its threads start is not left behind.
ENDING = threading.Event()


class Refused(Exception):
    """The gateway did not start. The text is its last line."""


class Keys:
    """An API key for all orgs, and the secret of readers' tokens."""

    # How far the gateway's clock is ahead of this machine's.
    clock_ahead = 0

    def __init__(self, program, folder):
        os.makedirs(folder, exist_ok=True)
        made = subprocess.run(
            [program, "key", "create", "--data-dir", folder, "--org", "*"],
            check=True, capture_output=True, text=True)
        self.publish = made.stdout.strip()
        self.file = os.path.join(folder, "keys.toml")
        self.secret_file = os.path.join(folder, "secret")
        self.secret = hashlib.sha256(os.urandom(32)).hexdigest().encode()
        with open(self.secret_file, "wb") as file:
            file.write(self.secret)

    def token(self, org):
        def text(part):
            return base64.urlsafe_b64encode(part).rstrip(b"=")

        claims = {"sub": "faults", "org": org, "services": ["*"], "exp": int(time.time()) + self.clock_ahead + 3600}
        signed = text(b'{"alg":"HS256","typ":"JWT"}') + b"." + text(json.dumps(claims).encode())
        return (signed + b"." + text(hmac.new(self.secret, signed, hashlib.sha256).digest())).decode()


class Gateway:
    """`tidegate serve` on one log directory, over all its starts."""

    def __init__(self, program, keys, log_dir, scratch, **settings):
        self.program = program
        self.keys = keys
        self.log_dir = log_dir
        self.scratch = scratch
        self.settings = settings
        self.process = None
        self.public = self.admin = None
        os.makedirs(scratch, exist_ok=True)
        self.log_file = os.path.join(scratch, f"gateway-{next(NUMBERS)}.log")

    def _command(self):
        settings = {
            "listen.admin": '"127.0.0.1:0"',
            "log.dir": json.dumps(self.log_dir),
            "auth.keys_file": json.dumps(self.keys.file),
            "auth.keys": f"[{{ secret_file = {json.dumps(self.keys.secret_file)} }}]",
            "logs.format": '"json"',
            "drain.window": '"0s"',
            # So that readers are served from disk.
            "tail.max_bytes": '"1MiB"',
            "tail.org_max_bytes": '"1MiB"',
            "limits.request_bytes": '"1MiB"',
            "limits.connections": "1000",
            "limits.connections_per_org": "1000",
        }
        settings.update({key.replace("__", "."): value for key, value in self.settings.items()})
        command = [self.program, "serve", "--listen", "127.0.0.1:0"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return command

    def spawn(self, wrapper=(), files=None):
        """Starts it and does not wait."""
        if ENDING.is_set():
            raise Interrupted

        if files:
            wrapper = ["prlimit", f"--nofile={files}", *wrapper]
        self.log_at = os.path.getsize(self.log_file) if os.path.exists(self.log_file) else 0
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self._command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self, wrapper=(), files=None):
        """Starts it; returns the seconds that it took. Raises Refused if it ends instead."""
        began = time.monotonic()
        self.spawn(wrapper, files)
        while not (served := [line for line in self.lines() if line.get("message") == "serve"]):
            if self.process.poll() is not None:
                raise Refused(self.last_line())
            if time.monotonic() - began > START_MAX_SECONDS:
                self.kill()
                raise Finding(f"the gateway did not start within {START_MAX_SECONDS} s: {self.last_line()}")
            time.sleep(0.005)
        self.public, self.admin = (served[0][side].rsplit(":", 1) for side in ("public", "admin"))
        self.served = served[0]
        return time.monotonic() - began

    def lines(self):
        """The log lines of this start."""
        found = []
        with open(self.log_file, "rb") as log:
            log.seek(self.log_at)
            for line in log.read().decode(errors="replace").splitlines():
                try:
                    parsed = json.loads(line)
                except ValueError:
                    parsed = {"message": line, "level": "?"}
                if isinstance(parsed, dict):
                    fields = parsed.get("fields")
                    found.append({**parsed, **fields} if isinstance(fields, dict) else parsed)
        return found

    def warnings(self):
        return [line for line in self.lines() if line.get("level") in ("WARN", "ERROR") and "key" not in line]

    def last_line(self):
        with open(self.log_file, "rb") as log:
            log.seek(self.log_at)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no line"

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Finding("the gateway did not stop within 30 s of SIGTERM") from None
        self.process = None
        if code != 0:
            raise Finding(f"the gateway stopped with {code}: {self.last_line()}")

    def status(self, field):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1])
        raise KeyError(field)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connect(self, timeout=20):
        return http.client.HTTPConnection(*self.public, timeout=timeout)

    def _get(self, address, path, headers=None, method="GET"):
        connection = http.client.HTTPConnection(*address, timeout=20)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ready(self):
        return self._get(self.admin, "/readyz")[0]

    def operators(self, method, path):
        """Status and body of a request to the operators' listener."""
        status, body = self._get(self.admin, path, method=method)
        return status, body.decode(errors="replace")

    def metric(self, name):
        for line in self._get(self.admin, "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return None

    def metrics(self, name):
        """The values of a metric, by its labels as they are written."""
        found = {}
        for line in self._get(self.admin, "/metrics")[1].decode().splitlines():
            if line.startswith(name + "{"):
                labels, value = line[len(name):].rsplit(" ", 1)
                found[labels] = float(value)
        return found

    def page(self, org, after=None):
        """A page of history, as JSON."""
        query = "?limit=1000" + (f"&after={after}" if after else "")
        path = f"/v1/orgs/{org}/events{query}"
        status, body = self._get(self.public, path, {"Authorization": "Bearer " + self.keys.token(org)})
        if status != 200:
            raise Finding(f"history of {org} after {after} answered {status}: {body[:300].decode(errors='replace')}")
        return json.loads(body)

    def stream(self, org, cursor, deadline=None):
        """The frames of an event stream, up to the head that its hello names; or until `deadline`, by the
        monotonic clock."""
        connection = self.connect()
        try:
            query = urllib.parse.urlencode({"cursor": cursor})
            connection.request("GET", f"/v1/orgs/{org}/stream?{query}", headers={
                "Authorization": "Bearer " + self.keys.token(org), "Accept": "text/event-stream"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Finding(f"the stream of {org} from {cursor} answered {answer.status}: {answer.read()[:300]}")
            data, head, at = [], None, 0
            while head is None or (at < head if deadline is None else time.monotonic() < deadline):
                line = answer.readline().decode().rstrip("\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    frame = json.loads("\n".join(data))
                    data = []
                    if frame["type"] == "hello":
                        head = frame["head"]
                        at = int(frame["cursor"].split("-")[1])
                    elif frame["type"] == "error":
                        raise Finding(f"the stream of {org} from {cursor} ended: {frame}")
                    elif "seq" in frame:
                        at = frame["seq"]
                    yield frame
        finally:
            connection.close()


class Publisher(threading.Thread):
    """Publishes batches to one org until it is told to end, and keeps the account of the answers."""

    def __init__(self, gateway, account, org, size=1000, batch=5, pause=0.0, name="p"):
        super().__init__(daemon=True)
        self.gateway, self.account, self.org = gateway, account, org
        self.size, self.batch, self.pause, self.prefix = size, batch, pause, name
        self.ending = threading.Event()
        self.answers = {}
        self.failure = None

    def run(self):
        connection = None
        while not self.ending.is_set():
            try:
                connection = connection or self.gateway.connect()
                status, _ = publish(self.gateway, self.account, self.org, self.size, self.batch, self.prefix, connection)
            except (OSError, http.client.HTTPException):
                status, connection = "broken", None
                if not self.gateway.is_running():
                    self.answers["broken"] = self.answers.get("broken", 0) + 1
                    return
            self.answers[status] = self.answers.get(status, 0) + 1
            if status != 200 or self.pause:
                self.ending.wait(self.pause or 0.05)

    def end(self):
        self.ending.set()
        self.join(30)


def publish(gateway, account, org, size=1000, batch=5, prefix="p", connection=None):
    """Publishes one batch of new events. Returns the status and the answer; a 200 goes into the account."""
    events, _ = account.next(org, prefix, batch, size)
    status, answer = post(gateway, org, events, connection)
    if status == 200:
        account.acknowledged(org, events, answer)
    return status, answer


def post(gateway, org, events, connection=None):
    """Sends events to an org. Returns the status and the answer."""
    own = connection is None
    connection = connection or gateway.connect()
    try:
        connection.request("POST", f"/v1/orgs/{org}/events", body=json.dumps(events).encode(), headers={
            "Authorization": "Bearer " + gateway.keys.publish, "Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        problem = json.loads(body) if body else {}
        problem["retry_after"] = answer.getheader("Retry-After")
        return answer.status, problem
    finally:
        if own:
            connection.close()
