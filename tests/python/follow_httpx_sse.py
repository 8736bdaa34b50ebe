"""Reads a stream as a user of httpx-sse would, and prints each frame as a line. Called by tests/npm/clients.mjs;
docs/clients.md has its text.

    python follow_httpx_sse.py <address of the stream> <address of a token>
"""

import json
import sys

# snippet: httpx-sse
import time

import httpx
from httpx_sse import connect_sse


def frames(address, get_token):
    # The gateway sends something every 25 s (ping.interval); httpx itself would wait for 5 s.
    client = httpx.Client(timeout=httpx.Timeout(10, read=35))
    cursor, delay = "", 3
    while True:
        try:
            headers = {"Authorization": f"Bearer {get_token()}", "Last-Event-ID": cursor}
            with connect_sse(client, "GET", address, headers=headers) as source:
                source.response.raise_for_status()
                for sse in source.iter_sse():
                    yield json.loads(sse.data)
                    cursor = sse.id or cursor
                    delay = delay if sse.retry is None else sse.retry / 1000
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 and error.response.status_code not in (408, 429):
                raise
        except httpx.TransportError:
            pass  # also a stream that was cut (RemoteProtocolError), which is not a ReadError
        time.sleep(delay)


# end

for frame in frames(sys.argv[1], lambda: httpx.get(sys.argv[2]).text):
    print(json.dumps(frame), flush=True)
