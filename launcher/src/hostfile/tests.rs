use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

#[test]
fn every_example_is_read_as_its_readme_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hostfiles");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none());
    paths.sort();
    let mut read = String::new();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("| `{name}` |")), "README.md does not list {name}");
        read.push_str(&format!("{name}\n"));
        for host in parse(name, &fs::read(&path).unwrap()).unwrap() {
            let slots = host.slots.map_or("its own".to_owned(), |slots| slots.to_string());
            let at = host.address.as_ref().map_or_else(String::new, |address| format!(" at {address}"));
            read.push_str(&format!("  {host}{at}: slots {slots}, from {}\n", host.origin));
        }
    }
    insta::assert_snapshot!("examples", read);
}

#[test]
fn faults_are_named_with_their_place_and_what_would_be_right() {
    let files = [
        "a slots=eight",
        "a\n\n  b   slots = 0",
        "a slots=4294967296",
        "a slots=-1",
        "a slots=+4",
        "a slots=",
        "a slots",
        "a slots = # four",
        "a slto=4",
        "a Frobnicate=4",
        "a slots=4 max_slots=2",
        "a max_slots=0",
        "a max_cores=4",
        "a slots=4 slots=4",
        "a:4 slots=4",
        "u@a user=v",
        "a port=0",
        "a port=65536",
        "slots=4",
        "= 4",
        "a = 4",
        "a b",
        "a, b",
        "a:x",
        "a:",
        ":4",
        "@a",
        "u@",
        "u@v@a",
        "-oProxyCommand=evil",
        "-oProxyCommand",
        "u@-a",
        "-u@a",
        "a user=-lroot",
        "a ip=-lroot",
        "a ip=10.0.0.1 alias=b",
        "a[1-2] ip=10.0.0.1",
        "a ip=10.0.0.1\nb\n  10.0.0.2 alias=a",
        "$(reboot)",
        "a;reboot",
        "10.0.0.110.0.0.2",
        "10.0.0.256",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[host]:4",
        "::g",
        "a:1:2",
        "[fe80::1%]:2",
        "n[1-",
        "n[1-x] slots=2",
        "n[3-1]",
        "n[1-99999999]",
        "^",
        "^-a",
        "a\n /* b",
        "^a\na",
        "a\0",
        "a\rb",
        "a\u{7f}",
        "b\u{fc}ro slots=4",
        "a \u{1b}[31m",
        "a\tslots=4\t\tprt=22\r",
        "\u{feff}a slots=x\r\nb",
    ];
    let mut faults = String::new();
    for file in files {
        let fault = parse("hosts", file.as_bytes()).unwrap_err();
        faults.push_str(&format!("{file:?}\n{fault}\n\n"));
    }
    insta::assert_snapshot!("faults", faults);
}

#[test]
fn a_fault_in_a_long_line_is_shown_with_what_is_around_it() {
    let file = format!("{} slots=x {}", "a".repeat(200), "b".repeat(200));
    let shown = parse("hosts", file.as_bytes()).unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("hosts:1:208: slots"), "{shown}");
    assert_eq!(lines[1].chars().nth(lines[2].find('^').unwrap()), Some('x'), "{shown}");
    assert!(lines[1].len() <= 122, "{shown}");
}

#[test]
fn file_without_hosts_is_refused() {
    for file in ["", "\n\n", "# nobody\n", "   \t "] {
        assert_eq!(parse("hosts", file.as_bytes()), Err(HostError::NoHosts { file: "hosts".to_owned() }));
    }
}

