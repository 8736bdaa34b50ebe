"""The cases. Each takes a Run, and raises Finding if the gateway is wrong and Skip if the machine lacks
something. What a case prints at its end says how much has happened in it."""

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
import zlib

import account as accounts
from account import Account, check
from gateway import ENDING, Finding, Gateway, Interrupted, Keys, Publisher, Refused, publish
from volumes import Skip, Volumes, allocated, clone, need, need_root

MIB = 1 << 20
# Small files, so that segments are begun, sealed and removed all the time: 1 MiB each.
SMALL = {"log__max_bytes": '"4MiB"', "log__min_free": '"1MiB"', "dedup__window": '"5s"'}
# Nothing is removed.
KEEP = {"log__max_bytes": '"15MiB"', "log__min_free": '"1MiB"'}
DEDUP_SECONDS = 5


class Run:
    """What a case has: the program, its amounts, a folder, a source of chance, and volumes."""

    def __init__(self, options, name, seed):
        self.options, self.program, self.seed = options, options.program, f"{seed} {name}"
        self.folder = os.path.join(options.scratch, name)
        os.makedirs(self.folder, exist_ok=True)
        self.random = self.chance("case")
        self.keys = Keys(self.program, os.path.join(self.folder, "keys"))
        self.volumes = Volumes(os.path.join(self.folder, "mounts"))
        self.gateways = []

    def chance(self, part):
        """A source of chance for a part of the case, so that parts may run side by side."""
        return random.Random(f"{self.seed} {part}")

    def gateway(self, log_dir, **settings):
        gateway = Gateway(self.program, self.keys, log_dir, os.path.join(self.folder, "logs"), **settings)
        self.gateways.append(gateway)
        return gateway

    def close(self):
        for gateway in self.gateways:
            gateway.kill()
        self.volumes.close()


@contextlib.contextmanager
def load(gateway, account, orgs, **how):
    """Publishers, one for each org, for as long as the block runs."""
    publishers = [Publisher(gateway, account, org, **how) for org in orgs]
    for publisher in publishers:
        publisher.start()
    try:
        yield publishers
    finally:
        for publisher in publishers:
            publisher.end()


def until(what, seconds, test):
    """Waits until `test` holds."""
    deadline = time.monotonic() + seconds
    while not (found := test()):
        if time.monotonic() > deadline:
            raise Finding(f"within {seconds} s: {what}")
        if ENDING.is_set():
            raise Interrupted
        time.sleep(0.02)
    return found


def goes_on(gateway, account, orgs):
    """Each org takes an event and gives it back."""
    for org in orgs:
        status, answer = publish(gateway, account, org, size=64, batch=1)
        deadline = time.monotonic() + 5
        # An org that stores more than its share of a full log may have to wait for the cut.
        while answer.get("limit") == "log.max_bytes" and time.monotonic() < deadline:
            time.sleep(0.05)
            status, answer = publish(gateway, account, org, size=64, batch=1)
        if status != 200:
            raise Finding(f"a publish to {org} was answered {status}: {answer}")
    check(gateway, account, anything=True)


