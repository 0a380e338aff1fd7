//! The configuration against examples, and against `ssh -G`.

use std::collections::HashMap;
use std::process::Command;

use super::*;
use crate::spawn::fixture;

struct Files {
    folder: tempfile::TempDir,
    environment: SshEnvironment,
}

impl Files {
    fn new(config: &str) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let environment = SshEnvironment {
            home: folder.path().to_owned(),
            local_user: SshEnvironment::of_this_process().local_user,
            user_config: folder.path().join("config"),
            system_config: folder.path().join("system"),
            agent_socket: None,
        };
        let files = Files { folder, environment };
        files.write("config", config);
        files
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("@FOLDER@", self.folder.path().to_str().unwrap())).unwrap();
    }

    fn resolve(&self, host: &str) -> HostConfig {
        HostConfig::resolve(&fixture::host(host), &self.environment)
    }

    fn reason(&self, host: &str) -> Option<String> {
        self.resolve(host).needs_system_ssh().map(str::to_owned)
    }
}

#[test]
fn without_files_there_are_defaults() {
    let files = Files::new("");
    let config = files.resolve("node");
    assert_eq!((config.host_name.as_str(), config.port), ("node", 22));
    assert_eq!(config.user, files.environment.local_user);
    let names: Vec<_> =
        config.identity_files.iter().map(|file| file.strip_prefix(files.folder.path()).unwrap()).collect();
    assert_eq!(names, ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| Path::new(".ssh").join(name)));
    assert_eq!(config.host_key_check, HostKeyCheck::Strict);
    assert_eq!(config.needs_system_ssh(), None);
}

#[test]
fn user_and_port_beside_the_host_win() {
    let files = Files::new("User bob\nPort 2222\n");
    let host = Host { user: Some("ann".into()), port: Some(22), ..fixture::host("node") };
    let config = HostConfig::resolve(&host, &files.environment);
    assert_eq!((config.user.as_str(), config.port), ("ann", 22));
}

#[test]
fn what_libssh2_cannot_do_is_recognised() {
    let files = Files::new(
        "Host jump\n ProxyJump bastion\n\
         Host command\n ProxyCommand nc %h %p\n\
         Host direct\n ProxyJump none\n\
         Host cert\n CertificateFile ~/.ssh/x-cert.pub\n\
         Host based\n HostbasedAuthentication yes\n\
         Host token\n IdentityFile ~/.ssh/%C\n\
         Match host matched exec \"true\"\n User other\n",
    );
    let config = files.environment.user_config.display();
    assert_eq!(files.reason("jump"), Some(format!("ProxyJump bastion ({config}:2)")));
    assert_eq!(files.reason("command"), Some(format!("ProxyCommand nc %h %p ({config}:4)")));
    assert_eq!(files.reason("direct"), None);
    assert_eq!(files.reason("cert"), Some(format!("CertificateFile ~/.ssh/x-cert.pub ({config}:8)")));
    assert_eq!(files.reason("based"), Some(format!("HostbasedAuthentication yes ({config}:10)")));
    assert!(files.reason("token").unwrap().contains("%C"));
    assert_eq!(files.reason("matched"), Some(format!("`Match exec` ({config}:13)")));
    assert_eq!(files.reason("unmatched"), None, "a command that cannot matter is not asked for");
}

#[test]
fn what_is_unknown_or_unreadable_is_left_to_the_systems_ssh() {
    let files = Files::new(
        "Host unknown\n Frobnicate yes\n\
         Host wanted\n IgnoreUnknown frob*,x\n Frobnicate yes\n\
         Host late\n Frobnicate yes\n IgnoreUnknown frob*\n\
         Host port\n Port ssh\n\
         Host value\n Port\n\
         Host known\n IgnoreUnknown proxy*\n ProxyJump bastion\n",
    );
    let config = files.environment.user_config.display();
    let unknown = |line| format!("Frobnicate yes ({config}:{line}), a keyword that efarun does not know");
    assert_eq!(files.reason("unknown"), Some(unknown(2)));
    assert_eq!(files.reason("wanted"), None);
    assert_eq!(files.reason("late"), Some(unknown(7)));
    assert_eq!(files.reason("port"), Some(format!("Port ssh ({config}:10)")));
    assert_eq!(files.reason("value"), Some(format!("Port without a value ({config}:12)")));
    assert_eq!(
        files.reason("known"),
        Some(format!("ProxyJump bastion ({config}:15)")),
        "known keywords count"
    );
}

