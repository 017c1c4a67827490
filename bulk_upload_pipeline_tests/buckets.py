"""An object store for tests: moto's server, which speaks S3 over HTTP, on loopback as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import s3fs

from bulk_upload_pipeline_tests.composed import free_port

BUCKET = "invoices"
SECONDS = 60


@contextmanager
def object_store():
    """Yield the variables with which a process finds the store, in which bucket `BUCKET` is empty."""
    port = free_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before = dict(os.environ)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, **quiet)
    try:
        _wait(variables["AWS_ENDPOINT_URL"], server)
        os.environ.update(variables)
        s3fs.S3FileSystem(use_listings_cache=False).mkdir(BUCKET)
        yield variables
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
        server.wait()
        # Of a store that is gone: the next one has another address.
        s3fs.S3FileSystem.clear_instance_cache()


def _wait(url, server):
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
        except urllib.error.URLError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
