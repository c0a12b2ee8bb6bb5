# SPDX-License-Identifier: GPL-2.0-only
"""The packet load at the far end of the assigned NIC's wire."""

import collections
import contextlib
import json
import subprocess
import time

import rig

LINGER = 10     # s


class Load:
    """Runs tests/rig/netload.c against the igb of an L1."""

    def __init__(self, l1):
        self.tool = rig.build_tool("netload")
        self.l1 = l1

    def run(self, mode, seconds, param, linger=0):
        """mode "window" or "rate"; see netload.c.  Returns its figures."""
        peer, qemu = self.l1.wire
        p = subprocess.run([self.tool, peer, qemu, rig.WIRE_MAC, mode,
                            str(seconds), str(param), str(linger)],
                           capture_output=True, text=True, check=False,
                           timeout=seconds + linger + 60)
        if p.returncode:
            raise rig.RigError(f"netload: {p.stderr}")
        return json.loads(p.stdout)

    def exchange(self, packets, window, seconds=1, tries=5):
        """Until so many packets were answered, however late.

        A slow machine needs more tries and answers late; it does not lose packets.
        Returns the sums of sent, received, late and lost, and as "answered" those
        received or late; raises RigError if there were fewer than that.
        """
        total = collections.Counter()
        for _ in range(tries):
            total.update({what: n for what, n in
                          self.run("window", seconds, window, LINGER).items()
                          if what in ("sent", "received", "late", "lost")})
            total["answered"] = total["received"] + total["late"]
            if total["answered"] >= packets:
                return total
            time.sleep(1)
        raise rig.RigError(f"the NIC does not work: {dict(total)}")

    @contextlib.contextmanager
    def background(self, mode, param):
        """Keep the load up meanwhile, whether or not something answers."""
        peer, qemu = self.l1.wire
        with subprocess.Popen([self.tool, peer, qemu, rig.WIRE_MAC, mode,
                               "3600", str(param)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as p:
            try:
                yield
            finally:
                p.kill()

    def wait_link(self, timeout=60):
        """Until the NIC's new owner answers, however late."""
        timeout *= self.l1.slow
        end = time.monotonic() + timeout
        while True:
            got = self.run("window", 0.5, 1, LINGER if self.l1.slow > 1 else 0)
            if got["received"] + got["late"]:
                return
            if time.monotonic() > end:
                raise rig.RigError(f"the NIC did not answer in {timeout} s")
