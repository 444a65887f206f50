"""Exit code 0 while `/readyz` of the service in this container answers 200; needs nothing but Python."""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

PORT = int(os.environ.get("ATSNET_PORT", "8000"))


def connection() -> HTTPConnection:
    """To the service, which is on this machine: its certificate names the station, not 127.0.0.1."""
    if "ATSNET_SSL_CERTFILE" not in os.environ:
        return HTTPConnection("127.0.0.1", PORT, timeout=4)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    return HTTPSConnection("127.0.0.1", PORT, timeout=4, context=trusting)


def main() -> str | None:
    """What is wrong, if anything."""
    try:
        asked = connection()
        asked.request("GET", "/readyz")
        answer = asked.getresponse()
        said = answer.read(1000).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return f"no answer: {error}"
    return None if answer.status == 200 else f"{answer.status}: {said}"


if __name__ == "__main__":
    sys.exit(main())
