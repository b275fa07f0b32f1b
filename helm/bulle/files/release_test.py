"""helm test: whether a release answers, and whether it refuses what it must. Run in a pod without any right."""

import http.client
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

proxy, hub, authority = sys.argv[1:4]
faults = []


def status(url):
    """What is answered; 0 where nothing is, as behind a NetworkPolicy."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the chart's own addresses
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


def check(what, holds):
    """Say it, and remember what does not hold."""
    print(f"{'ok  ' if holds else 'FAIL'} {what}", flush=True)
    if not holds:
        faults.append(what)


# The certificate is for the public name; what is asked here is whether somebody answers.
anybody = ssl.create_default_context()
anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
urllib.request.install_opener(
    urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody))
)


def refuses():
    """Whether the authority is there, and ends the conversation with whoever has no node agent's certificate."""
    host, _, port = authority.removeprefix("https://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            try:
                with anybody.wrap_socket(raw, server_hostname=host) as end:
                    end.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return not end.recv(1)
            except (ssl.SSLError, ConnectionError):
                return True
    except OSError:
        return False


check("the login page answers", status(f"{proxy}/hub/health") == 200)
check("the portal answers", status(f"{proxy}/services/portal/health") == 200)
check("nobody reads people's names without logging in", status(f"{proxy}/hub/api/users") in (401, 403, 404))
check("the hub answers no page to a pod", status(f"{hub}/hub/login") in (0, 404))
check("the hub answers no question about people to a pod", status(f"{hub}/hub/api/users") in (0, 404))
check("the authority refuses who has no certificate", refuses())
check("this pod has no token of the cluster", not Path("/var/run/secrets/kubernetes.io/serviceaccount").exists())
sys.exit(bool(faults))
