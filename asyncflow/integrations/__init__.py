"""asyncflow in other programs. Each integration is an extra of its own, and uses the public API only.

Nothing in asyncflow imports these: `asyncflow.integrations.fastapi` needs the extra `fastapi`.
"""
