//! A known_hosts file: whatever it holds, a key is judged; one that is put on record behind it is known unless it is
//! revoked, and one that is revoked behind it is not.
#![no_main]

use efarun::fuzzing::{KeyStanding, judge_host_key, record_host_key};
use efarun_fuzz::{MemoryFile, within_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let file = MemoryFile::with(input);
    for (host, port) in [("node", 22), ("10.0.0.1", 2222)] {
        let judge = || judge_host_key(file.path(), host, port, KEY);
        let standing = within_bytes((1 << 20) + 64 * input.len(), judge);
        assert_eq!(judge(), standing);
        // On a line of its own.
        file.append(b"\n");
        record_host_key(file.path(), host, port, KEY);
        let expected = if standing == KeyStanding::Revoked { standing } else { KeyStanding::Known };
        assert_eq!(judge(), expected, "{host}:{port}, which was {standing:?}");
    }
    file.append(
        b"@revoked * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6MDEyMzQ1\n",
    );
    assert_eq!(judge_host_key(file.path(), "node", 22, KEY), KeyStanding::Revoked);
});

const KEY: &[u8] = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20abcdefghijklmnopqrstuvwxyz012345";
