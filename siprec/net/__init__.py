"""Thin asyncio shells that move bytes between sockets and the sans-IO core."""
