"""What was acknowledged, and whether a gateway tells the truth about it.

The content of an event follows from its id, so every reader can check all of it. A reader that begins before
everything must get each acknowledged event once, in order and unchanged, or a gap that covers it."""

import hashlib
import threading
import time

from gateway import Finding


def content(event_id, size):
    """The data of the event with this id: text that no other event has."""
    text = hashlib.sha256(event_id.encode()).hexdigest()
    return {"id": event_id, "size": size, "text": (text * (size // 64 + 1))[:size]}


class Acknowledged:
    """One acknowledged event."""

    __slots__ = ("epoch", "seq", "id", "at")

    def __init__(self, epoch, seq, event_id, at):
        self.epoch, self.seq, self.id, self.at = epoch, seq, event_id, at


class Mark:
    """What was acknowledged at a moment."""

    def __init__(self, counts, at):
        self.counts, self.at = counts, at


class Account:
    """The account of all publishers of a run."""

    def __init__(self):
        self.lock = threading.Lock()
        self.numbers = {}
        self.acks = {}
        self.epochs = {}
        # The seqs of events that were deleted, and of those whose deletion was not answered.
        self.deleted = {}
        self.perhaps_deleted = {}

    def next(self, org, prefix, batch, size):
        with self.lock:
            begin = self.numbers.get((org, prefix), 0)
            self.numbers[org, prefix] = begin + batch
        ids = [f"{org}.{prefix}.{number}" for number in range(begin, begin + batch)]
        events = [{"service": "s", "event": "e", "id": each, "data": content(each, size)} for each in ids]
        return events, ids

    def acknowledged(self, org, events, answer):
        epoch = answer["cursor"].split("-")[0]
        now = time.monotonic()
        if [given["id"] for given in answer["events"]] != [event["id"] for event in events]:
            raise Finding(f"the answer to a batch for {org} names other events: {answer}")
        with self.lock:
            epochs = self.epochs.setdefault(org, [])
            if epoch not in epochs:
                epochs.append(epoch)
            acks = self.acks.setdefault(org, [])
            acks.extend(Acknowledged(epoch, given["seq"], given["id"], now) for given in answer["events"])

    def mark(self):
        with self.lock:
            return Mark({org: len(acks) for org, acks in self.acks.items()}, time.monotonic())

    def orgs(self):
        with self.lock:
            return sorted(self.acks)

    def total(self):
        with self.lock:
            return sum(len(acks) for acks in self.acks.values())

    def copy(self):
        """For runs that go on from the same files in different ways."""
        with self.lock:
            other = Account()
            other.numbers = dict(self.numbers)
            other.acks = {org: list(acks) for org, acks in self.acks.items()}
            other.epochs = {org: list(epochs) for org, epochs in self.epochs.items()}
            other.deleted = {org: set(seqs) for org, seqs in self.deleted.items()}
            other.perhaps_deleted = {org: set(seqs) for org, seqs in self.perhaps_deleted.items()}
            return other

    def holes(self, org):
        """The seqs that may be missing without a gap."""
        return self.deleted.get(org, set()) | self.perhaps_deleted.get(org, set())


class Survey:
    """What a reader of one org got that began before everything. `holes`: seqs that may be missing without a gap."""

    def __init__(self, org, holes=frozenset()):
        self.org = org
        self.holes = holes
        self.events = []
        self.gaps = []
        self.at = 0

    def pass_holes(self, before):
        """Deleted events have places, and nothing comes for them."""
        while self.at + 1 < before and self.at + 1 in self.holes:
            self.at += 1

    def take(self, event):
        self.pass_holes(event["seq"])
        if event["seq"] != self.at + 1:
            raise Finding(f"{self.org}: {event['seq']} follows {self.at} without a gap")
        self.at = event["seq"]
        self.events.append((event["seq"], event["id"]))
        data = event.get("data")
        if not isinstance(data, dict) or data != content(event["id"], data.get("size", 0)):
            raise Finding(f"{self.org}: {event['id']} at {event['seq']} has content that nobody published")

    def gap(self, gap):
        self.pass_holes(gap["prev"] + 1)
        if gap["prev"] > self.at:
            raise Finding(f"{self.org}: a gap begins at {gap['prev']}, the reader is at {self.at}")
        self.gaps.append(gap)
        self.at = gap["seq"]


def by_history(gateway, org, epoch, holes=frozenset()):
    return _rest(gateway, Survey(org, holes), f"{epoch}-0")


def _rest(gateway, survey, after):
    org = survey.org
    while True:
        page = gateway.page(org, after)
        if gap := page.get("gap"):
            survey.gap(gap)
        for event in page["events"]:
            survey.take(event)
        # A second gap may lie where the first one ends.
        if not page["has_more"] and not page.get("gap"):
            return survey
        if page["cursor"] == after:
            raise Finding(f"history of {org} does not move on from {after}")
        after = page["cursor"]


def by_stream(gateway, org, epoch, holes=frozenset()):
    survey = Survey(org, holes)
    current = epoch
    for frame in gateway.stream(org, f"{epoch}-0"):
        kind = frame["type"]
        if kind == "hello":
            current = frame["epoch"]
        elif kind == "gap" and frame["reason"] != "filter":
            survey.gap(frame)
            current = frame["epoch"]
        elif kind in ("event", "batch"):
            survey.pass_holes(frame["prev"] + 1)
            if frame["prev"] > survey.at:
                raise Finding(f"{org}: a frame continues {frame['prev']}, the reader is at {survey.at}")
            for event in frame["events"] if kind == "batch" else [frame]:
                survey.take(event)
        elif kind == "ping":
            survey.pass_holes(frame["seq"] + 1)
            if frame["prev"] > survey.at:
                raise Finding(f"{org}: a ping continues {frame['prev']}, the reader is at {survey.at}")
            if frame["seq"] > survey.at:
                raise Finding(f"{org}: a ping moves from {survey.at} to {frame['seq']}: no event was hidden")
    # A gap at the head itself may come a moment later: history says at once whether there is one.
    return _rest(gateway, survey, f"{current}-{survey.at}")


class Gaps(list):
    """The gaps that readers got, and the acknowledged events in them."""

    def __init__(self):
        super().__init__()
        self.lost = set()


def check(gateway, account, mark=None, by=by_history, lossy=False, retention=None, anything=False):
    """Compares what readers get with the account. Returns the gaps, all orgs together.

    `lossy`: gaps with reason epoch may be there. `retention`: seconds for which nothing may be removed; None if
    nothing may be removed at all. `anything`: whatever is declared is right."""
    mark = mark or account.mark()
    all_gaps = Gaps()
    for org in account.orgs():
        with account.lock:
            acks = account.acks[org][:mark.counts.get(org, 0)]
            epochs = list(account.epochs[org])
            deleted, perhaps_deleted = account.deleted.get(org, ()), account.perhaps_deleted.get(org, ())
            holes = account.holes(org)
        if not acks:
            continue
        survey = by(gateway, org, acks[0].epoch, holes)
        all_gaps += survey.gaps
        got = {}
        last = {}
        for seq, event_id in survey.events:
            if event_id in got:
                raise Finding(f"{org}: {event_id} came twice, as {got[event_id]} and as {seq}")
            got[event_id] = seq
            owner, prefix, number = event_id.rsplit(".", 2)
            if owner != org or int(number) >= account.numbers.get((org, prefix), 0):
                raise Finding(f"{org}: {event_id} was never published")
            if int(number) <= last.get(prefix, -1):
                raise Finding(f"{org}: {event_id} came after number {last[prefix]}")
            last[prefix] = int(number)
        for gap in survey.gaps:
            if gap["reason"] not in ("retention", "epoch"):
                raise Finding(f"{org}: a gap has the reason {gap['reason']}")
            if not anything and not lossy and gap["reason"] == "epoch":
                raise Finding(f"{org}: a lossy boundary is declared, and nothing can have been lost: {gap}")
            if not anything and retention is None and gap["reason"] == "retention":
                raise Finding(f"{org}: events are missing, and nothing can have been removed: {gap}")
        lost = {}
        for ack in acks:
            if ack.seq in deleted and ack.id in got:
                raise Finding(f"{org}: {ack.id}, {ack.seq}, was answered as deleted, and comes again")
            if got.get(ack.id) == ack.seq or ack.seq in deleted:
                continue
            if ack.seq in perhaps_deleted and ack.id not in got:
                continue
            if ack.id in got:
                raise Finding(f"{org}: {ack.id} was acknowledged as {ack.seq} and comes as {got[ack.id]}")
            covering = [gap for gap in survey.gaps if _covers(gap, ack, epochs)]
            if not covering:
                raise Finding(
                    f"{org}: {ack.id}, acknowledged as {ack.epoch}-{ack.seq}, is lost in silence; "
                    f"the reader got up to {survey.at}, gaps {_short(survey.gaps)}")
            by_age = all(gap["reason"] == "retention" for gap in covering)
            # The gateway may have removed it after its start, which can be long after the mark.
            age = time.monotonic() - ack.at
            if not anything and by_age and retention is not None and age < retention - 1:
                raise Finding(f"{org}: {ack.id} is gone as if by age, {age:.1f} s after it was acknowledged")
            all_gaps.lost.add(ack.id)
            lost[ack.epoch] = max(lost.get(ack.epoch, 0), ack.seq)
        # A reader that had all of it hears of the loss too.
        for epoch, seq in lost.items():
            if seq > survey.at or not any(gap["prev"] < seq <= gap["seq"] for gap in survey.gaps):
                gap = gateway.page(org, f"{epoch}-{seq}").get("gap")
                if gap is None or gap["reason"] != "epoch":
                    raise Finding(f"{org}: a reader at {epoch}-{seq}, which is lost, goes on without a gap: {gap}")
    return all_gaps


def _covers(gap, ack, epochs):
    if gap["prev"] < ack.seq <= gap["seq"]:
        return True
    # What followed the position in an epoch that ended there is lost; of later epochs nothing is.
    if gap["reason"] != "epoch" or gap["prev"] >= ack.seq:
        return False
    return gap["epoch"] not in epochs or epochs.index(gap["epoch"]) > epochs.index(ack.epoch)


def _short(gaps):
    return [(gap["prev"], gap["seq"], gap["epoch"][:4], gap["reason"]) for gap in gaps]
