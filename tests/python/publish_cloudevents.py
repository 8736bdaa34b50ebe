"""Publishes CloudEvents by both interfaces of the official SDK, in each mode; one JSON line for each event that is
then to be in the log: python3 tests/python/publish_cloudevents.py URL, with an API key in TIDEGATE_KEY.
"""

import datetime
import json
import os
import sys
import urllib.parse
from http.client import HTTPConnection

from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.conversion import to_binary, to_structured
from cloudevents.v1.http import CloudEvent as EarlierEvent

url = urllib.parse.urlsplit(sys.argv[1])
made = 0


def attributes(**more):
    global made
    made += 1
    some = {"id": f"pypi-{made}", "source": "urn:python:sdk", "type": "com.example.shift.started", "service": "staff"}
    return {**some, "specversion": "1.0", **more}


def send(headers, body):
    """What the SDK made, with no header added but for the key: not even a content type where it names none."""
    connection = HTTPConnection(url.netloc, timeout=60)
    connection.request("POST", url.path, body, {**headers, "Authorization": "Bearer " + os.environ["TIDEGATE_KEY"]})
    answer = connection.getresponse()
    said = answer.read().decode()
    if (answer.status, said) != (202, "") or not answer.getheader("Tidegate-Cursor"):
        sys.exit(f"answered {answer.status}: {said}")
    connection.close()


def tell(said, data):
    kept = {name: value for name, value in said.items() if name not in ("specversion", "datacontenttype", "time")}
    time = said["time"].astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
    print(json.dumps({**kept, "time": time.replace("+00:00", "Z"), "data": data}), flush=True)


noon = datetime.datetime(2026, 11, 24, 13, 0, 0, 250000, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
data = {"grüße": ["€", "😀", 1.5, None], "amount": "1200.00"}

for write in (http.to_binary_event, http.to_structured_event):
    for event in (
        # The SDK encodes characters that a header cannot hold.
        CloudEvent(
            attributes(
                subject='100% of "größe" €', partitionkey="k%1", time=noon, datacontenttype="application/json"
            ),
            data,
        ),
        CloudEvent(attributes(), {"n": 1}),
        CloudEvent(attributes(subject="no data")),
    ):
        message = write(event)
        send(message.headers, message.body)
        # The SDK adds a time to events without one.
        tell(event.get_attributes(), event.get_data())

# The SDK writes no batches: join what it writes into an array.
batch = [CloudEvent(attributes(), data), CloudEvent(attributes(subject="größe"), data)]
bodies = [http.to_structured_event(event).body for event in batch]
send({"Content-Type": "application/cloudevents-batch+json"}, b"[" + b",".join(bodies) + b"]")
for event in batch:
    tell(event.get_attributes(), event.get_data())

for write in (to_binary, to_structured):
    said = attributes(subject="the earlier interface", datacontenttype="application/json")
    headers, body = write(EarlierEvent({**said, "time": noon.isoformat()}, data))
    send(headers, body)
    tell({**said, "time": noon}, data)
