//! Hosts that cannot be reached: names, ports, silence, and servers that are no sshd.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use efarun_tests::{Need, Testbed, is_full_matrix, program, require};

use super::{NO_ARGS, assert_told, hostnames, on};

#[test]
fn name_without_an_address_is_told_with_its_line() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let hostfile = testbed.hostfile_of("# two hosts\nh1 slots=1\n\nh11 slots=1\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    let told = format!(
        "error: host h11 ({}:4): the name `h11` has no address: name or service not known\n  hint: check its spelling; `getent hosts h11` asks as efarun does, and the host's address will do as well\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`",
        hostfile.display()
    );
    assert_told(&outcome, 69, &told);
    assert_eq!(outcome.stdout(), "", "no rank was started on the host that could be reached");
}

#[test]
fn port_that_nobody_listens_on_is_named() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let hostfile = testbed.hostfile_of("h1 slots=1 port=9\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    let told = format!(
        "error: host h1 port 9 ({}:1): 10.88.0.1:9 refused the connection\n  hint: is sshd running there, on this port? `port=` in the hostfile, or Port in ~/.ssh/config, names another\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`",
        hostfile.display()
    );
    assert_told(&outcome, 69, &told);
    assert!(outcome.duration < Duration::from_secs(3), "{}", outcome.shown());
    testbed.ssh_config("ConnectionAttempts 3\n");
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    assert_told(&outcome, 69, &told);
    assert!(outcome.duration >= Duration::from_secs(2), "a second apart: {}", outcome.shown());
}

#[test]
fn host_that_drops_packets_is_given_up_at_the_limit_that_applies() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    // Answers of this host go nowhere, and nobody is told.
    testbed.sh("h2", &format!("ip route add blackhole {}/32", testbed.head_address()));
    let run = |options: &[&str]| {
        on(&testbed).options(["-H", "h2"]).options(options).program(program!("rank_hang"), NO_ARGS).run()
    };
    let told = |seconds: u32, limit: &str| {
        format!(
            "error: host h2 (-H): 10.88.0.2:22 gave no answer in {seconds} s ({limit})\n  hint: is the host up, and does its security group let this machine in on that port?\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`"
        )
    };
    assert_told(&run(&["--start-timeout", "2"]), 69, &told(2, "--start-timeout"));
    let config = testbed.ssh_config("Host h*\n  ConnectTimeout 1\n");
    assert_told(&run(&[]), 69, &told(1, &format!("ConnectTimeout at {}:2", config.display())));
    if is_full_matrix() {
        testbed.ssh_config("");
        let outcome = run(&[]);
        assert_told(&outcome, 69, &told(10, "ConnectTimeout in ~/.ssh/config sets another limit"));
        outcome.assert_says(&["efarun: 0/1 hosts connected after 3 s; waiting for h2 (-H): connecting\n"]);
    }
}

/// One error does not hide that another host is not well either.
#[test]
fn host_that_is_not_there_yet_when_another_fails_is_named_as_such() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let silent = testbed.listen("h1", 8081);
    let hostfile = testbed.hostfile_of("h1 port=8081\nh11\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    drop(silent);
    let waiting = format!(
        "\nerror: given up because of that; not connected by then: h1 port 8081 ({}:1): connecting\n",
        hostfile.display()
    );
    outcome.assert_code(69).assert_says(&["error: host h11 (", &waiting]);
    assert!(outcome.duration < Duration::from_secs(8), "{}", outcome.shown());
}

#[test]
fn network_that_no_route_leads_to_is_told_apart_from_silence() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let told = "error: host 10.99.0.1 (-H): connecting to 10.99.0.1:22: network is unreachable\n  hint: is the host up, and is its subnet routed from here? `ip route get` says how this machine would reach it\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`";
    assert_told(&hostnames(&testbed, "10.99.0.1").run(), 69, told);
}

#[test]
fn servers_that_are_no_sshd_are_told_by_what_they_say() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let web = testbed.listen("h1", 8080);
    answer_everybody(web, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let silent = testbed.listen("h1", 8081);
    let mute = testbed.listen("h1", 8082);
    hang_up_on_everybody(mute);
    let run = |port: u16, options: &[&str]| {
        let hostfile = testbed.hostfile_of(format!("h1 port={port}\n"));
        let options = options.iter().map(std::ffi::OsStr::new);
        on(&testbed)
            .options([std::ffi::OsStr::new("--hostfile"), hostfile.as_os_str()].into_iter().chain(options))
            .program(program!("rank_hang"), NO_ARGS)
            .run()
    };
    let host =
        |port: u16| format!("error: host h1 port {port} ({}:1)", testbed.folder().join("hostfile").display());

    let told = format!(
        "{}: what answers at 10.88.0.1:8080 is no SSH server: it said `HTTP/1.1 400 Bad Request`\n  hint: is this the port of its sshd? `port=` in the hostfile, or Port in ~/.ssh/config, names another",
        host(8080)
    );
    assert_told(&run(8080, &[]), 69, &told);

    let told = format!(
        "{}: the SSH handshake with 10.88.0.1:8081 gave no answer in 1 s (ConnectTimeout at {}:1)\n  hint: something accepts connections there and says nothing: is it an SSH server, and does its machine still run? `ssh -p 8081 root@h1` would tell\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`",
        host(8081),
        testbed.ssh_config("ConnectTimeout 1").display()
    );
    assert_told(&run(8081, &[]), 69, &told);
    drop(silent);

    let told = format!(
        "{}: 10.88.0.1:8082 hung up before the SSH handshake was done, … times in … s\n  hint: is its sshd overloaded (MaxStartups in its sshd_config), or does a firewall, fail2ban or hosts.deny turn this machine away? `journalctl -u ssh` there says\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`",
        host(8082)
    );
    assert_told(&run(8082, &["--start-timeout", "3"]), 69, &told);
}

#[test]
fn sshd_that_stays_busy_is_told_with_its_own_words() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sshd("h1", 2222, &["MaxStartups=1:100:1"]);
    // Whoever is connected and does not authenticate takes the only place.
    let mut taken = testbed.connect("h1", 2222);
    taken.read_exact(&mut [0; 4]).unwrap();
    testbed.settle();
    let hostfile = testbed.hostfile_of("h1 port=2222\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(["--start-timeout", "2"])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    drop(taken);
    let told = format!(
        "error: host h1 port 2222 ({}:1): 10.88.0.1:2222 hung up before the SSH handshake was done, … times in … s; it said `Exceeded MaxStartups`\n  hint: is its sshd overloaded (MaxStartups in its sshd_config), or does a firewall, fail2ban or hosts.deny turn this machine away? `journalctl -u ssh` there says\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`",
        hostfile.display()
    );
    assert_told(&outcome, 69, &told);
}

/// Reads what somebody says, and answers this. The thread ends with the process.
fn answer_everybody(listener: TcpListener, answer: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, mut said) = (stream, [0; 256]);
            // Whoever has gone needs no answer.
            let _ = stream.read(&mut said).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
}

fn hang_up_on_everybody(listener: TcpListener) {
    std::thread::spawn(move || listener.incoming().for_each(drop));
}
