"""The files of a page, with headers that let a browser load and run nothing but them."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser keeps the files, but asks whether they have changed
}
SHARED: Final = Path(__file__).with_name("page")  # has style.css, which all pages of this project use


class PageFiles:
    """Serves the files of a page. `page` is an endpoint: {file} in its route names the file; without it, the file is index.html."""

    def __init__(self, *folders: Path):
        """
        Args:
          folders: a file is taken from the first of them that has it.
        """
        self._files = StaticFiles(directory=folders[0])
        self._files.all_directories += folders[1:]

    async def page(self, request: Request) -> Response:
        """GET of a file. Raises HTTPException 404 if no folder has it."""
        response = await self._files.get_response(request.path_params.get("file", "index.html"), request.scope)
        response.headers.update(HEADERS)
        return response
