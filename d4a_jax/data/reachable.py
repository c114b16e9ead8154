"""Whether a server can be reached, found out within seconds.

Downloaders try again for minutes where there is no network at all.
"""

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from urllib.parse import urlsplit

_SECONDS = 10


def unreachable(urls: Iterable[str]) -> tuple[str, str] | None:
    """Asks each server once, all at the same time.

    Any answer counts, an error of the server's too: it is the downloader's to report.

    Args:
      urls: http, https or ftp.

    Returns:
      The first address whose server does not answer within ten seconds and the reason,
      or None.
    """
    servers = {urlsplit(url).netloc: url for url in urls}
    reasons = dict.fromkeys(servers, f"no answer within {_SECONDS} seconds")
    # Daemons, as the resolution of a name cannot be ended.
    threads = [
        threading.Thread(target=_ask, args=(server, url, reasons), daemon=True)
        for server, url in servers.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for server, url in servers.items():
        if reasons[server]:
            return url, reasons[server]
    return None


def _ask(server, url, reasons):
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS).close()
        reasons[server] = None
    except urllib.error.URLError as error:
        reason = getattr(error, "reason", error)
        # The downloader has certificates of its own.
        answered = isinstance(error, urllib.error.HTTPError)
        answered |= isinstance(reason, ssl.SSLError)
        reasons[server] = None if answered else str(reason)
    except (OSError, http.client.HTTPException):
        reasons[server] = None  # It was reached and does not like to be asked so.
