//! Keys: ours that are not taken, and the host's that are not the ones on record.

use std::fs;
use std::process::Command;

use efarun_tests::{Need, Testbed, program, require};

use super::{NO_ARGS, assert_told, hostnames, on, sorted_lines};

#[test]
fn keys_that_are_not_taken_are_listed_with_what_the_server_takes() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sh("h1", "echo >$HOME/.ssh/authorized_keys");
    make_key(&testbed, "id_ecdsa");
    let ssh = testbed.home().join(".ssh");
    let told = format!(
        "error: host h1 (-H): root was not let in; tried {0}/id_ed25519, {0}/id_ecdsa; the server takes publickey\n  hint: add one of these keys to authorized_keys there, or name another by IdentityFile in ~/.ssh/config",
        ssh.display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);

    let config = testbed.ssh_config("IdentityFile ~/.ssh/none\nUser ann\n");
    assert!(config.exists());
    let told = format!(
        "error: host h1 (-H): ann was not let in; tried {}/none (no such file); the server takes publickey\n  hint: add one of these keys to authorized_keys there, or name another by IdentityFile in ~/.ssh/config",
        ssh.display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);
}

/// The built-in SSH has no Kerberos. Where that would have been a way in, it is named.
#[test]
fn way_in_that_only_the_systems_ssh_has_is_named_where_keys_fail() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sshd("h1", 2222, &["GSSAPIAuthentication=yes"]);
    testbed.sh("h1", "echo >$HOME/.ssh/authorized_keys");
    let config = testbed.ssh_config("Port 2222\nGSSAPIAuthentication yes\n");
    let told = format!(
        "error: host h1 (-H): root was not let in; tried {}/.ssh/id_ed25519, not GSSAPIAuthentication at {}:2, which only the system's ssh can (--launch-agent ssh); the server takes publickey, gssapi-…\n  hint: add one of these keys to authorized_keys there, or name another by IdentityFile in ~/.ssh/config",
        testbed.home().display(),
        config.display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);
}

#[test]
fn too_many_keys_are_counted_and_the_way_out_is_named() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sshd("h1", 2222, &["MaxAuthTries=2"]);
    ["one", "two", "three"].iter().for_each(|name| make_key(&testbed, name));
    testbed.ssh_config(
        "Port 2222\nIdentityFile ~/.ssh/one\nIdentityFile ~/.ssh/two\nIdentityFile ~/.ssh/three\nIdentityFile ~/.ssh/id_ed25519\n",
    );
    let told = format!(
        "error: host h1 (-H): root was not let in; tried {0}/one, {0}/two…; then the server hung up; the server takes publickey\n  hint: … keys were too many for it (MaxAuthTries in its sshd_config): name the right one by IdentityFile, with `IdentitiesOnly yes`, for this host in ~/.ssh/config",
        testbed.home().join(".ssh").display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);
}

#[test]
fn passwords_are_not_asked_for_and_that_is_said() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let options = ["PubkeyAuthentication=no", "PasswordAuthentication=yes", "PermitRootLogin=yes"];
    testbed.sshd("h1", 2222, &options);
    let hostfile = testbed.hostfile_of("h1 port=2222\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    let told = format!(
        "error: host h1 port 2222 ({}:1): root was not let in; tried nothing; the server takes password\n  hint: efarun never asks for passwords, and this server takes nothing else: let it take keys (PubkeyAuthentication in its sshd_config), then `ssh-copy-id -p 2222 root@h1`",
        hostfile.display()
    );
    assert_told(&outcome, 77, &told);
}

#[test]
fn changed_host_key_is_told_with_both_fingerprints_its_line_and_the_way_out() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let known_hosts = testbed.home().join(".ssh/known_hosts");
    let key = |host: &str| fs::read_to_string(testbed.folder().join(host).join("host_ed25519.pub")).unwrap();
    // What h1 had before it was installed anew: here, what h2 has.
    fs::write(&known_hosts, format!("# mine\nh2 {}h1 {}", key("h2"), key("h2"))).unwrap();
    // Accepting new keys is not accepting others.
    testbed.ssh_config("StrictHostKeyChecking accept-new\n");
    let told = format!(
        "error: host h1 (-H): its ssh-ed25519 host key {} is not the one on record, {} at {file}:3\n  hint: was it installed anew, or is somebody in between? Once you know, remove the old key: ssh-keygen -f {file} -R 'h1'",
        fingerprint(&testbed, "h1"),
        fingerprint(&testbed, "h2"),
        file = known_hosts.display(),
    );
    assert_told(&hostnames(&testbed, "h1,h2").run(), 77, &told);

    // What is said to help does.
    testbed.sh("head", &format!("ssh-keygen -f {} -R 'h1' 2>&1", known_hosts.display()));
    let outcome = hostnames(&testbed, "h1,h2").run();
    outcome.assert_code(0);
    assert_eq!(sorted_lines(&outcome), ["h1", "h2"]);

    fs::write(&known_hosts, format!("@revoked * {}", key("h1"))).unwrap();
    let told = format!(
        "error: host h1 (-H): its ssh-ed25519 host key {} is revoked at {}:1\n  hint: somebody may have stolen this key; the host needs a new one (`ssh-keygen -A` there), and known_hosts its public part",
        fingerprint(&testbed, "h1"),
        known_hosts.display(),
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);
}

#[test]
fn unknown_host_key_is_refused_unless_the_configuration_accepts_new_ones() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let known_hosts = testbed.home().join(".ssh/known_hosts");
    fs::write(&known_hosts, "").unwrap();
    let told = format!(
        "error: host h1 (-H): its ssh-ed25519 host key {} is not in {}, …, /etc/ssh/ssh_known_hosts, /etc/ssh/ssh_known_hosts2\n  hint: compare it with the host's own (`ssh-keygen -lf` on its /etc/ssh/ssh_host_*_key.pub) and accept it by `ssh root@h1`, or set `StrictHostKeyChecking accept-new` for this host in ~/.ssh/config",
        fingerprint(&testbed, "h1"),
        known_hosts.display(),
    );
    assert_told(&hostnames(&testbed, "h1").run(), 77, &told);
    assert_eq!(fs::read_to_string(&known_hosts).unwrap(), "", "nothing was accepted");

    testbed.ssh_config("Host h1\n  StrictHostKeyChecking accept-new\n");
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");
    assert_eq!(fs::read_to_string(&known_hosts).unwrap().matches(" ssh-ed25519 ").count(), 1);
    testbed.ssh_config("");
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");
}

/// As ssh-keygen shows it.
fn fingerprint(testbed: &Testbed, host: &str) -> String {
    let key = testbed.folder().join(host).join("host_ed25519.pub");
    let shown = Command::new("ssh-keygen").arg("-lf").arg(key).output().expect("ssh-keygen is there").stdout;
    let shown = String::from_utf8(shown).expect("ssh-keygen writes text");
    shown.split(' ').nth(1).expect("the fingerprint comes second").to_owned()
}

fn make_key(testbed: &Testbed, name: &str) {
    let kind = name.strip_prefix("id_").unwrap_or("ed25519");
    testbed.sh("head", &format!("ssh-keygen -q -t {kind} -N '' -f $HOME/.ssh/{name}"));
}