#[test]
fn lists_that_change_the_default_are_left_to_the_systems_ssh() {
    let files = Files::new(
        "Host plain\n Ciphers aes256-ctr,none-such\n PreferredAuthentications gssapi,publickey\n RekeyLimit default none\n\
         Host added\n HostKeyAlgorithms +ssh-rsa\n PreferredAuthentications password\n",
    );
    let config = files.environment.user_config.display();
    assert_eq!(files.reason("plain"), None);
    assert_eq!(files.resolve("plain").algorithms.ciphers.unwrap().names, ["aes256-ctr", "none-such"]);
    assert_eq!(
        files.reason("added"),
        Some(format!(
            "HostKeyAlgorithms +ssh-rsa ({config}:6), PreferredAuthentications password ({config}:7)"
        ))
    );
}

#[test]
fn what_makes_no_difference_is_told_with_its_reason() {
    let files = Files::new("Compression yes\nSetEnv A=b LC_X=\"c d\"\nGSSAPIAuthentication yes\n");
    let config = files.resolve("node");
    assert_eq!(config.no_difference.len(), 2, "{:?}", config.no_difference);
    assert!(config.no_difference[0].ends_with("config:1): it changes speed, not what arrives"));
    assert_eq!(config.set_env, [("A".into(), "b".into()), ("LC_X".into(), "c d".into())]);
    assert!(config.gssapi_at.unwrap().ends_with("config:3"));
    assert_eq!(config.system_ssh, None);
}

#[test]
fn a_certificate_beside_a_key_is_recognised() {
    let files = Files::new("IdentityFile ~/key\n");
    assert_eq!(files.reason("node"), None);
    files.write("key-cert.pub", "");
    assert!(files.reason("node").unwrap().ends_with("key-cert.pub"));
}

#[test]
fn the_system_file_comes_second() {
    let files = Files::new("Host a\n User ann\n");
    files.write("system", "User bob\nPort 7\n");
    assert_eq!((files.resolve("a").user.as_str(), files.resolve("a").port), ("ann", 7));
    assert_eq!(files.resolve("b").user, "bob");
}

#[test]
fn times_have_units() {
    for (word, seconds) in [
        ("5", Some(5)),
        ("90s", Some(90)),
        ("1m30", Some(90)),
        ("1h", Some(3600)),
        ("2147483647", Some(2_147_483_647)),
        ("x", None),
        ("0", None),
        // Found by fuzzing.
        ("2147483648", None),
        ("9999999999999999999h", None),
        ("18446744073709551615s1s", None),
    ] {
        assert_eq!(duration(word), seconds.map(Duration::from_secs), "{word}");
    }
}

/// What `ssh -G` says, first value per keyword but for identity files.
fn ask_ssh(files: &Files, host: &str) -> Option<(HashMap<String, String>, Vec<String>)> {
    let output =
        Command::new("ssh").arg("-F").arg(&files.environment.user_config).args(["-G", host]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut values, mut identities) = (HashMap::new(), Vec::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        match keyword {
            "identityfile" => identities.push(value.to_owned()),
            _ => drop(values.entry(keyword.to_owned()).or_insert_with(|| value.to_owned())),
        }
    }
    Some((values, identities))
}

