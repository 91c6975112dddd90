"""Drivers do what the flow decides: in threads, in asyncio and trio, and in virtual time. None of them knows a policy."""
