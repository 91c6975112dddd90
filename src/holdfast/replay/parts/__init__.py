"""Real servers for replays and tests: each on a private port, in a private folder, ended by its own pid, one file each.

`process` is what they share. Every part is a context manager; what it cannot do on this machine is `Unavailable`, with what to install.
"""
