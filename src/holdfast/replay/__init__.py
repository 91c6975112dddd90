"""The five incidents, replayed on real processes, sockets and servers, without holdfast and with it (`holdfast replay`).

| file | what |
|---|---|
| `results` | what a replay found: runs, charts, claims; and its JSON |
| `parts/` | the real servers: each on a port and in a folder of its own, ended by its own pid |
"""
