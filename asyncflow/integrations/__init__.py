"""Integrations of asyncflow with other libraries. Each integration is a separate extra, and uses the public API only.

Nothing in asyncflow imports these: `asyncflow.integrations.fastapi` needs the extra `fastapi`.
"""
