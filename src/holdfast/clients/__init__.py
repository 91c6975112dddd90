"""HTTP clients behind policies: `holdfast.clients.httpx`, `.requests` (and urllib3) and `.aiohttp`. Each needs its extra."""