#[test]
fn hosts_are_resolved_as_ssh_resolves_them() {
    let configs = [
        "Host a\n HostName 10.0.0.1\n User ann\n Port 2222\nHost *\n User bob\n Port 1\n",
        "Host *\n User bob\nHost a\n User ann\n",
        "User top\nHost a b\n Port 2\nHost !a *\n Port 3\n",
        "Host a\n HostName %h.example.org\nMatch host *.example.org\n User matched\nMatch host a\n Port 9\n",
        "Match originalhost a user bob\n Port 5\nHost a\n User bob\nMatch originalhost a user bob\n Port 6\n",
        "Match !originalhost a\n Port 5\nMatch all\n Port 6\n",
        "Match final all\n User late\n Port 7\nHost a\n User early\n",
        "Match final host *.org\n Port 7\nHost a\n HostName a.org\n",
        "Host a\n IdentityFile /k/one\nHost *\n IdentityFile /k/two\n IdentityFile /k/one\n",
        "Host a\n IdentityFile /k/%h-%n-%p-%r-%%\n HostName other\n Port 77\n User \"ann b\"\n",
        "Host=a\n\tPort = 2222 # not this\n  User=\"q\"\n",
        "Include @FOLDER@/more/*.conf\nHost *\n Port 5\n",
        "Host b\n Include @FOLDER@/more/*.conf\nHost a\n Port 6\n",
        "Host a\n StrictHostKeyChecking accept-new\n ConnectTimeout 7\n HashKnownHosts yes\n IdentitiesOnly yes\nHost b\n StrictHostKeyChecking no\n",
        "Host a\n UserKnownHostsFile /x/%h /y\n HostKeyAlias alias\n AddressFamily inet\n",
        "Host A\n Port 3\nMatch host A\n Port 4\n",
    ];
    for text in configs {
        let files = Files::new(text);
        files.write("more/1.conf", "Host a\n User included\n");
        files.write("more/2.conf", "Port 99\n");
        for host in ["a", "b"] {
            let Some((values, identities)) = ask_ssh(&files, host) else {
                println!("SKIPPED: hosts_are_resolved_as_ssh_resolves_them: there is no ssh to compare with");
                assert!(!std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default().contains("testbed"));
                return;
            };
            let config = files.resolve(host);
            let about = format!("host {host} in\n{text}");
            assert_eq!(config.host_name, values["hostname"], "{about}");
            assert_eq!(config.user, values["user"], "{about}");
            assert_eq!(config.port.to_string(), values["port"], "{about}");
            let check = match values["stricthostkeychecking"].as_str() {
                "accept-new" => HostKeyCheck::AcceptNew,
                "false" | "no" => HostKeyCheck::Off,
                _ => HostKeyCheck::Strict,
            };
            assert_eq!(config.host_key_check, check, "{about}");
            assert_eq!(config.hash_known_hosts, values["hashknownhosts"] == "yes", "{about}");
            assert_eq!(config.identities_only, values["identitiesonly"] == "yes", "{about}");
            assert_eq!(
                config.host_key_alias.as_deref(),
                values.get("hostkeyalias").map(String::as_str),
                "{about}"
            );
            assert_eq!(
                config
                    .connect_timeout
                    .map(|(timeout, _)| timeout.as_secs().to_string())
                    .as_deref()
                    .unwrap_or("none"),
                values["connecttimeout"],
                "{about}"
            );
            if config.identities_named {
                // ssh prints them with their tokens.
                let expanded: Vec<PathBuf> = identities
                    .iter()
                    .map(|file| {
                        let tokens = [("%h", &config.host_name), ("%n", &config.host), ("%r", &config.user)];
                        let file = tokens
                            .iter()
                            .fold(file.clone(), |file, (token, value)| file.replace(token, value));
                        file.replace("%p", &config.port.to_string()).replace("%%", "%").into()
                    })
                    .collect();
                assert_eq!(config.identity_files, expanded, "{about}");
            }
            if text.contains("UserKnownHostsFile") && host == "a" {
                assert_eq!(config.known_hosts[..2], ["/x/a", "/y"].map(PathBuf::from));
            }
        }
    }
}
