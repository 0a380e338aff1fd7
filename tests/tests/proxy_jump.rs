//! What the built-in SSH cannot do sends a host through the system's `ssh`: a host behind another one.

use std::path::Path;

use efarun_tests::{Job, Need, Outcome, Testbed, program, require};

const NO_ARGS: [&str; 0] = [];

fn hostnames(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test"))
        .options(["-H", "h1,h2"])
        .program(Path::new("/bin/hostname"), NO_ARGS)
}

/// Asserts the code, all of standard error, and that nothing is left.
#[track_caller]
fn assert_told(outcome: &Outcome, code: i32, stderr: &str) {
    outcome.assert_code(code);
    assert_eq!(outcome.told(), stderr, "{}", outcome.shown());
}

#[test]
fn host_behind_another_is_reached_by_proxy_jump_and_that_is_said_once() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    testbed.hide("h2", "h1");
    let config = testbed.ssh_config("Host h2\n  ProxyJump h1\n");
    let outcome = hostnames(&testbed).run();
    let told = format!(
        "efarun: h2: reached by the system's ssh: ProxyJump h1 ({}:2)\nefarun: h2: cannot dial this machine (its SSH connection comes from 10.88.0.1, which is not this machine): staying in the connection that started the agent",
        config.display()
    );
    assert_told(&outcome, 0, &told);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["h1", "h2"]);

    // Without the jump there is no way: the test would otherwise prove nothing.
    testbed.ssh_config("Host h2\n  ConnectTimeout 2\n");
    let outcome = hostnames(&testbed).run();
    outcome.assert_code(69).assert_says(&["error: host h2 (-H): "]);
}

#[test]
fn ranks_on_both_sides_of_a_jump_reach_each_other() {
    require!(Need::Testbed, Need::Libfabric1);
    let testbed = Testbed::up(2);
    testbed.hide("h2", "h1");
    testbed.ssh_config("Host h2\n  ProxyJump h1\n");
    let outcome = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2"])
        .program(program!("efa-perf-under-test"), ["all_reduce", "-b", "8", "-e", "64K", "-f", "64"])
        .run();
    outcome.assert_code(0).assert_says(&["h2: reached by the system's ssh"]);
}

#[test]
fn jump_that_fails_is_told_as_the_built_in_ssh_would() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    testbed.hide("h2", "h1");
    testbed.ssh_config("Host h2\n  ProxyJump h1\n  Port 9\n");
    let outcome = hostnames(&testbed).run();
    let told = "error: host h2 (-H): the connection to it from its jump host: connection refused\n  hint: does the jump host know its name, and is its sshd to be reached from there, on this port?\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`";
    assert_told(&outcome, 69, told);
}

#[test]
fn without_a_systems_ssh_the_keyword_is_named_with_what_to_install() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let config = testbed.ssh_config("Host h2\n  ProxyJump h1\n  Ciphers +aes128-ctr\n");
    // The head has a view of its own of the files.
    testbed.sh("head", "mount --bind /dev/null $(command -v ssh)");
    let outcome = hostnames(&testbed).run();
    let told = format!(
        "error: host h2 (-H): ProxyJump h1 ({0}:2), Ciphers +aes128-ctr ({0}:3): only the system's `ssh` can do that, and there is none in PATH\n  hint: install openssh-client (openssh-clients on Amazon Linux), or take this out of the SSH configuration",
        config.display()
    );
    assert_told(&outcome, 69, &told);
}

#[test]
fn keywords_that_ssh_knows_and_we_do_not_are_left_to_it() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let config = testbed.ssh_config("Host h1\n  SendEnv LANG\nHost h2\n  Frobnicate yes\n");
    let file = config.display();
    let outcome = hostnames(&testbed).run();
    let told = format!(
        "error: host h2 (-H): the agent did not start: `ssh h2` failed with code 255, saying: {file}: line 4: Bad configuration option: frobnicate / {file}: terminating, 1 bad configuration options\n  hint: `ssh h2 true` shows the same",
    );
    assert_told(&outcome, 69, &told);

    testbed.ssh_config("IgnoreUnknown frob*\nFrobnicate yes\nHost h1\n  RekeyLimit 1G\n  Compression yes\n");
    let outcome = hostnames(&testbed).options(["-v"]).run();
    outcome.assert_code(0).assert_says(&[
        &format!("efarun: h1: reached by the system's ssh: RekeyLimit 1G ({file}:4)\n"),
        &format!(
            "efarun: h1: Compression yes ({file}:5): it changes speed, not what arrives; not acted on\n"
        ),
    ]);
    assert_eq!(outcome.stderr().matches("reached by the system's ssh").count(), 1, "{}", outcome.shown());
}
