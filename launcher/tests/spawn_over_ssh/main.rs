//! Agents started over a real sshd.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is a test to its last function")]

mod testbed;

use std::process::Command;
use std::time::{Duration, Instant};

use efarun::job::Host;
use efarun::spawn::command::CommandSpawner;
use efarun::spawn::push::Launcher;
use efarun::spawn::ssh::SshSpawner;
use efarun::spawn::{AgentChannel, ChannelEnd, SpawnError, Spawner};
use testbed::{Testbed, agent, host};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const IN_TIME: Duration = Duration::from_secs(20);

async fn echoes(mut channel: AgentChannel) {
    channel.stream.write_all(b"order").await.unwrap();
    channel.stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    channel.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"order");
    assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(0)));
}

fn spawner(testbed: &Testbed, body: &str) -> SshSpawner {
    SshSpawner::new(agent(testbed, body), testbed.environment())
}

/// What ssh-keygen says about a key: its length, its fingerprint, …
fn fingerprint(key: &std::path::Path) -> String {
    let shown = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

#[test]
fn agents_are_pushed_once_and_then_found() {
    let Some(testbed) = Testbed::up(2) else { return };
    let spawner = spawner(&testbed, "echo from $0 >&2; exec cat");
    testbed.run(async {
        for _ in 0..2 {
            for number in [1, 2] {
                let mut channel = spawner.start(&host(number), IN_TIME).await.unwrap();
                assert_eq!(
                    channel.head_address,
                    Some(testbed.value("TESTBED_HEAD_ADDRESS").parse().unwrap())
                );
                assert_eq!(channel.route, format!("ssh root@10.88.0.{number}:22"));
                let from = channel.stderr.recv().await.unwrap();
                assert!(from.contains("/.cache/efarun/"), "{from}");
                echoes(channel).await;
            }
        }
    });
    let sizes = testbed.on("h1", "ls -A \"$HOME/.cache/efarun\" | wc -l");
    assert_eq!(sizes.trim(), "1");
}

#[test]
fn an_unknown_host_key_is_refused_with_its_fingerprint() {
    let Some(testbed) = Testbed::up(1) else { return };
    std::fs::remove_file(testbed.value("TESTBED_KNOWN_HOSTS")).unwrap();
    let shown = fingerprint(&testbed.state("h1/host_ed25519.pub"));
    testbed.run(async {
        let error = spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap_err();
        let SpawnError::UnknownHostKey { key_type, fingerprint, destination, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(key_type, "ssh-ed25519");
        assert_eq!(Some(fingerprint.as_str()), shown.split(' ').nth(1));
        assert_eq!(destination, "root@10.88.0.1");
    });
}

#[test]
fn an_unknown_host_key_is_added_where_the_configuration_says_so() {
    let Some(testbed) = Testbed::up(1) else { return };
    std::fs::remove_file(testbed.value("TESTBED_KNOWN_HOSTS")).unwrap();
    std::fs::write(testbed.home(".ssh/config"), "StrictHostKeyChecking accept-new\nHashKnownHosts yes\n")
        .unwrap();
    testbed.run(async {
        let spawner = spawner(&testbed, "exec cat");
        echoes(spawner.start(&host(1), IN_TIME).await.unwrap()).await;
        std::fs::remove_file(testbed.home(".ssh/config")).unwrap();
        echoes(spawner.start(&host(1), IN_TIME).await.unwrap()).await;
    });
}

#[test]
fn a_changed_host_key_is_not_taken_for_an_unknown_one() {
    let Some(testbed) = Testbed::up(2) else { return };
    let other = std::fs::read_to_string(testbed.state("h2/host_ed25519.pub")).unwrap();
    let recorded_by_ssh_keygen = fingerprint(&testbed.state("h2/host_ed25519.pub"));
    std::fs::write(testbed.value("TESTBED_KNOWN_HOSTS"), format!("10.88.0.1 {other}")).unwrap();
    std::fs::write(testbed.home(".ssh/config"), "StrictHostKeyChecking accept-new\n").unwrap();
    testbed.run(async {
        let error = spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap_err();
        let SpawnError::ChangedHostKey { name, file, line, recorded, .. } = &error else { panic!("{error}") };
        assert_eq!((name.as_str(), file.as_str()), ("10.88.0.1", testbed.value("TESTBED_KNOWN_HOSTS")));
        assert_eq!((*line, Some(recorded.as_str())), (1, recorded_by_ssh_keygen.split(' ').nth(1)));
    });
}

#[test]
fn a_host_known_by_its_second_key_is_known() {
    let Some(testbed) = Testbed::up(1) else { return };
    let ecdsa = std::fs::read_to_string(testbed.state("h1/host_ecdsa.pub")).unwrap();
    std::fs::write(testbed.value("TESTBED_KNOWN_HOSTS"), format!("10.88.0.1 {ecdsa}")).unwrap();
    testbed.run(async {
        echoes(spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap()).await;
    });
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.run(async {
        let began = Instant::now();
        let nobody = Host { port: Some(9), ..host(1) };
        let error = spawner(&testbed, "exec cat").start(&nobody, IN_TIME).await.unwrap_err();
        let address = "10.88.0.1:9".to_owned();
        assert_eq!(error, SpawnError::Refused { host: nobody.mention(), address });
        assert!(began.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn keys_that_are_not_accepted_are_listed() {
    let Some(testbed) = Testbed::up(1) else { return };
    let ssh = testbed.home(".ssh");
    std::fs::remove_file(ssh.join("id_ed25519")).unwrap();
    for (name, kind, passphrase) in
        [("id_ed25519", "ed25519", ""), ("id_ecdsa", "ecdsa", ""), ("id_rsa", "rsa", "secret")]
    {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(ssh.join(name));
        let mut made = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        // It may ask whether an old public key may be overwritten.
        let _ = std::io::Write::write_all(&mut made.stdin.take().unwrap(), b"y\n");
        assert!(made.wait().unwrap().success());
    }
    testbed.run(async {
        let error = spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap_err();
        let SpawnError::NotAuthenticated { user, tried, .. } = &error else { panic!("{error}") };
        assert_eq!(user, "root");
        for part in ["/.ssh/id_ed25519, ", "/.ssh/id_ecdsa, ", "/.ssh/id_rsa (it needs its passphrase"] {
            assert!(tried.contains(part), "{part} is not in: {tried}");
        }
    });
}

#[test]
fn the_ssh_agent_lets_us_in() {
    let Some(testbed) = Testbed::up(1) else { return };
    let socket = testbed.folder().join("agent.sock");
    let key = testbed.folder().join("key");
    std::fs::rename(testbed.value("TESTBED_KEY"), &key).unwrap();
    // It lives as long as the command that it was given.
    let script = r#"ssh-add -q "$0" && echo ready && read end"#;
    let mut ssh_agent = Command::new("ssh-agent")
        .arg("-a")
        .arg(&socket)
        .args(["sh", "-c", script])
        .arg(&key)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(ssh_agent.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let mut environment = testbed.environment();
    environment.agent_socket = Some(socket);
    let spawner = SshSpawner::new(agent(&testbed, "exec cat"), environment);
    testbed.run(async {
        echoes(spawner.start(&host(1), IN_TIME).await.unwrap()).await;
    });
    drop(ssh_agent.stdin.take());
    ssh_agent.wait().unwrap();
}

#[test]
fn connections_that_a_busy_sshd_drops_are_tried_again() {
    let Some(testbed) = Testbed::up(1) else { return };
    let config = testbed.state("h1/sshd_config");
    let second = format!("/usr/sbin/sshd -f {} -o Port=2222 -o MaxStartups=2:50:4", config.display());
    testbed.on("h1", &format!("{second} </dev/null >/dev/null 2>&1"));
    let key = std::fs::read_to_string(testbed.state("h1/host_ed25519.pub")).unwrap();
    std::fs::write(testbed.value("TESTBED_KNOWN_HOSTS"), format!("[10.88.0.1]:2222 {key}")).unwrap();
    testbed.run(async {
        let spawner = spawner(&testbed, "exec cat");
        let busy = Host { port: Some(2222), ..host(1) };
        // It goes into the background before it listens, and cannot say when it does.
        while tokio::net::TcpStream::connect("10.88.0.1:2222").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut starts = JoinSet::new();
        for _ in 0..32 {
            let (spawner, busy) = (spawner.clone(), busy.clone());
            starts.spawn(async move { spawner.start(&busy, Duration::from_secs(40)).await });
        }
        while let Some(started) = starts.join_next().await {
            echoes(started.unwrap().unwrap()).await;
        }
    });
}

#[test]
fn both_directions_carry_20_mb_at_once() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.run(async {
        let channel = spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap();
        let sent: Vec<u8> =
            (0..20_000_000_u32).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect();
        let (mut reader, mut writer) = channel.stream.into_split();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expected, "{} bytes came back", received.len());
        assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(0)));
    });
}

#[test]
fn output_that_nobody_reads_yet_waits_without_being_lost_or_burning_the_cpu() {
    let Some(testbed) = Testbed::up(1) else { return };
    // The session's thread is named after the host as it is written.
    std::fs::write(testbed.home(".ssh/config"), "Host quiet\n HostName 10.88.0.1\n").unwrap();
    testbed.run(async {
        let body = "read order; head -c 8000000 /dev/zero; echo written >&2; cat >/dev/null";
        let quiet = Host { name: "quiet".into(), ..host(1) };
        let mut channel = spawner(&testbed, body).start(&quiet, IN_TIME).await.unwrap();
        channel.stream.write_all(b"go\n").await.unwrap();
        let mut first = [0];
        channel.stream.read_exact(&mut first).await.unwrap();
        let before = cpu_time("ssh quiet");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = cpu_time("ssh quiet") - before;
        assert!(used < Duration::from_millis(200), "{used:?} of CPU in a second of waiting");
        let mut rest = vec![0; 7_999_999];
        channel.stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(channel.stderr.recv().await.as_deref(), Some("written"));
        echoes_nothing(channel).await;
    });
}

async fn echoes_nothing(mut channel: AgentChannel) {
    channel.stream.shutdown().await.unwrap();
    assert_eq!(channel.stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(0)));
}

/// What the thread of this name has used.
fn cpu_time(thread: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == thread)
    };
    let task = tasks.into_iter().find(named).expect("the session has its thread");
    let stat = std::fs::read_to_string(task.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn start_up_files_may_print() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.script(["noise", "h1"]);
    testbed.run(async {
        echoes(spawner(&testbed, "exec cat").start(&host(1), IN_TIME).await.unwrap()).await;
    });
}

#[test]
fn a_host_that_does_not_answer_is_given_up_in_time() {
    let Some(testbed) = Testbed::up(2) else { return };
    testbed.script(["cut", "h1"]);
    testbed.script(["pause", "h2"]);
    testbed.run(async {
        let spawner = spawner(&testbed, "exec cat");
        for (number, what) in [(1, "10.88.0.1:22"), (2, "the SSH handshake with 10.88.0.2:22")] {
            let began = Instant::now();
            let error = spawner.start(&host(number), Duration::from_secs(2)).await.unwrap_err();
            let SpawnError::TimedOut { what: waited_for, .. } = &error else { panic!("{error}") };
            assert_eq!(waited_for, what);
            assert!(began.elapsed() < Duration::from_secs(4));
        }
    });
    testbed.script(["heal", "h2"]);
}

#[test]
fn the_end_of_an_agent_is_told() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.run(async {
        for (body, end) in [
            ("exit 7", ChannelEnd::Code(7)),
            ("kill -SEGV $$", ChannelEnd::Signal("SIGSEGV".into())),
            ("echo last words >&2; exit 1", ChannelEnd::Code(1)),
        ] {
            let mut channel = spawner(&testbed, body).start(&host(1), IN_TIME).await.unwrap();
            assert_eq!(channel.stream.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(channel.ended.await, Ok(end));
            let last = channel.stderr.recv().await;
            assert!(!body.contains("last words") || last.as_deref() == Some("last words"), "{last:?}");
        }
    });
}

#[test]
fn a_session_that_is_killed_is_lost() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.run(async {
        let body = "ps -o ppid= -p $PPID >&2; echo $PPID >&2; exec cat";
        let mut channel = spawner(&testbed, body).start(&host(1), IN_TIME).await.unwrap();
        let mut parents = Vec::new();
        while parents.len() < 2 {
            parents.push(channel.stderr.recv().await.unwrap().trim().to_owned());
        }
        // sh, or the login shell, is a child of the session's sshd: end whichever of the two is sshd.
        testbed.on(
            "h1",
            &format!("for p in {}; do grep -q sshd /proc/$p/comm && kill -9 $p; done; :", parents.join(" ")),
        );
        let end = channel.ended.await.unwrap();
        assert!(matches!(end, ChannelEnd::Lost(_)), "{end:?}");
        assert_eq!(channel.stream.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn dropping_the_channel_ends_the_agent() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.run(async {
        let body = "cat >/dev/null; exit 5";
        let channel = spawner(&testbed, body).start(&host(1), IN_TIME).await.unwrap();
        drop(channel.stream);
        assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(5)));
    });
}

#[test]
fn a_home_that_may_not_run_programs_is_passed_over() {
    let Some(testbed) = Testbed::up(1) else { return };
    testbed.on("h1", "mount -o remount,noexec \"$HOME\"");
    testbed.run(async {
        let body = "echo $0 >&2; exec cat # of spawn_over_ssh, noexec";
        let mut channel = spawner(&testbed, body).start(&host(1), IN_TIME).await.unwrap();
        let path = channel.stderr.recv().await.unwrap();
        assert!(path.starts_with("/tmp/efarun-0/"), "{path}");
        echoes(channel).await;
        // /tmp is the machine's.
        std::fs::remove_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
    });
}

#[test]
fn the_systems_ssh_is_a_launch_agent() {
    let Some(testbed) = Testbed::up(1) else { return };
    let ssh = |launcher: Launcher| {
        let words = ["ssh", "-F", testbed.value("TESTBED_SSH_CONFIG")];
        CommandSpawner::new(words.map(Into::into).to_vec(), launcher)
    };
    testbed.run(async {
        echoes(ssh(agent(&testbed, "exec cat")).start(&host(1), IN_TIME).await.unwrap()).await;

        let nobody = Host { port: Some(9), ..host(1) };
        let error = ssh(agent(&testbed, "exec cat")).start(&nobody, IN_TIME).await.unwrap_err();
        let address = "10.88.0.1:9".to_owned();
        assert_eq!(error, SpawnError::Refused { host: nobody.mention(), address });

        std::fs::remove_file(testbed.value("TESTBED_KNOWN_HOSTS")).unwrap();
        let error = ssh(agent(&testbed, "exec cat")).start(&host(1), IN_TIME).await.unwrap_err();
        assert!(matches!(error, SpawnError::UnknownHostKey { .. }), "{error}");
    });
}
