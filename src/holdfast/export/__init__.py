"""A policy in the words of other programs (`holdfast export`).

| file | what |
|---|---|
| `nginx` | timeouts and retries of nginx's reverse proxy |
| `command` | the command line |
"""