def in_parallel(work, items):
    """Two at a time. The first finding ends it."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(work, item) for item in items]
        try:
            return [done.result() for done in waiting]
        except BaseException:
            for other in waiting:
                other.cancel()
            raise


def segments(log_dir):
    folder = os.path.join(log_dir, "segments")
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".seg"))


def holds(folder, word):
    """Whether a text is in a file."""
    found = subprocess.run(["grep", "-rqF", word, folder], capture_output=True)
    return found.returncode == 0


# --- power cuts ------------------------------------------------------------------------------------------


def power_cuts(run):
    """Images of a disk while the gateway writes to it are what a power cut leaves."""
    need_root()
    need("mkfs.xfs", "mkfs.ext4", "losetup", "strace")
    images = run.options.images
    xfs_file, xfs = run.volumes.image("xfs", (1536 if images <= 100 else 8192) * MIB, "xfs", "-m", "reflink=1")
    done = []
    for sync, share in (("always", images * 5 // 8), ("interval", images - images * 5 // 8)):
        rounds = -(-share // 20)
        for number in range(rounds):
            done += _power_run(run, xfs, sync, min(20, share - 20 * number), f"{sync}{number}")
    lossy = sum(done)
    return f"{len(done)} images, {lossy} with a declared loss"


def _power_run(run, xfs, sync, count, name):
    image, point = run.volumes.image(name, 96 * MIB, "ext4", "-F", where=xfs)
    os.chmod(point, 0o700)
    settings = {**SMALL, "log__sync": f'"{sync}"'}
    gateway = run.gateway(os.path.join(point, "log"), **settings)
    account = Account()
    orgs = ["o1", "o2", "o3", "o4"]
    cuts = []
    # The first images are of the first start.
    gateway.spawn()
    for moment in range(2 if count > 5 else 0):
        time.sleep(run.random.uniform(0.02, 0.08))
        cuts.append((_image(run, image, xfs, f"{name}-{moment}"), account.mark()))
    gateway.kill()
    # Syncs that are seldom take longer here, or no image falls between that of an ended segment and that of the next
    # one's snapshot.
    slow = strace(gateway.log_dir, ["fdatasync:delay_exit=200000"]) if sync == "interval" else ()
    gateway.start(slow)
    with load(gateway, account, orgs, size=2500, batch=3):
        for moment in range(len(cuts), count):
            time.sleep(run.random.uniform(0.05, 0.4))
            mark = account.mark()
            cuts.append((_image(run, image, xfs, f"{name}-{moment}"), mark))
    gateway.kill()
    run.volumes.unmount(point)
    os.unlink(image)
    if sum(1 for _, mark in cuts if mark.counts) < count // 2:
        raise Finding("too few images were taken while events were acknowledged")
    return in_parallel(lambda cut: _after_cut(run, account, *cut, settings, sync), cuts)


def _image(run, image, xfs, name):
    target = os.path.join(xfs, f"cut-{name}.img")
    clone(image, target)
    return target


def _after_cut(run, account, image, mark, settings, sync):
    name = os.path.basename(image).removesuffix(".img")
    point = run.volumes.loop(name, image)
    gateway = run.gateway(os.path.join(point, "log"), **settings)
    try:
        try:
            gateway.start()
        except Refused as refused:
            raise Finding(f"{name}: the gateway does not start after a power cut: {refused}") from None
        by = accounts.by_stream if zlib.crc32(name.encode()) % 2 else accounts.by_history
        own = account.copy()
        try:
            gaps = check(gateway, own, mark, by=by, lossy=sync != "always", retention=DEDUP_SECONDS)
            own.acks = {org: own.acks[org][:count] for org, count in mark.counts.items()}
            goes_on(gateway, own, ["o1", "new"])
            gateway.stop()
            gateway.start()
            check(gateway, own, lossy=sync != "always", retention=DEDUP_SECONDS)
        except Finding as finding:
            kept = os.path.join(run.options.scratch, "kept")
            os.makedirs(kept, exist_ok=True)
            shutil.copy(gateway.log_file, os.path.join(kept, name + ".log"))
            gateway.kill()
            # As it was cut: what the gateway made of it is in there too.
            subprocess.run(["cp", "-r", point, os.path.join(kept, name)])
            raise Finding(f"{name}: {finding}") from None
        return any(gap["reason"] == "epoch" for gap in gaps)
    finally:
        gateway.kill()
        run.volumes.unmount(point)
        os.unlink(image)


# --- damage ----------------------------------------------------------------------------------------------


class Base:
    """A log of some segments, to be damaged in copies."""

    def __init__(self, run, name, clean):
        self.dir = os.path.join(run.folder, name)
        self.account = Account()
        self.orgs = ["a", "b", "c"]
        settings = {**KEEP, "auth__keys_file": '""'}
        # Its keys lie beside the log, so that they can be damaged as well.
        shutil.copytree(os.path.join(run.folder, "keys"), self.dir)
        gateway = run.gateway(self.dir, **settings)
        for start in range(2):
            gateway.start()
            with load(gateway, self.account, self.orgs, size=3000, batch=5):
                want = 2 + 3 * start
                until("segments were not begun", 60, lambda: len(segments(self.dir)) >= want)
            status, _ = publish(gateway, self.account, f"late{start}", size=64, batch=1)
            if status != 200:
                raise Finding(f"a publish was answered {status}")
            if start == 0 or clean:
                gateway.stop()
        gateway.kill()
        self.settings = settings
        check_gateway = run.gateway(self.copy(run, "whole"), **settings)
        check_gateway.start()
        check(check_gateway, self.account.copy())
        check_gateway.kill()

    def copy(self, run, name):
        target = os.path.join(run.folder, name)
        shutil.rmtree(target, ignore_errors=True)
        # With the holes that a file has.
        subprocess.run(["cp", "-a", "--sparse=auto", self.dir, target], check=True)
        return target


def hurt(chance, file):
    """Damages a file as disks do. Returns what was done."""
    size = os.path.getsize(file)
    sealed = file.endswith(".seg") and b"tgSeal" in open(file, "rb").read()[-80:]
    where = chance.choice(["any", "front", "end"] + (["index", "trailer"] if sealed else []))
    with open(file, "r+b") as damaged:
        content = damaged.read()
        records = content.rfind(b"tgR") + 200 if file.endswith(".seg") else size
        low, high = {
            "any": (0, size), "front": (0, min(300, size)), "end": (max(0, size - 5000), size),
            "index": (min(records, size - 1), size - 80), "trailer": (max(0, size - 80), size)}[where]
        at = chance.randrange(low, max(low + 1, min(high, size) or 1))
        how = chance.choice(["bit", "bit", "bytes", "page", "truncate", "append", "zeros", "stale"])
        if how == "bit" and size:
            damaged.seek(at)
            damaged.write(bytes([content[at] ^ 1 << chance.randrange(8)]))
        elif how == "bytes":
            damaged.seek(at)
            damaged.write(chance.randbytes(chance.randrange(1, 65)))
        elif how in ("page", "zeros") and size:
            begin = at // 4096 * 4096
            length = min(4096 * (1 if how == "page" else chance.randrange(1, 33)), max(1, size - begin))
            damaged.seek(begin)
            damaged.write(chance.randbytes(length) if how == "page" else bytes(length))
        elif how == "truncate":
            damaged.truncate(at)
        elif how == "append":
            damaged.seek(size)
            damaged.write(chance.randbytes(chance.randrange(1, 5000)))
        elif how == "stale" and size > 8192:
            # A sector that was written to the wrong place.
            target = chance.randrange(size // 512) * 512
            damaged.seek(target)
            damaged.write(content[at // 512 * 512:][:512][:size - target])
    return f"{how} at {at} of {os.path.basename(file)} ({where}, {size} bytes)"


def _after_damage(run, base, log_dir, what, may_refuse=(), by=accounts.by_history):
    """Starts on what is left. Never wrong data, never silence; a refusal names the file and says what to do."""
    gateway = run.gateway(log_dir, **base.settings)
    own = base.account.copy()
    try:
        try:
            gateway.start()
        except Refused as refused:
            text = str(refused)
            if not any(part in text for part in may_refuse):
                raise Finding(f"the gateway does not start: {text}") from None
            return "refused"
        gaps = check(gateway, own, by=by, anything=True)
        if gaps and not gateway.warnings():
            raise Finding(f"readers get {len(gaps)} gaps, and no log line says why")
        # A reader of a log whose keys are gone still reads; nobody publishes.
        status, _ = publish(gateway, own, "a", size=64, batch=1)
        if status == 401 and "keys.toml" in what:
            return "gaps" if gaps else "whole"
        goes_on(gateway, own, ["a", "b", "new"])
        gateway.stop()
        gateway.start()
        again = check(gateway, own, anything=True)
        # Of what was there: a reader of a log that is gone for good does not get the events of the next one.
        before = {ack.id for acks in base.account.acks.values() for ack in acks}
        if more := (again.lost - gaps.lost) & before:
            raise Finding(f"the next start lost {sorted(more)[:5]} as well")
        return "gaps" if gaps else "whole"
    except Finding as finding:
        kept = os.path.join(run.options.scratch, "kept", os.path.basename(log_dir))
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        shutil.copy(gateway.log_file, kept + ".log")
        raise Finding(f"after {what}: {finding} (see {kept}.log)") from None
    finally:
        gateway.kill()
        shutil.rmtree(log_dir, ignore_errors=True)


def damage(run):
    """Random damage to every kind of file."""
    bases = [Base(run, "clean", True), Base(run, "killed", False)]
    count = run.options.damage

    def trial(number):
        base, chance = bases[number % 2], run.chance(number)
        files = segments(base.dir)
        kinds = {
            "newest": [files[-1]], "older": files[:-1], "head": [os.path.join(base.dir, "head")],
            "format": [os.path.join(base.dir, "format")], "keys": [os.path.join(base.dir, "keys.toml")]}
        kind = chance.choices(list(kinds), [6, 8, 2, 1, 1])[0]
        log_dir = base.copy(run, f"damage-{number}")
        file = chance.choice(kinds[kind]).replace(base.dir, log_dir)
        what = hurt(chance, file)
        # Sometimes two at once.
        if chance.random() < 0.2:
            what += " and " + hurt(chance, chance.choice(kinds["older"]).replace(base.dir, log_dir))
        may_refuse = ["format"] * ("format" in what) + ["keys.toml"] * ("keys.toml" in what)
        by = chance.choice([accounts.by_stream, accounts.by_history])
        return _after_damage(run, base, log_dir, what, may_refuse, by)

    outcomes = in_parallel(trial, range(count))
    counts = {word: outcomes.count(word) for word in ("whole", "gaps", "refused")}
    if counts["gaps"] < count // 20:
        raise Finding(f"too little was damaged: {counts}")
    return f"{count} times: {counts}"


def missing(run):
    """Each segment in turn, the head file, the folders: what is not there is declared and logged."""
    base = Base(run, "base", False)
    names = [os.path.relpath(file, base.dir) for file in segments(base.dir)]
    names += ["head", "segments", "lock", "damaged", "format"]

    def without(name):
        log_dir = base.copy(run, f"without-{os.path.basename(name)}")
        path = os.path.join(log_dir, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)
        return _after_damage(run, base, log_dir, f"without {name}", ["format"] if name == "format" else [])

    outcomes = in_parallel(without, names)
    for name, outcome in zip(names, outcomes):
        expected = {"lock": "whole", "damaged": "whole", "format": "refused"}.get(name, "gaps")
        if outcome != expected and name not in (names[len(segments(base.dir)) - 1],):
            raise Finding(f"without {name}: {outcome}, and {expected} is right")
    return f"{len(names)} files and folders"


# --- kill points -----------------------------------------------------------------------------------------

CALLS = ["openat", "mkdir", "write", "pwrite64", "fsync", "fdatasync", "fallocate", "ftruncate", "rename", "unlink"]


def paths_of(log_dir, newest=60):
    names = ["", "lock", "format", "format.new", "head", "segments", "damaged"]
    names += [f"segments/{number:010}.seg{end}" for number in range(1, newest) for end in ("", ".new")]
    return [os.path.join(log_dir, name) if name else log_dir for name in names]


def strace(log_dir, injected, paths=None, output="/dev/null"):
    """A wrapper that makes system calls on the files of a log fail, or end the process."""
    need("strace")
    calls = ",".join(sorted({each.split(":")[0] for each in injected}))
    command = ["strace", "-D", "-f", "-qq", "-o", output, "-e", f"trace={calls}", "-e", "signal=none"]
    for path in paths or paths_of(log_dir):
        command += ["-P", path]
    for each in injected:
        command += ["-e", f"inject={each}"]
    return command


def kill_points_start(run):
    """SIGKILL at the n-th call of each kind on the log's files, over a first start and over a recovery: the next
    start finishes what was begun."""
    need("strace")
    points = []
    killed = Base(run, "killed", False)
    # A recovery with all that it may have to do: an end that is torn, and a segment without index.
    files = segments(killed.dir)
    with open(files[-1], "r+b") as newest:
        newest.seek(0, os.SEEK_END)
        newest.write(run.random.randbytes(777))
    os.truncate(files[-2], os.path.getsize(files[-2]) - 40)

    def point(at):
        kind, call, number = at
        name = f"{kind}-{call}-{number}"
        if kind == "first":
            log_dir, account, settings = os.path.join(run.folder, name), Account(), KEEP
        else:
            log_dir, account, settings = killed.copy(run, name), killed.account.copy(), killed.settings
        gateway = run.gateway(log_dir, **settings)
        try:
            try:
                gateway.start(strace(log_dir, [f"{call}:signal=KILL:when={number}"]))
                return False
            except Refused as refused:
                if gateway.process.poll() != -9:
                    raise Finding(f"{name}: it ended by itself: {refused}") from None
            try:
                gateway.start()
            except Refused as refused:
                raise Finding(f"{name}: the next start is refused: {refused}") from None
            try:
                check(gateway, account)
                goes_on(gateway, account, ["a", "new"])
            except Finding as finding:
                raise Finding(f"killed at {name}: {finding}") from None
            return True
        finally:
            gateway.kill()
            shutil.rmtree(log_dir, ignore_errors=True)

    def call_by_call(kind_and_call):
        number = 1
        while number <= run.options.points and point((*kind_and_call, number)):
            points.append((*kind_and_call, number))
            number += 1

    in_parallel(call_by_call, [(kind, call) for kind in ("first", "recovery") for call in CALLS])
    if len(points) < 15:
        raise Finding(f"too few points: {points}")
    return f"{len(points)} points"


def kill_points_under_load(run, name, calls, begin, paths, load_all, go_on):
    """SIGKILL at a call on some files of a log, given as names and how often they are made, while `load_all` runs. The
    next start finishes what was begun, which `go_on` sees. What a case needs is kept in the accounts that `begin`
    returns."""
    need("strace")
    wanted = run.options.running
    points = []

    def point(number):
        call, most = calls[number % len(calls)]
        after = run.chance(number).randrange(1, most)
        log_dir = os.path.join(run.folder, f"{name}-{number}")
        gateway = run.gateway(log_dir, **{**SMALL, "dedup__window": '"1s"'})
        try:
            gateway.start()
            accounts = begin(gateway)
            gateway.kill()
            gateway.start(strace(log_dir, [f"{call}:signal=KILL:when={after}"], paths(log_dir, call)))
            with load_all(gateway, *accounts):
                deadline = time.monotonic() + 20
                while gateway.is_running() and time.monotonic() < deadline:
                    time.sleep(0.02)
                if gateway.is_running():
                    return
            points.append((call, after))
            gateway.start()
            go_on(gateway, *accounts)
        except (Finding, Refused) as finding:
            raise Finding(f"killed at {call} {after}: {finding}") from None
        finally:
            gateway.kill()
            shutil.rmtree(log_dir, ignore_errors=True)

    in_parallel(point, range(wanted))
    if len(points) < wanted // 2:
        raise Finding(f"too few points: {points}")
    return f"{len(points)} points"


def kill_points_running(run):
    """The same while segments are begun, sealed and removed."""
    def begin(gateway):
        account = Account()
        publish(gateway, account, "a", batch=1)
        return (account,)

    def paths(log_dir, call):
        # From the third on, so that the start is over.
        first = 1 if call == "unlink" else 3
        return [os.path.join(log_dir, f"segments/{number:010}.seg") for number in range(first, 60)]

    def loads(gateway, account):
        return load(gateway, account, ["a", "b", "c"], size=20_000, batch=4)

    def go_on(gateway, account):
        check(gateway, account, retention=1)
        goes_on(gateway, account, ["a", "new"])

    often, seldom = ["pwrite64", "fdatasync"], ["openat", "fsync", "fallocate", "ftruncate", "unlink"]
    calls = [(call, 40) for call in often] + [(call, 7) for call in seldom]
    return kill_points_under_load(run, "running", calls, begin, paths, loads, go_on)


def kill_points_cut(run):
    """The same while the oldest events of an org that stores more than its share are taken out of the segments. What
    another org stored is all there after the next start, and readers of the first are told what is gone."""
    def begin(gateway):
        quiet = Account()
        goes_on(gateway, quiet, ["quiet", "quiet2"])
        return quiet, Account()

    def paths(log_dir, _):
        # These files are written for a cut alone.
        return [path for path in paths_of(log_dir, newest=90) if path.endswith(".new")]

    @contextlib.contextmanager
    def loads(gateway, quiet, busy):
        with load(gateway, busy, ["a"], size=20_000, batch=4), load(gateway, quiet, ["quiet"], size=64, pause=0.2):
            yield

    def go_on(gateway, quiet, busy):
        for _ in range(2):
            check(gateway, quiet)
            check(gateway, busy, retention=1)
            goes_on(gateway, quiet, ["quiet"])
            # And on, until it was cut again.
            with load(gateway, busy, ["a"], size=20_000, batch=4):
                time.sleep(2)

    calls = [(call, 5) for call in ["openat", "write", "fsync", "rename"]]
    return kill_points_under_load(run, "cut", calls, begin, paths, loads, go_on)


# --- room ------------------------------------------------------------------------------------------------


def _full(run, point, kind):
    """A volume that is full, and has room again."""
    ballast = os.path.join(point, "ballast")
    log_dir = os.path.join(point, "log")
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 10 * MIB)
    keys = os.path.join(point, "keys")
    made = _key(run, keys, "create", "--org", "a")
    gateway = run.gateway(log_dir, log__max_bytes='"16MiB"', log__min_free='"1MiB"')
    account = Account()
    gateway.start()
    for org in ("idle", "a", "b"):
        if publish(gateway, account, org)[0] != 200:
            raise Finding("an empty log takes no events")
    until("the log did not get full", 60, lambda: _fill(gateway, account) == 503)
    # Others fill the rest of the disk.
    rest = os.path.join(point, "rest")
    with open(rest, "wb", buffering=0) as file:
        for size in (64 << 10, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    # Of the room that was left, one org takes no more than half. How much is left is looked at a few times a second.
    until("the disk is full, and events are taken", 5, lambda: publish(gateway, account, "b", size=30_000)[0] == 503)
    _is_refused(gateway, account)
    _key(run, keys, "revoke", made.split("_")[1])
    if "revoked" not in _key(run, keys, "list"):
        raise Finding(f"{kind}: a key was revoked on a full disk, and is not shown as that")
    check(gateway, account)
    for by in (gateway.kill, gateway.stop):
        by()
        try:
            gateway.start()
        except Refused as refused:
            raise Finding(f"{kind}: it does not start on a full disk: {refused}") from None
        # Nobody has used these orgs since the start.
        check(gateway, account)
        check(gateway, account, by=accounts.by_stream)
        _is_refused(gateway, account)
    _open_all(gateway, kind)
    _is_refused(gateway, account)
    gateway.kill()
    try:
        gateway.start()
    except Refused as refused:
        raise Finding(f"{kind}: it does not start after orgs took all the room they may: {refused}") from None
    os.unlink(ballast)
    # a and b have written their shares within the dedup window.
    until("room came back, and the log takes no events", 5, lambda: publish(gateway, account, "idle")[0] == 200)
    goes_on(gateway, account, ["idle", "new"])
    check(gateway, account)
    if lines := [line for line in gateway.lines() if "takes no more writes" in str(line)]:
        raise Finding(f"{kind}: {lines}")


def _key(run, folder, *command):
    done = subprocess.run(
        [run.program, "key", *command, "--data-dir", folder], capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise Finding(f"key {command[0]} ends with {done.returncode}: {done.stderr}")
    return done.stdout


def _fill(gateway, account):
    status, answer = publish(gateway, account, "a", size=30_000, batch=10)
    if status not in (200, 503):
        raise Finding(f"a publish to a log that gets full is answered {status}: {answer}")
    return status


def _open_all(gateway, kind):
    """Reads orgs that nobody has used, until there is no room to note even that. Publishers have left at most a
    megabyte of what the file has taken, which is some 6,000 orgs."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        refused = list(pool.map(lambda lane: _open_many(gateway, lane), range(16)))
    for status, body, retry_after in refused:
        if status != 503 or json.loads(body).get("code") != "log_full" or not retry_after:
            raise Finding(f"{kind}: orgs are opened on a full disk, and the last is answered {status}: {body}")


