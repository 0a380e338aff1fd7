//! A user's ssh_config: whatever it says, a host has a way to be reached, and the same text gives the same one. Other
//! files are not read: input that includes any is passed over.
#![no_main]

use efarun::job::Host;
use efarun::spawn::ssh::config::{HostConfig, SshEnvironment};
use efarun_fuzz::{MemoryFile, within_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let lower = input.to_ascii_lowercase();
    if lower.windows(b"include".len()).any(|word| word == b"include") {
        return;
    }
    let file = MemoryFile::with(input);
    let environment = SshEnvironment {
        home: "/nonexistent".into(),
        local_user: "me".to_owned(),
        user_config: file.path().to_owned(),
        system_config: "/nonexistent/ssh_config".into(),
        agent_socket: None,
    };
    for (name, user, port) in [("node", None, None), ("10.0.0.1", Some("u"), Some(2222))] {
        let host = Host {
            name: name.to_owned(),
            address: None,
            user: user.map(str::to_owned),
            port,
            slots: None,
            max_slots: None,
            places: Vec::new(),
            origin: "hosts:1".to_owned(),
        };
        let config = within_bytes((1 << 20) + 256 * input.len(), || HostConfig::resolve(&host, &environment));
        assert_eq!(config, HostConfig::resolve(&host, &environment), "the same text read twice");
        assert_eq!(config.host, name);
        assert!(user.is_none_or(|user| config.user == user) && port.is_none_or(|port| config.port == port));
    }
});
