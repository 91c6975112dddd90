"""A server behind nginx that does what it is told with each request, and remembers what it saw."""

import contextlib
import socket
import threading
import time


class Upstream:
    """Answers connections in threads; `modes` are used up one per request, the last one stays."""

    def __init__(self, *modes):
        self.modes = list(modes)
        self.seen = []
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def headers(self, name):
        return [request.get(name.lower()) for request in self.seen]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            while request := self._read(connection):
                self.seen.append(request)
                mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
                if mode == "stall":
                    self._over.wait(10)
                elif mode == "close":
                    return
                elif mode == "drip":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
                    for _ in range(5):
                        time.sleep(0.4)
                        connection.sendall(b"x")
                else:
                    connection.sendall(f"HTTP/1.1 {mode} said\r\nContent-Length: 2\r\n\r\nok".encode())

    @staticmethod
    def _read(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                return None
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        return {":line": lines[0], **headers}