def _open_many(gateway, lane):
    """The first answer that is no success, or the last one."""
    connection = gateway.connect()
    try:
        for number in range(1000):
            org = f"reader-{lane}-{number}"
            connection.request(
                "GET", f"/v1/orgs/{org}/cursor", headers={"Authorization": "Bearer " + gateway.keys.token(org)})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                break
        return answer.status, body, answer.getheader("Retry-After")
    finally:
        connection.close()


def _is_refused(gateway, account):
    status, answer = publish(gateway, account, "b", size=30_000)
    if status != 503 or answer.get("code") != "log_full" or not answer["retry_after"]:
        raise Finding(f"a full disk is answered {status}: {answer}")


def full_disk(run):
    """A full tmpfs, and a full ext4: 503 log_full, reading goes on, starts work, room heals it."""
    _full(run, run.volumes.tmpfs("tmpfs", "24m"), "tmpfs")
    _full(run, run.volumes.image("ext4", 28 * MIB, "ext4", "-F", "-m", "0")[1], "ext4")
    return "tmpfs and ext4"


def most_bytes(run):
    """log.max_bytes and its constant hold at any rate; where the dedup window needs more, events are refused,
    and taken again as soon as it has passed."""
    def at(limit, window, refusals):
        log_dir = os.path.join(run.folder, f"most-{limit}")
        gateway = run.gateway(
            log_dir, log__max_bytes=f'"{limit}MiB"', log__min_free='"1MiB"', dedup__window=f'"{window}s"')
        account = Account()
        gateway.start()
        began, peak, resumed, bytes_before = time.monotonic(), 0, 0, 0
        # Several orgs may write about half of the log in a dedup window: here 8 MiB in 3 s, and the time of a segment.
        how = {"size": 30_000} if refusals else {"size": 10_000, "pause": 0.2}
        with load(gateway, account, ["a", "b", "c"], batch=10, **how) as publishers:
            acked, quiet_since = 0, time.monotonic()
            # For a time and until much was published, however fast this machine is.
            least = max(1_500_000 * run.options.rate_seconds, 2 * limit * MIB) if not refusals else 0
            while (seconds := time.monotonic() - began) < run.options.rate_seconds or account.total() * how["size"] < least:
                if seconds > 10 * run.options.rate_seconds:
                    raise Finding(f"within {seconds:.0f} s only {account.total()} events were published")
                peak = max(peak, allocated(log_dir))
                total = account.total()
                if total > acked:
                    if time.monotonic() - quiet_since > 2:
                        resumed += 1
                    acked, quiet_since = total, time.monotonic()
                elif time.monotonic() - quiet_since > window + 6:
                    raise Finding(f"the dedup window of {window} s has passed, and the log stays full")
                time.sleep(0.03)
        answers = {status: sum(p.answers.get(status, 0) for p in publishers) for status in (200, 503)}
        rate = account.total() * how["size"] / seconds
        if refusals != (answers[503] > 0):
            raise Finding(f"{limit} MiB and {window} s at {rate / 1e6:.1f} MB/s: answers {answers}")
        # What config.md says: a sixteenth (1 MiB at least) and 8 MiB that the next commits have been given.
        bound = limit * MIB + max(MIB, limit * MIB // 16) + 8 * MIB
        if peak > bound:
            raise Finding(f"{limit} MiB are allowed and {bound} bytes in all; the directory took {peak}")
        check(gateway, account, retention=window)
        gateway.kill()
        return f"{peak / MIB:.1f} of {bound / MIB:.0f} MiB at {rate / 1e6:.1f} MB/s"

    return ", ".join(in_parallel(lambda how: at(*how), [(16, 3, False), (4, 2, True)]))


# --- failing calls ---------------------------------------------------------------------------------------


def _failing(run, name, injected, settings=None, first=True):
    """A gateway with a log of some events whose calls on segments fail."""
    log_dir = os.path.join(run.folder, name)
    gateway = run.gateway(log_dir, **{**KEEP, **(settings or {})})
    account = Account()
    gateway.start()
    for org in ("a", "b", "idle"):
        if publish(gateway, account, org)[0] != 200:
            raise Finding("a new log takes no events")
    gateway.kill()
    paths = [path for path in paths_of(log_dir) if path.endswith(".seg")]
    gateway.start(strace(log_dir, injected, paths))
    return gateway, account


def failing_calls(run):
    """EIO, ENOSPC and EDQUOT: a failed sync or write halts the log and readers go on; a failed allocation, a
    failed removal and a failed read do not."""
    need("strace")
    works = [(_log_halts, call) for call in ("fdatasync", "pwrite64")]
    works += [
        (_room_comes_back, call, error)
        for call, error in (
            ("fallocate", "EIO"), ("fallocate", "EDQUOT"), ("fallocate", "ENOSPC"), ("pwrite64", "ENOSPC"),
            ("pwrite64", "EDQUOT"))]
    works += [(_segments_wait, error) for error in ("EMFILE", "EIO")]
    works += [(_segment_is_passed_over,), (_files_stay,)]
    works += [(_reads_fail, name, at) for name, at in (("once", "2"), ("often", "2+"))]
    works += [(_first_start_fails, call) for call in ("mkdir", "rename", "fsync", "fdatasync", "pwrite64", "openat")]
    in_parallel(lambda work: work[0](run, *work[1:]), works)
    return "sync, write, allocation, removal, reads, first starts"


def _log_halts(run, call):
    """A sync or a write fails. Those of the start have not."""
    gateway, account = _failing(run, f"eio-{call}", [f"{call}:error=EIO:when=9+"])
    seen = until(f"{call} fails and nothing is refused", 20, lambda: _refusal(gateway, account))
    second = publish(gateway, account, "a")
    if second[0] != 503 or second[1].get("code") != "log_halted":
        raise Finding(f"{call} failed, and a publish is answered {second}")
    if gateway.ready() != 503:
        raise Finding(f"{call} failed, and the node says that it is ready")
    # Also the orgs that nobody has used since the start.
    check(gateway, account)
    if seen[0] not in (503, 504):
        raise Finding(f"{call} failed, and the publish was answered {seen}")
    gateway.kill()
    gateway.start()
    check(gateway, account)
    goes_on(gateway, account, ["a", "idle"])
    gateway.kill()


def _room_comes_back(run, call, error):
    """Room is not given for a while."""
    # Not the first ones, which are the start's.
    at = "3..5" if call == "fallocate" else "6..8"
    settings = {"log__max_bytes": '"48MiB"'}
    gateway, account = _failing(run, f"{error}-{call}".lower(), [f"{call}:error={error}:when={at}"], settings)
    answers = set()
    deadline = time.monotonic() + 20
    taken = 0
    while time.monotonic() < deadline and taken < 60:
        status, answer = publish(gateway, account, "a", size=40_000, batch=4)
        answers.add((status, answer.get("code")))
        taken = taken + 1 if status == 200 else 0
        if status != 200:
            time.sleep(0.05)
    if taken < 60 or not answers <= {(200, None), (503, "log_full")}:
        raise Finding(f"{error} at {call} passed, and publishes were answered {answers}")
    check(gateway, account)
    gateway.kill()
    gateway.start()
    check(gateway, account)
    gateway.kill()


def _segments_wait(run, error):
    """Segments cannot be begun for a while."""
    gateway, account = _failing(run, f"{error}-openat".lower(), [f"openat:error={error}:when=2..3"], {"log__max_bytes": '"48MiB"'})
    with load(gateway, account, ["a", "b"], size=20_000, batch=5, pause=0.03) as publishers:
        until("segments are not begun", 30, lambda: len(segments(gateway.log_dir)) >= 4)
    if any(set(publisher.answers) != {200} for publisher in publishers):
        raise Finding(f"{error} at openat: publishes were answered {[each.answers for each in publishers]}")
    check(gateway, account)
    gateway.stop()
    gateway.start()
    check(gateway, account)
    gateway.kill()


def _segment_is_passed_over(run):
    """The sync of a segment fails, and its file cannot be removed either."""
    log_dir = os.path.join(run.folder, "eio-begin")
    gateway = run.gateway(log_dir, **KEEP)
    account = Account()
    second = os.path.join(log_dir, "segments", "0000000002.seg")
    gateway.start(strace(log_dir, ["fdatasync:error=EIO", "unlink:error=EIO"], [second]))
    with load(gateway, account, ["a", "b"], size=20_000, batch=5, pause=0.03):
        until("no segment should be begun", 30, lambda: os.path.exists(second) and os.path.getsize(second) > 0)
        before = account.total()
        until("a segment cannot be begun, and events are not taken", 30, lambda: account.total() > before + 20)
    gateway.kill()
    gateway.start()
    check(gateway, account)
    goes_on(gateway, account, ["a", "new"])
    gateway.kill()


def _files_stay(run):
    """Files cannot be removed for a while."""
    gateway, account = _failing(run, "eio-unlink", ["unlink:error=EIO:when=1..3"], {**SMALL, "dedup__window": '"1s"'})
    with load(gateway, account, ["a", "b"], size=20_000, batch=5) as publishers:
        until("events were not taken", 60, lambda: account.total() > 1200)
    for publisher in publishers:
        if set(publisher.answers) - {200, 503}:
            raise Finding(f"a file could not be removed, and publishes were answered {publisher.answers}")
    until("a file could not be removed, and the log takes no events", 10, lambda: publish(gateway, account, "a")[0] == 200)
    check(gateway, account, retention=1)
    gateway.kill()


def _reads_fail(run, name, at):
    """A read fails, once or for good."""
    log_dir = os.path.join(run.folder, f"read-{name}")
    gateway = run.gateway(log_dir, **KEEP)
    account = Account()
    gateway.start()
    with load(gateway, account, ["a", "b"], size=20_000, batch=5):
        until("segments were not begun", 60, lambda: len(segments(log_dir)) >= 4)
    gateway.stop()
    # Of the older segments, so that the start itself has what it needs.
    gateway.start(strace(log_dir, [f"{call}:error=EIO:when={at}" for call in ("pread64", "preadv2")], segments(log_dir)[:-1]))
    gaps = check(gateway, account, anything=True)
    if name == "once" and gaps:
        raise Finding(f"a read failed once, and readers get gaps: {accounts._short(gaps)}")
    if gaps and not gateway.warnings():
        raise Finding("reads fail, and no log line says so")
    goes_on(gateway, account, ["a", "new"])
    gateway.kill()
    # A repair does not leave out for good what cannot be read for a while.
    mend = [run.program, "log", "check", "--set", f"log.dir={json.dumps(log_dir)}", "--repair"]
    done = subprocess.run(
        [*strace(log_dir, ["pread64:error=EIO:when=2+"], segments(log_dir)[:1]), *mend],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode != 1 or "--give-up-unreadable" not in done.stderr:
        raise Finding(f"a file cannot be read, and the repair ended with {done.returncode}: {done.stdout}{done.stderr}")
    gateway.start()
    check(gateway, account)
    gateway.kill()


def _first_start_fails(run, call):
    """A first start whose calls fail is refused, and the next one finishes it."""
    log_dir = os.path.join(run.folder, f"first-{call}")
    gateway = run.gateway(log_dir, **KEEP)
    try:
        gateway.start(strace(log_dir, [f"{call}:error=EIO:when=1"]))
    except Refused as refused:
        if log_dir not in str(refused) and "log" not in str(refused):
            raise Finding(f"EIO at {call} of a first start: {refused}") from None
    gateway.kill()
    try:
        gateway.start()
    except Refused as refused:
        raise Finding(f"after EIO at {call} of a first start, the next one is refused: {refused}") from None
    goes_on(gateway, Account(), ["a"])
    gateway.kill()


def _refusal(gateway, account):
    answer = publish(gateway, account, "a")
    return answer if answer[0] != 200 else None


def descriptors(run):
    """All descriptors are taken while segments should be begun: publishing goes on, and is well afterwards."""
    log_dir = os.path.join(run.folder, "log")
    gateway = run.gateway(log_dir, **{**SMALL, "limits__connections": "5000"})
    account = Account()
    gateway.start(files=120)
    idle = []
    with load(gateway, account, ["a", "b", "c"], size=20_000, batch=5) as publishers:
        until("events are not taken", 20, lambda: all(publisher.answers.get(200) for publisher in publishers))
        for _ in range(400):
            waiting = socket.socket()
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(gateway.public[0:1] and (gateway.public[0], int(gateway.public[1])))
            idle.append(waiting)
        before = account.total()
        until("descriptors are gone, and so is publishing", 60, lambda: account.total() > before + 300)
        for waiting in idle:
            waiting.close()
        before = account.total()
        until("descriptors are back, and publishing is not", 30, lambda: account.total() > before + 100)
    until("segments are not begun", 30, lambda: publish(gateway, account, "a", 20_000)[0] == 200 and len(segments(log_dir)) > 1)
    answers = [publisher.answers for publisher in publishers]
    if any(set(answer) - {200, "broken", 503} for answer in answers):
        raise Finding(f"publishes were answered {answers}")
    check(gateway, account, retention=DEDUP_SECONDS)
    return f"{account.total()} events"


# --- size ------------------------------------------------------------------------------------------------


def large_start(run):
    """A start with a newest segment as large as they get, of small events: under 2 s of CPU, memory bounded."""
    log_dir = os.path.join(run.folder, "log")
    gateway = run.gateway(log_dir, limits__publishes_per_second="1000000")
    account = Account()
    gateway.start()

    def largest():
        size = os.path.getsize(segments(log_dir)[-1])
        return size > 56 * MIB or len(segments(log_dir)) > 1

    with load(gateway, account, [f"o{number}" for number in range(4)], size=40, batch=500):
        until("the log did not grow", 240, largest)
    size = os.path.getsize(segments(log_dir)[0])
    gateway.kill()
    seconds = gateway.start()
    cpu = gateway.cpu_seconds()
    resident = gateway.status("VmHWM") << 10
    if cpu > 2:
        raise Finding(f"a start with {size / MIB:.0f} MiB took {cpu:.1f} s of CPU")
    if resident > 6 * 64 * MIB:
        raise Finding(f"a start with {size / MIB:.0f} MiB took {resident / MIB:.0f} MiB of memory")
    gateway.kill()
    return f"{account.total()} events, {size / MIB:.0f} MiB: {seconds:.2f} s, {cpu:.2f} s of CPU, {resident / MIB:.0f} MiB resident"
