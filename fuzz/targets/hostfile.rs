//! A hostfile and the items of `-H`: whatever their bytes, they give hosts that SSH may be handed, or an error whose
//! place exists. Input is the hostfile; where it holds a zero byte, which no hostfile may, what follows the first one
//! is `-H`.
#![no_main]

use std::path::Path;

use efarun::hostfile::{HostError, MAX_HOSTS, MAX_SLOTS, hosts, split_list};
use efarun::job::Host;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (file, list) = match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let list = String::from_utf8_lossy(list);
    let items: Vec<String> = split_list(&list).into_iter().filter(|item| !item.is_empty()).collect();
    // Lists of hosts grow with their text, an error may name them, and ranges mean up to MAX_HOSTS more, of which a
    // list that grows holds some twice.
    let limit_bytes = 64 * 1024 + 64 * input.len() + 2048 * MAX_HOSTS;
    let read = efarun_fuzz::within_bytes(limit_bytes, || hosts(Some((Path::new("hosts"), file)), &items));
    match &read {
        Ok(hosts) => check_hosts(hosts, file),
        Err(error) => check_error(error, file, &items),
    }
    // With Windows' line ends, and with a comment at its end, a file says the same.
    let windows = String::from_utf8_lossy(file).replace("\r\n", "\n").replace('\n', "\r\n");
    if std::str::from_utf8(file).is_ok() && !file.ends_with(b"\r") {
        assert_eq!(hosts(Some((Path::new("hosts"), windows.as_bytes())), &items).is_ok(), read.is_ok());
    }
    let commented = [file, b"\n# comment \xff"].concat();
    assert_eq!(hosts(Some((Path::new("hosts"), &commented)), &items), read);
    if let Ok(listed) = hosts(None, &items) {
        listed.iter().for_each(check_host);
    }
});

fn check_hosts(found: &[Host], file: &[u8]) {
    assert!(!found.is_empty());
    found.iter().for_each(check_host);
    for (at, host) in found.iter().enumerate() {
        let door = |host: &Host| (host.user.clone(), host.name.clone(), host.port);
        let again = found[at + 1..].iter().take(8).any(|other| door(other) == door(host));
        assert!(!again, "{host} is there twice");
    }
    // Written out, it is read as the same hosts.
    let written: String = found.iter().map(line_of).collect();
    let again = hosts(Some((Path::new("hosts"), written.as_bytes())), &[]);
    let same = |a: &Host, b: &Host| (&a.user, &a.name, a.port) == (&b.user, &b.name, b.port);
    let again = again.unwrap_or_else(|error| panic!("{error} in {written:?}, from {file:?}"));
    assert!(again.len() == found.len() && again.iter().zip(found).all(|(a, b)| same(a, b)));
}

fn line_of(host: &Host) -> String {
    let user = host.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    let port = host.port.map_or_else(String::new, |port| format!(" port={port}"));
    let slots = host.slots.map_or_else(String::new, |slots| format!(" slots={}", slots.min(MAX_SLOTS)));
    format!("{user}{}{slots}{port}\n", host.name)
}

fn check_host(host: &Host) {
    let safe = |text: &str, also: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || also.contains(c);
        !text.is_empty() && text.len() <= 300 && !text.starts_with('-') && text.chars().all(fits)
    };
    assert!(safe(&host.name, ":%"), "{:?} is not to be handed to SSH", host.name);
    assert!(host.user.as_deref().is_none_or(|user| safe(user, "+\\$")), "{:?} is no user", host.user);
    assert!(host.slots != Some(0) && host.port != Some(0), "{host:?}");
}

fn check_error(error: &HostError, file: &[u8], items: &[String]) {
    let text = error.to_string();
    // A fault in a file is shown with its line and a caret.
    let is_text = |line: &str| !line.is_empty() && !line.contains(char::is_control);
    assert!(!text.is_empty() && text.split('\n').all(is_text), "{text:?} is not lines of text");
    match error {
        HostError::Line { line, column, .. } => {
            let found = file.split(|byte| *byte == b'\n').nth(*line as usize - 1);
            let found = found.unwrap_or_else(|| panic!("{text}: there is no such line"));
            // A byte order mark is no column; one past the last is where something is missing.
            let columns = 1..=found.len() + 1;
            assert!(columns.contains(&(*column as usize)), "{text}: the line is {found:?}");
        }
        HostError::Item { item, .. } => assert!((1..=items.len()).contains(item), "{text}"),
        _ => {}
    }
}