#[test]
fn comments_may_hold_any_bytes_and_a_byte_order_mark_is_skipped() {
    let hosts = parse("hosts", b"\xef\xbb\xbfa # caf\xe9 \0 \x1b\n#\xff\xfe\nb").unwrap();
    assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn repeated_bare_host_has_one_slot_per_line_and_others_add_up() {
    let hosts = parse("f", b"a\na\nb slots=4\na\nc\nb slots=2\nb").unwrap();
    assert_eq!(slots(&hosts), [("a", Some(3)), ("b", Some(7)), ("c", None)]);
    assert_eq!(hosts[0].origin, "f:1,2,4");
}

#[test]
fn one_line_gives_the_address_of_a_host_on_several() {
    for file in ["a\na ip=10.0.0.1 slots=2\na", "10.0.0.1 alias=a\na slots=2\na ip=10.0.0.1"] {
        let hosts = parse("f", file.as_bytes()).unwrap();
        assert_eq!(slots(&hosts), [("a", Some(4))], "{file}");
        assert_eq!(hosts[0].address.as_deref(), Some("10.0.0.1"), "{file}");
    }
}

#[test]
fn a_name_may_have_an_address_for_each_user_and_port() {
    let file = "a ip=10.0.0.1\nu@a ip=10.0.0.2\na port=23 ip=10.0.0.3\n^gone\ngone ip=10.0.0.4";
    let hosts = parse("f", file.as_bytes()).unwrap();
    let addresses: Vec<_> = hosts.iter().map(|host| host.address.as_deref().unwrap()).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
}

#[test]
fn slots_of_hosts_listed_on_the_command_line() {
    let listed = list(&["a:4", "b", "[::1]:2", "u@c:1", "a", " d "]).unwrap();
    assert_eq!(slots(&listed), [("a", Some(5)), ("b", None), ("::1", Some(2)), ("c", Some(1)), ("d", None)]);
    assert!(listed.iter().all(Host::is_from_host_list));
    assert_eq!(listed[3].user.as_deref(), Some("u"));
}

#[test]
fn host_list_faults_name_the_item() {
    let fault = |items: &[&str]| list(items).unwrap_err().to_string();
    assert_eq!(
        fault(&["a", "b:x"]),
        "-H, item 2 (`b:x`), column 3: slots must be a number from 1 to 65536, found `x`"
    );
    assert_eq!(fault(&["a", "", "b"]), "-H, item 2 (``), column 1: a host's name is missing here");
    assert_eq!(
        fault(&["a\nb"]),
        "-H, item 1 (`a\\nb`), column 1: `a\\nb` holds `\\n`: a host's name is letters, digits and . _ -"
    );
}

/// Found by fuzzing: what a script passes on may hold anything, and an error is printed to a terminal.
#[test]
fn errors_about_the_host_list_are_one_line_without_control_characters() {
    for item in ["a:\u{1b}[31m", "a:4\n", "a\u{7}", "u\0@a", "[\r", "[::1]\u{9b}"] {
        let text = list(&[item]).unwrap_err().to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn host_list_selects_from_the_hostfile_and_may_restate_slots() {
    let file = b"a slots=8\nroot@b slots=8\nc\n";
    let select = |items: &[&str]| hosts(Some((Path::new("hosts"), file)), &owned(items));
    let selected = select(&["c", "a:2", "b"]).unwrap();
    assert_eq!(slots(&selected), [("a", Some(2)), ("b", Some(8)), ("c", None)]);
    assert_eq!(selected[0].origin, "-H (hosts:1)");
    assert_eq!(selected[1].origin, "hosts:2");
    assert_eq!(slots(&select(&["c", "c"]).unwrap()), [("c", Some(2))]);
    assert_eq!(
        select(&["a", "d"]).unwrap_err().to_string(),
        "-H selects `d`, which hosts does not have; it has a, root@b, c"
    );
    assert!(select(&["ubuntu@b"]).is_err());
}

#[test]
fn ranges_name_every_host_and_a_caret_takes_hosts_away() {
    let hosts =
        parse("f", b"u@n[08-10]:4\nm slots=2 // C's comment\n^n09 /* and\nanother */ ^m\nx[1,3] port=7\n")
            .unwrap();
    assert_eq!(slots(&hosts), [("n08", Some(4)), ("n10", Some(4)), ("x1", None), ("x3", None)]);
    assert_eq!((hosts[0].user.as_deref(), hosts[3].port), (Some("u"), Some(7)));
    assert_eq!(slots(&list(&["n[1-3]:2", "^n2"]).unwrap()), [("n1", Some(2)), ("n3", Some(2))]);
    let file = b"n[1-4] slots=8\n";
    let select = |items: &[&str]| super::hosts(Some((Path::new("f"), file)), &owned(items));
    assert_eq!(slots(&select(&["^n[2-3]"]).unwrap()), [("n1", Some(8)), ("n4", Some(8))]);
    assert_eq!(slots(&select(&["n[1-2]", "^n1"]).unwrap()), [("n2", Some(8))]);
    assert_eq!(
        select(&["^n[1-4]"]).unwrap_err().to_string(),
        "-H takes away every host that it names: leave out a `^`"
    );
    assert!(list(&["^a"]).is_err());
}

#[test]
fn this_machine_is_the_only_host_where_none_is_named() {
    let hosts = hosts(None, &[]).unwrap();
    assert_eq!(slots(&hosts), [("localhost", None)]);
    assert_eq!(hosts[0].origin, Host::BY_DEFAULT);
}

proptest! {
    #[test]
    fn any_bytes_give_safe_hosts_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_safe(hosts(Some((Path::new("f"), &bytes)), &[]))?;
    }

    #[test]
    fn likely_bytes_give_safe_hosts_or_an_error(text in "([-a-c0-9.:=@#\\[\\]% \t\r\n]|slots|port|user|::1){0,40}") {
        check_safe(hosts(Some((Path::new("f"), text.as_bytes())), &[]))?;
        let items: Vec<String> = text.split(',').map(str::to_owned).collect();
        check_safe(hosts(None, &items))?;
        check_safe(hosts(Some((Path::new("f"), b"a\nb:2")), &items))?;
    }

    #[test]
    fn what_is_written_is_what_is_read(
        entries in prop::collection::btree_map("[a-z][a-z0-9.-]{0,20}", (prop::option::of("[a-z]{1,8}"), prop::option::of(1..=MAX_SLOTS), prop::option::of(1u16..)), 1..8),
        end in prop::sample::select(vec!["\n", "\r\n", " # note\n", "\t\n\n"]),
    ) {
        let mut file = String::new();
        for (name, (user, slots, port)) in &entries {
            let user = user.as_ref().map_or(String::new(), |user| format!("{user}@"));
            let slots = slots.map_or(String::new(), |slots| format!(" slots={slots}"));
            let port = port.map_or(String::new(), |port| format!("\tport = {port}"));
            file.push_str(&format!("{user}{name}{slots}{port}{end}"));
        }
        let read = parse("f", file.as_bytes()).unwrap();
        prop_assert_eq!(read.len(), entries.len());
        for (host, (name, (user, slots, port))) in read.iter().zip(&entries) {
            prop_assert_eq!((&host.name, &host.user, host.slots, host.port), (name, user, *slots, *port));
        }
    }
}

/// Nothing that is accepted can be taken for an option or break out of a word.
fn check_safe(result: Result<Vec<Host>, HostError>) -> Result<(), TestCaseError> {
    for host in result.unwrap_or_default() {
        for text in [Some(&host.name), host.user.as_ref()].into_iter().flatten() {
            prop_assert!(!text.is_empty() && !text.starts_with('-'), "{text:?}");
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
            prop_assert!(
                !text.contains(['\'', '"', '`', ';', '&', '|', '<', '>', '(', ')', '*', '?', '!', '='])
            );
        }
        prop_assert!(host.slots != Some(0) && host.port != Some(0));
    }
    Ok(())
}

fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Host>, HostError> {
    hosts(Some((Path::new(file), bytes)), &[])
}

fn list(items: &[&str]) -> Result<Vec<Host>, HostError> {
    hosts(None, &owned(items))
}

fn owned(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn slots(hosts: &[Host]) -> Vec<(&str, Option<u32>)> {
    hosts.iter().map(|host| (host.name.as_str(), host.slots)).collect()
}
