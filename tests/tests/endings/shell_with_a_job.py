"""A terminal, a shell on it and one job: stopped by Ctrl-Z, let go on in the background, taken back and spoken to.

`shell_with_a_job.py COMMAND…` types what a user would, each when the line before it in LINES has been shown. Prints all that
the terminal shows, and ends with the job's exit code, or with 1 and a line of what it waited for.
"""

import os
import pty
import signal
import sys

DEADLINE_S = 60
# What is shown, and what is typed then.
LINES = ((b"is up", b"\x1a"), (b"in the background", b""), (b"it goes on", b"fg\n"), (b"in the foreground", b"hello\n"))


def shell(argv: list[str]) -> int:
    """The shell's part, on the terminal."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(argv[0], argv)
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        print(f"ended instead of stopping: {status}", flush=True)
        return 1
    os.tcsetpgrp(0, os.getpgrp())
    print(f"stopped by signal {os.WSTOPSIG(status)}", flush=True)
    os.killpg(job, signal.SIGCONT)
    print("in the background", flush=True)
    sys.stdin.readline()
    gone, status = os.waitpid(job, os.WUNTRACED | os.WNOHANG)
    if gone:
        print(f"did not stay in the background: {status}", flush=True)
        return 1
    os.tcsetpgrp(0, job)
    print("in the foreground", flush=True)
    _, status = os.waitpid(job, 0)
    return os.waitstatus_to_exitcode(status)


def await_line(terminal: int, shown: bytearray, wanted: bytes):
    """Reads until it is shown."""
    while wanted not in shown:
        try:
            shown += (more := os.read(terminal, 4096))
        except OSError:
            more = b""
        if not more:
            return


def main(argv: list[str]) -> int:
    child, terminal = pty.fork()
    if child == 0:
        os._exit(shell(argv))
    shown = bytearray()
    waits_for = b""

    def give_up(*_):
        sys.stdout.buffer.write(bytes(shown))
        print(f"\nwaited {DEADLINE_S} s for: {waits_for.decode()}", flush=True)
        os.close(terminal)
        os._exit(1)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(DEADLINE_S)
    for waits_for, typed in LINES:
        await_line(terminal, shown, waits_for)
        os.write(terminal, typed)
    waits_for = b"its end"
    await_line(terminal, shown, b"\0 never")
    _, status = os.waitpid(child, 0)
    sys.stdout.buffer.write(bytes(shown))
    return os.waitstatus_to_exitcode(status)


sys.exit(main(sys.argv[1:]))
