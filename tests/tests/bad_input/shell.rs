//! What start-up files of the shell on a host may do, and what they may not.

use efarun_tests::{Need, Testbed, require};

use super::{assert_told, hostnames};

#[test]
fn start_up_files_may_print_and_fail() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    for text in [
        "echo hello; echo and on stderr >&2; printf 'no end of line'",
        "false; return 3",
        "cd /no/such/folder",
        "set -e -u; false || true",
        "alias sh=false; umask 000; IFS=abc; set -f; PS1=x",
        "head -c 200000 /dev/zero | tr '\\0' x",
        "trap 'echo leaving' EXIT",
    ] {
        start_up_file(&testbed, text);
        let outcome = hostnames(&testbed, "h1").run();
        assert_told(&outcome, 0, "");
        assert_eq!(outcome.stdout(), "h1\n", "{text}");
    }
}

#[test]
fn variables_of_set_env_reach_start_up_files() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sshd("h1", 2222, &["AcceptEnv=WANTED_*"]);
    testbed.ssh_config("Port 2222\nSetEnv WANTED_ONE=1 UNWANTED=2 WANTED_TWO=\"a b\"\n");
    start_up_file(&testbed, "echo \"$WANTED_ONE,$UNWANTED,$WANTED_TWO\" >$HOME/seen");
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");
    assert_eq!(testbed.sh("h1", "cat $HOME/seen"), "1,,a b\n");
}

#[test]
fn start_up_files_that_end_the_shell_are_told_with_the_code_and_what_they_printed() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let hint = "  hint: does a start-up file of the shell there (~/.bashrc, ~/.profile, ~/.cshrc) end it, or is the account closed? `ssh` to it with a command, such as `true`, shows the same";
    for (text, told) in [
        ("exit", "the remote shell ended with code 0 before the agent was started"),
        ("exit 3", "the remote shell ended with code 3 before the agent was started"),
        (
            "echo; echo This account is closed.; exit 1",
            "the remote shell ended with code 1 before the agent was started; it printed: This account is closed.",
        ),
        (
            "echo No space for you >&2; exit 1",
            "the remote shell ended with code 1 before the agent was started, saying: No space for you",
        ),
        ("exec true", "the remote shell ended with code 0 before the agent was started"),
        ("kill -KILL $$", "the remote shell was ended by SIGKILL before the agent was started"),
    ] {
        start_up_file(&testbed, text);
        let told = format!("error: host h1 (-H): the agent did not start: {told}\n{hint}");
        assert_told(&hostnames(&testbed, "h1").run(), 69, &told);
    }
}

#[test]
fn start_up_files_that_take_the_input_are_told_in_time_with_what_they_printed() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let hint = "  hint: does a start-up file of the shell there (~/.bashrc, ~/.profile, ~/.cshrc) read its input, or start another shell? `ssh` to it with a command, such as `true`, shows the same";
    for (text, printed) in [
        ("read -p 'project? ' project", ""),
        ("echo 'Which project?'; read project", "; it printed: Which project?"),
        ("cat", ""),
        ("exec sh", ""),
    ] {
        start_up_file(&testbed, text);
        let outcome = hostnames(&testbed, "h1").options(["--start-timeout", "3"]).run();
        let told = format!(
            "error: host h1 (-H): the agent did not start: the remote shell said nothing in 1 s (a third of --start-timeout){printed}\n{hint}"
        );
        assert_told(&outcome, 69, &told);
    }
}

#[test]
fn whatever_the_login_shell_is_the_agent_starts_and_nothing_is_left() {
    require!(Need::Testbed, Need::Shells);
    let testbed = Testbed::up(1);
    for shell in ["dash", "bash", "zsh", "csh", "tcsh", "fish", "ksh"] {
        testbed.sh(
            "h1",
            &format!(
                "sed \"s|^root:.*|root:x:0:0:root:$HOME:$(command -v {shell})|\" /etc/passwd >$HOME/{shell}.passwd; mount --bind $HOME/{shell}.passwd /etc/passwd"
            ),
        );
        testbed.sh("h1", "echo 'echo greetings' | tee $HOME/.cshrc $HOME/.zshenv >$HOME/.tcshrc");
        let outcome = hostnames(&testbed, "h1").run();
        assert_told(&outcome, 0, "");
        assert_eq!(outcome.stdout(), "h1\n", "{shell}");
    }
}

/// What bash, root's shell on hosts, reads before a command that comes over SSH.
fn start_up_file(testbed: &Testbed, text: &str) {
    testbed.sh("h1", &format!("cat >$HOME/.bashrc <<'END'\n{text}\nEND"));
}
