#!/usr/bin/env python3
"""Follows a Tidegate stream (WebSocket or SSE). Prints one JSON line per event or gap to stdout.
This is an independent implementation of the protocol, written from PROTOCOL.md alone: keep it free of shared code.
client.py ws|sse URL ORG TOKEN [cursor=..] [services=a,b] [tail=N] [batch=gzip] [auth=header|subprotocol|frame|query]
    [token=URL]  where a new token is had, as text, if TOKEN has expired"""

import base64, gzip, hashlib, io, json, os, random, socket, struct, sys, time, urllib.parse, urllib.request, urllib.error, zlib

DELAYS = [1, 2, 5, 10, 30, 60, 120, 240, 300]
# The codes that are worth another try. Generated from spec/codes.json; made anew with:
# WRITE_CODES=1 cargo test -q -p tidegate-protocol --test codes
AGAIN = {
    "internal",
    "draining",
    "overloaded",
    "token_expired",
    "slow_consumer",
    "ping_timeout",
    "too_many_connections",
    "rate_limited",
    "auth_timeout",
    "in_progress",
    "request_timeout",
    "dedup_full",
    "log_full",
    "log_halted",
    "unknown",
}
# End of the generated block.


class End(Exception):  # the end of a connection: why, whether to retry, not before (ms), with a new token, not by the gateway
    def __init__(self, why, again=True, retry_ms=0, renew=False, foreign=False):
        super().__init__(why)
        self.why, self.again, self.retry_ms, self.renew, self.foreign = why, again, retry_ms, renew, foreign


class Conn:
    def __init__(self, url, path, headers, timeout=20):
        u = urllib.parse.urlsplit(url)
        self.buf = b""
        self.sock = socket.create_connection((u.hostname, u.port), timeout)
        self.sock.sendall(
            (
                "GET %s HTTP/1.1\r\nHost: %s\r\n" % (path, u.netloc)
                + "".join("%s: %s\r\n" % h for h in headers)
                + "\r\n"
            ).encode()
        )
        head = self.until(b"\r\n\r\n").decode("latin1").split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (l.partition(":") for l in head[1:])}

    def more(self):
        d = self.sock.recv(65536)
        if not d:
            raise End("connection closed")
        self.buf += d

    def take(self, n):
        while len(self.buf) < n:
            self.more()
        d, self.buf = self.buf[:n], self.buf[n:]
        return d

    def until(self, mark):
        while mark not in self.buf:
            self.more()
        d, self.buf = self.buf.split(mark, 1)
        return d

    def refuse(self):  # an HTTP answer instead of a stream
        body = self.take(int(self.headers.get("content-length", 0)))
        p = {}
        try:
            p = json.loads(body)
        except ValueError:
            pass
        ms = max(p.get("retry_in_ms", 0), 1000 * int(self.headers.get("retry-after", 0) or 0))
        code = p.get("code")
        raise End(
            "HTTP %d %s %s" % (self.status, code, p.get("detail")),
            code in AGAIN if code else self.status >= 500 or self.status in (408, 429),
            ms,
            code == "token_expired",
            not code and self.status != 204,
        )


def ws(url, path, token, auth):
    key = base64.b64encode(os.urandom(16)).decode()
    proto = "tidegate.v1"
    hs = []
    if auth == "header":
        hs = [("Authorization", "Bearer " + token)]
    if auth == "subprotocol":
        proto += ", tidegate.bearer." + token
    c = Conn(
        url,
        path,
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Protocol", proto),
        ]
        + hs,
    )
    if c.status != 101:
        c.refuse()
    if (
        c.headers.get("sec-websocket-accept")
        != base64.b64encode(
            hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        ).decode()
    ):
        raise End("bad accept")

    def send(op, data):
        mask = os.urandom(4)
        n = len(data)
        c.sock.sendall(
            bytes([0x80 | op, 0x80 | n] if n < 126 else [0x80 | op, 254, n >> 8, n & 255])
            + mask
            + bytes(b ^ mask[i & 3] for i, b in enumerate(data))
        )

    c.say = lambda f: send(1, json.dumps(f).encode())
    if auth == "frame":
        c.say({"type": "auth", "token": token})

    def frames():
        while True:
            h = c.take(2)
            op, n = h[0] & 15, h[1] & 127
            if n == 126:
                (n,) = struct.unpack(">H", c.take(2))
            elif n == 127:
                (n,) = struct.unpack(">Q", c.take(8))
            d = c.take(n)
            if op == 1:
                yield json.loads(d)
            elif op == 9:
                send(10, d)
            elif op == 8:
                code = struct.unpack(">H", d[:2])[0] if len(d) >= 2 else 1005
                final = 4500 <= code <= 4999 or code == 1009
                raise End("close %d %s" % (code, d[2:].decode()), not final, renew=code == 4001)

    return c, frames()


