"""A training script without torch: it reports how it was started, meets the others as torch's store does, or fails."""

import json
import os
import signal
import socket
import sys
import time

RANK = int(os.environ.get("RANK", "-1"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "-1"))
PATIENCE_S = 60


def say(text):
    # One write, so that lines of ranks that share a file stay whole.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def report():
    """Says everything that a test may ask, as one line of JSON."""
    say(
        json.dumps(
            {
                "env": dict(os.environ),
                "argv": sys.argv[1:],
                "executable": sys.executable,
                "module": __spec__.name if __spec__ else None,
                "unbuffered": sys.stdout.write_through,
                "hostname": socket.gethostname(),
                "wdir": os.getcwd(),
                "cpus": len(os.sched_getaffinity(0)),
            }
        )
    )


def meet():
    """Rank 0 serves at MASTER_ADDR:MASTER_PORT as torch's store does; every rank learns that all were there."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    deadline = time.monotonic() + PATIENCE_S
    if RANK == 0:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
        server.settimeout(PATIENCE_S)
        members = [server.accept()[0] for _ in range(WORLD_SIZE - 1)]
        ranks = sorted([0] + [int(member.recv(16)) for member in members])
        for member in members:
            member.sendall(json.dumps(ranks).encode())
    else:
        while True:
            try:
                connection = socket.create_connection(address, timeout=PATIENCE_S)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        connection.sendall(str(RANK).encode())
        ranks = json.loads(connection.recv(4096))
    say(f"rank {RANK} met {ranks}")


def port():
    """Asks for MASTER_PORT as a stranger does, and as torch's store does."""
    number = int(os.environ["MASTER_PORT"])
    with socket.socket() as stranger:
        try:
            stranger.bind(("0.0.0.0", number))
            say("a stranger got it")
        except OSError:
            say("a stranger did not get it")
    with socket.socket() as store:
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind(("0.0.0.0", number))
        store.listen(1)
        say(f"the store got {number}")


def fail_until(attempt):
    """The highest rank fails, as torch's `record` reports it, until the group was started this often again."""
    count = os.environ["TORCHELASTIC_RESTART_COUNT"]
    say(f"rank {RANK} of attempt {count}")
    if int(count) >= int(attempt):
        return
    if RANK == WORLD_SIZE - 1:
        extra = {"py_callstack": 'Traceback:\n  File "train.py", line 7\nValueError: bad batch\n', "timestamp": str(int(time.time()))}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": {"message": "ValueError: bad batch", "extraInfo": extra}}, file)
        sys.exit(3)
    signal.pause()


def streams():
    say(f"out {RANK}")
    sys.stderr.write(f"err {RANK}\n")
    sys.stderr.flush()


def hang():
    say(f"rank {RANK} hangs")
    signal.pause()


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["report"]
    {"report": report, "meet": meet, "port": port, "fail-until": fail_until, "streams": streams, "hang": hang}[what](
        *(rest if what == "fail-until" else [])
    )
