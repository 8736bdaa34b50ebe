"""What schemathesis has to be told of this API beside its description; loaded by `openapi.py`."""

import atexit
import collections
import itertools
import json
import os
import re

import schemathesis

ORG = os.environ["TIDEGATE_ORG"]
IS_ORG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
LINES = "application/x-ndjson"


@schemathesis.hook
def before_load_schema(context, document):
    # OpenAPI 3.1 cannot describe the lines of a body, so a body of lines is replaced by an array.
    # Where a CloudEvent's service is may be one of three places, which a schema cannot say; here it is always
    # in the event.
    schemas = document["components"]["schemas"]
    attributes = schemas["CloudEvent"]["properties"]
    attributes["source"] = attributes.pop("service")["anyOf"][1]
    for path, lines, events in (
        ("/v1/orgs/{org}/events", "NewEventLines", "NewEvents"),
        ("/v1/events", "NewOrgEventLines", "NewOrgEvents"),
    ):
        publish = document["paths"][path]["post"]
        publish["parameters"].remove({"$ref": "#/components/parameters/Service"})
        for kind in ("application/cloudevents+json", "application/cloudevents-batch+json"):
            for example in publish["requestBody"]["content"][kind]["examples"].values():
                for event in example["value"] if isinstance(example["value"], list) else [example["value"]]:
                    event["source"] = event.pop("service")
        schemas[lines] = schemas[events]["anyOf"][1]
        for example in publish["requestBody"]["content"][LINES]["examples"].values():
            example["value"] = [json.loads(line) for line in example["value"].splitlines()]
    # Of the orgs that events may name, the key covers one.
    for event in ("NewOrgEvent", "OrgCloudEvent"):
        schemas[event]["properties"]["org"] = {"const": ORG}


@schemathesis.serializer(LINES)
def as_lines(context, value):
    values = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(value) for value in values).encode()


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Credentials are for one org: any other is 403, and would hide what lies behind it."""
    org = (path_parameters or {}).get("org")
    if isinstance(org, str) and IS_ORG.fullmatch(org):
        path_parameters["org"] = ORG
    return path_parameters


IS_KEY = re.compile(r'[!#-~][!-~]{0,119}|"([!#-Z^-~\]\[]|\\[\\"]){1,120}"')
keys = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """An Idempotency-Key stands for one request: a second one with other events is 422, which no schema says."""
    for name, value in list((case.headers or {}).items()):
        if name.lower() == "idempotency-key" and isinstance(value, str) and IS_KEY.fullmatch(value):
            case.headers[name] = f"k-{next(keys)}"


seen = collections.defaultdict(collections.Counter)


@schemathesis.hook
def after_call(context, case, response):
    seen[case.operation.definition.raw["operationId"]][response.status_code] += 1


@atexit.register
def tell_what_was_seen():
    with open(os.environ["TIDEGATE_SEEN"], "w") as file:
        json.dump(seen, file)
