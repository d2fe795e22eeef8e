"""The version of this package. Each checkpoint says which one wrote it."""

__all__ = ["VERSION"]

VERSION = "0.6.0"
