"""A soak: events at a steady rate into a small log whose segments are begun and removed all the time, with readers
that come and go. It prints what holds memory, and says at the end whether memory grew and whether the gauges explain
it."""

import random
import statistics
import threading
import time

import account as accounts
from account import Account, check
from cases import DEDUP_SECONDS, SMALL, Run, load
from gateway import Finding

ORGS = [f"org{number}" for number in range(8)]
READERS = 16
EVENT_BYTES, BATCH, PAUSE_SECONDS = 1000, 5, 0.2
# Together the tails want more than they may have: they are at their bounds after some seconds, and stay there.
TAILS = {"tail__max_bytes": '"4MiB"', "tail__org_max_bytes": '"1MiB"'}
SAMPLE_SECONDS = 5
MIB = 1 << 20
# The pages of readers reach their bound after two minutes, so the first three are not compared. After them, memory
# goes up and down by some MiB.
WARM_UP_SECONDS = 180
GROWTH_SHARE, GROWTH_BYTES = 1.1, 8 * MIB
# What no gauge names goes up and down by less.
UNNAMED_GROWTH_BYTES = 6 * MIB
# As in it/resident.rs: what the allocator loses by rounding, and what it holds for the next request bodies.
UNNAMED_SHARE, UNNAMED_BYTES = 0.25, 16 * MIB


class Reader(threading.Thread):
    """Comes to an org, reads it from the beginning, goes, and comes to another, until it is told to end."""

    def __init__(self, gateway, account, chance):
        super().__init__(daemon=True)
        self.gateway, self.account, self.random = gateway, account, random.Random(chance)
        self.ending = threading.Event()
        self.visits = self.events = 0
        self.failure = None

    def run(self):
        while not self.ending.wait(self.random.uniform(0, 1)):
            org = self.random.choice(ORGS)
            with self.account.lock:
                epochs = self.account.epochs.get(org)
            if not epochs:
                continue
            try:
                self._visit(org, epochs[0])
            except Exception as failure:  # noqa: BLE001
                self.failure = repr(failure)
                return

    def _visit(self, org, epoch):
        survey = accounts.Survey(org)
        deadline = time.monotonic() + self.random.uniform(0, 10)
        last = None
        try:
            for frame in self.gateway.stream(org, f"{epoch}-0", deadline):
                last = frame["type"]
                if last == "gap":
                    survey.gap(frame)
                elif last == "event":
                    survey.take(frame)
                elif last == "batch":
                    for event in frame["events"]:
                        survey.take(event)
        except TimeoutError:
            head = self.gateway.operators("GET", f"/v1/orgs/{org}")[1]
            raise Finding(f"nothing came for {org} after {survey.at} (a frame {last}): {head}") from None
        self.visits += 1
        self.events += len(survey.events)


def soak(options):
    """Returns whether all was right, memory did not grow, and the gauges explain it."""
    run = Run(options, "soak", options.seed)
    options.runs.append(run)
    gateway = run.gateway(f"{run.folder}/log", **SMALL, **TAILS)
    account = Account()
    gateway.start()
    readers = [Reader(gateway, account, f"{options.seed} {number}") for number in range(READERS)]
    with load(gateway, account, ORGS, size=EVENT_BYTES, batch=BATCH, pause=PAUSE_SECONDS) as publishers:
        for reader in readers:
            reader.start()
        try:
            samples = _samples(gateway, account, readers, options.soak * 60)
        finally:
            for reader in readers:
                reader.ending.set()
            for reader in readers:
                reader.join(30)
    answers = {}
    for publisher in publishers:
        for status, count in publisher.answers.items():
            answers[status] = answers.get(status, 0) + count
    if set(answers) != {200}:
        raise Finding(f"publishes were answered {answers}")
    check(gateway, account, retention=DEDUP_SECONDS)
    gateway.stop()
    print(f"{account.total()} events, {sum(reader.visits for reader in readers)} visits of readers, "
          f"which got {sum(reader.events for reader in readers)} events")
    return _compare(samples)


def _samples(gateway, account, readers, seconds):
    """What held memory, each few seconds: (seconds, resident bytes, bytes by holder)."""
    began = time.monotonic()
    samples, printed = [], 0
    while (now := time.monotonic() - began) < seconds:
        for reader in readers:
            if reader.failure:
                raise Finding(f"a reader failed: {reader.failure}")
        holders = gateway.metrics("tidegate_memory_bytes")
        samples.append((now, gateway.status("VmRSS") << 10, holders))
        if now // 60 + 1 > printed:
            printed += 1
            _print(samples[-1], account)
        time.sleep(min(SAMPLE_SECONDS, max(0, seconds - now)))
    _print(samples[-1], account)
    return samples


def _print(sample, account):
    seconds, resident, holders = sample
    named = ", ".join(
        f"{labels.split(chr(34))[1]} {size / MIB:.1f}"
        for labels, size in sorted(holders.items(), key=lambda each: -each[1]) if size)
    print(f"{seconds / 60:4.1f} min, {account.total()} events: {resident / MIB:.1f} MiB resident, "
          f"{sum(holders.values()) / MIB:.1f} named: {named}", flush=True)


def _compare(samples):
    """The first third against the last one, by their medians."""
    warm = [sample for sample in samples if sample[0] >= WARM_UP_SECONDS]
    if samples[-1][0] < 3 * WARM_UP_SECONDS:
        print(f"memory was not compared: that takes {3 * WARM_UP_SECONDS // 60} minutes")
        return True
    third = len(warm) // 3
    first, last = (
        {"resident": statistics.median(sample[1] for sample in part),
         "unnamed": statistics.median(sample[1] - sum(sample[2].values()) for sample in part),
         **{labels: statistics.median(sample[2].get(labels, 0) for sample in part) for labels in warm[-1][2]}}
        for part in (warm[:third], warm[-third:]))
    for labels in sorted(first, key=lambda each: first[each] - last[each]):
        if abs(last[labels] - first[labels]) >= MIB / 10:
            print(f"  {labels}: {first[labels] / MIB:.1f} MiB in the first third, {last[labels] / MIB:.1f} in the last")
    grew = last["resident"] > first["resident"] * GROWTH_SHARE + GROWTH_BYTES
    grew = grew or last["unnamed"] > first["unnamed"] + UNNAMED_GROWTH_BYTES
    print(f"memory {'GREW' if grew else 'did not grow'}: {first['resident'] / MIB:.1f} MiB resident in the first third "
          f"({first['unnamed'] / MIB:.1f} without a name), {last['resident'] / MIB:.1f} in the last "
          f"({last['unnamed'] / MIB:.1f})")
    named = last["resident"] - last["unnamed"]
    is_explained = -0.1 * named <= last["unnamed"] <= UNNAMED_SHARE * named + UNNAMED_BYTES
    print(f"the gauges {'explain' if is_explained else 'DO NOT EXPLAIN'} it: they name {named / last['resident']:.0%}")
    return not grew and is_explained
