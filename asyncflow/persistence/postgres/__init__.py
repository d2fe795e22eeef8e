"""The PostgreSQL backend: psycopg 3, with group commit. Needs the extra `postgres`."""

try:
    import psycopg  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "asyncflow.persistence.postgres needs psycopg 3; install the extra, in a checkout of asyncflow: pip install '.[postgres]'"
    ) from _error

from .persistence import PostgresFlowPersistence

__all__ = ["PostgresFlowPersistence"]
