# SPDX-License-Identifier: GPL-2.0-only
"""Random churn: one thing after the other happens to a guest that answers packets."""

import time

from load import Load

PACKETS = 20

LINK = """
l2_run g 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
		[ -e /sys/class/net/eth0 ] && break; sleep 1; done
	ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up'
"""


class Churn:
    """A guest "g" with an assigned igb, and what happens to it.

    Subclasses have the methods start(), which boots it, works(), which checks it, and
    those of actions().
    """

    def __init__(self, l1, rng):
        self.l1 = l1
        self.rng = rng
        self.load = Load(l1)
        self.done = {}

    def actions(self):
        """What can happen, each as often as it is to happen in a round."""
        raise NotImplementedError

    def is_gone(self):
        """Nothing may be left of a guest, if a subclass can tell."""

    def kill(self):
        """QEMU is killed."""
        self.l1.script("kill -KILL $(l2_pid g); sleep 1; rm -f /run/rig/g.*")
        self.is_gone()
        self.start()

    def run(self, seconds):
        """Rounds in random order under load.  After each action all has to work."""
        end = time.monotonic() + seconds
        order = []
        while time.monotonic() < end:
            if not order:
                order = self.rng.sample(self.actions(), len(self.actions()))
            action = order.pop()
            with self.load.background("window", 4):
                action()
            self.works()
            name = action.__name__
            self.done[name] = self.done.get(name, 0) + 1
            print(f"  {int(end - time.monotonic()):5} s left: {self.done}",
                  flush=True)
