"""The files that the pages use: style sheets and scripts of the inspector and of the pictures. They are read once, and have hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Asset", "Assets"]

KINDS: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """A file."""

    data: bytes
    kind: str
    """Its media type."""
    digest: str
    """The first 16 digits of its SHA-256."""


class Assets:
    """The files of some folders, by name. A file that is not among them is not served, whatever its path."""

    def __init__(self, *folders: Path) -> None:
        self._files = {
            path.name: Asset(data := path.read_bytes(), KINDS[path.suffix], hashlib.sha256(data).hexdigest()[:16])
            for folder in folders
            for path in sorted(folder.iterdir())
            if path.suffix in KINDS
        }

    def version(self, name: str) -> str:
        """Return the digest of a file, for its URL: a browser keeps the file as long as it has this digest."""
        return self._files[name].digest

    async def serve(self, request: Request) -> Response:
        """Answer a request for a file."""
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            return Response("No such file.", 404, media_type="text/plain")
        is_exact = request.query_params.get("v") == asset.digest
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable" if is_exact else "no-cache",
            "ETag": f'"{asset.digest}"',
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(asset.data, headers=headers, media_type=asset.kind)
