"""Holds a gateway against its own description: python3 tests/python/openapi.py [target/debug/tidegate]

The document must be valid OpenAPI 3.1, and schemathesis must find no answer that it does not tell of.
Needs what openapi.txt lists.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

import openapi_spec_validator

HERE = pathlib.Path(__file__).resolve().parent

# Limits that the run itself would reach, as a single busy client. They are not tested here.
ROOM = ["limits.handshakes_per_second=100000", "limits.connections_per_user=1000"]


def main(gateway: str, *more: str) -> int:
    directory = tempfile.mkdtemp(prefix="tidegate-openapi-")
    command = [gateway, "dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir", directory]
    for setting in ["listen.admin=127.0.0.1:0", *ROOM]:
        command += ["--set", setting]
    log = pathlib.Path(directory, "stderr")
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True)
    try:
        said = json.loads(node.stdout.readline() or "{}")
        if "url" not in said:
            print(f"the gateway did not start: {log.read_text()}", file=sys.stderr)
            return 1
        address = said["url"] + "/openapi.json"
        with urllib.request.urlopen(address) as answer:
            document = json.load(answer)
        openapi_spec_validator.OpenAPIV31SpecValidator(document).validate()
        operations = sum(len(methods) for methods in document["paths"].values())
        print(f"{address} is valid OpenAPI {document['openapi']}: {operations} operations", flush=True)
        # From a file: with the document's own address, schemathesis would make no requests.
        described, seen = pathlib.Path(directory, "openapi.json"), pathlib.Path(directory, "seen.json")
        described.write_text(json.dumps(document))
        surroundings = dict(
            os.environ,
            TIDEGATE_ORG=said["org"],
            TIDEGATE_KEY=said["publish_key"],
            TIDEGATE_TOKEN=said["token"],
            TIDEGATE_SEEN=str(seen),
            PYTHONPATH=str(HERE),
            PYTHONDONTWRITEBYTECODE="1",
            SCHEMATHESIS_HOOKS="hooks",
        )
        program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
        program += ["run", str(described), "--url", said["url"], *more]
        run = subprocess.run(program, env=surroundings, cwd=directory)
        findings = [] if run.returncode == 0 else [f"schemathesis ended with {run.returncode}"]
        if node.poll() is not None or "panicked" in log.read_text():
            findings.append(f"the gateway ended or panicked:\n{log.read_text()}")
        findings += little(document, json.loads(seen.read_text()))
        for finding in findings:
            print(f"openapi: {finding}", file=sys.stderr)
        return 1 if findings else 0
    finally:
        node.kill()
        node.wait()
        shutil.rmtree(directory)


def little(document: dict, seen: dict) -> list[str]:
    """A run in which too little happened shows nothing: each operation must have been taken and refused."""
    findings = []
    for methods in document["paths"].values():
        for operation in methods.values():
            answers = seen.get(operation["operationId"], {})
            print(f"{operation['operationId']}: " + ", ".join(f"{n} times {status}" for status, n in answers.items()))
            led_to = set(operation["responses"]) - {"101", "431"}
            if not operation["security"]:
                # What anybody may is refused for headers alone that are no part of the description.
                led_to -= {"400", "403"}
            for kind in {status[0] for status in led_to} & {"2", "4"}:
                if not any(status[0] == kind for status in answers):
                    findings.append(f"{operation['operationId']} was never answered {kind}xx")
    return findings


if __name__ == "__main__":
    # So that the gateway is stopped and its files are removed even then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    program, *rest = sys.argv[1:] or ["target/debug/tidegate"]
    sys.exit(main(str(pathlib.Path(program).resolve()), *rest))
