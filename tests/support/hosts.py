"""Hosts of their own on this machine: network namespaces with addresses, joined by a bridge.

They need root and iproute2.
"""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

MISSING = None
if shutil.which("ip") is None or os.geteuid() != 0:
    MISSING = "hosts of their own need root and iproute2"


class Host:
    """A host whose programs see no network but the bridge."""

    def __init__(self, name, number):
        self.name = name
        self.address = f"10.213.7.{number}"
        self._cable = f"{name}-c"
        self._started = []
        _ip("netns", "add", name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip("link", "set", device, "up")

    def _ip(self, *arguments):
        _ip("-n", self.name, *arguments)

    def join(self, bridge):
        _ip("link", "set", self._cable, "master", bridge)
        self.plug_in()

    def cut_off(self):
        _ip("link", "set", self._cable, "down")

    def plug_in(self):
        _ip("link", "set", self._cable, "up")

    def start(self, *arguments, log, **environment):
        """Start Python there; return the process, whose output goes to a file."""
        command = ["ip", "netns", "exec", self.name, sys.executable, *map(str, arguments)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment, start_new_session=True
            )
        self._started.append(process)
        return process

    def end(self):
        """End what runs there, and the host."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        for pid in pids:
            subprocess.run(["kill", "-9", pid], stderr=subprocess.DEVNULL)
        for process in self._started:
            process.wait()
        # With the namespace it would go only some time later.
        _ip("link", "del", self._cable)
        _ip("netns", "del", self.name)


@contextmanager
def hosts(count):
    """Make hosts that reach each other, and end them."""
    tag = f"rg{os.getpid() % 100000}"
    bridge = f"{tag}-b"
    made = []
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("link", "set", bridge, "up")
        for number in range(count):
            made.append(Host(f"{tag}-{number}", number + 1))
            made[-1].join(bridge)
        yield made
    finally:
        for host in made:
            host.end()
        _ip("link", "del", bridge)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
