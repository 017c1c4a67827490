"""Where alerts go: mail, chat, a web hook, whatever Apprise has a URL for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.settings import ALERT_URLS

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Channel:
    """One of the places.

    Attributes:
        key: Knows it again in the database, which must not hold the secrets of its URL.
        name: What people call it: the service and its host.
    """

    key: str
    name: str
    service: Any = field(repr=False, compare=False)

    def send(self, title: str, body: str) -> str | None:
        """Send a message; return None when it was taken, else why not, in a sentence."""
        import apprise

        with apprise.LogCapture(level=apprise.logging.WARNING, fmt="%(message)s") as log:
            taken = self.service.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
            said = log.getvalue().strip().splitlines()
        return None if taken else f"{self.name} did not take it: {said[0] if said else 'it does not say why'}"


def channels_of(urls: Sequence[str]) -> list[Channel]:
    """Return the channels of URLs.

    Raises:
        SettingInvalidError: A URL is none that Apprise knows.
    """
    if not urls:
        return []
    import apprise  # most homes have no channel, and it is slow to import

    # Behind a redirect a message is asked for instead of posted: a page that welcomes whoever comes would take it.
    asset = apprise.AppriseAsset(http_redirects=False)
    channels = []
    for url in urls:
        service = apprise.Apprise(asset=asset)
        if not service.add(url):
            scheme = url.partition("://")[0] if "://" in url else "..."
            raise SettingInvalidError(ALERT_URLS, f"{scheme}://...", "URLs of Apprise, separated by blanks")
        (plugin,) = list(service)
        host = getattr(plugin, "host", None)
        name = f"{plugin.service_name} at {host}" if host else str(plugin.service_name)
        channels.append(Channel(hashlib.sha256(url.encode()).hexdigest()[:16], name, service))
    return channels