def sse(url, path, token, auth):
    if auth == "query":
        path += "&access_token=" + token
    c = Conn(
        url,
        path,
        [("Accept", "text/event-stream")]
        + ([] if auth == "query" else [("Authorization", "Bearer " + token)]),
    )
    if c.status != 200 or not c.headers.get("content-type", "").startswith("text/event-stream"):
        c.refuse()  # also a 200 that is no event stream

    def lines():
        text = b""
        while True:
            n = int(c.until(b"\r\n").split(b";")[0], 16)
            text += c.take(n)
            c.take(2)
            if n == 0:
                raise End("end of stream")
            *done, text = text.split(b"\n")
            yield from done

    def frames():
        data = []
        for l in lines():
            l = l.rstrip(b"\r")
            if l.startswith(b"data:"):
                data.append(l[5:].removeprefix(b" "))
            elif not l and data:
                yield json.loads(b"\n".join(data))
                data = []

    c.say = lambda f: None
    return c, frames()


def opened(f, most=16 << 20):  # the batch frame inside a compressed one (batch=gzip)
    with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(f["data"], validate=True))) as member:
        text = member.read(most + 1)
    if len(text) > most:
        raise End("a batch of more than %d bytes" % most)
    return json.loads(text)


class Follower:
    def __init__(
        self,
        transport,
        url,
        org,
        get_token,
        cursor=None,
        services=None,
        tail=None,
        batch=None,
        auth="header",
        out=print,
    ):
        self.open, self.url, self.org, self.get_token, self.auth, self.out, self.q = (
            {"ws": ws, "sse": sse}[transport],
            url,
            org,
            get_token,
            auth,
            out,
            {"services": services, "tail": tail, "batch": batch},
        )
        self.epoch = self.tag = self.seq = None
        self.gap_at = None
        self.heard = False  # a gateway, ever
        self.seen = {}
        self.window = 300.0
        if cursor:
            self.set(cursor)

    def set(self, cursor):
        p = cursor.split("-")
        self.epoch, self.seq, self.tag = p[0], int(p[1]), p[2] if len(p) > 2 else None

    def cursor(self):
        return (
            None
            if self.epoch is None
            else "-".join([self.epoch, str(self.seq)] + ([self.tag] if self.tag else []))
        )

    def deliver(self, e, org):
        k = (e["service"], e.get("source", ""), e["id"])
        t = time.mktime(time.strptime(e["timestamp"][:19], "%Y-%m-%dT%H:%M:%S"))
        old = self.seen.get(k)
        self.seen[k] = t
        if len(self.seen) > 100000:
            self.seen = {k: v for k, v in self.seen.items() if v > t - 300}
        again = self.gap_at is not None and time.monotonic() - self.gap_at < 300
        if again and old is not None and abs(t - old) < self.window:
            return
        self.out(json.dumps(dict(e, type="event", org=org)), flush=True)

    def frame(self, f, c):
        t = f["type"]
        if t == "hello":
            mine = self.seq
            self.window = min(300, f["dedup_window_ms"] / 1000)
            if mine is not None and int(f["cursor"].split("-")[1]) > mine:
                raise End("hello skipped from %d to %s" % (mine, f["cursor"]))
            self.set(f["cursor"])
            self.seq = self.seq if mine is None else mine
            self.log("hello", f["connection_id"], f["cursor"], "head", f["head"], "resumed", f["resumed"])
            self.live = time.monotonic()
            self.heard = True
            c.sock.settimeout(f["ping_interval_ms"] / 1000 + 10)
        elif t == "gap":
            if f["prev"] > self.seq:
                raise End("hole: gap after %d, at %d" % (f["prev"], self.seq))
            self.seq, self.epoch, self.tag = f["seq"], f["epoch"], f["filter"]
            if f["reason"] == "epoch":
                self.gap_at = time.monotonic()
            self.out(json.dumps(f), flush=True)
        elif t in ("event", "batch", "ping"):
            if f["prev"] > self.seq:
                raise End("hole: prev %d, at %d" % (f["prev"], self.seq))
            if t == "ping":
                c.say({"type": "pong"})
            if f["seq"] <= self.seq:
                return
            if f.get("compressed"):
                try:
                    f = opened(f)
                except (End, EOFError, OSError, ValueError, zlib.error) as e:
                    self.q["batch"] = None
                    raise End("a compressed batch cannot be read: %r" % e)
            for e in ([f] if t == "event" else f.get("events", [])):
                if e["seq"] > self.seq:
                    self.deliver({k: v for k, v in e.items() if k not in ("prev", "type", "org")}, f["org"])
            self.seq = f["seq"]
        elif t == "goaway":
            self.log("goaway", f)
            raise End("goaway " + f["code"])
        elif t == "error":
            why, code = "error %s: %s" % (f["code"], f["message"]), f["code"]
            raise End(why, code in AGAIN, f.get("retry_in_ms", 0), code == "token_expired")
        elif t == "status":
            self.log("status", f)

    def log(self, *a):
        print(time.strftime("%H:%M:%S"), *a, file=sys.stderr, flush=True)

    def run(self):
        n = 0
        token = None
        while True:
            self.live = None
            c = None
            q = dict(self.q, cursor=self.cursor(), tail=None if self.cursor() else self.q["tail"])
            path = "/v1/orgs/%s/stream?" % self.org + "&".join("%s=%s" % kv for kv in q.items() if kv[1])
            try:
                token = token or self.get_token()
                c, frames = self.open(self.url, path, token, self.auth)
                for f in frames:
                    self.frame(f, c)
            except (End, OSError, ValueError) as e:
                end = e if isinstance(e, End) else End(repr(e))
                end.again = end.again or end.foreign and self.heard
            finally:
                c and c.sock.close()
            self.log("end:", end.why, "| again" if end.again else "| FINAL", "| at", self.cursor())
            if not end.again:
                return end
            if end.renew:
                token = None
            if self.live and time.monotonic() - self.live > 10:
                n = 0
            d = max(random.uniform(max(1, DELAYS[n] - 5), DELAYS[n] + 5), end.retry_ms / 1000)
            n = min(n + 1, len(DELAYS) - 1)
            self.log("reconnecting in %.1f s" % d)
            time.sleep(d)


def publish(url, org, key, body, ndjson=False, idem=None):
    data = (
        body
        if isinstance(body, bytes)
        else b"\n".join(json.dumps(e).encode() for e in body) if ndjson else json.dumps(body).encode()
    )
    h = {
        "Authorization": "Bearer " + key,
        "Content-Type": "application/x-ndjson" if ndjson else "application/json",
    }
    if idem:
        h["Idempotency-Key"] = idem
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + "/v1/orgs/%s/events" % org, data, h), timeout=30
        ) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read() or b"{}")


def tokens(first, url):  # the first token, then those of the address, if there is one
    given = [first]

    def get():
        if given or not url:
            return given.pop() if url else first
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.read().decode().strip()

    return get


if __name__ == "__main__":
    kw = dict(a.split("=", 1) for a in sys.argv[5:])
    get_token = tokens(sys.argv[4], kw.pop("token", None))
    sys.exit(1 if Follower(sys.argv[1], sys.argv[2], sys.argv[3], get_token, **kw).run() else 0)
