"""`tidegate conformance` against the example client: it passes everything, and with a fault planted it fails what
the fault breaks. Then the other way to use the kit: it serves, and a program reports what it got.

    python3 tests/python/conformance.py target/debug/tidegate
"""

import concurrent.futures, json, pathlib, subprocess, sys, tempfile, urllib.request

gateway = sys.argv[1] if len(sys.argv) > 1 else "target/debug/tidegate"
example = pathlib.Path(__file__).parents[2] / "examples" / "client.py"
source = example.read_text()
arguments = ["{transport}", "{url}", "{org}", "{token}", "token={token_url}", "cursor={cursor}"]

# Each fault is an edit of the example, one that clients have in the wild, and the scenarios that must find it.
DELAY = "random.uniform(max(1, DELAYS[n] - 5), DELAYS[n] + 5)"
MOVE = 'self.seq, self.epoch, self.tag = f["seq"], f["epoch"], f["filter"]'
DEDUP = "if again and old is not None and"
FAULTS = {
    "takes its cursor from hello.head": (
        [("self.seq = self.seq if mine is None else mine", 'self.seq = f["head"]')],
        "the_head_is_no_cursor",
    ),
    "believes a hello above its cursor": (
        [("if mine is not None and int(", "if False and int(")],
        "hello_above_the_cursor",
    ),
    "ignores prev": (
        [('if f["prev"] > self.seq:\n                raise End("hole: prev', 'if False:\n                raise End("')],
        "hole_before_an_event,hole_before_a_batch,hole_found_by_a_ping,hole_right_after_hello,gap_epoch_then_hole",
    ),
    "ignores prev of a gap": (
        [('if f["prev"] > self.seq:\n                raise End("hole: gap', 'if False:\n                raise End("')],
        "hole_before_a_gap",
    ),
    "lets no gap lower its cursor": (
        [(MOVE, MOVE.replace('= f["seq"]', '= max(self.seq, f["seq"])'))],
        "gap_epoch,gap_epoch_at_the_start,gap_epoch_then_hole",
    ),
    "keeps its tag over a gap": ([(MOVE, MOVE.replace('f["filter"]', "self.tag"))], "gap_filter"),
    "keeps gaps to itself": (
        [("self.out(json.dumps(f), flush=True)", "pass")],
        "gap_retention,gap_slow_consumer,gap_in_a_replay,gap_not_sent_yet,gap_filter,gap_epoch",
    ),
    "is not moved by pings": (
        [('self.seq = f["seq"]\n        elif', 'self.seq = self.seq if t == "ping" else f["seq"]\n        elif')],
        "ping_moves_the_cursor",
    ),
    "sends no pong": ([('c.say({"type": "pong"})', "pass")], "pong"),
    "delivers what it has": ([('if e["seq"] > self.seq:', "if True:")], "seen_already,hello_below_the_cursor"),
    "forgets its cursor": (
        [("cursor=self.cursor(), tail", "cursor=None, tail")],
        "resume,start_from_a_cursor,hole_before_an_event,torn_frame",
    ),
    "has 32 bits for a seq": ([("int(p[1])", "int(p[1]) & 0xFFFFFFFF")], "large_seqs"),
    "stops at frames of unknown types": (
        [('elif t == "status":', 'elif t != "status":\n            raise End("?", False)\n        else:')],
        "unknown_frames",
    ),
    "takes each data line for a frame": ([("elif not l and data:", "if data:")], "sse_data_lines"),
    "comes back at once": ([(DELAY, "0")], "resume,again_internal,again_http_503,hole_before_an_event"),
    "lets its delays not grow": (
        [(DELAY, "max(1, DELAYS[n] - 5)"), ("time.monotonic() - self.live > 10", "True")],
        "delays_grow",
    ),
    "ignores what it is asked to wait": (
        [("end.retry_ms / 1000", "0"), (DELAY, "max(1, DELAYS[n] - 5)")],
        "retry_in_ms,retry_in_ms_of_a_refusal,retry_after",
    ),
    "stays after a goaway": ([('raise End("goaway " + f["code"])', "pass")], "goaway"),
    "retries what is final": (
        [("if not end.again:", "if False:")],
        "final_evicted,final_revoked,final_close_4500,final_denied,final_http_403,not_an_event_stream",
    ),
    "retries every status": ([("self.status >= 500 or self.status in (408, 429)", "True")], "final_http_*"),
    "stops at the page of a proxy": (
        [(" or end.foreign and self.heard", "")],
        "again_http_200_after_hello,again_http_403_after_hello,again_http_404_after_hello",
    ),
    "keeps a token that has expired": (
        [("if end.renew:", "if False:")],
        "token_expired,token_expired_at_the_start,token_expired_while_away,token_that_ends_soon",
    ),
    "skips nothing after a new epoch": ([(DEDUP, "if False and")], "same_event_after_a_new_epoch"),
    "skips what it knows at any time": ([(DEDUP, "if old is not None and")], "new_epoch_without_a_gap"),
    "skips what has a known id, however old": (
        [(DEDUP + " abs(t - old) < self.window", "if again and old is not None")],
        "same_id_long_after",
    ),
    "asks for compressed batches for ever": (
        [('self.q["batch"] = None', "pass")],
        "gzip_batch_that_cannot_be_read",
    ),
}


