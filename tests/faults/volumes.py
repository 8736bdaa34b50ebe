"""File systems of a test's own: loop mounts, tmpfs, and images of a moment. All of them are gone at the end,
whatever happened."""

import fcntl
import os
import shutil
import subprocess

FICLONE = 0x40049409


class Skip(Exception):
    """This machine lacks something; the text names it."""


def need(*programs):
    for program in programs:
        if shutil.which(program) is None and not os.path.exists(f"/usr/sbin/{program}"):
            raise Skip(program)


def need_root():
    if os.geteuid() != 0:
        raise Skip("root")


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


class Volumes:
    """Mounts in a folder. The last made is the first that goes."""

    def __init__(self, folder):
        self.folder = folder
        self.mounts = []
        os.makedirs(folder, exist_ok=True)

    def _mount(self, name, *arguments):
        point = os.path.join(self.folder, name)
        os.makedirs(point, exist_ok=True)
        _run("mount", *arguments, point)
        self.mounts.append(point)
        return point

    def tmpfs(self, name, size):
        need_root()
        return self._mount(name, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def image(self, name, size, kind, *options, where=None):
        """A file system of its own in a file."""
        need_root()
        need(f"mkfs.{kind}", "losetup")
        file = os.path.join(where or self.folder, name + ".img")
        with open(file, "wb") as image:
            image.truncate(size)
        _run(f"mkfs.{kind}", "-q", *options, file)
        return file, self.loop(name, file)

    def loop(self, name, file):
        need_root()
        return self._mount(name, "-o", "loop", file)

    def unmount(self, point):
        done = subprocess.run(["umount", point], capture_output=True)
        if done.returncode != 0:
            subprocess.run(["umount", "--lazy", point], capture_output=True)
        if point in self.mounts:
            self.mounts.remove(point)
        try:
            os.rmdir(point)
        except OSError:
            pass

    def close(self):
        for point in reversed(self.mounts[:]):
            self.unmount(point)


def clone(source, target):
    """A copy that shares all blocks: what a disk holds at this moment."""
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new, FICLONE, old.fileno())
        except OSError as error:
            raise Skip(f"reflinks ({error.strerror})") from error


def allocated(folder):
    """The bytes that the files below a folder take on disk."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total
