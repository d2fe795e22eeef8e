from shop import _nothing_ran, serve

__all__ = ["_nothing_ran", "serve"]
