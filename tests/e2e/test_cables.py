"""A cable between namespaces loses and delays what it is told to, and nothing otherwise."""

import json
import subprocess
import sys

import pytest

from tests.e2e.campaign import make_test_environment
from tests.e2e.wiring import why_no_namespaces

# Run alone in a namespace: datagrams from the bridge into a node's namespace, which counts them.
SCRIPT = """
import json, subprocess, sys, time
from contextlib import closing
import socket
from tests.e2e.wiring import NamespaceWiring

COUNTER = '''
import socket, time
taken, began = 0, time.monotonic()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
    sink.bind(("0.0.0.0", 9))
    print("ready", flush=True)
    sink.settimeout(1.0)
    try:
        while sink.recv(2000) != b"end":
            taken += 1
    except TimeoutError:
        pass
print(taken, time.time(), flush=True)
'''

def count(wiring, delay_ms, loss_percent):
    wiring.impair(0, delay_ms, loss_percent)
    command = [*wiring.get_prefix(0), sys.executable, "-c", COUNTER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as counter:
        counter.stdout.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            source.connect((wiring.addresses[0].host, 9))
            for _ in range(400):
                source.send(b"x" * 1000)
                time.sleep(0.0005)
            wiring.impair(0, delay_ms, 0)
            sent = time.time()
            source.send(b"end")
        taken, came = counter.stdout.readline().split()
    return int(taken), float(came) - sent

with closing(NamespaceWiring(1)) as wiring:
    count(wiring, 0, 0)  # The first packet asks who has the address.
    print(json.dumps([count(wiring, 0, 0), count(wiring, 0, 25), count(wiring, 900, 0)]))
"""


@pytest.mark.e2e
def test_a_cable_loses_and_delays() -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env=make_test_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (whole, whole_s), (some, _), (late, late_s) = json.loads(done.stdout)
    assert whole == late == 400
    assert 200 < some < 390
    assert late_s >= 0.9 > whole_s