def kit(client, *more, scenario=None):
    """Plays scenarios to a client. Returns the exit code, and the verdicts by scenario and transport."""
    chosen = ["--scenario", scenario] if scenario else []
    command = [gateway, "conformance", "--json", *chosen, "--", sys.executable, str(client), *arguments, *more]
    ran = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert lines and "passed" in lines[-1], ran.stderr
    return ran.returncode, {(line["scenario"], line["transport"]): line for line in lines[:-1]}, ran.stderr


def shown(verdict):
    return "%(scenario)s (%(transport)s): expected %(expected)s, seen %(seen)s" % verdict


def passes(name, *more, scenario=None, skipped=()):
    code, verdicts, words = kit(example, *more, scenario=scenario)
    failed = [shown(verdict) for verdict in verdicts.values() if verdict["verdict"] == "failed"]
    assert code == 0 and not failed, "%s fails:\n%s\n%s" % (name, "\n".join(failed), words)
    left_out = {scenario for (scenario, _), verdict in verdicts.items() if verdict["verdict"] == "skipped"}
    assert left_out == set(skipped), "%s: skipped: %s" % (name, sorted(left_out))
    return "%s passes %d runs" % (name, sum(verdict["verdict"] == "passed" for verdict in verdicts.values()))


def is_found(directory, number, fault):
    edits, scenarios = FAULTS[fault]
    text = source
    for old, new in edits:
        assert text.count(old) == 1, "a client that %s: the example has %r %d times" % (fault, old, text.count(old))
        text = text.replace(old, new)
    client = pathlib.Path(directory) / ("client%d.py" % number)
    client.write_text(text)
    more = ["batch=gzip"] if "gzip_batch" in scenarios else []
    code, verdicts, words = kit(client, *more, scenario="events," + scenarios)
    assert code == 1, "a client that %s: exit code %d: %s" % (fault, code, words)
    for (scenario, transport), verdict in verdicts.items():
        expected = "passed" if scenario == "events" else "failed"
        assert verdict["verdict"] == expected, "a client that %s: %s (%s) %s" % (
            fault, scenario, transport, verdict["verdict"],
        )  # fmt: skip
    return "a client that %s fails %d runs" % (fault, len(verdicts) - 2)


def is_served():
    """The list, the streams and the reports, as a page would use them."""
    names = "events,hole_before_an_event,final_evicted,token_expired"
    server = subprocess.Popen(
        [gateway, "conformance", "--json", "--scenario", names, "--without", "token"], stdout=subprocess.PIPE, text=True
    )
    try:
        runs = json.load(urllib.request.urlopen(json.loads(server.stdout.readline())["list"]))["runs"]
        assert [run["skipped"] for run in runs if "skipped" in run] == ["--without token"] * 2, runs
        runs = [run for run in runs if "skipped" not in run]
        assert len(runs) == 6, runs

        def report(run, lines):
            request = urllib.request.Request(run["report_url"], "\n".join(lines).encode(), {"Origin": "http://a.example"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.headers["access-control-allow-origin"] == "*"
                return json.load(answer)

        def play(run):
            command = [sys.executable, str(example), run["transport"], run["url"], run["org"], run["token"]]
            client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            lines = []
            for line in client.stdout:
                lines.append(line.strip())
                if json.loads(line).get("id") == "done":
                    break
            else:
                lines.append('{"type":"end"}')
            verdict = report(run, lines)
            client.kill()
            assert verdict["verdict"] == "passed", shown(verdict)

        with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(play, runs))
        [run, *_] = json.load(urllib.request.urlopen(runs[0]["url"] + "/conformance"))["runs"]
        verdict = report(run, ['{"type":"event","seq":1,"service":"finance","id":"e-1","data":null}'])
        assert verdict["verdict"] == "failed", verdict
        return "%d runs are served and reported" % len(runs)
    finally:
        server.kill()


with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(6) as pool:
    gzip = ["gzip_batch", "gzip_batch_that_cannot_be_read"]
    tasks = [
        # What it does not offer.
        pool.submit(passes, "the example client", skipped=[*gzip, "deflate", "deflate_mixed", "sse_gzip"]),
        pool.submit(passes, "the example client with batch=gzip", "batch=gzip", scenario="gzip*,batches,resume"),
        pool.submit(passes, "the example client with auth=frame", "auth=frame", scenario="events,token_ex*,again_denied"),
        pool.submit(is_served),
    ]
    tasks += [pool.submit(is_found, directory, number, fault) for number, fault in enumerate(FAULTS)]
    failed = 0
    for task in concurrent.futures.as_completed(tasks):
        try:
            print("ok", task.result(), flush=True)
        except AssertionError as error:
            failed += 1
            print("FAILED", error, flush=True)
sys.exit(1 if failed else 0)
